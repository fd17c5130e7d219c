"""A prompt's products by whatever computes them fastest on this machine: our kernels or NVIDIA's cuBLAS.

The first product of its kind is computed in both ways that there are: of numbers by expert_matmul_v5 or cuBLAS; of
codes by expert_matmul_v6, or of the numbers that rows.cu makes of them. The second way is taken if it is there, right
and faster, and a file in the kernels' cache keeps that: from then on a machine gives the same numbers every time. All
sum in float32.
"""
import json
from functools import cache

import numpy as np

from ...nn.arrays import namespace, wide
from ...storage import atomic
from ...storage.quantise import Quantised
from ..runner import build, gpu, source
from . import launch
from .rows import dequantised

TYPES = {np.dtype("float16"): "CUDA_R_16F", np.dtype("uint16"): "CUDA_R_16BF"}
FEWEST = 65                                                 # rows with a choice: their lists have tiles of 128
REPEAT, ROUNDS = 5, 3                                       # products on end, how often


def matmul(x, rows, language_rows, language, vision, bias=None):
    """launch.matmul, of weights in any dtype                               x (n, I), W (O, I), bias (O,) -> (n, O)"""
    product, ways = (x, rows, language_rows, language, vision, bias), (of_numbers, launch.matmul_of_codes)
    if not isinstance(language, Quantised) or not isinstance(vision, Quantised) or language.dtype != vision.dtype:
        language, vision = numbers(x, language, vision)
        product, ways = (x, rows, language_rows, language, vision, bias), (launch.matmul, by_cublas)
    has_choice = len(x) >= FEWEST and gpu.is_gpu_array(x) and launch.tensor_cores(x, x.shape[1])
    return ways[has_choice and is_chosen(*ways, product)](*product)


def of_numbers(x, rows, language_rows, language, vision, bias):
    """matmul of codes, which are dequantised before"""
    return matmul(x, rows, language_rows, *numbers(x, language, vision), bias)


def numbers(x, language, vision):
    """The matrices in x's dtype"""
    first = dequantised(language, x.dtype)
    return first, first if vision is language else dequantised(vision, x.dtype)


def by_cublas(x, rows, language_rows, language, vision, bias=None):
    """launch.matmul: cuBLAS multiplies all rows with one matrix, the vision expert's if it has any. Those of the
    language expert, which are few beside a picture, our kernel then overwrites."""
    x, language, vision = launch.contiguous(x, language, vision)
    mixed, alone = 0 < language_rows < len(rows), language_rows == len(rows)
    y = namespace(x).empty((len(x), len(language)), x.dtype)
    add = bias is not None and not alone
    if add:
        y[:] = bias
    gemm(x, language if alone else vision, y, add)
    if mixed:
        launch.matmul(x, rows[:language_rows], language_rows, language, language, out=y)
    return y


def gemm(x, weight, y, add):
    """y = x W^T, + y if `add`                              x (n, I), weight (O, I), y (n, O)

    cuBLAS counts by columns: to it our weight is a matrix (I, O), x is (I, n), and y is (O, n).
    """
    import cupy
    from cupy_backends.cuda.libs import cublas
    kind = getattr(cupy.cuda.runtime, TYPES[x.dtype])
    (n, I), O, one, once = x.shape, len(weight), np.ones(1, np.float32), np.full(1, add, np.float32)
    cublas.gemmEx(cupy.cuda.get_cublas_handle(), cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N, O, n, I, one.ctypes.data,
                  weight.data.ptr, kind, I, x.data.ptr, kind, I, once.ctypes.data, y.data.ptr, kind, O,
                  cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_GEMM_DEFAULT)


def is_chosen(first, second, product):
    """Whether products of this kind are computed in the second way: of about as many rows, as many of them text"""
    x, rows, language_rows, weight, _, bias = product
    O, I, number = weight.shape[0], x.shape[1], gpu.number(x)
    many, share = -(-len(x) // 256) * 256, -(-8 * language_rows // len(rows))
    stored = weight.dtype if isinstance(weight, Quantised) else TYPES[x.dtype]
    kind = (f"{second.__name__} in {TYPES[x.dtype]}: {O} x {I} {stored}, {many} rows, {share}/8 text"
            + (", bias" if bias is not None else ""))
    known = choices(number)
    if kind not in known:
        known[kind] = is_better(first, second, product)
        if known[kind] is not None:
            atomic.write(choices_file(number), json.dumps(known, indent=1) + "\n")
    return bool(known[kind])


def is_better(first, second, product):
    """Whether the second way agrees with the first, and is faster; None if it is not installed"""
    try:
        found = wide(second(*product)[:FEWEST])
    except ImportError:
        return None
    except RuntimeError:                                    # it is not for this GPU
        return False
    right = wide(first(*product)[:FEWEST])
    if not abs(right - found).max() <= abs(right).max() / 64:
        return False
    before, now = np.median([[milliseconds(way, product) for way in (first, second)] for _ in range(ROUNDS)], 0)
    return bool(now < before)


def milliseconds(way, product):
    """How long the GPU takes for one of several products on end"""
    from cupy import cuda
    begin, end = cuda.Event(), cuda.Event()
    begin.record()
    for _ in range(REPEAT):
        way(*product)
    end.record()
    end.synchronize()
    return cuda.get_elapsed_time(begin, end) / REPEAT


@cache
def choices(number):
    """{kind of product: whether it is computed in the way that is named} on GPU `number`, as far as it is known"""
    try:
        return json.loads(choices_file(number).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def choices_file(number):
    """Another GPU, CuPy, CUDA or kernel chooses anew."""
    import cupy
    runtime = cupy.cuda.runtime
    machine = runtime.getDeviceProperties(number)["name"], cupy.__version__, runtime.runtimeGetVersion()
    kernel = (source.HERE / "expert_matmul.cu").read_text(encoding="utf-8")
    return build.cache_folder() / f"products-{build.digest(*map(str, machine), kernel)}.json"
