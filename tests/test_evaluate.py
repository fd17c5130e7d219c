"""How answers are counted: against answers made by hand, known shares, and the model's ordinary way of answering."""
import json
from contextlib import nullcontext

import fake_cupy
import letter_model
import numpy as np
import pytest
from PIL import Image

from tinycogvlm import UserError, load
from tinycogvlm.evaluate import accuracy, asking, baselines, gallery
from tinycogvlm.evaluate.accuracy import (ABOUT_PICTURES, GATES, GROUPS, Asked, flat, interval, measure, misses,
                                          questions, score, wilson)
from tinycogvlm.inputs import grounding
from tinycogvlm.kernels.engine import Engine
from tinycogvlm.kernels.runner import build
from tinycogvlm.model import generate
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.world import conversations, pictograms
from tinycogvlm.world.scenes import Scene, Thing, scene
from tinycogvlm.world.sketches import UNKNOWN

NAMES = list(dict.fromkeys(group.name for group in GROUPS))
PLAIN = [group for group in GROUPS if group.plain]
FEW_THINGS, CROWD = PLAIN
[TEXT] = [group for group in GROUPS if group.name == "text"]


@pytest.fixture(scope="module")
def asked():
    return questions("test", 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(letter_model.write(tmp_path_factory.mktemp("letters")))


# Which questions are asked

def test_questions_are_the_same_every_time_and_of_every_kind(asked):
    some = [group for group in GROUPS if group.name in ("sketches, 1-4 things", "style, two things", "text")]
    assert questions("test", 4, some) == [question for question in asked if question.group in {g.name for g in some}]
    assert list(dict.fromkeys(question.group for question in asked)) == NAMES
    for group in GROUPS:
        if not isinstance(group, accuracy.Recorded):
            mine = [question for question in asked if question.group == group.name and question.kind in group.kinds]
            assert [question.kind for question in mine] == [kind for kind in group.kinds for _ in range(4)]
    for kind in ABOUT_PICTURES:                             # every question of a row about another picture
        for group in NAMES:
            row = [question.scene for question in asked if question.kind == kind and question.group == group]
            assert len({(s.split, s.number, s.things) for s in row}) == len(row)
    unseen = {question.kind for question in asked if question.group == "unseen wording"}
    assert unseen == {*conversations.UNSEEN, "chat, unseen wording"}


def test_scenes_of_exactly_so_many_things(asked):
    counts = {group: [question.things for question in asked if question.group == group and question.kind == "count"]
              for group in NAMES}
    assert counts["plain, 1-4 things"][:3] == counts["sketches, 1-4 things"][:3] == [1, 2, 3]
    counted = [question.things for question in questions("test", 40, [FEW_THINGS], ("count",))]
    assert all(8 <= counted.count(n) <= 12 for n in range(1, 5))
    assert set(counts["plain, 5-6 things"]) <= {5, 6} and set(counts["crowd, 7-8 things"]) <= {7, 8}
    s = next(question.scene for question in asked if question.things == 3)
    assert scene("test", s.number, (3, 3)) == s             # `tinycogvlm scene` draws it again


def test_other_styles_are_by_hands_that_training_never_uses(asked):
    """And what has no name is something that training never shows."""
    used = {name: hand["use"] for name, hand in pictograms.catalogue()["hands"].items()}
    drawn = [(question.group, thing) for question in asked if question.group.startswith(("style", "outside"))
             for thing in question.scene.things]
    assert all(used[thing.look.hand] == ("train" if "trained hands" in group else "test") for group, thing in drawn)
    unknown = [thing for group, thing in drawn if group.startswith("outside")]
    assert all(thing.name == UNKNOWN and thing.look.what in pictograms.unknown("test") for thing in unknown)
    found = questions("check", 2, [group for group in GROUPS if group.name == "style, one thing in colour"])
    assert {used[question.scene.things[0].look.hand] for question in found} == {"check"}


def test_a_part_of_the_questions():
    some = questions("check", 3, [CROWD, TEXT], ("box", "sum"))
    assert [question.kind for question in some] == ["box"] * 3 + ["sum"] * 3
    large = questions("sizes", 8)
    assert {question.things for question in large} == {1, 2}        # no more of that size, no sketches and no texts
    assert {question.group for question in large} == {"plain, 1-4 things"}


def test_the_first_edition_s_questions_are_still_true(asked):
    """They were recorded with its own code: the same scenes, and words that are still judged as they were."""
    old = accuracy.recorded()
    assert len(old) == 2505 and {kind for kind, _, _ in old} <= {*ABOUT_PICTURES, *accuracy.texts.KINDS_OF_TEXT}
    mine = [question for question in asked if question.group.startswith("first edition")]
    assert all(question.right(question.truth) for question in mine)
    for question in mine:
        names = {thing.name for thing in question.scene.things} if question.scene else set()
        if question.kind == "caption":
            assert set(accuracy.named(question.truth)) == names
        if question.kind == "count":
            assert question.truth == f"{question.things}."
        if question.kind == "background":
            assert question.truth == f"{question.scene.background.capitalize()}."


# How answers are counted

def test_who_knows_the_truth_is_always_right(asked, monkeypatch):
    monkeypatch.setattr(accuracy, "questions", lambda *_: asked)
    monkeypatch.setattr(accuracy, "ask", lambda model, asked, picture: [question.truth for question in asked])
    table = measure(None)
    assert list(table) == NAMES and misses(table) == []
    assert all((cell["share"], cell["high"]) == (1, 1) for rows in table.values() for row, cell in rows.items())
    assert set(flat(table).values()) == {1} and flat(table)["plain, 1-4 things: box at 0.75"] == 1
    assert table["unseen wording"]["all kinds"]["n"] == 4 * (len(conversations.UNSEEN) + 1)
    assert list(table["style, one thing in lines"]) == ["name", "name not refused", "box", "box at 0.75"]
    assert json.loads(json.dumps(table)) == table


@pytest.mark.parametrize("answer", ["", "nothing of the kind", "[[000,000,001,001]]", "Some idea: none."])
def test_who_knows_nothing_is_never_right(asked, answer):
    table = score(asked, [answer] * len(asked))
    assert list(table) == NAMES
    assert not any(cell["share"] for rows in table.values() for row, cell in rows.items() if row != "name not refused")
    assert misses(table) == [(*place, 0, least) for place, (least, _) in GATES.items() if "refused" not in place[1]]


def scene_of(*things):
    """A picture of 100 x 100 pixels"""
    return Scene("test", 0, tuple(Thing(name, box, (0, 0, 0)) for name, box in things), "sand", 100)


def test_counts_made_by_hand():
    s = scene_of(("dog", (0, 0, 20, 20)), ("red star", (30, 0, 80, 50)), ("dog", (60, 60, 95, 95)))
    caption = Asked("caption", (("Describe the image.", "A dog, a red star and a dog."),), s)
    star = Asked("box", (("Where is the star?", "[[300,000,800,500]]"),), s)
    dogs = Asked("box", (("Where are the dogs?", "[[000,000,200,200;600,600,940,940]]"),), s)
    yes, no = Asked("exists", (("Is there a dog?", "Yes [[000,000,200,200]]."),), s), Asked("exists", (("", "No."),), s)
    dog = Asked("name", (("What is this?", "A dog."),), s)
    asked = [(caption, "A dog, a red star and a dog."), (caption, "A dog, an owl, a fox and a cat."),
             (caption, "A dog, a dog and a red star."), (caption, "A dog."),
             (star, "[[300,000,800,400]]"), (star, "[[300,000,800,340]]"),
             (dogs, "[[000,000,200,200;600,600,940,900]]"), (dogs, "[[000,000,200,200]]"),
             (yes, "Yes."), (yes, "No."), (no, "No, there is none."),
             (dog, "A dog."), (dog, "A cat."), (dog, "I do not know that thing.")]
    table = score(*zip(*asked))[""]
    assert {row: (round(cell["share"], 4), cell["n"]) for row, cell in table.items()} == {
        "caption": (0.25, 4), "caption names": (0.5, 4), "caption recall": (round(8 / 12, 4), 4),
        "caption precision": (round(8 / 11, 4), 4), "box": (0.75, 4), "box at 0.75": (0.5, 4),
        "exists": (0.6667, 3), "name": (0.3333, 3), "name not refused": (0.6667, 3)}
    unseen = [(Asked(f"{kind}, unseen wording", (("?", "3."),), s, "unseen wording"), answer)
              for kind, answer in (("count", "3."), ("count", "4."), ("count kind", "3."))]
    table = score(*zip(*unseen))["unseen wording"]
    assert {row: (round(cell["share"], 4), cell["n"]) for row, cell in table.items()} == {
        "all kinds": (0.6667, 3), "count": (0.5, 2), "count kind": (1, 1)}


@pytest.mark.parametrize("right, n", [(0, 10), (3, 10), (50, 100), (97, 100), (200, 200), (1, 1)])
def test_intervals_are_wilson_s(right, n):
    """Each end is a probability from which the share lies 1.96 standard deviations away."""
    cell = interval(np.arange(n) < right, np.ones(n))
    assert (cell["share"], cell["n"]) == (right / n, n) and 0 <= cell["low"] <= right / n <= cell["high"] <= 1
    for p in (cell["low"], cell["high"]):
        assert (right / n - p) ** 2 == pytest.approx(1.959964 ** 2 * p * (1 - p) / n, abs=1e-12)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)      # Agresti & Coull 1998 have such tables


