"""One .safetensors file: its header read and checked, its tensors as arrays over the mapped file, a new one written.

The format (https://github.com/huggingface/safetensors): 8 bytes n, little endian; n bytes of JSON
{name: {"dtype", "shape", "data_offsets": [start, end]}}; then the tensors, end to end. We read it ourselves because the
package's NumPy side knows no BF16; what is accepted is what the package accepts, to the letter.
"""
import json
import math
import mmap
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..nn.arrays import round_to, to_numpy

# In the package's order, by which files are laid out. BF16, the upper half of a float32, is held as its bits.
DTYPES = {"BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "BF16": "<u2", "I32": "<i4",
          "U32": "<u4", "F32": "<f4", "C64": "<c8", "F64": "<f8", "I64": "<i8", "U64": "<u8"}
FOREIGN = "F4 F6_E2M3 F6_E3M2 F8_E5M2 F8_E4M3 F8_E8M0 F8_E5M2FNUZ F8_E4M3FNUZ".split()      # NumPy has no such type
MAX_HEADER = 100_000_000                                        # bytes; these two limits are the package's
MAX_DEPTH = 127                                                 # objects and arrays inside one another


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of a file: `stored` lies over the mapped file and is read from disk when it is used."""
    name: str
    dtype: str                                                  # "F32", "BF16", ...
    stored: np.ndarray = field(repr=False)                      # read-only; BF16 as uint16
    path: Path
    offset: int                                                 # bytes from the start of the file

    @property
    def shape(self):
        return self.stored.shape

    @property
    def nbytes(self):
        return self.stored.nbytes

    def __getitem__(self, rows):
        """`numpy()[rows]`, read-only; nothing but these rows is read. A view of the file, or a float32 copy of BF16."""
        array = np.asarray(self.stored[rows])
        if self.dtype == "BF16":
            bits = array.astype(np.uint32)
            bits <<= np.uint32(16)
            array = bits.view(np.float32)
        elif not array.flags.aligned:                           # the header's length is no multiple of 8
            array = array.copy()
        array.flags.writeable = False
        return array

    def numpy(self):
        return self[...]

    def release(self):
        """Tell the system that these pages of the file can leave memory; they are read again if used again."""
        if self.nbytes and hasattr(mmap, "MADV_DONTNEED"):
            start = self.offset // mmap.PAGESIZE * mmap.PAGESIZE
            self.stored.base.madvise(mmap.MADV_DONTNEED, start, self.offset + self.nbytes - start)


def read_header(path):
    """{name: Tensor} of one file in the order of the data. Raises UserError naming the file and the tensor at fault."""
    path = Path(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):             # to open a pipe would wait for ever
            raise UserError(f"{path}: is not a file")
        with open(path, "rb") as file:
            size, start = os.fstat(file.fileno()).st_size, file.read(8)
            if start == b"version ":
                raise UserError(f"{path}: a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
            if start[:4] == b"PK\3\4" or start[:2] == b"\x80\2":
                raise UserError(f"{path}: a PyTorch file; convert it to safetensors first")
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > MAX_HEADER:
                raise UserError(f"{path}: not a safetensors file (no header of at most {MAX_HEADER} bytes)")
            if 8 + length > size:
                raise UserError(f"{path}: truncated: {size} bytes, which is less than its header of {length}")
            header = file.read(length)
            data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        entries = parse_json(header)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: the header is not valid JSON ({error})") from None
    return _tensors(entries, data, 8 + length, path)


def _tensors(entries, data, base, path):
    """The tensors that `entries` of the header place in `data` from `base` on: no hole, no overlap, no rest."""
    if not isinstance(entries, Object):
        raise UserError(f"{path}: the header is not a JSON object")
    if [name for name, _ in entries].count("__metadata__") > 1:
        raise UserError(f"{path}: the header holds __metadata__ twice")
    infos = {}                                                  # of a name that comes twice the last counts
    for name, info in entries:
        if name == "__metadata__":
            if info is not None and not (isinstance(info, Object) and all(isinstance(text, str) for _, text in info)):
                raise UserError(f"{path}: __metadata__ must map strings to strings")
        else:
            infos[name] = _info(info, f"{path}: tensor {_short(name)}")

    tensors, end = {}, 0
    for name, (dtype, shape, (start, stop)) in sorted(infos.items(), key=lambda item: item[1][2]):
        where = f"{path}: tensor {_short(name)}"
        if start != end or stop < start:
            raise UserError(f"{where} lies at bytes {start} to {stop} of the data, but the one before it ends at {end}")
        if dtype in FOREIGN:
            raise UserError(f"{where} has dtype {dtype}, which cannot be read here; one of {', '.join(DTYPES)} can")
        count = 1
        for extent in shape:
            count *= extent
            if count >= 2 ** 64:                                # the package's arithmetic, even if a 0 is to follow
                raise UserError(f"{where} has the impossible shape {_short(shape)}")
        if count * np.dtype(DTYPES[dtype]).itemsize != stop - start:
            raise UserError(f"{where} of dtype {dtype} and shape {_short(shape)} cannot fill {stop - start} bytes")
        if base + stop > len(data):
            raise UserError(f"{where} ends at byte {base + stop}, but the file is truncated to {len(data)}")
        try:
            stored = np.ndarray(shape, DTYPES[dtype], data, base + start)
        except (ValueError, OverflowError):                     # too many axes, or too long beside a 0
            raise UserError(f"{where} has a shape that NumPy cannot hold: {_short(shape)}") from None
        tensors[name], end = Tensor(name, dtype, stored, path, base + start), stop
    if base + end != len(data):
        raise UserError(f"{path}: {len(data)} bytes long, but its tensors end at byte {base + end}")
    return tensors


def _info(info, where):
    """dtype, shape, (start, stop) of one header entry, in every spelling the package takes."""
    fields = ("dtype", "shape", "data_offsets")
    if isinstance(info, Object):
        known = [pair for pair in info if pair[0] in fields]
        if len(known) != 3 or len(dict(known)) != 3:
            raise UserError(f"{where} must have dtype, shape and data_offsets, once each")
        info = [dict(known)[field] for field in fields]
    elif not isinstance(info, list) or len(info) != 3:
        raise UserError(f"{where} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = info
    if isinstance(dtype, Object) and len(dtype) == 1 and dtype[0][1] is None:
        dtype = dtype[0][0]                                     # {"F32": null} is "F32"
    if not isinstance(dtype, str) or dtype not in (*DTYPES, *FOREIGN):
        raise UserError(f"{where} has the unknown dtype {_short(dtype)}")
    for key, numbers in (("shape", shape), ("data_offsets", offsets)):
        if type(numbers) is not list or not all(type(number) is int for number in numbers):
            raise UserError(f"{where}: {key} is not a list of whole numbers of 0 or more")
    if len(offsets) != 2:
        raise UserError(f"{where}: data_offsets must be two numbers")
    return dtype, tuple(shape), tuple(offsets)


def _short(value):
    """repr(value) for a message, not longer than a line or two, whatever a damaged header holds."""
    return text if len(text := repr(value)) < 200 else text[:200] + "..."


class Object(list):
    """A JSON object as its (key, value) pairs: a dict would hide keys that come twice."""


def parse_json(data):
    """JSON as strictly as the package's parser takes it; objects become Object. Raises ValueError or RecursionError."""
    def whole(text):
        return int(text) if text[0] != "-" and len(text) <= 20 and int(text) < 2 ** 64 else number(text)

    def number(text):
        if math.isinf(value := float(text)):
            raise ValueError("number out of range")
        return value

    def constant(text):
        raise ValueError(f"{text} is no JSON")

    def check(value, depth):
        if isinstance(value, str):
            value.encode()                                      # half of a surrogate pair cannot be encoded
        elif isinstance(value, (list, tuple)):
            depth += isinstance(value, list)                    # not for a pair of an Object
            if depth > MAX_DEPTH:
                raise ValueError("nested too deeply")
            for part in value:
                check(part, depth)

    value = json.loads(data.decode(), object_pairs_hook=Object, parse_int=whole, parse_float=number,
                       parse_constant=constant)
    check(value, 0)
    return value


