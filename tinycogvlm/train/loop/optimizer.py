"""Gradient descent: SGD, AdamW, weight decay, clipping, the schedule and groups of the learning rate, moving average.

Parameters are changed in place, which saves allocating millions of numbers several times a step.
"""
import math
from fnmatch import fnmatchcase

from ...model.parts import VECTORS
from ...nn.arrays import namespace
from ...nn.tree import matches


def sgd(leaves, gradients, rate):
    """w <- w - rate g, for {name: array} both"""
    for name, g in gradients.items():
        leaves[name] -= rate * g


def adamw(w, g, m, v, step, rate, betas=(0.9, 0.999), eps=1e-8, decay=0.01, scale=1.0):
    """m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   w <- (1 - rate decay) w - rate m' / (sqrt(v') + eps)

    with m' = m / (1 - b1^step), v' = v / (1 - b2^step), step from 1. Loshchilov & Hutter 2019 (arXiv 1711.05101): the
    decay does not pass through the moments. One parameter w and its m and v, zeros at first, are changed in place. The
    gradient is `scale * g`, so that clipping costs no pass of its own.
    """
    xp, (b1, b2) = namespace(w), betas
    t = xp.empty_like(w)                                    # holds each intermediate in turn
    xp.multiply(g, (1 - b1) * scale, out=t)
    m *= b1
    m += t
    xp.multiply(g, g, out=t)
    t *= (1 - b2) * scale ** 2
    v *= b2
    v += t
    xp.sqrt(v, out=t)
    t /= math.sqrt(1 - b2 ** step)
    t += eps
    xp.divide(m, t, out=t)
    t *= rate / (1 - b1 ** step)
    if decay:
        w *= 1 - rate * decay
    w -= t


def decays(name, array):
    """Whether weight decay applies to a parameter: to matrices and kernels, not to norms, biases and embeddings"""
    return array.ndim > 1 and not matches(name, VECTORS)


def clipping(norm, longest):
    """The factor that shortens the gradients, together one vector of length `norm`, to at most `longest`.

    Pascanu et al. 2013 (arXiv 1211.5063)
    """
    return min(1.0, longest / (norm + 1e-6))


def cosine(step, steps, peak, warmup):
    """The learning rate of steps 1 ... steps: linearly up to `peak` in `warmup` steps, then half a cosine down to 0."""
    if step <= warmup:
        return peak * step / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def group_factor(name, groups):
    """The factor of a parameter's learning rate, groups {pattern: factor}: the first pattern that matches, else 1"""
    return next((factor for pattern, factor in groups.items() if fnmatchcase(name, pattern)), 1.0)


def follow(average, w, step, decay):
    """The exponential moving average of a parameter, in place: average <- d average + (1 - d) w

    d = min(decay, (1 + step) / (10 + step)): at the start, while there is little to average, old values fade faster.
    """
    xp = namespace(w)
    t = xp.subtract(w, average, out=xp.empty_like(w))
    t *= 1 - min(decay, (1 + step) / (10 + step))
    average += t
