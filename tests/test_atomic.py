"""Files written whole or not at all, for the user: nothing is lost, left over or written through a planted link."""
import errno
import os
import stat
import threading

import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.storage import atomic
from tinycogvlm.storage.atomic import Together, replacing, write


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_text_and_bytes(tmp_path):
    write(tmp_path / "a", "zwölf\n")
    assert contents(tmp_path) == {"a": "zwölf\n".encode()}
    write(str(tmp_path / "a"), b"\0\1")
    with replacing(tmp_path / "b") as file:
        file.write(b"one ")
        assert contents(tmp_path)["a"] == b"\0\1" and not (tmp_path / "b").exists()
        file.write(b"two")
    assert contents(tmp_path) == {"a": b"\0\1", "b": b"one two"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "usual").touch()
    write(tmp_path / "a", "")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("failing", ["fsync", "replace", "rename", "block", "stopped"])
def test_a_failure_changes_nothing(failing, tmp_path, monkeypatch):
    write(tmp_path / "a", "old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    if failing in ("fsync", "replace", "rename"):
        monkeypatch.setattr(atomic.os, failing, full)
    raised, words = {"block": (ZeroDivisionError, "zero"), "stopped": (KeyboardInterrupt, None)}.get(
        failing, (UserError, r"/a: cannot be (written|replaced) \(No space left on device\)"))
    with pytest.raises(raised, match=words), replacing(tmp_path / "a") as file:
        file.write(b"new")
        if failing == "block":
            raise ZeroDivisionError("zero")
        if failing == "stopped":
            raise KeyboardInterrupt
    assert contents(tmp_path) == {"a": b"old"}


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    for path, words in ((tmp_path / "missing" / "a", "missing/a: cannot be written .No such file"),
                        (tmp_path / "folder", "folder: cannot be written .it is not a file")):
        with pytest.raises(UserError, match=words):
            write(path, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither")
def test_a_pipe_and_a_device_stay_what_they_are(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        before = os.stat(path).st_mode
        with pytest.raises(UserError, match="it is not a file"):
            write(path, "x")
        assert os.stat(path).st_mode == before


def link(path, target):
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("no symbolic links here")


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    folder, other = tmp_path / "folder", tmp_path / "precious"
    folder.mkdir()
    other.write_text("precious")
    link(folder / "a", other)
    write(folder / "a", "new")                                  # the link itself is replaced
    assert contents(folder) == {"a": b"new"} and not (folder / "a").is_symlink()
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda size: "guessed")
    link(folder / "a.guessed.part", other)
    with pytest.raises(UserError, match="a: cannot be written .File exists"):
        write(folder / "a", "newer")
    assert other.read_text() == "precious" and (folder / "a").read_text() == "new"
    assert (folder / "a.guessed.part").is_symlink()             # not ours, so not removed


def test_temporary_names_cannot_be_guessed(tmp_path):
    names = set()
    for _ in range(20):
        with replacing(tmp_path / "a"):
            names |= {path.name for path in tmp_path.iterdir()} - {"a"}
    assert len(names) == 20 and all(len(name) == len("a.0123456789abcdef.part") for name in names)


def test_threads_that_write_one_file(tmp_path):
    texts = [f"{i}" * 100_000 for i in range(8)]
    threads = [threading.Thread(target=write, args=(tmp_path / "a", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(contents(tmp_path)) == ["a"] and (tmp_path / "a").read_text() in texts


def test_a_file_makes_room_for_the_next(tmp_path):
    """As a training's checkpoints do: in the order given, and not at all if the new one cannot be written."""
    write(tmp_path / "newest", "1")
    with Together() as files:
        files.rename(tmp_path / "newest", tmp_path / "previous")
        files.write(tmp_path / "newest", "2")
    assert contents(tmp_path) == {"newest": b"2", "previous": b"1"}
    with pytest.raises(ZeroDivisionError), Together() as files:
        files.rename(tmp_path / "newest", tmp_path / "previous")
        raise ZeroDivisionError
    assert contents(tmp_path) == {"newest": b"2", "previous": b"1"}


def test_files_that_change_together(tmp_path, monkeypatch):
    old = {"a": b"1", "b": b"2", "c": b"3"}
    for name, data in old.items():
        write(tmp_path / name, data)

    def change(fail=None):
        with Together() as files:
            files.write(tmp_path / "b", "new")
            files.remove(tmp_path / "c")
            files.remove(tmp_path / "no such file")
            with files.replacing(tmp_path / "a") as file:
                assert {name: contents(tmp_path)[name] for name in old} == old
                file.write(b"new")
                if fail:
                    raise fail

    for fail in (ZeroDivisionError, OSError(errno.EIO, "broken")):
        with pytest.raises((ZeroDivisionError, UserError)):
            change(fail)
        assert contents(tmp_path) == old
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", lambda *names: (steps.append(names[1].name), os.rename(*names)))
        change()
    assert contents(tmp_path) == {"a": b"new", "b": b"new"} and steps == ["b", "a"]
