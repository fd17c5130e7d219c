"""Scenes drawn by any hand: the things of the plain world (scenes.py), as anybody might draw them, on any ground.

A pictogram is by one of many hands, recoloured, outlined, in ink; a shape is filled, outlined or hatched, steadily or
not, in any of eleven colours; the ground is paper, a texture, a photograph. Layout and boxes are whole numbers from the
raw words of PCG64, as in scenes.py, so a number is the same scene everywhere.
"""
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ..errors import UserError
from . import camera, colours, glyphs, grounds, pictograms, restyle, shapes
from .pictograms import hands
from .scenes import KINDS, NEVER_PAINTED, NEVER_TOGETHER, SIDE, Dice, Scene, Thing
from .scenes import _apart as apart

UNKNOWN = "unknown"                                         # the name of what has no name in this world
COLOURED = tuple(f"{colour} {shape}" for colour in colours.NAMES for shape in shapes.NAMES)
NAMES = KINDS + COLOURED
USES = {"train": "train", "check": "check", "test": "train", "style": "test"}      # {split: the use of its hands}
SPLITS = tuple(USES)
SIZES = {1: (17, 88), 2: (17, 66), 3: (17, 54), 4: (16, 46), 5: (16, 38), 6: (16, 34), 7: (16, 30), 8: (15, 28)}
MOST = 8                                                    # things in a scene
GREY = ("white", "black", "grey", "gradient", "noise", "photo")     # grounds that can be told in grey


@dataclass(frozen=True)
class Manner:
    """How scenes are drawn; the numbers without another unit are shares in per cent."""
    inked: int = 25                                         # of pictograms: in ink, by a hand that draws lines or areas
    restyled: int = 60                                      # of pictograms: not as their hand drew them
    shapes: int = 30                                        # of things: shapes
    unknown: int = 5                                        # of things: what has no name in this world
    ways: tuple = ("filled",) * 6 + ("bordered", "white", "dashed", "hatched") + ("outlined",) * 4    # to draw shapes
    wobble: tuple = (0, 70)                                 # of an unsteady hand; half of all hands are steady
    hands: int = 99                                         # how many of the colour hands draw
    grounds: tuple = (("white", 28), ("colour", 20), ("texture", 22), ("gradient", 8), ("photo", 14), ("noise", 8))
    turn: int = 30                                          # degrees to either side
    taken: int = 60                                         # how often something happens to the picture: camera.py
    strokes: int = 0                                        # at most so many lines cross the picture out


ANY = Manner()
FEW = Manner(inked=0, restyled=0, unknown=0, ways=("filled",), hands=2, turn=10, taken=20,
             grounds=(("white", 30), ("colour", 40), ("gradient", 10), ("texture", 20)))
COLOUR = replace(ANY, inked=0)
AS_DRAWN = Manner(inked=0, restyled=0, shapes=0, unknown=0, turn=0, taken=0, grounds=(("white", 50), ("colour", 50)))
LINES = replace(AS_DRAWN, inked=100)
MOUSE = Manner(shapes=100, unknown=0, ways=("filled",), wobble=(35, 70), turn=10, taken=0, grounds=(("white", 1),))
MOUSE_LINES = replace(MOUSE, ways=("outlined",))
STRANGE = replace(AS_DRAWN, unknown=100)


@dataclass(frozen=True)
class Look:
    """How one thing is drawn"""
    hand: str                                               # of pictograms.hands(), or "shape" or "glyph"
    way: str                                                # of a pictogram: "as drawn" or "restyled"; see Manner.ways
    size: int                                               # pixels of the longer side, about
    angle: int                                              # degrees
    mirrored: int
    seed: int                                               # of everything else
    colour: tuple = ()                                      # of a shape: red, green, blue
    wobble: int = 0
    ground: tuple = (255, 255, 255)                         # the mean colour behind it
    what: str = ""                                          # of something unknown: the pictogram's name


