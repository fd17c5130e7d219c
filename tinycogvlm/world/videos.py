"""Videos of eight frames: a scene whose things appear, leave, come back and move, and questions about when and where.

A frame is the scene with some of its things, each at its place of that moment; the same seed gives the same video. The
frames are taken every 1, 2 or 4 seconds of a film of which the beginning is not shown, so the number of a frame does not
tell its second: only the time that is written after it does. A frame every 3 seconds is for evaluation only.
"""
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..inputs import grounding
from ..inputs.video import Video
from . import truth
from .conversations import unrepeatable
from .scenes import SIDE, Dice, Scene, scene
from .wordings import listed, sentence, with_article

FRAMES = 8
PACES, UNSEEN_PACE = (1, 2, 4), 3                           # seconds from a frame to the next
BEFORE = 10                                                 # the first frame's second is below this
CROSSED = 0.12                                              # the most that the boxes of two things overlap (IoU)


@dataclass(frozen=True)
class Clip:
    """A video and what is true of it.

    scene: all things, each where it is at the first moment. places: for each thing a box in pixels for each frame, None
    where it is not there. seconds: when each frame was taken.
    """
    scene: Scene
    places: tuple
    seconds: tuple
    times: bool = True                                      # whether the second is written after each frame

    @cached_property
    def frames(self):
        """A Scene for each moment, with the things that are there, from left to right"""
        found = []
        for boxes in zip(*self.places):
            here = [replace(thing, box=box) for thing, box in zip(self.scene.things, boxes) if box]
            found.append(replace(self.scene, things=tuple(sorted(here, key=lambda thing: thing.box[0] + thing.box[2]))))
        return found

    @cached_property
    def picture(self):
        """What a model is shown, as a picture of a Scene is"""
        return Video(self.pictures, "spread", self.seconds if self.times else ("",) * len(self.seconds))

    @property
    def pictures(self):
        """[(side, side, 3) uint8] of the frames; each has a little noise of its own, as a camera's have"""
        found = []
        for i, frame in enumerate(self.frames):
            dice = Dice(f"{frame.split} noise", FRAMES * frame.number + i)
            noise = dice.bytes(*frame.picture.shape) % 5
            found.append((frame.picture.astype(np.int16) + noise - 2).clip(0, 255).astype(np.uint8))
        return found

    def seen(self, thing):
        """The numbers of the frames that show a thing of the scene"""
        return [i for i, box in enumerate(self.places[self.scene.things.index(thing)]) if box]

    def visits(self, thing):
        """[(first, last), ...]: the frames between which a thing is there without a break"""
        seen = self.seen(thing)
        return list(zip([i for i in seen if i - 1 not in seen], [i for i in seen if i + 1 not in seen]))


def clip(split, number, things=(2, 3), side=SIDE, pace=None, start=None, times=True):
    """Video `number` of a split (see scenes.scene)

    pace: seconds from a frame to the next, start: the first frame's second; by default at random.
    """
    dice = Dice(f"{split} video", number)
    moment = dice.choice(PACES), dice.below(BEFORE)
    pace, start = (given if value is None else value for given, value in zip(moment, (pace, start)))
    s = scene(split, number, things, side)
    places = []
    for thing in s.things:
        seen = visits(dice)
        there = [thing.box if i in seen else None for i in range(FRAMES)]
        if dice.below(2):
            there = moved(dice, s, thing, seen, places) or there
        places.append(tuple(there))
    return Clip(s, tuple(places), tuple(start + pace * i for i in range(FRAMES)), times)


def visits(dice):
    """The frames that show a thing: it comes once, twice or three times, each time for a frame at least"""
    often = dice.choice((1, 1, 1, 2, 2, 3))
    cuts = sorted(dice.some(range(FRAMES + 1), 2 * often))
    return {i for first, end in zip(cuts[::2], cuts[1::2]) for i in range(first, end)}


