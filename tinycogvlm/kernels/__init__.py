"""CUDA C that runs on a GPU through CuPy, and on the CPU of any Linux machine with g++, to step through and check it.

    from tinycogvlm import kernels
    add = kernels.load("add.cu", "add")                     # the same file for both
    add((1,), (32,), (x, y, out))                           # NumPy arrays: the CPU; CuPy arrays: the GPU
    kernels.load("add.cu", "add", check="race")             # races, wild accesses ... with the line, on the CPU

The CPU runner emulates threads and blocks in three dimensions; static and dynamic shared memory, and their limits;
__syncthreads (also _count, _and, _or), __syncwarp, shuffles, votes, __match, __reduce, __activemask; atomics and fences;
float4 and the like; half and bfloat16, rounded as by a GPU; intrinsics, printf, assert; templates; __constant__ (values
that the source does not give come by load's `constants`); of cooperative groups the block, tiles and coalesced groups;
and with ptx.cuh cp.async, ldmatrix and mma.sync m16n8k16. Blocks run one after another, and each thread of a block runs
until it has to wait for others.

What a kernel uses of the rest is refused by name (source.NOT_EMULATED): groups of blocks, a grid that waits for itself,
textures, inline PTX elsewhere, launches from C, wmma, clusters, libcu++, CUB and Thrust, 8-bit floats. So is what NVRTC,
the compiler for GPUs, would refuse (source.NOT_FOR_GPUS): tests/test_kernels_words.py gives both all words of CUDA.

A .cu file is compiled to native code and runs in this process, with the user's rights: only load files you would run.

library/ has the package's kernels and their launchers, runner/ runs any kernel on a CPU or GPU, tools/ steps through
one and profiles it. engine.py puts the kernels under the model, ops.py under its ops, graph.py under decoding; plan.py
decides what a GPU's memory holds.
"""
from .runner.errors import (AlignmentError, ArgumentError, BarrierError, CompileError, KernelError, OutOfBoundsError,
                            RaceError, UninitializedError)
from .runner.loader import Kernel, load

__all__ = ["AlignmentError", "ArgumentError", "BarrierError", "CompileError", "Kernel", "KernelError",
           "OutOfBoundsError", "RaceError", "UninitializedError", "load"]
