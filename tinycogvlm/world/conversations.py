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
from . import writing
from .truth import (FAR, LARGER, SIDES, UNKNOWN, absent, boxes, called, centre, extreme, known, length, middle, names_of,
                    neighbours, one_of, unique, unique_name, unique_pair)
from .wordings import (AT_BOX, BACKGROUND, BESIDE, BESIDE_IT, CAPTION, COLOUR, COUNT, COUNT_KIND, DO_NOT_KNOW, EACH,
                       EXISTS, EXTREME, EXTREMES, GROUNDED, HALF, HALVES, IS_IT, NO, READ, READ_NUMBER, RELATIONS,
                       SIDE_OF, SIDE_OF_IT, SIZE, WHERE, WHERE_ARE, YES, capital, listed, mentioned, plural, sentence, trained,
                       unseen, with_article)

# Every kind of question: (scene, dice, word) -> [(question, answer)]; two of them where the second refers to the first;
# None where the scene allows no such question. word(wordings, dice) chooses the wording: wordings.trained or unseen


def caption(scene, dice, word):
    return [(word(CAPTION, dice), sentence(listed([with_article(thing.name) for thing in scene.things]))
             if len(scene.things) > 1 else identified(scene.things[0]))]


def identified(thing):
    """A dog. I do not know that thing."""
    return DO_NOT_KNOW if thing.name == UNKNOWN else sentence(with_article(thing.name))


def grounded(scene, dice, word):
    told = listed([f"{with_article(thing.name)} {boxes(scene, thing)}" for thing in scene.things])
    return [(word(GROUNDED, dice), sentence(told))]


def where(scene, dice, word, phrase, *things):
    return [(word(WHERE, dice).format(phrase=phrase), boxes(scene, *things))]


def box(scene, dice, word):
    found = unique_name(scene, dice)
    if found and dice.below(8):
        return where(scene, dice, word, mentioned(found[1], dice), found[0])
    if not known(scene):
        return None
    name = dice.choice(known(scene)).name
    things = called(scene, name)
    return [(word(WHERE_ARE, dice).format(names=plural(name)), boxes(scene, *things))] if len(things) > 1 else None


def phrase(scene, dice, word):
    """the leftmost thing, the highest dog, the thing above the car, the biggest thing"""
    sort, side = dice.below(4), dice.choice(tuple(SIDES))
    if len(scene.things) < 2:
        return None
    if sort == 0:
        return phrase_beside(scene, dice, word, side)
    if sort == 1:
        return phrase_by_size(scene, dice, word)
    name, things = "thing", scene.things
    if sort == 2 and known(scene):                          # of one kind, where there are several
        name = dice.choice(names_of(dice.choice(known(scene))))
        things = called(scene, name)
    last = extreme(scene, things, side) if len(things) > 1 else None
    return where(scene, dice, word, f"the {dice.choice(EXTREMES[side])} {name}", last) if last else None


def phrase_beside(scene, dice, word, side):
    found = unique_name(scene, dice)
    beside = neighbours(scene, found[0], side) if found else []
    if len(beside) != 1:
        return None
    return where(scene, dice, word, f"the thing {dice.choice(SIDE_OF[side])} the {found[1]}", *beside)


def phrase_by_size(scene, dice, word):
    big = dice.below(2) == 1
    first, second = sorted(scene.things, key=lambda thing: length(scene, thing), reverse=big)[:2]
    if abs(length(scene, first) - length(scene, second)) < LARGER:
        return None
    return where(scene, dice, word, f"the {'biggest' if big else 'smallest'} thing", first)


def refusal(scene, dice, word):
    name = absent(scene, dice)
    return [(word(WHERE, dice).format(phrase=mentioned(name, dice)), f"There is no {name}.")]


def at_box(scene, dice, word):
    thing = dice.choice(scene.things)
    return [(word(AT_BOX, dice).format(box=boxes(scene, thing)), identified(thing))]


def count(scene, dice, word):
    return [(word(COUNT, dice), f"{len(scene.things)}.")]


def count_kind(scene, dice, word):
    name = dice.choice(names_of(dice.choice(known(scene)))) if known(scene) and dice.below(3) else absent(scene, dice)
    return [(word(COUNT_KIND, dice).format(names=plural(name)), f"{len(called(scene, name))}.")]


def exists(scene, dice, word):
    if not known(scene) or dice.below(2):
        return [(word(EXISTS, dice).format(name=with_article(absent(scene, dice))), NO)]
    return yes(scene, dice, word, dice.choice(names_of(dice.choice(known(scene)))) if dice.below(3) == 0 else
               dice.choice(known(scene)).name)


