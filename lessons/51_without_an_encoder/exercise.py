"""51 Without an encoder. Fill in the bodies, then: tinycogvlm learn check 51"""
import numpy as np


def rows_with_split(x, cls, split):
    """CLS, then each row of patches and SPLIT          x (H, W, C), cls (C,), split (C,) -> (N, C)

    SPLIT comes after the last row, too, so N = 1 + H (W + 1).
    """
    raise NotImplementedError


def look_under(q, k, v, heads):
    """Multi-head attention of one query each to its own few keys       q (N, C), k (N, S, C), v (N, S, C) -> (N, C)

    Each head has C / heads neighbouring numbers. Scores are divided by sqrt(C), the root of the whole width; softmax
    runs over the S keys.
    """
    raise NotImplementedError


def aligning_loss(student, teacher):
    """1 minus the mean cosine of each patch's student and teacher      student (P, C), teacher (P, C) -> ()"""
    raise NotImplementedError
