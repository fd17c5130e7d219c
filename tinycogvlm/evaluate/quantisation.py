"""What quantised weights cost: the errors of the matrices, of each layer's output and of the logits."""
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..model.cogvlm import CogVLM
from ..model.parts import matrices
from ..nn import trace
from ..nn.arrays import to_numpy
from ..storage.quantise import quantise


class Rounded(Mapping):
    """`leaves` with every matrix quantised and dequantised when it is read: the numbers a quantised model computes with.

    head: the embedding table and lm_head as well. errors: {name: |w' - w| / |w|} of the matrices read so far.
    """

    def __init__(self, leaves, dtype, head=False):
        self.leaves, self.dtype, self.errors = leaves, dtype, {}
        self.matrices = set(matrices({name: leaf.shape for name, leaf in leaves.items()}, head))

    def __getitem__(self, name):
        leaf = self.leaves[name]
        if name not in self.matrices:
            return leaf
        rounded = quantise(leaf, self.dtype).dequantised(leaf.dtype)
        self.errors[name] = relative_error(rounded, leaf)
        return rounded

    def __contains__(self, name):
        return name in self.leaves

    def __iter__(self):
        return iter(self.leaves)

    def __len__(self):
        return len(self.leaves)


def relative_error(actual, expected):
    """|actual - expected| / |expected| in the Euclidean norm of all entries"""
    actual, expected = (to_numpy(array).astype(np.float64) for array in (actual, expected))
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@dataclass(frozen=True)
class Errors:
    """Relative errors of a quantised model: of each matrix, of each layer's output, of the text tokens' logits.

    same: the share of text tokens whose most probable next token stays the same.
    """
    weights: dict
    layers: dict
    logits: float
    same: float


def measure(model, inputs, dtype, head=False):
    """The Errors of `model` on `inputs` with its matrices in "int8" or "int4"."""
    leaves = Rounded(model.leaves, dtype, head)
    quantised = CogVLM(model.config, leaves, rotary=model.rotary)
    with trace.recording() as exact:
        expected = to_numpy(model.logits(inputs))
    with trace.recording() as rounded:
        actual = to_numpy(quantised.logits(inputs))
    layers = {name: relative_error(rounded[name], exact[name]) for name in exact
              if re.fullmatch(r"(vit|lm)/layer\d+/out|adapter/out", name)}
    actual, expected = actual[inputs.types == 0], expected[inputs.types == 0]
    return Errors(leaves.errors, layers, relative_error(actual, expected),
                  float((actual.argmax(-1) == expected.argmax(-1)).mean()))
