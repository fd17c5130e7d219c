"""Texts as rows of ids (B, T), for text towers that read whole captions: CLIP's, SigLIP's, CLAP's, and those made of a
BERT.

As in tokenizer.py no text can spell a special token: "<|endoftext|>" is encoded as the characters it is. (The originals
take it for the end.) Hugging Face's files are read: CLIP's and CLAP's tokenizer.json, SigLIP's spiece.model, BERT's
vocab.txt.
"""
import json
import re
import string
import unicodedata
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..storage.reading import read_bytes, read_json, read_text
from . import sentencepiece
from .tokenizer import check_characters, panics_reported

START, END = "<|startoftext|>", "<|endoftext|>"
NORMALIZERS = "Sequence", "NFC", "Lowercase", "Replace"
PUNCTUATION = str.maketrans("", "", string.punctuation)


class Texts:
    """`batch(texts)` -> ids (B, T). `encode(text)` gives a text's own ids, which `context` cuts off."""

    def __init__(self, context, start, end, whole, pad=None):
        self.context, self.start, self.end, self.whole = context, start, end, whole
        self.pad = end if pad is None else pad

    @property
    def room(self):
        """The tokens of a text that the context has room for"""
        return self.context - 1 - len(self.start)

    def cut(self, text):
        """Whether `batch` leaves something of the text out"""
        return len(self.encode(text)) > self.room

    def batch(self, texts):
        """start, the text, end, and padding, to the longest of the texts, or if `whole` to the context

        Raises UserError for what is no list of texts.
        """
        if isinstance(texts, str):
            raise UserError("texts is one text; pass a list of texts")
        texts = list(texts)
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f"a text is {text!r}, not a string")
            check_characters(text)
        rows = [[*self.start, *self.encode(text)[:self.room], self.end] for text in texts]
        length = self.context if self.whole else max(map(len, rows), default=1)
        return np.array([row + [self.pad] * (length - len(row)) for row in rows], np.int64).reshape(len(rows), length)


class BytePairTexts(Texts):
    """Byte pair encoding by the package tokenizers, from a tokenizer.json that a subclass checks."""
    kind, marks = "", ()                                    # what it is called; start, end and padding

    def __init__(self, folder, context, vocabulary):
        path = Path(folder) / "tokenizer.json"
        fields = read_json(path, f"; {self.kind}'s folder has one")
        try:
            tokens = fields["model"]["vocab"]
            if fields["model"].get("type", "BPE") != "BPE":         # older files leave it out
                raise UserError(f"{path}: not byte pair encoding, which {self.kind}'s is")
            self.check(fields, path)
            if not tokens.keys() >= {*self.marks} or max(tokens.values()) >= vocabulary:
                raise UserError(f"{path}: another model's: {len(tokens)} tokens, but config.json has {vocabulary}; "
                                f"{', '.join(dict.fromkeys(self.marks))} must be among them")
            plain = {**fields, "truncation": None, "padding": None, "added_tokens": [], "post_processor": None}
            with panics_reported(f"{path}: damaged, or not a tokenizer"):
                from tokenizers import Tokenizer
                self.plain = Tokenizer.from_str(json.dumps(plain))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path}: damaged, or not a tokenizer ({type(error).__name__}: {error})") from None
        start, end, pad = (tokens[mark] for mark in self.marks)
        super().__init__(context, [start], end, whole=False, pad=pad)

    def encode(self, text):
        return self.plain.encode(text, add_special_tokens=False).ids


class ClipTexts(BytePairTexts):
    """CLIP's: in lower case; a word's last piece ends with </w>."""
    kind, marks = "CLIP", (START, END, END)

    def check(self, fields, path):
        if fields["model"].get("end_of_word_suffix") != "</w>":
            raise UserError(f"{path}: not CLIP's byte pair encoding, whose words end with </w>")
        check_normalizer(fields["normalizer"], path)

    def decode(self, ids):
        """Ids to a text with a space between words and marks: "two dogs ." """
        return self.plain.decode(ids).replace("</w>", " ").strip()


