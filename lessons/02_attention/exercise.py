"""02 Attention. Fill in the bodies, then: tinycogvlm learn check 02"""
import numpy as np


def softmax(x):
    """y = exp(x - max) / sum(exp(x - max)), over the last axis         x (..., N) -> (..., N)"""
    raise NotImplementedError


def attention(q, k, v):
    """y = softmax(q k^T / sqrt(d)) v       q (B, H, T, d), k and v (B, H, S, d) -> (B, H, T, d)

    Every query sees every key, as the patches of a picture do.
    """
    raise NotImplementedError
