"""Boxes in a model's words: read, mapped to pixels, drawn."""
import time

import numpy as np
import pytest
from PIL import Image, ImageChops

from tinycogvlm.inputs import grounding
from tinycogvlm.learn.lessons import boxes_in_words


@pytest.mark.parametrize("text, boxes", [
    ("no box", []),
    ("A cat [[000,010,500,999]].", [(0, 10, 500, 999)]),
    ("[[001,002,003,004;005,006,007,008]] and [[9,10,11,12]]", [(1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)]),
    ("[[ 1 , 2,\n30,40 ]]", [(1, 2, 30, 40)]),
    ("[[[1,2,3,4]]] \u732b[[5,6,7,8]]\U0001f642", [(1, 2, 3, 4), (5, 6, 7, 8)]),
    ("[1,2,3,4] [[0,0,1,1]]", [(0, 0, 1, 1)]),
    ("[[100,200,300,400],[500,600,700,800]]", [(100, 200, 300, 400), (500, 600, 700, 800)]),
    ("[[75, 658, 250, 871], [286, 558, 444, 711]]", [(75, 658, 250, 871), (286, 558, 444, 711)]),
    ("[[1,2,3,4],[[5,6,7,8]] [[9,10,11,12]],[[13,14,15,16]]", [(1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12),
                                                              (13, 14, 15, 16)]),
    ("[[561, 660, 695, 1000]]", [(561, 660, 695, 1000)]),
])
def test_boxes_are_read_in_order(text, boxes):
    assert grounding.parse(text) == (boxes, [])


@pytest.mark.parametrize("text, reason", [
    ("[[]]", "'[[]]': no numbers"),
    ("[[x0,y0,x1,y1]]", "'[[x0,y0,x1,y1]]': not whole numbers from 0 to 1000"),
    ("[[1,2,3]]", "'[[1,2,3]]': 3 numbers instead of 4"),
    ("[[681,808]]", "'[[681,808]]': 2 numbers instead of 4"),
    ("[[086\uff0c540\uff0c400\uff0c760]]", "'[[086\uff0c540\uff0c400\uff0c760]]': 1 number instead of 4"),
    ("[[1,2,3,4,5]]", "'[[1,2,3,4,5]]': 5 numbers instead of 4"),
    ("[[0,0,1001,5]]", "'[[0,0,1001,5]]': not whole numbers from 0 to 1000"),
    ("[[-1,0,1,5]]", "'[[-1,0,1,5]]': not whole numbers from 0 to 1000"),
    ("[[0.1,0.2,0.3,0.4]]", "'[[0.1,0.2,0.3,0.4]]': not whole numbers from 0 to 1000"),
    ("[[\u0663,0,9,9]]", "'[[\u0663,0,9,9]]': not whole numbers from 0 to 1000"),
    ("[[5,0,5,9]]", "'[[5,0,5,9]]': x0 is not less than x1"),
    ("[[0,9,5,1]]", "'[[0,9,5,1]]': y0 is not less than y1"),
    ("[[1,2,3,4]", "'[[1,2,3,4': not closed by ]]"),
    ("[[1,2,3", "'[[1,2,3': not closed by ]]"),
    ("[[" + "7" * 5000 + ",2,3,4]]", repr("[[" + "7" * 55 + "...") + ": not whole numbers from 0 to 1000"),
])
def test_malformed_boxes_are_skipped_and_reported(text, reason):
    assert grounding.parse(f"before [[1,2,3,4]] {text}") == ([(1, 2, 3, 4)], [reason])
    if "closed" not in reason:
        assert grounding.parse(f"{text}; [[1,2,3,4]] after") == ([(1, 2, 3, 4)], [reason])


def test_an_unclosed_box_does_not_hide_the_next():
    assert grounding.parse("[[1,2,3 [[1,2,3,4]]") == ([(1, 2, 3, 4)], ["'[[1,2,3 ': not closed by ]]"])


@pytest.mark.parametrize("text, boxes, cut", [
    ("[[100,200,300,400;500,600,700", [(100, 200, 300, 400)], "500,600,700"),
    ("[[100,200,300,400],[500,600,7", [(100, 200, 300, 400)], "500,600,7"),
    ("[[100,200,300,400;", [(100, 200, 300, 400)], ""),
    ("[[1,2,3,4;5,6,7,8;9,10,11,12]", [(1, 2, 3, 4), (5, 6, 7, 8)], "9,10,11,12"),
])
def test_boxes_before_a_cut_are_complete(text, boxes, cut):
    assert grounding.parse(text) == (boxes, [f"'[[{cut}': not closed by ]]"])


