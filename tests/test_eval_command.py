"""`tinycogvlm eval`: its table, its JSON, its gallery, and what it refuses before the model runs."""
import io
import json
from functools import partial

import letter_model
import pytest
from PIL import Image

from tinycogvlm.cli import main
from tinycogvlm.evaluate import baselines, report
from tinycogvlm.evaluate.accuracy import GATES, GROUPS

CELL = {"share", "low", "high", "n"}
NAMES = list(dict.fromkeys(group.name for group in GROUPS))
PLAIN = [group.name for group in GROUPS if group.plain]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return letter_model.write(tmp_path_factory.mktemp("letters"))


@pytest.fixture
def run(folder, capsys, monkeypatch):
    monkeypatch.setattr(report.baselines, "measure", partial(baselines.measure, seen=6))

    def run(*arguments):
        code = main.main(["eval", "--weights", str(folder), *map(str, arguments)])
        return code, *capsys.readouterr()
    return run


def test_eval_prints_one_table(run, tmp_path):
    code, out, err = run("--scenes", 1, "--gallery", tmp_path / "errors.png")
    assert (code, err) == (0, f"{tmp_path / 'errors.png'}: wrong answers drawn\n")
    with Image.open(tmp_path / "errors.png") as sheet:
        assert sheet.width == 12 + 4 * 348
    assert [path.name for path in tmp_path.iterdir()] == ["errors.png"]
    lines = out.splitlines()
    heads = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if " interval |" in line]
    assert [head[0] for head in heads] == NAMES
    gates, compared = ["at least", "aim"], ["majority", "no picture", "nearest"]
    for head in heads:
        assert head[1:] == ["right", "interval", "questions", *(gates if "gate" in head else []),
                            *(compared if head[0] in PLAIN else []), *(["gate"] if "gate" in head else [])]
    assert {head[0] for head in heads if "gate" in head} == {group for group, _ in GATES}
    [box] = [line for line in lines if line.startswith("| box ") and " 95.0 |" in line and line.count("|") == 11]
    assert box.endswith(" missed |") and box.split("|")[6].strip() == "97.0"
    assert lines[-1].endswith(f" of {len(GATES)} gates are met.")


@pytest.fixture
def instant(monkeypatch):
    """Every third answer is right, and no model is asked."""
    monkeypatch.setattr(report, "ask", lambda model, asked, picture=True, through=iter: [
        "" if i % 3 else question.truth for i, question in enumerate(asked)])


def test_eval_json(run, folder, instant):
    code, out, err = run("--scenes", 1, "--json", "--split", "combinations")
    found = json.loads(out)
    assert (code, err, list(found["splits"])) == (0, "", ["combinations"])
    assert (found["weights"], found["scenes"]) == (str(folder), 1)
    table = found["splits"]["combinations"]
    assert list(table) == PLAIN
    for cell in [cell for rows in table.values() for cell in rows.values()]:
        assert set(cell) == CELL | {"majority", "no picture", "nearest"}
        assert 0 <= cell["low"] <= cell["share"] <= cell["high"] <= 1 and cell["n"] > 0
    test = json.loads(run("--scenes", 1, "--json", "--no-baselines")[1])["splits"]["test"]
    cells = {(group, row): cell for group, rows in test.items() for row, cell in rows.items()}
    assert {place: (cell["least"], cell["aim"]) for place, cell in cells.items() if "aim" in cell} == GATES
    assert all(set(cell) - {"least", "aim"} == CELL for cell in cells.values())


def test_eval_of_all_splits_side_by_side(run, instant):
    code, out, err = run("--scenes", 2, "--split", "all")
    assert (code, err) == (0, "")
    heads = [line.split("|")[1:-1] for line in out.splitlines() if "combinations" in line]
    assert [head[0].strip() for head in heads] == NAMES
    assert {tuple(name.strip() for name in head[1:]) for head in heads} == {("test", "combinations", "sizes")}
    counts = [line.count("(") for line in out.splitlines() if line.startswith("| count ")]
    assert counts[:3] == [3, 2, 1]                          # no picture of five things of unseen size, no such sketch


def test_verdicts():
    cell = {"least": .9, "aim": .95}
    assert [report.verdict(cell | {"share": share}) for share in (.89, .9, .949, .95, 1)] == [
        "missed", "met", "met", "aim met", "aim met"] and report.verdict({"share": 1}) == ""


def test_eval_without_a_wrong_answer(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ask", lambda model, asked, picture=True, through=iter: [q.truth for q in asked])
    code, out, err = run("--scenes", 1, "--no-baselines", "--gallery", tmp_path / "errors.png")
    assert (code, list(tmp_path.iterdir())) == (0, []) and out.endswith(f"\nall {len(GATES)} gates are met.\n")
    assert err == f"no answer about a picture was wrong; {tmp_path / 'errors.png'} is not written\n"


def test_what_is_wrong_is_known_before_the_model_runs(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ask", lambda *_, **__: pytest.fail("the model was asked"))
    for arguments, part in ((("--gallery", tmp_path / "x.nothing"), "no picture format"),
                            (("--gallery", tmp_path / "none" / "x.png"), "cannot be written"),
                            (("--weights", tmp_path), "config.json: cannot be read")):
        code, out, err = run(*arguments)
        assert (code, out) == (1, "") and err.startswith("tinycogvlm: ") and part in err and err.count("\n") == 1
    for arguments in (("--scenes", 0), ("--scenes", "few"), ("--split", "train"), ("--device", "gpu")):
        assert run(*arguments)[0] == 2


def test_a_bar_only_for_who_watches(monkeypatch, capsys):
    assert list(report.progress_bar([1, 2], "test")) == [1, 2] and capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr", terminal := io.StringIO())
    terminal.isatty = lambda: True
    assert list(report.progress_bar([1, 2], "test")) == [1, 2] and "test" in terminal.getvalue()
