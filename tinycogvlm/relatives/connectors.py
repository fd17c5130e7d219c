"""Connectors, the bridges between an encoder and a language model: to its width, and to fewer tokens.

    all tokens          linear and MLP (LLaVA, EVE); CogVLM's GLU is model.adapter.glu
    a quarter or fewer  average pool (MM1), pixel shuffle (InternVL, Idefics3, nanoVLM), C- and D-Abstractor (Honeybee),
                        LDP (MobileVLM, v1 and v2); CogVLM2's 2 x 2 convolution is model.adapter.convolution

Resamplers, whose queries lie on no grid, are in qformer.py and flamingo.py. Tokens are (B, P, C), row by row, without
CLS; `picture` makes (B, C, n, m) of them for convolutions and pooling.
"""
import math
from dataclasses import dataclass
from functools import partial

from ..nn import activations, ops
from ..nn.arrays import namespace
from ..nn.convolution import adaptive_average_pool, average_pool, convolution
from ..nn.more_ops import bilinear
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import below
from .registry import Case
from .transformer import ACTIVATIONS, at, dense, dense_shapes, join_heads, layer_norm, norm_shapes, split_heads

NORM_EPS = 1e-5                                         # of all norms here but the one before the C-Abstractor
PRENORM_EPS = 1e-6


# ------------------------------------------------------------------------------------------------------------- pieces

def chain(x, *layers):
    """Layers one after the other; each is a function x -> y, pull, where pull(dy, g) -> dx."""
    pulls = []
    for layer in layers:
        x, pull_layer = layer(x)
        pulls.append(pull_layer)

    def pull(dy, g):
        for pull_layer in reversed(pulls):
            dy = pull_layer(dy, g)
        return dy
    return x, pull


def plain(function, *arguments):
    """A layer of `chain` from an op without parameters, whose pull takes dy alone."""
    def layer(x):
        y, pull = function(x, *arguments)
        return y, lambda dy, g: pull(dy)
    return layer


def mlp(x, p, names, activation=ops.gelu):
    """Linear layers at p.<names[0]>, p.<names[1]>, ..., an activation between every two     (..., I) -> (..., O)"""
    layers = [partial(dense, p=p, prefix=f"{name}.") for name in names]
    return chain(x, layers[0], *(step for layer in layers[1:] for step in (plain(activation), layer)))


def mlp_shapes(names, into, out):
    """{name: shape} for `mlp` whose layers all have the width `out`"""
    found = {}
    for i, name in enumerate(names):
        found |= dense_shapes(name, out, out if i else into)
    return found


def picture(x, grid):
    """Tokens on a grid as a picture                        (B, n m, C) -> (B, C, n, m)"""
    return x.swapaxes(1, 2).reshape(len(x), x.shape[2], *grid), lambda dy: tokens(dy)[0]


def tokens(x):
    """The picture's tokens, row by row                     (B, C, n, m) -> (B, n m, C)"""
    B, C, n, m = x.shape
    return x.reshape(B, C, n * m).swapaxes(1, 2), lambda dy: dy.swapaxes(1, 2).reshape(x.shape)


def pixel_norm(x, p, name):
    """Layer norm over the channels of every pixel          (B, C, n, m) -> (B, C, n, m)"""
    y, pull = layer_norm(x.transpose(0, 2, 3, 1), p, name, NORM_EPS)
    return y.transpose(0, 3, 1, 2), lambda dy, g: pull(dy.transpose(0, 2, 3, 1), g).transpose(0, 3, 1, 2)


def conv_norm(x, p, conv, norm, activation=None, **options):
    """A convolution without bias, a norm over channels and, if given, an activation     (B, C, N, M) -> (B, O, n, m)"""
    def convolved(x):
        y, pull = convolution(x, at(p, conv).weight, **options)
        return y, lambda dy, g: pull(dy, g[conv])
    return chain(x, convolved, partial(pixel_norm, p=p, name=norm), *([plain(activation)] if activation else []))


def conv_norm_shapes(conv, norm, out, into, size):
    return {f"{conv}.weight": (out, into, size, size)} | norm_shapes(norm, out)


@op
def excited(x, p, activation, gate):
    """x s, s = gate(W_2 activation(W_1 mean(x) + b_1) + b_2), one number for each picture and channel

    Squeeze-and-excitation (Hu et al. 2017, arXiv 1709.01507).                                      (B, C, n, m) -> x's
    """
    pixels = x.shape[2] * x.shape[3]
    h, pull_mlp = mlp(x.mean((2, 3)), p, ("fc1", "fc2"), activation)
    s, pull_gate = gate(h)                                                          # (B, C)

    def pull(dy, g):
        dmean = pull_mlp(pull_gate((dy * x).sum((2, 3))), g)
        return dy * s[:, :, None, None] + dmean[:, :, None, None] / pixels
    return x * s[:, :, None, None], pull


