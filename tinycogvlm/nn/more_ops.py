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
