"""Lesson 06: the losses from which the vision tower learns: contrast, names of patches, boxes."""
import math
from types import SimpleNamespace

import numpy as np

from ...contracts import Contract, over, random
from ...contracts import ops as specifications
from ...contracts.contract import EXACT, TOLERANCE
from ...nn import ops
from ...train.recipe import contrast
from ...world.scenes import BACKGROUNDS, NAMES
from ..exercise import Exercise

BACKGROUND, UNCLEAR = -1, -100
LOG_OF_ZERO = ("A probability has become 0 before the logarithm, so the loss is infinite: log softmax(z) is "
               "z - log(sum(exp(z))), which needs no probability.")


def log_softmax(scores, axis):
    scores = scores - scores.max(axis, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis, keepdims=True))


# ---------------------------------------------------------------------------------------------------- contrastive_loss

def contrastive_loss(pictures, texts):
    """The mean of both directions' cross-entropies, where the right answer to i is i"""
    scores = np.array([[sum(a * b for a, b in zip(picture, text)) for text in texts.tolist()]
                       for picture in pictures.tolist()])
    own = np.arange(len(pictures))
    return (specifications.cross_entropy(scores, own) + specifications.cross_entropy(scores.T, own)) / 2


def contrastive_loss_cases():
    for label, N, D, scale in (("two pairs", 2, 3, 1), ("five pairs", 5, 4, 1), ("one pair", 1, 3, 1),
                               ("large scores", 4, 3, 30)):
        yield label, dict(pictures=random(N, D, scale=scale), texts=random(N, D, seed=1, scale=scale))
    yield "large scores of own pairs", dict(pictures=random(3, 3, scale=30), texts=random(3, 3, scale=30))


def package_contrastive_loss(pictures, texts):
    """As train/recipe/contrast.py does."""
    scores, own = pictures @ texts.T, np.arange(len(pictures))
    return (ops.cross_entropy.own(scores, own)[0] + ops.cross_entropy.own(scores.T, own)[0]) / 2


CONTRASTIVE_LOSS = Exercise(Contract("contrastive_loss", contrastive_loss, contrastive_loss_cases, TOLERANCE),
                            package_contrastive_loss, (contrast.loss, ops.cross_entropy),
                            toy=dict(pictures=np.eye(2), texts=np.log(3) * np.eye(2)))


def directions(pictures, texts):
    """-log p of every own pair: pictures that look for their texts, texts that look for their pictures"""
    scores = pictures @ texts.T
    return [-np.diagonal(log_softmax(scores, axis)) for axis in (1, 0)]


@CONTRASTIVE_LOSS.mistake(
    "Only the pictures look for their texts; each text must find its picture, too: the same with scores.T.")
def pictures_alone(pictures, texts):
    return directions(pictures, texts)[0].mean()


@CONTRASTIVE_LOSS.mistake("Only the texts look for their pictures; each picture must find its text, too.")
def texts_alone(pictures, texts):
    return directions(pictures, texts)[1].mean()


@CONTRASTIVE_LOSS.mistake("The two directions are added; the loss is their mean.")
def directions_added(pictures, texts):
    return sum(losses.mean() for losses in directions(pictures, texts))


@CONTRASTIVE_LOSS.mistake("The losses of the pairs are added; the loss is their mean.")
def pairs_added(pictures, texts):
    return sum(losses.sum() for losses in directions(pictures, texts)) / 2


@CONTRASTIVE_LOSS.mistake("The sign is wrong: the loss is MINUS the logarithm of the probability.")
def sign_missing(pictures, texts):
    return -package_contrastive_loss(pictures, texts)


@CONTRASTIVE_LOSS.mistake("There is no softmax: own pairs should score higher than other pairs, not just high.")
def own_scores_alone(pictures, texts):
    return -(pictures * texts).sum(-1).mean()


@CONTRASTIVE_LOSS.mistake("Softmax runs over the whole matrix; each picture has a row of its own, each text a column.")
def softmax_of_the_whole_matrix(pictures, texts):
    scores = pictures @ texts.T
    return -np.diagonal(log_softmax(scores.reshape(1, -1), 1).reshape(scores.shape)).mean()


