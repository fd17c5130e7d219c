"""Pictures of numbers and words: what is written is what the scene says, letter by letter, within the picture."""
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest

from tinycogvlm import UserError
from tinycogvlm.world import colours, glyphs, sketches, writing
from tinycogvlm.world.scenes import KINDS, SIDE, Dice, scene
from tinycogvlm.world.sketches import SPLITS, sketch
from tinycogvlm.world.writing import CAPTCHA, NEAT, WORDS, text_of, written

TRUTHS = "cf269d27f21b6cfd"                               # of the first 40 of training, and their pixels
PIXELS = "2a1f0c98e8c486e0"


def test_a_number_is_a_picture():
    some = [writing.writing("train", number) for number in range(40)]
    truths = "; ".join(f"{s.background} {text_of(s)} {[(thing.box, thing.look.what) for thing in s.things]}" for s in some)
    assert sha256(truths.encode()).hexdigest()[:16] == TRUTHS
    assert sha256(np.stack([s.picture for s in some]).tobytes()).hexdigest()[:16] == PIXELS


def test_what_is_written():
    texts = Counter()
    for number in range(300):
        s = writing.writing("train", number)
        text = text_of(s)
        assert text in WORDS or (text.isdigit() and 1 <= len(text) <= 3)
        texts["word" if text in WORDS else len(text)] += 1
        assert written(s) and s.names == ()
    assert 60 < texts["word"] < 120 and min(texts.values()) > 40
    assert set(WORDS) <= {*KINDS, *colours.NAMES} and all(len(word) <= 6 for word in WORDS)
    assert not written(scene("train", 0)) and not written(sketch("train", 0))
    assert all(text_of(writing.writing("train", number, "number", NEAT)).isdigit() for number in range(20))
    assert all(text_of(writing.writing("train", number, "word", CAPTCHA)) in WORDS for number in range(20))


@pytest.mark.parametrize("side", [SIDE, 168])
def test_characters_stand_where_their_boxes_are(side):
    for number in range(40):
        s = writing.writing("test", number, side=side)
        for i, thing in enumerate(s.things):
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= side and 0 <= y0 < y1 <= side
            silhouette = sketches.stamp(thing.name, thing.look)[1]
            mine = s.owner == i
            assert silhouette.shape == (y1 - y0, x1 - x0) and mine.sum() == mine[y0:y1, x0:x1].sum() > 0
            assert thing.look.what.split()[1].lower() == thing.name
        centres = [thing.box[0] + thing.box[2] for thing in s.things]
        assert centres == sorted(centres)


def test_nothing_is_too_long():
    """Every word fits in some size, in every font."""
    longest = [word for word in WORDS if len(word) == 6]
    for number, word in enumerate(longest * 4):
        dice = Dice("long", number)
        assert any(writing.row(word, dice, "train", (255, 255, 255), number % 2) for _ in range(20))


def test_writing_can_be_read_on_its_ground():
    for number in range(150):
        s = writing.writing("train", number)
        behind = sketches.mean_colour(sketches.painted_ground("train", number, s.background, SIDE))
        for thing in s.things:
            assert abs(colours.brightness(thing.look.colour) - colours.brightness(behind)) >= 70


def test_fonts_keep_to_their_splits():
    """What training never uses is written in the split "style" only."""
    for split in SPLITS:
        fonts = {int(thing.look.what.split()[0]) for number in range(60)
                 for thing in writing.writing(split, number).things}
        assert fonts <= set(glyphs.of_use("test" if split == "style" else "train")) and len(fonts) > 1
    assert not set(glyphs.of_use("train")) & set(glyphs.of_use("test"))


def test_no_two_characters_of_a_font_are_the_same():
    """But for capitals that are only larger. Small l and capital i may be one stroke; words tell them apart."""
    for font in range(len(glyphs.fonts()["fonts"])):
        digits = [glyphs.glyph(font, digit).tobytes() for digit in "0123456789"]
        assert len(set(digits)) == 10 and all(any(ink) for ink in digits)
        assert all((glyphs.glyph(font, letter) >= 128).sum() > 10 for letter in "".join(WORDS) + "".join(WORDS).upper())


def test_captchas_are_twisted_and_crossed_out():
    neat, captcha = ([writing.writing("train", number, "number", manner) for number in range(40)]
                     for manner in (NEAT, CAPTCHA))
    assert {thing.look.angle for s in neat for thing in s.things} == {0}
    angles = {thing.look.angle for s in captcha for thing in s.things}
    assert len(angles) > 20 and -28 <= min(angles) < 0 < max(angles) <= 28
    assert all(len({thing.look.colour for thing in s.things}) == 1 for s in neat)
    assert any(len({thing.look.colour for thing in s.things}) > 1 for s in captcha)


@pytest.mark.parametrize("wrong", [{"split": "sizes"}, {"sort": "letter"}])
def test_what_cannot_be_written_is_said(wrong):
    with pytest.raises(UserError, match="there are the splits train, check, test, style, and a number or a word"):
        writing.writing(**{"split": "train", "number": 0, **wrong})
