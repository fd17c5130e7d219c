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

from ..inputs.texts import BertTexts
from ..nn import activations, ops
from ..nn.arrays import namespace, wide
from ..nn.swap import op
from ..nn.trace import record, recording, scope
from ..nn.tree import below
from . import bert
from .bert import Bert
from .fields import Fields
from .pair import Relative
from .registry import Case, Checkpoint
from .transformer import (
    Into, at, dense, dense_shapes, embedded, join_heads, layer_norm, norm_shapes, split_heads)

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

    def texts(self, folder):
        return BertTexts(folder, self.config.positions, self.config.vocabulary)

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


# ------------------------------------------------------------------------------------------------------------ ViLBERT

MUL, SUM = "mul", "sum"                                 # how both streams' first tokens are joined
TASKS = 20                                              # rows of 12-in-1's table of tasks


@dataclass(frozen=True)
class Vilbert:
    """The geometry of a ViLBERT."""
    text: Bert
    image: Bert
    co: int                             # width of the co-attention and of the poolers
    heads: int                          # of the co-attention
    connections: tuple                  # (v, t): stands before layer v of regions and layer t of words
    feature: int                        # width of a region's features
    target: int                         # classes of a region
    vocabulary: int
    positions: int
    types: int
    fusion: str                         # MUL or SUM
    dynamic: bool                       # whether the text gates the regions' queries and keys
    tasks: bool                         # whether a token names the task, as in 12-in-1


def vilbert_of(fields):
    """Vilbert of the fields of the original's configuration"""
    image = {"hidden_size": "v_hidden_size", "intermediate_size": "v_intermediate_size",
             "num_hidden_layers": "v_num_hidden_layers", "num_attention_heads": "v_num_attention_heads"}
    seen = Fields({name: fields.get(stored) for name, stored in image.items()}, fields.path, "v_")
    pairs = [fields.get(name) for name in ("v_biattention_id", "t_biattention_id")]
    for name, ids in zip(("v_biattention_id", "t_biattention_id"), pairs):
        if not isinstance(ids, list) or sorted(ids) != ids or len(ids) != len(pairs[0]):
            fields.refuse(name, ids, "a list of numbers of layers that grow, as many for words as for regions")
    if fields.get("visual_target", 0) != 0:
        fields.refuse("visual_target", fields.get("visual_target"), "0, classes, which is all that is known here")
    co, heads = fields.whole("bi_hidden_size", 1024), fields.whole("bi_num_attention_heads", 8)
    if co % heads:
        fields.refuse("bi_num_attention_heads", heads, f"a divisor of bi_hidden_size {co}")
    return Vilbert(bert.bert_of(fields), bert.bert_of(seen), co, heads, tuple(zip(*pairs)),
                   fields.whole("v_feature_size", 2048), fields.whole("v_target_size", 1601),
                   fields.whole("vocab_size", 30522), fields.whole("max_position_embeddings", 512),
                   fields.whole("type_vocab_size", 2), fields.one_of("fusion_method", (MUL, SUM), MUL),
                   bool(fields.get("dynamic_attention", False)), bool(fields.get("task_specific_tokens", False)))


def vilbert_shapes(config):
    """{name: shape} of every tensor with the heads of pre-training; q_dense1 and q_dense2 are stored and never used"""
    t, r, C = config.text, config.image, config.co
    found = bert.typed_words_shapes(t, "embeddings", config.vocabulary, config.positions, config.types)
    if config.tasks:
        found["embeddings.task_embeddings.weight"] = (TASKS, t.width)
    found |= dense_shapes("v_embeddings.image_embeddings", r.width, config.feature)
    found |= dense_shapes("v_embeddings.image_location_embeddings", r.width, 5)
    found |= norm_shapes("v_embeddings.LayerNorm", r.width)
    own = bert.block_shapes(r)
    for letter in "qk" if config.dynamic else "":
        own |= dense_shapes(f"attention.self.dyLinear_{letter}", r.width, t.width)
    for name, shapes, layers in (("layer", bert.block_shapes(t), t.layers), ("v_layer", own, r.layers)):
        for i in range(layers):
            found |= below(f"encoder.{name}.{i}", shapes)
    cross = {}
    for number, letter, one in ((1, "v", r), (2, "t", t)):
        for name in ("query", "key", "value"):
            cross |= dense_shapes(f"biattention.{name}{number}", C, one.width)
        for name in ("dense", "q_dense"):
            cross |= dense_shapes(f"biOutput.{name}{number}", one.width, C)
        cross |= norm_shapes(f"biOutput.LayerNorm{number}", one.width)
        cross |= bert.feed_forward_shapes(one, f"{letter}_intermediate", f"{letter}_output")
        found |= dense_shapes(f"{letter}_pooler.dense", C, one.width)
    for i in range(len(config.connections)):
        found |= below(f"encoder.c_layer.{i}", cross)
    return {**below("bert", found), **bert.word_head_shapes(t, WORDS_HEAD, config.vocabulary),
            **bert.transform_shapes(r, "cls.imagePredictions.transform"),
            **dense_shapes("cls.imagePredictions.decoder", config.target, r.width),
            **dense_shapes("cls.bi_seq_relationship", 2, C)}


