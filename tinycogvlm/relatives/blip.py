"""BLIP: one text stack that reads alone, reads beside a picture, or writes about it (Li et al. 2022, arXiv 2201.12086).

BERT's blocks, with a cross-attention to all of the picture's tokens between self-attention and MLP. What is asked of
them decides how they run:

    contrast      no picture: cross-attention is skipped; all words see all       first id [CLS]
    matching      with the picture; all words see all                             first id [ENC]
    captioning    with the picture; words see those before them                   first id [DEC]

Two kinds of checkpoint are known: the captioner, and the one that matches pictures and texts. Names are Hugging Face's.
"""
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..inputs import image
from ..inputs.texts import BertTexts
from ..nn import ops
from ..nn.arrays import namespace, to_numpy
from ..nn.more_ops import normalise, smooth_cross_entropy
from ..nn.swap import op
from ..nn.trace import record, scope
from ..nn.tree import below
from . import bert, transformer, vit
from .bert import Bert
from .clip import transformer_of
from .masks import pad_mask
from .pair import Eye
from .registry import Case, Checkpoint
from .transformer import at, dense, dense_shapes, layer_norm, next_word_loss
from .vit import ViT

BLOCK = transformer.Names("layer_norm1", ("self_attn.qkv.",), "self_attn.projection", "layer_norm2", "mlp.fc1",
                          "mlp.fc2")
IGNORED = -100
EVEN = 1e-4                                             # added to how likely a negative is to be drawn
ENCODER, DECODER, HEAD = "text_encoder", "text_decoder.bert", "text_decoder.cls.predictions"


@dataclass(frozen=True)
class Config:
    """The geometry of a BLIP."""
    vision: ViT
    text: Bert
    vocabulary: int
    positions: int
    embedding: int                      # E, the width of the features that are compared
    smoothing: float                    # of the labels of captions
    pad: int
    start: int                          # the id [DEC], with which a caption starts
    end: int                            # and the one that ends it


def hugging_face(fields, vision="vision_config", text="text_config"):
    """Config of the fields of a config.json; defaults are that library's, 8 heads for texts among them"""
    seen, words = fields.group(vision), fields.group(text)
    tower = transformer_of(seen, 768, 3072, 12, 12, "gelu", 1e-5, BLOCK)
    return Config(ViT(tower, seen.whole("patch_size", 16), seen.whole("image_size", 384), vit.HUGGING_FACE),
                  bert.bert_of(words, heads=8), words.whole("vocab_size", 30524),
                  words.whole("max_position_embeddings", 512), fields.whole("image_text_hidden_size", 256),
                  words.number("label_smoothing", 0.0, high=1), words.whole("pad_token_id", 0, 0),
                  words.whole("bos_token_id", 30522, 0), words.whole("sep_token_id", 102, 0))


def text_shapes(config, name):
    """{name: shape} of the embeddings and blocks of the text stack"""
    found = bert.words_shapes(config.text, f"{name}.embeddings", config.vocabulary, config.positions)
    for i in range(config.text.layers):
        found |= below(f"{name}.encoder.layer.{i}", bert.block_shapes(config.text, config.vision.transformer.width))
    return found


def captioner_shapes(config):
    """{name: shape} of every tensor of the captioner"""
    return {**below("vision_model", vit.shapes(config.vision)), **text_shapes(config, DECODER),
            **bert.word_head_shapes(config.text, HEAD, config.vocabulary)}


def matcher_shapes(config):
    """{name: shape} of every tensor of the model that matches pictures and texts"""
    E, W = config.embedding, config.text.width
    return {**below("vision_model", vit.shapes(config.vision)), **text_shapes(config, ENCODER),
            **dense_shapes("vision_proj", E, config.vision.transformer.width), **dense_shapes("text_proj", E, W),
            **dense_shapes("itm_head", 2, W)}


# --------------------------------------------------------------------------------------------------------- both towers

def image_tokens(pixels, p, config, keep="all"):
    """CLS and the patches, normalised                      pixels (B, 3, N, M) -> (B, 1 + P, C)"""
    with scope("image"):
        x, pull = vit.vit(pixels, p.vision_model, config.vision, keep)
    return x, lambda dy, g: pull(dy, g.vision_model)


