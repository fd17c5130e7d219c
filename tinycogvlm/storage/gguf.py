"""A .gguf file, as llama.cpp ships a language model: one file, read as if it were a folder of Hugging Face's.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little endian: "GGUF", u32 version, u64 number of
tensors, u64 number of metadata; these, each a name, a type and a value; for each tensor a name, its extents (the last
axis first), a type and where it begins; then the tensors. The header is read here, in a fraction of a second; the package's
own reader, which makes an array of every word of the vocabulary, takes more than a hundred times as long. What the blocks of a
quantised type mean is known to the package gguf.
"""
import math
import os
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import UserError
from .reading import open_file, short
from .safetensors_file import File

MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), 32
CHUNK = 1 << 18                                                 # numbers that are dequantised at a time
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}     # of struct
STRING, ARRAY = 8, 9
NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
         "output.weight": "lm_head.weight", "rope_freqs.weight": "model.layers.0.self_attn.rotary_emb.inv_freq"}
BLOCK_NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
               "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
               "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
FIELDS = {"hidden_size": "embedding_length", "intermediate_size": "feed_forward_length",
          "num_hidden_layers": "block_count", "num_attention_heads": "attention.head_count",
          "num_key_value_heads": "attention.head_count_kv", "max_position_embeddings": "context_length",
          "rms_norm_eps": "attention.layer_norm_rms_epsilon", "rope_theta": "rope.freq_base",
          "head_dim": "attention.key_length"}


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of the file, (..., columns) as in NumPy; its numbers come in float32, whatever they are stored as.

    heads: of a matrix of queries or keys. llama.cpp turns neighbours, 2i and 2i + 1, by one angle; Hugging Face and we
    turn i and i + d/2. So its rows are stored in another order within each head, and are put back when they are read.
    base: of the rotary frequencies. The file holds the vector that they are divided by (Llama 3.1 and later); what is
    read are the frequencies.
    """
    name: str
    dtype: str                                                  # "F32", "Q4_1", ...
    shape: tuple
    file: File = field(repr=False)
    offset: int                                                 # bytes from the start of the file
    heads: int = 0
    base: float | None = None
    floating = True

    @property
    def path(self):
        return self.file.path

    @property
    def row_bytes(self):
        numbers, size = quantisation(self.dtype, self.path)
        return self.shape[-1] // numbers * size

    @property
    def nbytes(self):
        return math.prod(self.shape[:-1]) * self.row_bytes

    def numpy(self):
        return self[...]

    def __getitem__(self, rows):
        """`numpy()[rows]` for ..., a slice or row numbers, in float32"""
        if len(self.shape) == 1:
            found = self._numbers(self._rows(...))[0]
            if self.base:
                found = (1 / (self.base ** (np.arange(len(found)) / len(found)) * found)).astype(np.float32)
            return found[rows]
        if self.heads:
            rows = _put_back(self.shape[0], self.heads)[rows]
        return self._numbers(self._rows(rows))

    def _rows(self, rows):
        """The bytes of some rows of a matrix (n, bytes); of a slice, and of all, in one piece."""
        count = math.prod(self.shape[:-1])
        if rows is ... or isinstance(rows, slice):
            start, stop, _ = (slice(None) if rows is ... else rows).indices(count)
            found = np.empty((max(0, stop - start), self.row_bytes), np.uint8)
            self.file.read(self.offset + start * self.row_bytes, found.reshape(-1))
            return found
        rows = np.asarray(rows)
        found = np.empty((rows.size, self.row_bytes), np.uint8)
        for into, row in zip(found, rows.reshape(-1).tolist()):
            self.file.read(self.offset + row * self.row_bytes, into)
        return found.reshape(*rows.shape, self.row_bytes)

    def _numbers(self, content):
        """What the bytes of rows (..., bytes) say -> (..., columns) float32"""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize
        found, kind = np.empty((*content.shape[:-1], self.shape[-1]), np.float32), GGMLQuantizationType[self.dtype]
        rows, into = content.reshape(-1, self.row_bytes), found.reshape(-1, self.shape[-1])
        many = max(1, CHUNK // self.shape[-1])                  # as one long row, which the package reads in one piece
        try:
            for start in range(0, len(rows), many):
                part = rows[start:start + many].reshape(1, -1)
                into[start:start + many] = dequantize(part, kind).reshape(-1, self.shape[-1])
            return found
        except NotImplementedError:
            raise UserError(f"{self.path}: tensor {short(self.name)} is of the type {self.dtype}, which the package "
                            "gguf cannot read; take a file of another type, such as Q8_0 or Q4_K_M") from None


def _put_back(count, heads):
    """Row numbers: for each row of a half-split head its place in the interleaved one       -> (count,)"""
    return np.arange(count).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def read(path):
    """(metadata {name: value}, tensors {Hugging Face's name: Tensor}) of a file of the architecture llama.

    Raises UserError, one sentence naming the file: not a .gguf file, cut short, of another architecture.
    """
    state = os.stat(path) if os.path.exists(path) else None
    return _read(Path(path), state and (state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=2)
def _read(path, state):
    """read(path), remembered as long as the file is as it was"""
    reader = _Reader(path)
    metadata, infos = reader.header()
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise UserError(f"{path}: a model of the architecture {short(architecture)}; of .gguf files only those of the "
                        "architecture 'llama' can be read, such as SmolLM2, TinyLlama and Llama 3")
    for key, says in (("split.count", "one of {} parts of a model; llama-gguf-split --merge makes one file of them"),
                      ("llama.expert_count", "a mixture of {} experts, which cannot be read here")):
        if _whole(metadata, key) > 1:
            raise UserError(f"{path}: {says.format(metadata[key])}")
    file, tensors = File(path), {}
    heads = {"attn_q": _whole(metadata, "llama.attention.head_count")}
    heads["attn_k"] = _whole(metadata, "llama.attention.head_count_kv") or heads["attn_q"]
    for name, (shape, dtype, offset) in infos.items():
        begin, _, last = name.rpartition(".")
        block, _, part = begin.rpartition(".")
        ours = NAMES.get(name, name)
        if block.startswith("blk.") and part in BLOCK_NAMES:
            ours = f"model.layers.{block.removeprefix('blk.')}.{BLOCK_NAMES[part]}.{last}"
        base = metadata.get("llama.rope.freq_base", 10000.0) if name == "rope_freqs.weight" else None
        found = Tensor(name, dtype, shape, file, offset, heads.get(part, 0), base)
        if not shape or shape[-1] % quantisation(dtype, path)[0] or (found.heads and shape[0] % (2 * found.heads)):
            raise UserError(f"{path}: tensor {short(name)} of the type {dtype} cannot have the shape {short(shape)}")
        if offset + found.nbytes > file.size:
            raise UserError(f"{path}: tensor {short(name)} ends at byte {offset + found.nbytes}, but the file is "
                            f"truncated to {file.size}")
        tensors[ours] = found
    return metadata, tensors


def _whole(metadata, key):
    """A whole number of the metadata; 0 where there is none, which Config then reports."""
    value = metadata.get(key)
    return value if type(value) is int else 0


def fields(path):
    """What a config.json would say of the model in the file"""
    metadata, tensors = read(path)
    found = {name: metadata.get(f"llama.{key}") for name, key in FIELDS.items()}
    ids = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "eom", "padding")}
    ends = [token for token in dict.fromkeys((ids["eos"], ids["eot"], ids["eom"])) if token is not None]
    table = tensors.get("model.embed_tokens.weight")
    scaling = metadata.get("llama.rope.scaling.type", "none")
    known = {"architectures": ["LlamaForCausalLM"], **found, "vocab_size": table.shape[0] if table else None,
             "bos_token_id": ids["bos"], "eos_token_id": ends or None, "pad_token_id": ids["padding"],
             "tie_word_embeddings": "lm_head.weight" not in tensors,
             "attention_bias": any(name.endswith("_proj.bias") for name in tensors),
             "rope_scaling": None if scaling == "none" else {"rope_type": scaling}}
    return {name: value for name, value in known.items() if value is not None}


def quantisation(dtype, path):
    """(numbers, bytes) of a block of a type"""
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError:
        raise UserError(f"{path}: to read it takes the package gguf: pip install 'tinycogvlm[real]'") from None
    kind = GGMLQuantizationType.__members__.get(dtype)
    if kind not in GGML_QUANT_SIZES:
        raise UserError(f"{path}: holds numbers of the unknown type {dtype}; a newer package gguf may know it")
    return GGML_QUANT_SIZES[kind]


def type_name(number, path):
    """The name of a type of numbers, such as "Q4_1"; of an unknown one its number."""
    quantisation("F32", path)                                   # the package is there, then
    from gguf import GGMLQuantizationType
    return next((kind.name for kind in GGMLQuantizationType if kind == number), str(number))


class _Reader:
    """The header of a file, read from its start"""

    def __init__(self, path):
        self.path, self.file = path, open_file(path, "; name a .gguf file")
        self.size = os.fstat(self.file.fileno()).st_size

    def header(self):
        """(metadata {name: value}, {tensor's name: (shape, type, offset in the file)})"""
        with self.file:
            start = self.file.read(4)
            if start != MAGIC:
                raise UserError(f"{self.path}: not a .gguf file, which begins with {MAGIC!r}, not with {short(start)}")
            [version] = self.numbers("I")
            if version not in VERSIONS:
                raise UserError(f"{self.path}: of version {version} of the format; {VERSIONS[0]} and {VERSIONS[1]} can "
                                "be read")
            tensors, entries = self.numbers("Q", 2)
            metadata = dict(self.entry() for _ in range(entries))
            infos = [self.info() for _ in range(tensors)]
            align = metadata.get("general.alignment", ALIGNMENT)
            if type(align) is not int or align < 1:
                raise UserError(f"{self.path}: general.alignment is {short(align)}, not a number of bytes")
            data = -(-self.file.tell() // align) * align
        return metadata, {name: (shape, dtype, data + offset) for name, shape, dtype, offset in infos}

    def entry(self):
        name, [kind] = self.string(), self.numbers("I")
        return name, self.value(kind)

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind in NUMBERS:
            return self.numbers(NUMBERS[kind])[0]
        [inner], [count] = (self.numbers("I"), self.numbers("Q")) if kind == ARRAY else ([None], [0])
        if inner in NUMBERS:
            return list(self.numbers(NUMBERS[inner], count))
        if inner != STRING:
            raise UserError(f"{self.path}: damaged: metadata of the unknown type {kind if inner is None else inner}")
        return [self.string() for _ in range(count)]

    def info(self):
        name, [axes] = self.string(), self.numbers("I")
        shape = tuple(reversed(self.numbers("Q", axes)))
        [kind], [offset] = self.numbers("I"), self.numbers("Q")
        return name, shape, type_name(kind, self.path), offset

    def string(self):
        content = self.bytes(self.numbers("Q")[0])
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{self.path}: damaged: {short(content)} is not UTF-8 text") from None

    def numbers(self, code, count=1):
        return struct.unpack(f"<{count}{code}", self.bytes(count * struct.calcsize(code)))

    def bytes(self, count):
        if count > self.size - self.file.tell():
            raise UserError(f"{self.path}: truncated in its header, or damaged: it has {self.size} bytes")
        return self.file.read(count)
