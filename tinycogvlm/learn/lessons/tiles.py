"""Lesson 81: the experts' matrix product as a CUDA kernel, without and with tiles in shared memory."""
import numpy as np

from ...contracts import CONTRACTS, Contract
from ...contracts import ops as specifications
from ...contracts.contract import TOLERANCE
from ...model import expert
from ..exercise import of_version
from . import visual_expert
from .one_sequence import digits
from .visual_expert import fit_routed_dense, package_routed_dense


def whole_numbers(types, I, O, bias=False):
    """Arguments of small whole numbers, whose sums are exact in 2 bytes, too."""
    def whole(*shape, seed=0):
        return np.random.default_rng([seed, *shape]).integers(-2, 3, shape).astype(float)
    types = digits(*types)
    arguments = dict(x=whole(*types.shape, I), types=types, vision_weight=whole(O, I),
                     language_weight=whole(O, I, seed=1))
    return arguments | (dict(vision_bias=whole(O, seed=2)) if bias else {})


def expert_matmul_cases():
    """The op's own, and some of several tiles"""
    yield "16 tokens, 16 columns, 16 outputs", whole_numbers(["0" * 16], 16, 16)
    yield from specifications.routed_dense_cases()
    yield "three tiles of columns, the last one not whole", whole_numbers(["0111222003"], 35, 5)
    yield "two tiles of outputs, of tokens, of columns", whole_numbers(["0111222003" * 4], 20, 21, bias=True)


def fit_expert_matmul(mine, otherwise):
    """For a prompt: with one token most of a tile would be empty."""
    dense = fit_routed_dense(mine, otherwise)
    return lambda layer, x, *more: (dense if x.shape[1] > 1 else otherwise)(layer, x, *more)


EXPERT_MATMUL_V1, EXPERT_MATMUL_V2 = (
    of_version(Contract(f"expert_matmul_v{version}", CONTRACTS["routed_dense"].spec, expert_matmul_cases, TOLERANCE),
               "expert_matmul", version, "expert_matmul.cu", "routed_dense", expert.routed, fit_expert_matmul)
    for version in (1, 2))


def mistakes_of_both_experts(exercise):
    """The mistakes that a matrix product of two experts shares with lesson 12's, as a kernel's author makes them."""
    for sentence, make in (
            ("The experts are exchanged: rows of the list before language_rows are the language expert's.",
             visual_expert.experts_exchanged),
            ("The experts' matrices are exchanged: rows of the list before language_rows are the language expert's. The "
             "bias is added to the right tokens.", visual_expert.matrices_exchanged),
            ("The bias is missing: the vision expert may have one.", visual_expert.vision_bias_missing),
            ("The bias is added to every token; it is the vision expert's alone.", visual_expert.bias_for_all),
            ("Every token is multiplied with the language expert's matrix; from row language_rows of the list on it is "
             "the vision expert's.", visual_expert.language_alone)):
        exercise.mistake(sentence)(make)


mistakes_of_both_experts(EXPERT_MATMUL_V1)
mistakes_of_both_experts(EXPERT_MATMUL_V2)


def columns(x, first, last=None):
    """x, but 0 outside of these columns"""
    y = np.zeros_like(x)
    y[..., first:last] = x[..., first:last]
    return y


@EXPERT_MATMUL_V1.mistake("W is read as if it were (I, O): number i of output o is at o * I + i.")
@EXPERT_MATMUL_V2.mistake("W is read as if it were (I, O): number i of output o is at o * I + i.")
def weight_transposed(x, types, vision_weight, language_weight, vision_bias=None):
    O, I = vision_weight.shape
    vision, language = (np.ascontiguousarray(weight).reshape(I, O).T for weight in (vision_weight, language_weight))
    return package_routed_dense(x, types, vision, language, vision_bias)


@EXPERT_MATMUL_V2.mistake(
    "A thread brings the wrong row of W: of the tile's 16 rows that with its threadIdx.y, not threadIdx.x. Its own output "
    "is another matter.")
def rows_of_w_by_column(x, types, vision_weight, language_weight, vision_bias=None):
    """Every output of a block then has the diagonals of the block's tiles of W."""
    O, I = vision_weight.shape

    def brought(weight):
        tiles = np.pad(weight, [(0, -O % 16), (0, -I % 16)]).reshape(-(-O // 16), 16, -(-I // 16), 16)
        return np.einsum("brir->bir", tiles).reshape(len(tiles), -1)[:, :I].repeat(16, 0)[:O]
    return package_routed_dense(x, types, brought(vision_weight), brought(language_weight), vision_bias)


@EXPERT_MATMUL_V2.mistake("Only whole tiles are summed: the columns after the last whole 16 are missing.")
def whole_tiles_of_16(x, types, *weights, **more):
    return package_routed_dense(columns(x, 0, x.shape[-1] // 16 * 16), types, *weights, **more)


@EXPERT_MATMUL_V2.mistake(
    "The sum starts again with each tile: declare it before the loop over the tiles, with the bias.")
def last_tile_alone(x, types, *weights, **more):
    return package_routed_dense(columns(x, (x.shape[-1] - 1) // 16 * 16), types, *weights, **more)
