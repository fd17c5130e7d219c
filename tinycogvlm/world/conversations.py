"""Questions about a scene and their true answers: every kind of question, and how an answer is judged.

An answer is short and has one fixed form, so it can be judged letter by letter; only boxes may differ a little.
A comparison first states the two numbers that it compares: asked for the yes or no alone, small models stay at chance.
Whatever was asked, the number that should be the smaller one comes first, so that yes means rising numbers. Otherwise
the answer would be the exclusive or of the question's direction and the order of the numbers, which no sum of what was
looked up can express.
"""
import re
from functools import partial

from ..inputs import grounding
from .truth import (FAR, LARGER, SIDES, absent, boxes, called, centre, extreme, length, middle, names_of, neighbours,
                    one_of, unique, unique_name, unique_pair)
from .wordings import (AT_BOX, BACKGROUND, BESIDE, BESIDE_IT, CAPTION, COLOUR, COUNT, COUNT_KIND, EACH, EXISTS,
                       EXTREMES, GROUNDED, HALF, HALVES, HELD_OUT_WORDING, IS_IT, NO, RELATIONS, SIZE, THING_BESIDE,
                       WHERE, WHERE_ARE, YES, listed, mentioned, plural, sentence, with_article)

# Every kind of question: (scene, dice) -> [(question, answer)]; two of them where the second refers to the first; None
# where the scene allows no such question


def caption(scene, dice):
    return [(dice.choice(CAPTION), sentence(listed([with_article(thing.name) for thing in scene.things])))]


def grounded(scene, dice):
    told = listed([f"{with_article(thing.name)} {boxes(scene, thing)}" for thing in scene.things])
    return [(dice.choice(GROUNDED), sentence(told))]


def where(scene, dice, phrase, *things):
    return [(dice.choice(WHERE).format(phrase=phrase), boxes(scene, *things))]


def box(scene, dice):
    found = unique_name(scene, dice)
    if found and dice.below(8):
        return where(scene, dice, mentioned(found[1], dice), found[0])
    name = dice.choice(scene.things).name
    things = called(scene, name)
    return [(dice.choice(WHERE_ARE).format(names=plural(name)), boxes(scene, *things))] if len(things) > 1 else None


def phrase(scene, dice):
    """the leftmost thing, the highest dog, the thing above the car, the biggest thing"""
    sort, side = dice.below(4), dice.choice(tuple(SIDES))
    if len(scene.things) < 2:
        return None
    if sort == 0:
        return phrase_beside(scene, dice, side)
    if sort == 1:
        return phrase_by_size(scene, dice)
    name, things = "thing", scene.things
    if sort == 2:                                           # of one kind, where there are several
        name = dice.choice(names_of(dice.choice(scene.things)))
        things = called(scene, name)
    last = extreme(scene, things, side) if len(things) > 1 else None
    return where(scene, dice, f"the {dice.choice(EXTREMES[side])} {name}", last) if last else None


def phrase_beside(scene, dice, side):
    found = unique_name(scene, dice)
    beside = neighbours(scene, found[0], side) if found else []
    if len(beside) != 1:
        return None
    return where(scene, dice, THING_BESIDE[side].format(phrase=f"the {found[1]}"), *beside)


def phrase_by_size(scene, dice):
    big = dice.below(2) == 1
    first, second = sorted(scene.things, key=lambda thing: length(scene, thing), reverse=big)[:2]
    if abs(length(scene, first) - length(scene, second)) < LARGER:
        return None
    return where(scene, dice, f"the {'biggest' if big else 'smallest'} thing", first)


def refusal(scene, dice):
    name = absent(scene, dice)
    return [(dice.choice(WHERE).format(phrase=mentioned(name, dice)), f"There is no {name}.")]


def at_box(scene, dice):
    thing = dice.choice(scene.things)
    return [(dice.choice(AT_BOX).format(box=boxes(scene, thing)), sentence(with_article(thing.name)))]


def count(scene, dice):
    return [(dice.choice(COUNT), f"{len(scene.things)}.")]


def count_kind(scene, dice):
    name = dice.choice(names_of(dice.choice(scene.things))) if dice.below(3) else absent(scene, dice)
    return [(dice.choice(COUNT_KIND).format(names=plural(name)), f"{len(called(scene, name))}.")]


def exists(scene, dice):
    if dice.below(2):
        return [(dice.choice(EXISTS).format(name=with_article(absent(scene, dice))), NO)]
    return yes(scene, dice, dice.choice(names_of(dice.choice(scene.things))) if dice.below(3) == 0 else
               dice.choice(scene.things).name)


