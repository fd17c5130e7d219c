"""The kernels keep their ops' contracts on the CPU runner, in every order of the threads, and race-free."""
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tinycogvlm import contracts
from tinycogvlm.kernels.library import launch
from tinycogvlm.kernels.runner import build
from tinycogvlm.kernels.tools.profile import profile
from tinycogvlm.kernels.runner.source import HERE
from tinycogvlm.nn.arrays import round_to

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

LADDERS = {"rms_norm": (launch.rms_norm, (1, 2, 3)), "layer_norm": (launch.layer_norm, (1, 2, 3)),
           "rotary": (launch.rotary, (1, 2)), "swiglu": (launch.swiglu, (1, 2)), "gelu": (launch.gelu, (1, 2)),
           "routed_dense": (launch.expert_matmul, (1, 2, 3))}
RUNGS = [(op, version) for op, (_, versions) in LADDERS.items() for version in versions]


@pytest.mark.parametrize("op, version", RUNGS)
@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_kernel_keeps_the_contract(op, version, order):
    contracts.CONTRACTS[op].check(partial(LADDERS[op][0], version=version, order=order), "float32")


@pytest.mark.parametrize("op, version", RUNGS)
def test_kernel_keeps_the_contract_in_half(op, version):
    contract = contracts.CONTRACTS[op]
    within_range = [(label, case) for label, case in contract.cases() if not label.startswith("large")]
    replace(contract, cases=lambda: within_range).check(partial(LADDERS[op][0], version=version), "float16")


@pytest.mark.slow
@pytest.mark.parametrize("op, version", RUNGS)
def test_kernel_has_no_race(op, version):
    contracts.CONTRACTS[op].check(partial(LADDERS[op][0], version=version, check="race"), "float32")


@pytest.mark.parametrize("D", [1024, 2080])
def test_long_rows(D):
    """More packs than a block has threads, and more than one for each lane of a warp."""
    x, weight, bias = (contracts.random(*shape, seed=i).astype(np.float32)
                       for i, shape in enumerate([(3, D), (D,), (D,)]))
    for kernel, spec, parameters in ((launch.rms_norm, contracts.ops.rms_norm, (weight,)),
                                     (launch.layer_norm, contracts.ops.layer_norm, (weight, bias))):
        contracts.close(kernel(x, *parameters, 1e-6), spec(x, *parameters, 1e-6), 2e-6, kernel.__name__)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_norm_adds_the_residual(version):
    x, residual, weight, bias = (contracts.random(*shape, seed=i).astype(np.float32)
                                 for i, shape in enumerate([(3, 72), (3, 72), (72,), (72,)]))
    y = launch.layer_norm(x, weight, bias, 1e-6, version, residual)
    contracts.close(y, residual + contracts.ops.layer_norm(x, weight, bias, 1e-6), 2e-6, f"version {version}")


