"""Lesson 14: the gradients of SwiGLU, RMSNorm, the loss, softmax, attention and rotary."""
import math
from dataclasses import replace

import numpy as np

from ...contracts import CONTRACTS, Contract, over, random
from ...contracts.contract import TOLERANCE
from ...contracts.gradients import gradient_contract
from ...nn import ops
from ...nn.attention import attend
from ..exercise import Exercise, pullback
from .attention import softmax
from .language_model import halves



def with_case(contract, label, **arguments):
    """A contract and one case more"""
    return replace(contract, cases=lambda: [*contract.cases(), (label, arguments)])


# ---------------------------------------------------------------------------------------------------- swiglu_gradients


def fit_swiglu_gradients(mine, otherwise):
    return lambda gate, up: (otherwise(gate, up)[0], lambda dy: mine(dy=dy, gate=gate, up=up))


SWIGLU_GRADIENTS = Exercise(
    with_case(gradient_contract("swiglu_gradients", "swiglu", ("gate", "up")), "gates of 1000 and -1000",
              dy=np.array([1.0, -2]), gate=np.array([1000.0, -1000]), up=np.array([0.5, 3])),
    pullback(ops.swiglu), (ops.swiglu,),
    part="swiglu_gradients", place=ops.swiglu, fit=fit_swiglu_gradients, runs="gradient",
    toy=dict(dy=np.ones(3), gate=np.array([0.0, 20, -20]), up=np.array([2.0, 2, 2])))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@SWIGLU_GRADIENTS.mistake(
    "exp(gate) / (1 + exp(gate)) is infinite / infinite for a large gate; 1 / (1 + exp(-gate)) is the same and is not.")
def sigmoid_overflows(dy, gate, up):
    with np.errstate(all="ignore"):
        s = np.exp(gate) / (1 + np.exp(gate))
        return dy * up * s * (1 + gate * (1 - s)), dy * gate * s


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
    (ops.rms_norm,), part="rms_norm_gradients", place=ops.rms_norm, fit=fit_rms_norm_gradients, runs="gradient",
    toy=dict(dy=np.array([[1.0, 0]]), x=np.array([[3.0, 4]]), weight=np.ones(2), eps=1e-6))


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
    with_case(gradient_contract("cross_entropy_gradient", "cross_entropy", ("logits",), is_unweighted),
              "logits around 1000", logits=1000 + random(2, 4), labels=np.array([1, -100])),
    pullback(ops.cross_entropy), (ops.cross_entropy,),
    part="cross_entropy_gradient", place=ops.cross_entropy, fit=fit_cross_entropy_gradient, runs="gradient",
    toy=dict(logits=np.log([[1.0, 1, 2], [1, 1, 2]]), labels=np.array([2, -100])))


def softmax_less_one_hot(logits, labels, rows):
    p = softmax(logits)
    p[np.flatnonzero(rows), labels[rows]] -= 1
    return np.where(rows[:, None], p, 0)


@CROSS_ENTROPY_GRADIENT.mistake("exp overflows for large logits: subtract the largest of each row first.")
def largest_logit_not_subtracted(logits, labels):
    rows = labels != -100
    with np.errstate(all="ignore"):
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p[np.flatnonzero(rows), labels[rows]] -= 1
    return np.where(rows[:, None], p, 0) / rows.sum()


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


# ---------------------------------------------------------------------------------------------------- softmax_gradient

def softmax_gradient(dp, p):
    """ds_j = sum_i dp_i dp_i/ds_j, where p_i changes with s_j by p_i ((1 if i = j else 0) - p_j)"""
    ds, keys = np.zeros(p.shape), range(p.shape[-1])
    for place in over(*p.shape[:-1]):
        for j in keys:
            ds[place][j] = math.fsum(dp[place][i] * p[place][i] * ((i == j) - p[place][j]) for i in keys)
    return ds


def softmax_gradient_cases():
    def case(*shape, seen=True):
        return dict(dp=random(*shape, seed=9), p=softmax(np.where(seen, random(*shape), -np.inf)))
    yield "a quarter, a quarter, a half", dict(dp=np.array([[1.0, 0, 0]]), p=np.array([[0.25, 0.25, 0.5]]))
    yield "batch", case(2, 3, 4, 5)
    yield "a causal mask", case(1, 2, 4, 4, seen=np.tri(4, dtype=bool))
    yield "one key", case(2, 1)


