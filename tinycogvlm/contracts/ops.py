"""The ops' contracts: each op as plain loops over float64 numbers, with the cases that every implementation faces."""
import math

import numpy as np

from ..model import expert
from ..model.route import Route
from ..nn import activations, convolution, more_ops, ops
from ..nn.tree import Gradients, Params
from . import pictures
from .contract import EXACT, TOLERANCE, Contract, over, random


# ---------------------------------------------------------------------------------------------------- linear, patches

def linear(x, weight, bias=None):
    """y[..., o] = sum_i x[..., i] weight[o, i...] + bias[o]"""
    outputs = len(weight)
    flat_weight = [[float(w) for w in weight[o].ravel()] for o in range(outputs)]
    y = np.zeros((*x.shape[:-1], outputs))
    for place in over(*x.shape[:-1]):
        for o in range(outputs):
            total = 0.0 if bias is None else float(bias[o])
            for i in range(x.shape[-1]):
                total += float(x[place][i]) * flat_weight[o][i]
            y[place][o] = total
    return y


def linear_cases():
    yield "batch", dict(x=random(2, 3, 5), weight=random(4, 5), bias=random(4))
    yield "no bias", dict(x=random(2, 3, 5), weight=random(4, 5))
    yield "one token", dict(x=random(1, 1, 7), weight=random(3, 7), bias=random(3))
    yield "rows without batch", dict(x=random(6, 5), weight=random(4, 5), bias=random(4))
    yield "one vector", dict(x=random(5), weight=random(4, 5), bias=random(4))
    yield "one input, one output", dict(x=random(3, 1), weight=random(1, 1), bias=random(1))
    yield "a convolution's weight", dict(x=random(2, 4, 12), weight=random(5, 3, 2, 2), bias=random(5))
    yield "odd sizes", dict(x=random(3, 129), weight=random(17, 129), bias=random(17))
    yield "transposed, not contiguous", dict(x=random(5, 3).T, weight=random(5, 4).T, bias=random(4))
    yield "large magnitudes", dict(x=random(3, 5, scale=1e4), weight=random(4, 5, scale=1e3), bias=random(4))


def patches(x, size):
    """y[b, r * m + c, ch * size^2 + i * size + j] = x[b, ch, r * size + i, c * size + j]"""
    B, C, N, M = x.shape
    n, m = N // size, M // size
    y = np.zeros((B, n * m, C * size * size))
    for b, r, c, ch, i, j in over(B, n, m, C, size, size):
        y[b, r * m + c, (ch * size + i) * size + j] = x[b, ch, r * size + i, c * size + j]
    return y


def patches_cases():
    yield "14 x 14, two pictures", dict(x=random(2, 3, 28, 28), size=14)
    yield "14 x 14, pixels left over", dict(x=random(1, 3, 30, 41), size=14)
    yield "one patch", dict(x=random(1, 3, 14, 14), size=14)
    yield "patch 16", dict(x=random(1, 3, 32, 16), size=16)
    yield "2 x 2 over features", dict(x=random(2, 5, 6, 6), size=2)
    yield "2 x 2, odd edges cut", dict(x=random(2, 5, 7, 5), size=2)
    yield "size 1", dict(x=random(1, 2, 3, 3), size=1)


# -------------------------------------------------------------------------------------------------------------- norms

