"""Speed and memory on a GPU against its own copy bandwidth and matmul rate, measured in the same run: one table, JSON.

    python benchmarks/gpu.py --json gpu.json            CogVLM's full geometry, 17.6 G random weights made on the GPU
    python benchmarks/gpu.py --model 19B                CogVLM2's
    python benchmarks/gpu.py --quick                    a tiny geometry, also on the CPU runner: to see that it runs

It ends within 6 minutes: what it has not begun after 5 is left out, and named. The JSON is written after each part.
Where PyTorch is installed, it decodes the same geometry in eager mode. Beside what is measured stands what was expected
from counts of bytes, operations and instructions: see EXPECTED.
"""
import argparse
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402

from cpu import peak_bytes  # noqa: E402
from tinycogvlm.kernels import plan
from tinycogvlm.model.config import Config, VisionConfig  # noqa: E402
from tinycogvlm.model.parts import part as part_of  # noqa: E402
from tinycogvlm.kernels.graph import DecodeGraph  # noqa: E402
from tinycogvlm.model.decoder import KVCache  # noqa: E402
from tinycogvlm.kernels.engine import Engine, kernels  # noqa: E402
from tinycogvlm.model.generate import Sampling  # noqa: E402
from tinycogvlm.kernels.library.attention import attention  # noqa: E402
from tinycogvlm.kernels.library.launch import expert_rows, matmul, tile_of  # noqa: E402
from tinycogvlm.kernels.library.products import choices  # noqa: E402
from tinycogvlm.inputs.prompt import Inputs  # noqa: E402
from tinycogvlm.model import adapter  # noqa: E402
from tinycogvlm.storage.quantise import BITS, Quantised  # noqa: E402
from tinycogvlm.model.route import Route, vision_expert_mask  # noqa: E402
from tinycogvlm.nn.swap import swapped  # noqa: E402
from tinycogvlm.nn.tree import Params  # noqa: E402
from tinycogvlm.nn.arrays import bfloat16_bits  # noqa: E402

MODELS = {"17B": Config(32000, 4096, 11008, 32, 32, 32, VisionConfig(1792, 63, 16, 15360, 14, 490)),
          "19B": Config(128256, 4096, 14336, 32, 32, 8, VisionConfig(1792, 63, 16, 15360, 14, 1344), "cogvlm2", 8192,
                        1e-5, 128000, 128001, 128002),
          "quick": Config(96, 64, 64, 2, 8, 8, VisionConfig(64, 1, 8, 64, 4, 12), max_position_embeddings=128)}
CONTEXT, WORDS, STEPS = 1300, 50, 32                        # of decoding; of the question; decoded tokens a round
TARGETS = {"decode bfloat16": 4.0, "decode int8": 2.4, "decode int4": 1.5, "first token float16": 60,  # ms, H200
           "first token bfloat16": 60}
REPEAT = 20                                                 # launches on end of one kernel: the host is faster than it
ENOUGH = 300                                                # seconds after which nothing more is begun

# Of an H200, where this run measures nothing: what the L2 cache gives in bytes a second, what all SMs issue in
# instructions of a lane a second, and seconds from one kernel of a graph to the next.
L2, ISSUED, GAP = 5.5e12, 29.6e12, 2e-6
# Counted in the machine code (tests/test_kernels_compile.py) and in the tiles: instructions of gemv.cu for a weight;
# operations of expert_matmul_v5 for a byte from the L2 cache; the share of their rate that tensor cores reach by
# mma.sync on Hopper; kernels of a decoded token.
A_WEIGHT = {"float16": 3.1, "bfloat16": 3.6, "int8": 2.5, "int4": 2.1}
A_BYTE, MMA_SYNC = 64, 0.62


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=("17B", "19B"), default="17B", help="whose geometry (default: 17B)")
    parser.add_argument("--quick", action="store_true", help="a tiny geometry and one round")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    options = parser.parse_args(arguments)
    xp = gpu()
    if xp is np and not options.quick:
        parser.error("no GPU that CuPy can use; --quick runs on the CPU, by the kernels' runner")

    def keep(found):
        if options.json:
            temporary = options.json.with_name(f".{options.json.name}.{os.getpid()}")
            temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            temporary.replace(options.json)
    found = measure(xp, "quick" if options.quick else options.model, 1 if options.quick else 5, keep,
                    math.inf if options.quick else ENOUGH)
    print(table(found))


