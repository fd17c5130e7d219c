"""Lesson 60: attention as heat over a picture, the logit lens, and attention with a head switched off."""
import math

import numpy as np

from ...contracts import Contract, over, random
from ...contracts.contract import TOLERANCE
from ...model import look, without
from ...nn import ops
from ..exercise import Exercise
from .attention import softmax
from .one_sequence import digits

# ---------------------------------------------------------------------------------------------------------- patch_heat


def patch_heat(attention, types, picture):
    L, H, S = attention.shape
    mine = [s for s in range(S) if types[s] == picture][1:-1]
    side = math.isqrt(len(mine))
    y = np.zeros((side, side))
    for row, column, i, h in over(side, side, L, H):
        y[row, column] += attention[i, h, mine[row * side + column]] / (L * H)
    return y


def patch_heat_cases():
    def case(types, picture=1, L=2, H=3):
        types = digits(types)[0]
        return dict(attention=softmax(random(L, H, len(types))), types=types, picture=picture)
    yield "2 x 2 patches", case("011111100")
    yield "3 x 3 patches after text", case("00" + "1" * 11 + "000", L=3, H=2)
    yield "the second of two pictures", case("01111110222222000", picture=2)
    yield "one patch, one head", case("0111", L=1, H=1)


def package_patch_heat(attention, types, picture):
    nothing = np.zeros(0)
    return look.Look(types, nothing, attention, nothing, nothing).heat(picture)


PATCH_HEAT = Exercise(Contract("patch_heat", patch_heat, patch_heat_cases, TOLERANCE), package_patch_heat, (look.Look.heat,),
                      toy=dict(attention=np.array([[[0.5, 0, 0.4, 0, 0, 0, 0, 0.1], [0.1, 0.1, 0.2, 0, 0.6, 0, 0, 0]]]),
                               types=np.array([0, 1, 1, 1, 1, 1, 1, 0]), picture=1))


def heat(attention, tokens, reduce=np.mean):
    """Of some tokens; ValueError where they are no square"""
    side = math.isqrt(len(tokens))
    return reduce(attention[:, :, tokens], (0, 1)).reshape(side, side)


def tokens_of(types, picture):
    return np.flatnonzero(types == picture)


@PATCH_HEAT.mistake("The heat is shifted by one patch: a picture's first token is boi, which is no patch.")
def boi_is_a_patch(attention, types, picture):
    return heat(attention, tokens_of(types, picture)[:-2])


@PATCH_HEAT.mistake("The heat is shifted by one patch: a picture's last token is eoi, which is no patch.")
def eoi_is_a_patch(attention, types, picture):
    return heat(attention, tokens_of(types, picture)[2:])


@PATCH_HEAT.mistake("This is the sum over layers and heads; it is their mean.")
def sum_over_heads(attention, types, picture):
    return heat(attention, tokens_of(types, picture)[1:-1], np.sum)


@PATCH_HEAT.mistake("This is the largest over layers and heads; it is their mean.")
def largest_of_heads(attention, types, picture):
    return heat(attention, tokens_of(types, picture)[1:-1], np.max)


@PATCH_HEAT.mistake("The heat is scaled so that it sums to 1; then it no longer says how much went elsewhere, to the text.")
def heat_sums_to_one(attention, types, picture):
    found = heat(attention, tokens_of(types, picture)[1:-1])
    return found / found.sum()


@PATCH_HEAT.mistake("Rows and columns are exchanged: patches stand row by row, so reshape gives (row, column) at once.")
def rows_are_columns(attention, types, picture):
    return heat(attention, tokens_of(types, picture)[1:-1]).T


@PATCH_HEAT.mistake("This is the last layer alone; it is the mean of all of them.")
def last_layer_alone(attention, types, picture):
    return heat(attention[-1:], tokens_of(types, picture)[1:-1])


@PATCH_HEAT.mistake("This is the first layer alone; it is the mean of all of them.")
def first_layer_alone(attention, types, picture):
    return heat(attention[:1], tokens_of(types, picture)[1:-1])


@PATCH_HEAT.mistake("This is the first picture, whichever was asked for: types has k for the k-th.")
def always_the_first_picture(attention, types, picture):
    return heat(attention, tokens_of(types, 1)[1:-1])


# ---------------------------------------------------------------------------------------------------------- logit_lens

def logit_lens(states, norm_weight, head_weight, eps):
    (L, D), V = states.shape, len(head_weight)
    y = np.empty((L, V))
    for i in range(L):
        rms = math.sqrt(sum(states[i, j] ** 2 for j in range(D)) / D + eps)
        logits = [sum(states[i, j] / rms * norm_weight[j] * head_weight[k, j] for j in range(D)) for k in range(V)]
        total = sum(math.exp(logit - max(logits)) for logit in logits)
        y[i] = [math.exp(logit - max(logits)) / total for logit in logits]
    return y


