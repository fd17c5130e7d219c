"""A run's checkpoints: two are kept, none is ever half written, and a damaged one is noticed.

    <stage>.safetensors             the newest
    <stage>.previous.safetensors    the one before
    <stage>.done.safetensors        what a finished stage hands on: the parameters that it trained
"""
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...nn.arrays import to_numpy
from ...storage.atomic import Together
from ...storage.checkpoint import Checkpoint
from ...storage.safetensors_file import write_safetensors, write_tensors


def paths(run, stage):
    """newest, previous, done"""
    return [Path(run) / f"{stage}{kind}.safetensors" for kind in ("", ".previous", ".done")]


def store(run, stage, tensors, facts):
    """Write {name: array} and `facts`, a dict of JSON, as the newest checkpoint; the one so far becomes the previous.

    At every instant a complete checkpoint lies under one of the two names. UserError (disk full): nothing has changed.
    """
    newest, previous, _ = paths(run, stage)
    tensors = {**tensors, "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
    with Together() as files:
        if newest.exists():
            files.rename(newest, previous)
        with files.replacing(newest) as file:
            write_tensors(file, {**tensors, "digest": digest(tensors)})


def restore(run, stage):
    """The newest checkpoint that can be read -> tensors, facts; None if there is none.

    A damaged one is laid aside under another name, lest the next to be written take a good one's place with it.
    """
    newest, previous, _ = paths(run, stage)
    for left in newest.parent.glob(f"{stage}.*.part"):              # of a process that was killed while writing
        left.unlink()
    found = [path for path in (newest, previous) if path.exists()]
    problems = []
    for path in found:
        try:
            tensors = read(path)
        except UserError as error:
            problems.append(error)
            continue
        if problems:
            aside = newest.with_name(f"{stage}.damaged.safetensors")
            os.replace(newest, aside)
            print(f"tinycogvlm: {problems[0]}; it is now {aside.name}, and the run goes on from {previous.name}",
                  file=sys.stderr)
        return tensors, json.loads(bytes(tensors.pop("facts")))
    if problems:
        raise UserError(f"no checkpoint can be read ({'; '.join(map(str, problems))}); the stage must start again, in "
                        "another folder")
    return None


def read(path):
    """{name: array} of a file that `store` wrote, if it is what was written."""
    tensors = {name: tensor.numpy() for name, tensor in Checkpoint(path).items()}
    if "facts" not in tensors or not np.array_equal(tensors.pop("digest", None), digest(tensors)):
        raise UserError(f"{path}: damaged, its contents are not those that were written")
    return tensors


def digest(tensors):
    """SHA-256 of names, dtypes, shapes and numbers, (32,) uint8"""
    sum = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(to_numpy(tensors[name]))
        sum.update(f"{name} {array.dtype.str} {tensors[name].shape} ".encode())
        sum.update(array.reshape(-1).view(np.uint8))
    return np.frombuffer(sum.digest(), np.uint8)


def hand_over(run, stage, leaves):
    """Write what the next stage starts from."""
    write_safetensors(paths(run, stage)[2], leaves)


def handed_over(run, stage):
    """{name: NumPy array} of the parameters that a finished stage trained, from the folder `run`."""
    done = paths(run, stage)[2]
    if not done.exists():
        raise UserError(f"{done}: missing; the stage {stage} is not finished in this folder")
    return {name: tensor.numpy() for name, tensor in Checkpoint(done).items()}
