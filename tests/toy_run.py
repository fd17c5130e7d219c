"""A training small enough to be killed often:    python toy_run.py FOLDER [FAULT NUMBER]

FAULT: what ends the process, as a kill would, in its NUMBERth call.
"""
import os
import sys
import time
from pathlib import Path

import numpy as np

from tinycogvlm.storage import safetensors_file
from tinycogvlm.train.loop import loop

STEPS = 30
TRUTH = np.arange(12, dtype=np.float32).reshape(4, 3) / 12


def leaves():
    return {"w.weight": np.zeros((4, 3), np.float32), "bias": np.zeros(3, np.float32),
            "rarely.weight": np.ones((1, 3), np.float32), "frozen.weight": np.ones((2, 2), np.float32)}


def data(step):
    """Three parts of 4, 8 and 12 examples; every fourth step's third part is another kind."""
    random = np.random.default_rng(step)
    return [(random.standard_normal((4 * n, 4)).astype(np.float32), n == 3 and step % 4 == 0) for n in (1, 2, 3)]


def loss(leaves, part):
    """Mean squared error of a linear map"""
    x, rare = part
    error = x @ leaves["w.weight"] + leaves["bias"] - x @ TRUTH
    if rare:
        error = error + leaves["rarely.weight"]

    def pull():
        d = 2 * error / error.size
        more = {"rarely.weight": d.sum(0, keepdims=True)} if rare else {}
        return {"w.weight": x.T @ d, "bias": d.sum(0), **more}
    return (error ** 2).mean(), len(x), pull, {"off": abs(error).mean()}


def fit(folder, **options):
    defaults = dict(batch=24, peak=0.1, warmup=5, ema=0.9, groups={"bias": 0.5}, ahead=0, resume=True, save_every=0,
                    log_every=7)
    return loop.fit(folder, "toy", leaves(), data, options.pop("loss", loss), options.pop("steps", STEPS),
                    **defaults | options)


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
    if len(sys.argv) > 2:
        die(sys.argv[2], int(sys.argv[3]))
    fit(Path(sys.argv[1]), loss=loss if len(sys.argv) > 2 else slow)
