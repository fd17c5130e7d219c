"""BLIP-2's Q-Former: what its queries keep of 64 patches, from 32 queries to 4; and its masks.

Li et al. 2023 (arXiv 2301.12597). Two parts:

Reading: three digits stand anywhere in a picture of 64 patches. A Q-Former of two blocks reads them with 32 ... 4
queries; without one, a linear layer hands on all 64 patches. Two blocks of BERT then answer which digits there are.

Masks: pictures and captions are contrasted. In BLIP-2 queries and words are computed apart for this, neither sees the
other. If they go through the blocks together and see each other, each query can read the caption of its own picture:
training is right every time, and learned nothing of pictures.
"""
import numpy as np

from ...nn import ops
from ...nn.tree import Gradients, Params, below
from ...relatives import bert, qformer
from ...relatives.bert import Bert
from ...relatives.transformer import dense, dense_shapes, layer_norm, norm_shapes
from ..recipe.initial import by_inputs
from . import pictures
from .miniature import Miniature, trained

WIDTH, BATCH, RATE, ASKED = 32, 32, 2e-3, 512
BLOCKS = Bert(WIDTH, 4 * WIDTH, 2, 4, 1e-12, "gelu")

# ------------------------------------------------------------------------------------------------------------- reading

SIDE, PATCH = 24, 3
PATCHES, INSIDE, DIGITS = (SIDE // PATCH) ** 2, 3 * PATCH * PATCH, 3
FONT = np.array([[[bits >> 14 - 3 * row - column & 1 for column in range(3)] for row in range(5)] for bits in (
    0b111101101101111, 0b010110010010111, 0b111001111100111, 0b111001111001111, 0b101101111001001,
    0b111100111001111, 0b111100111101111, 0b111001001001001, 0b111101111101111, 0b111101111001111)])    # (10, 5, 3)
READER = Bert(WIDTH, 4 * WIDTH, 2, 4, 1e-12, "gelu")
STEPS = 1500


def numbers(random, count):
    """patches (B, 64, 27) of grey pictures in which a number of three digits stands; the digits (B, 3)"""
    digits = random.integers(10, size=(count, DIGITS))
    line = np.pad(FONT[digits], ((0, 0), (0, 0), (0, 0), (0, 1))).swapaxes(1, 2).reshape(count, 5, 4 * DIGITS)
    top, left = random.integers(SIDE - 5, size=count), random.integers(SIDE - 4 * DIGITS + 1, size=count)
    picture = 0.1 * random.standard_normal((count, SIDE, SIDE))
    rows, columns = top[:, None] + np.arange(5), left[:, None] + np.arange(4 * DIGITS)
    picture[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None]] += line
    picture = np.broadcast_to(picture[:, None], (count, 3, SIDE, SIDE)).astype(np.float32)
    return ops.patches(picture, PATCH)[0], digits


def reader_shapes(queries):
    """{name: shape}: patches and their places, the Q-Former if there are queries, three askers, blocks, a head"""
    found = {**dense_shapes("patch", WIDTH, INSIDE), "places": (PATCHES, WIDTH), "askers": (DIGITS, WIDTH),
             "kept_places": (queries or PATCHES, WIDTH), **below("reader", block_shapes(READER)),
             **dense_shapes("head", 10, WIDTH)}
    if queries:
        found |= {"query_tokens": (1, queries, WIDTH), **norm_shapes("layernorm", WIDTH)}
        found |= below("qformer", qformer.shapes(formed(BLOCKS)))
    else:
        found |= dense_shapes("linear", WIDTH, WIDTH)
    return found


def formed(blocks):
    """The Q-Former of reading: no words"""
    return qformer.QFormer(blocks, WIDTH, 1, text=False)


def block_shapes(blocks):
    found = {}
    for i in range(blocks.layers):
        found |= below(str(i), bert.block_shapes(blocks))
    return found


def read(patches, p, queries):
    """logits (B, 3, 10) of the digits; pull(dlogits, g)"""
    B = len(patches)
    x, pull_patch = dense(patches, p, "patch.")
    x = x + p.places
    if queries:
        tokens, pull_norm = layer_norm(np.broadcast_to(p.query_tokens, (B, queries, WIDTH)), p, "layernorm", BLOCKS.eps)
        kept, _, pull_kept = qformer.blocks(tokens, p.qformer, formed(BLOCKS), queries, x)
    else:
        kept, pull_kept = dense(x, p, "linear.")
    askers = np.broadcast_to(p.askers, (B, DIGITS, WIDTH))
    h, pull_blocks = bert.blocks(np.concatenate([kept + p.kept_places, askers], 1), p.reader, READER)
    y, pull_head = dense(h[:, -DIGITS:], p, "head.")

    def pull(dy, g):
        dh = np.zeros_like(h)
        dh[:, -DIGITS:] = pull_head(dy, g)
        dx, _ = pull_blocks(dh, g.reader)
        g.add("askers", lambda: dx[:, -DIGITS:].sum(0))
        dkept = dx[:, :-DIGITS]
        g.add("kept_places", lambda: dkept.sum(0))
        if queries:
            dtokens, dpatches, _ = pull_kept(dkept, g.qformer)
            dtokens = pull_norm(dtokens, g)
            g.add("query_tokens", lambda: dtokens.sum(0, keepdims=True))
        else:
            dpatches = pull_kept(dkept, g)
        g.add("places", lambda: dpatches.sum(0))
        pull_patch(dpatches, g)
    return y, pull


