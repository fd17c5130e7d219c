"""The ablation of the tower's stage: what a variant changes, runs that are never done twice, the table."""
from dataclasses import asdict

import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.train.ablation import tower
from tinycogvlm.train.recipe.stages import Vision


@pytest.fixture
def learned(monkeypatch):
    """The names of the runs that were trained, which here takes no time"""
    names = []
    monkeypatch.setattr(tower, "fit", lambda run, leaves, *given, **options: names.append(run.stage) or leaves)
    monkeypatch.setattr(Vision, "watch", lambda stage, leaves: {"colour: name": len(names) / 10})
    return names


def test_one_thing_is_changed():
    full = asdict(tower.FULL)
    changed = {name: {field for field, value in asdict(stage).items() if value != full[field]}
               for name, (_, stage) in tower.VARIANTS.items()}
    assert changed.pop("full") == set() and changed.pop("adamw") == {"muon"} and changed.pop("168-pixels") == {"config"}
    assert set(map(frozenset, changed.values())) == {frozenset({"course"})}


def test_no_run_is_done_twice(tmp_path, learned):
    table = tower.ablate(tmp_path, 64, 2, ["full", "adamw"])
    assert learned == ["full-0", "adamw-0", "full-1", "adamw-1"]
    assert "(`full`) | 2 | 0.200 ± 0.141 |" in table and "(`adamw`) | 2 | 0.300 ± 0.141 |" in table
    assert tower.ablate(tmp_path, 64, 2, ["full", "adamw"]) == table and len(learned) == 4
    with pytest.raises(UserError, match="full-0.json is the result of other --samples or of another recipe"):
        tower.ablate(tmp_path, 128, 1, ["full"])


def test_a_damaged_result_is_named(tmp_path, learned):
    tower.ablate(tmp_path, 64, 1, ["full"])
    (tmp_path / "full-0.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="full-0.json: damaged .* without this file the run is done again"):
        tower.ablate(tmp_path, 64, 1, ["full"])


@pytest.mark.parametrize("given, says", [((64, 1, ["fulll"]), "no variant 'fulll'; there are full, "),
                                         ((63, 1, ["full"]), "--samples 63: less than one batch, which is 64")])
def test_what_cannot_be_run(tmp_path, given, says):
    with pytest.raises(UserError, match=says):
        tower.ablate(tmp_path / "out", *given)
    assert not (tmp_path / "out").exists()
