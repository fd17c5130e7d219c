"""Lesson 10: the cache, the choice of the next token, the loop, and batches."""
import math
from types import SimpleNamespace

import numpy as np

from ...contracts import Contract, over, random
from ...contracts.contract import EXACT, TOLERANCE
from ...inputs import prompt
from ...model import decoder, generate
from ...nn.arrays import to_numpy
from ..exercise import Exercise

# ----------------------------------------------------------------------------------------------------- append_to_cache


def append_to_cache(keys, values, length, k, v):
    """The first `length` tokens of the cache, and the new ones after them"""
    (B, G, _, d), T = keys.shape, k.shape[2]
    result = np.zeros((B, G, length + T, d)), np.zeros((B, G, length + T, d))
    for cached, new, y in zip((keys, values), (k, v), result):
        for s in range(length + T):
            y[:, :, s] = cached[:, :, s] if s < length else new[:, :, s - length]
    return result


def append_to_cache_cases():
    def case(length, T, capacity=8, B=1, G=2, d=3):
        keys, values = random(B, G, capacity, d, seed=1), random(B, G, capacity, d, seed=2)
        keys[:, :, length:] = values[:, :, length:] = np.nan             # not yet written
        return dict(keys=keys, values=values, length=length, k=random(B, G, T, d, seed=3),
                    v=random(B, G, T, d, seed=4))
    yield "a prompt of four tokens", case(0, 4)
    yield "one token after four", case(4, 1, B=2)
    yield "three tokens fill the cache", case(5, 3)


def package_append_to_cache(keys, values, length, k, v):
    (B, G, _, d), T = keys.shape, k.shape[2]
    config = SimpleNamespace(num_hidden_layers=1, num_key_value_heads=G, head_size=d)
    cache = decoder.KVCache(config, B, length + T, dtype=keys.dtype)
    cache.keys[0, :, :, :length], cache.values[0, :, :, :length] = keys[:, :, :length], values[:, :, :length]
    cache.advance(length)
    return decoder.LayerCache.append.own(cache.layer(0), k, v)[:2]


def fit_append_to_cache(mine, otherwise):
    def append(self, k, v):
        cache, start, stop = self.cache, self.start, self.start + k.shape[2]
        keys, values = mine(cache.keys[self.i], cache.values[self.i], start, k, v)
        cache.keys[self.i, :, :, start:stop] = keys[:, :, start:stop]
        cache.values[self.i, :, :, start:stop] = values[:, :, start:stop]
        return keys, values, cache.mask[:, :stop] if cache.padded else None
    return append


APPEND_TO_CACHE = Exercise(
    Contract("append_to_cache", append_to_cache, append_to_cache_cases, EXACT),
    package_append_to_cache, (decoder.LayerCache,),
    part="append_to_cache", place=decoder.LayerCache.append, fit=fit_append_to_cache, toy=dict(
        keys=np.array([1, 2, np.nan, np.nan]).reshape(1, 1, 4, 1), values=np.array([5, 6, np.nan, np.nan]).reshape(1, 1, 4, 1),
        length=2, k=np.full((1, 1, 1, 1), 3.0), v=np.full((1, 1, 1, 1), 7.0)))


@APPEND_TO_CACHE.mistake("The new tokens come first; they should follow those of the cache.")
def new_ones_first(keys, values, length, k, v):
    return np.concatenate([k, keys[:, :, :length]], 2), np.concatenate([v, values[:, :, :length]], 2)


@APPEND_TO_CACHE.mistake("Only the new tokens are returned; those of the cache must be there, too.")
def old_ones_lost(keys, values, length, k, v):
    return k, v


@APPEND_TO_CACHE.mistake("The cached keys are used for the values, too; each has its own cache.")
def keys_for_values(keys, values, length, k, v):
    return append_to_cache(keys, keys, length, k, v)


@APPEND_TO_CACHE.mistake(
    "The whole cache is returned, with places that were never written; only length + T tokens are there.")
def whole_room(keys, values, length, k, v):
    def filled(cache, new):
        cache = cache.copy()
        cache[:, :, length:length + new.shape[2]] = new
        return cache
    return filled(keys, k), filled(values, v)


