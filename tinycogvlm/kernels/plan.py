"""Where each part of a model is stored: in how many bits, and whether on the GPU or offloaded to the host's memory.

A decoded token reads the language experts and lm_head: they are always on the GPU. What only a picture needs may be
offloaded: it lies in the host's memory in the same form, or still in the file, if its numbers are stored there as they
are used; and it is copied whenever it is used, gigabytes per picture.
"""
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ..errors import UserError
from ..model.parts import COMPUTED, EMBEDDING, HEAD, matrices, part, twin
from ..nn.arrays import bfloat16_bits, namespace
from ..nn.tree import matches
from ..storage.codes import CodesTensor
from ..storage.leaves import Leaves, converted
from ..storage.quantise import BITS, GROUP, Quantised, quantise
from ..storage.safetensors_file import Tensor
from .library import quantise as kernel
from .runner.cpu import free_memory
from .runner.gpu import current

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1 + 2 / GROUP, "int4": 0.5 + 2 / GROUP}     # of a number
DTYPES, ACTIVATIONS = tuple(BYTES), ("float32", "float16", "bfloat16")
TOWER, EXPERTS = ("vision transformer", "adapter"), ("vision experts",)     # parts that only a picture needs
OFFLOADED = (), TOWER, EXPERTS, TOWER + EXPERTS             # what is tried, in this order
CARDS = 8, 12, 16, 24                                       # GB; CUDA takes what a card has beyond 10^9 bytes a GB
PAGE = 2 << 20                                              # bytes; arrays below half of it share pages
TO_GPU = 1 << 22                                            # bytes of a tensor's that are converted on a GPU at a time
IN_FILES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


@dataclass(frozen=True)
class Plan:
    """Where the parts of a model go, and in which dtype.

    dtype:              of the matrices.
    embedding_and_head: the dtype of the embedding table and of lm_head.
    offloaded:          the parts.PARTS in the host's memory.
    activations:        the dtype of the arithmetic, and of all that is not a matrix of whole groups: norms, biases.
    """
    config: object
    dtype: str
    embedding_and_head: str
    offloaded: tuple = ()
    activations: str = "float16"                            # always float32 if the matrices are

    def __post_init__(self):
        if self.dtype == "float32":
            object.__setattr__(self, "activations", "float32")

    def stored(self):
        """{name: dtype} of every parameter"""
        shapes = self.config.shapes()
        found = dict.fromkeys(sizes(self.config), self.activations) | dict.fromkeys(matrices(shapes), self.dtype)
        possible = {EMBEDDING, HEAD} & set(shapes)
        if self.embedding_and_head in BITS:
            possible &= set(matrices(shapes, head=True))
        return found | dict.fromkeys(possible, self.embedding_and_head)

    @property
    def on_gpu(self):
        """Bytes on the GPU, of all kinds together"""
        return stored_bytes(self) + cache_bytes(self) + scratch_bytes(self) + headroom_bytes(self)


# Bytes of a Plan. The examples are CogVLM-17B in int4, activations in float16.

def stored_bytes(plan):
    """Of the parameters on the GPU. With the vision experts offloaded: 6.32 GB"""
    return _bytes(plan, [name for name in sizes(plan.config) if part(name) not in plan.offloaded])


def host_bytes(plan):
    """Of the parameters offloaded to the host's memory. The vision experts: 6.476 billion * 17 / 32 = 3.44 GB"""
    return _bytes(plan, [name for name in sizes(plan.config) if part(name) in plan.offloaded])


def cache_bytes(plan):
    """Of the keys and values of the whole context. 2 * 32 layers * 4096 * 2048 tokens * 2 bytes = 1.07 GB"""
    return cache(plan.config) * BYTES[plan.activations]


