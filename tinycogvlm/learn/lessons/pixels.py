"""Lesson 03: Pillow's bicubic resize, and the scale of the colours."""
import math

import numpy as np
from PIL import Image

from ...contracts import Contract, over
from ...inputs import image
from ..exercise import Exercise

# ----------------------------------------------------------------------------------------------------- bicubic_weights


def bicubic_weights(n, m):
    """y[i] = sum_j weights[i, j] x[j] resamples n numbers to m, as Pillow's BICUBIC does        -> (m, n)

    Output i lies at (i + 1/2) n/m, input j at j + 1/2. The weight is the cubic (Keys 1981, a = -1/2) of their distance
    divided by s = max(1, n/m): when shrinking, the kernel is that many times wider. Each row is divided by its sum.
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
    """Pillow's own weights: what it makes of rows that are 1 at one place."""
    rows = Image.fromarray(np.eye(n, dtype=np.float32)).resize((m, n), Image.Resampling.BICUBIC)
    return np.asarray(rows).T.astype(np.float64)


class Weighted:
    """A picture that is resized by a learner's weights, one axis at a time and rounded to bytes, as in Pillow."""

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


def fit_bicubic_weights(mine, otherwise):
    return lambda picture, size: otherwise(Weighted(np.asarray(picture), mine), size)


BICUBIC_WEIGHTS = Exercise(
    Contract("bicubic_weights", bicubic_weights, bicubic_weights_cases, {"float64": 1e-6}),     # Pillow's are float32
    package_bicubic_weights, (image.square,), part="resize", place=image.square, fit=fit_bicubic_weights)


def cubic(distance, a=-0.5):
    d = np.abs(distance)
    return np.where(d <= 1, (a + 2) * d ** 3 - (a + 3) * d ** 2 + 1,
                    np.where(d < 2, a * (d ** 3 - 5 * d ** 2 + 8 * d - 4), 0))


def distances(n, m, half=0.5):
    return np.arange(n) + half - (np.arange(m)[:, None] + half) * n / m


def normalised(weights):
    return weights / weights.sum(1, keepdims=True)


def scale(n, m):
    return max(1, n / m)


@BICUBIC_WEIGHTS.mistake(
    "The kernel keeps its width when shrinking, so most numbers are skipped: this is aliasing. Divide the distances "
    "by s = max(1, n/m).")
def not_antialiased(n, m):
    return normalised(cubic(distances(n, m)))


@BICUBIC_WEIGHTS.mistake("The kernel becomes narrower when enlarging; s is max(1, n/m), never less than 1.")
def narrower_when_enlarging(n, m):
    return normalised(cubic(distances(n, m) / (n / m)))


@BICUBIC_WEIGHTS.mistake("The ratio is upside down: s is max(1, n/m), n inputs to m outputs.")
def ratio_upside_down(n, m):
    return normalised(cubic(distances(n, m) / max(1, m / n)))


@BICUBIC_WEIGHTS.mistake("This is the kernel with a = -3/4, as in PyTorch's interpolate; Pillow's has a = -1/2.")
def kernel_of_pytorch(n, m):
    return normalised(cubic(distances(n, m) / scale(n, m), -0.75))


@BICUBIC_WEIGHTS.mistake("This kernel is a triangle, that of BILINEAR; the cubic has two pieces.")
def triangle(n, m):
    return normalised(np.maximum(0, 1 - np.abs(distances(n, m) / scale(n, m))))


@BICUBIC_WEIGHTS.mistake("The rows are not divided by their sums: a grey picture would not keep its grey.")
def rows_not_divided(n, m):
    return cubic(distances(n, m) / scale(n, m))


@BICUBIC_WEIGHTS.mistake("All weights are divided by one sum; each row has its own.")
def divided_by_one_sum(n, m):
    weights = rows_not_divided(n, m)
    return weights / weights.sum()


@BICUBIC_WEIGHTS.mistake("The columns sum to 1; it is each row, the weights of one output, that must.")
def columns_divided(n, m):
    weights = rows_not_divided(n, m)
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights / weights.sum(0)


@BICUBIC_WEIGHTS.mistake(

    "The half pixels are missing: input j lies at j + 1/2, the centre of its pixel, and output i at (i + 1/2) n/m.")
def corners_for_centres(n, m):
    return normalised(cubic(distances(n, m, half=0) / scale(n, m)))


@BICUBIC_WEIGHTS.mistake("The matrix is transposed: it has one row for each of the m outputs.")
def weights_transposed(n, m):
    return bicubic_weights(n, m).T


# ----------------------------------------------------------------------------------------------------------- normalise

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


def package_normalise(colours):
    return image.pixels.own(colours, len(colours))          # it has this size already, so nothing is resized


def fit_normalise(mine, otherwise):
    return lambda picture, size: mine(colours=np.asarray(image.square(image.load(picture), size)))


NORMALISE = Exercise(Contract("normalise", normalise, normalise_cases, {"float32": 2e-6}),
                     package_normalise, (image.pixels,), part="pixels", place=image.pixels, fit=fit_normalise)
MEAN, STD = image.CLIP_MEAN[:, None, None], image.CLIP_STD[:, None, None]


def planes(colours):
    return colours.transpose(2, 0, 1).astype(np.float32)


@NORMALISE.mistake("The colours are not divided by 255 first; MEAN and STD are those of fractions.")
def not_divided_by_255(colours):
    return (planes(colours) - MEAN) / STD


@NORMALISE.mistake(

    "These are the fractions: the mean is not subtracted, and nothing is divided by the standard deviation.")
def fractions_alone(colours):
    return planes(colours) / 255


@NORMALISE.mistake("The division by the standard deviation is missing.")
def std_missing(colours):
    return planes(colours) / 255 - MEAN


@NORMALISE.mistake("This divides by the variance; it should be the standard deviation.")
def divided_by_the_variance(colours):
    return (planes(colours) / 255 - MEAN) / STD ** 2


@NORMALISE.mistake("MEAN and STD are exchanged.")
def mean_and_std_exchanged(colours):
    return (planes(colours) / 255 - STD) / MEAN


@NORMALISE.mistake("MEAN and STD are used in the order blue, green, red; they are those of red, green, blue.")
def statistics_reversed(colours):
    return (planes(colours) / 255 - MEAN[::-1]) / STD[::-1]


@NORMALISE.mistake("The colours come in the order blue, green, red, as OpenCV has them; Pillow gives red first.")
def blue_first(colours):
    return normalise(colours[..., ::-1])


@NORMALISE.mistake("MEAN and STD are computed from all pixels here; they are constants, the same for every picture.")
def of_this_picture(colours):
    x = planes(colours) / 255
    with np.errstate(all="ignore"):
        return (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)


@NORMALISE.mistake("The colours are the last axis here; each should have a plane of its own: (3, N, N).")
def colours_in_the_last_axis(colours):
    return normalise(colours).transpose(1, 2, 0)


@NORMALISE.mistake(

    "The array is reshaped to (3, N, N), which mixes colours and places; transpose(2, 0, 1) moves the axis.")
def reshaped_to_planes(colours):
    return normalise(colours).transpose(1, 2, 0).reshape(3, *colours.shape[:2])


@NORMALISE.mistake("Rows and columns are exchanged: .T reverses all three axes; transpose(2, 0, 1) moves one.")
def rows_and_columns_exchanged(colours):
    return normalise(colours).swapaxes(1, 2)
