"""The model's ops computed by kernels: each is called as the package's own is, and has no pullback.

Activations are float32, float16 or bfloat16 (its bits in uint16: NumPy and CuPy only copy them). A matrix has the same
type, or is stored otherwise: as bfloat16 or as quantise.Quantised. A few rows, as in decoding, are multiplied with it as
stored (gemv.cu). For more rows it is first dequantised to the activations' type (rows.cu), one matrix at a time, in
scratch memory that is used again and again, unless products.py finds another way faster; tensor cores compute the
product (expert_matmul.cu) where activations have 16 bits.
"""
from functools import lru_cache, wraps

import numpy as np

from ..model import expert, vit
from ..nn import ops
from ..nn.arrays import namespace, place, wide
from ..nn.trace import is_recording, record
from ..storage.leaves import EmbeddingRows
from .library import attention as attention_kernels, launch, products
from .library.gemv import MOST_ROWS, gemv, head as head_kernel
from .library.patch_embed import patch_embed
from .library.rows import dequantised, rows as rows_kernel
from .runner import gpu


def without_pullback(kernel):
    """Decorate a function that returns an op's output: the op returns it and no pullback."""
    @wraps(kernel)
    def op(*arguments, **named):
        return kernel(*arguments, **named), None
    return op


@without_pullback
def rms_norm(x, weight, eps):
    return launch.rms_norm(x, weight, eps)


@without_pullback
def layer_norm(x, weight, bias, eps):
    return launch.layer_norm(x, weight, bias, eps)


@without_pullback
def gelu(x):
    return launch.gelu(x)


@without_pullback
def swiglu(gate, up):
    return launch.swiglu(gate, up)


@without_pullback
def rotary(x, cos, sin):
    return launch.rotary(x, cos, sin)


@without_pullback
def attention(q, k, v, mask=None, causal=True):
    return attention_kernels.attention(q, k, v, mask, causal)


residual = launch.residual


@without_pullback
def vit_block(x, p, config):
    """vit.block: a residual sum is part of the norm before it, unless each tensor is to be recorded"""
    if is_recording():
        return vit.block.own(x, p, config)[0]

    def normed(name, y, x):
        norm = p[f"{name}_layernorm"]
        return launch.layer_norm(y, norm.weight, norm.bias, config.layer_norm_eps, residual=x)
    x1 = normed("input", vit.attention(x, p.attention, config.num_heads)[0], x)
    return normed("post_attention", vit.mlp(x1, p.mlp)[0], x1)


def append(layer_cache, k, v):
    """decoder.LayerCache.append: keys and values in one launch"""
    cache, i, start = layer_cache.cache, layer_cache.i, layer_cache.start
    launch.append(k, v, cache.keys[i], cache.values[i], start)
    stop = start + k.shape[2]
    return cache.keys[i, :, :, :stop], cache.values[i, :, :, :stop], cache.mask[:, :stop] if cache.padded else None


@without_pullback
def linear(x, weight, bias=None):
    """ops.linear                                           x (..., I), weight (O, I) -> (..., O)"""
    rows = x.reshape(-1, x.shape[-1])
    if bias is None and len(rows) <= MOST_ROWS:
        y = gemv(rows, weight)
    else:
        y = products.matmul(rows, *all_rows(len(rows), *place(x)), weight, weight, bias)
    return y.reshape(*x.shape[:-1], -1)


@without_pullback
def routed(layer, x, p, name, route):
    """expert.routed: each matrix of the layer in one launch for the tokens of both experts"""
    rows, kinds = x.reshape(-1, x.shape[-1]), [kind for kind, _ in route.experts]

    def product(x, *path):
        if kinds == ["language"] and len(x) <= MOST_ROWS:
            return gemv(x, weight("language", path))
        both = [weight(kind, path) for kind in kinds]       # an expert without tokens is left out
        bias = p[f"vision_{name}"].get("bias") if layer is expert.dense and kinds[-1] == "vision" else None
        return products.matmul(x, *rows_of(route, x), both[0], both[-1], bias)

    def weight(kind, path):
        node = p[f"{kind}_{name}"]
        for part in path:
            node = node[part]
        return node.weight

    if layer is expert.mlp:
        y = product(launch.swiglu(product(rows, "gate_proj"), product(rows, "up_proj")), "down_proj")
    else:
        y = product(rows)
    return y.reshape(*x.shape[:-1], -1)


def embedding(dtype):
    """ops.embedding into numbers of `dtype`, which a stored table does not tell"""
    @without_pullback
    def of_table(ids, weight):
        if isinstance(weight, EmbeddingRows):               # read from the file
            return weight[ids]
        return rows_kernel(weight, dtype, ids.astype(np.int32))
    return of_table


@without_pullback
def patch_embedding(pixels, p, config):
    """vit.patch_embedding"""
    table, grid = p.position_embedding.weight, pixels.shape[-1] // config.patch_size
    if len(table) != 1 + grid * grid:
        dtype, (table, _) = table.dtype, ops.interpolate_positions(wide(table), grid)
        table = dequantised(table, dtype)
    y = patch_embed(pixels, p.proj.weight, p.proj.bias, p.cls_embedding, table)
    record("patch_embed", y)
    return y


def head(h, weight):
    """cogvlm.head: the logits of a few rows are computed in float32         (B, T, D) -> (B, T, V)"""
    if h.size // h.shape[-1] <= MOST_ROWS:
        return head_kernel(h.reshape(-1, h.shape[-1]), None, weight, 0).reshape(*h.shape[:-1], -1)
    return wide(linear(h, weight)[0])


def rows_of(route, x):
    """launch.expert_rows of a Route, where x lies: found once and kept with the route."""
    if route.expert_rows is None:
        rows, language_rows = launch.expert_rows(route.vision_mask.reshape(-1),
                                                  launch.tile_of(route.types.size))
        with gpu.current(x):
            route.expert_rows = namespace(x).asarray(rows), language_rows
    return route.expert_rows


@lru_cache(maxsize=64)
def all_rows(n, xp, number):
    """launch.expert_rows of n rows of one kind, on GPU `number`. They are the vision expert's, which has the bias."""
    rows, language_rows = launch.expert_rows(np.ones(n, bool), launch.tile_of(n))
    with gpu.on(number):
        return xp.asarray(rows), language_rows
