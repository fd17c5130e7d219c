"""Boxes as CogVLM writes them, [[x0,y0,x1,y1;...]]: read from its words, mapped to pixels, drawn on the picture.

A coordinate is a thousandth of the picture's width or height, three digits, 000 to 999; the origin is the top left
corner. Several boxes of one thing are joined by ";". Other models write 1000 for the far edge and join boxes as in
[[x0,y0,x1,y1],[x0,y0,x1,y1]]; both are read, but not written.
"""
import math
import re
import subprocess
import unicodedata
from contextlib import suppress
from functools import lru_cache
from itertools import chain

from PIL import Image, ImageDraw, ImageFont, features

from . import image as pictures

# Two or more "[", then lists of anything but brackets, then "]]" unless the answer was cut. In no text does a character
# need a second look.
BOXES = re.compile(r"\[{2,}([^\[\]]*(?:\]\s*[,;]\s*\[+[^\[\]]*)*)(\]\])?")
BETWEEN = re.compile(r"\]\s*[,;]\s*\[+|;")
NUMBER = re.compile("[0-9]{1,3}|1000")

COLOURS = ("#d81b3c", "#1f6fb4", "#258525", "#c05a00", "#8050b0", "#0f8090", "#807800", "#b83280")
SMALLEST = 336          # pixels of the longer side; smaller pictures are enlarged to make labels legible
LONGEST_LABEL = 200     # characters

# Where the name of a thing begins and where it has ended: "In the park there is [a dog] running at [[...]]".
ARTICLES = re.compile(r"\b(?:a|an|the|this|that|these|those|some|another|each|his|her|its|their|my|your|"
                      r"two|three|four|five|six|seven|eight|nine|ten)\b", re.IGNORECASE)
NO_NAMES = re.compile(r"^(?:and|or)\b|\s*\b(?:is|are|was|were|stands?|sits?|lies|can|in|on|at|to|by|here|there|located|"
                      r"with|running|sitting|standing|lying)\b.*", re.IGNORECASE | re.DOTALL)

# Fonts of systems without fontconfig, which between them have most of the world's letters.
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "arial.ttf", "msyh.ttc", "meiryo.ttc",
         "malgun.ttf", "Nirmala.ttf", "seguisym.ttf", "Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc")


def parse(text):
    """The boxes in a text -> ([(x0, y0, x1, y1), ...] in thousandths, [what is wrong with a malformed one, ...])

    A box is four whole numbers from 0 to 1000 with x0 < x1 and y0 < y1. Anything else is left out and reported. Where
    an answer was cut, the boxes before the one that was cut are complete.
    """
    boxes, malformed = [], []
    for _, found, wrong in _groups(text):
        boxes += found
        malformed += wrong
    return boxes, malformed


def names(text):
    """The name of the thing in each box of parse(text), as the words before the box have it; "" where there are none.

    "A dog [[...]] and two red balls [[...;...]]." -> ["a dog", "two red balls", "two red balls"]
    """
    return [name for before, boxes, _ in _groups(text) for name in [_name(before)] * len(boxes)]


def _groups(text):
    """(the text before it, boxes, what is malformed) of every [[...]]"""
    end = 0
    for found in BOXES.finditer(text):
        boxes, malformed = [], []
        parts = BETWEEN.split(found[1])
        cut = parts.pop() if found[2] is None else None
        for part in parts:
            numbers = [number.strip() for number in part.split(",")]
            fault = _fault(numbers)
            if fault is None:
                boxes.append(tuple(map(int, numbers)))
            else:
                malformed.append(f"{_excerpt(f'[[{part}]]')}: {fault}")
        if cut is not None:
            malformed.append(f"{_excerpt(f'[[{cut}')}: not closed by ]]")
        yield text[end:found.start()], boxes, malformed
        end = found.end()


def _fault(numbers):
    """Why these strings are not a box, or None."""
    if numbers == [""]:
        return "no numbers"
    if len(numbers) != 4:
        return f"{len(numbers)} number{'s' * (len(numbers) > 1)} instead of 4"
    if not all(NUMBER.fullmatch(number) for number in numbers):
        return "not whole numbers from 0 to 1000"
    x0, y0, x1, y1 = map(int, numbers)
    if x0 >= x1:
        return "x0 is not less than x1"
    if y0 >= y1:
        return "y0 is not less than y1"
    return None


def _name(before):
    """The last noun phrase of a text, as far as that can be told without a grammar."""
    clause = re.split(r"[^\w\s'’/-]", before[-LONGEST_LABEL:])[-1].strip()
    articles = [found.start() for found in ARTICLES.finditer(clause)]
    if articles:
        name = clause[articles[-1]:]
        return NO_NAMES.sub("", name[0].lower() + name[1:])
    return " ".join(NO_NAMES.sub("", clause).split()[-4:])


def box_text(boxes):
    """[(x0, y0, x1, y1), ...] in thousandths -> "[[x0,y0,x1,y1;...]]", the inverse of `parse`."""
    return "[[" + ";".join(",".join(f"{number:03d}" for number in box) for box in boxes) + "]]"


def to_pixels(box, width, height):
    """(x0, y0, x1, y1) in thousandths -> in pixels of a picture of that size, rounded to the nearest, halves up"""
    return tuple(_rounded(number * side / 1000) for number, side in zip(box, (width, height) * 2))


