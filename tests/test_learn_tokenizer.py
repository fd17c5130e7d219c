"""The tokenizer that is learned from our world's conversations."""
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.inputs.tokenizer import Tokenizer
from tinycogvlm.train.recipe import learn_tokenizer
from tinycogvlm.train.recipe.initial import CONFIG
from tinycogvlm.world import conversations
from tinycogvlm.world.scenes import BACKGROUNDS, NAMES, SHAPES, Dice, scene


@pytest.fixture(scope="module")
def ours(spelling):
    return Tokenizer.load(spelling, CONFIG)


@pytest.mark.slow
def test_the_tokenizer_is_learned_again_the_same(spelling, tmp_path):
    """By its command, in a process that hashes otherwise."""
    subprocess.run([sys.executable, "-m", "tinycogvlm.train.recipe.learn_tokenizer", tmp_path / "again.json"],
                   check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert (spelling / "tokenizer.json").read_bytes() == (tmp_path / "again.json").read_bytes()


def test_the_tokenizer_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="no folder .*none; make it first"):
        learn_tokenizer.train_tokenizer(tmp_path / "none" / "tokenizer.json")


def test_the_tokenizer_keeps_every_text(ours):
    assert (ours.pad, ours.bos, ours.eos) == (0, 1, 2) and ours.vocab_size <= learn_tokenizer.VOCABULARY
    for text in ("", "Where is the red star?", "  two  spaces\n\n", "naïve 日本語 🙂👩‍👩‍👧 \0\t\u00ad\ufffd",
                 "</s><s><pad>", "[[000,020]]", "[[[[", "Question: Question:: Answer:Answer:", "dogses doges",
                 "\u0301e\u2028 \x85"):
        ids = ours.encode(text)
        assert ours.decode(ids) == text and not set(ids) & {0, 1, 2}
    for plane in range(0, 0x3000, 0x400):
        text = "".join(map(chr, range(plane, plane + 0x400)))
        assert ours.decode(ours.encode(text)) == text


def test_a_word_a_digit_and_a_mark_are_one_token(ours):
    pieces = lambda text: [ours.decode([token]) for token in ours.encode(text)]
    assert pieces("[[120,960;") == ["[[", "1", "2", "0", ",", "9", "6", "0", ";"] and pieces("5]].") == ["5", "]]", "."]
    assert pieces(" [[1") == [" [[", "1"] and pieces(" dogs, foxes?") == [" dog", "s", ",", " fox", "es", "?"]
    assert pieces("Question: it? Answer:")[0] == "Question:" and pieces("Question: it? Answer:")[-1] == " Answer:"
    for name in NAMES + SHAPES + BACKGROUNDS:
        assert len(ours.encode(f" {name}")) == len(name.split())
    said = Counter()
    for number in range(300):
        for question, answer in conversations.conversation(scene("check", number), Dice("check words", number), 6):
            for word in re.findall(r" ?[A-Za-z]+", f" {question} {answer}"):
                said[len(ours.encode(word))] += 1
    assert said[1] > 0.95 * sum(said.values()) and max(said) == 2       # the others are plurals
