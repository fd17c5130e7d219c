"""The pipeline of the paper in miniature: ten stages, each a small dataclass that says what is learned from what.

    vision      the tower: contrast of patches and pictures with words
    language    the language model: text only, so that it can look things up before it ever sees
    stage1      captions;                    the visual expert, begun as a copy of the language model, and the adapter
    stage2      captions and boxes;          the same
    sft         conversations of all kinds;  the language model as well
    sft2 to 5   the same with crowds from the start, the rate begun anew: warm restarts (Loshchilov & Hutter 2017)
    sft6        the tower as well

Every picture and every text comes once: number n of a stage is scene or text n of that stage's own stream.
"""
import json
import shutil
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import numpy as np

from ...evaluate import accuracy
from ...inputs import examples
from ...inputs.tokenizer import Tokenizer
from ...model.cogvlm import CogVLM
from ...model.decoder import Rotary
from ...model.parts import ADAPTER, EXPERTS, INV_FREQ, LANGUAGE, TOWER
from ...storage import atomic
from ...storage.checkpoint import save
from ...world.conversations import WEIGHTS, conversation
from ...world.scenes import SIDE, Dice, scene
from ...world.texts import KINDS_OF_TEXT, MOST, text_conversation, told_scene
from ..loop.checkpoint import handed_over
from . import contrast
from .forgetting import text_hash
from .initial import CONFIG, copies, initial
from .learn_tokenizer import train_tokenizer

LONGEST = 134                                               # tokens of a conversation beside the picture's
PER_STAGE = 10_000_000                                      # scenes' numbers of a stage begin at a multiple of this


@dataclass(frozen=True)
class Stage:
    """What every stage has."""
    samples: int                                            # pictures or texts
    batch: int = 32
    peak: float = 1e-3                                      # the highest learning rate
    frozen: tuple = ()                                      # patterns of parameters that stay as they are
    groups: dict = field(default_factory=dict)              # {pattern: factor of the rate}
    ema: float = 0.998

    def begin(self, leaves, seed):
        """The parameters that this stage starts from."""
        return leaves


@dataclass(frozen=True)
class Vision(Stage):
    """Contrast of patches and pictures with words: contrast.py"""

    def begin(self, leaves, seed):
        return leaves | contrast.heads(CONFIG, np.random.default_rng(seed + 1))

    def data(self, workers, step):
        return contrast.data(CONFIG.vision.patch_size, self.batch, workers, step)

    def loss(self, leaves, part):
        return contrast.loss(leaves, CONFIG, part)

    def watch(self, leaves):
        """Of the patches of things in scenes that are looked at only here: the share named right."""
        part = contrast.examples([scene("check", number) for number in range(64)], CONFIG.vision.patch_size)
        return self.loss(leaves, part)[3]


