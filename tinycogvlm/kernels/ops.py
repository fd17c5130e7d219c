"""The model's ops by way of the kernels: each is called as the package's own, and has no pullback.

Activations are float32 or float16, which NumPy and CuPy can add. A matrix is of the same type, or is stored smaller: as
bfloat16 (its bits in uint16), or quantise.Quantised. A few rows, as in decoding, are multiplied with it as it is stored
(gemv.cu). For more, its numbers are written down first (rows.cu), one matrix at a time, and then tensor cores multiply
(expert_matmul.cu): the memory for that is used again and again, and what it takes to write them is little beside the
products.
"""
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np

from ..model import expert
from ..model.route import vision_expert_mask
from ..nn import ops
from ..nn.arrays import namespace, place
from ..nn.trace import record
from ..storage.leaves import EmbeddingRows
from ..storage.quantise import Quantised
from .library import launch
from .library.attention import attention as attention_kernel
from .library.gemv import MOST_ROWS, gemv, head as head_kernel
from .library.patch_embed import patch_embed
from .library.rows import rows as rows_kernel

ROUTES = WeakKeyDictionary()


def no_pullback(kernel):
    """The launcher as an op: its output, and no pullback"""
    return lambda *arguments, **named: (kernel(*arguments, **named), None)


rms_norm, layer_norm, gelu, swiglu, rotary, attention = map(no_pullback, (
    launch.rms_norm, launch.layer_norm, launch.gelu, launch.swiglu, launch.rotary, attention_kernel))


def linear(x, weight, bias=None):
    """ops.linear                                           x (..., I), weight (O, I) -> (..., O)"""
    rows = x.reshape(-1, x.shape[-1])
    if bias is None and len(rows) <= MOST_ROWS:
        y = gemv(rows, weight)
    else:
        weight = written(weight, x.dtype)
        y = launch.matmul(rows, *all_rows(len(rows), *place(x)), weight, weight, bias)
    return y.reshape(*x.shape[:-1], -1), None


def written(weight, dtype):
    """A matrix (O, I) of numbers of `dtype`, whatever it is stored as"""
    if isinstance(weight, Quantised) or weight.dtype != dtype:
        return rows_kernel(weight, dtype)
    return weight.reshape(len(weight), -1)


def routed(layer, x, p, name, route):
    """expert.routed: each matrix of the layer in one launch for the tokens of both experts"""
    rows, kinds = x.reshape(-1, x.shape[-1]), [kind for kind, _ in route.experts]

    def product(x, *path):
        if kinds == ["language"] and len(x) <= MOST_ROWS:
            return gemv(x, weight("language", path))
        both = [written(weight(kind, path), x.dtype) for kind in kinds]         # an expert without tokens is left
        bias = p[f"vision_{name}"].get("bias") if layer is expert.dense and kinds[-1] == "vision" else None
        return launch.matmul(x, *rows_of(route, namespace(x)), both[0], both[-1], bias)

    def weight(kind, path):
        node = p[f"{kind}_{name}"]
        for part in path:
            node = node[part]
        return node.weight

    if layer is expert.mlp:
        y = product(launch.swiglu(product(rows, "gate_proj"), product(rows, "up_proj")), "down_proj")
    else:
        y = product(rows)
    return y.reshape(*x.shape[:-1], -1), None


def embedding(dtype):
    """ops.embedding into numbers of `dtype`: a stored table does not say of which"""
    def of_table(ids, weight):
        if isinstance(weight, EmbeddingRows):                        # read from the file
            return weight[ids], None
        return rows_kernel(weight, dtype, ids.astype(np.int32)), None
    return of_table


def patch_embedding(pixels, p, config):
    """vit.patch_embedding"""
    table, grid = p.position_embedding.weight, pixels.shape[-1] // config.patch_size
    if len(table) != 1 + grid * grid:
        table, _ = ops.interpolate_positions(table, grid)
    y = patch_embed(pixels, p.proj.weight, p.proj.bias, p.cls_embedding, table)
    record("patch_embed", y)
    return y, None


def head(h, weight):
    """model.head: of a few rows the logits are never anything but float32       (B, T, D) -> (B, T, V)"""
    if h.size // h.shape[-1] <= MOST_ROWS:
        return head_kernel(h.reshape(-1, h.shape[-1]), None, weight, 0).reshape(*h.shape[:-1], -1)
    return linear(h, weight)[0].astype(np.float32)


def rows_of(route, xp):
    """expert_rows of a Route, found once."""
    if route not in ROUTES:
        rows, language_rows = launch.expert_rows(vision_expert_mask(route.types).reshape(-1))
        ROUTES[route] = xp.asarray(rows), language_rows
    return ROUTES[route]


@lru_cache(maxsize=64)
def all_rows(n, xp, gpu):
    """expert_rows of n rows of one kind, taken as the vision expert's: those have the bias. gpu: its number."""
    rows, language_rows = launch.expert_rows(np.ones(n, bool))
    return xp.asarray(rows), language_rows