def package_softmax_gradient(dp, p):
    """By the pullback of softmax at log p, whose softmax is p"""
    with np.errstate(divide="ignore"):
        return ops.softmax.own(np.log(p))[1](dp)


SOFTMAX_GRADIENT = Exercise(Contract("softmax_gradient", softmax_gradient, softmax_gradient_cases, TOLERANCE),
                            package_softmax_gradient, (ops.softmax,), part="softmax_gradient", runs="gradient")


@SOFTMAX_GRADIENT.mistake(
    "The sum is missing: a score also moves the other probabilities of its row, so ds = p * (dp - sum(dp * p)).")
def each_probability_by_itself(dp, p):
    return p * dp


@SOFTMAX_GRADIENT.mistake(
    "This is the gradient of a sigmoid, p (1 - p) dp: a score also moves the OTHER probabilities of its row, so ds = "
    "p * (dp - sum(dp * p)).")
def as_of_a_sigmoid(dp, p):
    return dp * p * (1 - p)


@SOFTMAX_GRADIENT.mistake("The sum lacks p: what is subtracted is sum(dp * p), the mean of dp weighed by p.")
def sum_without_p(dp, p):
    return p * (dp - dp.sum(-1, keepdims=True))


@SOFTMAX_GRADIENT.mistake("A plain mean of dp is subtracted; it is weighed by p: sum(dp * p).")
def plain_mean_subtracted(dp, p):
    return p * (dp - dp.mean(-1, keepdims=True))


@SOFTMAX_GRADIENT.mistake("There is a mean of dp * p in place of the sum: p sums to 1 already.")
def mean_of_the_products(dp, p):
    return p * (dp - (dp * p).mean(-1, keepdims=True))


@SOFTMAX_GRADIENT.mistake("The factor p before the bracket is missing: ds = p * (dp - sum(dp * p)).")
def p_missing_before_the_bracket(dp, p):
    return dp - (dp * p).sum(-1, keepdims=True)


@SOFTMAX_GRADIENT.mistake("The sum is subtracted: more for one key is less for the others.")
def sum_added(dp, p):
    return p * (dp + (dp * p).sum(-1, keepdims=True))


@SOFTMAX_GRADIENT.mistake("The sum runs over the whole array; each row (the last axis) has its own.")
def one_sum_for_all_rows(dp, p):
    return p * (dp - (dp * p).sum())


@SOFTMAX_GRADIENT.mistake("The sum runs over the queries; it is over the keys, the last axis.")
def sum_over_queries(dp, p):
    return p * (dp - (dp * p).sum(-2, keepdims=True))


# -------------------------------------------------------------------------------------------------- attention_gradients

def attention_gradients(dy, q, k, v, p):
    """A query at a time: y = sum_s p_s v_s, p = softmax(s), s_j = q . k_j / sqrt(d)"""
    dq, dk, dv, scale = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape), math.sqrt(q.shape[-1])
    for b, h, t in over(*q.shape[:3]):
        dp = np.array([math.fsum(dy[b, h, t] * value) for value in v[b, h]])
        ds = softmax_gradient(dp, p[b, h, t])
        for s in range(k.shape[2]):
            dq[b, h, t] += ds[s] * k[b, h, s] / scale
            dk[b, h, s] += ds[s] * q[b, h, t] / scale
            dv[b, h, s] += p[b, h, t, s] * dy[b, h, t]
    return dq, dk, dv


def attention_gradients_cases():
    def case(B=1, H=1, T=4, S=4, d=3, causal=False):
        q, k, v = random(B, H, T, d), random(B, H, S, d, seed=1), random(B, H, S, d, seed=2)
        seen = np.tri(T, S, S - T, dtype=bool) if causal else True
        p = softmax(np.where(seen, q @ k.swapaxes(2, 3) / math.sqrt(d), -np.inf))
        return dict(dy=random(B, H, T, d, seed=9), q=q, k=k, v=v, p=p)
    yield "one query, two keys", case(T=1, S=2, d=2)
    yield "batch", case(B=2, H=3, T=4, S=5, d=6)
    yield "a causal mask", case(H=2, T=5, S=5, d=4, causal=True)
    yield "as many of all", case(T=3, S=3, d=3)


