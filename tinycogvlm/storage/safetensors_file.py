"""One .safetensors file: its tensors, read when they are used, and a new file written.

The format (https://github.com/huggingface/safetensors): 8 bytes n, little endian; n bytes of JSON
{name: {"dtype", "shape", "data_offsets": [start, end]}}; then the tensors, end to end. The safetensors package reads
and checks the header. The numbers we read ourselves: the package maps the file into memory, where every page that was
read stays, and a file that is cut short ends the process.
"""
import json
import math
import os
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..nn.arrays import bfloat16, to_numpy
from .atomic import replacing
from .reading import POINTER, open_file, short

# In the package's order, by which files are laid out.
DTYPES = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "F16": "float16",
          "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64", "F64": "float64",
          "I64": "int64", "U64": "uint64"}
FLOATS = ("F16", "BF16", "F32", "F64")
WIDER = {"F16": "BF16 or F32", "BF16": "F32", "F32": "F64"}
MAX_HEADER = 100_000_000                                        # bytes, the package's limit
UNKNOWN = f"dtype {{}}, which cannot be read here; one of {', '.join(DTYPES)} can"


def numpy_dtype(code):
    return bfloat16() if code == "BF16" else np.dtype(DTYPES[code])


class File:
    """A file kept open, to be read by several threads, and by a process and its forks, at once."""

    def __init__(self, path):
        self.path, self._lock = Path(path), threading.Lock()
        self._file = open_file(path)
        weakref.finalize(self, self._file.close)
        self.size, self._changed = self._state()

    def _state(self):
        found = os.fstat(self._file.fileno())
        return found.st_size, int(found.st_mtime)

    def head(self, count):
        """The first bytes of the file"""
        found = bytearray(min(count, self.size))
        self.read(0, found)
        return bytes(found)

    def read(self, offset, buffer):
        """Fill a buffer of bytes from byte `offset` of the file on."""
        rest = memoryview(buffer)
        try:
            while rest:
                count = self._read(offset, rest)
                if not count or self._state() != (self.size, self._changed):
                    raise UserError(f"{self.path}: was changed on the disk while it was in use; load it again")
                offset, rest = offset + count, rest[count:]
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error})") from None

    def _read(self, offset, into):
        if hasattr(os, "preadv"):                               # needs no position, which forks would share
            return os.preadv(self._file.fileno(), [into], offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.readinto(into)


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of a file. Its numbers are read from the disk whenever they are asked for."""
    name: str
    dtype: str                                                  # "F32", "BF16", ...
    shape: tuple
    file: File = field(repr=False)
    offset: int                                                 # bytes from the start of the file

    @property
    def path(self):
        return self.file.path

    @property
    def floating(self):
        return self.dtype in FLOATS

    @property
    def nbytes(self):
        return math.prod(self.shape) * numpy_dtype(self.dtype).itemsize

    def numpy(self):
        """A new array in the file's own dtype; bfloat16 is nn.arrays.bfloat16."""
        return self[...]

    def __getitem__(self, rows):
        """`numpy()[rows]` for ..., a slice or row numbers; nothing but these rows is read."""
        if rows is ...:
            return self._filled(self.shape, 0)
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(self.shape[0])
            return self._filled((max(0, stop - start), *self.shape[1:]), start)
        numbers = np.arange(self.shape[0])[rows]
        once, places = np.unique(numbers, return_inverse=True)
        found = np.empty((len(once), *self.shape[1:]), numpy_dtype(self.dtype))
        for i, number in enumerate(once):
            found[i] = self._filled(self.shape[1:], int(number))
        return found[places.reshape(numbers.shape)]

    def _filled(self, shape, start):
        """An array of this shape, of the numbers from row `start` on"""
        array = np.empty(shape, numpy_dtype(self.dtype))
        offset = self.offset + start * math.prod(self.shape[1:]) * array.itemsize
        self.file.read(offset, array.reshape(-1).view(np.uint8))
        return array


def read_header(path):
    """{name: Tensor} of one file in the order of the data. Raises UserError naming the file and the tensor at fault."""
    from safetensors import SafetensorError, safe_open
    file = File(path)
    start = file.head(9)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > MAX_HEADER:
        raise UserError(f"{path}: {_foreign(start)}")
    if 8 + length > file.size:
        raise UserError(f"{path}: truncated: {file.size} bytes, which is less than its header of {length}")
    try:
        with safe_open(path, "numpy") as opened:
            found = {name: opened.get_slice(name) for name in opened.offset_keys()}
            infos = {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in found.items()}
    except SafetensorError as error:
        said = str(error).removeprefix("Error while deserializing header: ")
        known = length < 10_000_000 and "duplicate field" not in said
        fault = _fault(file.head(8 + length)[8:], 8 + length, file.size) if known else None
        raise UserError(f"{path}: {fault or f'the safetensors package cannot read it: {short(said)}'}") from None
    tensors, offset = {}, 8 + length
    for name, (dtype, shape) in infos.items():
        if dtype not in DTYPES:
            raise UserError(f"{path}: tensor {short(name)} has {UNKNOWN.format(dtype)}")
        if len(shape) > 32 or math.prod(n or 1 for n in shape) * 8 >= 2 ** 63:
            raise UserError(f"{path}: tensor {short(name)} has a shape that NumPy cannot hold: {short(shape)}")
        tensors[name] = Tensor(name, dtype, shape, file, offset)
        offset += tensors[name].nbytes                          # no gaps: the package has made sure of that
    return tensors


def _foreign(start):
    """What a file is that does not begin with the length of a header."""
    if start.startswith(POINTER[:9]):
        return "a Git LFS pointer, not the weights; fetch them with `git lfs pull`"
    if start.startswith((b"PK\3\4", b"\x80\2")):
        return "a PyTorch file; convert it to safetensors first"
    if start.lstrip().startswith(b"<"):
        return "not a safetensors file but a web page; the download went wrong"
    return f"not a safetensors file (no header of at most {MAX_HEADER} bytes)"


def _fault(header, base, size):
    """What is wrong with a header that the package refuses, naming the tensor; None if it is none of these.

    base, size: bytes of the file before the data, and in all.
    """
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError) as error:
        return f"the header is not valid JSON ({error})"
    if not isinstance(entries, dict):
        return "the header is not a JSON object"
    metadata = entries.pop("__metadata__", None)
    if metadata is not None and not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        return "__metadata__ must map strings to strings"
    for name, info in entries.items():
        if not isinstance(info, dict) or not {"dtype", "shape", "data_offsets"} <= info.keys():
            return f"tensor {short(name)} must have dtype, shape and data_offsets"
        if not isinstance(info["dtype"], str) or info["dtype"] not in DTYPES:
            return f"tensor {short(name)} has {UNKNOWN.format(short(info['dtype']))}"
        for key in ("shape", "data_offsets"):
            if not isinstance(info[key], list) or any(type(n) is not int or n < 0 for n in info[key]):
                return f"tensor {short(name)}: {key} is not a list of whole numbers of 0 or more"
        if len(info["data_offsets"]) != 2:
            return f"tensor {short(name)}: data_offsets must be two numbers"
    end = 0
    for name, info in sorted(entries.items(), key=lambda entry: entry[1]["data_offsets"]):
        tensor, (start, stop) = f"tensor {short(name)}", info["data_offsets"]
        if start != end:
            return f"{tensor} lies at bytes {start} to {stop} of the data, but the one before it ends at {end}"
        nbytes = numpy_dtype(info["dtype"]).itemsize
        for extent in info["shape"]:
            nbytes = min(nbytes * extent, 2 ** 64)              # the package's limit
        if nbytes == 2 ** 64:
            return f"{tensor} has the impossible shape {short(info['shape'])}"
        if nbytes != stop - start:
            return (f"{tensor} of dtype {info['dtype']} and shape {short(tuple(info['shape']))} cannot fill "
                    f"{stop - start} bytes")
        if base + stop > size:
            return f"{tensor} ends at byte {base + stop}, but the file is truncated to {size}"
        end = stop
    return f"{size} bytes long, but its tensors end at byte {base + end}" if base + end != size else None


