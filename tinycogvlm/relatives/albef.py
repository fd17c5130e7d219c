"""ALBEF: align a picture and a text before they are fused, and learn from a slower copy of oneself (arXiv 2107.07651).

Li et al. 2021. A ViT reads the picture, the first half of a BERT the text; their first tokens are compared. The second
half fuses both: its blocks attend to the picture too. Three losses: contrast, matching with hard negatives, masked
words.

The momentum models follow the weights slowly, m old + (1 - m) new. What they say, half believed (alpha), takes the
place of hard labels, which web captions do not deserve; and their features of the last batches, in queues, are many
more negatives than a batch has. In a step the momentum models move first, the losses take the queues as they were, and
the queues move last. Names are the original's.
"""
from dataclasses import dataclass

from ..nn import ops
from ..nn.arrays import namespace, wide
from ..nn.swap import op
from ..nn.trace import record, scope
from ..nn.tree import Params, below
from . import bert, vit
from .bert import Bert
from .blip import features, negatives, triples
from .registry import Case
from .transformer import Transformer, at, dense, dense_shapes
from .vit import ViT

COPIED = "visual_encoder", "vision_proj", "text_encoder", "text_proj"           # what has a momentum copy, <name>_m
BUFFERS = "*_m.*", "image_queue", "text_queue"
COLDEST, HOTTEST = 0.001, 0.5                           # what the temperature is kept between
IGNORED = -100


@dataclass(frozen=True)
class Config:
    """The geometry of an ALBEF, and how it learns from itself."""
    vision: ViT
    text: Bert
    fusion: int                         # the first block of the text's stack that attends to the picture
    vocabulary: int
    positions: int
    types: int
    embedding: int                      # E, the width of the features that are compared
    queue: int                          # features in a queue
    momentum: float                     # m
    alpha: float                        # how far the momentum models are believed


def original(fields):
    """Config of the fields of the original's configurations, with their defaults"""
    width = fields.whole("vision_width", 768)
    tower = Transformer(width, fields.whole("mlp_ratio", 4) * width, fields.layers("vision_depth", 12),
                        fields.whole("vision_heads", 12), fields.number("vit_eps", 1e-6, high=1), "gelu",
                        vit.TIMM_BLOCK)
    text = bert.bert_of(fields)
    return Config(ViT(tower, fields.whole("patch", 16), fields.whole("image_res", 256), vit.TIMM), text,
                  fields.whole("fusion_layer", 6, 0, text.layers), fields.whole("vocab_size", 30522),
                  fields.whole("max_position_embeddings", 512), fields.whole("type_vocab_size", 2),
                  fields.whole("embed_dim", 256), fields.whole("queue_size", 65536),
                  fields.number("momentum", 0.995, high=1), fields.number("alpha", 0.4, high=1))


def shapes(config):
    """{name: shape} of every tensor, momentum models and queues included"""
    E, W, C = config.embedding, config.text.width, config.vision.transformer.width
    words = bert.typed_words_shapes(config.text, "bert.embeddings", config.vocabulary, config.positions, config.types)
    for i in range(config.text.layers):
        words |= below(f"bert.encoder.layer.{i}", bert.block_shapes(config.text, C if i >= config.fusion else None))
    words |= bert.word_head_shapes(config.text, "cls.predictions", config.vocabulary)
    copied = {**below("visual_encoder", vit.shapes(config.vision)), **below("text_encoder", words),
              **dense_shapes("vision_proj", E, C), **dense_shapes("text_proj", E, W)}
    slow = {copy_of(name): shape for name, shape in copied.items()}
    return {**copied, **slow, **dense_shapes("itm_head", 2, W), "temp": (), "image_queue": (E, config.queue),
            "text_queue": (E, config.queue), "queue_ptr": (1,)}


def copy_of(name):
    """The name of a tensor of a momentum model: text_encoder.bert... -> text_encoder_m.bert..."""
    part, rest = name.split(".", 1)
    return f"{part}_m.{rest}"


# ------------------------------------------------------------------------------------------------------- both encoders

def image_tokens(pixels, p, config, keep="all"):
    """CLS and the patches, normalised                      pixels (B, 3, N, N) -> (B, 1 + P, C)"""
    with scope("image"):
        x, pull = vit.vit(pixels, p.visual_encoder, config.vision, keep)
    return x, lambda dy, g: pull(dy, g.visual_encoder)


@op
def text_tokens(ids, p, config, mask):
    """The text alone: embeddings and the blocks before fusion          ids and mask (B, T) -> (B, T, W)"""
    xp = namespace(ids)
    x, pull_words = bert.typed_words(ids, xp.zeros_like(ids), p, config.text, "text_encoder.bert.embeddings")
    y, pull_blocks = bert.blocks(x, p.text_encoder.bert.encoder.layer, config.text, mask, layers=range(config.fusion))

    def pull(dy, g):
        pull_words(pull_blocks(dy, g.text_encoder.bert.encoder.layer)[0], g)
    return y, pull


