"""ViLT: words and bare patches in one transformer, no tower for either (Kim et al. 2021, arXiv 2102.03334).

[CLS] words [SEP] | CLS patches, each with a learned vector of its kind, through the pre-norm blocks of a ViT. Pictures
keep their shape: positions are resampled for each, and a batch is padded with patches that nothing sees.

Its losses: masked words, whether picture and text belong together, and how little it costs to carry the text's vectors
to the picture's ("word-patch alignment", an optimal transport). Names are Hugging Face's.
"""
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..inputs import image
from ..inputs.texts import BertTexts
from ..nn import ops
from ..nn.arrays import namespace, to_numpy
from ..nn.more_ops import normalise
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import below
from . import bert, positions, transformer
from .clip import transformer_of
from .pair import Relative
from .registry import Case, Checkpoint
from .transformer import Transformer, dense, dense_shapes, layer_norm, norm_shapes

QKV = tuple(f"attention.attention.{name}." for name in ("query", "key", "value"))
BLOCK = transformer.Names("layernorm_before", QKV, "attention.output.dense", "layernorm_after",
                          "intermediate.dense", "output.dense")
WORDS, PATCHES = "text_embeddings", "patch_embeddings.projection"
TEXT, IMAGE = 0, 1                                      # kinds of tokens
BETA, ROUNDS, WEIGHT = 0.5, 50, 0.1                     # of word-patch alignment


@dataclass(frozen=True)
class Config:
    """The geometry of a ViLT."""
    transformer: Transformer
    patch: int                          # pixels a side
    image: int                          # pixels a side of the square that positions are stored for
    vocabulary: int
    positions: int                      # of words
    types: int                          # of words
    kinds: int                          # of tokens: text, picture; 3 where two pictures are compared
    most: int                           # patches of a picture that are kept; -1: as many as the largest of a batch has

    @property
    def grid(self):
        """Patches a side that there are positions for"""
        return self.image // self.patch


def hugging_face(fields):
    """Config of the fields of a config.json"""
    stack = transformer_of(fields, 768, 3072, 12, 12, "gelu", bert.NORM_EPS, BLOCK)
    return Config(stack, fields.whole("patch_size", 32), fields.whole("image_size", 384),
                  fields.whole("vocab_size", 30522),
                  fields.whole("max_position_embeddings", 40), fields.whole("type_vocab_size", 2),
                  fields.whole("modality_type_vocab_size", 2), fields.whole("max_image_length", -1, -1))


def shapes(config):
    """{name: shape} of the transformer's tensors, without heads"""
    W, t = config.transformer.width, config.transformer
    embeddings = {"cls_token": (1, 1, W), "position_embeddings": (1, 1 + config.grid ** 2, W),
                  "token_type_embeddings.weight": (config.kinds, W), f"{PATCHES}.bias": (W,),
                  f"{PATCHES}.weight": (W, 3, config.patch, config.patch),
                  **bert.typed_words_shapes(t, WORDS, config.vocabulary, config.positions, config.types)}
    return {**below("embeddings", embeddings), **below("encoder.layer", transformer.shapes(t)),
            **norm_shapes("layernorm", W), **dense_shapes("pooler.dense", W, W)}


def masked_words_shapes(config):
    """{name: shape} of the model with its head for masked words, whose matrix is its own"""
    head = bert.word_head_shapes(config.transformer, "mlm_score", config.vocabulary)
    return {**below("vilt", shapes(config)), **head,
            "mlm_score.decoder.weight": (config.vocabulary, config.transformer.width)}


def matcher_shapes(config):
    """{name: shape} of the model that scores pairs"""
    return {**below("vilt", shapes(config)), **dense_shapes("rank_output", 1, config.transformer.width)}


# ---------------------------------------------------------------------------------------------------------- embeddings

