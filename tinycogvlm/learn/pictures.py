"""From Pillow's picture to pixels, as exercises: the contracts, and a learner's functions in Pillow's place."""
import math

import numpy as np
from PIL import Image

from ..contracts.contract import Contract, over
from ..inputs import image


# ---------------------------------------------------------------------------------------------------------- the resize

def bicubic_weights(n, m):
    """y[i] = sum_j weights[i, j] x[j] resamples n numbers to m, as Pillow's BICUBIC does        -> (m, n)

    Output i lies at (i + 1/2) n/m, input j at j + 1/2. The cubic (Keys 1981, a = -1/2) of their distance over s is the
    weight, s = max(1, n/m): where it shrinks, the kernel is as many times wider. Each row is divided by its sum.
    """
    def kernel(x, a=-0.5):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1
        return a * (x ** 3 - 5 * x ** 2 + 8 * x - 4) if x < 2 else 0.0
    weights, scale = np.zeros((m, n)), max(1, n / m)
    for i, j in over(m, n):
        weights[i, j] = kernel((j + 0.5 - (i + 0.5) * n / m) / scale)
    for i in range(m):
        weights[i] /= math.fsum(weights[i])
    return weights


def bicubic_weights_cases():
    for n, m in ((4, 2), (6, 2), (5, 3), (12, 4), (2, 4), (3, 7), (4, 4), (1, 3), (5, 1)):
        yield f"{n} to {m}", dict(n=n, m=m)


def package_bicubic_weights(n, m):
    """Pillow's own: what comes of rows that are 1 at one place."""
    rows = Image.fromarray(np.eye(n, dtype=np.float32)).resize((m, n), Image.Resampling.BICUBIC)
    return np.asarray(rows).T.astype(np.float64)


class Weighted:
    """A picture as image.py resizes it, by a learner's weights, one axis at a time, rounded to bytes as Pillow does."""

    def __init__(self, colours, weights):
        self.colours, self.weights = colours, weights       # (height, width, 3) uint8
        self.size = colours.shape[1::-1]

    def resize(self, size, _):
        y = self.colours
        for axis, m in ((1, size[0]), (0, size[1])):
            if m != y.shape[axis]:
                y = np.moveaxis(np.tensordot(self.weights(n=y.shape[axis], m=m), y, (1, axis)), 0, axis)
                y = np.clip(np.floor(y + 0.5), 0, 255).astype(np.uint8)
        return Weighted(y, self.weights)

    def __array__(self, dtype=None, copy=None):
        return self.colours


def fit_bicubic_weights(mine, package):
    return lambda picture, size: package(Weighted(np.asarray(picture), mine), size)


# ---------------------------------------------------------------------------------------------------------- the scale

def normalise(colours):
    """y[c, i, j] = (colours[i, j, c] / 255 - mean[c]) / std[c]                      (N, N, 3) uint8 -> (3, N, N)"""
    N, M, C = colours.shape
    y = np.zeros((C, N, M))
    for c, i, j in over(C, N, M):
        y[c, i, j] = (int(colours[i, j, c]) / 255 - float(image.CLIP_MEAN[c])) / float(image.CLIP_STD[c])
    return y


def normalise_cases():
    random = np.random.default_rng(0)
    yield "one pixel", dict(colours=np.array([[[255, 0, 51]]], np.uint8))
    yield "black and white", dict(colours=np.array([[[0] * 3, [255] * 3], [[255] * 3, [0] * 3]], np.uint8))
    yield "a picture", dict(colours=random.integers(0, 256, (5, 5, 3), np.uint8))


def package_normalise(colours, pixels=image.pixels.own):
    return pixels(colours, len(colours))                    # of this size already, so nothing is resized


def fit_normalise(mine, package):
    return lambda picture, size: mine(colours=np.asarray(image.square(image.load(picture), size)))


CONTRACTS = (
    Contract("bicubic_weights", bicubic_weights, bicubic_weights_cases, {"float64": 1e-6}),     # Pillow's are float32
    Contract("normalise", normalise, normalise_cases, {"float32": 2e-6}),
)
