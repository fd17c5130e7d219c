"""Comparisons of variants that learn the same questions about the same pictures, from the same start.

    tinycogvlm ablate experts|parameters|bridges|ways|encoder-free [--weights FOLDER] [--samples N] [--seeds 3]
                                                                   [--only linear,mlp]

A variant with a seed is one run, and no run is done twice. After an interruption, the same command goes on where it was.
A second process of the same command takes the runs that no other process is doing, so two cores can be used by two
commands. Each prints the table of all finished runs.
"""
import json
import math
import time
from bisect import bisect_left
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from statistics import median

import numpy as np

from ...errors import UserError
from ...evaluate import accuracy
from ...inputs import examples
from ...model.config import Config
from ...model.parts import LANGUAGE, TOWER
from ...nn.tree import matches
from ...storage.checkpoint import Checkpoint
from ...world import conversations
from ...world.scenes import SIDE, Dice, scene
from ...world.writing import writing
from ..loop import checkpoint
from ..loop.log import read
from ..loop.loop import Diverged, Recipe, fit
from ..loop.process import make_folder
from ..loop.run import Run, free
from ..recipe.forgetting import text_hash, text_losses
from ..recipe.initial import CONFIG, initial
from ..recipe.stages import PER_STAGE, load_tokenizer
from . import bridges, encoder_free, parameters, variants, ways
from .table import finished, of_pictures, report, write, write_broken
from .work import counted, counting

COMPARISONS = {"experts": variants.COMPARISON, "parameters": parameters.COMPARISON, "bridges": bridges.COMPARISON,
               "ways": ways.COMPARISON, "encoder-free": encoder_free.COMPARISON}
BATCH, PEAK, EMA = 16, 1e-3, 0.99
PICTURES, ASKED = 256, 200                                  # for the validation loss; for each kind of question
WRITTEN = 6                                                 # one picture in so many has something written in it
POINTS = 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4                 # of a run, where it is looked at on the way
TIMED = 9                                                   # questions whose answers are timed


# What is learned

def start(folder, seed):
    """Config, and the tower and language model of a model's folder or of finished stages; the rest is random."""
    if (folder / "config.json").exists():
        config, stored = first_generation(folder), Checkpoint(folder)
        found = {name: stored[name].numpy().astype(np.float32) for name in config.shapes()}
    else:
        config, found = CONFIG, {}
        for stage, patterns in (("vision", TOWER), ("language", LANGUAGE)):
            left = checkpoint.handed_over(Run(folder, stage))
            found |= {name: array for name, array in left.items() if matches(name, patterns)}
    return config, initial(config, seed) | {name: array for name, array in found.items()
                                            if matches(name, TOWER + LANGUAGE)}


def first_generation(folder):
    """The Config of a model's folder, which must be a CogVLM of the bundled model's kind"""
    config = Config.read(folder)
    if not config.vision or config.traits.pooling > 1:
        raise UserError(f"{folder}: the comparisons are made with a CogVLM of the first generation, as the bundled model "
                        "is one")
    return config


def conversation(comparison, split, number):
    """A scene, and the questions about it with their true answers"""
    s = scene(split, number, comparison.things)
    if "read" in comparison.kinds and number % WRITTEN == 0:
        s = writing(split, number)
    return s, conversations.conversation(s, Dice(f"ablation {split}", number), comparison.turns, comparison.kinds)


def part(comparison, variant, config, path, split, numbers):
    """Scenes as one part, as `variant.loss` takes it"""
    rows = []
    for number in numbers:
        s, turns = conversation(comparison, split, number)
        rows.append(variant.example(config, load_tokenizer(path, config), s.picture, turns))
    return variant.batch(config, rows)


def data(comparison, variant, config, path, seed, steps, step):
    """A step of so many, in one part: the same pictures for every variant, different ones for every seed"""
    first = (10 + seed) * PER_STAGE + step * BATCH
    return [variant.at(part(comparison, variant, config, path, "train", range(first, first + BATCH)), step / steps)]


# What is measured

def validation_loss(comparison, variant, model, path):
    return mean_loss(model, check_batches(comparison, variant, model.config, path))


