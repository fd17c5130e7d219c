"""Look inside: what the model attended to, and what each layer would have said, when it chose a token.

The logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens") reads a layer's output with the final norm and
the output head, as if the layers above it were not there.
"""
import math
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..inputs.prompt import Inputs
from ..nn import ops
from ..nn.arrays import namespace, to_numpy, wide
from ..nn.trace import recording
from ..nn.tree import Params
from .cogvlm import head


@dataclass(frozen=True)
class Look:
    """What was computed where one token of an answer was chosen; S tokens stand before it. NumPy arrays."""
    types: np.ndarray               # (S,): 0 text, k > 0 the k-th picture, as in Inputs
    vision: np.ndarray              # (S,) bool: computed by the vision expert, else by the language expert
    attention: np.ndarray           # (L, H, S): how much each head of each layer took from each token; sums to 1 over S
    lens: np.ndarray                # (L, V): the logits that each layer's output would give; the last layer's are real
    choices: np.ndarray             # (N, V): the logits from which each token of the answer was chosen

    def heat(self, picture=1, layer=None, head=None):
        """The attention to a picture's patches, (g, g): of a head of a layer, or the mean over all of them

        boi and eoi are no patches, so that the sum is less than 1.
        """
        tokens = np.flatnonzero(self.types == picture)[1:-1]
        side = math.isqrt(len(tokens))
        if not side:
            raise UserError(f"the prompt has no picture {picture}")
        L, H = self.attention.shape[:2]
        for name, given, count in ("layer", layer, L), ("head", head, H):
            if given is not None and not 0 <= given < count:
                raise UserError(f"no {name} {given}; they are 0 to {count - 1}")
        layers = slice(None) if layer is None else slice(layer, layer + 1)
        heads = slice(None) if head is None else slice(head, head + 1)
        return self.attention[layers, heads][:, :, tokens].mean((0, 1)).reshape(side, side)


def look(model, inputs, answer, token):
    """The Look at the choice of answer[token], from a prompt (one row of Inputs) and the ids that followed it

    One pass over the prompt and the answer; nothing else that it computes is kept.
    """
    if not 0 <= token < len(answer):
        raise UserError(f"no token {token}; the answer has {len(answer)}, from 0")
    before = np.asarray([answer[:-1]], np.int64)
    text, at = np.zeros_like(before), inputs.ids.shape[1] - 1 + token
    whole = Inputs(np.concatenate([inputs.ids, before], 1), np.concatenate([inputs.types, text], 1),
                   np.concatenate([inputs.mask, text + 1], 1), inputs.media)
    p, config = Params(model.leaves).model, model.config
    with model.answering(), recording(OneToken(at)) as seen:
        h, _ = model.hidden(whole, keep=None)
        states = namespace(seen.states[0]).stack(seen.states)[None]         # (1, L, D)
        normed, _ = ops.rms_norm(states, p.norm.weight, config.rms_norm_eps)
        lens, choices = (to_numpy(head(rows, model.leaves[f"{config.head}.weight"])[0])
                         for rows in (normed, h[:, -len(answer):]))
    return Look(whole.types[0, :at + 1], to_numpy(seen.vision), np.stack([to_numpy(each) for each in seen.attention]),
                lens, choices)


class OneToken(dict):
    """Records for trace.recording, of which only what concerns token `at`, and what stands before it, is kept."""

    def __init__(self, at):
        super().__init__()
        self.at, self.attention, self.states, self.vision = at, [], [], None

    def __setitem__(self, name, array):
        part, _, name = name.rpartition("/")
        if name == "vision_mask":
            self.vision = array[0, :self.at + 1]
        elif name == "q_rope":
            self.query = array[0, :, self.at]                               # (H, d)
        elif name == "k_rope":
            self.attention.append(weights(self.query, array[0, :, :self.at + 1]))
        elif name == "out" and part.startswith("lm/layer"):
            self.states.append(array[0, self.at])                           # (D,)


def weights(q, k):
    """softmax(q k^T / sqrt(d)) of one query a head         q (H, d), k (G, S, d) -> (H, S)"""
    (H, d), (G, S, _), xp = q.shape, k.shape, namespace(q)
    scores = (wide(q).reshape(G, H // G, d) @ wide(k).swapaxes(1, 2)).reshape(H, S) / math.sqrt(d)
    p = xp.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def likeliest(logits, count):
    """[(id, probability)] of the `count` largest logits (V,)"""
    p = np.exp((logits - logits.max()).astype(np.float64))
    order = np.argsort(-p, kind="stable")[:count]
    return [(int(i), float(p[i] / p.sum())) for i in order]
