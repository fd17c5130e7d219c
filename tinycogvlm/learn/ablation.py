"""The exercises about what the visual expert is worth: a block's cost, and the mask of one of the ablation's models."""
import math

import numpy as np

from ..contracts.contract import TOLERANCE, Contract, over, random
from ..contracts.ops import CONTRACTS as OPS, TYPES, attention
from ..model.config import Config, VisionConfig
from ..train.ablation import variants

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


def image_attention(q, k, v, images):
    """ops.attention, but query t sees key s if s <= t or if both are of one image: images (B, T), 0 is none"""
    (B, _, T, _), y = q.shape, np.empty(q.shape)
    for b, t in over(B, T):
        seen = [s <= t or images[b, s] == images[b, t] > 0 for s in range(T)]
        y[b:b + 1, :, t:t + 1] = attention(q[b:b + 1, :, t:t + 1], k[b:b + 1], v[b:b + 1], np.array([seen]), False)
    return y


def image_attention_cases():
    def case(images, H=2, d=4):
        (B, T), images = images.shape, np.asarray(images)
        return dict(q=random(B, H, T, d), k=random(B, H, T, d, seed=1),
                    v=random(B, H, T, d, seed=2), images=images)
    for label, rows in TYPES.items():
        yield label, case(np.array([[int(token) for token in row] for row in rows]))
    yield "a whole image over 140 tokens", case(np.arange(140)[None] // 30, H=1, d=2)


def fit_image_attention(mine, package):
    """In the language model, where no image sees ahead: none of the tokens is an image's then."""
    def attention(q, k, v, mask=None, causal=True):
        if not causal or mask is not None or q.shape != k.shape:
            return package(q, k, v, mask, causal)
        return mine(q, k, v, np.zeros((len(q), q.shape[2]), int)), None
    return attention


def package_image_attention(q, k, v, images):
    return variants.image_attention(q, k, v, images=images)[0]


CONTRACTS = (
    Contract("multiplications", multiplications, multiplications_cases, dict.fromkeys(TOLERANCE, 0.0)),
    Contract("image_attention", image_attention, image_attention_cases, OPS["attention"].tolerance),
)
