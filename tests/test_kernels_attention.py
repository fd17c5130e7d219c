"""The attention kernels on the CPU runner: the op's contract, head sizes and number formats, decoding from a cache."""
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tinycogvlm import contracts
from tinycogvlm.errors import UserError
from tinycogvlm.kernels.runner import build
from tinycogvlm.kernels.library.attention import attention, attention_decode, decode_buffers
from tinycogvlm.kernels.library.launch import strided
from tinycogvlm.kernels.tools.profile import profile
from tinycogvlm.kernels.runner.source import HERE
from tinycogvlm.nn.arrays import round_to

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

CONTRACT = contracts.CONTRACTS["attention"]
# Versions 1 and 2 round y alone: by half a unit of its last digit (version 3 and decoding also: see below).
HALF_UNIT = {"float32": 1e-5, "float16": 2 ** -11 + 1e-5, "bfloat16": 2 ** -8 + 1e-5}
MODES = [dict(order="forward"), dict(order="backward"), dict(order="shuffled"), dict(check="race")]


def stored(array, dtype):
    """float64 numbers as the kernels take them; bfloat16 is its bits."""
    if dtype != "bfloat16":
        return array.astype(dtype)
    return (round_to(array.astype(np.float32), dtype).view(np.uint32) >> 16).astype(np.uint16)


def values(array):
    """The float64 numbers of what a kernel takes or returns."""
    return ((array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array).astype(np.float64)


def inputs(dtype, d, B=2, H=4, G=2, T=67, S=131):
    shapes = (B, H, T, d), (B, G, S, d), (B, G, S, d)
    return [stored(contracts.random(*shape, seed=i), dtype) for i, shape in enumerate(shapes)]


def check(kernel, arrays, tolerance, what, **options):
    contracts.close(values(kernel(*arrays, **options)), CONTRACT.spec(*map(values, arrays), **options), tolerance, what)


def cases(most_queries=126, of=""):
    return lambda: [(label, case) for label, case in CONTRACT.cases()
                    if case["q"].shape[2] <= most_queries and of in label]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_kernel_keeps_the_contract(version, order):
    CONTRACT.check(partial(attention, version=version, order=order), "float32")


@pytest.mark.parametrize("version", [1, 2])
def test_kernel_keeps_the_contract_in_half(version):
    replace(CONTRACT, cases=cases(), tolerance=HALF_UNIT).check(partial(attention, version=version), "float16")


@pytest.mark.parametrize("version", [1, 2])
def test_kernel_has_no_race(version):
    replace(CONTRACT, cases=cases(of="padded")).check(partial(attention, version=version, check="race"), "float32")
    replace(CONTRACT, cases=cases(of="heads")).check(partial(attention, version=version, check="race"), "float32")


SIZES = [*((version, dtype, d) for version in (1, 2) for dtype, d in (("float32", 64), ("bfloat16", 112),
                                                                      ("float16", 128))),
         (3, "float16", 32), (3, "float16", 64), (3, "bfloat16", 112), (3, "bfloat16", 128)]
OTHER_SIZES = [(version, dtype, d) for version in (1, 2, 3) for dtype in HALF_UNIT for d in (32, 64, 112, 128)
               if (version, dtype, d) not in SIZES and (version, dtype) != (3, "float32")]


@pytest.mark.parametrize("version, dtype, d", SIZES + [pytest.param(*size, marks=pytest.mark.slow)
                                                       for size in OTHER_SIZES])
def test_head_sizes_and_formats(version, dtype, d):
    """67 queries behind 64 cached keys: several blocks of queries and tiles of keys, the last of them not full."""
    tolerance = HALF_UNIT[dtype] * (2 if version == 3 else 1)               # version 3 rounds the probabilities too
    check(partial(attention, version=version), inputs(dtype, d, B=1, H=2, G=1), tolerance, f"version {version}")


TENSOR_CORE_CASES = {
    "left padding": dict(mask=np.arange(131) >= np.array([[70], [0]])),    # more than a tile of keys is hidden
    "holes, not causal": dict(mask=np.arange(131) % 3 > 0, causal=False),
    "right padding": dict(mask=np.arange(131) < np.array([[131], [120]])),
}


@pytest.mark.parametrize("case", TENSOR_CORE_CASES)
def test_tensor_cores_hide_what_is_hidden(case):
    arguments = dict(TENSOR_CORE_CASES[case])
    if arguments.get("mask", np.empty((2, 0))).ndim == 1:
        arguments["mask"] = np.array([arguments["mask"], ~arguments["mask"]])
    check(attention, inputs("float16", 32, H=2, G=1), 2 * HALF_UNIT["float16"], case, **arguments)


@pytest.mark.parametrize("T, S", [(1, 1), (1, 65), (2, 64), (63, 63), (64, 64), (65, 65), (64, 129)])
def test_tensor_cores_at_the_edges_of_tiles(T, S):
    check(attention, inputs("float16", 40, B=1, H=3, G=1, T=T, S=S), 2 * HALF_UNIT["float16"], f"{T} and {S}")
    check(attention, inputs("float16", 24, B=1, H=1, G=1, T=T, S=S), 2 * HALF_UNIT["float16"], f"{T}, {S}, not causal",
          causal=False)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "".join(mode.values()))
