"""LoRA (Hu et al. 2021, arXiv 2106.09685): W (O, I) is frozen, W + (alpha / r) B A computes, and A and B are learned.

    A (r, I), random at first    B (O, r), zero at first, so that training starts from exactly the base model

The model knows nothing of this: it is given W + s B A in place of W, with s = alpha / r, and its backward pass gives
dW. Then

    dA = s B^T dW    dB = s dW A^T

On the disk an adapter is a folder as PEFT writes it: adapter_model.safetensors and adapter_config.json.
"""
import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..nn.arrays import namespace, to_numpy
from ..nn.tree import matches
from .atomic import Together
from .checkpoint import Checkpoint
from .reading import read_json, short
from .safetensors_file import FLOATS, Tensor, write_tensors

WEIGHTS, SETTINGS, PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
# PEFT's settings that leave W + (alpha / r) B A as it is; any other that is set is refused, also one not known yet.
HARMLESS = ("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout", "r",
            "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "auto_mapping",
            "peft_version", "megatron_config", "megatron_core", "eva_config", "qalora_group_size", "runtime_config",
            "ensure_weight_tying")
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")         # init_lora_weights: W stays unchanged


@dataclass(frozen=True)
class Adapter:
    """{<module>.lora_A.weight: (r, I), <module>.lora_B.weight: (O, r)}, for matrices <module>.weight (O, I)"""
    leaves: dict
    rank: int
    alpha: float

    @property
    def targets(self):
        """Names of the matrices that it changes"""
        return [name.removesuffix(A) + ".weight" for name in self.leaves if name.endswith(A)]

    def of(self, target):
        """A, B"""
        module = target.removesuffix(".weight")
        return self.leaves[module + A], self.leaves[module + B]

    def update(self, target, like, rows=...):
        """(alpha / r) B A, or some of its rows, with the dtype and the device of the array `like`"""
        a, b = (namespace(like).asarray(matrix, dtype=like.dtype) for matrix in self.of(target))
        return b[rows] @ a * like.dtype.type(self.alpha / self.rank)


def start(leaves, targets, rank=8, alpha=16.0, seed=0, tables=()):
    """An Adapter that changes nothing yet, for the matrices in `leaves` whose names match a pattern of `targets`.

    A is uniform within 1 / sqrt(I), as in PEFT. tables: patterns of tensors that are looked up, not multiplied with.
    """
    chosen, random, thin = chosen_by(targets, leaves, tables), np.random.default_rng(seed), {}
    for name in chosen:
        w, module = leaves[name], name.removesuffix(".weight")
        (O, I), xp = w.shape, namespace(w)
        if rank > min(O, I):
            raise UserError(f"rank {rank}: {name} {w.shape} cannot have more than {min(O, I)}")
        thin[module + A] = xp.asarray(random.uniform(-1, 1, (rank, I)) / np.sqrt(I), dtype=w.dtype)
        thin[module + B] = xp.zeros((O, rank), w.dtype)
    return Adapter(thin, rank, alpha)


def chosen_by(targets, leaves, tables=()):
    """Names of the matrices that the patterns match -> [name]; UserError for a pattern that matches none."""
    matrices = [name for name, w in leaves.items()
                if w.ndim == 2 and name.endswith(".weight") and not matches(name, tables)]
    for pattern in targets:
        if not any(matches(name, [pattern]) for name in matrices):
            others = [name for name in leaves if matches(name, [pattern])]
            found = f"{others[0]}, which is no matrix that multiplies" if others else "no tensor of this model"
            raise UserError(f"the pattern {pattern!r} matches {found}; a matrix is, for example, {matrices[0]}")
    return [name for name in matrices if matches(name, targets)]


def merge(leaves, adapter, sign=1):
    """{name: array} with W + s B A in place of each W; the given arrays are not changed."""
    check(leaves, adapter)
    return {**leaves, **{name: leaves[name] + sign * adapter.update(name, leaves[name]) for name in adapter.targets}}


def unmerge(leaves, adapter):
    """The base model again, up to the rounding of two sums"""
    return merge(leaves, adapter, -1)


def gradients(adapter, of_weights):
    """{name of a W: dW} -> {name of an A or a B: its gradient}"""
    found, s = {}, adapter.alpha / adapter.rank
    for name, dw in of_weights.items():
        (a, b), module = adapter.of(name), name.removesuffix(".weight")
        found[module + A], found[module + B] = s * (b.T @ dw), s * (dw @ a.T)
    return found


