"""What `tinycogvlm train` does: one stage or all of them, each from those before; a run's curves; LoRA."""
import os
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial

from ..errors import UsageError, UserError
from ..train.loop.loop import fit, new, steps_asked, steps_within
from .say import say

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def run(arguments):
    """Parsed arguments -> exit code"""
    if arguments.stage == "plot":
        from ..train.loop.plot import plot
        out = arguments.out or arguments.run / "curves.png"
        plot(arguments.run, out)
        say(f"{out}: drawn")
        return 0
    if arguments.stage in ("lora", "merge", "unmerge"):
        from ..train.lora import fine_tune
        make(arguments.out)
        carry_out = {"lora": fine_tune.train, "merge": fine_tune.merge, "unmerge": fine_tune.unmerge}[arguments.stage]
        return carry_out(arguments)
    from ..train.recipe.stages import STAGES
    names = list(STAGES) if arguments.stage == "all" else [arguments.stage]
    batch = STAGES[names[0]].batch
    if arguments.samples and arguments.samples < batch:
        raise UsageError(f"--samples {arguments.samples}: less than one batch of {arguments.stage}, which is {batch}")
    for name in names:
        if not arguments.resume:                            # rather now than when the stages before are through
            new(arguments.out, name)
    make(arguments.out)
    try:
        for name in names:
            learn(name, arguments)
    except MemoryError:
        raise UserError("not enough memory; fewer --workers need less") from None
    return 0


def learn(name, arguments):
    """One stage, from what the run's folder has of the stages before; its result stays there too."""
    from ..train.recipe.stages import finish, start
    out = arguments.out
    stage, leaves = start(name, out, arguments.seed)
    steps = (arguments.samples or stage.samples) // stage.batch
    begun = steps_asked(out, name) if arguments.resume and not arguments.samples else None
    if begun:
        steps = begun
    elif arguments.minutes:
        say(f"{name}: measuring the speed ...")
        steps = steps_within(arguments.minutes, leaves, partial(stage.data, arguments.workers), stage.loss,
                             arguments.workers)
    stage = replace(stage, samples=steps * stage.batch)     # what is learned first and last goes by shares of them
    settings = {**asdict(stage), "seed": arguments.seed, "workers": arguments.workers}
    settings.pop("tokenizer", None)                         # a path: the folder may be moved
    learned = fit(out, name, leaves, partial(stage.data, arguments.workers), stage.loss, steps, batch=stage.batch,
                  peak=stage.peak, groups=stage.groups, ema=stage.ema, workers=arguments.workers,
                  resume=arguments.resume, watch=getattr(stage, "watch", None), settings=settings)
    say(f"{name}: {steps * stage.batch} samples learned; the result is in {finish(name, out, leaves, learned)}")


def make(out):
    """The folder of a run, or UserError if nothing can be written there: known before anything is computed."""
    trial = out / f".{os.getpid()}.part"
    try:
        out.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from None


def one_blas_thread():
    """Start this command again with one thread for each matrix product, unless the environment says how many.

    Several workers, each with a product of its own, are faster than one whose products are shared out; and the number
    of threads, by which sums are cut, must not depend on the machine. NumPy's library reads it once, when it is loaded,
    and that has happened by now.
    """
    if any(name in os.environ for name in THREADS):
        return
    command, environment = [sys.executable, *sys.orig_argv[1:]], {**os.environ, **dict.fromkeys(THREADS, "1")}
    if os.name == "posix":
        os.execve(sys.executable, command, environment)
    else:                                                   # exec would return to the shell at once
        sys.exit(subprocess.run(command, env=environment).returncode)