def test_look_up(mode):
    """Scores so far apart that a probability is 1 and all others are exactly 0: what comes back is v itself."""
    random, d = np.random.default_rng(0), 32
    codes, v = random.choice([-1, 1], (130, d)), random.integers(-99, 100, (1, 1, 130, d))
    asked = random.permutation(130)[:70]
    y = attention(*(a.astype(np.float16) for a in (100 * codes[asked][None, None], codes[None, None], v)), causal=False,
                  **mode)
    scores = codes[asked] @ codes.T * 100 / math.sqrt(d)
    assert np.sort(scores)[:, -2].max() < scores.max() - 104               # exp(-104) is 0 in float32
    assert np.array_equal(y[0, 0], v[0, 0, asked])


def test_a_query_that_sees_nothing_gets_zeros():
    mask = np.zeros((1, 5), bool)
    for version, dtype in ((1, "float32"), (2, "float32"), (3, "float16")):
        y = attention(*inputs(dtype, 32, B=1, T=5, S=5), mask=mask, version=version)
        assert np.array_equal(y, np.zeros((1, 4, 5, 32)))


# ---------------------------------------------------------------------------------------------------------- decoding

def cache(dtype, d, capacity, length, B=2, H=4, G=2):
    """q (B, H, 1, d), and a cache of `length` keys that is NaN behind them."""
    q, keys, values = inputs(dtype, d, B, H, G, 1, capacity)
    for array in (keys, values):
        array[:, :, length:] = 0x7fc0 if dtype == "bfloat16" else np.nan
    return q, keys, values


def check_decode(q, keys, values, length, mask=None, tolerance=1e-5, splits=None, **options):
    present = [array[:, :, :length] for array in (keys, values)]
    expected = CONTRACT.spec(*map(globals()["values"], (q, *present)), mask=None if mask is None else mask[:, :length])
    buffers = decode_buffers(q, keys, splits)
    y = attention_decode(q, keys, values, np.array([length], np.int32), mask, buffers, **options)
    assert y.dtype == q.dtype
    contracts.close(globals()["values"](y), expected, tolerance, f"length {length}")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "".join(mode.values()))
def test_decode_at_every_length_around_a_split(mode):
    """Among 3 blocks: fewer keys than blocks, as many, one for each lane of a block, one more, a full cache."""
    for length in (1, 2, 3, 4, 48, 49, 96, 97, 100):
        check_decode(*cache("float32", 32, 100, length, B=1, H=2, G=1), length, splits=3, **mode)


