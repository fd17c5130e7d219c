"""The pre-norm transformer block that most relatives share: x + attention(LN(x)), then x + mlp(LN(x)).

Vaswani et al. 2017 (arXiv 1706.03762), normalised before each sublayer as in GPT-2 and Xiong et al. 2020 (arXiv
2002.04745). Every project gave the same tensors other names: `Names` holds them, so that the paths in the code are
those of the checkpoint, whichever it is.
"""
from dataclasses import dataclass
from functools import reduce

import numpy as np

from ..errors import UserError
from ..nn import activations, ops
from ..nn.arrays import namespace
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import Gradients, Params, below

ACTIVATIONS = {"gelu": ops.gelu, "quick_gelu": activations.quick_gelu, "gelu_pytorch_tanh": activations.gelu_tanh,
               "relu": activations.relu, "relu2": activations.squared_relu}


@dataclass(frozen=True)
class Names:
    """What a checkpoint calls the tensors of a block.

    qkv: beginnings of the names of three matrices, to which "weight" and "bias" are added, or of one that holds Q, K
         and V, one below the other. The others are names of groups.
    """
    norm1: str
    qkv: tuple
    out: str
    norm2: str
    fc1: str
    fc2: str


HUGGING_FACE = Names("layer_norm1", ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."),
                     "self_attn.out_proj", "layer_norm2", "mlp.fc1", "mlp.fc2")
OPENAI = Names("ln_1", ("attn.in_proj_",), "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")


@dataclass(frozen=True)
class Transformer:
    """The geometry of a stack of blocks."""
    width: int
    mlp: int                            # width of the MLP's hidden layer
    layers: int
    heads: int
    eps: float                          # of the layer norms
    activation: str                     # one of ACTIVATIONS
    names: Names = HUGGING_FACE
    causal: bool = False                # each token sees itself and those before it alone


def shapes(config):
    """{name: shape} of the stack's parameters: "0.layer_norm1.weight", ..."""
    W, M, names = config.width, config.mlp, config.names
    block = norm_shapes(names.norm1, W) | norm_shapes(names.norm2, W)
    for prefix in names.qkv:
        rows = 3 * W // len(names.qkv)
        block |= {f"{prefix}weight": (rows, W), f"{prefix}bias": (rows,)}
    block |= dense_shapes(names.out, W, W) | dense_shapes(names.fc1, M, W) | dense_shapes(names.fc2, W, M)
    found = {}
    for i in range(config.layers):
        found |= below(str(i), block)
    return found


