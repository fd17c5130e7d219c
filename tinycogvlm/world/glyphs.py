"""Digits and letters in many fonts: glyphs.webp, rendered once by render_hands.py, so that writing needs no font."""
import json
from functools import cache

import numpy as np

from .pictograms import FOLDER

HEIGHT = 28                                                 # pixels of a digit in its cell


@cache
def fonts():
    """glyphs.json: {"cell", "characters", "fonts": [{"name", "use", ...}], "widths": ...}"""
    return json.loads((FOLDER / "glyphs.json").read_text())


@cache
def of_use(use):
    """The numbers of the fonts with this use, "train" or "test\""""
    return tuple(i for i, font in enumerate(fonts()["fonts"]) if font["use"] == use)


@cache
def glyph(font, character):
    """(cell, cell) ink of 0 ... 255"""
    cell, sheet, i = fonts()["cell"], glyphs(), fonts()["characters"].index(character)
    columns, count = sheet.shape[1] // cell, len(fonts()["characters"])
    y, x = divmod(i, columns)
    y += font * -(-count // columns)
    return sheet[y * cell:(y + 1) * cell, x * cell:(x + 1) * cell]


@cache
def glyphs():
    from PIL import Image
    with Image.open(FOLDER / "glyphs.webp") as file:
        return np.asarray(file.convert("L"))


def drawing(look):
    """One glyph: (n, n, 4) straight colours and alpha, (n, n) bool"""
    font, character = look.what.split()
    ink = glyph(int(font), character)
    colour = np.broadcast_to(np.array(look.colour, np.uint8), (*ink.shape, 3))
    return np.dstack([colour, ink]), ink >= 128
