"""Every implementation of every op keeps its contract; the contracts themselves notice what is wrong."""
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinycogvlm import contracts
from tinycogvlm.nn import activations, ops
from tinycogvlm.nn.attention import attention_plain
from tinycogvlm.nn.tree import Gradients

GOLDEN = Path(__file__).parent / "golden"


def package(name):
    return lambda **arguments: contracts.package(name, **arguments)[0]


# name -> (dtype, function from an op's name to the implementation, which takes the contract's arguments by name)
IMPLEMENTATIONS = {f"package in {dtype}": (dtype, package) for dtype in ("float64", "float32", "float16")}


@pytest.mark.parametrize("op", contracts.CONTRACTS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_implementation_keeps_contract(implementation, op):
    dtype, of = IMPLEMENTATIONS[implementation]
    contracts.CONTRACTS[op].check(of(op), dtype)


# -------------------------------------------------------------------------------------- is a contract able to fail?

def softmax_less_the_whole_maximum(x):
    e = np.exp(np.maximum(x - x.max(), -700))
    return e / e.sum(-1, keepdims=True)


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def interleaved_rotary(x, cos, sin):
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    cos, sin = cos[:, None], sin[:, None]
    first, second = pairs[..., 0], pairs[..., 1]
    return np.stack([first * cos - second * sin, second * cos + first * sin], -1).reshape(x.shape).astype(x.dtype)


def repeat_instead_of_interleave(q, k, v, mask=None, causal=True):
    n = q.shape[1] // k.shape[1]
    return contracts.package("attention", q=q, k=np.tile(k, (1, n, 1, 1)), v=np.tile(v, (1, n, 1, 1)), mask=mask,
                             causal=causal)[0]


def causal_from_the_left(q, k, v, mask=None, causal=True):
    """Forgets that the cache's keys are older than the first query."""
    T, S = q.shape[2], k.shape[2]
    if S > T:
        k, v, mask = k[:, :, :T], v[:, :, :T], None if mask is None else mask[:, :T]
    return contracts.ops.attention(q, k, v, mask, causal)


def eoi_to_vision(x, types, vision_weight, language_weight, vision_bias=None):
    y = x @ language_weight.T
    vision = x @ vision_weight.T + (0 if vision_bias is None else vision_bias)
    return np.where(types[..., None] > 0, vision, y)


def rms_without_eps(x, weight, eps):
    with np.errstate(all="ignore"):
        return x / np.sqrt((x * x).mean(-1, keepdims=True)) * weight


def rms_norm_in_its_own_type(x, weight, eps):
    with np.errstate(over="ignore"):
        return (x / np.sqrt((x * x).mean(-1, keepdims=True, dtype=x.dtype) + eps) * weight).astype(x.dtype)


def layer_norm_in_its_own_type(x, weight, bias, eps):
    with np.errstate(over="ignore", invalid="ignore"):
        centred = x - x.mean(-1, keepdims=True, dtype=x.dtype)
        variance = (centred * centred).mean(-1, keepdims=True, dtype=x.dtype)
        return (centred / np.sqrt(variance + eps) * weight + bias).astype(x.dtype)


def hidden_keys_at_a_fixed_score(q, k, v, mask=None, causal=True):
    """-10,000 is not low enough where the keys that are seen score below it."""
    if mask is None or causal:
        return contracts.ops.attention(q, k, v, mask, causal)
    n = q.shape[1] // k.shape[1]
    scores = q @ np.repeat(k, n, 1).swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    scores = np.where(mask[:, None, None], scores, -1e4)
    return ops.softmax(scores)[0] @ np.repeat(v, n, 1)


def weights_divided_by_their_number(logits, labels, weights=None):
    if weights is None:
        return contracts.ops.cross_entropy(logits, labels)
    return contracts.ops.cross_entropy(logits, labels, weights) * weights[labels != -100].mean()


def smooth_l1_that_jumps(e, beta):
    return np.where(np.abs(e) < beta, e * e / (2 * beta), np.abs(e)).mean()


def convolution_padded_alike(x, weight, bias=None, stride=1, padding=0, groups=1):
    """SAME padding on both sides, where a stride of 2 needs it below and to the right alone."""
    if padding == ((0, 1), (0, 1)):
        padding = ((1, 0), (1, 0))
    return contracts.pictures.convolution(x, weight, bias, stride, padding, groups)


def flipped_in_time(x, weight, bias=None, stride=1, padding=0, groups=1):
    return contracts.pictures.convolution1d(x, weight[:, :, ::-1], bias, stride, padding, groups)


def convolution_with_a_flipped_kernel(x, weight, bias=None, stride=1, padding=0, groups=1):
    return contracts.pictures.convolution(x, weight[:, :, ::-1, ::-1], bias, stride, padding, groups)


def convolution_with_interleaved_groups(x, weight, bias=None, stride=1, padding=0, groups=1):
    order = np.arange(x.shape[1]).reshape(-1, groups).T.ravel()
    return contracts.pictures.convolution(x[:, order], weight, bias, stride, padding, groups)


def pool_that_counts_padding(x, size, ceil=False):
    if not ceil:
        return contracts.pictures.average_pool(x, size)
    down, across = (-n % size for n in x.shape[2:])
    return contracts.pictures.average_pool(np.pad(x, ((0, 0), (0, 0), (0, down), (0, across))), size)


def pool_that_counts_padding_as_0(x, size):
    return np.maximum(contracts.pictures.max_pool(x, size), 0)


def eps_outside_the_root(x, weight, bias, mean, variance, eps):
    weight, bias, mean, deviation = (each[:, None, None] for each in (weight, bias, mean, np.sqrt(variance)))
    return (x - mean) / (deviation + eps) * weight + bias


def unbiased_channel_norm(x, weight, bias, eps):
    T = x.shape[-1]
    return contracts.pictures.channel_norm(x, weight * ((T - 1) / max(1, T)) ** 0.5, bias, eps)


def half_split_rotary(x, cos, sin):
    cos, sin = (np.broadcast_to(table, (len(x), *table.shape)) for table in (cos, sin))
    return contracts.ops.rotary(x, cos, sin)


def windows_side_by_side(x, size):
    """Of equal size, as far as they go: right where the size divides the picture."""
    rows, columns = ([slice(i * whole // parts, i * whole // parts + max(1, whole // parts)) for i in range(parts)]
                     for whole, parts in zip(x.shape[2:], size))
    return np.stack([np.stack([x[:, :, row, column].mean((2, 3)) for column in columns], -1) for row in rows], 2)


def corners_aligned(x, points):
    n, m = x.shape[1:3]
    return contracts.pictures.bilinear(x, (points * [m - 1, n - 1] + 0.5) / [m, n])


def edges_repeated(x, points):
    """The nearest pixel, where zeros are around the picture."""
    n, m = x.shape[1:3]
    return contracts.pictures.bilinear(x, np.clip(points, [0.5 / m, 0.5 / n], [1 - 0.5 / m, 1 - 0.5 / n]))


def down_before_across(x, points):
    return contracts.pictures.bilinear(x, points[..., ::-1])


def smoothed_over_the_others(logits, labels, smoothing):
    """s spread over V - 1 classes, not over all V."""
    V = logits.shape[1]
    return contracts.ops.smooth_cross_entropy(logits, labels, smoothing * V / max(1, V - 1))


def in_place(x):
    x *= 0
    return x


@pytest.mark.parametrize("op, wrong", [
    ("softmax", softmax_less_the_whole_maximum), ("gelu", tanh_gelu), ("silu", in_place), ("rms_norm", rms_without_eps),
    ("rotary", interleaved_rotary), ("attention", repeat_instead_of_interleave), ("attention", causal_from_the_left),
    ("attention", hidden_keys_at_a_fixed_score),
    ("cross_entropy", weights_divided_by_their_number), ("smooth_l1", smooth_l1_that_jumps),
    ("routed_dense", eoi_to_vision), ("quick_gelu", contracts.ops.gelu), ("gelu_tanh", contracts.ops.gelu),
    ("relu", contracts.ops.gelu), ("squared_relu", contracts.ops.relu), ("convolution", convolution_padded_alike),
    ("convolution1d", flipped_in_time), ("convolution", convolution_with_a_flipped_kernel), ("convolution", convolution_with_interleaved_groups),
    ("average_pool", pool_that_counts_padding), ("max_pool", pool_that_counts_padding_as_0),
    ("batch_norm", eps_outside_the_root), ("channel_norm", unbiased_channel_norm),
    ("rotary_pairs", half_split_rotary), ("adaptive_average_pool", windows_side_by_side), ("bilinear", corners_aligned),
    ("bilinear", edges_repeated), ("bilinear", down_before_across), ("smooth_cross_entropy", smoothed_over_the_others),
    ("hard_swish", contracts.ops.silu), ("hard_sigmoid", contracts.ops.sigmoid),
    ("logistic", contracts.ops.hard_sigmoid), ("tanh", contracts.ops.sigmoid)],
    ids=lambda value: getattr(value, "__name__", value))
def test_contract_catches_classic_mistake(op, wrong):
    with pytest.raises(AssertionError, match=op):
        contracts.CONTRACTS[op].check(wrong, "float64")


@pytest.mark.parametrize("op, wrong", [("rms_norm", rms_norm_in_its_own_type),
                                       ("layer_norm", layer_norm_in_its_own_type)])
def test_the_contract_in_float16_catches_an_overflow(op, wrong):
    contracts.CONTRACTS[op].check(wrong, "float32")
    with pytest.raises(AssertionError, match=f"^{op}, .*, float16"):
        contracts.CONTRACTS[op].check(wrong, "float16")


def test_failure_names_worst_five_entries():
    expected = np.arange(12.0).reshape(3, 4)
    actual = expected.copy()
    actual[0] += [1, 2, 3, 0]
    actual[2, 1] = np.nan
    actual[1] += [0, 0, 1, 10]
    with pytest.raises(AssertionError) as failure:
        contracts.close(actual, expected, 1e-3, "an op")
    lines = str(failure.value).splitlines()
    assert lines[0] == "an op: 6 of 12 entries differ; the worst:"
    # row 0 allows 1e-3 * 3, row 1 1e-3 * 7; NaN is worst of all
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["(2, 1)", "(1, 3)", "(0, 2)", "(0, 1)", "(0, 0)"]
    assert "17.0, expected 7.0" in lines[2]


def test_close_of_scalars_and_open_entries():
    contracts.close(np.float64(2), np.float64(2), 1e-12, "scalar")
    contracts.close(np.array([1.0, 5.0]), np.array([1.0, np.nan]), 1e-12, "an entry without a promise")
    with pytest.raises(AssertionError, match="1 of 2"):                     # which must be finite all the same
        contracts.close(np.array([1.0, np.inf]), np.array([1.0, np.nan]), 1e-12, "x")
    with pytest.raises(AssertionError, match="shape"):
        contracts.close(np.zeros((2, 1)), np.zeros(2), 1, "x")


# ----------------------------------------------------------------------------------------------- beyond the contracts

def test_normal_tail_against_erfc():
    """Q(a) relative to itself. exp rounds its argument a^2 / 2, and so does erfc, the reference: a^2 epsilon in all."""
    a = np.concatenate([np.linspace(0, 8, 4001), np.linspace(8, 37, 500), [1e-300, 1e-16, 2.5]])
    exact = np.array([math.erfc(x / math.sqrt(2)) / 2 for x in a])
    tail, density = ops.normal_tail(a)
    error = np.abs(tail / exact - 1)
    assert (error / (1e-14 + a * a * 2.0 ** -52)).max() < 1
    assert error[a <= 16].max() < 1e-13
    exact = np.array([math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in a])
    assert np.abs(density / exact - 1).max() < 1e-13


def test_normal_tail_in_float32():
    """Accurate in relation to 1, which is all that x Phi(x) needs; far out, where Q is nothing beside 1, to 0.3 %."""
    a = np.linspace(0, 12, 4001).astype(np.float32)
    exact = np.array([math.erfc(x / math.sqrt(2)) / 2 for x in a.astype(np.float64)])
    tail, _ = ops.normal_tail(a)
    assert tail.dtype == np.float32
    assert np.abs(tail - exact).max() < 1.2e-7                          # two units in the last place of 0.5
    assert (a * np.abs(tail - exact)).max() < 6e-8                      # what gelu adds to its rounding
    assert (np.abs(tail / exact - 1) / (5e-7 + np.minimum(3e-3, 3e-7 * np.exp(a.astype(float) ** 2 / 4)))).max() < 1


def test_gelu_keeps_digits_of_its_lower_tail():
    x = -np.linspace(0.01, 30, 1000)
    exact = np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in x])
    assert np.abs(ops.gelu(x)[0] / exact - 1).max() < 2e-13
    assert ops.gelu(np.zeros(3))[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1.5e-7), ("float16", 5e-4)])
