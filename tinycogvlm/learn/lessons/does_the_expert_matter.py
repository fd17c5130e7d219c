"""Lesson 18: what a block costs, and attention in which the tokens of an image see each other."""
import math

import numpy as np

from ...contracts import CONTRACTS, Contract, over, random
from ...contracts.contract import EXACT
from ...contracts.ops import TYPES, attention
from ...model import expert, route
from ...model.config import Config, VisionConfig
from ...nn import ops
from ...train.ablation import variants
from ..exercise import Exercise
from .attention import softmax
from .one_sequence import digits

# ----------------------------------------------------------------------------------------------------- multiplications

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
    yield "text", dict(types=digits("00000"), D=6, F=10, H=3, G=3)
    yield "an image before text", dict(types=digits("0111100"), D=6, F=10, H=3, G=3)
    yield "one token", dict(types=digits("0"), D=4, F=8, H=2, G=2)
    yield "a batch", dict(types=digits("00110", "11110"), D=8, F=12, H=4, G=4)
    yield "shared keys, as in CogVLM2", dict(types=digits("011100"), D=8, F=12, H=4, G=2)


def matrices(D, F, H, G):
    """The size of one expert's matrices, each of which a token meets once; from the shapes of the package's tensors"""
    shapes = Config(1, D, F, 1, H, G, VISION).shapes()
    return sum(math.prod(shape) for name, shape in shapes.items() if "language_" in name)


def package_multiplications(types, D, F, H, G):
    B, T = types.shape
    return B * (T * matrices(D, F, H, G) + T * (T + 1) * D)


MULTIPLICATIONS = Exercise(Contract("multiplications", multiplications, multiplications_cases, EXACT),
                           package_multiplications, (expert.mlp, expert.attention))


@MULTIPLICATIONS.mistake(
    "Image tokens are counted with both experts; each token is computed by ONE, and its cost is the same.")
def both_experts_counted(types, D, F, H, G):
    return multiplications(types, D, F, H, G) + matrices(D, F, H, G) * int(route.vision_expert_mask(types).sum())


@MULTIPLICATIONS.mistake(
    "Image tokens are counted with both experts; each token is computed by ONE, and its cost is the same.")
def both_experts_counted_for_eoi_too(types, D, F, H, G):
    return multiplications(types, D, F, H, G) + matrices(D, F, H, G) * int((types > 0).sum())


@MULTIPLICATIONS.mistake("Each query is counted with all T keys; the mask is causal: the token at t sees t + 1 keys.")
def all_keys(types, D, F, H, G):
    B, T = types.shape
    return multiplications(types, D, F, H, G) + B * T * (T - 1) * D


@MULTIPLICATIONS.mistake("Attention's own products are missing: with the keys, and with the values.")
def attention_not_counted(types, D, F, H, G):
    B, T = types.shape
    return multiplications(types, D, F, H, G) - B * T * (T + 1) * D


@MULTIPLICATIONS.mistake("Attention has two products, one with the keys and one with the values; only one is counted.")
def one_product_of_attention(types, D, F, H, G):
    B, T = types.shape
    return multiplications(types, D, F, H, G) - B * T * (T + 1) // 2 * D


@MULTIPLICATIONS.mistake("The MLP has three matrices: gate, up and down. Only two are counted.")
def two_matrices_in_the_mlp(types, D, F, H, G):
    return multiplications(types, D, F, H, G) - types.size * D * F


@MULTIPLICATIONS.mistake("Attention's output matrix, D x D, is missing.")
def output_matrix_missing(types, D, F, H, G):
    return multiplications(types, D, F, H, G) - types.size * D * D


@MULTIPLICATIONS.mistake("Keys and values are counted as wide as queries; G heads of d numbers each are G d, not D.")
def keys_as_wide_as_queries(types, D, F, H, G):
    return multiplications(types, D, F, H, H)


@MULTIPLICATIONS.mistake("This is one row of the batch; there are B.")
def one_row_counted(types, D, F, H, G):
    return multiplications(types[:1], D, F, H, G)


