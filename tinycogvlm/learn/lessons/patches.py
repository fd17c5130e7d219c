"""Lesson 04: cutting pictures into patches, the patch embedding, and position tables for another grid."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from ...contracts import CONTRACTS, Contract, over, random
from ...contracts import ops as specifications
from ...contracts.contract import TOLERANCE
from ...model import vit
from ...nn import ops
from ...nn.tree import Params
from ..exercise import Exercise, forward, no_pullback, of_op
from .pixels import bicubic_weights, cubic, distances, normalised

# ------------------------------------------------------------------------------------------------------------- patches


def patches_cases():
    yield "the numbers 0 to 15", dict(x=np.arange(16.0).reshape(1, 1, 4, 4), size=2)
    yield "three colours", dict(x=np.arange(48.0).reshape(1, 3, 4, 4), size=2)
    yield from specifications.patches_cases()


PATCHES = of_op(replace(CONTRACTS["patches"], cases=patches_cases), ops.patches)


def cut(x, size):
    """(B, C, n, size, m, size)"""
    B, C, N, M = x.shape
    n, m = N // size, M // size
    return x[:, :, :n * size, :m * size].reshape(B, C, n, size, m, size)


def joined(squares):
    """The six axes, in whatever order, as (B, P, K)"""
    B, n, m = squares.shape[:3]
    return squares.reshape(B, n * m, -1)


@PATCHES.mistake("The patches come column by column; they are counted row by row, in reading order.")
def patches_by_columns(x, size):
    return joined(cut(x, size).transpose(0, 4, 2, 1, 3, 5))


@PATCHES.mistake("Each patch is transposed: its rows of pixels come first, as they do in the convolution's weight.")
def patch_transposed(x, size):
    return joined(cut(x, size).transpose(0, 2, 4, 1, 5, 3))


@PATCHES.mistake(
    "The colours of a pixel lie next to each other here; a patch has all of its first colour, then all of the second, "
    "then all of the third.")
def colours_last(x, size):
    return joined(cut(x, size).transpose(0, 2, 4, 3, 5, 1))


@PATCHES.mistake("The array is reshaped without a transpose: these are pieces of rows, not squares.")
def reshaped_only(x, size):
    squares = cut(x, size)
    B, C, n, _, m, _ = squares.shape
    return squares.reshape(B, n * m, C * size * size)


# ----------------------------------------------------------------------------------------------------- patch_embedding

def patch_embedding(x, weight, bias, cls, table):
    """Row 0 is CLS, row 1 + p the patch p; each with its position"""
    squares = specifications.linear(specifications.patches(x, weight.shape[-1]), weight, bias)
    y = np.zeros((len(x), *table.shape))
    for b, t, d in over(*y.shape):
        y[b, t, d] = (cls[0, d] if t == 0 else squares[b, t - 1, d]) + table[t, d]
    return y


def patch_embedding_cases():
    def case(B, C, N, size, D):
        P = (N // size) ** 2
        return dict(x=random(B, C, N, N), weight=random(D, C, size, size), bias=random(D), cls=random(1, D, seed=1),
                    table=random(1 + P, D, seed=2))
    yield "two pictures", case(2, 3, 6, 2, 5)
    yield "one patch", case(1, 3, 4, 4, 3)
    yield "nine patches of one colour", case(1, 1, 9, 3, 2)


def package_patch_embedding(x, weight, bias, cls, table):
    p = Params({"proj.weight": weight, "proj.bias": bias, "cls_embedding": cls, "position_embedding.weight": table})
    return vit.patch_embedding.own(x, p, SimpleNamespace(patch_size=weight.shape[-1]))[0]


def fit_patch_embedding(mine, otherwise):
    """For pictures of the table's own size."""
    def embedding(pixels, p, config):
        table, grid = p.position_embedding.weight, pixels.shape[-1] // config.patch_size
        if len(table) != 1 + grid * grid:
            return otherwise(pixels, p, config)
        return mine(pixels, p.proj.weight, p.proj.bias, p.cls_embedding, table), None
    return embedding


