"""CLIP, SigLIP and EVA-CLIP by the Hugging Face folders of real checkpoints: names, pictures, texts, `load` and `info`.

No real checkpoint was at hand; small ones are laid out here as theirs are.
"""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import tinycogvlm
from tinycogvlm.cli import match
from tinycogvlm.cli.main import main
from tinycogvlm.errors import UserError
from tinycogvlm.inputs import image
from tinycogvlm.relatives import registry, siglip
from tinycogvlm.relatives.clip import CLIP
from tinycogvlm.relatives.eva02 import EvaEye
from tinycogvlm.relatives.fields import Fields
from tinycogvlm.relatives.siglip import SigLIP

GOLDEN = Path(__file__).parent / "golden"
REAL = json.loads((GOLDEN / "real_shapes_relatives.json").read_text(encoding="utf-8"))
# config.json of the real folders, as far as it is not the library's default
CONFIGS = {"openai/clip-vit-base-patch32": {
               "model_type": "clip", "projection_dim": 512, "text_config": {"eos_token_id": 2}},
           "google/siglip-base-patch16-224": {"model_type": "siglip", "text_config": {}, "vision_config": {}},
           "timm/eva02_base_patch16_clip_224.merged2b": {
               "architecture": "eva02_base_patch16_clip_224", "num_classes": 512}}
MILLIONS = {"openai/clip-vit-base-patch32": 151.3, "google/siglip-base-patch16-224": 203.2,
            "timm/eva02_base_patch16_clip_224.merged2b": 86.3}


