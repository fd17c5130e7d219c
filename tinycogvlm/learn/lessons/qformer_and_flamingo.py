"""Lesson 42: what Q-Former's queries and words may see, how near a text is, Flamingo's mask and its gates."""
import math
from types import SimpleNamespace

import numpy as np

from ...contracts import Contract, over, random
from ...contracts.contract import EXACT, TOLERANCE
from ...nn.tree import Params
from ...relatives import flamingo, masks, qformer
from ..exercise import Exercise

# ----------------------------------------------------------------------------------------------------------- task_mask


def task_mask(task, queries, words):
    """True where the token of a row sees that of a column; queries come first"""
    N = queries + words
    y = np.zeros((N, N), bool)
    for row, column in over(N, N):
        asks, seen = row < queries, column < queries        # whether it is a query
        if task == "matching":
            y[row, column] = True
        elif task == "contrast":
            y[row, column] = asks == seen
        else:
            y[row, column] = seen or (not asks and column <= row)
    return y


def task_mask_cases():
    for task in ("captioning", "contrast", "matching"):
        for queries, words in ((2, 3), (3, 1)):
            yield f"{task}, {queries} queries", dict(task=task, queries=queries, words=words)


def package_task_mask(task, queries, words):
    if task == "matching":
        return np.ones((queries + words, queries + words), bool)
    if task == "captioning":
        return masks.prefix_mask.own(np.array([queries]), queries + words)[0, 0]
    query = np.arange(queries + words) < queries            # contrast: two passes, of queries alone and of words alone
    return query[:, None] == query


TASK_MASK = Exercise(Contract("task_mask", task_mask, task_mask_cases, EXACT), package_task_mask,
                     (qformer.blocks, masks.prefix_mask))


def seen_by(task, queries, words):
    """The right mask, and whether rows and columns are queries"""
    query = np.arange(queries + words) < queries
    return task_mask(task, queries, words), query[:, None], query


@TASK_MASK.mistake("In contrast queries and words see each other here: each query could read the caption that it is to "
                   "find.")
def contrast_leaks(task, queries, words):
    y, _, _ = seen_by(task, queries, words)
    return np.ones_like(y) if task == "contrast" else y


@TASK_MASK.mistake("In captioning the queries see words here: the answer would reach the words through them.")
def queries_see_words(task, queries, words):
    y, asks, _ = seen_by(task, queries, words)
    return y | asks if task == "captioning" else y


@TASK_MASK.mistake("In captioning every word sees every word here; a word sees itself and those before it.")
def words_see_the_future(task, queries, words):
    y, asks, seen = seen_by(task, queries, words)
    return y | (~asks & ~seen) if task == "captioning" else y


@TASK_MASK.mistake("Captioning is causal among the queries too here; they see each other, whatever their order.")
def queries_are_causal(task, queries, words):
    y, _, _ = seen_by(task, queries, words)
    return np.tri(len(y), dtype=bool) if task == "captioning" else y


@TASK_MASK.mistake("In captioning the words do not see the queries, so that they cannot know the picture.")
def words_are_blind(task, queries, words):
    y, asks, seen = seen_by(task, queries, words)
    return y & ~(~asks & seen) if task == "captioning" else y


@TASK_MASK.mistake("True and False are exchanged: True is what may be seen.")
def mask_of_what_is_hidden(task, queries, words):
    return ~seen_by(task, queries, words)[0]


@TASK_MASK.mistake("Rows and columns are exchanged: the row is the token that looks.")
def mask_transposed(task, queries, words):
    return seen_by(task, queries, words)[0].T


# ------------------------------------------------------------------------------------------------------- nearest_query

def nearest_query(queries, texts, temperature):
    """The largest cosine of any query with the text, over the temperature"""
    B, Q, _ = queries.shape
    y = np.empty((B, len(texts)))
    for i, j in over(B, len(texts)):
        cosines = [q @ texts[j] / math.sqrt(q @ q) / math.sqrt(texts[j] @ texts[j]) for q in queries[i]]
        y[i, j] = max(cosines) / temperature
    return y