def moved(dice, s, thing, seen, others):
    """The boxes of a thing on its way to another place; None if it would cross those of `others` or later things"""
    x0, y0, x1, y1 = thing.box
    x, y = dice.below(s.side - (x1 - x0) + 1) - x0, dice.below(s.side - (y1 - y0) + 1) - y0
    steps = [(x * i // (FRAMES - 1), y * i // (FRAMES - 1)) for i in range(FRAMES)]
    boxes = [(x0 + dx, y0 + dy, x1 + dx, y1 + dy) if i in seen else None for i, (dx, dy) in enumerate(steps)]
    standing = [[later.box] * FRAMES for later in s.things[len(others) + 1:]]
    clear = all(grounding.iou(box, other[i]) <= CROSSED for i, box in enumerate(boxes) if box
                for other in [*others, *standing] if other[i])
    return boxes if clear else None


# Every kind of question: (clip, dice) -> (question, answer), or None where the video allows no such question

def first_seen(clip, dice):
    """When does the dog first appear? 4."""
    thing = truth.one_of(truth.unique(clip.scene), dice)
    return thing and (f"When does the {thing.name} first appear?", f"{clip.seconds[clip.seen(thing)[0]]}.")


def last_seen(clip, dice):
    """When do you last see the dog? 7."""
    thing = truth.one_of(truth.unique(clip.scene), dice)
    return thing and (f"When do you last see the {thing.name}?", f"{clip.seconds[clip.seen(thing)[-1]]}.")


def how_often(clip, dice):
    """How often does the dog appear? 2."""
    thing = truth.one_of(truth.unique(clip.scene), dice)
    return thing and (f"How often does the {thing.name} appear?", f"{len(clip.visits(thing))}.")


def earlier(clip, dice):
    """Which appears first, the dog or the red star? The dog."""
    pair = truth.unique_pair(clip.scene, dice)
    if pair is None or clip.seen(pair[0])[0] == clip.seen(pair[1])[0]:
        return None
    first = min(pair, key=lambda thing: clip.seen(thing)[0])
    return f"Which appears first, the {pair[0].name} or the {pair[1].name}?", f"The {first.name}."


def order(clip, dice):
    """In what order do things appear? A dog, a cat and a red star."""
    things = sorted(truth.unique(clip.scene), key=lambda thing: clip.seen(thing)[0])
    moments = {clip.seen(thing)[0] for thing in things}
    if not 1 < len(things) == len(moments) == len(clip.scene.things):
        return None
    return "In what order do things appear?", sentence(listed([with_article(thing.name) for thing in things]))


def where_at(clip, dice):
    """Where is the dog at second 3? [[...]]"""
    thing, i = truth.one_of(truth.unique(clip.scene), dice), dice.below(FRAMES)
    if thing is None:
        return None
    here = [other for other in clip.frames[i].things if other.name == thing.name]
    answer = truth.boxes(clip.frames[i], *here) if here else f"There is no {thing.name}."
    return f"Where is the {thing.name} at second {clip.seconds[i]}?", answer


def what_at(clip, dice):
    """What is there at second 3? A dog and a red star."""
    i = dice.below(FRAMES)
    frame = clip.frames[i]
    across = [truth.centre(frame, thing, 0) for thing in frame.things]
    if any(right - left < truth.CLOSE[0] for left, right in zip(across, across[1:])):
        return None                                         # which is further left is unclear
    names = [with_article(thing.name) for thing in frame.things]
    return f"What is there at second {clip.seconds[i]}?", sentence(listed(names)) if names else "Nothing."


KINDS_OF_QUESTION = {"first seen": first_seen, "last seen": last_seen, "how often": how_often, "earlier": earlier,
                     "order": order, "where at": where_at, "what at": what_at}


def conversation(clip, dice, turns, kinds=tuple(KINDS_OF_QUESTION)):
    """Up to `turns` questions about a video and their answers, [(question, answer), ...]: no question and no box twice"""
    said = []
    for _ in range(10 * turns):
        asked = KINDS_OF_QUESTION[dice.choice(kinds)](clip, dice)
        if asked and len(said) < turns and not unrepeatable([asked]) & unrepeatable(said):
            said.append(asked)
    return said
