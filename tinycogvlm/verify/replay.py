"""Compute again everything that a case (case.py) recorded: our side of `verify`."""
import re
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np

from ..errors import UserError
from ..inputs import image, prompt
from ..kernels.engine import Engine
from ..loading import rotary_of
from ..model import generate
from ..model.cogvlm import CogVLM
from ..model.decoder import Rotary
from ..model.route import position_ids
from ..nn import trace
from ..nn.arrays import converter, namespace, round_to, to_numpy
from ..train.loop.optimizer import adamw, sgd
from . import tolerance
from .case import ACTIVATIONS, GRADS, INPUTS, META, RUNS_OF_META, flat, sha256, values

HEADS = ("q", "k", "v", "q_rope", "k_rope")             # (B, H, T, d); all other tensors of lm/ are (B, T, ...)
SECOND_TEXT = "Hello! What is 2+2?"                     # the text-only question, where meta.json states none


@dataclass
class Value:
    """One tensor as we compute it; `counts` (broadcastable to it) is False where no value is defined, as in padding."""
    array: np.ndarray
    tolerance: object = tolerance.exactly
    counts: np.ndarray = None


def replay(case, device="cpu", kernels=False):
    """({(file, name): Value} in the order of computation, [(part, why it could not be computed)]).

    kernels: compute with an Engine, which has no gradients.
    """
    computed, failures = {}, []
    replays = Replays(case, device, kernels)
    for part, run in replays.parts():
        try:
            with np.errstate(all="ignore"):
                for key, value in run():
                    computed[key] = value
        except Exception as error:                              # whatever a case provokes becomes a failed row
            sentence = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            failures.append((part, sentence))
    return computed, failures


