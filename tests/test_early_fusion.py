"""OSCAR, Pixel-BERT and SOHO: other geometries than the golden ones, bugs that must show, what may not be seen."""
import numpy as np
import pytest
from test_relatives import FOLDER, check_gradient, component

from tinycogvlm.errors import UserError
from tinycogvlm.nn import activations, ops
from tinycogvlm.nn.swap import swapped
from tinycogvlm.nn.trace import recording
from tinycogvlm.nn.tree import Params
from tinycogvlm.relatives import oscar, registry
from tinycogvlm.relatives.fields import Fields
from tinycogvlm.verify import components

BERT = {"hidden_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 7, "vocab_size": 9,
        "max_position_embeddings": 6}
MASK = np.array([[1, 1, 1, 1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]])
GEOMETRIES = {
    "an OSCAR+ whose regions are normalised": ("oscar", BERT | {
        "img_feature_dim": 5, "use_img_layernorm": 1, "num_contrast_classes": 3}, {
        "input_ids": np.array([[1, 4, 2, 7, 2, 0], [1, 3, 8, 2, 5, 2]]),
        "token_type_ids": np.array([[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]]), "img_feats": (2, 3, 5),
        "attention_mask": MASK, "lm_labels": np.where(np.arange(18).reshape(2, 9) % 7 == 1, 3, -1),
        "contrast_label": np.array([2, 0])}),
}


@pytest.mark.parametrize("what", GEOMETRIES)
def test_gradient_of_other_geometries(what):
    name, fields, shapes = GEOMETRIES[what]
    model, random = registry.cases()[name], np.random.default_rng(5)
    config = model.config(Fields(fields), {})
    weights = {key: random.standard_normal(shape) / max(1, np.prod(shape[1:])) ** 0.5
               for key, shape in model.shapes(config).items()}
    weights |= {key: np.abs(array) + 0.5 for key, array in weights.items() if key.endswith("running_var")}
    inputs = {key: shape if isinstance(shape, np.ndarray) else random.standard_normal(shape)
              for key, shape in shapes.items()}
    check_gradient(model, config, weights, inputs, {"loss": np.ones(())})


@pytest.mark.parametrize("name, op, wrong, first", [
    ("oscar", ops.gelu, activations.gelu_tanh, "y/hidden1"),
])
def test_a_wrong_op_is_named_by_the_first_tensor_that_differs(name, op, wrong, first):
    with swapped({op: wrong}):
        assert components.verify(FOLDER, name).first_failure.name == first


@pytest.mark.parametrize("name, changed, sentence", [
    ("oscar", {"img_feature_type": "dis_code"}, "img_feature_type is 'dis_code', not one of faster_r-cnn, frcnn"),
    ("oscar", {"num_attention_heads": 4}, "num_attention_heads is 4, not a divisor of hidden_size 6"),
])
def test_a_geometry_that_cannot_be_is_refused(name, changed, sentence):
    fields = next(fields for case, fields, _ in GEOMETRIES.values() if case == name)
    with pytest.raises(UserError, match=sentence):
        registry.cases()[name].config(Fields(fields | changed), {})


def records_of(name, inputs, weights, config):
    with recording() as records:
        y, _ = registry.cases()[name].run(inputs, Params(weights), config)
    return records | y


# --------------------------------------------------------------------------------------------------------------- OSCAR

def test_regions_have_no_order_and_no_type():
    """Another order of the regions changes nothing of the words; hidden regions are not seen at all."""
    _, config, weights, x, _ = component("oscar")
    T, mask = x["input_ids"].shape[1], x["attention_mask"] != 0
    before = records_of("oscar", x, weights, config)
    order = np.array([3, 0, 4, 1, 2])
    turned = records_of("oscar", x | {"img_feats": x["img_feats"][:, order], "attention_mask": np.concatenate(
        [mask[:, :T], mask[:, T:][:, order]], 1)}, weights, config)
    np.testing.assert_allclose(before["hidden2"][:, :T], turned["hidden2"][:, :T], atol=1e-12)
    hidden = np.where(mask[:, T:, None], x["img_feats"], 7.0)
    after = records_of("oscar", x | {"img_feats": hidden}, weights, config)
    np.testing.assert_array_equal(before["hidden2"][mask], after["hidden2"][mask])


def test_a_region_s_box_is_in_shares_of_the_picture():
    features = np.ones((2, 3), np.float32)
    seen = oscar.regions(features, np.array([[10, 20, 30, 60], [0, 0, 100, 80]]), (80, 100))
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen[:, 3:], [[0.1, 0.25, 0.3, 0.75, 0.2, 0.5], [0, 0, 1, 1, 1, 1]], rtol=1e-6)
