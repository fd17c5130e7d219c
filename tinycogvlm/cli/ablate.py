"""tinycogvlm ablate: comparisons of variants that learn the same questions from the same start, resumable."""
from pathlib import Path

from ..loading import found
from ..train.ablation.ablate import ablate
from .say import echo


def run(arguments):
    weights, out = arguments.weights, arguments.out or Path("runs", arguments.what)
    table = ablate(arguments.what, found(weights), out, arguments.samples, arguments.seeds, arguments.only)
    echo(table)
    return 0
