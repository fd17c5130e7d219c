"""Ask many questions about the same pictures: each picture is read once, and every question goes on from there.

A picture is two thirds of what the model reads, and its keys and values do not depend on what comes after it. So they
stay in a cache, and every question about the picture gets a copy. The answers are those of generate.answers.
"""
import numpy as np

from ..errors import UserError
from ..inputs import prompt
from ..model.generate import Sampling
from ..model.route import position_ids

PICTURES, TOGETHER = 48, 64                                 # pictures read at once; questions answered at once
SPARE = 4                                                   # tokens that an answer may be longer than the true one


def ask(model, asked, picture=True, through=iter):
    """What the model answers to the last question of each -> [str]; its own answers to the others come before it.

    asked: objects with `scene`, which is hashable or None, and `turns`, a tuple of (question, true answer); the truth
    only tells how many tokens an answer may have. picture: whether scenes are shown. through: wraps the list of
    batches, such as a progress bar.
    """
    if model.tokenizer is None:
        raise UserError("this model has no tokenizer, so it cannot be asked anything")
    said = [[] for _ in asked]                              # of each: the (question, answer) so far
    for scenes, groups in through(batches(asked, picture)):
        read = Read(model, [scene.picture if scene else None for scene in scenes])
        place = {i: n for n, group in enumerate(groups) for i in group}
        for turn in range(max(len(asked[i].turns) for i in place)):
            ask_turn(read, asked, said, {i: n for i, n in place.items() if turn < len(asked[i].turns)}, turn)
    return [turns[-1][1] for turns in said]


def batches(asked, picture):
    """[(scenes, groups)]: up to PICTURES scenes, all shown or all None, and for each the indices of its questions"""
    groups = group_by_scene(asked)
    shown = [(scene, group) for scene, group in groups if picture and scene is not None]
    blind = [(None, group) for scene, group in groups if not picture or scene is None]
    return [tuple(zip(*some[start:start + PICTURES]))
            for some in (shown, blind) for start in range(0, len(some), PICTURES)]


def group_by_scene(asked):
    """[(scene, indices of the questions about it)]; a question without a scene is alone"""
    groups = {}
    for i, question in enumerate(asked):
        key = i if question.scene is None else question.scene
        groups.setdefault(key, []).append(i)
    return [(asked[group[0]].scene, group) for group in groups.values()]


def ask_turn(read, asked, said, place, turn):
    """Ask one turn's questions, {index: place of its picture in `read`}, and append the answers to `said`."""
    length = {i: len(read.model.tokenizer.encode(asked[i].turns[turn][1])) for i in place}
    order = sorted(length, key=length.get)                  # questions with short answers together
    for start in range(0, len(order), TOGETHER):
        some = order[start:start + TOGETHER]
        questions = [asked[i].turns[turn][0] for i in some]
        texts = [prompt.text("chat", question, said[i]) for i, question in zip(some, questions)]
        answers = read.answers([place[i] for i in some], texts, length[some[-1]] + SPARE)
        for i, question, answer in zip(some, questions, answers):
            said[i].append((question, answer))


class Read:
    """Pictures, or all None, that the model has read: the cache of everything before the question."""

    def __init__(self, model, pictures):
        self.model, config = model, model.config
        rows = [prompt.build(config, model.tokenizer, "", [] if p is None else [p]) for p in pictures]
        inputs = prompt.pad(rows, config.pad_token_id)      # all have the same length
        self.position, self.cache = position_ids(inputs.types)[0, -1], model.new_cache(len(rows), inputs.ids.shape[1])
        with model.answering():
            model.hidden(inputs, self.cache, keep=None)
        self.length = self.cache.length                     # a model may put tokens of its own before the first

    def answers(self, places, texts, limit):
        """The answer, of at most `limit` tokens, to each text after the picture at its place -> [str]"""
        model = self.model
        rows = [model.tokenizer.encode(text) for text in texts]
        longest = max(map(len, rows))
        mask = np.array([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        ids = np.array([[model.config.pad_token_id] * (longest - len(row)) + row for row in rows])
        positions = self.position + mask.cumsum(1)
        inputs, cache = prompt.Inputs(ids, np.zeros_like(ids), mask), self.copy(places, longest + limit)
        said = np.array(list(model.steps(inputs, cache, positions, limit, Sampling())))        # (steps, questions)
        return [model.tokenizer.decode(row[~np.isin(row, model.config.eos_token_ids)]).lstrip() for row in said.T]

    def copy(self, places, more):
        """A cache with one row for each question about the pictures at `places`, and room for `more` tokens."""
        model, n = self.model, self.length
        cache = model.answer_cache(len(places), n + more)
        places = model.xp.asarray(places)
        cache.keys[..., :n, :], cache.values[..., :n, :] = self.cache.keys[:, places], self.cache.values[:, places]
        cache.advance(n)
        return cache
