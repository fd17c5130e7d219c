"""The earlier ways to join a picture and a text: other geometries than the golden ones, and bugs that must show."""
import numpy as np
import pytest
from test_relatives import FOLDER, check_gradient, component

from tinycogvlm.nn.swap import swapped
from tinycogvlm.nn.tree import Params
from tinycogvlm.relatives import coca, masks, registry
from tinycogvlm.relatives.fields import Fields
from tinycogvlm.verify import components

COCA = {"embed_dim": 8, "vision_cfg": {"image_size": 6, "layers": 1, "width": 8, "head_width": 4, "patch_size": 3,
                                       "attn_pooler_queries": 3, "attn_pooler_heads": 2},
        "text_cfg": {"context_length": 6, "vocab_size": 9, "width": 8, "heads": 2, "layers": 1},
        "multimodal_cfg": {"heads": 4, "layers": 1}, "correct_cls_mask": True, "clip_loss_weight": 0.5}
TEXT = np.array([[7, 3, 4, 8, 0], [7, 5, 8, 0, 0]])
GEOMETRIES = {
    "a CoCa of one width, CLS sees no padding": ("coca", COCA, {"image": (2, 3, 6, 6), "text": TEXT}),
    "a CoCa with poolers side by side": (
        "coca", COCA | {"vision_cfg": COCA["vision_cfg"] | {"attentional_pool": "parallel", "width": 4}},
        {"image": (2, 3, 6, 6), "text": TEXT}),
    "a CoCa with one pooler after the other": (
        "coca", COCA | {"vision_cfg": COCA["vision_cfg"] | {"attentional_pool": "cascade"}},
        {"image": (2, 3, 6, 6), "text": TEXT}),
}


@pytest.mark.parametrize("what", GEOMETRIES)
def test_gradient_of_other_geometries(what):
    name, fields, shapes = GEOMETRIES[what]
    model, random = registry.cases()[name], np.random.default_rng(5)
    config = model.config(Fields(fields), {})
    weights = {key: random.standard_normal(shape) / max(1, np.prod(shape[1:])) ** 0.5
               for key, shape in model.shapes(config).items()}
    inputs = {key: shape if isinstance(shape, np.ndarray) else random.standard_normal(shape)
              for key, shape in shapes.items()}
    check_gradient(model, config, weights, inputs, {"loss": np.ones(())})


# -------------------------------------------------------------------------------------------------------------- masks

def test_masks_are_what_their_rules_say():
    ids, x, o = np.array([[5, 6, 7, 0, 0]]), True, False
    np.testing.assert_array_equal(masks.pad_mask(ids), [[x, x, x, o, o]])
    np.testing.assert_array_equal(masks.pad_mask(ids, 7), [[x, x, o, x, x]])
    np.testing.assert_array_equal(masks.causal_mask(3, np)[0, 0], [[x, o, o], [x, x, o], [x, x, x]])
    np.testing.assert_array_equal(masks.cls_mask(ids), [[x, x, x, o, o, x]])
    np.testing.assert_array_equal(masks.cls_mask(ids, shifted=True), [[x, x, x, x, o, o]])
    seen = masks.prefix_mask(np.array([0, 2, 4]), 4)
    assert seen.shape == (3, 1, 4, 4)
    np.testing.assert_array_equal(seen[0, 0], masks.causal_mask(4, np)[0, 0])
    np.testing.assert_array_equal(seen[1, 0], [[x, x, o, o], [x, x, o, o], [x, x, x, o], [x, x, x, x]])
    assert seen[2].all()


# ------------------------------------------------------------------------------------------------ bugs that must show

def upright(ids, pad=0, shifted=False):
    return masks.cls_mask.own(ids, pad, False)


@pytest.mark.parametrize("name, op, wrong, first", [
    ("coca", masks.cls_mask, upright, "y/text_mask"),
])
def test_a_wrong_op_is_named_by_the_first_tensor_that_differs(name, op, wrong, first):
    with swapped({op: wrong}):
        assert components.verify(FOLDER, name).first_failure.name == first


# --------------------------------------------------------------------------------------------------------------- CoCa

def test_in_a_coca_no_word_sees_cls_and_no_caption_the_words_after_it():
    _, config, weights, inputs, _ = component("coca")
    p, ids = Params(weights), inputs["text"]
    feature, words, _ = coca.text_features(ids, p.text, config)
    other = Params(weights | {"text.cls_emb": weights["text.cls_emb"][::-1]})
    moved, same, _ = coca.text_features(ids, other.text, config)
    np.testing.assert_array_equal(words, same)
    assert np.abs(moved - feature).max() > 1e-3
    _, image, _ = coca.image_features(inputs["image"], p, config)
    logits, _ = coca.decode(words, image, p.text_decoder, config)
    changed = ids.copy()
    changed[:, 4] = 9
    words, _ = coca.text_features(changed, p.text, config)[1:]
    np.testing.assert_allclose(coca.decode(words, image, p.text_decoder, config)[0][:, :4], logits[:, :4], atol=1e-13)


@pytest.mark.parametrize("patch, width, layers, words, millions", [
    (32, 768, 12, 512, 253.56), (14, 1024, 24, 768, 638.45)])
def test_a_real_coca_has_as_many_parameters_as_open_clip_states(patch, width, layers, words, millions):
    """coca_ViT-B-32 and coca_ViT-L-14, of LAION."""
    text = {"context_length": 76, "width": words, "heads": words // 64, "layers": 12}
    config = coca.open_clip(Fields({
        "embed_dim": words, "vision_cfg": {"width": width, "layers": layers, "patch_size": patch, "image_size": 224},
        "text_cfg": text, "multimodal_cfg": text}))
    assert sum(np.prod(shape) for shape in coca.shapes(config).values()) / 1e6 == pytest.approx(millions, abs=0.005)
