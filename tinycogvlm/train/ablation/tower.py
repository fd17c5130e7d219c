"""What makes a tower know a drawing by a hand that it has never seen? The stage `vision`, with one thing changed.

    python -m tinycogvlm.train.ablation.tower OUT [--samples 32000] [--seeds 3] [--only full,adamw]

Every variant learns from as many pictures; the seed chooses the initial weights. It is judged on the split `check`, one
thing drawn by hands that training never shows. No run is done twice; after an interruption the same command goes on
where it was, and a second process of the same command takes the runs that no other is doing.
"""
from ..loop.process import ended_in_a_sentence, make_folder, one_blas_thread

if __name__ == "__main__":
    one_blas_thread()                                       # before anything imports NumPy

import argparse
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

from ...errors import UserError
from ...world.sketches import ANY
from ..loop.loop import fit
from ..loop.run import free
from ..recipe.initial import CONFIG, initial
from ..recipe.stages import STAGES
from .table import finished, write

SAMPLES = 32_000
FULL = STAGES["vision"]
LARGE = replace(CONFIG, vision=replace(CONFIG.vision, image_size=168))


def course(**changes):
    """The stage's course with sketches drawn in another manner"""
    return tuple((until, replace(manner, **changes)) for until, manner in FULL.course)


VARIANTS = {                                                # name: (what it is, the stage)
    "full": ("all hands, restyled, from few to all, Muon, 112 pixels", FULL),
    "one-hand": ("one colour hand, no lines", replace(FULL, course=course(hands=1, inked=0))),
    "three-hands": ("three colour hands, no lines", replace(FULL, course=course(hands=3, inked=0))),
    "no-lines": ("all colour hands, no lines", replace(FULL, course=course(inked=0))),
    "as-drawn": ("nothing restyled", replace(FULL, course=course(restyled=0))),
    "no-course": ("everything from the start", replace(FULL, course=((1.0, ANY),))),
    "adamw": ("AdamW for the blocks' matrices too", replace(FULL, muon=0.0)),
    "168-pixels": ("144 patches instead of 64", replace(FULL, config=LARGE))}


def learn(run, name, seed, samples, workers=1):
    """Train a variant and write what it knows, unless that is there already -> {"watch": {measure: share}, ...}"""
    stage = replace(VARIANTS[name][1], samples=samples)
    settings = json.loads(json.dumps({"stage": asdict(stage), "seed": seed}))
    if found := finished(run, settings, "--samples or of another recipe"):
        return found
    leaves = stage.begin(initial(stage.config, seed), seed)
    after = fit(run, leaves, partial(stage.data, workers), stage.loss, stage.recipe(seed=seed), workers=workers,
                resume=True)
    result = {"settings": settings, "watch": stage.watch(after)}
    write(run, result)
    return result


def report(out, seeds):
    """The table of all finished runs in Markdown: mean, and the standard deviation over the seeds"""
    rows = {}
    for name in VARIANTS:
        files = [Path(out) / f"{name}-{seed}.json" for seed in range(seeds)]
        rows[name] = [json.loads(file.read_text(encoding="utf-8"))["watch"] for file in files if file.exists()]
    rows = {name: some for name, some in rows.items() if some}
    if not rows:
        return "No run is finished yet."
    measures = list(next(iter(rows.values()))[0])
    lines = [["", "seeds", *measures], ["---"] * (2 + len(measures))]
    for name, some in rows.items():
        cells = [[watch[measure] for watch in some] for measure in measures]
        lines.append([f"{VARIANTS[name][0]} (`{name}`)", str(len(some)),
                      *(f"{fmean(c):.3f}" + (f" ± {stdev(c):.3f}" if len(c) > 1 else "") for c in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ablate(out, samples=SAMPLES, seeds=3, only=()):
    """Do every run that is neither finished nor another process's -> the table of all finished runs, as text"""
    if unknown := [name for name in only if name not in VARIANTS]:
        raise UserError(f"no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    if samples < FULL.batch:
        raise UserError(f"--samples {samples}: less than one batch, which is {FULL.batch}")
    make_folder(out)
    for seed in range(seeds):
        chosen = {f"{name}-{seed}": name for name in only or VARIANTS}
        for run in free(out, chosen):
            learn(run, chosen[run.stage], seed, samples)
    return report(out, seeds)


def main():
    parser = argparse.ArgumentParser(prog="python -m tinycogvlm.train.ablation.tower", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="the folder of the results")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"pictures of each run (default {SAMPLES})")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every variant (default 3)")
    parser.add_argument("--only", type=lambda text: text.split(","), default=(), help=f"some of {','.join(VARIANTS)}")
    with ended_in_a_sentence():
        print(ablate(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
