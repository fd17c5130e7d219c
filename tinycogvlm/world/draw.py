"""Scenes painted: pictograms and coloured shapes stamped on textured backgrounds, in integer arithmetic only."""
from functools import cache, lru_cache

import numpy as np

from .atlas import CELL, COLUMNS, EMOJI, PATH

COLOURS = {"red": (220, 30, 30), "green": (30, 175, 50), "blue": (35, 70, 225), "yellow": (240, 220, 30),
           "purple": (145, 40, 180), "orange": (245, 140, 20)}
SHAPES = ("circle", "square", "triangle", "star")
ANGLES = (-20, -10, 0, 10, 20)                              # degrees
TURNS = {0: (1000, 0), 10: (985, 174), 20: (940, 342)}      # 1000 x cos, 1000 x sin

# Two colours, and the pattern that mixes them
BACKGROUNDS = {"sand": ((222, 196, 140), (190, 155, 100), "grain"), "grass": ((95, 165, 70), (50, 115, 45), "grain"),
               "water": ((70, 140, 200), (30, 90, 165), "waves"), "night": ((15, 18, 50), (235, 235, 200), "stars"),
               "brick": ((165, 75, 55), (205, 195, 185), "bricks"), "wood": ((165, 115, 65), (120, 75, 40), "stripes"),
               "snow": ((245, 248, 252), (205, 215, 230), "grain"), "sky": ((90, 160, 235), (215, 235, 250), "slope"),
               "stone": ((135, 135, 138), (85, 85, 90), "blocks"), "tiles": ((235, 235, 225), (70, 150, 140), "checks"),
               "paper": ((250, 248, 235), (150, 180, 225), "lines"), "dusk": ((70, 45, 110), (240, 150, 95), "slope")}


def paint(scene, dice):
    """-> picture (side, side, 3) uint8, owner (side, side) int8: the thing that each pixel shows, -1 the background"""
    side = scene.side
    picture = background(scene.background, side, dice).astype(np.uint16)
    owner = np.full((side, side), -1, np.int8)
    for i, thing in enumerate(scene.things):
        x0, y0, x1, y1 = thing.box
        pixels = stamp(thing.name, *thing.look).astype(np.uint16)               # (h, w, 4), premultiplied by alpha
        shade = dice.between(104, 140)                                          # 128 leaves the brightness as it is
        part = picture[y0:y1, x0:x1]
        part *= 255 - pixels[..., 3:]
        part //= 255
        part += pixels[..., :3] * shade // 128
        owner[y0:y1, x0:x1][pixels[..., 3] >= 128] = i
    noise = dice.bytes(side, side, 3).astype(np.int16)
    noise -= 128
    noise *= dice.between(0, 24)
    noise //= 128
    noise += picture.view(np.int16)
    return noise.clip(0, 255).astype(np.uint8), owner


