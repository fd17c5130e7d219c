"""Arrays as kernels take them: float32, float16, and bfloat16 as its bits in uint16."""
import numpy as np

from tinycogvlm.nn.arrays import round_to

KINDS = ("float32", "float16", "bfloat16")


def stored(array, kind):
    """Numbers rounded to `kind`, in the dtype that holds them."""
    if kind == "bfloat16":
        return (round_to(np.asarray(array, np.float32), kind).view(np.uint32) >> 16).astype(np.uint16)
    return np.asarray(array).astype(kind)


def numbers(array):
    """The numbers in float64; bits in uint16 are bfloat16."""
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)
