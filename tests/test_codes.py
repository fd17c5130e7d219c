"""`tinycogvlm quantise`: a folder of codes gives what quantising at load gives, bit for bit; and what it refuses."""
import json
import shutil

import fake_cupy
import numpy as np
import pytest

from conftest import random_inputs, random_leaves
from test_plan import EXPERTS, TOWER, toy
from tinycogvlm import UserError, load
from tinycogvlm.cli import info, main
from tinycogvlm.kernels.plan import Plan, Planned
from tinycogvlm.model.config import Config
from tinycogvlm.model.parts import COMPUTED, matrices
from tinycogvlm.nn.arrays import converter, to_numpy
from tinycogvlm.storage import codes, lora
from tinycogvlm.storage.checkpoint import Checkpoint, save
from tinycogvlm.storage.quantise import Quantised, quantise

MLP = "model.layers.0.mlp.vision_mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path, family):
    config = toy(family)
    save(tmp_path / "model", random_leaves(config, np.float32), config, "BF16")
    return tmp_path / "model"


def quantised(folder, kind="int4", *more):
    out = folder.parent / kind
    assert main.main(["quantise", str(folder), str(out), "--dtype", kind, *more]) == 0
    return out


def planned(folder, plan, device="cpu"):
    checkpoint = Checkpoint(folder)
    checkpoint.check(plan.config.shapes(), COMPUTED, codes=True)
    return Planned(codes.read(checkpoint, plan.config.shapes()), plan, converter(device))


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("offloaded", [(), TOWER + EXPERTS], ids=["whole", "offloaded"])
def test_the_very_bits(folder, kind, device, offloaded):
    """Of every leaf, wherever it lies; a head that the plan wants in codes is quantised at load, as ever."""
    if device == "cuda" and offloaded:
        pytest.skip("test_plan.py compares answers")
    (folder / "tokenizer.json").write_text("spelling")
    out, config = quantised(folder, kind), Config.read(folder)
    assert (out / "tokenizer.json").read_text() == "spelling"
    plan = Plan(config, kind, kind, offloaded, "bfloat16")
    right = planned(folder, plan)
    with fake_cupy.installed():
        found = planned(out, plan, device)
        for name in plan.stored():
            leaf, wanted = found[name], right[name]
            assert type(leaf) is type(wanted) or not isinstance(wanted, Quantised)
            if isinstance(wanted, Quantised):
                assert (leaf.shape, leaf.dtype) == (wanted.shape, wanted.dtype)
                assert np.array_equal(to_numpy(leaf.scales), wanted.scales)
                leaf, wanted = leaf.codes, wanted.codes
            assert np.array_equal(to_numpy(leaf), wanted), name
            assert found.in_file(name) == found.offloaded(name)         # nothing is kept of what the file has as it is


def test_load(folder):
    """Without kernels the numbers are those of the codes, also a few rows of them; the sizes are right."""
    out, inputs = quantised(folder), random_inputs(Config.read(folder), ("image", 3))
    model, exact = load(out), load(folder)
    for name in matrices(model.config.shapes()):
        rounded = quantise(exact.leaves[name], "int4").dequantised()
        assert np.array_equal(model.leaves[name], rounded)
        assert np.array_equal(model.leaves.checkpoint[name][3:5], rounded[3:5])
    assert np.array_equal(load(out, stream=True).logits(inputs), model.logits(inputs))
    assert load(out, kernels=True).leaves.plan.dtype == "int4"
    report = info.report(out)["stored"]
    assert report["dtypes"] == ["BF16", "int4"] and report["bytes"] < info.report(folder)["stored"]["bytes"] / 2
    said = json.loads((out / "config.json").read_text())["quantization_config"]
    assert said == {"quant_method": "tinycogvlm", "bits": 4, "group_size": 64}


def test_an_adapter_is_added_before(folder):
    leaves = load(folder).leaves
    adapter = lora.start(leaves, [MLP], rank=2)
    b = MLP.replace(".weight", ".lora_B.weight")
    adapter.leaves[b] = np.ones_like(adapter.leaves[b])
    lora.write(folder.parent / "adapter", adapter)
    out = quantised(folder, "int8", "--lora", str(folder.parent / "adapter"))
    merged = quantise(load(folder, lora=folder.parent / "adapter").leaves[MLP], "int8")
    assert np.array_equal(load(out).leaves[MLP], merged.dequantised())
    with pytest.raises(UserError, match="is quantised to int8, and an adapter is added before that"):
        load(out, lora=folder.parent / "adapter")


def test_what_is_refused(folder, capsys):
    out = quantised(folder)
    for arguments, said in (
            ([folder, out], "already holds a model (config.json); write to a new folder"),
            ([out, folder.parent / "again"], "is quantised to int4, which serves for answers alone; take the folder that"),
            ([folder.parent / "none", folder.parent / "new"], "none: no such folder")):
        capsys.readouterr()
        assert main.main(["quantise", *map(str, arguments)]) == 1
        err = capsys.readouterr().err
        assert said in err.replace("model.safetensors", "config.json") and err.count("\n") == 1
    assert not (folder.parent / "again").exists() and not (folder.parent / "new").exists()
    with pytest.raises(UserError, match="is quantised to int4, so dtype is 'int4' or left out, not 'int8'"):
        load(out, kernels=True, dtype="int8")


def test_a_folder_named_by_its_config(folder):
    assert main.main(["quantise", str(folder / "config.json"), str(folder.parent / "out")]) == 0
    assert Config.read(folder.parent / "out") == Config.read(folder)


def test_damaged_folders(folder, tmp_path):
    """Codes of another width, of two widths, and of a matrix that the model does not have"""
    four, eight, config = quantised(folder), quantised(folder, "int8"), Config.read(folder)
    both = dict(Checkpoint(four)) | {MLP: Checkpoint(eight)[MLP]}
    for change, said in ((both[MLP], "holds matrices in int8 and in int4; a model has them in one"),
                         (both[MLP].numpy()[:, :5], "has the shape .*, but config.json makes it")):
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
        save(tmp_path / "damaged", both | {MLP: change}, config)
        with pytest.raises(UserError, match=said):
            load(tmp_path / "damaged")


def test_a_matrix_with_nan_is_named(folder, tmp_path, capsys):
    tensors = {name: tensor.numpy() for name, tensor in Checkpoint(folder).items()}
    tensors[MLP][0, 0] = np.nan
    save(tmp_path / "nan", tensors, Config.read(folder))
    assert main.main(["quantise", str(tmp_path / "nan"), str(tmp_path / "out")]) == 1
    assert MLP in (said := capsys.readouterr().err) and "NaN or infinite weights" in said
    assert not (tmp_path / "out" / "config.json").exists()
