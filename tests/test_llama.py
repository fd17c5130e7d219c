"""A plain Hugging Face folder of a llama: what it computes, asks and refuses, by the decoder that CogVLM runs."""
import io
import json
import sys

import numpy as np
import pytest
from ml_dtypes import bfloat16
from llama_models import BASE, CONTEXT, D, G, H, SPECIAL, TEMPLATE, V, computed, weights, write_folder

from tinycogvlm import UserError, load
from tinycogvlm.cli import main
from tinycogvlm.inputs.prompt import NO_EYES, Inputs
from tinycogvlm.kernels.runner import build
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.model.config import Config
from tinycogvlm.model.parts import matrices
from tinycogvlm.storage import lora
from tinycogvlm.storage.checkpoint import Checkpoint, save
from tinycogvlm.storage.quantise import quantise

IDS = np.random.default_rng(3).integers(3, V, 11)


SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4,
           "original_max_position_embeddings": 64}


def inputs(ids=IDS):
    ids = np.array([ids])
    return Inputs(ids, np.zeros_like(ids), np.ones_like(ids))


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("llama") / "model", weights(request.param))


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main.main(list(map(str, arguments)))
        return code, *capsys.readouterr()
    return run


def test_it_computes_what_the_definition_says(folder):
    """Grouped queries, the base and the epsilon of config.json, one table for both ends or two"""
    tensors = weights(Config.read(folder).tied)
    wanted = computed(tensors, IDS)
    assert np.abs(load(folder, dtype="float64").logits(inputs())[0] - wanted).max() < 2e-6 * np.abs(wanted).max()
    found = load(folder).logits(inputs())[0]
    assert found.dtype == np.float32 and np.abs(found - wanted).max() < 2e-5 * np.abs(wanted).max()


def llama3(wavelength):
    """What a frequency is multiplied by, as Meta's code has it, wavelength by wavelength"""
    if wavelength < 64 / 4:
        return 1
    if wavelength > 64 / 1:
        return 1 / 8
    smooth = (64 / wavelength - 1) / (4 - 1)
    return (1 - smooth) / 8 + smooth


def test_the_frequencies_of_llama_3_1(tmp_path):
    """All three kinds of them; from either name of the field, and kept by what writes a folder"""
    folder = write_folder(tmp_path / "model", rope_scaling=SCALING)
    config = Config.read(folder)
    assert config.rope_scaling == (8.0, 1, 4, 64) and Config.from_dict(config.to_dict()) == config
    newer = {name: value for name, value in config.to_dict().items() if not name.startswith("rope")}
    assert Config.from_dict(newer | {"rope_parameters": SCALING | {"rope_theta": BASE}}) == config
    plain = BASE ** (-np.arange(0, 16, 2) / 16)
    wanted = [frequency * llama3(2 * np.pi / frequency) for frequency in plain]
    assert {wanted[0] == plain[0], wanted[-1] * 8 == plain[-1], plain[2] / 8 < wanted[2] < plain[2]} == {True}
    model = load(folder)
    np.testing.assert_allclose(model.rotary.inv_freq, wanted, rtol=1e-6)
    np.testing.assert_array_equal(CogVLM(config, model.leaves).rotary.inv_freq, model.rotary.inv_freq)
    assert np.abs(model.logits(inputs()) - load(write_folder(tmp_path / "plain")).logits(inputs())).max() > 1e-3


def test_streaming_and_the_cache_change_nothing(folder):
    pytest.importorskip("jinja2")
    whole, streamed = load(folder), load(folder, stream=True)
    assert whole.logits(inputs()).tobytes() == streamed.logits(inputs()).tobytes()
    said, again = (model.ask(None, "abc a", max_new_tokens=9) for model in (whole, streamed))
    assert said.text == again.text and said.tokens_out == again.tokens_out
    cache = whole.new_cache(1, 11)
    one_by_one = [whole.logits(inputs([token]), cache, positions=np.array([[t]]))[0, 0] for t, token in enumerate(IDS)]
    np.testing.assert_allclose(one_by_one, whole.logits(inputs())[0], atol=1e-5)


