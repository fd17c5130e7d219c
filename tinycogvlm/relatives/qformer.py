"""BLIP-2's Q-Former: a few learned queries read a picture and take part in a text (Li et al. 2023, arXiv 2301.12597).

One stack of BERT's blocks serves queries and words: self-attention is shared, each has an MLP of its own, and in every
other block the queries, and they alone, attend to the picture. What may see what decides which task is learned:

    contrast     queries | words        neither sees the other: two passes
    matching     queries + words        all see all
    captioning   queries, then words    words see the queries and the words before them; queries never see a word

In stage 2 the queries' outputs, through a linear layer, stand before a frozen language model's text.
"""
from dataclasses import dataclass

from ..inputs import image
from ..nn import ops
from ..nn.arrays import namespace
from ..nn.more_ops import normalise, smooth_cross_entropy
from ..nn.swap import op
from ..nn.trace import record, scope
from ..nn.tree import below
from . import bert, eva02
from .bert import Bert
from .pair import Eye
from .registry import Case, Checkpoint
from .transformer import dense, dense_shapes, layer_norm, norm_shapes

WORDS = "Qformer.bert.embeddings"
HEAD = "Qformer.cls.predictions"
IGNORED = -100
FAR = -10000.0                                          # the similarity of a pair that may not be drawn


@dataclass(frozen=True)
class QFormer:
    """The geometry of the blocks."""
    bert: Bert
    context: int                        # width of the picture's features
    every: int                          # blocks 0, every, 2 every, ... attend to the picture
    text: bool = True                   # whether there is an MLP for words


@dataclass(frozen=True)
class Pretraining:
    """The geometry of all of stage 1."""
    qformer: QFormer
    queries: int
    vocabulary: int
    positions: int
    embedding: int                      # width of the features that are compared
    smoothing: float                    # of the labels, in contrast and captioning
    pad: int
    bos: int
    vision_eps: float


def hugging_face(fields):
    """QFormer of the fields of Hugging Face's Blip2QFormerConfig, which is a config.json's qformer_config"""
    return QFormer(bert.bert_of(fields, "attention"), fields.whole("encoder_hidden_size", 1408),
                   fields.whole("cross_attention_frequency", 2), bool(fields.get("use_qformer_text_input", False)))


def lavis(fields):
    """Pretraining of LAVIS's fields"""
    return Pretraining(
        QFormer(bert.bert_of(fields), fields.whole("encoder_width", 1408), fields.whole("cross_attention_freq", 2)),
        fields.whole("query_length", 32), fields.whole("vocab_size", 30523),
        fields.whole("max_position_embeddings", 512), fields.whole("embed_dim", 256),
        fields.number("label_smoothing", 0.1, high=1), fields.whole("pad_token_id", 0, 0),
        fields.whole("bos_token_id", 30522, 0), fields.number("ln_vision_eps", 1e-5, high=1))


def shapes(config):
    """{name: shape} of the blocks: "0.attention. ...", ..."""
    found = {}
    for i in range(config.bert.layers):
        block = bert.attention_shapes(config.bert, "attention")
        if i % config.every == 0:
            block |= bert.attention_shapes(config.bert, "crossattention", config.context)
        block |= bert.feed_forward_shapes(config.bert, "intermediate_query", "output_query")
        block |= bert.feed_forward_shapes(config.bert) if config.text else {}
        found |= below(str(i), block)
    return found


def alone_shapes(config):
    """{name: shape} of Hugging Face's Blip2QFormerModel: the norm of the embeddings, and the blocks"""
    return norm_shapes("layernorm", config.bert.width) | below("encoder.layer", shapes(config))


def pretraining_shapes(config):
    """{name: shape} of all that stage 1 trains, under LAVIS's names"""
    q, W = config.qformer, config.qformer.bert.width
    return {"query_tokens": (1, config.queries, W), "temp": (), **norm_shapes("ln_vision", q.context),
            **bert.words_shapes(q.bert, WORDS, config.vocabulary, config.positions),
            **below("Qformer.bert.encoder.layer", shapes(q)), **bert.word_head_shapes(q.bert, HEAD, config.vocabulary),
            **dense_shapes("vision_proj", config.embedding, W), **dense_shapes("text_proj", config.embedding, W),
            **dense_shapes("itm_head", 2, W)}