@MULTIPLICATIONS.mistake("Additions are counted as well: this is twice the number of multiplications.")
def additions_counted(types, D, F, H, G):
    return 2 * multiplications(types, D, F, H, G)


# ----------------------------------------------------------------------------------------------------- image_attention

def image_attention(q, k, v, images):
    """Attention in which query t sees key s if s <= t or if both are of one image: images (B, T), 0 is none"""
    (B, _, T, _), y = q.shape, np.empty(q.shape)
    for b, t in over(B, T):
        seen = [s <= t or images[b, s] == images[b, t] > 0 for s in range(T)]
        y[b:b + 1, :, t:t + 1] = attention(q[b:b + 1, :, t:t + 1], k[b:b + 1], v[b:b + 1], np.array([seen]), False)
    return y


def image_attention_cases():
    def case(images, H=2, d=4):
        B, T = images.shape
        return dict(q=random(B, H, T, d), k=random(B, H, T, d, seed=1), v=random(B, H, T, d, seed=2), images=images)
    for label, rows in TYPES.items():
        yield label, case(digits(*rows))
    yield "images over 140 tokens", case(np.arange(140)[None] // 30, H=1, d=2)


def package_image_attention(q, k, v, images):
    return variants.image_attention(q, k, v, images=images)[0]


def fit_image_attention(mine, otherwise):
    """In the language model, where no image sees ahead: none of its tokens is marked as an image's."""
    def attention(q, k, v, mask=None, causal=True):
        if not causal or mask is not None or q.shape != k.shape:
            return otherwise(q, k, v, mask, causal)
        return mine(q, k, v, np.zeros((len(q), q.shape[2]), int)), None
    return attention


IMAGE_ATTENTION = Exercise(
    Contract("image_attention", image_attention, image_attention_cases, CONTRACTS["attention"].tolerance),
    package_image_attention, (variants.image_attention,),
    part="causal_attention", place=ops.attention, fit=fit_image_attention)


def masked(q, k, v, seen, scale=True):
    """seen (B, T, T) -> (B, H, T, d)"""
    scores = q @ k.swapaxes(-1, -2) / (np.sqrt(q.shape[-1]) if scale else 1)
    return softmax(np.where(seen[:, None], scores, -np.inf)) @ v


def before(images):
    return np.tri(images.shape[1], dtype=bool)[None] & np.ones((len(images), 1, 1), bool)


def of_one_image(images):
    return (images[:, :, None] == images[:, None]) & (images[:, :, None] > 0)


@IMAGE_ATTENTION.mistake("This is the plain causal mask; tokens of one image should see each other, later ones too.")
def images_ignored(q, k, v, images):
    return masked(q, k, v, before(images))


@IMAGE_ATTENTION.mistake("Nothing is hidden: text sees the tokens that come after it, even its own answer.")
def nothing_hidden(q, k, v, images):
    return masked(q, k, v, np.ones_like(before(images)))


@IMAGE_ATTENTION.mistake("Number 0 is no image: text tokens are taken for one and see each other.")
def text_is_an_image(q, k, v, images):
    return masked(q, k, v, before(images) | (images[:, :, None] == images[:, None]))


@IMAGE_ATTENTION.mistake(
    "Two images run together: a token of the first sees the second, which comes later. Compare the numbers.")
def all_images_are_one(q, k, v, images):
    return masked(q, k, v, before(images) | of_one_image((images > 0).astype(int)))


@IMAGE_ATTENTION.mistake(
    "An image's tokens see only their image here; they also see what comes before it, bos and text.")
def nothing_before_the_image(q, k, v, images):
    return masked(q, k, v, np.where(images[:, :, None] > 0, of_one_image(images), before(images)))


@IMAGE_ATTENTION.mistake("The scale is missing: the scores are divided by sqrt(d).")
def image_scale_missing(q, k, v, images):
    return masked(q, k, v, before(images) | of_one_image(images), scale=False)