def scratch_bytes(plan):
    """Of the intermediates and of the matrices that one product dequantises, or copies from the host's memory.

    117 million intermediates * 2 bytes + QKV of both experts, 2 * 12288 * 4096 * 2 bytes = 0.43 GB
    """
    number, numbers, extra = BYTES[plan.activations], sizes(plan.config), {}
    for name, dtype in plan.stored().items():
        dequantised = numbers[name] * number if dtype != plan.activations else 0
        copied = numbers[name] * BYTES[dtype] if part(name) in plan.offloaded else 0
        extra[name] = int(dequantised + copied)
    both = [sum(extra.get(each, 0) for each in {name, twin(name)}) for name in extra if name not in (EMBEDDING, HEAD)]
    return scratch(plan.config) * number + max(both)


def headroom_bytes(plan):
    """Of compiled kernels and cuBLAS, and of what the driver adds to the parameters' arrays, of which each has pages of
    its own. 0.27 GB + 0.58 GB"""
    numbers, more = sizes(plan.config), 256 << 20
    for name, dtype in plan.stored().items():
        if part(name) not in plan.offloaded:
            scales = 2 * numbers[name] // GROUP if dtype in BITS else 0
            more += sum(-array % PAGE for array in (int(numbers[name] * BYTES[dtype]) - scales, scales)
                        if array > PAGE // 2)
    return more


def _bytes(plan, names):
    """Of these parameters as they are stored"""
    numbers, dtypes = sizes(plan.config), plan.stored()
    return int(sum(numbers[name] * BYTES[dtypes[name]] for name in names))


@lru_cache
def sizes(config):
    """{name: numbers} of every parameter"""
    return {name: math.prod(shape) for name, shape in config.shapes().items() if not matches(name, COMPUTED)}


def cache(config):
    """Numbers in the keys and values of the whole context"""
    return (2 * config.num_hidden_layers * config.num_key_value_heads * config.head_size
            * config.max_position_embeddings)


def scratch(config):
    """About how many numbers the intermediates are when a prompt is read, `tokens_at_once` of it or one picture"""
    vision, language = config.vision, 14 * config.hidden_size + 3 * config.intermediate_size
    tower = vision.num_positions * (14 * vision.hidden_size + 3 * vision.intermediate_size) if vision else 0
    return max(tower, config.tokens_at_once * language)


def plan(config, dtype, memory=math.inf, activations="float16"):
    """The Plan for a GPU with `memory` bytes: as much there as fits, embedding and lm_head in 16 bits if that fits.

    dtype: one of DTYPES. activations: one of ACTIVATIONS.
    Raises UserError if the least that must be on the GPU does not fit.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    choices = (half(activations), dtype) if dtype in BITS else (dtype,)
    plans = [Plan(config, dtype, choice, parts, activations) for parts in OFFLOADED for choice in choices]
    for found in plans:
        if found.on_gpu <= memory:
            return found
    also = ", as do activations in 16 bits" if plans[-1].activations == "float32" else ""
    raise UserError(f"in {dtype} the model needs {plans[-1].on_gpu / 1e9:.1f} GB of the GPU's memory at least, and "
                    f"{memory / 1e9:.1f} GB are there; a smaller dtype (int8, int4) needs less{also}")


def best(config, memory, activations):
    """The Plan in the most bits, 16, 8 or 4, that offloads nothing; if none does, the one in the fewest that fits."""
    for dtype in half(activations), "int8", "int4":
        with suppress(UserError):
            found = plan(config, dtype, memory, activations)
            if not found.offloaded:
                return found
    return plan(config, "int4", memory, activations)


def half(activations):
    """The 16-bit dtype that loses least beside activations of this dtype: float32 has the range of bfloat16."""
    return "float16" if activations == "float16" else "bfloat16"


class Planned(Leaves):
    """Leaves in the form and in the place that a Plan gives them.

    to_device: an arrays.converter into float32, on the device of the arithmetic. Tensors are sent there as they are
    stored, a few rows at a time, and converted there: neither memory ever holds all of a matrix in 32 bits.
    """

    def __init__(self, checkpoint, plan, to_device, stream=False):
        self.plan, self.to_device, self.dtypes = plan, to_device, plan.stored()
        super().__init__(checkpoint, lambda rows: self.numbers(rows, plan.activations), stream,
                         tables=plan.config.tables)
        self.there = to_device(np.zeros(1, np.float32))         # an array on the device
        self.xp = namespace(self.there)

    def load(self):
        """Convert everything now, before any answer's intermediates lie between the parameters, and free what that
        took. Raises UserError if the host's memory cannot hold what is offloaded to it."""
        needed = sum(sizes(self.plan.config)[name] * BYTES[dtype] for name, dtype in self.dtypes.items()
                     if self.offloaded(name) and not self.in_file(name))
        if needed > free_memory():
            raise UserError(f"{needed / 1e9:.1f} GB of parameters are to be offloaded to the host's memory, of which "
                            f"{free_memory() / 1e9:.1f} GB are free; a smaller dtype (int8, int4) needs less")
        with current(self.there):
            for name in self.dtypes:
                if not self.in_file(name):
                    super().__getitem__(name)
            if self.xp is not np:
                self.xp.get_default_memory_pool().free_all_blocks()

    def __getitem__(self, name):
        if self.in_file(name):
            return self.converted(name)
        leaf = super().__getitem__(name)
        return moved(leaf, self.copied) if self.offloaded(name) else leaf

    def copied(self, array):
        """A NumPy array, on the device as it is"""
        with current(self.there):                               # every thread has a current device of its own
            return self.xp.asarray(array)

    def numbers(self, rows, dtype):
        """Rows of a tensor, a NumPy array, on the device in `dtype`"""
        if dtype == "bfloat16":
            return self.copied(bfloat16_bits(rows))
        return self.to_device(rows).astype(dtype, copy=False)

    def converted(self, name):
        tensor, dtype = self.checkpoint[name], self.dtypes.get(name, self.plan.activations)
        with current(self.there):
            if isinstance(tensor, CodesTensor) and tensor.dtype == dtype:
                leaf = self.from_codes(tensor)
            elif dtype in BITS and self.xp is np:
                leaf = quantise(tensor, dtype)
            elif dtype in BITS:
                leaf = kernel.quantise(tensor, dtype, self.copied)
            else:
                leaf = converted(tensor, lambda rows: self.numbers(rows, dtype), None if self.xp is np else TO_GPU)
            return moved(leaf, self.pinned) if self.offloaded(name) and not self.in_file(name) else leaf

    def from_codes(self, tensor):
        """A matrix that its file holds quantised, on the device, a few rows at a time -> Quantised"""
        O, I = tensor.shape[0], math.prod(tensor.shape[1:])
        step = O if self.xp is np else max(1, TO_GPU * O // tensor.nbytes)
        codes = self.xp.empty((O, I * BITS[tensor.dtype] // 8), np.uint8)
        scales = self.xp.empty((O, I // GROUP), np.uint16)
        for start in range(0, O, step):
            rows = slice(start, start + step)
            part = tensor.quantised(rows)
            codes[rows], scales[rows] = self.xp.asarray(part.codes), self.xp.asarray(part.scales)
        return Quantised(codes, scales, tuple(tensor.shape), tensor.dtype)

    def offloaded(self, name):
        """Whether a tensor is not on the device until it is used"""
        return name in self.dtypes and part(name) in self.plan.offloaded

    def in_file(self, name):
        """Whether it is then read from its file, where it is stored as it is used: Linux keeps what was read in memory
        that it has left, and nothing is stored twice."""
        tensor = self.checkpoint[name]
        return (self.offloaded(name) and type(tensor) in (Tensor, CodesTensor)
                and IN_FILES.get(tensor.dtype, tensor.dtype) == self.dtypes[name])

    def pinned(self, array):
        """The array in memory of the host that the GPU reads by itself"""
        if self.xp is np:
            return array
        from cupyx import empty_pinned
        return array.get(out=empty_pinned(array.shape, array.dtype))


def moved(leaf, move):
    """An array or a Quantised, moved by a function of arrays"""
    if isinstance(leaf, Quantised):
        return replace(leaf, codes=move(leaf.codes), scales=move(leaf.scales))
    return move(leaf)
