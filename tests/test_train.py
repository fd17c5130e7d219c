"""Training: the optimiser's arithmetic, what conversations teach, runs that go on after a stop, the shipped weights."""
import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinycogvlm import load, prompt
from tinycogvlm.config import Config, VisionConfig
from tinycogvlm.grounding import parse
from tinycogvlm.model import CogVLM
from tinycogvlm.train import evaluate, first, loop, tower, words
from tinycogvlm.train.optimizer import adamw, clip, cosine, sgd
from tinycogvlm.train.world import NAMES, Dice, scene

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "weights" / "first"
GOLDEN = Path(__file__).parent / "golden" / "v1_grads"


@pytest.fixture(scope="module")
def shipped():
    return load(SHIPPED)


# The optimiser

def test_adamw_is_its_equation_entry_by_entry():
    random = np.random.default_rng(0)
    leaves = {"a": random.standard_normal((3, 2)), "b": random.standard_normal(4)}
    expected = {name: array.copy() for name, array in leaves.items()}
    m = {name: np.zeros(array.shape) for name, array in leaves.items()}
    v, moments = {name: np.zeros(array.shape) for name, array in leaves.items()}, {}
    for step in range(1, 6):
        gradients = {name: random.standard_normal(array.shape) for name, array in leaves.items()}
        gradients["b"][0] = 0.0                             # decay alone moves this one
        before = {name: (array, array.copy()) for name, array in leaves.items()}
        adamw(leaves, gradients, moments, step, 0.1, (0.8, 0.9), 1e-3, 0.05)
        assert all(np.array_equal(array, copy) for array, copy in before.values())      # old arrays stay as they are
        for name, w in expected.items():
            for i in np.ndindex(w.shape):
                g = gradients[name][i]
                m[name][i] = 0.8 * m[name][i] + 0.2 * g
                v[name][i] = 0.9 * v[name][i] + 0.1 * g * g
                w[i] -= 0.1 * 0.05 * w[i]
                w[i] -= 0.1 * (m[name][i] / (1 - 0.8 ** step)) / (math.sqrt(v[name][i] / (1 - 0.9 ** step)) + 1e-3)
            np.testing.assert_allclose(leaves[name], w, rtol=1e-13, atol=1e-15)


def test_eight_steps_of_adamw_and_three_of_sgd_give_pytorch_s_losses():
    """adamw within 1e-4; sgd within 1e-5 of the loss for three steps, so large that rounding grows eightfold a step."""
    golden, weights = load_file(GOLDEN / "grads.safetensors"), load_file(GOLDEN / "weights.safetensors")
    inputs = prompt.Inputs(*(golden[f"in/{name}"] for name in
                             ("input_ids", "token_type_ids", "attention_mask", "pixel_values")))
    for name, steps, tolerance in (("adamw", 8, 1e-4), ("sgd", 3, 4.5e-5)):
        model, moments = CogVLM(Config.read(GOLDEN), dict(weights)), {}
        for step in range(1, steps + 1):
            loss, pull = model.loss(inputs, golden["in/labels"])
            assert abs(loss - golden[f"losses/{name}"][step - 1]) <= tolerance
            if name == "adamw":
                adamw(model.leaves, pull(), moments, step, 1e-3)
            else:
                sgd(model.leaves, pull(), 0.02)


def test_clip_shortens_what_is_too_long_and_nothing_else():
    gradients = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    clipped, norm = clip(gradients, 1.0)
    assert norm == 5 and np.allclose(clipped["a"], [0.6, 0], atol=1e-6) and np.allclose(clipped["b"], 0.8, atol=1e-6)
    assert np.array_equal(clip(gradients, 6.0)[0]["a"], [3, 0])


def test_the_rate_climbs_then_falls_to_zero():
    rates = [cosine(step, 100, 2.0, 10) for step in range(1, 101)]
    assert rates[0] == 0.2 and rates[9] == 2 and abs(rates[54] - 1) < 1e-12 and abs(rates[99]) < 1e-12
    assert all(np.diff(rates[:10]) > 0) and all(np.diff(rates[9:]) < 0)


# Words

