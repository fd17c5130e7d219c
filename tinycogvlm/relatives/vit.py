"""The vision transformer as timm has it, which ALBEF and BLIP read pictures with (Dosovitskiy et al. 2020, 2010.11929).

Unlike CLIP's: patches have a bias, no norm stands before the first block, and one after the last normalises all tokens.
"""
from dataclasses import dataclass

from ..nn import ops
from ..nn.arrays import namespace
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import below
from . import positions, transformer
from .transformer import Transformer, at, dense, dense_shapes, layer_norm, norm_shapes


@dataclass(frozen=True)
class Names:
    """What a checkpoint calls the tensors outside of the blocks"""
    patches: str                        # a group, as all that are not said to be tensors
    cls: str                            # a tensor
    positions: str                      # a tensor
    layers: str
    norm: str


HUGGING_FACE = Names("embeddings.patch_embedding", "embeddings.class_embedding", "embeddings.position_embedding",
                     "encoder.layers", "post_layernorm")
TIMM = Names("patch_embed.proj", "cls_token", "pos_embed", "blocks", "norm")
TIMM_BLOCK = transformer.Names("norm1", ("attn.qkv.",), "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class ViT:
    """The geometry of the tower."""
    transformer: Transformer
    patch: int                          # pixels a side
    image: int                          # pixels a side, for which there are positions
    names: Names

    @property
    def grid(self):
        """Patches a side that there are positions for"""
        return self.image // self.patch


def shapes(config):
    """{name: shape} of every tensor"""
    names, W = config.names, config.transformer.width
    return {**dense_shapes(names.patches, W, 3) | {f"{names.patches}.weight": (W, 3, config.patch, config.patch)},
            names.cls: (1, 1, W), names.positions: (1, 1 + config.grid ** 2, W), **norm_shapes(names.norm, W),
            **below(names.layers, transformer.shapes(config.transformer))}


@op
def vit(pixels, p, config, keep="all"):
    """CLS and the patches after the last block and its norm            (B, 3, N, M) -> (B, 1 + P, W)

    For a picture of another size than config.image the positions are resampled bicubically; that of CLS stays.
    """
    names, xp, (B, _, N, M) = config.names, namespace(pixels), pixels.shape
    squares, pull_squares = ops.patches(pixels, config.patch)
    x, pull_patches = dense(squares, p, f"{names.patches}.")                        # (B, P, W)
    table, n, grid = at(p, names.positions)[0], config.grid, (N // config.patch, M // config.patch)
    places, pull_places = table[1:], lambda dy: dy
    if grid != (n, n):
        places, pull_places = positions.resampled(table[1:], *positions.bicubic(n, grid))
    cls = xp.broadcast_to(at(p, names.cls)[0] + table[:1], (B, 1, x.shape[-1]))
    x = xp.concatenate([cls, x + places], 1)
    record("hidden0", x)
    x, pull_blocks = transformer.transformer(x, at(p, names.layers), config.transformer, keep)
    x, pull_norm = layer_norm(x, p, names.norm, config.transformer.eps)
    record("embeds", x)

    def pull(dy, g):
        dx = pull_blocks(pull_norm(dy, g), g[names.layers])
        dcls = dx[:, :1].sum(0)
        g.add(names.cls, lambda: dcls[None])
        g.add(names.positions, lambda: xp.concatenate([dcls, pull_places(dx[:, 1:].sum(0))])[None])
        return pull_squares(pull_patches(dx[:, 1:], g))
    return x, pull