def yes(scene, dice, word, name):
    question = word(EXISTS, dice).format(name=with_article(name))
    return [(question, YES.format(boxes=boxes(scene, *called(scene, name))))]


def each(scene, dice, word):
    """Which of these are there: dog, red star, cat? dog yes, red star no, cat no.      Look for many names at once."""
    names = dice.some(sorted({thing.name for thing in known(scene)}), 3)
    while len(names) < 6:
        name = absent(scene, dice)
        if name not in names:
            names.append(name)
    names = dice.some(names, 6)
    told = ", ".join(f"{name} {'yes' if called(scene, name) else 'no'}" for name in names)
    return [(word(EACH, dice).format(names=", ".join(names)), f"{told}.")]


def halves(scene, dice, word):
    """Left or right: dog, red star? dog left, red star right.      Where several things are, in one short answer."""
    sides = dice.choice(tuple(HALVES))
    axis = SIDES[sides[0]][0]
    off = {thing.name: centre(scene, thing, axis) - 500 for thing in unique(scene)}
    names = [name for name in off if abs(off[name]) >= FAR / 2]
    if not names:
        return None
    names = dice.some(names, 4)
    told = ", ".join(f"{name} {HALF[sides[1] if off[name] > 0 else sides[0]]}" for name in names)
    return [(word(HALVES[sides], dice).format(names=", ".join(names)), f"{told}.")]


def colour(scene, dice, word):
    thing = one_of([thing for thing in scene.things if " " in thing.name], dice)
    if thing is None:
        return None
    colour, shape = thing.name.split()
    name = f"the {shape}"
    if len(called(scene, shape)) > 1 or dice.below(2):
        name = f"the thing at {boxes(scene, thing)}"
    return [(word(COLOUR, dice).format(phrase=name), sentence(colour))]


def last_on(sides, scene, dice, word):
    """What is the leftmost thing?"""
    side = dice.choice(sides)
    thing = extreme(scene, scene.things, side)
    if thing is None:
        return None
    return [(word(EXTREME, dice).format(extreme=dice.choice(EXTREMES[side])), sentence(with_article(thing.name)))]


def relation(scene, dice, word):
    """Is the dog to the right of the cat? The cat is at 340, the dog at 720, so left: yes."""
    pair, side = unique_pair(scene, dice), dice.choice(tuple(SIDES))
    axis, _ = SIDES[side]
    if pair is None or abs(centre(scene, pair[0], axis) - centre(scene, pair[1], axis)) < FAR:
        return None
    first, second = (f"the {thing.name}" for thing in pair)
    question = word(IS_IT, dice).format(a=first, relation=word(RELATIONS[side], dice), b=second)
    return [(capital(question), compared(first, second, *(middle(scene, thing, axis) for thing in pair), side))]


def compared(first, second, x, y, side):
    """The answer to "is the first to that side of the second?"; what should be to the left, or above, comes first."""
    left, right = next(sides for sides in HALVES if side in sides)
    if side == right:
        first, second, x, y = second, first, y, x
    verdict = f"{left if x <= y else right}: {'yes' if x < y else 'no'}"
    return f"{first.capitalize()} is at {x:03d}, {second} at {y:03d}, so {verdict}."


def size(scene, dice, word):
    """Which is bigger, the dog or the cat? The dog is 320, the cat 460: the cat."""
    pair = unique_pair(scene, dice)
    lengths = [length(scene, thing) for thing in pair or ()]
    if pair is None or abs(lengths[0] - lengths[1]) < LARGER:
        return None
    first, second = (f"the {thing.name}" for thing in pair)
    return [(word(SIZE, dice).format(a=first, b=second), larger(first, second, *lengths))]


def larger(first, second, x, y):
    return f"{first.capitalize()} is {x:03d}, {second} {y:03d}: {first if x > y else second}."


def beside(scene, dice, word):
    """What is to the left of the dog? A cat."""
    found, side = unique_name(scene, dice), dice.choice(tuple(SIDES))
    next_to = neighbours(scene, found[0], side) if found else []
    if found is None or len(next_to) > 1:
        return None
    question = word(BESIDE, dice).format(side=dice.choice(SIDE_OF[side]), phrase=f"the {found[1]}")
    return [(question, neighbour(next_to))]


def neighbour(next_to):
    """The answer that names the one neighbour, or says that there is none"""
    return sentence(with_article(next_to[0].name)) if next_to else "Nothing."


def background(scene, dice, word):
    return [(word(BACKGROUND, dice), sentence(scene.background))]