def layer_norm(x, weight, bias, eps):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, the variance with 1/D"""
    D, y = x.shape[-1], np.zeros(x.shape)
    for place in over(*x.shape[:-1]):
        mean = math.fsum(x[place]) / D
        variance = math.fsum((float(value) - mean) ** 2 for value in x[place]) / D
        for d in range(D):
            y[place][d] = (x[place][d] - mean) / math.sqrt(variance + eps) * weight[d] + bias[d]
    return y


def layer_norm_cases():
    def case(*shape, eps=1e-6, **inputs):
        D = shape[-1]
        return dict(x=random(*shape, **inputs), weight=random(D, mean=1, scale=.3), bias=random(D, seed=1), eps=eps)
    yield "batch", case(2, 3, 8)
    yield "one token", case(1, 1, 8, eps=1e-5)
    yield "one row", case(5)
    yield "odd size", case(3, 129)
    yield "eps matters", case(2, 6, scale=1e-3, eps=1e-5)
    yield "a mean far from 0", case(2, 6, mean=3)
    yield "large magnitudes", case(2, 3, 8, scale=1e4)
    yield "large: a row of one number has variance 0", case(3, 1)
    yield "large: a constant row", case(2, 4) | dict(x=np.full((2, 4), 7.0))


def rms_norm(x, weight, eps):
    """y = x / sqrt(mean(x^2) + eps) * weight"""
    D, y = x.shape[-1], np.zeros(x.shape)
    for place in over(*x.shape[:-1]):
        mean_square = math.fsum(float(value) ** 2 for value in x[place]) / D
        for d in range(D):
            y[place][d] = x[place][d] / math.sqrt(mean_square + eps) * weight[d]
    return y


def rms_norm_cases():
    for label, arguments in layer_norm_cases():
        yield label, {name: value for name, value in arguments.items() if name != "bias"}
    yield "large: a row of zeros", dict(x=np.zeros((2, 4)), weight=random(4), eps=1e-5)


def normalise(x):
    """y = x / sqrt(sum(x^2)) over the last axis"""
    y = np.zeros(x.shape)
    for place in over(*x.shape[:-1]):
        length = math.sqrt(math.fsum(float(value) ** 2 for value in x[place]))
        for d in range(x.shape[-1]):
            y[place][d] = x[place][d] / length
    return y


def normalise_cases():
    yield "batch", dict(x=random(2, 3, 5))
    yield "one row", dict(x=random(7))
    yield "one number", dict(x=np.array([[-0.3], [2.0]]))
    yield "tiny", dict(x=random(3, 4, scale=1e-3))
    yield "large magnitudes", dict(x=random(3, 4, scale=1e4))


# -------------------------------------------------------------------------------------------------------- activations

def each(function):
    """The specification that applies `function` to every number."""
    def spec(x):
        y = np.zeros(x.shape)
        for place in over(*x.shape):
            y[place] = function(float(x[place]))
        return y
    return spec


def phi(x):
    """Standard normal distribution function; erfc keeps the digits of the lower tail."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def logistic(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


