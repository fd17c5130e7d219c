"""51 Without an encoder: a solution"""
import numpy as np


def rows_with_split(x, cls, split):
    h, w, C = x.shape
    rows = np.concatenate([x, np.broadcast_to(split, (h, 1, C))], 1)
    return np.concatenate([cls[None], rows.reshape(-1, C)])


def look_under(q, k, v, heads):
    N, S, C = k.shape
    q, k, v = q.reshape(N, 1, heads, -1), k.reshape(N, S, heads, -1), v.reshape(N, S, heads, -1)
    scores = (q * k).sum(-1) / C ** 0.5                     # (N, S, heads)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights = weights / weights.sum(1, keepdims=True)
    return (weights[..., None] * v).sum(1).reshape(N, C)


def aligning_loss(student, teacher):
    lengths = np.sqrt((student ** 2).sum(-1) * (teacher ** 2).sum(-1))
    return 1 - ((student * teacher).sum(-1) / lengths).mean()