def kept_patches(pixel_mask, patch, most, picks=None):
    """Which patches of every picture stand in the sequence             pixel_mask (B, N, M), True inside the picture

    -> their numbers, row by row (B, K); whether they are inside (B, K); [(rows, columns) of each picture]. K is the
    most that a picture has, `most` at the highest. A smaller picture is filled up with patches from outside of it.
    picks: instead of the first ones, [the numbers] of a picture that has K or more, and for one that has fewer, which
    patches from outside. In training they are drawn at random.
    """
    xp, B = namespace(pixel_mask), len(pixel_mask)
    inside = to_numpy(pixel_mask)[:, ::patch, ::patch] != 0
    sizes = [(int(one[:, 0].sum()), int(one[0].sum())) for one in inside]
    inside = inside.reshape(B, -1)
    K = int(inside.sum(1).max())
    K = K if most < 0 else min(most, K)
    numbers, real = [], []
    for b in range(B):
        own, outside = inside[b].nonzero()[0].tolist(), (~inside[b]).nonzero()[0].tolist()
        pick = range(K) if picks is None else to_numpy(picks[b]).tolist()
        filled = len(own) < K
        numbers.append(own + [outside[i % len(outside)] for i in pick][:K - len(own)] if filled else
                       (own[:K] if picks is None else pick))
        real.append([i < len(own) for i in range(K)])
    return xp.asarray(numbers), xp.asarray(real), sizes


@op
def embed(pixels, ids, types, pixel_mask, p, config, picks=None):
    """The whole sequence, not yet normalised               pixels (B, 3, N, M), ids (B, T) -> (B, T + 1 + K, W)

    types (B, T); pixel_mask (B, N, M); picks: see kept_patches. Also which patches are real (B, K). p: below
    vilt.embeddings. pull(dx, g) -> dpixels.
    """
    xp, (B, T), t = namespace(pixels), ids.shape, config.transformer
    n, M, table = config.grid, pixels.shape[3] // config.patch, p.position_embeddings[0]
    words, pull_words = bert.typed_words(ids, types, p, t, WORDS)
    squares, pull_squares = ops.patches(pixels, config.patch)
    seen, pull_patches = dense(squares, p, f"{PATCHES}.")                           # (B, P, W)
    numbers, real, sizes = kept_patches(pixel_mask, config.patch, config.most, picks)
    places, pulls = xp.zeros_like(seen), []
    for b, (h, w) in enumerate(sizes):
        rows = (xp.arange(h)[:, None] * M + xp.arange(w)).reshape(-1)               # outside the positions are 0
        places[b, rows], pull_places = positions.resampled(table[1:], *positions.corners_aligned(n, (h, w)))
        pulls.append((rows, pull_places))
    each = xp.arange(B)[:, None]
    cls = xp.broadcast_to(p.cls_token[0] + table[:1], (B, 1, t.width))
    kinds = p.token_type_embeddings.weight
    image = xp.concatenate([cls, (seen + places)[each, numbers]], 1) + kinds[IMAGE]

    def pull(dx, g):
        dwords, dcls, dkept = dx[:, :T], dx[:, T:T + 1].sum(0), dx[:, T + 1:]
        dseen = xp.zeros_like(seen)
        xp.add.at(dseen, (each, numbers), dkept)
        dkinds = xp.zeros_like(kinds)
        dkinds[TEXT], dkinds[IMAGE] = dwords.sum((0, 1)), dx[:, T:].sum((0, 1))
        g.add("token_type_embeddings.weight", lambda: dkinds)
        g.add("cls_token", lambda: dcls[None])
        dtable = sum(pull_places(dseen[b, rows]) for b, (rows, pull_places) in enumerate(pulls))
        g.add("position_embeddings", lambda: xp.concatenate([dcls, dtable])[None])
        pull_words(dwords, g)
        return pull_squares(pull_patches(dseen, g))
    return xp.concatenate([words + kinds[TEXT], image], 1), real, pull


def states(pixels, ids, types, text_mask, pixel_mask, p, config, picks=None, keep="all"):
    """All tokens after the last block and its norm, and which are seen     -> (B, T + 1 + K, W), (B, T + 1 + K)

    text_mask (B, T): False hides padding; the others: see `embed`. p: below vilt. pull(dy, g) -> dpixels.
    """
    xp, B = namespace(pixels), len(ids)
    x, real, pull_embed = embed(pixels, ids, types, pixel_mask, p.embeddings, config, picks)
    mask = xp.concatenate([text_mask, xp.ones((B, 1), bool), real], 1)
    record("embeddings", x)
    record("hidden0", x)
    record("joint_mask", mask)
    x, pull_blocks = transformer.transformer(x, p.encoder.layer, config.transformer, keep, mask)
    x, pull_norm = layer_norm(x, p, "layernorm", config.transformer.eps)
    record("last", x)
    return x, mask, lambda dy, g: pull_embed(pull_blocks(pull_norm(dy, g), g.encoder.layer), g.embeddings)