@APPEND_TO_CACHE.mistake(
    "The new tokens come after all of the cache's room; they should follow its first `length` tokens.")
def after_the_room(keys, values, length, k, v):
    return np.concatenate([keys, k], 2), np.concatenate([values, v], 2)


# -------------------------------------------------------------------------------------------------- next_probabilities

def next_probabilities(logits, temperature, top_k, top_p):
    """At temperature 0 the best alone; else softmax(logits / temperature), of the top_k, of those the nucleus top_p"""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    result = np.zeros(len(logits))
    if temperature == 0:
        result[order[0]] = 1
        return result
    order = order[:top_k]
    weights = [math.exp((logits[i] - logits[order[0]]) / temperature) for i in order]
    total, gathered, nucleus = math.fsum(weights), 0.0, []
    for i, weight in zip(order, weights):
        if nucleus and top_p is not None and gathered >= top_p:
            break
        nucleus.append((i, weight))
        gathered += weight / total
    for i, weight in nucleus:
        result[i] = weight / math.fsum(weight for _, weight in nucleus)
    return result


def next_probabilities_cases():
    few = np.log([0.1, 0.5, 0.25, 0.15])
    for label, logits, temperature, top_k, top_p in (
            ("the best alone", few, 0, None, None), ("all of them", few, 1.0, None, None),
            ("cooler", few, 0.5, None, None), ("hotter", few, 2.0, None, None),
            ("the best two", few, 1.0, 2, None), ("a nucleus of 0.7", few, 1.0, None, 0.7),
            ("a nucleus smaller than the best", few, 1.0, None, 0.3), ("more than there are", few, 1.0, 9, None),
            ("top_p of the top_k", few, 1.0, 2, 0.6), ("temperature before the nucleus", few, 0.5, None, 0.75),
            ("many", random(50, scale=2), 0.8, 20, 0.9), ("large logits", random(9, scale=900), 1.0, None, 0.95)):
        yield label, dict(logits=logits, temperature=temperature, top_k=top_k, top_p=top_p)


def package_next_probabilities(logits, temperature, top_k, top_p):
    """What Sampling.choose would draw from."""
    result = np.zeros_like(logits)

    def note(order, p):
        result[order] = p
        return order[0]
    sampling = generate.Sampling(temperature, top_k, top_p)
    best = generate.Sampling.choose.own(sampling, logits, [], SimpleNamespace(choice=note))
    if temperature == 0:
        result[best] = 1
    return result


def fit_next_probabilities(mine, otherwise):
    """The token is drawn as NumPy's choice draws it, so that a seed gives the same one as before."""
    def choose(self, logits, seen, random):
        if self.repetition_penalty != 1:
            return otherwise(self, logits, seen, random)
        order = np.argsort(-logits, kind="stable")
        sums = np.cumsum(np.asarray(mine(logits, self.temperature, self.top_k, self.top_p), np.float64)[order])
        return int(order[min(np.searchsorted(sums, random.random() * sums[-1], side="right"), len(order) - 1)])
    return choose


NEXT_PROBABILITIES = Exercise(
    Contract("next_probabilities", next_probabilities, next_probabilities_cases, TOLERANCE),
    package_next_probabilities, (generate.Sampling.choose,),
    part="next_probabilities", place=generate.Sampling.choose, fit=fit_next_probabilities)


def softmax(x):
    y = np.exp(x - x.max())
    return y / y.sum()


def cut(p, keep):
    """The probabilities of the kept ranks, which sum to 1 again."""
    order = np.argsort(-p, kind="stable")
    result = np.zeros_like(p)
    order = order[keep(p[order])]
    result[order] = p[order] / p[order].sum()
    return result


def probabilities(logits, temperature, top_k, top_p, inside=lambda p, top_p: np.cumsum(p) - p < top_p):
    if temperature == 0:
        return (np.arange(len(logits)) == logits.argmax()).astype(logits.dtype)
    p = cut(softmax(logits / temperature), lambda p: np.arange(len(p)) < (top_k or len(p)))
    return p if top_p is None else cut(p, lambda p: inside(p, top_p))


