"""Attention three times: plain, to be read; over any pairs of query and key; and fast, a chunk of queries at a time."""
import math

import numpy as np

from .arrays import namespace, wide
from .swap import op

SCORES = 1 << 17                                            # that are computed at a time on the CPU, in the cache


def attention_plain(q, k, v, mask=None, causal=True):
    """`attention` with all scores at once, to be read first: the same arguments, the same result and pullback."""
    xp, T, S = namespace(q), q.shape[2], k.shape[2]
    visible = xp.tri(T, S, S - T, dtype=bool) if causal else xp.ones((T, S), bool)
    if mask is not None:
        visible = visible & mask[:, None, None]             # (B, 1, T, S)
    return attend(q, k, v, visible)


def attend(q, k, v, visible):
    """y = softmax(q k^T / sqrt(d)) v over the keys that a query may see; of one that sees none, the mean of all v

    q (B, H, T, d), k and v (B, G, S, d) -> (B, H, T, d). visible: bool, (B, 1, T, S) or what broadcasts to that.
    Head h reads key-value head h // (H / G) (grouped-query attention, Ainslie et al. 2023, arXiv 2305.13245).
    """
    xp, (B, H, _, d), (G, S) = namespace(q), q.shape, k.shape[1:3]
    k, v = k.repeat(H // G, 1), v.repeat(H // G, 1)         # (B, H, S, d)
    scores = wide(q @ k.swapaxes(2, 3)) / math.sqrt(d)      # (B, H, T, S)
    scores = xp.where(visible, scores, xp.finfo(scores.dtype).min)
    p = xp.exp(scores - scores.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True)).astype(q.dtype, copy=False)

    def pull(dy):                                           # (B, H, T, d) -> dq, dk, dv
        dp = dy @ v.swapaxes(2, 3)
        dscores = xp.where(visible, p * (dp - (dp * p).sum(-1, keepdims=True)), 0) / math.sqrt(d)
        dk, dv = dscores.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ dy
        return dscores @ k, *(a.reshape(B, G, H // G, S, d).sum(2) for a in (dk, dv))
    return p @ v, pull


@op
def attention(q, k, v, mask=None, causal=True, chunk=128):
    """y = softmax(q k^T / sqrt(d)) v                       q (B, H, T, d), k and v (B, G, S, d) -> (B, H, T, d)

    Vaswani et al. 2017 (arXiv 1706.03762). Head h reads key-value head h // (H / G).

    mask (B, S): bool, False hides a padding key. causal: query t is key S - T + t (earlier keys are the cache's) and
    sees no later one. A query that sees no key gets finite numbers of no meaning.

    Works through `chunk` queries of as many rows of the batch as leaves the scores in the cache, so that no (T, S)
    matrix is ever whole, and the pullback computes each chunk's probabilities again, as FlashAttention does (Dao et al.
    2022, arXiv 2205.14135). attention_plain is the same in a few lines.
    """
    xp = namespace(q)
    (B, H, T, d), (G, S) = q.shape, k.shape[1:3]

    def grouped(a):                                         # (B, H, ...) -> (B, G, H/G, ...): share a key-value head
        return a.reshape(B, G, H // G, *a.shape[2:])
    kT, vT, k, v = (a[:, :, None] for a in (k.swapaxes(2, 3), v.swapaxes(2, 3), k, v))
    scale = 1 / math.sqrt(d)
    q = grouped(q * scale)

    def chunks():
        many = max(1, SCORES // (H * min(T, chunk) * S)) if xp is np else B
        for first in range(0, B, many):
            for start in range(0, T, chunk):
                stop = min(start + chunk, T)
                yield slice(first, first + many), slice(start, stop), slice(0, S - T + stop if causal else S)

    def scores(batch, rows, keys):                          # (batch, G, H/G, rows, keys)
        s = wide(q[batch, ..., rows, :] @ kT[batch, ..., keys])
        lowest = xp.finfo(s.dtype).min                      # finite: a row without any key stays finite
        if mask is not None:
            xp.copyto(s, lowest, where=~mask[batch, None, None, None, keys])
        n = s.shape[-2]
        if causal and n > 1:                                # only the last n keys can lie in a query's future
            xp.copyto(s[..., -n:], lowest, where=xp.arange(n)[:, None] < xp.arange(n))
        return s

    y, done = xp.empty_like(q), []
    for batch, rows, keys in chunks():
        p = scores(batch, rows, keys)
        top = p.max(-1, keepdims=True)
        p -= top
        xp.exp(p, out=p)
        total = p.sum(-1, keepdims=True)
        part = y[batch, ..., rows, :]
        xp.divide(p.astype(q.dtype, copy=False) @ v[batch, ..., keys, :], total, out=part, casting="same_kind")
        done.append((batch, rows, keys, top + xp.log(total)))

    def pull(dy):                                           # (B, H, T, d) -> dq, dk, dv
        dy, dq = grouped(dy), xp.empty_like(q)
        dk, dv = xp.zeros_like(k[:, :, 0]), xp.zeros_like(v[:, :, 0])
        for batch, rows, keys, log_total in done:
            p = scores(batch, rows, keys)
            p -= log_total                                  # log(sum(exp(scores)))
            xp.exp(p, out=p)
            p, dy_rows = p.astype(q.dtype, copy=False), dy[batch, ..., rows, :]
            dv[batch, :, keys] += (p.swapaxes(-1, -2) @ dy_rows).sum(2)
            dscores = dy_rows @ vT[batch, ..., keys]
            dscores -= (dy_rows * y[batch, ..., rows, :]).sum(-1, keepdims=True)        # = (dp * p).sum(-1)
            dscores *= p
            dq[batch, ..., rows, :] = dscores @ k[batch, ..., keys, :]
            dk[batch, :, keys] += (dscores.swapaxes(-1, -2) @ q[batch, ..., rows, :]).sum(2)
        dq *= scale
        return dq.reshape(B, H, T, d), dk, dv
    return y.reshape(B, H, T, d), pull
