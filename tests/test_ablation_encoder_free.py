"""Patches straight into the language model: layouts of any ratio, every gradient, stages, what is learned, cached answers."""
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from differences import all_at_once
from tinycogvlm import contracts
from tinycogvlm.inputs import prompt
from tinycogvlm.inputs.tokenizer import ByteTokenizer
from tinycogvlm.model import generate
from tinycogvlm.model.generate import next_token
from tinycogvlm.model.parts import INV_FREQ, LANGUAGE
from tinycogvlm.model.route import position_ids
from tinycogvlm.nn.swap import swapped
from tinycogvlm.nn.tree import matches
from tinycogvlm.relatives import eve
from tinycogvlm.train.ablation import ablate, encoder_free
from tinycogvlm.train.loop.loop import Recipe, fit
from tinycogvlm.train.loop.run import Run

VARIANTS = {variant.name: variant for variant in encoder_free.VARIANTS if variant.name != "tower"}
EACH = pytest.mark.parametrize("name", VARIANTS)
STEP = 1e-5
TURNS = [("Where?", "Left."), ("What?", "A dog.")]


@pytest.fixture
def config(make_config):
    """Two layers, pictures of 3 x 3 patches"""
    return make_config("cogvlm1", vocab_size=259, max_position_embeddings=512, hidden_size=16, num_attention_heads=4,
                       num_key_value_heads=4,
                       vision=dict(hidden_size=16, num_heads=4, patch_size=4, image_size=12))


def picture(width, height):
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def case(config, make_leaves):
    """case(name, dtype) -> variant, its Config, parameters none of which is 0, a part for its loss"""
    def make(name, dtype=np.float64):
        variant, random, tokenizer = VARIANTS[name], np.random.default_rng(1), ByteTokenizer(config)
        ours = variant.config(config)
        leaves = {leaf: (array + 0.1 * random.standard_normal(array.shape)).astype(dtype) if "inv_freq" not in leaf
                  else array for leaf, array in variant.begin(ours, make_leaves(config, np.float64), 0).items()}
        rows = [variant.example(ours, tokenizer, picture(12, 12), TURNS),
                variant.example(ours, tokenizer, picture(13, 13), TURNS[:1])]
        return variant, ours, leaves, variant.batch(ours, rows)
    return make


# ----------------------------------------------------------------------------------------------------------- pictures

@pytest.mark.parametrize("size, grid", [((12, 12), (3, 3)), ((90, 30), (2, 6)), ((30, 90), (6, 2)), ((200, 2), (1, 30))])
def test_a_picture_keeps_its_ratio(config, size, grid):
    """A picture of 1:3 has rows three times as long as columns; its tokens are about as many as those of a square."""
    pixels = encoder_free.fitted(Image.new("RGB", size), config.vision)
    assert pixels.shape == (3, 4 * grid[0], 4 * grid[1])
    inputs = encoder_free.build(config, ByteTokenizer(config), "ab", [picture(*size)])
    count = 1 + grid[0] * (grid[1] + 1)
    assert inputs.types[0].tolist() == [0, *range(1, count + 1), 0, 0] and inputs.media[0][1].shape == pixels.shape
    assert position_ids(inputs.types)[0].tolist() == list(range(count + 3))     # none is shared


def test_what_is_drawn_is_what_is_seen(config):
    """The left third of a 1:3 picture is red: so are the first third of each row of patches, and no other."""
    wide = np.zeros((30, 90, 3), np.uint8)
    wide[:, :30, 0] = 255
    pixels = encoder_free.fitted(wide, config.vision)[0]                        # the red channel, 8 x 24
    assert (pixels[:, :6] > 1).all() and (pixels[:, 10:] < 0).all()


def test_rows_of_a_wide_picture_go_through_the_model(case):
    for name in ("bare", "aligned", "own-norms"):
        variant, config, leaves, _ = case(name)
        model = variant.model(config, leaves, ByteTokenizer(config))
        inputs = model.inputs("Where?", picture(30, 10))
        logits = model.logits(inputs)
        assert logits.shape[1] == inputs.ids.shape[1] and np.isfinite(logits).all()
        swapped_rows = model.logits(model.inputs("Where?", picture(30, 10)[:, ::-1]))
        assert not np.allclose(logits[:, -1], swapped_rows[:, -1])


# ---------------------------------------------------------------------------------------------------------- gradients

@EACH
def test_gradients_by_finite_differences(case, name):
    assert all_at_once(*case(name), STEP) < 1e-6