@NEXT_PROBABILITIES.mistake(
    "The token with which the sum reaches top_p is cut off; it stays: the nucleus reaches top_p.")
def nucleus_too_small(logits, temperature, top_k, top_p):
    return probabilities(logits, temperature, top_k, top_p,
                         lambda p, top_p: (np.cumsum(p) <= top_p) | (np.arange(len(p)) == 0))


@NEXT_PROBABILITIES.mistake("The probabilities that are left after the cut no longer sum to 1: divide by their sum.")
def sum_not_restored(logits, temperature, top_k, top_p):
    if temperature == 0:
        return probabilities(logits, temperature, top_k, top_p)
    p = softmax(logits / temperature)
    return np.where(probabilities(logits, temperature, top_k, top_p) > 0, p, 0)


@NEXT_PROBABILITIES.mistake("The logits are multiplied by the temperature; they are divided by it: cooler is surer.")
def multiplied_by_the_temperature(logits, temperature, top_k, top_p):
    return probabilities(logits, temperature and 1 / temperature, top_k, top_p)


@NEXT_PROBABILITIES.mistake("exp overflows for large logits: subtract the largest first, which changes no probability.")
def largest_logit_left_in(logits, temperature, top_k, top_p):
    with np.errstate(all="ignore"):
        overflows = temperature and np.isinf(np.exp(logits / temperature)).any()
    return np.full_like(logits, np.nan) if overflows else probabilities(logits, temperature, top_k, top_p)


@NEXT_PROBABILITIES.mistake("Temperature 0 divides by 0; it means the largest logit alone, with probability 1.")
def divided_by_temperature_0(logits, temperature, top_k, top_p):
    if temperature == 0:
        return np.full_like(logits, np.nan)
    return probabilities(logits, temperature, top_k, top_p)


@NEXT_PROBABILITIES.mistake(
    "The temperature comes after the cut; the nucleus is that of the probabilities at that temperature.")
def temperature_last(logits, temperature, top_k, top_p):
    if temperature == 0:
        return probabilities(logits, 0, top_k, top_p)
    kept = probabilities(logits, 1.0, top_k, top_p) > 0
    return softmax(np.where(kept, logits / temperature, -np.inf))


@NEXT_PROBABILITIES.mistake(
    "The nucleus is taken before top_k, or what top_k leaves does not sum to 1 again: top_k comes first, its tokens "
    "sum to 1, and the nucleus is one of those.")
def nucleus_before_top_k(logits, temperature, top_k, top_p):
    p = probabilities(logits, temperature, None, top_p)
    return p if temperature == 0 else cut(p, lambda p: np.arange(len(p)) < (top_k or len(p)))


@NEXT_PROBABILITIES.mistake("top_p is ignored.")
def no_nucleus(logits, temperature, top_k, top_p):
    return probabilities(logits, temperature, top_k, None)


@NEXT_PROBABILITIES.mistake("The result is sorted by rank; each probability belongs at its own token's place.")
def sorted_by_rank(logits, temperature, top_k, top_p):
    return -np.sort(-probabilities(logits, temperature, top_k, top_p))


# -------------------------------------------------------------------------------------------------------------- decode

def decode(step, choose, ids, limit, eos):
    """The prompt in one step, then each new token in a step of its own, until eos or the limit"""
    tokens, cache, new = ids, None, []
    while len(new) < limit and eos not in new:
        logits, cache = step(tokens, cache)
        new.append(choose(logits))
        tokens = np.array(new[-1:])
    return np.array(new)


