"""How often a model answers right about pictures it has never seen, in one table: groups of rows, a share for each row.

An answer counts if conversations.right says so: letter by letter, boxes at IoU 0.5. Every question of a row is about
another picture, or another text.
"""
import gzip
import itertools
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from ..world import conversations, scenes, sketches, texts
from ..world.scenes import SIDE, Dice, Scene, scene
from ..world.sketches import AS_DRAWN, LINES, MOUSE, MOUSE_LINES, STRANGE, UNKNOWN, sketch
from ..world.wordings import DO_NOT_KNOW
from ..world.writing import CAPTCHA, NEAT, writing
from .asking import ask

ONE_TO_FOUR = (1, 1), (2, 2), (3, 3), (4, 4)
FIVE_OR_SIX = ((5, 6),)
LARGE = (35, 65)                                            # pixels of 112, for a thing that is alone in its picture
FEW = "box", "caption", "count", "relation", "exists", "colour", "leftmost", "background"
MANY = "box", "caption", "count"                            # what is asked where there are many things
CLOSE = 0.75                                                # the IoU of a tight box
SAMPLES = 1000                                              # of the bootstrap
RECORDED = Path(__file__).with_name("first_edition.json.gz")


@dataclass(frozen=True)
class Asked:
    """A question of some kind; where it refers to an earlier one, `turns` holds both."""
    kind: str
    turns: tuple                                            # of (question, true answer); the last one counts
    scene: Scene | None = None
    group: str = ""

    @property
    def question(self):
        return self.turns[-1][0]

    @property
    def truth(self):
        return self.turns[-1][1]

    @property
    def things(self):
        return len(self.scene.things) if self.scene else 0

    def right(self, answer, overlap=0.5):
        return conversations.right(self.kind, self.truth, answer, overlap)


# Kinds of question for evaluation only, besides those in wordings that training never uses

def name(scene, dice):
    return [("What is this?", conversations.identified(scene.things[0]))]


def does_not_know(scene, dice):
    return name(scene, dice) if scene.things[0].name == UNKNOWN else None


ABOUT_PICTURES = {**conversations.KINDS_OF_QUESTION, **conversations.UNSEEN, "name": name, "does not know": does_not_know}
UNSEEN = ", unseen wording"


# Groups of rows

@dataclass(frozen=True)
class Pictures:
    """Questions about pictures of one sort"""
    name: str
    kinds: tuple                                            # of ABOUT_PICTURES
    draw: Callable = scene                                  # (split, number, things, side=...) -> Scene
    things: tuple = ((1, 1),)                               # fewest and most in a picture; the pairs take turns
    split: str = "test"                                     # what is drawn where the split "test" is asked for

    def questions(self, split, count, side):
        """`count` questions of each kind, or fewer where few pictures have such a question -> [Asked, ...]"""
        if split not in (scenes.SPLITS if self.plain else sketches.SPLITS):
            return []
        split, asked = self.split if split == "test" else split, {kind: [] for kind in self.kinds}
        for number in itertools.count():                    # kinds that few pictures allow are given up
            missing = [kind for kind, found in asked.items() if len(found) < count and 40 + 25 * len(found) > number]
            if not missing:
                return [question for found in asked.values() for question in found]
            fewest, most = things = self.things[number % len(self.things)]
            s = self.draw(split, number, things, side=side)
            if not fewest <= len(s.things) <= most:         # not all found room
                continue
            for kind in missing:
                turns = ABOUT_PICTURES[kind](s, Dice(f"{split} {kind}", number))
                if turns:
                    asked[kind].append(Asked(kind, tuple(turns), s, self.name))

    @property
    def plain(self):
        return self.draw is scene


@dataclass(frozen=True)
class Texts:
    """Conversations without a picture"""
    name: str
    kinds: tuple                                            # of texts.KINDS_OF_TEXT or texts.UNSEEN
    plain = False

    def questions(self, split, count, side):
        if split not in sketches.SPLITS:
            return []
        return [Asked(kind, tuple(texts.text_conversation(Dice(f"{split} {kind}", number), 1, (kind,))), group=self.name)
                for kind in self.kinds for number in range(count)]


