"""Gradients of every op and of the whole model against finite differences; frozen parameters; nothing is mutated."""
import numpy as np
import pytest

from tinycogvlm import contracts
from tinycogvlm.model import adapter, decoder, vit
from tinycogvlm.nn import ops
from tinycogvlm.errors import UserError
from tinycogvlm.model.generate import Sampling, generate
from tinycogvlm.inputs.prompt import images
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.nn.tree import Gradients

TOLERANCE = 1e-6                                            # relative
DIRECTIONS = 3


def derivative(f, h):
    """f'(0) by central differences at h and 2h, whose errors of order h^2 cancel."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


def check_direction(f, value, gradient, random, what, h=1e-3, directions=DIRECTIONS):
    """The slope of f(value + s * direction) at s = 0 is <gradient, direction>, for several random directions.

    f may be off by TOLERANCE of that slope's typical size, the gradient's norm (the directions' entries have size 1).
    """
    assert gradient.shape == value.shape, what
    size = max(np.sqrt((gradient ** 2).sum()), 1e-5)
    for _ in range(directions):
        direction = random.standard_normal(value.shape)
        numeric = derivative(lambda s: f(value + s * direction), h)
        analytic = (gradient * direction).sum()
        assert abs(numeric - analytic) <= TOLERANCE * size, f"{what}: {analytic!r}, by differences {numeric!r}"


# ---------------------------------------------------------------------------------------------------------- every op

CASES = [pytest.param(name, arguments, id=f"{name}: {label}") for name, contract in contracts.CONTRACTS.items()
         for label, arguments in contract.cases() if not label.startswith("large")]


CONSTANT = "cos", "sin", "weights", "mean", "variance"      # arguments that no op has a gradient for


def differentiable(arguments):
    return [name for name, value in arguments.items()
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and name not in CONSTANT]


@pytest.mark.parametrize("name, arguments", CASES)
def test_op(name, arguments):
    random = np.random.default_rng(7)
    y, pull = contracts.package(name, **arguments)
    dy = random.standard_normal(np.shape(y))
    if name == "attention":                                 # a query that sees no key has no promised value
        dy[np.isnan(contracts.ops.attention(**arguments))] = 0
    gradients = pull(dy)
    assert set(gradients) == set(differentiable(arguments))
    for argument, gradient in gradients.items():
        check_direction(lambda value: (contracts.package(name, **arguments | {argument: value})[0] * dy).sum(),
                        arguments[argument], gradient, random, f"d{argument}",
                        h=1e-3 * min(1, np.abs(arguments[argument]).max()))


@pytest.mark.parametrize("name, arguments", CASES)
def test_op_in_float32(name, arguments):
    """A float32 pullback returns the float64 one's numbers to float32's precision, in float32; twice the same."""
    small = contracts.cast(arguments, np.float32)
    exact = contracts.cast(small, np.float64)
    (y, pull), (_, pull_exact) = contracts.package(name, **small), contracts.package(name, **exact)
    dy = np.random.default_rng(7).standard_normal(np.shape(y)).astype(np.float32)
    first, second, expected = pull(dy), pull(dy), pull_exact(dy.astype(np.float64))
    for argument, gradient in expected.items():
        assert first[argument].dtype == np.float32, argument
        scale = max(1, np.abs(gradient).max(initial=0))
        contracts.close(first[argument] / scale, gradient / scale, 1e-5, f"d{argument}")
        assert np.array_equal(first[argument], second[argument]), argument


# ---------------------------------------------------------------------------------------------------- the whole model

def labels_of(inputs):
    """Every text token is to be learned that has a token before it in its row."""
    labels = np.where((inputs.types == 0) & (inputs.mask != 0), inputs.ids, -100)
    labels[:, 0] = -100
    labels[:, 1:][inputs.mask[:, :-1] == 0] = -100
    return labels


WHOLE = {
    "one picture": [("image", 5)],
    "mixed batch, padded on the left": [("image", 4), (6,)],
    "two pictures apart in one row": [(2, "image", 2, "image", 3)],
    "two adjacent pictures": [("image", "image", 4)],
    "no picture": [(7,)],
}


@pytest.mark.parametrize("rows", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("checkpoint", [False, True], ids=["", "checkpointed"])
def test_whole_model_along_random_directions(make_model, make_inputs, family, rows, checkpoint):
    """All parameters move at once."""
    model = make_model(family)
    check_all_at_once(model, make_inputs(model.config, *rows), checkpoint)


@pytest.mark.parametrize("changes", [dict(num_attention_heads=2, num_key_value_heads=1), dict(num_key_value_heads=6),
                                     dict(rms_norm_eps=1e-2, vision=dict(layer_norm_eps=1e-2, patch_size=5))])
def test_other_geometries(make_model, make_inputs, changes):
    model = make_model("cogvlm2", **changes)
    check_all_at_once(model, make_inputs(model.config, ("image", 4), (3, "image", 3)))


def test_padding_on_the_right(make_model, make_inputs, family):
    model = make_model(family)
    check_all_at_once(model, make_inputs(model.config, ("image", 4), (6,), side="right"))


def check_all_at_once(model, inputs, checkpoint=False):
    labels, random = labels_of(inputs), np.random.default_rng(1)
    loss, pull = model.loss(inputs, labels, checkpoint=checkpoint)
    gradients = pull()
    assert set(gradients) == set(model.parameters)
    slope_size = np.sqrt(sum((gradient ** 2).sum() for gradient in gradients.values()))
    for _ in range(DIRECTIONS):
        directions = {name: random.standard_normal(model.leaves[name].shape) for name in gradients}

        def loss_at(s):
            moved = {name: leaf + s * directions[name] if name in directions else leaf
                     for name, leaf in model.leaves.items()}
            return CogVLM(model.config, moved).loss(inputs, labels)[0]
        analytic = sum((gradients[name] * directions[name]).sum() for name in gradients)
        numeric = derivative(loss_at, 2e-6)
        assert abs(numeric - analytic) <= TOLERANCE * slope_size, (numeric, analytic)


@pytest.mark.parametrize("resized", [False, True], ids=["own size", "positions interpolated"])
def test_every_parameter(make_model, make_inputs, family, resized):
    """Each tensor by itself: a mixed batch, padded, one row with two pictures; also at another picture size."""
    model = make_model(family)
    if resized:
        model = CogVLM(model.config.resized(model.config.vision.image_size + 4), model.leaves)
    inputs = make_inputs(model.config, ("image", 2, "image", 3), (6,))
    labels, random = labels_of(inputs), np.random.default_rng(1)
    gradients = model.loss(inputs, labels)[1]()
    assert set(gradients) == set(model.parameters) == {name for name in model.leaves if "inv_freq" not in name}
    for name, gradient in gradients.items():
        def loss_with(value):
            return CogVLM(model.config, {**model.leaves, name: value}).loss(inputs, labels)[0]
        own = not resized or "position_embedding" in name   # what is computed otherwise than at the other size
        check_direction(loss_with, model.leaves[name], gradient, random, name, 2e-5, DIRECTIONS if own else 1)
        last = f"model.layers.{model.config.num_hidden_layers - 1}."
        reaches = not name.startswith((last + "self_attn.vision_expert_dense", last + "mlp.vision_mlp"))
        assert gradient.any() == reaches, name              # no text token reads image positions after the last layer


def test_gradient_is_linear_in_dloss_and_pull_repeats(make_model, make_inputs, family):
    model = make_model(family)
    inputs = make_inputs(model.config, ("image", 4))
    _, pull = model.loss(inputs, labels_of(inputs))
    once, again, four = pull(), pull(), pull(4.0)
    for name in once:
        assert np.array_equal(once[name], again[name]), name
        assert np.array_equal(4 * once[name], four[name]), name     # times a power of two: exact


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_checkpointing_changes_no_bit(make_model, make_inputs, family, dtype):
    model = make_model(family, dtype)
    inputs = make_inputs(model.config, ("image", 4), (3,))
    loss, pull = model.loss(inputs, labels_of(inputs))
    loss_again, pull_again = model.loss(inputs, labels_of(inputs), checkpoint=True)
    assert loss == loss_again
    gradients, gradients_again = pull(), pull_again()
    for name, gradient in gradients.items():
        assert gradient.dtype == dtype and np.array_equal(gradient, gradients_again[name]), name


def test_rows_that_are_not_learned_do_not_matter(make_model, make_inputs):
    """A batch whose second row has no labels: loss and gradients of the first row alone."""
    model = make_model("cogvlm2")
    both = make_inputs(model.config, ("image", 4), ("image", 4))
    labels = labels_of(both)
    labels[1] = -100
    one = type(both)(both.ids[:1], both.types[:1], both.mask[:1], both.media[:1])
    (loss, pull), (loss_one, pull_one) = model.loss(both, labels), model.loss(one, labels[:1])
    assert abs(loss - loss_one) < 1e-13
    gradients, expected = pull(), pull_one()
    for name in expected:
        contracts.close(gradients[name], expected[name], 1e-12, name)


# -------------------------------------------------------------------------------------------------- frozen parameters

FROZEN = {
    "ViT": ("model.vision.transformer.*", "model.vision.patch_embedding.*"),
    "ViT's blocks": ("model.vision.transformer.*",),
    "patch embedding": ("model.vision.patch_embedding.*",),
    "all vision": ("model.vision.*",),
    "experts of text": ("*.language_mlp.*", "*.language_expert_*", "lm_head.*", "model.embed_tokens.*"),
    "visual experts": ("*vision_expert*", "*vision_mlp*"),
    "adapter alone is trained": ("model.layers.*", "model.norm.*", "lm_head.*", "model.embed_tokens.*",
                                 "model.vision.transformer.*", "model.vision.patch_embedding.*"),
    "first layer": ("model.layers.0.*",),
    "everything below the last layer": ("model.layers.0.*", "model.vision.*", "model.embed_tokens.*"),
    "biases": ("*.bias",),
    "positions, CLS, boi": ("*position_embedding*", "*cls_embedding", "*.boi"),
    "all": ("*",),
    "a name that does not exist": ("nothing.*",),
}


@pytest.mark.parametrize("patterns", FROZEN.values(), ids=FROZEN)
@pytest.mark.parametrize("checkpoint", [False, True], ids=["", "checkpointed"])
def test_frozen(make_model, make_inputs, family, patterns, checkpoint, monkeypatch):
    """Frozen names are absent, their weight-gradients are never computed, all others are the same to the last bit."""
    from fnmatch import fnmatchcase
    model = make_model(family)
    inputs = make_inputs(model.config, ("image", 4), (3,))
    labels = labels_of(inputs)
    expected = model.loss(inputs, labels)[1]()
    computed, add = set(), Gradients.add

    def counting_add(self, name, gradient):
        def counted():
            computed.add(self._prefix + name)
            return gradient()
        add(self, name, counted)
    monkeypatch.setattr(Gradients, "add", counting_add)
    loss, pull = model.loss(inputs, labels, frozen=patterns, checkpoint=checkpoint)
    gradients = pull()
    assert set(gradients) == {name for name in expected if not any(fnmatchcase(name, p) for p in patterns)}
    assert computed <= set(gradients)
    for name, gradient in gradients.items():
        assert np.array_equal(gradient, expected[name]), name


def test_gradients_of_a_parameter_used_twice_add_up():
    g = Gradients(("a.weight", "a.bias"), frozen=("*.bias",))
    for value in (1, 10):
        g.a.add("weight", lambda: np.full(2, value))
        g.a.add("bias", lambda: pytest.fail("a frozen gradient was computed"))
        with pytest.raises(KeyError, match="no parameter a.wieght that has a gradient; did you mean a.weight?"):
            g.a.add("wieght", lambda: pytest.fail("of no parameter"))
    assert {name: gradient.tolist() for name, gradient in g.leaves.items()} == {"a.weight": [11, 11]}
    assert g.trains() and g.a.trains() and g.trains("b.", "a.w") and not g.trains("b.", "a.bias")


def count_pulls(monkeypatch, module, name):
    """Replaces module.name, a function that returns (y, pull), by one that counts calls of the pulls."""
    original, calls = getattr(module, name), []

    def counting(*arguments):
        y, pull = original(*arguments)

        def counted(*gradients):
            calls.append(name)
            return pull(*gradients)
        return y, counted
    monkeypatch.setattr(module, name, counting)
    return calls


@pytest.mark.parametrize("pattern, towers, adapters, blocks", [
    ((), 1, 1, 2),
    (("model.vision.transformer.*", "model.vision.patch_embedding.*"), 0, 1, 2),
    (("model.vision.*",), 0, 0, 2),
    (("model.vision.*", "model.embed_tokens.*", "model.layers.0.*"), 0, 0, 1),
    (("model.vision.*", "model.embed_tokens.*", "model.layers.*"), 0, 0, 0),
    (("model.vision.*", "model.layers.*"), 0, 0, 2),
])
def test_frozen_parts_below_all_trained_ones_are_not_entered(make_model, make_inputs, monkeypatch, pattern, towers, adapters,
                                                             blocks):
    model = make_model("cogvlm2")
    inputs = make_inputs(model.config, ("image", 4))
    calls = [count_pulls(monkeypatch, vit, "vit"), count_pulls(monkeypatch, adapter, "image_tokens"),
             count_pulls(monkeypatch, decoder, "block")]
    model.loss(inputs, labels_of(inputs), frozen=pattern)[1]()
    assert [len(made) for made in calls] == [towers, adapters, blocks]


# --------------------------------------------------------------------------------------------------- nothing is mutated

@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_is_mutated(make_model, make_inputs, family, dtype):
    """Forward, backward and generation on read-only arrays, at the own and at another picture size."""
    model = make_model(family, dtype)
    for size in (model.config.vision.image_size, model.config.vision.image_size + 4):
        model = CogVLM(model.config.resized(size), model.leaves)
        inputs = make_inputs(model.config, ("image", 4), (3,))
        inputs.media = images(inputs.pixels.astype(dtype))
        labels = labels_of(inputs)
        for array in (*model.leaves.values(), inputs.ids, inputs.types, inputs.mask, *(array for _, array in inputs.media), labels):
            array.setflags(write=False)
        before = {name: leaf.copy() for name, leaf in model.leaves.items()}
        for checkpoint in (False, True):
            model.loss(inputs, labels, checkpoint=checkpoint)[1]()
        model.logits(inputs)
        for sampling in (Sampling(), Sampling(temperature=1, top_k=5, top_p=.9, repetition_penalty=1.2)):
            list(generate(model, inputs, 3, sampling))
        assert all(np.array_equal(leaf, before[name]) for name, leaf in model.leaves.items())


@pytest.mark.parametrize("name, arguments", CASES)
def test_op_mutates_nothing(name, arguments):
    frozen = {key: np.copy(value) if isinstance(value, np.ndarray) else value for key, value in arguments.items()}
    for value in frozen.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    y, pull = contracts.package(name, **frozen)
    before, dy = np.copy(y), np.ones(np.shape(y))
    dy.setflags(write=False)
    pull(dy)
    assert np.array_equal(before, y, equal_nan=True)


# ------------------------------------------------------------------------------------------------------------- errors

@pytest.mark.parametrize("change, message", [
    (lambda labels: np.full_like(labels, -100), "no label to learn from"),
    (lambda labels: np.where(np.arange(labels.size) == 0, 5, -100)[None], "no label"),     # nothing predicts the first
    (lambda labels: np.where(labels == -100, -100, 30), "token ids below 30"),
    (lambda labels: np.where(labels == -100, -1, labels), "token ids below 30"),
    (lambda labels: labels[:, :-1], "labels have the shape"),
    (lambda labels: labels[0], "labels have the shape"),
])
def test_wrong_labels(make_model, make_inputs, change, message):
    model = make_model()
    inputs = make_inputs(model.config, ("image", 4))
    with pytest.raises(UserError, match=message):
        model.loss(inputs, change(labels_of(inputs)))


def test_label_behind_padding(make_model, make_inputs):
    """The first real token of a row that is padded on the left: what stands before it computes nothing meaningful."""
    model = make_model()
    inputs = make_inputs(model.config, ("image", 4), (3,))
    labels = np.where(inputs.mask != 0, inputs.ids, -100)
    with pytest.raises(UserError, match="follows padding"):
        model.loss(inputs, labels)


def test_cross_entropy_of_equal_logits_is_the_vocabulary_s_logarithm():
    loss, pull = ops.cross_entropy(np.zeros((2, 7)), np.array([3, -100]))
    assert loss == np.log(7)
    assert np.allclose(pull(), [[1 / 7 - (i == 3) for i in range(7)], [0] * 7], rtol=0, atol=1e-16)