def logit_lens_cases():
    def case(L, D, V, scale=1.0, head=1.0):
        return dict(states=random(L, D, scale=scale), norm_weight=random(D, mean=1.0, scale=0.3, seed=1),
                    head_weight=random(V, D, scale=head, seed=2), eps=1e-5)
    yield "three layers", case(3, 4, 7)
    yield "one layer", case(1, 6, 3)
    yield "states that are nearly zero", case(2, 4, 5, scale=1e-3)
    yield "large logits", case(2, 4, 5, head=700.0)


def package_logit_lens(states, norm_weight, head_weight, eps):
    normed, _ = ops.rms_norm.own(states, norm_weight, eps)
    return ops.softmax.own(ops.linear.own(normed, head_weight)[0])[0]


LOGIT_LENS = Exercise(Contract("logit_lens", logit_lens, logit_lens_cases, TOLERANCE), package_logit_lens, (look.look,),
                      toy=dict(states=np.array([[2.0, 0], [2, 3], [1, 3]]), norm_weight=np.ones(2),
                               head_weight=np.array([[1.0, 0], [0, 1], [0.5, 0.5]]), eps=1e-5))


def rms(x, axis=-1):
    return np.sqrt((x ** 2).mean(axis, keepdims=True))


def said(normed, head_weight):
    return softmax(normed @ head_weight.T)


@LOGIT_LENS.mistake("The final norm is missing: the head was trained on normed vectors.")
def lens_without_norm(states, norm_weight, head_weight, eps):
    return said(states, head_weight)


@LOGIT_LENS.mistake("The final norm's weight is missing.")
def lens_without_the_norms_weight(states, norm_weight, head_weight, eps):
    return said(states / np.sqrt(rms(states) ** 2 + eps), head_weight)


@LOGIT_LENS.mistake("eps is missing: it matters where a state is nearly zero.")
def lens_without_eps(states, norm_weight, head_weight, eps):
    return said(states / rms(states) * norm_weight, head_weight)


@LOGIT_LENS.mistake("eps is added outside the root; it stands inside, with the mean of the squares.")
def lens_with_eps_outside(states, norm_weight, head_weight, eps):
    return said(states / (rms(states) + eps) * norm_weight, head_weight)


@LOGIT_LENS.mistake("The norm runs over the layers; each layer's vector has its own, along the last axis.")
def lens_norm_over_layers(states, norm_weight, head_weight, eps):
    return said(states / np.sqrt(rms(states, 0) ** 2 + eps) * norm_weight, head_weight)


@LOGIT_LENS.mistake("The mean is subtracted: that is LayerNorm, and the final norm is RMSNorm.")
def lens_with_layer_norm(states, norm_weight, head_weight, eps):
    return lens_with(states - states.mean(-1, keepdims=True), norm_weight, head_weight, eps)


def lens_with(states, norm_weight, head_weight, eps):
    return said(states / np.sqrt(rms(states) ** 2 + eps) * norm_weight, head_weight)


def lens_logits(states, norm_weight, head_weight, eps):
    return states / np.sqrt(rms(states) ** 2 + eps) * norm_weight @ head_weight.T


@LOGIT_LENS.mistake("These are the logits; softmax makes them probabilities.")
def lens_without_softmax(states, norm_weight, head_weight, eps):
    return lens_logits(states, norm_weight, head_weight, eps)


@LOGIT_LENS.mistake("These are the logarithms of the probabilities.")
def lens_log_softmax(states, norm_weight, head_weight, eps):
    logits = lens_logits(states, norm_weight, head_weight, eps)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@LOGIT_LENS.mistake("Softmax runs over the layers; each layer has its own, over the vocabulary, the last axis.")
def lens_softmax_over_layers(states, norm_weight, head_weight, eps):
    return softmax(lens_logits(states, norm_weight, head_weight, eps).T).T


@LOGIT_LENS.mistake("exp overflows for large logits: subtract each row's maximum first.")
def lens_overflows(states, norm_weight, head_weight, eps):
    with np.errstate(all="ignore"):
        p = np.exp(lens_logits(states, norm_weight, head_weight, eps))
        return p / p.sum(-1, keepdims=True)


# -------------------------------------------------------------------------------------------------------- without_head

