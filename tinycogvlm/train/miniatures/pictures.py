"""Small pictures with captions: three coloured shapes in four places, 16 x 16 pixels, nine words.

Drawn by whole-array arithmetic, so that a batch of hundreds costs a millisecond; the world's scenes cost more.
"""
import numpy as np

CELL, GRID = 8, 2                                           # pixels of a place, places a side
SIDE = CELL * GRID
PLACES = ("upper left", "upper right", "lower left", "lower right")
COLOURS = {"red": (220, 30, 30), "green": (30, 175, 50), "blue": (35, 70, 225), "yellow": (240, 220, 30),
           "purple": (145, 40, 180), "white": (240, 240, 240)}
SHAPES = {
    "square": ("######", "######", "######", "######", "######", "######"),
    "disc": ("..##..", ".####.", "######", "######", ".####.", "..##.."),
    "cross": ("..##..", "..##..", "######", "######", "..##..", "..##.."),
    "ring": ("######", "#....#", "#....#", "#....#", "#....#", "######"),
}
BITMAPS = np.pad(np.array([[[point == "#" for point in row] for row in rows] for rows in SHAPES.values()]),
                 ((0, 0), (1, 1), (1, 1)))                  # (shapes, 8, 8)
PAINTS = np.array(list(COLOURS.values())) / 127.5 - 1       # (colours, 3), from -1 to 1
WORDS = (*PLACES, *COLOURS, *SHAPES)
END = len(WORDS)                                            # the largest id, as CLIP's end of a text
VOCABULARY, LENGTH = END + 1, 10                            # of a caption: three times place, colour, shape; the end
THINGS = 3
NOISE = 0.1


def drawn(random, count):
    """places, colours, shapes (count, 3) of `count` pictures; places in reading order"""
    places = np.sort(random.permuted(np.tile(np.arange(len(PLACES)), (count, 1)), axis=1)[:, :THINGS], axis=1)
    return places, random.integers(len(COLOURS), size=places.shape), random.integers(len(SHAPES), size=places.shape)


def pixels(random, places, colours, shapes):
    """(B, 3, 16, 16) float32, with a little noise, on black"""
    B = len(places)
    canvas = np.full((B, GRID * GRID, CELL, CELL, 3), -1.0)
    each = np.arange(B)[:, None]
    canvas[each, places] = np.where(BITMAPS[shapes][..., None], PAINTS[colours][:, :, None, None], -1)
    canvas += NOISE * random.standard_normal(canvas.shape)
    rows = canvas.reshape(B, GRID, GRID, CELL, CELL, 3).transpose(0, 5, 1, 3, 2, 4)
    return rows.reshape(B, 3, SIDE, SIDE).astype(np.float32)


def captions(places, colours, shapes):
    """ids (B, 10): "upper left red disc lower left ..." and the end"""
    words = np.stack([places, len(PLACES) + colours, len(PLACES) + len(COLOURS) + shapes], -1)
    return np.concatenate([words.reshape(len(places), -1), np.full((len(places), 1), END)], 1)


def pairs(random, count, distinct=False):
    """pixels and ids of `count` pictures; `distinct`: no two captions are the same"""
    what = drawn(random, 2 * count if distinct else count)
    if distinct:
        first = np.sort(np.unique(captions(*what), axis=0, return_index=True)[1])[:count]
        what = [some[first] for some in what]
    return pixels(random, *what), captions(*what)
