"""The families of checkpoints and what sets them apart, as data: no other file asks which family a model is of.

A checkpoint's config.json states the geometry. What it does not state is the same for all checkpoints of a family and
stands here. Another family of the same parts is another line of FAMILIES.
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What all checkpoints of a family have in common.

    key_value_heads: the field of config.json with the number of key-value heads, which tells the family; None where
                   every query head has its own.
    pad_token_id:  where config.json states none.
    rope_base:     base of the rotary frequencies.
    pooling:       the adapter's convolution makes one token of pooling x pooling patches; 1: there is no convolution.
    qkv_bias:      whether the vision expert's QKV has a bias.
    text_template: the prompt template of a question without a picture; None: the same as with one.
    first_byte:    the id of byte 0 in models without a vocabulary of words (tokenizer.ByteTokenizer).
    """
    key_value_heads: str | None
    pad_token_id: int
    rope_base: float
    pooling: int
    qkv_bias: bool
    text_template: str | None
    first_byte: int


FAMILIES = {
    "cogvlm1": Family(key_value_heads=None, pad_token_id=0, rope_base=10000.0, pooling=1, qkv_bias=False,
                      text_template="vicuna", first_byte=3),
    "cogvlm2": Family(key_value_heads="num_multi_query_heads", pad_token_id=128002, rope_base=500000.0, pooling=2,
                      qkv_bias=True, text_template=None, first_byte=0),
}


def family_of(fields):
    """The name of the family that the fields of a config.json belong to."""
    told = (name for name, family in FAMILIES.items() if family.key_value_heads in fields)
    return next(told, "cogvlm1")
