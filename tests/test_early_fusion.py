"""OSCAR, Pixel-BERT and SOHO: other geometries than the golden ones, bugs that must show, what may not be seen."""
import numpy as np
import pytest
from small_relatives import small_case
from test_relatives import FOLDER, check_gradient, component

from tinycogvlm.errors import UserError
from tinycogvlm.nn import activations, ops
from tinycogvlm.nn.convolution import average_pool, max_pool
from tinycogvlm.nn.swap import swapped
from tinycogvlm.nn.trace import recording
from tinycogvlm.nn.tree import Params
from tinycogvlm.relatives import oscar, pixel_bert, registry, soho
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
    "a Pixel-BERT of three blocks, odd sizes, one without a convolution beside it": ("pixel_bert", BERT | {
        "stem": [4, 4, 6, 6], "strides": [1, 2, 1]}, {
        "input_ids": np.array([[1, 4, 2, 0], [1, 3, 8, 2]]), "attention_mask": np.array([[1, 1, 1, 0], [1, 1, 1, 1]]),
        "image": (2, 3, 21, 26), "pixel_choice": np.array([[0, 3, 4], [1, 2, 5]]),
        "mlm_labels": np.array([[-100, 5, -100, -100], [-100, -100, 3, 1]]), "itm_labels": np.array([0, 1])}),
}


@pytest.mark.parametrize("what", GEOMETRIES)
def test_gradient_of_other_geometries(what):
    name, fields, shapes = GEOMETRIES[what]
    model, config, weights, inputs, _ = small_case(name, fields, shapes)
    check_gradient(model, config, weights, inputs, {"loss": np.ones(())})


def updated_backwards(x, chosen, vq, decay):
    return soho.updated.own(x, chosen, vq, 1 - decay)


def new_choice(x, codes, chosen):
    """The output has the codes nearest after the update"""
    return soho.way.own(x, codes, soho.nearest(x, codes))


@pytest.mark.parametrize("name, op, wrong, first", [
    ("oscar", ops.gelu, activations.gelu_tanh, "y/hidden1"),
    ("pixel_bert", max_pool, lambda x, size: average_pool(x, size), "y/pixels"),
    ("pixel_bert", activations.relu, ops.silu, "y/feature_map"),
    ("soho_dictionary", soho.updated, updated_backwards, "y/plain/train/tokens"),
    ("soho_dictionary", soho.way, new_choice, "y/plain/train/tokens"),
    ("soho_dictionary", max_pool, lambda x, size: average_pool(x, size), "y/plain/eval/tokens"),
])
def test_a_wrong_op_is_named_by_the_first_tensor_that_differs(name, op, wrong, first):
    with swapped({op: wrong}):
        assert components.verify(FOLDER, name).first_failure.name == first


