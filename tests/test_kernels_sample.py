"""sample.cu chooses the tokens that generate.Sampling chooses with the same random numbers, and those of a float64
inverse distribution function."""
import math

import numpy as np
import pytest

from small_floats import KINDS, numbers, stored
from tinycogvlm.errors import UserError
from tinycogvlm.model.generate import Sampling
from tinycogvlm.kernels.runner import build
from tinycogvlm.kernels.library.sample import choose, uniforms

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

SAMPLINGS = [dict(temperature=1), dict(temperature=0.3), dict(temperature=7), dict(temperature=1, top_k=1),
             dict(temperature=1, top_k=5), dict(temperature=2, top_k=100000), dict(temperature=1, top_p=0.4),
             dict(temperature=1, top_p=0.95), dict(temperature=1, top_p=1e-9), dict(temperature=1, top_p=1.0),
             dict(temperature=1.5, top_k=6, top_p=0.7), dict(temperature=1e9, top_k=3), dict(temperature=1e-300),
             dict(temperature=1, repetition_penalty=1.7), dict(temperature=1, top_p=0.8, repetition_penalty=0.6)]
ORDERS = [dict(order="backward"), dict(order="shuffled"), dict(check="race")]


def show(sampling):
    return "-".join(f"{name}={value}" for name, value in sampling.items())


def logits_of(B, V, seed=0):
    """Logits with ties, zeros of both signs and a token that is ruled out among them."""
    logits = np.round(3 * np.random.default_rng([seed, B, V]).standard_normal((B, V)), 1)
    logits[:, ::5] *= -1
    if V > 3:
        logits[::2, 3] = -np.inf
    return logits


def expected(logits, sampling, uniform, seen=()):
    """The token by the definition, in float64: the first whose distribution function exceeds `uniform`."""
    logits = [float(x) for x in logits]
    for token in set(seen):
        logits[token] *= sampling.repetition_penalty if logits[token] <= 0 else 1 / sampling.repetition_penalty
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:sampling.top_k]
    weights = [math.exp((logits[token] - logits[order[0]]) / sampling.temperature) for token in order]
    if sampling.top_p is not None:
        total = math.fsum(weights)
        weights = [w for i, w in enumerate(weights) if i == 0 or math.fsum(weights[:i]) < sampling.top_p * total]
    total = math.fsum(weights)
    return next(token for i, token in enumerate(order) if math.fsum(weights[:i + 1]) > uniform * total)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("setting", SAMPLINGS, ids=show)
def test_draws_are_those_of_sampling(setting, version):
    """With the row's generator: the same ids; and those of another order of the threads."""
    sampling = Sampling(**setting, seed=3)
    for B, V in ((1, 1), (2, 2), (9, 7), (3, 40 if version == 1 else 200)):
        logits = logits_of(B, V).astype(np.float32)
        seen = np.random.default_rng(V).random((B, V)) < 0.3
        right = [sampling.choose(logits[b], np.flatnonzero(seen[b]), np.random.default_rng([3, b])) for b in range(B)]
        ids = choose(logits, sampling, uniforms(sampling, B, 1), seen.copy(), version=version)
        assert ids.dtype == np.int32 and ids.tolist() == right


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_distribution_is_that_of_float64(kind, version):
    """A fine comb of uniform numbers, with both ends, through the distribution function."""
    comb = np.array([0, *((np.arange(32) + 0.37) / 32), np.nextafter(1, 0)])
    row = stored(logits_of(1, 12, seed=1), kind)
    for setting in (dict(temperature=5), dict(temperature=3, top_k=7), dict(temperature=4, top_p=0.9),
                    dict(temperature=2.5, top_k=9, top_p=0.8)):
        sampling = Sampling(**setting)
        ids = choose(np.repeat(row, len(comb), 0), sampling, comb[None], version=version)
        right = [expected(numbers(row)[0], sampling, u) for u in comb]
        assert ids.tolist() == right and len(set(right)) > 2


