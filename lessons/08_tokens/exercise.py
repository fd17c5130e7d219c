"""08 Tokens. Fill in the bodies, then: tinycogvlm learn check 08"""
import numpy as np


def most_frequent_pair(ids):
    """Which two ids stand next to each other most often: what a tokenizer learns next      ids (T,) -> (2,)

    1 2 and 2 1 are two pairs. In 7 7 7 the pair 7 7 occurs twice. Of equally frequent pairs, return the smallest: the
    one with the smaller left id, and of those the one with the smaller right id.
    """
    raise NotImplementedError


def merge_pair(ids, pair, new):
    """Wherever two neighbours are the pair, they become the one id `new`       ids (T,) -> (N,)

    pair: two ids. From left to right: of three equal ids, the first two are merged.
    """
    raise NotImplementedError


def encode(ids, merges):
    """Merge until no pair of neighbours is in the table; always by the first row that applies

    ids (T,), merges (R, 3) -> (N,)
    A row of the table is left, right, and the id that these two become. Row 0 goes first, wherever in the text its pair
    is; after each merge the search begins at row 0 again.
    """
    raise NotImplementedError
