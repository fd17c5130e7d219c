"""The ablation's table, its notes and its figure, from results made by hand."""
import json
import sys

import numpy as np
import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.train.ablation import table
from tinycogvlm.train.loop.run import Run


def result(loss, unchanged=True, **more):
    seen = {"loss": loss, "caption": 0.5, "box": 0.25}
    return {"settings": {}, "seconds": 100 * loss, "trained": 2_000_000, "seen": seen,
            "text before": {"list": 1.0, "sum": 2.0}, "text after": {"list": 1.5, "sum": 4.5},
            "text unchanged": unchanged, "forgetting": [{"samples": 160, "losses": {"list": 1.25, "sum": 2.125}},
                           {"samples": 320, "losses": {"list": 1.5, "sum": 4.5}}], **more}


@pytest.fixture
def three_seeds(tmp_path):
    """full .30 .40 .35; ffn .02 .03 .04 worse, attention .01 .02 .03 better, random sometimes this, sometimes that"""
    for seed, full in enumerate((0.30, 0.40, 0.35)):
        losses = {"full": full, "ffn": full + 0.02 + 0.01 * seed, "attention": full - 0.01 - 0.01 * seed,
                  "random": full + (-0.01, 0.01, 0.002)[seed]}
        for name, loss in losses.items():
            more = {"seen without EMA": {"loss": loss + 0.1, "caption": 0.25, "box": 0.0}} if name == "full" else {}
            table.write(Run(tmp_path, f"{name}-{seed}"), result(loss, **more))
    table.write(Run(tmp_path, "language-0"), result(0.2, unchanged=False))
    return tmp_path


SAYS = {name: f"the variant {name}" for name in ("full", "adapter", "language", "ffn", "random", "attention")}


def test_the_table(three_seeds):
    lines = table.report(three_seeds, SAYS, 3).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    rows = {name: others for name, *others in cells}
    assert rows[""] == ["trained", "validation loss", "caption", "box", "text loss before", "after", "seconds",
                         "to the full model"]
    assert rows["the variant full (`full`)"] == [
        "2.00 M", "0.3500 ± 0.0500", "0.500 ± 0.000", "0.250 ± 0.000", "1.500", "3.000 ± 0.000", "35", ""]
    says = {row: cells[-1] for row, cells in rows.items()}
    assert says["the variant ffn (`ffn`)"] == "worse, as in the paper (+0.0300 ± 0.0058)"
    assert says["the variant attention (`attention`)"] == "**better, against the paper** (-0.0200 ± 0.0058)"
    assert says["the variant random (`random`)"] == "no clear difference (+0.0007 ± 0.0058)"
    assert says["the variant language (`language`)"] == "-0.1000, of one seed"
    assert rows["no EMA: the full model's last weights (`no-ema`)"][1:4] == [
        "0.4500 ± 0.0500", "0.250 ± 0.000", "0.000 ± 0.000"]
    assert "(`adapter`)" not in "".join(rows) and len(rows) == 8
    text = "\n".join(lines)
    assert "13 of 18 runs are finished" in text
    assert "`ffn` beside `attention`, which is better in the paper: worse, as in the paper (+0.0500 ± 0.0115)." in text
    assert "bit for bit those of before in all but: language." in text
    assert ("`language`, seed 0: after 160 samples the loss on texts of the kind list has risen most, from 1.000 to "
            "1.250; at the end list 1.000 to 1.500, sum 2.000 to 4.500.") in text
    kept = json.loads((three_seeds / "ablation.json").read_text(encoding="utf-8"))
    assert kept["rows"]["ffn"]["seen"]["loss"] == [pytest.approx(0.38), pytest.approx(np.std([.32, .43, .39], ddof=1))]
    assert kept["rows"]["ffn"]["paper"] == says["the variant ffn (`ffn`)"] and kept["rows"]["ffn"]["seeds"] == [0, 1, 2]


def test_the_figure(three_seeds, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = table.report(three_seeds, SAYS, 3)
    assert text.startswith("|  | trained ") and text.endswith(
        "- The figure needs matplotlib: pip install 'tinycogvlm[plot]'")
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    assert table.report(three_seeds, SAYS, 3).endswith(f"Drawn: {three_seeds / 'ablation.png'}")
    assert (three_seeds / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert not list(three_seeds.glob("*.part*"))


def test_no_run_or_a_damaged_one(tmp_path):
    assert table.report(tmp_path, SAYS, 3) == "No run is finished yet."
    (tmp_path / "full-1.json").write_text("{")
    with pytest.raises(UserError, match="full-1.json: damaged .* without this file the run is done again"):
        table.report(tmp_path, SAYS, 3)
