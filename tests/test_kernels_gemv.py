"""A decoded token's products on the CPU runner: every version, every kind of weight, what is fused to them; a block."""
from pathlib import Path

import numpy as np
import pytest

from conftest import random_inputs, random_leaves, tiny_config
from small_floats import numbers, stored
from tinycogvlm import contracts
from tinycogvlm.model import decoder
from tinycogvlm.errors import UserError
from tinycogvlm.kernels.library import gemv
from tinycogvlm.kernels.runner import build, gpu
from tinycogvlm.kernels.library.attention import attention_decode
from tinycogvlm.kernels.tools.profile import profile
from tinycogvlm.kernels.runner.source import HERE
from tinycogvlm.storage.quantise import Quantised, quantise
from tinycogvlm.model.route import Route
from tinycogvlm.nn.tree import Params

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

# Sums are in float, and y is rounded by half a unit of its last digit.
TOLERANCE = {"float32": 1e-5, "float16": 2 ** -11 + 1e-5, "bfloat16": 2 ** -8 + 1e-5}
ORDERS = [dict(order=order) for order in ("forward", "backward", "shuffled")]
MODES = [*ORDERS, dict(check="race")]


def weight(kind, *shape, seed=0):
    """A matrix in "float32" ... or "int8", "int4", whose rows keep the size of what they multiply."""
    w = contracts.random(*shape, seed=seed, scale=shape[1] ** -0.5).astype(np.float32)
    return quantise(w, kind) if kind.startswith("int") else stored(w, kind)


def exact(array):
    """float64 numbers of whatever the kernels take"""
    return array.dequantised(np.float64) if isinstance(array, Quantised) else numbers(array)


def named(modes):
    return dict(argvalues=modes, ids=lambda mode: "".join(mode.values()))


# ---------------------------------------------------------------------------------------------------- the product alone

@pytest.mark.parametrize("mode", **named(ORDERS))
@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("kind, weights, rows", [("float32", "float32", 1), ("float16", "int8", 1),
                                                 ("bfloat16", "bfloat16", 1), ("bfloat16", "int8", 1),
                                                 ("float16", "int4", 3), ("float32", "float16", 1)])
def test_gemv(kind, weights, rows, version, mode, I=1088):
    """19 outputs, a half pair and more than a block has warps; 1088 columns, of which the lanes' shares differ."""
    x, w = stored(contracts.random(rows, I), kind), weight(weights, 19, I)
    y = gemv.gemv(x, w, version, **mode)
    contracts.close(numbers(y), numbers(x) @ exact(w).T, TOLERANCE[kind], f"{weights}, version {version}")


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("kind, weights, rows", [("float32", "float32", 1), ("float16", "int4", 3)])
def test_gemv_has_no_race(kind, weights, rows, version):
    test_gemv(kind, weights, rows, version, dict(check="race"), 192)


@pytest.mark.parametrize("I", [5, 129])
def test_rows_that_are_not_whole_packs(I):
    """The product alone falls back to version 1; what is fused says what is wrong."""
    x, w = np.float32(contracts.random(2, I)), np.float32(contracts.random(3, I, seed=1))
    for version in (1, 2, 3):
        contracts.close(gemv.gemv(x, w, version), contracts.ops.linear(x, w), 1e-5, f"version {version}")
    with pytest.raises(UserError, match=f"rows of {I} weights; 16 bytes hold 4"):
        gemv.dense_residual(x, w, np.zeros((2, 3), np.float32))


def test_more_rows_than_fit_are_taken_in_turns(monkeypatch):
    """Five rows, two at a time: shared memory of 1600 bytes holds two rows of 4 x 49 packs' numbers."""
    monkeypatch.setattr(gemv, "SHARED", 1600)
    x, w = np.float32(contracts.random(5, 192)), weight("float32", 5, 192)
    residual = np.float32(contracts.random(5, 5))
    y = gemv.dense_residual(x, w, residual)
    contracts.close(y, residual + numbers(x) @ exact(w).T, 1e-5, "five rows")


def test_a_large_matrix_goes_on_from_pair_to_pair():
    """131 outputs of a grid of 4 blocks, 32 warps: two rounds of pairs, and one of a pair and a half."""
    x, w = np.float32(contracts.random(1, 8)), np.float32(contracts.random(131, 8, seed=1))
    contracts.close(gemv.gemv(x, w), contracts.ops.linear(x, w), 1e-5, "131 outputs")


