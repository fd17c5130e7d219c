"""Contracts of exercises that are no op of their own: gradients, routing, and ops without some of their options."""
import math
from dataclasses import replace

import numpy as np

from .. import contracts
from ..contracts.contract import TOLERANCE, Contract, over, random
from ..contracts.gradients import gradient_contract, numerical_gradient
from ..contracts.ops import TYPES, expert_of
from ..model import adapter
from ..nn import ops
from . import ablation, contrast, cuda, pictures, sequence, tokens


def narrowed(name, op, holds=lambda arguments: True, drop=(), **fixed):
    """The contract of `op` with some options fixed or left out; only for the cases that `holds` says."""
    def cases():
        for label, arguments in contracts.CONTRACTS[op].cases():
            if holds(arguments):
                yield label, {key: value for key, value in arguments.items() if key not in drop}
    contract = contracts.CONTRACTS[op]
    return replace(contract, name=name, spec=lambda **arguments: contract.spec(**arguments, **fixed), cases=cases)


# ------------------------------------------------------------------------------------------------------------ gradients

class Known:
    """A function of an array whose gradient is known."""

    def __init__(self, f, gradient):
        self.f, self.gradient = f, gradient

    def __call__(self, x):
        return self.f(x)


def numerical_gradient_cases():
    weight = random(2, 3)
    yield "x^2, one number", dict(f=Known(lambda x: x[0] ** 2, lambda x: 2 * x), x=np.array([3.0]))
    yield "sum of squares", dict(f=Known(lambda x: (x * x).sum(), lambda x: 2 * x), x=random(4))
    yield "sum of cubes", dict(f=Known(lambda x: (x ** 3).sum(), lambda x: 3 * x * x), x=random(5))
    yield "product of all", dict(f=Known(np.prod, lambda x: np.prod(x) / x), x=random(3) + 2)
    yield "a matrix", dict(f=Known(lambda x: (weight * np.sin(x)).sum(), lambda x: weight * np.cos(x)), x=random(2, 3))


# -------------------------------------------------------------------------------------------------------------- routing

def vision_expert_mask(types):
    """True where the vision expert computes the token"""
    return np.array([[expert_of(types, b, t) == "vision" for t in range(types.shape[1])] for b in range(len(types))])


def position_ids(types):
    """One step at every token, but for the patches of an image behind its first: they share one position.

    The first and the last token of an image, boi and eoi, are no patches.
    """
    positions = np.zeros(types.shape, int)
    for b, row in enumerate(types.tolist()):
        def patch(t):
            return 0 < t < len(row) - 1 and row[t] > 0 and row[t - 1] == row[t] == row[t + 1]
        for t in range(1, len(row)):
            positions[b, t] = positions[b, t - 1] + (0 if patch(t) and patch(t - 1) else 1)
    return positions


def types_cases():
    for label, rows in TYPES.items():
        yield label, dict(types=np.array([[int(token) for token in row] for row in rows]))


def split_heads(qkv, H, G):
    """Of the H + 2G heads of each token the first H are queries, then G keys, then G values"""
    B, T, width = qkv.shape
    d = width // (H + 2 * G)
    q, k, v = np.zeros((B, H, T, d)), np.zeros((B, G, T, d)), np.zeros((B, G, T, d))
    for array, first in ((q, 0), (k, H), (v, H + G)):
        for b, h, t, i in over(*array.shape):
            array[b, h, t, i] = qkv[b, t, (first + h) * d + i]
    return q, k, v


def split_heads_cases():
    yield "as many keys as queries", dict(qkv=random(2, 3, 18), H=2, G=2)
    yield "one head", dict(qkv=random(1, 4, 9), H=1, G=1)
    yield "four heads share two keys", dict(qkv=random(2, 3, 24), H=4, G=2)
    yield "one token", dict(qkv=random(1, 1, 12), H=2, G=1)


# -------------------------------------------------------------------------------------------------------------- vision

def patch_embedding(x, weight, bias, cls, table):
    """Row 0 is CLS, row 1 + p the patch p; each with its position"""
    squares = contracts.ops.linear(contracts.ops.patches(x, weight.shape[-1]), weight, bias)
    y = np.zeros((len(x), *table.shape))
    for b, t, d in over(*y.shape):
        y[b, t, d] = (cls[0, d] if t == 0 else squares[b, t - 1, d]) + table[t, d]
    return y


