"""Table 6 of the paper in miniature: what is each part of the visual expert worth?

    python -m tinycogvlm.train.ablation.ablate RUN [--samples 6000] [--seeds 3] [--out FOLDER] [--only full,adapter]

Every variant learns the same questions about the same pictures, from the same start: the tower and the language model
that the stages `vision` and `language` left in the folder RUN. A variant with a seed is one run, and no run is done
twice. After an interruption, the same command goes on where it was. A second process of the same command takes the runs
that no other process is doing, so two cores can be used by two commands. Each prints the table of all finished runs.
"""
from ..loop.process import keep_freed_memory, make_folder, one_blas_thread, say

if __name__ == "__main__":
    one_blas_thread()                                       # before anything imports NumPy
    keep_freed_memory()

import argparse
import json
import sys
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path

from ...errors import UserError
from ...evaluate import accuracy
from ...inputs import examples
from ...model.parts import LANGUAGE, TOWER
from ...nn.tree import matches
from ...world import conversations
from ...world.scenes import Dice, scene
from ..loop import checkpoint
from ..loop.log import read
from ..loop.loop import Recipe, fit
from ..loop.run import Busy, Run
from ..recipe.forgetting import text_hash, text_losses
from ..recipe.initial import CONFIG, initial
from ..recipe.stages import PER_STAGE, load_tokenizer
from .table import finished, report, write
from .variants import HEAD, VARIANTS

SAMPLES, BATCH, PEAK, EMA = 6000, 16, 1e-3, 0.99
KINDS, TURNS, THINGS = ("caption", "box", "at box", "grounded"), 4, (1, 2)      # of questions; a picture; in a picture
MEASURED = ("caption", "box", "at box")                     # kinds of questions whose answers are judged
PICTURES, ASKED = 256, 200                                  # for the validation loss; for each kind of MEASURED


# What is learned

def start(run, config, seed):
    """The tower and the language model of a folder's finished stages; the rest is random."""
    leaves = initial(config, seed)
    for stage, patterns in (("vision", TOWER), ("language", LANGUAGE)):
        leaves |= {name: array for name, array in checkpoint.handed_over(Run(run, stage)).items()
                   if matches(name, patterns)}
    return leaves


def example(config, path, split, number):
    """A conversation about a scene, as examples.example makes it"""
    s = scene(split, number, THINGS)
    turns = conversations.conversation(s, Dice(f"ablation {split}", number), TURNS, KINDS)
    return examples.example(config, load_tokenizer(path, config), s.picture, turns)


def data(config, path, seed, step):
    """Step `step`, in one part: the same pictures for every variant, different ones for every seed"""
    first = (10 + seed) * PER_STAGE + step * BATCH
    return [examples.batch([example(config, path, "train", first + i) for i in range(BATCH)], config.pad_token_id)]


# What is measured

def validation_loss(model, path):
    total = count = 0
    for inputs, labels in check_batches(model.config, path):
        learned = int((labels != examples.NOTHING).sum())
        total, count = total + learned * float(model.loss(inputs, labels)[0]), count + learned
    return total / count


@lru_cache(maxsize=1)
def check_batches(config, path):
    made = [example(config, path, "check", number) for number in range(PICTURES)]
    return [examples.batch(made[start:start + 32], config.pad_token_id) for start in range(0, PICTURES, 32)]


def seen(model, path):
    """How good a model is with pictures: its validation loss, and the share of right answers of each kind"""
    one_or_two = accuracy.Pictures("1-2 things", MEASURED, things=((1, 1), (2, 2)))
    right = accuracy.measure(model, "check", ASKED, [one_or_two])["1-2 things"]
    return {"loss": validation_loss(model, path), **{kind: right[kind]["share"] for kind in MEASURED}}


# One variant with one seed

