"""What the whole model promises: cached = uncached, batch = singles, text needs no vision weights, no look ahead."""
from dataclasses import replace

import numpy as np
import pytest

from tinycogvlm import contracts
from tinycogvlm.nn import trace
from tinycogvlm.model.decoder import KVCache, Rotary
from tinycogvlm.errors import UserError
from tinycogvlm.model.generate import generate, next_token
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.inputs import prompt
from tinycogvlm.inputs.prompt import Inputs, images, pad
from tinycogvlm.inputs.tokenizer import ByteTokenizer
from tinycogvlm.model.route import position_ids

ROWS = {
    "picture": [("image", 5)],
    "text": [(6,)],
    "two pictures": [(2, "image", 2, "image", 3)],
    "adjacent pictures": [("image", "image", 2)],
    "bos alone": [()],
    "batch": [("image", 4), (2,), (1, "image", 6)],
}


def exact_rotary(config):
    """Frequencies that are powers of two: float32 angles are exact, and a shift of all positions costs nothing."""
    return Rotary(0.5 ** np.arange(config.head_size // 2, dtype=np.float32))


@pytest.mark.parametrize("base, d", [(10000, 8), (500000, 96)])
def test_the_rotary_frequencies_of_a_base(base, d):
    np.testing.assert_allclose(Rotary.from_base(base, d).inv_freq, base ** -(np.arange(0, d, 2) / d), rtol=1e-6)


def followed_by(inputs, tokens):
    """The rows of `inputs`, longer by the decoded `tokens`."""
    joined = (np.concatenate([getattr(inputs, name), getattr(tokens, name)], 1) for name in ("ids", "types", "mask"))
    return Inputs(*joined, inputs.media)


def part(inputs, columns, media=()):
    """Columns of the inputs, which must not cut a picture."""
    return Inputs(inputs.ids[:, columns], inputs.types[:, columns], inputs.mask[:, columns], list(media))


def text_columns(inputs):
    """Columns at which no row is inside of a picture: where the input may be cut."""
    return [t for t in range(1, inputs.ids.shape[1])
            if not ((inputs.types[:, t] > 0) & (inputs.types[:, t - 1] == inputs.types[:, t])).any()]


# ---------------------------------------------------------------------------------------------------------- the cache

@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_cached_equals_uncached_token_by_token(make_model, make_inputs, family, rows):
    """The prompt at once, then 5 tokens one by one, against all of them at once."""
    model = make_model(family)
    inputs = make_inputs(model.config, *rows)
    B, T = inputs.ids.shape
    cache = KVCache(model.config, B, T + 5, dtype=np.float64)
    contracts.close(model.logits(inputs, cache), model.logits(inputs), 1e-13, "prefill")
    position, whole = position_ids(inputs.types, inputs.mask)[:, -1:], inputs
    for step in range(5):
        ids, position = np.random.default_rng(step).integers(3, model.config.vocab_size, B), position + 1
        token = next_token(ids)
        whole = followed_by(whole, token)
        cached = model.logits(token, cache, positions=position)
        contracts.close(cached[:, 0], model.logits(whole)[:, -1], 1e-12, f"step {step}")
    assert cache.length == T + 5
    with pytest.raises(ValueError, match=f"the cache holds {T + 5} tokens"):
        model.logits(token, cache, positions=position)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_prompt_in_two_pieces(make_model, make_inputs, family, rows):
    """Chunked prefill: a prompt cut anywhere between pictures, with the positions of the whole."""
    model = make_model(family)
    inputs = make_inputs(model.config, *rows)
    B, T = inputs.ids.shape
    expected, positions = model.logits(inputs), position_ids(inputs.types, inputs.mask)
    for cut in text_columns(inputs):
        cache = KVCache(model.config, B, T, dtype=np.float64)
        first = np.array([image < types[:cut].max() for types in inputs.types for image in range(types.max())], bool)
        pieces = []
        for columns, mine in ((slice(0, cut), first), (slice(cut, T), ~first)):
            piece = part(inputs, columns, [medium for medium, its in zip(inputs.media, mine) if its])
            pieces.append(model.logits(piece, cache, positions=positions[:, columns]))
        real = inputs.mask != 0
        contracts.close(np.concatenate(pieces, 1)[real], expected[real], 1e-12, f"cut at {cut}")


def test_last_logits_are_the_last_row_of_all(make_model, make_inputs, family):
    model = make_model(family)
    inputs = make_inputs(model.config, ("image", 4), (2,))
    last = model.logits(inputs, last=True)
    assert last.shape == (2, 1, model.config.vocab_size)
    contracts.close(last[:, 0], model.logits(inputs)[:, -1], 1e-13, "last")


# -------------------------------------------------------------------------------------------------------------- batches

@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_equals_singles(make_model, make_inputs, family, side):
    """Logits of every real token. On the left positions are one more than alone, which rotary angles do not feel."""
    model = make_model(family)
    model.rotary = exact_rotary(model.config)
    singles = [make_inputs(model.config, row, seed=i) for i, row in enumerate(
        [("image", 4), (2,), (1, "image", 2, "image"), (), ("image", "image", 3)])]
    logits = model.logits(pad(singles, model.config.pad_token_id, side))
    for b, single in enumerate(singles):
        T = single.ids.shape[1]
        mine = logits[b, -T:] if side == "left" else logits[b, :T]
        contracts.close(mine, model.logits(single)[0], 1e-12, f"row {b}")


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-5), (np.float64, 2e-6)])
def test_batch_equals_singles_at_the_real_frequencies(make_model, make_inputs, family, dtype, tolerance):
    """Angles are float32 even in float64 arithmetic, as the original's: their rounding moves with the position."""
    model = make_model(family, dtype)
    singles = [make_inputs(model.config, row, seed=i) for i, row in enumerate([("image", 4), (2,), (3, "image", 9)])]
    logits = model.logits(pad(singles, model.config.pad_token_id))
    assert logits.dtype == dtype
    for b, single in enumerate(singles):
        alone = model.logits(single)[0].astype(np.float64)
        contracts.close(logits[b, -len(alone):], alone, tolerance, f"row {b}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_greedy_ids_of_a_batch_equal_singles(make_model, make_inputs, family, dtype):
    """Each row until its eos, however long the others go on; eos is a token that some row says in between."""
    model = make_model(family, dtype)
    singles = [make_inputs(model.config, row, seed=i)
               for i, row in enumerate([("image", 4), (2,), (3, "image", 9), (20,)])]
    batch = pad(singles, model.config.pad_token_id)
    said = np.array(list(generate(model, batch, 12)))
    model.config = replace(model.config, eos_token_id=int(said[4, 1]))
    steps = np.array(list(generate(model, batch, 12)))
    assert len({tuple(ids == model.config.eos_token_id) for ids in steps}) > 1      # rows end at different times
    for b, single in enumerate(singles):
        alone = np.array(list(generate(model, single, 12)))[:, 0]
        assert steps[:len(alone), b].tolist() == alone.tolist()
        assert (steps[len(alone):, b] == model.config.eos_token_id).all()


def test_padding_s_content_does_not_matter(make_model, make_inputs, family):
    """What ids padding holds changes no bit of the real tokens' logits."""
    model = make_model(family)
    for side in ("left", "right"):
        inputs = make_inputs(model.config, ("image", 4), (3,), side=side)
        other = Inputs(np.where(inputs.mask == 0, 7, inputs.ids), inputs.types, inputs.mask, inputs.media)
        real = inputs.mask != 0
        assert np.array_equal(model.logits(inputs)[real], model.logits(other)[real])


# ---------------------------------------------------------------------------------------------- text alone; the experts

def is_vision(name):
    return "vision" in name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_text_needs_no_vision_weights(make_model, make_inputs, family, dtype):
    """Without a picture: the language model alone, bit for bit, in logits, loss, gradients and generated ids."""
    model = make_model(family, dtype)
    alone = CogVLM(model.config, {name: leaf for name, leaf in model.leaves.items() if not is_vision(name)})
    assert len(alone.leaves) < len(model.leaves) / 2
    for rows in ([(7,)], [(7,), (3,)], [()]):
        inputs = make_inputs(model.config, *rows)
        assert np.array_equal(model.logits(inputs), alone.logits(inputs))
        assert np.array_equal(list(generate(model, inputs, 5)), list(generate(alone, inputs, 5)))
    inputs = make_inputs(model.config, (7,))
    (loss, pull), (loss_alone, pull_alone) = model.loss(inputs, inputs.ids), alone.loss(inputs, inputs.ids)
    assert loss == loss_alone
    gradients, expected = pull(), pull_alone()
    for name, gradient in gradients.items():
        if is_vision(name):
            assert not gradient.any() and gradient.shape == model.leaves[name].shape, name
        else:
            assert np.array_equal(gradient, expected[name]), name


def plain_language_model(leaves, config, ids):
    """A LLaMA decoder over one row of ids in float64: loops over tokens and heads, the language expert's weights."""
    rms = lambda x, w: np.array([row / np.sqrt(np.mean(row ** 2) + config.rms_norm_eps) for row in x]) * w
    d, H, G, T = config.head_size, config.num_attention_heads, config.num_key_value_heads, len(ids)
    inv_freq = 1 / np.float32(config.rope_base) ** (np.arange(0, d, 2, dtype=np.float32) / d)
    angles = [np.array([np.float32(t) * f for f in inv_freq], np.float64) for t in range(T)]

    def turn(vector, t):
        cos, sin = np.cos(angles[t]), np.sin(angles[t])
        first, second = vector[:d // 2], vector[d // 2:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin])
    x = np.stack([leaves["model.embed_tokens.weight"][i] for i in ids])
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}."
        w = lambda name: leaves[layer + name + ".weight"]
        qkv = rms(x, w("input_layernorm")) @ w("self_attn.language_expert_query_key_value").T
        context = np.zeros((T, H * d))
        for t in range(T):
            for h in range(H):
                g = h // (H // G)
                query = turn(qkv[t, h * d:(h + 1) * d], t)
                keys = [turn(qkv[s, (H + g) * d:(H + g + 1) * d], s) for s in range(t + 1)]
                values = [qkv[s, (H + G + g) * d:(H + G + g + 1) * d] for s in range(t + 1)]
                weight = np.exp([query @ key / np.sqrt(d) for key in keys])
                context[t, h * d:(h + 1) * d] = sum(p * v for p, v in zip(weight / weight.sum(), values))
        x = x + context @ w("self_attn.language_expert_dense").T
        m = rms(x, w("post_attention_layernorm"))
        gate, up = m @ w("mlp.language_mlp.gate_proj").T, m @ w("mlp.language_mlp.up_proj").T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w("mlp.language_mlp.down_proj").T
    return rms(x, leaves["model.norm.weight"]) @ leaves["lm_head.weight"].T


def test_text_equals_a_plain_language_model(make_model, make_inputs, family):
    """One that is written out here and knows of no expert."""
    model = make_model(family)
    inputs = make_inputs(model.config, (9,))
    expected = plain_language_model(model.leaves, model.config, inputs.ids[0])
    contracts.close(model.logits(inputs)[0], expected, 1e-12, "logits")


def test_each_expert_computes_its_own_tokens_only(make_model, make_inputs, family):
    """NaN weights of one expert in one layer reach exactly that expert's tokens."""
    model = make_model(family)
    inputs = make_inputs(model.config, (2, "image", 3))
    types = inputs.types[0]
    vision = np.array([types[t] > 0 and t + 1 < len(types) and types[t + 1] == types[t] for t in range(len(types))])
    last = f"model.layers.{model.config.num_hidden_layers - 1}."
    for name, tokens in ((last + "mlp.vision_mlp.down_proj.weight", vision),
                         (last + "mlp.language_mlp.up_proj.weight", ~vision),
                         (last + "self_attn.vision_expert_dense.weight", vision)):
        broken = CogVLM(model.config, {**model.leaves, name: np.full_like(model.leaves[name], np.nan)})
        assert np.isnan(broken.logits(inputs)[0]).all(1).tolist() == tokens.tolist(), name
        assert np.isnan(broken.logits(inputs)[0]).any(1).tolist() == tokens.tolist(), name


# ------------------------------------------------------------------------------------------------------- no look ahead

def test_no_token_sees_the_future(make_model, make_inputs, family):
    """Another id at t leaves every bit of the logits before t; at t and behind it something changes."""
    model = make_model(family)
    inputs = make_inputs(model.config, (2, "image", 4), (140,))             # longer than a block of attention, too
    logits = model.logits(inputs)
    for b, t in [(0, t) for t in np.flatnonzero((inputs.types[0] == 0) & (inputs.mask[0] != 0))] + \
                [(1, 1), (1, 100), (1, 127), (1, 128), (1, 129), (1, 140)]:
        ids = inputs.ids.copy()
        ids[b, t] = 3 + (ids[b, t] - 2) % (model.config.vocab_size - 3)
        assert ids[b, t] != inputs.ids[b, t]
        changed = model.logits(Inputs(ids, inputs.types, inputs.mask, inputs.media))
        assert np.array_equal(changed[b, :t], logits[b, :t]) and np.array_equal(changed[1 - b], logits[1 - b])
        assert (changed[b, t:] != logits[b, t:]).any(-1).all()


def test_picture_is_not_seen_before_it(make_model, make_inputs, family):
    """Other pixels: nothing changes up to bos and boi, whose vector is learned; every patch, eoi and the text do."""
    model = make_model(family)
    inputs = make_inputs(model.config, (2, "image", 3))
    other = Inputs(inputs.ids, inputs.types, inputs.mask, images(inputs.pixels + 1))
    same = (model.logits(inputs) == model.logits(other)).all(-1)[0]
    boi = int(np.flatnonzero(inputs.types[0])[0])
    assert same.tolist() == [t <= boi for t in range(len(same))]


def test_order_of_pictures_matters_as_given(make_model, make_inputs):
    """Pictures fill their places in reading order, across the rows of a batch."""
    model = make_model("cogvlm2")
    inputs = make_inputs(model.config, ("image", 2, "image"), ("image", 3), seed=5)
    with trace.recording() as records:
        model.logits(inputs)
    images, embeds = records["vision/out"], records["lm/embeds"]
    assert len(images) == 3
    for image, (b, k) in zip(images, ((0, 1), (0, 2), (1, 1))):
        assert np.array_equal(embeds[b, inputs.types[b] == k], image)


def test_interpolated_positions_are_used(make_model, make_inputs, family):
    """At another picture size the model is the one whose table was resampled beforehand."""
    model = make_model(family)
    bigger = CogVLM(model.config.resized(model.config.vision.image_size + 8), model.leaves)
    name = "model.vision.patch_embedding.position_embedding.weight"
    table = contracts.ops.interpolate_positions(model.leaves[name], bigger.config.vision.grid)
    assert table.shape == bigger.config.shapes()[name] != model.leaves[name].shape
    inputs = make_inputs(bigger.config, ("image", 3))
    expected = CogVLM(bigger.config, {**model.leaves, name: table}).logits(inputs)
    contracts.close(bigger.logits(inputs), expected, 1e-12, "logits")


def test_loss_is_the_mean_of_the_labels_log_probabilities(make_model, make_inputs, family):
    """By hand from the logits: the label at t is predicted at t - 1."""
    model = make_model(family)
    inputs = make_inputs(model.config, ("image", 5), (4,))
    labels = np.full(inputs.ids.shape, -100)
    labels[0, -3:], labels[1, -2] = [4, 9, 2], 7
    logits, terms = model.logits(inputs), []
    for b, t in np.argwhere(labels != -100):
        row = logits[b, t - 1]
        terms.append(np.log(np.exp(row).sum()) - row[labels[b, t]])
    assert len(terms) == 4
    assert abs(model.loss(inputs, labels)[0] - np.mean(terms)) < 1e-13


def test_inputs_are_in_the_checkpoint_s_template(make_model, family):
    """Its config's, and Vicuna's for a CogVLM v1 without a picture; one that is asked for goes before both."""
    model = make_model(family, vocab_size=300, max_position_embeddings=512, template_version="vqa", bos_token_id=256,
                       eos_token_id=257, pad_token_id=258)
    model.tokenizer = ByteTokenizer(model.config)
    picture, earlier = np.zeros((5, 5, 3), np.uint8), [("Hi", "Yo")]

    def text(*arguments, **options):
        inputs = model.inputs(*arguments, **options)
        assert inputs.ids[0, 0] == 256 and (inputs.pixels is not None) == (inputs.types > 0).any()
        return model.tokenizer.decode(inputs.ids[0, 1:][inputs.types[0, 1:] == 0])
    with_picture = "Question: Hi Short answer: Yo\nQuestion: Who? Short answer:"
    vicuna = prompt.VICUNA_SYSTEM + "USER: Hi ASSISTANT: Yo\nUSER: Who? ASSISTANT:"
    alone = with_picture if family == "cogvlm2" else vicuna
    assert text("Who?", picture, earlier) == text(["Who", picture, "?"], None, earlier) == with_picture
    assert text("Who?", [picture] * 2, earlier) == with_picture
    assert text("Who?", None, earlier) == alone and text("Who?", template="base") == "Who?"


# -------------------------------------------------------------------------------------------------------------- errors

@pytest.mark.parametrize("change, message", [
    (lambda i: Inputs(i.ids, i.types, i.mask, i.media[:1]), "1 image.* give 6 tokens, but the text has room for 12"),
    (lambda i: Inputs(i.ids, i.types, i.mask, i.media * 2), "4 image.* give 24 tokens, .* room for 12$"),
    (lambda i: Inputs(i.ids, i.types, i.mask), "room for images, but none came"),
    (lambda i: Inputs(i.ids, i.types, i.mask, [i.media[0], ("sound", np.zeros((80, 3000)))]),
     "reads images, but sound came"),
    (lambda i: Inputs(i.ids, i.types * 0, i.mask, i.media), "2 image.* came, but the text has no room"),
    (lambda i: Inputs(i.ids, np.where(np.arange(i.ids.shape[1]) == 3, 0, i.types), i.mask, i.media),
     "give 12 tokens, .* room for 11"),
])
def test_pictures_that_do_not_fit_the_text(make_model, make_inputs, change, message):
    model = make_model()
    inputs = change(make_inputs(model.config, ("image", 2, "image", 2)))
    with pytest.raises(UserError, match=message):
        model.logits(inputs)


def test_no_tokenizer(make_model):
    for call in (lambda model: model.ask(None, "Who?"), lambda model: model.stream(None, "Who?")):
        with pytest.raises(UserError, match="no tokenizer"):
            call(make_model())
