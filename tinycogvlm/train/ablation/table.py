"""A comparison's table and figure, from the results of its runs, and where they contradict the papers."""
import json
import math
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from ...errors import UserError
from ...storage import atomic
from ..loop.plot import save
from ..loop.process import say
from ..loop.run import Run

PLAIN = "no-ema"                                            # not a run of its own, but the last weights of "full"
# Of Student's t with 1, 2, ... degrees of freedom, the point below which 97.5 % lie
STUDENT = 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228


# The result of one run

def write(run, result):
    """Write <variant>-<seed>.json; then the checkpoints of the run are not needed any more."""
    atomic.write(run.folder / f"{run.stage}.json", json.dumps(result, indent=1) + "\n")
    for left in (run.newest, run.previous, run.done):
        left.unlink(missing_ok=True)


def write_broken(run, settings, error):
    """Write the result of a run that diverged, which is not begun again. error: loop.Diverged"""
    said, _, _ = str(error).partition(";")                  # what follows is where it could be resumed
    say(f"{said}; that is its result")
    write(run, {"settings": settings, "diverged": said})


def finished(run, settings=None, other="settings"):
    """What `write` or `write_broken` wrote, or None. UserError if it is the result of other settings than these

    other: what is different then, in words.
    """
    path = run.folder / f"{run.stage}.json"
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); without this file the run is done again") from None
    if settings is not None and result["settings"] != settings:
        raise UserError(f"{path} is the result of other {other}; choose another folder")
    return result


# All of them

def collect(out, names, seeds):
    """{variant: {seed: result}} of what is finished in the folder `out`, and what was said of the runs that diverged"""
    runs = {name: {seed: result for seed in range(seeds) if (result := finished(Run(out, f"{name}-{seed}")))}
            for name in names}
    broken = [f"{result['diverged']}." for some in runs.values() for result in some.values() if "diverged" in result]
    runs = {name: {seed: result for seed, result in some.items() if "diverged" not in result} for name, some in runs.items()}
    runs[PLAIN] = {seed: {**run, "seen": run["seen without EMA"]} for seed, run in runs.get("full", {}).items()
                   if "seen without EMA" in run}
    return {name: some for name, some in runs.items() if some}, broken


def report(out, comparison, seeds):
    """The tables in Markdown, with notes; it also writes ablation.json and ablation.png to the folder `out`.

    seeds: how many there are to be.
    """
    says = {variant.name: variant.says for variant in comparison.variants}
    runs, broken = collect(out, says, seeds)
    if not runs:
        return "\n".join(["No run is finished yet.", *(f"- {note}" for note in broken)])
    rows = {name: summary(some) for name, some in runs.items()}
    reference = runs.get(comparison.reference, {})
    for name in rows:
        if name != comparison.reference:
            rows[name]["difference"] = difference(reference, runs[name])
    done = sum(len(some) for name, some in runs.items() if name != PLAIN)
    notes = [f"{done} of {seeds * len(says)} runs are finished. Mean ± half of the 95 % interval over the seeds "
             "(Student's t). Differences are taken seed by seed, and are clear if their interval leaves out 0: each looked "
             "at alone, so that among many rows one may be chance."]
    notes += [*seen_of(comparison.claims, runs), *broken, *forgotten(runs)]
    says = {PLAIN: "no EMA: the full model's last weights", **says}
    equal = at_equal_work(runs) if comparison.curve else {}
    atomic.write(Path(out) / "ablation.json", json.dumps(
        {"title": comparison.title, "rows": rows, "equal work": equal, "notes": notes}, indent=1) + "\n")
    tables = [*markdown(rows, says, comparison.reference), ""]
    if equal:
        tables += [f"At equal work, {equal['operations'] / 1e12:.3g} TFLOP of training each:", "",
                   *markdown_at_equal_work(equal["rows"], says), ""]
    notes.append(drawn(Path(out) / "ablation.png", rows, comparison))
    return "\n".join([*tables, *(f"- {note}" for note in notes)])


