"""CLAP: CLIP for sounds and texts (Wu et al. 2022, arXiv 2211.06687; Elizalde et al. 2022, arXiv 2206.04769).

LAION's, under Hugging Face's names: HTSAT hears (Chen et al. 2022, arXiv 2202.00874), which is a Swin transformer (Liu
et al. 2021, arXiv 2103.14030) over a spectrogram folded into a square; a RoBERTa reads. Also LAION's own losses, and
Microsoft's projection. The fusion of several crops of a long sound is not here.
"""
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..inputs import audio
from ..inputs.texts import RobertaTexts
from ..nn import activations, more_ops, ops
from ..nn.arrays import namespace, to_numpy, wide
from ..nn.convolution import batch_norm
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import below
from ..storage.reading import read_json
from . import bert
from .fields import Fields
from .pair import Relative
from .registry import Case, Checkpoint
from .transformer import (
    ACTIVATIONS, at, dense, dense_shapes, join_heads, layer_norm, norm_shapes, split_heads, sublayer)

NORM_EPS = 1e-5                                         # of the norms around the stages and of the batch norm
RATE, SECONDS = 48000, 10
PADDING = 1                                             # RoBERTa's id; positions begin after it
BUFFERS = "*.running_mean", "*.running_var", "*.num_batches_tracked"
WHOLE = "*.relative_position_index", "*.token_type_ids", "*.position_ids", "*.num_batches_tracked"


