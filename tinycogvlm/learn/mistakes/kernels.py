"""Kernels: sums over lanes, tiles and their edges, fragments of tensor cores, codes and scales, divided keys."""
import numpy as np

from ...kernels.library.launch import expert_rows
from ...model.route import vision_expert_mask
from ...nn.arrays import from_bfloat16_bits
from ...storage.quantise import GROUP
from . import experts
from .table import mistake, right

# ------------------------------------------------------------------------------------------------ a warp for each row

def by_lanes(x, weight, eps, add):
    """RMSNorm where a lane scales its numbers by what `add` makes of the lanes' sums, (..., 32) -> (..., 32)."""
    D, lanes = x.shape[-1], np.arange(x.shape[-1]) % 32
    squares = np.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(0, -D % 32)])
    total = add(squares.reshape(*x.shape[:-1], -1, 32).sum(-2))
    return x / np.sqrt(total[..., lanes] / D + eps) * weight


def shuffled(sums, distances, source):
    """source(lane, distance): whose sum a lane adds to its own"""
    for distance in distances:
        sums = sums + sums[..., source(np.arange(32), distance)]
    return sums


@mistake("rms_norm_v2",
         says="Only the lane's own part of the sum is used: the 32 lanes' sums must be added by shuffles, and "
              "all lanes need it.")
def sum_of_one_lane(x, weight, eps):
    return by_lanes(x, weight, eps, lambda sums: sums)


step_missing = mistake("rms_norm_v2",
                       says="Steps of the shuffle are missing, so that a lane has the sum of some lanes only: 32 lanes "
                            "take five, at the distances 16, 8, 4, 2 and 1.")


@step_missing
def last_step_missing(x, weight, eps):
    return by_lanes(x, weight, eps, lambda sums: shuffled(sums, (16, 8, 4, 2), np.bitwise_xor))


@step_missing
def first_step_missing(x, weight, eps):
    return by_lanes(x, weight, eps, lambda sums: shuffled(sums, (8, 4, 2, 1), np.bitwise_xor))


@mistake("rms_norm_v2",
         says="After __shfl_down_sync lane 0 alone has the whole sum; all lanes need it, which __shfl_xor_sync gives.")
def sum_in_lane_0_alone(x, weight, eps):
    def below(lane, distance):
        return np.where(lane + distance < 32, lane + distance, lane)
    return by_lanes(x, weight, eps, lambda sums: shuffled(sums, (16, 8, 4, 2, 1), below))


# ------------------------------------------------------------------------------------------------- the expert's matmul

MATMULS = "expert_matmul_v1", "expert_matmul_v2", "expert_matmul_v4"

mistake(*MATMULS, says="The experts are exchanged: rows of the list before language_rows are the language expert's."
        )(experts.experts_exchanged)
mistake(*MATMULS, says="The bias is missing: the vision expert may have one.")(experts.vision_bias_missing)
mistake(*MATMULS, says="The bias is added to every token; it is the vision expert's alone.")(experts.bias_for_all)
mistake(*MATMULS, says="Every token is multiplied with the language expert's matrix; from row language_rows of the "
        "list on it is the vision expert's.")(experts.language_alone)


def dense(x, types, vision_weight, language_weight, vision_bias=None):
    return right("routed_dense", x=x, types=types, vision_weight=vision_weight, language_weight=language_weight,
                 vision_bias=vision_bias)


def columns(x, first, last=None):
    """x, but 0 outside of these columns"""
    y = np.zeros_like(x)
    y[..., first:last] = x[..., first:last]
    return y


@mistake("expert_matmul_v1", "expert_matmul_v2",
         says="W is read as if it were (I, O): number i of output o lies at o * I + i.")
def weight_transposed(x, types, vision_weight, language_weight, vision_bias=None):
    O, I = vision_weight.shape
    vision, language = (np.ascontiguousarray(weight).reshape(I, O).T for weight in (vision_weight, language_weight))
    return dense(x, types, vision, language, vision_bias)


