"""Questions about a scene: every answer is true, and nothing that is held out is asked by mistake."""
import re
from collections import Counter
from dataclasses import replace
from hashlib import sha256

import pytest
from scene_truth import at, check, kind_of, meant

from tinycogvlm.inputs.grounding import iou
from tinycogvlm.world import conversations, shapes, texts, truth, wordings
from tinycogvlm.world.grounds import GROUNDS
from tinycogvlm.world.scenes import NEVER_PAINTED, SPLITS, Dice, Scene, Thing, scene
from tinycogvlm.world.sketches import NAMES, STRANGE, UNKNOWN, sketch
from tinycogvlm.world.wordings import Wordings, plural, with_article
from tinycogvlm.world.writing import writing

NAME = "|".join(sorted(NAMES + shapes.NAMES, key=len, reverse=True))
MANY = "|".join(plural(name) for name in NAMES + shapes.NAMES if plural(name) != name)
SLOTS = {"name": f"(?:an? |the )?(?:{NAME})", "phrase": f"(?:an? |the )?(?:{NAME})", "names": f"(?:{MANY})"}
KINDS = {**conversations.KINDS_OF_QUESTION, **conversations.UNSEEN}
WORDINGS = {name: value for name, value in vars(wordings).items() if isinstance(value, Wordings)}
WORDINGS |= {f"{name} {key}": value for name in ("HALVES", "RELATIONS") for key, value in vars(wordings)[name].items()}
WORDINGS |= {answer: value for value, answer in wordings.CHAT}


def any_scene(number, most=5):
    """A plain scene of any split, a sketch by any hand or something written; one in four is larger"""
    side = 168 if number % 4 == 3 else 112
    if number % 3 == 0:
        return scene(SPLITS[number % 5], number, (1, most), side)
    return sketch(("train", "style")[number % 2], number, (1, most), side)


