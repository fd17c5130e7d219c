"""Lesson 58: an adapter by least squares, an expert that differs by a low rank, and a teacher's probabilities."""
import math

import numpy as np

from ...contracts import Contract, over, random
from ...contracts.contract import TOLERANCE
from ...model import expert
from ...nn.tree import Params
from ...train.eyes import distil
from ...train.eyes import least_squares as fitting
from ..exercise import Exercise
from .attention import softmax

# ------------------------------------------------------------------------------------------------------- least_squares


def least_squares(x, y, ridge):
    """(x^T x + ridge) W^T = x^T y, by Gauss-Jordan elimination"""
    I, O = x.shape[1], y.shape[1]
    rows = [[math.fsum(x[:, i] * x[:, j]) + (ridge if i == j else 0.0) for j in range(I)]
            + [math.fsum(x[:, i] * y[:, o]) for o in range(O)] for i in range(I)]
    for i in range(I):
        best = max(range(i, I), key=lambda row: abs(rows[row][i]))
        rows[i], rows[best] = rows[best], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(I):
            if k != i:
                rows[k] = [value - rows[k][i] * other for value, other in zip(rows[k], rows[i])]
    return np.array([[rows[i][I + o] for i in range(I)] for o in range(O)])


def least_squares_cases():
    for label, n, I, O, ridge in (("more rows than features", 12, 3, 2, 0.5), ("one feature", 5, 1, 2, 0.5),
                                  ("as many features as targets", 9, 3, 3, 2.0), ("no ridge", 20, 3, 2, 0.0),
                                  ("fewer rows than features", 2, 4, 3, 1.0)):
        yield label, dict(x=random(n, I), y=random(n, O, seed=1), ridge=ridge)


LEAST_SQUARES = Exercise(
    Contract("least_squares", least_squares, least_squares_cases, {"float64": 1e-9, "float32": 1e-4}),
    lambda x, y, ridge: fitting.solved(x.T @ x, x.T @ y, ridge), (fitting.solved, fitting.adapter_for))


@LEAST_SQUARES.mistake("The ridge is missing: the term ridge times the identity, beside x^T x.")
def without_the_ridge(x, y, ridge):
    return np.linalg.lstsq(x, y, rcond=None)[0].T


@LEAST_SQUARES.mistake("The ridge is added to every entry of x^T x; it stands on the diagonal alone.")
def ridge_everywhere(x, y, ridge):
    return np.linalg.solve(x.T @ x + x.dtype.type(ridge), x.T @ y).T


@LEAST_SQUARES.mistake("The result is transposed: W is (O, I), so that x @ W.T is (n, O).")
def transposed(x, y, ridge):
    return fitting.solved(x.T @ x, x.T @ y, ridge).T


@LEAST_SQUARES.mistake("The ridge is squared: it is added to x^T x as it is.")
def ridge_squared(x, y, ridge):
    return fitting.solved(x.T @ x, x.T @ y, ridge ** 2)


@LEAST_SQUARES.mistake("The ridge grows with the number of rows; the sums over rows are not means, so it is added as it is.")
def ridge_of_a_mean(x, y, ridge):
    return fitting.solved(x.T @ x, x.T @ y, ridge * len(x))


# ------------------------------------------------------------------------------------------------------------ low_rank

def low_rank(x, w, a, b):
    """y[n, o] = sum_i x[n, i] (w[o, i] + sum_r b[o, r] a[r, i])"""
    y = np.zeros((len(x), len(w)))
    for n, o in over(*y.shape):
        y[n, o] = math.fsum(x[n, i] * (w[o, i] + math.fsum(b[o, r] * a[r, i] for r in range(len(a))))
                            for i in range(x.shape[1]))
    return y


def low_rank_cases():
    for label, n, I, O, r in (("rank 2", 3, 5, 4, 2), ("rank 1, one row", 1, 3, 6, 1), ("square", 4, 3, 3, 3)):
        yield label, dict(x=random(n, I), w=random(O, I, seed=1), a=random(r, I, seed=2), b=random(O, r, seed=3))


def package_low_rank(x, w, a, b):
    return expert.dense(x, Params({"weight": w, "lora_A.weight": a, "lora_B.weight": b}))[0]


LOW_RANK = Exercise(Contract("low_rank", low_rank, low_rank_cases, TOLERANCE), package_low_rank, (expert.dense,))


@LOW_RANK.mistake("This is the difference alone; the language model's own x W^T is missing.")
def difference_alone(x, w, a, b):
    return x @ a.T @ b.T


@LOW_RANK.mistake("This is the language model's own matrix alone; the difference is missing.")
def own_matrix_alone(x, w, a, b):
    return x @ w.T


@LOW_RANK.mistake("The difference is subtracted; it is added.")
def subtracted(x, w, a, b):
    return x @ w.T - x @ a.T @ b.T


@LOW_RANK.mistake("The difference is divided by the rank; here it counts as it is.")
def divided_by_the_rank(x, w, a, b):
    return x @ w.T + x @ a.T @ b.T / len(a)


# -------------------------------------------------------------------------------------------------- soft_cross_entropy

