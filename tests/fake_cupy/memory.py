"""GPUs that consist of memory alone: CuPy's pool on each, and which GPU is the current one."""
import gc
import threading
from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

UNIT, PAGE = 512, 2 << 20                                   # bytes that CuPy's pool and the driver's large pieces round to


class OutOfMemoryError(MemoryError):
    __module__ = "cupy.cuda.memory"


class Machine(threading.local):
    """What is plugged in. current: the number of this thread's GPU. capturing: the stream that records, or None.

    done: how often what was done: "alloc", "op", "kernel", "graph", "to GPU", "to host"; moved: the bytes of the last
    two; peak_host: the most bytes of pinned memory at a time.
    """
    gpus = []

    def switch_on(self, memory, gpus, content, capability, multiprocessors):
        Machine.gpus = [Pool(memory) for _ in range(gpus)]
        Machine.content, Machine.capability, Machine.multiprocessors = content, capability, multiprocessors
        Machine.capturing, Machine.done, Machine.moved = None, Counter(), Counter()
        self.current = 0

    def __init__(self):
        self.current = 0


@dataclass(eq=False)
class Chunk:
    """A part of a piece of the driver's memory, between its neighbours in it"""
    size: int
    free: bool = False
    before: "Chunk" = field(default=None, repr=False)
    after: "Chunk" = field(default=None, repr=False)

    def __lt__(self, other):
        return self.size < other.size


class Pool:
    """cupy.cuda.MemoryPool: the smallest free chunk that is large enough, split if it is larger; neighbours that are
    free become one again; only pieces that are free as a whole go back to the driver.

    taken: bytes of the driver; peak_taken, peak_used: the most of them, and of those that arrays have, since `mark`.
    """

    def __init__(self, memory):
        self.memory, self.free, self.taken, self.total, self.used = memory, [], 0, 0, 0
        self.mark()

    def mark(self):
        self.peak_taken, self.peak_used = self.taken, self.used

    def allocate(self, nbytes):
        """A Chunk of so many bytes, or None for none"""
        size = -(-nbytes // UNIT) * UNIT
        if not size:
            return None
        place = bisect_left(self.free, Chunk(size))
        chunk = self.free.pop(place) if place < len(self.free) else self._from_driver(size)
        if chunk.size > size:
            rest = Chunk(chunk.size - size, True, chunk, chunk.after)
            if chunk.after:
                chunk.after.before = rest
            chunk.size, chunk.after = size, rest
            insort(self.free, rest)
        chunk.free = False
        self.used += size
        self.peak_used = max(self.peak_used, self.used)
        return chunk

    def _from_driver(self, size):
        for retry in (self.free_all_blocks, gc.collect, self.free_all_blocks):
            if self.taken + from_driver(size) > self.memory:
                retry()
        if self.taken + from_driver(size) > self.memory:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: {self.total:,} bytes).")
        self.taken, self.total = self.taken + from_driver(size), self.total + size
        self.peak_taken = max(self.peak_taken, self.taken)
        return Chunk(size)

    def release(self, chunk):
        self.used -= chunk.size
        chunk.free = True
        if chunk.before and chunk.before.free:
            chunk = self._joined(chunk.before)
        if chunk.after and chunk.after.free:
            self._drop(chunk.after)
            self._joined(chunk, listed=False)
        insort(self.free, chunk)

    def _joined(self, chunk, listed=True):
        """A chunk and the one after it as one"""
        if listed:
            self._drop(chunk)
        chunk.size, chunk.after = chunk.size + chunk.after.size, chunk.after.after
        if chunk.after:
            chunk.after.before = chunk
        return chunk

    def _drop(self, chunk):
        place = bisect_left(self.free, chunk)
        while self.free[place] is not chunk:
            place += 1
        del self.free[place]

    # as CuPy names it

    def free_all_blocks(self, stream=None):
        whole = [chunk for chunk in self.free if not chunk.before and not chunk.after]
        self.free = [chunk for chunk in self.free if chunk.before or chunk.after]
        self.total -= sum(chunk.size for chunk in whole)
        self.taken -= sum(from_driver(chunk.size) for chunk in whole)

    def used_bytes(self):
        return self.used

    def total_bytes(self):
        return self.total

    def free_bytes(self):
        return self.total - self.used


def from_driver(size):
    """What cudaMalloc takes for a piece: small ones share a page."""
    return size if size < PAGE // 2 else -(-size // PAGE) * PAGE


class Memory:
    """A piece of a GPU's memory; it goes back to the pool when no array over it is left."""

    def __init__(self, nbytes):
        if machine.capturing:
            raise AssertionError("memory is allocated while a graph is captured")
        self.number, self.pool = machine.current, machine.gpus[machine.current]
        self.chunk = self.pool.allocate(nbytes)
        machine.done["alloc"] += 1
        self.bytes = np.full(nbytes, 0xFF, np.uint8) if machine.content else np.empty(nbytes, np.uint8)

    def __del__(self):
        if getattr(self, "chunk", None):
            self.pool.release(self.chunk)


def default_pool():
    """cupy.get_default_memory_pool, of the current GPU"""
    return machine.gpus[machine.current]


machine = Machine()
