"""Which expert computes a token, which position it has and what it may see: the ONLY owner of the boi/eoi rules.

A row of `types` says what each token is: 0 text, k > 0 the k-th medium of the row (an image's boi, patches and eoi).

            bos  boi  p  p  p  eoi  t  t
    types    0    1   1  1  1   1   0  0
    expert   L    V   V  V  V   L   L  L        vision iff the NEXT token belongs to the same image
    position 0    1   2  2  2   3   4  5        all patches of an image share one position

The original knows one image (types 0 and 1) and asks whether a token and the next are both vision; numbering the media
applies the same rule to each of several, adjacent ones included.
"""
from copy import copy

import numpy as np

from ..nn.swap import op


class Route:
    """What every layer of one forward pass needs to know about its tokens.

    types (B, T): as above. mask (B, T): 0 marks padding. positions (B, T): by default position_ids; given where a cache
    holds earlier tokens, from whose last position they go on. has: the experts of a block; without a vision expert the
    language expert computes every token. first: how many tokens stand before these, in a cache. heard (B, T) bool:
    which tokens are of sounds, for a model that hears; without a sound expert the language expert computes them.

    experts: [("language", "vision" or "sound", indices of its tokens in (B T))], without an expert that has none.
    media_tokens, text_tokens: indices of the tokens whose vectors come from media (None without any), from the table.
    """

    def __init__(self, types, mask=None, positions=None, xp=np, has=("vision", "language"), first=0, heard=None):
        self.types, self.xp, self.first = np.asarray(types), xp, first
        self.positions = xp.asarray(position_ids(self.types, mask) if positions is None else positions)
        self.mask = None if mask is None or np.all(mask) else xp.asarray(np.asarray(mask) != 0)
        within, none = vision_expert_mask(self.types), np.zeros(self.types.shape, bool)
        heard = none if heard is None else heard
        self.vision_mask = within & ~heard if "vision" in has else none
        self.sound_mask = within & heard if "sound" in has else none
        self._find()

    def part(self, columns):
        """The Route of some neighbouring tokens, a slice. That the next token is not among them changes no expert."""
        part = copy(self)
        part.first = self.first + columns.start
        part.types, part.positions, part.vision_mask, part.sound_mask = (
            array[:, columns] for array in (self.types, self.positions, self.vision_mask, self.sound_mask))
        part.mask = None if self.mask is None else self.mask[:, columns]
        part._find()
        return part

    def _find(self):
        xp = self.xp
        tokens = {"language": ~(self.vision_mask | self.sound_mask), "vision": self.vision_mask,
                  "sound": self.sound_mask}
        self.experts = [(expert, _index(mine.reshape(-1), xp)) for expert, mine in tokens.items() if mine.any()]
        self.media_tokens = _index(self.types.reshape(-1) > 0, xp) if self.types.any() else None
        self.text_tokens = _index(self.types.reshape(-1) == 0, xp)
        self.expert_rows = None                             # kernels/ops.py keeps here what it makes of `vision_mask`


@op
def vision_expert_mask(types):
    """Which tokens the vision expert computes              types (B, T) -> (B, T) bool

    Those whose next token belongs to the same image: boi and the patches, but not eoi.
    """
    mask = np.zeros(types.shape, bool)
    mask[:, :-1] = (types[:, :-1] > 0) & (types[:, :-1] == types[:, 1:])
    return mask


@op
def position_ids(types, mask=None):
    """Positions of the rotary embedding                    types (B, T), mask (B, T) -> (B, T)

    The position rises by one at every token but the second and later patches of an image. Padding on the left stays at
    0, so the first real token after it has 1; padding on the right keeps the last position.
    """
    types = np.asarray(types)
    boundary = np.zeros(types.shape, bool)                          # boi and eoi count as text does
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
    """Indices of the true entries: a slice if they are neighbours (which spares a copy), else an array."""
    indices = np.flatnonzero(mine)
    if len(indices) and indices[-1] - indices[0] + 1 == len(indices):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return xp.asarray(indices)
