"""14 The gradient of everything by hand. Fill in the bodies, then: tinycogvlm learn check 14"""
import numpy as np


def swiglu_gradients(dy, gate, up):
    """The gradients of sum(dy * silu(gate) * up)

    dy, gate and up (..., F) -> dgate (..., F), dup (..., F)
    """
    raise NotImplementedError


def rms_norm_gradients(dy, x, weight, eps):
    """The gradients of sum(dy * rms_norm(x, weight, eps))

    dy and x (..., D), weight (D,) -> dx (..., D), dweight (D,)
    """
    raise NotImplementedError


def cross_entropy_gradient(logits, labels):
    """The gradient of the mean of -log softmax(logits)[label] over the rows whose label is not -100

    logits (N, V), labels (N,) -> (N, V)
    """
    raise NotImplementedError


def softmax_gradient(dp, p):
    """The gradient of sum(dp * softmax(s)) with respect to s, where p = softmax(s), over the last axis

    dp and p (..., S) -> (..., S)
    """
    raise NotImplementedError


def attention_gradients(dy, q, k, v, p):
    """The gradients of sum(dy * (p @ v)), where p = softmax(q k^T / sqrt(d))

    dy and q (B, H, T, d), k and v (B, H, S, d), p (B, H, T, S) -> dq (B, H, T, d), dk (B, H, S, d), dv (B, H, S, d)
    The probabilities p are given; those of keys that a mask hides are 0.
    """
    raise NotImplementedError


def rotary_gradient(dy, cos, sin):
    """The gradient of sum(dy * rotary(x, cos, sin)) with respect to x

    dy (B, H, T, d), cos and sin (B, T, d/2) -> (B, H, T, d)
    rotary: first' = first cos - second sin, second' = second cos + first sin
    """
    raise NotImplementedError
