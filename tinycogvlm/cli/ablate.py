"""tinycogvlm ablate: comparisons of variants that learn the same questions from the same start, resumable."""
from pathlib import Path

from ..errors import UsageError
from ..loading import found
from ..train.ablation import tower
from ..train.ablation.ablate import ablate
from ..train.eyes.compare import compare
from .say import echo


def run(arguments):
    weights, out = arguments.weights, arguments.out or Path("runs", arguments.what)
    if arguments.what == "tower" and weights:
        raise UsageError("--weights: towers are trained from nothing")
    if arguments.what == "tower":
        echo(tower.ablate(out, arguments.samples, arguments.seeds, arguments.only))
    elif arguments.what == "eyes":
        echo(compare(weights, out, arguments.samples, arguments.seeds, arguments.only))
    else:
        echo(ablate(arguments.what, found(weights), out, arguments.samples, arguments.seeds, arguments.only))
    return 0
