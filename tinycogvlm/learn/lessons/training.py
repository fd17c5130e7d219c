"""Lesson 15: the loss of the next token, AdamW, and the step of Muon."""
import math

import numpy as np

from ...contracts import CONTRACTS, Contract, over, random
from ...contracts.contract import TOLERANCE
from ...model.cogvlm import CogVLM
from ...nn import ops
from ...train.loop import optimizer
from ..exercise import Exercise
from .attention import softmax

# ----------------------------------------------------------------------------------------------------- next_token_loss


def next_token_loss(logits, ids, types):
    """The token at t + 1, if it is text, from the logits at t"""
    pairs = [(logits[b, t], ids[b, t + 1]) for b, t in over(*ids[:, 1:].shape) if types[b, t + 1] == 0]
    return CONTRACTS["cross_entropy"].spec(np.array([row for row, _ in pairs]), np.array([label for _, label in pairs]))


def next_token_loss_cases():
    for label, rows in (("text alone", ["00000"]), ("an image before text", ["0111000"]),
                        ("batch", ["0011100", "0000000"]), ("large logits", ["0000"])):
        types = np.array([[int(token) for token in row] for row in rows])
        ids = np.random.default_rng(types.size).integers(0, 6, types.shape)
        yield label, dict(logits=random(*types.shape, 6, scale=500 if "large" in label else 1), ids=ids, types=types)


def package_next_token_loss(logits, ids, types):
    """As CogVLM.loss does."""
    row, column = np.nonzero(types[:, 1:] == 0)
    return ops.cross_entropy.own(logits[row, column], ids[row, column + 1])[0]


NEXT_TOKEN_LOSS = Exercise(Contract("next_token_loss", next_token_loss, next_token_loss_cases, TOLERANCE),
                           package_next_token_loss, (ops.cross_entropy, CogVLM.loss), toy=dict(
                               logits=np.array([[[0, 9.0, 0, 0, 0], [0, 0, 0, 9, 0], [0, 0, 0, 0, 0]]]),
                               ids=np.array([[4, 1, 3]]), types=np.zeros((1, 3), int)))


def mean_loss(logits, labels, counts):
    z = logits[counts]
    z = z - z.max(-1, keepdims=True)
    return (np.log(np.exp(z).sum(-1)) - z[np.arange(counts.sum()), labels[counts]]).mean()


NOT_SHIFTED = ("The labels are not shifted: each logit is compared with its own token, which it has seen. The label is "
               "the next token.")


@NEXT_TOKEN_LOSS.mistake(NOT_SHIFTED)
def labels_not_shifted(logits, ids, types):
    return mean_loss(logits, ids, types == 0)


@NEXT_TOKEN_LOSS.mistake(NOT_SHIFTED)
def labels_not_shifted_but_the_first_left_out(logits, ids, types):
    counts = types == 0
    counts[:, 0] = False
    return mean_loss(logits, ids, counts)


@NEXT_TOKEN_LOSS.mistake("The labels are shifted the wrong way: the logits at t predict t + 1, not t - 1.")
def shifted_backwards(logits, ids, types):
    return mean_loss(logits[:, 1:], ids[:, :-1], types[:, :-1] == 0)


@NEXT_TOKEN_LOSS.mistake("Tokens of the image are predicted, too; only text is learned.")
def image_tokens_learned(logits, ids, types):
    return mean_loss(logits[:, :-1], ids[:, 1:], np.ones(types[:, 1:].shape, bool))


@NEXT_TOKEN_LOSS.mistake(
    "The mask is that of the token that predicts; what counts is whether the token that is predicted is text.")
def mask_not_shifted(logits, ids, types):
    return mean_loss(logits[:, :-1], ids[:, 1:], types[:, :-1] == 0)


@NEXT_TOKEN_LOSS.mistake(
    "For large logits the loss is infinite: exp has become 0 or infinite before the log. log softmax(x) is x - "
    "log(sum(exp(x))), once the largest number of each row is subtracted.")
def log_of_zero(logits, ids, types):
    p = softmax(logits[:, :-1])[types[:, 1:] == 0]
    with np.errstate(divide="ignore"):
        return -np.log(p[np.arange(len(p)), ids[:, 1:][types[:, 1:] == 0]]).mean()


@NEXT_TOKEN_LOSS.mistake("The losses are added up; the loss is their mean.")
def losses_added(logits, ids, types):
    return package_next_token_loss(logits, ids, types) * (types[:, 1:] == 0).sum()


@NEXT_TOKEN_LOSS.mistake(
    "Each row of the batch has its own mean, and these are averaged; all tokens should weigh the same.")
