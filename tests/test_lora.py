"""LoRA: its gradient, where it starts, PEFT's files, merging."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tinycogvlm
from tinycogvlm.cli import main
from tinycogvlm.errors import UserError
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.model.parts import BLOCKS, VECTORS
from tinycogvlm.storage.checkpoint import Checkpoint
from tinycogvlm.storage import lora
from tinycogvlm.train.lora import fine_tune

TINY = Path(__file__).parents[1] / "weights" / "tiny"
TARGETS = ("*.language_expert_*", "*.vision_mlp.down_proj.weight")


@pytest.fixture
def learned(make_model):
    """A model in float64, and an adapter whose B is no longer 0"""
    model, random = make_model(), np.random.default_rng(1)
    adapter = lora.start(model.leaves, TARGETS, rank=2, alpha=3.0)
    leaves = {name: array if name.endswith(lora.A) else random.standard_normal(array.shape)
              for name, array in adapter.leaves.items()}
    return model, lora.Adapter(leaves, 2, 3.0)


@pytest.fixture(scope="module")
def base():
    return tinycogvlm.load(TINY)


@pytest.fixture(scope="module")
def some(base):
    """An adapter for the bundled weights that changes a lot"""
    adapter, random = lora.start(base.leaves, ("model.layers.1.*dense.weight",), rank=4), np.random.default_rng(0)
    return lora.Adapter({name: array if name.endswith(lora.A) else random.standard_normal(array.shape).astype("f4") / 9
                         for name, array in adapter.leaves.items()}, 4, 16.0)


# The equation

def test_gradient(learned, make_inputs):
    """dA and dB against central differences of the loss; nothing but the targets is asked of the model's pullback."""
    model, adapter = learned
    inputs = make_inputs(model.config, ["image", 4], [7])
    labels = np.where((inputs.types == 0) & (inputs.mask != 0), inputs.ids, -100)
    labels[:, 0] = labels[1, :-6] = -100
    task, leaves = fine_tune.Task(model, adapter), model.leaves | adapter.leaves
    value = lambda changes: float(task.loss(leaves | changes, (inputs, labels))[0])
    gradients = task.loss(leaves, (inputs, labels))[2]()
    assert gradients.keys() == adapter.leaves.keys() and set(task.frozen).isdisjoint(adapter.targets)
    random = np.random.default_rng(2)
    for name, g in gradients.items():
        d, h = random.standard_normal(g.shape), 1e-4
        step = lambda s, name=name, d=d: value({name: leaves[name] + s * d})
        slope = (8 * (step(h) - step(-h)) - (step(2 * h) - step(-2 * h))) / (12 * h)
        assert abs(slope - (g * d).sum()) <= 1e-6 * max(np.sqrt((g * g).sum()), 1e-3), name


def test_it_starts_at_the_base_model_exactly(base):
    adapter = lora.start(base.leaves, BLOCKS)
    assert len(adapter.targets) == 40 and all(len(w) == 8 for n, w in adapter.leaves.items() if n.endswith(lora.A))
    started = CogVLM(base.config, lora.merge(dict(base.leaves), adapter), base.tokenizer, base.rotary)
    inputs = base.inputs("What is it?", np.full((9, 9, 3), 77, np.uint8))
    assert started.logits(inputs).tobytes() == base.logits(inputs).tobytes()


def test_what_a_new_adapter_is_by_default(base):
    """Rank 8, alpha 16, seed 0; A is uniform within 1 / sqrt(I), and another seed draws another A."""
    targets = ("model.layers.0.mlp.language_mlp.down_proj.weight",)
    plain, same, other = (lora.start(base.leaves, targets, **options)
                          for options in ({}, dict(rank=8, alpha=16.0, seed=0), dict(seed=1)))
    (a, b), (again, _), (another, _) = (adapter.of(targets[0]) for adapter in (plain, same, other))
    assert (plain.rank, plain.alpha) == (8, 16.0) and np.array_equal(a, again) and not np.array_equal(a, another)
    assert not b.any() and 0.9 / np.sqrt(a.shape[1]) < abs(a).max() <= 1 / np.sqrt(a.shape[1])


def test_merge_and_unmerge(learned):
    model, adapter = learned
    merged = lora.merge(model.leaves, adapter)
    for name, w in model.leaves.items():
        if name in adapter.targets:
            a, b = adapter.of(name)
            assert np.allclose(merged[name], w + 1.5 * b @ a, rtol=0, atol=1e-12) and abs(merged[name] - w).max() > 0.1
        else:
            assert merged[name] is w
    again = lora.unmerge(merged, adapter)
    assert all(abs(again[name] - w).max() < 1e-14 * 100 for name, w in model.leaves.items())


