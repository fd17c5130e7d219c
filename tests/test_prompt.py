"""Templates, token ids and types against the original's, images at any place, batches."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinycogvlm.inputs import image, prompt
from tinycogvlm.model.config import Config
from tinycogvlm.errors import UserError
from tinycogvlm.model.generate import Answer
from tinycogvlm.storage.checkpoint import Checkpoint
from tinycogvlm.inputs.tokenizer import ByteTokenizer, Tokenizer

GOLDEN = Path(__file__).parent / "golden"
CASES = ["v1_tiny", "v2_tiny", "v1_eps", "v1_bf16", "v1_grads", "v2_grads"]
PROMPTS = [(case, i) for case in CASES for i in range(18)]
PICTURE = Image.new("RGB", (30, 20), (200, 100, 50))
OTHER = Image.new("RGB", (20, 30), (0, 100, 250))


def model(case):
    config = Config.read(GOLDEN / case)
    return config, ByteTokenizer(config), json.loads((GOLDEN / case / "meta.json").read_text(encoding="utf-8"))



def test_all_golden_prompts_are_tested():
    assert [len(model(case)[2]["prompts"]) for case in CASES] == [18] * len(CASES)


@pytest.mark.parametrize("case, number", PROMPTS)
def test_prompts_are_the_originals(case, number):
    config, tokenizer, meta = model(case)
    golden = meta["prompts"][number]
    text = prompt.text(golden["template"], "Where is the cat?", golden["history"])
    assert text == golden["prompt"]
    inputs = prompt.build(config, tokenizer, text, [PICTURE] if golden["image"] else [])
    assert inputs.ids.tolist() == [golden["input_ids"]] and inputs.ids.dtype == np.int64
    assert inputs.types.tolist() == [golden["token_type_ids"]] and inputs.types.dtype == np.int64
    assert inputs.mask.tolist() == [[1] * len(golden["input_ids"])] and inputs.mask.dtype == np.int64
    if golden["image"]:
        assert np.array_equal(inputs.pixels, image.pixels(PICTURE, config.vision.image_size)[None])
    else:
        assert inputs.pixels is None


@pytest.mark.parametrize("case", ["v1_tiny", "v2_tiny"])
def test_the_golden_run_is_built_whole(case):
    """The prompt with history of the golden forward pass, its pixels, its text-only and its padded inputs."""
    config, tokenizer, meta = model(case)
    spec, golden = meta["spec"], Checkpoint(GOLDEN / case / "activations.safetensors")
    text = prompt.text(config.template_version, spec["query"], spec["history"])
    inputs = prompt.build(config, tokenizer, text, [golden["img/raw"].numpy()])
    assert np.array_equal(inputs.ids, golden["in/input_ids"].numpy())
    assert np.array_equal(inputs.types, golden["in/token_type_ids"].numpy())
    assert np.abs(inputs.pixels - golden["img/pixel_values"].numpy()).max() <= 1e-6
    for side in ("left", "right"):
        ids, types, mask = (golden[f"batch/{side}/in/{name}"].numpy()
                            for name in ("input_ids", "token_type_ids", "attention_mask"))
        rows = [prompt.Inputs(ids[i:i + 1, mask[i] > 0], types[i:i + 1, mask[i] > 0], mask[i:i + 1, mask[i] > 0],
                              inputs.media) for i in range(len(ids))]
        assert len({row.ids.shape for row in rows}) > 1
        batch = prompt.pad(rows, config.pad_token_id, side)
        for built, expected in ((batch.ids, ids), (batch.types, types), (batch.mask, mask)):
            assert np.array_equal(built, expected)
        assert batch.pixels.shape == (len(ids), *inputs.pixels.shape[1:])


def test_templates():
    history = [("Hi", "Yo"), ("What?", "A cat.")]
    assert prompt.text("base", "q", history) == "q"
    assert prompt.text("vqa", "q", history) == ("Question: Hi Short answer: Yo\nQuestion: What? Short answer: A cat.\n"
                                                "Question: q Short answer:")
    assert prompt.text("chat", "q", history[:1]) == "Question: Hi Answer: Yo\nQuestion: q Answer:"
    system = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
              "detailed, and polite answers to the user's questions. ")
    assert prompt.text("vicuna", "q") == system + "USER: q ASSISTANT:"
    assert prompt.text("vicuna", "q", history[:1]) == system + "USER: Hi ASSISTANT: Yo\nUSER: q ASSISTANT:"
    assert [prompt.text(template, "") for template in ("base", "vqa", "chat")] == [
        "", "Question:  Short answer:", "Question:  Answer:"]            # an empty question is one too, as originally
    for braces in ("{}", "{query}", "%s", "\\1"):
        assert prompt.text("chat", braces, [(braces, braces)]) == (f"Question: {braces} Answer: {braces}\n"
                                                                   f"Question: {braces} Answer:")


MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"},
            {"role": "user", "content": [{"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "A cat."}]


def test_history_in_every_form():
    """Pairs, the messages of chat clients, none; answers as the model gives them."""
    pairs = [("Hi", "Yo"), ("What?", "A cat.")]
    wanted = "Question: Hi Answer: Yo\nQuestion: What? Answer: A cat.\nQuestion: q Answer:"
    answered = [("Hi", Answer("Yo", [], 1, 1, 0.1, "stop")), ["What?", "A cat."]]
    for history in (pairs, tuple(pairs), [list(pair) for pair in pairs], MESSAGES, tuple(MESSAGES), answered):
        assert prompt.text("chat", "q", history) == wanted
    for history in (None, [], ()):
        assert prompt.text("chat", "q", history) == "Question: q Answer:"


def test_messages_may_hold_pictures():
    content = [{"type": "image", "image": PICTURE}, {"type": "text", "text": "What is "},
               {"type": "text", "text": "it?"}, {"type": "image", "image": "other.png"}]
    history = [{"role": "user", "content": content}, {"role": "assistant", "content": "A cat."}]
    assert prompt.turns(history) == [([PICTURE, "What is ", "it?", Path("other.png")], "A cat.")]
    assert prompt.pictured("q", history) and prompt.pictured(["a", PICTURE]) and prompt.pictured("q", [(["a", 3], "b")])
    assert not prompt.pictured("q", MESSAGES) and not prompt.pictured(["a", "b"], None)


@pytest.mark.parametrize("history, sentence", [
    ("hi", "the history is 'hi'"), (5, "the history is 5"), ({"role": "user"}, "the history is {'role': 'user'}"),
    (["hi"], "history[0] is 'hi'"), ([("a",)], "history[0] is ('a',)"), ([("a", "b"), ("a", None)], "history[1] is"),
    ([("a", "b", "c")], "history[0] is"), ([(None, "b")], "history[0] is (None, 'b')"),
    ([b"ab"], "history[0] is b'ab'"),
    ([MESSAGES[0], ("a", "b")], "history[0] is {'role': 'user'"), (MESSAGES[1:], "history[0] has the role 'assistant'"),
    ([{"role": "system", "content": "Be brief."}, *MESSAGES], "history[0] has the role 'system', not 'user'"),
    ([MESSAGES[0], MESSAGES[0]], "history[1] has the role 'user', not 'assistant'"),
    (MESSAGES[:1], "the history's last message is a question without an answer"),
    ([{"content": "Hi"}, MESSAGES[1]], "history[0] has the role None"),
])
def test_history_of_another_form_is_refused_with_the_form(history, sentence):
    for template in ("base", "chat", "vicuna"):
        with pytest.raises(UserError) as caught:
            prompt.text(template, "q", history)
        assert sentence in str(caught.value) and prompt.FORM in str(caught.value)


@pytest.mark.parametrize("content", [None, 5, [5], [{"type": "image_url", "image_url": {"url": "http://a"}}],
                                     [{"type": "text"}], [{"type": "text", "text": None}], {"type": "audio"}])
def test_contents_that_are_not_known_are_refused(content):
    for i in range(2):                                      # the user's, the assistant's
        history = [dict(message) for message in MESSAGES[:2]]
        history[i]["content"] = content
        with pytest.raises(UserError, match=rf"the content of history\[{i}\] has .*it must be a text, or a list of"):
            prompt.text("chat", "q", history)
    with pytest.raises(UserError, match="the content of history"):                     # an answer has no picture
        prompt.text("chat", "q", [MESSAGES[0], {"role": "assistant", "content": [{"type": "image", "image": PICTURE}]}])


@pytest.mark.parametrize("question", [None, 5, b"bytes", PICTURE, {"text": "q"}])
def test_questions_that_are_none_are_refused(question):
    with pytest.raises(UserError, match="the question is .*; it must be a text, or a list of texts and pictures"):
        prompt.text("chat", question)


def test_unknown_templates_name_the_known():
    with pytest.raises(UserError, match="no template 'chat_old'; there are base, vqa, chat, vicuna"):
        prompt.text("chat_old", "q")
    with pytest.raises(UserError, match="no template"):
        prompt.text(["chat"], "q")


def test_grounding_prompts_are_those_of_the_documentation():
    assert prompt.CAPTION_WITH_BOXES == ("Can you provide a description of the image and include the coordinates "
                                         "[[x0,y0,x1,y1]] for each mentioned object?")
    assert prompt.BOX_OF_PHRASE.format(phrase="the cat") == (
        "Can you point out the cat in the image and provide the bounding boxes of its location?")
    assert prompt.DESCRIBE_BOX.format(box="[[001,002,003,004]]") == (
        "Tell me what you see within the designated area [[001,002,003,004]] in the picture.")


def test_default_templates():
    v1, v2 = model("v1_tiny")[0], model("v2_tiny")[0]
    assert [prompt.default_template(config, with_image) for config in (v1, v2) for with_image in (True, False)] == [
        "chat", "vicuna", "chat", "chat"]


@pytest.mark.parametrize("case", ["v1_tiny", "v2_tiny"])
def test_images_at_any_place(case):
    config, tokenizer, _ = model(case)
    n, pad = config.num_image_tokens, config.pad_token_id
    parts = prompt.text("chat", ["What is ", PICTURE, OTHER, " and ", PICTURE, "?"])
    inputs = prompt.build(config, tokenizer, parts, [OTHER])
    encode = tokenizer.encode
    spans = [([config.bos_token_id], 0), ([pad] * n, 1), (encode("Question: What is "), 0), ([pad] * n, 2),
             ([pad] * n, 3), (encode(" and "), 0), ([pad] * n, 4), (encode("? Answer:"), 0)]
    assert inputs.ids.tolist() == [[i for ids, _ in spans for i in ids]]
    assert inputs.types.tolist() == [[kind for ids, kind in spans for _ in ids]]
    expected = [image.pixels(picture, config.vision.image_size) for picture in (OTHER, PICTURE, OTHER, PICTURE)]
    assert np.array_equal(inputs.pixels, np.stack(expected))


def test_the_default_place_is_right_after_bos():
    config, tokenizer, _ = model("v1_tiny")
    images = [PICTURE, np.asarray(OTHER)]
    first = prompt.build(config, tokenizer, "text", images)
    for same in (prompt.build(config, tokenizer, [*images, "te", "", "xt"]),
                 prompt.build(config, tokenizer, [images[1], "text"], images[:1])):
        for name in ("ids", "types", "mask", "pixels"):
            assert np.array_equal(getattr(first, name), getattr(same, name))


def test_history_may_hold_images():
    parts = prompt.text("chat", "And now?", [(["Look: ", PICTURE], "A cat.")])
    assert [part if isinstance(part, str) else "image" for part in parts] == [
        "Question: ", "Look: ", "image", " Answer: A cat.\n", "Question: ", "And now?", " Answer:"]


@pytest.mark.parametrize("file", ["sp_bpe.model", "llama3_like_tokenizer.json"])
def test_text_has_the_same_ids_with_and_without_an_image(file):
    """SentencePiece puts a space in front of a text: once, whatever stands before it."""
    config = replace(model("v1_tiny")[0], vocab_size=1003)
    if file.endswith("json"):
        config = replace(config, bos_token_id=1000, eos_token_id=1001, pad_token_id=1002)
    tokenizer = Tokenizer.load(GOLDEN / "auxiliary" / file, config)
    text = prompt.text("chat", "What is in the picture?")
    alone, pictured = prompt.build(config, tokenizer, text), prompt.build(config, tokenizer, text, [PICTURE])
    assert alone.ids[0, 1:].tolist() == tokenizer.encode(text) == pictured.ids[0, 1 + config.num_image_tokens:].tolist()


def test_special_tokens_typed_by_a_user_stay_text():
    config = replace(model("v1_tiny")[0], vocab_size=1003, bos_token_id=1000, eos_token_id=1001, pad_token_id=1002)
    tokenizer = Tokenizer.load(GOLDEN / "auxiliary/llama3_like_tokenizer.json", config)
    history = [("<|end_of_text|>", "<|reserved_special_token_0|>")]
    text = prompt.text("chat", "a<|end_of_text|><|begin_of_text|>", history)
    ids = prompt.build(config, tokenizer, text).ids[0].tolist()
    assert ids[0] == 1000 and max(ids[1:]) < 1000 and tokenizer.decode(ids) == text


def test_broken_text_is_an_error():
    config, tokenizer, _ = model("v1_tiny")
    with pytest.raises(UserError, match="surrogate"):
        prompt.build(config, tokenizer, "What is \udce9?")
    with pytest.raises(UserError, match="not a path, an open file, a Pillow image or an array but int"):
        prompt.build(config, tokenizer, ["What is ", 3])
    with pytest.raises(UserError, match="no such file"):
        prompt.build(config, tokenizer, "What?", ["missing.png"])


def test_a_prompt_that_cannot_fit_is_not_encoded(monkeypatch):
    config, tokenizer, _ = model("v1_tiny")
    longest = 128 * config.max_position_embeddings
    assert len(prompt.build(config, tokenizer, "a" * longest).ids[0]) == 1 + longest
    monkeypatch.setattr(tokenizer, "encode", lambda text: pytest.fail("encoded"))
    for text in "a" * (longest + 1), ["a" * longest, PICTURE, "a"]:
        with pytest.raises(UserError, match=f"has {longest + 1:,} characters, far more than the model's context"):
            prompt.build(config, tokenizer, text)


def test_padding_keeps_rows_and_images_in_order():
    config, tokenizer, _ = model("v1_tiny")
    n, pad = config.num_image_tokens, config.pad_token_id
    rows = [prompt.build(config, tokenizer, text, images)
            for text, images in (("a", [OTHER, PICTURE]), ("", []), ("abc", [PICTURE]))]
    longest = 1 + 2 * n + 1
    for side in ("left", "right"):
        batch = prompt.pad(rows, pad, side=side)
        assert batch.ids.shape == batch.types.shape == batch.mask.shape == (3, longest)
        assert batch.mask.sum(1).tolist() == [longest, 1, 1 + n + 3]
        for i, row in enumerate(rows):
            kept = batch.mask[i] == 1
            assert np.array_equal(batch.ids[i, kept], row.ids[0]) and np.array_equal(batch.types[i, kept], row.types[0])
            assert (batch.ids[i, ~kept] == pad).all() and (batch.types[i, ~kept] == 0).all()
            assert (np.diff(batch.mask[i]) * (1 if side == "left" else -1) >= 0).all()
        assert np.array_equal(batch.pixels, np.concatenate([rows[0].pixels, rows[2].pixels]))
    assert prompt.pad(rows[1:2], pad).pixels is None
    assert np.array_equal(prompt.pad(rows, pad).ids, prompt.pad(rows, pad, side="left").ids)
    twice = prompt.pad([batch, rows[1]], pad, side="right")
    assert twice.ids.shape == (4, longest) and np.array_equal(twice.ids[:3], batch.ids)
    with pytest.raises(ValueError, match="'middle'"):
        prompt.pad(rows, pad, side="middle")
