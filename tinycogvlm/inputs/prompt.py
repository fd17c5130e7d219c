"""From a conversation to token ids: templates, earlier turns, the places of images, batches."""
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..nn.swap import op
from ..storage.reading import short
from . import image
from .audio import Sound
from .video import Video

VICUNA_SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. "
                 "The assistant gives helpful, detailed, and polite answers to the user's questions. ")

# The task prompts of CogVLM's grounding checkpoints (template "base"). str.format fills in `phrase` and `box`, a text
# by grounding.box_text.
CAPTION_WITH_BOXES = ("Can you provide a description of the image and include the coordinates [[x0,y0,x1,y1]] "
                      "for each mentioned object?")
BOX_OF_PHRASE = "Can you point out {phrase} in the image and provide the bounding boxes of its location?"
DESCRIBE_BOX = "Tell me what you see within the designated area {box} in the picture."

LETTERS = 128           # the most characters of a token: Llama 3 has one of 128 spaces
ANSWER = 100            # tokens kept free for an answer about a video and for the template


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
    earlier = [part for question, answer in history for part in ("USER: ", question, f" ASSISTANT: {answer}\n")]
    return [VICUNA_SYSTEM, *earlier, "USER: ", query, " ASSISTANT:"]


def _questions(query, history, answer_here):
    earlier = [part for question, answer in history for part in ("Question: ", question, f" {answer_here} {answer}\n")]
    return [*earlier, "Question: ", query, f" {answer_here}"]


TEMPLATES = {"base": base, "vqa": vqa, "chat": chat, "vicuna": vicuna}
NO_EYES = "this is a language model, which sees no pictures; ask it without one (with - for IMAGE)"
NO_EARS = "this model hears nothing; `python -m tinycogvlm.train.miniatures hearing` trains ears for it, which --ears adds"
OWN = "own"             # the template of the tokenizer itself, see chat_template.py

FORM = ('a history is [(question, answer), ...] or [{"role": "user", "content": question}, {"role": "assistant", '
        '"content": answer}, ...]')


@dataclass(frozen=True)
class Token:
    """A special token of a prompt, which only a template can place"""
    id: int


def text(template, query, history=None, tokenizer=None):
    """The prompt of `query` after earlier turns, in a form that `turns` knows -> str

    A question may also be a list of parts, text and images in their order; the prompt is then such a list as well,
    for `build`. The template "own" is the tokenizer's; its prompts have Tokens among their parts.
    Raises UserError for an unknown template, and for a question or history of another form.
    """
    own = getattr(tokenizer, "chat_template", None)
    if template == OWN and own is None:
        raise UserError("this model has no chat template; --template base asks it to continue a text")
    if not isinstance(template, str) or template not in (*TEMPLATES, OWN):
        raise UserError(f"no template {template!r}; there are {', '.join((*TEMPLATES, OWN))}")
    if not isinstance(query, (str, list, tuple)):
        raise UserError(f"the question is {query!r}; it must be a text, or a list of texts and pictures")
    write = own if template == OWN else TEMPLATES[template]
    parts = [part for piece in write(query, turns(history))
             for part in (piece if isinstance(piece, (list, tuple)) else [piece])]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else parts


def turns(history):
    """Earlier turns in the form that templates take: [(question, answer), ...]

    history: such pairs, an answer being a str or a generate.Answer; or messages, {"role": "user", "content": ...} and
    {"role": "assistant", "content": ...} by turns, as clients of chat servers keep them; or None. The content of a
    message is a str, or a list of {"type": "text", "text": ...} and, from the user, {"type": "image", "image": ...}.
    """
    if history is None:
        return []
    if not isinstance(history, (list, tuple)):
        raise UserError(f"the history is {short(history)}; {FORM}")
    if history and all(isinstance(turn, dict) for turn in history):
        return _pairs(history)
    pairs = []
    for i, turn in enumerate(history):
        question, answer = turn if isinstance(turn, (list, tuple)) and len(turn) == 2 else (None, None)
        answer = getattr(answer, "text", answer)
        if not isinstance(question, (str, list, tuple)) or not isinstance(answer, str):
            raise UserError(f"history[{i}] is {short(turn)}; {FORM}")
        pairs.append((question, answer))
    return pairs


def _pairs(messages):
    """[(question, answer), ...] of messages"""
    contents = []
    for i, message in enumerate(messages):
        role, wanted = message.get("role"), ("user", "assistant")[i % 2]
        if role != wanted:
            raise UserError(f"history[{i}] has the role {short(role)}, not {wanted!r}; {FORM}")
        contents.append(_content(message.get("content"), wanted, f"history[{i}]"))
    if len(contents) % 2:
        raise UserError(f"the history's last message is a question without an answer; {FORM}, and the new question is "
                        "not in it")
    return list(zip(contents[::2], contents[1::2]))


def _content(content, role, place):
    """What a message says: a str, or a list of str and pictures."""
    if isinstance(content, str):
        return content
    parts = []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif kind == "image" and "image" in part and role == "user":
            parts.append(Path(part["image"]) if isinstance(part["image"], str) else part["image"])
        else:
            raise UserError(f"the content of {place} has {short(part)}; it must be a text, or a list of "
                            '{"type": "text", "text": ...} and, from the user, {"type": "image", "image": ...}')
    return "".join(parts) if all(isinstance(part, str) for part in parts) else parts