def test_shards(folder, tmp_path):
    """A block's queries, keys and values in different files"""
    save(tmp_path / "shards", Checkpoint(folder), Config.read(folder), max_shard_bytes=2e4)
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 5 and files[0].startswith("model-00001-of-")
    places = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    assert len({places[f"model.layers.0.self_attn.{part}_proj.weight"] for part in "qkv"}) > 1
    assert load(tmp_path / "shards").logits(inputs()).tobytes() == load(folder).logits(inputs()).tobytes()


def test_a_tied_table_is_in_memory_once_and_has_one_gradient(tied):
    model = load(tied, dtype="float64")
    assert "lm_head.weight" not in model.leaves and len(model.parameters) == 2 + 2 * 7
    given, name = inputs(), "model.embed_tokens.weight"
    _, pull = model.loss(given, given.ids)
    gradient, direction = pull()[name], np.random.default_rng(0).standard_normal(model.leaves[name].shape)
    losses = []
    for step in (1e-5, -1e-5):
        moved = dict(model.leaves) | {name: model.leaves[name] + step * direction}
        losses.append(type(model)(model.config, moved).loss(given, given.ids)[0])
    assert abs((losses[0] - losses[1]) / 2e-5 - (gradient * direction).sum()) < 1e-7 * np.abs(gradient * direction).sum()


