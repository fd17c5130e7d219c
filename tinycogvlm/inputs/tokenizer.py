"""Text <-> token ids: Hugging Face's tokenizer.json, Vicuna's SentencePiece tokenizer.model, both kinds in a .gguf file,
and plain bytes.

Only the template places special tokens (the ids of bos, eos, padding and other marks): text that spells "</s>" or
"<|end_of_text|>" is encoded as the characters it is, so that nobody can end a turn by typing it.
"""
import codecs
import json
import re
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ..errors import UserError
from ..nn.swap import op
from ..storage import atomic, gguf, reading
from ..storage.reading import short
from . import chat_template, sentencepiece
from .prompt import OWN

HINT = "; it should be a tokenizer.json or a SentencePiece tokenizer.model"
FILES = "tokenizer.json", "tokenizer.model"
SPARE = 1024            # rows that an embedding table may have beyond the tokens, to round its size up

# A byte that is not UTF-8 becomes one U+FFFD, as in SentencePiece; Python's "replace" makes one of up to three.
codecs.register_error("tinycogvlm.each_byte", lambda error: ("\ufffd" * (error.end - error.start), error.end))


class Tokenizer:
    """Every kind of tokenizer under one interface: encode, decode, text_stream; bos, eos, pad, vocab_size.

    start: the ids that it puts before a text of its own accord. chat_template: a chat_template.ChatTemplate, or None.
    """
    start, chat_template = (), None
    errors = "replace"          # what stands for bytes that are not UTF-8
    trim = False                # whether `decode` drops all leading spaces or only the dummy prefix

    def __init__(self, config):
        self.bos, self.eos, self.pad = config.bos_token_id, config.eos_token_id, config.pad_token_id
        self.special = {self.bos, self.pad, *config.eos_token_ids}         # ids that are not text

    @staticmethod
    def load(path, config):
        """The tokenizer of a Hugging Face folder, a tokenizer.json, a SentencePiece .model file or a .gguf file.

        Raises UserError naming the file if there is none, if it is damaged, or if it is another model's: the vocabulary
        does not fit config.vocab_size, or bos, eos or padding is not a special token in it.
        """
        path = _find(Path(path))
        read = {".json": _from_json, ".gguf": _from_gguf}.get(path.suffix, _from_model)
        content = gguf.read(path)[0] if path.suffix == ".gguf" else reading.read_bytes(path, HINT)
        try:
            with panics_reported("damaged, or not a tokenizer"):
                tokenizer = read(content, config)
            tokenizer.check(config)
            if config.template_version == OWN:
                tokenizer.chat_template = tokenizer.template(chat_template.source(path))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return tokenizer

    def encode(self, text, special=False):
        """Text to ids, without bos. No special token is recognised in it, unless `special`: the tokenizer's own way."""
        check_characters(text)
        return self._encode(text, special)

    def decode(self, ids, special=False):
        """Ids to text. Special ids are left out unless `special`, ids outside the vocabulary always."""
        text = self.text_stream(special)
        return "".join(map(text.add, ids)) + text.flush()

    def text_stream(self, special=False):
        """A TextStream, for ids that come one by one."""
        return TextStream(self, special)


def check_characters(text):
    """UserError if a text has half a character, which has no UTF-8"""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"the text has half a character (the surrogate {text[error.start]!r} at position {error.start}); it "
                        "was decoded wrongly somewhere") from None


