"""Pixel-BERT: the pixels of a ResNet's last feature map take the place of a detector's regions.

Huang et al. 2020 (arXiv 2004.00849), of which no code was published: this is what the paper says, and where it says
nothing the choice is ours: a small ResNet of basic blocks where the paper takes a ResNet-50, a linear layer where
widths differ, one logit for matching.

    picture -> ResNet -> 2 x 2 max pool -> pixels, row by row -> 100 of them at random, in pre-training alone
    [CLS] words [SEP] | pixel pixel ...       BERT; a pixel is W v + b + s, s one vector for all, without a position

Two losses: masked words, and from CLS whether picture and text belong together.
"""
from dataclasses import dataclass, replace

import numpy as np

from ..nn import activations, ops
from ..nn.arrays import namespace, wide
from ..nn.convolution import max_pool
from ..nn.trace import record
from ..nn.tree import below
from . import bert
from .bert import Bert
from .clip import conv_shapes, convolutions
from .connectors import tokens
from .registry import Case
from .transformer import at, dense, dense_shapes

WORDS, HEAD = "bert.embeddings", "cls.predictions"
POOL = 2


@dataclass(frozen=True)
class Config:
    """The geometry of a Pixel-BERT."""
    bert: Bert
    vocabulary: int
    positions: int
    stem: tuple                         # channels after the first convolution and after each block
    strides: tuple                      # of each block


def of_pixel_bert(fields):
    words = replace(bert.bert_of(fields), eps=fields.number("ln_eps", bert.NORM_EPS, high=1))
    stem, strides = fields.numbers("stem"), fields.numbers("strides")
    if len(stem) != len(strides) + 1:
        fields.refuse("stem", list(stem), f"{len(strides) + 1} numbers, one more than strides has")
    return Config(words, fields.whole("vocab_size", 30522), fields.whole("max_position_embeddings", 512), stem, strides)


def shapes(config):
    """{name: shape} of every tensor, the batch norms' averages included"""
    W, found = config.bert.width, conv_shapes("stem.0", "stem.1", config.stem[0], 3, 3)
    for name, into, out, stride in basic_blocks(config):
        block = conv_shapes("conv1", "bn1", out, into, 3) | conv_shapes("conv2", "bn2", out, out, 3)
        if stride > 1 or into != out:
            block |= conv_shapes("downsample.0", "downsample.1", out, into, 1)
        found |= below(name, block)
    found |= dense_shapes("visual_proj", W, config.stem[-1]) | {"semantic": (W,)} | dense_shapes("itm", 1, W)
    found |= bert.typed_words_shapes(config.bert, WORDS, config.vocabulary, config.positions, 1)
    for i in range(config.bert.layers):
        found |= below(f"bert.encoder.layer.{i}", bert.block_shapes(config.bert))
    return found | bert.word_head_shapes(config.bert, HEAD, config.vocabulary)


def basic_blocks(config):
    """(name, channels into it, channels out of it, stride) of every block"""
    for i, stride in enumerate(config.strides):
        yield f"layer{i + 1}", config.stem[i], config.stem[i + 1], stride


# ----------------------------------------------------------------------------------------------------------- pictures

def basic_block(x, p, stride):
    """relu(x' + f(x)): f 3 x 3, 3 x 3; x' a 1 x 1 where stride or width change         (B, C, N, M) -> (B, C', n, m)

    He et al. 2015 (arXiv 1512.03385).
    """
    h, pull_first = convolutions(x, p, [("conv1", "bn1", dict(stride=stride, padding=1))])
    h, pull_second = convolutions(h, p, [("conv2", "bn2", dict(padding=1))], relu=False)
    short, pull_short = x, lambda dy, g: dy
    if p.get("downsample"):
        short, pull_short = convolutions(x, p, [("downsample.0", "downsample.1", dict(stride=stride))], relu=False)
    y, pull_relu = activations.relu(h + short)

    def pull(dy, g):
        dy = pull_relu(dy)
        return pull_first(pull_second(dy, g), g) + pull_short(dy, g)
    return y, pull


def pixels_of(images, p, config):
    """The pixels of the feature map after pooling, row by row      (B, 3, N, M) -> (B, P, C)"""
    x, pull_stem = convolutions(images, p, [("stem.0", "stem.1", dict(stride=2, padding=1))])
    pulls = []
    for name, _, _, stride in basic_blocks(config):
        x, pull_block = basic_block(x, at(p, name), stride)
        pulls.append((name, pull_block))
    record("feature_map", x)
    x, pull_pool = max_pool(x, POOL)
    y, pull_tokens = tokens(x)
    record("pixels", y)

    def pull(dy, g):
        dx = pull_pool(pull_tokens(dy))
        for name, pull_block in reversed(pulls):
            dx = pull_block(dx, g[name])
        return pull_stem(dx, g)
    return y, pull


