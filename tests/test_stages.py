"""The pipeline: what each stage learns from, what it leaves as it is, and a small model trained from nothing."""
import json
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from tinycogvlm import load
from tinycogvlm.evaluate import accuracy
from tinycogvlm.inputs import examples
from tinycogvlm.model.parts import LANGUAGE, part
from tinycogvlm.nn.tree import matches
from tinycogvlm.train.recipe import stages, contrast
from tinycogvlm.world import conversations
from tinycogvlm.train.recipe.initial import CONFIG, initial
from tinycogvlm.train.loop.loop import Recipe, fit
from tinycogvlm.train.loop.run import Run
from tinycogvlm.train.recipe.stages import PER_STAGE, STAGES, at
from tinycogvlm.world.draw import paint
from tinycogvlm.world.scenes import SIDE, Dice, scene
from tinycogvlm.world.writing import written

SEEING = "adapter", "vision experts"                        # what learns to see


@pytest.fixture
def tokenizer():
    return str(Path(__file__).parents[1] / "weights" / "tiny" / "tokenizer.json")


@pytest.fixture
def small():
    """The geometry of a model so small that a step takes no time"""
    return replace(CONFIG, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                   num_key_value_heads=2, vision=replace(CONFIG.vision, hidden_size=16, num_hidden_layers=1,
                                                         num_heads=2, intermediate_size=16))


@pytest.mark.parametrize("name, parts", [("stage1", SEEING), ("stage2", SEEING), ("sft", (*SEEING, "language")),
                                         ("sft3", (*SEEING, "language"))])
def test_a_stage_moves_its_parts_and_no_other(small, tokenizer, name, parts):
    stage = replace(STAGES[name], tokenizer_path=tokenizer, batch=4, config=small)
    _, _, pull, _ = stage.loss(initial(small), stage.data(1, 0)[0])
    moved = {"language" if matches(n, LANGUAGE) else part(n) for n, g in pull().items() if np.abs(g).max() > 0}
    assert moved == set(parts)


def test_no_picture_comes_twice():
    """Numbers of a stage's scenes lie between its own multiple of PER_STAGE and the next; the tower's below all."""
    firsts = [stage.first for stage in STAGES.values() if isinstance(stage, stages.Pictures)]
    assert firsts == [n * PER_STAGE for n in range(1, 6)]
    assert max(stage.samples for stage in STAGES.values()) < PER_STAGE


def test_pictures_are_plain_written_and_drawn_by_any_hand():
    """One in six, one in twelve and the others, none of them by hands or of splits that training must not see"""
    stage = STAGES["sft"]
    some = [stage.scene(number, (1, 2), SIDE) for number in range(48)]
    assert [sum(written(s) for s in some), sum(s.paint is paint for s in some)] == [4, 8]
    assert {s.split for s in some} == {"train"} and len({(s.number, s.paint) for s in some}) == 48
    last = [STAGES["sft3"].scene(number, (3, 4), SIDE) for number in range(48)]
    assert [sum(written(s) for s in last), sum(s.paint is paint for s in last)] == [8, 8]
    assert all(len(s.things) == 1 for s in last[5::12])


def test_data_is_a_function_of_the_step(tokenizer):
    for name in ("language", "stage2", "sft"):
        stage = replace(STAGES[name], tokenizer_path=tokenizer, batch=8)
        once, again = stage.data(2, 7), stage.data(2, 7)
        assert len(once) == 4
        for (inputs, labels), (same, same_labels) in zip(once, again):
            assert np.array_equal(inputs.ids, same.ids) and np.array_equal(labels, same_labels)
        lengths = [inputs.ids.shape[1] for inputs, _ in once]
        assert lengths == sorted(lengths, reverse=True)
        assert {row.tobytes() for inputs, _ in once for row in inputs.ids}.isdisjoint(
            {row.tobytes() for inputs, _ in stage.data(2, 8) for row in inputs.ids})


def test_a_stage_follows_its_plan(tokenizer):
    """stage2: one or two things, then up to four, in larger pictures"""
    stage = replace(STAGES["stage2"], tokenizer_path=tokenizer, samples=4000, batch=4)
    sides = [{inputs.pixels.shape[-1] for inputs, _ in stage.data(1, step)} for step in (0, 490, 510, 999)]
    assert sides == [{SIDE}, {SIDE}, {168}, {168}]
    assert [at(share, stage.things) for share in (0, 0.49, 0.5, 0.999)] == [(1, 2), (1, 2), (1, 4), (1, 4)]
    lists = replace(STAGES["language"], tokenizer_path=tokenizer, samples=1000)
    said = lambda number: lists.example(number)[0].ids[0]
    word = lists.tokenizer.encode("Question: List")[1]
    assert all(said(number)[2] == word for number in range(0, 350, 20))
    assert not all(said(number)[2] == word for number in range(350, 1000, 20))


