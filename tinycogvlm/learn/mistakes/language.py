"""RMSNorm, rotary embedding, SwiGLU."""
import numpy as np

from ... import contracts
from .table import mistake, right


NORMS = ("rms_norm", "rms_norm_v1", "rms_norm_v2")


def unit(x, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


@mistake(*NORMS, says="The mean is subtracted, as LayerNorm does; RMSNorm leaves it in.")
def mean_subtracted(x, weight, eps):
    return unit(x - x.mean(-1, keepdims=True), eps) * weight


@mistake(*NORMS, says="The weight is missing: the last step multiplies by it.")
def weight_missing(x, weight, eps):
    return unit(x, eps)


@mistake(*NORMS, says="The weight is 1 + weight, as Gemma stores it; here it is weight itself.")
def one_added_to_the_weight(x, weight, eps):
    return unit(x, eps) * (1 + weight)


@mistake(*NORMS, says="eps is missing: a row of zeros is divided by 0, and a row of small numbers grows too large.")
def eps_missing(x, weight, eps):
    with np.errstate(all="ignore"):
        return unit(x, 0) * weight


@mistake(*NORMS, says="eps is added outside of the root; it belongs under it.")
def eps_outside_of_the_root(x, weight, eps):
    return x / (np.sqrt((x * x).mean(-1, keepdims=True)) + eps) * weight


@mistake(*NORMS, says="eps is a fixed 1e-6; the argument has the model's.")
def eps_fixed(x, weight, eps):
    return unit(x, 1e-6) * weight


@mistake(*NORMS,
         says="This divides by the root of the SUM of squares; it is the mean, so that the result does not "
              "depend on D.")
def sum_for_mean(x, weight, eps):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + eps) * weight


@mistake(*NORMS, says="The root is missing: this divides by the mean square.")
def root_missing(x, weight, eps):
    return x / ((x * x).mean(-1, keepdims=True) + eps) * weight


@mistake(*NORMS, says="The mean is taken over the whole array; each token (the last axis) is normalised by itself.")
def mean_of_everything(x, weight, eps):
    return x / np.sqrt((x * x).mean() + eps) * weight


@mistake("rms_norm", says="The mean is taken over the batch axis, the first; it belongs over the last.")
def mean_over_the_batch(x, weight, eps):
    return x / np.sqrt((x * x).mean(0, keepdims=True) + eps) * weight


def turned(x, cos, sin, first, second, join):
    cos, sin = cos[:, None], sin[:, None]
    return join(first * cos - second * sin, second * cos + first * sin)


def halves(x):
    return x[..., :x.shape[-1] // 2], x[..., x.shape[-1] // 2:]


@mistake("rotary",
         says="Neighbours are paired, (x0, x1), (x2, x3) ...; here the first half of a head pairs with its "
              "second, (x0, x[d/2]), (x1, x[d/2 + 1]) ...")
def neighbours_paired(x, cos, sin):
    return turned(x, cos, sin, x[..., ::2], x[..., 1::2], lambda a, b: np.stack([a, b], -1).reshape(x.shape))


@mistake("rotary", says="It turns the other way round: the first is x cos - y sin, the second y cos + x sin.")
def turned_backwards(x, cos, sin):
    return right("rotary", x=x, cos=cos, sin=-sin)


@mistake("rotary", says="cos and sin are exchanged.")
def cos_and_sin_exchanged(x, cos, sin):
    return right("rotary", x=x, cos=sin, sin=cos)


@mistake("rotary", says="Both halves have the minus sign: the second is y cos + x sin.")
def minus_in_both(x, cos, sin):
    first, second = halves(x)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([first * cos - second * sin, second * cos - first * sin], -1)


@mistake("rotary", says="The second half is turned with the new first half: keep the old one until both are computed.")
def first_half_overwritten(x, cos, sin):
    first, second = halves(x)
    cos, sin = cos[:, None], sin[:, None]
    first = first * cos - second * sin
    return np.concatenate([first, second * cos + first * sin], -1)


@mistake("swiglu", says="gate and up are exchanged: silu belongs to gate.")
def gate_and_up_exchanged(gate, up):
    return right("swiglu", gate=up, up=gate)


@mistake("swiglu", says="This is GLU, sigmoid(gate) * up; SwiGLU has silu(gate) = gate * sigmoid(gate).")
def glu(gate, up):
    with np.errstate(over="ignore"):
        return up / (1 + np.exp(-gate))


@mistake("swiglu", says="This is GEGLU, with GELU in place of silu.")
def geglu(gate, up):
    return contracts.ops.gelu(gate) * up


@mistake("swiglu", says="up is missing: this is silu(gate) alone.")
def up_missing(gate, up):
    return right("swiglu", gate=gate, up=np.ones_like(up))


@mistake("swiglu", says="silu is applied to the product; it belongs to gate alone, up multiplies afterwards.")
def silu_of_the_product(gate, up):
    return right("swiglu", gate=gate * up, up=np.ones_like(up))