def gpu():
    """cupy where it finds a GPU, else numpy."""
    try:
        import cupy
        return cupy if cupy.cuda.runtime.getDeviceCount() else np
    except Exception:                                       # not installed, no driver, no device
        return np


class Random(Mapping):
    """{name: random numbers} of a plan.Plan's tensors, made where the arithmetic is; matrices keep the size of rows."""

    def __init__(self, plan, xp):
        self.plan, self.xp, self.dtypes = plan, xp, plan.stored()
        random, self.shapes, many = np.random.default_rng(0), plan.config.shapes(), 1 << (16 if xp is np else 22)
        self.numbers = xp.asarray(random.standard_normal(many, np.float32))         # repeated in all tensors
        self.bytes, self.made = xp.asarray(random.integers(0, 256, many, np.uint8)), {}

    def __getitem__(self, name):
        if name not in self.made:
            self.made[name] = self.make(self.shapes[name], self.dtypes.get(name, self.plan.activations), "norm" in name)
        return self.made[name]

    def make(self, shape, dtype, is_norm):
        xp, size, scale = self.xp, int(np.prod(shape)), int(np.prod(shape[1:])) ** -0.5
        if dtype in BITS:                                   # even codes: in root mean square 74 of 8 bits, 4.6 of 4
            codes = filled(xp, size * BITS[dtype] // 8, self.bytes)
            of_group = xp.full((shape[0], size // shape[0] // 64), scale * {"int8": 1 / 74, "int4": 1 / 4.6}[dtype],
                               np.float32)
            return Quantised(codes.reshape(shape[0], -1), bfloat16_bits(of_group), tuple(shape), dtype)
        numbers = xp.ones_like(self.numbers) if is_norm else self.numbers * np.float32(scale)
        numbers = bfloat16_bits(numbers) if dtype == "bfloat16" else numbers.astype(dtype)
        return filled(xp, size, numbers).reshape(shape)

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)


def filled(xp, size, numbers):
    """So many numbers: these again and again"""
    array = xp.empty(size, numbers.dtype)
    for start in range(0, size, len(numbers)):
        array[start:start + len(numbers)] = numbers[:size - start]
    return array


def seconds(xp, task, rounds, repeat=1):
    """Median of the rounds, each `repeat` tasks on end; before the first is one in which kernels compile."""
    def wait():
        if xp is not np:
            xp.cuda.Device().synchronize()
    times = []
    for _ in range(rounds + 1):
        wait()
        start = time.perf_counter()
        for _ in range(repeat):
            task()
        wait()
        times.append((time.perf_counter() - start) / repeat)
    return float(np.median(times[1:]))


def measure(xp, name, rounds, keep, enough):
    """{"machine", "limits", "decode", ...}: seconds, bytes and operations. keep(found) is called after each part.

    enough: seconds after which nothing more is begun.
    """
    config, begin = MODELS[name], time.perf_counter()
    quick = name == "quick"
    found = {"machine": machine(xp), "model": name, "parameters": sum(plan.sizes(config).values())}
    found["limits"] = limits(xp, rounds, 1 << 12 if quick else 1 << 31, 32 if quick else 8192)
    images = {"one image": question(config, 1), "four images": question(config, 4), "text only": question(config, 0)}
    found["expert_matmul"] = {label: products(xp, config, inputs, rounds) for label, inputs in images.items()}
    found["attention"] = attentions(xp, config, images["one image"].ids.shape[1], rounds)
    found["picture"], found["decode"], found["memory"], found["left out"] = {}, {}, {}, []
    context = 40 if quick else CONTEXT
    for dtype in ("float16", "int4", "bfloat16", "int8"):
        keep(found)
        if time.perf_counter() - begin > enough:
            found["left out"].append(dtype)
            continue
        leaves = Random(plan.Plan(config, dtype, "float16" if dtype in BITS else dtype), xp)
        model = Engine(config, leaves)
        found["picture"][dtype] = picture(model, images["one image"], rounds)
        found["decode"][dtype] = decode(model, context, rounds, 2 if quick else STEPS)
        found["memory"] = {place: max(size, found["memory"].get(place, 0)) for place, size in memory(xp).items()}
        del model, leaves
        if xp is not np:
            xp.get_default_memory_pool().free_all_blocks()
    found["products"] = {} if xp is np else dict(choices(xp.cuda.Device().id))
    found["PyTorch"], found["took"] = None, time.perf_counter() - begin
    keep(found)
    if found["took"] < enough:
        found["PyTorch"] = in_pytorch(xp, config, context, rounds, 2 if quick else STEPS)
    else:
        found["left out"].append("PyTorch")
    found["took"] = time.perf_counter() - begin
    keep(found)
    return found


def machine(xp):
    if xp is np:
        return {"device": "the CPU, by the kernels' runner", "NumPy": np.__version__}
    runtime, number = xp.cuda.runtime, xp.cuda.Device().id
    return {"device": runtime.getDeviceProperties(number)["name"].decode(), "CUDA": runtime.runtimeGetVersion(),
            "driver": runtime.driverGetVersion(), "CuPy": xp.__version__, "NumPy": np.__version__}


def limits(xp, rounds, size, side):
    """Bytes a second of a copy, read and written; operations a second of a square product in float16.

    Of random numbers: with ones a GPU needs less power, and is faster by a tenth.
    """
    source, target = random(xp, size // 2), xp.empty(size // 2, np.float16)
    a, b = (random(xp, side, side, seed=seed) for seed in (0, 1))
    return {"copy": 2 * source.nbytes / seconds(xp, lambda: xp.copyto(target, source), rounds),
            "matmul": 2 * side ** 3 / seconds(xp, lambda: a @ b, rounds)}


def random(xp, *shape, seed=0):
    """Normal numbers in float16, the first 4 million again and again"""
    size = math.prod(shape)
    numbers = np.random.default_rng(seed).standard_normal(min(size, 1 << 22), np.float32)
    return filled(xp, size, xp.asarray(numbers.astype(np.float16))).reshape(shape)


def question(config, pictures):
    """Inputs of that many pictures, words between them: as many tokens as of one picture and WORDS words at least.

    Four pictures are a quarter of the patches each, as in a conversation about small ones.
    """
    patches, words = config.num_image_tokens, min(WORDS, config.num_image_tokens)
    parts = [(0, 1)]                                        # bos
    for i in range(pictures):
        parts += [(i + 1, patches // pictures), (0, words // pictures)]
    parts += [] if pictures else [(0, patches + words)]
    types = np.concatenate([np.full(n, kind) for kind, n in parts])
    ids, size = np.where(types > 0, config.pad_token_id, 5)[None], config.vision.image_size
    pixels = np.random.default_rng(0).standard_normal((3, size, size), np.float32)
    return Inputs(ids, types[None], np.ones_like(ids), [("image", pixels)] if pictures == 1 else [])


def work(config, inputs):
    """Operations of {"image", "prefill"}: two for each weight and token, and attention's products, of which causality
    leaves a half; logits of the last token."""
    parts, vision, T = Counter(), config.vision, inputs.ids.shape[1]
    for name, size in plan.sizes(config).items():
        parts[part_of(name)] += size
    n, positions = int(vision_expert_mask(inputs.types).sum()), vision.num_positions
    return {"image": 2 * positions * parts["vision transformer"] + 2 * config.num_patches * parts["adapter"]
            + 4 * vision.num_hidden_layers * positions ** 2 * vision.hidden_size,
            "prefill": 2 * n * parts["vision experts"] + 2 * (T - n) * parts["language experts"]
            + 2 * config.vocab_size * config.hidden_size
            + 2 * config.num_hidden_layers * config.hidden_size * T * (T + 1)}


def picture(model, inputs, rounds):
    """Seconds and operations: the picture's encoding, the language model over picture and words, and both at once."""
    xp, config = model.xp, model.config
    pixels, T = xp.asarray(inputs.pixels, dtype=model.dtype), inputs.ids.shape[1]
    language = Engine(config, model.leaves)                 # its prompt is embedded already
    with swapped(kernels(model.dtype)):
        embedded, _ = model.embed(inputs, Route(inputs.types, inputs.mask, xp=xp), keep=None)
    language.embed = lambda *_, **__: (embedded, None)

    def encode():
        with swapped(kernels(model.dtype)):
            adapter.image_tokens(pixels, Params(model.leaves).model.vision, config, keep=None)

    def over_all(model):
        return lambda: model.logits(inputs, KVCache(config, 1, T + 1, xp, model.dtype), last=True)
    operations = work(config, inputs)
    return {"tokens": T, **{name: {"seconds": seconds(xp, task, rounds), "operations": operations.get(name)}
                            for name, task in (("image", encode), ("prefill", over_all(language)),
                                               ("first token", over_all(model)))}}


def decode(model, context, rounds, steps):
    """Seconds a token after that many cached ones; the bytes that it must read: weights as stored, keys and values."""
    xp, config = model.xp, model.config
    cache = KVCache(config, 1, context + (rounds + 2) * steps, xp, model.dtype)
    for part in (cache.keys, cache.values):
        part[:] = random(xp, *part.shape[1:]).astype(model.dtype)
    logits = xp.zeros((1, config.vocab_size), np.float32)
    decoder = DecodeGraph(model, cache, Sampling())
    decoder.begin(logits, context, [context], Sampling(), [[]])
    decoder.choose()
    took = seconds(xp, decoder.next, rounds, steps)

    def with_tokens():                                      # as Engine.steps: the next step, then these tokens
        read = decoder.reader()
        decoder.next()
        return read()
    decoder.begin(logits, context, [context], Sampling(), [[]])
    told = seconds(xp, with_tokens, rounds, steps)
    start = time.perf_counter()
    decoder.step()
    host = (time.perf_counter() - start) / (6 * config.num_hidden_layers + 4)
    weights = sum(size for name, size in plan.sizes(config).items()
                  if part_of(name) in ("language experts", "lm_head"))
    stored = model.leaves.plan.stored()
    read = sum(size * plan.BYTES[stored[name]] for name, size in plan.sizes(config).items()
               if part_of(name) in ("language experts", "language norms", "lm_head"))
    read += plan.cache(config) // config.max_position_embeddings * context * model.dtype.itemsize
    return {"seconds": took, "told": told, "bytes": int(read), "weights": weights, "host, a launch": host,
            "kernels": 6 * config.num_hidden_layers + 4, "graph": decoder.captured is not None}


def products(xp, config, inputs, rounds):
    """The gate of the experts' MLP for these tokens: our one launch, and gather, product, scatter for each expert."""
    D, F = config.hidden_size, config.intermediate_size
    vision, n = vision_expert_mask(inputs.types).reshape(-1), inputs.ids.size
    numbers = xp.asarray(np.random.default_rng(0).standard_normal((n + 2 * F) * D, np.float32) * D ** -0.5, np.float16)
    x, language_weight, vision_weight = numbers[:n * D].reshape(n, D), *numbers[n * D:].reshape(2, F, D)
    rows, language_rows = expert_rows(vision, tile_of(n))
    rows, each = xp.asarray(rows), [(xp.asarray(np.flatnonzero(mine)), weight) for mine, weight in
                                    ((~vision, language_weight), (vision, vision_weight)) if mine.any()]

    def ours():
        return matmul(x, rows, language_rows, language_weight, vision_weight)

    def two_calls():
        y = xp.empty((n, F), np.float16)
        for tokens, weight in each:
            y[tokens] = x[tokens] @ weight.T
        return y
    difference = float(abs(ours().astype(np.float32) - two_calls().astype(np.float32)).max())
    return {"tokens": n, "of images": int(vision.sum()), "operations": 2 * n * D * F, "difference": difference,
            "ours": seconds(xp, ours, rounds, REPEAT), "two calls": seconds(xp, two_calls, rounds, REPEAT)}


def attentions(xp, config, T, rounds):
    """Of a prompt (causal) and of a picture's patches: seconds and operations of one layer"""
    vision, found = config.vision, {}
    for name, H, G, n, d, causal in (
            ("prompt", config.num_attention_heads, config.num_key_value_heads, T, config.head_size, True),
            ("picture", vision.num_heads, vision.num_heads, vision.num_positions,
             vision.hidden_size // vision.num_heads, False)):
        q, k = random(xp, 1, H, n, d), random(xp, 1, G, n, d, seed=1)
        found[name] = {"operations": 4 * H * d * (n * (n + 1) // 2 if causal else n * n),
                       "seconds": seconds(xp, lambda: attention(q, k, k, causal=causal), rounds, REPEAT)}
    return found


def memory(xp):
    """Bytes: the most of this process in the host's memory so far, and CuPy's pool on the GPU"""
    return {"host": peak_bytes(), "gpu": 0 if xp is np else xp.get_default_memory_pool().total_bytes()}


def in_pytorch(xp, config, context, rounds, steps):
    """The same decoding in eager PyTorch, or why not."""
    try:
        import torch
    except ImportError:
        return None
    from gpu_torch import decode_seconds
    device = "cpu" if xp is np else "cuda"
    return {"version": torch.__version__, "seconds": decode_seconds(config, device, context, rounds, steps)}


def table(found):
    """The figures as lines of text."""
    copy, rate = found["limits"]["copy"], found["limits"]["matmul"]
    rows = [("", "measured", "expected, from counts", "rate", "share of limit", "target")]

    def row(title, time, read=None, operations=None, target="", expected=None):
        amount, limit, unit = (read, copy, "GB/s") if read else (operations, rate, "TFLOP/s")
        scale = 1e9 if read else 1e12
        rows.append((title, f"{time * 1e3:.3f} ms", f"{expected * 1e3:.3f} ms" if expected else "",
                     f"{amount / time / scale:.4g} {unit}",
                     f"{amount / time / limit:.0%} of {'copy' if read else 'matmul'}", target and f"{target} ms"))
    product = min(MMA_SYNC * rate, L2 * A_BYTE)             # operations a second of expert_matmul_v5
    for dtype, part in found["decode"].items():
        row(f"decode, {dtype}{'' if part['graph'] else ', without a graph'}", part["seconds"], read=part["bytes"],
            target=TARGETS.get(f"decode {dtype}", ""), expected=part["kernels"] * GAP + max(
                part["bytes"] / copy, part["weights"] * A_WEIGHT[dtype] / ISSUED))
        row("  each token read by the host", part["told"], read=part["bytes"])
        rows.append((f"  floor; Python {part['host, a launch'] * 1e6:.0f} us a launch",
                     f"{part['bytes'] / copy * 1e3:.3f} ms", "", "", "", ""))
    if found["PyTorch"]:
        row(f"decode, bfloat16, PyTorch {found['PyTorch']['version']}, eager", found["PyTorch"]["seconds"],
            read=found["decode"]["bfloat16"]["bytes"])
    for dtype, part in found["picture"].items():
        operations = [part[name]["operations"] for name in ("image", "prefill")]
        written = found["parameters"] * (2 + plan.BYTES[dtype]) / copy * (dtype in BITS)    # rows.cu, in float16
        row(f"image encode, {dtype}", part["image"]["seconds"], operations=operations[0])
        row(f"prefill, {part['tokens']} tokens, {dtype}", part["prefill"]["seconds"], operations=operations[1])
        row(f"first token, {dtype}", part["first token"]["seconds"], operations=sum(operations),
            target=TARGETS.get(f"first token {dtype}", ""), expected=sum(operations) / product + written)
    for label, part in found["expert_matmul"].items():
        row(f"expert_matmul, {label}", part["ours"], operations=part["operations"],
            expected=part["operations"] / product)
        row(f"  cuBLAS, gather and scatter: {part['two calls'] / part['ours']:.2f} times as long", part["two calls"],
            operations=part["operations"])
    for label, part in found["attention"].items():
        row(f"attention, {label}", part["seconds"], operations=part["operations"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths))} |" for row in rows]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    memory = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in found["memory"].items() if size)
    title = (f"{found['machine']['device']}, the geometry of {found['model']}, {found['parameters'] / 1e9:.1f} G "
             f"parameters; copy {copy / 1e9:.0f} GB/s, matmul {rate / 1e12:.3g} TFLOP/s")
    left_out = f"; not begun, for lack of time: {', '.join(found['left out'])}" if found["left out"] else ""
    taken = ", ".join(kind for kind, better in found["products"].items() if better) or "none"
    return "\n".join([title, "", *lines, "", f"ways that were faster here: {taken}",
                      f"peak memory: {memory}; {found['took']:.0f} seconds in all{left_out}"])


if __name__ == "__main__":
    main()