def without_head(context, weight, head, heads, first, last):
    (B, T, D), O = context.shape, len(weight)
    d, y = D // heads, np.zeros((B, T, O))
    for b, t, o, j in over(B, T, O, D):
        if not (first <= t <= last and j // d == head):
            y[b, t, o] += context[b, t, j] * weight[o, j]
    return y


def without_head_cases():
    def case(B, T, D, heads, head, first, last, O=None):
        return dict(context=random(B, T, D), weight=random(O or D, D, seed=1, scale=D ** -0.5), head=head, heads=heads,
                    first=first, last=last)
    yield "all tokens", case(1, 5, 12, 3, 1, 0, 4)
    yield "some tokens of a batch", case(2, 6, 8, 4, 2, 1, 3)
    yield "one token, the last head", case(1, 4, 6, 2, 1, 2, 2, O=5)
    yield "the first head of three", case(2, 3, 9, 3, 0, 1, 2)


def package_without_head(context, weight, head, heads, first, last):
    part = without.Part("head", 0, head, None, (first, last))
    d = context.shape[-1] // heads
    return ops.linear.own(without.zeros(context, [(part, slice(head * d, (head + 1) * d))], 0), weight)[0]


WITHOUT_HEAD = Exercise(Contract("without_head", without_head, without_head_cases, TOLERANCE), package_without_head,
                        (without.silenced, without.zeros), toy=dict(
                            context=np.array([[[1.0, 2, 3, 4]]]), weight=np.array([[1.0, 0, 1, 0], [0, 1, 0, 1]]),
                            head=1, heads=2, first=0, last=0))


def masked(context, off, first=0, last=None, at=None):
    """context with zeros at the columns `off`, (D,) bool, of the tokens first to last, or of `at`, (T,) bool"""
    place = np.arange(context.shape[1])
    at = (place >= first) & (place <= (place[-1] if last is None else last)) if at is None else at
    return np.where(at[:, None] & off, 0, context)


def columns(context, heads, head):
    return np.arange(context.shape[-1]) // (context.shape[-1] // heads) == head


@WITHOUT_HEAD.mistake("The head is off at every token; it should be only from `first` to `last`.")
def off_everywhere(context, weight, head, heads, first, last):
    return masked(context, columns(context, heads, head)) @ weight.T


@WITHOUT_HEAD.mistake("The token `last` is left out: both ends are included, so the slice is first:last + 1.")
def last_left_out(context, weight, head, heads, first, last):
    return masked(context, columns(context, heads, head), first, last - 1) @ weight.T


@WITHOUT_HEAD.mistake("Every `heads`-th number is off; a head's numbers stand side by side.")
def heads_interleaved(context, weight, head, heads, first, last):
    return masked(context, np.arange(context.shape[-1]) % heads == head, first, last) @ weight.T


@WITHOUT_HEAD.mistake("Heads are counted from 1 here; the first is head 0.")
def heads_from_one(context, weight, head, heads, first, last):
    return masked(context, columns(context, heads, head - 1), first, last) @ weight.T


@WITHOUT_HEAD.mistake("All other heads are off, and this one alone is on.")
def others_off(context, weight, head, heads, first, last):
    return masked(context, ~columns(context, heads, head), first, last) @ weight.T


@WITHOUT_HEAD.mistake("The tokens from `first` to `last` have the head, and all others lack it.")
def other_tokens_off(context, weight, head, heads, first, last):
    place = np.arange(context.shape[1])
    return masked(context, columns(context, heads, head), at=(place < first) | (place > last)) @ weight.T


@WITHOUT_HEAD.mistake("The other heads are scaled up for the one that is missing, as dropout would; leave them as they are.")
def others_scaled_up(context, weight, head, heads, first, last):
    off, place = columns(context, heads, head), np.arange(context.shape[1])
    at = (place >= first) & (place <= last)
    return np.where(at[:, None], masked(context, off, first, last) * heads / max(1, heads - 1), context) @ weight.T


@WITHOUT_HEAD.mistake("Zeros are put into the output, where the matrix has already mixed the heads; put them before it.")
def zeros_after_the_matrix(context, weight, head, heads, first, last):
    y = context @ weight.T
    if y.shape != context.shape:
        raise ValueError
    return masked(y, columns(y, heads, head), first, last)


@WITHOUT_HEAD.mistake("The matrix is not transposed: y = context W^T.")
def matrix_not_transposed(context, weight, head, heads, first, last):
    if weight.shape[0] != weight.shape[1]:
        raise ValueError
    return masked(context, columns(context, heads, head), first, last) @ weight


@WITHOUT_HEAD.mistake("No head is off.")
def no_head_off(context, weight, head, heads, first, last):
    return context @ weight.T
