"""Parameters by path: arrays are found, and a wrong step fails at once with what was meant."""
import copy
import pickle

import numpy as np
import pytest

from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.nn.tree import Params

NAMES = ("model.vision.boi", "model.vision.eoi", "model.layers.0.norm.weight", "model.layers.10.norm.weight",
         "model.layers.10.mlp.up_proj.weight", "model.layers.10.mlp.up_proj.bias", "lm_head.weight")
LEAVES = {name: np.full(1, i) for i, name in enumerate(NAMES)}


def test_every_path_leads_to_its_array():
    p = Params(LEAVES)
    assert p.model.vision.boi is LEAVES["model.vision.boi"]
    assert p.model.layers[10].mlp["up_proj"].bias is LEAVES["model.layers.10.mlp.up_proj.bias"]
    assert p["model"]["layers"]["0"].norm.weight is LEAVES["model.layers.0.norm.weight"]
    assert p["lm_head"].get("weight") is LEAVES["lm_head.weight"] and p["lm_head"].get("bias") is None


@pytest.mark.parametrize("path, said", [
    (lambda p: p.model.vision.bio, "no parameter or group model.vision.bio; did you mean boi?"),
    (lambda p: p.modle, "no parameter or group modle; did you mean model?"),
    (lambda p: p.model.layer, "no parameter or group model.layer; did you mean layers?"),
    (lambda p: p.model.layers[10].mlp.up_proj.weigth, "group model.layers.10.mlp.up_proj.weigth; did you mean weight?"),
    (lambda p: p.lm_head.bias, "no parameter or group lm_head.bias; did you mean weight?"),
    (lambda p: p.model.layers[1], "no parameter or group model.layers.1; did you mean 10?"),
    (lambda p: p["model"]["vision"]["cls"], "no parameter or group model.vision.cls; did you mean boi?"),
    (lambda p: p["model.vision.boi"], "no parameter or group model.vision.boi; did you mean")])
def test_a_wrong_step_fails_where_it_is_made(path, said):
    with pytest.raises((AttributeError, KeyError)) as error:
        path(Params(LEAVES))
    assert said in str(error.value)
    with pytest.raises(AttributeError, match="did you mean nothing"):
        Params({}).model


def test_trees_are_of_the_names_not_of_the_mapping():
    """Two models of one kind share the tree of names, each with its own arrays; other names have another tree."""
    other = {name: array + 100 for name, array in LEAVES.items()}
    assert Params(other).lm_head.weight == 106 and Params(LEAVES).lm_head.weight == 6
    assert Params({**LEAVES, "model.extra": 1}).model.extra == 1
    with pytest.raises(AttributeError):
        Params(LEAVES).model.extra


def test_protocols_are_not_tensors():
    p = Params(LEAVES)
    assert not hasattr(p, "__array__") and not hasattr(p, "_private") and np.array([p], object).shape == (1,)
    assert copy.copy(p).lm_head.weight == 6 and pickle.loads(pickle.dumps(p)).model.vision.eoi == 1


def test_a_model_without_a_tensor_says_which(make_model, make_inputs):
    model = make_model()
    leaves = {name: array for name, array in model.leaves.items() if name != "model.layers.1.input_layernorm.weight"}
    with pytest.raises(AttributeError, match="no parameter or group model.layers.1.input_layernorm; did you mean"):
        CogVLM(model.config, leaves).logits(make_inputs(model.config, [3]))
