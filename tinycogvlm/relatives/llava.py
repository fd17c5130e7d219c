"""LLaVA: CLIP's tower, a projector, and LLaMA, whose input the projected patches become part of.

Liu et al. 2023 (arXiv 2304.08485): one linear layer projects; LLaVA-1.5 (arXiv 2310.03744): an MLP, from pictures of
336 pixels. The tower's last block is left out (hidden state -2), and so are its last norm and CLS. There are no
experts: LLaMA is CogVLM's language model whose tokens are all text, so that model.decoder runs it.
"""
import re
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
from PIL import Image

from ..errors import UserError
from ..inputs import image
from ..inputs.prompt import vicuna
from ..inputs.tokenizer import Tokenizer
from ..model import decoder
from ..model.families import LLAMA
from ..model.route import Route
from ..nn import ops
from ..nn.arrays import namespace, to_numpy
from ..nn.swap import op
from ..nn.trace import record, scope
from ..nn.tree import below
from . import clip, transformer
from .connectors import mlp
from .pair import Eye
from .registry import Case, Checkpoint
from .transformer import ACTIVATIONS, Transformer, at, dense_shapes, filled, next_word_loss, project, with_joined

TOWERS = {"openai/clip-vit-large-patch14": 224, "openai/clip-vit-large-patch14-336": 336}      # pixels a side
IGNORED = -100
BOS, END = 1, 2                                          # LLaMA's <s> and </s>

# {what model.decoder calls a block's tensor: LLaMA's, one below the other}
PARTS = {**LLAMA, **{f"{name}_layernorm.weight": (f"{name}_layernorm.weight",) for name in ("input", "post_attention")}}


@dataclass(frozen=True)
class Llama:
    """The geometry of LLaMA; the fields that model.decoder reads have its names."""
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    vocabulary: int
    rms_norm_eps: float
    rope_base: float


@dataclass(frozen=True)
class Names:
    """Where a checkpoint has its parts: groups, and what the names of the language model begin with"""
    tower: str
    projector: tuple                    # its linear layers
    language: str


HUGGING_FACE = Names("vision_tower", ("multi_modal_projector.linear_1", "multi_modal_projector.linear_2"),
                     "language_model.")


@dataclass(frozen=True)
class Config:
    """The geometry of a LLaVA."""
    vision: clip.Config
    blocks: int                         # of the tower, that are run
    cls: bool                           # whether CLS is among the picture's tokens
    activation: str                     # between the projector's layers, one of ACTIVATIONS
    llama: Llama
    image_token: int                    # the id in whose places the picture's tokens are put
    names: Names = HUGGING_FACE
    padded: bool = True                 # whether a picture is padded to a square, else its middle is cut out

    @property
    def tokens(self):
        """Tokens of a picture"""
        return self.vision.vision.positions - (not self.cls)


def hugging_face(fields):
    """Config of the fields of a Hugging Face folder's config.json"""
    fields.group("vision_config").only("model_type", "clip_vision_model")
    vision = clip.vision_alone(fields.group("vision_config"))
    return Config(vision, run_blocks(fields, "vision_feature_layer", vision),
                  fields.one_of("vision_feature_select_strategy", ("default", "full"), "default") == "full",
                  fields.one_of("projector_hidden_act", ACTIVATIONS, "gelu"), llama_of(fields.group("text_config")),
                  fields.whole("image_token_index", 32000, 0))


def original(fields):
    """Config of the fields of the authors' own config.json, which names the tower but does not describe it

    The tower has to be in the checkpoint, as after one's own training; the released ones leave it out.
    """
    side = TOWERS[fields.one_of("mm_vision_tower", TOWERS)]
    tower = Transformer(1024, 4096, 24, 16, clip.NORM_EPS, "quick_gelu")
    vision = clip.Config(clip.ViT(tower, 14, side), None, 768)
    fields.only("mm_patch_merge_type", "flat")              # LLaVA-NeXT (1.6) has "spatial_unpad", and more pictures
    kind = fields.get("mm_projector_type", "linear")
    layers = re.fullmatch(r"mlp([1-9])x_gelu", kind) if isinstance(kind, str) else None
    if kind != "linear" and not layers:
        fields.refuse("mm_projector_type", kind, "linear or mlp<N>x_gelu")
    names = tuple(f"model.mm_projector.{2 * i}" for i in range(int(layers[1]))) if layers else ("model.mm_projector",)
    return Config(vision, run_blocks(fields, "mm_vision_select_layer", vision),
                  fields.one_of("mm_vision_select_feature", ("patch", "cls_patch"), "patch") == "cls_patch", "gelu",
                  llama_of(fields), -200, Names("model.vision_tower.vision_tower", names, ""),
                  fields.one_of("image_aspect_ratio", ("square", "pad"), "square") == "pad")


