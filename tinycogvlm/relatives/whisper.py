"""Whisper: an encoder that hears thirty seconds, a decoder that writes them down (Radford et al. 2022, arXiv 2212.04356)

The encoder is two convolutions over a log-mel spectrogram and a pre-norm transformer. The decoder is a language model
whose every block also attends to what the encoder found. OpenAI's own code and Hugging Face's hold the same model under
other names: see Names. How a recording becomes text: transcription.py.
"""
from dataclasses import dataclass

from ..errors import UserError
from ..inputs import audio
from ..nn import ops
from ..nn.arrays import namespace
from ..nn.convolution import convolution1d
from ..nn.swap import op
from ..nn.trace import record, recording
from ..nn.tree import below
from ..storage import ctranslate2
from . import transformer, transcription
from .registry import Case, Checkpoint
from .transformer import (
    Transformer, at, dense, dense_shapes, embedded, join_heads, layer_norm, norm_shapes, project, split_heads)

NORM_EPS = 1e-5


@dataclass(frozen=True)
class Names:
    """What a family of checkpoints calls the tensors; below the group of the encoder or of the decoder but for those"""
    encoder: str
    decoder: str
    layers: str
    sound_positions: str                # a tensor
    text_positions: str                 # a tensor
    tokens: str                         # a tensor
    sound_final: str
    text_final: str
    block: transformer.Names
    cross: transformer.Names            # of the attention to the sound, and of the norm before it


HUGGING_FACE = Names(
    "model.encoder", "model.decoder", "layers", "embed_positions.weight", "embed_positions.weight",
    "embed_tokens.weight", "layer_norm", "layer_norm",
    transformer.Names("self_attn_layer_norm", ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."),
                      "self_attn.out_proj", "final_layer_norm", "fc1", "fc2"),
    transformer.Names("encoder_attn_layer_norm", ("encoder_attn.q_proj.", "encoder_attn.k_proj.",
                                                  "encoder_attn.v_proj."), "encoder_attn.out_proj", "", "", ""))
OPENAI = Names(
    "encoder", "decoder", "blocks", "positional_embedding", "positional_embedding", "token_embedding.weight", "ln_post",
    "ln", transformer.Names("attn_ln", ("attn.query.", "attn.key.", "attn.value."), "attn.out", "mlp_ln", "mlp.0",
                            "mlp.2"),
    transformer.Names("cross_attn_ln", ("cross_attn.query.", "cross_attn.key.", "cross_attn.value."), "cross_attn.out",
                      "", "", ""))


@dataclass(frozen=True)
class Config:
    """The geometry of a Whisper."""
    mels: int                           # bands of the spectrogram
    encoder: Transformer
    sound_context: int                  # positions of the encoder, each of two frames: 1500 for thirty seconds
    decoder: Transformer
    text_context: int
    vocabulary: int
    names: Names = HUGGING_FACE


def hugging_face(fields):
    """Config of the fields of a config.json, with Hugging Face's defaults: those of tiny"""
    width = fields.whole("d_model", 384)
    towers = []
    for tower in "encoder", "decoder":
        heads = fields.whole(f"{tower}_attention_heads", 6)
        if width % heads:
            fields.refuse(f"{tower}_attention_heads", heads, f"a divisor of d_model {width}")
        towers.append(Transformer(
            width, fields.whole(f"{tower}_ffn_dim", 1536), fields.layers(f"{tower}_layers", 4), heads, NORM_EPS,
            fields.one_of("activation_function", transformer.ACTIVATIONS, "gelu"), HUGGING_FACE.block,
            causal=tower == "decoder"))
    return Config(fields.whole("num_mel_bins", 80), towers[0], fields.whole("max_source_positions", 1500), towers[1],
                  fields.whole("max_target_positions", 448), fields.whole("vocab_size", 51865))


def openai(fields):
    """Config of the "dims" of OpenAI's checkpoints"""
    towers = [Transformer(width := fields.whole(f"n_{kind}_state"), 4 * width, fields.layers(f"n_{kind}_layer"),
                          fields.whole(f"n_{kind}_head"), NORM_EPS, "gelu", OPENAI.block, causal=kind == "text")
              for kind in ("audio", "text")]
    return Config(fields.whole("n_mels"), towers[0], fields.whole("n_audio_ctx"), towers[1],
                  fields.whole("n_text_ctx"), fields.whole("n_vocab"), OPENAI)


