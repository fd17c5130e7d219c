"""What is asked about a scene: every answer is true, no question is held out by mistake, and rows teach the answers."""
import os
import re
import subprocess
import sys
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest

from tinycogvlm.inputs import prompt
from tinycogvlm.model.config import Config, VisionConfig
from tinycogvlm.errors import UserError
from tinycogvlm.inputs.grounding import BOXES, iou, parse
from tinycogvlm.inputs.tokenizer import Tokenizer
from tinycogvlm.inputs import examples
from tinycogvlm.train.recipe import learn_tokenizer
from tinycogvlm.world import texts, truth, conversations
from tinycogvlm.world.scenes import BACKGROUNDS, NAMES, NEVER_PAINTED, SHAPES, SPLITS, Dice, scene

# Of 200 conversations about pictures and as many without
SAID = "4dd98b28ec8df4b0", "f776a09a005d1c07"
CONFIG = Config(vocab_size=learn_tokenizer.VOCABULARY, hidden_size=24, intermediate_size=32, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=2,
                vision=VisionConfig(hidden_size=16, num_hidden_layers=1, num_heads=2, intermediate_size=16,
                                    patch_size=14, image_size=112))
SINGULAR = {conversations.plural(name): name for name in NAMES + SHAPES} | {name: name for name in NAMES + SHAPES}
NAME = re.compile(rf"\b({'|'.join(sorted(SINGULAR, key=len, reverse=True))})\b")
KINDS = {**conversations.KINDS_OF_QUESTION, **conversations.UNSEEN}
WAYS = {"left": (0, min), "right": (0, max), "above": (1, min), "over": (1, min), "higher": (1, min), "up": (1, min),
        "below": (1, max), "under": (1, max), "lower": (1, max), "down": (1, max), "leftmost": (0, min),
        "rightmost": (0, max), "topmost": (1, min), "highest": (1, min), "lowest": (1, max)}


@pytest.fixture(scope="module")
def ours(spelling):
    return Tokenizer.load(spelling, CONFIG)


# The truth once more, from the words of the question and the boxes alone

def centre(thing):
    x0, y0, x1, y1 = thing.box
    return (x0 + x1) / 2, (y0 + y1) / 2


def side(thing):
    x0, y0, x1, y1 = thing.box
    return max(x1 - x0, y1 - y0)


def way(question):
    return next(WAYS[word] for word in re.findall(r"\w+", question) if word in WAYS)


def lies(axis, x, y):
    """so left: yes      where x lies; yes where the numbers rise"""
    return f"so {(('left', 'right'), ('above', 'below'))[axis][x > y]}: {'yes' if x < y else 'no'}"


def at(s, text):
    """The things that the boxes in a text are meant for."""
    found, malformed = parse(text)
    assert not malformed and all(c % 20 == 0 for box in found for c in box)
    best = [max(s.things, key=lambda thing: iou(box, s.thousandths(thing))) for box in found]
    assert all(iou(box, s.thousandths(thing)) > 0.7 for box, thing in zip(found, best))
    return best


def meant(s, name):
    name = SINGULAR[name]
    return [thing for thing in s.things if name in (thing.name, thing.name.split()[-1])]


def next_to(s, thing, axis, end):
    """The thing next to this one on an axis, or None; the order must be clear."""
    others = sorted((abs(centre(other)[axis] - centre(thing)[axis]), i) for i, other in enumerate(s.things)
                    if other is not thing)
    assert not others or others[0][0] >= (4, 6)[axis]
    ahead = [(distance, i) for distance, i in others
             if end(centre(s.things[i])[axis], centre(thing)[axis]) != centre(thing)[axis]]
    assert len(ahead) < 2 or ahead[1][0] - ahead[0][0] >= (4, 6)[axis]
    return s.things[ahead[0][1]] if ahead else None


def last(things, axis, end):
    best = end(things, key=lambda thing: centre(thing)[axis])
    assert all(abs(centre(best)[axis] - centre(other)[axis]) >= (4, 6)[axis] for other in things if other is not best)
    return best


