"""Lesson 50: before all this: the prefix's mask, the nearest code of a dictionary, the draw of hard negatives."""
import numpy as np

from ...contracts import Contract, over, random
from ...contracts.contract import EXACT, TOLERANCE
from ...relatives import blip, masks, soho
from ..exercise import Exercise

# --------------------------------------------------------------------------------------------------------- prefix_mask


def prefix_mask(prefix, length):
    """Cell by cell"""
    found = np.zeros((len(prefix), length, length), bool)
    for b, t, s in over(*found.shape):
        found[b, t, s] = s <= t or s < prefix[b]
    return found


def prefix_mask_cases():
    yield "a prefix of 2", dict(prefix=np.array([2]), length=4)
    yield "no prefix", dict(prefix=np.array([0]), length=3)
    yield "all is prefix", dict(prefix=np.array([3]), length=3)
    yield "a batch", dict(prefix=np.array([1, 4, 2]), length=6)
    yield "one token", dict(prefix=np.array([1]), length=1)


PREFIX_MASK = Exercise(Contract("prefix_mask", prefix_mask, prefix_mask_cases, EXACT),
                       lambda prefix, length: masks.prefix_mask.own(prefix, length)[:, 0], (masks.prefix_mask,))


def cells(prefix, length, rule):
    """rule(query t, key s, prefix p), each an array that broadcasts to (B, T, T)"""
    places = np.arange(length)
    return rule(places[:, None], places, np.asarray(prefix)[:, None, None]) & np.ones((len(prefix), length, length), bool)


@PREFIX_MASK.mistake("This is the plain causal mask; tokens of the prefix should see each other, later ones too.")
def causal_alone(prefix, length):
    return cells(prefix, length, lambda t, s, p: s <= t)


@PREFIX_MASK.mistake("Everything is visible: what comes after the prefix should see only back.")
def all_visible(prefix, length):
    return cells(prefix, length, lambda t, s, p: s >= 0)


@PREFIX_MASK.mistake("The prefix is one token too long: it is the places below prefix[b].")
def one_too_long(prefix, length):
    return cells(prefix, length, lambda t, s, p: (s <= t) | (s <= p))


@PREFIX_MASK.mistake("The prefix sees all tokens here, the answer too; it should see the prefix alone.")
def prefix_sees_all(prefix, length):
    return cells(prefix, length, lambda t, s, p: (s <= t) | (t < p))


@PREFIX_MASK.mistake("Both rules hold together here; a key is visible if one of them holds: or, not and.")
def both_rules(prefix, length):
    return cells(prefix, length, lambda t, s, p: (s <= t) & (s < p))


@PREFIX_MASK.mistake("Only the prefix is visible: after it each token should see itself and those before it, too.")
def prefix_alone(prefix, length):
    return cells(prefix, length, lambda t, s, p: s < p)


@PREFIX_MASK.mistake("A token after the prefix does not see itself here; it sees its own place, too.")
def not_itself(prefix, length):
    return cells(prefix, length, lambda t, s, p: (s < t) | (s < p))


@PREFIX_MASK.mistake("The tokens after the prefix look ahead, s >= t; they should look back, s <= t.")
def looking_ahead(prefix, length):
    return cells(prefix, length, lambda t, s, p: (s >= t) | (s < p))


@PREFIX_MASK.mistake("Rows and columns are exchanged: rows ask, columns are looked at.")
def exchanged(prefix, length):
    return prefix_mask(prefix, length).swapaxes(1, 2)


@PREFIX_MASK.mistake("True and False are exchanged: True means visible.")
def hidden_for_visible(prefix, length):
    return ~prefix_mask(prefix, length)


@PREFIX_MASK.mistake("All rows have the prefix of the first; each has its own.")
def first_for_all(prefix, length):
    return prefix_mask(np.full_like(prefix, prefix[0]), length)


# ------------------------------------------------------------------------------------------------------- nearest_codes

def nearest_codes(x, codes):
    """Row by row, code by code"""
    found = []
    for row in x:
        distances = [((row - code) ** 2).sum() for code in codes]
        found.append(distances.index(min(distances)))
    return np.array(found)


def nearest_codes_cases():
    yield "codes on a line", dict(x=np.array([[0.2], [0.9], [2.6]]), codes=np.array([[0.0], [1.0], [3.0]]))
    yield "long and short codes", dict(x=np.array([[1.0, 1.0], [3.0, 2.5]]), codes=np.array([[1.0, 0.5], [9.0, 9.0]]))
    yield "many", dict(x=random(12, 4), codes=random(7, 4, seed=1))
    yield "one code", dict(x=random(3, 2), codes=random(1, 2, seed=1))
    yield "a longer code lies the same way", dict(x=np.array([[2.0, 0.0]]), codes=np.array([[6.0, 0.0], [1.5, 0.6]]))
    yield "far in one number", dict(x=np.zeros((1, 3)), codes=np.array([[1.2, 0, 0], [0.8, 0.8, 0.8]]))


NEAREST_CODES = Exercise(Contract("nearest_codes", nearest_codes, nearest_codes_cases, EXACT), soho.nearest,
                         (soho.nearest, soho.updated))


