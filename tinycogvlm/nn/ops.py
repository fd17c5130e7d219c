"""The mathematics: every op with its forward pass and its gradient on one screen.

An op returns its output and `pull`, its backward pass (the vector-Jacobian product): from the gradient with respect to
the output to the one with respect to the inputs. An op without parameters has `pull(dy) -> dx`; one with parameters has
`pull(dy, g) -> dx` and adds their gradients to `g` (tree.Gradients), which leaves out those of frozen parameters.
No op changes its inputs. NumPy and CuPy arrays run the same code.

Letters, here and everywhere: B batch, T query tokens, S key tokens, H heads, d head size, D hidden, F feed-forward,
V vocabulary, P patches, L layers.
"""
import math
from functools import lru_cache

import numpy as np

from .arrays import namespace, wide
from .attention import attention as attention               # an op like these, in a file of its own
from .normal import logit_polynomial, normal_tail
from .swap import op

CHUNK = 1 << 14                                             # numbers that `elementwise` takes at a time, in the cache


def checkpointed(layer, x, *arguments, keep="all"):
    """layer(x, *arguments), with a choice of what it keeps for the backward pass.

    keep: "all" its intermediates; "input" alone, from which the pullback computes them again (activation checkpointing,
    Chen et al. 2016, arXiv 1604.06174); None: there is no pullback.
    """
    y, pull = layer(x, *arguments)
    if keep == "input":
        return y, lambda dy, g: layer(x, *arguments)[1](dy, g)
    return y, pull if keep else None


@op
def linear(x, weight, bias=None):
    """y = x W^T + b                                        x (..., I), weight (O, I), bias (O,) -> (..., O)

    The weight (O, C, N, N) of a convolution counts as (O, C N N): see `patches`.
    """
    rows = x.reshape(-1, x.shape[-1])                       # one matrix product for all leading axes
    matrix = weight.reshape(len(weight), -1)
    y = rows @ matrix.T
    if bias is not None:
        y += bias

    def pull(dy, g):
        dy = dy.reshape(-1, dy.shape[-1])
        g.add("weight", lambda: (dy.T @ rows).reshape(weight.shape))
        if bias is not None:
            g.add("bias", lambda: dy.sum(0))
        return (dy @ matrix).reshape(x.shape)
    return y.reshape(*x.shape[:-1], len(weight)), pull


@op
def residual(x, x2):
    """y = x + x2, a residual (skip) connection             (...), (...) -> (...)   Its gradient goes to both as it is."""
    return x + x2


@op
def embedding(ids, weight):
    """y = W[ids]                                           ids (...) integers, weight (V, D) -> (..., D)"""
    def pull(dy, g):
        def scatter():
            xp = namespace(dy)
            dweight = xp.zeros(weight.shape, dy.dtype)
            xp.add.at(dweight, ids.reshape(-1), dy.reshape(-1, dy.shape[-1]))
            return dweight
        g.add("weight", scatter)
    return weight[ids], pull


@op
def layer_norm(x, weight, bias, eps):
    """y = (x - mean) / sqrt(var + eps) * weight + bias     x (..., D), weight and bias (D,) -> (..., D)

    Ba et al. 2016 (arXiv 1607.06450). Computed in float32 at least and cast back last, as in the reference.
    """
    xp, wide_x = namespace(x), wide(x)
    unit = wide_x - wide_x.mean(-1, keepdims=True)          # (..., D)
    scale = 1 / xp.sqrt(_mean_product(unit, unit) + eps)    # (..., 1)
    unit *= scale
    y = unit * weight
    y += bias

    def pull(dy, g):
        dy = wide(dy)
        g.add("weight", lambda: _sum_product(dy, unit))
        g.add("bias", lambda: dy.sum(tuple(range(dy.ndim - 1))))
        dx = dy * weight                                    # so far with respect to unit
        along = unit * _mean_product(dx, unit)
        dx -= dx.mean(-1, keepdims=True)
        dx -= along
        dx *= scale
        return dx.astype(x.dtype, copy=False)
    return y.astype(x.dtype, copy=False), pull