def package_attention_gradients(dy, q, k, v, p):
    return attend(q, k, v, p > 0)[1](dy)


def fit_attention_gradients(mine, otherwise):
    """Where no key is padding, and no key is shared by heads."""
    def attention(q, k, v, mask=None, causal=True):
        y, pull = otherwise(q, k, v, mask, causal)
        if mask is not None or q.shape[1] != k.shape[1]:
            return y, pull

        def pull_mine(dy):
            (T, d), S = q.shape[2:], k.shape[2]
            seen = np.tri(T, S, S - T, dtype=bool) if causal else True
            p = softmax(np.where(seen, q @ k.swapaxes(2, 3) / math.sqrt(d), -np.inf))
            return mine(dy=dy, q=q, k=k, v=v, p=p)
        return y, pull_mine
    return attention


ATTENTION_GRADIENTS = Exercise(
    Contract("attention_gradients", attention_gradients, attention_gradients_cases, TOLERANCE),
    package_attention_gradients, (attend, ops.attention),
    part="attention_gradients", place=ops.attention, fit=fit_attention_gradients, runs="gradient")


def backward(dy, q, k, v, p, through=package_softmax_gradient, scale=None):
    """Attention's gradients with one of their steps replaced."""
    ds = through(dy @ v.swapaxes(2, 3), p) / (math.sqrt(q.shape[-1]) if scale is None else scale)
    return ds @ k, ds.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ dy


@ATTENTION_GRADIENTS.mistake(
    "The scale is missing in dq and dk: the scores are q k^T / sqrt(d), so ds is divided by sqrt(d), too.")
def scale_missing_in_ds(dy, q, k, v, p):
    return backward(dy, q, k, v, p, scale=1)


@ATTENTION_GRADIENTS.mistake("ds is divided by d; the scores were divided by sqrt(d), once.")
def scale_twice(dy, q, k, v, p):
    return backward(dy, q, k, v, p, scale=q.shape[-1])


@ATTENTION_GRADIENTS.mistake("The scale is in dv, too; v never meets the scores: dv = p^T dy.")
def scale_in_dv(dy, q, k, v, p):
    dq, dk, dv = backward(dy, q, k, v, p)
    return dq, dk, dv / math.sqrt(q.shape[-1])


@ATTENTION_GRADIENTS.mistake(
    "The softmax is left out: dy v^T is the gradient of the probabilities; that of the scores is p * (dp - sum(dp * "
    "p)).")
def softmax_left_out(dy, q, k, v, p):
    return backward(dy, q, k, v, p, through=lambda dp, p: dp)


@ATTENTION_GRADIENTS.mistake(
    "The softmax's gradient lacks its sum: a score also moves the other probabilities of its row, so ds = p * (dp - "
    "sum(dp * p)).")
def softmax_each_by_itself(dy, q, k, v, p):
    return backward(dy, q, k, v, p, through=each_probability_by_itself)


@ATTENTION_GRADIENTS.mistake("The softmax's gradient is taken over the queries; each query's row of keys has its own.")
def softmax_over_the_queries(dy, q, k, v, p):
    return backward(dy, q, k, v, p, through=sum_over_queries)


@ATTENTION_GRADIENTS.mistake("dq and dk are exchanged: the results are dq, dk, dv.")
def dq_and_dk_exchanged(dy, q, k, v, p):
    dq, dk, dv = backward(dy, q, k, v, p)
    return dk, dq, dv


@ATTENTION_GRADIENTS.mistake("The results come in another order: they are dq, dk, dv.")
def dv_first(dy, q, k, v, p):
    dq, dk, dv = backward(dy, q, k, v, p)
    return dv, dq, dk


@ATTENTION_GRADIENTS.mistake("The scale is made from the number of keys; d is the size of a head, the last axis of q.")
def scale_of_the_keys(dy, q, k, v, p):
    return backward(dy, q, k, v, p, scale=math.sqrt(k.shape[2]))


