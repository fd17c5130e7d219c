"""Arrays as kernels take them: float32, float16, and bfloat16 as its bits in uint16."""
import numpy as np

from tinycogvlm.nn.arrays import bfloat16_bits, from_bfloat16_bits

KINDS = ("float32", "float16", "bfloat16")


def stored(array, kind):
    """Numbers rounded to `kind`, in the dtype that holds them."""
    if kind == "bfloat16":
        return bfloat16_bits(np.asarray(array, np.float32))
    return np.asarray(array).astype(kind)


def numbers(array):
    """The numbers in float64; bits in uint16 are bfloat16."""
    if array.dtype == np.uint16:
        array = from_bfloat16_bits(array)
    return array.astype(np.float64)