def vilbert_words(ids, types, tasks, p, config):
    """LN(word + position + type), the task's token after [CLS]         ids (B, T), tasks (B,) -> (B, T + 1, W)

    The task has neither position nor type. p: below bert.embeddings.
    """
    xp = namespace(ids)
    x, pull_words = embedded(ids, p, "word_embeddings.weight", "position_embeddings.weight")
    kinds, pull_types = ops.embedding(types, p.token_type_embeddings.weight)
    x = x + kinds
    if config.tasks:
        task, pull_tasks = ops.embedding(tasks, p.task_embeddings.weight)
        x = xp.concatenate([x[:, :1], task[:, None], x[:, 1:]], 1)
    y, pull_norm = layer_norm(x, p, "LayerNorm", config.text.eps)

    def pull(dy, g):
        dx = pull_norm(dy, g)
        if config.tasks:
            pull_tasks(dx[:, 1], g.task_embeddings)
            dx = xp.concatenate([dx[:, :1], dx[:, 2:]], 1)
        pull_words(dx, g)
        pull_types(dx, g.token_type_embeddings)
    return y, pull


@op
def vilbert_regions(features, places, p, eps):
    """LN(W_f f + b_f + W_l l + b_l)                        features (B, R, F), places (B, R, 5) -> (B, R, W)

    l: left, top, right, bottom and area as shares of the picture; row 0 is the whole picture.
    """
    x, pull_features = dense(features, p, "image_embeddings.")
    z, pull_places = dense(places, p, "image_location_embeddings.")
    y, pull_norm = layer_norm(x + z, p, "LayerNorm", eps)

    def pull(dy, g):
        dx = pull_norm(dy, g)
        return pull_features(dx, g), pull_places(dx, g)
    return y, pull


@op
def region_block(r, t, region_mask, text_mask, p, config):
    """A layer of regions; if `dynamic`, its queries and keys are times 1 + sigmoid(W mean of the words + b)

    r (B, R, V), t (B, T, W) -> (B, R, V). pull(dr, g) -> dr, dt.
    """
    if not config.dynamic:
        y, pull_block = bert.block(r, p, config.image, region_mask)
        return y, lambda dy, g: (pull_block(dy, g)[0], 0)
    seen, own, heads = text_mask[..., None], p.attention.self, config.image.heads
    count = seen.sum(1)
    mean = (t * seen).sum(1) / count
    parts, gates = [], []
    for name, letter in (("query", "q"), ("key", "k"), ("value", None)):
        x, pull_dense = dense(r, own, f"{name}.")
        gate = None
        if letter:
            z, pull_gate = dense(mean, own, f"dyLinear_{letter}.")
            gate, pull_sigmoid = activations.logistic(z)
            gates.append((x, 1 + gate[:, None], pull_gate, pull_sigmoid, pull_dense))
            x = x * (1 + gate[:, None])
        parts.append(split_heads(x, heads))
    pull_value = pull_dense
    a, pull_attention = ops.attention(*parts, region_mask, causal=False)
    a, pull_out = dense(join_heads(a), p, "attention.output.dense.")
    x, pull_norm = layer_norm(r + a, p, "attention.output.LayerNorm", config.image.eps)
    y, pull_mlp = bert.feed_forward(x, p, config.image)

    def pull(dy, g):
        dr, h, dmean = pull_norm(pull_mlp(dy, g), g), g.attention.self, 0
        *gated, dv = (join_heads(d) for d in pull_attention(split_heads(pull_out(dr, g), heads)))
        dr = dr + pull_value(dv, h)
        for d, (x, gate, pull_gate, pull_sigmoid, pull_dense) in zip(gated, gates):
            dr = dr + pull_dense(d * gate, h)
            dmean = dmean + pull_gate(pull_sigmoid((d * x).sum(1)), h)
        return dr, (dmean / count)[:, None] * seen
    return y, pull


