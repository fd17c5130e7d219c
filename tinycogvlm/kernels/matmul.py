"""Many rows times the matrix of each row's expert, by way of expert_matmul.cu."""
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np

from ..route import vision_expert_mask
from ..xp import namespace
from .launch import C_TYPES, contiguous, expert_rows
from .load import load
from .source import HERE

TILES = {1: (16, (16, 16)), 2: (16, (16, 16)), 3: (64, (16, 16)), 4: (64, (128,))}      # of each version: side, threads
ROUTES = WeakKeyDictionary()


def matmul(x, rows, language_rows, language, vision, bias=None, version=4, **options):
    """y[t] = W x[t] (+ bias), W and bias those of row t's expert       x (n, I), W (O, I), bias (O,) -> (n, O)

    rows, language_rows: launch.expert_rows, the rows where x lies. The bias is the vision expert's.
    """
    (O, I), (x, language, vision) = language.shape, contiguous(x, language, vision)
    y = namespace(x).empty((len(x), O), x.dtype)
    if version == 4 and (x.itemsize != 2 or I % 8):
        version = 3                                         # of float32, and of rows off multiples of 16 bytes
    tile, threads = TILES[version]
    load(HERE / "expert_matmul.cu", f"expert_matmul_v{version}<{C_TYPES[x.dtype.name]}>", **options)(
        (-(-O // tile), len(rows) // tile), threads,
        (x, language, vision, bias, rows, np.int32(language_rows), y, np.int32(I), np.int32(O)))
    return y


def rows_of(route, xp):
    """expert_rows of a Route, found once."""
    if route not in ROUTES:
        rows, language_rows = expert_rows(vision_expert_mask(route.types).reshape(-1))
        ROUTES[route] = xp.asarray(rows), language_rows
    return ROUTES[route]


@lru_cache(maxsize=64)
def all_rows(n, xp):
    """expert_rows of n rows of one kind, taken as the vision expert's: those have the bias."""
    rows, language_rows = expert_rows(np.ones(n, bool))
    return xp.asarray(rows), language_rows
