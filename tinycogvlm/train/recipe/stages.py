"""The pipeline of the paper in miniature: seven stages, each a small dataclass that says what is learned from what.

    vision      the tower: patches and pictures contrasted with words
    language    the language model, on text alone, so that it can look things up before it ever sees
    stage1      captions;                    the adapter, and the visual expert, which starts as a copy
    stage2      captions and boxes;          the same parts
    sft         conversations of all kinds;  the language model as well
    sft2        the same, crowds from the start, a warm restart of the rate (Loshchilov & Hutter 2017)
    sft3        the same, with more texts, more writing and single things, some of which have no name here

Every picture and every text comes once: number n of a stage is scene or text n of that stage's own stream.
"""
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cache

import numpy as np

from ...evaluate import accuracy
from ...inputs import examples
from ...inputs.tokenizer import Tokenizer
from ...model.cogvlm import CogVLM
from ...model.config import Config
from ...model.decoder import Rotary
from ...model.parts import ADAPTER, EXPERTS, INV_FREQ, LANGUAGE, TOWER
from ...storage.atomic import write
from ...storage.checkpoint import save
from ...world.conversations import WEIGHTS, conversation
from ...world.scenes import SIDE, Dice, scene
from ...world.sketches import ANY, AS_DRAWN, LINES, MOUSE, MOUSE_LINES, STRANGE, sketch
from ...world.texts import KINDS_OF_TEXT, MOST, text_conversation, told_scene
from ...world.writing import writing
from ..loop.checkpoint import handed_over
from ..loop.loop import Recipe
from ..loop.run import Run
from . import contrast
from .contrast import at
from .forgetting import text_hash
from .initial import CONFIG, copies, initial
from .learn_tokenizer import train_tokenizer

WATCHED = {"colour": AS_DRAWN, "lines": LINES, "filled": MOUSE, "outlined": MOUSE_LINES}
ALONE = STRANGE, AS_DRAWN, LINES, MOUSE, MOUSE_LINES, ANY   # manners of single things
PLAIN = {3: "plain", 9: "plain"}
LONGEST = 134                                               # tokens of a conversation, besides those of the picture
PER_STAGE = 10_000_000                                      # the scenes of a stage are numbered from a multiple of this


@dataclass(frozen=True)
class Stage:
    """What every stage has"""
    samples: int                                            # pictures or texts
    batch: int = 32
    peak: float = 1e-3                                      # the highest learning rate
    muon: float = 0.0                                       # that of Muon, on the blocks' matrices; 0: AdamW there too
    frozen: tuple = ()                                      # patterns of parameters that stay as they are
    groups: dict = field(default_factory=dict)              # {pattern: factor of the learning rate}
    ema: float = 0.998
    config: Config = CONFIG

    def begin(self, leaves, seed):
        """The parameters that this stage starts from"""
        return leaves

    def recipe(self, **settings):
        """The Recipe of loop.fit; `settings` is whatever else the result depends on."""
        settings = asdict(self) | settings
        settings.pop("tokenizer_path", None)                # the folder may be moved
        return Recipe(self.samples // self.batch, self.batch, self.peak, self.muon, groups=self.groups,
                      ema=self.ema, settings=settings)


@dataclass(frozen=True)
class Vision(Stage):
    """Patches and pictures contrasted with words: contrast.py"""
    course: tuple = contrast.COURSE                         # what the sketches look like

    def begin(self, leaves, seed):
        return leaves | contrast.heads(self.config, np.random.default_rng(seed + 1))

    def data(self, workers, step):
        return contrast.data(self.config.vision, self.course, self.samples, self.batch, workers, step)

    def loss(self, leaves, part):
        return contrast.loss(leaves, self.config, part)

    def watch(self, leaves):
        """Of the split `check`, drawn by hands that training never shows: patches named right in 64 sketches; of one
        thing as its hand drew it, in colour and in lines, and of shapes, filled and outlined: names and boxes right"""
        side = self.config.vision.image_size
        crowds = [sketch("check", number, (1, 6), side) for number in range(64)]
        found = self.loss(leaves, contrast.examples(crowds, self.config.vision.patch_size))[3]
        for manner, drawn in WATCHED.items():
            scenes = [sketch("check", number, (1, 1), side, drawn, (35, 65)) for number in range(100)]
            found[f"{manner}: name"], found[f"{manner}: box"] = contrast.read(leaves, self.config, scenes)
        return found


