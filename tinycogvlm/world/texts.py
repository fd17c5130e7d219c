"""Conversations without a picture, about scenes in words, lists, numbers and facts: where the language model starts.

A language model that only ever saw questions about pictures cannot look things up in what it reads, and then its visual
experts are slow to learn to look things up in a picture.
"""
from dataclasses import replace
from functools import partial

from ..inputs import grounding
from . import sketches
from .conversations import compared, conversation, larger
from .grounds import GROUNDS
from .scenes import KINDS, scene
from .truth import boxes, trained_names
from .wordings import (CAPTION, CHAT, COUNT, EXISTS, IS_IT, NO_PICTURE, RELATIONS, SIZE, WHERE, capital, mentioned,
                       sentence, trained, unseen, with_article)

NAMES = trained_names(sketches.NAMES)

MOST = 6                                                    # things in a list; a scene in words has one less
CATEGORIES = {"an animal": ("dog", "cat", "fox", "bear", "lion", "cow", "pig", "frog", "monkey", "chicken", "penguin",
                            "owl", "horse", "bee", "butterfly", "fish", "turtle", "rabbit"),
              "food": ("apple", "banana", "lemon", "strawberry", "carrot", "pizza", "cake", "mushroom", "pear", "donut",
                       "cheese", "egg"),
              "a plant": ("tree", "cactus", "tulip", "sunflower"),
              "a vehicle": ("car", "bus", "truck", "boat", "rocket", "bicycle", "tractor", "helicopter", "train")}
COLOURS = {"grass": "green", "snow": "white", "the sky": "blue", "the night": "black", "sand": "yellow",
           "a banana": "yellow", "a lemon": "yellow", "cheese": "yellow", "a sunflower": "yellow",
           "a strawberry": "red", "a carrot": "orange", "a fox": "orange", "a pig": "pink", "a frog": "green",
           "a cactus": "green", "a tree": "green"}
SOUNDS = {"dog": "woof", "cat": "meow", "cow": "moo", "pig": "oink", "frog": "croak", "chicken": "cluck",
          "lion": "roar", "owl": "hoot", "horse": "neigh", "bee": "buzz", "bell": "ding", "clock": "tick"}
ORDER = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def told_scene(scene, dice):
    """Scene: sand; dog [[...]]; red star [[...]].

    Mostly from left to right, but not always, or there would be no need to look names up.
    """
    things = scene.things if dice.below(10) >= 3 else dice.some(scene.things, len(scene.things))
    return f"Scene: {'; '.join([scene.background, *(f'{thing.name} {boxes(scene, thing)}' for thing in things)])}."


# Every kind of text: (dice, turns, most) -> [(question, answer), ...]


def scene_in_words(dice, turns, most):
    """Everything that is asked about a picture, asked about its description"""
    s = renamed(scene("train", dice.below(1 << 31), (1, most - 1)), dice)
    return first_told(told_scene(s, dice), conversation(s, dice, turns))


def renamed(scene, dice):
    """The same scene of other things: any names of the sketches' world; things of one name still have one name."""
    before = sorted({thing.name for thing in scene.things})
    after = dict(zip(before, names(len(before), dice)))
    things = tuple(replace(thing, name=after[thing.name]) for thing in scene.things)
    return replace(scene, things=things, background=dice.choice(GROUNDS), names=sketches.NAMES)


def table(dice, turns, most):
    """List: fox 35; cat 12. Asked in both directions, all at once and one by one: cat, fox? cat 12, fox 35. 12? A cat.

    All at once is learned first, since the next token has already followed the same name. So it comes first half the
    time; and since the turns are short, there are twice as many.
    """
    count = dice.between(2, most)
    pairs = list(zip(names(count, dice), numbers(count, dice)))
    told = "; ".join(f"{name} {number}" for name, number in pairs)
    at_once = [(f"{', '.join(first for first, _ in shuffled)}?",
                f"{', '.join(f'{first} {second}' for first, second in shuffled)}.")
               for shuffled in (dice.some(some, count) for some in (pairs, [(y, x) for x, y in pairs]))]
    singly = [ask for name, number in pairs
              for ask in ((f"{name}?", f"{number}."), (f"{number}?", sentence(with_article(name))))]
    asked = at_once + dice.some(singly, 2 * count) if dice.below(2) else dice.some(at_once + singly, 2 * count + 2)
    return first_told(f"List: {told}.", asked[:2 * turns])


def told_comparisons(dice, turns, most):
    """Across: dog 340; cat 720. Is the dog to the right of the cat? The cat is at 720, the dog at 340, so right: no."""
    sort, count = dice.choice(("Across", "Down", "Long")), dice.between(2, 4)
    pairs = list(zip(names(count, dice), dice.some(range(20, 980, 20), count)))

    def comparison(dice):
        (first, x), (second, y) = dice.some(pairs, 2)
        first, second = f"the {first}", f"the {second}"
        if sort == "Long":
            return trained(SIZE, dice).format(a=first, b=second), larger(first, second, x, y)
        side = dice.choice(("left", "right") if sort == "Across" else ("above", "below"))
        question = trained(IS_IT, dice).format(a=first, relation=trained(RELATIONS[side], dice), b=second)
        return capital(question), compared(first, second, x, y, side)
    told = "; ".join(f"{name} {value:03d}" for name, value in pairs)
    return first_told(f"{sort}: {told}.", different(comparison, dice, turns))


