"""Pictograms by many hands: the sheets in world/hands, one for each icon set, rendered once by render_hands.py.

Two manners: "colour" pictograms are RGBA; "ink" pictograms have one channel, how much ink covers a pixel, so that they
can be drawn with a pen of any colour. hands.json says who drew each set, under which licence, which kinds it has, and
what it is for: the sets of the use "check" are never trained on, those of "test" never selected on either.
"""
import json
from functools import cache
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).with_name("hands")
CELL, COLUMNS = 72, 12                                      # pixels of a cell's side, cells in a row
GAP = 2                                                     # pixels: gaps in an outline up to twice this are closed


@cache
def catalogue():
    """hands.json: {"hands": {name: {"manner", "use", "names", ...}}, "unknown": {"train": [...], "test": [...]}}"""
    return json.loads((FOLDER / "hands.json").read_text())


@cache
def hands(use, manner):
    """The names of the hands with this use ("train", "check" or "test") and manner ("colour" or "ink")"""
    return tuple(name for name, hand in catalogue()["hands"].items() if (hand["use"], hand["manner"]) == (use, manner))


@cache
def kinds(hand):
    """What a hand has drawn: kinds, and things that have no name in this world"""
    return frozenset(catalogue()["hands"][hand]["names"])


@cache
def unknown(use):
    """Things that have no name in this world; those of "test" are never trained on"""
    return tuple(catalogue()["unknown"][use])


@cache
def sheet(hand):
    """(h, w, 4) colours and alpha, or (h, w) ink, of 0 ... 255"""
    from PIL import Image
    with Image.open(FOLDER / f"{hand}.webp") as file:
        manner = catalogue()["hands"][hand]["manner"]
        return np.asarray(file.convert("RGBA" if manner == "colour" else "L"))


@cache
def cell(hand, name):
    """One pictogram: (CELL, CELL, 4) straight colours and alpha, or (CELL, CELL) ink"""
    i = catalogue()["hands"][hand]["names"].index(name)
    x, y = i % COLUMNS * CELL, i // COLUMNS * CELL
    return sheet(hand)[y:y + CELL, x:x + CELL]


@cache
def silhouette(hand, name):
    """(CELL, CELL) bool: where the thing is, its inside included where only its outline is drawn"""
    pixels = cell(hand, name)
    return closed((pixels if pixels.ndim == 2 else pixels[..., 3]) >= 128)


def closed(mask, gap=GAP):
    """A mask with its holes filled, and first its gaps of up to 2 `gap` pixels: what cannot be reached from outside."""
    h, w = mask.shape
    wide = np.pad(mask, 2 * gap + 1)
    walls = grown(wide, gap)
    outside, reached = np.zeros_like(walls), 1
    outside[0] = outside[-1] = outside[:, 0] = outside[:, -1] = True
    while outside.sum() > reached:
        reached = outside.sum()
        for _ in range(8):
            outside = grown(outside, 1) & ~walls
            outside[0] = True
    inside = ~grown(outside, gap) | wide
    return inside[2 * gap + 1:, 2 * gap + 1:][:h, :w]


def grown(mask, by):
    """A mask, and every pixel up to `by` steps up, down, left or right of it"""
    for _ in range(by):
        more = mask.copy()
        more[1:] |= mask[:-1]
        more[:-1] |= mask[1:]
        more[:, 1:] |= mask[:, :-1]
        more[:, :-1] |= mask[:, 1:]
        mask = more
    return mask
