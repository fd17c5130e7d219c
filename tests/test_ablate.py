"""The ablation: what every variant learns and from where, its gradients, runs that are never done twice, the table.

Bridges and ways to join a picture and a language model are tested in test_joining.py; their runs here.
"""
import json
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from differences import slope
from tinycogvlm import contracts
from tinycogvlm.cli.main import main
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.model.decoder import KVCache
from tinycogvlm.errors import UserError
from tinycogvlm.model.generate import next_token
from tinycogvlm.model.parts import LANGUAGE, TOWER
from tinycogvlm.model.route import position_ids
from tinycogvlm.inputs.prompt import images
from tinycogvlm.inputs.tokenizer import ByteTokenizer
from tinycogvlm.train.ablation import ablate
from tinycogvlm.train.loop.checkpoint import hand_over
from tinycogvlm.train.recipe.initial import initial
from tinycogvlm.train.loop.loop import Recipe, fit
from tinycogvlm.train.loop.run import Run
from tinycogvlm.train.ablation.variants import COMPARISON, HEAD, VARIANTS, WholeImages, copies, twins
from tinycogvlm.nn.tree import Params, matches
from tinycogvlm.storage.checkpoint import save
from tinycogvlm.model.vit import vit
from tinycogvlm.world.scenes import scene

VARIANTS = {variant.name: variant for variant in VARIANTS}
LAYERS = 4


@pytest.fixture
def config(make_config):
    """Four layers; pictures of the world in 4 x 4 patches."""
    return make_config("cogvlm1", num_hidden_layers=LAYERS, vocab_size=259, max_position_embeddings=512,
                       vision=dict(patch_size=28, image_size=112))


@pytest.fixture
def batch(config, make_inputs):
    inputs = make_inputs(config, ("image", 7), ("image", 3), side="right")
    return inputs, np.where((inputs.types == 0) & (inputs.mask != 0), inputs.ids, -100)


# What differs

LEARNED = {                                                 # beside the adapter: from a name, whether it is learned
    "full": lambda name: "vision_" in name,
    "adapter": lambda name: False,
    "language": lambda name: not name.startswith("model.vision.") and "vision_" not in name,
    "every4th": lambda name: "vision_" in name and name.startswith("model.layers.0."),
    "ffn": lambda name: "vision_mlp" in name,
    "random": lambda name: "vision_" in name,
    "attention": lambda name: "vision_" in name,
    "next-patch": lambda name: "vision_" in name or name == HEAD,
}


@pytest.mark.parametrize("name", LEARNED)
def test_what_learns(config, make_leaves, batch, tmp_path, name):
    """Two steps: exactly what the variant's description says has moved, the rest is bit for bit what it was."""
    variant = VARIANTS[name]
    leaves = variant.begin(config, make_leaves(config, np.float32), 0)
    loss = partial(variant.loss, config)
    after = fit(Run(tmp_path, name), leaves, lambda step: [batch], loss, Recipe(2), ahead=0)
    adapter = ("model.vision.linear_proj.", "model.vision.boi", "model.vision.eoi")
    expected = {leaf for leaf in leaves if not leaf.endswith("inv_freq")
                and (leaf.startswith(adapter) or LEARNED[name](leaf))}
    assert {leaf for leaf in leaves if not np.array_equal(leaves[leaf], after[leaf])} == expected
    gradients = loss(leaves, batch)[2]()
    assert set(gradients) == expected
    unread = {leaf for leaf in expected if f"layers.{LAYERS - 1}." in leaf and "vision_" in leaf
              and "query_key_value" not in leaf}            # no text reads what the last layer makes of patches
    assert {leaf for leaf, g in gradients.items() if not g.any()} == (set() if name == "next-patch" else unread)


def test_every_description_is_tested():
    assert list(LEARNED) == list(VARIANTS)


