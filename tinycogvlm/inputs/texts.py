"""Texts as rows of ids (B, T), for the text towers that read whole captions: CLIP's and SigLIP's.

As in tokenizer.py no text can spell a special token: "<|endoftext|>" is encoded as the characters it is. (The originals
take it for the end.) Hugging Face's files are read: tokenizer.json for CLIP, spiece.model for SigLIP.
"""
import json
import re
import string
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..storage.reading import read_bytes, read_json
from . import sentencepiece
from .tokenizer import panics_reported

START, END = "<|startoftext|>", "<|endoftext|>"
NORMALIZERS = "Sequence", "NFC", "Lowercase", "Replace"
PUNCTUATION = str.maketrans("", "", string.punctuation)


class Texts:
    """`batch(texts)` -> ids (B, T). `encode(text)` gives a text's own ids, which `context` cuts off."""

    def __init__(self, context, start, end, whole):
        self.context, self.start, self.end, self.whole = context, start, end, whole

    def batch(self, texts):
        """start, the text, end, and `end` again as padding, to the longest of the texts, or if `whole` to the context"""
        rows = [[*self.start, *self.encode(text)[:self.context - 1 - len(self.start)], self.end] for text in texts]
        length = self.context if self.whole else max(map(len, rows), default=1)
        return np.array([row + [self.end] * (length - len(row)) for row in rows], np.int64).reshape(len(rows), length)


class ClipTexts(Texts):
    """CLIP's byte pair encoding, in lower case; a word's last piece ends with </w>."""

    def __init__(self, folder, context, vocabulary):
        path = Path(folder) / "tokenizer.json"
        fields = read_json(path, "; CLIP's folder has one")
        try:
            model, tokens = fields["model"], fields["model"]["vocab"]
            if model["type"] != "BPE" or model.get("end_of_word_suffix") != "</w>":
                raise UserError(f"{path}: not CLIP's byte pair encoding, whose words end with </w>")
            check_normalizer(fields["normalizer"], path)
            if START not in tokens or END not in tokens or max(tokens.values()) >= vocabulary:
                raise UserError(f"{path}: another model's: {len(tokens)} tokens, but config.json has {vocabulary}; "
                                f"{START} and {END} must be among them")
            plain = {**fields, "truncation": None, "padding": None, "added_tokens": [], "post_processor": None}
            with panics_reported(f"{path}: damaged, or not a tokenizer"):
                from tokenizers import Tokenizer
                self.plain = Tokenizer.from_str(json.dumps(plain))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path}: damaged, or not a tokenizer ({type(error).__name__}: {error})") from None
        super().__init__(context, [tokens[START]], tokens[END], whole=False)

    def encode(self, text):
        return self.plain.encode(text, add_special_tokens=False).ids


def check_normalizer(step, path):
    """Refuse what CLIP's tokenizer.json does not have, which could make a text endless or take for ever."""
    kind, spaces = step["type"], ({"Regex": r"\s+"}, " ")
    if kind not in NORMALIZERS or (kind == "Replace" and (step["pattern"], step["content"]) != spaces):
        raise UserError(f"{path}: its normaliser {json.dumps(step)[:100]} is not CLIP's")
    for inner in step.get("normalizers", ()):
        check_normalizer(inner, path)


class SiglipTexts(Texts):
    """SigLIP's SentencePiece: lower case, without punctuation, padded to the whole context, which the tower reads."""

    def __init__(self, folder, context, vocabulary):
        path = Path(folder) / "spiece.model"
        try:
            with panics_reported("damaged, or not a SentencePiece model"):
                self.pieces = sentencepiece.Unigram(read_bytes(path, "; SigLIP's folder has one"), vocabulary)
                end = self.pieces.ids["</s>"]
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        super().__init__(context, [], end, whole=True)

    def encode(self, text):
        """Hugging Face's way: U+2581 before the text, which stays there when punctuation after it goes."""
        text = sentencepiece.SPACE + text.lower().replace(sentencepiece.SPACE, " ")
        return self.pieces.encode(re.sub(r"\s+", " ", text.translate(PUNCTUATION)).strip())
