"""Quantised matrices on the disk, so that they are loaded in seconds: what quantise.py made of them, bit for bit.

A matrix W (O, I) is one tensor of bytes under its own name. Each row holds the codes, then the scales:

    O rows of   I codes of 8 bits, or I / 2 bytes of 2 codes of 4 bits  |  I / 64 bfloat16, little endian
"""
import math
from dataclasses import dataclass, field

import numpy as np

from ..errors import UserError
from .quantise import BITS, GROUP, Quantised, quantise
from .reading import short
from .safetensors_file import Tensor

METHOD = "tinycogvlm"                                       # quant_method in config.json, which names other programs' too


def row_bytes(I, dtype):
    return I * BITS[dtype] // 8 + I // GROUP * 2


@dataclass(frozen=True, eq=False)
class Codes:
    """A matrix to be written as codes: to_numpy quantises it."""
    tensor: Tensor
    kind: str

    dtype = np.dtype(np.uint8)

    @property
    def shape(self):
        return self.tensor.shape[0], row_bytes(math.prod(self.tensor.shape[1:]), self.kind)

    def get(self):
        try:
            matrix = quantise(self.tensor, self.kind)
        except UserError as error:
            raise UserError(f"{self.tensor.path}: tensor {short(self.tensor.name)}: {error}") from None
        return np.concatenate([matrix.codes, matrix.scales.astype("<u2").view(np.uint8)], 1)


@dataclass(frozen=True, eq=False)
class CodesTensor:
    """A matrix that is stored as codes, in a Tensor or a checkpoint.Stacked.

    dtype: "int8" or "int4". It is read as a Tensor is, and its numbers come in float32.
    """
    name: str
    dtype: str
    shape: tuple
    stored: object = field(repr=False)

    path = property(lambda self: self.stored.path)
    nbytes = property(lambda self: self.stored.nbytes)

    def numpy(self):
        return self[...]

    def __getitem__(self, rows):
        return self.quantised(rows)[...]

    def quantised(self, rows=...):
        """These rows as a quantise.Quantised"""
        both, I = self.stored[rows], math.prod(self.shape[1:])
        codes, scales = np.split(both, [I * BITS[self.dtype] // 8], 1)
        scales = np.ascontiguousarray(scales).view("<u2").astype(np.uint16, copy=False)
        return Quantised(np.ascontiguousarray(codes), scales, (len(both), *self.shape[1:]), self.dtype)


def kind_of(tensor, shape):
    """"int8" or "int4" for a tensor that holds a matrix of `shape` as such codes, else None"""
    for kind in BITS:
        I = math.prod(shape[1:])
        if tensor.dtype == "U8" and I % GROUP == 0 and tensor.shape == (shape[0], row_bytes(I, kind)):
            return kind
    return None


def read(checkpoint, shapes):
    """{name: Tensor} of a checkpoint, with a CodesTensor for each matrix of `shapes` that it holds as codes"""
    found = dict(checkpoint)
    for name, tensor in checkpoint.items():
        kind = kind_of(tensor, shapes[name])
        if kind:
            found[name] = CodesTensor(name, kind, tuple(shapes[name]), tensor)
    return found


def kind_stored(tensors):
    """"int8" or "int4" if there are such codes among the tensors, else None. UserError if there are both."""
    kinds = {tensor.dtype for tensor in tensors.values() if isinstance(tensor, CodesTensor)}
    if len(kinds) > 1:
        raise UserError(f"{next(iter(tensors.values())).path}: holds matrices in int8 and in int4; a model has them in one")
    return kinds.pop() if kinds else None
