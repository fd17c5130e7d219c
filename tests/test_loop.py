"""Runs: what a step is, being killed at any instant, what goes wrong, and the process that prepares the data."""
import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import toy_run
from safetensors.numpy import load_file

from tinycogvlm.errors import UserError
from tinycogvlm.train.loop import checkpoint, log, loop
from tinycogvlm.train.loop.ahead import prepared
from tinycogvlm.train.loop.optimizer import adamw, clipping, cosine, follow

FILES = ["toy.done.safetensors", "toy.jsonl", "toy.previous.safetensors", "toy.safetensors"]


def outcome(folder):
    """The result, bit for bit, and the log without its times."""
    lines = [json.loads(line) for line in (folder / "toy.jsonl").read_text().splitlines()]
    timeless = [{name: value for name, value in line.items() if name not in ("seconds", "samples/s")} for line in lines]
    return {name: (a.tobytes(), a.shape) for name, a in load_file(folder / "toy.done.safetensors").items()}, timeless


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run gives that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    toy_run.fit(folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    return outcome(folder)


# A step

def test_a_run_is_its_steps_one_by_one(tmp_path):
    """Against the same steps without threads, parts, groups of names: one batch, its whole gradient, AdamW, average."""
    given = toy_run.leaves()
    result = toy_run.fit(tmp_path, steps=30, workers=2, longest=0.05, decay=0.1)
    w = {name: array.astype(float) for name, array in given.items()}
    names = ("w.weight", "bias", "rarely.weight")
    m, v = ({name: np.zeros_like(w[name]) for name in names} for _ in range(2))
    average = {name: w[name].copy() for name in names}
    clipped = 0
    for step in range(1, 31):
        parts = toy_run.data(step - 1)
        x = np.concatenate([x for x, _ in parts]).astype(float)
        rare = np.concatenate([np.full((len(x), 1), bool(rare)) for x, rare in parts])
        error = x @ (w["w.weight"] - toy_run.TRUTH) + w["bias"] + rare * w["rarely.weight"]
        d = 2 * error / error.size
        g = {"w.weight": x.T @ d, "bias": d.sum(0), "rarely.weight": (rare * d).sum(0, keepdims=True)}
        if not rare.any():
            del g["rarely.weight"]
        scale = clipping(np.sqrt(sum((a * a).sum() for a in g.values())), 0.05)
        clipped += scale < 1
        for name in g:
            rate = cosine(step, 30, 0.1, 3) * (0.5 if name == "bias" else 1)
            adamw(w[name], g[name], m[name], v[name], step, rate, (0.9, 0.98), 1e-8, 0.1 * (name != "bias"), scale)
            follow(average[name], w[name], step, 0.9)
    assert 10 < clipped
    for name in names:
        np.testing.assert_allclose(result[name], average[name], rtol=2e-4, atol=2e-5)
    assert np.array_equal(result["frozen.weight"], given["frozen.weight"])
    assert result["w.weight"].dtype == np.float32


def test_the_arrays_given_stay_as_they_are(tmp_path):
    given = toy_run.leaves()
    loop.fit(tmp_path, "toy", given, toy_run.data, toy_run.loss, 3, ahead=0)
    assert all(np.array_equal(array, given[name]) for name, array in toy_run.leaves().items())


def test_parts_are_one_batch():
    """Mean, gradient and extras of parts that weigh by their counts are those of all at once."""
    leaves = {**toy_run.leaves(), "w.weight": np.ones((4, 3), np.float32)}
    parts = [(x, False) for x, _ in toy_run.data(1)]
    batch = [(np.concatenate([x for x, _ in parts]), False)]
    for spread in (map, lambda f, items: list(map(f, items))):
        value, gradients, extras = loop.together(toy_run.loss, leaves, parts, spread)
        one, expected, extra = loop.together(toy_run.loss, leaves, batch, map)
        assert value == pytest.approx(one, rel=1e-6) and extras == pytest.approx(extra, rel=1e-6)
        assert gradients.keys() == expected.keys() == {"w.weight", "bias"}
        for name, g in gradients.items():
            np.testing.assert_allclose(g, expected[name], rtol=1e-5, atol=1e-6)
        flat = np.concatenate([g.ravel() for g in gradients.values()])
        assert loop.length(gradients, spread) == pytest.approx(np.linalg.norm(flat), rel=1e-6)


def test_the_result_does_not_depend_on_the_threads(whole, tmp_path):
    """Threads that take their time at random, in waves: the same bits."""
    def dawdling(leaves, part):
        time.sleep(random.random() / 500)
        return toy_run.loss(leaves, part)
    for workers in (2, 3):
        toy_run.fit(tmp_path / str(workers), loss=dawdling, workers=workers)
        assert outcome(tmp_path / str(workers)) == whole


def test_the_loss_falls_and_the_log_tells(whole):
    _, lines = whole
    assert [line["step"] for line in lines] == [7, 14, 21, 28, 30]
    assert all(line["samples"] == 24 * line["step"] for line in lines)
    assert set(lines[0]) == {"step", "samples", "loss", "norm", "off", "rate"}
    assert lines[-1]["loss"] < lines[0]["loss"] / 4 and lines[-1]["rate"] == 0


def test_watching_changes_nothing(whole, tmp_path, capsys):
    seen = []

    def watch(leaves):
        seen.append(leaves["w.weight"].copy())
        return {"error": float(abs(seen[-1] - toy_run.TRUTH).max()), "answer": "A dog."}
    result = toy_run.fit(tmp_path, watch=watch, watch_every=0)
    learned, lines = outcome(tmp_path)
    watched = [line for line in lines if "watch" in line]
    assert (learned, [line for line in lines if "watch" not in line]) == whole
    assert [line["step"] for line in watched] == list(range(1, 31)) and watched[-1]["watch"]["error"] < 0.5
    assert np.array_equal(seen[-1], result["w.weight"])     # it is the average that is watched
    assert "toy, step 30, answer: A dog." in capsys.readouterr().err


def test_a_stage_hands_on_what_it_trained(tmp_path):
    result = toy_run.fit(tmp_path)
    found = checkpoint.handed_over(tmp_path, "toy")
    assert found.keys() == {"w.weight", "bias", "rarely.weight"}
    assert all(np.array_equal(array, result[name]) for name, array in found.items())
    for name in FILES[2:]:
        (tmp_path / name).unlink()                          # a later session may have the result alone
    again = toy_run.fit(tmp_path)
    assert again.keys() == result.keys() and all(np.array_equal(again[name], result[name]) for name in result)
    with pytest.raises(UserError, match="the stage sft is not finished"):
        checkpoint.handed_over(tmp_path, "sft")


def test_steps_within_minutes(monkeypatch):
    """1.5 seconds for the first step, 0.75 for the next ones: three are tried in a twentieth of a minute."""
    given, clock, calls = toy_run.leaves(), [0.0], []

    def timed(leaves, part):
        calls.append(part)
        clock[0] += 0.5 if len(calls) <= 3 else 0.25
        return toy_run.loss(leaves, part)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    assert loop.steps_within(1, given, toy_run.data, timed) == 80 and len(calls) == 3 * 3
    assert loop.steps_within(1e-6, given, toy_run.data, timed) == 1
    assert all(np.array_equal(array, given[name]) for name, array in toy_run.leaves().items())


# Killed

def start(folder, *fault):
    root = Path(toy_run.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, toy_run.__file__, str(folder), *map(str, fault)], env=environment,
                            stderr=subprocess.DEVNULL)