def test_experts_begin_as_copies_or_at_random(config, make_leaves):
    leaves = make_leaves(config, np.float32)
    assert len(twins(leaves)) == 5 * LAYERS
    for name, variant in VARIANTS.items():
        begun = variant.begin(config, leaves, 0)
        for vision, language in twins(leaves).items():
            assert begun[vision] is leaves[vision if name == "random" else language]
        assert set(begun) - set(leaves) == ({HEAD} if name == "next-patch" else set())
        assert VARIANTS[name].model(config, begun).__class__ is (WholeImages if name == "attention" else CogVLM)


def test_without_experts_image_and_text_have_one_set_of_weights(config, make_leaves, batch, tmp_path):
    """Before and after learning; and what has learned computes as the language model does for any token."""
    variant = VARIANTS["language"]
    leaves = variant.begin(config, make_leaves(config, np.float32), 0)
    after = fit(Run(tmp_path, "see"), leaves, lambda step: [batch], partial(variant.loss, config), Recipe(2), ahead=0)
    for some in (leaves, after):
        model = variant.model(config, some)
        assert all(model.leaves[vision] is model.leaves[language] is some[language]
                   for vision, language in twins(some).items())
    name = "model.layers.0.mlp.language_mlp.up_proj.weight"
    moved = {**after, name: after[name] + 1}                # reaches boi, which is an image token
    h, h_moved = (variant.model(config, some).hidden(batch[0])[0] for some in (after, moved))
    assert (h[:, 1] != h_moved[:, 1]).any(-1).all()


# Gradients

@pytest.mark.parametrize("name", ["language", "next-patch", "attention"])
def test_gradients_by_finite_differences(config, make_leaves, batch, name):
    """Of every parameter that is learned: shared weights get the sum of what both kinds of token say."""
    variant, random = VARIANTS[name], np.random.default_rng(0)
    leaves = {leaf: array.astype(np.float64)
              for leaf, array in variant.begin(config, make_leaves(config, np.float64), 0).items()}
    gradients = variant.loss(config, leaves, batch)[2]()
    for leaf, gradient in gradients.items():
        direction = random.standard_normal(gradient.shape)
        along = lambda s, leaf=leaf, d=direction: variant.loss(config, leaves | {leaf: leaves[leaf] + s * d}, batch)[0]
        numeric = slope(along, 1e-4)
        assert abs(numeric - (gradient * direction).sum()) <= 1e-6 * max(np.linalg.norm(gradient), 1e-3), leaf


def test_shared_weights_get_the_sum(config, make_leaves, batch):
    """Of the gradients that the two sets of a full model get when they are equal."""
    leaves = make_leaves(config, np.float64)
    leaves |= copies(leaves)
    shared = VARIANTS["language"].loss(config, leaves, batch)[2]()
    both = replace(VARIANTS["language"], shared=False).loss(config, leaves, batch)[2]()
    for vision, language in twins(leaves).items():
        assert np.array_equal(shared[language], both[language] + both[vision]) and vision not in shared
        assert both[language].any()


def test_the_loss_on_patches_is_its_equation(config, make_leaves, batch):
    """Patch by patch: the next one's feature, divided by its root mean square, from this one's last hidden state."""
    variant, (inputs, labels) = VARIANTS["next-patch"], batch
    leaves = variant.begin(config, make_leaves(config, np.float64), 0)
    value, count, _, extras = variant.loss(config, leaves, batch)
    model = variant.model(config, leaves)
    h, terms = model.hidden(inputs)[0], []
    features, _ = vit(inputs.pixels, Params(leaves).model.vision, config.vision)
    for row in range(2):
        places = np.flatnonzero(inputs.types[row])[1:-1]
        for i in range(len(places) - 1):
            target = features[row, i + 1] / np.sqrt(np.mean(features[row, i + 1] ** 2))
            terms.append(np.mean((leaves[HEAD] @ h[row, places[i]] - target) ** 2))
    assert len(terms) == 2 * (config.num_patches - 1) and count == (labels != -100).sum()
    assert abs(extras["patches"] - np.mean(terms)) < 1e-12
    assert abs(value - model.loss(inputs, labels)[0] - variant.next_patch * np.mean(terms)) < 1e-12


# Full attention among image tokens

def whole_images(model):
    return WholeImages(model.config, model.leaves, rotary=model.rotary)