class Replays:
    """The parts of a replay, and what they share: the case, the weights, the pictures."""

    def __init__(self, case, device, kernels):
        self.case, self.config, self.kernels = case, case.config_of_generation, kernels
        self.leaves = case.leaves(converter(device, "float32"))

    def parts(self):
        """(name, function that yields ((file, name), Value)) in the order of computation."""
        case = self.case
        yield META, self.facts
        yield "img", self.pictures
        for run in case.runs:
            yield run + "in", partial(self.inputs, run)
            for variant, rotary in VARIANTS.items() if case.low_precision else [("", "auto")]:
                if any(name.startswith(variant + run) for name in case.recorded[ACTIVATIONS]):
                    yield variant + run + "forward", partial(self.forward, run, variant, rotary)
                    yield variant + run + "gen", partial(self.generation, run, variant, rotary)
        if GRADS in case.recorded and not self.kernels:
            yield "grads", self.gradients
            yield "training", self.training

    def model(self, rotary="auto", leaves=None):
        tables = rotary_of(self.case.checkpoint or {}, self.config, rotary)
        if tables.tables:
            tables = RecordedRotary.of(self.case, tables)
        return (Engine if self.kernels else CogVLM)(self.config, leaves or self.leaves, rotary=tables)

    def moved(self, model, positions):
        """The model with other rotary tables that the reference may have had, or None if all `positions` are recorded.

        What a tensor changes by is allowed for, twice.
        """
        rotary = model.rotary
        if not isinstance(rotary, RecordedRotary) or not rotary.foreign or np.isin(positions, rotary.positions).all():
            return None
        return type(model)(model.config, model.leaves, rotary=replace(rotary, moved=True))

    def facts(self):
        """What meta.json states: prompts, the number of parameters, hashes of weights."""
        case, tokenizer = self.case, self.case.tokenizer
        for i, entry in enumerate(case.meta.get("prompts", [])):
            before, after = prompt.text(entry["template"], "\0", entry["history"]).split("\0")
            query = entry["prompt"][len(before):len(entry["prompt"]) - len(after)].strip()
            text = prompt.text(entry["template"], query, entry["history"])
            row = prompt.build(self.config, tokenizer, text, [BLANK] if entry["image"] else [])
            ours = flat(text, row.ids, row.types, position_ids(row.types, row.mask))
            yield (META, f"prompts/{i}"), Value(ours)
        shapes = self.config.shapes()
        count = sum(int(np.prod(shape)) for name, shape in shapes.items() if not name.endswith("inv_freq"))
        yield (META, "parameters"), Value(np.array(count))
        for name in case.meta.get("weights_sha256", {}):
            digest = sha256(to_numpy(self.leaves[name]))
            yield (META, f"weights_sha256/{name}"), Value(np.frombuffer(digest.encode(), np.uint8))

    def pictures(self):
        """img/raw -> img/pixel_values, and those of the batches."""
        for name in sorted(self.case.recorded[ACTIVATIONS], reverse=True):              # img/ before batch/img/
            folder, _, tail = name.rpartition("/")
            if folder in ("img", "batch/img") and tail.startswith("raw"):
                yield (ACTIVATIONS, name), Value(self.case[name])
                yield (ACTIVATIONS, f"{folder}/{tail.replace('raw', 'pixel_values')}"), Value(
                    self.picture(name)[None], tolerance.pixels)

    def picture(self, name):
        return image.pixels(self.case[name], self.config.vision.image_size)

    def inputs(self, run):
        """ids, types, mask and positions of a run: from meta.json's question, else rebuilt from the text's ids."""
        case, spec = self.case, self.case.spec
        if run == "" and "query" in spec:
            template = spec.get("template", self.config.template_version)
            text = prompt.text(template, spec["query"], spec.get("history"))
            rows = prompt.build(self.config, case.tokenizer, text, [BLANK] if case.has_image else [])
        elif run == "text/" and "query" in spec:
            rows = prompt.build(self.config, case.tokenizer, spec.get("text_query", SECOND_TEXT))
        else:
            rows = rebuilt(self.config, self.recorded(run), right=run.startswith("batch/right"))
        for key, array in zip(INPUTS, (rows.ids, rows.types, rows.mask, position_ids(rows.types, rows.mask))):
            yield (ACTIVATIONS, f"{run}in/{key}"), Value(array)

    def recorded(self, run):
        """prompt.Inputs of a run as the case has them."""
        ids, types, mask = (self.case[f"{run}in/{key}"] for key in INPUTS[:3])
        if ids.ndim != 2 or not ids.shape == types.shape == mask.shape or not ids.size:
            raise UserError(f"{run}in/* have the shapes {ids.shape}, {types.shape} and {mask.shape}, not one (B, T)")
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise UserError(f"{run}in/input_ids holds ids outside the vocabulary of {self.config.vocab_size}")
        return prompt.Inputs(ids, types, mask, self.images(run, ids, types, mask))

    def images(self, run, ids, types, mask):
        """The pictures of a run's rows, as Inputs.media: a row that reads as the single run has its, others the batch's.

        In 2-byte arithmetic the model gets them rounded, in every variant.
        """
        case = self.case
        single = tokens(case["in/input_ids"], case["in/attention_mask"])[0] if "in/input_ids" in case else None
        more, chosen = 1, []
        for row, row_types in zip(tokens(ids, mask), types):
            if (row_types > 0).any():
                own = np.array_equal(row, single) or f"batch/img/raw{more}" not in case
                name = "img/" if own else "batch/img/"
                number, more = ("", more) if own else (more, more + 1)
                stored = f"{name}pixel_values{number}"
                chosen.append(case[stored] if stored in case else self.picture(f"{name}raw{number}")[None])
        return prompt.images(round_to(np.concatenate(chosen), case.low_precision)) if chosen else []

    def tolerance(self, name, variant):
        if "/rope_" in name and self.case.low_precision and VARIANTS[variant] == "stored-2byte":
            return tolerance.one_unit(self.case.low_precision)
        return tolerance.float32 if variant or not self.case.low_precision else tolerance.low_precision(self.case, name)

    def forward(self, run, variant, rotary):
        """Every intermediate of one pass over a run's prompts."""
        inputs, model = self.recorded(run), self.model(rotary)
        positions = position_ids(inputs.types, inputs.mask)
        records, moved = traced(model, inputs), self.moved(model, positions)
        others = traced(moved, inputs) if moved else records
        if isinstance(model.rotary, RecordedRotary):            # what we compute, not what was recorded
            records["lm/rope_cos"], records["lm/rope_sin"] = model.rotary.ours(positions, np.float32)
        real = inputs.mask != 0                                 # a token, not padding
        for name, array in records.items():
            array, counts = to_numpy(array), None
            if name.rpartition("/")[2] in HEADS:
                counts = real[:, None, :, None]
            elif name.startswith("lm/") or name == "logits":
                counts = real.reshape(real.shape + (1,) * (array.ndim - 2))
            allowed = tolerance.exactly if array.dtype == bool else self.tolerance(run + name, variant)
            if moved and "/rope_" not in name:
                allowed = tolerance.wider(allowed, array, to_numpy(others[name]), counts)
            yield (ACTIVATIONS, variant + run + name), Value(array, allowed, counts)

    def generation(self, run, variant, rotary):
        """Greedy ids by generate.generate, and the logits of every step, cached, along the reference's ids."""
        case, model, inputs = self.case, self.model(rotary), self.recorded(run)
        name = f"{variant}{run}gen/"
        if name + "ids" not in case:
            return
        reference = case[name + "ids"]                                              # (B, n)
        (B, T), n, ends = inputs.ids.shape, reference.shape[1], self.config.eos_token_ids
        logits = along(model, inputs, reference)                                    # (B, n, V)
        going = ~after(np.isin(reference, ends))
        stride = 1 if name + "logits" in case and case[name + "logits"].shape[1] == n else SLIM_STRIDE
        allowed = self.tolerance(f"{run}gen/logits", variant)
        moved = self.moved(model, np.arange(T + n))
        if moved:
            allowed = tolerance.wider(allowed, logits, along(moved, inputs, reference), going[..., None])
        if case.low_precision and not variant:
            ids = self.plausible(reference, logits, going, case[name + "logits"] if stride == 1 else None, allowed)
        else:
            steps = list(generate.generate(model, inputs, n))
            ids = np.stack(steps + [np.full(B, ends[0])] * (n - len(steps)), 1)
            free = after(np.isin(ids, ends)) & self.fills(reference)
            ids = np.where(free, reference, ids)
        yield (ACTIVATIONS, name + "ids"), Value(ids)
        if not variant and run in RUNS_OF_META:
            yield (META, f"{RUNS_OF_META[run]}/ids"), Value(ids)
        yield (ACTIVATIONS, name + "logits"), Value(logits[:, ::stride], allowed, going[:, ::stride, None])

    def plausible(self, reference, logits, going, recorded, allowed):
        """Rounding to 2 bytes decides close calls, so the reference's id stands if it could be the best of our logits,
        and is the best of the reference's own.
        """
        best = logits.argmax(-1)                                                    # (B, n)
        gap = logits.max(-1) - np.take_along_axis(logits, reference[..., None], -1)[..., 0]
        stands = gap <= allowed(float(np.abs(logits).max()))
        if recorded is not None:
            stands &= np.take_along_axis(recorded, reference[..., None], -1)[..., 0] == recorded.max(-1)
        free = ~going & self.fills(reference)
        return np.where(stands | free, reference, best)

    def fills(self, reference):
        """Where the reference has what may stand after the end of a row: padding or eos."""
        return np.isin(reference, (self.config.pad_token_id, *self.config.eos_token_ids))

    def batch(self):
        """Inputs and labels of grads.safetensors."""
        stored = {name: values(tensor) for name, tensor in self.case.recorded[GRADS].items() if name.startswith("in/")}
        inputs = prompt.Inputs(*(stored[f"in/{key}"] for key in INPUTS[:3]), prompt.images(stored["in/pixel_values"]))
        if inputs.ids.min() < 0 or inputs.ids.max() >= self.config.vocab_size:
            raise UserError(f"in/input_ids of {GRADS} holds ids outside the vocabulary of {self.config.vocab_size}")
        return inputs, stored["in/labels"]

    def gradients(self):
        """The batch itself, its logits and loss, and the gradient of every parameter."""
        inputs, labels = self.batch()
        rows = rebuilt(self.config, inputs, right=True)
        arrays = (rows.ids, rows.types, rows.mask, position_ids(rows.types, rows.mask), answers(inputs, labels))
        for key, array in zip((*INPUTS, "labels"), arrays):
            yield (GRADS, f"in/{key}"), Value(array)
        known = [self.picture(name) for name in self.case.recorded[ACTIVATIONS]
                 if name.startswith(("img/raw", "batch/img/raw"))]
        nearest = [min(known, key=lambda one: np.abs(one - picture).max()) for picture in inputs.pixels] if known else \
            inputs.pixels
        yield (GRADS, "in/pixel_values"), Value(np.stack(nearest), tolerance.pixels)
        model = self.model()
        logits = to_numpy(model.logits(inputs))
        yield (GRADS, "logits"), Value(logits, tolerance.float32, (inputs.mask != 0)[..., None])
        loss, pull = model.loss(inputs, labels)
        yield (GRADS, "loss"), Value(np.array([float(loss)], np.float32), tolerance.float32)
        gradients = pull()
        for name in sorted(gradients, key=backward):
            yield (GRADS, f"grad/{name}"), Value(to_numpy(gradients[name]), tolerance.gradient)

    def training(self):
        """Eight steps on the same batch: SGD with rate 0.02; AdamW with rate 1e-3 and decay 0.01 on every parameter."""
        inputs, labels = self.batch()
        for optimizer in ("sgd", "adamw"):
            leaves, losses = {name: array.copy() for name, array in self.leaves.items()}, []
            moments = {name: (0 * array, 0 * array) for name, array in leaves.items()}
            for step in range(1, 9):
                loss, pull = self.model(leaves=leaves).loss(inputs, labels)
                losses.append(float(loss))
                if optimizer == "sgd":
                    sgd(leaves, pull(), 0.02)
                    continue
                for name, g in pull().items():
                    adamw(leaves[name], g, *moments[name], step, 1e-3, betas=(0.9, 0.999), eps=1e-8, decay=0.01)
            yield (GRADS, f"losses/{optimizer}"), Value(np.array(losses, np.float32), tolerance.losses(optimizer))
            for name, array in leaves.items():
                yield (GRADS, f"after8/{optimizer}/{name}"), Value(to_numpy(array), tolerance.after_steps(optimizer))


