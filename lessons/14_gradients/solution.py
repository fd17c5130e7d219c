"""14 The gradient of everything by hand: a solution"""
import math

import numpy as np


def swiglu_gradients(dy, gate, up):
    s = 1 / (1 + np.exp(-gate))
    return dy * up * s * (1 + gate * (1 - s)), dy * gate * s


def rms_norm_gradients(dy, x, weight, eps):
    scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    u = x * scale
    du = dy * weight
    dx = scale * (du - u * (du * u).mean(-1, keepdims=True))
    return dx, (dy * u).reshape(-1, x.shape[-1]).sum(0)


def cross_entropy_gradient(logits, labels):
    rows = labels != -100
    p = np.exp(logits[rows] - logits[rows].max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    p[np.arange(len(p)), labels[rows]] -= 1
    gradient = np.zeros_like(logits)
    gradient[rows] = p / len(p)
    return gradient


def softmax_gradient(dp, p):
    return p * (dp - (dp * p).sum(-1, keepdims=True))


def attention_gradients(dy, q, k, v, p):
    dp = dy @ v.swapaxes(2, 3)
    ds = softmax_gradient(dp, p) / math.sqrt(q.shape[-1])
    return ds @ k, ds.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ dy


def rotary_gradient(dy, cos, sin):
    first, second = np.split(dy, 2, -1)
    cos, sin = cos[:, None], sin[:, None]                   # the same for every head
    return np.concatenate([first * cos + second * sin, second * cos - first * sin], -1)
