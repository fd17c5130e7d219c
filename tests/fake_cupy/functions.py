"""CuPy's functions of arrays, as far as the package uses them."""
import numpy as np

from .arrays import compute, ndarray, operand, ours, result, sent, started, supported, ufuncs
from .memory import machine


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if isinstance(obj, ndarray):
        return obj.astype(dtype or obj.dtype, copy=bool(copy))
    found = np.asarray(obj, dtype)
    supported(found.dtype)
    sent(found)
    made = ndarray(found.shape, found.dtype)
    compute(made, lambda: found)
    return made


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return array(a, dtype, bool(copy))


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def ascontiguousarray(a, dtype=None):
    ours(a)
    same = a._numpy.flags.c_contiguous and (dtype is None or a.dtype == dtype)
    return a if same else result(lambda: a._numpy, a.shape, dtype or a.dtype, a)


def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype)


def full(shape, fill_value, dtype=None, order="C"):
    value = operand(fill_value)
    shape = tuple(map(int, np.atleast_1d(shape)))
    return result(lambda: value, shape, dtype or np.asarray(value).dtype)


def zeros(shape, dtype=float, order="C"):
    return full(shape, 0, dtype)


def ones(shape, dtype=float, order="C"):
    return full(shape, 1, dtype)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    ours(prototype)
    return empty(prototype.shape, dtype or prototype.dtype)


def zeros_like(a, dtype=None, order="K", subok=None, shape=None):
    ours(a)
    return zeros(a.shape, dtype or a.dtype)


def ones_like(a, dtype=None, order="K", subok=None, shape=None):
    ours(a)
    return ones(a.shape, dtype or a.dtype)


def arange(start, stop=None, step=1, dtype=None):
    numbers = np.arange(start, dtype=dtype) if stop is None else np.arange(start, stop, step, dtype)
    return result(lambda: numbers, numbers.shape, numbers.dtype)


def tri(N, M=None, k=0, dtype=float):
    numbers = np.tri(N, M, k, dtype)
    return result(lambda: numbers, numbers.shape, numbers.dtype)


def concatenate(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    ours(*tup)
    shape = list(tup[0].shape)
    shape[axis] = sum(part.shape[axis] for part in tup)
    return result(lambda: np.concatenate([part._numpy for part in tup], axis), tuple(shape),
                  np.result_type(*(part.dtype for part in tup)), *tup)


def stack(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    ours(*tup)
    axis %= tup[0].ndim + 1
    return concatenate([part[(slice(None),) * axis + (None,)] for part in tup], axis)


def roll(a, shift, axis=None):
    ours(a)
    return result(lambda: np.roll(a._numpy, shift, axis), a.shape, a.dtype, a)


def broadcast_to(array, shape):
    ours(array)
    return array._view(np.broadcast_to(array._numpy, shape))


def where(condition, x=None, y=None):
    ours(condition)
    values = [operand(value) for value in (condition, x, y)]
    kind = ufuncs["add"].kind([np.zeros(0, bool) if v is condition._numpy else v for v in values[1:]])
    return result(lambda: np.where(*values), np.broadcast_shapes(*map(np.shape, values)), kind, condition,
                  *(value for value in (x, y) if isinstance(value, ndarray)))


def copyto(dst, src, casting="same_kind", where=None):
    ours(dst, *(() if where is None else (where,)))
    value = operand(src)
    started(dst)
    if machine.content:
        np.copyto(dst._numpy, value, casting, True if where is None else where._numpy)


def clip(a, a_min, a_max, out=None):
    ours(a)
    return ufuncs["minimum"](ufuncs["maximum"](a, a_min), a_max, out=out)


def nonzero(a):
    ours(a)
    return a.nonzero()


def matmul(x1, x2, out=None):
    """Products of 16-bit numbers are summed in float32, as by cuBLAS."""
    ours(x1, x2)
    x, y = x1._numpy, x2._numpy
    if x.ndim < 2 or y.ndim < 2:
        shape = (x.shape[:-1] if y.ndim == 1 else y.shape[-1:])
    else:
        shape = (*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
    if x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise ValueError(f"matmul: the shapes {x.shape} and {y.shape} do not fit")
    kind = np.result_type(x, y)
    wide = np.float32 if kind == np.float16 else kind
    return result(lambda: np.matmul(x.astype(wide, copy=False), y.astype(wide, copy=False)), shape, kind, x1, x2)


ndarray.__matmul__ = matmul
ndarray.__rmatmul__ = lambda self, other: matmul(other, self)


def vdot(a, b):
    return matmul(a.reshape(-1), b.reshape(-1))


def einsum(subscripts, *operands, optimize=False):
    ours(*operands)
    terms, target = subscripts.replace("...", ".").split("->")
    sizes = {}
    for letters, array in zip(terms.split(","), operands):
        named = letters.replace(".", "")
        sizes |= dict(zip(named, array.shape[array.ndim - len(named):]))
        sizes["."] = array.shape[:array.ndim - len(named)] if "." in letters else ()
    shape = sum(((sizes[letter] if letter == "." else (sizes[letter],)) for letter in target), ())
    kind = np.result_type(*(array.dtype for array in operands))
    wide = np.float32 if kind == np.float16 else kind
    return result(lambda: np.einsum(subscripts, *(array._numpy.astype(wide, copy=False) for array in operands),
                                    optimize=optimize), shape, kind, *operands)
