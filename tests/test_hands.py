"""The pictograms by many makers, the glyphs and the photographs: each sheet holds what its JSON says, nothing is empty."""
import json
import re

import numpy as np
import pytest
from PIL import Image

from tinycogvlm.world.atlas import EMOJI
from tinycogvlm.world.render_hands import CELL, COLUMNS, FOLDER

DATA = json.loads((FOLDER / "hands.json").read_text(encoding="utf-8"))
HANDS, UNKNOWN = DATA["hands"], DATA["unknown"]
GLYPHS = json.loads((FOLDER / "glyphs.json").read_text(encoding="utf-8"))
PHOTOS = json.loads((FOLDER / "photos.json").read_text(encoding="utf-8"))
LICENCES = (FOLDER / "LICENCES.txt").read_text(encoding="utf-8")
SHAPES = {"circle", "square", "triangle", "star", "heart", "diamond", "pentagon", "ring", "cross", "arrow"}


def cells(picture, side, columns):
    """(rows of cells, columns, height, width, ...)"""
    a = np.asarray(picture)
    return a.reshape(a.shape[0] // side, side, columns, side, *a.shape[2:]).swapaxes(1, 2)


@pytest.mark.parametrize("name", HANDS)
def test_a_sheet_has_the_cells_that_its_names_ask_for(name):
    hand = HANDS[name]
    with Image.open(FOLDER / f"{name}.webp") as sheet:
        assert sheet.mode == {"colour": "RGBA", "ink": "RGB"}[hand["manner"]]
        assert sheet.size == (COLUMNS * CELL, -(-len(hand["names"]) // COLUMNS) * CELL)
        sheet = sheet.convert("RGBA")
    drawn = cells(sheet, CELL, COLUMNS).reshape(-1, CELL, CELL, 4)
    ink = drawn[..., 3] if hand["manner"] == "colour" else drawn[..., 0]
    if hand["manner"] == "ink":
        assert (drawn[..., :3] == ink[..., None]).all()             # WebP knows no grey pictures
    assert len({one.tobytes() for one in drawn[:len(hand["names"])]}) == len(hand["names"])
    for thing, one in zip([*hand["names"], *["" for _ in ink]], ink):
        rows, columns = np.nonzero(one >= 128)
        assert bool(thing) == (len(rows) > 0), thing
        if thing:                                                   # the longer side fills the cell, in its middle
            spans = [(line.min(), line.max()) for line in (rows, columns)]
            assert max(high - low for low, high in spans) >= CELL - 4, thing
            assert all(abs(low + high - CELL + 1) <= 4 for low, high in spans), thing


def test_who_draws_what():
    for hand in HANDS.values():
        unknown = [thing for thing in hand["names"] if thing not in EMOJI]
        assert len({*hand["names"]}) == len(hand["names"])
        assert hand["names"] == [thing for thing in EMOJI if thing in hand["names"]] + unknown
        assert {*unknown} <= {*UNKNOWN["train"], *UNKNOWN["test"]}
        assert hand["use"] != "test" or not {*unknown} & {*UNKNOWN["train"]}
        assert hand["manner"] == "colour" or hand["use"] == "test" or not {*unknown} & {*UNKNOWN["test"]}
    for use, hands in (("train", HANDS), ("test", HANDS)):
        things = {thing for hand in hands.values() for thing in hand["names"]}
        assert {*UNKNOWN[use]} <= things
    assert min(sum(kind in hand["names"] for hand in HANDS.values() if hand["use"] == "train") for kind in EMOJI) >= 9


def test_the_things_without_a_name_are_no_kinds():
    train, test = {*UNKNOWN["train"]}, {*UNKNOWN["test"]}
    assert len(train) >= 60 and len(test) >= 30
    assert not train & test and not (train | test) & ({*EMOJI} | SHAPES)


def test_the_reserved_sets_and_makers_are_never_trained():
    assert [name for name, hand in HANDS.items() if hand["use"] == "test"] == ["fxemoji", "tabler"]
    trained = {manner: [hand["maker"] for hand in HANDS.values() if (hand["manner"], hand["use"]) == (manner, "train")]
               for manner in ("colour", "ink")}
    assert not {"Mozilla", "Paweł Kuna"} & {*trained["colour"], *trained["ink"]}
    assert len({*trained["colour"]}) >= 6 and len({*trained["ink"]}) >= 8


def test_every_licence_is_free_and_named_with_its_notice():
    assert {hand["licence"] for hand in HANDS.values()} == {"Apache-2.0", "CC-BY-3.0", "CC-BY-4.0", "ISC", "MIT"}
    for name, hand in HANDS.items():
        notice = re.search(rf"(?m)^[^\n]*\b{name}\.webp\b.*?\n\n", LICENCES, re.DOTALL)[0]
        assert hand["licence"] in notice and hand["attribution"] in " ".join(notice.split())
    for font in GLYPHS["fonts"]:
        assert font["name"] in LICENCES and font["licence"] in LICENCES
    for photo in PHOTOS["photos"]:
        assert photo["licence"] in ("CC0-1.0", "public domain") and photo["source"] in LICENCES


def test_glyphs():
    side, columns = GLYPHS["cell"], GLYPHS["columns"]
    count, fonts = len(GLYPHS["characters"]), len(GLYPHS["fonts"])
    assert count == 62 and fonts >= 14 and sum(font["use"] == "test" for font in GLYPHS["fonts"]) == 2
    with Image.open(FOLDER / "glyphs.webp") as sheet:
        drawn = cells(sheet.convert("L"), side, columns).reshape(fonts, -1, side, side)[:, :count]
    for one, width in zip(drawn.reshape(-1, side, side), np.ravel(GLYPHS["widths"])):
        assert one[:, :width].max() >= 128 and not one[:, width:].any()
    tall = np.array([[np.ptp(np.nonzero(digit.max(1) >= 96)[0]) + 1 for digit in font[:10]] for font in drawn])
    assert (abs(np.median(tall, 1) - 28) <= 1).all()


def test_photos():
    with Image.open(FOLDER / "photos.webp") as sheet:
        assert sheet.mode == "RGB" and sheet.size == (PHOTOS["side"] * len(PHOTOS["photos"]), PHOTOS["side"])
        drawn = cells(sheet, PHOTOS["side"], len(PHOTOS["photos"]))[0]
    assert len(drawn) >= 10 and (drawn.std((1, 2, 3)) > 5).all()


def test_size():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 4.6e6
    assert (FOLDER / "glyphs.webp").stat().st_size <= 450e3 and (FOLDER / "photos.webp").stat().st_size <= 200e3
