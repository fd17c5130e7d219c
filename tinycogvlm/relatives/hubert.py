"""HuBERT: speech without labels, learned by predicting what is masked (Hsu et al. 2021, arXiv 2106.07447).

Convolutions over the raw wave give fifty frames a second; a transformer sees them with spans masked, and predicts for
each masked frame the cluster of sounds that it falls into. The clusters come from k-means: first over MFCCs
(inputs/audio.py), then over the model's own features. fairseq's code and Hugging Face's hold the same model under other
names: see Names.
"""
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..inputs import audio
from ..nn import more_ops, ops
from ..nn.arrays import namespace, wide
from ..nn.convolution import channel_norm, convolution1d
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import below
from ..storage import checkpoint
from ..storage.reading import read_json
from . import transformer
from .pair import Relative
from .registry import Case, Checkpoint
from .transformer import Transformer, at, dense, dense_shapes, layer_norm, norm_shapes, sublayer

NORM_EPS = 1e-5
RATE = 16000


@dataclass(frozen=True)
class Names:
    """What a family of checkpoints calls the tensors; {} is the number of a convolution"""
    conv: str
    channel_norm: str                   # after a convolution, over time
    frame_norm: str                     # after a convolution, over channels
    norm: str
    projection: str
    positions: str
    size: str                           # a tensor of `positions`, the lengths of its weights
    direction: str                      # a tensor of `positions`
    mask: str                           # a tensor
    block: transformer.Names


HUGGING_FACE = Names(
    "feature_extractor.conv_layers.{}.conv", "feature_extractor.conv_layers.{}.layer_norm",
    "feature_extractor.conv_layers.{}.layer_norm", "feature_projection.layer_norm", "feature_projection.projection",
    "encoder.pos_conv_embed.conv", "parametrizations.weight.original0", "parametrizations.weight.original1",
    "masked_spec_embed",
    transformer.Names("layer_norm", ("attention.q_proj.", "attention.k_proj.", "attention.v_proj."),
                      "attention.out_proj", "final_layer_norm", "feed_forward.intermediate_dense",
                      "feed_forward.output_dense"))
FAIRSEQ = Names(
    "feature_extractor.conv_layers.{}.0", "feature_extractor.conv_layers.{}.2", "feature_extractor.conv_layers.{}.2.1",
    "layer_norm", "post_extract_proj", "encoder.pos_conv.0", "weight_g", "weight_v", "mask_emb",
    transformer.Names("self_attn_layer_norm", ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."),
                      "self_attn.out_proj", "final_layer_norm", "fc1", "fc2"))


@dataclass(frozen=True)
class Config:
    """The geometry of a HuBERT; what is about its training has fairseq's defaults."""
    convolutions: tuple                 # (channels, kernel, stride) of each
    conv_bias: bool
    by_frame: bool                      # whether a layer norm follows each convolution, not one norm the first alone
    transformer: Transformer
    pre_norm: bool
    reach: int                          # frames that the convolution of positions sees
    groups: int                         # of that convolution
    masked: bool                        # whether there is an embedding for hidden frames
    multiple: int = 1                   # frames are padded to a multiple of this
    codes: tuple = ()                   # clusters of each set of targets
    code_width: int = 0
    untied: bool = False                # whether each set of targets has a projection of its own
    temperature: float = 0.1
    slow: float = 1.0                   # times which gradients reach the convolutions
    penalty: float = 10.0               # of the convolutions' mean square
    targets_a_frame: float = 1.0
    names: Names = HUGGING_FACE
    inside: str = ""                    # the group of all tensors, in a checkpoint that also has a head


