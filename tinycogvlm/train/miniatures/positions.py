"""2-D rotary positions against a learned table, at twice the resolution of training.

EVA-02 (Fang et al. 2023, arXiv 2303.11331) turns queries and keys by their patch's row and column. The angles belong to
places in the picture, not to numbers of patches, so that at another resolution the edges keep theirs; a learned table
is interpolated. Three small EVA-02 towers learn on 24 x 24 pixels, 8 x 8 patches, on which side of a red square a blue
one lies, and are asked again about the same pictures at 48 x 48.
"""
from dataclasses import replace

import numpy as np

from ...nn import ops
from ...nn.tree import Gradients, Params
from ...relatives import eva02
from ..recipe.initial import by_inputs
from .miniature import Miniature, trained

SIDE, PATCH, THING = 24, 3, 5                               # pixels
GRID = SIDE // PATCH
CONFIG = eva02.Config(32, 2, 2, 64, (SIDE, SIDE), PATCH, classes=4, fused=False, swiglu=True, sub_attention=True,
                      sub_mlp=True, rotary=True, reference=(GRID, GRID), post_norm=False, mean=False, norm_last=False)
TABLE = "pos_embed"
STEPS, BATCH, RATE, ASKED = 1500, 32, 2e-3, 512


def examples(random, count):
    """pixels (B, 3, 24, 24) of a red and a blue square that do not touch; 0 to 3: blue is right, below, left, above"""
    corners = random.integers(SIDE - THING + 1, size=(4 * count, 2, 2))             # (B, colours, x and y)
    offset = corners[:, 1] - corners[:, 0]
    clear = (abs(offset).max(1) > THING) & (abs(offset[:, 0]) != abs(offset[:, 1]))
    corners, offset = corners[clear][:count], offset[clear][:count]
    pixels = 0.1 * random.standard_normal((len(corners), 3, SIDE, SIDE)).astype(np.float32)
    x, y = np.arange(SIDE), np.arange(SIDE)[:, None]
    for colour, channel in enumerate((0, 2)):
        left, top = (corners[:, colour, axis, None, None] for axis in (0, 1))
        inside = (x >= left) & (x < left + THING) & (y >= top) & (y < top + THING)
        pixels[:, channel] += inside
    along = abs(offset[:, 0]) > abs(offset[:, 1])
    away = np.where(along, offset[:, 0], offset[:, 1])
    return pixels, np.where(along, 0, 1) + np.where(away > 0, 0, 2)


def logits(leaves, pixels, config):
    p = Params(leaves)
    tokens, pull_tower = eva02.tower(pixels, p, config)
    y, pull_head = eva02.head(tokens, p, config)
    return y, lambda dy, g: pull_tower(pull_head(dy, g), g)


def right(leaves, pixels, labels, config):
    return float((logits(leaves, pixels, config)[0].argmax(-1) == labels).mean())


def learn(run, settings, seed):
    config = replace(CONFIG, rotary=settings["rotary"])
    leaves = by_inputs(eva02.shapes(config), np.random.default_rng(seed))
    leaves |= {TABLE: 0.5 * leaves[TABLE] if settings["table"] else np.zeros_like(leaves[TABLE])}

    def loss(leaves, batch):
        pixels, labels = batch
        scores, pull_logits = logits(leaves, pixels, config)
        y, pull_loss = ops.cross_entropy(scores, labels)

        def pull():
            g = Gradients(leaves, () if settings["table"] else (TABLE,))
            pull_logits(pull_loss(1.0), g)
            return g.leaves
        return y, pull
    after = trained(run, leaves, lambda step: examples(np.random.default_rng([seed, step]), BATCH), loss,
                    settings["steps"], RATE, BATCH)
    return measured(after, config, seed)


def measured(leaves, config, seed):
    pixels, labels = examples(np.random.default_rng([seed, 2 ** 32]), ASKED)
    twice, larger = pixels.repeat(2, 2).repeat(2, 3), replace(config, image=(2 * SIDE, 2 * SIDE))
    table, _ = ops.interpolate_positions(leaves[TABLE][0], 2 * GRID)
    grown = leaves | {TABLE: table[None]}
    found = {"at 24": right(leaves, pixels, labels, config), "at 48": right(grown, twice, labels, larger)}
    if config.rotary:
        found["at 48, angles not rescaled"] = right(grown, twice, labels, replace(larger, reference=None))
    return found


RUNS = {"learned table": dict(rotary=False, table=True, steps=STEPS),
        "rotary": dict(rotary=True, table=False, steps=STEPS),
        "both": dict(rotary=True, table=True, steps=STEPS)}
POSITIONS = Miniature(
    "positions", "EVA-02 (Fang et al. 2023): rotary positions keep at another resolution what a learned table loses.",
    8, RUNS, learn)