def yes(scene, dice, name):
    question = dice.choice(EXISTS).format(name=with_article(name))
    return [(question, YES.format(boxes=boxes(scene, *called(scene, name))))]


def each(scene, dice):
    """Which of these are there: dog, red star, cat? dog yes, red star no, cat no.      Look for many names at once."""
    names = dice.some(sorted({thing.name for thing in scene.things}), 3)
    while len(names) < 6:
        name = absent(scene, dice)
        if name not in names:
            names.append(name)
    names = dice.some(names, 6)
    told = ", ".join(f"{name} {'yes' if called(scene, name) else 'no'}" for name in names)
    return [(dice.choice(EACH).format(names=", ".join(names)), f"{told}.")]


def halves(scene, dice):
    """Left or right: dog, red star? dog left, red star right.      Where several things are, in one short answer."""
    sides = dice.choice(tuple(HALVES))
    axis = SIDES[sides[0]][0]
    off = {thing.name: centre(scene, thing, axis) - 500 for thing in unique(scene)}
    names = [name for name in off if abs(off[name]) >= FAR / 2]
    if not names:
        return None
    names = dice.some(names, 4)
    told = ", ".join(f"{name} {HALF[sides[1] if off[name] > 0 else sides[0]]}" for name in names)
    return [(dice.choice(HALVES[sides]).format(names=", ".join(names)), f"{told}.")]


def colour(scene, dice):
    thing = one_of([thing for thing in scene.things if " " in thing.name], dice)
    if thing is None:
        return None
    colour, shape = thing.name.split()
    name = f"the {shape}"
    if len(called(scene, shape)) > 1 or dice.below(2):
        name = f"the thing at {boxes(scene, thing)}"
    return [(dice.choice(COLOUR).format(phrase=name), sentence(colour))]


def last_on(sides, scene, dice):
    """What is the leftmost thing?"""
    side = dice.choice(sides)
    thing = extreme(scene, scene.things, side)
    if thing is None:
        return None
    return [(f"What is the {dice.choice(EXTREMES[side])} thing?", sentence(with_article(thing.name)))]


def relation(scene, dice, wordings=RELATIONS):
    """Is the dog to the right of the cat? The cat is at 340, the dog at 720, so left: yes."""
    pair, side = unique_pair(scene, dice), dice.choice(tuple(SIDES))
    axis, _ = SIDES[side]
    if pair is None or abs(centre(scene, pair[0], axis) - centre(scene, pair[1], axis)) < FAR:
        return None
    first, second = (f"the {thing.name}" for thing in pair)
    question = dice.choice(IS_IT).format(a=first, relation=dice.choice(wordings[side]), b=second)
    return [(question, compared(first, second, *(middle(scene, thing, axis) for thing in pair), side))]


def compared(first, second, x, y, side):
    """The answer to "is the first to that side of the second?"; what should be to the left, or above, comes first."""
    left, right = next(sides for sides in HALVES if side in sides)
    if side == right:
        first, second, x, y = second, first, y, x
    verdict = f"{left if x <= y else right}: {'yes' if x < y else 'no'}"
    return f"{first.capitalize()} is at {x:03d}, {second} at {y:03d}, so {verdict}."


def size(scene, dice):
    """Which is bigger, the dog or the cat? The dog is 320, the cat 460: the cat."""
    pair = unique_pair(scene, dice)
    lengths = [length(scene, thing) for thing in pair or ()]
    if pair is None or abs(lengths[0] - lengths[1]) < LARGER:
        return None
    first, second = (f"the {thing.name}" for thing in pair)
    return [(dice.choice(SIZE).format(a=first, b=second), larger(first, second, *lengths))]


def larger(first, second, x, y):
    return f"{first.capitalize()} is {x:03d}, {second} {y:03d}: {first if x > y else second}."


def beside(scene, dice):
    """What is to the left of the dog? A cat."""
    found, side = unique_name(scene, dice), dice.choice(tuple(SIDES))
    next_to = neighbours(scene, found[0], side) if found else []
    if found is None or len(next_to) > 1:
        return None
    return [(dice.choice(BESIDE[side]).format(phrase=f"the {found[1]}"), neighbour(next_to))]


def neighbour(next_to):
    """The answer that names the one neighbour, or says that there is none"""
    return sentence(with_article(next_to[0].name)) if next_to else "Nothing."


def background(scene, dice):
    return [(dice.choice(BACKGROUND), sentence(scene.background))]


