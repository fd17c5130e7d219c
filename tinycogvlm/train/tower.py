"""The vision tower by itself: every patch learns to say what covers it and where that thing lies.

As in OWL-ViT (Minderer et al. 2022): a contrast with the names of all things at every patch, and a box from every
patch of a thing. The two linear heads are thrown away afterwards.
"""
import numpy as np

from .. import image, ops
from ..tree import Gradients, Params
from ..vit import vit
from .world import NAMES, SIDE

HEADS = {"names.weight": len(NAMES) + 1, "box.weight": 4}   # {name: rows}; the last name is the background
PARTS = ("model.vision.patch_embedding.", "model.vision.transformer.", *HEADS)      # what is trained


def patch_targets(scenes, size):
    """Of every patch (N, P): the thing's number in NAMES if it covers more than 35 %, -100 if more than 5 %, else
    background; and the thing's box in tenths of the picture (N, P, 4)."""
    n = SIDE // size
    covered = np.stack([s.mask for s in scenes]).reshape(len(scenes), n, size, n, size).mean((2, 4)) / 255
    number = np.array([NAMES.index(s.name) for s in scenes])[:, None, None]
    target = np.where(covered > 0.35, number, np.where(covered > 0.05, -100, len(NAMES)))
    boxes = np.array([s.box for s in scenes], np.float32) * (10 / SIDE)
    return target.reshape(len(scenes), -1), np.broadcast_to(boxes[:, None], (len(scenes), n * n, 4))


def patch_loss(leaves, config, scenes):
    """Cross-entropy of things + 0.2 that of background + smooth L1 of things' boxes

    -> loss, pull, the share of things' patches that are named right
    """
    pixels = np.stack([image.pixels(s.picture, SIDE) for s in scenes])
    target, boxes = patch_targets(scenes, config.patch_size)
    x, pull_vit = vit(pixels, Params(leaves).model.vision, config)                  # (N, P, W)
    logits, pull_names = ops.linear(x.reshape(target.size, -1), leaves["names.weight"])
    thing = (target >= 0) & (target < len(NAMES))
    named, pull_named = ops.cross_entropy(logits, np.where(thing, target, -100).reshape(-1))
    empty, pull_empty = ops.cross_entropy(logits, np.where(target == len(NAMES), target, -100).reshape(-1))
    places, pull_box = ops.linear(x[thing], leaves["box.weight"])
    error = places - boxes[thing]
    smooth = np.where(abs(error) < 1, error ** 2 / 2, abs(error) - 0.5).mean()

    def pull():
        g = Gradients([name for name in leaves if name.startswith(PARTS)])
        dx = pull_names(pull_named(1.0) + pull_empty(0.2), g.names).reshape(x.shape)
        dx[thing] += pull_box(np.clip(error, -1, 1) / error.size, g.box)
        pull_vit(dx, g.model.vision)
        return g.leaves
    right = (logits.argmax(-1).reshape(target.shape) == target)[thing].mean()
    return named + 0.2 * empty + smooth, pull, right
