"""Arguments for a kernel from a few words, for a command line that steps through it or profiles it."""
import math
import re
import warnings
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...nn.arrays import bfloat16_bits
from ..runner.cpu import require_memory
from ..runner.errors import ArgumentError


def examples(parameters, words, seed=0):
    """["4x64", "64", ...], one word for each parameter -> the arguments.

    A pointer takes a shape, 4x64: random numbers if the kernel only reads them (0 to 9 for integers), else zeros;
    or a number with a shape, 1.5:4x64, for all of it; or range:4x64 for 0, 1, 2 ... in this shape, as a list of indices
    is; or the file of an array, x.npy; or "null". A value takes a number.
    """
    if len(words) != len(parameters):
        named = ", ".join(f"{p.name or '?'} ({'array' if p.pointer else 'number'})" for p in parameters)
        raise ArgumentError(f"the kernel takes {len(parameters)} arguments: {named}; {len(words)} were given")
    random = np.random.default_rng(seed)
    return tuple(_example(p, word, random) for p, word in zip(parameters, words))


def _example(parameter, word, random):
    called = parameter.name or "an argument"
    dtype = np.dtype({"bfloat16": "uint16", None: "uint8"}.get(parameter.dtype, parameter.dtype))
    try:
        if not parameter.pointer:
            return _number(parameter, dtype, word)
        if word == "null":
            return None
        if word.endswith(".npy"):
            return stored(word, called)
        value, _, shape = word.rpartition(":")
        if not re.fullmatch(r"\d+(x\d+)*", shape):
            raise ValueError
        shape = tuple(map(int, shape.split("x")))
        require_memory(math.prod(shape) * (dtype.itemsize + 8), f"{called}: an array {'x'.join(map(str, shape))}")
        if value == "range":
            _number(parameter, dtype, max(0, math.prod(shape) - 1))             # the type goes so far
            return _rounded(np.arange(math.prod(shape)).reshape(shape), parameter, dtype)
        if value:
            return np.full(shape, _number(parameter, dtype, value))
        if not parameter.const:
            return np.zeros(shape, dtype)
        if parameter.kind in "fhB":
            return _rounded(random.standard_normal(shape), parameter, dtype)
        return random.integers(0, 10, shape).astype(dtype)
    except UserError:
        raise
    except (ValueError, FloatingPointError):
        wanted = f"a number of {parameter.dtype or dtype}"
        if parameter.pointer:
            wanted = f"a shape such as 4x64, {wanted} with a shape such as 1:4x64, range:4x64, a .npy file or null"
        raise ArgumentError(f"{called}: {word!r} is not {wanted}") from None


def stored(file, called):
    """The array in a .npy file, in this machine's byte order"""
    no_array = f"{called}: {file!r} is not an array as numpy.save writes it"
    if Path(file).exists() and not Path(file).is_file():    # a pipe would be waited for
        raise ArgumentError(no_array)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = np.load(file, mmap_mode="r")            # compares the header with the size of the file
    except OSError as error:
        raise ArgumentError(f"{called}: {file!r} cannot be read ({error.strerror or error})") from None
    except Exception:                                       # whatever the parser of a damaged header raises
        raise ArgumentError(no_array) from None
    if not isinstance(array, np.ndarray):                   # a .npz file by another name
        raise ArgumentError(no_array)
    require_memory(array.nbytes, file)
    return np.array(array, array.dtype.newbyteorder("="), order="C")


def _number(parameter, dtype, word):
    if parameter.kind in "fhB":
        with np.errstate(over="raise"):                     # a number too large for its type is an error
            return _rounded(np.array([float(word)]), parameter, dtype)[0]
    value = int(word)
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise ValueError
    return dtype.type(value)


def _rounded(values, parameter, dtype):
    if parameter.kind == "B":
        return bfloat16_bits(values.astype(np.float32))
    return values.astype(dtype)
