"""Scenes as data: one to nine things on a background. draw.py paints them, conversations.py asks about them.

Every random choice is made from raw 64-bit words of PCG64 by integer arithmetic, so a seed gives the same scene, and
the same picture, on every platform.
"""
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

import numpy as np

from ..errors import UserError
from . import draw
from .atlas import EMOJI

SIDE = 112                                                  # pixels a side; the sizes below are in these pixels
KINDS = tuple(EMOJI)                                        # pictograms
COLOURS, SHAPES = tuple(draw.COLOURS), draw.SHAPES
NAMES = KINDS + tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
BACKGROUNDS = tuple(draw.BACKGROUNDS)

# What training never shows: these kinds on these backgrounds, and these shapes. Every scene of the split "combinations"
# has one of them; "sizes" has only things that are larger than all others.
NEVER_TOGETHER = {kind: BACKGROUNDS[(5 * i + 3) % len(BACKGROUNDS)] for i, kind in enumerate(KINDS)}
NEVER_PAINTED = ("orange square", "blue triangle", "purple circle")
SPLITS = ("train", "check", "test", "combinations", "sizes")    # "check" is for the measurements during training
SIZES = {1: (26, 60), 2: (24, 58), 3: (22, 50), 4: (20, 44), 5: (20, 36)}   # the longer side, by the number of things
UNSEEN_SIZES = (64, 76)
MARGIN = 2                                                  # from a box to the edge of the picture
APART = 5                                                   # between the centres of two things in x
OVERLAP = 12                                                # of two boxes, in per cent of the smaller one


class Dice:
    """Random integers from the raw words of PCG64, seeded with the name of a stream and a number."""

    def __init__(self, stream, number):
        self.words = np.random.PCG64([crc32(stream.encode()), number]).random_raw

    def below(self, n):
        """0 ... n - 1"""
        return (self.words() >> 32) * n >> 32

    def between(self, lowest, highest):
        """lowest ... highest, inclusive"""
        return lowest + self.below(highest - lowest + 1)

    def choice(self, options):
        return options[self.below(len(options))]

    def some(self, options, count):
        """`count` of the options, or all if there are fewer, in random order."""
        options = list(options)
        return [options.pop(self.below(len(options))) for _ in range(min(count, len(options)))]

    def bytes(self, *shape):
        """An array of 0 ... 255."""
        count = int(np.prod(shape))
        return self.words(count // 8 + 1).astype("<u8").view(np.uint8)[:count].reshape(shape)


@dataclass(frozen=True)
class Thing:
    name: str                                               # one of NAMES
    box: tuple                                              # x0, y0, x1, y1 in pixels; x1 and y1 are exclusive
    look: tuple                                             # size, angle, mirrored: the arguments of draw.stamp


@dataclass(frozen=True)
class Scene:
    """What is in a picture; the picture itself is drawn when it is first needed."""
    split: str
    number: int
    things: tuple                                           # of Thing, ordered by their centres from left to right
    background: str                                         # one of BACKGROUNDS
    side: int                                               # pixels of the picture
    paint: Callable = draw.paint                            # (scene, dice) -> picture, owner
    names: tuple = NAMES                                    # of the things that there are in this world

    def thousandths(self, thing):
        """The box in CogVLM's coordinates: 0 at the left and upper edges, 1000 at the right and lower ones"""
        return tuple(c * 1000 / self.side for c in thing.box)

    @cached_property
    def drawn(self):
        return self.paint(self, Dice(f"{self.split} paint", self.number))

    @property
    def picture(self):
        """(side, side, 3) uint8"""
        return self.drawn[0]

    @property
    def owner(self):
        """(side, side) int8: the index in `things` of what each pixel shows, -1 for the background"""
        return self.drawn[1]


def scene(split, number, things=(1, 4), side=SIDE, sizes=None):
    """Scene `number` of a split.

    things: (fewest, most); a crowded scene may end up with fewer. side: pixels of the picture. sizes: (smallest,
    largest) longer side of the things, in pixels of a picture of 112; by default what fits. Raises UserError for an
    unknown split or a number of things outside 1 ... 9.
    """
    if split not in SPLITS:
        raise UserError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if not 1 <= things[0] <= things[1] <= 9:
        raise UserError(f"a scene holds 1 to 9 things, not {things[0]} to {things[1]}")
    dice = Dice(split, number)
    background, count = dice.choice(BACKGROUNDS), dice.between(*things)
    if split == "sizes":
        count, sizes = min(count, 2), UNSEEN_SIZES
    placed = []
    for i in range(count):
        unseen = split == "combinations" and i == 0
        name = _name(dice, background, [thing.name for thing in placed], unseen)
        look = dice.between(*sizes or SIZES[min(count, 5)]), dice.choice(draw.ANGLES), dice.below(2)
        for _ in range(30):                                 # places to try, before this thing is given up
            box = _place(dice, name, look)
            if all(_apart(box, other.box) for other in placed):
                placed.append(Thing(name, box, look))
                break
    placed.sort(key=lambda thing: thing.box[0] + thing.box[2])
    return Scene(split, number, tuple(_scaled(thing, side) for thing in placed), background, side)


def _name(dice, background, earlier, unseen):
    if earlier and dice.below(6) == 0:
        return dice.choice(earlier)                         # a second dog, so that there is something to count
    while True:
        if unseen and dice.below(2):
            return dice.choice(NEVER_PAINTED)
        if unseen:
            return dice.choice([kind for kind in KINDS if NEVER_TOGETHER[kind] == background])
        name = dice.choice(KINDS) if dice.below(3) else f"{dice.choice(COLOURS)} {dice.choice(SHAPES)}"
        if name not in NEVER_PAINTED and NEVER_TOGETHER.get(name) != background:
            return name


def _place(dice, name, look):
    height, width = draw.stamp(name, *look).shape[:2]
    x, y = dice.between(MARGIN, SIDE - MARGIN - width), dice.between(MARGIN, SIDE - MARGIN - height)
    return x, y, x + width, y + height


def _apart(a, b):
    """Whether two boxes have centres apart in x, so that there is one order from left to right, and hardly overlap."""
    if abs(a[0] + a[2] - b[0] - b[2]) < 2 * APART:
        return False
    both = _area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return 100 * both <= OVERLAP * min(_area(*a), _area(*b))


def _area(x0, y0, x1, y1):
    return max(0, x1 - x0) * max(0, y1 - y0)


def _scaled(thing, side):
    """The thing in a picture of another size. It is painted anew, since a stamp's box is that of its own pixels."""
    if side == SIDE:
        return thing
    size, angle, mirrored = thing.look
    look = size * side // SIDE, angle, mirrored
    height, width = draw.stamp(thing.name, *look).shape[:2]
    x, y = (min(c * side // SIDE, side - length) for c, length in zip(thing.box, (width, height)))
    return Thing(thing.name, (x, y, x + width, y + height), look)