def mean_of_rows(logits, ids, types):
    return np.mean([package_next_token_loss(logits[b:b + 1], ids[b:b + 1], types[b:b + 1]) for b in range(len(ids))])


# --------------------------------------------------------------------------------------------------------------- adamw

def adamw(w, g, m, v, step, rate, betas, eps, decay):
    """Loshchilov & Hutter 2019 (arXiv 1711.05101), a number at a time"""
    result, (b1, b2) = [np.zeros(w.shape) for _ in range(3)], betas
    for i in over(*w.shape):
        mean, square = b1 * m[i] + (1 - b1) * g[i], b2 * v[i] + (1 - b2) * g[i] ** 2
        moved = rate * (mean / (1 - b1 ** step)) / (math.sqrt(square / (1 - b2 ** step)) + eps)
        result[0][i], result[1][i], result[2][i] = w[i] - rate * decay * w[i] - moved, mean, square
    return tuple(result)


def adamw_cases():
    def case(step, *shape, decay=0.05, eps=1e-8, betas=(0.9, 0.95), scale=1.0):
        first = step == 1
        return dict(w=random(*shape), g=random(*shape, seed=1, scale=scale),
                    m=np.zeros(shape) if first else random(*shape, seed=2, scale=.1 * scale),
                    v=np.zeros(shape) if first else random(*shape, seed=3, scale=.1 * scale) ** 2,
                    step=step, rate=0.01, betas=betas, eps=eps, decay=decay)
    yield "the first step", case(1, 5)
    yield "the tenth, a matrix", case(10, 2, 3, betas=(0.9, 0.999))
    yield "no decay", case(3, 4, decay=0.0)
    yield "small gradients", case(2, 4, scale=1e-6, eps=1e-6)


def package_adamw(w, g, m, v, step, rate, betas, eps, decay):
    w, m, v = w.copy(), m.copy(), v.copy()
    optimizer.adamw(w, g, m, v, step, rate, betas, eps, decay)
    return w, m, v


ADAMW = Exercise(Contract("adamw", adamw, adamw_cases, TOLERANCE), package_adamw, (optimizer.adamw,), toy=dict(
    w=np.array([1.0]), g=np.array([4.0]), m=np.zeros(1), v=np.zeros(1), step=1, rate=0.1, betas=(0.9, 0.98), eps=1e-8, decay=0.0))


def updated(w, m, v, step, rate, betas, eps, decay):
    m, v = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return w * (1 - rate * decay) - rate * m / (np.sqrt(v) + eps)


def means(g, m, v, betas):
    return betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g


@ADAMW.mistake("The decay goes through the moments, as in Adam with L2 regularisation: AdamW shrinks w itself.")
def decay_through_the_moments(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g + decay * w, m, v, betas)
    return updated(w, m, v, step, rate, betas, eps, 0), m, v


@ADAMW.mistake("The bias correction is missing: divide m by 1 - b1^step and v by 1 - b2^step.")
def correction_missing(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g, m, v, betas)
    return w * (1 - rate * decay) - rate * m / (np.sqrt(v) + eps), m, v


@ADAMW.mistake("The decay is missing.")
def decay_missing(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g, m, v, betas)
    return updated(w, m, v, step, rate, betas, eps, 0), m, v


@ADAMW.mistake("The decay lacks the rate: w shrinks by rate * decay in a step.")
def decay_without_rate(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g, m, v, betas)
    return updated(w, m, v, step, rate, betas, eps, 0) - decay * w, m, v


@ADAMW.mistake("eps is under the root; it is added to the root.")
def eps_under_the_root(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g, m, v, betas)
    moved = m / (1 - betas[0] ** step) / np.sqrt(v / (1 - betas[1] ** step) + eps)
    return w * (1 - rate * decay) - rate * moved, m, v


@ADAMW.mistake(
    "The corrected m and v are returned: the corrections are for this step's w alone; the next step needs m and v as "
    "they are.")
def corrected_moments_kept(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g, m, v, betas)
    return updated(w, m, v, step, rate, betas, eps, decay), m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)


@ADAMW.mistake("w moves up the gradient; the step is subtracted.")
def uphill(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g, m, v, betas)
    return 2 * w * (1 - rate * decay) - updated(w, m, v, step, rate, betas, eps, decay), m, v


# ------------------------------------------------------------------------------------------------------ orthogonalised