DECODED = [("float16", 128), ("bfloat16", 112)]
OTHER_DECODED = [(dtype, d) for dtype in HALF_UNIT for d in (32, 64, 112, 128) if (dtype, d) not in DECODED]


@pytest.mark.parametrize("dtype, d", DECODED + [pytest.param(*size, marks=pytest.mark.slow) for size in OTHER_DECODED])
def test_decode_in_every_format(dtype, d):
    mask = np.arange(90) >= np.array([[33], [0]])                           # one of the first row's blocks sees nothing
    check_decode(*cache(dtype, d, 90, 83), 83, mask, HALF_UNIT[dtype], splits=3)


@pytest.mark.parametrize("H, G", [(2, 2), (6, 1), (8, 1)])
def test_decode_of_heads_that_share_keys(H, G):
    """1, 3 and 4 heads at once; 6 and 8 heads of one key-value head take two blocks."""
    check_decode(*cache("float32", 32, 40, 37, B=1, H=H, G=G), 37)


def test_decode_again_at_another_length():
    """As a replayed graph does: the same buffers and the same call; only the numbers in memory are new."""
    q, keys, values = inputs("float32", 32, B=1, T=1, S=70)
    length, buffers = np.zeros(1, np.int32), decode_buffers(q, keys, 2)
    for length[0] in (0, 1, 69, 70, 5):
        y = attention_decode(q, keys, values, length, buffers=buffers)
        expected = CONTRACT.spec(q, *(array[:, :, :length[0]] for array in (keys, values))) if length[0] else 0 * q
        assert y is buffers[-1]
        contracts.close(y, expected, 1e-5, f"length {length[0]}")


def test_as_many_splits_as_fill_a_gpu():
    def splits(B, H, G, capacity):
        _, lse, _ = decode_buffers(np.empty((B, H, 1, 8)), np.empty((B, G, capacity, 8)))
        return lse.shape[-1]
    assert splits(1, 32, 32, 2048) == 9                                     # 288 blocks
    assert splits(1, 32, 8, 2048) == 33                                     # 264 blocks, of 4 heads each
    assert splits(1, 32, 8, 100) == 3 and splits(1, 32, 32, 10) == 1        # short: 32 keys a block at least
    assert splits(64, 32, 32, 2048) == 1


# ------------------------------------------------------------------- what the sources say that each version gains

