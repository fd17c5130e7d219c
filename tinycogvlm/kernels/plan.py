"""What of a model goes where: how its matrices are stored, and which of them wait in the host's memory.

A decoded token reads the language experts and lm_head: they are always on the GPU. What only a picture needs may wait
in the host's memory, stored in the same way, and is copied whenever it is used: per picture, gigabytes over the bus.
"""
import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from ..errors import UserError
from ..model.parts import COMPUTED, EMBEDDING, HEAD, matrices, part
from ..nn.arrays import bfloat16_bits, namespace, to_numpy
from ..nn.tree import matches
from ..storage.leaves import Leaves, converted
from ..storage.quantise import BITS, GROUP, Quantised, quantise

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1 + 2 / GROUP, "int4": 0.5 + 2 / GROUP}     # of a number
DTYPES = tuple(BYTES)
TOWER, EXPERTS = ("vision transformer", "adapter"), ("vision experts",)     # parts that only a picture needs
LEAVING = (), TOWER, EXPERTS, TOWER + EXPERTS
CARDS = 8, 12, 16, 24                                       # GB; what they hold more than 10^9 bytes a GB is CUDA's


def sizes(config):
    """{name: numbers} of every parameter"""
    return {name: math.prod(shape) for name, shape in config.shapes().items() if not matches(name, COMPUTED)}


def cache(config):
    """Numbers in the keys and values of the whole context."""
    return (2 * config.num_hidden_layers * config.num_key_value_heads * config.head_size
            * config.max_position_embeddings)


def working(config):
    """About how many numbers the intermediates are while one picture and 64 words are read."""
    vision = config.vision
    return max(vision.num_positions * (14 * vision.hidden_size + 3 * vision.intermediate_size),
               (config.num_image_tokens + 64) * (14 * config.hidden_size + 3 * config.intermediate_size))


@dataclass(frozen=True)
class Plan:
    """dtype: of the matrices. ends: of embedding table and lm_head. host: the parts.PARTS that wait in the host's memory."""
    config: object
    dtype: str
    ends: str
    host: tuple = ()

    @property
    def activations(self):
        """Also the dtype of norms, biases and what else is no matrix of whole groups."""
        return "float32" if self.dtype == "float32" else "float16"

    def stored(self):
        """{name: dtype} of every parameter"""
        shapes = self.config.shapes()
        found = dict.fromkeys(sizes(self.config), self.activations) | dict.fromkeys(matrices(shapes), self.dtype)
        ends = {EMBEDDING, HEAD}
        possible = ends.intersection(matrices(shapes, head=True)) if self.ends in BITS else ends
        return found | dict.fromkeys(possible, self.ends)

    def bytes(self):
        """{"weights", "waiting", "cache", "written", "working"}: bytes on the GPU, but "waiting", in the host's memory.

        written: the most that one product needs: the numbers of both experts' matrices if they are stored otherwise,
        and copies of what waits.
        """
        numbers, number, found, written = sizes(self.config), BYTES[self.activations], Counter(), [0]
        for name, dtype in self.stored().items():
            waits, size = part(name) in self.host, numbers[name]
            found["waiting" if waits else "weights"] += size * BYTES[dtype]
            if name not in (EMBEDDING, HEAD):
                each = number * (dtype != self.activations) + BYTES[dtype] * waits
                written.append(size * each * (2 if ".vision_" in name else 1))
        found |= {"cache": cache(self.config) * number, "written": max(written),
                  "working": working(self.config) * number}
        return {name: int(found[name]) for name in ("weights", "waiting", "cache", "written", "working")}

    @property
    def on_gpu(self):
        """Bytes on the GPU, of all kinds together."""
        return sum(size for name, size in self.bytes().items() if name != "waiting")


def plan(config, dtype, memory=math.inf):
    """The Plan for a GPU with `memory` bytes: as much there as fits, embedding and lm_head in 16 bits if that fits.

    dtype: one of DTYPES. UserError if the least that must be on the GPU does not fit.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    ends = ("float16", dtype) if dtype in BITS else (dtype,)
    plans = [Plan(config, dtype, end, host) for host in LEAVING for end in ends]
    for found in plans:
        if found.on_gpu <= memory:
            return found
    raise UserError(f"in {dtype} the model needs {plans[-1].on_gpu / 1e9:.1f} GB of the GPU's memory at least, and "
                    f"{memory / 1e9:.1f} GB are there; a smaller dtype (int8, int4) needs less")


class Planned(Leaves):
    """Leaves, stored as a Plan says and where it says.

    to_device: xp.converter, into float32 where the arithmetic is. A matrix becomes what it is stored as there, a few
    rows at a time: neither memory ever holds all of it in 32 bits. What waits in the host's memory is copied whenever
    it is used.
    """

    def __init__(self, checkpoint, plan, to_device, stream=False):
        super().__init__(checkpoint, lambda array: to_device(array).astype(plan.activations, copy=False), stream,
                         tables=(EMBEDDING,))
        self.plan, self.to_device, self.dtypes = plan, to_device, plan.stored()
        self.xp = namespace(to_device(np.zeros(1, np.float32)))

    def __getitem__(self, name):
        leaf = super().__getitem__(name)
        return moved(leaf, self.xp.asarray) if self.waits(name) else leaf

    def converted(self, name):
        tensor, dtype = self.checkpoint[name], self.dtypes.get(name, self.plan.activations)
        if dtype in BITS:
            leaf = quantise(tensor, dtype, self.to_device)
        elif dtype == "bfloat16":
            leaf = converted(tensor, lambda rows: self.xp.asarray(bfloat16_bits(rows)))
        else:
            leaf = converted(tensor, self.convert)
        return moved(leaf, to_numpy) if self.waits(name) else leaf

    def waits(self, name):
        """Whether a tensor waits in the host's memory until it is used."""
        return name in self.dtypes and part(name) in self.plan.host


def moved(leaf, move):
    """An array or a Quantised, by a function of arrays"""
    if isinstance(leaf, Quantised):
        return replace(leaf, codes=move(leaf.codes), scales=move(leaf.scales))
    return move(leaf)