# ------------------------------------------------------------------------------------------------ word-patch alignment

@op
def ipot(cost, seen, beta=BETA, rounds=ROUNDS):
    """The cheapest way to carry equal weights of the m words to equal weights of the n patches: cost (B, m, n) -> plan

    The plan is (B, n, m), its rows sum to 1 / n and its columns to 1 / m. "Inexact proximal point" (Xie et al. 2018,
    arXiv 1802.04307): each round multiplies the plan by exp(-cost / beta) and rescales rows and columns once. seen
    (B, m, n): which words and patches there are; the others carry nothing.
    """
    xp, seen = namespace(cost), seen.swapaxes(1, 2)
    words, patches = seen.any(1, keepdims=True), seen.any(2, keepdims=True)         # (B, 1, m), (B, n, 1)
    m, n = words.sum(2, keepdims=True), patches.sum(1, keepdims=True)
    kernel = xp.where(seen, xp.exp(-cost.swapaxes(1, 2) / beta), 0)                 # (B, n, m)
    plan, of_words = seen.astype(cost.dtype), xp.where(words, 1 / m, 0).astype(cost.dtype)

    def share(total, there):
        return xp.where(there, 1 / xp.where(there, total, 1), 0).astype(cost.dtype)
    for _ in range(rounds):
        q = kernel * plan
        of_patches = share(n * (q * of_words).sum(2, keepdims=True), patches)
        of_words = share(m * (q * of_patches).sum(1, keepdims=True), words)
        plan = of_patches * q * of_words
    return plan


@op
def alignment(words, patches, words_seen, patches_seen):
    """What the cheapest plan costs: sum of plan (1 - cosine)           (B, m, W), (B, n, W), masks -> (B,)

    The plan is held constant in the gradient. pull(dy) -> dwords, dpatches.
    """
    xp = namespace(words)
    u, pull_u = normalise(words)
    v, pull_v = normalise(patches)
    seen = words_seen[:, :, None] & patches_seen[:, None]
    cost = xp.where(seen, 1 - u @ v.swapaxes(1, 2), 0)                              # (B, m, n)
    plan = ipot(cost, seen).swapaxes(1, 2)
    record("ot_cost", cost)
    record("ot_plan", plan.swapaxes(1, 2))

    def pull(dy):
        dcosines = -plan * dy[:, None, None]
        return pull_u(dcosines @ v), pull_v(dcosines.swapaxes(1, 2) @ u)
    return (cost * plan).sum((1, 2)), pull


# --------------------------------------------------------------------------------------------------------- pre-training

def pretraining(x, p, config, picks=None):
    """The sum of three losses                              -> {name: scalar}

    x: pixel_values (B, 3, N, M), pixel_mask, input_ids (B, T), attention_mask, mlm_labels (-100 where no word is to be
    found), itm_labels (B,), 1 where picture and text belong together. The alignment is to be cheap in pairs and dear in
    others; both CLS and the text's last token are left out of it. pull(dloss, g) -> dpixels.
    """
    ids, text_mask, labels = x["input_ids"], x["attention_mask"] != 0, x["itm_labels"]
    xp, (B, T) = namespace(ids), ids.shape
    h, mask, pull_states = states(x["pixel_values"], ids, xp.zeros_like(ids), text_mask, x["pixel_mask"] != 0, p.vilt,
                                  config, picks)
    cls, pull_pool = bert.pooled(h, p.vilt)
    record("pooled", cls)
    itm_logits, pull_itm_head = dense(cls, p, "itm_score.fc.")
    itm, pull_itm = ops.cross_entropy(itm_logits, labels)
    mlm_logits, pull_mlm_head = bert.word_head(h[:, :T], p, config.transformer, "mlm_score", "mlm_score.decoder.weight")
    mlm, pull_mlm = ops.cross_entropy(mlm_logits.reshape(B * T, -1), x["mlm_labels"].reshape(-1))
    record("itm_logits", itm_logits)
    record("mlm_logits", mlm_logits)
    place = xp.arange(T)
    words_seen = text_mask & (place > 0) & (place != text_mask.sum(1, keepdims=True) - 1)
    patches_seen = mask[:, T:] & (xp.arange(h.shape[1] - T) > 0)
    distance, pull_distance = alignment(h[:, :T], h[:, T:], words_seen, patches_seen)
    record("ot_distance", distance)
    sign = xp.where(labels == 1, 1, -1).astype(h.dtype)
    wpa = WEIGHT * (sign * distance).sum() / B

    def pull(dloss, g):
        dh = pull_pool(pull_itm_head(pull_itm(dloss), g), g.vilt)
        dh[:, :T] += pull_mlm_head(pull_mlm(dloss).reshape(mlm_logits.shape), g)
        dwords, dpatches = pull_distance(sign * (dloss * WEIGHT / B))
        dh[:, :T] += dwords
        dh[:, T:] += dpatches
        return pull_states(dh, g.vilt)
    return {"loss_mlm": mlm, "loss_itm": itm, "loss_wpa": wpa, "loss": mlm + itm + wpa}, pull


