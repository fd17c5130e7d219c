"""How to join a picture and a language model? The ways of eleven papers, in one world and with one language model.

    a prefix           adapter alone, model tuned (LLaVA, 1 and 1.5), Q-Former (BLIP-2)
    inside the blocks  gated cross-attention (Flamingo), visual expert and its FFN half (CogVLM)
    without a tower    with alignment, with experts (EVE, EVE v2: encoder_free.py)
    before them        one transformer from the start (ViLT), prefix language model (SimVLM), captioner with contrast
                       (CoCa)

All but ViLT, which has none, start from the same language model; all that have a tower share it, frozen. ViLT cannot
write: it chooses among the answers of one word or name, and is judged by the questions that these answer.
"""
from dataclasses import dataclass, replace

import numpy as np

from ...errors import UserError
from ...inputs import image, prompt
from ...inputs.examples import NOTHING, encode
from ...model import decoder
from ...model.decoder import KVCache, Rotary
from ...model.parts import ADAPTER, EXPERTS, INV_FREQ, LANGUAGE, TOWER
from ...model.route import Route
from ...model.vit import vit
from ...nn import ops
from ...nn.attention import attend
from ...nn.swap import swapped
from ...nn.tree import Gradients, Params, below
from ...relatives import bert, clip, coca, flamingo, simvlm, transformer, vilt
from ...relatives.transformer import OPENAI, Transformer, dense, dense_shapes, layer_norm, norm_shapes
from ...world.scenes import BACKGROUNDS, NAMES
from ...world.wordings import sentence, with_article
from ..recipe.initial import by_inputs, sines
from . import encoder_free
from .bridges import Bridged, Seeing, joined, resampler, without
from .comparison import Claim, Comparison
from .variants import FIRST_STAGE, Variant, answers_one_by_one, loss_on_words

EPS = 1e-5                                                  # of layer norms here


# ------------------------------------------------------------- beside the text: gated cross-attention, CoCa's two halves

class PictureCache(KVCache):
    """A KVCache that also holds the tokens of each row's picture, (B, n, C), or None"""
    picture = None


class Beside(Seeing):
    """A language model with a picture's tokens beside it, which layers between its blocks look at

    In the text stand boi and eoi alone. Every row has one picture, or none has any. `way` has
        tokens(features, p, config) -> (B, n, C), pull(dy, g)           of the tower's features
        looks(i, layers)                                                whether a layer looks before block i, or at the end
        look(x, picture, met, p, config, i) -> x, pull(dx, g) -> dx, dpicture      met (B, T): 1 from the picture on
    """

    def __init__(self, way, *arguments, **named):
        super().__init__(nothing, *arguments, **named)
        self.way = way

    def new_cache(self, batch, capacity):
        return PictureCache(self.config, batch, capacity, self.xp, self.dtype)

    def picture(self, inputs, cache):
        """The tokens beside the text, (B, n, C) and a pullback; None where there are none"""
        if cache is not None and cache.length:
            return cache.picture, None
        if not inputs.media:
            return None, None
        if not (inputs.types.max(1) == 1).all():
            raise UserError("each row of a batch must have one picture, or none any")
        p = Params(self.leaves).model.vision
        features, _ = vit(self.activations(inputs.pixels), p, self.config.vision, keep=None)
        tokens, pull = self.way.tokens(features, p, self.config)
        if cache is not None:
            cache.picture = tokens
        return tokens, pull

    def states(self, inputs, cache=None, positions=None, keep="all"):
        """hidden states, those half-way up, the picture's tokens, and pull(dh, g, dhalf=0, dpicture=0)"""
        p, config, L = Params(self.leaves).model, self.config, self.config.num_hidden_layers
        route = Route(inputs.types, inputs.mask, positions, self.xp, config.experts)
        if cache is not None:
            cache.reserve(inputs.ids.shape[1], route.mask)
        rope = self.rotary(route.positions, np.result_type(self.dtype, np.float32))
        picture, pull_picture = self.picture(inputs, cache)
        later = cache is not None and cache.length > 0
        met = np.ones_like(inputs.types) if later else np.maximum.accumulate(inputs.types, 1)
        x, pull_embed = self.embed(inputs, route, keep)
        looks, blocks, half = {}, [], None
        for i in range(L + 1):
            if picture is not None and self.way.looks(i, L):
                x, looks[i] = self.way.look(x, picture, met, p.vision, config, i)
            if i == L // 2:
                half = x
            if i < L:
                layer = None if cache is None else cache.layer(i)
                x, pull_block = decoder.block(x, p.layers[i], route, rope, config, layer)
                blocks.append(pull_block)
        h, pull_norm = ops.rms_norm(x, p.norm.weight, config.rms_norm_eps)
        if cache is not None:
            cache.advance(inputs.ids.shape[1])

        def pull(dh, g, dhalf=0, dpicture=0):
            dx = pull_norm(dh, g.model.norm)
            for i in reversed(range(L + 1)):
                if i < L:
                    dx = blocks[i](dx, g.model.layers[i])
                if i == L // 2:
                    dx = dx + dhalf
                if i in looks:
                    dx, dseen = looks[i](dx, g.model.vision)
                    dpicture = dpicture + dseen
            pull_embed(dx, g)
            if pull_picture:
                pull_picture(dpicture, g.model.vision)
        return h, half, picture, pull

    def hidden(self, inputs, cache=None, positions=None, keep="all"):
        h, _, _, pull = self.states(inputs, cache, positions, keep)
        return h, pull if keep else None