def write_safetensors(path, tensors, dtype=None):
    """Write {name: array or Tensor} to `path`: the bytes that the safetensors package writes, and all or nothing.

    dtype: "F32", "F16", "BF16" or "F64" for every floating-point tensor; None keeps what each has. The file grows under
    a temporary name and takes the place of an old one when it is complete, so tensors may lie over the old one; Windows
    does not allow that and gets a UserError.
    """
    path = Path(path)
    replace({path: write_temporary(path, tensors, dtype)})


def write_temporary(path, tensors, dtype=None):
    """Write the file that is to be `path` beside it, completely and to the disk; returns its temporary name."""
    codes = {name: dtype_after(tensor, dtype) for name, tensor in tensors.items()}
    order = list(DTYPES)
    names = sorted(tensors, key=lambda name: (-order.index(codes[name]), name))
    if "__metadata__" in tensors:
        raise UserError(f"{path}: no tensor can have the name __metadata__")
    header, end = {"__metadata__": {"format": "pt"}}, 0         # the original's loader asks for this format
    for name in names:
        start, end = end, end + nbytes_after(tensors[name], dtype)
        header[name] = {"dtype": codes[name], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)                             # so that the arrays are aligned in memory

    def write(file):
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            array = np.ascontiguousarray(_encode(tensors[name], codes[name]))
            file.write(array.reshape(-1).view(np.uint8))
    return temporary_file(path, write)