def test_each_version_reads_better():
    """Sectors of W that a request fetches: 32 of 4 bytes (of which one weight is used), then 16 bytes a lane, whole."""
    x, w, y = np.ones((1, 512), np.float32), np.ones((32, 512), np.float32), np.zeros((1, 32), np.float32)

    def sectors(version, line, grid, block, args):
        rows = profile(HERE / "gemv.cu", f"gemv_v{version}", grid, block, args)
        return [row.passes / row.requests for row in rows if row.access == "reads" and row.memory == "global"
                and line in Path(row.file).read_text(encoding="utf-8").splitlines()[row.line - 1]]
    sizes = np.int32(512), np.int32(32)
    first = sectors("1<float, float>", "return (float)values[i]", 1, 32, (x, w, None, y, *sizes))
    second = sectors("2<float, float>", "uint4 pack =", 4, 256, (x, w, None, y, *sizes))
    assert first == [32] and second == [16]


# -------------------------------------------------------------------------------------------------------- what is fused

def rms_norm(x, norm, eps):
    return contracts.ops.rms_norm(x.astype(np.float64), norm.astype(np.float64), eps)


@pytest.mark.parametrize("mode", **named(MODES))
@pytest.mark.parametrize("kind, weights, rows", [("float32", "float32", 3), ("bfloat16", "int4", 1), ("float16", "int8", 4)])
def test_norm_and_logits(kind, weights, rows, mode):
    x, norm = stored(contracts.random(rows, 192, scale=3), kind), stored(contracts.random(192, seed=1), kind)
    w = weight(weights, 21, 192)
    y = gemv.head(x, norm, w, 1e-5, **mode)
    assert y.dtype == np.float32                            # whatever the activations are
    contracts.close(y, rms_norm(numbers(x), numbers(norm), 1e-5) @ exact(w).T, 1e-5, "head")


@pytest.mark.parametrize("mode", **named(MODES))
def test_residual_in_place(mode):
    x, w = np.float32(contracts.random(3, 64)), weight("float32", 9, 64)
    residual = np.float32(contracts.random(3, 9, seed=2))
    expected = residual + numbers(x) @ exact(w).T
    y = gemv.dense_residual(x, w, residual, out=residual, **mode)
    assert y is residual
    contracts.close(y, expected, 1e-5, "dense_residual")


@pytest.mark.parametrize("mode", **named(MODES))
@pytest.mark.parametrize("kind, weights, rows", [("float32", "float32", 3), ("float16", "int4", 1)])
def test_gate_up_swiglu(kind, weights, rows, mode):
    x, norm = stored(contracts.random(rows, 64), kind), stored(contracts.random(64, seed=1), kind)
    gate, up = weight(weights, 21, 64), weight(weights, 21, 64, seed=3)
    y = gemv.gate_up_swiglu(x, norm, gate, up, 1e-5, **mode)
    h = rms_norm(numbers(x), numbers(norm), 1e-5)
    right = contracts.ops.swiglu(h @ exact(gate).T, h @ exact(up).T)
    contracts.close(numbers(y), right, TOLERANCE[kind], "gate_up_swiglu")


@pytest.mark.parametrize("mode", **named(MODES))
@pytest.mark.parametrize("kind, weights, rows, G", [("float32", "float32", 3, 2), ("float16", "int4", 1, 4)])
def test_qkv_rotary_append(kind, weights, rows, G, mode):
    """Each row at its own position, the cache's other tokens untouched; 4 heads of 6 numbers, of which 3 pairs."""
    H, d, capacity, D = 4, 6, 5, 64
    x, norm = stored(contracts.random(rows, D), kind), stored(contracts.random(D, seed=1), kind)
    w = weight(weights, (H + 2 * G) * d, D)
    cos, sin = decoder.Rotary.from_base(10000.0, d)(np.arange(9), np.float32)
    positions, length = np.array([8, 0, 5][:rows], np.int32), np.array([3], np.int32)
    before = [stored(contracts.random(rows, G, capacity, d, seed=seed), kind) for seed in (4, 5)]
    keys, values = (array.copy() for array in before)
    q = gemv.qkv_rotary_append(x, norm, w, 1e-5, positions, length, cos, sin, keys, values, **mode)

    qkv = (rms_norm(numbers(x), numbers(norm), 1e-5) @ exact(w).T).reshape(rows, H + 2 * G, 1, d)
    turned = contracts.ops.rotary(qkv[:, :H + G], numbers(cos)[positions][:, None], numbers(sin)[positions][:, None])
    expected = [numbers(array) for array in before]
    expected[0][:, :, 3], expected[1][:, :, 3] = turned[:, H:, 0], qkv[:, H + G:, 0]
    for name, actual, right in (("q", q, turned[:, :H]), ("keys", keys, expected[0]), ("values", values, expected[1])):
        contracts.close(numbers(actual), right, TOLERANCE[kind], name)


