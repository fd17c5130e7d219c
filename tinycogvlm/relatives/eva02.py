"""EVA's vision towers: EVA-01 (Fang et al. 2022, arXiv 2211.07636) and EVA-02 (Fang et al. 2023, arXiv 2303.11331).

EVA-01 is a plain pre-norm transformer; BLIP-2 sees with it, and its Hugging Face names are used here. EVA-02 changes
three things: queries and keys of patches are turned by their place in two directions (rotary embedding), the MLP is a
SwiGLU, and there are layer norms inside both sublayers ("sub-LN"). EVA02-CLIP-E, CogVLM's own tower, has none of the
three but norms after its sublayers, see model/vit.py. EVA-02's names are timm's; open_clip puts them below visual.trunk,
beside CLIP's text tower.
"""
import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ..inputs import image
from ..nn import more_ops, ops
from ..nn.arrays import namespace
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import below
from . import clip, transformer
from .clip import CLIP, transformer_of
from .fields import Fields
from .pair import Eye
from .registry import Case, Checkpoint
from .transformer import Transformer, dense, dense_shapes, join_heads, layer_norm, norm_shapes, split_heads, sublayer

EPS = 1e-6                                              # of every layer norm of EVA-02
BASE = 10000.0                                          # of the rotary frequencies


@dataclass(frozen=True)
class Config:
    """The geometry of a tower as timm builds it."""
    width: int
    layers: int
    heads: int
    mlp: int                            # F, width of the MLP's hidden layer
    image: tuple                        # pixels (down, across)
    patch: int                          # pixels a side
    classes: int                        # of the head; 0: there is none
    fused: bool                         # Q, K and V are one matrix
    swiglu: bool                        # else the MLP is fc1, GELU, fc2
    sub_attention: bool                 # a layer norm before the attention's last matrix
    sub_mlp: bool                       # a layer norm before the SwiGLU's last matrix
    rotary: bool
    reference: tuple | None             # patches (down, across) of the grid that positions are scaled to
    post_norm: bool                     # x + LN(f(x)), not x + f(LN(x))
    mean: bool                          # the feature is the mean of the patches, else CLS
    norm_last: bool                     # the last norm is of the feature, else of all tokens before it

    @property
    def grid(self):
        """Patches (down, across)"""
        return self.image[0] // self.patch, self.image[1] // self.patch


def timm(fields):
    """Config of the arguments of timm's class Eva."""
    width, image = fields.whole("embed_dim", 768), fields.numbers("img_size", 224)
    reference = fields.numbers("ref_feat_shape") if "ref_feat_shape" in fields else None
    ratio, swiglu = fields.number("mlp_ratio", 4.0), bool(fields.get("swiglu_mlp", False))
    mean = fields.one_of("global_pool", ("avg", "token"), "avg") == "avg"
    found = Config(
        width, fields.layers("depth", 12), fields.whole("num_heads", 12), int(width * ratio), (image * 2)[:2],
        fields.whole("patch_size", 16), fields.whole("num_classes", 1000, 0), bool(fields.get("qkv_fused", True)),
        swiglu, bool(fields.get("scale_attn_inner", False)), bool(fields.get("scale_mlp", False)),
        bool(fields.get("use_rot_pos_emb", False)), reference and (reference * 2)[:2],
        bool(fields.get("use_post_norm", False)), mean, bool(fields.get("use_fc_norm", mean)))
    if found.width % (4 * found.heads if found.rotary else found.heads):
        fields.refuse("num_heads", found.heads, f"heads whose size, of embed_dim {width}, is a multiple of 4")
    return found


def shapes(config):
    """{name: shape} of every tensor"""
    W, F, n = config.width, config.mlp, math.prod(config.grid)
    attention = dense_shapes("proj", W, W)
    if config.fused:
        attention |= {"qkv.weight": (3 * W, W), "q_bias": (W,), "v_bias": (W,)}
    else:
        attention |= {**dense_shapes("q_proj", W, W), "k_proj.weight": (W, W), **dense_shapes("v_proj", W, W)}
    if config.sub_attention:
        attention |= norm_shapes("norm", W)
    mlp = dense_shapes("fc2", W, F)
    if config.swiglu and config.sub_mlp:
        mlp |= dense_shapes("fc1_g", F, W) | dense_shapes("fc1_x", F, W) | norm_shapes("norm", F)
    else:
        mlp |= dense_shapes("fc1", 2 * F if config.swiglu else F, W)
    block = below("attn", attention) | below("mlp", mlp) | norm_shapes("norm1", W) | norm_shapes("norm2", W)
    found = {"cls_token": (1, 1, W), "pos_embed": (1, 1 + n, W),
             "patch_embed.proj.weight": (W, 3, config.patch, config.patch), "patch_embed.proj.bias": (W,),
             **norm_shapes("fc_norm" if config.norm_last else "norm", W)}
    if config.classes:
        found |= dense_shapes("head", config.classes, W)
    for i in range(config.layers):
        found |= below(f"blocks.{i}", block)
    return found