def temporary_file(path, write):
    """Call `write(file)` on a new file beside `path` and bring it to the disk; nothing remains of it on failure."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
        raise
    return temporary


def replace(temporaries, before=lambda: None):
    """{path: temporary name} take their places in this order; `before()` runs when it is known that they can."""
    try:
        for path in temporaries:
            if path.exists():
                os.rename(path, path)       # changes nothing, but fails on Windows where the file is open or mapped
        before()
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be replaced ({error.strerror or error}); if it is in use, perhaps as the very "
                        "weights that are being saved, save to another folder") from None
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def dtype_after(tensor, dtype=None):
    """The safetensors dtype in which `tensor` is written: `dtype` if that is given and the tensor is floating-point."""
    if dtype not in (None, "F16", "BF16", "F32", "F64"):
        raise UserError(f"dtype {dtype!r} is not one of F16, BF16, F32, F64")
    if isinstance(tensor, Tensor):
        code = tensor.dtype
    else:
        kind = np.dtype(tensor.dtype).newbyteorder("=")
        code = next((code for code, known in DTYPES.items() if np.dtype(known) == kind and code != "BF16"), None)
        if code is None:
            raise UserError(f"safetensors files cannot hold the dtype {tensor.dtype}")
    return dtype if dtype and code in ("F16", "BF16", "F32", "F64") else code


def nbytes_after(tensor, dtype=None):
    return math.prod(tensor.shape) * np.dtype(DTYPES[dtype_after(tensor, dtype)]).itemsize


def _encode(tensor, code):
    """The array whose bytes are written for `tensor` in the dtype `code`; BF16 as its 16 bits."""
    if isinstance(tensor, Tensor):
        if type(tensor) is Tensor and tensor.dtype == code:     # a subclass may make other numbers of what is stored
            return tensor.stored
        tensor = tensor.numpy()
    array = to_numpy(tensor)
    if code != "BF16":
        return array.astype(DTYPES[code], copy=False)
    return (round_to(array.astype(np.float32), "bfloat16").view(np.uint32) >> 16).astype("<u2")
