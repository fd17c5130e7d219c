"""Contracts of exercises that are no op of their own: gradients, routing, and ops without some of their options."""
from dataclasses import replace

import numpy as np

from ..contracts import CONTRACTS, TOLERANCE, TYPES, Contract, expert_of, over, random


def narrowed(name, op, holds=lambda arguments: True, drop=(), **fixed):
    """The contract of `op` with some options fixed or left out; only for the cases that `holds` says."""
    def cases():
        for label, arguments in CONTRACTS[op].cases():
            if holds(arguments):
                yield label, {key: value for key, value in arguments.items() if key not in drop}
    contract = CONTRACTS[op]
    return replace(contract, name=name, spec=lambda **arguments: contract.spec(**arguments, **fixed), cases=cases)


# ------------------------------------------------------------------------------------------------------------ gradients

def numerical_gradient(f, x, step=1e-5):
    """df/dx_i = (f(x + step e_i) - f(x - step e_i)) / (2 step)         f: array -> number, x (...) -> (...)"""
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[place] += step
        behind[place] -= step
        gradient[place] = (f(ahead) - f(behind)) / (2 * step)
    return gradient


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


def gradient_contract(name, op, wanted, holds=lambda arguments: True):
    """f(dy, *arguments of op) -> the gradients of sum(dy * y) in the arguments `wanted`, by differences of op's spec.

    The op's small cases that have all of `wanted`, and for which `holds` is true.
    """
    contract = CONTRACTS[op]

    def cases():
        for label, arguments in contract.cases():
            count = sum(value.size for value in arguments.values() if isinstance(value, np.ndarray))
            if count < 200 and not label.startswith("large") and set(wanted) <= set(arguments) and holds(arguments):
                dy = random(*np.shape(contract.spec(**arguments)), seed=9)
                yield label, {"dy": dy, **arguments}

    def spec(dy, **arguments):
        def loss(argument):
            return lambda value: float(np.sum(dy * contract.spec(**arguments | {argument: value})))
        found = tuple(numerical_gradient(loss(argument), arguments[argument], 1e-4) for argument in wanted)
        return found if len(found) > 1 else found[0]
    return Contract(name, spec, cases, {"float64": 1e-6, "float32": 1e-4})


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


EXACT = dict.fromkeys(TOLERANCE, 0.0)


def is_matrix(arguments):
    return arguments["weight"].ndim == 2


def heads_alike(arguments):
    return arguments["q"].shape[1] == arguments["k"].shape[1] and not {"keep", "images"} & set(arguments)


CONTRACTS_HERE = {contract.name: contract for contract in (
    narrowed("linear", "linear", is_matrix),
    Contract("numerical_gradient", lambda f, x: f.gradient(x), numerical_gradient_cases, {"float64": 1e-7}),
    gradient_contract("linear_gradients", "linear", ("x", "weight", "bias"), is_matrix),
    narrowed("attention", "attention", heads_alike, ("causal",), causal=False),
    narrowed("causal_attention", "attention", lambda arguments: heads_alike(arguments) and "causal" not in arguments),
    Contract("vision_expert_mask", vision_expert_mask, types_cases, EXACT),
    Contract("position_ids", position_ids, types_cases, EXACT),
    Contract("split_heads", split_heads, split_heads_cases, EXACT),
)}