@pytest.mark.skipif(bool(build.cpu_runner()), reason=str(build.cpu_runner()))
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_kernels_and_fewer_bits(tied, dtype):
    """As the decoder in NumPy computes with the matrices as they are stored; down_proj, with rows of 96, is not cut."""
    pytest.importorskip("jinja2")
    plain, kernels = load(tied), load(tied, kernels=True, dtype=dtype, activations="float32")
    leaves = dict(plain.leaves)
    if dtype != "float32":
        stored = matrices(plain.config.shapes())
        assert len(stored) == 2 * 4
        leaves |= {name: quantise(leaves[name], dtype).dequantised() for name in stored}
        table = "model.embed_tokens.weight"                 # is never quantised, but kept in 16 bits
        leaves[table] = leaves[table].astype(bfloat16).astype(np.float32)
    plain = CogVLM(plain.config, leaves, plain.tokenizer)
    wanted = plain.logits(inputs())
    assert np.abs(kernels.logits(inputs()) - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert plain.ask(None, "abc", max_new_tokens=5).text == kernels.ask(None, "abc", max_new_tokens=5).text


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_on_the_disk(folder, tmp_path, run, kind):
    """What quantising at load gives, bit for bit, with the words and the template; queries, keys and values are stored
    one by one."""
    out = tmp_path / kind
    assert run("quantise", folder, out, "--dtype", kind)[0] == 0
    assert Config.read(out) == Config.read(folder)
    model, plain = load(out), load(folder)
    for name in matrices(plain.config.shapes()):
        assert np.array_equal(model.leaves[name], quantise(plain.leaves[name], kind).dequantised()), name
    streamed = load(out, stream=True)
    assert streamed.logits(inputs()).tobytes() == model.logits(inputs()).tobytes()
    assert model.inputs("abc", template="base").ids.tolist() == plain.inputs("abc", template="base").ids.tolist()
    assert {path.name for path in out.iterdir()} == {path.name for path in folder.iterdir()}
    report = json.loads(run("info", out, "--json")[1])
    assert report["stored"]["dtypes"] == ["F32", kind]
    assert report["parameters"] == json.loads(run("info", folder, "--json")[1])["parameters"]
    if not build.cpu_runner():
        kernels, again = load(out, kernels=True), load(folder, kernels=True, dtype=kind)
        assert kernels.leaves.plan.dtype == kind
        assert kernels.logits(inputs()).tobytes() == again.logits(inputs()).tobytes()
    with pytest.raises(UserError, match="is quantised to"):
        load(out, lora=tmp_path)


def test_an_adapter_is_merged_and_taken_out(folder, tmp_path, run):
    """PEFT's, under the checkpoint's own names; the folder that is written is a model as it was."""
    random, name = np.random.default_rng(0), "model.layers.1.self_attn.k_proj"
    adapter = {f"{name}.lora_A.weight": random.standard_normal((2, D)).astype("f4"),
               f"{name}.lora_B.weight": random.standard_normal((G * D // H, 2)).astype("f4")}
    lora.write(tmp_path / "adapter", lora.Adapter(adapter, 2, 4.0))
    merged, back = tmp_path / "merged", tmp_path / "back"
    assert run("train", "merge", tmp_path / "adapter", "--weights", folder, "--out", merged)[0] == 0
    assert load(merged).logits(inputs()).tobytes() == load(folder, lora=tmp_path / "adapter").logits(inputs()).tobytes()
    assert np.abs(load(merged).logits(inputs()) - load(folder).logits(inputs())).max() > 0.1
    assert {path.name for path in merged.iterdir()} == {path.name for path in folder.iterdir()}
    assert run("train", "unmerge", tmp_path / "adapter", "--weights", merged, "--out", back)[0] == 0
    np.testing.assert_allclose(load(back).logits(inputs()), load(folder).logits(inputs()), atol=1e-4)


# Words

def test_the_template_places_special_tokens_and_nobody_else(tied):
    pytest.importorskip("jinja2")
    model = load(tied)
    history = [("ab", " <|im_end|> ")]
    text = "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n<|im_start|>user\nabc<|im_end|>\n" \
           "<|im_start|>assistant\n"
    ids = model.inputs("abc", history=history).ids[0].tolist()
    own = model.tokenizer.encode(text.format("@"), special=True)
    at = own.index(*model.tokenizer.encode("@"))
    assert ids == own[:at] + model.tokenizer.encode("<|im_end|>") + own[at + 1:]
    assert [ids.count(i) for i in range(len(SPECIAL))] == [0, 4, 3]
    assert "<|im_end|>" in model.tokenizer.decode(ids)
    noted = model.inputs("a\ufdd0b").ids.tolist()               # the mark itself is no text
    assert noted == model.inputs("ab").ids.tolist()


def test_base_begins_as_the_tokenizer_does(tied, tmp_path):
    assert load(tied).inputs("abc", template="base").ids.tolist() == [load(tied).tokenizer.encode("abc")]
    with pytest.raises(UserError, match="the prompt is empty"):
        load(tied).inputs("", template="base")
    path = write_folder(tmp_path / "bos") / "tokenizer.json"
    before = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": SPECIAL[1], "type_id": 0}},
                                                       {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
              "special_tokens": {SPECIAL[1]: {"id": SPECIAL[1], "ids": [1], "tokens": [SPECIAL[1]]}}}
    fields = json.loads(path.read_text(encoding="utf-8")) | {"post_processor": before}
    path.write_text(json.dumps(fields), encoding="utf-8")
    model = load(path.parent)
    assert model.inputs("abc", template="base").ids.tolist() == [[1, *model.tokenizer.encode("abc")]]


def test_a_template_without_jinja2(tied, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    model = load(tied)
    with pytest.raises(UserError, match="the chat template needs the package jinja2: pip install 'tinycogvlm.real.'; .ask. and .chat. can"):
        model.inputs("ab")
    assert model.inputs("ab", template="base").ids.size


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json", "several"])
def test_where_the_template_lies(tmp_path, file):
    pytest.importorskip("jinja2")
    folder, template = write_folder(tmp_path / "model", template=None), TEMPLATE.replace("assistant", "me")
    if file == "several":
        file, template = "tokenizer_config.json", [{"name": "tools", "template": "x"}, {"name": "default",
                                                                                        "template": template}]
    content = template if file.endswith("jinja") else json.dumps({"chat_template": template})
    (folder / file).write_text(content, encoding="utf-8")
    assert load(folder).tokenizer.decode(load(folder).inputs("ab").ids[0]) == "user\nab\nme\n"


@pytest.mark.parametrize("template, said", [
    (5, "the chat template is 5, not a text"), ([3], "this model has no chat template"),
    (None, "this model has no chat template; --template base asks it to continue a text"),
    ("{% if %}", "the chat template is damaged"),
    ("{{ raise_exception('users and assistants alternate') }}", "refuses this conversation .users and assistants"),
    ("{{ messages[0].__class__.__mro__ }}", "refuses this conversation .access to attribute '__class__'"),
    ("{{ 1 // 0 }}", "refuses this conversation")])
def test_templates_that_are_none(tmp_path, template, said):
    pytest.importorskip("jinja2")
    with pytest.raises(UserError, match=said):
        load(write_folder(tmp_path / "model", template=template)).inputs("ab")


def test_every_end_of_generation_config(tmp_path):
    folder = write_folder(tmp_path / "model")
    assert Config.read(folder).eos_token_ids == (2,) and Config.read(folder).pad_token_id == 2
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 0], "temperature": 0.6}', encoding="utf-8")
    assert Config.read(folder).eos_token_ids == (2, 0)


# The commands

def test_commands_without_a_picture(run, tied, monkeypatch):
    pytest.importorskip("jinja2")
    said = load(tied).ask(None, "abc?", max_new_tokens=6).text
    model = ("--weights", tied, "--max-new-tokens", 6)
    assert run("ask", "-", "abc?", *model) == (0, said + "\n", "")
    monkeypatch.setattr("sys.stdin", io.StringIO("abc?\n"))
    assert run("chat", *model) == (0, said + "\n", "")
    code, out, _ = run("info", tied)
    assert code == 0 and "llama, template own" in out and "vision" not in out and "picture" not in out
    report = json.loads(run("info", tied, "--json")[1])
    assert report["parameters"]["total"] == sum(array.size for array in weights().values())
    assert report["language"]["key_value_heads"] == 2 and report["language"]["context"] == CONTEXT
    assert report["vision"] is report["flops_per_picture"] is None


def test_a_picture_is_refused_in_a_sentence(run, tied, picture):
    pytest.importorskip("jinja2")
    for command in (("ask", picture, "What?"), ("caption", picture), ("ground", picture, "a dog"), ("eval",),
                    ("ask", picture, "What?", "--template", "chat")):
        assert run(*command, "--weights", tied) == (1, "", f"tinycogvlm: {NO_EYES}\n")
    assert run("ask", picture, "What?", "--image-size", 28, "--weights", tied)[1:] == (
        "", f"tinycogvlm: the image size is 28, but {NO_EYES}\n")
    with pytest.raises(UserError, match="sees no pictures"):
        load(tied).inputs(["What is ", np.zeros((8, 8, 3), np.uint8), "?"])


def test_what_is_for_cogvlms_alone(run, tied, tmp_path):
    (tmp_path / "questions.jsonl").write_text('{"question": "ab", "answer": "c"}\n')
    code, _, said = run("train", "lora", "--weights", tied, "--data", tmp_path, "--out", tmp_path / "run")
    assert code == 1 and said.startswith(f"tinycogvlm: {tied}: a language model, whose matrices are stored under other na")
    code, _, said = run("ablate", "ways", "--weights", tied, "--out", tmp_path / "runs")
    assert code == 1 and said.startswith(f"tinycogvlm: {tied}: the comparisons are made with a CogVLM of the first gen")


# The real ones, by what their config.json says

def real(vocabulary, width, mlp, layers, heads, key_value_heads, tied, **more):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": False,
            "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": key_value_heads, "tie_word_embeddings": tied,
            "bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-5, "pretraining_tp": 1, "rope_scaling": None, **more}


LLAMA_3 = {"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "rope_theta": 500000.0, "mlp_bias": False}
LLAMA_3_2 = LLAMA_3 | {"head_dim": 64, "max_position_embeddings": 131072, "rope_scaling": {
    "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3"}}


@pytest.mark.parametrize("fields, parameters", [
    (real(49152, 576, 1536, 30, 9, 3, True, rope_theta=100000, rope_interleaved=False), 134_515_008),      # SmolLM2-135M
    (real(49152, 960, 2560, 32, 15, 5, True, rope_theta=100000), 361_821_120),
    (real(49152, 2048, 8192, 24, 32, 32, True, rope_theta=130000), 1_711_376_384),
    (real(32000, 2048, 5632, 22, 32, 4, False), 1_100_048_384),                                            # TinyLlama
    (real(128256, 4096, 14336, 32, 32, 8, False, **LLAMA_3), 8_030_261_248),                               # Llama 3 8B
    (real(128256, 2048, 8192, 16, 32, 8, True, **LLAMA_3_2), 1_235_814_400)])
def test_real_ones_have_the_parameters_that_their_cards_state(fields, parameters, tmp_path, run):
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    code, out, _ = run("info", tmp_path, "--json")
    assert code == 0 and json.loads(out)["parameters"]["total"] == parameters


# What is no such folder

@pytest.mark.parametrize("fields, said", [
    ({"architectures": ["Qwen2ForCausalLM"]}, "a model of the architecture 'Qwen2ForCausalLM'; CogVLMForCausalLM, CogVLMV"),
    ({"attention_bias": True}, "attention_bias is set"), ({"mlp_bias": True}, "mlp_bias is set"),
    ({"head_dim": 32}, "head_dim is 32, but hidden_size 64 and num_attention_heads 4 make 16"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "rope_scaling.low_freq_factor is None, not a number above 0"),
    ({"rope_scaling": SCALING | {"low_freq_factor": 4}}, "low_freq_factor 4 must be below high_freq_factor 4"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "scaled in the way 'yarn'"), ({"rope_scaling": 3}, "in the way 3, which"),
    ({"rope_theta": "1e4"}, "rope_theta is '1e4', not a number above 1"), ({"rope_theta": 0}, "rope_theta is 0"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not llama's 'silu'"), ({"num_key_value_heads": 3}, "num_key_value_he"),
    ({"num_key_value_heads": None}, "num_key_value_heads is missing"), ({"hidden_size": None}, "hidden_size is missing"),
    ({"vocab_size": V - 1}, "has the shape"), ({"num_hidden_layers": 3}, "model.layers.2.*missing"),
    ({"num_hidden_layers": 1}, "tensors 'model.layers.1.*not part of the model that config.json describes"),
    ({"num_key_value_heads": 4}, "tensor 'model.layers.0.self_attn.q_proj.weight, .*k_proj.*has the shape .128, 64."),
    ({"quantization_config": {"bits": 4}}, "the weights are quantised")])
def test_folders_that_are_refused(tmp_path, fields, said):
    with pytest.raises(UserError, match=said) as error:
        load(write_folder(tmp_path / "model", **fields))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_base_and_an_epsilon_that_are_not_stated_are_llama_s(tmp_path):
    folder = write_folder(tmp_path / "model")
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    del fields["rope_theta"], fields["rms_norm_eps"], fields["num_key_value_heads"]
    assert (Config.from_dict(fields).rope_base, Config.from_dict(fields).rms_norm_eps) == (10000, 1e-6)
    assert Config.from_dict(fields).num_key_value_heads == 4
    assert Config.from_dict(fields | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}).rope_base == 5e5


def test_a_tensor_that_is_missing_has_its_own_name(tmp_path):
    tensors = weights()
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(UserError, match="tensor 'model.layers.1.self_attn.k_proj.weight' is missing"):
        load(write_folder(tmp_path / "model", tensors))
