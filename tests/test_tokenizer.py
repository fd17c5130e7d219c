"""Tokenizers: the golden sequences, special tokens only where asked for, streaming, damaged files."""
import json
import os
import random
import re
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tinycogvlm.inputs import sentencepiece
from tinycogvlm.storage import reading
from tinycogvlm.model.config import Config
from tinycogvlm.errors import UserError
from tinycogvlm.inputs.tokenizer import ByteTokenizer, Tokenizer

GOLDEN = Path(__file__).parent / "golden"
SEQUENCES = json.loads((GOLDEN / "auxiliary/tokenizers.json").read_text(encoding="utf-8"))
V1, V2 = (replace(Config.read(GOLDEN / case), vocab_size=1003) for case in ("v1_tiny", "v2_tiny"))
LLAMA3 = replace(V2, bos_token_id=1000, eos_token_id=1001, pad_token_id=1002)
PIECES, JSON = GOLDEN / "auxiliary/sp_bpe.model", GOLDEN / "auxiliary/llama3_like_tokenizer.json"
CHARACTERS = ["a", "the", " ", "  ", "-", "--", "\n", "\t", "\x00", "\u00e9", "\u732b", "\U0001f642", "e\u0301",
              "\u2581", "</s>", "<s>", "<unk>", "<0x0A>", "<|end_of_text|>", "<|begin_of_text|>", "\u3000", "\ufffd",
              "\uffff", "12345", "'LL"]