@pytest.mark.parametrize("version", [1, 2, 3])
def test_edges_of_shares_that_are_exact(version):
    """Eight equal tokens: each has an eighth, and `uniform` at an edge takes the token behind it."""
    edges = np.arange(8) / 8
    comb = np.concatenate([edges, np.nextafter(edges[1:], 0), [np.nextafter(1, 0)]])
    logits = np.full((len(comb), 8), 2.5, np.float32)
    ids = choose(logits, Sampling(temperature=1), comb[None], version=version)
    assert ids.tolist() == [*range(8), *range(8)]
    for top_p, nucleus in ((0.25, 2), (np.nextafter(0.25, 1), 3), (0.125, 1), (1e-300, 1), (np.nextafter(1, 0), 8)):
        ids = choose(logits, Sampling(temperature=1, top_p=top_p), comb[None], version=version)
        assert ids.tolist() == [math.floor(u * nucleus) for u in comb], top_p
    for top_k in range(1, 9):                               # of equals the lower ids stay
        ids = choose(logits[:1], Sampling(temperature=1, top_k=top_k), comb[None, -1:], version=version)
        assert ids.tolist() == [top_k - 1]


@pytest.mark.parametrize("options", ORDERS, ids=lambda options: "".join(options.values()))
@pytest.mark.parametrize("version", [1, 2, 3])
def test_order_of_threads(version, options):
    logits = logits_of(4, 9).astype(np.float32)
    for setting in (dict(temperature=1, top_k=6, top_p=0.8, repetition_penalty=1.2), dict(repetition_penalty=1.2)):
        sampling, seen = Sampling(**setting), np.arange(36).reshape(4, 9) % 4 == 0
        draws, right_seen = uniforms(sampling, 4, 1), seen.copy()
        right = choose(logits, sampling, draws, right_seen, version=version)
        assert np.array_equal(choose(logits, sampling, draws, seen, version=version, **options), right)
        assert np.array_equal(seen, right_seen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [1, 2])
def test_greedy_is_the_first_of_the_best(version, kind):
    rows = [[1, 5, 5, 3, 5], [-3, -1, -2, -1, -9], [-np.inf, 2, -np.inf, 2, 1], [0, 0, -1, 0, 0],
            [-0.0, 0.0, -2, 0, 0], [-1e4, -1e4, 6e4, 0, 6e4]]
    logits = stored(np.array(rows), kind)
    assert choose(logits, Sampling(), version=version).tolist() == numbers(logits).argmax(-1).tolist()
    for V in (1, 31, 33, 1500):
        logits = stored(logits_of(2, V), kind)
        assert choose(logits, Sampling(), version=version).tolist() == numbers(logits).argmax(-1).tolist()
    sampling = Sampling(repetition_penalty=2)
    seen = np.array([[True, True, False]])
    assert choose(stored([[2, -1, 1.5]], kind), sampling, seen=seen, version=version).tolist() == [2]
    assert seen.all()                                       # the chosen token has been seen


NEGATIVE_NAN = np.uint32(0xFFC00000).view(np.float32)       # what x86 makes of infinity - infinity; a GPU's is positive


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("setting", [{}, dict(repetition_penalty=2), dict(temperature=1),
                                     dict(temperature=1, top_k=2, top_p=0.9, repetition_penalty=2)], ids=str)
def test_a_row_that_is_not_finite_has_no_token(setting, version):
    """-1 for it, whatever it holds besides, and nothing is noted as seen; its neighbour gets a token."""
    for row in ([np.inf, 0, 3], [np.inf] * 3, [np.nan, 1, 2], [1, NEGATIVE_NAN, 2], [np.nan] * 3, [-np.inf] * 3):
        logits, seen = np.array([row, [-np.inf, 5, -np.inf]], np.float32), np.array([[1, 1, 0], [0, 0, 0]], bool)
        chosen = choose(logits, Sampling(**setting), np.array([[0.7, 0.7]]), seen, version=version, check="race")
        assert chosen.tolist() == [-1, 1]
        assert seen.tolist() == [[True, True, False], [False, setting.get("repetition_penalty", 1) != 1, False]]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("penalty", [1e-30, 1e30])
