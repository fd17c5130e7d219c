"""CoCa: contrast and captions by one model (Yu et al. 2022, arXiv 2205.01917). Names and sizes are open_clip's.

CLIP's picture tower, whose tokens attentional poolers read: one query gives what is compared, many give what captions
are written from. The decoder is cut in two. Its lower half, unimodal, sees the text alone, and a CLS after the text
becomes the text's feature; its upper half, multimodal, attends to the picture too and says each next word. Both losses
come from one pass over the text.

    paper                     two poolers, of the tower's tokens (parallel) or one after the other (cascade)
    open_clip's checkpoints   one pooler: its first query is compared, the others are for captions
"""
from dataclasses import dataclass, replace

from ..inputs.texts import ClipTexts
from ..nn import ops
from ..nn.arrays import namespace, to_numpy
from ..nn.more_ops import normalise
from ..nn.swap import op
from ..nn.trace import record, scope
from ..nn.tree import below
from . import clip, transformer
from .masks import cls_mask
from .registry import Case, Checkpoint
from .transformer import (
    OPENAI, Into, Transformer, dense_shapes, embedded, join_heads, layer_norm, norm_shapes, project, split_heads,
    sublayer)

NORM_EPS = 1e-5                                         # of all norms of open_clip's code
IGNORED = -100
SHARED, PARALLEL, CASCADE = "shared", "parallel", "cascade"         # how contrast and captions share poolers


@dataclass(frozen=True)
class Pooler:
    """The geometry of an attentional pooler."""
    width: int                          # of its queries and outputs
    context: int                        # width of what it reads
    queries: int
    heads: int


@dataclass(frozen=True)
class Config:
    """The geometry of a CoCa."""
    vision: clip.Config
    pooler: Pooler                      # for captions; and for contrast, if `poolers` is SHARED
    poolers: str                        # SHARED, PARALLEL or CASCADE
    text: Transformer                   # the unimodal half
    decoder: Transformer                # the multimodal half
    vocabulary: int
    context: int                        # tokens of a text at most, CLS not among them
    embedding: int                      # E, the width of the features that are compared
    pad: int
    shifted: bool                       # see masks.cls_mask
    caption_weight: float               # of the losses in their sum
    contrast_weight: float

    @property
    def contrast_pooler(self):
        """The geometry of the pooler of one query, where there are two"""
        return Pooler(self.pooler.width, self.pooler.width if self.poolers == CASCADE else self.pooler.context, 1,
                      self.pooler.heads)


