"""Tokenizers of text towers: ids recorded from OpenAI's and Hugging Face's code, with small vocabularies."""
import json
import shutil
from pathlib import Path

import pytest
import tokenizers

from tinycogvlm.errors import UserError
from tinycogvlm.inputs import sentencepiece
from tinycogvlm.inputs.texts import BertTexts, ClipTexts, RobertaTexts, SiglipTexts
from tinycogvlm.relatives import clap
from tinycogvlm.relatives.fields import Fields

AUXILIARY = Path(__file__).parent / "golden" / "auxiliary"
IDS = json.loads((AUXILIARY / "pair_tokenizers.json").read_text(encoding="utf-8"))
CLIP, SIGLIP = IDS["clip"], IDS["siglip"]


@pytest.fixture
def folder(tmp_path):
    shutil.copy(AUXILIARY / "clip_tokenizer.json", tmp_path / "tokenizer.json")
    shutil.copy(AUXILIARY / "sp_unigram.model", tmp_path / "spiece.model")
    return tmp_path


def test_clip_ids_are_openai_s(folder):
    """The first 600 merges of the real vocabulary."""
    texts = ClipTexts(folder, 77, 1114)
    assert [[*texts.start, *texts.encode(text), texts.end] for text in CLIP["texts"]] == CLIP["ids"]


def test_clip_batches(folder):
    """Padded with the end token to the longest, cut off before the end token."""
    rows = ClipTexts(folder, 77, 1114).batch(["a photo of a cat", "a photo", ""])
    assert rows.tolist() == [[1112, 320, 816, 531, 539, 320, 66, 536, 1113], [1112, 320, 816, 531] + [1113] * 5,
                             [1112] + [1113] * 8]
    assert ClipTexts(folder, 5, 1114).batch(["a photo of a cat"]).tolist() == [[1112, 320, 816, 531, 1113]]


def test_siglip_ids_are_hugging_face_s(folder):
    assert SiglipTexts(folder, SIGLIP["context"], 300).batch(SIGLIP["texts"]).tolist() == SIGLIP["batch"]


def test_no_text_spells_a_special_token(folder):
    for texts in (ClipTexts(folder, 77, 1114), SiglipTexts(folder, 16, 300)):
        for text in ("<|endoftext|>", "</s>", "a<|startoftext|>b", "<pad>"):
            assert not {*texts.start, texts.end} & set(texts.encode(text)), text


def test_unigram_is_sentencepiece_s():
    package = pytest.importorskip("sentencepiece")
    path = AUXILIARY / "sp_unigram.model"
    theirs = package.SentencePieceProcessor(model_file=str(path), add_bos=False)
    ours = sentencepiece.Unigram(path.read_bytes())
    texts = [text for text in SIGLIP["texts"] if not text.startswith((" ", "\u2581"))]
    for text in ["", "a", "the vision expert", "x  y   z ", "日本 and é", "aaaaaaaaa", "layer" * 9, *texts]:
        assert ours.encode(f"\u2581{text}") == theirs.encode(text), text         # the package puts U+2581 there itself


