"""Run a kernel on a GPU through CuPy, the same source by the same call; the GPU properties that launches depend on."""
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import numpy as np

from ...storage import atomic
from . import arguments, build, source
from .errors import ArgumentError, CompileError


NULL = np.uintp(0)
NOTHING = nullcontext()
LONG = 1                                                    # seconds; CuPy has a kernel from its cache in milliseconds


def is_gpu_array(value):
    return is_of_cupy(type(value))


@cache
def is_of_cupy(kind):
    return kind.__module__.partition(".")[0] == "cupy"


@dataclass(frozen=True)
class Device:
    """capability: of compute, 75 for Turing's 7.5, 80 for Ampere's 8.0"""
    capability: int
    multiprocessors: int


RUNNER = Device(80, 1)                                      # the CPU emulates ptx.cuh; blocks run one by one


def device(array):
    """The Device that runs kernels on `array`."""
    return numbered(array.device.id) if is_gpu_array(array) else RUNNER


def address(array):
    """Of its first number, in whichever memory"""
    return array.data.ptr if is_gpu_array(array) else array.ctypes.data


def number(array):
    """The number of the GPU on which an array lies, None for NumPy's"""
    return array.device.id if is_gpu_array(array) else None


def on(number):
    """`with on(number):` makes it CuPy's current GPU, where new arrays and launches go. None: NumPy needs nothing."""
    if number is None:
        return NOTHING
    cupy = sys.modules["cupy"]                              # faster than `import`
    return NOTHING if cupy.cuda.runtime.getDevice() == number else cupy.cuda.Device(number)


def current(array):
    """`with current(array):` makes the GPU on which the array lies CuPy's current one."""
    return on(number(array))


@cache
def numbered(number):
    """CuPy asks the driver each time, and a token takes hundreds of launches."""
    import cupy
    found = cupy.cuda.Device(number)
    return Device(int(found.compute_capability), found.attributes["MultiProcessorCount"])


@cache
def function(text, folder, name, shown, number):
    """A kernel's module, compiled for GPU `number`, which must be the current one; the kernel; the bytes of its static
    shared arrays.
    """
    import cupy
    begin = time.perf_counter()
    try:
        module = cupy.RawModule(code=text, options=options(folder), name_expressions=(name,))
        kernel = module.get_function(name)
        if time.perf_counter() - begin > LONG:
            say_once("kernels are compiled for this GPU where each is first used: once, up to a minute in all")
        return module, kernel, kernel.shared_size_bytes
    except cupy.cuda.compiler.CompileException as error:
        lines = str(error).splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "without a word")
        raise CompileError(f"{shown}: the GPU's compiler refuses {name}: {first}") from None
    except (ImportError, RuntimeError) as error:            # NVRTC, or CUDA's headers, are not there
        said = " ".join(str(error).split())
        raise CompileError(f"{shown}: {name} cannot be compiled for the GPU: {said}; pip install 'tinycogvlm[cuda12x]' "
                           "(or cuda13x) brings the compiler and its headers") from None


@cache
def say_once(sentence):
    print(sentence, file=sys.stderr, flush=True)


def options(folder):
    """Of NVRTC, for a kernel of `folder`. It has no header of C++: machine/prelude.h stands for them."""
    return ("--std=c++17", "--device-as-default-execution-space", f"-I{folder}", f"-I{source.HERE}", f"-I{headers()}",
            "--pre-include=tinycogvlm_prelude.h")


@cache
def headers():
    """A folder with what NVRTC lacks: the prelude, also by the names of C++'s headers, and cooperative groups."""
    names = ("prelude.h", "cooperative_groups.h", "cooperative_groups/reduce.h")
    files = {name: (source.MACHINE / name).read_bytes() for name in names}
    files["tinycogvlm_prelude.h"] = files.pop("prelude.h")
    files |= dict.fromkeys(source.STANDARD, b'#include "tinycogvlm_prelude.h"\n')
    folder = build.cache_folder() / f"nvrtc-{build.digest(*map(str, files.values()))}"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != content:
            atomic.write(path, content)
    return folder


def set_constant(module, name, values):
    """Give a __constant__ variable its values, those of a NumPy array."""
    import cupy
    values = np.ascontiguousarray(values)
    cupy.ndarray(values.shape, values.dtype, memptr=module.get_global(name)).set(values)


@cache
def kinds(*types):
    """Of arguments of these types, which of them are arrays of CuPy, which are None, and which no kernel takes: CuPy
    looks at none of them, and there are ten thousand in a picture."""
    arrays = [i for i, kind in enumerate(types) if is_of_cupy(kind)]
    nulls = [i for i, kind in enumerate(types) if kind is type(None)]
    wrong = [i for i, kind in enumerate(types) if issubclass(kind, np.ndarray) or arguments.has_no_size(kind)]
    return arrays, nulls, wrong


def launch(kernel, found, grid, block, args, shared_mem=0):
    """Launch a loader.Kernel as CuPy's RawKernel is, but None is a null pointer, and shared memory beyond 48 KB is asked
    for. found: `kinds` of the arguments.
    """
    grid, block = arguments.triple("grid", grid), arguments.triple("block", block)
    (arrays, nulls, wrong), name = found, kernel.name
    if wrong:
        i, value = wrong[0] + 1, args[wrong[0]]
        if isinstance(value, np.ndarray):
            raise ArgumentError(f"argument {i} of {name} is a NumPy array, others are CuPy's; use cupy.asarray")
        raise ArgumentError(f"argument {i} of {name} is Python's {value!r}, which has no size; give a NumPy scalar of "
                            "the type that the kernel takes, such as numpy.int32")
    numbers = {args[i].device.id for i in arrays}
    if len(numbers) > 1:
        raise ArgumentError(f"the arrays for {name} lie on several GPUs, {sorted(numbers)}; copy them to one")
    [gpu] = numbers
    passed = list(args)
    for i in nulls:
        passed[i] = NULL
    with on(gpu):
        module, compiled, static = function(kernel.for_gpu, kernel.folder, name, kernel.shown, gpu)
        for constant, values in kernel.constants.items():
            set_constant(module, constant, values)
        if static + shared_mem > 48 << 10:
            compiled.max_dynamic_shared_size_bytes = shared_mem
        compiled(grid, block, tuple(passed), shared_mem=shared_mem)
