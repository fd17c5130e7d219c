"""Flamingo: a frozen language model looks at pictures through gates, and learns a word from two examples.

Alayrac et al. 2022 (arXiv 2204.14198). First a small language model learns, on texts alone, to use what a text says:
in "red dax blue wug red ..." comes dax, and next time red is something else; in half of the texts, the captions, a
colour is followed by itself. Then it is frozen, colours become pictures, and only a resampler, gated blocks and the
embedding of <image> are trained. What is asked is the made-up name after 0, 2 and 4 examples, by a model whose tokens
see the last picture before them (==), as in the paper, and by one whose tokens see all pictures before them (<=).

Without captions neither mask got beyond one of the two names in a thousand steps: a name is right only if two pictures
are both told apart and found alike, and while the gates are nearly closed neither alone makes a difference.
"""
import numpy as np

from ...nn import ops
from ...nn.tree import Gradients, Params, below
from ...relatives import flamingo, transformer
from ...relatives.transformer import dense, dense_shapes, embedded, layer_norm, norm_shapes
from ..loop.run import Run
from ..recipe.initial import by_inputs
from . import pictures
from .miniature import Miniature, trained

NAMES, PAIRS, CLASSES = 8, 5, 2                             # made-up words; colour and word in a text; colours in a text
COLOURS = len(pictures.COLOURS)
IMAGE = COLOURS + NAMES                                     # the id of <image>, the first that is no answer
LENGTH = 2 * PAIRS - 1                                      # colour, word, ..., colour; the last word is never read
ASKS = {"0 shots": 0, "2 shots": 2, "4 shots": 4}           # numbers of the pairs
WIDTH, LATENTS, PATCH = 48, 4, 4
BLOCKS = transformer.Transformer(WIDTH, 4 * WIDTH, 2, 4, 1e-5, "gelu", causal=True)
RESAMPLER = flamingo.Resampler(WIDTH, 1, 4, 12, LATENTS, 4 * WIDTH, "gelu", flamingo.OF_OPEN_FLAMINGO)
GATED = flamingo.Block(WIDTH, WIDTH, 4, 12, 4 * WIDTH)
BATCH, RATE, ASKED = 32, 2e-3, 512                          # the gates, one number each, learn ten times as fast
LANGUAGE_STEPS, STEPS = 1500, 500


# ---------------------------------------------------------------------------------------------------------- the texts

def episodes(random, count, captions=0.5):
    """colours, answers (B, 5), ids: two colours and their names for today, in random order, so that 2 shots have both

    captions: the share of rows in which a colour's name is the colour.
    """
    colours = random.permuted(np.tile(np.arange(COLOURS), (count, 1)), axis=1)[:, :CLASSES]
    names = random.permuted(np.tile(np.arange(NAMES), (count, 1)), axis=1)[:, :CLASSES]
    first = random.integers(CLASSES, size=(count, 3))
    order = np.stack([first[:, 0], 1 - first[:, 0], first[:, 1], 1 - first[:, 1], first[:, 2]], 1)
    names = np.where(random.random((count, 1)) < captions, colours, COLOURS + names)
    return np.take_along_axis(colours, order, 1), np.take_along_axis(names, order, 1)


def texts(colours, names):
    """ids (B, 9); colours: their ids, or <image>"""
    return np.stack([np.broadcast_to(colours, names.shape), names], -1).reshape(len(names), -1)[:, :LENGTH]


def painted(random, colours):
    """A picture (B, 5, 3, 16, 16) for each colour: three things of it"""
    count = colours.size
    places, _, shapes = pictures.drawn(random, count)
    same = np.broadcast_to(colours.reshape(-1, 1), places.shape)
    return pictures.pixels(random, places, same, shapes).reshape(*colours.shape, 3, pictures.SIDE, pictures.SIDE)


# ---------------------------------------------------------------------------------------------------------- the models

def language_shapes():
    return {"words": (IMAGE + 1, WIDTH), "places": (LENGTH, WIDTH), **below("blocks", transformer.shapes(BLOCKS)),
            **norm_shapes("norm", WIDTH), **dense_shapes("head", IMAGE, WIDTH)}


def sight_shapes():
    """{name: shape} of what is added to the language model"""
    found = {"image": (1, WIDTH), **dense_shapes("patch", WIDTH, 3 * PATCH * PATCH),
             **below("resampler", flamingo.resampler_shapes(RESAMPLER))}
    for i in range(BLOCKS.layers):
        found |= below(f"gated.{i}", flamingo.block_shapes(GATED))
    return found