def test_other_files_are_refused(folder):
    def refused(kind, match, vocabulary=2000):
        with pytest.raises(UserError, match=match):
            kind(folder, 16, vocabulary)
    refused(ClipTexts, "another model's: 1114 tokens, but config.json has 1000", 1000)
    refused(SiglipTexts, "spiece.model: more than 100 pieces", 100)
    path, fields = folder / "tokenizer.json", json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    endless = {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": ""}
    for change, match in (({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "words end with </w>"),
                          ({"normalizer": endless}, "normaliser"),
                          ({"normalizer": None}, "damaged"), ({"pre_tokenizer": {"type": "Nothing"}}, "damaged")):
        path.write_text(json.dumps(fields | change), encoding="utf-8")
        refused(ClipTexts, match)
    path.unlink()
    refused(ClipTexts, "tokenizer.json: cannot be read .*CLIP's folder has one")
    shutil.copy(AUXILIARY / "sp_bpe.model", folder / "spiece.model")
    refused(SiglipTexts, "not a plain unigram")
    (folder / "spiece.model").write_bytes(b"\x0a\xff")
    refused(SiglipTexts, "damaged")


# ------------------------------------------------------------------------------------------------------------- RoBERTa

@pytest.fixture
def roberta(tmp_path):
    """A tokenizer.json as RoBERTa's is, with the first merges of a few words -> the tokenizer with its special tokens"""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=290, special_tokens=special, show_progress=False,
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(["a dog barks", "a dog and a cat", "the cat's bark"] * 9, trainer)
    made.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    made.enable_padding(pad_id=1, pad_token="<pad>")
    made.enable_truncation(9)
    made.save(str(tmp_path / "tokenizer.json"))
    return made


def test_roberta_s_ids_are_those_of_the_tokenizer_s_own_ending(roberta, tmp_path):
    texts = ["a dog barks", "A Dog,  barking!", "the cat's 日本 é", "", "a dog and a cat and a dog and a cat"]
    rows = RobertaTexts(tmp_path, 9, 300).batch(texts)
    assert rows.tolist() == [encoding.ids for encoding in roberta.encode_batch(texts)]
    assert not {0, 1, 2} & set(RobertaTexts(tmp_path, 9, 300).encode("</s><pad><s>"))
    model = clap.CLAP(clap.hugging_face(Fields({"text_config": {"max_position_embeddings": 11}})), {}, tmp_path)
    assert model.tokenizer.batch(texts).tolist() == rows.tolist()


def test_another_tokenizer_than_roberta_s_is_refused(folder, roberta):
    with pytest.raises(UserError, match="another model's: [0-9]+ tokens, but config.json has 99; <s>, </s>, <pad> must be"):
        RobertaTexts(folder, 9, 99)
    shutil.copy(AUXILIARY / "clip_tokenizer.json", folder / "tokenizer.json")
    with pytest.raises(UserError, match="not RoBERTa's byte pair encoding"):
        RobertaTexts(folder, 9, 2000)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer.json: cannot be read .*CLAP's folder has one"):
        RobertaTexts(folder, 9, 2000)


# ---------------------------------------------------------------------------------------------------------------- BERT

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "pic", "##ture", "of", "fox", "##es", "##e", "##s", ",", "'",
         "-", "[", "]", "sep", "猫", "cafe", "i", "##i", "b", "##b", "!", "…"]


@pytest.fixture
def bert(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return BertTexts(tmp_path, 6, len(WORDS))


def test_wordpiece_ids_are_hugging_face_s(bert, tmp_path):
    theirs = tokenizers.BertWordPieceTokenizer(str(tmp_path / "vocab.txt"), lowercase=True)
    for text in ["a picture of foxes", "A PICTURE,of  Fox'es!", "Café\tCAFÉ\n", "fox猫fox", "foxy", "b" * 100, "b" * 101,
                 "a\0b\ufffdc\u200dd", "İI", "a-fox…", "", " ", "ﬁ", "𠀀 a", "fox\u00a0es", "a\u0301"]:
        assert bert.encode(text) == theirs.encode(text, add_special_tokens=False).ids, ascii(text)


def test_wordpiece_batches_and_back(bert):
    """[CLS], the words, [SEP], and [PAD], which is not [SEP]; what is too long is cut before [SEP]"""
    rows = bert.batch(["a picture of foxes", "a fox"])
    assert rows.tolist() == [[2, 5, 6, 7, 8, 3], [2, 5, 9, 3, 0, 0]]
    assert bert.decode(rows[1]) == "a fox" and bert.decode([5, 6, 7, 8, 9, 10, 99]) == "a picture of foxes"
    assert not {0, 2, 3} & set(bert.encode("[SEP] [PAD][CLS]"))                 # no text spells a special token


def test_other_vocabularies_are_refused(tmp_path):
    for words, match in ((WORDS, "another model's: 27 words, but config.json has 26"), (WORDS[:3], "must be among them")):
        (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
        with pytest.raises(UserError, match=match):
            BertTexts(tmp_path, 6, 26)
    with pytest.raises(UserError, match="vocab.txt: cannot be read .*BERT's folder has one"):
        BertTexts(tmp_path / "none", 6, 26)
