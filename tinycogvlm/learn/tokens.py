"""Exercises on tokens and decoding: what is right, what the package gives, and how a function comes into the model."""
import json
import math
from functools import lru_cache
from types import SimpleNamespace

import numpy as np

from ..contracts.contract import TOLERANCE, Contract, over, random
from ..inputs import prompt
from ..inputs.tokenizer import ByteLevelTokenizer
from ..model import decoder, generate
from ..nn.arrays import to_numpy

LETTERS = 0x4E00                                            # an id is a letter of its own, from here
EXACT = dict.fromkeys(TOLERANCE, 0.0)


# -------------------------------------------------------------------------------------------------- byte pair encoding

def most_frequent_pair(ids):
    """The two ids that are neighbours most often; of several such pairs the one with the smaller left id, then right"""
    counts = {}
    for pair in zip(ids.tolist(), ids[1:].tolist()):
        counts[pair] = counts.get(pair, 0) + 1
    return np.array(min(counts, key=lambda pair: (-counts[pair], pair)))


def package_most_frequent_pair(ids):
    """The first merge that the tokenizers package learns of a text in which every id is a letter."""
    from tokenizers import Tokenizer, models, trainers
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=len(set(ids.tolist())) + 1, show_progress=False)
    tokenizer.train_from_iterator(["".join(chr(LETTERS + id) for id in ids.tolist())], trainer)
    [pair] = json.loads(tokenizer.to_str())["model"]["merges"]
    return np.array([ord(letter) - LETTERS for letter in (pair.split(" ") if isinstance(pair, str) else pair)])


def most_frequent_pair_cases():
    for label, ids in (("one pair", [4, 2]), ("three times", [1, 2, 3, 1, 2, 1, 2]), ("three alike", [7, 7, 7, 2, 1]),
                       ("the order counts", [2, 1, 2, 3, 2, 1]), ("two pairs as often", [5, 1, 2, 3, 4]),
                       ("not the most frequent ids", [1, 9, 2, 9, 3, 9, 5, 6, 4, 5, 6]),
                       ("a long row", np.random.default_rng(0).integers(0, 6, 200))):
        yield label, dict(ids=np.array(ids))


def merge_pair(ids, pair, new):
    """Every two neighbours that are the pair become one token; from left to right, so that 7 7 7 has the first two."""
    row, result, i = ids.tolist(), [], 0
    while i < len(row):
        if tuple(row[i:i + 2]) == tuple(pair):
            result.append(new)
            i += 2
        else:
            result.append(row[i])
            i += 1
    return np.array(result, int)


def encode(ids, merges):
    """As long as there is one: the merge of the lowest row, wherever its pair stands."""
    while True:
        pairs = set(zip(ids.tolist(), ids[1:].tolist()))
        row = next((row for row in merges.tolist() if (row[0], row[1]) in pairs), None)
        if row is None:
            return ids
        ids = merge_pair(ids, row[:2], row[2])


def package_encode(ids, merges):
    merges = tuple(map(tuple, merges.tolist()))
    model, text = byte_pairs(merges, frozenset(ids.tolist()).difference(*merges))
    return np.array([token.id for token in model.tokenize("".join(text[id] for id in ids.tolist()))], int)


@lru_cache
def byte_pairs(merges, others):
    """The tokenizers package's model, and {id: text}: an id is a letter, one that is merged the word of its letters."""
    from tokenizers import models
    parts = {new: pair for *pair, new in merges}            # in any order: a row may need what a later one makes

    def word(id):
        return "".join(map(word, parts[id])) if id in parts else chr(LETTERS + id)
    text = {id: word(id) for id in others.union(*merges)}
    pairs = [(text[left], text[right]) for left, right, _ in merges]
    return models.BPE({word: id for id, word in text.items()}, pairs), text


def package_merge_pair(ids, pair, new):
    return package_encode(ids, np.array([[*pair, new]]))


def merge_pair_cases():
    def case(*ids, pair=(1, 2), new=9):
        return dict(ids=np.array(ids, int), pair=pair, new=new)
    yield "once", case(3, 1, 2, 3)
    yield "twice, and at both ends", case(1, 2, 3, 1, 2)
    yield "not there", case(2, 1, 3)
    yield "three alike", case(7, 7, 7, pair=(7, 7), new=8)
    yield "the first token alone at the end", case(3, 2, 1)
    yield "one token", case(1)
    yield "a long row", case(*np.random.default_rng(0).integers(1, 4, 60))


