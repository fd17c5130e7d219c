"""Position tables of a square grid of patches, resampled for a picture of any grid."""
import numpy as np

from ..nn.arrays import namespace
from ..nn.ops import bicubic_matrix
from ..nn.swap import op


@op
def resampled(table, by_row, by_column):
    """A table of n x m places made one of h x w            table (n m, D), matrices (h, n) and (w, m) -> (h w, D)

    y_ij = sum_kl by_row_ik by_column_jl table_kl: both axes by themselves.
    """
    xp, (h, n), (w, m) = namespace(table), by_row.shape, by_column.shape
    by_row, by_column = (xp.asarray(matrix, table.dtype) for matrix in (by_row, by_column))
    y = xp.einsum("ik,jl,kld->ijd", by_row, by_column, table.reshape(n, m, -1), optimize=True)

    def pull(dy):
        dtable = xp.einsum("ik,jl,ijd->kld", by_row, by_column, dy.reshape(h, w, -1), optimize=True)
        return dtable.reshape(table.shape)
    return y.reshape(h * w, -1), pull


def bicubic(n, grid):
    """Matrices that bring n x n places to grid = (h, w), points at pixel centres; see ops.bicubic_matrix"""
    return tuple(bicubic_matrix(n, side) for side in grid)


def corners_aligned(n, grid):
    """Matrices that bring n x n places to grid = (h, w), linearly, corners to corners: torch's align_corners=True"""
    return tuple(corners_aligned_matrix(n, side) for side in grid)


def corners_aligned_matrix(n, m):
    """(m, n): point i of m lies at i (n - 1) / (m - 1) of n, between two; a single point at the first"""
    place = np.arange(m) * ((n - 1) / max(1, m - 1))
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(n)))
