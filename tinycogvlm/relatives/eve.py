"""EVE: no vision encoder; patches enter the language model by a thin layer, and a teacher helps while it learns.

Version 1, Diao et al. 2024 (arXiv 2406.11832). Patch embedding layer: a convolution; every 2 x 2 patches become one
token by attention of their mean to them (CA1); CLS attends to all tokens (CA2); a split token ends every row. Vicuna
reads [CLS, row, SPLIT, row, SPLIT, ...]. Patch aligning layer, while training alone: what the language model's hidden
states say of each patch, fused over layers by attention (CA3), shall point where a CLIP's feature of it points.

Version 2, Diao et al. 2025 (arXiv 2502.06788), "divide and conquer": Qwen2 with a second set of ALL of a block's
weights for the tokens of pictures, CLS and split tokens included: CogVLM's visual expert, but with biases and with
norms of its own, and without the exception of the last token. No teacher, no CLS attention: two convolutions.
"""
import math
import re
from dataclasses import dataclass

import numpy as np

from ..inputs import image
from ..model import expert
from ..model.decoder import KVCache
from ..nn import ops
from ..nn.arrays import namespace, to_numpy
from ..nn.convolution import adaptive_average_pool, convolution
from ..nn.more_ops import normalise
from ..nn.swap import op
from ..nn.trace import record, recording
from ..nn.tree import below
from . import llava, transformer
from .connectors import mlp, mlp_shapes
from .llava import Llama, Names
from .pair import Relative
from .registry import Case, Checkpoint
from .transformer import (
    at, dense, dense_shapes, join_heads, layer_norm, next_word_loss, norm_shapes, project, rotary_tables, split_heads,
    with_joined)

NORM_EPS = 1e-5                                             # of the layer norms of both layers
HEADS = 8                                                   # of all three attentions
IMAGE_TOKEN = -200
ALIGNER = "model.vision_tower_compressor"                   # the patch aligning layer, while training
TEACHER = 336                                               # pixels a side of the pictures that the teacher sees


@dataclass(frozen=True)
class Embedding:
    """The geometry of the layer by which patches enter."""
    width: int                          # between the convolution and what follows
    out: int                            # the language model's
    patch: int                          # pixels a side
    names: Names
    merged: int = 2                     # patches a side that become one token


@dataclass(frozen=True)
class Config:
    """The geometry of an EVE. `own` is what tells the versions apart: in version 1 pictures' tokens have no experts."""
    embedding: Embedding
    llama: Llama
    size: int                           # pixels: of the longer side; in version 2 the root of the area
    own: tuple = ()                     # parts of a block that pictures' tokens have for themselves, among PARTS
    image_token: int = IMAGE_TOKEN      # the id in whose places pictures' tokens are put

    @property
    def names(self):
        return self.embedding.names


PARTS = "self_attn", "mlp", "layernorm"


def hugging_face(fields):
    """Config of the fields of version 1's config.json"""
    fields.one_of("mm_projector_type", ("mlp2x_gelu",), "mlp2x_gelu")
    llama = llava.llama_of(fields, kinds=None)
    names = Names("model.vision_tower", ("model.mm_projector.0", "model.mm_projector.2"), "")
    return Config(Embedding(fields.whole("mm_hidden_size", 1024), llama.hidden_size, 14, names), llama,
                  size_of(fields, r"eve-patch14-anypixel-(672|1344)", "eve-patch14-anypixel-672"))


def hugging_face_v2(fields):
    """Config of the fields of version 2's config.json"""
    llama = llava.llama_of(fields, kinds=None)
    names = Names("model.vision_tower", (), "")
    return Config(Embedding(fields.whole("mm_hidden_size", 1024), llama.hidden_size, 16, names), llama,
                  size_of(fields, r"eve-anyratio-res(\d+)-patch16", "eve-anyratio-res800-patch16"), own_of(fields))


def size_of(fields, pattern, example):
    """The number in the name of the folder with what prepares pictures, all that config.json says of it"""
    name = fields.get("mm_vision_tower", "")
    found = re.search(pattern, str(name))
    if not found:
        fields.refuse("mm_vision_tower", name, f"a name such as {example}, which tells the pixels of a picture")
    return int(found[1])


