"""Lesson 05: LayerNorm, GELU and EVA2-CLIP's post-norm block."""
import math

import numpy as np

from ...contracts import CONTRACTS, Contract, random
from ...contracts import ops as specifications
from ...contracts.contract import TOLERANCE
from ...model import vit
from ...nn import ops
from ...nn.normal import normal_tail
from ..exercise import Exercise, of_op

# ---------------------------------------------------------------------------------------------------------- layer_norm

LAYER_NORM = of_op(CONTRACTS["layer_norm"], ops.layer_norm, toy=dict(
    x=np.array([[1.0, 3], [10, 30]]), weight=np.array([2.0, 1]), bias=np.array([0.0, 5]), eps=1e-6))


def centred(x):
    return x - x.mean(-1, keepdims=True)


def normalised(x, eps):
    return centred(x) / np.sqrt(x.var(-1, keepdims=True) + eps)


@LAYER_NORM.mistake("The mean stays in: this is RMSNorm with a bias.")
def mean_left_in(x, weight, bias, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight + bias


@LAYER_NORM.mistake("The variance is divided by D - 1; LayerNorm divides by D.")
def unbiased_variance(x, weight, bias, eps):
    if x.shape[-1] == 1:
        raise ValueError("a row of one number")
    return centred(x) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + eps) * weight + bias


@LAYER_NORM.mistake(
    "The LayerNorm epsilon is missing: a row of small numbers is blown up, and a constant row is 0 / 0.")
def layer_norm_eps_missing(x, weight, bias, eps):
    with np.errstate(all="ignore"):
        return normalised(x, 0) * weight + bias


@LAYER_NORM.mistake("The LayerNorm epsilon is added to the standard deviation; it belongs under the root.")
def layer_norm_eps_outside(x, weight, bias, eps):
    return centred(x) / (x.std(-1, keepdims=True) + eps) * weight + bias


@LAYER_NORM.mistake("The root is missing: this divides by the variance.")
def layer_norm_root_missing(x, weight, bias, eps):
    return centred(x) / (x.var(-1, keepdims=True) + eps) * weight + bias


@LAYER_NORM.mistake("Weight and bias are missing: the last step scales and shifts each entry.")
def weight_and_bias_missing(x, weight, bias, eps):
    return normalised(x, eps)


@LAYER_NORM.mistake("The bias is missing.")
def layer_norm_bias_missing(x, weight, bias, eps):
    return normalised(x, eps) * weight


@LAYER_NORM.mistake("This multiplies by weight + bias; it should multiply by weight, and then add bias.")
def weight_and_bias_added_first(x, weight, bias, eps):
    return normalised(x, eps) * (weight + bias)


@LAYER_NORM.mistake("Mean and variance are those of the whole array; each token (the last axis) has its own.")
def layer_norm_of_everything(x, weight, bias, eps):
    return (x - x.mean()) / np.sqrt(x.var() + eps) * weight + bias


# ---------------------------------------------------------------------------------------------------------------- gelu

GELU = of_op(CONTRACTS["gelu"], ops.gelu, toy=dict(x=np.array([-3.0, -1, 0, 1, 3])))


@GELU.mistake("This is the tanh form, which is off by up to 0.0005; EVA2-CLIP has the exact one.")
def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


@GELU.mistake("This is x sigmoid(1.702 x), OpenAI CLIP's approximation; EVA2-CLIP has the exact form.")
def quick_gelu(x):
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-1.702 * x))


@GELU.mistake("This is SiLU, x sigmoid(x).")
def silu_for_gelu(x):
    return specifications.silu(x)


@GELU.mistake("This is ReLU, max(x, 0); GELU also lets a little through below 0.")
def relu_for_gelu(x):
    return np.maximum(x, 0)


@GELU.mistake("This is Phi(x) without the factor x.")
def phi_alone(x):
    return specifications.each(specifications.phi)(x)


@GELU.mistake("The argument of erf is x here; it should be x / sqrt(2).")
def erf_of_x(x):
    return specifications.each(lambda x: x * specifications.phi(math.sqrt(2) * x))(x)


@GELU.mistake("Phi(x) is 1 - Q(|x|) only for x >= 0; below 0 it is Q(|x|) itself.")
def tail_on_one_side(x):
    return x * specifications.each(specifications.phi)(np.abs(x))


@GELU.mistake("normal_tail(a) is the tail for a >= 0 only; x has negative numbers, too: give it np.abs(x).")
def tail_of_a_negative(x):
    with np.errstate(all="ignore"):
        return x * (1 - normal_tail(x)[0])


# ----------------------------------------------------------------------------------------------------- post_norm_block

