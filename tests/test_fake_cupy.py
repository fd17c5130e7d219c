"""The stand-in for CuPy is as strict as CuPy: in names and parameters, with arrays, in a capture, about memory."""
import importlib
import inspect

import fake_cupy
import numpy as np
import pytest
from fake_cupy.memory import PAGE, UNIT, OutOfMemoryError, Pool, machine

from tinycogvlm.kernels import ArgumentError, load
from tinycogvlm.kernels.runner import build

needs_runner = pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))


@pytest.fixture
def cupy():
    with fake_cupy.installed(memory=100 << 20, gpus=2) as module:
        yield module


def public(thing):
    return {name for name in vars(thing) if not name.startswith("_")}


def test_only_what_cupy_has():
    """Names, methods, and each function's parameters, of the package as it is installed (no GPU is needed)."""
    real = pytest.importorskip("cupy", reason="needs the package cupy-cuda12x or cupy-cuda13x, without a GPU")
    fake, cuda = fake_cupy.cupy, fake_cupy.cuda
    pairs = [(fake, real, public(fake)), (fake.ndarray, real.ndarray, public(fake.ndarray)),
             (fake.RawModule, real.RawModule, {"get_function"}), (fake.cuda.Device, real.cuda.Device, None),
             (fake.RawKernel, real.RawKernel, {"max_dynamic_shared_size_bytes", "shared_size_bytes", "name", "code"}),
             (cuda.Stream, real.cuda.Stream, {"begin_capture", "end_capture", "synchronize", "null"}),
             (cuda.Event, real.cuda.Event, {"record", "synchronize"}),
             (cuda.Graph, real.cuda.Graph, {"launch"}),
             (cuda, real.cuda, {"get_elapsed_time", "get_cublas_handle"}), (cuda.runtime, real.cuda.runtime, None),
             (Pool, real.cuda.MemoryPool, {"free_all_blocks", "used_bytes", "total_bytes", "free_bytes"}),
             (fake_cupy.cupyx, importlib.import_module("cupyx"), {"empty_pinned"}),
             (cuda.compiler, real.cuda.compiler, {"CompileException"}),
             (cuda.memory, real.cuda.memory, {"OutOfMemoryError"}), (cuda.driver, real.cuda.driver, {"CUDADriverError"})]
    for ours, theirs, names in pairs:
        names = {name for name in (public(ours) if names is None else names) if name != "id"}
        assert {name for name in names if not hasattr(theirs, name)} == set()
        for name in names:
            try:
                wanted = inspect.signature(getattr(theirs, name)).parameters
            except (TypeError, ValueError):                 # compiled code that does not tell
                continue
            if any(each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in wanted.values()):
                continue
            function = getattr(ours, name)
            if inspect.isfunction(function):
                assert set(inspect.signature(function).parameters) <= set(wanted), name
    for name in ("finfo", "float16", "uint32"):
        assert getattr(real, name) is getattr(np, name)


@pytest.mark.parametrize("mistake, error, said", [
    (lambda x, a, cp: np.asarray(x), TypeError, "Implicit conversion"),
    (lambda x, a, cp: x + a, TypeError, "Unsupported type"), (lambda x, a, cp: a + x, TypeError, "Unsupported type"),
    (lambda x, a, cp: x.__setitem__(0, a[0]), TypeError, "Unsupported type"),
    (lambda x, a, cp: cp.exp(x, out=x[:1]), ValueError, "Out shape"),
    (lambda x, a, cp: cp.exp(x, where=x > 0), TypeError, "where"),
    (lambda x, a, cp: x.flags.writeable, AttributeError, "writeable"),
    (lambda x, a, cp: x[cp.asarray([7])], IndexError, "out of bounds"),
    (lambda x, a, cp: x.__setitem__(cp.asarray([1, 1]), x[:2]), AssertionError, "stands twice in a scatter"),
    (lambda x, a, cp: cp.ascontiguousarray(a), TypeError, "incorrect type"),
    (lambda x, a, cp: cp.concatenate([x, a]), TypeError, "incorrect type"),
    (lambda x, a, cp: x.T.set(np.zeros((4, 3), np.float32)), RuntimeError, "non-contiguous"),
    (lambda x, a, cp: x.set(np.zeros((3, 4))), TypeError, "same dtype"),
    (lambda x, a, cp: cp.add.at(x, 0), AttributeError, "NoneType"),
    (lambda x, a, cp: cp.cuda.Device(1).use() and x + 1, ValueError, "array device = 0 while current = 1"),
    (lambda x, a, cp: cp.cuda.Device(2), RuntimeError, "invalid device"), (lambda x, a, cp: hash(x), TypeError, "hash"),
    (lambda x, a, cp: cp.no_such_name, AttributeError, "no_such_name")])
def test_what_is_refused(mistake, error, said, cupy):
    a = np.ones((3, 4), np.float32)
    with pytest.raises(error, match=said):
        mistake(cupy.asarray(a), a, cupy)
    cupy.cuda.Device(0).use()