def own_of(fields):
    """Which parts of a block have experts, of version 2's field: "self_attn-mlp-layernorm" """
    parts = str(fields.get("moe_part", "-".join(PARTS))).split("-")
    if not set(parts) <= set(PARTS):
        fields.refuse("moe_part", fields.get("moe_part"), f"some of {', '.join(PARTS)}, with - between them")
    return tuple(part for part in PARTS if part in parts)


def shapes(config):
    """{name: shape} of every tensor of version 1; the patch aligning layer is no part of it"""
    return embedding_shapes(config.embedding) | llava.language_shapes(config.llama)


def embedding_shapes(config):
    """{name: shape} of version 1's patch embedding layer and the projector after it"""
    C = config.width
    found = {"patch_embedding.weight": (C, 3, config.patch, config.patch), "class_embedding": (C,),
             "split_embedding": (C,)}
    for name in ("local_attention", "global_attention"):
        found |= norm_shapes(f"{name}.q.0", C) | norm_shapes(f"{name}.kv.0", C) | dense_shapes(f"{name}.proj", C, C)
        found |= {f"{name}.q.1.weight": (C, C), f"{name}.kv.1.weight": (2 * C, C)}
    return below(config.names.tower, found) | mlp_shapes(config.names.projector, C, config.out)


def shapes_v2(config):
    """{name: shape} of every tensor of version 2"""
    found = below(config.names.tower, embedding_shapes_v2(config.embedding))
    found |= {name: shape for name, shape in llava.language_shapes(config.llama).items() if ".layers." not in name}
    return found | below("model.layers", layers_shapes(config))


def embedding_shapes_v2(config):
    """{name: shape} of version 2's patch embedding"""
    C, D, n, m = config.width, config.out, config.patch, config.merged
    return {"patch_embedding.0.weight": (C, 3, n, n), "patch_embedding.0.bias": (C,),
            "patch_embedding.2.weight": (D, C, m, m), "patch_embedding.2.bias": (D,), "class_embedding": (D,),
            "split_embedding": (D,)}


def layers_shapes(config):
    """{name: shape} of version 2's blocks: "0.self_attn.q_proj.weight", ..."""
    llama, one, found = config.llama, {}, {}
    D, F, group = llama.hidden_size, llama.intermediate_size, llama.num_key_value_heads * llama.head_size
    for prefix, parts in (("", PARTS), ("moe_", config.own)):
        if "self_attn" in parts:
            for name, rows in (("q", D), ("k", group), ("v", group)):
                one |= dense_shapes(f"self_attn.{prefix}{name}_proj", rows, D)
            one[f"self_attn.{prefix}o_proj.weight"] = (D, D)
        if "mlp" in parts:
            one |= below(f"{prefix}mlp", {"gate_proj.weight": (F, D), "up_proj.weight": (F, D),
                                          "down_proj.weight": (D, F)})
        if "layernorm" in parts:
            one |= {f"{prefix}input_layernorm.weight": (D,), f"{prefix}post_attention_layernorm.weight": (D,)}
    for i in range(llama.num_hidden_layers):
        found |= below(str(i), one)
    return found


# ----------------------------------------------------------------------------------------------------------- pictures

