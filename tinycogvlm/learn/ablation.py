"""The exercises about what the visual expert is worth: a block's cost, and the mask of one of the ablation's variants."""
import math

import numpy as np

from .. import contracts
from ..contracts.contract import Contract
from ..model.config import Config, VisionConfig
from ..nn import ops

VISION = VisionConfig(hidden_size=2, num_hidden_layers=1, num_heads=1, intermediate_size=2, patch_size=1, image_size=2)


def multiplications(types, D, F, H, G):
    """Counted token by token: its expert's matrices; each head's products with every key that the token sees"""
    d, count = D // H, 0
    for _ in range(len(types)):
        for t in range(types.shape[1]):
            count += D * (H * d + 2 * G * d) + H * d * D                        # q, k, v; the output matrix
            count += 2 * D * F + F * D                                          # gate, up; down
            for _ in range(H):
                count += (t + 1) * d + (t + 1) * d                              # with the keys, with the values
    return np.int64(count)


def multiplications_cases():
    def types(*rows):
        return np.array([[int(token) for token in row] for row in rows])
    yield "text", dict(types=types("00000"), D=6, F=10, H=3, G=3)
    yield "an image in front of text", dict(types=types("0111100"), D=6, F=10, H=3, G=3)
    yield "one token", dict(types=types("0"), D=4, F=8, H=2, G=2)
    yield "a batch", dict(types=types("00110", "11110"), D=8, F=12, H=4, G=4)
    yield "shared keys, as in CogVLM2", dict(types=types("011100"), D=8, F=12, H=4, G=2)


def package_multiplications(types, D, F, H, G):
    """From the shapes of the package's own tensors: a token meets every matrix of one expert once."""
    (B, T), shapes = types.shape, Config(1, D, F, 1, H, G, VISION).shapes()
    expert = sum(math.prod(shape) for name, shape in shapes.items() if "language_" in name)
    return B * (T * expert + T * (T + 1) * D)


def is_whole(arguments):
    """Whether these arguments of attention are of images, of as many keys as queries, and of nothing else."""
    return "images" in arguments and "mask" not in arguments and arguments["q"].shape == arguments["k"].shape


def image_attention_cases():
    for label, arguments in contracts.CONTRACTS["attention"].cases():
        if is_whole(arguments):
            yield label, arguments


def fit_image_attention(mine, package):
    """In the language model, where no image sees ahead: none of the tokens is an image's then."""
    def attention(q, k, v, mask=None, causal=True, images=None):
        if not causal or mask is not None or q.shape != k.shape:
            return package(q, k, v, mask, causal, images)
        return mine(q, k, v, np.zeros((len(q), q.shape[2]), int) if images is None else images), None
    return attention


def package_image_attention(q, k, v, images, attention=ops.attention.own):
    return attention(q, k, v, images=images)[0]


CONTRACTS = (
    Contract("multiplications", multiplications, multiplications_cases, dict.fromkeys(contracts.contract.TOLERANCE, 0.0)),
    Contract("image_attention", contracts.ops.attention, image_attention_cases, contracts.CONTRACTS["attention"].tolerance),
)
