"""Scenes: the same seed is the same scene everywhere, the truth is true, and training never sees what is held out."""
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinycogvlm import UserError
from tinycogvlm.world import atlas, draw
from tinycogvlm.world.scenes import (APART, BACKGROUNDS, COLOURS, KINDS, MARGIN, NAMES, NEVER_PAINTED, NEVER_TOGETHER,
                                     OVERLAP, SHAPES, SIDE, SPLITS, UNSEEN_SIZES, Dice, scene)

# of the first 40 scenes of each split, 1 to 6 things: of their truths and of their pixels
TRUTHS = {"train": "ad5a9049f1239f60", "check": "a104ca19496f9cee", "test": "c448e3f20098118d",
          "combinations": "2f27a4430973a1bf", "sizes": "0a7444d5f58ce694"}
PIXELS = {"train": "96d53b1cba8dc2f0", "check": "ba11c7a97a9ed4fb", "test": "58d392fc6aacab72",
          "combinations": "7c6c2e1ff4ab10e0", "sizes": "1eeaf6f94f513627"}


@pytest.mark.parametrize("split", SPLITS)
def test_a_seed_is_a_scene(split):
    scenes = [scene(split, number, (1, 6)) for number in range(40)]
    truths = "; ".join(f"{s.background} {[(thing.name, thing.box) for thing in s.things]}" for s in scenes)
    assert sha256(truths.encode()).hexdigest()[:16] == TRUTHS[split]
    assert sha256(np.stack([s.picture for s in scenes]).tobytes()).hexdigest()[:16] == PIXELS[split]


def test_splits_and_streams_never_meet():
    pictures = [scene(split, number).picture.tobytes() for split in SPLITS for number in range(100)]
    assert len(set(pictures)) == len(pictures)
    words = [Dice(stream, number).words() for stream in (*SPLITS, "language", "questions") for number in range(500)]
    assert len(set(words)) == len(words)


def test_dice_are_fair_and_stay_in_range():
    dice = Dice("train", 0)
    counts = Counter(dice.between(-2, 3) for _ in range(6000))
    assert sorted(counts) == [-2, -1, 0, 1, 2, 3]
    assert all(abs(count - 1000) < 4 * (1000 * 5 / 6) ** 0.5 for count in counts.values())
    assert abs(dice.bytes(100, 200).mean() - 127.5) < 4 * 74 / 20000 ** 0.5


def test_training_never_shows_what_is_held_out():
    """1500 scenes of every split that may not, and one such pair in every scene of the split that must"""
    def unseen(s):
        return [thing for thing in s.things
                if thing.name in NEVER_PAINTED or NEVER_TOGETHER.get(thing.name) == s.background]
    for split in ("train", "check", "test", "sizes"):
        assert not any(unseen(scene(split, number, (1, 6))) for number in range(1500 if split == "train" else 500))
    assert all(unseen(scene("combinations", number, (1, 6))) for number in range(300))
    assert {NEVER_TOGETHER[kind] for kind in KINDS} == set(BACKGROUNDS)         # every kind, every background
    assert {name.split()[0] for name in NEVER_PAINTED} < set(COLOURS)
    longest = max(max(thing.look[0] for thing in scene("train", number, (1, 6)).things) for number in range(1000))
    smallest = min(min(thing.look[0] for thing in scene("sizes", number, (1, 6)).things) for number in range(200))
    assert longest <= 60 < UNSEEN_SIZES[0] <= smallest


def test_the_truth_is_what_the_picture_shows():
    seen, nearest = Counter(), Counter()
    for number in range(300):
        s = scene("check", number, (1, 6))
        for i, thing in enumerate(s.things):
            x0, y0, x1, y1 = thing.box
            assert MARGIN <= x0 < x1 <= SIDE - MARGIN and MARGIN <= y0 < y1 <= SIDE - MARGIN
            mine = s.owner == i
            assert mine.sum() == mine[y0:y1, x0:x1].sum()           # a thing is seen inside its box only
            if len(s.things) == 1:                                  # and touches all four sides of it
                assert np.flatnonzero(mine.any(0))[[0, -1]].tolist() == [x0, x1 - 1]
                assert np.flatnonzero(mine.any(1))[[0, -1]].tolist() == [y0, y1 - 1]
            assert np.allclose(s.thousandths(thing), np.array(thing.box) / SIDE * 1000)
            if " " in thing.name and mine.sum() > 50:
                colour = s.picture[mine].mean(0)
                distance = {name: ((colour - rgb) ** 2).sum() for name, rgb in draw.COLOURS.items()}
                nearest[min(distance, key=distance.get) == thing.name.split()[0]] += 1
            seen[thing.name] += 1
    assert nearest[False] <= 0.02 * nearest[True] and nearest[True] > 100
    assert set(seen) == set(NAMES) - set(NEVER_PAINTED)


