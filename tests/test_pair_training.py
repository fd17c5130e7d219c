"""`train pair`: what it looks at and says, its tokenizer, and that the folder it writes is one that `match` reads."""
import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from differences import slope
from tinycogvlm import loading
from tinycogvlm.cli.main import main
from tinycogvlm.inputs import image
from tinycogvlm.inputs.texts import ClipTexts
from tinycogvlm.loading import default_weights
from tinycogvlm.nn.tree import Gradients, Params
from tinycogvlm.relatives import clip
from tinycogvlm.relatives.fields import Fields
from tinycogvlm.train.loop.loop import fit
from tinycogvlm.train.recipe import pair
from tinycogvlm.world.scenes import NAMES, Dice, Scene, Thing, scene


@pytest.fixture(scope="module")
def spelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spelled")
    (folder / "tokenizer.json").write_text(pair.tokenizer_json(), encoding="utf-8")
    return folder


def test_a_text_says_what_is_in_the_scene():
    def s(*names):
        return Scene("train", 0, tuple(Thing(name, (0, 0, 9, 9), (9, 0, 0)) for name in names), "sky", 112)
    said = {names: {pair.told(s(*names), Dice("said", i)) for i in range(300)}
            for names in (("dog",), ("dog", "red star", "dog"), ("cat", "dog"))}
    assert "dog" in said["dog",] and "a photo of a dog against a sky background" in said["dog",]
    assert all("two dogs and a red star" in text for text in said["dog", "red star", "dog"])
    assert said["cat", "dog"] == {before + "a cat and a dog" + ground for before in pair.BEFORE
                                  for ground in ("", " against a sky background")}


def test_no_two_pictures_of_a_part_hold_the_same_things(spelled, monkeypatch):
    monkeypatch.setattr(pair, "BATCH", 40)
    things = [tuple(sorted(thing.name for thing in s.things)) for s, _ in pair.pairs(7, 60, 1.0)]
    assert len(set(things)) == 60
    parts = pair.data(str(spelled), 10, 2, 3)
    assert [pixels.shape for pixels, *_ in parts] == [(20, 3, 112, 112)] * 2 and all(len(ids) == 20 for _, ids, _ in parts)
    s, text = pair.pairs(2 * 120, 20, 3 / 10)[4]
    assert np.array_equal(parts[0][0][4], image.pixels(s.picture, 112))
    assert parts[0][1][4].tolist()[:3] == ClipTexts(spelled, 32, 1024).batch([text])[0].tolist()[:3]


def test_the_tokenizer_is_clip_s(spelled):
    fields = json.loads((spelled / "tokenizer.json").read_text())
    vocabulary = fields["model"]["vocab"]
    assert len(vocabulary) <= pair.VOCABULARY and sorted(vocabulary.values()) == list(range(len(vocabulary)))
    texts = ClipTexts(spelled, pair.CONTEXT, len(vocabulary))
    assert (texts.start, texts.end) == ([len(vocabulary) - 2], len(vocabulary) - 1)
    lengths = Counter(len(texts.encode(name)) - len(name.split()) for name in NAMES)
    assert lengths[0] > 0.9 * len(NAMES)                    # a word is a token
    for text in ("a dog", "Zoë's 日本 🙂 <|endoftext|>"):
        pieces = [list(vocabulary)[i] for i in texts.encode(text)]
        assert texts.plain.decode(texts.encode(text)).replace("</w>", "").replace(" ", "") == text.lower().replace(" ", ""), pieces
    assert pair.tokenizer_json() == (spelled / "tokenizer.json").read_text()