def decode_step(x, p, positions, length, tables, keys, values, eps):
    """One layer for one text token a row in five launches, x (B, D) -> (B, D): what a GPU's graph captures."""
    attention, mlp = p.self_attn, p.mlp.language_mlp
    q = gemv.qkv_rotary_append(x, p.input_layernorm.weight, attention.language_expert_query_key_value.weight, eps,
                               positions, length, *tables, keys, values)
    context = attention_decode(q, keys, values, length + 1).reshape(x.shape)
    x = gemv.dense_residual(context, attention.language_expert_dense.weight, x)
    a = gemv.gate_up_swiglu(x, p.post_attention_layernorm.weight, mlp.gate_proj.weight, mlp.up_proj.weight, eps)
    return gemv.dense_residual(a, mlp.down_proj.weight, x)


@pytest.mark.parametrize("multiprocessors", [1, 1000], ids=["few blocks", "as many blocks as there is work"])
@pytest.mark.parametrize("family", ["cogvlm1", "cogvlm2"])
def test_a_decoded_token_in_five_launches(family, multiprocessors, monkeypatch):
    """decoder.block after seven cached tokens, grouped queries too: the same output, the same cache."""
    monkeypatch.setattr(gpu, "RUNNER", gpu.Device(80, multiprocessors))
    config = tiny_config(family, hidden_size=48, num_attention_heads=6)
    p = Params(random_leaves(config, np.float32)).model.layers[0]
    rotary, B, S = decoder.Rotary.from_base(config.rope_base, config.head_size), 3, 7
    caches = [decoder.KVCache(config, B, S + 2) for _ in range(2)]
    x = np.float32(contracts.random(B, S + 1, config.hidden_size))
    types = random_inputs(config, *[[S]] * B).types          # text, bos among it
    for cache in caches:
        past = Route(types[:, :S], np.ones((B, S), int))
        cache.reserve(S)
        decoder.block(x[:, :S], p, past, rotary(past.positions, np.float32), config, cache.layer(0))
        cache.advance(S)
    positions = np.full((B, 1), S)
    token = Route(types[:, S:], np.ones((B, 1), int), positions)
    caches[0].reserve(1)
    expected, _ = decoder.block(x[:, S:], p, token, rotary(positions, np.float32), config, caches[0].layer(0))

    tables = rotary(np.arange(config.max_position_embeddings), np.float32)
    y = decode_step(x[:, S].copy(), p, np.full(B, S, np.int32), np.array([S], np.int32), tables,
                    caches[1].keys[0], caches[1].values[0], config.rms_norm_eps)
    contracts.close(y, expected[:, 0], 1e-5, "the block's output")
    for name in ("keys", "values"):
        ours, theirs = (getattr(cache, name)[0, :, :, :S + 1] for cache in caches[::-1])
        contracts.close(ours, theirs, 1e-5, name)


# ------------------------------------------------------------------------------------------------------ what is refused

def test_what_does_not_fit():
    x, w = np.zeros((1, 64), np.float32), np.zeros((24, 64), np.float32)
    for message, call in {
            "x of shape .1, 64. does not fit a weight of shape .24, 32.": lambda: gemv.dense_residual(
                x, w[:, :32].copy(), np.zeros((1, 24), np.float32)),
            "and a norm of shape .32,.": lambda: gemv.head(x, np.ones(32, np.float32), w, 1e-5),
            "residual is of shape .1, 23.": lambda: gemv.dense_residual(x, w, np.zeros((1, 23), np.float32)),
            "out is of shape .1, 24. and float16; it must be": lambda: gemv.gate_up_swiglu(
                x, x[0], w, w, 1e-5, out=np.zeros((1, 24), np.float16))}.items():
        with pytest.raises(UserError, match=message):
            call()
    cache = np.zeros((1, 1, 4, 6), np.float32)
    tables = [np.zeros((9, 3), np.float32)] * 2
    one = np.zeros(1, np.int32)
    with pytest.raises(UserError, match="does not give queries, keys and values of 1 key-value heads of size 6"):
        gemv.qkv_rotary_append(x, x[0], w[:23], 1e-5, one, one, *tables, cache, cache)
    with pytest.raises(UserError, match="positions is of shape .1,. and int64"):
        gemv.qkv_rotary_append(x, x[0], w, 1e-5, one.astype(int), one, *tables, cache, cache)
    with pytest.raises(UserError, match="keys is not contiguous"):
        gemv.qkv_rotary_append(x, x[0], w, 1e-5, one, one, *tables, cache[:, :, ::2], cache)
