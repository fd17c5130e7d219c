"""Lesson 08: byte pair encoding."""
import json
from functools import lru_cache

import numpy as np

from ...contracts import Contract
from ...contracts.contract import EXACT
from ...inputs.tokenizer import ByteLevelTokenizer, SubwordTokenizer
from ..exercise import Exercise

LETTERS = 0x4E00                                            # for the tokenizers package, an id is a letter from here on

# -------------------------------------------------------------------------------------------------- most_frequent_pair


def most_frequent_pair(ids):
    """The two ids that are neighbours most often; of several such pairs the one with the smaller left id, then right"""
    counts = {}
    for pair in zip(ids.tolist(), ids[1:].tolist()):
        counts[pair] = counts.get(pair, 0) + 1
    return np.array(min(counts, key=lambda pair: (-counts[pair], pair)))


def most_frequent_pair_cases():
    for label, ids in (("one pair", [4, 2]), ("three times", [1, 2, 3, 1, 2, 1, 2]), ("three alike", [7, 7, 7, 2, 1]),
                       ("the order counts", [2, 1, 2, 3, 2, 1]), ("two pairs as often", [5, 1, 2, 3, 4]),
                       ("not the most frequent ids", [1, 9, 2, 9, 3, 9, 5, 6, 4, 5, 6]),
                       ("a long row", np.random.default_rng(0).integers(0, 6, 200))):
        yield label, dict(ids=np.array(ids))


def package_most_frequent_pair(ids):
    """The first merge that the tokenizers package learns from a text in which every id is a letter."""
    from tokenizers import Tokenizer, models, trainers
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=len(set(ids.tolist())) + 1, show_progress=False)
    tokenizer.train_from_iterator(["".join(chr(LETTERS + token) for token in ids.tolist())], trainer)
    [pair] = json.loads(tokenizer.to_str())["model"]["merges"]
    return np.array([ord(letter) - LETTERS for letter in (pair.split(" ") if isinstance(pair, str) else pair)])


MOST_FREQUENT_PAIR = Exercise(Contract("most_frequent_pair", most_frequent_pair, most_frequent_pair_cases, EXACT),
                              package_most_frequent_pair, (most_frequent_pair,))


def counted(pairs, choose=np.argmax):
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return found[choose(counts)]


@MOST_FREQUENT_PAIR.mistake("This is the rarest pair; the most frequent one is wanted.")
def rarest_pair(ids):
    return counted(np.stack([ids[:-1], ids[1:]], 1), np.argmin)


@MOST_FREQUENT_PAIR.mistake("These are the two most frequent ids; count pairs of neighbours, in their order.")
def most_frequent_ids(ids):
    found, counts = np.unique(ids, return_counts=True)
    return found[np.argsort(-counts, kind="stable")][:2]


@MOST_FREQUENT_PAIR.mistake("The order within a pair is lost: 1 2 and 2 1 are two pairs.")
def pairs_sorted(ids):
    return counted(np.sort(np.stack([ids[:-1], ids[1:]], 1)))


@MOST_FREQUENT_PAIR.mistake(
    "Only every second pair is counted; each id but the last begins one: 1 2 3 has the pairs 1 2 and 2 3.")
