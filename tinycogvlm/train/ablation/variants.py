"""What is each part of the visual expert worth? The paper's ablation, the full model and variants of it, in miniature.

Variant is also what the other comparisons (bridges.py, ways.py) derive theirs from.
"""
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...evaluate import asking
from ...inputs import examples, prompt
from ...inputs.examples import NOTHING
from ...model import generate
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
from ..recipe.stages import LONGEST
from .comparison import Claim, Comparison


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


def answers_one_by_one(model, asked, together=32):
    """asking.ask for a model that cannot read a picture before the question: every prompt is read as a whole."""
    order = sorted(range(len(asked)), key=lambda i: len(asked[i].truth))
    said = {}
    for start in range(0, len(order), together):
        some = [asked[i] for i in order[start:start + together]]
        rows = [model.inputs(one.question, one.scene.picture, list(one.turns[:-1])) for one in some]
        limit = max(len(model.tokenizer.encode(one.truth)) for one in some) + asking.SPARE
        answers = generate.answers(model, rows, limit)
        said |= {i: answer.text for i, answer in zip(order[start:start + together], answers)}
    return [said[i] for i in range(len(asked))]


HEAD = "next_patch.weight"                                  # learned by `next_patch` and thrown away
FIRST_STAGE = 1 / 3                                         # of a run, where a paper trains what is new alone at first


@dataclass(frozen=True)
class Variant:
    """What is different. The tower is never trained; the language model only where `frozen` says so.

    Each comparison derives its own variants, with methods of these names.
    """
    name: str
    says: str
    frozen: tuple = TOWER + LANGUAGE
    copied: bool = True                                     # the experts start as copies of the language model
    shared: bool = False                                    # image and text tokens share one set of weights
    whole_images: bool = False                              # an image's tokens see each other, see WholeImages
    next_patch: float = 0.0                                 # weight of the loss on images, see with_next_patch
    alone: float = 0.0                                      # share of a run in which the language model still waits

    writes = True                                           # answers word by word; if not, it has no loss on words
    thrown_away = (HEAD,)                                   # patterns of what learns but belongs to no model

    @property
    def tunes(self):
        """Whether the language model is trained, so that it may forget"""
        return self.writes and not set(LANGUAGE) <= set(self.frozen)

    def config(self, config):
        """The Config of this variant, given that of the model whose tower and language model it starts from"""
        return config

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
        (inputs, labels, frozen), model = self.staged(part), self.model(config, leaves)
        if self.next_patch:
            value, pull, extras = with_next_patch(model, inputs, labels, frozen, self.next_patch)
        else:
            (value, pull), extras = model.loss(inputs, labels, frozen), {}

        def pull_shared():
            gradients = pull()
            for vision, language in twins(gradients).items():
                gradients[language] = gradients[language] + gradients.pop(vision)
            return gradients
        return value, int((labels != NOTHING).sum()), pull_shared if self.shared else pull, extras

    def example(self, config, tokenizer, picture, turns):
        """A conversation about a picture as one row; it is as long whatever the picture takes."""
        return examples.example(config, tokenizer, picture, turns, longest=LONGEST + config.num_image_tokens)

    def batch(self, config, rows):
        """What `loss` takes as a part"""
        return examples.batch(rows, config.pad_token_id)

    def at(self, part, done):
        """The part as it is learned when this share of the run is done: in the first stage the language model is frozen."""
        return (*part, self.frozen + LANGUAGE) if done < self.alone else part

    def staged(self, part):
        """Inputs, labels, and what is frozen when they are learned"""
        inputs, labels, *frozen = part
        return inputs, labels, frozen[0] if frozen else self.frozen

    def judged(self, kinds):
        """Those of these kinds of questions that it can answer at all"""
        return kinds

    def answers(self, model, asked):
        """What the model answers to each of accuracy.Asked -> [str]"""
        return asking.ask(model, asked)

    def read(self, model, picture, words, last=False):
        """A forward pass over a picture and words, whose work is counted; last: to the logits of the last token alone"""
        return model.logits(prompt.build(model.config, model.tokenizer, words, [picture]), last=last)


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
# By the mean of the paper's five data sets, whose differences of half a point and less are not claimed
CLAIMS = (*(Claim("full", variant.name) for variant in VARIANTS[1:] if not variant.next_patch),
          Claim("ffn", "every4th"), Claim("every4th", "adapter"))
COMPARISON = Comparison("What is each part of the visual expert worth?", VARIANTS, "full", CLAIMS, samples=6000)


def loss_on_words(h, leaves, labels):
    """Cross-entropy of the labels (B, T), each predicted a token before, and pull(g) -> dh (B, T, D)"""
    row, column = np.argwhere(labels[:, 1:] != NOTHING).T
    logits, pull_head = ops.linear(h[row, column], leaves["lm_head.weight"])
    value, pull_value = ops.cross_entropy(logits, labels[row, column + 1])

    def pull(g):
        dh = np.zeros_like(h)
        dh[row, column] = pull_head(pull_value(), g.lm_head)
        return dh
    return value, pull


def with_next_patch(model, inputs, labels, frozen, weight):
    """Cross-entropy of the answers + weight * mean of (W h_i - f_(i+1))^2 over all patches i of a picture but the last

    h: the language model's last hidden states of the patches; f: the tower's features, each divided by its root mean
    square; W: a head that is thrown away. -> loss, pull, {"patches": that mean}
    """
    leaves = model.leaves
    h, pull_hidden = model.hidden(inputs)                                               # (B, T, D)
    words, pull_words = loss_on_words(h, leaves, labels)
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
        dh = pull_words(g)
        dpatches = pull_guesses(2 * weight / error.size * error, g.next_patch)
        dh[image] += np.pad(dpatches, ((0, 0), (1, 2), (0, 0))).reshape(-1, h.shape[-1])
        pull_hidden(dh, g)
        return g.leaves
    return words + weight * patches_loss, pull, {"patches": patches_loss}
