"""NumPy or CuPy, chosen by the arrays that come in; what precision arithmetic has; where arrays live."""
import math
import sys

import numpy as np

from ..errors import UserError


def namespace(array):
    """The module, numpy or cupy, that `array` belongs to. CuPy is looked up only if something has imported it."""
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(array, cupy.ndarray) else np


def place(array):
    """(namespace, the GPU's number or None): what a cache that holds arrays is keyed by, besides their contents."""
    xp = namespace(array)
    return xp, None if xp is np else array.device.id


def wide(array):
    """`array` in float32 at least: softmax, norms and losses accumulate in it (float64 stays float64).

    An array of uint16 holds the bits of bfloat16, which NumPy and CuPy do not know: see bfloat16_bits.
    """
    if array.dtype == np.uint16:
        return from_bfloat16_bits(array)
    return array.astype(np.result_type(array.dtype, np.float32), copy=False)


def to_numpy(array):
    return array if isinstance(array, np.ndarray) else array.get()


def bfloat16():
    """NumPy's dtype bfloat16. It comes with ml_dtypes, which is imported only where there are such numbers."""
    import ml_dtypes
    return np.dtype(ml_dtypes.bfloat16)


def round_to(array, dtype):
    """float32 values rounded to the nearest "float16" or "bfloat16" (ties to even), still held in float32."""
    if dtype not in ("float16", "bfloat16"):
        return array
    return array.astype(bfloat16() if dtype == "bfloat16" else np.float16).astype(np.float32)


def bfloat16_bits(array):
    """Values as bfloat16, by its bits in uint16: the form for CuPy, which has no such dtype, and for the kernels."""
    return namespace(array).asarray(to_numpy(array).astype(bfloat16(), copy=False).view(np.uint16))


def bfloat16_bits_up(array):
    """float32 values as bfloat16 bits, rounded away from zero."""
    return (array.view(np.uint32) + 0xFFFF >> 16).astype(np.uint16)


def from_bfloat16_bits(bits):
    """The same values in float32, whose upper half these bits are. NumPy or CuPy."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def converter(device="cpu", dtype="float32"):
    """A function that puts a NumPy array of a checkpoint onto `device` ("cpu", "cuda", "cuda:1") in `dtype`.

    On the CPU arithmetic is float32 or float64, whatever the checkpoint stores: NumPy has no fast half precision.
    """
    known = ("float32", "float64")
    if dtype not in known:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(known)} on the device {device!r}; "
                        "others need kernels")
    if device == "cpu":
        return lambda array: array.astype(dtype, copy=False)
    return cuda_converter(device, dtype)


def free_memory(array):
    """Bytes that are free where `array` lies: of a GPU's memory, and no limit on the CPU."""
    xp = namespace(array)
    if xp is np:
        return math.inf
    with array.device:
        xp.get_default_memory_pool().free_all_blocks()      # what arrays that are gone have left
        return array.device.mem_info[0]


def cuda_converter(device, dtype):
    kind, _, number = str(device).partition(":")
    if kind != "cuda" or not (number or "0").isdecimal():
        raise UserError(f"device {device!r} is not cpu, cuda or cuda:N")
    try:
        import cupy
        if int(number or 0) >= cupy.cuda.runtime.getDeviceCount():
            raise UserError(f"device {device!r}: this machine has {cupy.cuda.runtime.getDeviceCount()} GPU(s)")
    except ImportError:
        raise UserError(f"device {device!r} needs CuPy: pip install 'tinycogvlm[cuda12x]' (or cuda13x)") from None
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UserError(f"device {device!r}: no usable GPU ({error})") from None
    device = cupy.cuda.Device(int(number or 0))
    device.use()

    def convert(array):
        with device:                                    # every thread has a current device of its own
            if array.dtype.name == "bfloat16":          # CuPy does not know it: its bits are sent
                return from_bfloat16_bits(cupy.asarray(array.view(np.uint16))).astype(dtype, copy=False)
            return cupy.asarray(array).astype(dtype, copy=False)
    return convert
