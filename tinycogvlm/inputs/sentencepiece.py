"""SentencePiece's tokenizer.model, as Vicuna ships it: a protobuf of scored pieces, read and applied to texts.

Kudo & Richardson 2018 (arXiv 1808.06226). Byte pair encoding is read with byte fallback and without a character map,
which is what Llama and Vicuna use: the only normalisation is that spaces are written as U+2581 and that one is put
before the text (the "dummy prefix"). Unigram models, which SigLIP and T5 use, may have a character map.
"""
import math
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush

from ..errors import UserError

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)     # ModelProto.SentencePiece.Type
UNIGRAM, BYTE_PAIR_ENCODING = 1, 2                                      # TrainerSpec.ModelType
WORDS = 1 << 16                                                         # as many words' ids are remembered


@dataclass
class Model:
    """A piece's place in `pieces` is its token id."""
    pieces: list                        # of (text, score, type)
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool

    def ids(self, *kinds):
        return {i for i, (_, _, kind) in enumerate(self.pieces) if kind in kinds}


def parse(content, most=math.inf):
    """The bytes of a .model file -> Model

    Raises UserError if they are damaged, another kind of model, or hold more than `most` pieces (the rest is not read).
    """
    pieces, trainer, normalizer, denormalizer = _read(content, most)
    _check(pieces, trainer, normalizer, denormalizer)
    return Model(pieces, bool(normalizer.get(3, True)), bool(normalizer.get(4, True)))


def _read(content, most):
    """(pieces, fields of TrainerSpec, of NormalizerSpec, of the denormaliser's) of a .model file's bytes"""
    try:
        pieces, trainer, normalizer, denormalizer = [], {}, {}, {}
        for field, value in _fields(content):
            if field == 1:
                piece = {1: b"", 2: bytes(4), 3: NORMAL, **dict(_fields(value))}
                pieces.append((piece[1].decode("utf-8"), struct.unpack("<f", piece[2])[0], piece[3]))
                if len(pieces) > most:
                    break
            elif field in (2, 3, 5):
                {2: trainer, 3: normalizer, 5: denormalizer}[field].update(_fields(value))
    except (ValueError, LookupError, TypeError, AttributeError, struct.error):     # cut short, or another kind of field
        raise UserError("damaged, or no SentencePiece model") from None
    if len(pieces) > most:
        raise UserError(f"more than {most} pieces, which is all that the model knows; this is another model's "
                        "tokenizer")
    return pieces, trainer, normalizer, denormalizer


class Unigram:
    """`encode` finds the pieces of a text whose scores, logarithms of probabilities, have the largest sum (Kudo 2018,
    arXiv 1804.10959), by the package tokenizers. The text is normalised by the model's character map; no U+2581 is put
    before it. Runs of characters that are no piece become one unknown token.
    """

    def __init__(self, content, most=math.inf):
        from tokenizers import models, normalizers
        pieces, trainer, normalizer, _ = _read(content, most)
        kinds = [kind for _, _, kind in pieces]
        if trainer.get(3, UNIGRAM) != UNIGRAM or trainer.get(35) or UNKNOWN not in kinds or \
                not set(kinds) <= {NORMAL, UNKNOWN, CONTROL}:
            raise UserError("a SentencePiece model, but not a plain unigram one, which SigLIP's is")
        self.ids = {text: i for i, (text, _, _) in enumerate(pieces)}
        self.model = models.Unigram([(text, score) for text, score, _ in pieces], kinds.index(UNKNOWN), False)
        self.map = normalizers.Precompiled(normalizer[2]) if normalizer.get(2) else None
        self.remove_extra_whitespaces = bool(normalizer.get(4, True))

    def encode(self, text):
        """str -> [id, ...]"""
        text = self.map.normalize_str(text) if self.map else text
        if self.remove_extra_whitespaces:
            text = re.sub(" +", " ", re.sub(rf"\A +|[ {SPACE}]+\Z", "", text))
        return [token.id for token in self.model.tokenize(text.replace(" ", SPACE))]


