"""A model's folder as Hugging Face ships it: its tensors in one safetensors file or in shards, read and saved."""
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..nn.tree import matches
from . import ctranslate2, gguf
from .atomic import Together
from .codes import kind_of
from .reading import read_json, short
from .safetensors_file import nbytes_after, read_header, write_tensors

INDEX = "model.safetensors.index.json"
FILES = "model.safetensors", INDEX, "weights.safetensors"       # a single file first, as in Hugging Face's own loader
QUANTISED = (".absmax", ".quant_", ".SCB", ".qweight", ".qzeros", ".weight_scale")      # bitsandbytes, GPTQ, AWQ, FP8


class Checkpoint(Mapping):
    """{name: Tensor} of a checkpoint. Only headers are read; Tensor.numpy() reads the numbers.

    path: a folder with model.safetensors, with shards and their model.safetensors.index.json, with weights.safetensors,
    or with a Whisper in CTranslate2's model.bin; or one .safetensors or .gguf file. files: the names that the first file
    of a folder may have, in order of preference. Raises UserError, one sentence naming the file and the tensor.
    """

    def __init__(self, path, files=FILES):
        path = Path(path)
        self.path = _find(path, files) if os.path.isdir(path) else path             # the file that messages name
        readers = {".json": _read_shards, ".gguf": lambda path: gguf.read(path)[1],
                   ".bin": lambda path: ctranslate2.whisper(path.parent)}
        self._tensors = readers.get(self.path.suffix, read_header)(self.path)

    def __getitem__(self, name):
        return self._tensors[name]

    def __iter__(self):
        return iter(self._tensors)

    def __len__(self):
        return len(self._tensors)

    def renamed(self, names):
        """The same checkpoint under other names, see `renamed` below"""
        found = object.__new__(Checkpoint)
        found.path = self.path
        try:
            found._tensors = renamed(self._tensors, names)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        return found

    def check(self, shapes, optional=(), codes=False, ignored=()):
        """Raise UserError unless the tensors are those of `shapes`, {name: shape}, and hold floating-point numbers.

        optional: patterns of the tensors that may be missing. codes: whether matrices may be stored as codes.py does.
        ignored: patterns of tensors that are not looked at.
        """
        missing = [n for n in shapes if n not in self._tensors and not matches(n, optional)]
        unexpected = [n for n in self._tensors if n not in shapes and not matches(n, ignored)]
        quantised = [n for n in unexpected if any(mark in n for mark in QUANTISED)]
        prefixes = {n.removesuffix(missing[0]) for n in unexpected if missing and n.endswith("." + missing[0])}
        if quantised:
            raise UserError(f"{self.path}: the weights are quantised (tensor {short(quantised[0])}), which cannot be "
                            "read here; take the unquantised repository, with --kernels --dtype int4 for less memory")
        if prefixes:
            raise UserError(f"{self.path}: the tensors' names begin with {short(prefixes.pop())}, which PEFT, "
                            "torch.compile or DataParallel put there; save the model that they wrap")
        if missing:
            raise UserError(f"{self.path}: {_list(missing)} missing")
        if unexpected:
            raise UserError(f"{self.path}: {_list(unexpected)} not part of the model that config.json describes")
        for name, tensor in self._tensors.items():
            if name not in shapes:
                continue
            kind = kind_of(tensor, shapes[name])
            if kind and codes:
                continue
            if kind:
                raise UserError(f"{tensor.path}: tensor {short(name)} is quantised to {kind}, which serves for answers "
                                "alone; take the folder that it was quantised from")
            if tensor.shape != tuple(shapes[name]):
                raise UserError(f"{tensor.path}: tensor {short(tensor.name)} has the shape {short(tensor.shape)}, but "
                                f"config.json makes it {tuple(shapes[name])}")
            if not tensor.floating:
                raise UserError(f"{tensor.path}: tensor {short(tensor.name)} holds {tensor.dtype}, not floating-point numbers")


@dataclass(frozen=True, eq=False)
class Stacked:
    """Matrices of one width as a single one: their rows, one below the other. Each is read when it is asked for."""
    name: str
    parts: tuple                                                # of Tensor

    path = property(lambda self: self.parts[0].path)
    shape = property(lambda self: (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:]))
    nbytes = property(lambda self: sum(part.nbytes for part in self.parts))
    floating = property(lambda self: all(part.floating for part in self.parts))
    dtype = property(lambda self: "/".join(dict.fromkeys(part.dtype for part in self.parts)))

    def numpy(self):
        return self[...]

    def __getitem__(self, rows):
        """`numpy()[rows]` for ... or a slice"""
        start, stop, _ = (slice(None) if rows is ... else rows).indices(self.shape[0])
        found, begin = [], 0
        for part in self.parts:
            end = begin + part.shape[0]
            found.append(part[max(0, start - begin):max(0, min(stop, end) - begin)])
            begin = end
        return np.concatenate(found)