# ------------------------------------------------------------------------------------------------------------- blocks

@op
def blocks(x, p, config, queries, image=None, image_mask=None, mask=None, past=None, causal=False):
    """All blocks over `queries` query tokens and the words after them           (B, Q + T, W) -> (B, Q + T, W)

    image (B, P, C): what queries attend to; image_mask (B, P): False hides. mask, past, causal: of the self-attention,
    see bert.attention; past is a list, one pair for each block.

    Returns y, [(keys, values) of the self-attention in every block], and pull(dy, g, dkept=None) -> dx, dimage, dpast.
    """
    kept, pulls = [], []
    for i in range(config.bert.layers):
        x, pair, pull_block = block(x, p[i], config, i, queries, image, image_mask, mask, past[i] if past else None,
                                    causal)
        record(f"hidden{i + 1}", x)
        kept.append(pair)
        pulls.append(pull_block)

    def pull(dx, g, dkept=None):
        dimage, dpast = 0, [None] * len(pulls)
        for i in reversed(range(len(pulls))):
            dx, dseen, dpast[i] = pulls[i](dx, g[i], dkept[i] if dkept else None)
            dimage = dimage + dseen
        return dx, dimage, dpast
    return x, kept, pull


def block(x, p, config, i, queries, image, image_mask, mask, past, causal):
    """Self-attention; the queries' cross-attention, in some blocks; an MLP for queries and one for words"""
    xp, looks = namespace(x), queries > 0 and i % config.every == 0
    x, kept, pull_self = bert.attention(x, x, p.attention, config.bert, mask, past, causal)
    q, t, pull_cross = x[:, :queries], x[:, queries:], None
    if looks:
        q, _, pull_cross = bert.attention(q, image, p.crossattention, config.bert, image_mask)
    parts, pulls = [], []
    for part, names in ((q, ("intermediate_query", "output_query")), (t, ("intermediate", "output"))):
        y, pull_part = bert.feed_forward(part, p, config.bert, *names) if part.shape[1] else (part, lambda dy, g: dy)
        parts.append(y)
        pulls.append(pull_part)

    def pull(dy, g, dkept=None):
        dq, dt = (pull_part(part, g) for pull_part, part in zip(pulls, (dy[:, :queries], dy[:, queries:])))
        dimage = 0
        if looks:
            dq, dimage, _ = pull_cross(dq, g.crossattention)
        dx, dcontext, dpast = pull_self(xp.concatenate([dq, dt], 1), g.attention, dkept)
        return dx + dcontext, dimage, dpast
    return xp.concatenate(parts, 1), kept, pull


def embed(p, config, batch, ids=None, queries=True):
    """LN([queries | words + positions])                    ids (B, T) -> (B, Q + T, W)   Queries have no positions."""
    Q, tokens = config.queries if queries else 0, p.query_tokens
    xp = namespace(tokens)
    x = xp.broadcast_to(tokens[:, :Q], (batch, Q, tokens.shape[2]))
    if ids is not None:
        words, pull_words = bert.words(ids, p, WORDS)
        x = xp.concatenate([x, words], 1)
    y, pull_norm = layer_norm(x, p, f"{WORDS}.LayerNorm", config.qformer.bert.eps)

    def pull(dy, g):
        dx = pull_norm(dy, g)
        if queries:
            g.add("query_tokens", lambda: dx[:, :Q].sum(0, keepdims=True))
        if ids is not None:
            pull_words(dx[:, Q:], g)
    return y, pull


# ------------------------------------------------------------------------------------------------------- three losses