def nearest_query_cases():
    for label, B, Q in (("three pairs", 3, 4), ("one query", 2, 1), ("one pair", 1, 3)):
        yield label, dict(queries=random(B, Q, 5), texts=random(B, 5, seed=1), temperature=0.5)


def package_nearest_query(queries, texts, temperature):
    same = {name: np.eye(texts.shape[-1], dtype=texts.dtype) for name in ("vision_proj.weight", "text_proj.weight")}
    p = Params({**same, "temp": np.array(temperature, texts.dtype)})
    return qformer.contrast.own(queries, texts[:, None], p, SimpleNamespace(smoothing=0.0))[1]


NEAREST_QUERY = Exercise(Contract("nearest_query", nearest_query, nearest_query_cases, TOLERANCE),
                         package_nearest_query, (qformer.contrast,), toy=dict(
                             queries=np.array([[[1.0, 0], [0, 1]]]), texts=np.array([[0.0, 2]]), temperature=1.0))


def all_cosines(queries, texts, unit=(True, True)):
    """(B pictures, B texts, Q)"""
    queries, texts = (x / np.linalg.norm(x, axis=-1, keepdims=True) if norm else x
                      for x, norm in zip((queries, texts), unit))
    return np.einsum("iqe,je->ijq", queries, texts)


@NEAREST_QUERY.mistake("The mean over the queries is taken; it is the query nearest to the text that counts.")
def mean_of_queries(queries, texts, temperature):
    return all_cosines(queries, texts).mean(-1) / temperature


@NEAREST_QUERY.mistake("Rows are texts and columns pictures here; it is the other way round.")
def texts_and_pictures_exchanged(queries, texts, temperature):
    return all_cosines(queries, texts).max(-1).T / temperature


@NEAREST_QUERY.mistake("The rows are not of length 1: divide queries and texts by their lengths first.")
def similarities_not_cosines(queries, texts, temperature):
    return all_cosines(queries, texts, (False, False)).max(-1) / temperature


@NEAREST_QUERY.mistake("Only the texts are of length 1 here; the queries have to be, too.")
def queries_as_long_as_they_are(queries, texts, temperature):
    return all_cosines(queries, texts, (False, True)).max(-1) / temperature


@NEAREST_QUERY.mistake("The temperature multiplies; cosines are divided by it.")
def times_temperature(queries, texts, temperature):
    return all_cosines(queries, texts).max(-1) * temperature


@NEAREST_QUERY.mistake("Only the first query is used; any of them may be the nearest.")
def first_query_alone(queries, texts, temperature):
    return all_cosines(queries, texts)[..., 0] / temperature


# -------------------------------------------------------------------------------------------------------- last_picture

def last_picture(is_picture, pictures):
    """True where picture m is the last one at or before token t"""
    y, met = np.zeros((len(is_picture), pictures), bool), 0
    for t, here in enumerate(is_picture):
        met += bool(here)
        if met:
            y[t, met - 1] = True
    return y


def last_picture_cases():
    for label, places in (("two pictures", [0, 1, 0, 0, 1, 0]), ("a picture first", [1, 0, 0, 1]),
                          ("none", [0, 0, 0]), ("side by side", [1, 1, 1, 0])):
        yield label, dict(is_picture=np.array(places, bool), pictures=sum(places))


def package_last_picture(is_picture, pictures):
    return masks.media_mask.own(flamingo.text_times(is_picture[None]), pictures, 1)[0, 0]


LAST_PICTURE = Exercise(Contract("last_picture", last_picture, last_picture_cases, EXACT), package_last_picture,
                        (masks.media_mask, flamingo.text_times))


def met_and_number(is_picture, pictures):
    return is_picture.cumsum()[:, None], np.arange(1, pictures + 1)


@LAST_PICTURE.mistake("Every picture before the token is seen (<=); only the last one may be (==).")
def all_pictures_before(is_picture, pictures):
    met, number = met_and_number(is_picture, pictures)
    return number <= met