def test_killed_at_any_point_of_writing_a_run_goes_on_bit_for_bit(whole, tmp_path):
    """The calls: those of the first checkpoint and of a later one, between its renames, and of the log at its cut."""
    points = [("write", 3), ("write", 35), ("fsync", 1), ("fsync", 3), ("append", 1), ("append", 5), ("hand over", 1),
              ("rename", 1), ("rename", 2), ("rename", 5), ("rename", 6), ("write", 14 * 30 + 2)]
    runs = {point: tmp_path / " ".join(map(str, point)) for point in points}
    for some in (points[:4], points[4:8], points[8:]):      # a few at a time
        for process in [start(runs[point], *point) for point in some]:
            assert process.wait(60) == 9
    for point, folder in runs.items():
        assert not (folder / FILES[0]).exists(), point
        toy_run.fit(folder)
        assert outcome(folder) == whole, point
        assert sorted(path.name for path in folder.iterdir()) == FILES, point


def test_killed_at_ten_random_instants_a_run_goes_on_bit_for_bit(whole, tmp_path):
    dice, newest, unfinished = random.Random(0), tmp_path / "toy.safetensors", 0

    def written():
        try:
            return newest.stat().st_mtime_ns
        except OSError:                                     # not yet, or between two renames
            return None
    for _ in range(10):
        before, process = written(), start(tmp_path)
        while written() in (before, None) and process.poll() is None:       # it has begun to learn
            time.sleep(0.001)
        time.sleep(dice.random() / 100)
        process.kill()
        process.wait()
        unfinished += not (tmp_path / FILES[0]).exists()
    assert unfinished > 5
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_saves_and_says_how_to_go_on(whole, tmp_path):
    def interrupting(leaves, part):
        if len(os.listdir(tmp_path)) and (tmp_path / "toy.jsonl").read_text().count("\n") == 2 and not pressed:
            pressed.append(signal.raise_signal(signal.SIGINT))
        return toy_run.loss(leaves, part)
    pressed, handler = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="toy: stopped after step 15 of 30, which is saved in .*--resume"):
        toy_run.fit(tmp_path, loss=interrupting, save_every=1e9)
    assert signal.getsignal(signal.SIGINT) == handler and loop.steps_asked(tmp_path, "toy") == 30
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == whole


