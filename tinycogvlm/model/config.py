"""Config: the geometry of a CogVLM, read from and written to the config.json of its Hugging Face folder.

What config.json does not state, such as the rotary base, is a matter of the family: see families.py.
"""
import json
import math
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path

from ..errors import UserError
from ..inputs.prompt import NO_EYES, OWN, TEMPLATES
from ..nn.tree import below
from ..storage import atomic, gguf
from ..storage.codes import METHOD
from ..storage.reading import read_json, short
from . import adapter, decoder
from .families import FAMILIES, architecture, family_of
from .parts import EMBEDDING

VISION_FIELDS = ("hidden_size", "num_hidden_layers", "num_heads", "intermediate_size", "patch_size", "image_size",
                 "layer_norm_eps", "in_channels")
FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "max_position_embeddings", "rms_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id")
ROPE_SCALING = "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"
FLOATS = "layer_norm_eps", "rms_norm_eps"
AT_ONCE = 512                           # tokens, which keep a matrix product busy
DEFAULTS = dict(layer_norm_eps=1e-6, in_channels=3, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2)


@dataclass(frozen=True)
class VisionConfig:
    """The geometry of the vision tower: post-norm blocks over square patches and a CLS token."""
    hidden_size: int
    num_hidden_layers: int
    num_heads: int
    intermediate_size: int
    patch_size: int
    image_size: int                     # pixels a side
    layer_norm_eps: float = 1e-6
    in_channels: int = 3

    @property
    def grid(self):
        """Patches a side; pixels that fill no whole patch are not seen."""
        return self.image_size // self.patch_size

    @property
    def num_positions(self):
        """Rows of the position table: CLS and the patches."""
        return self.grid ** 2 + 1


