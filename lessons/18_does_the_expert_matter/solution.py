"""18 Does the expert matter?: a solution"""
import math

import numpy as np


def multiplications(types, D, F, H, G):
    B, T = types.shape
    d = D // H
    per_token = 2 * D * D + 2 * D * G * d + 3 * D * F
    return B * (T * per_token + T * (T + 1) * D)            # T (T + 1) / 2 pairs, twice


def image_attention(q, k, v, images):
    same = (images[:, :, None] == images[:, None]) & (images[:, :, None] > 0)
    seen = np.tri(q.shape[2], dtype=bool) | same            # (B, T, T)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    scores = np.where(seen[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v
