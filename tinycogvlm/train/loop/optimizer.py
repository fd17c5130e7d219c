"""Gradient descent: SGD, AdamW, what decays, clipping, the learning rate's schedule and groups, the moving average.

Parameters are changed in place: six million numbers would otherwise be allocated anew several times a step.
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

    with m' = m / (1 - b1^step), v' = v / (1 - b2^step), step from 1. Loshchilov & Hutter 2019: the decay does not pass
    through the moments. One parameter w and its m and v, at first 0, are changed in place; `scale * g` takes the place
    of g, so that clipping costs nothing.
    """
    xp, (b1, b2) = namespace(w), betas
    t = xp.empty_like(w)                                    # every intermediate, one after the other
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
    """Whether weight decay applies: to matrices and kernels, but not to norms, biases and embeddings."""
    return array.ndim > 1 and not matches(name, VECTORS)


def clipping(norm, longest):
    """The factor that makes gradients, together one vector of length `norm`, no longer than `longest`.

    Pascanu et al. 2013.
    """
    return min(1.0, longest / (norm + 1e-6))


def cosine(step, steps, peak, warmup):
    """The rate of steps 1 ... steps: a straight line up to `peak` in `warmup` steps, then half a cosine down to 0."""
    if step <= warmup:
        return peak * step / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def group_factor(name, groups):
    """What the rate of a parameter is multiplied with: {pattern: factor}, the first that matches; 1 if none does."""
    return next((factor for pattern, factor in groups.items() if fnmatchcase(name, pattern)), 1.0)


def follow(average, w, step, decay):
    """The exponential moving average of a parameter, in place: average <- d average + (1 - d) w

    d = min(decay, (1 + step) / (10 + step)): so long as there is little to average, what is old goes faster.
    """
    xp = namespace(w)
    t = xp.subtract(w, average, out=xp.empty_like(w))
    t *= 1 - min(decay, (1 + step) / (10 + step))
    average += t
