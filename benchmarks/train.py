"""Speed and memory of every training stage, compared with the machine's sgemm rate and with PyTorch: two tables.

    python benchmarks/train.py                     about 20 minutes; without sft2 and sft3, whose work is that of sft
    python benchmarks/train.py --torch PYTHON      eager PyTorch in the same run, with an interpreter that has it
    python benchmarks/train.py --stages vision sft --rounds 9 --json speed.json
    python benchmarks/train.py --quick             a toy geometry and few rounds, to see that it runs

A round takes one step from each of five places spread evenly over the stage, so that every part of a curriculum counts,
in each way in turn: one worker, two workers, one worker with a stopwatch in every op, PyTorch. So other load on the
machine affects all ways alike. The tables have medians over the rounds; shares and ratios are computed within a round.
A worker is a thread with one BLAS thread, as in `tinycogvlm train`.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

PARTS = ("forward and backward", "whole step")              # what is timed
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
GIVEN = {name: value for name, value in os.environ.items() if name not in THREADS}
os.environ.update(dict.fromkeys(THREADS, "1"))              # read once, when NumPy is imported
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
from cpu import fresh_process, peak_bytes  # noqa: E402
from stopwatch import KINDS, stopwatch  # noqa: E402

from tinycogvlm.model.config import VisionConfig  # noqa: E402
from tinycogvlm.train.loop.loop import clipping, length, threads, together  # noqa: E402
from tinycogvlm.train.loop.optimizer import decays, group_factor  # noqa: E402
from tinycogvlm.train.loop.process import keep_freed_memory  # noqa: E402
from tinycogvlm.train.loop.state import State  # noqa: E402
from tinycogvlm.train.recipe import contrast, learn_tokenizer, stages  # noqa: E402
from tinycogvlm.train.recipe.initial import initial  # noqa: E402

TORCH = HERE / "train_torch.py"
RATE = 1e-5                                                 # of learning: small, so that all rounds are alike
PROFILE = (*KINDS, "optimiser", "other")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = list(stages.STAGES)
    parser.add_argument("--stages", nargs="+", choices=names, default=names[:names.index("sft") + 1], metavar="STAGE",
                        help=", ".join(names))
    parser.add_argument("--rounds", type=int, help="7, or 2 if --quick")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2], metavar="N",
                        help="how many threads, one number after the other (default 1 2); PyTorch has the largest")
    parser.add_argument("--torch", metavar="PYTHON", help="an interpreter that has PyTorch and NumPy, to compare with")
    parser.add_argument("--tokenizer", metavar="JSON", help="tokenizer.json of a run; else one is trained first")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--quick", action="store_true", help="a toy geometry and few rounds")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    rounds, places, square = (2, 2, 256) if options.quick else (7, 5, 2048)
    rounds = options.rounds or rounds
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder, toy(options.quick):
        spelling = Path(options.tokenizer or folder) / ("" if options.tokenizer else "tokenizer.json")
        if not options.tokenizer:
            learn_tokenizer.train_tokenizer(spelling)
        if options.peak:
            return print(peak(*begin(options.stages[0], options.quick, spelling)))
        report = {"machine": machine(), "rounds": rounds, "quick": options.quick, "stages": {}}
        for name in options.stages:
            print(f"{name} ...", file=sys.stderr)
            again = [__file__, "--peak", "--stages", name, "--tokenizer", spelling, *["--quick"] * options.quick]
            stage, leaves = begin(name, options.quick, spelling)
            report["stages"][name] = {
                **measure(stage, leaves, options.workers, rounds, places, square, options.torch),
                "peak memory": fresh_process(*again)}
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(tables(report))


# What is measured

@contextmanager
def toy(quick):
    """Inside, if quick, the tokenizer is learned from few texts."""
    before = learn_tokenizer.CONVERSATIONS
    if quick:
        learn_tokenizer.CONVERSATIONS = 10
    try:
        yield
    finally:
        learn_tokenizer.CONVERSATIONS = before


def begin(name, quick, spelling):
    """A stage and parameters to start from: initial ones, shaken so that no bias is 0 and no expert a copy.

    quick: with a model of some thousand parameters, and small batches.
    """
    stage, random = stages.STAGES[name], np.random.default_rng(1)
    if isinstance(stage, stages.Talk):
        stage = replace(stage, tokenizer_path=str(spelling))
    if quick:
        vision = VisionConfig(hidden_size=8, num_hidden_layers=2, num_heads=2, intermediate_size=12, patch_size=28,
                              image_size=stage.config.vision.image_size)
        stage = replace(stage, batch=4, config=replace(
            stage.config, hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, vision=vision))
    leaves = {name: array if name.endswith("inv_freq") else
              array + 0.02 * random.standard_normal(array.shape, dtype=np.float32)
              for name, array in stage.begin(initial(stage.config), 0).items()}
    return stage, leaves


def step(stage, learned, parts, spread):
    """One step as loop.fit does it -> seconds of forward and backward, seconds of the whole step"""
    start = time.perf_counter()
    _, gradients, _ = together(stage.loss, learned.leaves, parts, spread)
    middle = time.perf_counter()
    learned.update(gradients, RATE, clipping(length(gradients, spread), learned.recipe.longest), spread)
    return middle - start, time.perf_counter() - start


def new(stage, leaves):
    return State(leaves, stage.recipe())


def peak(stage, leaves):
    """Peak bytes of a process after the stage's last two steps, with two workers: pictures are largest there"""
    learned, last = new(stage, leaves), stage.samples // stage.batch - 1
    with threads(2) as spread:
        for number in (last - 1, last):
            step(stage, learned, stage.data(2, number), spread)
    return peak_bytes()


