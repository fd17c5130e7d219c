"""Lesson 19: LoRA's update of a matrix, and what its two matrices learn."""
import math

import numpy as np

from ...contracts import Contract, over, random
from ...contracts.contract import TOLERANCE
from ...storage import lora
from ..exercise import Exercise


def sizes():
    for label, O, I, r, alpha in (("rank 1", 3, 4, 1, 1.0), ("rank 2", 5, 3, 2, 8.0), ("a half counts", 4, 4, 4, 2.0),
                                  ("a wide matrix", 2, 6, 2, 3.0)):
        yield label, alpha, dict(a=random(r, I, seed=1), b=random(O, r, seed=2)), (O, I)


def adapter(a, b, alpha):
    return lora.Adapter({"m" + lora.A: a, "m" + lora.B: b}, len(a), alpha)


# ---------------------------------------------------------------------------------------------------------- lora_merge

def lora_merge(w, a, b, alpha):
    """W' = W + s B A, an entry at a time"""
    y = np.empty(w.shape)
    for o, i in over(*w.shape):
        y[o, i] = w[o, i] + alpha / len(a) * math.fsum(b[o, k] * a[k, i] for k in range(len(a)))
    return y


def lora_merge_cases():
    for label, alpha, thin, shape in sizes():
        yield label, dict(w=random(*shape), **thin, alpha=alpha)


def package_lora_merge(w, a, b, alpha):
    return lora.merge({"m.weight": w}, adapter(a, b, alpha))["m.weight"]


THIN = dict(a=np.array([[1.0, 0, 0, 3]]), b=np.array([[1.0], [0], [2]]), alpha=1.0)        # the lesson's
LORA_MERGE = Exercise(Contract("lora_merge", lora_merge, lora_merge_cases, TOLERANCE), package_lora_merge,
                      (lora.merge,), toy=dict(w=np.zeros((3, 4)), **THIN))


@LORA_MERGE.mistake("The scale is missing: the update counts alpha / r times.")
def not_scaled(w, a, b, alpha):
    return w + b @ a


@LORA_MERGE.mistake("The scale is alpha; it is alpha / r, so that a higher rank does not count for more.")
def scaled_by_alpha(w, a, b, alpha):
    return w + alpha * (b @ a)


@LORA_MERGE.mistake("The scale is 1 / r; it is alpha / r.")
def scaled_by_the_rank(w, a, b, alpha):
    return w + b @ a / len(a)


@LORA_MERGE.mistake("The scale is upside down: it is alpha / r.")
def scale_upside_down(w, a, b, alpha):
    return w + len(a) / alpha * (b @ a)


@LORA_MERGE.mistake("r is the number of A's rows; this divides by the number of B's.")
def rank_of_the_rows(w, a, b, alpha):
    return w + alpha / len(b) * (b @ a)


@LORA_MERGE.mistake("The update is subtracted; that is how it is taken out again.")
def taken_out(w, a, b, alpha):
    return w - alpha / len(a) * (b @ a)


@LORA_MERGE.mistake("This is the update alone; W is missing.")
def update_alone(w, a, b, alpha):
    return alpha / len(a) * (b @ a)


@LORA_MERGE.mistake("W is scaled, too; only the update is.")
def all_scaled(w, a, b, alpha):
    return alpha / len(a) * (w + b @ a)


# ------------------------------------------------------------------------------------------------------ lora_gradients

def lora_gradients(dw, a, b, alpha):
    """dA = s B^T dW and dB = s dW A^T, an entry at a time"""
    s, da, db = alpha / len(a), np.empty(a.shape), np.empty(b.shape)
    for k, i in over(*a.shape):
        da[k, i] = s * math.fsum(b[:, k] * dw[:, i])
    for o, k in over(*b.shape):
        db[o, k] = s * math.fsum(dw[o] * a[k])
    return da, db


def lora_gradients_cases():
    for label, alpha, thin, shape in sizes():
        yield label, dict(dw=random(*shape), **thin, alpha=alpha)
    yield "at the start", dict(dw=random(3, 4), a=random(2, 4, seed=1), b=np.zeros((3, 2)), alpha=4.0)


def package_lora_gradients(dw, a, b, alpha):
    found = lora.gradients(adapter(a, b, alpha), {"m.weight": dw})
    return found["m" + lora.A], found["m" + lora.B]


LORA_GRADIENTS = Exercise(
    Contract("lora_gradients", lora_gradients, lora_gradients_cases, TOLERANCE), package_lora_gradients,
    (lora.gradients,), toy=dict(dw=np.ones((3, 4)), **THIN))


@LORA_GRADIENTS.mistake("The scale is missing: alpha / r is in W', so it is in both gradients.")
def gradients_not_scaled(dw, a, b, alpha):
    return b.T @ dw, dw @ a.T


@LORA_GRADIENTS.mistake("The scale is alpha; it is alpha / r.")
def gradients_scaled_by_alpha(dw, a, b, alpha):
    return alpha * (b.T @ dw), alpha * (dw @ a.T)


@LORA_GRADIENTS.mistake("The scale is missing in db; W' depends on B by s, as it does on A.")
def db_not_scaled(dw, a, b, alpha):
    return alpha / len(a) * (b.T @ dw), dw @ a.T


@LORA_GRADIENTS.mistake("The scale is missing in da; W' depends on A by s, as it does on B.")
def da_not_scaled(dw, a, b, alpha):
    return b.T @ dw, alpha / len(a) * (dw @ a.T)


@LORA_GRADIENTS.mistake("The two are exchanged: da comes first.")
def exchanged(dw, a, b, alpha):
    return package_lora_gradients(dw, a, b, alpha)[::-1]


@LORA_GRADIENTS.mistake("These are the steps that a plain descent would take; the gradients have the other sign.")
def descent(dw, a, b, alpha):
    da, db = package_lora_gradients(dw, a, b, alpha)
    return -da, -db


@LORA_GRADIENTS.mistake("The scale is in them twice; W' has it once.")
def scaled_twice(dw, a, b, alpha):
    return tuple(alpha / len(a) * g for g in package_lora_gradients(dw, a, b, alpha))
