"""How often a model answers right about scenes it has never seen, in one table.

An answer counts if conversations.right says so: letter by letter, boxes at IoU 0.5. Every question of a row is about
another scene, so the bootstrap over scenes (Efron 1979) is one over questions.
"""
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..inputs import grounding
from ..world import conversations
from ..world.scenes import SIDE, Dice, Scene, scene
from ..world.texts import KINDS_OF_TEXT, text_conversation
from ..world.wordings import RELATIONS
from .asking import ask

# Groups of questions by the number of things in the scene: fewest, most. Texts have no picture, so nothing in it
GROUPS = {"1 thing": (1, 1), "1-2 things": (1, 2), "1-4 things": (1, 4), "5-6 things": (5, 6), "text": (0, 0)}
DRAWN = ((1, 1), (2, 2), (3, 3), (4, 4), (5, 6))            # numbers of things; equally many scenes are drawn of each
ABOUT_PICTURES = {**conversations.KINDS_OF_QUESTION, **conversations.UNSEEN}
KINDS = (*ABOUT_PICTURES, *KINDS_OF_TEXT)
SMALL, LARGE = 280, 400                                     # a box's longer side in thousandths; between them: "middle"
IN_PARTS = "1-4 things"                                     # the only group whose parts are shown
SAMPLES = 1000                                              # of the bootstrap


def of_things(n):
    return "1 thing" if n == 1 else f"{n} things"


# A row is a kind of question, what is counted, and for which part of the questions: "box at 0.75, small"
COUNTED = ("", "recall", "precision", "at 0.75")
PARTS = ("", *map(of_things, range(1, 7)), "small", "middle", "large", "yes", "no", *RELATIONS)

# The least that the bundled weights must reach on the split "test"
GATES = {("1 thing", "box"): .97, ("1 thing", "caption"): .97,
         ("1-2 things", "box"): .85, ("1-2 things", "caption"): .92, ("1-2 things", "count"): .95,
         ("1-4 things", "box"): .65, ("1-4 things", "caption"): .75, ("1-4 things", "count"): .97,
         ("1-4 things", "colour"): .93, ("1-4 things", "background"): .99, ("1-4 things", "leftmost"): .95,
         ("1-4 things", "exists"): .85, ("1-4 things", "relation"): .75}


@dataclass(frozen=True)
class Asked:
    """A question of some kind; where it refers to an earlier one, `turns` holds both."""
    kind: str
    turns: tuple                                            # of (question, true answer); the last one counts
    scene: Scene | None = None

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


def measure(model, split="test", scenes=200, groups=GROUPS, kinds=KINDS, picture=True, side=SIDE):
    """{group: {row: {"share", "low", "high", "n"}}}: the share of right answers and its 95 % interval

    scenes: how many with each number of things, 1, 2, 3, 4 and 5 or 6, and how many texts of each kind. groups: names
    of GROUPS; kinds: names of KINDS; what a split or a group does not have is left out. picture: whether the model is
    shown it. side: pixels of the scenes.
    """
    asked = questions(split, scenes, groups, kinds, side)
    return score(asked, ask(model, asked, picture), groups)


def flat(table):
    """{"group: row": share} of a table of `measure`, for a log: without the parts of a row."""
    return {f"{group}: {row}": round(cell["share"], 4) for group, rows in table.items() for row, cell in rows.items()
            if row in KINDS or "," not in row}


def questions(split, scenes, groups=GROUPS, kinds=KINDS, side=SIDE):
    """The questions of `measure`, the same every time -> [Asked, ...]"""
    asked = []
    for n, things in enumerate(DRAWN):
        if any(low <= things[0] and things[1] <= high for low, high in (GROUPS[group] for group in groups)):
            asked += about_scenes(split, range(n, 10 * scenes * len(DRAWN), len(DRAWN)), things, scenes,
                                  [kind for kind in ABOUT_PICTURES if kind in kinds], side)
    if "text" in groups and split not in ("combinations", "sizes"):     # which are splits of pictures
        for kind in KINDS_OF_TEXT:
            if kind in kinds:
                asked += [Asked(kind, tuple(text_conversation(Dice(f"{split} {kind}", number), 1, (kind,))))
                          for number in range(scenes)]
    return asked


