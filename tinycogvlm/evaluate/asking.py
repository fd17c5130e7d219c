"""Many questions about the same pictures: each picture is read once, and every question goes on from there.

A picture is two thirds of what the model reads, and its keys and values do not depend on what comes behind it. So they
are kept in a cache, which every question about the picture gets a copy of. The answers are those of generate.answers.
"""
import numpy as np

from ..errors import UserError
from ..inputs import prompt
from ..model.decoder import KVCache
from ..model.generate import steps
from ..model.route import position_ids

PICTURES, TOGETHER = 48, 64                                 # read at once; questions answered at once
SPARE = 4                                                   # tokens an answer may be longer than the true one


def ask(model, asked, picture=True, through=iter):
    """What the model says to the last question of each -> [str]; before it stand its own answers to the others.

    asked: things with `scene`, which may be None, and `turns`, a tuple of (question, true answer); the truth only says
    how many tokens are worth waiting for. picture: whether scenes are shown. through: what goes through the parts of
    the work, such as a progress bar.
    """
    if model.tokenizer is None:
        raise UserError("this model has no tokenizer, so it cannot be asked anything")
    about, said = {}, [[] for _ in asked]
    for i, question in enumerate(asked):
        about.setdefault(id(question.scene) if question.scene else -i, []).append(i)
    shown = lambda numbers: picture and asked[numbers[0]].scene is not None
    parts = []                                              # of numbers of questions, by scene
    for show in (True, False):
        some = [numbers for numbers in about.values() if shown(numbers) == show]
        parts += [some[start:start + PICTURES] for start in range(0, len(some), PICTURES)]
    for part in through(parts):
        read = Read(model, [asked[numbers[0]].scene.picture if shown(numbers) else None for numbers in part])
        place = {i: n for n, numbers in enumerate(part) for i in numbers}
        for turn in range(max(len(asked[i].turns) for i in place)):
            size = {i: len(model.tokenizer.encode(asked[i].turns[turn][1]))
                    for i in place if turn < len(asked[i].turns)}
            numbers = sorted(size, key=size.get)            # those of short answers together
            for start in range(0, len(numbers), TOGETHER):
                some = numbers[start:start + TOGETHER]
                questions = [asked[i].turns[turn][0] for i in some]
                texts = [prompt.text("chat", question, said[i]) for i, question in zip(some, questions)]
                answers = read.answers([place[i] for i in some], texts, size[some[-1]] + SPARE)
                for i, question, answer in zip(some, questions, answers):
                    said[i].append((question, answer))
    return [turns[-1][1] for turns in said]


class Read:
    """Pictures (or as many times none) that the model has read: the cache of all that stands before a question."""

    def __init__(self, model, pictures):
        self.model, config = model, model.config
        rows = [prompt.build(config, model.tokenizer, "", [] if p is None else [p]) for p in pictures]
        inputs = prompt.pad(rows, config.pad_token_id)      # all of one length
        self.length, self.position = inputs.ids.shape[1], position_ids(inputs.types)[0, -1]
        self.cache = KVCache(config, len(rows), self.length, model.xp, model.dtype)
        model.hidden(inputs, self.cache, keep=None)

    def answers(self, places, texts, limit):
        """What is said, in at most `limit` tokens, to each text behind the picture at its place -> [str]"""
        model, eos = self.model, self.model.config.eos_token_id
        rows = [model.tokenizer.encode(text) for text in texts]
        longest = max(map(len, rows))
        mask = np.array([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        ids = np.array([[model.config.pad_token_id] * (longest - len(row)) + row for row in rows])
        positions = self.position + mask.cumsum(1)
        inputs, cache = prompt.Inputs(ids, np.zeros_like(ids), mask), self.copy(places, longest + limit)
        said = np.array(list(steps(model, inputs, cache, positions, limit)))           # (steps, questions)
        return [model.tokenizer.decode(row[row != eos]).lstrip() for row in said.T]

    def copy(self, places, more):
        """A cache for one question each about the pictures at `places`, with room for `more` tokens behind them."""
        model, n = self.model, self.length
        cache = KVCache(model.config, len(places), n + more, model.xp, model.dtype)
        places = model.xp.asarray(places)
        cache.keys[..., :n, :], cache.values[..., :n, :] = self.cache.keys[:, places], self.cache.values[:, places]
        cache.length = n
        return cache