def excited_shapes(name, channels, squeezed):
    return {f"{name}.fc1.weight": (squeezed, channels, 1, 1), f"{name}.fc1.bias": (squeezed,),
            f"{name}.fc2.weight": (channels, squeezed, 1, 1), f"{name}.fc2.bias": (channels,)}


def appended(x, p, name):
    """x with the tokens p.<name> (1, E, D) after them, if there are any         (B, T, D) -> (B, T + E, D)"""
    more, xp, (B, T, _) = p.get(name), namespace(x), x.shape
    if more is None:
        return x, lambda dy, g: dy

    def pull(dy, g):
        g.add(name, lambda: dy[:, T:].sum(0, keepdims=True))
        return dy[:, :T]
    return xp.concatenate([x, xp.broadcast_to(more, (B, *more.shape[1:]))], 1), pull


def added(x, p, name):
    """x plus the table p.<name> (1, T, D), if there is one                      (B, T, D) -> (B, T, D)"""
    table = p.get(name)
    if table is None:
        return x, lambda dy, g: dy

    def pull(dy, g):
        g.add(name, lambda: dy.sum(0, keepdims=True))
        return dy
    return x + table, pull


def side(fields, name):
    """The side of a square grid of as many tokens as the field says"""
    count = fields.whole(name)
    if math.isqrt(count) ** 2 != count:
        fields.refuse(name, count, "a square number")
    return math.isqrt(count)


# ----------------------------------------------------------------------------------------------------- linear and MLP

EVE = {"linear": ("linear",), "mlp2x_gelu": ("mlp2x_gelu.0", "mlp2x_gelu.2"),
       "mlp3x_gelu": ("mlp3x_gelu.0", "mlp3x_gelu.2", "mlp3x_gelu.4")}


@dataclass(frozen=True)
class Widths:
    """The geometry of a projector that keeps all tokens."""
    into: int
    out: int


def widths(fields):
    return Widths(fields.whole("mm_hidden_size"), fields.whole("hidden_size"))


def residual_mlp(x, p):
    """h + MLP(h), h = LN(x): LLaVA's and EVE's resblock    (B, P, I) -> (B, P, I)"""
    h, pull_norm = layer_norm(x, p, "pre_norm", NORM_EPS)
    y, pull_mlp = mlp(h, p, ("proj.0", "proj.2"))
    return h + y, lambda dy, g: pull_norm(dy + pull_mlp(dy, g), g)


def projector_shapes(config):
    """{name: shape} of EVE's four projectors"""
    found = {}
    for names in EVE.values():
        found |= mlp_shapes(names, config.into, config.out)
    return found | below("resblock", norm_shapes("pre_norm", config.into)
                         | mlp_shapes(("proj.0", "proj.2"), config.into, config.into))


# ------------------------------------------------------------------------------------------------------- average pool

@dataclass(frozen=True)
class Pool:
    """The geometry of an average pool and a linear layer."""
    into: int
    out: int
    grid: tuple                         # (n, m), of the encoder's tokens
    size: tuple                         # (n, m), what the adaptive pool makes of it
    kernel: int                         # pixels a side of the strided pool's squares


def pool(fields):
    return Pool(fields.whole("vision"), fields.whole("llm"), pair(fields, "grid"), pair(fields, "out"),
                fields.whole("kernel"))


def pair(fields, name):
    """Two numbers; a single one counts twice."""
    numbers = fields.numbers(name)
    if len(numbers) > 2:
        fields.refuse(name, list(numbers), "one or two whole numbers")
    return numbers if len(numbers) == 2 else numbers * 2


@op
def pooled(x, p, config, strided=False):
    """The mean over windows of the grid, then a linear layer                    (B, n m, I) -> (B, n' m', O)

    McKinzie et al. 2024 (arXiv 2403.09611, "MM1"). strided: squares of kernel x kernel in the place of windows; those
    at the edges are the mean of what tokens they have.
    """
    take = plain(average_pool, config.kernel, True) if strided else plain(adaptive_average_pool, config.size)
    few, pull_pool = chain(x, plain(picture, config.grid), take, plain(tokens))
    record("strided_pooled" if strided else "adaptive_pooled", few)
    y, pull_linear = dense(few, p, "proj.")
    return y, lambda dy, g: pull_pool(pull_linear(dy, g), g)


