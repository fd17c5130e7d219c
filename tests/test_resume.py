"""Runs that are killed, stopped, damaged or begun twice: what goes on bit for bit, what is refused, what is kept."""
import errno
import math
import os
import random
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import toy_run
from safetensors.numpy import load_file, save_file
from toy_run import FILES, RECIPE, W, broken_at, outcome, start

from tinycogvlm.errors import UserError
from tinycogvlm.train.loop import checkpoint, log, loop
from tinycogvlm.train.loop.loop import Diverged, together
from tinycogvlm.train.loop.optimizer import adaptively_clipped, group_factor
from tinycogvlm.train.loop.process import BLAS_THREADS, ended_in_a_sentence, stopping
from tinycogvlm.train.loop.run import Run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return toy_run.whole(tmp_path_factory.mktemp("whole"))


# Killed

def test_killed_at_any_point_of_writing_a_run_goes_on_bit_for_bit(whole, tmp_path):
    """In the cut of the log, in the first checkpoint, in a later one and between its renames, in the hand-over."""
    points = [("write", 3), ("write", 35), ("fsync", 1), ("fsync", 2), ("fsync", 4), ("append", 1), ("append", 5),
              ("hand over", 1), ("rename", 1), ("rename", 2), ("rename", 5), ("rename", 6), ("write", 14 * 30 + 2)]
    runs = {point: tmp_path / " ".join(map(str, point)) for point in points}
    for some in (points[:4], points[4:8], points[8:]):      # a few at a time
        for process in [start(runs[point], *point) for point in some]:
            assert process.wait(60) == 9
    for point, folder in runs.items():
        assert not (folder / "toy.done.safetensors").exists(), point
        toy_run.fit(folder)
        assert outcome(folder) == whole, point
        assert sorted(path.name for path in folder.iterdir()) == FILES, point


def test_a_run_with_muon_goes_on_bit_for_bit(whole, tmp_path):
    """Its matrices have one momentum and no square; a run that is AdamW's alone is another one."""
    recipe = replace(RECIPE, muon=0.05)
    toy_run.fit(tmp_path / "whole", recipe)
    with pytest.raises(ZeroDivisionError):
        toy_run.fit(tmp_path, recipe, loss=broken_at(11, lambda *_: 1 / 0))
    tensors, _ = checkpoint.restore(Run(tmp_path, "toy"))
    assert {name for name in tensors if W in name} == {f"leaf/{W}", f"m/{W}", f"ema/{W}"} and "v/bias" in tensors
    with pytest.raises(UserError, match="other settings: muon is 0.0, but was 0.05$"):
        toy_run.fit(tmp_path)
    toy_run.fit(tmp_path, recipe)
    assert outcome(tmp_path) == outcome(tmp_path / "whole") != whole


@pytest.mark.slow
def test_a_run_with_momentum_and_clipping_of_units_goes_on_bit_for_bit(tmp_path):
    """And it is SGD of gradients clipped unit by unit, those of `unclipped` as they are."""
    recipe = replace(RECIPE, momentum=0.9, adaptive=0.05, unclipped=("bias",), longest=1e9, decay=0.0, ema=0.0)
    whole = toy_run.fit(tmp_path / "whole", recipe)
    with pytest.raises(Diverged):
        toy_run.fit(tmp_path / "part", recipe, broken_at(7, lambda value, *rest: (math.nan, *rest)))
    part = toy_run.fit(tmp_path / "part", recipe)
    assert all(np.array_equal(whole[name], part[name]) for name in whole)
    leaves, moments = toy_run.leaves(), {}
    for n in range(recipe.steps):
        _, gradients, _ = together(toy_run.loss, leaves, toy_run.data(n), map)
        for name, g in gradients.items():
            g = g if name == "bias" else adaptively_clipped(leaves[name], g, 0.05)
            m = moments[name] = 0.9 * moments.get(name, 0) + g
            leaves[name] = leaves[name] - recipe.rate(n + 1) * group_factor(name, recipe.groups) * (g + 0.9 * m)
    for name in whole:
        np.testing.assert_allclose(whole[name], leaves[name], rtol=1e-5, atol=1e-6)


