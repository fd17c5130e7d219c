"""The training loop: AdamW steps with a log and a checkpoint from which a run goes on bit for bit."""
import json
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..params import Checkpoint, write_safetensors
from .optimizer import adamw, clip, cosine

SAVE_EVERY = 120                                            # seconds between checkpoints


def fit(stage, out, leaves, loss, steps, rate, watch=None, betas=(0.9, 0.98), decay=0.02, longest=1.0, warmup=100):
    """`steps` steps of AdamW on `loss(step) -> (loss, pull)`, for the arrays in `leaves` that pull() has gradients of.

    out:    a folder for <stage>.safetensors, the checkpoint, and log.jsonl. A stage that has a checkpoint goes on from
            it; as `loss` finds its data by the step's number, the result is that of an uninterrupted run, bit for bit.
    watch:  measurements for the log, () -> {name: number}, called ten times in the run.
    """
    path, log = Path(out) / f"{stage}.safetensors", Path(out) / "log.jsonl"
    moments, done, before = restore(path, leaves)
    start = saved = time.perf_counter()
    window = []
    for step in tqdm(range(done + 1, steps + 1), stage, steps, initial=done, mininterval=5):
        value, pull = loss(step)
        gradients, norm = clip(pull(), longest)
        adamw(leaves, gradients, moments, step, cosine(step, steps, rate, min(warmup, steps // 10)), betas, decay=decay)
        del pull                                            # frees the activations before the next forward
        window.append(float(value))
        now, last = time.perf_counter(), step == steps
        if step % 50 == 0 or last:
            entry = {"stage": stage, "step": step, "loss": round(sum(window) / len(window), 4), "norm": round(norm, 3),
                     "seconds": round(before + now - start)}
            if watch and (last or step * 10 // steps > (step - 50) * 10 // steps):
                entry |= watch()
            window = []
            with open(log, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        if last or now - saved > SAVE_EVERY:
            store(path, leaves, moments, step, before + now - start)
            saved = now


def store(path, leaves, moments, step, seconds):
    """Everything that the next step depends on, in one file that appears whole or not at all."""
    tensors = {f"leaf/{name}": array for name, array in leaves.items()}
    for name, (m, v) in moments.items():
        tensors |= {f"m/{name}": m, f"v/{name}": v}
    write_safetensors(path, {**tensors, "step": np.array([step]), "seconds": np.array([float(seconds)])})


def restore(path, leaves):
    """Put the arrays of a checkpoint, if there is one, into `leaves` -> moments, steps done, seconds they took"""
    if not path.exists():
        return {}, 0, 0.0
    tensors = {name: np.array(tensor.numpy()) for name, tensor in Checkpoint(path).items()}
    leaves.update({name[5:]: array for name, array in tensors.items() if name.startswith("leaf/")})
    moments = {name[2:]: (array, tensors[f"v/{name[2:]}"]) for name, array in tensors.items() if name.startswith("m/")}
    return moments, int(tensors["step"][0]), float(tensors["seconds"][0])
