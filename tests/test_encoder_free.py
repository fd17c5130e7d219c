"""Fuyu and EVE, which have no vision encoder: folders, other geometries than the golden ones, bugs that must show."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from test_relatives import FOLDER, check_gradient, component

import tinycogvlm
from tinycogvlm.cli.main import main
from tinycogvlm.errors import UserError
from tinycogvlm.nn import activations
from tinycogvlm.nn.swap import swapped
from tinycogvlm.nn.tree import Params
from tinycogvlm.relatives import fuyu, registry
from tinycogvlm.relatives.fields import Fields
from tinycogvlm.verify import components

REAL = json.loads((Path(__file__).parent / "golden" / "real_shapes_encoder_free.json").read_text(encoding="utf-8"))
# config.json of the real folders, as far as it is not the library's default
CONFIGS = {
    "adept/fuyu-8b": {"architectures": ["FuyuForCausalLM"], "model_type": "fuyu", "text_config": {}},
}


@pytest.mark.parametrize("name", REAL)
def test_every_name_and_shape_of_the_real_one(name, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
    kind, fields = registry.checkpoint_in(tmp_path)
    shapes = kind.shapes(kind.config(fields))
    assert {key: list(shape) for key, shape in shapes.items()} == REAL[name]
    assert main(["info", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parameters"]["total"] == sum(np.prod(shape, dtype=int) for shape in REAL[name].values())


SMALL = {
    "fuyu": {"model_type": "fuyu", "patch_size": 4, "image_token_id": 11, "image_newline_id": 8, "size": {
        "height": 12, "width": 20}, "text_config": {
            "hidden_size": 16, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": 11}},
}


@pytest.fixture
def folder(tmp_path):
    """A function that lays out a small checkpoint of one of SMALL: config.json, random weights, and `extra` tensors"""
    def of(name, *extra):
        (tmp_path / "config.json").write_text(json.dumps(SMALL[name]), encoding="utf-8")
        kind, fields = registry.checkpoint_in(tmp_path)
        weights = {key: array.astype(np.float32) for key, array in drawn(kind.shapes(kind.config(fields))).items()}
        save_file(weights | {key: np.zeros(2, np.float32) for key in extra}, tmp_path / "model.safetensors")
        return tmp_path
    return of


def drawn(shapes, seed=5):
    random = np.random.default_rng(seed)
    return {key: random.standard_normal(shape) / max(1, np.prod(shape[1:])) ** 0.5 for key, shape in shapes.items()}


# ---------------------------------------------------------------------------------------------------------------- Fuyu

def test_fuyu_reads_pictures_of_two_sizes_by_its_folder(folder):
    model = tinycogvlm.load(folder("fuyu", "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"))
    assert isinstance(model, fuyu.Fuyu)
    random = np.random.default_rng(0)
    pictures = [model.patches(random.integers(0, 256, (*size, 3), np.uint8)) for size in ((5, 9), (40, 24))]
    assert [grid for _, grid in pictures] == [(2, 3), (3, 2)]                   # the second is shrunk to 12 x 7
    rows = [fuyu.layout(grid, [1, 3, 4], model.config) for _, grid in pictures]
    assert rows[0] == [11, 11, 11, 8, 11, 11, 11, 8, 1, 3, 4]
    ids, mask = fuyu.left_padded(rows)
    logits = model.logits(ids, np.concatenate([squares for squares, _ in pictures]), mask)
    assert logits.shape == (2, 12, 11) and logits.dtype == np.float32
    for b, (squares, _) in enumerate(pictures):                                 # padding changes nothing
        np.testing.assert_allclose(model.logits(np.array(rows[b:b + 1]), squares)[0], logits[b, -len(rows[b]):],
                                   atol=1e-5)
    answer = model.answer(np.array(rows[:1]), pictures[0][0], limit=4, end=None)
    whole = model.logits(np.array([rows[0] + answer]), pictures[0][0])
    assert answer == whole[0, len(rows[0]) - 1:-1].argmax(-1).tolist()          # with its cache as without
    with pytest.raises(UserError, match="the text has 6 places for pictures' tokens, of which there are 5"):
        model.logits(np.array(rows[:1]), pictures[0][0][:5])


def test_a_patch_is_row_column_colour_and_the_rest_is_nearly_black():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    squares, grid = fuyu.patches(Image.fromarray(picture), 4)
    assert grid == (2, 2) and squares.shape == (4, 48) and squares.dtype == np.float32
    for row in range(8):
        for column in range(8):
            mine = squares[row // 4 * 2 + column // 4].reshape(4, 4, 3)[row % 4, column % 4]
            byte = picture[row, column] if row < 5 and column < 7 else 1
            np.testing.assert_allclose(mine, (np.asarray(byte) / 255 - 0.5) / 0.5 * np.ones(3), atol=1e-6)


@pytest.mark.parametrize("size, shrunk", [((20, 28), (20, 28)), ((1, 1), (1, 1)), ((30, 55), (15, 27)),
                                          ((44, 3), (20, 1)), ((21, 28), (20, 26))])
def test_pictures_are_shrunk_never_enlarged(size, shrunk):
    assert fuyu.shrunk(Image.new("RGB", size[::-1]), (20, 28)).size == shrunk[::-1]


def test_boxes_to_text_and_back():
    assert fuyu.to_text([2, 5, 9, 12], 1.0) == [1, 2, 4, 6] and fuyu.to_text([6, 16], 0.5) == [2, 4]
    assert fuyu.to_pixels([2, 4], 0.5) == [8, 16]


FUYU = SMALL["fuyu"] | {"bos": 1, "boa": 4, "pad": 0, "max_tokens_to_generate": 2}


def test_gradient_of_another_fuyu():
    """A third of each head is turned; one row of the batch has no padding, the other has, and two rows of patches."""
    config = fuyu.hugging_face(Fields(FUYU | {"text_config": FUYU["text_config"] | {
        "hidden_size": 12, "partial_rotary_factor": 0.34, "hidden_act": "gelu"}}))
    assert config.rotated == 2
    ids, mask = fuyu.left_padded([fuyu.layout((2, 1), [1, 3], config), fuyu.layout((1, 3), [1, 5, 6], config)])
    labels = np.where(np.arange(ids.shape[1]) < 4, -100, ids)

    def run(x, p, config):
        value, pull = fuyu.loss(ids, x["squares"], labels, p, config, mask)
        return {"loss": value}, lambda dy, g: {"squares": pull(dy["loss"], g)}
    squares = np.random.default_rng(1).standard_normal((5, 48))
    check_gradient(registry.Case(None, fuyu.shapes, run), config, drawn(fuyu.shapes(config)), {"squares": squares},
                   {"loss": np.ones(())})


def heads_last(x, cos, sin):
    """Rotation of the whole head"""
    return fuyu.turned.own(x, *(np.concatenate([table, table], -1) for table in (cos, sin)))


@pytest.mark.parametrize("name, op, wrong, first", [
    ("fuyu", activations.squared_relu, activations.relu, "y/mlp0"),
    ("fuyu", fuyu.turned, heads_last, "y/attn0"),
])
def test_a_wrong_op_is_named_by_the_first_tensor_that_differs(name, op, wrong, first):
    with swapped({op: wrong}):
        assert components.verify(FOLDER, name).first_failure.name == first


@pytest.mark.parametrize("read, fields, sentence", [
    (fuyu.hugging_face, {"patch_size": 30, "size": {"height": 100}}, "size.height is 100, not a multiple of patch_size"),
    (fuyu.hugging_face, {"text_config": {"num_attention_heads": 3}}, "text_config.num_attention_heads is 3, not a divi"),
    (fuyu.hugging_face, {"qk_layernorm": False}, "qk_layernorm is False, not True, which is all"),
    (fuyu.hugging_face, {"partial_rotary_factor": 0.01}, "partial_rotary_factor is 0.01, not a share of 64 that is even"),
])
def test_a_geometry_that_cannot_be_is_refused(read, fields, sentence):
    with pytest.raises(UserError, match=sentence):
        read(Fields(fields))


def test_a_newline_tells_where_a_row_of_patches_ends():
    """2 x 3 and 3 x 2 patches are the same patches, in the same order: only the newlines tell them apart."""
    _, (config, _), weights, x, _ = component("fuyu")
    squares, p = x["patches0"][:6], Params(weights)
    a, b = (fuyu.logits(np.array([fuyu.layout(grid, [1, 7], config)]), squares, p, config)[0][0, -1]
            for grid in ((2, 3), (3, 2)))
    assert np.abs(a - b).max() > 0.01


@pytest.mark.parametrize("name, kind", [("fuyu", "a Fuyu")])
def test_what_load_and_the_commands_say(folder, name, kind, capsys):
    where = folder(name)
    assert main(["ask", "-", "What?", "--weights", str(where)]) == 1
    assert "only a CogVLM answers questions" in capsys.readouterr().err
    assert main(["info", str(where)]) == 0
    assert f"{where}: {kind}" in capsys.readouterr().out
    folder(name, "model.unknown.weight")
    with pytest.raises(UserError, match="tensor 'model.unknown.weight' is not part of the model"):
        tinycogvlm.load(where)
