"""Parts that are switched off add nothing, and everything else is as it was."""
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import random_inputs
from test_engine import models

from tinycogvlm.cli import main
from tinycogvlm.errors import UserError
from tinycogvlm.kernels.runner import build
from tinycogvlm.model import generate
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.model.look import look
from tinycogvlm.model.parts import twin
from tinycogvlm.model.without import read, without

LAYOUT = (1, "image", 3)                    # bos, boi, patches, eoi, three words


@pytest.fixture
def model(make_model, family):
    return make_model(family)


@pytest.fixture
def inputs(model, make_inputs):
    return make_inputs(model.config, LAYOUT)


def logits(model, inputs, *parts):
    with without(*parts):
        return model.logits(inputs)


def changed(model, change):
    """The model with other weights: {name: function of the array}"""
    return CogVLM(model.config, {name: change(name, array) for name, array in model.leaves.items()}, rotary=model.rotary)


def test_a_layer_off_is_a_layer_whose_outputs_are_zero(model, inputs):
    def change(name, array):
        return array * 0 if name.startswith("model.layers.1.") and ("dense.weight" in name or "down_proj" in name) else array
    expected = changed(model, change).logits(inputs)
    assert np.array_equal(logits(model, inputs, "layer:1"), expected)
    assert np.abs(expected - model.logits(inputs)).max() > 1e-3


def test_a_head_off_is_a_head_that_is_not_read(model, inputs):
    d = model.config.head_size

    def change(name, array):
        if name.startswith("model.layers.0.") and name.endswith("dense.weight"):
            array = array.copy()
            array[:, 2 * d:3 * d] = 0
        return array
    assert np.abs(logits(model, inputs, "head:0.2") - changed(model, change).logits(inputs)).max() < 1e-12


@pytest.mark.parametrize("off", ["vision", "language"])
def test_an_expert_off_is_the_other_one_in_its_place(make_model, make_inputs, off):
    """CogVLM v1, whose experts have the same tensors"""
    model = make_model()
    inputs = make_inputs(model.config, LAYOUT)
    swap = {name: model.leaves[twin(name)] for name in model.leaves if twin(name) != name}
    if off == "language":
        swap = {twin(name): model.leaves[name] for name in swap}
    assert np.array_equal(logits(model, inputs, f"expert:{off}"), changed(model, lambda name, array: swap.get(name, array)).logits(inputs))


@pytest.mark.parametrize("part", ["layer:0", "head:1.0", "expert:vision", "expert:language"])
def test_only_at_some_tokens(model, inputs, part):
    """What stands before is bit for bit as it was; all tokens together are the part itself."""
    whole, last = model.logits(inputs), inputs.ids.shape[1] - 1
    at = last - 1 if part == "expert:language" else 3
    some = logits(model, inputs, f"{part}@{at}")
    assert np.abs(some[:, :at] - whole[:, :at]).max() < 1e-12
    assert np.abs(some[:, at] - whole[:, at]).max() > 1e-6
    assert np.abs(logits(model, inputs, f"{part}@0-{last}") - logits(model, inputs, part)).max() < 1e-12
    assert np.array_equal(logits(model, inputs, f"{part}@{last + 1}"), whole)


@pytest.mark.parametrize("parts", [("layer:0@4-8",), ("head:1.0@9-30", "expert:vision"), ("expert:language@7", "layer:1@9")])
def test_a_cache_changes_nothing(model, inputs, parts, monkeypatch):
    """Tokens are counted on after a cache, and in a prompt that goes through a block in parts."""
    with without(*parts):
        answer = [int(token) for [token] in generate.generate(model, inputs, 4, generate.Sampling(temperature=1.0, seed=1))]
        monkeypatch.setattr(type(model.config), "tokens_at_once", 3)
        cache = model.new_cache(1, 40)
        seen = [model.logits(inputs, cache, last=True)[0, -1]]
        position = generate.position_ids(inputs.types)[:, -1:]
        for token in answer[:-1]:
            position = position + 1
            seen.append(model.logits(generate.next_token([token]), cache, positions=position)[0, -1])
        assert np.abs(look(model, inputs, answer, 0).choices - seen).max() < 1e-12


def test_looking_inside_sees_it(model, inputs):
    with without("layer:1", "expert:vision@3-4"):
        found = look(model, inputs, [5, 6], 1)
    assert np.abs(found.lens[0] - found.lens[1]).max() == 0
    assert found.vision.nonzero()[0].tolist() == [2, 5, 6]


def test_it_ends_with_the_with_and_nests(model, inputs):
    whole = model.logits(inputs)
    with without("layer:0"), without("layer:1"):
        both = model.logits(inputs)
    assert np.array_equal(both, logits(model, inputs, "layer:0", "layer:1"))
    assert np.array_equal(model.logits(inputs), whole) and np.array_equal(logits(model, inputs), whole)


@pytest.mark.slow
@pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))
def test_the_kernels_switch_the_same_off():
    """The same tokens, though an Engine's launches and the ops that it swaps in know nothing of parts"""
    model, engine = models("cogvlm1")
    inputs, said = random_inputs(model.config, LAYOUT), set()
    for parts in ((), ("layer:1",), ("head:0.1@2-30",), ("expert:vision@3-30",)):
        with without(*parts):
            expected = np.array(list(generate.generate(model, inputs, 5)))
            assert np.array_equal(list(generate.generate(engine, inputs, 5)), expected), parts
        said.add(expected.tobytes())
    assert len(said) > 1


@pytest.mark.parametrize("part, said", [
    ("layer:9", "no layer 9 to switch off; they are 0 to 1"), ("head:0.9", "no head 9"), ("head:9.0", "no layer 9"),
    ("expert:both", "is no part to switch off; write layer:2"), ("layer:1@5-3", "the first token comes after the last"),
    ("layer:", "is no part"), ("layer:1@", "is no part"), ("layer:１", "is no part")])
def test_what_cannot_be_switched_off(make_model, make_inputs, part, said):
    model = make_model()
    with pytest.raises(UserError, match=said):
        logits(model, make_inputs(model.config, LAYOUT), part)


def test_one_expert_stays_on():
    config = SimpleNamespace(num_hidden_layers=2, num_attention_heads=2, experts=("language",))
    with pytest.raises(UserError, match="has one expert"):
        read("expert:vision").check(config)


def test_the_command(capsys, toy, picture):
    """The toy's layers add nothing, so that its answer stays; what was switched off is said."""
    code = main.main(["look", "--weights", str(toy), str(picture), "What?", "--without", "layer:0", "--without", "head:0.1@3"])
    said = capsys.readouterr().out.splitlines()
    assert code == 0 and said[1] == "without layer:0, head:0.1@3" and "tokens by the vision expert (1-5), " in said[2]
    assert main.main(["look", "--weights", str(toy), str(picture), "What?", "--without", "layer:3"]) == 1
    assert "no layer 3 to switch off" in capsys.readouterr().err
