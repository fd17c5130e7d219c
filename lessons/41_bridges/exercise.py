"""41 Bridges. Fill in the bodies, then: tinycogvlm learn check 41"""
import numpy as np


def pixel_shuffle(x, factor):
    """Put the channels of factor x factor tokens into one token, in the order dy, dx, c, c fastest

    x (B, n, m, C) -> (B, Y, X, K)
    Y = n / factor, X = m / factor, K = factor factor C. No number is lost.
    """
    raise NotImplementedError


def average_pool(x, size):
    """The mean of each window of the grid; size = (Y, X) windows         x (B, n, m, C) -> (B, Y, X, C)

    Window i of Y has the rows from floor(i n / Y) to ceil((i + 1) n / Y) - 1; columns likewise.
    """
    raise NotImplementedError


def peg(x, weight, bias):
    """x + a 3 x 3 convolution of each channel by itself, with zeros beyond the edges of the grid

    x (B, n, m, C), weight (C, 1, 3, 3), bias (C,) -> (B, n, m, C)
    weight[c, 0, 1, 1] multiplies the token itself, weight[c, 0, 0, 1] the one above it.
    """
    raise NotImplementedError