def write_safetensors(path, tensors, dtype=None):
    """Write {name: array or Tensor} to `path`: the bytes that the safetensors package writes, and all or nothing.

    dtype: "F32", "F16", "BF16" or "F64" for every floating-point tensor; None keeps what each has.
    """
    with replacing(path) as file:
        write_tensors(file, tensors, dtype)


def write_tensors(file, tensors, dtype=None):
    """The contents of a .safetensors file, into an open one; a tensor at a time is in memory."""
    codes = {name: dtype_after(tensor, dtype) for name, tensor in tensors.items()}
    order = list(DTYPES)
    names = sorted(tensors, key=lambda name: (-order.index(codes[name]), name))
    if "__metadata__" in tensors:
        raise UserError("no tensor can have the name __metadata__")
    header, end = {"__metadata__": {"format": "pt"}}, 0         # the original's loader asks for this format
    for name in names:
        start, end = end, end + nbytes_after(tensors[name], dtype)
        header[name] = {"dtype": codes[name], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)                             # so that the arrays are aligned in memory
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        array = np.ascontiguousarray(_encoded(tensors[name], name, codes[name]))
        file.write(array.reshape(-1).view(np.uint8))


def dtype_after(tensor, dtype=None):
    """The safetensors dtype in which `tensor` is written: `dtype` if that is given and the tensor is floating-point."""
    if dtype not in (None, *FLOATS):
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(FLOATS)}")
    if isinstance(tensor, Tensor):
        code = tensor.dtype
    else:
        code = next((code for code, name in DTYPES.items() if name == np.dtype(tensor.dtype).name), None)
        if code is None:
            raise UserError(f"safetensors files cannot hold the dtype {tensor.dtype}")
    return dtype if dtype and code in FLOATS else code


def nbytes_after(tensor, dtype=None):
    return math.prod(tensor.shape) * numpy_dtype(dtype_after(tensor, dtype)).itemsize


def _encoded(tensor, name, code):
    """The array that is written for a tensor in the dtype `code`; UserError if finite numbers would become infinite."""
    array = tensor.numpy() if isinstance(tensor, Tensor) else to_numpy(tensor)
    if array.dtype == numpy_dtype(code):
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        encoded = array.astype(numpy_dtype(code))
    lost = np.isinf(encoded) & np.isfinite(array) if code in FLOATS else False
    if np.any(lost):
        raise UserError(f"tensor {short(name)} holds {array[lost][0]:.3g}, which is too large for {code}; "
                        f"{WIDER[code]} can hold it")
    return encoded
