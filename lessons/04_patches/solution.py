"""04 Patches: a solution"""
import math

import numpy as np


def patches(x, size):
    B, C, N, M = x.shape
    n, m = N // size, M // size
    squares = x[:, :, :n * size, :m * size].reshape(B, C, n, size, m, size)
    return squares.transpose(0, 2, 4, 1, 3, 5).reshape(B, n * m, C * size * size)


def patch_embedding(x, weight, bias, cls, table):
    y = patches(x, weight.shape[-1]) @ weight.reshape(len(weight), -1).T + bias
    return np.concatenate([np.broadcast_to(cls, (len(x), *cls.shape)), y], 1) + table


def interpolate_positions(table, grid):
    def cubic(x, a=-0.75):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1
        return a * (x ** 3 - 5 * x ** 2 + 8 * x - 4) if x < 2 else 0
    n, D = math.isqrt(len(table) - 1), table.shape[1]
    weights = np.zeros((grid, n), table.dtype)
    for i in range(grid):
        c = (i + 0.5) * n / grid - 0.5
        for j in range(math.floor(c) - 1, math.floor(c) + 3):
            weights[i, min(max(j, 0), n - 1)] += cubic(c - j)
    squares = np.einsum("im,jn,mnd->ijd", weights, weights, table[1:].reshape(n, n, D))
    return np.concatenate([table[:1], squares.reshape(grid * grid, D)])
