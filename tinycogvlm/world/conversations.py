"""From the truth of a scene to questions and answers: every kind of question, and how an answer is judged.

An answer is short and has one fixed form, so that it is right or wrong by its letters; only boxes may differ a little.
A comparison first names the two numbers that it compares: asked for the yes alone, small models stay at chance. And what
should be the smaller one comes first, whatever was asked, so that yes means rising numbers: otherwise it would be the
exclusive or of the question's direction and the order of the numbers, which no sum of what is looked up can say.
"""
import re
from functools import partial

from ..inputs import grounding, prompt
from .truth import (FAR, LARGER, SIDES, absent, boxes, called, centre, extreme, length, middle, names_of, neighbours,
                    one_of, unique, unique_name, unique_pair)

YES, NO = "Yes {boxes}.", "No."                             # what "Is there a dog?" is answered

CAPTION = ("Describe the image.",) * 3 + ("Describe the picture.", "What is in the picture?", "What is in the image?",
                                          "What do you see?", "What is this?")
GROUNDED = (prompt.CAPTION_WITH_BOXES, "Describe the image with boxes.", "What is in the picture, and where?")
WHERE = ("Where is {phrase}?",) * 4 + ("Find {phrase}.", "Point to {phrase}.", prompt.BOX_OF_PHRASE)
WHERE_ARE = ("Where are the {names}?", "Find the {names}.", "Find all {names}.")
AT_BOX = ("What is at {box}?", "What is at {box}?", "What do you see at {box}?", prompt.DESCRIBE_BOX)
COUNT = ("How many things are there?", "How many things are in the picture?", "How many things do you see?",
         "Count the things.")
COUNT_KIND = ("How many {names} are there?", "How many {names} are in the picture?", "How many {names} do you see?",
              "Count the {names}.")
EXISTS = ("Is there {name}?", "Is there {name}?", "Is there {name} in the picture?", "Do you see {name}?",
          "Can you see {name} in the image?")
EACH = ("Which of these are there: {names}?", "Which of these do you see: {names}?")
HALVES = {("left", "right"): ("Left or right: {names}?", "Which are left, which right: {names}?"),
          ("above", "below"): ("Top or bottom: {names}?", "Which are at the top, which at the bottom: {names}?")}
HALF = {"left": "left", "right": "right", "above": "top", "below": "bottom"}
COLOUR = ("What colour is {phrase}?", "What color is {phrase}?", "Which colour is {phrase}?")
RELATIONS = {"left": ("to the left of", "left of", "on the left of", "further left than"),
             "right": ("to the right of", "right of", "on the right of", "further right than"),
             "above": ("above", "higher than", "higher up than", "over"),
             "below": ("below", "lower than", "lower down than", "under")}
HELD_OUT_WORDING = {"left": "further to the left than", "right": "further to the right than",   # never in training;
                    "above": "further up than", "below": "further down than"}                   # its every word is
IS_IT = ("Is {a} {relation} {b}?", "Is {a} {relation} {b}?", "In the picture, is {a} {relation} {b}?")
SIZE = ("Which is bigger, {a} or {b}?", "What is bigger, {a} or {b}?", "Which is larger, {a} or {b}?")
BESIDE = {"left": ("What is to the left of {phrase}?", "What is left of {phrase}?"),
          "right": ("What is to the right of {phrase}?", "What is right of {phrase}?"),
          "above": ("What is above {phrase}?", "What is over {phrase}?"),
          "below": ("What is below {phrase}?", "What is under {phrase}?")}
BESIDE_IT = {"left": "What is to its left?", "right": "What is to its right?",
             "above": "What is above it?", "below": "What is below it?"}
THING_BESIDE = {"left": "the thing left of {phrase}", "right": "the thing right of {phrase}",
                "above": "the thing above {phrase}", "below": "the thing below {phrase}"}
EXTREMES = {"left": ("leftmost",), "right": ("rightmost",), "above": ("topmost", "highest"), "below": ("lowest",)}
BACKGROUND = ("What is the background?", "What is in the background?", "What is behind the things?")


# Words

def a(name):
    """a dog, an apple"""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def sentence(text):
    return f"{text.capitalize()}."


def plural(name):
    """dogs, foxes, butterflies, fish"""
    if name.endswith("y") and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    return name if name.endswith("fish") else f"{name}es" if name.endswith(("s", "x")) else f"{name}s"