def test_things_are_apart_and_in_order():
    overlaps = 0
    for number in range(300):
        s = scene("train", number, (4, 6))
        centres = [thing.box[0] + thing.box[2] for thing in s.things]
        assert all(b - a >= 2 * APART for a, b in zip(centres, centres[1:]))
        for i, a in enumerate(s.things):
            for b in s.things[:i]:
                width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
                height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
                if width > 0 and height > 0:
                    smaller = min((t.box[2] - t.box[0]) * (t.box[3] - t.box[1]) for t in (a, b))
                    assert width * height <= OVERLAP / 100 * smaller
                    overlaps += 1
    assert overlaps > 30


def test_counts_names_and_backgrounds_are_drawn_evenly():
    scenes = [scene("train", number, (1, 4)) for number in range(4000)]
    counts = Counter(len(s.things) for s in scenes)
    assert all(abs(counts[n] - 1000) < 150 for n in (1, 2, 3, 4))   # a few crowded ones come out with fewer
    backgrounds = Counter(s.background for s in scenes)
    assert set(backgrounds) == set(BACKGROUNDS) and min(backgrounds.values()) > 250
    names = Counter(thing.name for s in scenes for thing in s.things)
    assert min(names.values()) > 60 and max(names.values()) < 260
    assert any(len({thing.name for thing in s.things}) < len(s.things) for s in scenes)


def test_a_larger_picture_shows_the_same_scene():
    for number in range(40):
        small, large = scene("test", number, (1, 6)), scene("test", number, (1, 6), side=168)
        assert large.picture.shape == (168, 168, 3) and large.background == small.background
        assert [thing.name for thing in large.things] == [thing.name for thing in small.things]
        for a, b in zip(small.things, large.things):
            assert np.abs(np.array(small.thousandths(a)) - large.thousandths(b)).max() < 18     # 2 pixels of 112
            assert b.box[2] <= 168 and b.box[3] <= 168


@pytest.mark.parametrize("shape, share", [("circle", np.pi / 4), ("square", 1), ("triangle", 1 / 2), ("star", 0.2806)])
def test_shapes_have_their_areas(shape, share):
    """Of the frame: pi/4, 1, 1/2, and for a pentagram 10 tan 18 / (3 - tan^2 18) R^2 = 1.1226 R^2, R half a frame."""
    for size in (24, 47, 70):
        for angle in draw.ANGLES:
            covered = draw.stamp(f"red {shape}", size, angle, 0)[..., 3].sum() / 255
            assert abs(covered / size ** 2 - share) < 0.03 and shape in SHAPES


def test_stamps_are_cut_to_their_box_and_turn_the_way_they_say():
    for name in NAMES:
        alpha = draw.stamp(name, 48, 0, 0)[..., 3] >= 128
        assert alpha[[0, -1]].any(1).all() and alpha[:, [0, -1]].any(0).all() and 40 <= max(alpha.shape) <= 50
    upright, mirrored = (draw.stamp("rocket", 48, 0, m).astype(int) for m in (0, 1))
    assert upright.shape == mirrored.shape and np.abs(upright[:, ::-1] - mirrored).mean() < 12
    tips = [np.argwhere(draw.stamp("red triangle", 60, angle, 0)[..., 3] >= 128)[0][1] for angle in (-20, 0, 20)]
    assert tips[0] != tips[2]                                       # the tip leans to one side or the other


def test_the_atlas_is_small_complete_and_has_its_licence():
    with Image.open(atlas.PATH) as sheet:
        assert sheet.mode == "RGBA" and sheet.size == (atlas.CELL * atlas.COLUMNS, atlas.CELL * 7)
    assert atlas.PATH.stat().st_size < 2e6 and len(KINDS) >= 48
    notice = Path(atlas.__file__).with_name("atlas.LICENSE.txt").read_text(encoding="utf-8")
    assert "SIL OPEN FONT LICENSE Version 1.1" in notice and "Noto Color Emoji" in notice


@pytest.mark.parametrize("wrong, message", [
    ({"split": "tests"}, "no split 'tests'"), ({"things": (0, 2)}, "not 0 to 2"),
    ({"things": (3, 2)}, "not 3 to 2"), ({"things": (1, 12)}, "not 1 to 12")])
def test_what_is_no_scene_is_said(wrong, message):
    with pytest.raises(UserError, match=message):
        scene(**{"split": "train", "number": 0, **wrong})