def learn(run, variant, seed, config, leaves, path, samples):
    """Train, measure, and write the result, unless it is there already.

    run: the Run <variant>-<seed>; leaves: what `start` gives; path: of tokenizer.json.
    """
    leaves = variant.begin(config, leaves, seed)
    settings = {"variant": asdict(variant), "seed": seed, "samples": samples, "questions": [KINDS, TURNS, THINGS],
                "start": bytes(checkpoint.digest(leaves)).hex()}
    settings = json.loads(json.dumps(settings))             # tuples become lists, as in the file
    if result := finished(run):
        if result["settings"] != settings:
            raise UserError(f"{run.folder / run.stage}.json is the result of other --samples, of another start or of "
                            "another recipe; --out names another folder")
        return
    recipe = Recipe(samples // BATCH, BATCH, PEAK, ema=EMA, settings=settings)
    watch = partial(watched, variant, config, path) if variant.shared else None
    after = fit(run, leaves, partial(data, config, path, seed), partial(variant.loss, config), recipe, resume=True,
                watch=watch, watch_every=20)
    tensors, facts = checkpoint.restore(run)
    last = {name.removeprefix("leaf/"): array for name, array in tensors.items() if name.startswith("leaf/")}
    tokenizer = load_tokenizer(path, config)
    before, model = variant.model(config, leaves, tokenizer), variant.model(config, after, tokenizer)
    result = {"settings": settings, "seconds": facts["seconds"],
              "trained": sum(array.size for name, array in last.items() if name != HEAD), "seen": seen(model, path),
              "text before": text_losses(before), "text after": text_losses(model),
              "text unchanged": text_hash(before) == text_hash(model),
              "forgetting": [{"samples": entry["step"] * BATCH, "losses": entry["watch"]}
                             for entry in read(run.log)[0] if "watch" in entry]}
    if variant.name == "full":                              # the same run without the moving average
        result["seen without EMA"] = seen(variant.model(config, after | last, tokenizer), path)
    write(run, result)


def watched(variant, config, path, leaves):
    """The losses on texts, where the language model is trained too: how fast does it forget what?"""
    return text_losses(variant.model(config, leaves, load_tokenizer(path, config)))


# All of them

def ablate(run, out=None, samples=SAMPLES, seeds=3, only=()):
    """Do every run that is neither finished nor another process's -> the table of all finished runs, as text

    run: the folder of the stages; out: where results go, by default its subfolder ablation; only: names of VARIANTS.
    """
    run = Path(run)
    out, path = Path(out or run / "ablation"), run / "tokenizer.json"
    if unknown := [name for name in only if name not in {variant.name for variant in VARIANTS}]:
        raise UserError(f"no variant {unknown[0]!r}; there are {', '.join(variant.name for variant in VARIANTS)}")
    if samples < BATCH:
        raise UserError(f"--samples {samples}: less than one batch, which is {BATCH}")
    if not path.exists():
        raise UserError(f"{path}: missing; the stage language makes it")
    make_folder(out)
    for seed in range(seeds):
        leaves = start(run, CONFIG, seed)
        for variant in VARIANTS:
            if not only or variant.name in only:
                try:
                    with Run(out, f"{variant.name}-{seed}") as one:
                        learn(one, variant, seed, CONFIG, leaves, str(path), samples)
                except Busy:
                    say(f"{variant.name}-{seed}: another process is at work on it")
    return report(out, {variant.name: variant.says for variant in VARIANTS}, seeds)


def main():
    parser = argparse.ArgumentParser(prog="python -m tinycogvlm.train.ablation.ablate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a folder in which the stages vision and language are finished")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"pictures of each run (default {SAMPLES})")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every variant (default 3)")
    parser.add_argument("--out", help="the folder of the results (default RUN/ablation)")
    parser.add_argument("--only", type=lambda text: text.split(","), default=(),
                        help=f"some of {','.join(variant.name for variant in VARIANTS)}")
    try:
        print(ablate(**vars(parser.parse_args())))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