@dataclass(frozen=True)
class Config:
    """The geometry of the language model with its visual experts, and of the vision tower before it.

    vision is None for a language model, which sees nothing: its blocks have one expert.
    """
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vision: VisionConfig | None
    family: str = "cogvlm1"             # one of families.FAMILIES
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    bos_token_id: int = 1
    eos_token_id: int = 2               # what the model says at the end of an answer
    pad_token_id: int = 0
    template_version: str = "chat"
    other_eos_token_ids: tuple = ()     # these end an answer, too
    rope_theta: float | None = None     # None: the family's
    rope_scaling: tuple | None = None   # of Llama 3.1 and later: factor, low, high, context of decoder.slowed
    tied: bool = False                  # whether the embedding table is the output head as well
    ear: object = None                  # what it hears with, relatives.hearing.Ear; None: it is deaf
    rank: int | None = None             # of what the vision experts differ by from the language experts; None: any

    @property
    def eos_token_ids(self):
        """Every token that ends an answer."""
        return self.eos_token_id, *self.other_eos_token_ids

    @property
    def head_size(self):
        """d, the width of a head of queries, keys or values."""
        return self.hidden_size // self.num_attention_heads

    @property
    def traits(self):
        """What all checkpoints of the family have in common: a families.Family."""
        return FAMILIES[self.family]

    @property
    def rope_base(self):
        """The base of the rotary frequencies."""
        return self.rope_theta or self.traits.rope_base

    @property
    def experts(self):
        """The sets of weights that a block has"""
        seeing = ("vision", "language") if self.vision and self.traits.visual_experts else ("language",)
        return (*seeing, "sound") if self.ear and self.ear.expert == "sound" else seeing

    @property
    def head(self):
        """The path of the output head's matrix"""
        return "model.embed_tokens" if self.tied else "lm_head"

    @property
    def tables(self):
        """Names of the tensors whose rows are looked up, and which nothing multiplies"""
        return () if self.tied else (EMBEDDING,)

    @property
    def num_patches(self):
        """Patches of an image in the language model; CogVLM2's 2x2 convolution drops an odd row and column."""
        return (self.vision.grid // self.traits.pooling) ** 2 if self.vision else 0

    @property
    def num_image_tokens(self):
        """Tokens of an image in the sequence: boi, the patches and eoi."""
        return self.num_patches + 2 if self.vision else 0

    @property
    def tokens_at_once(self):
        """How many tokens of a prompt the blocks compute at a time: a picture and a question, or a part of a video."""
        return max(AT_ONCE, self.num_image_tokens + 64)

    def resized(self, image_size):
        """The same model for pictures of another size; its position table is interpolated when used.

        Raises UserError unless a picture of that size has at least one token and its tokens fit into the context.
        """
        if not self.vision:
            raise UserError(f"the image size is {image_size!r}, but {NO_EYES}")
        step = self.vision.patch_size * self.traits.pooling
        largest = step * math.isqrt(max(0, self.max_position_embeddings - 4))       # beside bos, boi, eoi and a word
        if isinstance(image_size, bool) or not isinstance(image_size, Integral) or not step <= image_size <= largest:
            raise UserError(f"the image size is {image_size!r}; it must be a whole number from {step}, which is one "
                            f"image token, to {largest}, which fills the context of {self.max_position_embeddings}")
        return replace(self, vision=replace(self.vision, image_size=image_size))

    def with_eyes(self, vision, rank=None):
        """The Config of this language model with a tower, a VisionConfig, and with visual experts of a rank."""
        return replace(self, family="eyes", vision=vision, rank=rank)

    @classmethod
    def read(cls, path):
        """Config of a Hugging Face folder, of a config.json or of a .gguf file.

        Raises UserError naming the file and the field.
        """
        path = Path(path)
        if path.suffix == ".gguf":
            return cls.from_dict(gguf.fields(path), path)
        hint = "; a CogVLM folder holds a config.json"
        if (path / "adapter_config.json").exists():
            hint = "; the folder holds a LoRA adapter, which is added to a model with --lora"
        path = path / "config.json" if path.is_dir() else path
        fields, generation = read_json(path, hint), path.with_name("generation_config.json")
        if architecture(fields) == FAMILIES["eyes"].architecture:
            raise UserError(f"{path}: eyes for a language model, with which ask, chat, eval and load(...) put it together")
        if family_of(fields) == "llama" and generation.exists():
            fields |= {name: ids for name, ids in read_json(generation).items() if name == "eos_token_id"}
        return cls.from_dict(fields, path)

    @classmethod
    def from_dict(cls, fields, path="config.json"):
        """Config of the fields of a config.json; `path` is what messages name."""
        family = family_of(fields) if isinstance(fields, dict) else None
        known = dict.fromkeys(traits.architecture for traits in FAMILIES.values())
        if isinstance(fields, dict) and architecture(fields) not in (None, *known):
            raise UserError(f"{path}: a model of the architecture {short(architecture(fields))}; {', '.join(known)} "
                            "can be read, and by load and info the relatives of docs/checkpoints.md")
        if family is None or (FAMILIES[family].sees and not isinstance(fields["vision_config"], dict)):
            raise UserError(f"{path}: no CogVLM config: the object vision_config is missing")
        traits, others = FAMILIES[family], []
        fields = {"rms_norm_eps": traits.rms_norm_eps, "template_version": traits.template, **fields}
        if isinstance(fields.get("eos_token_id"), list) and fields["eos_token_id"]:
            fields["eos_token_id"], *others = fields["eos_token_id"]
        others = tuple(_number({"eos_token_id": other}, "eos_token_id", path) for other in others)
        if fields.get("pad_token_id") is None:
            fields["pad_token_id"] = traits.pad_token_id
        if fields["pad_token_id"] is None:
            fields["pad_token_id"] = _number(fields, "eos_token_id", path)
        vision, more = None, {}
        if traits.sees:
            vision = VisionConfig(**{name: _number(fields["vision_config"], name, path, "vision_config.")
                                     for name in VISION_FIELDS})
        else:
            theta, scaling = _rope(fields, path)
            more = dict(rope_theta=theta, rope_scaling=scaling, tied=fields.get("tie_word_embeddings", False) is True)
        values = {name: _number(fields, name, path) for name in FIELDS}
        key_value_heads = values["num_attention_heads"]
        if traits.key_value_heads in fields:
            key_value_heads = _number(fields, traits.key_value_heads, path)
        config = cls(**values, num_key_value_heads=key_value_heads, vision=vision, family=family,
                     template_version=fields["template_version"], other_eos_token_ids=others, **more)
        config._check(path, fields)
        return config

    def _check(self, path, fields):
        """Raise UserError for fields that do not fit each other; `fields` is what the file says."""
        def require(holds, sentence):
            if not holds:
                raise UserError(f"{path}: {sentence}")
        vision = self.vision
        require(self.hidden_size % (2 * self.num_attention_heads) == 0,
                f"hidden_size {self.hidden_size} must be an even multiple of num_attention_heads "
                f"{self.num_attention_heads}")
        require(self.num_attention_heads % self.num_key_value_heads == 0,
                f"num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"{self.traits.key_value_heads} {self.num_key_value_heads}")
        for name, token in (("bos_token_id", self.bos_token_id), ("pad_token_id", self.pad_token_id),
                            *(("eos_token_id", token) for token in self.eos_token_ids)):
            require(token < self.vocab_size,
                    f"{name} {token} is outside the vocabulary: vocab_size is {self.vocab_size}")
        require(isinstance(self.template_version, str) and self.template_version in (*TEMPLATES, OWN),
                f"template_version is {short(self.template_version)}, not one of {', '.join((*TEMPLATES, OWN))}")
        quantised = fields.get("quantization_config")
        ours = isinstance(quantised, dict) and quantised.get("quant_method") == METHOD
        require(not quantised or ours, "quantization_config says that the weights are quantised, which "
                "cannot be read here; take the unquantised repository, with --kernels --dtype int4 for less memory")
        require(fields.get("hidden_act", "silu") == "silu",
                f"hidden_act {short(fields.get('hidden_act'))} is not {self.family}'s 'silu'")
        if not vision:
            for name in ("attention_bias", "mlp_bias"):
                require(not fields.get(name), f"{name} is set; of llama models only those without biases can be read")
            require(fields.get("head_dim", self.head_size) in (None, self.head_size),
                    f"head_dim is {short(fields.get('head_dim'))}, but hidden_size {self.hidden_size} and "
                    f"num_attention_heads {self.num_attention_heads} make {self.head_size}")
            return
        require(vision.hidden_size % vision.num_heads == 0,
                f"vision_config.hidden_size {vision.hidden_size} must be a multiple of num_heads {vision.num_heads}")
        require(vision.grid >= self.traits.pooling,
                f"vision_config.image_size {vision.image_size} is too small for patch_size {vision.patch_size}")
        seen = fields["vision_config"]
        stated = seen.get("num_positions", vision.num_positions)
        require(stated == vision.num_positions,
                f"vision_config.num_positions is {stated}, but image_size {vision.image_size} and patch_size "
                f"{vision.patch_size} make {vision.num_positions} (CLS and {vision.grid} x {vision.grid} patches)")
        require(vision.in_channels == 3, f"vision_config.in_channels is {vision.in_channels}; pictures have 3")
        require(seen.get("hidden_act", "gelu") == "gelu",
                f"vision_config.hidden_act {short(seen.get('hidden_act'))} is not CogVLM's 'gelu'")

    def to_dict(self):
        """The fields of config.json as the original writes them."""
        fields = {"architectures": [self.traits.architecture], **{name: getattr(self, name) for name in FIELDS}}
        if self.traits.key_value_heads:
            fields[self.traits.key_value_heads] = self.num_key_value_heads
        if self.other_eos_token_ids:
            fields["eos_token_id"] = list(self.eos_token_ids)
        if not self.vision:
            scaling = self.rope_scaling and {"rope_type": "llama3", **dict(zip(ROPE_SCALING, self.rope_scaling))}
            return {**fields, "model_type": "llama", "hidden_act": "silu", "rope_theta": self.rope_base,
                    "rope_scaling": scaling, "tie_word_embeddings": self.tied}
        fields["auto_map"] = {"AutoConfig": "configuration_cogvlm.CogVLMConfig",
                              "AutoModelForCausalLM": f"modeling_cogvlm.{self.traits.architecture}"}
        vision = {name: getattr(self.vision, name) for name in VISION_FIELDS}
        return {**fields, "hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": False,
                "use_cache": True, "template_version": self.template_version,
                "vision_config": {**vision, "num_positions": self.vision.num_positions, "hidden_act": "gelu",
                                  "dropout_prob": 0.0}}

    def write(self, folder):
        """Write config.json into `folder`, whole or not at all."""
        atomic.write(Path(folder) / "config.json", json.dumps(self.to_dict(), indent=2) + "\n")

    def shapes(self):
        """{name: shape} of every tensor of the checkpoint, under its own names; each part lists its own."""
        V, D, blocks = self.vocab_size, self.hidden_size, decoder.shapes(self)
        found = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,), f"{self.head}.weight": (V, D)}
        for i in range(self.num_hidden_layers):
            found |= below(f"model.layers.{i}", blocks)
        found |= below("model.vision", adapter.shapes(self)) if self.vision else {}
        return found | (below("model.sound", self.ear.shapes(self)) if self.ear else {})

    def stored_as(self):
        """{name: the checkpoint's names} of the tensors that are stored under others, see families.Family"""
        return {f"model.layers.{i}.{name}": tuple(f"model.layers.{i}.{other}" for other in others)
                for i in range(self.num_hidden_layers) for name, others in self.traits.stored_as.items()}


