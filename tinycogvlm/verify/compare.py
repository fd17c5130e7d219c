"""verify(folder): compare every tensor of a case (case.py) with what we compute (replay.py)."""
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import UserError
from ..kernels.runner import build
from ..storage.safetensors_file import dtype_after
from .case import ACTIVATIONS, GRADS, META, WEIGHTS, Case, values
from .replay import Value, replay

FLOATS = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True)
class Row:
    """The comparison of one tensor; error and tolerance are those of its worst entry."""
    file: str
    name: str
    shape: tuple
    error: float = 0.0
    tolerance: float = 0.0
    verdict: str = "ok"                     # or "FAIL", or "left out"
    detail: str = ""
    worst: tuple = ()                       # of a failed one, the five worst entries: (index, ours, reference)


@dataclass(frozen=True)
class Report:
    """All rows, in the order of computation."""
    folder: str
    rows: list = field(repr=False)

    @property
    def failed(self):
        return [row for row in self.rows if row.verdict == "FAIL"]

    @property
    def ok(self):
        return not self.failed

    @property
    def first_failure(self):
        """The Row of the first tensor that differs, or None."""
        return self.failed[0] if self.failed else None

    def table(self):
        """For people: a line a tensor, then the first that differs and its five worst entries."""
        width = max(len(row.name) for row in self.rows)
        lines = [f"{'tensor':{width}}  {'shape':16} {'worst error':>12} {'tolerance':>10}  verdict"]
        file = None
        for row in self.rows:
            if row.file != file:
                file = row.file
                lines.append(f"-- {file}")
            shape = "x".join(map(str, row.shape)) or "number"
            lines.append(f"{row.name:{width}}  {shape:16} {row.error:12.3g} {row.tolerance:10.3g}  {row.verdict}"
                         f"{'  ' if row.detail else ''}{row.detail}")
        first = self.first_failure
        if first is None:
            held = sum(row.verdict == "ok" for row in self.rows)
            others = f", {len(self.rows) - held} left out" if held < len(self.rows) else ""
            return "\n".join([*lines, f"{self.folder}: all {held} hold{others}"])
        lines.append(f"{self.folder}: {len(self.failed)} of {len(self.rows)} FAIL; the first that differs is "
                     f"{first.name} of {first.file}: {first.detail}")
        for index, ours, reference in first.worst:
            lines.append(f"  [{', '.join(map(str, index))}]  ours {ours:.9g}  reference {reference:.9g}")
        return "\n".join(lines)

    def to_dict(self):
        """For programs: what JSON can hold."""
        def plain(row):
            worst = [{"index": list(index), "ours": finite(ours), "reference": finite(reference)}
                     for index, ours, reference in row.worst]
            return {"file": row.file, "name": row.name, "shape": list(row.shape), "error": finite(row.error),
                    "tolerance": finite(row.tolerance), "verdict": row.verdict, "detail": row.detail, "worst": worst}
        first = self.first_failure
        return {"folder": self.folder, "ok": self.ok, "first_failure": first and first.name,
                "rows": [plain(row) for row in self.rows]}


def finite(number):
    """The number, or its name where JSON has none for it."""
    return number if np.isfinite(number) else str(number)


def verify(folder, device="cpu", kernels=False):
    """The Report of a case's folder. Raises UserError where the folder is no case or a file of it is damaged.

    kernels: what the CUDA kernels compute, on the CPU or on the GPU `device`; gradients are then left out.
    """
    if kernels and device == "cpu" and build.cpu_runner():
        raise UserError(build.cpu_runner())
    case = Case.read(folder)
    rows = weight_rows(case)
    if any(row.verdict != "ok" for row in rows):                # no model can be built
        why = [("weights", "the weights do not fit config.json")]
        return Report(str(folder), rows + compare(case, {}, why))
    try:
        computed, failures = replay(case, device, kernels)
    except (MemoryError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder}: the model that config.json describes cannot be built ({error})") from None
    return Report(str(folder), rows + compare(case, computed, failures, kernels))


def weight_rows(case):
    """Every stored weight: known, of the right shape, floating-point, finite; inv_freq alike in all layers."""
    shapes, rows, frequencies = case.config.shapes(), [], None
    for name, tensor in case.recorded[WEIGHTS].items():
        row, expected = Row(WEIGHTS, name, tensor.shape), shapes.get(name)
        if expected is None:
            row = failed(row, "not part of the model that config.json describes")
        elif tuple(tensor.shape) != tuple(expected):
            row = failed(row, f"the shape should be {tuple(expected)}")
        elif dtype_after(tensor) not in FLOATS:
            row = failed(row, f"holds {dtype_after(tensor)}, not floating-point numbers")
        elif not np.isfinite(values(tensor)).all():
            row = failed(row, "holds NaN or infinity")
        elif name.endswith("inv_freq"):
            frequencies = values(tensor) if frequencies is None else frequencies
            row = compare_one(row, tensor, Value(frequencies), case)
        rows.append(row)
    rows += [failed(Row(WEIGHTS, name, shapes[name]), "missing") for name in case.missing().get(WEIGHTS, ())]
    return rows


