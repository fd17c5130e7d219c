"""Boxes as CogVLM writes them, [[x0,y0,x1,y1;...]]: read from its words, mapped to pixels, drawn on the picture.

A coordinate is a thousandth of the picture's width or height, three digits, 000 to 999; the origin is the top left
corner. Several boxes of one thing are joined by ";".
"""
import re

from PIL import Image, ImageDraw, ImageFont

from . import image as pictures

# Two or more "[", anything but brackets, and their "]]" if it comes: no text needs a second look at any character.
BOXES = re.compile(r"\[{2,}([^\[\]]*)(\]\])?")
NUMBER = re.compile("[0-9]{1,3}")

COLOURS = ("#d81b3c", "#1f6fb4", "#258525", "#c05a00", "#8050b0", "#0f8090", "#807800", "#b83280")
SMALLEST = 336          # pixels of the longer side; a smaller picture is enlarged, so that its labels are legible
LONGEST_LABEL = 200     # characters


def parse(text):
    """The boxes in a text -> ([(x0, y0, x1, y1), ...] in thousandths, [what is wrong with a malformed one, ...])

    A box is four whole numbers from 0 to 999 with x0 < x1 and y0 < y1. What is none is left out and reported.
    """
    boxes, malformed = [], []
    for found in BOXES.finditer(text):
        if found[2] is None:
            malformed.append(f"{_excerpt(found[0])}: not closed by ]]")
            continue
        for part in found[1].split(";"):
            numbers = [number.strip() for number in part.split(",")]
            if len(numbers) != 4:
                reason = f"{len(numbers)} numbers instead of 4" if part.strip() else "no numbers"
            elif not all(NUMBER.fullmatch(number) for number in numbers):
                reason = "not whole numbers from 0 to 999"
            else:
                x0, y0, x1, y1 = map(int, numbers)
                reason = "x0 is not less than x1" if x0 >= x1 else "y0 is not less than y1" if y0 >= y1 else None
            if reason:
                malformed.append(f"{_excerpt(f'[[{part}]]')}: {reason}")
            else:
                boxes.append((x0, y0, x1, y1))
    return boxes, malformed


def format(boxes):
    """[(x0, y0, x1, y1), ...] in thousandths -> "[[x0,y0,x1,y1;...]]", the inverse of `parse`."""
    return "[[" + ";".join(",".join(f"{number:03d}" for number in box) for box in boxes) + "]]"


def to_pixels(box, width, height):
    """(x0, y0, x1, y1) in thousandths -> in pixels of a picture of that size, rounded"""
    return tuple(round(number * side / 1000) for number, side in zip(box, (width, height) * 2))


def from_pixels(box, width, height):
    """(x0, y0, x1, y1) in pixels -> in thousandths, rounded and kept within 0 to 999"""
    return tuple(min(999, max(0, round(number * 1000 / side))) for number, side in zip(box, (width, height) * 2))


def iou(a, b):
    """The area that two boxes (x0, y0, x1, y1) share over the area that they cover together, in whatever unit"""
    area = lambda x0, y0, x1, y1: max(0, x1 - x0) * max(0, y1 - y0)
    both = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return both / (area(*a) + area(*b) - both)


def draw(image, boxes, labels=()):
    """A copy of the picture with the boxes (in thousandths) and their labels drawn on it -> Pillow RGB image

    image: whatever image.load takes. labels: one a box, or one str for all, or none. A label stands on its box's upper
    edge, moved to lie inside the picture and shortened if it is wider; Pillow's own font has ASCII characters. Lines
    and letters grow with the picture; one smaller than SMALLEST is enlarged by a whole factor.
    """
    labels = [labels] * len(boxes) if isinstance(labels, str) else list(labels or ())
    if labels and len(labels) != len(boxes):
        raise ValueError(f"{len(labels)} labels for {len(boxes)} boxes")
    drawn = pictures.load(image)
    factor = -(-SMALLEST // max(drawn.size))
    drawn = drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.BICUBIC)
    width, height = drawn.size
    line = max(2, min(width, height) // 200)
    font = ImageFont.load_default(size=max(14, min(width, height) // 28))
    canvas = ImageDraw.Draw(drawn)
    places = [to_pixels(box, width, height) for box in boxes]
    for i, (x0, y0, x1, y1) in enumerate(places):
        x0, y0 = min(x0, width - 1), min(y0, height - 1)
        canvas.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=COLOURS[i % len(COLOURS)], width=line)
    for i, (label, (x0, y0, _, _)) in enumerate(zip(labels, places)):        # above all boxes
        _tag(canvas, label, x0, y0, font, line, COLOURS[i % len(COLOURS)], drawn.size)
    return drawn


def _tag(canvas, label, x, y, font, margin, colour, size):
    """White letters on the box's colour, the lower left corner at (x, y) where that fits into the picture."""
    label = shown = " ".join(label.split())[:LONGEST_LABEL]
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
