"""41 Bridges: a solution"""
import numpy as np


def pixel_shuffle(x, factor):
    B, n, m, C = x.shape
    y = x.reshape(B, n // factor, factor, m // factor, factor, C).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(B, n // factor, m // factor, factor * factor * C)


def average_pool(x, size):
    B, n, m, C = x.shape
    y = np.empty((B, *size, C), x.dtype)
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * n // size[0], -(-(i + 1) * n // size[0]))
            columns = slice(j * m // size[1], -(-(j + 1) * m // size[1]))
            y[:, i, j] = x[:, rows, columns].mean((1, 2))
    return y


def peg(x, weight, bias):
    n, m = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = x + bias
    for di in range(3):
        for dj in range(3):
            y = y + padded[:, di:di + n, dj:dj + m] * weight[:, 0, di, dj]
    return y