@CONTRASTIVE_LOSS.mistake(
    "The rows are scaled to length 1 first, as in CLIP; here the scores are the dot products as they are.")
def of_length_1(pictures, texts):
    return package_contrastive_loss(pictures / np.linalg.norm(pictures, axis=-1, keepdims=True),
                                    texts / np.linalg.norm(texts, axis=-1, keepdims=True))


@CONTRASTIVE_LOSS.mistake("exp overflows for large scores: subtract the largest of each row first.")
def contrast_overflows(pictures, texts):
    with np.errstate(all="ignore"):
        e = np.exp(pictures @ texts.T)
        return -sum(np.log(np.diagonal(e / e.sum(axis, keepdims=True))).mean() for axis in (0, 1)) / 2


@CONTRASTIVE_LOSS.mistake(LOG_OF_ZERO)
def contrast_of_log_of_zero(pictures, texts):
    scores = pictures @ texts.T
    with np.errstate(divide="ignore"):
        return -sum(np.log(np.diagonal(np.exp(log_softmax(scores, axis)))).mean() for axis in (0, 1)) / 2


# ------------------------------------------------------------------------------------------------------- patch_targets

def patch_targets(owner, size):
    """Counted pixel by pixel: the thing with most of a patch, if that is more than 35 %; -100 above 5 %; else -1"""
    n, pixels = len(owner) // size, size * size
    targets = np.zeros(n * n, int)
    for p in range(n * n):
        row, column = size * (p // n), size * (p % n)
        seen = [int(owner[row + i, column + j]) for i in range(size) for j in range(size)]
        things = [number for number in seen if number >= 0]
        most = max(sorted(set(things)), key=things.count, default=0)
        targets[p] = (most if things.count(most) > 0.35 * pixels else
                      UNCLEAR if len(things) > 0.05 * pixels else BACKGROUND)
    return targets


def patch_targets_cases():
    def painted(side, *boxes):
        owner = np.full((side, side), -1)
        for number, (x0, y0, x1, y1) in enumerate(boxes):
            owner[y0:y1, x0:x1] = number
        return owner
    yield "two things", dict(owner=np.array([[-1, -1, 0, 0], [-1, 0, 0, 0], [-1, -1, 1, 1], [-1, -1, -1, 1]]), size=2)
    yield "nothing there", dict(owner=painted(6), size=3)
    yield "one thing, its edges", dict(owner=painted(20, (3, 4, 14, 12)), size=5)
    yield "three things, one over another", dict(owner=painted(24, (0, 0, 11, 9), (8, 3, 24, 13), (2, 15, 7, 24)),
                                                 size=6)
    yield "two things share a patch", dict(owner=painted(4, (0, 0, 1, 4), (2, 0, 4, 4)), size=4)
    yield "neither of two has enough", dict(owner=painted(4, (0, 0, 1, 4), (2, 0, 3, 4)), size=4)
    yield "no more than a corner", dict(owner=painted(10, (0, 0, 6, 6)), size=5)
    yield "pixels beyond the last patch", dict(owner=painted(11, (5, 1, 11, 11)), size=4)
    yield "two things of 4 % each", dict(owner=painted(10, (0, 0, 4, 1), (6, 9, 10, 10)), size=10)
    yield "exactly 35 %", dict(owner=painted(20, (0, 0, 7, 5)), size=10)
    yield "exactly 5 %", dict(owner=painted(20, (12, 0, 17, 1)), size=10)


def package_patch_targets(owner, size):
    """What the package says of a scene with these owners, with a thing's number in place of its name's."""
    things = [SimpleNamespace(name=name, box=(0, 0, 0, 0)) for name in NAMES[:max(1, owner.max() + 1)]]
    scene = SimpleNamespace(side=len(owner), owner=owner, things=things, background=BACKGROUNDS[0],
                            picture=np.zeros((*owner.shape, 3), np.uint8))
    _, targets, _, _ = contrast.examples([scene], size)
    return np.where(targets[0] >= len(NAMES), BACKGROUND, targets[0])


PATCH_TARGETS = Exercise(Contract("patch_targets", patch_targets, patch_targets_cases, EXACT),
                         package_patch_targets, (contrast.examples,))


def squares(owner, size):
    """(P, pixels), row by row"""
    n = len(owner) // size
    cut = owner[:n * size, :n * size].reshape(n, size, n, size).swapaxes(1, 2)
    return cut.reshape(n * n, size * size)


def judged(owner, size, named=lambda largest, together: largest > 0.35,
           unclear=lambda largest, together: together > 0.05):
    """Targets by these two conditions on the share of a patch's largest thing, and of all things together"""
    pixels = squares(owner, size)
    shares = np.stack([(pixels == number).mean(1) for number in range(max(1, pixels.max() + 1))])
    largest, together = shares.max(0), shares.sum(0)
    nameless = np.where(unclear(largest, together), UNCLEAR, BACKGROUND)
    return np.where(named(largest, together), shares.argmax(0), nameless)


@PATCH_TARGETS.mistake("The patches come column by column; they are counted row by row, in reading order.")
def targets_by_columns(owner, size):
    return patch_targets(owner.T, size)


@PATCH_TARGETS.mistake(
    "Every patch without a name is background here; one of which things cover more than 5 % is -100.")
def unclear_is_background(owner, size):
    return judged(owner, size, unclear=lambda largest, together: together < 0)


@PATCH_TARGETS.mistake("owner is reshaped without a transpose: these are pieces of rows, not squares.")
def pieces_of_rows(owner, size):
    n = len(owner) // size
    pieces = owner[:n * size, :n * size].reshape(n, n, size, size)
    return patch_targets(pieces.swapaxes(1, 2).reshape(n * size, n * size), size)


@PATCH_TARGETS.mistake("A thing names every patch that it touches here; it needs more than 35 % of the patch.")
def touched_is_named(owner, size):
    return judged(owner, size, lambda largest, together: largest > 0, lambda largest, together: together < 0)


@PATCH_TARGETS.mistake("The pixel in the middle of a patch decides here; the shares of the patch should.")
def middle_pixel(owner, size):
    n = len(owner) // size
    middle = size // 2 + size * np.arange(n)
    return owner[np.ix_(middle, middle)].reshape(-1)


@PATCH_TARGETS.mistake("All things together are compared with 35 %; it must be one thing.")
def things_together(owner, size):
    return judged(owner, size, named=lambda largest, together: together > 0.35)


@PATCH_TARGETS.mistake("The largest thing alone is compared with 5 %; it is all things together.")
def unclear_by_the_largest(owner, size):
    return judged(owner, size, unclear=lambda largest, together: largest > 0.05)


@PATCH_TARGETS.mistake("Exactly 35 % or exactly 5 % is counted as more than that: use >, not >=.")
def bounds_included(owner, size):
    return judged(owner, size, lambda largest, together: largest >= 0.35, lambda largest, together: together >= 0.05)


@PATCH_TARGETS.mistake(
    "The target is -100 from the first pixel on; a patch with up to 5 % of things is still background.")
def unclear_from_the_first_pixel(owner, size):
    return judged(owner, size, unclear=lambda largest, together: together > 0)


# ---------------------------------------------------------------------------------------------------------- patch_loss

def patch_loss(x, words, spelled, targets):
    """The cross-entropy of each patch with the texts, a text being the sum of its words; the mean over clear patches"""
    scores = np.zeros((len(x), len(spelled)))
    for p, c in over(*scores.shape):
        name = sum(words[w] for w in range(len(words)) if spelled[c, w])
        scores[p, c] = float(sum(a * b for a, b in zip(x[p].tolist(), name.tolist())))
    return specifications.cross_entropy(scores, targets)


def patch_loss_cases():
    spelled = np.array([[1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1.0]])
    for label, targets, scale in (("all clear", [3, 0, 2], 1), ("some unclear", [1, -100, 3, 3, -100], 1),
                                  ("one patch", [2], 1), ("large scores", [0, 1, -100, 2], 30)):
        yield label, dict(x=random(len(targets), 3, scale=scale), words=random(5, 3, seed=1, scale=scale),
                          spelled=spelled, targets=np.array(targets))


def package_patch_loss(x, words, spelled, targets):
    """As train/recipe/contrast.py does."""
    return ops.cross_entropy.own(x @ (spelled @ words).T, targets)[0]


PATCH_LOSS = Exercise(Contract("patch_loss", patch_loss, patch_loss_cases, TOLERANCE),
                      package_patch_loss, (contrast.loss, ops.cross_entropy), toy=dict(
                          x=np.log(3) / 2 * np.ones((1, 2)), words=np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]),
                          spelled=np.array([[1.0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]]),
                          targets=np.array([0])))