def encode_cases():
    merges = np.array([[1, 2, 10], [3, 3, 11], [10, 3, 12], [2, 1, 13], [12, 11, 14], [3, 1, 15]])
    yield "one merge", dict(ids=np.array([4, 1, 2]), merges=merges)
    yield "a merge of merged ones", dict(ids=np.array([1, 2, 3, 4]), merges=merges)
    yield "an early row that comes later in the text", dict(ids=np.array([2, 1, 2]), merges=merges)
    yield "two ways to cut", dict(ids=np.array([1, 2, 3, 3, 3]), merges=merges)
    yield "a row that comes back", dict(ids=np.array([3, 3, 1, 2, 1, 2]), merges=merges)
    later = np.array([[10, 3, 12], [1, 2, 10]])
    yield "a row whose left id a later row makes", dict(ids=np.array([4, 1, 2, 3, 1, 2]), merges=later)
    yield "nothing to merge", dict(ids=np.array([4, 4, 1]), merges=merges)
    yield "one token", dict(ids=np.array([3]), merges=merges)
    yield "a long text", dict(ids=np.random.default_rng(0).integers(1, 5, 80), merges=merges)


@lru_cache
def byte_level(tokenizer):
    """{character: id}, merges (R, 3) of a byte-level tokenizer"""
    model = json.loads(tokenizer.plain.to_str())["model"]
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return model["vocab"], np.array([[model["vocab"][part] for part in (a, b, a + b)] for a, b in pairs])


def fit_encode(mine, package):
    """The text is cut into pieces as before; each of them is encoded by the learner."""
    def encode(self, text, special):
        if special or not isinstance(self, ByteLevelTokenizer) or self.plain.normalizer:
            return package(self, text, special)
        ids, merges = byte_level(self)
        pieces = [np.array([ids[byte] for byte in piece]) for piece, _ in
                  self.plain.pre_tokenizer.pre_tokenize_str(text)]
        return [int(id) for piece in pieces for id in mine(piece, merges)]
    return encode


# ------------------------------------------------------------------------------------------------------------ decoding

def append_to_cache(keys, values, length, k, v):
    """The first `length` tokens of the cache, and the new ones behind them"""
    (B, G, _, d), T = keys.shape, k.shape[2]
    result = np.zeros((B, G, length + T, d)), np.zeros((B, G, length + T, d))
    for cached, new, y in zip((keys, values), (k, v), result):
        for s in range(length + T):
            y[:, :, s] = cached[:, :, s] if s < length else new[:, :, s - length]
    return result


def package_append_to_cache(keys, values, length, k, v, append=decoder.LayerCache.append.own):
    (B, G, _, d), T = keys.shape, k.shape[2]
    config = SimpleNamespace(num_hidden_layers=1, num_key_value_heads=G, head_size=d)
    cache = decoder.KVCache(config, B, length + T, dtype=keys.dtype)
    cache.keys[0, :, :, :length], cache.values[0, :, :, :length] = keys[:, :, :length], values[:, :, :length]
    cache.length = length
    return append(cache.layer(0), k, v)[:2]


def append_to_cache_cases():
    def case(length, T, capacity=8, B=1, G=2, d=3):
        keys, values = random(B, G, capacity, d, seed=1), random(B, G, capacity, d, seed=2)
        keys[:, :, length:] = values[:, :, length:] = np.nan             # not yet written
        return dict(keys=keys, values=values, length=length, k=random(B, G, T, d, seed=3),
                    v=random(B, G, T, d, seed=4))
    yield "a prompt of four tokens", case(0, 4)
    yield "one token behind four", case(4, 1, B=2)
    yield "three tokens fill the cache", case(5, 3)


def fit_append_to_cache(mine, package):
    def append(self, k, v):
        cache, start = self.cache, self.cache.length
        stop = start + k.shape[2]
        keys, values = mine(cache.keys[self.i], cache.values[self.i], start, k, v)
        cache.keys[self.i, :, :, start:stop] = keys[:, :, start:stop]
        cache.values[self.i, :, :, start:stop] = values[:, :, start:stop]
        return keys, values, cache.mask[:, :stop] if cache.padded else None
    return append


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


def package_next_probabilities(logits, temperature, top_k, top_p, choose=generate.Sampling.choose.own):
    """What Sampling.choose would draw from."""
    result = np.zeros_like(logits)

    def note(order, p):
        result[order] = p
        return order[0]
    best = choose(generate.Sampling(temperature, top_k, top_p), logits, [], SimpleNamespace(choice=note))
    if temperature == 0:
        result[best] = 1
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


