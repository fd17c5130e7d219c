"""The ablation's table and figure, from the results of its runs, and where they contradict the paper."""
import json
import math
from pathlib import Path
from statistics import fmean, stdev

from ...errors import UserError
from ...storage import atomic
from ..loop.plot import save
from ..loop.run import Run

PLAIN = "no-ema"                                            # not a run of its own, but the last weights of "full"
ORDER = ("full", "attention", "ffn", "every4th", "adapter")     # the paper's, best first; nothing beats the first


# The result of one run

def write(run, result):
    """Write <variant>-<seed>.json; then the checkpoints of the run are not needed any more."""
    atomic.write(run.folder / f"{run.stage}.json", json.dumps(result, indent=1) + "\n")
    for left in (run.newest, run.previous, run.done):
        left.unlink(missing_ok=True)


def finished(run):
    """What `write` wrote, or None"""
    path = run.folder / f"{run.stage}.json"
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); without this file the run is done again") from None


# All of them

def collect(out, names, seeds):
    """{variant: {seed: result}} of what is finished in the folder `out`"""
    runs = {name: {seed: result for seed in range(seeds) if (result := finished(Run(out, f"{name}-{seed}")))}
            for name in names}
    full = runs.get("full", {})
    runs[PLAIN] = {seed: {**run, "seen": run["seen without EMA"]} for seed, run in full.items()}
    return {name: some for name, some in runs.items() if some}


def report(out, says, seeds):
    """The table in Markdown, with notes; it also writes ablation.json and ablation.png to the folder `out`.

    says: {variant: what it is}; seeds: how many there are to be.
    """
    runs = collect(out, says, seeds)
    if not runs:
        return "No run is finished yet."
    rows = {name: summary(some) for name, some in runs.items()}
    for name in rows:
        if name != "full" and "full" in runs:
            rows[name]["paper"] = verdict(runs["full"], runs[name])
    done = sum(len(some) for name, some in runs.items() if name != PLAIN)
    notes = [f"{done} of {seeds * len(says)} runs are finished. Mean ± standard deviation over the seeds; differences "
             "from the full model are taken seed by seed, ± their standard error, and are clear if they exceed two of "
             "these. In the paper nothing beats the full model."]
    chain = [name for name in ORDER if name in runs]
    notes += [f"`{worse}` beside `{better}`, which is better in the paper: {verdict(runs[better], runs[worse])}."
              for better, worse in zip(chain, chain[1:]) if better != "full"]
    notes += forgotten(runs)
    atomic.write(Path(out) / "ablation.json", json.dumps({"rows": rows, "notes": notes}, indent=1) + "\n")
    table = markdown(rows, {PLAIN: "no EMA: the full model's last weights", **says})
    notes.append(drawn(Path(out) / "ablation.png", rows))
    return "\n".join([*table, "", *(f"- {note}" for note in notes)])


def summary(some):
    """The numbers of one row: [mean, standard deviation, or None for one seed]"""
    runs = list(some.values())
    measured = {measure: spread(run["seen"][measure] for run in runs) for measure in runs[0]["seen"]}
    text = {when: spread(fmean(run[when].values()) for run in runs) for when in ("text before", "text after")}
    return {"seeds": list(some), "trained": runs[0]["trained"], "seen": measured, **text,
            "seconds": spread(run["seconds"] for run in runs)}


def spread(numbers):
    numbers = list(numbers)
    return [fmean(numbers), stdev(numbers) if len(numbers) > 1 else None]


def verdict(better, worse):
    """What the validation losses say about two rows, of which the first is better in the paper"""
    both = sorted(set(better) & set(worse))
    if not both:
        return "no seed in common"
    mean, deviation = spread(worse[seed]["seen"]["loss"] - better[seed]["seen"]["loss"] for seed in both)
    if deviation is None:
        return f"{mean:+.4f}, of one seed"
    error = deviation / math.sqrt(len(both))
    says = "no clear difference" if abs(mean) <= 2 * error else \
        "worse, as in the paper" if mean > 0 else "**better, against the paper**"
    return f"{says} ({mean:+.4f} ± {error:.4f})"


def forgotten(runs):
    """Whether the language model was left unchanged; if not, what broke first"""
    moved = [name for name, some in runs.items() if not all(run["text unchanged"] for run in some.values())]
    notes = [f"The logits of texts without a picture are bit for bit those of before in all but: {', '.join(moved)}."
             if moved else "The logits of texts without a picture are bit for bit those of before."]
    for name in moved:
        for seed, run in runs[name].items():
            before, (first, *_) = run["text before"], run["forgetting"]
            worst = max(before, key=lambda kind: first["losses"][kind] - before[kind])
            after = ", ".join(f"{kind} {before[kind]:.3f} to {loss:.3f}" for kind, loss in run["text after"].items())
            notes.append(f"`{name}`, seed {seed}: after {first['samples']} samples the loss on texts of the kind "
                         f"{worst} has risen most, from {before[worst]:.3f} to {first['losses'][worst]:.3f}; at the "
                         f"end {after}.")
    return notes


def markdown(rows, says):
    measures = judged(rows)
    heads = ["", "trained", "validation loss", *measures, "text loss before", "after", "seconds", "to the full model"]
    lines = [heads, ["---"] * len(heads)]
    for name, row in rows.items():
        lines.append([f"{says[name]} (`{name}`)", f"{row['trained'] / 1e6:.2f} M", shown(row["seen"]["loss"], 4),
                      *(shown(row["seen"][measure], 3) for measure in measures),
                      shown(row["text before"][:1], 3), shown(row["text after"], 3), shown(row["seconds"][:1], 0),
                      row.get("paper", "")])
    return [f"| {' | '.join(line)} |" for line in lines]


def judged(rows):
    """The measures besides the loss: shares of right answers"""
    return [measure for measure in next(iter(rows.values()))["seen"] if measure != "loss"]


def shown(numbers, digits):
    """Mean ± deviation"""
    return " ± ".join(f"{number:.{digits}f}" for number in numbers if number is not None)


def drawn(path, rows):
    """Draw a row for every variant: its validation loss, its right answers, its loss on texts -> a sentence"""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "The figure needs matplotlib: pip install 'tinycogvlm[plot]'"
    names = list(rows)
    figure = Figure(figsize=(12, 1.5 + 0.4 * len(names)), layout="constrained")
    loss, right, text = figure.subplots(1, 3, sharey=True)

    def points(axes, numbers, label=None):
        means, deviations = zip(*numbers)
        axes.errorbar(means, range(len(names)), xerr=[d or 0 for d in deviations], fmt="o", capsize=3, label=label)
    points(loss, [row["seen"]["loss"] for row in rows.values()])
    for measure in judged(rows):
        points(right, [row["seen"][measure] for row in rows.values()], measure)
    for when in ("text before", "text after"):
        points(text, [row[when] for row in rows.values()], when.removeprefix("text "))
    loss.set(title="validation loss", yticks=range(len(names)), yticklabels=names)
    loss.invert_yaxis()
    right.set(title="share of right answers")
    text.set(title="loss on texts")
    for axes in (loss, right, text):
        axes.grid(alpha=0.3)
    right.legend()
    text.legend()
    save(figure, path)
    return f"Drawn: {path}"
