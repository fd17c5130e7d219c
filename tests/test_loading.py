"""load(...): options that do not go together, paths that are none, sizes that cannot be; each said before any work."""
import inspect
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import tinycogvlm
from tinycogvlm import UserError, load
from tinycogvlm.loading import ROTARY, default_weights, found
from tinycogvlm.model.config import Config
from tinycogvlm.model.parts import INV_FREQ
from tinycogvlm.storage.checkpoint import Checkpoint, save

TINY = Path(__file__).parents[1] / "weights" / "tiny"
GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("options, said", [
    (dict(kernels=True, dtype="float64"), "the kernels compute in float32 or float16; float64 needs kernels=False"),
    (dict(memory=8e9), "memory is what the kernels may use of a GPU; without them .* leave it out"),
    (dict(memory=8e9, device="cuda", dtype="float64"), "memory is what the kernels may use"),
    (dict(activations="float32"), "activations is 'float32'; with kernels it may be .* else it is left out"),
    (dict(activations="int8", kernels=True), "activations is 'int8'; with kernels it may be 'float32', 'float16' or"),
    (dict(dtype="float16"), "dtype 'float16' is not one of float32, float64 on the device 'cpu'"),
    (dict(device="gpu"), "device 'gpu' is not cpu, cuda or cuda:N"), (dict(device=5), "device 5 is not cpu"),
    (dict(rotary="sotred"), "rotary 'sotred' is not one of auto, stored, stored-2byte, base"),
    (dict(tokenizer=""), "tokenizer is an empty path; is a variable not set"),
    (dict(lora=""), "lora is an empty path; is a variable not set"),
    (dict(tokenizer=5), "tokenizer is 5, not a path"), (dict(lora=True), "lora is True, not a path")])
def test_options_are_never_ignored(options, said):
    with pytest.raises(UserError, match=said):
        load(**options)


@pytest.mark.parametrize("folder, said", [
    ("", "folder is an empty path; is a variable not set"), (5, "folder is 5, not a path"),
    (b"weights", "folder is b'weights', not a path"), ("no such", "no such: no such folder; name the one that holds"),
    (TINY / "model.safetensors", "model.safetensors: is not a folder; name the one that holds config.json and the wei"),
    (TINY / "tokenizer.json", "tokenizer.json: is not a folder"),
    (TINY.parent, "config.json: cannot be read .No such file.*; a CogVLM folder holds a config.json")])
def test_folders_that_are_none(folder, said):
    with pytest.raises(UserError, match=said):
        load(folder)


def test_the_path_of_the_config_will_do():
    inputs = load(TINY).inputs("What is it?", np.zeros((8, 8, 3), np.uint8))
    assert load(str(TINY / "config.json")).logits(inputs).tobytes() == load(TINY).logits(inputs).tobytes()


@pytest.mark.parametrize("size", [0, -14, True, False, 56.0, "56", 1, 13, 12000, 30000, 999999999999999999, 2 ** 70])
def test_picture_sizes_that_cannot_be(size):
    """Before a picture of this size is made: the model's patches have 14 pixels a side, its context 1024 tokens."""
    with pytest.raises(UserError, match=f"the image size is {size!r}; it must be a whole number from 14, .*, to 434, "):
        load(image_size=size)


@pytest.mark.parametrize("size", [14, 27, np.int64(112), 434])
def test_picture_sizes_that_can_be(size):
    """The largest leaves room for one word."""
    model = load(image_size=size)
    inputs = model.inputs("", np.zeros((8, 8, 3), np.uint8), template="base")
    assert inputs.pixels.shape[-1] == size and inputs.ids.shape[1] < model.config.max_position_embeddings
    if size == 434:
        assert inputs.ids.shape[1] + 2 * 31 > model.config.max_position_embeddings       # 32 x 32 patches do not fit


@pytest.mark.parametrize("options", [dict(stream=True), dict(dtype="float64"), dict(kernels=True)])
def test_a_picture_size_goes_with_the_other_options(options):
    assert load(image_size=168, **options).config.vision.image_size == 168