@dataclass(frozen=True)
class RecordedRotary:
    """decoder.Rotary `ours`, but at positions whose tables the reference recorded its tables instead.

    Two libraries may round a cosine to different sides. In 2 bytes that is one unit in the last place, 5e-4 in float16,
    and moves the logits by more than float32 arithmetic does. With `moved` all other entries are one unit off.
    """
    ours: Rotary
    positions: np.ndarray                                   # (P,), sorted
    cos: np.ndarray                                         # (P, d/2)
    sin: np.ndarray
    moved: bool = False

    @classmethod
    def of(cls, case, ours):
        """The tables of all runs; none of a run where an entry is more than one unit from ours."""
        half, unit = len(ours.inv_freq), tolerance.ONE_UNIT[ours.tables]
        found = [(np.zeros(0, int), np.zeros((0, half), np.float32), np.zeros((0, half), np.float32))]
        for run in case.runs:
            names = [f"{run}{name}" for name in ("in/position_ids", "lm/rope_cos", "lm/rope_sin")]
            if all(name in case for name in names):
                positions, *tables = (case[name] for name in names)
                if all(table.shape == (*positions.shape, half) and (np.abs(table - own) <= unit).all()
                       for table, own in zip(tables, ours(positions, np.float32))):
                    found.append((positions.reshape(-1), *(table.reshape(-1, half) for table in tables)))
        positions, cos, sin = map(np.concatenate, zip(*found))
        positions, first = np.unique(positions, return_index=True)
        return cls(ours, positions, cos[first], sin[first])

    @property
    def foreign(self):
        """Whether the reference's library rounds to other sides than ours."""
        cos, sin = self.ours(self.positions[None], np.float32)
        return not (np.array_equal(cos[0], self.cos) and np.array_equal(sin[0], self.sin))

    def __call__(self, positions, dtype):
        """positions (B, T) -> cos, sin (B, T, d/2)"""
        xp, tables = namespace(positions), self.ours(positions, dtype)
        host = to_numpy(positions)
        known = np.isin(host, self.positions)
        rows = np.searchsorted(self.positions, host[known])
        for table, recorded in zip(tables, (self.cos, self.sin)):
            if self.moved:
                table += tolerance.ONE_UNIT[self.ours.tables] * (-1) ** xp.arange(table.shape[-1], dtype=dtype)
            table[xp.asarray(known)] = xp.asarray(recorded[rows], dtype=dtype)
        return tables


