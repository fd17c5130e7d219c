"""cupy.ndarray and CuPy's ufuncs."""
from functools import cache
from types import SimpleNamespace

import numpy as np

from .cuda import Device
from .memory import Memory, machine

KINDS = frozenset("?bBhHiIlLqQefdFD")                       # the dtypes of CuPy: no bfloat16, no object
UFUNCS = """
    absolute add bitwise_and bitwise_or bitwise_xor cos divide equal exp floor floor_divide greater greater_equal invert
    isfinite isnan left_shift less less_equal log log10 log1p logical_and logical_not logical_or maximum minimum multiply
    negative not_equal power remainder right_shift rint sign sin sqrt square subtract tanh true_divide"""

on_which = cache(Device)
later = []                                                  # copies to the host that are under way: (to, what)


class ndarray:
    """An array on a GPU: memory there, and NumPy's view of it, which only this package may touch."""
    __module__, __hash__, __slots__ = "cupy", None, ("_numpy", "_memory", "base", "__weakref__")

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        shape, dtype = tuple(map(int, np.atleast_1d(shape))), supported(dtype)
        self._memory = Memory(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        self._numpy, self.base = np.ndarray(shape, dtype, self._memory.bytes.data, order=order), None

    shape, dtype, ndim, size, nbytes, itemsize, strides = (
        property(lambda self, name=name: getattr(self._numpy, name))
        for name in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides"))

    @property
    def flags(self):
        return Flags(self._numpy.flags)

    @property
    def data(self):
        return SimpleNamespace(ptr=self._numpy.ctypes.data)

    @property
    def device(self):
        return on_which(self._memory.number)

    def _view(self, array):
        view = object.__new__(ndarray)
        view._numpy, view._memory, view.base = array, self._memory, self if self.base is None else self.base
        return view

    # what CuPy refuses, and what waits for the GPU

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy "
                        "array explicitly.")

    def __array_ufunc__(self, function, method, *inputs, out=(None,), **named):
        if method != "__call__" or function.__name__ not in ufuncs or len(out) != 1:
            return NotImplemented
        return ufuncs[function.__name__](*inputs, out=out[0], **named)

    def __array_function__(self, function, kinds, arguments, named):
        from . import functions
        ours = getattr(functions, function.__name__, None)
        return ours(*arguments, **named) if ours else NotImplemented

    def get(self, stream=None, order="C", out=None, blocking=True):
        if machine.capturing:
            raise RuntimeError("the current stream is capturing, so D2H transfers are disallowed")
        machine.done["to host"] += 1
        machine.moved["to host"] += self.nbytes
        if out is None:
            out = np.zeros(self.shape, self.dtype)
        if out.shape != self.shape or out.dtype != self.dtype:
            raise TypeError("out has another shape or dtype")
        if machine.content and not blocking:                # it is there when an Event has said so
            later.append((out, self._numpy.copy()))
            out.view(np.uint8)[...] = 0xff
        elif machine.content:
            out[...] = self._numpy
        return out

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray) or arr.dtype != self.dtype:
            raise TypeError("Only a numpy.ndarray of the same dtype can be set to cupy.ndarray")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not self._numpy.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        sent(arr)
        compute(self, lambda: arr)

    def item(self, *args):
        return self.get().item(*args)

    def tolist(self):
        return self.get().tolist()

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __repr__(self):
        return f"cupy.{self._numpy!r}"

    def __len__(self):
        return len(self._numpy)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    # indices

    def __getitem__(self, index):
        index, picks = numpy_index(index)
        if not picks:
            index = index if any(part is ... for part in index) else (*index, ...)      # a number is an array, too
            return self._view(self._numpy[index])
        found = self._numpy[index] if machine.content else np.broadcast_to(np.False_, self.shape)[index]
        return result(lambda: found, found.shape, self.dtype, self)

    def __setitem__(self, index, value):
        index, picks = numpy_index(index)
        value = operand(value)
        arrays = [np.broadcast_to(i, np.broadcast_shapes(*(np.shape(j) for j in index if isinstance(j, np.ndarray))))
                  for i in index if isinstance(i, np.ndarray) and i.dtype != bool]
        if machine.content and arrays and np.ndim(value):
            places = np.stack([array.ravel() for array in arrays])
            if np.unique(places, axis=1).shape != places.shape:
                raise AssertionError("an index stands twice in a scatter: what remains is undefined on a GPU")
        started(self)
        if machine.content:
            with np.errstate(all="ignore"):
                self._numpy[index] = value
        elif not picks:
            np.broadcast_shapes(np.shape(value), self._numpy[index].shape)

    # views and copies

    def reshape(self, *shape, order="C"):
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        try:
            return self._view(np.reshape(self._numpy, shape, copy=False))
        except ValueError as error:
            if "copy" not in str(error):
                raise
        return self.copy().reshape(*shape)

    def transpose(self, *axes):
        return self._view(self._numpy.transpose(*axes))

    def swapaxes(self, axis1, axis2):
        return self._view(self._numpy.swapaxes(axis1, axis2))

    real = property(lambda self: self._view(self._numpy.real))
    imag = property(lambda self: self._view(self._numpy.imag))

    @property
    def T(self):
        return self.transpose()

    def view(self, dtype=None):
        return self._view(self._numpy.view(supported(dtype or self.dtype)))

    def ravel(self, order="C"):
        return self.reshape(-1)

    def copy(self, order="C"):
        return result(lambda: self._numpy, self.shape, self.dtype, self)

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        dtype = supported(dtype)
        return self if not copy and dtype == self.dtype else result(lambda: self._numpy, self.shape, dtype, self)

    def cumsum(self, axis=None, dtype=None, out=None):
        kind = dtype or np.cumsum(np.zeros(1, self.dtype)).dtype
        shape = (self.size,) if axis is None else self.shape
        return result(lambda: self._numpy.cumsum(axis, kind), shape, kind, self)

    def repeat(self, repeats, axis=None):
        shape = [self.size] if axis is None else list(self.shape)
        shape[axis or 0] *= repeats
        return result(lambda: self._numpy.repeat(repeats, axis), tuple(shape), self.dtype, self)

    def fill(self, value):
        self[...] = value

    def nonzero(self):
        from .functions import asarray
        return tuple(map(asarray, self.get().nonzero()))

    # reductions

    def all(self, axis=None, out=None, keepdims=False):
        return reduced("all", self, axis, keepdims, bool)

    def any(self, axis=None, out=None, keepdims=False):
        return reduced("any", self, axis, keepdims, bool)

    def max(self, axis=None, out=None, keepdims=False):
        return reduced("max", self, axis, keepdims)

    def min(self, axis=None, out=None, keepdims=False):
        return reduced("min", self, axis, keepdims)

    def argmax(self, axis=None, out=None, dtype=None, keepdims=False):
        return reduced("argmax", self, axis, keepdims, np.int64)

    def sum(self, axis=None, dtype=None, out=None, keepdims=False):
        small = np.zeros(0, self.dtype).sum().dtype
        return reduced("sum", self, axis, keepdims, dtype or small)

    def mean(self, axis=None, dtype=None, out=None, keepdims=False):
        return reduced("mean", self, axis, keepdims, dtype or np.zeros(1, self.dtype).mean().dtype)


