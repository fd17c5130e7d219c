"""Step through a kernel on the CPU: at every barrier of one block, the shared arrays and where a chosen thread is."""
import ctypes
import os
from dataclasses import dataclass

import numpy as np

from ...nn.arrays import from_bfloat16_bits
from ..runner import arguments
from ..runner.errors import ArgumentError
from ..runner.loader import load

DTYPES = {"B": np.uint16, "b": bool, "V": np.uint8}


@dataclass
class Stop:
    """A barrier at which all threads of the block wait: the `number`-th, at `line` of `file`. shared: {name: array}"""
    file: str
    line: int
    number: int
    block: tuple
    thread: tuple
    rank: int                                               # of the thread in its block
    shared: dict

    def __str__(self):
        lines = [f"{self.file}:{self.line}: barrier {self.number} of block {self.block}; thread {self.thread} is "
                 f"lane {self.rank % 32} of warp {self.rank // 32}"]
        return "\n".join([*lines, *(text(name, array) for name, array in self.shared.items())])


def text(name, array, most=1024):
    """An array's dtype, shape and numbers (the edges of more than `most`). A dot is a NaN: no thread wrote there."""
    def number(value):
        return "." if value != value else f"{value:.4g}"
    return f"  {name} {array.dtype} {' x '.join(map(str, array.shape))}\n    {numbers(array, most, number)}"


def numbers(array, most, number):
    """An array's numbers, each as number(value) writes it, in columns."""
    width = max((len(number(value)) for value in array.ravel()[:4096]), default=1)
    return np.array2string(array, threshold=most, edgeitems=4, max_line_width=112, prefix="    ",
                           formatter={"all": lambda value: number(value).rjust(width)})


def step(path_or_source, name, grid, block, args, shared_mem=0, thread=(0, 0, 0), of_block=(0, 0, 0), show=print,
         order="forward", constants=None, defines=None):
    """Run a kernel and call show(Stop) at every barrier of the block `of_block`; return how many there were.

    thread: whose lane and warp are shown. What `show` raises ends the kernel and is raised here.
    """
    kernel = load(path_or_source, name, order=order, stepping=True, constants=constants, defines=defines)
    grid, block = arguments.triple("grid", grid), arguments.triple("block", block)
    chosen, rank = place("block", of_block, grid), place("thread", thread, block)
    known, raised, stops, ctrl_c = {}, [], 0, kernel.library.c.machine_ctrl_c

    def shared_array(name, address, kind, size, total, axes, shape):
        known[os.fsdecode(name)] = address, kind.decode(), size, total, shape[:axes]

    def stop(file, line, which):
        nonlocal stops
        if which != chosen:
            return 0
        try:
            stops += 1
            arrays = {array: _values(*where, shared_mem) for array, where in known.items()}
            shown = os.fsdecode(file).replace(kernel.label, kernel.shown)
            try:
                ctrl_c(True)
                show(Stop(shown, line, stops, tuple(of_block), tuple(thread), rank, arrays))
            finally:
                ctrl_c(False)                               # Python raises what came before at the end of this call
        except BaseException as error:                      # it cannot pass through the machine
            raised.append(error)
        return len(raised)

    try:
        kernel.library.launch(grid, block, args, shared_mem, order, stop=stop, shared_array=shared_array,
                              constants=constants)
    except KeyboardInterrupt:
        raise raised[0] if raised else KeyboardInterrupt from None
    return stops


def place(what, index, size):
    """The number of thread (x, y, z) of a block, or of a block of the grid: x runs fastest."""
    if len(index) != 3 or not all(0 <= i < n for i, n in zip(index, size)):
        raise ArgumentError(f"there is no {what} {index}: they go up to {tuple(n - 1 for n in size)}")
    return (index[2] * size[1] + index[1]) * size[0] + index[0]


def _values(address, kind, size, total, shape, shared_mem):
    """A copy of a shared array. Dynamic shared memory has no size of its own (0 bytes): the array takes all of it."""
    if kind == "V":                                         # a structure: its bytes
        shape = [*shape[:-1], shape[-1] * size]
    dtype = DTYPES.get(kind, f"{'f' if kind == 'h' else kind}{size}")
    whole = np.frombuffer(ctypes.string_at(address, total or shared_mem // size * size), dtype)
    array = whole.reshape(shape if total else (-1, *shape[1:]))
    if array.shape[-1:] == (1,):                            # the last axis: the numbers of a float4
        array = array[..., 0]
    return from_bfloat16_bits(array) if kind == "B" else array