def test_what_does_not_fit(learned, make_model):
    model, adapter = learned
    with pytest.raises(UserError, match="learned for another"):
        lora.merge(make_model(hidden_size=36).leaves, adapter)
    with pytest.raises(UserError, match="does not have"):
        lora.merge({"lm_head.weight": np.zeros((2, 2))}, adapter)
    for targets, rank, said in ((("*.nothing",), 2, "no tensor"), (("model.norm.weight",), 2, "no matrix"),
                                (("model.embed_tokens.*",), 2, "no matrix"), (TARGETS, 21, "more than 20")):
        with pytest.raises(UserError, match=said):
            lora.start(model.leaves, targets, rank, tables=VECTORS)


# Files

def test_files_as_peft_writes_them(learned, tmp_path):
    model, adapter = learned
    lora.write(tmp_path, adapter)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    module = "base_model.model.model.layers.1.self_attn.language_expert_dense"
    assert len(tensors) == 2 * len(adapter.targets) == 12
    assert tensors[f"{module}.lora_A.weight"].shape == tensors[f"{module}.lora_B.weight"].T.shape == (2, 24)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 2, 3.0)
    assert {f"{name}.weight" for name in settings["target_modules"]} == set(adapter.targets)
    again = lora.read(tmp_path)
    assert (again.rank, again.alpha) == (2, 3.0)
    assert all(np.array_equal(again.leaves[name], w) for name, w in adapter.leaves.items())
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("changes, said", [
    ({"peft_type": "LOHA"}, "only 'LORA'"), ({"r": 3}, "does not fit the rank 3"), ({"r": 0}, "r is 0"),
    ({"lora_alpha": "x"}, "lora_alpha 'x'"), ({"lora_alpha": float("nan")}, "lora_alpha nan"),
    *(({"init_lora_weights": kind}, f"init_lora_weights is '{kind}', which changes the base model too")
      for kind in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "one of tomorrow")),
    *(({key: value}, f"{key} is {re.escape(repr(value))}, which cannot be applied here") for key, value in {
        "use_dora": True, "use_rslora": True, "rank_pattern": {"dense": 4}, "alpha_pattern": {"dense": 4},
        "fan_in_fan_out": True, "modules_to_save": ["lm_head"], "bias": "lora_only", "lora_bias": True,
        "layer_replication": [[0, 2], [1, 3]], "alora_invocation_tokens": [5, 6], "use_qalora": True,
        "trainable_token_indices": [3], "target_parameters": ["w"], "loftq_config": {"loftq_bits": 4},
        "corda_config": {"corda_method": "kpm"}, "use_one_of_tomorrow": True}.items())])
def test_settings_that_cannot_be_applied(learned, tmp_path, changes, said):
    lora.write(tmp_path, learned[1])
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=said):
        lora.read(tmp_path)


def test_settings_that_plain_lora_may_have(learned, tmp_path):
    """Everything that PEFT 0.18 writes for a plain adapter; a byte order mark does no harm."""
    lora.write(tmp_path, learned[1])
    path = tmp_path / "adapter_config.json"
    plain = {"alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
             "bias": "none", "corda_config": None, "ensure_weight_tying": False, "eva_config": None,
             "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True, "layer_replication": None,
             "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_bias": False,
             "lora_dropout": 0.05, "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
             "peft_version": "0.18.0", "qalora_group_size": 16, "rank_pattern": {}, "revision": "main",
             "target_parameters": None, "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_dora": False,
             "use_qalora": False, "use_rslora": False}
    for start in (True, False, "gaussian", "eva", "orthogonal"):
        content = json.loads(path.read_text(encoding="utf-8-sig")) | plain | {"init_lora_weights": start}
        path.write_text(json.dumps(content), encoding="utf-8-sig")
        assert sorted(lora.read(tmp_path).targets) == sorted(learned[1].targets)


def test_names_that_are_refused(learned, tmp_path):
    """The name that PEFT has in memory; an embedding's A and B; with names escaped, whatever they are."""
    lora.write(tmp_path, learned[1])
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    module = "base_model.model.model.layers.1.self_attn.language_expert_dense"
    for name in (f"{module}.lora_A.default.weight", f"{module}.lora_embedding_A", "model.x.lora_A.weight", "\x1b[31m"):
        save_file(tensors | {name: tensors[f"{module}.lora_A.weight"]}, path)
        with pytest.raises(UserError, match="is not part of a LoRA adapter") as error:
            lora.read(tmp_path)
        assert f"tensor {name!r} is" in str(error.value)


