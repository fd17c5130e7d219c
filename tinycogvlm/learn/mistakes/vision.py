"""Patches and the block of the vision tower."""
import math

import numpy as np

from ... import contracts
from .table import mistake, right


@mistake("patches", says="The patches come column by column; they are counted along the rows, as one reads.")
def patches_by_columns(x, size):
    B, C, N, M = x.shape
    n, m = N // size, M // size
    squares = x[:, :, :n * size, :m * size].reshape(B, C, n, size, m, size)
    return squares.transpose(0, 4, 2, 1, 3, 5).reshape(B, n * m, C * size * size)


@mistake("patches",
         says="Each patch is transposed: its rows of pixels come first, as they do in the convolution's weight.")
def patch_transposed(x, size):
    B, C, N, M = x.shape
    n, m = N // size, M // size
    squares = x[:, :, :n * size, :m * size].reshape(B, C, n, size, m, size)
    return squares.transpose(0, 2, 4, 1, 5, 3).reshape(B, n * m, C * size * size)


@mistake("patches",
         says="The colours of a pixel lie next to each other here; a patch has all of its first colour, then the "
              "second, then the third.")
def colours_last(x, size):
    B, C, N, M = x.shape
    y = right("patches", x=x, size=size)
    return y.reshape(B, -1, C, size * size).swapaxes(2, 3).reshape(y.shape)


@mistake("patches", says="The array is reshaped without a transpose: these are pieces of rows, not squares.")
def reshaped_only(x, size):
    B, C, N, M = x.shape
    n, m = N // size, M // size
    return np.ascontiguousarray(x[:, :, :n * size, :m * size]).reshape(B, n * m, C * size * size)


def embedded(x, weight, bias):
    squares = right("patches", x=x, size=weight.shape[-1])
    return squares @ weight.reshape(len(weight), -1).T + bias


def with_cls(cls, y):
    return np.concatenate([np.broadcast_to(cls, (len(y), *cls.shape)), y], 1)


@mistake("patch_embedding", says="CLS stands at the end; it is the first row.")
def cls_at_the_end(x, weight, bias, cls, table):
    y = embedded(x, weight, bias)
    return np.concatenate([y, np.broadcast_to(cls, (len(y), *cls.shape))], 1) + table


@mistake("patch_embedding", says="CLS has no position here; the first row of the table is its own.")
def cls_without_position(x, weight, bias, cls, table):
    return with_cls(cls, embedded(x, weight, bias) + table[1:])


@mistake("patch_embedding", says="The positions are missing: without them the tower cannot tell where a patch was.")
def positions_missing(x, weight, bias, cls, table):
    return with_cls(cls, embedded(x, weight, bias))


@mistake("patch_embedding",
         says="The positions are off by one: the patches begin with the table's second row, behind CLS.")
def positions_off_by_one(x, weight, bias, cls, table):
    return with_cls(cls + table[:1], embedded(x, weight, bias) + table[:-1])


@mistake("patch_embedding", says="The bias is missing.")
def embedding_bias_missing(x, weight, bias, cls, table):
    return with_cls(cls, embedded(x, weight, 0)) + table


# ----------------------------------------------------------------------------------------------------------- the block

def centred(x):
    return x - x.mean(-1, keepdims=True)


def normalised(x, eps):
    return centred(x) / np.sqrt(x.var(-1, keepdims=True) + eps)


@mistake("layer_norm", says="The mean stays in: this is RMSNorm with a bias.")
def mean_left_in(x, weight, bias, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight + bias


@mistake("layer_norm", says="The variance is divided by D - 1; LayerNorm divides by D.")
def unbiased_variance(x, weight, bias, eps):
    if x.shape[-1] == 1:
        raise ValueError("a row of one number")
    return centred(x) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + eps) * weight + bias


@mistake("layer_norm",
         says="The LayerNorm epsilon is missing: a row of small numbers is blown up, and a constant row is 0 / 0.")
def layer_norm_eps_missing(x, weight, bias, eps):
    with np.errstate(all="ignore"):
        return normalised(x, 0) * weight + bias


@mistake("layer_norm", says="The LayerNorm epsilon is added to the standard deviation; it belongs under the root.")
def layer_norm_eps_outside(x, weight, bias, eps):
    return centred(x) / (x.std(-1, keepdims=True) + eps) * weight + bias


@mistake("layer_norm", says="The root is missing: this divides by the variance.")
def layer_norm_root_missing(x, weight, bias, eps):
    return centred(x) / (x.var(-1, keepdims=True) + eps) * weight + bias


@mistake("layer_norm", says="Weight and bias are missing: the last step scales and shifts each entry.")
def weight_and_bias_missing(x, weight, bias, eps):
    return normalised(x, eps)


@mistake("layer_norm", says="The bias is missing.")
def layer_norm_bias_missing(x, weight, bias, eps):
    return normalised(x, eps) * weight


@mistake("layer_norm", says="Mean and variance are over the whole array; each token (the last axis) has its own.")
def layer_norm_of_everything(x, weight, bias, eps):
    return (x - x.mean()) / np.sqrt(x.var() + eps) * weight + bias