@op
def rms_norm(x, weight, eps):
    """y = x / sqrt(mean(x^2) + eps) * weight               x (..., D), weight (D,) -> (..., D)

    Zhang & Sennrich 2019 (arXiv 1910.07467). Computed in float32 at least, the product with the weight too, and cast
    back last, as in the reference.
    """
    xp, wide_x = namespace(x), wide(x)
    scale = 1 / xp.sqrt(_mean_product(wide_x, wide_x) + eps)            # (..., 1)
    unit = wide_x * scale                                   # (..., D)

    def pull(dy, g):
        dy = wide(dy)
        g.add("weight", lambda: _sum_product(dy, unit))
        dx = dy * weight                                    # so far with respect to unit
        dx -= unit * _mean_product(dx, unit)
        dx *= scale
        return dx.astype(x.dtype, copy=False)
    return (unit * weight).astype(x.dtype, copy=False), pull


def _mean_product(x, y):
    """mean(x y) over the last axis, (..., D) twice -> (..., 1), without an array of products"""
    return namespace(x).einsum("...d,...d->...", x, y)[..., None] / x.shape[-1]


def _sum_product(x, y):
    """sum(x y) over all axes but the last, (..., D) twice -> (D,), without an array of products"""
    return namespace(x).einsum("nd,nd->d", *(a.reshape(-1, a.shape[-1]) for a in (x, y)))


def gelu_plain(x):
    """`gelu` through math.erf, element by element: the version to read first. Same result, same pullback. NumPy only."""
    erf = np.vectorize(math.erf, otypes=[float])
    Phi = (0.5 * (1 + erf(x / math.sqrt(2)))).astype(x.dtype)

    def pull(dy):
        return dy * (Phi + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))
    return x * Phi, pull


@op
def gelu(x):
    """y = x Phi(x), Phi(x) = (1 + erf(x / sqrt(2))) / 2    x (...) -> (...)

    Hendrycks & Gimpel 2016 (arXiv 1606.08415), the exact form, not the tanh approximation. gelu_plain is this formula;
    here no loop over numbers is taken. In float32, Phi(x) = 1 / (1 + exp(-x h(x^2))), where the polynomial h is right
    to rounding. In float64, with the upper tail Q(a) = 1 - Phi(a), y = max(x, 0) - |x| Q(|x|), which loses no digit to
    cancellation.
    """
    def forward(x, y, xp):
        wide_x, h = wide(x), logit_polynomial()
        square = wide_x * wide_x
        t = square * -h[-1]
        for coefficient in h[-2:0:-1]:                      # Horner
            t -= coefficient
            t *= square
        t -= h[0]
        t *= wide_x
        xp.exp(t, out=t)
        t += 1
        xp.divide(wide_x, t, out=y)

    def forward_in_float64(x, y, xp):
        size = xp.abs(x)
        tail, _ = normal_tail(size)
        tail *= size
        xp.maximum(x, 0, out=y)
        y -= tail

    def backward(x, y, dy, dx, xp):                         # dx = (Phi(x) + x phi(x)) dy, where Phi(x) = y / x
        slope = x * x
        slope *= -0.5
        xp.exp(slope, out=slope)
        slope *= 1 / math.sqrt(2 * math.pi)
        slope *= x
        xp.divide(y, x, out=dx)
        xp.copyto(dx, 0.5, where=x == 0)
        dx += slope
        dx *= dy
    y = elementwise(forward_in_float64 if x.dtype == np.float64 else forward, x)
    return y, lambda dy: elementwise(backward, x, y, dy)


@op
def silu(x):
    """y = x / (1 + exp(-x))                                x (...) -> (...)   Elfwing et al. 2017 (arXiv 1702.03118)"""
    def forward(x, y, xp):
        one_plus_exp(x, y, xp)
        xp.divide(x, y, out=y)

    def backward(x, dy, dx, xp):                            # with s = sigmoid(x): s (1 + x (1 - s)) dy
        s = sigmoid(x, xp)
        xp.subtract(1, s, out=dx)
        dx *= x
        dx += 1
        dx *= s
        dx *= dy
    return elementwise(forward, x), lambda dy: elementwise(backward, x, dy)