def nothing(pixels, p, config):
    """A picture that is no token of the text               -> (N, 0, D)"""
    return p.boi[:, :0].repeat(len(pixels), 0), lambda dy, g: None


@dataclass(frozen=True)
class BesideText(Variant):
    """What Flamingo and CoCa share: a language model without experts, a picture beside it"""

    def config(self, config):
        return joined(config, 0)

    def begin(self, config, leaves, seed):
        leaves = without(leaves, EXPERTS + ADAPTER[:2])
        return leaves | below("model.vision", self.new(config, np.random.default_rng(seed)))

    def model(self, config, leaves, tokenizer=None):
        return Beside(self, config, leaves, tokenizer, Rotary(leaves[INV_FREQ]))

    def answers(self, model, asked):
        return answers_one_by_one(model, asked)


@dataclass(frozen=True)
class Flamingo(BesideText):
    """A resampler, and before each block of the frozen language model a gated one that looks at its latents"""

    def new(self, config, random):
        shapes, gates = below("resampler", flamingo.resampler_shapes(resampler(config))), {}
        for i in range(config.num_hidden_layers):
            shapes |= below(f"gated.{i}", flamingo.block_shapes(block_of(config)))
            gates |= {f"gated.{i}.{name}_gate": np.zeros(1, np.float32) for name in ("attn", "ff")}
        return by_inputs(shapes, random) | gates

    def tokens(self, features, p, config):
        y, pull = flamingo.resampler(features, p.resampler, resampler(config))
        return y, lambda dy, g: pull(dy, g.resampler)

    def looks(self, i, layers):
        return i < layers

    def look(self, x, picture, met, p, config, i):
        y, pull = flamingo.block(x, picture[:, None], met, p.gated[i], block_of(config))

        def pull_look(dy, g):
            dx, dpicture = pull(dy, g.gated[i])
            return dx, dpicture[:, 0]
        return y, pull_look


def block_of(config):
    """The geometry of Flamingo's gated block, whose heads and MLP are the language model's"""
    return flamingo.Block(config.hidden_size, config.vision.hidden_size, config.num_attention_heads, config.head_size,
                          config.intermediate_size)


