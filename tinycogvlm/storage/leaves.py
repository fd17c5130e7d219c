"""Parameters ready for arithmetic: a checkpoint's tensors, converted when they are first used, or again and again."""
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping

from ..nn.arrays import namespace, to_numpy

CHUNK = 1 << 28                                                 # bytes of a large tensor that are converted at a time


class Leaves(Mapping):
    """{name: array ready for arithmetic}, each tensor converted when it is first used. Threads may share it.

    convert: NumPy array as the checkpoint stores it -> array in the dtype and on the device of the arithmetic.
    stream: keep only the `resident_blocks` blocks used last (see block_of), so that a model larger than memory runs.
    An array that a thread holds stays valid after its block has been dropped.
    tables: names of embedding tables: while streaming, each is an EmbeddingRows.
    """

    def __init__(self, checkpoint, convert, stream=False, tables=(), resident_blocks=2):
        self.checkpoint, self.convert, self.stream, self.resident_blocks = checkpoint, convert, stream, resident_blocks
        self.tables = tables
        self._resident = {}                                     # without `stream`: {name: array}
        self._blocks = OrderedDict()                            # with it: {block: {name: array}}, the last used last
        self._lock = threading.Lock()

    def __getitem__(self, name):
        if not self.stream and name in self._resident:
            return self._resident[name]
        tensor = self.checkpoint[name]
        if self.stream and name in self.tables:
            return EmbeddingRows(tensor, self.convert)
        with self._lock:
            kept = self._block(name) if self.stream else self._resident
            if name not in kept:
                kept[name] = self.converted(name)
            return kept[name]

    def _block(self, name):
        """{name: array}, what is in memory of the block of `name`; the blocks not used for longest are dropped."""
        key = block_of(name)
        block = self._blocks.setdefault(key, {})
        self._blocks.move_to_end(key)
        while len(self._blocks) > self.resident_blocks:
            self._blocks.popitem(last=False)
        return block

    def converted(self, name):
        return converted(self.checkpoint[name], self.convert)

    def __contains__(self, name):
        return name in self.checkpoint

    def __iter__(self):
        return iter(self.checkpoint)

    def __len__(self):
        return len(self.checkpoint)


def block_of(name):
    """The block that a tensor belongs to: its name up to a layer's number; outside of layers, a block of its own."""
    layer = re.match(r".*?\.\d+(?=\.)", name)
    return layer.group() if layer else name


class EmbeddingRows:
    """A table (V, D) that stays in its file: `table[ids]` reads, converts and returns the rows of `ids` alone.

    An embedding looks up a few of up to 128256 rows; to convert them all would take 2 GB and most of a second a token.
    """

    def __init__(self, tensor, convert):
        self.tensor, self.convert, self.shape = tensor, convert, tensor.shape

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, ids):
        return self.convert(self.tensor[to_numpy(ids) if hasattr(ids, "dtype") else ids])


def converted(tensor, convert, chunk=None):
    """convert(tensor.numpy()), a large tensor in chunks of rows: beside the result only one chunk is in memory.

    chunk: bytes of the tensor, by default CHUNK.
    """
    chunk = chunk or CHUNK
    if tensor.nbytes <= chunk or not tensor.shape:
        return convert(tensor.numpy())
    rows = max(1, chunk * tensor.shape[0] // tensor.nbytes)
    first = convert(tensor[:rows])
    array = namespace(first).empty(tensor.shape, first.dtype)
    array[:rows] = first
    for start in range(rows, len(array), rows):
        array[start:start + rows] = convert(tensor[start:start + rows])
    return array