def a_(thing):
    return f"{'An' if thing.name[0] in 'aeiou' else 'A'} {thing.name}." if thing else "Nothing."


def check(s, kind, question, answer, it=None):
    """Asserts that the answer is true -> the thing it is about; `it`: the one that the turn before was about"""
    named = NAME.findall(BOXES.sub("", question))
    things = [thing for name in named for thing in meant(s, name)]
    if kind in ("caption", "grounded"):
        told = re.findall(r"\ban? ([a-z ]+?)(?= \[\[|,| and |\.)", answer.lower())
        assert told == [thing.name for thing in sorted(s.things, key=centre)]
        assert at(s, answer) == (list(s.things) if kind == "grounded" else [])
        assert answer.count(", ") == max(0, len(told) - 2) and answer.count(" and ") == (len(told) > 1)
    elif kind == "box":
        assert at(s, answer) == things and (len(things) == 1 or named[0] in map(conversations.plural, SINGULAR))
    elif kind == "phrase":
        if "the thing " in question:
            expected, = things
            expected = next_to(s, expected, *way(question))
        elif "gest thing" in question or "smallest thing" in question:
            expected = (max if "biggest" in question else min)(s.things, key=side)
            assert all(abs(side(expected) - side(other)) > 2 for other in s.things if other is not expected)
        else:
            assert len(things) != 1
            expected = last(things or s.things, *way(question))
        assert at(s, answer) == [expected]
    elif kind == "absent":
        assert not things and answer == f"There is no {named[0]}."
    elif kind == "at box":
        it, = at(s, question)
        assert answer == a_(it)
    elif kind == "count":
        assert answer == f"{len(s.things)}." and not named
    elif kind == "count kind":
        assert answer == f"{len(things)}."
    elif kind == "exists":
        assert at(s, answer) == things and answer.startswith("Yes [[" if things else "No.")
    elif kind == "each":
        asked = question.rpartition(": ")[2].rstrip("?").split(", ")
        assert len(set(asked)) == 6 and answer == ", ".join(f"{n} {'yes' if meant(s, n) else 'no'}" for n in asked) + "."
        assert 0 < answer.count(" yes") < 4
    elif kind == "halves":
        asked, axis = question.rpartition(": ")[2].rstrip("?").split(", "), "left" not in question.lower()
        halves = (("left", "right"), ("top", "bottom"))[axis]
        assert len(asked) == len(set(asked)) and [thing.name for thing in things] == asked
        assert all(abs(centre(thing)[axis] - s.side / 2) >= 0.045 * s.side for thing in things)
        assert answer == ", ".join(f"{t.name} {halves[centre(t)[axis] > s.side / 2]}" for t in things) + "."
    elif kind == "colour":
        it, = things or at(s, question) or [it]
        assert answer == it.name.split()[0].capitalize() + "."
    elif kind in ("leftmost", "topmost"):
        it = last(s.things, *way(question))
        assert answer == a_(it) and way(question)[0] == (kind == "topmost")
    elif kind.startswith("relation"):
        axis, end = way(question)
        first, second = things if end is min else things[::-1]      # what should be the smaller one is said first
        x, y = centre(first)[axis], centre(second)[axis]
        so = lies(axis, x, y)
        numbers = re.fullmatch(rf"The {first.name} is at (\d\d\d), the {second.name} at (\d\d\d), {so}\.", answer)
        assert abs(x - y) >= 10 and numbers[1] != numbers[2]
        assert all(abs(int(n) - c / s.side * 1000) <= 25 and int(n) % 20 == 0 for n, c in zip(numbers.groups(), (x, y)))
    elif kind == "size":
        first, second = things
        larger = max(things, key=side).name
        numbers = re.fullmatch(rf"The {first.name} is (\d\d\d), the {second.name} (\d\d\d): the {larger}\.", answer)
        assert all(abs(int(n) - side(thing) / s.side * 1000) <= 20 for n, thing in zip(numbers.groups(), things))
        assert abs(int(numbers[1]) - int(numbers[2])) >= 60
    elif kind == "beside":
        it, = things or [it]
        assert answer == a_(next_to(s, it, *way(question)))
    elif kind == "background":
        assert answer == f"{s.background.capitalize()}."
    else:
        raise AssertionError(kind)
    return it or (things or at(s, answer) or [None])[0]