@dataclass(frozen=True)
class HTSAT:
    """The geometry of the tower for sounds."""
    mels: int
    side: int                           # of the square that the spectrogram is folded into
    patch: int
    width: int                          # of the first stage; each later one is twice as wide
    depths: tuple                       # blocks in each stage
    heads: tuple                        # in each stage
    window: int                         # side, in patches, within which a block attends
    mlp: float                          # times the width
    eps: float
    activation: str

    @property
    def stages(self):
        """(blocks, heads, width, patches a side) of each stage"""
        return [(depth, heads, self.width * 2 ** i, self.side // self.patch // 2 ** i)
                for i, (depth, heads) in enumerate(zip(self.depths, self.heads))]


@dataclass(frozen=True)
class Config:
    """The geometry of a CLAP."""
    audio: HTSAT
    text: bert.Bert
    vocabulary: int
    positions: int                      # rows of the position table, two more than a text has tokens
    embedding: int                      # width that both features have


def hugging_face(fields):
    """Config of the fields of a config.json, with Hugging Face's defaults"""
    sound, text = fields.group("audio_config"), fields.group("text_config")
    if sound.get("enable_fusion", False):
        sound.refuse("enable_fusion", True, "false: the fusion of several crops is not known here")
    tower = HTSAT(sound.whole("num_mel_bins", 64), sound.whole("spec_size", 256), sound.whole("patch_size", 4),
                  sound.whole("patch_embeds_hidden_size", 96), sound.numbers("depths", (2, 2, 6, 2)),
                  sound.numbers("num_attention_heads", (4, 8, 16, 32)), sound.whole("window_size", 8),
                  sound.number("mlp_ratio", 4.0), sound.number("layer_norm_eps", 1e-5, high=1),
                  sound.one_of("hidden_act", ACTIVATIONS, "gelu"))
    if len(tower.depths) != len(tower.heads):
        sound.refuse("depths", tower.depths, f"as many numbers as num_attention_heads has, {len(tower.heads)}")
    if tower.side % tower.mels or any(side % min(tower.window, side) or side < tower.window or width % heads
                                      for _, heads, width, side in tower.stages):
        sound.refuse("spec_size", tower.side, "a multiple of num_mel_bins that every stage's windows fill")
    return Config(tower, bert.bert_of(text), text.whole("vocab_size", 50265), text.whole("max_position_embeddings", 514),
                  fields.whole("projection_dim", 512))


def shapes(config):
    """{name: shape} of every tensor of floating-point numbers"""
    W, V, last = config.text.width, config.embedding, config.audio.stages[-1][2]
    text = bert.words_shapes(config.text, "embeddings", config.vocabulary, config.positions)
    text |= {"embeddings.token_type_embeddings.weight": (1, W), **dense_shapes("pooler.dense", W, W)}
    for i in range(config.text.layers):
        layer = bert.attention_shapes(config.text, "attention") | bert.feed_forward_shapes(config.text)
        text |= below(f"encoder.layer.{i}", layer)
    found = below("text_model", text) | below("audio_model.audio_encoder", htsat_shapes(config.audio))
    for name, into in ("audio_projection", last), ("text_projection", W):
        found |= dense_shapes(f"{name}.linear1", V, into) | dense_shapes(f"{name}.linear2", V, V)
    return found | {"logit_scale_a": (), "logit_scale_t": ()}


def htsat_shapes(config):
    C, found = config.width, {f"batch_norm.{name}": (config.mels,)
                              for name in ("weight", "bias", "running_mean", "running_var")}
    found |= {"patch_embed.proj.weight": (C, 1, config.patch, config.patch), "patch_embed.proj.bias": (C,),
              **norm_shapes("patch_embed.norm", C), **norm_shapes("norm", config.stages[-1][2])}
    for i, (depth, heads, W, _) in enumerate(config.stages):
        hidden = int(W * config.mlp)
        block = {"attention.self.relative_position_bias_table": ((2 * config.window - 1) ** 2, heads),
                 **norm_shapes("layernorm_before", W), **norm_shapes("layernorm_after", W),
                 **dense_shapes("attention.output.dense", W, W), **dense_shapes("intermediate.dense", hidden, W),
                 **dense_shapes("output.dense", W, hidden)}
        for name in "query", "key", "value":
            block |= dense_shapes(f"attention.self.{name}", W, W)
        for j in range(depth):
            found |= below(f"layers.{i}.blocks.{j}", block)
        if i + 1 < len(config.depths):
            found |= norm_shapes(f"layers.{i}.downsample.norm", 4 * W)
            found[f"layers.{i}.downsample.reduction.weight"] = (2 * W, 4 * W)
    return found


# -------------------------------------------------------------------------------------------------------------- sounds

@op
def htsat(mel, p, config):
    """Features of a sound                                  mel (B, 1, T, M), in decibels -> (B, W)"""
    B, _, T, M = mel.shape
    q = p.batch_norm
    x, pull_norm = batch_norm(mel.swapaxes(1, 3), q.weight, q.bias, q.running_mean, q.running_var, NORM_EPS)
    square, pull_fold = folded(x[..., 0].swapaxes(1, 2), config.side)                       # (B, N, N)
    squares, pull_squares = ops.patches(square[:, None], config.patch)
    x, pull_patches = dense(squares, p, "patch_embed.proj.")
    x, pull_first = layer_norm(x, p, "patch_embed.norm", NORM_EPS)
    side = config.side // config.patch
    x = x.reshape(B, side, side, config.width)
    record("audio_hidden0", x.transpose(0, 3, 1, 2))
    pulls = []
    for i, (depth, heads, _, _) in enumerate(config.stages):
        for j in range(depth):
            path = f"layers.{i}.blocks.{j}"
            x, pull = swin_block(x, at(p, path), heads, config, shifted=j % 2 == 1)
            pulls.append((path, pull))
        if i + 1 < len(config.depths):
            x, pull = merged(x, at(p, f"layers.{i}.downsample"))
            pulls.append((f"layers.{i}.downsample", pull))
        record(f"audio_hidden{i + 1}", x.transpose(0, 3, 1, 2))
    x, pull_last = layer_norm(x, p, "norm", NORM_EPS)
    y = x.mean((1, 2))
    record("audio_pooled", y)

    def pull_all(dy, g):
        dx = namespace(dy).broadcast_to(dy[:, None, None] / (x.shape[1] * x.shape[2]), x.shape)
        dx = pull_last(dx, g)
        for path, pull in reversed(pulls):
            dx = pull(dx, g[path])
        dx = pull_patches(pull_first(dx.reshape(B, side * side, -1), g), g)
        dx = pull_fold(pull_squares(dx)[:, 0])                                      # (B, T, M)
        return pull_norm(dx.swapaxes(1, 2)[..., None], g.batch_norm).swapaxes(1, 3)
    return y, pull_all


def folded(x, side):
    """A spectrogram as a square: stretched in time, cut into N / M parts, one below the other  (B, T, M) -> (B, N, N)

    Rows are frequencies. Stretching is cubic, and the first and the last frame keep their places.
    """
    xp, (B, T, M) = namespace(x), x.shape
    parts = side // M
    if side * parts < T:
        raise UserError(f"a spectrogram of {T} frames is too long: the tower takes {side * parts}")
    weight = xp.asarray(ops.bicubic_matrix(T, side * parts, corners=True), dtype=x.dtype)
    y = (weight @ x).reshape(B, parts, side, M).swapaxes(2, 3)

    def pull(dy):
        return weight.T @ dy.reshape(B, parts, M, side).swapaxes(2, 3).reshape(B, parts * side, M)
    return y.reshape(B, side, side), pull


def swin_block(x, p, heads, config, shifted):
    """x + attention within windows of LN(x), then x + mlp(LN(x))       (B, n, n, W) -> (B, n, n, W)

    shifted: windows begin in the middle of the others', so that neighbours meet.
    """
    side, window = x.shape[1], config.window
    shift = window // 2 if shifted and side > window else 0
    x, pull_attention = sublayer(x, p, "layernorm_before", config.eps,
                                 lambda n: window_attention(n, p, heads, window, shift))
    y, pull_mlp = sublayer(x, p, "layernorm_after", config.eps, lambda n: mlp(n, p, config))
    return y, lambda dy, g: pull_attention(pull_mlp(dy, g), g)


def mlp(x, p, config):
    h, pull_in = dense(x, p, "intermediate.dense.")
    a, pull_activation = ACTIVATIONS[config.activation](h)
    y, pull_out = dense(a, p, "output.dense.")
    return y, lambda dy, g: pull_in(pull_activation(pull_out(dy, g)), g)


def window_attention(x, p, heads, window, shift):
    """Attention of each patch to those of its window, with a learned bias for each way from one to the other

    The picture is turned by `shift` in both directions first; patches that only meet around its edge do not see each
    other.
    """
    xp, (B, n, _, W), w = namespace(x), x.shape, window

    def windows(a):                                         # (B, n, n, W) -> (B (n / w)^2, w^2, W)
        a = xp.roll(a, (-shift, -shift), (1, 2)) if shift else a
        return a.reshape(B, n // w, w, n // w, w, W).transpose(0, 1, 3, 2, 4, 5).reshape(-1, w * w, W)

    def back(a):
        a = a.reshape(B, n // w, n // w, w, w, W).transpose(0, 1, 3, 2, 4, 5).reshape(B, n, n, W)
        return xp.roll(a, (shift, shift), (1, 2)) if shift else a
    tokens = windows(x)
    projections = [dense(tokens, p, f"attention.self.{name}.") for name in ("query", "key", "value")]
    q, k, v = (split_heads(y, heads) for y, _ in projections)
    index = xp.asarray(ways(w))
    table = p.attention.self.relative_position_bias_table
    scores = wide(q @ k.swapaxes(2, 3)) / math.sqrt(W // heads) + table[index].transpose(2, 0, 1)
    if shift:
        visible = xp.asarray(together(n, w, shift))[:, None]                        # ((n / w)^2, 1, w^2, w^2)
        scores = scores.reshape(B, -1, *scores.shape[1:])
        scores = xp.where(visible, scores, xp.finfo(scores.dtype).min).reshape(-1, *scores.shape[2:])
    probabilities, pull_softmax = ops.softmax(scores)
    a = (probabilities @ v).astype(x.dtype, copy=False)
    y, pull_out = dense(join_heads(a), p, "attention.output.dense.")

    def pull(dy, g):
        da = split_heads(pull_out(windows(dy), g), heads)
        dscores = pull_softmax(da @ v.swapaxes(2, 3))

        def bias():
            dtable = xp.zeros(table.shape, dscores.dtype)
            xp.add.at(dtable, index.reshape(-1), dscores.sum(0).transpose(1, 2, 0).reshape(-1, heads))
            return dtable
        g.add("attention.self.relative_position_bias_table", bias)
        dscores = dscores / math.sqrt(W // heads)
        gradients = dscores @ k, dscores.swapaxes(2, 3) @ q, probabilities.swapaxes(2, 3) @ da
        return back(sum(pull_one(join_heads(d), g) for (_, pull_one), d in zip(projections, gradients)))
    return back(y), pull


@lru_cache
def ways(window):
    """The row of the bias table for each pair of a window's patches        -> (w^2, w^2)"""
    place = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"), -1).reshape(-1, 2)
    apart = place[:, None] - place + window - 1
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


@lru_cache
def together(side, window, shift):
    """Whether two patches of a shifted window were neighbours before           -> (windows, w^2, w^2) bool"""
    part = np.searchsorted([side - window, side - shift], np.arange(side), "right")
    parts = (part[:, None] * 3 + part).reshape(side // window, window, side // window, window)
    parts = parts.swapaxes(1, 2).reshape(-1, window * window)
    return parts[:, :, None] == parts[:, None]


def merged(x, p):
    """Each 2 x 2 patches become one, twice as wide          (B, n, n, W) -> (B, n / 2, n / 2, 2 W)"""
    xp, corners = namespace(x), [(0, 0), (1, 0), (0, 1), (1, 1)]
    y = xp.concatenate([x[:, i::2, j::2] for i, j in corners], -1)
    y, pull_norm = layer_norm(y, p, "norm", NORM_EPS)
    y, pull_reduction = dense(y, p, "reduction.")

    def pull(dy, g):
        dn, dx = pull_norm(pull_reduction(dy, g), g), xp.zeros_like(x)
        for k, (i, j) in enumerate(corners):
            dx[:, i::2, j::2] = dn[..., k * x.shape[3]:(k + 1) * x.shape[3]]
        return dx
    return y, pull


# --------------------------------------------------------------------------------------------------------------- texts

@op
def roberta(ids, visible, p, config):
    """Features of a text: tanh of a linear layer over its first token   ids (B, T), visible (B, T) bool -> (B, W)

    Positions count the tokens that are not padding, from 2 on; padding has position 1.
    """
    xp, text = namespace(ids), config.text
    words = ids != PADDING
    places = words.cumsum(1) * words + PADDING
    e, names = p.embeddings, {"word_embeddings": ids, "position_embeddings": places, "token_type_embeddings": ids * 0}
    rows = {name: ops.embedding(which, e[name].weight) for name, which in names.items()}
    x, pull_norm = layer_norm(sum(y for y, _ in rows.values()), e, "LayerNorm", text.eps)
    pulls = []
    for i in range(text.layers):
        layer = p.encoder.layer[i]
        x, _, pull_attention = bert.attention(x, x, layer.attention, text, visible)
        x, pull_mlp = bert.feed_forward(x, layer, text)
        pulls.append((pull_attention, pull_mlp))
    record("text_last", x)
    h, pull_pooler = dense(x[:, 0], p, "pooler.dense.")
    y = xp.tanh(h)
    record("text_pooled", y)

    def pull(dy, g):
        dx = xp.zeros_like(x)
        dx[:, 0] = pull_pooler(dy * (1 - y * y), g)
        for i in reversed(range(len(pulls))):
            pull_attention, pull_mlp = pulls[i]
            layer = g.encoder.layer[i]
            dquery, dcontext, _ = pull_attention(pull_mlp(dx, layer), layer.attention)
            dx = dquery + dcontext
        dx = pull_norm(dx, g.embeddings)
        for name, (_, pull_rows) in rows.items():
            pull_rows(dx, g.embeddings[name])
    return y, pull


# ---------------------------------------------------------------------------------------------------- features and loss

def projected(x, p, first, second):
    """W_2 relu(W_1 x + b_1) + b_2                          (B, W) -> (B, E)"""
    h, pull_first = dense(x, p, f"{first}.")
    a, pull_relu = activations.relu(h)
    y, pull_second = dense(a, p, f"{second}.")
    return y, lambda dy, g: pull_first(pull_relu(pull_second(dy, g)), g)


def audio_features(mel, p, config):
    """A sound's feature, of length 1                       mel (B, 1, T, M) -> (B, E)"""
    x, pull_tower = htsat(mel, p.audio_model.audio_encoder, config.audio)
    x, pull_project = projected(x, p.audio_projection, "linear1", "linear2")
    y, pull_unit = more_ops.normalise(x)
    record("audio_embeds", y)
    return y, lambda dy, g: pull_tower(pull_project(pull_unit(dy), g.audio_projection), g.audio_model.audio_encoder)


def text_features(ids, visible, p, config):
    """A text's feature, of length 1                        ids (B, T) -> (B, E)"""
    x, pull_tower = roberta(ids, visible, p.text_model, config)
    x, pull_project = projected(x, p.text_projection, "linear1", "linear2")
    y, pull_unit = more_ops.normalise(x)
    record("text_embeds", y)
    return y, lambda dy, g: pull_tower(pull_project(pull_unit(dy), g.text_projection), g.text_model)


@op
def choice(a, b, log_scale, weights=None):
    """CE of exp(log_scale) a b^T: each row of a chooses its own of b   (B, E) twice -> scalar; pull(dloss) -> all three"""
    xp = namespace(a)
    scale, cosines = xp.exp(log_scale), a @ b.T
    loss, pull_loss = ops.cross_entropy(cosines * scale, xp.arange(len(a)), weights)

    def pull(dloss=1.0):
        dlogits = pull_loss(dloss)
        dcosines = dlogits * scale
        return dcosines @ b, dcosines.T @ a, (dlogits * cosines).sum().reshape(log_scale.shape) * scale
    return loss, pull


def loss(mel, ids, visible, p, config):
    """Hugging Face's loss of sounds and their texts, where only texts choose: their sounds, by either of the scales

    mel (B, 1, T, M), ids (B, T) -> scalar; pull(dloss, g) -> dmel
    """
    sound, pull_sound = audio_features(mel, p, config)
    text, pull_text = text_features(ids, visible, p, config)
    record("logits_per_audio", sound @ text.T * namespace(sound).exp(p.logit_scale_a))
    names = "logit_scale_t", "logit_scale_a"
    parts = [choice(text, sound, p[name]) for name in names]

    def pull(dloss, g):
        dtext, dsound = 0, 0
        for name, (_, pull_part) in zip(names, parts):
            dt, ds, dscale = pull_part(dloss / 2)
            dtext, dsound = dtext + dt, dsound + ds
            g.add(name, lambda dscale=dscale: dscale)
        pull_text(dtext, g)
        return pull_sound(dsound, g)
    return sum(y for y, _ in parts) / 2, pull


# ----------------------------------------------------------------------------------------------------- LAION's own code

def plain_loss(sound, text, p):
    """LAION's: each sound chooses its text, and each text its sound, by logit_scale_a alone"""
    parts = [choice(sound, text, p.logit_scale_a), choice(text, sound, p.logit_scale_a)]

    def pull(dloss, g):
        (da, db, dfirst), (dc, dd, dsecond) = (pull_part(dloss / 2) for _, pull_part in parts)
        g.add("logit_scale_a", lambda: dfirst + dsecond)
        return da + dd, db + dc
    return sum(y for y, _ in parts) / 2, pull


def transformed_loss(sound, text, p, kappa=None):
    """LAION's with two more layers for one side of each pair: sounds and transformed texts, and the other way round

    kappa: the loss of one that resembles many others of its kind weighs more, exp(sum of its cosines / (kappa B)).
    pull(dloss, g) -> the gradients of both.
    """
    xp, paths = namespace(sound), ("sequential.0", "sequential.3")
    t_sound, pull_sound = projected(sound, p.audio_transform, *paths)
    t_text, pull_text = projected(text, p.text_transform, *paths)
    record("audio_features_mlp", t_sound)
    record("text_features_mlp", t_text)
    by_sound, by_text = (xp.exp((x @ x.T).sum(1) / (kappa * len(x))) if kappa else None for x in (sound, text))
    first = [choice(sound, t_text, p.logit_scale_a, by_sound), choice(t_text, sound, p.logit_scale_a, by_sound)]
    second = [choice(t_sound, text, p.logit_scale_t, by_text), choice(text, t_sound, p.logit_scale_t, by_text)]

    def pull(dloss, g):
        (ds, dtt, da), (dtt2, ds2, da2) = (pull_part(dloss / 4) for _, pull_part in first)
        (dts, dt, db), (dt2, dts2, db2) = (pull_part(dloss / 4) for _, pull_part in second)
        g.add("logit_scale_a", lambda: da + da2)
        g.add("logit_scale_t", lambda: db + db2)
        return (ds + ds2 + pull_sound(dts + dts2, g.audio_transform),
                dt + dt2 + pull_text(dtt + dtt2, g.text_transform))
    return sum(y for y, _ in first + second) / 4, pull


# ---------------------------------------------------------------------------------------------------------- Microsoft's

def microsoft_projection(x, p):
    """LN(e + W_2 gelu(e)), e = W_1 x                       (B, W) -> (B, E)"""
    e, pull_first = dense(x, p, "linear1.")
    a, pull_gelu = ops.gelu(e)
    h, pull_second = dense(a, p, "linear2.")
    y, pull_norm = layer_norm(e + h, p, "layer_norm", NORM_EPS)

    def pull(dy, g):
        dh = pull_norm(dy, g)
        return pull_first(dh + pull_gelu(pull_second(dh, g)), g)
    return y, pull


# ----------------------------------------------------------------------------------------------------------- the model

class CLAP(Relative):
    """A CLAP of LAION's with its weights; `load` makes one. None of the real ones has been loaded here, see pair.py."""
    kind, frozen = "a CLAP", BUFFERS

    def texts(self, folder):
        return RobertaTexts(folder, self.config.positions - 2, self.config.vocabulary)

    def mel(self, sound):
        """The spectrogram of ten seconds of a sound; a shorter one is repeated, then silent     -> (1, T, M)"""
        wave, length = audio.load(sound, RATE), RATE * SECONDS
        wave = np.tile(wave, max(1, length // len(wave)))[:length]
        wave = np.concatenate([wave, np.zeros(length - len(wave), np.float32)])
        path = Path(self.folder or "") / "preprocessor_config.json"
        fields = Fields(read_json(path) if self.folder and path.exists() else {}, path)
        filters = audio.mel_filters(self.config.audio.mels, 1024, RATE, fields.number("frequency_min", 0.0),
                                    fields.number("frequency_max", 14000.0, low=1, high=RATE / 2))
        return audio.clap_log_mel(wave, filters)[None]

    def audio_features(self, sounds):
        """A vector of length 1 for each sound (as in audio.load)                -> (B, E)"""
        mel = self.convert(np.stack([self.mel(sound) for sound in sounds]))
        return audio_features(mel, self.p, self.config)[0]

    def text_features(self, ids):
        """A vector of length 1 for each text, by its ids: tokenizer.batch(texts)            ids (B, T) -> (B, E)"""
        ids = namespace(self.p.logit_scale_a).asarray(ids)
        return text_features(ids, ids != PADDING, self.p, self.config)[0]

    def match(self, sounds, ids):
        """How probable each text is for each sound         -> NumPy array (sounds, texts), rows of sum 1"""
        cosines = self.audio_features(sounds) @ self.text_features(ids).T
        return to_numpy(ops.softmax(cosines * namespace(cosines).exp(self.p.logit_scale_a))[0])


CHECKPOINTS = [Checkpoint(CLAP.kind, lambda fields: fields.get("model_type") == "clap", hugging_face, shapes, CLAP, WHOLE)]


# ------------------------------------------------------------------------------------------------------- golden cases

def pair_case(x, p, config):
    wave = x["waveform"]
    second = namespace(wave).zeros(RATE, wave.dtype)        # repeated as often as it fits, then silence
    times = RATE // len(wave)
    second[:times * len(wave)].reshape(times, -1)[:] = wave
    mel = audio.clap_log_mel(second, audio.mel_filters(32, 1024, RATE, 0.0, 14000.0))
    y, pull = loss(x["input_features"], x["input_ids"], x["attention_mask"] != 0, p, config)
    return {"loss": y, "fe_log_mel": mel[None, None]}, lambda dy, g: {"input_features": pull(dy["loss"], g)}


def pair_case_shapes(config):
    """With the whole numbers that these files hold as well"""
    found = {"audio_model.audio_encoder.batch_norm.num_batches_tracked": (),
             "text_model.embeddings.token_type_ids": (1, config.positions)}
    for i, depth in enumerate(config.audio.depths):
        for j in range(depth):
            found[f"audio_model.audio_encoder.layers.{i}.blocks.{j}.attention.self.relative_position_index"] = (
                (config.audio.window ** 2,) * 2)
    return shapes(config) | found


def losses_case(x, p, config):
    names, features, pulls = ("audio", "text"), {}, {}
    for name in names:
        raw, pull_project = projected(x[name], p[f"{name}_projection"], "0", "2")
        features[name], pull_unit = more_ops.normalise(raw)
        pulls[name] = pull_project, pull_unit
        record(f"{name}_features", features[name])
    plain, pull_plain = plain_loss(*features.values(), p)
    both, pull_both = transformed_loss(*features.values(), p)
    weighted, _ = transformed_loss(*features.values(), p, config[3])

    def pull(dy, g):
        gradients = [sum(pair) for pair in zip(pull_plain(dy["loss"], g), pull_both(dy["loss"], g))]
        return {name: pulls[name][0](pulls[name][1](dx), g[f"{name}_projection"])
                for name, dx in zip(names, gradients)}
    return {"loss": plain + both, "loss_plain": plain, "loss_mlp": both, "loss_mlp_weighted": weighted}, pull


def losses_shapes(config):
    width, joint, _, _ = config
    found = {"logit_scale_a": (), "logit_scale_t": ()}
    for name in "audio", "text":
        found |= dense_shapes(f"{name}_projection.0", joint, width) | dense_shapes(f"{name}_projection.2", joint, joint)
        for layer in "03":
            found |= dense_shapes(f"{name}_transform.sequential.{layer}", joint, joint)
    return found


def microsoft_case(x, p, config):
    hidden, ids = x["text_hidden"], x["input_ids"]
    xp, each = namespace(hidden), namespace(hidden).arange(len(hidden))
    ends = (ids != 0).sum(1) - 1                            # a padding token's id is 0
    caption, pull_caption = microsoft_projection(hidden[each, ends], p.caption_encoder.projection)
    first, _ = microsoft_projection(hidden[:, 0], p.caption_encoder.projection)
    sound, pull_sound = microsoft_projection(x["audio"], p.audio_encoder.projection)
    (a, pull_a), (b, pull_b) = more_ops.normalise(caption), more_ops.normalise(sound)
    parts = [choice(a, b, p.logit_scale), choice(b, a, p.logit_scale)]

    def pull(dy, g):
        (da, db, dfirst), (db2, da2, dsecond) = (pull_part(dy["loss"] / 2) for _, pull_part in parts)
        g.add("logit_scale", lambda: dfirst + dsecond)
        dhidden = xp.zeros_like(hidden)
        dhidden[each, ends] = pull_caption(pull_a(da + da2), g.caption_encoder.projection)
        return {"audio": pull_sound(pull_b(db + db2), g.audio_encoder.projection), "text_hidden": dhidden}
    return {"caption_gpt2": caption, "caption_bert": first, "audio": sound, "logits": a @ b.T * xp.exp(p.logit_scale),
            "loss": sum(y for y, _ in parts) / 2}, pull


def microsoft_shapes(config):
    found = {"logit_scale": ()}
    for name, into in ("audio", config[0]), ("caption", config[1]):
        found |= below(f"{name}_encoder.projection", {
            "linear1.weight": (config[2], into), "linear2.weight": (config[2], config[2]),
            **norm_shapes("layer_norm", config[2])})
    return found


CASES = {
    "clap": Case(lambda fields, shapes: hugging_face(fields), pair_case_shapes, pair_case, BUFFERS),
    "clap_losses": Case(lambda fields, shapes: (fields.whole("width"), fields.whole("joint"), fields.whole("batch"),
                                                fields.number("kappa")), losses_shapes, losses_case),
    "msclap_projection": Case(lambda fields, shapes: tuple(fields.whole(f"d_{name}") for name in ("audio", "text", "proj")),
                              microsoft_shapes, microsoft_case),
}
