"""Lesson 02: softmax and attention. The steps that attention under a mask shares with it are here, too."""
from functools import wraps

import numpy as np

from ...contracts import CONTRACTS
from ...nn import ops
from ..exercise import Exercise, forward

# ------------------------------------------------------------------------------------------------------------- softmax

SOFTMAX = Exercise(CONTRACTS["softmax"], forward(ops.softmax), (ops.softmax,), part="softmax",
                   toy=dict(x=np.array([[0, 0, 0], [np.log(8), 0, 0], [0, 0, 0]])))         # an ear, fur, sky


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@SOFTMAX.mistake("exp overflows for large numbers: subtract the largest of each row first, which changes no result.")
def maximum_not_subtracted(x):
    with np.errstate(all="ignore"):
        e = np.exp(x)
        return e / e.sum(-1, keepdims=True)


@SOFTMAX.mistake(
    "The largest number of the whole array is subtracted: a row far below it becomes 0 / 0. Each row needs its own.")
def one_maximum_for_all(x):
    with np.errstate(all="ignore"):
        e = np.exp(x - x.max())
        return e / e.sum(-1, keepdims=True)


@SOFTMAX.mistake("The sum is taken over the whole array; each row (the last axis) must sum to 1 by itself.")
def sum_of_everything(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum()


@SOFTMAX.mistake("The maximum and the sum are those of the whole array; each row (the last axis) needs its own.")
def everything_as_one_row(x):
    with np.errstate(all="ignore"):
        e = np.exp(x - x.max())
        return e / e.sum()


FIRST_AXIS = "The sum is taken over the first axis; it should be over the last."


@SOFTMAX.mistake(FIRST_AXIS)
def sum_over_the_first_axis(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    with np.errstate(invalid="ignore"):
        return e / e.sum(0)


@SOFTMAX.mistake(FIRST_AXIS)
def softmax_over_the_first_axis(x):
    with np.errstate(all="ignore"):
        e = np.exp(x - x.max(0))
        return e / e.sum(0)


@SOFTMAX.mistake("The sum is missing: these are exp(x - max), which do not sum to 1.")
def not_normalised(x):
    return np.exp(x - x.max(-1, keepdims=True))


# ----------------------------------------------------------------------------------------------------------- attention

def as_many_heads(arguments):
    """No mask, and a key-value head for each query head."""
    return arguments["q"].shape[1] == arguments["k"].shape[1] and "mask" not in arguments


def fit_attention(mine, otherwise):
    """Where every token sees every other: in the vision tower."""
    def attention(q, k, v, mask=None, causal=True):
        if causal or mask is not None:
            return otherwise(q, k, v, mask, causal)
        return mine(q, k, v), None
    return attention


ATTENTION = Exercise(
    CONTRACTS["attention"].narrowed("attention", as_many_heads, drop=("causal",), causal=False),
    forward(ops.attention, causal=False), (ops.attention,), part="attention", place=ops.attention, fit=fit_attention,
    toy={name: np.array(row).reshape(1, 1, 3, 1) for name, row in  # an ear, fur, sky
         dict(q=[0, np.log(8), 0], k=[1.0, 0, 0], v=[10.0, 0, 0]).items()})


def attend(q, k, v, scores=None, weigh=softmax, see=None):
    """Attention with one of its steps replaced. scores (B, H, T, S); see (T, S): True where a query sees a key."""
    s = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) if scores is None else scores
    if see is not None:
        s = np.where(see, s, -np.inf)
    with np.errstate(invalid="ignore"):
        return weigh(s) @ v


def causal(q, k, ahead=0):
    """(T, S): query t is key S - T + t, and sees the keys up to its own and `ahead` more."""
    T, S = q.shape[2], k.shape[2]
    return np.arange(S) <= np.arange(S - T, S)[:, None] + ahead


WRONG_SCORES = []                                           # [(sentence, f(q, k))]; lesson 09 makes them under its mask


def mistake_in_scores(sentence):
    def note(scores):
        @ATTENTION.mistake(sentence)
        @wraps(scores)
        def attention(q, k, v):
            return attend(q, k, v, scores(q, k))
        WRONG_SCORES.append((sentence, scores))
        return scores
    return note


@mistake_in_scores("k is reshaped to (.., d, S), which mixes its keys' numbers; k.swapaxes(-1, -2) exchanges the axes.")
def keys_reshaped(q, k):
    B, H, S, d = k.shape
    return q @ k.reshape(B, H, d, S) / np.sqrt(d)


@mistake_in_scores("The scale is missing: divide q k^T by sqrt(d), or the softmax becomes a choice of one key.")
def scale_missing(q, k):
    return q @ k.swapaxes(-1, -2)


@mistake_in_scores("The scale is 1/d; it is 1/sqrt(d), since a sum of d products of size 1 has size sqrt(d).")
def scale_not_rooted(q, k):
    return q @ k.swapaxes(-1, -2) / q.shape[-1]


@mistake_in_scores("The scale's d is the width of all heads together; it is that of one head.")
def scale_of_all_heads(q, k):
    return q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1] * q.shape[1])


@mistake_in_scores("The scores are multiplied by sqrt(d); they are divided by it.")
def scale_upside_down(q, k):
    return q @ k.swapaxes(-1, -2) * np.sqrt(q.shape[-1])


@ATTENTION.mistake(
    "This is softmax over queries instead of keys: each QUERY's weights sum to 1, so the axis is that of the keys, "
    "the last.")
def softmax_over_queries(q, k, v):
    return attend(q, k, v, weigh=lambda s: softmax(s.swapaxes(-1, -2)).swapaxes(-1, -2))


@ATTENTION.mistake("There is no softmax: the scores themselves weigh the values.")
def no_softmax(q, k, v):
    return attend(q, k, v, weigh=lambda s: s)


@ATTENTION.mistake("The division by sqrt(d) comes after the softmax; it belongs to the scores, before it.")
def scaled_after_the_softmax(q, k, v):
    return softmax(q @ k.swapaxes(-1, -2)) @ v / np.sqrt(q.shape[-1])


@ATTENTION.mistake("There is neither a softmax nor the scale: this is q k^T v.")
def products_alone(q, k, v):
    return q @ k.swapaxes(-1, -2) @ v


@ATTENTION.mistake("exp overflows for large scores: subtract the largest of each row first.")
def attention_overflows(q, k, v):
    return attend(q, k, v, weigh=maximum_not_subtracted)


@ATTENTION.mistake("The roles of q and k are exchanged: the scores are q k^T, a row for each query.")
def queries_and_keys_exchanged(q, k, v):
    return attend(k, q, v)


@ATTENTION.mistake("The keys are added up instead of the values: the weights belong to v.")
def keys_instead_of_values(q, k, v):
    return attend(q, k, k)


@ATTENTION.mistake("A causal mask hides the keys that come later; here every query sees every key.")
def masked(q, k, v):
    return attend(q, k, v, see=causal(q, k))
