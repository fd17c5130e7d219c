"""Can a language model see without a vision tower? Patches go straight into it; the tower at most teaches.

    bare        a linear layer for each patch and a token after each row, cross-entropy alone (Fuyu)
    words       EVE's patch embedding layer, cross-entropy alone
    aligned     the same, and its patch aligning layer: hidden states shall point where the tower's features do (EVE)
    unprepared  the same without the first stage, in which the language model waits until patches mean something
    experts     EVE v2's embedding, and weights for the tokens of pictures in every block; the language model is frozen
    own-norms   the same, and norms for the tokens of pictures, too (EVE v2)
    tower       for comparison: a linear layer after the frozen tower, the model tuned (LLaVA-1.5)

A picture of any ratio becomes [CLS, row, SPLIT, row, SPLIT, ...], about as many tokens as a square one; each token has a
position of its own, as words have, so that SPLIT tells where a row ends.
"""
import math
from dataclasses import dataclass, replace

import numpy as np

from ...evaluate import asking
from ...evaluate.accuracy import Asked
from ...inputs import image, prompt
from ...inputs.examples import NOTHING
from ...model import decoder, expert
from ...model.cogvlm import CogVLM
from ...model.decoder import Rotary
from ...model.parts import ADAPTER, EXPERTS, INV_FREQ, LANGUAGE, TOWER
from ...model.route import Route, vision_expert_mask
from ...model.vit import vit
from ...nn import ops
from ...nn.swap import swapped
from ...nn.tree import Gradients, Params, below
from ...relatives import eve
from ...relatives.llava import Names
from ...relatives.transformer import at, with_joined
from ...world.scenes import scene
from ...world.wordings import listed, sentence, with_article
from ..recipe.initial import by_inputs, copies
from .bridges import Bridged, joined, without
from .comparison import Claim, Comparison
from .variants import FIRST_STAGE, Variant, loss_on_words

SEE, ALIGN = "model.vision.see", "model.vision.align"       # the embedding of patches; the aligning layer
NORMS = {"input_layernorm": "vision_norm1", "post_attention_layernorm": "vision_norm2"}


# ----------------------------------------------------------------------------------------------------------- pictures

def fitted(picture, vision):
    """A picture, not squeezed: the area of the model's square, both sides whole tokens             -> (3, N, M)"""
    picture = image.load(picture)
    scale = math.sqrt(picture.width * picture.height) / vision.image_size
    size = [max(1, math.ceil(side / scale / vision.patch_size)) * vision.patch_size for side in picture.size]
    return image.normalised(picture.resize(size))


def tokens_of(pixels, patch):
    """CLS, and h rows of w patches and SPLIT"""
    return 1 + pixels.shape[1] // patch * (pixels.shape[2] // patch + 1)


def build(config, tokenizer, text, images=()):
    """prompt.build with pictures of any ratio before the text; each of their tokens counts as a medium of its own

    So each has a position of its own, and by CogVLM's rule no token is a visual expert's: see EncoderFree.route.
    """
    ids, media = prompt.start(config, tokenizer), [("image", fitted(picture, config.vision)) for picture in images]
    places = sum(tokens_of(pixels, config.vision.patch_size) for _, pixels in media)
    words = tokenizer.encode(text)
    types = np.array([[0] * len(ids) + list(range(1, places + 1)) + [0] * len(words)])
    ids = np.array([[*ids, *[config.pad_token_id] * places, *words]], np.int64)
    return prompt.Inputs(ids, types, np.ones_like(ids), media)


# -------------------------------------------------------------------------------------------------------------- model

