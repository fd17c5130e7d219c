"""A case: one folder of what a reference implementation computed, for `verify` to compare with.

    config.json                 the geometry
    weights.safetensors         (or a Hugging Face checkpoint); without it meta.json's seed makes the weights
    activations.safetensors     what was recorded: img/, in/, vit/, adapter/, vision/, lm/, gen/, text/, batch/
    grads.safetensors           optional: a batch, its loss, the gradient of every parameter, 8 steps of two optimizers
    meta.json                   how it was made: the question, prompts with text and ids, rows of slices, differences
"""
import hashlib
import re
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..inputs.tokenizer import ByteTokenizer, Tokenizer
from ..model.config import Config
from ..storage.checkpoint import Checkpoint
from ..storage.leaves import Leaves
from ..storage.reading import read_json
from ..storage.safetensors_file import Tensor, read_header

META, ACTIVATIONS, GRADS, WEIGHTS = "meta.json", "activations.safetensors", "grads.safetensors", "weights.safetensors"


@dataclass
class Case:
    """recorded: {file: {name: Tensor or array}}, all that there is to compare; checkpoint: None if a seed makes it."""
    config: Config
    meta: dict
    recorded: dict
    checkpoint: object = None
    tokenizer: object = None
    spec: dict = field(default_factory=dict)

    @classmethod
    def read(cls, folder):
        """Raises UserError, one sentence that names the file at fault."""
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: not a folder; a case is a folder like those in tests/golden")
        config, meta = Config.read(folder), _meta(folder / META)
        seeded = "seed" in str(meta.get("weights", "")) and not any(folder.glob("*.safetensors.index.json")) \
            and not any((folder / name).exists() for name in (WEIGHTS, "model.safetensors"))
        checkpoint = None if seeded else Checkpoint(folder)
        if seeded and not isinstance(meta["spec"].get("seed"), int):
            raise UserError(f"{folder / META}: spec.seed must be the whole number that makes the weights")
        ends = meta["spec"].get("gen_eos", 0)
        for end in ends if isinstance(ends, list) and ends else [ends]:
            if type(end) is not int or not 0 <= end < config.vocab_size:
                raise UserError(f"{folder / META}: spec.gen_eos is {ends!r}, not a token of the vocabulary or several")
        recorded = {WEIGHTS: dict(checkpoint or {}), META: _facts(meta), ACTIVATIONS: read_header(folder / ACTIVATIONS)}
        if (folder / GRADS).exists():
            recorded[GRADS] = read_header(folder / GRADS)
        if not recorded[ACTIVATIONS]:
            raise UserError(f"{folder / ACTIVATIONS}: holds no tensor to compare with")
        own = any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model"))
        tokenizer = Tokenizer.load(folder, config) if own else ByteTokenizer(config)
        return cls(config, meta, recorded, checkpoint, tokenizer, meta["spec"])

    def __contains__(self, name):
        return name in self.recorded[ACTIVATIONS]

    def __getitem__(self, name):
        """A tensor of activations.safetensors."""
        if name not in self:
            raise UserError(f"{ACTIVATIONS} has no {name}")
        return values(self.recorded[ACTIVATIONS][name])

    @property
    def runs(self):
        """Prefixes of the recorded passes, in order: "" (one picture, one question), "text/", "batch/left/", ..."""
        inputs = [name.rpartition("in/") for name in self.recorded[ACTIVATIONS]]
        runs = {run for run, found, key in inputs if found and key in INPUTS}
        return sorted(runs, key=lambda run: (run.count("/"), run))

    @property
    def config_of_generation(self):
        """The configuration with the tokens that ended the reference's decoding: spec.gen_eos, else the model's eos."""
        ends = self.spec.get("gen_eos", self.config.eos_token_ids)
        first, *others = ends if isinstance(ends, (list, tuple)) else [ends]
        return replace(self.config, eos_token_id=first, other_eos_token_ids=tuple(others))

    @property
    def low_precision(self):
        """The reference's 2-byte arithmetic, "bfloat16" or "float16", or None: spec.dtype, else as the weights are."""
        stored = {tensor.dtype for tensor in (self.checkpoint or {}).values()}
        dtype = self.spec.get("dtype") or ("bfloat16" if "BF16" in stored else "float16" if "F16" in stored else None)
        return dtype if dtype in ("bfloat16", "float16") else None

    @property
    def has_image(self):
        return "img/raw" in self or "img/pixel_values" in self

    def leaves(self, convert):
        """{name: array} of the weights, each through `convert`."""
        if self.checkpoint is not None:
            return Leaves(self.checkpoint, convert)
        return {name: convert(self.seeded(name)) for name in self.config.shapes() if not name.endswith("inv_freq")}

    def seeded(self, name):
        """A weight made from spec.seed: the same on any machine.       float32, uniform on [centre - a, centre + a)"""
        shape, seed = self.config.shapes()[name], self.spec["seed"]
        generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
        uniform = generator.random(shape, dtype=np.float64) * 2 - 1
        gains = {"query_key_value": 1.2, "down_proj": 1.5, "4h_to_h": 1.5, "lm_head": 2.0}
        gain = next((gain for part, gain in gains.items() if part in name), 1.0)
        a, centre = gain * (3.0 / np.prod(shape[1:])) ** 0.5, 0.0
        if "norm" in name.split(".")[-2] and name.endswith(".weight"):
            a, centre = 0.5, 1.0
        elif name.endswith(".bias"):
            a = 0.3
        elif name.endswith(("cls_embedding", "boi", "eoi")) or "position_embedding" in name:
            a = 0.5 * 3 ** 0.5
        elif "embed_tokens" in name:
            a = 0.7 * 3 ** 0.5
        return (uniform * a + centre).astype(np.float32)

    def missing(self):
        """{file: names} that must be there because their companions are, or because meta.json speaks of them."""
        names = {name.partition("@")[0] for name in self.recorded[ACTIVATIONS]}
        wanted = {name for table in ("fp32_vs_fp64", "lowp_vs_fp32math", "lowp_vs_fp32math_lowp_rope")
                  for name in self.table(table)}
        wanted |= {f"{run}gen/ids" for run, key in RUNS_OF_META.items() if key in self.meta}
        if self.spec.get("mixed_batch"):
            wanted.add("batch/mixed/in/input_ids")
        counts = {"lm": self.config.num_hidden_layers, "vit": self.config.vision.num_hidden_layers}
        for run in {"", *self.runs}:
            for group in COMPANIONS if self.spec.get("slim") else [*COMPANIONS, "lm/vision_mask lm/language_mask"]:
                every = [run + one for one in group.split()]
                numbers = range(counts["lm"]) if "#" in group else [0]
                every = [one.replace("#", str(i)) for one in every for i in numbers]
                if names & set(every):
                    wanted |= set(every)
        if any(name.startswith("vit/layer") for name in names):
            wanted |= {f"vit/layer{i}/out" for i in range(counts["vit"])}
        if self.config.traits.pooling > 1 and "vit/patch_conv" in names:
            wanted.add("vit/conv")
        missing = {ACTIVATIONS: sorted(wanted - names)}
        grads = set(self.recorded.get(GRADS, ()))
        if grads or self.spec.get("grads") or "grads" in self.meta:
            trained = [name for name in self.config.shapes() if not name.endswith("inv_freq")]
            wanted = {"loss", "losses/sgd", "losses/adamw", "logits", "in/labels", "in/pixel_values",
                      *COMPANIONS[0].split(), *(f"grad/{name}" for name in trained)}
            after = {name.split("/", 2)[2] for name in grads if name.startswith("after8/")}
            wanted |= {f"after8/{optimizer}/{name}" for optimizer in ("sgd", "adamw") for name in after}
            missing[GRADS] = sorted(wanted - grads)
        if self.checkpoint is not None:
            missing[WEIGHTS] = sorted(name for name in self.config.shapes()
                                      if name not in self.recorded[WEIGHTS] and not name.endswith("inv_freq"))
        return missing

    def table(self, name):
        """One of meta.json's tables {tensor: {number: ...}}; empty if it has none."""
        return self.meta.get(name, {})

    def indices(self, which, length):
        """The rows that a tensor `name@which` holds, as meta.json lists them: 3, "n", "n-2", "n//2" with n = length."""
        rows = []
        for row in self.meta.get(which) or []:
            match = re.fullmatch(r"(n|\d+)(?:(//|[-+])(\d+))?", str(row))
            if not match:
                raise UserError(f"{META}: {which} holds {row!r}, which is no row")
            start, sign, other = match.groups()
            start, other = length if start == "n" else int(start), int(other or 0)
            row = start // max(other, 1) if sign == "//" else start - other if sign == "-" else start + other
            if not 0 <= row < length:
                raise UserError(f"{META}: {which} names row {row} of {length}")
            rows.append(row)
        return rows


