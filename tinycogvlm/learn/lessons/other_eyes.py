"""Lesson 40: SigLIP's loss, EVA-02's rotary positions in two directions, NFNet's weights and clipping."""
import math
from types import SimpleNamespace

import numpy as np

from ...contracts import Contract, over, random
from ...contracts.contract import TOLERANCE
from ...nn.more_ops import rotary_pairs
from ...relatives import eva02, nfnet, siglip
from ...train.loop import optimizer
from ..exercise import Exercise

# -------------------------------------------------------------------------------------------------------- sigmoid_loss


def sigmoid_loss(image, text, logit_scale, logit_bias):
    """The sum of -log sigmoid(+-logit) over all pairs, divided by the number of pictures"""
    total = 0.0
    for i, j in over(len(image), len(text)):
        cosine = image[i] @ text[j] / math.sqrt(image[i] @ image[i]) / math.sqrt(text[j] @ text[j])
        logit = math.exp(logit_scale) * cosine + logit_bias
        z = logit if i == j else -logit
        total += max(-z, 0) + math.log1p(math.exp(-abs(z)))
    return np.float64(total / len(image))


def sigmoid_loss_cases():
    for label, B, scale, bias in (("two pairs", 2, 0.5, -1.0), ("five pairs", 5, 1.0, -3.0), ("one pair", 1, 0.0, 0.5),
                                  ("large logits", 3, 7.0, -10.0)):
        yield label, dict(image=random(B, 4), text=random(B, 4, seed=1), logit_scale=scale, logit_bias=bias)


def package_sigmoid_loss(image, text, logit_scale, logit_bias):
    return siglip.sigmoid_loss.own(image, text, np.array([logit_scale], image.dtype),
                                   np.array([logit_bias], image.dtype))[0]


SIGMOID_LOSS = Exercise(Contract("sigmoid_loss", sigmoid_loss, sigmoid_loss_cases, TOLERANCE), package_sigmoid_loss,
                        (siglip.sigmoid_loss,))


def of_pairs(image, text, logit_scale, logit_bias, own=1, other=-1, unit=True):
    """-log sigmoid(sign logit) of all pairs (B, B)"""
    if unit:
        image, text = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
    z = np.where(np.eye(len(image)), own, other) * (np.exp(logit_scale) * image @ text.T + logit_bias)
    return np.maximum(-z, 0) + np.log1p(np.exp(-abs(z)))


@SIGMOID_LOSS.mistake("The mean over all B x B pairs is taken; the sum is divided by B alone, the number of pictures.")
def mean_of_all_pairs(image, text, logit_scale, logit_bias):
    return of_pairs(image, text, logit_scale, logit_bias).mean()


@SIGMOID_LOSS.mistake("The sum is not divided by anything; it is divided by B, the number of pictures.")
def sum_of_all_pairs(image, text, logit_scale, logit_bias):
    return of_pairs(image, text, logit_scale, logit_bias).sum()


@SIGMOID_LOSS.mistake("Only own pairs count here; each picture must also say no to every other text.")
def own_pairs_alone(image, text, logit_scale, logit_bias):
    return np.diagonal(of_pairs(image, text, logit_scale, logit_bias)).mean()


@SIGMOID_LOSS.mistake("Every pair is treated as an own one: off the diagonal the sign of the logit is minus.")
def every_pair_belongs_together(image, text, logit_scale, logit_bias):
    return of_pairs(image, text, logit_scale, logit_bias, other=1).sum() / len(image)


@SIGMOID_LOSS.mistake("The signs are exchanged: own pairs are the ones that should say yes.")
def signs_exchanged(image, text, logit_scale, logit_bias):
    return of_pairs(image, text, logit_scale, logit_bias, own=-1, other=1).sum() / len(image)


@SIGMOID_LOSS.mistake("The rows are not of length 1: divide each by its length first, or the scale means nothing.")
def not_of_length_1(image, text, logit_scale, logit_bias):
    return of_pairs(image, text, logit_scale, logit_bias, unit=False).sum() / len(image)


@SIGMOID_LOSS.mistake("The scale is exp(logit_scale): the parameter is its logarithm.")
def scale_is_not_its_logarithm(image, text, logit_scale, logit_bias):
    if logit_scale <= 0:
        raise ValueError("a logarithm")
    return of_pairs(image, text, np.log(logit_scale), logit_bias).sum() / len(image)


@SIGMOID_LOSS.mistake("The bias is missing: it is added to every logit.")
def without_bias(image, text, logit_scale, logit_bias):
    return of_pairs(image, text, logit_scale, 0.0).sum() / len(image)


@SIGMOID_LOSS.mistake("The bias is inside the scale: it is added after the cosine is multiplied.")
def bias_scaled(image, text, logit_scale, logit_bias):
    return of_pairs(image, text, logit_scale, np.exp(logit_scale) * logit_bias).sum() / len(image)


# ----------------------------------------------------------------------------------------------------------- rotary_2d

