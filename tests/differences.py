"""Gradients against finite differences along a direction, of fourth order."""
import numpy as np


def slope(along, h):
    """The derivative of along(s) at 0"""
    return (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)


def all_at_once(variant, config, leaves, part, h):
    """How far the gradients are from finite differences, along a direction in which each parameter counts alike"""
    random = np.random.default_rng(2)
    gradients = variant.loss(config, leaves, part)[2]()
    norms = {leaf: np.linalg.norm(g) for leaf, g in gradients.items()}
    least = 0.02 * max(norms.values())
    way = {leaf: random.standard_normal(g.shape) / max(norms[leaf], least) for leaf, g in gradients.items()}
    numeric = slope(lambda s: variant.loss(config, leaves | {leaf: leaves[leaf] + s * d for leaf, d in way.items()},
                                           part)[0], h)
    return abs(numeric - sum((gradients[leaf] * d).sum() for leaf, d in way.items()))
