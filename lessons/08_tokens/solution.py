"""08 Tokens: a solution"""
from collections import Counter

import numpy as np


def most_frequent_pair(ids):
    counts = Counter(zip(ids.tolist(), ids[1:].tolist()))
    return np.array(min(counts, key=lambda pair: (-counts[pair], pair)))


def merge_pair(ids, pair, new):
    result, i = [], 0
    while i < len(ids):
        if tuple(ids[i:i + 2]) == tuple(pair):
            result.append(new)
            i += 2
        else:
            result.append(ids[i])
            i += 1
    return np.array(result, int)


def encode(ids, merges):
    i = 0
    while i < len(merges):
        left, right, new = merges[i]
        if np.any((ids[:-1] == left) & (ids[1:] == right)):
            ids = merge_pair(ids, (left, right), new)
            i = 0
        else:
            i += 1
    return ids