def kind_of(question):
    """Of a question with a pronoun, or of the one before it."""
    starts = {"Where is it": "it", "What colour is it": "colour", "Is there": "exists", "Do you see": "exists",
              "Can you see": "exists", "What is the ": "leftmost", "Where": "box", "Find": "box", "Point": "box",
              "Can you point": "box"}
    if "[[" in question:
        return "at box"
    return next((kind for start, kind in starts.items() if question.startswith(start)), "beside")


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_true(kind):
    """On 300 scenes of 1 to 5 things, also of splits that training never sees and at another size."""
    asked = 0
    for number in range(300):
        s = scene(SPLITS[number % 5], number, (1, 5), side=112 if number % 3 else 168)
        turns = KINDS[kind](s, Dice("words", number))
        asked += bool(turns)
        it = None
        for question, answer in turns or ():
            assert conversations.right(kind, answer, answer)
            if kind != "pronoun":
                check(s, kind, question, answer)
            elif kind_of(question) == "it":
                assert at(s, answer) == [it]
            else:
                it = check(s, kind_of(question), question, answer, it)
        assert not turns or len(turns) == 1 + (kind == "pronoun")
    assert asked >= 80


def test_yes_and_no_are_as_many():
    for kind, yes in (("exists", "Yes"), ("relation", "yes.")):
        turns = [KINDS[kind](scene("train", number), Dice("words", number)) for number in range(1200)]
        said = [yes in answer for (_, answer), in filter(None, turns)]
        assert abs(sum(said) - len(said) / 2) < 4 * (len(said) / 4) ** 0.5 and len(said) > 400


def test_what_is_absent_is_often_nearly_there():
    near = Counter()
    for number in range(1000):
        s = scene("train", number, (4, 4))
        name = truth.absent(s, Dice("words", number))
        assert not meant(s, name)
        if any(" " in thing.name for thing in s.things) and " " in name:
            colours, shapes = zip(*(thing.name.split() for thing in s.things if " " in thing.name))
            near["colour"] += name.split()[0] in colours
            near["shape"] += name.split()[1] in shapes
        near["all"] += any(" " in thing.name for thing in s.things)
    assert near["colour"] > near["all"] / 4 and near["shape"] > near["all"] / 4


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
    drawn = Counter(conversations.conversation(None, Dice("words", number), 1)[0][1] for number in range(4000))
    for kind, weight in conversations.WEIGHTS.items():
        share = weight / sum(conversations.WEIGHTS.values())
        assert abs(drawn[kind] - 4000 * share) <= 4 * (4000 * share) ** 0.5
    drawn = Counter(conversations.conversation(None, Dice("words", number), 1, ("size", "box"), {"size": 3, "box": 1})[0][1]
                    for number in range(1000))
    assert set(drawn) == {"size", "box"} and abs(drawn["box"] - 250) < 60


def test_training_never_says_what_is_held_out():
    said = []
    for number in range(1000):
        turns = conversations.conversation(scene("train", number), Dice("words", number), 6)
        assert len(turns) == 6 == len({question for question, _ in turns})
        said += turns + texts.text_conversation(Dice("texts", number))
    said = "\n".join(f"{question} {answer}" for question, answer in said)
    unseen = tuple(conversations.HELD_OUT_WORDING.values())
    assert not any(wording in said for wording in unseen + NEVER_PAINTED)
    assert all(re.search(rf"\b{word}\b", said) for wording in unseen for word in wording.split())
    assert all(name in said for name in truth.TRAINED_NAMES + BACKGROUNDS)


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
    assert [*map(conversations.plural, ("dog", "fox", "bus", "butterfly", "monkey", "fish", "red star"))] == [
        "dogs", "foxes", "buses", "butterflies", "monkeys", "fish", "red stars"]
    assert [*map(conversations.a, ("owl", "red star", "orange circle"))] == ["an owl", "a red star", "an orange circle"]
    assert len(set(map(conversations.plural, NAMES))) == len(NAMES)