class Flags:
    """CuPy's: there is no `writeable`."""

    def __init__(self, flags):
        self.c_contiguous, self.f_contiguous, self.fnc, self.forc = (
            flags.c_contiguous, flags.f_contiguous, flags.fnc, flags.forc)


# ------------------------------------------------------------------------------------------------ how all of it runs

def supported(dtype):
    dtype = np.dtype(dtype)
    if dtype.char not in KINDS:
        raise ValueError(f"Unsupported dtype {dtype}")
    return dtype


def started(*arrays):
    """Count an operation on arrays, which must lie on the current GPU; no graph may be recording."""
    same_gpu(*arrays)
    if machine.capturing:
        raise AssertionError("an operation of CuPy's own, no kernel of ours, while a graph is captured")
    machine.done["op"] += 1


def same_gpu(*arrays):
    for array in arrays:
        if array._memory.number != machine.current:
            raise ValueError(f"Array device must be same as the current device: array device = {array._memory.number} "
                             f"while current = {machine.current}")


def sent(array):
    if machine.capturing:
        raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
    machine.done["to GPU"] += 1
    machine.moved["to GPU"] += array.nbytes


def compute(target, numbers):
    if machine.content:
        with np.errstate(all="ignore"):
            target._numpy[...] = numbers()


def result(numbers, shape, dtype, *arrays):
    """A new array of what `numbers` gives, if there is content"""
    started(*(array for array in arrays if isinstance(array, ndarray)))
    made = ndarray(shape, dtype)
    compute(made, numbers)
    return made


def ours(*arrays):
    for array in arrays:
        if not isinstance(array, ndarray):
            raise TypeError(f"Argument has incorrect type (expected cupy.ndarray, got {type(array).__name__})")