def test_an_extreme_penalty_makes_no_infinity(penalty, version):
    """As in generate.penalised: the largest finite number instead, which the others are compared with."""
    logits, seen = np.array([[1e30, -1e30, 2.0]], np.float32), np.array([[True, True, False]])
    right = {1e-30: 0, 1e30: 2}[penalty]
    assert choose(logits, Sampling(repetition_penalty=penalty), seen=seen, version=version).tolist() == [right]


def test_a_whole_vocabulary():
    """32003 tokens: 1024 threads with many of them each, several rounds of digits, ties on every level."""
    logits = logits_of(2, 32003).astype(np.float32)
    logits[1] += np.random.default_rng(0).standard_normal(32003).astype(np.float32)
    for setting in (dict(temperature=1), dict(temperature=4, top_k=50, top_p=0.9), dict(temperature=2, top_p=0.5)):
        sampling = Sampling(**setting)
        right = [sampling.choose(logits[b], (), np.random.default_rng([0, b])) for b in range(2)]
        assert choose(logits, sampling, uniforms(sampling, 2, 1)).tolist() == right


def test_steps_as_a_captured_graph_takes_them():
    """The same arrays in every step: the step's number, what was seen, and the ids live where the kernel does."""
    sampling, B, V, steps = Sampling(temperature=1.2, top_p=0.9, repetition_penalty=1.5, seed=11), 3, 9, 8
    logits = logits_of(steps * B, V).astype(np.float32).reshape(steps, B, V)
    generators = [np.random.default_rng([11, row]) for row in range(B)]
    seen, texts = np.zeros((B, V), bool), [[], [], []]
    step, chosen, numbers_drawn = np.zeros(1, np.int32), np.zeros(B, np.int32), uniforms(sampling, B, steps)
    for t in range(steps):
        step[0] = t
        assert choose(logits[t], sampling, numbers_drawn, seen, step, chosen) is chosen
        for b in range(B):
            texts[b].append(sampling.choose(logits[t, b], texts[b], generators[b]))
        assert chosen.tolist() == [text[-1] for text in texts]
    assert [np.flatnonzero(row).tolist() for row in seen] == [sorted(set(text)) for text in texts]


def test_what_is_missing_or_does_not_fit():
    logits, draw = np.zeros((2, 4), np.float32), Sampling(temperature=1)
    for match, call in (("uniforms: missing", lambda: choose(logits, draw)),
                        ("uniforms: an array \\(1, 3\\)", lambda: choose(logits, draw, np.zeros((1, 3)))),
                        ("uniforms.*float32", lambda: choose(logits, draw, np.zeros((1, 2), np.float32))),
                        ("seen: missing", lambda: choose(logits, Sampling(repetition_penalty=2))),
                        ("seen.*bool", lambda: choose(logits, Sampling(repetition_penalty=2), seen=np.zeros((2, 4)))),
                        ("chosen.*int32", lambda: choose(logits, Sampling(), chosen=np.zeros(2, np.int64))),
                        ("step.*int32", lambda: choose(logits, draw, np.zeros((1, 2)), step=np.zeros(2, np.int32))),
                        ("float64", lambda: choose(np.zeros((2, 4)), Sampling()))):
        with pytest.raises(UserError, match=match):
            call()


@pytest.mark.parametrize("setting", [dict(temperature=9), dict(temperature=9, top_p=0.97),
                                     dict(temperature=1, top_k=2500), dict(temperature=1, top_k=2500, top_p=0.5)],
                         ids=show)
def test_more_tokens_than_are_listed(setting):
    """Of 3000 that count, more than version 3 lists: then it scans the row, as version 2."""
    logits, draws = logits_of(2, 3000).astype(np.float32), np.array([[0.2, 0.93]])
    right = choose(logits, Sampling(**setting), draws, version=2)
    assert np.array_equal(choose(logits, Sampling(**setting), draws, order="shuffled"), right)
