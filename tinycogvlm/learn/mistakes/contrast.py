"""Contrast of pictures and patches with words; boxes from patches."""
import numpy as np

from .table import mistake, right


def log_softmax(scores, axis):
    scores = scores - scores.max(axis, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis, keepdims=True))


def directions(pictures, texts):
    """-log p of every own pair: pictures that look for their texts, texts that look for their pictures"""
    scores = pictures @ texts.T
    return [-np.diagonal(log_softmax(scores, axis)) for axis in (1, 0)]


@mistake("contrastive_loss",
         says="Only the pictures look for their texts; each text must find its picture, too: the same with scores.T.")
def pictures_alone(pictures, texts):
    return directions(pictures, texts)[0].mean()


@mistake("contrastive_loss", says="Only the texts look for their pictures; each picture must find its text, too.")
def texts_alone(pictures, texts):
    return directions(pictures, texts)[1].mean()


@mistake("contrastive_loss", says="The two directions are added; the loss is their mean.")
def directions_added(pictures, texts):
    return sum(losses.mean() for losses in directions(pictures, texts))


@mistake("contrastive_loss", says="The losses of the pairs are added; the loss is their mean.")
def pairs_added(pictures, texts):
    return sum(losses.sum() for losses in directions(pictures, texts)) / 2


@mistake("contrastive_loss", says="The sign is missing: the loss is MINUS the logarithm of the probability.")
def sign_missing(pictures, texts):
    return -right("contrastive_loss", pictures=pictures, texts=texts)


@mistake("contrastive_loss",
         says="There is no softmax: own pairs are to score higher than others, not just high.")
def own_scores_alone(pictures, texts):
    return -(pictures * texts).sum(-1).mean()


@mistake("contrastive_loss",
         says="Softmax runs over the whole matrix; each picture has a row of its own, each text a column.")
def softmax_of_the_whole_matrix(pictures, texts):
    scores = pictures @ texts.T
    return -np.diagonal(log_softmax(scores.reshape(1, -1), 1).reshape(scores.shape)).mean()


@mistake("contrastive_loss",
         says="The rows are brought to length 1 first, as CLIP does; here the scores are the dot products as they are.")
def of_length_1(pictures, texts):
    return right("contrastive_loss", pictures=pictures / np.linalg.norm(pictures, axis=-1, keepdims=True),
                 texts=texts / np.linalg.norm(texts, axis=-1, keepdims=True))


@mistake("contrastive_loss", says="exp overflows for large scores: subtract the largest of each row first.")
def contrast_overflows(pictures, texts):
    with np.errstate(all="ignore"):
        e = np.exp(pictures @ texts.T)
        return -sum(np.log(np.diagonal(e / e.sum(axis, keepdims=True))).mean() for axis in (0, 1)) / 2


def squares(owner, size):
    """(P, pixels), row by row"""
    n = len(owner) // size
    cut = owner[:n * size, :n * size].reshape(n, size, n, size).swapaxes(1, 2)
    return cut.reshape(n * n, size * size)


def judged(pixels, thing, unclear):
    """Targets where each patch, (P, pixels), names its largest thing if the shares (P,) given say so."""
    counts = np.stack([(pixels == number).mean(1) for number in range(max(1, pixels.max() + 1))])
    largest, together = counts.max(0), counts.sum(0)
    return np.where(thing(largest, together), counts.argmax(0), np.where(unclear(together), -100, -1))


@mistake("patch_targets", says="The patches come column by column; they are counted along the rows, as one reads.")
def targets_by_columns(owner, size):
    return right("patch_targets", owner=owner.T, size=size)


@mistake("patch_targets",
         says="Every patch without a name is background here; one with a little of a thing, above 5 %, is -100.")
def unclear_is_background(owner, size):
    return judged(squares(owner, size), lambda largest, together: largest > 0.35, lambda together: together < 0)


@mistake("patch_targets",
         says="A thing names every patch that it touches here; it needs more than 35 % of the patch.")
def touched_is_named(owner, size):
    return judged(squares(owner, size), lambda largest, together: largest > 0, lambda together: together < 0)


@mistake("patch_targets", says="The pixel in the middle of a patch decides; the share of the patch does.")
def middle_pixel(owner, size):
    n = len(owner) // size
    middle = size // 2 + size * np.arange(n)
    return owner[np.ix_(middle, middle)].reshape(-1)


@mistake("patch_targets", says="All things together are compared with 35 %; it must be one thing.")
def things_together(owner, size):
    return judged(squares(owner, size), lambda largest, together: together > 0.35, lambda together: together > 0.05)


@mistake("patch_targets", says="The target is -100 from the first pixel on; up to 5 % of things still are background.")
def unclear_from_the_first_pixel(owner, size):
    return judged(squares(owner, size), lambda largest, together: largest > 0.35, lambda together: together > 0)


