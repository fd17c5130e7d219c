"""Pictures of a number or a word, neatly in a row or as a captcha: twisted, in several fonts and colours, crossed out.

Reading them is TextVQA (Singh et al. 2019, arXiv 1904.08920) in miniature. The things of such a scene are its
characters, from left to right.
"""

from ..errors import UserError
from . import colours, glyphs, grounds
from .scenes import KINDS, SIDE, Dice, Scene, Thing
from .sketches import SPLITS, Look, Manner, Paint, mean_colour, painted_ground, scaled, stamp

WORDS = tuple(word for word in (*KINDS, *colours.NAMES) if len(word) <= 6)
CHARACTERS = tuple("0123456789abcdefghijklmnopqrstuvwxyz")  # capitals are written too, and mean the same
BELOW = "gjpqy"                                             # these reach below the line
PAPER = Manner(taken=30, grounds=(("white", 40), ("colour", 40), ("gradient", 10), ("texture", 10)))
NEAT = Manner(taken=0, grounds=(("white", 50), ("colour", 50)))
CAPTCHA = Manner(taken=80, strokes=4, grounds=(("white", 25), ("colour", 30), ("gradient", 20), ("noise", 25)))
SORTS = ("number", "word")


def writing(split, number, sort=None, manner=None, side=SIDE):
    """Scene `number` of a split in which something is written

    sort: "number", of one to three digits, or "word"; by default either. manner: PAPER, NEAT or CAPTCHA; by default a
    captcha in four of ten. Raises UserError for an unknown split or sort.
    """
    if split not in SPLITS or sort not in (None, *SORTS):
        raise UserError(f"no split {split!r} of writing, or nothing of the sort {sort!r}; there are the splits "
                        f"{', '.join(SPLITS)}, and a number or a word can be written")
    dice = Dice(f"{split} writing", number)
    sort = sort or ("word" if dice.below(10) < 3 else "number")
    manner = manner or (CAPTCHA if dice.below(10) < 4 else PAPER)
    text = dice.choice(WORDS) if sort == "word" else "".join(str(dice.below(10)) for _ in range(dice.between(1, 3)))
    ground = grounds.choose(dice, dict(manner.grounds))
    behind = mean_colour(painted_ground(split, number, ground, SIDE))
    for _ in range(20):                                     # sizes to try, until the text fits
        placed = row(text, dice, split, behind, manner.strokes > 0)
        if placed:
            break
    return Scene(split, number, tuple(scaled(thing, side) for thing in placed), ground, side, paint=Paint(manner), names=())


def written(scene):
    """Whether a scene is one of these"""
    return not scene.names


def text_of(scene):
    """What is written in a scene, in small letters"""
    return "".join(thing.name for thing in scene.things)


def row(text, dice, split, behind, twisted):
    """The characters as Things side by side somewhere in the picture, or None if they do not fit"""
    fonts = glyphs.of_use("test" if split == "style" else "train")
    font, ink = dice.choice(fonts), pen(dice, behind)
    height = dice.between(14, min(64, 140 // len(text)))    # of a digit, in pixels
    capital = dice.below(3)                                 # all, the first, none
    gap, x, found = dice.between(0, max(1, height // 6)), 0, []
    for i, character in enumerate(text):
        font, ink = (dice.choice(fonts), pen(dice, behind)) if twisted and dice.below(3) == 0 else (font, ink)
        shown = character.upper() if capital == 0 or (capital == 1 and i == 0) else character
        size = height * glyphs.fonts()["cell"] // glyphs.HEIGHT
        size = size * dice.between(85, 115) // 100 if twisted else size
        angle = dice.between(-28, 28) if twisted else 0
        look = Look("glyph", "as drawn", size, angle, 0, dice.below(1 << 31), colour=ink, what=f"{font} {shown}")
        high, wide = stamp(character, look)[1].shape
        drop = (height // 4 if shown in BELOW else 0) + (dice.between(-height, height) // 6 if twisted else 0)
        found.append((character, look, x, drop - high, wide, high))
        x += wide + gap
    top, bottom = min(f[3] for f in found), max(f[3] + f[5] for f in found)
    room_x, room_y = SIDE - 2 - (x - gap), SIDE - 2 - (bottom - top)
    if room_x < 0 or room_y < 0:
        return None
    left, down = 1 + dice.below(room_x + 1), 1 + dice.below(room_y + 1) - top
    return [Thing(character, (left + x, down + y, left + x + wide, down + y + high), look)
            for character, look, x, y, wide, high in found]


def pen(dice, behind):
    """A colour that can be read on what is behind it"""
    while True:
        colour = (dice.below(60),) * 3 if dice.below(2) else colours.rgb(dice.below(360), dice.below(101), dice.below(101))
        if abs(colours.brightness(colour) - colours.brightness(behind)) >= 70:
            return colour
