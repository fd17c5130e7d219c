"""Shapes as a person draws them, and colours by name."""
import colorsys
from itertools import combinations

import numpy as np
import pytest

from tinycogvlm.world import colours, shapes
from tinycogvlm.world.draw import COLOURS as PLAIN
from tinycogvlm.world.scenes import COLOURS, SHAPES, Dice
from tinycogvlm.world.shapes import CELL, draw, lines

RED, WHITE = (220, 0, 0), (255, 255, 255)
AREAS = {"circle": np.pi / 4, "square": 1, "triangle": 0.475, "diamond": 0.36, "cross": 0.5511,
         "pentagon": 5 * np.sin(np.radians(72)) / 8, "ring": np.pi / 4 * (1 - 0.62 ** 2),
         "star": 5 * 0.4 * np.sin(np.radians(36)) / 4, "arrow": (1180 * 480 + 820 * 640) / 4e6}


def inside(shape, way="filled", wobble=0, width=20, number=0):
    return draw(shape, RED, way, wobble, width, Dice("shape", number))


@pytest.mark.parametrize("shape", AREAS)
def test_a_filled_shape_has_its_area(shape):
    """Of the square that holds it, by the formulas of plane geometry"""
    pixels, _ = inside(shape, width=0)
    reach = CELL * shapes.FINE // 2 - 3                     # what is left of half a side: FINE // 2 + 1 points, rounded
    assert abs(pixels[..., 3].sum() / 255 / (2 * reach / shapes.FINE) ** 2 - AREAS[shape]) < 0.03
    assert (pixels[pixels[..., 3] > 0][:, :3] == RED).all()


@pytest.mark.parametrize("shape", shapes.NAMES)
def test_the_area_is_the_same_however_it_is_drawn(shape):
    """The silhouette of an outline is that of the filled shape, with half the line's width around it."""
    filled = inside(shape)[1]
    for way in ("outlined", "bordered", "white", "dashed", "hatched"):
        pixels, area = inside(shape, way)
        assert (area >= filled).all() and (area & ~filled).sum() <= 4 * 2 * CELL, way
        ink = pixels[..., 3] >= 128
        assert not (ink & ~area).any()
    outlined, dashed = (inside(shape, way)[0][..., 3].sum(dtype=int) for way in ("outlined", "dashed"))
    assert 0.3 * outlined < dashed < 0.8 * outlined


def test_ways_have_their_colours():
    second = (10, 10, 10)
    middle, edge = (CELL // 2, CELL // 2), (3, CELL // 2)
    for way, at_middle, at_edge in (("filled", RED, RED), ("bordered", RED, second), ("white", second, RED)):
        pixels, _ = draw("square", RED, way, 0, 60, Dice("shape", 0), second)
        assert tuple(pixels[middle]) == (*at_middle, 255) and tuple(pixels[edge]) == (*at_edge, 255)
    outlined, _ = draw("square", RED, "outlined", 0, 60, Dice("shape", 0), second)
    assert outlined[middle][3] == 0 and tuple(outlined[edge]) == (*RED, 255)
    hatched, area = draw("square", RED, "hatched", 0, 20, Dice("shape", 0), second)
    inner = hatched[20:-20, 20:-20, 3]
    assert 0.1 < (inner > 128).mean() < 0.6 and area[middle]


def test_a_ring_has_a_hole_that_belongs_to_it():
    pixels, area = inside("ring")
    assert pixels[CELL // 2, CELL // 2, 3] == 0 and area[CELL // 2, CELL // 2]


def test_an_unsteady_hand_draws_the_same_shape_about():
    for shape in shapes.NAMES:
        if shape == "arrow":                                # which may point anywhere
            continue
        steady = inside(shape)[1]
        drawn = [inside(shape, wobble=70, number=number)[1] for number in range(12)]
        assert len({area.tobytes() for area in drawn}) == 12
        for area in drawn:
            assert (area & steady).sum() / (area | steady).sum() > 0.55, shape
            edges = area[[0, -1]].sum() + area[:, [0, -1]].sum()
            assert edges < CELL / 4         # hardly anything is cut off


def test_arrows_point_in_eight_directions():
    drawn = {inside("arrow", number=number)[1].tobytes() for number in range(80)}
    assert len(drawn) == 8


def test_points_along_a_line_are_equally_far_apart():
    square = lines("square")[0]
    points = shapes.along(square, 80)
    steps = [abs(x1 - x0) + abs(y1 - y0) for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1])]
    assert set(steps) == {100} and points[0] == square[0]
    assert len(shapes.unsteady(square, 30, Dice("shape", 0))) == shapes.STEPS


def test_sines_are_whole_thousandths():
    degrees = np.arange(-720, 720)
    assert [shapes.sine(int(d)) for d in degrees] == np.round(1000 * np.sin(np.radians(degrees))).astype(int).tolist()
    assert shapes.cosine(60) == 500 and shapes.SINES[30] == 500


# Colours

def test_colours_are_those_of_their_names():
    """Hue, saturation and brightness come back from red, green and blue."""
    for name, ((h0, h1), (s0, s1), (v0, v1)) in colours.RANGES.items():
        for number in range(200):
            rgb = colours.pick(name, Dice(name, number))
            hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))
            assert all(0 <= c <= 255 for c in rgb) and v0 - 1 <= 100 * value <= v1 + 1
            if value > 0.2:
                assert s0 - 3 <= 100 * saturation <= s1 + 3
            if saturation > 0.2 and value > 0.2:
                assert any(h0 - 3 <= 360 * hue + turn <= h1 + 3 for turn in (0, 360))


def test_no_colour_has_two_names():
    for (first, a), (second, b) in combinations(colours.RANGES.items(), 2):
        assert any(a1 < b0 or b1 < a0 for (a0, a1), (b0, b1) in zip(a, b)), (first, second)
    assert set(COLOURS) < set(colours.NAMES) and set(SHAPES) < set(shapes.NAMES)


def test_the_plain_world_s_colours_have_the_same_names():
    for name, rgb in PLAIN.items():
        nearest = min(colours.NAMES, key=lambda other: min(
            colours.apart(rgb, colours.pick(other, Dice(other, number))) for number in range(60)))
        assert nearest == name


def test_hues_follow_the_circle():
    for hue in range(0, 360, 15):
        for saturation, value in ((100, 100), (40, 80), (0, 50)):
            expected = colorsys.hsv_to_rgb(hue / 360, saturation / 100, value / 100)
            assert np.abs(np.array(colours.rgb(hue, saturation, value)) - 255 * np.array(expected)).max() <= 2
    assert colours.rgb(365, 100, 100) == colours.rgb(5, 100, 100)
    assert colours.brightness(WHITE) == 255 and colours.apart(WHITE, (0, 0, 0)) == 765
