"""Specifications and cases of the ops over pictures and sounds: convolution, pooling, norms of channels, bilinear
sampling.
"""
import math

import numpy as np

from .contract import over, random


def convolution(x, weight, bias=None, stride=1, padding=0, groups=1):
    """y[b, o, n, m] = bias[o] + sum_{c, i, j} weight[o, c, i, j] x[b, group's c, n down + i - top, m across + j - left]

    where x is 0 outside of the picture; group o // (O / groups) sees the channels from that number times C / groups on.
    """
    (B, _, N, M), (O, c, I, J) = x.shape, weight.shape
    down, across = stride if isinstance(stride, tuple) else (stride, stride)
    (top, bottom), (left, right) = padding if isinstance(padding, tuple) else ((padding, padding), (padding, padding))
    y = np.zeros((B, O, (N + top + bottom - I) // down + 1, (M + left + right - J) // across + 1))
    for b, o, n, m in over(*y.shape):
        first, total = o // (O // groups) * c, 0.0 if bias is None else float(bias[o])
        for ch, i, j in over(c, I, J):
            row, column = n * down + i - top, m * across + j - left
            if 0 <= row < N and 0 <= column < M:
                total += float(weight[o, ch, i, j]) * float(x[b, first + ch, row, column])
        y[b, o, n, m] = total
    return y


def convolution_cases():
    def case(x, weight, bias=True, **more):
        return dict(x=random(*x), weight=random(*weight), **({"bias": random(weight[0])} if bias else {}), **more)
    yield "3 x 3, padded", case((2, 3, 5, 4), (4, 3, 3, 3), padding=1)
    yield "no bias, no padding", case((1, 2, 4, 5), (3, 2, 2, 3), bias=False)
    yield "stride 2, even size", case((2, 2, 6, 6), (3, 2, 3, 3), stride=2, padding=1)
    yield "stride 2, odd size, padded below and to the right alone", case(
        (1, 2, 5, 7), (2, 2, 3, 3), stride=2, padding=((0, 1), (0, 1)))
    yield "stride 3 leaves pixels over", case((1, 1, 8, 9), (2, 1, 2, 2), stride=3)
    yield "1 x 1", case((2, 5, 3, 2), (4, 5, 1, 1))
    yield "1 x 1, stride 2", case((1, 3, 5, 4), (2, 3, 1, 1), stride=2)
    yield "2 groups", case((2, 4, 4, 3), (6, 2, 3, 3), padding=1, groups=2)
    yield "depthwise", case((2, 3, 4, 4), (3, 1, 3, 3), padding=1, groups=3)
    yield "depthwise, two outputs a channel", case((1, 2, 3, 4), (4, 1, 2, 2), groups=2)
    yield "the kernel is the picture", case((2, 2, 3, 4), (3, 2, 3, 4))
    yield "over time", case((2, 3, 1, 9), (2, 3, 1, 4), stride=(1, 2), padding=((0, 0), (2, 1)))
    yield "large magnitudes", dict(x=random(1, 2, 4, 4, scale=1e3), weight=random(2, 2, 3, 3, scale=1e2), padding=1)


def convolution1d(x, weight, bias=None, stride=1, padding=0, groups=1):
    """y[b, o, n] = bias[o] + sum_{c, j} weight[o, c, j] x[b, group's c, n stride + j - padding]"""
    return convolution(x[:, :, None], weight[:, :, None], bias, (1, stride), ((0, 0), (padding, padding)), groups)[:, :, 0]


def convolution1d_cases():
    def case(x, weight, **more):
        return dict(x=random(*x), weight=random(*weight), bias=random(weight[0]), **more)
    yield "3, padded", case((2, 3, 6), (4, 3, 3), padding=1)
    yield "stride 2, padded", case((1, 2, 7), (3, 2, 3), stride=2, padding=1)
    yield "stride 5 leaves samples over, one channel", case((2, 1, 23), (2, 1, 10), stride=5)
    yield "2 groups, even kernel", case((1, 4, 5), (6, 2, 4), padding=2, groups=2)
    yield "no bias", dict(x=random(1, 2, 5), weight=random(3, 2, 2))


def average_pool(x, size, ceil=False):
    """y[b, c, n, m] = the mean of x over rows n size to (n + 1) size - 1 and columns likewise, as far as they exist"""
    B, C, N, M = x.shape
    divided = (lambda a: -(-a // size)) if ceil else (lambda a: a // size)
    y = np.zeros((B, C, divided(N), divided(M)))
    for b, c, n, m in over(*y.shape):
        square = [float(x[b, c, i, j]) for i in range(n * size, min((n + 1) * size, N))
                  for j in range(m * size, min((m + 1) * size, M))]
        y[b, c, n, m] = math.fsum(square) / len(square)
    return y


def average_pool_cases():
    yield "2 x 2", dict(x=random(2, 3, 4, 6), size=2)
    yield "2 x 2, odd edges dropped", dict(x=random(1, 2, 5, 7), size=2)
    yield "2 x 2, odd edges kept", dict(x=random(1, 2, 5, 7), size=2, ceil=True)
    yield "3 x 3, one edge kept", dict(x=random(1, 2, 6, 4), size=3, ceil=True)
    yield "size 1", dict(x=random(1, 2, 3, 2), size=1)
    yield "all of it", dict(x=random(2, 2, 3, 3), size=3)
    yield "larger than the picture", dict(x=random(1, 2, 2, 3), size=4, ceil=True)


def max_pool(x, size):
    """y[b, c, n, m] = the largest of x over rows n size to (n + 1) size - 1 and columns likewise"""
    B, C, N, M = x.shape
    y = np.zeros((B, C, N // size, M // size))
    for b, c, n, m in over(*y.shape):
        y[b, c, n, m] = max(float(x[b, c, n * size + i, m * size + j]) for i in range(size) for j in range(size))
    return y


def max_pool_cases():
    yield "2 x 2", dict(x=random(2, 3, 4, 6), size=2)
    yield "2 x 2, odd edges dropped", dict(x=random(1, 2, 5, 7), size=2)
    yield "all below 0", dict(x=-1 - abs(random(1, 2, 4, 4)), size=2)
    yield "size 1", dict(x=random(1, 2, 3, 2), size=1)
    yield "all of it", dict(x=random(2, 2, 3, 3), size=3)


def batch_norm(x, weight, bias, mean, variance, eps):
    """y[b, c] = (x[b, c] - mean[c]) / sqrt(variance[c] + eps) * weight[c] + bias[c]"""
    y = np.zeros(x.shape)
    for b, c, n, m in over(*x.shape):
        y[b, c, n, m] = (x[b, c, n, m] - mean[c]) / math.sqrt(variance[c] + eps) * weight[c] + bias[c]
    return y


def batch_norm_cases():
    def case(*shape, eps=1e-5, scale=1.0):
        C = shape[1]
        return dict(x=random(*shape, scale=scale), weight=random(C, mean=1, scale=.3), bias=random(C, seed=1),
                    mean=random(C, seed=2), variance=np.abs(random(C, seed=3)) + .1, eps=eps)
    yield "batch", case(2, 3, 4, 5)
    yield "one channel, one pixel", case(1, 1, 1, 1)
    yield "eps matters", case(2, 3, 2, 2) | dict(variance=np.array([0.0, 1e-4, 1e-3]), eps=1e-3)
    yield "large magnitudes", case(1, 2, 3, 3, scale=1e4)


def channel_norm(x, weight, bias, eps):
    """y[b, c, t] = (x[b, c, t] - mean) / sqrt(variance + eps) * weight[c] + bias[c]

    Mean and variance are those of x[b, c]; the variance is the mean square deviation, with 1 / T.
    """
    (B, C, T), y = x.shape, np.zeros(x.shape)
    for b, c in over(B, C):
        mean = math.fsum(x[b, c]) / T
        variance = math.fsum((float(value) - mean) ** 2 for value in x[b, c]) / T
        for t in range(T):
            y[b, c, t] = (x[b, c, t] - mean) / math.sqrt(variance + eps) * weight[c] + bias[c]
    return y


def channel_norm_cases():
    def case(B, C, T, eps=1e-5, scale=1.0):
        return dict(x=random(B, C, T, scale=scale), weight=random(C, mean=1, scale=.3), bias=random(C, seed=1), eps=eps)
    yield "batch", case(2, 3, 7)
    yield "one channel", case(2, 1, 5)
    yield "one moment", case(2, 3, 1)
    yield "always the same", case(2, 3, 6, eps=1.0) | dict(x=np.full((2, 3, 6), 2.0))
    yield "eps matters", case(2, 3, 6, eps=1e-2, scale=0.1)
    yield "large magnitudes", case(1, 2, 9, scale=1e4)


def adaptive_average_pool(x, size):
    """y[b, c, i, j] = the mean of x over rows floor(i N / n) to ceil((i + 1) N / n) - 1, columns likewise"""
    B, C, N, M = x.shape
    n, m = size

    def window(i, whole, parts):
        return range(math.floor(i * whole / parts), math.ceil((i + 1) * whole / parts))
    y = np.zeros((B, C, n, m))
    for b, c, i, j in over(*y.shape):
        cells = [float(x[b, c, row, column]) for row in window(i, N, n) for column in window(j, M, m)]
        y[b, c, i, j] = math.fsum(cells) / len(cells)
    return y


def adaptive_average_pool_cases():
    yield "a divisor", dict(x=random(2, 3, 6, 4), size=(3, 2))
    yield "overlapping windows", dict(x=random(1, 2, 7, 5), size=(4, 3))
    yield "to one", dict(x=random(2, 2, 3, 4), size=(1, 1))
    yield "to itself", dict(x=random(1, 2, 3, 4), size=(3, 4))
    yield "to more", dict(x=random(1, 2, 2, 3), size=(5, 4))


def bilinear(x, points):
    """y[b, p, d] = sum over pixels of max(0, 1 - |row - v|) max(0, 1 - |column - u|) x[b, row, column, d]

    (u, v) = (points[b, p, 0] m - 1/2, points[b, p, 1] n - 1/2)
    """
    B, n, m, D = x.shape
    y = np.zeros((B, points.shape[1], D))
    for b, i, d in over(*y.shape):
        u, v = float(points[b, i, 0]) * m - 0.5, float(points[b, i, 1]) * n - 0.5
        y[b, i, d] = math.fsum(max(0.0, 1 - abs(row - v)) * max(0.0, 1 - abs(column - u)) * float(x[b, row, column, d])
                               for row, column in over(n, m))
    return y


def bilinear_cases():
    """Points stay clear of the lines between pixel centres, where the slope jumps, but for "large" cases"""
    def points(*places, n, m):
        return np.array([[[(u + 0.5) / m, (v + 0.5) / n] for u, v in row] for row in places])
    inside = points([(0.3, 1.6), (2.5, 0.2), (1.75, 2.4)], [(0.4, 0.4), (2.6, 2.7), (1.3, 1.8)], n=4, m=5)
    yield "inside", dict(x=random(2, 4, 5, 3), points=inside)
    yield "over the edges, and outside", dict(x=random(1, 3, 4, 2), points=points(
        [(-0.4, 1.3), (3.6, 2.4), (1.5, -0.7), (-0.3, -0.6), (-1.6, 1.4), (9.5, -7.5)], n=3, m=4))
    yield "one pixel", dict(x=random(1, 1, 1, 2), points=points([(0.25, -0.3), (-0.6, 0.4), (1.5, 0.3)], n=1, m=1))
    yield "the same pixel twice", dict(x=random(1, 2, 2, 1), points=points([(0.3, 0.6), (0.3, 0.6)], n=2, m=2))
    yield "large numbers, on the centres", dict(x=random(1, 4, 4, 2, scale=1e3), points=points(
        [(0, 0), (3, 3), (1, 2), (-1, 0), (4, 1)], n=4, m=4))