RUNS_OF_META = {"": "gen", "text/": "text_gen", "batch/left/": "batch_gen"}         # a run: its key in meta.json

INPUTS = ("input_ids", "token_type_ids", "attention_mask", "position_ids")
PROMPT_KEYS = ("input_ids", "token_type_ids", "position_ids")                      # what meta.json says of a prompt

# What a reference records together: where one is, all must be. "#" stands for every layer.
COMPANIONS = [" ".join(f"in/{key}" for key in INPUTS), "gen/ids gen/logits",
              "lm/embeds lm/norm_out lm/logits lm/rope_cos lm/rope_sin lm/vision_mask lm/layer#/out",
              "lm/layer#/q lm/layer#/k lm/layer#/input_norm lm/layer#/post_norm",
              "lm/layer#/q_rope lm/layer#/k_rope lm/layer#/v lm/layer#/attn_ctx lm/layer#/attn_out lm/layer#/mlp_out",
              "vit/layer0/qkv vit/layer0/fc1 vit/patch_conv adapter/linear_proj adapter/norm1 img/pixel_values",
              "vit/layer0/attn_ctx vit/layer0/attn_out vit/layer0/attn_out_normed vit/layer0/mlp_out "
              "vit/layer0/mlp_out_normed vit/layer0/out vit/patch_embed vit/out adapter/out vision/out img/raw",
              "fp32math/lm/logits fp32math/lm/rope_cos fp32math/lm/rope_sin fp32math/vision/out "
              "fp32math_lowp_rope/lm/logits",
              "batch/img/raw1 batch/img/pixel_values1",
              "batch/left/in/input_ids batch/left/logits batch/right/in/input_ids batch/right/logits",
              "batch/mixed/in/input_ids batch/mixed/logits"]


