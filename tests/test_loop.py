"""The training loop: what a step is, what a run hands on, logs and measures, and when."""
import random
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import toy_run
from toy_run import W, outcome

from tinycogvlm.errors import UserError
from tinycogvlm.train.loop import checkpoint, clock, loop
from tinycogvlm.train.loop.loop import Recipe
from tinycogvlm.train.loop.optimizer import adamw, clipping, cosine, follow, muon
from tinycogvlm.train.loop.run import Run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return toy_run.whole(tmp_path_factory.mktemp("whole"))


# A step

@pytest.mark.parametrize("peak", [0.0, 0.03])
def test_a_run_is_its_steps_one_by_one(tmp_path, peak):
    """Against the same steps without threads, parts, groups of names: one batch, its whole gradient, AdamW or Muon,
    average.
    """
    given = toy_run.leaves()
    recipe = replace(toy_run.RECIPE, longest=0.05, decay=0.1, muon=peak, groups={"bias": 0.5, W: 0.8})
    result = toy_run.fit(tmp_path, recipe, workers=2)
    w = {name: array.astype(float) for name, array in given.items()}
    names = (W, "bias", "rarely.weight")
    m, v = ({name: np.zeros_like(w[name]) for name in names} for _ in range(2))
    average = {name: w[name].copy() for name in names}
    clipped = 0
    for step in range(1, 31):
        parts = toy_run.data(step - 1)
        x = np.concatenate([x for x, _ in parts]).astype(float)
        rare = np.concatenate([np.full((len(x), 1), bool(rare)) for x, rare in parts])
        error = x @ (w[W] - toy_run.TRUTH) + w["bias"] + rare * w["rarely.weight"]
        d = 2 * error / error.size
        g = {W: x.T @ d, "bias": d.sum(0), "rarely.weight": (rare * d).sum(0, keepdims=True)}
        if not rare.any():
            del g["rarely.weight"]
        scale = clipping(np.sqrt(sum((a * a).sum() for a in g.values())), 0.05)
        clipped += scale < 1
        for name in g:
            factor = {"bias": 0.5, W: 0.8}.get(name, 1)
            if peak and name == W:
                muon(w[name], g[name], m[name], factor * cosine(step, 30, peak, 3), scale=scale)
            else:
                rate = factor * cosine(step, 30, 0.1, 3)
                adamw(w[name], g[name], m[name], v[name], step, rate, (0.9, 0.98), 1e-8, 0.1 * (name != "bias"), scale)
            follow(average[name], w[name], step, 0.9)
    assert clipped > 10
    for name in names:
        np.testing.assert_allclose(result[name], average[name], rtol=2e-4, atol=2e-5)
    assert np.array_equal(result["frozen.weight"], given["frozen.weight"])
    assert result[W].dtype == np.float32


def test_the_arrays_given_stay_as_they_are(tmp_path):
    given = toy_run.leaves()
    loop.fit(Run(tmp_path, "toy"), given, toy_run.data, toy_run.loss, Recipe(3), ahead=0)
    assert all(np.array_equal(array, given[name]) for name, array in toy_run.leaves().items())


def test_parts_are_one_batch():
    """Mean, gradient and extras of parts that weigh by their counts are those of all at once."""
    leaves = {**toy_run.leaves(), W: np.ones((4, 3), np.float32)}
    parts = [(x, False) for x, _ in toy_run.data(1)]
    batch = [(np.concatenate([x for x, _ in parts]), False)]
    for spread in (map, lambda f, items: list(map(f, items))):
        value, gradients, extras = loop.together(toy_run.loss, leaves, parts, spread)
        one, expected, extra = loop.together(toy_run.loss, leaves, batch, map)
        assert value == pytest.approx(one, rel=1e-6) and extras == pytest.approx(extra, rel=1e-6)
        assert gradients.keys() == expected.keys() == {W, "bias"}
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
        seen.append(leaves[W].copy())
        return {"error": float(abs(seen[-1] - toy_run.TRUTH).max()), "answer": "A dog."}
    result = toy_run.fit(tmp_path, watch=watch, watch_every=0)
    learned, lines = outcome(tmp_path)
    watched = [line for line in lines if "watch" in line]
    assert (learned, [line for line in lines if "watch" not in line]) == whole
    assert [line["step"] for line in watched] == list(range(1, 31)) and watched[-1]["watch"]["error"] < 0.5
    assert np.array_equal(seen[-1], result[W])     # it is the average that is watched
    assert "toy, step 30, answer: A dog." in capsys.readouterr().err


def test_two_batches_are_prepared_ahead_by_default(tmp_path, monkeypatch):
    asked = []

    def prepared(data, steps, count):
        asked.append(count)
        return nullcontext(map(data, steps))
    monkeypatch.setattr(loop, "prepared", prepared)
    loop.fit(Run(tmp_path, "toy"), toy_run.leaves(), toy_run.data, toy_run.loss, Recipe(2))
    assert asked == [2]


