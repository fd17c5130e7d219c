"""Routing between the two experts, positions, packed heads."""
import numpy as np

from ...model import route
from .table import mistake, right


@mistake("vision_expert_mask",
         says="This is what you get when eoi goes to the vision expert: a token is its only if the NEXT one "
              "belongs to the same image, too.")
def eoi_to_vision(types):
    return types > 0


@mistake("vision_expert_mask",
         says="boi goes to the language expert and eoi to vision: compare with the NEXT token, not with the one "
              "before.")
def compared_with_the_token_before(types):
    mask = np.zeros(types.shape, bool)
    mask[:, 1:] = (types[:, 1:] > 0) & (types[:, 1:] == types[:, :-1])
    return mask


@mistake("vision_expert_mask", says="boi goes to the language expert here; it is a vision token: only eoi is not.")
def boi_to_language(types):
    mask = route.vision_expert_mask(types)
    mask[:, 1:] &= types[:, 1:] == types[:, :-1]
    mask[:, 0] = False
    return mask


@mistake("vision_expert_mask",
         says="Two adjacent images run together: the first one's eoi has an image token behind it, but of "
              "ANOTHER image.")
def images_run_together(types):
    return route.vision_expert_mask((types > 0).astype(int))


@mistake("vision_expert_mask", says="True and False are exchanged: True is the vision expert.")
def experts_exchanged_in_mask(types):
    return ~route.vision_expert_mask(types)


@mistake("vision_expert_mask", says="Text tokens of equal type are taken for an image: type 0 is text.")
def text_taken_for_an_image(types):
    mask = np.zeros(types.shape, bool)
    mask[:, :-1] = types[:, :-1] == types[:, 1:]
    return mask


@mistake("position_ids", says="Every patch has its own position; in CogVLM all patches of an image share one.")
def own_positions(types):
    return np.broadcast_to(np.arange(types.shape[1]), types.shape)


@mistake("position_ids", says="boi and eoi share the patches' position; they count like text.")
def boi_and_eoi_share(types):
    step = np.ones(types.shape, int)
    step[:, 0] = 0
    step[:, 1:] -= (types[:, 1:] > 0) & (types[:, 1:] == types[:, :-1])
    return step.cumsum(1)


@mistake("position_ids", says="Positions begin at 1; the first token's is 0.")
def positions_from_one(types):
    return route.position_ids(types) + 1


@mistake("position_ids", says="Positions go on behind an image as if each patch had taken one: they go on by 1.")
def counted_on_behind_the_image(types):
    positions = np.broadcast_to(np.arange(types.shape[1]), types.shape).copy()
    shared = route.position_ids(types)
    positions[:, 1:][shared[:, 1:] == shared[:, :-1]] = 0
    for row in positions:
        for t in range(1, len(row)):
            row[t] = row[t] or row[t - 1]
    return positions


@mistake("routed_dense",
         says="This is what you get when eoi goes to the vision expert: an image's last token is the language "
              "expert's.")
def eoi_through_vision(x, types, vision_weight, language_weight, vision_bias=None):
    vision = x @ vision_weight.T + (0 if vision_bias is None else vision_bias)
    return np.where(types[..., None] > 0, vision, x @ language_weight.T)


@mistake("routed_dense", says="The experts are exchanged.")
def experts_exchanged(x, types, vision_weight, language_weight, vision_bias=None):
    y = x @ vision_weight.T + (0 if vision_bias is None else vision_bias)
    return np.where(route.vision_expert_mask(types)[..., None], x @ language_weight.T, y)


@mistake("routed_dense", says="The bias is missing: CogVLM2's vision expert has one.")
def vision_bias_missing(x, types, vision_weight, language_weight, vision_bias=None):
    return right("routed_dense", x=x, types=types, vision_weight=vision_weight, language_weight=language_weight)


@mistake("routed_dense", says="The bias is added to every token; it is the vision expert's alone.")
def bias_for_all(x, types, vision_weight, language_weight, vision_bias=None):
    bias = 0 if vision_bias is None else vision_bias
    return right("routed_dense", x=x, types=types, vision_weight=vision_weight, language_weight=language_weight) + bias


@mistake("routed_dense", says="Both experts' results are added up; each token has ONE expert.")
def both_experts(x, types, vision_weight, language_weight, vision_bias=None):
    return x @ vision_weight.T + (0 if vision_bias is None else vision_bias) + x @ language_weight.T


@mistake("routed_dense",
         says="Every token goes through the language expert: this is the language model without its visual "
              "expert.")
def language_alone(x, types, vision_weight, language_weight, vision_bias=None):
    return x @ language_weight.T


def cut(rows):
    """(B, T, n, d), n heads -> (B, n, T, d)"""
    return rows.swapaxes(1, 2)


@mistake("split_heads", says="Keys and values are exchanged: the order is queries, keys, values.")
def keys_and_values_exchanged(qkv, H, G):
    q, k, v = right("split_heads", qkv=qkv, H=H, G=G)
    return q, v, k


@mistake("split_heads",
         says="Queries, keys and values are interleaved head by head here; they lie as three blocks: all "
              "queries, then all keys, then all values.")
def interleaved(qkv, H, G):
    if H != G:
        raise ValueError("only where every query head has its own key head")
    parts = qkv.reshape(*qkv.shape[:2], H, 3, -1)
    return tuple(cut(parts[..., i, :]) for i in range(3))


without_swap = mistake("split_heads",
                       says="The axes are reshaped where they are to be swapped: (B, T, H, d) first, and then T and H "
                            "change places.")


@without_swap
def all_reshaped_at_once(qkv, H, G):
    heads = qkv.reshape(len(qkv), H + 2 * G, qkv.shape[1], -1)
    return heads[:, :H], heads[:, H:H + G], heads[:, H + G:]


@without_swap
def reshaped_without_swap(qkv, H, G):
    q, k, v = right("split_heads", qkv=qkv, H=H, G=G)
    return tuple(cut(array).reshape(array.shape) for array in (q, k, v))


@mistake("split_heads",
         says="Heads and their entries change places: a head's d numbers lie next to each other, so reshape to "
              "(..., H, d), not (..., d, H).")
def heads_last(qkv, H, G):
    q, k, v = right("split_heads", qkv=qkv, H=H, G=G)

    def mixed(array):
        B, n, T, d = array.shape
        return cut(cut(array).reshape(B, T, d, n).swapaxes(2, 3))
    return mixed(q), mixed(k), mixed(v)
