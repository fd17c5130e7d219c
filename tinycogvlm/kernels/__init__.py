"""CUDA C that runs anywhere: on a GPU through CuPy, and on the CPU of any Linux machine with g++, to step and check it.

    from .. import kernels
    add = kernels.load("add.cu", "add")                     # the same file for both
    add((1,), (32,), (x, y, out))                           # NumPy arrays: the CPU; CuPy arrays: the GPU
    kernels.load("add.cu", "add", check="race")             # races, wild accesses ... with the line, on the CPU

The CPU plays: threads and blocks in three dimensions; static and dynamic shared memory; __syncthreads (also _count,
_and, _or), __syncwarp, shuffles, votes, __match, __reduce, __activemask; atomics and fences; float4 and the like; half
and bfloat16, rounded as a GPU does; __ldg, intrinsics, printf, assert; templates; __constant__ with its values in the
source; and through ptx.cuh cp.async, ldmatrix and mma.sync m16n8k16. Blocks run one after another, and each thread of a
block until it has to wait for others.
It does not play, and names when it meets them (source.NOT_PLAYED): cooperative groups, a grid that waits for itself,
textures, inline PTX elsewhere, launches from C, wmma, clusters, libcu++, CUB and Thrust, 8-bit floats.
"""
from .runner.errors import (AlignmentError, ArgumentError, BarrierError, CompileError, KernelError, OutOfBoundsError,
                            RaceError, UninitializedError)
from .runner.loader import Kernel, load

__all__ = ["AlignmentError", "ArgumentError", "BarrierError", "CompileError", "Kernel", "KernelError",
           "OutOfBoundsError", "RaceError", "UninitializedError", "load"]