def loss_on(variant, model, asked):
    """The loss on the true answers to these questions"""
    rows = [variant.example(model.config, model.tokenizer, one.scene.picture, one.turns) for one in asked]
    return mean_loss(model, (variant.batch(model.config, rows[first:first + 32]) for first in range(0, len(rows), 32)))


def mean_loss(model, batches):
    """The mean over all tokens that are learned"""
    total = count = 0
    for inputs, labels in batches:
        learned = int((labels != examples.NOTHING).sum())
        total, count = total + learned * float(model.loss(inputs, labels)[0]), count + learned
    return total / count


@lru_cache(maxsize=1)
def check_batches(comparison, variant, config, path):
    return [part(comparison, variant, config, path, "check", range(first, min(first + 32, PICTURES)))
            for first in range(0, PICTURES, 32)]


@lru_cache(maxsize=1)
def questions(kinds):
    """Questions about scenes that training never shows -> [accuracy.Asked, ...]"""
    plain = accuracy.Pictures("1-2 things", tuple(kind for kind in kinds if kind != "read"), things=((1, 1), (2, 2)))
    written = accuracy.Pictures("written", tuple(kind for kind in kinds if kind == "read"),
                                partial(accuracy.written, None, None), ((1, 6),))
    return [question for group in (plain, written) for question in group.questions("check", ASKED, SIDE)]


def seen(comparison, variant, model, path):
    """How good a model is with pictures: its validation loss, that on some kinds, and the share of right answers of each"""
    found = {"loss": validation_loss(comparison, variant, model, path)} if variant.writes else {}
    asked = questions(variant.judged(comparison.asked))
    for kind in comparison.losses if variant.writes else ():
        found[f"loss on {kind}"] = loss_on(variant, model, [question for question in asked if question.kind == kind])
    said = variant.answers(model, asked)
    for measure in comparison.measured:
        kind, _, digits = measure.partition(" at 0.")
        right = [question.right(answer, float(f"0.{digits}") if digits else 0.5)
                 for question, answer in zip(asked, said) if question.kind == kind]
        if right:
            found[measure] = sum(right) / len(right)
    return found


def texts(model, variant):
    return text_losses(model) if variant.writes else {}


def watched(comparison, variant, config, path, leaves):
    """On the way: what is seen, if the comparison wants to know; where the language model learns, what it forgets"""
    model = variant.model(config, leaves, load_tokenizer(path, config))
    found = seen(comparison, variant, model, path) if comparison.curve else {}
    return found | {f"text {kind}": loss for kind, loss in (texts(model, variant) if variant.tunes else {}).items()}


def costs(variant, config, leaves, tokenizer, parts):
    """Operations: of reading a picture, of each token of text, and of learning from a sample, forward and backward

    A token of text is read and followed by another one; of a picture's tokens nothing is guessed.
    """
    model, picture = variant.model(config, counted(leaves), tokenizer), scene("check", 0, (1, 1)).picture
    words = [" ".join(["Where is the dog?"] * times) for times in (1, 2)]
    lengths = [len(tokenizer.encode(some)) for some in words]

    def work(function, *arguments, **named):
        with counting() as done:
            function(*arguments, **named)
        return done[0]

    def of_token(last):
        """With two lengths of words -> operations of a token, and of all in the shorter one"""
        short, long = (work(variant.read, model, picture, some, last) for some in words)
        return (long - short) / (lengths[1] - lengths[0]), short

    def learn():
        for one in parts:
            variant.loss(config, counted(leaves), one)[2]()

    (token, _), (read, short) = of_token(last=False), of_token(last=True)
    return {"token": token, "picture": short - read * lengths[0] - (token - read), "sample": work(learn) / BATCH}


def work_of_a_run(variant, config, leaves, tokenizer, batches, steps):
    """`costs`, those of a sample as their mean over all steps; batches(step): its parts"""
    begins = sorted({0, bisect_left(range(steps), variant.alone, key=lambda step: step / steps)} - {steps})
    each = [costs(variant, config, leaves, tokenizer, batches(step)) for step in begins]
    lengths = np.diff([*begins, steps]).tolist()
    return each[0] | {"sample": sum(one["sample"] * length for one, length in zip(each, lengths)) / steps}