@lru_cache(maxsize=4096)
def stamp(name, size, angle, mirrored):
    """A thing whose longer side is about `size` pixels, cropped to its box: (h, w, 4) uint8, premultiplied by alpha.

    Every pixel is the mean of 2 x 2 points. Each point is rotated back to where it lies in the upright thing; there it
    takes the pictogram's pixel, or tests whether it is inside the shape.
    """
    cos, sin = TURNS[abs(angle)]
    sin = sin if angle > 0 else -sin
    edge = 2 * (size * (cos + abs(sin)) // 1000 + 2)        # points a side that hold the rotated thing
    u = 2 * np.arange(edge, dtype=np.int64) + 1 - edge      # from the centre, in half steps; the thing ends at 2 size

    def turned(units):
        """x and y (edge, edge) of each point in the upright thing, which extends from -units to units"""
        along, across = ((f * u * (units << 12) // (2000 * size)).astype(np.int32) for f in (cos, sin))
        x, y = along + across[:, None], along[:, None] - across         # 1/4096 of a unit
        return (-x if mirrored else x) >> 12, y >> 12

    if name in EMOJI:
        cell = min(CELL // shrink for shrink in (1, 2, 4) if CELL // shrink >= min(size, CELL))
        pixels, middle = pictogram(name, CELL // cell)
        x, y = turned(cell // 2)
        points = pixels.take((y + middle) * pixels.shape[1] + x + middle).view(np.uint8).reshape(edge, edge, 4)
    else:
        colour, shape = name.split()
        x, y = turned(1000)
        points = inside_shape(shape, x, -y)[..., None] * np.array([*COLOURS[colour], 255], np.uint8)
    points = points.astype(np.uint16)
    pixels = (points[::2, ::2] + points[1::2, ::2] + points[::2, 1::2] + points[1::2, 1::2]) // 4
    seen = pixels[..., 3] >= 128
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    return pixels[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1].astype(np.uint8)


def inside_shape(shape, right, up):
    """Which points (right, up), in thousandths of half a side, lie inside the shape."""
    if shape == "circle":
        return right ** 2 + up ** 2 < 1000 ** 2
    if shape == "square":
        return (abs(right) < 1000) & (abs(up) < 1000)
    if shape == "triangle":
        return (2 * abs(right) < 1000 - up) & (up > -1000)
    return sum(a * right + b * up < 309 * 1000 for a, b in PENTAGRAM) >= 4      # a tip is beyond only one line


# The five lines of a pentagram: 1000 x unit normals, each 0.309 from the centre
PENTAGRAM = ((0, 1000), (-951, 309), (-588, -809), (588, -809), (951, 309))


@cache
def pictogram(name, shrink):
    """A pictogram `shrink` times smaller: (n, n) uint32, each the four premultiplied bytes of RGBA; the middle's index

    An empty margin surrounds it, wide enough for points that rotating back puts outside.
    """
    i = list(EMOJI).index(name)
    x, y, side = i % COLUMNS * CELL, i // COLUMNS * CELL, CELL // shrink
    cell = sheet()[y:y + CELL, x:x + CELL].reshape(side, shrink, side, shrink, 4).sum((1, 3)) // shrink ** 2
    margin = side // 2
    cell = np.pad(cell, ((margin, margin), (margin, margin), (0, 0))).astype(np.uint8)
    return cell.view(np.uint32)[..., 0], margin + side // 2


@cache
def sheet():
    """The atlas: (h, w, 4) of 0 ... 255, premultiplied by alpha"""
    from PIL import Image
    with Image.open(PATH) as file:
        pixels = np.asarray(file.convert("RGBA")).astype(np.int32)
    pixels[..., :3] = pixels[..., :3] * pixels[..., 3:] // 255
    return pixels


def background(name, side, dice):
    """(side, side, 3) uint8: two colours, each varied a little, mixed by a pattern"""
    first, second, pattern = BACKGROUNDS[name]
    tints = [np.array([min(255, max(0, c + dice.between(-14, 14))) for c in colour]) for colour in (first, second)]
    weight = mix(pattern, side, dice)                       # (side, side) 0 ... 255: the share of the second colour
    ramp = np.arange(256)[:, None]
    return ((tints[0] * (255 - ramp) + tints[1] * ramp) // 255).astype(np.uint8)[weight]


def mix(pattern, side, dice):
    """(side, side) integers 0 ... 255"""
    shift, width = dice.below(64), dice.between(8, 14) * side // 112
    x, y = np.arange(shift, shift + side), np.arange(shift, shift + side)[:, None]
    if pattern == "grain":
        return dice.bytes(side // 2, side // 2).repeat(2, 0).repeat(2, 1)
    if pattern == "stars":
        return np.where(dice.bytes(side, side) < 3, 255, 0)
    if pattern == "slope":
        return np.broadcast_to((y - shift) * (200 + dice.below(55)) // side, (side, side))
    if pattern == "waves":
        bend = abs(x % (2 * width) - width)                 # a zigzag
        return (2 * y + bend) % (2 * width) * 255 // (2 * width)
    if pattern == "stripes":
        return np.broadcast_to(abs(x % width * 2 - width) * 255 // width, (side, side))
    if pattern == "lines":
        return np.broadcast_to(np.where(y % width < 1 + side // 112, 255, 0), (side, side))
    if pattern == "checks":
        return ((x // width + y // width) % 2) * 255
    if pattern == "blocks":
        blocks = dice.bytes(2 + 64 // width + side // width, 2 + 64 // width + side // width)
        return blocks[y // width, x // width]
    joint = 1 + side // 112                                 # bricks: every other course is shifted by half a brick
    x = x + (y // width % 2) * width
    return np.where((y % width < joint) | (x % (2 * width) < joint), 255, 0)