@pytest.mark.parametrize("d", [16, 6])
@pytest.mark.parametrize("options", [dict(order="shuffled"), dict(check="race")], ids=lambda o: "".join(o.values()))
def test_heads_are_read_where_a_product_left_them(d, options):
    """Q turned, K and V appended, from (B, T, H + 2G, d): as of contiguous copies; d = 6 in whole numbers only."""
    B, T, H, G, capacity, start = 2, 5, 3, 2, 9, 3
    heads = contracts.random(B, T, H + 2 * G, d).astype(np.float16).swapaxes(1, 2)
    q, k, v = heads[:, :H], heads[:, H:H + G], heads[:, H + G:]
    cos, sin = (contracts.random(B, T, d // 2, seed=seed).astype(np.float16) for seed in (1, 2))
    for version in (1, 2):
        right = launch.rotary(q.copy(), cos, sin, version)
        assert np.array_equal(launch.rotary(q, cos, sin, version, **options), right)
    keys, values = (np.full((B, G, capacity, d), fill, np.float16) for fill in (7, 8))
    launch.append(k, v, keys, values, start, **options)
    for cache, new, fill in ((keys, k, 7), (values, v, 8)):
        assert np.array_equal(cache[:, :, start:start + T], new)
        assert (cache[:, :, :start] == fill).all() and (cache[:, :, start + T:] == fill).all()


def test_expert_matmul_of_several_tiles():
    """150 tokens of both kinds in turns, 130 outputs: more than two tiles of each, none of them full."""
    types = np.array([[0, 1, 1, 1, 0, 2, 2, 0, 0, 3] * 15])
    x, vision, language = (contracts.random(*shape, seed=i).astype(np.float32)
                           for i, shape in enumerate([(1, 150, 35), (130, 35), (130, 35)]))
    expected = contracts.ops.routed_dense(x, types, vision, language)
    for version in (1, 2, 3):
        y = launch.expert_matmul(x, types, vision, language, version=version)
        contracts.close(y, expected, 1e-5, f"version {version}")


@pytest.mark.parametrize("options", [dict(order="forward"), dict(order="backward"), dict(order="shuffled"),
                                     dict(check="race")], ids=lambda options: "".join(options.values()))
@pytest.mark.parametrize("T", ["half", "__nv_bfloat16"])
@pytest.mark.parametrize("version, tokens, O, I", [(4, 99, 70, 40), (5, 195, 134, 200)])
def test_tensor_cores(version, tokens, O, I, T, options):
    """Whole numbers, so that every sum is exact; 2 tiles of language, 1 of vision, 2 of outputs, more steps of columns
    than stages."""
    random, tile = np.random.default_rng(0), launch.TILES[version][0]
    x, language, vision = (random.integers(-3, 4, (n, I)).astype(np.float32) for n in (tokens, O, O))
    is_vision = np.arange(tokens) % 3 == 0
    rows, language_rows = launch.expert_rows(is_vision, tile)
    bias = np.arange(O, dtype=np.float32)

    def small(values):                                      # float32 -> half, or the bits of bfloat16
        return values.astype(np.float16) if T == "half" else (values.view(np.uint32) >> 16).astype(np.uint16)
    found = launch.matmul(small(x), rows, language_rows, *map(small, (language, vision, bias)), version, **options)
    expected = np.where(is_vision[:, None], x @ vision.T + bias, x @ language.T)
    if T != "half":
        found, expected = (found.astype(np.uint32) << 16).view(np.float32), round_to(expected, "bfloat16")
    assert len(rows) == 3 * tile and np.array_equal(found, expected)


def test_neighbouring_blocks_share_the_weights(monkeypatch):
    """Rows are the grid's x: the 264 blocks that an H200 runs at once are a picture's 11 tiles of rows and 24 of W."""
    launched = []
    monkeypatch.setattr(launch, "load_ours", lambda _, kernel: lambda grid, *_, **__: launched.append((kernel, grid)))
    numbers = np.zeros((1278, 8), np.float16)
    rows, language_rows = launch.expert_rows(np.arange(1278) > 52, launch.tile_of(1278))
    for version in (4, 5):
        launch.matmul(numbers, rows, language_rows, numbers[:1024], numbers[:1024], version=version)
    launch.matmul(numbers, *launch.expert_rows(np.arange(1278) > 52), numbers[:1024], numbers[:1024])
    assert launched == [("expert_matmul_v4<half>", (22, 16)), ("expert_matmul_v5<half>", (11, 8)),
                        ("expert_matmul_v4<half>", (21, 16))]


# ------------------------------------------------------------------- what the sources say that each version gains

def reads(file, kernel, grid, block, args, shared_mem=0):
    """{(memory, code of the line): passes per request} of every line of the kernel that reads."""
    path = HERE / file
    lines = path.read_text().splitlines()
    return {(row.memory, lines[row.line - 1].strip()): (row.passes / row.requests, row.conflicts)
            for row in profile(path, kernel, grid, block, args, shared_mem) if row.access == "reads"}


def test_a_warp_for_each_row_reads_whole_sectors():
    x, weight, y = np.ones((32, 64), np.float32), np.ones(64, np.float32), np.zeros((32, 64), np.float32)
    sizes = np.int32(32), np.int32(64), np.float32(0)
    summing = "global", "for (int d = 0; d < D; d++) sum += (float)x[d] * (float)x[d];"
    assert reads("rmsnorm.cu", "rms_norm_v1<float>", 1, 32, (x, weight, y, *sizes))[summing][0] == 32
    summing = "global", "for (int d = lane; d < D; d += 32) sum += (float)x[d] * (float)x[d];"
    assert reads("rmsnorm.cu", "rms_norm_v2<float>", 4, 256, (x, weight, y, *sizes))[summing][0] == 4


@pytest.mark.parametrize("version, T, grid, block", [(2, "float", (4, 4), (16, 16)), (3, "float", (1, 1), (16, 16)),
                                                     (4, "half", (1, 1), (128,)), (5, "half", (1, 1), (256,))])
def test_tiles_are_read_without_bank_conflicts(version, T, grid, block):
    side = 128 if version == 5 else 64
    x, w, y = (np.ones((side, side if xy else 64), np.float16 if T == "half" else np.float32) for xy in (0, 0, 1))
    args = x, w, w, None, np.arange(side, dtype=np.int32), np.int32(side), y, np.int32(64), np.int32(side)
    found = reads("expert_matmul.cu", f"expert_matmul_v{version}<{T}>", grid, block, args, launch.TILES[version][2])
    conflicts = [lost for (memory, _), (_, lost) in found.items() if memory == "shared"]
    assert conflicts and not any(conflicts) and (y == 64).all()
