"""Lesson 82: the experts' matrix product on tensor cores."""
import numpy as np

from ...contracts import CONTRACTS, Contract
from ...contracts.ops import TYPES
from ...kernels.library.launch import expert_rows
from ...model import expert
from ...model.route import vision_expert_mask
from ..exercise import of_version
from .tiles import columns, fit_expert_matmul, mistakes_of_both_experts, whole_numbers
from .visual_expert import package_routed_dense


def expert_matmul_cases():
    """Columns in multiples of 8"""
    case = whole_numbers
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


def fit_tensor_cores(mine, otherwise):
    """For a model of float32: float16 goes in, and what comes out is as wide as the model's."""
    def in_half(x, types, *weights):
        weights = [weight if weight is None else weight.astype(np.float16) for weight in weights]
        return mine(x.astype(np.float16), types, *weights).astype(x.dtype)
    return fit_expert_matmul(in_half, otherwise)


EXPERT_MATMUL_V4 = of_version(
    Contract("expert_matmul_v4", CONTRACTS["routed_dense"].spec, expert_matmul_cases, {"float16": 1e-3}),
    "expert_matmul", 4, "expert_matmul.cu", "routed_dense", expert.routed, fit_tensor_cores)
mistakes_of_both_experts(EXPERT_MATMUL_V4)


@EXPERT_MATMUL_V4.mistake("Only the first 16 columns are multiplied: go on to the next 16, up to I.")
def first_16_columns(x, types, *weights, **more):
    return package_routed_dense(columns(x, 0, 16), types, *weights, **more)


@EXPERT_MATMUL_V4.mistake("Columns after the last whole 32 are missing: a part of a tile is filled up with 0.")
def whole_tiles_of_32(x, types, *weights, **more):
    return package_routed_dense(columns(x, 0, x.shape[-1] // 32 * 32), types, *weights, **more)


def by_fragments(x, types, vision_weight, language_weight, vision_bias, of_x=lambda x: x, of_weight=lambda w: w):
    """The product of the tokens in the list's order, with both factors changed as whole products of 16."""
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


@EXPERT_MATMUL_V4.mistake(
    "Registers 1 and 2 of a are exchanged: a[1] has the rows 8 further down, a[2] the columns 8 to the right.")
def quarters_of_a_exchanged(x, types, vision_weight, language_weight, vision_bias=None):
    def exchanged(x):
        return x.reshape(len(x) // 16, 2, 8, -1, 2, 8).swapaxes(1, 4).reshape(x.shape)
    return by_fragments(x, types, vision_weight, language_weight, vision_bias, of_x=exchanged)


@EXPERT_MATMUL_V4.mistake(
    "The fragment of W is transposed: b[0] has number 2 (lane % 4) and the next of row lane / 4 of W, which ldmatrix "
    "without _trans gives.")
def b_transposed(x, types, vision_weight, language_weight, vision_bias=None):
    def transposed(weight):
        return weight.reshape(len(weight) // 8, 8, -1, 8).swapaxes(1, 3).reshape(weight.shape)
    return by_fragments(x, types, vision_weight, language_weight, vision_bias, of_weight=transposed)


@EXPERT_MATMUL_V4.mistake(
    "W's fragments come in the order of a's: of the four parts that ldmatrix_x4 brings, the second has W's columns 8 to "
    "the right, the third its rows 8 further down.")
def b_in_the_order_of_a(x, types, vision_weight, language_weight, vision_bias=None):
    def exchanged(weight):
        weight = np.pad(weight, [(0, -len(weight) % 16), (0, 0)])
        return weight.reshape(len(weight) // 16, 2, 8, -1, 2, 8).swapaxes(1, 4).reshape(weight.shape)
    return by_fragments(x, types, vision_weight, language_weight, vision_bias, of_weight=exchanged)


@EXPERT_MATMUL_V4.mistake(
    "Results 1 and 2 of an mma are exchanged: sum[1] is one column to the right, sum[2] 8 rows further down.")
def results_exchanged(x, types, vision_weight, language_weight, vision_bias=None):
    """Row lane / 4 and column 2 (lane % 4) + 1 get what belongs 8 rows down in column 2 (lane % 4), and the reverse."""
    rows, language_rows = expert_rows(vision_expert_mask(types).reshape(-1))
    tokens = np.where(rows[:, None] >= 0, x.reshape(-1, x.shape[-1])[rows], 0)
    O = len(vision_weight)
    vision, language = (np.pad(weight, [(0, -O % 8), (0, 0)]) for weight in (vision_weight, language_weight))
    y = np.concatenate([tokens[:language_rows] @ language.T, tokens[language_rows:] @ vision.T])
    y = y.reshape(len(y) // 16, 2, 8, -1, 4, 2).swapaxes(1, 5).reshape(y.shape)[:, :O]
    y[language_rows:] += 0 if vision_bias is None else vision_bias
    result = np.empty((types.size, O), x.dtype)
    result[rows[rows >= 0]] = y[rows >= 0]
    return result.reshape(*x.shape[:-1], O)