def listed(names):
    """a dog, a red star and a cat"""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def article(name, dice):
    """How a thing is asked for: mostly "the dog"."""
    return dice.choice((f"the {name}", f"the {name}", f"the {name}", a(name), name))


# Every kind of question: (scene, dice) -> [(question, answer)], two of them where the second refers to the first, or
# None where this scene has no such question

def caption(scene, dice):
    return [(dice.choice(CAPTION), sentence(listed([a(thing.name) for thing in scene.things])))]


def grounded(scene, dice):
    told = listed([f"{a(thing.name)} {boxes(scene, thing)}" for thing in scene.things])
    return [(dice.choice(GROUNDED), sentence(told))]


def where(scene, dice, phrase, *things):
    return [(dice.choice(WHERE).format(phrase=phrase), boxes(scene, *things))]


def box(scene, dice):
    found = unique_name(scene, dice)
    if found and dice.below(8):
        return where(scene, dice, article(found[1], dice), found[0])
    name = dice.choice(scene.things).name
    things = called(scene, name)
    return [(dice.choice(WHERE_ARE).format(names=plural(name)), boxes(scene, *things))] if len(things) > 1 else None


def phrase(scene, dice):
    """the leftmost thing, the highest dog, the thing above the car, the biggest thing"""
    sort, side = dice.below(4), dice.choice(tuple(SIDES))
    if len(scene.things) < 2:
        return None
    if sort == 0:
        found = unique_name(scene, dice)
        beside = found and neighbours(scene, found[0], side)
        return where(scene, dice, THING_BESIDE[side].format(phrase=f"the {found[1]}"), *beside) \
            if beside and len(beside) == 1 else None
    if sort == 1:
        big = dice.below(2)
        first, second = sorted(scene.things, key=lambda thing: length(scene, thing) * (-1 if big else 1))[:2]
        clear = abs(length(scene, first) - length(scene, second)) >= LARGER
        return where(scene, dice, f"the {'biggest' if big else 'smallest'} thing", first) if clear else None
    name, things = "thing", scene.things
    if sort == 2:                                           # of one kind, where there are several
        name = dice.choice(names_of(dice.choice(scene.things)))
        things = called(scene, name)
    last = len(things) > 1 and extreme(scene, things, side)
    return where(scene, dice, f"the {dice.choice(EXTREMES[side])} {name}", last) if last else None


def refusal(scene, dice):
    name = absent(scene, dice)
    return [(dice.choice(WHERE).format(phrase=article(name, dice)), f"There is no {name}.")]


def at_box(scene, dice):
    thing = dice.choice(scene.things)
    return [(dice.choice(AT_BOX).format(box=boxes(scene, thing)), sentence(a(thing.name)))]


def count(scene, dice):
    return [(dice.choice(COUNT), f"{len(scene.things)}.")]


def count_kind(scene, dice):
    name = dice.choice(names_of(dice.choice(scene.things))) if dice.below(3) else absent(scene, dice)
    return [(dice.choice(COUNT_KIND).format(names=plural(name)), f"{len(called(scene, name))}.")]


def exists(scene, dice):
    if dice.below(2):
        return [(dice.choice(EXISTS).format(name=a(absent(scene, dice))), NO)]
    return yes(scene, dice, dice.choice(names_of(dice.choice(scene.things))) if dice.below(3) == 0 else
               dice.choice(scene.things).name)


def yes(scene, dice, name):
    return [(dice.choice(EXISTS).format(name=a(name)), YES.format(boxes=boxes(scene, *called(scene, name))))]


def each(scene, dice):
    """Which of these are there: dog, red star, cat? dog yes, red star no, cat no.      many names looked for at once"""
    names = dice.some(sorted({thing.name for thing in scene.things}), 3)
    while len(names) < 6:
        name = absent(scene, dice)
        names += [name] * (name not in names)
    names = dice.some(names, 6)
    told = ", ".join(f"{name} {'yes' if called(scene, name) else 'no'}" for name in names)
    return [(dice.choice(EACH).format(names=", ".join(names)), f"{told}.")]