def measure(stage, leaves, workers, rounds, places, square, python=None):
    """All figures of a stage, as JSON, for each number of workers"""
    steps = [int((i + 0.5) / places * (stage.samples // stage.batch)) for i in range(places)]
    batches, drawing = {}, []                               # {(place, workers): parts}
    for n in workers:
        for place, number in enumerate(steps):
            start = time.perf_counter()
            batches[place, n] = stage.data(n, number)
            drawing.append(time.perf_counter() - start)
    learned = new(stage, leaves)
    a = np.random.default_rng(0).random((square, square), dtype=np.float32)
    with ExitStack() as stack:
        spread = {n: stack.enter_context(threads(n)) for n in workers}
        torch = stack.enter_context(pytorch(python, stage, leaves, batches)) if python else None
        for place, n in batches:                            # the first time is slower
            step(stage, learned, batches[place, n], spread[n])
            torch and torch.step(place, n)
        seconds = {}                                        # {what: of every round}
        for number in range(rounds):
            def took(what, spent, number=number):
                seconds.setdefault(what, np.zeros(rounds))[number] += spent
            for n in workers:
                start = time.perf_counter()
                list(spread[n](lambda _: a @ a, range(n)))
                took(f"sgemm, {n}", time.perf_counter() - start)
            work = 0
            for place in range(places):
                for n in workers:
                    for what, time_of in zip(PARTS, step(stage, learned, batches[place, n], spread[n])):
                        took(f"{what}, {n}", time_of)
                    for what, time_of in zip(PARTS, torch.step(place, n) if torch else ()):
                        took(f"PyTorch {what}, {n}", time_of)
                with stopwatch() as watch:
                    part, whole = step(stage, learned, batches[place, workers[0]], map)
                watch.seconds |= {"optimiser": whole - part, "other": part - sum(watch.seconds.values())}
                for kind in PROFILE:
                    took(kind, watch.seconds[kind])
                work += watch.work
    return figures(seconds, work, workers, places, stage, 2 * square ** 3, drawing, learned, torch)


# PyTorch, in a process of its own

def arrays(part):
    """{name: array} of a part, whatever the stage"""
    if len(part) == 4:
        return dict(zip(("pixels", "targets", "boxes", "things"), part))
    inputs, labels = part
    found = {"ids": inputs.ids, "types": inputs.types, "mask": inputs.mask, "pixels": inputs.pixels, "labels": labels}
    return {name: array for name, array in found.items() if array is not None}


def hand_over(folder, stage, leaves, batches, threads):
    """What train_torch.py reads"""
    for name in ("steps", "expected"):
        (folder / name).mkdir()
    trained = {}
    for (place, workers), parts in batches.items():
        np.savez(folder / "steps" / f"{place}-{workers}.npz",
                 **{f"{i}/{name}": array for i, part in enumerate(parts) for name, array in arrays(part).items()})
        if workers == threads:
            value, gradients, _ = together(stage.loss, leaves, parts, map)
            np.savez(folder / "expected" / f"{place}-{workers}.npz", loss=value, **gradients)
            trained |= gradients
    np.savez(folder / "leaves.npz", **leaves)
    stage.config.write(folder)
    recipe = stage.recipe()
    rates = {name: (RATE * group_factor(name, recipe.groups), recipe.decay if decays(name, leaves[name]) else 0.0)
             for name in trained}
    facts = {"kind": "contrast" if isinstance(stage, stages.Vision) else "talk", "trained": rates, "ema": stage.ema,
             "betas": recipe.betas, "longest": recipe.longest, "spelled": contrast.SPELLED.tolist(),
             "names": len(contrast.NAMES),
             "background_weight": contrast.BACKGROUND_WEIGHT, "box_weight": contrast.BOX_WEIGHT,
             "sharp": contrast.SHARP, "picture_weight": contrast.PICTURE_WEIGHT}
    (folder / "stage.json").write_text(json.dumps(facts), encoding="utf-8")


class Torch:
    """train_torch.py at work. found: what it said of our gradients"""

    def __init__(self, process):
        self.process, self.found = process, {}
        self.found = json.loads(self.answer())

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the comparison with PyTorch ended with exit code {self.process.wait()}; it says why above")
        return line

    def step(self, place, workers):
        self.process.stdin.write(f"{place}-{workers}\n")
        self.process.stdin.flush()
        return map(float, self.answer().split())


@contextmanager
def pytorch(python, stage, leaves, batches):
    threads = max(workers for _, workers in batches)
    with tempfile.TemporaryDirectory() as folder:
        hand_over(Path(folder), stage, leaves, batches, threads)
        with subprocess.Popen([python, str(TORCH), folder, str(threads)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, env=GIVEN) as process:
            yield Torch(process)


# What is said of it

def figures(seconds, work, workers, places, stage, square_work, drawing, learned, torch):
    samples, median = places * stage.batch, {what: float(np.median(times)) for what, times in seconds.items()}
    ways = {f"{what}, {n}": n for what in PARTS for n in workers}
    limit = {n: n * square_work / seconds[f"sgemm, {n}"] for n in workers}              # operations a second
    share = {way: work / seconds[way] / limit[n] for way, n in ways.items()}
    found = {"batch": stage.batch,
             "trained parameters": sum(array.size for array in learned.m.values()),
             "GFLOP a sample": work / samples / 1e9,
             "samples/s": {way: samples / median[way] for way in ways},
             "sgemm GFLOP/s": {str(n): float(np.median(limit[n])) / 1e9 for n in workers},
             "share of sgemm": {way: float(np.median(share[way])) for way in ways},
             "data samples/s": stage.batch / float(np.median(drawing)),
             "ms a step": {kind: median[kind] / places * 1e3 for kind in PROFILE}}
    if torch:
        found["PyTorch"] = {**torch.found, "samples/s": {}, "ours / PyTorch": {}}
        for what in PARTS:
            theirs = np.min([seconds[f"PyTorch {what}, {n}"] for n in workers], 0)      # the batch cut as it likes best
            ratio = theirs / seconds[f"{what}, {max(workers)}"]
            found["PyTorch"]["samples/s"][what] = samples / float(np.median(theirs))
            found["PyTorch"]["ours / PyTorch"][what] = {
                "median": float(np.median(ratio)), "lowest": float(ratio.min()), "highest": float(ratio.max())}
    return found


def machine():
    cpuinfo = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines()
              if line.startswith("model name")] if cpuinfo.exists() else []
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {"processor": models[0] if models else platform.processor(), "cores": os.cpu_count(),
            "system": platform.platform(), "Python": platform.python_version(), "NumPy": np.__version__,
            "BLAS": f"{blas['name']} {blas['version']}",
            "load average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None}


def tables(report):
    named = report["stages"]

    def row(title, number):
        return title, *(number(found) for found in named.values())

    def each(title, group, form):
        kinds = next(iter(named.values()))[group]
        return [row(f"{title}{what}", lambda found, what=what: form(found[group][what])) for what in kinds]

    rows = [("", *named), row("samples a step", lambda found: str(found["batch"])),
            row("parameters trained, million", lambda found: f"{found['trained parameters'] / 1e6:.2f}"),
            row("GFLOP a sample", lambda found: f"{found['GFLOP a sample']:.3f}"),
            *each("samples/s, ", "samples/s", "{:.1f}".format),
            *each("share of sgemm, ", "share of sgemm", "{:.0%}".format),
            row("peak memory, MB", lambda found: f"{found['peak memory'] / 1e6:.0f}"),
            row("samples/s of the data's process", lambda found: f"{found['data samples/s']:.0f}")]
    if all("PyTorch" in found for found in named.values()):
        for what in PARTS:
            theirs = lambda found, what=what: f"{found['PyTorch']['samples/s'][what]:.1f}"
            ratio = lambda found, what=what: "{median:.2f} ({lowest:.2f} to {highest:.2f})".format(
                **found["PyTorch"]["ours / PyTorch"][what])
            rows += [row(f"PyTorch, samples/s, {what}", theirs), row(f"ours / PyTorch, {what}", ratio)]
        rows.append(row("gradients differ by", lambda found: f"{found['PyTorch']['gradient']:.0e}"))
    total = {name: sum(found["ms a step"].values()) for name, found in named.items()}
    profile = [("one worker, ms a step", *named), *each("", "ms a step", "{:.1f}".format),
               ("sum", *(f"{time:.1f}" for time in total.values()))]
    about = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    return "\n\n".join([f"{about}; {report['rounds']} rounds", markdown(rows), markdown(profile)])


def markdown(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths))} |" for row in rows]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
