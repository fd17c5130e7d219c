"""04 Patches. Fill in the bodies, then: tinycogvlm learn check 04"""
import numpy as np


def patches(x, size):
    """Cut pictures into squares of size x size pixels, row by row

    x (B, C, N, M) -> (B, P, K)
    P = (N // size) (M // size) patches; the K = C size size numbers of a patch: first all rows of its first colour,
    then those of the second and the third. Pixels beyond a whole square are dropped.
    """
    raise NotImplementedError


def patch_embedding(x, weight, bias, cls, table):
    """[CLS; W patch + b] + position

    x (B, C, N, N), weight (D, C, size, size), bias (D,), cls (1, D), table (T, D) -> (B, T, D)
    The row of CLS comes before those of the patches, so T = 1 + P; each of the T rows gets its position from the table.
    """
    raise NotImplementedError


def interpolate_positions(table, grid):
    """A position table of n x n patches for grid x grid patches; the row of CLS stays

    table (T, D) -> (R, D)
    T = 1 + n n and R = 1 + grid grid. Along both axes output i lies at c = (i + 1/2) n/grid - 1/2. It is the sum of the
    four points j from floor(c) - 1 to floor(c) + 2, each times the cubic kernel (a = -3/4) of c - j; for a point
    outside the table the nearest one inside counts.
    """
    raise NotImplementedError