class BytePairs:
    """`encode` merges as SentencePiece does: of all neighbours that join to a piece, the highest score first.

    Of equal scores the leftmost is first; in Llama's file all runs of spaces share one score. A text is cut before each
    word, where no piece lies across, and the ids of words are kept, so that a long text takes linear time.
    """

    def __init__(self, model):
        self.model = model
        self.score = {text: score for text, score, kind in model.pieces if kind == NORMAL}
        self.ids = {text: i for i, (text, _, kind) in enumerate(model.pieces) if kind in (NORMAL, BYTE)}
        spans = any(re.search(f"[^{SPACE}]{SPACE}", text) for text in self.score)
        self.word = re.compile(".+" if spans else f"{SPACE}*[^{SPACE}]+|{SPACE}+", re.DOTALL)
        self.of_word = lru_cache(WORDS)(self._of_word)

    def encode(self, text):
        """str -> [id, ...]. No control piece ("</s>") is recognised, so no text can become one."""
        if self.model.remove_extra_whitespaces:
            text = re.sub(rf"\A +|[ {SPACE}]+\Z", "", text)
            text = re.sub(" +", " ", text)
        if text and self.model.add_dummy_prefix:
            text = SPACE + text
        return [i for word in self.word.findall(text.replace(" ", SPACE)) for i in self.of_word(word)]

    def _of_word(self, word):
        return [i for piece in merged(word, self.score) for i in self._of_piece(piece)]

    def _of_piece(self, piece):
        """A piece's id; of a character that is no piece, those of its UTF-8 bytes."""
        return [self.ids[piece]] if piece in self.score else [self.ids[f"<0x{byte:02X}>"] for byte in piece.encode()]


def merged(text, score):
    """The characters of a text joined to pieces as long as two neighbours have a score together -> [str, ...]"""
    pieces = list(text)                                     # a piece stands at its first character, "" at the others
    before, after = list(range(-1, len(pieces) - 1)), list(range(1, len(pieces) + 1))
    candidates = []

    def propose(left, right):
        if left >= 0 and right < len(pieces):
            joined = pieces[left] + pieces[right]
            if joined in score:
                heappush(candidates, (-score[joined], left, right, joined))

    for left in range(len(pieces) - 1):
        propose(left, left + 1)
    while candidates:
        _, left, right, joined = heappop(candidates)
        if not pieces[left] or not pieces[right] or pieces[left] + pieces[right] != joined:
            continue                                        # one of the two has been joined to another since
        pieces[left], pieces[right] = joined, ""
        after[left] = after[right]
        if after[left] < len(pieces):
            before[after[left]] = left
        propose(before[left], left)
        propose(left, after[left])
    return [piece for piece in pieces if piece]


def _check(pieces, trainer, normalizer, denormalizer):
    """Refuse everything that would make `BytePairs` another tokenizer than SentencePiece's."""
    def require(holds, sentence):
        if not holds:
            raise UserError(sentence)
    require(pieces, "a SentencePiece model without pieces")
    require(trainer.get(3, 1) == BYTE_PAIR_ENCODING,
            "a SentencePiece model, but not of byte pair encoding (BPE), which Vicuna's tokenizer.model is")
    require(not normalizer.get(2) and not denormalizer.get(2),
            "its normalisation has a character map, which is not supported; Vicuna's has none (identity)")
    require(normalizer.get(5, True) and not trainer.get(24, False),
            "its spaces are not written as U+2581 before words, as Vicuna's are")
    require(len({text for text, _, _ in pieces}) == len(pieces), "damaged: a piece occurs twice")
    for i, (text, score, kind) in enumerate(pieces):
        require(text and math.isfinite(score), f"damaged: piece {i} is empty or has no score")
        require(kind in (NORMAL, UNKNOWN, CONTROL, BYTE),
                f"piece {i} ({text!r}) is of type {kind}: only normal, unknown, control and byte pieces are supported")
    require({text for text, _, kind in pieces if kind == BYTE} == {f"<0x{byte:02X}>" for byte in range(256)},
            "it lacks the 256 byte pieces <0x00> to <0xFF> that Vicuna's has")


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
                size = {1: 8, 5: 4}[wire]
            value, at = content[at:at + size], at + size
            if at > len(content):
                raise ValueError
        yield key >> 3, value


def _varint(content, at):
    """Seven bits a byte, the lowest first; the top bit says that more follow -> value, the position after it"""
    value = content[at]
    if value < 128:                                         # nearly always
        return value, at + 1
    value &= 127
    for shift in range(7, 70, 7):
        at += 1
        value |= (content[at] & 127) << shift
        if content[at] < 128:
            return value, at + 1
    raise ValueError