@op
def connection(t, r, text_mask, region_mask, p, config):
    """Co-attention: words look at regions and regions at words, then an MLP each        (B, T, W), (B, R, V)

    1 in a name is of regions and 2 of words: words ask with query2 for key1 and value1. pull(dt, dr, g) -> dt, dr.
    """
    ways, outputs, pulls = {2: (t, r, region_mask, "text", "t", config.text),
                            1: (r, t, text_mask, "image", "v", config.image)}, {}, {}
    for n, (x, other, mask, name, letter, geometry) in ways.items():
        projections = [dense(some, p.biattention, f"{part}.") for some, part in (
            (x, f"query{n}"), (other, f"key{3 - n}"), (other, f"value{3 - n}"))]
        c, pull_attention = ops.attention(*(split_heads(y, config.heads) for y, _ in projections), mask, causal=False)
        c = join_heads(c)
        record(f"context_for_{name}", c)
        y, pull_out = dense(c, p.biOutput, f"dense{n}.")
        y, pull_norm = layer_norm(x + y, p.biOutput, f"LayerNorm{n}", geometry.eps)
        record(f"bioutput_{name}", y)
        outputs[n], pull_mlp = bert.feed_forward(y, p, geometry, f"{letter}_intermediate", f"{letter}_output")
        pulls[n] = projections, pull_attention, pull_out, pull_norm, pull_mlp

    def pull(dt, dr, g):
        d = {2: dt, 1: dr}
        back = {1: 0, 2: 0}
        for n, (projections, pull_attention, pull_out, pull_norm, pull_mlp) in pulls.items():
            dx = pull_norm(pull_mlp(d[n], g), g.biOutput)
            dqkv = pull_attention(split_heads(pull_out(dx, g.biOutput), config.heads))
            dq, dk, dv = (pull_one(join_heads(dy), g.biattention) for (_, pull_one), dy in zip(projections, dqkv))
            back[n] = back[n] + dx + dq
            back[3 - n] = back[3 - n] + dk + dv
        return back[2], back[1]
    return outputs[2], outputs[1], pull


@op
def order(config):
    """("text", i), ("image", i) and ("connect", i) in the order in which the layers run

    Up to the layers that a connection stands before, the words' first, since they may gate the regions; then it.
    """
    steps, text, image = [], 0, 0
    for i, (v, t) in enumerate(config.connections):
        steps += [("text", n) for n in range(text, t)] + [("image", n) for n in range(image, v)] + [("connect", i)]
        text, image = t, v
    rest = [("image", n) for n in range(image, config.image.layers)]
    return steps + rest + [("text", n) for n in range(text, config.text.layers)]


def vilbert(ids, types, tasks, features, places, text_mask, region_mask, p, config):
    """The states of words and of regions                   -> (B, T, W), (B, R, V), words with the task's token

    ids, types and text_mask (B, T), tasks (B,) or None; features (B, R, F), places (B, R, 5), region_mask (B, R).
    p: below bert. pull(dt, dr, g) -> dfeatures, dplaces.
    """
    xp = namespace(features)
    if config.tasks:
        text_mask = xp.concatenate([xp.ones((len(ids), 1), bool), text_mask], 1)
    t, pull_words = vilbert_words(ids, types, tasks, p.embeddings, config)
    r, pull_regions = vilbert_regions(features, places, p.v_embeddings, config.image.eps)
    record("text_embeddings", t)
    record("image_embeddings", r)
    pulls = []
    for kind, i in order(config):
        if kind == "text":
            t, pull_layer = bert.block(t, p.encoder.layer[i], config.text, text_mask)
            record(f"text_layer{i}", t)
        elif kind == "image":
            r, pull_layer = region_block(r, t, region_mask, text_mask, p.encoder.v_layer[i], config)
            record(f"image_layer{i}", r)
        else:
            with scope(f"connect{i}"):
                t, r, pull_layer = connection(t, r, text_mask, region_mask, p.encoder.c_layer[i], config)
                record("text", t)
                record("image", r)
        pulls.append((kind, i, pull_layer))
    record("text_output", t)
    record("image_output", r)

    def pull(dt, dr, g):
        e = g.encoder
        for kind, i, pull_layer in reversed(pulls):
            if kind == "text":
                dt, _ = pull_layer(dt, e.layer[i])
            elif kind == "image":
                dr, dseen = pull_layer(dr, e.v_layer[i])
                dt = dt + dseen
            else:
                dt, dr = pull_layer(dt, dr, e.c_layer[i])
        pull_words(dt, g.embeddings)
        return pull_regions(dr, g.v_embeddings)
    return t, r, pull


