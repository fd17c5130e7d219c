"""rows.cu: rows of every kind of matrix as numbers, and the counters, on the CPU runner."""
import numpy as np
import pytest

from small_floats import numbers, stored
from tinycogvlm import contracts
from tinycogvlm.kernels.runner import build
from tinycogvlm.kernels.library.rows import advance, rows
from tinycogvlm.storage.quantise import Quantised, quantise

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
MODES = [dict(order="forward"), dict(order="shuffled"), dict(check="race")]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "".join(mode.values()))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int8", "int4"])
def test_rows(kind, dtype, mode):
    """All of them, and some, one twice: exactly the numbers of the matrix, rounded once."""
    for columns in (320,) if kind.startswith("int") else (320, 70):     # 70: not whole 16 bytes
        w = contracts.random(5, columns, scale=0.1).astype(np.float32)
        weight = quantise(w, kind) if kind.startswith("int") else stored(w, kind)
        exact = weight.dequantised(np.float64) if isinstance(weight, Quantised) else numbers(weight)
        expected, ids = exact.astype(dtype), np.array([4, 0, 4], np.int32)
        assert np.array_equal(rows(weight, dtype, **mode), expected)
        out = np.zeros((3, columns), dtype)
        assert rows(weight, dtype, ids, out, **mode) is out and np.array_equal(out, expected[ids])


def test_no_token_reads_inside_the_table():
    """Of -1, which a row without a token has, the numbers mean nothing, but none lies outside of the matrix."""
    w = contracts.random(3, 64).astype(np.float32)
    assert np.array_equal(rows(w, "float32", np.array([2, -1], np.int32), check="race"), w[[2, 0]])


def test_a_convolution_is_a_matrix():
    w = contracts.random(3, 16, 2, 2).astype(np.float32)
    assert np.array_equal(rows(quantise(w, "int8"), "float32"), quantise(w, "int8").dequantised().reshape(3, 64))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "".join(mode.values()))
def test_counters_go_on(mode):
    counters = np.array([*range(35), 7], np.int32)
    advance(counters[:35], **mode)
    assert counters.tolist() == [*range(1, 36), 7]