def test_the_interval_of_a_ratio_of_sums():
    weighted = interval(np.array([1.0, 0, 4]), np.array([1.0, 1, 4]))       # of six things in three captions
    assert weighted["share"] == 5 / 6 and weighted["low"] == 0 and weighted["high"] == 1
    right, of = np.arange(400) % 4 < 3, np.full(400, 2.0)   # the bootstrap's is about as wide as a binomial's
    cell = interval(2.0 * right, of)
    assert abs(cell["low"] - 0.75 + 0.0424) < 0.01 and abs(cell["high"] - 0.75 - 0.0424) < 0.01


def test_worse_is_where_intervals_part():
    for right, n in ((260, 300), (120, 120), (61, 75)):
        least = round(accuracy.not_worse(right, n) * n)
        assert wilson(least, n)[1] >= wilson(right, n)[0] and least < right
        assert wilson(least - 1, n)[1] < wilson(right, n)[0]


def test_gates(asked):
    table = {}
    for group, row in GATES:
        table.setdefault(group, {})[row] = {"share": 0.97}
    found = misses(table)
    assert ("text", "sum", 0.97, 0.98) in found and all(least > 0.97 for _, _, _, least in found)
    del table["text"]["list"]
    assert ("text", "list", None, 0.6) in misses(table)
    rows = score(asked, [question.truth for question in asked])
    assert all(row in rows[group] and least <= aim for (group, row), (least, aim) in GATES.items())


