"""The ablation's table, its notes and its figure, from results made by hand."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.loading import default_weights
from tinycogvlm.train.ablation import table
from tinycogvlm.train.ablation.ablate import COMPARISONS
from tinycogvlm.train.ablation.comparison import Claim, Comparison
from tinycogvlm.train.ablation.variants import Variant
from tinycogvlm.train.loop.loop import Diverged
from tinycogvlm.train.loop.run import Run

ROOT = Path(__file__).parents[1]


def result(loss, unchanged=True, **more):
    seen = {"loss": loss, "caption": 0.5, "box": 0.25}
    return {"settings": {}, "seconds": 100 * loss, "trained": 2_000_000, "seen": seen,
            "text before": {"list": 1.0, "sum": 2.0}, "text after": {"list": 1.5, "sum": 4.5},
            "text unchanged": unchanged, "curve": [{"samples": 160, "text list": 1.25, "text sum": 2.125},
                                                   {"samples": 320, "text list": 1.5, "text sum": 4.5}],
            "work": {"token": 2e6, "picture": 1.5e8, "sample": 1e9}, "ms an answer": 12.34, **more}


def test_who_has_no_texts_has_kept_none():
    texts = {True: {0: result(0.2)}, None: {0: result(0.2, unchanged=None)}}
    assert table.forgotten({"writes": texts[True], "chooses": texts[None]}) == [
        "The logits of texts without a picture are bit for bit those of before."]
    assert "all but: tuned." in table.forgotten({"chooses": texts[None], "tuned": {0: result(0.2, unchanged=False)}})[0]


@pytest.fixture
def three_seeds(tmp_path):
    """full .30 .40 .35; ffn .02 .03 .04 worse, attention .02 .03 .04 better, random sometimes this, sometimes that"""
    for seed, full in enumerate((0.30, 0.40, 0.35)):
        losses = {"full": full, "ffn": full + 0.02 + 0.01 * seed, "attention": full - 0.02 - 0.01 * seed,
                  "random": full + (-0.01, 0.01, 0.002)[seed]}
        for name, loss in losses.items():
            more = {"seen without EMA": {"loss": loss + 0.1, "caption": 0.25, "box": 0.0}} if name == "full" else {}
            table.write(Run(tmp_path, f"{name}-{seed}"), result(loss, **more))
    table.write(Run(tmp_path, "language-0"), result(0.2, unchanged=False))
    return tmp_path


NAMES = "full", "adapter", "language", "ffn", "random", "attention"
COMPARED = Comparison("Which is best?", tuple(Variant(name, f"the variant {name}") for name in NAMES), "full",
                      (*(Claim("full", name) for name in NAMES[1:]),
                       Claim("attention", "ffn", "box", "boxes need it (Somebody)")), 6000)


def test_the_table(three_seeds):
    lines = table.report(three_seeds, COMPARED, 3).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    rows = {name: others for name, *others in cells}
    assert rows[""] == ["trained", "validation loss", "caption", "box", "text loss before", "after", "MFLOP a token",
                         "a picture", "a sample learned", "ms an answer", "minutes", "loss, to `full`"]
    assert rows["the variant full (`full`)"] == [
        "2.00 M", "0.3500 ± 0.1242", "0.500 ± 0.000", "0.250 ± 0.000", "1.500", "3.000 ± 0.000", "2", "150", "1e+03",
        "12.3 ± 0.0", "0.6", ""]
    says = {row: cells[-1] for row, cells in rows.items()}
    assert says["the variant ffn (`ffn`)"] == "+0.0300 ± 0.0248"
    assert says["the variant language (`language`)"] == "-0.1000"
    assert rows["no EMA: the full model's last weights (`no-ema`)"][1:4] == [
        "0.4500 ± 0.1242", "0.250 ± 0.000", "0.000 ± 0.000"]
    assert "(`adapter`)" not in "".join(rows) and len(rows) == 8
    text = "\n".join(lines)
    assert "13 of 18 runs are finished" in text
    assert "- `ffn` beside `full`, loss: worse, as claimed (+0.0300 ± 0.0248)." in text
    assert "- `attention` beside `full`, loss: **better, against the claim** (-0.0300 ± 0.0248)." in text
    assert "- `random` beside `full`, loss: no clear difference (+0.0007 ± 0.0250)." in text
    assert "- `language` beside `full`, loss: -0.1000, of one seed." in text
    assert "boxes need it (Somebody): `ffn` beside `attention`, box: no clear difference (+0.0000 ± 0.0000)." in text
    assert "bit for bit those of before in all but: language." in text
    assert ("`language`, seed 0: after 160 samples the loss on texts of the kind list has risen most, from 1.000 to "
            "1.250; at the end list 1.000 to 1.500, sum 2.000 to 4.500.") in text
    kept = json.loads((three_seeds / "ablation.json").read_text(encoding="utf-8"))
    assert kept["rows"]["ffn"]["seen"]["loss"] == [pytest.approx(0.38), pytest.approx(np.std([.32, .43, .39], ddof=1))]
    assert kept["rows"]["ffn"]["difference"] == [pytest.approx(0.03), pytest.approx(4.303 * 0.01 / 3 ** 0.5)]
    assert [seen["loss"] for seen in kept["rows"]["ffn"]["of each seed"]] == pytest.approx([.32, .43, .39])
    assert kept["rows"]["ffn"]["seeds"] == [0, 1, 2] and kept["title"] == "Which is best?" and kept["equal work"] == {}


def test_more_right_answers_are_better_and_less_loss_is():
    some = [{seed: {"seen": {"loss": loss, "loss on box": loss, "box": loss}} for seed, loss in enumerate(losses)}
            for losses in ((.1, .2), (.3, .4))]
    assert table.verdict(*some) == "worse, as claimed (+0.2000 ± 0.0000)"
    assert table.verdict(*some, "box") == "**better, against the claim** (+0.2000 ± 0.0000)"
    assert table.verdict(*some, "loss on box") == "worse, as claimed (+0.2000 ± 0.0000)"
    assert table.verdict(*some, "caption") == "no run of both has it"


def test_losses_on_kinds_of_questions_stand_beside_the_loss():
    rows = {"full": {**table.summary({0: result(0.5)}), "seen": {"loss": [0.5, None], "loss on box": [0.25, None],
                                                                 "box": [0.75, None]}}}
    head, _, row = table.markdown(rows, {"full": "all"}, "full")
    assert head.startswith("|  | trained | validation loss | loss on box | box | text loss")
    assert row.startswith("| all (`full`) | 2.00 M | 0.5000 | 0.2500 | 0.750 | ")
    assert table.judged(rows) == ["box"]                    # what the figure has as a share of right answers


def test_at_equal_work(tmp_path):
    """`dear` does twice the work for a sample: it is read at half of its samples, between two points of its curve."""
    curve = [{"samples": 100, "loss": 2.0, "box": 0.1}, {"samples": 200, "loss": 1.0, "box": 0.3},
             {"samples": 400, "loss": 0.5, "box": 0.5}]
    for name, work in (("cheap", 1e9), ("dear", 2.5e9)):
        table.write(Run(tmp_path, f"{name}-0"), result(0.5, curve=curve, work={"token": 1, "picture": 1, "sample": work}))
    chooses = [{name: number for name, number in point.items() if name != "loss"} for point in curve]
    table.write(Run(tmp_path, "chooser-0"), {**result(0.5, curve=chooses), "seen": {"box": 0.5}, "text before": {},
                                             "text after": {}})
    compared = Comparison("Which way?", tuple(Variant(name, name) for name in ("cheap", "dear", "chooser")), "cheap", (),
                          400, curve=True)
    text = table.report(tmp_path, compared, 1)
    assert "At equal work, 0.4 TFLOP of training each:" in text
    assert "| cheap (`cheap`) | 400 | 0.5000 | 0.500 |" in text and "| dear (`dear`) | 160 | 1.4000 | 0.220 |" in text
    assert "| chooser (`chooser`) | 400 | – | 0.500 |" in text
    assert "| chooser (`chooser`) | 2.00 M | – | – | 0.500 | – | – |" in text
    kept = json.loads((tmp_path / "ablation.json").read_text(encoding="utf-8"))
    assert kept["equal work"]["rows"]["dear"]["samples"] == [160, None]
    assert kept["rows"]["dear"]["curve"][1] == {"samples": 200, "loss": [1.0, None], "box": [0.3, None]}


def test_the_figure(three_seeds, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = table.report(three_seeds, COMPARED, 3)
    assert text.startswith("|  | trained ") and text.endswith(
        "- The figure needs matplotlib: pip install 'tinycogvlm[plot]'")
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    assert table.report(three_seeds, COMPARED, 3).endswith(f"Drawn: {three_seeds / 'ablation.png'}")
    assert (three_seeds / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert not list(three_seeds.glob("*.part*"))


def test_the_axes_of_curves():
    """5 minutes for 300 samples of 2 GFLOP each"""
    row = {"work": {"sample": 2e9}, "seconds": [300.0, None], "curve": [{"samples": 100}, {"samples": 300}]}
    for over, wanted in (("samples", 300), ("TFLOP of training", 0.6), ("minutes", 5)):
        assert 300 * table.a_sample(row, over) == pytest.approx(wanted)


def test_curves_are_drawn(tmp_path):
    """Of eleven variants, for there are ten colours, over each of the axes"""
    pytest.importorskip("matplotlib")
    curve = [{"samples": 100, "loss": 2.0, "box": 0.1}, {"samples": 400, "loss": 0.5, "box": 0.5}]
    names = [f"way{i}" for i in range(11)]
    for name in names:
        table.write(Run(tmp_path, f"{name}-0"), result(0.5, curve=curve))
    compared = Comparison("Which way?", tuple(Variant(name, name) for name in names), "way0", (), 400, curve=True, panels=(
        ("loss", "samples"), ("box", "minutes"), ("at box", "TFLOP of training")))
    assert table.report(tmp_path, compared, 1).endswith(f"Drawn: {tmp_path / 'ablation.png'}")


def test_a_run_that_diverged_is_a_result(tmp_path, capsys):
    """It is said and not done again; the table has the other seeds."""
    table.write(Run(tmp_path, "full-0"), result(0.5))
    table.write(Run(tmp_path, "ffn-0"), result(0.7))
    run = Run(tmp_path, "ffn-1")
    run.newest.touch()
    table.write_broken(run, {"seed": 1}, Diverged("ffn-1: in step 7 the loss is nan; nothing was saved"))
    assert capsys.readouterr().err == "ffn-1: in step 7 the loss is nan; that is its result\n" and not run.newest.exists()
    assert table.finished(run) == {"settings": {"seed": 1}, "diverged": "ffn-1: in step 7 the loss is nan"}
    text = table.report(tmp_path, COMPARED, 2)
    assert "\n- ffn-1: in step 7 the loss is nan.\n" in text and "2 of 12 runs are finished" in text
    assert "| the variant ffn (`ffn`) | 2.00 M | 0.7000 |" in text
    (tmp_path / "full-0.json").unlink()
    (tmp_path / "ffn-0.json").unlink()
    assert table.report(tmp_path, COMPARED, 2) == "No run is finished yet.\n- ffn-1: in step 7 the loss is nan."


def test_no_run_or_a_damaged_one(tmp_path):
    assert table.report(tmp_path, COMPARED, 3) == "No run is finished yet."
    (tmp_path / "full-1.json").write_text("{")
    with pytest.raises(UserError, match="full-1.json: damaged .* without this file the run is done again"):
        table.report(tmp_path, COMPARED, 3)


def test_what_is_printed_of_the_shipped_comparisons_is_what_came_out():
    """The card and docs/comparisons.md have each row of the tables that come with the weights, and each note."""
    pages = "".join((ROOT / path).read_text(encoding="utf-8")
                    for path in ("weights/tiny/README.md", "docs/comparisons.md"))
    files = sorted((default_weights() / "comparisons").glob("*.json"))
    assert files
    for file in files:
        kept, compared = json.loads(file.read_text(encoding="utf-8")), COMPARISONS[file.stem]
        says = {table.PLAIN: "no EMA: the full model's last weights",
                **{variant.name: variant.says for variant in compared.variants}}
        assert kept["title"] == compared.title and set(kept["rows"]) - {table.PLAIN} == set(says) - {table.PLAIN}
        for line in table.markdown(kept["rows"], says, compared.reference) + [
                f"- {note}" for note in kept["notes"] if " seed " not in note]:
            assert line in pages, f"{file.stem}: {line}"
        assert all(row["seeds"] == [0, 1, 2] for row in kept["rows"].values()), file.stem