# -------------------------------------------------------------------------------------------------------------- EVA-02

@op
def tower(pixels, p, config, keep="all"):
    """The tokens after the last block, and the norm if it is of all of them         (B, 3, N, M) -> (B, 1 + P, W)"""
    x, pull_tokens = tokens(pixels, p, config.patch, "cls_token", "patch_embed.proj.", "pos_embed")
    record("hidden0", x)
    tables = rotary_tables(x, config) if config.rotary else None
    pulls = [None] * config.layers
    for i in range(config.layers):
        x, pulls[i] = ops.checkpointed(block, x, p.blocks[i], config, tables, i, keep=keep)
        record(f"hidden{i + 1}", x)
    pull_norm = lambda dy, g: dy
    if not config.norm_last:
        x, pull_norm = layer_norm(x, p, "norm", EPS)
    record("last", x)

    def pull(dy, g):
        dx = pull_norm(dy, g)
        for i in reversed(range(config.layers)):
            dx = pulls[i](dx, g.blocks[i])
        return pull_tokens(dx, g)
    return x, pull


def tokens(pixels, p, size, cls, patches, positions):
    """[CLS; patches W^T + b] + positions, by the names of these tensors                (B, 3, N, M) -> (B, 1 + P, W)"""
    xp, at = namespace(pixels), transformer.at
    squares, pull_squares = ops.patches(pixels, size)
    x, pull_patches = dense(squares, p, patches)
    first = xp.broadcast_to(at(p, cls), (len(x), 1, x.shape[-1]))
    x = xp.concatenate([first, x], 1) + at(p, positions)

    def pull(dx, g):
        g.add(positions, lambda: dx.sum(0, keepdims=True))
        g.add(cls, lambda: dx[:, :1].sum(0, keepdims=True))
        return pull_squares(pull_patches(dx[:, 1:], g))
    return x, pull


def head(x, p, config):
    """Logits of the feature: the mean of the patches, or CLS           tokens (B, 1 + P, W) -> (B, classes)"""
    xp, P = namespace(x), x.shape[1] - 1
    feature, pull_norm = x[:, 1:].mean(1) if config.mean else x[:, 0], lambda dy, g: dy
    if config.norm_last:
        feature, pull_norm = layer_norm(feature, p, "fc_norm", EPS)
    record("pooled", feature)
    y, pull_head = dense(feature, p, "head.") if config.classes else (feature, lambda dy, g: dy)
    record("logits", y)

    def pull(dy, g):
        dfeature, dx = pull_norm(pull_head(dy, g), g), xp.zeros_like(x)
        if config.mean:
            dx[:, 1:] = dfeature[:, None] / P
        else:
            dx[:, 0] = dfeature
        return dx
    return y, pull


@op
def block(x, p, config, tables, number):
    """x + attention(LN(x)), then x + mlp(LN(x)); with post_norm x + LN(attention(x)), x + LN(mlp(x))"""
    layer = post_sublayer if config.post_norm else sublayer
    x, pull_attention = layer(x, p, "norm1", EPS, lambda n: attention(n, p.attn, config, tables, number))
    y, pull_mlp = layer(x, p, "norm2", EPS, lambda n: mlp(n, p.mlp, config))
    return y, lambda dy, g: pull_attention(pull_mlp(dy, g), g)


def post_sublayer(x, p, norm, eps, layer):
    """x + LN(layer(x))"""
    y, pull_layer = layer(x)
    n, pull_norm = layer_norm(y, p, norm, eps)
    return x + n, lambda dy, g: dy + pull_layer(pull_norm(dy, g), g)


