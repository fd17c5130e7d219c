"""SimVLM: one loss, prefix language modelling, on a picture and its text (Wang et al. 2021, arXiv 2108.10904).

The picture and the first words of the text are a prefix, in which all see all; the rest of the text is written word by
word. Here an encoder reads the prefix and a decoder writes; `one_stack` is the same as one mask over all tokens.

There is no official code. From the paper: a convolutional stem of three residual blocks in place of patches, learned
positions of its own for picture and text, relative attention in two dimensions among the patches. Our choices: norms
before the sublayers, basic blocks in the stem, a table of relative positions for each layer, the output tied to the
words, a decoder that counts positions on from the prefix.
"""
import math
from dataclasses import dataclass

import numpy as np

from ..nn import ops
from ..nn.arrays import namespace, to_numpy, wide
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import below
from . import transformer
from .clip import conv_shapes, convolutions
from .masks import prefix_mask
from .pixel_bert import basic_block
from .registry import Case
from .transformer import (
    Into, Transformer, dense, dense_shapes, join_heads, layer_norm, norm_shapes, split_heads, sublayer)

QKV = ("attn.q.", "attn.k.", "attn.v.")
BLOCK = transformer.Names("norm1", QKV, "attn.o", "norm2", "fc1", "fc2")
CROSS = transformer.Names("norm_cross", ("cross.q.", "cross.k.", "cross.v."), "cross.o", "norm2", "fc1", "fc2")
BUFFERS = "*.running_mean", "*.running_var"
IGNORED = -100


@dataclass(frozen=True)
class Config:
    """The geometry of a SimVLM."""
    encoder: Transformer
    decoder: Transformer
    stem: tuple                         # channels of the three residual blocks
    strides: tuple                      # of the blocks
    grid: tuple                         # rows and columns of patches
    vocabulary: int
    positions: int                      # of words
    bos: int                            # what the decoder starts from where the prefix has no word

    @property
    def patches(self):
        return self.grid[0] * self.grid[1]


def of_paper(fields):
    """Config of the golden case's fields"""
    width, heads = fields.whole("hidden_size", 768), fields.whole("heads", 12)
    if width % heads:
        fields.refuse("heads", heads, f"a divisor of hidden_size {width}")

    def stack(layers, causal):
        return Transformer(width, fields.whole("mlp", 3072), fields.layers(layers, 12), heads,
                           fields.number("eps", 1e-6, high=1), "gelu", BLOCK, causal)
    stem, strides, grid = fields.numbers("stem"), fields.numbers("strides"), fields.numbers("grid")
    if len(stem) != len(strides):
        fields.refuse("strides", list(strides), f"{len(stem)} numbers, as many as stem has")
    if len(grid) != 2:
        fields.refuse("grid", list(grid), "two numbers, rows and columns")
    return Config(stack("encoder_layers", False), stack("decoder_layers", True), stem, strides, grid,
                  fields.whole("vocab_size", 32000), fields.whole("max_text", 256), fields.whole("bos", 1, 0))


def stem_blocks(config):
    """(name, channels into it, channels out of it, stride) of every residual block"""
    for i, (out, stride) in enumerate(zip(config.stem, config.strides)):
        yield f"block{i + 1}", config.stem[max(0, i - 1)], out, stride


def shapes(config):
    """{name: shape} of every tensor, the batch norms' averages included"""
    W, (h, w), found = config.encoder.width, config.grid, conv_shapes("stem.0", "stem.1", config.stem[0], 3, 3)
    for name, into, out, stride in stem_blocks(config):
        block = conv_shapes("conv1", "bn1", out, into, 3) | conv_shapes("conv2", "bn2", out, out, 3)
        if stride > 1 or into != out:
            block |= conv_shapes("downsample.0", "downsample.1", out, into, 1)
        found |= below(name, block)
    found |= dense_shapes("patch_proj", W, config.stem[-1])
    found |= {"image_pos": (config.patches, W), "text_pos": (config.positions, W)}
    found |= {"token.weight": (config.vocabulary, W)}
    found |= below("encoder", transformer.shapes(config.encoder)) | below("decoder", transformer.shapes(config.decoder))
    for i in range(config.encoder.layers):
        found[f"encoder.{i}.attn.rel"] = (config.encoder.heads, 2 * h - 1, 2 * w - 1)
    for i in range(config.decoder.layers):
        cross = norm_shapes("norm_cross", W)
        for letter in "qkvo":
            cross |= dense_shapes(f"cross.{letter}", W, W)
        found |= below(f"decoder.{i}", cross)
    return found | norm_shapes("encoder_norm", W) | norm_shapes("decoder_norm", W)


# ------------------------------------------------------------------------------------------------ prefix and suffix

