"""Sketches: a number is the same drawing everywhere, boxes are those of what is drawn, and hands keep to their splits."""
from collections import Counter
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from tinycogvlm import UserError
from tinycogvlm.world import colours, pictograms, restyle, shapes, sketches
from tinycogvlm.world.scenes import APART, KINDS, NEVER_PAINTED, NEVER_TOGETHER, OVERLAP, SIDE, Dice
from tinycogvlm.world.sketches import ANY, AS_DRAWN, LINES, MOUSE, MOUSE_LINES, NAMES, SPLITS, STRANGE, UNKNOWN, sketch

# of the first 16 sketches of each split, 1 to 6 things: of their truths and of their pixels
TRUTHS = {"train": "400bcfd3e7a4f59a", "check": "e19416025065ae2b", "test": "b40b0bf72b121c1b", "style": "f7c09e93aeab7abb"}
PIXELS = {"train": "7a5554142e138771", "check": "c83648d5d5b0ba3f", "test": "230390158b14ecc3", "style": "57ba25679c24c636"}
HANDS = pictograms.catalogue()["hands"]


@pytest.fixture(scope="module")
def drawn():
    """60 sketches of every split, with 1 to 8 things"""
    return {split: [sketch(split, number, (1, 8)) for number in range(60)] for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_a_number_is_a_sketch(split):
    some = [sketch(split, number, (1, 6)) for number in range(16)]
    truths = "; ".join(f"{s.background} {[(thing.name, thing.box, thing.look.seed) for thing in s.things]}" for s in some)
    assert sha256(truths.encode()).hexdigest()[:16] == TRUTHS[split]
    assert sha256(np.stack([s.picture for s in some]).tobytes()).hexdigest()[:16] == PIXELS[split]


def test_no_two_streams_meet():
    streams = [f"{split} {what}" for split in SPLITS for what in ("sketch", "ground", "paint", "writing")]
    words = [Dice(stream, number).words() for stream in (*streams, *SPLITS, "look") for number in range(200)]
    assert len(set(words)) == len(words)


def test_hands_keep_to_their_splits(drawn):
    """What training never uses: hands of the uses "check" and "test", and the unknown things of the split "test"."""
    for split, some in drawn.items():
        things = [thing for s in some for thing in s.things if thing.look.hand != "shape"]
        assert {HANDS[thing.look.hand]["use"] for thing in things} == {sketches.USES[split]}
        assert {HANDS[thing.look.hand]["manner"] for thing in things} == {"colour", "ink"}
        assert all((thing.name in KINDS and not thing.look.what) or thing.name == UNKNOWN for thing in things)
        unknown = {thing.look.what for thing in things} - {""}
        assert unknown <= set(pictograms.unknown("test" if split in ("test", "style") else "train"))
    assert not set(pictograms.unknown("train")) & set(pictograms.unknown("test"))
    assert not set(pictograms.unknown("train") + pictograms.unknown("test")) & set(KINDS)


def test_what_training_never_shows(drawn):
    for s in [s for some in drawn.values() for s in some]:
        assert not any(thing.name in NEVER_PAINTED or NEVER_TOGETHER.get(thing.name) == s.background for thing in s.things)
        assert all(thing.name in (*NAMES, UNKNOWN) for thing in s.things)


def test_sizes_counts_and_order(drawn):
    counts = Counter(len(s.things) for some in drawn.values() for s in some)
    assert set(counts) == set(range(1, 9))
    for s in [s for some in drawn.values() for s in some]:
        centres = [thing.box[0] + thing.box[2] for thing in s.things]
        assert all(b - a >= 2 * APART for a, b in zip(centres, centres[1:]))
        for i, thing in enumerate(s.things):
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= SIDE and 0 <= y0 < y1 <= SIDE
            assert 15 <= thing.look.size <= 88         # a thin end may be too faint to count
            assert 0.5 * thing.look.size <= max(x1 - x0, y1 - y0) <= 1.4 * thing.look.size
            for other in s.things[:i]:
                width = min(x1, other.box[2]) - max(x0, other.box[0])
                height = min(y1, other.box[3]) - max(y0, other.box[1])
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (thing.box, other.box)]
                assert min(width, height) <= 0 or 100 * width * height <= OVERLAP * min(areas)


