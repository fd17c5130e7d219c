"""Experiments: guess, break or change a part of the model, ask it, and see what the part is for.

    EXPERIMENTS["attention"][0].run(model, picture)

Three for each lesson, under the name of its folder without the number. Many make a mistake that the checker knows: the
consequence of a bug is its best teacher.
"""
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial, wraps

import numpy as np

from ..inputs import image
from ..model import expert
from ..model.route import Route, vision_expert_mask
from ..model.without import BLOCK, without
from ..nn import ops
from ..nn.swap import current, swapped
from ..storage.quantise import quantise
from ..train.ablation import variants
from . import parts
from .lessons import (adapter, attention, decoding, expert_matmul, language_model, one_sequence, patches, tiles, tokens,
                      vision_block, visual_expert)

QUESTIONS = ("What is in the picture?", "Where is the dog?", "How many things are there?")
MATRICES = "_mlp.", "_expert_"                              # in the names of the language model's matrices
LONGEST = 40                                                # tokens of an answer


@dataclass(frozen=True)
class Experiment:
    """title: what is changed. why: what one learns from it. change(model): a context manager; it may change the model."""
    title: str
    why: str
    change: Callable

    def run(self, model, picture):
        """[(question, answer, answer of the changed model)]"""
        before = answers(model, picture)
        with self.change(model), np.errstate(all="ignore"):
            return list(zip(QUESTIONS, before, answers(model, picture)))


def answers(model, picture, questions=QUESTIONS):
    return [model.ask(picture, question, max_new_tokens=LONGEST).text for question in questions]


# ------------------------------------------------------------------------------------------------------ what is changed

def part(name, function):
    """An exercise's function is this one."""
    @wraps(function)
    def as_wide(*arguments, **named):
        y = function(*arguments, **named)
        wide = next(value.dtype for value in [*arguments, *named.values()]
                    if isinstance(value, np.ndarray) and value.dtype.kind == "f") if has_floats(arguments, named) else None
        return y if wide is None else tuple(map(cast(wide), y)) if isinstance(y, tuple) else cast(wide)(y)
    return lambda model: swapped(parts.fitted({name: as_wide}))


def has_floats(arguments, named):
    return any(isinstance(value, np.ndarray) and value.dtype.kind == "f" for value in [*arguments, *named.values()])


def cast(dtype):
    return lambda array: array.astype(dtype) if array.dtype.kind == "f" else array


def off(*names):
    """These parts are switched off."""
    return lambda model: without(*names)


def op(place, function):
    """An op is this function of its package's own and the arguments."""
    return lambda model: swapped({place: partial(function, current(place))})


def weights(words, alter):
    """Parameters with one of the words in their names are altered, by alter(array, random)."""
    def change(model):
        random = np.random.default_rng(0)
        model.leaves = {name: alter(array, random).astype(array.dtype) if any(word in name for word in words) else array
                        for name, array in model.leaves.items()}
        return nullcontext()
    return change


def step(target, rate, times=1):
    """Gradient descent on one answer to the first question, or ascent with a negative rate."""
    def change(model):
        text = model.inputs(QUESTIONS[0], parts.park())
        answer = model.tokenizer.encode(f" {target}", special=False) + [model.config.eos_token_id]
        ids = np.concatenate([text.ids, [answer]], 1)
        types = np.concatenate([text.types, np.zeros((1, len(answer)), text.types.dtype)], 1)
        inputs = type(text)(ids, types, np.ones_like(ids), text.media)
        labels = np.full_like(ids, -100)
        labels[:, text.ids.shape[1]:] = answer
        for _ in range(times):
            _, pull = model.loss(inputs, labels)
            gradient = pull()
            size = np.sqrt(sum(float((array.astype(float) ** 2).sum()) for array in gradient.values()))
            model.leaves = {name: array - array.dtype.type(rate / size) * gradient[name] if name in gradient else array
                            for name, array in model.leaves.items()}
        return nullcontext()
    return change


def noise(share):
    """Each number is moved by a random part of the size of its array."""
    return lambda array, random: array + share * array.std() * random.standard_normal(array.shape)


def codes(bits):
    """linear with its matrices in a few bits, made anew each time"""
    def linear(own, x, weight, bias=None):
        matrix = weight.reshape(len(weight), -1)
        if matrix.shape[1] % 64:
            return own(x, weight, bias)
        rounded = quantise(np.float32(matrix), bits).dequantised(x.dtype)
        return own(x, rounded.reshape(weight.shape), bias)
    return linear


