"""How far a computed tensor may lie from the reference's: functions of the reference's largest entry."""
import numpy as np

from ..errors import UserError
from .case import META


def exactly(largest):
    return 0.0


def float32(largest):
    """The reference's own float32 lies at most half of this from float64."""
    return 2e-5 * max(1.0, largest)


def pixels(largest):
    return 1e-6 * max(1.0, largest)


def gradient(largest):
    """5e-5 of the tensor's largest entry, so that a gradient of zero must be exactly zero.

    The reference's own float32 gradients of tests/golden/v1_grads lie up to 2.6e-5 x the largest entry from float64;
    ours 0.65e-5.
    """
    return 5e-5 * largest


# Eight steps on one batch. SGD's rate is so large that rounding grows about eightfold a step: in v1_grads the
# reference's float32 losses lie 1.1e-5, 1.6e-3, 4.2e-3, 0.04, 0.22 and 0.07 from float64 in steps 3 to 8, its weights
# after them 3.8e-3; ours, with weights moved by half a unit in the last place, up to 5e-6, 6e-4, 1.5e-3, 0.006, 0.04
# and 0.05. AdamW's steps are small: 1.5e-5, its weights 1.1e-6.
LOSSES = {"adamw": np.full(8, 1e-4), "sgd": np.array([1e-5, 1e-5, 4e-5, 5e-3, 2e-2, 0.1, 0.5, 0.3])}


def losses(optimizer):
    return lambda largest: LOSSES[optimizer]


def after_steps(optimizer):
    return float32 if optimizer == "adamw" else lambda largest: 1e-2 * max(1.0, largest)


UNLISTED = 2        # a 2-byte tensor that meta.json does not list: times the worst relative difference it lists
ONE_UNIT = {"bfloat16": 2.0 ** -8, "float16": 2.0 ** -11}       # in the last place, below 1


def one_unit(dtype):
    """For a 2-byte rotary table: two libraries' cosines may be rounded to different sides."""
    return lambda largest: ONE_UNIT[dtype]


def wider(allowed, array, moved, counts=None):
    """`allowed`, and twice the largest difference between an array and what it becomes when something moves."""
    difference = np.abs(array - moved) if array.dtype != bool else np.zeros(1)
    more = 2 * float((difference if counts is None else np.where(counts, difference, 0)).max(initial=0.0))
    return lambda largest: allowed(largest) + more


def low_precision(case, name):
    """For a tensor of the original's 2-byte arithmetic, compared with float32 arithmetic on the same stored weights.

    The difference that meta.json states for the tensor; or, where it lists none, UNLISTED times the largest relative
    difference listed of that part of the net (in v1_bf16 the unlisted ones need half of this at most).
    """
    part = name.partition("/")[0]
    part = part if part in ("vit", "adapter", "vision") else "lm"
    table = case.table("lowp_vs_fp32math_lowp_rope" if part == "lm" else "lowp_vs_fp32math")
    if name in table:
        stated = float(table[name]["maxabs_diff"])
        return lambda largest: float32(largest) + stated
    relative = max((entry["maxabs_diff"] / entry["maxabs_val"] for listed, entry in table.items()
                    if listed.startswith(part + "/") and "/rope_" not in listed), default=None)
    if relative is None:
        raise UserError(f"{META} states no differences of {case.low_precision} arithmetic for {part}/*")
    return lambda largest: float32(largest) + UNLISTED * relative * largest
