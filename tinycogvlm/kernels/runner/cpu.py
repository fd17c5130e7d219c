"""Run a kernel on the CPU: copy its arrays to guarded memory, start the machine, copy them back, raise its faults."""
import ctypes
import math
import os
import re
import subprocess
import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import arguments, source
from .errors import (AlignmentError, ArgumentError, BarrierError, CompileError, KernelError, OutOfBoundsError, RaceError,
                     UninitializedError)
from .lines import source_lines

ORDERS = ("forward", "backward", "shuffled")
FAULTS = {1: KernelError, 2: RaceError, 3: OutOfBoundsError, 4: BarrierError, 5: UninitializedError, 6: AlignmentError}
INTERRUPTED = 7
MOST_BLOCKS = 1 << 24                                       # of a grid that is shuffled or watched
CELL = 52                                                   # bytes that check="race" keeps for each number of an array
ONE_AT_A_TIME = threading.Lock()                            # the machine has one set of threads


class Buffer(ctypes.Structure):                             # the structures of machine/check.h
    _fields_ = [("begin", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("phase", ctypes.c_size_t),
                ("name", ctypes.c_char_p), ("constant", ctypes.c_int)]


STOP = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint64)
SHARED = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_char, ctypes.c_size_t, ctypes.c_size_t,
                          ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t))


