"""Shapes as a person draws them: filled, outlined, dashed or hatched, with a steady or an unsteady hand.

A shape is one or two closed lines of points, in thousandths of half a side from the centre. An unsteady hand bends the
line by three slow waves and turns and stretches the shape a little.
"""
import math
from functools import cache

import numpy as np

NAMES = ("circle", "square", "triangle", "star", "heart", "diamond", "pentagon", "ring", "cross", "arrow")
CELL = 96                                                   # pixels of the drawing's side
FINE = 3                                                    # it is drawn as many times larger, and then reduced
STEPS = 64                                                  # points of a line that an unsteady hand bends


@cache
def sine(degrees):
    """1000 x sin, a whole number"""
    return round(1000 * math.sin(math.radians(degrees)))


def cosine(degrees):
    return sine(degrees + 90)


SINES = np.array([sine(degrees) for degrees in range(360)])


@cache
def lines(shape):
    """The closed lines of a shape; what lies inside the first and outside the second is the shape."""
    if shape in ("circle", "ring"):
        return [regular(48, 1000)] + ([regular(48, 620)] if shape == "ring" else [])
    if shape == "square":
        return [[(-1000, -1000), (1000, -1000), (1000, 1000), (-1000, 1000)]]
    if shape == "triangle":
        return [[(0, -950), (1000, 950), (-1000, 950)]]
    if shape == "star":
        points = zip(regular(5, 1000), regular(5, 400, 36))
        return [[point for pair in points for point in pair]]
    if shape == "heart":
        turns = [2 * math.pi * i / 48 for i in range(48)]
        return [[(round(1000 * math.sin(t) ** 3),
                  -round(62 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) + 155))
                 for t in turns]]
    if shape == "diamond":
        return [[(0, -1000), (720, 0), (0, 1000), (-720, 0)]]
    if shape == "pentagon":
        return [regular(5, 1000)]
    if shape == "cross":
        a, b = 330, 1000
        return [[(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a),
                 (-a, -a)]]
    return [[(-1000, -240), (180, -240), (180, -640), (1000, 0), (180, 640), (180, 240), (-1000, 240)]]     # arrow


def regular(n, radius, start=0):
    """The corners of a regular polygon, from the top clockwise"""
    return [(radius * sine(start + 360 * i // n) // 1000, -radius * cosine(start + 360 * i // n) // 1000)
            for i in range(n)]


def draw(shape, colour, manner, wobble, width, dice, second=(255, 255, 255)):
    """(CELL, CELL, 4) straight colours and alpha, (CELL, CELL) bool: the drawing, and the shape's whole area

    manner: filled, bordered (filled, with a border of the colour `second`), outlined, white (outlined, and filled with
    `second`), dashed or hatched. wobble: 0 (a ruler) ... 100 (a child). width: of the line, in thousandths of the side.
    """
    from PIL import Image, ImageDraw
    side = CELL * FINE
    turn = dice.choice((0, 0, 45, 90, 135, 180, 225, 270, 315)) if shape == "arrow" else 0
    tilt = turn + (dice.between(-wobble, wobble) // 8 if wobble else 0)
    stretch = [1000 - dice.below(1 + 2 * wobble) for _ in range(2)]
    thick = max(FINE, width * side // 1000)
    reach = side // 2 - thick // 2 - side * wobble // 1600 - 1      # leaves room for the line and for its waves

    def placed(points):
        points = unsteady(points, wobble, dice) if wobble else points
        turned = [((x * cosine(tilt) - y * sine(tilt)) // 1000, (x * sine(tilt) + y * cosine(tilt)) // 1000)
                  for x, y in points]
        return [(side // 2 + x * stretch[0] * reach // 10 ** 6, side // 2 + y * stretch[1] * reach // 10 ** 6)
                for x, y in turned]
    closed = [placed(points) for points in lines(shape)]
    outer, area, ink = (Image.new("L", (side, side)) for _ in range(3))
    ImageDraw.Draw(outer).polygon(closed[0], fill=255)
    for points, inside in zip(closed, (255, 0)):
        ImageDraw.Draw(area).polygon(points, fill=inside)
    for points in closed if manner != "filled" else ():
        stroke(ImageDraw.Draw(ink), points, thick, manner == "dashed", dice)
    outer, area, ink = (np.asarray(mask.reduce(FINE)).astype(np.int32) for mask in (outer, area, ink))
    if manner == "hatched":
        area = area * hatching(dice) // 255
    pixels = np.zeros((CELL, CELL, 4), np.int32)
    alpha = {"filled": area, "bordered": np.maximum(area, ink), "white": np.maximum(area, ink),
             "hatched": np.maximum(area, ink)}.get(manner, ink)
    border, inside = (second, colour) if manner == "bordered" else (colour, second if manner == "white" else colour)
    for c in range(3):
        pixels[..., c] = (border[c] * ink + inside[c] * (255 - ink)) // 255 if manner != "filled" else colour[c]
    pixels[..., 3] = alpha
    return pixels.astype(np.uint8), np.maximum(outer, alpha) >= 128


def stroke(pen, points, thick, dashed, dice):
    """Draw a closed line, round at its corners; dashed, it has as much gap as line."""
    joint = "curve" if len(points) <= 14 else None          # the joints of a curve hardly show
    if not dashed:
        pen.line([*points, points[0], points[1]], fill=255, width=thick, joint=joint)
        return
    dots, on = along(points, 4 * STEPS), dice.between(6, 12)
    for start in range(0, len(dots) - on // 2, 2 * on - on // 2):
        pen.line(dots[start:start + on], fill=255, width=thick)


def along(points, count):
    """`count` points at equal distances on a closed line, whole numbers"""
    ends = [*points[1:], points[0]]
    lengths = [math.isqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) for a, b in zip(points, ends)]
    total, found, before, i = sum(lengths), [], 0, 0
    for n in range(count):
        at = n * total // count
        while before + lengths[i] <= at:
            before += lengths[i]
            i += 1
        (x0, y0), (x1, y1), part, whole = points[i], ends[i], at - before, lengths[i]
        found.append((x0 + (x1 - x0) * part // whole, y0 + (y1 - y0) * part // whole))
    return found


def unsteady(points, wobble, dice):
    """The line with STEPS points, each moved by three slow waves in x and in y: up to `wobble` thousandths of a side"""
    waves = np.array([(dice.between(1, 5), dice.below(360), dice.between(-wobble, wobble)) for _ in range(6)])
    often, start, size = waves.T[:, :, None]
    moves = (SINES[(often * np.arange(STEPS) * 360 // STEPS + start) % 360] * size // 1500).reshape(2, 3, STEPS).sum(1)
    return [(x + int(dx), y + int(dy)) for (x, y), dx, dy in zip(along(points, STEPS), *moves)]


def hatching(dice):
    """(CELL, CELL) of 0 or 255: parallel strokes in one of four directions"""
    x = np.arange(CELL)
    across = dice.choice((x + 0 * x[:, None], x[:, None] + 0 * x, x + x[:, None], x - x[:, None]))
    period = dice.between(7, 16)
    return np.where(across % period < dice.between(2, period // 2), 255, 0)
