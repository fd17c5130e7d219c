"""40 Other eyes. Fill in the bodies, then: tinycogvlm learn check 40"""
import numpy as np


def sigmoid_loss(image, text, logit_scale, logit_bias):
    """The sum over i and j of -log sigmoid(m_ij logit_ij), divided by B: m is 1 where i = j, else -1

    image (B, E), text (B, E) -> scalar
    logit_ij = exp(logit_scale) times the cosine of picture i and text j, plus logit_bias; both are plain numbers.
    """
    raise NotImplementedError


def rotary_2d(x, grid, reference):
    """Turn neighbours, 2i and 2i + 1, by an angle: the first half of the pairs by the row, the second by the column

    x (B, H, P, d) -> (B, H, P, d)
    grid = (rows, columns), P = rows columns, patches row by row. The pairs 0 ... d/4 - 1 of each half turn by
    t / 10000^(4 i / d), where t is the row (or column) divided by grid and multiplied by reference. (a, b) turned by an
    angle is (a cos - b sin, b cos + a sin).
    """
    raise NotImplementedError


def standardised(weight, gain, eps):
    """(w - mean) gain / sqrt(fan-in (variance + eps)), mean and variance of each output channel by itself

    weight (O, I, n, m), gain (O, 1, 1, 1) -> (O, I, n, m)
    The fan-in is I n m, the numbers that make one output.
    """
    raise NotImplementedError


def clip_units(weight, gradient, share):
    """Each row g of the gradient times min(1, share max(|w|, 0.001) / max(|g|, 0.000001)), w its row of the weights

    weight (O, I), gradient (O, I) -> (O, I)
    """
    raise NotImplementedError
