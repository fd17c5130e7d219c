"""10 Decoding: a solution"""
import numpy as np


def append_to_cache(keys, values, length, k, v):
    return np.concatenate([keys[:, :, :length], k], 2), np.concatenate([values[:, :, :length], v], 2)


def next_probabilities(logits, temperature, top_k, top_p):
    order = np.argsort(-logits, kind="stable")              # most probable first
    result = np.zeros_like(logits)
    if temperature == 0:
        result[order[0]] = 1
        return result
    order = order[:top_k]
    z = logits[order] / temperature
    p = np.exp(z - z[0])
    p = p / p.sum()
    if top_p is not None:
        stays = np.cumsum(p) - p < top_p                    # those before it have not reached top_p yet
        order, p = order[stays], p[stays]
    result[order] = p / p.sum()
    return result


def decode(step, choose, ids, limit, eos):
    new, cache = [], None
    while len(new) < limit:
        logits, cache = step(ids, cache)
        new.append(choose(logits))
        if new[-1] == eos:
            break
        ids = np.array(new[-1:])
    return np.array(new)


def left_pad(rows, pad):
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), pad)
    mask = np.zeros_like(ids)
    for b, row in enumerate(rows):
        ids[b, longest - len(row):] = row
        mask[b, longest - len(row):] = 1
    return ids, mask