@mistake("expert_matmul_v2", says="Only whole tiles are summed: the columns behind the last whole 16 are missing.")
def whole_tiles_of_16(x, types, vision_weight, language_weight, vision_bias=None):
    return dense(columns(x, 0, x.shape[-1] // 16 * 16), types, vision_weight, language_weight, vision_bias)


@mistake("expert_matmul_v2",
         says="The sum begins anew with each tile: declare it before the loop over the tiles, with the bias.")
def last_tile_alone(x, types, vision_weight, language_weight, vision_bias=None):
    return dense(columns(x, (x.shape[-1] - 1) // 16 * 16), types, vision_weight, language_weight, vision_bias)


@mistake("expert_matmul_v4", says="Only the first 16 columns are multiplied: go on to the next 16, up to I.")
def first_16_columns(x, types, vision_weight, language_weight, vision_bias=None):
    return dense(columns(x, 0, 16), types, vision_weight, language_weight, vision_bias)


@mistake("expert_matmul_v4", says="Columns behind the last whole 32 are missing: a part of a tile is filled up with 0.")
def whole_tiles_of_32(x, types, vision_weight, language_weight, vision_bias=None):
    return dense(columns(x, 0, x.shape[-1] // 32 * 32), types, vision_weight, language_weight, vision_bias)


def by_fragments(x, types, vision_weight, language_weight, vision_bias, of_x=lambda x: x, of_weight=lambda w: w):
    """The product of the tokens as they stand in the list, with both factors changed as whole products of 16."""
    def whole(matrix, rows):
        return np.pad(matrix, [(0, -len(matrix) % rows), (0, -matrix.shape[1] % 16)])
    rows, language_rows = expert_rows(vision_expert_mask(types).reshape(-1))
    tokens = np.where(rows[:, None] >= 0, x.reshape(-1, x.shape[-1])[rows], 0)
    tokens, O = of_x(whole(tokens, 16)), len(vision_weight)
    vision, language = (of_weight(whole(weight, 8))[:O] for weight in (vision_weight, language_weight))
    y = np.concatenate([tokens[:language_rows] @ language.T,
                        tokens[language_rows:] @ vision.T + (0 if vision_bias is None else vision_bias)])
    result = np.empty((types.size, O), x.dtype)
    result[rows[rows >= 0]] = y[rows >= 0]
    return result.reshape(*x.shape[:-1], O)


@mistake("expert_matmul_v4",
         says="Registers 1 and 2 of a are exchanged: a[1] has the rows 8 further down, a[2] columns 8 to the right.")
def quarters_of_a_exchanged(x, types, vision_weight, language_weight, vision_bias=None):
    def exchanged(x):
        return x.reshape(len(x) // 16, 2, 8, -1, 2, 8).swapaxes(1, 4).reshape(x.shape)
    return by_fragments(x, types, vision_weight, language_weight, vision_bias, of_x=exchanged)


@mistake("expert_matmul_v4",
         says="The fragment of W is transposed: b[0] has number 2 (lane % 4) and the next of row lane / 4 of W, which "
              "ldmatrix without _trans gives.")
def b_transposed(x, types, vision_weight, language_weight, vision_bias=None):
    def transposed(weight):
        return weight.reshape(len(weight) // 8, 8, -1, 8).swapaxes(1, 3).reshape(weight.shape)
    return by_fragments(x, types, vision_weight, language_weight, vision_bias, of_weight=transposed)


# ---------------------------------------------------------------------------------------------------- codes and scales

GEMVS = "gemv_v1", "gemv_v2"


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
    wide = from_bfloat16_bits(scales)
    each = np.repeat(scale_of(wide), GROUP, 1)
    return (x.astype(np.float64) @ ((codes - zero) * each).T).astype(x.dtype)


@mistake(*GEMVS, says="2^(bits - 1) is to be subtracted from a code: 128 of 8 bits, 8 of 4 bits.")
def zero_missing(x, codes, scales):
    return product(x, codes, scales, zero=0)


@mistake(*GEMVS, says="The scale is missing: w = (code - 2^(bits - 1)) * scale.")
def scale_missing(x, codes, scales):
    return product(x, codes, scales, scale_of=np.ones_like)


@mistake(*GEMVS, says="The first group's scale is used for the whole row: each 64 columns have their own.")
def one_scale_a_row(x, codes, scales):
    return product(x, codes, scales, scale_of=lambda wide: np.repeat(wide[:, :1], wide.shape[1], 1))


@mistake(*GEMVS, says="The code is taken as a signed number; it is unsigned, and 2^(bits - 1) of it stands for 0.")
def codes_signed(x, codes, scales):
    return product(x, codes, scales, signed=True)


@mistake("gemv_v1", says="The two codes of a byte are exchanged: the left column is in the LOWER four bits.")
def halves_exchanged(x, codes, scales):
    return product(x, codes, scales, exchanged=True)


# ------------------------------------------------------------------------------------------------------ divided keys

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


@mistake("attention_decode_combine",
         says="The parts' results are averaged as if each weighed the same; a part weighs exp(its lse).")
def parts_averaged(q, keys, values, length):
    y, _, splits = parts(q, keys, values, length)
    return (y.sum(2, keepdims=True) / splits).astype(q.dtype)


@mistake("attention_decode_combine", says="The parts' results are added up as they are: a part weighs exp(its lse).")
def parts_added(q, keys, values, length):
    y, _, _ = parts(q, keys, values, length)
    return y.sum(2, keepdims=True).astype(q.dtype)


@mistake("attention_decode_combine", says="The weights are the lse themselves; they are exp(lse - the largest).")
def weights_without_exp(q, keys, values, length):
    y, lse, splits = parts(q, keys, values, length)
    if splits > y.shape[2]:
        raise ValueError("where a part has no key")
    return ((y * lse[..., None]).sum(2, keepdims=True) / lse.sum(-1)[..., None, None]).astype(q.dtype)


@mistake("attention_decode_combine", says="The weighted sum is not divided by the sum of the weights.")
def not_divided_by_the_weights(q, keys, values, length):
    y, lse, _ = parts(q, keys, values, length)
    weights = np.exp(lse - lse.max(-1, keepdims=True))
    return (y * weights[..., None]).sum(2, keepdims=True).astype(q.dtype)


@mistake("attention_decode_combine",
         says="exp overflows for a large lse: subtract the largest of the parts' lse from all of them first, which "
              "changes no result.")
def largest_not_subtracted(q, keys, values, length):
    y, lse, _ = parts(q, keys, values, length)
    with np.errstate(all="ignore"):
        weights = np.exp(lse.astype(np.float32))[..., None]
        return ((y * weights).sum(2, keepdims=True) / weights.sum(2, keepdims=True)).astype(q.dtype)
