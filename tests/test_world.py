"""The first weights' world: the same seed is the same scene everywhere, the truth is true, splits never meet."""
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinycogvlm.train.world import COLOURS, MARGIN, NAMES, SHAPES, SIDE, STREAMS, Dice, coverage, scene

# of the first 40 scenes of each split: of their truths and of their pixels
TRUTHS = {"train": "519d646cb97d8022", "check": "b8eb320c0103cb8f", "test": "9a7b61df95032076"}
PIXELS = {"train": "d7a5f3f1582e329a", "check": "4f2aa254bf011b00", "test": "febc73882fc36ba6"}


@pytest.mark.parametrize("split", TRUTHS)
def test_a_seed_is_a_scene(split):
    scenes = [scene(split, number) for number in range(40)]
    truths = "; ".join(f"{s.name} {s.box}" for s in scenes)
    assert sha256(truths.encode()).hexdigest()[:16] == TRUTHS[split]
    assert sha256(np.stack([s.picture for s in scenes]).tobytes()).hexdigest()[:16] == PIXELS[split]


def test_splits_and_streams_never_meet():
    pictures = [scene(split, number).picture.tobytes() for split in TRUTHS for number in range(150)]
    assert len(set(pictures)) == len(pictures)
    words = [Dice(stream, number).words() for stream in STREAMS for number in range(500)]
    assert len(set(words)) == len(words)


def test_dice_are_fair_and_stay_in_range():
    dice = Dice("train", 0)
    counts = Counter(dice.between(-2, 3) for _ in range(6000))
    assert sorted(counts) == [-2, -1, 0, 1, 2, 3]
    assert all(abs(count - 1000) < 4 * (1000 * 5 / 6) ** 0.5 for count in counts.values())
    assert abs(dice.bytes(100, 200).mean() - 127.5) < 4 * 74 / 20000 ** 0.5


def test_the_truth_is_what_the_picture_shows():
    seen, right = Counter(), 0
    for number in range(300):
        s = scene("check", number)
        x0, y0, x1, y1 = s.box
        assert MARGIN <= x0 < x1 <= SIDE - MARGIN and MARGIN <= y0 < y1 <= SIDE - MARGIN
        half = s.mask >= 127                                # the box is tight around what is covered by half
        assert np.flatnonzero(half.any(0))[[0, -1]].tolist() == [x0, x1 - 1]
        assert np.flatnonzero(half.any(1))[[0, -1]].tolist() == [y0, y1 - 1]
        assert s.mask.sum() == s.mask[y0:y1, x0:x1].sum()
        inside = s.picture[s.mask == 255].mean(0)
        nearest = min(COLOURS, key=lambda colour: ((inside - COLOURS[colour]) ** 2).sum())
        right += nearest == s.colour
        seen[s.name] += 1
        assert np.allclose(s.thousandths, np.array(s.box) / SIDE * 1000)
    assert right == 300 and set(seen) == set(NAMES)


@pytest.mark.parametrize("shape, share", [("circle", np.pi / 4), ("square", 1), ("triangle", 1 / 2), ("star", 0.2806)])
def test_shapes_have_their_areas(shape, share):
    """Of the frame: pi/4, all, half, and for a pentagram 10 tan 18 / (3 - tan^2 18) R^2 = 1.1226 R^2, R half a frame."""
    for size in (24, 47, 70):
        assert abs(coverage(shape, size).sum() / 255 / size ** 2 - share) < 0.02 and shape in SHAPES


EXAMPLES = {"red_star": 1351, "blue_circle": 1106, "green_triangle": 1162, "orange_square": 1042}   # scenes of "test"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_pictures_are_scenes(name):
    picture = Image.open(Path(__file__).parent.parent / "lessons" / "images" / f"{name}.png")
    example = scene("test", EXAMPLES[name])
    assert example.name == name.replace("_", " ") and np.array_equal(np.asarray(picture), example.picture)