def losses_of(scores, targets, axis=1):
    """-log p of every clear patch's own text"""
    clear = np.flatnonzero(targets != UNCLEAR)
    return -log_softmax(scores[clear], axis)[np.arange(len(clear)), targets[clear]]


@PATCH_LOSS.mistake("The mean is over all patches; those with target -100 do not count.")
def mean_over_all_patches(x, words, spelled, targets):
    return losses_of(x @ (spelled @ words).T, targets).sum() / len(targets)


@PATCH_LOSS.mistake("The losses are added; the loss is their mean.")
def patches_added(x, words, spelled, targets):
    return losses_of(x @ (spelled @ words).T, targets).sum()


@PATCH_LOSS.mistake("The sign is wrong: the loss is MINUS the logarithm of the probability.")
def patch_loss_negative(x, words, spelled, targets):
    return -package_patch_loss(x, words, spelled, targets)


@PATCH_LOSS.mistake(
    "Softmax runs over the patches; each patch chooses among the texts: one row of scores for each patch.")
def softmax_over_patches(x, words, spelled, targets):
    return losses_of(x @ (spelled @ words).T, targets, axis=0).mean()


@PATCH_LOSS.mistake(
    "The scores are those of single words; a target is the number of a text, the sum of its words: spelled @ words.")
