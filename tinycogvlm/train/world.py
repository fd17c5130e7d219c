"""The world of the first weights: one coloured shape on a background, drawn with its truth.

Everything is drawn from raw 64-bit words of PCG64 by integer arithmetic, so a seed is the same picture on every
platform. Every use has its own stream of seeds, so that the splits "train", "check" (looked at while training) and
"test" never meet.
"""
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

SIDE = 112                                                  # pixels of a picture
COLOURS = {"red": (220, 30, 30), "green": (30, 175, 50), "blue": (35, 70, 225), "yellow": (240, 220, 30),
           "purple": (145, 40, 180), "orange": (245, 140, 20)}
SHAPES = ("circle", "square", "triangle", "star")
NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
STREAMS = ("train", "check", "test", "words", "order")      # of random numbers; the first three are splits of scenes
SMALLEST, LARGEST, MARGIN = 24, 70, 2                       # pixels: of a thing's frame, and around its box


@dataclass(frozen=True)
class Scene:
    """A picture and the truth about it."""
    picture: np.ndarray                                     # (SIDE, SIDE, 3) uint8
    mask: np.ndarray                                        # (SIDE, SIDE) uint8, how far the thing covers each pixel
    colour: str
    shape: str
    box: tuple                                              # x0, y0, x1, y1 in pixels; x1 and y1 lie outside

    @property
    def name(self):
        return f"{self.colour} {self.shape}"

    @property
    def thousandths(self):
        """The box as CogVLM counts, 0 at the left and upper edge, 1000 at the others."""
        return tuple(c * 1000 / SIDE for c in self.box)


class Dice:
    """Random integers from the raw words of PCG64, seeded by a stream's name and a number."""

    def __init__(self, stream, number):
        self.words = np.random.PCG64([STREAMS.index(stream), number]).random_raw

    def below(self, n):
        """0 ... n - 1"""
        return (self.words() >> 32) * n >> 32

    def between(self, lowest, highest):
        """lowest ... highest, both included"""
        return lowest + self.below(highest - lowest + 1)

    def choice(self, options):
        return options[self.below(len(options))]

    def bytes(self, *shape):
        """An array of 0 ... 255."""
        count = int(np.prod(shape))
        return self.words(count // 8 + 1).astype("<u8").view(np.uint8)[:count].reshape(shape).astype(int)


def scene(split, number):
    """Scene `number` of a split."""
    dice = Dice(split, number)
    colour, shape = dice.choice(tuple(COLOURS)), dice.choice(SHAPES)
    stamp = coverage(shape, dice.between(SMALLEST, LARGEST))
    height, width = stamp.shape
    x, y = dice.between(MARGIN, SIDE - MARGIN - width), dice.between(MARGIN, SIDE - MARGIN - height)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[y:y + height, x:x + width] = stamp
    paint = tuple(min(255, max(0, c + dice.between(-28, 28))) for c in COLOURS[colour])
    canvas = Image.fromarray(background(dice).astype(np.uint8))
    canvas.paste(paint, (0, 0, SIDE, SIDE), Image.fromarray(mask))
    grain = (dice.bytes(SIDE, SIDE, 3) - 128) * dice.between(0, 32) // 128
    picture = np.clip(np.asarray(canvas) + grain, 0, 255).astype(np.uint8)
    return Scene(picture, mask, colour, shape, (x, y, x + width, y + height))


def background(dice):
    """Two greyish tints mixed by nothing, a slope, blocks or stripes: (SIDE, SIDE, 3) integers 0 ... 255"""
    def tint():
        grey = dice.between(0, 255)
        return np.array([min(255, max(0, grey + dice.between(-25, 25))) for _ in range(3)])
    first, second, kind = tint(), tint(), dice.below(4)
    across, down, width = dice.between(-8, 8), dice.between(1, 8), dice.between(4, 28)
    y, x = np.mgrid[:SIDE, :SIDE]
    slope = across * x + down * y
    slope -= slope.min()
    if kind == 0:
        weight = 0 * slope
    elif kind == 1:
        weight = slope * 255 // slope.max()
    elif kind == 2:
        weight = dice.bytes(28, 28)[y // width, x // width]
    else:
        weight = slope // (width * 8) % 2 * 255
    return first + (second - first) * weight[..., None] // 255


@lru_cache(maxsize=None)
def coverage(shape, size):
    """A shape in a frame of `size` pixels, cut to its box: (height, width) uint8, 16 samples a pixel."""
    edge = 4 * size                                         # samples a side; centre 0, steps of 2, so |u| < edge
    u = 2 * np.arange(edge) + 1 - edge
    right, up = u[None], -u[:, None]
    inside = {"circle": lambda: right ** 2 + up ** 2 < edge ** 2,
              "square": lambda: (right < edge) & (up < edge),
              "triangle": lambda: 2 * abs(right) < edge - up,
              "star": lambda: sum(a * right + b * up < 309 * edge for a, b in PENTAGRAM) >= 4}[shape]()
    samples = inside.reshape(size, 4, size, 4).sum((1, 3))  # (size, size), 0 ... 16
    rows, columns = (np.flatnonzero((samples >= 8).any(axis)) for axis in (1, 0))
    return (samples * 255 // 16).astype(np.uint8)[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


# The five lines of a pentagram: 1000 x unit normals, each 0.309 from the centre. A tip lies beyond one line only.
PENTAGRAM = ((0, 1000), (-951, 309), (-588, -809), (588, -809), (951, 309))
