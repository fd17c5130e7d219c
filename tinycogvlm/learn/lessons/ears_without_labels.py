"""Lesson 55: spans to hide, a round of k-means, the loss of guessing hidden clusters."""
import math

import numpy as np

from ...contracts import Contract, random
from ...contracts.contract import EXACT, TOLERANCE
from ...nn import ops
from ...relatives import hubert
from ..exercise import Exercise

# --------------------------------------------------------------------------------------------------------------- hidden


def hidden(starts, frames, length):
    """Which frames lie in a span of `length` that begins at one of `starts`"""
    y = np.zeros(frames, bool)
    for start in starts:
        for t in range(int(start), min(int(start) + length, frames)):
            y[t] = True
    return y


def hidden_cases():
    yield "two spans", dict(starts=np.array([1, 6]), frames=12, length=3)
    yield "spans that overlap", dict(starts=np.array([2, 4]), frames=10, length=4)
    yield "a span at the end", dict(starts=np.array([0, 7]), frames=8, length=2)
    yield "none", dict(starts=np.array([], int), frames=4, length=2)


HIDDEN = Exercise(Contract("hidden", hidden, hidden_cases, EXACT), hidden, (hubert.spans,))


@HIDDEN.mistake("Only the first frame of each span is hidden; the next length - 1 are, too.")
def only_starts_hidden(starts, frames, length):
    y = np.zeros(frames, bool)
    y[starts] = True
    return y


@HIDDEN.mistake("The other way round: True says that a frame is hidden.")
def hidden_inverted(starts, frames, length):
    return ~hidden(starts, frames, length)


@HIDDEN.mistake("Each span is a frame too long: it ends before start + length.")
def hidden_one_too_many(starts, frames, length):
    return hidden(starts, frames, length + 1)


@HIDDEN.mistake("Where two spans overlap nothing is hidden: set the frames to True, do not count or flip them.")
def hidden_flipped(starts, frames, length):
    counts = np.zeros(frames, int)
    for start in starts:
        counts[start:start + length] += 1
    return counts % 2 == 1


# -------------------------------------------------------------------------------------------------------------- k_means

def k_means_round(x, centres):
    """The mean of the rows of x to which each centre is the nearest; a centre without rows stays"""
    y = centres.copy()
    nearest = [min(range(len(centres)), key=lambda i: ((row - centres[i]) ** 2).sum()) for row in x]
    for i in range(len(centres)):
        mine = [row for row, of in zip(x, nearest) if of == i]
        if mine:
            y[i] = sum(mine) / len(mine)
    return y


def k_means_cases():
    yield "two heaps", dict(x=np.array([[0.0, 0], [0, 2], [10, 10], [12, 10]]), centres=np.array([[1.0, 1], [9, 9]]))
    yield "a centre that nothing is near", dict(x=np.array([[0.0], [1], [2]]), centres=np.array([[1.0], [50]]))
    yield "more rows", dict(x=random(30, 4), centres=random(5, 4, seed=1))


def package_k_means(x, centres):
    labels = hubert.clusters(x, centres)
    return np.stack([x[labels == i].mean(0) if (labels == i).any() else centres[i] for i in range(len(centres))])


K_MEANS = Exercise(Contract("k_means_round", k_means_round, k_means_cases, TOLERANCE), package_k_means,
                   (hubert.k_means, hubert.clusters))


@K_MEANS.mistake("Rows go to the farthest centre: the smallest distance counts, argmin.")
def k_means_farthest(x, centres):
    labels = ((x[:, None] - centres) ** 2).sum(-1).argmax(1)
    return np.stack([x[labels == i].mean(0) if (labels == i).any() else centres[i] for i in range(len(centres))])


@K_MEANS.mistake("A centre without rows must stay where it is; here it becomes 0 or NaN.")
def k_means_of_nothing(x, centres):
    labels = hubert.clusters(x, centres)
    return np.stack([x[labels == i].mean(0) if (labels == i).any() else 0 * centres[i] for i in range(len(centres))])


@K_MEANS.mistake("A centre without rows must stay where it is: the mean of nothing is NaN.")
def k_means_mean_of_nothing(x, centres):
    labels = hubert.clusters(x, centres)
    with np.errstate(invalid="ignore"):
        return np.stack([x[labels == i].sum(0) / (labels == i).sum() for i in range(len(centres))])