def split(text, lengths, prefixes, bos):
    """Texts cut in two: what the encoder reads and what the decoder writes      text (B, T), lengths, prefixes (B,)

    -> the prefixes' ids (B, E), the ids before each word to be written, their positions and the words, -100 for padding
    (B, D). The padding of the others is 0.
    """
    xp, rows = namespace(text), to_numpy(text)
    lengths, prefixes = to_numpy(lengths), to_numpy(prefixes)
    B, E, D = len(rows), int(prefixes.max()), int((lengths - prefixes).max())
    read, before, places = np.zeros((B, E), int), np.zeros((B, D), int), np.zeros((B, D), int)
    labels = np.full((B, D), IGNORED)
    for b, (row, n, start) in enumerate(zip(rows, lengths, prefixes)):
        read[b, :start] = row[:start]
        before[b, :n - start] = [bos, *row][start:n]
        places[b, :n - start] = range(start, n)
        labels[b, :n - start] = row[start:n]
    return tuple(xp.asarray(some) for some in (read, before, places, labels))


def one_stack(lengths, prefixes, patches, length):
    """The same task as one sequence, picture then text     lengths and prefixes (B,) -> (B, S, S), (B, S), S = P + T

    Which tokens each may see, and at which of them the next word counts in the loss.
    """
    xp = namespace(lengths)
    place, start, end = xp.arange(patches + length), (patches + prefixes)[:, None], (patches + lengths)[:, None]
    mask = prefix_mask(patches + prefixes, patches + length)[:, 0] & (place < end)[:, None]
    return mask, (place >= start - 1) & (place < end - 1)


# ---------------------------------------------------------------------------------------------------------- the encoder

def image_tokens(pixels, p, config):
    """A convolution, three residual blocks, a linear layer, positions           (B, 3, N, M) -> (B, P, W)"""
    x, pull_stem = convolutions(pixels, p, [("stem.0", "stem.1", dict(stride=2, padding=1))])
    pulls = []
    for name, _, _, stride in stem_blocks(config):
        x, pull_block = basic_block(x, p[name], stride)
        pulls.append((name, pull_block))
    record("feature_map", x)
    B, C, h, w = x.shape
    y, pull_linear = dense(x.reshape(B, C, h * w).swapaxes(1, 2), p, "patch_proj.")
    y = y + p.image_pos
    record("image_embeddings", y)

    def pull(dy, g):
        g.add("image_pos", lambda: dy.sum(0))
        dx = pull_linear(dy, g).swapaxes(1, 2).reshape(B, C, h, w)
        for name, pull_block in reversed(pulls):
            dx = pull_block(dx, g[name])
        return pull_stem(dx, g)
    return y, pull


def words(ids, places, p):
    """Word and position embeddings                         ids and places (B, T) -> (B, T, W)"""
    x, pull_words = ops.embedding(ids, p.token.weight)
    z, pull_places = ops.embedding(places, p.text_pos)

    def pull(dx, g):
        pull_words(dx, g.token)
        pull_places(dx, Into(g, "", names={"weight": "text_pos"}))
    return x + z, pull


@op
def relative_bias(table, grid, length):
    """What is added to the scores: the table's entry for rows and columns apart between patches, 0 for words

    table (H, 2h - 1, 2w - 1) -> (H, S, S), of which the first h w are patches. Section 3.2 of the paper, after Dai et
    al. 2021 (arXiv 2106.04803).
    """
    xp, (h, w) = namespace(table), grid
    row, column = (xp.asarray(some.reshape(-1)) for some in np.indices(grid))
    down = row[:, None] - row + h - 1
    across = column[:, None] - column + w - 1
    bias = xp.zeros((len(table), length, length), table.dtype)
    bias[:, :h * w, :h * w] = table[:, down, across]

    def pull(dbias):
        dtable = xp.zeros_like(table)
        xp.add.at(dtable, (slice(None), down, across), dbias[:, :h * w, :h * w])
        return dtable
    return bias, pull


@op
def attend_with_bias(q, k, v, mask, bias):
    """y = softmax(q k^T / sqrt(d) + bias) v                q, k, v (B, H, T, d), bias (H, T, T) -> (B, H, T, d)

    mask (B, T): False hides a key.
    """
    xp, scale = namespace(q), 1 / math.sqrt(q.shape[-1])
    scores = wide(q @ k.swapaxes(2, 3) * scale + bias)
    a, pull_softmax = ops.softmax(xp.where(mask[:, None, None], scores, xp.finfo(scores.dtype).min))
    a = a.astype(q.dtype, copy=False)

    def pull(dy):
        dscores = pull_softmax(dy @ v.swapaxes(2, 3))
        return dscores @ k * scale, dscores.swapaxes(2, 3) @ q * scale, a.swapaxes(2, 3) @ dy, dscores.sum(0)
    return a @ v, pull


def encoder_attention(x, p, config, mask):
    """Attention in which patches know how they lie to each other       (B, S, W) -> (B, S, W)"""
    heads = config.encoder.heads
    projections = [dense(x, p, prefix) for prefix in QKV]
    bias, pull_bias = relative_bias(p.attn.rel, config.grid, x.shape[1])
    y, pull_attend = attend_with_bias(*(split_heads(y, heads) for y, _ in projections), mask, bias)
    y, pull_out = dense(join_heads(y), p, "attn.o.")

    def pull(dy, g):
        *dqkv, dbias = pull_attend(split_heads(pull_out(dy, g), heads))
        dtable = pull_bias(dbias)
        g.add("attn.rel", lambda: dtable)
        return sum(pull_one(join_heads(d), g) for (_, pull_one), d in zip(projections, dqkv))
    return y, pull