def halved(own, x, weight, bias=None):
    """linear in float16"""
    y, pull = own(x.astype(np.float16), weight.astype(np.float16), None if bias is None else bias.astype(np.float16))
    return y.astype(x.dtype), pull


def picture_of(alter):
    """The pixels (3, N, N) that the tower gets are altered."""
    return op(image.pixels, lambda own, picture, size: np.ascontiguousarray(alter(own(picture, size))))


def greedy_by_rank(rank):
    """The token that comes second, third ... is taken."""
    def choose(logits, temperature, top_k, top_p):
        result = np.zeros_like(logits)
        result[np.argsort(-logits)[rank]] = 1
        return result
    return choose


def in_tower(change):
    """attention with the values changed where there is no causal mask: in the vision tower"""
    def attention(own, q, k, v, mask=None, causal=True, **more):
        if causal:
            return own(q, k, v, mask, causal, **more)
        return change(own, q, k, v, mask)
    return op(ops.attention, attention)


def itself_alone(own, q, k, v, mask=None, causal=True, **more):
    """attention in which one query after a cache sees the last key only"""
    if causal and q.shape[2] == 1:
        k, v = k[:, :, -1:], v[:, :, -1:]
    return own(q, k, v, mask, causal, **more)


def rotary_scaled(by):
    """Rotary at angles `by` times as large: cos and sin of other positions"""
    def rotary(own, x, cos, sin):
        angle = by * np.arctan2(sin, cos)
        return own(x, np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype))
    return op(ops.rotary, rotary)


def rows_in_blocks(count):
    """RMSNorm of the first `count` rows; the others are never written, as if there were one block."""
    def rms_norm(x, weight, eps):
        y = language_model.RMS_NORM.package(x=x, weight=weight, eps=eps).reshape(-1, x.shape[-1])
        y[count:] = 0
        return y.reshape(x.shape)
    return rms_norm


def mean_of_the_patches(x, *more):
    return adapter.GLU.package(np.broadcast_to(x.mean(1, keepdims=True), x.shape), *more)