def renamed(tensors, names):
    """{name: Tensor} under other names.

    names: {new name: the names of the tensors that are stacked there}. A tensor that it does not name keeps its name.
    Raises UserError for one that is missing, and for widths that differ.
    """
    gone = {old for olds in names.values() for old in olds}
    if missing := [old for old in gone if old not in tensors]:
        raise UserError(f"{_list(sorted(missing))} missing")
    found = {name: tensor for name, tensor in tensors.items() if name not in gone}
    for new, olds in names.items():
        parts = tuple(tensors[old] for old in olds)
        if len({part.shape[1:] for part in parts}) > 1:
            raise UserError(f"tensors {', '.join(map(short, olds))} have rows of different lengths")
        found[new] = parts[0] if len(parts) == 1 else Stacked(", ".join(olds), parts)
    return found


def _list(names):
    """The subject of a sentence: "tensor 'a' is", or "tensors 'a', 'b', 'c' and 4 more are\""""
    first, more = ", ".join(map(short, names[:3])), f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' * (len(names) > 1)} {first}{more} {'are' if len(names) > 1 else 'is'}"


def _find(folder, names):
    """The file to open first in a checkpoint folder: the first of `names` that is there"""
    for name in names:
        if os.path.exists(folder / name):
            return folder / name
    if ctranslate2.found(folder):
        return folder / "model.bin"
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise UserError(f"{folder}: holds PyTorch files only; convert them to safetensors first")
    raise UserError(f"{folder}: holds no {' and no '.join(names)}")


def _read_shards(index):
    """{name: Tensor} of the files that an index names, which must hold exactly the tensors it says.

    The index may name only files of its own folder, by their bare names. (Such a file may be a link: in Hugging Face's
    cache all are.)
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{index}: the object weight_map, from tensors to files, is missing")
    shards = {}                                                 # {file name: {tensor name: Tensor}}
    for name, file in weight_map.items():
        said = f"{index}: tensor {short(name)} is said to be in {short(file)}"
        if not isinstance(file, str) or not file or file in (".", "..") or set(file) & set('/\\:\0'):
            raise UserError(f"{said}, which is no file of this folder")
        if file not in shards:
            if not os.path.exists(index.parent / file):
                raise UserError(f"{said}, but there is no such file")
            shards[file] = read_header(index.parent / file)
        if name not in shards[file]:
            raise UserError(f"{said}, but it is not")
    for file, tensors in shards.items():
        for name in tensors:
            if weight_map.get(name) != file:
                there = f"in {short(weight_map[name])}" if name in weight_map else "nowhere"
                raise UserError(f"{index.parent / file}: holds tensor {short(name)}, but {index.name} has it {there}")
    return {name: shards[file][name] for name, file in weight_map.items()}


def refuse_used(folder):
    """UserError if a folder already holds a model, an adapter or a training's files, which another would destroy."""
    for pattern in ("*.safetensors", "*.index.json", "config.json", "adapter_config.json", "pytorch_model*.bin"):
        for found in Path(folder).glob(pattern):
            raise UserError(f"{folder}: already holds a model ({found.name}); write to a new folder")


def save(folder, tensors, config, dtype=None, max_shard_bytes=5e9, replace=False, more_fields=None):
    """Write config.json and {name: array or Tensor} as Hugging Face lays a checkpoint out.

    One model.safetensors; or, above `max_shard_bytes`, model-00001-of-00002.safetensors ... and an index. dtype as in
    write_safetensors. A folder that holds a model already is refused, unless `replace`: then the new files take their
    places together at the end. A reader finds the old checkpoint, the new one, or for a moment none, but never parts of
    both. Files of the old one are removed. more_fields: for config.json, beside those of the configuration.
    """
    folder = Path(folder)
    if not replace:
        refuse_used(folder)
    shards, room = [{}], max_shard_bytes
    for name, tensor in tensors.items():
        size = nbytes_after(tensor, dtype)
        if size > room and shards[-1]:
            shards.append({})
            room = max_shard_bytes
        shards[-1][name] = tensor
        room -= size

    index = folder / INDEX
    files = [folder / f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        files = [folder / "model.safetensors"]
    weight_map = {name: file.name for file, shard in zip(files, shards) for name in shard}
    total = sum(nbytes_after(tensor, dtype) for tensor in tensors.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None
    with Together() as changes:
        changes.write(folder / "config.json", json.dumps(config.to_dict() | (more_fields or {}), indent=2) + "\n")
        if len(shards) > 1:                                     # no old index may send a reader to new shards
            changes.remove(index)
        for file, shard in zip(files, shards):
            with changes.replacing(file) as opened:
                write_tensors(opened, shard, dtype)
        if len(shards) > 1:
            changes.write(index, json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2,
                                            sort_keys=True) + "\n")
        for old in [folder / "model.safetensors", index, *folder.glob("model-*-of-*.safetensors")]:
            if old not in files and (old != index or len(shards) == 1):
                changes.remove(old)
