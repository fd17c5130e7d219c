"""Lesson 14: the gradients of SwiGLU, RMSNorm and the loss."""
import numpy as np

from ...contracts.gradients import gradient_contract
from ...nn import ops
from ..exercise import Exercise, pullback
from .attention import softmax

# ---------------------------------------------------------------------------------------------------- swiglu_gradients


def fit_swiglu_gradients(mine, otherwise):
    return lambda gate, up: (otherwise(gate, up)[0], lambda dy: mine(dy=dy, gate=gate, up=up))


SWIGLU_GRADIENTS = Exercise(
    gradient_contract("swiglu_gradients", "swiglu", ("gate", "up")), pullback(ops.swiglu), (ops.swiglu,),
    part="swiglu_gradients", place=ops.swiglu, fit=fit_swiglu_gradients, runs="gradient")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@SWIGLU_GRADIENTS.mistake("dgate lacks the slope of silu: it is dy * up * silu'(gate), and silu' is not sigmoid alone.")
def slope_of_sigmoid_alone(dy, gate, up):
    return dy * up * sigmoid(gate), dy * gate * sigmoid(gate)


@SWIGLU_GRADIENTS.mistake(
    "dgate has the slope of sigmoid, s (1 - s); silu is gate * s, whose slope is s (1 + gate (1 - s)).")
def slope_of_the_gate_s_sigmoid(dy, gate, up):
    s = sigmoid(gate)
    return dy * up * s * (1 - s), dy * gate * s


@SWIGLU_GRADIENTS.mistake("dup lacks silu: it is dy * silu(gate), not dy * gate.")
def silu_missing_in_dup(dy, gate, up):
    return SWIGLU_GRADIENTS.package(dy=dy, gate=gate, up=up)[0], dy * gate


@SWIGLU_GRADIENTS.mistake("dup lacks the gate: it is dy * silu(gate), and silu(gate) is gate * sigmoid(gate).")
def gate_missing_in_dup(dy, gate, up):
    return SWIGLU_GRADIENTS.package(dy=dy, gate=gate, up=up)[0], dy * sigmoid(gate)


@SWIGLU_GRADIENTS.mistake("dgate and dup are exchanged.")
def gradients_exchanged(dy, gate, up):
    return SWIGLU_GRADIENTS.package(dy=dy, gate=gate, up=up)[::-1]


@SWIGLU_GRADIENTS.mistake("dy is missing: these are the slopes; the gradient is dy times them.")
def dy_missing(dy, gate, up):
    return SWIGLU_GRADIENTS.package(dy=np.ones_like(dy), gate=gate, up=up)


# -------------------------------------------------------------------------------------------------- rms_norm_gradients

def fit_rms_norm_gradients(mine, otherwise):
    def rms_norm(x, weight, eps):
        def pull(dy, g):
            dx, dweight = mine(dy=dy, x=x, weight=weight, eps=eps)
            g.add("weight", lambda: dweight)
            return dx
        return otherwise(x, weight, eps)[0], pull
    return rms_norm


RMS_NORM_GRADIENTS = Exercise(
    gradient_contract("rms_norm_gradients", "rms_norm", ("x", "weight")), pullback(ops.rms_norm, "x", "weight"),
    (ops.rms_norm,), part="rms_norm_gradients", place=ops.rms_norm, fit=fit_rms_norm_gradients, runs="gradient")


def scale_and_unit(x, eps):
    scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return scale, x * scale


def over_rows(array):
    return array.reshape(-1, array.shape[-1]).sum(0)


@RMS_NORM_GRADIENTS.mistake(
    "The path through the scale is missing: every x of a row also changes the row's size, so dx = scale * (du - u * "
    "mean(du * u)).")
def scale_taken_for_constant(dy, x, weight, eps):
    scale, u = scale_and_unit(x, eps)
    return scale * dy * weight, over_rows(dy * u)


@RMS_NORM_GRADIENTS.mistake("dweight lacks the sum over rows: the weight was used by every row.")
def dweight_of_each_row(dy, x, weight, eps):
    return RMS_NORM_GRADIENTS.package(dy=dy, x=x, weight=weight, eps=eps)[0], dy * scale_and_unit(x, eps)[1]


@RMS_NORM_GRADIENTS.mistake("dweight is made from x; the weight multiplies x * scale.")
def dweight_of_x(dy, x, weight, eps):
    return RMS_NORM_GRADIENTS.package(dy=dy, x=x, weight=weight, eps=eps)[0], over_rows(dy * x)