def compare(case, computed, failures=(), kernels=False):
    """Rows of all recorded tensors but the weights: in the order of computation, then those that nothing computes."""
    left = {(file, name): None for file, tensors in case.recorded.items() if file != WEIGHTS for name in tensors}
    named, rows = {}, []                                        # named: what name@rows are slices of
    for file, name in left:
        named.setdefault((file, name.partition("@")[0]), []).append(name)
    for (file, base), value in computed.items():
        for name in named.get((file, base), ()):
            rows.append(compare_tensor(case, file, name, value))
            del left[file, name]
    why = "not computed: " + "; ".join(f"{part}: {sentence}" for part, sentence in failures) if failures else \
        "unknown: no check covers it"
    for file, name in left:
        row, known = Row(file, name, np.shape(case.recorded[file][name])), left_out(file, name) if kernels else None
        rows.append(replace(row, verdict="left out", detail=known) if known else failed(row, why))
    rows += [failed(Row(file, name, ()), "missing")
             for file, names in case.missing().items() if file != WEIGHTS for name in names]
    return rows + [failed(Row(META, part, ()), f"not computed: {sentence}") for part, sentence in failures]


def left_out(file, name):
    """Why kernels do not compute a recorded tensor, or None."""
    if file == GRADS:
        return "the kernels of a model give answers, not gradients"
    if name.partition("@")[0].endswith("vit/patch_conv"):
        return "the kernel adds the positions at once: see vit/patch_embed"
    return None


def compare_tensor(case, file, name, value):
    """The Row of one recorded tensor, `name` or `name@which`, and what we compute under `name`."""
    tensor = case.recorded[file][name]
    row = Row(file, name, tuple(np.shape(tensor)))
    try:
        return compare_one(row, tensor, cut(case, value, name), case)
    except UserError as error:
        return failed(row, str(error))


def cut(case, value, name):
    """The rows of `value` that `name@which` holds: listed under `which` in meta.json, or the last."""
    which = name.partition("@")[2]
    if not which:
        return value
    array = value.array
    counts = None if value.counts is None else np.broadcast_to(value.counts, array.shape)
    axis = 1 if array.ndim == 2 else array.ndim - 2
    rows = -1 if which == "last" else case.indices(which, array.shape[axis])

    def rows_of(array):
        return array if array is None else np.take(array, rows, axis)
    return replace(value, array=rows_of(array), counts=rows_of(counts))


def compare_one(row, tensor, value, case):
    """`row` with its verdict: dtype, shape, then every entry that counts."""
    reference, ours = values(tensor), value.array
    dtype, expected = dtype_after(tensor), dtype_after(ours)
    narrow = {"bfloat16": "BF16", "float16": "F16"}.get(case.low_precision)
    if dtype not in (expected, narrow if expected == "F32" else expected) and row.file in (ACTIVATIONS, GRADS):
        return failed(row, f"the dtype is {dtype}, it should be {expected}")
    if reference.shape != ours.shape:
        return failed(row, f"the shape should be {ours.shape}")
    for array, side in ((reference, "in the reference"), (ours, "on our side")):
        if not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            entry = index, float(ours[index]), float(reference[index])
            return failed(row, f"NaN or infinity {side}", float("nan"), (entry,))
    counts = np.True_ if value.counts is None else value.counts
    ours, reference = ours.astype(np.float64), reference.astype(np.float64)
    error = np.where(counts, np.abs(ours - reference), 0.0)
    largest = float(np.where(counts, np.abs(reference), 0.0).max(initial=0.0))
    tolerance = np.broadcast_to(value.tolerance(largest), error.shape)
    if not error.size:
        return row
    ratio = np.divide(error, tolerance, out=np.where(error > 0, np.inf, 0.0), where=tolerance > 0)
    worst = [np.unravel_index(i, error.shape) for i in np.argsort(-ratio, axis=None, kind="stable")[:5]]
    row = replace(row, error=float(error[worst[0]]), tolerance=float(tolerance[worst[0]]))
    if ratio[worst[0]] <= 1:
        return row
    entries = tuple((tuple(int(i) for i in index), float(ours[index]), float(reference[index]))
                    for index in worst if ratio[index] > 1)
    detail = f"{np.count_nonzero(ratio > 1)} of {error.size} entries differ"
    return replace(row, verdict="FAIL", worst=entries, detail=detail)


def failed(row, detail, error=0.0, worst=()):
    return replace(row, verdict="FAIL", detail=detail, error=error, worst=worst)
