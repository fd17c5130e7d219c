"""CLIP: a tower for pictures, one for texts, a loss that draws pairs together (Radford et al. 2021, arXiv 2103.00020).

The picture's tower is a vision transformer or a ResNet with attention pooling. OpenAI's own code, open_clip's (LAION)
and Hugging Face's hold the same model under other names: see Names. LAION's weights take the exact GELU, OpenAI's the
quick one; config.json tells.
"""
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from ..inputs import image
from ..inputs.texts import ClipTexts
from ..nn import activations, more_ops, ops
from ..nn.arrays import namespace
from ..nn.convolution import average_pool, batch_norm, convolution
from ..nn.swap import op
from ..nn.trace import record, scope
from ..nn.tree import below, matches
from ..storage.reading import read_json
from . import transformer
from .fields import Fields
from .pair import Pair
from .registry import Case, Checkpoint
from .transformer import ACTIVATIONS, Transformer, at, dense, dense_shapes, embedded, layer_norm, norm_shapes, project

NORM_EPS = 1e-5                                         # of all norms of OpenAI's code
QUARTER_TO_WHOLE = 4                                    # a bottleneck's output is 4 times as wide as its inside
OPEN_CLIP_FILES = ("open_clip_model.safetensors",)
COUNTERS = ("*.num_batches_tracked",)                   # whole numbers, which nothing reads
BUFFERS = "*.running_mean", "*.running_var", *COUNTERS


@dataclass(frozen=True)
class Names:
    """What a family of checkpoints calls the tensors of both towers; those of a block: transformer.Names."""
    patches: str                        # a group, as all that are not said to be tensors
    cls: str                            # a tensor
    image_positions: str                # a tensor
    pre: str
    image_layers: str
    post: str
    image_projection: str               # a tensor
    tokens: str
    text_positions: str                 # a tensor
    text_layers: str
    final: str
    text_projection: str                # a tensor
    block: transformer.Names
    transposed: bool                    # the projections are (W, E), not (E, W)


HUGGING_FACE = Names(
    "vision_model.embeddings.patch_embedding", "vision_model.embeddings.class_embedding",
    "vision_model.embeddings.position_embedding.weight", "vision_model.pre_layrnorm",           # pre_layrnorm: so it is
    "vision_model.encoder.layers", "vision_model.post_layernorm", "visual_projection.weight",
    "text_model.embeddings.token_embedding", "text_model.embeddings.position_embedding.weight",
    "text_model.encoder.layers", "text_model.final_layer_norm", "text_projection.weight",
    transformer.HUGGING_FACE, transposed=False)
OPENAI = Names(
    "visual.conv1", "visual.class_embedding", "visual.positional_embedding", "visual.ln_pre",
    "visual.transformer.resblocks", "visual.ln_post", "visual.proj",
    "token_embedding", "positional_embedding", "transformer.resblocks", "ln_final", "text_projection",
    transformer.OPENAI, transposed=True)


