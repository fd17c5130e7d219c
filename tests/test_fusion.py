"""The earlier ways to join a picture and a text: other geometries than the golden ones, and bugs that must show."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_relatives import check_real_names, lay_out, small_case
from test_relatives import FOLDER, HELD, TRUE, check_gradient, component

import tinycogvlm
from tinycogvlm.errors import UserError
from tinycogvlm.nn import activations, more_ops, ops
from tinycogvlm.nn.swap import swapped
from tinycogvlm.nn.trace import recording
from tinycogvlm.nn.tree import Params
from tinycogvlm.relatives import albef, bert, blip, coca, masks, positions, simvlm, two_streams, vilt
from tinycogvlm.relatives.fields import Fields
from tinycogvlm.verify import components

COCA = {"embed_dim": 8, "vision_cfg": {"image_size": 6, "layers": 1, "width": 8, "head_width": 4, "patch_size": 3,
                                       "attn_pooler_queries": 3, "attn_pooler_heads": 2},
        "text_cfg": {"context_length": 6, "vocab_size": 9, "width": 8, "heads": 2, "layers": 1},
        "multimodal_cfg": {"heads": 4, "layers": 1}, "correct_cls_mask": True, "clip_loss_weight": 0.5}
TEXT = np.array([[7, 3, 4, 8, 0], [7, 5, 8, 0, 0]])
BLIP = {"vision": {"hidden_size": 6, "intermediate_size": 7, "num_hidden_layers": 1, "num_attention_heads": 3,
                   "image_size": 6, "patch_size": 3},
        "text": {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 5, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "max_position_embeddings": 6}, "image_text_hidden_size": 5}
VILT = {"hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 3,
        "image_size": 6, "vocab_size": 9, "max_position_embeddings": 6, "modality_type_vocab_size": 3}
LXMERT = {"hidden_size": 6, "num_attention_heads": 3, "intermediate_size": 7, "l_layers": 1, "x_layers": 2,
          "r_layers": 2, "visual_feat_dim": 5, "vocab_size": 9, "max_position_embeddings": 7, "num_object_labels": 4,
          "num_attr_labels": 3, "num_qa_labels": 2}
REGIONS = {"input_ids": np.array([[7, 3, 4, 8, 0], [7, 5, 8, 0, 0]]), "token_type_ids": np.zeros((2, 5), int),
           "attention_mask": np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]), "visual_feats": (2, 4, 5),
           "visual_pos": (2, 4, 4), "visual_attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
           "lm_labels": np.array([[-100, 3, -100, -100, -100], [-100, -100, 8, -100, -100]]),
           "matched_label": np.array([0, 1]), "answer": np.array([-100, 1]),
           "obj_labels": np.array([[0, 1, 2, 3], [3, 3, 0, 0]]), "obj_conf": np.array([[0.5, 1, 0, 0.2], [0.3] * 4]),
           "feat_target": np.arange(40).reshape(2, 4, 5) / 20, "feat_mask": np.array([[1, 0, 0, 1], [0, 1, 0, 0]])}
VILBERT = {"hidden_size": 6, "num_attention_heads": 3, "intermediate_size": 7, "num_hidden_layers": 3, "vocab_size": 9,
           "max_position_embeddings": 7, "v_feature_size": 5, "v_target_size": 3, "v_hidden_size": 8,
           "v_num_hidden_layers": 3, "v_num_attention_heads": 2, "v_intermediate_size": 5, "bi_hidden_size": 12,
           "bi_num_attention_heads": 4, "v_biattention_id": [1, 2], "t_biattention_id": [1, 2]}
ALBEF = {"image_res": 6, "patch": 3, "vision_width": 6, "vision_depth": 1, "vision_heads": 3, "hidden_size": 8,
         "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 5, "vocab_size": 9, "mlp_ratio": 2,
         "max_position_embeddings": 6, "embed_dim": 4, "queue_size": 3, "momentum": 0.7, "alpha": 0.9}
SEEN = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
GEOMETRIES = {
    "a CoCa of one width, CLS sees no padding": ("coca", COCA, {"image": (2, 3, 6, 6), "text": TEXT}),
    "a CoCa with poolers side by side": (
        "coca", COCA | {"vision_cfg": COCA["vision_cfg"] | {"attentional_pool": "parallel", "width": 4}},
        {"image": (2, 3, 6, 6), "text": TEXT}),
    "a CoCa with one pooler after the other": (
        "coca", COCA | {"vision_cfg": COCA["vision_cfg"] | {"attentional_pool": "cascade"}},
        {"image": (2, 3, 6, 6), "text": TEXT}),
    "a BLIP's captioner, a picture that is not square, plain labels": (
        "blip", BLIP, {"pixel_values": (2, 3, 9, 14), "input_ids": TEXT, "attention_mask": SEEN,
                       "labels": np.where(SEEN, TEXT, -100) * [[0, 1, 1, 1, 1]] - [[100, 0, 0, 0, 0]]}),
    "a BLIP that matches pictures that are not square": (
        "blip_retrieval", BLIP, {"pixel_values": (2, 3, 12, 5), "input_ids": TEXT, "itm_input_ids": TEXT,
                                 "attention_mask": SEEN, "neg_image_idx": np.array([1, 0]),
                                 "neg_text_idx": np.array([1, 0])}),
    "an LXMERT that predicts no attributes": (
        "lxmert", LXMERT | {"visual_attr_loss": False, "visual_loss_normalizer": 1 / 0.15}, REGIONS),
    "a ViLBERT whose words gate the regions, a sum, no task": (
        "vilbert", VILBERT | {"dynamic_attention": True, "fusion_method": "sum"},
        {name: REGIONS[name] for name in ("input_ids", "token_type_ids", "attention_mask")} | {
            "lm_labels": np.maximum(REGIONS["lm_labels"], -1), "image_feat": (2, 4, 5), "image_loc": (2, 4, 5),
            "image_attention_mask": REGIONS["visual_attention_mask"], "next_sentence_label": np.array([1, 0]),
            "image_label": np.array([[1, -1, 1], [-1, 1, -1]]),
            "image_target": np.full((2, 3, 3), 0.25) + np.array([0.25, 0, 0])}),
    "an ALBEF whose text is all fused, its queues ending within the batch": (
        "albef", ALBEF | {"fusion_layer": 0}, {
            "image": (2, 3, 6, 6), "input_ids": TEXT, "attention_mask": REGIONS["attention_mask"],
            "mlm_input_ids": TEXT[::-1], "mlm_labels": REGIONS["lm_labels"], "neg_image_idx": np.array([1, 0]),
            "neg_text_idx": np.array([1, 0])}),
    "a SimVLM whose picture is not square": (
        "simvlm", {"stem": [2, 3], "strides": [1, 2], "grid": [2, 3], "hidden_size": 8, "heads": 2, "mlp": 5,
                   "encoder_layers": 1, "decoder_layers": 2, "vocab_size": 9, "max_text": 6, "bos": 2},
        {"image": (2, 3, 8, 12), "text": TEXT, "text_len": np.array([4, 3]), "prefix_len": np.array([0, 2])}),
    "a ViLT that keeps four patches of a picture": (
        "vilt", VILT | {"max_image_length": 4},
        {"pixel_values": (2, 3, 6, 9), "pixel_mask": np.ones((2, 6, 9), int) * np.array([1, 0])[:, None, None] + (
            np.array([0, 1])[:, None, None] * (np.arange(9) < 3)), "input_ids": TEXT, "attention_mask": SEEN,
         "mlm_labels": np.array([[-100, 3, -100, -100, -100], [-100, -100, 8, -100, -100]]),
         "itm_labels": np.array([0, 1]), "pick0": np.array([5, 0, 2, 3]), "pick1": np.array([1, 3])}),
}


@pytest.mark.parametrize("what", GEOMETRIES)
def test_gradient_of_other_geometries(what):
    name, fields, shapes = GEOMETRIES[what]
    model, config, weights, inputs, _ = small_case(name, fields, shapes)
    weights |= {key: value for key, value in (("temp", np.array(0.3)), ("queue_ptr", np.array([2]))) if key in weights}
    with swapped(TRUE.get(name, {})):
        check_gradient(model, config, weights, inputs, {"loss": np.ones(())}, HELD.get(name, ()))


# -------------------------------------------------------------------------------------------------------------- masks

def test_masks_are_what_their_rules_say():
    ids, x, o = np.array([[5, 6, 7, 0, 0]]), True, False
    np.testing.assert_array_equal(masks.pad_mask(ids), [[x, x, x, o, o]])
    np.testing.assert_array_equal(masks.pad_mask(ids, 7), [[x, x, o, x, x]])
    np.testing.assert_array_equal(masks.causal_mask(3, np)[0, 0], [[x, o, o], [x, x, o], [x, x, x]])
    np.testing.assert_array_equal(masks.cls_mask(ids), [[x, x, x, o, o, x]])
    np.testing.assert_array_equal(masks.cls_mask(ids, shifted=True), [[x, x, x, x, o, o]])
    seen = masks.prefix_mask(np.array([0, 2, 4]), 4)
    assert seen.shape == (3, 1, 4, 4)
    np.testing.assert_array_equal(seen[0, 0], masks.causal_mask(4, np)[0, 0])
    np.testing.assert_array_equal(seen[1, 0], [[x, x, o, o], [x, x, o, o], [x, x, x, o], [x, x, x, x]])
    assert seen[2].all()


# ------------------------------------------------------------------------------------------------ bugs that must show

def upright(ids, pad=0, shifted=False):
    return masks.cls_mask.own(ids, pad, False)


def blind(x, p, config, mask=None, image=None, causal=False, i=0):
    y, pull = bert.block.own(x, p, config, mask, None, causal, i)
    return y, lambda dy, g: (pull(dy, g)[0], 0 if image is None else np.zeros_like(image))


def looking_ahead(x, context, p, config, mask=None, past=None, causal=False):
    return bert.attention.own(x, context, p, config, mask, past)


def one_after_the_other(t, r, text_mask, region_mask, p, config):
    """Both look at words that have already looked at the regions"""
    shared = replace(config, inner="att")
    a, _, _ = bert.attention(t, r, p.visual_attention, shared, region_mask)
    return two_streams.cross_layer.own(a, r, text_mask, region_mask, p, config)


def unmasked(ids, p, config, mask):
    return albef.text_tokens.own(ids, p, config, mask | True)


def one_block_too_few(x, image, p, config, mask):
    return albef.fused.own(x, image, p, replace(config, fusion=config.fusion + 1), mask)


def the_other_way(table, grid, length):
    return simvlm.relative_bias.own(table[:, ::-1, ::-1], grid, length)


def without_prefix(prefix, length):
    return masks.prefix_mask.own(0 * prefix, length)


def text_first(config):
    return sorted(two_streams.order.own(config), key=lambda step: step[0] != "text")


def all_may_be_drawn(similarity, even=0):
    return ops.softmax(similarity)[0] + even


@pytest.mark.parametrize("name, op, wrong, first", [
    ("coca", masks.cls_mask, upright, "y/text_mask"),
    ("blip", ops.gelu, activations.quick_gelu, "y/image_hidden1"),
    ("blip", bert.block, blind, "y/text_hidden1"),
    ("blip", bert.attention, looking_ahead, "y/text_self0"),
    ("blip", more_ops.smooth_cross_entropy, lambda z, labels, smoothing: ops.cross_entropy(z, labels), "y/loss"),
    ("albef", albef.text_tokens, unmasked, "y/text_embeds"),
    ("albef", albef.fused, one_block_too_few, "y/fusion_pos"),
    ("lxmert", two_streams.cross_layer, one_after_the_other, "y/x0_cross_lang"),
    ("lxmert", two_streams.untrained_first, lambda gradient: gradient,
     "g/lxmert.embeddings.position_embeddings.weight"),
    ("simvlm", simvlm.relative_bias, the_other_way, "y/encoder0"),
    ("simvlm", masks.prefix_mask, without_prefix, "y/prefix_mask"),
    ("vilbert", activations.relu, activations.tanh, "y/pooled_text"),
    ("vilbert", two_streams.order, text_first, "y/text_layer2"),
    ("vilt", activations.tanh, activations.logistic, "y/pooled"),
    ("vilt", vilt.ipot, lambda cost, seen: seen.swapaxes(1, 2) / seen.sum((1, 2), keepdims=True), "y/ot_plan"),
    ("blip_retrieval", bert.block, blind, "y/itm_hidden"),
    ("blip_retrieval", blip.negatives, all_may_be_drawn, "y/weights_i2t"),
])
def test_a_wrong_op_is_named_by_the_first_tensor_that_differs(name, op, wrong, first):
    with swapped({op: wrong}):
        assert components.verify(FOLDER, name).first_failure.name == first


# --------------------------------------------------------------------------------------------------------------- CoCa

def test_in_a_coca_no_word_sees_cls_and_no_caption_the_words_after_it():
    _, config, weights, inputs, _ = component("coca")
    p, ids = Params(weights), inputs["text"]
    feature, words, _ = coca.text_features(ids, p.text, config)
    other = Params(weights | {"text.cls_emb": weights["text.cls_emb"][::-1]})
    moved, same, _ = coca.text_features(ids, other.text, config)
    np.testing.assert_array_equal(words, same)
    assert np.abs(moved - feature).max() > 1e-3
    _, image, _ = coca.image_features(inputs["image"], p, config)
    logits, _ = coca.decode(words, image, p.text_decoder, config)
    changed = ids.copy()
    changed[:, 4] = 9
    words, _ = coca.text_features(changed, p.text, config)[1:]
    np.testing.assert_allclose(coca.decode(words, image, p.text_decoder, config)[0][:, :4], logits[:, :4], atol=1e-13)


@pytest.mark.parametrize("patch, width, layers, words, millions", [
    (32, 768, 12, 512, 253.56), (14, 1024, 24, 768, 638.45)])
def test_a_real_coca_has_as_many_parameters_as_open_clip_states(patch, width, layers, words, millions):
    """coca_ViT-B-32 and coca_ViT-L-14, of LAION."""
    text = {"context_length": 76, "width": words, "heads": words // 64, "layers": 12}
    config = coca.open_clip(Fields({
        "embed_dim": words, "vision_cfg": {"width": width, "layers": layers, "patch_size": patch, "image_size": 224},
        "text_cfg": text, "multimodal_cfg": text}))
    assert sum(np.prod(shape) for shape in coca.shapes(config).values()) / 1e6 == pytest.approx(millions, abs=0.005)


# --------------------------------------------------------------------------------------------------------------- BLIP

def test_positions_for_a_picture_that_is_not_square():
    """The square's rows and columns, each resampled by itself; corners stay corners where they are aligned."""
    table = np.random.default_rng(0).standard_normal((16, 3))
    square = ops.interpolate_positions(np.concatenate([table[:1], table]), 7)[0][1:]
    y = positions.resampled(table, *positions.bicubic(4, (7, 7)))[0]
    np.testing.assert_allclose(y, square, atol=1e-14)
    turned = table.reshape(4, 4, 3).swapaxes(0, 1).reshape(16, 3)
    tall, wide = (positions.resampled(some, *positions.bicubic(4, grid))[0].reshape(*grid, 3)
                  for some, grid in ((table, (7, 3)), (turned, (3, 7))))
    np.testing.assert_allclose(tall, wide.swapaxes(0, 1), atol=1e-14)
    rows = positions.resampled(table, *positions.bicubic(4, (7, 4)))[0]
    np.testing.assert_allclose(rows.reshape(7, 4, 3), np.einsum("ik,kld->ild", ops.bicubic_matrix(4, 7),
                                                                table.reshape(4, 4, 3)), atol=1e-14)
    places = np.add.outer(10.0 * np.arange(6), np.arange(6)).reshape(36, 1)
    y = positions.resampled(places, *positions.corners_aligned(6, (11, 3)))[0].reshape(11, 3)
    np.testing.assert_allclose(y, np.add.outer(5 * np.arange(11), [0, 2.5, 5]), atol=1e-12)
    y = positions.resampled(places, *positions.corners_aligned(6, (1, 6)))[0]
    np.testing.assert_allclose(y[:, 0], np.arange(6), atol=1e-12)


