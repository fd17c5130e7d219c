"""What a block costs, and attention where an image's tokens see each other."""
import numpy as np

from ...model import route
from ..ablation import package_multiplications
from .table import mistake


def added(types, number):
    """The right count and a number more for each token"""
    return lambda **sizes: package_multiplications(types, **sizes) + types.size * number


@mistake("multiplications",
         says="Image tokens are counted with both experts; each token is computed by ONE, and its cost is the same.")
def both_experts_counted(types, D, F, H, G):
    expert = (package_multiplications(types[:1, :1], D, F, H, G) - 2 * D) * int(route.vision_expert_mask(types).sum())
    return package_multiplications(types, D, F, H, G) + expert


@mistake("multiplications",
         says="Each query is counted with all T keys; the mask is causal: the token at t sees t + 1 keys.")
def all_keys(types, D, F, H, G):
    B, T = types.shape
    return package_multiplications(types, D, F, H, G) + B * T * (T - 1) * D


@mistake("multiplications", says="Attention's own products are missing: with the keys, and with the values.")
def attention_not_counted(types, D, F, H, G):
    B, T = types.shape
    return package_multiplications(types, D, F, H, G) - B * T * (T + 1) * D


@mistake("multiplications",
         says="Attention has two products, one with the keys and one with the values; only one is counted.")
def one_product_of_attention(types, D, F, H, G):
    B, T = types.shape
    return package_multiplications(types, D, F, H, G) - B * T * (T + 1) // 2 * D


@mistake("multiplications", says="The MLP has three matrices: gate, up and down. Two are counted.")
def two_matrices_in_the_mlp(types, D, F, H, G):
    return added(types, -D * F)(D=D, F=F, H=H, G=G)


@mistake("multiplications", says="Attention's output matrix, D x D, is missing.")
def output_matrix_missing(types, D, F, H, G):
    return added(types, -D * D)(D=D, F=F, H=H, G=G)


@mistake("multiplications",
         says="Keys and values are counted as wide as queries; G heads of d numbers each are G d, not D.")
def keys_as_wide_as_queries(types, D, F, H, G):
    return package_multiplications(types, D, F, H, H)


@mistake("multiplications", says="This is one row of the batch; there are B.")
def one_row_counted(types, D, F, H, G):
    return package_multiplications(types[:1], D, F, H, G)


@mistake("multiplications", says="Additions are counted as well: this is twice the number of multiplications.")
def additions_counted(types, D, F, H, G):
    return 2 * package_multiplications(types, D, F, H, G)


def masked(q, k, v, seen, scale=True):
    """seen (B, T, T) -> (B, H, T, d)"""
    scores = q @ k.swapaxes(-1, -2) / (np.sqrt(q.shape[-1]) if scale else 1)
    scores = np.where(seen[:, None], scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ v


def before(images):
    return np.tri(images.shape[1], dtype=bool)[None] & np.ones((len(images), 1, 1), bool)


def of_one_image(images):
    return (images[:, :, None] == images[:, None]) & (images[:, :, None] > 0)


@mistake("image_attention",
         says="This is the plain causal mask: tokens of one image are to see each other, those behind them too.")
def images_ignored(q, k, v, images):
    return masked(q, k, v, before(images))


@mistake("image_attention", says="Nothing is hidden: text sees the tokens that come after it, its own answer too.")
def nothing_hidden(q, k, v, images):
    return masked(q, k, v, np.ones_like(before(images)))


@mistake("image_attention", says="Number 0 is no image: text tokens are taken for one and see each other.")
def text_is_an_image(q, k, v, images):
    return masked(q, k, v, before(images) | (images[:, :, None] == images[:, None]))


@mistake("image_attention",
         says="Two images run together: a token of the first sees the second ahead of it. Compare the numbers.")
def all_images_are_one(q, k, v, images):
    return masked(q, k, v, before(images) | of_one_image((images > 0).astype(int)))


@mistake("image_attention",
         says="An image's tokens see only their image here; what stands before it, bos and text, they see as well.")
def nothing_before_the_image(q, k, v, images):
    inside = images[:, :, None] > 0
    return masked(q, k, v, np.where(inside, of_one_image(images), before(images)))


@mistake("image_attention", says="The scale is missing: the scores are divided by sqrt(d).")
def image_scale_missing(q, k, v, images):
    return masked(q, k, v, before(images) | of_one_image(images), scale=False)
