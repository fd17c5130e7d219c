"""SentencePiece's tokenizer.model, as Vicuna ships it: a protobuf of scored pieces, turned into a tokenizers object.

Kudo & Richardson 2018. Only byte pair encoding with byte fallback and without a character map is read, which is what
Llama and Vicuna use: no normalisation but spaces written as U+2581, and one put in front ("dummy prefix").
"""
import math
import struct
from dataclasses import dataclass

from ..errors import UserError

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)     # ModelProto.SentencePiece.Type
BYTE_PAIR_ENCODING = 2                                                  # TrainerSpec.ModelType
LONGEST = 256                                                           # characters; SentencePiece's default is 16


@dataclass
class Model:
    """A piece's place in `pieces` is its token id."""
    pieces: list                        # of (text, score, type)
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool

    def ids(self, *types):
        return {i for i, (_, _, type) in enumerate(self.pieces) if type in types}


def parse(content):
    """The bytes of a .model file -> Model. Raises UserError if they are damaged or another kind of model."""
    try:
        pieces, trainer, normalizer, denormalizer = [], {}, {}, {}
        for field, value in _fields(content):
            if field == 1:
                piece = {1: b"", 2: bytes(4), 3: NORMAL, **dict(_fields(value))}
                pieces.append((piece[1].decode("utf-8"), struct.unpack("<f", piece[2])[0], piece[3]))
            elif field in (2, 3, 5):
                {2: trainer, 3: normalizer, 5: denormalizer}[field].update(_fields(value))
    except (ValueError, TypeError, AttributeError, struct.error):      # cut short, or a field of another type
        raise UserError("damaged, or no SentencePiece model") from None
    _check(pieces, trainer, normalizer, denormalizer)
    return Model(pieces, bool(normalizer.get(3, True)), bool(normalizer.get(4, True)))


def to_tokenizers(model):
    """The same tokenizer as a tokenizers.Tokenizer.

    SentencePiece merges, of all neighbours whose concatenation is a piece, those of the highest score, the leftmost
    first. The tokenizers package merges by a list of pairs in order: so that list is every way to cut every piece in
    two pieces, by falling score. Control pieces ("</s>") are left out, so no text can become one.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers
    score = {text: score for text, score, type in model.pieces if type == NORMAL}
    merges = [(text[:cut], text[cut:]) for text in sorted(score, key=score.get, reverse=True)
              for cut in range(1, len(text)) if text[:cut] in score and text[cut:] in score]
    vocabulary = {text: i for i, (text, _, type) in enumerate(model.pieces) if type in (NORMAL, BYTE)}
    steps = []
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""), normalizers.Replace(Regex(" +"), " ")]
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    return tokenizer


def _check(pieces, trainer, normalizer, denormalizer):
    """Everything that would make `to_tokenizers` another tokenizer than SentencePiece's."""
    def require(holds, sentence):
        if not holds:
            raise UserError(sentence)
    require(pieces, "a SentencePiece model without pieces")
    require(trainer.get(3, 1) == BYTE_PAIR_ENCODING,
            "a SentencePiece model, but not of byte pair encoding (BPE), which Vicuna's tokenizer.model is")
    require(not normalizer.get(2) and not denormalizer.get(2),
            "its normalisation has a character map, which is not supported; Vicuna's has none (identity)")
    require(normalizer.get(5, True) and not trainer.get(24, False),
            "its spaces are not written as U+2581 in front of words, as Vicuna's are")
    require(len({text for text, _, _ in pieces}) == len(pieces), "damaged: a piece occurs twice")
    for i, (text, score, type) in enumerate(pieces):
        require(0 < len(text) <= LONGEST and math.isfinite(score),
                f"damaged: piece {i} is empty, longer than {LONGEST} characters or without a score")
        require(type in (NORMAL, UNKNOWN, CONTROL, BYTE),
                f"piece {i} ({text!r}) is of type {type}: only normal, unknown, control and byte pieces are supported")
    require({text for text, _, type in pieces if type == BYTE} == {f"<0x{byte:02X}>" for byte in range(256)},
            "it lacks the 256 byte pieces <0x00> to <0xFF> that Vicuna's has")
    normal = {text: score for text, score, type in pieces if type == NORMAL}
    scores = [score for text, score in normal.items() if len(text) > 1]
    require(len(set(scores)) == len(scores), "damaged: two pieces have the same score, so their order is undefined")
    require(set().union(*normal) <= normal.keys(), "damaged: a character of some piece is not a piece itself")


def _fields(content):
    """(field number, value) of every field of a protobuf message: int for a varint, otherwise bytes."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(content, at)
        else:
            if wire == 2:
                size, at = _varint(content, at)
            else:
                size = {1: 8, 5: 4}.get(wire)
            if size is None or at + size > len(content):
                raise ValueError
            value, at = content[at:at + size], at + size
        yield key >> 3, value


def _varint(content, at):
    """Seven bits a byte, the lowest first; the top bit says that more follow -> value, position behind it"""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(content):
            raise ValueError
        value |= (content[at] & 127) << shift
        at += 1
        if content[at - 1] < 128:
            return value, at
    raise ValueError
