"""Which golden cases and which checkpoints the files of this folder know: the one place that looks them up.

A file of this folder enters by two tables of its own, which may be empty or absent:

    CASES = {"clip_vision": Case(config, shapes, run), ...}         by their keys in components.json
    CHECKPOINTS = [Checkpoint(...), ...]                            by their config.json
"""
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from ..storage.checkpoint import FILES
from ..storage.reading import read_json
from .fields import Fields

CONFIGS = "config.json", "open_clip_config.json"        # of Hugging Face's folders, and of open_clip's


@dataclass(frozen=True)
class Case:
    """How `verify` computes a golden case again.

    config: (the fields of the case's config, {name: shape} of its weights) -> the geometry, whatever it is.
    shapes: geometry -> {name: shape} of every weight, those that have no gradient included.
    run:    ({name: input}, Params, geometry) -> {name: output}, pull, where pull({name: gradient of an output}, g) adds
            the parameters' gradients to g and returns {name: gradient of an input}; an output without a gradient is not
            among the names. A recorded value that is no output is found in the trace (nn.trace): "image/hidden1" is
            the case's image_hidden1. Where the gradient of an intermediate is recorded, g/y/log_mel, its name is
            "y/log_mel".
    frozen: patterns of weights without gradient, such as a batch norm's averages.
    """
    config: Callable
    shapes: Callable
    run: Callable
    frozen: tuple = ()


@dataclass(frozen=True)
class Checkpoint:
    """A kind of folder, as Hugging Face ships it, that `load` and `info` know by its config.json.

    kind:    what it is called: "a CLIP".
    knows:   the fields of a config.json, a dict -> whether they are of this kind.
    config:  fields.Fields -> the geometry.
    shapes:  geometry -> {name: shape} of every tensor that must be stored.
    model:   (geometry, leaves, folder, convert) -> what `load` returns; convert makes arrays as the leaves are.
    ignored: patterns of tensors that may be stored and are not read, such as numbers of positions.
    files:   the names that the first file of tensors may have, as in storage.checkpoint.
    """
    kind: str
    knows: Callable
    config: Callable
    shapes: Callable
    model: Callable
    ignored: tuple = ()
    files: tuple = FILES


def checkpoint_in(folder):
    """(Checkpoint, Fields) of a folder, or of the path of its config.json; (None, None) where no relative is known"""
    folder = Path(folder)
    for path in [folder / name for name in CONFIGS] if folder.is_dir() else [folder]:
        if not path.is_file() or path.suffix == ".gguf":
            continue
        fields = read_json(path)
        if "CogVLM" in str(fields.get("architectures")):    # the usual case, for which the relatives are not imported
            return None, None
        for table in tables("CHECKPOINTS"):
            for kind in table:
                if kind.knows(fields):
                    return kind, Fields(fields, path)
    return None, None


@cache
def tables(name):
    """What all files of this folder call `name`, in the order of their names."""
    files = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    modules = (import_module(f".{stem}", __package__) for stem in files if not stem.startswith("_"))
    return [getattr(module, name) for module in modules if hasattr(module, name)]


def cases():
    """{key in components.json: Case}"""
    return {key: case for table in tables("CASES") for key, case in table.items()}
