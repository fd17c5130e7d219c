"""CogVLM's relatives against the tensors and gradients of their original code, and `verify` of such folders."""
import json
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_relatives import drawn

from tinycogvlm.cli.main import main
from tinycogvlm.errors import UserError
from tinycogvlm.nn import activations, more_ops, ops
from tinycogvlm.nn.swap import swapped
from tinycogvlm.nn.tree import Gradients, Params
from tinycogvlm.relatives import albef, clip, eva02, hubert, nfnet, registry, siglip, soho, two_streams, vilt
from tinycogvlm.relatives.fields import Fields
from tinycogvlm.verify import components

FOLDER = Path(__file__).parent / "golden" / "components"
ENTRIES = json.loads((FOLDER / "components.json").read_text(encoding="utf-8"))
OF_FLOAT64 = [name for name, entry in ENTRIES.items() if entry["y_from"].startswith("float64")]


@pytest.mark.parametrize("name", ENTRIES)
def test_golden(name):
    """Every y/ and g/ of the file, in float32."""
    report = components.verify(FOLDER, name)
    assert report.ok, report.table()
    stored = {key for key in load_file(FOLDER / f"{name}.safetensors") if key.startswith(("y/", "g/"))}
    assert {row.name for row in report.rows} == stored and len(report.rows) == len(stored)


@pytest.mark.parametrize("name", ENTRIES)
def test_golden_in_float64(name):
    """1e-6 of the largest entry, and of the case's largest gradient: what float32 files can hold."""
    for row in components.verify(FOLDER, name, dtype="float64").rows:
        if row.name.startswith("g/"):
            assert row.error <= row.tolerance / 50, row
        elif name in OF_FLOAT64:
            assert row.error <= row.tolerance / 20, row


@pytest.mark.gpu
@pytest.mark.parametrize("name", ENTRIES)
def test_golden_on_cupy(cupy, name):
    """The same code with arrays of CuPy."""
    report = components.verify(FOLDER, name, device="cuda")
    assert report.ok, report.table()


def test_every_golden_file_has_an_entry_and_a_model():
    assert {path.stem for path in FOLDER.glob("*.safetensors")} == set(ENTRIES) <= set(components.models())


def test_no_two_files_claim_one_case():
    keys = [key for table in registry.tables("CASES") for key in table]
    assert sorted(keys) == sorted(set(keys))


@lru_cache
def component(name):
    """(model, geometry, weights, inputs, cotangents) of a case, in float64"""
    model, tensors = registry.cases()[name], load_file(FOLDER / f"{name}.safetensors")
    wide = {key: array.astype(np.float64) if array.dtype.kind == "f" else array for key, array in tensors.items()}
    weights, inputs = ({key[2:]: array for key, array in wide.items() if key.startswith(kind)} for kind in ("w/", "x/"))
    config = model.config(Fields(ENTRIES[name]["config"]), {key: array.shape for key, array in weights.items()})
    dy = {key[3:]: array for key, array in inputs.items() if key.startswith("dy/")} or {"loss": np.ones(())}
    return model, config, weights, inputs, dy


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry["grad_of"]])
def test_gradient_by_differences(name):
    """Along one random direction through every weight and every input, in float64."""
    with swapped(TRUE.get(name, {})):
        check_gradient(*component(name), HELD.get(name, ()))


TRUE = {"hubert_pretrain": {hubert.slowed: lambda gradient, slow: gradient},
        "lxmert": {two_streams.untrained_first: lambda gradient: gradient}}     # without what the original leaves out
# {case: ops whose results have no gradient in the original}
HELD = {"albef": (albef.taught,), "vilt": (vilt.ipot,), "soho_dictionary": (soho.way, soho.updated)}


def check_gradient(model, config, weights, inputs, dy, held=()):
    """held: ops whose results are the same at every step"""
    kept = {op: [] for op in held}

    def keeping(op):
        return lambda *arguments: kept[op].append(op.own(*arguments)) or kept[op][-1]

    def replaying(results):
        results = iter(results)
        return lambda *arguments: next(results)
    with swapped({op: keeping(op) for op in held}):
        model.run(inputs, Params(weights), config)
    g = Gradients([key for key in weights if weights[key].dtype.kind == "f"], model.frozen)
    dx = model.run(inputs, Params(weights), config)[1](dy, g)
    dx = {key: gradient for key, gradient in dx.items() if not key.startswith("y/")}        # no input
    random = np.random.default_rng(3)
    along = {key: random.standard_normal(gradient.shape) for key, gradient in (g.leaves | dx).items()}

    def moved(arrays, step):
        return {key: array + step * along[key] if key in along else array for key, array in arrays.items()}

    def f(step):
        with swapped({op: replaying(results) for op, results in kept.items()}):
            y = model.run(moved(inputs, step), Params(moved(weights, step)), config)[0]
        return sum((dy[key] * y[key]).sum() for key in dy)
    h = 3e-7                                                # so small that hardly a relu changes sides
    numeric = (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)
    analytic = sum((gradient * along[key]).sum() for key, gradient in (g.leaves | dx).items())
    size = np.sqrt(sum((gradient ** 2).sum() for gradient in (g.leaves | dx).values()))
    assert abs(numeric - analytic) <= 1e-6 * size, (numeric, analytic)


