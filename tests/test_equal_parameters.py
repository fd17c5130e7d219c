"""p-tuning, LoRA and the visual expert: as many trained parameters, their gradients, what each leaves as it was."""
from functools import partial

import numpy as np
import pytest

from differences import slope
from tinycogvlm.evaluate import asking
from tinycogvlm.evaluate.accuracy import Asked
from tinycogvlm.inputs.prompt import Inputs
from tinycogvlm.inputs.tokenizer import ByteTokenizer
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.model.parts import ADAPTER, EXPERTS, LANGUAGE, TOWER
from tinycogvlm.nn.tree import matches
from tinycogvlm.train.ablation.parameters import LowRank, Prompts, of_equal_size
from tinycogvlm.train.loop.loop import Recipe, fit
from tinycogvlm.train.loop.run import Run
from tinycogvlm.train.recipe.initial import CONFIG, initial
from tinycogvlm.world.scenes import scene

SMALL = {"lora": LowRank("lora", "", rank=2), "p-tuning": Prompts("p-tuning", "", count=3, inside=5)}


@pytest.fixture
def config(make_config):
    return make_config("cogvlm1", num_hidden_layers=2, vocab_size=259, max_position_embeddings=512,
                       vision=dict(patch_size=28, image_size=112))


@pytest.fixture
def batch(config, make_inputs):
    inputs = make_inputs(config, ("image", 7), ("image", 3), side="right")
    return inputs, np.where((inputs.types == 0) & (inputs.mask != 0), inputs.ids, -100)


def test_as_many_parameters_are_trained():
    """Of the bundled model's geometry, adapters left out: within half a per cent of the expert's."""
    leaves, counts = initial(CONFIG), {}
    for variant in of_equal_size(CONFIG):
        new = variant.begin(CONFIG, leaves, 0)
        trained = [name for name in new if name not in leaves] if variant.name != "full" else \
            [name for name in leaves if matches(name, EXPERTS)]
        counts[variant.name] = sum(new[name].size for name in trained)
    assert counts["full"] == 1_769_472
    assert all(abs(count / counts["full"] - 1) < 0.005 for count in counts.values()), counts


@pytest.mark.parametrize("name", SMALL)
def test_what_learns_and_what_stays(config, make_leaves, batch, tmp_path, name):
    variant = SMALL[name]
    leaves = variant.begin(config, make_leaves(config, np.float32), 0)
    after = fit(Run(tmp_path, "see"), leaves, lambda step: [batch], partial(variant.loss, config), Recipe(3), ahead=0)
    moved = {leaf for leaf in leaves if not np.array_equal(leaves[leaf], after[leaf])}
    assert not any(matches(leaf, TOWER + LANGUAGE + EXPERTS) for leaf in moved if "lora_" not in leaf)
    assert moved == {leaf for leaf in leaves if matches(leaf, ADAPTER) or leaf.startswith("prompts.") or "lora_" in leaf}


@pytest.mark.parametrize("name", SMALL)
def test_gradients_by_finite_differences(config, make_leaves, batch, name):
    variant, random = SMALL[name], np.random.default_rng(0)
    leaves = {leaf: array.astype(np.float64)
              for leaf, array in variant.begin(config, make_leaves(config, np.float64), 0).items()}
    leaves |= {leaf: 0.1 * random.standard_normal(array.shape) for leaf, array in leaves.items()
               if leaf.endswith("lora_B.weight")}
    gradients = variant.loss(config, leaves, batch)[2]()
    for part in ("prompts.", "lora_A", "lora_B", "linear_proj", "oi"):                      # boi and eoi
        along = {leaf: random.standard_normal(g.shape) for leaf, g in gradients.items() if part in leaf}
        at = lambda s, along=along: variant.loss(config, leaves | {leaf: leaves[leaf] + s * d
                                                                    for leaf, d in along.items()}, batch)[0]
        numeric, exact = slope(at, 1e-4), 0
        for leaf, d in along.items():
            exact += (gradients.pop(leaf) * d).sum()
        assert abs(numeric - exact) <= 1e-6 * max(abs(exact), 1e-3), part
    assert not gradients


def test_lora_begins_as_the_language_model_for_all_tokens(config, make_leaves, batch):
    """As a full model whose experts are copies."""
    leaves = make_leaves(config, np.float64)
    full, = (variant for variant in of_equal_size(config) if variant.name == "full")
    begun = [variant.model(config, variant.begin(config, leaves, 0)) for variant in (full, SMALL["lora"])]
    (h, _), (h_lora, _) = (model.hidden(batch[0]) for model in begun)
    assert np.array_equal(h, h_lora)


def test_prompts_come_before_every_row_of_a_batch(config, make_leaves, make_inputs):
    """Every token sees them, and a row padded on the right is what it is alone."""
    variant = SMALL["p-tuning"]
    leaves = variant.begin(config, make_leaves(config, np.float64), 0)
    model, plain = variant.model(config, leaves), CogVLM(config, leaves)
    both = make_inputs(config, ("image", 7), ("image", 3), side="right")
    h, _ = model.hidden(both)
    assert (abs(h - plain.hidden(both)[0]).max(-1) > 1e-9).all()
    for i, length in enumerate(both.mask.sum(1)):
        row = (slice(i, i + 1), slice(length))
        alone = Inputs(both.ids[row], both.types[row], both.mask[row], both.media[i:i + 1])
        np.testing.assert_allclose(h[row], model.hidden(alone)[0], atol=1e-10)


def test_answers_from_a_picture_read_once_are_those_of_the_whole_prompt(config, make_leaves):
    variant = SMALL["p-tuning"]
    leaves = variant.begin(config, make_leaves(config, np.float32), 0)
    model = variant.model(config, leaves, ByteTokenizer(config))
    asked = [Asked("caption", (("What is this?", "a dog and more"),), scene("test", i)) for i in range(2)]
    alone = [model.ask(one.scene.picture, "What is this?", max_new_tokens=18).text for one in asked]
    assert asking.ask(model, asked) == alone
