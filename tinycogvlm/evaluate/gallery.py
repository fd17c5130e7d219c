"""Wrong answers on one sheet: each picture with the question, the answer given (red) and the true one (green)."""
from bisect import bisect_right
from itertools import zip_longest

from PIL import Image, ImageDraw, ImageFont

from ..inputs import grounding
from ..world.scenes import Dice

MOST, COLUMNS = 24, 4                                       # pictures on a sheet, and in a row
CELL, GAP, LETTERS, LINE = 336, 12, 14, 18                  # pixels: a picture, the space between, letters, a line
GREEN, RED, BLUE, GREY = "#128a2e", "#d81b3c", "#1f6fb4", "#606060"


def sheet_of(wrong, most=MOST):
    """A Pillow image of up to `most` of the wrong answers, from every row in turn.

    wrong: (accuracy.Asked, the answer given). A box that the question mentions is blue. Answers much longer than the
    true one were cut off, see asking.ask.
    """
    cells = [cell(question, said) for question, said in chosen(wrong, most)]
    rows = [cells[start:start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    heights = [max(image.height for image in row) + GAP for row in rows]
    sheet = Image.new("RGB", (GAP + (CELL + GAP) * min(len(cells), COLUMNS), GAP + sum(heights)), "white")
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            sheet.paste(image, (GAP + j * (CELL + GAP), GAP + sum(heights[:i])))
    return sheet


def chosen(wrong, most):
    """At random, one of every group and kind, then a second of each, and so on; sorted as the rows are"""
    rows = {}
    for question, said in wrong:
        if question.scene:
            rows.setdefault((question.group, question.kind), []).append((question, said))
    mixed = [Dice(" ".join(row), 0).some(pairs, len(pairs)) for row, pairs in rows.items()]
    in_turn = [pair for one_of_each in zip_longest(*mixed) for pair in one_of_each if pair][:most]
    return sorted(in_turn, key=lambda pair: list(rows).index((pair[0].group, pair[0].kind)))


def cell(question, said):
    """One picture with its boxes, and the text below it"""
    scene = question.scene
    lines = [(GREY, f"{question.group}: {question.kind}; {scene.split} {scene.number}")]
    lines += [("black", asked) for asked, _ in question.turns]
    lines += [(RED, f"said: {said}"), (GREEN, f"right: {question.truth}")]
    font = ImageFont.load_default(size=LETTERS)
    lines = [(colour, part) for colour, text in lines for part in wrapped(text, font)]
    image = Image.new("RGB", (CELL, CELL + 4 + LINE * len(lines)), "white")
    image.paste(Image.fromarray(scene.picture).resize((CELL, CELL), Image.Resampling.BICUBIC))
    canvas = ImageDraw.Draw(image)
    for text, colour, width in ((question.question, BLUE, 3), (question.truth, GREEN, 5), (said, RED, 2)):
        for box in grounding.parse(text)[0]:                # where both are the same, red shows inside green
            x0, y0, x1, y1 = grounding.to_pixels(box, CELL, CELL)
            canvas.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=width)
    for i, (colour, part) in enumerate(lines):
        canvas.text((0, CELL + 4 + LINE * i), part, colour, font)
    return image


def wrapped(text, font):
    """Lines no wider than a picture, broken at spaces where there are any; Pillow's own font has only ASCII."""
    text, lines = " ".join(text.encode("ascii", "replace").decode().split()), []
    while text:
        end = bisect_right(range(len(text) + 1), CELL, key=lambda n: font.getlength(text[:n])) - 1
        if end < len(text):
            end = text.rfind(" ", 1, end + 1) + 1 or end
        lines.append(text[:end].rstrip())
        text = text[end:]
    return lines