class Launch(ctypes.Structure):
    _fields_ = [("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("dynamic", ctypes.c_size_t),
                ("arguments", ctypes.POINTER(ctypes.c_void_p)), ("which", ctypes.c_int), ("order", ctypes.c_int),
                ("check", ctypes.c_int), ("seed", ctypes.c_uint64), ("buffers", ctypes.POINTER(Buffer)),
                ("buffer_count", ctypes.c_size_t), ("shared", ctypes.POINTER(Buffer)),
                ("shared_count", ctypes.c_size_t), ("flags", ctypes.POINTER(ctypes.c_size_t)),
                ("flag_count", ctypes.c_size_t), ("stop", STOP), ("shared_array", SHARED),
                ("stacks", ctypes.c_void_p), ("kind", ctypes.c_int), ("message", ctypes.c_char * 4096)]


class Line(ctypes.Structure):
    _fields_ = [("site", ctypes.c_uint32), ("shared", ctypes.c_byte), ("writes", ctypes.c_byte),
                ("bytes", ctypes.c_byte), ("atomic", ctypes.c_byte), ("requests", ctypes.c_uint64),
                ("accesses", ctypes.c_uint64), ("passes", ctypes.c_uint64), ("ideal", ctypes.c_uint64)]


class Absent(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("what", ctypes.c_char_p), ("line", ctypes.c_int), ("mask", ctypes.c_uint),
                ("lane", ctypes.c_uint), ("site", ctypes.c_uint32)]


@dataclass
class Library:
    """A compiled kernel, number `which` of its library. label: its source's name there; shown: in messages."""
    path: object
    which: int
    name: str
    label: str
    shown: str
    names: tuple                                            # of the parameters, for messages
    without_values: tuple                                   # __constant__ variables of the source

    stacks = None                                           # of the machine's threads, for all libraries

    def __post_init__(self):
        try:
            self.c = ctypes.CDLL(str(self.path))
        except OSError as error:                            # it is as it was written: see build.is_whole
            raise KernelError(f"the compiled kernel cannot be loaded ({error}); set XDG_CACHE_HOME to a folder from "
                              "which programs may run") from None
        self.c.machine_allocate.restype = ctypes.c_void_p
        self.c.machine_allocate.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        self.c.machine_free.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.c.machine_lines.restype = self.c.machine_absent.restype = ctypes.c_size_t
        self.c.machine_bounds.restype = ctypes.c_long
        self.most_threads = self.c.machine_bounds(self.which)
        text = ctypes.create_string_buffer(1 << 14)
        self.c.machine_signature(self.which, text, ctypes.c_size_t(len(text)))
        self.parameters = arguments.parameters(text.value.decode(), self.names)

    def launch(self, grid, block, args, shared_mem=0, order="forward", seed=0, check=False, stop=None,
               shared_array=None, constants=None):
        """Run the kernel. Raises the KernelError that says how it failed. Returns its `lines` with `check`, else []."""
        grid, block = arguments.triple("grid", grid), arguments.triple("block", block)
        if 0 < self.most_threads < math.prod(block):
            raise ArgumentError(f"the block {block} has {math.prod(block)} threads; {self.name} is declared with "
                                f"__launch_bounds__({self.most_threads}), and a GPU refuses more")
        if self.static > source.MOST_STATIC:
            raise CompileError(f"{self.shown}: {self.name} declares {self.static} bytes of __shared__ arrays; "
                               f"{source.MOST_STATIC} are the most, more must be dynamic (extern __shared__ and shared_mem)")
        most = source.MOST_SHARED - self.static
        if not 0 <= shared_mem <= most:
            beside = f" beside the {self.static} of its __shared__ arrays" * bool(self.static)
            raise ArgumentError(f"{shared_mem} bytes of dynamic shared memory; 0 to {most} are possible{beside}")
        if (order == "shuffled" or check) and math.prod(grid) > MOST_BLOCKS:
            raise ArgumentError(f"the grid {grid} has {math.prod(grid)} blocks; with order='shuffled' or check='race' "
                                f"{MOST_BLOCKS} are the most")
        arguments.check(self.name, self.parameters, args)
        arrays = [(value, p) for value, p in zip(args, self.parameters) if isinstance(value, np.ndarray)]
        needed = sum(value.nbytes + (value.nbytes // p.size * CELL if check and not p.const else 0) for value, p in arrays)
        require_memory(needed, f"running {self.name} on copies of its arrays")
        with ONE_AT_A_TIME, Memory(self.c, self.parameters, args) as memory:
            self.set_constants(constants or {})
            shared, flags = self.shared_arrays, self.symbols.flags
            launch = Launch(grid, block, shared_mem, memory.arguments, self.which, ORDERS.index(order), check, seed,
                            memory.buffers, len(memory.buffers), (Buffer * len(shared))(*shared), len(shared),
                            (ctypes.c_size_t * len(flags))(*flags), len(flags),
                            STOP(stop or 0), SHARED(shared_array or 0), Library.stacks)
            kind = self.c.machine_launch(ctypes.byref(launch))
            Library.stacks = launch.stacks
            lines = self.lines() if check else []
            absent = self.absent() if check and not kind else None
        if kind == INTERRUPTED:
            raise KeyboardInterrupt
        if kind:
            raise self.fault(FAULTS[kind], os.fsdecode(launch.message))
        if absent:
            raise self.fault(BarrierError, absent)
        return lines

    def set_constants(self, constants):
        """Give __constant__ variables their values. ArgumentError for one that has none, which a GPU would take as 0."""
        for name in self.unset:
            if name not in constants:
                raise ArgumentError(f"{self.shown}: {self.name} uses the __constant__ {name}, which has no values in the "
                                    f"source: load(..., constants={{{name!r}: array}}), or --constant {name}=FILE.npy, "
                                    "gives them")
        base = ctypes.cast(self.c.machine_launch, ctypes.c_void_p).value - self.symbols.launch
        for name, values in constants.items():
            if name not in self.symbols.data:
                raise ArgumentError(f"{self.shown}: {self.name} uses no __constant__ that is called {name!r}")
            offset, size = self.symbols.data[name]
            data = np.ascontiguousarray(values)
            if data.nbytes != size:
                raise ArgumentError(f"{self.shown}: the __constant__ {name} has {size} bytes, {data.dtype.name} "
                                    f"{data.shape} has {data.nbytes}")
            ctypes.memmove(base + offset, data.ctypes.data, size)

    def fault(self, error, sentence):
        """The machine's sentence as an exception, with file:line in place of each <1a2b>, an offset in the library."""
        places = source_lines(self.path, [int(site, 16) for site in re.findall("<([0-9a-f]+)>", sentence)])

        def place(match):
            found = places[int(match[1], 16)]
            return f"{found[0]}:{found[1]}" if found else f"{self.label}:?"
        sentence = re.sub("<([0-9a-f]+)>", place, sentence)
        first = re.match(r".*?:(\d+):", sentence)
        return error(sentence.replace(self.label, self.shown), int(first[1]) if first else None)

    def lines(self):
        """[(file, line, Line)] of every instruction that accessed memory."""
        count = self.c.machine_lines(None, ctypes.c_size_t(0))
        found = (Line * count)()
        self.c.machine_lines(found, ctypes.c_size_t(count))
        places = source_lines(self.path, [line.site for line in found])
        return [(*(places[line.site] or (self.label, 0)), line) for line in found]

    def absent(self):
        """A sentence on a lane that a mask names, and that went past that line and returned; None if there is none.

        A lane that returned before is no fault: the masks of warp operations are about those that have not.
        """
        count = self.c.machine_absent(None, ctypes.c_size_t(0))
        found = (Absent * count)()
        self.c.machine_absent(found, ctypes.c_size_t(count))
        places = source_lines(self.path, [lane.site for lane in found if lane.site])
        for lane in found:
            file, line = places.get(lane.site) or ("", 0)
            if file == os.fsdecode(lane.file) and line > lane.line:
                return (f"{file}:{lane.line}: the mask {lane.mask:#x} of {lane.what.decode()} names lane {lane.lane}, "
                        f"which went past it (to line {line}) and returned; lanes that a mask names must all come")
        return None

    @cached_property
    def symbols(self):
        return Symbols.of(self.path)

    @property
    def shared_arrays(self):
        """The static __shared__ arrays, as [Buffer]: the library's thread-local symbols."""
        return [Buffer(offset, size, 0, name.encode()) for offset, (name, size) in self.symbols.shared.items()]

    @property
    def static(self):
        """Bytes of the static __shared__ arrays."""
        return sum(size for _, size in self.symbols.shared.values())

    @property
    def unset(self):
        """The __constant__ variables that the kernel uses, and whose values the source has not."""
        return [name for name in self.without_values if name in self.symbols.data]


@dataclass
class Symbols:
    """What a library's symbols say. shared: {offset: (name, bytes)}, data: {name: (offset, bytes)} of variables."""
    shared: dict
    flags: list                                             # offsets of g++'s flags for shared arrays
    data: dict
    launch: int                                             # offset of machine_launch

    @classmethod
    def of(cls, library):
        table = subprocess.run(["readelf", "-sW", str(library)], capture_output=True, text=True).stdout
        shared, flags, data, launch = {}, set(), {}, 0
        for row in table.splitlines():
            row = row.split()
            if len(row) != 8 or not re.fullmatch("[0-9a-f]+", row[1]):
                continue
            offset, size, kind, name = int(row[1], 16), int(row[2], 0), row[3], plain_name(row[7])
            if kind == "TLS" and row[7].startswith("_ZGV"):
                flags.add(offset)
            elif kind == "TLS" and size:
                shared[offset] = name, size
            elif kind == "OBJECT":
                data[name] = offset, size
            elif name == "machine_launch":
                launch = offset
        return cls(shared, sorted(flags), data, launch)


def plain_name(symbol):
    """tile for _ZZ6matmulPfE4tile and for _ZN2ns4tileE, the last part of a mangled name"""
    nested = re.search(r"E(\d+)(\w+)$", symbol) or re.match(r"_ZN.*?(\d+)(\D\w*)E$", symbol)
    return nested[2][:int(nested[1])] if nested else re.sub(r"^_ZL\d+", "", symbol)


def require_memory(needed, what):
    """KernelError unless so many bytes are free. Linux would grant them, and kill the process when they are used."""
    if needed > 1 << 28 and needed > free_memory():
        raise KernelError(f"{what} takes {needed / 1e9:.1f} GB of memory, and {free_memory() / 1e9:.1f} GB are free")


def free_memory():
    """Bytes that this machine has left, as Linux estimates it; no limit where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return 1024 * int(re.search(r"MemAvailable: *(\d+) kB", file.read())[1])
    except (OSError, TypeError):
        return math.inf


class Memory:
    """Copies of the array arguments, each with inaccessible pages before and after it, where wild accesses are noticed.

    Arrays that overlap are copied as one piece, so that what is written to one is seen in the other.
    """

    def __init__(self, c, parameters, args):
        self.c, self.pieces, self.hold = c, [], []
        arrays = [(value, p) for value, p in zip(args, parameters) if isinstance(value, np.ndarray)]
        for value, p in sorted(arrays, key=lambda pair: pair[0].ctypes.data):
            begin, end = value.ctypes.data, value.ctypes.data + value.nbytes
            if self.pieces and begin < self.pieces[-1]["end"]:
                self.pieces[-1]["end"] = max(end, self.pieces[-1]["end"])
                self.pieces[-1]["written"] |= not p.const
            else:
                self.pieces.append(dict(begin=begin, end=end, written=not p.const, phase=phase(value)))
        for piece in self.pieces:
            piece["copy"] = c.machine_allocate(piece["end"] - piece["begin"], piece["phase"])
            if not piece["copy"]:
                raise KernelError(f"no memory for a copy of {piece['end'] - piece['begin']} bytes")
            ctypes.memmove(piece["copy"], piece["begin"], piece["end"] - piece["begin"])
        buffers = []
        for i, (value, p) in enumerate(zip(args, parameters), 1):
            if isinstance(value, np.ndarray):
                slice_at = f", a slice from byte {offset(value)}" if offset(value) % 16 else ""
                name = f"{p.name} (argument {i}{slice_at})" if p.name else f"argument {i}{slice_at}"
                piece = self.piece(value)
                buffers.append(Buffer(self.where(value), value.nbytes, phase(value), name.encode(), not piece["written"]))
        self.buffers = (Buffer * len(buffers))(*buffers)
        self.arguments = (ctypes.c_void_p * len(args))(*(self.pass_on(value) for value in args))

    def piece(self, array):
        begin = array.ctypes.data
        return next(p for p in self.pieces if p["begin"] <= begin < p["end"] or begin == p["begin"] == p["end"])

    def where(self, array):
        piece = self.piece(array)
        return piece["copy"] + array.ctypes.data - piece["begin"]

    def pass_on(self, value):
        """The address of the bytes that the kernel takes for this argument."""
        if value is None or isinstance(value, np.ndarray):
            data = ctypes.c_void_p(None if value is None else self.where(value))
        else:
            data = ctypes.create_string_buffer(value.tobytes())
        self.hold.append(data)
        return ctypes.addressof(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for piece in self.pieces:
            size = piece["end"] - piece["begin"]
            if piece["written"]:
                ctypes.memmove(piece["begin"], piece["copy"], size)
            self.c.machine_free(piece["copy"], size)


def phase(array):
    """Where the array would begin on a GPU, modulo 256: an array of its own at 0, a slice further on."""
    return offset(array) % 256


def offset(array):
    """The byte at which a slice begins in its array"""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return array.ctypes.data - owner.ctypes.data