@dataclass(frozen=True)
class CoCa(BesideText):
    """The lower half of the language model reads text alone, the upper half looks at the picture; contrast between both

    The last token of a text stands for it, in the place of CoCa's CLS. The paper adds twice the loss on words to the sum of
    the contrasts in both directions. Here both are halved, so that the loss on words is that of all others, and half of
    that sum is the mean.
    """
    contrast: float = 1.0

    def new(self, config, random):
        D, E = config.hidden_size, config.vision.hidden_size
        shapes = below("pooler", coca.pooler_shapes(pooler_of(config)))
        shapes |= below("contrast", dense_shapes("image", E, D) | dense_shapes("text", E, D) | norm_shapes("norm", D))
        for i in range(config.num_hidden_layers - config.num_hidden_layers // 2):
            shapes |= below(f"cross.{i}", cross_shapes(crossing_of(config)))
        return by_inputs(shapes, random) | {"logit_scale": np.full(1, np.log(1 / 0.07), np.float32)}

    def tokens(self, features, p, config):
        y, pull = coca.pooler(features, p.pooler, pooler_of(config))
        return y, lambda dy, g: pull(dy, g.pooler)

    def looks(self, i, layers):
        return i > layers // 2

    def look(self, x, picture, met, p, config, i):
        """The first of the picture's tokens is there to be compared; the others are looked at."""
        place = str(i - config.num_hidden_layers // 2 - 1)
        y, pull = coca.cross_block(x, picture[:, 1:], p.cross[place], crossing_of(config))

        def pull_look(dy, g):
            dx, dpicture = pull(dy, g.cross[place])
            return dx, np.pad(dpicture, ((0, 0), (1, 0), (0, 0)))
        return y, pull_look

    def loss(self, config, leaves, part):
        """Cross-entropy of the answers + a contrast of pictures and conversations, see clip.contrastive"""
        (inputs, labels), model = part, self.model(config, leaves)
        p = Params(leaves)
        h, half, picture, pull_states = model.states(inputs)
        words, pull_words = loss_on_words(h, leaves, labels)
        each, last = np.arange(len(h)), inputs.mask.sum(1) - 1
        heads = p.model.vision.contrast
        seen, pull_image = dense(picture[:, 0], heads, "image.")
        text, pull_norm = layer_norm(half[each, last], heads, "norm", EPS)
        text, pull_text = dense(text, heads, "text.")
        contrast, pull_contrast = clip.contrastive(seen, text, p.model.vision.logit_scale)

        def pull():
            g = Gradients(model.parameters, self.frozen)
            dh, dhalf, dpicture = pull_words(g), np.zeros_like(half), np.zeros_like(picture)
            dseen, dtext, dscale = pull_contrast(self.contrast)
            g.model.vision.add("logit_scale", lambda: dscale)
            dpicture[:, 0] = pull_image(dseen, g.model.vision.contrast)
            dhalf[each, last] = pull_norm(pull_text(dtext, g.model.vision.contrast), g.model.vision.contrast)
            pull_states(dh, g, dhalf, dpicture)
            return g.leaves
        return words + self.contrast * contrast, int((labels != NOTHING).sum()), pull, {"contrast": contrast}


def pooler_of(config):
    """A query to be compared, and as many to look at as a quarter of the patches"""
    return coca.Pooler(config.hidden_size, config.vision.hidden_size, 1 + config.vision.grid ** 2 // 4,
                       config.num_attention_heads)


def crossing_of(config):
    return Transformer(config.hidden_size, config.intermediate_size, 1, config.num_attention_heads, EPS, "gelu", OPENAI)


def cross_shapes(geometry):
    """{name: shape} of coca.cross_block"""
    return {name.removeprefix("0."): shape for name, shape in transformer.shapes(geometry).items()} | norm_shapes(
        "ln_1_kv", geometry.width)


# ----------------------------------------------------------------------------------------------------- prefix language model

class Prefixed(Seeing):
    """A language model whose prefix, the picture and all up to the first answer, sees itself as a whole"""

    def loss(self, inputs, labels, *arguments, **named):
        first = (np.asarray(labels) != NOTHING).argmax(1)
        with swapped(prefix_seen(inputs, first, self.xp)):
            return super().loss(inputs, labels, *arguments, **named)

    def logits(self, inputs, cache=None, last=False, positions=None):
        """All of a prompt is prefix; what is written after it is not."""
        whole = inputs.ids.shape[1] if cache is not None and not cache.length else 0
        with swapped(prefix_seen(inputs, np.full(len(inputs.ids), whole), self.xp)):
            return super().logits(inputs, cache, last, positions)


def prefix_seen(inputs, lengths, xp):
    """The attention in which the first tokens of a row with a picture see each other        lengths (B,)"""
    places = np.arange(inputs.ids.shape[1])
    prefix = (places < lengths[:, None]) & (inputs.types > 0).any(1)[:, None]
    if not prefix.any():
        return {}

    def attention(q, k, v, mask=None, causal=True):
        T, S = q.shape[2], k.shape[2]
        visible = xp.tri(T, S, S - T, dtype=bool) | xp.asarray(prefix)[:, None]             # (B, T, S)
        return attend(q, k, v, (visible if mask is None else visible & mask[:, None])[:, None])
    return {ops.attention: attention}


@dataclass(frozen=True)
class SimVLM(Variant):
    """No tower: a convolutional stem that starts at random, a prefix mask, and a language model that learns with it

    Batch norms keep mean 0 and variance 1; their scales and shifts are learned.
    """
    frozen: tuple = ("*.running_mean", "*.running_var")

    def config(self, config):
        return joined(config, stem_of(config).patches)

    def begin(self, config, leaves, seed):
        leaves, geometry = without(leaves, TOWER + EXPERTS + ADAPTER[:2]), stem_of(config)
        ours = {name: shape for name, shape in simvlm.shapes(geometry).items()
                if name.startswith(("stem.", "block", "patch_proj.", "image_pos")) and "num_batches" not in name}
        stem = by_inputs(ours, np.random.default_rng(seed))
        stem |= {name: np.full_like(array, name.endswith("var")) for name, array in stem.items() if "running_" in name}
        stem["image_pos"] = placed(config, geometry.grid[0], config.hidden_size)
        return leaves | below("model.vision.see", stem)

    def model(self, config, leaves, tokenizer=None):
        def see(pixels, p, config):
            y, pull = simvlm.image_tokens(pixels, p.see, stem_of(config))
            return y, lambda dy, g: pull(dy, g.see)
        return Prefixed(see, config, leaves, tokenizer, Rotary(leaves[INV_FREQ]))

    def answers(self, model, asked):
        return answers_one_by_one(model, asked)


def stem_of(config):
    """The geometry of SimVLM's stem: a 16th of the pixels a side; what comes after it is the language model's."""
    D, n = config.hidden_size, config.vision.image_size
    for _ in range(4):
        n = (n + 1) // 2
    unused = Transformer(D, D, 0, 1, EPS, "gelu")
    return simvlm.Config(unused, unused, (32, 64, 128), (2, 2, 2), (n, n), 1, 1, 0)


def placed(config, grid, width):
    """A table of places for grid x grid patches, (grid^2, width): sines, as the tower's starts"""
    vision = replace(config.vision, hidden_size=width, image_size=grid * config.vision.patch_size)
    return sines(vision).astype(np.float32)


# ----------------------------------------------------------------------------------------------- one transformer: ViLT

ANSWERS = (*(sentence(with_article(name)) for name in NAMES), *map(sentence, BACKGROUNDS), "1.", "2.")
CLOSED = "at box", "background", "count"                    # kinds of questions whose answers are all among ANSWERS
WORDS = 64                                                  # of a question at most


@dataclass(frozen=True)
class ViLT(Variant):
    """Patches and words in one transformer of the language model's size, which starts at random and chooses an answer"""
    frozen: tuple = ()

    writes = False

    def begin(self, config, leaves, seed):
        geometry = vilt_of(config)
        shapes = below("vilt", vilt.shapes(geometry)) | dense_shapes("classifier", len(ANSWERS), config.hidden_size)
        found = by_inputs(shapes, np.random.default_rng(seed))
        found["vilt.embeddings.position_embeddings"][0, 1:] = placed(config, geometry.grid, config.hidden_size)
        return found

    def model(self, config, leaves, tokenizer=None):
        return Chooser(config, leaves, tokenizer)

    def example(self, config, tokenizer, picture, turns):
        """pixels, and for every question that ANSWERS answer its ids and which answer is right"""
        asked = [(ids_of(config, tokenizer, question), ANSWERS.index(answer)) for question, answer in turns
                 if answer in ANSWERS]
        return image.pixels(picture, config.vision.image_size), asked

    def batch(self, config, rows):
        """pixels (N, 3, S, S), padded ids (N, T), labels (N,): a picture once for each of its questions"""
        each = [(pixels, ids, label) for pixels, asked in rows for ids, label in asked]
        pixels, ids, labels = zip(*each)
        return np.stack(pixels), padded(ids, config.pad_token_id), np.array(labels)

    def loss(self, config, leaves, part):
        *seen, labels = part
        logits, pull_logits = Chooser(config, leaves).choose(*seen)
        value, pull_loss = ops.cross_entropy(logits, labels)

        def pull():
            g = Gradients(list(leaves), self.frozen)
            pull_logits(pull_loss(), g)
            return g.leaves
        return value, len(labels), pull, {}

    def judged(self, kinds):
        return tuple(kind for kind in kinds if kind in CLOSED)

    def answers(self, model, asked, together=32):
        said = []
        for start in range(0, len(asked), together):
            some = asked[start:start + together]
            pixels = [image.pixels(one.scene.picture, model.config.vision.image_size) for one in some]
            ids = [ids_of(model.config, model.tokenizer, one.question) for one in some]
            logits, _ = model.choose(np.stack(pixels), padded(ids, model.config.pad_token_id))
            said += [ANSWERS[best] for best in logits.argmax(1)]
        return said

    def read(self, model, picture, words, last=False):
        pixels = image.pixels(picture, model.config.vision.image_size)[None]
        return model.choose(pixels, np.array([ids_of(model.config, model.tokenizer, words)]))[0]


class Chooser:
    """A ViLT with a linear layer over its CLS, one row for each of ANSWERS"""

    def __init__(self, config, leaves, tokenizer=None):
        self.config, self.leaves, self.tokenizer = config, leaves, tokenizer

    def choose(self, pixels, ids):
        """logits (N, answers) and pull(dlogits, g)         pixels (N, 3, S, S), ids (N, T), padding by the pad id"""
        p = Params(self.leaves)
        pixels = np.asarray(pixels, p.classifier.weight.dtype)
        whole = np.ones((len(pixels), *pixels.shape[2:]), bool)
        h, _, pull_states = vilt.states(pixels, ids, np.zeros_like(ids), ids != self.config.pad_token_id, whole, p.vilt,
                                        vilt_of(self.config))
        cls, pull_pool = bert.pooled(h, p.vilt)
        logits, pull_classes = dense(cls, p, "classifier.")

        def pull(dlogits, g):
            pull_states(pull_pool(pull_classes(dlogits, g), g.vilt), g.vilt)
        return logits, pull


def vilt_of(config):
    """The geometry of a ViLT of the language model's size, with the tower's patches"""
    stack = Transformer(config.hidden_size, 4 * config.hidden_size, config.num_hidden_layers,
                        config.num_attention_heads, EPS, "gelu", vilt.BLOCK)
    return vilt.Config(stack, config.vision.patch_size, config.vision.image_size, config.vocab_size, WORDS, 1, 2, -1)


def ids_of(config, tokenizer, question):
    """bos, in the place of CLS, and the question's first words"""
    return [config.bos_token_id, *encode(tokenizer, prompt.text("base", question))][:WORDS]


def padded(rows, pad):
    """Rows of ids as one array, padded on the right"""
    longest = max(map(len, rows))
    return np.array([[*row, *[pad] * (longest - len(row))] for row in rows])


# ---------------------------------------------------------------------------------------------------------- all of them

VARIANTS = (
    Bridged("adapter", "adapter alone (LLaVA, stage 1)"),
    Bridged("tuned", "adapter, then the model tuned as well (LLaVA-1.5)", TOWER, alone=FIRST_STAGE),
    Bridged("q-former", "Q-Former (BLIP-2's second stage)", bridge="q-former"),
    Flamingo("flamingo", "gated cross-attention (Flamingo)"),
    Bridged("expert", "visual expert (CogVLM)", experts=True),
    Bridged("ffn", "its FFN half", TOWER + LANGUAGE + EXPERTS[:1], experts=True),
    ViLT("vilt", "one transformer from the start (ViLT)"),
    SimVLM("simvlm", "prefix language model (SimVLM)"),
    CoCa("coca", "captioner with contrast (CoCa)", TOWER),
    replace(encoder_free.ALIGNED, name="eve", says="encoder-free with alignment (EVE)"),
    replace(encoder_free.DIVIDED, name="eve-v2", says="encoder-free with experts (EVE v2)"),
)
CLAIMS = (
    Claim("expert", "adapter", says="deep fusion is better than a shallow prefix (CogVLM)"),
    Claim("expert", "adapter", "box", "deep fusion is better than a shallow prefix (CogVLM)"),
    Claim("expert", "ffn", says="experts of attention and of the FFN are better than half of them (CogVLM)"),
    Claim("expert", "q-former", says="deep fusion is better than a Q-Former's prefix (CogVLM)"),
    Claim("expert", "flamingo", says="weights for pictures are better than cross-attention to them (CogVLM)"),
    Claim("tuned", "adapter", says="the second stage, with the model tuned, is better than the first (LLaVA)"),
)
COMPARISON = Comparison("How to join a picture and a language model?", VARIANTS, "adapter", CLAIMS, samples=10_000,
                        kinds=("caption", "box", "at box", "grounded", "background", "count"),
                        measured=("caption", "box", "box at 0.75", "at box", "background", "count"), curve=True,
                        timed="at box")
