"""From a conversation to token ids: the templates, the place of the images, and batches."""
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ..errors import UserError
from ..nn.swap import op
from . import image

VICUNA_SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. "
                 "The assistant gives helpful, detailed, and polite answers to the user's questions. ")

# The task prompts of CogVLM's grounding checkpoints (template "base"). str.format fills in `phrase` and `box`,
# where the box is in the form of grounding.box_text.
CAPTION_WITH_BOXES = ("Can you provide a description of the image and include the coordinates [[x0,y0,x1,y1]] "
                      "for each mentioned object?")
BOX_OF_PHRASE = "Can you point out {phrase} in the image and provide the bounding boxes of its location?"
DESCRIBE_BOX = "Tell me what you see within the designated area {box} in the picture."

LETTERS = 128           # the most characters of a token: Llama 3 has one of 128 spaces


def base(query, history):
    """The query alone; the original ignores earlier turns here."""
    return [query]


def vqa(query, history):
    """Question: {query} Short answer:"""
    return _questions(query, history, "Short answer:")


def chat(query, history):
    """Question: {query} Answer:"""
    return _questions(query, history, "Answer:")


def vicuna(query, history):
    """{system} USER: {query} ASSISTANT:        how the original's demonstrations talk to v1 without an image"""
    turns = [part for question, answer in history for part in ("USER: ", question, f" ASSISTANT: {answer}\n")]
    return [VICUNA_SYSTEM, *turns, "USER: ", query, " ASSISTANT:"]


def _questions(query, history, answer_here):
    turns = [part for question, answer in history for part in ("Question: ", question, f" {answer_here} {answer}\n")]
    return [*turns, "Question: ", query, f" {answer_here}"]


TEMPLATES = {"base": base, "vqa": vqa, "chat": chat, "vicuna": vicuna}


def text(template, query, history=()):
    """The prompt of `query` after the turns `history` = ((question, answer), ...) -> str

    A question may also be a list of parts, text and images in their order; the prompt is then such a list as well,
    for `build`. Raises UserError for a template that is none of TEMPLATES.
    """
    if template not in TEMPLATES:
        raise UserError(f"no template {template!r}; there are {', '.join(TEMPLATES)}")
    parts = [part for piece in TEMPLATES[template](query, history)
             for part in (piece if isinstance(piece, (list, tuple)) else [piece])]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else parts


def default_template(config, with_image=True):
    """The template a checkpoint was tuned on: its config's, but Vicuna's for CogVLM v1 without an image."""
    return config.template_version if with_image else config.traits.text_template or config.template_version


@dataclass
class Inputs:
    """What the model reads: B rows of T tokens and the N images of all rows, in reading order."""
    ids: np.ndarray                     # (B, T) int64; an image's tokens hold the pad id
    types: np.ndarray                   # (B, T) int64; 0 text, k > 0 the k-th image of this row
    mask: np.ndarray                    # (B, T) int64; 0 padding
    pixels: np.ndarray | None = None    # (N, 3, S, S) float32, None without images


@op
def build(config, tokenizer, text, images=()):
    """One row of Inputs: [bos] + images + text, as the original orders them.

    `text` is a str, or a list of parts for images at other places: each str in it is text, anything else an image that
    image.load takes (give a file as a pathlib.Path there). Text between two images is encoded by itself; text behind
    the default place gets the same ids with and without an image. An image takes config.num_image_tokens tokens.
    """
    parts = [(False, picture) for picture in images]                # (is it text, the part)
    parts += [(True, text)] if isinstance(text, str) else [(isinstance(part, str), part) for part in text]
    letters = sum(len(part) for is_text, part in parts if is_text)
    if letters > LETTERS * config.max_position_embeddings:      # to encode 10 million would take half a minute
        raise UserError(f"the prompt has {letters:,} characters, far more than the model's context of "
                        f"{config.max_position_embeddings:,} tokens can hold")
    ids, types, pixels = [config.bos_token_id], [0], []
    for is_text, run in groupby(parts, lambda part: part[0]):
        if is_text:
            tokens = tokenizer.encode("".join(part for _, part in run))
            ids += tokens
            types += [0] * len(tokens)
            continue
        for _, picture in run:
            pixels.append(image.pixels(picture, config.vision.image_size))
            ids += [config.pad_token_id] * config.num_image_tokens
            types += [len(pixels)] * config.num_image_tokens
    ids, types = np.array([ids], np.int64), np.array([types], np.int64)
    return Inputs(ids, types, np.ones_like(ids), np.stack(pixels) if pixels else None)


def pad(rows, pad_id, side="left"):
    """Inputs of different lengths as one batch, in their order.

    Generation needs the padding on the left: every row's next token then follows its last real one, in one column for
    all rows. On the right a short row's answer would come after its padding, as in the original's CogVLM2 batch demo.
    """
    if side not in ("left", "right"):
        raise ValueError(f"side is 'left' or 'right', not {side!r}")
    longest = max(row.ids.shape[1] for row in rows)

    def stack(name, filler):
        arrays = [getattr(row, name) for row in rows]
        gaps = [longest - array.shape[1] for array in arrays]
        return np.concatenate([np.pad(array, ((0, 0), (gap, 0) if side == "left" else (0, gap)), constant_values=filler)
                               for array, gap in zip(arrays, gaps)])

    pixels = [row.pixels for row in rows if row.pixels is not None]
    return Inputs(stack("ids", pad_id), stack("types", 0), stack("mask", 0), np.concatenate(pixels) if pixels else None)
