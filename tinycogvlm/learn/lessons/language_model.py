"""Lesson 09: RMSNorm, rotary embedding, causal attention, SwiGLU."""
from functools import wraps

import numpy as np

from ...contracts import CONTRACTS
from ...contracts import ops as specifications
from ...nn import ops
from ..exercise import Exercise, forward, of_op
from .attention import WRONG_SCORES, as_many_heads, attend, causal, softmax

# ------------------------------------------------------------------------------------------------------------ rms_norm

RMS_NORM = of_op(CONTRACTS["rms_norm"], ops.rms_norm,
                 toy=dict(x=np.array([[1.0, 7]]), weight=np.array([1.0, 100]), eps=1e-6))


def unit(x, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


@RMS_NORM.mistake("The mean is subtracted, as LayerNorm does; RMSNorm leaves it in.")
def mean_subtracted(x, weight, eps):
    return unit(x - x.mean(-1, keepdims=True), eps) * weight


@RMS_NORM.mistake("This divides by the standard deviation, which subtracts the mean; it should be sqrt(mean(x^2) + eps).")
def divided_by_the_deviation(x, weight, eps):
    with np.errstate(all="ignore"):
        return x / np.sqrt(x.var(-1, keepdims=True) + eps) * weight


@RMS_NORM.mistake("The weight is missing: the last step multiplies by it.")
def weight_missing(x, weight, eps):
    return unit(x, eps)


@RMS_NORM.mistake("The factor is 1 + weight, as Gemma stores it; here it is weight itself.")
def one_added_to_the_weight(x, weight, eps):
    return unit(x, eps) * (1 + weight)


@RMS_NORM.mistake("eps is missing: a row of zeros is divided by 0, and a row of small numbers becomes too large.")
def eps_missing(x, weight, eps):
    with np.errstate(all="ignore"):
        return unit(x, 0) * weight


@RMS_NORM.mistake("eps is added outside the root; it belongs under it.")
def eps_outside_the_root(x, weight, eps):
    return x / (np.sqrt((x * x).mean(-1, keepdims=True)) + eps) * weight


@RMS_NORM.mistake("eps is a constant 1e-6; use the argument, which is the model's.")
def eps_fixed(x, weight, eps):
    return unit(x, 1e-6) * weight


@RMS_NORM.mistake(
    "This divides by the root of the SUM of squares; it should be their mean, so that the result does not depend on "
    "D.")
def sum_for_mean(x, weight, eps):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + eps) * weight


@RMS_NORM.mistake("The root is missing: this divides by the mean square.")
def root_missing(x, weight, eps):
    return x / ((x * x).mean(-1, keepdims=True) + eps) * weight


@RMS_NORM.mistake("The mean is taken over the whole array; each token (the last axis) is normalised by itself.")
def mean_of_everything(x, weight, eps):
    return x / np.sqrt((x * x).mean() + eps) * weight


@RMS_NORM.mistake("The mean is taken over the first axis, the batch; it should be over the last.")
def mean_over_the_batch(x, weight, eps):
    return x / np.sqrt((x * x).mean(0, keepdims=True) + eps) * weight


# -------------------------------------------------------------------------------------------------------------- rotary

ROTARY = of_op(CONTRACTS["rotary"], ops.rotary, toy=dict(         # one point, turned by 0, 1 and 2 quarters
    x=np.array([[1.0, 0]] * 3).reshape(1, 1, 3, 2), cos=np.array([1.0, 0, -1]).reshape(1, 3, 1),
    sin=np.array([0.0, 1, 0]).reshape(1, 3, 1)))


