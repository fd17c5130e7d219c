"""Flamingo: pictures enter a frozen language model through gated cross-attention between its blocks.

Alayrac et al. 2022 (arXiv 2204.14198). The Perceiver resampler (Jaegle et al. 2021, arXiv 2103.03206) turns each
picture or clip into a few latent tokens; a gated block lets every text token look at those of the last picture before
it. Its two gates are tanh(0) at the start of training, so that the language model starts as it was. Both come in two
forms, of OpenFlamingo and of IDEFICS (Hugging Face), which differ in names, norms and activations.
"""
from dataclasses import dataclass, replace
from functools import partial

from ..model import expert
from ..nn import ops
from ..nn.arrays import namespace
from ..nn.attention import attend
from ..nn.swap import op
from ..nn.trace import record, scope
from ..nn.tree import below
from .masks import media_mask
from .pair import Relative
from .registry import Case, Checkpoint
from .transformer import ACTIVATIONS, at, dense, join_heads, layer_norm, norm_shapes, split_heads

NORM_EPS = 1e-5                                         # of all layer norms here


def rms_norm(x, p, name, eps):
    """ops.rms_norm by the weight at p.<name>"""
    y, pull = ops.rms_norm(x, at(p, name).weight, eps)
    return y, lambda dy, g: pull(dy, g[name])


# ---------------------------------------------------------------------------------------------------------- attention

@dataclass(frozen=True)
class Names:
    """What a family calls the tensors of an attention layer: prefixes of q, of k and v (or of both in one) and out"""
    q: str
    kv: tuple
    out: str


OPEN_FLAMINGO = Names("to_q.", ("to_kv.",), "to_out.")
IDEFICS_RESAMPLER = Names("q_proj.", ("k_proj.", "v_proj."), "output_proj.")
IDEFICS = Names("q_proj.", ("k_proj.", "v_proj."), "o_proj.")


