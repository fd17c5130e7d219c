"""The bridges between encoder and language model: other geometries than the golden ones, and bugs that must show."""
from dataclasses import replace

import numpy as np
import pytest
from small_relatives import drawn, small_case
from test_relatives import FOLDER, check_gradient, component

from tinycogvlm.errors import UserError
from tinycogvlm.nn import activations, more_ops, ops
from tinycogvlm.nn.swap import swapped
from tinycogvlm.nn.trace import recording
from tinycogvlm.nn.tree import Gradients, Params
from tinycogvlm.relatives import bert, connectors, flamingo, llava, qformer, registry
from tinycogvlm.relatives.fields import Fields
from tinycogvlm.verify import components

C = {"encoder_hidden_size": 6, "hidden_size": 8, "output_hidden_size": 5, "depth": 1, "num_query_tokens": 4,
     "num_input_tokens": 25}
D = {"encoder_hidden_size": 6, "d_model": 8, "output_hidden_size": 5, "decoder_layers": 2, "decoder_attention_heads": 2,
     "decoder_n_points": 3, "decoder_ffn_dim": 7, "num_queries": 9, "num_input_tokens": 25}
Q = {"hidden_size": 6, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 7}
TEXTS = {"input_ids": np.array([[1, 4, 5, 2, 0], [1, 3, 2, 0, 0]]),
         "attention_mask": np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]), "neg_image_idx": np.array([1, 0]),
         "neg_text_idx": np.array([1, 0])}