# Where the rotary tables of a low-precision case's variants come from (load.rotary_of): "" is the original's own 2-byte
# arithmetic, the others are float32 arithmetic with the stored 2-byte weights.
VARIANTS = {"fp32math/": "stored", "": "stored-2byte", "fp32math_lowp_rope/": "stored-2byte"}
SLIM_STRIDE = 4                                         # a case with fewer logits than ids keeps every fourth step
BLANK = np.zeros((1, 1, 3), np.uint8)                   # a picture where only its place counts


def backward(name):
    """Where in the order of backpropagation a parameter gets its gradient."""
    parts = ("lm_head", "model.norm", "model.layers", "model.embed", "model.vision.eoi", "model.vision.boi",
             "model.vision.linear_proj", "model.vision.conv", "model.vision.transformer", "model.vision.patch")
    layer = re.search(r"layers\.(\d+)", name)
    return [name.startswith(part) for part in parts].index(True), -int(layer.group(1)) if layer else 0


def traced(model, inputs):
    """{name: array} of every intermediate of a forward pass."""
    with trace.recording() as records:
        model.logits(inputs)
    records["logits"] = records["lm/logits"]                    # what the batches call it
    return records


def along(model, inputs, ids):
    """The logits (B, n, V) of every step, cached, where the ids (B, n) follow the prompts whatever the logits say."""
    (B, T), n = inputs.ids.shape, ids.shape[1]
    cache = model.new_cache(B, T + n)
    position, logits = position_ids(inputs.types, inputs.mask)[:, -1:], [model.logits(inputs, cache, last=True)]
    for step in range(n - 1):
        logits.append(model.logits(generate.next_token(ids[:, step]), cache, positions=position + step + 1))
    return np.concatenate([to_numpy(step) for step in logits], 1)


def tokens(ids, mask):
    """The tokens of each row, without padding."""
    return [row[real != 0] for row, real in zip(ids, mask)]


def after(ends):
    """(B, n) bool: after the first true entry of the row"""
    return np.cumsum(ends, 1) - ends > 0


def rebuilt(config, inputs, right):
    """The batch that `prompt` makes of the text tokens in `inputs`: bos, image, padding, types and mask are ours."""
    rows = []
    for row, types in zip(tokens(inputs.ids, inputs.mask), tokens(inputs.types, inputs.mask)):
        text = row[types == 0][1:].tolist()
        given = SimpleNamespace(encode=lambda _, text=text: text)
        rows.append(prompt.build(config, given, "", [BLANK] if (types > 0).any() else []))
    return prompt.pad(rows, config.pad_token_id, **({"side": "right"} if right else {}))


def answers(inputs, labels):
    """The labels that a batch must have: the ids from each row's first label to its end, -100 elsewhere."""
    begun = np.cumsum(labels != -100, 1) > 0
    return np.where(begun & (inputs.mask != 0), inputs.ids, -100)