def attention(x, p, config, tables, number):
    """Multi-head attention with rotary positions, all heads normalised before the last matrix   (B, T, W) -> (B, T, W)

    Keys have no bias: a softmax would not see it. p: the block's parameters below attn.
    """
    qkv, pull_qkv = (fused_qkv if config.fused else separate_qkv)(x, p)
    q, k, v = (split_heads(one, config.heads) for one in qkv)
    q, pull_q = turned(q, tables)
    k, pull_k = turned(k, tables)
    y, pull_attention = ops.attention(q, k, v, causal=False)
    y, pull_norm = join_heads(y), lambda dy, g: dy
    if config.sub_attention:
        y, pull_norm = layer_norm(y, p, "norm", EPS)
    y, pull_proj = dense(y, p, "proj.")
    record(f"attn{number}", y)

    def pull(dy, g):
        g = g.attn
        dq, dk, dv = pull_attention(split_heads(pull_norm(pull_proj(dy, g), g), config.heads))
        return pull_qkv([join_heads(one) for one in (pull_q(dq), pull_k(dk), dv)], g)
    return y, pull


def separate_qkv(x, p):
    projections = [dense(x, p, prefix) for prefix in ("q_proj.", "k_proj.", "v_proj.")]

    def pull(dqkv, g):
        return sum(pull_one(dy, g) for (_, pull_one), dy in zip(projections, dqkv))
    return [y for y, _ in projections], pull


def fused_qkv(x, p):
    """Q, K and V of one matrix; its bias is put together of q_bias, nothing, and v_bias."""
    xp, W = namespace(x), x.shape[-1]
    qkv, pull_linear = ops.linear(x, p.qkv.weight)
    qkv = qkv + xp.concatenate([p.q_bias, xp.zeros_like(p.q_bias), p.v_bias])

    def pull(dqkv, g):
        dqkv = xp.concatenate(dqkv, -1)
        for name, first in (("q_bias", 0), ("v_bias", 2 * W)):
            g.add(name, lambda first=first: dqkv[..., first:first + W].sum((0, 1)))
        return pull_linear(dqkv, g.qkv)
    return [qkv[..., first:first + W] for first in (0, W, 2 * W)], pull


def turned(x, tables):
    """Queries or keys with those of patches turned; CLS, the first, has no place          (B, H, 1 + P, d)"""
    if tables is None:
        return x, lambda dy: dy
    xp = namespace(x)
    y, pull_rotary = more_ops.rotary_pairs(x[:, :, 1:], *tables)
    return (xp.concatenate([x[:, :, :1], y], 2),
            lambda dy: xp.concatenate([dy[:, :, :1], pull_rotary(dy[:, :, 1:])], 2))


def rotary_tables(x, config):
    """cos and sin (P, d/2) of the angles of every patch: first those of its row, then those of its column"""
    xp, d = namespace(x), config.width // config.heads
    tables = [xp.asarray(table, x.dtype) for table in angles(config.grid, config.reference or config.grid, d)]
    for name, table in zip(("rope_cos", "rope_sin"), tables):
        record(name, table.repeat(2, -1))               # as the original holds them, once for each of the pair
    return tables