def in_columns(out, says, measures, claims, seeds, columns):
    """The table, in Markdown with notes, of runs of which shares are measured and nothing else

    says: {variant: in words}. columns: {title: (a field of each result, its unit)}, whose means stand before the measures.
    comparison.json in the folder `out` has the numbers of each seed.
    """
    runs, broken = collect(out, says, seeds)
    if not runs:
        return "\n".join(["No run is finished yet.", *(f"- {note}" for note in broken)])
    rows = {name: {"says": says[name], "seeds": list(some),
                   **{field: [run[field] for run in some.values()] for field, _ in columns.values()},
                   "seen": {measure: [run["seen"][measure] for run in some.values()] for measure in measures
                            if all(measure in run["seen"] for run in some.values())}} for name, some in runs.items()}
    atomic.write(Path(out) / "comparison.json", json.dumps({"rows": rows}, indent=1) + "\n")
    lines = [["", *columns, *measures]]
    for row in rows.values():
        lines.append([row["says"], *(f"{fmean(row[field]) / unit:.1f}" for field, unit in columns.values()), *(
            shown(spread(row["seen"][measure]) if measure in row["seen"] else None, len(row["seeds"]), 3)
            for measure in measures)])
    notes = [f"{sum(map(len, runs.values()))} of {seeds * len(says)} runs are finished. Mean ± half of the 95 % interval "
             "over the seeds (Student's t).", *seen_of(claims, runs), *broken]
    return "\n".join([*piped(lines), "", *(f"- {note}" for note in notes)])


def summary(some):
    """The numbers of one row: [mean, standard deviation, or None for one seed]"""
    runs = list(some.values())
    text = {when: spread(fmean(run[when].values()) for run in runs) for when in ("text before", "text after")
            if runs[0][when]}
    return {"seeds": list(some), "trained": runs[0]["trained"], "seen": spreads([run["seen"] for run in runs]),
            "of each seed": [run["seen"] for run in runs], **text, "work": runs[0]["work"],
            "ms an answer": spread(run["ms an answer"] for run in runs), "seconds": spread(run["seconds"] for run in runs),
            "curve": [{"samples": points[0]["samples"], **spreads([of_pictures(point) for point in points])}
                      for points in zip(*(run["curve"] for run in runs)) if of_pictures(points[0])]}


def of_pictures(point):
    """What a point of a curve says of pictures"""
    return {name: number for name, number in point.items() if name != "samples" and not name.startswith("text ")}


def spreads(measured):
    """[{measure: number}] of runs -> {measure: [mean, standard deviation]}"""
    return {measure: spread(numbers[measure] for numbers in measured) for measure in measured[0]}


def spread(numbers):
    numbers = list(numbers)
    return [fmean(numbers), stdev(numbers) if len(numbers) > 1 else None]


def half_interval(deviation, count):
    """Half of the 95 % interval of a mean of `count` numbers, by Student's t"""
    return STUDENT[min(count - 1, len(STUDENT)) - 1] * deviation / math.sqrt(count)


def difference(reference, some, measure="loss"):
    """[mean, half of its 95 % interval or None] of what `some` has more than the reference, seed by seed; or None"""
    both = [seed for seed in sorted(set(reference) & set(some))
            if measure in reference[seed]["seen"] and measure in some[seed]["seen"]]
    if not both:
        return None
    mean, deviation = spread(some[seed]["seen"][measure] - reference[seed]["seen"][measure] for seed in both)
    return [mean, None if deviation is None else half_interval(deviation, len(both))]


def seen_of(claims, runs):
    """What was seen of each claim, in words"""
    return [f"{f'{claim.says}: ' if claim.says else ''}`{claim.worse}` beside `{claim.better}`, {claim.measure}: "
            f"{verdict(runs[claim.better], runs[claim.worse], claim.measure)}." for claim in claims
            if claim.better in runs and claim.worse in runs]


def verdict(better, worse, measure="loss"):
    """What a measure says of two rows, of which the first is better in a paper"""
    found = difference(better, worse, measure)
    if found is None:
        return "no run of both has it"
    mean, half = found
    if half is None:
        return f"{mean:+.4f}, of one seed"
    gain = mean if measure.startswith("loss") else -mean
    says = "no clear difference" if abs(mean) <= half else "worse, as claimed" if gain > 0 else \
        "**better, against the claim**"
    return f"{says} ({mean:+.4f} ± {half:.4f})"


