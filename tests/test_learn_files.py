"""What a learner's files can be: other encodings, other people's, pipes, damaged; two commands that write at once."""
import codecs
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from learners import solve, write
from tinycogvlm.cli import main
from tinycogvlm.errors import UserError
from tinycogvlm.learn import course, parts
from tinycogvlm.learn.course import FOLDER, Mine, lesson, nearest

RIGHT = "y = x @ weight.T\nreturn y if bias is None else y + bias"
posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no owners of this kind")


def ask_mine(capsys):
    code = main.main(["ask", "--mine", "-", "Where is the dog?", "--max-new-tokens", "2"])
    return code, capsys.readouterr()


# ----------------------------------------------------------------------------------------------------------- encodings

def test_a_byte_order_mark_is_read(learn, capsys):
    file = write("01", linear=RIGHT)
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert "  linear                 passes\n" in learn("check 01").out
    assert "def linear(x, weight, bias=None):\n" in learn("solution 01 linear").out
    assert ask_mine(capsys)[0] == 0


def test_a_coding_line_is_followed(learn):
    file = write("01", linear=RIGHT)
    file.write_bytes(b"# -*- coding: latin-1 -*-\n# r\xe9sum\xe9\n" + file.read_bytes())
    assert "  linear                 passes\n" in learn("check 01").out


def test_what_is_not_utf_8_is_named_with_its_line(learn, capsys):
    file = write("01", linear=RIGHT)
    file.write_bytes(file.read_bytes() + b"# r\xe9sum\xe9\n")
    line = file.read_bytes().count(b"\n")
    said = f"{file}:{line}: not UTF-8 (byte 0xe9); save the file in UTF-8"
    checked = learn("check 01")
    assert checked.code == 1 and said in checked.out and "To go on with" not in checked.out
    learn("solution 01 linear")
    with pytest.raises(UserError) as caught:
        learn("solution 01 linear")
    assert said in str(caught.value)
    code, printed = ask_mine(capsys)
    assert code == 1 and said in printed.err and "Traceback" not in printed.err


def test_a_coding_line_that_names_nothing(learn):
    file = write("01", linear=RIGHT)
    file.write_bytes(b"# coding: klingon\n" + file.read_bytes())
    assert "unknown encoding: klingon" in learn("check 01").out


@pytest.mark.slow
def test_a_changed_file_of_the_same_second_and_size_is_read_again(learn):
    """No __pycache__, which goes by these two."""
    file = write("02", softmax="e = np.exp(x - x.max(-1, keepdims=True))\nreturn e / e.sum(-1, keepdims=True)")
    times = file.stat().st_mtime
    assert "softmax                passes" in learn("check 02").out
    file.write_text(file.read_text().replace("x.max(-1", "x.min(-1"))
    os.utime(file, (times, times))
    assert "softmax                wrong" in learn("check 02").out
    assert not (Mine().folder / "__pycache__").exists()


# -------------------------------------------------------------------------------------------------------------- owners

@pytest.fixture
def make_foreign(monkeypatch):
    """make_foreign(path): it belongs to somebody else from now on."""
    def give_away(path):
        if os.geteuid() == 0:
            monkeypatch.delenv("SUDO_UID", raising=False)
            os.chown(path, 65534, 65534)
        else:
            owner = os.geteuid()
            monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    return give_away


@posix
def test_the_folder_of_another_user_is_refused_by_name(learn, make_foreign, tmp_path, monkeypatch, capsys):
    ran = tmp_path / "ran"
    file = write("01", linear=RIGHT)
    file.write_text(f"open({str(ran)!r}, 'w')\n" + file.read_text())
    make_foreign(tmp_path / FOLDER)
    (tmp_path / "project" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "deep")
    for words in ("check 01", "start 03", ""):
        with pytest.raises(UserError, match=f"^../../{FOLDER}: belongs to another user, so its code is not run"):
            learn(words)
    code, printed = ask_mine(capsys)
    assert code == 1 and "belongs to another user" in printed.err and not ran.exists()
    (Path.cwd() / FOLDER).mkdir()
    assert "is yours" in learn("start 03").out


