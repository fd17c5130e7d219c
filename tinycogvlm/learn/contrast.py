"""The exercises about how the vision tower learns: what they must compute, and how the package computes it."""
import math
from types import SimpleNamespace

import numpy as np

from .. import contracts
from ..contracts.contract import TOLERANCE, Contract, random
from ..nn import ops
from ..train.recipe import contrast
from ..world.scenes import BACKGROUNDS, NAMES

EXACT = dict.fromkeys(TOLERANCE, 0.0)
BACKGROUND, UNCLEAR = -1, -100


def contrastive_loss(pictures, texts):
    """The mean of both directions' cross-entropies, where the right answer to i is i"""
    scores = np.array([[sum(a * b for a, b in zip(picture, text)) for text in texts.tolist()]
                       for picture in pictures.tolist()])
    own = np.arange(len(pictures))
    return (contracts.ops.cross_entropy(scores, own) + contracts.ops.cross_entropy(scores.T, own)) / 2


def contrastive_loss_cases():
    for label, N, D, scale in (("two pairs", 2, 3, 1), ("five pairs", 5, 4, 1), ("one pair", 1, 3, 1),
                               ("large scores", 4, 3, 30)):
        yield label, dict(pictures=random(N, D, scale=scale), texts=random(N, D, seed=1, scale=scale))


def package_contrastive_loss(pictures, texts, cross_entropy=ops.cross_entropy.own):
    """As train/vision.py does."""
    scores, own = pictures @ texts.T, np.arange(len(pictures))
    return (cross_entropy(scores, own)[0] + cross_entropy(scores.T, own)[0]) / 2


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


def package_patch_targets(owner, size, examples=contrast.examples):
    """What the package says of a scene with these owners, with a thing's number in place of its name's."""
    things = [SimpleNamespace(name=name, box=(0, 0, 0, 0)) for name in NAMES[:max(1, owner.max() + 1)]]
    scene = SimpleNamespace(side=len(owner), owner=owner, things=things, background=BACKGROUNDS[0],
                            picture=np.zeros((*owner.shape, 3), np.uint8))
    _, targets, _, _ = examples([scene], size)
    return np.where(targets[0] >= len(NAMES), BACKGROUND, targets[0])


def patch_loss(x, words, spelled, targets):
    """The cross-entropy of each patch with the texts, a text being the sum of its words; the mean over clear patches"""
    scores = np.zeros((len(x), len(spelled)))
    for p, c in contracts.over(*scores.shape):
        name = sum(words[w] for w in range(len(words)) if spelled[c, w])
        scores[p, c] = float(sum(a * b for a, b in zip(x[p].tolist(), name.tolist())))
    return contracts.ops.cross_entropy(scores, targets)


def patch_loss_cases():
    spelled = np.array([[1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1.0]])
    for label, targets, scale in (("all clear", [3, 0, 2], 1), ("some unclear", [1, -100, 3, 3, -100], 1),
                                  ("one patch", [2], 1), ("large scores", [0, 1, -100, 2], 30)):
        yield label, dict(x=random(len(targets), 3, scale=scale), words=random(5, 3, seed=1, scale=scale),
                          spelled=spelled, targets=np.array(targets))


def package_patch_loss(x, words, spelled, targets, cross_entropy=ops.cross_entropy.own):
    """As train/vision.py does."""
    return cross_entropy(x @ (spelled @ words).T, targets)[0]


def box_loss(places, boxes, beta):
    """Smooth L1 of the errors, and its slope in each number of `places`, a number at a time"""
    slopes = np.zeros(places.shape)
    for place in contracts.over(*places.shape):
        e = float(places[place]) - float(boxes[place])
        slopes[place] = (e / beta if abs(e) < beta else math.copysign(1, e)) / places.size
    return np.float64(contracts.ops.smooth_l1(places - boxes, beta)), slopes


def box_loss_cases():
    for label, N, beta, scale in (("two boxes", 2, 0.5, 1), ("one box", 1, 0.1, 1), ("all near", 3, 1.0, 0.1),
                                  ("all far", 3, 0.01, 9), ("many", 20, 0.5, 1)):
        yield label, dict(places=random(N, 4, scale=scale), boxes=random(N, 4, seed=1, scale=scale), beta=beta)
    places = np.array([[0.5, 1.5, 2.0, 2.5]])
    yield "errors of beta, and none", dict(places=places, boxes=places - [[0.5, -0.5, 0, 1]], beta=0.5)


def package_box_loss(places, boxes, beta, smooth_l1=ops.smooth_l1.own):
    """As train/vision.py does."""
    loss, pull = smooth_l1(places - boxes, beta)
    return loss, pull()


CONTRACTS = (
    Contract("contrastive_loss", contrastive_loss, contrastive_loss_cases, TOLERANCE),
    Contract("patch_targets", patch_targets, patch_targets_cases, EXACT),
    Contract("patch_loss", patch_loss, patch_loss_cases, TOLERANCE),
    Contract("box_loss", box_loss, box_loss_cases, TOLERANCE),
)