def values(stored):
    """The numbers of a recorded tensor, whether it lies in a file or is an array; bfloat16 as float32."""
    if not isinstance(stored, Tensor):
        return stored
    return stored.numpy().astype(np.float32) if stored.dtype == "BF16" else stored.numpy()


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()[:16]


def _meta(path):
    meta = read_json(path)
    meta.setdefault("spec", {})
    kinds = {"spec": dict, "prompts": list, "weights_sha256": dict, "fp32_vs_fp64": dict, "lowp_vs_fp32math": dict,
             "lowp_vs_fp32math_lowp_rope": dict, "rows": list, "vrows": list, "arows": list}
    for key, kind in kinds.items():
        if not isinstance(meta.get(key, kind()), kind):
            raise UserError(f"{path}: {key} is not a JSON {'object' if kind is dict else 'array'}")
    return meta


def _facts(meta):
    """What meta.json says that can be computed, as arrays: prompts, generated ids, parameters, hashes of weights."""
    facts = {}
    try:
        for i, entry in enumerate(meta.get("prompts", [])):
            facts[f"prompts/{i}"] = flat(entry["prompt"], *(entry[key] for key in PROMPT_KEYS))
        for key in RUNS_OF_META.values():
            if key in meta:
                facts[f"{key}/ids"] = np.array(meta[key]["ids"], np.float64)
        if "parameters" in meta:
            facts["parameters"] = np.array(meta["parameters"], np.float64)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{META}: what it says of prompts, generated ids or parameters is malformed "
                        f"({type(error).__name__}: {error})") from None
    return facts | {f"weights_sha256/{name}": np.frombuffer(str(digest).encode(), np.uint8)
                    for name, digest in meta.get("weights_sha256", {}).items()}


def flat(text, *sequences):
    """A prompt as one array: the bytes of its text, then its sequences of numbers."""
    return np.concatenate([np.frombuffer(text.encode("utf-8"), np.uint8),
                           *(np.asarray(sequence, np.float64).reshape(-1) for sequence in sequences)])
