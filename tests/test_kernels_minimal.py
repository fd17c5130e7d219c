"""Kernels of a few lines, each right or wrong in one way that was once missed: what the machine must say about them."""
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tinycogvlm import kernels
from tinycogvlm.kernels.runner import build, source

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

FOLDER = Path(__file__).parent / "kernels"
FILE, MEMORY, NAMES = FOLDER / "minimal.cu", FOLDER / "minimal_memory.cu", FOLDER / "minimal_names.cu"
f4, i4 = np.float32, np.int32
X = np.arange(64, dtype=f4)
BOTH = pytest.mark.parametrize("check", [None, "race"])


def run(name, block, *args, check=None, file=FILE, shared_mem=0, **options):
    kernels.load(file, name, check, **options)((1,), (block,), args, shared_mem)
    return args[-1]


def line(text, file=FILE):
    """Where it stands in a file, counted from 1"""
    [number] = [i for i, line in enumerate(file.read_text().splitlines(), 1) if text in line]
    return number


# ------------------------------------------------------------------------------------------ what is right and runs

@BOTH
def test_right_kernels_run(check):
    assert run("function_as_argument", 32, np.zeros(32, f4), check=check).tolist() == [i * i for i in range(32)]
    x = np.array([np.nan, np.inf, 1], f4)
    assert run("classifies", 1, x, np.zeros(3, i4), check=check).tolist() == [1, 1, 0]
    assert run("aligned", 1, np.ones(3, f4), check=check).tolist() == [1, 1, 0]
    assert (run("virtual_in_shared", 64, np.zeros(64, i4), check=check) == 7).all()
    x = np.arange(128).astype(np.float16)
    assert np.array_equal(run("local_as_vector", 32, x, np.zeros(128, np.float16), check=check), x)
    assert run("all_have_read", 64, X + 9, np.zeros(64, f4), check=check)[:32].tolist() == [9] * 32
    assert run("sum_of_eight", 32, X[:32].astype(i4), np.zeros(32, i4), check=check)[0] == 28


@BOTH
@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_barriers_wait_for_those_that_have_not_returned(check, order):
    """As on every GPU since Volta; and masks are about these, too."""
    x, y = X[:32], np.zeros(32, f4)
    kernels.load(FILE, "returns_early", check, order)((1,), (32,), (x, y, i4(20)))
    assert y.tolist() == [19 - i + 20 for i in range(20)] + [0] * 12
    y = run("mask_names_lanes_that_returned", 32, X, np.zeros(32, f4), check=check, order=order)
    assert y[:16].tolist() == [i + (i ^ 8) for i in range(16)]


@BOTH
def test_one_value_that_a_warp_writes_is_no_race(check):
    y = np.zeros(64, f4)
    kernels.load(FILE, "same_value", check)((1,), (64,), (X, y, f4(0)))
    assert (y == X.sum()).all()


def test_several_values_that_a_warp_writes_are_a_race():
    with pytest.raises(kernels.RaceError) as caught:
        kernels.load(FILE, "same_value", "race")((1,), (64,), (X, np.zeros(64, f4), f4(1)))
    assert caught.value.line == line("// all 32 lanes")


