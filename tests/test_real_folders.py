"""Other real folders than the smallest of each kind, by their config.json: what is read of them, and what is refused."""
import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from small_relatives import drawn, lay_out

import tinycogvlm
from tinycogvlm.cli.main import main
from tinycogvlm.errors import UserError
from tinycogvlm.inputs import image
from tinycogvlm.relatives import clip, coca, eva02, llava, registry
from tinycogvlm.relatives.fields import Fields

GOLDEN = Path(__file__).parent / "golden"
LARGE = json.loads((GOLDEN / "real_shapes_large.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", LARGE)
def test_names_and_shapes_of_other_ones(name, tmp_path):
    """Those of the original library's class, by their number and digest."""
    real = LARGE[name]
    file = "open_clip_config.json" if "model_cfg" in real["config"] else "config.json"
    (tmp_path / file).write_text(json.dumps(real["config"]), encoding="utf-8")
    kind, fields = registry.checkpoint_in(tmp_path)
    shapes = kind.shapes(kind.config(fields))
    assert len(shapes) == real["tensors"] and sum(map(math.prod, shapes.values())) == real["parameters"]
    lines = "\n".join(sorted(f"{key} {list(shape)}" for key, shape in shapes.items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == real["sha256"]


TOWER = {"model_type": "clip_vision_model", "hidden_size": 1024, "num_attention_heads": 16, "image_size": 336,
         "patch_size": 14}
LLAMA = {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "mm_projector_type": "mlp2x_gelu",
         "mm_vision_tower": "openai/clip-vit-large-patch14-336"}
EVA = {"timm_model_name": "eva02_base_patch16_clip_224", "timm_pool": "token", "timm_proj": None}
ENCODERS = {"vision_cfg": {"layers": 1, "width": 64}, "text_cfg": {}, "embed_dim": 4}


@pytest.mark.parametrize("config, said", [
    ({"architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next", "text_config": {},
      "vision_config": TOWER}, "a model of the architecture 'LlavaNextForConditionalGeneration'; CogVLMForCausalLM, "),
    ({"architectures": ["Idefics2ForConditionalGeneration"], "model_type": "idefics2", "vision_config": {}},
     "a model of the architecture 'Idefics2ForConditionalGeneration'"),
    ({"architecture": "resnet50_clip", "num_classes": 1024}, "a model of the architecture 'resnet50_clip'"),
    (LLAMA | {"mm_patch_merge_type": "spatial_unpad", "image_aspect_ratio": "anyres"},
     "mm_patch_merge_type is 'spatial_unpad', not 'flat', which is all that is known here"),
    (LLAMA | {"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres', not one of square, pad"),
    ({"model_type": "llava", "text_config": {}, "vision_config": {"model_type": "siglip_vision_model"}},
     "vision_config.model_type is 'siglip_vision_model', not 'clip_vision_model'"),
    ({"model_type": "llava", "vision_config": TOWER, "text_config": {"rope_parameters": {"rope_type": "llama3"}}},
     "text_config.rope_parameters.rope_type is 'llama3', not 'default'"),
    ({"architectures": ["EvaCLIPModel"], "model_type": "clip"}, "architectures is ['EvaCLIPModel'], not ['CLIPModel']"),
    ({"model_type": "blip-2", "qformer_config": {"use_qformer_text_input": True}, "text_config": {"model_type": "opt"}},
     "qformer_config.use_qformer_text_input is True, not False"),
    ({"model_type": "hubert", "feat_proj_layer_norm": False}, "feat_proj_layer_norm is False, not True"),
    ({"model_type": "hubert", "conv_pos_batch_norm": True}, "conv_pos_batch_norm is True, not False"),
    ({"model_type": "clap", "audio_config": {"enable_fusion": True}}, "audio_config.enable_fusion is True, not false"),
])
def test_a_folder_that_looks_like_a_known_one_is_refused_by_its_field(config, said, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert main(["info", str(tmp_path)]) == 1
    assert f"{tmp_path / 'config.json'}: {said}" in capsys.readouterr().err
    with pytest.raises(UserError) as error:
        tinycogvlm.load(tmp_path)
    assert said in str(error.value)


@pytest.mark.parametrize("change, said", [
    ({"custom_text": True}, "model_cfg.custom_text is True, not left out"),
    ({"vision_cfg": {"timm_model_name": "vit"}}, "model_cfg.vision_cfg.timm_model_name is 'vit', not one of eva02_base"),
    ({"vision_cfg": EVA | {"timm_pool": "avg"}}, "model_cfg.vision_cfg.timm_pool is 'avg', not 'token'"),
    ({"vision_cfg": EVA | {"image_size": 448}}, "model_cfg.vision_cfg.image_size is 448, not 224"),
    ({"vision_cfg": EVA | {"timm_proj": "mlp"}}, "model_cfg.vision_cfg.timm_proj is 'mlp', not left out"),
    ({"text_cfg": {"hf_model_name": "roberta"}}, "model_cfg.text_cfg.hf_model_name is 'roberta', not left out"),
    ({"text_cfg": {"width": 500}}, "model_cfg.text_cfg.width is 500, not a multiple of its 8 heads"),
    ({"embed_dim": None}, "model_cfg.embed_dim is missing")])
def test_other_models_of_open_clip_are_refused_by_their_field(change, said, tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": ENCODERS | change}), encoding="utf-8")
    with pytest.raises(UserError) as error:
        tinycogvlm.load(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'open_clip_config.json'}: {said}")


# ------------------------------------------------------------------------------------------------ CLIPs of open_clip

@pytest.fixture
def resnet(tmp_path):
    """A small CLIP whose eye is a ResNet, laid out as timm/resnet50_clip.openai is: timm's own config.json is there too"""
    model = {"embed_dim": 4, "quick_gelu": True,
             "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4, "patch_size": None},
             "text_cfg": {"context_length": 8, "vocab_size": 2000, "width": 8, "heads": 2, "layers": 1}}
    (tmp_path / "config.json").write_text('{"architecture": "resnet50_clip"}', encoding="utf-8")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}), encoding="utf-8")
    shutil.copy(GOLDEN / "auxiliary" / "clip_tokenizer.json", tmp_path / "tokenizer.json")
    weights = {key: np.asarray(array, np.float32)
               for key, array in drawn(clip.stored_shapes(clip.open_clip(Fields({"model_cfg": model})))).items()}
    weights |= {key: np.abs(array) + 0.5 for key, array in weights.items() if key.endswith("running_var")}
    counts = {f"visual.bn{i}.num_batches_tracked": np.array(7) for i in (1, 2, 3)}
    save_file(weights | counts, tmp_path / "open_clip_model.safetensors")
    save_file({"stem.conv1.weight": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")        # timm's own
    return tmp_path


PICTURES = [np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8) for i in range(2)]


def test_a_resnet_matches_by_its_folder(resnet, capsys):
    model = tinycogvlm.load(resnet)
    assert isinstance(model.config.vision, clip.ResNet) and model.config.vision.heads == 2
    assert not any("running" in name or "tracked" in name for name in model.parameters)
    texts = ["a fox", "two dogs"]
    p = model.match(PICTURES, texts)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    y, _ = clip.resnet(model.pixels(PICTURES), model.p.visual, model.config.vision)
    np.testing.assert_allclose(model.image_features(PICTURES), y / np.linalg.norm(y, axis=1)[:, None], rtol=1e-5)
    assert main(["info", str(resnet), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["family"] == "a CLIP" and report["stored"]["files"] == 1
    (resnet / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r": holds no open_clip_model.safetensors$"):
        tinycogvlm.load(resnet)
    (resnet / "open_clip_pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(UserError, match="holds PyTorch files only"):
        tinycogvlm.load(resnet)


def test_an_eva_clip_is_its_two_towers(tmp_path, monkeypatch):
    """Timm's tower for pictures, and the text tower of CLIP."""
    small = dict(img_size=12, patch_size=4, embed_dim=8, depth=1, num_heads=2, **eva02.CLIP_02)
    monkeypatch.setitem(eva02.ARCHITECTURES, "eva02_small", small)
    text = {"context_length": 8, "vocab_size": 2000, "width": 8, "heads": 2, "layers": 1}
    model_cfg = {"embed_dim": 4, "text_cfg": text, "custom_text": True,
                 "vision_cfg": {"timm_model_name": "eva02_small", "timm_pool": "token", "image_size": 12}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}), encoding="utf-8")
    shutil.copy(GOLDEN / "auxiliary" / "clip_tokenizer.json", tmp_path / "tokenizer.json")
    config = eva02.open_clip(Fields({"model_cfg": model_cfg}))
    save_file({key: np.asarray(array, np.float32) for key, array in drawn(eva02.open_clip_shapes(config)).items()},
              tmp_path / "open_clip_model.safetensors")
    model, texts = tinycogvlm.load(tmp_path, dtype="float64"), ["a fox", "two dogs"]
    assert model.kind == "an EVA-CLIP" and model.match(PICTURES, texts).shape == (2, 2)
    leaves = dict(model.leaves)
    trunk = {name.removeprefix("visual.trunk."): leaves[name] for name in leaves if name.startswith("visual.trunk.")}
    eye = eva02.EvaEye(config.vision, trunk)
    np.testing.assert_array_equal(model.image_features(PICTURES), eye.image_features(PICTURES))
    words = {name.removeprefix("text."): array for name, array in leaves.items() if name not in trunk}
    plain = clip.CLIP(replace(config, names=clip.OPENAI), words, tmp_path)
    np.testing.assert_array_equal(model.text_features(texts), plain.text_features(texts))
    loss, pull = model.loss(model.pixels(PICTURES), model.ids(texts))
    gradients, step = pull(), 1e-6
    assert set(gradients) == set(leaves) and loss > 0
    for name in ("visual.trunk.pos_embed", "visual.trunk.head.bias", "text.ln_final.weight", "logit_scale"):
        along = np.random.default_rng(3).standard_normal(leaves[name].shape)
        moved = [eva02.EvaCLIP(config, leaves | {name: leaves[name] + s * along}, tmp_path).loss(
            model.pixels(PICTURES), model.ids(texts))[0] for s in (step, -step)]
        assert (moved[0] - moved[1]) / (2 * step) == pytest.approx((gradients[name] * along).sum(), rel=1e-6, abs=1e-9)


COCA = {"embed_dim": 8, "custom_text": True,
        "vision_cfg": {"image_size": 12, "layers": 1, "width": 12, "head_width": 4, "patch_size": 6, "output_tokens": True,
                       "attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2},
        "text_cfg": {"context_length": 7, "vocab_size": 2000, "width": 8, "heads": 2, "layers": 1, "embed_cls": True,
                     "output_tokens": True},
        "multimodal_cfg": {"context_length": 7, "vocab_size": 2000, "width": 8, "heads": 2, "layers": 2,
                           "attn_pooler_heads": 2}}


@pytest.fixture
def coca_folder(tmp_path):
    """A small CoCa as open_clip saves it, its masks among the tensors"""
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": COCA}), encoding="utf-8")
    shutil.copy(GOLDEN / "auxiliary" / "clip_tokenizer.json", tmp_path / "tokenizer.json")
    weights = drawn(coca.shapes(coca.open_clip(Fields(COCA))), seed=1)          # large ones, so that captions differ
    save_file({key: np.asarray(array * (4 if array.ndim > 1 else 1), np.float32) for key, array in weights.items()}
              | {"text.attn_mask": np.zeros((8, 8), np.float32)}, tmp_path / "open_clip_model.safetensors")
    return tmp_path


def test_a_coca_matches_and_writes_by_its_folder(coca_folder, capsys):
    """Texts are as long as the context, for CLS stands after it; a caption is word by word the likeliest of what the
    loss compares with the next words."""
    model, texts = tinycogvlm.load(coca_folder, dtype="float64"), ["a fox", "two dogs"]
    assert model.kind == "a CoCa" and main(["info", str(coca_folder)]) == 0
    assert capsys.readouterr().out.startswith(f"{coca_folder}: a CoCa\n")
    ids = model.ids(texts)
    assert ids.shape == (2, 7) and ids[0, -1] == 0 == model.config.pad and model.ids(["a"]).shape == (1, 7)
    np.testing.assert_allclose(model.match(PICTURES, texts).sum(1), 1)
    feature, _, _ = coca.text_features(ids, model.p.text, model.config)
    np.testing.assert_allclose(model.text_features(texts), feature, rtol=1e-12)
    start, end = *model.tokenizer.start, model.tokenizer.end
    pixels = model.pixels(PICTURES)
    said = coca.caption(pixels, model.p, model.config, start, -1, 30)
    assert said.shape == (2, 7) and (said[:, 0] == start).all()
    _, seen, _ = coca.image_features(pixels, model.p, model.config)
    _, words, _ = coca.text_features(said, model.p.text, model.config)
    logits, _ = coca.decode(words, seen, model.p.text_decoder, model.config)
    np.testing.assert_array_equal(logits.argmax(-1)[:, :-1], said[:, 1:])
    stopped = coca.caption(pixels[:1], model.p, model.config, start, said[0, 3], 30)
    np.testing.assert_array_equal(stopped, said[:1, :4])
    assert end not in said and said[1, 5] not in said[0, :6]                    # the second ends before the first
    np.testing.assert_array_equal(coca.caption(pixels, model.p, model.config, start, said[1, 5], 30), said)
    assert model.captions(PICTURES) == [model.tokenizer.decode(row[1:]) for row in said]
    assert model.tokenizer.decode(model.tokenizer.encode("Two  dogs.")) == "two dogs ."
    loss, pull = model.loss(pixels, ids)
    assert loss > 0 and set(pull()) == set(model.leaves)


@pytest.mark.parametrize("change, said", [
    ({"quick_gelu": True}, "model_cfg.quick_gelu is True, not left out"),
    ({"text_cfg": {"hf_model_name": "roberta"}}, "model_cfg.text_cfg.hf_model_name is 'roberta', not left out"),
    ({"multimodal_cfg": {"width": 9}}, "model_cfg.multimodal_cfg.width is 9, not 8"),
    ({"vision_cfg": {"layers": [3, 4, 6, 3]}}, "model_cfg.vision_cfg.layers is [3, 4, 6, 3]")])
def test_other_cocas_are_refused_by_their_field(change, said, tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": COCA | change}), encoding="utf-8")
    with pytest.raises(UserError) as error:
        tinycogvlm.load(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'open_clip_config.json'}: {said}")


@pytest.mark.parametrize("file, fields", [
    ("preprocessor_config.json", {"image_mean": [0.5, 0.25, 0.5], "image_std": [0.5, 0.5, 0.125]}),
    ("preprocessor_config.json", {"do_center_crop": False}),
    ("open_clip_config.json", {"mean": [0.5, 0.25, 0.5], "std": [0.5, 0.5, 0.125]}),
    ("open_clip_config.json", {"resize_mode": "squash"})])
def test_pictures_are_prepared_as_the_folder_says(resnet, file, fields):
    """laion/CLIP-ViT-L-14-laion2B-s32B-b82K, for one, has means of a half."""
    path, found = resnet / file, fields
    if file == "open_clip_config.json":
        found = json.loads(path.read_text(encoding="utf-8")) | {"preprocess_cfg": fields}
    path.write_text(json.dumps(found), encoding="utf-8")
    picture = Image.fromarray(PICTURES[0])
    half = (np.float32([0.5, 0.25, 0.5]), np.float32([0.5, 0.5, 0.125])) if len(fields) == 2 else ()
    cut = image.cropped if len(fields) == 2 else image.square
    np.testing.assert_array_equal(tinycogvlm.load(resnet).picture(picture), image.normalised(cut(picture, 32), *half))


def test_what_is_said_of_a_preprocessor(resnet):
    (resnet / "preprocessor_config.json").write_text('{"image_mean": [0.5]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"preprocessor_config.json: image_mean is \[0.5\], not three numbers"):
        tinycogvlm.load(resnet).image_features(PICTURES)


# ----------------------------------------------------------------------------------------------- HuBERT, LLaVA, SigLIP 2

SMALL_HUBERT = {"model_type": "hubert", "hidden_size": 8, "num_attention_heads": 2, "num_conv_pos_embedding_groups": 2,
                "num_conv_pos_embeddings": 4, "intermediate_size": 6, "num_hidden_layers": 1, "conv_dim": [4, 4],
                "conv_kernel": [10, 3], "conv_stride": [5, 2]}


@pytest.mark.parametrize("names", ["parametrizations.weight.original0", "weight_g"])
def test_a_hubert_below_a_head_is_the_same_hubert(names, tmp_path):
    """As in facebook/hubert-large-ls960-ft, whose head writes letters."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    weights = load_file(lay_out(tmp_path / "a", SMALL_HUBERT) / "model.safetensors")
    if names == "weight_g":
        for new, old in (("weight_g", "original0"), ("weight_v", "original1")):
            conv = "encoder.pos_conv_embed.conv."
            weights[conv + new] = weights.pop(f"{conv}parametrizations.weight.{old}")
        save_file(weights, tmp_path / "a" / "model.safetensors")
    save_file({f"hubert.{name}": array for name, array in weights.items()} | {"lm_head.bias": np.zeros(3, np.float32)},
              tmp_path / "b" / "model.safetensors")
    (tmp_path / "b" / "config.json").write_text(json.dumps(SMALL_HUBERT | {"architectures": ["HubertForCTC"]}),
                                                encoding="utf-8")
    wave = np.random.default_rng(0).standard_normal(400).astype(np.float32)
    plain, below = (tinycogvlm.load(tmp_path / folder) for folder in "ab")
    np.testing.assert_array_equal(plain.features(wave), below.features(wave))
    assert plain.features(wave[:20]).shape == (1, 8)
    with pytest.raises(UserError, match="a sound of 19 samples is too short: the first frame takes 20"):
        plain.features(wave[:19])


def test_the_base_of_rotary_frequencies_under_its_new_name():
    llama = {"text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "vision_config": TOWER}
    assert llava.hugging_face(Fields(llama)).llama.rope_base == 5e5
    assert llava.hugging_face(Fields({"vision_config": TOWER})).llama.rope_base == 1e4


def test_the_first_llava_cuts_out_the_middle():
    picture = Image.fromarray(PICTURES[0])
    middle = image.normalised(image.cropped(picture, 336))
    for ratio in "square", "pad":
        model = llava.LLaVA(llava.original(Fields(LLAMA | {"image_aspect_ratio": ratio})), {})
        assert np.array_equal(model.picture(picture), middle) == (ratio == "square")


def test_siglip_2_says_what_it_lacks(tmp_path):
    from tinycogvlm.inputs.texts import SiglipTexts
    with pytest.raises(UserError, match="SigLIP 2's has Gemma's tokenizer, which is not known here"):
        SiglipTexts(tmp_path, 64, 256000)