@posix
def test_the_file_of_another_user_is_refused_by_name(learn, tmp_path, capsys, monkeypatch):
    ran = tmp_path / "ran"
    file = write("01", linear=RIGHT)
    file.write_text(f"open({str(ran)!r}, 'w')\n" + file.read_text())
    refuse = course.refuse_foreign

    def strange(path):
        if Path(path).name == file.name:
            raise UserError(f"{path}: belongs to another user")
        refuse(path)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
        checked = learn("check 01")
        assert checked.code == 1 and f"{file}: belongs to another user" in checked.out
    else:
        monkeypatch.setattr(course, "refuse_foreign", strange)
    code, printed = ask_mine(capsys)
    assert code == 1 and f"{file}: belongs to another user" in printed.err and not ran.exists()


@pytest.mark.slow
@posix
def test_a_folder_below_one_that_all_can_write_to_is_refused(learn, tmp_path, monkeypatch):
    write("01", linear=RIGHT)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert "linear                 passes" in learn("check 01").out
    tmp_path.chmod(0o777)
    with pytest.raises(UserError, match=f"^../{FOLDER}: every user can write to the folder above it"):
        learn("check 01")
    tmp_path.chmod(0o1777)                                  # as /tmp: nobody can put another folder in its place
    assert "linear                 passes" in learn("check 01").out
    tmp_path.chmod(0o777)
    (tmp_path / FOLDER).chmod(0o777)                        # as on a disk of Windows, where all is open
    assert "linear                 passes" in learn("check 01").out


def test_the_search_ends_at_the_home_folder(tmp_path, monkeypatch):
    home = tmp_path / "home" / "ann"
    (home / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    (tmp_path / FOLDER).mkdir()
    assert nearest(home / "project") == home / "project" / FOLDER
    (home / FOLDER).mkdir()
    assert nearest(home / "project") == home / FOLDER
    assert nearest(tmp_path / "elsewhere") == tmp_path / FOLDER


# ------------------------------------------------------------------------------------------------------------ progress

@pytest.mark.parametrize("text", ["{", "[]", "7", "null", '{"passed": 3}', '{"passed": [{}]}', '{"passed": [null]}',
                                  '{"hints": {"linear": null}}', '{"hints": {"linear": -5}}', '{"hints": {"a": 1.5}}',
                                  '{"hints": {"a": true}}', '{"lesson": 4}', '{"checked": {"a": []}}',
                                  "[" * 100000, "\udcff"], ids=lambda text: text[:30])
def test_a_damaged_progress_file_is_one_sentence(learn, text):
    file = write("01", linear=RIGHT)
    path = Mine().folder / "progress.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = file.read_bytes(), path.read_bytes()
    for words in ("", "check 01", "hint 01", "start 02", "solution 01 linear"):
        with pytest.raises(UserError, match=r"progress.json: damaged. Delete it: your code is not touched"):
            learn(words)
    assert (file.read_bytes(), path.read_bytes()) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_or_a_device_is_not_waited_for(learn):
    write("01", linear=RIGHT)
    for name, step in (("progress.json", ""), ("01_arrays.py", "check 01")):
        path = Mine().folder / name
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        try:
            out = learn(step).out
        except UserError as error:
            out = str(error)
        assert f"{path}: is not a file" in out
        path.unlink()
    (Mine().folder / "progress.json").unlink()
    (Mine().folder / "progress.json").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="progress.json: is not a file"):
        learn()


def test_a_huge_file_is_not_read(learn):
    (Mine().folder / "progress.json").write_bytes(b" " * (course.LARGEST + 1))
    with pytest.raises(UserError, match="progress.json: has 1048577 bytes"):
        learn()


NOTE = """
import sys
from tinycogvlm.learn.course import Mine
mine = Mine(sys.argv[1])
for i in range(60):
    mine.note_asked(f"{sys.argv[2]}{i}")
    mine.note_hint("linear")
"""