@contextmanager
def panics_reported(sentence):
    """Whatever the tokenizers package raises, even a panic of its Rust code (no Exception), becomes a UserError."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise UserError(f"{sentence} ({type(error).__name__}: {str(error)[:200]})") from None


class TextStream:
    """`add(id)` returns the text that has become certain, never part of a character; `flush()` returns the rest.

    The joined pieces are exactly tokenizer.decode of all ids. A token is a few bytes, perhaps not whole characters; it
    is held back until the UTF-8 sequence is complete or cannot be completed (then U+FFFD stands for it).
    """

    def __init__(self, tokenizer, special):
        self.tokenizer, self.special, self.first = tokenizer, special, True
        self.utf8 = codecs.getincrementaldecoder("utf-8")(tokenizer.errors)

    def add(self, token):
        token = int(token)
        if not 0 <= token < self.tokenizer.vocab_size or (token in self.tokenizer.special and not self.special):
            return ""
        content = self.tokenizer.bytes_of(token, self.first)
        self.first = self.first and self.tokenizer.trim and not content
        return self.utf8.decode(content)

    def flush(self):
        return self.utf8.decode(b"", final=True)


class ByteTokenizer(Tokenizer):
    """A token a byte, for models without a vocabulary of words.

    CogVLM v1: padding 0, bos 1, eos 2, byte b is b + 3. CogVLM2: byte b is b, bos 256, eos 257, padding 258.
    """
    vocab_size = 259

    def __init__(self, config):
        super().__init__(config)
        self.offset = config.traits.first_byte

    def _encode(self, text, special):
        return [byte + self.offset for byte in text.encode("utf-8")]

    def bytes_of(self, token, first):
        byte = token - self.offset
        return bytes([byte]) if 0 <= byte < 256 else b""


class SubwordTokenizer(Tokenizer):
    """Byte pair encoding by an object `plain` of the tokenizers package that knows no special tokens.

    tokens {id: token as it is written in the vocabulary}; marks: ids that no text becomes, and special: those of them
    that are not text either; own: builds the tokenizers object with the special tokens in it.
    """

    def __init__(self, config, plain, tokens, marks, special, own=None):
        super().__init__(config)
        self.plain, self.tokens, self.marks, self.own = plain, tokens, marks, own
        self.special |= special
        self.vocab_size = max(tokens) + 1

    def template(self, source):
        """The ChatTemplate of a program in Jinja; None for None"""
        names = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad}
        names = {name: self.tokens[token] for name, token in names.items()}
        return source and chat_template.ChatTemplate(source, {self.tokens[token]: token for token in self.marks}, names)

    def check(self, config):
        """Raise UserError if the model of `config` was trained with another tokenizer."""
        if not config.vocab_size - SPARE < self.vocab_size <= config.vocab_size:
            raise UserError(f"{self.vocab_size} tokens, but the model knows {config.vocab_size}; this is another "
                            "model's tokenizer")
        for name, token in (("bos", self.bos), ("pad", self.pad), *(("eos", token) for token in config.eos_token_ids)):
            if token not in self.marks:
                found = f"the text {self.tokens[token]!r}" if token in self.tokens else "no token"
                raise UserError(f"{name}_token_id of the model is {token}, which is {found} here, not a special token; "
                                "this is another model's tokenizer")

    @op
    def _encode(self, text, special):
        tokenizer = self.own() if special else self.plain
        with panics_reported("the text cannot be encoded: this tokenizer.json makes the tokenizers package fail"):
            return tokenizer.encode(text, add_special_tokens=False).ids


class PieceTokenizer(SubwordTokenizer):
    """Tokens as SentencePiece writes them: a space as U+2581, a lone byte as <0x0A>; the first space is not text."""
    errors = "tinycogvlm.each_byte"
    dummy_prefix = True

    def bytes_of(self, token, first):
        piece = self.tokens.get(token, "")
        if re.fullmatch("<0x[0-9A-F]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        if first and self.dummy_prefix:
            piece = piece.removeprefix(sentencepiece.SPACE)
        return piece.replace(sentencepiece.SPACE, " ").encode("utf-8")


class SentencePieceTokenizer(PieceTokenizer):
    """A .model file, which has no way of its own to find special tokens in a text."""

    def __init__(self, config, model):
        tokens = {i: text for i, (text, _, _) in enumerate(model.pieces)}
        marks = model.ids(sentencepiece.UNKNOWN, sentencepiece.CONTROL)
        super().__init__(config, sentencepiece.BytePairs(model), tokens, marks, marks)
        self.trim = model.remove_extra_whitespaces
        self.dummy_prefix = model.add_dummy_prefix or model.remove_extra_whitespaces

    def _encode(self, text, special):
        return self.plain.encode(text)


class ByteLevelTokenizer(SubwordTokenizer):
    """Tokens as GPT-2 writes them, and Llama 3: every byte as one visible character."""

    def bytes_of(self, token, first):
        piece = self.tokens.get(token, "")
        if token in self.special or not all(character in BYTE_OF for character in piece):
            return piece.encode("utf-8")
        return bytes(BYTE_OF[character] for character in piece)


# GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes in their order for U+0100, U+0101, ...
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)}


def _from_model(content, config):
    if re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", content):
        raise UserError("a tiktoken file, as Meta ships Llama 3's; CogVLM2 needs the tokenizer.json of its Hugging "
                        "Face folder")
    return SentencePieceTokenizer(config, sentencepiece.parse(content, most=config.vocab_size))


def _from_gguf(metadata, config):
    """The tokenizer in a .gguf file: the parts of a tokenizer.json or of a tokenizer.model, under names of its own."""
    found = {name.removeprefix("tokenizer.ggml."): value for name, value in metadata.items()}
    kind, tokens = found.get("model"), found.get("tokens")
    if kind not in ("gpt2", "llama") or not tokens:
        raise UserError(f"its tokenizer is of the kind {short(kind)}; byte-level BPE ('gpt2') and SentencePiece ('llama') "
                        "can be read")
    types = found.get("token_type") or [sentencepiece.NORMAL] * len(tokens)
    before = [config.bos_token_id] if found.get("add_bos_token", kind == "llama") else []
    if kind == "llama":
        pieces = list(zip(tokens, found["scores"], types))
        tokenizer = SentencePieceTokenizer(
            config, sentencepiece.Model(pieces, found.get("add_space_prefix", True), remove_extra_whitespaces=False))
        tokenizer.start = before
        return tokenizer
    if found.get("pre") not in CUTS:
        raise UserError(f"its tokenizer cuts texts into words in the way {short(found.get('pre'))}; those known here are "
                        f"{', '.join(CUTS)}")
    added = [{"id": i, "content": token, "special": types[i] == sentencepiece.CONTROL, "single_word": False,
              "lstrip": False, "rstrip": False, "normalized": False} for i, token in enumerate(tokens)
             if types[i] in (sentencepiece.CONTROL, sentencepiece.USER_DEFINED)]
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": found["merges"],
             "ignore_merges": found["pre"] == "llama-bpe"}
    tokenizer = _from_json(json.dumps(
        {"version": "1.0", "added_tokens": added, "normalizer": None, "post_processor": None, "decoder": BYTES,
         "pre_tokenizer": {"type": "Sequence", "pretokenizers": CUTS[found["pre"]]}, "model": model}), config)
    tokenizer.start = before
    return tokenizer


# How texts are cut into words before the merges, by the names that llama.cpp gives to these ways.
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")
CUTS = {"gpt-2": [BYTES], "smollm": [{"type": "Digits", "individual_digits": True}, BYTES],
        "llama-bpe": [{"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False},
                      {**BYTES, "use_regex": False}]}


def _from_json(content, config):
    """A tokenizer.json; `plain` is without all it adds to its model: added tokens, bos and eos, truncation, padding."""
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    fields = {**json.loads(content), "truncation": None, "padding": None}
    model, added = fields["model"], fields["added_tokens"]
    decoders = {step["type"]: step for step in _steps(fields["decoder"], "decoders")}
    if model["type"] != "BPE" or not decoders.keys() & {"ByteLevel", "ByteFallback"}:
        raise UserError("neither a byte-level BPE tokenizer (as CogVLM2's) nor BPE with byte fallback (as Vicuna's)")
    for field in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(field):
            raise UserError(f"{field} is not supported; CogVLM's tokenizers have none")
    for step in _steps(fields.get("normalizer") or {"type": "Sequence"}, "normalizers"):
        _check_normalizer(step)
    tokens = {i: token for token, i in model["vocab"].items()} | {token["id"]: token["content"] for token in added}
    # Added tokens that also stand in the vocabulary must not be reached by merges or as whole words either.
    shadowed = {token["content"] for token in added} & (model["vocab"].keys() - {model.get("unk_token")})
    if shadowed:
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model = {**model, "vocab": {token: i for token, i in model["vocab"].items() if token not in shadowed},
                 "merges": [pair for pair in merges if not shadowed & {*pair, "".join(pair)}]}
    plain = HuggingFaceTokenizer.from_str(json.dumps(
        {**fields, "model": model, "added_tokens": [], "post_processor": None}))

    @cache
    def own():
        with panics_reported("the added tokens of tokenizer.json are damaged"):
            return HuggingFaceTokenizer.from_str(json.dumps(fields))

    marks, special = {token["id"] for token in added}, {token["id"] for token in added if token["special"]}
    kind = ByteLevelTokenizer if "ByteLevel" in decoders else PieceTokenizer
    tokenizer = kind(config, plain, tokens, marks, special, own)
    tokenizer.dummy_prefix = "Strip" in decoders
    if fields.get("post_processor"):
        tokenizer.start = own().encode("", add_special_tokens=True).ids
    return tokenizer


def _steps(part, name):
    """The decoders or normalisers that one consists of, itself included."""
    return [part, *(step for inner in part.get(name, []) for step in _steps(inner, name))]


def _check_normalizer(step):
    """Refuse what CogVLM's tokenizers do not have and what could make a short text endless or take for ever."""
    kind, pattern = step["type"], step.get("pattern", {}).get("String")
    if kind not in ("Sequence", "Prepend", "Replace", "NFC") or \
            (kind == "Replace" and not (pattern and len(step["content"]) <= len(pattern))):
        raise UserError(f"its normaliser {json.dumps(step)[:100]} is not supported; CogVLM's tokenizers put U+2581 "
                        "before a text and in the place of spaces, or have none")


def _find(path):
    """The tokenizer's file: `path` itself, or what a folder has."""
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).exists():
            return path / name
    raise UserError(f"{path}: no tokenizer.json or tokenizer.model in this folder. CogVLM v1's folder has none: pass "
                    "--tokenizer with the tokenizer.model of Vicuna (lmsys/vicuna-7b-v1.5)")


def copy_files(folder, out):
    """Copy whatever files of a tokenizer and its chat template the first folder has to the second one."""
    for name in (*FILES, *chat_template.FILES):
        if (folder / name).exists():
            atomic.write(out / name, reading.read_bytes(folder / name))
