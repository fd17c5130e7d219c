"""HuBERT: spans, clusters, MFCCs, other geometries of its loss, and what `load` makes of a folder."""
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from small_relatives import drawn
from test_relatives import check_gradient
from tinycogvlm.inputs import audio
from tinycogvlm.loading import load
from tinycogvlm.nn.swap import swapped
from tinycogvlm.nn.tree import Params
from tinycogvlm.relatives import hubert, registry
from tinycogvlm.relatives.fields import Fields

LARGE = {"conv": [[6, 10, 5], [6, 3, 2]], "extractor_mode": "layer_norm", "conv_bias": True, "encoder_embed_dim": 8,
         "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_embed_dim": 10, "conv_pos": 5,
         "conv_pos_groups": 2, "final_dim": 4, "layer_norm_first": True, "codes": [5, 3], "untie_final_proj": True,
         "logit_temp": 0.1, "feature_grad_mult": 0.1, "label_rate": 800.0, "loss_weights": [10.0]}
BASE = {"model_type": "hubert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 6, "conv_dim": [4, 4], "conv_kernel": [10, 3], "conv_stride": [5, 2],
        "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}


def example(fields):
    """(case, geometry, weights, inputs) with padding in the second of two waves"""
    case, random = registry.cases()["hubert_pretrain"], np.random.default_rng(4)
    config = case.config(Fields(fields), {})
    weights = drawn(hubert.shapes(config), random)
    padding = np.zeros((2, 160), int)
    padding[1, 100:] = 1
    inputs = {"source": random.standard_normal((2, 160)), "padding_mask": padding,
              "mask": random.integers(0, 2, (2, 15)), "target0": random.integers(0, 5, (2, 16)),
              "target1": random.integers(0, 3, (2, 16))}
    return case, config, weights, inputs


@pytest.mark.parametrize("change", [{}, {"extractor_mode": "default", "conv_bias": False}, {"layer_norm_first": False},
                                    {"untie_final_proj": False, "conv_pos": 6}])
def test_gradients_of_other_geometries(change):
    """Norms before the sublayers, a norm after each convolution, two sets of targets, kernels of odd size"""
    case, config, weights, inputs = example(LARGE | change)
    with swapped({hubert.slowed: lambda gradient, slow: gradient}):
        check_gradient(case, config, weights, inputs, {"loss": np.ones(())})


def test_padding_changes_nothing():
    """Neither its samples' nor its targets' values, where each frame has a norm of its own."""
    case, config, weights, inputs = example(LARGE)
    y = case.run(inputs, Params(weights), config)[0]
    other = inputs | {"target0": inputs["target0"].copy(), "source": inputs["source"].copy()}
    other["target0"][1, 11:] = (other["target0"][1, 11:] + 1) % 5
    z = case.run(other, Params(weights), config)[0]
    assert z["loss"] == y["loss"] and y["frame_padding"].sum() == 5
    np.testing.assert_array_equal(y["frame_padding"][1], np.arange(15) >= 10)


def test_spans():
    hidden = hubert.spans(200, 100, np.random.default_rng(0))
    assert 0.5 < hidden.mean() < 0.6                        # 8 spans of 10 with overlaps: 1 - (1 - 0.1)^8 = 0.57
    assert hidden.sum(1).min() >= 10 and hidden.shape == (200, 100)
    starts = np.flatnonzero(np.diff(np.concatenate([[0], hidden[0], [0]])) == 1)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], hidden[0], [0]])) == -1)
    assert (ends - starts >= 10).all()
    assert hubert.spans(3, 5, np.random.default_rng(0)).all()           # fewer frames than a span


def test_k_means():
    random = np.random.default_rng(1)
    middles = np.array([[0.0, 0], [9, 0], [0, 9], [9, 9]])
    right = random.integers(0, 4, 300)
    x = middles[right] + random.standard_normal((300, 2)) * 0.3
    centres = hubert.k_means(x, 4, random)
    found = hubert.clusters(x, centres)
    for i in range(4):
        assert len(set(found[right == i])) == 1
        np.testing.assert_allclose(centres[found[right == i][0]], x[right == i].mean(0), rtol=0, atol=1e-9)
    same = hubert.k_means(np.ones((6, 2)), 3, random)
    np.testing.assert_array_equal(same, np.ones((3, 2)))


def test_mfcc():
    random = np.random.default_rng(2)
    wave = random.standard_normal(16000)
    found = audio.mfcc(wave)
    assert found.shape == (101, 39)
    np.testing.assert_allclose(audio.mfcc(3 * wave)[:, 0] - found[:, 0], np.sqrt(26) * np.log(9), rtol=1e-9)
    np.testing.assert_allclose(audio.mfcc(3 * wave)[:, 1:], found[:, 1:], rtol=0, atol=1e-9)        # but for loudness
    line = np.arange(10.0)[:, None] * [2.0, -1.0]
    np.testing.assert_allclose(audio.slopes(line)[2:-2], np.tile([2.0, -1.0], (6, 1)), rtol=1e-12)
    assert np.isfinite(audio.mfcc(np.zeros(1600))).all()


@pytest.mark.parametrize("old", [False, True])
def test_a_folder(tmp_path, old):
    """By either name of the positions' weights"""
    random = np.random.default_rng(0)
    (tmp_path / "config.json").write_text(json.dumps(BASE), encoding="utf-8")
    leaves = {name: np.asarray(random.standard_normal(shape), np.float32) for name, shape in
              hubert.shapes(hubert.hugging_face(Fields(BASE), ())).items()}
    for part, name in (("0", "weight_g"), ("1", "weight_v")) if old else ():
        leaves[f"encoder.pos_conv_embed.conv.{name}"] = leaves.pop(
            f"encoder.pos_conv_embed.conv.parametrizations.weight.original{part}")
    save_file(leaves, tmp_path / "model.safetensors")
    model = load(tmp_path)
    wave = random.standard_normal(1600).astype(np.float32) + 1
    assert model.features(wave).shape == (159, 8) and np.isfinite(model.features(wave)).all()
    np.testing.assert_array_equal(model.wave(wave), wave)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": true}', encoding="utf-8")
    assert abs(model.wave(wave).mean()) < 1e-6 and model.wave(wave).std() == pytest.approx(1, abs=1e-3)
