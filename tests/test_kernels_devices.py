"""Which rung of a ladder a device gets: tensor cores are for Ampere and later, Turing stops at the rung before."""
from dataclasses import replace

import fake_cupy
import numpy as np
import pytest

from conftest import random_inputs
from small_floats import KINDS, numbers, stored
from test_engine import models
from test_kernels_compile import TABLE
from tinycogvlm import contracts
from tinycogvlm.kernels import ArgumentError, CompileError, Kernel, engine as engine_module, load, ops as kernel_ops
from tinycogvlm.kernels.engine import Engine
from tinycogvlm.kernels.library import backward, launch
from tinycogvlm.kernels.library.attention import attention
from tinycogvlm.kernels.runner import build, gpu
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.model.decoder import KVCache
from tinycogvlm.model.generate import Sampling
from tinycogvlm.model.route import Route

EVERYWHERE = {row.kernel for rows in TABLE.values() for row in rows if row.since < 80}
AMPERE_ON = {row.kernel for rows in TABLE.values() for row in rows} - EVERYWHERE
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


RUNGS = {product: ("expert_matmul_v3", "expert_matmul_v5"), attended: ("attention_v2", "attention_v3"),
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


# ------------------------------------------------------------------------------------------------------ several GPUs

@pytest.fixture
def two():
    """The stand-in for CuPy with two GPUs"""
    with fake_cupy.installed(gpus=2, capability="75") as cupy:
        yield cupy


def zeros(cupy, number):
    """An array on GPU `number`"""
    with cupy.cuda.Device(number):
        return cupy.zeros(32, np.float32)


@pytest.fixture
def compiled(two, monkeypatch):
    """[(the text, the GPU that was current)] of what is compiled"""
    texts, RawModule = [], two.RawModule
    monkeypatch.setattr(two, "RawModule", lambda code, **named: texts.append((code, two.cuda.Device().id))
                        or RawModule(code=code, **named))
    return texts


def test_a_gpu_is_asked_once(two, monkeypatch):
    asked, numbers = [], [0, 1, 0, 1, 0]
    monkeypatch.setattr(two.cuda.Device, "attributes", property(
        lambda self: asked.append(self.id) or {"MultiProcessorCount": 40 + self.id}))
    assert [gpu.device(zeros(two, number)) for number in numbers] == [gpu.Device(75, 40 + n) for n in numbers]
    assert asked == [0, 1]


COPY = "__global__ void copy(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }"


@needs_runner
def test_a_kernel_is_compiled_for_each_gpu_and_runs_where_its_arrays_lie(two, compiled):
    """Whichever GPU is the current one, which it is again afterwards."""
    kernel = load(COPY, "copy")
    for number, shared in ((1, 0), (0, 100_000), (1, 0), (0, 0)):
        kernel((1,), (32,), (zeros(two, number), zeros(two, number)), shared)
    assert [number for _, number in compiled] == [1, 0] and two.cuda.Device().id == 0
    with pytest.raises(ArgumentError, match=r"the arrays for copy lie on several GPUs, \[0, 1\]; copy them to one"):
        kernel((1,), (32,), (zeros(two, 0), zeros(two, 1)))
    with pytest.raises(ArgumentError, match="argument 2 of copy is a NumPy array, others are CuPy's"):
        kernel((1,), (32,), (zeros(two, 0), np.zeros(32, np.float32)))


@needs_runner
def test_a_changed_header_is_compiled_anew(two, compiled, tmp_path):
    """CuPy keeps compiled kernels on the disk, under their text: which must change when a header does."""
    (tmp_path / "k.cu").write_text('#include "k.cuh"\n' + COPY)
    for value in (1, 2, 1):
        (tmp_path / "k.cuh").write_text(f"#define VALUE {value}\n")
        load(tmp_path / "k.cu", "copy")((1,), (32,), (zeros(two, 0), zeros(two, 0)))
    texts = [text for text, _ in compiled]
    assert len(texts) == len(set(texts)) == 2 and all(text.startswith('#include "k.cuh"') for text in texts)


@needs_runner
def test_that_compiling_takes_long_is_said_once(two, monkeypatch, capsys):
    gpu.say_once.cache_clear()
    for long, said in ((60, 0), (-1, 1), (-1, 0)):
        monkeypatch.setattr(gpu, "LONG", long)
        load(COPY + f"// {long} {said}\n", "copy")((1,), (32,), (zeros(two, 0), zeros(two, 0)))
        assert capsys.readouterr().err.count("compiled for this GPU") == said


@pytest.mark.parametrize("said, sentence", [
    ("CompileException", "source: the GPU's compiler refuses copy: k.cu\\(1\\): error: expected a ';'"),
    ("RuntimeError", "source: copy cannot be compiled for the GPU: CuPy failed to load libnvrtc.so.12; pip install")])
def test_what_nvrtc_refuses_is_one_sentence(said, sentence, two, monkeypatch):
    log = "k.cu(1): error: expected a ';'\n\n1 error detected in the compilation of \"k.cu\".\n"
    error = {"CompileException": two.cuda.compiler.CompileException(log),
             "RuntimeError": RuntimeError("CuPy failed to load libnvrtc.so.12")}[said]

    def fail(**_):
        raise error
    monkeypatch.setattr(two, "RawModule", fail)
    with pytest.raises(CompileError, match=sentence):
        load(COPY, "copy")((1,), (32,), (zeros(two, 0), zeros(two, 0)))


def test_lists_of_rows_are_kept_for_each_gpu(two):
    """On the GPU for which they were made, once; those of a route with the route."""
    found = [kernel_ops.all_rows(70, two, number)[0] for number in (0, 1, 0, 1)]
    assert [rows.device.id for rows in found] == [0, 1, 0, 1] and found[0] is found[2] and found[1] is found[3]
    assert isinstance(kernel_ops.all_rows(70, np, None)[0], np.ndarray)
    routes = [Route(np.array([[0, 1, 1, 0]])) for _ in range(2)]
    for number, route in enumerate(routes):
        x = zeros(two, number)
        rows, language_rows = kernel_ops.rows_of(route, x)
        assert (rows.device.id, language_rows) == (number, 64) and kernel_ops.rows_of(route, x)[0] is rows


def test_an_engine_works_on_the_gpu_of_its_weights(two, monkeypatch):
    """Whatever the current one is: its cache, its forward pass, each of its steps; and not between them."""
    seen = []
    model, _ = models("cogvlm1")
    engine = Engine(model.config, model.leaves)
    engine.gpu = 1
    monkeypatch.setattr(CogVLM, "new_cache", lambda *_: seen.append(("cache", two.cuda.Device().id)))
    monkeypatch.setattr(CogVLM, "logits", lambda *_, **more: seen.append(("logits", two.cuda.Device().id)) or np.zeros((1, 1, 9)))

    class Graph:
        captured = None

        def __init__(self, *_):
            seen.append(("graph", two.cuda.Device().id))

        def choose(self, *_):
            seen.append(("choose", two.cuda.Device().id))

        def reader(self):
            return lambda: np.array([5], np.int32)

        begin = next = choose
    monkeypatch.setattr(engine_module, "DecodeGraph", Graph)
    inputs = random_inputs(model.config, (3,))
    engine.new_cache(1, 4)
    for _ in engine.steps(inputs, KVCache(model.config, 1, 6), np.zeros((1, 3), int), 3, Sampling()):
        assert two.cuda.Device().id == 0
    assert seen == [(what, 1) for what in ("cache", "logits", "graph", *["choose"] * 4)]


@pytest.mark.gpu
def test_what_the_gpu_says_of_itself(cupy):
    found, device = gpu.device(cupy.zeros(1)), cupy.cuda.Device()
    assert found.capability == int(device.compute_capability) >= 75
    assert found.multiprocessors == device.attributes["MultiProcessorCount"] > 1
