"""A training run small enough to be killed often:    python toy_run.py FOLDER [FAULT NUMBER | ahead]

FAULT: what ends the process, as a kill would, in its NUMBERth call. ahead: another process prepares the data.
"""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tinycogvlm.errors import UserError
from tinycogvlm.storage import safetensors_file
from tinycogvlm.train.loop import loop
from tinycogvlm.train.loop.loop import Recipe
from tinycogvlm.train.loop.run import Run

FILES = [".toy.lock", "toy.done.safetensors", "toy.jsonl", "toy.previous.safetensors", "toy.safetensors"]
STEPS = 30
W = "model.layers.0.w.weight"                             # a matrix in a block: what Muon trains
TRUTH = np.arange(12, dtype=np.float32).reshape(4, 3) / 12


def leaves():
    return {W: np.zeros((4, 3), np.float32), "bias": np.zeros(3, np.float32),
            "rarely.weight": np.ones((1, 3), np.float32), "frozen.weight": np.ones((2, 2), np.float32)}


def data(step):
    """Three parts of 4, 8 and 12 examples; every fourth step's third part is another kind."""
    random = np.random.default_rng(step)
    return [(random.standard_normal((4 * n, 4)).astype(np.float32), n == 3 and step % 4 == 0) for n in (1, 2, 3)]


def loss(leaves, part):
    """Mean squared error of a linear map"""
    x, rare = part
    error = x @ leaves[W] + leaves["bias"] - x @ TRUTH
    if rare:
        error = error + leaves["rarely.weight"]

    def pull():
        d = 2 * error / error.size
        more = {"rarely.weight": d.sum(0, keepdims=True)} if rare else {}
        return {W: x.T @ d, "bias": d.sum(0), **more}
    return (error ** 2).mean(), len(x), pull, {"off": abs(error).mean()}


RECIPE = Recipe(STEPS, 24, peak=0.1, warmup=5, ema=0.9, groups={"bias": 0.5}, log_every=7)


def fit(folder, recipe=RECIPE, loss=loss, **options):
    options = {"ahead": 0, "resume": True, "save_every": 0, **options}
    return loop.fit(Run(folder, "toy"), leaves(), data, loss, recipe, **options)


def broken_at(step, error):
    """The loss, but in this step error(...) of what it returns"""
    calls = []

    def broken(leaves, part):
        calls.append(part)
        found = loss(leaves, part)
        return error(*found) if len(calls) == 3 * step else found
    return broken


def start(folder, *fault):
    """This file as a process"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, __file__, str(folder), *map(str, fault)], env=environment,
                            stderr=subprocess.PIPE, text=True)


def lines(folder):
    """The log"""
    return [json.loads(line) for line in (folder / "toy.jsonl").read_text().splitlines()]


def outcome(folder):
    """The result, bit for bit, and the log without its times"""
    timeless = [{name: value for name, value in line.items() if name not in ("seconds", "samples/s")}
                for line in lines(folder)]
    return {name: (a.tobytes(), a.shape) for name, a in load_file(folder / "toy.done.safetensors").items()}, timeless


def whole(folder):
    """The outcome of a run that nothing happens to"""
    fit(folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    return outcome(folder)


def half_a_line(log, entry):
    with open(log, "a", encoding="utf-8") as file:
        file.write('{"step": ')


FAULTS = {"write": (safetensors_file, "_encoded"), "fsync": (os, "fsync"), "rename": (os, "replace"),
          "append": (loop, "append"), "hand over": (loop.checkpoint, "hand_over")}


def die(fault, number):
    module, name = FAULTS[fault]
    real, calls = getattr(module, name), []

    def dying(*arguments, **options):
        calls.append(1)
        if len(calls) == number:
            if fault == "append":
                half_a_line(*arguments)
            os._exit(9)
        return real(*arguments, **options)
    setattr(module, name, dying)


if __name__ == "__main__":
    def slow(leaves, part):                                 # time to be killed in
        time.sleep(0.004)
        return loss(leaves, part)
    if len(sys.argv) > 3:
        die(sys.argv[2], int(sys.argv[3]))
    try:
        fit(Path(sys.argv[1]), loss=loss if len(sys.argv) > 3 else slow, ahead=2 if sys.argv[2:] == ["ahead"] else 0)
    except KeyboardInterrupt as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