def test_numbers_are_numpys(cupy):
    """Of what the package does with arrays; new memory is NaN, and a view is the same memory."""
    a = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    x = cupy.asarray(a)
    assert np.isnan(cupy.empty(3).get()).all()
    for function in (lambda x, xp: xp.where(x > 0, x, 0) + 2 * x / 3, lambda x, xp: x @ x.T, lambda x, xp: x[1:, ::2],
                     lambda x, xp: xp.einsum("...d,...d->...", x, x), lambda x, xp: x.mean(-1, keepdims=True) - 1,
                     lambda x, xp: xp.concatenate([x, x], 1).reshape(2, -1), lambda x, xp: xp.stack([x, x], -1),
                     lambda x, xp: np.exp(x.astype(np.float16)), lambda x, xp: x[:, xp.asarray([2, 0])], abs,
                     lambda x, xp: xp.broadcast_to(x[:, None], (3, 2, 4)).sum(), lambda x, xp: -x ** 2 % 3,
                     lambda x, xp: x.max(1), lambda x, xp: x.argmax(), lambda x, xp: xp.clip(xp.rint(x), -1, 1)):
        arguments = () if function is abs else (np,), () if function is abs else (cupy,)
        right, found = function(a, *arguments[0]), function(x, *arguments[1])
        assert found.dtype == right.dtype and found.shape == right.shape
        assert np.allclose(found.get(), right, rtol=1e-6)
    x[0] += 1
    assert np.array_equal(x[0].get(), a[0] + 1) and np.array_equal(x[1].get(), a[1])


COPY = "__global__ void copy(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }"
WIDE = ("__global__ void wide(float* y) { __shared__ float own[256]; extern __shared__ float s[];\n"
        "own[threadIdx.x] = s[0]; __syncthreads(); y[0] = own[255 - threadIdx.x]; }")


@needs_runner
def test_a_captured_graph(cupy):
    """It records launches alone; replayed it reads what is there then; what it touches must live on."""
    kernel, x, y = load(COPY, "copy"), cupy.zeros(32, np.float32), cupy.zeros(32, np.float32)
    stream = cupy.cuda.Stream(non_blocking=True)

    def capture(work):
        with stream:
            stream.begin_capture()
            try:
                work()
            finally:
                graph = stream.end_capture()
        return graph
    graph = capture(lambda: kernel((1,), (32,), (x, y)))
    x[:] = 5
    assert y.get().max() == 0
    graph.launch()
    assert y.get().min() == 5
    for mistake, said in ((lambda: cupy.empty(3), "memory is allocated"), (lambda: x.get(), "D2H transfers"),
                          (lambda: cupy.asarray(np.ones(3)), "H2D transfers"), (lambda: x.fill(1), "no kernel of ours"),
                          (cupy.cuda.Device().synchronize, "not permitted when stream is capturing")):
        with pytest.raises((AssertionError, RuntimeError), match=said):
            capture(mistake)
    x = None
    with pytest.raises(AssertionError, match="copy touches memory that has been freed"):
        graph.launch()


@needs_runner
def test_arguments_of_kernels_are_checked(cupy):
    kernel, x = load(COPY, "copy"), cupy.zeros((32, 2), np.float32)
    with pytest.raises(ArgumentError, match="not contiguous"):
        kernel((1,), (32,), (x[:, 0], x))
    with pytest.raises(ArgumentError, match="array of float64, it must be an array of float32"):
        kernel((1,), (32,), (x.astype(np.float64), x))
    for dynamic in (46 << 10, 48 << 10, 100 << 10):         # with what it has of its own, the first fits, the second not
        load(WIDE, "wide")((1,), (1,), (x,), dynamic)
        raw = cupy.RawModule(code=WIDE).get_function("wide")
        if dynamic > 47 << 10:
            with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_VALUE"):
                raw((1,), (1,), (x,), shared_mem=dynamic)


def test_the_pool_is_cupys():
    """Best fit, split, merged; pieces that are free as a whole go back, and what is left of others does not."""
    pool = Pool(10 * PAGE)
    large, small = pool.allocate(4 * PAGE), pool.allocate(1)
    assert (pool.used, pool.total, pool.taken) == (4 * PAGE + UNIT, 4 * PAGE + UNIT, 4 * PAGE + UNIT)
    pool.release(large)
    first, second = pool.allocate(PAGE), pool.allocate(PAGE)
    assert pool.total == 4 * PAGE + UNIT and second.before is first and second.after.size == 2 * PAGE
    pool.release(second)
    assert first.after.size == 3 * PAGE and len(pool.free) == 1
    pool.free_all_blocks()
    assert pool.total == 4 * PAGE + UNIT                    # `first` holds the whole piece
    with pytest.raises(OutOfMemoryError, match=r"Out of memory allocating 14,680,064 bytes \(allocated so far: 8,389,1"):
        pool.allocate(7 * PAGE)
    pool.release(first)
    assert pool.allocate(7 * PAGE).size == 7 * PAGE and pool.total == 7 * PAGE + UNIT     # for which it goes back
    pool.release(small)
    assert pool.used_bytes() == 7 * PAGE and pool.peak_taken == 7 * PAGE + UNIT


def test_arrays_without_content():
    """Shapes and dtypes are those of NumPy; memory is counted, and none of it touched: 100 GB here."""
    with fake_cupy.installed(memory=101 * 10 ** 9, content=False) as cupy:
        arrays = [cupy.empty((10 ** 4, 25000), np.float32) for _ in range(100)]
        x = arrays[0]
        assert (x[:, :5] * 2 > 0).shape == (10 ** 4, 5) and x[:3].max(-1).dtype == np.float32
        assert cupy.cuda.Device().mem_info[0] < 10 ** 9
        with pytest.raises(OutOfMemoryError):
            x + x
        del x, arrays
        assert cupy.get_default_memory_pool().used_bytes() == 0 and machine.done["op"] > 3