def run_blocks(fields, name, vision):
    """Blocks before the hidden state that the field numbers: 0 is the embeddings, -1 what the last block returns"""
    layers = vision.vision.transformer.layers
    index = fields.whole(name, -2, -layers - 1, layers)
    return index if index >= 0 else layers + 1 + index


def llama_of(fields, kinds=("llama", "llava", "llava_llama")):
    """Llama of the fields of its config.json, with the defaults of the 7B model; kinds: what model_type may be"""
    if kinds:
        fields.one_of("model_type", kinds, "llama")
    for name, usual in (("attention_bias", False), ("mlp_bias", False), ("rope_scaling", None), ("hidden_act", "silu"),
                        ("tie_word_embeddings", False)):
        fields.only(name, usual)
    rope = fields.group("rope_parameters")                  # what transformers 5 writes in the place of rope_theta
    rope.only("rope_type", "default")
    width, heads = fields.whole("hidden_size", 4096), fields.whole("num_attention_heads", 32)
    size, groups = fields.whole("head_dim", width // heads), fields.whole("num_key_value_heads", heads)
    if size * heads != width or size % 2:
        fields.refuse("num_attention_heads", heads, f"a number of which hidden_size {width} is an even multiple")
    if heads % groups:
        fields.refuse("num_key_value_heads", groups, f"a divisor of num_attention_heads {heads}")
    return Llama(width, fields.whole("intermediate_size", 11008), fields.layers("num_hidden_layers", 32), heads, groups,
                 size, fields.whole("vocab_size", 32000), fields.number("rms_norm_eps", 1e-6, high=1),
                 fields.number("rope_theta", rope.number("rope_theta", 10000.0, 1), 1))


def shapes(config):
    """{name: shape} of every tensor"""
    llama, D, found = config.llama, config.llama.hidden_size, {}
    tower = clip.vit_shapes(config.vision)
    del tower[config.vision.names.image_projection]
    for i, name in enumerate(config.names.projector):
        found |= dense_shapes(name, D, D if i else config.vision.vision.transformer.width)
    found |= below(config.names.tower, tower)
    return found | {config.names.language + name: shape for name, shape in language_shapes(llama).items()}


def language_shapes(llama):
    """{name: shape} of LLaMA's tensors"""
    D, F, group = llama.hidden_size, llama.intermediate_size, llama.num_key_value_heads * llama.head_size
    block = {f"self_attn.{name}_proj.weight": (group if name in "kv" else D, D) for name in "qkvo"}
    block |= {"mlp.gate_proj.weight": (F, D), "mlp.up_proj.weight": (F, D), "mlp.down_proj.weight": (D, F),
              "input_layernorm.weight": (D,), "post_attention_layernorm.weight": (D,)}
    found = {"model.embed_tokens.weight": (llama.vocabulary, D), "model.norm.weight": (D,),
             "lm_head.weight": (llama.vocabulary, D)}
    for i in range(llama.num_hidden_layers):
        found |= below(f"model.layers.{i}", block)
    return found


# ----------------------------------------------------------------------------------------------------------- pictures

def image_features(pixels, p, config, keep="all"):
    """A picture's tokens in the language model             pixels (N, 3, n, n) -> (N, P, D)"""
    tower = replace(config.vision.vision.transformer, layers=config.blocks)
    vision = replace(config.vision, vision=replace(config.vision.vision, transformer=tower))
    with scope("vision"):
        x, pull_vit = clip.vit(pixels, at(p, config.names.tower), vision, keep)
    first = 0 if config.cls else 1
    y, pull_projector = mlp(x[:, first:], p, config.names.projector, ACTIVATIONS[config.activation])
    record("image_features", y)

    def pull(dy, g):
        dx = namespace(dy).zeros_like(x)
        dx[:, first:] = pull_projector(dy, g)
        return pull_vit(dx, g[config.names.tower])
    return y, pull


def with_room(ids, config):
    """Each image token as many times as a picture has tokens, where the text has it once      (B, T) -> (B, T')

    Raises UserError where rows have different numbers of pictures.
    """
    xp, ids = namespace(ids), to_numpy(ids)
    if len({*(ids == config.image_token).sum(1).tolist()}) > 1:
        raise UserError("the texts have different numbers of pictures; ask them one by one")
    return xp.asarray([row.repeat(np.where(row == config.image_token, config.tokens, 1)) for row in ids])


# ----------------------------------------------------------------------------------------------------------- language

def block(x, p, route, rope, config, cache=None):
    """decoder.block with the parameters of LLaMA           (B, T, D) -> (B, T, D)"""
    return with_joined(lambda x, p: decoder.block(x, p, route, rope, config, cache), x, p, PARTS)


def embed(ids, features, p, config):
    """The vectors of all tokens: a row of the table, or of a picture's    ids (B, T), features (N, P, D) -> (B, T, D)

    Raises UserError unless the text has as many places for pictures' tokens as there are. pull(dx, g) -> dfeatures.
    """
    table = f"{config.names.language}model.embed_tokens.weight"
    x, pull_filled = filled(ids, features.reshape(-1, features.shape[-1]), p, table, config.image_token)
    return x, lambda dx, g: pull_filled(dx, g).reshape(features.shape)


@op
def language(x, p, config, mask=None, cache=None, keep="all"):
    """LLaMA: logits of the next token, at every token      vectors (B, T, D) -> (B, T, V)   See `states`."""
    h, _, pull_states = states(x, p, config, (), mask, cache, keep)
    y, pull_head = project(h, p, f"{config.names.language}lm_head.weight")
    return y, lambda dy, g: pull_states(pull_head(dy, g), {}, g)


def states(x, p, config, wanted, mask=None, cache=None, keep="all"):
    """LLaMA's hidden states: the last, normalised, and {i: state} of those `wanted`             x (B, T, D) -> x's each

    State 0 is x, state i what block i returns, counted from 1; the last one is the normalised. mask (B, T): 0 marks
    padding. cache: a decoder.KVCache with the tokens before these, which is extended. keep: see ops.checkpointed.
    pull(dlast, {i: dstate}, g) -> dx.
    """
    xp, llama, (B, T, _) = namespace(x), config.llama, x.shape
    start, mask = cache.length if cache else 0, None if mask is None else to_numpy(mask)
    route = Route(np.zeros((B, T), int), mask, np.broadcast_to(np.arange(start, start + T), (B, T)), xp)
    rope = decoder.Rotary.from_base(llama.rope_base, llama.head_size)(route.positions, x.dtype)
    if cache:
        cache.reserve(T, route.mask)
    model, pulls, L = f"{config.names.language}model", [], llama.num_hidden_layers
    found = {0: x} if 0 in wanted else {}
    for i in range(L):
        with scope(f"layer{i}"):
            x, pull_block = ops.checkpointed(block, x, at(p, model).layers[i], route, rope, llama,
                                             cache.layer(i) if cache else None, keep=keep)
        pulls.append(pull_block)
        if i + 1 in wanted:
            found[i + 1] = x
    if cache:
        cache.advance(T)
    h, pull_norm = ops.rms_norm(x, at(p, model).norm.weight, llama.rms_norm_eps)
    if L in wanted:
        found[L] = h

    def pull(dlast, dstates, g):
        dx = pull_norm(dlast + dstates.get(L, 0), g[model].norm)
        for i in reversed(range(L)):
            dx = pulls[i](dx, g[model].layers[i]) + dstates.get(i, 0)
        return dx
    return h, found, pull


def logits(ids, pixels, p, config, mask=None, keep="all"):
    """Logits of the next token, at every token             ids (B, T), pixels (N, 3, n, n) -> (B, T, V)

    Where ids are config.image_token, picture after picture, are the pictures' tokens (see with_room); positions run on
    over them. mask, keep: see `language`; keep is for the tower's blocks as well. pull(dlogits, g) -> dpixels.
    """
    features, pull_image = image_features(pixels, p, config, keep)
    x, pull_embed = embed(namespace(pixels).asarray(ids), features, p, config)
    y, pull_language = language(x, p, config, mask, keep=keep)
    return y, lambda dy, g: pull_image(pull_embed(pull_language(dy, g), g), g)


def greedy(ids, pixels, p, config, limit, end=None):
    """Yield ids by greedy decoding, up to `limit` or until one is `end`         ids (1, T), pixels (N, 3, n, n)"""
    table = at(p, f"{config.names.language}model.embed_tokens").weight
    features, _ = image_features(pixels, p, config, keep=None)
    x, _ = embed(namespace(pixels).asarray(ids), features, p, config)
    cache = decoder.KVCache(config.llama, 1, x.shape[1] + limit, namespace(x), x.dtype)
    yield from transformer.greedy(x, lambda x: language(x, p, config, cache=cache, keep=None)[0], table, limit, end)


def loss(ids, pixels, labels, p, config, mask=None, keep="all"):
    """Cross entropy of each next token                     ids and labels (B, T) -> scalar

    labels: the ids again, and -100 where a token is not learned, which is all but answers; and on pictures.
    """
    z, pull_logits = logits(ids, pixels, p, config, mask, keep)
    value, pull_loss = next_word_loss(z, labels)
    return value, lambda dloss, g: pull_logits(pull_loss(dloss), g)


# ---------------------------------------------------------------------------------------------------------- the model

class LLaVA(Eye):
    """A LLaVA with its weights; `load` makes one. None of the real ones has been loaded here, see pair.py."""
    kind = "a LLaVA"

    def picture(self, picture):
        """Padded to a square in CLIP's mean colour and resized, as LLaVA-1.5 was trained

        The first LLaVA was trained on the middle of each picture, and is given that. (So is LLaVA-1.5 by Hugging Face's
        preprocessor, although it was not trained on it.)
        """
        if not self.config.padded:
            return image.normalised(image.cropped(picture, self.config.vision.vision.image))
        side, colour = max(picture.size), tuple(int(255 * mean) for mean in image.CLIP_MEAN)
        square = Image.new("RGB", (side, side), colour)
        square.paste(picture, tuple((side - length) // 2 for length in picture.size))
        return image.normalised(image.cropped(square, self.config.vision.vision.image))

    def image_tower(self, pixels):
        return image_features(pixels, self.p, self.config, keep=None)[0]

    def image_features(self, pictures):
        """Pictures' tokens in the language model           -> (N, P, D)"""
        return self.image_tower(self.pixels(pictures))

    def texts(self, folder):
        """LLaMA's SentencePiece, an inputs.tokenizer.Tokenizer"""
        marks = dict(bos_token_id=BOS, eos_token_id=END, eos_token_ids=(END,), pad_token_id=0, template_version="vicuna")
        return Tokenizer.load(folder / "tokenizer.model",
                              SimpleNamespace(**marks, vocab_size=self.config.llama.vocabulary))

    def prompt(self, question):
        """The ids of a question about one picture, in the form of Vicuna's conversations            -> (1, T)

        As in the original, what stands before the picture and what stands after it are encoded apart.
        """
        *before, question, after = vicuna(question, ())
        before, after = (self.tokenizer.encode(text) for text in ("".join(before), f"\n{question}{after}"))
        return np.array([[BOS, *before, *[self.config.image_token] * self.config.tokens, *after]])

    def ask(self, picture, question, limit=100):
        """The answer to a question about a picture, by greedy decoding"""
        ids = self.answer(self.prompt(question), self.pixels([picture]), limit)
        return self.tokenizer.decode(ids).strip()

    def logits(self, ids, pixels, mask=None):
        """Logits of the next token, at every token; see with_room for what ids have to be           -> (B, T, V)"""
        return logits(ids, pixels, self.p, self.config, mask, keep=None)[0]

    def answer(self, ids, pixels, limit=100, end=END):
        """The ids that follow, by greedy decoding until `end`, LLaMA's </s>         ids (1, T) -> [id, ...]"""
        return list(greedy(ids, pixels, self.p, self.config, limit, end))


IGNORED_TENSORS = "*.position_ids", "*.rotary_emb.inv_freq"
CHECKPOINTS = [Checkpoint(LLaVA.kind, lambda fields: fields.get("model_type") == "llava" and "text_config" in fields,
                          hugging_face, shapes, LLaVA, IGNORED_TENSORS),
               Checkpoint(LLaVA.kind, lambda fields: "eve-" not in str(fields.get("mm_vision_tower", "eve-")), original,
                          shapes, LLaVA, IGNORED_TENSORS)]


# ------------------------------------------------------------------------------------------------------- golden cases

def case(x, p, config):
    ids = x["input_ids"]
    if (ids == config.image_token).sum() == len(x["pixel_values"]):
        ids = with_room(ids, config)
    y, pull = logits(ids, x["pixel_values"], p, config, x.get("attention_mask"))
    return {"logits": y}, lambda dy, g: {"pixel_values": pull(dy["logits"], g)}


CASES = {"llava": Case(lambda fields, shapes: hugging_face(fields), shapes, case)}
