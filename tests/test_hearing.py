"""A CogVLM with ears: texts and pictures as before to the bit, which expert hears, gradients, folders, sounds, ask."""
import json
import wave as wavefile
from dataclasses import replace

import numpy as np
import pytest

import tinycogvlm
from tinycogvlm.cli.main import main
from tinycogvlm.errors import UserError
from tinycogvlm.inputs import prompt
from tinycogvlm.inputs.audio import Sound
from tinycogvlm.inputs.tokenizer import ByteTokenizer
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.model.parts import HEARING, part
from tinycogvlm.model.route import position_ids
from tinycogvlm.nn.tree import matches
from tinycogvlm.relatives import hearing
from tinycogvlm.world import sounds

EAR = hearing.Ear(mels=8, width=8, mlp=10, layers=1, heads=2, pooled=2, seconds=1)


@pytest.fixture
def deaf(make_config, make_leaves):
    config = make_config("cogvlm1", vocab_size=259, max_position_embeddings=128)
    return CogVLM(config, make_leaves(config), ByteTokenizer(config))


def with_ears(deaf, make_leaves, expert="sound"):
    config = replace(deaf.config, ear=replace(EAR, expert=expert))
    leaves = {name: array for name, array in make_leaves(config).items() if matches(name, HEARING)}
    return hearing.hear(deaf, config.ear, leaves)


@pytest.fixture(params=hearing.EXPERTS)
def ears(request, deaf, make_leaves):
    return with_ears(deaf, make_leaves, request.param)


def wave(samples, seed=0):
    return Sound(np.random.default_rng(seed).standard_normal(samples).astype(np.float32))


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)


def test_text_and_pictures_are_answered_as_before_to_the_bit(deaf, ears):
    for media in [], [picture()], [picture(1), picture(2)]:
        inputs = prompt.build(deaf.config, deaf.tokenizer, "What?", media)
        before = deaf.logits(inputs)
        np.testing.assert_array_equal(ears.logits(prompt.build(ears.config, ears.tokenizer, "What?", media)), before)