def every_second_pair(ids):
    return counted(ids[:len(ids) // 2 * 2].reshape(-1, 2))


@MOST_FREQUENT_PAIR.mistake("Of equally frequent pairs, this takes the one met first; it should be the smallest.")
def first_met(ids):
    pairs = list(zip(ids.tolist(), ids[1:].tolist()))
    return np.array(max(pairs, key=pairs.count))


# ---------------------------------------------------------------------------------------------------------- merge_pair

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


def merge_pair_cases():
    def case(*ids, pair=(1, 2), new=9):
        return dict(ids=np.array(ids, int), pair=pair, new=new)
    yield "once", case(3, 1, 2, 3)
    yield "twice, and at both ends", case(1, 2, 3, 1, 2)
    yield "not there", case(2, 1, 3)
    yield "three alike", case(7, 7, 7, pair=(7, 7), new=8)
    yield "ids of two digits", case(11, 2, 3, 1, 23, 1, 2)
    yield "the first token alone at the end", case(3, 2, 1)
    yield "one token", case(1)
    yield "a long row", case(*np.random.default_rng(0).integers(1, 4, 60))


def package_merge_pair(ids, pair, new):
    return package_encode(ids, np.array([[*pair, new]]))


MERGE_PAIR = Exercise(Contract("merge_pair", merge_pair, merge_pair_cases, EXACT), package_merge_pair, (merge_pair,))


@MERGE_PAIR.mistake(
    "Overlapping pairs are merged, too: of 7 7 7 the first two become one, and the third stays. Skip both ids of a "
    "pair.")
def overlaps_merged(ids, pair, new):
    row, result = ids.tolist(), []
    for i, token in enumerate(row):
        if tuple(row[i:i + 2]) == tuple(pair):
            result.append(new)
        elif tuple(row[i - 1:i + 1]) != tuple(pair) or i == 0:
            result.append(token)
    return np.array(result, int)


@MERGE_PAIR.mistake("Only the first pair is merged; there may be several.")
def merged_once(ids, pair, new):
    row = ids.tolist()
    for i in range(len(row) - 1):
        if tuple(row[i:i + 2]) == tuple(pair):
            return np.array(row[:i] + [new] + row[i + 2:], int)
    return ids


@MERGE_PAIR.mistake("The right id of a merged pair stays; both make way for the new one. A while loop can skip it.")
def right_id_stays(ids, pair, new):
    row = ids.tolist()
    return np.array([new if tuple(row[i:i + 2]) == tuple(pair) else token for i, token in enumerate(row)], int)


@MERGE_PAIR.mistake(
    "The right id of a merged pair stays, and the last id of all is lost. A while loop can skip the one and reach the "
    "other.")
def right_id_stays_and_last_lost(ids, pair, new):
    return right_id_stays(ids, pair, new)[:-1]


@MERGE_PAIR.mistake("The last id is lost: it has no next one, but it stays.")
def last_lost(ids, pair, new):
    if tuple(ids[-2:]) == tuple(pair):
        return merge_pair(ids, pair, new)
    return merge_pair(ids, pair, new)[:-1]


@MERGE_PAIR.mistake("The pair in reverse order is merged; its first id is the left one.")
def pair_reversed(ids, pair, new):
    return merge_pair(ids, pair[::-1], new)


@MERGE_PAIR.mistake("The digits of ids are merged, as in a text: 11 2 has no pair 1 2. Compare whole ids.")
def digits_merged(ids, pair, new):
    text = " ".join(map(str, ids)).replace(" ".join(map(str, pair)), str(new))
    return np.array(text.split(), int)


# -------------------------------------------------------------------------------------------------------------- encode

def encode(ids, merges):
    """As long as there is one: the merge of the lowest row, wherever its pair stands."""
    while True:
        pairs = set(zip(ids.tolist(), ids[1:].tolist()))
        row = next((row for row in merges.tolist() if (row[0], row[1]) in pairs), None)
        if row is None:
            return ids
        ids = merge_pair(ids, row[:2], row[2])


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


def package_encode(ids, merges):
    merges = tuple(map(tuple, merges.tolist()))
    model, text = byte_pairs(merges, frozenset(ids.tolist()).difference(*merges))
    return np.array([token.id for token in model.tokenize("".join(map(text.get, ids.tolist())))], int)


@lru_cache
def byte_pairs(merges, others):
    """The tokenizers package's model, and {id: text}: an id is a letter, a merged one the word of its letters."""
    from tokenizers import models
    parts = {new: pair for *pair, new in merges}            # in any order: a row may need what a later one makes

    def word(token):
        return "".join(map(word, parts[token])) if token in parts else chr(LETTERS + token)
    text = {token: word(token) for token in others.union(*merges)}
    pairs = [(text[left], text[right]) for left, right, _ in merges]
    return models.BPE({word: token for token, word in text.items()}, pairs), text


@lru_cache
def byte_level(tokenizer):
    """{character: id}, merges (R, 3) of a byte-level tokenizer"""
    model = json.loads(tokenizer.plain.to_str())["model"]
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return model["vocab"], np.array([[model["vocab"][part] for part in (a, b, a + b)] for a, b in pairs])


def fit_encode(mine, otherwise):
    """The text is cut into pieces as before; each of them is encoded by the learner."""
    def encode(self, text, special):
        if special or not isinstance(self, ByteLevelTokenizer) or self.plain.normalizer:
            return otherwise(self, text, special)
        ids, merges = byte_level(self)
        pieces = [np.array([ids[byte] for byte in piece]) for piece, _ in
                  self.plain.pre_tokenizer.pre_tokenize_str(text)]
        return [int(token) for piece in pieces for token in mine(piece, merges)]
    return encode


ENCODE = Exercise(Contract("encode", encode, encode_cases, EXACT), package_encode, (encode,),
                  part="encode", place=SubwordTokenizer._encode, fit=fit_encode)


@ENCODE.mistake(
    "The text is merged greedily from left to right; row 0 of the table goes first, wherever in the text its pair is.")
def greedy_from_the_left(ids, merges):
    table = {(left, right): new for left, right, new in merges.tolist()}
    row, i = ids.tolist(), 0
    while i < len(row) - 1:
        if tuple(row[i:i + 2]) in table:
            row[i:i + 2] = [table[tuple(row[i:i + 2])]]
            i = max(i - 1, 0)
        else:
            i += 1
    return np.array(row, int)


@ENCODE.mistake("The table is searched from its last row up; row 0 was learned first and goes first.")
def table_upside_down(ids, merges):
    return encode(ids, merges[::-1])


@ENCODE.mistake(
    "The table is gone through once; after each merge the search begins at row 0 again, whose pair may be there now.")
def table_once(ids, merges):
    for left, right, new in merges.tolist():
        ids = merge_pair(ids, (left, right), new)
    return ids


@ENCODE.mistake("Only one merge is made; go on until no pair of neighbours is in the table.")
def one_merge(ids, merges):
    pairs = set(zip(ids.tolist(), ids[1:].tolist()))
    row = next((row for row in merges.tolist() if (row[0], row[1]) in pairs), None)
    return ids if row is None else merge_pair(ids, row[:2], row[2])
