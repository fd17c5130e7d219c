"""From a prompt to words: prefill, cached decoding, sampling, streaming, batches."""
import time
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

import numpy as np

from ..errors import UserError
from ..inputs import grounding, prompt
from ..nn.arrays import namespace, to_numpy
from ..nn.swap import op
from .route import position_ids

LONGEST = 2048          # tokens of an answer, where no other limit is given
NOT_FINITE = ("the logits are not finite numbers: the weights are damaged, or a number became larger than float16 "
              "holds, which --activations float32 avoids; --check-finite names the first layer")


class ContextFull(UserError):
    """The prompt, or the prompt and the new tokens asked for, do not fit into the model's context."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its logits.

    temperature 0 takes the best (greedy). Otherwise logits / temperature are cut to the `top_k` best and to the
    smallest set with probability `top_p` (Holtzman et al. 2020, arXiv 1904.09751), and one is drawn with `seed`, or with
    a seed for each row: a row of a batch is then drawn as it would be alone. A repetition_penalty above 1 first makes every token that the row's text already holds less likely: positive logits
    are divided by it, negative ones multiplied (Keskar et al. 2019, arXiv 1909.05858).
    """
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        require("temperature", self.temperature, Real, lambda x: 0 <= x < np.inf, "a number, 0 or more")
        if self.top_k is not None:
            require("top_k", self.top_k, Integral, lambda k: k >= 1, "a whole number, 1 or more")
        if self.top_p is not None:
            require("top_p", self.top_p, Real, lambda p: 0 < p <= 1, "a number above 0, at most 1")
        require("repetition_penalty", self.repetition_penalty, Real, lambda x: 1e-30 <= x <= 1e30,
                "a number from 1e-30 to 1e30")
        for seed in self.seed if isinstance(self.seed, tuple) else [self.seed]:
            require("seed", seed, Integral, lambda seed: seed >= 0, "a whole number, 0 or more")

    @op
    def choose(self, logits, seen, random):
        """logits (V,), ids seen in this row, its random generator -> one id"""
        if self.repetition_penalty != 1:
            logits = penalised(logits, np.unique(seen).astype(int), self.repetition_penalty)
        if self.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")[:self.top_k]
        with np.errstate(over="ignore"):                    # what is too small for a number weighs nothing
            scaled = (logits[order] - logits[order[0]]).astype(np.float64) / self.temperature
        probability = np.exp(scaled)
        probability /= probability.sum()
        if self.top_p is not None:                          # every token before which less than top_p has gathered
            nucleus = max(1, int((np.cumsum(probability) - probability < self.top_p).sum()))
            order, probability = order[:nucleus], probability[:nucleus] / probability[:nucleus].sum()
        return int(random.choice(order, p=probability))


def dice(seed, rows):
    """A random generator for each row, from one seed or from a seed of its own."""
    seeds = [[one, 0] for one in seed] if isinstance(seed, tuple) else [[seed, row] for row in range(rows)]
    return [np.random.default_rng(numbers) for numbers in seeds]


def require(name, value, kind, holds, wanted):
    """Raise UserError unless `value` is this kind of number (a bool is not) and in its range."""
    if isinstance(value, bool) or not isinstance(value, kind) or not holds(value):
        raise UserError(f"{name} is {value!r}; it must be {wanted}")


def penalised(logits, seen, penalty):
    """A copy of the logits (V,) in which those of the ids `seen` are less likely, and finite as before."""
    logits = logits.copy()
    with np.errstate(over="ignore"):
        repeated = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    largest = np.finfo(logits.dtype).max
    logits[seen] = np.clip(repeated, -largest, largest)
    return logits


def generate(model, inputs, max_new_tokens=None, sampling=Sampling()):
    """An iterator of the tokens of each row, (B,) ids a step; a row that has ended goes on with its eos.

    inputs: one row, or several padded on the left. Ends when all rows have, or after `max_new_tokens` (by default 2048
    or what the context still holds). Closing the iterator stops the work. The prompt is checked here, before any work.
    """
    limit = context_left(model, inputs, max_new_tokens)
    if not inputs.mask[:, -1].all():
        raise UserError("a batch must be padded on the left: prompt.pad(rows, pad_id)")
    cache = model.answer_cache(len(inputs.ids), inputs.ids.shape[1] + limit)
    return model.steps(inputs, cache, position_ids(inputs.types, inputs.mask), limit, sampling)


