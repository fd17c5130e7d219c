"""What is behind the things: plain paper of any colour, gradients, noise, the plain world's textures, photographs."""
from functools import cache

import numpy as np

from . import colours, draw
from .pictograms import FOLDER

GROUNDS = (*draw.BACKGROUNDS, *colours.NAMES, "gradient", "noise", "photo")    # as answers name them
PHOTO = 192                                                 # pixels of a photograph's side


def choose(dice, weights):
    """The name of a ground: weights {"white": ..., "colour": ..., "texture": ..., ...}, whole numbers"""
    sort = dice.choice([sort for sort, weight in weights.items() for _ in range(weight)])
    if sort == "colour":
        return dice.choice(colours.NAMES)
    return dice.choice(tuple(draw.BACKGROUNDS)) if sort == "texture" else sort


def paint(name, side, dice):
    """(side, side, 3) uint8"""
    if name in draw.BACKGROUNDS:
        return draw.background(name, side, dice)
    if name == "photo":
        return photo(side, dice)
    if name == "noise":
        base, spread = dice.between(40, 215), dice.between(20, 80)
        return np.clip(base + (dice.bytes(side, side, 3).astype(np.int32) - 128) * spread // 128, 0, 255).astype(np.uint8)
    if name == "gradient":
        return gradient([colours.rgb(dice.below(360), dice.below(101), dice.between(20, 100)) for _ in range(2)],
                        side, dice)
    paper = (255, 255, 255) if name == "white" and dice.below(2) else colours.pick(name, dice)
    return np.broadcast_to(np.array(paper, np.uint8), (side, side, 3)).copy()


def gradient(ends, side, dice):
    """From one colour to another, across, down or along a diagonal"""
    x = np.arange(side)
    along = dice.choice((x + 0 * x[:, None], x[:, None] + 0 * x, (x + x[:, None]) // 2, (x - x[:, None] + side) // 2))
    first, second = (np.array(end) for end in ends)
    share = along[..., None] * 255 // side
    return ((first * (255 - share) + second * share) // 255).astype(np.uint8)


def photo(side, dice):
    """A square cut at random from one of the photographs, a fourth of it to all of it, perhaps mirrored"""
    from PIL import Image
    sheet = photos()
    left = dice.below(sheet.shape[1] // PHOTO) * PHOTO
    size = dice.between(PHOTO // 4, PHOTO)
    x, y = left + dice.below(PHOTO - size + 1), dice.below(PHOTO - size + 1)
    cut = sheet[y:y + size, x:x + size]
    cut = cut[:, ::-1] if dice.below(2) else cut
    return np.asarray(Image.fromarray(np.ascontiguousarray(cut)).resize((side, side), Image.Resampling.BILINEAR))


@cache
def photos():
    from PIL import Image
    with Image.open(FOLDER / "photos.webp") as file:
        return np.asarray(file.convert("RGB"))