def post_norm_block(x, attention, mlp, norm1, norm2):
    """x + norm1(attention(x)), then x + norm2(mlp(x))"""
    x = x + norm1(attention(x))
    return x + norm2(mlp(x))


def post_norm_block_cases():
    def norm(seed):
        weight, bias = random(4, mean=1, scale=.3, seed=seed), random(4, seed=seed + 1)
        return lambda x: ops.layer_norm(x, weight.astype(x.dtype), bias.astype(x.dtype), 1e-6)[0]

    def mixing(seed):
        tokens, width = random(3, 3, seed=seed), random(4, 4, seed=seed)
        return lambda x: np.tanh(tokens.astype(x.dtype) @ x @ width.astype(x.dtype))
    for label, B in (("one picture", 1), ("two pictures", 2)):
        yield label, dict(x=random(B, 3, 4), attention=mixing(1), mlp=mixing(2), norm1=norm(3), norm2=norm(5))


def fit_post_norm_block(mine, otherwise):
    def block(x, p, config):
        def norm(p):
            return lambda x: ops.layer_norm(x, p.weight, p.bias, config.layer_norm_eps)[0]
        return mine(x, lambda x: vit.attention(x, p.attention, config.num_heads)[0], lambda x: vit.mlp(x, p.mlp)[0],
                    norm(p.input_layernorm), norm(p.post_attention_layernorm)), None
    return block


def whatever(x):
    return np.array([[[1, 3]]], x.dtype)


def hundredfold(x):
    return 100 * x


def unit_norm(x):
    return ops.layer_norm(x, *np.array([[1, 1], [0, 0]], x.dtype), 1e-6)[0]


POST_NORM_BLOCK = Exercise(
    Contract("post_norm_block", post_norm_block, post_norm_block_cases, TOLERANCE), post_norm_block, (vit.block,),
    part="post_norm_block", place=vit.block, fit=fit_post_norm_block, toy=dict(
        x=np.array([[[10.0, 20]]]), attention=whatever, mlp=hundredfold, norm1=unit_norm, norm2=unit_norm))


@POST_NORM_BLOCK.mistake("Your block is pre-norm, as OpenAI's CLIP; EVA's is post-norm: x + norm(attention(x)).")
def pre_norm(x, attention, mlp, norm1, norm2):
    x = x + attention(norm1(x))
    return x + mlp(norm2(x))


@POST_NORM_BLOCK.mistake(
    "The sum is normalised, as in the first Transformer; EVA normalises before the residual is added.")
def sum_normalised(x, attention, mlp, norm1, norm2):
    x = norm1(x + attention(x))
    return norm2(x + mlp(x))


@POST_NORM_BLOCK.mistake("Both residuals are missing: each sublayer's result is added to what went into it.")
def residuals_missing(x, attention, mlp, norm1, norm2):
    return norm2(mlp(norm1(attention(x))))


@POST_NORM_BLOCK.mistake("The residual of the first sublayer is missing: x + norm1(attention(x)).")
def first_residual_missing(x, attention, mlp, norm1, norm2):
    x = norm1(attention(x))
    return x + norm2(mlp(x))


@POST_NORM_BLOCK.mistake("The residual of the second sublayer is missing.")
def second_residual_missing(x, attention, mlp, norm1, norm2):
    return norm2(mlp(x + norm1(attention(x))))


@POST_NORM_BLOCK.mistake("The MLP gets the block's input; it should get the result of the attention sublayer.")
def sublayers_side_by_side(x, attention, mlp, norm1, norm2):
    return x + norm1(attention(x)) + norm2(mlp(x))


@POST_NORM_BLOCK.mistake(
    "The second residual is the block's input; it should be the result of the first sublayer: with a = x + "
    "norm1(attention(x)), a + norm2(mlp(a)).")
def old_residual(x, attention, mlp, norm1, norm2):
    return x + norm2(mlp(x + norm1(attention(x))))


@POST_NORM_BLOCK.mistake("Attention and MLP are exchanged: attention comes first.")
def sublayers_exchanged(x, attention, mlp, norm1, norm2):
    return post_norm_block(x, mlp, attention, norm1, norm2)


@POST_NORM_BLOCK.mistake("The two norms are exchanged: norm1 is attention's.")
def norms_exchanged(x, attention, mlp, norm1, norm2):
    return post_norm_block(x, attention, mlp, norm2, norm1)


@POST_NORM_BLOCK.mistake("norm1 is used twice; norm2 is the MLP's.")
def first_norm_twice(x, attention, mlp, norm1, norm2):
    return post_norm_block(x, attention, mlp, norm1, norm1)


@POST_NORM_BLOCK.mistake("The norms are missing.")
def norms_missing(x, attention, mlp, norm1, norm2):
    x = x + attention(x)
    return x + mlp(x)
