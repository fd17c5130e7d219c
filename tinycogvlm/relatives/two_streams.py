"""Two streams, one of words and one of a detector's regions, that look at each other: LXMERT and ViLBERT.

LXMERT (Tan & Bansal 2019, arXiv 1908.07490): layers for each by itself, then cross-modality layers, in which one and
the same attention serves both directions. ViLBERT (Lu et al. 2019, arXiv 1908.02265; "12-in-1": arXiv 1912.02315): a
co-attention with matrices for each direction in a width of its own, between layers of each stream.

                 LXMERT                                      ViLBERT
    regions      mean of two norms, of features and boxes    one norm of their sum
    crossing     attention, self-attention, MLP              attention, MLP
    both from the states before either has changed
    judged by    tanh of the text's [CLS]                    ReLU of both first tokens, their product or sum
    a pair       1 belongs together                          0 belongs together
"""
from dataclasses import dataclass, replace

from ..nn import ops
from ..nn.arrays import namespace
from ..nn.swap import op
from ..nn.trace import record, scope
from ..nn.tree import below
from . import bert
from .bert import Bert
from .pair import Relative
from .registry import Case, Checkpoint
from .transformer import (
    Into, at, dense, dense_shapes, embedded, layer_norm, norm_shapes)

WORDS_HEAD = "cls.predictions"


# ------------------------------------------------------------------------------------------------------------- LXMERT

@dataclass(frozen=True)
class Lxmert:
    """The geometry of an LXMERT."""
    bert: Bert                          # of the layers of words; `layers` is their number
    regions: int                        # layers of regions
    cross: int                          # cross-modality layers
    feature: int                        # width of a region's features
    box: int                            # numbers of its box
    vocabulary: int
    positions: int
    types: int
    objects: int                        # classes
    attributes: int                     # classes; 0: not predicted
    answers: int                        # classes
    weight: float                       # of the losses of regions


def lxmert_of(fields):
    """Lxmert of the fields of a config.json; Hugging Face's code takes no layer_norm_eps from it"""
    stack = replace(bert.bert_of(fields), layers=fields.layers("l_layers", 9), eps=bert.NORM_EPS)
    attributes = fields.whole("num_attr_labels", 400) if fields.get("visual_attr_loss", True) else 0
    return Lxmert(stack, fields.layers("r_layers", 5), fields.layers("x_layers", 5),
                  fields.whole("visual_feat_dim", 2048), fields.whole("visual_pos_dim", 4),
                  fields.whole("vocab_size", 30522), fields.whole("max_position_embeddings", 512),
                  fields.whole("type_vocab_size", 2), fields.whole("num_object_labels", 1600), attributes,
                  fields.whole("num_qa_labels", 9500), fields.number("visual_loss_normalizer", 6.67))


def lxmert_shapes(config):
    """{name: shape} of every tensor, heads included"""
    b, W = config.bert, config.bert.width
    found = bert.typed_words_shapes(b, "embeddings", config.vocabulary, config.positions, config.types)
    for name, into in (("visn", config.feature), ("box", config.box)):
        found |= dense_shapes(f"encoder.visn_fc.{name}_fc", W, into)
        found |= norm_shapes(f"encoder.visn_fc.{name}_layer_norm", W)
    for name, layers in (("layer", b.layers), ("r_layers", config.regions)):
        for i in range(layers):
            found |= below(f"encoder.{name}.{i}", bert.block_shapes(b))
    cross = bert.attention_shapes(replace(b, inner="att"), "visual_attention")
    for name in ("lang", "visn"):
        cross |= bert.attention_shapes(b, f"{name}_self_att")
        cross |= bert.feed_forward_shapes(b, f"{name}_inter", f"{name}_output")
    for i in range(config.cross):
        found |= below(f"encoder.x_layers.{i}", cross)
    found = below("lxmert", found | dense_shapes("pooler.dense", W, W))
    found |= bert.word_head_shapes(b, WORDS_HEAD, config.vocabulary) | dense_shapes("cls.seq_relationship", 2, W)
    found |= bert.transform_shapes(b, "obj_predict_head.transform")
    for name, out in predicted(config).items():
        found |= dense_shapes(f"obj_predict_head.decoder_dict.{name}", out, W)
    return {**found, **dense_shapes("answer_head.logit_fc.0", 2 * W, W), **norm_shapes("answer_head.logit_fc.2", 2 * W),
            **dense_shapes("answer_head.logit_fc.3", config.answers, 2 * W)}


