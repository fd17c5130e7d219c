"""The optimiser against its equations, number by number, and against PyTorch's losses."""
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinycogvlm.inputs import prompt
from tinycogvlm.model.config import Config
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.train.loop.optimizer import (adamw, clipping, cosine, decays, follow, group_factor, muon, nesterov,
                                             orthogonal, orthogonalised, sgd, unpacked)

GOLDEN = Path(__file__).parent / "golden" / "v1_grads"


@pytest.mark.parametrize("decay, scale", [(0.05, 1.0), (0.0, 0.3)])
def test_adamw_is_its_equation_entry_by_entry(decay, scale):
    random = np.random.default_rng(0)
    w = random.standard_normal((3, 2))
    expected, m, v = w.copy(), np.zeros((3, 2)), np.zeros((3, 2))
    moments = np.zeros((2, 3, 2))
    for step in range(1, 6):
        gradient = random.standard_normal((3, 2))
        gradient[0, 0] = 0.0                                # decay alone moves this one
        kept = gradient.copy()
        adamw(w, gradient, *moments, step, 0.1, (0.8, 0.9), 1e-3, decay, scale)
        assert np.array_equal(gradient, kept)
        for i in np.ndindex(w.shape):
            g = scale * gradient[i]
            m[i] = 0.8 * m[i] + 0.2 * g
            v[i] = 0.9 * v[i] + 0.1 * g * g
            expected[i] -= 0.1 * decay * expected[i]
            expected[i] -= 0.1 * (m[i] / (1 - 0.8 ** step)) / (math.sqrt(v[i] / (1 - 0.9 ** step)) + 1e-3)
        np.testing.assert_allclose(w, expected, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(moments, [m, v], rtol=1e-13)


def test_float32_stays_float32_and_a_number_without_axes_is_a_parameter_too():
    for shape in ((2, 3), ()):
        w, m, v, average = (np.zeros(shape, np.float32) for _ in range(4))
        adamw(w, np.ones(shape, np.float32) if shape else np.float32(1), m, v, 1, 0.5)
        follow(average, w, 1, 0.5)
        assert {array.dtype for array in (w, m, v, average)} == {np.dtype(np.float32)}
        assert np.allclose(w, -0.5) and np.allclose(m, 0.1) and np.allclose(v, 0.001)
        assert np.allclose(average, -0.5 * 9 / 11)


def test_eight_steps_of_adamw_and_three_of_sgd_give_pytorch_s_losses():
    """adamw within 1e-4; sgd within 1e-5 of the loss for three steps, so large that rounding grows eightfold a step."""
    golden, weights = load_file(GOLDEN / "grads.safetensors"), load_file(GOLDEN / "weights.safetensors")
    inputs = prompt.Inputs(*(golden[f"in/{name}"] for name in ("input_ids", "token_type_ids", "attention_mask")),
                           prompt.images(golden["in/pixel_values"]))
    for name, steps, tolerance in (("adamw", 8, 1e-4), ("sgd", 3, 4.5e-5)):
        model = CogVLM(Config.read(GOLDEN), {name: array.copy() for name, array in weights.items()})
        moments = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in weights.items()}
        for step in range(1, steps + 1):
            loss, pull = model.loss(inputs, golden["in/labels"])
            assert abs(loss - golden[f"losses/{name}"][step - 1]) <= tolerance
            if name == "sgd":
                sgd(model.leaves, pull(), 0.02)
            else:
                for leaf, g in pull().items():
                    adamw(model.leaves[leaf], g, *moments[leaf], step, 1e-3)


def by_singular_values(g, steps=5):
    """What Newton-Schulz computes: the quintic of each singular value, the singular vectors as they are"""
    u, s, v = np.linalg.svd(g.astype(float), full_matrices=False)
    s /= math.sqrt((s ** 2).sum()) + 1e-7
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s ** 3 + 2.0315 * s ** 5
    return u * s @ v