def learn_to_read(run, settings, seed):
    queries = settings["queries"]
    leaves = by_inputs(reader_shapes(queries), np.random.default_rng(seed))
    leaves |= {name: 0.3 * leaves[name] for name in ("places", "kept_places")}

    def loss(leaves, batch):
        patches, digits = batch
        logits, pull_read = read(patches, Params(leaves), queries)
        y, pull_loss = ops.cross_entropy(logits.reshape(-1, 10), digits.reshape(-1))

        def pull():
            g = Gradients(leaves)
            pull_read(pull_loss(1.0).reshape(logits.shape), g)
            return g.leaves
        return y, pull
    after = trained(run, leaves, lambda step: numbers(np.random.default_rng([seed, step]), BATCH), loss,
                    settings["steps"], RATE, BATCH)
    patches, digits = numbers(np.random.default_rng([seed, 2 ** 32]), ASKED)
    logits, _ = read(patches, Params(after), queries)
    return {"digits right": float((logits.argmax(-1) == digits).mean())}


READING = {f"{queries} queries" if queries else f"{PATCHES} patches": dict(queries=queries, steps=STEPS)
           for queries in (0, 32, 16, 8, 4)}
QUERIES = Miniature(
    "queries", "BLIP-2 (Li et al. 2023): a few queries suffice for a picture. Chance is 0.1; ours must read digits, "
    "which no caption asks for.", 5, READING, learn_to_read)

# --------------------------------------------------------------------------------------------------------------- masks

CONTRASTED = qformer.Pretraining(qformer.QFormer(BLOCKS, WIDTH, 2), 4, pictures.VOCABULARY, pictures.LENGTH, WIDTH,
                                 0.0, -1, 0, 1e-5)
NAMES = ("query_tokens", "temp", "Qformer.bert.", "vision_proj", "text_proj")
MASK_STEPS = 400


def contrast_shapes():
    """{name: shape} of what contrast trains, and of a linear layer for the patches"""
    found = {name: shape for name, shape in qformer.pretraining_shapes(CONTRASTED).items() if name.startswith(NAMES)}
    return found | dense_shapes("patch", WIDTH, 3 * 4 * 4) | {"places": (16, WIDTH)}


def contrasted(batch, p, leaky):
    """The loss of contrast, (B, B) similarities, pull(g); leaky: queries and words in one pass, all see all"""
    pixels, ids = batch
    Q, q, layers, B = CONTRASTED.queries, CONTRASTED.qformer, p.Qformer.bert.encoder.layer, len(ids)
    image, pull_patch = dense(ops.patches(pixels, 4)[0], p, "patch.")
    image = image + p.places
    if leaky:
        x, pull_embed = qformer.embed(p, CONTRASTED, B, ids)
        h, _, pull_blocks = qformer.blocks(x, layers, q, Q, image)
        queries, words = h[:, :Q], h[:, Q:]
    else:
        x, pull_queries = qformer.embed(p, CONTRASTED, B)
        queries, _, pull_image = qformer.blocks(x, layers, q, Q, image)
        t, pull_words = qformer.embed(p, CONTRASTED, B, ids, queries=False)
        words, _, pull_text = qformer.blocks(t, layers, q, 0)
    loss, similarity, pull_loss = qformer.contrast(queries, words, p, CONTRASTED)

    def pull(g):
        dqueries, dwords = pull_loss(1.0, g)
        h = g.Qformer.bert.encoder.layer
        if leaky:
            dx, dimage, _ = pull_blocks(np.concatenate([dqueries, dwords], 1), h)
            pull_embed(dx, g)
        else:
            dx, dimage, _ = pull_image(dqueries, h)
            pull_queries(dx, g)
            pull_words(pull_text(dwords, h)[0], g)
        g.add("places", lambda: dimage.sum(0))
        pull_patch(dimage, g)
    return loss, similarity, pull


def learn_to_contrast(run, settings, seed):
    """How often the own caption of 32 is the most similar: as in training, and as a search must do it, apart"""
    leaky, leaves = settings["leaky"], by_inputs(contrast_shapes(), np.random.default_rng(seed))
    leaves["temp"] = np.asarray(0.07, np.float32)

    def loss(leaves, batch):
        y, _, pull_contrast = contrasted(batch, Params(leaves), leaky)

        def pull():
            g = Gradients(leaves, ("temp",))                # learned, it passes 0 once nothing is left to learn
            pull_contrast(g)
            return g.leaves
        return y, pull
    after = trained(run, leaves, lambda step: pictures.pairs(np.random.default_rng([seed, step]), BATCH), loss,
                    settings["steps"], RATE, BATCH)
    shares = {}
    for measure, how in (("as trained", leaky), ("apart", False)):
        tests = [pictures.pairs(np.random.default_rng([seed, 2 ** 32 + i]), BATCH, distinct=True) for i in range(16)]
        right = [contrasted(test, Params(after), how)[1].argmax(1) == np.arange(BATCH) for test in tests]
        shares[measure] = float(np.mean(right))
    return shares


MASKS = Miniature(
    "masks", "BLIP-2 (Li et al. 2023): contrast needs a mask between queries and words. Chance is 1/32.", 1,
    {"apart": dict(leaky=False, steps=MASK_STEPS), "leaky": dict(leaky=True, steps=MASK_STEPS)}, learn_to_contrast)