def pronoun(scene, dice):
    """Is there a dog? Yes [[...]]. What is to its left? A cat."""
    thing = dice.choice(scene.things)
    alone = len(called(scene, thing.name)) == 1
    first, side = dice.below(4), dice.choice(tuple(SIDES))
    if first == 0:
        opening = [(dice.choice(AT_BOX).format(box=boxes(scene, thing)), sentence(with_article(thing.name)))]
    elif first == 1:
        side = dice.choice(("left", "right"))
        thing = extreme(scene, scene.things, side)
        if thing is None:
            return None
        opening = [(f"What is the {EXTREMES[side][0]} thing?", sentence(with_article(thing.name)))]
    elif not alone:
        return None
    else:
        opening = yes(scene, dice, thing.name) if first == 2 else where(scene, dice, f"the {thing.name}", thing)
    sort, side = dice.below(4), dice.choice(tuple(SIDES))
    next_to = neighbours(scene, thing, side)
    if sort == 0 and " " in thing.name:
        return [*opening, ("What colour is it?", sentence(thing.name.split()[0]))]
    if sort < 3 and first in (1, 2):
        return [*opening, ("Where is it?", boxes(scene, thing))]
    if len(next_to) > 1:
        return None
    return [*opening, (BESIDE_IT[side], neighbour(next_to))]


TABLE = {                                                   # kind: the function that asks it, its weight
    "caption": (caption, 8), "grounded": (grounded, 6), "box": (box, 10), "phrase": (phrase, 9),
    "absent": (refusal, 6), "at box": (at_box, 5), "count": (count, 3), "count kind": (count_kind, 4),
    "exists": (exists, 9), "each": (each, 8), "halves": (halves, 10), "colour": (colour, 5),
    "leftmost": (partial(last_on, ("left", "right")), 4), "topmost": (partial(last_on, ("above", "below")), 3),
    "relation": (relation, 14), "size": (size, 8), "beside": (beside, 5), "background": (background, 3),
    "pronoun": (pronoun, 4)}
KINDS_OF_QUESTION = {kind: ask for kind, (ask, _) in TABLE.items()}
WEIGHTS = {kind: weight for kind, (_, weight) in TABLE.items()}
# For evaluation only: UNSEEN["relation, unseen wording"](scene, dice)
UNSEEN = {"relation, unseen wording": partial(relation, wordings={side: (w,) for side, w in HELD_OUT_WORDING.items()})}


def conversation(scene, dice, turns, kinds=None, weights=None):
    """Up to `turns` questions about a scene and their answers: [(question, answer), ...]

    No question comes twice, nor does a box or an answer of several words: what can be copied from an earlier turn
    teaches nothing about the picture. There are fewer turns only where the scene has no more such questions.

    kinds: names of KINDS_OF_QUESTION, by default all; weights: {kind: whole number}, by default WEIGHTS.
    """
    pool = [kind for kind in kinds or KINDS_OF_QUESTION for _ in range((weights or WEIGHTS)[kind])]
    said = []
    for _ in range(30 * turns):
        asked = KINDS_OF_QUESTION[dice.choice(pool)](scene, dice)
        if asked and len(said) + len(asked) <= turns and not unrepeatable(asked) & unrepeatable(said):
            said += asked
            if len(said) == turns:
                break
    return said


def unrepeatable(turns):
    """What no later turn may say again: the questions, the boxes and the answers of several words in these turns."""
    said = set()
    for question, answer in turns:
        said.add(question)
        if " " in answer:
            said.add(answer)
        for found in grounding.BOXES.finditer(f"{question} {answer}"):
            said.update(found[1].split(";"))
    return said


def right(kind, truth, given, overlap=0.5):
    """Whether an answer to a question of this kind is right.

    It must equal the true one letter by letter; only the numbers in boxes may differ, as long as each box has at least
    this IoU with the true one in its place. Of "exists" the yes or no counts alone, whatever boxes follow; of
    "relation" and "size" what comes after the colon, whatever numbers were compared.
    """
    if kind == "exists":
        return re.findall(r"\w+", given)[:1] == re.findall(r"\w+", truth)[:1]
    if kind == "size" or kind.startswith("relation"):
        return given.rpartition(":")[2].strip() == truth.rpartition(":")[2].strip()
    without = [grounding.BOXES.sub(lambda box: re.sub("[0-9]+", "#", box[0]), text) for text in (truth, given)]
    (true, _), (found, _) = grounding.parse(truth), grounding.parse(given)
    return (without[0] == without[1] and len(true) == len(found)
            and all(grounding.iou(*pair) >= overlap for pair in zip(true, found)))
