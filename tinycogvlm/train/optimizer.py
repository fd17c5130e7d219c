"""Gradient descent: SGD, AdamW, clipping, the learning rate's schedule.

`leaves` and `gradients` are {name: array}. A step puts new arrays into `leaves`; the old arrays stay as they are.
"""
import math


def sgd(leaves, gradients, lr):
    """w <- w - lr g"""
    for name, g in gradients.items():
        leaves[name] = leaves[name] - lr * g


def adamw(leaves, gradients, moments, step, lr, betas=(0.9, 0.999), eps=1e-8, decay=0.01):
    """m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   w <- (1 - lr decay) w - lr m' / (sqrt(v') + eps)

    with m' = m / (1 - b1^step), v' = v / (1 - b2^step), step from 1. Loshchilov & Hutter 2019: the decay does not pass
    through the moments. `moments` is {name: (m, v)}, at first {}; the caller keeps it between steps.
    """
    (b1, b2), scale = betas, math.sqrt(1 - betas[1] ** step)
    for name, g in gradients.items():
        m, v = moments.get(name, (0, 0))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * (g * g)
        moments[name] = m, v
        update = m / (v ** 0.5 / scale + eps)
        leaves[name] = (1 - lr * decay) * leaves[name] - lr / (1 - b1 ** step) * update


def clip(gradients, longest):
    """Scale all gradients so that together, as one vector, they are no longer than `longest` -> gradients, the length

    Pascanu et al. 2013.
    """
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradients.values()))
    scale = min(1.0, longest / (norm + 1e-6))
    return {name: g * scale for name, g in gradients.items()}, norm


def cosine(step, steps, peak, warmup):
    """The rate of steps 1 ... steps: a straight line up to `peak` in `warmup` steps, then half a cosine down to 0."""
    if step <= warmup:
        return peak * step / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
