"""The bundled CogVLM learns to hear: who computes a sound's tokens, an expert of their own or one of the two there are?

The language model, the tower and the visual expert are frozen; an ear, an adapter and, in the run `sound`, an expert are
learned. A conversation has a sound, or a picture and a sound of other things: "What do you hear?" "A dog and a bell."
Measured: the share of right answers about one sound, about two in their order, about a sound beside a picture and about
the picture beside a sound, and about the same picture alone.
"""
from dataclasses import replace
from functools import cache

import numpy as np

from ... import loading
from ...inputs import examples
from ...inputs.audio import Sound
from ...inputs.prompt import build, text
from ...model import generate
from ...model.parts import HEARING
from ...nn.tree import matches
from ...relatives import hearing
from ...world import sounds
from ...world.scenes import Dice, scene
from ...world.wordings import listed, sentence, with_article
from ..recipe.initial import by_inputs
from .miniature import Miniature, trained

BATCH, RATE, ASKED = 16, 2e-3, 100                          # ASKED: of each kind of question
HEAR, SEE = "What do you hear?", "What do you see?"
IS_THERE = "Do you hear {name}?"


@cache
def bundled():
    return loading.load()


def said(names):
    """A dog and a bell."""
    return sentence(listed([with_article(name) for name in names]))


def drawn(split, number, count, picture):
    """media and turns of a conversation: a sound of `count` things; with `picture` also a scene, before or after it"""
    dice = Dice(f"hearing {split}", number)
    things = dice.some(sounds.VOICES, count)
    media = [Sound(sounds.heard(things, np.random.default_rng([*split.encode(), number])))]
    name = dice.choice(things) if dice.below(2) else dice.choice(tuple(sounds.VOICES))
    turns = [(HEAR, said(things)), (IS_THERE.format(name=with_article(name)), "Yes." if name in things else "No.")]
    if picture:
        s = scene(split, number, (1, 2))
        media.insert(dice.below(2), s.picture)
        turns.append((SEE, said([thing.name for thing in s.things])))
    return media, dice.some(turns, len(turns))


def start(model, ear, seed):
    """The parameters of ears before training: an expert begins as a copy of the language model's"""
    shapes = replace(model.config, ear=ear).shapes()
    leaves = by_inputs({name: shape for name, shape in shapes.items() if matches(name, HEARING)},
                       np.random.default_rng(seed))
    leaves |= {name: model.leaves[name.replace("sound_", "language_")] for name in leaves if ".sound_" in name}
    time = np.arange(50 * ear.seconds)[:, None] * 10000.0 ** -np.linspace(0, 1, ear.width // 2)
    table = np.concatenate([np.sin(time), np.cos(time)], 1).astype(np.float32)
    return leaves | {"model.sound.encoder.embed_positions.weight": table}


def learn(run, settings, seed):
    model = bundled()
    ears = hearing.hear(model, hearing.Ear(expert=settings["expert"]), {})
    config, frozen = ears.config, model.parameters

    def data(step):                                         # one sound and two by turns, beside a picture every third time
        first = (seed * settings["steps"] + step) * BATCH
        made = [drawn("train", number, 1 + step % 2, step % 3 == 2) for number in range(first, first + BATCH)]
        rows = [examples.example(config, model.tokenizer, media, turns) for media, turns in made]
        return examples.batch(rows, config.pad_token_id)

    def loss(leaves, batch):
        inputs, labels = batch
        return hearing.hear(model, config.ear, leaves).loss(inputs, labels, frozen, weights=examples.weights(labels))
    after = trained(run, start(model, config.ear, seed), data, loss, settings["steps"], RATE, BATCH)
    ears = hearing.hear(model, config.ear, after)
    hearing.save(run.folder / f"ears-{settings['expert']}-{seed}", ears)
    return measured(ears)


def measured(ears):
    """The shares of right answers in the split "test" """
    return {"one": right(ears, HEAR, 1), "two": right(ears, HEAR, 2),
            "beside a picture": right(ears, HEAR, 1, picture=True),
            "picture beside it": right(ears, SEE, 1, picture=True),
            "picture alone": right(ears, SEE, 1, picture=True, sound=False)}


def right(ears, question, count, picture=False, sound=True):
    """The share of right answers to `question` in conversations that are `drawn`; sound: whether it is played"""
    rows, truths = [], []
    for number in range(ASKED):
        media, turns = drawn("test", number, count, picture)
        media = [medium for medium in media if sound or not isinstance(medium, Sound)]
        rows.append(build(ears.config, ears.tokenizer, text("chat", question), media))
        truths.append(dict(turns)[question])
    said = [answer.text for first in range(0, ASKED, 25)
            for answer in generate.answers(ears, rows[first:first + 25], 20)]
    return float(np.mean([answer == truth for answer, truth in zip(said, truths)]))


RUNS = {expert: dict(expert=expert, steps=1500) for expert in hearing.EXPERTS}
EARS = Miniature("hearing", "CogVLM (Wang et al. 2023), for sounds: an expert of its own lets a frozen language "
                         "model take in another kind of token.", 20, RUNS, learn)