def test_the_draw_of_negatives_is_what_the_paper_says():
    s = np.array([[2.0, 0.5, 1.0], [0.0, 1.0, 3.0], [1.0, 1.0, 1.0]])
    weights = blip.negatives(s)
    for i in range(3):
        for j in range(3):
            wanted = 0 if i == j else np.exp(s[i, j]) / np.exp(s[i]).sum() + 1e-4
            assert weights[i, j] == pytest.approx(wanted, rel=1e-12)


def test_a_caption_ends_where_all_have_ended_and_a_batch_is_many_singles():
    _, config, weights, inputs, _ = component("blip")
    p, ids = Params(weights), inputs["input_ids"][:, :3]
    image, _ = blip.image_tokens(inputs["pixel_values"], p, config)
    whole = blip.caption(ids, image, p, config, 4)
    assert (whole[:2, 3] == whole[0, 3]).all()
    np.testing.assert_array_equal(blip.caption(ids[:2], image[:2], p, config, 4, end=whole[0, 3]), whole[:2, :4])
    alone = [blip.caption(ids[i:i + 1], image[i:i + 1], p, config, 4)[0] for i in range(4)]
    np.testing.assert_array_equal(whole, alone)


# -------------------------------------------------------------------------------------------------------------- ALBEF

def test_the_queue_is_written_around_its_end():
    queue, pointer = albef.enqueued(np.zeros((1, 5)), np.array([[1.0], [2], [3]]), 3)
    assert queue.tolist() == [[3, 0, 0, 1, 2]] and pointer == 1


