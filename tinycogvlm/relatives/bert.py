"""The post-norm blocks of BERT, which the Q-Former and the earlier vision-language models are built of: LN(x + f(x)).

Devlin et al. 2018 (arXiv 1810.04805), under the names that BERT's checkpoints give the tensors.
"""
from dataclasses import dataclass

from ..nn import activations, ops
from ..nn.arrays import namespace
from ..nn.swap import op
from ..nn.trace import record
from .transformer import (
    ACTIVATIONS, at, dense, dense_shapes, embedded, join_heads, layer_norm, norm_shapes, split_heads)

NORM_EPS = 1e-12


@dataclass(frozen=True)
class Bert:
    """The geometry of a stack of blocks."""
    width: int
    mlp: int                            # width of the MLP's hidden layer
    layers: int
    heads: int
    eps: float                          # of the layer norms
    activation: str                     # one of ACTIVATIONS
    inner: str = "self"                 # what attention calls its projections: "self", or "attention" at Hugging Face


def bert_of(fields, inner="self", heads=12):
    """Bert by the fields of a config.json, with the defaults of BERT-base; `heads` is a default that differs"""
    found = Bert(fields.whole("hidden_size", 768), fields.whole("intermediate_size", 3072),
                 fields.layers("num_hidden_layers", 12), fields.whole("num_attention_heads", heads),
                 fields.number("layer_norm_eps", NORM_EPS, high=1), fields.one_of("hidden_act", ACTIVATIONS, "gelu"),
                 inner)
    if found.width % found.heads:
        fields.refuse("num_attention_heads", found.heads, f"a divisor of hidden_size {found.width}")
    return found


def attention_shapes(config, name, context=None):
    """{name: shape} of an attention sublayer; `context` is the width of what it attends to, if not the block's"""
    W, found = config.width, {}
    for part, into in (("query", W), ("key", context or W), ("value", context or W)):
        found |= dense_shapes(f"{name}.{config.inner}.{part}", W, into)
    return found | dense_shapes(f"{name}.output.dense", W, W) | norm_shapes(f"{name}.output.LayerNorm", W)


def feed_forward_shapes(config, inside="intermediate", output="output"):
    """{name: shape} of an MLP sublayer"""
    W, M = config.width, config.mlp
    return (dense_shapes(f"{inside}.dense", M, W) | dense_shapes(f"{output}.dense", W, M)
            | norm_shapes(f"{output}.LayerNorm", W))


@op
def attention(x, context, p, config, mask=None, past=None, causal=False):
    """LN(x + attention of x to the context)                x (B, T, W), context (B, S, C) -> (B, T, W)

    past: keys and values (B, H, R, d) of earlier tokens, before the context's; mask (B, R + S): False hides a token.
    Returns y, (keys, values) of the context, and pull(dy, g, dkept=None) -> dx, dcontext, dpast, where dkept is the
    gradient of those keys and values from elsewhere.
    """
    xp, heads = namespace(x), config.heads
    q, pull_q = dense(x, p, f"{config.inner}.query.")
    k, pull_k = dense(context, p, f"{config.inner}.key.")
    v, pull_v = dense(context, p, f"{config.inner}.value.")
    q, k, v = (split_heads(y, heads) for y in (q, k, v))
    keys, values = (xp.concatenate(pair, 2) for pair in zip(past, (k, v))) if past else (k, v)
    R = keys.shape[2] - k.shape[2]
    a, pull_attention = ops.attention(q, keys, values, mask, causal=causal)
    a, pull_out = dense(join_heads(a), p, "output.dense.")
    y, pull_norm = layer_norm(x + a, p, "output.LayerNorm", config.eps)

    def pull(dy, g, dkept=None):
        dy = pull_norm(dy, g)
        dq, dkeys, dvalues = pull_attention(split_heads(pull_out(dy, g), heads))
        dk, dv = dkeys[:, :, R:], dvalues[:, :, R:]
        if dkept is not None:
            dk, dv = dk + dkept[0], dv + dkept[1]
        dcontext = pull_k(join_heads(dk), g) + pull_v(join_heads(dv), g)
        return dy + pull_q(join_heads(dq), g), dcontext, (dkeys[:, :, :R], dvalues[:, :, :R])
    return y, (k, v), pull


@op
def feed_forward(x, p, config, inside="intermediate", output="output"):
    """LN(x + f(x W_1^T + b_1) W_2^T + b_2)                 (B, T, W) -> (B, T, W)"""
    h, pull_in = dense(x, p, f"{inside}.dense.")
    a, pull_activation = ACTIVATIONS[config.activation](h)
    m, pull_out = dense(a, p, f"{output}.dense.")
    y, pull_norm = layer_norm(x + m, p, f"{output}.LayerNorm", config.eps)

    def pull(dy, g):
        dy = pull_norm(dy, g)
        return dy + pull_in(pull_activation(pull_out(dy, g)), g)
    return y, pull


def block_shapes(config, context=None):
    """{name: shape} of a block, whose cross-attention, if it has one, reads tokens of the width `context`"""
    found = attention_shapes(config, "attention") | feed_forward_shapes(config)
    return found | (attention_shapes(config, "crossattention", context) if context else {})


