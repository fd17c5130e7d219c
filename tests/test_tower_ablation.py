"""The ablation of the tower's stage: what a variant changes and learns, what is measured, runs done once, the table."""
import json
from dataclasses import asdict

import numpy as np
import pytest

from tinycogvlm.cli import main
from tinycogvlm.errors import UserError
from tinycogvlm.train.ablation import tower
from tinycogvlm.train.loop.loop import Diverged
from tinycogvlm.train.recipe import contrast
from tinycogvlm.world.sketches import hands


@pytest.fixture
def learned(monkeypatch):
    """{run: the first step's parts} of the runs that were trained, which here takes no time"""
    found = {}

    def fit(run, leaves, data, *given, **options):
        found[run.stage] = data
        return leaves
    monkeypatch.setattr(tower, "fit", fit)
    monkeypatch.setattr(tower.checkpoint, "restore", lambda run: ({}, {"seconds": 90.0}))
    monkeypatch.setattr(tower, "seen", lambda stage, leaves: dict.fromkeys(tower.MEASURES, len(found) / 10))
    return found


def test_one_thing_is_changed():
    full = asdict(tower.FULL)
    changed = {name: {field for field, value in asdict(stage).items() if value != full[field]}
               for name, (_, stage) in tower.VARIANTS.items()}
    assert changed.pop("full") == set() and changed.pop("adamw") == {"muon"} and changed.pop("168-pixels") == {"config"}
    assert set(map(frozenset, changed.values())) == {frozenset({"course"})}

    def manners(name):
        return [asdict(manner) for _, manner in tower.VARIANTS[name][1].course]
    for name, most in (("three-hands", 3), ("one-hand", 1)):            # beside no-lines, of hands alone
        for own, of_all in zip(manners(name), manners("no-lines")):
            assert own == of_all | {"hands": min(most, of_all["hands"])}
    assert [own["hands"] for own in manners("three-hands")] == [2, 3, 3]
    assert list(hands("train", "colour"))[:3] == ["noto", "twemoji", "fluent_flat"]


def test_a_seed_has_pictures_of_its_own(tmp_path, learned):
    tower.ablate(tmp_path, 64, 2, ["full", "adamw"])
    pixels = {name: data(0)[0][0] for name, data in learned.items()}
    assert np.array_equal(pixels["full-0"], pixels["adamw-0"]) and np.array_equal(pixels["full-1"], pixels["adamw-1"])
    assert not any(np.array_equal(a, b) for a, b in zip(pixels["full-0"], pixels["full-1"]))


def test_every_variant_is_measured_as_it_was_trained(monkeypatch):
    """At its own resolution, all on pictures of the same things"""
    monkeypatch.setattr(tower, "ASKED", 2)
    tower.asked.cache_clear()
    given = []
    monkeypatch.setattr(contrast, "read", lambda leaves, config, scenes: given.append(scenes) or (0.5, 0.25))
    for name, side in (("full", 112), ("168-pixels", 168)):
        found = tower.seen(tower.VARIANTS[name][1], {})
        assert list(found) == list(tower.MEASURES) and set(found.values()) == {0.5, 0.25}
        assert {scene.picture.shape for scenes in given for scene in scenes} == {(side, side, 3)}
        assert [scenes[0].split for scenes in given] == ["check"] * 4 + ["style"] * 2
        given.clear()
    tower.asked.cache_clear()


def test_no_run_is_done_twice(tmp_path, learned):
    table = tower.ablate(tmp_path, 64, 2, ["full", "adamw"])
    assert list(learned) == ["full-0", "adamw-0", "full-1", "adamw-1"]
    assert "(`full`) | 1.5 | 0.200 ± 1.271 |" in table and "(`adamw`) | 1.5 | 0.300 ± 1.271 |" in table
    assert "Muon is better than AdamW: `adamw` beside `full`, style, colour: name: **better, against the claim**" in table
    learned.clear()
    assert tower.ablate(tmp_path, 64, 2, ["full", "adamw"]) == table and not learned
    kept = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))["rows"]["full"]
    assert kept["seen"]["lines: name"] == [0.1, 0.3] and kept["seconds"] == [90, 90]
    with pytest.raises(UserError, match="full-0.json is the result of other --samples or of another recipe"):
        tower.ablate(tmp_path, 128, 1, ["full"])


def test_a_run_that_diverges_is_a_result(tmp_path, learned, monkeypatch):
    own = tower.fit

    def fit(run, *given, **options):
        if run.stage == "full-0":
            raise Diverged("full-0: in step 1 the loss is nan; saved")
        return own(run, *given, **options)
    monkeypatch.setattr(tower, "fit", fit)
    table = tower.ablate(tmp_path, 64, 1, ["full", "adamw"])
    assert "- full-0: in step 1 the loss is nan." in table and "(`adamw`)" in table and list(learned) == ["adamw-0"]
    assert tower.ablate(tmp_path, 64, 1, ["full", "adamw"]) == table


def test_a_damaged_result_is_named(tmp_path, learned):
    tower.ablate(tmp_path, 64, 1, ["full"])
    (tmp_path / "full-0.json").write_text("{", encoding="utf-8")
    for only in (["full"], ["adamw"]):
        with pytest.raises(UserError, match="full-0.json: damaged .* without this file the run is done again"):
            tower.ablate(tmp_path, 64, 1, only)


@pytest.mark.parametrize("given, says", [((64, 1, ["fulll"]), "no variant 'fulll'; there are full, "),
                                         ((63, 1, ["full"]), "--samples 63: less than one batch, which is 64")])
def test_what_cannot_be_run(tmp_path, given, says):
    with pytest.raises(UserError, match=says):
        tower.ablate(tmp_path / "out", *given)
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path, learned, capsys):
    assert main.main(["ablate", "tower", "--out", str(tmp_path), "--samples", "64", "--seeds", "1", "--only", "full"]) == 0
    assert "1 of 8 runs are finished" in capsys.readouterr().out
    assert main.main(["ablate", "tower", "--weights", "x", "--out", str(tmp_path)]) == 2
    assert "--weights: towers are trained from nothing" in capsys.readouterr().err
