"""Boxes in a model's words: read, mapped to pixels, drawn."""
import time

import numpy as np
import pytest
from PIL import Image, ImageChops

from tinycogvlm.inputs import grounding


@pytest.mark.parametrize("text, boxes", [
    ("no box", []),
    ("A cat [[000,010,500,999]].", [(0, 10, 500, 999)]),
    ("[[001,002,003,004;005,006,007,008]] and [[9,10,11,12]]", [(1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)]),
    ("[[ 1 , 2,\n30,40 ]]", [(1, 2, 30, 40)]),
    ("[[[1,2,3,4]]] \u732b[[5,6,7,8]]\U0001f642", [(1, 2, 3, 4), (5, 6, 7, 8)]),
    ("[1,2,3,4] [[0,0,1,1]]", [(0, 0, 1, 1)]),
])
def test_boxes_are_read_in_order(text, boxes):
    assert grounding.parse(text) == (boxes, [])


@pytest.mark.parametrize("text, reason", [
    ("[[]]", "'[[]]': no numbers"),
    ("[[x0,y0,x1,y1]]", "'[[x0,y0,x1,y1]]': not whole numbers from 0 to 999"),
    ("[[1,2,3]]", "'[[1,2,3]]': 3 numbers instead of 4"),
    ("[[1,2,3,4,5]]", "'[[1,2,3,4,5]]': 5 numbers instead of 4"),
    ("[[0,0,1000,5]]", "'[[0,0,1000,5]]': not whole numbers from 0 to 999"),
    ("[[-1,0,1,5]]", "'[[-1,0,1,5]]': not whole numbers from 0 to 999"),
    ("[[0.1,0.2,0.3,0.4]]", "'[[0.1,0.2,0.3,0.4]]': not whole numbers from 0 to 999"),
    ("[[\u0663,0,9,9]]", "'[[\u0663,0,9,9]]': not whole numbers from 0 to 999"),
    ("[[5,0,5,9]]", "'[[5,0,5,9]]': x0 is not less than x1"),
    ("[[0,9,5,1]]", "'[[0,9,5,1]]': y0 is not less than y1"),
    ("[[1,2,3,4]", "'[[1,2,3,4': not closed by ]]"),
    ("[[1,2,3", "'[[1,2,3': not closed by ]]"),
    ("[[" + "7" * 5000 + ",2,3,4]]", repr("[[" + "7" * 55 + "...") + ": not whole numbers from 0 to 999"),
])
def test_malformed_boxes_are_skipped_and_reported(text, reason):
    assert grounding.parse(f"before [[1,2,3,4]] {text}") == ([(1, 2, 3, 4)], [reason])
    if "closed" not in reason:
        assert grounding.parse(f"{text}; [[1,2,3,4]] after") == ([(1, 2, 3, 4)], [reason])


def test_an_unclosed_box_does_not_hide_the_next():
    assert grounding.parse("[[1,2,3 [[1,2,3,4]]") == ([(1, 2, 3, 4)], ["'[[1,2,3 ': not closed by ]]"])


def test_good_boxes_beside_a_malformed_one_are_kept():
    boxes, malformed = grounding.parse("[[1,2,3,4;9,9,1,1;5,6,7,8;]]")
    assert boxes == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert malformed == ["'[[9,9,1,1]]': x0 is not less than x1", "'[[]]': no numbers"]


@pytest.mark.parametrize("unit", ["[", "[[", "]]", "[[1,", "[[1]", "[[1,2,3,4", "1", "1,", ";", " ", "[[;", "]][["])
def test_reading_takes_linear_time(unit):
    start = time.perf_counter()
    grounding.parse("[[" + unit * 100_000)
    grounding.parse("[[" + unit * 100_000 + "]]")
    assert time.perf_counter() - start < 2          # quadratic would be minutes


def test_writing_is_the_inverse_of_reading():
    assert grounding.format([(1, 20, 300, 999)]) == "[[001,020,300,999]]"
    assert grounding.format([(1, 2, 3, 4), (5, 6, 7, 8)]) == "[[001,002,003,004;005,006,007,008]]"
    rng = np.random.default_rng(0)
    corners = np.sort(rng.permuted(np.tile(np.arange(1000), (200, 1)), axis=1)[:, :4])[:, [0, 2, 1, 3]]
    boxes = [tuple(box) for box in corners.tolist()]
    assert grounding.parse(grounding.format(boxes)) == (boxes, [])