@op
def block(x, p, config, mask=None, image=None, causal=False, i=0):
    """Self-attention; cross-attention to a picture's tokens, if there are any; an MLP          (B, T, W) -> (B, T, W)

    mask (B, T): False hides a token; image (B, S, C). pull(dy, g) -> dx, dimage, which is 0 where there is none.
    Records self0, cross0 for i = 0.
    """
    x, _, pull_self = attention(x, x, p.attention, config, mask, causal=causal)
    record(f"self{i}", x)
    if image is not None:
        x, _, pull_cross = attention(x, image, p.crossattention, config)
        record(f"cross{i}", x)
    y, pull_mlp = feed_forward(x, p, config)

    def pull(dy, g):
        dx, dimage = pull_mlp(dy, g), 0
        if image is not None:
            dx, dimage, _ = pull_cross(dx, g.crossattention)
        dx, dcontext, _ = pull_self(dx, g.attention)
        return dx + dcontext, dimage
    return y, pull


@op
def blocks(x, p, config, mask=None, image=None, causal=False, layers=None):
    """The blocks of the numbers `layers` (all), one after the other; see `block`. Records hidden1, ..."""
    layers, pulls = range(config.layers) if layers is None else layers, []
    for i in layers:
        x, pull_block = block(x, p[i], config, mask, image, causal, i)
        record(f"hidden{i + 1}", x)
        pulls.append(pull_block)

    def pull(dx, g):
        dimage = 0
        for i, pull_block in zip(reversed(layers), reversed(pulls)):
            dx, dseen = pull_block(dx, g[i])
            dimage = dimage + dseen
        return dx, dimage
    return x, pull


def words(ids, p, name):
    """Word and position embeddings at p.<name>, not yet normalised; positions begin at 0      (B, T) -> (B, T, W)"""
    return embedded(ids, p, f"{name}.word_embeddings.weight", f"{name}.position_embeddings.weight")


def typed_words(ids, types, p, config, name):
    """LN(word + position + type), BERT's embeddings at p.<name>                 ids and types (B, T) -> (B, T, W)

    types: a row of the table of token types for each token, such as 0 in the first sentence and 1 in the second.
    """
    x, pull_words = words(ids, p, name)
    t, pull_types = ops.embedding(types, at(p, name).token_type_embeddings.weight)
    y, pull_norm = layer_norm(x + t, p, f"{name}.LayerNorm", config.eps)

    def pull(dy, g):
        dx = pull_norm(dy, g)
        pull_words(dx, g)
        pull_types(dx, g[name].token_type_embeddings)
    return y, pull


def typed_words_shapes(config, name, vocabulary, positions, types):
    table = {f"{name}.token_type_embeddings.weight": (types, config.width)}
    return words_shapes(config, name, vocabulary, positions) | table


@op
def pooled(x, p, name="pooler.dense", activation=activations.tanh):
    """f(W x_0 + b) of the first token, CLS                 (B, T, W) -> (B, O)"""
    h, pull_dense = dense(x[:, 0], p, f"{name}.")
    y, pull_activation = activation(h)

    def pull(dy, g):
        dx = namespace(x).zeros_like(x)
        dx[:, 0] = pull_dense(pull_activation(dy), g)
        return dx
    return y, pull


def words_shapes(config, name, vocabulary, positions):
    return {f"{name}.word_embeddings.weight": (vocabulary, config.width),
            f"{name}.position_embeddings.weight": (positions, config.width),
            **norm_shapes(f"{name}.LayerNorm", config.width)}


def transform(x, p, config, name):
    """LN(f(x W^T + b)), the part of a head before its last matrix      (B, T, W) -> (B, T, W)"""
    h, pull_dense = dense(x, p, f"{name}.dense.")
    a, pull_activation = ACTIVATIONS[config.activation](h)
    y, pull_norm = layer_norm(a, p, f"{name}.LayerNorm", config.eps)
    return y, lambda dy, g: pull_dense(pull_activation(pull_norm(dy, g)), g)


def transform_shapes(config, name):
    return dense_shapes(f"{name}.dense", config.width, config.width) | norm_shapes(f"{name}.LayerNorm", config.width)


@op
def word_head(x, p, config, name, table):
    """logits = LN(f(x W^T + b)) E^T + c, E the word embeddings p.<table>        (B, T, W) -> (B, T, V)

    The parameters but E are at p.<name>: BERT's head for masked words, which serves for next words as well.
    """
    n, pull_transform = transform(x, p, config, f"{name}.transform")
    E = at(p, table)
    rows = n.reshape(-1, n.shape[-1])

    def pull(dlogits, g):
        dlogits = dlogits.reshape(len(rows), -1)
        g.add(f"{name}.bias", lambda: dlogits.sum(0))
        g.add(table, lambda: dlogits.T @ rows)
        return pull_transform((dlogits @ E).reshape(n.shape), g)
    return n @ E.T + at(p, f"{name}.bias"), pull


def word_head_shapes(config, name, vocabulary):
    return transform_shapes(config, f"{name}.transform") | {f"{name}.bias": (vocabulary,)}