@pytest.mark.parametrize("shape", [(24, 24), (24, 7), (7, 24), (1, 5)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_orthogonalised_keeps_singular_vectors_and_makes_singular_values_about_one(shape, size):
    random = np.random.default_rng(1)
    u, _, v = np.linalg.svd(random.standard_normal(shape), full_matrices=False)
    g = size * u * np.geomspace(1, 0.02, min(shape)) @ v
    kept = g.copy()
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-4)):
        found = orthogonalised(g.astype(dtype))
        assert found.dtype == dtype and found.shape == shape
        s = np.linalg.svd(found, compute_uv=False)
        assert s.min() > 0.68 and s.max() < 1.21
        np.testing.assert_allclose(found, by_singular_values(g), rtol=0, atol=tolerance)
    assert np.array_equal(g, kept)
    assert not orthogonalised(np.zeros(shape)).any()


@pytest.mark.parametrize("shape, stretch", [((6, 6), 1), ((8, 2), 2), ((2, 8), 1)])
@pytest.mark.parametrize("decay, scale", [(0.05, 1.0), (0.0, 0.3)])
def test_muon_is_its_equation(shape, stretch, decay, scale):
    random = np.random.default_rng(0)
    w, m = random.standard_normal(shape), np.zeros(shape)
    expected, mean = w.copy(), np.zeros(shape)
    w32, m32 = w.astype(np.float32), m.astype(np.float32)
    for _ in range(4):
        gradient = random.standard_normal(shape)
        kept = gradient.copy()
        muon(w, gradient, m, 0.1, 0.9, decay, scale)
        muon(w32, gradient.astype(np.float32), m32, 0.1, 0.9, decay, scale)
        assert np.array_equal(gradient, kept)
        mean = 0.9 * mean + scale * gradient
        expected = (1 - 0.1 * decay) * expected - 0.1 * stretch * by_singular_values(scale * gradient + 0.9 * mean)
        np.testing.assert_allclose(w, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(m, mean, rtol=1e-13)
    np.testing.assert_allclose(w32, expected, rtol=0, atol=1e-5)
    assert w32.dtype == m32.dtype == np.float32


def test_muon_s_defaults_are_jordan_s():
    w, m, g = np.eye(2), np.ones((2, 2)), np.array([[2.0, 1.0], [0.0, 1.0]])
    muon(w, g, m, 0.1)
    assert np.allclose(m, 0.95 + g, rtol=1e-15)
    np.testing.assert_allclose(w, 0.995 * np.eye(2) - 0.1 * by_singular_values(g + 0.95 * m), atol=1e-12)


@pytest.mark.parametrize("sizes", [(8, 8, 8), (8, 2, 2)])
def test_q_k_and_v_are_orthogonalised_each_by_itself(sizes):
    """Also where queries share keys and values. The tensor is changed in place, and so is its momentum."""
    random = np.random.default_rng(2)
    name = "model.layers.0.self_attn.vision_expert_query_key_value.weight"
    parts = [random.standard_normal((size, 8)) for size in sizes]
    w, m, g = np.zeros((sum(sizes), 8)), np.zeros((sum(sizes), 8)), np.concatenate(parts)
    for each in zip(*(unpacked(name, array) for array in (w, g, m))):
        muon(*each, 0.1)
    np.testing.assert_allclose(w, np.concatenate([-0.1 * by_singular_values(1.95 * part) for part in parts]),
                               rtol=1e-9)
    assert np.array_equal(m, g)
    [alone] = unpacked("model.vision.transformer.layers.0.mlp.fc1.weight", w)
    assert alone.shape == w.shape and np.shares_memory(alone, w)


def test_what_is_orthogonal(make_config):
    """Of a whole model: the matrices of the blocks and nothing else, no embedding, head, convolution, norm or bias."""
    for family in ("cogvlm1", "cogvlm2"):
        shapes = make_config(family).shapes()
        found = {name for name, shape in shapes.items() if orthogonal(name, np.empty(shape))}
        layers = {name for name in shapes if ".layers." in name}
        assert found == {name for name in layers if name.endswith("weight") and "norm" not in name}
        packed = {name for name in found if len(unpacked(name, np.empty(shapes[name]))) == 3}
        assert packed == {name for name in found if "query_key_value" in name}
        assert all(decays(name, np.empty(shapes[name])) for name in found)


def test_what_decays(make_config):
    """Of a whole model: norms, biases, embeddings, boi and eoi do not."""
    for family in ("cogvlm1", "cogvlm2"):
        shapes = make_config(family).shapes()
        kept = {name for name, shape in shapes.items() if not decays(name, np.empty(shape))}
        assert {name for name in shapes if name.endswith("bias") or "norm" in name} < kept
        assert {"model.embed_tokens.weight", "model.vision.boi", "model.vision.eoi",
                "model.vision.patch_embedding.cls_embedding",
                "model.vision.patch_embedding.position_embedding.weight"} < kept
        assert not kept & {"lm_head.weight", "model.vision.patch_embedding.proj.weight",
                           "model.layers.0.mlp.vision_mlp.up_proj.weight"}
        matrices = [name for name in kept if len(shapes[name]) > 1 and "embed" not in name and "oi" not in name]
        assert not matrices


def test_clipping_shortens_what_is_too_long_and_nothing_else():
    assert clipping(5.0, 1.0) == pytest.approx(0.2, rel=1e-6) and clipping(5.0, 1.0) <= 0.2
    assert clipping(0.5, 1.0) == clipping(0.0, 1.0) == 1


def test_the_rate_climbs_then_falls_to_zero():
    rates = [cosine(step, 100, 2.0, 10) for step in range(1, 101)]
    assert rates[0] == 0.2 and rates[9] == 2 and abs(rates[54] - 1) < 1e-12 and abs(rates[99]) < 1e-12
    assert all(np.diff(rates[:10]) > 0) and all(np.diff(rates[9:]) < 0)
    assert cosine(1, 1, 2.0, 0) == 0 and cosine(1, 2, 2.0, 0) == 1 and cosine(5, 5, 2.0, 5) == 2


def test_the_first_pattern_that_matches_gives_the_factor():
    groups = {"model.layers.*.language_*": 0.1, "model.*": 0.5}
    assert group_factor("model.layers.3.mlp.language_mlp.up_proj.weight", groups) == 0.1
    assert group_factor("model.norm.weight", groups) == 0.5
    assert group_factor("lm_head.weight", groups) == 1 == group_factor("lm_head.weight", {})


def test_the_average_follows():
    average = np.array([1.0])
    for step, expected in ((1, 1 + 9 / 11), (2, 2 - (1 - 9 / 11) * 3 / 12)):
        follow(average, np.array([2.0]), step, 0.999)
        assert average[0] == pytest.approx(expected, rel=1e-15)
    follow(average, np.array([0.0]), 10 ** 6, 0.999)
    assert average[0] == pytest.approx(0.999 * expected, rel=1e-12)


def test_nesterov_is_its_equation_and_pytorch_s_form():
    """w - rate (g + b m), m = b m + g: torch.optim.SGD(nesterov=True), dampening 0."""
    random = np.random.default_rng(0)
    w = random.standard_normal((3, 2))
    expected, m, moment = w.copy(), np.zeros((3, 2)), np.zeros((3, 2))
    for _ in range(4):
        g = random.standard_normal((3, 2))
        nesterov(w, g, moment, 0.1, 0.8, 0.05, 0.5)
        m = 0.8 * m + 0.5 * g
        expected = (1 - 0.1 * 0.05) * expected - 0.1 * (0.5 * g + 0.8 * m)
        np.testing.assert_allclose(w, expected, rtol=1e-13)
    np.testing.assert_allclose(moment, m, rtol=1e-13)