@op
def fused(x, image, p, config, mask):
    """The blocks that attend to the picture                x (B, T, W), image (B, S, C) -> (B, T, W)

    pull(dy, g) -> dx, dimage.
    """
    y, pull_blocks = bert.blocks(x, p.text_encoder.bert.encoder.layer, config.text, mask, image,
                                 layers=range(config.fusion, config.text.layers))
    return y, lambda dy, g: pull_blocks(dy, g.text_encoder.bert.encoder.layer)


def word_logits(ids, image, p, config, mask):
    """Which words stand in a text with masked ones         ids (B, T), image (B, S, C) -> (B, T, V)

    pull(dy, g) -> dimage.
    """
    x, pull_text = text_tokens(ids, p, config, mask)
    x, pull_fused = fused(x, image, p, config, mask)
    y, pull_head = bert.word_head(x, p, config.text, "text_encoder.cls.predictions",
                                  "text_encoder.bert.embeddings.word_embeddings.weight")

    def pull(dy, g):
        dx, dimage = pull_fused(pull_head(dy, g), g)
        pull_text(dx, g)
        return dimage
    return y, pull


# -------------------------------------------------------------------------------------------------------- the teacher

def followed(p, config):
    """The momentum models after a step: {name of the weight that is followed: m old + (1 - m) new}"""
    m = config.momentum
    return {name: m * at(p, copy_of(name)) + (1 - m) * at(p, name) for name in shapes(config)
            if name.split(".")[0] in COPIED}


@op
def taught(pixels, ids, mask, masked_ids, leaves, p, config):
    """What the momentum models say                         leaves: theirs, see `followed`; nothing here has a gradient

    -> features of pictures and texts (B, E); both with those in the queues after them (E, B + Q); targets of pictures
    and of texts (B, B + Q), alpha softmax(their similarities) + (1 - alpha) one-hot; logits of words (B, T, V)
    """
    xp, slow, temperature = namespace(pixels), Params(leaves), namespace(pixels).clip(p.temp, COLDEST, HOTTEST)
    with scope("teacher"):
        tokens, _ = image_tokens(pixels, slow, config, keep=None)
        image, _ = features(tokens, slow, "vision_proj")
        text, _ = features(text_tokens(ids, slow, config, mask)[0], slow, "text_proj")
        logits, _ = word_logits(masked_ids, tokens, slow, config, mask)
    images = xp.concatenate([image.T, p.image_queue], 1)
    texts = xp.concatenate([text.T, p.text_queue], 1)
    own = (xp.arange(len(image))[:, None] == xp.arange(images.shape[1])).astype(image.dtype)
    targets = [config.alpha * ops.softmax(one @ others / temperature)[0] + (1 - config.alpha) * own
               for one, others in ((image, texts), (text, images))]
    return image, text, images, texts, *targets, logits


def enqueued(queue, features, pointer):
    """The queue (E, Q) with the features (B, E) written from column `pointer` on, around its end; and the next pointer
    """
    Q = queue.shape[1]
    queue = queue.copy()
    queue[:, (pointer + namespace(queue).arange(len(features))) % Q] = features.T
    return queue, (pointer + len(features)) % Q


# ---------------------------------------------------------------------------------------------------------- the losses

@op
def soft_cross_entropy(logits, target):
    """loss = mean over rows of -sum(target log softmax(logits))        (N, V) twice -> scalar   In float32 at least."""
    xp, z, target = namespace(logits), wide(logits), wide(target)
    z = z - z.max(-1, keepdims=True)
    total = xp.exp(z).sum(-1, keepdims=True)
    loss = (target * (xp.log(total) - z)).sum() / len(z)

    def pull(dloss):
        dlogits = (xp.exp(z) / total * target.sum(-1, keepdims=True) - target) * (dloss / len(z))
        return dlogits.astype(logits.dtype, copy=False)
    return loss, pull


@op
def alignment(image, text, images, texts, target_image, target_text, temperature):
    """The contrast of a batch with itself and the queues   (B, E) twice, (E, B + Q) twice, (B, B + Q) twice -> scalar

    Also both similarities. pull(dloss) -> dimage, dtext, dtemperature.
    """
    sim_image, sim_text = image @ texts / temperature, text @ images / temperature
    by_image, pull_image = soft_cross_entropy(sim_image, target_image)
    by_text, pull_text = soft_cross_entropy(sim_text, target_text)

    def pull(dloss):
        di, dt = pull_image(dloss / 2), pull_text(dloss / 2)
        dtemperature = -((di * sim_image).sum() + (dt * sim_text).sum()) / temperature
        return di @ texts.T / temperature, dt @ images.T / temperature, dtemperature
    return (by_image + by_text) / 2, sim_image, sim_text, pull