GEOMETRIES = {
    "a CLIP of LAION's": ("clip_contrastive", {
        "vision_config": {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
                          "patch_size": 3, "image_size": 10, "hidden_act": "gelu"},
        "text_config": {"hidden_size": 6, "intermediate_size": 9, "num_hidden_layers": 2, "num_attention_heads": 3,
                        "vocab_size": 11, "max_position_embeddings": 5, "hidden_act": "gelu", "eos_token_id": 7},
        "projection_dim": 5}),
    "a ResNet with two blocks in a stage": ("clip_resnet", {
        "embed_dim": 6, "image_resolution": 32, "vision_layers": [2, 1, 1, 2], "vision_width": 2, "vision_heads": 4,
        "context_length": 4, "vocab_size": 11, "transformer_width": 4, "transformer_heads": 2,
        "transformer_layers": 1}),
    "a SigLIP without heads to spare": ("siglip", {
        "vision_config": {"hidden_size": 4, "intermediate_size": 7, "num_hidden_layers": 1, "num_attention_heads": 1,
                          "patch_size": 4, "image_size": 15},
        "text_config": {"hidden_size": 6, "intermediate_size": 5, "num_hidden_layers": 1, "num_attention_heads": 2,
                        "vocab_size": 11, "max_position_embeddings": 5, "projection_size": 4}}),
    "an EVA-02 that is not square": ("eva02_clip", {
        "img_size": [6, 9], "patch_size": 3, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 1.5,
        "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "use_rot_pos_emb": True,
        "ref_feat_shape": [4, 5], "global_pool": "token", "num_classes": 3}),
    "EVA02-CLIP-E, norms after the sublayers": ("eva02_tiny", {
        "img_size": 6, "patch_size": 3, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 1.5,
        "use_post_norm": True, "global_pool": "token", "num_classes": 3}),
    "an EVA-02 whose patches' mean is not normalised": ("eva02_tiny", {
        "img_size": 6, "patch_size": 3, "embed_dim": 8, "depth": 1, "num_heads": 1, "qkv_fused": False,
        "mlp_ratio": 1.5, "swiglu_mlp": True, "use_rot_pos_emb": True, "use_fc_norm": False, "num_classes": 3}),
    "an NFNet for odd pictures, gamma in its weights": ("nfnet", {
        "depths": [1, 2, 1], "channels": [4, 6, 8], "stem_type": "deep_quad", "stem_chs": 8, "group_size": 2,
        "attn_layer": "se", "num_features": 5, "num_classes": 3, "act_layer": "silu", "same_padding": False}),
    "an NFNet of DeepMind's for odd pictures": ("nfnet_deepmind", {
        "width": [4, 6], "depth": [2, 1], "group_width": [2, 3], "expansion": [0.5, 1.0], "stem": [2, 3, 2, 4],
        "num_classes": 3, "activation": "silu"}),
    "a CLAP of three stages, whose last is one window": ("clap", {
        "audio_config": {"num_mel_bins": 8, "spec_size": 32, "patch_size": 2, "patch_embeds_hidden_size": 4,
                         "depths": [1, 2, 2], "num_attention_heads": [1, 2, 4], "window_size": 4, "mlp_ratio": 1.5},
        "text_config": {"hidden_size": 6, "intermediate_size": 5, "num_hidden_layers": 1, "num_attention_heads": 2,
                        "vocab_size": 11, "max_position_embeddings": 8}, "projection_dim": 5}),
}
INPUTS = {"pixel_values": (2, 3, 10, 10), "image": (2, 3, 32, 32), "input_ids": (2, 5), "text": (2, 4)}
OF_CASE = {"clap": {"input_features": (2, 1, 100, 8), "attention_mask": (2, 5), "waveform": (24000,)},
           "siglip": {"pixel_values": (2, 3, 15, 15)}, "nfnet": {"image": (1, 3, 29, 35)},
           "nfnet_deepmind": {"image": (1, 29, 35, 3)}, "eva02_clip": {"image": (2, 3, 6, 9)},
           "eva02_tiny": {"image": (2, 3, 6, 6)}}


