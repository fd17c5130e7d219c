"""Launch the kernels of the model's ops, each of which works on rows or on single numbers; and the experts' matmul."""
import math

import numpy as np

from ...errors import UserError
from ...model.route import vision_expert_mask
from ...nn.arrays import namespace
from ...storage.quantise import BITS
from ..runner import gpu
from ..runner.loader import load_ours

C_TYPES = {np.dtype("float32"): "float", np.dtype("float16"): "half", np.dtype("uint16"): "__nv_bfloat16"}
THREADS = 256
TILES = {1: (16, (16, 16), 0), 2: (16, (16, 16), 0), 3: (64, (16, 16), 0),      # of expert_matmul: side, threads,
         4: (64, (128,), 0), 5: (128, (256,), 64 << 10)}                        # dynamic shared memory


def rms_norm(x, weight, eps, version=3, **options):
    """ops.rms_norm                                         x (..., D), weight (D,) -> (..., D)"""
    return _norm("rmsnorm.cu", "rms_norm", x, (weight,), eps, version, options)


def layer_norm(x, weight, bias, eps, version=3, residual=None, **options):
    """ops.layer_norm, + residual if one is given           x (..., D), weight and bias (D,) -> (..., D)"""
    residual = residual if residual is None else contiguous(x, residual)[1]
    return _norm("layernorm.cu", "layer_norm", x, (weight, bias), eps, version, options, residual)


