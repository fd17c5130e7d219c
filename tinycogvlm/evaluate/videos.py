"""How often a model is right about videos, at the paces of training and at one that training never shows."""
from collections import Counter

import numpy as np

from ..world import conversations
from ..world.scenes import Dice
from ..world.videos import KINDS_OF_QUESTION, PACES, UNSEEN_PACE, clip
from .accuracy import Asked, interval
from .asking import ask
from .report import aligned, percent
from .report import interval as between

COLUMNS = {"trained paces": PACES, "unseen pace": (UNSEEN_PACE,)}


def measure(model, split="test", count=50, times=True, columns=COLUMNS, through=iter):
    """{column: {kind: {"share", "low", "high", "n", "majority"}}}: shares of right answers, and what guessing gives

    count: questions of every kind in a column, each about another video. times: whether the seconds of the frames are
    written. columns: {name: paces}. majority: the share of the commonest true answer, where a name of the question counts
    as the same whatever it is: whoever always says that "there is no such thing" needs no video.
    """
    asked = {column: questions(model.config, split, count, times, paces) for column, paces in columns.items()}
    said = {}
    for column in through(list(asked)):
        by_clip = {}
        for question in asked[column]:
            by_clip.setdefault(question.scene, []).append(question)
        answers = [answer for some in by_clip.values() for answer in ask(model, some)]
        said[column] = list(zip((question for some in by_clip.values() for question in some), answers))
    return {column: table(pairs) for column, pairs in said.items()}


def questions(config, split, count, times, paces):
    """[Asked, ...]: `count` of each kind, each video asked about all that it allows"""
    found, number = {kind: [] for kind in KINDS_OF_QUESTION}, 0
    while any(len(some) < count for some in found.values()) and number < 10 * count:
        shown = clip(split, number, side=config.vision.image_size, pace=paces[number % len(paces)], times=times)
        for kind, some in found.items():
            asked = KINDS_OF_QUESTION[kind](shown, Dice(f"{split} {kind}", number)) if len(some) < count else None
            if asked:
                some.append(Asked(kind, (asked,), shown))
        number += 1
    return [question for some in found.values() for question in some]


def table(pairs):
    rows = {}
    for kind in KINDS_OF_QUESTION:
        some = [(question.truth, said) for question, said in pairs if question.kind == kind]
        right = [conversations.right(kind, truth, said) for truth, said in some]
        if some:
            commonest = max(Counter(nameless(question) for question, _ in pairs if question.kind == kind).values())
            rows[kind] = {**interval(np.array(right, float), np.ones(len(right))), "majority": commonest / len(some)}
    return rows


def nameless(asked):
    """The true answer, in which names of the question are numbered in its order"""
    truth = asked.truth.lower()
    named = [thing.name for thing in asked.scene.scene.things if thing.name in asked.question]
    for number, name in enumerate(sorted(named, key=asked.question.index)):
        truth = truth.replace(name, f"#{number}")
    return truth


def text(tables):
    """{model: what `measure` gives} -> a table in Markdown: a row for each kind of question"""
    columns = [(name, column) for name, measured in tables.items() for column in measured]
    heads = ["right answers in per cent", *(f"{column}, {name}" if name else column for name, column in columns), "guess"]
    rows = [heads]
    for kind in KINDS_OF_QUESTION:
        cells = [tables[name][column].get(kind) for name, column in columns]
        guesses = [cell["majority"] for cell in cells if cell]
        rows.append([kind, *(f"{percent(cell['share'])} ({between(cell)})" if cell else "" for cell in cells),
                     percent(max(guesses)) if guesses else ""])
    return "\n".join(aligned(rows))