def test_boxes_are_those_of_what_is_drawn(drawn):
    alone = 0
    for s in [s for some in drawn.values() for s in some[:16]]:
        for i, thing in enumerate(s.things):
            x0, y0, x1, y1 = thing.box
            silhouette = sketches.stamp(thing.name, thing.look)[1]
            assert silhouette.shape == (y1 - y0, x1 - x0)
            assert silhouette[[0, -1]].any(1).all() and silhouette[:, [0, -1]].any(0).all()
            mine = s.owner == i
            assert mine.sum() == (mine[y0:y1, x0:x1] & silhouette).sum() > 0.6 * silhouette.sum()
            if len(s.things) == 1:
                assert np.array_equal(mine[y0:y1, x0:x1], silhouette)
                alone += 1
        assert set(np.unique(s.owner)) == {-1, *range(len(s.things))}
    assert alone > 3


def test_no_sketch_is_empty():
    """Not even where a turned thing is larger than the picture: it gets smaller."""
    large = [sketch("train", number, (1, 1), manner=replace(AS_DRAWN, turn=30), sizes=(104, 104)) for number in range(40)]
    assert all(len(s.things) == 1 and max(s.things[0].box) <= SIDE for s in large)
    assert {thing.look.size for s in large for thing in s.things} > {104}


def test_everything_stands_out_from_its_ground():
    """Of a shape's area, a twentieth at least differs from the ground by 75 of 765; of pictograms, all but one of 200"""
    found = Counter()
    for number in range(80):
        s = sketch("train", number, (1, 5), manner=replace(ANY, taken=0))
        ground = sketches.painted_ground(s.split, s.number, s.background, SIDE).astype(int)
        differs = np.abs(s.picture - ground).sum(-1) >= 75
        for i, thing in enumerate(s.things):
            found[thing.look.hand == "shape", differs[s.owner == i].mean() >= 0.05] += 1
    assert found[True, False] == 0 and found[True, True] > 50
    assert found[False, False] <= found[False, True] / 200 and found[False, True] > 130


def test_colours_are_told_apart_in_the_picture(drawn):
    """The colour of a filled shape is one that its name allows, as painted, before the camera."""
    for number in range(40):
        s = sketch("train", number, (1, 1), manner=replace(MOUSE, wobble=(0, 0)))
        [thing] = s.things
        inside = s.picture[s.owner == 0]
        assert (np.abs(inside.astype(int) - thing.look.colour).sum(1) == 0).mean() > 0.5
        assert (np.abs(s.picture[s.owner == -1].astype(int) - s.picture[0, 0]).sum(1) == 0).mean() > 0.9


def test_grey_pictures_ask_for_no_colour(monkeypatch):
    """A picture loses its colours only where neither a thing nor the ground is called by one."""
    monkeypatch.setattr(sketches.camera, "taken", lambda picture, dice, much: picture)
    greyed = Counter()
    for number in range(150):
        s = sketch("train", number, (1, 2), manner=replace(ANY, taken=1500, shapes=10))
        grey = (s.picture == s.picture[..., :1]).all()
        named = s.background not in sketches.GREY or any(" " in thing.name for thing in s.things)
        greyed[named] += grey
        assert not (named and grey) or all(" " not in thing.name for thing in s.things)
    assert greyed[False] > 30
    monkeypatch.setattr(sketches.camera, "greyed", lambda picture: pytest.fail("greyed"))
    sketch("train", 3, (1, 1), manner=replace(MOUSE, taken=1500)).picture


@pytest.mark.parametrize("manner, ways, kinds", [
    (AS_DRAWN, {"as drawn"}, "colour"), (LINES, {"as drawn"}, "ink"), (MOUSE, {"filled"}, "shape"),
    (MOUSE_LINES, {"outlined"}, "shape"), (STRANGE, {"as drawn"}, "colour")])
def test_manners_keep_what_they_say(manner, ways, kinds):
    things = [thing for number in range(40) for thing in sketch("test", number, (1, 3), manner=manner).things]
    assert {thing.look.way for thing in things} == ways
    assert {HANDS[thing.look.hand]["manner"] if kinds != "shape" else thing.look.hand for thing in things} == {kinds}
    assert manner is not STRANGE or sum(thing.name == UNKNOWN for thing in things) > 0.8 * len(things)


def test_a_larger_picture_shows_the_same_sketch(drawn):
    for number in range(12):
        small, large = sketch("test", number, (1, 8)), sketch("test", number, (1, 8), 168)
        assert large.picture.shape == (168, 168, 3) and large.background == small.background
        assert [thing.name for thing in large.things] == [thing.name for thing in small.things]
        for a, b in zip(small.things, large.things):
            assert np.abs(np.array(small.thousandths(a)) - large.thousandths(b)).max() < 27         # 3 pixels of 112
            assert max(b.box) <= 168


