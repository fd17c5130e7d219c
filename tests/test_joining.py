"""Bridges, and ways to join a picture and a language model: what starts where, every gradient, cached = uncached."""
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from differences import all_at_once
from tinycogvlm import contracts
from tinycogvlm.errors import UserError
from tinycogvlm.inputs.prompt import images
from tinycogvlm.inputs.tokenizer import ByteTokenizer
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.model.generate import next_token
from tinycogvlm.model.parts import EMBEDDING, INV_FREQ, LANGUAGE
from tinycogvlm.model.decoder import Rotary
from tinycogvlm.model.route import position_ids
from tinycogvlm.nn.tree import matches
from tinycogvlm.train.ablation import bridges, encoder_free, ways
from tinycogvlm.train.ablation.ablate import costs
from tinycogvlm.train.ablation.work import counted, counting
from tinycogvlm.train.loop.loop import Recipe, fit
from tinycogvlm.train.loop.run import Run

VARIANTS = {f"{part.__name__.rpartition('.')[2]}: {variant.name}": variant for part in (bridges, ways)
            for variant in part.VARIANTS if not isinstance(variant, encoder_free.Patches)}     # they have their own tests
EACH = pytest.mark.parametrize("name", VARIANTS)
STEP = 1e-7                                                 # so small that next to no relu turns on the way


@pytest.fixture
def config(make_config):
    """Two layers; 4 x 4 patches, of which a quarter is 2 x 2"""
    return make_config("cogvlm1", vocab_size=259, max_position_embeddings=512, num_attention_heads=4,
                       num_key_value_heads=4, vision=dict(patch_size=8, image_size=32))


@pytest.fixture
def case(config, make_leaves, make_inputs):
    """case(name, dtype) -> variant, its Config, parameters none of which is 0, a part for its loss"""
    def make(name, dtype=np.float64):
        variant, random = VARIANTS[name], np.random.default_rng(1)
        ours = variant.config(config)
        leaves = {leaf: array + 0.1 * random.standard_normal(array.shape) * ("inv_freq" not in leaf)
                  for leaf, array in variant.begin(ours, make_leaves(config, np.float64), 0).items()}
        leaves = {leaf: abs(array) if "running_var" in leaf else array for leaf, array in leaves.items()}
        leaves = {leaf: array.astype(np.float32 if "inv_freq" in leaf else dtype) for leaf, array in leaves.items()}
        if not variant.writes:
            ids = np.array([[1, 5, 9, 0], [1, 7, 8, 3]])
            return variant, ours, leaves, (random.standard_normal((2, 3, 32, 32)), ids, np.array([0, 3]))
        inputs = make_inputs(ours, ("image", 7), ("image", 3), side="right")
        return variant, ours, leaves, (inputs, np.where((inputs.types == 0) & (inputs.mask != 0), inputs.ids, -100))
    return make


# Gradients

@EACH
def test_gradients_by_finite_differences(case, name):
    assert all_at_once(*case(name), STEP) < 1e-6


def test_a_planted_bug_is_seen(case, monkeypatch):
    """Of flamingo.gated, whose first gate gets half of its gradient"""
    own = ways.flamingo.gated

    def wrong(x, y, alpha):
        z, pull = own(x, y, alpha)
        return z, lambda dz: (pull(dz)[0], pull(dz)[1] / 2)
    monkeypatch.setattr(ways.flamingo, "gated", wrong)
    assert all_at_once(*case("ways: flamingo"), STEP) > 1e-2


# What is learned, and from where

@EACH
def test_what_learns(case, tmp_path, name):
    """Two steps: all that is not frozen moves, but what no word reads; the rest is bit for bit what it was."""
    variant, config, leaves, part = case(name, np.float32)
    after = fit(Run(tmp_path, "run"), leaves, lambda step: [part], partial(variant.loss, config), Recipe(2), ahead=0)
    moved = {leaf for leaf in leaves if not np.array_equal(leaves[leaf], after[leaf])}
    assert moved == {leaf for leaf in leaves if not matches(leaf, (*variant.frozen, "*.inv_freq"))}
    assert variant.tunes == any(matches(leaf, LANGUAGE) for leaf in moved) or not variant.writes
    assert not any(leaf.startswith("model.vision.transformer.") for leaf in moved)
    assert variant.begin(config, leaves, 0).keys() == leaves.keys()


def test_the_second_stage_of_llava_begins_after_a_third(case):
    """The language model has no gradient before; without a second stage there is none to wait for."""
    variant, config, leaves, part = case("ways: tuned")

    def learned(variant, done):
        return set(variant.loss(config, leaves, variant.at(part, done))[2]())
    assert learned(variant, 0) == learned(variant, .33) == learned(VARIANTS["ways: adapter"], 0) < learned(variant, .34)
    assert learned(variant, .34) == learned(variant, 1) == learned(replace(variant, alone=0.0), 0)