def words_without_spelling(x, words, spelled, targets):
    return losses_of(x @ words.T, targets).mean()


@PATCH_LOSS.mistake("A text is the mean of its words here; it should be their sum: spelled @ words.")
def words_averaged(x, words, spelled, targets):
    return losses_of(x @ (spelled / spelled.sum(1, keepdims=True) @ words).T, targets).mean()


@PATCH_LOSS.mistake("-100 is used as an index or as the background; patches with that target do not count at all.")
def unclear_counted(x, words, spelled, targets):
    return losses_of(x @ (spelled @ words).T, np.where(targets == UNCLEAR, len(spelled) - 1, targets)).mean()


@PATCH_LOSS.mistake("exp overflows for large scores: subtract the largest of each row first.")
def patch_loss_overflows(x, words, spelled, targets):
    clear = np.flatnonzero(targets != UNCLEAR)
    with np.errstate(all="ignore"):
        e = np.exp((x @ (spelled @ words).T)[clear])
        return -np.log((e / e.sum(1, keepdims=True))[np.arange(len(clear)), targets[clear]]).mean()


@PATCH_LOSS.mistake(LOG_OF_ZERO)
def patch_loss_of_log_of_zero(x, words, spelled, targets):
    with np.errstate(divide="ignore"):
        return -np.log(np.exp(-losses_of(x @ (spelled @ words).T, targets))).mean()


# ------------------------------------------------------------------------------------------------------------ box_loss

def box_loss(places, boxes, beta):
    """Smooth L1 of the errors, and its slope with respect to each number of `places`, a number at a time"""
    slopes = np.zeros(places.shape)
    for place in over(*places.shape):
        e = float(places[place]) - float(boxes[place])
        slopes[place] = (e / beta if abs(e) < beta else math.copysign(1, e)) / places.size
    return specifications.smooth_l1(places - boxes, beta), slopes


