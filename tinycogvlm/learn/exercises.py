"""Every exercise of the course: its contract, the package's own solution, and its place in the model.

A function of a lesson's exercise.py is one entry here, by its name, which no other lesson uses. That the solution is
the package itself means: `package` computes the same with the package's code, and `shown` names the lines to read. It
takes what the contract gives, and holds the package's functions themselves, whatever stands in their places later.
"""
from dataclasses import dataclass
from functools import partial
from typing import Callable

import numpy as np

from .. import contracts, expert, ops, route
from ..kernels import launch
from ..tree import Gradients, Params
from . import specs


@dataclass(frozen=True)
class Exercise:
    """contract: contracts.Contract. package(**arguments of the contract) -> what is right. shown: objects to read.

    part:   what it is in the model; two exercises that are the same part count once. None: it has no place there.
    place:  (module or class, attribute) that takes the learner's function, or None if only other parts call it.
    fit:    (the learner's function, the package's) -> what is put in that place.
    runs:   "answer", or "gradient" for what only a step of training calls.
    kernel: of CUDA exercises, the package's file that the learner's takes the place of.
    """
    contract: contracts.Contract
    package: Callable
    shown: tuple
    part: str = None
    place: tuple = None
    fit: Callable = None
    runs: str = "answer"
    kernel: str = None

    @property
    def dtypes(self):
        order = ("float32",) if self.kernel else ("float64", "float32")
        return [dtype for dtype in order if dtype in self.contract.tolerance]


def forward(op):
    """The op without its pullback."""
    return lambda *arguments, **named: op(*arguments, **named)[0]


def no_pullback(mine, package):
    """For answers, which need none."""
    return lambda *arguments, **named: (mine(*arguments, **named), None)


def fit_linear(mine, package):
    return lambda x, weight, bias=None: (mine(x, weight.reshape(len(weight), -1), bias), None)


def fit_linear_gradients(mine, package):
    def linear(x, weight, bias=None):
        y, _ = package(x, weight, bias)
        matrix = weight.reshape(len(weight), -1)
        zeros = np.zeros(len(weight), x.dtype) if bias is None else bias

        def pull(dy, g):
            dx, dweight, dbias = mine(dy=dy, x=x, weight=matrix, bias=zeros)
            g.add("weight", lambda: dweight.reshape(weight.shape))
            if bias is not None:
                g.add("bias", lambda: dbias)
            return dx
        return y, pull
    return linear


def fit_attention(mine, package):
    """Where every token sees every other: in the vision tower."""
    def attention(q, k, v, keep=None, causal=True, images=None):
        if causal or keep is not None or images is not None:
            return package(q, k, v, keep, causal, images)
        return mine(q, k, v), None
    return attention


def fit_causal_attention(mine, package):
    """In the language model, unless keys are shared or hidden."""
    def attention(q, k, v, keep=None, causal=True, images=None):
        if not causal or keep is not None or images is not None or q.shape[1] != k.shape[1]:
            return package(q, k, v, keep, causal, images)
        return mine(q, k, v), None
    return attention


def fit_routed_dense(mine, package):
    def routed(layer, x, p, name, route):
        if layer is not expert.dense:
            return package(layer, x, p, name, route)
        vision, language = p[f"vision_{name}"], p[f"language_{name}"]
        return mine(x, route.types, vision.weight, language.weight, vision.get("bias")), None
    return routed


def fit_position_ids(mine, package):
    """For rows without padding; generate.py has a name of its own for it."""
    return lambda types, mask=None: mine(np.asarray(types)) if mask is None or np.all(mask) else package(types, mask)


def package_routed_dense(x, types, vision_weight, language_weight, vision_bias=None, routed=expert.routed):
    leaves = {"vision_expert_dense.weight": vision_weight, "language_expert_dense.weight": language_weight}
    if vision_bias is not None:
        leaves["vision_expert_dense.bias"] = vision_bias
    return routed(expert.dense, x, Params(leaves), "expert_dense", route.Route(types))[0]


def gradients(op, *wanted):
    """The op's pullback as a function of dy and the op's arguments."""
    def package(dy, **arguments):
        _, pull = op(**arguments)
        if "weight" not in arguments:
            return pull(dy)
        g = Gradients(("weight", "bias"))
        found = {"x": pull(dy, g), **g.leaves}
        return tuple(found[name] for name in wanted)
    return package


def of_op(name, fit=no_pullback):
    """An op of ops.py that the learner writes as it is."""
    op = getattr(ops, name)
    return Exercise(contracts.CONTRACTS[name], forward(op), (op,), name, (ops, name), fit)


def of_kernel(op, version, file):
    """A rung of a kernel's ladder, launched as the package launches its own."""
    function = getattr(launch, op)
    return Exercise(contracts.CONTRACTS[op], partial(function, version=version), (launch.HERE / file,), op, (ops, op),
                    no_pullback, kernel=file)


def same(mine, package):
    return mine


EXERCISES = {
    # 01
    "linear": Exercise(specs.CONTRACTS_HERE["linear"], forward(ops.linear), (ops.linear,), "linear", (ops, "linear"),
                       fit_linear),
    "numerical_gradient": Exercise(specs.CONTRACTS_HERE["numerical_gradient"], specs.numerical_gradient,
                                   (specs.numerical_gradient,)),
    "linear_gradients": Exercise(specs.CONTRACTS_HERE["linear_gradients"],
                                 gradients(ops.linear, "x", "weight", "bias"), (ops.linear,),
                                 "linear_gradients", (ops, "linear"), fit_linear_gradients, runs="gradient"),
    # 04
    "softmax": Exercise(contracts.CONTRACTS["softmax"], forward(ops.softmax), (ops.softmax,), "softmax"),
    "attention": Exercise(specs.CONTRACTS_HERE["attention"], partial(forward(ops.attention), causal=False),
                          (ops.attention,), "attention", (ops, "attention"), fit_attention),
    # 09
    "rms_norm": of_op("rms_norm"),
    "rotary": of_op("rotary"),
    "causal_attention": Exercise(specs.CONTRACTS_HERE["causal_attention"], forward(ops.attention), (ops.attention,),
                                 "causal_attention", (ops, "attention"), fit_causal_attention),
    "swiglu": of_op("swiglu"),
    # 12
    "vision_expert_mask": Exercise(specs.CONTRACTS_HERE["vision_expert_mask"], route.vision_expert_mask,
                                   (route.vision_expert_mask,), "vision_expert_mask", (route, "vision_expert_mask"),
                                   same),
    "position_ids": Exercise(specs.CONTRACTS_HERE["position_ids"], route.position_ids, (route.position_ids,),
                             "position_ids", (route, "position_ids"), fit_position_ids),
    "routed_dense": Exercise(contracts.CONTRACTS["routed_dense"], package_routed_dense, (expert.routed, expert.dense),
                             "routed_dense", (expert, "routed"), fit_routed_dense),
    "split_heads": Exercise(specs.CONTRACTS_HERE["split_heads"], expert.split_heads, (expert.split_heads,),
                            "split_heads", (expert, "split_heads"), same),
    # 18
    "rms_norm_v1": of_kernel("rms_norm", 1, "rmsnorm.cu"),
    "rms_norm_v2": of_kernel("rms_norm", 2, "rmsnorm.cu"),
}