def as_json():
    """The SentencePiece model in the form of Llama's tokenizer.json."""
    from tokenizers import Tokenizer as HuggingFaceTokenizer, models, normalizers
    pieces = sentencepiece.parse(PIECES.read_bytes()).pieces
    score = {text: score for text, score, kind in pieces if kind == sentencepiece.NORMAL}
    merges = [(text[:cut], text[cut:]) for text in sorted(score, key=score.get, reverse=True)
              for cut in range(1, len(text)) if text[:cut] in score and text[cut:] in score]
    vocabulary = {text: i for i, (text, _, _) in enumerate(pieces) if i > 2}
    tokenizer = HuggingFaceTokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    fields = json.loads(tokenizer.to_str())
    marks = {"<unk>": 0, "<s>": 1, "</s>": 2}
    fields["added_tokens"] = [{"id": i, "content": mark, "single_word": False, "lstrip": False, "rstrip": False,
                               "normalized": False, "special": True} for mark, i in marks.items()]
    fields["model"]["vocab"].update(marks)
    fields["model"]["unk_token"] = "<unk>"
    fields["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return fields


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Every kind of tokenizer."""
    path = tmp_path_factory.mktemp("llama") / "tokenizer.json"
    path.write_text(json.dumps(as_json()), encoding="utf-8")
    return {"sp": Tokenizer.load(PIECES, V1), "sp as json": Tokenizer.load(path, V1),
            "llama3": Tokenizer.load(JSON, LLAMA3), "bytes v1": ByteTokenizer(V1), "bytes v2": ByteTokenizer(V2)}


KINDS = ["sp", "sp as json", "llama3", "bytes v1", "bytes v2"]


@pytest.mark.parametrize("kind, golden", [("sp", "sp"), ("sp as json", "sp"), ("llama3", "llama3")])
@pytest.mark.parametrize("number", range(20))
def test_golden_sequences(tokenizers, kind, golden, number):
    tokenizer, sequence = tokenizers[kind], SEQUENCES[golden][number]
    # On its own terms Llama's tokenizer.json finds "</s><s>" in a text; the SentencePiece file finds no mark in any.
    special = kind != "sp as json"
    ids = tokenizer.encode(sequence["text"], special=special)
    assert ids == sequence["ids"]
    assert tokenizer.decode(ids, special=special) == sequence["decoded"]
    if "pieces" in sequence:
        assert [tokenizer.tokens[i] for i in ids] == sequence["pieces"]


# Made with the sentencepiece package 0.2.3, from this model.
@pytest.mark.parametrize("text, ids", [
    ("<unk><0x0A><s>", [276, 364, 913, 878, 881, 885, 914, 885, 892, 878, 881, 864, 878]),
    ("a\u2581b \u2581", [347, 345, 259]),
    ("-" * 23, [856, 301, 263, 377]),
    ("=|-- --|" + "-" * 9, [856, 916, 873, 261, 340, 409, 857]),
    (" " * 21 + "x" + " " * 7 + "|", [264, 311, 914, 311, 265]),
    ("thethethe the", [316, 275, 858, 275, 858, 316]),
    ("\u3000\u00a0 \r\n", [856, 230, 131, 131, 197, 163, 856, 16, 13]),
    ("HuggingfaceModelScope pretrained", [733, 888, 860, 292, 729, 321, 470])])
def test_more_of_sentencepiece(tokenizers, text, ids):
    assert tokenizers["sp"].encode(text) == tokenizers["sp as json"].encode(text) == ids
    assert tokenizers["sp"].decode(ids) == text.replace("\u2581", " ")


TIED, TIED_IDS = GOLDEN / "auxiliary/sp_tied_spaces.model", GOLDEN / "auxiliary/sp_tied_spaces.json"
TIED_CONFIG = replace(V1, vocab_size=271)


@pytest.mark.parametrize("text, ids", json.loads(TIED_IDS.read_text(encoding="utf-8")).items())
def test_equal_scores_merge_from_the_left(text, ids):
    """As in Llama's and Vicuna's tokenizer.model, all runs of spaces share one score."""
    assert Tokenizer.load(TIED, TIED_CONFIG).encode(text) == ids


def test_merging_by_hand():
    score = {"ab": -1.0, "bc": -1.0, "abc": -2.0, "aa": -3.0, "aaa": -3.0}
    for text, pieces in (("abc", ["abc"]), ("babc", ["b", "abc"]), ("bcab", ["bc", "ab"]), ("aaaaa", ["aaa", "aa"]),
                         ("", []), ("xyz", ["x", "y", "z"]), ("aab", ["a", "ab"])):
        assert sentencepiece.merged(text, score) == pieces


@pytest.mark.parametrize("path", [PIECES, TIED], ids=["a thousand pieces", "tied scores"])
def test_ids_equal_the_sentencepiece_package_s(path):
    """On 10,000 random texts each: pieces of the model, runs of a character, spaces, other scripts, U+2581 itself."""
    package = pytest.importorskip("sentencepiece")
    theirs, ours = package.SentencePieceProcessor(model_file=str(path)), sentencepiece.parse(path.read_bytes())
    rng, encode = random.Random(0), sentencepiece.BytePairs(ours).encode
    pieces = [text.replace("\u2581", " ") for text, _, _ in ours.pieces]
    kinds = (lambda: rng.choice(pieces), lambda: " " * rng.randrange(1, 20), lambda: "\u2581" * rng.randrange(3),
             lambda: rng.choice("-=#*ats") * rng.randrange(1, 25), lambda: rng.choice("\n\t\r\0"),
             lambda: chr(rng.choice((rng.randrange(32, 0x300), rng.randrange(0x4E00, 0x9FFF),
                                     rng.randrange(0x1F600, 0x1F640)))))
    texts = ["".join(rng.choice(kinds)() for _ in range(rng.randrange(10))) for _ in range(10_000)]
    for text, ids in zip(texts, theirs.encode(texts), strict=True):
        assert encode(text) == ids, text


@pytest.mark.parametrize("ids, text", [
    ([259], " "), ([856], ""), ([856, 347], " a"), ([13, 347], "\n a"), ([347, 347], "a a"), ([1, 2, 347, 2], "a"),
    ([229, 131], "\ufffd" * 2), ([226, 131, 131], "\u07c0\ufffd"), ([240, 131], "\ufffd" * 2),
    ([198, 198, 178], "\ufffd\u00ef"), ([198, 347], "\ufffd a"), ([244, 147, 131], "\ufffd" * 3),
    ([259, 347, 856], "  a "), ([3, 13, 35, 347], "\x00\n  a")])
def test_decoding_as_sentencepiece(tokenizers, ids, text):
    assert tokenizers["sp"].decode(ids) == tokenizers["sp as json"].decode(ids) == text


@pytest.mark.parametrize("flags, text, ids, decoded", [      # by sentencepiece, from this model with other flags
    ({3: 1, 4: 1}, "  a   b  ", [347, 345], "a b"),
    ({3: 0, 4: 0}, "a b", [861, 345], "a b"),
    ({3: 0, 4: 1}, "  a  ", [861], "a"),
    ({}, "   ", [], "")])
def test_flags_of_the_normaliser(flags, text, ids, decoded, tmp_path):
    """Fields 3, add_dummy_prefix, and 4, remove_extra_whitespaces; both are on where the file does not say."""
    path = tmp_path / "tokenizer.model"
    own = field(3, field(1, b"identity") + field(2, b"") + b"\x18\x01\x20\x00")
    assert PIECES.read_bytes().count(own) == 1
    path.write_bytes(PIECES.read_bytes().replace(own, field(3, b"".join(bytes([k << 3, v]) for k, v in flags.items()))))
    tokenizer = Tokenizer.load(path, V1)
    assert tokenizer.encode(text) == ids and tokenizer.decode(ids) == decoded


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_never_a_special_token(tokenizers, kind):
    tokenizer, rng = tokenizers[kind], random.Random(0)
    for text in CHARACTERS + ["".join(rng.choices(CHARACTERS, k=rng.randrange(20))) for _ in range(300)]:
        ids = tokenizer.encode(text)
        assert not tokenizer.special & set(ids)
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        assert tokenizer.decode(ids) == (text.replace("\u2581", " ") if kind.startswith("sp") else text)


def test_special_tokens_on_demand(tokenizers):
    llama3, pieces = tokenizers["llama3"], tokenizers["sp as json"]
    assert llama3.encode("a<|end_of_text|>", special=True) == [64, 1001]
    assert 1001 not in llama3.encode("a<|end_of_text|>")
    assert llama3.decode([1000, 64, 1001]) == "a"
    assert llama3.decode([1000, 64, 1001], special=True) == "<|begin_of_text|>a<|end_of_text|>"
    assert pieces.encode("</s>", special=True) == [2]
    assert tokenizers["sp"].encode("</s>", special=True) == tokenizers["sp"].encode("</s>") == [375, 864, 878]


def test_no_added_token_is_recognised_special_or_not(tmp_path):
    """Neither a mark that is not flagged special, nor one that merges or a whole-word match could reach."""
    fields = json.loads(JSON.read_text(encoding="utf-8"))
    assert fields["model"]["ignore_merges"]                              # a word in the vocabulary is taken whole
    word = next(token for token in fields["model"]["vocab"] if token.isalpha() and len(token) == 6)
    content = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    fields["added_tokens"] += [{"id": 1003, "content": "<tool>", **content},
                               {"id": fields["model"]["vocab"][word], "content": word, **content}]
    fields["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(fields), encoding="utf-8")
    tokenizer = Tokenizer.load(path, replace(LLAMA3, vocab_size=1004))
    known = fields["model"]["vocab"][word]
    text = f"<tool>{word} and more than two tokens"
    assert not {1003, known} & set(tokenizer.encode(text)) and tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(text, special=True)[:2] == [1003, known]


@pytest.mark.parametrize("special, text", [(False, "a<tool>"), (True, "a")])
def test_an_added_token_is_text_unless_it_is_special(special, text, tmp_path):
    fields = json.loads(JSON.read_text(encoding="utf-8"))
    fields["added_tokens"].append({"id": 1003, "content": "<tool>", "single_word": False, "lstrip": False,
                                   "rstrip": False, "normalized": False, "special": special})
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path, replace(LLAMA3, vocab_size=1004))
    assert tokenizer.decode([64, 1003, 1001]) == text and tokenizer.decode([64, 1003], special=True) == "a<tool>"


def test_the_control_pieces_of_a_model_are_not_text():
    tokenizer = Tokenizer.load(PIECES, replace(V1, pad_token_id=2))
    assert tokenizer.decode([347, 0, 1, 2]) == "a"             # 0, <unk>, is not bos, eos or padding here


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_pieces_are_the_decoded_text(tokenizers, kind):
    """Random ids, broken characters and unknown ids among them: joined pieces = decode, and each piece is final."""
    tokenizer, rng = tokenizers[kind], random.Random(1)
    texts = ["\u732b\U0001f642 na\u00efve caf\u00e9", " leading", "", "\U0001f469\u200d\U0001f4bb"]
    sequences = [tokenizer.encode(text) for text in texts]
    for _ in range(500):
        sequences.append([rng.choice((rng.randrange(1100), rng.randrange(130, 260))) for _ in range(rng.randrange(12))])
    for ids in sequences:
        stream, so_far = tokenizer.text_stream(), ""
        for n, i in enumerate(ids, 1):
            so_far += stream.add(i)
            assert tokenizer.decode(ids[:n]).startswith(so_far) and tokenizer.decode(ids).startswith(so_far)
        assert so_far + stream.flush() == tokenizer.decode(ids)
    for text, ids in zip(texts, sequences):
        stream = tokenizer.text_stream()
        assert "\ufffd" not in "".join(map(stream.add, ids)) and stream.flush() == ""
        assert tokenizer.decode(ids) == text


def test_a_character_comes_whole_or_not_at_all(tokenizers):
    stream = tokenizers["bytes v2"].text_stream()
    assert [stream.add(byte) for byte in "\u732bx".encode()] == ["", "", "\u732b", "x"]
    assert [stream.add(byte) for byte in (0xF0, 0x9F, 0x41)] == ["", "", "\ufffdA"]         # certain by now
    assert stream.add(0xE7) == "" and stream.flush() == "\ufffd"
    stream = tokenizers["sp"].text_stream()
    assert [stream.add(i) for i in (856, 234, 143, 174)] == ["", "", "", "\u732b"]


def test_decoding_equals_the_tokenizers_package():
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    theirs, ours = HuggingFaceTokenizer.from_file(str(JSON)), Tokenizer.load(JSON, LLAMA3)
    rng = random.Random(2)
    for _ in range(1000):
        ids = [rng.choice((rng.randrange(1003), rng.randrange(90, 256))) for _ in range(rng.randrange(10))]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        text = "".join(chr(rng.choice((rng.randrange(0x300), rng.randrange(0xD800), rng.randrange(0x10000, 0x110000))))
                       for _ in range(rng.randrange(8)))
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
def test_ids_outside_the_vocabulary_are_left_out(tokenizers, kind):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode("ab")
    assert tokenizer.decode([*ids[:1], tokenizer.vocab_size, -1, 10 ** 12, *ids[1:], tokenizer.vocab_size + 5]) == "ab"


def test_bytes():
    assert ByteTokenizer(V1).encode("A\u00e9") == [65 + 3, 0xC3 + 3, 0xA9 + 3] and ByteTokenizer(V2).encode("A") == [65]
    assert (ByteTokenizer(V1).bos, ByteTokenizer(V1).eos, ByteTokenizer(V1).pad) == (1, 2, 0)
    assert (ByteTokenizer(V2).bos, ByteTokenizer(V2).eos, ByteTokenizer(V2).pad) == (256, 257, 258)
    for config in (V1, V2):
        tokenizer = ByteTokenizer(config)
        ids = [tokenizer.bos, *tokenizer.encode("a\x00\u732b"), tokenizer.eos, tokenizer.pad]
        assert tokenizer.decode(ids) == "a\x00\u732b"
        assert tokenizer.vocab_size == 259


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_character_is_named(tokenizers, kind):
    with pytest.raises(UserError, match="surrogate '.udcff' at position 2"):
        tokenizers[kind].encode("ab\udcff")


@pytest.mark.parametrize("kind", ["sp", "llama3"])
def test_long_texts_take_linear_time(tokenizers, kind):
    start, text = time.process_time(), "The model is a<|end_of_text|>" * 4000
    assert tokenizers[kind].decode(tokenizers[kind].encode(text)) == text
    assert time.process_time() - start < 2


# Which file, and what may be wrong with it

def test_folders_and_files(tmp_path):
    with pytest.raises(UserError, match="CogVLM v1's folder has none: pass --tokenizer with .* Vicuna"):
        Tokenizer.load(tmp_path, V1)
    (tmp_path / "tokenizer.model").write_bytes(PIECES.read_bytes())
    assert Tokenizer.load(tmp_path, V1).vocab_size == 1000
    (tmp_path / "tokenizer.json").write_bytes(JSON.read_bytes())
    assert Tokenizer.load(str(tmp_path), LLAMA3).vocab_size == 1003
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path / "missing.model", V1)


@pytest.mark.parametrize("file, config, sentence", [
    (PIECES, replace(V1, vocab_size=999), "more than 999 pieces, which is all that the model knows"),
    (JSON, replace(LLAMA3, vocab_size=1002), "1003 tokens, but the model knows 1002"),
    (PIECES, replace(V1, vocab_size=2024), "1000 tokens, but the model knows 2024"),
    (JSON, replace(LLAMA3, vocab_size=128256), "1003 tokens, but the model knows 128256"),
    (PIECES, replace(V1, bos_token_id=1000), "bos_token_id of the model is 1000, which is no token here"),
    (PIECES, replace(V1, pad_token_id=1002), "pad_token_id of the model is 1002, which is no token here"),
    (PIECES, replace(V1, eos_token_id=13), "eos_token_id of the model is 13, which is the text '<0x0A>' here"),
    (PIECES, replace(V1, eos_token_id=347), "eos_token_id of the model is 347, which is the text '\u2581a' here"),
    (JSON, V1, "bos_token_id of the model is 1, which is the text '\"' here, not a special token"),
])
def test_another_model_s_tokenizer_is_refused(file, config, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        Tokenizer.load(file, config)
    assert str(caught.value).startswith(f"{file}: ") and "this is another model's tokenizer" in str(caught.value)


def test_a_table_may_have_a_few_rows_more_than_there_are_tokens():
    assert Tokenizer.load(PIECES, replace(V1, vocab_size=2023)).vocab_size == 1000


def test_many_pieces_are_refused_at_once(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"".join(piece(f"piece{i}") for i in range(200_000)))
    start = time.process_time()
    with pytest.raises(UserError, match="more than 1003 pieces"):
        Tokenizer.load(path, V1)
    assert time.process_time() - start < 2


def varint(n):
    return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def piece(text, score=-5000.5, kind=sentencepiece.NORMAL):
    return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind))


def test_numbers_of_protobuf():
    """A varint's bytes with nothing but the mark that more follow, and lengths on both sides of a byte's end."""
    for number in (0, 1, 127, 128, 129, 255, 256, 300, 16383, 16384, 2 ** 32, 2 ** 63):
        assert sentencepiece._varint(b"x" + varint(number) + b"y", 1) == (number, 1 + len(varint(number)))
    for size in (0, 127, 128, 256, 16384):
        content = bytes(size)
        assert list(sentencepiece._fields(field(200, content) + b"\x18\x80\x01")) == [(200, content), (3, 128)]


@pytest.mark.parametrize("more, sentence", [                            # protobuf: appended fields replace earlier ones
    (field(2, b"\x18\x01"), "not of byte pair encoding"),                # unigram
    (field(2, varint(24 << 3) + b"\x01"), "before words"),
    (field(3, field(2, b"map")), "character map"),
    (field(5, field(2, b"map")), "character map"),
    (field(3, b"\x28\x00"), "U\\+2581"),
    (piece("new", kind=sentencepiece.USER_DEFINED), "type 4"),
    (piece("new", kind=sentencepiece.UNUSED), "type 5"),
    (piece("in"), "occurs twice"),
    (piece("the", score=float("nan")), "damaged"),
    (piece(""), "piece 1000 is empty"),
    (b"\x0a\xff\xff\xff\xff\x7f", "damaged, or no SentencePiece model"),   # longer than the file
    (b"\x0a" + b"\xff" * 20, "damaged"),                                  # an endless number
    (b"\x0b", "damaged"), (b"\x0a", "damaged"), (field(1, b"\x08\x01"), "damaged"),
    (field(1, b"\x0a\x01\xff"), "damaged"),
])
def test_models_that_are_not_vicuna_s(more, sentence, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(PIECES.read_bytes() + more)
    with pytest.raises(UserError, match=sentence) as caught:
        Tokenizer.load(path, V1)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_model_without_bytes_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    everything = [piece(f"<0x{byte:02X}>", 0, sentencepiece.BYTE) for byte in range(256)]
    for pieces in (everything, everything[1:], everything[:-1]):
        path.write_bytes(b"".join(pieces) + piece("<s>", kind=3) + piece("</s>", kind=3) + piece("a") +
                         field(2, b"\x18\x02"))
        if pieces is everything:
            config = replace(V1, vocab_size=259, bos_token_id=256, eos_token_id=257, pad_token_id=257)
            assert Tokenizer.load(path, config).encode("a\n") == [0xE2, 0x96, 0x81, 258, 10]
        else:
            with pytest.raises(UserError, match="lacks the 256 byte pieces"):
                Tokenizer.load(path, V1)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named(name, tmp_path):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 499723\n")
    with pytest.raises(UserError, match=f"{name}: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"):
        Tokenizer.load(tmp_path, V1)


def test_a_tiktoken_file_is_named(tmp_path):
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\nICAgIA== 2\n")
    with pytest.raises(UserError, match="a tiktoken file.*needs the tokenizer.json"):
        Tokenizer.load(tmp_path, LLAMA3)


def test_a_tokenizer_file_has_a_largest_size(monkeypatch):
    """The limit is that of storage/reading.py, whose own tests have the rest."""
    read = reading.read_bytes
    for limit in (PIECES.stat().st_size, PIECES.stat().st_size - 1):
        monkeypatch.setattr(reading, "read_bytes", lambda path, hint, limit=limit: read(path, hint, limit))
        if limit == PIECES.stat().st_size:
            assert Tokenizer.load(PIECES, V1).vocab_size == 1000
        else:
            with pytest.raises(UserError, match=f"has {limit + 1} bytes, but such a file has at most {limit}"):
                Tokenizer.load(PIECES, V1)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_file_without_end_is_not_read(name, tmp_path):
    with open(tmp_path / name, "wb") as file:
        file.truncate(10 ** 8)
    with pytest.raises(UserError, match=f"{name}: has 100000000 bytes, but such a file has at most"):
        Tokenizer.load(tmp_path, V1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_what_is_not_a_file_is_refused_and_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    for path in (tmp_path, tmp_path / name, "/dev/zero"):
        with pytest.raises(UserError, match="is not a file; it should be a tokenizer.json or a SentencePiece"):
            Tokenizer.load(path, V1)


NESTED = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}


@pytest.mark.parametrize("normalizer", [
    {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"},
    {"type": "Replace", "pattern": {"String": ""}, "content": "xxxx"},
    {"type": "Sequence", "normalizers": [NESTED] * 6}, {"type": "Lowercase"}], ids=str)
def test_normalisers_that_could_run_away_are_refused(normalizer, tmp_path):
    """The first two would panic while encoding, the third would make 10^12 letters of one."""
    fields = json.loads(JSON.read_text(encoding="utf-8")) | {"normalizer": normalizer}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(UserError, match="its normaliser .* is not supported"):
        Tokenizer.load(tmp_path, LLAMA3)


def test_a_panic_while_encoding_is_a_sentence(tmp_path):
    split = {"type": "Split", "pattern": {"Regex": "(a|a|a|a?)+$"}, "behavior": "Isolated", "invert": False}
    fields = json.loads(JSON.read_text(encoding="utf-8")) | {"pre_tokenizer": split}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path, LLAMA3)
    for special in (False, True):
        with pytest.raises(UserError, match="the text cannot be encoded.*PanicException"):
            tokenizer.encode("a" * 40 + "!", special)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"\x00", b"{}", b"[]", b"null", b"text", b"\xff\xfe", b"[" * 10 ** 5])
def test_files_that_are_no_tokenizer(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        Tokenizer.load(tmp_path, V1)


@pytest.mark.parametrize("part, change, sentence", [
    ("model", {"type": "WordLevel"}, "neither"), ("decoder", {"type": "WordPiece"}, "neither"),
    ("model", {"vocab": {}}, "damaged"), ("model", {"merges": [["a"]]}, "damaged"),
    ("model", {"end_of_word_suffix": "</w>"}, "end_of_word_suffix"), ("model", {"dropout": 0.5}, "dropout")])
def test_other_tokenizer_jsons(part, change, sentence, tmp_path):
    fields = json.loads(JSON.read_text(encoding="utf-8"))
    fields[part].update(change)
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        Tokenizer.load(tmp_path, LLAMA3)


@pytest.mark.parametrize("source, config", [(PIECES, V1), (JSON, LLAMA3)], ids=["model", "json"])
def test_random_damage_is_an_error_or_a_tokenizer(source, config, tmp_path):
    rng, text, loaded = random.Random(3), "Hello </s> \u732b 123\n", 0
    path, intact = tmp_path / source.name, source.read_bytes()
    for _ in range(250):
        content = bytearray(intact)
        at = rng.randrange(len(content))
        if rng.random() < 0.8:
            content[at] ^= 1 << rng.randrange(8)
        else:
            content[at:at + rng.randrange(40)] = rng.randbytes(rng.randrange(20))
        path.write_bytes(content)
        try:
            tokenizer = Tokenizer.load(path, config)
        except UserError as error:
            assert str(error).startswith(f"{path}: ")
            continue
        loaded += 1
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert loaded