def sampled(batch, pixels, count, random):
    """Which pixels of each picture are kept while training, in order      -> (B, count); random: a NumPy Generator"""
    return np.sort([random.choice(pixels, min(count, pixels), replace=False) for _ in range(batch)], 1)


def embed_pixels(pixels, choice, p):
    """W v + b + s of the chosen pixels, all if `choice` is None          (B, P, C), choice (B, K) -> (B, K, W)"""
    xp = namespace(pixels)
    rows = xp.arange(len(pixels))[:, None]
    kept = pixels if choice is None else pixels[rows, choice]
    y, pull_linear = dense(kept, p, "visual_proj.")

    def pull(dy, g):
        g.add("semantic", lambda: dy.sum((0, 1)))
        dkept = pull_linear(dy, g)
        if choice is None:
            return dkept
        dpixels = xp.zeros_like(pixels)
        dpixels[rows, choice] = dkept                       # no pixel is chosen twice
        return dpixels
    return y + p.semantic, pull


# --------------------------------------------------------------------------------------------------------- both losses

def encode(ids, mask, images, choice, p, config):
    """The hidden states of words and pixels                ids (B, T), images (B, 3, N, M) -> (B, T + K, W)

    mask (B, T): False on padding. choice (B, K): see `sampled`. pull(dx, g) -> dimages.
    """
    xp, T = namespace(images), ids.shape[1]
    words, pull_words = bert.typed_words(ids, xp.zeros_like(ids), p, config.bert, WORDS)
    record("text_embeddings", words)
    pixels, pull_pixels = pixels_of(images, p, config)
    seen, pull_seen = embed_pixels(pixels, choice, p)
    record("pixel_embeddings", seen)
    x = xp.concatenate([words, seen], 1)
    record("hidden0", x)
    visible = xp.concatenate([mask, xp.ones(seen.shape[:2], bool)], 1)
    y, pull_blocks = bert.blocks(x, p.bert.encoder.layer, config.bert, visible)

    def pull(dy, g):
        dx, _ = pull_blocks(dy, g.bert.encoder.layer)
        pull_words(dx[:, :T], g)
        return pull_pixels(pull_seen(dx[:, T:], g), g)
    return y, pull


def matching_loss(logits, labels):
    """Binary cross entropy, mean of log(1 + exp(z)) - label z          logits and labels (B,) -> scalar

    Computed in float32 at least.
    """
    xp, z = namespace(logits), wide(logits)
    loss = (xp.maximum(z, 0) + xp.log1p(xp.exp(-abs(z))) - labels * z).mean()

    def pull(dloss=1.0):
        return ((ops.sigmoid(z, xp) - labels) * (dloss / len(z))).astype(logits.dtype, copy=False)
    return loss, pull


def pretraining(ids, mask, images, choice, labels, match, p, config):
    """The losses of masked words and of matching           -> {name: scalar}

    labels (B, T): the word that was masked, -100 elsewhere. match (B,): 1 where text and picture belong together, 0
    where not. pull(dloss, g) -> dimages.
    """
    T = ids.shape[1]
    x, pull_encode = encode(ids, mask, images, choice, p, config)
    logits, pull_head = bert.word_head(x[:, :T], p, config.bert, HEAD, f"{WORDS}.word_embeddings.weight")
    match_logits, pull_match_head = dense(x[:, 0], p, "itm.")
    record("mlm_logits", logits)
    record("itm_logit", match_logits[:, 0])
    words, pull_words = ops.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    matching, pull_matching = matching_loss(match_logits[:, 0], match)

    def pull(dloss, g):
        dx = namespace(x).zeros_like(x)
        dx[:, :T] = pull_head(pull_words(dloss).reshape(logits.shape), g)
        dx[:, 0] += pull_match_head(pull_matching(dloss)[:, None], g)
        return pull_encode(dx, g)
    return {"loss_mlm": words, "loss_itm": matching, "loss": words + matching}, pull


# -------------------------------------------------------------------------------------------------------- golden case

def case(x, p, config):
    y, pull = pretraining(x["input_ids"], x["attention_mask"] != 0, x["image"], x["pixel_choice"], x["mlm_labels"],
                          x["itm_labels"], p, config)
    return y, lambda dy, g: {"image": pull(dy["loss"], g)}


CASES = {"pixel_bert": Case(lambda fields, shapes: of_pixel_bert(fields), shapes, case, ("*.running_*",))}
