"""17 Boxes in words: a solution"""
import math


def iou(a, b):
    def area(x0, y0, x1, y1):
        return max(0, x1 - x0) * max(0, y1 - y0)
    both = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return both / (area(*a) + area(*b) - both)


def to_pixels(box, width, height):
    return tuple(math.floor(number * side / 1000 + 0.5) for number, side in zip(box, (width, height, width, height)))