def of_ctranslate2(fields):
    """Config of a folder of CTranslate2's, whose config.json says nothing of it: by the shapes in its model.bin"""
    tensors = ctranslate2.whisper(fields.path.parent)
    stored, towers = {name: tensor.shape for name, tensor in tensors.items()}, []
    try:
        width, mels, _ = stored["model.encoder.conv1.weight"]
        for tower in "encoder", "decoder":
            path, heads = f"model.{tower}.layers", tensors.heads[tower]
            layers = len({name.split(".")[3] for name in stored if name.startswith(f"{path}.")})
            if not heads or width % heads:
                raise ValueError(f"{heads} heads do not divide the width {width}")
            towers.append(Transformer(width, stored[f"{path}.0.fc1.weight"][0], layers, heads, NORM_EPS, "gelu",
                                      HUGGING_FACE.block, causal=tower == "decoder"))
        sound, text, tokens = (stored[f"model.{name}.weight"][0] for name in (
            "encoder.embed_positions", "decoder.embed_positions", "decoder.embed_tokens"))
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{fields.path.parent}: its model.bin is damaged, or no Whisper's ({error})") from None
    return Config(mels, towers[0], sound, towers[1], text, tokens)


def shapes(config):
    """{name: shape} of every tensor. The output head is the embedding table of the tokens."""
    return (below(config.names.encoder, encoder_shapes(config))
            | below(config.names.decoder, decoder_shapes(config)))


def encoder_shapes(config):
    W, names = config.encoder.width, config.names
    return {"conv1.weight": (W, config.mels, 3), "conv1.bias": (W,), "conv2.weight": (W, W, 3), "conv2.bias": (W,),
            names.sound_positions: (config.sound_context, W), **norm_shapes(names.sound_final, W),
            **below(names.layers, without_key_biases(transformer.shapes(config.encoder), names.block))}


def decoder_shapes(config):
    W, names = config.decoder.width, config.names
    blocks = transformer.shapes(config.decoder)
    for i in range(config.decoder.layers):
        cross = norm_shapes(names.cross.norm1, W) | dense_shapes(names.cross.out, W, W)
        for prefix in names.cross.qkv:
            cross |= {f"{prefix}weight": (W, W), f"{prefix}bias": (W,)}
        blocks |= below(str(i), cross)
    blocks = without_key_biases(without_key_biases(blocks, names.block), names.cross)
    return {names.tokens: (config.vocabulary, W), names.text_positions: (config.text_context, W),
            **norm_shapes(names.text_final, W), **below(names.layers, blocks)}


def without_key_biases(shapes, names):
    """A key's bias would add the same to all of a query's scores, which the softmax does not see."""
    return {name: shape for name, shape in shapes.items() if not name.endswith(f"{names.qkv[1]}bias")}


# ------------------------------------------------------------------------------------------------------------- encoder

@op
def encoder(mel, p, config, keep="all"):
    """Hidden states of the sound                           mel (B, M, 2 T) -> (B, T, W)             p: the encoder's"""
    names = config.names
    h, pull_conv1 = convolution1d(mel, p.conv1.weight, p.conv1.bias, padding=1)
    h, pull_gelu1 = ops.gelu(h)
    h, pull_conv2 = convolution1d(h, p.conv2.weight, p.conv2.bias, stride=2, padding=1)
    h, pull_gelu2 = ops.gelu(h)                                                     # (B, W, T)
    record("conv", h)
    T = h.shape[2]
    x = h.swapaxes(1, 2) + at(p, names.sound_positions)[:T]
    record("hidden0", x)
    x, pull_blocks = transformer.transformer(x, at(p, names.layers), config.encoder, keep)
    y, pull_final = layer_norm(x, p, names.sound_final, NORM_EPS)

    def pull(dy, g):
        dx = pull_blocks(pull_final(dy, g), g[names.layers])

        def positions():
            table = namespace(dx).zeros((config.sound_context, dx.shape[2]), dx.dtype)
            table[:T] = dx.sum(0)
            return table
        g.add(names.sound_positions, positions)
        dh = pull_conv2(pull_gelu2(dx.swapaxes(1, 2)), g.conv2)
        return pull_conv1(pull_gelu1(dh), g.conv1)
    return y, pull


# ------------------------------------------------------------------------------------------------------------- decoder

@op
def memory(sound, p, config):
    """The keys and values of every layer's cross-attention to the sound: (B, H, S, d) twice

    sound (B, S, W), the encoder's output; p: the decoder's. They are computed once, however long the text becomes.
    pull(dmemory, g) -> dsound
    """
    names, found, pulls = config.names, [], []
    for i in range(config.decoder.layers):
        pair = [dense(sound, at(p, names.layers)[i], prefix) for prefix in names.cross.qkv[1:]]
        found.append([split_heads(y, config.decoder.heads) for y, _ in pair])
        pulls.append([pull for _, pull in pair])

    def pull(dmemory, g):
        return sum(pull_one(join_heads(dy), g[names.layers][i]) for i, pair in enumerate(pulls)
                   for pull_one, dy in zip(pair, dmemory[i]))
    return found, pull