def test_albef_believes_its_teacher_as_far_as_alpha_and_the_teacher_follows():
    """alpha 0: targets are one-hot and masked words are plain cross entropy; momentum 0: the teacher is the student."""
    _, config, weights, x, _ = component("albef")
    inputs = (x["image"], x["input_ids"], x["attention_mask"] != 0, x["mlm_input_ids"], x["mlm_labels"],
              x["neg_image_idx"], x["neg_text_idx"])
    with recording() as records:
        y, stored, _ = albef.step(*inputs, Params(weights), replace(config, alpha=0.0, momentum=0.0))
    np.testing.assert_array_equal(records["targets_i2t"], np.eye(3, 12))
    np.testing.assert_allclose(records["image_feat_m"], records["image_feat"], atol=1e-14)
    np.testing.assert_allclose(records["mlm_logits_m"], records["mlm_logits"], atol=1e-13)
    plain = ops.cross_entropy(records["mlm_logits"].reshape(-1, 37), x["mlm_labels"].reshape(-1))[0]
    assert y["loss_mlm"] == pytest.approx(plain, rel=1e-13)
    for name, array in stored.items():
        if "." in name:
            np.testing.assert_array_equal(array, weights[name.replace("_m.", ".", 1)])
    y, stored, _ = albef.step(*inputs, Params(weights), replace(config, momentum=1.0))
    assert all((array == weights[name]).all() for name, array in stored.items() if "." in name)


