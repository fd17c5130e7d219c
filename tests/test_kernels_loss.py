"""softmax_cross_entropy.cu: the op's loss and gradient, in every order of the threads and in every kind of number."""
from dataclasses import replace

import numpy as np
import pytest

from small_floats import KINDS, numbers, stored
from tinycogvlm import contracts
from tinycogvlm.nn import ops
from tinycogvlm.kernels.runner import build
from tinycogvlm.kernels.library.softmax_cross_entropy import cross_entropy

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

RUNGS = (1, 2, 3)
TOLERANCE = {"float32": 5e-7, "float16": 2.5e-4, "bfloat16": 2e-3}   # of dlogits, below 1: half a last place
ORDERS = [dict(order="forward"), dict(order="backward"), dict(order="shuffled"), dict(check="race")]


def cases():
    """The contract's, and rows of whole packs, longer than a block, weighted, of all sizes of logits."""
    yield from contracts.ops.cross_entropy_cases()
    labels = np.array([5, -100, 0, 15])
    yield "rows of packs", dict(logits=contracts.random(4, 16, scale=4), labels=labels)
    yield "weights", dict(logits=contracts.random(4, 16), labels=labels, weights=np.array([1, 7, 0, 2.5]))
    yield "long rows", dict(logits=contracts.random(3, 2080, scale=3), labels=np.array([2079, 0, 1024]))
    yield "long odd rows", dict(logits=contracts.random(2, 1031, scale=3), labels=np.array([1030, 256]))
    ruled_out = contracts.random(2, 8)
    ruled_out[:, :5] = -np.inf
    yield "tokens that are ruled out", dict(logits=ruled_out, labels=np.array([6, 7]))
    yield "one likely token", dict(logits=np.eye(8)[:2] * 60, labels=np.array([0, 1]))
    yield "more rows than a block has threads", dict(logits=contracts.random(257, 8), labels=np.arange(257) % 8)


@pytest.mark.parametrize("options", ORDERS, ids=lambda options: "".join(options.values()))
@pytest.mark.parametrize("version", RUNGS)
def test_loss_keeps_the_contract(version, options):
    contract = contracts.CONTRACTS["cross_entropy"]
    some = [case for case in cases() if "weights" not in case[1] and len(case[1]["logits"]) < 9]
    replace(contract, cases=lambda: some).check(
        lambda **arguments: cross_entropy(**arguments, version=version, **options)[0], "float32")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", RUNGS)
def test_loss_and_gradient_are_those_of_the_op(version, kind):
    for label, case in cases():
        logits = stored(case["logits"], kind)
        loss, pull = ops.cross_entropy(numbers(logits), case["labels"], case.get("weights"))
        found, dlogits = cross_entropy(logits, **{n: v for n, v in case.items() if n != "logits"}, version=version)
        assert found.dtype == np.float32 and dlogits.dtype == logits.dtype
        contracts.close(found, loss, 2e-6, f"{label}, {kind}")
        contracts.close(numbers(dlogits), pull(), TOLERANCE[kind], f"{label}, {kind}, dlogits")


@pytest.mark.parametrize("version", RUNGS)
def test_gradient_is_the_slope_of_the_specification(version):
    labels, h = np.array([2, -100, 6]), 1e-5
    logits = numbers(stored(contracts.random(3, 7), "float32"))
    dlogits = cross_entropy(stored(logits, "float32"), labels, dloss=3.0, version=version)[1]
    for place in contracts.over(3, 7):
        step = np.zeros((3, 7))
        step[place] = h
        above, below = (contracts.ops.cross_entropy(logits + sign * step, labels) for sign in (1, -1))
        assert abs(dlogits[place] - 3 * (above - below) / (2 * h)) < 1e-6


@pytest.mark.parametrize("options", ORDERS, ids=lambda options: "".join(options.values()))
@pytest.mark.parametrize("version", RUNGS)
def test_gradient_in_the_place_of_the_logits(version, options):
    """The label's logit is read before another thread overwrites it."""
    for N, V in ((3, 304), (3, 301)):
        logits, labels = contracts.random(N, V).astype(np.float32), np.array([V - 1, -100, 0])
        loss, dlogits = cross_entropy(logits, labels, version=version)
        same_loss, same = cross_entropy(logits, labels, in_place=True, version=version, **options)
        assert same is logits and np.array_equal(same, dlogits) and same_loss == loss


@pytest.mark.parametrize("version", RUNGS)
def test_labels_without_a_loss(version):
    """All ignored: the mean of nothing, and no gradient. Labels outside the vocabulary: NaN, and no wild access."""
    logits = contracts.random(3, 8).astype(np.float32)
    loss, dlogits = cross_entropy(logits, np.full(3, -100), version=version, check="race")
    assert np.isnan(loss) and not dlogits.any()
    for label in (8, -1, -101, 1 << 40):
        assert np.isnan(cross_entropy(logits, np.array([1, label, 2]), version=version, check="race")[0])


def test_ignored_logits_are_not_looked_at():
    logits = np.full((2, 8), np.nan, np.float32)
    logits[1] = np.arange(8)
    for version in RUNGS:
        loss, dlogits = cross_entropy(logits, np.array([-100, 3]), version=version)
        assert np.isfinite(loss) and not dlogits[0].any() and np.isfinite(dlogits[1]).all()