@op
def swiglu(gate, up):
    """y = silu(gate) * up                                  gate and up (..., F) -> (..., F)

    The gated part of SwiGLU (Shazeer 2020, arXiv 2002.05202).
    """
    def forward(gate, up, y, xp):
        one_plus_exp(gate, y, xp)
        xp.divide(gate, y, out=y)
        y *= up

    def backward(gate, up, dy, dgate, dup, xp):             # dgate as in silu, times up
        s = sigmoid(gate, xp)
        xp.subtract(1, s, out=dgate)
        dgate *= gate
        dgate += 1
        s *= dy
        dgate *= s
        dgate *= up
        xp.multiply(gate, s, out=dup)
    return elementwise(forward, gate, up), lambda dy: elementwise(backward, gate, up, dy, outputs=2)


def sigmoid(x, xp):
    """1 / (1 + exp(-x))"""
    y = xp.empty_like(x)
    one_plus_exp(x, y, xp)
    return xp.divide(1, y, out=y)


def one_plus_exp(x, y, xp):
    """y <- 1 + exp(-x); where it overflows, infinity is right as a divisor"""
    xp.negative(x, out=y)
    xp.exp(y, out=y)
    y += 1


def elementwise(function, *arrays, outputs=1):
    """A new array of the arrays' shape, or `outputs` of them, that function(*arrays, *new arrays, xp) fills

    On the CPU it gets a piece of all of them at a time, so that temporaries stay in the cache.
    """
    xp, shape = namespace(arrays[0]), arrays[0].shape
    flat = [array.reshape(-1) for array in arrays]
    made = [xp.empty_like(flat[0]) for _ in range(outputs)]
    size = CHUNK if xp is np else max(1, made[0].size)
    with np.errstate(over="ignore", invalid="ignore"):      # the functions' infinities are right, or replaced
        for start in range(0, made[0].size, size):
            function(*(array[start:start + size] for array in flat + made), xp)
    return made[0].reshape(shape) if outputs == 1 else tuple(array.reshape(shape) for array in made)


@op
def softmax(x):
    """y = exp(x - max) / sum(exp(x - max)) over the last axis, in float32 at least        x (..., S) -> (..., S)"""
    xp = namespace(x)
    y = wide(x)
    y = xp.exp(y - y.max(-1, keepdims=True))
    y /= y.sum(-1, keepdims=True)

    def pull(dy):
        return (y * (dy - (dy * y).sum(-1, keepdims=True))).astype(x.dtype, copy=False)
    return y.astype(x.dtype, copy=False), pull


@op
def rotary(x, cos, sin):
    """Turn each pair (x_i, x_{i + d/2}) by its position's angle       x (B, H, T, d), cos and sin (B, T, d/2)

    (x_i, x_{i + d/2}) -> (x_i cos - x_{i + d/2} sin, x_{i + d/2} cos + x_i sin). Su et al. 2021 (arXiv 2104.09864), in
    the half-split form of GPT-NeoX and LLaMA.
    """
    cos, sin = cos[:, None], sin[:, None]                   # (B, 1, T, d/2)

    def turn(x, sin):
        xp, half = namespace(x), x.shape[-1] // 2
        first, second = x[..., :half], x[..., half:]
        y = xp.empty(x.shape, x.dtype)
        xp.multiply(first, cos, out=y[..., :half])
        xp.multiply(second, cos, out=y[..., half:])
        y[..., :half] -= second * sin
        y[..., half:] += first * sin
        return y
    return turn(x, sin), lambda dy: turn(dy, -sin)


