"""What `load` makes of a relative's folder; of a CLIP's or a SigLIP's two towers, ready to compare pictures and texts.

None of the real checkpoints has been loaded here: none was at hand. What stands in for them are the golden cases of the
original code and the names and shapes of every real tensor, which tests compare.
"""
import os
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..inputs import image
from ..nn import more_ops
from ..nn.arrays import namespace, to_numpy
from ..nn.tree import Gradients, Params


class Relative:
    """A model, or the part of one that is known here, with its weights. A subclass says its kind and what it does."""
    kind = "a relative of CogVLM"
    frozen = ()                                             # patterns of tensors that are not learned

    def __init__(self, config, leaves, folder=None, convert=lambda array: array):
        self.config, self.leaves, self.folder, self.convert = config, leaves, folder, convert
        self.p = Params(leaves)

    @cached_property
    def tokenizer(self):
        """An inputs.texts.Texts, of those that read texts; of a LLaVA an inputs.tokenizer.Tokenizer"""
        if self.folder is None:
            raise UserError("this model was made without a folder, so it has no tokenizer; pass ids instead of texts")
        return self.texts(Path(self.folder))

    def texts(self, folder):
        """The tokenizer of a folder; a subclass that reads texts says which"""
        raise UserError(f"{self.kind} has no tokenizer here; its methods take ids")

    @property
    def parameters(self):
        """The names of all tensors that can be trained."""
        return list(Gradients(self.leaves, self.frozen).trained)


class Eye(Relative):
    """A tower for pictures. A subclass says how: kind, picture(picture), image_tower(pixels)."""
    kind = "a vision tower"

    def pixels(self, pictures):
        """Pictures (paths, open files, Pillow images or arrays) as the tower reads them     -> (B, 3, N, N)"""
        found = [self.picture(image.load(picture)) for picture in several(pictures)]
        return self.convert(np.stack(some(found, "pictures")))

    def image_features(self, pictures):
        """A vector of length 1 for each picture, whose products are cosines                 -> (B, E)"""
        return more_ops.normalise(self.image_tower(self.pixels(pictures)))[0]


def several(pictures):
    """Pictures as they are; UserError for a single path, whose letters are no pictures"""
    if isinstance(pictures, (str, os.PathLike)):
        raise UserError("pictures is one path; pass a list of pictures")
    return pictures


def some(found, what):
    """What was found; UserError if that is nothing"""
    if not len(found):
        raise UserError(f"there are no {what}; pass at least one")
    return found


class Pair(Eye):
    """Both towers. A subclass also says texts(folder), text_tower(ids), probability(cosines), batch_loss(pixels, ids)
    """
    meaning = ""                                            # of a row of probabilities, in a sentence

    def ids(self, texts):
        """Texts as the tower reads them                    -> (B, T)"""
        ids = some(self.tokenizer.batch(texts), "texts")
        return namespace(self.p.logit_scale).asarray(ids)

    def text_features(self, texts):
        """A vector of length 1 for each text               -> (B, E)"""
        return more_ops.normalise(self.text_tower(self.ids(texts)))[0]

    def match(self, pictures, texts):
        """How probable each text is for each picture       -> NumPy array (pictures, texts)

        CLIP: of these texts one is right, so that a row's sum is 1. SigLIP: each text is right or not by itself.
        pictures: looked at one after the other, so that a generator of any length will do.
        """
        texts = self.text_features(texts)
        rows = [self.image_features([picture]) for picture in several(pictures)]
        images = namespace(texts).concatenate(some(rows, "pictures"))
        return to_numpy(self.probability(images @ texts.T))

    def loss(self, pixels, ids, frozen=()):
        """The loss of a batch of pictures and their texts, and pull() -> {tensor name: gradient}"""
        loss, pull_loss = self.batch_loss(pixels, ids)

        def pull(dloss=1.0):
            g = Gradients(self.leaves, (*self.frozen, *frozen))
            pull_loss(dloss, g)
            return g.leaves
        return loss, pull
