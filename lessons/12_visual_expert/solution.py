"""12 The visual expert: a solution"""
import numpy as np


def vision_expert_mask(types):
    mask = np.zeros(types.shape, bool)
    mask[:, :-1] = (types[:, :-1] > 0) & (types[:, :-1] == types[:, 1:])
    return mask


def routed_dense(x, types, vision_weight, language_weight, vision_bias=None):
    mask = vision_expert_mask(types)
    y = np.empty((*types.shape, len(vision_weight)), x.dtype)
    y[mask] = x[mask] @ vision_weight.T
    y[~mask] = x[~mask] @ language_weight.T
    if vision_bias is not None:
        y[mask] += vision_bias
    return y


def split_heads(qkv, H, G):
    B, T, _ = qkv.shape
    heads = qkv.reshape(B, T, H + 2 * G, -1).swapaxes(1, 2)
    return heads[:, :H], heads[:, H:H + G], heads[:, H + G:]