def test_the_tokenizer_is_learned_again_the_same(tmp_path):
    words.train_tokenizer(tmp_path / "tokenizer.json")
    again, kept = (json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
                   for folder in (tmp_path, SHIPPED))
    assert again["vocab"] == kept["vocab"] and again["merges"] == kept["merges"]


def test_the_tokenizer_keeps_every_text(shipped):
    tokenizer = shipped.tokenizer
    assert (tokenizer.pad, tokenizer.bos, tokenizer.eos) == (0, 1, 2) and tokenizer.vocab_size <= words.VOCABULARY
    for text in ("", "Where is the red star?", "  two  spaces\n\n", "naïve 日本語 🙂 \0\t", "</s><s><pad>", "[[000,020]]"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and not set(ids) & {0, 1, 2}
    assert [tokenizer.decode([id]) for id in tokenizer.encode("[[120,960")] == ["[[", "1", "2", "0", ",", "9", "6", "0"]
    assert all(len(tokenizer.encode(f" {name}")) == 1 for name in NAMES)


def test_labels_are_the_answers_and_an_eos_after_each(shipped):
    config, tokenizer = shipped.config, shipped.tokenizer
    for number in range(30):
        s = scene("train", number)
        turns = words.conversation(s, Dice("words", number), 3)
        inputs, labels = words.row(config, tokenizer, s.picture, turns)
        *history, (question, answer) = turns
        whole = prompt.build(config, tokenizer, f"{prompt.text('chat', question, history)} {answer}", [s.picture])
        assert np.array_equal(inputs.ids, np.append(whole.ids, [[2]], 1))           # what the template says, and eos
        assert np.array_equal(inputs.types[:, :-1], whole.types) and inputs.types[0, -1] == 0 and inputs.mask.all()
        assert np.array_equal(inputs.pixels, whole.pixels)
        said = tokenizer.decode(labels[labels != -100], special=True)
        assert said == "".join(f" {answer}</s>" for _, answer in turns)
        same = (labels == inputs.ids) | (labels == -100)
        assert tokenizer.decode(inputs.ids[~same]) == "\n\n"                        # eos where the template goes on
        assert tokenizer.decode(inputs.ids[:, 67:][labels[:, 67:] == -100]) == "".join(
            prompt.text("chat", question) for question, _ in turns)


def test_batches_pad_with_nothing_to_learn(shipped):
    inputs, labels = first.batch(shipped.config, shipped.tokenizer, range(8), 2)
    assert inputs.ids.shape == labels.shape and inputs.pixels.shape == (8, 3, 112, 112)
    assert (labels[inputs.mask == 0] == -100).all() and not (inputs.ids[inputs.mask == 0] != 0).any()
    assert ((labels == 2).sum(1) == 2).all()


def test_answers_are_true():
    kinds = Counter()
    for number in range(400):
        s, dice = scene("train", number), Dice("words", number)
        other = words.absent(s, dice)
        assert other in NAMES and other != s.name
        kinds["near" if s.colour in other or s.shape in other else "far"] += 1
        question, answer = words.where(s, dice)
        assert (s.shape in question or f"{s.colour} thing" in question) and len(parse(answer)[0]) == 1
        assert evaluate.iou(parse(answer)[0][0], s.thousandths) > 0.8
        question, answer = words.where_absent(s, dice)
        name = answer.removeprefix("There is no ").removesuffix(".")
        assert name in question and name not in (s.name, s.shape, f"{s.colour} thing")
        question, answer = words.is_there(s, dice)
        assert (s.name in question) == (answer == "Yes.")
        assert words.colour(s, dice)[1] == f"{s.colour.capitalize()}."
        assert words.shape(s, dice)[1] == f"A {s.shape}."
        assert words.what(s, dice)[1] == f"{words.a(s.name).capitalize()}."
    assert abs(kinds["near"] - 200) < 4 * 10


# Runs

@pytest.fixture
def small():
    vision = VisionConfig(hidden_size=16, num_hidden_layers=1, num_heads=2, intermediate_size=16, patch_size=14,
                          image_size=112)
    config = replace(first.Recipe().config, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=2, vision=vision)
    return first.Recipe(config, tower_steps=6, tower_batch=2, frozen_steps=4, joint_steps=4, batch=2)


def test_a_run_goes_on_bit_for_bit(small, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    monkeypatch.setattr(first.words, "train_tokenizer", lambda path: shutil.copy(SHIPPED / "tokenizer.json", path))
    monkeypatch.setattr(first.evaluate, "measure", lambda *_: {})
    whole = first.train(tmp_path / "whole", small)

    steps = Counter()
    for stage, stop in (("patch_loss", 4), ("batch", 6)):   # stop each stage once, in the middle of a step
        real = getattr(first, stage)

        def stopping(*arguments, real=real, stage=stage, stop=stop):
            steps[stage] += 1
            if steps[stage] == stop:
                raise KeyboardInterrupt
            return real(*arguments)
        monkeypatch.setattr(first, stage, stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            first.train(tmp_path / "stopped", small)
    resumed = first.train(tmp_path / "stopped", small)
    assert whole.leaves.keys() == resumed.leaves.keys()
    assert all(np.array_equal(whole.leaves[name], resumed.leaves[name]) for name in whole.leaves)
    start = first.initial(small)
    assert [name for name in start if np.array_equal(start[name], whole.leaves[name])] == [
        "model.layers.0.self_attn.rotary_emb.inv_freq"]     # all but the constant is trained, or at least decayed
    assert not list(tmp_path.glob("*/*.part"))


def test_the_tower_s_loss_and_gradient(small):
    """Against finite differences in float64, along a random direction."""
    random = np.random.default_rng(0)
    leaves = {name: array.astype(float) for name, array in first.initial(small).items()}
    leaves |= {name: random.standard_normal((rows, 16)) for name, rows in tower.HEADS.items()}
    scenes = [scene("train", number) for number in range(3)]
    loss, pull, _ = tower.patch_loss(leaves, small.config.vision, scenes)
    gradients = pull()
    assert set(gradients) == {name for name in leaves if name.startswith(tower.PARTS)}
    direction = {name: random.standard_normal(g.shape) for name, g in gradients.items()}
    moved = [tower.patch_loss(leaves | {name: leaves[name] + h * d for name, d in direction.items()},
                              small.config.vision, scenes)[0] for h in (1e-6, -1e-6)]
    slope = sum((gradients[name] * d).sum() for name, d in direction.items())
    assert abs((moved[0] - moved[1]) / 2e-6 - slope) < 1e-5 * abs(slope)


def test_patch_targets_follow_the_covered_share():
    scenes = [scene("train", number) for number in range(20)]
    target, boxes = tower.patch_targets(scenes, 14)
    assert target.shape == (20, 64) and boxes.shape == (20, 64, 4)
    for s, row, places in zip(scenes, target, boxes):
        for i in range(64):
            y, x = 14 * (i // 8), 14 * (i % 8)
            share = s.mask[y:y + 14, x:x + 14].mean() / 255
            assert row[i] == (NAMES.index(s.name) if share > 0.35 else -100 if share > 0.05 else len(NAMES))
            assert np.allclose(places[i], np.array(s.box) / 11.2)


# The shipped weights

def test_the_shipped_folder_is_what_it_says():
    assert (SHIPPED / "model.safetensors").stat().st_size < 5e6 and (SHIPPED / "README.md").exists()
    config = Config.read(SHIPPED)
    assert config == first.Recipe().config and config.template_version == "chat"
    tensors = load_file(SHIPPED / "model.safetensors")
    assert {name: array.shape for name, array in tensors.items()} == config.shapes()
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float16)}


def test_the_shipped_weights_see(shipped):
    """64 unseen scenes; the bounds lie three standard deviations under what 500 scenes measured."""
    seen = evaluate.measure(shipped, "test", 64)
    assert seen["name"] >= 0.9 and seen["box"] >= 0.7 and seen["absent"] >= 0.85 and seen["not denied"] >= 0.85


def test_without_the_picture_they_guess(shipped):
    blind = evaluate.measure(shipped, "test", 32, picture=False)
    assert blind["name"] <= 0.2 and blind["box"] <= 0.2 and blind["there or not"] <= 0.7