@dataclass(frozen=True)
class Talk(Stage):
    """Next-token prediction of answers, about texts or about pictures"""
    tokenizer_path: str = ""                                # of tokenizer.json: another process makes the data
    kinds: tuple = ()                                       # of questions (conversations.py) or of texts (texts.py)
    groups_watched = ("plain, 1-4 things", "sketches, 1-4 things")      # see accuracy.py

    @property
    def tokenizer(self):
        return load_tokenizer(self.tokenizer_path, self.config)

    def data(self, workers, step):
        """Step `step`, as twice as many parts (Inputs, labels) as workers"""
        made = [self.example(step * self.batch + i) for i in range(self.batch)]
        return examples.batches(made, 2 * workers, self.config.pad_token_id)

    def loss(self, leaves, part):
        inputs, labels = part
        weights = examples.weights(labels)
        value, pull = self.model(leaves).loss(inputs, labels, self.frozen, weights=weights)
        return value, float(weights.sum()), pull, {}

    def watch(self, leaves):
        """The shares of right answers in the split `check`, and one answer to look at"""
        model = self.model(leaves, self.tokenizer)
        groups = [group for group in accuracy.GROUPS if group.name in self.groups_watched]
        return {"answer": self.describe(model, scene("check", 0, (3, 3))),
                **accuracy.flat(accuracy.measure(model, "check", 24, groups, self.kinds))}

    def model(self, leaves, tokenizer=None):
        return CogVLM(self.config, leaves, tokenizer, Rotary(leaves[INV_FREQ]))


@dataclass(frozen=True)
class Language(Talk):
    """Texts: lists and scenes in words, with questions about them; comparisons of numbers; facts"""
    kinds: tuple = tuple(KINDS_OF_TEXT)
    alone: float = 0.35                                     # the share of the run that has nothing but lists
    most: tuple = ((0.35, 3), (0.6, 4), (1.0, MOST))        # (until this share of the run, most things in a list)
    groups_watched = ("text",)

    def example(self, number):
        dice, share = Dice("language", number), number / self.samples
        turns = text_conversation(dice, only=("list",) if share < self.alone else None, most=at(share, self.most))
        return examples.example(self.config, self.tokenizer, None, turns, learn_questions=dice.below(10) == 0)

    def describe(self, model, s):
        told = told_scene(s, Dice("check", 0))
        return model.ask(None, f"{told} Describe the image.", max_new_tokens=40).text