# What goes wrong

def broken_at(step, error):
    """A loss that fails in this step"""
    calls = []

    def loss(leaves, part):
        calls.append(part)
        if len(calls) == 3 * step:
            return error(*toy_run.loss(leaves, part))
        return toy_run.loss(leaves, part)
    return loss


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_no_number_ends_the_run_and_nothing_is_lost(whole, tmp_path, what, bad):
    def spoil(value, count, pull, extras):
        if what == "loss":
            return value * bad, count, pull, extras
        return value, count, lambda: {name: g * np.float32(bad) for name, g in pull().items()}, extras
    with pytest.raises(UserError, match="toy: in step 21 the loss is .*toy.safetensors, from where --resume"):
        with np.errstate(all="ignore"):
            toy_run.fit(tmp_path, loss=broken_at(21, spoil))
    assert checkpoint.restore(tmp_path, "toy")[1]["step"] == 20
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == whole


def test_a_full_disk_leaves_the_last_checkpoint(whole, tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        toy_run.fit(tmp_path, loss=broken_at(11, lambda *_: 1 / 0))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="toy.(jsonl|safetensors): cannot be written .No space left on device"):
            toy_run.fit(tmp_path)
    assert checkpoint.restore(tmp_path, "toy")[1]["step"] == 10
    with monkeypatch.context() as patch:
        patch.setattr(log, "open", full, raising=False)
        with pytest.raises(UserError, match="toy.jsonl: cannot be written .No space left on device"):
            toy_run.fit(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES[1:]
    assert checkpoint.restore(tmp_path, "toy")[1]["step"] == 13
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == whole


def spoil(path, how):
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[-9] ^= 1
    path.write_bytes(b"" if how == "empty" else data[:-5] if how == "cut" else data)


@pytest.mark.parametrize("how", ["flipped", "cut", "empty"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_taken(whole, tmp_path, capsys, how):
    with pytest.raises(ZeroDivisionError):
        toy_run.fit(tmp_path, loss=broken_at(11, lambda *_: 1 / 0))
    spoil(tmp_path / "toy.safetensors", how)
    with pytest.raises(ZeroDivisionError):                  # before the next is written
        toy_run.fit(tmp_path, loss=broken_at(1, lambda *_: 1 / 0))
    err = capsys.readouterr().err
    assert "tinycogvlm: " in err and "it is now toy.damaged.safetensors, and the run goes on from toy.previous" in err
    assert checkpoint.restore(tmp_path, "toy")[1]["step"] == 9
    spoil(tmp_path / "toy.previous.safetensors", how)
    with pytest.raises(UserError, match="no checkpoint can be read .*toy.previous.safetensors"):
        toy_run.fit(tmp_path)
    (tmp_path / "toy.previous.safetensors").unlink()
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == whole


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path):
    """... or changes nothing."""
    checkpoint.store(tmp_path, "x", {"a": np.arange(4, dtype=np.float32), "b": np.ones((1, 2))}, {"step": 3})
    path = tmp_path / "x.safetensors"
    good, (expected, _) = path.read_bytes(), checkpoint.restore(tmp_path, "x")
    noticed = 0
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 4]) + good[i + 1:])
        try:
            found = checkpoint.read(path)
        except UserError:
            noticed += 1
        else:
            assert all(np.array_equal(found[name], array) for name, array in expected.items())
    assert noticed > len(good) - 80                         # spaces and the format's name mean nothing


