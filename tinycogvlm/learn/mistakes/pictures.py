"""The resize, the scale of the colours, and a position table for another grid."""
import numpy as np

from ...inputs import image
from .table import mistake, right


def cubic(distance, a=-0.5):
    d = np.abs(distance)
    return np.where(d <= 1, (a + 2) * d ** 3 - (a + 3) * d ** 2 + 1,
                    np.where(d < 2, a * (d ** 3 - 5 * d ** 2 + 8 * d - 4), 0))


def distances(n, m, half=0.5):
    return np.arange(n) + half - (np.arange(m)[:, None] + half) * n / m


def divided(weights):
    return weights / weights.sum(1, keepdims=True)


def scale(n, m):
    return max(1, n / m)


@mistake("bicubic_weights",
         says="The kernel keeps its width where the picture shrinks, so most numbers are skipped: this is aliasing. "
              "Divide the distances by s = max(1, n/m).")
def not_antialiased(n, m):
    return divided(cubic(distances(n, m)))


@mistake("bicubic_weights",
         says="The kernel is made narrower where the picture grows; s is max(1, n/m), never less than 1.")
def narrower_where_it_grows(n, m):
    return divided(cubic(distances(n, m) / (n / m)))


@mistake("bicubic_weights", says="This is the kernel with a = -3/4, as PyTorch's interpolate has it; Pillow's is -1/2.")
def kernel_of_pytorch(n, m):
    return divided(cubic(distances(n, m) / scale(n, m), -0.75))


@mistake("bicubic_weights", says="This kernel is a triangle, as BILINEAR's; the cubic has two pieces.")
def triangle(n, m):
    return divided(np.maximum(0, 1 - np.abs(distances(n, m) / scale(n, m))))


@mistake("bicubic_weights", says="The rows are not divided by their sums: a grey picture would not stay as grey.")
def rows_not_divided(n, m):
    return cubic(distances(n, m) / scale(n, m))


@mistake("bicubic_weights", says="All weights are divided by one sum; each row has its own.")
def divided_by_one_sum(n, m):
    weights = rows_not_divided(n, m)
    return weights / weights.sum()


@mistake("bicubic_weights",
         says="The half pixels are missing: number j lies at j + 1/2, the centre of its pixel, and output i at "
              "(i + 1/2) n/m.")
def corners_for_centres(n, m):
    return divided(cubic(distances(n, m, half=0) / scale(n, m)))


@mistake("bicubic_weights", says="The matrix is transposed: a row for each of the m outputs.")
def weights_transposed(n, m):
    return right("bicubic_weights", n=n, m=m).T


def planes(colours):
    return colours.transpose(2, 0, 1).astype(np.float32)


MEAN, STD = image.CLIP_MEAN[:, None, None], image.CLIP_STD[:, None, None]


@mistake("normalise", says="The colours are not divided by 255 first; mean and std are those of fractions.")
def not_divided_by_255(colours):
    return (planes(colours) - MEAN) / STD


@mistake("normalise", says="Only fractions: the mean is not subtracted, and nothing is divided by the std.")
def fractions_alone(colours):
    return planes(colours) / 255


@mistake("normalise", says="The division by the std is missing.")
def std_missing(colours):
    return planes(colours) / 255 - MEAN


@mistake("normalise", says="Divided by the variance; it is the standard deviation.")
def divided_by_the_variance(colours):
    return (planes(colours) / 255 - MEAN) / STD ** 2


@mistake("normalise", says="Mean and std are exchanged.")
def mean_and_std_exchanged(colours):
    return (planes(colours) / 255 - STD) / MEAN


@mistake("normalise", says="The colours come in the order blue, green, red; Pillow gives red first, as OpenCV does not.")
def blue_first(colours):
    return right("normalise", colours=colours[..., ::-1])