def norm_shapes(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def dense_shapes(name, out, into):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


@op
def transformer(x, p, config, keep="all", mask=None):
    """All blocks, one after the other                      (B, T, W) -> (B, T, W)

    keep: what the blocks keep for the backward pass, see ops.checkpointed. mask (B, T): False hides a token. Records
    hidden1, hidden2, ...
    """
    pulls = [None] * config.layers
    for i in range(config.layers):
        x, pulls[i] = ops.checkpointed(block, x, p[i], config, mask, keep=keep)
        record(f"hidden{i + 1}", x)

    def pull(dx, g):
        for i in reversed(range(config.layers)):
            dx = pulls[i](dx, g[i])
        return dx
    return x, pull


@op
def block(x, p, config, mask=None):
    """x + attention(LN(x)), then x + mlp(LN(x))            (B, T, W) -> (B, T, W)"""
    names = config.names
    x, pull_attention = sublayer(x, p, names.norm1, config.eps, lambda n: attention(n, n, p, config, mask))
    y, pull_mlp = sublayer(x, p, names.norm2, config.eps, lambda n: mlp(n, p, config))
    return y, lambda dy, g: pull_attention(pull_mlp(dy, g), g)


def sublayer(x, p, norm, eps, layer):
    """x + layer(LN(x)), the norm's parameters below p.<norm>"""
    n, pull_norm = layer_norm(x, p, norm, eps)
    y, pull_layer = layer(n)

    def pull(dy, g):
        return dy + pull_norm(pull_layer(dy, g), g)
    return x + y, pull


def attention(x, context, p, config, mask=None):
    """Multi-head attention of the tokens x to the tokens `context`: the same ones in self-attention

    x (B, T, W), context (B, S, W) -> (B, T, W). mask: as in ops.attention. Where `context` is x, pull returns the
    gradient with respect to it; else those with respect to x and to `context`.
    """
    names, joint = config.names, len(config.names.qkv) == 1
    prefixes = names.qkv * 3 if joint else names.qkv
    thirds = range(3) if joint else [None] * 3
    projections = [dense(tokens, p, prefix, third)
                   for tokens, prefix, third in zip((x, context, context), prefixes, thirds)]
    q, k, v = (split_heads(y, config.heads) for y, _ in projections)
    y, pull_attention = ops.attention(q, k, v, mask, causal=config.causal)
    y, pull_out = dense(join_heads(y), p, f"{names.out}.")

    def pull(dy, g):
        dqkv = pull_attention(split_heads(pull_out(dy, g), config.heads))
        dx, dk, dv = (pull_one(join_heads(dy), g) for (_, pull_one), dy in zip(projections, dqkv))
        return dx + dk + dv if context is x else (dx, dk + dv)
    return y, pull


def mlp(x, p, config):
    """y = f(x W_1^T + b_1) W_2^T + b_2                     (B, T, W) -> (B, T, W)"""
    h, pull_fc1 = dense(x, p, f"{config.names.fc1}.")
    a, pull_activation = ACTIVATIONS[config.activation](h)
    y, pull_fc2 = dense(a, p, f"{config.names.fc2}.")
    return y, lambda dy, g: pull_fc1(pull_activation(pull_fc2(dy, g)), g)


def embedded(ids, p, tokens, positions, start=0):
    """Each token's row of the table p.<tokens>, plus its place's row of the table p.<positions>   (B, T) -> (B, T, W)

    start: the first token's place.
    """
    places, table = slice(start, start + ids.shape[1]), at(p, positions)
    x, pull_tokens = ops.embedding(ids, at(p, tokens))

    def pull(dx, g):
        def rows():
            dtable = namespace(dx).zeros(table.shape, dx.dtype)
            dtable[places] = dx.sum(0)
            return dtable
        g.add(positions, rows)
        pull_tokens(dx, Into(g, "", names={"weight": tokens}))
    return x + table[places], pull


def filled(ids, rows, p, table, token):
    """Each token's row of the table p.<table>; where ids are `token`, the next of `rows`: a picture's vectors

    ids (B, T), rows (N, D) -> (B, T, D). pull(dx, g) -> drows. Raises UserError unless there are N such places.
    """
    xp, (B, T), (N, D) = namespace(rows), ids.shape, rows.shape
    places = ids.reshape(-1) == token
    if int(places.sum()) != N:
        raise UserError(f"the text has {int(places.sum())} places for pictures' tokens, of which there are {N}")
    words, pull_words = ops.embedding(ids.reshape(-1)[~places], at(p, table))
    x = xp.empty((B * T, D), rows.dtype)
    x[places], x[~places] = rows, words

    def pull(dx, g):
        dx = dx.reshape(B * T, D)
        pull_words(dx[~places], Into(g, "", names={"weight": table}))
        return dx[places]
    return x.reshape(B, T, D), pull


def rotary_tables(start, T, base, size, like):
    """cos and sin of the angles t base^(-2i/size) of the positions t from `start` on, as arrays like `like`

    -> (1, T, size / 2) each, for ops.rotary. Su et al. 2021 (arXiv 2104.09864).
    """
    xp, angles = namespace(like), np.arange(start, start + T)[:, None] * base ** -(np.arange(0, size, 2) / size)
    return tuple(xp.asarray(table[None], dtype=like.dtype) for table in (np.cos(angles), np.sin(angles)))


def next_word_loss(logits, labels, cross_entropy=ops.cross_entropy):
    """Cross entropy of each next token                     logits (B, T, V), labels (B, T) -> scalar

    labels: the ids of the text, and -100 where a token is not learned. cross_entropy: may be one with smooth labels.
    """
    loss, pull_loss = cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))

    def pull(dloss):
        dlogits = namespace(logits).zeros_like(logits)
        dlogits[:, :-1] = pull_loss(dloss).reshape(dlogits[:, :-1].shape)
        return dlogits
    return loss, pull