def test_a_planted_bug_is_seen(case, monkeypatch):
    """The gradient of the aligning loss, without that of the embeddings"""
    own = eve.aligning_loss

    def wrong(*given):
        value, pull = own(*given)
        return value, lambda dloss, g: [*pull(dloss, g)[:-1], 0]
    monkeypatch.setattr(eve, "aligning_loss", wrong)
    assert all_at_once(*case("aligned"), STEP) > 1e-3


def test_the_aligning_loss_is_the_papers(case):
    """0 where the student's features point as the teacher's do, and its weight is what is added to cross-entropy"""
    variant, config, leaves, part = case("aligned")
    both, _, _, extras = variant.loss(config, leaves, part)
    words, *_ = replace(variant, aligned=0.0).loss(config, leaves, part)
    twice, *_ = replace(variant, aligned=2.0).loss(config, leaves, part)
    assert 0 < extras["aligning"] < 2
    assert both - words == pytest.approx(extras["aligning"], rel=1e-12) and twice - both == pytest.approx(both - words)
    starts, grids, teachers = encoder_free.taught(variant.model(config, leaves), part[0])
    assert starts == [1, 1] and grids == [(3, 3)] * 2 and teachers[0].shape == (3, 3, 16)
    assert not np.allclose(teachers[0], teachers[1])


# ---------------------------------------------------------------------------------------------------- what is learned

@EACH
def test_what_learns(case, tmp_path, name):
    """Two steps of each stage: in the first, the language model stays bit for bit; the tower always does.

    After the last block's attention no word reads a patch: the norm that follows for patches gets no gradient.
    """
    variant, config, leaves, part = case(name, np.float32)
    unread = "model.layers.1.vision_norm2.weight"
    for stage, done, frozen in ((1, 0, variant.frozen + LANGUAGE * (variant.alone > 0)),
                                (2, variant.alone, variant.frozen)):
        after = fit(Run(tmp_path, f"stage{stage}"), leaves, lambda _, done=done: [variant.at(part, done)],
                    partial(variant.loss, config), Recipe(2), ahead=0)
        moved = {leaf for leaf in leaves if not np.array_equal(leaves[leaf], after[leaf])}
        assert moved == {leaf for leaf in leaves if not matches(leaf, (*frozen, "*.inv_freq", unread))}
    assert variant.tunes == any(matches(leaf, LANGUAGE) for leaf in moved)


def test_the_work_of_a_run_is_that_of_its_stages(case, monkeypatch):
    """Four steps, in the first of which the language model is frozen and less is multiplied"""
    monkeypatch.setattr(ablate, "BATCH", 2)
    variant, config, leaves, part = case("aligned", np.float32)
    variant, tokenizer = replace(variant, alone=1 / 4), ByteTokenizer(config)
    first, later = (ablate.costs(variant, config, leaves, tokenizer, [variant.at(part, done)])["sample"] for done in (0, 1))
    assert first < 0.9 * later
    for alone, steps_alone in ((1 / 4, 1), (0.3, 2), (3 / 4, 3), (0, 0), (1, 4)):
        one = replace(variant, alone=alone)
        found = ablate.work_of_a_run(one, config, leaves, tokenizer, lambda step, one=one: [one.at(part, step / 4)], 4)
        assert set(found) == {"token", "picture", "sample"}
        assert found["sample"] == (steps_alone * first + (4 - steps_alone) * later) / 4


def test_a_run_resumed_ends_the_same(case, tmp_path):
    variant, config, leaves, part = case("aligned", np.float32)
    variant = replace(variant, alone=1 / 2)                 # stopped in the first stage, resumed into the second
    data, recipe = (lambda step: [variant.at(part, step / 4)]), Recipe(4, settings={"a": 1})
    loss, steps = partial(variant.loss, config), []

    def stopped(leaves, part):
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return loss(leaves, part)
    whole = fit(Run(tmp_path, "whole"), leaves, data, loss, recipe, ahead=0)
    with pytest.raises(KeyboardInterrupt):
        fit(Run(tmp_path, "stopped"), leaves, data, stopped, recipe, ahead=0, save_every=0)
    again = fit(Run(tmp_path, "stopped"), leaves, data, loss, recipe, ahead=0, resume=True)
    assert all(np.array_equal(whole[leaf], again[leaf]) for leaf in leaves)


