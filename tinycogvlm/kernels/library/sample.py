"""generate.Sampling by sample.cu: the next token of each row, chosen where the logits are."""
import numpy as np

from ...errors import UserError
from ...model.generate import dice
from ...nn.arrays import namespace
from ..runner.loader import load_ours
from .launch import C_TYPES, contiguous


def choose(logits, sampling, uniforms=None, seen=None, step=None, chosen=None, version=3, **options):
    """Sampling.choose for every row at once               logits (B, V) -> chosen (B,) int32

    A row with a NaN, or whose largest logit is infinite, gets -1. sampling: a generate.Sampling. uniforms (steps, B)
    float64: a number in [0, 1) for each row and step; not needed at temperature 0. step (1,) int32: which of the steps
    this is, by default the first. seen (B, V) bool: the tokens in each row's text, needed for a repetition penalty; the
    chosen ones are set. chosen: the array to write to. A captured graph reads and writes all of these each time, and
    keeps the fields of `sampling`.
    """
    xp, (B, V) = namespace(logits), logits.shape
    penalty, greedy = sampling.repetition_penalty, sampling.temperature == 0
    steps = 1 if uniforms is None else len(uniforms)
    for needed, name, array, shape, dtype in ((not greedy, "uniforms", uniforms, (steps, B), "float64"),
                                              (penalty != 1, "seen", seen, (B, V), "bool"),
                                              (step is not None, "step", step, (1,), "int32"),
                                              (chosen is not None, "chosen", chosen, (B,), "int32")):
        if needed and (array is None or array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous):
            given = "missing" if array is None else f"an array {array.shape} of {array.dtype}"
            raise UserError(f"{name}: {given}; it must be a contiguous array {shape} of {dtype}")
    logits, = contiguous(logits)
    chosen = xp.empty(B, np.int32) if chosen is None else chosen
    name = f"{f'argmax_v{min(version, 2)}' if greedy else f'sample_v{version}'}<{C_TYPES[logits.dtype]}>"
    threads = 1 if greedy and version == 1 else min(1024, -(-V // 32) * 32)
    draw = () if greedy else (np.float32(sampling.temperature), np.int32(min(sampling.top_k or V, V)),
                              np.float64(sampling.top_p or 1), uniforms, step)
    load_ours("sample.cu", name, **options)(
        (B,), (threads,), (logits, seen if penalty != 1 else None, np.float32(penalty), *draw, chosen, np.int32(V)))
    return chosen


def uniforms(sampling, rows, steps):
    """(steps, rows) float64: the numbers that generate.steps draws for each row, one after another."""
    return np.stack([random.random(steps) for random in dice(sampling.seed, rows)], 1)
