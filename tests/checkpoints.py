"""What the tests of files and of checkpoints share: tensors, folders as Hugging Face ships them, memory in use."""
import json
from pathlib import Path

import numpy as np
import safetensors.numpy

GOLDEN = Path(__file__).parent / "golden"
SHAPES = {"model.embed_tokens.weight": (50, 6), "model.layers.0.mlp.weight": (30, 6),
          "model.layers.1.mlp.weight": (30, 6),
          "model.layers.10.mlp.weight": (30, 6), "model.vision.transformer.layers.0.a.weight": (7, 5),
          "model.vision.transformer.layers.0.a.bias": (7,), "model.norm.weight": (6,), "lm_head.weight": (50, 6)}


def generated(shapes, seed=0, scale=1.0):
    """{name: float32 array} of any size at once: views of one pool of random numbers, each from another place on."""
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    pool = np.random.default_rng(seed).standard_normal(max(sizes) + 7919 * len(sizes), np.float32)
    pool *= np.float32(scale)
    return {name: pool[7919 * i:7919 * i + size].reshape(shape)
            for i, ((name, shape), size) in enumerate(zip(shapes.items(), sizes))}


def float32(array):
    return array.astype(np.float32, copy=False)


def contents(checkpoint):
    return {name: (tensor.dtype, tensor.shape, tensor.numpy().tobytes()) for name, tensor in checkpoint.items()}


class Settings:
    """Stands in for a Config: what `save` needs of it."""
    fields = {}

    def to_dict(self):
        return self.fields


def sharded(folder, seed=0):
    """A folder of two shards as Hugging Face ships it, written by the package."""
    arrays = generated(SHAPES, seed)
    names = list(arrays)
    weight_map = {}
    for i, part in enumerate((names[:3], names[3:])):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        safetensors.numpy.save_file({name: arrays[name] for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    write_index(folder, weight_map)
    return arrays, weight_map


def write_index(folder, weight_map):
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def assert_holds(checkpoint, arrays):
    assert len(checkpoint) == len(arrays) and set(checkpoint) == set(arrays)
    for name, array in arrays.items():
        assert checkpoint[name].numpy().tobytes() == array.tobytes() and checkpoint[name].shape == array.shape


class Convert:
    """float32, and the sizes it was called with."""

    def __init__(self, dtype=np.float32):
        self.dtype, self.sizes = dtype, []

    def __call__(self, array):
        self.sizes.append(array.size)
        return array.astype(self.dtype, copy=False)


class Crash(BaseException):
    pass


STREAM = r"""
import resource, sys, zlib
import numpy as np
from tinycogvlm.storage.checkpoint import Checkpoint
from tinycogvlm.storage.leaves import Leaves
stream = sys.argv[2] == "stream"
with open("/proc/self/status") as status:
    now = next(int(line.split()[1]) for line in status if line.startswith("VmData")) << 10
resource.setrlimit(resource.RLIMIT_DATA, (now + 50_000_000, resource.RLIM_INFINITY))
got = Leaves(Checkpoint(sys.argv[1]), lambda array: array.astype(np.float32, copy=False), stream=stream,
             tables=("model.embed_tokens.weight",))
try:
    for _ in range(2):
        for name in got:
            print(name, zlib.crc32(got[name][:] if name == "model.embed_tokens.weight" else got[name]))
except MemoryError:
    print("MemoryError")
with open("/proc/self/status") as status:
    print("peak", next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) << 10)
"""