def test_gelu_is_exact_to_rounding_in_narrow_types(dtype, tolerance):
    """Relative to what is larger, 1 or the result; the slope too, at 0, and where squares and exponentials overflow"""
    x = np.concatenate([np.linspace(-12, 12, 20001), [0.0, 1e-30, -1e-30, 300, -300, 6e4, -6e4]]).astype(dtype)
    exact = np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in x.astype(float)])
    slope = np.array([math.erfc(-v / math.sqrt(2)) / 2 + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi)
                      for v in x.astype(float)])
    y, pull = ops.gelu(x)
    dx = pull(np.ones_like(x))
    assert y.dtype == dx.dtype == dtype
    assert (np.abs(y - exact) / np.maximum(1, np.abs(exact))).max() < tolerance
    assert np.abs(dx - slope).max() < 2.5 * tolerance and dx[x == 0].tolist() == [0.5] * (x == 0).sum()


@pytest.mark.parametrize("name", ["4to6", "5to3", "8to12", "16to35"])
def test_interpolated_positions_equal_the_original(name):
    """3e-6, because the original takes the points' coordinates (up to 16) in float32."""
    golden = load_file(GOLDEN / "auxiliary" / "position_interpolation.safetensors")
    n, grid = map(int, name.split("to"))
    table, expected = golden[f"{name}/in"], golden[f"{name}/out"]
    assert len(table) == 1 + n * n
    for actual in (ops.interpolate_positions(table, grid)[0],
                   contracts.ops.interpolate_positions(table.astype(np.float64), grid)):
        contracts.close(actual, expected.astype(np.float64), 3e-6, name)


