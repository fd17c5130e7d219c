"""Weights in 8 or 4 bits: 64 neighbours in a row share a scale; activations keep their type.

    w = (code - 2^(bits - 1)) scale                         w (O, I), code unsigned, scale (O, I / 64)

Codes are rounded to nearest. The scale maps the group's largest weight, of either sign, to the lowest code, so that all
2^bits codes are used without a zero point (which would cost 6 % more memory and arithmetic for an error 3 % smaller, on
the weights of weights/tiny). With 4 bits, five scales are tried that clip the largest weights, and the one with the
least squared error is taken: 5 % less error. With 8 bits the first was always the best.
"""
import math
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..nn.arrays import bfloat16_bits_up, from_bfloat16_bits, namespace

GROUP = 64                                                  # divides the rows of CogVLM v1, CogVLM2 and weights/tiny
BITS = {"int8": 8, "int4": 4}
CUTS = {8: (1,), 4: (1, .95, .9, .85, .8)}                  # of the largest weight
CHUNK = 1 << 22                                             # weights that are quantised at a time


@dataclass(frozen=True, eq=False)
class Quantised:
    """A matrix of `shape` (O, I), or (O, C, N, N) of a convolution, in 8 or 4 bits.

    codes:  (O, I bits / 8) uint8. With "int4" a byte holds two columns, the left one in its lower half.
    scales: (O, I / 64) bfloat16, as its bits in uint16: the range of float32; its few digits cost nothing, since the
            codes are made for the scale as it is stored.
    dtype:  "int8" or "int4".
    """
    codes: np.ndarray
    scales: np.ndarray
    shape: tuple
    dtype: str

    @property
    def nbytes(self):
        return self.codes.nbytes + self.scales.nbytes

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """W[rows] in float32, for a slice or an array of row numbers: (n, I), or (n, C, N, N)"""
        codes, scales = self.codes[rows], self.scales[rows]
        xp, bits = namespace(codes), BITS[self.dtype]
        if bits == 4:
            codes = xp.stack([codes & 15, codes >> 4], -1)
        w = codes.reshape(*scales.shape, GROUP).astype(np.float32)
        w -= 2 ** (bits - 1)
        w *= from_bfloat16_bits(scales)[..., None]
        return w.reshape(*scales.shape[:-1], *self.shape[1:])

    def dequantised(self, dtype=np.float32):
        """The whole matrix, made a few rows at a time."""
        w = namespace(self.codes).empty(self.shape, dtype)
        for rows in blocks(self.shape):
            w[rows] = self[rows]
        return w


def quantise(weight, dtype):
    """Quantise a matrix, a few rows at a time -> Quantised

    weight: an array (O, ...), or a Tensor of a file, of which only these rows are then read. dtype: "int8" or "int4".
    kernels/library/quantise.py is the same on a GPU.
    Raises UserError if 64 does not divide the input axis, or if a weight is NaN or infinite.
    """
    if dtype not in BITS:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(BITS)}")
    bits, O, I = BITS[dtype], weight.shape[0], math.prod(weight.shape[1:])
    if I % GROUP or len(weight.shape) < 2:
        raise UserError(f"a matrix of shape {tuple(weight.shape)} cannot be quantised: {GROUP} weights of a row share "
                        f"a scale, so its rows must hold a multiple of {GROUP}")
    codes, finite = None, True
    for rows in blocks(weight.shape):
        w = weight[rows]
        if codes is None:
            xp = namespace(w)
            codes, scales = xp.empty((O, I * bits // 8), np.uint8), xp.empty((O, I // GROUP), np.uint16)
        with np.errstate(invalid="ignore"):
            codes[rows], scales[rows], known = _quantised(
                w.reshape(len(w), -1, GROUP).astype(np.float32, copy=False), bits)
        finite &= bool(known)
    refuse_not_finite(finite)
    return Quantised(codes, scales, tuple(weight.shape), dtype)


def refuse_not_finite(finite):
    """UserError unless all weights of a matrix are finite."""
    if not finite:
        raise UserError("a matrix with NaN or infinite weights cannot be quantised")


def _quantised(w, bits):
    """w (n, groups, 64) float32 -> codes (n, groups 64 bits / 8) uint8, scales (n, groups), the bits of bfloat16; and
    whether all of w is finite"""
    xp, zero = namespace(w), 2 ** (bits - 1)
    lowest, highest = w.min(-1, keepdims=True), w.max(-1, keepdims=True)            # (n, groups, 1)
    finite = xp.isfinite(highest - lowest).all()
    largest, least = xp.where(highest > -lowest, highest, lowest) + 0, None         # + 0: no -0
    for cut in CUTS[bits]:
        stored = bfloat16_bits_up(largest * np.float32(-cut / zero))
        scale = from_bfloat16_bits(stored)
        trial = xp.clip(xp.rint(w / xp.where(scale == 0, 1, scale)), -zero, zero - 1)
        error = xp.square(trial * scale - w).sum(-1, keepdims=True)
        if least is None:
            least, codes, scales = error, trial, stored
        else:
            better = error < least
            least, codes, scales = (xp.where(better, new, old) for new, old in
                                    ((error, least), (trial, codes), (stored, scales)))
    codes = (codes + zero).astype(np.uint8).reshape(len(w), -1)
    if bits == 4:
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    return codes, scales[..., 0], finite


def blocks(shape):
    """Slices of rows, about CHUNK weights each."""
    step = max(1, CHUNK // math.prod(shape[1:]))
    return [slice(start, start + step) for start in range(0, shape[0], step)]
