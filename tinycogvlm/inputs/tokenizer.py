"""Text <-> token ids: Hugging Face's tokenizer.json, Vicuna's SentencePiece tokenizer.model, and plain bytes.

Special tokens (the ids of bos, eos, padding and other marks) are placed by the template and by nothing else: text that
spells "</s>" or "<|end_of_text|>" is encoded as the characters it is, so that nobody can end a turn by typing it.
"""
import codecs
import json
import re
from functools import cache
from pathlib import Path

from ..errors import UserError
from ..nn.swap import op
from . import sentencepiece

LARGEST = 1 << 28       # bytes of a tokenizer file; Llama 3's tokenizer.json has 9 million

# A byte that is no UTF-8 becomes one U+FFFD each, as in SentencePiece; Python's "replace" makes one of up to three.
codecs.register_error("tinycogvlm.each_byte", lambda error: ("\ufffd" * (error.end - error.start), error.end))


class Tokenizer:
    """Every kind of tokenizer under one interface: `encode`, `decode`, `decoder`; `bos`, `eos`, `pad`, `vocab_size`."""
    errors = "replace"          # what stands for bytes that are no UTF-8
    trim = False                # whether `decode` drops all leading spaces or only the dummy prefix

    def __init__(self, config):
        self.bos, self.eos, self.pad = config.bos_token_id, config.eos_token_id, config.pad_token_id
        self.special = {self.bos, self.eos, self.pad}          # ids that are no text

    @staticmethod
    def load(path, config):
        """The tokenizer of a Hugging Face folder, a tokenizer.json or a SentencePiece .model file.

        Raises UserError naming the file if there is none, if it is damaged, or if its vocabulary is larger than
        config.vocab_size (the model has no embedding for its last ids).
        """
        path = _find(Path(path))
        content = _read(path)
        try:
            tokenizer = (_from_json if path.suffix == ".json" else _from_model)(content, config)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:              # a panic in the package's Rust code is no Exception
            raise UserError(f"{path}: damaged, or no tokenizer ({type(error).__name__}: {error})") from None
        if tokenizer.vocab_size > config.vocab_size:
            raise UserError(f"{path}: {tokenizer.vocab_size} tokens, but the model knows only {config.vocab_size}; "
                            "this is another model's tokenizer")
        return tokenizer

    def encode(self, text, special=False):
        """Text to ids, without bos. No special token is recognised in it, unless `special`: the tokenizer's own way."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"the text has half a character (the surrogate {text[error.start]!r} at position "
                            f"{error.start}); it was decoded wrongly somewhere") from None
        return self._encode(text, special)

    def decode(self, ids, special=False):
        """Ids to text. Special ids are left out unless `special`, ids outside the vocabulary always."""
        decoder = self.decoder(special)
        return "".join(decoder.add(id) for id in ids) + decoder.flush()

    def decoder(self, special=False):
        """A Decoder for ids that come one by one."""
        return Decoder(self, special)


class Decoder:
    """Streams text: `add(id)` returns the text that has become certain, never part of a character; `flush()` the rest.

    The pieces joined are exactly tokenizer.decode of all ids. A token is a few bytes, perhaps not whole characters:
    they are held back until the UTF-8 sequence is complete or cannot be completed (then U+FFFD stands for it).
    """

    def __init__(self, tokenizer, special=False):
        self.tokenizer, self.special, self.first = tokenizer, special, True
        self.utf8 = codecs.getincrementaldecoder("utf-8")(tokenizer.errors)

    def add(self, id):
        id = int(id)
        if not 0 <= id < self.tokenizer.vocab_size or (id in self.tokenizer.special and not self.special):
            return ""
        content = self.tokenizer.bytes_of(id, self.first)
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
        self.offset = 3 if config.family == "cogvlm1" else 0

    def _encode(self, text, special):
        return [byte + self.offset for byte in text.encode("utf-8")]

    def bytes_of(self, id, first):
        byte = id - self.offset
        return bytes([byte]) if 0 <= byte < 256 else b""


class SubwordTokenizer(Tokenizer):
    """Byte pair encoding by the tokenizers package, whose object `plain` knows no special tokens.

    tokens {id: token as it is written in the vocabulary}; special: further ids that are no text; own: builds the
    tokenizers object with the special tokens in it.
    """

    def __init__(self, config, plain, tokens, special, own):
        super().__init__(config)
        self.plain, self.tokens, self.own = plain, tokens, own
        self.special |= special
        self.vocab_size = max(tokens) + 1

    @op
    def _encode(self, text, special):
        return (self.own() if special else self.plain).encode(text, add_special_tokens=False).ids


class PieceTokenizer(SubwordTokenizer):
    """Tokens as SentencePiece writes them: a space as U+2581, a lone byte as <0x0A>; the first space is no text."""
    errors = "tinycogvlm.each_byte"
    dummy_prefix = True

    def bytes_of(self, id, first):
        token = self.tokens.get(id, "")
        if re.fullmatch("<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        if first and self.dummy_prefix:
            token = token.removeprefix(sentencepiece.SPACE)
        return token.replace(sentencepiece.SPACE, " ").encode("utf-8")


class ByteLevelTokenizer(SubwordTokenizer):
    """Tokens as GPT-2 writes them, and Llama 3: every byte as one visible character."""

    def bytes_of(self, id, first):
        token = self.tokens.get(id, "")
        if id in self.special or not all(character in BYTE_OF for character in token):
            return token.encode("utf-8")
        return bytes(BYTE_OF[character] for character in token)


# GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes in their order for U+0100, U+0101, ...
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)}


def _from_model(content, config):
    model = sentencepiece.parse(content)
    plain = sentencepiece.to_tokenizers(model)
    tokens = {i: text for i, (text, _, _) in enumerate(model.pieces)}
    special = model.ids(sentencepiece.UNKNOWN, sentencepiece.CONTROL)
    tokenizer = PieceTokenizer(config, plain, tokens, special, lambda: plain)      # SentencePiece knows no other way
    tokenizer.trim = model.remove_extra_whitespaces
    tokenizer.dummy_prefix = model.add_dummy_prefix or model.remove_extra_whitespaces
    return tokenizer


def _from_json(content, config):
    """A tokenizer.json; `plain` is without all it adds to its model: added tokens, bos and eos, truncation, padding."""
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    fields = {**json.loads(content), "truncation": None, "padding": None}
    model, added = fields["model"], fields["added_tokens"]
    decoders = {step["type"]: step for step in _steps(fields["decoder"])}
    if model["type"] != "BPE" or not decoders.keys() & {"ByteLevel", "ByteFallback"}:
        raise UserError("neither a byte-level BPE tokenizer (as CogVLM2's) nor BPE with byte fallback (as Vicuna's)")
    for field in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(field):
            raise UserError(f"{field} is not supported; CogVLM's tokenizers have none")
    tokens = {i: token for token, i in model["vocab"].items()} | {token["id"]: token["content"] for token in added}
    # Added tokens that also stand in the vocabulary must not be reached by merges or as whole words either.
    marks = {token["content"] for token in added} & (model["vocab"].keys() - {model.get("unk_token")})
    if marks:
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model = {**model, "vocab": {token: i for token, i in model["vocab"].items() if token not in marks},
                 "merges": [pair for pair in merges if not marks & {*pair, "".join(pair)}]}
    plain = HuggingFaceTokenizer.from_str(json.dumps(
        {**fields, "model": model, "added_tokens": [], "post_processor": None}))

    @cache
    def own():
        try:
            return HuggingFaceTokenizer.from_str(json.dumps(fields))
        except Exception as error:
            raise UserError(f"the added tokens of tokenizer.json are damaged ({error})") from None

    special = {token["id"] for token in added if token["special"]}
    kind = ByteLevelTokenizer if "ByteLevel" in decoders else PieceTokenizer
    tokenizer = kind(config, plain, tokens, special, own)
    tokenizer.dummy_prefix = "Strip" in decoders
    return tokenizer


def _steps(decoder):
    """The decoders that a decoder consists of, itself included."""
    return [decoder, *(step for part in decoder.get("decoders", []) for step in _steps(part))]


def _find(path):
    """The tokenizer's file: `path` itself, or what a folder has."""
    if not path.is_dir():
        return path
    for name in ("tokenizer.json", "tokenizer.model"):
        if (path / name).exists():
            return path / name
    raise UserError(f"{path}: no tokenizer.json or tokenizer.model in this folder. CogVLM v1's folder has none: pass "
                    "--tokenizer with the tokenizer.model of Vicuna (lmsys/vicuna-7b-v1.5)")


def _read(path):
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: {path.stat().st_size} bytes are too many for a tokenizer")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); it should be a tokenizer.json or a SentencePiece "
                        "tokenizer.model") from None