def test_no_op_warns():
    """Large and tiny numbers go through without a NumPy warning."""
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for dtype in (np.float32, np.float64):
            x = np.array([[-1e4, -100, -1e-20, 0, 1e-20, 100, 1e4]], dtype)
            for op in (ops.gelu, ops.silu, ops.softmax, activations.relu, activations.squared_relu,
                       activations.quick_gelu, activations.gelu_tanh, activations.logistic, activations.tanh,
                       activations.hard_sigmoid, activations.hard_swish):
                y, pull = op(x)
                assert np.isfinite(y).all() and np.isfinite(pull(np.ones_like(x))).all()
            y, pull = ops.swiglu(x, x)
            assert np.isfinite(y).all() and all(np.isfinite(part).all() for part in pull(np.ones_like(x)))


@pytest.mark.parametrize("function", [ops.gelu, ops.silu])
def test_pieces_equal_the_whole(function):
    """Elementwise ops work in cache-sized pieces: no entry may depend on where a piece ends."""
    x = np.linspace(-9, 9, 2 * ops.CHUNK + 77).astype(np.float32)
    dy = np.cos(x)
    y, pull = function(x)
    cuts = [function(part) for part in np.array_split(x, 7)]
    assert np.array_equal(y, np.concatenate([part for part, _ in cuts]))
    assert np.array_equal(pull(dy), np.concatenate([p(d) for (_, p), d in zip(cuts, np.array_split(dy, 7))]))


