"""60 Looking inside. Fill in the bodies, then: tinycogvlm learn check 60"""
import numpy as np


def patch_heat(attention, types, picture):
    """How much attention each patch of a picture got, the mean of all layers and heads

    attention (L, H, S), types (S,) -> (g, g)
    attention: how much each head of each layer took from each of S tokens. types: 0 text, k > 0 the k-th picture, whose
    tokens are boi, g x g patches row by row, and eoi. picture: which one, from 1.
    """
    raise NotImplementedError


def logit_lens(states, norm_weight, head_weight, eps):
    """What each layer would have said: the probabilities of the next token, were it the last layer

    states (L, D), norm_weight (D,), head_weight (V, D) -> (L, V)
    states: each layer's output at one token. norm_weight, eps: of the final RMSNorm. head_weight: of the output head.
    """
    raise NotImplementedError


def without_head(context, weight, head, heads, first, last):
    """The output of attention with one head switched off at the tokens first, ..., last

    context (B, T, D), weight (O, D) -> (B, T, O)
    context: the results of the heads side by side, D / heads numbers each. weight mixes them: y = context W^T. At the
    tokens from `first` to `last`, both included, head number `head` (from 0) adds nothing.
    """
    raise NotImplementedError