def test_thousandths_and_pixels():
    assert grounding.to_pixels((0, 250, 500, 999), 640, 480) == (0, 120, 320, 480)
    assert grounding.to_pixels((1, 1, 999, 999), 2000, 4000) == (2, 4, 1998, 3996)
    assert grounding.from_pixels((0, 120, 320, 480), 640, 480) == (0, 250, 500, 999)
    for box in ((0, 0, 999, 999), (123, 456, 789, 987)):
        assert grounding.from_pixels(grounding.to_pixels(box, 2000, 3000), 2000, 3000) == box


def drawn_box(size, box, labels=(), colour=(90, 90, 90)):
    """Where the picture was changed, as (left, top, right, bottom), and the drawn picture."""
    blank = Image.new("RGB", size, colour)
    drawn = grounding.draw(blank, [box], labels)
    assert blank.tobytes() == Image.new("RGB", size, colour).tobytes(), "the picture passed in was changed"
    return ImageChops.difference(drawn, Image.new("RGB", drawn.size, colour)).getbbox(), drawn


def test_a_box_is_drawn_around_its_pixels():
    changed, drawn = drawn_box((800, 600), (250, 500, 500, 750))
    assert drawn.size == (800, 600) and changed == (200, 300, 400, 450)
    assert drawn.getpixel((200, 300)) == drawn.getpixel((399, 449)) != (90, 90, 90)
    assert drawn.getpixel((300, 400)) == (90, 90, 90), "the inside is left free"


@pytest.mark.parametrize("size, enlarged", [
    ((1, 1), (336, 336)), ((112, 112), (336, 336)), ((20, 9), (340, 153)), ((336, 30), (336, 30)), ((5, 900), (5, 900)),
    ((3000, 2000), (3000, 2000))])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (998, 998, 999, 999), (0, 0, 999, 999), (990, 0, 999, 9)])
def test_any_picture_size_and_place(size, enlarged, box):
    changed, drawn = drawn_box(size, box, ["a label, Q"])
    assert drawn.size == enlarged
    assert changed is not None


@pytest.mark.parametrize("box", [(0, 0, 99, 99), (950, 0, 999, 60), (0, 940, 60, 999), (940, 940, 999, 999)])
def test_labels_stay_inside_the_picture(box):
    """The coloured tag of a label keeps its whole width and height wherever the box is."""
    centre = drawn_box((640, 480), (450, 450, 451, 451), ["some words"])[1]
    at = drawn_box((640, 480), box, ["some words"])[1]
    tag = tuple(int(grounding.COLOURS[0][i:i + 2], 16) for i in (1, 3, 5))

    def white(picture):
        return (np.asarray(picture) == 255).all(-1).sum()

    assert white(at) == white(centre) > 50
    assert (np.asarray(at) == tag).all(-1).sum() >= (np.asarray(centre) == tag).all(-1).sum() - 8


@pytest.mark.parametrize("label", ["x" * 100_000, "wide " * 300, "two\nlines", "\x00\x01", " ", "",
                                   "\u732b\U0001f642 \u0645"])
def test_any_label_can_be_drawn(label):
    assert drawn_box((400, 300), (100, 200, 300, 400), [label])[1].size == (400, 300)


def test_labels_belong_to_boxes():
    boxes = [(0, 500, 400, 900), (500, 500, 900, 900)]
    picture = np.zeros((300, 400, 3), np.uint8)
    one_for_all, each = (grounding.draw(picture, boxes, labels) for labels in ("cat", ["cat", "cat"]))
    assert one_for_all.tobytes() == each.tobytes()
    assert grounding.draw(picture, boxes, ["cat", "dog"]).tobytes() != each.tobytes()
    assert grounding.draw(picture, []).tobytes() == picture.tobytes()
    with pytest.raises(ValueError, match="1 labels for 2 boxes"):
        grounding.draw(picture, boxes, ["cat"])