def test_other_settings_are_refused_by_name(tmp_path):
    with pytest.raises(ZeroDivisionError):
        toy_run.fit(tmp_path, loss=broken_at(5, lambda *_: 1 / 0), settings={"seed": 1, "kinds": ("a", "b")})
    with pytest.raises(UserError, match="other settings: peak is 0.2, but was 0.1; seed is 2, but was 1$"):
        toy_run.fit(tmp_path, peak=0.2, settings={"seed": 2, "kinds": ("a", "b")})
    frozen = {**toy_run.leaves(), "frozen.weight": np.zeros((2, 2), np.float32)}
    other = {**toy_run.leaves(), "bias": np.zeros(4, np.float32)}
    for leaves, part in ((frozen, "those that are frozen differ"),
                         (other, r"its bias has the shape \(3,\), not \(4,\)")):
        with pytest.raises(UserError, match=part):
            loop.fit(tmp_path, "toy", leaves, toy_run.data, toy_run.loss, 30, batch=24, peak=0.1, warmup=5, ema=0.9,
                     groups={"bias": 0.5}, log_every=7, resume=True, ahead=0, settings={"seed": 1, "kinds": ["a", "b"]})


def test_a_run_is_never_begun_over_another(tmp_path):
    for prepare in (lambda: (tmp_path / "toy.jsonl").write_text("{}\n"),
                    lambda: ((tmp_path / "toy.jsonl").unlink(), (tmp_path / "toy.previous.safetensors").touch())):
        prepare()
        with pytest.raises(UserError, match="already holds a run of the stage toy: --resume goes on with it"):
            toy_run.fit(tmp_path, resume=False)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file.run: cannot be written"):
        toy_run.fit(tmp_path / "file" / "run")
    toy_run.fit(tmp_path / "new" / "run", resume=False, steps=2)


# The process that prepares the data

def squares(late, n):
    time.sleep(late if n % 3 == 0 else 0)
    return n * n


def failing(n):
    if n == 3:
        raise UserError("three")
    return os._exit(7) if n == 5 else n


class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(a)


def unpicklable(n):
    raise Unpicklable("what", "why")


def large(n):
    return np.full(10 ** 6, n)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_batches_come_in_order(count):
    with prepared(partial(squares, 0.02), range(4, 14), count) as batches:
        assert list(batches) == [n * n for n in range(4, 14)]


def test_what_is_raised_there_arrives_here_in_its_turn():
    with pytest.raises(UserError, match="^three$") as caught, prepared(failing, range(2, 9), 2) as batches:
        assert next(batches) == 2
        next(batches)
    assert "in failing" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="Unpicklable: what"), prepared(unpicklable, range(3), 2) as batches:
        next(batches)


def test_the_death_of_the_process_is_noticed():
    with pytest.raises(UserError, match="ended by itself .exit code 7;"), prepared(failing, range(4, 9), 2) as batches:
        assert next(batches) == 4
        next(batches)


def test_nothing_is_left_behind():
    before = threading.active_count()
    with prepared(large, range(1000), 1) as batches:
        assert next(batches)[0] == 0
        [process] = multiprocessing.active_children()
    assert not process.is_alive() and threading.active_count() == before


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")
def test_the_process_dies_with_the_one_it_works_for(tmp_path):
    script = ("import sys, test_loop, multiprocessing\n"
              "with test_loop.prepared(test_loop.large, range(10 ** 6), 2) as batches:\n"
              "    next(batches), print(multiprocessing.active_children()[0].pid, flush=True), sys.stdin.read()\n")
    root = Path(__file__).parents[1]
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])})
    child = Path("/proc") / parent.stdout.readline().decode().strip()
    assert child.exists()
    parent.kill()
    parent.wait()

    def alive():
        try:
            return "State:\tZ" not in (child / "status").read_text()
        except OSError:
            return False
    end = time.monotonic() + 10
    while alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive()
    parent.stdin.close(), parent.stdout.close()


def test_a_run_with_data_prepared_ahead_is_the_same(whole, tmp_path):
    toy_run.fit(tmp_path, ahead=2, workers=2)
    assert outcome(tmp_path) == whole
