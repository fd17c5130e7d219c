"""10 Decoding. Fill in the bodies, then: tinycogvlm learn check 10"""
import numpy as np


def append_to_cache(keys, values, length, k, v):
    """All keys and values so far: the first `length` tokens of the cache, then the new ones

    keys and values (B, G, C, d), k and v (B, G, T, d) -> keys (B, G, S, d), values (B, G, S, d)
    The cache has room for C tokens; what comes after the first `length` was never written. S = length + T.
    """
    raise NotImplementedError


def next_probabilities(logits, temperature, top_k, top_p):
    """How probable each token of the vocabulary is as the next one     logits (V,) -> (V,)

    temperature 0: 1 for the largest logit, 0 for all others. Otherwise, in this order:
    softmax(logits / temperature); only the top_k most probable stay, and sum to 1 again; of these only the first that
    together reach top_p stay, at least one, and sum to 1 again. top_k or top_p None: all stay.
    """
    raise NotImplementedError


def decode(step, choose, ids, limit, eos):
    """The new tokens after a prompt: at most `limit`, and none after eos, which is kept

    ids (T,) -> (N,)
    step(ids, cache) -> logits (V,), cache: the model reads ids (any number of them) after what is in the cache, which
    is None at first, and says what may follow. It should read nothing twice. choose(logits) -> an id.
    """
    raise NotImplementedError


def left_pad(rows, pad):
    """Rows of different lengths as one array, padded on the left; the mask is 1 where a token is real, else 0

    rows: a list of B arrays of ids, the longest of T -> ids (B, T), mask (B, T)
    """
    raise NotImplementedError
