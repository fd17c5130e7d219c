"""Lesson 11: one sequence of image and text: ids and types, vectors, positions, and what may be seen."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from PIL import Image

from ...contracts import Contract, over, random
from ...contracts.contract import EXACT, TOLERANCE
from ...contracts.ops import TYPES
from ...inputs import prompt
from ...model import adapter, route
from ...model.cogvlm import CogVLM
from ...nn import ops
from ...nn.tree import Params
from ..exercise import Exercise


def digits(*rows):
    """digits("0110", "0000") -> (2, 4)"""
    return np.array([[int(digit) for digit in row] for row in rows])


# ------------------------------------------------------------------------------------------------------------ sequence

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


def package_sequence(text, images, image_tokens, bos, pad):
    """As prompt.build does, for text that is ids already and pictures of one pixel."""
    config = SimpleNamespace(bos_token_id=bos, pad_token_id=pad, num_image_tokens=image_tokens,
                             max_position_embeddings=99, vision=SimpleNamespace(image_size=1),
                             traits=SimpleNamespace(bos=True))
    tokenizer, pictures = SimpleNamespace(encode=lambda _: text.tolist()), [Image.new("RGB", (1, 1))] * images
    inputs = prompt.build.own(config, tokenizer, "", pictures)
    return inputs.ids, inputs.types


def fit_sequence(mine, otherwise):
    """For pictures before the text."""
    def build(config, tokenizer, text, images=()):
        inputs = otherwise(config, tokenizer, text, images)
        if not isinstance(text, str):
            return inputs
        ids, types = mine(np.array(tokenizer.encode(text), np.int64), len(images), config.num_image_tokens,
                          config.bos_token_id, config.pad_token_id)
        return replace(inputs, ids=ids, types=types)
    return build


SEQUENCE = Exercise(Contract("sequence", sequence, sequence_cases, EXACT), package_sequence, (prompt.build,),
                    part="sequence", place=prompt.build, fit=fit_sequence)


@SEQUENCE.mistake("The images run together: number their tokens 1, 2, ..., so that they can be told apart.")
def images_alike(**arguments):
    ids, types = sequence(**arguments)
    return ids, (types > 0).astype(int)


@SEQUENCE.mistake("bos is missing: every row begins with it, with an image or without.")
def bos_missing(**arguments):
    return tuple(array[:, 1:] for array in sequence(**arguments))


@SEQUENCE.mistake("The image comes before bos; it should come right after.")
def image_before_bos(text, images, image_tokens, **more):
    n = images * image_tokens
    places = [*range(1, n + 1), 0, *range(n + 1, n + 1 + len(text))]
    return tuple(array[:, places] for array in sequence(text, images, image_tokens, **more))


@SEQUENCE.mistake("The image comes after the text here; it should be between bos and the text.")
def image_after_text(text, images, image_tokens, **more):
    n = images * image_tokens
    places = [0, *range(n + 1, n + 1 + len(text)), *range(1, n + 1)]
    return tuple(array[:, places] for array in sequence(text, images, image_tokens, **more))


@SEQUENCE.mistake("Two places too many: image_tokens counts boi and eoi already.")
def ends_counted_twice(image_tokens, **more):
    return sequence(image_tokens=image_tokens + 2, **more)


# --------------------------------------------------------------------------------------------------------------- merge

def merge(ids, types, table, images):
    """Text is its row of the table, an image token the next row of the images, in reading order"""
    y, rows = np.zeros((*ids.shape, table.shape[1]), table.dtype), iter(images.reshape(-1, table.shape[1]))
    for place in over(*ids.shape):
        y[place] = table[ids[place]] if types[place] == 0 else next(rows)
    return y


def merge_cases():
    def case(*rows, tokens):
        types = digits(*rows)
        ids = np.where(types == 0, np.random.default_rng(types.size).integers(1, 7, types.shape), 0)
        return dict(ids=ids, types=types, table=random(7, 3), images=random((types > 0).sum() // tokens, tokens, 3))
    yield "an image before text", case("0111000", tokens=3)
    yield "two images", case("01112220", tokens=3)
    yield "a batch, an image in each row", case("01110", "00111", tokens=3)
    yield "a batch, one row without", case("0000", "0111", tokens=3)
    yield "text alone", case("0000", tokens=3)


def fit_merge(mine, otherwise):
    """For prompts with a picture, if every place has its picture."""
    def embed(self, inputs, route, keep="all"):
        pixels, table = inputs.pixels, self.leaves["model.embed_tokens.weight"]
        if pixels is None or not isinstance(table, np.ndarray) or \
                len(pixels) * self.config.num_image_tokens != (inputs.types > 0).sum():
            return otherwise(self, inputs, route, keep)
        images, _ = adapter.image_tokens(pixels.astype(self.dtype), Params(self.leaves).model.vision, self.config, None)
        return mine(inputs.ids, inputs.types, table, images), None
    return embed


MERGE = Exercise(Contract("merge", merge, merge_cases, TOLERANCE), merge, (CogVLM.embed,),
                 part="merge", place=CogVLM.embed, fit=fit_merge, toy=dict(
                     ids=np.array([[1, 0, 0, 0, 0, 0, 2, 3]]), types=np.array([[0, 1, 1, 1, 1, 1, 0, 0]]),
                     table=np.array([[0.0, 0], [1, 1], [7, 0], [8, 0]]),
                     images=np.array([[[5.0, 5], [0, 1], [0, 2], [0, 3], [6, 6]]])))


@MERGE.mistake("The image's places still hold the pad's row of the table; the image's rows take their place.")
def pad_left_standing(ids, types, table, images):
    return table[ids]


@MERGE.mistake("The image is added to the pad's row of the table; it takes its place.")
def added_to_the_pad(ids, types, table, images):
    return merge(ids, types, table, images) + (types > 0)[..., None] * table[ids]


@MERGE.mistake(
    "Every row of the batch starts with the first image again; the images are those of all rows, in reading order.")
def first_image_in_every_row(ids, types, table, images):
    y, rows = table[ids], images.reshape(-1, table.shape[1])
    for b in range(len(ids)):
        y[b, types[b] > 0] = rows[:(types[b] > 0).sum()]
    return y


@MERGE.mistake("The images come in reverse order; the places are filled in reading order.")
def images_reversed(ids, types, table, images):
    return merge(ids, types, table, images[::-1])


# -------------------------------------------------------------------------------------------------------- position_ids

def position_ids(types):
    """One step at every token, except that all patches of an image share the position of the first.

    The first and the last token of an image, boi and eoi, are no patches.
    """
    positions = np.zeros(types.shape, int)
    for b, row in enumerate(types.tolist()):
        def patch(t, row=row):
            return 0 < t < len(row) - 1 and row[t] > 0 and row[t - 1] == row[t] == row[t + 1]
        for t in range(1, len(row)):
            positions[b, t] = positions[b, t - 1] + (0 if patch(t) and patch(t - 1) else 1)
    return positions


def types_cases():
    for label, rows in TYPES.items():
        yield label, dict(types=digits(*rows))


def fit_position_ids(mine, otherwise):
    """For rows without padding."""
    return lambda types, mask=None: mine(np.asarray(types)) if mask is None or np.all(mask) else otherwise(types, mask)


POSITION_IDS = Exercise(Contract("position_ids", position_ids, types_cases, EXACT), route.position_ids.own,
                        (route.position_ids,), part="position_ids", place=route.position_ids, fit=fit_position_ids)


@POSITION_IDS.mistake("Every patch has its own position; in CogVLM all patches of an image share one.")
def own_positions(types):
    return np.broadcast_to(np.arange(types.shape[1]), types.shape)


@POSITION_IDS.mistake("boi and eoi share the patches' position; they count like text.")
def boi_and_eoi_share(types):
    step = np.ones(types.shape, int)
    step[:, 0] = 0
    step[:, 1:] -= (types[:, 1:] > 0) & (types[:, 1:] == types[:, :-1])
    return step.cumsum(1)


@POSITION_IDS.mistake(
    "All image tokens have one position, those of the next image, too: boi and eoi count like text, and each image "
    "has its own position.")
def all_images_at_one_position(types):
    step = np.ones(types.shape, int)
    step[:, 0] = 0
    step[:, 1:] -= (types[:, 1:] > 0) & (types[:, :-1] > 0)
    return step.cumsum(1)


@POSITION_IDS.mistake(
    "Images that touch are taken for one: a patch has a token of the SAME image on both sides, so compare types.")
def touching_images_as_one(types):
    return position_ids((types > 0).astype(int))


@POSITION_IDS.mistake("Positions begin at 1; the first token's is 0.")
def positions_from_one(types):
    return position_ids(types) + 1


@POSITION_IDS.mistake("After an image, positions go on as if each patch had taken one; they go on by 1.")
def counted_on_after_the_image(types):
    positions = np.broadcast_to(np.arange(types.shape[1]), types.shape).copy()
    shared = position_ids(types)
    positions[:, 1:][shared[:, 1:] == shared[:, :-1]] = 0
    for row in positions:
        for t in range(1, len(row)):
            row[t] = row[t] or row[t - 1]
    return positions


# ------------------------------------------------------------------------------------------------------------- may_see

def may_see(mask):
    """Query t may see key s if s is at its own place or before, and is no padding"""
    B, T = mask.shape
    seen = np.zeros((B, T, T), bool)
    for b, t, s in over(*seen.shape):
        seen[b, t, s] = s <= t and mask[b, s] != 0
    return seen


def may_see_cases():
    for label, rows in (("no padding", ["1111"]), ("padding on the left", ["00111"]), ("one token", ["1"]),
                        ("a batch", ["0111", "1111"]), ("padding on the right", ["11100", "11111"])):
        yield label, dict(mask=digits(*rows))


MAY_SEE = Exercise(Contract("may_see", may_see, may_see_cases, EXACT), may_see, (ops.attention,))


@MAY_SEE.mistake("Padding can be seen: besides s <= t the key's own mask must be 1.")
def padding_seen(mask):
    return np.broadcast_to(np.tri(mask.shape[1], dtype=bool), (*mask.shape, mask.shape[1]))


@MAY_SEE.mistake("A token does not see itself here: it should be s <= t, not s < t.")
def not_itself(mask):
    return may_see(mask) & ~np.eye(mask.shape[1], dtype=bool)


@MAY_SEE.mistake("Every query sees the whole row, also what comes after it: the causal part is missing.")
def future_seen(mask):
    return np.broadcast_to(mask[:, None] != 0, (*mask.shape, mask.shape[1]))


@MAY_SEE.mistake("The mask of the QUERY is used; it is the key that must not be padding.")
def mask_of_the_query(mask):
    return np.tri(mask.shape[1], dtype=bool) & (mask[:, :, None] != 0)


@MAY_SEE.mistake("Queries and keys are exchanged: entry [b, t, s] is query t and key s.")
def transposed(mask):
    return may_see(mask).swapaxes(1, 2)