@pytest.mark.parametrize("row", [("image", 5), (2, "image", 3, "image", 2), (3,)])
def test_full_attention_cached_equals_uncached(make_model, make_inputs, family, row):
    model = whole_images(make_model(family))
    inputs = make_inputs(model.config, row, (4,))
    cache = KVCache(model.config, 2, inputs.ids.shape[1] + 1, dtype=np.float64)
    contracts.close(model.logits(inputs, cache), model.logits(inputs), 1e-13, "prompt")
    token, position = next_token([5, 6]), position_ids(inputs.types, inputs.mask)[:, -1:] + 1
    joined = [np.concatenate([getattr(inputs, part), getattr(token, part)], 1) for part in ("ids", "types", "mask")]
    whole = model.logits(replace(inputs, **dict(zip(("ids", "types", "mask"), joined))))
    contracts.close(model.logits(token, cache, positions=position)[:, 0], whole[:, -1], 1e-12, "next token")


def test_full_attention_is_of_one_image_each(make_model, make_inputs, family):
    """The first patches feel the last one of their own image, and nothing of the text or image after it."""
    causal = make_model(family)
    inputs = make_inputs(causal.config, (2, "image", 3, "image", 2))
    second = replace(inputs, media=images(inputs.pixels + np.array([0, 1])[:, None, None, None]))
    first = replace(inputs, media=images(inputs.pixels + np.array([1, 0])[:, None, None, None]))
    boi = np.flatnonzero(inputs.types[0] == 1)[0], np.flatnonzero(inputs.types[0] == 2)[0]
    for full, model in ((False, causal), (True, whole_images(causal))):
        h, h_first, h_second = (model.hidden(some)[0][0] for some in (inputs, first, second))
        assert (h[boi[0]] != h_first[boi[0]]).any() == full             # boi itself is the same in every picture
        assert np.array_equal(h[:boi[0]], h_first[:boi[0]]) and np.array_equal(h[:boi[1]], h_second[:boi[1]])
        assert (h[boi[1]] != h_second[boi[1]]).any() == full


def test_text_does_not_know_of_full_attention(make_model, make_inputs, family):
    model = make_model(family)
    inputs = make_inputs(model.config, (140,), (7,))
    assert np.array_equal(whole_images(model).logits(inputs), model.logits(inputs))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_gradient_of_full_attention(make_model, make_inputs, checkpoint):
    """Of every trained tensor, against finite differences in float64 along a random direction; with padding."""
    model, random = whole_images(make_model("cogvlm2")), np.random.default_rng(0)
    inputs = make_inputs(model.config, (2, "image", 3, "image", 2), ("image", 4))
    labels = np.where((inputs.types == 0) & (np.pad(inputs.mask, ((0, 0), (1, 0)))[:, :-1] != 0), inputs.ids, -100)
    gradients = model.loss(inputs, labels, checkpoint=checkpoint)[1]()
    for name, g in gradients.items():
        d, h = random.standard_normal(g.shape), 1e-5
        moved = [WholeImages(model.config, model.leaves | {name: model.leaves[name] + step * d}).loss(inputs, labels)[0]
                 for step in (h, -h)]
        slope = (moved[0] - moved[1]) / (2 * h)
        assert abs(slope - (g * d).sum()) <= 1e-6 * max(np.sqrt((g * g).sum()), 1e-2), name
    assert not any(np.array_equal(g, other) for g, other in zip(
        gradients.values(), CogVLM(model.config, model.leaves).loss(inputs, labels)[1]().values()) if g.any())


# Runs

@pytest.fixture
def world(config, tmp_path, monkeypatch):
    """A folder as the stages leave it, tiny; little is measured, and no process prepares the data."""
    for name, value in {"CONFIG": config, "PICTURES": 3, "ASKED": 2, "BATCH": 2, "PEAK": 0.05, "POINTS": (0.5,), "TIMED": 1,
                        "fit": partial(fit, ahead=0), "text_losses": partial(ablate.text_losses, count=1)}.items():
        monkeypatch.setattr(ablate, name, value)
    tokenizer = ByteTokenizer(config)
    monkeypatch.setattr(ablate, "load_tokenizer", lambda path, config: tokenizer)
    ablate.check_batches.cache_clear()
    ablate.questions.cache_clear()
    for stage in ("vision", "language"):
        hand_over(Run(tmp_path, stage), left_by(stage, config))
    (tmp_path / "tokenizer.json").touch()
    return tmp_path


