"""tinycogvlm info: a model's geometry, parameters by part, bytes and memory. config.json alone is enough."""
import math
from collections import Counter
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from pathlib import Path

from ..errors import UserError
from ..kernels.plan import CARDS, cache, host_bytes, plan, scratch, sizes
from ..loading import named
from ..model.config import Config
from ..model.parts import COMPUTED, PARTS, part
from ..relatives import registry
from ..storage import codes, ctranslate2
from ..storage.checkpoint import FILES, Checkpoint
from ..storage.leaves import block_of
from .say import echo, echo_json, legible


def run(arguments):
    folder = named(arguments.folder)
    relative, fields = registry.checkpoint_in(folder)
    found = report(folder) if relative is None else relative_report(folder, relative, fields)
    if arguments.json:
        echo_json(found)
    else:
        echo(table(found) if relative is None else relative_table(found))
    return 0


def report(folder):
    """What --json prints, and `table` as text. Sizes are bytes. Raises UserError for a folder that is not a CogVLM, or
    whose tensors are not the ones that its config.json describes.

    memory: "weights" and "cache" (keys and values of the whole context) are exact; "scratch" estimates the
    intermediates while a prompt is read, a part or a picture at a time. With "stream" all but two blocks stay on the disk.
    gpu: what plan.plan puts on a GPU of that size, {"gpu": bytes, "offloaded": bytes, "embedding_and_head": dtype,
    "offloaded parts"}, or None. activations: the dtype of the arithmetic there, as `load` chooses it.
    parameters: of the parts that the model has, and "total".
    image, vision, flops_per_picture: None for a language model, which sees no pictures.
    """
    folder = named(folder)
    config = Config.read(folder)
    held = stored(folder, config)
    activations = "bfloat16" if held and "BF16" in held["dtypes"] else "float16"
    parts, numbers = Counter(), sizes(config)
    for name, size in numbers.items():
        parts[part(name)] += size
    vision = config.vision
    return {
        "folder": legible(folder), "family": config.family, "template": config.template_version,
        "image": vision and {"size": vision.image_size, "patch": vision.patch_size, "tokens": config.num_image_tokens},
        "vision": vision and {"layers": vision.num_hidden_layers, "width": vision.hidden_size,
                              "heads": vision.num_heads, "mlp": vision.intermediate_size},
        "language": {"layers": config.num_hidden_layers, "width": config.hidden_size,
                     "heads": config.num_attention_heads, "key_value_heads": config.num_key_value_heads,
                     "mlp": config.intermediate_size, "vocabulary": config.vocab_size,
                     "context": config.max_position_embeddings},
        "parameters": {**{part: parts[part] for part in PARTS if parts[part]}, "total": sum(numbers.values())},
        "stored": held,
        "memory": {"cpu, float32": memory(config, numbers, 4),
                   "cpu, float32, stream": memory(config, numbers, 4, stream=True),
                   "gpu, float16": memory(config, numbers, 2)},
        "activations": activations,
        "gpu": {f"{card} GB": {dtype: placed(config, dtype, card * 10 ** 9, activations)
                               for dtype in ("bfloat16", "int8", "int4")} for card in CARDS},
        "parameters_per_decoded_token": parts["language experts"] + parts["language norms"]
        + numbers[f"{config.head}.weight"],
        "flops_per_picture": vision and flops(config, parts),
    }


def stored(folder, config):
    """What is on the disk, {files, bytes, dtypes}, checked against the configuration; None if there are no weights"""
    if not has_weights(folder):
        return None
    checkpoint = Checkpoint(folder).renamed(config.stored_as())
    checkpoint.check(config.shapes(), COMPUTED, codes=True)
    return on_disk(codes.read(checkpoint, config.shapes()).values())


def has_weights(folder, files=FILES):
    """files: as in Checkpoint"""
    folder = Path(folder)
    return folder.suffix == ".gguf" or ctranslate2.found(folder) or any(
        (folder / name).exists() for name in files)


def on_disk(tensors):
    return {"files": len({tensor.path for tensor in tensors}), "bytes": sum(tensor.nbytes for tensor in tensors),
            "dtypes": sorted({tensor.dtype for tensor in tensors})}


def memory(config, numbers, itemsize, stream=False):
    """{weights, cache, scratch} in bytes, with `itemsize` bytes for each number"""
    weights = sum(numbers.values())
    if stream:
        blocks = Counter()
        for name, size in numbers.items():
            blocks[block_of(name)] += size
        for table in config.tables:
            del blocks[table]                                   # only its rows are read
        weights = sum(size for _, size in blocks.most_common(2))
    return {"weights": weights * itemsize, "cache": cache(config) * itemsize, "scratch": scratch(config) * itemsize}


def placed(config, dtype, room, activations):
    """Where plan.plan puts what on a GPU with `room` bytes, in words for programs, or None if it does not fit"""
    try:
        found = plan(config, dtype, room, activations)
    except UserError:
        return None
    return {"gpu": found.on_gpu, "offloaded": host_bytes(found),
            "embedding_and_head": found.embedding_and_head, "offloaded parts": list(found.offloaded)}


