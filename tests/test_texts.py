"""Conversations without a picture: every answer follows from what is said, or is a fact of our world."""
import re
from collections import Counter
from hashlib import sha256

import pytest
from scene_truth import NAME, at, lies, way

from tinycogvlm.inputs.grounding import BOXES
from tinycogvlm.world import texts, wordings
from tinycogvlm.world.scenes import NAMES, Dice, scene

@pytest.mark.parametrize("kind", texts.KINDS_OF_TEXT)
def test_every_answer_in_a_text_is_true(kind):
    for number in range(150):
        turns = texts.text_conversation(Dice("texts", number), 5, only=[kind])
        assert 2 <= len(turns) <= (10 if kind == "list" else 5)
        assert len({question for question, _ in turns}) == len(turns)
        told, _, first = turns[0][0].rpartition(". ") if kind in ("scene", "list", "told comparison") else ("", "", "")
        if told:
            turns[0] = first, turns[0][1]
        sort, *things = re.split(": |; ", told)
        pairs = dict(pair.rsplit(" ", 1) for pair in things if " " in pair)
        for question, answer in turns:
            numbers = [int(n) for n in re.findall(r"\d+", question)]
            if kind == "list":
                key, said = question[:-1], answer[:-1]
                if ", " in key:                             # all at once, in the order of the question
                    both = pairs | {number: name for name, number in pairs.items()}
                    assert said == ", ".join(f"{one} {both[one]}" for one in key.split(", "))
                    assert len(key.split(", ")) == len(pairs)
                    continue
                assert sort == "List" and pairs.get(key, said) == said
                assert key in pairs or (said[0] == "A" and pairs[said.split(" ", 1)[1]] == key)
            elif kind == "told comparison":
                one, other = NAME.findall(question)
                x, y = pairs[one], pairs[other]
                if sort == "Long":
                    assert answer == f"The {one} is {x}, the {other} {y}: the {one if x > y else other}."
                else:
                    axis, end = way(question)
                    assert (sort == "Down") == axis
                    (one, x), (other, y) = ((one, x), (other, y)) if end is min else ((other, y), (one, x))
                    assert answer == f"The {one} is at {x}, the {other} at {y}, {lies(axis, x, y)}."
            elif kind == "comparison":
                x, y = numbers
                assert answer == {"less": "Yes." if x < y else "No.", "more": "Yes." if x > y else "No.",
                                  "bigger": f"{max(x, y):03d}.", "smaller": f"{min(x, y):03d}."}[
                                      re.search("less|more|bigger|smaller", question)[0]]
            elif kind == "sum":
                assert answer == f"{numbers[0] + numbers[1] * (1 if '+' in question else -1)}."
            elif kind == "chat":
                assert answer == wordings.NO_PICTURE or any(
                    question in some.trained and answer == said for some, said in wordings.CHAT)
                assert answer != wordings.NO_PICTURE or not any(question in some.trained for some, _ in wordings.CHAT)
            elif kind == "copy":
                assert question == f"Say: {answer}"
            elif kind == "fact":
                said = re.fullmatch(r"Is (?:an? )?(.+?) (an animal|food|a plant|a vehicle)\?", question)
                assert not said or answer == ("Yes." if said[1] in texts.CATEGORIES[said[2]] else "No.")
                assert re.fullmatch(r"[A-Z][a-z ]+\.", answer)
            elif NAME.findall(BOXES.sub("", question)) and answer.startswith("[["):
                assert answer[2:-2].split(";")[0] in told       # a scene's boxes are told


def test_a_scene_in_words_is_told_truly():
    order = Counter()
    for number in range(200):
        s = scene("train", number, (3, 5))
        told = texts.told_scene(s, Dice("texts", number))
        assert told.startswith(f"Scene: {s.background}; ")
        things = re.findall(r"([a-z ]+?) (\[\[.*?\]\])", told)
        assert sorted(name.strip() for name, _ in things) == sorted(thing.name for thing in s.things)
        assert all(at(s, box)[0].name == name.strip() for name, box in things)
        order[at(s, told) == list(s.things)] += 1
    assert 120 < order[True] < 180


def test_a_seed_is_a_text():
    said = [texts.text_conversation(Dice("texts", number)) for number in range(200)]
    assert sha256(repr(said).encode()).hexdigest()[:16] == "275198e99d910c15"


def test_small_talk_in_words_never_trained():
    said = [texts.UNSEEN["chat, unseen wording"](Dice("texts", number), 1, 6)[0] for number in range(300)]
    talk = {question: answer for question, answer in said if answer != wordings.NO_PICTURE}
    assert talk == {question: answer for some, answer in wordings.CHAT for question in some.unseen}
    assert 60 < sum(answer == wordings.NO_PICTURE for _, answer in said) < 140


def test_facts_are_about_our_world():
    kinds = [kind for category in texts.CATEGORIES.values() for kind in category]
    assert len(kinds) == len(set(kinds)) and set(kinds) | set(texts.SOUNDS) <= set(NAMES)