@op
def contrast(query_hidden, text_hidden, p, config):
    """The contrastive loss of pictures and texts           (B, Q, W), (B, T, W) -> scalar, similarities (B, B)

    A picture and a text are as similar as the text's first token and the query nearest to it, divided by p.temp. The
    maximum is taken before the softmax. pull(dloss, g) -> dquery_hidden, dtext_hidden.
    """
    xp, B = namespace(query_hidden), len(query_hidden)
    image, pull_image = dense(query_hidden, p, "vision_proj.")
    image, pull_image_norm = normalise(image)
    text, pull_text = dense(text_hidden[:, 0], p, "text_proj.")
    text, pull_text_norm = normalise(text)
    record("image_feats", image)
    record("text_feat", text)
    cosines = xp.einsum("iqe,je->ijq", image, text)
    nearest = cosines.argmax(-1)[..., None] == xp.arange(image.shape[1])            # (B, B, Q), one True in each row
    similarity = cosines.max(-1) / p.temp
    labels = xp.arange(B)
    by_image, pull_rows = smooth_cross_entropy(similarity, labels, config.smoothing)
    by_text, pull_columns = smooth_cross_entropy(similarity.T, labels, config.smoothing)

    def pull(dloss, g):
        dsimilarity = pull_rows(dloss / 2) + pull_columns(dloss / 2).T
        g.add("temp", lambda: -(dsimilarity * similarity).sum() / p.temp)
        dcosines = nearest * (dsimilarity / p.temp)[..., None]
        dimage = pull_image_norm(xp.einsum("ijq,je->iqe", dcosines, text))
        dtext = pull_text_norm(xp.einsum("ijq,iqe->je", dcosines, image))
        dtext_hidden = xp.zeros_like(text_hidden)
        dtext_hidden[:, 0] = pull_text(dtext, g)
        return pull_image(dimage, g), dtext_hidden
    return (by_image + by_text) / 2, similarity, pull


def negatives(similarity):
    """How likely each other text (column) is to be drawn as a picture's (row) negative: the nearer, the likelier

    (B, B) -> (B, B). For a text's negative pictures give the transposed similarities.
    """
    xp = namespace(similarity)
    each = xp.arange(len(similarity))
    return ops.softmax(xp.where(each[:, None] == each, similarity.dtype.type(FAR), similarity))[0]


def matching(image, ids, mask, other_image, other_text, p, config):
    """The loss of telling pairs from others: a head on every query, the mean of its logits

    image (B, P, C), ids and mask (B, T). other_image (B,): for each text, the picture it is wrongly put beside;
    other_text (B,): for each picture, the text. Rows: the pairs, texts with another picture, pictures with another
    text. pull(dloss, g) -> dimage.
    """
    xp, B, Q, q = namespace(image), len(image), config.queries, config.qformer
    texts = xp.concatenate([xp.arange(B), xp.arange(B), other_text])
    pictures = xp.concatenate([xp.arange(B), other_image, xp.arange(B)])
    x, pull_embed = embed(p, config, 3 * B, ids[texts])
    visible = xp.concatenate([xp.ones((3 * B, Q), bool), mask[texts]], 1)
    with scope("itm"):
        hidden, _, pull_blocks = blocks(x, p.Qformer.bert.encoder.layer, q, Q, image[pictures], mask=visible)
        record("hidden", hidden)
        each, pull_head = dense(hidden[:, :Q], p, "itm_head.")
        logits = each.mean(1)                                                       # (3 B, 2)
        record("logits", logits)
    loss, pull_loss = ops.cross_entropy(logits, (xp.arange(3 * B) < B).astype(int))

    def pull(dloss, g):
        dlogits = pull_loss(dloss)[:, None] / Q
        dhidden = xp.zeros_like(hidden)
        dhidden[:, :Q] = pull_head(xp.broadcast_to(dlogits, each.shape), g)
        dx, dseen, _ = pull_blocks(dhidden, g.Qformer.bert.encoder.layer)
        pull_embed(dx, g)
        dimage = xp.zeros_like(image)
        xp.add.at(dimage, pictures, dseen)
        return dimage
    return loss, pull