def test_some_things_come_twice():
    some = [sketch("train", number, (2, 4)) for number in range(60)]
    twice = [s for s in some if len({thing.name for thing in s.things}) < len(s.things)]
    assert len(some) / 8 < len(twice) < len(some) / 2
    assert any(len({thing.look.hand for thing in s.things}) > 1 for s in twice)


@pytest.mark.parametrize("wrong, message", [
    ({"split": "sizes"}, "no split 'sizes' of sketches; there are train, check, test, style"),
    ({"things": (0, 2)}, "1 to 8 things, not 0 to 2"), ({"things": (3, 2)}, "not 3 to 2"),
    ({"things": (1, 9)}, "not 1 to 9")])
def test_what_is_no_sketch_is_said(wrong, message):
    with pytest.raises(UserError, match=message):
        sketch(**{"split": "train", "number": 0, **wrong})


# One drawing made into many

def test_a_restyled_drawing_is_still_that_drawing():
    """Its silhouette grows by three pixels at most, and nothing outside it is painted."""
    for number in range(40):
        pixels, silhouette = pictograms.cell("noto", KINDS[number]), pictograms.silhouette("noto", KINDS[number])
        again, outline = restyle.restyled(pixels, silhouette, Dice("look", number))
        before = restyle.margin(silhouette)
        assert (outline >= before).all() and (pictograms.grown(before, 3) >= outline).all()
        assert again.dtype == np.uint8 and not (again[..., 3] >= 128)[~pictograms.grown(outline, 1)].any()


def test_a_turn_of_all_hues():
    """Grey stays grey; a whole turn changes nothing; 120 degrees put red in green's place."""
    grey = np.full((1, 1, 3), 90, np.uint8)
    for degrees in (-31, 7, 120):
        matrix = np.array(restyle.turned_about_grey(degrees, 1000))
        assert np.abs(grey[0, 0] @ matrix.T / 1000 - 90).max() < 1
    assert np.abs(np.array(restyle.turned_about_grey(0, 1000)) - 1000 * np.eye(3)).max() <= 3
    assert np.abs(np.array(restyle.turned_about_grey(120, 1000)) @ (255, 0, 0) / 1000 - (0, 255, 0)).max() < 2


def test_a_pen_is_seen_on_what_is_behind_it():
    for number in range(300):
        dice = Dice("pens", number)
        ground = colours.pick(dice.choice(colours.NAMES), dice)
        pen, filling = restyle.pens(ground, dice)
        assert abs(colours.brightness(pen) - colours.brightness(filling or ground)) >= 70


def test_closed_outlines():
    """A ring is filled, also with a gap of 4 pixels; a C with a wide opening is not."""
    y, x = np.mgrid[-36:36, -36:36] + 0.5
    ring = np.abs(np.hypot(x, y) - 25) < 2
    disc = np.hypot(x, y) < 27
    assert np.array_equal(pictograms.closed(ring), disc)
    gap = ring & ~((np.abs(y) < 2) & (x > 0))
    assert (pictograms.closed(gap) >= disc & (x < 20)).all()
    wide = ring & ~((np.abs(y) < 12) & (x > 0))
    assert not pictograms.closed(wide)[36, 36]


def test_things_are_turned_and_mirrored():
    """A rocket turned by 30 degrees leans; mirrored, it is its mirror image; half as large, it has half the sides."""
    look = sketches.Look("noto", "as drawn", 60, 0, 0, 0)
    upright = sketches.stamp("rocket", look)[1]
    mirrored = sketches.stamp("rocket", replace(look, mirrored=1))[1]
    assert (upright[:, ::-1] != mirrored).mean() < 0.03
    small = sketches.stamp("rocket", replace(look, size=30))[1]
    assert np.abs(np.array(small.shape) * 2 - upright.shape).max() <= 2
    square = sketches.Look("shape", "filled", 60, 0, 0, 0, colour=(0, 0, 0))
    sides = {angle: sketches.stamp("black square", replace(square, angle=angle))[1].shape[0] for angle in (0, 30)}
    assert abs(sides[30] / sides[0] - 1.366) < 0.05         # cos 30 + sin 30


def test_every_shape_and_way_has_its_own_picture():
    seen = set()
    for shape in shapes.NAMES:
        for way in sorted(set(ANY.ways)):
            look = sketches.Look("shape", way, 64, 0, 0, 0, colour=(200, 0, 0))
            pixels, silhouette = sketches.stamp(f"red {shape}", look)
            painted = pixels[..., 3] >= 128
            assert not (painted & ~pictograms.grown(silhouette, 1)).any() and painted.sum() > 100
            seen.add(pixels.tobytes())
    assert len(seen) == len(shapes.NAMES) * len(set(ANY.ways))
