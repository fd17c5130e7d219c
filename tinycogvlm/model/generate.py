"""From a prompt to words: prefill, cached decoding, sampling, streaming, batches."""
import time
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..inputs import grounding, prompt
from ..nn.arrays import to_numpy
from ..nn.swap import op
from .decoder import KVCache
from .route import position_ids


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its logits.

    temperature 0 takes the best (greedy). Else logits / temperature are cut to the `top_k` best and to the smallest set
    with probability `top_p`, and one is drawn with `seed`. repetition_penalty > 1 first makes every token that the
    row's text already holds less likely: positive logits are divided by it, negative ones multiplied (Keskar 2019).
    """
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for holds, sentence in ((0 <= self.temperature < np.inf, f"temperature {self.temperature} must be 0 or more"),
                                (self.top_k is None or self.top_k >= 1, f"top_k {self.top_k} must be 1 or more"),
                                (self.top_p is None or 0 < self.top_p <= 1, f"top_p {self.top_p} must be in (0, 1]"),
                                (0 < self.repetition_penalty < np.inf,
                                 f"repetition_penalty {self.repetition_penalty} must be more than 0"),
                                (self.seed >= 0, f"seed {self.seed} must be 0 or more")):
            if not holds:
                raise UserError(sentence)

    @op
    def choose(self, logits, seen, random):
        """logits (V,), ids seen in this row, its random generator -> one id"""
        if self.repetition_penalty != 1:
            logits, seen = logits.copy(), np.unique(seen).astype(int)
            repeated = logits[seen]
            logits[seen] = np.where(repeated > 0, repeated / self.repetition_penalty, repeated * self.repetition_penalty)
        if self.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")[:self.top_k]
        scaled = (logits[order] - logits[order[0]]).astype(np.float64) / self.temperature
        probability = np.exp(scaled)
        probability /= probability.sum()
        if self.top_p is not None:                          # every token before which less than top_p has gathered
            nucleus = max(1, int((np.cumsum(probability) - probability < self.top_p).sum()))
            order, probability = order[:nucleus], probability[:nucleus] / probability[:nucleus].sum()
        return int(random.choice(order, p=probability))


def generate(model, inputs, max_new_tokens=None, sampling=Sampling()):
    """An iterator of the tokens of each row, (B,) ids a step; a row that has ended goes on with its eos.

    inputs: one row, or several padded on the left. Ends when all rows have, or after `max_new_tokens` (by default 2048
    or what the context still holds). Closing the iterator stops the work. The prompt is checked here, before any work.
    """
    limit = context_left(model, inputs, max_new_tokens)
    if not inputs.mask[:, -1].all():
        raise UserError("a batch must be padded on the left: prompt.pad(rows, pad_id)")
    cache = KVCache(model.config, len(inputs.ids), inputs.ids.shape[1] + limit, model.xp, model.dtype)
    return model.steps(inputs, cache, position_ids(inputs.types, inputs.mask), limit, sampling)


def context_left(model, inputs, max_new_tokens=None):
    """How many tokens may be generated; UserError if the prompt, or the prompt and what is asked for, do not fit."""
    length, context = inputs.ids.shape[1], model.config.max_position_embeddings
    if length >= context:
        raise UserError(f"the prompt has {length} tokens; the model's context is {context} tokens")
    if max_new_tokens is None:
        return min(2048, context - length)
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}; it must be 1 or more")
    if length + max_new_tokens > context:
        raise UserError(f"the prompt's {length} tokens and {max_new_tokens} new ones exceed the model's context of "
                        f"{context}; ask for {context - length} at most")
    return max_new_tokens


@op
def steps(model, inputs, cache, positions, limit, sampling=Sampling()):
    """As `generate`, unchecked, with `inputs` at `positions` (B, T) behind what the cache holds."""
    B, eos = len(inputs.ids), model.config.eos_token_id
    random = [np.random.default_rng([sampling.seed, row]) for row in range(B)]
    seen, ended, position = texts(inputs), np.zeros(B, bool), positions[:, -1:]
    logits = model.logits(inputs, cache, last=True, positions=positions)                # the prompt at once: prefill
    for step in range(limit):
        rows = to_numpy(logits)[:, -1]
        ids = np.array([eos if ended[b] else sampling.choose(rows[b], seen[b], random[b]) for b in range(B)])
        yield ids
        ended |= ids == eos
        if ended.all() or step == limit - 1:
            return
        for row, id in zip(seen, ids):
            row.append(id)
        position = position + 1
        logits = model.logits(next_token(ids), cache, positions=position)


def texts(inputs):
    """The ids of each row's text, without images and padding: [list]"""
    return [list(ids[keep]) for ids, keep in zip(inputs.ids, (inputs.types == 0) & (inputs.mask != 0))]


def next_token(ids):
    """Inputs of one decoded token a row; it is always text."""
    ids = np.asarray(ids, np.int64)[:, None]
    return prompt.Inputs(ids, np.zeros_like(ids), np.ones_like(ids))


@dataclass(frozen=True)
class Answer:
    """What the model said; `str(answer)` is the text."""
    text: str
    boxes: list                 # the boxes in it, [x0, y0, x1, y1] in thousandths of the picture
    tokens_in: int
    tokens_out: int
    seconds: float

    def __str__(self):
        return self.text


def answers(model, rows, max_new_tokens=None, sampling=Sampling()):
    """The Answers to several prompts (a list of one-row Inputs), decoded together as one left-padded batch."""
    start = time.perf_counter()
    inputs = prompt.pad(rows, model.config.pad_token_id) if len(rows) > 1 else rows[0]
    chosen = np.array(list(generate(model, inputs, max_new_tokens, sampling)))           # (steps, B)
    seconds, eos = time.perf_counter() - start, model.config.eos_token_id
    result = []
    for row, ids in zip(rows, chosen.T):
        ends = np.flatnonzero(ids == eos)
        ids = ids[:ends[0]] if len(ends) else ids
        text = model.tokenizer.decode(ids).lstrip()             # answers begin with the template's space
        result.append(Answer(text, grounding.parse(text)[0], row.ids.shape[1], len(ids), seconds))
    return result


def stream(model, inputs, max_new_tokens=None, sampling=Sampling()):
    """An iterator of pieces of the answer's text as they come; none of them splits a character."""
    tokens = generate(model, inputs, max_new_tokens, sampling)

    def pieces():
        text, begun = model.tokenizer.text_stream(), False
        for ids in tokens:
            if ids[0] != model.config.eos_token_id:
                piece = text.add(int(ids[0]))
                piece = piece if begun else piece.lstrip()          # answers begin with the template's space
                begun = begun or bool(piece)
                if piece:
                    yield piece
        if rest := text.flush():
            yield rest
    return pieces()
