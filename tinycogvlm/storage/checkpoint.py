"""The parameters of a model: a Hugging Face folder of safetensors files <-> arrays under the checkpoint's names."""
import json
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..nn.arrays import namespace, to_numpy
from .safetensors_file import (Object, Tensor, nbytes_after, parse_json, read_header, replace, temporary_file,
                               write_safetensors, write_temporary)

__all__ = ["Checkpoint", "Leaves", "Tensor", "read_header", "save", "write_safetensors"]
INDEX = "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"
BLOCK = re.compile(r"model\.(vision\.transformer\.)?layers\.\d+(?=\.)")
CHUNK = 1 << 28                                                 # bytes of a large tensor that are converted at a time


class Checkpoint(Mapping):
    """{name: Tensor} of a checkpoint. Only headers are read; Tensor.numpy() is an array over the mapped file.

    path: a folder with model.safetensors, with shards and their model.safetensors.index.json, or with
    weights.safetensors; or one .safetensors file. Raises UserError, one sentence naming the file and the tensor.
    """

    def __init__(self, path):
        path = Path(path)
        self.path = _find(path) if os.path.isdir(path) else path      # the file that messages name
        self._tensors = _read_shards(self.path) if self.path.suffix == ".json" else read_header(self.path)

    def __getitem__(self, name):
        return self._tensors[name]

    def __iter__(self):
        return iter(self._tensors)

    def __len__(self):
        return len(self._tensors)

    def check(self, shapes):
        """Raise UserError unless the tensors are those of `shapes`, {name: shape}, and hold floating-point numbers.

        `*.rotary_emb.inv_freq` may be missing: it can be computed.
        """
        missing = [n for n in shapes if n not in self._tensors and not n.endswith(".rotary_emb.inv_freq")]
        unexpected = [n for n in self._tensors if n not in shapes]
        if missing:
            raise UserError(f"{self.path}: {_list(missing)} missing")
        if unexpected:
            raise UserError(f"{self.path}: {_list(unexpected)} not part of the model that config.json describes")
        for name, tensor in self._tensors.items():
            if tensor.shape != tuple(shapes[name]):
                raise UserError(f"{tensor.path}: tensor {name} has the shape {tensor.shape}, but config.json makes it "
                                f"{tuple(shapes[name])}")
            if tensor.dtype not in ("F16", "BF16", "F32", "F64"):
                raise UserError(f"{tensor.path}: tensor {name} holds {tensor.dtype}, not floating-point numbers")


def _list(names):
    """'tensor a is', or 'tensors a, b, c and 4 more are'"""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' * (len(names) > 1)} {', '.join(names[:3])}{more} {'are' if len(names) > 1 else 'is'}"


def _find(folder):
    """The file of a checkpoint's folder to begin with. A single file comes first, as in Hugging Face's own loader."""
    for name in ("model.safetensors", INDEX, "weights.safetensors"):
        if os.path.exists(folder / name):
            return folder / name
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise UserError(f"{folder}: holds PyTorch files only; convert them to safetensors first")
    raise UserError(f"{folder}: holds no model.safetensors, no {INDEX} and no weights.safetensors")


def _read_shards(index):
    """{name: Tensor} of the files that an index names, which must hold exactly the tensors it says.

    The index may name only files of its own folder, by their bare names. (Such a file may be a link: in Hugging Face's
    cache all are.)
    """
    try:
        content = parse_json(index.read_bytes())
    except OSError as error:
        raise UserError(f"{index}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{index}: not valid JSON ({error})") from None
    weight_map = dict(content).get("weight_map") if isinstance(content, Object) else None
    if not isinstance(weight_map, Object):
        raise UserError(f"{index}: the object weight_map, from tensors to files, is missing")
    weight_map = dict(weight_map)
    shards = {}                                                 # {file name: {tensor name: Tensor}}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file or file in (".", "..") or set(file) & set('/\\:\0'):
            raise UserError(f"{index}: tensor {name} is said to be in {file!r}, which is no file of this folder")
        if file not in shards:
            if not os.path.exists(index.parent / file):
                raise UserError(f"{index}: tensor {name} is said to be in {file}, but there is no such file")
            shards[file] = read_header(index.parent / file)
        if name not in shards[file]:
            raise UserError(f"{index}: tensor {name} is said to be in {file}, but it is not")
    for file, tensors in shards.items():
        for name in tensors:
            if weight_map.get(name) != file:
                there = f"in {weight_map[name]}" if name in weight_map else "nowhere"
                raise UserError(f"{index.parent / file}: holds tensor {name}, but {index.name} has it {there}")
    return {name: shards[file][name] for name, file in weight_map.items()}


