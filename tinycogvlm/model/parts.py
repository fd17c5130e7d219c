"""Which part of the model a tensor belongs to: the one place that knows tensors by the patterns of their names.

A pattern is in the shell's style, as in tree.Gradients: "model.vision.*". Every parameter belongs to exactly one part.
"""
import math
from functools import cache

from ..nn.tree import matches
from ..storage.quantise import GROUP

PARTS = {
    "vision transformer": ("model.vision.patch_embedding.*", "model.vision.transformer.*"),
    "adapter": ("model.vision.conv.*", "model.vision.linear_proj.*", "model.vision.boi", "model.vision.eoi"),
    "vision experts": ("*.vision_expert_*", "*.vision_mlp.*"),              # of attention, of the MLP
    "language experts": ("*.language_expert_*", "*.language_mlp.*"),
    "embedding": ("model.embed_tokens.weight",),
    "language norms": ("model.layers.*norm.weight", "model.norm.weight"),
    "lm_head": ("lm_head.weight",),
    "ears": ("model.sound.*",),                                             # of relatives/hearing.py
    "sound experts": ("*.sound_expert_*", "*.sound_mlp.*"),
}
TOWER, ADAPTER, EXPERTS = PARTS["vision transformer"], PARTS["adapter"], PARTS["vision experts"]
LANGUAGE = sum((PARTS[name] for name in ("language experts", "embedding", "language norms", "lm_head")), ())
HEARING = PARTS["ears"] + PARTS["sound experts"]
EMBEDDING, HEAD = PARTS["embedding"][0], PARTS["lm_head"][0]
POSITIONS = "model.vision.patch_embedding.position_embedding.weight"
BLOCKS = ("model.layers.*",)                                # the language model's, with both experts
ALL_BLOCKS = ("*.layers.*",)                                # those of towers, too, and of relatives
PACKED = ("*query_key_value.weight",)                       # Q, K and V, one below the other
COMPUTED = ("*.rotary_emb.inv_freq",)                       # stored in checkpoints, but not learned
INV_FREQ = "model.layers.0.self_attn.rotary_emb.inv_freq"   # alike in all layers
VECTORS = (EMBEDDING, POSITIONS, "*.cls_embedding", "*.boi", "*.eoi")   # looked up or inserted, never multiplied


@cache
def part(name):
    """The name in PARTS of the part that a parameter belongs to."""
    return next(part for part, patterns in PARTS.items() if matches(name, patterns))


def twin(name):
    """The language model's tensor that stands where the visual expert's `name` stands."""
    return name.replace("vision_expert", "language_expert").replace("vision_mlp", "language_mlp")


def matrices(shapes, head=False):
    """Names of the tensors, of {name: shape}, that are stored in 8 or 4 bits where the model is quantised.

    Every matrix of both experts, of the tower and of the adapter whose rows hold a multiple of quantise.GROUP numbers;
    with `head` the embedding table and lm_head too. Norms, biases, the position table and the 588 columns of the patch
    embedding stay as they are.
    """
    others = (POSITIONS,) if head else (POSITIONS, EMBEDDING, HEAD)
    return [name for name, shape in shapes.items() if name.endswith(".weight") and len(shape) > 1
            and math.prod(shape[1:]) % GROUP == 0 and name not in others]
