"""verify(folder): golden cases of CogVLM's relatives, many small ones in a folder, computed again and compared.

    components.json             {case: {"config": ..., "fp32_vs_fp64": ..., ...}}; the key names the model
    <case>.safetensors          w/ weights, x/ inputs, y/ outputs and intermediates; g/ gradients of weights and g/x/ of
                                inputs, of y/loss or of the sum of dy * y over the outputs that have an x/dy/
"""
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from ..contracts.contract import to_numpy
from ..errors import UserError
from ..nn import trace
from ..nn.arrays import converter, namespace
from ..nn.tree import Gradients, Params
from ..relatives import registry
from ..relatives.fields import Fields
from ..relatives.transformer import at
from ..storage.reading import read_json
from ..storage.safetensors_file import read_header
from ..train.loop.optimizer import adaptively_clipped
from .case import values
from .compare import Report, Row, compare_one, failed
from .replay import Value
from .tolerance import float32

COMPONENTS = "components.json"
GRADIENT = 5e-5                                             # of the largest entry of all of a case's gradients


@dataclass(frozen=True)
class Component:
    """A case as it lies in the folder; low_precision is there for compare_one, which asks for it."""
    name: str
    entry: dict                                             # what components.json says of it
    tensors: dict                                           # {"w/...": Tensor}
    low_precision: str | None = None

    def of(self, kind):
        """{name: array} of the tensors below w/, x/, y/ or g/"""
        return {name[len(kind):]: values(tensor) for name, tensor in self.tensors.items() if name.startswith(kind)}

    @property
    def cotangents(self):
        """{output: gradient with respect to it}: those recorded, or 1 for the loss; empty if there are no gradients"""
        recorded = {name[len("dy/"):]: array for name, array in self.of("x/").items() if name.startswith("dy/")}
        return recorded or ({"loss": np.ones(())} if any(name.startswith("g/") for name in self.tensors) else {})


def agc(x, p, config):
    """The case of adaptive gradient clipping, which is no model: clipped gradients in timm's shapes and in DeepMind's

    They differ where DeepMind stores a gain as a vector, one unit, and timm as (O, 1, 1, 1), O units.
    """
    most, eps, shapes = config
    clipped = {}
    for name in shapes:
        w, g = at(p, name), x[f"grad/{name}"]
        clipped[f"timm/{name}"] = adaptively_clipped(w, g, most, eps)
        shape = (-1,) if name.endswith("gain") and w.ndim else w.shape
        w, g = w.reshape(shape), g.reshape(shape)
        clipped[f"deepmind/{name}"] = adaptively_clipped(w, g, most, eps).reshape(shapes[name])
    return clipped, None


TRAINING = {"agc": registry.Case(lambda fields, shapes: (fields.number("clip"), fields.number("eps", 1e-3), shapes),
                                 lambda config: config[2], agc)}


def models():
    """{case: how it is computed}"""
    return registry.cases() | TRAINING


def found(folder):
    """Whether a folder is laid out this way"""
    return (Path(folder) / COMPONENTS).is_file()


def verify(folder, case=None, device="cpu", dtype="float32"):
    """The Report of all cases of a folder, or of one. A case that nothing here knows is a row that fails.

    Raises UserError where components.json cannot be read or has no such case.
    """
    folder = Path(folder)
    entries = read_json(folder / COMPONENTS)
    if case is not None:
        if case not in entries:
            raise UserError(f"{folder / COMPONENTS} has no case {case!r}; it has {', '.join(entries) or 'none'}")
        entries = {case: entries[case]}
    if not entries:
        raise UserError(f"{folder / COMPONENTS}: has no cases")
    rows = []
    for name, entry in entries.items():
        rows += verify_one(folder, name, entry, converter(device, dtype))
    return Report(str(folder), rows)


def verify_one(folder, name, entry, convert):
    """The rows of one case"""
    model = models().get(name)
    if model is None:
        return [failed(Row(name, "case", ()), f"no model here is called {name!r}")]
    try:
        if not isinstance(entry, dict):
            raise UserError(f"{folder / COMPONENTS}: {name} is not a JSON object")
        component = Component(name, entry, read_header(folder / f"{name}.safetensors"))
        fields = Fields(entry.get("config", {}), folder / COMPONENTS, f"{name}.config.")
        shapes = {name[2:]: tuple(tensor.shape) for name, tensor in component.tensors.items() if name.startswith("w/")}
        config = model.config(fields, shapes)
        rows = weight_rows(name, component, model.shapes(config))
        if rows:
            return rows
        return compare(component, model, *replay(component, model, config, convert))
    except Exception as error:                              # whatever a case provokes becomes a failed row
        sentence = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return [failed(Row(name, "case", ()), f"not computed: {sentence}")]