def flops(config, parts):
    """Operations to read one picture: two for each parameter and token, and those of the tower's attention"""
    vision, tokens = config.vision, config.vision.num_positions
    return (2 * tokens * parts["vision transformer"] + 2 * config.num_image_tokens * (parts["adapter"]
            + parts[f"{config.experts[0]} experts"]) + 4 * vision.num_hidden_layers * tokens ** 2 * vision.hidden_size)


def relative_report(folder, relative, fields):
    """What --json prints of one of CogVLM's relatives, a registry.Checkpoint, and `relative_table` as text"""
    config = relative.config(fields)
    shapes, parts, held = relative.shapes(config), Counter(), None
    for name, shape in shapes.items():
        parts[name.partition(".")[0]] += math.prod(shape)
    if has_weights(folder, relative.files):
        checkpoint = Checkpoint(folder, relative.files)
        checkpoint.check(shapes, ignored=relative.ignored)
        held = on_disk(checkpoint.values())
    total = sum(parts.values())
    return {"folder": legible(folder), "family": relative.kind, "geometry": geometry(config),
            "parameters": {**parts, "total": total}, "stored": held, "memory": {"cpu, float32": {"weights": 4 * total}}}


def geometry(config, inside=""):
    """{"vision.transformer.width": 768, ...}: the fields of a dataclass, but what it calls tensors"""
    found = {}
    for field in fields_of(config):
        value = getattr(config, field.name)
        if not field.name.startswith("names"):
            found |= geometry(value, f"{inside}{field.name}.") if is_dataclass(value) else {inside + field.name: value}
    return found


def relative_table(report):
    """The report of a relative as lines of text"""
    lines = [f"{report['folder']}: {report['family']}"]
    width = max(31, *map(len, report["geometry"])) + 1
    lines += [f"{name:{width}}{value}" for name, value in report["geometry"].items()]
    lines += ["", f"{'parameters':20}{'':>16}"]
    lines += [f"  {name:18}{count:>16,}" for name, count in report["parameters"].items()]
    held = report["stored"]
    lines += ["", "stored              " + ("no weights in this folder" if held is None else
              f"{units(held['bytes'])} in {held['files']} file(s), {', '.join(held['dtypes'])}"),
              f"in memory, float32  {units(report['memory']['cpu, float32']['weights'])}"]
    return "\n".join(line.rstrip() for line in lines)


def table(report):
    """The report as lines of text"""
    vision, language, image = report["vision"], report["language"], report["image"]
    lines = [f"{report['folder']}: {report['family']}, template {report['template']}"]
    if vision:
        side = image["size"] // image["patch"]
        lines += [f"picture             {image['size']} x {image['size']} pixels, {side} x {side} patches, "
                  f"{image['tokens']} tokens",
                  "vision transformer  {layers} layers, width {width}, {heads} heads, MLP {mlp}".format(**vision)]
    lines += ["language model      {layers} layers, width {width}, {heads} heads ({key_value_heads} for keys), "
              "MLP {mlp}, vocabulary {vocabulary}, context {context}".format(**language),
              "", f"{'parameters':20}{'':>16}"]
    lines += [f"  {name:18}{count:>16,}" for name, count in report["parameters"].items()]
    held = report["stored"]
    lines += ["", "stored              " + ("no weights in this folder" if held is None else
              f"{units(held['bytes'])} in {held['files']} file(s), {', '.join(held['dtypes'])}"),
              "", f"{'memory':24}{'weights':>12}{'cache':>12}{'scratch':>12}{'all':>12}"]
    for name, kinds in report["memory"].items():
        lines.append(f"  {name:22}" + "".join(f"{units(size):>12}" for size in (*kinds.values(), sum(kinds.values()))))
    lines += ["", f"{'GPU':8}{'matrices':10}{'head':10}{'on it':>10}{'offloaded':>11}  "
                  f"(to the host's memory; activations in {report['activations']})"]
    for card, plans in report["gpu"].items():
        for dtype, place in plans.items():
            line = f"  {card:6}{dtype:10}"
            if place is None:
                lines.append(line + "does not fit")
                continue
            offloaded = units(place["offloaded"]) if place["offloaded"] else ""
            lines.append(f"{line}{place['embedding_and_head']:10}{units(place['gpu']):>10}{offloaded:>11}  "
                         + ", ".join(place["offloaded parts"]))
    lines.append("")
    per_token = report["parameters_per_decoded_token"]
    if vision:
        lines.append(f"to read a picture takes {report['flops_per_picture'] / 1e12:.3g} TFLOP")
    lines.append(f"a decoded token reads {units(4 * per_token)} in float32, {units(2 * per_token)} in 2 bytes")
    return "\n".join(line.rstrip() for line in lines)


def units(size):
    """Bytes in decimal units, with at least three significant digits"""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}" if size >= 10 * scale else f"{size / scale:.2f} {unit}"
    return f"{size} B"