def test_good_boxes_beside_a_malformed_one_are_kept():
    boxes, malformed = grounding.parse("[[1,2,3,4;9,9,1,1;5,6,7,8;]]")
    assert boxes == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert malformed == ["'[[9,9,1,1]]': x0 is not less than x1", "'[[]]': no numbers"]


@pytest.mark.parametrize("unit", ["[", "[[", "]]", "[[1,", "[[1]", "[[1,2,3,4", "1", "1,", ";", " ", "[[;",
                                  "]][[", "],[", "] ", "],", "],[1,2,3,4", "[[1,2,3,4]] a dog "])
def test_reading_takes_linear_time(unit):
    start = time.process_time()
    many = 200_000 // len(unit)
    grounding.parse("[[" + unit * many)
    grounding.parse("[[" + unit * many + "]]")
    grounding.names("[[" + unit * (many // 8) + "]]")
    assert time.process_time() - start < 4          # quadratic would be minutes


def test_writing_is_the_inverse_of_reading():
    assert grounding.box_text([(1, 20, 300, 999)]) == "[[001,020,300,999]]"
    assert grounding.box_text([(1, 2, 3, 4), (5, 6, 7, 8)]) == "[[001,002,003,004;005,006,007,008]]"
    rng = np.random.default_rng(0)
    corners = np.sort(rng.permuted(np.tile(np.arange(1000), (200, 1)), axis=1)[:, :4])[:, [0, 2, 1, 3]]
    boxes = [tuple(box) for box in corners.tolist()]
    assert grounding.parse(grounding.box_text(boxes)) == (boxes, [])


def test_thousandths_and_pixels():
    assert grounding.to_pixels((0, 250, 500, 999), 640, 480) == (0, 120, 320, 480)
    assert grounding.to_pixels((1, 1, 999, 999), 2000, 4000) == (2, 4, 1998, 3996)
    assert grounding.from_pixels((0, 120, 320, 480), 640, 480) == (0, 250, 500, 999)
    for box in ((0, 0, 999, 999), (123, 456, 789, 987)):
        assert grounding.from_pixels(grounding.to_pixels(box, 2000, 3000), 2000, 3000) == box


@pytest.mark.parametrize("box, size, pixels", [
    ((21, 33, 501, 999), (500, 300), (11, 10, 251, 300)),       # 10.5, 9.9, 250.5, 299.7
    ((5, 5, 15, 25), (100, 100), (1, 1, 2, 3)),                 # .5, .5, 1.5, 2.5
    ((0, 0, 1000, 1000), (7, 9), (0, 0, 7, 9)),
])
def test_halves_are_rounded_up_as_the_contract_has_it(box, size, pixels):
    assert grounding.to_pixels(box, *size) == pixels == tuple(boxes_in_words.to_pixels(box, *size))


def test_halves_of_thousandths_are_rounded_up():
    assert grounding.from_pixels((1, 3, 5, 7), 2000, 2000) == (1, 2, 3, 4)         # .5, 1.5, 2.5, 3.5


@pytest.mark.parametrize("a, b, expected", [
    ((0, 0, 4, 4), (2, 0, 6, 4), 1 / 3), ((0, 0, 4, 4), (4, 0, 8, 4), 0.0), ((1, 1, 1, 5), (1, 1, 1, 5), 0.0),
    ((5, 5, 5, 5), (0, 0, 9, 9), 0.0), ((4, 4, 0, 0), (4, 4, 0, 0), 0.0)])
def test_intersection_over_union(a, b, expected):
    """Boxes without an area cover nothing."""
    assert grounding.iou(a, b) == grounding.iou(b, a) == pytest.approx(expected)


@pytest.mark.parametrize("text, found", [
    ("A dog [[1,1,2,2]], a tree [[1,1,2,2]], an owl [[1,1,2,2]] and a purple square [[1,1,2,2]].",
     ["a dog", "a tree", "an owl", "a purple square"]),
    ("In the picture, a man[[1,1,2,2]] wearing a red hat[[1,1,2,2]] stands.", ["a man", "a red hat"]),
    ("There are two dogs [[1,1,2,2;3,3,4,4]] and red balls [[1,1,2,2],[3,3,4,4]]",
     ["two dogs", "two dogs", "red balls", "red balls"]),
    ("The dog is at [[1,1,2,2]]. It stands here: [[1,1,2,2]]", ["the dog", ""]),
    ("[[1,1,2,2]] [[3,3,2,2]] the owl [[1,2]] the fox [[3,3,2,2;1,1,2,2]]", ["", "the fox"]),
    ("\u4e00\u53ea\u732b\uff0c\u4e24\u53ea\u72d7[[1,1,2,2]]", ["\u4e24\u53ea\u72d7"]),
    ("no box", []),
])
def test_the_words_before_a_box_name_it(text, found):
    assert grounding.names(text) == found and len(found) == len(grounding.parse(text)[0])


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
    assert (np.asarray(drawn)[303:447, 203:397] == 90).all(), "the inside is left free"


def test_corners_are_rounded_outwards():
    """(251, 501, 499, 749) thousandths of 800 x 600: from (200.8, 300.6) to (399.2, 449.4)."""
    assert drawn_box((800, 600), (251, 501, 499, 749))[0] == (200, 300, 400, 450)
    assert drawn_box((800, 600), (0, 0, 1000, 1000))[0] == (0, 0, 800, 600)


@pytest.mark.parametrize("size, enlarged", [
    ((1, 1), (336, 336)), ((112, 112), (336, 336)), ((20, 9), (340, 153)), ((336, 30), (336, 30)), ((5, 900), (5, 900)),
    ((3000, 2000), (3000, 2000))])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (998, 998, 999, 999), (0, 0, 999, 999), (990, 0, 999, 9)])
