"""What a kernel has left in an array: what changed, in which range it is, and where it is not what was expected."""
from dataclasses import dataclass

import numpy as np

from ...nn.arrays import from_bfloat16_bits
from .step import numbers

MOST_SHOWN = 64                                             # numbers of an array; of a larger one its edges


@dataclass(frozen=True)
class Outcome:
    """An array after the kernel. array: its values, float32 for bfloat16, bytes for structures; how many changed."""
    name: str
    dtype: str
    array: np.ndarray
    changed: int

    @property
    def range(self):
        """(the least, the greatest) of the finite numbers, or None where there are none."""
        finite = self.array[np.isfinite(self.array)]
        return (finite.min().item(), finite.max().item()) if finite.size else None

    @property
    def nan(self):
        return int(np.isnan(self.array).sum())

    @property
    def infinite(self):
        return int(np.isinf(self.array).sum())

    def __str__(self):
        said = [f"{self.changed} of {self.array.size} changed" if self.changed else "unchanged"]
        if self.range:
            said.append(f"{number(self.range[0])} to {number(self.range[1])}")
        said += [f"{count} {what}" for count, what in ((self.nan, "NaN"), (self.infinite, "infinite")) if count]
        shape = " x ".join(map(str, self.array.shape))
        return f"  {self.name} {self.dtype} {shape}: {', '.join(said)}\n    {numbers(self.array, MOST_SHOWN, number)}"

    def to_dict(self):
        """For programs: what JSON can hold, without the numbers themselves."""
        least, most = self.range or (None, None)
        return dict(name=self.name, dtype=self.dtype, shape=list(self.array.shape), changed=self.changed, min=least,
                    max=most, nan=self.nan, infinite=self.infinite)


def number(value, digits=6):
    return f"{value:.{digits}g}" if isinstance(value, (float, np.floating)) else str(int(value))


def outcome(parameter, called, before, after):
    """The Outcome of the array of a parameter. before, after: as they were passed to the kernel."""
    real = after.dtype.kind in "biuf"
    bits = [np.frombuffer(array.tobytes(), np.uint8).reshape(-1, after.itemsize if real else 1)
            for array in (before, after)]
    dtype = (parameter.dtype or after.dtype.name) if real else "bytes"
    return Outcome(called, dtype, values(parameter, after), int((bits[0] != bits[1]).any(-1).sum()))


def values(parameter, array):
    """The numbers in an array: of bfloat16's bits in float32; the bytes of what are no real numbers."""
    if parameter.kind == "B" and array.dtype == np.uint16:
        return from_bfloat16_bits(array)
    return array if array.dtype.kind in "biuf" else np.frombuffer(array.tobytes(), np.uint8)


def difference(found, expected, close=0.0):
    """None, or the sentence that says where `found` is not within `close` of `expected`, an array of the same shape.

    An entry may lie close * max(1, |expected|) from what is expected. NaN equals NaN.
    """
    ours, theirs = found.astype(np.float64), expected.astype(np.float64)
    same = (found == expected) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        error = np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))
    error = np.where(np.isfinite(error), error, np.inf)
    wrong = ~same & ((error > close) | (close == 0))
    many = int(wrong.sum())
    if not many:
        return None
    worst = np.unravel_index(np.where(wrong, error, -1).argmax(), error.shape)
    place = ", ".join(str(int(i)) for i in worst)
    return (f"{many} of {wrong.size} entries {'differs' if many == 1 else 'differ'}; the worst is [{place}]: "
            f"{number(found[worst], 9)}, {number(expected[worst], 9)} is expected")