@pytest.mark.parametrize("what", GEOMETRIES)
def test_gradient_of_other_geometries(what):
    name, fields = GEOMETRIES[what]
    model, random = registry.cases()[name], np.random.default_rng(5)
    config = model.config(Fields(fields), {})
    weights = drawn(model.shapes(config), random)
    weights |= {key: np.abs(array) + 0.5 for key, array in weights.items() if key.endswith("running_var")}
    inputs = {key: random.integers(0, 11, shape) if key in ("text", "input_ids") else random.standard_normal(shape)
              for key, shape in (INPUTS | OF_CASE.get(name, {})).items()}
    outputs, _ = model.run(inputs, Params(weights), config)
    wanted = [key for key in ("loss", "logits", "last", "features") if key in outputs]
    dy = {key: random.standard_normal(np.shape(outputs[key])) for key in wanted}
    check_gradient(model, config, weights, inputs, dy)


def test_frozen_weights_have_no_gradient():
    model, config, weights, inputs, dy = component("clip_text_full")
    g = Gradients(weights, ["visual.*"])
    model.run(inputs, Params(weights), config)[1](dy, g)
    assert set(g.leaves) == {name for name in weights if not name.startswith("visual.")}


# ------------------------------------------------------------------------------------------------ bugs that must show

@pytest.mark.parametrize("name, op, wrong, first", [
    ("clip_vision", activations.quick_gelu, ops.gelu, "y/hidden1"),
    ("clip_resnet", activations.relu, ops.silu, "y/stem"),
    ("siglip", activations.gelu_tanh, ops.gelu, "y/hidden1"),
    ("eva02_clip", more_ops.rotary_pairs, lambda x, cos, sin: ops.rotary(x, cos[None], sin[None]), "y/attn0"),
    ("eva02_tiny", more_ops.rotary_pairs, lambda x, cos, sin: (x, lambda dy: dy), "y/attn0"),
    ("nfnet", activations.relu, ops.gelu, "y/stage0_block0"),
    ("nfnet_deepmind", activations.gelu_tanh, ops.gelu, "y/stem"),
])
def test_a_wrong_op_is_named_by_the_first_tensor_that_differs(name, op, wrong, first):
    with swapped({op: wrong}):
        assert components.verify(FOLDER, name).first_failure.name == first


@pytest.mark.parametrize("grid, reference", [((4, 4), (16, 16)), ((2, 3), (4, 5))])
def test_rotary_angles_keep_the_edges(grid, reference):
    """At twice the resolution every other patch stands where one stood before, and turns as far."""
    cos, sin = eva02.angles(grid, reference, 16)
    finer = eva02.angles(tuple(2 * n for n in grid), reference, 16)
    for table, fine in zip((cos, sin), finer):
        fine = fine.reshape(2 * grid[0], 2 * grid[1], 8)[::2, ::2]
        np.testing.assert_allclose(table.reshape(*grid, 8), fine, rtol=0, atol=1e-15)


def test_the_sigmoid_loss_is_the_sum_over_pairs_divided_by_the_batch():
    """By its definition, and where a naive one would overflow."""
    random = np.random.default_rng(0)
    image, text = random.standard_normal((2, 3, 5))
    scale, bias = np.array([1.3]), np.array([-2.0])
    unit = [x / np.sqrt((x * x).sum(-1, keepdims=True)) for x in (image, text)]
    expected = 0.0
    for i in range(3):
        for j in range(3):
            logit = np.exp(1.3) * unit[0][i] @ unit[1][j] - 2.0
            expected -= np.log(1 / (1 + np.exp(-logit if i == j else logit)))
    assert siglip.sigmoid_loss(image, text, scale, bias)[0] == pytest.approx(expected / 3, rel=1e-12)
    far, _ = siglip.sigmoid_loss(image, text, scale, np.array([-1e4]))
    assert far == pytest.approx(1e4 - np.exp(1.3) * (unit[0] * unit[1]).sum() / 3, rel=1e-12)


def test_beta_is_what_the_paper_says():
    """1 / sqrt(1, 1.04, 1.08, ...), and 1 again after the first block of a stage, whose shortcut is a convolution."""
    config = nfnet.timm(Fields({"depths": [2, 3], "channels": [8, 8], "stem_type": "deep_quad", "stem_chs": 8,
                                "group_size": 2, "attn_layer": "se", "num_features": 8}))
    assert [beta ** -2 for *_, beta in nfnet.blocks(config)] == pytest.approx([1, 1.04, 1.08, 1.04, 1.08])