@dataclass(frozen=True)
class Talk(Stage):
    """Next-token prediction of answers, about texts or about pictures."""
    tokenizer: str = ""                                     # path of tokenizer.json
    kinds: tuple = ()                                       # of questions, see words.py, or of texts
    groups_watched = ("1-4 things",)                        # see accuracy.py

    def data(self, workers, step):
        """Step `step`, as twice as many parts (Inputs, labels) as workers: rows of like length, with little padding."""
        made = [self.row(step * self.batch + i) for i in range(self.batch)]
        made.sort(key=lambda row: -row[1].shape[1])
        size = -(-self.batch // (2 * workers))
        return [examples.batch(made[i:i + size], CONFIG.pad_token_id) for i in range(0, self.batch, size)]

    def loss(self, leaves, part):
        inputs, labels = part
        weights = examples.weights(labels)
        value, pull = model_of(leaves).loss(inputs, labels, self.frozen, weights=weights)
        return value, float(weights.sum()), pull, {}

    def watch(self, leaves):
        """Shares of right answers in the split "check", and one answer to look at."""
        model = model_of(leaves, tokenizer(self.tokenizer))
        s = scene("check", 0, (3, 3))
        told, picture = ("", s.picture) if isinstance(self, Pictures) else (told_scene(s, Dice("check", 0)) + " ", None)
        return {"answer": model.ask(picture, told + "Describe the image.", max_new_tokens=40).text,
                **accuracy.flat(accuracy.measure(model, "check", 10, self.groups_watched, self.kinds))}

    def row(self, number):
        raise NotImplementedError


@dataclass(frozen=True)
class Language(Talk):
    """Texts: lists and scenes in words, asked back; numbers compared; facts"""
    kinds: tuple = tuple(KINDS_OF_TEXT)
    alone: float = 0.35                                     # share of the run that looks things up in lists only
    most: tuple = ((0.35, 3), (0.6, 4), (1.0, MOST))        # (up to this share of the run, so many things in a list)
    groups_watched = ("text",)

    def row(self, number):
        dice, share = Dice("language", number), number / self.samples
        turns = text_conversation(dice, only=("list",) if share < self.alone else None, most=at(share, self.most))
        return examples.example(CONFIG, tokenizer(self.tokenizer), None, turns, learn_questions=dice.below(10) == 0)


@dataclass(frozen=True)
class Pictures(Talk):
    """Conversations about pictures of more and more things"""
    first: int = 0                                          # number of the first scene
    kinds: tuple = tuple(WEIGHTS)                           # of questions
    often: dict = field(default_factory=dict)               # {kind: how often} where it is not words.WEIGHTS
    turns: int = 6
    things: tuple = ((1.0, (1, 4)),)                        # (up to this share of the run, so many things)
    sides: tuple = ((1.0, SIDE),)                           # (up to this share of the run, pixels of the picture)
    texts: float = 0.0                                      # share of conversations without a picture

    def row(self, number):
        dice = Dice("questions", self.first + number)
        if dice.below(1000) < 1000 * self.texts:
            return examples.example(CONFIG, tokenizer(self.tokenizer), None, text_conversation(dice))
        count, side = (at(number // self.batch * self.batch / self.samples, plan) for plan in (self.things, self.sides))
        s = scene("train", self.first + number, count, side)
        turns = conversation(s, dice, self.turns, self.kinds, WEIGHTS | self.often)
        longest = LONGEST + CONFIG.resized(side).num_image_tokens
        return examples.example(CONFIG, tokenizer(self.tokenizer), s.picture, turns, side, longest)


def at(share, plan):
    """What a plan ((until, what), ...) says for this share of the run; a step is all of one kind."""
    return next(what for until, what in plan if share < until or until == 1)


@dataclass(frozen=True)
class Captions(Pictures):
    """The first stage with pictures: the visual expert begins as a copy of the language model's."""

    def begin(self, leaves, seed):
        return leaves | copies(leaves)


MORE_OFTEN = {"caption": 12, "count": 6, "each": 10, "halves": 14, "box": 20, "leftmost": 6, "background": 5}
COUNTED = {"caption": 18, "count": 16, "box": 20, "leftmost": 9, "relation": 12, "background": 5, "beside": 9,
           "count kind": 6, "topmost": 6, "halves": 8, "exists": 7, "absent": 4}
PHRASED = COUNTED | {"count": 30, "leftmost": 12, "phrase": 14}
AGAIN = partial(Pictures, batch=16, frozen=TOWER, texts=0.1, turns=5, things=((0.9, (1, 4)), (1.0, (1, 6))))
STAGES = {
    "vision": Vision(128_000),
    "language": Language(28_000, batch=16, peak=2e-3, frozen=TOWER + ADAPTER + EXPERTS),
    "stage1": Captions(6_000, batch=16, frozen=TOWER + LANGUAGE, first=1 * PER_STAGE, kinds=("caption", "background"),
                       turns=2, things=((0.5, (1, 2)), (1.0, (1, 3)))),
    "stage2": Pictures(8_000, batch=16, frozen=TOWER + LANGUAGE, first=2 * PER_STAGE, turns=5,
                       kinds=("caption", "grounded", "box", "phrase", "at box", "halves", "background"),
                       things=((0.5, (1, 2)), (1.0, (1, 4))), sides=((0.5, SIDE), (1.0, 168))),
    "sft": Pictures(120_000, batch=16, frozen=TOWER, first=3 * PER_STAGE, texts=0.1, turns=5,
                    often=MORE_OFTEN,
                    things=((0.1, (1, 1)), (0.3, (1, 2)), (0.5, (2, 3)), (0.94, (1, 4)), (1.0, (1, 6)))),
    "sft2": AGAIN(40_000, first=4 * PER_STAGE, often=MORE_OFTEN | {"relation": 20}),
    "sft3": AGAIN(120_000, first=5 * PER_STAGE, often=COUNTED),
    "sft4": AGAIN(100_000, first=6 * PER_STAGE, often=COUNTED | {"count": 24, "count kind": 8}),
    "sft5": AGAIN(150_000, first=7 * PER_STAGE, often=PHRASED),
    "sft6": AGAIN(72_000, first=8 * PER_STAGE, often=PHRASED, peak=6e-4, frozen=(), groups=dict.fromkeys(TOWER, 0.5)),
}


def start(name, out, seed):
    """A stage, and the parameters it starts from: those of the stages before it that the run's folder `out` holds."""
    stage, leaves, names = STAGES[name], initial(CONFIG, seed), list(STAGES)
    for before in [] if name in ("vision", "language") else names[:names.index(name)]:
        leaves |= {tensor: array for tensor, array in handed_over(out, before).items() if tensor in leaves}
    if isinstance(stage, Talk):
        path = out / "tokenizer.json"
        if not path.exists():
            train_tokenizer(path)
        stage = replace(stage, tokenizer=str(path))
    return stage, stage.begin(leaves, seed)


def finish(name, out, before, after):
    """Note that a text has not noticed, where it must not have; after the last stage write the model -> the folder

    before, after: the parameters. out/weights becomes a folder as Hugging Face ships them, in float16: the mean of what
    the last stage began and ended with, which answers better than either (WiSE-FT, Wortsman et al. 2022).
    """
    if set(STAGES[name].frozen) >= set(LANGUAGE):           # text-only logits, bit for bit
        hashes = [text_hash(model_of(leaves, tokenizer(str(out / "tokenizer.json")))) for leaves in (before, after)]
        atomic.write(out / f"{name}.text.json", json.dumps({"before": hashes[0], "after": hashes[1]}) + "\n")
    if name != list(STAGES)[-1]:
        return out
    save(out / "weights", {tensor: (before[tensor] + after[tensor]) / 2 for tensor in CONFIG.shapes()}, CONFIG, "F16",
         replace=True)
    shutil.copy(out / "tokenizer.json", out / "weights")
    return out / "weights"


@lru_cache
def tokenizer(path):
    return Tokenizer.load(path, CONFIG)


def model_of(leaves, tokenizer=None):
    return CogVLM(CONFIG, leaves, tokenizer, Rotary(leaves[INV_FREQ]))
