"""What is behind the things, and what happens to a picture on its way."""
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest

from tinycogvlm.world import camera, colours, draw, grounds
from tinycogvlm.world.scenes import Dice

PIXELS = "f29d3f344f6b060f"                               # of four of every ground


def painted(name, number, side=112):
    return grounds.paint(name, side, Dice("ground", number))


def test_a_number_is_a_ground():
    pixels = [painted(name, number) for name in grounds.GROUNDS for number in range(4)]
    assert all(picture.shape == (112, 112, 3) and picture.dtype == np.uint8 for picture in pixels)
    assert sha256(np.stack(pixels).tobytes()).hexdigest()[:16] == PIXELS


def test_grounds_come_as_often_as_their_weights_say():
    weights = {"white": 28, "colour": 20, "texture": 22, "gradient": 8, "photo": 14, "noise": 8}
    dice = Dice("choose", 0)
    drawn = Counter(grounds.choose(dice, weights) for _ in range(4000))
    share = {"colour": sum(drawn[name] for name in colours.NAMES) - drawn["white"], "texture": sum(
        drawn[name] for name in draw.BACKGROUNDS), **{name: drawn[name] for name in ("gradient", "photo", "noise")}}
    for name, count in share.items():
        expected = 40 * weights[name] * (10 / 11 if name == "colour" else 1)    # white is one of the colours
        assert abs(count - expected) < 4 * expected ** 0.5
    assert set(drawn) == set(grounds.GROUNDS)


def test_paper_has_one_colour_of_its_name():
    for name in colours.NAMES:
        picture = painted(name, 1)
        assert (picture == picture[0, 0]).all()
    assert {tuple(painted("white", number)[0, 0]) for number in range(8)} > {(255, 255, 255)}


def test_gradients_run_from_one_colour_to_another():
    for number in range(12):
        picture = painted("gradient", number).astype(int)
        steps = [np.abs(np.diff(picture, axis=axis)) for axis in (0, 1)]
        assert max(step.max() for step in steps) <= 4 and np.ptp(picture, (0, 1)).max() > 10
    ends = (0, 0, 0), (200, 100, 50)
    across = [grounds.gradient(ends, 100, Dice("gradient", number)) for number in range(20)]
    assert any((picture[0] == picture[-1]).all() for picture in across)
    assert any((picture[:, :1] == picture).all() for picture in across)


def test_noise_has_no_pattern():
    picture = painted("noise", 0).astype(float)
    flat = picture - picture.mean()
    assert abs((flat[1:] * flat[:-1]).mean()) < 0.05 * flat.var()


def test_photographs_are_cut_within_one():
    sheet = grounds.photos()
    assert sheet.shape[0] == grounds.PHOTO and sheet.shape[1] % grounds.PHOTO == 0
    cuts = [painted("photo", number) for number in range(30)]
    assert len({cut.tobytes() for cut in cuts}) == 30 and np.mean([cut.std() for cut in cuts]) > 15


# The camera

def test_a_picture_that_nothing_happens_to_stays_as_it_is():
    picture = painted("photo", 3)
    assert np.array_equal(camera.taken(picture, Dice("paint", 0), 0), picture)


def test_what_happens_to_a_picture():
    picture = painted("grass", 0)
    taken = [camera.taken(picture, Dice("paint", number), 100) for number in range(60)]
    changed = sum(not np.array_equal(picture, other) for other in taken)
    assert 30 < changed < 60 and all(other.dtype == np.uint8 and other.shape == picture.shape for other in taken)
    assert all(np.abs(other.astype(int).mean() - picture.mean()) < 60 for other in taken)


def test_blur_is_a_mean_of_nine():
    random = np.random.default_rng(0).integers(0, 256, (6, 7, 3)).astype(np.int32)
    padded = np.pad(random, ((1, 1), (1, 1), (0, 0)), "edge")
    mean = sum(padded[y:y + 6, x:x + 7] for y in range(3) for x in range(3)) / 9
    blurred = camera.blurred(random)
    assert (blurred <= mean).all() and (mean - blurred < 2).all()       # both means are rounded down


def test_grey_has_the_brightness_that_the_eye_sees():
    picture = painted("photo", 1)
    grey = camera.greyed(picture)
    assert (grey == grey[..., :1]).all() and grey[5, 7, 0] == colours.brightness(picture[5, 7])


def test_jpeg_is_close_and_strokes_cross_the_picture():
    picture = painted("photo", 2)
    assert np.abs(camera.compressed(picture, 85).astype(int) - picture).mean() < 12
    crossed = camera.crossed(picture, Dice("strokes", 0), 3)
    changed = (crossed != picture).any(-1)
    assert changed.any(0).mean() > 0.9 and 0.01 < changed.mean() < 0.15      # from the left edge to the right one
    assert np.array_equal(camera.crossed(picture, Dice("strokes", 0), 0), picture)


@pytest.mark.parametrize("side", [28, 300])
def test_grounds_of_any_size(side):
    assert all(painted(name, 0, side).shape == (side, side, 3) for name in grounds.GROUNDS)
