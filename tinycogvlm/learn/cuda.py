"""Exercises in CUDA C: what their kernels must compute, the launchers that call them, and their places in the model."""
import numpy as np

from .. import contracts
from ..contracts.contract import Contract, over, random
from ..contracts.ops import TYPES
from ..kernels.library import attention, gemv
from ..nn.arrays import from_bfloat16_bits
from ..storage.quantise import BITS, GROUP, Quantised, quantise

# ------------------------------------------------------------------------------------------------- the expert's matmul

def dense(types, I, O, bias=False):
    """Arguments of small whole numbers, whose sums are exact in 2 bytes, too."""
    def whole(*shape, seed=0):
        return np.random.default_rng([seed, *shape]).integers(-2, 3, shape).astype(float)
    types = np.array([[int(token) for token in row] for row in types])
    arguments = dict(x=whole(*types.shape, I), types=types, vision_weight=whole(O, I),
                     language_weight=whole(O, I, seed=1))
    return arguments | (dict(vision_bias=whole(O, seed=2)) if bias else {})


def expert_matmul_cases():
    """The op's own, and some of several tiles"""
    yield "16 tokens, 16 columns, 16 outputs", dense(["0" * 16], 16, 16)
    yield from contracts.ops.routed_dense_cases()
    yield "three tiles of columns, the last is no whole one", dense(["0111222003"], 35, 5)
    yield "two tiles of outputs, of tokens, of columns", dense(["0111222003" * 4], 20, 21, bias=True)


def expert_matmul_v4_cases():
    """For tensor cores: columns in multiples of 8"""
    case = dense
    yield "one product of 16 by 16 and 16 by 8", case(["0" * 16], 16, 8)
    yield "a part of one product", case(["00000"], 8, 3)
    yield "32 columns, a warp's 32 outputs", case(["0" * 32], 32, 32)
    yield "all outputs of a block", case(["0" * 64], 32, 64)
    yield "columns beyond a multiple of 32", case(["0" * 20], 72, 8)
    yield "two blocks of outputs", case(["0000"], 16, 70)
    yield "two blocks of tokens", case(["0" * 70], 16, 8)
    for label, rows in TYPES.items():
        yield label + ", bias", case(rows, 24, 10, bias=True)
    yield "several blocks of both experts", case(["0111222003" * 14], 40, 12, bias=True)


def in_half(function):
    """For a model of float32: numbers in 2 bytes go in, and what comes out is as wide as the model's."""
    def dense(x, types, *weights):
        weights = [weight if weight is None else weight.astype(np.float16) for weight in weights]
        return function(x.astype(np.float16), types, *weights).astype(x.dtype)
    return dense


# ----------------------------------------------------------------------------------------- a decoded token's product

def package_gemv(dtype, version):
    def package(x, codes, scales, **options):
        weight = Quantised(codes, scales, (len(codes), GROUP * scales.shape[1]), dtype)
        return gemv.gemv(x, weight, version, **options)
    return package


def gemv_contract(name, dtype):
    """y[b, o] = sum_i x[b, i] (code[o, i] - 2^(bits - 1)) scale[o, i // 64]; of 4 bits the left is a byte's lower"""
    bits = BITS[dtype]

    def spec(x, codes, scales):
        y, wide = np.zeros((len(x), len(codes))), from_bfloat16_bits(scales)
        for b, o in over(*y.shape):
            for i in range(x.shape[1]):
                code = int(codes[o, i * bits // 8]) >> i * bits % 8 & 2 ** bits - 1
                y[b, o] += float(x[b, i]) * (code - 2 ** (bits - 1)) * float(wide[o, i // GROUP])
        return y

    def cases():
        def case(B, O, I, scale=1.0):
            weight = quantise(np.float32(random(O, I, seed=1, scale=scale)), dtype)
            return dict(x=random(B, I), codes=weight.codes, scales=weight.scales)
        yield "one output", case(1, 1, 64)
        yield "three groups", case(1, 4, 192)
        yield "more outputs than a block has warps", case(1, 19, 64)
        yield "three rows of x", case(3, 5, 128)
        yield "a row longer than 32 lanes' loads", case(1, 3, 1088)
        yield "large weights", case(2, 3, 128, scale=1e3)
        yield "zeros", case(1, 3, 64, scale=0.0)
    return Contract(name, spec, cases, {"float32": 1e-5})


def fit_gemv(mine, package):
    """In the place of ops.linear: of a decoded token, whose matrices become codes of 8 bits at their first use."""
    stored = {}

    def linear(x, weight, bias=None):
        rows = x.reshape(-1, x.shape[-1])
        if bias is not None or len(rows) > gemv.MOST_ROWS or rows.shape[1] % GROUP or x.dtype != np.float32:
            return package(x, weight, bias)
        if id(weight) not in stored:
            stored[id(weight)] = weight, quantise(weight, "int8")               # who is kept keeps its id
        codes = stored[id(weight)][1]
        return mine(x=rows, codes=codes.codes, scales=codes.scales).reshape(*x.shape[:-1], -1), None
    return linear


# ---------------------------------------------------------------------------------- attention whose keys were divided

def attention_decode(q, keys, values, length):
    """Attention of one query a row over the first length[0] keys"""
    return contracts.ops.attention(q, keys[:, :, :length[0]], values[:, :, :length[0]])


def attention_decode_cases():
    def case(length, capacity, B=1, H=2, G=2, d=4, scale=1.0):
        return dict(q=random(B, H, 1, d, scale=scale), keys=random(B, G, capacity, d, seed=1),
                    values=random(B, G, capacity, d, seed=2), length=np.array([length], np.int32))
    yield "one part", case(20, 32)
    yield "two parts", case(64, 64)
    yield "three parts, the last is smaller", case(95, 100)
    yield "a batch, shared heads", case(70, 96, B=2, H=4)
    yield "parts without a key", case(5, 128)
    yield "one key", case(1, 64)
    yield "d = 32", case(66, 70, d=32)
    yield "large scores", case(96, 96, scale=200)


def fit_attention_decode(mine, package):
    """In the place of ops.attention: of one query behind a cache that is long enough to be divided."""
    def attention(q, k, v, mask=None, causal=True):
        S = k.shape[2]
        if q.shape[2] > 1 or S < 64 or not causal or q.dtype != np.float32:
            return package(q, k, v, mask, causal)
        k, v = np.ascontiguousarray(k), np.ascontiguousarray(v)
        mask = None if mask is None else np.ascontiguousarray(mask, bool)
        return mine(q=q, keys=k, values=v, length=np.array([S], np.int32), mask=mask), None
    return attention


package_attention_decode = attention.attention_decode
CONTRACTS = {contract.name: contract for contract in (
    Contract("expert_matmul", contracts.ops.routed_dense, expert_matmul_cases, contracts.contract.TOLERANCE),
    Contract("expert_matmul_v4", contracts.ops.routed_dense, expert_matmul_v4_cases, {"float16": 1e-3}),
    gemv_contract("gemv_v1", "int4"),
    gemv_contract("gemv_v2", "int8"),
    Contract("attention_decode_combine", attention_decode, attention_decode_cases, {"float32": 1e-5}),
)}