@op
def text_states(ids, p, name, config, image=None, mask=None, causal=False):
    """The text stack at p.<name>                           ids (B, T), image (B, S, C) -> (B, T, W)

    mask (B, T): False hides padding; without `image` no block attends to one. pull(dy, g) -> dimage.
    """
    x, pull_words = bert.words(ids, p, f"{name}.embeddings")
    x, pull_norm = layer_norm(x, p, f"{name}.embeddings.LayerNorm", config.text.eps)
    record("hidden0", x)
    x, pull_blocks = bert.blocks(x, at(p, name).encoder.layer, config.text, mask, image, causal)

    def pull(dy, g):
        dx, dimage = pull_blocks(dy, g[name].encoder.layer)
        pull_words(pull_norm(dx, g), g)
        return dimage
    return x, pull


# ---------------------------------------------------------------------------------------------------------- captioning

def logits(ids, image, p, config, mask=None):
    """Logits of each next word of a caption                ids (B, T), image (B, S, C) -> (B, T, V)

    pull(dlogits, g) -> dimage.
    """
    with scope("text"):
        x, pull_text = text_states(ids, p, DECODER, config, image, mask, causal=True)
    y, pull_head = bert.word_head(x, p, config.text, HEAD, f"{DECODER}.embeddings.word_embeddings.weight")
    return y, lambda dy, g: pull_text(pull_head(dy, g), g)


def caption_loss(pixels, ids, labels, p, config, mask=None, keep="all"):
    """Cross entropy of each next word, labels smoothed     ids and labels (B, T) -> scalar, logits (B, T, V)

    labels: the ids, and -100 on the prompt and on padding. pull(dloss, g) -> dpixels.
    """
    seen, pull_image = image_tokens(pixels, p, config, keep)
    z, pull_logits = logits(ids, seen, p, config, mask)
    loss, pull_loss = next_word_loss(z, labels, partial(smooth_cross_entropy, smoothing=config.smoothing))

    def pull(dloss, g):
        return pull_image(pull_logits(pull_loss(dloss), g), g)
    return loss, z, pull


def caption(ids, image, p, config, limit, end=None):
    """The prompts and up to `limit` more words, each the likeliest          ids (B, T) -> (B, T + limit)

    Stops early where every caption has met `end`. Works through the whole text for each word: captions are short.
    """
    xp = namespace(ids)
    for _ in range(limit):
        best = logits(ids, image, p, config)[0][:, -1].argmax(-1)
        ids = xp.concatenate([ids, best[:, None].astype(ids.dtype)], 1)
        if end is not None and (ids == end).any(1).all():
            break
    return ids


# -------------------------------------------------------------------------------------------------- contrast, matching

def features(tokens, p, projection):
    """The first token's feature, of length 1               (B, T, W) -> (B, E)"""
    y, pull_dense = dense(tokens[:, 0], p, f"{projection}.")
    y, pull_unit = normalise(y)

    def pull(dy, g):
        dtokens = namespace(tokens).zeros_like(tokens)
        dtokens[:, 0] = pull_dense(pull_unit(dy), g)
        return dtokens
    return y, pull


@op
def contrast(image, text, temperature):
    """(CE(s) + CE(s^T)) / 2, s_ij = image_i . text_j / temperature          (B, E) twice, of length 1 -> scalar, s

    pull(dloss) returns the gradients with respect to all three.
    """
    labels = namespace(image).arange(len(image))
    similarity = image @ text.T / temperature
    by_image, pull_rows = ops.cross_entropy(similarity, labels)
    by_text, pull_columns = ops.cross_entropy(similarity.T, labels)

    def pull(dloss=1.0):
        dsimilarity = pull_rows(dloss / 2) + pull_columns(dloss / 2).T
        dcosines = dsimilarity / temperature
        return dcosines @ text, dcosines.T @ image, -(dsimilarity * similarity).sum() / temperature
    return (by_image + by_text) / 2, similarity, pull


