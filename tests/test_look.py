"""Looking inside: the weights, logits and experts that are shown are those that chose the token."""
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tinycogvlm.cli import main
from tinycogvlm.errors import UserError
from tinycogvlm.inputs import heat
from tinycogvlm.model import generate
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.model.look import Look, likeliest, look
from tinycogvlm.model.route import vision_expert_mask
from tinycogvlm.nn.trace import recording

ROWS = {"a picture": (1, "image", 3), "two pictures": ("image", 2, "image", 1), "text": (4,)}


@pytest.fixture(params=ROWS)
def asked(make_model, make_inputs, family, request):
    """(model, prompt, answer of 5 tokens)"""
    model = make_model(family)
    inputs = make_inputs(model.config, ROWS[request.param])
    sampling = generate.Sampling(temperature=1.0, seed=3)
    answer = [int(token) for [token] in generate.generate(model, inputs, 5, sampling)]
    return model, inputs, answer


def test_the_logits_are_those_that_chose_the_token(asked):
    model, inputs, answer = asked
    cache = model.new_cache(1, inputs.ids.shape[1] + len(answer))
    positions = generate.position_ids(inputs.types)
    logits = model.logits(inputs, cache, last=True, positions=positions)
    for i, token in enumerate(answer):
        found = look(model, inputs, answer, i)
        assert np.abs(found.lens[-1] - logits[0, -1]).max() < 1e-12
        assert np.abs(found.choices[i] - logits[0, -1]).max() < 1e-12 and len(found.choices) == len(answer)
        positions = positions[:, -1:] + 1
        logits = model.logits(generate.next_token([token]), cache, positions=positions)


def test_the_weights_give_what_attention_gave(asked):
    """Their sums of the values, head by head, are the context that was recorded; the experts are Route's."""
    model, inputs, answer = asked
    found, config = look(model, inputs, answer[:1], 0), model.config
    with recording() as records:
        model.logits(inputs)
    shared = config.num_attention_heads // config.num_key_value_heads
    for i, weights in enumerate(found.attention):
        values = records[f"lm/layer{i}/v"][0].repeat(shared, 0)                 # (H, S, d)
        context = np.einsum("hs,hsd->hd", weights, values).reshape(-1)
        assert np.abs(context - records[f"lm/layer{i}/attn_ctx"][0, -1]).max() < 1e-12
    assert np.abs(found.attention.sum(-1) - 1).max() < 1e-12
    assert np.array_equal(found.types, inputs.types[0])
    assert np.array_equal(found.vision, vision_expert_mask(inputs.types)[0])


def test_the_lens_is_the_model_without_the_layers_above(asked):
    model, inputs, answer = asked
    found = look(model, inputs, answer[:1], 0)
    for layers in range(1, model.config.num_hidden_layers + 1):
        shorter = CogVLM(replace(model.config, num_hidden_layers=layers), model.leaves, rotary=model.rotary)
        assert np.abs(found.lens[layers - 1] - shorter.logits(inputs, last=True)[0, 0]).max() < 1e-12


def test_heat_lies_on_the_patches():
    """Of a 2 x 2 grid after bos: boi, four patches, eoi, text; two layers of two heads"""
    attention = np.arange(2 * 2 * 9).reshape(2, 2, 9) / 100
    found = Look(np.array([0, 1, 1, 1, 1, 1, 1, 0, 0]), np.zeros(9, bool), attention, np.zeros((2, 3)), np.zeros((1, 3)))
    assert np.array_equal(found.heat(layer=1, head=0), np.array([[20, 21], [22, 23]]) / 100)
    assert np.allclose(found.heat(layer=1), np.array([[24.5, 25.5], [26.5, 27.5]]) / 100)
    assert np.allclose(found.heat(), np.array([[15.5, 16.5], [17.5, 18.5]]) / 100)
    for wrong, said in ({"picture": 2}, "no picture 2"), ({"layer": 2}, "no layer 2; they are 0 to 1"), ({"head": 2}, "no head 2"):
        with pytest.raises(UserError, match=said):
            found.heat(**wrong)


def test_heat_is_drawn_where_it_lies():
    """The hottest patch, second row, first column, is red, the cold ones darkened; small pictures are enlarged."""
    drawn = heat.draw(Image.new("RGB", (400, 200), (100, 150, 200)), np.array([[0, 0], [0.2, 0]]))
    assert drawn.size == (400, 200)
    assert drawn.getpixel((100, 150)) == (224, 68, 40) and drawn.getpixel((300, 150)) == (60, 90, 120)
    assert drawn.getpixel((199, 101)) == (224, 68, 40) and drawn.getpixel((200, 100)) == drawn.getpixel((0, 0)) == (60, 90, 120)
    assert heat.draw(Image.new("RGB", (100, 50)), np.zeros((3, 3))).size == (400, 200)


def test_likeliest():
    assert likeliest(np.log(np.array([1, 5, 2, 2], np.float32)), 3) == [
        (1, pytest.approx(0.5)), (2, pytest.approx(0.2)), (3, pytest.approx(0.2))]


@pytest.fixture
def run(capsys, toy):
    def run(*arguments):
        code = main.main(["look", "--weights", str(toy), *map(str, arguments)])
        return code, *capsys.readouterr()
    return run


def test_the_command(run, picture, tmp_path):
    out = tmp_path / "heat.png"
    code, said, err = run(picture, "What?", "--token", 1, "--out", out)
    lines = said.splitlines()
    assert code == 0 and Image.open(out).size == (400, 200)
    assert lines[0] == "0:' A red star' 1:' [[100,200,300,400]].' 2:'</s>'"
    assert lines[1].startswith("before token 1: 5 tokens by the vision expert (1-5), ")
    assert lines[2].startswith("probabilities: ' [[100,200,300,400]].' ") and len(lines) == 4
    assert "where the model looked before ' [[100,200,300,400]].'" in err
    report = json.loads(run(picture, "What?", "--json", "--layer", 0, "--head", 3)[1])
    assert report["answer"][0] == report["runners_up"][0][0] == report["layers"][0]["says"][0][0] == " A red star"
    assert np.shape(report["heat"]) == (2, 2) and len(report["runners_up"]) == 4
    assert json.loads(run("-", "What?", "--json")[1])["heat"] is None


@pytest.mark.parametrize("options, code, said", [
    (("--token", 3), 1, "no token 3; the answer has 3, from 0"), (("--layer", 1), 1, "no layer 1; they are 0 to 0"),
    (("--head", 4), 1, "no head 4"), (("--out", "x.none"), 1, "no picture format has the ending")])
def test_what_is_not_there(run, picture, options, code, said):
    found, _, err = run(picture, "What?", *options)
    assert found == code and said in err and "Traceback" not in err


def test_heat_needs_a_picture(run):
    assert run("-", "What?", "--layer", 0)[0] == 2
