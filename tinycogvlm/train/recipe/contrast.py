"""Contrastive pretraining of the vision tower with words: for patches, for pictures, and a box from every patch.

A text is the sum of its words' embeddings, so that "red star" is composed of "red" and "star". Every patch must match
the name of what covers it, among all names (as in OWL-ViT, Minderer et al. 2022, arXiv 2205.06230). Every picture, as
the mean of its patches, must match the things in it, among the pictures of the batch (CLIP, Radford et al. 2021, arXiv
2103.00020). And every patch of a thing predicts the box of that thing. The words and the heads are thrown away
afterwards; the tower remains.
"""
import numpy as np

from ...inputs import image
from ...model.parts import TOWER
from ...model.vit import vit
from ...nn import ops
from ...nn.tree import Gradients, Params, matches
from ...world.scenes import BACKGROUNDS, NAMES, SIDE, scene

TEXTS = NAMES + BACKGROUNDS                                 # what a patch can show
WORDS = tuple(dict.fromkeys(word for text in TEXTS for word in text.split()))
SPELLED = np.array([[word in text.split() for word in WORDS] for text in TEXTS], np.float32)    # (texts, words)
BACKGROUND_WEIGHT, BOX_WEIGHT, PICTURE_WEIGHT = 0.2, 2, 0.1     # of these losses; the loss of things' patches has 1
SHARP = 0.1                                                 # box errors below this (in tenths) count quadratically


def heads(config, random):
    """{name: array} of what is thrown away: the words' embeddings, the box head, the picture head"""
    width = config.vision.hidden_size
    return {name: (0.05 * random.standard_normal((rows, width))).astype(np.float32)
            for name, rows in (("words.weight", len(WORDS)), ("box.weight", 4), ("picture.weight", width))}


def data(size, batch, parts, step):
    """Step `step`, for patches of `size` pixels: up to `parts` times (pixels, targets, boxes, things)

    A third of the pictures have 1 or 2 things, a third 2 to 5, a third 5 to 9 small ones: crowds teach names faster,
    but the boxes of large things are learned from large things only.
    """
    kinds = ((1, 2),), ((2, 5),), ((5, 9), SIDE, (20, 34))
    scenes = [scene("train", step * batch + i, *kinds[i % 3]) for i in range(batch)]
    return [examples(scenes[i::parts], size) for i in range(min(parts, batch))]


def examples(scenes, size):
    """pixels, targets, boxes and things of N scenes of one size:

    pixels (N, 3, S, S);  targets (N, P), for every patch: the index in TEXTS of the thing that covers more than 35 % of
    it; else -100 if things cover more than 5 %; else that of the background;  boxes (N, P, 4) of those things, in
    tenths of the picture;  things (N, words), how often each word occurs in the names of the picture's things.
    """
    side, n = scenes[0].side, scenes[0].side // size
    pixels = np.stack([image.pixels(s.picture, side) for s in scenes])
    targets, boxes = np.empty((len(scenes), n * n), int), np.zeros((len(scenes), n * n, 4), np.float32)
    things = np.zeros((len(scenes), len(WORDS)), np.float32)
    for target, box, words, s in zip(targets, boxes, things, scenes):
        patches = s.owner[:n * size, :n * size].reshape(n, size, n, size).swapaxes(1, 2).reshape(n * n, -1)
        covered = np.stack([(patches == i).mean(1) for i in range(len(s.things))])      # (things, P)
        most = covered.argmax(0)
        numbers = np.array([TEXTS.index(thing.name) for thing in s.things])
        target[:] = np.where(covered.max(0) > 0.35, numbers[most],
                             np.where(covered.sum(0) > 0.05, -100, TEXTS.index(s.background)))
        box[:] = np.array([thing.box for thing in s.things], np.float32)[most] * (10 / side)
        words[:] = SPELLED[numbers].sum(0)
    return pixels, targets, boxes, things


def loss(leaves, config, part):
    """Cross-entropy of things' patches + 0.2 times that of the background's + 2 smooth L1 of boxes + 0.1 contrast

    -> loss, number of pictures, pull, {"patches": the share of things' patches that are named right}
    """
    pixels, targets, boxes, things = part
    x, pull_vit = vit(pixels, Params(leaves).model.vision, config.vision)               # (N, P, W)
    names = SPELLED @ leaves["words.weight"]                                            # (texts, W)
    rows = x.reshape(targets.size, -1)
    logits, targets = rows @ names.T, targets.reshape(-1)
    thing = (targets >= 0) & (targets < len(NAMES))
    named, pull_named = ops.cross_entropy(logits, np.where(thing, targets, -100))
    empty, pull_empty = ops.cross_entropy(logits, np.where(targets >= len(NAMES), targets, -100))
    places, pull_box = ops.linear(rows[thing], leaves["box.weight"])
    boxed, pull_boxed = ops.smooth_l1(places - boxes.reshape(-1, 4)[thing], SHARP)
    pictures, pull_picture = ops.linear(x.mean(1), leaves["picture.weight"])            # (N, W)
    texts = things @ leaves["words.weight"]
    alike, own = pictures @ texts.T, np.arange(len(x))
    (to_text, pull_to_text), (to_picture, pull_to_picture) = (ops.cross_entropy(a, own) for a in (alike, alike.T))

    def pull():
        g = Gradients([name for name in leaves if matches(name, TOWER) or not name.startswith("model.")])
        dlogits = pull_named(1.0) + pull_empty(BACKGROUND_WEIGHT)
        dalike = pull_to_text(PICTURE_WEIGHT / 2) + pull_to_picture(PICTURE_WEIGHT / 2).T
        dnames, dtexts = dlogits.T @ rows, dalike.T @ pictures
        g.words.add("weight", lambda: SPELLED.T @ dnames + things.T @ dtexts)
        dx = dlogits @ names
        dx[thing] += pull_box(pull_boxed(BOX_WEIGHT), g.box)
        dx = dx.reshape(x.shape) + pull_picture(dalike @ texts, g.picture)[:, None] / x.shape[1]
        pull_vit(dx, g.model.vision)
        return g.leaves
    total = named + BACKGROUND_WEIGHT * empty + BOX_WEIGHT * boxed + PICTURE_WEIGHT * (to_text + to_picture) / 2
    right = (logits.argmax(-1) == targets)[thing].mean()
    return total, len(x), pull, {"patches": float(right)}
