"""Lesson 13: attention whose heads share keys and values, as in CogVLM2."""
from functools import partial, wraps

import numpy as np

from ...contracts import CONTRACTS
from ...nn import ops
from ..exercise import Exercise, forward
from .attention import attend, causal
from .language_model import CAUSAL_ATTENTION, fit_causal_attention


def is_plain(arguments):
    return not {"mask", "causal"} & set(arguments)


GROUPED_ATTENTION = Exercise(
    CONTRACTS["attention"].narrowed("grouped_attention", is_plain), forward(ops.attention), (ops.attention,),
    part="causal_attention", place=ops.attention, fit=partial(fit_causal_attention, shared=True),
    toy=dict(q=np.zeros((1, 4, 1, 1)), k=np.zeros((1, 2, 1, 1)), v=np.array([0.0, 1]).reshape(1, 2, 1, 1)))


def shared(attend):
    """The same mistake where heads share keys: key-value head g is repeated once for each of its query heads."""
    @wraps(attend)
    def grouped(q, k, v):
        k, v = (np.repeat(array, q.shape[1] // k.shape[1], axis=1) for array in (k, v))
        return attend(q, k, v)
    return grouped


for each in CAUSAL_ATTENTION.mistakes:
    GROUPED_ATTENTION.mistake(each.sentence)(shared(each.make))


@GROUPED_ATTENTION.mistake(
    "Each key-value head must be repeated next to itself, 0 0 1 1 as np.repeat does (repeat_interleave in PyTorch), "
    "not 0 1 0 1 as np.tile does.")
def heads_tiled(q, k, v):
    n = q.shape[1] // k.shape[1]
    return attend(q, np.tile(k, (1, n, 1, 1)), np.tile(v, (1, n, 1, 1)), see=causal(q, k))


@GROUPED_ATTENTION.mistake("Every query head reads the first key-value head; head h should read h // (H / G).")
def first_head_for_all(q, k, v):
    return attend(q, k[:, :1], v[:, :1], see=causal(q, k))
