"""OSCAR: BERT reads a caption, the names of the things in the picture, and the picture's regions, as one sequence.

Li et al. 2020 (arXiv 2004.06165). A detector gives regions and their names, the object tags. A tag is a word like those
of the caption, so that it stands between the two languages:

    [CLS] a dog on grass [SEP] dog grass [SEP] | region region ...
    type 0                     1                 regions have neither type nor position

Two losses: masked words, of caption and tags alike; and from CLS whether the tags are the picture's own ("contrast").
Names are those of the authors' checkpoints, which come as PyTorch files.
"""
from dataclasses import dataclass

import numpy as np

from ..nn import ops
from ..nn.arrays import namespace
from ..nn.trace import record
from ..nn.tree import below
from . import bert
from .bert import Bert
from .registry import Case
from .transformer import dense, dense_shapes, layer_norm, norm_shapes

WORDS, HEAD = "bert.embeddings", "cls.predictions"
IGNORED = -1                                            # the label of a word that is not masked


@dataclass(frozen=True)
class Config:
    """The geometry of an OSCAR."""
    bert: Bert
    vocabulary: int
    positions: int
    types: int
    regions: int                        # numbers of a region: a detector's features and 6 of its box
    region_eps: float | None            # of the layer norm of regions; None: there is none
    classes: int                        # of the contrast: 2, or 3 in OSCAR+


def of_oscar(fields):
    """Config of the fields of the authors' config.json"""
    fields.one_of("img_feature_type", ("faster_r-cnn", "frcnn"), "faster_r-cnn")
    return Config(bert.bert_of(fields), fields.whole("vocab_size", 30522),
                  fields.whole("max_position_embeddings", 512), fields.whole("type_vocab_size", 2),
                  fields.whole("img_feature_dim", 2054),
                  fields.number("img_layer_norm_eps", bert.NORM_EPS) if fields.get("use_img_layernorm") else None,
                  fields.whole("num_contrast_classes", 2))


def shapes(config):
    """{name: shape} of every tensor"""
    W = config.bert.width
    found = bert.typed_words_shapes(config.bert, WORDS, config.vocabulary, config.positions, config.types)
    found |= dense_shapes("bert.img_embedding", W, config.regions)
    if config.region_eps is not None:
        found |= norm_shapes("bert.LayerNorm", W)
    for i in range(config.bert.layers):
        found |= below(f"bert.encoder.layer.{i}", bert.block_shapes(config.bert))
    found |= dense_shapes("bert.pooler.dense", W, W) | dense_shapes("cls.seq_relationship", config.classes, W)
    return found | bert.word_head_shapes(config.bert, HEAD, config.vocabulary)


def regions(features, boxes, size):
    """A detector's features and where it found them        features (R, F), boxes (R, 4) -> (R, F + 6)

    size: (height, width) of the picture. boxes are x0, y0, x1, y1 in pixels; appended are these four, width and height,
    as shares of the picture.
    """
    shares = boxes / np.array([size[1], size[0], size[1], size[0]])
    whole = [features, shares, shares[:, 2:] - shares[:, :2]]
    return np.concatenate(whole, 1).astype(features.dtype, copy=False)


def encode(ids, types, seen, mask, p, config):
    """The hidden states of words and regions               ids and types (B, T), seen (B, R, F) -> (B, T + R, W)

    seen: `regions` of the pictures; mask (B, T + R): False on padding, of words and of regions. pull(dx, g) -> dseen.
    """
    xp, T = namespace(seen), ids.shape[1]
    words, pull_words = bert.typed_words(ids, types, p, config.bert, WORDS)
    r, pull_regions = dense(seen, p, "bert.img_embedding.")
    pull_norm = None
    if config.region_eps is not None:
        r, pull_norm = layer_norm(r, p, "bert.LayerNorm", config.region_eps)
    x = xp.concatenate([words, r], 1)
    record("hidden0", x)
    y, pull_blocks = bert.blocks(x, p.bert.encoder.layer, config.bert, mask)

    def pull(dy, g):
        dx, _ = pull_blocks(dy, g.bert.encoder.layer)
        pull_words(dx[:, :T], g)
        dr = dx[:, T:]
        return pull_regions(pull_norm(dr, g) if pull_norm else dr, g)
    return y, pull


def pretraining(ids, types, seen, mask, labels, own, p, config):
    """The losses of masked words and of polluted tags      -> {name: scalar}

    labels (B, T + R): the word that was masked, IGNORED elsewhere. own (B,): 0 where the tags are the picture's own, 1
    where they are another's (and 2, in OSCAR+, where the caption is). pull(dloss, g) -> dseen.
    """
    xp = namespace(seen)
    x, pull_encode = encode(ids, types, seen, mask, p, config)
    scores, pull_head = bert.word_head(x, p, config.bert, HEAD, f"{WORDS}.word_embeddings.weight")
    cls, pull_pooled = bert.pooled(x, p, "bert.pooler.dense")
    contrast, pull_contrast = dense(cls, p, "cls.seq_relationship.")
    record("mlm_scores", scores)
    record("contrast_scores", contrast)
    flat = labels.reshape(-1)
    words, pull_words = ops.cross_entropy(scores.reshape(len(flat), -1), xp.where(flat == IGNORED, -100, flat))
    tags, pull_tags = ops.cross_entropy(contrast, own)

    def pull(dloss, g):
        dx = pull_head(pull_words(dloss).reshape(scores.shape), g)
        return pull_encode(dx + pull_pooled(pull_contrast(pull_tags(dloss), g), g), g)
    return {"loss_mlm": words, "loss_contrast": tags, "loss": words + tags}, pull


# -------------------------------------------------------------------------------------------------------- golden case

def case(x, p, config):
    y, pull = pretraining(x["input_ids"], x["token_type_ids"], x["img_feats"], x["attention_mask"] != 0, x["lm_labels"],
                          x["contrast_label"], p, config)
    return y, lambda dy, g: {"img_feats": pull(dy["loss"], g)}


CASES = {"oscar": Case(lambda fields, shapes: of_oscar(fields), shapes, case)}
