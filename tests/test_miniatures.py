"""The miniatures: what they draw, their gradients, that each learns a little in a few steps, runs done once, the table."""
import json
from functools import partial

import numpy as np
import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.loading import default_weights
from tinycogvlm.nn.tree import Gradients, Params
from tinycogvlm.train.miniatures import clipping, contrast, pictures, positions, queries, shots
from tinycogvlm.train.miniatures.__main__ import MINIATURES
from tinycogvlm.train.miniatures.miniature import Miniature, bundled, interval, perform
from tinycogvlm.train.recipe.initial import by_inputs

QUICK = {"contrast": dict(seen=16, batch=4), "positions": dict(steps=2), "clipping": dict(steps=2),
         "queries": dict(steps=2), "masks": dict(steps=2), "shots": {"steps": 2, "language steps": 2}}


# What they look at

def test_pictures_show_what_captions_say():
    random = np.random.default_rng(0)
    what = pictures.drawn(random, 50)
    shown, ids = pictures.pixels(random, *what), pictures.captions(*what)
    assert shown.dtype == np.float32 and shown.shape == (50, 3, 16, 16)
    assert ids.shape == (50, pictures.LENGTH) and (ids[:, -1] == pictures.END).all()
    cells = shown.reshape(50, 3, 2, 8, 2, 8).transpose(0, 2, 4, 3, 5, 1).reshape(50, 4, 8, 8, 3)
    for picture, words in zip(cells, ids):
        told = [pictures.WORDS[word] for word in words[:-1]]
        assert told[::3] == sorted(told[::3], key=pictures.PLACES.index) and len(set(told[::3])) == 3
        for place, colour, shape in zip(*[iter(told)] * 3):
            cell = picture[pictures.PLACES.index(place)]
            painted = (cell > -0.5).any(-1)
            assert ["".join(".#"[int(dot)] for dot in row) for row in painted[1:-1, 1:-1]] == list(pictures.SHAPES[shape])
            expected = np.array(pictures.COLOURS[colour]) / 127.5 - 1
            np.testing.assert_allclose(cell[painted].mean(0), expected, atol=5 * pictures.NOISE / painted.sum() ** 0.5)
        empty = picture[[name not in told for name in pictures.PLACES].index(True)]
        assert empty.max() < -0.5
    assert len(np.unique(pictures.pairs(random, 300, distinct=True)[1], axis=0)) == 300


def test_digits_are_where_they_can_be_read():
    patches, digits = queries.numbers(np.random.default_rng(0), 20)
    pixels = patches.reshape(20, 8, 8, 3, 3, 3)[:, :, :, 0].swapaxes(2, 3).reshape(20, 24, 24)
    for picture, number in zip(pixels, digits):
        rows, columns = np.nonzero(picture > 0.5)
        top, left = rows.min(), columns.min()
        for i, digit in enumerate(number):
            glyph = picture[top:top + 5, left + 4 * i:left + 4 * i + 3] > 0.5
            assert np.array_equal(glyph, queries.FONT[digit] == 1)


def test_sides_are_those_of_the_blue_square():
    pixels, labels = positions.examples(np.random.default_rng(0), 200)
    for picture, label in zip(pixels, labels):
        (y0, x0), (y1, x1) = (np.argwhere(picture[channel] > 0.6).mean(0) for channel in (0, 2))
        side = (0 if x1 > x0 else 2) if abs(x1 - x0) > abs(y1 - y0) else (1 if y1 > y0 else 3)
        assert label == side


def test_two_examples_show_both_names():
    colours, names = shots.episodes(np.random.default_rng(0), 200)
    for first in (0, 2):
        assert (colours[:, first] != colours[:, first + 1]).all() and (names[:, first] != names[:, first + 1]).all()
    for i in range(2, 5):
        earlier = colours[:, :2] == colours[:, i:i + 1]
        assert np.array_equal(names[:, :2][earlier], names[:, i])
    ids = shots.texts(colours, names)
    assert np.array_equal(ids[:, ::2], colours) and np.array_equal(ids[:, 1::2], names[:, :4])
    captions = (names == colours).all(1)
    assert 70 < captions.sum() < 130 and (names[~captions] >= shots.COLOURS).all() and names.max() < shots.IMAGE
    assert not (shots.episodes(np.random.default_rng(0), 200, captions=0)[1] < shots.COLOURS).any()
    images = shots.painted(np.random.default_rng(0), colours)
    brightest = images.max((3, 4))                          # of each channel: that of the colour, or of the background
    expected = (np.array(list(pictures.COLOURS.values())) / 127.5 - 1)[colours]
    assert abs(brightest - expected).max() < 0.5


