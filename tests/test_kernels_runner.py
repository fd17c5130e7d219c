"""The CPU runner computes what a GPU computes; what is wrong with a call or a source is said in one sentence."""
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from tinycogvlm import kernels
from tinycogvlm.errors import UserError
from tinycogvlm.kernels.runner import build, cpu, source
from tinycogvlm.kernels.tools.example import examples
from tinycogvlm.kernels.tools.profile import profile, table
from tinycogvlm.kernels.tools.step import step
from tinycogvlm.nn.arrays import round_to

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

FEATURES = Path(__file__).parent / "kernels" / "features.cu"
f4, i4 = np.float32, np.int32
ADD = """
__global__ void add(const float* x, float* y, int n, float by) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] + by;
}
"""


def run(name, grid, block, *args, **options):
    shared_mem = options.pop("shared_mem", 0)
    kernels.load(FEATURES, name, **options)(grid, block, args, shared_mem)


@pytest.fixture(params=["forward", "backward", "shuffled"])
def order(request):
    return request.param


def lanes(*values):
    return np.array([np.broadcast_to(value, 32) for value in values]).ravel()


# ------------------------------------------------------------------------------------------------ what is emulated

def test_indices_in_three_dimensions(order):
    y = np.zeros(12 * 24, i4)
    run("index", (2, 3, 2), (4, 3, 2), y, order=order)
    assert y.tolist() == [1000 * block + 100 * z + 10 * y + x
                          for block in range(12) for z in range(2) for y in range(3) for x in range(4)]


def test_barriers_that_vote(order):
    x, y = np.arange(64, dtype=i4) % 4, np.zeros(64, i4)
    run("barriers", 1, 64, x, y, order=order)
    assert (y == 100 * 16 + 1).all()
    run("barriers", 1, 64, x + i4(3), y, order=order)
    assert (y == 100 * 64 + 11).all()