def test_experts_begin_as_copies_and_norms_are_divided(case, make_leaves, config):
    """With copies for norms, both ways of norms compute the same; text alone is the language model's."""
    shared, own = (VARIANTS[name] for name in ("experts", "own-norms"))
    begun = [variant.begin(variant.config(config), make_leaves(config), 0) for variant in (shared, own)]
    _, ours, _, (inputs, _) = case("own-norms")
    logits = [variant.model(ours, leaves).logits(inputs) for variant, leaves in zip((shared, own), begun)]
    contracts.close(logits[0], logits[1], 1e-12, "copies")
    route = own.model(ours, begun[1]).route(inputs, None)                       # of CLS and every SPLIT, too
    assert route.vision_mask.tolist() == (inputs.types > 0).tolist() and inputs.types.max() == 1 + 3 * 4
    moved = {name: array + ("norm1" in name) for name, array in begun[1].items()}
    assert not np.allclose(own.model(ours, moved).logits(inputs), logits[1])
    text = prompt.build(config, ByteTokenizer(config), "abc")
    assert np.array_equal(own.model(ours, moved).logits(text), shared.model(ours, begun[0]).logits(text))


# ------------------------------------------------------------------------------------------------------------ answers

@EACH
def test_cached_is_uncached(case, name):
    variant, config, leaves, (inputs, _) = case(name)
    model, T = variant.model(config, leaves), inputs.ids.shape[1]
    one = replace(inputs, ids=inputs.ids[:1], types=inputs.types[:1], mask=inputs.mask[:1], media=inputs.media[:1])
    cache = model.new_cache(1, T + 1)
    contracts.close(model.logits(one, cache), model.logits(one), 1e-13, "prompt")
    token, position = next_token([5]), position_ids(one.types)[:, -1:] + 1
    joined = [np.concatenate([getattr(one, part), getattr(token, part)], 1) for part in ("ids", "types", "mask")]
    whole = model.logits(replace(one, **dict(zip(("ids", "types", "mask"), joined))))
    contracts.close(model.logits(token, cache, positions=position)[:, 0], whole[:, -1], 1e-12, "next token")


def test_questions_are_answered_as_one_by_one(case):
    from tinycogvlm.evaluate.accuracy import Asked
    from tinycogvlm.world.scenes import scene
    variant, config, leaves, _ = case("aligned", np.float32)
    model = variant.model(config, leaves, ByteTokenizer(config))
    asked = [Asked("box", (("Where is it?", "There."),), scene("check", number)) for number in range(2)]
    with swapped({prompt.build: encoder_free.build}):
        singly = [generate.answers(model, [model.inputs(one.question, one.scene.picture)], 10)[0].text for one in asked]
    assert [len(said) > 0 for said in singly] == [True, True] and variant.answers(model, asked) == singly


def test_captions_of_wide_pictures(case):
    """Two things in three scenes; a variant that reads them as they are says what it is made to say."""
    shown = encoder_free.wide("check", 4)
    assert shown.picture.shape == (112, 336, 3) and len(shown.things) == 2
    assert np.array_equal(shown.picture[:, :112], shown.parts[0].picture) and not shown.parts[1].things
    variant, config, leaves, _ = case("bare", np.float32)
    model = variant.model(config, leaves, ByteTokenizer(config))
    assert encoder_free.captions_of_wide(variant, model, 2) == {"caption of 1:3": 0}
    knowing = replace(variant)
    object.__setattr__(knowing, "answers", lambda model, asked: [one.truth for one in asked[:1]] + ["A dog."])
    assert encoder_free.captions_of_wide(knowing, model, 2) == {"caption of 1:3": 0.5}


def test_the_real_geometry_has_as_many_patches_as_the_tower(make_config):
    """112 pixels in tokens of 14: 8 rows of 8 and SPLIT, and CLS; the language model's names stay as they are."""
    from tinycogvlm.train.recipe.initial import CONFIG, initial
    start = initial(CONFIG)
    for name, variant in VARIANTS.items():
        ours = variant.config(CONFIG)
        assert ours.num_image_tokens == 1 + 8 * 9
        leaves = variant.begin(ours, start, 0)
        assert all(leaves[leaf] is start[leaf] for leaf in leaves if matches(leaf, (*LANGUAGE, INV_FREQ)))
        assert any(leaf.startswith("model.vision.transformer.") for leaf in leaves) is bool(variant.aligned)
        assert any("vision_expert" in leaf for leaf in leaves) is variant.experts, name