@op
def negatives(similarity, even=EVEN):
    """How likely each other text (column) is to be drawn as a picture's (row) negative: the nearer, the likelier

    (B, B) -> (B, B): the softmax, a little more for all, and nothing for the pair itself.
    """
    xp, each = namespace(similarity), namespace(similarity).arange(len(similarity))
    return xp.where(each[:, None] == each, 0, ops.softmax(similarity)[0] + even)


def match_logits(ids, image, p, config, mask=None):
    """Two logits a row, of which the second says that text and picture belong together   -> (B, 2), (B, T, W)

    ids (B, T) with [ENC] first, image (B, S, C). The words' states come with them. pull(dlogits, g) -> dimage.
    """
    xp = namespace(image)
    x, pull_text = text_states(ids, p, ENCODER, config, image, mask)
    y, pull_head = dense(x[:, 0], p, "itm_head.")

    def pull(dy, g):
        dx = xp.zeros_like(x)
        dx[:, 0] = pull_head(dy, g)
        return pull_text(dx, g)
    return y, x, pull


def triples(other_image, other_text, xp):
    """Rows of texts and of pictures: the pairs, texts with another picture, pictures with another text

    other_image (B,): for each text, the picture it is wrongly put beside; other_text (B,): for each picture, the text.
    """
    each = xp.arange(len(other_image))
    return xp.concatenate([each, each, other_text]), xp.concatenate([each, other_image, each])


def matching_loss(pixels, ids, match_ids, mask, other_image, other_text, p, config, keep="all"):
    """The sum of contrast and matching, without momentum and queue         -> {name: scalar}

    ids and match_ids (B, T): the texts with [CLS] first, and with [ENC]. other_image, other_text: see `triples`.
    p.temp divides the cosines. pull(dloss, g) -> dpixels.
    """
    xp, B = namespace(pixels), len(pixels)
    seen, pull_seen = image_tokens(pixels, p, config, keep)
    with scope("text"):
        words, pull_words = text_states(ids, p, ENCODER, config, mask=mask)
        record("hidden", words)
    one, pull_one = features(seen, p, "vision_proj")
    other, pull_other = features(words, p, "text_proj")
    record("image_feat", one)
    record("text_feat", other)
    record("itc_similarity", one @ other.T)
    itc, similarity, pull_itc = contrast(one, other, p.temp)
    for name, some in (("i2t", similarity), ("t2i", similarity.T)):
        record(f"weights_{name}", negatives(some))
    texts, pictures = triples(other_image, other_text, xp)
    z, hidden, pull_match = match_logits(match_ids[texts], seen[pictures], p, config, mask[texts])
    record("itm_hidden", hidden[:B])                        # of the pairs
    record("itm_logits", z[:B])
    record("itm_logits_all", z)
    itm, pull_itm = ops.cross_entropy(z, (xp.arange(3 * B) < B).astype(int))

    def pull(dloss, g):
        dseen = xp.zeros_like(seen)
        xp.add.at(dseen, pictures, pull_match(pull_itm(dloss), g))
        done, dother, dtemp = pull_itc(dloss)
        g.add("temp", lambda: dtemp)
        pull_words(pull_other(dother, g), g)
        return pull_seen(dseen + pull_one(done, g), g)
    return {"loss_itc": itc, "loss_itm": itm, "loss": itc + itm}, pull


# ---------------------------------------------------------------------------------------------------------- the models

class Blip(Eye):
    """A BLIP with its weights; `load` makes one. None of the real ones has been loaded here, see pair.py."""
    kind = "a BLIP"

    def picture(self, picture):
        return image.normalised(image.square(picture, self.config.vision.image))

    def texts(self, folder):
        return BertTexts(folder, self.config.positions, self.config.vocabulary)

    def tokens(self, pixels):
        """A picture's tokens                               (B, 3, N, M) -> (B, 1 + P, C)"""
        return image_tokens(pixels, self.p, self.config, keep=None)[0]