def test_a_checkpoint_from_before_an_option_existed_goes_on(tmp_path):
    """What the option does by default is what was done."""
    with pytest.raises(Diverged):
        toy_run.fit(tmp_path, loss=broken_at(7, lambda value, *rest: (math.nan, *rest)))
    run = Run(tmp_path, "toy")
    tensors, facts = checkpoint.restore(run)
    del facts["settings"]["momentum"], facts["settings"]["unclipped"]
    checkpoint.store(run, tensors, facts)
    toy_run.fit(tmp_path)
    del facts["settings"]["batch"]
    checkpoint.store(run, tensors, facts)
    with pytest.raises(UserError, match="batch is 24, but was 1"):
        toy_run.fit(tmp_path)


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
        process.communicate()
        unfinished += not (tmp_path / "toy.done.safetensors").exists()
    assert unfinished > 5
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_and_says_how_to_go_on(whole, tmp_path, name):
    def interrupting(leaves, part):
        if (tmp_path / "toy.jsonl").read_text().count("\n") == 2 and not sent:
            sent.append(signal.raise_signal(number))
        return toy_run.loss(leaves, part)
    sent, number = [], getattr(signal, name)
    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="toy: stopped after step 15 of 30, which is saved in .*--resume"):
        toy_run.fit(tmp_path, loss=interrupting, save_every=1e9)
    assert signal.getsignal(number) == handler and checkpoint.steps_begun(Run(tmp_path, "toy")) == 30
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == whole


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_second_signal_acts_as_usual_and_an_ignored_one_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as with nohup
    try:
        with stopping() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
            signal.raise_signal(signal.SIGINT)
            assert stop.is_set()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# What goes wrong

def step_saved(folder):
    return checkpoint.restore(Run(folder, "toy"))[1]["step"]


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_no_number_ends_the_run_and_nothing_is_lost(whole, tmp_path, what, bad):
    def spoil(value, count, pull, extras):
        if what == "loss":
            return value * bad, count, pull, extras
        return value, count, lambda: {name: g * np.float32(bad) for name, g in pull().items()}, extras
    with pytest.raises(UserError, match="toy: in step 21 the loss is .*toy.safetensors, from where --resume"), \
            np.errstate(all="ignore"):
        toy_run.fit(tmp_path, loss=broken_at(21, spoil))
    assert step_saved(tmp_path) == 20
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == whole


def test_a_full_disk_leaves_the_last_checkpoint(whole, tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        toy_run.fit(tmp_path, loss=broken_at(11, lambda *_: 1 / 0))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="toy.jsonl: cannot be written .No space left on device"):
            toy_run.fit(tmp_path)                           # when the log is cut
        patch.setattr(loop, "cut", lambda *_: None)
        with pytest.raises(UserError, match="toy.safetensors: cannot be written .No space left on device"):
            toy_run.fit(tmp_path)
    assert step_saved(tmp_path) == 10
    with monkeypatch.context() as patch:
        patch.setattr(log, "open", full, raising=False)
        with pytest.raises(UserError, match="toy.jsonl: cannot be written .No space left on device"):
            toy_run.fit(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name for name in FILES if "done" not in name]
    assert step_saved(tmp_path) == 13
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
    assert step_saved(tmp_path) == 9
    spoil(tmp_path / "toy.previous.safetensors", how)
    with pytest.raises(UserError, match="no checkpoint can be read .*toy.previous.safetensors"):
        toy_run.fit(tmp_path)
    (tmp_path / "toy.previous.safetensors").unlink()
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == whole


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path):
    """... or changes nothing."""
    run = Run(tmp_path, "x")
    checkpoint.store(run, {"a": np.arange(4, dtype=np.float32), "b": np.ones((1, 2))}, {"step": 3})
    path = tmp_path / "x.safetensors"
    good, (expected, _) = path.read_bytes(), checkpoint.restore(run)
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
    begun = replace(RECIPE, settings={"seed": 1, "kinds": ("a", "b")})
    with pytest.raises(ZeroDivisionError):
        toy_run.fit(tmp_path, begun, loss=broken_at(5, lambda *_: 1 / 0))
    with pytest.raises(UserError, match="other settings: peak is 0.2, but was 0.1; seed is 2, but was 1$"):
        toy_run.fit(tmp_path, replace(begun, peak=0.2, settings={"seed": 2, "kinds": ("a", "b")}))
    frozen = {**toy_run.leaves(), "frozen.weight": np.zeros((2, 2), np.float32)}
    other = {**toy_run.leaves(), "bias": np.zeros(4, np.float32)}
    for leaves, part in ((frozen, "those that are frozen differ"),
                         (other, r"its bias has the shape \(3,\), not \(4,\)")):
        with pytest.raises(UserError, match=part):
            loop.fit(Run(tmp_path, "toy"), leaves, toy_run.data, toy_run.loss, begun, resume=True, ahead=0)


