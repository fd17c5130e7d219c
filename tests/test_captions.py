"""Data sets to captions: what is read and written, what is refused, and runs that are killed at any point."""
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_model import ANSWER

from tinycogvlm import load
from tinycogvlm.captions import captioner, items, parts, processes
from tinycogvlm.captions.captioner import Captioner, repeats, trimmed
from tinycogvlm.captions.settings import Settings, digest
from tinycogvlm.cli import main
from tinycogvlm.errors import UserError
from tinycogvlm.inputs import grounding
from tinycogvlm.inputs.image import FORMATS
from tinycogvlm.model import generate
from tinycogvlm.storage.lock import claimed

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of this process")


@pytest.fixture
def run(toy, capsys, tmp_path, monkeypatch):
    """run(argument, ...) of `caption` in a folder of its own -> exit code, stdout, stderr"""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main.main(["caption", "--weights", str(toy), *map(str, arguments)])
        return code, *capsys.readouterr()
    return run


def png(shade, size=(200, 100)):
    file = io.BytesIO()
    Image.new("L", size, shade).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path):
    """A folder of six pictures, one of them broken"""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.PNG", "c.png", "deep/d.png", "e.png")):
        (folder / name).write_bytes(png(i))
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not one of them")
    return folder


def rows(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


NAMES = ["photos/a.png", "photos/b.PNG", "photos/broken.jpg", "photos/c.png", "photos/deep/d.png", "photos/e.png"]


# In and out

def test_a_folder_becomes_rows_in_its_order(run, photos, tmp_path):
    code, out, err = run("photos", "--out", "out.jsonl", "--boxes", "--prompt", "Where?:")
    assert (code, out) == (1, "") and "out.jsonl: 6 pictures; 6 captioned now, " in err and "1 failed" in err
    found = rows("out.jsonl")
    assert [row["image"] for row in found] == NAMES
    assert [row["error"] for row in found if row["error"]] == [
        "photos/broken.jpg: not a picture in a known format (" + ", ".join(FORMATS) + ")"]
    key = found[0].pop("key")
    assert re.fullmatch("[0-9a-f]{48}", key)
    assert found[0] == {"image": "photos/a.png", "caption": ANSWER, "boxes": [[20, 20, 60, 40]], "tokens": 2,
                        "finish": "stop", "error": None}
    broken = found[2]
    assert [broken[name] for name in ("caption", "boxes", "tokens", "finish")] == [None] * 4
    assert len({row["key"] for row in found[1:]} | {key}) == 6 and {row["key"][:16] for row in found[1:]} == {key[:16]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "photos"]


def test_the_documented_commands(run, photos):
    """docs/captioning.md, word for word: its commands on a folder `photos`, and the fields of its row"""
    page = (Path(__file__).parents[1] / "docs" / "captioning.md").read_text(encoding="utf-8")
    commands = [shlex.split(words)[1:] for words in re.findall(r"^\$ tinycogvlm (caption photos .*)", page, re.MULTILINE)]
    assert len(commands) == 2
    for command in commands:
        code, _, err = run(*command)
        out = command[command.index("--out") + 1]
        assert (code, len(rows(out))) == (1, 6) and err.startswith(f"{out}: 6 pictures; 6 captioned now, ")
    assert list(rows("captions.jsonl")[0]) == list(json.loads(re.search(r"^{.*}$", page, re.MULTILINE)[0]))
    assert rows("columns.jsonl")[0].keys() >= {"caption", "place"}


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_a_tar_its_fields_and_its_damage(run, tmp_path):
    write_tar(tmp_path / "w.tar", {"x/1.png": png(1), "x/1.json": b'{"tags": "red {star}", "n": 3}',
                                   "x/2.seg.png": png(2), "x/2.txt": b"old", "x/3.png": png(3), "x/3.json": b"{",
                                   "x/1.cls": b"0"})
    with (tmp_path / "w.tar").open("rb") as file:
        (tmp_path / "cut.tar").write_bytes(file.read()[:3000])
    (tmp_path / "z.tar.gz").write_bytes(b"")
    code, _, _ = run("w.tar", "--out", "o.jsonl", "--template", "base", "--prompt", "{tags} {n} {{ {name}:", "--prompt",
                     "old={name}!")
    found = rows("o.jsonl")
    assert code == 1 and [row["image"] for row in found] == ["w.tar/x/1.png", "w.tar/x/2.seg.png", "w.tar/x/3.png"]
    assert found[0]["caption"] == ANSWER and found[0]["old"] == "[[1,2,3]]"
    assert found[0]["tokens"] == {"caption": 2, "old": 1} and found[0]["finish"] == {"caption": "stop", "old": "stop"}
    assert found[1]["error"] == ("w.tar/x/2.seg.png: the prompt asks for {tags}, but this picture has only name, txt")
    assert found[2]["error"].startswith("w.tar/x/3.png: the .json beside it is not valid JSON (")
    settings = Settings({"caption": "{tags} {n} {{ {name}"})
    assert settings.questions(items.listed(["w.tar"])[0]) == {"caption": "red {star} 3 { w.tar/x/1"}
    run("cut.tar", "z.tar.gz", "--out", "c.jsonl")
    errors = [row["error"] for row in rows("c.jsonl")]
    assert errors[0] is None and "cut.tar" in errors[-2] and errors[-1].startswith("z.tar.gz: a compressed tar")


def test_parquet_in_and_out(run, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "p.png").write_bytes(png(9))
    pq.write_table(pa.table({"tags": ["one", "two", None], "image": [{"bytes": png(1), "path": "x.png"},
                                                                   {"bytes": None, "path": "p.png"}, None]}),
                   tmp_path / "d.parquet", row_group_size=2)
    pq.write_table(pa.table({"tags": ["one"], "file_name": ["p.png"]}), tmp_path / "paths.parquet")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    data = "d.parquet", "paths.parquet", "none.parquet", "bad.parquet"
    assert run(*data, "--out", "o.parquet", "--boxes", "--prompt", "Where?:")[0] == 1
    found = pq.read_table("o.parquet").to_pylist()
    assert [row["image"] for row in found] == ["d.parquet/0", "d.parquet/1", "d.parquet/2", "paths.parquet/0",
                                               "none.parquet", "bad.parquet"]
    assert [row["caption"] for row in found] == [ANSWER, ANSWER, None, ANSWER, None, None]
    assert found[0]["boxes"] == [[20, 20, 60, 40]]
    assert found[2]["error"] == "d.parquet/2: there is no picture in this row"
    assert "no column holds pictures" in found[4]["error"] and "not a Parquet file" in found[5]["error"]
    run(*data, "--out", "o.jsonl", "--boxes", "--prompt", "Where?:")
    assert rows("o.jsonl") == found
    before = Path("o.parquet").read_bytes()
    assert "; 6 captioned now" in run(*data, "--out", "o.parquet", "--boxes", "--prompt", "Where?:")[2]
    assert Path("o.parquet").read_bytes() == before
    run("d.parquet", "--out", "t.jsonl", "--prompt", "a={tags}:", "--prompt", "b={tags}?")
    assert [row["error"] is None for row in rows("t.jsonl")] == [True, True, False]
    run("d.parquet", "--out", "t.parquet", "--prompt", "a={tags}:", "--prompt", "b={tags}?")
    assert pq.read_table("t.parquet").to_pylist() == rows("t.jsonl")


def test_parquet_without_pyarrow(run, tmp_path, monkeypatch):
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = "tinycogvlm: d.parquet: to read and write Parquet, install pyarrow: pip install 'tinycogvlm[data]'\n"
    assert run("d.parquet")[::2] == (1, said)
    assert "install pyarrow" in run("x.png", "--out", "o.parquet")[2]


def test_a_list_on_stdin(run, photos, monkeypatch):
    lines = ["photos/a.png", "", '{"image": "photos/c.png", "tags": "x"}', '{"picture": 1}', "none.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    code, _, _ = run("-", "--out", "o.jsonl", "--prompt", "{name}:")
    found = rows("o.jsonl")
    assert code == 1 and [row["caption"] for row in found] == [ANSWER, ANSWER, None, None]
    assert found[2]["error"] == 'line 4 of the list is not JSON with the path of an "image"'
    assert found[3]["error"].startswith("none.png: cannot be read (No such file")


def test_patterns_and_empty_places(run, photos, tmp_path):
    names = "a.png", "c.png", "deep/d.png", "e.png"
    assert run("photos/**/*.png")[1] == "".join(f"photos/{name}: {ANSWER}\n" for name in names)
    assert run("photos/*.bmp")[::2] == (1, "tinycogvlm: no file has a name like photos/*.bmp\n")
    (tmp_path / "empty").mkdir()
    assert "empty: no pictures in this folder" in run("empty", "--out", "o.jsonl")[2]
    (photos / "a[1].png").write_bytes(png(3))
    assert run("photos/a[1].png")[1] == ANSWER + "\n"


def test_a_tar_of_samples(run, photos):
    command = "photos", "--out", "o.tar", "--prompt", "x:", "--prompt", "long=y?", "--template", "base"
    assert run(*command)[0] == 1
    with tarfile.open("o.tar") as tar:
        assert tar.getnames()[:5] == ["000000000.png", "000000000.txt", "000000000.long.txt", "000000000.json",
                                      "000000001.png"]
        assert "000000002.json" in tar.getnames() and "000000002.txt" not in tar.getnames()
        assert tar.extractfile("000000000.png").read() == png(0)
        assert tar.extractfile("000000000.txt").read().decode() == ANSWER
        assert json.load(tar.extractfile("000000000.json"))["long"] == "no such thing."
    before = Path("o.tar").read_bytes()
    run(*command)
    assert Path("o.tar").read_bytes() == before


def test_texts_beside_the_pictures_keep_what_is_there(run, photos):
    (photos / "c.txt").write_text("mine")
    code, _, err = run("photos/a.png", "photos/c.png", "--out", "o.jsonl", "--text-files", "--prompt", "x:")
    assert code == 1 and "photos/c.txt: has other words, which are kept" in err
    assert (photos / "a.txt").read_text() == ANSWER + "\n" and (photos / "c.txt").read_text() == "mine"
    (photos / "c.txt").unlink()
    assert run("photos/a.png", "photos/c.png", "--out", "o.jsonl", "--text-files", "--prompt", "x:")[0] == 0
    assert "one.jsonl: 1 picture; 1 captioned now" in run("photos/a.png", "--out", "one.jsonl")[2]
    assert (photos / "c.txt").read_text() == ANSWER + "\n"


def test_a_text_that_cannot_be_written_ends_nothing(run, photos, monkeypatch):
    (photos / "a.txt").mkdir()
    replace = os.replace

    def full(source, target):
        if str(target).endswith("c.txt"):
            raise OSError(28, "No space left on device")
        replace(source, target)
    monkeypatch.setattr(os, "replace", full)
    pictures = "photos/a.png", "photos/c.png", "photos/e.png"
    code, _, err = run(*pictures, "--out", "o.jsonl", "--text-files", "--prompt", "x:")
    assert code == 1 and "photos/a.txt: cannot be written (Is a directory)" in err
    assert "photos/c.txt: cannot be written (No space left on device)" in err and "2 not written to a .txt" in err
    assert len(rows("o.jsonl")) == 3 and (photos / "e.txt").read_text() == ANSWER + "\n" and not list(photos.glob("*.part"))
    monkeypatch.setattr(os, "replace", replace)
    (photos / "a.txt").rmdir()
    assert run(*pictures, "--out", "o.jsonl", "--text-files", "--prompt", "x:")[0] == 0
    assert (photos / "a.txt").read_text() == (photos / "c.txt").read_text() == ANSWER + "\n"


@pytest.mark.parametrize("words, said", [
    (["--trim"], "--trim is for captions in a file"), (["--shard", "1/1"], "'1/1' is not a part"),
    (["--prompt", "a", "--prompt", "b", "--out", "o.jsonl"], "two prompts for the column 'caption'"),
    (["--prompt", "key=a", "--out", "o.jsonl"], "this column has another meaning"),
    (["--prompt", "a=x", "--prompt", "b=y"], "several prompts need columns"),
    (["--mine", "--workers", "2", "--out", "o.jsonl"], "leave out --workers"),
    (["--engine", "spark", "--out", "o.jsonl"], "'spark' is not ray"), (["--retries", "10"], "from 0 to 9")])
def test_wrong_usage(run, photos, words, said):
    code, out, err = run("photos", *words)
    assert (code, out) == (2, "") and said in err


def test_an_ending_that_is_none(run, photos):
    code, out, err = run("photos", "--out", "o.csv")
    assert (code, err) == (1, "tinycogvlm: o.csv: captions are written to a file with the ending .jsonl, .parquet or "
                              ".tar\n")


# Answers

def test_a_batch_says_what_single_questions_say(tmp_path):
    """Rows of other lengths, with sampling, at any place of any batch"""
    pictures = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(pictures):
        path.write_bytes(png(40 * i))
    found = items.listed(map(str, pictures))
    model = load()
    for sampling in {}, {"temperature": 1.5, "seed": 4}:
        settings = Settings({"a": "Describe the image.", "b": "What is in the picture? {name}"}, sampling=sampling,
                            limit=6, retries=0, batch=4)
        batched, _ = Captioner(settings, "0" * 16, model).rows(found)
        for item, row in zip(found, batched):
            [alone], _ = Captioner(settings, "0" * 16, model).rows([item])
            assert alone == row
    assert len({row["a"] for row in batched}) > 1


class Script:
    """A model that gives the answers in its script, by batches, and notes what it was asked for"""
    config = type("Config", (), {"max_position_embeddings": 2000, "vision": True})

    def __init__(self, *batches):
        self.batches, self.asked = list(batches), []

    def inputs(self, question, picture, template=None):
        return type("Row", (), {"ids": np.zeros((1, 10), int)})

    def answers(self, model, rows, limit, sampling):
        self.asked.append((len(rows), limit, sampling.repetition_penalty))
        found = self.batches.pop(0)
        if isinstance(found, Exception):
            raise found
        return [generate.Answer(text, grounding.parse(text)[0], 10, len(text.split()), 0.1, finish)
                for text, finish in found]


RUNAWAY = "a star, " * 12


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    def scripted(*batches, **changes):
        model = Script(*batches)
        monkeypatch.setattr(generate, "answers", model.answers)
        names = [str(tmp_path / f"{i}.png") for i in range(len(changes.pop("pictures", "1")))]
        for i, name in enumerate(names):
            Path(name).write_bytes(png(i))
        settings = Settings({"caption": "x"}, limit=50, **changes)
        return model, Captioner(settings, "0" * 16, model).rows(items.listed(names))[0]
    return scripted


def test_what_is_cut_gets_room_and_what_repeats_a_penalty(scripted):
    model, [a, b, c] = scripted([("A dog.", "stop"), ("A long", "length"), (RUNAWAY, "length")],
                                [("A longer", "length")], [(RUNAWAY, "stop")], [("A longest.", "stop")],
                                [("A star.", "stop")], pictures="abc")
    assert [row["caption"] for row in (a, b, c)] == ["A dog.", "A longest.", "A star."]
    assert {row["finish"] for row in (a, b, c)} == {"stop"}
    assert model.asked == [(3, 50, 1.0), (1, 100, 1.0), (1, 50, 1.1), (1, 200, 1.0), (1, 50, 1.2)]


def test_what_goes_wrong_again_is_said(scripted):
    _, [row] = scripted(*[[(RUNAWAY, "length")]] * 3)
    assert (row["finish"], row["caption"], row["error"]) == ("repetition", RUNAWAY, None)
    model, [row] = scripted([("A long", "length")], retries=0)
    assert row["finish"] == "length" and len(model.asked) == 1


def test_short_memory_halves_the_batch_and_one_bad_row_stands_alone(scripted):
    good = ("A dog.", "stop")
    model, found = scripted(MemoryError(), [good] * 2, MemoryError(), [good], MemoryError(), pictures="abcd")
    assert [asked[0] for asked in model.asked] == [4, 2, 2, 1, 1]
    assert [row["error"] is None for row in found] == [True] * 3 + [False]
    assert found[3]["error"].endswith("3.png: not enough memory, even for this picture alone")
    model, found = scripted(UserError("too long"), [good], UserError("too long"), pictures="ab")
    assert [row["caption"] for row in found] == ["A dog.", None] and found[1]["error"].endswith("1.png: too long")


@pytest.mark.parametrize("text, runs", [
    ("A dog, a dog, a dog, a dog, a dog and a dog.", False), ("", False), ("a", False), (RUNAWAY, True),
    ("x" * 64, False), ("x" * 65, True), ("In the park. " + "a red star and " * 5 + "a fox", False),
    ("Here " + "a tall house by the sea, " * 5, True), ("Here " + "a tall house by the sea, " * 4, False),
    ("".join(map(str, range(300))), False)])
def test_what_counts_as_running_away(text, runs):
    assert repeats(text) is runs


@pytest.mark.parametrize("text, rest", [
    ("The image shows a dog.", "A dog."), ("This picture depicts two cats.", "Two cats."),
    ("In the image, there is a dog.", "A dog."), ("In this photo we can see a \u00e9clair", "A \u00e9clair"),
    ("The image is of a bus.", "A bus."), ("The image is blurry.", "The image is blurry."), ("A dog.", "A dog."),
    ("A dog in the image, there is.", "A dog in the image, there is."), ("The image shows ", "The image shows "),
    ("\u00e9t\u00e9", "\u00e9t\u00e9"), ("iPhone on a table", "iPhone on a table")])
def test_trimming(text, rest):
    assert trimmed(text) == rest


# Settings, keys, what is in the way

def test_every_setting_changes_the_key_but_moving_the_weights_does_not(toy, tmp_path):
    base = {"folder": str(toy), "device": "cpu", "stream": False, "dtype": None}
    one = Settings({"caption": "x"}, base).identity()
    for change in ({"prompts": {"caption": "y"}}, {"sampling": {"seed": 1}}, {"limit": 9}, {"retries": 0},
                   {"trim": True}, {"boxes": True}, {"template": "base"}, {"rescale": True},
                   {"model": base | {"dtype": "float64"}}):
        assert Settings(**{"prompts": {"caption": "x"}, "model": base} | change).identity() != one, change
    shutil.copytree(toy, tmp_path / "moved")
    moved = base | {"folder": str(tmp_path / "moved"), "device": "cuda"}
    assert Settings({"caption": "x"}, moved, batch=3).identity() == one
    with (tmp_path / "moved" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    assert digest(tmp_path / "moved") != digest(toy)


def test_what_is_in_the_way_is_named_and_kept(run, photos):
    run("photos", "--out", "o.jsonl", "--prompt", "x:")
    before = Path("o.jsonl").read_bytes()
    for arguments, said in (
            (("photos", "--prompt", "y:"), "o.jsonl: holds captions of another model or of other settings"),
            (("photos/a.png", "--prompt", "x:"), "also holds captions of pictures that were not named now, such as "
                                                 "photos/b.PNG")):
        code, _, err = run(*arguments, "--out", "o.jsonl")
        assert code == 1 and said in err
        assert Path("o.jsonl").read_bytes() == before and not Path("o.jsonl.parts").exists()
    for content in b"{}\n", b"words", b"\xff":
        Path("mine.jsonl").write_bytes(content)
        code, _, err = run("photos", "--out", "mine.jsonl")
        assert (code, err) == (1, "tinycogvlm: mine.jsonl: line 1 is not a row of captions; move the file away\n")
        assert Path("mine.jsonl").read_bytes() == content
    Path("folder.jsonl").mkdir()
    assert "folder.jsonl: cannot be written (it is not a file)" in run("photos", "--out", "folder.jsonl")[2]
    assert "No such file" in run("photos", "--out", "none/o.jsonl")[2]


def test_again_with_more_pictures_only_the_new_and_the_failed_are_asked(run, photos, monkeypatch):
    run("photos", "--out", "o.jsonl")
    asked, answers = [], generate.answers
    monkeypatch.setattr(generate, "answers", lambda model, rows, *more: asked.append(len(rows)) or
                        answers(model, rows, *more))
    (photos / "0.png").write_bytes(png(77))
    (photos / "broken.jpg").write_bytes(png(88))
    (photos / "a.png").write_bytes(png(99))
    assert run("photos", "--out", "o.jsonl")[0] == 0 and asked == [3]
    assert [row["image"] for row in rows("o.jsonl")] == ["photos/0.png", *NAMES]


def test_an_unfinished_run_of_other_settings_is_kept(run, photos, monkeypatch):
    monkeypatch.setattr(parts, "SHARD", 2)
    assert "2 shards left to others" in run("photos", "--out", "o.jsonl", "--shard", "0/3")[2]
    before = sorted(Path("o.jsonl.parts").glob("*.json*"))
    code, _, err = run("photos", "--out", "o.jsonl", "--seed", "3")
    assert code == 1 and "o.jsonl.parts: holds an unfinished run whose sampling was {" in err
    assert sorted(Path("o.jsonl.parts").glob("*.json*")) == before
    [part] = Path("o.jsonl.parts").glob("*.jsonl")
    part.write_text("")
    assert "does not hold the rows of its shard; delete it" in run("photos", "--out", "o.jsonl")[2]


def test_shares_of_several_machines_meet(run, photos, monkeypatch):
    monkeypatch.setattr(parts, "SHARD", 2)
    run("photos", "--out", "whole.jsonl")
    for i in (2, 0, 1):
        assert not Path("o.jsonl").exists()
        run("photos", "--out", "o.jsonl", "--shard", f"{i}/3")
    assert Path("o.jsonl").read_bytes() == Path("whole.jsonl").read_bytes() and not Path("o.jsonl.parts").exists()


def test_two_processes_do_not_share_a_run_by_mistake(run, photos):
    Path("o.jsonl.parts").mkdir()
    with claimed("o.jsonl.parts/0-of-1.lock"):
        code, _, err = run("photos", "--out", "o.jsonl")
    assert code == 1 and "another process is at work on these captions" in err


def test_a_model_that_cannot_be_loaded_is_no_picture_s_error(run, photos, tmp_path):
    code, _, err = run("photos", "--out", "o.jsonl", "--image-size", "7")
    assert code == 1 and err.count("\n") == 1 and not Path("o.jsonl").exists()


def test_a_full_disk_loses_nothing(run, photos, monkeypatch):
    """As the second part is written, and as the last file is: what all parts are put together in"""
    monkeypatch.setattr(parts, "SHARD", 2)
    fsync, calls = os.fsync, []

    def full_at(last):
        def full(number):
            calls.append(number)
            if len(calls) == last:
                raise OSError(28, "No space left on device")
            fsync(number)
        calls.clear()
        monkeypatch.setattr(os, "fsync", full)
    full_at(None)
    run("photos", "--out", "whole.jsonl")
    for last, kept in (3, 1), (len(calls), 3):
        full_at(last)
        code, _, err = run("photos", "--out", "o.jsonl")
        assert code == 1 and "cannot be written (No space left on device)" in err and "Traceback" not in err
        assert len(list(Path("o.jsonl.parts").glob("*.jsonl"))) == kept and not Path("o.jsonl").exists()
        assert f"{6 - 2 * kept} captioned now" in run("photos", "--out", "o.jsonl")[2]
        assert Path("o.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
        Path("o.jsonl").unlink()


# Killed

POINTS = "replace", "fsync", "unlink", "rmdir", "mkdir"


def counting(act):
    """Call act(number of the call, before) around each of the system's calls that change the disk."""
    calls = [0]

    def around(function):
        def changed(*arguments, **named):
            calls[0] += 1
            act(calls[0], True)
            result = function(*arguments, **named)
            act(calls[0], False)
            return result
        return changed
    for name in POINTS:
        setattr(os, name, around(getattr(os, name)))
    return calls


def forked(work):
    """Run work() in a fork of this process -> its id"""
    child = os.fork()
    if not child:
        try:
            with open(os.devnull, "w") as nowhere:
                sys.stdout = sys.stderr = nowhere
                work()
        finally:
            os._exit(0)
    return child


@pytest.fixture
def killed(run, photos, monkeypatch, toy):
    """What the tests of kills share: a command, its uninterrupted output"""
    monkeypatch.setattr(parts, "SHARD", 2)
    model = load(toy)
    monkeypatch.setattr(captioner, "load", lambda **_: model)
    command = "photos", "--out", "o.jsonl", "--text-files", "--temperature", "1", "--max-new-tokens", "4"
    run(*command)
    whole = Path("o.jsonl").read_bytes()
    texts = {path: path.read_bytes() for path in photos.rglob("*.txt")}
    assert len(texts) == 6

    def reset():
        for path in photos.rglob("?.txt"):
            path.unlink()
        Path("o.jsonl").unlink(missing_ok=True)

    def check(point):
        assert run(*command)[0] == 1, point
        assert Path("o.jsonl").read_bytes() == whole, point
        assert {path: path.read_bytes() for path in photos.rglob("*.txt*")} == texts, point
        assert sorted(os.listdir()) == ["o.jsonl", "photos"], point
    return command, reset, check, whole


@forks
@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_point_it_goes_on_byte_for_byte(killed, run, stride):
    command, reset, check, _ = killed
    reset()
    usual = {name: getattr(os, name) for name in POINTS}
    calls = counting(lambda *_: None)
    run(*command)
    for name, function in usual.items():
        setattr(os, name, function)
    assert calls[0] > 25
    for number in range(1, calls[0] + 1, stride):
        for early in (True, False) if number == calls[0] else (True,):    # after one call is before the next
            reset()

            def work(number=number, early=early):
                counting(lambda n, before: n == number and before == early and os.kill(os.getpid(), signal.SIGKILL))
                main.main(["caption", "--weights", WEIGHTS[0], *command])
            child = forked(work)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL
            check((number, early))


WEIGHTS = []


@pytest.fixture(autouse=True)
def weights(toy):
    WEIGHTS[:] = [str(toy)]


@forks
@pytest.mark.slow
def test_killed_at_twenty_random_instants_it_goes_on_byte_for_byte(killed, run):
    command, reset, check, _ = killed
    dice = random.Random(0)
    reset()
    start = time.perf_counter()
    run(*command)
    took, interrupted = time.perf_counter() - start, 0
    for _ in range(20):
        reset()
        child = forked(lambda: main.main(["caption", "--weights", WEIGHTS[0], *command]))
        time.sleep(dice.random() * took)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        interrupted += not Path("o.jsonl").exists()
        check("random")
    assert interrupted > 5


# Several processes

@pytest.fixture
def killing(monkeypatch):
    """killing(when): a worker is killed as it gets a shard, if when(shard, how many shards were given) -> [shard, ...]"""
    def begin(when):
        start, give, of, given, dead = processes._start, processes._give, {}, [], []

        def started(*arguments):
            process, connection = start(*arguments)
            of[connection] = process
            return process, connection

        def gives(connection, todo, works):
            given.append(give(connection, todo, works))
            if when(given[-1], len(given)):
                dead.append(given[-1])
                of[connection].kill()
            return given[-1]
        monkeypatch.setattr(processes, "_start", started)
        monkeypatch.setattr(processes, "_give", gives)
        return dead
    return begin


def test_workers_write_the_same_and_one_that_dies_is_replaced(run, photos, monkeypatch, toy, killing):
    """The first worker dies at its first shard, another one at its second."""
    monkeypatch.setattr(parts, "SHARD", 2)
    run("photos", "--out", "o.jsonl", "--temperature", "1")
    dead = killing(lambda shard, count: count in (1, 3))
    code, _, err = run("photos", "--out", "w.jsonl", "--temperature", "1", "--workers", "2")
    assert code == 1 and "6 captioned now" in err and len(dead) == 2
    assert Path("w.jsonl").read_bytes() == Path("o.jsonl").read_bytes()


def test_a_shard_that_kills_its_workers_ends_the_run_which_goes_on_later(run, photos, monkeypatch, toy, killing):
    monkeypatch.setattr(parts, "SHARD", 2)
    run("photos", "--out", "o.jsonl")
    dead = killing(lambda shard, count: shard == 1)
    code, _, err = run("photos", "--out", "w.jsonl", "--workers", "2")
    assert code == 1 and "3 workers died over shard 1" in err and dead == [1] * 3 and not Path("w.jsonl").exists()
    monkeypatch.undo()
    monkeypatch.chdir(photos.parent)
    monkeypatch.setattr(parts, "SHARD", 2)
    run("photos", "--out", "w.jsonl")
    assert Path("w.jsonl").read_bytes() == Path("o.jsonl").read_bytes()