def patches_rolled(x, *more):
    return adapter.GLU.package(np.roll(x, x.shape[1] // 2, 1), *more)


def first_half(function):
    """encode with the first half of the table"""
    return lambda ids, merges: function(ids, merges[:len(merges) // 2])


def off_by_a_step(weight):
    return weight + np.abs(weight).reshape(len(weight), -1).max(1).reshape(-1, *[1] * (weight.ndim - 1)) / 7


def low_rank(array, random, size):
    if array.ndim != 2:
        return 0 * array
    update = random.standard_normal((len(array), 8)) @ random.standard_normal((8, array.shape[1]))
    return size * array.std() / update.std() * update


def early(layers):
    """expert.routed with the language expert alone in so many layers"""
    own = current(expert.routed)

    def routed(layer, x, p, name, route):
        if int(BLOCK.match(p.path)[1]) < layers:
            route = Route(np.zeros_like(route.types))
        return own(layer, x, p, name, route)
    return routed


def images_seeing_themselves(model):
    """Attention of the prompt in which all tokens of an image see each other"""
    noted, attention, mask = [], current(ops.attention), current(vision_expert_mask)

    def note(types):
        noted[:] = [types]
        return mask(types)

    def attend(q, k, v, mask=None, causal=True, **more):
        if causal and mask is None and q.shape[2] == k.shape[2] == noted[0].shape[1]:
            return variants.image_attention(q, k, v, images=noted[0])
        return attention(q, k, v, mask, causal, **more)
    return swapped({ops.attention: attend, vision_expert_mask: note})


EXPERIMENTS = {
    "attention": (
        Experiment("In the vision tower, the scale 1/sqrt(d) is left out.",
                   "Without the scale the scores are sqrt(d) times as large and softmax nearly picks one patch. The "
                   "weights were trained with the scale; an easy answer may survive without it.",
                   part("attention", lambda q, k, v: attention.attend(q, k, v, attention.scale_missing(q, k)))),
        Experiment("In the vision tower, softmax runs over the queries instead of the keys.",
                   "A query's weights no longer sum to 1, so the size of every row changes from patch to patch. No "
                   "error is raised: shapes cannot tell the two axes apart.",
                   part("attention", attention.softmax_over_queries)),
        Experiment("In the vision tower, each patch attends to itself alone.",
                   "What is left is one MLP per patch: a patch sees its own pixels and no context. What survives shows "
                   "how much can be told from 14 x 14 pixels.",
                   in_tower(lambda own, q, k, v, mask: (v, None)))),
    "pixels": (
        Experiment("The red and the blue channel are exchanged, as OpenCV has them.",
                   "Shapes and places are the same, colours are not: see which answers speak of colours.",
                   picture_of(lambda x: x[::-1])),
        Experiment("The picture is grey: each pixel has the mean of its three colours.",
                   "What the model can still name, it knows by shape.",
                   picture_of(lambda x: np.broadcast_to(x.mean(0), x.shape))),
        Experiment("The picture is mirrored, left to right.",
                   "A mirrored dog is a dog, so names and counts should stay; a box should move to the other side.",
                   picture_of(lambda x: x[:, :, ::-1]))),
    "patches": (
        Experiment("The patches get no positions.",
                   "The tower then sees a bag of patches. It was trained with a position in each of them, so more is lost "
                   "than the places.",
                   part("patch_embedding", patches.positions_missing)),
        Experiment("Every position is off by one.",
                   "Neighbouring positions are alike, so the damage is smaller than that of having none.",
                   part("patch_embedding", patches.positions_off_by_one)),
        Experiment("The rows of pixels in each patch come in reverse order.",
                   "Each patch is upside down at its old place. A filter of the embedding fits one arrangement of "
                   "pixels. How much do the blocks after it make up for?",
                   picture_of(lambda x: x.reshape(3, x.shape[1] // 14, 14, -1)[:, :, ::-1].reshape(x.shape)
                              if x.shape[1] % 14 == 0 else x))),
    "vision_block": (
        Experiment("The blocks of the tower are pre-norm, as in OpenAI's CLIP.",
                   "The same weights in another order of operations: no error, and another model.",
                   part("post_norm_block", vision_block.pre_norm)),
        Experiment("GELU is its approximation by tanh.",
                   "It is off by less than a thousandth. Answers are not numbers: compare numbers to find such a bug.",
                   part("gelu", vision_block.tanh_gelu)),
        Experiment("The residual connections of the tower are left out.",
                   "What a block does not compute is gone: the input no longer reaches the end.",
                   part("post_norm_block", vision_block.residuals_missing))),
    "learning_to_see": (
        Experiment("All patches get the mean of the picture's features, as in a tower that sees only the whole.",
                   "The mean may hold what there is, but not where; and the language model has never read patches that are "
                   "all alike.",
                   part("glu", mean_of_the_patches)),
        Experiment("The features are moved by half a picture: each patch gets another one's.",
                   "What there is stays the same. Does the box follow the moved features, or the places that they carry from "
                   "the tower?",
                   part("glu", patches_rolled)),
        Experiment("A little noise, a tenth of their size, is added to all weights of the tower.",
                   "Training leaves room: no single number carries the answer.",
                   weights(["vision.transformer"], noise(0.1)))),
    "adapter": (
        Experiment("The adapter's gate and up are exchanged.",
                   "silu(a) b is not silu(b) a, though the shapes are the same.",
                   part("glu", adapter.adapter_gate_and_up_exchanged)),
        Experiment("The adapter's LayerNorm has the tower's epsilon.",
                   "1e-6 for 1e-5 matters only where a row's variance is about as small.",
                   part("glu", adapter.epsilon_of_the_tower)),
        Experiment("boi and eoi are zeros.",
                   "The two tell the language model where a picture begins and ends. How much does it rely on them?",
                   weights([".boi", ".eoi"], lambda array, random: 0 * array))),
    "tokens": (
        Experiment("The question is cut into tokens greedily, from left to right.",
                   "For common words both ways often agree. Where they do not, the model reads what it was never shown.",
                   part("encode", tokens.greedy_from_the_left)),
        Experiment("The question is not merged at all: every byte is a token.",
                   "The letters are the same, and to the model it is another language: it learned with whole words.",
                   part("encode", lambda ids, merges: ids)),
        Experiment("Only the first half of the table of merges is used.",
                   "Words fall into pieces, frequent ones last. How far can the model still read?",
                   part("encode", first_half(tokens.ENCODE.package)))),
    "language_model": (
        Experiment("RMSNorm subtracts the mean, as LayerNorm does.",
                   "Rows of a trained model have a mean near 0, so there may be less damage than you expect.",
                   part("rms_norm", language_model.mean_subtracted)),
        Experiment("Rotary turns by twice the angle.",
                   "All distances double. Does the model mind, if the order of the words stays?", rotary_scaled(2)),
        Experiment("SwiGLU has a sigmoid in the place of silu.",
                   "A gate between 0 and 1 instead of one that grows with its input: another function in every block.",
                   part("swiglu", language_model.glu))),
    "decoding": (
        Experiment("Each new token sees itself alone, as if the cache forgot all others.",
                   "The first token is right, since the prompt is read at once. After that the model sees its last word and "
                   "neither the question nor the picture.", op(ops.attention, itself_alone)),
        Experiment("Always the second-best token is taken.",
                   "At most steps a trained model is nearly sure, and the second best is a different word. Once it has "
                   "been said, the rest follows from it.",
                   part("next_probabilities", greedy_by_rank(1))),
        Experiment("Keys are cached in the place of values.",
                   "The prompt is read correctly; only later tokens see the wrong cache. So the first token is right.",
                   part("append_to_cache", decoding.keys_for_values))),
    "one_sequence": (
        Experiment("Each patch has a position of its own, as in LLaVA.",
                   "The patches' vectors know their place in the picture already; the question is now further from it.",
                   part("position_ids", one_sequence.own_positions)),
        Experiment("The rows of the picture's tokens come in reverse order.",
                   "The patches share one position. Their place in the picture is in their vectors; of their order only the "
                   "causal mask knows.",
                   part("merge", lambda ids, types, table, images: one_sequence.merge(
                       ids, types, table, images[:, [0, *range(images.shape[1] - 2, 0, -1), -1]]))),
        Experiment("The pad's embedding stays where the picture belongs.",
                   "Now the model is blind, and reads, in the picture's place, a vector that was never there in training.",
                   part("merge", one_sequence.pad_left_standing))),
    "visual_expert": (
        Experiment("The two experts are exchanged.",
                   "Each is good at its own vectors only.", part("routed_dense", visual_expert.matrices_exchanged)),
        Experiment("The language expert computes the picture's tokens, too.",
                   "This is what CogVLM adds to a plain language model, taken away.", off("expert:vision")),
        Experiment("eoi, too, goes through the vision expert.",
                   "One token of hundreds: the rule at the border is in the weights, and yet its effect may be small.",
                   part("vision_expert_mask", visual_expert.eoi_to_vision))),
    "the_real_thing": (
        Experiment("All products are computed in float16.",
                   "Eleven bits of each number are kept. Most answers need fewer.", op(ops.linear, halved)),
        Experiment("The first half of the layers is switched off.",
                   "A model of half the depth is not half as good: later layers expect what earlier ones prepare.",
                   lambda model: without(*(f"layer:{i}" for i in range(model.config.num_hidden_layers // 2)))),
        Experiment("Layer 1 is switched off.",
                   "The residual stream carries on without it; how much one layer matters depends on which.",
                   off("layer:1"))),
    "gradients": (
        Experiment("One step of gradient descent on the answer A cat. to the first question.",
                   "The gradient moves all numbers a little towards that answer. See how far the other answers go along.",
                   step("A cat.", 0.3)),
        Experiment("Ten such steps.",
                   "One sentence, learned by heart, with nothing to keep the rest in place.", step("A cat.", 0.3, 10)),
        Experiment("One step uphill: away from the answer.",
                   "With the wrong sign the gradient unlearns just as fast.", step("A cat.", -0.3))),
    "training": (
        Experiment("All matrices of the language model are a tenth smaller, as after too much weight decay.",
                   "A norm in every block undoes part of it; the logits and the scores stay smaller.",
                   weights(MATRICES, lambda array, random: 0.9 * array)),
        Experiment("Noise of a fifth of their size is added to the language model's matrices.",
                   "Training leaves that much room; a learning rate that moves the weights this far does the same.",
                   weights(MATRICES, noise(0.2))),
        Experiment("Noise of the size of the weights themselves.",
                   "Now nothing of what was learned is left, and the answer is that of a random start.",
                   weights(MATRICES, noise(1.0)))),
    "boxes_in_words": (
        Experiment("The picture is moved to the right by a quarter of its width.",
                   "Names should stay and boxes move by 250 thousandths, if the model reads places and has no habits.",
                   picture_of(lambda x: np.roll(x, x.shape[2] // 4, 2))),
        Experiment("The picture is turned upside down.",
                   "The boxes' y should be mirrored. Few training pictures stood on their heads.",
                   picture_of(lambda x: x[:, ::-1])),
        Experiment("Rotary turns half as far.",
                   "A box is text: four numbers in order. Which of them comes next is a matter of position.",
                   rotary_scaled(0.5))),
    "does_the_expert_matter": (
        Experiment("The tokens of the picture see each other, whatever their order.",
                   "The paper tries it as a training setting. These weights were trained with the causal mask.",
                   images_seeing_themselves),
        Experiment("The vision expert computes all tokens, the words included.",
                   "It was trained on vectors of patches; words are foreign to it.", off("expert:language")),
        Experiment("The vision expert is switched off in the first half of the layers.",
                   "A patch's vector changes from layer to layer: where does it need matrices of its own?",
                   lambda model: swapped({expert.routed: early(model.config.num_hidden_layers // 2)}))),
    "fine_tune": (
        Experiment("An update of rank 8 with B = 0 is added to every matrix, as LoRA starts.",
                   "B A is 0, so this is the old model exactly: fine-tuning begins where training ended.",
                   weights(MATRICES, lambda array, random: array + low_rank(array, random, 0.0))),
        Experiment("A random update of rank 8, of a tenth of each matrix's size.",
                   "Few directions, at random: the model hardly needs them.",
                   weights(MATRICES, lambda array, random: array + low_rank(array, random, 0.1))),
        Experiment("A random update of rank 8, of each matrix's size.",
                   "Rank 8 is enough to destroy everything, and so it is enough to teach something.",
                   weights(MATRICES, lambda array, random: array + low_rank(array, random, 1.0)))),
    "looking_inside": (
        Experiment("Layer 1 is switched off.",
                   "It is the layer that looks at the word dog. Without it the model no longer knows what it is asked.",
                   off("layer:1")),
        Experiment("Heads 0, 1, 2 and 5 of layer 2 are switched off, which look at the dog.",
                   "The box moves by a little: what a head looks at is not what the answer depends on.",
                   off("head:2.0", "head:2.1", "head:2.2", "head:2.5")),
        Experiment("Heads 3 and 4 of layer 2 are switched off.",
                   "Head 4 hardly looks at the dog, and without these two the box is far too large.",
                   off("head:2.3", "head:2.4"))),
    "cuda": (
        Experiment("RMSNorm's kernel writes its first 16 rows and forgets all other blocks.",
                   "Short prompts would be right, which is why a check needs more rows than one block has.",
                   part("rms_norm", rows_in_blocks(16))),
        Experiment("Only lane 0's part of the sum counts.",
                   "The mean square comes out about 32 times too small, and so the rows more than five times too large.",
                   part("rms_norm", lambda x, weight, eps: x / np.sqrt(
                       (x[..., ::32] ** 2).sum(-1, keepdims=True) / x.shape[-1] + eps) * weight)),
        Experiment("eps is outside the root.",
                   "eps is tiny beside a row of a trained model: only a check with small rows can see this bug.",
                   part("rms_norm", language_model.eps_outside_the_root))),
    "tiles": (
        Experiment("A kernel leaves out the columns after the last whole tile of 64.",
                   "Where sizes are multiples of the tile the bug does not show. Do this model's?",
                   part("routed_dense", lambda x, types, *more: visual_expert.ROUTED_DENSE.package(
                       tiles.columns(x, 0, x.shape[-1] // 64 * 64), types, *more))),
        Experiment("Only the last tile of 16 columns is summed.",
                   "The sum starts again with each tile: most of the product is missing.",
                   part("routed_dense", tiles.last_tile_alone)),
        Experiment("The kernel reads the matrix of the language expert for every row.",
                   "The products are right and the matrix is not: the picture goes through the words' weights.",
                   part("routed_dense", visual_expert.language_alone))),
    "expert_matmul": (
        Experiment("All products are computed in float16, as the tensor cores do.",
                   "Ten bits after the leading one, and sums that lose small parts; the answer seldom depends on them.",
                   op(ops.linear, halved)),
        Experiment("Only the first 16 columns are multiplied.",
                   "One mma instead of all of them.", part("routed_dense", expert_matmul.first_16_columns)),
        Experiment("Registers 1 and 2 of a fragment are exchanged.",
                   "A quarter of each 16 x 16 tile lands at the wrong place. All numbers are there; none is of use.",
                   part("routed_dense", expert_matmul.quarters_of_a_exchanged))),
    "fast_decoding": (
        Experiment("All matrices have 8 bits.", "255 steps for each group of 64 weights: nearly nothing is lost.",
                   op(ops.linear, codes("int8"))),
        Experiment("All matrices have 4 bits.",
                   "15 steps. A large model has weights to spare. Has this one?",
                   op(ops.linear, codes("int4"))),
        Experiment("Every weight is larger by one step of 4 bits, as if 7 were subtracted from the codes and not 8.",
                   "Errors of rounding go both ways and cancel in a sum; these all go one way and add up.",
                   op(ops.linear, lambda own, x, weight, bias=None: own(x, off_by_a_step(weight), bias)))),
}
