"""60 Looking inside: a solution"""
import math

import numpy as np


def patch_heat(attention, types, picture):
    patches = np.flatnonzero(types == picture)[1:-1]        # boi and eoi are no patches
    side = math.isqrt(len(patches))
    return attention[:, :, patches].mean((0, 1)).reshape(side, side)


def logit_lens(states, norm_weight, head_weight, eps):
    normed = states / np.sqrt((states ** 2).mean(-1, keepdims=True) + eps) * norm_weight
    logits = normed @ head_weight.T
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def without_head(context, weight, head, heads, first, last):
    d = context.shape[-1] // heads
    context = context.copy()                                # the caller's stays as it is
    context[:, first:last + 1, head * d:(head + 1) * d] = 0
    return context @ weight.T