# ------------------------------------------------------------------------------------------------------------ ViLBERT

def test_the_order_of_the_real_vilbert_s_layers():
    """Six layers of words, then a connection and a layer of each, six times; regions have none before the first."""
    config = two_streams.vilbert_of(Fields({
        "v_hidden_size": 1024, "v_intermediate_size": 1024, "v_num_hidden_layers": 6, "v_num_attention_heads": 8,
        "v_biattention_id": [*range(6)], "t_biattention_id": [*range(6, 12)]}))
    steps = [("text", i) for i in range(6)] + [("connect", 0)]
    for i in range(1, 6):
        steps += [("text", 5 + i), ("image", i - 1), ("connect", i)]
    assert two_streams.order(config) == steps + [("image", 5), ("text", 11)]
    body = sum(np.prod(shape) for name, shape in two_streams.vilbert_shapes(config).items() if name.startswith("bert."))
    assert body / 1e6 == pytest.approx(247, abs=0.5)


@pytest.mark.parametrize("changed, sentence", [
    ({"v_biattention_id": [1]}, "t_biattention_id is"), ({"t_biattention_id": [2, 1]}, "t_biattention_id is"),
    ({"visual_target": 1}, "visual_target is 1"), ({"fusion_method": "max"}, "fusion_method is 'max'"),
    ({"bi_num_attention_heads": 5}, "not a divisor of bi_hidden_size 12"),
    ({"v_num_attention_heads": 3}, "v_num_attention_heads is 3")])