def test_the_first_stage_with_pictures_copies_the_language_model(small, tokenizer):
    leaves = STAGES["stage1"].begin(initial(small), 0)
    pairs = [(name, name.replace("vision_expert", "language_expert").replace("vision_mlp", "language_mlp"))
             for name in leaves if ".vision_" in name]
    assert len(pairs) == 5 and all(np.array_equal(leaves[a], leaves[b]) for a, b in pairs)


@pytest.mark.slow
def test_stages_hand_on_and_the_last_writes_the_model(small, tmp_path, monkeypatch):
    """All with eight samples each: what each starts from, the text's hash, the folder that load() reads."""
    monkeypatch.setattr(stages, "STAGES", {name: replace(stage, samples=8, batch=4, config=small)
                                           for name, stage in STAGES.items()})
    for name in stages.STAGES:
        stage, leaves = stages.start(name, tmp_path, seed=3)
        if name == "language":                              # not from the tower
            assert all(np.array_equal(leaves[n], array) for n, array in initial(small, 3).items())
        after = fit(Run(tmp_path, name), leaves, partial(stage.data, 1), stage.loss, stage.recipe(seed=3), ahead=0)
        folder = stages.finish(name, stage, tmp_path, leaves, after)
        if name in ("stage1", "stage2"):
            hashes = json.loads((tmp_path / f"{name}.text.json").read_text())
            assert hashes["before"] == hashes["after"]
            assert any(not np.array_equal(after[n], leaves[n]) for n in after if ".vision_" in n)
        else:
            assert not (tmp_path / f"{name}.text.json").exists()
        if name == "stage1":                                # the tower of the first stage, the words of the second
            for before in ("vision", "language"):
                handed = stages.handed_over(Run(tmp_path, before))
                assert all(np.array_equal(leaves[n], handed[n]) for n in handed if n in leaves and ".vision_" not in n)
    model = load(folder)
    began, ended = ({n: arrays[n].astype(np.float16).astype(np.float32) for n in model.parameters}
                    for arrays in (leaves, after))
    assert all(np.array_equal(model.leaves[n], end) for n, end in ended.items())        # of the last stage alone
    assert any(not np.array_equal(began[n], end) for n, end in ended.items())
    assert isinstance(model.ask(scene("test", 0).picture, "Where is the dog?", max_new_tokens=3).text, str)


@pytest.mark.slow
def test_a_model_from_nothing_learns_to_see(tokenizer, tmp_path):
    """Scenes of one coloured shape, 56 pixels a side: 8000 for the tower, 6400 with two questions each for the rest."""
    config = replace(CONFIG, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=4,
                     vision=replace(CONFIG.vision, hidden_size=64, num_hidden_layers=2, num_heads=4,
                                    intermediate_size=128, image_size=56))
    sft = replace(STAGES["sft"], tokenizer_path=tokenizer, config=config)
    scenes = (scene("train", number, (1, 1), 56) for number in count())
    shapes = (s for s in scenes if " " in s.things[0].name)

    def pictures(step):
        return [contrast.examples(list(islice(shapes, 32)), 14)]

    def talk(step):
        said = [(s, conversations.conversation(s, Dice("ask", s.number), 2, ("background", "colour")))
                for s in islice(shapes, 32)]
        return [examples.batch([examples.example(config, sft.tokenizer, s.picture, turns)
                                for s, turns in said], 0)]
    leaves = initial(config) | contrast.heads(config, np.random.default_rng(1))
    leaves["model.embed_tokens.weight"] *= np.float32(0.05)             # nothing is looked up in texts: sooner seen so
    recipe = Recipe(250, 32, peak=3e-3, ema=0.98)
    learned = fit(Run(tmp_path, "vision"), leaves, pictures, lambda leaves, part: contrast.loss(leaves, config, part),
                  recipe, ahead=0)
    learned = fit(Run(tmp_path, "sft"), {name: learned[name] for name in config.shapes()}, talk, sft.loss,
                  replace(recipe, steps=200), ahead=0)
    model = sft.model(learned, sft.tokenizer)
    alone = accuracy.Pictures("1 thing", ("background", "colour"))
    table = accuracy.measure(model, "test", 200, [alone], side=56)["1 thing"]
    assert table["background"]["share"] >= 0.8 and table["colour"]["share"] >= 0.8
