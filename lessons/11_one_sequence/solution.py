"""11 One sequence: a solution"""
import numpy as np


def sequence(text, images, image_tokens, bos, pad):
    ids, types = [bos], [0]
    for k in range(images):
        ids += [pad] * image_tokens
        types += [k + 1] * image_tokens
    return np.array([[*ids, *text]]), np.array([[*types, *[0] * len(text)]])


def merge(ids, types, table, images):
    x = table[ids]
    x[types > 0] = images.reshape(-1, table.shape[1])
    return x


def position_ids(types):
    patch = np.zeros(types.shape, bool)
    inner = types[:, 1:-1]
    patch[:, 1:-1] = (inner > 0) & (types[:, :-2] == inner) & (inner == types[:, 2:])
    step = np.ones_like(types)
    step[:, 0] = 0
    step[:, 1:] -= patch[:, 1:] & patch[:, :-1]
    return step.cumsum(1)


def may_see(mask):
    T = mask.shape[1]
    return np.tri(T, dtype=bool) & (mask[:, None, :] != 0)