PATCH_EMBEDDING = Exercise(
    Contract("patch_embedding", patch_embedding, patch_embedding_cases, TOLERANCE),
    package_patch_embedding, (vit.patch_embedding,),
    part="patch_embedding", place=vit.patch_embedding, fit=fit_patch_embedding,
    toy=dict(x=np.arange(16.0).reshape(1, 1, 4, 4), weight=np.array([[[[1.0, 1], [1, 1]]], [[[-1, 1], [-1, 1]]]]),
             bias=np.zeros(2), cls=np.array([[7.0, 7]]), table=100 * np.arange(5.0)[:, None] * np.ones(2)))


def embedded(x, weight, bias):
    squares, _ = ops.patches.own(x, weight.shape[-1])
    return squares @ weight.reshape(len(weight), -1).T + bias


def with_cls(cls, y):
    return np.concatenate([np.broadcast_to(cls, (len(y), *cls.shape)), y], 1)


@PATCH_EMBEDDING.mistake(
    "weight is reshaped to (K, D), but its numbers lie as (D, C, size, size): reshape it to (D, K), and transpose "
    "that.")
def weight_reshaped_to_columns(x, weight, bias, cls, table):
    squares, _ = ops.patches.own(x, weight.shape[-1])
    return with_cls(cls, squares @ weight.reshape(-1, len(weight)) + bias) + table


@PATCH_EMBEDDING.mistake("CLS comes last; it should be the first row.")
def cls_at_the_end(x, weight, bias, cls, table):
    y = embedded(x, weight, bias)
    return np.concatenate([y, np.broadcast_to(cls, (len(y), *cls.shape))], 1) + table


@PATCH_EMBEDDING.mistake("CLS has no position here; the first row of the table is its own.")
def cls_without_position(x, weight, bias, cls, table):
    return with_cls(cls, embedded(x, weight, bias) + table[1:])


@PATCH_EMBEDDING.mistake("The positions are missing: without them the tower cannot tell where a patch was.")
def positions_missing(x, weight, bias, cls, table):
    return with_cls(cls, embedded(x, weight, bias))


@PATCH_EMBEDDING.mistake(
    "The positions are off by one: the patches start at the table's second row, after that of CLS.")
def positions_off_by_one(x, weight, bias, cls, table):
    return with_cls(cls + table[:1], embedded(x, weight, bias) + table[:-1])


@PATCH_EMBEDDING.mistake("The bias is missing.")
def embedding_bias_missing(x, weight, bias, cls, table):
    return with_cls(cls, embedded(x, weight, 0)) + table


# ----------------------------------------------------------------------------------------------- interpolate_positions

INTERPOLATE_POSITIONS = Exercise(
    CONTRACTS["interpolate_positions"], forward(ops.interpolate_positions), (ops.interpolate_positions,),
    place=ops.interpolate_positions, fit=no_pullback,       # runs for pictures of another size only
    toy=dict(table=np.array([[-7.0, -7], *np.ndindex(3, 3)]), grid=6))


def resampled(weights, table):
    """The table's rows after CLS, resampled along both axes by these (grid, n) weights."""
    grid, n = weights.shape
    squares = np.einsum("im,jn,mnd->ijd", weights, weights, table[1:].reshape(n, n, -1))
    return np.concatenate([table[:1], squares.reshape(grid * grid, -1)])


def side(table):
    return int(np.sqrt(len(table) - 1))


def cubic_of_tables(x):
    return cubic(x, -0.75)