def patch_embedding_cases():
    def case(B, C, N, size, D):
        P = (N // size) ** 2
        return dict(x=random(B, C, N, N), weight=random(D, C, size, size), bias=random(D), cls=random(1, D, seed=1),
                    table=random(1 + P, D, seed=2))
    yield "two pictures", case(2, 3, 6, 2, 5)
    yield "one patch", case(1, 3, 4, 4, 3)
    yield "nine patches of one colour", case(1, 1, 9, 3, 2)


def post_norm_block(x, attention, mlp, norm1, norm2):
    """x + norm1(attention(x)), then x + norm2(mlp(x))"""
    half = x + norm1(attention(x))
    return half + norm2(mlp(half))


def post_norm_block_cases():
    def norm(seed):
        weight, bias = random(4, mean=1, scale=.3, seed=seed), random(4, seed=seed + 1)
        return lambda x: ops.layer_norm(x, weight.astype(x.dtype), bias.astype(x.dtype), 1e-6)[0]

    def mixing(seed):
        tokens, width = random(3, 3, seed=seed), random(4, 4, seed=seed)
        return lambda x: np.tanh(tokens.astype(x.dtype) @ x @ width.astype(x.dtype))
    for label, B in (("one picture", 1), ("two pictures", 2)):
        yield label, dict(x=random(B, 3, 4), attention=mixing(1), mlp=mixing(2), norm1=norm(3), norm2=norm(5))


def glu(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down):
    """h = gelu(LN(x W_in));  y = (silu(h W_gate) * h W_up) W_down"""
    h = contracts.ops.gelu(contracts.ops.layer_norm(contracts.ops.linear(x, w_in), norm_weight, norm_bias, adapter.NORM_EPS))
    return contracts.ops.linear(contracts.ops.swiglu(contracts.ops.linear(h, w_gate), contracts.ops.linear(h, w_up)), w_down)


def glu_cases():
    for label, B, P, scale in (("two pictures", 2, 3, 1), ("one patch", 1, 1, 1), ("eps matters", 1, 2, 1e-3)):
        yield label, dict(x=random(B, P, 5, scale=scale), w_in=random(4, 5), norm_weight=random(4, mean=1, scale=.3),
                          norm_bias=random(4, seed=1), w_gate=random(6, 4), w_up=random(6, 4, seed=1),
                          w_down=random(4, 6))


def with_ends(x, boi, eoi):
    """boi, then the patches, then eoi"""
    B, P, D = x.shape
    y = np.zeros((B, P + 2, D), x.dtype)
    y[:, 0], y[:, 1:-1], y[:, -1] = boi[0], x, eoi[0]
    return y


def with_ends_cases():
    for label, B, P in (("two pictures of three patches", 2, 3), ("one picture of one patch", 1, 1)):
        boi, eoi = random(1, 4, seed=1), random(1, 4, seed=2)
        yield label, dict(x=random(B, P, 4), boi=boi, eoi=eoi)


# ------------------------------------------------------------------------------------------------------------ training

def next_token_loss(logits, ids, types):
    """The token at t + 1, if it is text, from the logits at t"""
    pairs = [(logits[b, t], ids[b, t + 1]) for b, t in over(*ids[:, 1:].shape) if types[b, t + 1] == 0]
    return contracts.ops.cross_entropy(np.array([row for row, _ in pairs]), np.array([label for _, label in pairs]))


def next_token_loss_cases():
    for label, rows in (("text alone", ["00000"]), ("an image in front", ["0111000"]),
                        ("batch", ["0011100", "0000000"]), ("large logits", ["0000"])):
        types = np.array([[int(token) for token in row] for row in rows])
        ids = np.random.default_rng(types.size).integers(0, 6, types.shape)
        yield label, dict(logits=random(*types.shape, 6, scale=500 if "large" in label else 1), ids=ids, types=types)


def adamw(w, g, m, v, step, rate, betas, eps, decay):
    """Loshchilov & Hutter 2019, a number at a time"""
    result, (b1, b2) = [np.zeros(w.shape) for _ in range(3)], betas
    for i in over(*w.shape):
        mean, square = b1 * m[i] + (1 - b1) * g[i], b2 * v[i] + (1 - b2) * g[i] ** 2
        moved = rate * (mean / (1 - b1 ** step)) / (math.sqrt(square / (1 - b2 ** step)) + eps)
        result[0][i], result[1][i], result[2][i] = w[i] - rate * decay * w[i] - moved, mean, square
    return tuple(result)


def adamw_cases():
    def case(step, *shape, decay=0.05, eps=1e-8, betas=(0.9, 0.95), scale=1.0):
        first = step == 1
        return dict(w=random(*shape), g=random(*shape, seed=1, scale=scale),
                    m=np.zeros(shape) if first else random(*shape, seed=2, scale=.1 * scale),
                    v=np.zeros(shape) if first else random(*shape, seed=3, scale=.1 * scale) ** 2,
                    step=step, rate=0.01, betas=betas, eps=eps, decay=decay)
    yield "the first step", case(1, 5)
    yield "the tenth, a matrix", case(10, 2, 3, betas=(0.9, 0.999))
    yield "no decay", case(3, 4, decay=0.0)
    yield "small gradients", case(2, 4, scale=1e-6, eps=1e-6)


# --------------------------------------------------------------------------------------------------------------- boxes

def iou(a, b):
    """Counted on the grid of whole coordinates: squares in both over squares in either"""
    squares = lambda box: {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}
    a, b = squares(a), squares(b)
    return np.float64(len(a & b) / len(a | b))


def iou_cases():
    yield "alike", dict(a=(1, 2, 4, 6), b=(1, 2, 4, 6))
    yield "a corner in common", dict(a=(0, 0, 4, 4), b=(2, 3, 6, 8))
    yield "one in the other", dict(a=(0, 0, 10, 5), b=(2, 1, 4, 3))
    yield "side by side", dict(a=(0, 0, 4, 4), b=(6, 0, 9, 4))
    yield "apart in both directions", dict(a=(0, 0, 4, 4), b=(6, 7, 9, 12))
    yield "edges touch", dict(a=(0, 0, 4, 4), b=(4, 0, 8, 4))


def to_pixels(box, width, height):
    """number / 1000 of the width for x, of the height for y, to the nearest whole number"""
    return np.array([math.floor(number * side / 1000 + 0.5) for number, side in zip(box, (width, height) * 2)])


def to_pixels_cases():
    yield "a thousand pixels", dict(box=(100, 200, 300, 400), width=1000, height=1000)
    yield "a wide picture", dict(box=(20, 160, 340, 440), width=500, height=300)
    yield "CogVLM2's picture", dict(box=(0, 333, 666, 999), width=1344, height=1344)
    yield "a high picture", dict(box=(7, 33, 501, 999), width=112, height=336)
    yield "halves, which are rounded up", dict(box=(21, 33, 501, 999), width=500, height=300)


EXACT = dict.fromkeys(TOLERANCE, 0.0)


def is_matrix(arguments):
    return arguments["weight"].ndim == 2


def heads_alike(arguments):
    return arguments["q"].shape[1] == arguments["k"].shape[1] and "mask" not in arguments


# Of every op, and of what only lessons have; for learners, linear and attention without some of their options.
CONTRACTS = contracts.CONTRACTS | cuda.CONTRACTS | tokens.CONTRACTS | {contract.name: contract for contract in (
    narrowed("linear", "linear", is_matrix),
    Contract("numerical_gradient", lambda f, x: f.gradient(x), numerical_gradient_cases, {"float64": 1e-7}),
    gradient_contract("linear_gradients", "linear", ("x", "weight", "bias"), is_matrix),
    narrowed("attention", "attention", heads_alike, ("causal",), causal=False),
    narrowed("causal_attention", "attention", lambda arguments: heads_alike(arguments) and "causal" not in arguments),
    narrowed("grouped_attention", "attention",
             lambda arguments: not {"mask", "causal"} & set(arguments)),
    Contract("patch_embedding", patch_embedding, patch_embedding_cases, TOLERANCE),
    Contract("glu", glu, glu_cases, TOLERANCE),
    Contract("with_ends", with_ends, with_ends_cases, EXACT),
    Contract("next_token_loss", next_token_loss, next_token_loss_cases, TOLERANCE),
    Contract("adamw", adamw, adamw_cases, TOLERANCE),
    Contract("post_norm_block", post_norm_block, post_norm_block_cases, TOLERANCE),
    gradient_contract("swiglu_gradients", "swiglu", ("gate", "up")),
    gradient_contract("rms_norm_gradients", "rms_norm", ("x", "weight")),
    gradient_contract("cross_entropy_gradient", "cross_entropy", ("logits",), lambda arguments: "weights" not in arguments),
    Contract("iou", iou, iou_cases, {"float64": 1e-12}),
    Contract("to_pixels", to_pixels, to_pixels_cases, {"float64": 0.0}),
    Contract("vision_expert_mask", vision_expert_mask, types_cases, EXACT),
    Contract("position_ids", position_ids, types_cases, EXACT),
    Contract("split_heads", split_heads, split_heads_cases, EXACT),
    *ablation.CONTRACTS,
    *contrast.CONTRACTS,
    *pictures.CONTRACTS,
    *sequence.CONTRACTS,
)}