@pytest.mark.parametrize("version, dtype", [(1, "float32"), (2, "float32"), (3, "float16")])
def test_heads_are_read_where_they_lie(version, dtype):
    """Q, K and V of one product, (B, T, 3, H, d); then keys and values of a cache with room for more: no copies."""
    packed = contracts.random(2, 67, 3, 2, 32).astype(dtype)
    q, k, v = packed.transpose(2, 0, 3, 1, 4)
    room = contracts.random(2, 2, 90, 32, seed=1).astype(dtype)
    for keys, values in ((k, v), (room[:, :, :70], room[:, :, :70])):
        flat, strides = strided(keys)
        assert np.shares_memory(flat, keys) and strides == [n // keys.itemsize for n in keys.strides[:-1]]
        right = attention(q.copy(), keys.copy(), values.copy(), version=version)
        found = attention(q, keys, values, version=version, check="race")
        assert np.array_equal(found, right) and found.swapaxes(1, 2).flags.c_contiguous


def lines(file, kernel, grid, block, args):
    """{code of the line: profile.Row} of every line of the kernel that reads."""
    source = (HERE / file).read_text().splitlines()
    return {source[row.line - 1].strip(): row for row in profile(HERE / file, kernel, grid, block, args)
            if row.access == "reads"}


def run_lines(version, dtype, T):
    arrays = inputs(dtype, 32, 1, 1, 1, T, T)
    kernel, rows = f"attention_v{version}<{'float' if dtype == 'float32' else 'half'}, 32>", {2: 32, 3: 64}
    return lines("attention.cu", kernel, (-(-T // rows[version]), 1, 1), 128,
                 (*arrays, None, np.empty_like(arrays[0]), *map(np.int32, (1, 1, T, T, 32)), np.bool_(True),
                  np.float32(1), *map(np.int32, (32 * T, 32 * T, 32) * 2)))


def test_tiles_are_read_once_for_32_queries_and_without_bank_conflicts():
    found = run_lines(2, "float32", 64)
    keys = found["k_tile[c / D][i] = there ? (float)head.k[s * head.k_next + i] : 0;"]
    assert keys.accesses == (32 + 64) * 32                                  # the first 32 queries skip the last 32 keys
    shared = [row for row in found.values() if row.memory == "shared"]
    assert len(shared) == 2 and not any(row.conflicts for row in shared)


def test_tensor_cores_read_without_bank_conflicts():
    shared = [row for row in run_lines(3, "float16", 64).values() if row.memory == "shared"]
    assert len(shared) == 2 and not any(row.conflicts for row in shared)


def test_decoding_reads_the_cache_once_for_all_heads_that_share_it():
    q, keys, values = cache("float32", 32, 64, 50, B=1, H=2, G=1)
    partial, lse, y = decode_buffers(q, keys, 2)
    found = lines("attention_decode.cu", "attention_decode_split<float, 32, 2>", (2, 1, 1), 128,
                  (q, keys, values, None, np.array([50], np.int32), partial, lse, *map(np.int32, (2, 1, 64, 32)),
                   np.float32(1)))
    for line in ("key[u] = *(const Pack<T>*)(k + (first_key + s) * d + column);",
                 "value[u] = *(const Pack<T>*)(v + (first_key + s) * d + column);"):
        row = found[line]
        assert row.bytes == 16 and row.accesses * row.bytes == 50 * 32 * 4 == 32 * row.passes


# ------------------------------------------------------------------------------------------------------------- errors

def arrays(*shapes, dtype=np.float32):
    return [np.zeros(shape, dtype) for shape in shapes]


@pytest.mark.parametrize("wrong, message", [
    (lambda: attention(*arrays((1, 2, 3, 8), (1, 2, 2, 8), (1, 2, 2, 8))), "3 queries and 2 keys"),
    (lambda: attention(*arrays((1, 3, 3, 8), (1, 2, 3, 8), (1, 2, 3, 8))), "H a multiple of G"),
    (lambda: attention(*arrays((1, 2, 3, 8), (1, 2, 3, 8), (1, 2, 4, 8))), "v .1, 2, 4, 8.: they must be"),
    (lambda: attention(*arrays((1, 1, 3, 130), (1, 1, 3, 130), (1, 1, 3, 130))), "head size of 130"),
    (lambda: attention(*arrays((1, 1, 3, 8), (1, 1, 3, 8), (1, 1, 3, 8), dtype=np.float64)), "of float64"),
    (lambda: attention(*arrays((1, 1, 3, 8), (1, 1, 3, 8), (1, 1, 3, 8), (1, 2))), "mask of shape"),
    (lambda: attention_decode(*arrays((1, 1, 2, 8), (1, 1, 3, 8), (1, 1, 3, 8)), None), "2 queries in a row"),
    (lambda: attention_decode(*arrays((1, 1, 1, 4), (1, 1, 3, 4), (1, 1, 3, 4), dtype=np.float16), None),
     "multiple of 8"),
    (lambda: attention_decode(*arrays((1, 1, 1, 8)), *(a[:, :, :2] for a in arrays((1, 2, 3, 8), (1, 2, 3, 8))), None),
     "H a multiple of G"),
    (lambda: attention_decode(*arrays((1, 2, 1, 8)), *(a[:, :, :2] for a in arrays((1, 2, 3, 8), (1, 2, 3, 8))), None),
     "whole cache"),
])
def test_what_does_not_fit_is_said(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()