def test_the_glu_is_cogvlms_adapter(config, make_leaves, make_inputs):
    """With copies for experts: the same numbers as the model itself"""
    leaves = make_leaves(config)
    for name, tensor in list(leaves.items()):
        leaves[name] = leaves[name.replace("vision_", "language_")] if "vision_" in name else tensor
    inputs = make_inputs(config, ("image", 7))
    expected = CogVLM(config, leaves, rotary=Rotary(leaves[INV_FREQ])).logits(inputs)
    for variant in (VARIANTS["bridges: glu"], VARIANTS["bridges: glu+experts"]):
        ours = variant.config(config)
        begun = variant.begin(ours, leaves, 0)
        begun |= {name: leaves[name.replace("bridge", "linear_proj")] for name in begun if "vision.bridge." in name}
        contracts.close(variant.model(ours, begun).logits(inputs), expected, 1e-13, variant.name)


@EACH
def test_a_picture_takes_its_tokens(case, name):
    variant, config, leaves, part = case(name)
    if variant.writes:
        few = {"ways: flamingo": 0, "ways: coca": 0}
        sides = {"bridges": lambda bridge: bridges.BRIDGES[bridge].side}
        expected = few.get(name, 4 if name == "ways: simvlm" else
                           16 // sides["bridges"](variant.bridge) ** 2 if hasattr(variant, "bridge") else None)
        assert config.num_patches == expected and config.num_image_tokens == expected + 2


def test_where_a_d_abstractor_looks_first(config):
    leaves = bridges.first_bridge(config, "d-abstractor", 0)
    assert leaves["reference_points"].tolist() == [[[.25, .25], [.75, .25], [.25, .75], [.75, .75]]]
    steps = leaves["layers.0.encoder_attn.sampling_offsets.bias"].reshape(config.vision.num_heads, 4, 2)
    assert np.allclose(abs(steps).max(-1), [1, 2, 3, 4]) and np.allclose(steps[0], [[1, 0], [2, 0], [3, 0], [4, 0]])
    assert not leaves["layers.1.encoder_attn.sampling_offsets.weight"].any()


# Cached = uncached, and texts alone

WRITERS = [name for name, variant in VARIANTS.items() if variant.writes and not name.startswith("bridges")]


@pytest.mark.parametrize("name", WRITERS)
def test_cached_equals_uncached(case, make_inputs, name):
    variant, config, leaves, _ = case(name)
    model = variant.model(config, leaves)
    inputs = make_inputs(config, ("image", 5), ("image", 3))
    cache = model.new_cache(2, inputs.ids.shape[1] + 2)
    prompt = model.logits(inputs, cache, last=True)
    ids, position = [], position_ids(inputs.types, inputs.mask)[:, -1:]
    for _ in range(2):
        ids.append(next_token([7, 8]))
        position = position + 1
        last = model.logits(ids[-1], cache, positions=position)
    parts = {part: np.concatenate([getattr(one, part) for one in (inputs, *ids)], 1) for part in ("ids", "types", "mask")}
    whole = replace(inputs, **parts)
    if name == "ways: simvlm":                              # as in training: the prompt alone is the prefix
        labels = np.full(whole.ids.shape, -100)
        labels[:, -2:] = whole.ids[:, -2:]
        with ways.swapped(ways.prefix_seen(whole, (labels != -100).argmax(1), np)):
            expected = CogVLM.logits(model, whole)
    else:
        expected = model.logits(whole)
    contracts.close(prompt[:, 0], expected[:, -3], 1e-12, "prompt")
    contracts.close(last[:, 0], expected[:, -1], 1e-12, "second word")


@pytest.mark.parametrize("name", WRITERS)
def test_a_text_alone_is_the_language_models(config, make_leaves, make_inputs, name):
    """Bit for bit, before anything is learned; what is beside the text must have been shown to count."""
    leaves = make_leaves(config, np.float32)
    variant, ours = VARIANTS[name], VARIANTS[name].config(config)
    texts = make_inputs(config, (9,), (4,))
    expected = CogVLM(config, leaves, rotary=Rotary(leaves[INV_FREQ])).logits(texts)
    model = variant.model(ours, variant.begin(ours, leaves, 0))
    assert np.array_equal(model.logits(texts), expected)
    pictured = make_inputs(ours, ("image", 5))
    other = replace(pictured, media=images(pictured.pixels + 1))
    same = np.array_equal(model.logits(pictured), model.logits(other))
    assert same == (name == "ways: flamingo")               # whose gates are 0 until it has learned


def test_the_prefix_sees_all_of_itself_and_nothing_else_does(case, make_inputs):
    """The first token feels the last one before the first answer, and no answer; later tokens are causal."""
    variant, config, leaves, _ = case("ways: simvlm")
    model, inputs = variant.model(config, leaves), make_inputs(config, ("image", 9))
    T = inputs.ids.shape[1]

    def states(place):
        ids = inputs.ids.copy()
        ids[0, place] = 11
        with ways.swapped(ways.prefix_seen(inputs, np.array([T - 3]), np)):
            return model.hidden(replace(inputs, ids=ids))[0][0]
    plain = states(T - 1)
    for place, felt in ((T - 4, 0), (T - 3, T - 3), (T - 2, T - 2)):
        moved = (states(place) != plain).any(-1)
        assert moved[felt:T - 1].all() and not moved[:felt].any()


@pytest.mark.parametrize("name", ["ways: flamingo", "ways: coca"])
def test_one_picture_a_row(case, make_inputs, name):
    variant, config, leaves, _ = case(name)
    for rows in ([("image", 2, "image", 3)], [("image", 2), (3,)]):
        with pytest.raises(UserError, match="each row of a batch must have one picture, or none any"):
            variant.model(config, leaves).logits(make_inputs(config, *rows))


def test_coca_compares_pictures_with_their_texts(case):
    """The contrast falls if the texts lie where the pictures lie, and does not reach what is not compared."""
    variant, config, leaves, (inputs, labels) = case("ways: coca")
    value, _, _, extras = variant.loss(config, leaves, (inputs, labels))
    words = variant.model(config, leaves).loss(inputs, labels)[0]
    assert abs(value - words - extras["contrast"]) < 1e-12
    swapped_pictures = replace(inputs, media=inputs.media[::-1])
    assert variant.loss(config, leaves, (swapped_pictures, labels))[3]["contrast"] != extras["contrast"]


# ViLT, which chooses an answer

def test_vilt_learns_the_questions_that_it_can_answer(config):
    variant, tokenizer = VARIANTS["ways: vilt"], ByteTokenizer(config)
    picture = np.zeros((32, 32, 3), np.uint8)
    turns = [("What is it?", "A dog."), ("Where?", "[[000,000,020,020]]"), ("How many?", "2.")]
    rows = [variant.example(config, tokenizer, picture, turns), variant.example(config, tokenizer, picture, turns[1:])]
    pixels, ids, labels = variant.batch(config, rows)
    assert len(pixels) == 3 and [ways.ANSWERS[label] for label in labels] == ["A dog.", "2.", "2."]
    assert ids.shape == (3, 12) and (ids[:, 0] == config.bos_token_id).all() and ids[1, -2:].tolist() == [0, 0]
    assert variant.judged(("caption", "box", "at box", "count")) == ("at box", "count")
    assert len(set(ways.ANSWERS)) == len(ways.ANSWERS)


# Work

def test_work_is_counted_forward_and_backward(case):
    """A linear layer alone: 2 n I O; its gradients as much again each. Of the whole model: less where more is frozen."""
    x, w = np.ones((5, 7)), counted({"weight": np.ones((3, 7))})["weight"]
    with counting() as done:
        y, pull = ways.ops.linear(x, w)
    assert done == [2 * 5 * 7 * 3] and isinstance(y, np.ndarray)

    def work(name):
        variant, config, leaves, part = case(name)
        with counting() as done:
            variant.loss(config, counted(leaves), part)[2]()
        return done[0]
    assert work("ways: ffn") < work("ways: expert") and work("ways: adapter") < work("ways: tuned")
    assert work("bridges: average-pool") < work("bridges: linear") < work("bridges: mlp") < work("bridges: glu")
    variant, config, leaves, part = case("ways: expert")
    expected, found = (variant.loss(config, some, part) for some in (leaves, counted(leaves)))
    assert expected[0] == found[0]
    assert all(np.array_equal(g, found[2]()[leaf]) for leaf, g in expected[2]().items())


@EACH
def test_what_a_picture_a_token_and_a_sample_cost(case, name):
    """A token costs two operations for each number of the language model that it meets, and its attention."""
    variant, config, leaves, part = case(name, np.float32)
    found = costs(variant, config, leaves, ByteTokenizer(config), [part])
    assert found["sample"] > 0 and found["picture"] > 0
    beside = (".gated.", ".cross.", "vilt.encoder.")
    met = sum(array.size // (3 if ".cross." in leaf and "in_proj" in leaf else 1)      # keys and values are the picture's
              for leaf, array in leaves.items() if array.ndim > 1 and leaf != EMBEDDING and ".to_kv." not in leaf
              and (matches(leaf, LANGUAGE) or any(part in leaf for part in beside)))
    assert 2 * met <= found["token"] < 3.5 * met


def test_of_a_pictures_tokens_nothing_is_guessed(case):
    """A head of twice as many words costs more for a token of text, and as much as before for a picture."""
    variant, config, leaves, _ = case("ways: adapter", np.float32)
    head = leaves["lm_head.weight"]
    larger = leaves | {"lm_head.weight": np.concatenate([head, head])}
    small, large = (costs(variant, config, some, ByteTokenizer(config), []) for some in (leaves, larger))
    assert large["token"] - small["token"] == 2 * head.size and large["picture"] == small["picture"]
