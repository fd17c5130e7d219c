"""What a CogVLM folder holds and needs: geometry, parameters by part, bytes, memory. config.json alone is enough."""
import math
import re
from collections import Counter
from pathlib import Path

from .config import Config
from .params import BLOCK, INDEX, Checkpoint

PARTS = {"vision transformer": r"model\.vision\.(patch_embedding|transformer)\.",
         "adapter": r"model\.vision\.",
         "vision experts": r".*\.vision_(expert|mlp)",
         "language experts": r".*\.language_(expert|mlp)",
         "embedding": r"model\.embed_tokens\.",
         "language norms": r".*norm\.",
         "lm_head": r"lm_head\."}


def info(folder):
    """A dict for programs, whose words `table` puts in order. Sizes are bytes. Raises UserError for a folder that is no
    CogVLM or whose tensors are not the ones that its config.json makes.

    memory: "weights" and "cache" (keys and values of the whole context) are exact; "working" is an estimate of the
    intermediates while one picture and 64 words are read. With "stream" all but two blocks stay on the disk.
    """
    config = Config.read(folder)
    sizes = {name: math.prod(shape) for name, shape in config.shapes().items() if not name.endswith("inv_freq")}
    parts = Counter()
    for name, size in sizes.items():
        parts[next(part for part, pattern in PARTS.items() if re.match(pattern, name))] += size
    vision = config.vision
    return {
        "folder": str(folder), "family": config.family, "template": config.template_version,
        "image": {"size": vision.image_size, "patch": vision.patch_size, "tokens": config.num_image_tokens},
        "vision": {"layers": vision.num_hidden_layers, "width": vision.hidden_size, "heads": vision.num_heads,
                   "mlp": vision.intermediate_size},
        "language": {"layers": config.num_hidden_layers, "width": config.hidden_size,
                     "heads": config.num_attention_heads, "key_value_heads": config.num_key_value_heads,
                     "mlp": config.intermediate_size, "vocabulary": config.vocab_size,
                     "context": config.max_position_embeddings},
        "parameters": {**{part: parts[part] for part in PARTS}, "total": sum(sizes.values())},
        "stored": stored(folder, config),
        "memory": {"cpu, float32": memory(config, sizes, 4),
                   "cpu, float32, stream": memory(config, sizes, 4, stream=True),
                   "gpu, float16": memory(config, sizes, 2)},
        "parameters_per_decoded_token": parts["language experts"] + parts["language norms"] + parts["lm_head"],
        "flops_per_picture": flops(config, parts),
    }


def stored(folder, config):
    """What lies on the disk, {files, bytes, dtypes}, checked against the configuration; None if no weights do."""
    folder = Path(folder)
    if not folder.is_dir() or not any((folder / name).exists() for name in
                                      ("model.safetensors", INDEX, "weights.safetensors")):
        return None
    checkpoint = Checkpoint(folder)
    checkpoint.check(config.shapes())
    tensors = checkpoint.values()
    return {"files": len({tensor.path for tensor in tensors}), "bytes": sum(tensor.nbytes for tensor in tensors),
            "dtypes": sorted({tensor.dtype for tensor in tensors})}


def memory(config, sizes, itemsize, stream=False):
    """Bytes of {weights, cache, working} with `itemsize` bytes a number."""
    weights = sum(sizes.values())
    if stream:
        blocks = Counter()
        for name, size in sizes.items():
            layer = BLOCK.match(name)
            blocks[layer.group() if layer else name] += size
        del blocks["model.embed_tokens.weight"]                 # only its rows are read
        weights = sum(size for _, size in blocks.most_common(2))
    vision, cache = config.vision, 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_size
    working = max(vision.num_positions * (14 * vision.hidden_size + 3 * vision.intermediate_size),
                  (config.num_image_tokens + 64) * (14 * config.hidden_size + 3 * config.intermediate_size))
    return {"weights": weights * itemsize, "cache": cache * config.max_position_embeddings * itemsize,
            "working": working * itemsize}


def flops(config, parts):
    """Floating-point operations to read one picture: two a parameter and token, and the vision tower's attention."""
    vision, tokens = config.vision, config.vision.num_positions
    return (2 * tokens * parts["vision transformer"] + 2 * config.num_image_tokens * (parts["adapter"]
            + parts["vision experts"]) + 4 * vision.num_hidden_layers * tokens ** 2 * vision.hidden_size)


def table(report):
    """The report as lines of text."""
    vision, language, image = report["vision"], report["language"], report["image"]
    side = image["size"] // image["patch"]
    lines = [f"{report['folder']}: {report['family']}, template {report['template']}",
             f"picture             {image['size']} x {image['size']} pixels, {side} x {side} patches, "
             f"{image['tokens']} tokens",
             "vision transformer  {layers} layers, width {width}, {heads} heads, MLP {mlp}".format(**vision),
             "language model      {layers} layers, width {width}, {heads} heads ({key_value_heads} for keys), "
             "MLP {mlp}, vocabulary {vocabulary}, context {context}".format(**language),
             "", f"{'parameters':20}{'':>16}"]
    lines += [f"  {part:18}{count:>16,}" for part, count in report["parameters"].items()]
    held = report["stored"]
    lines += ["", "stored              " + ("no weights in this folder" if held is None else
              f"{units(held['bytes'])} in {held['files']} file(s), {', '.join(held['dtypes'])}"),
              "", f"{'memory':24}{'weights':>12}{'cache':>12}{'working':>12}{'all':>12}"]
    for name, part in report["memory"].items():
        lines.append(f"  {name:22}" + "".join(f"{units(size):>12}" for size in (*part.values(), sum(part.values()))))
    per_token = report["parameters_per_decoded_token"]
    lines.append(f"to read a picture takes {report['flops_per_picture'] / 1e12:.3g} TFLOP")
    lines.append(f"a decoded token reads {units(4 * per_token)} in float32, {units(2 * per_token)} in 2 bytes")
    return "\n".join(line.rstrip() for line in lines)


def units(size):
    """Bytes in decimal units, three significant digits or more."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}" if size >= 10 * scale else f"{size / scale:.2f} {unit}"
    return f"{size} B"