def test_a_text_ends_at_its_largest_id_not_at_its_last():
    model, config, weights, inputs, _ = component("clip_text_full")
    ids = inputs["text"]
    assert (ids.argmax(1) != ids.shape[1] - 1).any()
    padded = np.where(np.arange(ids.shape[1]) > ids.argmax(1)[:, None], 5, ids)        # unseen, whatever it is
    a, b = (clip.text_features(some, Params(weights), config)[0] for some in (ids, padded))
    np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------------- the same model by other names

def hugging_face_names(weights):
    """OpenAI's tensors as Hugging Face stores them: Q, K and V apart, both projections transposed."""
    names = {"visual.class_embedding": "vision_model.embeddings.class_embedding",
             "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
             "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
             "positional_embedding": "text_model.embeddings.position_embedding.weight",
             "token_embedding.weight": "text_model.embeddings.token_embedding.weight"}
    parts = (("visual.transformer.resblocks", "vision_model.encoder.layers"),
             ("transformer.resblocks", "text_model.encoder.layers"), ("visual.ln_pre", "vision_model.pre_layrnorm"),
             ("visual.ln_post", "vision_model.post_layernorm"), ("ln_final", "text_model.final_layer_norm"),
             ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
             ("attn.", "self_attn."))
    found = {"visual_projection.weight": weights["visual.proj"].T,
             "text_projection.weight": weights["text_projection"].T}
    for name, array in weights.items():
        new = names.get(name, name)
        for old, replacement in parts if new == name else ():
            new = new.replace(old, replacement)
        if "in_proj_" in new:
            stem, kind = new.split("in_proj_")
            for letter, third in zip("qkv", np.split(array, 3)):
                found[f"{stem}{letter}_proj.{kind}"] = third
        elif name not in ("visual.proj", "text_projection"):
            found[new] = array
    return found


def test_both_forms_of_clip_are_one_model():
    """Loss, gradient of the pixels and of every tensor, bit for bit but for the order of a sum."""
    model, openai, weights, inputs, _ = component("clip_text_full")
    fields = ENTRIES["clip_text_full"]["config"]
    tower = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    config = clip.hugging_face(Fields({"projection_dim": fields["embed_dim"], "vision_config": tower | {
        "hidden_size": fields["vision_width"], "intermediate_size": 4 * fields["vision_width"],
        "num_hidden_layers": fields["vision_layers"], "num_attention_heads": fields["vision_heads"],
        "patch_size": fields["vision_patch_size"], "image_size": fields["image_resolution"]}, "text_config": tower | {
        "hidden_size": fields["transformer_width"], "intermediate_size": 4 * fields["transformer_width"],
        "num_hidden_layers": fields["transformer_layers"], "num_attention_heads": fields["transformer_heads"],
        "vocab_size": fields["vocab_size"], "max_position_embeddings": fields["context_length"], "eos_token_id": 2}}))
    renamed = hugging_face_names(weights)
    assert {name: array.shape for name, array in renamed.items()} == clip.shapes(config)
    results = []
    for some, leaves in ((openai, weights), (config, renamed)):
        g = Gradients(leaves)
        loss, pull = clip.loss(inputs["image"], inputs["text"], Params(leaves), some)
        results.append((loss, pull(1.0, g), g.leaves))
    (loss, dx, gradients), (other_loss, other_dx, other) = results
    assert loss == pytest.approx(other_loss, rel=1e-14)
    np.testing.assert_allclose(dx, other_dx, rtol=0, atol=1e-13)
    for name, gradient in hugging_face_names(gradients).items():
        np.testing.assert_allclose(gradient, other[name], rtol=0, atol=1e-13, err_msg=name)


# ------------------------------------------------------------------------------------------------------ verify itself

@pytest.fixture
def copy(tmp_path):
    """A function that copies a case, changed: tensors {name: array or None, which takes it away}, and its entry"""
    def of(name, tensors=(), entry=()):
        shutil.copytree(FOLDER, tmp_path / "cases", ignore=lambda _, names: set(names) - {f"{name}.safetensors"})
        stored = load_file(FOLDER / f"{name}.safetensors") | dict(tensors)
        save_file({key: array for key, array in stored.items() if array is not None},
                  tmp_path / "cases" / f"{name}.safetensors")
        changed = {name: ENTRIES[name] | dict(entry)}
        (tmp_path / "cases" / "components.json").write_text(json.dumps(changed), encoding="utf-8")
        return tmp_path / "cases"
    return of


