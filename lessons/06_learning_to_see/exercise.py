"""06 How the tower learns to see. Fill in the bodies, then: tinycogvlm learn check 06"""
import numpy as np


def contrastive_loss(pictures, texts):
    """The mean of two cross-entropies: pictures choose their texts, and texts their pictures

    pictures (N, D), texts (N, D) -> scalar
    Scores are dot products; picture i belongs to text i.
    """
    raise NotImplementedError


def patch_targets(owner, size):
    """The target of each patch of size x size pixels: owner (M, M) -> (P,)

    owner holds for each pixel the number of the thing that is seen there, 0, 1, 2 ..., or -1 for the background.
    A patch gets the number of the thing that covers most of it, if that is more than 35 % of the patch; otherwise -100
    (nothing is learned there) if all things together cover more than 5 % of it; otherwise -1. Patches are counted row
    by row; pixels beyond a whole patch are dropped.
    """
    raise NotImplementedError


def patch_loss(x, words, spelled, targets):
    """The mean of -log softmax(x (spelled words)^T)[target] over the patches whose target is not -100

    x (P, D), words (K, D), spelled (C, K), targets (P,) -> scalar
    spelled[c, k] is 1 if word k is in text c: a text is the sum of its words. A target is the number of a text.
    """
    raise NotImplementedError


def box_loss(places, boxes, beta):
    """Smooth L1: the mean of e^2 / (2 beta) where |e| < beta, of |e| - beta / 2 elsewhere; and its gradient

    places (N, 4), boxes (N, 4) -> loss scalar, dplaces (N, 4)
    e = places - boxes, one error for each edge of each box; the mean is over all of them. The gradient is with respect
    to places.
    """
    raise NotImplementedError
