"""A prompt's products by NVIDIA's cuBLAS, on a machine where it is faster than expert_matmul.cu.

The first product of its kind is computed by both. cuBLAS is taken if it is there, right and faster, and a file in the
kernels' cache keeps which it was: from then on a machine gives the same numbers every time. Both sum in float32.
"""
import json
from functools import cache

import numpy as np

from ...nn.arrays import namespace, wide
from ...storage import atomic
from ..runner import build, gpu, source
from . import launch

TYPES = {np.dtype("float16"): "CUDA_R_16F", np.dtype("uint16"): "CUDA_R_16BF"}
FEWEST = 64                                                 # rows for which it is worth a try
REPEAT, ROUNDS = 5, 3                                       # products on end, how often


def matmul(x, *product):
    """launch.matmul, by our kernel or by cuBLAS                            x (n, I), product: rows, ..., bias"""
    if len(x) < FEWEST or not gpu.is_gpu_array(x) or not launch.tensor_cores(x, x.shape[1]):
        return launch.matmul(x, *product)
    return (by_cublas if is_chosen(x, *product) else launch.matmul)(x, *product)


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


def is_chosen(x, rows, language_rows, language, vision, bias=None):
    """Whether cuBLAS computes products of this kind: about as many rows, as many of them the language expert's"""
    (O, I), number = language.shape, gpu.number(x)
    many, share = -(-len(x) // 256) * 256, -(-8 * language_rows // len(rows))
    kind = f"{TYPES[x.dtype]} {O} x {I}, {many} rows, {share}/8 text{'' if bias is None else ', bias'}"
    known = choices(number)
    if kind not in known:
        known[kind] = is_better(x, rows, language_rows, language, vision, bias)
        if known[kind] is not None:
            atomic.write(choices_file(number), json.dumps(known, indent=1) + "\n")
    return known[kind]


def is_better(*product):
    """Whether cuBLAS agrees with our kernel, and is faster; None if it is not installed"""
    try:
        theirs = wide(by_cublas(*product)[:FEWEST])
    except ImportError:
        return None
    except RuntimeError:                                    # it is not for this GPU
        return False
    ours = wide(launch.matmul(*product)[:FEWEST])
    if not abs(ours - theirs).max() <= abs(ours).max() / 64:
        return False
    times = [[milliseconds(way, product) for way in (launch.matmul, by_cublas)] for _ in range(ROUNDS)]
    ours, theirs = np.median(times, 0)
    return bool(theirs < ours)


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
    """{kind of product: whether cuBLAS computes it} on GPU `number`, as far as it is known"""
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
