"""The models that the ablation compares: the full model, and variants that lack a part of it or have another one."""
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...inputs.examples import NOTHING
from ...model.cogvlm import CogVLM
from ...model.decoder import Rotary
from ...model.parts import EXPERTS, INV_FREQ, LANGUAGE, TOWER
from ...model.vit import vit
from ...nn import ops
from ...nn.arrays import namespace
from ...nn.attention import attend
from ...nn.swap import swapped
from ...nn.tree import Gradients, Params
from ..recipe.initial import CONFIG, copies, twins


class WholeImages(CogVLM):
    """A CogVLM whose image tokens see all tokens of their image, later ones too; no checkpoint was trained so."""

    def hidden(self, inputs, *arguments, **named):
        own = {ops.attention: partial(image_attention, images=self.xp.asarray(inputs.types))}
        with swapped(own):
            h, pull_hidden = super().hidden(inputs, *arguments, **named)

        def pull(dh, g):
            with swapped(own):                              # checkpointing runs the layers once more
                pull_hidden(dh, g)
        return h, pull if pull_hidden else None


def image_attention(q, k, v, mask=None, causal=True, images=None):
    """ops.attention, but a causal query also sees the later keys of its own image.

    images (B, T): the number of the image that a query belongs to, 0 for none; the last T keys are the queries' own.
    """
    if not causal or not images.any():                      # the vision tower's; of texts
        return ops.attention.own(q, k, v, mask, causal)
    xp, T, S = namespace(q), q.shape[2], k.shape[2]
    same = (images[:, :, None] == images[:, None]) & (images[:, :, None] > 0)                       # (B, T, T)
    visible = xp.tri(T, S, S - T, dtype=bool) | xp.pad(same, ((0, 0), (0, 0), (S - T, 0)))          # (B, T, S)
    if mask is not None:
        visible &= mask[:, None]
    return attend(q, k, v, visible[:, None])


HEAD = "next_patch.weight"                                  # learned by `next_patch` and thrown away


@dataclass(frozen=True)
class Variant:
    """What is different. The tower is never trained; the language model only where `frozen` says so."""
    name: str
    says: str
    frozen: tuple = TOWER + LANGUAGE
    copied: bool = True                                     # the experts start as copies of the language model
    shared: bool = False                                    # image and text tokens share one set of weights
    whole_images: bool = False                              # an image's tokens see each other, see WholeImages
    next_patch: float = 0.0                                 # weight of the loss on images, see with_next_patch

    def begin(self, config, leaves, seed):
        """The parameters that a run starts from, given a tower and a language model; the rest is random."""
        if self.copied:
            leaves = leaves | copies(leaves)
        if self.next_patch:
            head = np.random.default_rng(seed).standard_normal((config.vision.hidden_size, config.hidden_size))
            leaves = leaves | {HEAD: (0.05 * head).astype(np.float32)}
        return leaves

    def model(self, config, leaves, tokenizer=None):
        """The CogVLM of this variant with these parameters"""
        leaves = leaves | copies(leaves) if self.shared else leaves
        rotary = Rotary(leaves[INV_FREQ])
        return (WholeImages if self.whole_images else CogVLM)(config, leaves, tokenizer, rotary)

    def loss(self, config, leaves, part):
        """For loop.fit. Shared weights have the language model's names, and the sum of both gradients."""
        (inputs, labels), model = part, self.model(config, leaves)
        if self.next_patch:
            value, pull, extras = with_next_patch(model, inputs, labels, self.frozen, self.next_patch)
        else:
            (value, pull), extras = model.loss(inputs, labels, self.frozen), {}

        def pull_shared():
            gradients = pull()
            for vision, language in twins(gradients).items():
                gradients[language] = gradients[language] + gradients.pop(vision)
            return gradients
        return value, int((labels != NOTHING).sum()), pull_shared if self.shared else pull, extras


NOT_EVERY_4TH = tuple(f"*.layers.{i}.*vision_*" for i in range(CONFIG.num_hidden_layers) if i % 4)
VARIANTS = (
    Variant("full", "full model"),
    Variant("adapter", "adapter only, the experts stay copies", TOWER + LANGUAGE + EXPERTS),
    Variant("language", "language model and adapter, no expert", TOWER, shared=True),
    Variant("every4th", "expert in every 4th layer only, from the first", TOWER + LANGUAGE + NOT_EVERY_4TH),
    Variant("ffn", "expert in the FFN only", TOWER + LANGUAGE + EXPERTS[:1]),
    Variant("random", "experts begin at random", copied=False),
    Variant("attention", "full attention among image tokens", whole_images=True),
    Variant("next-patch", "loss on the next patch's feature as well", next_patch=0.2),
)


def with_next_patch(model, inputs, labels, frozen, weight):
    """Cross-entropy of the answers + weight * mean of (W h_i - f_(i+1))^2 over all patches i of a picture but the last

    h: the language model's last hidden states of the patches; f: the tower's features, each divided by its root mean
    square; W: a head that is thrown away. -> loss, pull, {"patches": that mean}
    """
    leaves = model.leaves
    h, pull_hidden = model.hidden(inputs)                                               # (B, T, D)
    row, column = np.argwhere(labels[:, 1:] != NOTHING).T
    logits, pull_logits = ops.linear(h[row, column], leaves["lm_head.weight"])
    words, pull_words = ops.cross_entropy(logits, labels[row, column + 1])
    pixels = inputs.pixels.astype(h.dtype, copy=False)
    features, _ = vit(pixels, Params(leaves).model.vision, model.config.vision, keep=None)      # (N, P, W)
    features = features / np.sqrt((features * features).mean(-1, keepdims=True))
    image = inputs.types > 0
    patches = h[image].reshape(len(features), -1, h.shape[-1])[:, 1:-2]     # without boi, the last patch and eoi
    guesses, pull_guesses = ops.linear(patches, leaves[HEAD])
    error = guesses - features[:, 1:]
    patches_loss = (error * error).mean()

    def pull():
        g = Gradients(model.parameters, frozen)
        dh = np.zeros_like(h)
        dh[row, column] = pull_logits(pull_words(), g.lm_head)
        dpatches = pull_guesses(2 * weight / error.size * error, g.next_patch)
        dh[image] += np.pad(dpatches, ((0, 0), (1, 2), (0, 0))).reshape(-1, h.shape[-1])
        pull_hidden(dh, g)
        return g.leaves
    return words + weight * patches_loss, pull, {"patches": patches_loss}
