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
