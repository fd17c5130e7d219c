"""Planted bugs are caught by name and at their line; what looks like them and is right raises nothing."""
import re
from pathlib import Path

import numpy as np
import pytest

from tinycogvlm import kernels
from tinycogvlm.kernels.runner import build, source

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

FILE = Path(__file__).parent / "kernels" / "planted_bugs.cu"
TEXT = FILE.read_text(encoding="utf-8")
NAMES = source.kernels(TEXT)
BUGS = [name.removeprefix("bug_") for name in NAMES if name.startswith("bug_")]
# What is noticed without check="race", too: it costs nothing there.
ALWAYS = {"barrier_in_branch", "early_return", "two_barriers", "full_mask_in_branch", "lane_not_in_mask",
          "wait_for_grid", "misaligned", "divided_by_zero"}
N = 100


def run(name, check=None, order="forward"):
    x, y = np.random.default_rng(0).standard_normal(N).astype(np.float32), np.zeros(N, np.float32)
    kernels.load(FILE, name, check, order)((2,), (64,), (x, y, np.int32(N)), shared_mem=256)
    return x, y


def expected(bug):
    """(error's name, line) from the comment in the kernel."""
    body = TEXT[re.search(rf"\bbug_{bug}\(", TEXT).start():]
    marker = re.search(r"// <- (\w+)", body)
    return marker[1], TEXT[:len(TEXT) - len(body) + marker.start()].count("\n") + 1


@pytest.mark.parametrize("bug", BUGS)
def test_bug_is_caught_at_its_line(bug):
    error, line = expected(bug)
    with pytest.raises(getattr(kernels, error)) as caught:
        run(f"bug_{bug}", "race")
    assert type(caught.value).__name__ == error
    assert str(caught.value).startswith(f"{FILE}:{line}: ") and caught.value.line == line


@pytest.mark.parametrize("bug", sorted(ALWAYS))
def test_bug_is_caught_without_the_checker(bug):
    error, line = expected(bug)
    with pytest.raises(getattr(kernels, error)) as caught:
        run(f"bug_{bug}")
    assert str(caught.value).startswith(f"{FILE}:{line}: ")


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
@pytest.mark.parametrize("bug", BUGS)
def test_lookalike_is_right(bug, order):
    _, y = run(f"fine_{bug}", "race", order)
    assert np.isfinite(y).all()


def test_every_bug_has_its_lookalike():
    assert len(BUGS) >= 12 and {f"fine_{bug}" for bug in BUGS} == {name for name in NAMES if name[:4] == "fine"}
    assert {expected(bug)[0] for bug in BUGS} == {"RaceError", "OutOfBoundsError", "BarrierError", "UninitializedError",
                                                 "AlignmentError", "KernelError"}


def test_a_missing_barrier_shows_in_the_order_of_threads():
    """Without the checker the same bug gives another result in every order, and NaN where nothing was written yet."""
    results = [run("bug_no_barrier", order=order)[1] for order in ("forward", "backward", "shuffled")]
    assert all(np.isnan(y).any() for y in results)
    assert len({y.tobytes() for y in results}) == 3
    right = [run("fine_no_barrier", order=order)[1] for order in ("forward", "backward", "shuffled")]
    assert len({y.tobytes() for y in right}) == 1


def test_messages_name_threads_and_arguments():
    with pytest.raises(kernels.RaceError, match=r"thread \(0, 0, 0\) of block \(1, 0, 0\) writes byte 0 of y "
                       r"\(argument 2\), which thread \(0, 0, 0\) of block \(0, 0, 0\) writes at .*:\d+"):
        run("bug_blocks_share_output", "race")
    with pytest.raises(kernels.OutOfBoundsError, match=r"reads 4 bytes at byte 0 beyond the end of x \(argument 1\) "
                                                       r"\(400 bytes\)"):
        run("bug_beyond_the_end", "race")
    with pytest.raises(kernels.RaceError, match=r"byte 128 of s, which thread \(31, 0, 0\)"):
        run("bug_no_barrier", "race")
    with pytest.raises(kernels.BarrierError, match=r"threads wait at different barriers in block \(1, 0, 0\): 36 of 64 "
                       r"threads wait in __syncthreads\(\) of line \d+, 28 of 64 threads wait in __syncthreads\(\) of"):
        run("bug_barrier_in_branch", "race")


def test_where_an_access_went():
    """An index that overflowed leads gigabytes away; a slice need not begin where its array does."""
    text = ("__global__ void far(const float* x, int n, float* y) { y[0] = x[n * n]; }\n"
            "__global__ void wide(const float4* x, float* y) { y[0] = x[0].x; }\n")
    x, y = np.zeros(40, np.float32), np.zeros(1, np.float32)
    for n, far, where in ((35000, 4.9, "beyond"), (48000, 7.96, "before")):
        with pytest.raises(kernels.OutOfBoundsError, match="the nearest array; an int may have overflowed") as error:
            kernels.load(text, "far", "race")((1,), (1,), (x, np.int32(n), y))
        said = re.search(rf"reads 4 bytes at (\S+) GB {where} [xy] \(argument", str(error.value))
        assert float(said[1]) == pytest.approx(far, abs=0.3)        # x and y lie some way apart
    for check in (None, "race"):
        with pytest.raises(kernels.AlignmentError, match=r"takes byte 0 of x \(argument 1, a slice from byte 8\) as .*16$"):
            kernels.load(text, "wide", check)((1,), (1,), (x[2:], y))


def test_python_survives_wild_accesses():
    """Without the checker: what runs over an array's end ends at a page that nobody may touch."""
    source = """
    __global__ void beyond(float* y, int far) { y[far] = 1; }
    __global__ void nowhere(float* y, int far) { *(float*)8 = 1; }
    __global__ void deep(float* y, int far) { volatile float a[100000]; a[far] = y[0]; deep(y, far + (int)a[far]); }
    """
    y = np.ones(1000, np.float32)
    for name, far, error in (("beyond", 1004, "OutOfBounds"), ("beyond", -40, "OutOfBounds"),
                             ("nowhere", 0, "OutOfBounds"), ("deep", 5, "Kernel")):
        with pytest.raises(kernels.KernelError) as caught:
            kernels.load(source, name)((1,), (1,), (y, np.int32(far)))
        assert type(caught.value).__name__.startswith(error) and caught.value.line in (2, 3, 4), caught.value
    kernels.load(source, "beyond")((1,), (1,), (y, np.int32(999)))
    assert y[999] == 1


def test_a_kernel_of_many_blocks_that_increments_by_a_lock():
    """A lock made of atomics and fences is in order, the same without the fence is not."""
    lock = """
    __device__ int lock;
    __global__ void add(float* total) {
        while (atomicCAS(&lock, 0, 1) != 0) {}
        FENCE
        *total += 1;
        FENCE
        atomicExch(&lock, 0);
    }
    """
    total = np.zeros(1, np.float32)
    kernels.load(lock.replace("FENCE", "__threadfence();"), "add", "race", "shuffled")((3,), (40,), (total,))
    assert total[0] == 120
    with pytest.raises(kernels.RaceError):
        kernels.load(lock.replace("FENCE", ""), "add", "race")((3,), (40,), (total,))
