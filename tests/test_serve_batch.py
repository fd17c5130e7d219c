"""Continuous batching: a row that joins a running batch gets the logits, and so the tokens, that it would get alone."""
import queue
import threading

import numpy as np
import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.model import generate
from tinycogvlm.model.generate import Sampling
from tinycogvlm.nn.swap import swapped
from tinycogvlm.serve import batch as batching
from tinycogvlm.serve.batch import Batch, Batcher, Full, Row
from tinycogvlm.serve.words import Words

LAYOUTS = (("image", 3), (1,), (2, "image", 4, "image"), (5,))


class Heard(Row):
    """A row that keeps its tokens and the logits they were chosen from"""

    def __init__(self, inputs, limit, seed=0):
        self.said, self.logits, self.reason = [], [], None
        super().__init__(inputs, limit, Sampling(temperature=1.0, seed=seed), self.heard, self.ended)

    def heard(self, token):
        self.said.append(token)
        return True

    def ended(self, reason):
        assert self.reason is None                          # told once
        self.reason = reason

    def step(self, logits, eos):
        self.logits.append(logits)
        return super().step(logits, eos)


def alone(model, row, limit):
    """(tokens, their logits) as generate gives them for a row by itself"""
    logits = []

    def choose(sampling, row, seen, random):
        logits.append(row)
        return Sampling.choose.own(sampling, row, seen, random)
    with swapped({Sampling.choose: choose}):
        tokens = [int(token) for [token] in generate.generate(model, row.inputs, limit, row.sampling)]
    return [token for token in tokens if token not in model.config.eos_token_ids], logits


def filled(cache):
    """A new cache whose memory holds what it may: NaN"""
    cache.keys[:] = cache.values[:] = np.nan
    return cache


@pytest.mark.parametrize("spare", [1, 3, 64])
def test_rows_join_and_leave_between_tokens(make_model, make_inputs, family, spare, monkeypatch):
    """Prompts of different lengths, with and without a picture, join at steps 0, 2 and 5; limits differ."""
    monkeypatch.setattr(batching, "SPARE", spare)
    model, limits, joins = make_model(family), (9, 4, 7, 12), {0: (0, 1), 2: (2,), 5: (3,)}
    rows = [Heard(make_inputs(model.config, layout, seed=i), limits[i], seed=i) for i, layout in enumerate(LAYOUTS)]
    monkeypatch.setattr(model, "new_cache", lambda *sizes: filled(type(model).new_cache(model, *sizes)))
    batch = Batch(model)
    for step in range(30):
        if step in joins:
            batch.join([rows[i] for i in joins[step]])
        if batch.rows:
            batch.step()
    assert not batch.rows and batch.cache is None
    for row, limit in zip(rows, limits):
        tokens, logits = alone(model, row, limit)
        assert row.said == tokens and row.reason == ("length" if len(tokens) == limit else "stop")
        assert max(np.abs(a - b).max() for a, b in zip(row.logits, logits, strict=True)) < 1e-12


def test_a_row_that_is_gone_leaves_without_a_word(make_model, make_inputs):
    model = make_model()
    rows = [Heard(make_inputs(model.config, (2,), seed=i), 20, seed=i) for i in range(2)]
    batch = Batch(model)
    batch.join(rows)
    batch.step()
    rows[0].gone = True
    said = list(rows[0].said)
    batch.step()
    assert batch.rows == [rows[1]] and (rows[0].said, rows[0].reason) == (said, None) and len(batch.cache.mask) == 1


def test_the_batcher(make_model, make_inputs, monkeypatch):
    """At most `rows` at once, at most `waiting` wait, a failure ends those that it concerns, and the thread goes on."""
    model, ends, go, most = make_model(), queue.Queue(), threading.Event(), [0]
    whole = model.logits

    def logits(inputs, *arguments, **options):
        assert go.wait(10)
        most[0] = max(most[0], len(inputs.ids))
        if (inputs.ids == 29).any() and inputs.ids.shape[1] == 3:
            raise MemoryError
        return whole(inputs, *arguments, **options)
    monkeypatch.setattr(model, "logits", logits)

    def row(*ids):
        inputs = make_inputs(model.config, (2,))
        inputs.ids[:] = ids
        return Row(inputs, 3, Sampling(), lambda token: True, ends.put)
    batcher = Batcher(model, rows=2, waiting=3)
    batcher.submit(row(3, 4, 5))
    while batcher.waiting:
        pass
    for _ in range(3):
        batcher.submit(row(3, 4, 6))
    with pytest.raises(Full, match="3 requests are waiting already"):
        batcher.submit(row(3, 4, 5))
    batcher.waiting[1].gone = True                          # its place is free again
    batcher.submit(row(3, 4, 6))
    go.set()
    reasons = [ends.get(timeout=10) for _ in range(4)]
    assert set(reasons) <= {"stop", "length"} and most == [2]
    batcher.submit(row(3, 4, 29))
    assert isinstance(ends.get(timeout=10), MemoryError)
    batcher.submit(row(3, 4, 5))
    assert ends.get(timeout=10) == reasons[0]
    batcher.close()
    assert not batcher.thread.is_alive() and ends.empty()


def test_logits_that_are_not_finite_end_their_row_only(make_model, make_inputs):
    model = make_model()
    rows = [Heard(make_inputs(model.config, (2,), seed=i), 5, seed=i) for i in range(2)]
    batch = Batch(model)
    batch.join(rows)
    batch.logits[0, 3] = np.nan
    batch.step()
    assert batch.rows == [rows[1]] and isinstance(rows[0].reason, UserError) and rows[1].reason is None


class Letters:
    """A tokenizer whose tokens are code points"""

    def text_stream(self):
        return self
    add = staticmethod(chr)
    flush = staticmethod(str)


@pytest.mark.parametrize("stop, pieces", [
    ((), ["", "", "a", "b", "a", "b", "c", ""]),
    (("abc",), ["", "", "", "", "ab", "", "", ""]), (("ba", "c"), ["", "", "a", "", "", "", "", ""]),
    (("bcd",), ["", "", "a", "", "ba", "", "", "bc"]), (("x",), ["", "", "a", "b", "a", "b", "c", ""])])
def test_words_up_to_a_stop(stop, pieces):
    words, said = Words(Letters(), stop), []
    for letter in "  ababc":
        said.append("" if words.stopped else words.add(ord(letter)))
    assert [*said, words.flush()] == pieces and words.text == "".join(pieces)