def at_equal_work(runs):
    """{"operations": of the shortest run, "rows": {variant: {"samples", measure: [mean, standard deviation]}}}

    Every run is read where it had done as much work in training, on the line between two points of its curve.
    """
    least = min(run["curve"][-1]["samples"] * run["work"]["sample"] for some in runs.values() for run in some.values())
    rows = {}
    for name, some in runs.items():
        there = []
        for run in some.values():
            points, samples = run["curve"], least / run["work"]["sample"]
            at = [point["samples"] for point in points]
            there.append({"samples": samples} | {
                measure: float(np.interp(samples, at, [point[measure] for point in points]))
                for measure in of_pictures(points[0])})
        rows[name] = spreads(there)
    return {"operations": least, "rows": rows}


def forgotten(runs):
    """Whether the language model was left unchanged; if not, what broke first"""
    moved = [name for name, some in runs.items() if any(run["text unchanged"] is False for run in some.values())]
    notes = [f"The logits of texts without a picture are bit for bit those of before in all but: {', '.join(moved)}."
             if moved else "The logits of texts without a picture are bit for bit those of before."]
    for name in moved:
        for seed, run in runs[name].items():
            before = run["text before"]
            after = ", ".join(f"{kind} {before[kind]:.3f} to {loss:.3f}" for kind, loss in run["text after"].items())
            if not run["curve"]:
                notes.append(f"`{name}`, seed {seed}: loss on texts at the end {after}.")
                continue
            first = run["curve"][0]
            worst = max(before, key=lambda kind: first[f"text {kind}"] - before[kind])
            notes.append(f"`{name}`, seed {seed}: after {first['samples']} samples the loss on texts of the kind "
                         f"{worst} has risen most, from {before[worst]:.3f} to {first[f'text {worst}']:.3f}; at the "
                         f"end {after}.")
    return notes


# In Markdown

def markdown(rows, says, reference):
    seen, counts = measures(rows), {name: len(row["seeds"]) for name, row in rows.items()}
    lines = [["", "trained", *titles(seen), "text loss before", "after", "MFLOP a token", "a picture",
              "a sample learned", "ms an answer", "minutes", f"loss, to `{reference}`"]]
    for name, row in rows.items():
        more, n = row.get("difference"), counts[name]
        lines.append([f"{says[name]} (`{name}`)", f"{row['trained'] / 1e6:.2f} M",
                      *(shown(row["seen"].get(measure), n, digits(measure)) for measure in seen),
                      shown((row.get("text before") or [None])[:1], 1, 3), shown(row.get("text after"), n, 3),
                      *(f"{row['work'][what] / 1e6:.3g}" for what in ("token", "picture", "sample")),
                      shown(row["ms an answer"], n, 1), f"{row['seconds'][0] / 60:.1f}",
                      signed(more) if more else ""])
    return piped(lines)


def markdown_at_equal_work(rows, says):
    seen = measures({name: {"seen": row} for name, row in rows.items()})
    lines = [["", "samples", *titles(seen)]]
    for name, row in rows.items():
        lines.append([f"{says[name]} (`{name}`)", f"{row['samples'][0]:.0f}",
                      *(shown(row.get(measure, [None])[:1], 1, digits(measure)) for measure in seen)])
    return piped(lines)


def piped(lines):
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return [f"| {' | '.join(line)} |" for line in lines]


def judged(rows):
    """The measures besides the losses: shares of right answers"""
    return [measure for measure in measures(rows) if not measure.startswith("loss")]


def measures(rows):
    """All that was measured: the loss, that on some kinds of questions, shares of right answers"""
    found = dict.fromkeys(measure for row in rows.values() for measure in row["seen"] if measure != "samples")
    return list(dict.fromkeys(["loss", *found]))


def titles(measures):
    return ["validation loss" if measure == "loss" else measure for measure in measures]


def digits(measure):
    return 4 if measure.startswith("loss") else 3