def test_shuffles(order):
    x, y, t = np.random.default_rng(0).standard_normal(32).astype(f4), np.zeros(192, f4), np.arange(32)
    run("shuffles", 1, 32, x, y, order=order)
    up, down = np.where(t < 3, t, t - 3), np.where(t % 16 >= 14, t, t + 2)
    assert np.array_equal(y, lanes(x[5], x[t // 8 * 8 + (t + 1) % 8], x[up], x[down], x[t ^ 9], x[30 + t % 2]))


def test_votes_and_reductions(order):
    x, y = np.array([1, 1, 3, 2] * 8, i4), np.zeros(224, np.uint32)
    run("votes", 1, 32, x, y, order=order)
    masks = {value: int("".join("1" if v == value else "0" for v in x[::-1]), 2) for value in (1, 2, 3)}
    matches, active = [masks[v] for v in x], [masks[1] if v == 1 else 0 for v in x]
    assert np.array_equal(y, lanes(masks[1], 1, 1, matches, 0, 56 + 3000 + 10000 + 300000, active))
    run("votes", 1, 32, np.ones(32, i4), y, order=order)
    assert (y[128:160] == 0).all()                          # the full mask, and 1 for "all the same"


def test_atomics(order):
    total, y, big = np.zeros(1, f4), np.array([0, 0, -5, 5, 0, 63, 0, 0, 0, 3], i4), np.zeros(1, np.uint64)
    run("atomics", 3, 40, total, y, big, order=order)
    n = 120
    xor = np.bitwise_xor.reduce(np.arange(n))
    assert y.tolist() == [n, -2 * n, n - 1, -(n - 1), 31, 32, xor, n % 10, n * (n - 1) // 2, 7]
    assert total[0] == n / 2 and big[0] == n << 33


def test_vector_types():
    x, y, a, b = np.arange(128, dtype=f4), np.zeros(128, f4), np.arange(64, dtype=i4), np.zeros(128, np.int16)
    run("vectors", 1, 32, x, y, a, b)
    assert np.array_equal(y.reshape(-1, 4), x.reshape(-1, 4)[:, ::-1])
    assert b.reshape(-1, 4)[3].tolist() == [6, 7, 12, 16]


def test_half_rounds_as_numpy_does():
    """Every operation on random bit patterns of every size, subnormal and infinite ones among them."""
    random, n = np.random.default_rng(1), 20000
    a, b, c = random.integers(0, 1 << 16, (3, n)).astype(np.uint16).view(np.float16)
    y = np.zeros((8, n), np.float16)
    run("half_arithmetic", 1, 32, a, b, c, y, i4(n))
    with np.errstate(all="ignore"):
        wide = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
        expected = [a + b, a - b, a * b, a / b, wide.astype(np.float16), np.sqrt(np.abs(a)), a + np.float16(1),
                    b + np.float16(1)]
    for actual, right in zip(y, expected):
        assert np.array_equal(actual, right, equal_nan=True)


def test_half_conversions():
    every = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    y = np.zeros(1 << 16, f4)
    run("from_half", 1, 64, every, y, i4(1 << 16))
    assert np.array_equal(y, every.astype(f4), equal_nan=True)
    finite = np.sort(every[np.isfinite(every)].astype(np.float64))
    between = (finite[1:] + finite[:-1]) / 2                # ties, and a little beside them in double and in float
    x = np.concatenate([finite, between, between * (1 + 2.0 ** -50), between * (1 - 2.0 ** -50), [65519.9, 65520, 1e9]])
    of_double, of_float = np.zeros((2, len(x)), np.float16)
    run("to_half", 1, 64, x, of_double, of_float, i4(len(x)))
    with np.errstate(over="ignore"):
        assert np.array_equal(of_double, x.astype(np.float16))
        assert np.array_equal(of_float, x.astype(f4).astype(np.float16))


def bfloat(values):
    """float64 -> the nearest numbers of 8 binary digits, ties to even; within the normal range."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.round(fraction * 256), exponent - 8)


def test_bfloat16_rounds_once():
    random, n = np.random.default_rng(2), 20000
    a, b, c = (bfloat(random.standard_normal(n) * 2.0 ** random.integers(-9, 9, n)) for _ in range(3))
    bits = [(v.astype(f4).view(np.uint32) >> 16).astype(np.uint16) for v in (a, b, c)]
    y = np.zeros((7, n), np.uint16)
    run("bfloat_arithmetic", 1, 32, *bits, y, i4(n))
    expected = [a + b, a - b, a * b, a / b, a * b + c, 3 * a, 3 * b]
    for actual, right in zip(y, expected):
        assert np.array_equal((actual.astype(np.uint32) << 16).view(f4), bfloat(right))
    x = random.standard_normal(1000).astype(f4)
    assert np.array_equal(bfloat(x.astype(np.float64)), round_to(x, "bfloat16"))


def test_intrinsics():
    f, i = np.zeros(10, f4), np.zeros(16, i4)
    run("intrinsics", 1, 1, f, i)
    assert f.tolist() == [3, 0.5, 1, 1, 1, 0.25, 8, 3, 2, 0]
    assert i.tolist() == [8, 31, 4, 1, 2, -2, -3, 2 ** 31 - 1, 0, 2, 0x77553311, 15, -2, 32, 3, 1]


def test_templates():
    for T, dtype in (("double", np.float64), ("int", i4)):
        x, y = np.arange(8).astype(dtype), np.zeros(1, dtype)
        run(f"sum_of<{T}, 8>", 1, 8, x, y)
        assert y[0] == 28


@pytest.mark.parametrize("check", [None, "race"])
def test_dynamic_shared_memory(check):
    x, y = np.arange(40, dtype=f4), np.zeros(40, f4)
    run("two_dynamic_arrays", 1, 40, x, y, i4(40), shared_mem=320, check=check)
    assert np.array_equal(y, x[::-1] + 2 * x)


@pytest.mark.parametrize("check", [None, "race"])
def test_matrix_fragments(check, order):
    random = np.random.default_rng(3)
    a, b = random.integers(-8, 8, (16, 16)).astype(np.float16), random.integers(-8, 8, (8, 16)).astype(np.float16)
    d, registers = np.zeros((16, 8), f4), np.zeros((2, 32), np.uint32)
    run("fragments", 1, 32, a, b, d, registers, check=check, order=order)
    added = np.zeros((16, 8))
    added[:8, ::2] = 100                                    # the first of the four sums of each lane
    assert np.array_equal(d, a.astype(f4) @ b.astype(f4).T + added)
    pairs, lane = registers.view(np.float16).reshape(2, 32, 2), np.arange(32)
    assert np.array_equal(pairs[0], np.stack([b[lane // 4, 8 + lane % 4 * 2], b[lane // 4, 9 + lane % 4 * 2]], 1))
    assert np.array_equal(pairs[1], np.stack([b[lane % 4 * 2, lane // 4], b[lane % 4 * 2 + 1, lane // 4]], 1))


def test_copies_land_when_they_are_waited_for():
    x, y = np.arange(8, dtype=f4), np.zeros(3, f4)
    run("pipeline", 1, 1, x, y, i4(8))
    assert y[0] == 3 and np.isnan(y[1]) and y[2] == 7
    run("pipeline", 1, 1, x, y, i4(4))
    assert y[2] == 0                                        # what is not to be copied becomes 0
    with pytest.raises(kernels.RaceError, match="nothing waited for it"):
        run("pipeline", 1, 1, x, y, i4(8), check="race")


def test_printf_and_assert(capfd):
    run("speaks", 1, 64, i4(3))
    assert capfd.readouterr().out == "n is 3\n"
    line = 1 + FEATURES.read_text().splitlines().index("    assert(n < 5);")
    with pytest.raises(kernels.KernelError, match=rf"features.cu:{line}: assert\(n < 5\) does not hold for thread"):
        run("speaks", 1, 64, i4(5))


def test_arrays_that_overlap_stay_one():
    y = np.arange(100, dtype=f4)
    kernels.load(ADD, "add")((1,), (64,), (y[10:60], y[40:90], i4(10), f4(1)))
    assert y[40:50].tolist() == list(range(11, 21)) and y[50] == 50 and y[39] == 39


# ------------------------------------------------------------------------------------------- what is said of mistakes

X, Y = np.zeros(8, f4), np.zeros(8, f4)
FROZEN = np.zeros(8, f4)
FROZEN.flags.writeable = False


@pytest.mark.parametrize("args, sentence", [
    ((X, Y, i4(8)), r"add takes 4 arguments \(x, y, n, by\), 3 were given"),
    ((X, Y, 8, f4(1)), r"argument 3 of add \(n\) is Python's 8, which has no size, it must be numpy.int32\(...\)"),
    ((X, Y, i4(8), 1.0), r"argument 4 of add \(by\) is Python's 1.0, .* it must be numpy.float32\(...\)"),
    ((X, Y, np.int64(8), f4(1)), r"\(n\) is int64, it must be numpy.int32"),
    ((X.astype(np.float64), Y, i4(8), f4(1)), r"\(x\) is an array of float64, it must be an array of float32"),
    ((X, i4(8), i4(8), f4(1)), r"argument 2 of add \(y\) is of type int32, it must be an array of float32"),
    ((X, Y[::2], i4(4), f4(1)), r"\(y\) is not contiguous"),
    ((X, FROZEN, i4(8), f4(1)), r"\(y\) is read-only, though the kernel writes it"),
    ((X, Y, X, f4(1)), r"\(n\) is of type ndarray"),
    ((X.astype(">f4"), Y, i4(8), f4(1)), r"\(x\) is an array of float32 in another machine's byte order, it must be"),
], ids=lambda value: None)
def test_wrong_arguments(args, sentence):
    with pytest.raises(kernels.ArgumentError, match=sentence):
        kernels.load(ADD, "add")((1,), (32,), args)


@pytest.mark.parametrize("grid, block, shared, sentence", [
    ((1,), (2048,), 0, "2048 in x; 1 to 1024"), ((1,), (64, 32), 0, "2048 threads; 1024 are the most"),
    ((0,), (32,), 0, "0 in x"), ((1, 70000), (32,), 0, "70000 in y; 1 to 65535"), ((1.5,), (32,), 0, "whole numbers"),
    ((1.0,), (32,), 0, "whole numbers"), (([1],), (32,), 0, "whole numbers"),
    ((1,), (32,), 1 << 20, "1048576 bytes of dynamic shared memory"), ((1,), (1, 1, 65), 0, "65 in z; 1 to 64")])
def test_wrong_sizes(grid, block, shared, sentence):
    with pytest.raises(kernels.ArgumentError, match=sentence):
        kernels.load(ADD, "add")(grid, block, (X, Y, i4(8), f4(1)), shared)


HUGE = (131072, 32768, 3)                                    # 3 x 2^32 blocks


@pytest.mark.parametrize("order, last", [("forward", (3, 1, 0)), ("backward", (131068, 32766, 2))])
def test_a_grid_of_more_than_2_to_the_32_blocks(order, last):
    """Every block runs under its own index: until one far from where counting begins says which it is."""
    text = f"""
    __global__ void counts(unsigned long long* count) {{
        uint3 last = {{{", ".join(map(str, last))}}};
        if (blockIdx.x == last.x && blockIdx.y == last.y && blockIdx.z == last.z) __trap();
        ++*count;
    }}
    """
    count = np.zeros(1, np.uint64)
    with pytest.raises(kernels.KernelError, match="source:4: the kernel called __trap"):
        kernels.load(text, "counts", order=order)(HUGE, (1,), (count,))
    assert count[0] == 131072 + 3


@pytest.mark.parametrize("mode", [dict(order="shuffled"), dict(check="race")], ids=lambda mode: next(iter(mode)))
def test_a_grid_that_no_list_holds(mode):
    with pytest.raises(kernels.ArgumentError, match=r"has 12884901888 blocks; with .* 16777216 are the most"):
        kernels.load(ADD, "add", **mode)(HUGE, (1,), (X, Y, i4(8), f4(1)))


def test_arrays_that_do_not_fit_are_refused_before_they_are_copied(monkeypatch):
    """Linux would grant the copy, and end the process when it is written: here 1 TB, of which not a page exists."""
    x = np.lib.stride_tricks.as_strided(np.zeros(1, f4), (1 << 38,), (4,))
    assert x.flags.c_contiguous
    with pytest.raises(kernels.KernelError, match=r"running add on copies of its arrays takes 1099.5 GB"):
        kernels.load(ADD, "add")((1,), (1,), (x, Y, i4(8), f4(1)))
    monkeypatch.setattr(cpu, "free_memory", lambda: 4 << 30)
    with pytest.raises(kernels.KernelError, match=r"takes 14.0 GB of memory, and 4.3 GB are free"):
        kernels.load(ADD, "add", "race")((1,), (1,), (X, x[:250_000_000], i4(8), f4(1)))


def test_null_pointer_is_an_argument_and_no_place():
    with pytest.raises(kernels.OutOfBoundsError, match="source:4: thread .* a null pointer"):
        kernels.load(ADD, "add", "race")((1,), (8,), (None, Y, i4(8), f4(1)))


@pytest.mark.parametrize("line, what", [
    ("auto all = cooperative_groups::this_grid();", "groups of several blocks"), ('asm volatile("bar.sync 0;");', "inline PTX"),
    ("float v = tex2D<float>(t, 0, 0);", "textures"), ("add<<<1, 32>>>(x, y);", "a launch from C"),
    ("cudaMalloc(&x, 4);", "host functions"), ("nvcuda::wmma::fill_fragment(a, 0);", "wmma"),
    ("cuda::barrier<cuda::thread_scope_block> b;", r"libcu\+\+"), ("__nv_fp8_e4m3 v;", "8-bit"),
    ("#include <cooperative_groups/scan.h>", "this part of cooperative groups"), ("__pm0();", "this function")])
def test_what_is_not_emulated_is_named(line, what):
    above, within = (line, "") if "#" in line else ("", line)
    text = f"// asm and cooperative_groups in a comment\n{above}\n__global__ void k(float* y) {{\n{within}\n}}\n"
    with pytest.raises(kernels.CompileError, match=rf"^source:\d: the CPU runner does not emulate .*{what}") as caught:
        kernels.load(text, "k")((1,), (1,), (Y,))
    assert caught.value.line == (2 if "#" in line else 4)


def test_compile_errors_are_of_the_learners_file(tmp_path):
    path = tmp_path / "mine.cu"
    path.write_text("__global__ void k(float* y) {\n    y[0] = undefined_thing;\n}\n")
    with pytest.raises(kernels.CompileError) as caught:
        kernels.load(path, "k")((1,), (1,), (Y,))
    assert str(caught.value).startswith(f"{path}:2:12: error: 'undefined_thing' was not declared")
    assert caught.value.line == 2
    path.write_text("__device__ void f();\n__global__ void k(float* y) { f(); }\n")
    with pytest.raises(kernels.CompileError, match=r"mine.cu: .* f\(\) is not defined"):
        kernels.load(path, "k")((1,), (1,), (Y,))


@pytest.mark.parametrize("line, sentence", [
    ("atomicMin(y, 1.0f);", "source:3: a GPU has no atomicMin of this type"),
    ("int n = y[0]; float a[n]; y[1] = a[0];", "source:3:.* variable length array"),
    ("y[0] = std::accumulate(y, y + 3, 0);", "source:3: NVRTC, which compiles kernels for GPUs, has no std::accumulate")])
def test_what_a_gpu_would_refuse_is_refused_here(line, sentence):
    with pytest.raises(kernels.CompileError, match=sentence) as caught:
        kernels.load(f"#include <cmath>\n__global__ void k(float* y) {{\n{line}\n}}\n", "k")((1,), (1,), (Y,))
    assert caught.value.line == 3


def test_a_kernel_returns_nothing():
    with pytest.raises(kernels.CompileError, match="^source: k cannot be called: a kernel returns void$"):
        kernels.load("__global__ int k(float* y) { return 1; }\n", "k")((1,), (1,), (Y,))


def test_names_and_files():
    with pytest.raises(kernels.KernelError, match="source: no kernel is called 'ad'; it has add$"):
        kernels.load(ADD, "ad")
    with pytest.raises(UserError, match="nowhere.cu: cannot be read"):
        kernels.load("nowhere.cu", "k")
    with pytest.raises(kernels.ArgumentError, match="sideways"):
        kernels.load(ADD, "add", order="sideways")
    assert all(issubclass(getattr(kernels, name), kernels.KernelError) for name in kernels.__all__ if "Error" in name)


def test_a_template_does_not_spoil_its_siblings():
    """Kernels are compiled together with those of the same template head, unless one of them does not fit the type."""
    text = """
    template<typename T> __global__ void add(T* y, T by) { y[threadIdx.x] += by; }
    template<typename T> __global__ void vectors_only(T* y, T by) { y[0].x += by.x; }
    """
    y = np.arange(4, dtype=f4)
    kernels.load(text, "add<float>")((1,), (4,), (y, f4(2)))
    assert y.tolist() == [2, 3, 4, 5]


def test_ctrl_c_ends_a_kernel():
    code = """
import signal, threading, os, numpy as np
from tinycogvlm import kernels
signal.signal(signal.SIGINT, signal.default_int_handler)    # a process in the background is started to ignore it
k = kernels.load("__global__ void forever(volatile int* y) { for (;;) y[0] += 1; }", "forever")
k.library
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    k((1,), (1,), (np.zeros(1, np.int32),))
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=os.environ,
                          cwd=Path(__file__).parents[1])
    assert done.stdout == "interrupted\n", done.stderr


# ----------------------------------------------------------------------------------------- stepping and the profile

STEPS = """
__global__ void steps(const float* x, float* y) {
    __shared__ float row[4], pairs[2][2];
    extern __shared__ int counts[];
    int t = threadIdx.x;
    row[t] = x[4 * blockIdx.x + t];
    __syncthreads();
    if (t < 2) pairs[t][1] = row[t] + row[t + 2];
    counts[t] = t;
    __syncthreads();
    if (t == 0) y[blockIdx.x] = pairs[0][1] + pairs[1][1];
}
"""


def test_step_shows_every_barrier():
    stops, y = [], np.zeros(2, f4)
    x = np.arange(8, dtype=f4)
    assert step(STEPS, "steps", 2, 4, (x, y), 16, thread=(3, 0, 0), of_block=(1, 0, 0), show=stops.append) == 2
    first, second = stops
    assert (first.file, first.line, first.number, second.line, second.number) == ("source", 7, 1, 10, 2)
    assert first.block == (1, 0, 0) and first.rank == 3
    assert list(first.shared) == ["row", "pairs", "counts"]
    assert first.shared["row"].tolist() == [4, 5, 6, 7] and np.isnan(first.shared["pairs"]).all()
    assert second.shared["pairs"][:, 1].tolist() == [10, 12] and second.shared["counts"].tolist() == [0, 1, 2, 3]
    assert y.tolist() == [6, 22]
    text = str(first)
    assert text.startswith("source:7: barrier 1 of block (1, 0, 0); thread (3, 0, 0) is lane 3 of warp 0\n")
    assert "row float32 4\n    [4 5 6 7]" in text and "pairs float32 2 x 2\n    [[. .]\n" in text


def test_step_ends_where_its_reader_ends():
    def show(stop):
        raise RuntimeError("enough")
    with pytest.raises(RuntimeError, match="enough"):
        step(STEPS, "steps", 2, 4, (np.zeros(8, f4), np.zeros(2, f4)), 16, show=show)
    with pytest.raises(kernels.ArgumentError, match=r"there is no thread \(4, 0, 0\): they go up to \(3, 0, 0\)"):
        step(STEPS, "steps", 2, 4, (np.zeros(8, f4), np.zeros(2, f4)), 16, thread=(4, 0, 0))


@pytest.mark.parametrize("moment", ["call", "return"])
@pytest.mark.filterwarnings("error")
def test_ctrl_c_is_not_lost_between_machine_and_reader(moment):
    """At the first and at the last instant of the function that the machine calls at a barrier: nothing there could
    catch what Python raises."""
    def interrupt(frame, event, arg):
        if event == moment and frame.f_code.co_name == "stop":
            os.kill(os.getpid(), signal.SIGINT)
    text = "__global__ void k(int* y) { for (int i = 0; i < 100; i++) __syncthreads(); }"
    stops, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.setprofile(interrupt)
        with pytest.raises(KeyboardInterrupt):
            step(text, "k", 1, 1, (np.zeros(1, i4),), show=stops.append)
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGINT, before)
    assert len(stops) <= 1


def test_stops_are_not_kept():
    """However many barriers there are: the shared arrays of those that were shown are gone."""
    text = "__global__ void k(int* y) {\n__shared__ int s[1000];\nfor (int i = 0; i < 500; i++) __syncthreads();\n}"
    arrays = []

    def show(stop):
        arrays.append(weakref.ref(stop.shared["s"]))
        assert sum(array() is not None for array in arrays) <= 2
    assert step(text, "k", 1, 2, (np.zeros(1, i4),), show=show) == 500


def test_shared_arrays_of_headers_are_shown(tmp_path):
    """Those of a header that a header includes; each header once, as #pragma once has it, and none in a comment."""
    (tmp_path / "a.cuh").write_text('#pragma once\n#include "b.cuh"\n')
    (tmp_path / "b.cuh").write_text('#pragma once\n#include "a.cuh"\n__device__ void wait(int v) {\n    __shared__ int '
                                    "inner[2];\n    inner[threadIdx.x] = v;\n    __syncthreads();\n}\n")
    path, stops = tmp_path / "k.cu", []
    path.write_text('#include "a.cuh"\n#include "b.cuh"\n/*\n#include "c.cuh"\n*/\n#include <cuda_fp16.h>\n'
                    "__global__ void k(int* y) {\n    __shared__ int s[2];\n    s[threadIdx.x] = 7;\n    wait(3);\n"
                    "    __syncthreads();\n}\n")
    assert step(path, "k", 1, 2, (np.zeros(1, i4),), show=stops.append) == 2
    assert [(Path(stop.file).name, stop.line) for stop in stops] == [("b.cuh", 6), ("k.cu", 11)]
    assert {name: array.tolist() for name, array in stops[0].shared.items()} == {"s": [7, 7], "inner": [3, 3]}


def test_profile_names_the_file_of_each_line(tmp_path):
    """Where there are several."""
    (tmp_path / "a.cuh").write_text("__device__ int first(const int* x) { return x[0]; }\n")
    path = tmp_path / "k.cu"
    path.write_text('#include "a.cuh"\n__global__ void k(const int* x, int* y) { y[0] = first(x); }\n')
    rows = profile(path, "k", 1, 1, (np.zeros(1, i4), np.zeros(1, i4)))
    lines = table(rows, {row.file: source.read(row.file) for row in rows}).splitlines()
    assert [lines[1], lines[3]] == [f"{tmp_path / 'a.cuh'}:", f"{path}:"] and lines[2].endswith("return x[0]; }")


def test_profile_counts_sectors_and_bank_conflicts():
    x, y = np.zeros((32, 32), f4), np.zeros(2048, f4)
    rows = profile(FEATURES, "tiles", 1, 32, (x, y))
    lines = FEATURES.read_text().splitlines()

    def row(text, memory, access):
        [found] = [r for r in rows if text in lines[r.line - 1] and (r.memory, r.access) == (memory, access)]
        assert found.requests == 32 and found.accesses == 1024 and found.bytes == 4
        return found
    assert row("tile[row][column] = padded", "global", "reads").passes == 32 * 4           # 128 bytes are 4 sectors
    assert row("y[1024 + 32 * column", "global", "writes").passes == 32 * 32               # a sector for each lane
    assert row("            tile[column]", "shared", "reads").passes == 32 * 32            # one bank for all lanes
    assert row("            tile[column]", "shared", "reads").conflicts == 32 * 31
    assert row("            padded[column]", "shared", "reads").conflicts == 0
    text = table(rows, {str(FEATURES): FEATURES.read_text()})
    assert "shared memory: 992 turns lost to bank conflicts" in text and "32.0 turns" in text
    assert text.count("\n") == len(rows) + 2


def test_profile_of_vector_loads():
    x, y, a, b = np.arange(128, dtype=f4), np.zeros(128, f4), np.arange(64, dtype=i4), np.zeros(128, np.int16)
    rows = profile(FEATURES, "vectors", 1, 32, (x, y, a, b))
    found = {(r.access, r.bytes): r.passes for r in rows}
    assert found[("reads", 16)] == 16 and found[("writes", 16)] == 16 and found[("writes", 8)] == 8


def test_example_arguments():
    parameters = kernels.load(ADD, "add").parameters
    x, y, n, by = examples(parameters, ["3x4", "3x4", "12", "0.5"])
    assert x.shape == y.shape == (3, 4) and x.std() > 0 and not y.any() and n == i4(12) and by == f4(0.5)
    assert n.dtype == i4 and by.dtype == f4
    full, null, *_ = examples(parameters, ["2:5", "null", "1", "1"])
    assert full.tolist() == [2] * 5 and null is None
    with pytest.raises(kernels.ArgumentError, match=r"takes 4 arguments: x \(array\), y \(array\), n \(number\)"):
        examples(parameters, ["4"])
    with pytest.raises(kernels.ArgumentError, match="n: 'many' is not a number of int32"):
        examples(parameters, ["4", "4", "many", "1"])
    bits = examples(kernels.load(FEATURES, "bfloat_arithmetic").parameters, ["8"] * 4 + ["8"])
    assert bits[0].dtype == np.uint16 and not bits[3].any()


# ------------------------------------------------------------------------------------------------ reading the source

def test_kernels_of_a_source():
    text = """
    // __global__ void commented(int);
    extern "C" __global__ void __launch_bounds__(128, 2) one(const float* __restrict__ x, int n) {}
    template <typename T, int N>
    __global__ static void two(T (&y)[4]) {}
    __global__ __attribute__((visibility("default"))) void three() {}
    char quote = '"'; template<int A,
        class B = Pair<int, 3>> __global__ void
        __launch_bounds__((A * 32) / (2 * 2), 1) four(int x = 1, float* y = nullptr, Pair<int, A>* pairs = {}) {}
    """
    found = source.kernels(text)
    assert [kernel.bounds for kernel in found.values()] == ["128, 2", "", "", "(A * 32) / (2 * 2), 1"]
    assert [(name, kernel.template, kernel.parameters) for name, kernel in found.items()] == [
        ("one", "", ("x", "n")), ("two", "template <typename T, int N>", ("y",)), ("three", "", ()),
        ("four", "template<int A, class B = Pair<int, 3>>", ("x", "y", "pairs"))]
    assert source.siblings(found, "two<int, 4>") == ["two<int, 4>"]
    assert source.siblings(found, "one") == ["one", "three"]


@pytest.mark.parametrize("text", [
    "extern " * 20000, "__global__ extern " * 20000, "__global__ " + "a" * 200000, "__global__ (" * 20000,
    "/*" * 100000, '"\\' * 100000, "template<" * 20000 + " __global__ void f(int*y)", "__global__ void f(" + "[" * 20000,
    "{" * 1000 + "__shared__ float a[2];" * 20000, "extern __shared__ a" + "[ " * 20000])
def test_reading_a_source_takes_no_time(text):
    """Seconds at most, where patterns that try every beginning with every end took half a minute."""
    begin = time.process_time()
    source.kernels(text)
    source.unit(text, "k.cu", Path(), {}, (), {}, stepping=True)
    source.unset_constants(text)
    assert time.process_time() - begin < 4


def test_constants_that_have_no_values():
    text = "__constant__ float a[3], b; __constant__ int c = 1;\n__constant__ float d[] = {1, 2}; static __constant__ Pair<int, 2> " \
           "e[2][3];\nextern __constant__ int f[]; // __constant__ int g;\n__constant__ float h[2]{1, 2};"
    assert source.unset_constants(text) == ("a", "b", "e")


def test_lines_stay_where_they_are():
    text = 'extern "C" __global__ void k() {\n__shared__ float a[4], b[2][3]; // __shared__ int c;\n' \
           "__shared__ Pack<int, 2> p[4 * (2 + 1)];\n}\n"
    shown = source.show_shared_arrays(text)
    assert shown.count("\n") == 4 and shown.count("show_shared") == 3 and 'machine::show_shared("p", p);' in shown
    assert 'machine::show_shared("a", a); machine::show_shared("b", b);' in shown
