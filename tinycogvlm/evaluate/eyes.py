"""How well eyes take the place of words: what the model says of a picture beside what it says when it reads the name.

The measure is the teacher itself, the language model without a picture. Where both say the same, the picture has told
the model what the name would have told it, right or wrong.
"""
import re
from dataclasses import dataclass, replace

import numpy as np

from ..model.cogvlm import head
from ..world.real_words import ANY_SIZE, KNOWN, ONE, TOGETHER, WORDINGS, query
from ..world.sketches import AS_DRAWN
from ..world.wordings import plural
from . import teacher
from .accuracy import LARGE, interval

NAMED = {ONE: "What is this?", TOGETHER: "What is in the picture?"}     # asked what it is
AT_ONCE = 16                                                # queries computed together


@dataclass(frozen=True)
class Group:
    """Queries of one sort

    style: drawn by hands that training never uses. In the split `test` all others are by the hands of training, in `check`
    by hands of its own. sizes: pixels of 112, of a thing that is alone. naming: asked what it is, nothing else.
    """
    what: str
    rows: tuple
    style: bool = False
    trained: bool = True
    about: str = ONE
    naming: bool = False
    manner: object = AS_DRAWN
    sizes: tuple = LARGE

    def name(self, split="test"):
        hands = f"hands of {split}" if split != "test" else "style" if self.style else "own hands"
        return f"{hands}, {self.what}"

    def wordings(self):
        chosen = [wording for wording in WORDINGS if wording.trained == self.trained and wording.about == self.about]
        return [wording for wording in chosen if wording.seen == NAMED[self.about]] if self.naming else chosen

    def queries(self, split, count):
        """`count` of them, without pictures of one thing twice; those of `style` are of the split "style" for "test"."""
        split, found, number = "style" if self.style and split == "test" else split, [], 0
        several = {"things": (2, 2)} if self.about == TOGETHER else {"sizes": self.sizes}
        while len(found) < count:
            one = query(split, number, self.about, self.wordings(), self.manner, **several)
            found += [one] if one and len(set(one.names)) == len(one.names) else []
            number += 1
        return found


HIT, BLIND, EQUAL = "tokens hit", "tokens hit, no picture", f"first {teacher.LONGEST} tokens equal"
NAME = "named"
OWN = Group("trained wordings", (HIT, BLIND, EQUAL))
NEW = Group("wordings never trained", (HIT, BLIND, EQUAL), trained=False)
THING = Group("one thing", (NAME,), naming=True)
GROUPS = (
    OWN, replace(OWN, style=True), NEW, replace(NEW, style=True), THING, replace(THING, style=True),
    Group("two things", (NAME,), about=TOGETHER, naming=True),
    Group("in any manner, trained wordings", (HIT, BLIND, EQUAL), manner=replace(KNOWN, shapes=0), sizes=ANY_SIZE),
    Group("in any manner, one thing", (NAME,), naming=True, manner=replace(KNOWN, shapes=0), sizes=ANY_SIZE),
    Group("coloured shapes, trained wordings", (HIT, BLIND, EQUAL), manner=replace(KNOWN, shapes=100)))
WATCHED = replace(OWN, rows=(HIT,)), replace(NEW, rows=(HIT,)), THING


# {(group, row): (at least, aim)}
GATES = {("own hands, trained wordings", HIT): (.93, .97), ("style, trained wordings", HIT): (.90, .94),
         ("own hands, wordings never trained", HIT): (.82, .90), ("style, wordings never trained", HIT): (.80, .87),
         ("own hands, one thing", NAME): (.95, .98), ("style, one thing", NAME): (.70, .85),
         ("own hands, two things", NAME): (.60, .80), ("own hands, trained wordings", EQUAL): (.60, .80)}


def measure(model, count=200, split="test", groups=GROUPS, through=lambda parts, name: parts):
    """{a group's name: {row: {"share", "low", "high", "n"}}}, as accuracy.measure gives it; `count` pictures for each"""
    return measured(model, prepared(model, count, split, groups, through), through)


def prepared(model, count, split="test", groups=GROUPS, through=lambda parts, name: parts):
    """[(a group's name, the group, its queries, the teacher's answers)], which do not depend on the eyes"""
    groups = [group for group in groups if split == "test" or not group.style]      # elsewhere all hands are others
    start, found = teacher.Start(model), [(group, group.queries(split, count)) for group in groups]
    told = sorted({one.told for group, queries in found if not group.naming for one in queries}, key=len)
    said = {}
    for first in through(range(0, len(told), teacher.TOGETHER), "teacher"):
        some = told[first:first + teacher.TOGETHER]
        said |= zip(some, teacher.answers(start, [model.inputs(question) for question in some]))
    return [(group.name(split), group, queries, [None if group.naming else said[one.told][0] for one in queries])
            for group, queries in found]


def measured(model, asked, through=lambda parts, name: parts):
    start, table = teacher.Start(model), {}
    for name, group, queries, answers in asked:
        counts = {row: [] for row in group.rows}
        for first in through(range(0, len(queries), AT_ONCE), name):
            some, said = queries[first:first + AT_ONCE], answers[first:first + AT_ONCE]
            rows = [model.inputs(one.seen, one.scene.picture) for one in some]
            if HIT in counts:
                counts[HIT] += hits(start, rows, said)
            if BLIND in counts:
                counts[BLIND] += hits(start, [model.inputs(one.seen) for one in some], said)
            if EQUAL in counts or NAME in counts:
                free = [ids for ids, _, _ in teacher.answers(start, rows)]
            if EQUAL in counts:
                counts[EQUAL] += [(own == ids, 1) for own, ids in zip(free, said)]
            if NAME in counts:
                counts[NAME] += [(names(model.tokenizer.decode(own), one.names), 1) for own, one in zip(free, some)]
        table[name] = {row: interval(*np.array(found, float).T) for row, found in counts.items()}
    for (group, row), (least, aim) in GATES.items():
        if row in table.get(group, {}):
            table[group][row] |= {"least": least, "aim": aim}
    return table


def hits(start, rows, answers):
    """(tokens of the answer that the model finds most probable after those before them, of how many) for each prompt"""
    model = start.model
    inputs, positions, at = teacher.answered(rows, answers, start.length, model.config.pad_token_id)
    with model.answering():
        h, _ = model.hidden(inputs, start.copied(*inputs.ids.shape), positions, keep=None)
    best = head(h[tuple(at)], model.leaves[f"{model.config.head}.weight"]).argmax(-1)
    right = best == np.concatenate(answers)
    return [(int(right[at[0] == b].sum()), len(ids)) for b, ids in enumerate(answers)]


def names(text, wanted):
    """Whether an answer names all of these things, in the singular or the plural"""
    return all(re.search(rf"\b({name}|{plural(name)})\b", text, re.IGNORECASE) for name in wanted)
