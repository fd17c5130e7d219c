"""CLAP: windows that shift, the fold of a spectrogram, and what `load` makes of a folder."""
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tinycogvlm.errors import UserError
from tinycogvlm.inputs import audio
from tinycogvlm.loading import load
from tinycogvlm.relatives import clap
from tinycogvlm.relatives.fields import Fields

FIELDS = {"model_type": "clap", "projection_dim": 5,
          "audio_config": {"num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_embeds_hidden_size": 4,
                           "depths": [2, 1], "num_attention_heads": [1, 2], "window_size": 4},
          "text_config": {"hidden_size": 6, "intermediate_size": 5, "num_hidden_layers": 1, "num_attention_heads": 2,
                          "vocab_size": 11, "max_position_embeddings": 8}}


@pytest.mark.parametrize("side, window, shift", [(8, 4, 2), (12, 3, 1), (10, 5, 2)])
def test_only_neighbours_see_each_other_across_a_shift(side, window, shift):
    """Patches of a window of the turned picture that were as near before: nearer than a window in both directions"""
    turned = [(i + shift) % side for i in range(side)]      # where each row and column was
    for number, visible in enumerate(clap.together(side, window, shift)):
        top, left = number // (side // window) * window, number % (side // window) * window
        places = [(turned[top + i], turned[left + j]) for i in range(window) for j in range(window)]
        for a, (row, column) in enumerate(places):
            for b, (other_row, other_column) in enumerate(places):
                near = abs(row - other_row) < window and abs(column - other_column) < window
                assert visible[a, b] == near


def test_each_way_has_its_own_bias():
    ways = clap.ways(3)
    assert ways.shape == (9, 9) and len(np.unique(ways)) == 25 == ways.max() + 1
    assert ways[0, 1] == ways[3, 4] == ways[7, 8] != ways[1, 0]                  # one to the left of the other


def test_a_spectrogram_is_folded_a_quarter_below_the_other():
    """As many frames as fit are not stretched; rows are frequencies of the first quarter, then of the second."""
    x = np.arange(16 * 2 * 1.0).reshape(1, 16, 2)
    square, _ = clap.folded(np.concatenate([x, x + 100], 1), 8)
    assert square.shape == (1, 8, 8)
    long = np.concatenate([x, x + 100], 1)[0]
    for part in range(4):
        for mel in range(2):
            np.testing.assert_allclose(square[0, part * 2 + mel], long[part * 8:part * 8 + 8, mel], rtol=1e-12)
    ramp = np.linspace(0, 1, 10)[None, :, None] * [1.0, 1.0]
    stretched, _ = clap.folded(ramp, 8)
    np.testing.assert_allclose(stretched[0, [0, 7], [0, 7]], [0, 1], atol=1e-12)      # the ends keep their places
    with pytest.raises(UserError, match="33 frames is too long: the tower takes 32"):
        clap.folded(np.zeros((1, 33, 2)), 8)


def test_what_cannot_be_read_is_refused():
    for change, said in (({"enable_fusion": True}, "enable_fusion"), ({"window_size": 5}, "windows fill"),
                         ({"depths": [2]}, "as many numbers"), ({"num_mel_bins": 15}, "spec_size")):
        with pytest.raises(UserError, match=said):
            clap.hugging_face(Fields(FIELDS | {"audio_config": FIELDS["audio_config"] | change}))


def test_a_folder(tmp_path):
    random = np.random.default_rng(0)
    shapes = clap.shapes(clap.hugging_face(Fields(FIELDS)))
    leaves = {name: np.abs(random.standard_normal(shape)).astype(np.float32) * 0.3 for name, shape in shapes.items()}
    leaves["text_model.embeddings.position_ids"] = np.arange(8)[None]
    save_file({name: np.asarray(array) for name, array in leaves.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(FIELDS | {"audio_config": FIELDS["audio_config"] | {
        "spec_size": 64}}), encoding="utf-8")
    model = load(tmp_path)
    assert model.kind == "a CLAP" and "text_model.embeddings.position_ids" not in model.leaves
    second = np.sin(np.arange(48000, dtype=np.float32))
    mel = model.mel(second)
    assert mel.shape == (1, 1001, 16)
    filters = audio.mel_filters(16, 1024, 48000, 0.0, 14000.0)
    np.testing.assert_array_equal(mel[0], audio.clap_log_mel(np.tile(second, 10), filters))
    (tmp_path / "preprocessor_config.json").write_text('{"frequency_min": 50}', encoding="utf-8")
    assert not np.array_equal(model.mel(second), mel)


def test_a_pair_of_sounds_and_texts():
    """Rows are probabilities, and a text's padding changes nothing."""
    fields = FIELDS | {"audio_config": FIELDS["audio_config"] | {"num_mel_bins": 8, "spec_size": 128, "patch_size": 8}}
    config, random = clap.hugging_face(Fields(fields)), np.random.default_rng(1)
    leaves = {name: random.standard_normal(shape).astype(np.float32) for name, shape in clap.shapes(config).items()}
    leaves = {name: np.abs(array) if "running_var" in name else np.asarray(array) for name, array in leaves.items()}
    model = clap.CLAP(config, leaves)
    ids = np.array([[0, 5, 6, 2, 1, 1], [0, 7, 8, 9, 4, 2]])
    share = model.match([random.standard_normal(48000).astype(np.float32)], ids)
    assert share.shape == (1, 2) and share.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(model.text_features(ids)[:1], model.text_features(ids[:1, :4]), rtol=0, atol=1e-6)
