"""Compare what a kernel takes with what it was given: mistakes that a GPU would answer with wrong numbers."""
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .errors import ArgumentError

KINDS = {"f": "float", "h": "float", "i": "int", "u": "uint"}
MOST = {"grid": (2 ** 31 - 1, 65535, 65535), "block": (1024, 1024, 64)}
MOST_THREADS = 1024


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel. kind: f float, h half, B bfloat16, i int, u unsigned, b bool, V anything else."""
    name: str
    pointer: bool
    const: bool
    kind: str
    size: int                                               # bytes of a number: 4 in a float4*
    bytes: int                                              # bytes of a value, of what a pointer points to

    @property
    def dtype(self):
        """The dtype's name, or None where any fits."""
        if self.kind == "b":
            return "bool"
        if self.kind == "B":
            return "bfloat16"
        return f"{KINDS[self.kind]}{8 * self.size}" if self.kind in KINDS else None

    @property
    def wanted(self):
        dtype = "bfloat16 (or its bits, uint16)" if self.kind == "B" else self.dtype
        if self.pointer:
            return f"an array of {dtype}" if dtype else "an array"
        return f"numpy.{dtype}(...)" if dtype and self.bytes == self.size else f"a NumPy scalar of {self.bytes} bytes"

    def takes(self, dtype):
        return dtype.isnative and (self.dtype in (None, dtype.name) or (self.kind == "B" and dtype == np.uint16))


def parameters(signature, names):
    """The machine's description of a kernel, a line for each parameter -> [Parameter]"""
    found = []
    for i, line in enumerate(signature.split("\n")[:-1]):
        pointer, const, kind, size, total = line.split()
        name = names[i] if i < len(names) else ""
        found.append(Parameter(name, pointer == "1", const == "1", kind, int(size), int(total)))
    return found


def triple(what, value):
    """A grid or block as three numbers; as for CuPy, fewer may be given."""
    try:
        return _three(what, *value) if isinstance(value, (tuple, list)) else _three(what, value)
    except TypeError:                                       # of numbers that are lists
        raise ArgumentError(f"the {what} {value!r} is not one, two or three whole numbers") from None


@lru_cache(typed=True)
def _three(what, *numbers):                                 # typed: 1.0 is no answer for 1
    if not 1 <= len(numbers) <= 3 or not all(isinstance(n, (int, np.integer)) for n in numbers):
        raise ArgumentError(f"the {what} {numbers!r} is not one, two or three whole numbers")
    three = (*map(int, numbers), 1, 1)[:3]
    for axis, n, most in zip("xyz", three, MOST[what]):
        if not 1 <= n <= most:
            raise ArgumentError(f"the {what} {numbers!r} has {n} in {axis}; 1 to {most} are possible")
    if what == "block" and math.prod(three) > MOST_THREADS:
        raise ArgumentError(f"the block {numbers!r} has {math.prod(three)} threads; {MOST_THREADS} are the most")
    return three


def has_no_size(kind):
    """Whether it is a type of Python's own numbers, of which CuPy passes 8 bytes, whatever the kernel takes."""
    return issubclass(kind, (bool, int, float)) and not issubclass(kind, np.generic)


def check(kernel, taken, args):
    """ArgumentError unless `args` are what the parameters `taken` want."""
    if len(args) != len(taken):
        names = ", ".join(p.name or "?" for p in taken)
        raise ArgumentError(f"{kernel} takes {len(taken)} arguments ({names}), {len(args)} were given")
    for i, (p, value) in enumerate(zip(taken, args), 1):
        given = unfit(p, value)
        if given:
            called = f"argument {i} of {kernel}" + (f" ({p.name})" if p.name else "")
            raise ArgumentError(f"{called} is {given}, it must be {p.wanted}")


def unfit(p, value):
    """What an argument is that a parameter does not take, in words; None for one that it takes."""
    if has_no_size(type(value)):
        return f"Python's {value!r}, which has no size"
    if p.pointer and value is None:
        return None                                         # a null pointer
    if not isinstance(value, np.ndarray if p.pointer else np.generic):
        return f"of type {type(value).__name__}"
    if not p.takes(value.dtype) or (not p.pointer and value.nbytes != p.bytes):
        swapped = "" if value.dtype.isnative else " in another machine's byte order"
        return f"{'an array of ' if p.pointer else ''}{value.dtype.name}{swapped}"
    if p.pointer and not value.flags.c_contiguous:
        return "not contiguous (numpy.ascontiguousarray makes it so)"
    if p.pointer and not p.const and not value.flags.writeable:
        return "read-only, though the kernel writes it"
    return None
