"""quantise.cu gives the codes and scales of storage/quantise.py, bit for bit, on the CPU machine."""
import numpy as np
import pytest

from small_floats import KINDS, numbers, stored
from tinycogvlm.errors import UserError
from tinycogvlm.kernels.library.quantise import quantise
from tinycogvlm.kernels.runner import build
from tinycogvlm.storage import quantise as storage

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def weights():
    """Groups of every size of number, all zero, of one sign, with ties; 41 rows of 5 groups: no whole block"""
    w = np.random.default_rng(0).standard_normal((41, 320)) * np.logspace(-9, 3, 41)[:, None]
    w[3], w[4], w[5] = 0, abs(w[4]), -abs(w[5])
    w[6] = np.tile(np.arange(64) - 32, 5) / 4
    return w


@pytest.mark.parametrize("mode", [dict(order="forward"), dict(order="shuffled"), dict(check="race")],
                         ids=["forward", "shuffled", "race"])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits(kind, dtype, mode, monkeypatch):
    w = stored(weights(), kind)
    monkeypatch.setattr(storage, "CHUNK", 4000)             # several launches
    found, right = quantise(w, dtype, **mode), storage.quantise(numbers(w).astype(np.float32), dtype)
    assert np.array_equal(found.scales, right.scales) and np.array_equal(found.codes, right.codes)
    assert (found.shape, found.dtype) == (right.shape, right.dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_cannot_be_quantised(value):
    w = weights().astype(np.float32)
    w[40, 319] = value
    with pytest.raises(UserError, match="NaN or infinite"):
        quantise(w, "int4")
