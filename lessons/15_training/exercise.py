"""15 Training. Fill in the bodies, then: tinycogvlm learn check 15"""
import numpy as np


def next_token_loss(logits, ids, types):
    """The mean of -log softmax(logits)[next id] over all text tokens that have a token before them

    logits (B, T, V), ids (B, T), types (B, T) -> scalar
    The logits at t predict the token at t + 1. Tokens of an image (types above 0) are not predicted.
    """
    raise NotImplementedError


def adamw(w, g, m, v, step, rate, betas, eps, decay):
    """One step of AdamW

    w, g, m and v (...) -> w (...), m (...), v (...)
    m' = b1 m + (1 - b1) g, v' = b2 v + (1 - b2) g^2, betas = (b1, b2); step counts from 1
    w' = w (1 - rate decay) - rate (m' / (1 - b1^step)) / (sqrt(v' / (1 - b2^step)) + eps)
    """
    raise NotImplementedError


def orthogonalised(g):
    """What Muon makes of a gradient: near U V^T, where g = U S V^T is its singular value decomposition

    g (O, I) -> (O, I)
    x is g, divided by its length (the root of the sum of all squares) + 1e-7. Then, five times over,
    x' = a x + b (x x^T) x + c (x x^T)^2 x, with a = 3.4445, b = -4.775, c = 2.0315
    """
    raise NotImplementedError