def left_by(stage, config):
    """All parameters, as different ones in every stage's file: more than a stage need leave."""
    return {name: array + 0.01 * len(stage) for name, array in initial(config, len(stage)).items()}


def test_a_run_starts_from_the_tower_and_the_language_model_of_the_stages(world, config):
    (ours, leaves), random = ablate.start(world, 7), initial(config, 7)
    assert ours == config
    vision, language = (left_by(stage, config) for stage in ("vision", "language"))
    for name, array in leaves.items():
        tower = name.startswith(("model.vision.patch_embedding.", "model.vision.transformer."))
        source = vision if tower else random if "vision" in name or "inv_freq" in name else language
        assert np.array_equal(array, source[name]), name


@pytest.mark.slow
def test_what_is_finished_is_never_done_again(world, monkeypatch):
    table = ablate.ablate("experts", world, world / "ablation", samples=4, seeds=1)
    out = world / "ablation"
    assert {path.name for path in out.glob("*.json")} == {"ablation.json", *(f"{name}-0.json" for name in VARIANTS)}
    assert not list(out.glob("*.safetensors"))
    for name in VARIANTS:
        result = json.loads((out / f"{name}-0.json").read_text())
        assert result["text unchanged"] is (name != "language")
        assert (result["text before"] == result["text after"]) is (name != "language")
        assert [point["samples"] for point in result["curve"]] == ([2, 4] if name == "language" else [])
        assert ("seen without EMA" in result) is (name == "full")
        assert name != "full" or result["seen without EMA"]["loss"] != result["seen"]["loss"]
        assert set(result["seen"]) == {"loss", "caption", "box", "at box"} and result["seen"]["loss"] > 1
    monkeypatch.setattr(ablate, "fit", None)
    assert ablate.ablate("experts", world, world / "ablation", samples=4, seeds=1) == table
    with pytest.raises(UserError, match="full-0.json is the result of other --samples"):
        ablate.ablate("experts", world, world / "ablation", samples=6, seeds=1)


def result_of(folder, name):
    """What a run has found, without what a clock has said"""
    return {**json.loads((folder / f"{name}-0.json").read_text()), "seconds": 0, "ms an answer": 0}