# How a model is asked

@pytest.mark.slow
def test_answers_are_the_same_as_one_by_one(model, asked, monkeypatch):
    monkeypatch.setattr(asking, "PICTURES", 4)
    monkeypatch.setattr(asking, "TOGETHER", 7)
    some = [question for question in asked if len(question.truth) < 40 and len(question.turns) == 1][::40]
    assert {question.things for question in some} >= {0, 1, 4}
    for picture in (True, False):
        said = asking.ask(model, some, picture)
        for question, answer in zip(some, said):
            shown = question.scene.picture if picture and question.scene else None
            row = model.inputs(question.question, shown, template="chat")
            [found] = generate.answers(model, [row], 40 + asking.SPARE)
            answer = answer.rstrip("\ufffd")                # half a character, where it was cut
            assert found.text.startswith(answer) and (len(answer) > 3 or found.text == answer), question
        assert len(set(said)) > len(some) / 3
    some = [question for question in asked if question.kind == "count"][:12]
    assert asking.ask(model, some) != asking.ask(model, some, False)


@pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))
@pytest.mark.parametrize("place", ["the CPU", "a GPU"])
def test_questions_by_kernels(model, place):
    """A picture's cache is read again and again; that of an answer is taken up by the next of as many rows."""
    with fake_cupy.installed() if place == "a GPU" else nullcontext() as cupy:
        leaves = {name: cupy.asarray(leaf) if cupy else leaf for name, leaf in dict(model.leaves).items()}
        engine, pictures = Engine(model.config, leaves, model.tokenizer), [Image.new("RGB", (28, 28), "red"), None]
        for picture in pictures:
            ours, theirs = (asking.Read(each, [picture, picture]) for each in (engine, model))
            for texts in ["ab", "c"], ["d", "efg"], ["hi"]:
                places = list(range(len(texts)))[::-1]
                assert ours.answers(places, texts, 4) == theirs.answers(places, texts, 4)


