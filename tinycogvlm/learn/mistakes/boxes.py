"""Boxes in words."""
from .table import mistake, right


def area(x0, y0, x1, y1):
    return max(0, x1 - x0) * max(0, y1 - y0)


def shared(a, b):
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


@mistake("iou", says="What both boxes share is counted twice in what they cover together: area + area - shared.")
def union_counts_twice(a, b):
    return area(*shared(a, b)) / (area(*a) + area(*b))


@mistake("iou",
         says="Boxes that do not meet have a negative width AND height, whose product looks like an area: each is 0 "
              "at least.")
def negative_sides(a, b):
    x0, y0, x1, y1 = shared(a, b)
    both = (x1 - x0) * (y1 - y0)
    return both / (area(*a) + area(*b) - both)


@mistake("iou", says="This divides by the area of the first box alone.")
def of_the_first_box(a, b):
    return area(*shared(a, b)) / area(*a)


@mistake("iou", says="This divides by the box around both; it is the area that the two cover.")
def box_around_both(a, b):
    around = min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
    return area(*shared(a, b)) / area(*around)


@mistake("iou", says="Pixels are counted at both ends, width = x1 - x0 + 1; the edges here are lines between pixels.")
def both_ends_counted(a, b):
    wide = lambda x0, y0, x1, y1: max(0, x1 - x0 + 1) * max(0, y1 - y0 + 1)
    both = wide(*shared(a, b))
    return both / (wide(*a) + wide(*b) - both)


@mistake("iou", says="The boxes are read as (x, y, width, height); they are (x0, y0, x1, y1).")
def width_and_height(a, b):
    corners = lambda x, y, w, h: (x, y, x + w, y + h)
    return right("iou", a=corners(*a), b=corners(*b))


@mistake("to_pixels", says="Width and height are exchanged: x goes with the width.")
def sides_exchanged(box, width, height):
    return right("to_pixels", box=box, width=height, height=width)


@mistake("to_pixels", says="The numbers are cut off; they are rounded to the nearest.")
def cut_off(box, width, height):
    return tuple(int(number * side / 1000) for number, side in zip(box, (width, height) * 2))


@mistake("to_pixels", says="This divides by 999; a coordinate is a thousandth.")
def of_999(box, width, height):
    return tuple(round(number * side / 999) for number, side in zip(box, (width, height) * 2))


@mistake("to_pixels", says="Both axes are scaled by the longer side.")
def longer_side(box, width, height):
    return right("to_pixels", box=box, width=max(width, height), height=max(width, height))
