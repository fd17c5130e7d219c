"""Lesson 17: how well two boxes agree, and boxes in pixels."""
import math

import numpy as np

from ...contracts import Contract
from ...inputs import grounding
from ..exercise import Exercise

# ----------------------------------------------------------------------------------------------------------------- iou


def iou(a, b):
    """Counted on the grid of whole coordinates: squares in both over squares in either"""
    def squares(box):
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}
    a, b = squares(a), squares(b)
    return np.float64(len(a & b) / len(a | b))


def iou_cases():
    yield "alike", dict(a=(1, 2, 4, 6), b=(1, 2, 4, 6))
    yield "a corner in common", dict(a=(0, 0, 4, 4), b=(2, 3, 6, 8))
    yield "one in the other", dict(a=(0, 0, 10, 5), b=(2, 1, 4, 3))
    yield "side by side", dict(a=(0, 0, 4, 4), b=(6, 0, 9, 4))
    yield "apart in both directions", dict(a=(0, 0, 4, 4), b=(6, 7, 9, 12))
    yield "edges touch", dict(a=(0, 0, 4, 4), b=(4, 0, 8, 4))


IOU = Exercise(Contract("iou", iou, iou_cases, {"float64": 1e-12}), grounding.iou, (grounding.iou,))


def area(x0, y0, x1, y1):
    return max(0, x1 - x0) * max(0, y1 - y0)


def shared(a, b):
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


@IOU.mistake("What both boxes share is counted twice in what they cover together: it is area + area - shared.")
def union_counts_twice(a, b):
    return area(*shared(a, b)) / (area(*a) + area(*b))


@IOU.mistake(
    "Boxes that do not meet have a negative width AND height, whose product looks like an area: each is 0 at least.")
def negative_sides(a, b):
    x0, y0, x1, y1 = shared(a, b)
    both = (x1 - x0) * (y1 - y0)
    return both / (area(*a) + area(*b) - both)


@IOU.mistake("min and max are exchanged: what both share begins at the larger of the left edges and ends at the smaller of "
             "the right ones.")
def edges_exchanged(a, b):
    x0, y0, x1, y1 = min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
    both = area(x0, y0, x1, y1)
    union = area(*a) + area(*b) - both
    return both / union if union else 0.0


@IOU.mistake("This divides by the area of the first box alone.")
def of_the_first_box(a, b):
    return area(*shared(a, b)) / area(*a)


@IOU.mistake("This divides by the area of the smaller box; it should be the area that the two cover together.")
def of_the_smaller_box(a, b):
    return area(*shared(a, b)) / min(area(*a), area(*b))


@IOU.mistake("This divides by the box around both; it should be the area that the two cover.")
def box_around_both(a, b):
    around = min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
    return area(*shared(a, b)) / area(*around)


@IOU.mistake("Pixels are counted at both ends, width = x1 - x0 + 1; the edges here are lines between pixels.")
def both_ends_counted(a, b):
    def wide(x0, y0, x1, y1):
        return max(0, x1 - x0 + 1) * max(0, y1 - y0 + 1)
    both = wide(*shared(a, b))
    return both / (wide(*a) + wide(*b) - both)


@IOU.mistake("The boxes are read as (x, y, width, height); they are (x0, y0, x1, y1).")
def width_and_height(a, b):
    def corners(x, y, w, h):
        return x, y, x + w, y + h
    return grounding.iou(corners(*a), corners(*b))


# ----------------------------------------------------------------------------------------------------------- to_pixels

def to_pixels(box, width, height):
    """number / 1000 of the width for x, of the height for y, to the nearest whole number, halves up"""
    return np.array([math.floor(number * side / 1000 + 0.5) for number, side in zip(box, (width, height) * 2)])


def to_pixels_cases():
    yield "a thousand pixels", dict(box=(100, 200, 300, 400), width=1000, height=1000)
    yield "a wide picture", dict(box=(20, 160, 340, 440), width=500, height=300)
    yield "CogVLM2's picture", dict(box=(0, 333, 666, 999), width=1344, height=1344)
    yield "a high picture", dict(box=(7, 33, 501, 999), width=112, height=336)
    yield "halves", dict(box=(21, 35, 501, 995), width=500, height=100)


TO_PIXELS = Exercise(Contract("to_pixels", to_pixels, to_pixels_cases, {"float64": 0.0}), grounding.to_pixels,
                     (grounding.to_pixels,))


@TO_PIXELS.mistake("Width and height are exchanged: x goes with the width.")
def sides_exchanged(box, width, height):
    return to_pixels(box, height, width)


@TO_PIXELS.mistake("The numbers are truncated; round to the nearest whole number.")
def cut_off(box, width, height):
    return tuple(int(number * side / 1000) for number, side in zip(box, (width, height) * 2))


@TO_PIXELS.mistake(
    "Python's round() takes a half to the even neighbour, 10.5 to 10; here a half is rounded up: math.floor(x + 0.5).")
def halves_to_even(box, width, height):
    return tuple(round(number * side / 1000) for number, side in zip(box, (width, height) * 2))


@TO_PIXELS.mistake("This divides by 999; a coordinate is a thousandth.")
def of_999(box, width, height):
    return tuple(math.floor(number * side / 999 + 0.5) for number, side in zip(box, (width, height) * 2))


@TO_PIXELS.mistake("Both axes are scaled by the longer side.")
def longer_side(box, width, height):
    return to_pixels(box, max(width, height), max(width, height))