gelu = each(lambda x: x * phi(x))
silu = each(lambda x: x * logistic(x))
relu = each(lambda x: max(x, 0.0))
squared_relu = each(lambda x: max(x, 0.0) ** 2)
quick_gelu = each(lambda x: x * logistic(1.702 * x))
sigmoid = each(logistic)
tanh = each(math.tanh)
hard_sigmoid = each(lambda x: min(max(x + 3, 0), 6) / 6)
hard_swish = each(lambda x: x * (min(max(x + 3, 0), 6) / 6))
gelu_tanh = each(lambda x: x * logistic(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def relu_cases():
    """Without 0, where differences of relu are no slope; there the slope is 0, which test_ops looks at"""
    yield "batch", dict(x=random(2, 3, 5))
    yield "both signs", dict(x=np.array([-3.0, -0.5, 0.5, 3.0]))
    yield "longer than a cache piece, odd, not contiguous", dict(
        x=np.where(random(2, 131, 129) > 0, 1.5, -0.5).swapaxes(0, 2))
    yield "large magnitudes", dict(x=np.array([-1e4, -0.0, 0.0, 1e4])[:, None])


def squared_relu_cases():
    """The long one without numbers so near 0 that differences reach across, where the slope has a bend"""
    yield "batch", dict(x=random(2, 3, 5))
    yield "both signs, large and small", dict(x=np.array([-200.0, -0.5, 0.5, 3.0, 200.0])[:, None])
    long = random(2, 131, 129).swapaxes(0, 2)
    yield "longer than a cache piece, odd, not contiguous", dict(x=long + 0.02 * np.sign(long))


def activation_cases():
    yield "batch", dict(x=random(2, 3, 5))
    yield "one number", dict(x=np.array([0.7]))
    yield "zeros of both signs and neighbours", dict(x=np.array([0.0, -0.0, 1e-30, -1e-30, 1e-8, -1e-8]))
    yield "both tails", dict(x=np.linspace(-12, 12, 241))
    yield "longer than a cache piece, odd, not contiguous", dict(x=random(2, 131, 129, scale=3).swapaxes(0, 2))
    yield "large magnitudes", dict(x=np.array([-1e4, -300.0, -90.0, -30.0, 30.0, 90.0, 300.0, 1e4])[:, None])


def logistic_cases():
    """Without numbers so near 0 that differences of values near 1/2 are all rounding"""
    for label, arguments in activation_cases():
        if not label.startswith("zeros"):
            yield label, arguments


def hard_cases():
    """Without -3 and 3, where differences are no slope, but for "large" cases"""
    yield "batch", dict(x=random(2, 3, 5))
    yield "all three parts", dict(x=np.array([-7.0, -3.1, -2.9, -0.5, 0.0, 0.5, 2.9, 3.1, 7.0]))
    yield "longer than a cache piece, odd, not contiguous", dict(
        x=np.where(random(2, 131, 129) > 0, 1.5, -3.5).swapaxes(0, 2))
    yield "large magnitudes and the corners", dict(x=np.array([-1e4, -3.0, 3.0, 1e4])[:, None])


def swiglu(gate, up):
    """y = gate / (1 + exp(-gate)) * up"""
    y = np.zeros(gate.shape)
    for place in over(*gate.shape):
        y[place] = float(gate[place]) * logistic(float(gate[place])) * float(up[place])
    return y


def swiglu_cases():
    for label, arguments in activation_cases():
        yield label, dict(gate=arguments["x"], up=random(*arguments["x"].shape, seed=1))


def softmax(x):
    """y = exp(x - max) / sum(exp(x - max)) over the last axis"""
    y = np.zeros(x.shape)
    for place in over(*x.shape[:-1]):
        largest = max(float(value) for value in x[place])
        weights = [math.exp(float(value) - largest) for value in x[place]]
        total = math.fsum(weights)
        for i, weight in enumerate(weights):
            y[place][i] = weight / total
    return y


def softmax_cases():
    yield "batch", dict(x=random(2, 3, 5))
    yield "one row", dict(x=random(6, scale=5))
    yield "one column", dict(x=random(4, 1))
    yield "equal numbers", dict(x=np.full((2, 7), 3.0))
    yield "odd size", dict(x=random(3, 129, scale=3))
    yield "large magnitudes", dict(x=random(3, 5, scale=1e4))
    yield "large, all far below 0", dict(x=random(3, 5) - 1e5)


# ---------------------------------------------------------------------------------------------------------- attention

def attention(q, k, v, mask=None, causal=True):
    """y[b, h, t] = sum_s softmax_s(q[b, h, t] . k[b, g, s] / sqrt(d)) v[b, g, s],  g = h // (H / G)

    over the keys s that query t may see: those that the mask leaves, and if causal none after its own place S - T + t.
    A query that sees no key has no promised value.
    """
    (B, H, T, d), (G, S) = q.shape, k.shape[1:3]
    y = np.full(q.shape, np.nan)
    for b, h in over(B, H):
        g = h // (H // G)
        keys, values = k[b, g].tolist(), v[b, g].tolist()
        for t, query in enumerate(q[b, h].tolist()):
            seen = [s for s in range(S) if (mask is None or mask[b, s]) and (not causal or s <= S - T + t)]
            if not seen:
                continue
            scores = [sum(a * c for a, c in zip(query, keys[s])) / math.sqrt(d) for s in seen]
            largest = max(scores)
            weights = [math.exp(score - largest) for score in scores]
            total = math.fsum(weights)
            for i in range(d):
                y[b, h, t, i] = math.fsum(w * values[s][i] for w, s in zip(weights, seen)) / total
    return y


def attention_cases():
    def case(B=1, H=2, G=2, T=5, S=None, d=4, scale=1.0, **more):
        S = S or T
        return dict(q=random(B, H, T, d, scale=scale), k=random(B, G, S, d, seed=1, scale=scale),
                    v=random(B, G, S, d, seed=2)) | more

    def padded(*rows):
        return np.array([[key == "1" for key in row] for row in rows])
    yield "batch", case(B=2, H=3, G=3)
    yield "one token", case(T=1)
    yield "not causal", case(B=2, T=6, causal=False)
    yield "not causal, one token", case(T=1, causal=False)
    yield "padding on the left", case(B=2, T=5, mask=padded("00111", "11111"))
    yield "padding on the right", case(B=2, T=5, mask=padded("11110", "11111"))
    yield "a hole, not causal", case(B=2, T=4, mask=padded("1011", "0110"), causal=False)
    yield "cache, one query", case(B=2, T=1, S=6)
    yield "cache, three queries", case(B=2, T=3, S=7)
    yield "cache with padding", case(B=2, T=3, S=7, mask=padded("0011111", "1111111"))
    yield "cache with padding, one query", case(B=2, T=1, S=4, mask=padded("0111", "1111"))
    yield "2 of 4 key-value heads", case(B=2, H=4, G=2)
    yield "1 key-value head of 6", case(H=6, G=1, T=3)
    yield "3 key-value heads of 6", case(B=2, H=6, G=3, T=3, mask=padded("011", "111"))
    yield "odd head size", case(d=3)
    for T in (127, 128, 129):
        yield f"{T} queries", case(H=1, G=1, T=T, d=2)
    yield "129 queries, not causal", case(H=1, G=1, T=129, d=2, causal=False)
    yield "129 queries after a cache, padded", case(H=2, G=1, T=129, S=132, d=2, mask=(np.arange(132) >= 2)[None])
    yield "padding over a whole block", case(H=1, G=1, T=140, d=2, mask=(np.arange(140) >= 131)[None])
    yield "large scores", case(scale=30)
    yield "large: a hidden key scores far above the others", dict(
        q=np.full((1, 1, 1, 1), -200.0), k=np.array([100.0, 0.0]).reshape(1, 1, 2, 1),
        v=np.array([1.0, 5.0]).reshape(1, 1, 2, 1), mask=padded("10"), causal=False)


def rotary(x, cos, sin):
    """Pair (x[i], x[i + d/2]) turns by its angle: (x cos - y sin, y cos + x sin)"""
    B, H, T, d = x.shape
    y = np.zeros(x.shape)
    for b, h, t, i in over(B, H, T, d // 2):
        first, second, c, s = x[b, h, t, i], x[b, h, t, i + d // 2], cos[b, t, i], sin[b, t, i]
        y[b, h, t, i] = first * c - second * s
        y[b, h, t, i + d // 2] = second * c + first * s
    return y


def rotary_cases():
    def case(B, H, T, d, furthest=20):
        positions = np.random.default_rng(B + T).integers(0, furthest, (B, T))
        angle = positions[..., None] * 10000.0 ** (-np.arange(0, d, 2) / d)
        return dict(x=random(B, H, T, d), cos=np.cos(angle), sin=np.sin(angle))
    yield "batch", case(2, 3, 5, 8)
    yield "one token", case(1, 2, 1, 4)
    yield "one pair", case(1, 1, 3, 2)
    yield "an odd half", case(2, 2, 3, 6)
    yield "far positions", case(1, 2, 4, 8, furthest=8192)


def rotary_pairs(x, cos, sin):
    """Pair (x[2i], x[2i + 1]) turns by its angle: (x cos - y sin, y cos + x sin)"""
    B, H, T, d = x.shape
    y = np.zeros(x.shape)
    for b, h, t, i in over(B, H, T, d // 2):
        first, second, c, s = x[b, h, t, 2 * i], x[b, h, t, 2 * i + 1], cos[t, i], sin[t, i]
        y[b, h, t, 2 * i] = first * c - second * s
        y[b, h, t, 2 * i + 1] = second * c + first * s
    return y


def rotary_pairs_cases():
    for label, arguments in rotary_cases():
        yield label, arguments | {name: arguments[name][0] for name in ("cos", "sin")}


def embedding(ids, weight):
    """y[..., d] = weight[ids[...], d]"""
    y = np.zeros((*ids.shape, weight.shape[1]))
    for place in over(*ids.shape):
        for d in range(weight.shape[1]):
            y[place][d] = weight[ids[place], d]
    return y


def embedding_cases():
    yield "batch with repeats", dict(ids=np.array([[0, 6, 2], [6, 6, 1]]), weight=random(7, 3))
    yield "one token", dict(ids=np.array([[4]]), weight=random(7, 3))
    yield "a row", dict(ids=np.array([1, 0, 1]), weight=random(2, 5))
    yield "no text", dict(ids=np.zeros(0, np.int64), weight=random(2, 5))


# ------------------------------------------------------------------------------------------------------------ experts

def expert_of(types, b, t):
    """"vision" iff token t and its right neighbour belong to the same image of the row."""
    same = t + 1 < types.shape[1] and types[b, t] > 0 and types[b, t] == types[b, t + 1]
    return "vision" if same else "language"


def routed_dense(x, types, vision_weight, language_weight, vision_bias=None):
    """y[b, t] = W x[b, t] (+ bias), with the matrix (and bias) of token t's expert"""
    y = np.zeros((*x.shape[:2], len(vision_weight)))
    for b, t in over(*x.shape[:2]):
        if expert_of(types, b, t) == "vision":
            y[b, t] = linear(x[b, t], vision_weight, vision_bias)
        else:
            y[b, t] = linear(x[b, t], language_weight)
    return y


def routed_mlp(x, types, **weights):
    """y[b, t] = down (silu(gate x[b, t]) * up x[b, t]), with the matrices of token t's expert"""
    y = np.zeros(x.shape)
    for b, t in over(*x.shape[:2]):
        gate, up, down = (weights[f"{expert_of(types, b, t)}_{name}"] for name in ("gate", "up", "down"))
        y[b, t] = linear(swiglu(linear(x[b, t], gate), linear(x[b, t], up)), down)
    return y


TYPES = {
    "image in front of text": ["01111000"],
    "no image": ["0000"],
    "all image": ["11111"],
    "one token": ["0"],
    "one token of an image": ["1"],
    "text between two images": ["0111001110"],
    "two adjacent images": ["0111222200"],
    "batch with and without image": ["00111100", "00000000"],
    "batch, image at both ends": ["1110", "0111"],
}


def routed_dense_cases():
    for label, rows in TYPES.items():
        types = np.array([[int(token) for token in row] for row in rows])
        weights = dict(vision_weight=random(7, 5), language_weight=random(7, 5, seed=1))
        yield label, dict(x=random(*types.shape, 5), types=types, **weights)
        yield label + ", bias", dict(x=random(*types.shape, 5), types=types, **weights, vision_bias=random(7))


def routed_mlp_cases():
    shapes = {"gate": (6, 4), "up": (6, 4), "down": (4, 6)}
    weights = {f"{expert}_{name}": random(*shape, seed=ord(name[0]) + ord(expert[0]))
               for expert in ("vision", "language") for name, shape in shapes.items()}
    for label, rows in TYPES.items():
        types = np.array([[int(token) for token in row] for row in rows])
        yield label, dict(x=random(*types.shape, 4), types=types, **weights)


# ---------------------------------------------------------------------------------------------- the loss, the positions

def cross_entropy(logits, labels, weights=None):
    """mean, weighted by `weights`, over the rows with label != -100 of log(sum(exp(logits))) - logits[label]"""
    total = counted = 0.0
    for row, label, weight in zip(logits, labels, np.ones(len(labels)) if weights is None else weights):
        if label != -100:
            largest = max(float(value) for value in row)
            log_sum = largest + math.log(math.fsum(math.exp(float(value) - largest) for value in row))
            total += float(weight) * (log_sum - float(row[label]))
            counted += float(weight)
    return np.float64(total / counted)


def cross_entropy_cases():
    yield "some rows ignored", dict(logits=random(5, 7), labels=np.array([3, -100, 0, 6, -100]))
    yield "all rows", dict(logits=random(4, 7), labels=np.array([3, 3, 0, 6]))
    yield "one row of many", dict(logits=random(4, 7), labels=np.array([-100, -100, 5, -100]))
    yield "one row", dict(logits=random(1, 3), labels=np.array([2]))
    yield "one token in the vocabulary", dict(logits=random(3, 1), labels=np.array([0, 0, -100]))
    yield "large logits", dict(logits=random(4, 7, scale=1e3), labels=np.array([3, 3, 0, 6]))
    yield "weights", dict(logits=random(4, 5), labels=np.array([1, -100, 3, 0]), weights=np.array([1.0, 7, 2.5, 0]))
    yield "one weight counts", dict(logits=random(3, 5), labels=np.array([1, 2, 3]), weights=np.array([0.0, 0, 0.5]))


def smooth_cross_entropy(logits, labels, smoothing):
    """mean over rows with label != -100 of -sum target log(softmax), target = s / V, and 1 - s more for the label"""
    losses = []
    for row, label in zip(logits, labels):
        if label != -100:
            largest = max(float(value) for value in row)
            log_sum = largest + math.log(math.fsum(math.exp(float(value) - largest) for value in row))
            losses += [math.fsum((smoothing / len(row) + (1 - smoothing) * (v == label)) * (log_sum - float(row[v]))
                                 for v in range(len(row)))]
    return np.float64(math.fsum(losses) / len(losses))


def smooth_cross_entropy_cases():
    for label, arguments in cross_entropy_cases():
        if "weights" not in arguments:
            yield label, arguments | dict(smoothing=0.1)
    yield "no smoothing", dict(logits=random(4, 7), labels=np.array([3, -100, 0, 6]), smoothing=0.0)
    yield "all is smooth", dict(logits=random(4, 7), labels=np.array([3, 3, 0, 6]), smoothing=1.0)


def interpolate_positions(table, grid):
    """Cubic convolution (Keys 1981, a = -0.75) from n x n to grid x grid points, both at pixel centres; edges repeat.

    The first row, of CLS, is kept.
    """
    n = math.isqrt(len(table) - 1)

    def kernel(x, a=-0.75):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1
        return a * x ** 3 - 5 * a * x ** 2 + 8 * a * x - 4 * a if x < 2 else 0.0

    def neighbours(i):
        """(index, weight) of the four points around output point i."""
        centre = (i + 0.5) * n / grid - 0.5
        left = math.floor(centre)
        return [(min(max(left + o, 0), n - 1), kernel(centre - (left + o))) for o in (-1, 0, 1, 2)]
    y = np.zeros((1 + grid * grid, table.shape[1]))
    y[0] = table[0]
    for r, c, d in over(grid, grid, table.shape[1]):
        y[1 + r * grid + c, d] = sum(wr * wc * table[1 + i * n + j, d]
                                     for i, wr in neighbours(r) for j, wc in neighbours(c))
    return y


def interpolate_positions_cases():
    for n, grid in ((4, 6), (5, 3), (3, 3), (1, 4), (4, 1), (2, 5), (16, 7)):
        yield f"{n} x {n} to {grid} x {grid}", dict(table=random(1 + n * n, 3), grid=grid)
    yield "large magnitudes", dict(table=random(17, 2, scale=1e4), grid=5)


def smooth_l1(e, beta):
    """mean over all numbers of e^2 / (2 beta) where |e| < beta, of |e| - beta / 2 elsewhere"""
    losses = [abs(x) - beta / 2 if abs(x) >= beta else x * x / (2 * beta) for x in map(float, e.flat)]
    return np.float64(math.fsum(losses) / len(losses))


def smooth_l1_cases():
    yield "near and far", dict(e=np.array([[0.05, -0.02, 0.3, -0.7], [0.0, 1.4, -0.06, -0.2]]), beta=0.1)
    yield "near alone", dict(e=random(5, 4, scale=0.1), beta=1.0)
    yield "far alone, one number", dict(e=np.array([-3.0]), beta=0.5)
    yield "large errors", dict(e=random(2, 3, 4, scale=1e3), beta=2.0)
    yield "large and small, some as large as beta", dict(e=np.array([0.5, -0.5, 0.0, 40.0]), beta=0.5)


CONTRACTS = {name: Contract(name, spec, cases, TOLERANCE | tolerance) for name, spec, cases, tolerance in (
    ("linear", linear, linear_cases, {}),
    ("patches", patches, patches_cases, EXACT),
    ("layer_norm", layer_norm, layer_norm_cases, {"float16": 5e-4}),
    ("rms_norm", rms_norm, rms_norm_cases, {"float32": 2e-6, "float16": 5e-4}),
    ("batch_norm", pictures.batch_norm, pictures.batch_norm_cases, {"float32": 2e-6}),
    ("channel_norm", pictures.channel_norm, pictures.channel_norm_cases, {"float16": 5e-4}),
    ("normalise", normalise, normalise_cases, {"float64": 1e-14, "float32": 1e-6, "float16": 5e-4}),
    ("gelu", gelu, activation_cases, {"float64": 1e-14, "float32": 2e-6}),
    ("silu", silu, activation_cases, {"float64": 1e-14, "float32": 2e-6}),
    ("relu", relu, relu_cases, EXACT),
    ("squared_relu", squared_relu, squared_relu_cases, {"float64": 1e-14, "float32": 1e-6}),
    ("quick_gelu", quick_gelu, activation_cases, {"float64": 1e-14, "float32": 2e-6}),
    ("gelu_tanh", gelu_tanh, activation_cases, {"float64": 1e-14, "float32": 2e-6}),
    ("logistic", sigmoid, logistic_cases, {"float64": 1e-14, "float32": 2e-6}),
    ("tanh", tanh, logistic_cases, {"float64": 1e-14, "float32": 2e-6}),
    ("hard_sigmoid", hard_sigmoid, hard_cases, {"float64": 1e-14, "float32": 1e-6}),
    ("hard_swish", hard_swish, hard_cases, {"float64": 1e-14, "float32": 1e-6}),
    ("swiglu", swiglu, swiglu_cases, {"float64": 1e-14, "float32": 2e-6}),
    ("softmax", softmax, softmax_cases, {"float64": 1e-14, "float32": 1e-6, "float16": 5e-4}),
    ("attention", attention, attention_cases, {}),
    ("rotary", rotary, rotary_cases, {"float64": 1e-14, "float32": 1e-6}),
    ("rotary_pairs", rotary_pairs, rotary_pairs_cases, {"float64": 1e-14, "float32": 1e-6}),
    ("convolution", pictures.convolution, pictures.convolution_cases, {}),
    ("convolution1d", pictures.convolution1d, pictures.convolution1d_cases, {}),
    ("average_pool", pictures.average_pool, pictures.average_pool_cases, {"float32": 2e-6}),
    ("max_pool", pictures.max_pool, pictures.max_pool_cases, EXACT),
    ("adaptive_average_pool", pictures.adaptive_average_pool, pictures.adaptive_average_pool_cases, {"float32": 2e-6}),
    ("bilinear", pictures.bilinear, pictures.bilinear_cases, {}),
    ("embedding", embedding, embedding_cases, EXACT),
    ("routed_dense", routed_dense, routed_dense_cases, {}),
    ("routed_mlp", routed_mlp, routed_mlp_cases, {}),
    ("cross_entropy", cross_entropy, cross_entropy_cases, {"float32": 2e-6, "float16": 2e-6}),
    ("smooth_cross_entropy", smooth_cross_entropy, smooth_cross_entropy_cases, {"float32": 2e-6, "float16": 2e-6}),
    ("smooth_l1", smooth_l1, smooth_l1_cases, {"float32": 2e-6, "float16": 2e-6}),
    ("interpolate_positions", interpolate_positions, interpolate_positions_cases, {}),
)}


# -------------------------------------------------------------------------------------- the package under the contracts

def package(name, **arguments):
    """The package's op -> its output and pull(dy) -> {argument: gradient}."""
    if name.startswith("routed"):
        x, types = arguments.pop("x"), arguments.pop("types")
        paths = {argument: PATHS[name].format(*argument.split("_")) for argument in arguments}
        leaves = {path: arguments[argument] for argument, path in paths.items()}
        layer, of = (expert.dense, "expert_dense") if name == "routed_dense" else (expert.mlp, "mlp")
        y, pull_op = expert.routed(layer, x, Params(leaves), of, Route(types))

        def pull(dy):
            g = Gradients(leaves)
            dx = pull_op(dy, g)
            return {"x": dx} | {argument: g.leaves.get(path, np.zeros_like(leaves[path]))
                                for argument, path in paths.items()}
        return y, pull

    module = next(module for module in (ops, more_ops, activations, convolution) if hasattr(module, name))
    y, pull_op = getattr(module, name)(**arguments)

    def pull(dy):
        if name in SEVERAL:
            return dict(zip(SEVERAL[name], pull_op(dy)))
        if "weight" not in arguments:
            return {next(iter(arguments)): pull_op(dy)}
        g = Gradients(("weight", "bias"))
        dx = pull_op(dy, g)
        return g.leaves | ({} if dx is None else {"x": dx})
    return y, pull


SEVERAL = {"attention": ("q", "k", "v"), "swiglu": ("gate", "up"), "bilinear": ("x", "points")}
PATHS = {"routed_dense": "{0}_expert_dense.{1}", "routed_mlp": "{0}_mlp.{1}_proj.weight"}