@dataclass(frozen=True)
class Pictures(Talk):
    """Conversations about pictures of more and more things"""
    first: int = 0                                          # number of the first scene
    kinds: tuple = tuple(WEIGHTS)                           # of questions
    turns: int = 5
    things: tuple = ((1.0, (1, 4)),)                        # (until this share of the run, fewest and most things)
    sides: tuple = ((1.0, SIDE),)                           # (until this share of the run, pixels of the picture)
    texts: float = 0.0                                      # the share of conversations without a picture
    mix: dict = field(default_factory=lambda: PLAIN | {7: "written"})   # what the pictures n of every twelve are

    def example(self, number):
        dice = Dice("questions", self.first + number)
        if dice.below(1000) < 1000 * self.texts:
            return examples.example(self.config, self.tokenizer, None, text_conversation(dice))
        share = number // self.batch * self.batch / self.samples        # the same for a whole step
        side = at(share, self.sides)
        s = self.scene(self.first + number, at(share, self.things), side)
        turns = conversation(s, dice, self.turns, self.kinds)
        longest = LONGEST + self.config.resized(side).num_image_tokens
        return examples.example(self.config, self.tokenizer, s.picture, turns, side, longest)

    def scene(self, number, things, side):
        """Plain, written or a single thing, as `mix` says; the others are sketches by any hand."""
        what = self.mix.get(number % 12)
        if what == "written":
            return writing("train", number, side=side)
        if what == "plain":
            return scene("train", number, things, side)
        if what == "single":
            return sketch("train", number, (1, 1), side, ALONE[number // 12 % len(ALONE)])
        return sketch("train", number, things, side)

    def describe(self, model, s):
        return model.ask(s.picture, "Describe the image.", max_new_tokens=40).text


@dataclass(frozen=True)
class Captions(Pictures):
    """The first stage with pictures: the visual expert starts as a copy of the language model."""

    def begin(self, leaves, seed):
        return leaves | copies(leaves)


STAGES = {
    "vision": Vision(300_000, batch=64, muon=0.01),
    "language": Language(48_000, batch=16, peak=2e-3, muon=0.02, frozen=TOWER + ADAPTER + EXPERTS),
    "stage1": Captions(8_000, batch=16, muon=0.01, frozen=TOWER + LANGUAGE, first=1 * PER_STAGE,
                       kinds=("caption", "background", "read"), turns=2, things=((0.5, (1, 2)), (1.0, (1, 3)))),
    "stage2": Pictures(12_000, batch=16, muon=0.01, frozen=TOWER + LANGUAGE, first=2 * PER_STAGE,
                       kinds=("caption", "grounded", "box", "phrase", "at box", "halves", "background", "read"),
                       things=((0.5, (1, 2)), (1.0, (1, 4))), sides=((0.5, SIDE), (1.0, 168))),
    "sft": Pictures(110_000, batch=16, muon=0.01, frozen=TOWER, first=3 * PER_STAGE, texts=0.1,
                    things=((0.05, (1, 1)), (0.15, (1, 2)), (0.25, (2, 3)), (0.6, (1, 4)), (1.0, (1, 6)))),
    "sft2": Pictures(150_000, batch=16, peak=7e-4, muon=0.007, frozen=TOWER, first=4 * PER_STAGE, texts=0.1,
                     things=((0.9, (1, 6)), (1.0, (1, 8)))),
    "sft3": Pictures(140_000, batch=16, peak=6e-4, muon=0.006, frozen=TOWER, first=5 * PER_STAGE, texts=0.2,
                     things=((0.9, (1, 6)), (1.0, (1, 8))),
                     mix=PLAIN | {1: "written", 5: "single", 7: "written"}),
}


def start(name, out, seed):
    """A stage, and the parameters that it starts from: those of the earlier stages that the folder `out` holds."""
    stage, names = STAGES[name], list(STAGES)
    leaves = initial(stage.config, seed)
    for before in [] if name in ("vision", "language") else names[:names.index(name)]:
        leaves |= {tensor: array for tensor, array in handed_over(Run(out, before)).items() if tensor in leaves}
    if isinstance(stage, Talk):
        path = out / "tokenizer.json"
        if not path.exists():
            train_tokenizer(path)
        stage = replace(stage, tokenizer_path=str(path))
    return stage, stage.begin(leaves, seed)


def finish(name, stage, out, before, after):
    """Write what follows from a finished stage -> the folder where the result is

    before, after: the parameters. Of a stage that leaves the language model as it is: hashes of its text-only logits
    before and after, which must be the same. Of the last stage: out/weights, a folder as on Hugging Face, in float16.
    """
    if set(stage.frozen) >= set(LANGUAGE):
        hashes = {when: text_hash(stage.model(leaves, stage.tokenizer))
                  for when, leaves in (("before", before), ("after", after))}
        write(out / f"{name}.text.json", json.dumps(hashes) + "\n")
    if name != list(STAGES)[-1]:
        return out
    save(out / "weights", {tensor: after[tensor] for tensor in stage.config.shapes()}, stage.config, "F16", replace=True)
    write(out / "weights" / "tokenizer.json", (out / "tokenizer.json").read_bytes())
    return out / "weights"


@cache
def load_tokenizer(path, config):
    return Tokenizer.load(path, config)