def test_a_seed_is_a_conversation():
    about = [conversations.conversation(scene("train", number), Dice("words", number), 6) for number in range(200)]
    told = [texts.text_conversation(Dice("texts", number)) for number in range(200)]
    assert tuple(sha256(repr(said).encode()).hexdigest()[:16] for said in (about, told)) == SAID


# Without a picture

@pytest.mark.parametrize("kind", texts.KINDS_OF_TEXT)
def test_every_answer_in_a_text_is_true(kind):
    for number in range(150):
        turns = texts.text_conversation(Dice("texts", number), 5, only=[kind])
        assert 2 <= len(turns) <= (10 if kind == "list" else 5) and len({question for question, _ in turns}) == len(turns)
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


def test_facts_are_about_our_world():
    kinds = [kind for category in texts.CATEGORIES.values() for kind in category]
    assert len(kinds) == len(set(kinds)) and set(kinds) | set(texts.SOUNDS) <= set(NAMES)


# The tokenizer

def test_the_tokenizer_is_learned_again_the_same(spelling, tmp_path):
    """By its command, in a process that hashes otherwise."""
    subprocess.run([sys.executable, "-m", "tinycogvlm.train.recipe.learn_tokenizer", tmp_path / "again.json"], check=True,
                   env=os.environ | {"PYTHONHASHSEED": "7"})
    assert (spelling / "tokenizer.json").read_bytes() == (tmp_path / "again.json").read_bytes()


def test_the_tokenizer_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="no folder .*none; make it first"):
        learn_tokenizer.train_tokenizer(tmp_path / "none" / "tokenizer.json")


def test_the_tokenizer_keeps_every_text(ours):
    assert (ours.pad, ours.bos, ours.eos) == (0, 1, 2) and ours.vocab_size <= learn_tokenizer.VOCABULARY
    for text in ("", "Where is the red star?", "  two  spaces\n\n", "naïve 日本語 🙂👩‍👩‍👧 \0\t\u00ad\ufffd",
                 "</s><s><pad>", "[[000,020]]", "[[[[", "Question: Question:: Answer:Answer:", "dogses doges",
                 "\u0301e\u2028 \x85"):
        ids = ours.encode(text)
        assert ours.decode(ids) == text and not set(ids) & {0, 1, 2}
    for plane in range(0, 0x3000, 0x400):
        text = "".join(map(chr, range(plane, plane + 0x400)))
        assert ours.decode(ours.encode(text)) == text


def test_a_word_a_digit_and_a_mark_are_one_token(ours):
    pieces = lambda text: [ours.decode([id]) for id in ours.encode(text)]
    assert pieces("[[120,960;") == ["[[", "1", "2", "0", ",", "9", "6", "0", ";"] and pieces("5]].") == ["5", "]]", "."]
    assert pieces(" [[1") == [" [[", "1"] and pieces(" dogs, foxes?") == [" dog", "s", ",", " fox", "es", "?"]
    assert pieces("Question: it? Answer:")[0] == "Question:" and pieces("Question: it? Answer:")[-1] == " Answer:"
    for name in NAMES + SHAPES + BACKGROUNDS:
        assert len(ours.encode(f" {name}")) == len(name.split())
    said = Counter()
    for number in range(300):
        for question, answer in conversations.conversation(scene("check", number), Dice("check words", number), 6):
            for word in re.findall(r" ?[A-Za-z]+", f" {question} {answer}"):
                said[len(ours.encode(word))] += 1
    assert said[1] > 0.95 * sum(said.values()) and max(said) == 2       # the others are plurals


# Rows

