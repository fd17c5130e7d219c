"""Ops that CogVLM's relatives need beside those of ops.py, convolution.py and activations.py."""
from .arrays import namespace, wide
from .swap import op


@op
def normalise(x):
    """y = x / |x|, of length 1                             x (..., D) -> (..., D)   The length in float32 at least."""
    xp, wide_x = namespace(x), wide(x)
    scale = 1 / xp.sqrt(xp.einsum("...d,...d->...", wide_x, wide_x))[..., None]
    unit = wide_x * scale

    def pull(dy):
        dx = wide(dy) - unit * xp.einsum("...d,...d->...", wide(dy), unit)[..., None]
        dx *= scale
        return dx.astype(x.dtype, copy=False)
    return unit.astype(x.dtype, copy=False), pull


@op
def rotary_pairs(x, cos, sin):
    """Turn each pair (x_2i, x_2i+1) by its position's angle           x (B, H, T, d), cos and sin (T, d/2)

    (x_2i, x_2i+1) -> (x_2i cos - x_2i+1 sin, x_2i+1 cos + x_2i sin): `rotary` with neighbours as pairs, the form of the
    paper and of EVA-02.
    """
    def turn(x, sin):
        y = namespace(x).empty(x.shape, x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        y[..., ::2] = first * cos - second * sin
        y[..., 1::2] = second * cos + first * sin
        return y
    return turn(x, sin), lambda dy: turn(dy, -sin)


@op
def bilinear(x, points):
    """Pictures between their pixels                        x (B, n, m, D), points (B, P, 2) -> (B, P, D)

    points are (across, down) as shares of the picture: (0, 0) and (1, 1) are its corners, and the centre of the first
    pixel is at (0.5 / m, 0.5 / n). Each gives the mean of the four pixels around it, the nearer the more; around the
    picture there are zeros. pull(dy) returns the gradients of both. As torch's grid_sample, align_corners=False.
    """
    xp, (B, n, m, _) = namespace(x), x.shape
    place = points * xp.asarray([m, n], points.dtype) - 0.5                         # in pixels
    first = xp.floor(place)
    share, first = place - first, first.astype(int)                                 # of the second pixel, (B, P, 2)
    corners = []                    # (index of the pixel, weight by row, by column, signs of their slopes, inside)
    for down in (0, 1):
        for across in (0, 1):
            column, row = first[..., 0] + across, first[..., 1] + down
            inside = ((column >= 0) & (column < m) & (row >= 0) & (row < n))[..., None]
            pixel = (xp.arange(B)[:, None], xp.clip(row, 0, n - 1), xp.clip(column, 0, m - 1))
            weights = [s if second else 1 - s for s, second in ((share[..., 1:], down), (share[..., :1], across))]
            corners.append((pixel, *(inside * weight for weight in weights), 2 * down - 1, 2 * across - 1, inside))
    y = sum(x[pixel] * (by_row * by_column) for pixel, by_row, by_column, *_ in corners)

    def pull(dy):
        dx, dplace = xp.zeros_like(x), xp.zeros_like(place)
        for pixel, by_row, by_column, sign_down, sign_across, inside in corners:
            xp.add.at(dx, pixel, dy * (by_row * by_column))
            along = (dy * x[pixel]).sum(-1, keepdims=True) * inside
            dplace[..., :1] += sign_across * along * by_row
            dplace[..., 1:] += sign_down * along * by_column
        return dx, dplace * xp.asarray([m, n], points.dtype)
    return y.astype(x.dtype, copy=False), pull


@op
def smooth_cross_entropy(logits, labels, smoothing):
    """loss = mean of logsumexp(z) - (1 - s) z[label] - s mean(z) over labels != -100       logits z (N, V), labels (N,)

    Label smoothing s (Szegedy et al. 2015, arXiv 1512.00567): the target is 1 - s for the label and s spread evenly
    over all V classes, the label among them. Computed in float32 at least.
    """
    xp = namespace(logits)
    rows = xp.nonzero(labels != -100)[0]
    z = wide(logits[rows])
    z = z - z.max(-1, keepdims=True)                        # (n, V)
    exponentials = xp.exp(z)
    target = xp.full(z.shape, smoothing / z.shape[1], z.dtype)
    target[xp.arange(len(rows)), labels[rows]] += 1 - smoothing
    total = exponentials.sum(-1, keepdims=True)
    loss = (xp.log(total)[:, 0] - (target * z).sum(-1)).mean()

    def pull(dloss):
        dlogits = xp.zeros(logits.shape, logits.dtype)
        dlogits[rows] = (exponentials / total - target) * (dloss / len(rows))
        return dlogits
    return loss, pull
