"""Contrastive pretraining of the vision tower with words: for patches, for pictures, and a box from every patch.

A text is the sum of its words' embeddings, so that "red star" is composed of "red" and "star". Every patch must match
the name of what covers it, among all names (as in OWL-ViT, Minderer et al. 2022, arXiv 2205.06230). Every picture, as
the mean of its patches, must match the things in it, among the pictures of the batch (CLIP, Radford et al. 2021, arXiv
2103.00020). And every patch of a thing predicts the box of that thing. The words and the heads are thrown away
afterwards; the tower remains.
"""
import numpy as np

from ...inputs import image
from ...inputs.grounding import iou
from ...model.parts import TOWER
from ...model.vit import vit
from ...nn import ops
from ...nn.tree import Gradients, Params, matches
from ...world.grounds import GROUNDS
from ...world.scenes import SIDE, scene
from ...world.sketches import ANY, COLOUR, FEW, NAMES, UNKNOWN, sketch
from ...world.writing import CHARACTERS, writing

THINGS = (*NAMES, UNKNOWN, *CHARACTERS)
TEXTS = THINGS + GROUNDS                                    # what a patch can show
NUMBER = {text: i for i, text in enumerate(TEXTS)}
WORDS = tuple(dict.fromkeys(word for text in TEXTS for word in text.split()))
SPELLED = np.array([[word in words for word in WORDS] for words in map(str.split, TEXTS)], np.float32)  # (texts, words)
BACKGROUND_WEIGHT, BOX_WEIGHT, PICTURE_WEIGHT = 0.2, 2, 0.1     # of these losses; the loss of things' patches has 1
SHARP = 0.1                                                 # box errors below this (in tenths) count quadratically


def heads(config, random):
    """{name: array} of what is thrown away: the words' embeddings, the box head, the picture head"""
    width = config.vision.hidden_size
    return {name: (0.05 * random.standard_normal((rows, width))).astype(np.float32)
            for name, rows in (("words.weight", len(WORDS)), ("box.weight", 4), ("picture.weight", width))}


# What sketches look like until which share of the run: from a few plain hands to all. Everything at once leaves the names
# on a plateau for tens of thousands of pictures
COURSE = ((0.12, FEW), (0.35, COLOUR), (1.0, ANY))


def data(vision, course, samples, batch, parts, step, first=0):
    """Step `step` of a run of `samples` pictures for the tower of a VisionConfig: up to `parts` times what examples gives

    course: see COURSE; first: number of the run's first picture.
    """
    numbers = range(step * batch, (step + 1) * batch)
    scenes = [picture(first + number, number / samples, course, vision.image_size) for number in numbers]
    return [examples(scenes[i::parts], vision.patch_size) for i in range(min(parts, batch))]


def picture(number, share, course=COURSE, side=SIDE):
    """Scene `number`, at this share of the run: a few large things or a crowd of small ones

    Crowds teach names faster, but the boxes of large things are learned from large things only; the first part of the
    course has fewer crowds. One picture in ten is a plain scene, and after the first part one in twelve is writing.
    """
    manner, first = at(share, course), share < course[0][0] < 1
    things, sizes = ((3, 8), (16, 40)) if number % (5 if first else 2) == 0 else ((1, 3), (26, 84))
    if number % 10 == 9:
        return scene("train", number, things, side, (20, 36) if things[1] > 3 else None)
    if number % 12 == 7 and not first:
        return writing("train", number, side=side)
    return sketch("train", number, things, side, manner, sizes)


def at(share, plan):
    """What a plan ((until, what), ...) says for this share of a run"""
    return next(what for until, what in plan if share < until or until == 1)


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
        numbers = np.array([NUMBER[thing.name] for thing in s.things])
        target[:] = np.where(covered.max(0) > 0.35, numbers[most],
                             np.where(covered.sum(0) > 0.05, -100, NUMBER[s.background]))
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
    thing, ground = (targets >= 0) & (targets < len(THINGS)), targets >= len(THINGS)
    named, pull_named = of_rows(ops.cross_entropy, logits[thing], targets[thing])
    empty, pull_empty = of_rows(ops.cross_entropy, logits[ground], targets[ground])
    places, pull_box = ops.linear(rows[thing], leaves["box.weight"])
    boxed, pull_boxed = of_rows(ops.smooth_l1, places - boxes.reshape(-1, 4)[thing], SHARP)
    pictures, pull_picture = ops.linear(x.mean(1), leaves["picture.weight"])            # (N, W)
    texts = things @ leaves["words.weight"]
    alike, own = pictures @ texts.T, np.arange(len(x))
    (to_text, pull_to_text), (to_picture, pull_to_picture) = (ops.cross_entropy(a, own) for a in (alike, alike.T))

    def pull():
        g = Gradients([name for name in leaves if matches(name, TOWER) or not name.startswith("model.")])
        dlogits = np.zeros_like(logits)
        dlogits[thing], dlogits[ground] = pull_named(1.0), pull_empty(BACKGROUND_WEIGHT)
        dalike = pull_to_text(PICTURE_WEIGHT / 2) + pull_to_picture(PICTURE_WEIGHT / 2).T
        dnames, dtexts = dlogits.T @ rows, dalike.T @ pictures
        g.words.add("weight", lambda: SPELLED.T @ dnames + things.T @ dtexts)
        dx = dlogits @ names
        dx[thing] += pull_box(pull_boxed(BOX_WEIGHT), g.box)
        dx = dx.reshape(x.shape) + pull_picture(dalike @ texts, g.picture)[:, None] / x.shape[1]
        pull_vit(dx, g.model.vision)
        return g.leaves
    total = named + BACKGROUND_WEIGHT * empty + BOX_WEIGHT * boxed + PICTURE_WEIGHT * (to_text + to_picture) / 2
    right = (logits.argmax(-1) == targets)[thing].sum() / max(1, thing.sum())
    return total, len(x), pull, {"patches": float(right)}


def of_rows(mean_loss, x, *arguments):
    """A mean loss of the rows of x and its pull; 0 of no rows: in a few pictures of thin lines no patch shows a thing."""
    return mean_loss(x, *arguments) if len(x) else (0.0, lambda dloss: x)


def read(leaves, config, scenes):
    """What the tower alone says of pictures of one thing each -> (names right, boxes right) as shares

    The name is that whose probability, summed over the patches, is greatest among the things'; the box is the mean of
    the patches' boxes, weighted by that probability, and is right at an IoU of 0.5.
    """
    pixels, _, _, _ = examples(scenes, config.vision.patch_size)
    x, _ = vit(pixels, Params(leaves).model.vision, config.vision, keep=None)
    chances = ops.softmax(x @ (SPELLED @ leaves["words.weight"]).T)[0][..., :len(THINGS)]       # (N, P, things)
    best = chances.sum(1).argmax(-1)
    weight = np.take_along_axis(chances, best[:, None, None], 2)                                # (N, P, 1)
    boxes = (x @ leaves["box.weight"].T * weight).sum(1) / weight.sum(1)                        # tenths
    named = [THINGS[i] == s.things[0].name for i, s in zip(best, scenes)]
    placed = [iou(box, np.array(s.things[0].box) * (10 / s.side)) >= 0.5 for box, s in zip(boxes, scenes)]
    return float(np.mean(named)), float(np.mean(placed))
