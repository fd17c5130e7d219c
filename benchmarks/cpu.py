"""Speed and memory on the CPU against the machine's own limits, all measured in the same run: one table.

    python benchmarks/cpu.py              the geometry of tests/golden/v1_medium: 68.6 M parameters, 296 tokens, float32
    python benchmarks/cpu.py --quick      a tiny geometry and few rounds, to see that it runs

Every round measures everything once, limits included, so that what else the machine does falls on all alike; the table
has medians of the rounds, and a share is the median of the rounds' own shares. Two threads, or OPENBLAS_NUM_THREADS.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")          # read once, when NumPy is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from tinycogvlm import CogVLM, load
from tinycogvlm.inputs import image
from tinycogvlm.model import adapter, generate  # noqa: E402
from tinycogvlm.verify.case import Case  # noqa: E402
from tinycogvlm.model.decoder import KVCache  # noqa: E402
from tinycogvlm.storage.checkpoint import save  # noqa: E402
from tinycogvlm.inputs.prompt import Inputs  # noqa: E402
from tinycogvlm.model.route import Route  # noqa: E402
from tinycogvlm.nn.tree import Params  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
NEW_TOKENS = 24                                             # of the answer whose memory is measured
STEPS = 8                                                   # decoded tokens a round


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny geometry and few rounds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--answer", nargs=2, metavar=("FOLDER", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.answer:
        return answer(*options.answer)
    case = GOLDEN / ("v1_eps" if options.quick else "v1_medium")
    sizes = (64, (64, 128)) if options.quick else (2048, (16384, 8192))
    print(table(*measure(case, 2 if options.quick else options.rounds, *sizes)))


def inputs_of(case):
    """The prompt of a golden case."""
    ids, types, mask = (case[f"in/{name}"] for name in ("input_ids", "token_type_ids", "attention_mask"))
    return Inputs(ids, types, mask, [("image", image.pixels(case["img/raw"], case.config.vision.image_size))])


def answer(folder, case):
    """What `--answer` does in a fresh process: load, read picture and prompt, say NEW_TOKENS; print the peak memory."""
    model, inputs = load(folder), inputs_of(Case.read(case))
    for _ in generate.generate(model, inputs, NEW_TOKENS):
        pass
    print(peak_bytes())


def peak_bytes():
    """The most memory this process held, mapped files included.

    On Linux from /proc: getrusage's number would begin with that of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def fresh_process(*arguments):
    """The number that a new Python prints."""
    command = [sys.executable, *map(str, arguments)]
    return float(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)


def measure(case_folder, rounds, square, matrix):
    """({name: seconds of every round}, facts: operations and bytes of each, peak memory, import time)"""
    case = Case.read(case_folder)
    config, inputs = case.config, inputs_of(case)
    leaves = {name: np.asarray(array) for name, array in dict(case.leaves(lambda array: array)).items()}
    importing = "import time; t = time.perf_counter(); import tinycogvlm; print(time.perf_counter() - t)"
    facts = {"import": float(np.median([fresh_process("-c", importing) for _ in range(min(rounds, 5))]))}
    with tempfile.TemporaryDirectory() as folder:
        save(folder, leaves, config)
        facts["memory"] = fresh_process(__file__, "--answer", folder, case_folder)

    model, T = CogVLM(config, leaves), inputs.ids.shape[1]
    random = np.random.default_rng(0)
    a, b = random.random((2, square, square), dtype=np.float32)
    wide, x = random.random(matrix, dtype=np.float32), random.random(matrix[1], dtype=np.float32)
    embedded, _ = model.embed(inputs, Route(inputs.types, inputs.mask))
    language = CogVLM(config, leaves)                       # the language model alone: its prompt is embedded already
    language.embed = lambda *_, **__: (embedded, None)
    cache = KVCache(config, 1, T + 1)
    language.logits(inputs, cache, last=True)
    read = [leaf for name, leaf in leaves.items() if ".language_" in name or name == "lm_head.weight"]
    ones = {width: np.ones((1, width), np.float32) for width in {weight.shape[1] for weight in read}}

    def decode():
        for _ in range(STEPS):
            cache.length = T
            language_step(model, cache)

    def bare_products():
        for _ in range(STEPS):
            for weight in read:
                ones[weight.shape[1]] @ weight.T

    work = {"sgemm": lambda: a @ b,
            "sgemv": lambda: wide @ x,
            "image": lambda: adapter.image_tokens(inputs.pixels, Params(leaves).model.vision, config, keep=None),
            "prefill": lambda: language.logits(inputs, KVCache(config, 1, T + NEW_TOKENS), last=True),
            "both": lambda: model.logits(inputs, KVCache(config, 1, T + NEW_TOKENS), last=True),
            "decode": decode,
            "bare": bare_products}
    for task in work.values():
        task()
    seconds = {name: np.zeros(rounds) for name in work}
    for i in range(rounds):
        for name, task in work.items():
            start = time.perf_counter()
            task()
            seconds[name][i] = time.perf_counter() - start
    for name in ("decode", "bare"):
        seconds[name] /= STEPS
    weights = sum(weight.nbytes for weight in read)
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_size * 4 * (T + 1)
    trained = [name for name in leaves if not name.endswith("inv_freq")]
    facts |= {"sgemm work": 2 * square ** 3, "sgemv work": wide.nbytes, "image work": image_operations(config),
              "prefill work": prefill_operations(config, T), "decode work": weights + cached, "bare work": weights,
              "tokens": T, "parameters": sum(leaves[name].size for name in trained)}
    facts["both work"] = facts["image work"] + facts["prefill work"]
    return seconds, facts


