"""What eyes begin as: an adapter found by least squares, and visual experts that do what the language experts do.

What the tower says of a group of patches is mapped to the mean embedding of the words for what is there, which the
world knows. With nothing else trained the language model reads the picture as if it were those words.
"""
import numpy as np

from ...inputs import image
from ...model import adapter
from ...model.parts import EXPERTS, twin
from ...nn.tree import Params, matches

LAST = "model.vision.linear_proj.dense_4h_to_h.weight"      # what least squares finds; before it the adapter is random
GROUND = "."                                                # the word for what shows no thing
RIDGE = 1e-3                                                # of the mean square of a feature


def initial(shapes, base, seed=0):
    """{name: array} of a folder of eyes, whose `shapes` are given; base: {name: array} of the language model

    Random, the norm 1 and 0, but the convolution is the mean of 2 x 2 patches, and a vision expert is a copy of the
    language expert: of a low rank A is random and B is 0. The adapter is the same whatever the rank.
    """
    random = np.random.default_rng([seed, 0])
    low_rank = np.random.default_rng([seed, 1])
    found = {}
    for name, shape in shapes.items():
        if matches(name, EXPERTS) and ".lora_" not in name:
            found[name] = base[twin(name)].copy()
        elif name == "model.vision.conv.weight":
            found[name] = np.ascontiguousarray(np.broadcast_to(np.eye(shape[0])[:, :, None, None] / shape[2] / shape[3],
                                                               shape), np.float32)
        elif name.endswith("norm1.weight"):
            found[name] = np.ones(shape, np.float32)
        elif name.endswith((".bias", ".lora_B.weight")):
            found[name] = np.zeros(shape, np.float32)
        else:
            spread = 1 / np.sqrt(np.prod(shape[1:])) if name.endswith(".weight") else 0.02
            source = low_rank if ".lora_" in name else random
            found[name] = (spread * source.standard_normal(shape)).astype(np.float32)
    return found


def features(model, pictures):
    """What the adapter's last matrix is multiplied with       -> (N, P, F)"""
    config, leaves = model.config, dict(model.leaves)
    leaves[LAST] = np.eye(config.intermediate_size, dtype=model.dtype)
    pixels = model.activations(np.stack([image.pixels(picture, config.vision.image_size) for picture in pictures]))
    leaves |= {f"model.vision.{end}": np.zeros((1, 1, config.intermediate_size), model.dtype) for end in ("boi", "eoi")}
    return adapter.image_tokens(pixels, Params(leaves).model.vision, config, keep=None)[0][:, 1:-1]


def words(model, name):
    """The mean embedding of a name's tokens                -> (D,)"""
    return model.leaves["model.embed_tokens.weight"][model.tokenizer.encode(f" {name}")].mean(0)


def targets(model, scene):
    """For every group of patches the mean embedding of the words for what covers it        -> (P, D)"""
    grid = int(model.config.num_patches ** 0.5)
    side = scene.side // grid
    owner = scene.owner[:grid * side, :grid * side].reshape(grid, side, grid, side).swapaxes(1, 2)
    owner = owner.reshape(grid * grid, -1)                  # (P, pixels)
    shares = np.stack([(owner == i).mean(1) for i in range(-1, len(scene.things))], 1)
    stop = model.leaves["model.embed_tokens.weight"][model.tokenizer.encode(GROUND)].mean(0)
    return shares.astype(np.float32) @ np.stack([stop, *(words(model, thing.name) for thing in scene.things)])


def adapter_for(model, scenes, at_once=100):
    """The adapter's last matrix (D, F) that maps best from features to targets, and R^2, the share of the variance of
    the targets that it explains"""
    F, D = model.config.intermediate_size, model.config.hidden_size
    squares, products, seen, total = np.zeros((F, F)), np.zeros((F, D)), np.zeros(D), 0.0
    count = 0
    for first in range(0, len(scenes), at_once):
        some = scenes[first:first + at_once]
        x = features(model, [scene.picture for scene in some]).reshape(-1, F)
        y = np.concatenate([targets(model, scene) for scene in some])
        squares, products, count = squares + x.T @ x, products + x.T @ y, count + len(x)
        seen, total = seen + y.sum(0), total + float((y.astype(np.float64) ** 2).sum())
    w = solved(squares, products, RIDGE * np.trace(squares) / F)
    left = total - 2 * (w.T * products).sum() + (w.T * (squares @ w.T)).sum()
    return w.astype(np.float32), 1 - left / (total - (seen ** 2).sum() / count)


def solved(squares, products, ridge):
    """The W (O, I) of the smallest sum of (x W^T - y)^2 + ridge W^2, where squares = x^T x (I, I), products = x^T y (I, O)

    Its gradient is zero: (x^T x + ridge) W^T = x^T y, ridge regression (Hoerl & Kennard 1970).
    """
    return np.linalg.solve(squares + ridge * np.eye(len(squares), dtype=squares.dtype), products).T
