"""The exercises about one sequence of image and text: what they must compute, and how they fit into the model."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from PIL import Image

from ..contracts.contract import TOLERANCE, Contract, over, random
from ..inputs import prompt
from ..model import adapter
from ..nn.tree import Params

EXACT = dict.fromkeys(TOLERANCE, 0.0)


def sequence(text, images, image_tokens, bos, pad):
    """bos; for each image its places, which hold the pad id; the text"""
    ids, types = [bos], [0]
    for k in range(images):
        for _ in range(image_tokens):
            ids.append(pad)
            types.append(k + 1)
    for token in text.tolist():
        ids.append(token)
        types.append(0)
    return np.array([ids]), np.array([types])


def sequence_cases():
    for label, text, images in (("one image", [7, 8], 1), ("text alone", [5], 0), ("two images", [9, 6, 4], 2),
                                ("no text", [], 1)):
        yield label, dict(text=np.array(text, np.int64), images=images, image_tokens=5, bos=1, pad=0)
    yield "another tokenizer's ids", dict(text=np.array([40, 41]), images=1, image_tokens=3, bos=128, pad=130)


def merge(ids, types, table, images):
    """Text is its row of the table, an image token the next row of the images, in the order of reading"""
    y, rows = np.zeros((*ids.shape, table.shape[1]), table.dtype), iter(images.reshape(-1, table.shape[1]))
    for place in over(*ids.shape):
        y[place] = table[ids[place]] if types[place] == 0 else next(rows)
    return y


def merge_cases():
    def case(*rows, tokens):
        types = np.array([[int(token) for token in row] for row in rows])
        ids = np.where(types == 0, np.random.default_rng(types.size).integers(1, 7, types.shape), 0)
        return dict(ids=ids, types=types, table=random(7, 3), images=random((types > 0).sum() // tokens, tokens, 3))
    yield "an image in front of text", case("0111000", tokens=3)
    yield "text alone", case("0000", tokens=3)
    yield "two images", case("01112220", tokens=3)
    yield "a batch, an image in each row", case("01110", "00111", tokens=3)
    yield "a batch, one row without", case("0000", "0111", tokens=3)


def may_see(mask):
    """Query t may see key s if that stands at its own place or before, and is no padding"""
    B, T = mask.shape
    seen = np.zeros((B, T, T), bool)
    for b, t, s in over(*seen.shape):
        seen[b, t, s] = s <= t and mask[b, s] != 0
    return seen


def may_see_cases():
    for label, rows in (("no padding", ["1111"]), ("padding on the left", ["00111"]), ("one token", ["1"]),
                        ("a batch", ["0111", "1111"]), ("padding on the right", ["11100", "11111"])):
        yield label, dict(mask=np.array([[int(token) for token in row] for row in rows]))


CONTRACTS = tuple(Contract(op.__name__, op, cases, tolerance) for op, cases, tolerance in (
    (sequence, sequence_cases, EXACT), (merge, merge_cases, TOLERANCE), (may_see, may_see_cases, EXACT)))


# --------------------------------------------------------------------------------------------------- in the package

def package_sequence(text, images, image_tokens, bos, pad, build=prompt.build.own):
    """As prompt.build does, for words that are ids already and pictures of nothing."""
    config = SimpleNamespace(bos_token_id=bos, pad_token_id=pad, num_image_tokens=image_tokens,
                             max_position_embeddings=2048,
                             vision=SimpleNamespace(image_size=1))
    inputs = build(config, SimpleNamespace(encode=lambda _: text.tolist()), "", [Image.new("RGB", (1, 1))] * images)
    return inputs.ids, inputs.types


def fit_sequence(mine, package):
    """For pictures in front of the text."""
    def build(config, tokenizer, text, images=()):
        inputs = package(config, tokenizer, text, images)
        if not isinstance(text, str):
            return inputs
        ids, types = mine(np.array(tokenizer.encode(text), np.int64), len(images), config.num_image_tokens,
                          config.bos_token_id, config.pad_token_id)
        return replace(inputs, ids=ids, types=types)
    return build


def fit_merge(mine, package):
    """For what is read with a picture, as long as every place has its picture."""
    def embed(self, inputs, route, keep="all"):
        pixels, table = inputs.pixels, self.leaves["model.embed_tokens.weight"]
        if pixels is None or not isinstance(table, np.ndarray) or \
                len(pixels) * self.config.num_image_tokens != (inputs.types > 0).sum():
            return package(self, inputs, route, keep)
        images, _ = adapter.image_tokens(pixels.astype(self.dtype), Params(self.leaves).model.vision, self.config, None)
        return mine(inputs.ids, inputs.types, table, images), None
    return embed