@mistake("normalise", says="Mean and std are those of all pixels here; they are fixed, the same for every picture.")
def of_this_picture(colours):
    x = planes(colours) / 255
    with np.errstate(all="ignore"):
        return (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)


@mistake("normalise",
         says="The colours are the last axis here; each has a plane of its own: (3, N, N).")
def colours_in_the_last_axis(colours):
    return right("normalise", colours=colours).transpose(1, 2, 0)


@mistake("normalise", says="Rows and columns are exchanged: .T turns all three axes round; transpose(2, 0, 1) moves one.")
def rows_and_columns_exchanged(colours):
    return right("normalise", colours=colours).swapaxes(1, 2)


def table_by(weights, table):
    """The table's rows behind CLS, resampled along both axes by these (grid, n) weights."""
    grid, n = weights.shape
    squares = np.einsum("im,jn,mnd->ijd", weights, weights, table[1:].reshape(n, n, -1))
    return np.concatenate([table[:1], squares.reshape(grid * grid, -1)])


def side(table):
    return int(np.sqrt(len(table) - 1))


def edges_repeated(n, m, of=cubic, half=0.5, floor=np.floor):
    """(m, n) weights of four points each, or as many as `of` reaches; a point outside is the edge's."""
    weights, places = np.zeros((m, n)), (np.arange(m) + half) * n / m - half
    for i, place in enumerate(places):
        for j in range(int(floor(place)) - 1, int(floor(place)) + 3):
            weights[i, min(max(j, 0), n - 1)] += of(place - j)
    return weights


@mistake("interpolate_positions", says="The kernel has a = -1/2, as Pillow's; of position tables it is -3/4.")
def table_by_the_kernel_of_pillow(table, grid):
    return table_by(edges_repeated(side(table), grid), table)


@mistake("interpolate_positions",
         says="The weights are those of Pillow's resize: a = -1/2, wider where it shrinks, the edges left out. Here it "
              "is a = -3/4, never wider, and the edges are repeated.")
def table_as_a_picture(table, grid):
    return table_by(right("bicubic_weights", n=side(table), m=grid), table)


@mistake("interpolate_positions",
         says="What lies outside of the table is left out here; the edge is repeated instead: index 0 for all below it.")
def edges_left_out(table, grid):
    return table_by(divided(cubic(distances(side(table), grid), -0.75)), table)


@mistake("interpolate_positions", says="This interpolates between two neighbours in a line; the cubic uses four.")
def table_by_lines(table, grid):
    return table_by(edges_repeated(side(table), grid, lambda x: np.maximum(0, 1 - np.abs(x))), table)


@mistake("interpolate_positions", says="The nearest row is taken; the cubic mixes four by four.")
def nearest_row(table, grid):
    n = side(table)
    return table_by(np.eye(n)[((np.arange(grid) + 0.5) * n / grid).astype(int)], table)


@mistake("interpolate_positions",
         says="The half patches are missing: output i lies at (i + 1/2) n/grid - 1/2, so that both grids cover the same "
              "picture.")
def table_by_corners(table, grid):
    return table_by(edges_repeated(side(table), grid, lambda x: cubic(x, -0.75), half=0), table)


@mistake("interpolate_positions", says="int cuts towards 0: of -1/4 it makes 0, whose floor is -1. Take np.floor.")
def cut_instead_of_floor(table, grid):
    return table_by(edges_repeated(side(table), grid, lambda x: cubic(x, -0.75), floor=int), table)


@mistake("interpolate_positions", says="The row of CLS is missing: it comes first, unchanged.")
def row_of_cls_dropped(table, grid):
    return right("interpolate_positions", table=table, grid=grid)[1:]


@mistake("interpolate_positions", says="Rows and columns of the grid are exchanged.")
def grid_transposed(table, grid):
    y = right("interpolate_positions", table=table, grid=grid)
    return np.concatenate([y[:1], y[1:].reshape(grid, grid, -1).swapaxes(0, 1).reshape(grid * grid, -1)])
