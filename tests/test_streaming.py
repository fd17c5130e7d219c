"""load(stream=True): the same numbers to the last bit, from a checkpoint several times larger than memory."""
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tinycogvlm
from tinycogvlm.model.generate import generate
from tinycogvlm.model.look import look
from tinycogvlm.storage.checkpoint import save

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(tinycogvlm.__file__).parent.parent


@pytest.fixture
def stored(make_config, make_leaves, tmp_path):
    """stored(family, dtype, shards) -> the folder of a tiny random checkpoint, and its config."""
    def make(family, dtype, max_shard_bytes=5e9):
        config = make_config(family, num_hidden_layers=4, vision=dict(num_hidden_layers=3))
        save(tmp_path, make_leaves(config, np.float32), config, dtype, max_shard_bytes)
        return tmp_path, config
    return make


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
@pytest.mark.parametrize("max_shard_bytes", [5e9, 20_000], ids=["one file", "shards"])
def test_streamed_equals_resident(stored, make_inputs, family, dtype, arithmetic, max_shard_bytes):
    """Logits, greedy ids, loss and every gradient, bit for bit; with a picture and without."""
    folder, config = stored(family, dtype, max_shard_bytes)
    assert (len(list(folder.glob("*.safetensors"))) == 1) == (max_shard_bytes == 5e9)
    resident, streamed = (tinycogvlm.load(folder, dtype=arithmetic, stream=stream) for stream in (False, True))
    for rows in ([("image", 4), (3,)], [(6,)]):
        inputs = make_inputs(config, *rows)
        logits = resident.logits(inputs)
        assert logits.dtype == arithmetic and np.array_equal(streamed.logits(inputs), logits)
        assert np.array_equal(list(generate(streamed, inputs, 4)), list(generate(resident, inputs, 4)))
    inside = [vars(look(model, make_inputs(config, ("image", 4)), [5, 6], 1)).values() for model in (streamed, resident)]
    assert all(np.array_equal(seen, expected) for seen, expected in zip(*inside))
    (loss, pull), (loss_streamed, pull_streamed) = (model.loss(inputs, inputs.ids) for model in (resident, streamed))
    gradients, gradients_streamed = pull(), pull_streamed()
    assert loss == loss_streamed and gradients.keys() == gradients_streamed.keys()
    for name in gradients:
        assert np.array_equal(gradients[name], gradients_streamed[name]), name


def test_few_blocks_are_kept(stored, make_inputs):
    """No more than `resident_blocks` layers, or tensors outside of layers, are in memory after a forward pass."""
    folder, config = stored("cogvlm2", "BF16")
    for stream in (True, False):
        model = tinycogvlm.load(folder, stream=stream)
        model.logits(make_inputs(config, ("image", 4)))
        leaves = model.leaves
        assert len(leaves._blocks) == (leaves.resident_blocks if stream else 0)
        kept = sum(array.size for block in (leaves._resident, *leaves._blocks.values()) for array in block.values())
        used = sum(int(np.prod(shape)) for name, shape in config.shapes().items() if not name.endswith("inv_freq"))
        assert kept < used / 4 if stream else kept == used


SCRIPT = """
import hashlib, json, resource, sys
import numpy as np
import tinycogvlm
from tinycogvlm.model.generate import generate
from tinycogvlm.model.look import look
from tinycogvlm.inputs.prompt import Inputs, images
folder, stream, allowance = sys.argv[1], sys.argv[2] == "stream", int(sys.argv[3])
if allowance:
    np.ones((500, 500)) @ np.ones((500, 500))               # OpenBLAS takes its working memory now
    used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + allowance, used + allowance))
model = tinycogvlm.load(folder, stream=stream)
n = model.config.num_image_tokens
ids = np.array([[1] + [0] * n + [5, 6, 7, 8]])
types = np.array([[0] + [1] * n + [0] * 4])
size = model.config.vision.image_size
inputs = Inputs(ids, types, np.ones_like(ids), images(np.random.default_rng(0).standard_normal((1, 3, size, size))))
try:
    logits = model.logits(inputs)
    tokens = [int(ids[0]) for ids in generate(model, inputs, 2)]
except MemoryError:
    print("MemoryError")
else:
    print(json.dumps({"logits": hashlib.sha256(logits.tobytes()).hexdigest(), "tokens": tokens}))
"""
ALLOWANCE = 48 << 20            # bytes of anonymous memory beyond what Python, NumPy and the package take to begin with


def run(folder, how, allowance=0):
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(folder), how, str(allowance)], capture_output=True,
                          text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def large(make_config, tmp_path):
    """A bfloat16 checkpoint in shards, more than eight times the memory allowed. Removed after the test."""
    config = replace(make_config("cogvlm1", vision=dict(
        hidden_size=128, num_hidden_layers=3, num_heads=4, intermediate_size=384, patch_size=14, image_size=56)),
        vocab_size=12000, hidden_size=256, intermediate_size=768, num_hidden_layers=128, num_attention_heads=4,
        num_key_value_heads=4)
    numbers = np.random.default_rng(0).standard_normal(12000 * 256 + 997).astype(np.float32) * np.float32(0.04)
    tensors = {}
    for i, (name, shape) in enumerate(config.shapes().items()):
        if not name.endswith("inv_freq"):                   # windows of one array: different, and quickly made
            start = i * 61 % 997
            tensors[name] = numbers[start:start + int(np.prod(shape))].reshape(shape)
            if "norm" in name:
                tensors[name] = 1 + tensors[name]
    folder = tmp_path / "large"
    save(folder, tensors, config, "BF16", max_shard_bytes=150e6)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts anonymous mappings on Linux alone")
@pytest.mark.slow
def test_checkpoint_larger_than_memory(large):
    """A picture's forward pass and two tokens under a limit that the model does not fit into, with identical results.

    RLIMIT_DATA limits what is not backed by a file; without streaming it is not enough, so it is a limit.
    """
    size = sum(path.stat().st_size for path in large.glob("model-*.safetensors"))
    assert size > 8 * ALLOWANCE
    streamed = run(large, "stream", ALLOWANCE)
    assert run(large, "resident", ALLOWANCE) == "MemoryError"
    assert streamed != "MemoryError" and streamed == run(large, "resident")
    assert len(json.loads(streamed)["tokens"]) == 2
