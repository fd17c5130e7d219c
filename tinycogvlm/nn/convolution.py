"""Convolution, pooling and batch norm over pictures: what ResNets are made of. Axes: (B, C, N, M).

And convolution and channel norm over sounds, whose axes are (B, C, N).
"""
from functools import lru_cache

import numpy as np

from .arrays import namespace, wide
from .swap import op


@op
def convolution(x, weight, bias=None, stride=1, padding=0, groups=1):
    """y[b, o, n, m] = sum_{c, i, j} weight[o, c, i, j] x[b, c, n stride + i, m stride + j] + bias[o]

    x (B, C, N, M), weight (O, C / groups, I, J), bias (O,) -> (B, O, N', M'). LeCun et al. 1989.

    stride:  a number, or (down, across).
    padding: rows and columns of zeros around x: a number, or ((top, bottom), (left, right)).
    groups:  output o sees the channels of its own group alone; with groups = C the convolution is depthwise.
    """
    xp, (B, C, N, M), (O, c) = namespace(x), x.shape, weight.shape[:2]
    I, J = (1, *weight.shape[2:])[-2:]                      # convolution1d's kernels have one row
    down, across = (stride, stride) if isinstance(stride, int) else stride
    (top, bottom), (left, right) = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    padded = xp.zeros((B, C, top + N + bottom, left + M + right), x.dtype)
    padded[:, :, top:top + N, left:left + M] = x
    n, m = (padded.shape[2] - I) // down + 1, (padded.shape[3] - J) // across + 1

    def windows(picture):
        """For every kernel entry, the strided pixels that it multiplies: (B, C, n, m) each, views of `picture`"""
        for i in range(I):
            for j in range(J):
                yield picture[:, :, i:i + down * n:down, j:j + across * m:across]
    columns = xp.stack(list(windows(padded)), 2)                            # (B, C, I J, n, m)
    columns = columns.reshape(B, groups, c * I * J, n * m)
    matrix = weight.reshape(groups, O // groups, c * I * J)
    y = (matrix @ columns).reshape(B, O, n, m)
    if bias is not None:
        y += bias[:, None, None]

    def pull(dy, g):
        rows = dy.reshape(B, groups, O // groups, n * m)
        g.add("weight", lambda: (rows @ columns.swapaxes(2, 3)).sum(0).reshape(weight.shape))
        if bias is not None:
            g.add("bias", lambda: dy.sum((0, 2, 3)))
        dcolumns = (matrix.swapaxes(1, 2) @ rows).reshape(B, C, I * J, n, m)
        dpadded = xp.zeros(padded.shape, dy.dtype)
        for k, window in enumerate(windows(dpadded)):                       # windows overlap: each adds its part
            window += dcolumns[:, :, k]
        return dpadded[:, :, top:top + N, left:left + M]
    return y, pull


@op
def convolution1d(x, weight, bias=None, stride=1, padding=0, groups=1):
    """`convolution` over time                              x (B, C, N), weight (O, C / groups, J) -> (B, O, N')"""
    y, pull = convolution(x[:, :, None], weight, bias, (1, stride), ((0, 0), (padding, padding)), groups)
    return y[:, :, 0], lambda dy, g: pull(dy[:, :, None], g)[:, :, 0]


@op
def average_pool(x, size, ceil=False):
    """The mean of every size x size square                 (B, C, N, M) -> (B, C, N / size, M / size)

    Where the squares do not fill the picture, its last rows and columns are dropped; or, if `ceil`, they make squares
    of their own, the mean of what pixels they have.
    """
    xp, (B, C, N, M) = namespace(x), x.shape
    n, m = (-(-N // size), -(-M // size)) if ceil else (N // size, M // size)
    rows, columns = min(N, n * size), min(M, m * size)
    full = xp.zeros((B, C, n * size, m * size), x.dtype)
    full[:, :, :rows, :columns] = x[:, :, :rows, :columns]
    height = xp.minimum(size, rows - size * xp.arange(n))                   # of each square's rows, those that are real
    width = xp.minimum(size, columns - size * xp.arange(m))
    count = (height[:, None] * width).astype(x.dtype)                       # (n, m)

    def pull(dy):
        dx = xp.zeros(x.shape, dy.dtype)
        dx[:, :, :rows, :columns] = (dy / count).repeat(size, 2).repeat(size, 3)[:, :, :rows, :columns]
        return dx
    return full.reshape(B, C, n, size, m, size).sum((3, 5)) / count, pull


@op
def max_pool(x, size):
    """The largest of every size x size square              (B, C, N, M) -> (B, C, N / size, M / size)

    Rows and columns that fill no square are dropped. Of several largest the first one, row by row, gets the gradient.
    """
    xp, (B, C, N, M) = namespace(x), x.shape
    n, m = N // size, M // size
    squares = x[:, :, :n * size, :m * size].reshape(B, C, n, size, m, size).transpose(0, 1, 2, 4, 3, 5)
    squares = squares.reshape(B, C, n, m, size * size)
    first = squares.argmax(-1)[..., None] == xp.arange(size * size)                 # one True in each square

    def pull(dy):
        dx = xp.zeros(x.shape, dy.dtype)
        dsquares = (dy[..., None] * first).reshape(B, C, n, m, size, size).transpose(0, 1, 2, 4, 3, 5)
        dx[:, :, :n * size, :m * size] = dsquares.reshape(B, C, n * size, m * size)
        return dx
    return squares.max(-1), pull


@op
def adaptive_average_pool(x, size):
    """The mean of each of n x m windows that cover the picture     (B, C, N, M), size (n, m) -> (B, C, n, m)

    Window i has the rows from floor(i N / n) to ceil((i + 1) N / n) - 1: windows overlap where n does not divide N.
    Columns likewise. As torch's AdaptiveAvgPool2d.
    """
    xp = namespace(x)
    down, across = (xp.asarray(window_means(*sizes), dtype=x.dtype) for sizes in zip(x.shape[2:], size))

    def pull(dy):
        return down.T @ dy @ across
    return down @ x @ across.T, pull


@lru_cache
def window_means(N, n):
    """The matrix (n, N) that takes the mean of each of n windows of N numbers"""
    matrix = np.zeros((n, N))
    for i in range(n):
        window = slice(i * N // n, -(-(i + 1) * N // n))
        matrix[i, window] = 1 / (window.stop - window.start)
    return matrix


@op
def batch_norm(x, weight, bias, mean, variance, eps):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, by channel         x (B, C, N, M), the others (C,) -> x's

    Ioffe & Szegedy 2015 (arXiv 1502.03167) after training: mean and variance are constants, the averages of training.
    Computed in float32 at least.
    """
    xp = namespace(x)

    def channels(vector):
        return wide(vector)[:, None, None]
    scale = 1 / xp.sqrt(channels(variance) + eps)                           # (C, 1, 1)
    unit = (wide(x) - channels(mean)) * scale

    def pull(dy, g):
        dy = wide(dy)
        g.add("weight", lambda: (dy * unit).sum((0, 2, 3)))
        g.add("bias", lambda: dy.sum((0, 2, 3)))
        return (dy * channels(weight) * scale).astype(x.dtype, copy=False)
    return (unit * channels(weight) + channels(bias)).astype(x.dtype, copy=False), pull


@op
def channel_norm(x, weight, bias, eps):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, each channel over all its time         x (B, C, T) -> (B, C, T)

    Group norm with a group for each channel (Wu & He 2018, arXiv 1803.08494). In float32 at least.
    """
    xp, unit = namespace(x), wide(x)
    unit = unit - unit.mean(-1, keepdims=True)
    scale = 1 / xp.sqrt((unit * unit).mean(-1, keepdims=True) + eps)
    unit = unit * scale

    def pull(dy, g):
        dy = wide(dy)
        g.add("weight", lambda: (dy * unit).sum((0, 2)))
        g.add("bias", lambda: dy.sum((0, 2)))
        dx = dy * weight[:, None]
        dx = (dx - dx.mean(-1, keepdims=True) - unit * (dx * unit).mean(-1, keepdims=True)) * scale
        return dx.astype(x.dtype, copy=False)
    return (unit * weight[:, None] + bias[:, None]).astype(x.dtype, copy=False), pull