@K_MEANS.mistake("A centre becomes the sum of its rows; divide by how many there are.")
def k_means_sums(x, centres):
    labels = hubert.clusters(x, centres)
    return np.stack([x[labels == i].sum(0) if (labels == i).any() else centres[i] for i in range(len(centres))])


@K_MEANS.mistake("The rows' signed differences are added up; distances need squares: ((x - centre) ** 2).sum(-1).")
def k_means_without_squares(x, centres):
    labels = (x[:, None] - centres).sum(-1).argmin(1)
    return np.stack([x[labels == i].mean(0) if (labels == i).any() else centres[i] for i in range(len(centres))])


# ---------------------------------------------------------------------------------------------------------- masked_loss

def masked_loss(features, codes, targets, hidden, temperature):
    """The mean over hidden frames of -log softmax(cosines to all codes / temperature)[target]"""
    total = 0.0
    for row, target, is_hidden in zip(features, targets, hidden):
        if is_hidden:
            logits = [row @ code / math.sqrt((row @ row) * (code @ code)) / temperature for code in codes]
            top = max(logits)
            total += top + math.log(sum(math.exp(logit - top) for logit in logits)) - logits[target]
    return np.asarray(total / hidden.sum(), features.dtype)


def masked_loss_cases():
    yield "one of two frames hidden", dict(features=np.array([[3.0, 0], [0, 2]]), codes=2 * np.eye(2),
                                           targets=np.array([0, 0]), hidden=np.array([False, True]), temperature=1.0)
    yield "two of three", dict(features=np.array([[3.0, 0], [0, 2], [1, 1]]), codes=np.eye(2),
                               targets=np.array([0, 0, 1]), hidden=np.array([True, True, False]), temperature=0.5)
    yield "a low temperature", dict(features=random(6, 5), codes=random(4, 5, seed=1),
                                    targets=np.array([0, 3, 1, 2, 2, 0]),
                                    hidden=np.array([True, False, True, True, False, True]), temperature=0.1)


def cosines(features, codes):
    unit = [rows / np.sqrt((rows ** 2).sum(-1, keepdims=True)) for rows in (features, codes)]
    return unit[0] @ unit[1].T


def guessed(logits, targets):
    return ops.cross_entropy.own(logits, targets)[0]


def package_masked_loss(features, codes, targets, hidden, temperature):
    return guessed(cosines(features[hidden], codes) / temperature, targets[hidden])


MASKED_LOSS = Exercise(Contract("masked_loss", masked_loss, masked_loss_cases, TOLERANCE), package_masked_loss,
                       (hubert.loss,))


@MASKED_LOSS.mistake("All frames count here; HuBERT is asked only about those that are hidden.")
def loss_of_all_frames(features, codes, targets, hidden, temperature):
    return guessed(cosines(features, codes) / temperature, targets)


@MASKED_LOSS.mistake("The frames that are seen count here; the hidden ones should.")
def loss_of_seen_frames(features, codes, targets, hidden, temperature):
    return guessed(cosines(features[~hidden], codes) / temperature, targets[~hidden])


@MASKED_LOSS.mistake("Dot products are taken; cosines are those of rows of length 1.")
def loss_of_dot_products(features, codes, targets, hidden, temperature):
    return guessed(features[hidden] @ codes.T / temperature, targets[hidden])


@MASKED_LOSS.mistake("The logits are multiplied by the temperature; they are divided by it.")
def loss_times_temperature(features, codes, targets, hidden, temperature):
    return guessed(cosines(features[hidden], codes) * temperature, targets[hidden])


@MASKED_LOSS.mistake("The sum over hidden frames is divided by the number of all frames.")
def loss_over_all_frames(features, codes, targets, hidden, temperature):
    return package_masked_loss(features, codes, targets, hidden, temperature) * hidden.mean()


@MASKED_LOSS.mistake("This is the sum over the hidden frames; the mean was asked for.")
def loss_summed(features, codes, targets, hidden, temperature):
    return package_masked_loss(features, codes, targets, hidden, temperature) * hidden.sum()
