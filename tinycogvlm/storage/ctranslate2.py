"""A Whisper in CTranslate2's model.bin, under Hugging Face's names. (https://github.com/OpenNMT/CTranslate2)

The file: u32 version, the name of the model's kind, u32 revision, u32 number of variables; each a name, u8 number of
axes, u32 lengths, u8 dtype, u32 bytes, the numbers; then aliases. A name is u16 length and characters that end with 0.
Q, K and V are one matrix, and so are K and V of the attention to the sound: their rows are told apart here.
"""
import math
import struct
from pathlib import Path

from ..errors import UserError
from .reading import short
from .safetensors_file import File, Tensor, numpy_dtype

DTYPES = {0: "F32", 1: "I8", 2: "I16", 3: "I32", 4: "F16", 5: "BF16"}
VERSIONS = 5, 6
ATTENTION = {"self_attention": ("self_attn", (("q", "k", "v"), ("out",))),          # its linear_0, linear_1, ...
             "attention": ("encoder_attn", (("q",), ("k", "v"), ("out",)))}
WHOLE = {"conv1": "conv1", "conv2": "conv2", "position_encodings/encodings": "embed_positions.weight",
         "embeddings/weight": "embed_tokens.weight", "ffn/linear_0": "fc1", "ffn/linear_1": "fc2",
         "ffn/layer_norm": "final_layer_norm", "self_attention/layer_norm": "self_attn_layer_norm",
         "attention/layer_norm": "encoder_attn_layer_norm", "layer_norm": "layer_norm"}
KINDS = {"gamma": "weight", "beta": "bias"}


class Tensors(dict):
    """{Hugging Face's name: Tensor}; heads: {"encoder": heads, "decoder": heads}"""
    heads = None


def whisper(folder):
    """The Tensors of the model.bin in a folder. Raises UserError for a damaged one, or another model's."""
    path = Path(folder) / "model.bin"
    file = File(path)
    tensors = Tensors()
    try:
        stored = variables(file)
        tensors.heads = {tower: value_of(file, stored[f"{tower}/num_heads"]) for tower in ("encoder", "decoder")}
        for name, (dtype, shape, offset) in stored.items():
            for new, first, rows in parts(name, shape):
                row = math.prod(shape[1:]) * numpy_dtype(dtype).itemsize
                tensors[new] = Tensor(new, dtype, (rows, *shape[1:]), file, offset + first * row)
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged, or not a Whisper of CTranslate2's ({error})") from None
    if any(not tensor.floating for tensor in tensors.values()):
        raise UserError(f"{path}: is quantised to whole numbers, which cannot be read here; convert it to float16")
    return tensors


def found(folder):
    """Whether the model.bin of a folder, if there is one, is CTranslate2's: PyTorch's may have the same name."""
    path = Path(folder) / "model.bin"
    return path.is_file() and b"Spec" in File(path).head(64)


def variables(file):
    """{name: (dtype, shape, offset)} of a model.bin"""
    place = 0

    def take(form):
        nonlocal place
        size = struct.calcsize(form)
        if place + size > file.size:
            raise struct.error("it ends too soon")
        buffer = bytearray(size)
        file.read(place, buffer)
        place += size
        return struct.unpack(form, buffer)

    def word():
        return take(f"<{take('<H')[0]}s")[0].rstrip(b"\0").decode()
    version, kind, _ = take("<I")[0], word(), take("<I")
    if version not in VERSIONS or kind != "WhisperSpec":
        raise UserError(f"{file.path}: version {version} of {short(kind)}, not version 5 or 6 of a WhisperSpec")
    found = {}
    for _ in range(take("<I")[0]):
        name, axes = word(), take("<B")[0]
        shape, (dtype, size) = take(f"<{axes}I"), take("<BI")
        if place + size > file.size:
            raise struct.error("it ends too soon")
        found[name] = DTYPES[dtype], shape, place
        place += size
    return found


def value_of(file, variable):
    """A small whole number"""
    dtype, _, offset = variable
    buffer = bytearray(numpy_dtype(dtype).itemsize)
    file.read(offset, buffer)
    return int.from_bytes(buffer, "little")


def parts(name, shape):
    """(new name, first row, rows) of the tensors that a variable holds; the bias of keys is zero and left out"""
    tower, _, rest = name.partition("/")
    layer = ""
    if rest.startswith("layer_") and not rest.startswith("layer_norm"):
        number, _, rest = rest.partition("/")
        layer = f"layers.{number.removeprefix('layer_')}."
    path = f"model.{tower}.{layer}"
    group, _, kind = rest.rpartition("/")
    kind = KINDS.get(kind, kind)
    module, _, linear = group.partition("/linear_")
    if module in ATTENTION and linear:
        attention, projections = ATTENTION[module]
        letters = projections[int(linear)]
        rows = shape[0] // len(letters)
        for i, letter in enumerate(letters):
            if (letter, kind) != ("k", "bias"):
                yield f"{path}{attention}.{letter}_proj.{kind}", i * rows, rows
    elif rest in WHOLE:
        yield path + WHOLE[rest], 0, shape[0]
    elif group in WHOLE:
        yield f"{path}{WHOLE[group]}.{kind}", 0, shape[0]
