"""09 The language model. Fill in the bodies, then: tinycogvlm learn check 09"""
import numpy as np


def rms_norm(x, weight, eps):
    """y = x / sqrt(mean(x^2) + eps) * weight       x (..., D), weight (D,) -> (..., D)

    The mean is over the last axis.
    """
    raise NotImplementedError


def rotary(x, cos, sin):
    """Turn each pair (x_i, x_{i + d/2}) by the angle of its position

    x (B, H, T, d), cos and sin (B, T, d/2) -> (B, H, T, d)
    first' = first cos - second sin, second' = second cos + first sin
    """
    raise NotImplementedError


def causal_attention(q, k, v):
    """y = softmax(q k^T / sqrt(d) + mask) v        q (B, H, T, d), k and v (B, H, S, d) -> (B, H, T, d)

    The queries are the last T of the S tokens: query t is token S - T + t, and sees no later one.
    """
    raise NotImplementedError


def swiglu(gate, up):
    """y = silu(gate) * up, silu(z) = z / (1 + exp(-z))         gate and up (..., F) -> (..., F)"""
    raise NotImplementedError