def _rope(fields, path):
    """The base of the rotary frequencies, under its old or its new name, and how they are scaled, as Config has it."""
    settings = fields.get("rope_parameters") or {}
    scaling = fields.get("rope_scaling") or settings
    kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else scaling
    if kind not in ("default", "llama3"):
        raise UserError(f"{path}: the rotary frequencies are scaled in the way {short(kind)}, which cannot be computed "
                        "here; Llama 3.1's way, 'llama3', can")
    theta = fields.get("rope_theta", settings.get("rope_theta"))
    if theta is not None and not _above(theta, 1):
        raise UserError(f"{path}: rope_theta is {short(theta)}, not a number above 1")
    if kind == "default":
        return theta, None
    found = tuple(scaling.get(name) for name in ROPE_SCALING)
    for name, value in zip(ROPE_SCALING, found):
        if not _above(value, 0):
            raise UserError(f"{path}: rope_scaling.{name} is {short(value)}, not a number above 0")
    if found[1] >= found[2]:
        raise UserError(f"{path}: rope_scaling.low_freq_factor {found[1]} must be below high_freq_factor {found[2]}")
    return theta, found


def _above(value, lowest):
    return not isinstance(value, bool) and isinstance(value, (int, float)) and lowest < value < 1e12


def _number(fields, name, path, inside=""):
    """A positive number of config.json (ids may be 0), or a UserError that names the field."""
    value = fields.get(name, DEFAULTS.get(name))
    if value is None:
        raise UserError(f"{path}: {inside}{name} is missing")
    kinds = (int, float) if name in FLOATS else int
    lowest, highest = 0 if name.endswith("_id") else 1, 1000 if name == "num_hidden_layers" else 10 ** 9
    if isinstance(value, bool) or not isinstance(value, kinds) or \
            not (lowest <= value <= highest if kinds is int else 0 < value < 1):
        wanted = "a number between 0 and 1" if name in FLOATS else f"a whole number from {lowest} to {highest}"
        raise UserError(f"{path}: {inside}{name} is {short(value)}, not {wanted}")
    return value