# Gradients

def check(leaves, loss, frozen=()):
    """A random direction's derivative, by differences in float64; every parameter that is not frozen has a gradient."""
    random = np.random.default_rng(1)
    leaves = {name: array.astype(float) + 0.1 * random.standard_normal(array.shape) for name, array in leaves.items()}
    gradients = loss(leaves)[1]()
    assert set(gradients) == set(leaves) - set(frozen)
    for group in sorted({name.split(".")[0] for name in gradients}):
        along = {name: random.standard_normal(leaves[name].shape) for name in gradients if name.split(".")[0] == group}
        step = lambda size: loss(leaves | {name: leaves[name] + size * d for name, d in along.items()})[0]
        slope = sum((gradients[name] * d).sum() for name, d in along.items())
        assert abs((step(1e-6) - step(-1e-6)) / 2e-6 - slope) < 1e-6 * max(1, abs(slope)), group


def wide(*batch):
    return tuple(array.astype(float) if array.dtype == np.float32 else array for array in batch)


@pytest.mark.parametrize("count", [3, 0])
def test_gradients_of_reading(count):
    random = np.random.default_rng(0)
    patches, digits = wide(*queries.numbers(random, 2))
    weights = random.standard_normal((2, 3, 10))

    def loss(leaves):
        y, pull = queries.read(patches, Params(leaves), count)

        def gradients():
            g = Gradients(leaves)
            pull(weights, g)
            return g.leaves
        return (y * weights).sum(), gradients
    check(by_inputs(queries.reader_shapes(count), random), loss)


@pytest.mark.parametrize("leaky", [False, True])
def test_gradients_of_contrast(leaky):
    random = np.random.default_rng(0)
    batch = wide(*pictures.pairs(random, 3))
    leaves = by_inputs(queries.contrast_shapes(), random) | {"temp": np.asarray(0.5)}

    def loss(leaves):
        y, _, pull = queries.contrasted(batch, Params(leaves), leaky)

        def gradients():
            g = Gradients(leaves)
            pull(g)
            return g.leaves
        return y, gradients
    unread = [name for name in leaves if ".cls." in name]
    check({name: array for name, array in leaves.items() if name not in unread}, loss)


@pytest.mark.parametrize("immediate", [True, False])
def test_gradients_of_shots(immediate):
    random = np.random.default_rng(0)
    batch = wide(*shots.look_at_colours(random, 2))
    language = by_inputs(shots.language_shapes(), random)
    loss = shots.loss_of(lambda p, batch: shots.looking(p, batch, immediate), tuple(language))
    check(shots.begin(language, 0), lambda leaves: loss(leaves, batch), language)
    loss = shots.loss_of(shots.reading)
    check(language, lambda leaves: loss(leaves, shots.read_colours(np.random.default_rng(3), 2)))


# What is claimed and needs no training

def test_with_gates_at_0_flamingo_is_its_language_model_to_the_bit():
    language = by_inputs(shots.language_shapes(), np.random.default_rng(0))
    images, names = shots.look_at_colours(np.random.default_rng(1), 4)
    leaves = shots.begin(language, 0)
    alone, _ = shots.answers(Params(language), shots.texts(np.array(shots.IMAGE), names))
    seeing, _ = shots.looking(Params(leaves), (images, names), True)
    assert np.array_equal(alone, seeing)
    leaves["gated.0.attn_gate"] = np.full(1, 1e-3, np.float32)
    assert not np.array_equal(alone, shots.looking(Params(leaves), (images, names), True)[0])


def test_the_last_picture_alone_is_seen_or_all_before():
    """== does not see the first picture in the last answer; <= does. Neither sees a later one."""
    random = np.random.default_rng(0)
    leaves = shots.begin(by_inputs(shots.language_shapes(), random), 0)
    leaves |= {name: np.ones_like(array) for name, array in leaves.items() if name.endswith("_gate")}
    images, names = shots.look_at_colours(random, 1)
    media = [shots.seen(Params(leaves), images)[0] for images in (images, images[:, [1, 0, 2, 3, 4]])]
    ids = shots.texts(np.array(shots.IMAGE), names)
    x = random.standard_normal((1, shots.LENGTH, shots.WIDTH)).astype(np.float32)
    times = shots.flamingo.text_times(ids == shots.IMAGE)
    for immediate, changed in ((True, [0, 1, 2, 3]), (False, [0, 1])):
        first, second = (shots.flamingo.block(x, some, times, Params(leaves).gated[0], shots.GATED, immediate)[0]
                         for some in media)
        assert list(np.flatnonzero(abs(first - second).max((0, 2)) > 1e-5)) == changed