def test_a_pronoun_refers_to_the_models_own_answer(model, monkeypatch):
    heard = []

    def answers(read, places, texts, limit):
        heard.extend(texts)
        return ["A cat."] * len(places)
    monkeypatch.setattr(asking.Read, "answers", answers)
    question = Asked("pronoun", (("What is at [[1,2,3,4]]?", "A dog."), ("Where is it?", "[[100,100,300,300]]")),
                     scene("test", 0))
    assert asking.ask(model, [question]) == ["A cat."]
    first = "Question: What is at [[1,2,3,4]]? Answer:"
    assert heard == [first, f"{first} A cat.\nQuestion: Where is it? Answer:"]


def test_without_a_tokenizer(model, asked):
    with pytest.raises(UserError, match="no tokenizer"):
        asking.ask(CogVLM(model.config, model.leaves), asked[:1])


# Baselines

def test_the_majority(monkeypatch):
    monkeypatch.setattr(baselines, "MANY", 1)
    s = scene_of(("dog", (0, 0, 20, 20)))
    seen = [("count", "How many?", "2."), ("count", "How many?", "1."), ("count", "How many?", "1."),
            ("box", "Where is the dog?", "[[000,000,100,100]]"), ("box", "Where is the fox?", "[[200,000,500,300]]"),
            ("box", "Where is the owl?", "[[100,000,900,200]]"), ("box", "Where are the owls?", "[[0,0,1,1;2,2,3,3]]"),
            ("exists", "Is there a dog?", "Yes [[0,0,1,1]]."), ("exists", "Is there a cat?", "Yes [[0,0,2,2]]."),
            ("exists", "Is there a fox?", "No."), ("absent", "Where is the cat?", "There is no cat."),
            ("relation", "Is the dog left of the cat?", "The dog is at 100, the cat at 200, so left: no."),
            ("size", "Which is bigger, the dog or the red star?", "The dog is 100, the red star 200: the red star.")]
    constant = baselines.Majority([Asked(kind, ((asked, truth),), s) for kind, asked, truth in seen])
    for kind, asked, answer in (
            ("count", "How many?", "1."), ("box", "Where is the green star?", "[[100,000,500,200]]"),
            ("box", "Where are the cats?", "[[000,000,001,001;002,002,003,003]]"),
            ("exists", "Is there a bee?", "Yes."), ("absent", "Where is the pear?", "There is no pear."),
            ("relation", "Is the cat left of the owl?", "no."),
            ("size", "Which is bigger, the owl or the cat?", "the cat."), ("box", "Never seen?", "[[100,000,500,200]]"),
            ("colour", "What colour is it?", "")):
        assert constant.answer(Asked(kind, ((asked, "?"),), s)) == answer, (kind, asked)
    monkeypatch.setattr(baselines, "MANY", 2)               # of a rare wording not even the median is known
    assert constant.answer(Asked("box", (("Where are the cats?", "?"),), s)) == "[[100,000,500,200]]"