def test_train_pair_writes_a_folder_that_match_reads(tmp_path, monkeypatch, capsys):
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(pair, "VISION", pair.VISION | small)
    monkeypatch.setattr(pair, "TEXT", pair.TEXT | small)
    monkeypatch.setattr(pair, "BATCH", 4)
    monkeypatch.setattr(pair, "ASKED", 2)
    monkeypatch.setattr(pair, "fit", partial(fit, ahead=0))
    out = tmp_path / "run"
    assert main(["train", "pair", "--out", str(out), "--samples", "8", "--workers", "2"]) == 0
    assert main(["train", "pair", "--out", str(out), "--resume", "--workers", "2"]) == 0
    assert main(["train", "pair", "--out", str(out)]) == 1
    capsys.readouterr()
    picture = Path(__file__).parents[1] / "lessons" / "images" / "park.png"
    assert main(["match", str(picture), "a dog", "a cat", "--weights", str(out / "weights"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["model"] == "a CLIP" and sum(answer["probabilities"][0]) == pytest.approx(1, abs=1e-5)
    monkeypatch.setattr("tinycogvlm.loading.default_weights", lambda name: {"clip-tiny": out / "weights"}[name])
    assert main(["match", str(picture), "a dog", "a cat", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answer


def test_the_loss_is_clip_s_and_the_pair_is_small():
    config = clip.hugging_face(Fields(pair.fields(pair.VOCABULARY)))
    assert 2 * sum(np.prod(shape, dtype=int) for shape in clip.shapes(config).values()) < 3e6        # bytes, in float16
    leaves = pair.start(config, 0)
    assert np.exp(leaves["logit_scale"]) == pytest.approx(1 / 0.07)
    pixels = np.stack([image.pixels(scene("train", i).picture, 112) for i in range(2)])
    ids, wanted = np.array([[1022, 5, 1023], [1022, 7, 1023]]), pair.hints(pixels)
    y, many, pull, extras = pair.loss(config, leaves, (pixels, ids, wanted))
    expected, pull_expected = clip.CLIP(config, leaves).loss(pixels, ids)
    assert many == 2 and extras["contrast"] == expected and y == expected + extras["hints"]
    found, plain = pull(), pull_expected()
    assert set(found) == set(plain) | {"hint.weight"} == set(Gradients(leaves).trained)
    same = {name for name in plain if np.array_equal(found[name], plain[name])}
    assert same == {name for name in plain if not name.startswith("vision_model") or "post" in name}


def test_hints_are_what_the_bundled_tower_says_of_patches(monkeypatch):
    """A tower that says it already is at a distance of 0, and pulls nothing; else the gradient is the distance's slope."""
    pixels = np.stack([image.pixels(scene("train", i).picture, 112) for i in range(2)])
    wanted = pair.hints(pixels)
    assert wanted.shape == (2, 64, 192) and abs(wanted.mean(-1)).max() < 1e-5 and wanted.std(-1) == pytest.approx(1, abs=1e-4)
    config = clip.hugging_face(Fields(pair.fields(pair.VOCABULARY)))
    leaves = {name: array.astype(np.float64) for name, array in pair.start(config, 0).items()}
    ids = np.array([[1022, 5, 1023], [1022, 7, 1023]])
    tokens, _ = clip.vit(pixels.astype(np.float64), Params(leaves), config)
    own = tokens[:, 1:] @ leaves["hint.weight"].T
    _, _, pull, extras = pair.loss(config, leaves, (pixels.astype(np.float64), ids, own))
    assert extras["hints"] == 0 and not pull()["hint.weight"].any()
    part = pixels.astype(np.float64), ids, wanted
    gradients = pair.loss(config, leaves, part)[2]()
    for name in ("hint.weight", "vision_model.encoder.layers.0.mlp.fc1.weight"):
        way = np.random.default_rng(1).standard_normal(leaves[name].shape)
        along = slope(lambda s: pair.loss(config, leaves | {name: leaves[name] + s * way}, part)[0], 1e-4)
        assert along == pytest.approx((gradients[name] * way).sum(), rel=1e-7)


def test_the_bundled_pair_names_things_and_is_small():
    """On the split `style`, of which nothing was trained; the card says what to expect of 200 pictures."""
    folder = default_weights("clip-tiny")
    model = loading.pair()
    assert model.folder == folder and (folder / "model.safetensors").stat().st_size < 3_000_000
    found = pair.named_right(model, "style", 60)
    assert found["plain"] > 0.6 and found["colour"] > 0.3
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{(folder / 'model.safetensors').stat().st_size:,} bytes" in card