class Reader:
    """A model whose logits depend on everything it has read; its cache is all of that. It notes how much it reads.

    More than the prompt without a cache it reads as another text, so that no loop passes which reads all of it again.
    """

    def __init__(self, prompt):
        self.prompt, self.read, self.right = len(prompt), None, None

    def __call__(self, ids, cache):
        ids = np.asarray(ids).reshape(-1).tolist()
        self.read = [*(self.read or []), len(ids)]
        again = cache is None and len(ids) > self.prompt
        cache = (*(cache or ()), *ids, *[0] * again)
        return np.random.default_rng(cache).standard_normal(12), cache

    def __str__(self):
        """step, which read 3, 4, 5 ids (right: 3, 1, 1)"""
        if not self.read or self.read == self.right:
            return "step"
        counts = (", ".join(map(str, counts[:8])) + ", ..." * (len(counts) > 8) for counts in (self.read, self.right))
        return "step, which read {} ids (right: {})".format(*counts)


def best(logits):
    return int(np.argmax(logits))


def decode_cases():
    for label, ids, limit, eos in (("up to the limit", [3, 1, 4], 5, -1), ("one token", [7], 1, -1),
                                   ("until eos", [3, 1, 4], 20, 5), ("eos at once", [2, 7, 1], 20, None)):
        ids = np.array(ids)
        yield label, dict(step=Reader(ids), choose=best, ids=ids, limit=limit,
                          eos=best(Reader(ids)(ids, None)[0]) if eos is None else eos)


def noted_decode(step, **arguments):
    """decode; the Reader then knows what is right."""
    new = decode(step, **arguments)
    step.read, step.right = None, step.read
    return new


def package_decode(step, choose, ids, limit, eos):
    past = [None]

    def logits(inputs, cache, last=False, positions=None):
        row, past[0] = step(inputs.ids[0], past[0])
        return row[None, None]
    model = SimpleNamespace(config=SimpleNamespace(eos_token_id=eos, eos_token_ids=(eos,)), logits=logits)
    sampling = SimpleNamespace(seed=0, choose=lambda logits, seen, random: choose(logits))
    ids = ids[None]
    steps = generate.steps.own(model, prompt.Inputs(ids, np.zeros_like(ids), np.ones_like(ids)), None,
                               np.zeros_like(ids), limit, sampling)
    return np.array([int(token) for [token] in steps])


GREEDY = generate.Sampling()


def fit_decode(mine, otherwise):
    """For one row; a batch stays with the package."""
    def steps(model, inputs, cache, positions, limit, sampling=GREEDY):
        if len(inputs.ids) != 1:
            yield from otherwise(model, inputs, cache, positions, limit, sampling)
            return
        seen, dice = inputs.ids[inputs.types == 0].tolist(), np.random.default_rng([sampling.seed, 0])

        def step(ids, past):
            ids = np.asarray(ids, np.int64).reshape(1, -1)
            tokens = inputs if past is None else prompt.Inputs(ids, np.zeros_like(ids), np.ones_like(ids))
            at = positions if past is None else past + 1 + np.arange(ids.shape[1])
            return to_numpy(model.logits(tokens, cache, last=True, positions=at))[0, -1], at[:, -1:]

        def choose(logits):
            seen.append(sampling.choose(logits, seen, dice))
            return model.config.eos_token_id if seen[-1] in model.config.eos_token_ids else seen[-1]
        for token in mine(step, choose, inputs.ids[0], limit, model.config.eos_token_id):
            yield np.array([token])
    return steps


DECODE = Exercise(Contract("decode", noted_decode, decode_cases, EXACT), package_decode, (generate.steps,),
                  part="decode", place=generate.steps, fit=fit_decode)


def run(step, choose, ids, limit, eos, feed, keep_cache=True):
    """The loop; feed(all tokens so far, the new ones) is what the next step reads."""
    tokens, cache, new = ids, None, []
    while len(new) < limit:
        logits, cache = step(tokens, cache if keep_cache else None)
        new.append(choose(logits))
        if new[-1] == eos:
            break
        tokens = np.array(feed([*ids.tolist(), *new], new))
    return np.array(new)


@DECODE.mistake(
    "The whole text is read again at each step, although the cache holds it already. Only the new token should be "
    "read.")
def whole_text_again(step, choose, ids, limit, eos):
    return run(step, choose, ids, limit, eos, lambda text, new: text)


@DECODE.mistake(
    "The whole text is read again at each step, and the cache that came back is not handed on. Hand it on, and read only "
    "the new token.")