def check(base, adapter):
    """UserError unless `base`, {name: array or Tensor}, has the matrices that the adapter changes."""
    for name in adapter.targets:
        a, b = adapter.of(name)
        if name not in base:
            raise UserError(f"the adapter changes {name}, which this model does not have: it was learned for another")
        if tuple(base[name].shape) != (len(b), a.shape[1]):
            raise UserError(f"the adapter changes {name} of the shape {(len(b), a.shape[1])}, but this model's is "
                            f"{tuple(base[name].shape)}: it was learned for another")


# Files

@dataclass(frozen=True, eq=False)
class Changed(Tensor):
    """A tensor of a checkpoint plus (sign -1: minus) an adapter's update, computed in float32 whenever it is read."""
    adapter: Adapter = field(default=None, repr=False)
    sign: int = 1

    def __getitem__(self, rows):
        w = super().__getitem__(rows).astype(np.float32)
        w += self.sign * self.adapter.update(self.name, w, rows)
        return w


def changed(checkpoint, adapter, sign=1):
    """{name: Tensor} of a checkpoint with the adapter merged; nothing is read before it is used."""
    check(checkpoint, adapter)
    whole = dict(checkpoint)
    for name in adapter.targets:
        tensor = whole[name]
        known = {part.name: getattr(tensor, part.name) for part in fields(tensor)}
        whole[name] = Changed(**known | {"adapter": adapter, "sign": sign})
    return whole


def write(folder, adapter, base=None):
    """Write the adapter as PEFT does. base: where the base model is, for those who load it with PEFT."""
    folder = Path(folder)
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": adapter.rank,
                "lora_alpha": adapter.alpha, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
                "target_modules": [name.removesuffix(".weight") for name in adapter.targets], "modules_to_save": None,
                "inference_mode": True}
    tensors = {PREFIX + name: to_numpy(array) for name, array in adapter.leaves.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None
    with Together() as changes:
        with changes.replacing(folder / WEIGHTS) as file:
            write_tensors(file, tensors)
        changes.write(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")


def read(folder):
    """The Adapter in a folder, ours or PEFT's"""
    folder = Path(folder)
    rank, alpha = read_settings(folder / SETTINGS)
    leaves, path = {}, folder / WEIGHTS
    for name, tensor in Checkpoint(path).items():
        if not name.startswith(PREFIX) or not name.endswith((A, B)):
            raise UserError(f"{path}: tensor {short(name)} is not part of a LoRA adapter, whose names are "
                            f"{PREFIX}<module>{A} and {B}")
        if tensor.dtype not in FLOATS or len(tensor.shape) != 2:
            raise UserError(f"{path}: tensor {name} is {tensor.dtype} of the shape {tensor.shape}, not a matrix of "
                            "floating-point numbers")
        if tensor.shape[1 if name.endswith(B) else 0] != rank:
            raise UserError(f"{path}: tensor {name} has the shape {tensor.shape}, which does not fit the rank {rank} "
                            f"of {SETTINGS}")
        leaves[name.removeprefix(PREFIX)] = tensor.numpy()
    for name in leaves:
        other = name.removesuffix(A) + B if name.endswith(A) else name.removesuffix(B) + A
        if other not in leaves:
            raise UserError(f"{path}: tensor {PREFIX}{other} is missing; A and B belong together")
    if not leaves:
        raise UserError(f"{path}: holds no tensor")
    return Adapter(leaves, rank, alpha)


def read_settings(path):
    """rank, alpha"""
    content = read_json(path, f"; an adapter is a folder with {WEIGHTS} and {SETTINGS}")
    if content.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type is {short(content.get('peft_type'))}; only 'LORA' can be applied here")
    start = content.pop("init_lora_weights", None)
    if not isinstance(start, (bool, str, type(None))) or start not in PLAIN_STARTS:
        raise UserError(f"{path}: init_lora_weights is {short(start)}, which changes the base model too, so that the "
                        "adapter does not fit the original one; PEFT converts it to plain LoRA when it saves with "
                        "path_initial_model_for_weight_conversion")
    for key, value in content.items():
        if value and key not in HARMLESS and (key, value) != ("bias", "none"):
            raise UserError(f"{path}: {short(key)[1:-1]} is {short(value)}, which cannot be applied here; plain LoRA "
                            "has one rank and one alpha, and changes nothing but matrices of the base model")
    rank, alpha = content.get("r"), content.get("lora_alpha")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not 0 < alpha < math.inf:
        raise UserError(f"{path}: r is {short(rank)} and lora_alpha {short(alpha)}; they must be a whole number and a "
                        "number, above 0")
    return rank, alpha