def captioning(ids, mask, kept, p, config):
    """The loss of each next word, which sees the queries and the words before it

    kept: the queries' keys and values in every block, from the pass that saw the picture. The first token is BOS in the
    place of CLS; padding is no target. pull(dloss, g) -> dkept.
    """
    xp, B, q = namespace(ids), len(ids), config.qformer
    ids = xp.concatenate([xp.full((B, 1), config.bos, ids.dtype), ids[:, 1:]], 1)
    x, pull_embed = embed(p, config, B, ids, queries=False)
    visible = xp.concatenate([xp.ones((B, config.queries), bool), mask], 1)
    with scope("lm"):
        hidden, _, pull_blocks = blocks(x, p.Qformer.bert.encoder.layer, q, 0, mask=visible, past=kept, causal=True)
        record("hidden", hidden)
        logits, pull_head = bert.word_head(hidden, p, q.bert, HEAD, f"{WORDS}.word_embeddings.weight")
        record("logits", logits)
    labels = xp.where(ids == config.pad, IGNORED, ids)[:, 1:].reshape(-1)
    loss, pull_loss = smooth_cross_entropy(logits[:, :-1].reshape(len(labels), -1), labels, config.smoothing)

    def pull(dloss, g):
        dlogits = xp.zeros_like(logits)
        dlogits[:, :-1] = pull_loss(dloss).reshape(B, -1, logits.shape[-1])
        dx, _, dkept = pull_blocks(pull_head(dlogits, g), g.Qformer.bert.encoder.layer)
        pull_embed(dx, g)
        return dkept
    return loss, pull


def pretraining(features, ids, mask, other_image, other_text, p, config):
    """Stage 1: the sum of the three losses                 features (B, P, C), ids and mask (B, T) -> {name: scalar}

    features: the frozen encoder's, before ln_vision. other_image, other_text: see `matching`. pull(dloss, g) ->
    dfeatures.
    """
    q, B = config.qformer, len(ids)
    image, pull_vision = layer_norm(features, p, "ln_vision", config.vision_eps)
    record("image_embeds", image)
    layers = p.Qformer.bert.encoder.layer
    queries, pull_queries = embed(p, config, B)
    with scope("query"):
        query_hidden, kept, pull_query = blocks(queries, layers, q, config.queries, image)
        record("hidden", query_hidden)
    words, pull_words = embed(p, config, B, ids, queries=False)
    with scope("text"):
        text_hidden, _, pull_text = blocks(words, layers, q, 0, mask=mask)
        record("hidden", text_hidden)
    itc, similarity, pull_itc = contrast(query_hidden, text_hidden, p, config)
    for name, some in (("i2t", similarity), ("t2i", similarity.T)):
        record(f"sim_{name}", some)
        record(f"weights_{name}", negatives(some))
    itm, pull_itm = matching(image, ids, mask, other_image, other_text, p, config)
    lm, pull_lm = captioning(ids, mask, kept, p, config)

    def pull(dloss, g):
        h = g.Qformer.bert.encoder.layer
        dkept, dimage = pull_lm(dloss, g), pull_itm(dloss, g)
        dquery_hidden, dtext_hidden = pull_itc(dloss, g)
        pull_words(pull_text(dtext_hidden, h)[0], g)
        dqueries, dseen, _ = pull_query(dquery_hidden, h, dkept)
        pull_queries(dqueries, g)
        return pull_vision(dimage + dseen, g)
    return {"loss_itc": itc, "loss_itm": itm, "loss_lm": lm, "loss": itc + itm + lm}, pull


# ------------------------------------------------------------------------------------------------------------ stage 2

@dataclass(frozen=True)
class Bridge:
    """The geometry of a BLIP-2's bridge: the Q-Former, and a linear layer to the language model's width."""
    qformer: QFormer
    queries: int
    out: int


def bridge_of(fields):
    """Bridge of the fields of Hugging Face's Blip2Config, a config.json"""
    fields.group("qformer_config").only("use_qformer_text_input", False)        # those for retrieval have True
    text = fields.group("text_config")
    return Bridge(hugging_face(fields.group("qformer_config")), fields.whole("num_query_tokens", 32),
                  text.whole("d_model" if text.get("model_type") == "t5" else "hidden_size"))


