"""The paper's claims: text is left alone, an image costs what as much text costs, patches have no order."""
from functools import lru_cache, partial

import numpy as np
import pytest

from tinycogvlm import contracts
from tinycogvlm.model import adapter
from tinycogvlm.nn import ops
from tinycogvlm.nn.swap import swapped
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.inputs import examples
from tinycogvlm.inputs.tokenizer import ByteTokenizer
from tinycogvlm.train.recipe.forgetting import text_hash, text_losses
from tinycogvlm.world.scenes import Dice
from tinycogvlm.world.texts import KINDS_OF_TEXT, text_conversation
from tinycogvlm.train.loop.loop import Recipe, fit
from tinycogvlm.train.loop.run import Run
from tinycogvlm.train.ablation.variants import VARIANTS, WholeImages
from tinycogvlm.nn.tree import Params

VARIANTS = {variant.name: variant for variant in VARIANTS}


@lru_cache                                                  # one, so that texts.py's texts are encoded once
def tokenizer(config):
    return ByteTokenizer(config)


# Seeing is learned without a bit of the language model changing

@pytest.mark.parametrize("name", VARIANTS)
def test_text_stays_as_it_was_unless_the_language_model_learns(make_config, make_leaves, make_inputs, tmp_path, name):
    """Three steps on pictures: the logits of texts are bit for bit the same, but where text and image share weights."""
    variant = VARIANTS[name]
    config = make_config("cogvlm1", num_hidden_layers=4, vocab_size=259, max_position_embeddings=512)
    leaves = variant.begin(config, make_leaves(config, np.float32), 0)
    inputs = make_inputs(config, ("image", 5), ("image", 3), side="right")
    labels = np.where((inputs.types == 0) & (inputs.mask != 0), inputs.ids, -100)
    data, loss = lambda step: [(inputs, labels)], partial(variant.loss, config)
    learned = fit(Run(tmp_path, "see"), leaves, data, loss, Recipe(3), ahead=0)
    before, after = (variant.model(config, some, tokenizer(config)) for some in (leaves, learned))
    assert not np.array_equal(before.logits(inputs), after.logits(inputs))
    same = name != "language"
    assert (text_hash(before) == text_hash(after)) is same
    assert (text_losses(before, 1) == text_losses(after, 1)) is same


def test_the_hash_knows_every_bit_of_the_language_model(make_model):
    model = make_model(vocab_size=259, max_position_embeddings=512, dtype=np.float32)
    model.tokenizer = tokenizer(model.config)
    known = text_hash(model)
    assert known == text_hash(model) and len(known) == 64
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
                 *(name for name in model.leaves if name.startswith("model.layers.1.") and "inv_freq" not in name)):
        leaf = model.leaves[name].copy()
        leaf[(ord("Q") + 3, 0) if "embed" in name else (0,) * leaf.ndim] += 0.01
        moved = CogVLM(model.config, {**model.leaves, name: leaf}, model.tokenizer)
        assert (text_hash(moved) == known) is ("vision" in name), name


def test_losses_on_texts_are_the_means_of_32_of_every_kind(make_model):
    model = make_model(vocab_size=259, max_position_embeddings=512, dtype=np.float32)
    model.tokenizer = tokenizer(model.config)
    losses = text_losses(model)
    assert list(losses) == list(KINDS_OF_TEXT)
    for kind in ("sum", "fact"):
        turns = [text_conversation(Dice(f"forgetting {kind}", number), only=(kind,)) for number in range(32)]
        texts = [examples.example(model.config, model.tokenizer, None, some) for some in turns]
        assert losses[kind] == round(float(model.loss(*examples.batch(texts, model.config.pad_token_id))[0]), 5)


# An image token costs what a text token costs, though the weights are twice as many

class Counted(np.ndarray):
    """An array whose matrix products are counted when they run."""
    multiplications = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        plain = lambda arrays: tuple(a.view(np.ndarray) if isinstance(a, Counted) else a for a in arrays)
        if out is not None:
            options["out"] = plain(out)
        y = getattr(ufunc, method)(*plain(inputs), **options)
        if ufunc is np.matmul:
            Counted.multiplications += y.size * inputs[0].shape[-1]
        return out[0] if out is not None else y.view(Counted) if isinstance(y, np.ndarray) else y


