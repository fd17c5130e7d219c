"""benchmarks/gpu.py at toy size on the CPU runner: every figure is there and counted right; eager PyTorch too."""
import json
import sys
from dataclasses import replace

import fake_cupy
import numpy as np
import pytest

from conftest import random_inputs, random_leaves, tiny_config
from test_benchmarks import ROOT, script
from tinycogvlm.model import generate
from tinycogvlm.kernels.runner import build
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.kernels.plan import Plan
from tinycogvlm.storage.quantise import Quantised
from tinycogvlm.model.route import vision_expert_mask


@pytest.mark.slow
@pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))
def test_every_figure_is_there(tmp_path, capsys, monkeypatch):
    gpu = script("gpu")
    monkeypatch.setitem(sys.modules, "torch", None)         # as where it is not installed
    gpu.main(["--quick", "--json", str(tmp_path / "gpu.json")])
    found, out = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")), capsys.readouterr().out
    dtypes = ["float16", "int4", "bfloat16", "int8"]
    assert list(found["decode"]) == list(found["picture"]) == dtypes and found["PyTorch"] is None
    assert found["left out"] == []
    assert list(found["expert_matmul"]) == ["one image", "four images", "text only"]
    config, tokens = gpu.MODELS["quick"], {"prompt": found["picture"]["int4"]["tokens"], "picture": 10}
    for name, part in found["attention"].items():
        assert part["seconds"] > 0 and part["operations"] >= 2 * 64 * tokens[name] ** 2
    for part in found["expert_matmul"].values():
        assert part["difference"] < 0.02 and min(part["ours"], part["two calls"]) > 0
    assert found["expert_matmul"]["text only"]["of images"] == 0 < found["expert_matmul"]["four images"]["of images"]
    for dtype, part in found["decode"].items():
        weights = 2 * (4 * 64 * 64 + 3 * 64 * 64) * {"int8": 33 / 32, "int4": 17 / 32}.get(dtype, 2)
        assert part["bytes"] == weights + 2 * (96 * 64 + 5 * 64) + 2 * 2 * 2 * 64 * 40
        assert min(part["seconds"], part["told"], part["host, a launch"]) > 0 and not part["graph"]
        assert part["kernels"] == 6 * config.num_hidden_layers + 4 and part["weights"] == 2 * 7 * 64 * 64 + 96 * 64
    rows = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")]
    decoded = [row for row in rows if row.startswith("decode")]
    assert decoded == [f"decode, {dtype}, without a graph" for dtype in dtypes]
    assert len(rows) == 33 and "| expected, from counts |" in out
    assert "peak memory: host" in out and config.head_size == 8


@pytest.mark.slow
def test_on_the_stand_in_for_a_gpu():
    """As on a GPU: arrays of CuPy, decoding as a captured graph, memory of the pool. Only the numbers are missing."""
    gpu = script("gpu")
    with fake_cupy.installed(content=False, multiprocessors=132) as cupy:
        found = gpu.measure(cupy, "quick", 1, lambda found: json.dumps(found), 600)
    assert found["machine"]["device"] == "no GPU" and found["memory"]["gpu"] > 0 and not found["left out"]
    assert all(part["graph"] for part in found["decode"].values()) and len(found["decode"]) == 4
    assert "| decode, int4 " in gpu.table(found)


@pytest.mark.slow
@pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))
def test_what_there_is_no_time_for_is_named(capsys, monkeypatch):
    gpu = script("gpu")
    monkeypatch.setitem(gpu.MODELS, "quick", replace(gpu.MODELS["quick"], num_hidden_layers=1))
    kept = []
    found = gpu.measure(np, "quick", 1, lambda found: kept.append(sorted(found)), 0)
    assert found["left out"] == ["float16", "int4", "bfloat16", "int8", "PyTorch"] and not found["decode"]
    assert len(kept) == 6 and "attention" in kept[0]        # kept after each part
    assert "not begun, for lack of time: float16, int4, bfloat16, int8, PyTorch" in gpu.table(found)


def test_without_a_gpu_it_says_so(capsys, monkeypatch):
    gpu = script("gpu")
    monkeypatch.setattr(gpu, "gpu", lambda: np)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--quick" in capsys.readouterr().err


def test_work_is_counted_as_on_the_cpu():
    """Beside cpu.py's formulas: biases and norms count here, and so does the position table, a thousandth in all."""
    gpu, cpu = script("gpu"), script("cpu")
    config = gpu.MODELS["17B"]
    found = gpu.work(config, gpu.question(config, 1))
    assert found["image"] == pytest.approx(cpu.image_operations(config), rel=1e-3)
    assert found["prefill"] == pytest.approx(cpu.prefill_operations(config, 1278), rel=1e-3)


def test_the_questions():
    gpu = script("gpu")
    for name in ("17B", "19B"):
        config = gpu.MODELS[name]
        one, four, none = (gpu.question(config, pictures) for pictures in (1, 4, 0))
        assert one.ids.shape == (1, 1 + config.num_image_tokens + 50) and not none.types.any()
        assert vision_expert_mask(one.types).sum() == config.num_image_tokens - 1
        assert four.types.max() == 4 and abs(four.ids.size - one.ids.size) < 8
        assert (np.diff(four.types[0]) != 0).sum() == 8     # words between pictures


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "int4"])
def test_random_weights_have_the_stored_form(dtype):
    gpu = script("gpu")
    leaves = gpu.Random(Plan(gpu.MODELS["quick"], dtype, "float16"), np)
    for name, shape in gpu.MODELS["quick"].shapes().items():
        leaf, stored = leaves[name], leaves.dtypes.get(name, "float16")
        assert leaf.shape == shape and (leaf.dtype if isinstance(leaf, Quantised) else leaf.dtype.name) == \
            {"bfloat16": "uint16"}.get(stored, stored)
        if isinstance(leaf, Quantised):
            assert 0.5 < np.std(leaf.dequantised()) * shape[1] ** 0.5 < 2


def test_eager_pytorch_decodes_the_same(monkeypatch):
    """Where PyTorch is installed: its tokens from our weights are ours."""
    pytest.importorskip("torch", reason="eager decoding needs PyTorch")
    import torch
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    other = script("gpu_torch")
    for family in ("cogvlm1", "cogvlm2"):
        config = replace(tiny_config(family), eos_token_id=29)
        leaves = random_leaves(config, np.float32)
        model, inputs = CogVLM(config, leaves), random_inputs(tiny_config(family), (5,))
        wanted = [int(ids[0]) for ids in generate.generate(model, inputs, 5)]
        tensors = {name: torch.from_numpy(leaf) for name, leaf in leaves.items()}
        cache = [torch.zeros((2, 1, config.num_key_value_heads, 16, config.head_size)) for _ in range(2)]
        half = torch.arange(0, config.head_size, 2) / config.head_size
        angles, said = torch.arange(16)[:, None] * config.rope_base ** -half, []
        for place, token in enumerate([*inputs.ids[0].tolist(), *wanted[:-1]]):
            said.append(int(other.step(config, tensors, cache, angles, torch.tensor([[token]]), place)))
        assert said[-5:] == wanted
        assert other.decode_seconds(config, "cpu", 4, 1, 2) > 0
