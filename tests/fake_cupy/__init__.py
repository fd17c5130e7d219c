"""A strict stand-in for CuPy on a machine without a GPU: NumPy computes, what CuPy refuses is refused.

    with fake_cupy.installed(memory=8 * 10 ** 9):           `import cupy` finds it, with one GPU of 8 GB
        tinycogvlm.load(device="cuda")

- Names: only those that CuPy has, with its parameters; a test compares them where the package is installed.
- Arrays are no NumPy arrays: mixing both is refused as CuPy refuses it. New memory is full of NaN. What a GPU would do
  without a word is an error: an index out of bounds, or twice in a scatter; an array of another GPU than the current.
- Kernels are compiled and run by the project's own CPU machine, which checks number, type and layout of arguments.
- A captured step may launch kernels and nothing else; a replayed graph may not touch memory that has been freed.
- Memory comes from a model of CuPy's pool on a GPU of a given size, and runs out as there.
- `content=False`: memory is counted but never touched and nothing is computed, so that whole 17B models can be loaded.
"""
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import numpy as np

from . import arrays, cublas, cuda, fft, functions
from .memory import default_pool, machine

FROM_NUMPY = "bool_ finfo float16 float32 float64 int32 int64 uint8 uint16 uint32 uint64"

cupy, cupyx = ModuleType("cupy"), ModuleType("cupyx")
vars(cupy).update({name: getattr(np, name) for name in FROM_NUMPY.split()} | arrays.ufuncs, __version__="14.2.0",
                  ndarray=arrays.ndarray, ufunc=arrays.ufunc, get_default_memory_pool=default_pool, cuda=cuda, fft=fft,
                  RawModule=cuda.RawModule, RawKernel=cuda.RawKernel)
vars(cupy).update({name: function for name, function in vars(functions).items()
                   if getattr(function, "__module__", None) == functions.__name__})
cupyx.empty_pinned = lambda shape, dtype=float, order="C": np.empty(shape, dtype, order)


@contextmanager
def installed(memory=1 << 40, gpus=1, content=True, capability="90", multiprocessors=4, gemm_time=None,
              tries=False):
    """`import cupy` finds the stand-in, with so many GPUs of `memory` bytes -> the module. What the package keeps of a
    GPU, compiled kernels and small arrays, is forgotten before and afterwards. gemm_time: of a product by cuBLAS, in
    milliseconds, of which a kernel takes one; None: there is no cuBLAS. tries: whether products.py tries several ways,
    which takes dozens of launches, or takes the first."""
    from tinycogvlm.kernels import ops
    from tinycogvlm.kernels.library import products
    from tinycogvlm.kernels.runner import gpu

    def forget():
        for cache in (gpu.numbered, gpu.function, ops.all_rows, products.choices):
            cache.cache_clear()
    machine.switch_on(memory, gpus, content, capability, multiprocessors)
    machine.gemm_time = gemm_time
    libraries = SimpleNamespace(cublas=cublas) if gemm_time is not None else None
    modules = {"cupy": cupy, "cupyx": cupyx, "cupy_backends.cuda.libs": libraries}
    is_chosen = products.is_chosen if tries else lambda *_: False
    with patch.object(products, "is_chosen", is_chosen), patch.dict(sys.modules, modules):
        forget()
        try:
            yield cupy
        finally:
            forget()