def fit_next_probabilities(mine, package):
    """One is drawn as NumPy's choice does it, so that a seed gives the same as before."""
    def choose(self, logits, seen, random):
        if self.repetition_penalty != 1:
            return package(self, logits, seen, random)
        order = np.argsort(-logits, kind="stable")
        sums = np.cumsum(np.asarray(mine(logits, self.temperature, self.top_k, self.top_p), np.float64)[order])
        return int(order[min(np.searchsorted(sums, random.random() * sums[-1], side="right"), len(order) - 1)])
    return choose


def decode(step, choose, ids, limit, eos):
    """The prompt in one step, then each new token in a step of its own, until eos or the limit"""
    tokens, cache, new = ids, None, []
    while len(new) < limit and eos not in new:
        logits, cache = step(tokens, cache)
        new.append(choose(logits))
        tokens = np.array(new[-1:])
    return np.array(new)


def package_decode(step, choose, ids, limit, eos, decode=generate.steps.own):
    past = [None]

    def logits(inputs, cache, last=False, positions=None):
        row, past[0] = step(inputs.ids[0], past[0])
        return row[None, None]
    model = SimpleNamespace(config=SimpleNamespace(eos_token_id=eos, eos_token_ids=(eos,)), logits=logits)
    sampling = SimpleNamespace(seed=0, choose=lambda logits, seen, random: choose(logits))
    ids = ids[None]
    steps = decode(model, prompt.Inputs(ids, np.zeros_like(ids), np.ones_like(ids)), None, np.zeros_like(ids), limit,
                   sampling)
    return np.array([int(token) for [token] in steps])


def reader(ids, cache):
    """A model whose logits depend on everything it has read; its cache is all of that."""
    cache = (cache or ()) + tuple(int(id) for id in np.asarray(ids).reshape(-1))
    return np.random.default_rng(cache).standard_normal(12), cache


def best(logits):
    return int(np.argmax(logits))


def decode_cases():
    for label, ids, limit, eos in (("up to the limit", [3, 1, 4], 5, -1), ("one token", [7], 1, -1),
                                   ("until eos", [3, 1, 4], 20, 5), ("eos at once", [2, 7, 1], 20, None)):
        ids = np.array(ids)
        yield label, dict(step=reader, choose=best, ids=ids, limit=limit,
                          eos=best(reader(ids, None)[0]) if eos is None else eos)


def fit_decode(mine, package):
    """For one row; a batch stays with the package."""
    def decode(model, inputs, cache, positions, limit, sampling=generate.Sampling()):
        if len(inputs.ids) != 1:
            yield from package(model, inputs, cache, positions, limit, sampling)
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
        for id in mine(step, choose, inputs.ids[0], limit, model.config.eos_token_id):
            yield np.array([id])
    return decode


def left_pad(rows, pad):
    """Each row at the right of one array, with pads in front; the mask is 0 there and 1 elsewhere"""
    longest = max(len(row) for row in rows)
    ids, mask = np.full((len(rows), longest), pad), np.zeros((len(rows), longest), int)
    for b, t in over(len(rows), longest):
        if t >= longest - len(rows[b]):
            ids[b, t], mask[b, t] = rows[b][t - longest + len(rows[b])], 1
    return ids, mask


def package_left_pad(rows, pad):
    rows = [np.array([row]) for row in rows]
    inputs = prompt.pad([prompt.Inputs(row, np.zeros_like(row), np.ones_like(row)) for row in rows], pad)
    return inputs.ids, inputs.mask


def left_pad_cases():
    yield "two rows", dict(rows=[np.array([1, 5, 6, 7]), np.array([1, 8])], pad=0)
    yield "the pad's id is in a text", dict(rows=[np.array([1, 0]), np.array([1, 2, 0]), np.array([1])], pad=0)
    yield "one row", dict(rows=[np.array([4, 5])], pad=3)
    yield "rows of one length", dict(rows=[np.array([4, 5]), np.array([6, 7])], pad=9)


CONTRACTS = {contract.name: contract for contract in (
    Contract("most_frequent_pair", most_frequent_pair, most_frequent_pair_cases, EXACT),
    Contract("merge_pair", merge_pair, merge_pair_cases, EXACT),
    Contract("encode", encode, encode_cases, EXACT),
    Contract("append_to_cache", append_to_cache, append_to_cache_cases, EXACT),
    Contract("next_probabilities", next_probabilities, next_probabilities_cases, TOLERANCE | {"float32": 2e-6}),
    Contract("decode", decode, decode_cases, EXACT),
    Contract("left_pad", left_pad, left_pad_cases, EXACT),
)}
