"""Gradient descent: SGD, AdamW, Muon, weight decay, clipping, the learning rate's schedule and groups, moving average.

Parameters are changed in place, which saves allocating millions of numbers several times a step.
"""
import math
from fnmatch import fnmatchcase

from ...model.parts import ALL_BLOCKS, PACKED, VECTORS
from ...nn.arrays import namespace
from ...nn.tree import matches


def sgd(leaves, gradients, rate):
    """w <- w - rate g, for {name: array} both"""
    for name, g in gradients.items():
        leaves[name] -= rate * g


def nesterov(w, g, m, rate, momentum=0.9, decay=0.0, scale=1.0):
    """m <- b m + g,   w <- (1 - rate decay) w - rate (g + b m)

    SGD that looks ahead along its momentum (Nesterov 1983, in the form of Sutskever et al. 2013). One parameter w and
    its m, zeros at first, are changed in place. The gradient is `scale * g`.
    """
    update = looked_ahead(g, m, momentum, scale)
    update *= rate
    if decay:
        w *= 1 - rate * decay
    w -= update


def looked_ahead(g, m, momentum, scale):
    """m <- b m + g in place, then g + b m, a new array; the gradient is `scale * g`"""
    t = namespace(m).multiply(g, scale, out=namespace(m).empty_like(m))
    m *= momentum
    m += t
    t += momentum * m
    return t


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


def muon(w, g, m, rate, momentum=0.95, decay=0.05, scale=1.0):
    """m <- b m + g,   w <- (1 - rate decay) w - rate sqrt(max(1, rows / columns)) orthogonalised(g + b m)

    Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon): Nesterov momentum, whose singular vectors are kept
    and whose singular values all become about 1, so that w moves as far in directions in which gradients are small as
    in the others. One matrix w and its m, zeros at first, are changed in place. The gradient is `scale * g`.
    """
    update = orthogonalised(looked_ahead(g, m, momentum, scale))
    update *= rate * math.sqrt(max(1, w.shape[0] / w.shape[1]))
    w *= 1 - rate * decay
    w -= update


def orthogonalised(g, steps=5):
    """Almost U V^T, where g = U S V^T is the singular value decomposition, by matrix products alone

    Newton-Schulz: x <- a x + b (x x^T) x + c (x x^T)^2 x maps each singular value s to a s + b s^3 + c s^5. These
    a, b and c lift small values fast: in five steps all those from 0.01 to 1 come to lie between 0.68 and 1.14.
    """
    xp, (a, b, c) = namespace(g), (3.4445, -4.7750, 2.0315)
    x = g / (xp.linalg.norm(g) + 1e-7)                      # now no singular value is above 1
    if len(x) > x.shape[1]:
        x = x.T                                             # x x^T is the smaller product
    y, n, each = xp.empty_like(x), len(x), xp.arange(len(x))
    square, factor = xp.empty((n, n), x.dtype), xp.empty((n, n), x.dtype)
    for _ in range(steps):
        xp.matmul(x, x.T, out=square)
        xp.matmul(square, square.T, out=factor)             # square^2, since it is symmetric
        factor *= c
        square *= b
        factor += square
        factor[each, each] += a
        xp.matmul(factor, x, out=y)
        x, y = y, x
    return x if x.shape == g.shape else x.T


def orthogonal(name, array):
    """Whether Muon can train a parameter: a matrix inside a block, so neither an embedding nor the head"""
    return array.ndim == 2 and matches(name, ALL_BLOCKS)


def unpacked(name, array):
    """Views of the matrices in a tensor that Muon orthogonalises each by itself: Q, K and V, or the tensor as it is"""
    rows, columns = array.shape                             # Q is square; K and V are smaller for grouped queries
    ends = [columns, (columns + rows) // 2] if matches(name, PACKED) else []
    return namespace(array).split(array, ends)


def decays(name, array):
    """Whether weight decay applies to a parameter: to matrices and kernels, not to norms, biases and embeddings"""
    return array.ndim > 1 and not matches(name, VECTORS)


def clipping(norm, longest):
    """The factor that shortens the gradients, together one vector of length `norm`, to at most `longest`.

    Pascanu et al. 2013 (arXiv 1211.5063)
    """
    return min(1.0, longest / (norm + 1e-6))


def adaptively_clipped(w, g, most=0.01, eps=1e-3):
    """g min(1, most max(|w|, eps) / max(|g|, 1e-6)), the norms of each unit by itself: all that makes one output

    Adaptive gradient clipping (Brock et al. 2021, arXiv 2102.06171): no unit's gradient is longer than a share `most` of
    the unit. The first axis counts the units, as in (O, I) and (O, C, N, M); a vector or a number is one unit. The last
    layer is left out, as in the paper, by whoever calls this.
    """
    xp, axes = namespace(w), tuple(range(1, w.ndim)) or None

    def norm(array):
        return xp.sqrt((array * array).sum(axes, keepdims=True))
    return g * xp.minimum(1, most * xp.maximum(norm(w), eps) / xp.maximum(norm(g), 1e-6))


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