def moved(name, tensor, by):
    array = load_file(FOLDER / f"{name}.safetensors")[tensor].copy()
    array[(0,) * array.ndim] += by
    return {tensor: array}


@pytest.mark.parametrize("tensors, failed, detail", [
    (moved("clip_vision", "y/hidden2", 2e-4), "y/hidden2", "1 of"),
    (moved("clip_vision", "g/vision_model.pre_layrnorm.weight", 1e-2), "g/vision_model.pre_layrnorm.weight", "1 of"),
    ({"y/hidden1": None, "y/hidden9": np.zeros((2, 17, 32), np.float32)}, "y/hidden9", "unknown"),
    ({"g/visual_projection.weight": None}, "g/visual_projection.weight", "missing"),
    ({"y/hidden1": np.full((2, 17, 32), np.nan, np.float32)}, "y/hidden1", "NaN"),
    ({"y/hidden1": np.zeros((2, 17, 31), np.float32)}, "y/hidden1", "shape"),
    ({"w/visual_projection.weight": None}, "w/visual_projection.weight", "missing"),
    ({"w/visual_projection.weight": np.zeros((16, 31), np.float32)}, "w/visual_projection.weight", "shape"),
    ({"w/visual_projection.weight": np.full((16, 32), np.inf, np.float32)}, "w/visual_projection.weight", "NaN"),
    ({"w/extra": np.zeros(3, np.float32)}, "w/extra", "not part of the model"),
    ({"x/pixel_values": None}, "case", "pixel_values"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_whatever_is_wrong_with_a_case_is_a_row_that_fails(copy, tensors, failed, detail):
    report = components.verify(copy("clip_vision", tensors))
    assert [row.name for row in report.failed] == [failed] and detail in report.first_failure.detail


def test_a_case_that_nothing_knows_is_a_row_that_fails(tmp_path, capsys):
    (tmp_path / "components.json").write_text('{"no_such_model": {}, "clip_vision": {}}', encoding="utf-8")
    report = components.verify(tmp_path)
    assert [row.file for row in report.failed] == ["no_such_model", "clip_vision"]
    assert "no model here is called 'no_such_model'" in report.table()
    assert "clip_vision.safetensors" in report.failed[1].detail


@pytest.mark.parametrize("entry", [{"fp32_vs_fp64": [1]}, {"fp32_vs_fp64": {"y/hidden1": 3}}, {"zero_grads": 7}])
def test_what_an_entry_says_of_errors_is_looked_at(copy, entry):
    """A row that fails, and no traceback"""
    [row] = components.verify(copy("clip_vision", entry=entry)).failed
    assert row.name == "case" and row.detail.startswith("not computed: ")


def test_the_config_is_looked_at(copy):
    config = ENTRIES["clip_vision"]["config"]
    for field, value, detail in (("num_attention_heads", 3, "divisor"), ("hidden_act", "elu", "quick_gelu"),
                                 ("patch_size", "7", "whole number")):
        folder = copy("clip_vision", entry={"config": config | {field: value}})
        report = components.verify(folder)
        assert "clip_vision.config." + field in report.first_failure.detail and detail in report.first_failure.detail
        shutil.rmtree(folder)


def test_command_line(copy, capsys):
    folder = str(copy("clip_vision"))
    assert main(["verify", folder]) == 0
    assert "all 63 hold" in capsys.readouterr().out
    assert main(["verify", folder, "--case", "clip_vision", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    assert main(["verify", folder, "--case", "siglip"]) == 1
    assert "has no case 'siglip'; it has clip_vision" in capsys.readouterr().err
    assert main(["verify", folder, "--kernels"]) == 2
    assert main(["verify", str(FOLDER.parent / "v1_eps"), "--case", "clip_vision"]) == 2
    capsys.readouterr()
    other = {**load_file(FOLDER / "clip_vision.safetensors"), **moved("clip_vision", "y/hidden3", 1.0)}
    save_file(other, Path(folder) / "clip_vision.safetensors")
    assert main(["verify", folder]) == 1
    assert "the first that differs is y/hidden3 of clip_vision" in capsys.readouterr().out


def test_verify_refuses_what_it_cannot_read(tmp_path):
    (tmp_path / "components.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="not a JSON object"):
        components.verify(tmp_path)
    (tmp_path / "components.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="no cases"):
        components.verify(tmp_path)
