"""The benchmark of training: its table and JSON, its count of operations, and how it compares with PyTorch."""
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinycogvlm.nn import ops
from tinycogvlm.model.route import vision_expert_mask
from tinycogvlm.train.recipe import stages

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "train.py"
WAYS = {f"{what}, {n}" for what in ("forward and backward", "whole step") for n in (1, 2)}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """benchmarks/train.py as a module, with its toy geometry and its toy tokenizer"""
    environment, path = dict(os.environ), list(sys.path)
    spec = importlib.util.spec_from_file_location("benchmark_train", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.toy(True):
        module.spelling = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
        module.learn_tokenizer.train_tokenizer(module.spelling)
        stages.load_tokenizer.cache_clear()
        yield module
    stages.load_tokenizer.cache_clear()
    os.environ.clear(), os.environ.update(environment)
    sys.path[:] = path


@pytest.mark.slow
def test_tables_and_json(tmp_path):
    command = [sys.executable, SCRIPT, "--quick", "--stages", "vision", "stage1", "--json", tmp_path / "speed.json"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert set(report) == {"machine", "rounds", "quick", "stages"} and report["rounds"] == 2 and report["quick"]
    assert {"processor", "cores", "NumPy", "BLAS", "load average"} < set(report["machine"])
    assert list(report["stages"]) == ["vision", "stage1"]
    for found in report["stages"].values():
        assert set(found) == {"batch", "trained parameters", "GFLOP a sample", "samples/s", "sgemm GFLOP/s",
                              "share of sgemm", "data samples/s", "ms a step", "peak memory"}
        assert set(found["samples/s"]) == set(found["share of sgemm"]) == WAYS
        assert set(found["ms a step"]) == {"matrix products", "attention", "norms", "activations", "rotary",
                                           "cross-entropy", "embedding, patches", "optimiser", "other"}
        assert min(found["samples/s"].values()) > 0 and found["batch"] == 4 and 3e7 < found["peak memory"] < 1e9
    vision = report["stages"]["vision"]["ms a step"]
    assert vision["rotary"] == 0 < min(vision[kind] for kind in ("matrix products", "attention", "norms", "optimiser"))
    for title in ("GFLOP a sample", "samples/s, whole step, 2", "share of sgemm, forward and backward, 1",
                  "peak memory, MB", "matrix products", "sum"):
        assert re.search(rf"^\| {title} +\| [\d.%]+ +\| [\d.%]+ +\|$", run.stdout, re.M), title
    assert "PyTorch" not in run.stdout


def test_figures(train):
    """Two places of 4 samples, 6 GFLOP in all, three rounds; sgemm at 10 and 20 GFLOP/s, once at half of it."""
    stage, leaves = train.begin("vision", True, train.spelling)
    seconds = {"sgemm, 1": [1, 2, 1], "forward and backward, 1": [2, 4, 2], "whole step, 1": [3, 6, 3],
               "sgemm, 2": [1, 2, 1], "forward and backward, 2": [1, 2, 1], "whole step, 2": [2, 4, 3],
               **dict.fromkeys(train.PROFILE, [2, 9, 4])}
    seconds = {what: np.array(times, float) for what, times in seconds.items()}
    learned = train.new(stage, leaves)
    found = train.figures(seconds, 6e9, [1, 2], 2, stage, 1e10, [1, 2, 0.5], learned, None)
    assert found == {"batch": 4, "trained parameters": 0, "GFLOP a sample": 0.75, "data samples/s": 4,
                     "samples/s": {"forward and backward, 1": 4, "forward and backward, 2": 8, "whole step, 1": 8 / 3,
                                   "whole step, 2": 8 / 3},
                     "sgemm GFLOP/s": {"1": 10, "2": 20}, "ms a step": dict.fromkeys(train.PROFILE, 2000),
                     "share of sgemm": pytest.approx({"forward and backward, 1": 0.3, "forward and backward, 2": 0.3,
                                                      "whole step, 1": 0.2, "whole step, 2": 0.15})}


def counted(train, name):
    stage, leaves = train.begin(name, True, train.spelling)
    part, = stage.data(1, 3)[:1]
    with train.stopwatch() as watch:
        value, _, pull, _ = stage.loss(leaves, part)
        pull()
    assert np.isfinite(value) and min(watch.seconds["matrix products"], watch.seconds["attention"]) > 0
    assert ops.linear.__module__ == "tinycogvlm.nn.ops"                    # the stopwatch is gone
    return stage, part, watch.work


def test_operations_of_the_tower(train):
    """16 patches and CLS, 4 pictures, width 8, MLP 12, 2 layers; patches of 3 x 28 x 28. All of it trained: times 3."""
    _, (_, targets, _, _), work = counted(train, "vision")
    things = ((targets >= 0) & (targets < 80)).sum()
    block = 4 * 17 * (8 * 24 + 8 * 8 + 2 * 8 * 12) + 2 * 4 * 17 * 17 * 8            # linear; q k^T and p v
    assert work == 3 * 2 * (4 * 16 * (3 * 28 * 28) * 8 + 2 * block + things * 8 * 4 + 4 * 8 * 8)


def test_operations_of_a_stage_with_frozen_parts(train):
    """Captions: the tower has a forward only; the language expert and lm_head the gradient of their input only."""
    stage, (inputs, labels), work = counted(train, "stage1")
    B, T = inputs.ids.shape
    seeing, N = vision_expert_mask(inputs.types).sum(), len(inputs.pixels)
    tower = N * (16 * (3 * 28 * 28) * 8 + 2 * (17 * (8 * 24 + 8 * 8 + 2 * 8 * 12) + 2 * 17 * 17 * 8))
    adapter = N * 16 * (8 * 12 + 3 * 12 * 16)
    token = 4 * 12 * 12 + 3 * 12 * 16                       # Q, K, V, output; gate, up, down
    layer = token * (2 * B * T + seeing) + 3 * 2 * 12 * B * T * (T + 1) // 2
    head = 2 * (labels != -100).sum() * 12 * stage.config.vocab_size
    assert work == 2 * (tower + 3 * adapter + 2 * layer + head)


STAND_IN = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.*"))]
threads = [name for name in os.environ if name.endswith("_NUM_THREADS")]
print(json.dumps({"gradient": 1e-6, "argv": sys.argv[2:], "files": files, "threads": threads}), flush=True)
for line in sys.stdin:
    print(*{"1": (1000, 2000), "2": (3000, 1500)}[line.strip()[-1]], flush=True)
"""


def test_pytorch_is_asked_for_every_step_in_turn(train, tmp_path, monkeypatch):
    """By a stand-in: it claims 1000 s forward and backward for the batch in one piece, 3000 s in two."""
    monkeypatch.setattr(train, "TORCH", tmp_path / "stand_in.py")
    train.TORCH.write_text(STAND_IN, encoding="utf-8")
    stage, leaves = train.begin("stage1", True, train.spelling)
    found = train.measure(stage, leaves, [1, 2], rounds=2, places=2, square=64, python=sys.executable)["PyTorch"]
    assert found["argv"] == ["2"] and found["threads"] == []            # its threads are not ours to bound
    assert found["files"] == ["config.json", "expected/0-2.npz", "expected/1-2.npz", "leaves.npz", "stage.json",
                              "steps/0-1.npz", "steps/0-2.npz", "steps/1-1.npz", "steps/1-2.npz"]
    assert found["samples/s"] == pytest.approx({"forward and backward": 8 / 2000, "whole step": 8 / 3000})
    for ratio in found["ours / PyTorch"].values():
        assert 1 < ratio["lowest"] <= ratio["median"] <= ratio["highest"]

    train.TORCH.write_text("import sys; sys.exit(7)", encoding="utf-8")
    with pytest.raises(SystemExit, match="ended with exit code 7"):
        train.measure(stage, leaves, [1], rounds=1, places=1, square=64, python=sys.executable)


@pytest.mark.parametrize("name", list(stages.STAGES))
def test_pytorch_has_the_same_loss_and_gradients(train, name):
    pytest.importorskip("torch", reason="a comparison with PyTorch needs PyTorch")
    stage, leaves = train.begin(name, True, train.spelling)
    last = stage.samples // stage.batch - 1                 # of stage2, with larger pictures
    batches = {(place, 1): stage.data(1, step) for place, step in enumerate((1, last))}
    with train.pytorch(sys.executable, stage, leaves, batches) as torch:
        assert torch.found["gradient"] < 2e-5 and torch.found["loss"] < 1e-6, torch.found
        part, whole = torch.step(1, 1)
        assert 0 < part < whole


def test_pytorch_ends_where_gradients_differ(train, monkeypatch, capfd):
    pytest.importorskip("torch", reason="a comparison with PyTorch needs PyTorch")
    stage, leaves = train.begin("vision", True, train.spelling)
    real = train.together

    def wrong(*arguments):
        value, gradients, extras = real(*arguments)
        gradients["box.weight"][0, 0] += 2e-4 * abs(gradients["box.weight"]).max()
        return value, gradients, extras
    monkeypatch.setattr(train, "together", wrong)
    with pytest.raises(SystemExit, match="exit code 1"), \
            train.pytorch(sys.executable, stage, leaves, {(0, 1): stage.data(1, 0)}):
        pass
    assert "gradient of box.weight by" in capfd.readouterr().err