def box_loss_cases():
    for label, N, beta, scale in (("two boxes", 2, 0.5, 1), ("one box", 1, 0.1, 1), ("all near", 3, 1.0, 0.1),
                                  ("all far", 3, 0.01, 9), ("many", 20, 0.5, 1)):
        yield label, dict(places=random(N, 4, scale=scale), boxes=random(N, 4, seed=1, scale=scale), beta=beta)
    places = np.array([[0.5, 1.5, 2.0, 2.5]])
    yield "errors of beta, and none", dict(places=places, boxes=places - [[0.5, -0.5, 0, 1]], beta=0.5)


def package_box_loss(places, boxes, beta):
    """As train/recipe/contrast.py does."""
    loss, pull = ops.smooth_l1.own(places - boxes, beta)
    return loss, pull()


BOX_LOSS = Exercise(Contract("box_loss", box_loss, box_loss_cases, TOLERANCE),
                    package_box_loss, (contrast.loss, ops.smooth_l1))


def pieces(e, beta):
    """Smooth L1 and its slope, of each number"""
    return np.where(abs(e) < beta, e ** 2 / (2 * beta), abs(e) - beta / 2), np.clip(e / beta, -1, 1)


@BOX_LOSS.mistake("Far away beta / 2 is subtracted, so that both pieces meet where |e| = beta.")
def pieces_apart(places, boxes, beta):
    e = places - boxes
    losses, slopes = pieces(e, beta)
    return np.where(abs(e) < beta, losses, abs(e)).mean(), slopes / e.size


@BOX_LOSS.mistake("Near 0 the square is divided by 2 beta, not by 2; otherwise the pieces do not meet.")
def square_not_over_beta(places, boxes, beta):
    e = places - boxes
    losses, slopes = pieces(e, beta)
    return np.where(abs(e) < beta, e ** 2 / 2, losses).mean(), np.where(abs(e) < beta, e, slopes) / e.size


@BOX_LOSS.mistake("This is the absolute value alone; near 0 a square takes its place.")
def absolute_value_alone(places, boxes, beta):
    e = places - boxes
    return abs(e).mean(), np.sign(e) / e.size


@BOX_LOSS.mistake("This is the square alone; where |e| >= beta, the loss is |e| - beta / 2, of slope 1 or -1.")
def square_alone(places, boxes, beta):
    e = places - boxes
    return (e ** 2 / (2 * beta)).mean(), e / beta / e.size


@BOX_LOSS.mistake("The losses are added; the loss is the mean over all the numbers of all boxes.")
def boxes_added(places, boxes, beta):
    losses, slopes = pieces(places - boxes, beta)
    return losses.sum(), slopes


@BOX_LOSS.mistake(
    "The sum is divided by the number of boxes; each box has four numbers, and the mean is over all of them.")
def mean_over_boxes(places, boxes, beta):
    losses, slopes = pieces(places - boxes, beta)
    return losses.sum() / len(losses), slopes / len(losses)


@BOX_LOSS.mistake(
    "The loss is right. In a mean each number has a share of 1 / (4 N): the slopes are divided by 4 N, too.")
def slopes_not_divided(places, boxes, beta):
    losses, slopes = pieces(places - boxes, beta)
    return losses.mean(), slopes


@BOX_LOSS.mistake("The slopes have the wrong sign: the error is places - boxes, and grows with places.")
def slopes_turned_round(places, boxes, beta):
    losses, slopes = pieces(places - boxes, beta)
    return losses.mean(), -slopes / slopes.size


@BOX_LOSS.mistake("Far away the slope is the sign of the error: -1 where it is negative.")
def slopes_without_sign(places, boxes, beta):
    e = places - boxes
    losses, _ = pieces(e, beta)
    return losses.mean(), np.where(abs(e) < beta, e / beta, 1) / e.size


@BOX_LOSS.mistake("The slope of e^2 / (2 beta) is e / beta: the 2 cancels.")
def two_left_over(places, boxes, beta):
    e = places - boxes
    losses, slopes = pieces(e, beta)
    return losses.mean(), np.where(abs(e) < beta, slopes / 2, slopes) / e.size