# ---------------------------------------------------------------------------------------------------------- the models

class ViLT(Relative):
    """A ViLT with its weights; `load` makes one. None of the real ones has been loaded here, see pair.py."""
    kind = "a ViLT"

    def texts(self, folder):
        return BertTexts(folder, self.config.positions, self.config.vocabulary)

    def pixels(self, picture):
        """A picture (a path, an open file, a Pillow image or an array) as it is read        -> (1, 3, N, M)"""
        picture = image.load(picture)
        half = np.full(3, 0.5, np.float32)
        size = sides(picture.size, self.config.image, self.config.patch)
        return self.convert(image.normalised(picture.resize(size, Image.Resampling.BICUBIC), half, half)[None])

    def states(self, pixels, ids):
        """All tokens after the last norm                   pixels (B, 3, N, M), ids (B, T) -> (B, T + 1 + K, W)

        Id 0 is padding; pictures are whole, so that all of a batch have one size.
        """
        xp = namespace(pixels)
        ids = xp.asarray(ids)
        whole = xp.ones((len(pixels), *pixels.shape[2:]), bool)
        return states(pixels, ids, xp.zeros_like(ids), ids != 0, whole, self.p.vilt, self.config, keep=None)[0]


def sides(size, shorter, patch):
    """(width, height) in whole patches of a picture whose shorter side becomes `shorter`, if the longer one is then at
    most 1333/800 as long, as in the authors' detector before; a longer picture gets smaller"""
    exact = [shorter if side == min(size) else side * (shorter / min(size)) for side in size]
    smaller = min(1.0, int(1333 / 800 * shorter) / max(exact))      # a second step, which keeps transformers' rounding
    return tuple(max(1, int(side * smaller + 0.5) // patch) * patch for side in exact)


class MaskedWords(ViLT):
    """A ViLT that finds masked words."""
    kind = "a ViLT that finds masked words"

    def logits(self, pixels, ids):
        """Which word stands at each place                  -> (B, T, V)"""
        h = self.states(pixels, ids)[:, :ids.shape[1]]
        return bert.word_head(h, self.p, self.config.transformer, "mlm_score", "mlm_score.decoder.weight")[0]


class Matcher(ViLT):
    """A ViLT that scores pairs."""
    kind = "a ViLT that scores pairs"

    def score(self, pixels, ids):
        """How well picture and text belong together, a number without a scale           -> (B,)"""
        cls, _ = bert.pooled(self.states(pixels, ids), self.p.vilt)
        return dense(cls, self.p, "rank_output.")[0][:, 0]


def knows(architecture):
    """Whether a config.json is of this class of Hugging Face's"""
    return lambda fields: fields.get("model_type") == "vilt" and architecture in (fields.get("architectures") or ())


IGNORED_TENSORS = "*.position_ids", "mlm_score.decoder.bias"
CHECKPOINTS = [
    Checkpoint(MaskedWords.kind, knows("ViltForMaskedLM"), hugging_face, masked_words_shapes, MaskedWords,
               IGNORED_TENSORS),
    Checkpoint(Matcher.kind, knows("ViltForImageAndTextRetrieval"), hugging_face, matcher_shapes, Matcher,
               IGNORED_TENSORS)]


# ------------------------------------------------------------------------------------------------------- golden cases

def case_shapes(config):
    return masked_words_shapes(config) | dense_shapes("itm_score.fc", 2, config.transformer.width)


def case(x, p, config):
    y, pull = pretraining(x, p, config, [x[f"pick{b}"] for b in range(len(x["input_ids"]))])
    return y, lambda dy, g: {"pixel_values": pull(dy["loss"], g)}


CASES = {"vilt": Case(lambda fields, shapes: hugging_face(fields), case_shapes, case)}