def test_the_nearest_knows_what_it_has_seen_and_nothing_else():
    one_or_two = accuracy.Pictures("few", ("caption", "at box", "background", "count", "box"), things=((1, 1), (2, 2)))
    learned = questions("train", 8, [one_or_two])
    small = {question.scene: baselines.thumbnail(question.scene) for question in learned}
    constant = baselines.Majority(learned)
    said = baselines.nearest(learned, learned, constant, small)
    right = score(learned, said)["few"]
    assert all(right[kind]["share"] == 1 for kind in ("caption", "at box", "background", "count")), right
    assert "drawn" not in vars(learned[0].scene)            # thousands of pictures are not kept
    other = questions("test", 8, [one_or_two], ("caption", "count"))
    small |= {question.scene: baselines.thumbnail(question.scene) for question in other}
    said = baselines.nearest(other, learned, constant, small)
    truths = {question.truth for question in learned}
    assert set(said) <= truths and len(set(said)) > 3


def test_baselines_are_no_constants():
    kinds = ("count", "exists", "background", "absent", "caption")
    groups = [accuracy.Pictures("one", kinds), accuracy.Pictures("two", kinds, things=((1, 1), (2, 2)))]
    table = baselines.measure(questions("test", 24, groups), groups, seen=40)
    share = {name: {row: round(s, 2) for row, s in flat(part).items()} for name, part in table.items()}
    for name in ("majority", "nearest"):
        assert share[name]["one: count"] == 1 and share[name]["one: absent"] == 1
        assert 0.25 <= share[name]["two: count"] <= 0.8 and 0.2 <= share[name]["one: exists"] <= 0.8
    assert share["majority"]["two: background"] < 0.3 < 0.6 < share["nearest"]["two: background"]
    assert share["majority"] != {**share["majority"], **share["nearest"]}


# The gallery

def wrong_answers(asked):
    return [(question, "[[100,100,900,900]] " + "x" * 200 + " \u00e9") for question in asked]


def test_the_gallery_shows_true_and_given_boxes(asked):
    sheet = gallery.sheet_of(wrong_answers(asked), 10)
    assert sheet.size[0] == 12 + 4 * 348 and sheet.size[1] > 3 * 400
    assert gallery.chosen(wrong_answers(asked), 10) == gallery.chosen(wrong_answers(asked), 10)
    rows = [(question.group, question.kind) for question, _ in gallery.chosen(wrong_answers(asked), 10)]
    order = list(dict.fromkeys((question.group, question.kind) for question in asked))
    assert len(set(rows)) == 10 and rows == sorted(rows, key=order.index)
    assert len(gallery.chosen(wrong_answers(asked), 10 ** 6)) == sum(question.things > 0 for question in asked)
    box = next(question for question in asked if question.kind == "box")
    cell = gallery.cell(box, "[[100,100,900,900]]")
    (x0, y0, x1, y1), *_ = grounding.parse(box.truth)[0]
    place = lambda x, y: tuple(round(c * 336 / 1000) for c in (x, y))
    assert cell.getpixel(place((x0 + x1) / 2, y0)) == (0x12, 0x8a, 0x2e)
    assert cell.getpixel(place(100, 500)) == (0xd8, 0x1b, 0x3c)
    picture = Image.fromarray(box.scene.picture).resize((336, 336), Image.Resampling.BICUBIC)
    assert cell.getpixel((2, 2)) == picture.getpixel((2, 2))


def test_text_is_broken_into_lines_that_fit():
    from PIL import ImageFont
    font = ImageFont.load_default(size=gallery.LETTERS)
    lines = gallery.wrapped("one two " * 30 + "w" * 100 + " \u00e9\n\tend", font)
    assert all(font.getlength(line) <= gallery.CELL for line in lines) and len(lines) > 5
    assert "".join(lines).replace(" ", "") == "onetwo" * 30 + "w" * 100 + "?end" and lines[0].startswith("one two one")
    assert gallery.wrapped("", font) == []