def attention_shapes(names, width, context, inner):
    """{name: shape} of an attention layer whose heads are `inner` wide together; nothing has a bias"""
    found = {f"{names.q}weight": (inner, width), f"{names.out}weight": (width, inner)}
    return found | {f"{prefix}weight": (2 * inner // len(names.kv), context) for prefix in names.kv}


@op
def attention(x, context, p, names, heads, visible=None, head_norm=None):
    """Attention of the tokens x to those of the context    x (B, T, W), context (B, S, C) -> (B, T, W)

    visible: bool, (B, 1, T, S) or what broadcasts to that; by default all is. head_norm(x, p, name): the norm of every
    head's queries and keys, if there is one. pull(dy, g) -> dx, dcontext.
    """
    if visible is None:
        visible = namespace(x).ones((1, 1, 1, 1), bool)
    q, pull_q = dense(x, p, names.q)
    k, v, pull_kv = keys_and_values(context, p, names)
    q, k, v = (split_heads(y, heads) for y in (q, k, v))
    if head_norm:
        q, pull_q_norm = head_norm(q, p, "q_layer_norm")
        k, pull_k_norm = head_norm(k, p, "k_layer_norm")
    y, pull_attend = attend(q, k, v, visible)
    y, pull_out = dense(join_heads(y), p, names.out)

    def pull(dy, g):
        dq, dk, dv = pull_attend(split_heads(pull_out(dy, g), heads))
        if head_norm:
            dq, dk = pull_q_norm(dq, g), pull_k_norm(dk, g)
        return pull_q(join_heads(dq), g), pull_kv(join_heads(dk), join_heads(dv), g)
    return y, pull


def keys_and_values(x, p, names):
    """k and v of two matrices, or of one that holds K, and V below it"""
    if len(names.kv) == 1:
        both, pull = dense(x, p, names.kv[0])
        half = both.shape[-1] // 2
        return both[..., :half], both[..., half:], lambda dk, dv, g: pull(namespace(dk).concatenate([dk, dv], -1), g)
    (k, pull_k), (v, pull_v) = (dense(x, p, prefix) for prefix in names.kv)
    return k, v, lambda dk, dv, g: pull_k(dk, g) + pull_v(dv, g)


def feed_forward(x, p, names, activation):
    """f(LN(x) W_1^T) W_2^T, without biases; names: of the norm and of both matrices         (B, T, W) -> (B, T, W)"""
    norm, fc1, fc2 = names
    n, pull_norm = layer_norm(x, p, norm, NORM_EPS)
    h, pull_fc1 = dense(n, p, f"{fc1}.")
    a, pull_activation = activation(h)
    y, pull_fc2 = dense(a, p, f"{fc2}.")
    return y, lambda dy, g: pull_norm(pull_fc1(pull_activation(pull_fc2(dy, g)), g), g)


def feed_forward_shapes(names, width, inside):
    norm, fc1, fc2 = names
    return {**norm_shapes(norm, width), f"{fc1}.weight": (inside, width), f"{fc2}.weight": (width, inside)}


# ---------------------------------------------------------------------------------------------------------- resampler

@dataclass(frozen=True)
class ResamplerNames:
    """What a family calls the tensors of its resampler"""
    layers: str
    context_norm: str
    latents_norm: str
    attention: Names
    feed_forward: tuple
    final: str


OF_OPEN_FLAMINGO = ResamplerNames("layers", "norm_media", "norm_latents", OPEN_FLAMINGO, ("0", "1", "3"), "norm")
OF_IDEFICS = ResamplerNames("blocks", "context_layer_norm", "latents_layer_norm", IDEFICS_RESAMPLER,
                            ("ln", "fc", "c_proj"), "layer_norm")


@dataclass(frozen=True)
class Resampler:
    """The geometry of a Perceiver resampler."""
    width: int
    depth: int
    heads: int
    size: int                           # of a head
    latents: int
    mlp: int
    activation: str                     # one of ACTIVATIONS
    names: ResamplerNames
    frames: int | None = None           # of a clip at most, where frames have an embedding
    media: int | None = None            # in a sequence at most, where media have one
    head_norms: bool = False


def of_open_flamingo(fields):
    width = fields.whole("dim")
    return Resampler(width, fields.layers("depth", 6), fields.whole("heads", 8), fields.whole("dim_head", 64),
                     fields.whole("num_latents", 64), width * fields.whole("ff_mult", 4), "gelu", OF_OPEN_FLAMINGO,
                     fields.whole("max_num_frames") if "max_num_frames" in fields else None,
                     fields.whole("max_num_media") if "max_num_media" in fields else None)


def of_idefics(fields, shapes):
    """Resampler of a case's fields; the MLP's width is the checkpoint's, by default 4 times the tokens'"""
    width = fields.whole("embed_dim")
    mlp = shapes.get("blocks.0.1.fc.weight", (4 * width,))[0]
    return Resampler(width, fields.layers("depth", 6), fields.whole("n_heads", 16), fields.whole("head_dim", 96),
                     fields.whole("n_latents", 64), mlp, "relu", OF_IDEFICS,
                     head_norms=bool(fields.get("qk_layer_norms", False)))


def resampler_shapes(config):
    """{name: shape} of all parameters"""
    W, names, inner = config.width, config.names, config.heads * config.size
    found = {"latents": (config.latents, W)} | norm_shapes(names.final, W)
    found |= {"frame_embs": (config.frames, W)} if config.frames else {}
    found |= {"media_time_embs": (config.media, 1, W)} if config.media else {}
    layer = norm_shapes(f"0.{names.context_norm}", W) | norm_shapes(f"0.{names.latents_norm}", W)
    layer |= below("0", attention_shapes(names.attention, W, W, inner))
    for name in ("q_layer_norm", "k_layer_norm") if config.head_norms else ():
        layer |= norm_shapes(f"0.{name}", config.size)
    layer |= below("1", feed_forward_shapes(names.feed_forward, W, config.mlp))
    for i in range(config.depth):
        found |= below(f"{names.layers}.{i}", layer)
    return found


@op
def resampler(x, p, config):
    """A few latents that read a picture's tokens, however many they are         (B, S, W) -> (B, latents, W)

    In each layer the latents attend to the tokens and to themselves, then an MLP follows; a norm ends it.
    """
    names, xp = config.names, namespace(x)
    layers = at(p, names.layers) if config.depth else ()
    z = xp.broadcast_to(p.latents, (len(x), *p.latents.shape))
    pulls = []
    for i in range(config.depth):
        z, pull_layer = resampler_layer(z, x, layers[i], config)
        pulls.append(pull_layer)
    y, pull_final = layer_norm(z, p, names.final, NORM_EPS)

    def pull(dy, g):
        dz, dx = pull_final(dy, g), xp.zeros_like(x)
        for i in reversed(range(config.depth)):
            dz, dtokens = pulls[i](dz, g[names.layers][i])
            dx += dtokens
        g.add("latents", lambda: dz.sum(0))
        return dx
    return y, pull


def resampler_layer(z, x, p, config):
    """z + attention(LN(z); [LN(x), LN(z)]), then z + mlp(z)           pull(dz, g) -> dz, dx"""
    names, S = config.names, x.shape[1]
    n, pull_context = layer_norm(x, p[0], names.context_norm, NORM_EPS)
    q, pull_latents = layer_norm(z, p[0], names.latents_norm, NORM_EPS)
    a, pull_attention = attention(q, namespace(x).concatenate([n, q], 1), p[0], names.attention, config.heads,
                                  head_norm=partial(layer_norm, eps=NORM_EPS) if config.head_norms else None)
    z = z + a
    m, pull_mlp = feed_forward(z, p[1], names.feed_forward, ACTIVATIONS[config.activation])

    def pull(dz, g):
        dz = dz + pull_mlp(dz, g[1])
        dq, dcontext = pull_attention(dz, g[0])
        return dz + pull_latents(dq + dcontext[:, S:], g[0]), pull_context(dcontext[:, :S], g[0])
    return z + m, pull


def resample_media(x, p, config):
    """Every picture or clip of a sequence by itself        (B, media, frames, S, W) -> (B, media, latents, W)

    Frames and media have learned embeddings in time where the checkpoint has them; there are none in space.
    """
    B, T, F, S, W = x.shape
    if config.frames:
        x = x + p.frame_embs[:F, None]
    if config.media:
        x = x + p.media_time_embs[:T, None]
    y, pull_resampler = resampler(x.reshape(B * T, F * S, W), p, config)

    def pull(dy, g):
        dx = pull_resampler(dy.reshape(B * T, -1, W), g).reshape(x.shape)
        xp = namespace(dx)

        def table(name, rows):
            def gradient():
                whole = xp.zeros_like(at(p, name))
                whole[:len(rows)] = rows
                return whole
            return gradient
        if config.frames:
            g.add("frame_embs", table("frame_embs", dx.sum((0, 1, 3))))
        if config.media:
            g.add("media_time_embs", table("media_time_embs", dx.sum((0, 2, 3))[:, None]))
        return dx
    return y.reshape(B, T, -1, W), pull


# -------------------------------------------------------------------------------------------------------- media masks

def text_times(locations):
    """How many media a token has met, itself included      locations (B, T), true where a medium stands -> (B, T)"""
    return (locations != 0).astype(int).cumsum(1)


# ------------------------------------------------------------------------------------------------------- gated blocks

@op
def gated(x, y, alpha):
    """x + tanh(alpha) y, x itself where alpha is 0         x and y (B, T, W); alpha (1,) or (1, 1, W) -> (B, T, W)

    pull(dz) -> the gradients of y and alpha; that of x is dz.
    """
    gate = namespace(alpha).tanh(alpha)

    def pull(dz):
        along = dz * y
        dgate = along.sum() if alpha.size == 1 else along.sum((0, 1))
        return dz * gate, dgate.reshape(alpha.shape) * (1 - gate * gate)
    return x + gate * y, pull


@dataclass(frozen=True)
class Block:
    """The geometry of a gated cross-attention block."""
    width: int
    context: int                        # width of the media's tokens
    heads: int
    size: int                           # of a head
    mlp: int
    eps: float = NORM_EPS               # of IDEFICS's norms
    head_norms: bool = False
    vector: bool = False                # whether IDEFICS's gates have a number for each channel


def block_of_open_flamingo(fields):
    width = fields.whole("dim")
    return Block(width, fields.whole("dim_visual"), fields.whole("heads", 8), fields.whole("dim_head", 64),
                 width * fields.whole("ff_mult", 4))


def block_of_idefics(fields):
    """Block of the fields of IDEFICS's config.json"""
    width, heads = fields.whole("hidden_size", 4096), fields.whole("num_attention_heads", 32)
    if width % heads:
        fields.refuse("num_attention_heads", heads, f"a divisor of hidden_size {width}")
    return Block(width, fields.group("vision_config").whole("embed_dim", 768), heads, width // heads,
                 fields.whole("intermediate_size", 11008), fields.number("rms_norm_eps", 1e-6, high=1),
                 bool(fields.get("qk_layer_norms", False)),
                 fields.one_of("alpha_type", ("float", "vector"), "float") == "vector")


FEED_FORWARD = "0", "1", "3"


def block_shapes(config):
    """{name: shape} of OpenFlamingo's block"""
    attention = attention_shapes(OPEN_FLAMINGO, config.width, config.context, config.heads * config.size)
    return {"attn_gate": (1,), "ff_gate": (1,), **below("attn", attention | norm_shapes("norm", config.width)),
            **below("ff", feed_forward_shapes(FEED_FORWARD, config.width, config.mlp))}


@op
def block(x, media, times, p, config, immediate=True):
    """OpenFlamingo's: x + tanh(a) attention(LN(x); media), then x + tanh(b) mlp(x)              (B, T, W) -> (B, T, W)

    media (B, media, latents, C); times (B, T): see text_times, or during generation the media so far. If `immediate`,
    a token that has met no medium gets nothing; else it gets, as in the original, the mean of all.
    pull(dy, g) -> dx, dmedia.
    """
    a, pull_attention = cross_attention(x, media, times, p.attn, config, immediate)
    record("attn", a)
    z, pull_gate = gated(x, a, p.attn_gate)
    m, pull_mlp = feed_forward(z, p.ff, FEED_FORWARD, ops.gelu)
    y, pull_second = gated(z, m, p.ff_gate)

    def pull(dy, g):
        dm, dsecond = pull_second(dy)
        dz = dy + pull_mlp(dm, g.ff)
        da, dfirst = pull_gate(dz)
        g.add("ff_gate", lambda: dsecond)
        g.add("attn_gate", lambda: dfirst)
        dx, dmedia = pull_attention(da, g.attn)
        return dz + dx, dmedia
    return y, pull


def cross_attention(x, media, times, p, config, immediate):
    """The attention of `block`, before its gate"""
    B, M, n, C = media.shape
    h, pull_norm = layer_norm(x, p, "norm", NORM_EPS)
    y, pull_attention = attention(h, media.reshape(B, M * n, C), p, OPEN_FLAMINGO, config.heads,
                                  media_mask(times, M, n, immediate))
    met = times[..., None] > 0 if immediate else True

    def pull(dy, g):
        dh, dcontext = pull_attention(dy * met, g)
        return pull_norm(dh, g), dcontext.reshape(media.shape)
    return y * met, pull


def idefics_shapes(config):
    """{name: shape} of IDEFICS's block"""
    W, gate = config.width, (1, 1, config.width) if config.vector else (1,)
    found = {"alpha_cross_attn": gate, "alpha_dense": gate, "input_layernorm.weight": (W,),
             "post_attention_layernorm.weight": (W,), "mlp.gate_proj.weight": (config.mlp, W),
             "mlp.up_proj.weight": (config.mlp, W), "mlp.down_proj.weight": (W, config.mlp)}
    for name in ("q_layer_norm", "k_layer_norm") if config.head_norms else ():
        found[f"cross_attn.{name}.weight"] = (config.size,)
    return found | below("cross_attn", attention_shapes(IDEFICS, W, config.context, config.heads * config.size))


@op
def idefics_block(x, media, visible, met, p, config):
    """IDEFICS's: x + tanh(a) attention(RMSNorm(x); media), then x + tanh(b) mlp(RMSNorm(x))     (B, T, W) -> (B, T, W)

    media (B, S, C); visible (B, 1, T, S): the tokens of media that each may see; met (B, T): 0 for a token that sees
    none, and gets nothing. The MLP is LLaMA's. pull(dy, g) -> dx, dmedia.
    """
    met = (met != 0)[..., None]
    h, pull_norm1 = rms_norm(x, p, "input_layernorm", config.eps)
    a, pull_attention = attention(h, media, p.cross_attn, IDEFICS, config.heads, visible,
                                  partial(rms_norm, eps=config.eps) if config.head_norms else None)
    z, pull_gate = gated(x, a * met, p.alpha_cross_attn)
    h, pull_norm2 = rms_norm(z, p, "post_attention_layernorm", config.eps)
    m, pull_mlp = expert.mlp(h, p.mlp)
    y, pull_second = gated(z, m, p.alpha_dense)

    def pull(dy, g):
        dm, dsecond = pull_second(dy)
        dz = dy + pull_norm2(pull_mlp(dm, g.mlp), g)
        da, dfirst = pull_gate(dz)
        g.add("alpha_dense", lambda: dsecond)
        g.add("alpha_cross_attn", lambda: dfirst)
        dh, dmedia = pull_attention(da * met, g.cross_attn)
        return dz + pull_norm1(dh, g), dmedia
    return y, pull


# ------------------------------------------------------------------------------------------------------------ IDEFICS

@dataclass(frozen=True)
class OfIdefics:
    """The geometry of what an IDEFICS adds to its language model."""
    block: Block
    blocks: int
    resampler: Resampler | None


def idefics(fields):
    """OfIdefics of the fields of a config.json"""
    inside, width = fields.group("perceiver_config"), fields.group("vision_config").whole("embed_dim", 768)
    resampler = Resampler(
        width, inside.layers("resampler_depth", 6), inside.whole("resampler_n_heads", 16),
        inside.whole("resampler_head_dim", 96), inside.whole("resampler_n_latents", 64), 4 * width, "relu", OF_IDEFICS,
        head_norms=bool(inside.get("qk_layer_norms_perceiver", False)))
    blocks = fields.layers("num_hidden_layers", 32) // fields.whole("cross_layer_interval", 1)
    return OfIdefics(block_of_idefics(fields), blocks, resampler if fields.get("use_resampler", False) else None)


def all_idefics_shapes(config):
    """{name: shape} of the resampler and of all gated blocks"""
    found = below("model.perceiver_resampler", resampler_shapes(config.resampler)) if config.resampler else {}
    for i in range(config.blocks):
        found |= below(f"model.gated_cross_attn_layers.{i}", idefics_shapes(config.block))
    return found


class Idefics(Relative):
    """What an IDEFICS adds to its language model, with its weights; `load` makes one. None of the real ones has been
    loaded here, see pair.py.
    """
    kind = "an IDEFICS, of which the resampler and the gated blocks are known"

    def resample(self, features):
        """A few tokens of each picture                     features (N, S, C) -> (N, latents, C)"""
        return resampler(features, self.p.model.perceiver_resampler, self.config.resampler)[0]

    def block(self, i, x, media, visible, met):
        """Gated block i; see idefics_block                 x (B, T, W), media (B, S, C) -> (B, T, W)"""
        return idefics_block(x, media, visible, met, self.p.model.gated_cross_attn_layers[i], self.config.block)[0]


REST = "model.vision_model.*", "model.embed_tokens.*", "model.layers.*", "model.norm.*", "lm_head.*", "*.inv_freq"
CHECKPOINTS = [Checkpoint(Idefics.kind, lambda fields: fields.get("model_type") == "idefics", idefics,
                          all_idefics_shapes, Idefics, REST)]


# ------------------------------------------------------------------------------------------------------- golden cases

def resampler_case(x, p, config):
    y, pull = resampler(x["context"], p, config)
    return {"latents": y}, lambda dy, g: {"context": pull(dy["latents"], g)}


def media_case(x, p, config):
    y, pull = resample_media(x["x"], p, config)
    return {"latents": y}, lambda dy, g: {"x": pull(dy["latents"], g)}


MODES = {"immediate": True, "all": False}
GATES = {"alpha_float": False, "alpha_vector": True}


def block_case(x, p, config):
    times, tokens, outputs, pulls = text_times(x["media_locations"]), x["x"], {}, {}
    for name, immediate in MODES.items():
        with scope(name):
            outputs[name], pulls[name] = block(tokens, x["media"], times, p[name], config, immediate)
    cached, _ = block(tokens[:, -1:], x["media"], times[:, -1:], p.immediate, config)

    def pull(dy, g):
        dx, dmedia = (sum(parts) for parts in zip(*(pulls[name](dy[name], g[name]) for name in MODES)))
        return {"x": dx, "media": dmedia}
    return outputs | {"text_time": times, "cached": cached}, pull


def idefics_case(x, p, config):
    visible = x["image_attention_mask"] == 0                # the original adds it to the scores
    outputs, pulls = {}, {}
    for name in GATES:
        outputs[name], pulls[name] = idefics_block(x["hidden_states"], x["image_hidden_states"], visible,
                                                   x["cross_attention_gate"], p[name], config)

    def pull(dy, g):
        dx, dmedia = (sum(parts) for parts in zip(*(pulls[name](dy[name], g[name]) for name in GATES)))
        return {"hidden_states": dx, "image_hidden_states": dmedia}
    return outputs, pull


def idefics_case_shapes(config):
    found = {}
    for name, vector in GATES.items():
        found |= below(name, idefics_shapes(replace(config, vector=vector)))
    return found


CASES = {
    "perceiver_resampler": Case(of_idefics, resampler_shapes, resampler_case),
    "flamingo_resampler": Case(lambda fields, shapes: of_open_flamingo(fields), resampler_shapes, media_case),
    "flamingo_gated_block": Case(lambda fields, shapes: block_of_open_flamingo(fields),
                                 lambda config: below("immediate", block_shapes(config))
                                 | below("all", block_shapes(config)), block_case),
    "gated_cross_attention": Case(lambda fields, shapes: block_of_idefics(fields), idefics_case_shapes, idefics_case),
}