@NEAREST_CODES.mistake("This is the code with the largest dot product, which long codes win; take the distance.")
def dot_product(x, codes):
    return (x @ codes.T).argmax(1)


@NEAREST_CODES.mistake("This is the code of the nearest direction, by the cosine; lengths count as well.")
def by_cosine(x, codes):
    x, codes = (rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9) for rows in (x, codes))
    return (x @ codes.T).argmax(1)


@NEAREST_CODES.mistake("This is the farthest code: argmin, not argmax.")
def farthest(x, codes):
    return ((x[:, None] - codes) ** 2).sum(-1).argmax(1)


@NEAREST_CODES.mistake("These are the codes themselves; their numbers are wanted.")
def codes_instead(x, codes):
    return codes[nearest_codes(x, codes)]


@NEAREST_CODES.mistake("This is the nearest row for each code; the nearest code for each row is wanted.")
def rows_for_codes(x, codes):
    return nearest_codes(codes, x)


@NEAREST_CODES.mistake("The differences are summed without being squared, so that plus and minus cancel.")
def not_squared(x, codes):
    return (x[:, None] - codes).sum(-1).argmin(1)


@NEAREST_CODES.mistake("These are sums of absolute differences; the squared ones are meant.")
def absolute(x, codes):
    return np.abs(x[:, None] - codes).sum(-1).argmin(1)


@NEAREST_CODES.mistake("These are squared distances; the number of the nearest code is wanted.")
def distances_instead(x, codes):
    return ((x[:, None] - codes) ** 2).sum(-1).min(1)


# ---------------------------------------------------------------------------------------------------- negative_chances

def negative_chances(similarity):
    """Picture by picture, text by text"""
    y = np.zeros(similarity.shape)
    for b, row in enumerate(similarity):
        powers = np.exp(row - row.max())
        for text in range(len(row)):
            y[b, text] = 0 if text == b else powers[text] / powers.sum()
    return y


def negative_chances_cases():
    yield "two that are alike", dict(similarity=np.array([[9.0, 7, 1, 1], [6, 8, 1, 0], [0, 1, 9, 2], [1, 0, 3, 9]]))
    yield "two pairs", dict(similarity=np.array([[1.0, 0], [0, 1]]))
    yield "many", dict(similarity=4 * random(6, 6))
    yield "large numbers", dict(similarity=800 + 40 * random(4, 4))
    yield "all alike", dict(similarity=np.zeros((3, 3)))


NEGATIVE_CHANCES = Exercise(Contract("negative_chances", negative_chances, negative_chances_cases, TOLERANCE),
                            lambda similarity: blip.negatives(similarity, 0), (blip.negatives,))


def soft(similarity, axis=1):
    powers = np.exp(similarity - similarity.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def without_own(chances):
    return np.where(np.eye(len(chances), dtype=bool), 0, chances)


@NEGATIVE_CHANCES.mistake("The own text has its chance still: it is no negative, so the diagonal is 0.")
def own_kept(similarity):
    return soft(similarity)


@NEGATIVE_CHANCES.mistake("Softmax runs down the columns, over the pictures; it should run along each row, over the texts.")
def over_pictures(similarity):
    return without_own(soft(similarity, 0))


@NEGATIVE_CHANCES.mistake("exp overflows for large numbers: subtract the largest of each row first.")
def chances_overflow(similarity):
    with np.errstate(all="ignore"):
        powers = np.exp(similarity)
        return without_own(powers / powers.sum(1, keepdims=True))


@NEGATIVE_CHANCES.mistake("Softmax runs over the whole table; each picture's row has its own.")
def over_all(similarity):
    powers = np.exp(similarity - similarity.max())
    return without_own(powers / powers.sum())


@NEGATIVE_CHANCES.mistake("The own score becomes 0 before the softmax, and exp(0) is 1: set the chance to 0 after it.")
def score_of_zero(similarity):
    return soft(without_own(similarity))


@NEGATIVE_CHANCES.mistake("The rows are divided by their sums again; here the 0 is put in last, and who draws divides.")
def divided_again(similarity):
    chances = without_own(soft(similarity))
    return chances / chances.sum(1, keepdims=True)


@NEGATIVE_CHANCES.mistake("Far texts are the likelier here: the sign is turned; the nearer, the likelier.")
def easy_negatives(similarity):
    return without_own(soft(-similarity))


@NEGATIVE_CHANCES.mistake("All other texts are as likely; the nearer should be the likelier.")
def all_alike(similarity):
    n = len(similarity)
    return without_own(np.full((n, n), 1 / n))


@NEGATIVE_CHANCES.mistake("Only the nearest text is left; the others keep their chances.")
def nearest_alone(similarity):
    chances = without_own(soft(similarity))
    return np.where(chances == chances.max(1, keepdims=True), chances, 0)


@NEGATIVE_CHANCES.mistake("Each row is divided by other rows' sums: keep the axis, sum(1, keepdims=True).")
def sums_along_columns(similarity):
    powers = np.exp(similarity - similarity.max(1, keepdims=True))
    return without_own(powers / powers.sum(1))


@NEGATIVE_CHANCES.mistake("The sum is missing: these are powers of e, not shares.")
def not_divided(similarity):
    return without_own(np.exp(similarity - similarity.max(1, keepdims=True)))