class Captioner(Blip):
    """A BLIP that writes captions."""
    kind = "a BLIP that writes captions"

    def captions(self, pictures, text="a picture of", limit=20):
        """What it writes of each picture (as in Eye.pixels) after the words `text`, which are part of it  -> [str]"""
        ids = [[self.config.start, *self.tokenizer.encode(text)]] * len(pictures)
        found = to_numpy(self.caption(self.pixels(pictures), np.array(ids), limit)).tolist()
        return [self.tokenizer.decode(row[:row.index(self.config.end)] if self.config.end in row else row)
                for row in found]

    def caption(self, pixels, ids, limit=20):
        """The prompts' ids, [DEC] first, and those that follow, each the likeliest           ids (B, T) -> (B, T + n)
        """
        ids = namespace(pixels).asarray(ids)
        return caption(ids, self.tokens(pixels), self.p, self.config, limit, self.config.end)

    def logits(self, ids, pixels, mask=None):
        """Logits of the next word, at every word           ids (B, T) -> (B, T, V)"""
        return logits(namespace(pixels).asarray(ids), self.tokens(pixels), self.p, self.config, mask)[0]


class Matcher(Blip):
    """A BLIP that compares pictures and texts, and judges pairs."""
    kind = "a BLIP that matches pictures and texts"

    def image_tower(self, pixels):
        return features(self.tokens(pixels), self.p, "vision_proj")[0]

    def text_features(self, ids):
        """A vector of length 1 for each text               ids (B, T), [CLS] first -> (B, E)"""
        mask = pad_mask(ids, self.config.pad)
        return features(text_states(ids, self.p, ENCODER, self.config, mask=mask)[0], self.p, "text_proj")[0]

    def match(self, pixels, ids):
        """How probable it is that each picture and its text belong together     ids (B, T), [ENC] first -> (B,)"""
        mask = pad_mask(ids, self.config.pad)
        logits, _, _ = match_logits(ids, self.tokens(pixels), self.p, self.config, mask)
        return ops.softmax(logits)[0][:, 1]


def knows(architecture):
    """Whether a config.json is of this class of Hugging Face's"""
    return lambda fields: fields.get("model_type") == "blip" and architecture in (fields.get("architectures") or ())


CHECKPOINTS = [
    Checkpoint(Captioner.kind, knows("BlipForConditionalGeneration"), hugging_face, captioner_shapes, Captioner,
               ("*.position_ids", f"{HEAD}.decoder.*")),
    Checkpoint(Matcher.kind, knows("BlipForImageTextRetrieval"), hugging_face, matcher_shapes, Matcher,
               ("*.position_ids",))]


# ------------------------------------------------------------------------------------------------------- golden cases

def case_config(fields, shapes):
    return hugging_face(fields, "vision", "text")


def captioner_case(x, p, config):
    ids, labels, xp = x["input_ids"], x["labels"], namespace(x["input_ids"])
    mask, prompt = x["attention_mask"] != 0, int((labels != IGNORED).argmax(1).min())
    greedy = caption(ids[:, :prompt], image_tokens(x["pixel_values"], p, config)[0], p, config, 4)
    loss, z, pull = caption_loss(x["pixel_values"], ids, labels, p, config, mask)
    likely, targets = ops.softmax(z[:, :-1])[0].reshape(-1, config.vocabulary), ids[:, 1:].reshape(-1)
    chosen = xp.log(likely[xp.arange(len(targets)), targets]).reshape(len(ids), -1)
    y = {"logits": z, "loss": loss, "loss_plain": next_word_loss(z, labels)[0], "token_logprob": chosen * mask[:, 1:],
         "greedy_ids": greedy}
    return y, lambda dy, g: {"pixel_values": pull(dy["loss"], g)}


def matcher_case(x, p, config):
    mask = x["attention_mask"] != 0
    y, pull = matching_loss(x["pixel_values"], x["input_ids"], x["itm_input_ids"], mask, x["neg_image_idx"],
                            x["neg_text_idx"], p, config)
    return y, lambda dy, g: {"pixel_values": pull(dy["loss"], g)}


CASES = {
    "blip": Case(case_config, captioner_shapes, captioner_case),
    "blip_retrieval": Case(case_config, lambda config: matcher_shapes(config) | {"temp": ()}, matcher_case),
}
