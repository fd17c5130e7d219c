"""What all miniatures share: runs that are done once and go on where they were, seeds, the table.

A run is one of a miniature's settings with one seed. Its result is FOLDER/<miniature>-<run>-<seed>.json; after an
interruption the same command goes on where it was, and a second process takes the runs that no other is doing.
"""
import json
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from ...errors import UserError
from ...loading import default_weights
from ...storage import atomic
from ..ablation.table import finished, half_interval, write
from ..loop import clock
from ..loop.loop import Diverged, Recipe, fit
from ..loop.process import make_folder, say
from ..loop.run import Run, free


@dataclass(frozen=True)
class Miniature:
    """What one file here says.

    learn(run, settings, seed) -> {measure: number}: trains in the Run's folder, if it trains, and measures.
    """
    name: str
    claim: str                          # whose, and what one should see
    minutes: float                      # of all runs with one seed, on one core
    runs: dict                          # {name: settings, a dict of JSON}
    learn: Callable


def perform(miniature, out, seeds=3, only=(), **changed):
    """Do every run that is neither finished nor another process's -> the table of all finished ones, as text

    only: names of some runs. changed: settings that differ from the file's in all runs, such as fewer steps.
    """
    unknown = [name for name in only if name not in miniature.runs]
    if unknown:
        raise UserError(f"{miniature.name} has no run {unknown[0]!r}; there are {', '.join(miniature.runs)}")
    make_folder(out)
    for seed in range(seeds):
        chosen = {f"{miniature.name}-{name}-{seed}": json.loads(json.dumps(settings | changed))
                  for name, settings in miniature.runs.items() if not only or name in only}
        for run in free(out, chosen):
            once(run, miniature, chosen[run.stage], seed)
    return report(miniature, out, seeds)


def once(run, miniature, settings, seed):
    """Do a run and write its result, unless it is there already."""
    if finished(run, settings):
        return
    start = clock.now()
    measured = miniature.learn(run, settings, seed)
    write(run, {"settings": settings, "seed": seed, "seconds": clock.now() - start, "measured": measured})


def trained(run, leaves, data, loss, steps, rate, batch, **options):
    """The parameters after `steps` steps of AdamW without weight decay; see loop.fit. None if the run diverged.

    data(step) -> one batch; loss(leaves, batch) -> loss, pull() -> {name: gradient}.
    """
    recipe = Recipe(steps, batch, rate, **{"decay": 0.0, **options})

    def one_part(leaves, part):
        value, pull = loss(leaves, part)
        return value, batch, pull, {}
    try:
        with np.errstate(all="ignore"):                     # a run that diverges is a result, not an accident
            return fit(run, leaves, lambda step: [data(step)], one_part, recipe, ahead=0, resume=True)
    except Diverged as error:
        say(str(error))
        return None


# The table

def report(miniature, out, seeds):
    """The table in Markdown; <miniature>.json in the folder `out` has the same numbers, and each seed's."""
    found = {name: [result for seed in range(seeds) if (result := finished(Run(out, f"{miniature.name}-{name}-{seed}")))]
             for name in miniature.runs}
    found = {name: results for name, results in found.items() if results}
    if not found:
        return "No run is finished yet."
    rows = {name: {"settings": results[0]["settings"], "seconds": fmean(one["seconds"] for one in results),
                   "measured": {measure: [one["measured"][measure] for one in results]
                                for measure in results[0]["measured"]}}
            for name, results in found.items()}
    atomic.write(out / f"{miniature.name}.json", json.dumps({"claim": miniature.claim, "rows": rows}, indent=1) + "\n")
    measures = list(dict.fromkeys(measure for row in rows.values() for measure in row["measured"]))
    lines = [[miniature.name, "seeds", *measures, "seconds"], ["---"] * (len(measures) + 3)]
    for name, row in rows.items():
        shown = [interval(row["measured"][measure]) if measure in row["measured"] else "" for measure in measures]
        lines.append([name, str(len(found[name])), *shown, f"{row['seconds']:.0f}"])
    return "\n".join([miniature.claim, "", *(f"| {' | '.join(line)} |" for line in lines), "",
                      "Mean over the seeds ± half of the 95 % t-interval of that mean."])


def bundled(name):
    """{run: {measure: its interval}} of the results that came with the weights: three seeds of each run"""
    kept = json.loads((default_weights() / "miniatures" / f"{name}.json").read_text(encoding="utf-8"))
    return {run: {measure: interval(numbers) for measure, numbers in row["measured"].items()}
            for run, row in kept["rows"].items()}


def interval(numbers):
    """Mean ± half of the mean's 95 % interval by Student's t; "diverged" where a seed has no number"""
    if None in numbers:
        return "diverged" if all(number is None for number in numbers) else \
            f"{numbers.count(None)} of {len(numbers)} diverged"
    if len(numbers) == 1:
        return f"{numbers[0]:.3f}"
    return f"{fmean(numbers):.3f} ± {half_interval(stdev(numbers), len(numbers)):.3f}"