@pytest.mark.parametrize("name", REAL)
def test_every_name_and_shape_of_the_smallest_real_one(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
    kind, fields = registry.checkpoint_in(tmp_path)
    shapes = kind.shapes(kind.config(fields))
    assert {key: list(shape) for key, shape in shapes.items()} == REAL[name]
    assert sum(np.prod(shape, dtype=int) for shape in shapes.values()) / 1e6 == pytest.approx(MILLIONS[name], abs=0.05)


@pytest.fixture
def folder(tmp_path):
    """A function that lays out a small checkpoint: config.json, tokenizer and random weights"""
    def of(config, name, extra=()):
        where = tmp_path / name
        where.mkdir()
        (where / "config.json").write_text(json.dumps(config), encoding="utf-8")
        shutil.copy(GOLDEN / "auxiliary" / "clip_tokenizer.json", where / "tokenizer.json")
        shutil.copy(GOLDEN / "auxiliary" / "sp_unigram.model", where / "spiece.model")
        kind, fields = registry.checkpoint_in(where)
        random = np.random.default_rng(1)
        weights = {key: np.asarray(random.standard_normal(shape) / max(1, np.prod(shape[1:])) ** 0.5, np.float32)
                   for key, shape in kind.shapes(kind.config(fields)).items()}
        save_file(weights | dict(extra), where / "model.safetensors")
        return where
    return of


TOWER = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL_CLIP = {"model_type": "clip", "projection_dim": 6, "vision_config": {**TOWER, "patch_size": 4, "image_size": 12},
              "text_config": {**TOWER, "vocab_size": 1114, "max_position_embeddings": 9, "eos_token_id": 2}}
SMALL_SIGLIP = {"model_type": "siglip", "vision_config": {**TOWER, "patch_size": 4, "image_size": 12},
                "text_config": {**TOWER, "vocab_size": 300, "max_position_embeddings": 9}}
PICTURES = [np.random.default_rng(i).integers(0, 256, (10 + 7 * i, 20, 3), np.uint8) for i in range(3)]
TEXTS = ["a photo of a cat", "two dogs"]
POSITION_IDS = {"text_model.embeddings.position_ids": np.arange(9)[None],
                "vision_model.embeddings.position_ids": np.arange(10)[None]}


def test_clip_answers_by_its_folder(folder):
    model = tinycogvlm.load(folder(SMALL_CLIP, "clip", POSITION_IDS))
    assert isinstance(model, CLIP) and model.tokenizer.context == 9
    probable = model.match(PICTURES, TEXTS)
    assert probable.shape == (3, 2) and np.abs(probable.sum(1) - 1).max() < 1e-6
    cosines = model.image_features(PICTURES) @ model.text_features(TEXTS).T
    scores = np.exp(cosines * np.exp(model.leaves["logit_scale"]))
    np.testing.assert_allclose(probable, scores / scores.sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(model.match(PICTURES, TEXTS[1:] + TEXTS[:1]), probable[:, ::-1], rtol=1e-4)


def test_siglip_answers_by_its_folder(folder):
    """Each text by itself: another text beside it changes nothing."""
    model = tinycogvlm.load(folder(SMALL_SIGLIP, "siglip"), dtype="float64")
    assert isinstance(model, SigLIP) and model.ids(TEXTS).shape == (2, 9)
    probable = model.match(PICTURES, TEXTS)
    alone = np.concatenate([model.match(PICTURES, [text]) for text in TEXTS], 1)
    np.testing.assert_allclose(probable, alone, rtol=1e-12)


def test_eva_sees_by_its_folder(folder, monkeypatch):
    from tinycogvlm.relatives import eva02
    monkeypatch.setitem(eva02.ARCHITECTURES, "eva02_small", dict(
        img_size=12, patch_size=4, embed_dim=8, depth=1, num_heads=2, **eva02.CLIP_02))
    model = tinycogvlm.load(folder({"architecture": "eva02_small", "num_classes": 5}, "eva"))
    assert isinstance(model, EvaEye)
    features = model.image_features(PICTURES)
    assert features.shape == (3, 5) and np.abs((features ** 2).sum(1) - 1).max() < 1e-6


@pytest.mark.parametrize("config", [SMALL_CLIP, SMALL_SIGLIP], ids=lambda config: config["model_type"])
def test_the_loss_has_gradients_by_name(folder, config):
    model = tinycogvlm.load(folder(config, "pair"), dtype="float64")
    pixels, ids = model.pixels(PICTURES[:2]), model.ids(TEXTS)
    loss, pull = model.loss(pixels, ids, frozen=["vision_model.*"])
    gradients = pull()
    assert list(gradients) and set(gradients) == {name for name in model.parameters if not name.startswith("vision_")}
    step = 1e-6
    for name in ("logit_scale", "text_model.final_layer_norm.weight"):
        along = np.ones_like(model.leaves[name])
        losses = [type(model)(model.config, {**model.leaves, name: model.leaves[name] + s * along}).loss(pixels, ids)[0]
                  for s in (step, -step)]
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(gradients[name].sum(), rel=1e-6, abs=1e-9)


def test_what_load_says(folder):
    where = folder(SMALL_CLIP, "clip")
    for option in ({"kernels": True}, {"image_size": 14}, {"stream": True}):
        said = f"holds a CLIP, which takes device and dtype, but not {next(iter(option))}"
        with pytest.raises(UserError, match=said):
            tinycogvlm.load(where, **option)
    model = tinycogvlm.load(where)
    for pictures, texts, said in ((PICTURES, "a cat", "texts is one text"), (PICTURES, [], "there are no texts"),
                                  (PICTURES, [3], "a text is 3, not a string"), ("a.png", TEXTS, "pictures is one path"),
                                  (PICTURES, ["a\udcff"], "the text has half a character"),
                                  ([], TEXTS, "there are no pictures")):
        with pytest.raises(UserError, match=said):
            model.match(pictures, texts)
    with pytest.raises(UserError, match="pictures is one path"):
        model.image_features(where / "a.png")
    (where / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json: cannot be read"):
        tinycogvlm.load(where).text_features(TEXTS)
    with pytest.raises(UserError, match="made without a folder"):
        CLIP(model.config, model.leaves).text_features(TEXTS)
    weights = load_file(where / "model.safetensors")
    save_file({name: array for name, array in weights.items() if name != "logit_scale"}, where / "model.safetensors")
    with pytest.raises(UserError, match="tensor 'logit_scale' is missing"):
        tinycogvlm.load(where)


def test_commands_that_ask_say_what_it_is(folder, capsys):
    where = str(folder(SMALL_CLIP, "clip"))
    assert main(["ask", "-", "What?", "--weights", where]) == 1
    assert "holds a CLIP; only a CogVLM answers questions" in capsys.readouterr().err


@pytest.fixture
def files(tmp_path):
    """Paths of PICTURES"""
    for i, array in enumerate(PICTURES):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(len(PICTURES))]


@pytest.mark.parametrize("config", [SMALL_CLIP, SMALL_SIGLIP], ids=lambda config: config["model_type"])
def test_match(folder, files, capsys, config):
    where = folder(config, "pair")
    assert main(["match", *files, *TEXTS, "--weights", str(where), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    expected = tinycogvlm.load(where).match(PICTURES, TEXTS)
    np.testing.assert_allclose(report.pop("probabilities"), expected, rtol=1e-6)
    assert report == {"model": f"a {'CLIP' if config is SMALL_CLIP else 'SigLIP'}", "images": files, "texts": TEXTS}
    assert main(["match", "--weights", str(where), *files[:2], *TEXTS]) == 0
    head, *rows, empty, one, two, _, meaning = capsys.readouterr().out.splitlines()
    assert (head.split(), empty, one, two) == (["1", "2"], "", f"  1  {TEXTS[0]}", f"  2  {TEXTS[1]}")
    assert rows == [f"{path}{a:8.3f}{b:8.3f}" for path, (a, b) in zip(files, expected[:2])]
    assert ("each row adds up to 1" in meaning) == (config is SMALL_CLIP)


def test_a_text_that_is_cut_is_named(folder, files, capsys):
    """As long as the context: nothing is said; a token longer, and it is, though the probabilities come all the same."""
    where = folder(SMALL_CLIP, "clip")
    tokenizer = tinycogvlm.load(where).tokenizer
    most = next(n for n in range(1, 500) if tokenizer.cut("a " * n)) - 1
    assert len(tokenizer.encode("a " * most)) <= tokenizer.room < len(tokenizer.encode("a " * (most + 1)))
    for times, said in ((most, 0), (most + 1, 1)):
        assert main(["match", files[0], "a " * times, "b", "--weights", str(where), "--json"]) == 0
        found = capsys.readouterr()
        assert len(json.loads(found.out)["probabilities"][0]) == 2
        assert found.err.count(f"only the first {tokenizer.context} tokens are read of 'a a") == said


def test_a_pair_sees_one_picture_at_a_time(folder):
    """The same as all in one batch, which image_features and text_features compute."""
    model = tinycogvlm.load(folder(SMALL_CLIP, "clip"), dtype="float64")
    at_once = model.probability(model.image_features(PICTURES) @ model.text_features(TEXTS).T)
    np.testing.assert_allclose(model.match(iter(PICTURES), TEXTS), at_once, rtol=1e-12)


def test_what_match_says(folder, files, capsys, tmp_path):
    where = str(folder(SMALL_CLIP, "clip"))

    def said(*words, weights=where, code=2):
        assert main(["match", *words, "--weights", weights]) == code
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        return captured.err
    assert "'a cat' is no file; pictures come first, then texts" in said("a cat", files[0])
    assert "all 2 words are files; after the pictures come texts" in said(*files[:2])
    assert "it has no words" in said(files[0], " ")
    assert match.split([files[0], "a cat " * 100]) == ([files[0]], ["a cat " * 100])        # no path can be so long
    assert "required: TEXT" in said(files[0])
    assert "nowhere.png: no such file" in said("nowhere.png", "a cat", code=1)
    (tmp_path / "words").write_text("words", encoding="utf-8")
    assert "words: not a picture" in said(str(tmp_path / "words"), "a cat", code=1)
    bundled = str(Path(__file__).parents[1] / "weights" / "tiny")
    for weights, sentence in ((bundled, "texts are compared by a CLIP or a SigLIP, and this holds neither"),
                              (str(tmp_path / "nowhere"), "no such folder")):
        assert sentence in said(files[0], "a cat", weights=weights, code=1)


def test_info(folder, capsys, tmp_path):
    where = folder(SMALL_CLIP, "clip", POSITION_IDS)
    assert main(["info", str(where)]) == 0
    table = capsys.readouterr().out
    assert f"{where}: a CLIP" in table and "text.transformer.width" in table and "1 file(s), F32, I64" in table
    assert main(["info", str(where), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parameters"]["total"] == sum(
        np.prod(array.shape, dtype=int) for name, array in load_file(where / "model.safetensors").items()
        if not name.endswith("position_ids"))
    assert report["geometry"]["vision.patch"] == 4 and report["geometry"]["text.end"] is None
    name = "google/siglip-base-patch16-224"
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
    assert main(["info", str(tmp_path)]) == 0
    assert "no weights in this folder" in (table := capsys.readouterr().out) and "203,155,970" in table


# ----------------------------------------------------------------------------------------------------------- pictures

def test_clip_s_picture_is_the_middle():
    """A picture of three stripes, the outer ones as wide as what is cut off, in both directions."""
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    for array in (wide, wide.transpose(1, 0, 2)):
        picture = image.cropped(Image.fromarray(array), 10)
        assert picture.size == (10, 10) and np.asarray(picture).min() == 255


@pytest.mark.parametrize("width, height, size", [(31, 20, 20), (20, 33, 10), (224, 301, 224), (7, 5, 13)])
def test_clip_s_picture_is_torchvision_s(width, height, size):
    """Resize of the shorter side, its longer rounded down; CenterCrop, whose corner is rounded half to even."""
    array = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    shorter = min(width, height)
    resized = (int(size * width / shorter), int(size * height / shorter))
    left, top = int(round((resized[0] - size) / 2.0)), int(round((resized[1] - size) / 2.0))
    across = Image.fromarray(array).resize((resized[0], height), Image.Resampling.BICUBIC)
    expected = across.resize(resized, Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    np.testing.assert_array_equal(np.asarray(image.cropped(Image.fromarray(array), size)), np.asarray(expected))


def test_siglip_s_picture_is_squeezed_to_numbers_from_minus_1_to_1():
    model = SigLIP(siglip.hugging_face(Fields({"vision_config": {"image_size": 6, "patch_size": 3}})), {})
    picture = Image.fromarray(np.full((4, 9, 3), (0, 255, 51), np.uint8))
    pixels = model.picture(picture)
    assert pixels.shape == (3, 6, 6) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[:, 3, 3], [-1, 1, -0.6], atol=1e-6)
