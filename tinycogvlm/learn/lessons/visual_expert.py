"""Lesson 12: the two experts: which tokens are whose, a matrix for each, packed heads."""
import numpy as np

from ...contracts import CONTRACTS, Contract, over, random
from ...contracts.contract import EXACT
from ...contracts.ops import expert_of
from ...model import expert, route
from ...nn.tree import Params
from ..exercise import Exercise, as_it_is
from .one_sequence import types_cases

# -------------------------------------------------------------------------------------------------- vision_expert_mask


def vision_expert_mask(types):
    """True where the vision expert computes the token"""
    return np.array([[expert_of(types, b, t) == "vision" for t in range(types.shape[1])] for b in range(len(types))])


VISION_EXPERT_MASK = Exercise(
    Contract("vision_expert_mask", vision_expert_mask, types_cases, EXACT), route.vision_expert_mask.own,
    (route.vision_expert_mask,), part="vision_expert_mask", place=route.vision_expert_mask, fit=as_it_is)


@VISION_EXPERT_MASK.mistake(
    "This is what you get when eoi goes to the vision expert: a token is the vision expert's only if the NEXT one "
    "belongs to the same image, too.")
def eoi_to_vision(types):
    return types > 0


@VISION_EXPERT_MASK.mistake(
    "boi goes to the language expert and eoi to vision: compare with the NEXT token, not with the one before.")
def compared_with_the_token_before(types):
    mask = np.zeros(types.shape, bool)
    mask[:, 1:] = (types[:, 1:] > 0) & (types[:, 1:] == types[:, :-1])
    return mask


@VISION_EXPERT_MASK.mistake("boi goes to the language expert here; it is a vision token: of an image only eoi is not.")
def boi_to_language(types):
    mask = vision_expert_mask(types)
    mask[:, 1:] &= types[:, 1:] == types[:, :-1]
    mask[:, 0] = False
    return mask


@VISION_EXPERT_MASK.mistake(
    "Two adjacent images run together: the first one's eoi has an image token after it, but one of ANOTHER image.")
def images_run_together(types):
    return vision_expert_mask((types > 0).astype(int))


@VISION_EXPERT_MASK.mistake("True and False are exchanged: True is the vision expert.")
def experts_exchanged_in_mask(types):
    return ~vision_expert_mask(types)


@VISION_EXPERT_MASK.mistake("Text tokens of equal type are taken for an image: type 0 is text.")
def text_taken_for_an_image(types):
    mask = np.zeros(types.shape, bool)
    mask[:, :-1] = types[:, :-1] == types[:, 1:]
    return mask


@VISION_EXPERT_MASK.mistake(
    "np.roll compares the last token of a row with its first; the last token has no next one: it is False.")
def rolled_round(types):
    return (types > 0) & (types == np.roll(types, -1, 1))


# -------------------------------------------------------------------------------------------------------- routed_dense

def package_routed_dense(x, types, vision_weight, language_weight, vision_bias=None):
    leaves = {"vision_expert_dense.weight": vision_weight, "language_expert_dense.weight": language_weight}
    if vision_bias is not None:
        leaves["vision_expert_dense.bias"] = vision_bias
    return expert.routed.own(expert.dense, x, Params(leaves), "expert_dense", route.Route(types))[0]


def fit_routed_dense(mine, otherwise):
    def routed(layer, x, p, name, route):
        if layer is not expert.dense or p.get(f"vision_{name}") is None:
            return otherwise(layer, x, p, name, route)
        vision, language = p[f"vision_{name}"], p[f"language_{name}"]
        return mine(x, route.types, vision.weight, language.weight, vision.get("bias")), None
    return routed


ROUTED_DENSE = Exercise(CONTRACTS["routed_dense"], package_routed_dense, (expert.routed, expert.dense),
                        part="routed_dense", place=expert.routed, fit=fit_routed_dense, toy=dict(
                            x=np.array([[[1.0, 2]] * 3]), types=np.array([[1, 1, 0]]),
                            vision_weight=np.array([[0.0, 10], [10, 0]]), language_weight=np.eye(2)))


def dense(x, weight, bias=None):
    return x @ weight.T + (0 if bias is None else bias)


def routed(mask, vision, language):
    return np.where(mask[..., None], vision, language)


@ROUTED_DENSE.mistake(
    "This is what you get when eoi goes to the vision expert: an image's last token is the language expert's.")
def eoi_through_vision(x, types, vision_weight, language_weight, vision_bias=None):
    return routed(types > 0, dense(x, vision_weight, vision_bias), dense(x, language_weight))


@ROUTED_DENSE.mistake("The experts are exchanged.")
def experts_exchanged(x, types, vision_weight, language_weight, vision_bias=None):
    return routed(vision_expert_mask(types), dense(x, language_weight), dense(x, vision_weight, vision_bias))


@ROUTED_DENSE.mistake("The experts' matrices are exchanged; the bias is added to the right tokens.")
def matrices_exchanged(x, types, vision_weight, language_weight, vision_bias=None):
    return routed(vision_expert_mask(types), dense(x, language_weight, vision_bias), dense(x, vision_weight))


JOINED = ("The results are joined by expert, the one's tokens after the other's: put each result back at its token's "
          "place, y[mask] = ...")


@ROUTED_DENSE.mistake(JOINED)
def joined_by_expert(x, types, vision_weight, language_weight, vision_bias=None):
    mask = vision_expert_mask(types)
    parts = [dense(x[mask], vision_weight, vision_bias), dense(x[~mask], language_weight)]
    return np.concatenate(parts).reshape(*types.shape, -1)