def language_step(model, cache):
    position = np.array([[cache.length]])                   # its value changes nothing in the time
    return model.logits(generate.next_token([5]), cache, positions=position)


def image_operations(config):
    """Floating-point operations of one picture's matrix products, two for each multiplication; nothing else counts."""
    v, D, F = config.vision, config.hidden_size, config.intermediate_size
    P, W = v.grid ** 2, v.hidden_size
    T = P + 1
    block = 2 * T * W * (4 * W + 2 * v.intermediate_size) + 4 * T * T * W       # projections and MLP; q k^T and p v
    return (2 * P * W * v.in_channels * v.patch_size ** 2 + v.num_hidden_layers * block
            + 2 * P * (W * D + 3 * D * F))                                      # the adapter


def prefill_operations(config, T):
    """The same for the language model over T tokens: of attention what causality leaves, logits of the last token."""
    D, F, d = config.hidden_size, config.intermediate_size, config.head_size
    H, G = config.num_attention_heads, config.num_key_value_heads
    block = 2 * T * (D * (H + 2 * G) * d + H * d * D + 3 * D * F) + 4 * H * d * T * (T + 1) // 2
    return config.num_hidden_layers * block + 2 * D * config.vocab_size


def table(seconds, facts):
    median = {name: float(np.median(times)) for name, times in seconds.items()}

    def rate(name):
        return facts[f"{name} work"] / median[name] / 1e9

    def share(name, limit):
        scale = facts[f"{name} work"] / facts[f"{limit} work"]
        return f"{np.median(scale * seconds[limit] / seconds[name]):.0%}"

    def row(title, name, limit="", target="", original=""):
        unit = "GFLOP/s" if (limit or name) == "sgemm" else "GB/s"
        times = (f"{value * 1e3:.2f} ms" for value in (median[name], seconds[name].min()))
        part = limit and f"{share(name, limit)} of {limit}"
        return (title, *times, f"{rate(name):.1f} {unit}", part, target, original)

    rows = [("", "median", "best", "rate", "share", "target", "original*"),
            row("sgemm, large square", "sgemm"), row("sgemv, large matrix", "sgemv"),
            row("image encode", "image", "sgemm", "50%", "25 ms"),
            row(f"prefill, {facts['tokens']} tokens", "prefill", "sgemm", "70%", "113 ms"),
            row("image and prefill", "both", "sgemm"),
            row("decode, a token", "decode", "sgemv", "70%", "12.8 ms"),
            row("  its bare matrix products", "bare", "sgemv"),
            ("peak memory of an answer", f"{facts['memory'] / 1e6:.0f} MB", "", "", "", "360 MB", "724 MB"),
            ("import tinycogvlm", f"{facts['import'] * 1e3:.0f} ms", "", "", "", "150 ms", "")]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths))} |" for row in rows]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    load_average = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    title = (f"{facts['parameters'] / 1e6:.1f} M parameters, float32, {os.environ['OPENBLAS_NUM_THREADS']} thread(s), "
             f"NumPy {np.__version__}, {len(seconds['sgemm'])} rounds{load_average}")
    return "\n".join([title, "", *lines, "",
                      "* the original code in PyTorch 2.13, float32, 2 threads, on another machine that was quiet"])


if __name__ == "__main__":
    main()