def edges_repeated(n, m, kernel=cubic_of_tables, half=0.5, floor=np.floor, add=True, outside=True):
    """(m, n) weights of four points each; a point outside counts as the edge."""
    weights, places = np.zeros((m, n)), (np.arange(m) + half) * n / m - half
    for i, place in enumerate(places):
        for j in range(int(floor(place)) - 1, int(floor(place)) + 3):
            if outside or 0 <= j < n:
                nearest = min(max(j, 0), n - 1)
                weights[i, nearest] = kernel(place - j) + (weights[i, nearest] if add else 0)
    return weights


@INTERPOLATE_POSITIONS.mistake("The kernel has a = -1/2, as Pillow's; for position tables it is -3/4.")
def table_by_the_kernel_of_pillow(table, grid):
    return resampled(edges_repeated(side(table), grid, cubic), table)


@INTERPOLATE_POSITIONS.mistake(
    "The weights are those of Pillow's resize: a = -1/2, wider when shrinking, the edges left out. Here a is -3/4, "
    "the kernel is never wider, and the edges are repeated.")
def table_as_a_picture(table, grid):
    return resampled(bicubic_weights(side(table), grid), table)


@INTERPOLATE_POSITIONS.mistake(
    "Points outside the table count as 0 here; the nearest point inside takes their place: index 0 for all below it.")
def zero_outside(table, grid):
    return resampled(edges_repeated(side(table), grid, outside=False), table)


@INTERPOLATE_POSITIONS.mistake(
    "Points outside the table are left out here; the nearest point inside takes their place: index 0 for all below "
    "it.")
def edges_left_out(table, grid):
    return resampled(normalised(cubic_of_tables(distances(side(table), grid))), table)


@INTERPOLATE_POSITIONS.mistake(
    "At the edges a weight is overwritten where it should be added: several points count as the edge, so weights[i, "
    "j] += ..., not =.")
def weights_overwritten(table, grid):
    return resampled(edges_repeated(side(table), grid, add=False), table)


@INTERPOLATE_POSITIONS.mistake("This interpolates linearly between two neighbours; the cubic uses four.")
def table_by_lines(table, grid):
    return resampled(edges_repeated(side(table), grid, lambda x: np.maximum(0, 1 - np.abs(x))), table)


@INTERPOLATE_POSITIONS.mistake("The nearest row is taken; the cubic mixes four along each axis.")
def nearest_row(table, grid):
    n = side(table)
    return resampled(np.eye(n)[((np.arange(grid) + 0.5) * n / grid).astype(int)], table)


@INTERPOLATE_POSITIONS.mistake(
    "The half patches are missing: output i lies at (i + 1/2) n/grid - 1/2, so that both grids cover the same "
    "picture.")
def table_by_corners(table, grid):
    return resampled(edges_repeated(side(table), grid, half=0), table)


@INTERPOLATE_POSITIONS.mistake("int rounds towards 0: it turns -1/4 into 0, but its floor is -1. Use np.floor.")
def cut_instead_of_floor(table, grid):
    return resampled(edges_repeated(side(table), grid, floor=int), table)


@INTERPOLATE_POSITIONS.mistake("The row of CLS is missing: it comes first, unchanged.")
def row_of_cls_dropped(table, grid):
    return specifications.interpolate_positions(table, grid)[1:]


@INTERPOLATE_POSITIONS.mistake("The row of CLS comes last here; it is the first.")
def row_of_cls_last(table, grid):
    return np.roll(specifications.interpolate_positions(table, grid), -1, 0)


@INTERPOLATE_POSITIONS.mistake(
    "The last row of the table is taken for that of CLS; it is the first: the grid is table[1:].")
def grid_off_by_one(table, grid):
    return specifications.interpolate_positions(np.concatenate([table[:1], table[:-1]]), grid)


@INTERPOLATE_POSITIONS.mistake("Rows and columns of the grid are exchanged.")
def grid_transposed(table, grid):
    y = specifications.interpolate_positions(table, grid)
    return np.concatenate([y[:1], y[1:].reshape(grid, grid, -1).swapaxes(0, 1).reshape(grid * grid, -1)])
