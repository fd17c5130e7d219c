"""Training examples: a conversation as token ids, and labels where the model is to speak."""
from functools import lru_cache

import numpy as np

from . import prompt

NOTHING = -100                                              # the label of a token that is not learned
LONGEST = 200                                               # tokens of an example


def example(config, tokenizer, picture, turns, image_size=None, longest=LONGEST, learn_questions=False):
    """A conversation as one row of prompt.Inputs and its labels (1, T): the answers, with eos after each.

    picture: uint8 (height, width, 3), a list of what prompt.build shows before the text, or None. turns: ((question,
    answer), ...). image_size: pixels a side, by default the config's. The text is the chat template's own, so a later
    turn sees the earlier ones as its history. After an answer the text goes on with a line feed, but the label is eos:
    the model is to stop there, whoever writes the next question. learn_questions: the questions' tokens are labels too.
    Where the row would exceed `longest` tokens, the last turns are left out, but never the first.
    """
    head = prompt.build(config.resized(image_size) if image_size else config, tokenizer, "",
                        picture if isinstance(picture, list) else [] if picture is None else [picture])
    ids, labels = head.ids[0].tolist(), [NOTHING] * head.ids.shape[1]
    for i, (question, answer) in enumerate(turns):
        asked, said = encode(tokenizer, prompt.text("chat", question)), encode(tokenizer, f" {answer}")
        between = encode(tokenizer, "\n") if i else []
        if i and len(ids) + len(between + asked + said) + 1 > longest:  # 1: the eos at the end
            break
        ids += between + asked + said
        labels += (asked if learn_questions else [NOTHING] * len(asked)) + said + [config.eos_token_id]
    ids, labels = np.array([ids + [config.eos_token_id]]), np.array([labels])
    types = np.pad(head.types, ((0, 0), (0, ids.shape[1] - head.types.shape[1])))
    return prompt.Inputs(ids, types, np.ones_like(ids), head.media), labels


@lru_cache(maxsize=20000)                                   # questions and most answers recur
def encode(tokenizer, text):
    return tokenizer.encode(text)


def batch(rows, pad_id):
    """[(Inputs, labels)] of one row each -> one batch, Inputs and labels (B, T), padded on the right, labels by -100"""
    inputs = prompt.pad([inputs for inputs, _ in rows], pad_id, side="right")
    longest = inputs.ids.shape[1]
    labels = [np.pad(row, ((0, 0), (0, longest - row.shape[1])), constant_values=NOTHING) for _, row in rows]
    return inputs, np.concatenate(labels)


def batches(rows, count, pad_id):
    """[(Inputs, labels)] of one row each -> `count` batches at most, of rows of similar lengths, with little padding"""
    return [batch(part, pad_id) for part in parts(rows, count, lambda row: row[1].shape[1])]


def parts(rows, count, length):
    """The rows in `count` lists at most, each of rows of similar lengths, the longest first. length: of a row"""
    rows = sorted(rows, key=length, reverse=True)
    size = -(-len(rows) // count)
    return [rows[i:i + size] for i in range(0, len(rows), size)]


def weights(labels):
    """The weight of each label in the loss, (B, T) -> (B, T): 1 / sqrt(n) in an answer of n tokens, else 0.

    In a plain mean, the one word that answers "What is the background?" is drowned out by the digits of boxes.
    """
    learned = labels != NOTHING
    first = learned & ~np.pad(learned, ((0, 0), (1, 0)))[:, :-1]
    answer = first.reshape(-1).cumsum().reshape(labels.shape)               # which answer, from 1
    length = np.bincount(answer[learned])
    return np.where(learned, 1 / np.sqrt(np.maximum(length[answer * learned], 1)), 0).astype(np.float32)