def test_any_picture_size_and_place(size, enlarged, box):
    changed, drawn = drawn_box(size, box, ["a label, Q"])
    assert drawn.size == enlarged
    assert changed is not None


@pytest.mark.parametrize("box, left, bottom", [
    ((250, 500, 500, 750), 200, 300), ((0, 0, 100, 100), 0, None), ((950, 500, 1000, 750), None, 300)])
def test_a_label_s_tag_is_exactly_as_large_as_its_letters_and_margins(box, left, bottom):
    """It stands on the box's upper left corner where it fits; else at the picture's upper or right edge (None)."""
    drawn, line = drawn_box((800, 600), box, ["Q and g"])[1], 3
    font = grounding.font_for("Q and g", 21)
    width, height = round(font.getlength("Q and g")) + 4 * line, sum(font.getmetrics()) + 2 * line
    left, top = 800 - width if left is None else left, 0 if bottom is None else bottom - height
    tag = np.asarray(drawn)[top:top + height, left:left + width].astype(int)
    colour = [int(grounding.COLOURS[0][i:i + 2], 16) for i in (1, 3, 5)]
    for edge in (tag[0], tag[:line, :], tag[:, 0], tag[:, :2 * line], tag[:, -line:]):
        assert (edge == colour).all()
    letters = np.argwhere((tag == 255).all(-1))
    assert letters[:, 1].min() <= 2 * line + 3 and letters[:, 1].max() >= width - 2 * line - 4
    around = np.asarray(drawn).copy()
    around[top:top + height, left:left + width] = 90
    x0, y0, x1, y1 = grounding.to_pixels(box, 800, 600)
    around[y0:y1, x0:x1] = 90
    assert (around == 90).all(), "something else was drawn"


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


def test_letters_outside_english_are_drawn_by_a_font_that_has_them():
    """Each is another picture: a font without them would draw the same cross for all."""
    def picture(label):
        return drawn_box((400, 300), (100, 200, 300, 400), [label])[1].tobytes()
    if grounding.font_for("\u00e9\u0436", 14) is None:
        pytest.skip("this machine has no font with Cyrillic letters")
    assert len({picture(label) for label in ("caf\u00e9", "caf\u00e8", "caf\u0436", "caf\u0444")}) == 4
    assert grounding.legend(["caf\u00e9", "\u0436"]) == {}


def test_labels_that_no_font_can_write_become_numbers(monkeypatch):
    monkeypatch.setattr(grounding, "_system_fonts", lambda *_: [])
    grounding.font_for.cache_clear()
    labels = ["\u732b", "a dog", "\u4e24\u53ea\u72d7", "caf\u00e9"]
    boxes = [(0, 100, 200, 200), (300, 100, 500, 200), (0, 600, 200, 700), (300, 600, 500, 700)]
    blank = Image.new("RGB", (400, 300))
    try:
        legend = grounding.legend(labels)
        assert {0: "\u732b", 2: "\u4e24\u53ea\u72d7"}.items() <= legend.items() and 1 not in legend
        numbered = [str(i + 1) if i in legend else label for i, label in enumerate(labels)]
        assert grounding.draw(blank, boxes, labels).tobytes() == grounding.draw(blank, boxes, numbered).tobytes()
    finally:
        grounding.font_for.cache_clear()


def test_without_fontconfig_the_known_fonts_are_tried(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError
    monkeypatch.setattr(grounding.subprocess, "run", missing)
    assert list(grounding._fontconfig({"\u0436"})) == []


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