def answers(p, ids, media=None, times=None, immediate=True):
    """logits (B, 5, answers) after every colour or picture; pull(dlogits, g) -> dmedia

    media (B, 5, latents, W), times (B, T): see flamingo.block; without them the language model alone.
    """
    x, pull_words = embedded(ids, p, "words", "places")
    if media is not None:
        at_image = ids == IMAGE
        x = np.where(at_image[..., None], x - p.words[IMAGE] + p.image, x)
    pulls = []
    for i in range(BLOCKS.layers):
        pull_gated = None
        if media is not None:
            x, pull_gated = flamingo.block(x, media, times, p.gated[i], GATED, immediate)
        x, pull_block = transformer.block(x, p.blocks[i], BLOCKS)
        pulls.append((pull_gated, pull_block))
    n, pull_norm = layer_norm(x, p, "norm", BLOCKS.eps)
    y, pull_head = dense(n[:, ::2], p, "head.")

    def pull(dy, g):
        dn, dmedia = np.zeros_like(n), 0
        dn[:, ::2] = pull_head(dy, g)
        dx = pull_norm(dn, g)
        for i in reversed(range(BLOCKS.layers)):
            pull_gated, pull_block = pulls[i]
            dx = pull_block(dx, g.blocks[i])
            if pull_gated:
                dx, dseen = pull_gated(dx, g.gated[i])
                dmedia = dmedia + dseen
        pull_words(dx, g)
        if media is not None:
            g.add("image", lambda: dx[at_image].sum(0, keepdims=True))
        return dmedia
    return y, pull


def seen(p, images):
    """media (B, 5, latents, W) of images (B, 5, 3, 16, 16); pull(dmedia, g)"""
    B, M = images.shape[:2]
    squares, _ = ops.patches(images.reshape(B * M, *images.shape[2:]), PATCH)
    x, pull_patch = dense(squares, p, "patch.")
    y, pull_resampler = flamingo.resample_media(x.reshape(B, M, 1, -1, WIDTH), p.resampler, RESAMPLER)
    return y, lambda dy, g: pull_patch(pull_resampler(dy, g.resampler).reshape(x.shape), g)


def looking(p, batch, immediate):
    """answers about pictures -> logits, pull(dlogits, g)"""
    images, names = batch
    ids = texts(np.array(IMAGE), names)
    media, pull_seen = seen(p, images)
    y, pull_answers = answers(p, ids, media, flamingo.text_times(ids == IMAGE), immediate)
    return y, lambda dy, g: pull_seen(pull_answers(dy, g), g)


# ------------------------------------------------------------------------------------------------------------ training

def read_colours(random, count, captions=0.5):
    colours, names = episodes(random, count, captions)
    return texts(colours, names), names


def look_at_colours(random, count, captions=0.5):
    colours, names = episodes(random, count, captions)
    return painted(random, colours), names


def loss_of(logits_of, frozen=()):
    """A loss for miniature.trained: cross-entropy of all names"""
    def loss(leaves, batch):
        logits, pull_logits = logits_of(Params(leaves), batch)
        y, pull_loss = ops.cross_entropy(logits.reshape(-1, IMAGE), batch[1].reshape(-1))

        def pull():
            g = Gradients(leaves, frozen)
            pull_logits(pull_loss(1.0).reshape(logits.shape), g)
            return g.leaves
        return y, pull
    return loss


def reading(p, batch):
    return answers(p, batch[0])


def shares(logits, names):
    return {measure: float((logits[:, i].argmax(-1) == names[:, i]).mean()) for measure, i in ASKS.items()}


def learn(run, settings, seed):
    random = np.random.default_rng([seed, 2 ** 32])
    language = trained(Run(run.folder, f"shots-language-{seed}"), by_inputs(language_shapes(), np.random.default_rng(seed)),
                       lambda step: read_colours(np.random.default_rng([seed, step]), BATCH), loss_of(reading),
                       settings["language steps"], RATE, BATCH)
    if settings["mask"] is None:
        ids, names = read_colours(random, ASKED, captions=0)
        return shares(reading(Params(language), (ids, names))[0], names)
    immediate = settings["mask"] == "=="
    leaves = begin(language, seed)
    after = trained(run, leaves, lambda step: look_at_colours(np.random.default_rng([seed, step, 1]), BATCH),
                    loss_of(lambda p, batch: looking(p, batch, immediate), tuple(language)), settings["steps"], RATE,
                    BATCH, groups={"*_gate": 10.0})
    batch = look_at_colours(random, ASKED, captions=0)
    gates = {f"{gate} gate {i}": float(np.tanh(after[f"gated.{i}.{name}"]).item())
             for i in range(BLOCKS.layers) for gate, name in (("attention", "attn_gate"), ("MLP", "ff_gate"))}
    return shares(looking(Params(after), batch, immediate)[0], batch[1]) | gates


def begin(language, seed):
    """All parameters before the second stage: the language model's, and those that see, whose gates are 0"""
    sight = by_inputs(sight_shapes(), np.random.default_rng([seed, 1]))
    gates = {name: np.zeros_like(array) for name, array in sight.items() if name.endswith("_gate")}
    return language | sight | gates | {"image": language["words"][IMAGE:]}


MASKS = {"language model, colours in words": None, "pictures, ==": "==", "pictures, <=": "<="}
SHOTS = Miniature(
    "shots", "Flamingo (Alayrac et al. 2022): a frozen language model learns from examples in its context, pictures "
    "included, if each token sees the last picture alone.", 4,
    {name: {"mask": mask, "language steps": LANGUAGE_STEPS, "steps": STEPS} for name, mask in MASKS.items()}, learn)
