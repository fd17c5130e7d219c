"""tinycogvlm train: one stage or all of them, each from those before it; a run's curves; LoRA for pictures and videos."""
from dataclasses import replace
from functools import partial

from ..errors import UsageError, UserError
from ..train.loop.loop import fit, steps_asked
from ..train.loop.plot import plot
from ..train.loop.process import make_folder
from ..train.loop.run import Run
from ..train.eyes import learn
from ..train.lora import fine_tune, videos
from ..train.recipe import pair, stages
from .say import say

OTHERS = {"lora": fine_tune.train, "video": videos.train, "merge": fine_tune.merge, "unmerge": fine_tune.unmerge,
          "pair": pair.train, "eyes": learn.train}


def run(arguments):
    if arguments.stage == "plot":
        out = arguments.out or arguments.run / "curves.png"
        plot(arguments.run, out)
        say(f"{out}: drawn")
    elif arguments.stage in OTHERS:
        make_folder(arguments.out)
        OTHERS[arguments.stage](arguments)
    else:
        train(arguments)
    return 0


def train(arguments):
    """Train one stage, or all in their order."""
    names = list(stages.STAGES) if arguments.stage == "all" else [arguments.stage]
    batch = stages.STAGES[names[0]].batch
    if arguments.samples and arguments.samples < batch:
        raise UsageError(f"--samples {arguments.samples}: less than one batch of {arguments.stage}, which is {batch}")
    if not arguments.resume:
        for name in names:                                  # now, not when the stages before are finished
            Run(arguments.out, name).refuse_begun()
    make_folder(arguments.out)
    try:
        for name in names:
            with Run(arguments.out, name) as run:
                train_stage(run, arguments)
    except MemoryError:
        raise UserError("not enough memory; fewer --workers need less") from None


def train_stage(run, arguments):
    """Train a stage from what the folder holds of the stages before it; its result stays there too."""
    workers = arguments.workers
    stage, leaves = stages.start(run.stage, run.folder, arguments.seed)
    steps = steps_asked(run, arguments, stage.samples, stage.batch, leaves, partial(stage.data, workers), stage.loss,
                        workers)
    stage = replace(stage, samples=steps * stage.batch)     # a stage's plan goes by shares of its samples
    learned = fit(run, leaves, partial(stage.data, workers), stage.loss,
                  stage.recipe(seed=arguments.seed, workers=workers), workers=workers, resume=arguments.resume,
                  watch=stage.watch)
    folder = stages.finish(run.stage, stage, run.folder, leaves, learned)
    say(f"{run.stage}: {stage.samples} samples learned; the result is in {folder}")
