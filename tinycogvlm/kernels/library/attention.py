"""Attention by kernels: of many queries (attention.cu), and of one query in each row (attention_decode.cu)."""
import math

import numpy as np

from ...errors import UserError
from ...nn.arrays import namespace
from ..runner.loader import load_ours
from .launch import C_TYPES, contiguous, require_one_dtype, strided, tensor_cores

HEAD_SIZES = 32, 64, 112, 128                               # that the kernels are compiled for; others are padded
HEADS_AT_ONCE = 4                                           # query heads that share a read of the cache
BLOCKS = 264                                                # that decoding aims at: two for each SM of an H200


def attention(q, k, v, mask=None, causal=True, version=3, **options):
    """ops.attention                                        q (B, H, T, d), k and v (B, G, S, d) -> (B, H, T, d)

    d is at most 128. Without tensor cores (launch.tensor_cores) version 2 runs in place of version 3.
    """
    (B, H, T, d), (G, S) = q.shape, _grouped(q, k, v)
    if causal and S < T:
        raise UserError(f"{T} queries and {S} keys: causal queries are keys, too, so there must be at least as many")
    if mask is not None and mask.shape != (B, S):
        raise UserError(f"mask of shape {mask.shape}; it must be {(B, S)}")
    if version == 3 and not tensor_cores(q, d):
        version = 2
    require_one_dtype(q, k, v)
    if k.strides != v.strides:
        k, v = contiguous(k, v)
    (q, q_strides), (k, k_strides), (v, v_strides) = map(strided, (q, k, v))
    if k_strides != v_strides:                              # one began where 16 bytes do, the other did not
        raise UserError("keys and values lie differently in memory; pass contiguous ones")
    xp = namespace(q)
    y = xp.empty((B, T, H, d), q.dtype)
    rows, threads = {1: (128, 128), 2: (32, 128), 3: (64, 128)}[version]
    D = next(size for size in HEAD_SIZES if d <= size)
    load_ours("attention.cu", f"attention_v{version}<{C_TYPES[q.dtype]}, {D}>", **options)(
        (-(-T // rows), H, B), (threads,),
        (q, k, v, None if mask is None else xp.ascontiguousarray(mask, dtype=bool), y,
         *map(np.int32, (H, G, T, S, d)), np.bool_(causal), np.float32(1 / math.sqrt(d)),
         *map(np.int32, (*q_strides, *k_strides))))
    return y.swapaxes(1, 2)


def attention_decode(q, keys, values, length, mask=None, buffers=None, **options):
    """ops.attention of one query in each row over the first length[0] keys of a cache.

    q (B, H, 1, d), keys and values (B, G, capacity, d) -> (B, H, 1, d). length: one int32, 0 to capacity, in device
    memory, where a captured graph finds a new one at each replay. mask (B, capacity): 0 hides a padding key. buffers:
    what decode_buffers returned, to be overwritten; the result is its last array.
    """
    (B, H, T, d), (G, capacity), pack = q.shape, _grouped(q, keys, values), 16 // q.itemsize
    if T != 1:
        raise UserError(f"{T} queries in a row; decoding takes one")
    if d % pack:
        raise UserError(f"a head size of {d} in {q.dtype}; decoding reads 16 bytes at once: a multiple of {pack}")
    whole = keys, values, *(() if mask is None else (mask,))
    if not all(array.flags.c_contiguous for array in whole) or (mask is not None and mask.shape != (B, capacity)):
        raise UserError("decoding takes the whole cache (B, G, capacity, d), contiguous, and mask (B, capacity)")
    q, keys, values = contiguous(q, keys, values)           # the cache's arrays are contiguous: not copied
    partial, lse, y = buffers or decode_buffers(q, keys)
    splits, heads = lse.shape[-1], _heads_at_once(H // G)
    D = next(size for size in HEAD_SIZES if d <= size and size != 112)      # a team of lanes is a power of two
    c_type, file = C_TYPES[q.dtype], "attention_decode.cu"
    load_ours(file, f"attention_decode_split<{c_type}, {D}, {heads}>", **options)(
        (splits, H // heads, B), (128,),
        (q, keys, values, mask, length, partial, lse, *map(np.int32, (H, G, capacity, d)),
         np.float32(1 / math.sqrt(d))))
    load_ours(file, f"attention_decode_combine<{c_type}>", **options)(
        (B * H,), (D,), (partial, lse, y, np.int32(splits), np.int32(d)))
    return y


def decode_buffers(q, keys, splits=None):
    """What a decoding step writes: each split's y (B, H, splits, d) and log-sum-exp (B, H, splits), and y (B, H, 1, d).

    splits: how many blocks share the keys of one row and key-value head; by default as many as fill a GPU, with at
    least 32 keys of the capacity for each.
    """
    xp, (B, H, _, d), (G, capacity) = namespace(q), q.shape, keys.shape[1:3]
    if splits is None:
        blocks = B * H // _heads_at_once(H // G)
        splits = max(1, min(-(-BLOCKS // blocks), capacity // 32))
    return xp.empty((B, H, splits, d), np.float32), xp.empty((B, H, splits), np.float32), xp.empty(q.shape, q.dtype)


def _heads_at_once(sharing):
    """The largest divisor, up to HEADS_AT_ONCE, of the number of query heads that share a key-value head"""
    return next(n for n in range(HEADS_AT_ONCE, 0, -1) if sharing % n == 0)


def _grouped(q, k, v):
    """(G, S) of k. UserError unless the shapes of q, k and v fit together."""
    (B, H, _, d), (G, S) = q.shape, k.shape[1:3]
    if k.shape != (B, G, S, d) or v.shape != k.shape or H % G:
        raise UserError(f"q {q.shape}, k {k.shape}, v {v.shape}: they must be (B, H, T, d), (B, G, S, d) and "
                        "(B, G, S, d), H a multiple of G")
    if d > HEAD_SIZES[-1]:
        raise UserError(f"a head size of {d}; the kernels go up to {HEAD_SIZES[-1]}")
    return G, S
