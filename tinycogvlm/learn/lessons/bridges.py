"""Lesson 41: what makes fewer tokens of patches and keeps where they are."""

import numpy as np

from ...contracts import Contract, over, random
from ...contracts.contract import EXACT, TOLERANCE
from ...nn.convolution import adaptive_average_pool, convolution
from ...relatives import connectors
from ..exercise import Exercise

# ------------------------------------------------------------------------------------------------------- pixel_shuffle


def pixel_shuffle(x, factor):
    """The channels of factor x factor tokens in one, those of the first row first"""
    B, n, m, C = x.shape
    y = np.empty((B, n // factor, m // factor, factor * factor * C))
    for Y, X, dy, dx in over(n // factor, m // factor, factor, factor):
        start = (dy * factor + dx) * C
        y[:, Y, X, start:start + C] = x[:, Y * factor + dy, X * factor + dx]
    return y


def pixel_shuffle_cases():
    for label, shape, factor in (("a wide grid", (2, 2, 4, 3), 2), ("a square", (1, 4, 4, 2), 2),
                                 ("three by three", (1, 6, 3, 2), 3), ("one number", (1, 4, 2, 1), 2)):
        yield label, dict(x=random(*shape), factor=factor)


WIDE_GRID = np.array([[[[1.0], [0], [0], [1]], [[0], [1], [1], [0]]]])
PIXEL_SHUFFLE = Exercise(Contract("pixel_shuffle", pixel_shuffle, pixel_shuffle_cases, EXACT),
                         lambda x, factor: connectors.pixel_shuffle.own(x, factor)[0], (connectors.pixel_shuffle,),
                         toy=dict(x=WIDE_GRID, factor=2))


def split(x, factor):
    """(B, n', dy, m', dx, C)"""
    B, n, m, C = x.shape
    return x.reshape(B, n // factor, factor, m // factor, factor, C)


@PIXEL_SHUFFLE.mistake("reshape alone puts tokens together that follow one another in a row; the axes of a square have "
                       "to be brought side by side first.")
def reshape_alone(x, factor):
    B, n, m, C = x.shape
    return x.reshape(B, n // factor, m // factor, -1)


@PIXEL_SHUFFLE.mistake("The channels are the slowest here, as in torch's PixelUnshuffle; InternVL, Idefics3 and nanoVLM "
                       "have them fastest.")
def channels_slowest(x, factor):
    return split(x, factor).transpose(0, 1, 3, 5, 2, 4).reshape(*pixel_shuffle(x, factor).shape)


@PIXEL_SHUFFLE.mistake("Columns of a square come before its rows: dy is slower than dx.")
def columns_first(x, factor):
    return split(x, factor).transpose(0, 1, 3, 4, 2, 5).reshape(*pixel_shuffle(x, factor).shape)


@PIXEL_SHUFFLE.mistake("The grid is turned: columns come before rows, as in InternVL's first version.")
def grid_turned(x, factor):
    return split(x, factor).transpose(0, 3, 1, 2, 4, 5).reshape(len(x), x.shape[2] // factor, x.shape[1] // factor, -1)


@PIXEL_SHUFFLE.mistake("The tokens of a square are averaged; pixel shuffle keeps them all, side by side.")
def averaged(x, factor):
    return split(x, factor).mean((2, 4))


@PIXEL_SHUFFLE.mistake("Only one token of each square is kept; all of them are, side by side.")
def one_kept(x, factor):
    return x[:, ::factor, ::factor].copy()


# -------------------------------------------------------------------------------------------------------- average_pool

def average_pool(x, size):
    """The mean of each window; windows overlap where size does not divide the grid"""
    B, n, m, C = x.shape
    y = np.empty((B, *size, C))
    for Y, X in over(*size):
        rows = range(Y * n // size[0], -(-(Y + 1) * n // size[0]))
        columns = range(X * m // size[1], -(-(X + 1) * m // size[1]))
        y[:, Y, X] = sum(x[:, i, j] for i in rows for j in columns) / (len(rows) * len(columns))
    return y


def average_pool_cases():
    for label, shape, size in (("it divides", (2, 4, 4, 3), (2, 2)), ("it does not divide", (1, 5, 7, 2), (2, 3)),
                               ("one token", (1, 3, 4, 2), (1, 1)), ("as many as there are", (1, 2, 3, 2), (2, 3))):
        yield label, dict(x=random(*shape), size=size)


def package_average_pool(x, size):
    return adaptive_average_pool.own(x.transpose(0, 3, 1, 2), size)[0].transpose(0, 2, 3, 1)


AVERAGE_POOL = Exercise(Contract("average_pool", average_pool, average_pool_cases, TOLERANCE), package_average_pool,
                        (adaptive_average_pool,), toy=dict(x=WIDE_GRID, size=(1, 2)))


def windows(x, size, take=np.mean, start=lambda i, n, s: i * n // s, stop=lambda i, n, s: -(-(i + 1) * n // s)):
    B, n, m, C = x.shape
    y = np.empty((B, *size, C), x.dtype)
    for Y, X in over(*size):
        rows, columns = (slice(start(i, length, s), stop(i, length, s)) for i, length, s in
                         ((Y, n, size[0]), (X, m, size[1])))
        y[:, Y, X] = take(x[:, rows, columns], (1, 2))
    return y


@AVERAGE_POOL.mistake("The largest is taken; it should be the mean.")
def largest_of_a_window(x, size):
    return windows(x, size, np.max)


@AVERAGE_POOL.mistake("The sum is not divided by the number of tokens in the window.")
def sum_of_a_window(x, size):
    return windows(x, size, np.sum)


@AVERAGE_POOL.mistake("A window ends at floor((i + 1) n / size) here; it ends at the ceiling, so that windows overlap where "
                      "the size does not divide the grid.")
def windows_without_overlap(x, size):
    return windows(x, size, stop=lambda i, n, s: (i + 1) * n // s)


@AVERAGE_POOL.mistake("All windows are as large as the first, n // size; what is left over at the edges is lost.")
def edges_lost(x, size):
    return windows(x, size, start=lambda i, n, s: i * (n // s), stop=lambda i, n, s: (i + 1) * (n // s))


@AVERAGE_POOL.mistake("Rows and columns of `size` are exchanged.")
def sizes_exchanged(x, size):
    return windows(x, size[::-1])


# ----------------------------------------------------------------------------------------------------------------- peg

def peg(x, weight, bias):
    """x + a 3 x 3 convolution of each channel by itself, zeros beyond the edges"""
    B, n, m, C = x.shape
    y = np.empty(x.shape)
    for i, j, c in over(n, m, C):
        total = x[:, i, j, c] + bias[c]
        for di, dj in over(3, 3):
            if 0 <= i + di - 1 < n and 0 <= j + dj - 1 < m:
                total = total + weight[c, 0, di, dj] * x[:, i + di - 1, j + dj - 1, c]
        y[:, i, j, c] = total
    return y


def peg_cases():
    for label, shape in (("a wide grid", (2, 2, 4, 3)), ("a square", (1, 3, 3, 2)), ("one token", (1, 1, 1, 2))):
        yield label, dict(x=random(*shape), weight=random(shape[-1], 1, 3, 3), bias=random(shape[-1], seed=1))


def package_peg(x, weight, bias):
    y, _ = convolution.own(x.transpose(0, 3, 1, 2), weight, bias, padding=1, groups=x.shape[-1])
    return x + y.transpose(0, 2, 3, 1)


PEG = Exercise(Contract("peg", peg, peg_cases, TOLERANCE), package_peg, (connectors.ldp_v2, convolution))


def convolved(x, weight, mode="constant"):
    """The 3 x 3 convolution of each channel"""
    n, m = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode)
    return sum(padded[:, di:di + n, dj:dj + m] * weight[:, 0, di, dj] for di, dj in over(3, 3))


@PEG.mistake("x itself is missing: the convolution is added to the tokens.")
def peg_without_residual(x, weight, bias):
    return convolved(x, weight) + bias


@PEG.mistake("The bias is missing.")
def peg_without_bias(x, weight, bias):
    return x + convolved(x, weight)


@PEG.mistake("The kernel is turned by 180 degrees: deep learning calls a correlation a convolution.")
def kernel_turned(x, weight, bias):
    return x + convolved(x, weight[:, :, ::-1, ::-1]) + bias


@PEG.mistake("Rows and columns of the kernel are exchanged.")
def kernel_transposed(x, weight, bias):
    return x + convolved(x, weight.swapaxes(2, 3)) + bias


@PEG.mistake("The edges are repeated beyond the grid; there are zeros, and it is by them that a token knows its place.")
def edges_repeated(x, weight, bias):
    return x + convolved(x, weight, "edge") + bias


@PEG.mistake("The grid goes on at its other end; beyond the edges are zeros.")
def edges_wrapped(x, weight, bias):
    return x + convolved(x, weight, "wrap") + bias