@pytest.fixture(scope="module")
def scenes():
    return [any_scene(number) for number in range(210)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_true(kind, scenes):
    """On 210 scenes of 1 to 5 things, plain ones and sketches, also of splits that training never sees"""
    asked, kind_asked = 0, kind.removesuffix(", unseen wording")
    written = kind_asked == "read"
    for number, s in enumerate([writing("train", number) for number in range(100)] if written else scenes):
        turns = KINDS[kind](s, Dice("words", number))
        asked += bool(turns)
        it = None
        for question, answer in turns or ():
            assert conversations.right(kind, answer, answer)
            if kind_asked != "pronoun":
                check(s, kind_asked, question, answer)
            elif kind_of(question) == "it":
                assert at(s, answer) == [it]
            else:
                it = check(s, kind_of(question), question, answer, it)
        assert not turns or len(turns) == 1 + (kind_asked == "pronoun")
    assert asked >= 50
    assert KINDS[kind](scenes[0], Dice("words", 0)) is None or not written


def test_what_has_no_name_is_said_so():
    """Alone it is not known; among others it is "something unknown", and no question is asked by its name."""
    s = next(s for s in (sketch("test", number, (1, 1), manner=STRANGE) for number in range(20))
             if s.things[0].name == UNKNOWN)
    for kind in ("caption", "at box"):
        assert KINDS[kind](s, Dice("words", 0))[0][1] == "I do not know that thing."
    named, other = sketch("train", 0, (1, 1)).things[0], s.things[0]
    both = replace(s, things=(named, replace(other, box=tuple(c + 1 for c in other.box))))
    assert KINDS["caption"](both, Dice("words", 0))[0][1].endswith(" and something unknown.")
    for number in range(200):
        said = conversations.conversation(both, Dice("words", number), 5)
        assert not any("unknown" in question for question, _ in said)


# Wordings

@pytest.mark.parametrize("name", WORDINGS)
def test_there_are_many_wordings_and_two_are_never_trained(name):
    trained, unseen = WORDINGS[name].trained, WORDINGS[name].unseen
    assert len(set(trained)) >= 6 and len(set(unseen)) == 2 and not set(trained) & set(unseen)
    slots = lambda text: sorted(re.findall(r"\{\w+\}", text))
    assert len({tuple(slots(text)) for text in trained + unseen}) == 1
    for text in unseen:                                     # nor does one come about by filling in another
        filled = re.sub(r"\{\w+\}", "dog", text)
        for other in trained:
            assert not re.fullmatch(re.sub(r"\\\{\w+\\\}", "(the )?dog", re.escape(other)), filled), (text, other)


def test_every_word_of_an_unseen_wording_is_trained():
    pieces = lambda texts: {piece for text in texts for piece in re.findall(r" ?\w+|[^\w\s]", re.sub(r"\{\w+\}", "", text))}
    trained = pieces(text for words in WORDINGS.values() for text in words.trained) | {" it", " a"}
    assert not pieces(text for words in WORDINGS.values() for text in words.unseen) - trained


def test_yes_and_no_are_as_many():
    for kind, yes in (("exists", "Yes"), ("relation", "yes.")):
        turns = [KINDS[kind](scene("train", number), Dice("words", number)) for number in range(900)]
        said = [yes in answer for (_, answer), in filter(None, turns)]
        assert abs(sum(said) - len(said) / 2) < 4 * (len(said) / 4) ** 0.5 and len(said) > 300


def test_what_is_absent_is_often_nearly_there():
    near = Counter()
    for number in range(600):
        s = scene("train", number, (4, 4))
        name = truth.absent(s, Dice("words", number))
        assert not meant(s, name)
        if any(" " in thing.name for thing in s.things) and " " in name:
            colours, shapes = zip(*(thing.name.split() for thing in s.things if " " in thing.name))
            near["colour"] += name.split()[0] in colours
            near["shape"] += name.split()[1] in shapes
        near["all"] += any(" " in thing.name for thing in s.things)
    assert near["colour"] > near["all"] / 4 and near["shape"] > near["all"] / 4


def placed(*boxes):
    """Dogs in a picture of 1000 pixels, so that pixels are thousandths; in the order given"""
    return Scene("test", 0, tuple(Thing("dog", box, (0, 0, 0)) for box in boxes), "sand", 1000)


@pytest.mark.parametrize("axis, side, other, close", [(0, "right", "left", 36), (1, "below", "above", 54)])
def test_what_is_too_close_has_no_order_to_the_thousandth(axis, side, other, close):
    """Centres exactly CLOSE apart are in order, centres half a thousandth closer are not; FAR and LARGER likewise."""
    def thing(centre):                                      # 20 long
        return (int(centre - 10), 0, int(centre + 10), 20) if axis == 0 else (0, int(centre - 10), 20, int(centre + 10))

    def nearer(box):                                        # by half a thousandth
        return tuple(c - (i == axis) for i, c in enumerate(box))
    s = placed(thing(100), thing(300), thing(300 + close))
    first, second, third = s.things
    assert truth.neighbours(s, first, side) == [second] and truth.neighbours(s, third, other) == [second]
    assert truth.extreme(s, s.things, side) == third and truth.extreme(s, s.things, other) == first
    s = placed(thing(100), thing(300), nearer(thing(300 + close)))
    first, second, third = s.things
    assert truth.neighbours(s, first, side) == [second, third]
    assert truth.extreme(s, s.things, side) is None and truth.extreme(s, s.things, other) == first
    assert len(truth.neighbours(s, third, other)) == 2      # the thing itself and the one that it is level with
    s = placed(thing(300), thing(300 + close))              # beside it: on this side, nothing on the other
    assert truth.neighbours(s, s.things[0], side) == [s.things[1]] and truth.neighbours(s, s.things[0], other) == []


def test_comparisons_start_at_far_and_larger():
    """Centres 90 thousandths apart, sides of 100 and 160; one less is not compared."""
    for distance, asked in ((truth.FAR, True), (truth.FAR - 1, False)):
        s = placed((100, 100, 200, 200), (100 + distance, 100 + distance, 200 + distance, 200 + distance))
        s = replace(s, things=(s.things[0], replace(s.things[1], name="cat")))
        found = [KINDS["relation"](s, Dice("words", number)) for number in range(40)]
        assert all(turns is not None for turns in found) if asked else found == [None] * 40
    for longer, asked in ((160, True), (140, False)):       # answers give multiples of 20
        s = placed((100, 100, 200, 200), (400, 400, 400 + longer, 500))
        s = replace(s, things=(s.things[0], replace(s.things[1], name="cat")))
        assert (KINDS["size"](s, Dice("words", 0)) is not None) is asked


def test_right_and_wrong():
    box, close, far = "[[100,100,300,300]]", "[[120,100,320,300]]", "[[240,100,440,300]]"
    yes, no = "The dog is at 340, the cat at 720, so left: yes.", "The dog is at 340, the cat at 720, so left: no."
    cat, dog = "The dog is 320, the cat 460: the cat.", "The dog is 320, the cat 460: the dog."
    for kind, true, given in (
            ("box", box, close), ("grounded", f"A dog {box} and a cat {far}.", f"A dog {close} and a cat {far}."),
            ("exists", f"Yes {box}.", "Yes."), ("exists", "No.", "No."), ("count", "3.", "3."),
            ("relation", yes, yes.replace("340", "300")), ("size", cat, cat.replace("320", "300"))):
        assert conversations.right(kind, true, given)
    for kind, true, given in (
            ("box", box, far), ("box", box, "There is no dog."), ("box", box, box[:-1]), ("box", box, ""),
            ("box", box, "[[300,100,100,300]]"), ("box", f"{box[:-2]};{far[2:]}", box),
            ("box", f"{box[:-2]};{far[2:]}", f"{far[:-2]};{box[2:]}"), ("absent", "There is no cat.", box),
            ("grounded", f"A dog {box}.", f"A cat {box}."), ("grounded", f"A dog {box}.", "A dog."),
            ("exists", f"Yes {box}.", "No."), ("exists", "No.", f"Yes {box}."), ("exists", "No.", ""),
            ("count", "3.", "4."), ("caption", "A dog and a cat.", "A cat and a dog."),
            ("relation", yes, no), ("relation, unseen wording", yes, no), ("size", cat, dog)):
        assert not conversations.right(kind, true, given)
    assert not conversations.right("box", box, close, 0.9)


def test_iou():
    assert iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1 and iou((0, 0, 2, 2), (2, 0, 4, 2)) == 0
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == iou((1, 1, 3, 3), (0, 0, 2, 2)) == 1 / 7


# Conversations


def test_kinds_come_as_often_as_their_weights(monkeypatch):
    monkeypatch.setattr(conversations, "KINDS_OF_QUESTION", {
        kind: lambda s, dice, kind=kind: [(f"{kind}?", kind)] for kind in conversations.WEIGHTS})
    s = scene("train", 0)
    drawn = Counter(conversations.conversation(s, Dice("words", number), 1)[0][1] for number in range(4000))
    for kind, weight in conversations.WEIGHTS.items():
        share = weight / sum(conversations.WEIGHTS.values())
        assert abs(drawn[kind] - 4000 * share) <= 4 * (4000 * share) ** 0.5
    drawn = Counter(conversations.conversation(s, Dice("words", number), 1, ("size", "box"))[0][1]
                    for number in range(900))
    assert set(drawn) == {"size", "box"} and abs(drawn["box"] - 600) < 60          # 16 to 8


def test_what_is_written_and_the_background_are_asked_once():
    for number in range(30):
        s = writing("train", number)
        said = conversations.conversation(s, Dice("words", number), 6)
        assert len(said) == 2 and len({answer for _, answer in said}) == 2
        assert {answer for _, answer in said} & {f"{s.background.capitalize()}."}
        assert len(conversations.conversation(s, Dice("words", number), 1)) == 1
    for number in range(60):
        said = [question for question, _ in conversations.conversation(any_scene(number), Dice("words", number), 8)]
        for once in (wordings.COUNT, wordings.BACKGROUND):
            assert len(set(said) & set(once.trained)) <= 1


def test_training_never_says_what_is_held_out():
    said = []
    for number in range(400):
        s = scene("train", number) if number % 3 == 0 else sketch("train", number)
        turns = conversations.conversation(s, Dice("words", number), 6)
        assert 1 <= len(turns) <= 6 and len(turns) == len({question for question, _ in turns})
        said += turns + texts.text_conversation(Dice("texts", number))
    questions = {question.rpartition("]]. ")[2] for question, _ in said}
    words = sorted({word for question in questions for word in re.findall(r"[\w ]+", question)})
    assert len(words) > 500
    for some in WORDINGS.values():
        for wording in some.unseen:
            pattern = re.compile(re.sub(r"\\\{(\w+)\\\}", lambda slot: SLOTS.get(slot[1], ".+"), re.escape(wording)))
            assert not [question for question in questions if pattern.fullmatch(question)]
    said = "\n".join(f"{question} {answer}" for question, answer in said)
    assert not any(wording in said for some in wordings.RELATIONS.values() for wording in some.unseen)
    assert not any(name in said for name in NEVER_PAINTED)
    assert sum(name in said for name in NAMES + GROUNDS) > 0.95 * len(NAMES + GROUNDS)


def test_a_scene_of_one_thing_has_enough_to_ask():
    for number in range(200):
        s = scene("train", number, (1, 1))
        assert len(conversations.conversation(s, Dice("words", number), 8)) == 8
        assert conversations.conversation(s, Dice("words", number), 4, ["relation"]) == []


def test_no_later_turn_can_be_copied_from_an_earlier_one():
    for number in range(300):
        s = scene("train", number, (1, 3))
        seen = set()
        for question, answer in conversations.conversation(s, Dice("words", number), 6):
            here = set(re.findall(r"\d{3},\d{3},\d{3},\d{3}", question + answer)) | {answer} - {answer.split()[0]}
            assert not here & seen or re.search(r"\bits?\b", question)         # only "Where is it?" asks again
            seen |= here


def test_plurals_and_articles():
    assert [*map(plural, ("dog", "fox", "bus", "butterfly", "monkey", "fish", "red star"))] == [
        "dogs", "foxes", "buses", "butterflies", "monkeys", "fish", "red stars"]
    assert [*map(with_article, ("owl", "red star", "orange circle"))] == ["an owl", "a red star", "an orange circle"]
    assert len(set(map(plural, NAMES))) == len(NAMES)


def test_a_seed_is_a_conversation():
    some = [*map(any_scene, range(60)), *(writing("train", number) for number in range(20))]
    said = [conversations.conversation(s, Dice("words", number), 6) for number, s in enumerate(some)]
    assert sha256(repr(said).encode()).hexdigest()[:16] == "7b991e1ec16360a8"
