"""50 Before all this. Fill in the bodies, then: tinycogvlm learn check 50"""
import numpy as np


def prefix_mask(prefix, length):
    """True where query t may see key s         prefix (B,) -> (B, T, T), T = length

    The first prefix[b] tokens of row b are visible to all queries; any other one only to itself and to those after it.
    """
    raise NotImplementedError


def nearest_codes(x, codes):
    """Which code is nearest to each row        x (N, D), codes (K, D) -> (N,)

    The distance is the squared one, summed over D. Of two equally near codes, the first.
    """
    raise NotImplementedError


def negative_chances(similarity):
    """How likely each text is to be drawn as a picture's negative      similarity (B, B) -> (B, B)

    similarity has a row for each picture and a column for each text; pair b belongs together. The chances are the
    softmax over the texts, then 0 for the picture's own text. (They need not sum to 1; whoever draws divides.)
    """
    raise NotImplementedError
