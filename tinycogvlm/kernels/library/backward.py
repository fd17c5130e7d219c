"""Backward passes of the model's ops: from dy, the gradient with respect to an op's output, to those of its inputs.

Nothing in the package calls these: an Engine gives answers only. They are kernels to read, and tests hold them to the
ops' contracts.

Gradients of activations have the dtype of dy; those of parameters are always float32, and the same bits in every run.
"""
import numpy as np

from ...model.route import vision_expert_mask
from ...nn.arrays import namespace
from ..runner.loader import load_ours
from . import launch
from .launch import C_TYPES, THREADS, contiguous, each, tensor_cores

BLOCKS = 256                                                # each of which sums a part of a parameter's gradient


def rms_norm(dy, x, weight, eps, version=2, **options):
    """-> dx (..., D), dweight (D,)"""
    dx, dweight = _norm("rmsnorm.cu", "rms_norm", dy, x, weight, eps, 1, version, options)
    return dx, dweight[0]


def layer_norm(dy, x, weight, eps, version=2, **options):
    """-> dx (..., D), dweight (D,), dbias (D,)"""
    dx, (dweight, dbias) = _norm("layernorm.cu", "layer_norm", dy, x, weight, eps, 2, version, options)
    return dx, dweight, dbias


def _norm(file, name, dy, x, weight, eps, parameters, version, options):
    """-> dx, and the gradients of `parameters` parameters, (parameters, D)"""
    dy, x, weight = contiguous(dy, x, weight)
    xp, D, kind = namespace(dy), dy.shape[-1], C_TYPES[dy.dtype]
    dx, rows = xp.empty(dy.shape, dy.dtype), dy.size // D
    sizes = np.int32(rows), np.int32(D), np.float32(eps)
    kernel = load_ours(file, f"{name}_backward_v{version}<{kind}>", **options)
    if version == 1:
        saved = [xp.empty(rows, np.float32) for _ in range(parameters)]         # scales; for layer_norm also means
        kernel((-(-rows * 32 // THREADS),), (THREADS,), (dy, x, weight, dx, *saved, *sizes))
        gradients = xp.empty((parameters, D), np.float32)
        load_ours(file, f"{name}_dweight_v1<{kind}>", **options)(
            (-(-D // THREADS),), (THREADS,), (dy, x, *saved, *gradients, *sizes[:2]))
        return dx, gradients
    partial = xp.empty((min(rows, BLOCKS), parameters * D), np.float32)
    kernel((len(partial),), (THREADS,), (dy, x, weight, dx, partial, *sizes), 4 * parameters * D)
    return dx, column_sum(partial, **options).reshape(parameters, D)


def column_sum(x, rows=None, **options):
    """The sum of the rows, or of those listed in `rows` (-1: none): the gradient of a bias       x (n, D) -> (D,)"""
    x, = contiguous(x)
    xp, D, count = namespace(x), x.shape[-1], len(x) if rows is None else len(rows)
    chunks = 1 if count <= BLOCKS else min(-(-count // 64), BLOCKS)
    y = xp.empty((chunks, D), np.float32)
    load_ours("column_sum.cu", f"column_sum<{C_TYPES[x.dtype]}>", **options)(
        (-(-D // 32), chunks), (32, 8), (x, rows, y, np.int32(count), np.int32(D)))
    return y[0] if chunks == 1 else column_sum(y, **options)


def rotary(dy, cos, sin, version=2, **options):
    """-> dx (B, H, T, d): dy rotated back by the same kernel"""
    return launch.rotary(dy, cos, -sin, version, **options)


def swiglu(dy, gate, up, version=2, **options):
    """-> dgate, dup (..., F)"""
    return each("swiglu.cu", f"swiglu_backward_v{version}", (dy, gate, up), outputs=2, **options)


def gelu(dy, x, version=2, **options):
    """-> dx (...)"""
    return each("gelu.cu", f"gelu_backward_v{version}", (dy, x), **options)[0]


def expert_matmul(dy, x, types, vision_weight, language_weight, version=3, **options):
    """-> dx (B, T, I), dvision_weight (O, I), dlanguage_weight (O, I), dvision_bias (O,)     dy (B, T, O), x (B, T, I)

    dx is the forward product with the transposed matrices. An expert without tokens has gradients of 0.
    """
    xp, (O, I) = namespace(dy), vision_weight.shape
    dx = launch.expert_matmul(dy, types, vision_weight.T, language_weight.T, **options)
    rows, language_rows = launch.expert_rows(vision_expert_mask(types).reshape(-1))
    rows, dvision, dlanguage = xp.asarray(rows), xp.empty((O, I), np.float32), xp.empty((O, I), np.float32)
    dy, x = contiguous(dy, x)
    if version == 3 and not tensor_cores(x, I, O):
        version = 2
    tile, threads = {1: (16, (16, 16)), 2: (64, (16, 16)), 3: (64, (128,))}[version]
    load_ours("expert_matmul_backward.cu", f"expert_dweight_v{version}<{C_TYPES[x.dtype]}>", **options)(
        (-(-I // tile), -(-O // tile), 2), threads,
        (dy, x, rows, np.int32(language_rows), np.int32(len(rows)), dlanguage, dvision, np.int32(I), np.int32(O)))
    return dx, dvision, dlanguage, column_sum(dy.reshape(-1, O), rows[language_rows:], **options)