def halves(x):
    return x[..., :x.shape[-1] // 2], x[..., x.shape[-1] // 2:]


@ROTARY.mistake(
    "Neighbours are paired, (x0, x1), (x2, x3) ...; here the first half of a head pairs with its second: (x0, "
    "x[d/2]), (x1, x[d/2 + 1]) ...")
def neighbours_paired(x, cos, sin):
    cos, sin = cos[:, None], sin[:, None]
    first, second = x[..., ::2], x[..., 1::2]
    return np.stack([first * cos - second * sin, second * cos + first * sin], -1).reshape(x.shape)


@ROTARY.mistake("It turns the wrong way: the first becomes x cos - y sin, the second y cos + x sin.")
def turned_backwards(x, cos, sin):
    return specifications.rotary(x, cos, -sin)


@ROTARY.mistake("cos and sin are exchanged.")
def cos_and_sin_exchanged(x, cos, sin):
    return specifications.rotary(x, sin, cos)


@ROTARY.mistake("Both halves have a minus sign: the second is y cos + x sin.")
def minus_in_both(x, cos, sin):
    (first, second), cos, sin = halves(x), cos[:, None], sin[:, None]
    return np.concatenate([first * cos - second * sin, second * cos - first * sin], -1)


@ROTARY.mistake("The second half is turned with the new first half: keep the old one until both are computed.")
def first_half_overwritten(x, cos, sin):
    (first, second), cos, sin = halves(x), cos[:, None], sin[:, None]
    first = first * cos - second * sin
    return np.concatenate([first, second * cos + first * sin], -1)


# ---------------------------------------------------------------------------------------------------- causal_attention

def fit_causal_attention(mine, otherwise, shared=False):
    """In the language model, unless keys are hidden, or shared by heads."""
    def attention(q, k, v, mask=None, causal=True):
        if not causal or mask is not None or (not shared and q.shape[1] != k.shape[1]):
            return otherwise(q, k, v, mask, causal)
        return mine(q, k, v), None
    return attention


def is_causal(arguments):
    return as_many_heads(arguments) and "causal" not in arguments


CAUSAL_ATTENTION = Exercise(CONTRACTS["attention"].narrowed("causal_attention", is_causal), forward(ops.attention),
                            (ops.attention,), part="causal_attention", place=ops.attention, fit=fit_causal_attention,
                            toy=dict(q=np.zeros((1, 1, 3, 1)), k=np.zeros((1, 1, 3, 1)),
                                     v=np.array([6.0, 0, 3]).reshape(1, 1, 3, 1)))


def mistake_in_scores(sentence, scores):
    @CAUSAL_ATTENTION.mistake(sentence)
    @wraps(scores)
    def attention(q, k, v):
        return attend(q, k, v, scores(q, k), see=causal(q, k))


for each in WRONG_SCORES:
    mistake_in_scores(*each)


@CAUSAL_ATTENTION.mistake("The mask is missing: queries see tokens that come after them.")
def mask_missing(q, k, v):
    return attend(q, k, v)


@CAUSAL_ATTENTION.mistake("Each query sees the token after its own: that is the one that the model has to predict.")
def next_token_seen(q, k, v):
    return attend(q, k, v, see=causal(q, k, ahead=1))


@CAUSAL_ATTENTION.mistake("A query does not see its own token; it may (s <= t, not s < t).")
def own_token_hidden(q, k, v):
    return attend(q, k, v, see=causal(q, k, ahead=-1))


@CAUSAL_ATTENTION.mistake(
    "With a cache there are more keys than queries, and the queries are the LAST of them: query t is key S - T + t.")
def counted_from_the_left(q, k, v):
    return attend(q, k, v, see=causal(q, k, ahead=q.shape[2] - k.shape[2]))


@CAUSAL_ATTENTION.mistake(
    "Hidden scores are set to 0, which is not a low score: exp(0) = 1. They must be -inf before the softmax.")
def zero_for_hidden(q, k, v):
    return attend(q, k, v, np.where(causal(q, k), q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), 0))


@CAUSAL_ATTENTION.mistake("The mask is applied after the softmax: the weights of what a query sees no longer sum to 1.")
def masked_after_softmax(q, k, v):
    return attend(q, k, v, weigh=lambda s: np.where(causal(q, k), softmax(s), 0))


@CAUSAL_ATTENTION.mistake("The mask is upside down: a query sees what comes after it, and not what came before.")
def mask_upside_down(q, k, v):
    return attend(q, k, v, see=~causal(q, k, ahead=-1))


# -------------------------------------------------------------------------------------------------------------- swiglu

SWIGLU = of_op(CONTRACTS["swiglu"], ops.swiglu,
               toy=dict(gate=np.array([-20.0, 0, 1, 20]), up=np.array([10.0, 10, 10, 10])))


@SWIGLU.mistake("gate and up are exchanged: silu is applied to gate.")
def gate_and_up_exchanged(gate, up):
    return specifications.swiglu(up, gate)


@SWIGLU.mistake("This is GLU, sigmoid(gate) * up; SwiGLU has silu(gate) = gate * sigmoid(gate).")
def glu(gate, up):
    with np.errstate(over="ignore"):
        return up / (1 + np.exp(-gate))


@SWIGLU.mistake("This is GEGLU, with GELU in place of silu.")
def geglu(gate, up):
    return specifications.gelu(gate) * up


@SWIGLU.mistake("up is missing: this is silu(gate) alone.")
def up_missing(gate, up):
    return specifications.silu(gate)


@SWIGLU.mistake("silu is applied to the product; it is applied to gate alone, and up multiplies the result.")
def silu_of_the_product(gate, up):
    return specifications.silu(gate * up)
