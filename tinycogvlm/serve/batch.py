"""Continuous batching: rows join and leave a running batch between two tokens.

Yu et al. 2022 (Orca, OSDI) call it iteration-level scheduling. A batch that waits for its longest answer leaves the
places of the short ones empty; here the next prompt takes a place as soon as it is free. All rows share one KVCache,
padded on the left, so that every row's last token stands in the last column.
"""
import threading
from collections import deque

import numpy as np

from ..errors import UserError
from ..inputs import prompt
from ..model import generate
from ..model.route import position_ids
from ..nn.arrays import to_numpy

SPARE = 64              # columns that a cache is allocated with beyond its tokens


class Full(UserError):
    """As many rows wait as may."""


class Row:
    """One prompt that is being answered.

    take: called with every token, says whether the answer goes on. end: called once, with "stop", "length" or the
    exception that ended it. Both are called in the model's thread. `gone` may be set by any thread: nobody listens any
    more, and the row leaves before the next token without a word.
    """

    def __init__(self, inputs, limit, sampling, take, end):
        self.inputs, self.left, self.sampling, self.take, self.end = inputs, limit, sampling, take, end
        self.gone = False
        self.positions = position_ids(inputs.types)         # (1, T)
        self.position = self.positions[0, -1]
        self.tokens = inputs.ids.shape[1]                   # in the cache
        self.random = np.random.default_rng([sampling.seed, 0])         # what a batch of one would draw
        [self.seen] = generate.texts(inputs)

    def step(self, logits, eos):
        """Choose a token from logits (V,) and tell it -> the token, or None where the answer has ended"""
        if self.gone:
            return None
        try:
            generate.check_finite(logits)
        except UserError as error:
            self.end(error)
            return None
        token = self.sampling.choose(logits, self.seen, self.random)
        self.left -= 1
        if token in eos or not self.take(token):
            self.end("stop")
            return None
        if not self.left:
            self.end("length")
            return None
        self.seen.append(token)
        self.position += 1
        self.tokens += 1
        return token


class Batch:
    """The rows that are being answered, their cache, and the logits (B, V) of their next tokens"""

    def __init__(self, model):
        self.model, self.rows, self.cache, self.logits = model, [], None, None

    def join(self, rows):
        """Read the prompts of new rows, all at once (prefill), and put them after the others."""
        inputs = prompt.pad([row.inputs for row in rows], self.model.config.pad_token_id)
        B, T = inputs.ids.shape
        positions = np.concatenate([np.pad(row.positions, ((0, 0), (T - row.tokens, 0))) for row in rows])
        cache = self.model.new_cache(B, T)
        logits = to_numpy(self.model.logits(inputs, cache, last=True, positions=positions))[:, -1]
        places = [(self.cache, b, row) for b, row in enumerate(self.rows)] + [(cache, b, row) for b, row in enumerate(rows)]
        self.cache = gathered(self.model, places)
        self.logits = logits if not self.rows else np.concatenate([self.logits, logits])
        self.rows = [*self.rows, *rows]

    def step(self):
        """A token more for every row; those that have ended leave."""
        chosen = [row.step(logits, self.model.config.eos_token_ids) for row, logits in zip(self.rows, self.logits)]
        stay = [b for b, token in enumerate(chosen) if token is not None]
        places = [(self.cache, b, self.rows[b]) for b in stay]
        changed, self.rows = len(stay) < len(self.rows), [self.rows[b] for b in stay]
        if not stay:
            self.cache = self.logits = None
            return
        if changed or self.cache.length == self.cache.mask.shape[1]:
            self.cache = gathered(self.model, places, new=1)
        positions = np.array([[row.position] for row in self.rows])
        inputs = generate.next_token([chosen[b] for b in stay])
        self.logits = to_numpy(self.model.logits(inputs, self.cache, positions=positions))[:, -1]


def gathered(model, places, new=0):
    """A cache of some rows of others, each row's last token in the last column

    places: [(cache, b, row)]: row b of that cache, whose last row.tokens - new tokens are the row's.
    """
    counts = [row.tokens - new for _, _, row in places]
    length = max(counts)
    to = model.new_cache(len(places), length + SPARE)
    with model.answering():                                 # on the model's GPU
        for i, ((cache, b, _), count) in enumerate(zip(places, counts)):
            gap, begin = length - count, cache.length - count
            for ours, theirs in (to.keys, cache.keys), (to.values, cache.values):
                ours[:, i, :, :gap] = 0                     # hidden, but what is hidden is multiplied by 0: no NaN
                ours[:, i, :, gap:length] = theirs[:, b, :, begin:cache.length]
            to.mask[i, :gap] = False
    to.length, to.padded = length, min(counts) < length
    return to


class Batcher:
    """A thread that answers rows with a model, at most `rows` at a time, while at most `waiting` others wait."""

    def __init__(self, model, rows=16, waiting=64):
        self.batch, self.most, self.room = Batch(model), rows, waiting
        self.waiting, self.changed, self.closed = deque(), threading.Condition(), False
        self.thread = threading.Thread(target=self._run, daemon=True, name="model")
        self.thread.start()

    def submit(self, row):
        """Let a row wait for its turn. Raises Full."""
        with self.changed:
            self.waiting = deque(each for each in self.waiting if not each.gone)
            if len(self.waiting) >= self.room:
                raise Full(f"{self.room} requests are waiting already; try again later")
            self.waiting.append(row)
            self.changed.notify()

    def load(self):
        """How many rows are being answered, and how many wait"""
        return len(self.batch.rows), len(self.waiting)

    def close(self):
        """Stop after the token under way."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join()

    def _next(self):
        """The rows that may join now; waits for one where none is running. None when closed."""
        with self.changed:
            while not (self.closed or self.waiting or self.batch.rows):
                self.changed.wait()
            if self.closed:
                return None
            rows = []
            while self.waiting and len(self.batch.rows) + len(rows) < self.most:
                row = self.waiting.popleft()
                if not row.gone:
                    rows.append(row)
            return rows

    def _run(self):
        while (rows := self._next()) is not None:
            try:
                if rows:
                    self.batch.join(rows)
            except Exception as error:                      # ends these rows and no others
                for row in rows:
                    row.end(error)
            try:
                if self.batch.rows:
                    self.batch.step()
            except Exception as error:
                rows, self.batch.rows = self.batch.rows, []
                for row in rows:
                    row.end(error)