def pictured(query, history=None):
    """Whether a question or an earlier one holds a picture."""
    return any(not isinstance(part, str) for question in (query, *(question for question, _ in turns(history)))
               if isinstance(question, (list, tuple)) for part in question)


def default_template(config, with_image=True):
    """The template a checkpoint was tuned on: its config's, but Vicuna's for CogVLM v1 without an image."""
    return config.template_version if with_image else config.traits.text_template or config.template_version


@dataclass
class Inputs:
    """What the model reads: B rows of T tokens, and the media of all rows in reading order.

    media: [(kind, array)]; ("image", (3, S, S) float32) for a picture, ("frames", (N, 3, S, S)) for those of a video
    that are one medium; ("sound", (M, frames)) for the spectrogram of a sound.
    """
    ids: np.ndarray                     # (B, T) int64; the tokens of a medium hold the pad id
    types: np.ndarray                   # (B, T) int64; 0 text, k > 0 the k-th medium of this row
    mask: np.ndarray                    # (B, T) int64; 0 padding
    media: list = field(default_factory=list)

    @property
    def pixels(self):
        """The images among the media in one array (N, 3, S, S), or None where there are none."""
        arrays = [array for kind, array in self.media if kind == "image"]
        return np.stack(arrays) if arrays else None


def images(pixels):
    """Media of pictures (N, 3, S, S): [("image", (3, S, S))]"""
    return [("image", picture) for picture in pixels]


@op
def build(config, tokenizer, text, images=()):
    """One row of Inputs: [bos] + images + text, as the original orders them.

    `text` is a str, or a list of parts for images at other places: each str in it is text, a Token is one, anything else
    an image: a video.Video, an audio.Sound or what image.load takes (give a file as a pathlib.Path there). Text between
    two images is encoded by itself; text after images at the default place gets the same ids as without them. An image,
    and each frame of a Video, takes config.num_image_tokens tokens; a Sound as many as its length asks for. A text with
    Tokens is whole: no bos is put before it.
    """
    parts = [(None, picture) for picture in images]                 # (str, Token or None for an image; the part)
    parts += [(next((kind for kind in (str, Token) if isinstance(part, kind)), None), part)
              for part in ([text] if isinstance(text, str) else text)]
    letters = sum(len(part) for kind, part in parts if kind is str)
    if letters > LETTERS * config.max_position_embeddings:      # to encode 10 million would take half a minute
        raise UserError(f"the prompt has {letters:,} characters, far more than the model's context of "
                        f"{config.max_position_embeddings:,} tokens can hold")
    ids = [] if any(kind is Token for kind, _ in parts) else start(config, tokenizer)
    types, media = [0] * len(ids), []

    def write(tokens):
        ids.extend(tokens)
        types.extend([0] * len(tokens))

    def show(kind, array, tokens=config.num_image_tokens):
        media.append((kind, array))
        ids.extend([config.pad_token_id] * tokens)
        types.extend([len(media)] * tokens)
    for kind, run in groupby(parts, lambda part: part[0]):
        if kind is not None:
            run = [part for _, part in run]
            write([part.id for part in run] if kind is Token else tokenizer.encode("".join(run)))
            continue
        for _, picture in run:
            if isinstance(picture, Sound):
                if not config.ear:
                    raise UserError(NO_EARS)
                show("sound", *config.ear.spectrogram(picture.wave))
                continue
            if not config.vision:
                raise UserError(NO_EYES)
            if not isinstance(picture, Video):
                show("image", image.pixels(picture, config.vision.image_size))
                continue
            check_room(config, len(picture.frames))
            frames = picture.pixels(config.vision.image_size)
            if picture.strategy == "base":
                show("frames", frames, len(frames) * config.num_image_tokens)
                continue
            for second, frame in zip(picture.seconds or range(len(frames)), frames):
                show("image", frame)
                write(tokenizer.encode(str(second)))
    if not ids:
        raise UserError("the prompt is empty, and this model puts no token of its own before a text")
    ids, types = np.array([ids], np.int64), np.array([types], np.int64)
    return Inputs(ids, types, np.ones_like(ids), media)


def check_room(config, frames):
    """Refuse a video that alone fills the context."""
    room = (config.max_position_embeddings - 2) // (config.num_image_tokens + 1)
    if frames > room:
        raise UserError(f"{frames} frames of {config.num_image_tokens} tokens and a number do not fit into the model's "
                        f"context of {config.max_position_embeddings} tokens; it holds {room} at most")


def room_for_frames(config, tokenizer, text):
    """How many frames with their numbers fit into the context beside a question and an answer"""
    spare = config.max_position_embeddings - len(tokenizer.encode(text)) - ANSWER
    return max(2, spare // (config.num_image_tokens + len(tokenizer.encode("00"))))


def start(config, tokenizer):
    """The ids before a text: bos, but for families that leave it to the tokenizer"""
    return [config.bos_token_id] if config.traits.bos else list(tokenizer.start)


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

    media = [medium for row in rows for medium in row.media]
    return Inputs(stack("ids", pad_id), stack("types", 0), stack("mask", 0), media)
