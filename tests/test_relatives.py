"""CogVLM's relatives against the tensors and gradients of their original code, and `verify` of such folders."""
import json
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinycogvlm.cli.main import main
from tinycogvlm.errors import UserError
from tinycogvlm.nn import activations, ops
from tinycogvlm.nn.swap import swapped
from tinycogvlm.nn.tree import Gradients, Params
from tinycogvlm.relatives import clip, registry
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


def test_every_golden_file_has_an_entry_and_a_model():
    assert {path.stem for path in FOLDER.glob("*.safetensors")} == set(ENTRIES) <= set(registry.cases())


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
    model, config, weights, inputs, dy = component(name)
    g = Gradients([key for key in weights if weights[key].dtype.kind == "f"], model.frozen)
    dx = model.run(inputs, Params(weights), config)[1](dy, g)
    random = np.random.default_rng(3)
    along = {key: random.standard_normal(gradient.shape) for key, gradient in (g.leaves | dx).items()}

    def moved(arrays, step):
        return {key: array + step * along[key] if key in along else array for key, array in arrays.items()}

    def f(step):
        y = model.run(moved(inputs, step), Params(moved(weights, step)), config)[0]
        return sum((dy[key] * y[key]).sum() for key in dy)
    h = 3e-7                                                # so small that hardly a relu changes sides
    numeric = (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)
    analytic = sum((gradient * along[key]).sum() for key, gradient in (g.leaves | dx).items())
    size = np.sqrt(sum((gradient ** 2).sum() for gradient in (g.leaves | dx).values()))
    assert abs(numeric - analytic) <= 1e-6 * size, (numeric, analytic)


def test_frozen_weights_have_no_gradient():
    model, config, weights, inputs, dy = component("clip_text_full")
    g = Gradients(weights, ["visual.*"])
    model.run(inputs, Params(weights), config)[1](dy, g)
    assert set(g.leaves) == {name for name in weights if not name.startswith("visual.")}


# ------------------------------------------------------------------------------------------------ bugs that must show

@pytest.mark.parametrize("name, op, wrong, first", [
    ("clip_vision", activations.quick_gelu, ops.gelu, "y/hidden1"),
    ("clip_resnet", activations.relu, ops.silu, "y/stem"),
])
def test_a_wrong_op_is_named_by_the_first_tensor_that_differs(name, op, wrong, first):
    with swapped({op: wrong}):
        assert components.verify(FOLDER, name).first_failure.name == first


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