@pytest.mark.parametrize("what, name", [
    ("experts", "full"), pytest.param("ways", "coca", marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_goes_on_and_ends_the_same(world, monkeypatch, what, name):
    run = partial(ablate.ablate, what, world, samples=8, seeds=1, only=[name])
    run(out=world / "whole")

    def stopped(*arguments, **options):
        run, leaves, data, loss, recipe = arguments
        steps = []

        def interrupted(leaves, part):
            steps.append(1)
            if len(steps) == 3:
                raise KeyboardInterrupt
            return loss(leaves, part)
        return fit(run, leaves, data, interrupted, recipe, **options, ahead=0, save_every=0)
    with monkeypatch.context() as patch:
        patch.setattr(ablate, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(out=world / "stopped")
    assert (world / "stopped" / f"{name}-0.safetensors").exists()
    run(out=world / "stopped")
    whole, stopped = (result_of(world / folder, name) for folder in ("whole", "stopped"))
    assert json.dumps(whole) == json.dumps(stopped)
    if what == "ways":
        assert [point["samples"] for point in whole["curve"]] == [4, 8]
        last = whole["curve"][-1]
        assert {measure: last[measure] for measure in whole["seen"]} == whole["seen"]
        assert {kind: last[f"text {kind}"] for kind in whole["text after"]} == whole["text after"]


def test_a_run_that_diverges_does_not_stop_the_others(world, monkeypatch):
    """And is not begun again: in a comparison with a collapse in it, the table would never come."""
    from tinycogvlm.train.loop.loop import Diverged
    learned = []

    def diverges(run, leaves, *given, **options):
        learned.append(run.stage)
        raise Diverged(f"{run.stage}: in step 3 the loss is inf; there is no checkpoint yet")
    monkeypatch.setattr(ablate, "fit", diverges)
    for _ in range(2):
        table = ablate.ablate("experts", world, world / "ablation", samples=4, seeds=1, only=["adapter", "ffn"])
        assert "adapter-0: in step 3 the loss is inf." in table and "ffn-0: in step 3 the loss is inf." in table
    assert learned == ["adapter-0", "ffn-0"]
    with pytest.raises(UserError, match="adapter-0.json is the result of other --samples"):
        ablate.ablate("experts", world, world / "ablation", samples=6, seeds=1, only=["adapter"])


def test_two_processes_share_the_work(world, capsys):
    """A run that another process is doing is left to it, and the table has what is finished."""
    with Run(world / "ablation", "ffn-0"):
        table = ablate.ablate("experts", world, world / "ablation", samples=4, seeds=1, only=["adapter", "ffn"])
    assert "ffn-0: another process is at work on it\n" in capsys.readouterr().err
    assert "1 of 8 runs are finished" in table and "(`adapter`)" in table and "(`ffn`)" not in table
    assert "2 of 8 runs are finished" in ablate.ablate("experts", world, world / "ablation", samples=4, seeds=1, only=["adapter", "ffn"])


def test_three_seeds_of_every_variant_by_default(world, monkeypatch):
    runs = []
    monkeypatch.setattr(ablate, "learn", lambda run, *_: runs.append(run.stage))
    assert ablate.ablate("experts", world, world / "ablation", samples=4) == "No run is finished yet."
    assert runs == [f"{name}-{seed}" for seed in range(3) for name in VARIANTS]


def test_the_same_pictures_for_every_variant_and_others_for_every_seed(world, config):
    of = partial(ablate.data, COMPARISON, VARIANTS["full"], config, "")
    first, again, other, later = (of(seed, 2, step)[0][0] for seed, step in ((0, 0), (0, 0), (1, 0), (0, 1)))
    assert np.array_equal(first.pixels, again.pixels) and np.array_equal(first.ids, again.ids)
    assert all(not np.array_equal(first.pixels, some.pixels) for some in (other, later))


def test_claims_are_what_the_paper_s_table_says():
    """Means of its five data sets: a claim is a difference of more than half a point."""
    paper = {"full": 89.50, "adapter": 82.46, "language": 87.84, "every4th": 87.34, "ffn": 88.12, "random": 86.98,
             "attention": 88.06, "next-patch": 89.40}
    assert set(paper) == set(VARIANTS)
    assert all(paper[claim.better] > paper[claim.worse] + 0.5 for claim in COMPARISON.claims)
    assert {claim.worse for claim in COMPARISON.claims if claim.better == "full"} == {*VARIANTS} - {"full", "next-patch"}


@pytest.mark.parametrize("change, message", [
    (dict(only=["full", "half"]), "no variant 'half'; there are full, adapter, "),
    (dict(samples=1), "--samples 1: less than one batch, which is 2"),
])
def test_what_does_not_fit(world, change, message):
    with pytest.raises(UserError, match=message):
        ablate.ablate("experts", world, world / "out", **change)


@pytest.mark.parametrize("missing", ["vision.done.safetensors", "language.done.safetensors", "tokenizer.json"])
def test_a_folder_whose_stages_are_not_finished(world, missing):
    (world / missing).unlink()
    with pytest.raises(UserError, match=f"{missing}: missing; "):
        ablate.ablate("experts", world, world / "out")


# Bridges and ways

def test_the_same_questions_whatever_the_picture_takes(world, config):
    """64 tokens or 16, in the text or beside it: every variant learns the same words."""
    said = []
    for name, what in (("linear", "bridges"), ("perceiver", "bridges"), ("flamingo", "ways"), ("adapter", "ways"),
                       ("eve", "ways"), ("bare", "encoder-free"), ("own-norms", "encoder-free")):
        comparison = ablate.COMPARISONS[what]
        [variant] = [variant for variant in comparison.variants if variant.name == name]
        inputs, labels = ablate.part(ablate.COMPARISONS["bridges"], variant, variant.config(config), "", "train", range(2))
        said.append([inputs.ids[row][(inputs.types[row] == 0) & (inputs.mask[row] > 0)].tolist() for row in range(2)])
        assert (labels != -100).any()
    assert all(some == said[0] for some in said)


def test_a_models_folder_is_a_start_too(config, make_leaves, tmp_path):
    """Its tower and language model, whatever else it has; not one whose pictures are pooled already."""
    leaves = make_leaves(config, np.float32)
    save(tmp_path, leaves, config, "F32")
    ours, begun = ablate.start(tmp_path, 0)
    assert ours == config
    for name in leaves:
        taken = matches(name, TOWER + LANGUAGE)
        assert np.array_equal(begun[name], leaves[name]) == taken or "inv_freq" in name or "norm1" in name, name


def test_a_model_that_pools_is_no_start(make_config, make_leaves, tmp_path):
    config = make_config("cogvlm2")
    save(tmp_path, make_leaves(config, np.float32), config, "F32")
    with pytest.raises(UserError, match="the comparisons are made with a CogVLM of the first generation"):
        ablate.start(tmp_path, 0)


def test_pictures_with_something_written(world, monkeypatch):
    """One in WRITTEN, in training and in the questions"""
    bridges = ablate.COMPARISONS["bridges"]
    ablate.questions.cache_clear()
    asked = Counter(question.kind for question in ablate.questions(bridges.asked))
    assert set(asked) == {"caption", "box", "at box", "read"} and asked["read"] == ablate.ASKED
    written = scene("check", 3, (1, 1))
    monkeypatch.setattr(ablate, "writing", lambda split, number: written)
    drawn = [ablate.conversation(bridges, "train", number)[0] is written for number in range(12)]
    assert drawn == [number % ablate.WRITTEN == 0 for number in range(12)]
    ablate.questions.cache_clear()


def test_the_loss_on_true_answers(world, config):
    """Over all tokens of the answers: that of each question, weighted by its tokens, however they are put together"""
    variant = VARIANTS["full"]
    _, leaves = ablate.start(world, 0)
    model = variant.model(config, variant.begin(config, leaves, 0), ByteTokenizer(config))
    ablate.questions.cache_clear()
    asked = [question for question in ablate.questions(("box",)) if question.kind == "box"][:33]
    ablate.questions.cache_clear()
    losses, counts = zip(*((ablate.loss_on(variant, model, [one]), len(model.tokenizer.encode(one.truth)) + 1)
                           for one in asked))
    assert len(set(counts)) > 1 and min(losses) > 0
    assert ablate.loss_on(variant, model, asked) == pytest.approx(np.average(losses, weights=counts), rel=1e-4)


@pytest.mark.slow
def test_two_bridges_and_two_ways_from_the_command(tmp_path, capsys, monkeypatch):
    """Of the bundled model, a few steps each: a table, claims, equal work, all files; then nothing is done again."""
    for name, value in {"PICTURES": 32, "ASKED": 8, "text_losses": partial(ablate.text_losses, count=2)}.items():
        monkeypatch.setattr(ablate, name, value)
    ablate.questions.cache_clear()
    for what, names in (("bridges", "linear,perceiver"), ("ways", "adapter,vilt")):
        command = ["ablate", what, "--out", str(tmp_path / what), "--samples", "64", "--seeds", "1", "--only", names]
        assert main(command) == 0
        table = capsys.readouterr().out
        for name in names.split(","):
            assert f"(`{name}`) |" in table
            result = result_of(tmp_path / what, name)
            assert result["work"]["sample"] > result["work"]["picture"] > result["work"]["token"] > 1e5
            assert (what == "bridges") == ("loss on read" in result["seen"])
        assert ("At equal work" in table) == (what == "ways")
        assert "2 of " in table and (tmp_path / what / "ablation.json").exists()
        with monkeypatch.context() as patch:
            patch.setattr(ablate, "fit", None)
            assert main(command) == 0 and capsys.readouterr().out == table
