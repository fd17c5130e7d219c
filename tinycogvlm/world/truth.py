"""What is true of a scene: where its things are, which is next to which, and what each may be called.

A question without a single answer is never asked: where two things are too close to be ordered, or share a name, these
functions say so.
"""
from functools import cache

from ..inputs import grounding
from .scenes import NAMES, NEVER_PAINTED
from .sketches import UNKNOWN

SIDES = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}    # the axis, and the direction along it
# In thousandths of the picture:
CLOSE = (36, 54)            # centres closer than this in x or y have no order; in x, scenes keep them that far apart
FAR = 90                    # the least distance between centres that a yes or no compares
LARGER = 60                 # the least difference between longer sides that are compared


@cache
def trained_names(names):
    return tuple(name for name in names if name not in NEVER_PAINTED)


TRAINED_NAMES = trained_names(NAMES)


# Places

def rounded(scene, thing):
    """A thing's box in thousandths, to multiples of 20: at this resolution the third digit would be noise."""
    return tuple(min(980, int(c / 20 + 0.5) * 20) for c in scene.thousandths(thing))


def boxes(scene, *things):
    return grounding.box_text([rounded(scene, thing) for thing in things])


def middle(scene, thing, axis):
    """The centre's x or y as answers give it: that of the rounded box, so that it follows from the box as written."""
    box = rounded(scene, thing)
    return (box[axis] + box[axis + 2] + 20) // 40 * 20


def length(scene, thing):
    """The longer side as answers give it"""
    x0, y0, x1, y1 = rounded(scene, thing)
    return max(x1 - x0, y1 - y0)


def centre(scene, thing, axis):
    """The centre's x or y in thousandths, not rounded"""
    return (thing.box[axis] + thing.box[axis + 2]) * 500 / scene.side


def neighbours(scene, thing, side):
    """The thing next to this one on a side: [] if there is none, [it], or several where the order is unclear.

    Next means next in the order of the centres along that axis, however far away it is along the other.
    """
    axis, way = SIDES[side]
    here = centre(scene, thing, axis)
    ahead = [(way * (centre(scene, other, axis) - here), i)
             for i, other in enumerate(scene.things) if other is not thing]
    ahead = sorted(pair for pair in ahead if pair[0] > -CLOSE[axis])
    if ahead and ahead[0][0] < CLOSE[axis]:                 # level with the thing itself: perhaps on the other side
        return [thing, scene.things[ahead[0][1]]]
    return [scene.things[i] for distance, i in ahead if distance < ahead[0][0] + CLOSE[axis]]


def extreme(scene, things, side):
    """The one of these things that is furthest on that side, or None where the order is unclear."""
    axis, way = SIDES[side]
    place = {thing: way * centre(scene, thing, axis) for thing in things}
    first, *others = sorted(things, key=place.get, reverse=True)
    return None if others and place[first] - place[others[0]] < CLOSE[axis] else first


# Which things can be asked for

def called(scene, name):
    """The things that a name refers to: "dog", "red star" or "star"."""
    return [thing for thing in scene.things if thing.name == name or thing.name.endswith(f" {name}")]


def names_of(thing):
    """("red star", "star") or ("dog",)"""
    return (thing.name, thing.name.split()[1]) if " " in thing.name else (thing.name,)


def known(scene):
    """The things that have a name in this world"""
    return [thing for thing in scene.things if thing.name != UNKNOWN]


def unique(scene):
    """The things whose full name no other thing has."""
    names = [thing.name for thing in scene.things]
    return [thing for thing in known(scene) if names.count(thing.name) == 1]


def one_of(options, dice):
    return dice.choice(options) if options else None


def unique_pair(scene, dice):
    """Two things with unique names, in random order, or None."""
    things = unique(scene)
    if len(things) < 2:
        return None
    i, j = dice.below(len(things)), dice.below(len(things) - 1)
    return things[i], things[j + (j >= i)]


def unique_name(scene, dice):
    """(a thing, a name that only it has), or None. A coloured shape is named by its shape alone a third of the time."""
    thing = one_of(unique(scene), dice)
    if thing is None:
        return None
    name = names_of(thing)[-1] if dice.below(3) == 0 else thing.name
    return thing, name if len(called(scene, name)) == 1 else thing.name


def absent(scene, dice):
    """A name that nothing here has. Where possible, a quarter share the colour of something here, a quarter its shape.

    What training never paints, training never asks for either, or the model would learn that it is never there.
    """
    here = {thing.name for thing in scene.things}
    names = scene.names if here.intersection(NEVER_PAINTED) else trained_names(scene.names)
    part = dice.below(4)                                    # 0: the same colour, 1: the same shape
    if part < 2:
        shared = {name.split()[part] for name in here if " " in name}
        near = [name for name in names if " " in name and name.split()[part] in shared and name not in here]
        if near:
            return dice.choice(near)
    name = dice.choice([name for name in names if name not in here])
    shape = name.split()[-1]
    return shape if shape != name and dice.below(2) and not called(scene, shape) else name
