"""Switch parts of the model off, and see what its answer owes to them (ablation).

    with without("layer:2", "head:1.4@70-80"):
        model.ask(picture, "Where is the dog?")

A part is written as

    layer:2             block 2 adds nothing to the residual stream
    head:1.4            head 4 of block 1 adds nothing
    expert:vision       the language expert computes the vision expert's tokens, in every block
    expert:language     the other way round

and with @70, or @70-80, only at these tokens, counted from 0 at the start of the prompt. Keys and values of a token are
never switched off: other tokens go on attending to it.
"""
import re
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..nn.arrays import namespace
from ..nn.swap import current, swapped
from . import expert
from .cogvlm import CogVLM
from .route import vision_expert_mask

PART = re.compile(r"(?:(layer):(\d+)|(head):(\d+)\.(\d+)|(expert):(vision|language))(?:@(\d+)(?:-(\d+))?)?", re.ASCII)
BLOCK = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Part:
    """What is switched off: a kind, a layer, a head or an expert, and the first and the last token where it is"""
    kind: str
    layer: int | None
    head: int | None
    expert: str | None
    tokens: tuple

    def here(self, start, count):
        """Which of `count` tokens from `start` on: (count,) bool"""
        place = np.arange(start, start + count)
        return (place >= self.tokens[0]) & (place <= self.tokens[1])

    def check(self, config):
        """Raise UserError unless the model has this part."""
        L, H = config.num_hidden_layers, config.num_attention_heads
        if self.layer is not None and self.layer >= L:
            raise UserError(f"no layer {self.layer} to switch off; they are 0 to {L - 1}")
        if self.head is not None and self.head >= H:
            raise UserError(f"no head {self.head} to switch off; they are 0 to {H - 1}")
        if self.expert and len(config.experts) < 2:
            raise UserError("this model has one expert, which cannot be switched off")


def read(text):
    """The Part that a text names"""
    found = PART.fullmatch(text)
    if not found:
        raise UserError(f"{text!r} is no part to switch off; write layer:2, head:1.4, expert:vision or expert:language, "
                        "and @70 or @70-80 after it for some tokens only")
    numbers = [None if group is None else int(group) for group in found.group(2, 4, 5, 8, 9)]
    layer, layer_of_head, head, first, last = numbers
    tokens = (0, np.inf) if first is None else (first, first if last is None else last)
    if tokens[0] > tokens[1]:
        raise UserError(f"{text!r}: the first token comes after the last")
    return Part(found[1] or found[3] or found[6], layer_of_head if layer is None else layer, head, found[7], tokens)


@contextmanager
def without(*parts):
    """Inside the `with`, models compute without these parts. No gradients, and one prompt at a time where tokens count."""
    parts, inner = [read(text) for text in parts], current(CogVLM.hidden)

    def hidden(model, inputs, cache=None, positions=None, keep="all"):
        for part in parts:
            part.check(model.config)
        start, config = cache.length if cache else 0, model.config
        with swapped({vision_expert_mask: exchanged(parts, start), expert.routed: silenced(parts, config.head_size)}):
            return inner(model, inputs, cache, positions, keep)
    with swapped({CogVLM.hidden: hidden} if parts else {}):
        yield


def exchanged(parts, start):
    """vision_expert_mask with tokens given to the other expert; the first of them is token `start`"""
    inner = current(vision_expert_mask)

    def mask(types):
        mask = inner(types)
        for part in parts:
            if part.expert:
                mask[:, part.here(start, types.shape[1])] = part.expert == "language"
        return mask
    return mask


def silenced(parts, head_size):
    """expert.routed without the outputs of layers, and without the outputs of heads, which `expert_dense` mixes"""
    inner = current(expert.routed)

    def routed(layer, x, p, name, route):
        mine = [part for part in parts if part.layer == int(BLOCK.match(p.path)[1])]
        x = zeros(x, [(part, slice(part.head * head_size, (part.head + 1) * head_size)) for part in mine
                      if part.kind == "head" and name == "expert_dense"], route.first)
        y, _ = inner(layer, x, p, name, route)
        return zeros(y, [(part, slice(None)) for part in mine
                         if part.kind == "layer" and name != "expert_query_key_value"], route.first), None
    return routed


def zeros(x, off, start):
    """x (B, T, D), whose first token is token `start`, with 0 where a part is off: [(Part, its columns)]"""
    if off:
        x = x.copy()
    for part, columns in off:
        x[:, namespace(x).asarray(part.here(start, x.shape[1])), columns] = 0
    return x