@ROUTED_DENSE.mistake(JOINED)
def joined_by_expert_language_first(x, types, vision_weight, language_weight, vision_bias=None):
    mask = vision_expert_mask(types)
    parts = [dense(x[~mask], language_weight), dense(x[mask], vision_weight, vision_bias)]
    return np.concatenate(parts).reshape(*types.shape, -1)


@ROUTED_DENSE.mistake(JOINED)
def joined_by_expert_as_one_row(x, types, vision_weight, *more, **bias):
    return joined_by_expert(x, types, vision_weight, *more, **bias).reshape(-1, len(vision_weight))


@ROUTED_DENSE.mistake(JOINED)
def joined_by_expert_language_first_as_one_row(x, types, vision_weight, *more, **bias):
    return joined_by_expert_language_first(x, types, vision_weight, *more, **bias).reshape(-1, len(vision_weight))


@ROUTED_DENSE.mistake("The bias is missing: CogVLM2's vision expert has one.")
def vision_bias_missing(x, types, vision_weight, language_weight, vision_bias=None):
    return package_routed_dense(x, types, vision_weight, language_weight)


@ROUTED_DENSE.mistake("The bias is added to every token; it is the vision expert's alone.")
def bias_for_all(x, types, vision_weight, language_weight, vision_bias=None):
    bias = 0 if vision_bias is None else vision_bias
    return package_routed_dense(x, types, vision_weight, language_weight) + bias


@ROUTED_DENSE.mistake("Both experts' results are added up; each token has ONE expert.")
def both_experts(x, types, vision_weight, language_weight, vision_bias=None):
    return dense(x, vision_weight, vision_bias) + dense(x, language_weight)


@ROUTED_DENSE.mistake(
    "Every token goes through the language expert: this is the language model without its visual expert.")
def language_alone(x, types, vision_weight, language_weight, vision_bias=None):
    return dense(x, language_weight)


# --------------------------------------------------------------------------------------------------------- split_heads

def split_heads(qkv, H, G):
    """Of the H + 2G heads of each token the first H are queries, then G keys, then G values"""
    B, T, width = qkv.shape
    d = width // (H + 2 * G)
    q, k, v = np.zeros((B, H, T, d)), np.zeros((B, G, T, d)), np.zeros((B, G, T, d))
    for array, first in ((q, 0), (k, H), (v, H + G)):
        for b, h, t, i in over(*array.shape):
            array[b, h, t, i] = qkv[b, t, (first + h) * d + i]
    return q, k, v


def split_heads_cases():
    yield "as many keys as queries", dict(qkv=random(2, 3, 18), H=2, G=2)
    yield "one head", dict(qkv=random(1, 4, 9), H=1, G=1)
    yield "four heads share two keys", dict(qkv=random(2, 3, 24), H=4, G=2)
    yield "one token", dict(qkv=random(1, 1, 12), H=2, G=1)


SPLIT_HEADS = Exercise(Contract("split_heads", split_heads, split_heads_cases, EXACT), expert.split_heads.own,
                       (expert.split_heads,), part="split_heads", place=expert.split_heads, fit=as_it_is, toy=dict(
                           qkv=np.array([[[10.0, 11, 20, 21, 30, 31], [12, 13, 22, 23, 32, 33]]]), H=2, G=2))


def swapped(rows):
    """(B, T, n, d), n heads -> (B, n, T, d)"""
    return rows.swapaxes(1, 2)


@SPLIT_HEADS.mistake("Keys and values are exchanged: the order is queries, keys, values.")
def keys_and_values_exchanged(qkv, H, G):
    q, k, v = split_heads(qkv, H, G)
    return q, v, k


@SPLIT_HEADS.mistake(
    "Queries, keys and values are interleaved head by head here; they lie in three blocks: all queries, then all "
    "keys, then all values.")
def interleaved(qkv, H, G):
    if H != G:
        raise ValueError("only where every query head has its own key head")
    parts = qkv.reshape(*qkv.shape[:2], H, 3, -1)
    return tuple(swapped(parts[..., i, :]) for i in range(3))


RESHAPED = "The axes are reshaped where they should be swapped: (B, T, H, d) first, and then T and H change places."


@SPLIT_HEADS.mistake(RESHAPED)
def all_reshaped_at_once(qkv, H, G):
    heads = qkv.reshape(len(qkv), H + 2 * G, qkv.shape[1], -1)
    return heads[:, :H], heads[:, H:H + G], heads[:, H + G:]


@SPLIT_HEADS.mistake(RESHAPED)
def reshaped_without_swap(qkv, H, G):
    return tuple(swapped(array).reshape(array.shape) for array in split_heads(qkv, H, G))


HEADS_LAST = ("Heads and their entries change places: a head's d numbers lie next to each other, so reshape to (..., H, d), "
              "not (..., d, H).")


@SPLIT_HEADS.mistake(HEADS_LAST)
def all_heads_last(qkv, H, G):
    heads = qkv.reshape(*qkv.shape[:2], -1, H + 2 * G).transpose(0, 3, 1, 2)
    return heads[:, :H], heads[:, H:H + G], heads[:, H + G:]


@SPLIT_HEADS.mistake(HEADS_LAST)
def heads_last(qkv, H, G):
    def mixed(array):
        B, n, T, d = array.shape
        return swapped(swapped(array).reshape(B, T, d, n).swapaxes(2, 3))
    return tuple(map(mixed, split_heads(qkv, H, G)))