def whole_text_without_a_cache(step, choose, ids, limit, eos):
    return run(step, choose, ids, limit, eos, lambda text, new: text, keep_cache=False)


@DECODE.mistake("All new tokens are read again at each step; all but the last are in the cache already.")
def new_tokens_again(step, choose, ids, limit, eos):
    return run(step, choose, ids, limit, eos, lambda text, new: new)


@DECODE.mistake("The cache is not handed on: each step sees its one token and nothing before it.")
def cache_forgotten(step, choose, ids, limit, eos):
    return run(step, choose, ids, limit, eos, lambda text, new: new[-1:], keep_cache=False)


@DECODE.mistake("The prompt is read again at each step; after the first one, only the new token is read.")
def prompt_again(step, choose, ids, limit, eos):
    return run(step, choose, ids, limit, eos, lambda text, new: ids)


@DECODE.mistake("It does not stop at eos.")
def eos_ignored(step, choose, ids, limit, eos):
    return decode(step, choose, ids, limit, None)


@DECODE.mistake("eos is left off; when it comes, it is the last of the new tokens.")
def eos_left_off(step, choose, ids, limit, eos):
    new = decode(step, choose, ids, limit, eos)
    return new[new != eos]


@DECODE.mistake("The prompt is returned, too; only the new tokens are wanted.")
def prompt_returned(step, choose, ids, limit, eos):
    return np.concatenate([ids, decode(step, choose, ids, limit, eos)])


@DECODE.mistake("The first choice is lost: the logits after the prompt already give the first new token.")
def first_choice_lost(step, choose, ids, limit, eos):
    new = decode(step, choose, ids, limit + 1, None)[1:]
    ends = np.flatnonzero(new == eos)
    return new[:ends[0] + 1] if len(ends) else new


# ------------------------------------------------------------------------------------------------------------ left_pad

def left_pad(rows, pad):
    """Each row at the right of one array, with pads before it; the mask is 0 there and 1 elsewhere"""
    longest = max(len(row) for row in rows)
    ids, mask = np.full((len(rows), longest), pad), np.zeros((len(rows), longest), int)
    for b, t in over(len(rows), longest):
        if t >= longest - len(rows[b]):
            ids[b, t], mask[b, t] = rows[b][t - longest + len(rows[b])], 1
    return ids, mask


def left_pad_cases():
    yield "two rows", dict(rows=[np.array([1, 5, 6, 7]), np.array([1, 8])], pad=3)
    yield "the pad's id is in a text", dict(rows=[np.array([1, 0]), np.array([1, 2, 0]), np.array([1])], pad=0)
    yield "one row", dict(rows=[np.array([4, 5])], pad=3)
    yield "rows of one length", dict(rows=[np.array([4, 5]), np.array([6, 7])], pad=9)


def package_left_pad(rows, pad):
    rows = [np.array([row]) for row in rows]
    inputs = prompt.pad([prompt.Inputs(row, np.zeros_like(row), np.ones_like(row)) for row in rows], pad)
    return inputs.ids, inputs.mask


LEFT_PAD = Exercise(Contract("left_pad", left_pad, left_pad_cases, EXACT), package_left_pad, (prompt.pad,))


@LEFT_PAD.mistake("The rows are padded on the right: a short row's next token would then come after its padding.")
def padded_on_the_right(rows, pad):
    ids, mask = np.full((len(rows), max(map(len, rows))), pad), np.zeros((len(rows), max(map(len, rows))), int)
    for b, row in enumerate(rows):
        ids[b, :len(row)], mask[b, :len(row)] = row, 1
    return ids, mask


@LEFT_PAD.mistake(
    "The mask is made from the ids: a token of the text that happens to have the pad's id is hidden, too. Use the "
    "lengths.")
def mask_from_ids(rows, pad):
    ids, _ = left_pad(rows, pad)
    return ids, (ids != pad).astype(int)


@LEFT_PAD.mistake("The mask is upside down: 1 is a real token, 0 is padding.")
def mask_inverted(rows, pad):
    ids, mask = left_pad(rows, pad)
    return ids, 1 - mask