def hugging_face(fields, stored=None):
    """Config of the fields of a config.json, with Hugging Face's defaults: those of base

    stored: names of tensors. Older files call the parts of the positions' weights weight_g and weight_v.
    """
    for name, usual in (("feat_proj_layer_norm", True), ("conv_pos_batch_norm", False)):
        fields.only(name, usual)
    inside = "" if "HubertModel" in str(fields.get("architectures", "HubertModel")) else "hubert"
    width, heads = fields.whole("hidden_size", 768), fields.whole("num_attention_heads", 12)
    groups = fields.whole("num_conv_pos_embedding_groups", 16)
    if width % heads or width % groups:
        fields.refuse("hidden_size", width, f"a multiple of {heads} heads and {groups} groups")
    convolutions = tuple(zip(fields.numbers("conv_dim", (512,) * 7), fields.numbers("conv_kernel", (10, 3, 3, 3, 3, 2, 2)),
                             fields.numbers("conv_stride", (5, 2, 2, 2, 2, 2, 2))))
    names = HUGGING_FACE
    if stored is None:
        folder = Path(fields.path).parent
        stored = checkpoint.Checkpoint(folder) if any(folder.glob("*.safetensors")) else ()
    if any(name.endswith(f"{names.positions}.weight_g") for name in stored):
        names = replace(names, size="weight_g", direction="weight_v")
    tower = Transformer(width, fields.whole("intermediate_size", 3072), fields.layers("num_hidden_layers", 12), heads,
                        fields.number("layer_norm_eps", NORM_EPS, high=1),
                        fields.one_of("hidden_act", transformer.ACTIVATIONS, "gelu"), names.block)
    return Config(convolutions, bool(fields.get("conv_bias", False)),
                  fields.one_of("feat_extract_norm", ("group", "layer"), "group") == "layer", tower,
                  bool(fields.get("do_stable_layer_norm", False)), fields.whole("num_conv_pos_embeddings", 128), groups,
                  fields.number("mask_time_prob", 0.05) > 0 or fields.number("mask_feature_prob", 0.0) > 0, names=names,
                  inside=inside)


def fairseq(fields):
    """Config of a case's fields, which are those of fairseq's model, task and criterion"""
    conv = tuple(tuple(one) for one in fields.get("conv"))
    tower = Transformer(fields.whole("encoder_embed_dim"), fields.whole("encoder_ffn_embed_dim"),
                        fields.layers("encoder_layers"), fields.whole("encoder_attention_heads"), NORM_EPS, "gelu",
                        FAIRSEQ.block)
    ratio = fields.number("label_rate") * math.prod(stride for *_, stride in conv) / fields.whole("sample_rate", RATE)
    return Config(conv, bool(fields.get("conv_bias")), fields.get("extractor_mode") == "layer_norm", tower,
                  bool(fields.get("layer_norm_first")), fields.whole("conv_pos"), fields.whole("conv_pos_groups"), True,
                  fields.whole("required_seq_len_multiple", 2), fields.numbers("codes"), fields.whole("final_dim"),
                  bool(fields.get("untie_final_proj")), fields.number("logit_temp"), fields.number("feature_grad_mult"),
                  fields.numbers("loss_weights", whole=False)[0], ratio, FAIRSEQ)


