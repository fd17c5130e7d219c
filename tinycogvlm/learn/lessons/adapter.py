"""Lesson 07: the adapter's gated unit, and what stands before and after an image's patches."""
import numpy as np

from ...contracts import CONTRACTS, Contract, random
from ...contracts import ops as specifications
from ...contracts.contract import EXACT, TOLERANCE
from ...model import adapter
from ...nn.tree import Params
from ..exercise import Exercise
from .vision_block import normalised

# ----------------------------------------------------------------------------------------------------------------- glu


def glu(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    """h = gelu(LN(x W_in));  y = (silu(h W_gate) * h W_up) W_down"""
    linear, layer_norm, gelu, swiglu = (CONTRACTS[op].spec for op in ("linear", "layer_norm", "gelu", "swiglu"))
    h = gelu(layer_norm(linear(x, w_in), norm_weight, norm_bias, adapter.NORM_EPS))
    return linear(swiglu(linear(h, w_gate), linear(h, w_up)), w_down)


def glu_cases():
    for label, B, P, scale in (("two pictures", 2, 3, 1), ("one patch", 1, 1, 1), ("eps matters", 1, 2, 1e-3)):
        yield label, dict(x=random(B, P, 5, scale=scale), w_in=random(4, 5), norm_weight=random(4, mean=1, scale=.3),
                          norm_bias=random(4, seed=1), w_gate=random(6, 4), w_up=random(6, 4, seed=1),
                          w_down=random(4, 6))


def package_glu(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    p = Params({"linear_proj.weight": w_in, "norm1.weight": norm_weight, "norm1.bias": norm_bias,
                "gate_proj.weight": w_gate, "dense_h_to_4h.weight": w_up, "dense_4h_to_h.weight": w_down})
    return adapter.glu.own(x, p)[0]


def fit_glu(mine, otherwise):
    return lambda x, p: (mine(x, p.linear_proj.weight, p.norm1.weight, p.norm1.bias, p.gate_proj.weight,
                              p.dense_h_to_4h.weight, p.dense_4h_to_h.weight), None)


GLU = Exercise(Contract("glu", glu, glu_cases, TOLERANCE), package_glu, (adapter.glu,),
               part="glu", place=adapter.glu, fit=fit_glu, toy=dict(
                   x=np.array([[[5.0, 3]]]), w_in=np.eye(2), norm_weight=np.ones(2), norm_bias=np.zeros(2),
                   w_gate=10 * np.eye(2), w_up=np.array([[1.0, 0], [1, 0]]), w_down=np.eye(2)))


def hidden(x, w_in, norm_weight, norm_bias, eps=1e-5, activation=specifications.gelu):
    return activation(normalised(x @ w_in.T, eps) * norm_weight + norm_bias)


def gated(h, w_gate, w_up, w_down):
    return specifications.swiglu(h @ w_gate.T, h @ w_up.T) @ w_down.T


@GLU.mistake("gate and up are exchanged: silu is applied to the gate.")
def adapter_gate_and_up_exchanged(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    return gated(hidden(x, w_in, norm_weight, norm_bias), w_up, w_gate, w_down)


@GLU.mistake("GELU is missing between LayerNorm and the gated unit.")
def adapter_without_gelu(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    return gated(hidden(x, w_in, norm_weight, norm_bias, activation=lambda x: x), w_gate, w_up, w_down)


@GLU.mistake("LayerNorm is missing.")
def adapter_without_norm(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    return gated(specifications.gelu(x @ w_in.T), w_gate, w_up, w_down)


@GLU.mistake("GELU comes before LayerNorm here; it comes after.")
def gelu_before_the_norm(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    h = normalised(specifications.gelu(x @ w_in.T), 1e-5) * norm_weight + norm_bias
    return gated(h, w_gate, w_up, w_down)


@GLU.mistake("The LayerNorm epsilon is the vision tower's, 1e-6; the adapter's is 1e-5.")
def epsilon_of_the_tower(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    return gated(hidden(x, w_in, norm_weight, norm_bias, 1e-6), w_gate, w_up, w_down)


@GLU.mistake("silu is missing: it is applied to the gate before the two are multiplied.")
def adapter_without_silu(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    h = hidden(x, w_in, norm_weight, norm_bias)
    return (h @ w_gate.T) * (h @ w_up.T) @ w_down.T


@GLU.mistake("SiLU stands where GELU should; silu is in the gate alone.")
def silu_twice(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    return gated(hidden(x, w_in, norm_weight, norm_bias, activation=specifications.silu), w_gate, w_up, w_down)


# ----------------------------------------------------------------------------------------------------------- with_ends

def with_ends(x, boi, eoi):
    """boi, then the patches, then eoi"""
    B, P, D = x.shape
    y = np.zeros((B, P + 2, D), x.dtype)
    y[:, 0], y[:, 1:-1], y[:, -1] = boi[0], x, eoi[0]
    return y


def with_ends_cases():
    for label, B, P in (("two pictures of three patches", 2, 3), ("one picture of one patch", 1, 1)):
        boi, eoi = random(1, 4, seed=1), random(1, 4, seed=2)
        yield label, dict(x=random(B, P, 4), boi=boi, eoi=eoi)


def fit_with_ends(mine, otherwise):
    return lambda x, p: (mine(x, p.boi[0], p.eoi[0]), None)


WITH_ENDS = Exercise(Contract("with_ends", with_ends, with_ends_cases, EXACT), with_ends, (adapter.between_ends,), toy=dict(
    x=np.array([[[1.0, 1], [2, 2], [3, 3]]]), boi=np.array([[7.0, 7]]), eoi=np.array([[9.0, 9]])),
    part="with_ends", place=adapter.between_ends, fit=fit_with_ends)


@WITH_ENDS.mistake("boi and eoi are exchanged: boi begins the image.")
def ends_exchanged(x, boi, eoi):
    return with_ends(x, eoi, boi)


@WITH_ENDS.mistake("Both stand before the patches; eoi comes after them.")
def both_in_front(x, boi, eoi):
    ends = np.broadcast_to(np.concatenate([boi, eoi]), (len(x), 2, x.shape[-1]))
    return np.concatenate([ends, x], 1)


@WITH_ENDS.mistake("eoi is missing: P + 2 rows, boi, the patches, eoi.")
def eoi_missing(x, boi, eoi):
    return with_ends(x, boi, eoi)[:, :-1]


@WITH_ENDS.mistake("boi and eoi take the places of the first and the last patch; they are two rows more.")
def ends_replace_patches(x, boi, eoi):
    return np.concatenate([with_ends(x, boi, eoi)[:, :1], x[:, 1:-1], with_ends(x, boi, eoi)[:, -1:]], 1)