def open_clip(fields):
    """Config of open_clip's model_cfg"""
    vision, text, multimodal = (fields.group(name) for name in ("vision_cfg", "text_cfg", "multimodal_cfg"))
    width, embedding = vision.whole("width", 768), fields.whole("embed_dim")
    words = text.whole("width", 512)

    def stack(width, layers, heads, causal):
        return Transformer(width, 4 * width, layers, heads, NORM_EPS, "gelu", OPENAI, causal)
    tower = stack(width, vision.layers("layers", 12), width // vision.whole("head_width", 64), False)
    poolers = vision.get("attentional_pool", True)
    if poolers not in (True, PARALLEL, CASCADE):
        vision.refuse("attentional_pool", poolers, f"true, {PARALLEL} or {CASCADE}")
    if multimodal.whole("width", words) != words:
        multimodal.refuse("width", multimodal.get("width"), f"{words}, the width of text_cfg")
    return Config(
        clip.Config(clip.ViT(tower, vision.whole("patch_size", 16), vision.whole("image_size", 224)), None, embedding,
                    clip.OPENAI),
        Pooler(embedding, width, vision.whole("attn_pooler_queries", 256), vision.whole("attn_pooler_heads", 8)),
        SHARED if poolers is True else poolers,
        stack(words, text.layers("layers", 12), text.whole("heads", 8), True),
        stack(words, multimodal.layers("layers", 12), multimodal.whole("heads", 8), True),
        text.whole("vocab_size", 49408), text.whole("context_length", 77), embedding, text.whole("pad_id", 0, 0),
        not fields.get("correct_cls_mask", False), fields.number("caption_loss_weight", 2.0),
        fields.number("clip_loss_weight", 1.0))


def folder_of_open_clip(fields):
    """Config of an open_clip_config.json"""
    model, sizes = fields.group("model_cfg"), ("width", "heads", "layers", "context_length", "vocab_size")
    model.no_others("embed_dim", "custom_text", "vision_cfg", "text_cfg", "multimodal_cfg")
    model.group("vision_cfg").no_others("image_size", "layers", "width", "head_width", "patch_size", "output_tokens",
                                        "attentional_pool", "attn_pooler_queries", "attn_pooler_heads")
    model.group("text_cfg").no_others(*sizes, "embed_cls", "pad_id", "output_tokens")
    model.group("multimodal_cfg").no_others(*sizes, "attn_pooler_heads")            # which nothing reads
    return open_clip(model)


def shapes(config):
    """{name: shape} of every tensor"""
    W, E, V, pooler = config.text.width, config.embedding, config.vocabulary, config.pooler
    tower = config.vision
    visual = clip.vit_shapes(tower) | {tower.names.image_projection: (pooler.width, E)}
    visual |= norm_shapes(tower.names.post, pooler.width if config.poolers == SHARED else pooler.context)
    visual |= below("visual.attn_pool", pooler_shapes(pooler))
    if config.poolers != SHARED:
        visual |= below("visual.attn_pool_contrastive", pooler_shapes(config.contrast_pooler))
    text = {"token_embedding.weight": (V, W), "positional_embedding": (config.context + 1, W), "cls_emb": (W,),
            "text_projection": (W, E), **norm_shapes("ln_final", W),
            **below("transformer.resblocks", transformer.shapes(config.text))}
    decoder = {**below("resblocks", transformer.shapes(config.decoder)), **norm_shapes("ln_final", W),
               "text_projection": (W, V)}
    cross = transformer.shapes(replace(config.decoder, layers=1))
    cross = {name[2:]: shape for name, shape in cross.items()} | norm_shapes("ln_1_kv", W)
    for i in range(config.decoder.layers):
        decoder |= below(f"cross_attn.{i}", cross)
    return {**visual, **below("text", text), **below("text_decoder", decoder), "logit_scale": ()}


# ------------------------------------------------------------------------------------------------------------ poolers

def pooler_shapes(config):
    """{name: shape} of a pooler's parameters"""
    D, C = config.width, config.context
    matrices = {"attn.in_proj_weight": (3 * D, D)} if C == D else {
        f"attn.{letter}_proj_weight": (D, D if letter == "q" else C) for letter in "qkv"}
    return {"query": (config.queries, D), **matrices, "attn.in_proj_bias": (3 * D,),
            **dense_shapes("attn.out_proj", D, D), **norm_shapes("ln_q", D), **norm_shapes("ln_k", C)}


@op
def pooler(x, p, config):
    """y = attention of LN(learned queries) to LN(x)        x (B, S, C) -> (B, Q, D)

    Section 3.2 of the paper. Nothing is added to the attention, and no MLP follows it.
    """
    xp, B = namespace(x), len(x)
    query, pull_query = layer_norm(p.query, p, "ln_q", NORM_EPS)
    context, pull_context = layer_norm(x, p, "ln_k", NORM_EPS)
    tokens = xp.broadcast_to(query, (B, *query.shape)), context, context
    projections = [projection(one, p.attn, i) for i, one in enumerate(tokens)]
    q, k, v = (split_heads(one, config.heads) for one, _ in projections)
    a, pull_attention = ops.attention(q, k, v, causal=False)
    y, pull_out = transformer.dense(join_heads(a), p, "attn.out_proj.")

    def pull(dy, g):
        dqkv = pull_attention(split_heads(pull_out(dy, g), config.heads))
        dq, dk, dv = (pull_one(join_heads(d), g.attn) for (_, pull_one), d in zip(projections, dqkv))
        dquery = pull_query(dq.sum(0), g)
        g.add("query", lambda: dquery)
        return pull_context(dk + dv, g)
    return y, pull


def projection(x, p, third):
    """Q, K or V of torch's MultiheadAttention: one matrix for all three, or one each where widths differ; one bias"""
    D, apart = len(p.in_proj_bias) // 3, f"{'qkv'[third]}_proj_weight"
    rows, weight = slice(third * D, (third + 1) * D), p.get(apart)
    joint = weight is None
    y, pull = ops.linear(x, p.in_proj_weight[rows] if joint else weight, p.in_proj_bias[rows])

    def whole(gradient):
        if gradient.ndim > 1 and not joint:
            return gradient
        array = namespace(gradient).zeros((3 * D, *gradient.shape[1:]), gradient.dtype)
        array[rows] = gradient
        return array
    names = {"weight": "in_proj_weight" if joint else apart, "bias": "in_proj_bias"}
    return y, lambda dy, g: pull(dy, Into(g, "", whole, names))


def poolers(x, p, config):
    """What captions are written from, and what is compared                 x (B, S, C) -> (B, Q, D), (B, D)

    Two poolers; that of contrast, of one query, reads x as well (PARALLEL), or what the other gives (CASCADE). p: below
    visual.
    """
    tokens, pull_captions = pooler(x, p.attn_pool, config.pooler)
    cascade = config.poolers == CASCADE
    one, pull_contrast = pooler(tokens if cascade else x, p.attn_pool_contrastive, config.contrast_pooler)

    def pull(dtokens, done, g):
        dread = pull_contrast(done[:, None], g.attn_pool_contrastive)
        if cascade:
            return pull_captions(dtokens + dread, g.attn_pool)
        return pull_captions(dtokens, g.attn_pool) + dread
    return tokens, one[:, 0], pull


# ------------------------------------------------------------------------------------------------- pictures and texts

def image_features(pixels, p, config, keep="all"):
    """A picture's feature, of length 1, and its tokens     pixels (B, 3, N, N) -> (B, E), (B, Q, D)

    pull(dfeature, dtokens, g) -> dpixels.
    """
    xp, shared = namespace(pixels), config.poolers == SHARED
    with scope("image"):
        x, pull_vit = clip.vit(pixels, p, config.vision, keep)
    if shared:
        y, pull_pooler = pooler(x, p.visual.attn_pool, config.pooler)
        y, pull_norm = layer_norm(y, p, "visual.ln_post", NORM_EPS)
        one, tokens = y[:, 0], y[:, 1:]
    else:
        y, pull_norm = layer_norm(x, p, "visual.ln_post", NORM_EPS)
        tokens, one, pull_pooler = poolers(y, p.visual, config)
    feature, pull_project = project(one, p, "visual.proj", transposed=True)
    feature, pull_unit = normalise(feature)
    record("image_features", feature)
    record("image_tokens", tokens)

    def pull(dfeature, dtokens, g):
        done = pull_project(pull_unit(dfeature), g)
        if shared:
            dy = pull_norm(xp.concatenate([done[:, None], dtokens], 1), g)
            return pull_vit(pull_pooler(dy, g.visual.attn_pool), g)
        return pull_vit(pull_norm(pull_pooler(dtokens, done, g.visual), g), g)
    return feature, tokens, pull


def text_features(ids, p, config, keep="all"):
    """A text's feature, of length 1, and its tokens, not normalised        ids (B, T) -> (B, E), (B, T, W)

    The unimodal half: CLS, a learned vector, is put after the text, padding and all. p: below text.
    pull(dfeature, dtokens, g).
    """
    xp, (B, T) = namespace(ids), ids.shape
    words, pull_words = embedded(ids, p, "token_embedding.weight", "positional_embedding")
    cls = p.cls_emb + p.positional_embedding[T]
    x = xp.concatenate([words, xp.broadcast_to(cls, (B, 1, len(cls)))], 1)
    mask = cls_mask(ids, config.pad, config.shifted)
    record("text_mask", mask[:, None] & xp.tri(T + 1, dtype=bool))
    with scope("text"):
        x, pull_blocks = transformer.transformer(x, p.transformer.resblocks, config.text, keep, mask)
    one, pull_norm = layer_norm(x[:, -1], p, "ln_final", NORM_EPS)
    feature, pull_project = project(one, p, "text_projection", transposed=True)
    feature, pull_unit = normalise(feature)
    record("text_features", feature)
    record("text_tokens", x[:, :-1])

    def pull(dfeature, dtokens, g):
        done = pull_norm(pull_project(pull_unit(dfeature), g), g)
        dx = pull_blocks(xp.concatenate([dtokens, done[:, None]], 1), g.transformer.resblocks)
        dcls = dx[:, -1].sum(0)

        def place():
            dtable = xp.zeros_like(p.positional_embedding)
            dtable[T] = dcls
            return dtable
        g.add("cls_emb", lambda: dcls)
        g.add("positional_embedding", place)
        pull_words(dx[:, :-1], g)
    return feature, x[:, :-1], pull


def cross_block(x, image, p, config):
    """x + attention(LN(x); LN(image)), then x + mlp(LN(x))             x (B, T, W), image (B, S, W) -> (B, T, W)

    Each has its own norm. pull(dy, g) -> dx, dimage.
    """
    n, pull_norm = layer_norm(x, p, "ln_1", config.eps)
    context, pull_context = layer_norm(image, p, "ln_1_kv", config.eps)
    a, pull_attention = transformer.attention(n, context, p, replace(config, causal=False))
    y, pull_mlp = sublayer(x + a, p, config.names.norm2, config.eps, lambda n: transformer.mlp(n, p, config))

    def pull(dy, g):
        dy = pull_mlp(dy, g)
        dn, dcontext = pull_attention(dy, g)
        return dy + pull_norm(dn, g), pull_context(dcontext, g)
    return y, pull


def decode(x, image, p, config):
    """Logits of each next word: the multimodal half        x (B, T, W), image (B, S, W) -> (B, T, V)

    Each causal block over the words is followed by one that attends to the picture. p: below text_decoder.
    pull(dy, g) -> dx, dimage.
    """
    pulls = []
    for i in range(config.decoder.layers):
        x, pull_words = transformer.block(x, p.resblocks[i], config.decoder)
        x, pull_cross = cross_block(x, image, p.cross_attn[i], config.decoder)
        pulls.append((pull_words, pull_cross))
    x, pull_norm = layer_norm(x, p, "ln_final", NORM_EPS)
    y, pull_project = project(x, p, "text_projection", transposed=True)

    def pull(dy, g):
        dx, dimage = pull_norm(pull_project(dy, g), g), 0
        for i in reversed(range(len(pulls))):
            pull_words, pull_cross = pulls[i]
            dx, dseen = pull_cross(dx, g.cross_attn[i])
            dx, dimage = pull_words(dx, g.resblocks[i]), dimage + dseen
        return dx, dimage
    return y, pull


def caption(pixels, p, config, start, end, limit):
    """The ids of a caption for each picture, by greedy decoding           pixels (B, 3, N, N) -> (B, T), T <= 1 + limit

    start is the first of them; what follows `end` in a row means nothing. No cache: each step computes all words again.
    """
    xp = namespace(pixels)
    _, image, _ = image_features(pixels, p, config, keep=None)
    ids = xp.full((len(pixels), 1), start)
    for _ in range(min(limit, config.context - 1)):
        _, words, _ = text_features(ids, p.text, config, keep=None)
        logits, _ = decode(words, image, p.text_decoder, config)
        ids = xp.concatenate([ids, logits[:, -1:].argmax(-1)], 1)
        if (ids == end).any(1).all():
            break
    return ids


# ---------------------------------------------------------------------------------------------------------- both losses

def loss(pixels, ids, p, config, keep="all"):
    """a contrast + b captioning, a = 1 and b = 2 in the paper         pixels (B, 3, N, N), ids (B, T) -> {name: scalar}

    The paper's L_con is the sum of both directions; here, as in open_clip, it is their mean. Padding is no target.
    pull(dloss, g) -> dpixels.
    """
    xp = namespace(pixels)
    image, image_tokens, pull_image = image_features(pixels, p, config, keep)
    text, words, pull_text = text_features(ids, p.text, config, keep)
    contrast, pull_contrast = clip.contrastive(image, text, p.logit_scale)
    logits, pull_decode = decode(words[:, :-1], image_tokens, p.text_decoder, config)
    record("logits", logits)
    labels = xp.where(ids == config.pad, IGNORED, ids)[:, 1:].reshape(-1)
    caption, pull_caption = ops.cross_entropy(logits.reshape(len(labels), -1), labels)

    def pull(dloss, g):
        dwords = xp.zeros_like(words)
        dlogits = pull_caption(dloss * config.caption_weight).reshape(logits.shape)
        dwords[:, :-1], dimage_tokens = pull_decode(dlogits, g.text_decoder)
        dimage, dtext, dscale = pull_contrast(dloss * config.contrast_weight)
        g.add("logit_scale", lambda: dscale)
        pull_text(dtext, dwords, g.text)
        return pull_image(dimage, dimage_tokens, g)
    contrast, caption = config.contrast_weight * contrast, config.caption_weight * caption
    return {"loss_contrastive": contrast, "loss_caption": caption, "loss": contrast + caption}, pull


# ---------------------------------------------------------------------------------------------------------- the model

class CoCa(clip.CLIP):
    """A CoCa of open_clip's: pictures and texts are compared, and captions written; `load` makes one."""
    kind = "a CoCa"

    @property
    def side(self):
        return self.config.vision.vision.image

    def texts(self, folder):
        """CLIP's, always as long as the context, since CLS has the place after it"""
        texts = ClipTexts(folder, self.config.context, self.config.vocabulary)
        texts.whole, texts.pad = True, self.config.pad
        return texts

    def image_tower(self, pixels):
        return image_features(pixels, self.p, self.config, keep=None)[0]

    def text_tower(self, ids):
        return text_features(ids, self.p.text, self.config, keep=None)[0]

    def batch_loss(self, pixels, ids):
        y, pull = loss(pixels, ids, self.p, self.config)
        return y["loss"], pull

    def captions(self, pictures, limit=30):
        """What it writes of each picture (as in Eye.pixels), in CLIP's lower case       -> [str]"""
        start, end = *self.tokenizer.start, self.tokenizer.end
        rows = to_numpy(caption(self.pixels(pictures), self.p, self.config, start, end, limit)).tolist()
        return [self.tokenizer.decode((row[:row.index(end)] if end in row else row)[1:]) for row in rows]


CHECKPOINTS = [Checkpoint(CoCa.kind, clip.has_decoder, folder_of_open_clip, shapes, CoCa, ("*.attn_mask",),
                          clip.OPEN_CLIP_FILES)]


# ------------------------------------------------------------------------------------------------------- golden cases

def pooler_of(fields, shapes):
    """{name of a pooler: its geometry}: one for captions, and one of one query in either place"""
    D, C, heads = fields.whole("d_model"), fields.whole("context_dim"), fields.whole("n_head")
    return {"attn_pool": Pooler(D, C, fields.whole("n_queries"), heads), "contrastive_parallel": Pooler(D, C, 1, heads),
            "contrastive_cascade": Pooler(D, D, 1, heads)}


def poolers_shapes(config):
    found = {}
    for name, geometry in config.items():
        found |= below(name, pooler_shapes(geometry))
    return found


def pooler_case(x, p, config):
    x = x["x"]
    tokens, pull_tokens = pooler(x, p.attn_pool, config["attn_pool"])
    parallel, pull_parallel = pooler(x, p.contrastive_parallel, config["contrastive_parallel"])
    cascade, pull_cascade = pooler(tokens, p.contrastive_cascade, config["contrastive_cascade"])

    def pull(dy, g):
        dtokens = dy["tokens"] + pull_cascade(dy["cascade"], g.contrastive_cascade)
        return {"x": pull_tokens(dtokens, g.attn_pool) + pull_parallel(dy["parallel"], g.contrastive_parallel)}
    return {"tokens": tokens, "parallel": parallel, "cascade": cascade}, pull


def case(x, p, config):
    y, pull = loss(x["image"], x["text"], p, config)
    return y, lambda dy, g: {"image": pull(dy["loss"], g)}


CASES = {
    "attentional_pooler": Case(pooler_of, poolers_shapes, pooler_case),
    "coca": Case(lambda fields, shapes: open_clip(fields), shapes, case),
}
