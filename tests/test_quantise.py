"""Weights in 8 and 4 bits: the format to the bit, what rounding costs, and what it does to the trained model."""
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import tiny_config
from small_floats import numbers
from tinycogvlm import contracts, load
from tinycogvlm.evaluate.quantisation import Rounded, measure, relative_error
from tinycogvlm.model.parts import matrices
from tinycogvlm.storage import quantise as module
from tinycogvlm.model.config import Config
from tinycogvlm.errors import UserError
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.storage.checkpoint import Checkpoint
from tinycogvlm.storage.quantise import BITS, quantise

ROOT = Path(__file__).parents[1]
DTYPES = ["int8", "int4"]


def spec(q):
    """w[o, i] = (code[o, i] - 2^(bits - 1)) scale[o, i // 64], the codes one behind another, lowest bits first"""
    bits, (O, I) = BITS[q.dtype], q.shape
    scales, w = numbers(q.scales), np.zeros(q.shape)
    for o, i in contracts.over(O, I):
        code = q.codes[o, i * bits // 8] >> i * bits % 8 & 2 ** bits - 1
        w[o, i] = (int(code) - 2 ** (bits - 1)) * scales[o, i // 64]
    return w


def weights(O=6, I=192, seed=0):
    return contracts.random(O, I, seed=seed, scale=0.02).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_format(dtype):
    q = quantise(weights(), dtype)
    assert (q.shape, len(q), q.dtype) == ((6, 192), 6, dtype)
    assert q.codes.shape == (6, 192 * BITS[dtype] // 8) and q.scales.shape == (6, 3)
    assert q.nbytes == 6 * 192 * BITS[dtype] // 8 + 6 * 3 * 2
    assert np.array_equal(q.dequantised(), spec(q)) and q.dequantised(np.float16).dtype == np.float16
    assert np.array_equal(q[2:5], spec(q)[2:5]) and np.array_equal(q[np.array([4, 0])], spec(q)[[4, 0]])


def test_four_bits_to_the_byte():
    """-8 ... 7 in steps of a half: scale 0.5, codes 0 ... 15, the left column of two in the lower half of the byte."""
    w = np.tile(np.arange(-8, 8, dtype=np.float32) / 2, (1, 4))
    q = quantise(w, "int4")
    assert bytes(q.codes[0, :8]) == bytes.fromhex("1032547698badcfe") and numbers(q.scales) == [[0.5]]
    assert np.array_equal(q.dequantised(), w)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flip", [1, -1])
def test_the_largest_weight_of_either_sign_is_the_lowest_code(dtype, flip, monkeypatch):
    monkeypatch.setitem(module.CUTS, 4, (1,))
    w = weights()
    w[:, ::64] = 0.125 * flip
    q = quantise(w, dtype)
    assert np.array_equal(numbers(q.scales), np.full((6, 3), -0.25 * flip / 2 ** BITS[dtype]))
    assert np.array_equal(q.dequantised()[:, ::64], w[:, ::64])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounded_to_nearest(dtype, monkeypatch):
    """Within half a step, but for weights beyond the highest code, which become it."""
    monkeypatch.setitem(module.CUTS, 4, (1,))
    w = weights(40)
    q = quantise(w, dtype)
    step = np.repeat(numbers(q.scales), 64, 1)
    codes = w / step
    highest = 2 ** (BITS[dtype] - 1) - 1
    reached = codes <= highest + 0.5
    assert (abs(q.dequantised() - w) <= abs(step) * (0.5 + 1e-6))[reached].all()
    assert np.allclose(q.dequantised()[~reached], (step * highest)[~reached], rtol=1e-6)
    assert (codes < highest + 1.1).all()


def test_four_bits_take_the_best_of_five_scales(monkeypatch):
    """In every group; all five are chosen somewhere, and together they save 3 to 6 % of the error of the first."""
    w = weights(200)

    def errors(*cuts):
        monkeypatch.setitem(module.CUTS, 4, cuts)
        q = quantise(w, "int4")
        return ((q.dequantised() - w).astype(np.float64).reshape(200, 3, 64) ** 2).sum(-1), q.scales
    tried = {cut: errors(cut) for cut in (1, .95, .9, .85, .8)}
    chosen, scales = errors(*tried)
    assert np.allclose(chosen, np.min([error for error, _ in tried.values()], 0), rtol=1e-5)
    assert all((scales == one).any() for _, one in tried.values())
    assert 0.94 < np.sqrt(chosen.sum() / tried[1][0].sum()) < 0.97


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_power_of_two_changes_nothing_but_the_scale(dtype):
    """However small or large weights are: their codes are the same."""
    w = weights()
    q = quantise(w, dtype)
    for power in (-40, 40):
        scaled = quantise(w * np.float32(2.0 ** power), dtype)
        assert np.array_equal(scaled.codes, q.codes)
        assert np.array_equal(numbers(scaled.scales), numbers(q.scales) * 2.0 ** power)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_stay_zero(dtype):
    w = weights()
    w[1], w[2, 64:128] = 0, 0
    rounded = quantise(w, dtype).dequantised()
    assert not rounded[1].any() and not rounded[2, 64:128].any() and np.isfinite(rounded).all()
    assert relative_error(rounded, w) < (0.007 if dtype == "int8" else 0.1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_few_rows_at_a_time(dtype, monkeypatch):
    """As from a file: no more rows than a chunk are asked for, and the result is that of all at once."""
    w, asked = weights(50), []

    class Rows:
        shape = w.shape

        def __getitem__(self, rows):
            asked.append(len(w[rows]))
            return w[rows]
    whole = quantise(w, dtype)
    monkeypatch.setattr(module, "CHUNK", 7 * 192 + 5)
    parts = quantise(Rows(), dtype)
    assert asked == [7] * 7 + [1] and np.array_equal(parts.codes, whole.codes)
    assert np.array_equal(parts.scales, whole.scales) and np.array_equal(parts.dequantised(), whole.dequantised())


def test_from_a_checkpoint_and_a_convolution():
    tensor = Checkpoint(ROOT / "weights" / "tiny")["model.layers.0.mlp.language_mlp.down_proj.weight"]
    assert np.array_equal(quantise(tensor, "int4").dequantised(), quantise(tensor.numpy(), "int4").dequantised())
    w = weights(5, 256).reshape(5, 64, 2, 2)
    q = quantise(w, "int8")
    assert q.shape == q.dequantised().shape == (5, 64, 2, 2) and q[1:3].shape == (2, 64, 2, 2)
    assert np.array_equal(q.dequantised().reshape(5, -1), quantise(w.reshape(5, -1), "int8").dequantised())


def test_what_cannot_be_quantised():
    with pytest.raises(UserError, match=r"shape \(6, 100\) .* a multiple of 64"):
        quantise(weights(6, 100), "int8")
    with pytest.raises(UserError, match="shape .64,."):
        quantise(np.ones(64, np.float32), "int8")
    with pytest.raises(UserError, match="'int3' is not one of int8, int4"):
        quantise(weights(), "int3")
    for value in (np.nan, np.inf, -np.inf):
        w = weights()
        w[3, 5] = value
        with pytest.raises(UserError, match="NaN or infinite"):
            quantise(w, "int4")


def test_which_matrices():
    """Of the two real geometries and the shipped one: all but the ends, the position table and the patch embedding."""
    vision = dict(hidden_size=1792, num_hidden_layers=63, num_heads=16, intermediate_size=15360, patch_size=14)
    for family, grid, heads in (("cogvlm1", 35, 32), ("cogvlm2", 96, 8)):
        config = tiny_config(family, hidden_size=4096, intermediate_size=11008 if family == "cogvlm1" else 14336,
                             num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=heads, vocab_size=32000,
                             vision=vision | dict(image_size=14 * grid))
        shapes = config.shapes()
        names, parameters = matrices(shapes), sum(map(np.prod, shapes.values()))
        assert len(names) == 32 * 2 * 5 + 63 * 4 + 4 + (family == "cogvlm2")
        kept = {name for name, shape in shapes.items() if name.endswith("weight") and len(shape) > 1} - set(names)
        assert kept == {"model.embed_tokens.weight", "lm_head.weight", "model.vision.patch_embedding.proj.weight",
                        "model.vision.patch_embedding.position_embedding.weight"}
        assert sum(np.prod(shapes[name]) for name in names) > 0.98 * parameters
        assert set(matrices(shapes, head=True)) == {*names, "model.embed_tokens.weight", "lm_head.weight"}
    assert len(matrices(Config.read(ROOT / "weights" / "tiny").shapes())) == 60


# ---------------------------------------------------------------------------------------------------- the trained model

# Measured on weights/tiny and the README's picture: the largest relative error of a matrix and of a layer's output,
# that of the logits, and the share of tokens whose best next token stays
#     int8   0.0081   0.0110   0.0049   1.00        with head   0.0098   0.0110   0.0086   1.00
#     int4   0.1073   0.1838   0.0615   0.88                    0.1483   0.1838   0.1200   1.00
MOST = {("int8", False): (0.009, 0.0125, 0.006, 0.95), ("int8", True): (0.011, 0.0125, 0.01, 0.95),
        ("int4", False): (0.12, 0.2, 0.07, 0.8), ("int4", True): (0.16, 0.2, 0.135, 0.8)}


@pytest.fixture(scope="module")
def model():
    return load(ROOT / "weights" / "tiny")


@pytest.fixture(scope="module")
def picture():
    with Image.open(ROOT / "lessons" / "images" / "park.png") as picture:
        return picture.convert("RGB")


@pytest.mark.parametrize("dtype, head", MOST)
def test_errors_of_the_trained_model(model, picture, dtype, head):
    errors = measure(model, model.inputs("Where is the dog?", picture), dtype, head)
    weight, layer, logits, same = MOST[dtype, head]
    assert len(errors.weights) == 60 + 2 * head and weight / 2 < max(errors.weights.values()) <= weight
    assert set(errors.layers) == {f"{part}/layer{i}/out" for part in ("vit", "lm") for i in range(4)} | {"adapter/out"}
    assert layer / 2 < max(errors.layers.values()) <= layer
    assert logits / 2 < errors.logits <= logits and errors.same >= same


def test_int8_says_the_same(model, picture):
    leaves = Rounded(model.leaves, "int8", head=True)
    rounded = CogVLM(model.config, {name: leaves[name] for name in leaves}, model.tokenizer, model.rotary)
    for question in ("Where is the dog?", "How many things are there?", "Describe the picture."):
        assert str(rounded.ask(picture, question)) == str(model.ask(picture, question))


def test_embedding_rows_come_from_codes(model):
    """ops.embedding's W[ids] of a quantised table is those rows of the dequantised one."""
    table, ids = quantise(model.leaves["model.embed_tokens.weight"], "int4"), np.array([[5, 5, 890], [0, 7, 5]])
    assert np.array_equal(table[ids], table.dequantised()[ids])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_scale_is_the_best_of_the_cuts(dtype):
    """For each group the scale, bfloat16 rounded away from zero, whose rounding loses least; the first of equals."""
    w, zero = weights(1000, 64, seed=3), 2 ** (BITS[dtype] - 1)
    for row, stored in zip(w, quantise(w, dtype).scales[:, 0]):
        largest = row.max() if row.max() > -row.min() else row.min()
        tried = []
        for cut in module.CUTS[BITS[dtype]]:
            exact = np.float32(largest * np.float32(-cut / zero))
            bits = np.uint16(int(exact.view(np.uint32)) + 0xFFFF >> 16)
            scale = np.float32(numbers(bits))
            error = np.square(np.clip(np.rint(row / scale), -zero, zero - 1) * scale - row).sum()
            tried.append((error, bits))
        assert stored == min(tried, key=lambda pair: pair[0])[1]