def soft_cross_entropy(logits, best, shares):
    """loss = mean over rows of -sum_k p_k log softmax(logits)[best_k]; its gradient is (softmax - p) / rows"""
    loss, gradient = 0.0, np.zeros(logits.shape)
    for n, row in enumerate(logits):
        total = math.log(math.fsum(math.exp(value - row.max()) for value in row)) + row.max()
        p = [0.0] * len(row)
        for token, share in zip(best[n], shares[n]):
            p[token] = share / math.fsum(shares[n])
        loss -= math.fsum(share * (value - total) for share, value in zip(p, row)) / len(logits)
        gradient[n] = [(math.exp(value - total) - share) / len(logits) for share, value in zip(p, row)]
    return np.array(loss), gradient


def soft_cross_entropy_cases():
    for label, n, V, K, scale in (("two tokens of seven", 4, 7, 2, 1), ("one row", 1, 5, 3, 1), ("one certain token", 3, 6, 1, 1),
                                  ("large logits", 2, 5, 2, 500)):
        generator = np.random.default_rng([n, V])
        best = np.array([generator.permutation(V)[:K] for _ in range(n)])
        shares = generator.dirichlet(np.ones(K), n) * 0.8       # what the K best leave to all others is given up
        yield label, dict(logits=random(n, V, scale=scale), best=best, shares=shares)


def package_soft_cross_entropy(logits, best, shares):
    value, pull = distil.soft_cross_entropy(logits, best, shares)
    return value, pull()


SOFT_CROSS_ENTROPY = Exercise(
    Contract("soft_cross_entropy", soft_cross_entropy, soft_cross_entropy_cases, TOLERANCE),
    package_soft_cross_entropy, (distil.soft_cross_entropy,))


def loss_and_gradient(logits, best, shares, rows=None):
    p = np.zeros_like(logits)
    p[np.arange(len(best))[:, None], best] = shares
    x = logits - logits.max(-1, keepdims=True)
    log_q = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return -(p * log_q).sum() / len(best), (np.exp(log_q) * p.sum(-1, keepdims=True) - p) / (rows or len(best))


@SOFT_CROSS_ENTROPY.mistake("exp overflows for large logits: subtract the largest of each row first.")
def largest_not_subtracted(logits, best, shares):
    with np.errstate(all="ignore"):
        q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        p = np.zeros_like(logits)
        np.put_along_axis(p, best, shares / shares.sum(-1, keepdims=True), -1)
        return -(p * np.log(q)).sum() / len(best), (q - p) / len(best)


AS_THEY_ARE = "The shares are taken as they are; those of a row are to be divided by their sum first."


@SOFT_CROSS_ENTROPY.mistake(AS_THEY_ARE)
def shares_as_they_are(logits, best, shares):
    value, gradient = loss_and_gradient(logits, best, shares)
    return value, gradient + (1 - shares.sum(-1, keepdims=True)) * softmax(logits) / len(best)


@SOFT_CROSS_ENTROPY.mistake(AS_THEY_ARE)
def gradient_of_shares_as_they_are(logits, best, shares):
    return loss_and_gradient(logits, best, shares)


@SOFT_CROSS_ENTROPY.mistake("The loss has the wrong sign: a logarithm of a probability is negative, and a minus stands before.")
def negative_loss(logits, best, shares):
    value, gradient = loss_and_gradient(logits, best, shares / shares.sum(-1, keepdims=True))
    return -value, gradient


@SOFT_CROSS_ENTROPY.mistake("Only the first of the best tokens counts here; the teacher's other guesses have shares, too.")
def the_first_alone(logits, best, shares):
    return loss_and_gradient(logits, best[:, :1], np.ones_like(shares[:, :1]))


@SOFT_CROSS_ENTROPY.mistake("The softmax is over the K best tokens alone; it is over the whole vocabulary.")
def softmax_of_the_best(logits, best, shares):
    shares, some = shares / shares.sum(-1, keepdims=True), np.take_along_axis(logits, best, -1)
    value, gradient = loss_and_gradient(some, np.broadcast_to(np.arange(best.shape[1]), best.shape), shares)
    whole = np.zeros_like(logits)
    np.put_along_axis(whole, best, gradient, -1)
    return value, whole


@SOFT_CROSS_ENTROPY.mistake("The gradient is that of the sum over the rows; the loss is their mean.")
def gradient_of_the_sum(logits, best, shares):
    return loss_and_gradient(logits, best, shares / shares.sum(-1, keepdims=True), rows=1)


@SOFT_CROSS_ENTROPY.mistake("The gradient has the wrong sign: it is softmax minus shares.")
def wrong_sign(logits, best, shares):
    value, gradient = loss_and_gradient(logits, best, shares / shares.sum(-1, keepdims=True))
    return value, -gradient


@SOFT_CROSS_ENTROPY.mistake("The shares are missing from the gradient: it is the softmax minus them.")
def softmax_alone(logits, best, shares):
    value, _ = loss_and_gradient(logits, best, shares / shares.sum(-1, keepdims=True))
    return value, (softmax(logits) / len(best)).astype(logits.dtype)
