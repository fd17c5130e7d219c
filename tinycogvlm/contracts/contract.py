"""What a contract is, and how an implementation is checked against it."""
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3}
EXACT = dict.fromkeys(TOLERANCE, 0.0)


@dataclass(frozen=True)
class Contract:
    """spec(**arguments) -> float64 array; NaN where the op promises no value. cases() -> [(label, arguments)]

    tolerance: {dtype: bound}. An entry may be off by bound * max(1, the largest expected value of its row).
    Cases whose label begins with "large" have magnitudes at which finite differences are too coarse.
    """
    name: str
    spec: Callable
    cases: Callable
    tolerance: dict

    def narrowed(self, name, applies=lambda arguments: True, drop=(), **fixed):
        """The contract of an op without the options `drop` or with `fixed` ones, for the cases that `applies` picks."""
        def cases():
            for label, arguments in self.cases():
                if applies(arguments):
                    yield label, {key: value for key, value in arguments.items() if key not in drop}
        return replace(self, name=name, spec=lambda **arguments: self.spec(**arguments, **fixed), cases=cases)

    def cases_in(self, dtype):
        """Yield (label, arguments in `dtype`, right result) for the cases whose numbers `dtype` can hold.

        The right result is that of the arguments as rounded to `dtype`.
        """
        for label, exact in self.cases():
            if not holds(dtype, *exact.values()):
                continue
            arguments = cast(exact, dtype)
            expected = self.spec(**cast(arguments, "float64"))
            if holds(dtype, *(expected if isinstance(expected, tuple) else [expected])):
                yield label, arguments, expected

    def check(self, implementation, dtype="float32"):
        """Raise Broken, with the five worst entries, unless `implementation` keeps the contract in `dtype`.

        A specification may return several arrays, or whole numbers or truth values; the implementation then does, too.
        Arrays come back in `dtype`; a single number, such as a loss, in float32 or better.
        """
        for label, arguments, expected in self.cases_in(dtype):
            what = f"{self.name}, {label}, {dtype}"
            before = {name: np.copy(value) if isinstance(value, np.ndarray) else value
                      for name, value in arguments.items()}
            actual = implementation(**arguments)
            for name, value in before.items():
                if isinstance(value, np.ndarray) and not np.array_equal(arguments[name], value, equal_nan=True):
                    raise Broken(f"{what}: {name} was changed", "changed", label, before, argument=name)
            for i, (mine, right) in enumerate(outputs(actual, expected, what, label, before)):
                of = f"{what}, output {i}" if isinstance(expected, tuple) else what
                wanted = right.dtype if right.dtype.kind != "f" else np.dtype(dtype) if right.ndim else wide(dtype)
                broken = dict(label=label, arguments=before, actual=mine, expected=right, output=i)
                if mine.dtype != wanted and (wanted.kind == "f" or mine.dtype.kind != wanted.kind):
                    raise Broken(f"{of}: the dtype is {mine.dtype}, not {wanted}", "dtype", **broken)
                try:
                    close(mine, right, self.tolerance[dtype], of)
                except AssertionError as error:
                    kind = "values" if mine.shape == right.shape else "shape"
                    raise Broken(str(error), kind, tolerance=self.tolerance[dtype], **broken) from None


class Broken(AssertionError):
    """How a contract was broken. kind: "changed" (an argument), "count" (of outputs), "dtype", "shape" or "values"."""

    def __init__(self, sentence, kind, label, arguments, actual=None, expected=None, output=0, argument=None,
                 tolerance=None):
        super().__init__(sentence)
        self.kind, self.label, self.arguments, self.argument = kind, label, arguments, argument
        self.actual, self.expected, self.output, self.tolerance = actual, expected, output, tolerance


def outputs(actual, expected, what, label, arguments):
    """Pair each array that came back with the right one; raise Broken if their number differs."""
    if not isinstance(expected, tuple):
        if isinstance(actual, tuple) and any(callable(part) or np.ndim(part) for part in actual):
            raise Broken(f"{what}: {len(actual)} results, not one array", "count", label, arguments, actual, expected)
        return [(to_numpy(actual), np.asarray(expected))]
    if not isinstance(actual, (tuple, list)) or len(actual) != len(expected):
        raise Broken(f"{what}: the result is not {len(expected)} arrays", "count", label, arguments, actual, expected)
    return [(to_numpy(mine), np.asarray(right)) for mine, right in zip(actual, expected)]


def cast(arguments, dtype):
    """The arguments with floating-point arrays in `dtype` and everything else as it is."""
    return {name: value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
            for name, value in arguments.items()}


def holds(dtype, *values):
    """Whether the floating-point arrays among the values are within the range of `dtype`."""
    arrays = [value for value in values if isinstance(value, (np.ndarray, np.floating)) and value.dtype.kind == "f"]
    return all(np.nanmax(np.abs(array), initial=0) <= np.finfo(dtype).max for array in arrays)


def wide(dtype):
    """float32, or float64 for float64"""
    return np.result_type(dtype, np.float32)


def to_numpy(array):
    return array.get() if hasattr(array, "get") else np.asarray(array)


def close(actual, expected, tolerance, what):
    """Assert |actual - expected| <= tolerance * max(1, largest |expected| of the row); NaN in `expected` is open."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, not {expected.shape}"
    wrong, bound, places = differences(actual, expected, tolerance)
    if places:
        lines = [f"{what}: {wrong.sum()} of {wrong.size} entries differ; the worst:"]
        lines += [f"    {place}: {actual[place].item()!r}, expected {expected[place].item()!r}, "
                  f"allowed {bound[place]:.3g}" for place in places[:5]]
        raise AssertionError("\n".join(lines))


def differences(actual, expected, tolerance):
    """Compare arrays of one shape -> which entries are wrong, how far each may be off, wrong indices, worst first"""
    settled = ~np.isnan(expected)
    known = np.where(settled, expected, 0)
    largest = np.abs(known).max(-1, keepdims=True, initial=0) if known.ndim else np.abs(known)
    bound = np.broadcast_to(tolerance * np.maximum(1, largest), expected.shape)
    error = np.abs(np.where(settled, actual, 0).astype(np.float64) - known)
    finite = np.isfinite(actual)
    wrong = ~(error <= bound) | ~finite
    if not wrong.any():
        return wrong, bound, []
    ratio = np.where(finite, error / np.maximum(bound, 1e-100), np.inf)
    worst = np.argsort(-ratio, axis=None, kind="stable")[:wrong.sum()]
    return wrong, bound, [tuple(map(int, np.unravel_index(i, expected.shape))) for i in worst]


def over(*sizes):
    """Yield every index tuple of an array with these sizes."""
    return itertools.product(*(range(size) for size in sizes))


def random(*shape, seed=0, scale=1.0, mean=0.0):
    """Normally distributed numbers, the same for the same seed and shape."""
    return mean + scale * np.random.default_rng([seed, *shape]).standard_normal(shape)
