"""Which expert computes a token, which position it has, what it may see: the ONLY owner of the boi/eoi rules.

A row of `types` says of every token: 0 text, k > 0 the k-th medium of the row (of an image boi, patches, eoi alike).

            bos  boi  p  p  p  eoi  t  t
    types    0    1   1  1  1   1   0  0
    expert   L    V   V  V  V   L   L  L        vision iff the NEXT token belongs to the same image
    position 0    1   2  2  2   3   4  5        all patches of an image share one position

The original knows one image (types 0 and 1) and asks whether a token and the next are both vision; numbering the images
applies the same rule to each of several, adjacent ones included.
"""
import numpy as np

from ..nn.swap import op


class Route:
    """The route of one forward pass, computed once and used by every layer.

    types (B, T) as above; mask (B, T): 0 marks padding. positions (B, T) are given only where a cache holds the tokens
    before: they go on from its last one.
    """

    def __init__(self, types, mask=None, positions=None, xp=np):
        self.types = np.asarray(types)
        self.positions = xp.asarray(position_ids(self.types, mask) if positions is None else positions)
        self.mask = None if mask is None or np.all(mask) else xp.asarray(np.asarray(mask) != 0)
        self.vision_mask = vision_expert_mask(self.types)
        tokens = {"language": ~self.vision_mask.reshape(-1), "vision": self.vision_mask.reshape(-1)}
        self.experts = [(expert, _index(mine, xp)) for expert, mine in tokens.items() if mine.any()]
        self.media_tokens = _index(self.types.reshape(-1) > 0, xp) if self.types.any() else None
        self.text_tokens = _index(self.types.reshape(-1) == 0, xp)


@op
def vision_expert_mask(types):
    """(B, T) bool: a token is the vision expert's iff it and the next one belong to the same image."""
    mask = np.zeros(types.shape, bool)
    mask[:, :-1] = (types[:, :-1] > 0) & (types[:, :-1] == types[:, 1:])
    return mask


@op
def position_ids(types, mask=None):
    """(B, T) positions: one step at every token but the second and later patches of an image.

    Padding on the left stays at 0, so that the first real token is 1; padding on the right keeps the last position.
    """
    types = np.asarray(types)
    boundary = np.zeros(types.shape, bool)                          # boi and eoi, which count like text
    boundary[:, 0] = boundary[:, -1] = True
    boundary[:, 1:] |= types[:, 1:] != types[:, :-1]
    boundary[:, :-1] |= types[:, :-1] != types[:, 1:]
    patch = (types > 0) & ~boundary
    step = np.ones(types.shape, int)
    step[:, 0] = 0
    step[:, 1:] -= patch[:, 1:] & patch[:, :-1]
    if mask is not None:
        step[np.asarray(mask) == 0] = 0
    return step.cumsum(1)


def _index(mine, xp):
    """Indices of the true entries: a slice where they are neighbours (no copy), else an array."""
    indices = np.flatnonzero(mine)
    if len(indices) and indices[-1] - indices[0] + 1 == len(indices):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return xp.asarray(indices)
