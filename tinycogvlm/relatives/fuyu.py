"""Fuyu: no vision encoder. A decoder reads a picture's patches, each through one linear layer, as it reads words.

Bavishi et al. 2023 (Adept, "Fuyu-8B: A Multimodal Architecture for AI Agents", without a paper; the decoder is their
Persimmon). A picture of any size is a row of patches, a newline token, the next row, ..., then the text:

    p p p p p NEWLINE p p p p p NEWLINE <s> words of the prompt <0x04> answer

Patches have no positions, no norm and no mask of their own: the newlines alone tell where a row ends. The decoder is
pre-norm with biases, causal, with layer norm on every head's queries and keys, rotary on half of each head, and the
MLP W_2 relu(W_1 x)^2.
"""
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..inputs import image
from ..model.decoder import KVCache
from ..nn import ops
from ..nn.arrays import namespace, to_numpy
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import below
from . import transformer
from .pair import Relative
from .registry import Case, Checkpoint
from .transformer import (
    ACTIVATIONS, Transformer, at, dense, dense_shapes, filled, join_heads, layer_norm, mlp, next_word_loss, norm_shapes,
    project, rotary_tables, sublayer)

HALF = np.full(3, 0.5, np.float32)
PADDING = 1                                                 # the byte that fills a picture's last patches: nearly black
PERSIMMON = transformer.Names("input_layernorm", ("self_attn.query_key_value.",), "self_attn.dense",
                              "post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


@dataclass(frozen=True)
class Names:
    """What a checkpoint calls the linear layer of patches, the decoder and the output head"""
    patches: str
    decoder: str
    head: str


HUB = Names("vision_embed_tokens", "language_model.model", "language_model.lm_head")
HUGGING_FACE = Names("model.vision_embed_tokens", "model.language_model", "lm_head")        # in transformers' memory


@dataclass(frozen=True)
class Config:
    """The geometry of a Fuyu."""
    transformer: Transformer
    vocabulary: int
    patch: int                          # pixels a side
    size: tuple                         # (height, width) of the largest picture
    rope_base: float
    rotated: int                        # numbers of each head that are turned: the first ones
    image_token: int                    # the id in whose places patches are put
    newline: int                        # the id after every row of patches
    names: Names = HUB

    @property
    def head_size(self):
        return self.transformer.width // self.transformer.heads

    # what a KVCache asks for
    num_hidden_layers = property(lambda self: self.transformer.layers)
    num_key_value_heads = property(lambda self: self.transformer.heads)


def hugging_face(fields, names=HUB):
    """Config of the fields of a FuyuConfig, which is a folder's config.json"""
    text = fields.group("text_config") if "text_config" in fields else fields
    for name, usual in (("qk_layernorm", True), ("rope_scaling", None), ("tie_word_embeddings", False)):
        if text.get(name, usual) != usual:
            text.refuse(name, text.get(name), f"{usual!r}, which is all that is known here")
    width, heads = text.whole("hidden_size", 4096), text.whole("num_attention_heads", 64)
    if width % heads:
        text.refuse("num_attention_heads", heads, f"a divisor of hidden_size {width}")
    share = text.number("partial_rotary_factor", 0.5, high=1)
    rotated = int(width // heads * share)
    if rotated % 2 or not rotated:
        text.refuse("partial_rotary_factor", share, f"a share of {width // heads} that is even and not 0")
    decoder = Transformer(width, text.whole("intermediate_size", 16384), text.layers("num_hidden_layers", 36), heads,
                          text.number("layer_norm_eps", 1e-5, high=1), text.one_of("hidden_act", ACTIVATIONS, "relu2"),
                          PERSIMMON, causal=True)
    patch, size = fields.whole("patch_size", 30), fields.group("size")
    sides = size.whole("height", 1080), size.whole("width", 1920)
    for name, side in zip(("height", "width"), sides):
        if side % patch:
            size.refuse(name, side, f"a multiple of patch_size {patch}")
    return Config(decoder, text.whole("vocab_size", 262144), patch, sides, text.number("rope_theta", 25000.0, 1),
                  rotated, fields.whole("image_token_id", 71011, 0), fields.whole("image_newline_id", 71019, 0), names)


def shapes(config):
    """{name: shape} of every tensor"""
    decoder, names, V = config.transformer, config.names, config.vocabulary
    found = transformer.shapes(decoder)
    for i in range(decoder.layers):
        for name in ("q_layernorm", "k_layernorm"):
            found |= norm_shapes(f"{i}.self_attn.{name}", config.head_size)
    return {**dense_shapes(names.patches, decoder.width, 3 * config.patch ** 2),
            f"{names.decoder}.embed_tokens.weight": (V, decoder.width), **below(f"{names.decoder}.layers", found),
            **norm_shapes(f"{names.decoder}.final_layernorm", decoder.width),
            f"{names.head}.weight": (V, decoder.width)}


# ----------------------------------------------------------------------------------------------------------- pictures

def shrunk(picture, size):
    """The Pillow picture, resized if it does not fit into (height, width): never enlarged, aspect kept

    Both sides become int(side * scale), the product of floating-point numbers, so that 55 columns for 28 become 27.
    """
    height, width = size
    if picture.height <= height and picture.width <= width:
        return picture
    scale = min(height / picture.height, width / picture.width)
    rows, columns = int(picture.height * scale), int(picture.width * scale)
    bilinear = Image.Resampling.BILINEAR
    return picture.resize((columns, picture.height), bilinear).resize((columns, rows), bilinear)


def patches(picture, patch):
    """A picture's patches, row by row, in each row, column and colour; and the grid     -> (n m, p p 3), (n, m)

    Pixels are (byte / 255 - 0.5) / 0.5. The last patches of rows and columns are filled with the byte PADDING.
    """
    n, m = -(-picture.height // patch), -(-picture.width // patch)
    canvas = np.full((n * patch, m * patch, 3), PADDING, np.uint8)
    canvas[:picture.height, :picture.width] = np.asarray(picture)
    pixels = image.normalised(canvas, HALF, HALF).transpose(1, 2, 0)
    return pixels.reshape(n, patch, m, patch, 3).swapaxes(1, 2).reshape(n * m, -1), (n, m)


def layout(grid, prompt, config):
    """[id, ...] of a picture and the prompt after it: image tokens, a newline after every row, the prompt's ids"""
    n, m = grid
    return ([config.image_token] * m + [config.newline]) * n + list(prompt)


def left_padded(rows, pad=0):
    """Rows of ids of any length, filled on the left with `pad`         -> (B, T), mask (B, T) with 0 for padding"""
    T = max(map(len, rows))
    ids, mask = np.full((len(rows), T), pad), np.zeros((len(rows), T), int)
    for i, row in enumerate(rows):
        ids[i, T - len(row):], mask[i, T - len(row):] = row, 1
    return ids, mask


def to_text(numbers, scale):
    """Coordinates in pixels of the given picture as the text has them: in pairs of pixels of the shrunk one

    scale: the shrunk picture's height by the given one's, for columns as well. Half-way numbers go to the even one.
    """
    return [round(number / 2 * scale) for number in numbers]


def to_pixels(numbers, scale):
    """The way back, about"""
    return [2 * int(number / scale) for number in numbers]


# ------------------------------------------------------------------------------------------------------------ decoder

def embed(ids, squares, p, config):
    """The vectors of all tokens: a row of the table, or W patch + b     ids (B, T), squares (N, p p 3) -> (B, T, D)

    squares: the patches of all pictures, in order. Raises UserError unless ids have N image tokens. pull(dx, g) ->
    dsquares.
    """
    rows, pull_linear = dense(squares, p, f"{config.names.patches}.")
    record("patch_embeds", rows)
    x, pull_filled = filled(ids, rows, p, f"{config.names.decoder}.embed_tokens.weight", config.image_token)
    record("inputs_embeds", x)
    return x, lambda dx, g: pull_linear(pull_filled(dx, g), g)


@op
def turned(x, cos, sin):
    """`rotary` of the first numbers of each head, as many as there are angles for      x (B, H, T, d) -> x's"""
    xp, n = namespace(x), 2 * cos.shape[-1]
    y, pull_rotary = ops.rotary(x[..., :n], cos, sin)

    def pull(dy):
        return xp.concatenate([pull_rotary(dy[..., :n]), dy[..., n:]], -1)
    return xp.concatenate([y, x[..., n:]], -1), pull


def attention(x, p, config, rope, mask, cache, i):
    """Multi-head attention, causal, with layer norm on each head's queries and keys     (B, T, W) -> (B, T, W)

    The rows of the joint matrix are ordered head, then q | k | v, then d. One norm serves all heads, before rotation.
    """
    xp, (B, T, W), H, eps = namespace(x), x.shape, config.transformer.heads, config.transformer.eps
    qkv, pull_qkv = dense(x, p, "query_key_value.")
    qkv = qkv.reshape(B, T, H, 3, W // H)
    q, pull_q_norm = layer_norm(qkv[..., 0, :], p, "q_layernorm", eps)
    k, pull_k_norm = layer_norm(qkv[..., 1, :], p, "k_layernorm", eps)
    record(f"q_norm{i}", q)
    record(f"k_norm{i}", k)
    q, pull_q = turned(q.swapaxes(1, 2), *rope)                                     # (B, H, T, d)
    k, pull_k = turned(k.swapaxes(1, 2), *rope)
    v = qkv[..., 2, :].swapaxes(1, 2)
    keys, values, mask = cache.append(k, v) if cache else (k, v, mask)
    y, pull_attention = ops.attention(q, keys, values, mask)
    y, pull_out = dense(join_heads(y), p, "dense.")
    record(f"attn{i}", y)

    def pull(dy, g):
        dq, dk, dv = pull_attention(pull_out(dy, g).reshape(B, T, H, -1).swapaxes(1, 2))
        dq = pull_q_norm(pull_q(dq).swapaxes(1, 2), g)
        dk = pull_k_norm(pull_k(dk).swapaxes(1, 2), g)
        return pull_qkv(xp.stack([dq, dk, dv.swapaxes(1, 2)], 3).reshape(B, T, -1), g)
    return y, pull


def block(x, p, config, rope, mask, cache, i):
    """x + attention(LN(x)), then x + W_2 relu(W_1 LN(x) + b_1)^2 + b_2                  (B, T, W) -> (B, T, W)"""
    decoder = config.transformer

    def attend(n):
        y, pull = attention(n, p.self_attn, config, rope, mask, cache, i)
        return y, lambda dy, g: pull(dy, g.self_attn)

    def feed_forward(n):
        y, pull = mlp(n, p, decoder)
        record(f"mlp{i}", y)
        return y, pull
    x, pull_attention = sublayer(x, p, PERSIMMON.norm1, decoder.eps, attend)
    y, pull_mlp = sublayer(x, p, PERSIMMON.norm2, decoder.eps, feed_forward)
    record(f"hidden{i + 1}", y)
    return y, lambda dy, g: pull_attention(pull_mlp(dy, g), g)


@op
def language(x, p, config, mask=None, cache=None, keep="all"):
    """Logits of the next token, at every token             vectors (B, T, D) -> (B, T, V)

    mask (B, T): 0 marks padding. cache: a KVCache with the tokens before these, which is extended. keep: see
    ops.checkpointed.
    """
    xp, T, start = namespace(x), x.shape[1], cache.length if cache else 0
    mask = None if mask is None or to_numpy(mask).all() else xp.asarray(mask) != 0
    rope = rotary_tables(start, T, config.rope_base, config.rotated, x)
    for name, table in zip(("rope_cos", "rope_sin"), rope):
        record(name, xp.concatenate([table, table], -1))
    if cache:
        cache.reserve(T, mask)
    names, pulls = config.names, []
    for i in range(config.transformer.layers):
        x, pull_block = ops.checkpointed(block, x, at(p, names.decoder).layers[i], config, rope, mask,
                                         cache.layer(i) if cache else None, i, keep=keep)
        pulls.append(pull_block)
    if cache:
        cache.advance(T)
    h, pull_norm = layer_norm(x, p, f"{names.decoder}.final_layernorm", config.transformer.eps)
    record("last", h)
    y, pull_head = project(h, p, f"{names.head}.weight")

    def pull(dy, g):
        dx = pull_norm(pull_head(dy, g), g)
        for i in reversed(range(len(pulls))):
            dx = pulls[i](dx, g[names.decoder].layers[i])
        return dx
    return y, pull


def logits(ids, squares, p, config, mask=None, keep="all"):
    """Logits of the next token, at every token             ids (B, T), squares (N, p p 3) -> (B, T, V)

    ids: see `layout`; squares: the `patches` of all pictures. mask, keep: see `language`. pull(dlogits, g) -> dsquares.
    """
    x, pull_embed = embed(namespace(squares).asarray(ids), squares, p, config)
    y, pull_language = language(x, p, config, mask, keep=keep)
    return y, lambda dy, g: pull_embed(pull_language(dy, g), g)


def loss(ids, squares, labels, p, config, mask=None, keep="all"):
    """Cross entropy of each next token; see next_word_loss for labels           -> scalar"""
    z, pull_logits = logits(ids, squares, p, config, mask, keep)
    record("logits", z)
    value, pull_loss = next_word_loss(z, labels)
    return value, lambda dloss, g: pull_logits(pull_loss(dloss), g)


# ---------------------------------------------------------------------------------------------------------- the model

class Fuyu(Relative):
    """A Fuyu with its weights; `load` makes one. The real one has not been loaded here, see pair.py.

    Tensors have the names of the hub's files, which transformers up to version 4 writes as well.
    """
    kind = "a Fuyu"

    def patches(self, picture):
        """A picture's patches and their grid; see `layout` for the ids that belong to them      -> (n m, p p 3), (n, m)
        """
        squares, grid = patches(shrunk(image.load(picture), self.config.size), self.config.patch)
        return self.convert(squares), grid

    def logits(self, ids, squares, mask=None):
        """Logits of the next token, at every token         ids (B, T), squares (N, p p 3) -> (B, T, V)"""
        return logits(ids, squares, self.p, self.config, mask, keep=None)[0]

    def answer(self, ids, squares, limit=100, end=2):
        """The ids that follow, each the likeliest          ids (1, T) -> [id, ...]"""
        xp, p, config = namespace(squares), self.p, self.config
        x, _ = embed(xp.asarray(ids), squares, p, config)
        cache = KVCache(config, 1, x.shape[1] + limit, xp, x.dtype)
        return list(transformer.greedy(x, lambda x: language(x, p, config, cache=cache, keep=None)[0],
                                       at(p, config.names.decoder).embed_tokens.weight, limit, end))


CHECKPOINTS = [Checkpoint(Fuyu.kind, lambda fields: fields.get("model_type") == "fuyu", hugging_face, shapes, Fuyu,
                          ("*.rotary_emb.inv_freq",))]


# ------------------------------------------------------------------------------------------------------- golden cases

def case(x, p, config):
    config, special = config
    xp, rows, places, y = namespace(x["patches0"]), [], [], {}
    for b in range(len(x["answer"])):
        given = Image.fromarray(to_numpy(x[f"image{b}"]).astype(np.uint8))
        picture = shrunk(given, config.size)
        squares, grid = patches(picture, config.patch)
        ids = layout(grid, [special["bos"], *x[f"prompt{b}"].tolist(), special["boa"]], config)
        is_patch = np.array(ids) == config.image_token
        places.append(np.where(is_patch, is_patch.cumsum() - 1, -1).tolist() + [-1] * special["max_tokens_to_generate"])
        rows.append(ids + x["answer"][b].tolist())
        y |= {f"resized{b}": np.asarray(picture).astype(int), f"patches{b}": squares, f"tokens{b}": np.array(ids),
              f"patch_indices{b}": np.array(places[b]),
              f"box_scaled{b}": np.array(to_text(x[f"box{b}"].tolist(), picture.height / given.height))}
    ids, mask = left_padded(rows, special["pad"])
    labels = np.where(np.arange(ids.shape[1]) < ids.shape[1] - x["answer"].shape[1], -100, ids)
    squares = [x[f"patches{b}"] for b in range(len(rows))]
    value, pull_loss = loss(xp.asarray(ids), xp.concatenate(squares), xp.asarray(labels), p, config, mask)
    y |= {"input_ids": ids, "attention_mask": mask, "labels": labels, "loss": value,
          "image_patches_indices": left_padded(places, -1)[0]}

    def pull(dy, g):
        dsquares = pull_loss(dy["loss"], g)
        stops = np.cumsum([0, *map(len, squares)]).tolist()
        return {f"patches{b}": dsquares[stops[b]:stops[b + 1]] for b in range(len(squares))}
    return y, pull


SPECIAL = "bos", "boa", "pad", "max_tokens_to_generate"
CASES = {"fuyu": Case(lambda fields, _: (hugging_face(fields, HUGGING_FACE), {
    name: fields.whole(name, low=0) for name in SPECIAL}), lambda config: shapes(config[0]), case)}