def pronoun(scene, dice, word):
    """Is there a dog? Yes [[...]]. What is to its left? A cat."""
    thing = dice.choice(scene.things)
    alone = thing in unique(scene)
    first, side = dice.below(4), dice.choice(tuple(SIDES))
    if first == 0:
        opening = [(trained(AT_BOX, dice).format(box=boxes(scene, thing)), identified(thing))]
    elif first == 1:
        side = dice.choice(("left", "right"))
        thing = extreme(scene, scene.things, side)
        if thing is None:
            return None
        opening = [(trained(EXTREME, dice).format(extreme=EXTREMES[side][0]), sentence(with_article(thing.name)))]
    elif not alone:
        return None
    else:
        opening = (yes(scene, dice, trained, thing.name) if first == 2 else
                   where(scene, dice, trained, f"the {thing.name}", thing))
    sort, side = dice.below(4), dice.choice(tuple(SIDES))
    next_to = neighbours(scene, thing, side)
    if sort == 0 and " " in thing.name:
        return [*opening, (word(COLOUR, dice).format(phrase="it"), sentence(thing.name.split()[0]))]
    if sort < 3 and first in (1, 2):
        return [*opening, ("Where is it?", boxes(scene, thing))]
    if len(next_to) > 1:
        return None
    return [*opening, (word(BESIDE_IT, dice).format(side=SIDE_OF_IT[side]), neighbour(next_to))]


def read(scene, dice, word):
    """What is written? 471.      What is in the picture? The number 471."""
    if not writing.written(scene):
        return None
    text = writing.text_of(scene)
    sort = dice.below(4)
    if sort == 0:
        return [(word(CAPTION, dice), f"The {'number' if text.isdigit() else 'word'} {text}.")]
    return [(word(READ_NUMBER if text.isdigit() and sort < 3 else READ, dice), sentence(text))]


TABLE = {                                                   # kind: the function that asks it, its weight
    "caption": (caption, 14), "grounded": (grounded, 7), "box": (box, 16), "phrase": (phrase, 12),
    "absent": (refusal, 6), "at box": (at_box, 6), "count": (count, 14), "count kind": (count_kind, 7),
    "exists": (exists, 9), "each": (each, 8), "halves": (halves, 10), "colour": (colour, 6),
    "leftmost": (partial(last_on, ("left", "right")), 8), "topmost": (partial(last_on, ("above", "below")), 6),
    "relation": (relation, 14), "size": (size, 8), "beside": (beside, 9), "background": (background, 4),
    "pronoun": (pronoun, 5), "read": (read, 0)}
KINDS_OF_QUESTION = {kind: partial(ask, word=trained) for kind, (ask, _) in TABLE.items()}
WEIGHTS = {kind: weight for kind, (_, weight) in TABLE.items()}
# For evaluation only: the same in wordings that training never uses
UNSEEN = {f"{kind}, unseen wording": partial(ask, word=unseen) for kind, (ask, _) in TABLE.items()}


ONCE = {"caption", "grounded", "count", "background"}       # these have one answer, whatever the wording


def conversation(scene, dice, turns, kinds=None):
    """Up to `turns` questions about a scene and their answers: [(question, answer), ...]

    No question comes twice, nor does a box or an answer of several words, nor the number of things or the background:
    what can be copied from an earlier turn teaches nothing about the picture. There are fewer turns only where the
    scene has no more such questions; about a number or a word there are two.

    kinds: names of KINDS_OF_QUESTION, by default all; each is asked as often as its weight says.
    """
    if writing.written(scene):
        return [turn for kind in dice.some(("read", "background"), turns) for turn in KINDS_OF_QUESTION[kind](scene, dice)]
    pool = [kind for kind in kinds or KINDS_OF_QUESTION for _ in range(WEIGHTS[kind])]
    said, done = [], set()
    for _ in range(30 * turns):
        kind = dice.choice(pool)
        asked = kind not in done and KINDS_OF_QUESTION[kind](scene, dice)
        if asked and len(said) + len(asked) <= turns and not unrepeatable(asked) & unrepeatable(said):
            said += asked
            done |= {kind} & ONCE
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
    kind = kind.removesuffix(", unseen wording")
    if kind == "exists":
        return re.findall(r"\w+", given)[:1] == re.findall(r"\w+", truth)[:1]
    if kind in ("size", "relation"):
        return given.rpartition(":")[2].strip() == truth.rpartition(":")[2].strip()
    without = [grounding.BOXES.sub(lambda box: re.sub("[0-9]+", "#", box[0]), text) for text in (truth, given)]
    (true, _), (found, _) = grounding.parse(truth), grounding.parse(given)
    return (without[0] == without[1] and len(true) == len(found)
            and all(grounding.iou(*pair) >= overlap for pair in zip(true, found)))