def test_rotary_auto_takes_the_stored_frequencies():
    """Of a checkpoint whose frequencies, rounded to 2 bytes, are not those of the base."""
    folder = GOLDEN / "v1_bf16"
    stored = Checkpoint(folder)[INV_FREQ].numpy().astype(np.float32)
    frequencies = {choice: load(folder, rotary=choice).rotary.inv_freq for choice in ROTARY}
    assert all(np.array_equal(frequencies[choice], stored) for choice in ("auto", "stored", "stored-2byte"))
    assert not np.array_equal(frequencies["base"], stored) and np.allclose(frequencies["base"], stored, rtol=0.004)


def test_rotary_auto_computes_what_is_not_stored(make_config, make_leaves, tmp_path):
    config = make_config("cogvlm2")
    leaves = make_leaves(config, np.float32)
    save(tmp_path, {name: array for name, array in leaves.items() if "inv_freq" not in name}, config)
    assert np.array_equal(load(tmp_path).rotary.inv_freq, leaves[INV_FREQ])
    with pytest.raises(UserError, match="needs rotary_emb.inv_freq, which this checkpoint does not have"):
        load(tmp_path, rotary="stored")


def test_a_token_of_the_second_family_covers_two_patches(make_config, make_leaves, tmp_path):
    config = make_config("cogvlm2")
    save(tmp_path, make_leaves(config, np.float32), config)
    side = 2 * config.vision.patch_size
    for size in (1, side - 1):
        with pytest.raises(UserError, match=f"the image size is {size}; it must be a whole number from {side}, "):
            load(tmp_path, image_size=size)
    assert load(tmp_path, image_size=side).config.num_patches == 1


@pytest.mark.parametrize("change, said", [
    ({"quantization_config": {"load_in_4bit": True}}, "quantization_config says that the weights are quantised"),
    ({"vision_config": 3}, "no CogVLM config")])
def test_configs_name_the_cause(change, said):
    fields = Config.read(TINY).to_dict() | change
    with pytest.raises(UserError, match=said):
        Config.from_dict(fields)


def test_configs_of_other_editors_and_files_that_are_none(tmp_path):
    shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("*.md", "*.png", "logs"))
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")                  # as PowerShell writes it
    assert load(tmp_path / "model").config == Config.read(TINY)
    for content, said in ((b"version https://git-lfs.github.com/spec/v1\n", "config.json: a Git LFS pointer"),
                          (b"\xff\xfe{", "config.json: not UTF-8 text"), (b"[1]", "config.json: not a JSON object")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            load(tmp_path / "model")
    path.unlink()
    for target in ("/dev/zero", "/dev/null"):
        if not Path(target).exists():
            continue
        path.symlink_to(target)
        with pytest.raises(UserError, match="config.json: is not a file"):
            load(tmp_path / "model")
        path.unlink()


def test_threads_share_a_streamed_model():
    model = load(stream=True)
    inputs = model.inputs("Where is the dog?", np.arange(30000, dtype=np.uint8).reshape(100, 100, 3))
    right, found = model.logits(inputs, last=True).tobytes(), []

    def work():
        for _ in range(5):
            try:
                found.append(model.logits(inputs, last=True).tobytes() == right)
            except Exception as error:
                found.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20


def test_the_public_interface_has_types():
    """And a py.typed, so that checkers look at them."""
    assert (Path(tinycogvlm.__file__).parent / "py.typed").exists()
    for function in (load,):
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())


@pytest.mark.parametrize("field", ["hidden_size", "template_version", "hidden_act", "eos_token_id"])
def test_what_a_config_holds_is_escaped_and_cut(field):
    with pytest.raises(UserError, match=field) as error:
        Config.from_dict(Config.read(TINY).to_dict() | {field: "\x1b]0;owned\x07" * 1000})
    assert str(error.value).isprintable() and len(str(error.value)) < 400


def test_a_bundled_model_has_a_name(tmp_path, monkeypatch):
    """Unless there is a folder of that name"""
    monkeypatch.chdir(tmp_path)
    assert found("tiny") == default_weights("tiny") == found()
    (tmp_path / "tiny").mkdir()
    assert found("tiny").resolve() == tmp_path / "tiny"
    for name in ("teeny", "x/tiny", "../tiny"):
        with pytest.raises(UserError, match="no such folder"):
            found(name)
