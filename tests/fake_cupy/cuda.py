"""cupy.cuda: devices, streams, captured graphs; and CuPy's raw kernels, which the CPU machine runs."""
import weakref
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from . import memory as memory_module
from .memory import machine


class CUDARuntimeError(RuntimeError):
    pass


class CUDADriverError(RuntimeError):
    pass


class CompileException(Exception):
    pass


class runtime:                                              # noqa: N801, the name is CuPy's
    CUDARuntimeError = CUDARuntimeError

    @staticmethod
    def getDeviceCount():
        return len(machine.gpus)

    @staticmethod
    def getDevice():
        return machine.current

    @staticmethod
    def getDeviceProperties(device):
        return {"name": b"no GPU"}

    @staticmethod
    def runtimeGetVersion():
        return 12090

    driverGetVersion = runtimeGetVersion
    CUDA_R_16F, CUDA_R_16BF = 2, 14


driver = SimpleNamespace(CUDADriverError=CUDADriverError)
compiler = SimpleNamespace(CompileException=CompileException)
memory = SimpleNamespace(OutOfMemoryError=memory_module.OutOfMemoryError)


class Device:
    """With `with` or `use` it becomes this thread's current one."""

    def __init__(self, device=None):
        self.id, self._before = machine.current if device is None else int(device), []
        if not 0 <= self.id < len(machine.gpus):
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def use(self):
        machine.current = self.id
        return self

    def __enter__(self):
        self._before.append(machine.current)
        return self.use()

    def __exit__(self, *_):
        machine.current = self._before.pop()

    def __int__(self):
        return self.id

    def synchronize(self):
        if machine.capturing:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")

    @property
    def mem_info(self):
        pool = machine.gpus[self.id]
        return pool.memory - pool.taken, pool.memory

    @property
    def compute_capability(self):
        return machine.capability

    @property
    def attributes(self):
        return {"MultiProcessorCount": machine.multiprocessors}


class Stream:
    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.null, self.graph = null, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if machine.capturing is self:
            raise CUDARuntimeError("a stream is left while it is capturing")

    def begin_capture(self, mode=None):
        if self.null:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: the default stream cannot be captured")
        self.graph, type(machine).capturing = Graph(), self

    def end_capture(self):
        type(machine).capturing = None
        return self.graph

    def synchronize(self):
        Device().synchronize()


class Event:
    """Recorded after copies to the host, it waits until they are there. Time is what is counted: see `elapsed`."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.copies = []

    def record(self, stream=None):
        from .arrays import later
        self.done = machine.done.copy()
        self.copies, later[:] = later[:], []

    def synchronize(self):
        for to, what in self.copies:
            to[...] = what
        self.copies = []


def get_elapsed_time(start_event, end_event):
    """A millisecond a kernel, and what `installed` says a product of cuBLAS"""
    done = end_event.done - start_event.done
    return done["kernel"] + done["gemm"] * (machine.gemm_time or 0)


def get_cublas_handle():
    return 1


class Graph:
    """Recorded launches, replayed over the same memory, which must still be there."""

    def __init__(self):
        self.nodes = []                                     # (kernel, grid, block, arguments, shared, their Memory)

    def launch(self, stream=None):
        machine.done["graph"] += 1
        for kernel, grid, block, arguments, shared, memories in self.nodes:
            if any(memory() is None for memory in memories):
                raise AssertionError(f"a replayed graph's {kernel.name} touches memory that has been freed")
            kernel.run(grid, block, arguments, shared)


class RawModule:
    def __init__(self, *, code=None, path=None, options=(), backend="nvrtc", translate_cucomplex=False,
                 enable_cooperative_groups=False, name_expressions=None, jitify=False):
        if not isinstance(code, str) or not isinstance(options, tuple) or not {type(o) for o in options} <= {str}:
            raise TypeError("code is a str, options are a tuple of str")
        self.code, self.options, self.name_expressions = code, options, tuple(name_expressions or ())

    def get_function(self, name):
        if self.name_expressions and name not in self.name_expressions:
            raise CUDADriverError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        return RawKernel(self.code, name, self.options)


class RawKernel:
    """Called with arrays of ours, it runs on the CPU machine."""

    def __init__(self, code, name, options=(), backend="nvrtc", *, translate_cucomplex=False,
                 enable_cooperative_groups=False, jitify=False):
        self.code, self.name, self.options = code, name, options

    @cached_property
    def on_cpu(self):
        """The same kernel for the CPU, from the file whose text this is, so that both know it by one name."""
        from tinycogvlm.kernels import load
        folders = [Path(option[2:]) for option in self.options if option.startswith("-I")]
        files = (file for folder in folders for file in sorted(folder.glob("*.cu")))
        return load(next((file for file in files if self.code.startswith(file.read_text(encoding="utf-8"))), self.code),
                    self.name)

    @cached_property
    def shared_size_bytes(self):
        return self.on_cpu.library.static if machine.content else 0

    @cached_property
    def max_dynamic_shared_size_bytes(self):
        """Until it is set: what the static arrays leave of 48 KB"""
        return (48 << 10) - self.shared_size_bytes

    def __call__(self, grid, block, args, *, shared_mem=0):
        from .arrays import ndarray, same_gpu
        if not isinstance(grid, tuple) or not isinstance(block, tuple):
            raise TypeError("grid and block must be tuples")
        arrays = [value for value in args if isinstance(value, ndarray)]
        same_gpu(*arrays)
        for value in args:
            if not isinstance(value, (ndarray, np.generic)):
                raise TypeError(f"Unsupported type {type(value)}")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {self.name} is given {shared_mem} bytes of dynamic shared "
                                  f"memory; {self.max_dynamic_shared_size_bytes} are allowed")
        values = [value._numpy if isinstance(value, ndarray) else value for value in args]
        if machine.capturing:
            memories = [weakref.ref(array._memory) for array in arrays]
            machine.capturing.graph.nodes.append((self, grid, block, values, shared_mem, memories))
        else:
            self.run(grid, block, values, shared_mem)

    def run(self, grid, block, values, shared_mem):
        machine.done["kernel"] += 1
        if machine.content:
            pointers = [parameter.pointer for parameter in self.on_cpu.parameters]
            self.on_cpu(grid, block, [None if pointer and isinstance(value, np.uintp) else value
                                      for pointer, value in zip(pointers, values)], shared_mem)
