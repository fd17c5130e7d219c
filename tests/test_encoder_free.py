"""Fuyu and EVE, which have no vision encoder: folders, other geometries than the golden ones, bugs that must show."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_relatives import check_real_names, drawn, lay_out
from test_relatives import FOLDER, check_gradient, component

import tinycogvlm
from tinycogvlm.cli.main import main
from tinycogvlm.errors import UserError
from tinycogvlm.nn import activations, ops
from tinycogvlm.nn.convolution import adaptive_average_pool
from tinycogvlm.nn.swap import swapped
from tinycogvlm.nn.tree import Params
from tinycogvlm.relatives import eve, fuyu, registry
from tinycogvlm.relatives.fields import Fields
from tinycogvlm.relatives.transformer import next_word_loss
from tinycogvlm.verify import components

REAL = json.loads((Path(__file__).parent / "golden" / "real_shapes_encoder_free.json").read_text(encoding="utf-8"))
# config.json of the real folders, as far as it is not the library's default
CONFIGS = {
    "adept/fuyu-8b": {"architectures": ["FuyuForCausalLM"], "model_type": "fuyu", "text_config": {}},
    "BAAI/EVE-7B-v1.0": {"mm_vision_tower": "openai/eve-patch14-anypixel-672", "mm_hidden_size": 1024,
                         "mm_projector_type": "mlp2x_gelu", "vocab_size": 32000, "rms_norm_eps": 1e-5},
    "BAAI/EVE-7B-HD-v2.0": {
        "model_type": "eve-qwen2", "mm_vision_tower": "openai/eve-anyratio-res1600-patch16", "mm_hidden_size": 1024,
        "add_moe": True, "moe_part": "self_attn-mlp-layernorm", "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
        "rope_theta": 1000000.0},
}


@pytest.mark.parametrize("name", REAL)
def test_every_name_and_shape_of_the_real_one(name, tmp_path, capsys):
    check_real_names(tmp_path, CONFIGS[name], REAL[name], capsys)


SMALL = {
    "fuyu": {"model_type": "fuyu", "patch_size": 4, "image_token_id": 11, "image_newline_id": 8, "size": {
        "height": 12, "width": 20}, "text_config": {
            "hidden_size": 16, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": 11}},
    "eve": {"mm_vision_tower": "openai/eve-patch14-anypixel-672", "mm_hidden_size": 8, "hidden_size": 12,
            "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 11},
    "eve v2": {"mm_vision_tower": "openai/eve-anyratio-res64-patch16", "mm_hidden_size": 6, "hidden_size": 16,
               "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
               "vocab_size": 11},
}


@pytest.fixture
def folder(tmp_path):
    """A function that lays out a small checkpoint of one of SMALL: config.json, random weights, and `extra` tensors"""
    return lambda name, *extra: lay_out(tmp_path, SMALL[name], *extra, seed=5)


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
    stopped = model.answer(np.array(rows[:1]), pictures[0][0], limit=4, end=answer[1])
    assert stopped == answer[:answer.index(answer[1]) + 1]
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


def scale_of_a_head(q, k, v, heads):
    return eve.one_query.own(q * heads ** 0.5, k, v, heads)


def columns_of_patches(x, s):
    """Each token's patches from the next column of tokens"""
    return eve.squares.own(np.roll(x, s, 2), s)


def upside_down(x, size):
    return adaptive_average_pool.own(x[:, :, ::-1], size)


def without_own_norms(own):
    return eve.parts_of.own(own[:2])


def last_token_as_text(visual, mask, xp):
    """CogVLM's rule"""
    shorter = visual.copy()
    shorter[:, :-1] &= visual[:, 1:]
    return eve.tokens_of.own(shorter, mask, xp)


