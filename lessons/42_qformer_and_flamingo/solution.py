"""42 Q-Former and Flamingo: a solution"""
import math

import numpy as np


def task_mask(task, queries, words):
    query = np.arange(queries + words) < queries
    if task == "matching":
        return np.ones((len(query), len(query)), bool)
    if task == "contrast":
        return query[:, None] == query
    return query | (np.tri(len(query), dtype=bool) & ~query[:, None])


def nearest_query(queries, texts, temperature):
    queries = queries / np.linalg.norm(queries, axis=-1, keepdims=True)
    texts = texts / np.linalg.norm(texts, axis=-1, keepdims=True)
    return (queries @ texts.T).max(1) / temperature


def last_picture(is_picture, pictures):
    met = is_picture.cumsum()
    return met[:, None] == np.arange(1, pictures + 1)


def gated(x, y, alpha, dz):
    gate = math.tanh(alpha)
    return x + gate * y, gate * dz, (dz * y).sum() * (1 - gate ** 2)