def greedy(x, language, table, limit, end=None):
    """Yield the likeliest next id, up to `limit` times or until it is `end`     x (1, T, D), table (V, D)

    x: the vectors of the tokens so far; language(x) gives their logits (1, T, V) and keeps them in mind.
    """
    for _ in range(limit):
        best = int(language(x)[0, -1].argmax())
        yield best
        if best == end:
            return
        x = table[best][None, None]


def split_heads(x, heads):
    """(B, T, W) -> (B, H, T, d)"""
    B, T, W = x.shape
    return x.reshape(B, T, heads, W // heads).swapaxes(1, 2)


def join_heads(x):
    """(B, H, T, d) -> (B, T, W)"""
    B, H, T, d = x.shape
    return x.swapaxes(1, 2).reshape(B, T, H * d)


def at(p, path):
    """The group or array at a dotted path below p: at(p, "mlp.fc1") is p.mlp.fc1; at(p, "") is p"""
    return reduce(lambda node, step: node[step], path.split("."), p) if path else p


def layer_norm(x, p, name, eps):
    """ops.layer_norm by the parameters at p.<name>"""
    group = at(p, name)
    y, pull = ops.layer_norm(x, group.weight, group.bias, eps)
    return y, lambda dy, g: pull(dy, g[name])


def dense(x, p, prefix, third=None):
    """ops.linear by the parameters whose names are prefix + "weight" and, if there is one, prefix + "bias"

    third: 0, 1 or 2 for Q, K or V, a third of the rows of a matrix that holds all three.
    """
    parent, _, start = prefix.rpartition(".")
    group = at(p, parent)
    weight, bias = group.get(f"{start}weight"), group.get(f"{start}bias")
    if third is None:
        y, pull = ops.linear(x, weight, bias)
        return y, lambda dy, g: pull(dy, Into(g, prefix))
    size = len(weight) // 3
    rows = slice(third * size, (third + 1) * size)
    y, pull = ops.linear(x, weight[rows], bias if bias is None else bias[rows])

    def whole(some):
        array = namespace(some).zeros((3 * size, *some.shape[1:]), some.dtype)
        array[rows] = some
        return array
    return y, lambda dy, g: pull(dy, Into(g, prefix, whole))


def project(x, p, name, transposed=False):
    """y = x P^T for the matrix P (O, I) at p.<name>; `transposed`: y = x P for P (I, O)"""
    matrix = at(p, name)
    y, pull = ops.linear(x, matrix.T if transposed else matrix)

    def pull_into(dy, g):
        return pull(dy, Into(g, "", lambda gradient: gradient.T if transposed else gradient, {"weight": name}))
    return y, pull_into


def with_joined(layer, x, p, parts):
    """layer(x, Params) of tensors that are those of p one below the other      parts {name: names in p} -> y, pull"""
    xp = namespace(x)
    leaves = {ours: at(p, names[0]) if len(names) == 1 else xp.concatenate([at(p, name) for name in names])
              for ours, names in parts.items()}
    y, pull_layer = layer(x, Params(leaves))

    def pull(dy, g):
        inside = Gradients(leaves, [ours for ours, names in parts.items() if not g.trains(*names)])
        dx = pull_layer(dy, inside)
        for ours, gradient in inside.leaves.items():
            start = 0
            for name in parts[ours]:
                rows = slice(start, start + len(at(p, name)))
                g.add(name, lambda gradient=gradient, rows=rows: gradient[rows])
                start = rows.stop
        return dx
    return y, pull


class Into:
    """A g (tree.Gradients) for an op whose parameters "weight" and "bias" have other names, or are parts of a tensor.

    An op's `g.add("weight", ...)` adds change(gradient) to prefix + "weight", or to what `names` calls it.
    """

    def __init__(self, g, prefix, change=None, names=None):
        self.g, self.prefix, self.change, self.names = g, prefix, change, names or {}

    def add(self, name, gradient):
        path = self.prefix + self.names.get(name, name)
        self.g.add(path, (lambda: self.change(gradient())) if self.change else gradient)