@pytest.mark.parametrize("name, op, wrong, first", [
    ("fuyu", activations.squared_relu, activations.relu, "y/mlp0"),
    ("fuyu", fuyu.turned, heads_last, "y/attn0"),
    ("eve_v1_patch_embedding", eve.one_query, scale_of_a_head, "y/tokens0"),
    ("eve_v1_patch_embedding", eve.squares, columns_of_patches, "y/tokens0"),
    ("eve_v1_patch_aligning", eve.one_query, scale_of_a_head, "y/loss"),
    ("eve_v1_patch_aligning", adaptive_average_pool, upside_down, "y/loss"),
    ("eve_v2_patch_embedding", ops.gelu, ops.silu, "y/tokens0"),
    ("eve_v2_layer", eve.parts_of, without_own_norms, "y/attn_in0"),
    ("eve_v2_layer", eve.tokens_of, last_token_as_text, "y/attn_in0"),
])
def test_a_wrong_op_is_named_by_the_first_tensor_that_differs(name, op, wrong, first):
    with swapped({op: wrong}):
        assert components.verify(FOLDER, name).first_failure.name == first


@pytest.mark.parametrize("read, fields, sentence", [
    (fuyu.hugging_face, {"patch_size": 30, "size": {"height": 100}}, "size.height is 100, not a multiple of patch"),
    (fuyu.hugging_face, {"text_config": {"num_attention_heads": 3}}, "text_config.num_attention_heads is 3, not a div"),
    (fuyu.hugging_face, {"qk_layernorm": False}, "qk_layernorm is False, not True, which is all"),
    (fuyu.hugging_face, {"partial_rotary_factor": 0.01}, "partial_rotary_factor is 0.01, not a share of 64"),
    (eve.hugging_face, {"mm_vision_tower": "openai/eve-patch14-anypixel-100"}, "mm_vision_tower is .*, not a name"),
    (eve.hugging_face, {"mm_projector_type": "linear"}, "mm_projector_type is 'linear', not one of mlp2x_gelu"),
    (eve.hugging_face_v2, {"mm_vision_tower": "eve-anyratio-res64-patch16", "moe_part": ""}, "moe_part is '', not"),
    (eve.aligning_of, {"num_layer": 2, "llm": 4, "clip": 8}, "layer_rate is 4, not at most num_layer 2"),
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


# ----------------------------------------------------------------------------------------------------------------- EVE

def pictures_of(sizes, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (height, width, 3), np.uint8) for width, height in sizes]


@pytest.mark.parametrize("name, sizes, grids", [
    ("eve", [(480, 20), (18, 540)], [(1, 24), (24, 1)]),
    ("eve v2", [(30, 90), (64, 64), (1, 400)], [(4, 2), (2, 2), (40, 1)]),              # 1:3 stays about 1:3
])
def test_eve_reads_pictures_of_any_shape_by_its_folder(folder, name, sizes, grids):
    model = tinycogvlm.load(folder(name, "model.vision_tower_compressor.input_layer.bias"))
    assert isinstance(model, eve.EVE)
    pictures = [model.pixels(picture) for picture in pictures_of(sizes)]
    rows, found = model.tokens(pictures)
    assert [tuple(grid) for grid in found] == grids
    assert rows.dtype == np.float32 and len(rows) == sum(1 + h * (w + 1) for h, w in grids)
    ids = np.array([eve.with_room([1, -200, 3, -200, 4], grids[:2], model.config)])
    logits = model.logits(ids, pictures[:2])
    assert logits.shape == (*ids.shape, 11)
    answer = model.answer(ids, pictures[:2], limit=3, end=None)
    whole = model.logits(np.concatenate([ids, [answer]], 1), pictures[:2])
    assert answer == whole[0, ids.shape[1] - 1:-1].argmax(-1).tolist()          # with its cache as without
    with pytest.raises(UserError, match="places for pictures' tokens"):
        model.logits(ids, pictures[:1])


@pytest.mark.parametrize("name, size, wanted", [
    ("eve", (1000, 1000), (672, 672)), ("eve", (1000, 300), (672, 224)), ("eve", (1, 1000), (28, 672)),
    ("eve v2", (1000, 1000), (64, 64)), ("eve v2", (900, 300), (128, 64)), ("eve v2", (1, 10000), (32, 6400))])
def test_sizes_of_pictures(folder, name, size, wanted):
    model = tinycogvlm.load(folder(name))
    assert (eve.sides_v2 if model.config.own else eve.sides)(size, model.config) == wanted
    if max(wanted) < 1000:
        assert model.pixels(Image.new("RGB", size)).shape == (3, *wanted[::-1])


def test_tokens_are_cls_and_rows_that_end_in_a_split():
    _, config, weights, x, _ = component("eve_v2_patch_embedding")
    y, (h, w), _ = eve.embed_patches_v2(x["pixel0"], Params(weights), config)
    assert len(y) == 1 + h * (w + 1)
    np.testing.assert_array_equal(y[0], weights["class_embedding"])
    for row in range(h):
        np.testing.assert_array_equal(y[(row + 1) * (w + 1)], weights["split_embedding"])


@pytest.mark.parametrize("name, own", [("eve", None), ("eve v2", "self_attn-mlp-layernorm"),
                                       ("eve v2", "self_attn-mlp"), ("eve v2", "mlp")])
def test_gradient_of_a_whole_eve(name, own):
    """Two pictures in one text, padding in the other; with fewer experts two kinds of tokens share a tensor."""
    fields = SMALL[name] | ({"moe_part": own} if own else {})
    kind = next(kind for kind in eve.CHECKPOINTS if kind.knows(fields))
    config, unit = kind.config(Fields(fields)), 32 if own else 28
    shapes = kind.shapes(config)
    assert any("moe_" in key for key in shapes) == bool(own)
    ids = np.array([eve.with_room([1, -200, 3, -200, 4], [(1, 2), (2, 1)], config),
                    eve.with_room([1, 5, -200, 6, 7, 0, 0], [(1, 2)], config) + [0] * 2])
    mask = (ids != 0).astype(int)
    random = np.random.default_rng(2)
    pictures = {str(i): random.standard_normal((3, unit * h, unit * w))
                for i, (h, w) in enumerate([(1, 2), (2, 1), (1, 2)])}

    def run(x, p, config):
        y, pull = eve.logits(ids, [x[str(i)] for i in range(3)], p, config, mask)
        return {"logits": y}, lambda dy, g: {str(i): dx for i, dx in enumerate(pull(dy["logits"], g))}
    dy = random.standard_normal((*ids.shape, 11)) * mask[..., None]
    check_gradient(registry.Case(None, None, run), config, drawn(shapes), pictures, {"logits": dy})


def aligning(layers=3):
    config = eve.Aligning(6, 8, tuple(range(2 * layers - 2, -1, -2)))
    random = np.random.default_rng(4)
    hidden = {str(i): random.standard_normal((3, 14, 6)) for i in range(layers)}
    teachers = [random.standard_normal((1, 2, 8)), None, random.standard_normal((2, 2, 8))]
    return config, hidden, [1, None, 0], [(2, 4), (1, 1), (4, 2)], teachers


def test_gradient_of_aligning_with_fewer_teacher_s_patches():
    """Four tokens to one of the teacher's patches, two to one, and a text without a picture."""
    config, hidden, starts, grids, teachers = aligning()

    def run(x, p, config):
        value, pull = eve.aligning_loss([x[key] for key in hidden], starts, grids, teachers, p)
        return {"loss": value}, lambda dy, g: dict(zip(hidden, pull(dy["loss"], g)))
    check_gradient(registry.Case(None, None, run), config, drawn(eve.aligning_shapes(config)), hidden,
                   {"loss": np.ones(())})


def test_gradient_of_both_losses_of_the_first_stages():
    """A text without a picture between two with one; the losses are those of the parts."""
    config = eve.hugging_face(Fields(SMALL["eve"]))
    aligning = eve.Aligning(12, 8, (2, 1, 0))
    weights = drawn(eve.shapes(config) | {
        f"{eve.ALIGNER}.{key}": shape for key, shape in eve.aligning_shapes(aligning).items()})
    ids = np.array([eve.with_room([1, -200, 3, 4], [(1, 2)], config), [1, 2, 3, 4, 5, 0, 0],
                    eve.with_room([-200, 6, 7, 8], [(1, 2)], config)])
    labels, mask = np.where(ids > 2, ids, -100), (ids != 0).astype(int)
    random = np.random.default_rng(2)
    pictures = {key: random.standard_normal((3, 28, 56)) for key in "ab"}
    teachers = [random.standard_normal((1, n, 8)) for n in (2, 1)]

    def run(x, p, config):
        y, pull = eve.pretraining(ids, [x["a"], x["b"]], labels, teachers, p, config, aligning, mask)
        return y, lambda dy, g: dict(zip("ab", pull(dy["loss"], g)))
    check_gradient(registry.Case(None, None, run), config, weights, pictures, {"loss": np.ones(())})
    y, _ = run(pictures, Params(weights), config)
    z, _ = eve.logits(ids, [*pictures.values()], Params(weights), config, mask)
    assert y["loss_words"] == pytest.approx(next_word_loss(z, labels)[0], rel=1e-12)
    assert y["loss"] == y["loss_words"] + y["loss_aligning"] and 0 < y["loss_aligning"] < 2


def test_the_aligning_loss_is_0_where_the_student_says_what_the_teacher_says_and_2_where_the_opposite():
    config, hidden, starts, grids, teachers = aligning()
    p = Params(drawn(eve.aligning_shapes(config)))
    states = list(hidden.values())
    said = []
    for b in (0, 2):
        h, w = grids[b]
        one = np.stack([layer[b, starts[b] + 1:starts[b] + 1 + h * (w + 1)].reshape(h, w + 1, 6)[:, :w]
                        for layer in states])
        said.append(eve.student(one, teachers[b].shape[:2], p)[0].reshape(teachers[b].shape))
    for factor, wanted in ((3.0, 0.0), (-0.1, 2.0)):
        value, _ = eve.aligning_loss(states, starts, grids, [said[0] * factor, None, said[1] * factor], p)
        assert value == pytest.approx(wanted, abs=1e-12)
    assert eve.aligning_loss(states, [None] * 3, grids, teachers, p)[0] == 0


def test_a_picture_of_another_size_has_its_own_tokens_whatever_lies_beside_it():
    """No position, no padding: the same patches give the same tokens, but for CA2, which CLS alone sees."""
    _, config, weights, x, _ = component("eve_v1_patch_embedding")
    pixels = x["pixel_values_with_mask"][0, :3]
    whole, (h, w), _ = eve.embed_patches(pixels, Params(weights), config)
    part, _, _ = eve.embed_patches(pixels[:, :56, :84], Params(weights), config)
    tokens = whole[1:].reshape(h, w + 1, -1)
    np.testing.assert_allclose(part[1:].reshape(2, 4, -1)[:, :3], tokens[:2, :3], atol=1e-12)
    np.testing.assert_allclose(part[1:].reshape(2, 4, -1)[:, 3], tokens[:2, w], atol=1e-12)
    assert np.abs(part[0] - whole[0]).max() > 1e-4


@pytest.mark.parametrize("name, kind", [("fuyu", "a Fuyu"), ("eve", "an EVE"), ("eve v2", "an EVE of version 2")])
def test_what_load_and_the_commands_say(folder, name, kind, capsys):
    where = folder(name)
    assert main(["ask", "-", "What?", "--weights", str(where)]) == 1
    assert "only a CogVLM answers questions" in capsys.readouterr().err
    assert main(["info", str(where)]) == 0
    assert f"{where}: {kind}" in capsys.readouterr().out
    folder(name, "model.unknown.weight")
    with pytest.raises(UserError, match="tensor 'model.unknown.weight' is not part of the model"):
        tinycogvlm.load(where)


def test_the_larger_eve_has_the_same_tensors_and_twice_the_pixels():
    """BAAI/EVE-7B-HD-v1.0, whose longer side is 1344 pixels"""
    tower = {"mm_vision_tower": "openai/eve-patch14-anypixel-1344"}
    first, larger = (eve.hugging_face(Fields(CONFIGS["BAAI/EVE-7B-v1.0"] | changed)) for changed in ({}, tower))
    assert {key: list(shape) for key, shape in eve.shapes(larger).items()} == REAL["BAAI/EVE-7B-v1.0"]
    assert (eve.sides((800, 400), first), eve.sides((800, 400), larger)) == ((672, 336), (1344, 672))
