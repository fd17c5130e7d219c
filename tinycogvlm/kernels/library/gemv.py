"""A decoded token's matrix products (gemv.cu), each fused with what comes before and after it.

A layer is qkv_rotary_append, attention_decode, dense_residual, gate_up_swiglu and dense_residual again; head follows
the last one. Decoded tokens are text, so all weights are the language expert's. x (B, I) has a row for each sequence. A
weight is float32, float16, bfloat16 (its bits in uint16) or a quantise.Quantised, whatever the dtype of x. `out` is an
array to write to, as a captured graph needs it; by default a new one.
"""
import numpy as np

from ...errors import UserError
from ...nn.arrays import namespace
from ...storage.quantise import Quantised
from ..runner import gpu
from ..runner.loader import load_ours
from .launch import C_TYPES, THREADS, contiguous, tensor_cores

WARPS = THREADS // 32
MOST_ROWS = 4                                               # of x that share a read of the weights
SHARED = 64 << 10                                           # bytes for them: a block may use as many since Turing


def gemv(x, weight, version=4, out=None, **options):
    """y = W x                                              x (B, I), weight (O, I) -> (B, O)

    Versions 2 to 4 need I to be a multiple of the weights in 16 bytes; otherwise version 1 runs.
    """
    if version > 2 and not x.shape[-1] % _pack(weight):
        return _product(x, None, 0, weight, None, out, options | dict(version=version))
    (B, I), O = x.shape, weight.shape[0]
    version = version if version < 3 and not I % _pack(weight) else 1
    y, (x,) = _out(out, x, (B, O), x.dtype), contiguous(x)
    load_ours("gemv.cu", f"gemv_v{version}<{_types(x, weight)}>", **options)(
        (-(-O // {1: THREADS, 2: WARPS}[version]), B), (THREADS,), (x, *_arrays(weight), y, np.int32(I), np.int32(O)))
    return y


def dense_residual(x, weight, residual, out=None, **options):
    """y = residual + W x                                   x (B, I), weight (O, I), residual (B, O) -> (B, O)

    out may be the residual.
    """
    return _product(x, None, 0, weight, residual, out, options)


def head(x, norm, weight, eps, out=None, **options):
    """W rms_norm(x): the logits                            x (B, D), norm (D,), weight (V, D) -> (B, V) float32"""
    return _product(x, norm, eps, weight, None, out, options, np.float32)


def gate_up_swiglu(x, norm, gate, up, eps, out=None, **options):
    """swiglu(W_gate h, W_up h), h = rms_norm(x)            x (B, D), norm (D,), gate and up (F, D) -> (B, F)"""
    y = _out(out, x, (len(x), gate.shape[0]), x.dtype)
    _launch("gate_up_swiglu<{}, {}>", x, norm, eps, gate, gate.shape[0],
            lambda rows: (*_arrays(up), y[rows], np.int32(x.shape[1]), np.int32(gate.shape[0])), options)
    return y


def qkv_rotary_append(x, norm, weight, eps, positions, length, cos, sin, keys, values, out=None, **options):
    """Q, K, V = W rms_norm(x), Q and K rotated by their positions; K and V are appended to the cache at length[0].

    x (B, D), norm (D,), weight ((H + 2G) d, D); keys and values (B, G, capacity, d): one layer's cache, written to;
    cos and sin (positions, d/2) float32: decoder.Rotary's tables of all positions, the very numbers that rotary uses;
    positions (B,) and length (1,) int32, in device memory, where a captured graph finds new ones at each replay.
    -> q (B, H, 1, d), as attention_decode takes it.
    """
    (B, D), (_, G, capacity, d) = x.shape, keys.shape
    H = weight.shape[0] // d - 2 * G
    if (H + 2 * G) * d != weight.shape[0] or H < 1 or d % 2:
        raise UserError(f"a weight of shape {tuple(weight.shape)} does not give queries, keys and values of {G} "
                        f"key-value heads of size {d}")
    for name, array, shape, dtype in (("keys", keys, (B, G, capacity, d), x.dtype),
                                      ("values", values, (B, G, capacity, d), x.dtype),
                                      ("positions", positions, (B,), np.dtype(np.int32)),
                                      ("length", length, (1,), np.dtype(np.int32)),
                                      ("cos", cos, (len(cos), d // 2), np.dtype(np.float32)),
                                      ("sin", sin, (len(cos), d // 2), np.dtype(np.float32))):
        _check(name, array, shape, dtype)
    q = _out(out, x, (B, H, 1, d), x.dtype)
    _launch("qkv_rotary_append<{}, {}>", x, norm, eps, weight, (H + 2 * G) * d // 2,
            lambda rows: (cos, sin, positions[rows], length, q[rows], keys[rows], values[rows],
                          *map(np.int32, (D, H, G, d, capacity))), options)
    return q


def _product(x, norm, eps, weight, residual, out, options, dtype=None):
    O = weight.shape[0]
    y = _out(out, x, (len(x), O), np.dtype(dtype or x.dtype))
    if residual is not None:
        _check("residual", residual, y.shape, y.dtype)
    _launch(f"gemv_fused<{{}}, {{}}, {C_TYPES[y.dtype]}>", x, norm, eps, weight, -(-O // 2),
            lambda rows: (None if residual is None else residual[rows], y[rows], np.int32(x.shape[1]), np.int32(O)),
            options)
    return y


def _launch(kernel, x, norm, eps, weight, pairs, rest, options):
    """Launch for as many rows of x at a time as fit. rest(rows): the arguments after the scales, for these rows.

    Version 4, the default, is for codes and x in float16, on tensor cores; otherwise version 3 runs.
    """
    version, options = options.get("version", 4), {name: options[name] for name in options.keys() - {"version"}}
    (B, I), N = x.shape, _pack(weight)
    if weight.shape[1] != I or (norm is not None and norm.shape != (I,)):
        raise UserError(f"x of shape {x.shape} does not fit a weight of shape {tuple(weight.shape)}" +
                        ("" if norm is None else f" and a norm of shape {norm.shape}"))
    if I % N:
        raise UserError(f"rows of {I} weights; 16 bytes hold {N}, and rows must be a multiple of that")
    x, = contiguous(x)
    norm = norm if norm is None else contiguous(norm)[0]
    if not isinstance(weight, Quantised) or x.dtype != np.float16 or not tensor_cores(x):
        version = 3
    row_bytes = 4 * N * (I // N | 1) if version == 3 else (4 if norm is not None else 2) * (I + 8)  # see `stage`
    at_once = max(1, min(MOST_ROWS, SHARED // row_bytes))
    for first in range(0, B, at_once):
        rows = slice(first, min(first + at_once, B))
        count = rows.stop - first
        resident = 4 if version == 4 else 2 if count > 1 else 3 if N == 32 else 4       # on an SM: BLOCKS in gemv.cu
        blocks = min(-(-pairs // WARPS), resident * gpu.device(x).multiprocessors)
        load_ours("gemv.cu", kernel.format(f"{_types(x, weight)}, {count}", f"Version{version}"), **options)(
            (blocks,), (THREADS,), (x[rows], norm, np.float32(eps), *_arrays(weight), *rest(rows)),
            shared_mem=count * row_bytes)


def _pack(weight):
    """How many weights 16 bytes hold."""
    return {"int8": 16, "int4": 32}[weight.dtype] if isinstance(weight, Quantised) else 16 // weight.itemsize


def _types(x, weight):
    kind = weight.dtype.capitalize() if isinstance(weight, Quantised) else C_TYPES[weight.dtype]
    return f"{C_TYPES[x.dtype]}, {kind}"


def _arrays(weight):
    """weight, scales"""
    return (weight.codes, weight.scales) if isinstance(weight, Quantised) else (*contiguous(weight), None)


def _out(out, x, shape, dtype):
    if out is None:
        return namespace(x).empty(shape, dtype)
    _check("out", out, shape, dtype)
    return out


def _check(name, array, shape, dtype):
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        laid_out = "" if array.flags.c_contiguous else "not contiguous, "
        raise UserError(f"{name} is {laid_out}of shape {array.shape} and {array.dtype}; it must be contiguous, of "
                        f"shape {shape} and {dtype}")