@pytest.mark.parametrize("T, S", [(1, 1), (5, 5), (5, 9), (129, 129)])
@pytest.mark.parametrize("chunk", [1, 2, 3, 128])
def test_attention_chunk_size_does_not_matter(T, S, chunk):
    q, k, v = (contracts.random(2, heads, length, 4, seed=heads) for heads, length in ((4, T), (2, S), (2, S)))
    dy = contracts.random(2, 4, T, 4, seed=9)
    whole, pull_whole = ops.attention.own(q, k, v, chunk=10 ** 6)
    y, pull = ops.attention.own(q, k, v, chunk=chunk)
    contracts.close(y, whole, 1e-13, "y")
    for name, actual, expected in zip(("dq", "dk", "dv"), pull(dy), pull_whole(dy)):
        contracts.close(actual, expected, 1e-13, name)


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_a_few_rows_of_the_batch_at_a_time(monkeypatch, rows, causal):
    """5 rows with paddings of their own, of which 1, 2 or 3 have their scores in the cache"""
    q, k, v, dy = (contracts.random(5, heads, 7, 4, seed=seed) for seed, heads in enumerate((4, 2, 2, 4)))
    mask = np.arange(7) >= np.arange(5)[:, None]
    monkeypatch.setattr(sys.modules[attention_plain.__module__], "SCORES", rows * 4 * 7 * 7)
    y, pull = ops.attention.own(q, k, v, mask, causal)
    plain, pull_plain = attention_plain(q, k, v, mask, causal)
    seen = mask[:, None, :, None] if causal else np.ones((5, 1, 7, 1), bool)            # queries that see a key
    contracts.close(np.where(seen, y, 0), np.where(seen, plain, 0), 1e-13, "y")
    for name, mine, expected in zip(("dq", "dk", "dv"), pull(dy * seen), pull_plain(dy * seen)):
        contracts.close(mine, expected, 1e-13, name)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-4)])   # scores of 1000 round by 6e-5