def operand(value):
    """What NumPy is given for it: an array of ours, or a number"""
    if isinstance(value, ndarray):
        return value._numpy
    if isinstance(value, (bool, int, float, complex, np.generic)):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def numpy_index(index):
    """The index for NumPy as a tuple, and whether an array in it picks entries"""
    index = index if isinstance(index, tuple) else (index,)
    for part in index:
        if not (part is None or part is ... or isinstance(part, (slice, int, np.integer, ndarray, np.ndarray))):
            raise IndexError(f"{type(part).__name__} as an index")
    picks = any(isinstance(part, (ndarray, np.ndarray)) for part in index)
    unknown = (lambda array: array) if machine.content else np.zeros_like
    return tuple(unknown(part._numpy) if isinstance(part, ndarray) else part for part in index), picks


def reduced(name, array, axis, keepdims, dtype=None):
    axes = range(array.ndim) if axis is None else np.atleast_1d(axis) % array.ndim
    shape = tuple(1 if i in axes else n for i, n in enumerate(array.shape) if keepdims or i not in axes)
    wide = np.float32 if array.dtype == np.float16 and name in ("sum", "mean") else array.dtype
    return result(lambda: getattr(array._numpy.astype(wide, copy=False), name)(axis=axis, keepdims=keepdims),
                  shape, dtype or array.dtype, array)


class ufunc:
    """CuPy's: `out` has the whole shape, there is no `where`, and NumPy arrays are no operands."""

    def __init__(self, function):
        self.function, self.nin, self.__name__, self.dtypes = function, function.nin, function.__name__, {}

    def __call__(self, *arguments, out=None, dtype=None, casting="same_kind"):
        if len(arguments) == self.nin + 1:
            *arguments, out = arguments
        if len(arguments) != self.nin:
            raise TypeError(f"Wrong number of arguments for {self.__name__!r}")
        values = [operand(value) for value in arguments]
        kind, arrays = self.kind(values), [value for value in arguments if isinstance(value, ndarray)]
        if out is None:
            shape = np.broadcast_shapes(*map(np.shape, values))
            return result(lambda: self.function(*values, dtype=dtype), shape, dtype or kind, *arrays)
        ours(out)
        if np.broadcast_shapes(out.shape, *map(np.shape, values)) != out.shape:
            raise ValueError("Out shape is mismatched")
        if not np.can_cast(kind, out.dtype, casting):
            raise TypeError(f"output operand cannot be cast from {kind} to {out.dtype} with casting rule {casting!r}")
        started(out, *arrays)
        compute(out, lambda: self.function(*values))
        return out

    def kind(self, values):
        """The dtype of the result, by NumPy's rules, which are CuPy's"""
        key = tuple(value.dtype if isinstance(value, np.ndarray) else type(value) for value in values)
        if key not in self.dtypes:
            none = [np.ones(0, value.dtype) if isinstance(value, np.ndarray) else value for value in values]
            self.dtypes[key] = self.function(*none).dtype
        return self.dtypes[key]

    def at(self, a, indices, b=None):
        if self.__name__ not in ("add", "subtract", "maximum", "minimum"):
            raise NotImplementedError(f"`{self.__name__}.at` is not supported yet")
        started(a, b)
        if machine.content:
            self.function.at(a._numpy, numpy_index(indices)[0], b._numpy)


ufuncs = {name: ufunc(getattr(np, name)) for name in UFUNCS.split()}
ufuncs["abs"] = ufuncs["absolute"]


def operator(name, reflected=False, in_place=False):
    def operate(self, other):
        if not isinstance(other, (ndarray, np.ndarray, np.generic, bool, int, float, complex)):
            return NotImplemented
        if in_place:
            return ufuncs[name](self, other, out=self)
        return ufuncs[name](other, self) if reflected else ufuncs[name](self, other)
    return operate


for sign, name in dict(add="add", sub="subtract", mul="multiply", truediv="true_divide", floordiv="floor_divide",
                       mod="remainder", pow="power", lshift="left_shift", rshift="right_shift", **{
                           "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}).items():
    setattr(ndarray, f"__{sign}__", operator(name))
    setattr(ndarray, f"__r{sign}__", operator(name, reflected=True))
    setattr(ndarray, f"__i{sign}__", operator(name, in_place=True))
for sign, name in dict(lt="less", le="less_equal", gt="greater", ge="greater_equal", eq="equal", ne="not_equal").items():
    setattr(ndarray, f"__{sign}__", operator(name))
for sign, name in dict(neg="negative", invert="invert", abs="absolute").items():
    setattr(ndarray, f"__{sign}__", lambda self, name=name: ufuncs[name](self))