def shown(numbers, count, places):
    """Mean ± half of its 95 % interval; a dash for what cannot be measured"""
    if not numbers or numbers[0] is None:
        return "–"
    mean, *deviation = numbers
    half = half_interval(deviation[0], count) if deviation and deviation[0] is not None else None
    return f"{mean:.{places}f}" if half is None else f"{mean:.{places}f} ± {half:.{places}f}"


def signed(numbers):
    mean, half = numbers
    return f"{mean:+.4f}" if half is None else f"{mean:+.4f} ± {half:.4f}"


# The figure

def drawn(path, rows, comparison):
    """Draw a row for every variant: its loss, its right answers, its loss on texts; and curves -> a sentence"""
    reference = comparison.reference
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "The figure needs matplotlib: pip install 'tinycogvlm[plot]'"
    names, curves = list(rows), {name: row["curve"] for name, row in rows.items() if row["curve"]}
    figure = Figure(figsize=(12, 1.5 + 0.4 * len(names) + (4 if curves else 0)), layout="constrained")
    ratios = [1.5 + 0.4 * len(names), 4] if curves else [1]
    grid = figure.add_gridspec(len(ratios), 3, height_ratios=ratios)
    loss = figure.add_subplot(grid[0, 0])
    right, text = (figure.add_subplot(grid[0, i], sharey=loss) for i in (1, 2))

    def points(axes, numbers, label=None):
        """One point for each row, a bar for half of its 95 % interval; numbers: a pair for each row, or None"""
        there = [(i, row, pair) for i, (row, pair) in enumerate(zip(rows.values(), numbers)) if pair]
        if there:
            halves = [half_interval(pair[1] or 0, max(2, len(row["seeds"]))) for _, row, pair in there]
            axes.errorbar([pair[0] for _, _, pair in there], [i for i, _, _ in there], xerr=halves, fmt="o", capsize=3,
                          label=label)
    points(loss, [row["seen"].get("loss") for row in rows.values()])
    for measure in judged(rows):
        points(right, [row["seen"].get(measure) for row in rows.values()], measure)
    for when in ("text before", "text after"):
        points(text, [row.get(when) for row in rows.values()], when.removeprefix("text "))
    if reference in rows and "loss" in rows[reference]["seen"]:
        loss.axvline(rows[reference]["seen"]["loss"][0], color="grey", linestyle=":", label=reference)
    seeds = sorted({len(row["seeds"]) for row in rows.values()})
    figure.suptitle(f"{comparison.title} (mean and 95 % interval of {' or '.join(map(str, seeds))} seeds)")
    loss.set(title="validation loss", yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    right.set(title="share of right answers")
    text.set(title="loss on texts")
    panels = [loss, right, text]
    for column, (measure, over) in enumerate(comparison.panels if curves else ()):
        axes = figure.add_subplot(grid[1, column])
        panels.append(axes)
        for i, (name, curve) in enumerate(curves.items()):
            if measure in curve[0]:
                x = [point["samples"] * a_sample(rows[name], over) for point in curve]
                axes.plot(x, [point[measure][0] for point in curve], ".--" if i > 9 else ".-", color=f"C{i}", label=name)
        axes.set(title=f"{'validation loss' if measure == 'loss' else measure} over {over}", xscale="log")
    for axes in panels:
        axes.grid(alpha=0.3)
    for axes in (loss, right, text):
        if labels := axes.get_legend_handles_labels()[1]:   # below, as these are full of points
            axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=2.2,
                        ncols=min(4, len(labels)))
    if curves:
        named = [axes.get_legend_handles_labels() for axes in panels[3:]]
        lines = {label: line for handles, labels in named for line, label in zip(handles, labels)}
        figure.legend(lines.values(), lines, fontsize="small", loc="outside lower center", ncols=6)
    for axes in (right, text):
        axes.tick_params(labelleft=False)
    save(figure, path)
    return f"Drawn: {path}"


def a_sample(row, over):
    """What a sample of training is in the unit of an axis; a run's minutes are spread evenly over its samples."""
    return {"samples": 1, "TFLOP of training": row["work"]["sample"] / 1e12,
            "minutes": row["seconds"][0] / 60 / row["curve"][-1]["samples"]}[over]
