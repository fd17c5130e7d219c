"""Which rung of a ladder a device gets: tensor cores are for Ampere and later, Turing stops at the rung before."""
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import random_inputs
from small_floats import KINDS, numbers, stored
from test_engine import models
from test_engine_gpu import cupy_or_skip
from test_kernels_compile import TABLE
from tinycogvlm import contracts
from tinycogvlm.kernels import Kernel
from tinycogvlm.kernels.library import backward, launch
from tinycogvlm.kernels.runner import build, gpu
from tinycogvlm.kernels.library.attention import attention

AMPERE_ON = {row.kernel for rows in TABLE.values() for row in rows if row.since == 80}
needs_runner = pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))


@pytest.fixture
def on(monkeypatch):
    """on(75): the CPU runner passes for a GPU of that compute capability; the set that fills with what is launched."""
    def of(capability):
        launched, call = set(), Kernel.__call__
        monkeypatch.setattr(gpu, "RUNNER", replace(gpu.RUNNER, capability=capability))
        monkeypatch.setattr(Kernel, "__call__", lambda self, *arguments, **named: (
            launched.add(self.name.partition("<")[0]), call(self, *arguments, **named))[1])
        return launched
    return of


def product(kind):
    x, types = stored(contracts.random(1, 70, 24), kind), np.array([[0, 1, 1, 0, 2] * 14])
    weights = [stored(contracts.random(66, 24, seed=seed, scale=0.2), kind) for seed in (1, 2)]
    yield (launch.expert_matmul(x, types, *weights),
           contracts.ops.routed_dense(numbers(x), types, *map(numbers, weights)))


def attended(kind):
    q, k, v = (stored(contracts.random(1, 2, 67, 32, seed=seed), kind) for seed in range(3))
    yield attention(q, k, v), contracts.ops.attention(*map(numbers, (q, k, v)))


def gradients(kind):
    x, dy = stored(contracts.random(1, 70, 24), kind), stored(contracts.random(1, 70, 40, seed=3), kind)
    weights = [stored(contracts.random(40, 24, seed=seed, scale=0.2), kind) for seed in (1, 2)]
    types = np.array([[0, 1, 1, 0, 2] * 14])
    vision = np.array([contracts.ops.expert_of(types, 0, t) == "vision" for t in range(70)])
    found, (exact_x, exact_dy) = backward.expert_matmul(dy, x, types, *weights), (numbers(x)[0], numbers(dy)[0])
    dx = np.where(vision[:, None], *(exact_dy @ numbers(weight) for weight in weights))
    yield found[0], dx[None]
    for gradient, mine in zip(found[1:3], (vision, ~vision)):
        yield gradient, exact_dy[mine].T @ exact_x[mine]


RUNGS = {product: ("expert_matmul_v3", "expert_matmul_v4"), attended: ("attention_v2", "attention_v3"),
         gradients: ("expert_dweight_v2", "expert_dweight_v3")}


@needs_runner
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize("op", RUNGS, ids=lambda op: op.__name__)
def test_the_rung_is_the_device_s(op, capability, kind, on):
    launched = on(capability)
    for found, right in op(kind):
        contracts.close(numbers(found), right, {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}[kind],
                        f"{op.__name__} on sm_{capability}")
    before, last = RUNGS[op]
    expected, other = (last, before) if capability >= 80 and kind != "float32" else (before, last)
    assert expected in launched and other not in launched


@needs_runner
@pytest.mark.parametrize("capability", [75, 80])
def test_a_whole_model(capability, on):
    """Turing never launches what only compiles for later GPUs, and gives the same logits to half precision."""
    _, engine = models("cogvlm1", np.float16)
    inputs = random_inputs(engine.config, ("image", 4))
    right = engine.logits(inputs)
    launched = on(capability)
    found = engine.logits(inputs)
    assert launched & AMPERE_ON == (set() if capability < 80 else {"expert_matmul_v4", "attention_v3"})
    size = np.abs(right).max()
    contracts.close(found / size, right / size, 2e-2, f"logits on sm_{capability}")


def test_a_gpu_is_asked_once(monkeypatch):
    asked = []

    class Device:
        attributes = property(lambda self: asked.append(self.id) or {"MultiProcessorCount": 40 + self.id})
        compute_capability = "75"

        def __init__(self, number):
            self.id = number

    class ndarray:
        __module__ = "cupy"

        def __init__(self, number):
            self.device = Device(number)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(Device=Device), ndarray=ndarray))
    gpu.numbered.cache_clear()
    try:
        for number in (0, 1, 0, 1, 0):
            assert gpu.device(ndarray(number)) == gpu.Device(75, 40 + number)
        assert asked == [0, 1]
    finally:
        gpu.numbered.cache_clear()                          # of the devices that are none


@pytest.mark.gpu
def test_what_the_gpu_says_of_itself():
    cupy = cupy_or_skip()
    found, device = gpu.device(cupy.zeros(1)), cupy.cuda.Device()
    assert found.capability == int(device.compute_capability) >= 75
    assert found.multiprocessors == device.attributes["MultiProcessorCount"] > 1
