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
from tinycogvlm.evaluate.accuracy import GATES, GROUPS, KINDS, Asked, flat, interval, measure, misses, questions, score
from tinycogvlm.inputs import grounding
from tinycogvlm.kernels.engine import Engine
from tinycogvlm.kernels.runner import build
from tinycogvlm.model import generate
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.world.scenes import Scene, Thing, scene
from tinycogvlm.world.wordings import RELATIONS


@pytest.fixture(scope="module")
def asked():
    return questions("test", 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(letter_model.write(tmp_path_factory.mktemp("letters")))


# Which questions are asked

def test_questions_are_the_same_every_time_and_of_every_kind(asked):
    assert asked == questions("test", 3)
    for group, (_, high) in GROUPS.items():
        kinds = {asked[i].kind for i in accuracy.of_group(group, asked)}
        assert kinds == set(accuracy.KINDS_OF_TEXT if high == 0 else accuracy.ABOUT_PICTURES) - (
            {"phrase", "relation", "relation, unseen wording", "size"} if high == 1 else set())
    for kind in KINDS:
        mine = [question for question in asked if question.kind == kind]
        numbers = [question.scene.number for question in mine if question.scene]
        assert len(numbers) == len(set(numbers))            # every question of a row about another scene
        assert len(mine) == (3 if not numbers else 12 if kind in ("phrase", "size") or "relation" in kind else 15)
        assert all(question.scene.split == "test" for question in mine if question.scene)
    assert not set(accuracy.ABOUT_PICTURES) & set(accuracy.KINDS_OF_TEXT)


def test_scenes_of_exactly_so_many_things(asked):
    counts = [question.things for question in asked if question.kind == "caption"]
    assert counts[:12] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 and set(counts[12:]) <= {5, 6}
    s = next(question.scene for question in asked if question.things == 3)
    assert scene("test", s.number, (3, 3)) == s             # `tinycogvlm scene` draws it again


def test_a_part_of_the_questions(asked):
    some = questions("check", 2, ("1-2 things",), ("caption", "count", "sum"))
    assert [(question.kind, question.things) for question in some] == [
        (kind, things) for things in (1, 2) for kind in ("caption", "count") for _ in range(2)]
    large = questions("sizes", 2)
    assert {question.things for question in large} == {1, 2}        # no more of that size, and no texts
    assert set(score(large, [question.truth for question in large])) == {"1 thing", "1-2 things", "1-4 things"}


# How answers are counted

def test_who_knows_the_truth_is_always_right(asked, monkeypatch):
    monkeypatch.setattr(accuracy, "ask", lambda model, asked, picture: [question.truth for question in asked])
    table = measure(None, scenes=3)
    assert list(table) == list(GROUPS) and misses(table) == []
    assert all({**cell, "n": 0} == {"share": 1, "low": 1, "high": 1, "n": 0}
               for rows in table.values() for cell in rows.values())
    assert set(flat(table).values()) == {1} and "1-4 things: box at 0.75" in flat(table)
    assert "box at 0.75, small" in table["1-4 things"] and "1-4 things: box, small" not in flat(table)
    for row in ("caption", "caption recall", "box", "box at 0.75", "exists", "background", "pronoun"):
        assert [table[group][row]["n"] for group in GROUPS if group != "text"] == [3, 6, 12, 3], row
    assert set(table["text"]) == set(accuracy.KINDS_OF_TEXT)
    assert json.loads(json.dumps(table)) == table


@pytest.mark.parametrize("answer", ["", "nothing of the kind", "[[000,000,001,001]]", "Some idea: none."])
def test_who_knows_nothing_is_never_right(asked, answer):
    table = score(asked, [answer] * len(asked))
    assert list(table) == list(GROUPS) and not any(cell["share"] for rows in table.values() for cell in rows.values())
    assert misses(table) == [(*place, 0, least) for place, least in GATES.items()]


def scene_of(*things):
    """A picture of 100 x 100 pixels"""
    return Scene("test", 0, tuple(Thing(name, box, (0, 0, 0)) for name, box in things), "sand", 100)


def test_counts_made_by_hand():
    s = scene_of(("dog", (0, 0, 20, 20)), ("red star", (30, 0, 80, 50)), ("dog", (60, 60, 95, 95)))
    caption = Asked("caption", (("Describe the image.", "A dog, a red star and a dog."),), s)
    star = Asked("box", (("Where is the star?", "[[300,000,800,500]]"),), s)
    dogs = Asked("box", (("Where are the dogs?", "[[000,000,200,200;600,600,940,940]]"),), s)
    yes, no = Asked("exists", (("Is there a dog?", "Yes [[000,000,200,200]]."),), s), Asked("exists", (("", "No."),), s)
    yes_it_is = "The dog is at 100, the red star at 540, so left: yes."
    left, right = (Asked("relation", ((f"Is the dog {side} of the red star?", yes_it_is),), s)
                   for side in ("left", "right"))
    asked = [(caption, "A dog, a red star and a dog."), (caption, "A dog, an owl, a fox and a cat."),
             (caption, "A dog."), (star, "[[300,000,800,400]]"), (star, "[[300,000,800,340]]"),
             (dogs, "[[000,000,200,200;600,600,940,900]]"), (dogs, "[[000,000,200,200]]"),
             (yes, "Yes."), (yes, "No."), (no, "No, there is none."), (right, yes_it_is),
             (left, "The dog is at 100, the red star at 540, so left: no."),
             (left, "The dog is at 040, the cat at 999, so left: yes.")]
    table = score(*zip(*asked))["1-4 things"]
    assert {row: (round(cell["share"], 4), cell["n"]) for row, cell in table.items()} == {
        "caption": (0.3333, 3), "caption recall": (round(5 / 9, 4), 3), "caption precision": (round(5 / 8, 4), 3),
        "box": (0.75, 4), "box, 3 things": (0.75, 4), "box, small": (0.5, 2), "box, large": (1, 2),
        "box at 0.75": (0.5, 4), "box at 0.75, 3 things": (0.5, 4),
        "box at 0.75, small": (0.5, 2), "box at 0.75, large": (0.5, 2),
        "exists": (0.6667, 3), "exists, yes": (0.5, 2), "exists, no": (1, 1),
        "relation": (0.6667, 3), "relation, left": (0.5, 2), "relation, right": (1, 1)}


def test_a_row_is_the_mean_of_its_parts(asked):
    said = [question.truth if i % 3 else "" for i, question in enumerate(asked)]
    rows = score(asked, said)["1-4 things"]
    for row, parts in (("box", [f"{n} thing{'s' * (n > 1)}" for n in range(1, 5)]), ("exists", ["yes", "no"]),
                       ("box at 0.75", ["small", "middle", "large"]), ("relation", [*RELATIONS])):
        cells = [rows[f"{row}, {part}"] for part in parts if f"{row}, {part}" in rows]
        assert len(cells) > 1 and sum(cell["n"] for cell in cells) == rows[row]["n"]
        right = sum(cell["n"] * cell["share"] for cell in cells)
        assert rows[row]["share"] == pytest.approx(right / rows[row]["n"]) and 0 < rows[row]["share"] < 1


def test_intervals_are_those_of_a_binomial():
    for n, share in ((100, 0.5), (400, 0.8), (900, 0.95)):
        right = np.arange(n) < n * share
        cell = interval(right.astype(float), np.ones(n))
        spread = 1.96 * (share * (1 - share) / n) ** 0.5
        assert (cell["share"], cell["n"]) == (share, n)
        assert abs(cell["low"] - share + spread) < 0.25 * spread and abs(cell["high"] - share - spread) < 0.25 * spread
    assert interval(np.zeros(5), np.ones(5)) == {"share": 0, "low": 0, "high": 0, "n": 5}
    weighted = interval(np.array([1.0, 0, 4]), np.array([1.0, 1, 4]))       # of six things in three captions
    assert weighted["share"] == 5 / 6 and weighted["low"] == 0 and weighted["high"] == 1


def test_gates():
    cell = {"share": 0.97, "low": 0, "high": 1, "n": 1}
    table = {group: {row: dict(cell) for place, row in GATES if place == group} for group, _ in GATES}
    assert misses(table) == [("1-4 things", "background", 0.97, 0.99)]
    del table["1 thing"]["box"]
    assert misses(table)[0] == ("1 thing", "box", None, 0.97)
    assert all(group in GROUPS and row in KINDS for group, row in GATES)


# How a model is asked

@pytest.mark.slow
def test_answers_are_the_same_as_one_by_one(model, asked, monkeypatch):
    monkeypatch.setattr(asking, "PICTURES", 4)
    monkeypatch.setattr(asking, "TOGETHER", 7)
    some = [question for question in asked if len(question.truth) < 40 and len(question.turns) == 1][::4]
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
    some = [question for question in asked if question.kind == "count"]
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
    learned = questions("train", 4, ("1-2 things",), ("caption", "at box", "background", "count", "box"))
    small = {question.scene: baselines.thumbnail(question.scene) for question in learned}
    constant = baselines.Majority(learned)
    said = baselines.nearest(learned, learned, constant, small)
    right = score(learned, said, ("1-2 things",))["1-2 things"]
    assert all(right[kind]["share"] == 1 for kind in ("caption", "at box", "background", "count")), right
    assert "drawn" not in vars(learned[0].scene)            # thousands of pictures are not kept
    other = questions("test", 4, ("1-2 things",), ("caption", "count"))
    small |= {question.scene: baselines.thumbnail(question.scene) for question in other}
    said = baselines.nearest(other, learned, constant, small)
    truths = {question.truth for question in learned}
    assert set(said) <= truths and len(set(said)) > 3


def test_baselines_are_no_constants():
    kinds = ("count", "exists", "background", "absent", "caption", "fact")
    asked = questions("test", 12, ("1 thing", "1-2 things"), kinds)
    table = baselines.measure(asked, ("1 thing", "1-2 things"), seen=20)
    share = {name: {row: round(s, 2) for row, s in flat(part).items()} for name, part in table.items()}
    for name in ("majority", "nearest"):
        assert share[name]["1 thing: count"] == 1 and share[name]["1 thing: absent"] == 1
        assert 0.25 <= share[name]["1-2 things: count"] <= 0.8 and 0.2 <= share[name]["1 thing: exists"] <= 0.8
    assert share["majority"]["1-2 things: background"] < 0.3 < 0.6 < share["nearest"]["1-2 things: background"]
    assert share["majority"] != {**share["majority"], **share["nearest"]}
    texts = questions("test", 5, ("text",), ("comparison",))
    table = baselines.measure(texts, seen=30)
    assert table["nearest"] == {} and set(table["majority"]) == {"text"}


# The gallery

def wrong_answers(asked):
    return [(question, "[[100,100,900,900]] " + "x" * 200 + " \u00e9") for question in asked]


def test_the_gallery_shows_true_and_given_boxes(asked):
    sheet = gallery.sheet_of(wrong_answers(asked), 10)
    again = gallery.sheet_of(wrong_answers(questions("test", 3)), 10)
    assert sheet.size[0] == 12 + 4 * 348 and sheet.size[1] > 3 * 400 and sheet.tobytes() == again.tobytes()
    kinds = [question.kind for question, _ in gallery.chosen(wrong_answers(asked), 10)]
    assert len(set(kinds)) == 10 and kinds == sorted(kinds, key=KINDS.index)
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