def test_a_stage_hands_on_what_it_trained(tmp_path):
    result = toy_run.fit(tmp_path)
    found = checkpoint.handed_over(Run(tmp_path, "toy"))
    assert found.keys() == {W, "bias", "rarely.weight"}
    assert all(np.array_equal(array, result[name]) for name, array in found.items())
    for name in ("toy.safetensors", "toy.previous.safetensors"):
        (tmp_path / name).unlink()                          # the result may be all that is kept
    again = toy_run.fit(tmp_path)
    assert again.keys() == result.keys() and all(np.array_equal(again[name], result[name]) for name in result)
    with pytest.raises(UserError, match="the stage sft is not finished"):
        checkpoint.handed_over(Run(tmp_path, "sft"))


def test_steps_within_minutes(monkeypatch):
    """1.5 seconds for the first step, 0.75 for the next ones: three are tried in a twentieth of a minute."""
    given, seconds, calls = toy_run.leaves(), [0.0], []

    def timed(leaves, part):
        calls.append(part)
        seconds[0] += 0.5 if len(calls) <= 3 else 0.25
        return toy_run.loss(leaves, part)
    monkeypatch.setattr(clock, "now", lambda: seconds[0])
    assert loop.steps_within(1, given, toy_run.data, timed) == 80 and len(calls) == 3 * 3
    assert loop.steps_within(1e-6, given, toy_run.data, timed) == 1
    assert all(np.array_equal(array, given[name]) for name, array in toy_run.leaves().items())


# When: by a clock on which every step takes ten seconds

@pytest.fixture
def ticking(monkeypatch):
    """A loss that lets ten seconds pass in every step"""
    seconds = [0.0]

    def loss(leaves, part):
        seconds[0] += 10 / 3                                # of three parts
        return toy_run.loss(leaves, part)
    monkeypatch.setattr(clock, "now", lambda: round(seconds[0], 6))
    return loss


def stored_steps(monkeypatch):
    stored, store = [], checkpoint.store

    def noting(run, tensors, facts):
        stored.append((facts["step"], facts["seconds"]))
        store(run, tensors, facts)
    monkeypatch.setattr(checkpoint, "store", noting)
    return stored


def test_checkpoints_come_every_so_many_seconds_and_at_the_end(tmp_path, monkeypatch, ticking):
    stored = stored_steps(monkeypatch)
    toy_run.fit(tmp_path, loss=ticking, save_every=35)
    assert stored == [(step, 10 * step) for step in (4, 8, 12, 16, 20, 24, 28, 30)]


def test_measurements_come_every_so_many_seconds_and_at_the_end(tmp_path, ticking):
    toy_run.fit(tmp_path, loss=ticking, watch=lambda leaves: {"bias": 1}, watch_every=50)      # after more than 50
    watched = [line["step"] for line in outcome(tmp_path)[1] if "watch" in line]
    assert watched == [6, 12, 18, 24, 30]


def test_watching_after_some_steps(tmp_path):
    """At these, and at the end"""
    toy_run.fit(tmp_path, watch=lambda leaves: {"bias": 1}, watch_every=1e9, watch_at={0, 3, 17})
    assert [line["step"] for line in outcome(tmp_path)[1] if "watch" in line] == [3, 17, 30]


def test_the_log_has_seconds_and_speed(tmp_path, ticking):
    toy_run.fit(tmp_path, loss=ticking)
    assert [(line["step"], line["seconds"], line["samples/s"]) for line in toy_run.lines(tmp_path)] == [
        (step, 10 * step, 2.4) for step in (7, 14, 21, 28, 30)]


def test_measuring_is_no_training(tmp_path, monkeypatch, ticking):
    """Its seconds are neither the run's nor in the speed."""
    now = clock.now
    paused = [0.0]

    def watch(leaves):
        paused[0] += 100
        return {"bias": 1}
    monkeypatch.setattr(clock, "now", lambda: now() + paused[0])
    stored = stored_steps(monkeypatch)
    toy_run.fit(tmp_path, loss=ticking, watch=watch, watch_every=1e9, watch_at={9, 20})
    assert paused == [300] and stored[-1] == (30, 300)
    assert [(line["seconds"], line["samples/s"]) for line in toy_run.lines(tmp_path) if "seconds" in line] == [
        (10 * step, 2.4) for step in (7, 14, 21, 28, 30)]


def test_a_resumed_run_goes_on_counting_its_seconds(tmp_path, monkeypatch, ticking):
    def broken(leaves, part, calls=[]):                     # noqa: B006 (counts the calls)
        calls.append(1)
        return ticking(leaves, part) if len(calls) <= 3 * 10 else 1 / 0
    with pytest.raises(ZeroDivisionError):                  # in step 11
        toy_run.fit(tmp_path, loss=broken)
    stored = stored_steps(monkeypatch)
    toy_run.fit(tmp_path, loss=ticking)
    assert toy_run.lines(tmp_path)[-1]["seconds"] == 300 and stored[0] == (11, 110) and stored[-1] == (30, 300)