def from_pixels(box, width, height):
    """(x0, y0, x1, y1) in pixels -> in thousandths, rounded to the nearest, halves up, and clipped to 0 to 999"""
    return tuple(min(999, max(0, _rounded(number * 1000 / side))) for number, side in zip(box, (width, height) * 2))


def _rounded(number):
    return math.floor(number + 0.5)


def iou(a, b):
    """Intersection over union of two boxes (x0, y0, x1, y1) in any unit; 0.0 where neither has an area"""
    def area(x0, y0, x1, y1):
        return max(0, x1 - x0) * max(0, y1 - y0)
    both = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - both
    return both / union if union else 0.0


def draw(image, boxes, labels=()):
    """A copy of the picture with the boxes (in thousandths) and their labels drawn on it -> Pillow RGB image

    image: whatever image.load takes. labels: one for each box, or one str for all, or none. The corners are rounded
    outwards, so that no part of what is in the box is cut off. A label stands on its box's upper edge, moved to lie
    inside the picture and shortened if it is wider; in place of one that no font of this machine can write stands the
    box's number, see `legend`. Lines and letters grow with the picture; one smaller than SMALLEST is enlarged by a
    whole factor.
    """
    labels = [labels] * len(boxes) if isinstance(labels, str) else list(labels or ())
    if labels and len(labels) != len(boxes):
        raise ValueError(f"{len(labels)} labels for {len(boxes)} boxes")
    numbers = legend(labels)
    drawn = pictures.load(image)
    factor = -(-SMALLEST // max(drawn.size))
    drawn = drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.BICUBIC)
    width, height = drawn.size
    line = max(2, min(width, height) // 200)
    size = max(14, min(width, height) // 28)
    canvas = ImageDraw.Draw(drawn)
    corners = [_outwards(box, width, height) for box in boxes]
    for i, place in enumerate(corners):
        canvas.rectangle(place, outline=COLOURS[i % len(COLOURS)], width=line)
    for i, (label, (x0, y0, _, _)) in enumerate(zip(labels, corners)):          # above all boxes
        text = _plain(label) if i not in numbers else str(i + 1)
        _tag(canvas, text, x0, y0, font_for(text, size), line, COLOURS[i % len(COLOURS)], drawn.size)
    return drawn


def legend(labels):
    """{i: label} of the labels that no font of this machine can write; `draw` writes the number i + 1 instead."""
    return {i: label for i, label in enumerate(labels) if font_for(_plain(label), 14) is None}


@lru_cache(1000)
def font_for(text, size):
    """A font that has every character of the text, or None: Pillow's own for English, else one of this machine's."""
    if any(unicodedata.bidirectional(c) in ("R", "AL") for c in text) and not features.check("raqm"):
        return None                                         # letters would stand in the wrong order
    wanted = set(text) - {" "}
    fonts = chain([ImageFont.load_default(size=size)], _system_fonts(wanted, size))
    return next((font for font in fonts if _has(font, wanted)), None)


def _system_fonts(characters, size):
    """This machine's fonts, the likeliest first."""
    for name in chain(_fontconfig(characters), FONTS):
        with suppress(OSError, ValueError):                 # not on this machine, or a font of pictures
            yield ImageFont.truetype(name, size)


def _fontconfig(characters):
    """The file of the font that fontconfig, where there is one, takes for these characters."""
    charset = " ".join(f"{ord(character):x}" for character in sorted(characters))
    with suppress(OSError, subprocess.SubprocessError):
        yield subprocess.run(["fc-match", "-f", "%{file}", f":scalable=true:charset={charset}"], check=True, timeout=10,
                             capture_output=True, text=True).stdout


def _has(font, characters):
    """Whether none of them is drawn as the box or cross that stands for a missing character."""
    def drawn(character):
        mask = font.getmask(character)
        return mask.size, bytes(mask)
    missing = drawn("\uffff")
    return all(drawn(character) != missing for character in characters)


def _plain(label):
    """One line without control characters, of at most LONGEST_LABEL characters."""
    return "".join(c for c in " ".join(label.split()) if unicodedata.category(c)[0] != "C")[:LONGEST_LABEL]


def _outwards(box, width, height):
    """The outermost pixels that a box covers any part of: (left, top, right, bottom), all inclusive."""
    x0, y0, x1, y1 = box
    return x0 * width // 1000, y0 * height // 1000, -(-x1 * width // 1000) - 1, -(-y1 * height // 1000) - 1


def _tag(canvas, label, x, y, font, margin, colour, size):
    """White letters on the box's colour, the lower left corner at (x, y) where that fits into the picture."""
    shown = label
    while True:
        width = round(canvas.textlength(shown, font=font)) + 4 * margin
        if width <= size[0] or not label:
            break
        label = label[:-1]
        shown = label.rstrip() + "..."
    if not shown:
        return
    height = sum(font.getmetrics()) + 2 * margin
    x = max(0, min(x, size[0] - width))
    y = max(0, min(y - height, size[1] - height))
    canvas.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    canvas.text((x + 2 * margin, y + margin), shown, font=font, fill="white")


def _excerpt(text):
    return repr(text if len(text) <= 60 else text[:57] + "...")