@dataclass(frozen=True)
class ViT:
    """The geometry of a vision transformer."""
    transformer: Transformer
    patch: int                          # pixels a side
    image: int                          # pixels a side
    channels: int = 3

    @property
    def positions(self):
        """Rows of the position table: CLS and the patches."""
        return (self.image // self.patch) ** 2 + 1


@dataclass(frozen=True)
class ResNet:
    """The geometry of OpenAI's "modified ResNet"."""
    layers: tuple                       # blocks in each of the four stages
    width: int                          # channels after the stem
    heads: int                          # of the attention pooling
    image: int                          # pixels a side


@dataclass(frozen=True)
class Text:
    """The geometry of the text tower."""
    transformer: Transformer
    vocabulary: int
    context: int                        # tokens at most
    end: int | None                     # the first token of this id is the text's feature; None: the largest id's


@dataclass(frozen=True)
class Config:
    """The geometry of a CLIP; text is None where there is only a tower for pictures.

    An EVA-CLIP's vision is an eva02.Config.
    """
    vision: ViT | ResNet
    text: Text | None
    embedding: int                      # E, the width that both towers' features have
    names: Names = HUGGING_FACE


# ----------------------------------------------------------------------------------------------------------- geometry

def hugging_face(fields):
    """Config of the fields of a Hugging Face folder's config.json, with that library's defaults."""
    fields.only("architectures", ["CLIPModel"])             # EVA-CLIP-8B's looks like it
    vision, text = fields.group("vision_config"), fields.group("text_config")
    return Config(
        ViT(transformer_of(vision, 768, 3072, 12, 12, "quick_gelu", NORM_EPS), vision.whole("patch_size", 32),
            vision.whole("image_size", 224), vision.whole("num_channels", 3)),
        Text(replace(transformer_of(text, 512, 2048, 12, 8, "quick_gelu", NORM_EPS), causal=True),
             text.whole("vocab_size", 49408), text.whole("max_position_embeddings", 77), end_of(text)),
        fields.whole("projection_dim", 512))


def end_of(text):
    """The id that ends a text. Where config.json says 2, which no tokenizer of CLIP ends with, it is the largest."""
    end = text.whole("eos_token_id", 49407, 0)
    return None if end == 2 else end


def transformer_of(fields, width, mlp, layers, heads, activation, eps, names=transformer.HUGGING_FACE):
    """A Transformer by Hugging Face's fields; `width` to `eps` are their defaults."""
    found = Transformer(
        fields.whole("hidden_size", width), fields.whole("intermediate_size", mlp),
        fields.layers("num_hidden_layers", layers), fields.whole("num_attention_heads", heads),
        fields.number("layer_norm_eps", eps, high=1), fields.one_of("hidden_act", ACTIVATIONS, activation), names)
    if found.width % found.heads:
        fields.refuse("num_attention_heads", found.heads, f"a divisor of hidden_size {found.width}")
    return found


def vision_alone(fields):
    """Config of Hugging Face's CLIPVisionModelWithProjection."""
    return Config(ViT(transformer_of(fields, 768, 3072, 12, 12, "quick_gelu", NORM_EPS), fields.whole("patch_size", 32),
                      fields.whole("image_size", 224), fields.whole("num_channels", 3)),
                  None, fields.whole("projection_dim", 512))


def openai(fields):
    """Config of OpenAI's own fields; vision_layers is a list for a ResNet. Heads are 64 wide where none are stated."""
    width, layers = fields.whole("vision_width"), fields.numbers("vision_layers")
    image, text = fields.whole("image_resolution"), fields.whole("transformer_width")

    def stack(width, layers, heads):
        return Transformer(width, 4 * width, layers, heads, NORM_EPS, "quick_gelu", transformer.OPENAI)
    if len(layers) == 1:
        vision = ViT(stack(width, layers[0], fields.whole("vision_heads", max(1, width // 64))),
                     fields.whole("vision_patch_size"), image)
    else:
        vision = ResNet(layers, width, fields.whole("vision_heads", max(1, width // 2)), image)
    words = stack(text, fields.layers("transformer_layers"), fields.whole("transformer_heads", max(1, text // 64)))
    return Config(vision, Text(replace(words, causal=True), fields.whole("vocab_size"), fields.whole("context_length"),
                               end=None), fields.whole("embed_dim"), OPENAI)


def open_clip(fields):
    """Config of the fields of an open_clip_config.json. The tensors' names are OpenAI's."""
    model = fields.group("model_cfg")
    model.no_others("embed_dim", "quick_gelu", "vision_cfg", "text_cfg")
    vision = model.group("vision_cfg")
    vision.no_others("image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size")
    layers, width, image = vision.numbers("layers", 12), vision.whole("width", 768), vision.whole("image_size", 224)
    size = vision.whole("head_width", 64)
    if len(layers) == 1:
        tower = ViT(open_clip_stack(vision, model, width, layers[0], max(1, width // size)),
                    vision.whole("patch_size", 16), image)
    else:
        tower = ResNet(layers, width, max(1, 32 * width // size), image)
    return Config(tower, open_clip_text(model), model.whole("embed_dim"), OPENAI)


def open_clip_text(model):
    """Text of an open_clip_config.json's model_cfg"""
    text = model.group("text_cfg")
    text.no_others("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio")
    words = open_clip_stack(text, model, text.whole("width", 512), text.layers("layers", 12), text.whole("heads", 8))
    return Text(replace(words, causal=True), text.whole("vocab_size", 49408), text.whole("context_length", 77), end=None)


def open_clip_stack(fields, model, width, layers, heads):
    """Transformer of one tower, from its fields and those of the model_cfg"""
    if width % heads:
        fields.refuse("width", width, f"a multiple of its {heads} heads")
    return Transformer(width, int(width * fields.number("mlp_ratio", 4.0)), layers, heads, NORM_EPS,
                       "quick_gelu" if model.get("quick_gelu", False) else "gelu", transformer.OPENAI)


def timm_tower(fields):
    """timm's name for the vision tower of an open_clip_config.json; None for a tower of open_clip's own code"""
    model = fields.get("model_cfg")
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    return vision.get("timm_model_name") if isinstance(vision, dict) else None


def has_decoder(fields):
    """Whether an open_clip_config.json is a CoCa's, which writes captions"""
    model = fields.get("model_cfg")
    return isinstance(model, dict) and "multimodal_cfg" in model


def shapes(config):
    """{name: shape} of every tensor, a ResNet's averages included"""
    found = resnet_shapes(config) if isinstance(config.vision, ResNet) else vit_shapes(config)
    return found | text_shapes(config) if config.text else found


def text_shapes(config):
    """{name: shape} of the text tower, and of the logits' scale"""
    names, E, text, W = config.names, config.embedding, config.text, config.text.transformer.width
    return {f"{names.tokens}.weight": (text.vocabulary, W), names.text_positions: (text.context, W),
            names.text_projection: (W, E) if names.transposed else (E, W), "logit_scale": (),
            **below(names.text_layers, transformer.shapes(text.transformer)), **norm_shapes(names.final, W)}


def stored_shapes(config):
    """{name: shape} of every tensor that is read from an open_clip folder"""
    return {name: shape for name, shape in shapes(config).items() if not matches(name, COUNTERS)}


def vit_shapes(config):
    names, E, vision, W = config.names, config.embedding, config.vision, config.vision.transformer.width
    return {f"{names.patches}.weight": (W, vision.channels, vision.patch, vision.patch), names.cls: (W,),
            names.image_positions: (vision.positions, W),
            names.image_projection: (W, E) if names.transposed else (E, W),
            **norm_shapes(names.pre, W), **norm_shapes(names.post, W),
            **below(names.image_layers, transformer.shapes(vision.transformer))}


# ----------------------------------------------------------------------------------------------------------- pictures

def image_features(pixels, p, config, keep="all"):
    """A picture's feature, not yet of length 1             pixels (B, 3, N, N) -> (B, E)"""
    if isinstance(config.vision, ResNet):
        return resnet(pixels, p.visual, config.vision)
    with scope("image"):
        x, pull_tokens = vit(pixels, p, config, keep)
    y, pull_pool = pooled(x, p, config)
    return y, lambda dy, g: pull_tokens(pull_pool(dy, g), g)


@op
def vit(pixels, p, config, keep="all"):
    """The tokens after the last block: CLS and the patches, not normalised            (B, 3, N, N) -> (B, 1 + P, W)

    A layer norm stands before the first block; the patches' convolution has no bias.
    """
    names, xp, B = config.names, namespace(pixels), len(pixels)
    squares, pull_squares = ops.patches(pixels, config.vision.patch)
    x, pull_patches = dense(squares, p, f"{names.patches}.")                        # (B, P, W)
    cls = xp.broadcast_to(at(p, names.cls), (B, 1, x.shape[-1]))
    x = xp.concatenate([cls, x], 1) + at(p, names.image_positions)
    x, pull_pre = layer_norm(x, p, names.pre, config.vision.transformer.eps)
    record("hidden0", x)
    x, pull_blocks = transformer.transformer(x, at(p, names.image_layers), config.vision.transformer, keep)

    def pull(dy, g):
        dx = pull_pre(pull_blocks(dy, g[names.image_layers]), g)
        g.add(names.image_positions, lambda: dx.sum(0))
        g.add(names.cls, lambda: dx[:, 0].sum(0))
        return pull_squares(pull_patches(dx[:, 1:], g))
    return x, pull


def pooled(x, p, config):
    """LN(CLS) P^T                                          tokens (B, 1 + P, W) -> (B, E)"""
    xp, names = namespace(x), config.names
    cls, pull_post = layer_norm(x[:, 0], p, names.post, config.vision.transformer.eps)
    record("pooled", cls)
    y, pull_project = project(cls, p, names.image_projection, names.transposed)

    def pull(dy, g):
        dx = xp.zeros_like(x)
        dx[:, 0] = pull_post(pull_project(dy, g), g)
        return dx
    return y, pull


# ------------------------------------------------------------------------------------------------------------- ResNet

def resnet_shapes(config):
    """{name: shape} of the ResNet with attention pooling, below visual."""
    vision, w, E = config.vision, config.vision.width, config.embedding
    found = conv_shapes("conv1", "bn1", w // 2, 3, 3) | conv_shapes("conv2", "bn2", w // 2, w // 2, 3)
    found |= conv_shapes("conv3", "bn3", w, w // 2, 3)
    for stage, block, into, inside, _ in bottlenecks(vision):
        out = QUARTER_TO_WHOLE * inside
        shapes = conv_shapes("conv1", "bn1", inside, into, 1) | conv_shapes("conv2", "bn2", inside, inside, 3)
        shapes |= conv_shapes("conv3", "bn3", out, inside, 1)
        if block == 0:
            shapes |= conv_shapes("downsample.0", "downsample.1", out, into, 1)
        found |= below(f"layer{stage}.{block}", shapes)
    D, grid = 32 * w, vision.image // 32
    found["attnpool.positional_embedding"] = (grid * grid + 1, D)
    for name, out in (("q_proj", D), ("k_proj", D), ("v_proj", D), ("c_proj", E)):
        found |= dense_shapes(f"attnpool.{name}", out, D)
    return below("visual", found)


def conv_shapes(conv, norm, out, into, size):
    return {f"{conv}.weight": (out, into, size, size), f"{norm}.num_batches_tracked": (),
            **{f"{norm}.{name}": (out,) for name in ("weight", "bias", "running_mean", "running_var")}}


def bottlenecks(vision):
    """(stage from 1, block, channels into it, channels inside, stride) of every block"""
    into = vision.width
    for stage, blocks in enumerate(vision.layers, 1):
        inside = vision.width * 2 ** (stage - 1)
        for block in range(blocks):
            yield stage, block, into, inside, 2 if stage > 1 and block == 0 else 1
            into = QUARTER_TO_WHOLE * inside


@op
def resnet(pixels, p, vision):
    """The modified ResNet: three convolutions as a stem, bottlenecks, attention pooling         (B, 3, N, N) -> (B, E)

    He et al. 2015 (arXiv 1512.03385). Where another ResNet takes a stride, this one averages 2 x 2 first (Zhang 2019,
    arXiv 1904.11486).
    """
    stem = [(f"conv{i}", f"bn{i}", dict(stride=2 if i == 1 else 1, padding=1)) for i in (1, 2, 3)]
    x, pull_stem = convolutions(pixels, p, stem)
    x, pull_pool = average_pool(x, 2)
    record("stem", x)
    pulls = []
    for stage, block, _, _, stride in bottlenecks(vision):
        path = f"layer{stage}.{block}"
        x, pull_block = bottleneck(x, at(p, path), stride)
        pulls.append((path, pull_block))
        if block == vision.layers[stage - 1] - 1:
            record(f"layer{stage}", x)
    y, pull_attention = attention_pool(x, p.attnpool, vision.heads)

    def pull(dy, g):
        g = g.visual
        dx = pull_attention(dy, g.attnpool)
        for path, pull_block in reversed(pulls):
            dx = pull_block(dx, g[path])
        return pull_stem(pull_pool(dx), g)
    return y, pull


def bottleneck(x, p, stride):
    """relu(x' + f(x)): f 1 x 1, 3 x 3, average over stride x stride, 1 x 1; x' the same average and its own 1 x 1

    (B, C, N, M) -> (B, 4 C', N / stride, M / stride). x' is x itself where there is no `downsample`.
    """
    h, pull_narrow = convolutions(x, p, [("conv1", "bn1", {}), ("conv2", "bn2", dict(padding=1))])
    h, pull_pool = average_pool(h, stride)
    h, pull_widen = convolutions(h, p, [("conv3", "bn3", {})], relu=False)
    short, pull_short = x, lambda dy, g: dy
    if p.get("downsample"):
        short, pull_average = average_pool(x, stride)
        short, pull_conv = convolutions(short, p, [("downsample.0", "downsample.1", {})], relu=False)
        pull_short = lambda dy, g: pull_average(pull_conv(dy, g))
    y, pull_relu = activations.relu(h + short)

    def pull(dy, g):
        dy = pull_relu(dy)
        return pull_narrow(pull_pool(pull_widen(dy, g)), g) + pull_short(dy, g)
    return y, pull


def convolutions(x, p, steps, relu=True):
    """Convolution, batch norm and, if `relu`, a relu for each of `steps`: (convolution's name, norm's name, options)"""
    pulls = []
    for conv, norm, options in steps:
        x, pull_conv = convolution(x, at(p, conv).weight, **options)
        q = at(p, norm)
        x, pull_norm = batch_norm(x, q.weight, q.bias, q.running_mean, q.running_var, NORM_EPS)
        x, pull_relu = activations.relu(x) if relu else (x, lambda dy: dy)
        pulls.append((conv, pull_conv, norm, pull_norm, pull_relu))

    def pull(dy, g):
        for conv, pull_conv, norm, pull_norm, pull_relu in reversed(pulls):
            dy = pull_conv(pull_norm(pull_relu(dy), g[norm]), g[conv])
        return dy
    return x, pull


POOLING = transformer.Names("", ("q_proj.", "k_proj.", "v_proj."), "c_proj", "", "", "")


def attention_pool(x, p, heads):
    """One attention whose query is the mean of all pixels       x (B, C, n, m) -> (B, E)

    The mean is a token as well, the first; positions are added to all of them, to the query too.
    """
    xp, (B, C, n, m) = namespace(x), x.shape
    tokens = x.reshape(B, C, n * m).swapaxes(1, 2)                                  # (B, n m, C)
    tokens = xp.concatenate([tokens.mean(1, keepdims=True), tokens], 1) + p.positional_embedding
    config = Transformer(C, 0, 1, heads, NORM_EPS, "", POOLING)
    y, pull_attention = transformer.attention(tokens[:, :1], tokens, p, config)     # (B, 1, E)

    def pull(dy, g):
        dquery, dtokens = pull_attention(dy[:, None], g)
        dtokens[:, :1] += dquery
        g.add("positional_embedding", lambda: dtokens.sum(0))
        dx = dtokens[:, 1:] + dtokens[:, :1] / (n * m)
        return dx.swapaxes(1, 2).reshape(B, C, n, m)
    return y[:, 0], pull


# -------------------------------------------------------------------------------------------------------------- texts

@op
def text_features(ids, p, config, keep="all"):
    """A text's feature, not yet of length 1: that of its end token         ids (B, T) -> (B, E)

    The attention is causal, and nothing else hides padding: what stands after the end cannot be seen from there.
    """
    names, text = config.names, config.text
    xp, each = namespace(ids), namespace(ids).arange(len(ids))
    x, pull_words = embedded(ids, p, f"{names.tokens}.weight", names.text_positions)
    with scope("text"):
        record("hidden0", x)
        x, pull_blocks = transformer.transformer(x, at(p, names.text_layers), text.transformer, keep)
        x, pull_final = layer_norm(x, p, names.final, text.transformer.eps)
        record("ln_final", x)
    ends = (ids if text.end is None else ids == text.end).argmax(1)
    y, pull_project = project(x[each, ends], p, names.text_projection, names.transposed)

    def pull(dy, g):
        dx = xp.zeros_like(x)
        dx[each, ends] = pull_project(dy, g)
        pull_words(pull_blocks(pull_final(dx, g), g[names.text_layers]), g)
    return y, pull


# ----------------------------------------------------------------------------------------------------------- the loss

@op
def contrastive(image, text, logit_scale):
    """(CE(logits) + CE(logits^T)) / 2, logits_ij = exp(logit_scale) cos(image_i, text_j)   (B, E) twice -> scalar

    Row i is right with column i: each picture chooses its text among all of the batch, and each text its picture.
    pull(dloss) returns the gradients with respect to all three.
    """
    xp, labels = namespace(image), namespace(image).arange(len(image))
    image, pull_image = more_ops.normalise(image)
    text, pull_text = more_ops.normalise(text)
    record("image_embeds", image)
    record("text_embeds", text)
    scale = xp.exp(logit_scale)
    logits = (image @ text.T) * scale
    record("logits_per_image", logits)
    record("logits_per_text", logits.T)
    by_image, pull_rows = ops.cross_entropy(logits, labels)
    by_text, pull_columns = ops.cross_entropy(logits.T, labels)

    def pull(dloss=1.0):
        dlogits = pull_rows(dloss / 2) + pull_columns(dloss / 2).T
        dcosines = dlogits * scale
        return pull_image(dcosines @ text), pull_text(dcosines.T @ image), (dlogits * logits).sum().reshape(scale.shape)
    return (by_image + by_text) / 2, pull


def loss(pixels, ids, p, config, keep="all", see=image_features):
    """The contrastive loss of pictures and their texts     pixels (B, 3, N, N), ids (B, T) -> scalar

    see: the tower for pictures. pull(dloss, g) returns the gradient with respect to the pixels.
    """
    image, pull_image = see(pixels, p, config, keep)
    text, pull_text = text_features(ids, p, config, keep)
    record("image_features", image)
    record("text_features", text)
    y, pull_loss = contrastive(image, text, p.logit_scale)

    def pull(dloss, g):
        dimage, dtext, dscale = pull_loss(dloss)
        g.add("logit_scale", lambda: dscale)
        pull_text(dtext, g)
        return pull_image(dimage, g)
    return y, pull


# ---------------------------------------------------------------------------------------------------------- the model

class CLIP(Pair):
    """A CLIP with its weights; `load` makes one."""
    kind, frozen = "a CLIP", BUFFERS
    meaning = "one of these texts is right: each row adds up to 1"

    def picture(self, picture):
        cut, mean, std = self.preparation
        return image.normalised(cut(picture, self.side), mean, std)

    @property
    def side(self):
        """Pixels of a side of the pictures that the tower reads"""
        return self.config.vision.image

    @cached_property
    def preparation(self):
        """How a picture becomes a square: (image.cropped or image.square, mean, standard deviation)

        As the folder says, since not all of LAION's towers learned with OpenAI's numbers; else OpenAI's way.
        """
        for file, group, mean, std in (("preprocessor_config.json", None, "image_mean", "image_std"),
                                       ("open_clip_config.json", "preprocess_cfg", "mean", "std")):
            path = Path(self.folder or "") / file
            if self.folder and path.exists():
                fields = Fields(read_json(path), path)
                fields = fields.group(group) if group else fields
                squash = fields.one_of("resize_mode", ("shortest", "squash"), "shortest") == "squash"
                return (image.square if squash or fields.get("do_center_crop") is False else image.cropped,
                        fields.colour(mean, image.CLIP_MEAN), fields.colour(std, image.CLIP_STD))
        return image.cropped, image.CLIP_MEAN, image.CLIP_STD

    def texts(self, folder):
        return ClipTexts(folder, self.config.text.context, self.config.text.vocabulary)

    def image_tower(self, pixels):
        return image_features(pixels, self.p, self.config, keep=None)[0]

    def text_tower(self, ids):
        return text_features(ids, self.p, self.config, keep=None)[0]

    def probability(self, cosines):
        return ops.softmax(cosines * namespace(cosines).exp(self.p.logit_scale))[0]

    def batch_loss(self, pixels, ids):
        return loss(pixels, ids, self.p, self.config)


CHECKPOINTS = [
    Checkpoint(CLIP.kind, lambda fields: fields.get("model_type") == "clip", hugging_face, shapes, CLIP,
               ignored=("*.position_ids",)),
    Checkpoint(CLIP.kind, lambda fields: "model_cfg" in fields and not timm_tower(fields) and not has_decoder(fields),
               open_clip, stored_shapes, CLIP, COUNTERS, OPEN_CLIP_FILES)]


# ------------------------------------------------------------------------------------------------------- golden cases

def vision_case(x, p, config):
    tokens, pull_vit = vit(x["pixel_values"], p, config)
    y, pull_pool = pooled(tokens, p, config)

    def pull(dy, g):
        dtokens = pull_pool(dy["image_embeds"], g) + dy["last_hidden_state"]
        return {"pixel_values": pull_vit(dtokens, g)}
    return {"image_embeds": y, "last_hidden_state": tokens}, pull


def pair_case(pixels, ids, x, p, config):
    y, pull = loss(x[pixels], x[ids], p, config)
    return {"loss": y}, lambda dy, g: {pixels: pull(dy["loss"], g)}


OPENAI_CASE = Case(lambda fields, shapes: openai(fields), shapes, partial(pair_case, "image", "text"), BUFFERS)
CASES = {
    "clip_vision": Case(lambda fields, shapes: vision_alone(fields), shapes, vision_case),
    "clip_contrastive": Case(lambda fields, shapes: hugging_face(fields), shapes,
                             partial(pair_case, "pixel_values", "input_ids")),
    "clip_text_full": OPENAI_CASE,
    "clip_resnet": OPENAI_CASE,
}