def rotary_2d(x, grid, reference):
    """Pairs of neighbours, the first half turned by the row, the second by the column"""
    B, H, P, d = x.shape
    y = np.empty(x.shape)
    for p, i in over(P, d // 2):
        axis = 0 if i < d // 4 else 1
        place = (p // grid[1], p % grid[1])[axis] / grid[axis] * reference[axis]
        angle = place * eva02.BASE ** (-4 * (i % (d // 4)) / d)
        first, second = x[:, :, p, 2 * i], x[:, :, p, 2 * i + 1]
        y[:, :, p, 2 * i] = first * math.cos(angle) - second * math.sin(angle)
        y[:, :, p, 2 * i + 1] = second * math.cos(angle) + first * math.sin(angle)
    return y


def rotary_2d_cases():
    for label, grid, reference, d in (("a wide grid", (2, 3), (2, 3), 8), ("twice the resolution", (4, 4), (2, 2), 8),
                                      ("one patch", (1, 1), (1, 1), 4), ("sixteen numbers", (3, 2), (3, 4), 16)):
        yield label, dict(x=random(2, 2, grid[0] * grid[1], d), grid=grid, reference=reference)


def package_rotary_2d(x, grid, reference):
    cos, sin = (table.astype(x.dtype) for table in eva02.angles(grid, reference, x.shape[-1]))
    return rotary_pairs.own(x, cos, sin)[0]


ROTARY_2D = Exercise(Contract("rotary_2d", rotary_2d, rotary_2d_cases, TOLERANCE), package_rotary_2d,
                     (eva02.angles, rotary_pairs))


def turned(x, rows, columns, halves=False, sign=1):
    """x with its pairs turned by the angles (P, d/4) of rows, then by those of columns"""
    angles = np.concatenate([rows, columns], -1)
    cos, sin = np.cos(angles), sign * np.sin(angles)
    y, half = np.empty_like(x), x.shape[-1] // 2
    first, second = (x[..., :half], x[..., half:]) if halves else (x[..., ::2], x[..., 1::2])
    both = first * cos - second * sin, second * cos + first * sin
    if halves:
        return np.concatenate(both, -1)
    y[..., ::2], y[..., 1::2] = both
    return y


def angles(x, grid, reference, per=4):
    """(P, d/4) of rows and of columns; frequencies 10000^(-per i / d)"""
    frequencies = eva02.BASE ** (-per * np.arange(x.shape[-1] // 4) / x.shape[-1])
    row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return [place[:, None] / n * r * frequencies for place, n, r in zip((row, column), grid, reference)]


@ROTARY_2D.mistake("Rows and columns are exchanged: the first half of the pairs is turned by the row.")
def rows_and_columns_exchanged(x, grid, reference):
    return turned(x, *angles(x, grid, reference)[::-1])


@ROTARY_2D.mistake("A number is paired with the one half a head away, as in CogVLM's language model; EVA-02 pairs "
                   "neighbours, 2i and 2i + 1.")
def pairs_half_a_head_apart(x, grid, reference):
    return turned(x, *angles(x, grid, reference), halves=True)


@ROTARY_2D.mistake("The angles turn the other way: (a, b) becomes (a cos - b sin, b cos + a sin).")
def turned_backwards(x, grid, reference):
    return turned(x, *angles(x, grid, reference), sign=-1)


@ROTARY_2D.mistake("The places are counted in patches; they are divided by the grid and multiplied by the reference, so "
                   "that at another resolution the edges keep their angles.")
def places_not_rescaled(x, grid, reference):
    return turned(x, *angles(x, grid, grid))


@ROTARY_2D.mistake("Each direction has d/2 numbers of its own: pair i turns by place / 10000^(4 i / d), not 2 i / d.")
def frequencies_of_one_direction(x, grid, reference):
    return turned(x, *angles(x, grid, reference, per=2))


@ROTARY_2D.mistake("Every pair is turned by the row and none by the column: half of the pairs belong to each.")
def rows_alone(x, grid, reference):
    rows, _ = angles(x, grid, reference)
    return turned(x, rows, rows)


# -------------------------------------------------------------------------------------------------------- standardised

def standardised(weight, gain, eps):
    """(w - mean) gain / sqrt(fan-in (variance + eps)) of each output channel"""
    y, n = np.empty(weight.shape), math.prod(weight.shape[1:])
    for o in range(len(weight)):
        mean = weight[o].sum() / n
        variance = ((weight[o] - mean) ** 2).sum() / n
        y[o] = (weight[o] - mean) * gain[o] / math.sqrt(n * (variance + eps))
    return y


def standardised_cases():
    for label, shape, scale, mean in (("3 x 3", (4, 2, 3, 3), 1, 0.5), ("1 x 1", (2, 3, 1, 1), 2, -1),
                                      ("one output", (1, 2, 2, 2), 0.5, 0), ("eps matters", (2, 2, 2, 2), 0.01, 0)):
        yield label, dict(weight=random(*shape, scale=scale, mean=mean), gain=random(shape[0], 1, 1, 1, mean=1, scale=.2),
                          eps=1e-4)


def package_standardised(weight, gain, eps):
    return nfnet.standardised.own(weight, gain, SimpleNamespace(floor=False, gamma_in_weights=False, eps=eps))[0]


STANDARDISED = Exercise(Contract("standardised", standardised, standardised_cases, TOLERANCE), package_standardised,
                        (nfnet.standardised,))


def moments(weight, axes=(1, 2, 3)):
    return weight.mean(axes, keepdims=True), weight.var(axes, keepdims=True), weight[0].size


@STANDARDISED.mistake("The fan-in is missing: without it the outputs' variance grows with the number of inputs.")
def without_fan_in(weight, gain, eps):
    mean, variance, _ = moments(weight)
    return (weight - mean) * gain / np.sqrt(variance + eps)


@STANDARDISED.mistake("The mean stays in: without subtracting it the activations' mean grows from layer to layer.")
def mean_stays(weight, gain, eps):
    _, variance, n = moments(weight)
    return weight * gain / np.sqrt(n * (variance + eps))


@STANDARDISED.mistake("Mean and variance are those of the whole tensor; each output channel has its own.")
def of_the_whole_tensor(weight, gain, eps):
    mean, variance, n = moments(weight, (0, 1, 2, 3))
    return (weight - mean) * gain / np.sqrt(n * (variance + eps))


@STANDARDISED.mistake("Mean and variance are taken over the kernel's pixels alone; the input channels belong to it.")
def of_each_kernel(weight, gain, eps):
    mean, variance, n = moments(weight, (2, 3))
    return (weight - mean) * gain / np.sqrt(n * (variance + eps))


@STANDARDISED.mistake("The gain is missing.")
def without_gain(weight, gain, eps):
    mean, variance, n = moments(weight)
    return (weight - mean) / np.sqrt(n * (variance + eps))


@STANDARDISED.mistake("The root is missing: the weights are divided by the standard deviation, not the variance.")
def divided_by_the_variance(weight, gain, eps):
    mean, variance, n = moments(weight)
    return (weight - mean) * gain / (n * (variance + eps))


# ---------------------------------------------------------------------------------------------------------- clip_units

def clip_units(weight, gradient, share):
    """Each row of the gradient, no longer than the share of its row of the weights"""
    y = np.empty(gradient.shape)
    for o in range(len(weight)):
        longest = share * max(math.sqrt((weight[o] ** 2).sum()), 1e-3)
        y[o] = gradient[o] * min(1, longest / max(math.sqrt((gradient[o] ** 2).sum()), 1e-6))
    return y


def clip_units_cases():
    rows = np.array([1e-3, 1.0, 30.0, 0.2])[:, None]
    yield "rows of all lengths", dict(weight=random(4, 3), gradient=rows * random(4, 3, seed=1), share=0.1)
    yield "weights of zero", dict(weight=np.zeros((2, 3)), gradient=random(2, 3, seed=1), share=0.5)
    yield "a gradient of zero", dict(weight=random(2, 3), gradient=np.zeros((2, 3)), share=0.5)
    yield "nothing is clipped", dict(weight=random(3, 5), gradient=0.01 * random(3, 5, seed=1), share=0.5)


CLIP_UNITS = Exercise(Contract("clip_units", clip_units, clip_units_cases, TOLERANCE),
                      lambda weight, gradient, share: optimizer.adaptively_clipped(weight, gradient, share),
                      (optimizer.adaptively_clipped,), toy=dict(
                          weight=np.array([[3.0, 4], [0.3, 0.4]]), gradient=np.array([[0.6, 0.8], [0.6, 0.8]]), share=0.1))


def lengths(*arrays):
    return [np.linalg.norm(array, axis=1, keepdims=True) for array in arrays]


@CLIP_UNITS.mistake("All rows are clipped by one factor; each unit, a row of the matrix, has its own.")
def one_factor_for_all(weight, gradient, share):
    longest = share * max(np.linalg.norm(weight), 1e-3)
    return gradient * min(1, longest / max(np.linalg.norm(gradient), 1e-6))


@CLIP_UNITS.mistake("The lengths are those of columns; a unit is what makes one output, a row.")
def columns_clipped(weight, gradient, share):
    longest = share * np.maximum(np.linalg.norm(weight, axis=0), 1e-3)
    return gradient * np.minimum(1, longest / np.maximum(np.linalg.norm(gradient, axis=0), 1e-6))


@CLIP_UNITS.mistake("Short gradients are made longer: the factor is at most 1.")
def lengthened(weight, gradient, share):
    w, g = lengths(weight, gradient)
    return gradient * share * np.maximum(w, 1e-3) / np.maximum(g, 1e-6)


@CLIP_UNITS.mistake("The weights' length is left out: this is ordinary clipping, row by row.")
def not_by_the_weights(weight, gradient, share):
    return gradient * np.minimum(1, share / np.maximum(lengths(gradient)[0], 1e-6))


@CLIP_UNITS.mistake("A weight of zero can never move: its length counts as 0.001 at least.")
def zeros_stay(weight, gradient, share):
    w, g = lengths(weight, gradient)
    return gradient * np.minimum(1, share * w / np.maximum(g, 1e-6))