@BOTH
def test_cooperative_groups(check):
    assert run("groups", 64, np.zeros(64, f4), check=check).tolist() == list(range(63, -1, -1))
    y, t = run("sums_of_groups", 64, np.zeros(64, i4), check=check), np.arange(64)
    assert np.array_equal(y, t // 8 * 64 + 28 + 3000 + 100000 * np.where(t % 3 == 0, 10, 0))    # 11 lanes of a warp


def test_words_of_cuda():
    a, f = np.array([5], np.uint32), np.array([2], f4)
    kernels.load(FILE, "words")((1,), (1,), (a, f))
    assert a[0] == 3 + 5 and f[0] == 4


def test_bounds_of_a_launch():
    assert run("tile<8, 8>", 64, np.zeros(64, f4)).tolist() == list(range(64))
    for name, block, most in (("bounded", 256, 128), ("tile<8, 8>", 65, 64)):
        with pytest.raises(kernels.ArgumentError, match=rf"has {block} threads; .* __launch_bounds__\({most}\)"):
            run(name, block, np.zeros(256, f4))


# ------------------------------------------------------------------------------------------- what is wrong and named

@BOTH
@pytest.mark.parametrize("name, block, text, sentence", [
    ("from_outside_of_the_mask", 32, "            v += __shfl_down_sync(0xff, v, d)",
     "gives lane 0 the value of lane 16, which is not in the mask 0xff"),
    ("from_beyond_the_block", 24, "        v += __shfl_down_sync(0xffffffff", "lane 24, which is beyond the end of the"),
    ("from_those_that_returned", 32, "x[threadIdx.x], 16)", "lane 0 the value of lane 16, which has returned")])
def test_shuffles_from_lanes_that_are_not_there(name, block, text, sentence, check):
    with pytest.raises(kernels.BarrierError, match=sentence) as caught:
        run(name, block, X.astype(i4), np.zeros(64, i4), check=check)
    assert caught.value.line == line(text)


def test_a_mask_that_names_lanes_which_went_another_way():
    with pytest.raises(kernels.BarrierError, match="names lane 16, which went past it .* and returned") as caught:
        run("mask_names_lanes_that_leave", 32, X, np.zeros(32, f4), check="race")
    assert caught.value.line == line("if (threadIdx.x < 16) v +=")


def test_the_third_reader():
    with pytest.raises(kernels.RaceError, match=r"thread \(63, 0, 0\) .* writes byte 0 of s, which thread \(\d+, 0, 0\)"):
        run("third_reader", 64, X, np.zeros(64, f4), check="race")


@BOTH
def test_a_spin_on_a_variable(check):
    with pytest.raises(kernels.BarrierError, match="another thread|no thread of its block will write") as caught:
        run("volatile_spin", 64, np.zeros(64, i4), check=check)
    assert caught.value.line == line("while (flag == 0);")


def test_a_long_loop_is_no_spin():
    assert abs(run("long_loop", 1, np.zeros(1, f4))[0] - 1000) < 1


def test_a_local_variable_that_is_never_set_shows():
    assert abs(run("local_never_set", 1, X, np.zeros(1, f4))[0]) > 1e30


# ------------------------------------------------------------------------------------------------ memory and names

@BOTH
def test_constants_without_values(check):
    with pytest.raises(kernels.ArgumentError, match=r"uses the __constant__ c, .* load\(..., constants={'c': array}\)"):
        run("constant", 4, np.zeros(4, f4), check=check, file=MEMORY)
    for values in (X[:4] + 5, X[:4]):
        y = run("constant", 4, np.zeros(4, f4), check=check, file=MEMORY, constants={"c": values})
        assert np.array_equal(y, values)
    assert run("constant_given", 4, np.zeros(4, f4), check=check, file=MEMORY).tolist() == [1, 2, 3, 4]
    with pytest.raises(kernels.ArgumentError, match="the __constant__ c has 16 bytes, float32"):
        run("constant", 4, np.zeros(4, f4), check=check, file=MEMORY, constants={"c": X})
    with pytest.raises(kernels.ArgumentError, match="uses no __constant__ that is called 'd'"):
        run("constant", 4, np.zeros(4, f4), check=check, file=MEMORY, constants={"c": X[:4], "d": X})


def test_shared_memory_ends():
    with pytest.raises(kernels.CompileError, match="65536 bytes of __shared__ arrays; 49152 are the most"):
        run("static_64k", 32, np.zeros(32, f4), file=MEMORY)
    with pytest.raises(kernels.ArgumentError, match="204800 bytes of dynamic .* 0 to 192448 .* beside the 40000 of"):
        run("static_and_dynamic", 32, np.zeros(32, f4), file=MEMORY, shared_mem=200 << 10)
    assert (run("static_and_dynamic", 32, np.zeros(32, f4), file=MEMORY, shared_mem=150 << 10) == 3).all()


def test_kernels_made_by_macros_beside_words_that_they_do_not_use():
    assert run("fill_float", 1, np.zeros(1, f4), file=NAMES)[0] == 1
    assert run("fill_int", 1, np.zeros(1, i4), file=NAMES)[0] == 1
    assert run("largest", 1, X[:3].copy(), file=NAMES)[0] == 2
    with pytest.raises(kernels.KernelError, match="no kernel is called 'fill'; it has .*, fill_int"):
        run("fill", 1, np.zeros(1, f4), file=NAMES)


def test_what_a_kernel_uses_and_is_not_emulated():
    with pytest.raises(kernels.CompileError, match="does not emulate inline PTX") as caught:
        run("uses_ptx<float>", 1, np.zeros(1, f4), file=NAMES)
    assert caught.value.line == line("    CP_ASYNC_WAIT_ALL();", NAMES)


def test_our_headers_copied_beside_a_kernel(tmp_path):
    """As somebody does who takes a kernel of the package with him."""
    for name in ("ptx.cuh", "common.cuh"):
        shutil.copy(source.HERE / name, tmp_path)
    path = tmp_path / "k.cu"
    path.write_text('#include "ptx.cuh"\n#include "common.cuh"\n__global__ void k(const float* x, float* y) {\n'
                    "    __shared__ __align__(16) float s[4];\n    cp_async16(s, x);\n    cp_async_commit();\n"
                    "    cp_async_wait<0>();\n    y[0] = s[3] + inverse(0);\n}\n")
    assert run("k", 1, X, np.zeros(1, f4), file=path)[0] == 3


def test_asm_in_the_text():
    text = '#define A() asm volatile("a;\\n" ::)\nint b = 1; asm("");\nasm volatile("x" \\\n "y" : "=r"(b));\n// asm("z")'
    assert source.without_asm(text) == ("#define A() machine::inline_ptx()\nint b = 1; asm(\"\");\nmachine::inline_ptx() "
                                        "\\\n;\n// asm(\"z\")")
    assert re.findall("\n", source.without_asm(text)) == re.findall("\n", text)