def predicted(config):
    """{what is predicted of a region: how many numbers}"""
    some = {"obj": config.objects, "attr": config.attributes, "feat": config.feature}
    return {name: out for name, out in some.items() if out}


@op
def untrained_first(gradient):
    """The gradient of an embedding table whose row 0 stays as it is: of padding, but of position 0 and type 0 too

    So the original has it (torch's padding_idx), and 0 in the first row is what it gives the optimiser, although every
    text uses position 0.
    """
    gradient = gradient.copy()
    gradient[0] = 0
    return gradient


def lxmert_words(ids, types, p, config):
    """LN(word + position + type)                           ids and types (B, T) -> (B, T, W)    p: lxmert.embeddings"""
    x, pull_words = embedded(ids, p, "word_embeddings.weight", "position_embeddings.weight")
    t, pull_types = ops.embedding(types, p.token_type_embeddings.weight)
    y, pull_norm = layer_norm(x + t, p, "LayerNorm", config.bert.eps)

    def pull(dy, g):
        dx = pull_norm(dy, g)
        pull_words(dx, Into(g, "", untrained_first))
        pull_types(dx, Into(g, "token_type_embeddings.", untrained_first))
    return y, pull


@op
def lxmert_regions(features, boxes, p, config):
    """(LN(W_f f + b_f) + LN(W_b b + b_b)) / 2              features (B, R, F), boxes (B, R, 4) -> (B, R, W)

    Boxes are left, top, right, bottom as shares of the picture. pull(dy, g) -> dfeatures, dboxes.
    """
    pulls, parts = [], []
    for x, name in ((features, "visn"), (boxes, "box")):
        y, pull_dense = dense(x, p, f"{name}_fc.")
        y, pull_norm = layer_norm(y, p, f"{name}_layer_norm", config.bert.eps)
        parts.append(y)
        pulls.append((pull_dense, pull_norm))

    def pull(dy, g):
        return tuple(pull_dense(pull_norm(dy / 2, g), g) for pull_dense, pull_norm in pulls)
    return (parts[0] + parts[1]) / 2, pull


@op
def cross_layer(t, r, text_mask, region_mask, p, config):
    """A cross-modality layer: t and r look at each other, then each at itself, then an MLP    (B, T, W), (B, R, W)

    Both directions go through one attention with one output matrix and norm, and start from the states before. masks
    (B, T) and (B, R). pull(dt, dr, g) -> dt, dr.
    """
    shared = replace(config, inner="att")
    a, _, pull_a = bert.attention(t, r, p.visual_attention, shared, region_mask)
    b, _, pull_b = bert.attention(r, t, p.visual_attention, shared, text_mask)
    record("cross_lang", a)
    record("cross_visn", b)
    outputs, pulls = [], []
    for x, mask, name in ((a, text_mask, "lang"), (b, region_mask, "visn")):
        x, _, pull_self = bert.attention(x, x, at(p, f"{name}_self_att"), config, mask)
        record(f"{name}_self", x)
        x, pull_mlp = bert.feed_forward(x, p, config, f"{name}_inter", f"{name}_output")
        record(name, x)
        outputs.append(x)
        pulls.append((pull_self, pull_mlp, f"{name}_self_att"))

    def pull(dt, dr, g):
        d = []
        for dy, (pull_self, pull_mlp, name) in zip((dt, dr), pulls):
            dx, dcontext, _ = pull_self(pull_mlp(dy, g), g[name])
            d.append(dx + dcontext)
        dt, dr_seen, _ = pull_a(d[0], g.visual_attention)
        dr, dt_seen, _ = pull_b(d[1], g.visual_attention)
        return dt + dt_seen, dr + dr_seen
    return *outputs, pull