@op
def decoder(ids, heard, p, config, past=None, last=False):
    """Logits of each next token, and the keys and values of the text's tokens         ids (B, T) -> (B, T, V), past

    heard: what `memory` returns. past: the second result of an earlier call whose tokens these continue. last: compute
    the logits after the last token only. pull(dlogits, g) -> the gradient of `heard`; valid only without past and with
    all logits. Records decoder1, ...
    """
    names, layers = config.names, at(p, config.names.layers)
    start = past[0][0].shape[2] if past else 0
    x, pull_words = embedded(ids, p, names.tokens, names.text_positions, start)
    kept, pulls = [], []
    for i in range(config.decoder.layers):
        x, pair, pull_block = decoder_block(x, past[i] if past else None, heard[i], layers[i], config)
        kept.append(pair)
        pulls.append(pull_block)
        record(f"decoder{i + 1}", x)
    x, pull_final = layer_norm(x, p, names.text_final, NORM_EPS)
    logits, pull_head = project(x[:, -1:] if last else x, p, names.tokens)

    def pull(dlogits, g):
        dx, dheard = pull_final(pull_head(dlogits, g), g), [None] * len(pulls)
        for i in reversed(range(len(pulls))):
            dx, dheard[i] = pulls[i](dx, g[names.layers][i])
        pull_words(dx, g)
        return dheard
    return logits, kept, pull


def decoder_block(x, past, heard, p, config):
    """Self-attention, cross-attention to the sound, MLP: each x + f(LN(x))       pull(dx, g) -> dx, dheard"""
    x, kept, pull_self = self_attention(x, past, p, config)
    x, pull_cross = cross_attention(x, heard, p, config)
    y, pull_mlp = transformer.sublayer(x, p, config.names.block.norm2, NORM_EPS,
                                       lambda n: transformer.mlp(n, p, config.decoder))

    def pull(dy, g):
        dx, dheard = pull_cross(pull_mlp(dy, g), g)
        return pull_self(dx, g), dheard
    return y, kept, pull


def self_attention(x, past, p, config):
    """x + causal attention of LN(x), to the tokens of `past` as well; the keys and values of all of them"""
    names, heads, xp = config.names.block, config.decoder.heads, namespace(x)
    n, pull_norm = layer_norm(x, p, names.norm1, NORM_EPS)
    projections = [dense(n, p, prefix) for prefix in names.qkv]
    q, k, v = (split_heads(y, heads) for y, _ in projections)
    if past:
        k, v = (xp.concatenate(pair, 2) for pair in zip(past, (k, v)))
    a, pull_attention = ops.attention(q, k, v)
    y, pull_out = dense(join_heads(a), p, f"{names.out}.")

    def pull(dy, g):
        dqkv = pull_attention(split_heads(pull_out(dy, g), heads))
        dn = sum(pull_one(join_heads(d), g) for (_, pull_one), d in zip(projections, dqkv))
        return dy + pull_norm(dn, g)
    return x + y, (k, v), pull


def cross_attention(x, heard, p, config):
    """x + attention of LN(x) to the sound's keys and values"""
    names, heads = config.names.cross, config.decoder.heads
    n, pull_norm = layer_norm(x, p, names.norm1, NORM_EPS)
    q, pull_query = dense(n, p, names.qkv[0])
    a, pull_attention = ops.attention(split_heads(q, heads), *heard, causal=False)
    y, pull_out = dense(join_heads(a), p, f"{names.out}.")

    def pull(dy, g):
        dq, *dheard = pull_attention(split_heads(pull_out(dy, g), heads))
        return dy + pull_norm(pull_query(join_heads(dq), g), g), dheard
    return x + y, pull


def logits_of(mel, ids, p, config, keep="all"):
    """Logits of each next token                            mel (B, M, 2 T), ids (B, N) -> (B, N, V)

    pull(dlogits, g) -> dmel
    """
    names = config.names
    sound, pull_encoder = encoder(mel, at(p, names.encoder), config, keep)
    record("audio_features", sound)
    heard, pull_memory = memory(sound, at(p, names.decoder), config)
    logits, _, pull_decoder = decoder(ids, heard, at(p, names.decoder), config)

    def pull(dlogits, g):
        dheard = pull_decoder(dlogits, g[names.decoder])
        return pull_encoder(pull_memory(dheard, g[names.decoder]), g[names.encoder])
    return logits, pull


