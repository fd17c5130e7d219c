"""A run's checkpoints: two are kept, neither is ever half written, and a damaged one is noticed. run.py names them."""
import hashlib
import json
import os

import numpy as np

from ...errors import UserError
from ...nn.arrays import to_numpy
from ...storage.atomic import Together
from ...storage.checkpoint import Checkpoint
from ...storage.safetensors_file import write_safetensors, write_tensors
from .process import say


def store(run, tensors, facts):
    """Write {name: array} and `facts`, a dict of JSON, as the newest checkpoint; the last one becomes the previous.

    At every instant there is a complete checkpoint under one of the two names. UserError (disk full): nothing has
    changed.
    """
    tensors = {**tensors, "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
    with Together() as files:
        if run.newest.exists():
            files.rename(run.newest, run.previous)
        with files.replacing(run.newest) as file:
            write_tensors(file, {**tensors, "digest": digest(tensors)})


def restore(run):
    """The newest checkpoint that can be read -> tensors, facts; None if there is none. The caller must hold the run.

    A damaged one is renamed, so that the next save does not overwrite the last good one.
    """
    for left in run.folder.glob(f"{run.stage}.*.part"):             # of a process that was killed while writing
        left.unlink()
    problems = []
    for path in (run.newest, run.previous):
        if not path.exists():
            continue
        try:
            tensors = read(path)
        except UserError as error:
            problems.append(error)
            continue
        if problems:
            aside = run.folder / f"{run.stage}.damaged.safetensors"
            os.replace(run.newest, aside)
            say(f"tinycogvlm: {problems[0]}; it is now {aside.name}, and the run goes on from {path.name}")
        return tensors, json.loads(bytes(tensors.pop("facts")))
    if problems:
        raise UserError(f"no checkpoint can be read ({'; '.join(map(str, problems))}); the stage must start again, in "
                        "another folder")
    return None


def steps_begun(run):
    """The number of steps that a stage was begun with, from its checkpoint; None without one"""
    found = restore(run)
    return found[1]["settings"]["steps"] if found else None


def read(path):
    """{name: array} of a file of ours. UserError if the contents are not those that were written."""
    tensors = {name: tensor.numpy() for name, tensor in Checkpoint(path).items()}
    if not np.array_equal(tensors.pop("digest", None), digest(tensors)):
        raise UserError(f"{path}: damaged, its contents are not those that were written")
    return tensors


def digest(tensors):
    """SHA-256 of names, dtypes, shapes and numbers, (32,) uint8"""
    total = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(to_numpy(tensors[name]))
        total.update(f"{name} {array.dtype.str} {tensors[name].shape} ".encode())
        total.update(array.reshape(-1).view(np.uint8))
    return np.frombuffer(total.digest(), np.uint8)


def hand_over(run, leaves):
    """Write what the next stage starts from."""
    write_safetensors(run.done, {**leaves, "digest": digest(leaves)})


def handed_over(run):
    """{name: NumPy array} of the parameters that a finished stage trained"""
    if not run.done.exists():
        raise UserError(f"{run.done}: missing; the stage {run.stage} is not finished in this folder")
    try:
        return read(run.done)
    except UserError as error:
        raise UserError(f"{error}; the stage {run.stage} writes it again with --resume, if its last checkpoint is "
                        "still there") from None
