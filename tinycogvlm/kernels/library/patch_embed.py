"""vit.patch_embedding by patch_embed.cu."""
import numpy as np

from ...errors import UserError
from ...nn.arrays import namespace
from ..runner.loader import load_ours
from .launch import C_TYPES, contiguous


def patch_embed(pixels, weight, bias, cls, positions, version=3, **options):
    """[CLS; W patch + b] + position                        pixels (B, C, N, N), weight (O, C, n, n) -> (B, 1 + P, O)

    bias (O,), cls (1, O), positions (1 + P, O) with P = (N // n)^2, to which ops.interpolate_positions brings a table
    of another size.
    """
    (B, C, N, M), (O, _, n, _) = pixels.shape, weight.shape
    tokens = 1 + (N // n) ** 2
    if N != M or weight.shape != (O, C, n, n) or positions.shape != (tokens, O) or bias.size != O or cls.size != O:
        raise UserError(f"pixels {pixels.shape}, weight {weight.shape}, bias {bias.shape}, cls {cls.shape} and "
                        f"positions {positions.shape} do not fit: (B, C, N, N), (O, C, n, n), (O,), (1, O), "
                        "(1 + (N // n)^2, O)")
    arrays = contiguous(pixels, weight, bias, cls, positions)
    y, rows, tile = namespace(pixels).empty((B, tokens, O), pixels.dtype), B * tokens, 64 if version == 3 else 16
    load_ours("patch_embed.cu", f"patch_embed_v{version}<{C_TYPES[y.dtype]}>", **options)(
        (-(-O // tile), -(-rows // tile)), (16, 16), (*arrays, y, *map(np.int32, (rows, C, N, n, O))))
    return y
