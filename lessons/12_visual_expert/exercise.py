"""12 The visual expert. Fill in the bodies, then: tinycogvlm learn check 12"""
import numpy as np


def vision_expert_mask(types):
    """True where the vision expert computes the token          types (B, T) -> (B, T)

    types: 0 text, k > 0 the k-th image of its row, from boi to eoi. A token is the vision expert's if it AND the next
    one belong to the same image.
    """
    raise NotImplementedError


def routed_dense(x, types, vision_weight, language_weight, vision_bias=None):
    """y = W x, with the matrix of the token's expert, and the vision expert's bias if there is one

    x (B, T, I), types (B, T), vision_weight and language_weight (O, I), vision_bias (O,) -> (B, T, O)
    """
    raise NotImplementedError


def split_heads(qkv, H, G):
    """One projection of each token cut into queries, keys and values

    qkv (B, T, N) -> q (B, H, T, d), k (B, G, T, d), v (B, G, T, d)
    Its N = (H + 2G) d numbers are H queries, then G keys, then G values, of d numbers each.
    """
    raise NotImplementedError