def encode(pixels, ids, mask, p, config):
    """The prefix: the picture's patches, then words        ids (B, E), mask (B, P + E) -> (B, P + E, W)

    pull(dy, g) -> dpixels.
    """
    xp, P = namespace(pixels), config.patches
    image, pull_image = image_tokens(pixels, p, config)
    text, pull_words = words(ids, xp.broadcast_to(xp.arange(ids.shape[1]), ids.shape), p)
    x, pulls = xp.concatenate([image, text], 1), []
    for i in range(config.encoder.layers):
        q = p.encoder[i]
        x, pull_a = sublayer(x, q, "norm1", config.encoder.eps, lambda n, q=q: encoder_attention(n, q, config, mask))
        x, pull_m = sublayer(x, q, "norm2", config.encoder.eps, lambda n, q=q: transformer.mlp(n, q, config.encoder))
        record(f"encoder{i}", x)
        pulls.append((pull_a, pull_m))
    x, pull_norm = layer_norm(x, p, "encoder_norm", config.encoder.eps)
    record("memory", x)

    def pull(dy, g):
        dx = pull_norm(dy, g)
        for i in reversed(range(len(pulls))):
            pull_a, pull_m = pulls[i]
            dx = pull_a(pull_m(dx, g.encoder[i]), g.encoder[i])
        pull_words(dx[:, P:], g)
        return pull_image(dx[:, :P], g)
    return x, pull


# ---------------------------------------------------------------------------------------------------------- the decoder

def decoder_block(x, memory, mask, p, config):
    """Causal self-attention, attention to the memory, an MLP, each after a norm            (B, D, W) -> (B, D, W)

    memory (B, S, W), mask (B, S): False hides. pull(dy, g) -> dx, dmemory.
    """
    cross = Transformer(config.width, config.mlp, 1, config.heads, config.eps, config.activation, CROSS)
    x, pull_self = sublayer(x, p, "norm1", config.eps, lambda n: transformer.attention(n, n, p, config))
    n, pull_norm = layer_norm(x, p, "norm_cross", config.eps)
    a, pull_cross = transformer.attention(n, memory, p, cross, mask)
    y, pull_mlp = sublayer(x + a, p, "norm2", config.eps, lambda n: transformer.mlp(n, p, config))

    def pull(dy, g):
        dy = pull_mlp(dy, g)
        dn, dmemory = pull_cross(dy, g)
        return pull_self(dy + pull_norm(dn, g), g), dmemory
    return y, pull


def decode(ids, places, memory, mask, p, config):
    """Logits of each next word                             ids and places (B, D), memory (B, S, W) -> (B, D, V)

    pull(dlogits, g) -> dmemory.
    """
    x, pull_words = words(ids, places, p)
    pulls = []
    for i in range(config.decoder.layers):
        x, pull_block = decoder_block(x, memory, mask, p.decoder[i], config.decoder)
        record(f"decoder{i}", x)
        pulls.append(pull_block)
    x, pull_norm = layer_norm(x, p, "decoder_norm", config.decoder.eps)
    y, pull_head = transformer.project(x, p, "token.weight")

    def pull(dy, g):
        dx, dmemory = pull_norm(pull_head(dy, g), g), 0
        for i in reversed(range(len(pulls))):
            dx, dseen = pulls[i](dx, g.decoder[i])
            dmemory = dmemory + dseen
        pull_words(dx, g)
        return dmemory
    return y, pull


def loss(pixels, text, lengths, prefixes, p, config):
    """Cross entropy of the words after the prefix          text (B, T), lengths and prefixes (B,) -> scalar

    In training the prefixes' lengths are drawn at random. pull(dloss, g) -> dpixels.
    """
    xp = namespace(pixels)
    read, before, places, labels = split(text, lengths, prefixes, config.bos)
    seen = xp.ones((len(text), config.patches), bool)
    mask = xp.concatenate([seen, xp.arange(read.shape[1]) < prefixes[:, None]], 1)
    memory, pull_encoder = encode(pixels, read, mask, p, config)
    logits, pull_decoder = decode(before, places, memory, mask, p, config)
    one_mask, counted = one_stack(lengths, prefixes, config.patches, text.shape[1])
    for name, array in (("memory_mask", mask), ("logits", logits), ("prefix_mask", one_mask),
                        ("loss_positions", counted)):
        record(name, array)
    value, pull_loss = ops.cross_entropy(logits.reshape(-1, config.vocabulary), labels.reshape(-1))
    return value, lambda dloss, g: pull_encoder(pull_decoder(pull_loss(dloss).reshape(logits.shape), g), g)


# ------------------------------------------------------------------------------------------------------- golden cases

def case(x, p, config):
    y, pull = loss(x["image"], x["text"], x["text_len"], x["prefix_len"], p, config)
    return {"loss": y}, lambda dy, g: {"image": pull(dy["loss"], g)}


CASES = {"simvlm": Case(lambda fields, shapes: of_paper(fields), shapes, case, BUFFERS)}