def named(x, words, spelled, targets, axis=1):
    """-log p of every clear patch's own text"""
    clear = np.flatnonzero(targets != -100)
    return -log_softmax((x @ (spelled @ words).T)[clear], axis)[np.arange(len(clear)), targets[clear]]


@mistake("patch_loss", says="The mean is over all patches; those with target -100 do not count.")
def mean_over_all_patches(x, words, spelled, targets):
    return named(x, words, spelled, targets).sum() / len(targets)


@mistake("patch_loss", says="The losses are added; the loss is their mean.")
def patches_added(x, words, spelled, targets):
    return named(x, words, spelled, targets).sum()


@mistake("patch_loss",
         says="Softmax runs over the patches; each patch chooses among the texts: one row of scores a patch.")
def softmax_over_patches(x, words, spelled, targets):
    return named(x, words, spelled, targets, axis=0).mean()


@mistake("patch_loss", says="A text is the mean of its words here; it is their sum: spelled @ words.")
def words_averaged(x, words, spelled, targets):
    return named(x, words, spelled / spelled.sum(1, keepdims=True), targets).mean()


@mistake("patch_loss",
         says="-100 is taken for an index or a background: patches with that target do not count at all.")
def unclear_counted(x, words, spelled, targets):
    return named(x, words, spelled, np.where(targets == -100, len(spelled) - 1, targets)).mean()


@mistake("patch_loss", says="exp overflows for large scores: subtract the largest of each row first.")
def patch_loss_overflows(x, words, spelled, targets):
    clear = np.flatnonzero(targets != -100)
    with np.errstate(all="ignore"):
        e = np.exp((x @ (spelled @ words).T)[clear])
        return -np.log((e / e.sum(1, keepdims=True))[np.arange(len(clear)), targets[clear]]).mean()


def pieces(e, beta):
    """Smooth L1 and its slope, of each number"""
    return np.where(abs(e) < beta, e ** 2 / (2 * beta), abs(e) - beta / 2), np.clip(e / beta, -1, 1)


@mistake("box_loss", says="Far away beta / 2 is taken off, so that both pieces meet where |e| = beta.")
def pieces_apart(places, boxes, beta):
    e = places - boxes
    losses, slopes = pieces(e, beta)
    return np.where(abs(e) < beta, losses, abs(e)).mean(), slopes / e.size


@mistake("box_loss", says="Near by the square is divided by 2 beta, not by 2; else the pieces do not meet.")
def square_not_over_beta(places, boxes, beta):
    e = places - boxes
    losses, slopes = pieces(e, beta)
    return np.where(abs(e) < beta, e ** 2 / 2, losses).mean(), np.where(abs(e) < beta, e, slopes) / e.size


@mistake("box_loss", says="This is the absolute value alone; near 0 a square takes its place.")
def absolute_value_alone(places, boxes, beta):
    e = places - boxes
    return abs(e).mean(), np.sign(e) / e.size


@mistake("box_loss", says="This is the square alone; where |e| >= beta, the loss is |e| - beta / 2, of slope 1 or -1.")
def square_alone(places, boxes, beta):
    e = places - boxes
    return (e ** 2 / (2 * beta)).mean(), e / beta / e.size


@mistake("box_loss", says="The losses are added; the loss is the mean over all the numbers of all boxes.")
def boxes_added(places, boxes, beta):
    losses, slopes = pieces(places - boxes, beta)
    return losses.sum(), slopes


@mistake("box_loss", says="The sum is divided by the number of boxes; each has four numbers, and the mean is over all.")
def mean_over_boxes(places, boxes, beta):
    losses, slopes = pieces(places - boxes, beta)
    return losses.sum() / len(losses), slopes / len(losses)


@mistake("box_loss",
         says="The loss is right. In a mean each number has a share of 1 / (4 N): the slopes are divided by 4 N, too.")
def slopes_not_divided(places, boxes, beta):
    losses, slopes = pieces(places - boxes, beta)
    return losses.mean(), slopes


@mistake("box_loss", says="The slope's sign is turned round: the error is places - boxes, and grows with places.")
def slopes_turned_round(places, boxes, beta):
    losses, slopes = pieces(places - boxes, beta)
    return losses.mean(), -slopes / slopes.size


@mistake("box_loss", says="Far away the slope is the sign of the error: -1 where it is negative.")
def slopes_without_sign(places, boxes, beta):
    e = places - boxes
    losses, _ = pieces(e, beta)
    return losses.mean(), np.where(abs(e) < beta, e / beta, 1) / e.size


@mistake("box_loss", says="The slope of e^2 / (2 beta) is e / beta: the 2 goes away.")
def two_left_over(places, boxes, beta):
    e = places - boxes
    losses, slopes = pieces(e, beta)
    return losses.mean(), np.where(abs(e) < beta, slopes / 2, slopes) / e.size