def sketch(split, number, things=(1, 4), side=SIDE, manner=ANY, sizes=None):
    """Scene `number` of a split, drawn in a manner.

    things: (fewest, most); a crowded scene may end up with fewer. side: pixels of the picture. sizes: (smallest,
    largest) longer side of the things, in pixels of a picture of 112. Raises UserError for an unknown split or a number
    of things outside 1 ... 8.
    """
    if split not in SPLITS:
        raise UserError(f"no split {split!r} of sketches; there are {', '.join(SPLITS)}")
    if not 1 <= things[0] <= things[1] <= MOST:
        raise UserError(f"a sketch holds 1 to {MOST} things, not {things[0]} to {things[1]}")
    dice = Dice(f"{split} sketch", number)
    ground, count = grounds.choose(dice, dict(manner.grounds)), dice.between(*things)
    behind = mean_colour(painted_ground(split, number, ground, SIDE))
    placed = []
    for _ in range(count):
        name, look = thing(dice, split, manner, ground, behind, placed)
        look = replace(look, size=dice.between(*sizes or SIZES[count]))
        while max(stamp(name, look)[1].shape) > SIDE - 2:   # turned, it does not fit
            look = replace(look, size=look.size - 4)
        for _ in range(30):                                 # places to try, before this thing is given up
            box = place(dice, name, look)
            if all(apart(box, other.box) for other in placed):
                placed.append(Thing(name, box, look))
                break
    placed.sort(key=lambda thing: thing.box[0] + thing.box[2])
    return Scene(split, number, tuple(scaled(thing, side) for thing in placed), ground, side, paint=Paint(manner), names=NAMES)


@dataclass(frozen=True)
class Paint:
    """Paints a sketch -> picture (side, side, 3) uint8, owner (side, side) int8: as draw.paint does for plain scenes"""
    manner: Manner

    def __call__(self, scene, dice):
        picture = painted_ground(scene.split, scene.number, scene.background, scene.side).astype(np.uint16)
        owner = np.full((scene.side, scene.side), -1, np.int8)
        for i, thing in enumerate(scene.things):
            x0, y0, x1, y1 = thing.box
            pixels, silhouette = stamp(thing.name, thing.look)
            part = picture[y0:y1, x0:x1]
            part *= 255 - pixels[..., 3:]
            part //= 255
            part += pixels[..., :3]
            owner[y0:y1, x0:x1][silhouette] = i
        picture = picture.clip(0, 255).astype(np.uint8)
        if self.manner.strokes:
            picture = camera.crossed(picture, dice, dice.below(self.manner.strokes + 1))
        colourless = scene.background in GREY and not any(" " in thing.name for thing in scene.things)
        if dice.below(1500) < self.manner.taken and colourless:
            picture = camera.greyed(picture)
        return camera.taken(picture, dice, self.manner.taken), owner


@lru_cache(maxsize=64)
def painted_ground(split, number, name, side):
    return grounds.paint(name, side, Dice(f"{split} ground", number))


