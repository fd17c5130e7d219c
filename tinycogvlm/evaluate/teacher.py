"""What a language model says to questions about names, greedily: the teacher of its own eyes. And where its turns begin.

Every prompt of a chat template begins with the same words of the system's, which no picture changes. They are read
once, and their keys and values are put before every row.
"""
import json
from functools import cache

import numpy as np

from ..errors import UserError
from ..inputs import prompt
from ..model.route import position_ids
from ..nn import ops

LONGEST = 20                                                # tokens of an answer
BEST = 8                                                    # of every token's probabilities, the largest
TOGETHER = 64                                               # prompts at a time


class Start:
    """The words before every question, read by the language model"""

    def __init__(self, model):
        first, second = (model.inputs(question).ids for question in "ab")
        n = next((t for t in range(min(first.shape[1], second.shape[1])) if first[0, t] != second[0, t]), None)
        if n is None:
            raise UserError("this model's chat template says the same whatever is asked")
        self.length, self.model, self.cache = n, model, model.new_cache(1, n)
        if n:
            model.hidden(prompt.Inputs(first[:, :n], np.zeros((1, n), int), np.ones((1, n), int)), self.cache, keep=None)

    def copied(self, batch, more):
        """A KVCache with the start in each row, and room for `more` tokens"""
        cache, n = self.model.new_cache(batch, self.length + more), self.length
        cache.keys[..., :n, :], cache.values[..., :n, :] = self.cache.keys, self.cache.values
        cache.advance(n)
        return cache


def rest(rows, length, pad_id, side="left"):
    """What rows of Inputs hold after a start of some length: one padded Inputs, and the positions (B, T) of its tokens"""
    n = length
    inputs = prompt.pad([prompt.Inputs(row.ids[:, n:], row.types[:, n:], row.mask[:, n:], row.media) for row in rows],
                        pad_id, side)
    positions = np.full(inputs.ids.shape, n)
    for at, row in zip(positions, rows):
        known = position_ids(row.types)[0, n:]
        at[slice(-len(known), None) if side == "left" else slice(len(known))] = known
    return inputs, positions


def answered(rows, said, length, pad_id):
    """Prompts, rows of Inputs, with their answers, ids, as one batch after a start of some length, padded on the right

    -> Inputs, positions (B, T), and rows and columns (2, n): where the model predicts the answers' tokens, in their order
    """
    whole = []
    for row, ids in zip(rows, said):
        more = np.array([ids[:-1]], np.int64)               # the last token is predicted, and predicts nothing
        whole.append(prompt.Inputs(*(np.concatenate([array, part], 1) for array, part in (
            (row.ids, more), (row.types, np.zeros_like(more)), (row.mask, np.ones_like(more)))), row.media))
    at = [(b, row.ids.shape[1] - length - 1 + t) for b, (row, ids) in enumerate(zip(rows, said)) for t in range(len(ids))]
    return *rest(whole, length, pad_id, "right"), np.array(at).T


def answers(start, rows, longest=LONGEST, best=BEST):
    """The greedy answers to rows of Inputs -> [(ids with eos where it came, best ids (n, K), their shares (n, K))]

    shares: of the K most probable tokens at each place, to sum 1.
    """
    model, found = start.model, [([], [], []) for _ in rows]
    inputs, positions = rest(rows, start.length, model.config.pad_token_id)
    cache = start.copied(len(rows), inputs.ids.shape[1] + longest)
    position, open_rows = positions[:, -1:], np.ones(len(rows), bool)
    for _ in range(longest):
        logits = model.logits(inputs, cache, last=True, positions=positions)[:, -1]
        top = np.argpartition(-logits, best, -1)[:, :best]
        values = np.take_along_axis(logits, top, -1)
        order = np.argsort(-values, -1, kind="stable")
        top, shares = np.take_along_axis(top, order, -1), ops.softmax(np.take_along_axis(values, order, -1))[0]
        for b in np.flatnonzero(open_rows):
            for into, what in zip(found[b], (top[b, 0], top[b], shares[b])):
                into.append(what.tolist())
        open_rows &= ~np.isin(top[:, 0], model.config.eos_token_ids)
        if not open_rows.any():
            break
        position = position + 1
        ids = top[:, :1].astype(np.int64)
        inputs, positions = prompt.Inputs(ids, np.zeros_like(ids), np.ones_like(ids)), position
    return found


def fill(path, start, questions, through=iter):
    """Ask the teacher what the file `path` does not answer yet, and append it, a line of JSON for each question."""
    known = set(read(path))
    missing = sorted({question for question in questions if question not in known}, key=lambda text: (len(text), text))
    for first in through(range(0, len(missing), TOGETHER)):
        some = missing[first:first + TOGETHER]
        lines = [json.dumps({"question": question, "ids": ids, "best": best,
                             "shares": [[round(share, 4) for share in row] for row in shares]})
                 for question, (ids, best, shares) in zip(some, answers(start, [start.model.inputs(q) for q in some]))]
        with open(path, "a", encoding="utf-8") as file:
            file.write("".join(f"\n{line}" for line in lines))      # after half a line that a killed process left, too
    read.cache_clear()


@cache
def read(path):
    """{question: (ids, best, shares)} of a file; lines that a killed process left unfinished are left out."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found[entry["question"]] = entry["ids"], entry["best"], entry["shares"]
    return found


def telling(wordings, names, known, least=0.5):
    """The wordings whose answers tell things apart: those of the teacher's, `known` {question: (ids, ...)}, that have at
    least `least` as many different ones as things were asked about. A question that is answered alike whatever the
    picture shows teaches nothing."""
    kept = []
    for wording in wordings:
        said = [tuple(known[question][0]) for question in map(wording.of, names) if question in known]
        if len(set(said)) >= least * len(said):
            kept.append(wording)
    return tuple(kept)