def _norm(file, name, x, parameters, eps, version, options, *residual):
    x, *parameters = contiguous(x, *parameters)
    y, D = namespace(x).empty(x.shape, x.dtype), x.shape[-1]
    rows, pack = y.size // D, 16 // x.itemsize
    if version == 3 and D % pack:
        version = 2                                         # rows do not begin at multiples of 16 bytes
    kernel, threads = f"{name}_v{version}<{C_TYPES[x.dtype]}", THREADS
    blocks = -(-rows // {1: threads, 2: threads // 32, 3: 1}[version])
    if kernel.startswith("layer_norm_v3"):
        kernel, blocks = f"{kernel}, {_power_of_two(D / pack / 32)}", -(-rows // (threads // 32))
    load_ours(file, kernel + ">", **options)((blocks,), (threads,), (x, *parameters, *residual, y, np.int32(rows),
                                                                     np.int32(D), np.float32(eps)))
    return y


def rotary(x, cos, sin, version=2, **options):
    """ops.rotary                                           x (B, H, T, d), cos and sin (B, T, d/2) -> (B, H, T, d)"""
    require_one_dtype(x)
    cos, sin = contiguous(*(table if table.dtype in C_TYPES else table.astype(np.float32) for table in (cos, sin)))
    y, (B, H, T, d) = namespace(x).empty(x.shape, x.dtype), x.shape
    x, strides = strided(x)
    work = y.size if version == 1 else y.size // 2
    load_ours("rotary.cu", f"rotary_v{version}<{C_TYPES[x.dtype]}, {C_TYPES[cos.dtype]}>", **options)(
        (-(-work // THREADS),), (THREADS,), (x, cos, sin, y, *map(np.int32, (B, H, T, d, *strides))))
    return y


def append(k, v, keys, values, start, **options):
    """keys[:, :, start:start + T] = k, and so values       k and v (B, G, T, d), keys and values (B, G, capacity, d)"""
    require_one_dtype(k, v, keys, values)
    (B, G, T, d), pack = k.shape, 16 // k.itemsize
    (k, k_strides), (v, v_strides) = strided(k), strided(v)
    pack = pack if d % pack == 0 else 1
    sizes = [[n // pack for n in strides] for strides in (k_strides, v_strides)]
    kind = C_TYPES[k.dtype]
    load_ours("rotary.cu", f"append<Pack<{kind}>>" if pack > 1 else f"append<{kind}>", **options)(
        (-(-B * G * T * d // pack // THREADS),), (THREADS,),
        (k, *map(np.int32, sizes[0]), v, *map(np.int32, sizes[1]), keys, values,
         *map(np.int32, (B, G, T, d // pack, start, keys.shape[2]))))


def swiglu(gate, up, version=2, **options):
    """ops.swiglu                                           (..., F), (..., F) -> (..., F)"""
    return each("swiglu.cu", f"swiglu_v{version}", (gate, up), **options)[0]


def gelu(x, version=2, **options):
    """ops.gelu                                             (...) -> (...)"""
    return each("gelu.cu", f"gelu_v{version}", (x,), **options)[0]


def residual(x, x2, **options):
    """ops.residual                                         (...), (...) -> (...)"""
    return each("residual.cu", "residual", (x, x2), **options)[0]


def each(file, name, inputs, outputs=1, **options):
    """Launch an elementwise kernel -> its output arrays, of the inputs' shape"""
    inputs = contiguous(*inputs)
    first, pack = inputs[0], 16 // inputs[0].itemsize
    y = [namespace(first).empty(first.shape, first.dtype) for _ in range(outputs)]
    work = first.size if name.endswith("v1") else first.size // pack + pack
    load_ours(file, f"{name}<{C_TYPES[first.dtype]}>", **options)(
        (-(-work // THREADS),), (THREADS,), (*inputs, *y, np.uint64(first.size)))
    return y


def expert_matmul(x, types, vision_weight, language_weight, vision_bias=None, version=5, **options):
    """y[b, t] = W x[b, t] (+ bias) with the matrix of the token's expert       x (B, T, I), W (O, I) -> (B, T, O)

    types (B, T): as in route.py, a NumPy array.
    """
    rows, language_rows = expert_rows(vision_expert_mask(types).reshape(-1), max(64, TILES[version][0]))
    y = matmul(x.reshape(-1, x.shape[-1]), namespace(x).asarray(rows), language_rows, language_weight, vision_weight,
               vision_bias, version, **options)
    return y.reshape(*x.shape[:2], -1)


def matmul(x, rows, language_rows, language, vision, bias=None, version=5, out=None, **options):
    """y[t] = W x[t] (+ bias) with the matrix of row t's expert         x (n, I), W (O, I), bias (O,) -> (n, O)

    rows, language_rows: what expert_rows returns, the rows as an array beside x. The bias is the vision expert's.
    Version 5 takes lists of tiles of 128; of smaller ones version 4 runs. out: an array to write to; rows that are not
    listed stay as they are.
    """
    (O, I), (x, language, vision) = language.shape, contiguous(x, language, vision)
    y = namespace(x).empty((len(x), O), x.dtype) if out is None else out
    if version == 5 and (len(rows) % 128 or language_rows % 128):
        version = 4
    if version > 3 and not tensor_cores(x, I):
        version = 3
    tile, threads, shared = TILES[version]
    blocks = len(rows) // tile, -(-O // tile)
    load_ours("expert_matmul.cu", f"expert_matmul_v{version}<{C_TYPES[x.dtype]}>", **options)(
        blocks if version > 3 else blocks[::-1], threads,
        (x, language, vision, bias, rows, np.int32(language_rows), y, np.int32(I), np.int32(O)), shared_mem=shared)
    return y


def matmul_of_codes(x, rows, language_rows, language, vision, bias=None, **options):
    """matmul with matrices that are quantise.Quantised, for x of 16 bits on tensor cores

    rows: in tiles of 128.
    """
    O, (x,), kind = language.shape[0], contiguous(x), language.dtype.capitalize()
    y, I = namespace(x).empty((len(x), O), x.dtype), x.shape[1]
    load_ours("expert_matmul.cu", f"expert_matmul_v6<{C_TYPES[x.dtype]}, {kind}>", **options)(
        (len(rows) // 128, -(-O // 128)), (256,),
        (x, language.codes, language.scales, vision.codes, vision.scales, bias, rows, np.int32(language_rows), y,
         np.int32(I), np.int32(O)), shared_mem=(48 << 10) + BITS[language.dtype] * (2 << 10))
    return y


def tensor_cores(x, *sizes):
    """Whether they can multiply x (mma.sync, cp.async): 16-bit numbers, rows of whole 16 bytes, a GPU since Ampere.

    sizes: of the rows. Where the last rung of a ladder needs tensor cores and cannot have them, the one before runs.
    """
    return x.itemsize == 2 and not any(size % 8 for size in sizes) and gpu.device(x).capability >= 80


def tile_of(rows):
    """How large the tiles of a list of so many rows are best: a single one is not filled up to 128."""
    return 128 if rows > 64 else 64


def expert_rows(vision, tile=64):
    """Tokens sorted by expert, language first, each part padded with -1 to whole tiles.

    vision (n,) bool -> rows (a multiple of `tile`,) int32, and how many of them are the language expert's
    """
    parts = []
    for mine in (~vision, vision):
        tokens = np.flatnonzero(mine)
        parts.append(np.concatenate([tokens, np.full(-len(tokens) % tile, -1)]))
    return np.concatenate(parts).astype(np.int32), len(parts[0])


def contiguous(*arrays):
    """The arrays, contiguous. UserError for a dtype that the kernels do not take, and for several dtypes."""
    require_one_dtype(*arrays)
    return tuple(array if array.flags.c_contiguous else namespace(array).ascontiguousarray(array) for array in arrays)


def strided(array):
    """For a kernel that takes strides: the numbers from an array's first to its last; the strides, but the last, which
    is 1.

    It must be a view of a contiguous array, with rows of whole 16 bytes; of others, a copy is taken.
    """
    base, size = array.base, array.itemsize
    if (not array.flags.c_contiguous and type(base) is type(array) and base.dtype == array.dtype
            and base.flags.c_contiguous and array.strides[-1] == size
            and all(stride >= 0 and stride % 16 == 0 for stride in array.strides[:-1])):
        first = (gpu.address(array) - gpu.address(base)) // size
        strides = [stride // size for stride in array.strides[:-1]]
        if first * size % 16 == 0:
            last = sum((n - 1) * stride for n, stride in zip(array.shape, strides)) + array.shape[-1]
            return base.reshape(-1)[first:first + last], strides
    array = namespace(array).ascontiguousarray(array)
    return array, [math.prod(array.shape[i + 1:]) for i in range(array.ndim - 1)]


def require_one_dtype(*arrays):
    """UserError for a dtype that the kernels do not take, and for several dtypes"""
    kinds = {array.dtype for array in arrays}
    if len(kinds) > 1 or not kinds <= C_TYPES.keys():
        names = " and ".join(sorted(kind.name for kind in kinds))
        raise UserError(f"arrays of {names}; the kernels take float32, float16 or bfloat16 (as its bits in uint16), "
                        "and all arrays of one dtype")


def _power_of_two(least):
    return 1 << max(0, int(np.ceil(np.log2(least))))