def milliseconds(comparison, variant, model):
    """The median, over answers to one kind of question, of computing time for one"""
    asked, taken = questions(variant.judged(comparison.asked)), []
    for question in [one for one in asked if one.kind == comparison.timed][:TIMED]:
        begun = time.process_time()
        variant.answers(model, [question])
        taken.append(time.process_time() - begun)
    return 1000 * median(taken)


# One variant with one seed

def learn(run, comparison, variant, seed, config, leaves, path, samples):
    """Train, measure, and write the result, unless it is there already.

    run: the Run <variant>-<seed>; config, leaves: what `start` gives; path: of tokenizer.json.
    """
    config = variant.config(config)
    leaves = variant.begin(config, leaves, seed)
    settings = {"variant": asdict(variant), "seed": seed, "samples": samples,
                "questions": [comparison.kinds, comparison.turns, comparison.things],
                "start": bytes(checkpoint.digest(leaves)).hex()}
    settings = json.loads(json.dumps(settings))             # tuples become lists, as in the file
    if finished(run, settings, "--samples, of another start or of another recipe"):
        return
    recipe = Recipe(samples // BATCH, BATCH, PEAK, ema=EMA, settings=settings)
    batches = partial(data, comparison, variant, config, path, seed, recipe.steps)
    watch = partial(watched, comparison, variant, config, path) if comparison.curve or variant.tunes else None
    try:
        after = fit(run, leaves, batches, partial(variant.loss, config), recipe, resume=True, watch=watch,
                    watch_every=math.inf, watch_at={round(share * recipe.steps) for share in POINTS})
    except Diverged as error:
        return write_broken(run, settings, error)
    tensors, facts = checkpoint.restore(run)
    last = {name.removeprefix("leaf/"): array for name, array in tensors.items() if name.startswith("leaf/")}
    tokenizer = load_tokenizer(path, config)
    before, model = variant.model(config, leaves, tokenizer), variant.model(config, after, tokenizer)
    curve = [{"samples": entry["step"] * BATCH, **entry["watch"]} for entry in read(run.log)[0] if "watch" in entry]
    result = {"settings": settings, "seconds": facts["seconds"],
              "trained": sum(array.size for name, array in last.items() if not matches(name, variant.thrown_away)),
              "work": work_of_a_run(variant, config, after, tokenizer, batches, recipe.steps),
              "ms an answer": milliseconds(comparison, variant, model),
              "seen": (of_pictures(curve[-1]) if comparison.curve else seen(comparison, variant, model, path))
              | comparison.also(variant, model),
              "text before": texts(before, variant), "text after": texts(model, variant),
              "text unchanged": text_hash(before) == text_hash(model) if variant.writes else None, "curve": curve}
    if comparison is variants.COMPARISON and variant.name == "full":        # the same run without the moving average
        result["seen without EMA"] = seen(comparison, variant, variant.model(config, after | last, tokenizer), path)
    write(run, result)


# All of them

def ablate(what, weights, out, samples=None, seeds=3, only=()):
    """Do every run that is neither finished nor another process's -> the table of all finished runs, as text

    what: a name of COMPARISONS; weights: the folder of a model, or of the stages `vision` and `language`, in which
    tokenizer.json is too; out: where results go; samples: of each run, by default the comparison's; only: names of
    variants.
    """
    comparison, weights, out = COMPARISONS[what], Path(weights), Path(out)
    samples, path = samples or comparison.samples, weights / "tokenizer.json"
    names = [variant.name for variant in comparison.variants]
    if unknown := [name for name in only if name not in names]:
        raise UserError(f"no variant {unknown[0]!r}; there are {', '.join(names)}")
    if samples < BATCH:
        raise UserError(f"--samples {samples}: less than one batch, which is {BATCH}")
    if weights.is_file() or (weights / "config.json").exists():
        first_generation(weights)
    if not path.exists():
        raise UserError(f"{path}: missing; a model's folder has it, and the stage language makes it")
    make_folder(out)
    for seed in range(seeds):
        config, leaves = start(weights, seed)
        chosen = {f"{variant.name}-{seed}": variant for variant in comparison.variants if not only or variant.name in only}
        for run in free(out, chosen):
            learn(run, comparison, chosen[run.stage], seed, config, leaves, str(path), samples)
    return report(out, comparison, seeds)