class EncoderFree(CogVLM):
    """A language model that reads patches: see(pixels (3, N, M), p) -> tokens (1 + h (w + 1), D), (h, w), pull(dy, g)

    own_norms: whether the tokens of pictures have norms of their own, as they have experts where the config says so.
    """

    def __init__(self, see, own_norms, *arguments, **named):
        super().__init__(*arguments, **named)
        self.see, self.block = see, block if own_norms else decoder.block

    def inputs(self, *arguments, **named):
        with swapped({prompt.build: build}):
            return super().inputs(*arguments, **named)

    def route(self, inputs, positions):
        with swapped({vision_expert_mask: lambda types: types > 0}):        # CLS and SPLIT, too
            return Route(inputs.types, inputs.mask, positions, self.xp, self.config.experts)

    def media_rows(self, media, places, keep="all", at_once=1):
        each = [self.see(self.activations(pixels), Params(self.leaves)) for _, pixels in media]
        stops = np.cumsum([len(y) for y, *_ in each])

        def pull(dx, g):
            for dy, (*_, pull_one) in zip(np.split(dx, stops[:-1]), each):
                pull_one(dy, g)
        return self.xp.concatenate([y for y, *_ in each]), pull

    def states(self, inputs, cache=None, positions=None, keep="all"):
        """The hidden states, normalised; [the embeddings, what block 1 returns, ...]; pull(dh, g, {i: dstate})"""
        p, config, xp = Params(self.leaves).model, self.config, self.xp
        route = self.route(inputs, positions)
        if cache is not None:
            cache.reserve(inputs.ids.shape[1], route.mask)
        rope = self.rotary(route.positions, np.result_type(self.dtype, np.float32))
        x, pull_embed = self.embed(inputs, route, keep)
        found, pulls = [x], []
        for i in range(config.num_hidden_layers):
            layer = None if cache is None else cache.layer(i)
            x, pull_block = ops.checkpointed(self.block, x, p.layers[i], route, rope, config, layer, keep=keep)
            found.append(x)
            pulls.append(pull_block)
        h, pull_norm = ops.rms_norm(x, p.norm.weight, config.rms_norm_eps)
        if cache is not None:
            cache.advance(inputs.ids.shape[1])

        def pull(dh, g, dstates=None):
            dstates, dx = dstates or {}, pull_norm(dh, g.model.norm)
            for i in reversed(range(len(pulls))):
                dx = pulls[i](dx + dstates.get(i + 1, xp.zeros_like(dx)), g.model.layers[i])
            pull_embed(dx + dstates.get(0, xp.zeros_like(dx)), g)
        return h, found, pull

    def hidden(self, inputs, cache=None, positions=None, keep="all"):
        h, _, pull = self.states(inputs, cache, positions, keep)
        return h, pull if keep else None


def block(x, p, route, rope, config, cache=None):
    """decoder.block with norms for each kind of token      (B, T, D) -> (B, T, D)"""
    def norm(rows, p):
        return ops.rms_norm(rows, p.weight, config.rms_norm_eps)

    def normed(x, name):
        own = {"language_norm.weight": (f"{name}.weight",), "vision_norm.weight": (f"{NORMS[name]}.weight",)}
        return with_joined(lambda x, p: expert.routed(norm, x, p, "norm", route), x, p, own)
    h, pull_norm1 = normed(x, "input_layernorm")
    a, pull_attention = expert.attention(h, p.self_attn, route, rope, config, cache)
    x1 = ops.residual(x, a)
    h, pull_norm2 = normed(x1, "post_attention_layernorm")
    m, pull_mlp = expert.routed(expert.mlp, h, p.mlp, "mlp", route)

    def pull(dx2, g):
        dx1 = dx2 + pull_norm2(pull_mlp(dx2, g.mlp), g)
        return dx1 + pull_norm1(pull_attention(dx1, g.self_attn), g)
    return ops.residual(x1, m), pull


# ------------------------------------------------------------------------------------ three ways to make tokens of patches