def context_left(model, inputs, max_new_tokens=None):
    """How many tokens may be generated; UserError if the prompt, or the prompt and what is asked for, do not fit."""
    length, context = inputs.ids.shape[1], model.config.max_position_embeddings
    if length >= context:
        raise ContextFull(f"the prompt has {length} tokens; the model's context is {context} tokens")
    if max_new_tokens is None:
        return min(LONGEST, context - length)
    require("max_new_tokens", max_new_tokens, Integral, lambda n: n >= 1, "a whole number, 1 or more")
    if length + max_new_tokens > context:
        raise ContextFull(f"the prompt's {length} tokens and {max_new_tokens} new ones exceed the model's context of "
                          f"{context}; ask for {context - length} at most")
    return int(max_new_tokens)


@op
def steps(model, inputs, cache, positions, limit, sampling=Sampling()):
    """What `generate` yields, unchecked. `inputs` stand at `positions` (B, T), after the tokens that the cache holds."""
    B, config = len(inputs.ids), model.config
    random = dice(sampling.seed, B)
    seen, ended, position = texts(inputs), np.zeros(B, bool), positions[:, -1:]
    logits = model.logits(inputs, cache, last=True, positions=positions)                # the prompt at once: prefill
    for step in range(limit):
        rows = to_numpy(logits)[:, -1]
        check_finite(rows[~ended])
        ids = np.array([config.eos_token_id if ended[b] else sampling.choose(rows[b], seen[b], random[b])
                        for b in range(B)])
        yield ids
        ended |= np.isin(ids, config.eos_token_ids)
        if ended.all() or step == limit - 1:
            return
        for row, token in zip(seen, ids):
            row.append(token)
        position = position + 1
        logits = model.logits(next_token(ids), cache, positions=position)


def check_finite(logits):
    """Raise UserError if a logit is NaN or infinite: no token chosen from its row would mean anything."""
    if not namespace(logits).isfinite(logits).all():
        raise UserError(NOT_FINITE)


def texts(inputs):
    """The ids of each row's text, without images and padding: [list]"""
    return [list(ids[is_text]) for ids, is_text in zip(inputs.ids, (inputs.types == 0) & (inputs.mask != 0))]


def next_token(ids):
    """Inputs of one decoded token a row; it is always text."""
    ids = np.asarray(ids, np.int64)[:, None]
    return prompt.Inputs(ids, np.zeros_like(ids), np.ones_like(ids))


@dataclass(frozen=True)
class Answer:
    """What the model said; `str(answer)` is the text."""
    text: str
    boxes: list[tuple[int, int, int, int]]      # the boxes in it, (x0, y0, x1, y1) in thousandths of the picture
    tokens_in: int
    tokens_out: int
    seconds: float
    finish: Literal["stop", "length"]           # why it ended: the model said so, or the limit of tokens was reached

    def __str__(self) -> str:
        return self.text


def answers(model, rows, max_new_tokens=None, sampling=Sampling()):
    """The Answers to several prompts (a list of one-row Inputs), decoded together as one left-padded batch."""
    if not rows:
        return []
    start = time.perf_counter()
    inputs = prompt.pad(rows, model.config.pad_token_id)
    chosen = np.array(list(generate(model, inputs, max_new_tokens, sampling)))           # (steps, B)
    seconds, result = time.perf_counter() - start, []
    for row, ids in zip(rows, chosen.T):
        ends = np.flatnonzero(np.isin(ids, model.config.eos_token_ids))
        ids = ids[:ends[0]] if len(ends) else ids
        text = model.tokenizer.decode(ids).lstrip()             # answers begin with the template's space
        finish = "stop" if len(ends) else "length"
        result.append(Answer(text, grounding.parse(text)[0], row.ids.shape[1], len(ids), seconds, finish))
    return result


def stream(model, inputs, max_new_tokens=None, sampling=Sampling()):
    """The Stream of an answer; the prompt is checked here, before any work."""
    return Stream(model, generate(model, inputs, max_new_tokens, sampling))


class Stream:
    """An iterator of pieces of an answer's text as they come; none of them splits a character.

    finish: None until the answer has ended, then "stop" or "length" as in Answer. Closing it stops the work.
    """

    def __init__(self, model, tokens):
        self.finish = None
        self._pieces = self._decoded(model, tokens)

    def __iter__(self):
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self):
        self._pieces.close()

    def _decoded(self, model, tokens):
        text, begun, finish = model.tokenizer.text_stream(), False, "length"
        for [token] in tokens:
            if token in model.config.eos_token_ids:
                finish = "stop"
                continue
            piece = text.add(token)
            piece = piece if begun else piece.lstrip()              # answers begin with the template's space
            begun = begun or bool(piece)
            if piece:
                yield piece
        self.finish = finish
        if rest := text.flush():
            yield rest