@mistake("gelu", says="This is the tanh form, which is off by up to 0.0005; EVA2-CLIP has the exact one.")
def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


@mistake("gelu", says="This is x sigmoid(1.702 x), OpenAI CLIP's approximation; EVA2-CLIP has the exact form.")
def quick_gelu(x):
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-1.702 * x))


@mistake("gelu", says="This is silu, x sigmoid(x).")
def silu_for_gelu(x):
    return contracts.ops.silu(x)


@mistake("gelu", says="This is Phi(x) without the x in front.")
def phi_alone(x):
    return contracts.ops.each(contracts.ops.phi)(x)


@mistake("gelu", says="The argument of erf is x; it is x / sqrt(2).")
def erf_of_x(x):
    return contracts.ops.each(lambda x: x * contracts.ops.phi(math.sqrt(2) * x))(x)


@mistake("post_norm_block",
         says="Your block is pre-norm, as OpenAI's CLIP; EVA's is post-norm: x + norm(attention(x)).")
def pre_norm(x, attention, mlp, norm1, norm2):
    x = x + attention(norm1(x))
    return x + mlp(norm2(x))


@mistake("post_norm_block",
         says="The sum is normalised, as in the first Transformer; EVA normalises before the residual is added.")
def sum_normalised(x, attention, mlp, norm1, norm2):
    x = norm1(x + attention(x))
    return norm2(x + mlp(x))


@mistake("post_norm_block", says="The residual is missing in the first half: x + norm1(attention(x)).")
def first_residual_missing(x, attention, mlp, norm1, norm2):
    x = norm1(attention(x))
    return x + norm2(mlp(x))


@mistake("post_norm_block", says="The residual is missing in the second half.")
def second_residual_missing(x, attention, mlp, norm1, norm2):
    return norm2(mlp(x + norm1(attention(x))))


@mistake("post_norm_block", says="The MLP gets what went into attention; it follows on attention's result.")
def halves_side_by_side(x, attention, mlp, norm1, norm2):
    return x + norm1(attention(x)) + norm2(mlp(x))


@mistake("post_norm_block",
         says="The second residual is the block's input; it is the result of the first half that goes on: with "
              "a = x + norm1(attention(x)), a + norm2(mlp(a)).")
def old_residual(x, attention, mlp, norm1, norm2):
    return x + norm2(mlp(x + norm1(attention(x))))


@mistake("post_norm_block", says="The two norms are exchanged: norm1 is attention's.")
def norms_exchanged(x, attention, mlp, norm1, norm2):
    return right("post_norm_block", x=x, attention=attention, mlp=mlp, norm1=norm2, norm2=norm1)


@mistake("post_norm_block", says="The norms are missing.")
def norms_missing(x, attention, mlp, norm1, norm2):
    x = x + attention(x)
    return x + mlp(x)


# --------------------------------------------------------------------------------------------------------- the adapter

def steps(x, w_in, norm_weight, norm_bias, eps=1e-5, activation=contracts.ops.gelu):
    return activation(normalised(x @ w_in.T, eps) * norm_weight + norm_bias)


def gated(h, w_gate, w_up, w_down):
    return contracts.ops.swiglu(h @ w_gate.T, h @ w_up.T) @ w_down.T


@mistake("glu", says="gate and up are exchanged: silu belongs to the gate.")
def adapter_gate_and_up_exchanged(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    return gated(steps(x, w_in, norm_weight, norm_bias), w_up, w_gate, w_down)


@mistake("glu", says="GELU is missing between LayerNorm and the two ways.")
def adapter_without_gelu(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    return gated(steps(x, w_in, norm_weight, norm_bias, activation=lambda x: x), w_gate, w_up, w_down)


@mistake("glu", says="LayerNorm is missing.")
def adapter_without_norm(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    return gated(contracts.ops.gelu(x @ w_in.T), w_gate, w_up, w_down)


@mistake("glu", says="The LayerNorm epsilon is the vision tower's, 1e-6; the adapter's is 1e-5.")
def epsilon_of_the_tower(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    return gated(steps(x, w_in, norm_weight, norm_bias, 1e-6), w_gate, w_up, w_down)


@mistake("glu", says="There is SiLU where GELU belongs; silu is in the gate alone.")
def silu_twice(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    return gated(steps(x, w_in, norm_weight, norm_bias, activation=contracts.ops.silu), w_gate, w_up, w_down)


@mistake("with_ends", says="boi and eoi are exchanged: boi begins the image.")
def ends_exchanged(x, boi, eoi):
    return right("with_ends", x=x, boi=eoi, eoi=boi)


@mistake("with_ends", says="Both ends stand in front of the patches; eoi stands behind them.")
def both_in_front(x, boi, eoi):
    ends = np.broadcast_to(np.concatenate([boi, eoi]), (len(x), 2, x.shape[-1]))
    return np.concatenate([ends, x], 1)


@mistake("with_ends", says="eoi is missing: P + 2 rows, boi, the patches, eoi.")
def eoi_missing(x, boi, eoi):
    return with_cls(boi, x)
