"""LoRA (Hu et al. 2021): a matrix W (O, I) stays, and W + (alpha / r) B A computes; two thin matrices are learned.

    A (r, I), at first random    B (O, r), at first 0, so that training starts at the base model exactly

The model knows nothing of this. It gets W + s B A in the place of W, s = alpha / r, and its own pullback gives dW. Then

    dA = s B^T dW    dB = s dW A^T

On disk an adapter is a folder as PEFT writes it: adapter_model.safetensors and adapter_config.json.
"""
import json
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..nn.arrays import namespace, to_numpy
from ..nn.tree import matches
from .safetensors_file import Tensor, parse_json, replace, temporary_file, write_temporary

WEIGHTS, SETTINGS, PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
OTHER_KINDS = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "modules_to_save")


@dataclass(frozen=True)
class Adapter:
    """{<module>.lora_A.weight: (r, I), <module>.lora_B.weight: (O, r)}, for matrices <module>.weight (O, I)"""
    leaves: dict
    rank: int
    alpha: float

    @property
    def targets(self):
        """The names of the matrices that it changes."""
        return [name.removesuffix(A) + ".weight" for name in self.leaves if name.endswith(A)]

    def of(self, target):
        """A, B"""
        module = target.removesuffix(".weight")
        return self.leaves[module + A], self.leaves[module + B]

    def update(self, target, like, rows=...):
        """(alpha / r) B A, or some rows of it, in the arithmetic of the array `like`"""
        a, b = (namespace(like).asarray(matrix, dtype=like.dtype) for matrix in self.of(target))
        return b[rows] @ a * like.dtype.type(self.alpha / self.rank)


def start(leaves, targets, rank=8, alpha=16.0, seed=0, tables=()):
    """The Adapter that changes nothing yet, for the matrices in `leaves` whose names match a pattern of `targets`.

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
    """{name: array} with W + s B A in the place of each W; the arrays given stay as they are."""
    check(leaves, adapter)
    return {**leaves, **{name: leaves[name] + sign * adapter.update(name, leaves[name]) for name in adapter.targets}}


def unmerge(leaves, adapter):
    """The base again, to the rounding of two sums"""
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
    """A tensor of a checkpoint with an adapter's update added (sign -1: taken away) whenever it is read, in float32."""
    adapter: Adapter = field(default=None, repr=False)
    sign: int = 1

    def __getitem__(self, rows):
        w = super().__getitem__(rows).astype(np.float32)
        w += self.sign * self.adapter.update(self.name, w, rows)
        return w


def changed(checkpoint, adapter, sign=1):
    """{name: Tensor} of a checkpoint with the adapter merged; as lazy as the checkpoint is."""
    check(checkpoint, adapter)
    whole = dict(checkpoint)
    for name in adapter.targets:
        tensor = whole[name]
        known = {part.name: getattr(tensor, part.name) for part in fields(tensor)}
        whole[name] = Changed(**known | {"adapter": adapter, "sign": sign})
    return whole


def write(folder, adapter, base=None):
    """Write the adapter as PEFT does. base: where the base model is, for whoever loads it by PEFT."""
    folder = Path(folder)
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": adapter.rank,
                "lora_alpha": adapter.alpha, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
                "target_modules": [name.removesuffix(".weight") for name in adapter.targets], "modules_to_save": None,
                "inference_mode": True}
    text = json.dumps(settings, indent=2) + "\n"
    tensors = {PREFIX + name: to_numpy(array) for name, array in adapter.leaves.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None
    weights = write_temporary(folder / WEIGHTS, tensors)
    try:
        settings = temporary_file(folder / SETTINGS, lambda file: file.write(text.encode()))
    except UserError:
        weights.unlink(missing_ok=True)
        raise
    replace({folder / WEIGHTS: weights, folder / SETTINGS: settings})


def read(folder):
    """The Adapter in a folder, whoever wrote it."""
    from .checkpoint import Checkpoint
    folder = Path(folder)
    rank, alpha = read_settings(folder / SETTINGS)
    leaves, path = {}, folder / WEIGHTS
    for name, tensor in Checkpoint(path).items():
        if not name.startswith(PREFIX) or not name.endswith((A, B)):
            raise UserError(f"{path}: tensor {name} is not part of a LoRA adapter, where names are "
                            f"{PREFIX}<module>{A} and {B}")
        if tensor.dtype not in ("F16", "BF16", "F32", "F64") or len(tensor.shape) != 2:
            raise UserError(f"{path}: tensor {name} is {tensor.dtype} of the shape {tensor.shape}, not a matrix of "
                            "floating-point numbers")
        if tensor.shape[1 if name.endswith(B) else 0] != rank:
            raise UserError(f"{path}: tensor {name} has the shape {tensor.shape}, which does not fit the rank {rank} "
                            f"of {SETTINGS}")
        leaves[name.removeprefix(PREFIX)] = np.array(tensor.numpy())
    for name in leaves:
        other = name.removesuffix(A) + B if name.endswith(A) else name.removesuffix(B) + A
        if other not in leaves:
            raise UserError(f"{path}: tensor {PREFIX}{other} is missing; A and B belong together")
    if not leaves:
        raise UserError(f"{path}: holds no tensor")
    return Adapter(leaves, rank, alpha)


def read_settings(path):
    """rank, alpha"""
    try:
        content = dict(parse_json(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); an adapter is a folder with {WEIGHTS} "
                        f"and {SETTINGS}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON of an object ({error})") from None
    if content.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type is {content.get('peft_type')!r}; only 'LORA' can be applied here")
    kinds = [name for name in OTHER_KINDS if content.get(name)]
    if kinds:
        raise UserError(f"{path}: {kinds[0]} is set, which cannot be applied here; plain LoRA has one rank and alpha")
    rank, alpha = content.get("r"), content.get("lora_alpha")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or alpha <= 0:
        raise UserError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}; a whole number and a number above 0 would do")
    return rank, alpha