@pytest.mark.parametrize("seed", range(3))
def test_the_variance_of_nfnet_s_blocks(seed):
    """Nearly one more after each block; without beta it doubles; without gamma nothing is left; else it explodes."""
    planned, beta, gamma, raw = (np.array(clipping.variances(without, seed))
                                 for without in (None, "beta", "gamma", "standardisation"))
    assert len(planned) == 8 and abs(planned[0] - 1.7) < 0.3 and (abs(np.diff(planned) - 0.8) < 0.4).all()
    assert (abs(beta[1:] / beta[:-1] - 1.95) < 0.35).all()
    assert gamma.max() < 0.05 and raw[-1] > 100


# Runs

@pytest.mark.parametrize("name", QUICK)
def test_a_miniature_runs_once_and_has_a_table(name, tmp_path, monkeypatch):
    module = {"contrast": contrast, "positions": positions, "clipping": clipping, "shots": shots}.get(name, queries)
    monkeypatch.setattr(module, "ASKED", 8)
    monkeypatch.setattr(module, "BATCH", 4, raising=False)
    runs = list(MINIATURES[name].runs)[:3:2] or list(MINIATURES[name].runs)
    table = perform(MINIATURES[name], tmp_path, 1, runs, **QUICK[name])
    assert all(f"| {run} | 1 |" in table for run in runs)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob(f"{name}-*.json")}
    assert len(before) == len(runs)
    assert perform(MINIATURES[name], tmp_path, 1, runs, **QUICK[name]) == table
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob(f"{name}-*.json")}
    rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    assert list(rows) == runs and all(row["measured"] for row in rows.values())
    with pytest.raises(UserError, match="other settings"):
        perform(MINIATURES[name], tmp_path, 1, runs, more=1)


def test_a_run_that_diverges_is_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(clipping, "BATCH", 16)
    monkeypatch.setattr(clipping, "ASKED", 8)
    table = perform(clipping.CLIPPING, tmp_path, 1, ["rate 3.2, not clipped"], rate=1e20, steps=12)
    assert "| rate 3.2, not clipped | 1 | diverged |" in table


def test_bias_0_is_what_differs():
    for name, bias in (("sigmoid-16", -10), ("sigmoid-16-bias-0", 0)):
        assert contrast.start(contrast.RUNS[name], 0)[2]["logit_bias"] == bias
    assert "logit_bias" not in contrast.start(contrast.RUNS["softmax-16"], 0)[2]


def test_intervals_are_student_s():
    assert interval([0.5]) == "0.500"
    assert interval([0.1, 0.2, 0.3]) == "0.200 ± 0.248"     # 4.303 x 0.1 / sqrt(3)
    assert interval([None, 0.2]) == "1 of 2 diverged" and interval([None, None]) == "diverged"


def test_three_seeds_unless_told_otherwise(tmp_path):
    told = Miniature("told", "", 1, {"a": {}}, lambda run, settings, seed: {"seed": seed})
    perform(told, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("told-a-*.json")) == [f"told-a-{seed}.json" for seed in range(3)]


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match="masks has no run 'leak'; there are apart, leaky"):
        perform(queries.MASKS, tmp_path, 1, ["leak"])
    nothing = Miniature("nothing", "", 1, {"a": {}}, partial(dict))
    assert perform(nothing, tmp_path, 0) == "No run is finished yet."


@pytest.mark.parametrize("path", sorted((default_weights() / "miniatures").glob("*.json")), ids=lambda path: path.stem)
def test_results_that_came_with_the_weights_are_of_these_settings(path):
    """Three seeds of every run, as the lessons say."""
    kept, miniature = json.loads(path.read_text(encoding="utf-8")), MINIATURES[path.stem]
    assert kept["claim"] == miniature.claim
    assert {name: row["settings"] for name, row in kept["rows"].items()} == json.loads(json.dumps(miniature.runs))
    assert {len(numbers) for row in kept["rows"].values() for numbers in row["measured"].values()} == {3}
    assert bundled(path.stem) == {name: {measure: interval(numbers) for measure, numbers in row["measured"].items()}
                                  for name, row in kept["rows"].items()}