def bridge_shapes(config):
    """{name: shape} of the bridge's parameters"""
    W = config.qformer.bert.width
    return {"query_tokens": (1, config.queries, W), **below("qformer", alone_shapes(config.qformer)),
            **dense_shapes("language_projection", config.out, W)}


def bridge(features, p, config):
    """What stands before the language model's text         features (B, P, C) -> (B, queries, O)"""
    xp, B, tokens = namespace(features), len(features), p.query_tokens
    x, pull_norm = layer_norm(xp.broadcast_to(tokens, (B, *tokens.shape[1:])), p.qformer, "layernorm",
                              config.qformer.bert.eps)
    h, _, pull_blocks = blocks(x, p.qformer.encoder.layer, config.qformer, config.queries, features)
    y, pull_linear = dense(h, p, "language_projection.")

    def pull(dy, g):
        dx, dfeatures, _ = pull_blocks(pull_linear(dy, g), g.qformer.encoder.layer)
        dtokens = pull_norm(dx, g.qformer)
        g.add("query_tokens", lambda: dtokens.sum(0, keepdims=True))
        return dfeatures
    return y, pull


@dataclass(frozen=True)
class Blip2Config:
    """The geometry of a BLIP-2 before its language model."""
    eye: eva02.Config01
    bridge: Bridge


def blip2_of(fields):
    """Blip2Config of the fields of a config.json"""
    eye, bridge = eva02.blip2(fields.group("vision_config")), bridge_of(fields)
    if eye.transformer.width != bridge.qformer.context:
        fields.group("qformer_config").refuse("encoder_hidden_size", bridge.qformer.context,
                                              f"the vision tower's width, {eye.transformer.width}")
    return Blip2Config(eye, bridge)


def blip2_shapes(config):
    """{name: shape} of the vision tower and of the bridge"""
    return below("vision_model", eva02.shapes01(config.eye)) | bridge_shapes(config.bridge)


class Blip2(Eye):
    """A BLIP-2 without its language model; `load` makes one. None of the real ones has been loaded here, see pair.py."""
    kind = "a BLIP-2, whose language model is not read"

    def picture(self, picture):
        return image.normalised(image.square(picture, self.config.eye.image))

    def image_features(self, pictures):
        """What the vision tower says of every patch        -> (B, 1 + P, C)"""
        return eva02.tower01(self.pixels(pictures), self.p.vision_model, self.config.eye, keep=None)[0]

    def tokens(self, pictures):
        """What stands before the language model's text     -> (B, queries, O)"""
        return bridge(self.image_features(pictures), self.p, self.config.bridge)[0]


CHECKPOINTS = [Checkpoint(Blip2.kind, lambda fields: fields.get("model_type") == "blip-2", blip2_of, blip2_shapes, Blip2,
                          ("language_model.*",))]


# ------------------------------------------------------------------------------------------------------- golden cases

def alone_case(x, p, config):
    h, pull_norm = layer_norm(x["query_embeds"], p, "layernorm", config.bert.eps)
    record("hidden0", h)
    mask = x.get("encoder_attention_mask")
    image = x["encoder_hidden_states"]
    y, _, pull_blocks = blocks(h, p.encoder.layer, config, h.shape[1], image, None if mask is None else mask != 0)

    def pull(dy, g):
        dh, dimage, _ = pull_blocks(dy["last"], g.encoder.layer)
        return {"query_embeds": pull_norm(dh, g), "encoder_hidden_states": dimage}
    return {"last": y, "pooled": y[:, 0]}, pull


def pretraining_case(x, p, config):
    y, pull = pretraining(x["image_features"], x["input_ids"], x["attention_mask"] != 0, x["neg_image_idx"],
                          x["neg_text_idx"], p, config)
    return y, lambda dy, g: {"image_features": pull(dy["loss"], g)}


CASES = {
    "blip2_qformer": Case(lambda fields, shapes: hugging_face(fields), alone_shapes, alone_case),
    "qformer_pretrain": Case(lambda fields, shapes: lavis(fields), pretraining_shapes, pretraining_case),
}
