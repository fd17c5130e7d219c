"""A run's folder: damaged logs, and two processes at work in it."""
import errno
import os
import time

import pytest
import toy_run
from toy_run import FILES, broken_at, outcome, start

from tinycogvlm.errors import UserError
from tinycogvlm.train.loop.run import Busy, Run, free


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return toy_run.whole(tmp_path_factory.mktemp("whole"))


# Logs

DAMAGED = {b"[1]": "it is not a JSON object", b"7": "it is not a JSON object", b'{"a": 1}': "it has no step",
           b'{"step": "x", "loss": 1, "samples": 1}': "it has no step", b'{"step": null}': "it has no step",
           b'{"step": 0, "loss": 1, "samples": 1}': "it has no step", b'{"step": true}': "it has no step",
           b"\xff\xfe{}": "can't decode byte 0xff", b"{": "Expecting", b'{"step": 3}': "it has no loss",
           b'{"step": 3, "loss": "x", "samples": 1}': "its loss is 'x'", b'{"step": 3, "watch": 1}': "its watch is 1",
           b'{"step": 3, "loss": NaN, "samples": 1}': "its loss is nan",
           b'{"step": 3, "watch": {"a": {"b": 1e999}}}': "its watch: a: b is inf", b"[" * 100_000: "recursion",
           b'{"step": 3, "loss": 1' + b"0" * 400 + b', "samples": 1}': "int too large"}


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: line[:30].decode(errors="replace"))
def test_a_damaged_line_of_the_log_is_named_left_out_and_kept_in_a_copy(whole, tmp_path, capsys, line):
    with pytest.raises(ZeroDivisionError):
        toy_run.fit(tmp_path, loss=broken_at(11, lambda *_: 1 / 0))
    path = tmp_path / "toy.jsonl"
    damaged = b"\n" + line + b"\n" + path.read_bytes() + b"  \n"             # empty lines do no harm
    path.write_bytes(damaged)
    toy_run.fit(tmp_path)
    err = capsys.readouterr().err
    assert f"tinycogvlm: {path}: line 2 cannot be read: " in err and DAMAGED[line] in err
    assert "the log goes on without, and is kept as it was in toy.jsonl.damaged" in err
    assert outcome(tmp_path) == whole and (tmp_path / "toy.jsonl.damaged").read_bytes() == damaged


def test_a_log_that_is_gone(whole, tmp_path):
    with pytest.raises(ZeroDivisionError):
        toy_run.fit(tmp_path, loss=broken_at(16, lambda *_: 1 / 0))
    assert [line["step"] for line in toy_run.lines(tmp_path)] == [7, 14]
    (tmp_path / "toy.jsonl").unlink()
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == (whole[0], whole[1][2:])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_a_pipe_in_the_place_of_a_log_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "toy.jsonl")
    with pytest.raises(UserError, match="toy.jsonl: is not a file"):
        toy_run.fit(tmp_path)


# Two processes in one folder

def test_a_stage_in_a_folder_is_locked(tmp_path):
    with Run(tmp_path, "toy") as run, run, Run(tmp_path, "other"):          # the same one may nest
        with pytest.raises(Busy, match="another process is training the stage toy in this folder; wait for it"):
            toy_run.fit(tmp_path)
        with pytest.raises(Busy), Run(tmp_path, "toy"):
            pass
    toy_run.fit(tmp_path)


def test_a_second_process_is_refused_and_the_first_loses_nothing(whole, tmp_path):
    first, newest = start(tmp_path), tmp_path / "toy.safetensors"
    while not newest.exists():
        assert first.poll() is None
        time.sleep(0.001)
    with pytest.raises(Busy):
        toy_run.fit(tmp_path)                               # would delete what the first is writing
    first.communicate()
    assert first.returncode == 0
    assert outcome(tmp_path) == whole and sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_the_lock_of_a_killed_process_is_no_lock(whole, tmp_path):
    first = start(tmp_path)
    while not (tmp_path / "toy.safetensors").exists():
        time.sleep(0.001)
    with pytest.raises(Busy):
        toy_run.fit(tmp_path)
    first.kill()
    first.communicate()
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == whole


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def unable(file):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    monkeypatch.setattr("tinycogvlm.train.loop.run.claimed", unable)
    toy_run.fit(tmp_path)
    assert f"{tmp_path}: cannot be locked (No locks available); make sure" in capsys.readouterr().err


def test_runs_that_are_free(tmp_path, capsys):
    """Each is locked while it is worked on, and a run of another process is left to it."""
    with Run(tmp_path, "b"):
        worked = []
        for run in free(tmp_path, ["a", "b", "c"]):
            worked.append(run.stage)
            with pytest.raises(Busy), Run(tmp_path, run.stage):
                pass
        assert worked == ["a", "c"] and capsys.readouterr().err == "b: another process is at work on it\n"
    assert [run.stage for run in free(tmp_path, "abc")] == ["a", "b", "c"]
