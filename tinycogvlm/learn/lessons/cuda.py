"""Lesson 80: RMSNorm as a CUDA kernel, a thread for each row and a warp for each row."""
from dataclasses import replace

import numpy as np

from ...contracts import CONTRACTS
from ...nn import ops
from ..exercise import no_pullback, of_version
from .language_model import RMS_NORM


def cases():
    yield from CONTRACTS["rms_norm"].cases()
    x = np.random.default_rng(18).standard_normal((300, 3))
    yield "300 rows, more than a block's", dict(x=x, weight=x[0], eps=1e-5)


RMS_NORM_V1, RMS_NORM_V2 = (
    of_version(replace(CONTRACTS["rms_norm"], name=f"rms_norm_v{version}", cases=cases), "rms_norm", version,
               "rmsnorm.cu", "rms_norm", ops.rms_norm, no_pullback, mistakes=RMS_NORM.mistakes[:]) for version in (1, 2))


FIRST_ROW = "Every row is scaled by the sum of the first row: number d of a row lies at x[row * D + d], not at x[d]."


def scale_of_the_first_row(x, weight, eps):
    first = x[(0,) * (x.ndim - 1)]
    return x / np.sqrt((first * first).mean() + eps) * weight


for version in (RMS_NORM_V1, RMS_NORM_V2):
    version.mistake(FIRST_ROW)(scale_of_the_first_row)


def by_lanes(x, weight, eps, add):
    """RMSNorm in which each lane scales its numbers by what `add` makes of the lanes' sums, (..., 32) -> (..., 32)."""
    D, lanes = x.shape[-1], np.arange(x.shape[-1]) % 32
    squares = np.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(0, -D % 32)])
    total = add(squares.reshape(*x.shape[:-1], -1, 32).sum(-2))
    return x / np.sqrt(total[..., lanes] / D + eps) * weight


def shuffled(sums, distances, source):
    """source(lane, distance): whose sum a lane adds to its own"""
    for distance in distances:
        sums = sums + sums[..., source(np.arange(32), distance)]
    return sums


@RMS_NORM_V2.mistake(
    "Only the lane's own part of the sum is used: the 32 lanes' sums must be added by shuffles, and all lanes need "
    "the result.")
def sum_of_one_lane(x, weight, eps):
    return by_lanes(x, weight, eps, lambda sums: sums)


STEPS_MISSING = ("Steps of the shuffle are missing, so that a lane has the sum of some lanes only: 32 lanes need five, "
                 "at the distances 16, 8, 4, 2 and 1.")


@RMS_NORM_V2.mistake(STEPS_MISSING)
def last_step_missing(x, weight, eps):
    return by_lanes(x, weight, eps, lambda sums: shuffled(sums, (16, 8, 4, 2), np.bitwise_xor))


@RMS_NORM_V2.mistake(STEPS_MISSING)
def first_step_missing(x, weight, eps):
    return by_lanes(x, weight, eps, lambda sums: shuffled(sums, (8, 4, 2, 1), np.bitwise_xor))


@RMS_NORM_V2.mistake(
    "After __shfl_down_sync lane 0 alone has the whole sum; all lanes need it, which __shfl_xor_sync gives.")
def sum_in_lane_0_alone(x, weight, eps):
    def below(lane, distance):
        return np.where(lane + distance < 32, lane + distance, lane)
    return by_lanes(x, weight, eps, lambda sums: shuffled(sums, (16, 8, 4, 2, 1), below))


@RMS_NORM_V2.mistake("The weight is that of the lane: number d of the row takes weight[d].")
def weight_of_the_lane(x, weight, eps):
    return RMS_NORM.package(x=x, weight=weight[np.arange(len(weight)) % 32], eps=eps)