def shapes(config):
    """{name: shape} of every tensor"""
    names, W, found, into = config.names, config.transformer.width, {}, 1
    for i, (channels, kernel, _) in enumerate(config.convolutions):
        found[f"{names.conv.format(i)}.weight"] = (channels, into, kernel)
        if config.conv_bias:
            found[f"{names.conv.format(i)}.bias"] = (channels,)
        if config.by_frame or i == 0:
            norm = names.frame_norm if config.by_frame else names.channel_norm
            found |= norm_shapes(norm.format(i), channels)
        into = channels
    found |= norm_shapes(names.norm, into) | dense_shapes(names.projection, W, into) | norm_shapes("encoder.layer_norm", W)
    found |= {f"{names.positions}.bias": (W,), f"{names.positions}.{names.size}": (1, 1, config.reach),
              f"{names.positions}.{names.direction}": (W, W // config.groups, config.reach)}
    if config.masked:
        found[names.mask] = (W,)
    if config.codes:
        found |= dense_shapes("final_proj", config.code_width * (len(config.codes) if config.untied else 1), W)
        found["label_embs_concat"] = (sum(config.codes), config.code_width)
    found |= below("encoder.layers", transformer.shapes(config.transformer))
    return below(config.inside, found) if config.inside else found


# -------------------------------------------------------------------------------------------------------- convolutions

@op
def extractor(wave, p, config):
    """Fifty frames a second of a wave                      (B, N) -> (B, C, T)"""
    x, pulls, names = wave[:, None], [], config.names
    for i, (_, _, stride) in enumerate(config.convolutions):
        path = names.conv.format(i)
        group = at(p, path)
        x, pull_conv = convolution1d(x, group.weight, group.get("bias"), stride)
        norm, pull_norm = None, None
        if config.by_frame:
            norm = names.frame_norm.format(i)
            x, pull_norm = layer_norm(x.swapaxes(1, 2), p, norm, NORM_EPS)
            x = x.swapaxes(1, 2)
        elif i == 0:
            norm = names.channel_norm.format(i)
            x, pull_norm = channel_norm(x, at(p, norm).weight, at(p, norm).bias, NORM_EPS)
        x, pull_gelu = ops.gelu(x)
        pulls.append((path, pull_conv, norm, pull_norm, pull_gelu))

    def pull(dx, g):
        for path, pull_conv, norm, pull_norm, pull_gelu in reversed(pulls):
            dx = pull_gelu(dx)
            if config.by_frame:
                dx = pull_norm(dx.swapaxes(1, 2), g).swapaxes(1, 2)
            elif norm:
                dx = pull_norm(dx, g[norm])
            dx = pull_conv(dx, g[path])
        return dx[:, 0]
    return x, pull


@op
def positions(x, p, config):
    """gelu of a convolution over a frame's surroundings    (B, T, W) -> (B, T, W)      p: the convolution's

    Its weights are g v / |v| (weight norm, Salimans & Kingma 2016, arXiv 1602.07868), the length taken for each place of
    the kernel. A kernel of even size gives a frame too many, the last, which is dropped.
    """
    xp, names, T = namespace(x), config.names, x.shape[1]
    size, direction = at(p, names.size), at(p, names.direction)
    length = xp.sqrt((direction * direction).sum((0, 1), keepdims=True))
    unit = direction / length
    h, pull_conv = convolution1d(x.swapaxes(1, 2), size * unit, p.bias, padding=config.reach // 2, groups=config.groups)
    y, pull_gelu = ops.gelu(h[:, :, :T])

    def pull(dy, g):
        dh = xp.zeros(h.shape, dy.dtype)
        dh[:, :, :T] = pull_gelu(dy.swapaxes(1, 2))

        class Weight:                                       # the op's gradient is of g v / |v|
            def add(self, name, gradient):
                if name == "bias":
                    g.add("bias", gradient)
                    return
                dweight = gradient()
                along = (dweight * unit).sum((0, 1), keepdims=True)
                g.add(names.size, lambda: along)
                g.add(names.direction, lambda: (dweight - unit * along) * size / length)
        return pull_conv(dh, Weight()).swapaxes(1, 2)
    return y.swapaxes(1, 2), pull


# ------------------------------------------------------------------------------------------------------------- encoder

@op
def encoder(x, p, config, visible=None):
    """The frames after all blocks                          (B, T, W), visible (B, T) bool -> (B, T, W)

    visible: False for padding, which is set to 0 first and hidden from attention. A layer norm stands before the first
    block, or, if norms come before the sublayers, after the last. Records hidden0, hidden1, ... and layer0, ...
    """
    xp, (B, T, W), t = namespace(x), x.shape, config.transformer
    shown = 1 if visible is None else visible[..., None]
    x = x * shown
    convolved, pull_positions = positions(x, at(p, config.names.positions), config)
    record("pos_conv", convolved)
    x = x + convolved
    if not config.pre_norm:
        x, pull_norm = layer_norm(x, p, "encoder.layer_norm", t.eps)
    more = -T % config.multiple
    if more:
        visible = xp.ones((B, T), bool) if visible is None else visible
        x = xp.concatenate([x, xp.zeros((B, more, W), x.dtype)], 1)
        visible = xp.concatenate([visible, xp.zeros((B, more), bool)], 1)
    record("hidden0", x)
    pulls = []
    for i in range(t.layers):
        x, pull_block = block(x, p.encoder.layers[i], config, visible)
        pulls.append(pull_block)
        record(f"layer{i}", x)
        record(f"hidden{i + 1}", x)
    x = x[:, :T]
    if config.pre_norm:
        x, pull_norm = layer_norm(x, p, "encoder.layer_norm", t.eps)

    def pull(dy, g):
        dy = pull_norm(dy, g) if config.pre_norm else dy
        dx = xp.zeros((B, T + more, W), dy.dtype)
        dx[:, :T] = dy
        for i in reversed(range(t.layers)):
            dx = pulls[i](dx, g.encoder.layers[i])
        dx = dx[:, :T]
        dx = dx if config.pre_norm else pull_norm(dx, g)
        return (dx + pull_positions(dx, g[config.names.positions])) * shown
    return x, pull


def block(x, p, config, visible):
    """Attention and MLP, each LN(x + f(x)), or if norms come first x + f(LN(x))"""
    t, names, add = config.transformer, config.names.block, sublayer if config.pre_norm else post_norm
    x, pull_attention = add(x, p, names.norm1, t.eps, lambda n: transformer.attention(n, n, p, t, visible))
    y, pull_mlp = add(x, p, names.norm2, t.eps, lambda n: transformer.mlp(n, p, t))
    return y, lambda dy, g: pull_attention(pull_mlp(dy, g), g)


def post_norm(x, p, norm, eps, layer):
    """LN(x + layer(x)), the norm's parameters below p.<norm>"""
    h, pull_layer = layer(x)
    y, pull_norm = layer_norm(x + h, p, norm, eps)

    def pull(dy, g):
        dx = pull_norm(dy, g)
        return dx + pull_layer(dx, g)
    return y, pull


@op
def features(wave, p, config, hidden=None, visible=None):
    """Features of every frame                              wave (B, N) -> (B, T, W), convolutions' features (B, C, T)

    hidden (B, T) bool: frames that the mask's embedding replaces. pull(dy, g, dconvolved=0) -> dwave, where dconvolved
    is the gradient of the convolutions' features from elsewhere.
    """
    xp, names = namespace(wave), config.names
    convolved, pull_extractor = extractor(wave, p, config)
    record("conv_features", convolved)
    x, pull_norm = layer_norm(convolved.swapaxes(1, 2), p, names.norm, NORM_EPS)
    x, pull_projection = dense(x, p, f"{names.projection}.")
    if hidden is not None:
        x = xp.where(hidden[..., None], at(p, names.mask), x)
    y, pull_encoder = encoder(x, p, config, visible)

    def pull(dy, g, dconvolved=0):
        dx = pull_encoder(dy, g)
        if hidden is not None:
            g.add(names.mask, lambda: (dx * hidden[..., None]).sum((0, 1)))
            dx = dx * ~hidden[..., None]
        dx = pull_norm(pull_projection(dx, g), g).swapaxes(1, 2)
        return pull_extractor(slowed(dx + dconvolved, config.slow), g)
    return y, convolved, pull


@op
def slowed(gradient, slow):
    """What reaches the convolutions of a gradient: a tenth in training, where they would learn too fast"""
    return slow * gradient


# ------------------------------------------------------------------------------------------------------------ training

def frames_visible(padding, frames):
    """Which frames are not all padding                     padding (B, N) of the samples -> (B, frames) bool"""
    whole = padding[:, :padding.shape[1] // frames * frames] != 0
    return ~whole.reshape(len(padding), frames, -1).all(-1)


@op
def loss(wave, targets, hidden, p, config, padding=None):
    """Cross-entropy of the hidden frames' clusters, summed, and a penalty on large features     -> scalar

    wave (B, N), targets: sets of (B, more than T) clusters, hidden (B, T) bool, padding (B, N) of the samples. Logits are
    the cosines to each cluster's embedding, divided by the temperature. The penalty is 10 times the mean square of the
    convolutions' features times the number of hidden frames. Gradients reach the convolutions scaled by config.slow.
    pull(dloss, g) -> dwave
    """
    xp, T = namespace(wave), hidden.shape[1]
    visible = xp.ones(hidden.shape, bool) if padding is None else frames_visible(padding, T)
    y, convolved, pull_features = features(wave, p, config, hidden, visible)
    record("encoder", y)
    chosen = hidden & visible
    rows, count = y[chosen], int(chosen.sum())
    projected, pull_projection = dense(rows, p, "final_proj.")
    record("proj", projected)
    when = (xp.arange(T) * config.targets_a_frame).astype(int)
    total, pulls, first = 0.0, [], 0
    for i, codes in enumerate(config.codes):
        part = slice(i * config.code_width, (i + 1) * config.code_width) if config.untied else slice(None)
        these = slice(first, first + codes)
        first += codes
        a, pull_a = more_ops.normalise(projected[:, part])
        b, pull_b = more_ops.normalise(p.label_embs_concat[these])
        logits = a @ b.T / config.temperature
        record(f"logits{i}", logits)
        mean, pull_mean = ops.cross_entropy(logits, targets[i][:, when][chosen])
        record(f"loss_masked{i}", mean * count)
        total = total + mean * count
        pulls.append((part, these, a, b, pull_a, pull_b, pull_mean))
    penalty = (wide(convolved) ** 2).mean()
    record("features_pen", penalty)

    def pull(dloss, g):
        dprojected, dlabels = xp.zeros_like(projected), xp.zeros_like(p.label_embs_concat)
        for part, these, a, b, pull_a, pull_b, pull_mean in pulls:
            dcosines = pull_mean(dloss * count) / config.temperature
            dprojected[:, part] += pull_a(dcosines @ b)
            dlabels[these] += pull_b(dcosines.T @ a)
        g.add("label_embs_concat", lambda: dlabels)
        dy = xp.zeros_like(y)
        dy[chosen] = pull_projection(dprojected, g)
        return pull_features(dy, g, convolved * (dloss * config.penalty * count * 2 / convolved.size))
    return total + config.penalty * penalty * count, pull


def spans(batch, frames, random, share=0.8, length=10, least=2):
    """Frames to hide: spans of `length`, so many that without overlaps they are a share of all  -> (batch, frames) bool

    random: a NumPy generator. As fairseq draws them, the number of spans rounded up or down by chance.
    """
    hidden, length = np.zeros((batch, frames), bool), min(length, frames)
    for row in hidden:
        many = min(max(least, int(share * frames / length + random.random())), frames - length + 1)
        for start in random.choice(frames - length + 1, many, replace=False):
            row[start:start + length] = True
    return hidden


def k_means(x, k, random, rounds=50):
    """Centres (k, D) of k clusters of the rows of x (N, D): Lloyd's rounds after k-means++ (Arthur & Vassilvitskii 2007)
    """
    centres, apart = x[random.integers(len(x))][None], np.inf
    while len(centres) < k:
        apart = np.minimum(apart, ((x - centres[-1]) ** 2).sum(1))                 # squared, from the nearest centre
        p = apart / apart.sum() if apart.sum() else None    # where all rows are the same
        centres = np.concatenate([centres, x[random.choice(len(x), p=p)][None]])
    for _ in range(rounds):
        labels = clusters(x, centres)
        moved = np.stack([x[labels == i].mean(0) if (labels == i).any() else centres[i] for i in range(k)])
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def clusters(x, centres):
    """The nearest centre of each row                       x (N, D), centres (k, D) -> (N,)"""
    return ((centres ** 2).sum(1) - 2 * x @ centres.T).argmin(1)


# ----------------------------------------------------------------------------------------------------------- the model

class HuBERT(Relative):
    """A HuBERT with its weights; `load` makes one. None of the real ones has been loaded here, see pair.py."""
    kind = "a HuBERT"

    def wave(self, sound):
        """What the model hears of a sound (as in audio.load): of mean 0 and variance 1 if its folder says so"""
        wave, least = audio.load(sound, RATE), 1
        for _, kernel, stride in reversed(self.config.convolutions):
            least = (least - 1) * stride + kernel
        if len(wave) < least:
            raise UserError(f"a sound of {len(wave)} samples is too short: the first frame takes {least}")
        path = Path(self.folder or "") / "preprocessor_config.json"
        wanted = read_json(path).get("do_normalize", True) if self.folder and path.exists() else self.config.pre_norm
        return (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7) if wanted else wave

    def features(self, sound):
        """Fifty vectors a second of a sound                -> (T, W)"""
        return features(self.convert(self.wave(sound)[None]), at(self.p, self.config.inside), self.config)[0][0]


HEADS = "lm_head.*", "projector.*", "classifier.*", "layer_weights"         # of a fine-tuned HuBERT, which are not read
CHECKPOINTS = [Checkpoint(HuBERT.kind, lambda fields: fields.get("model_type") == "hubert", hugging_face, shapes, HuBERT,
                          HEADS)]


# ------------------------------------------------------------------------------------------------------- golden cases

def features_case(x, p, config):
    y, _, pull = features(x["input_values"], p, config)
    return {"last": y}, lambda dy, g: {"input_values": pull(dy["last"], g)}


def loss_case(x, p, config):
    targets = [x[f"target{i}"] for i in range(len(config.codes))]
    hidden = x["mask"] != 0
    y, pull = loss(x["source"], targets, hidden, p, config, x["padding_mask"])
    visible = frames_visible(x["padding_mask"], hidden.shape[1])
    outputs = {"loss": y, "frame_padding": ~visible, "sample_size": (hidden & visible).sum()}
    return outputs, lambda dy, g: {"source": pull(dy["loss"], g)}


CASES = {
    "hubert": Case(lambda fields, shapes: hugging_face(fields, shapes), shapes, features_case),
    "hubert_pretrain": Case(lambda fields, shapes: fairseq(fields), shapes, loss_case),
}