@op
def divergence(scores, target, masked):
    """sum over classes of target (log target - log softmax(scores)), the mean over masked regions

    scores and target (B, R, C), masked (B, R) -> scalar. Kullback & Leibler 1951.
    """
    xp, rows = namespace(scores), masked.nonzero()
    z, wanted = wide(scores[rows]), target[rows]
    z = z - z.max(-1, keepdims=True)
    total = xp.exp(z).sum(-1, keepdims=True)
    log_wanted = xp.log(xp.where(wanted > 0, wanted, 1))
    loss = (wanted * (log_wanted - z + xp.log(total))).sum() / len(z)

    def pull(dloss):
        dscores = xp.zeros_like(scores)
        dscores[rows] = (xp.exp(z) / total * wanted.sum(-1, keepdims=True) - wanted) * (dloss / len(z))
        return dscores
    return loss, pull


def vilbert_pretraining(x, p, config):
    """The sum of three losses: masked words, masked regions' classes, alignment         -> {name: scalar}

    x: input_ids, token_type_ids, attention_mask (B, T), lm_labels (B, T, one more with a task), -1 for none; task_ids;
    image_feat, image_loc, image_attention_mask, row 0 the whole picture; image_label, 1 where masked, and image_target
    of the other rows; next_sentence_label (B,), 0 where text and picture belong together. pull(dloss, g) -> dfeatures,
    dplaces.
    """
    xp = namespace(x["image_feat"])
    tasks = x["task_ids"].reshape(-1) if config.tasks else None
    t, r, pull_streams = vilbert(x["input_ids"], x["token_type_ids"], tasks, x["image_feat"], x["image_loc"],
                                 x["attention_mask"] != 0, x["image_attention_mask"] != 0, p.bert, config)
    a, pull_a = bert.pooled(t, p.bert, "t_pooler.dense", activations.relu)
    b, pull_b = bert.pooled(r, p.bert, "v_pooler.dense", activations.relu)
    both = a * b if config.fusion == MUL else a + b
    aligned, pull_aligned = dense(both, p, "cls.bi_seq_relationship.")
    words, pull_words = bert.word_head(t, p, config.text, WORDS_HEAD, "bert.embeddings.word_embeddings.weight")
    n, pull_transform = bert.transform(r, p, config.image, "cls.imagePredictions.transform")
    scores, pull_scores = dense(n, p, "cls.imagePredictions.decoder.")
    for name, some in (("pooled_text", a), ("pooled_image", b), ("alignment_scores", aligned), ("mlm_scores", words),
                       ("image_scores", scores)):
        record(name, some)
    labels = xp.where(x["lm_labels"] < 0, -100, x["lm_labels"]).reshape(-1)
    mlm, pull_mlm = ops.cross_entropy(words.reshape(len(labels), -1), labels)
    regions, pull_regions = divergence(scores[:, 1:], x["image_target"], x["image_label"] == 1)
    alignment, pull_alignment = ops.cross_entropy(aligned, x["next_sentence_label"])

    def pull(dloss, g):
        dscores = xp.zeros_like(scores)
        dscores[:, 1:] = pull_regions(dloss)
        dboth = pull_aligned(pull_alignment(dloss), g)
        da, db = (dboth * b, dboth * a) if config.fusion == MUL else (dboth, dboth)
        dt = pull_words(pull_mlm(dloss).reshape(words.shape), g) + pull_a(da, g.bert)
        dr = pull_transform(pull_scores(dscores, g), g) + pull_b(db, g.bert)
        return pull_streams(dt, dr, g.bert)
    return {"loss_mlm": mlm, "loss_image": regions, "loss_alignment": alignment,
            "loss": mlm + regions + alignment}, pull


# ------------------------------------------------------------------------------------------------------- golden cases

def lxmert_case(x, p, config):
    y, pull = lxmert_pretraining(x, p, config)
    return y, lambda dy, g: dict(zip(("visual_feats", "visual_pos"), pull(dy["loss"], g)))


def vilbert_case(x, p, config):
    with recording() as records:
        y, pull = vilbert_pretraining(x, p, config)
    found = {}
    for name, array in records.items():                     # of the first connection also what is inside
        found |= {name.removeprefix("connect0/"): array, name.replace("/", "_"): array}
    return found | y, lambda dy, g: dict(zip(("image_feat", "image_loc"), pull(dy["loss"], g)))


CASES = {
    "lxmert": Case(lambda fields, shapes: lxmert_of(fields), lxmert_shapes, lxmert_case),
    "vilbert": Case(lambda fields, shapes: vilbert_of(fields), vilbert_shapes, vilbert_case),
}