def test_labels_are_the_answers_and_an_eos_after_each(ours):
    for number in range(30):
        s = scene("train", number)
        turns = conversations.conversation(s, Dice("words", number), 3)
        inputs, labels = examples.example(CONFIG, ours, s.picture, turns, longest=1000)
        *history, (question, answer) = turns
        whole = prompt.build(CONFIG, ours, f"{prompt.text('chat', question, history)} {answer}", [s.picture])
        assert np.array_equal(inputs.ids, np.append(whole.ids, [[2]], 1))           # what the template says, and eos
        assert np.array_equal(inputs.types[:, :-1], whole.types) and inputs.types[0, -1] == 0 and inputs.mask.all()
        assert np.array_equal(inputs.pixels, whole.pixels)
        said = ours.decode(labels[labels != -100], special=True)
        assert said == "".join(f" {answer}</s>" for _, answer in turns)
        same = (labels == inputs.ids) | (labels == -100)
        assert ours.decode(inputs.ids[~same]) == "\n\n"                             # eos where the template goes on
        assert ours.decode(inputs.ids[:, 67:][labels[:, 67:] == -100]) == "".join(
            prompt.text("chat", question) for question, _ in turns)


def test_a_row_without_a_picture(ours):
    turns = texts.text_conversation(Dice("texts", 3))
    inputs, labels = examples.example(CONFIG, ours, None, turns, longest=1000)
    assert inputs.pixels is None and not inputs.types.any() and inputs.ids[0, 0] == 1
    said = "\n".join(f"Question: {question} Answer: {answer}" for question, answer in turns)
    assert ours.decode(inputs.ids[0]) == said
    _, learned = examples.example(CONFIG, ours, None, turns, longest=1000, learn_questions=True)
    assert np.array_equal(learned[labels != -100], labels[labels != -100]) and (learned[0] == -100).sum() == 1   # bos


def test_a_long_row_drops_its_last_turns(ours):
    s = scene("train", 1)
    turns = conversations.conversation(s, Dice("words", 1), 8)
    whole, _ = examples.example(CONFIG, ours, s.picture, turns, longest=10_000)
    for longest in (1, 100, 150, 200, whole.ids.shape[1] - 1, whole.ids.shape[1]):
        inputs, labels = examples.example(CONFIG, ours, s.picture, turns, longest=longest)
        kept, length = (labels == 2).sum(), inputs.ids.shape[1]
        assert length <= longest or kept == 1
        assert np.array_equal(inputs.ids[0, :-1], whole.ids[0, :length - 1]) and inputs.ids[0, -1] == labels[0, -1] == 2
        if kept < 8:                                        # one more would not fit
            more, _ = examples.example(CONFIG, ours, s.picture, turns[:kept + 1], longest=10_000)
            assert more.ids.shape[1] > longest
    assert kept == 8


def test_a_row_at_a_higher_resolution(ours):
    s = scene("train", 1, side=168)
    inputs, labels = examples.example(CONFIG, ours, s.picture, [("Where is it?", "Here.")], image_size=168)
    assert inputs.pixels.shape == (1, 3, 168, 168) and (inputs.types == 1).sum() == 144 + 2
    assert labels.shape == inputs.ids.shape


def test_batches_pad_with_nothing_to_learn(ours):
    scenes = [scene("train", number) for number in range(8)]
    made = [examples.example(CONFIG, ours, s.picture, conversations.conversation(s, Dice("words", s.number), 2))
            for s in scenes]
    made.append(examples.example(CONFIG, ours, None, [("What is 3 + 4?", "7.")]))
    inputs, labels = examples.batch(made, 0)
    assert inputs.ids.shape == labels.shape and inputs.pixels.shape == (8, 3, 112, 112)
    assert (labels[inputs.mask == 0] == -100).all() and not inputs.ids[inputs.mask == 0].any()
    assert ((labels == 2).sum(1) == [2] * 8 + [1]).all() and (np.diff(inputs.mask) <= 0).all()
