"""One drawing made into many: other colours, fewer colours, black edges, an outline, a flat silhouette; ink of any colour.

A model that knows five sets of pictograms has learned five sets of pictograms. What all hands have in common is the
shape, so everything else changes here from one drawing to the next. Integer arithmetic only.
"""
import numpy as np

from . import colours
from .pictograms import grown
from .shapes import cosine, sine

MARGIN = 4                                                  # pixels around a cell, room for an outline


def restyled(pixels, silhouette, dice):
    """A colour pictogram (n, n, 4), straight, drawn in another way -> the same shapes, with a margin"""
    pixels, silhouette = margin(pixels), margin(silhouette)
    if dice.below(100) < 6:
        pixels[..., :3] = any_colour(dice)
        return pixels, silhouette
    pixels[..., :3] = recoloured(pixels[..., :3], dice)
    if dice.below(100) < 12:
        levels = dice.between(2, 6)
        pixels[..., :3] = (pixels[..., :3].astype(np.int32) * levels + 127) // 255 * 255 // levels
    pen = any_colour(dice) if dice.below(4) == 0 else (dice.below(60),) * 3
    if dice.below(100) < 30:
        pixels[edges(pixels, dice.between(60, 160))] = (*pen, 255)
    if dice.below(100) < 40:
        wider = grown(silhouette, dice.between(1, 3))
        pixels[wider & (pixels[..., 3] < 128)] = (*(pen if dice.below(4) else (255, 255, 255)), 255)
        silhouette = wider
    return pixels, silhouette


def inked(ink, silhouette, ground, dice):
    """An ink pictogram (n, n) drawn with a pen of some colour, its inside filled or not -> (n + margins, ..., 4), silhouette

    ground: the colour behind, from which the pen or the filling must stand out.
    """
    ink, silhouette = margin(ink).astype(np.int32), margin(silhouette)
    bold = dice.below(100)
    if bold < 25:
        ink = np.maximum(ink, 255 * grown(ink >= 128, 1))
        silhouette |= ink >= 128
    pen, filling = pens(ground, dice)
    pixels = np.zeros((*ink.shape, 4), np.uint8)
    if filling is None:
        pixels[..., :3], pixels[..., 3] = pen, ink
        return pixels, silhouette
    for c in range(3):
        pixels[..., c] = (pen[c] * ink + filling[c] * (255 - ink)) // 255
    pixels[..., 3] = np.maximum(ink, 255 * silhouette)
    return pixels, silhouette


def pens(ground, dice):
    """(colour of the pen, colour of the filling or None)"""
    filling = None
    if dice.below(2):
        filling = (255, 255, 255) if dice.below(2) else any_colour(dice)
    behind = filling or ground
    for _ in range(20):
        sort = dice.below(100)
        pen = (dice.below(50),) * 3 if sort < 50 else (255 - dice.below(20),) * 3 if sort < 65 else any_colour(dice)
        if abs(colours.brightness(pen) - colours.brightness(behind)) >= 70:
            return pen, filling
    return ((0, 0, 0) if colours.brightness(behind) > 127 else (255, 255, 255)), filling


def any_colour(dice):
    return colours.rgb(dice.below(360), dice.between(0, 100), dice.between(15, 100))


def recoloured(rgb, dice):
    """Hue turned by up to 31 degrees, saturation and brightness scaled; sometimes grey. (n, n, 3) -> (n, n, 3)

    A colour is its brightness, along grey, and two coordinates across; these are turned and scaled.
    """
    turn, scale = dice.between(-31, 31), dice.between(500, 1600)
    if dice.below(100) < 8:
        scale = 0
    gain, lift = dice.between(800, 1200), dice.between(-20, 20)
    matrix = turned_about_grey(turn, scale)
    rgb = rgb.astype(np.int32)
    mixed = [sum(rgb[..., j] * matrix[i][j] for j in range(3)) // 1000 for i in range(3)]
    return np.clip(np.stack(mixed, -1) * gain // 1000 + lift, 0, 255).astype(np.uint8)


def turned_about_grey(degrees, scale):
    """3 x 3 whole numbers, 1000 x the matrix that turns colours about the grey axis and scales their distance from it"""
    cos, sin = cosine(degrees) * scale // 1000, sine(degrees) * scale // 1000
    third, root = 333, 577                                  # 1000 / 3, 1000 / sqrt(3)
    along, across, skew = third + cos * 2 // 3, third - cos // 3, root * sin // 1000
    return ((along, across - skew, across + skew), (across + skew, along, across - skew),
            (across - skew, across + skew, along))


def edges(pixels, least):
    """Where the brightness of neighbouring pixels inside the drawing differs by more than `least`: (n, n) bool"""
    grey = pixels[..., :3].astype(np.int32) @ np.array([299, 587, 114]) // 1000
    inside = pixels[..., 3] >= 128
    found = np.zeros_like(inside)
    found[:, 1:] |= (abs(grey[:, 1:] - grey[:, :-1]) > least) & inside[:, 1:] & inside[:, :-1]
    found[1:] |= (abs(grey[1:] - grey[:-1]) > least) & inside[1:] & inside[:-1]
    return found


def margin(array):
    return np.pad(array, [(MARGIN, MARGIN)] * 2 + [(0, 0)] * (array.ndim - 2))