@pytest.fixture
def multiplications(monkeypatch):
    """multiplications(f): those of all matrix products that run in f()"""
    def counting(op):
        def counted(*arrays, **options):
            y, pull = op(*(a.view(Counted) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arrays),
                         **options)
            return y.view(np.ndarray), pull
        return counted
    for name in ("linear", "attention"):                    # every product of the model runs in one of these
        monkeypatch.setattr(ops, name, counting(getattr(ops, name)))

    def count(f):
        Counted.multiplications = 0
        f()
        return Counted.multiplications
    return count


def test_the_counter_counts_what_runs(multiplications):
    x, weight, q, k = (contracts.random(*shape) for shape in ((3, 5, 7), (11, 7), (2, 6, 150, 4), (2, 3, 155, 4)))
    assert multiplications(lambda: ops.linear(x, weight)) == 3 * 5 * 7 * 11
    blocks = 128 * (5 + 128) + 22 * 155                     # queries times keys, in two blocks
    assert multiplications(lambda: ops.attention(q, k, k)) == 2 * (2 * 6 * blocks * 4)


@pytest.mark.parametrize("row", [("image", 5), (2, "image", 3, "image", 140)], ids=["one picture", "two, long"])
def test_an_image_costs_what_as_much_text_costs(make_model, make_inputs, multiplications, family, row):
    """The language model's products with an image = the dense model's with as many tokens; the tower is extra."""
    model = make_model(family, max_position_embeddings=512)
    dense = CogVLM(model.config, {name: leaf for name, leaf in model.leaves.items() if "vision" not in name})
    inputs = make_inputs(model.config, row)
    text = make_inputs(model.config, (inputs.ids.shape[1] - 1,))
    assert text.ids.shape == inputs.ids.shape
    p = Params(model.leaves).model.vision
    tower = multiplications(lambda: adapter.image_tokens(inputs.pixels, p, model.config))
    routed = multiplications(lambda: model.logits(inputs))
    assert tower > 0 and routed - tower == multiplications(lambda: dense.logits(text))
    weights = lambda model: sum(leaf.size for name, leaf in model.leaves.items() if name.startswith("model.layers."))
    assert weights(model) > 1.9 * weights(dense)


# All patches of an image share one position

def shuffled(order):
    """A context in which the adapter's patches come in this order"""
    def reordered(*arguments):
        x, pull = adapter.image_tokens.own(*arguments)
        return np.concatenate([x[:, :1], x[:, 1:-1][:, order], x[:, -1:]], 1), pull
    return swapped({adapter.image_tokens: reordered})


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_with_full_attention_patches_follow_any_order_and_no_text_feels_it(make_model, make_inputs, family,
                                                                           dtype, tolerance):
    inputs, order, outputs = in_two_orders(make_model, make_inputs, family, dtype, full=True)
    patches, texts = patches_and_texts(inputs)
    (h, logits), (h_after, logits_after) = outputs
    for row, places in patches:
        contracts.close(h_after[row, places], h[row, places[order]], tolerance, "patches")
    contracts.close(logits_after[texts], logits[texts], tolerance, "texts")


def test_with_the_causal_mask_every_patch_and_all_text_behind_feel_the_order(make_model, make_inputs, family):
    inputs, order, outputs = in_two_orders(make_model, make_inputs, family, np.float64, full=False)
    patches, texts = patches_and_texts(inputs)
    (h, logits), (h_after, logits_after) = outputs
    for row, places in patches:
        assert (np.abs(h_after[row, places] - h[row, places[order]]).max(-1) > 1e-3).all()
        behind = texts[row] & (np.arange(inputs.ids.shape[1]) > places[-1])
        assert (np.abs(logits_after[row, behind] - logits[row, behind]).max(-1) > 1e-3).all()


def in_two_orders(make_model, make_inputs, family, dtype, full):
    """The inputs, another order of the patches, and (hidden states, logits) in the order of the picture and in that."""
    model = make_model(family, dtype, vision=dict(image_size=20))
    if full:
        model = WholeImages(model.config, model.leaves)
    inputs, P = make_inputs(model.config, (2, "image", 4, "image", 3), ("image", 6)), model.config.num_patches
    order, outputs = np.arange(P)[::-1], []
    for places in (np.arange(P), order):
        with shuffled(places):
            outputs.append((model.hidden(inputs)[0], model.logits(inputs)))
    return inputs, order, outputs


def patches_and_texts(inputs):
    """[(row, the places of one picture's patches), ...], and (B, T) where text is"""
    pictures = [(row, picture) for row, types in enumerate(inputs.types) for picture in range(1, types.max() + 1)]
    return ([(row, np.flatnonzero(inputs.types[row] == picture)[1:-1]) for row, picture in pictures],
            (inputs.types == 0) & (inputs.mask != 0))
