"""50 Before all this: a solution"""
import numpy as np


def prefix_mask(prefix, length):
    places = np.arange(length)
    return (places <= places[:, None]) | (places < prefix[:, None, None])


def nearest_codes(x, codes):
    return ((x[:, None] - codes) ** 2).sum(-1).argmin(1)


def negative_chances(similarity):
    chances = np.exp(similarity - similarity.max(1, keepdims=True))
    chances = chances / chances.sum(1, keepdims=True)
    np.fill_diagonal(chances, 0)
    return chances