# ----------------------------------------------------------------------------------------------------- rotary_gradient

def rotary_gradient(dy, cos, sin):
    """What each of a pair gives to both results: x to x cos and x sin, y to -y sin and y cos"""
    dx, half = np.zeros(dy.shape), dy.shape[-1] // 2
    for b, h, t, i in over(*dy.shape[:3], half):
        c, s = cos[b, t, i], sin[b, t, i]
        dx[b, h, t, i] = dy[b, h, t, i] * c + dy[b, h, t, i + half] * s
        dx[b, h, t, i + half] = dy[b, h, t, i] * -s + dy[b, h, t, i + half] * c
    return dx


def rotary_gradient_cases():
    yield "a quarter turn", dict(dy=np.array([1.0, 0]).reshape(1, 1, 1, 2), cos=np.zeros((1, 1, 1)), sin=np.ones((1, 1, 1)))
    for label, arguments in CONTRACTS["rotary"].cases():
        yield label, dict(dy=arguments["x"], cos=arguments["cos"], sin=arguments["sin"])


def fit_rotary_gradient(mine, otherwise):
    return lambda x, cos, sin: (otherwise(x, cos, sin)[0], lambda dy: mine(dy=dy, cos=cos, sin=sin))


ROTARY_GRADIENT = Exercise(
    Contract("rotary_gradient", rotary_gradient, rotary_gradient_cases, TOLERANCE),
    lambda dy, cos, sin: ops.rotary.own(dy, cos, sin)[1](dy), (ops.rotary,),
    part="rotary_gradient", place=ops.rotary, fit=fit_rotary_gradient, runs="gradient")


def turned(x, cos, sin):
    (first, second), cos, sin = halves(x), cos[:, None], sin[:, None]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


@ROTARY_GRADIENT.mistake("The gradient is turned forward once more; it has to be turned BACK, by minus the angle.")
def turned_forward(dy, cos, sin):
    return turned(dy, cos, sin)


@ROTARY_GRADIENT.mistake(
    "cos has its sign changed; a turn by minus the angle has the same cosine and the opposite sine.")
def cosine_negated(dy, cos, sin):
    return turned(dy, -cos, sin)


@ROTARY_GRADIENT.mistake("Both have their signs changed, which turns by half a circle; only sin changes its sign.")
def both_negated(dy, cos, sin):
    return turned(dy, -cos, -sin)


@ROTARY_GRADIENT.mistake("The gradient is not turned at all: dy is that of the turned pair.")
def not_turned(dy, cos, sin):
    return dy.copy()


@ROTARY_GRADIENT.mistake(
    "Only cos is there: each of a pair also acts on the other result, through sin, so both terms are added.")
def cosines_alone(dy, cos, sin):
    return turned(dy, cos, 0 * sin)


@ROTARY_GRADIENT.mistake("Both halves have a plus sign: the second is second cos - first sin.")
def plus_in_both(dy, cos, sin):
    (first, second), cos, sin = halves(dy), cos[:, None], sin[:, None]
    return np.concatenate([first * cos + second * sin, second * cos + first * sin], -1)


@ROTARY_GRADIENT.mistake("cos and sin are exchanged.")
def cos_and_sin_exchanged(dy, cos, sin):
    return turned(dy, sin, -cos)


@ROTARY_GRADIENT.mistake(
    "Neighbours are paired, (x0, x1), (x2, x3) ...; here the first half of a head pairs with its second: (x0, "
    "x[d/2]), (x1, x[d/2 + 1]) ...")
def neighbours_paired(dy, cos, sin):
    (first, second), cos, sin = (dy[..., ::2], dy[..., 1::2]), cos[:, None], sin[:, None]
    return np.stack([first * cos + second * sin, second * cos - first * sin], -1).reshape(dy.shape)


@ROTARY_GRADIENT.mistake("The second half is turned with the new first half: keep the old one until both are computed.")
def first_half_overwritten(dy, cos, sin):
    (first, second), cos, sin = halves(dy), cos[:, None], sin[:, None]
    first = first * cos + second * sin
    return np.concatenate([first, second * cos - first * sin], -1)