class RobertaTexts(BytePairTexts):
    """RoBERTa's, which is GPT-2's: bytes as letters, and the space before a word is part of it."""
    kind, marks = "CLAP", ("<s>", "</s>", "<pad>")

    def check(self, fields, path):
        if fields["normalizer"] is not None or fields["pre_tokenizer"]["type"] != "ByteLevel":
            raise UserError(f"{path}: not RoBERTa's byte pair encoding, whose letters are the bytes of the text as it is")


def check_normalizer(step, path):
    """Refuse what CLIP's tokenizer.json does not have, which could make a text endless or take for ever."""
    kind, spaces = step["type"], ({"Regex": r"\s+"}, " ")
    if kind not in NORMALIZERS or (kind == "Replace" and (step["pattern"], step["content"]) != spaces):
        raise UserError(f"{path}: its normaliser {json.dumps(step)[:100]} is not CLIP's")
    for inner in step.get("normalizers", ()):
        check_normalizer(inner, path)


HINT = "; SigLIP's folder has one (SigLIP 2's has Gemma's tokenizer, which is not known here)"


class SiglipTexts(Texts):
    """SigLIP's SentencePiece: lower case, without punctuation, padded to the whole context, which the tower reads."""

    def __init__(self, folder, context, vocabulary):
        path = Path(folder) / "spiece.model"
        try:
            with panics_reported("damaged, or not a SentencePiece model"):
                self.pieces = sentencepiece.Unigram(read_bytes(path, HINT), vocabulary)
                end = self.pieces.ids["</s>"]
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        super().__init__(context, [], end, whole=True)

    def encode(self, text):
        """Hugging Face's way: U+2581 before the text, which stays there when punctuation after it goes."""
        text = sentencepiece.SPACE + text.lower().replace(sentencepiece.SPACE, " ")
        return self.pieces.encode(re.sub(r"\s+", " ", text.translate(PUNCTUATION)).strip())


class BertTexts(Texts):
    """BERT's WordPiece (Devlin et al. 2018, arXiv 1810.04805) in lower case: of a word the longest pieces, from its start

    A piece that does not begin its word is listed with ## before it. Accents are dropped; punctuation and Chinese
    characters are words by themselves; a word without pieces is [UNK].
    """
    special = "[CLS]", "[SEP]", "[PAD]", "[UNK]"

    def __init__(self, folder, context, vocabulary):
        path = Path(folder) / "vocab.txt"
        text = read_text(path, "; BERT's folder has one").replace("\r\n", "\n")
        self.words = text.removesuffix("\n").split("\n")
        self.ids = {word: i for i, word in enumerate(self.words)}
        if len(self.words) > vocabulary or not self.ids.keys() >= {*self.special}:
            raise UserError(f"{path}: another model's: {len(self.words)} words, but config.json has {vocabulary}; "
                            f"{', '.join(self.special)} must be among them")
        cls, sep, pad, self.unknown = (self.ids[word] for word in self.special)
        super().__init__(context, [cls], sep, whole=False, pad=pad)

    def encode(self, text):
        return [piece for word in words_of(text) for piece in self.pieces(word)]

    def pieces(self, word):
        """The ids of a word's pieces"""
        found, start = [], 0
        while start < len(word):
            mark = "##" if start else ""
            end = next((end for end in range(len(word), start, -1) if mark + word[start:end] in self.ids), None)
            if end is None or len(word) > LONGEST_WORD:
                return [self.unknown]
            found.append(self.ids[mark + word[start:end]])
            start = end
        return found

    def decode(self, ids):
        """The words of a text's ids, a space before each, also before punctuation"""
        words = [self.words[i] for i in ids if i < len(self.words) and self.words[i] not in self.special]
        return " ".join(words).replace(" ##", "")


LONGEST_WORD = 100                                          # letters; a longer one is unknown
CHINESE = "\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f"


def words_of(text):
    """A text in lower case, cut where BERT cuts it"""
    text = re.sub("[\t\n\r]", " ", text).replace("\ufffd", "")
    kept = "".join(letter for letter in text if unicodedata.category(letter) not in ("Cc", "Cf", "Co"))
    plain = "".join(letter for letter in unicodedata.normalize("NFD", re.sub(f"([{CHINESE}])", r" \1 ", kept))
                    if unicodedata.category(letter) != "Mn").lower()
    return "".join(f" {letter} " if letter in string.punctuation or unicodedata.category(letter).startswith("P")
                   else letter for letter in plain).split()
