"""storage.quantise.quantise by quantise.cu: the same codes and scales, bit for bit, from weights as a file stores them."""
import math

import numpy as np

from ...nn.arrays import namespace
from ...storage.quantise import BITS, GROUP, Quantised, blocks, refuse_not_finite
from ..runner.loader import load_ours
from .launch import C_TYPES, THREADS

LANES = 8                                                   # that share a group


def quantise(weight, dtype, copied=lambda rows: rows, **options):
    """Quantise a matrix, a few rows at a time -> Quantised

    weight: an array (O, ...), or a Tensor of a file, of which only these rows are then read. copied: puts rows, bfloat16
    as its bits, onto the device of the result.
    """
    bits, O, I = BITS[dtype], weight.shape[0], math.prod(weight.shape[1:])
    codes = None
    for rows in blocks(weight.shape):
        w = weight[rows]
        w = copied(w.view(np.uint16) if w.dtype.name == "bfloat16" else w)
        if codes is None:
            xp = namespace(w)
            codes, scales = xp.empty((O, I * bits // 8), np.uint8), xp.empty((O, I // GROUP), np.uint16)
            failed = xp.zeros(1, np.int32)
        w = w if w.dtype in C_TYPES else w.astype(np.float32)
        load_ours("quantise.cu", f"quantise<{C_TYPES[w.dtype]}, {bits}>", **options)(
            (-(-w.size // GROUP * LANES // THREADS),), (THREADS,),
            (w, codes[rows], scales[rows], failed, np.uint64(w.size // GROUP)))
    refuse_not_finite(not failed[0])
    return Quantised(codes, scales, tuple(weight.shape), dtype)