def comparison(dice):
    """Is 340 less than 720? Yes. Which is bigger, 320 or 460? 460."""
    x, y = dice.some(range(0, 1000, 20), 2)
    return dice.choice(((f"Is {x:03d} less than {y:03d}?", "Yes." if x < y else "No."),
                        (f"Is {x:03d} more than {y:03d}?", "Yes." if x > y else "No."),
                        (f"Which is bigger, {x:03d} or {y:03d}?", f"{max(x, y):03d}."),
                        (f"Which is smaller, {x:03d} or {y:03d}?", f"{min(x, y):03d}.")))


def small_sum(dice):
    """What is 3 + 4? 7. What is 12 - 4? 8."""
    x, y = dice.below(13), dice.below(13)
    return (f"What is {x} + {y}?", f"{x + y}.") if dice.below(2) else (f"What is {x + y} - {y}?", f"{x}.")


def copy(dice):
    """Say: red star 35. The answer repeats it: red star 35."""
    if dice.below(3) == 0:
        (x0, x1), (y0, y1) = (sorted(dice.some(range(0, 1000, 20), 2)) for _ in "xy")
        text = grounding.box_text([(x0, y0, x1, y1)])
    else:
        text = " ".join(dice.choice(NAMES) if dice.below(3) else str(dice.below(1000))
                        for _ in range(dice.between(1, 4)))
    return f"Say: {text}.", f"{text}."


def fact(dice):
    """What does a dog say? Woof. Is a pizza a vehicle? No."""
    sort = dice.below(5)
    if sort == 0:
        thing = dice.choice(tuple(COLOURS))
        return f"What colour is {thing}?", sentence(COLOURS[thing])
    if sort == 1:
        thing = dice.choice(tuple(SOUNDS))
        return f"What does {with_article(thing)} say?", sentence(SOUNDS[thing])
    if sort == 2:
        n = dice.below(10)
        return f"What comes after {ORDER[n]}?", sentence(ORDER[n + 1])
    category, yes = dice.choice(tuple(CATEGORIES)), dice.below(2) == 1
    if sort == 3:
        return f"What is {with_article(dice.choice(CATEGORIES[category]))}?", sentence(category)
    thing = dice.choice([kind for kind in KINDS if (kind in CATEGORIES[category]) == yes])
    return f"Is {with_article(thing)} {category}?", "Yes." if yes else "No."


def chat(dice, word=trained):
    """Hello! What can you do?      And where a picture is asked about and there is none: I see no picture."""
    if dice.below(3):
        wordings, answer = dice.choice(CHAT)
        return word(wordings, dice), answer
    name = dice.choice(NAMES)
    return word(dice.choice((CAPTION, COUNT, WHERE, EXISTS)), dice).format(
        phrase=mentioned(name, dice), name=with_article(name)), NO_PICTURE


# Parts of texts

def first_told(told, turns):
    """The turns, with the facts to look up put before the first question"""
    (question, answer), *others = turns
    return [(f"{told} {question}", answer), *others]


def different(make, dice, turns):
    """Up to `turns` different questions from make(dice), with their answers"""
    said = {}
    for _ in range(10 * turns):
        if len(said) < turns:
            question, answer = make(dice)
            said[question] = answer
    return list(said.items())


def numbers(count, dice):
    """Different numbers as texts: of two digits, or of three as in boxes"""
    if dice.below(2):
        return [str(n) for n in dice.some(range(10, 100), count)]
    return [f"{n:03d}" for n in dice.some(range(0, 1000, 20), count)]


def names(count, dice):
    """Different names; half the time all are coloured shapes, so that one word is not enough to tell them apart."""
    return dice.some([name for name in NAMES if " " in name] if dice.below(2) else NAMES, count)


def without_facts(make):
    return lambda dice, turns, most: different(make, dice, turns)


TABLE = {                                                   # kind: the function that makes it, its weight
    "scene": (scene_in_words, 10), "list": (table, 7), "told comparison": (told_comparisons, 4),
    "comparison": (without_facts(comparison), 2), "sum": (without_facts(small_sum), 1),
    "copy": (without_facts(copy), 1), "fact": (without_facts(fact), 1), "chat": (without_facts(chat), 1)}
KINDS_OF_TEXT = {kind: make for kind, (make, _) in TABLE.items()}
WEIGHTS = {kind: weight for kind, (_, weight) in TABLE.items()}
# For evaluation only: in wordings that training never uses
UNSEEN = {"chat, unseen wording": without_facts(partial(chat, word=unseen))}


def text_conversation(dice, turns=6, only=None, most=MOST):
    """Up to `turns` questions of one kind (about a list, twice as many) and their answers: [(question, answer), ...]

    only: names of KINDS_OF_TEXT to draw the kind from, by default all, each as often as its weight says. most: things in
    a list; a scene in words has at most one less.
    """
    kind = dice.choice([kind for kind in only or KINDS_OF_TEXT for _ in range(WEIGHTS.get(kind, 1))])
    return {**KINDS_OF_TEXT, **UNSEEN}[kind](dice, turns, most)
