"""The truth about a scene, worked out once more, from the words of a question and the boxes of the things alone."""
import re

from tinycogvlm.inputs.grounding import BOXES, iou, parse
from tinycogvlm.world import shapes
from tinycogvlm.world.sketches import NAMES, UNKNOWN
from tinycogvlm.world.wordings import SIDE_OF_IT, plural

EVERY_NAME = NAMES + shapes.NAMES
SINGULAR = {plural(name): name for name in EVERY_NAME} | {name: name for name in EVERY_NAME}
NAME = re.compile(rf"\b({'|'.join(sorted(SINGULAR, key=len, reverse=True))})\b")
WAYS = {"left": (0, min), "right": (0, max), "above": (1, min), "over": (1, min), "higher": (1, min), "up": (1, min),
        "below": (1, max), "under": (1, max), "lower": (1, max), "down": (1, max), "leftmost": (0, min),
        "rightmost": (0, max), "topmost": (1, min), "highest": (1, min), "lowest": (1, max)}


def centre(thing):
    x0, y0, x1, y1 = thing.box
    return (x0 + x1) / 2, (y0 + y1) / 2


def side(thing):
    x0, y0, x1, y1 = thing.box
    return max(x1 - x0, y1 - y0)


def min_side(thing):
    x0, y0, x1, y1 = thing.box
    return min(x1 - x0, y1 - y0)


def way(question):
    question = re.sub("is this right|it right that|it true that", "", question)
    return next(WAYS[word] for word in re.findall(r"\w+", question) if word in WAYS)


def lies(axis, x, y):
    """so left: yes      where x lies; yes where the numbers rise"""
    return f"so {(('left', 'right'), ('above', 'below'))[axis][x > y]}: {'yes' if x < y else 'no'}"


def at(s, text):
    """The things that the boxes in a text are meant for."""
    found, malformed = parse(text)
    assert not malformed and all(c % 20 == 0 for box in found for c in box)
    best = [max(s.things, key=lambda thing: iou(box, s.thousandths(thing))) for box in found]
    assert all(iou(box, s.thousandths(thing)) > (0.7 if min_side(thing) > 14 * s.side / 112 else 0.4)
               for box, thing in zip(found, best))          # boxes are rounded to two pixels
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
    if thing and thing.name == UNKNOWN:
        return "Something unknown."
    return f"{'An' if thing.name[0] in 'aeiou' else 'A'} {thing.name}." if thing else "Nothing."


def what(thing):
    return "I do not know that thing." if thing.name == UNKNOWN else a_(thing)


def check(s, kind, question, answer, it=None):
    """Asserts that the answer is true -> the thing it is about; `it`: the one that the turn before was about"""
    named = NAME.findall(BOXES.sub("", question))
    things = [thing for name in named for thing in meant(s, name)]
    if kind in ("caption", "grounded"):
        told = re.split(", | and ", re.sub(r" \[\[.*?\]\]", "", answer.rstrip(".")).lower())
        told = [re.sub("^(an?|something) ", "", name) for name in told]
        if answer == what(s.things[0]) and len(s.things) == 1:
            told = [s.things[0].name]
        assert told == [thing.name for thing in sorted(s.things, key=centre)]
        assert at(s, answer) == (list(s.things) if kind == "grounded" else [])
        assert answer.count(", ") == max(0, len(told) - 2) and answer.count(" and ") == (len(told) > 1)
    elif kind == "box":
        assert at(s, answer) == things and (len(things) == 1 or named[0] in map(plural, SINGULAR))
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
        assert answer == what(it)
    elif kind == "count":
        assert answer == f"{len(s.things)}." and not named
    elif kind == "count kind":
        assert answer == f"{len(things)}."
    elif kind == "exists":
        assert at(s, answer) == things and answer.startswith("Yes [[" if things else "No.")
    elif kind == "each":
        asked = question.rpartition(": ")[2].rstrip("?.").split(", ")
        told = ", ".join(f"{name} {'yes' if meant(s, name) else 'no'}" for name in asked)
        assert len(set(asked)) == 6 and answer == f"{told}."
        assert (0 if all(thing.name == UNKNOWN for thing in s.things) else 1) <= answer.count(" yes") < 4
    elif kind == "halves":
        asked, axis = question.rpartition(": ")[2].rstrip("?.").split(", "), "left" not in question.lower()
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
    elif kind == "read":
        text = "".join(thing.name for thing in s.things)
        assert answer == f"{text.capitalize()}." or (
            answer == f"The {'number' if text.isdigit() else 'word'} {text}." and "number" not in question)
    else:
        raise AssertionError(kind)
    return it or (things or at(s, answer) or [None])[0]


def kind_of(question):
    """Of a question with a pronoun, or of the one before it."""
    if "[[" in question:
        return "at box"
    if question == "Where is it?":
        return "it"
    if re.search("colou?r of it|colou?r is it|colou?r does it", question):
        return "colour"
    if re.search("leftmost|rightmost", question):
        return "leftmost"
    if question.rstrip("?.").endswith(tuple(SIDE_OF_IT.values())):
        return "beside"
    return "box" if re.search(r"\bthe (?!picture|image)", question) else "exists"