def mean_colour(picture):
    return tuple(int(c) for c in picture.reshape(-1, 3).astype(np.int64).sum(0) // (picture.size // 3))


def thing(dice, split, manner, ground, behind, earlier):
    """(name, Look without a size) of one more thing"""
    sort = dice.below(100)
    again = earlier and dice.below(6) == 0 and dice.choice(earlier).name
    common = {"size": 0, "mirrored": dice.below(2), "seed": dice.below(1 << 31), "ground": behind,
              "angle": dice.between(-manner.turn, manner.turn) if dice.below(2) else 0}
    if (" " in again) if again else sort < manner.shapes:
        name, colour = coloured(dice, behind, again)
        wobble = dice.between(*manner.wobble) if manner.wobble[0] or dice.below(2) else 0
        way = dice.choice(manner.ways)
        if way == "bordered" and name.split()[0] in ("black", "grey", "white"):     # white with a black border is black
            way = "filled"
        return name, Look("shape", way, colour=colour, wobble=wobble, **common)
    use = USES[split]
    ink = dice.below(100) < manner.inked
    some = hands(use, "ink" if ink else "colour")[:99 if ink else manner.hands]
    way = "restyled" if dice.below(100) < manner.restyled else "as drawn"
    if again == UNKNOWN or (not again and sort < manner.shapes + manner.unknown):
        what = dice.choice(pictograms.unknown("test" if split in ("test", "style") else "train"))
        able = [hand for hand in some if what in pictograms.kinds(hand)]
        if able:
            return UNKNOWN, Look(dice.choice(able), way, what=what, **common)
    while True:
        name, again = again if again and again != UNKNOWN else dice.choice(KINDS), None
        able = [hand for hand in some if name in pictograms.kinds(hand)]
        if able and NEVER_TOGETHER[name] != ground:
            return name, Look(dice.choice(able), way, **common)


def coloured(dice, behind, again=None):
    """(name, colour) of a shape whose colour stands out from what is behind it"""
    while True:
        name, again = again or dice.choice(COLOURED), None
        colour = colours.pick(name.split()[0], dice)
        if name not in NEVER_PAINTED and colours.apart(colour, behind) >= 140:
            return name, colour


@lru_cache(maxsize=256)
def stamp(name, look):
    """A thing as it is drawn, cropped to its box: (h, w, 4) uint8, premultiplied by alpha; (h, w) bool, its silhouette"""
    pixels, silhouette = drawing(name, look)
    packed = np.zeros((*silhouette.shape, 8), np.uint8)
    packed[..., :3] = pixels[..., :3] * pixels[..., 3:].astype(np.uint16) // 255
    packed[..., 3], packed[..., 4] = pixels[..., 3], 255 * silhouette
    return turned(packed.view(np.uint64)[..., 0], look.size, look.angle, look.mirrored)


def drawing(name, look):
    """(n, n, 4) straight colours and alpha, (n, n) bool"""
    dice = Dice("look", look.seed)
    if look.hand == "shape":
        second = (dice.below(50),) * 3 if look.way == "bordered" else colours.rgb(dice.below(360), dice.below(13), 100)
        width = dice.between(max(30, 1400 // look.size), max(60, 2200 // look.size, 110))
        return shapes.draw(name.split()[1], look.colour, look.way, look.wobble, width, dice, second)
    if look.hand == "glyph":
        return glyphs.drawing(look)
    what = look.what or name
    pixels, silhouette = pictograms.cell(look.hand, what), pictograms.silhouette(look.hand, what)
    if pixels.ndim == 3:
        return restyle.restyled(pixels, silhouette, dice) if look.way == "restyled" else (pixels, silhouette)
    if look.way == "restyled":
        return restyle.inked(pixels, silhouette, look.ground, dice)
    pen = 0 if colours.brightness(look.ground) > 100 else 255
    return np.dstack([np.full((*pixels.shape, 3), pen, np.uint8), pixels]), silhouette


def turned(packed, size, angle, mirrored):
    """A drawing (n, n) turned, mirrored and scaled until its longer side is about `size` pixels -> as `stamp` gives it

    packed: uint64, each five bytes: red, green, blue, alpha, silhouette. Every pixel is the mean of 2 x 2 points, and
    each point is looked up where it lies in the upright drawing. A drawing much larger than `size` is halved first.
    """
    while len(packed) >= 2 * size:
        packed = halved(packed[:len(packed) // 2 * 2, :len(packed) // 2 * 2])
    n, cos, sin = len(packed), shapes.cosine(angle), shapes.sine(angle)
    edge = 2 * (size * (cos + abs(sin)) // 1000 + 2)        # points a side that hold the turned drawing
    u = 2 * np.arange(edge, dtype=np.int64) + 1 - edge      # from the centre, in half points
    along, across = ((f * u * (n << 9) // (2000 * size)).astype(np.int32) for f in (cos, sin))
    x, y = along + (across[:, None] + (n << 9)), (along[:, None] + (n << 9)) - across       # 1/1024 of a pixel
    x, y = ((n << 10) - 1 - x if mirrored else x) >> 10, y >> 10
    framed = np.pad(packed, 1)                              # nothing is around the drawing
    points = framed[(y + 1).clip(0, n + 1), (x + 1).clip(0, n + 1)]
    pixels = halved(points)[..., None].view(np.uint8)       # (edge / 2, edge / 2, 8)
    seen = pixels[..., 4] >= 128
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros((1, 1, 4), np.uint8), np.zeros((1, 1), bool)
    part = np.s_[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    return pixels[part][..., :4], seen[part]


def halved(packed):
    """The mean of 2 x 2 numbers, byte by byte: (n, n) uint64 -> (n / 2, n / 2) uint64"""
    def mean(bytes_apart):                                  # every other byte, so that sums of four have room
        return ((bytes_apart[::2, ::2] + bytes_apart[1::2, ::2] + bytes_apart[::2, 1::2] + bytes_apart[1::2, 1::2])
                >> np.uint64(2)) & EVERY_OTHER
    return mean(packed & EVERY_OTHER) | mean(packed >> np.uint64(8) & EVERY_OTHER) << np.uint64(8)


EVERY_OTHER = np.uint64(0x00FF00FF00FF00FF)


def place(dice, name, look):
    """A box at random in a picture of SIDE pixels"""
    height, width = stamp(name, look)[1].shape
    x, y = dice.below(SIDE - width + 1), dice.below(SIDE - height + 1)
    return x, y, x + width, y + height


def scaled(thing, side):
    """The thing in a picture of another size"""
    if side == SIDE:
        return thing
    look = replace(thing.look, size=thing.look.size * side // SIDE)
    height, width = stamp(thing.name, look)[1].shape
    x, y = (min(c * side // SIDE, side - length) for c, length in zip(thing.box, (width, height)))
    return Thing(thing.name, (x, y, x + width, y + height), look)
