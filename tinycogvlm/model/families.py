"""The families of checkpoints and what sets them apart, as data: no other file asks which family a model is of.

A checkpoint's config.json states the geometry. What it does not state is the same for all checkpoints of a family and
stands here. Another family of the same parts is another line of FAMILIES.
"""
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """What all checkpoints of a family have in common.

    key_value_heads: the field of config.json with the number of key-value heads; None where every query head has its
                   own.
    pad_token_id:  where config.json states none; None: then eos stands for padding, too.
    rope_base:     base of the rotary frequencies, where config.json states none.
    rms_norm_eps:  where config.json states none.
    pooling:       the adapter's convolution makes one token of pooling x pooling patches; 1: there is no convolution.
    qkv_bias:      whether the vision expert's QKV has a bias.
    template:      the prompt template, where config.json states none.
    text_template: the prompt template of a question without a picture; None: the same as with one.
    first_byte:    the id of byte 0 in models without a vocabulary of words (tokenizer.ByteTokenizer).
    sees:          whether there is a vision tower; if not, it is a language model.
    visual_experts: whether every block of a model that sees has one; if not, image tokens are computed as text is.
    architecture:  what config.json calls the model's class.
    bos:           whether every prompt begins with bos; if not, only where the model's own tokenizer puts it.
    stored_as:     {name in a block: the names of the checkpoint's tensors that stand there, one below the other}, where
                   they are not the same.
    """
    key_value_heads: str | None
    pad_token_id: int | None
    rope_base: float
    pooling: int
    qkv_bias: bool
    text_template: str | None
    first_byte: int
    rms_norm_eps: float = 1e-5
    template: str = "chat"
    sees: bool = True
    visual_experts: bool = True
    architecture: str = "CogVLMForCausalLM"
    bos: bool = True
    stored_as: dict = field(default_factory=dict, hash=False)


# {a block's tensor: LLaMA's names of what stands there, one below the other}
LLAMA = {
    "self_attn.language_expert_query_key_value.weight": tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
    "self_attn.language_expert_dense.weight": ("self_attn.o_proj.weight",),
    **{f"mlp.language_mlp.{part}_proj.weight": (f"mlp.{part}_proj.weight",) for part in ("gate", "up", "down")}}
FAMILIES = {
    "cogvlm1": Family(key_value_heads=None, pad_token_id=0, rope_base=10000.0, pooling=1, qkv_bias=False,
                      text_template="vicuna", first_byte=3),
    "cogvlm2": Family(key_value_heads="num_multi_query_heads", pad_token_id=128002, rope_base=500000.0, pooling=2,
                      qkv_bias=True, text_template=None, first_byte=0),
    # Reads the frames of a video (inputs/video.py); all of its parameters were trained, so it has one set of weights.
    "cogvlm2-video": Family(key_value_heads="num_multi_query_heads", pad_token_id=128002, rope_base=500000.0, pooling=2,
                            qkv_bias=False, text_template=None, first_byte=0, visual_experts=False,
                            architecture="CogVLMVideoForCausalLM"),
    # A language model as it is, such as SmolLM2, TinyLlama and Llama 3: the same blocks without a visual expert.
    "llama": Family(key_value_heads="num_key_value_heads", pad_token_id=None, rope_base=10000.0, pooling=1,
                    qkv_bias=False, text_template=None, first_byte=0, rms_norm_eps=1e-6, template="own", sees=False,
                    bos=False, architecture="LlamaForCausalLM", stored_as=LLAMA),
    # The same with a tower, an adapter and visual experts, whose own folder holds the adapter and the experts alone.
    "eyes": Family(key_value_heads="num_key_value_heads", pad_token_id=None, rope_base=10000.0, pooling=2,
                   qkv_bias=False, text_template=None, first_byte=0, rms_norm_eps=1e-6, template="own", bos=False,
                   architecture="EyesForCausalLM", stored_as=LLAMA),
}


def family_of(fields):
    """The name of the family that the fields of a config.json belong to; None if there is none."""
    if "vision_config" in fields:
        if architecture(fields) == FAMILIES["cogvlm2-video"].architecture:
            return "cogvlm2-video"
        return "cogvlm2" if FAMILIES["cogvlm2"].key_value_heads in fields else "cogvlm1"
    return "llama" if architecture(fields) == FAMILIES["llama"].architecture else None


def architecture(fields):
    """What a config.json calls the model's class, or timm its architecture; None where it does not say."""
    named = fields.get("architectures")
    return named[0] if isinstance(named, list) and named else fields.get("architecture")