def about_scenes(split, numbers, things, count, kinds, side):
    """`count` questions of each kind, or fewer where few scenes have such a question -> [Asked, ...], kind by kind"""
    asked = {kind: [] for kind in kinds}
    for tried, number in enumerate(numbers):
        hopeless = tried > 20 + count       # give up on kinds not seen so far: a scene of one thing has no comparison
        missing = [kind for kind in kinds if len(asked[kind]) < count and (asked[kind] or not hopeless)]
        if not missing:
            break
        s = scene(split, number, things, side)
        if not things[0] <= len(s.things) <= things[1]:     # not all found room
            continue
        for kind in missing:
            turns = ABOUT_PICTURES[kind](s, Dice(f"{split} {kind}", number))
            if turns:
                asked[kind].append(Asked(kind, tuple(turns), s))
    return [question for kind in kinds for question in asked[kind]]


def of_group(group, asked):
    """The indices of the questions that belong to a group"""
    low, high = GROUPS[group]
    return [i for i, question in enumerate(asked) if low <= question.things <= high]


def score(asked, said, groups=GROUPS):
    """The table of `measure`, from the questions and the answers given"""
    table = {}
    for group in groups:
        rows = {}                                           # {(kind, counted, part): [(right, of how many), ...]}
        for i in of_group(group, asked):
            for counted, part, *counts in results(asked[i], said[i]):
                rows.setdefault((asked[i].kind, counted, part), []).append(counts)
        order = sorted(rows, key=lambda row: [names.index(name) for names, name in zip((KINDS, COUNTED, PARTS), row)])
        if rows:
            table[group] = {row_name(*row): interval(*np.array(rows[row], float).T) for row in order
                            if not row[2] or group == IN_PARTS}
    return table


def row_name(kind, counted, part):
    """box, box at 0.75, or box at 0.75, small"""
    name = f"{kind} {counted}" if counted else kind
    return f"{name}, {part}" if part else name


def results(question, answer):
    """(counted, part, right, of how many) for every row of its kind that a question belongs to"""
    kind, right = question.kind, question.right(answer)
    yield "", "", right, 1
    if kind == "caption":
        there, found = named(question.truth), named(answer)
        both = sum((there & found).values())
        yield "recall", "", both, sum(there.values())
        yield "precision", "", both, sum(found.values())
    if kind == "box":
        x0, y0, x1, y1 = grounding.parse(question.truth)[0][0]
        longest, tight = max(x1 - x0, y1 - y0), question.right(answer, 0.75)
        size = "small" if longest < SMALL else "large" if longest > LARGE else "middle"
        yield "at 0.75", "", tight, 1
        for part in (of_things(question.things), size):
            yield "", part, right, 1
            yield "at 0.75", part, tight, 1
    if kind == "exists":
        yield "", "yes" if question.truth.startswith("Yes") else "no", right, 1
    if kind == "relation":
        yield "", next(side for side, wordings in RELATIONS.items()
                       if any(f" {wording} " in question.question for wording in wordings)), right, 1


def named(caption):
    """Counter of the things that a caption names"""
    return Counter(re.sub("^an? ", "", part) for part in re.split(", | and ", caption.strip().rstrip(".").lower()))


def interval(right, of):
    """The share sum(right) / sum(of), and the 95 % interval of that share in samples drawn with replacement.

    Where every answer is right, so is every sample: the interval is then narrower than what is really known.
    """
    drawn = np.random.default_rng(0).integers(len(of), size=(SAMPLES, len(of)))
    low, high = np.quantile(right[drawn].sum(1) / of[drawn].sum(1), (0.025, 0.975))
    return {"share": float(right.sum() / of.sum()), "low": float(low), "high": float(high), "n": len(of)}


def misses(table, gates=GATES):
    """Where a table is below the gates, or lacks what they ask for -> [(group, row, share or None, least), ...]"""
    found = [(*place, table.get(place[0], {}).get(place[1], {}).get("share"), least) for place, least in gates.items()]
    return [(group, row, share, least) for group, row, share, least in found if share is None or share < least]