def halves(scene, dice):
    """Left or right: dog, red star? dog left, red star right.      where several things are, in one short answer"""
    sides = dice.choice(tuple(HALVES))
    axis = SIDES[sides[0]][0]
    off = {thing.name: centre(scene, thing, axis) - 500 for thing in unique(scene)}
    names = [name for name in off if abs(off[name]) >= FAR / 2]
    if not names:
        return None
    names = dice.some(names, min(4, len(names)))
    told = ", ".join(f"{name} {HALF[sides[off[name] > 0]]}" for name in names)
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
    return [(f"What is the {dice.choice(EXTREMES[side])} thing?", sentence(a(thing.name)))] if thing else None


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
    """side: the one that was asked for. What should lie to the left, or above, is named first: yes if it does."""
    sides = next(sides for sides in HALVES if side in sides)
    if side == sides[1]:
        first, second, x, y = second, first, y, x
    return f"{first.capitalize()} is at {x:03d}, {second} at {y:03d}, so {sides[x > y]}: {'yes' if x < y else 'no'}."


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
    next_to = found and neighbours(scene, found[0], side)
    if found is None or len(next_to) > 1:
        return None
    question = dice.choice(BESIDE[side]).format(phrase=f"the {found[1]}")
    return [(question, sentence(a(next_to[0].name)) if next_to else "Nothing.")]


def background(scene, dice):
    return [(dice.choice(BACKGROUND), sentence(scene.background))]


def pronoun(scene, dice):
    """Is there a dog? Yes [[...]]. What is to its left? A cat."""
    thing = dice.choice(scene.things)
    alone = len(called(scene, thing.name)) == 1
    first, side = dice.below(4), dice.choice(tuple(SIDES))
    if first == 0:
        opening = [(dice.choice(AT_BOX).format(box=boxes(scene, thing)), sentence(a(thing.name)))]
    elif first == 1:
        side = dice.choice(("left", "right"))
        thing = extreme(scene, scene.things, side)
        if thing is None:
            return None
        opening = [(f"What is the {EXTREMES[side][0]} thing?", sentence(a(thing.name)))]
    elif not alone:
        return None
    else:
        opening = yes(scene, dice, thing.name) if first == 2 else where(scene, dice, f"the {thing.name}", thing)
    sort, side = dice.below(4), dice.choice(tuple(SIDES))
    next_to = neighbours(scene, thing, side)
    if sort == 0 and " " in thing.name:
        return opening + [("What colour is it?", sentence(thing.name.split()[0]))]
    if sort < 3 and first in (1, 2):
        return opening + [("Where is it?", boxes(scene, thing))]
    if len(next_to) > 1:
        return None
    return opening + [(BESIDE_IT[side], sentence(a(next_to[0].name)) if next_to else "Nothing.")]


TABLE = {                                                   # kind: how it is asked, how often
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
    """Up to `turns` questions about a scene and their answers: [(question, answer), ...]; none is asked twice.

    Nor is a box said twice, or an answer of several words: copied from an earlier turn, nothing is learned of the picture.

    kinds: names of KINDS_OF_QUESTION, by default all; weights {kind: whole number}, by default WEIGHTS. Any kind may
    come first. There are fewer turns only where the scene has no more such questions.
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
    """What these turns say that no later one may say again: questions, boxes, answers of several words."""
    said = {text for question, answer in turns for text in (question, *[answer] * (" " in answer))}
    return said | {box for turn in turns for text in turn for found in grounding.BOXES.finditer(text)
                   for box in found[1].split(";")}


def right(kind, truth, given, overlap=0.5):
    """Is an answer to a question of this kind right?

    It must be the true one letter by letter; only the numbers in boxes may differ, as long as each box has at least
    this IoU with the true one in its place. "exists" counts for its yes or no alone, whatever boxes follow; "relation"
    and "size" for what comes after the colon, whatever numbers were compared.
    """
    if kind == "exists":
        return re.findall(r"\w+", given)[:1] == re.findall(r"\w+", truth)[:1]
    if kind == "size" or kind.startswith("relation"):
        return given.rpartition(":")[2].strip() == truth.rpartition(":")[2].strip()
    without = [grounding.BOXES.sub(lambda box: re.sub("[0-9]+", "#", box[0]), text) for text in (truth, given)]
    (true, _), (found, _) = grounding.parse(truth), grounding.parse(given)
    return (without[0] == without[1] and len(true) == len(found)
            and all(grounding.iou(*pair) >= overlap for pair in zip(true, found)))
