"""Looking inside by JSON: what model/look.py sees, and the answer without parts of the model, for the page."""
import base64
import math
from dataclasses import dataclass

import numpy as np

from ..inputs import grounding
from ..model import generate
from ..model.look import likeliest, look
from ..model.without import without
from ..storage.reading import short
from .protocol import Refused

SHOWN = 4                                                   # words of a layer, and of what an answer might have said
PARTS = 64                                                  # that may be switched off at a time


@dataclass(frozen=True)
class Wanted:
    """What a request asks besides a chat completion. answer: the ids of one that was given; None to answer anew."""
    answer: list | None
    token: int
    attention: bool
    without: list


def wanted(body, vocabulary):
    """The Wanted of a JSON body. Raises Refused."""
    answer, chosen, off = body.get("answer"), body.get("token", 0), body.get("without") or []
    if answer is not None and not (
            isinstance(answer, list) and answer and all(type(token) is int and 0 <= token < vocabulary for token in answer)):
        raise Refused(400, f"answer is {short(answer)}; it must be a list of token ids, as a chat completion has them",
                      "answer")
    if type(chosen) is not int or chosen < 0:
        raise Refused(400, f"token is {short(chosen)}; it must be a whole number, 0 or more", "token")
    if not isinstance(off, list) or len(off) > PARTS or not all(isinstance(part, str) for part in off):
        raise Refused(400, f"without must be a list of at most {PARTS} parts, such as 'layer:2'", "without")
    return Wanted(answer, chosen, body.get("attention") is True, off)


def inside(model, name, inputs, limit, sampling, wanted, check):
    """The answer to a request; `check` is called before every token, and raises where nobody waits for it any more."""
    with without(*wanted.without):
        answer = wanted.answer or answered(model, inputs, limit, sampling, check)
        generate.context_left(model, inputs, len(answer))
        chosen = min(wanted.token, len(answer) - 1) if wanted.answer is None else wanted.token
        check()
        found = look(model, inputs, answer, chosen)
    ends = answer[-1] in model.config.eos_token_ids
    text = model.tokenizer.decode(answer[:-1] if ends else answer).lstrip()
    rows = [{"id": token, "text": word(model, token), "probability": p, "runners_up": words(model, logits)}
            for token, p, logits in zip(answer, probabilities(answer, found.choices), found.choices)]
    pictures = [int(np.sum(found.types == k)) for k in range(1, found.types.max(initial=0) + 1)]
    return {"object": "look", "model": name, "text": text, "boxes": grounding.parse(text)[0],
            "names": grounding.names(text), "finish": "stop" if ends else "length", "tokens": rows, "without": wanted.without,
            "prompt": [None if kind else word(model, token) for token, kind in zip(inputs.ids[0].tolist(), inputs.types[0])],
            "types": found.types.tolist(), "vision": found.vision.astype(int).tolist(),
            "grids": [math.isqrt(count - 2) for count in pictures], "experts": list(model.config.experts),
            "layers": len(found.lens), "heads": found.attention.shape[1], "token": chosen,
            "lens": [words(model, logits) for logits in found.lens],
            "to_pictures": found.attention[:, :, found.types > 0].sum(-1).round(4).tolist(),
            "attention": as_bytes(found.attention) if wanted.attention else None}


def answered(model, inputs, limit, sampling, check):
    """The ids of an answer, its end of sequence included"""
    answer = []
    for [token] in generate.generate(model, inputs, limit, sampling):
        check()
        answer.append(int(token))
    return answer


def probabilities(answer, choices):
    """Of each token of an answer, where it was chosen"""
    p = np.exp((choices - choices.max(-1, keepdims=True)).astype(np.float64))
    return (p[np.arange(len(answer)), answer] / p.sum(-1)).tolist()


def words(model, logits):
    return [[word(model, token), probability] for token, probability in likeliest(logits, SHOWN)]


def word(model, token):
    return model.tokenizer.decode([token], special=True)


def as_bytes(attention):
    """(L, H, S) in few bytes: 255 of each head stands for `most`, its largest weight"""
    most = attention.max(-1)
    scaled = np.round(attention * (255 / most[..., None])).astype(np.uint8)
    return {"most": most.tolist(), "bytes": base64.b64encode(scaled.tobytes()).decode()}
