"""13 The real thing. Fill in the bodies, then: tinycogvlm learn check 13"""
import numpy as np


def grouped_attention(q, k, v):
    """Causal attention in which H query heads share G key-value heads, as in CogVLM2 (32 and 8)

    q (B, H, T, d), k and v (B, G, S, d) -> (B, H, T, d)
    Query head h reads key-value head h // (H / G). The queries are the last T of the S tokens.
    """
    raise NotImplementedError