@pytest.mark.parametrize("name, changed, sentence", [
    ("oscar", {"img_feature_type": "dis_code"}, "img_feature_type is 'dis_code', not one of faster_r-cnn, frcnn"),
    ("oscar", {"num_attention_heads": 4}, "num_attention_heads is 4, not a divisor of hidden_size 6"),
    ("pixel_bert", {"strides": [1, 2]}, "stem is .4, 4, 6, 6., not 3 numbers, one more than strides has"),
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


# ---------------------------------------------------------------------------------------------------------- Pixel-BERT

def test_pixels_have_no_order_and_unchosen_ones_are_not_seen():
    _, config, weights, x, _ = component("pixel_bert")
    p, ids, mask = Params(weights), x["input_ids"], x["attention_mask"] != 0
    T, choice = ids.shape[1], x["pixel_choice"]
    whole, _ = pixel_bert.encode(ids, mask, x["image"], choice, p, config)
    turned, _ = pixel_bert.encode(ids, mask, x["image"], choice[:, ::-1], p, config)
    np.testing.assert_allclose(whole[:, :T], turned[:, :T], atol=1e-12)
    everything, _ = pixel_bert.encode(ids, mask, x["image"], None, p, config)
    each = np.broadcast_to(np.arange(30), (2, 30))
    np.testing.assert_array_equal(everything, pixel_bert.encode(ids, mask, x["image"], each, p, config)[0])
    assert everything.shape[1] == T + 30 and np.abs(everything[:, :T] - whole[:, :T]).max() > 1e-3


def test_gradient_with_all_pixels():
    _, config, weights, x, _ = component("pixel_bert")

    def run(some, p, config):
        y, pull = pixel_bert.pretraining(x["input_ids"], x["attention_mask"] != 0, some["image"], None, x["mlm_labels"],
                                         x["itm_labels"], p, config)
        return y, lambda dy, g: {"image": pull(dy["loss"], g)}
    check_gradient(registry.Case(None, None, run, ("*.running_*",)), config, weights, {"image": x["image"]},
                   {"loss": np.ones(())})


def test_pixels_are_drawn_without_repetition_and_in_order():
    choice = pixel_bert.sampled(50, 9, 4, np.random.default_rng(0))
    assert choice.shape == (50, 4) and (np.diff(choice, axis=1) > 0).all()
    assert set(choice.ravel()) == set(range(9))
    np.testing.assert_array_equal(pixel_bert.sampled(2, 3, 100, np.random.default_rng(0)), [[0, 1, 2]] * 2)


def test_matching_loss_by_its_definition_and_far_out():
    z, labels = np.array([0.3, -2.0, 1.5]), np.array([1, 0, 0])
    chance = 1 / (1 + np.exp(-z))
    wanted = -np.log(np.where(labels == 1, chance, 1 - chance)).mean()
    assert pixel_bert.matching_loss(z, labels)[0] == pytest.approx(wanted, rel=1e-12)
    assert pixel_bert.matching_loss(np.array([-1e4]), np.array([1]))[0] == 1e4


# ---------------------------------------------------------------------------------------------------------------- SOHO

def test_the_dictionary_moves_to_the_mean_of_what_chose_it():
    """A decay of 0 forgets all that was: each code is the mean of its pixels, and one that nothing chose is 0."""
    _, (configs, *_), weights, _, _ = component("soho_dictionary")
    random = np.random.default_rng(0)
    rows, vq = random.standard_normal((40, configs["plain"].width)), Params(weights).plain.vq
    chosen = soho.nearest(rows, vq.embed)
    distances = ((rows[:, None] - vq.embed) ** 2).sum(-1)
    np.testing.assert_array_equal(chosen, distances.argmin(1))
    after = soho.updated(rows, chosen, vq, 0.0)
    for code in range(len(vq.embed)):
        mine = rows[chosen == code]
        np.testing.assert_allclose(after["embed"][code], mine.mean(0) if len(mine) else 0, atol=1e-4)
    assert after["cluster_size"].sum() == 40


def test_a_code_is_masked_wherever_it_occurs_but_not_in_padding():
    chosen = np.array([[[1, 2, 1], [3, 1, 1]]] * 3)
    seen = np.ones((3, 2, 3), bool)
    seen[:, :, 2] = False                                   # the last column is padding
    labels = soho.to_tell(chosen, seen, 4, np.array([1, 0, 1]))
    np.testing.assert_array_equal(labels[0], [[1, -100, -100], [-100, 1, -100]])
    assert (labels[1] == -100).all()
    assert (soho.to_tell(chosen, seen, 5, np.ones(3)) == -100).all()                # drawn in the padding
    loss, _, pull = soho.masked_visual_loss(np.ones((1, 2, 4)), np.full((1, 2), -100), np.ones((3, 4)))
    assert loss == 0 and not pull(1.0).any()


def test_positions_reach_2_pi_whatever_the_size():
    seen = np.zeros((2, 4, 6), bool)
    seen[0], seen[1, :2, :3] = True, True
    table = soho.sines(seen, 8, np.zeros(1))
    for b, (row, column) in enumerate([(3, 5), (1, 2)]):
        end = 2 * np.pi / (1 + 1e-6 / (row + 1))
        assert table[b, row, column, 0] == pytest.approx(np.sin(end), abs=1e-6)
        assert table[b, row, column, 5] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(table[0, 1, 1], table[1, 0, 0], atol=1e-5)    # 2nd of 4 rows = 1st of 2


def test_padding_is_where_a_pixel_s_corner_is():
    np.testing.assert_array_equal(soho.visible([(44, 40), (60, 1)], (60, 60), (4, 3), np),
                                  [[[1, 1, 0]] * 3 + [[0, 0, 0]], [[1, 0, 0]] * 4])