class Leaves(Mapping):
    """{name: array ready for arithmetic}, each tensor converted when it is first used.

    convert: NumPy array -> array in the dtype and on the device of the arithmetic. An array that it returns unchanged
    stays a view of the mapped file.
    stream: keep only the `resident_blocks` blocks used last, so that a model larger than memory runs. A block is one
    layer of the language model or of the vision tower, or a tensor outside of them. The embedding table is then a Rows.
    """

    def __init__(self, checkpoint, convert, stream=False, resident_blocks=2):
        self.checkpoint, self.convert, self.stream, self.resident_blocks = checkpoint, convert, stream, resident_blocks
        self._blocks = OrderedDict()                            # {block: {name: array}}, the one used last at the end

    def __getitem__(self, name):
        tensor = self.checkpoint[name]
        if self.stream and name == EMBEDDING:
            return Rows(tensor, self.convert)
        layer = BLOCK.match(name)
        key = layer.group() if layer else name
        block = self._blocks.setdefault(key, {})
        self._blocks.move_to_end(key)
        while self.stream and len(self._blocks) > self.resident_blocks:
            for dropped in self._blocks.popitem(last=False)[1]:
                self.checkpoint[dropped].release()
        if name not in block:
            block[name] = self.converted(name)
        return block[name]

    def converted(self, name):
        return converted(self.checkpoint[name], self.convert)

    def __contains__(self, name):
        return name in self.checkpoint

    def __iter__(self):
        return iter(self.checkpoint)

    def __len__(self):
        return len(self.checkpoint)


class Rows:
    """A table (V, D) that stays in its file: `table[ids]` reads, converts and returns the rows of `ids` alone.

    An embedding looks up a few of up to 128256 rows; to convert them all would take 2 GB and most of a second a token.
    """

    def __init__(self, tensor, convert):
        self.tensor, self.convert, self.shape = tensor, convert, tensor.shape

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, ids):
        return self.convert(self.tensor[to_numpy(ids) if hasattr(ids, "dtype") else ids])


def converted(tensor, convert):
    """convert(tensor.numpy()), a large tensor in chunks of rows: beside the result only one chunk is in memory."""
    if tensor.nbytes <= CHUNK or not tensor.shape:
        array = convert(tensor.numpy())
    else:
        rows = max(1, CHUNK * tensor.shape[0] // tensor.nbytes)
        first = convert(tensor[:rows])
        if _is_view(first, tensor):
            return convert(tensor.numpy())
        array = namespace(first).empty(tensor.shape, first.dtype)
        array[:rows] = first
        for start in range(rows, len(array), rows):
            array[start:start + rows] = convert(tensor[start:start + rows])
            tensor.release()
    if not _is_view(array, tensor):
        tensor.release()
    return array


def _is_view(array, tensor):
    return isinstance(array, np.ndarray) and np.may_share_memory(array, tensor.stored)


def save(folder, tensors, config, dtype=None, max_shard_bytes=5e9):
    """Write config.json and {name: array or Tensor} as Hugging Face lays a checkpoint out.

    One model.safetensors; or, above `max_shard_bytes`, model-00001-of-00002.safetensors ... and an index. dtype as in
    write_safetensors. Everything is written under temporary names first, and takes its place at the end: a reader finds
    the old checkpoint, the new one, or for a moment none, but never parts of both. Files of the old one are removed.
    """
    folder = Path(folder)
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
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"
    temporaries = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, shard in zip(files, shards):
            temporaries[file] = write_temporary(file, shard, dtype)
        if len(shards) > 1:                                     # the index takes its place last
            temporaries[index] = temporary_file(index, lambda file: file.write(text.encode()))
    except BaseException as error:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None
        raise

    def before():
        config.write(folder)
        if len(shards) > 1:                                     # no old index may send a reader to new shards
            index.unlink(missing_ok=True)
    replace(temporaries, before)
    for old in [folder / "model.safetensors", index, *folder.glob("model-*-of-*.safetensors")]:
        if old not in temporaries:
            old.unlink(missing_ok=True)