def lxmert(ids, types, features, boxes, text_mask, region_mask, p, config):
    """The states of words and of regions                   -> (B, T, W), (B, R, W)

    ids, types and text_mask (B, T); features (B, R, F), boxes (B, R, 4), region_mask (B, R). p: below lxmert.
    pull(dt, dr, g) -> dfeatures, dboxes.
    """
    t, pull_words = lxmert_words(ids, types, p.embeddings, config)
    r, pull_regions = lxmert_regions(features, boxes, p.encoder.visn_fc, config)
    record("lang_embeddings", t)
    record("visn_embeddings", r)
    with scope("lang"):
        t, pull_t = bert.blocks(t, p.encoder.layer, config.bert, text_mask)
    with scope("visn"):
        r, pull_r = bert.blocks(r, p.encoder.r_layers, config.bert, region_mask, layers=range(config.regions))
    pulls = []
    for i in range(config.cross):
        with scope(f"x{i}"):
            t, r, pull_cross = cross_layer(t, r, text_mask, region_mask, p.encoder.x_layers[i], config.bert)
        pulls.append(pull_cross)
    record("lang_output", t)
    record("visn_output", r)

    def pull(dt, dr, g):
        for i in reversed(range(config.cross)):
            dt, dr = pulls[i](dt, dr, g.encoder.x_layers[i])
        pull_words(pull_t(dt, g.encoder.layer)[0], g.embeddings)
        return pull_regions(pull_r(dr, g.encoder.r_layers)[0], g.encoder.visn_fc)
    return t, r, pull


def answer_head(x, p, eps):
    """W_2 LN(gelu(W_1 x + b_1)) + b_2                      (B, W) -> (B, answers)   p: below answer_head.logit_fc"""
    h, pull_1 = dense(x, p, "0.")
    a, pull_gelu = ops.gelu(h)
    n, pull_norm = layer_norm(a, p, "2", eps)
    y, pull_2 = dense(n, p, "3.")
    return y, lambda dy, g: pull_1(pull_gelu(pull_norm(pull_2(dy, g), g)), g)


@op
def sure_cross_entropy(scores, labels, confidence):
    """mean over all regions of confidence * cross entropy              scores (B, R, C), the others (B, R) -> scalar

    Every region counts, masked or not, by how sure the detector is of its label.
    """
    flat, N = scores.reshape(-1, scores.shape[-1]), labels.size
    weights = confidence.reshape(-1)
    loss, pull_loss = ops.cross_entropy(flat, labels.reshape(-1), weights)          # divided by the weights' sum
    share = weights.sum() / N
    return loss * share, lambda dloss: pull_loss(dloss * share).reshape(scores.shape)