def test_a_wrong_field_of_a_vilbert_is_named(changed, sentence):
    with pytest.raises(UserError, match=sentence):
        two_streams.vilbert_of(Fields(VILBERT | changed))


# ------------------------------------------------------------------------------------------------------------- SimVLM

def test_a_text_is_cut_where_the_golden_case_has_it():
    _, config, _, x, _ = component("simvlm")
    found = simvlm.split(x["text"], x["text_len"], x["prefix_len"], config.bos)
    for array, name in zip(found, ("encoder_ids", "decoder_ids", "decoder_positions", "labels")):
        np.testing.assert_array_equal(array, x[name], err_msg=name)
    _, counted = simvlm.one_stack(x["text_len"], x["prefix_len"], config.patches, x["text"].shape[1])
    assert counted.sum() == (x["labels"] != -100).sum()                         # both forms learn the same words


def test_a_written_word_sees_the_whole_prefix_and_no_later_word():
    _, config, weights, x, _ = component("simvlm")
    p, (lengths, prefixes) = Params(weights), (np.array([11]), np.array([3]))

    def logits(text, pixels=x["image"][:1]):
        with recording() as records:
            simvlm.loss(pixels, text, lengths, prefixes, p, config)
        return records["logits"][0]
    text = x["text"][:1]
    before = logits(text)
    for place, first in ((0, 0), (2, 0), (5, 3), (9, 7)):                       # row 3 reads word 5: it writes word 6
        changed = text.copy()
        changed[0, place] = 7
        apart = np.abs(logits(changed) - before).max(1) > 1e-12
        assert apart.tolist() == [row >= first for row in range(8)], place
    assert (np.abs(logits(text, x["image"][1:2]) - before).max(1) > 1e-6).all()