@RMS_NORM_GRADIENTS.mistake("dx lacks the weight: the gradient with respect to u is dy * weight.")
def weight_missing_in_dx(dy, x, weight, eps):
    dx, _ = RMS_NORM_GRADIENTS.package(dy=dy, x=x, weight=np.ones_like(weight), eps=eps)
    return dx, over_rows(dy * scale_and_unit(x, eps)[1])


@RMS_NORM_GRADIENTS.mistake("The path through the scale has a sum in place of the mean over D.")
def sum_in_the_path_through_the_scale(dy, x, weight, eps):
    scale, u = scale_and_unit(x, eps)
    du = dy * weight
    return scale * (du - u * (du * u).sum(-1, keepdims=True)), over_rows(dy * u)


@RMS_NORM_GRADIENTS.mistake("The path through the scale has the wrong sign: a larger row has a SMALLER scale.")
def sign_of_the_path_through_the_scale(dy, x, weight, eps):
    scale, u = scale_and_unit(x, eps)
    du = dy * weight
    return scale * (du + u * (du * u).mean(-1, keepdims=True)), over_rows(dy * u)


# ---------------------------------------------------------------------------------------------- cross_entropy_gradient

def fit_cross_entropy_gradient(mine, otherwise):
    """For a loss in which all labels count the same."""
    def cross_entropy(logits, labels, weights=None):
        loss, pull = otherwise(logits, labels, weights)
        return loss, pull if weights is not None else lambda dloss=1.0: dloss * mine(logits=logits, labels=labels)
    return cross_entropy


def is_unweighted(arguments):
    return "weights" not in arguments


CROSS_ENTROPY_GRADIENT = Exercise(
    gradient_contract("cross_entropy_gradient", "cross_entropy", ("logits",), is_unweighted),
    pullback(ops.cross_entropy), (ops.cross_entropy,),
    part="cross_entropy_gradient", place=ops.cross_entropy, fit=fit_cross_entropy_gradient, runs="gradient")


def softmax_less_one_hot(logits, labels, rows):
    p = softmax(logits)
    p[np.flatnonzero(rows), labels[rows]] -= 1
    return np.where(rows[:, None], p, 0)


@CROSS_ENTROPY_GRADIENT.mistake("The mean is missing: divide by the number of rows that count.")
def mean_missing(logits, labels):
    return softmax_less_one_hot(logits, labels, labels != -100)


@CROSS_ENTROPY_GRADIENT.mistake("This divides by all rows; the mean is over those whose label is not -100.")
def mean_of_all_rows(logits, labels):
    return softmax_less_one_hot(logits, labels, labels != -100) / len(labels)


@CROSS_ENTROPY_GRADIENT.mistake(

    "The rows labelled -100 have a gradient here; nothing is learned from them: theirs is 0.")
def ignored_rows_learn(logits, labels):
    rows = labels != -100
    p = softmax(logits)
    p[np.flatnonzero(rows), labels[rows]] -= 1
    return p / rows.sum()


@CROSS_ENTROPY_GRADIENT.mistake("The one-hot is missing: subtract 1 from the softmax at the label.")
def one_hot_missing(logits, labels):
    rows = labels != -100
    return np.where(rows[:, None], softmax(logits), 0) / rows.sum()


@CROSS_ENTROPY_GRADIENT.mistake(
    "Only the label's logit has a gradient here. The others are in the softmax's sum: theirs is their probability.")
def the_label_s_logit_alone(logits, labels):
    gradient = CROSS_ENTROPY_GRADIENT.package(logits=logits, labels=labels)
    return np.where(np.arange(logits.shape[1]) == labels[:, None], gradient, 0)


@CROSS_ENTROPY_GRADIENT.mistake(

    "The sign is wrong: the gradient of the loss is softmax - one-hot, and training goes against it.")
def one_hot_minus_softmax(logits, labels):
    return -CROSS_ENTROPY_GRADIENT.package(logits=logits, labels=labels)


@CROSS_ENTROPY_GRADIENT.mistake(
    "Off by one: each row is compared with the next row's label. The labels that you get are shifted already: "
    "logits[i] predicts labels[i].")
def labels_shifted_again(logits, labels):
    shifted = np.append(labels[1:], -100)
    rows = shifted != -100
    return softmax_less_one_hot(logits, shifted, rows) / max(1, rows.sum())