@dataclass(frozen=True)
class Recorded:
    """Questions that the first edition's world asked about plain scenes, and its texts; up to `count` of each kind and
    number of things"""
    name: str
    things: tuple                                           # fewest and most; (0, 0): texts
    plain = False

    def questions(self, split, count, side):
        asked, seen = [], Counter()
        for kind, drawn, turns in recorded() if split == "test" else ():
            fewest, most = things = tuple(drawn[2]) if drawn else (0, 0)
            seen[kind, things] += 1
            if self.things[0] <= fewest and most <= self.things[1] and seen[kind, things] <= count:
                s = scene(drawn[0], drawn[1], things, side) if drawn else None
                asked.append(Asked(kind, tuple(map(tuple, turns)), s, self.name))
        order = list(dict.fromkeys(question.kind for question in asked))
        return sorted(asked, key=lambda question: order.index(question.kind))


@cache
def recorded():
    """[[kind, [split, number, [fewest, most]] or None, [[question, answer], ...]], ...]"""
    return json.loads(gzip.decompress(RECORDED.read_bytes()))


def written(sort, manner, split, number, things, side):
    return writing(split, number, sort, manner, side)


def number(name, manner, split):
    return Pictures(name, ("read",), partial(written, "number", manner), ((1, 3),), split)


def one(name, manner, split, kinds=("name", "box")):
    return Pictures(name, kinds, partial(sketch, manner=manner, sizes=LARGE), split=split)


GROUPS = (
    Pictures("plain, 1-4 things", FEW, scene, ONE_TO_FOUR),
    Pictures("plain, 5-6 things", MANY, scene, FIVE_OR_SIX),
    Pictures("sketches, 1-4 things", FEW, sketch, ONE_TO_FOUR),
    Pictures("sketches, 5-6 things", MANY, sketch, FIVE_OR_SIX),
    Pictures("crowd, 7-8 things", MANY, sketch, ((7, 8),)),
    one("style, one thing in colour", AS_DRAWN, "style"),
    one("style, one thing in lines", LINES, "style"),
    Pictures("style, two things", ("caption",), partial(sketch, manner=AS_DRAWN), ((2, 2),), "style"),
    one("shapes by mouse, filled", MOUSE, "test"),
    one("shapes by mouse, outlined", MOUSE_LINES, "test"),
    number("number, fonts never trained", NEAT, "style"),
    number("captcha, fonts never trained", CAPTCHA, "style"),
    number("number, trained fonts", NEAT, "test"),
    number("captcha, trained fonts", CAPTCHA, "test"),
    one("outside the world", STRANGE, "style", ("does not know",)),
    one("outside the world, trained hands", STRANGE, "test", ("does not know",)),
    Pictures("unseen wording", tuple(kind for kind in conversations.UNSEEN if kind != f"read{UNSEEN}"), sketch,
             ONE_TO_FOUR),
    Pictures("unseen wording", (f"read{UNSEEN}",), partial(written, None, NEAT), ((1, 6),)),
    Texts("unseen wording", tuple(texts.UNSEEN)),
    Texts("text", tuple(texts.KINDS_OF_TEXT)),
    Recorded("first edition, 1-4 things", (1, 4)),
    Recorded("first edition, 5-6 things", (5, 6)),
    Recorded("first edition, text", (0, 0)))

def measure(model, split="test", count=200, groups=GROUPS, kinds=None, picture=True, side=SIDE):
    """{group: {row: {"share", "low", "high", "n"}}}: the share of right answers and its 95 % interval

    split: "test", whose groups of other styles are drawn by hands that training never uses, or another; what it does
    not have is left out. count: of pictures or texts that a row asks about. kinds: of questions, by default all.
    picture: whether the model is shown it. side: pixels of the pictures.
    """
    asked = questions(split, count, groups, kinds, side)
    return score(asked, ask(model, asked, picture))


def flat(table):
    """{"group: row": share} of a table of `measure`, for a log"""
    return {f"{group}: {row}": round(cell["share"], 4) for group, rows in table.items() for row, cell in rows.items()}


def questions(split, count, groups=GROUPS, kinds=None, side=SIDE):
    """The questions of `measure`, the same every time -> [Asked, ...]"""
    return [question for group in groups for question in group.questions(split, count, side)
            if kinds is None or question.kind in kinds]


def score(asked, said):
    """The table of `measure`, from the questions and the answers given"""
    table = {}
    for question, answer in zip(asked, said):
        for row, *counts in results(question, answer):
            table.setdefault(question.group, {}).setdefault(row, []).append(counts)
    return {group: {row: interval(*np.array(counts, float).T) for row, counts in rows.items()}
            for group, rows in table.items()}