def weight_rows(name, component, shapes):
    """A failed Row for every weight that is not what the geometry makes it"""
    stored = {name[2:]: tensor for name, tensor in component.tensors.items() if name.startswith("w/")}
    rows = [failed(Row(name, f"w/{weight}", shape), "missing") for weight, shape in shapes.items()
            if weight not in stored]
    for weight, tensor in stored.items():
        row = Row(name, f"w/{weight}", tuple(tensor.shape))
        if weight not in shapes:
            rows.append(failed(row, "not part of the model that the config describes"))
        elif tuple(tensor.shape) != tuple(shapes[weight]):
            rows.append(failed(row, f"the shape should be {tuple(shapes[weight])}"))
        elif not np.isfinite(values(tensor)).all():
            rows.append(failed(row, "holds NaN or infinity"))
    return rows


def replay(component, model, config, convert):
    """Our side of a case: {y/ name: array} of all that is computed or recorded, {g/ name: array}"""
    xp = namespace(convert(np.zeros(1, np.float32)))

    def ready(arrays):
        return {name: convert(array) if array.dtype.kind == "f" else xp.asarray(array)
                for name, array in arrays.items()}
    weights, inputs = ready(component.of("w/")), ready(component.of("x/"))
    with trace.recording() as records, np.errstate(all="ignore"):
        y, pull = model.run(inputs, Params(weights), config)
    outputs = {name.replace("/", "_"): to_numpy(array) for name, array in records.items()}
    outputs |= {name: to_numpy(array) for name, array in y.items()}
    cotangents = component.cotangents
    if not cotangents:
        return outputs, {}
    g = Gradients([name for name, array in weights.items() if array.dtype.kind == "f"], model.frozen)
    with np.errstate(all="ignore"):
        dx = pull(ready(cotangents), g)
    gradients = {name: to_numpy(array) for name, array in g.leaves.items()}
    for name in g.trained:
        gradients.setdefault(name, np.zeros(weights[name].shape, np.float32))       # nothing depends on it
    inputs = {name if name.startswith("y/") else f"x/{name}": to_numpy(array) for name, array in dx.items()}
    return outputs, gradients | inputs


def compare(component, model, outputs, gradients):
    """The rows of every y/ and g/ of a case, and of every gradient that it should have and has not"""
    stated, rows = component.entry.get("fp32_vs_fp64") or {}, []
    reference = component.of("g/")
    largest_of_all = max((float(np.abs(array).max(initial=0)) for array in reference.values()), default=0.0)
    zero = component.entry.get("zero_grads") or []
    for name, ours in ((f"y/{name}", array) for name, array in outputs.items()):
        if name in component.tensors:
            apart = 2 * stated.get(name, {}).get("maxabs_err", 0.0)
            rows.append(row_of(component, name, ours, lambda largest, apart=apart: max(float32(largest), apart)))
    for name, ours in gradients.items():
        if f"g/{name}" in component.tensors:
            bound = 0.0 if any(fnmatchcase(name, pattern) for pattern in zero) else GRADIENT * largest_of_all
            rows.append(row_of(component, f"g/{name}", ours, lambda largest, bound=bound: bound))
        elif reference and not name.startswith(("x/", "y/")):
            rows.append(failed(Row(component.name, f"g/{name}", ours.shape), "missing"))
    known = {row.name for row in rows}
    rows += [failed(Row(component.name, name, tuple(tensor.shape)), "unknown: no check covers it")
             for name, tensor in component.tensors.items() if name.startswith(("y/", "g/")) and name not in known]
    return rows or [failed(Row(component.name, "case", ()), "holds nothing to compare with")]


def row_of(component, name, ours, tolerance):
    """The Row of one tensor; a number may be recorded with the shape (1,)"""
    tensor = component.tensors[name]
    ours = np.asarray(ours)
    if ours.shape == () and tuple(tensor.shape) == (1,):
        ours = ours.reshape(1)
    return compare_one(Row(component.name, name, tuple(tensor.shape)), tensor, Value(ours, tolerance), component)