def test_two_commands_that_note_at_once_lose_nothing(learn):
    processes = [subprocess.Popen([sys.executable, "-c", NOTE, str(Mine().folder), name]) for name in "ab"]
    assert [process.wait(60) for process in processes] == [0, 0]
    progress = Mine().progress
    assert sorted(progress["asked"]) == sorted(f"{name}{i}" for name in "ab" for i in range(60))
    assert progress["hints"] == {"linear": 120}


# ------------------------------------------------------------------------------------------------- decorated and others

@pytest.mark.slow
def test_decorated_functions_are_checked(learn):
    file = write("01", linear=RIGHT)
    text = file.read_text()
    file.write_text(text.replace("def linear(", "def same(f):\n    return f\n\n\n@same\ndef linear("))
    assert "  linear                 passes\n" in learn("check 01").out
    file.write_text("import functools\n" + text.replace("def linear(", "@functools.lru_cache\ndef linear("))
    checked = learn("check 01").out
    assert "TypeError: unhashable type: 'numpy.ndarray'" in checked and "lru_cache cannot look up arrays" in checked
    assert "Traceback" not in checked and "KeyError" not in checked
    file.write_text(text.replace("def linear(", "@np.vectorize\ndef linear("))
    assert "linear                 wrong" in learn("check 01").out
    file.write_text(text + "\n\nlinear = 3\n")
    assert "linear is not a function once the file has run" in learn("check 01").out


def test_a_misspelt_function_is_found(learn):
    file = write("01", linear=RIGHT)
    file.write_text(file.read_text().replace("def linear(", "def linaer("))
    assert f"{file} has no function linear, but one called linaer: rename it." in learn("check 01").out


def test_a_text_of_10_mb_is_cut(learn):
    write("01", linear="raise ValueError('x' * 10_000_000)")
    out = learn("check 01").out
    assert "ValueError:" in out and "xxx" in out and "(10,000,000 characters)" in out and len(out) < 8000


def test_an_error_whose_text_fails(learn):
    write("01", linear="class E(Exception):\n    def __str__(self):\n        return 1 / 0\nraise E")
    out = learn("check 01").out
    assert "in linear\n          raise E\n      E\n" in out


def test_solve_writes_what_check_accepts(learn):
    solve("01")
    assert learn("check 01").code == 0 and Mine().digest(lesson("01")) == Mine().progress["checked"]["01_arrays.py"]


@pytest.mark.slow
def test_work_of_an_older_numbering_goes_on(learn):
    """Attention was lesson 04, Patches 03, when this was begun; files, what passes and digests stay."""
    file = solve("02").rename(Path(FOLDER, "04_attention.py"))
    backup = Path(FOLDER, "04_attention.backup1.py")
    backup.write_text("x")
    progress = {"passed": ["softmax", "attention"], "hints": {"softmax": 2}, "asked": [], "lesson": "04",
                "checked": {"04_attention.py": Mine().digest(lesson("02"))}}
    Path(FOLDER, "progress.json").write_text(json.dumps(progress))
    before = file.read_bytes()
    out = learn().out
    assert "+ 02 attention                    2 of 2   softmax attention\n" in out and "  04 patches " in out
    functions = parts.mine(Mine())
    assert Mine().file(lesson("02")) == file and {*functions} == {"softmax", "attention"}
    assert parts.doubts(Mine(), functions) == []
    assert f"02 attention: {file}\n" in (out := learn("check 02").out) and "Lesson 02 passes." in out
    assert f"{file} exists and stays as it is" in learn("start 02").out
    with pytest.raises(UserError, match="lesson 04 is not started: tinycogvlm learn start 04; your 04_attention.py is "
                                        "lesson 02 now$"):
        learn("check 04")
    learn("start 04")
    assert "04 patches: " in learn("check").out                             # the one just started
    assert file.read_bytes() == before and set(progress["passed"]) <= set(Mine().progress["passed"])
    assert f"your old file is {FOLDER}/04_attention.backup2.py" in learn("reset attention").out
    assert backup.read_text() == "x"
