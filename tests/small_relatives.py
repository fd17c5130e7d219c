"""CogVLM's relatives in geometries of some hundred numbers, with random weights: as cases of `verify`, and as folders."""
import json

import numpy as np
from safetensors.numpy import save_file

from tinycogvlm.cli.main import main
from tinycogvlm.relatives import registry
from tinycogvlm.relatives.fields import Fields


def drawn(shapes, seed=5):
    """{name: array} of {name: shape}, so small that activations stay of size 1; seed: a number, or a generator"""
    random = np.random.default_rng(seed)
    return {key: random.standard_normal(shape) / max(1, np.prod(shape[1:])) ** 0.5 for key, shape in shapes.items()}


def small_case(name, fields, shapes):
    """The case `name` of other fields -> model, config, weights, inputs, the generator that drew them

    shapes: {input: its array, or the shape of a random one}.
    """
    model, random = registry.cases()[name], np.random.default_rng(5)
    config = model.config(Fields(fields), {})
    weights = drawn(model.shapes(config), random)
    weights |= {key: np.abs(array) + 0.5 for key, array in weights.items() if key.endswith("running_var")}
    inputs = {key: shape if isinstance(shape, np.ndarray) else random.standard_normal(shape)
              for key, shape in shapes.items()}
    return model, config, weights, inputs, random


def lay_out(folder, config, *extra, seed=1):
    """Write a checkpoint of a config.json's fields: random weights, and tensors of the names `extra` -> the folder"""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    kind, fields = registry.checkpoint_in(folder)
    weights = {key: np.asarray(array, np.float32) for key, array in
               drawn(kind.shapes(kind.config(fields)), seed).items()}
    save_file(weights | {key: np.zeros(2, np.float32) for key in extra}, folder / "model.safetensors")
    return folder


def check_real_names(folder, config, real, capsys):
    """A config.json's fields give the names and shapes {name: [size, ...]} of the real folder, and `info` counts them."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    kind, fields = registry.checkpoint_in(folder)
    assert {key: list(shape) for key, shape in kind.shapes(kind.config(fields)).items()} == real
    assert main(["info", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parameters"]["total"] == sum(np.prod(shape, dtype=int) for shape in real.values())