def test_damaged_adapters(learned, tmp_path):
    with pytest.raises(UserError, match="an adapter is a folder with"):
        lora.read(tmp_path)
    lora.write(tmp_path, learned[1])
    for text, said in (("[1]", "not a JSON object"), ("{", "not valid JSON")):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(UserError, match=said):
            lora.read(tmp_path)
    lora.write(tmp_path, learned[1])
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    for wrong, said in (({n: w for n, w in tensors.items() if n != name}, "is missing; A and B"),
                        ({**tensors, "x.weight": tensors[name]}, "not part of a LoRA"), ({}, "holds no tensor")):
        save_file(wrong, path)
        with pytest.raises(UserError, match=said):
            lora.read(tmp_path)


def test_on_load_streamed_and_merged_it_is_the_same(base, some, tmp_path, capsys):
    lora.write(tmp_path / "adapter", some)
    inputs = base.inputs("What is it?", np.full((9, 9, 3), 77, np.uint8))
    expected = CogVLM(base.config, lora.merge(dict(base.leaves), some), rotary=base.rotary).logits(inputs)
    assert abs(expected - base.logits(inputs)).max() > 0.1
    for stream in (False, True):
        assert np.array_equal(tinycogvlm.load(TINY, stream=stream, lora=tmp_path / "adapter").logits(inputs), expected)
    merged, again = tmp_path / "merged", tmp_path / "again"
    assert main.main(["train", "merge", str(tmp_path / "adapter"), "--out", str(merged)]) == 0
    arguments = ["unmerge", str(tmp_path / "adapter"), "--weights", str(merged), "--out", str(again)]
    assert main.main(["train", *arguments]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1].split(",")[0] for line in said] == ["2 matrices changed", "2 matrices changed back"]
    old, new, back = Checkpoint(TINY), Checkpoint(merged), Checkpoint(again)
    for name, tensor in old.items():
        assert tensor.dtype == new[name].dtype == back[name].dtype == "F16"
        if name in some.targets:                            # float16 keeps eleven bits, and rounds twice
            w, update = tensor.numpy().astype("f4"), some.update(name, np.zeros(1, "f4"))
            room = 2 ** -10 * (abs(w) + abs(update)) + 1e-7
            assert (abs(new[name].numpy() - (w + update)) <= room).all() and (abs(back[name].numpy() - w) <= room).all()
        else:
            assert tensor.numpy().tobytes() == new[name].numpy().tobytes() == back[name].numpy().tobytes()
    assert abs(tinycogvlm.load(merged).logits(inputs) - expected).max() < 0.1
    assert main.main(["train", "merge", str(tmp_path / "adapter"), "--weights", str(merged), "--out", str(merged)]) == 1
    assert "is the model itself" in capsys.readouterr().err


def test_a_base_that_lacks_a_tensor_is_not_merged(some, tmp_path, capsys):
    lora.write(tmp_path / "adapter", some)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_bytes((TINY / "config.json").read_bytes())
    tensors = load_file(TINY / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    out = tmp_path / "out"
    arguments = ["merge", str(tmp_path / "adapter"), "--weights", str(tmp_path / "base"), "--out", str(out)]
    assert main.main(["train", *arguments]) == 1
    assert "lm_head.weight" in capsys.readouterr().err and not list(out.iterdir())


@pytest.mark.parametrize("command", ["merge", "unmerge"])
def test_another_model_is_not_overwritten(some, tmp_path, capsys, command):
    """Neither one of several shards, nor one file, nor an adapter."""
    lora.write(tmp_path / "adapter", some)
    for number, names in enumerate((["model.safetensors"], ["model-00001-of-00002.safetensors"],
                                    ["model.safetensors.index.json"], ["adapter_model.safetensors"], ["config.json"])):
        out = tmp_path / str(number)
        out.mkdir()
        for name in names:
            (out / name).write_bytes(b"precious")
        assert main.main(["train", command, str(tmp_path / "adapter"), "--weights", str(TINY), "--out", str(out)]) == 1
        assert f"{out}: already holds a model" in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in out.iterdir()} == dict.fromkeys(names, b"precious")