# ------------------------------------------------------------------------------------------------------ pixel shuffle

@dataclass(frozen=True)
class Shuffle:
    """The geometry of a pixel shuffle and what follows it."""
    width: int
    out: int
    grid: int                           # tokens a side
    factor: int
    rectangle: tuple                    # another grid, that of the case's x/rect


def shuffle(fields):
    found = Shuffle(fields.whole("width"), fields.whole("llm"), fields.whole("grid"), fields.whole("factor"),
                    pair(fields, "rect"))
    for name, sides in (("grid", [found.grid]), ("rect", found.rectangle)):
        if any(size % found.factor for size in sides):
            fields.refuse(name, fields.get(name), f"a multiple of factor {found.factor}")
    return found


@op
def pixel_shuffle(x, factor, order="pixel, channel", transposed=False):
    """Put the channels of factor x factor tokens into one token       x (B, n, m, C) -> (B, n / f, m / f, f f C)

    order: of the new channels. "pixel, channel": (dy f + dx) C + c, that of InternVL, Idefics3 and nanoVLM; "channel,
    pixel": c f f + dy f + dx, that of torch's PixelUnshuffle. Weights for one are not right with the other.
    transposed: the result is (B, m / f, n / f, f f C), as in InternVL's ps_version v1, which leaves out the last turn.
    """
    B, n, m, C = x.shape
    inside = (2, 4, 5) if order == "pixel, channel" else (5, 2, 4)                  # of (B, n', dy, m', dx, C)
    axes = (0, *((3, 1) if transposed else (1, 3)), *inside)
    split = x.reshape(B, n // factor, factor, m // factor, factor, C).transpose(axes)

    def pull(dy):
        return dy.reshape(split.shape).transpose([axes.index(i) for i in range(6)]).reshape(x.shape)
    return split.reshape(*split.shape[:3], -1), pull


def shuffle_shapes(config):
    """{name: shape} of what follows the pixel shuffle at InternVL, Idefics3 and nanoVLM"""
    wide = config.width * config.factor ** 2
    return {**norm_shapes("mlp1.0", wide), **dense_shapes("mlp1.1", config.out, wide),
            **dense_shapes("mlp1.3", config.out, config.out),
            "idefics3.modality_projection.proj.weight": (config.out, wide), "nanovlm.proj.weight": (config.out, wide)}


def internvl(x, p, config, transposed=False):
    """InternVL's bridge: pixel shuffle, then LN, Linear, GELU, Linear           (B, n m, C) -> (B, n m / f^2, O)

    Chen et al. 2024 (arXiv 2404.16821). transposed: see pixel_shuffle.
    """
    few, pull_shuffle = shuffled(x, config, transposed)
    record("internvl_v1" if transposed else "internvl_v2", few)
    y, pull_mlp = chain(few, partial(layer_norm, p=p, name="mlp1.0", eps=NORM_EPS),
                        partial(mlp, p=p, names=("mlp1.1", "mlp1.3")))
    return y, lambda dy, g: pull_shuffle(pull_mlp(dy, g))


def shuffled(x, config, transposed=False):
    """pixel_shuffle of tokens                              (B, n m, C) -> (B, n m / f^2, f^2 C)"""
    B, _, C = x.shape
    y, pull = pixel_shuffle(x.reshape(B, config.grid, config.grid, C), config.factor, transposed=transposed)
    return y.reshape(B, -1, y.shape[-1]), lambda dy: pull(dy.reshape(y.shape)).reshape(x.shape)


# ------------------------------------------------------------------------------------------------------- C-Abstractor

@dataclass(frozen=True)
class CAbstractor:
    """The geometry of a C-Abstractor."""
    into: int
    width: int                          # channels inside
    out: int
    depth: int                          # blocks in each of the two stages
    mlp: int                            # linear layers after them
    grid: int                           # tokens a side that come in
    queries: int                        # tokens a side that go out
    eos: int                            # tokens appended
    positions: bool
    prenorm: bool


def of_c_abstractor(fields):
    return CAbstractor(fields.whole("encoder_hidden_size"), fields.whole("hidden_size"),
                       fields.whole("output_hidden_size"), fields.layers("depth", 3), fields.whole("mlp_depth", 2),
                       side(fields, "num_input_tokens"), side(fields, "num_query_tokens"),
                       fields.whole("num_eos_tokens", 0, 0), bool(fields.get("pos_emb", True)),
                       bool(fields.get("prenorm", False)))


def blocks(config):
    """(name, channels that come in) of the blocks of both stages"""
    for stage in (0, 2):                                    # of `net`, whose 1 is the pool
        for i in range(config.depth):
            yield f"net.{stage}.b{i + 1}", config.into if (stage, i) == (0, 0) else config.width


def readout(config):
    """Names of the linear layers at the end"""
    return tuple(f"readout.{2 * i}" for i in range(config.mlp))


def c_abstractor_shapes(config):
    """{name: shape} of all parameters"""
    found = {"pos_emb": (1, config.grid ** 2, config.into)} if config.positions else {}
    found |= norm_shapes("prenorm", config.into) if config.prenorm else {}
    found |= {"eos_tokens": (1, config.eos, config.out)} if config.eos else {}
    W = config.width
    for name, into in blocks(config):
        block = conv_norm_shapes("conv1.conv", "conv1.bn", W, into, 1)
        block |= conv_norm_shapes("conv2.conv", "conv2.bn", W, 1, 3)
        block |= conv_norm_shapes("conv3.conv", "conv3.bn", W, W, 1)
        block |= excited_shapes("se", W, round(into / 4))
        if into != W:
            block |= conv_norm_shapes("downsample.conv", "downsample.bn", W, into, 1)
        found |= below(name, block)
    return found | mlp_shapes(readout(config), W if config.depth else config.into, config.out)


@op
def c_abstractor(x, p, config):
    """Convolutions, an average over windows, convolutions, an MLP               (B, P, I) -> (B, queries^2 + eos, O)

    Cha et al. 2023 (arXiv 2312.06742, "Honeybee"). It is to keep where things are, which a resampler may lose.
    """
    names = [name for name, _ in blocks(config)]
    stages = [[(name, partial(residual_bottleneck, p=at(p, name))) for name in half]
              for half in (names[:config.depth], names[config.depth:])]
    x, pull_norm = layer_norm(x, p, "prenorm", PRENORM_EPS) if config.prenorm else (x, lambda dy, g: dy)
    x, pull_picture = chain(x, partial(added, p=p, name="pos_emb"), plain(picture, (config.grid, config.grid)))
    x, pull_stage1 = named_chain(x, stages[0])
    record("stage1", x)
    x, pull_pool = adaptive_average_pool(x, (config.queries, config.queries))
    record("pooled", x)
    x, pull_stage2 = named_chain(x, stages[1])
    record("stage2", x)
    y, pull_end = chain(x, plain(tokens), partial(mlp, p=p, names=readout(config), activation=ops.silu),
                        partial(appended, p=p, name="eos_tokens"))

    def pull(dy, g):
        dx = pull_pool(pull_stage2(pull_end(dy, g), g))
        return pull_norm(pull_picture(pull_stage1(dx, g), g), g)
    return y, pull


def named_chain(x, layers):
    """`chain` of (name, layer), where the parameters of each layer are below its name"""
    def below_name(name, layer):
        def run(x):
            y, pull = layer(x)
            return y, lambda dy, g: pull(dy, g[name])
        return run
    return chain(x, *(below_name(*one) for one in layers))


def residual_bottleneck(x, p):
    """silu(x' + f(x)): f 1 x 1, depthwise 3 x 3, excited, 1 x 1; x' a 1 x 1 where the width changes    (B, C, n, m)

    The block of RegNet (Radosavovic et al. 2020, arXiv 2003.13678), with layer norm over channels.
    """
    width = len(p.conv1.conv.weight)
    h, pull_h = chain(
        x, partial(conv_norm, p=p, conv="conv1.conv", norm="conv1.bn", activation=ops.silu),
        partial(conv_norm, p=p, conv="conv2.conv", norm="conv2.bn", activation=ops.silu, padding=1, groups=width))
    e, pull_excited = excited(h, p.se, ops.silu, activations.logistic)
    r, pull_r = conv_norm(e, p, "conv3.conv", "conv3.bn")
    short, pull_short = x, lambda dy, g: dy
    if p.get("downsample"):
        short, pull_short = conv_norm(x, p, "downsample.conv", "downsample.bn")
    y, pull_silu = ops.silu(r + short)

    def pull(dy, g):
        dy = pull_silu(dy)
        return pull_h(pull_excited(pull_r(dy, g), g.se), g) + pull_short(dy, g)
    return y, pull


# ------------------------------------------------------------------------------------------------------- D-Abstractor

@dataclass(frozen=True)
class DAbstractor:
    """The geometry of a D-Abstractor."""
    into: int
    width: int
    out: int
    layers: int
    heads: int
    points: int                         # that each head of a query reads
    mlp: int
    grid: int                           # tokens a side that come in
    queries: int                        # tokens a side that go out
    eos: int
    positions: bool
    pooled: str                         # what the pooled features are: "query", a position; "tgt", a start; or "none"
    activation: str
    eps: float


def of_d_abstractor(fields):
    if fields.whole("num_feature_levels", 1) != 1:
        fields.refuse("num_feature_levels", fields.get("num_feature_levels"), "1, the one level that is known here")
    found = DAbstractor(
        fields.whole("encoder_hidden_size"), fields.whole("d_model"), fields.whole("output_hidden_size"),
        fields.whole("decoder_layers", 6), fields.whole("decoder_attention_heads", 8),
        fields.whole("decoder_n_points", 4), fields.whole("decoder_ffn_dim", 1024), side(fields, "num_input_tokens"),
        side(fields, "num_queries"), fields.whole("num_eos_tokens", 0, 0), bool(fields.get("pos_emb", True)),
        fields.one_of("pooled_v_target", ("query", "tgt", "none"), "query"),
        fields.one_of("activation_function", ACTIVATIONS, "relu"), fields.number("layer_norm_eps", NORM_EPS, high=1))
    if found.width % found.heads:
        fields.refuse("decoder_attention_heads", found.heads, f"a divisor of d_model {found.width}")
    return found


def d_abstractor_shapes(config):
    """{name: shape} of all parameters"""
    W, Q, numbers = config.width, config.queries ** 2, config.heads * config.points
    found = {"reference_points": (1, Q, 2), "query_position_embeddings.weight": (
        Q, 2 * W if config.pooled == "none" else W)}
    found |= dense_shapes("input_proj.0", W, config.into) if config.into != W else {}
    found |= dense_shapes("output_proj", config.out, W) if config.out != W else {}
    found |= {"v_pos_emb": (1, config.grid ** 2, W)} if config.positions else {}
    found |= {"eos_tokens": (1, config.eos, W)} if config.eos else {}
    layer = {}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer |= dense_shapes(f"self_attn.{name}", W, W)
    for name, out in (("sampling_offsets", 2 * numbers), ("attention_weights", numbers), ("value_proj", W),
                      ("output_proj", W)):
        layer |= dense_shapes(f"encoder_attn.{name}", out, W)
    for name in ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"):
        layer |= norm_shapes(name, W)
    layer |= dense_shapes("fc1", config.mlp, W) | dense_shapes("fc2", W, config.mlp)
    for i in range(config.layers):
        found |= below(f"layers.{i}", layer)
    return found


@op
def d_abstractor(x, p, config):
    """Queries on a grid, each of which reads a few points around its own        (B, P, I) -> (B, queries^2 + eos, O)

    Cha et al. 2023 (arXiv 2312.06742, "Honeybee"): the decoder of Deformable DETR (Zhu et al. 2020,
    arXiv 2010.04159) on one level, whose reference points are learned.
    """
    linear_in = config.into != config.width
    values, pull_values = chain(x, partial(dense, p=p, prefix="input_proj.0.") if linear_in else same,
                                partial(added, p=p, name="v_pos_emb"))
    few, pull_pool = chain(values, plain(picture, (config.grid, config.grid)),
                           plain(adaptive_average_pool, (config.queries, config.queries)), plain(tokens))
    position, x = starts(few, p, config)
    pulls = []
    for i in range(config.layers):
        x, pull_layer = deformable_layer(x, position, values, p.reference_points, p.layers[i], config, i)
        record(f"layer{i}", x)
        pulls.append(pull_layer)
    y, pull_end = chain(x, partial(appended, p=p, name="eos_tokens"),
                        partial(dense, p=p, prefix="output_proj.") if config.out != config.width else same)

    def pull(dy, g):
        dx, dposition, dvalues, dreference = pull_end(dy, g), 0, 0, 0
        for i in reversed(range(config.layers)):
            dx, *others = pulls[i](dx, g.layers[i])
            dposition, dvalues, dreference = (a + b for a, b in zip((dposition, dvalues, dreference), others))
        g.add("reference_points", lambda: dreference.sum(0, keepdims=True))
        table, dfew = {"query": (lambda: dx.sum(0), dposition), "tgt": (lambda: dposition.sum(0), dx),
                       "none": (lambda: namespace(dx).concatenate([dposition, dx], -1).sum(0), None)}[config.pooled]
        g.query_position_embeddings.add("weight", table)
        return pull_values(dvalues if dfew is None else dvalues + pull_pool(dfew, g), g)
    return y, pull


def same(x):
    """A layer of `chain` that does nothing"""
    return x, lambda dy, g: dy


def starts(few, p, config):
    """Each query's position and its start, (B, Q, W) twice: one is the pooled features, the other is learned"""
    xp, table, W = namespace(few), p.query_position_embeddings.weight, config.width
    learned = [xp.broadcast_to(part, few.shape) for part in (table[:, :W], table[:, -W:])]
    return {"query": (few, learned[0]), "tgt": (learned[0], few), "none": tuple(learned)}[config.pooled]


def deformable_layer(x, position, values, reference, p, config, i):
    """LN(x + self-attention), LN(x + deformable attention to the values), LN(x + MLP)           (B, Q, W) -> (B, Q, W)

    The position is added to what makes queries and keys, never to what makes values. pull returns the gradients of x,
    position, values (B, P, W) and, by picture, the reference points (B, Q, 2).
    """
    a, pull_self = self_attention(x, position, p.self_attn, config)
    x1, pull_norm1 = layer_norm(x + a, p, "self_attn_layer_norm", config.eps)
    b, pull_cross = deformable_attention(x1 + position, values, reference, p.encoder_attn, config, i)
    x2, pull_norm2 = layer_norm(x1 + b, p, "encoder_attn_layer_norm", config.eps)
    m, pull_mlp = mlp(x2, p, ("fc1", "fc2"), ACTIVATIONS[config.activation])
    y, pull_norm3 = layer_norm(x2 + m, p, "final_layer_norm", config.eps)

    def pull(dy, g):
        dy = pull_norm3(dy, g)
        dy = pull_norm2(dy + pull_mlp(dy, g), g)
        dx1, dvalues, dreference = pull_cross(dy, g.encoder_attn)
        dy = pull_norm1(dy + dx1, g)
        dx, dposition = pull_self(dy, g.self_attn)
        return dy + dx, dx1 + dposition, dvalues, dreference
    return y, pull


def self_attention(x, position, p, config):
    """Multi-head attention with queries and keys of x + position, values of x   (B, Q, W) -> (B, Q, W)"""
    projections = [dense(tokens, p, f"{name}.") for tokens, name in (
        (x + position, "q_proj"), (x + position, "k_proj"), (x, "v_proj"))]
    y, pull_attention = ops.attention(*(split_heads(y, config.heads) for y, _ in projections), causal=False)
    y, pull_out = dense(join_heads(y), p, "out_proj.")

    def pull(dy, g):
        dqkv = pull_attention(split_heads(pull_out(dy, g), config.heads))
        dq, dk, dv = (pull_one(join_heads(dy), g) for (_, pull_one), dy in zip(projections, dqkv))
        return dq + dk + dv, dq + dk
    return y, pull


@op
def deformable_attention(x, values, reference, p, config, i):
    """y = the sum of the values at a few points around each query's reference point, weighted by a softmax

    x (B, Q, W), values (B, n n, W), reference (1, Q, 2) as shares of the picture -> (B, Q, W). Offsets are in pixels.
    Zhu et al. 2020 (arXiv 2010.04159), equation 2. pull returns the gradients of x, values and reference (B, Q, 2).
    """
    (B, Q, W), n, H, K = x.shape, config.grid, config.heads, config.points
    offsets, pull_offsets = dense(x, p, "sampling_offsets.")                        # (B, Q, H K 2)
    logits, pull_logits = dense(x, p, "attention_weights.")                         # (B, Q, H K)
    record(f"sampling_offsets{i}", offsets)
    record(f"attention_logits{i}", logits)
    weights, pull_softmax = ops.softmax(logits.reshape(B, Q, H, K))
    v, pull_v = dense(values, p, "value_proj.")
    pictures = split_heads(v, H).reshape(B * H, n, n, W // H)                       # one for each head
    points = reference[:, :, None, None] + offsets.reshape(B, Q, H, K, 2) / n
    points = points.transpose(0, 2, 1, 3, 4).reshape(B * H, Q * K, 2)
    read, pull_read = bilinear(pictures, points)
    read = read.reshape(B, H, Q, K, W // H)
    shares = weights.swapaxes(1, 2)[..., None]                                      # (B, H, Q, K, 1)
    y, pull_out = dense(join_heads((shares * read).sum(3)), p, "output_proj.")

    def pull(dy, g):
        dheads = split_heads(pull_out(dy, g), H)[:, :, :, None]                     # (B, H, Q, 1, d)
        dweights = (dheads * read).sum(-1).swapaxes(1, 2)                           # (B, Q, H, K)
        dpictures, dpoints = pull_read((dheads * shares).reshape(B * H, Q * K, W // H))
        dpoints = dpoints.reshape(B, H, Q, K, 2).transpose(0, 2, 1, 3, 4)           # (B, Q, H, K, 2)
        dvalues = pull_v(join_heads(dpictures.reshape(B, H, n * n, W // H)), g)
        dx = pull_logits(pull_softmax(dweights).reshape(logits.shape), g)
        return dx + pull_offsets(dpoints.reshape(offsets.shape) / n, g), dvalues, dpoints.sum((2, 3))
    return y, pull


# ---------------------------------------------------------------------------------------------------------------- LDP

@dataclass(frozen=True)
class LDP:
    """The geometry of a lightweight downsample projector."""
    into: int
    out: int
    grid: int                           # tokens a side that come in
    pooled: int | None = None           # tokens a side that go out of version 2


def ldp(fields, version):
    pooled = fields.whole("pooled", 12) if version == 2 else None
    return LDP(fields.whole("mm_hidden_size"), fields.whole("hidden_size"), side(fields, "num_input_tokens"), pooled)


def ldp_v1_shapes(config):
    """{name: shape} of all parameters"""
    W = config.out
    squeezed = divisible(W // 4, 8)
    block = conv_norm_shapes("block.0.0", "block.0.1", W, 1, 3) | excited_shapes("block.1", W, squeezed)
    block |= conv_norm_shapes("block.2.0", "block.2.1", W, W, 1)
    return (mlp_shapes(("model.mlp.1", "model.mlp.3"), config.into, W)
            | below("model.mb_block.1", block) | below("model.mb_block.2", block))


def divisible(number, by):
    """The multiple of `by` nearest to the number, but at least `by`, and not less than nine tenths of the number"""
    rounded = max(by, (number + by // 2) // by * by)
    return rounded + by if rounded < 0.9 * number else rounded


@op
def ldp_v1(x, p, config):
    """An MLP, then MobileNetV3 blocks with strides 1 and 2                      (B, n^2, I) -> (B, ceil(n / 2)^2, O)

    Chu et al. 2023 (arXiv 2312.16886, "MobileVLM").
    """
    p = p.model
    h, pull_mlp = mlp(x, p, ("mlp.1", "mlp.3"))
    record("mlp", h)
    h, pull_picture = picture(h, (config.grid, config.grid))
    h, pull_block1 = inverted_residual(h, p.mb_block[1], 1)
    record("mb_block1", h)
    h, pull_block2 = inverted_residual(h, p.mb_block[2], 2)
    record("mb_block2", h)
    y, pull_tokens = tokens(h)

    def pull(dy, g):
        g = g.model
        dh = pull_block1(pull_block2(pull_tokens(dy), g.mb_block[2]), g.mb_block[1])
        return pull_mlp(pull_picture(dh), g)
    return y, pull


def inverted_residual(x, p, stride):
    """Depthwise 3 x 3 and hard swish, excited, 1 x 1; plus x where the stride is 1          (B, C, n, m)

    The block of MobileNetV3 (Howard et al. 2019, arXiv 1905.02244) without the 1 x 1 that would widen it first.
    """
    h, pull_depthwise = conv_norm(x, p, "block.0.0", "block.0.1", activations.hard_swish, stride=stride, padding=1,
                                  groups=x.shape[1])
    e, pull_excited = excited(h, p.block[1], activations.relu, activations.hard_sigmoid)
    y, pull_out = conv_norm(e, p, "block.2.0", "block.2.1")

    def pull(dy, g):
        dx = pull_depthwise(pull_excited(pull_out(dy, g), g.block[1]), g)
        return dx + dy if stride == 1 else dx
    return y + x if stride == 1 else y, pull


def ldp_v2_shapes(config):
    """{name: shape} of all parameters"""
    return mlp_shapes(("mlp.mlp.0", "mlp.mlp.2"), config.into, config.out) | {
        "peg.peg.0.weight": (config.out, 1, 3, 3), "peg.peg.0.bias": (config.out,)}


@op
def ldp_v2(x, p, config):
    """An MLP, an average over windows, and a depthwise convolution beside a residual   (B, n^2, I) -> (B, pooled^2, O)

    Chu et al. 2024 (arXiv 2402.03766, "MobileVLM V2"); the convolution gives the tokens back where they are, as a
    position encoding generator (Chu et al. 2021, arXiv 2102.10882).
    """
    h, pull_mlp = mlp(x, p, ("mlp.mlp.0", "mlp.mlp.2"))
    record("mlp", h)
    h, pull_pool = chain(h, plain(picture, (config.grid, config.grid)),
                         plain(adaptive_average_pool, (config.pooled, config.pooled)))
    record("pooled", tokens(h)[0])
    c, pull_conv = convolution(h, p.peg.peg[0].weight, p.peg.peg[0].bias, padding=1, groups=config.out)
    y, pull_tokens = tokens(h + c)

    def pull(dy, g):
        dh = pull_tokens(dy)
        return pull_mlp(pull_pool(dh + pull_conv(dh, g.peg.peg[0]), g), g)
    return y, pull


# ------------------------------------------------------------------------------------------------------- golden cases

def several(x, layers):
    """Layers of the same x, {name: layer} -> {name: y}, pull({name: dy}, g) -> dx"""
    done = {name: layer(x) for name, layer in layers.items()}

    def pull(dy, g):
        return sum(pull_one(dy[name], g) for name, (_, pull_one) in done.items())
    return {name: y for name, (y, _) in done.items()}, pull


def eve_case(x, p, config):
    layers = {name: partial(mlp, p=p, names=names) for name, names in EVE.items()}

    def resblock(x):
        y, pull = residual_mlp(x, p.resblock)
        return y, lambda dy, g: pull(dy, g.resblock)
    y, pull = several(x["x"], layers | {"resblock": resblock})
    return y, lambda dy, g: {"x": pull(dy, g)}


def pool_case(x, p, config):
    y, pull = several(x["x"], {"adaptive": partial(pooled, p=p, config=config),
                               "strided": partial(pooled, p=p, config=config, strided=True)})
    return y, lambda dy, g: {"x": pull(dy, g)}


def shuffle_case(x, p, config):
    def linear(name, path):
        def layer(x):
            few, pull_shuffle = shuffled(x, config)
            record(f"{name}_shuffled", few)
            y, pull = dense(few, p, f"{path}.")
            return y, lambda dy, g: pull_shuffle(pull(dy, g))
        return layer
    y, pull = several(x["x"], {
        "internvl_v1_mlp1": partial(internvl, p=p, config=config, transposed=True),
        "internvl_v2_mlp1": partial(internvl, p=p, config=config),
        "idefics3": linear("idefics3", "idefics3.modality_projection.proj"),
        "nanovlm": linear("nanovlm", "nanovlm.proj")})
    B, n = len(x["x"]), config.grid
    torch, _ = pixel_shuffle(x["x"].reshape(B, n, n, -1), config.factor, "channel, pixel")
    rectangle = x["rect"].reshape(B, *config.rectangle, -1)
    y |= {"torch_pixel_unshuffle": torch.reshape(B, -1, torch.shape[-1]),
          "internvl_v1_rect": pixel_shuffle(rectangle, config.factor, transposed=True)[0],
          "internvl_v2_rect": pixel_shuffle(rectangle, config.factor)[0]}
    return y, lambda dy, g: {"x": pull(dy, g), "rect": namespace(rectangle).zeros_like(x["rect"])}


def tokens_case(bridge, x, p, config):
    y, pull = bridge(x["x"], p, config)
    return {"tokens": y}, lambda dy, g: {"x": pull(dy["tokens"], g)}


CASES = {
    "projectors_eve": Case(lambda fields, shapes: widths(fields), projector_shapes, eve_case),
    "avg_pool_connector": Case(lambda fields, shapes: pool(fields),
                               lambda config: dense_shapes("proj", config.out, config.into), pool_case),
    "pixel_shuffle": Case(lambda fields, shapes: shuffle(fields), shuffle_shapes, shuffle_case),
    "c_abstractor": Case(lambda fields, shapes: of_c_abstractor(fields), c_abstractor_shapes,
                         partial(tokens_case, c_abstractor)),
    "d_abstractor": Case(lambda fields, shapes: of_d_abstractor(fields), d_abstractor_shapes,
                         partial(tokens_case, d_abstractor)),
    "ldp_v1": Case(lambda fields, shapes: ldp(fields, 1), ldp_v1_shapes, partial(tokens_case, ldp_v1)),
    "ldp_v2": Case(lambda fields, shapes: ldp(fields, 2), ldp_v2_shapes, partial(tokens_case, ldp_v2)),
}