def masked_word_loss(logits, labels, soft, alpha):
    """(1 - alpha) cross entropy + alpha of that with the momentum model's words as targets, over masked words

    logits and soft (B, T, V), labels (B, T), -100 where no word is masked -> scalar
    """
    labels = labels.reshape(-1)
    flat, rows = logits.reshape(len(labels), -1), (labels != IGNORED).nonzero()[0]
    hard, pull_hard = ops.cross_entropy(flat, labels)
    some, pull_some = soft_cross_entropy(flat[rows], ops.softmax(soft.reshape(flat.shape)[rows])[0])

    def pull(dloss):
        dflat = pull_hard(dloss * (1 - alpha))
        dflat[rows] += pull_some(dloss * alpha)
        return dflat.reshape(logits.shape)
    return (1 - alpha) * hard + alpha * some, pull


def step(pixels, ids, mask, masked_ids, labels, other_image, other_text, p, config, keep="all"):
    """One step of pre-training                             -> {name: scalar}, {name: what is to be stored}, pull

    ids, mask, masked_ids and labels (B, T). other_image, other_text (B,): the hard negatives, which `negatives` says
    how to draw (recorded as weights_i2t, weights_t2i); see blip.triples. What is to be stored: the momentum models,
    the queues and their pointer. pull(dloss, g) -> dpixels.
    """
    xp, B = namespace(pixels), len(pixels)
    temperature = xp.clip(p.temp, COLDEST, HOTTEST)
    image, pull_image = image_tokens(pixels, p, config, keep)
    text, pull_text = text_tokens(ids, p, config, mask)
    one, pull_one = features(image, p, "vision_proj")
    other, pull_other = features(text, p, "text_proj")
    leaves = followed(p, config)
    image_m, text_m, images, texts, *targets, soft = taught(pixels, ids, mask, masked_ids, leaves, p, config)
    ita, sim_image, sim_text, pull_ita = alignment(one, other, images, texts, *targets, temperature)
    rows, pictures = triples(other_image, other_text, xp)
    fusion, pull_fused = fused(text[rows], image[pictures], p, config, mask[rows])
    match, pull_head = dense(fusion[:, 0], p, "itm_head.")
    itm, pull_itm = ops.cross_entropy(match, (xp.arange(3 * B) < B).astype(int))
    words, pull_words = word_logits(masked_ids, image, p, config, mask)
    mlm, pull_mlm = masked_word_loss(words, labels, soft, config.alpha)
    for name, array in (("text_embeds", text), ("image_feat", one), ("text_feat", other), ("image_feat_m", image_m),
                        ("text_feat_m", text_m), ("sim_i2t", sim_image), ("sim_t2i", sim_text),
                        ("targets_i2t", targets[0]), ("targets_t2i", targets[1]), ("fusion_pos", fusion[:B]),
                        ("fusion_neg", fusion[B:]), ("itm_logits", match), ("mlm_logits", words),
                        ("mlm_logits_m", soft), ("weights_i2t", negatives(sim_image[:, :B], 0)),
                        ("weights_t2i", negatives(sim_text[:, :B], 0))):
        record(name, array)
    pointer = int(p.queue_ptr[0])
    image_queue, after = enqueued(p.image_queue, image_m, pointer)
    text_queue, _ = enqueued(p.text_queue, text_m, pointer)
    stored = {copy_of(name): array for name, array in leaves.items()}
    stored |= {"image_queue": image_queue, "text_queue": text_queue, "queue_ptr": xp.asarray([after])}

    def pull(dloss, g):
        dimage, dtext, dfusion = pull_words(pull_mlm(dloss), g), xp.zeros_like(text), xp.zeros_like(fusion)
        dfusion[:, 0] = pull_head(pull_itm(dloss), g)
        drows, dseen = pull_fused(dfusion, g)
        xp.add.at(dtext, rows, drows)
        xp.add.at(dimage, pictures, dseen)
        done, dother, dtemperature = pull_ita(dloss)
        g.add("temp", lambda: dtemperature)
        pull_text(dtext + pull_other(dother, g), g)
        return pull_image(dimage + pull_one(done, g), g)
    return {"loss_ita": ita, "loss_itm": itm, "loss_mlm": mlm, "loss": ita + itm + mlm}, stored, pull


# ------------------------------------------------------------------------------------------------------- golden cases

def case(x, p, config):
    y, stored, pull = step(x["image"], x["input_ids"], x["attention_mask"] != 0, x["mlm_input_ids"], x["mlm_labels"],
                           x["neg_image_idx"], x["neg_text_idx"], p, config)
    for name, array in stored.items():
        y[f"momentum/{name}" if "." in name else f"{name}_after"] = array
    return y, lambda dy, g: {"image": pull(dy["loss"], g)}


CASES = {"albef": Case(lambda fields, shapes: original(fields), shapes, case, BUFFERS)}
