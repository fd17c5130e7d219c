"""How far one gets without understanding a picture: the most frequent answer, and that of the most similar picture.

Both know training scenes only. A model's score says little unless it is compared with theirs.
"""
import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
from PIL import Image

from ..inputs import grounding
from ..world.scenes import NAMES, SHAPES, SIDE, Dice
from ..world.truth import called
from ..world.wordings import sentence, with_article
from .accuracy import ABOUT_PICTURES, questions, score

SEEN = 2000                                                 # training scenes that a row asks about
GRID = 16                                                   # pixels a side at which pictures are compared
MANY = 20                                                   # answers to a wording, from which on its majority counts
ROLLS = 200                                                 # attempts at the same question about another scene
NAME = re.compile(rf"\b(?:{'|'.join(sorted(NAMES + SHAPES, key=len, reverse=True))})(?=(?:e?s)?\b)")


def measure(asked, groups, seen=SEEN, side=SIDE):
    """{"majority": table, "nearest": table} for the questions that a model was asked about groups of plain scenes;
    tables as accuracy.measure's"""
    tables = {"majority": {}, "nearest": {}}
    for group in groups:
        mine = [question for question in asked if question.group == group.name]
        learned = questions("train", seen, [group], {question.kind for question in mine}, side)
        thumbnails = {s: thumbnail(s) for s in {question.scene for question in mine + learned}}
        constant = Majority(learned)
        tables["majority"] |= score(mine, [constant.answer(question) for question in mine])
        tables["nearest"] |= score(mine, nearest(mine, learned, constant, thumbnails))
    return tables


class Majority:
    """The most frequent answers whatever the picture, one for each frequent wording of a question.

    They may repeat names from the question ("There is no cat."), and a box is the median of the true ones.
    """

    def __init__(self, learned):
        self.truths, self.found = defaultdict(list), {}     # {kind, or (kind, wording): true answers}, {same: answer}
        for question in learned:
            wording, names = blank(question)
            truth = judged(question.kind, question.truth)
            for i, name in enumerate(names):
                truth = re.sub(rf"\b{name}\b", f"<{i}>", truth)
            for key in (question.kind, (question.kind, wording)):
                self.truths[key].append(truth)

    def answer(self, question):
        wording, names = blank(question)
        key = (question.kind, wording)
        key = key if len(self.truths.get(key, ())) >= MANY else question.kind
        if key not in self.found:
            self.found[key] = typical(self.truths[key]) if key in self.truths else ""
        answer = self.found[key]
        for i, name in enumerate(names):
            answer = answer.replace(f"<{i}>", name)
        return answer


def blank(question):
    """A question's wording without names and numbers, and the names"""
    text = " ".join(question for question, _ in question.turns)
    names = list(dict.fromkeys(NAME.findall(text)))
    return re.sub("[0-9]+", "#", NAME.sub("<>", text)), names


def judged(kind, truth):
    """The part of an answer that conversations.right looks at"""
    if kind == "exists":
        return re.match(r"\w+", truth)[0] + "."
    return truth.rpartition(":")[2].strip() if kind == "size" or kind.startswith("relation") else truth


def typical(answers):
    """The most frequent answer; numbers in boxes do not count for that, and are then the medians"""
    without = [grounding.BOXES.sub(lambda box: re.sub("[0-9]+", "#", box[0]), answer) for answer in answers]
    best = Counter(without).most_common(1)[0][0]
    boxes = [grounding.parse(answer)[0] for answer, words in zip(answers, without) if words == best]
    if not boxes[0]:
        return best
    numbers = iter(np.median(boxes, 0).ravel())
    return re.sub("#", lambda _: f"{int(next(numbers)):03d}", best)


def nearest(asked, learned, constant, thumbnails):
    """The truth about the training scene with the most similar picture; where it has no answer, the constant one"""
    scenes = list(dict.fromkeys(question.scene for question in learned))
    pictures = list(dict.fromkeys(question.scene for question in asked))
    there, here = (np.stack([thumbnails[s] for s in some]) for some in (scenes, pictures))
    distance = (there ** 2).sum(1) - 2 * here @ there.T     # (asked, learned), but for a term that a row has in common
    neighbour = {s: scenes[best] for s, best in zip(pictures, distance.argmin(1))}
    return [told(question, neighbour[question.scene]) or constant.answer(question) for question in asked]


def thumbnail(scene):
    """(GRID * GRID * 3,) whole numbers, in float64 so that sums of their squares are exact"""
    picture = Image.fromarray(replace(scene).picture)       # of a copy, so that thousands of pictures are not kept
    return np.asarray(picture.resize((GRID, GRID), Image.Resampling.BOX), np.float64).ravel()


def told(question, scene):
    """The true answer to this question about another scene, or None where the scene lacks what it mentions"""
    text = [asked for asked, _ in question.turns]
    if question.kind == "at box":
        box = grounding.parse(text[0])[0][0]
        best = max(scene.things, key=lambda thing: grounding.iou(scene.thousandths(thing), box))
        return sentence(with_article(best.name))
    if not all(called(scene, name) for name in NAME.findall(" ".join(text))):
        return None
    dice = Dice("neighbour", scene.number)
    for _ in range(ROLLS):
        turns = ABOUT_PICTURES[question.kind](scene, dice)
        if turns and [asked for asked, _ in turns] == text:
            return turns[-1][1]
    return None