# --------------------------------------------------------------------------------------------------------------- ViLT

def test_the_plan_carries_all_words_to_all_patches_as_cheaply_as_can_be():
    """Rows and columns have the sums they should have; of two words and two patches the cheap pairs are chosen."""
    random = np.random.default_rng(0)
    cost, words, patches = random.random((2, 4, 5)), np.arange(4) < [[4], [3]], np.arange(5) < [[5], [2]]
    seen = words[:, :, None] & patches[:, None]
    plan = vilt.ipot(cost, seen)
    for b, (m, n) in enumerate(((4, 5), (3, 2))):
        np.testing.assert_allclose(plan[b].sum(0), words[b] / m, atol=1e-12)
        np.testing.assert_allclose(plan[b].sum(1), patches[b] / n, atol=0.02)               # one rescaling a round
        alone = vilt.ipot(cost[b:b + 1, :m, :n], np.ones((1, m, n), bool))
        np.testing.assert_allclose(plan[b, :n, :m], alone[0], atol=1e-14)
    cheap = vilt.ipot(np.array([[[0.0, 1.0], [1.0, 0.0]]]), np.ones((1, 2, 2), bool), rounds=200)
    np.testing.assert_allclose(cheap[0], [[0.5, 0], [0, 0.5]], atol=1e-12)


