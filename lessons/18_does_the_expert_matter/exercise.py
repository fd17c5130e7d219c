"""18 Does the expert matter? Fill in the bodies, then: tinycogvlm learn check 18"""
import numpy as np


def multiplications(types, D, F, H, G):
    """How many multiplications the matrix products of one decoder block take          types (B, T) -> scalar

    types: 0 text, k > 0 the k-th image of its row; B rows of T tokens, no padding. D hidden size, F the MLP's inner
    size, H query heads and G key-value heads of D / H numbers each. With the matrices: queries, keys, values, output,
    gate, up, down. In attention: each query with the keys at its own place and before, and the same with the values.
    A whole number. Norms, rotary and softmax are no matrix products.
    """
    raise NotImplementedError


def image_attention(q, k, v, images):
    """softmax(q k^T / sqrt(d)) v, where the tokens of one image see each other whatever their order

    q, k and v (B, H, T, d), images (B, T) -> (B, H, T, d)
    images: 0 text, k > 0 the k-th image. Every token sees the tokens up to its own place, as always. A token of an
    image sees the later tokens of its own image, too.
    """
    raise NotImplementedError