def test_the_bundled_model_writes_as_before_to_the_bit():
    deaf = tinycogvlm.load()
    ear = hearing.Ear()
    shapes = {name: shape for name, shape in replace(deaf.config, ear=ear).shapes().items() if matches(name, HEARING)}
    ears = hearing.hear(deaf, ear, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    inputs = deaf.inputs("What does a dog say?")
    np.testing.assert_array_equal(ears.logits(inputs), deaf.logits(inputs))


def test_the_layout_of_a_sound(ears):
    """1000 samples are 2 tokens of 640 samples each, between boi and eoi; all that is heard shares one position."""
    inputs = prompt.build(ears.config, ears.tokenizer, "A", [wave(1000), picture(), wave(640)])
    assert inputs.types[0].tolist() == [0] + [1] * 4 + [2] * 6 + [3] * 3 + [0]
    assert [kind for kind, _ in inputs.media] == ["sound", "image", "sound"]
    assert [array.shape for kind, array in inputs.media if kind == "sound"] == [(8, 8), (8, 4)]
    assert position_ids(inputs.types)[0].tolist() == [0, 1, 2, 2, 3, 4, 5, 5, 5, 5, 6, 7, 8, 9, 10]


HEARS = {"sound": {"language": [0, 4, 10, 13, 14], "vision": [5, 6, 7, 8, 9], "sound": [1, 2, 3, 11, 12]},
         "vision": {"language": [0, 4, 10, 13, 14], "vision": [1, 2, 3, 5, 6, 7, 8, 9, 11, 12]},
         "language": {"language": [0, 1, 2, 3, 4, 10, 11, 12, 13, 14], "vision": [5, 6, 7, 8, 9]}}


def test_which_expert_computes_which_token(ears):
    inputs = prompt.build(ears.config, ears.tokenizer, "A", [wave(1000), picture(), wave(640)])
    route, every = ears.route(inputs), np.arange(inputs.ids.size)
    assert {expert: every[tokens].tolist() for expert, tokens in route.experts} == HEARS[ears.config.ear.expert]
    cut = route.part(slice(3, 12))
    assert {expert: (every[:9][tokens] + 3).tolist() for expert, tokens in cut.experts} == {
        expert: [token for token in tokens if 3 <= token < 12] for expert, tokens in HEARS[ears.config.ear.expert].items()}


def test_a_batch_is_its_rows_and_decoding_goes_on_from_a_cache(ears):
    rows = [prompt.build(ears.config, ears.tokenizer, text, media) for text, media in (
        ("Who?", [wave(1300), picture()]), ("What is it?", [picture(1), wave(600, 1), wave(640, 2)]), ("No", []))]
    together = ears.logits(prompt.pad(rows, ears.config.pad_token_id))
    for row, logits in zip(rows, together):
        alone = ears.logits(row)[0]                         # at other positions, whose angles are float32
        np.testing.assert_allclose(logits[-row.ids.shape[1]:], alone, rtol=1e-6, atol=1e-6)
    [row], cache = rows[:1], ears.new_cache(1, 64)
    ears.logits(row, cache)
    token = prompt.Inputs(np.array([[70]]), np.zeros((1, 1), int), np.ones((1, 1), int))
    longer = prompt.Inputs(*(np.append(getattr(row, name), getattr(token, name), 1) for name in ("ids", "types", "mask")),
                           row.media)
    after = ears.logits(token, cache, positions=position_ids(longer.types)[:, -1:])
    np.testing.assert_allclose(after[0, 0], ears.logits(longer)[0, -1], rtol=1e-9, atol=1e-9)


def test_gradients_of_what_hears(ears):
    """Against finite differences along a random direction; nothing else is trained, and everything that hears is."""
    rows = [prompt.build(ears.config, ears.tokenizer, text, media) for text, media in (
        ("Who?", [wave(1300), picture()]), ("What", [wave(640, 2), wave(1300, 3)]))]
    inputs = prompt.pad(rows, ears.config.pad_token_id, side="right")
    labels = np.where((inputs.types == 0) & (inputs.mask != 0), inputs.ids, -100)
    frozen = [name for name in ears.parameters if not matches(name, HEARING)]
    gradients = ears.loss(inputs, labels, frozen)[1]()
    assert set(gradients) == {name for name in ears.leaves if matches(name, HEARING)}
    random, leaves = np.random.default_rng(3), ears.leaves
    way = {name: random.standard_normal(g.shape) for name, g in gradients.items()}

    def loss(step):
        moved = {name: leaves[name] + step * array for name, array in way.items()}
        return hearing.Hearing(ears.config, {**leaves, **moved}, rotary=ears.rotary).loss(inputs, labels)[0]
    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    along = sum((gradients[name] * way[name]).sum() for name in way)
    np.testing.assert_allclose(along, slope, rtol=1e-6)
    everything = ears.loss(inputs, labels)[1]()
    for name in gradients:
        np.testing.assert_allclose(everything[name], gradients[name], rtol=1e-12, atol=1e-12)
    assert np.abs(everything["model.vision.linear_proj.linear_proj.weight"]).max() > 0


def test_every_parameter_that_hears_has_its_part(ears):
    hears = {part(name) for name in ears.parameters if matches(name, HEARING)}
    assert hears == ({"ears", "sound experts"} if ears.config.ear.expert == "sound" else {"ears"})
    assert not hears & {part(name) for name in ears.parameters if not matches(name, HEARING)}


def test_a_folder_of_ears(ears, deaf, tmp_path):
    hearing.save(tmp_path / "ears", ears)
    again = hearing.load(tmp_path / "ears", deaf)
    assert again.config == ears.config and set(again.leaves) == set(ears.leaves)
    for name, array in again.leaves.items():
        stored = array.astype(np.float16) if matches(name, HEARING) else array
        np.testing.assert_array_equal(stored, ears.leaves[name].astype(stored.dtype))


@pytest.mark.parametrize("settings, says", [
    ({"mels": "8"}, "mels"), ({"expert": "nose"}, "nose"), ({"pooled": 0}, "pooled"), ({"taste": 1}, "taste"),
    ({"width": 16}, "shape")])
def test_ears_that_do_not_fit(settings, says, deaf, make_leaves, tmp_path):
    hearing.save(tmp_path, with_ears(deaf, make_leaves))
    path = tmp_path / "ears.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings), encoding="utf-8")
    with pytest.raises(UserError, match=says):
        hearing.load(tmp_path, deaf)


def test_what_cannot_be_heard(deaf, ears, tmp_path):
    with pytest.raises(UserError, match="hears nothing"):
        prompt.build(deaf.config, deaf.tokenizer, "A", [wave(640)])
    with pytest.raises(UserError, match="1.0 seconds; these ears hear 1 at most"):
        prompt.build(ears.config, ears.tokenizer, "A", [wave(16001)])
    with pytest.raises(UserError, match="ears.json"):
        hearing.load(tmp_path, deaf)
    with pytest.raises(UserError, match="without kernels"):
        hearing.hear(ears, EAR, {})
    inputs = prompt.build(ears.config, ears.tokenizer, "A", [wave(640)])
    with pytest.raises(UserError, match="6 tokens, but the text has room for 3"):
        ears.logits(prompt.Inputs(inputs.ids, inputs.types, inputs.mask, inputs.media * 2))


def test_ask_hears(tmp_path, capsys):
    """From the command line, with the bundled model: an answer, and options that belong together"""
    deaf, ear = tinycogvlm.load(), hearing.Ear(expert="language")
    shapes = {name: shape for name, shape in replace(deaf.config, ear=ear).shapes().items() if matches(name, HEARING)}
    hearing.save(tmp_path / "ears", hearing.hear(deaf, ear, {
        name: np.ones(shape, np.float32) for name, shape in shapes.items()}))
    with wavefile.open(str(tmp_path / "dog.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((32767 * sounds.heard(["dog"], np.random.default_rng(0)).clip(-1, 1)).astype("<i2").tobytes())
    sound, asked = ["--sound", str(tmp_path / "dog.wav")], ["ask", "-", "What do you hear?", "--max-new-tokens", "2"]
    assert main([*asked, *sound, "--ears", str(tmp_path / "ears"), "--json"]) == 0
    alone = len(deaf.inputs("What do you hear?", template="chat").ids[0])
    assert json.loads(capsys.readouterr().out)["tokens_in"] == alone + 12 + 2
    assert main([*asked, *sound]) == 2 and "--sound goes with --ears" in capsys.readouterr().err
    assert main([*asked, "--ears", str(tmp_path)]) == 2 and "--ears goes with --sound" in capsys.readouterr().err
