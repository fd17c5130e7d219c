"""SigLIP: CLIP's two towers, but each pair is a question of its own (Zhai et al. 2023, arXiv 2303.15343).

The loss asks of each pair whether it belongs together, with a sigmoid, and needs no softmax over the batch. The towers
have no CLS token and no mask: a picture's feature is what a learned probe attends to, a text's the last of its tokens,
padding or not. Names are Hugging Face's.
"""
from dataclasses import dataclass

import numpy as np

from ..inputs import image
from ..inputs.texts import SiglipTexts
from ..nn import more_ops, ops
from ..nn.arrays import namespace, wide
from ..nn.swap import op
from ..nn.trace import record, scope
from ..nn.tree import below
from . import transformer
from .clip import transformer_of
from .pair import Pair
from .registry import Case, Checkpoint
from .transformer import Transformer, dense, dense_shapes, embedded, layer_norm, norm_shapes

HALF = np.full(3, 0.5, np.float32)                      # mean and standard deviation of the pixels, as it takes them
HEAD = transformer.Names("", ("attention.in_proj_",), "attention.out_proj", "layernorm", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class Config:
    """The geometry of both towers."""
    vision: Transformer
    patch: int                          # pixels a side
    image: int                          # pixels a side
    channels: int
    text: Transformer
    vocabulary: int
    context: int                        # tokens of every text, padded
    projection: int                     # width of a text's feature; a picture's has the tower's own


def hugging_face(fields):
    """Config of the fields of a config.json, with Hugging Face's defaults: those of B/16 at 224 pixels."""
    vision, text = fields.group("vision_config"), fields.group("text_config")
    towers = [transformer_of(some, 768, 3072, 12, 12, "gelu_pytorch_tanh", 1e-6) for some in (vision, text)]
    return Config(towers[0], vision.whole("patch_size", 16), vision.whole("image_size", 224),
                  vision.whole("num_channels", 3), towers[1], text.whole("vocab_size", 32000),
                  text.whole("max_position_embeddings", 64), text.whole("projection_size", towers[1].width))


def shapes(config):
    """{name: shape} of every tensor"""
    W, T, grid = config.vision.width, config.text.width, config.image // config.patch
    vision = {"embeddings.patch_embedding.weight": (W, config.channels, config.patch, config.patch),
              "embeddings.patch_embedding.bias": (W,), "embeddings.position_embedding.weight": (grid * grid, W),
              **below("encoder.layers", transformer.shapes(config.vision)), **norm_shapes("post_layernorm", W),
              "head.probe": (1, 1, W), "head.attention.in_proj_weight": (3 * W, W),
              "head.attention.in_proj_bias": (3 * W,), **dense_shapes("head.attention.out_proj", W, W),
              **norm_shapes("head.layernorm", W), **dense_shapes("head.mlp.fc1", config.vision.mlp, W),
              **dense_shapes("head.mlp.fc2", W, config.vision.mlp)}
    text = {"embeddings.token_embedding.weight": (config.vocabulary, T),
            "embeddings.position_embedding.weight": (config.context, T),
            **below("encoder.layers", transformer.shapes(config.text)), **norm_shapes("final_layer_norm", T),
            **dense_shapes("head", config.projection, T)}
    return {**below("vision_model", vision), **below("text_model", text), "logit_scale": (1,), "logit_bias": (1,)}


def image_features(pixels, p, config, keep="all"):
    """A picture's feature, not yet of length 1             pixels (B, 3, N, N) -> (B, W)      p: below vision_model"""
    x, pull_tokens = vit(pixels, p, config, keep)
    y, pull_head = attention_pool(x, p.head, config.vision)
    record("vision_pooled", y)
    return y, lambda dy, g: pull_tokens(pull_head(dy, g.head), g)


@op
def vit(pixels, p, config, keep="all"):
    """The patches after the last block and its norm        (B, 3, N, N) -> (B, P, W)"""
    squares, pull_squares = ops.patches(pixels, config.patch)
    x, pull_patches = dense(squares, p, "embeddings.patch_embedding.")
    x = x + p.embeddings.position_embedding.weight
    record("hidden0", x)
    x, pull_blocks = transformer.transformer(x, p.encoder.layers, config.vision, keep)
    x, pull_norm = layer_norm(x, p, "post_layernorm", config.vision.eps)
    record("vision_last", x)

    def pull(dy, g):
        dx = pull_blocks(pull_norm(dy, g), g.encoder.layers)
        g.add("embeddings.position_embedding.weight", lambda: dx.sum(0))
        return pull_squares(pull_patches(dx, g))
    return x, pull


def attention_pool(x, p, tower):
    """a = attention of the probe to the patches; y = a + mlp(LN(a))                    (B, P, W) -> (B, W)

    "Multi-head attention pooling" (Zhai et al. 2021, arXiv 2106.04560). The probe itself is not added to a.
    """
    config = Transformer(tower.width, tower.mlp, 1, tower.heads, tower.eps, tower.activation, HEAD)
    probe = namespace(x).broadcast_to(p.probe, (len(x), 1, x.shape[-1]))
    a, pull_attention = transformer.attention(probe, x, p, config)
    y, pull_mlp = transformer.sublayer(a, p, HEAD.norm2, tower.eps, lambda n: transformer.mlp(n, p, config))

    def pull(dy, g):
        dprobe, dx = pull_attention(pull_mlp(dy[:, None], g), g)
        g.add("probe", lambda: dprobe.sum(0, keepdims=True))
        return dx
    return y[:, 0], pull


@op
def text_features(ids, p, config, keep="all"):
    """A text's feature: its last token, through a linear layer          ids (B, T) -> (B, E)        p: below text_model

    Every token sees every other, padding as well: the model learned with texts that all have `context` tokens.
    """
    xp = namespace(ids)
    x, pull_words = embedded(ids, p, "embeddings.token_embedding.weight", "embeddings.position_embedding.weight")
    with scope("text"):
        record("hidden0", x)
        x, pull_blocks = transformer.transformer(x, p.encoder.layers, config.text, keep)
        x, pull_norm = layer_norm(x, p, "final_layer_norm", config.text.eps)
        y, pull_head = dense(x[:, -1], p, "head.")
        record("pooled", y)

    def pull(dy, g):
        dx = xp.zeros_like(x)
        dx[:, -1] = pull_head(dy, g)
        pull_words(pull_blocks(pull_norm(dx, g), g.encoder.layers), g)
    return y, pull


@op
def sigmoid_loss(image, text, logit_scale, logit_bias):
    """mean_i sum_j -log sigmoid(m_ij logits_ij), m_ij = 1 where i = j, else -1          (B, E) twice -> scalar

    logits_ij = exp(logit_scale) cos(image_i, text_j) + logit_bias. The sum over all pairs is divided by the size of the
    batch, not by the number of pairs. The bias begins at -10: nearly all pairs are wrong, and so the model begins.
    pull(dloss) returns the gradients with respect to all four.
    """
    xp, B = namespace(image), len(image)
    each = xp.arange(B)
    image, pull_image = more_ops.normalise(image)
    text, pull_text = more_ops.normalise(text)
    scale = xp.exp(logit_scale)
    cosines = image @ text.T
    logits = cosines * scale + logit_bias
    record("logits_per_image", logits)
    sign = xp.where(each[:, None] == each, 1, -1).astype(logits.dtype)
    z = -wide(sign * logits)                                        # -log sigmoid(-z) = log(1 + exp(z))
    y = (xp.maximum(z, 0) + xp.log1p(xp.exp(-xp.abs(z)))).sum() / B

    def pull(dloss=1.0):
        dlogits = -sign * ops.sigmoid(z, xp) * (dloss / B)
        dcosines = (dlogits * scale).astype(image.dtype, copy=False)
        return (pull_image(dcosines @ text), pull_text(dcosines.T @ image),
                (dcosines * cosines).sum().reshape(logit_scale.shape), dlogits.sum().reshape(logit_bias.shape))
    return y, pull


def loss(pixels, ids, p, config, keep="all"):
    """The sigmoid loss of pictures and their texts         pixels (B, 3, N, N), ids (B, T) -> scalar

    pull(dloss, g) returns the gradient with respect to the pixels.
    """
    image, pull_image = image_features(pixels, p.vision_model, config, keep)
    text, pull_text = text_features(ids, p.text_model, config, keep)
    y, pull_loss = sigmoid_loss(image, text, p.logit_scale, p.logit_bias)

    def pull(dloss, g):
        dimage, dtext, dscale, dbias = pull_loss(dloss)
        g.add("logit_scale", lambda: dscale)
        g.add("logit_bias", lambda: dbias)
        pull_text(dtext, g.text_model)
        return pull_image(dimage, g.vision_model)
    return y, pull


class SigLIP(Pair):
    """A SigLIP with its weights; `load` makes one."""
    kind = "a SigLIP"
    meaning = "each text is right or wrong by itself: a row need not add up to 1"

    def picture(self, picture):
        return image.normalised(image.square(picture, self.config.image), HALF, HALF)

    def texts(self, folder):
        return SiglipTexts(folder, self.config.context, self.config.vocabulary)

    def image_tower(self, pixels):
        return image_features(pixels, self.p.vision_model, self.config, keep=None)[0]

    def text_tower(self, ids):
        return text_features(ids, self.p.text_model, self.config, keep=None)[0]

    def probability(self, cosines):
        xp = namespace(cosines)
        return ops.sigmoid(cosines * xp.exp(self.p.logit_scale) + self.p.logit_bias, xp)

    def batch_loss(self, pixels, ids):
        return loss(pixels, ids, self.p, self.config)


CHECKPOINTS = [Checkpoint(SigLIP.kind, lambda fields: fields.get("model_type") == "siglip", hugging_face, shapes,
                          SigLIP, ignored=("*.position_ids",))]


def pair_case(x, p, config):
    y, pull = loss(x["pixel_values"], x["input_ids"], p, config)
    return {"loss": y}, lambda dy, g: {"pixel_values": pull(dy["loss"], g)}


CASES = {"siglip": Case(lambda fields, shapes: hugging_face(fields), shapes, pair_case)}