def embedding_of(config):
    """EVE's geometry: two patches a side become a token, which covers as much as one of the tower's patches."""
    vision, names = config.vision, Names(SEE, (f"{SEE}.fc1", f"{SEE}.fc2"), "")
    return eve.Embedding(vision.hidden_size, config.hidden_size, vision.patch_size // 2, names)


def bare_shapes(config):
    D, n = config.hidden_size, config.vision.patch_size
    return {"patch.weight": (D, 3 * n * n), "patch.bias": (D,), "class_embedding": (D,), "split_embedding": (D,)}


def bare(pixels, p, config):
    """Fuyu's: W patch + b, CLS first as in EVE             (3, N, M) -> (1 + h (w + 1), D), (h, w)"""
    n = config.vision.patch_size
    grid = pixels.shape[1] // n, pixels.shape[2] // n
    squares, _ = ops.patches(pixels[None], n)
    x, pull_linear = ops.linear(squares[0], p.patch.weight, p.patch.bias)
    y, pull_rows = eve.in_rows(x.reshape(*grid, -1), p.class_embedding, p)

    def pull(dy, g):
        dx, dcls = pull_rows(dy, g)
        g.add("class_embedding", lambda: dcls)
        pull_linear(dx.reshape(x.shape), g.patch)
    return y, grid, pull


def seeing(kind, config):
    """{name: shape}, and see(pixels, p) -> tokens, grid, pull(dy, g), for "bare", "eve" or "eve v2" """
    geometry = embedding_of(config)
    if kind == "eve":
        return eve.embedding_shapes(geometry), lambda pixels, p: eve.embed_patches(pixels, p, geometry)
    v2 = kind == "eve v2"
    shapes = eve.embedding_shapes_v2(geometry) if v2 else bare_shapes(config)

    def see(pixels, p):
        y, grid, pull = eve.embed_patches_v2(pixels, at(p, SEE), geometry) if v2 else bare(pixels, at(p, SEE), config)
        return y, grid, lambda dy, g: pull(dy, g[SEE])
    return below(SEE, shapes), see


# ------------------------------------------------------------------------------------------------------- the variants

@dataclass(frozen=True)
class Patches(Variant):
    """Patches straight into the language model, which waits in a first stage until they mean something"""
    frozen: tuple = TOWER
    kind: str = "eve"
    aligned: float = 0.0                                    # weight of the aligning loss
    alone: float = FIRST_STAGE
    experts: bool = False
    own_norms: bool = False

    thrown_away = (f"{ALIGN}.*",)

    def config(self, config):
        """A square picture has CLS and SPLITs besides its patches, and neither boi nor eoi."""
        n = config.vision.grid
        return joined(config, 1 + n * (n + 1) - 2, self.experts)

    def begin(self, config, leaves, seed):
        leaves = without(leaves, ADAPTER + EXPERTS * (not self.experts) + TOWER * (not self.aligned))
        leaves |= copies(leaves) if self.experts else {}
        if self.own_norms:
            leaves |= {name.replace(norm, own): array for name, array in leaves.items() for norm, own in NORMS.items()
                       if norm in name}
        shapes = seeing(self.kind, config)[0]
        if self.aligned:
            shapes = shapes | below(ALIGN, eve.aligning_shapes(aligning_of(config)))
        return leaves | by_inputs(shapes, np.random.default_rng(seed))

    def model(self, config, leaves, tokenizer=None):
        _, see = seeing(self.kind, config)
        return EncoderFree(see, self.own_norms, config, leaves, tokenizer, Rotary(leaves[INV_FREQ]))

    def loss(self, config, leaves, part):
        """Cross-entropy of the answers + `aligned` times what the patches' states lack of the tower's features"""
        (inputs, labels, frozen), model = self.staged(part), self.model(config, leaves)
        h, states, pull_states = model.states(inputs)
        words, pull_words = loss_on_words(h, leaves, labels)
        value, extras, geometry = words, {}, aligning_of(config)
        if self.aligned:
            hidden = [h if i == config.num_hidden_layers else states[i] for i in geometry.layers]
            missing, pull_missing = eve.aligning_loss(hidden, *taught(model, inputs), at(Params(leaves), ALIGN))
            value, extras = words + self.aligned * missing, {"aligning": missing}

        def pull():
            g = Gradients(model.parameters, frozen)
            dh, dstates = pull_words(g), {}
            if self.aligned:
                dstates = dict(zip(geometry.layers, pull_missing(self.aligned, g[ALIGN])))
                dh += dstates.pop(config.num_hidden_layers)
            pull_states(dh, g, dstates)
            return g.leaves
        return value, int((labels != NOTHING).sum()), pull, extras

    def example(self, config, tokenizer, picture, turns):
        with swapped({prompt.build: build}):
            return super().example(config, tokenizer, picture, turns)

    def answers(self, model, asked):
        with swapped({prompt.build: build}):
            return asking.ask(model, asked)

    def read(self, *arguments, **named):
        with swapped({prompt.build: build}):
            return super().read(*arguments, **named)


def aligning_of(config):
    """Hidden states of the last block, of every other one before it and of the embeddings are compared."""
    layers = tuple(range(config.num_hidden_layers, -1, -2 if config.num_hidden_layers > 2 else -1))
    return eve.Aligning(config.hidden_size, config.vision.hidden_size, layers)


def taught(model, inputs):
    """Where each row's picture starts, its grid, and the tower's features of it: all pictures are squares here."""
    pixels = model.activations(inputs.pixels)
    features, _ = vit(pixels, Params(model.leaves).model.vision, model.config.vision, keep=None)
    n, starts = model.config.vision.grid, []
    for row in inputs.types:
        starts.append(int(row.argmax() - row.max() + 1) if row.any() else None)
    shown, pictures = iter(features.reshape(len(features), n, n, -1)), [start is not None for start in starts]
    return starts, [(n, n)] * len(starts), [next(shown) if there else None for there in pictures]


# ----------------------------------------------------------------------------------------------------- pictures of 1:3

@dataclass(frozen=True)
class Wide:
    """Three scenes beside each other, as a Scene is asked about; the middle one shows nothing."""
    parts: tuple

    @property
    def things(self):
        return self.parts[0].things + self.parts[2].things

    @property
    def picture(self):
        return np.concatenate([part.picture for part in self.parts], 1)


def wide(split, number):
    first, middle, last = (scene(split, 3 * number + i, (1, 1)) for i in range(3))
    return Wide((first, replace(middle, things=()), last))


def captions_of_wide(variant, model, count=200):
    """The share of pictures three times as wide as high, as no training shows them, whose caption is right"""
    asked = []
    for number in range(count):
        shown = wide("check", number)
        truth = sentence(listed([with_article(thing.name) for thing in shown.things]))
        asked.append(Asked("caption", (("Describe the image.", truth),), shown))
    said = variant.answers(model, asked)
    return {"caption of 1:3": sum(one.right(answer) for one, answer in zip(asked, said)) / count}


def first_stage_only(variant):
    """A variant whose language model never learns, so that texts stay what they were"""
    return replace(variant, frozen=variant.frozen + LANGUAGE, alone=0)


ALIGNED = Patches("aligned", "with the tower as teacher (EVE)", aligned=1.0)
DIVIDED = first_stage_only(Patches("own-norms", "experts with norms of their own (EVE v2)", kind="eve v2", experts=True,
                                   own_norms=True))
VARIANTS = (
    Bridged("tower", "a linear layer after the frozen tower, then the model tuned", TOWER, bridge="linear",
            alone=FIRST_STAGE),
    Patches("bare", "bare patches (Fuyu)", kind="bare"),
    Patches("words", "EVE's patch embedding, cross-entropy alone"),
    ALIGNED,
    replace(ALIGNED, name="unprepared", says="with the teacher, without the first stage", alone=0),
    replace(DIVIDED, name="experts", says="experts, norms shared", own_norms=False),
    DIVIDED,
)
CLAIMS = (
    Claim("aligned", "words", says="a teacher helps patches to be seen sooner (EVE)"),
    Claim("aligned", "unprepared", says="without a first stage training collapses (EVE)"),
    Claim("words", "bare", says="a patch embedding layer is better than a linear one (EVE)"),
    Claim("own-norms", "experts", says="norms, too, have to be divided (EVE v2)"),
    Claim("tower", "aligned", says="an encoder is still ahead at equal data (EVE)"),
)
COMPARISON = Comparison("Can a language model see without a vision tower?", VARIANTS, "tower", CLAIMS, samples=6000,
                        curve=True, also=captions_of_wide,
                        panels=(("loss", "samples"), ("loss", "minutes"), ("at box", "minutes")))
