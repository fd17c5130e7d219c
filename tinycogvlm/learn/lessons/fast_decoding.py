"""Lesson 83: a decoded token's products with quantised matrices, and attention with its keys split across blocks."""
import numpy as np

from ...contracts import CONTRACTS, Contract, over, random
from ...kernels.library import attention, gemv
from ...nn import ops
from ...nn.arrays import from_bfloat16_bits
from ...storage.quantise import BITS, GROUP, Quantised, quantise
from ..exercise import of_kernel

# --------------------------------------------------------------------------------------------------- gemv_v1, gemv_v2


def gemv_contract(name, dtype):
    """y[b, o] = sum_i x[b, i] (code[o, i] - 2^(bits - 1)) scale[o, i // 64]; a byte's lower 4 bits are the left code"""
    bits = BITS[dtype]

    def spec(x, codes, scales):
        y, scale = np.zeros((len(x), len(codes))), from_bfloat16_bits(scales)
        for b, o in over(*y.shape):
            for i in range(x.shape[1]):
                code = int(codes[o, i * bits // 8]) >> i * bits % 8 & 2 ** bits - 1
                y[b, o] += float(x[b, i]) * (code - 2 ** (bits - 1)) * float(scale[o, i // GROUP])
        return y

    def cases():
        def case(B, O, I, scale=1.0):
            weight = quantise(np.float32(random(O, I, seed=1, scale=scale)), dtype)
            return dict(x=random(B, I), codes=weight.codes, scales=weight.scales)
        yield "one output", case(1, 1, 64)
        yield "three groups", case(1, 4, 192)
        yield "more outputs than a block has warps", case(1, 19, 64)
        yield "300 outputs, more than a block has threads", case(1, 300, 64)
        yield "three rows of x", case(3, 5, 128)
        yield "a row longer than 32 lanes' loads", case(1, 3, 1088)
        yield "large weights", case(2, 3, 128, scale=1e3)
        yield "zeros", case(1, 3, 64, scale=0.0)
    return Contract(name, spec, cases, {"float32": 1e-5})


def package_gemv(dtype, version):
    def package(x, codes, scales, **options):
        weight = Quantised(codes, scales, (len(codes), GROUP * scales.shape[1]), dtype)
        return gemv.gemv(x, weight, version, **options)
    return package


def fit_gemv(mine, otherwise):
    """For a decoded token, whose matrices become codes of 8 bits at their first use."""
    stored = {}                                             # {id of a matrix: (the matrix, which keeps its id; codes)}

    def linear(x, weight, bias=None):
        rows = x.reshape(-1, x.shape[-1])
        if bias is not None or len(rows) > gemv.MOST_ROWS or rows.shape[1] % GROUP or x.dtype != np.float32:
            return otherwise(x, weight, bias)
        if id(weight) not in stored:
            stored[id(weight)] = weight, quantise(weight, "int8")
        codes = stored[id(weight)][1]
        return mine(x=rows, codes=codes.codes, scales=codes.scales).reshape(*x.shape[:-1], -1), None
    return linear


GEMV_V1 = of_kernel(gemv_contract("gemv_v1", "int4"), package_gemv("int4", 1), "gemv.cu")
# 4 bits are too few for so small a model, so version 1 has no place in it
GEMV_V2 = of_kernel(gemv_contract("gemv_v2", "int8"), package_gemv("int8", 2), "gemv.cu", "gemv", ops.linear, fit_gemv)


def product(x, codes, scales, zero=None, scale_of=lambda groups: groups, exchanged=False, signed=False):
    """x times the codes less `zero`, by default the right one, times their scales"""
    bits = 8 * codes.shape[1] // (scales.shape[1] * GROUP)
    zero = 2 ** (bits - 1) if zero is None else zero
    if bits == 4:
        halves = (codes >> 4, codes & 15) if exchanged else (codes & 15, codes >> 4)
        codes = np.stack(halves, -1).reshape(len(codes), -1)
    codes = codes.astype(np.float64)
    if signed:
        codes, zero = np.where(codes < 2 ** (bits - 1), codes, codes - 2 ** bits), 0
    each = np.repeat(scale_of(from_bfloat16_bits(scales)), GROUP, 1)
    return (x.astype(np.float64) @ ((codes - zero) * each).T).astype(x.dtype)


@GEMV_V1.mistake("Subtract 2^(bits - 1) from each code: 8 of 4 bits.")
@GEMV_V2.mistake("Subtract 2^(bits - 1) from each code: 128 of 8 bits.")
def zero_missing(x, codes, scales):
    return product(x, codes, scales, zero=0)


@GEMV_V1.mistake("The scale is missing: w = (code - 8) * scale.")
@GEMV_V2.mistake("The scale is missing: w = (code - 128) * scale.")
def scale_missing(x, codes, scales):
    return product(x, codes, scales, scale_of=np.ones_like)


@GEMV_V1.mistake("The first group's scale is used for the whole row: each 64 columns have their own.")
@GEMV_V2.mistake("The first group's scale is used for the whole row: each 64 columns have their own.")
def one_scale_a_row(x, codes, scales):
    return product(x, codes, scales, scale_of=lambda scale: np.repeat(scale[:, :1], scale.shape[1], 1))


@GEMV_V2.mistake("x does not move on with the packs: pack p of 16 codes is multiplied with x[16 p] and the 15 after it.")
def x_not_moved_on(x, codes, scales):
    return product(np.tile(x[:, :16], x.shape[1] // 16), codes, scales)


@GEMV_V2.mistake("Only lane 0's part is written: the 32 lanes' sums have to be added by shuffles first.")
def sum_of_lane_0(x, codes, scales):
    return product(x * (np.arange(x.shape[1]) // 16 % 32 == 0), codes, scales)


@GEMV_V2.mistake("Packs are counted more than once: the next pack of a lane is 32 packs further on.")
def packs_counted_twice(x, codes, scales):
    return product(x * np.where(np.arange(x.shape[1]) // 16 < 16, 1, 2), codes, scales)


@GEMV_V1.mistake("The scales of output 0 are used for all: output o's begin at o * I / 64.")
@GEMV_V2.mistake("The scales of output 0 are used for all: output o's begin at o * I / 64.")
def scales_of_the_first_output(x, codes, scales):
    return product(x, codes, np.repeat(scales[:1], len(scales), 0))


@GEMV_V1.mistake("The code is read as a signed number; it is unsigned, and 8 stands for 0.")
@GEMV_V2.mistake("The code is read as a signed number; it is unsigned, and 128 stands for 0.")
def codes_signed(x, codes, scales):
    return product(x, codes, scales, signed=True)


@GEMV_V1.mistake("The two codes of a byte are exchanged: the left column is in the LOWER four bits.")
def halves_exchanged(x, codes, scales):
    return product(x, codes, scales, exchanged=True)


# -------------------------------------------------------------------------------------------- attention_decode_combine

def attention_decode(q, keys, values, length):
    """Attention of one query for each row over the first length[0] keys"""
    return CONTRACTS["attention"].spec(q, keys[:, :, :length[0]], values[:, :, :length[0]])


def attention_decode_cases():
    def case(length, capacity, B=1, H=2, G=2, d=4, scale=1.0):
        return dict(q=random(B, H, 1, d, scale=scale), keys=random(B, G, capacity, d, seed=1),
                    values=random(B, G, capacity, d, seed=2), length=np.array([length], np.int32))
    yield "one part", case(20, 32)
    yield "two parts", case(64, 64)
    yield "three parts, the last one smaller", case(95, 100)
    yield "a batch, shared heads", case(70, 96, B=2, H=4)
    yield "parts without a key", case(5, 128)
    yield "one key", case(1, 64)
    yield "d = 32", case(66, 70, d=32)
    yield "large scores", case(96, 96, scale=200)


def fit_attention_decode(mine, otherwise):
    """For one query after a cache that is long enough to be split."""
    def decode(q, k, v, mask=None, causal=True):
        S = k.shape[2]
        if q.shape[2] > 1 or S < 64 or not causal or q.dtype != np.float32:
            return otherwise(q, k, v, mask, causal)
        k, v = np.ascontiguousarray(k), np.ascontiguousarray(v)
        mask = None if mask is None else np.ascontiguousarray(mask, bool)
        return mine(q=q, keys=k, values=v, length=np.array([S], np.int32), mask=mask), None
    return decode


ATTENTION_DECODE_COMBINE = of_kernel(
    Contract("attention_decode_combine", attention_decode, attention_decode_cases, {"float32": 1e-5}),
    attention.attention_decode, "attention_decode.cu", "attention_decode", ops.attention, fit_attention_decode)


def parts(q, keys, values, length):
    """y (B, H, splits, d) and log sum exp(score) (B, H, splits) of each part of the keys that has one"""
    H, d, (G, capacity) = q.shape[1], q.shape[3], keys.shape[1:3]
    splits = max(1, capacity // 32)
    share = -(-int(length[0]) // splits)
    keys, values = (np.repeat(array[:, :, :length[0]].astype(np.float64), H // G, 1) for array in (keys, values))
    scores = (q.astype(np.float64) @ keys.swapaxes(2, 3))[:, :, 0] / np.sqrt(d)
    y, lse = [], []
    for first in range(0, int(length[0]), share):
        part = slice(first, first + share)
        top = scores[..., part].max(-1, keepdims=True)
        p = np.exp(scores[..., part] - top)
        total = p.sum(-1, keepdims=True)
        y.append((p / total)[:, :, None] @ values[:, :, part])
        lse.append(top + np.log(total))
    return np.concatenate(y, 2), np.concatenate(lse, -1), splits


@ATTENTION_DECODE_COMBINE.mistake(
    "The parts' results are averaged as if each weighed the same; a part weighs exp(its lse).")
def parts_averaged(q, keys, values, length):
    y, _, splits = parts(q, keys, values, length)
    return (y.sum(2, keepdims=True) / splits).astype(q.dtype)


@ATTENTION_DECODE_COMBINE.mistake("The parts' results are added up as they are: a part weighs exp(its lse).")
def parts_added(q, keys, values, length):
    y, _, _ = parts(q, keys, values, length)
    return y.sum(2, keepdims=True).astype(q.dtype)


@ATTENTION_DECODE_COMBINE.mistake("The weights are the lse themselves; they should be exp(lse - the largest).")
def weights_without_exp(q, keys, values, length):
    y, lse, splits = parts(q, keys, values, length)
    if splits > y.shape[2]:
        raise ValueError("where a part has no key")
    return ((y * lse[..., None]).sum(2, keepdims=True) / lse.sum(-1)[..., None, None]).astype(q.dtype)


@ATTENTION_DECODE_COMBINE.mistake("The weighted sum is not divided by the sum of the weights.")
def not_divided_by_the_weights(q, keys, values, length):
    y, lse, _ = parts(q, keys, values, length)
    weights = np.exp(lse - lse.max(-1, keepdims=True))
    return (y * weights[..., None]).sum(2, keepdims=True).astype(q.dtype)


@ATTENTION_DECODE_COMBINE.mistake(
    "exp overflows for a large lse: subtract the largest of the parts' lse from all of them first, which changes no "
    "result.")
def largest_not_subtracted(q, keys, values, length):
    y, lse, _ = parts(q, keys, values, length)
    with np.errstate(all="ignore"):
        weights = np.exp(lse.astype(np.float32))[..., None]
        return ((y * weights).sum(2, keepdims=True) / weights.sum(2, keepdims=True)).astype(q.dtype)
