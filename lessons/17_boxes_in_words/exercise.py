"""17 Boxes in words. Fill in the bodies, then: tinycogvlm learn check 17"""
import math


def iou(a, b):
    """The area that two boxes share over the area that they cover together -> scalar

    A box is (x0, y0, x1, y1): its left, upper, right and lower edge. Boxes that do not overlap have 0.
    """
    raise NotImplementedError


def to_pixels(box, width, height):
    """A box in thousandths of the picture's width and height, in pixels -> (4,)

    The same four edges in the same order, as a tuple, each rounded to the nearest whole number, halves up.
    """
    raise NotImplementedError