def test_another_number_of_blas_threads_is_said(whole, tmp_path, monkeypatch, capsys):
    """The result may then differ in its last digits; not in this run, which has no large product."""
    for name, value in zip(BLAS_THREADS, ("1", "1", None)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(ZeroDivisionError):
        toy_run.fit(tmp_path, loss=broken_at(5, lambda *_: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        toy_run.fit(tmp_path, loss=broken_at(2, lambda *_: 1 / 0))
    assert "THREADS" not in capsys.readouterr().err
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    monkeypatch.delenv("OMP_NUM_THREADS")
    toy_run.fit(tmp_path)
    assert ("tinycogvlm: OPENBLAS_NUM_THREADS is 2, but was 1; OMP_NUM_THREADS is not set, but was 1: the result may "
            "differ in the last digits") in capsys.readouterr().err
    assert outcome(tmp_path) == whole


def test_a_run_is_never_begun_over_another(tmp_path):
    for prepare in (lambda: (tmp_path / "toy.jsonl").write_text("{}\n"),
                    lambda: ((tmp_path / "toy.jsonl").unlink(), (tmp_path / "toy.previous.safetensors").touch())):
        prepare()
        with pytest.raises(UserError, match="already holds a run of the stage toy: --resume goes on with it"):
            toy_run.fit(tmp_path, resume=False)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file.run: cannot be written"):
        toy_run.fit(tmp_path / "file" / "run")
    toy_run.fit(tmp_path / "new" / "run", replace(RECIPE, steps=2), resume=False)


# What a finished stage hands on

@pytest.mark.parametrize("change", [
    lambda tensors: tensors | {"bias": tensors["bias"] * 2}, lambda tensors: tensors | {"bias": tensors["bias"][:2]},
    lambda tensors: {name: array for name, array in tensors.items() if name != "bias"},
    lambda tensors: {name: array for name, array in tensors.items() if name != "digest"}])
def test_a_damaged_result_is_noticed_and_written_again_from_the_last_checkpoint(whole, tmp_path, change):
    toy_run.fit(tmp_path)
    run = Run(tmp_path, "toy")
    save_file(change(load_file(run.done)), run.done)
    with pytest.raises(UserError, match="toy.done.safetensors: damaged, .* toy writes it again with --resume"):
        checkpoint.handed_over(run)
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == whole
    save_file(change(load_file(run.done)), run.done)
    run.newest.unlink()
    run.previous.unlink()
    with pytest.raises(UserError, match="toy.done.safetensors: damaged"):
        toy_run.fit(tmp_path)


@pytest.mark.parametrize("raised, said", [(UserError("no such folder"), "error: no such folder"),
                                          (KeyboardInterrupt(), "stopped; the same command goes on from here")])
def test_a_program_ends_in_a_sentence(raised, said):
    with pytest.raises(SystemExit) as end, ended_in_a_sentence():
        raise raised
    assert end.value.code == said