def test_a_picture_beside_larger_ones_is_the_same_as_alone():
    _, config, weights, inputs, _ = component("vilt")
    p, ids = Params(weights).vilt, inputs["input_ids"]
    picks = [np.arange(15), np.array([3, 1, 1, 0, 11, 5, 2])]

    def states(rows, crop=None, T=8, picks=None):
        pixels, pixel_mask = inputs["pixel_values"][rows, :, :, :crop], inputs["pixel_mask"][rows, :, :crop]
        words, mask = ids[rows, :T], inputs["attention_mask"][rows, :T] != 0
        return vilt.states(pixels, words, 0 * words, mask, pixel_mask, p, config, picks)[0]
    both, alone = states(slice(0, 2), picks=picks), states(slice(1, 2), 12, 5)
    np.testing.assert_allclose(both[1, :5], alone[0, :5], atol=1e-13)
    np.testing.assert_allclose(both[1, 8:17], alone[0, 5:], atol=1e-13)


# ------------------------------------------------------------------------------------------------------- real folders

REAL = json.loads((Path(__file__).parent / "golden" / "real_shapes_fusion.json").read_text(encoding="utf-8"))
# config.json of the real folders, as far as it is not the library's default
CONFIGS = {
    "Salesforce/blip-image-captioning-base": {
        "model_type": "blip", "architectures": ["BlipForConditionalGeneration"],
        "text_config": {"num_attention_heads": 12}},
    "Salesforce/blip-itm-base-coco": {
        "model_type": "blip", "architectures": ["BlipForImageTextRetrieval"],
        "text_config": {"num_attention_heads": 12}},
    "unc-nlp/lxmert-base-uncased": {"model_type": "lxmert", "architectures": ["LxmertForPreTraining"]},
    "dandelin/vilt-b32-mlm": {"model_type": "vilt", "architectures": ["ViltForMaskedLM"]},
    "dandelin/vilt-b32-finetuned-coco": {"model_type": "vilt", "architectures": ["ViltForImageAndTextRetrieval"]},
}


@pytest.mark.parametrize("name", REAL)
def test_every_name_and_shape_of_a_real_one(name, tmp_path, capsys):
    check_real_names(tmp_path, CONFIGS[name], REAL[name], capsys)


SMALL = {
    "captioner": {"model_type": "blip", "architectures": ["BlipForConditionalGeneration"],
                  "vision_config": BLIP["vision"], "text_config": BLIP["text"]},
    "matcher": {"model_type": "blip", "architectures": ["BlipForImageTextRetrieval"], "image_text_hidden_size": 5,
                "vision_config": BLIP["vision"], "text_config": BLIP["text"]},
    "masked words": VILT | {"model_type": "vilt", "architectures": ["ViltForMaskedLM"]},
    "lxmert": LXMERT | {"model_type": "lxmert", "architectures": ["LxmertForPreTraining"]},
    "pairs": VILT | {"model_type": "vilt", "architectures": ["ViltForImageAndTextRetrieval"]},
}


@pytest.fixture
def folder(tmp_path):
    """A function that lays out a small checkpoint of one of SMALL: config.json, random weights, and `extra` tensors"""
    return lambda name, *extra: lay_out(tmp_path, SMALL[name], *extra)


PICTURES = [np.random.default_rng(i).integers(0, 256, (10, 20 + i, 3), np.uint8) for i in range(2)]


def test_a_blip_writes_captions_by_its_folder(folder):
    model = tinycogvlm.load(folder("captioner", "text_decoder.bert.embeddings.position_ids",
                                   "text_decoder.cls.predictions.decoder.bias"))
    assert isinstance(model, blip.Captioner)
    pixels, ids = model.pixels(PICTURES), TEXT[:, :2]
    logits = model.logits(ids, pixels)
    assert pixels.shape == (2, 3, 6, 6) and logits.shape == (2, 2, 9) and logits.dtype == np.float32
    whole = model.caption(pixels, ids, limit=1)
    np.testing.assert_array_equal(whole, np.concatenate([ids, logits[:, -1:].argmax(-1)], 1))


