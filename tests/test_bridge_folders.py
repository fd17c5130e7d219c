"""load and info of LLaVA, BLIP-2 and IDEFICS: every name and shape of the smallest real ones, and small folders."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_relatives import check_real_names, lay_out

import tinycogvlm
from tinycogvlm.cli.main import main
from tinycogvlm.errors import UserError
from tinycogvlm.inputs import image
from tinycogvlm.relatives import eva02, flamingo, llava, qformer
from tinycogvlm.relatives.fields import Fields

REAL = json.loads((Path(__file__).parent / "golden" / "real_shapes_bridges.json").read_text(encoding="utf-8"))
# config.json of the real folders, as far as it is not the library's default
CONFIGS = {
    "llava-hf/llava-1.5-7b-hf": {
        "model_type": "llava", "image_token_index": 32000, "vision_feature_layer": -2,
        "text_config": {"model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 32064},
        "vision_config": {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "num_attention_heads": 16,
                          "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768}},
    "Salesforce/blip2-opt-2.7b": {"model_type": "blip-2", "num_query_tokens": 32, "qformer_config": {},
                                  "vision_config": {}, "text_config": {"model_type": "opt", "hidden_size": 2560}},
    "HuggingFaceM4/idefics-9b": {
        "model_type": "idefics", "cross_layer_interval": 4, "qk_layer_norms": True, "use_resampler": True,
        "perceiver_config": {"qk_layer_norms_perceiver": True}, "vision_config": {"embed_dim": 1280}},
}


@pytest.mark.parametrize("name", REAL)
def test_every_name_and_shape_of_the_smallest_real_one(name, tmp_path, capsys):
    check_real_names(tmp_path, CONFIGS[name], REAL[name], capsys)


SMALL = {
    "llava": {"model_type": "llava", "image_token_index": 9, "vision_config": {
        "hidden_size": 4, "intermediate_size": 5, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 3,
        "image_size": 6}, "text_config": {"hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1,
                                          "num_attention_heads": 2, "vocab_size": 10}},
    "blip-2": {"model_type": "blip-2", "num_query_tokens": 3, "text_config": {"model_type": "t5", "d_model": 7},
               "qformer_config": {"hidden_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2,
                                  "intermediate_size": 7, "encoder_hidden_size": 4}, "vision_config": {
        "hidden_size": 4, "intermediate_size": 5, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 3,
        "image_size": 6}},
    "idefics": {"model_type": "idefics", "hidden_size": 6, "num_attention_heads": 2, "intermediate_size": 7,
                "num_hidden_layers": 5, "cross_layer_interval": 2, "use_resampler": True,
                "vision_config": {"embed_dim": 4}, "perceiver_config": {
                    "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 3, "resampler_n_latents": 2}},
}


@pytest.fixture
def folder(tmp_path):
    """A function that lays out a small checkpoint of one of SMALL: config.json, random weights, and `extra` tensors"""
    return lambda name, *extra: lay_out(tmp_path, SMALL[name], *extra)


def test_llava_reads_pictures_by_its_folder(folder):
    model = tinycogvlm.load(folder("llava", "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"))
    assert isinstance(model, llava.LLaVA)
    pictures = [np.random.default_rng(i).integers(0, 256, (10, 20 + i, 3), np.uint8) for i in range(2)]
    assert model.image_features(pictures).shape == (2, 4, 8)
    ids = llava.with_room(np.array([[1, 9, 2], [9, 3, 4]]), model.config)
    logits = model.logits(ids, model.pixels(pictures))
    assert logits.shape == (2, 6, 10) and logits.dtype == np.float32
    assert model.answer(ids[:1], model.pixels(pictures[:1]), limit=1) == [logits[0, -1].argmax()]
    alone = model.logits(ids[1:], model.pixels(pictures[1:]))
    np.testing.assert_allclose(logits[1:], alone, atol=1e-5)


def test_llava_is_asked_in_words(tmp_path):
    """LLaVA-1.5's prompt: SentencePiece encodes what stands before the picture and what stands after it, each by itself."""
    package = pytest.importorskip("sentencepiece")
    config = SMALL["llava"] | {"image_token_index": 1000}
    lay_out(tmp_path, config | {"text_config": config["text_config"] | {"vocab_size": 1064}})
    file = shutil.copy(Path(__file__).parent / "golden" / "auxiliary" / "sp_bpe.model", tmp_path / "tokenizer.model")
    model, pieces = tinycogvlm.load(tmp_path), package.SentencePieceProcessor(str(file))
    before = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
              "detailed, and polite answers to the user's questions. USER: ")
    after = "\nWhat does </s> mean? ASSISTANT:"
    ids = model.prompt("What does </s> mean?")
    assert ids.tolist() == [[1, *pieces.encode(before), *[1000] * 4, *pieces.encode(after)]]
    picture = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)
    said = model.answer(ids, model.pixels([picture]), limit=5)
    assert model.ask(picture, "What does </s> mean?", limit=5) == pieces.decode([i for i in said if i < 1000]).strip()
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(UserError, match="tokenizer.model: cannot be read"):
        tinycogvlm.load(tmp_path).prompt("What?")


