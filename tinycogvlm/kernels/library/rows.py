"""Rows of a matrix, dequantised or rounded (rows.cu), and the counters of a decoding step."""
import math

import numpy as np

from ...nn.arrays import namespace
from ...storage.quantise import Quantised
from ..runner.loader import load_ours
from .launch import C_TYPES, THREADS, contiguous


def rows(weight, dtype, ids=None, out=None, **options):
    """W[ids], or all of W, in `dtype`                      weight (O, ...), ids (n,) int32 -> (n, I) float32 or float16

    weight: an array, bfloat16 as its bits in uint16, or a quantise.Quantised. The id -1 reads row 0. out: an array to
    write to.
    """
    if isinstance(weight, Quantised):
        kind, stored, scales = weight.dtype.capitalize(), weight.codes, weight.scales
    else:
        kind, (stored,), scales = C_TYPES[weight.dtype], contiguous(weight), None
    I = math.prod(weight.shape[1:])
    if out is None:
        out = namespace(stored).empty((weight.shape[0] if ids is None else len(ids), I), dtype)
    load_ours("rows.cu", f"rows<{C_TYPES[out.dtype]}, {kind}>", **options)(
        (len(out),), (THREADS,), (stored, scales, ids, out, np.int32(I)))
    return out


def advance(counters, **options):
    """counters += 1, in place                              (n,) int32"""
    load_ours("rows.cu", "advance", **options)(
        (-(-len(counters) // 32),), (32,), (counters, np.int32(len(counters))))


def dequantised(weight, dtype):
    """A matrix (O, I) in `dtype`, whatever it is stored as"""
    if isinstance(weight, Quantised) or weight.dtype != dtype:
        return rows(weight, dtype)
    return weight.reshape(len(weight), -1)