def test_plain_attention_is_the_fast_one(dtype, tolerance):
    """In all cases of the contract, and with the gradient of all outputs that have a promised value."""
    for label, arguments in contracts.CONTRACTS["attention"].cases():
        promised = ~np.isnan(contracts.ops.attention(**arguments))
        arguments = contracts.cast(arguments, dtype)
        (y, pull), (plain, pull_plain) = (f(**arguments) for f in (ops.attention, attention_plain))
        assert plain.dtype == y.dtype == dtype
        contracts.close(plain[promised], y[promised], tolerance, label)
        dy = (contracts.random(*y.shape, seed=7) * promised).astype(dtype)
        for name, mine, fast in zip(("dq", "dk", "dv"), pull_plain(dy), pull(dy)):
            contracts.close(mine, fast, tolerance, f"{label}: {name}")


def test_the_slope_of_relu_at_0_is_0():
    y, pull = activations.relu(np.array([-2.0, -0.0, 0.0, 3.0]))
    assert y.tolist() == [0, 0, 0, 3] and pull(np.ones(4)).tolist() == [0, 0, 0, 1]


def test_the_slopes_of_the_hard_activations_at_their_corners():
    """As in torch: 0 at both for the sigmoid; 0 and 1 for the swish."""
    corners, ones = np.array([-3.0, 3.0]), np.ones(2)
    assert activations.hard_sigmoid(corners)[1](ones).tolist() == [0, 0]
    assert activations.hard_swish(corners)[1](ones).tolist() == [0, 1]


def test_plain_gelu_is_the_fast_one():
    x = np.concatenate([np.linspace(-9, 9, 2001), [-40, -1e-300, 0, 1e-300, 40]]).reshape(2, -1)
    for dtype, tolerance in (("float64", 1e-15), ("float32", 2e-7)):
        (y, pull), (plain, pull_plain) = (f(x.astype(dtype)) for f in (ops.gelu, ops.gelu_plain))
        assert plain.dtype == y.dtype == dtype
        dy = np.cos(x).astype(dtype)
        assert np.abs(plain - y).max() < 10 * tolerance and np.abs(pull_plain(dy) - pull(dy)).max() < 10 * tolerance


def test_the_pullback_of_layer_norm_is_computed_wide():
    """In float16 the sums over D would overflow, and be rounded at every step."""
    random = np.random.default_rng(4)
    x, dy = (random.standard_normal((3, 512)).astype(np.float16) for _ in range(2))
    weight, bias = (random.standard_normal(512).astype(np.float16) for _ in range(2))
    dy = 100 * dy
    result = []
    for dtype in (np.float16, np.float64):
        gradients = Gradients(["weight", "bias"])
        _, pull = ops.layer_norm(x.astype(dtype), weight.astype(dtype), bias.astype(dtype), 1e-5)
        dx = pull(dy.astype(dtype), gradients)
        result.append((dx, gradients.leaves["weight"], gradients.leaves["bias"]))
    for name, narrow, exact in zip(("x", "weight", "bias"), *result):
        assert np.abs(narrow - exact).max() < (6e-4 if name == "x" else 1e-5) * np.abs(exact).max(), name
