"""Training examples: which tokens of a conversation are labels, and batches of them."""
import numpy as np
import pytest

from tinycogvlm.inputs import examples, prompt
from tinycogvlm.inputs.tokenizer import Tokenizer
from tinycogvlm.train.recipe.initial import CONFIG
from tinycogvlm.world import conversations, texts
from tinycogvlm.world.scenes import Dice, scene


@pytest.fixture(scope="module")
def ours(spelling):
    return Tokenizer.load(spelling, CONFIG)


def test_labels_are_the_answers_and_an_eos_after_each(ours):
    for number in range(30):
        s = scene("train", number)
        turns = conversations.conversation(s, Dice("words", number), 3)
        inputs, labels = examples.example(CONFIG, ours, s.picture, turns, longest=1000)
        *history, (question, answer) = turns
        whole = prompt.build(CONFIG, ours, f"{prompt.text('chat', question, history)} {answer}", [s.picture])
        assert np.array_equal(inputs.ids, np.append(whole.ids, [[2]], 1))           # what the template says, and eos
        assert np.array_equal(inputs.types[:, :-1], whole.types) and inputs.types[0, -1] == 0 and inputs.mask.all()
        assert np.array_equal(inputs.pixels, whole.pixels)
        said = ours.decode(labels[labels != -100], special=True)
        assert said == "".join(f" {answer}</s>" for _, answer in turns)
        same = (labels == inputs.ids) | (labels == -100)
        assert ours.decode(inputs.ids[~same]) == "\n\n"                             # eos where the template goes on
        assert ours.decode(inputs.ids[:, 67:][labels[:, 67:] == -100]) == "".join(
            prompt.text("chat", question) for question, _ in turns)


def test_a_row_without_a_picture(ours):
    turns = texts.text_conversation(Dice("texts", 3))
    inputs, labels = examples.example(CONFIG, ours, None, turns, longest=1000)
    assert inputs.pixels is None and not inputs.types.any() and inputs.ids[0, 0] == 1
    said = "\n".join(f"Question: {question} Answer: {answer}" for question, answer in turns)
    assert ours.decode(inputs.ids[0]) == said
    _, learned = examples.example(CONFIG, ours, None, turns, longest=1000, learn_questions=True)
    assert np.array_equal(learned[labels != -100], labels[labels != -100]) and (learned[0] == -100).sum() == 1   # bos


def test_a_long_row_drops_its_last_turns(ours):
    s = scene("train", 1)
    turns = conversations.conversation(s, Dice("words", 1), 8)
    whole, _ = examples.example(CONFIG, ours, s.picture, turns, longest=10_000)
    for longest in (1, 100, 150, 200, whole.ids.shape[1] - 1, whole.ids.shape[1]):
        inputs, labels = examples.example(CONFIG, ours, s.picture, turns, longest=longest)
        kept, length = (labels == 2).sum(), inputs.ids.shape[1]
        assert length <= longest or kept == 1
        assert np.array_equal(inputs.ids[0, :-1], whole.ids[0, :length - 1]) and inputs.ids[0, -1] == labels[0, -1] == 2
        if kept < 8:                                        # one more would not fit
            more, _ = examples.example(CONFIG, ours, s.picture, turns[:kept + 1], longest=10_000)
            assert more.ids.shape[1] > longest
    assert kept == 8


def test_a_row_at_a_higher_resolution(ours):
    s = scene("train", 1, side=168)
    inputs, labels = examples.example(CONFIG, ours, s.picture, [("Where is it?", "Here.")], image_size=168)
    assert inputs.pixels.shape == (1, 3, 168, 168) and (inputs.types == 1).sum() == 144 + 2
    assert labels.shape == inputs.ids.shape


def test_batches_pad_with_nothing_to_learn(ours):
    scenes = [scene("train", number) for number in range(8)]
    made = [examples.example(CONFIG, ours, s.picture, conversations.conversation(s, Dice("words", s.number), 2))
            for s in scenes]
    made.append(examples.example(CONFIG, ours, None, [("What is 3 + 4?", "7.")]))
    inputs, labels = examples.batch(made, 0)
    assert inputs.ids.shape == labels.shape and inputs.pixels.shape == (8, 3, 112, 112)
    assert (labels[inputs.mask == 0] == -100).all() and not inputs.ids[inputs.mask == 0].any()
    assert ((labels == 2).sum(1) == [2] * 8 + [1]).all() and (np.diff(inputs.mask) <= 0).all()


@pytest.mark.parametrize("count, sizes", [(1, [7]), (2, [4, 3]), (3, [3, 3, 1]), (5, [2, 2, 2, 1]), (9, [1] * 7)])
def test_batches_hold_rows_of_similar_lengths(ours, count, sizes):
    """Every row once, the longest first, rows of one length in their order"""
    said = ["One.", "A red fox and two blue boxes.", "Two.", "A fox.", "A red fox.", "Six.", "Ten."]
    made = [examples.example(CONFIG, ours, None, [("What?", words)]) for words in said]
    lengths = [labels.shape[1] for _, labels in made]
    found = examples.batches(made, count, 0)
    assert [len(labels) for _, labels in found] == sizes
    order = sorted(range(7), key=lambda row: (-lengths[row], row))
    rows = [row[mask > 0] for inputs, _ in found for row, mask in zip(inputs.ids, inputs.mask)]
    assert all(np.array_equal(row, made[i][0].ids[0]) for row, i in zip(rows, order, strict=True))
    assert [inputs.ids.shape[1] for inputs, _ in found] == [lengths[order[sum(sizes[:i])]] for i in range(len(sizes))]


def test_the_weights_of_labels():
    """1 / sqrt(n) for every label of an answer of n tokens, to the last bit of float32"""
    labels = np.array([[-100, 5, 6, 7, -100, 8], [9, -100, -100, 1, 2, -100]])
    found = examples.weights(labels)
    assert found.dtype == np.float32
    third, half, one = (np.float32(1 / np.sqrt(n)) for n in (3, 2, 1))
    assert np.array_equal(found, [[0, third, third, third, 0, one], [one, 0, 0, half, half, 0]])