def results(question, answer):
    """(row, right, of how many) for every row that a question belongs to"""
    kind, right = question.kind, question.right(answer)
    if question.group == "unseen wording":
        yield "all kinds", right, 1
    yield kind.removesuffix(UNSEEN) if question.group == "unseen wording" else kind, right, 1
    if kind == "caption":
        there, found = named(question.truth), named(answer)
        both = sum((there & found).values())
        yield "caption names", there == found, 1
        yield "caption recall", both, sum(there.values())
        yield "caption precision", both, sum(found.values())
    if kind == "box":
        yield "box at 0.75", question.right(answer, CLOSE), 1
    if kind == "name":
        yield "name not refused", answer != DO_NOT_KNOW, 1


def named(caption):
    """Counter of the things that a caption names"""
    return Counter(re.sub("^an? ", "", part) for part in re.split(", | and ", caption.strip().rstrip(".").lower()))


def interval(right, of):
    """The share sum(right) / sum(of) and its 95 % interval: Wilson's of right answers, the bootstrap's of other ratios"""
    low, high = wilson(right.sum(), len(of)) if (of == 1).all() else bootstrap(right, of)
    return {"share": float(right.sum() / of.sum()), "low": float(low), "high": float(high), "n": len(of)}


def wilson(right, n, z=1.959964):
    """The 95 % interval of a share of n independent answers (Wilson 1927): its ends p are those with
    |right / n - p| = z sqrt(p (1 - p) / n)."""
    share, spread = right / n, z * z / n
    middle = share + spread / 2
    half = (spread * share * (1 - share) + spread ** 2 / 4) ** 0.5
    return tuple(round(end / (1 + spread), 12) for end in (middle - half, middle + half))     # of none 0, of all 1


def bootstrap(right, of):
    """The 95 % interval of sum(right) / sum(of) in samples drawn with replacement (Efron 1979)

    Where every answer is right, so is every sample: the interval is then narrower than what is really known.
    """
    drawn = np.random.default_rng(0).integers(len(of), size=(SAMPLES, len(of)))
    return np.quantile(right[drawn].sum(1) / of[drawn].sum(1), (0.025, 0.975))


# What the first edition's weights got right of its recorded questions: (right, of how many)
FIRST_EDITION = {
    "1-4 things": {"caption": (260, 300), "box": (287, 300), "count": (288, 300), "exists": (116, 120),
                   "colour": (120, 120), "leftmost": (118, 120), "background": (120, 120), "relation": (225, 225)},
    "5-6 things": {"caption recall": (303, 404), "box": (61, 75), "relation": (72, 75)},
    "text": {"list": (21, 80), "sum": (80, 80), "copy": (78, 80)}}


def not_worse(right, n):
    """The least share of n whose interval does not part from that of `right` of n"""
    return bisect_left(range(n + 1), wilson(right, n)[0], key=lambda least: wilson(least, n)[1]) / n


# What the bundled weights must reach at least on the split "test", and what they aim at: {(group, row): (least, aim)}
GATES = {
    **{(f"{world}, 1-4 things", row): gate for world in ("plain", "sketches") for row, gate in
       (("box", (.95, .97)), ("caption", (.88, .92)), ("count", (.97, .98)),
        *((row, (.97, .98)) for row in ("relation", "exists", "colour", "leftmost", "background")))},
    **{(f"{world}, 5-6 things", row): gate for world in ("plain", "sketches") for row, gate in
       (("box", (.88, .92)), ("count", (.80, .90)), ("caption recall", (.85, .90)))},
    ("style, one thing in colour", "name"): (.75, .88), ("style, one thing in colour", "box"): (.92, .96),
    ("style, one thing in colour", "name not refused"): (.98, .98),
    ("style, one thing in lines", "name"): (.60, .80), ("style, one thing in lines", "box"): (.90, .95),
    ("style, two things", "caption names"): (.55, .75),
    ("shapes by mouse, filled", "name"): (.97, 1.0), ("shapes by mouse, outlined", "name"): (.95, .99),
    ("number, fonts never trained", "read"): (.90, .97), ("captcha, fonts never trained", "read"): (.50, .80),
    ("outside the world", "does not know"): (.80, .90),
    ("unseen wording", "all kinds"): (.85, .93),
    ("text", "list"): (.60, .90), ("text", "sum"): (.98, .99), ("text", "copy"): (.98, .99),
    **{(f"first edition, {group}", row): (not_worse(right, n), right / n)
       for group, rows in FIRST_EDITION.items() for row, (right, n) in rows.items()}}


def misses(table, gates=GATES):
    """Where a table is below the gates, or lacks what they ask for -> [(group, row, share or None, least), ...]"""
    found = [(*place, table.get(place[0], {}).get(place[1], {}).get("share"), least)
             for place, (least, _) in gates.items()]
    return [(group, row, share, least) for group, row, share, least in found if share is None or share < least]