def test_llava_s_picture_is_padded_in_the_mean_colour(folder):
    model = tinycogvlm.load(folder("llava"))
    for array in (np.zeros((2, 6, 3), np.uint8), np.zeros((6, 2, 3), np.uint8)):
        pixels = model.picture(Image.fromarray(array))                          # 6 x 6: it is not resized
        black = (-image.CLIP_MEAN / image.CLIP_STD)[:, None, None]
        inside = pixels[:, 2:4] if array.shape[0] == 2 else pixels[:, :, 2:4]
        np.testing.assert_allclose(inside, np.broadcast_to(black, inside.shape), rtol=1e-5)
        outside = pixels[:, :2] if array.shape[0] == 2 else pixels[:, :, :2]
        assert np.abs(outside).max() < 0.02                                     # within a byte's step of the mean


def test_a_blip_2_s_bridge_by_its_folder(folder):
    """Its vision tower and its bridge, one after the other; the language model is left where it is."""
    model = tinycogvlm.load(folder("blip-2", "language_model.shared.weight"))
    assert isinstance(model, qformer.Blip2) and "language_model.shared.weight" not in model.parameters
    pictures = [np.random.default_rng(i).integers(0, 256, (9, 8 + i, 3), np.uint8) for i in range(2)]
    squeezed = [image.normalised(image.square(Image.fromarray(array), 6)) for array in pictures]       # CLIP's colours
    np.testing.assert_array_equal(model.pixels(pictures), np.stack(squeezed))
    features = eva02.tower01(np.stack(squeezed), model.p.vision_model, model.config.eye)[0]
    assert features.shape == (2, 5, 4)
    tokens = model.tokens(pictures)
    assert tokens.shape == (2, 3, 7)
    shuffled = qformer.bridge(features[:, ::-1], model.p, model.config.bridge)[0]
    np.testing.assert_allclose(tokens, shuffled, atol=1e-5)                                # patches in any order


def test_a_bridge_that_is_too_wide_for_its_tower():
    fields = Fields(SMALL["blip-2"] | {"vision_config": SMALL["blip-2"]["vision_config"] | {"hidden_size": 6}})
    with pytest.raises(UserError, match="qformer_config.encoder_hidden_size is 4, not the vision tower's width, 6"):
        qformer.blip2_of(fields)


def test_what_an_idefics_adds_by_its_folder(folder):
    model = tinycogvlm.load(folder("idefics", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"), dtype="float64")
    assert isinstance(model, flamingo.Idefics) and model.config.blocks == 2
    random = np.random.default_rng(0)
    media = model.resample(random.standard_normal((2, 9, 4)))
    x = random.standard_normal((2, 3, 6))
    y = model.block(1, x, media, None, np.array([[0, 1, 1], [1, 1, 1]]))
    assert media.shape == (2, 2, 4) and y.shape == x.shape and not np.array_equal(x, y)


@pytest.mark.parametrize("name, kind", [("llava", "a LLaVA"), ("blip-2", "a BLIP-2"), ("idefics", "an IDEFICS")])
def test_what_load_and_the_commands_say(folder, name, kind, capsys):
    where = folder(name)
    with pytest.raises(UserError, match=f"holds {kind}.*, which takes device and dtype, but not kernels"):
        tinycogvlm.load(where, kernels=True)
    assert main(["ask", "-", "What?", "--weights", str(where)]) == 1
    assert "only a CogVLM answers questions" in capsys.readouterr().err
    assert main(["info", str(where)]) == 0
    assert f"{where}: {kind}" in capsys.readouterr().out
    folder(name, "model.unknown.weight")
    with pytest.raises(UserError, match="tensor 'model.unknown.weight' is not part of the model"):
        tinycogvlm.load(where)