def test_a_blip_writes_words(folder):
    where = folder("captioner")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "picture", "of", "fox", "##es"]
    (where / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    fields = json.loads((where / "config.json").read_text(encoding="utf-8"))
    fields["text_config"] |= {"bos_token_id": 2, "sep_token_id": 3}
    (where / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    model = tinycogvlm.load(where)
    written = model.caption(model.pixels(PICTURES), np.array([[2, 4, 5, 6]] * 2), 3)
    said = model.captions(PICTURES, limit=3)
    for row, text in zip(written.tolist(), said, strict=True):
        row = row[1:row.index(3)] if 3 in row else row[1:]
        assert text == " ".join(words[i] for i in row if i > 3).replace(" ##", "") and text.startswith("a picture of")
    (where / "vocab.txt").unlink()
    with pytest.raises(UserError, match="vocab.txt: cannot be read"):
        tinycogvlm.load(where).captions(PICTURES)


def test_a_blip_matches_by_its_folder(folder):
    model = tinycogvlm.load(folder("matcher"))
    assert isinstance(model, blip.Matcher)
    image, text = model.image_features(PICTURES), model.text_features(TEXT)
    assert image.shape == text.shape == (2, 5)
    np.testing.assert_allclose([(image ** 2).sum(1), (text ** 2).sum(1)], 1, rtol=1e-5)
    p = model.match(model.pixels(PICTURES), TEXT)
    shorter = model.match(model.pixels(PICTURES), TEXT[:, :4])                  # without what is all padding
    assert p.shape == (2,) and ((p > 0) & (p < 1)).all()
    np.testing.assert_allclose(p, shorter, rtol=1e-5)


def test_an_lxmert_by_its_folder(folder):
    model = tinycogvlm.load(folder("lxmert", "lxmert.embeddings.position_ids", "cls.predictions.decoder.weight"))
    assert isinstance(model, two_streams.LXMERT)
    features, boxes = (np.random.default_rng(0).random((2, 4, n)).astype(np.float32) for n in (5, 4))
    words, regions = model.states(TEXT, features, boxes)
    assert words.shape == (2, 5, 6) and regions.shape == (2, 4, 6)
    assert model.answer(TEXT, features, boxes).shape == (2, 2)
    other = model.states(TEXT, features[:, ::-1], boxes[:, ::-1])                   # regions have no order
    np.testing.assert_allclose(other[0], words, atol=1e-5)
    np.testing.assert_allclose(other[1], regions[:, ::-1], atol=1e-5)
    p = model.match(TEXT, features, boxes)
    assert p.shape == (2,) and ((p > 0) & (p < 1)).all()


def test_a_vilt_by_its_folder(folder):
    pixels = np.random.default_rng(0).standard_normal((2, 3, 9, 12)).astype(np.float32)
    model = tinycogvlm.load(folder("masked words"))
    logits = model.logits(pixels, TEXT)
    assert isinstance(model, vilt.MaskedWords) and logits.shape == (2, 5, 9) and logits.dtype == np.float32
    model = tinycogvlm.load(folder("pairs"))
    width, height = vilt.sides((20, 10), model.config.image, model.config.patch)
    assert model.pixels(PICTURES[0]).shape == (1, 3, height, width)
    score = model.score(pixels, TEXT)
    assert isinstance(model, vilt.Matcher) and score.shape == (2,)
    np.testing.assert_allclose(score[1:], model.score(pixels[1:], TEXT[1:, :3]), atol=1e-5)


@pytest.mark.parametrize("size, wanted", [((640, 480), (512, 384)), ((480, 640), (384, 512)), ((1000, 300), (608, 192)),
                                          ((224, 224), (384, 384)), ((5000, 100), (608, 32)), ((333, 217), (576, 384))])
def test_a_vilt_s_picture_keeps_its_shape(size, wanted):
    """As transformers' image processor has it, but that no side is 0: (5000, 100) would have no row of patches"""
    assert vilt.sides(size, 384, 32) == wanted
