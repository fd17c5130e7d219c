"""42 Q-Former and Flamingo. Fill in the bodies, then: tinycogvlm learn check 42"""
import math

import numpy as np


def task_mask(task, queries, words):
    """What each token sees, True: first come the queries, then the words, N of both together -> (N, N)

    A row is the token that looks, a column the one that is looked at. task is "contrast": queries see queries, words see
    words; "matching": all see all; or "captioning": queries see queries, a word sees all queries, itself and the words
    before it.
    """
    raise NotImplementedError


def nearest_query(queries, texts, temperature):
    """How similar picture i and text j are: the largest cosine of any of the picture's queries, over the temperature

    queries (B, Q, E), texts (B, E) -> (B, B)
    """
    raise NotImplementedError


def last_picture(is_picture, pictures):
    """True where picture m is the last one at or before token t    is_picture (T,) -> (T, M)

    is_picture is True at the tokens that stand for a picture; there are M = pictures of them.
    """
    raise NotImplementedError


def gated(x, y, alpha, dz):
    """z = x + tanh(alpha) y, and from the gradient dz those of y and of alpha, which is one number for all entries

    x (B, T, W), y (B, T, W), dz (B, T, W) -> z (B, T, W), dy (B, T, W), dalpha scalar
    """
    raise NotImplementedError