def orthogonalised(g):
    """The rounds on each singular value s by itself: s <- a s + b s^3 + c s^5"""
    u, sizes, v = np.linalg.svd(g, full_matrices=False)
    sizes = sizes / (math.sqrt(sum(s * s for s in sizes)) + 1e-7)
    for _ in range(5):
        sizes = [3.4445 * s - 4.775 * s ** 3 + 2.0315 * s ** 5 for s in sizes]
    return u * np.array(sizes) @ v


def orthogonalised_cases():
    yield "as wide as high", dict(g=random(4, 4))
    yield "wide", dict(g=random(2, 5))
    yield "high", dict(g=random(6, 3))
    yield "a row", dict(g=random(1, 4, scale=20))
    yield "sizes far apart", dict(g=random(3, 3) * np.array([[1.0], [10], [100]]))
    yield "tiny", dict(g=random(3, 4, scale=1e-5))
    yield "no gradient", dict(g=np.zeros((2, 3)))


ORTHOGONALISED = Exercise(Contract("orthogonalised", orthogonalised, orthogonalised_cases,
                                   {"float64": 1e-9, "float32": 1e-3}), optimizer.orthogonalised,
                          (optimizer.orthogonalised, optimizer.muon), toy=dict(g=np.array([[3.0, 4], [4, 3]])))


def length(g):
    return np.sqrt((g * g).sum()) + 1e-7


def rounds(x, times=5, a=3.4445, b=-4.775, c=2.0315):
    with np.errstate(all="ignore"):
        for _ in range(times):
            square = x @ x.T
            x = a * x + b * square @ x + c * square @ square @ x
    return x


@ORTHOGONALISED.mistake("This is U V^T itself, from a decomposition; the rounds come near it by matrix products alone.")
def decomposed(g):
    u, _, v = np.linalg.svd(g, full_matrices=False)
    return u @ v


@ORTHOGONALISED.mistake("The first x is not divided by its length: sizes up to 1 come near 1, larger ones explode.")
def not_divided(g):
    return rounds(g)


@ORTHOGONALISED.mistake("This divides by the largest number in g; its length is the root of the sum of squares.")
def divided_by_the_largest(g):
    return rounds(g / (np.abs(g).max() + 1e-7))


@ORTHOGONALISED.mistake("This divides by the largest singular value; the length is the root of the sum of all squares.")
def divided_by_the_largest_size(g):
    return rounds(g / (np.linalg.norm(g, 2) + 1e-7))


@ORTHOGONALISED.mistake("This divides by the sum of squares; the length is the root of it.")
def root_forgotten(g):
    return rounds(g / ((g * g).sum() + 1e-7))


@ORTHOGONALISED.mistake("Each row is divided by its own length; the whole matrix has one.")
def rows_of_length_1(g):
    return rounds(g / (np.sqrt((g * g).sum(1, keepdims=True)) + 1e-7))


@ORTHOGONALISED.mistake("This is one round too few: five are asked for.")
def four_rounds(g):
    return rounds(g / length(g), 4)


@ORTHOGONALISED.mistake("This is one round; five are asked for, each beginning with the x that the last one made.")
def one_round(g):
    return rounds(g / length(g), 1)


@ORTHOGONALISED.mistake("x x^T stays that of the first x; each round takes it from its own.")
def square_of_the_first(g):
    x = g / length(g)
    square = x @ x.T
    for _ in range(5):
        x = 3.4445 * x - 4.775 * square @ x + 2.0315 * square @ square @ x
    return x


@ORTHOGONALISED.mistake("The third part is missing: c (x x^T)^2 x.")
def without_the_fifth_power(g):
    return rounds(g / length(g), c=0)


@ORTHOGONALISED.mistake("The length is multiplied back in at the end; the result's size does not depend on that of g.")
def length_put_back(g):
    return rounds(g / length(g)) * length(g)


@ORTHOGONALISED.mistake("b and c are exchanged.")
def exchanged(g):
    return rounds(g / length(g), b=2.0315, c=-4.775)


@ORTHOGONALISED.mistake("The powers are taken number by number; x x^T and its square are products of matrices.")
def powers_of_numbers(g):
    x = g / length(g)
    for _ in range(5):
        x = 3.4445 * x - 4.775 * x ** 3 + 2.0315 * x ** 5
    return x


@ORTHOGONALISED.mistake("Each number of x x^T is squared; (x x^T)^2 is its matrix product with itself.")
def squares_of_numbers(g):
    x = g / length(g)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.775 * square @ x + 2.0315 * square ** 2 @ x
    return x


@ORTHOGONALISED.mistake("The 1e-7 is missing: a gradient of zeros becomes 0 / 0.")
def zeros_divided_by_zero(g):
    with np.errstate(all="ignore"):
        return rounds(g / np.sqrt((g * g).sum()))