def loss(mel, ids, p, config, keep="all"):
    """Mean cross-entropy of each next token                 -> scalar, logits; pull(dloss, g) -> dmel"""
    xp, (B, N) = namespace(mel), ids.shape
    logits, pull_logits = logits_of(mel, ids, p, config, keep)
    y, pull_loss = ops.cross_entropy(logits[:, :-1].reshape(B * (N - 1), -1), ids[:, 1:].reshape(-1))

    def pull(dloss, g):
        dlogits = xp.zeros_like(logits)
        dlogits[:, :-1] = pull_loss(dloss).reshape(B, N - 1, -1)
        return pull_logits(dlogits, g)
    return y, logits, pull


def greedy(sound, ids, p, config, steps):
    """Greedy decoding of `steps` tokens after ids (1, N), without rules   -> ids (1, N + steps), logits (1, steps, V)"""
    xp, p = namespace(sound), at(p, config.names.decoder)
    heard, rows, past, new = memory(sound, p, config)[0], [], None, ids
    for _ in range(steps):
        logits, past, _ = decoder(new, heard, p, config, past)
        rows.append(logits[:, -1:])
        new = rows[-1].argmax(-1)
        ids = xp.concatenate([ids, new], 1)
    return ids, xp.concatenate(rows, 1)


# ----------------------------------------------------------------------------------------------------------- the model

class Whisper(transcription.Transcriber):
    """A Whisper with its weights; `load` makes one."""
    kind = "a Whisper"

    def heard(self, mel):
        """`memory` of one window                           mel (M, 2 T) -> the decoder's `heard`"""
        p, names = self.p, self.config.names
        sound, _ = encoder(self.convert(mel)[None], at(p, names.encoder), self.config, keep=None)
        return memory(sound, at(p, names.decoder), self.config)[0]

    def next_logits(self, ids, heard, past=None):
        """The logits after the last of ids (1, T), and the past with them   -> (V,), past"""
        logits, past, _ = decoder(ids, heard, at(self.p, self.config.names.decoder), self.config, past, last=True)
        return logits[0, 0], past


CHECKPOINTS = [
    Checkpoint(Whisper.kind, lambda fields: fields.get("model_type") == "whisper", hugging_face, shapes, Whisper,
               ignored=("proj_out.weight",)),
    Checkpoint(Whisper.kind + " of CTranslate2's", lambda fields: "model_type" not in fields and "suppress_ids" in fields
               and "alignment_heads" in fields, of_ctranslate2, shapes, Whisper)]


# ------------------------------------------------------------------------------------------------------- golden cases

def encoder_case(x, p, config):
    """Hugging Face's encoder alone, and both ways in which that library computes a spectrogram"""
    seconds, xp = 1, namespace(x["waveform"])
    wave = xp.zeros(seconds * 16000, x["waveform"].dtype)
    wave[:len(x["waveform"])] = x["waveform"]
    mel, _ = audio.whisper_log_mel(wave, audio.mel_filters(config.mels, 400, 16000))
    y, pull = encoder(mel[None], p, config)
    outputs = {"log_mel": mel[None], "log_mel_numpy": mel[None], "last": y, f"hidden{config.encoder.layers}": y}
    return outputs, lambda dy, g: {"y/log_mel": pull(dy["last"], g)}


def whole_case(x, p, config):
    with recording() as records:
        y, logits, pull = loss(x["mel"], x["tokens"], p, config)
    ids, rows = greedy(records["audio_features"][:1], x["prompt"], p, config, 10)
    records |= {f"encoder{i + 1}": records[f"hidden{i + 1}"] for i in range(config.encoder.layers)}
    outputs = {**records, "logits": logits, "loss": y, "greedy_ids": ids, "greedy_logits": rows}
    return outputs, lambda dy, g: {"mel": pull(dy["loss"], g)}


def log_mel_case(x, p, config):
    outputs, pulls = {}, {}
    for mels in 80, 128:
        name = f"log_mel_{mels}"
        outputs[name], pulls[name] = audio.whisper_log_mel(x["waveform"], audio.mel_filters(mels, 400, 16000))
    return outputs, lambda dy, g: {"waveform": sum(pulls[name](dy[name]) for name in outputs)}


CASES = {
    "whisper": Case(lambda fields, shapes: hugging_face(fields), encoder_shapes, encoder_case),
    "whisper_full": Case(lambda fields, shapes: openai(fields), shapes, whole_case, ("encoder.positional_embedding",)),
    "whisper_log_mel": Case(lambda fields, shapes: None, lambda config: {}, log_mel_case),
}
