"""Conversations as rows that the model learns from: token ids, and labels where an answer is to be said."""
from functools import lru_cache

import numpy as np

from . import prompt

NOTHING = -100                                              # the label of a token that is not learned
LONGEST = 200                                               # tokens of a row


def row(config, tokenizer, picture, turns, image_size=None, longest=LONGEST, learn_questions=False):
    """One row of prompt.Inputs holding a conversation, and its labels (1, T): the answers and an eos after each.

    picture: uint8 (height, width, 3), or None for a conversation without one. image_size: pixels a side that it is
    shown at, by default the config's. The text is the chat template's own, so a later turn sees the earlier ones as
    history. Where an answer ends the text goes on with a line feed, but the label is eos: the model is to stop there,
    whoever writes the next question. learn_questions: the questions' tokens are labels too. Of a row longer than
    `longest` tokens the last turns are left out, never the first.
    """
    head = prompt.build(config.resized(image_size) if image_size else config, tokenizer, "",
                        [] if picture is None else [picture])
    ids, labels = head.ids[0].tolist(), [NOTHING] * head.ids.shape[1]
    for i, (question, answer) in enumerate(turns):
        asked, said = encode(tokenizer, prompt.text("chat", question)), encode(tokenizer, f" {answer}")
        between = encode(tokenizer, "\n") if i else []
        if i and len(ids + between + asked + said) + 1 > longest:       # 1: the eos at the end
            break
        ids += between + asked + said
        labels += (asked if learn_questions else [NOTHING] * len(asked)) + said + [config.eos_token_id]
    ids, labels = np.array([ids + [config.eos_token_id]]), np.array([labels])
    types = np.pad(head.types, ((0, 0), (0, ids.shape[1] - head.types.shape[1])))
    return prompt.Inputs(ids, types, np.ones_like(ids), head.pixels), labels


@lru_cache(maxsize=20000)                                   # questions come again, most answers too
def encode(tokenizer, text):
    return tokenizer.encode(text)


def batch(rows, pad_id):
    """Rows with their labels as one batch, padded on the right with nothing to learn -> Inputs, labels (B, T)"""
    inputs = prompt.pad([inputs for inputs, _ in rows], pad_id, side="right")
    longest = inputs.ids.shape[1]
    labels = [np.pad(row, ((0, 0), (0, longest - row.shape[1])), constant_values=NOTHING) for _, row in rows]
    return inputs, np.concatenate(labels)


def weights(labels):
    """How much each label counts (B, T): 1 / sqrt(n) in an answer of n tokens.

    In a plain mean the one word that answers "What is the background?" is drowned by the digits of boxes.
    """
    learned = labels != NOTHING
    first = learned & ~np.pad(learned, ((0, 0), (1, 0)))[:, :-1]
    answer = first.reshape(-1).cumsum().reshape(labels.shape)               # the number of the answer, from 1
    length = np.bincount(answer[learned])
    return np.where(learned, 1 / np.sqrt(np.maximum(length[answer * learned], 1)), 0).astype(np.float32)