def sides(size, config):
    """(width, height) to which version 1 resizes a picture: the longer side is `size`, any ratio is kept, about

    The shorter side is rounded up to whole patches at the teacher's resolution, so that both see the same cells.
    """
    long, short = max(size), min(size)
    few = math.ceil(TEACHER * short / long / config.embedding.patch) * config.embedding.patch
    scaled = few * (config.size // TEACHER)
    return (config.size, scaled) if size[0] >= size[1] else (scaled, config.size)


def sides_v2(size, config):
    """(width, height) to which version 2 resizes a picture: area size^2, both sides rounded up to whole tokens"""
    scale = math.sqrt(size[0] * size[1]) / config.size
    step = config.embedding.patch * config.embedding.merged
    return tuple(max(math.ceil(side / scale / step), 1) * step for side in size)


# ---------------------------------------------------------------------------------------------- patch embedding layer

@op
def one_query(q, k, v, heads):
    """Multi-head attention of one query each to a few keys       q (N, C), k and v (N, S, C) -> (N, C)

    y = softmax(q k^T / sqrt(C)) v in every head: the scale is that of the whole width, not of a head.
    """
    root = math.sqrt(heads)                                 # ops.attention divides by sqrt(C / heads)
    y, pull_attention = ops.attention(split_heads(q[:, None], heads) / root, split_heads(k, heads),
                                      split_heads(v, heads), causal=False)

    def pull(dy):
        dq, dk, dv = pull_attention(split_heads(dy[:, None], heads))
        return join_heads(dq)[:, 0] / root, join_heads(dk), join_heads(dv)
    return join_heads(y)[:, 0], pull


def gathered(few, many, p):
    """few + W_o attention of LN(few) to LN(many), and b_o: CA1 and CA2          few (N, C), many (N, S, C) -> (N, C)"""
    xp, C = namespace(few), few.shape[1]
    n, pull_few_norm = layer_norm(few, p, "q.0", NORM_EPS)
    q, pull_q = dense(n, p, "q.1.")
    n, pull_many_norm = layer_norm(many, p, "kv.0", NORM_EPS)
    kv, pull_kv = dense(n, p, "kv.1.")
    a, pull_attention = one_query(q, kv[..., :C], kv[..., C:], HEADS)
    y, pull_out = dense(a, p, "proj.")

    def pull(dy, g):
        dq, dk, dv = pull_attention(pull_out(dy, g))
        dmany = pull_many_norm(pull_kv(xp.concatenate([dk, dv], -1), g), g)
        return dy + pull_few_norm(pull_q(dq, g), g), dmany
    return few + y, pull


def in_rows(x, cls, p):
    """[CLS, row 1, SPLIT, row 2, SPLIT, ...]               x (h, w, C), cls (C,) -> (1 + h (w + 1), C)"""
    xp, (h, w, C) = namespace(x), x.shape
    rows = xp.concatenate([x, xp.broadcast_to(p.split_embedding, (h, 1, C))], 1)

    def pull(dy, g):
        drows = dy[1:].reshape(h, w + 1, C)
        g.add("split_embedding", lambda: drows[:, -1].sum(0))
        return drows[:, :-1], dy[0]
    return xp.concatenate([cls[None], rows.reshape(-1, C)]), pull


@op
def squares(x, s):
    """The s s patches of every token, row by row           x (C, n, m) -> (h w, s s, C), h = n // s, w = m // s"""
    C, n, m = x.shape
    h, w = n // s, m // s
    y = x[:, :h * s, :w * s].reshape(C, h, s, w, s).transpose(1, 3, 2, 4, 0).reshape(h * w, s * s, C)

    def pull(dy):
        dx = namespace(dy).zeros(x.shape, dy.dtype)
        dx[:, :h * s, :w * s] = dy.reshape(h, w, s, s, C).transpose(4, 0, 2, 1, 3).reshape(C, h * s, w * s)
        return dx
    return y, pull


def embed_patches(pixels, p, config):
    """Version 1: a picture's tokens in the language model, and their grid       (3, N, M) -> (1 + h (w + 1), D), (h, w)

    The original puts pictures into a square and cuts them out again by a mask; here they come as they are.
    """
    tower, s, C = at(p, config.names.tower), config.merged, config.width
    features, pull_patches = convolution(pixels[None], tower.patch_embedding.weight, stride=config.patch)
    h, w = (side // s for side in features.shape[2:])
    many, pull_squares = squares(features[0], s)                                    # (h w, s s, C)
    few, pull_local = gathered(many.mean(1), many, tower.local_attention)           # (h w, C)
    cls, pull_global = gathered(tower.class_embedding[None], few[None], tower.global_attention)
    x, pull_rows = in_rows(few.reshape(h, w, C), cls[0], tower)
    y, pull_projector = mlp(x, p, config.names.projector)

    def pull(dy, g):
        inside = g[config.names.tower]
        dfew, dcls = pull_rows(pull_projector(dy, g), inside)
        dclass, dseen = pull_global(dcls[None], inside.global_attention)
        inside.add("class_embedding", lambda: dclass[0])
        dmean, dmany = pull_local(dfew.reshape(-1, C) + dseen[0], inside.local_attention)
        dfeatures = pull_squares(dmany + dmean[:, None] / (s * s))
        return pull_patches(dfeatures[None], inside.patch_embedding)[0]
    return y, (h, w), pull


def embed_patches_v2(pixels, p, config):
    """Version 2: conv 16 x 16, GELU, conv 2 x 2, CLS first, SPLIT after every row       (3, N, M) -> (1 + h (w + 1), D)
    """
    f, pull_conv1 = convolution(pixels[None], p.patch_embedding[0].weight, p.patch_embedding[0].bias, config.patch)
    a, pull_gelu = ops.gelu(f)
    f, pull_conv2 = convolution(a, p.patch_embedding[2].weight, p.patch_embedding[2].bias, config.merged)
    y, pull_rows = in_rows(f[0].transpose(1, 2, 0), p.class_embedding, p)

    def pull(dy, g):
        drows, dcls = pull_rows(dy, g)
        g.add("class_embedding", lambda: dcls)
        df = pull_conv2(drows.transpose(2, 0, 1)[None], g.patch_embedding[2])
        return pull_conv1(pull_gelu(df), g.patch_embedding[0])[0]
    return y, f.shape[2:], pull


# ----------------------------------------------------------------------------------------------- patch aligning layer

@dataclass(frozen=True)
class Aligning:
    """The geometry of the patch aligning layer."""
    width: int                          # of the language model
    teacher: int                        # width of the teacher's features
    layers: tuple                       # hidden states that are looked at: L, L - 4, ..., 0, where 0 is the embeddings


def aligning_of(fields):
    last, step = fields.layers("num_layer"), fields.whole("layer_rate", 4)
    if step > last:
        fields.refuse("layer_rate", step, f"at most num_layer {last}")
    return Aligning(fields.whole("llm"), fields.whole("clip"), tuple(range(last, -1, -step)))


def aligning_shapes(config):
    """{name: shape} of the patch aligning layer"""
    D, C = config.width, config.teacher
    found = dense_shapes("input_layer", C, D) | dense_shapes("output_layer", C, C)
    for j in range(len(config.layers)):
        found |= norm_shapes(f"norm_layer.{j}.0", D) | {f"norm_layer.{j}.1.weight": (C, D)}
    return found


def student(states, grid, p):
    """What the language model says of the teacher's patches      states (K, n, m, D), grid (n', m') -> (n' m', C)

    W_in x + W_out f, x the mean of the last layer's states over each patch, f the attention of its projection to those
    of the other layers, patch by patch (CA3).
    """
    xp, (K, _, _, D) = namespace(states), states.shape
    few, pull_pool = adaptive_average_pool(states.transpose(0, 3, 1, 2), grid)      # (K, D, n', m')
    few = few.reshape(K, D, -1).swapaxes(1, 2)                                      # (K, n' m', D)
    each, pulls = [], []
    for j in range(K):
        x, pull_norm = layer_norm(few[j], p, f"norm_layer.{j}.0", NORM_EPS)
        x, pull_linear = project(x, p, f"norm_layer.{j}.1.weight")
        each.append(x)
        pulls.append((pull_norm, pull_linear))
    others = xp.stack(each[1:], 1)                                                  # (n' m', K - 1, C)
    last, pull_in = dense(few[0], p, "input_layer.")
    fused, pull_attention = one_query(each[0], others, others, HEADS)
    y, pull_out = dense(fused, p, "output_layer.")

    def pull(dy, g):
        dq, dk, dv = pull_attention(pull_out(dy, g))
        deach = [dq, *(dk + dv).swapaxes(0, 1)]
        dfew = xp.stack([pull_norm(pull_linear(dx, g), g) for (pull_norm, pull_linear), dx in zip(pulls, deach)])
        dfew[0] += pull_in(dy, g)
        return pull_pool(dfew.swapaxes(1, 2).reshape(K, D, *grid)).transpose(0, 2, 3, 1)
    return last + y, pull


def aligning_loss(hidden, starts, grids, teachers, p):
    """1 - the mean cosine of each patch's student and teacher, the mean over pictures           -> scalar

    hidden:   [states (B, T, D) of one layer, ...], in the order of Aligning.layers.
    starts:   for each row, the place of its picture's CLS; None where it has no picture.
    grids:    for each row, (h, w) of the picture's tokens.
    teachers: for each row, the teacher's features of the picture (n', m', C), which are constants.

    The paper has the squared distance of the vectors of length 1, which is twice this. pull(dloss, g) -> [dhidden].
    """
    xp, total, pulls = namespace(hidden[0]), 0.0, []
    count = max(1, sum(start is not None for start in starts))
    for b, (start, grid, teacher) in enumerate(zip(starts, grids, teachers)):
        if start is None:
            continue
        h, w = grid
        places = (b, slice(start + 1, start + 1 + h * (w + 1)))                     # CLS is left out, SPLIT below
        states = xp.stack([layer[places].reshape(h, w + 1, -1)[:, :-1] for layer in hidden])
        seen, pull_student = student(states, teacher.shape[:2], p)
        unit, pull_unit = normalise(seen)
        target, _ = normalise(teacher.reshape(len(seen), -1))
        total += (1 - (unit * target).sum(-1).mean()) / count
        pulls.append((places, states, target, pull_unit, pull_student))

    def pull(dloss, g):
        dhidden = [xp.zeros_like(layer) for layer in hidden]
        for places, states, target, pull_unit, pull_student in pulls:
            dstates = pull_student(pull_unit(target * (-dloss / (len(target) * count))), g)
            K, h, w, D = states.shape
            for dlayer, dstate in zip(dhidden, dstates):
                dlayer[places].reshape(h, w + 1, D)[:, :-1] += dstate
        return dhidden
    return total, pull


# -------------------------------------------------------------------------------------------------- divide and conquer

@dataclass(frozen=True)
class Tokens:
    """What model.expert asks of a Route: which expert computes which tokens, and which tokens are no padding"""
    experts: list
    mask: object


@op
def tokens_of(visual, mask, xp):
    """Tokens of visual (B, T), True on pictures' tokens    A single token, as in decoding, is always text."""
    visual = to_numpy(visual).reshape(-1) & (visual.shape[1] > 1)
    experts = [(name, xp.asarray(np.flatnonzero(mine))) for name, mine in (("language", ~visual), ("vision", visual))
               if mine.any()]
    return Tokens(experts, None if mask is None or to_numpy(mask).all() else xp.asarray(mask) != 0)


@op
def parts_of(own):
    """{what model.expert calls a block's tensor: version 2's names of what stands there, one below the other}"""
    found = {}
    for name, parts in (("language", ()), ("vision", own)):
        attention, inside, norm = ("moe_" * (part in parts) for part in PARTS)
        for kind in ("weight", "bias"):
            found[f"self_attn.{name}_expert_query_key_value.{kind}"] = tuple(
                f"self_attn.{attention}{part}_proj.{kind}" for part in "qkv")
        found[f"self_attn.{name}_expert_dense.weight"] = (f"self_attn.{attention}o_proj.weight",)
        for part in ("gate", "up", "down"):
            found[f"mlp.{name}_mlp.{part}_proj.weight"] = (f"{inside}mlp.{part}_proj.weight",)
        for part in ("input_layernorm", "post_attention_layernorm"):
            found[f"{name}_{part}.weight"] = (f"{norm}{part}.weight",)
    return found


def block(x, p, tokens, rope, config, cache, i):
    """x + attention(norm(x)), then x + mlp(norm(x)), each with the weights of the token's kind  (B, T, D) -> (B, T, D)
    """
    llama = config.llama

    def norm(rows, p):
        return ops.rms_norm(rows, p.weight, llama.rms_norm_eps)

    def run(x, p):
        h, pull_norm1 = expert.routed(norm, x, p, "input_layernorm", tokens)
        record(f"attn_in{i}", h)
        a, pull_attention = expert.attention(h, p.self_attn, tokens, rope, llama, cache)
        record(f"attn{i}", a)
        x1 = x + a
        h, pull_norm2 = expert.routed(norm, x1, p, "post_attention_layernorm", tokens)
        m, pull_mlp = expert.routed(expert.mlp, h, p.mlp, "mlp", tokens)

        def pull(dy, g):
            dx1 = dy + pull_norm2(pull_mlp(dy, g.mlp), g)
            return dx1 + pull_norm1(pull_attention(dx1, g.self_attn), g)
        return x1 + m, pull
    return with_joined(run, x, p, parts_of(config.own))


@op
def blocks(x, visual, p, config, mask=None, cache=None, keep="all"):
    """All of version 2's blocks and the final norm         x (B, T, D), visual (B, T) -> (B, T, D)

    visual: True on a picture's tokens, CLS and SPLIT included. mask (B, T): 0 marks padding. cache: a decoder.KVCache
    with the tokens before these, which is extended. keep: see ops.checkpointed.
    """
    xp, T, llama = namespace(x), x.shape[1], config.llama
    tokens, pulls = tokens_of(visual, mask, xp), []
    rope = rotary_tables(cache.length if cache else 0, T, llama.rope_base, llama.head_size, x)
    if cache:
        cache.reserve(T, tokens.mask)
    for i in range(llama.num_hidden_layers):
        record(f"hidden{i}", x)
        x, pull_block = ops.checkpointed(block, x, p.layers[i], tokens, rope, config,
                                         cache.layer(i) if cache else None, i, keep=keep)
        pulls.append(pull_block)
    if cache:
        cache.advance(T)
    y, pull_norm = ops.rms_norm(x, p.norm.weight, llama.rms_norm_eps)

    def pull(dy, g):
        dx = pull_norm(dy, g.norm)
        for i in reversed(range(len(pulls))):
            dx = pulls[i](dx, g.layers[i])
        return dx
    return y, pull


# --------------------------------------------------------------------------------------------------------- both whole

def language(x, visual, p, config, mask=None, cache=None, keep="all"):
    """Logits of the next token, at every token             x (B, T, D), visual (B, T) -> (B, T, V)   See `blocks`."""
    if not config.own:
        return llava.language(x, p, config, mask, cache, keep)
    h, pull_blocks = blocks(x, visual, p.model, config, mask, cache, keep)
    y, pull_head = project(h, p, "lm_head.weight")
    return y, lambda dy, g: pull_blocks(pull_head(dy, g), g.model)


def pictures_tokens(pictures, p, config):
    """The tokens of pictures (3, N, M) of any sizes, one after the other        -> (N, D), [(h, w), ...]

    pull(dy, g) -> [dpixels, ...]
    """
    v2, tower = bool(config.own), config.names.tower
    done = [embed_patches_v2(pixels, at(p, tower), config.embedding) if v2 else
            embed_patches(pixels, p, config.embedding) for pixels in pictures]
    stops = np.cumsum([0, *(len(y) for y, *_ in done)]).tolist()

    def pull(dy, g):
        return [pull_one(dy[stops[i]:stops[i + 1]], g[tower] if v2 else g) for i, (*_, pull_one) in enumerate(done)]
    return namespace(pictures[0]).concatenate([y for y, *_ in done]), [grid for _, grid, _ in done], pull


def with_room(row, grids, config):
    """[id, ...] of one text, its image tokens as many times as the pictures have tokens: 1 + h (w + 1)"""
    grids = iter(grids)
    rooms = [1 + h * (w + 1) if token == config.image_token else 1 for token in row
             for h, w in [next(grids, (0, 0)) if token == config.image_token else (0, 0)]]
    return [token for token, room in zip(row, rooms) for _ in range(room)]


def logits(ids, pictures, p, config, mask=None, keep="all"):
    """Logits of the next token, at every token             ids (B, T), pictures [(3, N, M), ...] -> (B, T, V)

    Where ids are config.image_token, picture after picture, are the pictures' tokens, see with_room. pull(dlogits, g)
    -> [dpixels, ...].
    """
    rows, _, pull_pictures = pictures_tokens(pictures, p, config)
    ids = namespace(rows).asarray(ids)
    x, pull_embed = llava.embed(ids, rows, p, config)
    y, pull_language = language(x, ids == config.image_token, p, config, mask, keep=keep)
    return y, lambda dy, g: pull_pictures(pull_embed(pull_language(dy, g), g), g)


def pretraining(ids, pictures, labels, teachers, p, config, aligning, mask=None, keep="all"):
    """Version 1's losses of its first two stages: of each next token, and of patch aligning     -> {name: scalar}

    ids (B, T), pictures [(3, N, M), ...]: see `logits`; a text has one picture or none. labels: see next_word_loss.
    teachers: for each picture, the teacher's features (n', m', C). aligning: an Aligning, whose parameters are at
    p.<ALIGNER>. In the first stage the language model is frozen. pull(dloss, g) -> [dpixels, ...].
    """
    rows, grids, pull_pictures = pictures_tokens(pictures, p, config)
    xp = namespace(rows)
    ids, places = xp.asarray(ids), to_numpy(ids) == config.image_token
    x, pull_embed = llava.embed(ids, rows, p, config)
    last, states, pull_states = llava.states(x, p, config, aligning.layers, mask, keep=keep)
    z, pull_head = project(last, p, f"{config.names.language}lm_head.weight")
    words, pull_words = next_word_loss(z, labels)
    starts = [int(row.argmax()) if row.any() else None for row in places]
    grid, teacher = iter(grids), iter(teachers)
    each = [(next(grid), next(teacher)) if start is not None else (None, None) for start in starts]
    hidden = [states[i] for i in aligning.layers]
    aligned, pull_aligned = aligning_loss(hidden, starts, *zip(*each), at(p, ALIGNER))

    def pull(dloss, g):
        dstates = dict(zip(aligning.layers, pull_aligned(dloss, g[ALIGNER])))
        dx = pull_states(pull_head(pull_words(dloss), g), dstates, g)
        return pull_pictures(pull_embed(dx, g), g)
    return {"loss_words": words, "loss_aligning": aligned, "loss": words + aligned}, pull


class EVE(Relative):
    """An EVE of either version with its weights; `load` makes one. None of the real ones has been loaded here."""
    kind = "an EVE"

    def pixels(self, picture):
        """A picture as the patch embedding reads it: resized, not squeezed, in CLIP's colours   -> (3, N, M)"""
        picture = image.load(picture)
        fit = sides_v2 if self.config.own else sides
        return self.convert(image.normalised(picture.resize(fit(picture.size, self.config))))

    def tokens(self, pictures):
        """The tokens of pictures as `pixels` gives them, and their grids        -> (N, D), [(h, w), ...]"""
        return pictures_tokens(pictures, self.p, self.config)[:2]

    def logits(self, ids, pictures, mask=None):
        """Logits of the next token, at every token; see with_room for what ids have to be           -> (B, T, V)"""
        return logits(ids, pictures, self.p, self.config, mask, keep=None)[0]

    def answer(self, ids, pictures, limit=100, end=2):
        """The ids that follow, each the likeliest          ids (1, T) -> [id, ...]"""
        p, config = self.p, self.config
        rows, _ = self.tokens(pictures)
        xp = namespace(rows)
        ids = xp.asarray(ids)
        x, _ = llava.embed(ids, rows, p, config)
        cache = KVCache(config.llama, 1, x.shape[1] + limit, xp, x.dtype)
        visual = ids == config.image_token

        def step(x):
            seen = visual if cache.length == 0 else xp.zeros((1, 1), bool)
            return language(x, seen, p, config, cache=cache, keep=None)[0]
        return list(transformer.greedy(x, step, p.model.embed_tokens.weight, limit, end))


# What a checkpoint may hold of the patch aligning layer and its teacher is not read.
IGNORED = "*.rotary_emb.inv_freq", "model.vision_clip.*", f"{ALIGNER}.*"
CHECKPOINTS = [
    Checkpoint(EVE.kind, lambda fields: "eve-patch" in str(fields.get("mm_vision_tower")), hugging_face, shapes, EVE,
               IGNORED),
    Checkpoint("an EVE of version 2", lambda fields: "eve-anyratio" in str(fields.get("mm_vision_tower")),
               hugging_face_v2, shapes_v2, EVE, IGNORED)]


# ------------------------------------------------------------------------------------------------------- golden cases

def of_embedding(fields, shapes):
    return Embedding(fields.whole("input_size"), fields.whole("llm"), fields.whole("patch_stride"),
                     Names("vision_tower", ("mm_projector.0", "mm_projector.2"), ""), fields.whole("conv_stride"))


def of_embedding_v2(fields, shapes):
    return Embedding(fields.whole("input_size"), fields.whole("output_size"), fields.whole("patch_stride"), None,
                     fields.whole("dense_stride"))


def of_layers(fields, shapes):
    return Config(None, llava.llama_of(fields, kinds=None), 1, own_of(fields))


def cut_out(picture):
    """The rows and columns, slices, of a picture (4, N, M) whose last channel, the mask, is 1, not 0"""
    rows, columns = (np.flatnonzero((to_numpy(picture[3]) > 0.5).any(axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def embedding_case(x, p, config):
    pictures, y, pulls = x["pixel_values_with_mask"], {}, []
    for b, picture in enumerate(pictures):
        place = (slice(0, 3), *cut_out(picture))
        y[f"tokens{b}"], grid, pull_one = embed_patches(picture[place], p, config)
        y[f"hw{b}"] = np.array(grid)
        pulls.append((place, pull_one))

    def pull(dy, g):
        dpictures = namespace(pictures).zeros_like(pictures)
        for b, (place, pull_one) in enumerate(pulls):
            dpictures[b][place] = pull_one(dy[f"tokens{b}"], g)
        return {"pixel_values_with_mask": dpictures}
    return y, pull


def embedding_case_v2(x, p, config):
    done = {name[5:]: embed_patches_v2(x[name], p, config) for name in x if name.startswith("pixel")}

    def pull(dy, g):
        return {f"pixel{b}": pull_one(dy[f"tokens{b}"], g) for b, (*_, pull_one) in done.items()}
    return {f"tokens{b}": y for b, (y, *_) in done.items()}, pull


def aligning_case(x, p, config):
    """The teacher is a convolution here, p.clip_layer.conv: a patch is what it sees at once"""
    config, shape = config
    pictures, starts, teachers = x["images_with_mask"], [], []
    maps, _ = convolution(pictures[:, :3], p.clip_layer.conv.weight, stride=shape[2])
    for row, picture, teacher in zip(to_numpy(x["input_ids"]), pictures, maps):
        rows, columns = (slice(side.start // shape[2], side.stop // shape[2]) for side in cut_out(picture))
        teachers.append(teacher[:, rows, columns].transpose(1, 2, 0))
        places = np.flatnonzero(row == IMAGE_TOKEN)
        starts.append(int(places[0]) if len(places) else None)
    value, pull_loss = aligning_loss([x["all_features"][:, :, i] for i in config.layers], starts,
                                     x["patch_hw"].tolist(), teachers, p)

    def pull(dy, g):
        dfeatures = namespace(pictures).zeros_like(x["all_features"])
        for i, dlayer in zip(config.layers, pull_loss(dy["loss"], g)):
            dfeatures[:, :, i] = dlayer
        return {"all_features": dfeatures}
    return {"loss": value, "layer_idx": np.array(config.layers)}, pull


def layers_case(x, p, config):
    visual, embeds = x["visual_token_mask"][..., 0] != 0, x["inputs_embeds"]
    xp, last = namespace(embeds), embeds.shape[1] - 1
    y, pull = blocks(embeds, visual, p, config, x["attention_mask"])
    cache = KVCache(config.llama, 1, last + 1, xp, embeds.dtype)
    with recording():                                       # apart from the records of the whole
        blocks(embeds[:1, :last], visual[:1, :last], p, config, cache=cache, keep=None)
        step, _ = blocks(embeds[:1, last:], visual[:1, last:], p, config, cache=cache, keep=None)
    return {"last": y, "cached_step": step}, lambda dy, g: {"inputs_embeds": pull(dy["last"], g)}


CASES = {
    "eve_v1_patch_embedding": Case(of_embedding, embedding_shapes, embedding_case),
    "eve_v1_patch_aligning": Case(
        lambda fields, shapes: (aligning_of(fields), shapes["clip_layer.conv.weight"]),
        lambda config: aligning_shapes(config[0]) | {"clip_layer.conv.weight": config[1]}, aligning_case,
        ("clip_layer.*",)),
    "eve_v2_patch_embedding": Case(of_embedding_v2, embedding_shapes_v2, embedding_case_v2),
    "eve_v2_layer": Case(of_layers, lambda config: below("layers", layers_shapes(config)) | {
        "norm.weight": (config.llama.hidden_size,)}, layers_case),
}
