"""Curves of a run: each stage's loss, and beside it what was measured on the way."""
from pathlib import Path

from ...errors import UserError
from ...storage.atomic import replacing
from .log import flat, problem, read
from .process import say

NOT_DRAWN = ("step", "samples", "loss", "norm", "rate", "seconds", "samples/s")


def plot(run, out):
    """Draw every <stage>.jsonl of the folder `run` into the picture `out`: one row for each stage, over its samples."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("drawing curves needs matplotlib: pip install 'tinycogvlm[plot]'") from None
    logs = {}
    files = [path for path in Path(run).glob("*.jsonl") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime):
        lines, damaged = read(path)
        if damaged:
            say(f"tinycogvlm: {path}: {problem(damaged)}; drawn without")
        if any("loss" in line for line in lines):
            logs[path.stem] = lines
    if not logs:
        raise UserError(f"{run}: holds no log of a training run (<stage>.jsonl)")
    figure = Figure(figsize=(10, 3 * len(logs)), layout="constrained")
    for (left, right), (stage, lines) in zip(figure.subplots(len(logs), 2, squeeze=False), logs.items()):
        for name, points in curves(lines).items():
            axes = left if name == "loss" else right
            style = ("-", "--", ":")[len(axes.lines) // 10 % 3]     # there are ten colours
            axes.plot(*zip(*points), style, label=name, marker="." if len(points) < 50 else None)
        left.set(title=f"{stage}: loss", xlabel="samples", yscale="log")
        right.set(title=f"{stage}: measured", xlabel="samples")
        if right.lines:
            columns = 1 + len(right.lines) // 15
            right.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns)
        else:
            right.axis("off")
    save(figure, Path(out))


def save(figure, path):
    """Write a matplotlib figure, in the format that the path's ending says."""
    kind, known = path.suffix[1:].lower(), figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise UserError(f"{path}: cannot be written (format {kind!r} is not one of {', '.join(known)})")
    with replacing(path) as file:
        figure.savefig(file, format=kind)


def curves(lines):
    """{name: [(samples, number), ...]} of the loss, of the other numbers of its lines, and of what was watched"""
    found = {}
    batch = next(line["samples"] / line["step"] for line in lines if "loss" in line)
    for line in lines:
        numbers = line.get("watch") or {name: line[name] for name in line if name == "loss" or name not in NOT_DRAWN}
        for name, number in flat(numbers):
            found.setdefault(name, []).append((line["step"] * batch, number))
    return found
