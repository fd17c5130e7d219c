"""How many pictures a second `tinycogvlm caption` describes: one by one, in batches, with 1, 2 and 4 workers.

    python benchmarks/caption.py                            768 pictures, three rounds: four minutes on two quiet cores
    python benchmarks/caption.py --pictures 64 --rounds 1   a quick look
    python benchmarks/caption.py --all-cores                also one by one with as many BLAS threads as there are cores
    python benchmarks/caption.py --paper                    what a million pictures cost on H200s: counts, no measurement

Each way is the command itself, in a new process that loads the bundled model, with one BLAS thread. A round is all ways
by turns, so that ratios mean something where speeds do not. Every caption must be the one that the single question
gave, or the script ends.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from PIL import Image  # noqa: E402

from tinycogvlm.train.loop.process import BLAS_THREADS  # noqa: E402
from tinycogvlm.world import scenes  # noqa: E402

SINGLE, BATCHED = "one by one", "in batches of 16"
# {a way: (BLAS threads a process, None for as many as it takes; workers, None for no --out)}
WAYS = {SINGLE: (1, None), BATCHED: (1, 1), "2 workers": (1, 2), "4 workers": (1, 4)}
ALL_CORES = {f"{SINGLE}, BLAS threads on all cores": (None, None)}
TARGETS = {BATCHED: 2.2, "2 workers": 4.0}                  # times SINGLE, on two cores
CORES = len(os.sched_getaffinity(0))
PRINTED = ("", "pictures/s", "CPU ms a picture", "times one by one", "wanted", "efficiency")

MILLION, TOKENS, BATCH, CARDS = 1_000_000, 100, 16, 64      # pictures; tokens of a caption; answers at a time; H200s
COPY, PEAK = 4.3e12, (4.8e12, 989e12)                       # bytes a second; of the data sheet, with operations a second


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--all-cores", action="store_true", help="not where other programs run: BLAS threads wait for each other")
    parser.add_argument("--paper", action="store_true", help="count what H200s would need instead")
    options = parser.parse_args(arguments)
    if options.paper:
        print("\n".join(paper()))
        return
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        for i in range(options.pictures):
            Image.fromarray(scenes.scene("test", i).picture).save(pictures / f"{i:04}.png")
        ways, rounds = WAYS | (ALL_CORES if options.all_cores else {}), []
        for _ in range(options.rounds):
            rounds.append({way: measured(pictures, *how) for way, how in ways.items()})
            check(rounds[-1])
    print("\n".join(table(ways, rounds, options.pictures)))


def measured(pictures, threads, workers):
    """{"seconds", "cpu", "captions"} of the command over a folder"""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.jsonl"
        command = [sys.executable, "-m", "tinycogvlm", "caption", str(pictures), "--json"]
        command += ["--out", str(out), "--workers", str(workers)] if workers else []
        environment = {name: value for name, value in os.environ.items() if name not in BLAS_THREADS}
        environment |= dict.fromkeys(BLAS_THREADS, str(threads)) if threads else {}
        cpu, start = cpu_of_children(), time.perf_counter()
        done = subprocess.run(command, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
                              check=True)
        seconds, cpu = time.perf_counter() - start, cpu_of_children() - cpu
        rows = map(json.loads, (out.read_text(encoding="utf-8") if workers else done.stdout).splitlines())
    return {"seconds": seconds, "cpu": cpu, "captions": [row["caption" if workers else "text"] for row in rows]}


def cpu_of_children():
    times = os.times()
    return times.children_user + times.children_system


def check(found):
    """AssertionError unless every way said the same of every picture"""
    for way, each in found.items():
        for i, (said, alone) in enumerate(zip(each["captions"], found[SINGLE]["captions"], strict=True)):
            if said != alone:
                raise AssertionError(f"{way}, picture {i}: {said!r}, alone {alone!r}")


def table(ways, rounds, pictures):
    """The lines of a table: medians of the rounds, and of each round's ratios, with the lowest and the highest

    Efficiency is the speed over that of one process, for each core that the workers can have.
    """
    yield from (f"| {' | '.join(PRINTED)} |", f"|{'---|' * len(PRINTED)}")
    for way, (_, workers) in ways.items():
        def ratios(to):
            return [each[to]["seconds"] / each[way]["seconds"] for each in rounds]
        times = ratios(SINGLE)
        share = f"{statistics.median(ratios(BATCHED)) / min(workers, CORES):.0%}" if workers else ""
        yield "| " + " | ".join((
            way, f"{pictures / statistics.median(each[way]['seconds'] for each in rounds):.1f}",
            f"{statistics.median(each[way]['cpu'] for each in rounds) / pictures * 1000:.1f}",
            f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})", str(TARGETS.get(way, "")),
            share)) + " |"


def paper():
    """The lines of a table of what H200s would need for a million captions, from counts of operations and bytes"""
    from gpu import A_BYTE, L2, MODELS, question, work

    from tinycogvlm.kernels import plan
    from tinycogvlm.kernels.library.gemv import MOST_ROWS
    from tinycogvlm.model.parts import part
    columns = []
    for name in ("17B", "19B"):
        config = MODELS[name]
        prompt = question(config, 1)
        tokens = prompt.ids.shape[1]
        operations = sum(work(config, prompt).values())
        sizes = plan.sizes(config)
        weights = sum(size for each, size in sizes.items() if part(each) in ("language experts", "lm_head"))
        cached = plan.cache(config) // config.max_position_embeddings * (tokens + TOKENS // 2)

        def hours(rate, copy, rows):
            """Of one H200 for all pictures: first tokens, the others; `rows` answers share a read of the weights."""
            a_step = 2 * (weights * BATCH / rows + cached * BATCH) / copy
            return [MILLION * each / 3600 for each in (operations / rate, (TOKENS - 1) * a_step / BATCH)]
        first, others = hours(L2 * A_BYTE, COPY, MOST_ROWS)
        columns.append((f"{name}, {config.vision.image_size} pixels", f"{tokens:,}", f"{operations / 1e12:.1f} TFLOP",
                        f"{2 * weights / 1e9:.1f} GB", f"{2 * cached / 1e9:.2f} GB", f"{first:.0f} h", f"{others:.0f} h",
                        f"**{first + others:.0f} h**, {MILLION / 3600 / (first + others):.1f} pictures/s",
                        f"**{60 * (first + others) / CARDS:.0f} min**", f"{sum(hours(PEAK[1], PEAK[0], BATCH)):.0f} h"))
    titles = ("", "tokens of picture and prompt", "to the first token of a picture", "weights that a decoded token reads",
              "keys and values that it reads", "first tokens of a million pictures", "the other tokens",
              "one H200", f"{CARDS} H200s", "least, by the data sheet alone")
    for i, row in enumerate(zip(titles, *columns)):
        yield f"| {' | '.join(row)} |"
        if i == 0:
            yield "|---|---|---|"


if __name__ == "__main__":
    main()
