"""Arguments for a kernel from a few words, for a command line that runs it, steps through it or profiles it."""
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...nn.arrays import bfloat16_bits
from ..runner.arguments import Parameter
from ..runner.cpu import require_memory
from ..runner.errors import ArgumentError

TYPES = {"bool": ("b", 1), "float16": ("h", 2), "bfloat16": ("B", 2), "float32": ("f", 4), "float64": ("f", 8),
         **{f"{sign}int{8 * size}": (sign or "i", size) for sign in ("", "u") for size in (1, 2, 4, 8)}}


def examples(parameters, words, seed=0):
    """["4x64", "64", ...], one word for each parameter -> the arguments.

    A pointer takes a shape, 4x64: random numbers if the kernel only reads them (0 to 9 for integers), else zeros;
    or a number with a shape, 1.5:4x64, for all of it; or random:4x64; or range:4x64 for 0, 1, 2 ... in this shape, as a
    list of indices is; or the file of an array, x.npy; or "null". A shape may end in the type of its numbers,
    4x64:float32, which void* needs. A value takes a number. A word may name its parameter, n=64; those that name none
    are for the others, in their order.
    """
    random = np.random.default_rng(seed)
    return tuple(_example(p, word, random) for p, word in zip(parameters, _in_order(parameters, words)))


def constants(pairs):
    """[(name, word), ...] -> {name: array} for __constant__ variables: a .npy file, or a shape with a type."""
    for name, word in pairs:
        if not word.endswith(".npy") and word.rpartition(":")[2] not in TYPES:
            raise ArgumentError(f"{name}: {word!r} is not a .npy file, nor a shape with a type, such as 0.25:9:float32")
    return {name: _example(Parameter(name, True, True, "V", 1, 1), word, np.random.default_rng(0))
            for name, word in pairs}


def _in_order(parameters, words):
    """The words, without names, in the parameters' order."""
    if len(words) != len(parameters):
        listed = ", ".join(f"{p.name or '?'} ({'array' if p.pointer else 'number'})" for p in parameters)
        raise ArgumentError(f"the kernel takes {len(parameters)} arguments: {listed}; {len(words)} were given")
    names, named, others = [p.name for p in parameters], {}, []
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and re.fullmatch(r"[A-Za-z_]\w*", name)):
            others.append(word)
        elif name not in names:
            known = ", ".join(filter(None, names))
            raise ArgumentError(f"{word!r}: the kernel has no parameter {name!r}; it has {known}")
        elif name in named:
            raise ArgumentError(f"{word!r}: {name} was given before, as {named[name]!r}")
        else:
            named[name] = value
    return [named[name] if name in named else others.pop(0) for name in names]


def _example(parameter, word, random):
    called = parameter.name or "an argument"
    try:
        if not parameter.pointer:
            return _number(parameter, word)
        if word == "null":
            return None
        if word.endswith(".npy"):
            return stored(word, called)
        value, shape, dtype = re.fullmatch(r"(?:([^:]+):)?(\d+(?:x\d+)*)(?::(\w+))?", word).groups()
        if dtype:
            parameter = _typed(parameter, dtype, called)
        shape = tuple(map(int, shape.split("x")))
        size = math.prod(shape)
        require_memory(size * (_dtype(parameter).itemsize + 8), f"{called}: an array {'x'.join(map(str, shape))}")
        if value == "range":
            _number(parameter, max(0, size - 1))            # the type goes so far
            return _rounded(np.arange(size).reshape(shape), parameter)
        if value and value != "random":
            return np.full(shape, _number(parameter, value))
        if not parameter.const and value != "random":
            return np.zeros(shape, _dtype(parameter))
        if parameter.kind in "fhB":
            return _rounded(random.standard_normal(shape), parameter)
        return random.integers(0, 10, shape).astype(_dtype(parameter))
    except UserError:
        raise
    except (AttributeError, ValueError, FloatingPointError):        # no match, no number, too large a number
        wanted = f"a number of {parameter.dtype or 'uint8'}"
        if parameter.pointer:
            wanted = (f"a shape such as 4x64, {wanted} with a shape such as 1:4x64, range:4x64, random:4x64, a .npy "
                      "file or null")
        raise ArgumentError(f"{called}: {word!r} is not {wanted}") from None


def _typed(parameter, dtype, called):
    """The parameter with the type of numbers that a word names: of void* any, of others only their own."""
    if dtype not in TYPES:
        raise ArgumentError(f"{called}: {dtype!r} is not a type of numbers; there are {', '.join(TYPES)}")
    if parameter.dtype not in (None, dtype):
        raise ArgumentError(f"{called} is an array of {dtype}, it must be {parameter.wanted}")
    kind, size = TYPES[dtype]
    return replace(parameter, kind=kind, size=size)


def _dtype(parameter):
    """NumPy's dtype of an array: bfloat16 as its bits, structures as bytes"""
    return np.dtype({"bfloat16": "uint16", None: "uint8"}.get(parameter.dtype, parameter.dtype))


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


def _number(parameter, word):
    if parameter.kind in "fhB":
        with np.errstate(over="raise"):                     # a number too large for its type is an error
            return _rounded(np.array([float(word)]), parameter)[0]
    value, dtype = int(word), _dtype(parameter)
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise ValueError
    return dtype.type(value)


def _rounded(values, parameter):
    if parameter.kind == "B":
        return bfloat16_bits(values.astype(np.float32))
    return values.astype(_dtype(parameter))