@op
def cross_entropy(logits, labels, weights=None):
    """loss = mean of logsumexp(logits) - logits[label] over labels != -100     logits (N, V), labels (N,) -> scalar

    weights (N,): for a weighted mean; by default all labels weigh the same. Computed in float32 at least.
    """
    xp = namespace(logits)
    rows = xp.nonzero(labels != -100)[0]
    each, labels = xp.arange(len(rows)), labels[rows]
    shifted = wide(logits[rows])
    shifted = shifted - shifted.max(-1, keepdims=True)      # (n, V)
    total = xp.exp(shifted).sum(-1)
    losses, share = xp.log(total) - shifted[each, labels], 1 / len(rows)
    if weights is not None:
        weights = wide(weights[rows])
        share = (weights / weights.sum())[:, None]
    loss = losses.mean() if weights is None else losses @ share[:, 0]

    def pull(dloss=1.0):
        drows = xp.exp(shifted) / total[:, None]            # softmax - one-hot
        drows[each, labels] -= 1
        dlogits = xp.zeros(logits.shape, logits.dtype)
        dlogits[rows] = drows * (dloss * share)
        return dlogits
    return loss, pull


@op
def smooth_l1(e, beta):
    """loss = mean of e^2 / (2 beta) where |e| < beta, and |e| - beta / 2 elsewhere               e (...) -> scalar

    A square near 0 and an absolute value far from it: Girshick 2015 (arXiv 1504.08083, "Fast R-CNN"); Huber's loss
    divided by beta.
    """
    xp = namespace(e)
    wide_e = wide(e)
    loss = xp.where(abs(wide_e) < beta, wide_e ** 2 / (2 * beta), abs(wide_e) - beta / 2).mean()

    def pull(dloss=1.0):
        return (dloss * xp.clip(wide_e / beta, -1, 1) / e.size).astype(e.dtype, copy=False)
    return loss, pull


@op
def patches(x, size):
    """Cut pictures into squares, row by row                x (B, C, N, M) -> (B, (N/size) (M/size), C size size)

    A convolution whose stride equals its kernel is `linear` of these. Pixels that fill no whole square are dropped.
    """
    B, C, N, M = x.shape
    n, m = N // size, M // size
    squares = x[:, :, :n * size, :m * size].reshape(B, C, n, size, m, size)
    y = squares.transpose(0, 2, 4, 1, 3, 5).reshape(B, n * m, C * size * size)

    def pull(dy):
        dx = namespace(dy).zeros(x.shape, dy.dtype)
        squares = dy.reshape(B, n, m, C, size, size).transpose(0, 3, 1, 4, 2, 5)
        dx[:, :, :n * size, :m * size] = squares.reshape(B, C, n * size, m * size)
        return dx
    return y, pull


@op
def interpolate_positions(table, grid):
    """A position table of n x n patches resampled for grid x grid        table (1 + n^2, D) -> (1 + grid^2, D)

    Bicubic with a = -0.75 and points at pixel centres, as torch's interpolate; the row of CLS stays. The paper goes
    from 224 to 490 pixels this way.
    """
    xp = namespace(table)
    n, D = math.isqrt(len(table) - 1), table.shape[1]
    weight = xp.asarray(bicubic_matrix(n, grid), dtype=table.dtype)     # (grid, n); both axes use it

    def resample(squares, weight):
        return xp.einsum("im,jn,mnd->ijd", weight, weight, squares, optimize=True)

    def pull(dy):
        dsquares = resample(dy[1:].reshape(grid, grid, D), weight.T)
        return xp.concatenate([dy[:1], dsquares.reshape(n * n, D)])
    return xp.concatenate([table[:1], resample(table[1:].reshape(n, n, D), weight).reshape(grid * grid, D)]), pull


@lru_cache
def bicubic_matrix(n, m, corners=False):
    """The weights (m, n) that resample n points to m by cubic convolution (Keys 1981, a = -0.75), edges repeated

    The points are the centres of n and m pieces of one length; or, if `corners`, the first and the last keep their
    places.
    """
    def kernel(x, a=-0.75):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1
        return a * (x ** 3 - 5 * x ** 2 + 8 * x - 4) if x < 2 else 0.0
    weight = np.zeros((m, n))
    for i in range(m):
        centre = i * (n - 1) / max(1, m - 1) if corners else (i + 0.5) * n / m - 0.5
        first = math.floor(centre) - 1
        for j in range(first, first + 4):
            weight[i, min(max(j, 0), n - 1)] += kernel(centre - j)
    return weight