@LAST_PICTURE.mistake("The token of a picture does not see this picture yet; it does, from there on.")
def one_token_too_late(is_picture, pictures):
    met, number = met_and_number(is_picture, pictures)
    return number == met - is_picture[:, None]


@LAST_PICTURE.mistake("The next picture is seen, not the last one: count from 1, since 0 is before the first picture.")
def counted_from_0(is_picture, pictures):
    met, number = met_and_number(is_picture, pictures)
    return number - 1 == met


@LAST_PICTURE.mistake("Tokens before the first picture see one; they see none.")
def first_seen_early(is_picture, pictures):
    met, number = met_and_number(is_picture, pictures)
    return number == np.maximum(met, 1)


@LAST_PICTURE.mistake("Only the token of the picture itself sees it; all tokens up to the next picture do.")
def at_the_picture_alone(is_picture, pictures):
    met, number = met_and_number(is_picture, pictures)
    return (number == met) & is_picture[:, None]


# --------------------------------------------------------------------------------------------------------------- gated

def gated(x, y, alpha, dz):
    """z = x + tanh(alpha) y, the gradient of y, and that of alpha"""
    gate = math.tanh(alpha)
    dalpha = sum(dz[i] * y[i] for i in over(*y.shape)) * (1 - gate * gate)
    return x + gate * y, gate * dz, np.float64(dalpha)


def gated_cases():
    for label, alpha, shape in (("open", 0.7, (2, 3, 4)), ("closed, as at the start", 0.0, (1, 2, 3)),
                                ("a negative gate", -1.5, (2, 1, 3))):
        yield label, dict(x=random(*shape), y=random(*shape, seed=1), alpha=alpha, dz=random(*shape, seed=2))


def package_gated(x, y, alpha, dz):
    z, pull = flamingo.gated.own(x, y, np.array([alpha], x.dtype))
    dy, dalpha = pull(dz)
    return z, dy, dalpha[0]


GATED = Exercise(Contract("gated", gated, gated_cases, TOLERANCE), package_gated, (flamingo.gated,))


@GATED.mistake("The gate is alpha itself; it is tanh(alpha), which stays between -1 and 1.")
def gate_without_tanh(x, y, alpha, dz):
    return x + alpha * y, alpha * dz, (dz * y).sum()


@GATED.mistake("The gate is a sigmoid, which is 1/2 at 0; tanh(0) is 0, and the language model starts as it was.")
def gate_of_a_sigmoid(x, y, alpha, dz):
    gate = 1 / (1 + math.exp(-alpha))
    return x + gate * y, gate * dz, (dz * y).sum() * gate * (1 - gate)


@GATED.mistake("The residual is missing: x itself is part of the result.")
def gate_without_residual(x, y, alpha, dz):
    _, dy, dalpha = gated(x, y, alpha, dz)
    return math.tanh(alpha) * y, dy, dalpha


@GATED.mistake("The derivative of tanh is missing in the gradient of alpha: 1 - tanh(alpha)^2.")
def gate_of_constant_slope(x, y, alpha, dz):
    z, dy, _ = gated(x, y, alpha, dz)
    return z, dy, (dz * y).sum()


@GATED.mistake("The gradient of y lacks the gate: what is multiplied by tanh(alpha) gets tanh(alpha) dz.")
def gradient_past_the_gate(x, y, alpha, dz):
    z, _, dalpha = gated(x, y, alpha, dz)
    return z, dz, dalpha


@GATED.mistake("The gradient of alpha is a mean; every entry of y went through the same gate, so it is a sum.")
def gradient_of_alpha_is_a_mean(x, y, alpha, dz):
    z, dy, _ = gated(x, y, alpha, dz)
    return z, dy, (dz * y).mean() * (1 - math.tanh(alpha) ** 2)


@GATED.mistake("The gradient of alpha uses x; alpha multiplies y.")
def gradient_of_alpha_by_x(x, y, alpha, dz):
    z, dy, _ = gated(x, y, alpha, dz)
    return z, dy, (dz * x).sum() * (1 - math.tanh(alpha) ** 2)