def lxmert_pretraining(x, p, config):
    """The sum of all losses                                -> {name: scalar}

    x: input_ids, token_type_ids, attention_mask, lm_labels (B, T); visual_feats, visual_pos, visual_attention_mask of
    the regions; matched_label and answer (B,); obj_labels, obj_conf and the like of attributes (B, R); feat_target
    (B, R, F), feat_mask (B, R), 1 where a region's features are to be found. -100: no label.
    pull(dloss, g) -> dfeatures, dboxes.
    """
    b = config.bert
    t, r, pull_streams = lxmert(x["input_ids"], x["token_type_ids"], x["visual_feats"], x["visual_pos"],
                                x["attention_mask"] != 0, x["visual_attention_mask"] != 0, p.lxmert, config)
    cls, pull_pool = bert.pooled(t, p.lxmert)
    record("pooled", cls)
    words, pull_words = bert.word_head(t, p, b, WORDS_HEAD, "lxmert.embeddings.word_embeddings.weight")
    matched, pull_matched = dense(cls, p, "cls.seq_relationship.")
    answers, pull_answers = answer_head(cls, p.answer_head.logit_fc, b.eps)
    n, pull_transform = bert.transform(r, p, b, "obj_predict_head.transform")
    scores = {name: dense(n, p, f"obj_predict_head.decoder_dict.{name}.") for name in predicted(config)}
    for name, some in (("prediction_logits", words), ("matched_logits", matched), ("qa_score", answers)):
        record(name, some)
    for name, (some, _) in scores.items():
        record(f"{name}_scores", some)
    losses = {"mlm": ops.cross_entropy(words.reshape(-1, config.vocabulary), x["lm_labels"].reshape(-1)),
              "matched": ops.cross_entropy(matched, x["matched_label"]),
              "qa": ops.cross_entropy(answers, x["answer"])}
    for name in predicted(config):
        if name == "feat":
            wrong = (scores[name][0] - x["feat_target"]) * x["feat_mask"][..., None]
            losses[name] = ops.smooth_l1(wrong, 1.0)
        else:
            losses[name] = sure_cross_entropy(scores[name][0], x[f"{name}_labels"], x[f"{name}_conf"])
    y = {f"loss_{name}": loss * (config.weight if name in scores else 1) for name, (loss, _) in losses.items()}

    def pull(dloss, g):
        dn = 0
        for name, (_, pull_scores) in scores.items():
            d = losses[name][1](dloss * config.weight)
            dn = dn + pull_scores(d * x["feat_mask"][..., None] if name == "feat" else d, g)
        dr = pull_transform(dn, g)
        dcls = pull_matched(losses["matched"][1](dloss), g)
        dcls = dcls + pull_answers(losses["qa"][1](dloss), g.answer_head.logit_fc)
        dt = pull_pool(dcls, g.lxmert) + pull_words(losses["mlm"][1](dloss).reshape(words.shape), g)
        return pull_streams(dt, dr, g.lxmert)
    return y | {"loss": sum(y.values())}, pull


class LXMERT(Relative):
    """An LXMERT with its weights; `load` makes one. None of the real ones has been loaded here, see pair.py."""
    kind = "an LXMERT"

    def states(self, ids, features, boxes):
        """The states of words and of regions               ids (B, T), (B, R, F), (B, R, 4) -> (B, T, W), (B, R, W)

        Id 0 is padding. features and boxes are a detector's, boxes as shares of the picture's sides.
        """
        xp = namespace(features)
        ids = xp.asarray(ids)
        seen = xp.ones(features.shape[:2], bool)
        return lxmert(ids, xp.zeros_like(ids), features, boxes, ids != 0, seen, self.p.lxmert, self.config)[:2]

    def answer(self, ids, features, boxes):
        """A logit for each answer                          -> (B, answers)"""
        cls, _ = bert.pooled(self.states(ids, features, boxes)[0], self.p.lxmert)
        return answer_head(cls, self.p.answer_head.logit_fc, self.config.bert.eps)[0]

    def match(self, ids, features, boxes):
        """How probable it is that text and picture belong together         -> (B,)"""
        cls, _ = bert.pooled(self.states(ids, features, boxes)[0], self.p.lxmert)
        return ops.softmax(dense(cls, self.p, "cls.seq_relationship.")[0])[0][:, 1]


CHECKPOINTS = [Checkpoint(
    LXMERT.kind, lambda fields: fields.get("model_type") == "lxmert" and "LxmertForPreTraining" in (
        fields.get("architectures") or ()), lxmert_of, lxmert_shapes, LXMERT,
    ("*.position_ids", f"{WORDS_HEAD}.decoder.*"))]


# ------------------------------------------------------------------------------------------------------- golden cases

def lxmert_case(x, p, config):
    y, pull = lxmert_pretraining(x, p, config)
    return y, lambda dy, g: dict(zip(("visual_feats", "visual_pos"), pull(dy["loss"], g)))


CASES = {"lxmert": Case(lambda fields, shapes: lxmert_of(fields), lxmert_shapes, lxmert_case)}