@lru_cache
def angles(grid, reference, d):
    """cos and sin in float64. Pair i of a direction turns by t / 10000^(4 i / d)

    t is the place on the grid in units of the grid of pretraining, `reference`: at another resolution the picture's
    edges keep their angles, and the patches between come closer.
    """
    frequencies = BASE ** (-np.arange(0, d // 2, 2) / (d // 2))                     # (d/4,)
    rows, columns = (np.arange(n) / n * r for n, r in zip(grid, reference))
    rows = np.broadcast_to(rows[:, None, None] * frequencies, (*grid, d // 4))
    columns = np.broadcast_to(columns[:, None] * frequencies, (*grid, d // 4))
    found = np.concatenate([rows, columns], -1).reshape(-1, d // 2)
    return np.cos(found), np.sin(found)


def mlp(x, p, config):
    """y = LN(silu(x W_g^T + b_g) * (x W_x^T + b_x)) W_2^T + b_2            (B, T, W) -> (B, T, W)     p: below mlp

    With sub_mlp. Without it there is no norm, and W_g and W_x are the halves of one matrix; without swiglu a GELU
    stands in the middle.
    """
    pull_norm = lambda dy, g: dy
    if config.swiglu and config.sub_mlp:
        (gate, pull_gate), (up, pull_up) = (dense(x, p, prefix) for prefix in ("fc1_g.", "fc1_x."))
        a, pull_swiglu = ops.swiglu(gate, up)
        a, pull_norm = layer_norm(a, p, "norm", EPS)

        def pull_first(da, g):
            dgate, dup = pull_swiglu(da)
            return pull_gate(dgate, g) + pull_up(dup, g)
    else:
        h, pull_fc1 = dense(x, p, "fc1.")
        a, pull_middle = halves(h) if config.swiglu else ops.gelu(h)
        pull_first = lambda da, g: pull_fc1(pull_middle(da), g)
    y, pull_fc2 = dense(a, p, "fc2.")
    return y, lambda dy, g: pull_first(pull_norm(pull_fc2(dy, g.mlp), g.mlp), g.mlp)


def halves(h):
    """silu(first half) * second half                       (..., 2 F) -> (..., F)"""
    F = h.shape[-1] // 2
    a, pull_swiglu = ops.swiglu(h[..., :F], h[..., F:])
    return a, lambda da: namespace(da).concatenate(pull_swiglu(da), -1)


# -------------------------------------------------------------------------------------------------------------- EVA-01

EVA01 = transformer.Names("layer_norm1", ("self_attn.qkv.",), "self_attn.projection", "layer_norm2",
                          "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class Config01:
    """The geometry of EVA-01 as BLIP-2 has it."""
    transformer: Transformer
    patch: int
    image: int


def blip2(fields):
    """Config01 of Hugging Face's Blip2VisionConfig."""
    stack = transformer_of(fields, 1408, 6144, 39, 16, "gelu", 1e-6, EVA01)
    return Config01(stack, fields.whole("patch_size", 14), fields.whole("image_size", 224))


def shapes01(config):
    """{name: shape} of every tensor of EVA-01"""
    W, P = config.transformer.width, config.patch
    return {"embeddings.class_embedding": (1, 1, W), "embeddings.patch_embedding.weight": (W, 3, P, P),
            "embeddings.patch_embedding.bias": (W,),
            "embeddings.position_embedding": (1, 1 + (config.image // P) ** 2, W),
            **below("encoder.layers", transformer.shapes(config.transformer)), **norm_shapes("post_layernorm", W)}


@op
def tower01(pixels, p, config, keep="all"):
    """The tokens of EVA-01 after the last norm             (B, 3, N, N) -> (B, 1 + P, W)"""
    x, pull_tokens = tokens(pixels, p, config.patch, "embeddings.class_embedding", "embeddings.patch_embedding.",
                            "embeddings.position_embedding")
    record("hidden0", x)
    x, pull_blocks = transformer.transformer(x, p.encoder.layers, config.transformer, keep)
    x, pull_norm = layer_norm(x, p, "post_layernorm", config.transformer.eps)
    record("last", x)
    return x, lambda dy, g: pull_tokens(pull_blocks(pull_norm(dy, g), g.encoder.layers), g)


# ---------------------------------------------------------------------------------------------------------- the model

CLIP_02 = dict(qkv_fused=False, mlp_ratio=8 / 3, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True,
               use_rot_pos_emb=True, ref_feat_shape=(16, 16), global_pool="token")
LARGE = dict(patch_size=14, embed_dim=1024, depth=24, num_heads=16, **CLIP_02)
# timm's arguments for each of its names: the towers of EVA-CLIP (Sun et al. 2023, arXiv 2303.15389)
ARCHITECTURES = {
    "eva02_base_patch16_clip_224": dict(img_size=224, patch_size=16, embed_dim=768, depth=12, num_heads=12, **CLIP_02),
    "eva02_large_patch14_clip_224": dict(img_size=224, **LARGE),
    "eva02_large_patch14_clip_336": dict(img_size=336, **LARGE),
    "eva02_enormous_patch14_clip_224": dict(img_size=224, patch_size=14, embed_dim=1792, depth=64, num_heads=16,
                                            mlp_ratio=15360 / 1792, use_post_norm=True, global_pool="token"),
    "eva_giant_patch14_clip_224": dict(img_size=224, patch_size=14, embed_dim=1408, depth=40, num_heads=16,
                                       mlp_ratio=6144 / 1408, global_pool="token"),
}


def timm_folder(fields):
    """Config of a config.json of timm's, which names the architecture and the width of the head"""
    named = ARCHITECTURES[fields.one_of("architecture", ARCHITECTURES)]
    return timm(Fields({**named, "num_classes": fields.whole("num_classes", 0, 0)}, fields.path))


class EvaEye(Eye):
    """An EVA-CLIP's tower for pictures with its weights; `load` makes one."""
    kind = "an EVA-CLIP's vision tower"

    def picture(self, picture):
        return image.normalised(image.cropped(picture, self.config.image[0]))

    def image_tower(self, pixels):
        return head(tower(pixels, self.p, self.config, keep=None)[0], self.p, self.config)[0]


TRUNK = "visual.trunk"                                  # below which open_clip has the tensors of timm's tower
OPEN_CLIP = replace(clip.OPENAI, **{field: f"text.{getattr(clip.OPENAI, field)}" for field in (
    "tokens", "text_positions", "text_layers", "final", "text_projection")})
SAME = {"eva_giant_patch14_224": "eva_giant_patch14_clip_224"}         # as open_clip has it: with CLS as the feature


def open_clip(fields):
    """clip.Config of an open_clip_config.json whose tower for pictures is one of ARCHITECTURES"""
    model = fields.group("model_cfg")
    model.no_others("embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "custom_text")
    vision = model.group("vision_cfg")
    vision.no_others("image_size", "timm_model_name", "timm_pool")
    name = vision.one_of("timm_model_name", (*ARCHITECTURES, *SAME))
    named, width = ARCHITECTURES[SAME.get(name, name)], model.whole("embed_dim")
    vision.only("image_size", named["img_size"])
    vision.only("timm_pool", "token")
    return clip.Config(timm(Fields({**named, "num_classes": width}, fields.path)), clip.open_clip_text(model), width,
                       OPEN_CLIP)


def open_clip_shapes(config):
    """{name: shape} of every tensor of both towers"""
    return below(TRUNK, shapes(config.vision)) | clip.text_shapes(config)


def image_features(pixels, p, config, keep="all"):
    """A picture's feature, not yet of length 1             pixels (B, 3, N, N) -> (B, E)"""
    trunk = p.visual.trunk
    x, pull_tower = tower(pixels, trunk, config.vision, keep)
    y, pull_head = head(x, trunk, config.vision)
    return y, lambda dy, g: pull_tower(pull_head(dy, g[TRUNK]), g[TRUNK])


class EvaCLIP(CLIP):
    """Both towers of an EVA-CLIP with their weights; `load` makes one."""
    kind = "an EVA-CLIP"

    @property
    def side(self):
        return self.config.vision.image[0]

    def image_tower(self, pixels):
        return image_features(pixels, self.p, self.config, keep=None)[0]

    def batch_loss(self, pixels, ids):
        return clip.loss(pixels, ids, self.p, self.config, see=image_features)


CHECKPOINTS = [
    Checkpoint(EvaEye.kind, lambda fields: fields.get("architecture") in ARCHITECTURES, timm_folder, shapes, EvaEye),
    Checkpoint(EvaCLIP.kind, clip.timm_tower, open_clip, open_clip_shapes, EvaCLIP, files=clip.OPEN_CLIP_FILES)]


# ------------------------------------------------------------------------------------------------------- golden cases

def eva02_case(x, p, config):
    last, pull_tower = tower(x["image"], p, config)
    logits, pull_head = head(last, p, config)

    def pull(dy, g):
        return {"image": pull_tower(pull_head(dy["logits"], g) + dy["last"], g)}
    return {"last": last, "logits": logits}, pull


def blip2_case(x, p, config):
    """Hugging Face's pooled output is CLS normalised once more by the same norm."""
    last, pull_tower = tower01(x["pixel_values"], p, config)
    pooled, pull_norm = layer_norm(last[:, 0], p, "post_layernorm", config.transformer.eps)

    def pull(dy, g):
        dlast = dy["last"].copy()
        dlast[:, 0] += pull_norm(dy["pooled"], g)
        return {"pixel_values": pull_tower(dlast, g)}
    return {"last": last, "pooled": pooled}, pull


EVA02_CASE = Case(lambda fields, shapes: timm(fields), shapes, eva02_case)
CASES = {"eva02_clip": EVA02_CASE, "eva02_tiny": EVA02_CASE,
         "blip2_vision": Case(lambda fields, shapes: blip2(fields), shapes01, blip2_case)}