LLAVA = {"vision_config": {"hidden_size": 4, "intermediate_size": 5, "num_hidden_layers": 3, "num_attention_heads": 2,
                           "patch_size": 3, "image_size": 6, "hidden_act": "gelu"},
         "text_config": {"hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "num_key_value_heads": 2, "vocab_size": 10, "rope_theta": 500.0},
         "image_token_index": 9, "vision_feature_layer": -3, "vision_feature_select_strategy": "full"}
GEOMETRIES = {
    "average pools that do not divide the grid": ("avg_pool_connector", {
        "vision": 4, "llm": 3, "grid": [5, 7], "out": [3, 4], "kernel": 2}, {"x": (2, 35, 4)}),
    "pixel shuffle by 3": ("pixel_shuffle", {"grid": 6, "width": 2, "factor": 3, "llm": 4, "rect": [3, 9]},
                           {"x": (2, 36, 2), "rect": (2, 27, 2)}),
    "C-Abstractor, windows overlap": ("c_abstractor", C, {"x": (2, 25, 6)}),
    "C-Abstractor, normalised first, no positions, three linear layers, one width": (
        "c_abstractor", C | {"hidden_size": 6, "prenorm": True, "pos_emb": False, "mlp_depth": 3, "num_eos_tokens": 2},
        {"x": (2, 25, 6)}),
    "C-Abstractor without blocks": ("c_abstractor", C | {"depth": 0}, {"x": (2, 25, 6)}),
    "D-Abstractor that starts from pooled features": ("d_abstractor", D | {
        "pooled_v_target": "tgt", "num_eos_tokens": 2, "activation_function": "gelu"}, {"x": (2, 25, 6)}),
    "D-Abstractor that pools nothing, of one width": ("d_abstractor", D | {
        "pooled_v_target": "none", "pos_emb": False, "encoder_hidden_size": 8, "output_hidden_size": 8},
        {"x": (2, 25, 8)}),
    "LDP v1 on an odd grid": ("ldp_v1", {"mm_hidden_size": 5, "hidden_size": 8, "num_input_tokens": 25},
                              {"x": (2, 25, 5)}),
    "LDP v2, windows overlap": ("ldp_v2", {"mm_hidden_size": 5, "hidden_size": 4, "num_input_tokens": 49, "pooled": 4},
                                {"x": (2, 49, 5)}),
    "a Q-Former that looks in every third block": ("blip2_qformer", Q | {
        "cross_attention_frequency": 3, "encoder_hidden_size": 5, "use_qformer_text_input": True},
        {"query_embeds": (2, 3, 6), "encoder_hidden_states": (2, 4, 5)}),
    "a Q-Former's three losses": ("qformer_pretrain", Q | {
        "cross_attention_freq": 1, "encoder_width": 5, "query_length": 3, "vocab_size": 9, "bos_token_id": 8,
        "max_position_embeddings": 6, "embed_dim": 4, "label_smoothing": 0.3}, TEXTS | {"image_features": (2, 4, 5)}),
    "IDEFICS's resampler with normalised heads": ("perceiver_resampler", {
        "embed_dim": 6, "depth": 2, "n_heads": 2, "head_dim": 4, "n_latents": 3, "qk_layer_norms": True},
        {"context": (2, 5, 6)}),
    "OpenFlamingo's resampler as released, without embeddings": ("flamingo_resampler", {
        "dim": 6, "depth": 1, "dim_head": 3, "heads": 3, "num_latents": 4, "ff_mult": 2}, {"x": (2, 2, 1, 3, 6)}),
    "a gated block, more <image> tokens than pictures": ("flamingo_gated_block", {
        "dim": 6, "dim_visual": 5, "dim_head": 4, "heads": 2},
        {"x": (2, 6, 6), "media": (2, 2, 3, 5), "media_locations": np.array([[0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 0]])}),
    "IDEFICS's gated block with normalised heads": ("gated_cross_attention", {
        "hidden_size": 6, "num_attention_heads": 2, "intermediate_size": 7, "vision_config": {"embed_dim": 5},
        "qk_layer_norms": True},
        {"hidden_states": (2, 3, 6), "image_hidden_states": (2, 4, 5),
         "cross_attention_gate": np.array([[0, 1, 1], [1, 1, 0]]),
         "image_attention_mask": np.where(np.arange(24).reshape(2, 1, 3, 4) % 3, 0, -np.inf)}),
    "a LLaVA with shared keys, padding and CLS": ("llava", LLAVA, {
        "pixel_values": (2, 3, 6, 6), "input_ids": np.array([[1, 9, 9, 9, 9, 9, 4, 3], [1, 2, 9, 9, 9, 9, 9, 0]]),
        "attention_mask": np.array([[1] * 8, [1] * 7 + [0]])}),
}


@pytest.mark.parametrize("what", GEOMETRIES)
def test_gradient_of_other_geometries(what):
    name, fields, shapes = GEOMETRIES[what]
    model, config, weights, inputs, random = small_case(name, fields, shapes)
    outputs, _ = model.run(inputs, Params(weights), config)
    dy = {key: random.standard_normal(np.shape(y)) for key, y in outputs.items()
          if key == "loss" or (np.ndim(y) > 2 and key not in WITHOUT)}
    check_gradient(model, config, weights, inputs, dy)


WITHOUT = "torch_pixel_unshuffle", "internvl_v1_rect", "internvl_v2_rect", "cached"         # compared, no gradient


# ------------------------------------------------------------------------------------------------ bugs that must show

def shuffled_otherwise(x, factor, order="pixel, channel", transposed=False):
    return connectors.pixel_shuffle.own(x, factor, "channel, pixel", transposed)


def corners_aligned(x, points):
    n, m = x.shape[1:3]
    return more_ops.bilinear.own(x, points * (np.array([m - 1, n - 1]) / [m, n]) + 0.5 / np.array([m, n]))


def one_mlp_for_both(x, p, config, *names):
    return bert.feed_forward.own(x, p, config)


def unsmoothed(logits, labels, smoothing):
    return ops.cross_entropy(logits, labels)


def forgetful(x, context, p, config, mask=None, past=None, causal=False):
    if past:
        mask = mask & (np.arange(mask.shape[1]) >= past[0].shape[2])
    return bert.attention.own(x, context, p, config, mask, past, causal)


def all_before(times, media, latents, immediate=True):
    return flamingo.media_mask.own(times, media, latents, False)


def open_gate(x, y, alpha):
    return x + y, lambda dz: (dz, np.zeros_like(alpha))


@pytest.mark.parametrize("name, op, wrong, first", [
    ("pixel_shuffle", connectors.pixel_shuffle, shuffled_otherwise, "y/internvl_v1"),
    ("c_abstractor", activations.logistic, activations.hard_sigmoid, "y/stage1"),
    ("d_abstractor", more_ops.bilinear, corners_aligned, "y/layer0"),
    ("d_abstractor", activations.relu, ops.gelu, "y/layer0"),
    ("ldp_v1", activations.hard_swish, ops.silu, "y/mb_block1"),
    ("ldp_v1", activations.hard_sigmoid, activations.logistic, "y/mb_block1"),
    ("qformer_pretrain", bert.feed_forward, one_mlp_for_both, "y/query_hidden"),
    ("qformer_pretrain", bert.attention, forgetful, "y/lm_hidden"),
    ("qformer_pretrain", more_ops.smooth_cross_entropy, unsmoothed, "y/loss_itc"),
    ("perceiver_resampler", activations.relu, ops.gelu, "y/latents"),
    ("flamingo_gated_block", flamingo.media_mask, all_before, "y/immediate_attn"),
    ("flamingo_gated_block", flamingo.gated, open_gate, "y/immediate"),
    ("llava", ops.gelu, ops.silu, "y/image_features"),
    ("llava", ops.rotary, lambda x, cos, sin: (x, lambda dy: dy), "y/logits"),
])
def test_a_wrong_op_is_named_by_the_first_tensor_that_differs(name, op, wrong, first):
    with swapped({op: wrong}):
        assert components.verify(FOLDER, name).first_failure.name == first


def test_pixel_shuffle_puts_every_channel_where_it_says():
    x, f, (n, m, C) = np.arange(2 * 4 * 6 * 5).reshape(2, 4, 6, 5), 2, (4, 6, 5)
    plain, torch, turned = (connectors.pixel_shuffle(x, f, order, transposed)[0] for order, transposed in (
        ("pixel, channel", False), ("channel, pixel", False), ("pixel, channel", True)))
    for row in range(n):
        for column in range(m):
            (Y, dy), (X, dx) = divmod(row, f), divmod(column, f)
            for c in range(C):
                wanted = x[:, row, column, c]
                assert (plain[:, Y, X, (dy * f + dx) * C + c] == wanted).all()
                assert (torch[:, Y, X, (c * f + dy) * f + dx] == wanted).all()
                assert (turned[:, X, Y, (dy * f + dx) * C + c] == wanted).all()


@pytest.mark.parametrize("name, changed, sentence", [
    ("c_abstractor", {"num_query_tokens": 5}, "num_query_tokens is 5, not a square number"),
    ("d_abstractor", {"num_feature_levels": 2}, "num_feature_levels is 2, not 1"),
    ("d_abstractor", {"pooled_v_target": "both"}, "pooled_v_target is 'both', not one of query, tgt, none"),
    ("d_abstractor", {"decoder_attention_heads": 3}, "decoder_attention_heads is 3, not a divisor of d_model 8"),
    ("pixel_shuffle", {"grid": 5}, "grid is 5, not a multiple of factor 3"),
    ("avg_pool_connector", {"grid": [2, 2, 2]}, "grid is .* not one or two whole numbers"),
    ("blip2_qformer", {"num_attention_heads": 4}, "num_attention_heads is 4, not a divisor of hidden_size 6"),
    ("gated_cross_attention", {"alpha_type": "matrix"}, "alpha_type is 'matrix', not one of float, vector"),
    ("gated_cross_attention", {"num_attention_heads": 5}, "num_attention_heads is 5, not a divisor of hidden_size 6"),
    ("llava", {"vision_feature_layer": -5}, "vision_feature_layer is -5, not a whole number from -4 to 3"),
    ("llava", {"text_config": LLAVA["text_config"] | {"num_attention_heads": 8}}, "a number of which hidden_size 8"),
    ("llava", {"text_config": LLAVA["text_config"] | {"num_key_value_heads": 3}}, "3, not a divisor of num_attention"),
    ("llava", {"text_config": LLAVA["text_config"] | {"rope_scaling": {"type": "linear"}}}, "not None, which is all"),
    ("llava", {"text_config": {"model_type": "mistral"}}, "text_config.model_type is 'mistral', not one of llama"),
])
def test_a_geometry_that_cannot_be_is_refused(name, changed, sentence):
    fields = next(fields for case, fields, _ in GEOMETRIES.values() if case == name)
    with pytest.raises(UserError, match=sentence):
        registry.cases()[name].config(Fields(fields | changed), {})


# ------------------------------------------------------------------------------------------------- who may see what

def seen(inputs, weights, config):
    with recording() as records:
        qformer.pretraining_case(inputs, Params(weights), config)
    return records


def test_each_loss_sees_what_it_may():
    _, config, weights, inputs, _ = component("qformer_pretrain")
    before = seen(inputs, weights, config)
    last = inputs["attention_mask"][0].sum() - 1
    ids = inputs["input_ids"].copy()
    ids[0, last] = (ids[0, last] + 3) % 40 + 2
    word = seen(inputs | {"input_ids": ids}, weights, config)
    same = {name: np.array_equal(before[name], word[name]) for name in before}
    assert same["query/hidden"] and not same["text/hidden"] and not same["itm/hidden"]      # words change no contrast
    np.testing.assert_array_equal(before["lm/logits"][:, :last], word["lm/logits"][:, :last])   # ... nor earlier words
    assert not np.array_equal(before["lm/logits"][0, last], word["lm/logits"][0, last])
    image = inputs["image_features"].copy()
    image[0] += 1 - 2 * np.random.default_rng(0).random(image[0].shape)
    picture = seen(inputs | {"image_features": image}, weights, config)
    assert np.array_equal(before["text/hidden"], picture["text/hidden"])
    assert not np.array_equal(before["lm/logits"][0], picture["lm/logits"][0])              # by way of the queries


def test_padding_changes_nothing():
    _, config, weights, inputs, _ = component("qformer_pretrain")
    mask = inputs["attention_mask"] != 0
    assert not mask.all()
    before = seen(inputs, weights, config)
    table = "Qformer.bert.embeddings.word_embeddings.weight"
    other = weights | {table: weights[table].copy()}
    other[table][config.pad] += 1                           # it is an output embedding, too: logits of id 0 do change
    after = seen(inputs, other, config)
    for name in ("text_feat", "itm/logits"):
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    np.testing.assert_array_equal(before["lm/hidden"][mask], after["lm/hidden"][mask])


def test_gradient_of_stage_2():
    config = qformer.Bridge(qformer.hugging_face(Fields(Q | {"encoder_hidden_size": 5})), 3, 7)
    random = np.random.default_rng(5)
    weights = drawn(qformer.bridge_shapes(config), random)

    def run(x, p, config):
        y, pull = qformer.bridge(x["features"], p, config)
        return {"tokens": y}, lambda dy, g: {"features": pull(dy["tokens"], g)}
    model = registry.Case(None, qformer.bridge_shapes, run)
    check_gradient(model, config, weights, {"features": random.standard_normal((2, 4, 5))},
                   {"tokens": random.standard_normal((2, 3, 7))})


def test_negatives_are_others_and_the_nearer_the_likelier():
    chances = qformer.negatives(np.array([[9.0, 1.0, 2.0], [0.0, 5.0, 0.0], [1.0, 3.0, 0.5]]))
    np.testing.assert_allclose(chances, [[0, 1 / (1 + np.e), np.e / (1 + np.e)], [0.5, 0, 0.5],
                                         [1 / (1 + np.e ** 2), np.e ** 2 / (1 + np.e ** 2), 0]], rtol=1e-12)


# ------------------------------------------------------------------------------------------------------------ Flamingo

def gated_blocks():
    """(the block as x -> y of weights, its weights, its inputs) of both families"""
    _, config, weights, x, _ = component("flamingo_gated_block")
    times = flamingo.text_times(x["media_locations"])
    yield (lambda p: flamingo.block(x["x"], x["media"], times, p.immediate, config)[0]), weights, x["x"]
    _, config, weights, x, _ = component("gated_cross_attention")
    text, images, met = x["hidden_states"], x["image_hidden_states"], x["cross_attention_gate"]
    yield (lambda p: flamingo.idefics_block(text, images, None, met, p.alpha_vector, config)[0]), weights, text


def test_gates_at_0_leave_the_language_model_as_it_was_to_the_bit():
    for block, weights, x in gated_blocks():
        assert not np.array_equal(block(Params(weights)), x)
        shut = {name: np.zeros_like(array) if "gate" in name.split(".")[1] or "alpha" in name.split(".")[1] else array
                for name, array in weights.items()}
        assert np.array_equal(block(Params(shut)), x)


def test_a_token_sees_the_last_picture_before_it():
    times = flamingo.text_times(np.array([[0, 5, 0, 1, 0]]))
    np.testing.assert_array_equal(times, [[0, 1, 1, 2, 2]])
    first, second, none = [True, True, False, False], [False, False, True, True], [False] * 4
    np.testing.assert_array_equal(flamingo.media_mask(times, 2, 2)[0, 0], [none, first, first, second, second])
    np.testing.assert_array_equal(flamingo.media_mask(times, 2, 2, immediate=False)[0, 0],
                                  [none, first, first, [True] * 4, [True] * 4])


def test_a_token_before_all_pictures_gets_nothing_and_another_picture_changes_nothing():
    _, config, weights, x, _ = component("flamingo_gated_block")
    p, random = Params(weights).immediate.attn, np.random.default_rng(0)
    times = np.array([[0, 0, 1, 1, 2, 2, 2, 2, 2]] * 2)

    def attended(media):
        return flamingo.cross_attention(x["x"], media, times, p, config, immediate=True)[0]
    before, other = attended(x["media"]), x["media"].copy()
    assert not before[:, :2].any() and before[:, 2:].any((0, 2)).all()
    other[:, 1] = random.standard_normal(other[:, 1].shape)                     # the second picture is another one
    after = attended(other)
    assert np.array_equal(before[:, :4], after[:, :4]) and (before[:, 4:] != after[:, 4:]).any((0, 2)).all()


# --------------------------------------------------------------------------------------------------------------- LLaVA

def test_the_authors_names_are_the_same_model():
    _, config, weights, x, dy = component("llava")
    theirs = llava.Names("model.vision_tower.vision_tower", ("model.mm_projector.0", "model.mm_projector.2"), "")
    names = {"vision_tower": theirs.tower, "multi_modal_projector.linear_1": theirs.projector[0],
             "multi_modal_projector.linear_2": theirs.projector[1]}
    renamed = {}
    for name, array in weights.items():
        old = next((old for old in names if name.startswith(f"{old}.")), None)
        renamed[names[old] + name[len(old):] if old else name.removeprefix("language_model.")] = array
    ids = np.where(x["input_ids"] == config.image_token, -200, x["input_ids"])
    other = replace(config, names=theirs, image_token=-200)
    assert {name: array.shape for name, array in renamed.items()} == llava.shapes(other)
    y, _ = llava.logits(x["input_ids"], x["pixel_values"], Params(weights), config)
    np.testing.assert_array_equal(y, llava.logits(ids, x["pixel_values"], Params(renamed), other)[0])
    assert y.shape[:2] == ids.shape


def test_rows_with_different_numbers_of_pictures_are_refused():
    config = llava.hugging_face(Fields({"image_token_index": 9}))
    with pytest.raises(UserError, match="the texts have different numbers of pictures; ask them one by one"):
        llava.with_room(np.array([[1, 9, 3], [2, 3, 4]]), config)


def test_one_token_makes_room_for_a_picture():
    _, config, weights, x, _ = component("llava")
    image, P = config.image_token, config.tokens
    ids = np.array([[1, 5, image, 6, 2]])
    longer = llava.with_room(ids, config)
    np.testing.assert_array_equal(longer, [[1, 5, *[image] * P, 6, 2]])
    y, _ = llava.logits(longer, x["pixel_values"], Params(weights), config)
    run, _ = llava.case({"input_ids": ids, "pixel_values": x["pixel_values"]}, Params(weights), config)
    np.testing.assert_array_equal(run["logits"], y)
    with pytest.raises(UserError, match=f"the text has 1 places for pictures' tokens, of which there are {P}"):
        llava.logits(ids, x["pixel_values"], Params(weights), config)


def test_llava_learns_its_answers_alone():
    """The loss by its definition; frozen parts cost nothing and change nothing."""
    _, config, weights, x, _ = component("llava")
    ids, p = x["input_ids"], Params(weights)
    labels = np.where(np.arange(ids.shape[1]) < ids.shape[1] - 3, -100, ids)
    value, pull = llava.loss(ids, x["pixel_values"], labels, p, config)
    z, _ = llava.logits(ids, x["pixel_values"], p, config)
    rows = z[0, -4:-1] - np.log(np.exp(z[0, -4:-1]).sum(-1, keepdims=True))
    assert value == pytest.approx(-rows[np.arange(3), ids[0, -3:]].mean(), rel=1e-12)
    everything, stage1 = Gradients(weights), Gradients(weights, ["vision_tower.*", "language_model.*"])
    pull(1.0, everything)
    pull(1.0, stage1)                                       # what LLaVA's first stage trains: the projector
    assert set(stage1.leaves) == {name for name in weights if name.startswith("multi_modal_projector.")}
    for name, gradient in stage1.leaves.items():
        np.testing.assert_array_equal(gradient, everything.leaves[name])


@pytest.mark.parametrize("kind, names", [("linear", ["model.mm_projector"]), (
    "mlp2x_gelu", ["model.mm_projector.0", "model.mm_projector.2"])])
def test_the_authors_config(kind, names):
    config = llava.original(Fields({
        "model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": kind,
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "hidden_size": 4096}))
    found = llava.shapes(config)
    assert (config.tokens, config.blocks) == (576, 23)
    assert [name for name in found if "mm_projector" in name] == [
        f"{name}.{part}" for name in names for part in ("weight", "bias")]
    assert found["model.layers.31.self_attn.q_proj.weight"] == (4096, 4096)
    with pytest.raises(UserError, match="mm_projector_type is 'resampler', not linear or mlp<N>x_gelu"):
        llava.original(Fields({"mm_vision_tower": "openai/clip-vit-large-patch14", "mm_projector_type": "resampler"}))


def test_llava_answers_with_its_cache_as_without():
    _, config, weights, x, _ = component("llava")
    ids, pixels, p = x["input_ids"], x["pixel_values"], Params(weights)
    answer = list(llava.greedy(ids, pixels, p, config, limit=5))
    whole, _ = llava.logits(np.concatenate([ids, [answer]], 1), pixels, p, config)
    assert answer == whole[0, ids.shape[1] - 1:-1].argmax(-1).tolist() and len(set(answer)) > 1
    assert list(llava.greedy(ids, pixels, p, config, limit=5, end=answer[2])) == answer[:answer.index(answer[2]) + 1]
