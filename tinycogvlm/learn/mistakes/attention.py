"""Attention, with and without a mask."""
from functools import wraps

import numpy as np

from .table import mistake, right


@mistake("softmax",
         says="exp overflows for large numbers: subtract the largest of each row first, which changes no result.")
def maximum_not_subtracted(x):
    with np.errstate(all="ignore"):
        e = np.exp(x)
        return e / e.sum(-1, keepdims=True)


@mistake("softmax",
         says="The largest number of the whole array is subtracted: a row far below it becomes 0 / 0. Each row "
              "needs its own.")
def one_maximum_for_all(x):
    with np.errstate(all="ignore"):
        e = np.exp(x - x.max())
        return e / e.sum(-1, keepdims=True)


@mistake("softmax", says="The sum is taken over the whole array; each row (the last axis) must sum to 1 by itself.")
def sum_of_everything(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum()


@mistake("softmax", says="The sum is taken over the first axis; it belongs over the last.")
def sum_over_the_first_axis(x):
    with np.errstate(all="ignore"):
        e = np.exp(x - x.max(0))
        return e / e.sum(0)


@mistake("softmax", says="The sum is missing: these are exp(x - max), which do not sum to 1.")
def not_normalised(x):
    return np.exp(x - x.max(-1, keepdims=True))


def heads(q, k, v, scores=None, weigh=None, see=None):
    """Attention with one of its steps replaced. scores (B, H, T, S); see (T, S): True where a query sees a key."""
    s = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) if scores is None else scores
    if see is not None:
        s = np.where(see, s, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = (weigh or (lambda s: right("softmax", x=s)))(s)
        return weights @ v


def causal(q, k):
    """(T, S): query t is key S - T + t."""
    T, S = q.shape[2], k.shape[2]
    return np.arange(S) <= np.arange(S - T, S)[:, None]


def shared(attend):
    """The same where heads share keys: key-value head g stands beside itself, once for each of its query heads."""
    def grouped(q, k, v):
        k, v = (np.repeat(array, q.shape[1] // k.shape[1], axis=1) for array in (k, v))
        return attend(q, k, v)
    return wraps(attend)(grouped)


def masks(says):
    """The decorator of a mistake under a mask, made with shared keys and without."""
    def note(attend):
        mistake("causal_attention", says=says)(attend)
        mistake("grouped_attention", says=says)(shared(attend))
    return note


def scores(says):
    """The decorator of a mistake in the scores, made with a mask and without."""
    def note(wrong):
        @mistake("attention", says=says)
        @wraps(wrong)
        def attention(q, k, v):
            return heads(q, k, v, wrong(q, k))

        @masks(says)
        @wraps(wrong)
        def masked(q, k, v):
            return heads(q, k, v, wrong(q, k), see=causal(q, k))
    return note


@scores("The scale is missing: divide q k^T by sqrt(d), or the softmax becomes a choice of one key.")
def scale_missing(q, k):
    return q @ k.swapaxes(-1, -2)


@scores("The scale is 1/d; it is 1/sqrt(d), since a sum of d products of size 1 has size sqrt(d).")
def scale_not_rooted(q, k):
    return q @ k.swapaxes(-1, -2) / q.shape[-1]


@scores("The scale's d is the width of all heads together; it is that of one head.")
def scale_of_all_heads(q, k):
    return q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1] * q.shape[1])


@scores("The scale multiplies by sqrt(d); it divides.")
def scale_upside_down(q, k):
    return q @ k.swapaxes(-1, -2) * np.sqrt(q.shape[-1])


@mistake("attention",
         says="This is softmax over queries instead of keys: each QUERY's weights sum to 1, so the axis is that "
              "of the keys, the last.")
def softmax_over_queries(q, k, v):
    return heads(q, k, v, weigh=lambda s: right("softmax", x=s.swapaxes(-1, -2)).swapaxes(-1, -2))


@mistake("attention", says="There is no softmax: the scores themselves weigh the values.")
def no_softmax(q, k, v):
    return heads(q, k, v, weigh=lambda s: s)


@mistake("attention", says="exp overflows for large scores: subtract the largest of each row first.")
def attention_overflows(q, k, v):
    return heads(q, k, v, weigh=maximum_not_subtracted)


@mistake("attention", says="The roles of q and k are exchanged: the scores are q k^T, a row for each query.")
def queries_and_keys_exchanged(q, k, v):
    return heads(k, q, v)


@mistake("attention", says="The keys are added up instead of the values: the weights belong to v.")
def keys_instead_of_values(q, k, v):
    return heads(q, k, k)


@masks("The mask is missing: queries see tokens that come after them.")
def mask_missing(q, k, v):
    return heads(q, k, v)


@masks("Each query sees the token after its own: that is what the model is to predict.")
def next_token_seen(q, k, v):
    T, S = q.shape[2], k.shape[2]
    return heads(q, k, v, see=np.arange(S) <= np.arange(S - T, S)[:, None] + 1)


@masks("A query does not see its own token: it may (s <= t, not s < t).")
def own_token_hidden(q, k, v):
    T, S = q.shape[2], k.shape[2]
    return heads(q, k, v, see=np.arange(S) < np.arange(S - T, S)[:, None])


@masks("With a cache there are more keys than queries, and the queries are the LAST of them: query t is key "
       "S - T + t.")
def counted_from_the_left(q, k, v):
    T, S = q.shape[2], k.shape[2]
    return heads(q, k, v, see=np.arange(S) <= np.arange(T)[:, None])


@masks("Hidden scores are set to 0, which is no small score: exp(0) = 1. They must be -inf before the softmax.")
def zero_for_hidden(q, k, v):
    return heads(q, k, v, np.where(causal(q, k), q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), 0))


@masks("The mask comes after the softmax: the weights of what a query sees no longer sum to 1.")
def masked_after_softmax(q, k, v):
    return heads(q, k, v, weigh=lambda s: np.where(causal(q, k), right("softmax", x=s), 0))


@masks("The mask is upside down: a query sees what comes after it, and not what was before.")
def mask_upside_down(q, k, v):
    T, S = q.shape[2], k.shape[2]
    return heads(q, k, v, see=np.arange(S) >= np.arange(S - T, S)[:, None])


@mistake("grouped_attention",
         says="repeat instead of repeat_interleave: each key-value head must be repeated next to itself, 0 0 1 1 as "
              "np.repeat does, not 0 1 0 1.")
def heads_tiled(q, k, v):
    n = q.shape[1] // k.shape[1]
    return heads(q, np.tile(k, (1, n, 1, 1)), np.tile(v, (1, n, 1, 1)), see=causal(q, k))


@mistake("grouped_attention", says="Every query head reads the first key-value head; head h reads h // (H / G).")
def first_head_for_all(q, k, v):
    return heads(q, k[:, :1], v[:, :1], see=causal(q, k))
