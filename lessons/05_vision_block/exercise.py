"""05 The block of the vision tower. Fill in the bodies, then: tinycogvlm learn check 05"""
import math

import numpy as np


def layer_norm(x, weight, bias, eps):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias        x (..., D), weight and bias (D,) -> (..., D)

    Mean and variance are over the last axis; the variance is the mean of the squares, divided by D.
    """
    raise NotImplementedError


def gelu(x):
    """y = x Phi(x), Phi(x) = (1 + erf(x / sqrt(2))) / 2        x (...) -> (...)

    The exact form. NumPy has no erf; tinycogvlm.nn.normal.normal_tail(a) gives 1 - Phi(a), for a >= 0, and the density.
    """
    raise NotImplementedError


def post_norm_block(x, attention, mlp, norm1, norm2):
    """EVA2-CLIP's block: what comes OUT of attention and MLP is normalised, before the residual is added

    x (B, T, D) -> (B, T, D)
    attention, mlp, norm1 and norm2 are functions of an array to one of the same shape; norm1 is attention's.
    """
    raise NotImplementedError
