"""Checkpoints: Hugging Face folders read and saved, arrays for arithmetic, and models larger than memory."""
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from checkpoints import (GOLDEN, SHAPES, STREAM, Convert, Crash, Settings, assert_holds, contents, float32, generated,
                         sharded, write_index)
from tinycogvlm.storage import atomic, leaves
from tinycogvlm.model.config import Config
from tinycogvlm.model.parts import COMPUTED, EMBEDDING
from tinycogvlm.errors import UserError
from tinycogvlm.storage.checkpoint import Checkpoint, save
from tinycogvlm.storage.leaves import EmbeddingRows, Leaves
from tinycogvlm.storage.safetensors_file import write_safetensors

# ------------------------------------------------------------------------------------------------------------- folders

def test_every_layout_is_found(tmp_path):
    arrays = generated(SHAPES, 1)
    safetensors.numpy.save_file(arrays, tmp_path / "weights.safetensors")
    assert_holds(Checkpoint(tmp_path), arrays)
    in_shards, _ = sharded(tmp_path, 2)
    assert_holds(Checkpoint(str(tmp_path)), in_shards)
    single = generated(SHAPES, 3)
    safetensors.numpy.save_file(single, tmp_path / "model.safetensors")
    assert_holds(Checkpoint(tmp_path), single)                                  # first, as in Hugging Face's loader
    assert_holds(Checkpoint(tmp_path / "weights.safetensors"), arrays)
    assert_holds(Checkpoint(tmp_path / "model.safetensors.index.json"), in_shards)
    with pytest.raises(KeyError):
        Checkpoint(tmp_path)["no such tensor"]


def test_hugging_face_s_cache_of_links(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots").mkdir()
    arrays, _ = sharded(tmp_path / "blobs")
    for file in (tmp_path / "blobs").iterdir():
        try:
            (tmp_path / "snapshots" / file.name).symlink_to(Path("..", "blobs", file.name))
        except OSError:
            pytest.skip("no symbolic links here")
    assert_holds(Checkpoint(tmp_path / "snapshots"), arrays)


@pytest.mark.parametrize("file", ["../model-00001-of-00002.safetensors", "..", ".", "", "/etc/passwd",
                                  "sub/x.safetensors", "sub\\x.safetensors", "C:x.safetensors", "C:\\x.safetensors",
                                  "\\\\host\\x", "a\0b", 7, None, ["model-00001-of-00002.safetensors"]])
def test_an_index_cannot_name_a_file_outside_the_folder(file, tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    arrays, weight_map = sharded(folder)
    safetensors.numpy.save_file(arrays, tmp_path / "model-00001-of-00002.safetensors")
    write_index(folder, weight_map | {"lm_head.weight": file})
    with pytest.raises(UserError, match="index.json: tensor 'lm_head.weight' is said to be in .* no file of this fold"):
        Checkpoint(folder)


def test_an_index_must_agree_with_its_shards(tmp_path):
    arrays, weight_map = sharded(tmp_path)
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    head = "lm_head.weight"
    without = {name: file for name, file in weight_map.items() if name != head}
    for changed, words in (
            (weight_map | {head: "model-00003-of-00003.safetensors"},
             f"index.json: tensor '{head}' .* but there is no such file"),
            (weight_map | {head: "x" * 5000}, "there is no such file"),
            (weight_map | {head: first}, f"index.json: tensor '{head}' is said to be in '{first}', but it is not"),
            (weight_map | {"extra": second}, f"index.json: tensor 'extra' is said to be in '{second}', but it is not"),
            (without, f"{second}: holds tensor '{head}', but model.safetensors.index.json has it nowhere")):
        write_index(tmp_path, changed)
        with pytest.raises(UserError, match=words):
            Checkpoint(tmp_path)
    safetensors.numpy.save_file({name: arrays[name] for name in list(arrays)[:3] + [head]}, tmp_path / first)
    write_index(tmp_path, weight_map)
    with pytest.raises(UserError, match=f"{first}: holds tensor '{head}', but .* has it in '{second}'"):
        Checkpoint(tmp_path)
    (tmp_path / first).write_bytes(b"")
    with pytest.raises(UserError, match=f"{first}: not a safetensors file"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": ["ab"]}', "[" * 100000,
                                  "\ufeff{}", "\xff", '{"weight_map": null}', '[["weight_map", [["a", "b"]]]]',
                                  '{"weight_map": {"\\ud800": "x"}}',
                                  '{"weight_map": NaN}'])
def test_a_bad_index_is_named(text, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(text.encode("utf-8") if text != "\xff" else b"\xff")
    said = "not valid JSON|not a JSON object|not UTF-8|weight_map, from tensors to files, is missing|no such file"
    with pytest.raises(UserError, match=said) as error:
        Checkpoint(tmp_path)
    assert str(error.value).startswith(f"{index}: ")


def test_a_path_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no model.safetensors and no model.safetensors.index.json and no weights"):
        Checkpoint(tmp_path)
    with pytest.raises(UserError, match="missing: cannot be read .No such file"):
        Checkpoint(tmp_path / "missing")
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"PK")
    with pytest.raises(UserError, match="PyTorch files only; convert them to safetensors"):
        Checkpoint(tmp_path)
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(UserError, match="model.safetensors: (is not a file|cannot be read)"):
        Checkpoint(tmp_path)


def test_check_names_what_does_not_fit(tmp_path):
    inv_freq = "model.layers.0.self_attn.rotary_emb.inv_freq"
    shapes = {"a": (2, 3), "b": (4,), "c": (), inv_freq: (8,)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    path = tmp_path / "x.safetensors"

    def check(arrays):
        write_safetensors(path, arrays)
        Checkpoint(path).check(shapes, COMPUTED)

    check(arrays)
    check({name: array for name, array in arrays.items() if name != inv_freq})
    check({name: array.astype(np.float16) for name, array in arrays.items()})
    for changed, words in ((arrays | {"a": np.ones((3, 2), np.float32)},
                            r"tensor 'a' has the shape \(3, 2\), but config.json makes it \(2, 3\)"),
                           ({"a": arrays["a"], "c": arrays["c"]}, "tensor 'b' is missing"),
                           ({inv_freq: arrays[inv_freq]}, "tensors 'a', 'b', 'c' are missing"),
                           (arrays | {"d": np.ones(2)}, "tensor 'd' is not part of the model"),
                           (arrays | {f"d{i}": np.ones(2) for i in range(7)},
                            "tensors 'd0', 'd1', 'd2' and 4 more are not part"),
                           (arrays | {inv_freq: np.ones(4)}, rf"tensor '{inv_freq}' has the shape \(4,\)"),
                           (arrays | {"b": np.ones(4, np.int64)}, "tensor 'b' holds I64, not floating-point numbers")):
        with pytest.raises(UserError, match=words) as error:
            check(changed)
        assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("case", ["v1_tiny", "v2_tiny", "v1_bf16", "v1_grads", "v2_grads", "v1_eps"])
def test_golden_weights_are_those_of_their_config(case):
    checkpoint = Checkpoint(GOLDEN / case)
    checkpoint.check(Config.read(GOLDEN / case).shapes(), COMPUTED)
    assert {tensor.dtype for tensor in checkpoint.values()} == {"BF16" if case == "v1_bf16" else "F32"}


# ---------------------------------------------------------------------------------------------- arrays for arithmetic

@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_resident_leaves_convert_once(dtype, tmp_path):
    arrays = generated(SHAPES)
    write_safetensors(tmp_path / "model.safetensors", arrays, dtype)
    checkpoint, convert = Checkpoint(tmp_path), Convert()
    arrays = {name: tensor.numpy().astype(np.float32) for name, tensor in checkpoint.items()}
    got = Leaves(checkpoint, convert)
    assert len(got) == len(SHAPES) and set(got) == set(SHAPES)
    assert "lm_head.weight" in got and "lm_head.bias" not in got and got.get("lm_head.bias") is None
    assert not convert.sizes                                                    # nothing was converted so far
    for _ in range(2):
        for name, array in arrays.items():
            assert got[name] is got[name] and got[name].dtype == np.float32
            np.testing.assert_array_equal(got[name], array)
    assert sorted(convert.sizes) == sorted(array.size for array in arrays.values())


@pytest.mark.parametrize("dtype, to", [("BF16", np.float32), ("F16", np.float32), ("F32", np.float64),
                                       ("F32", np.float32)])
def test_large_tensors_are_converted_in_chunks(dtype, to, tmp_path, monkeypatch):
    arrays = generated({"a": (1000, 7), "b": (3, 4000), "c": (5,)})
    write_safetensors(tmp_path / "model.safetensors", arrays, dtype)
    checkpoint, convert = Checkpoint(tmp_path), Convert(to)
    expected = {name: tensor.numpy().astype(to) for name, tensor in checkpoint.items()}
    monkeypatch.setattr(leaves, "CHUNK", 1000)
    got = Leaves(checkpoint, convert)
    for name in arrays:
        assert got[name].dtype == to and got[name].tobytes() == expected[name].tobytes()
    itemsize = checkpoint["a"].nbytes // 7000
    assert max(convert.sizes) == 4000 and sum(convert.sizes) == 19005                           # a row is not divided
    rows = 1000 // (7 * itemsize)                                                               # of "a" at a time
    assert sorted(convert.sizes)[:-3] == sorted([5, 1000 % rows * 7] + 1000 // rows * [7 * rows])


def test_streamed_leaves_keep_the_last_blocks(tmp_path):
    arrays = generated(SHAPES)
    write_safetensors(tmp_path / "model.safetensors", arrays, "BF16")
    checkpoint, convert = Checkpoint(tmp_path), Convert()
    resident, streamed = Leaves(checkpoint, float32), Leaves(checkpoint, convert, stream=True, resident_blocks=2)
    names = [name for name in SHAPES if name != "model.embed_tokens.weight"]

    def use(name):
        """How many conversions it took."""
        before = len(convert.sizes)
        np.testing.assert_array_equal(streamed[name], resident[name])
        return len(convert.sizes) - before

    assert "lm_head.weight" in streamed and "lm_head.bias" not in streamed and list(streamed) == list(checkpoint)
    assert not convert.sizes
    weight, bias = "model.vision.transformer.layers.0.a.weight", "model.vision.transformer.layers.0.a.bias"
    layers = [f"model.layers.{i}.mlp.weight" for i in (0, 1, 10)]
    assert [use(name) for name in (weight, bias, weight)] == [1, 1, 0]
    assert [use(name) for name in (layers[0], weight, layers[0], bias)] == [1, 0, 0, 0]         # two blocks are there
    assert [use(name) for name in (layers[1], bias, layers[0])] == [1, 0, 1]                    # the oldest one left
    assert [use(name) for name in (layers[2], layers[1], "lm_head.weight", layers[1])] == [1, 1, 1, 0]
    for name in names * 2:
        assert use(name) <= 1 and len(streamed._blocks) == 2
    with pytest.raises(KeyError):
        streamed["model.layers.2.mlp.weight"]


def test_a_streamed_embedding_reads_only_its_rows(tmp_path):
    arrays = generated(SHAPES)
    for dtype in ("BF16", "F16", "F32"):
        write_safetensors(tmp_path / f"{dtype}.safetensors", arrays, dtype)
        checkpoint, convert = Checkpoint(tmp_path / f"{dtype}.safetensors"), Convert()
        table = Leaves(checkpoint, convert, stream=True, tables=(EMBEDDING,))[EMBEDDING]
        assert isinstance(table, EmbeddingRows) and table.shape == (50, 6) and len(table) == 50
        expected = checkpoint["model.embed_tokens.weight"].numpy().astype(np.float32)
        for ids in (np.array([[3, 49, 3], [0, 1, 2]]), np.array([], int), np.array(7), slice(2, 5)):
            np.testing.assert_array_equal(table[ids], expected[ids])
            assert table[ids].dtype == np.float32
        assert convert.sizes == [36, 36, 0, 0, 6, 6, 18, 18]
        with pytest.raises(IndexError):
            table[np.array([50])]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts a process's own memory on Linux")
def test_a_checkpoint_larger_than_memory_is_streamed(tmp_path):
    """203 MB of BF16 in shards, 405 MB as float32, for a process that may take 50 MB of memory beside its imports."""
    import zlib
    shapes = {f"model.layers.{i}.{name}.weight": (256, 5500) for i in range(24) for name in ("up", "gate", "down")}
    shapes |= {"model.embed_tokens.weight": (500, 64), "lm_head.weight": (500, 64)}
    save(tmp_path, generated(shapes), Settings(), dtype="BF16", max_shard_bytes=75e6)
    checkpoint = Checkpoint(tmp_path)
    assert len({tensor.path for tensor in checkpoint.values()}) == 3
    assert sum(tensor.nbytes for tensor in checkpoint.values()) > 200e6

    def run(how):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        root = Path(leaves.__file__).parents[1]
        done = subprocess.run([sys.executable, "-c", STREAM, tmp_path, how], cwd=root, env=environment, check=True,
                              capture_output=True, text=True, timeout=120)
        lines = done.stdout.splitlines()
        return lines[:-1], int(lines[-1].split()[1])

    lines, peak = run("stream")
    assert lines == 2 * [f"{name} {zlib.crc32(checkpoint[name].numpy().astype(np.float32))}" for name in checkpoint]
    assert peak < 150e6                                                         # pages of the file included
    assert run("resident")[0][-1] == "MemoryError"                              # so the limit does bind


# -------------------------------------------------------------------------------------------------------------- saving

def test_save_and_read_back(tmp_path):
    arrays = generated(SHAPES)
    save(tmp_path / "new" / "folder", arrays, Settings())
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["config.json", "model.safetensors"]
    assert_holds(Checkpoint(tmp_path / "new" / "folder"), arrays)
    written = (tmp_path / "new" / "folder" / "model.safetensors").read_bytes()
    assert written == safetensors.numpy.save(arrays, {"format": "pt"})


def test_shards_are_laid_out_as_by_hugging_face(tmp_path):
    arrays = generated(SHAPES)                              # 1200, 720, 720, 720, 140, 28, 24 and 1200 bytes
    save(tmp_path, arrays, Settings(), max_shard_bytes=2000)
    shards = [list(SHAPES)[:2], list(SHAPES)[2:7], list(SHAPES)[7:]]
    files = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(os.listdir(tmp_path)) == ["config.json", *files, "model.safetensors.index.json"]
    for file, names in zip(files, shards):
        assert (tmp_path / file).read_bytes() == safetensors.numpy.save({n: arrays[n] for n in names}, {"format": "pt"})
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index == {"metadata": {"total_size": sum(array.nbytes for array in arrays.values())},
                     "weight_map": {name: file for file, names in zip(files, shards) for name in names}}
    assert_holds(Checkpoint(tmp_path), arrays)
    save(tmp_path, arrays, Settings(), max_shard_bytes=1, replace=True)         # each tensor is larger than a shard
    assert len(list(tmp_path.glob("model-*-of-00008.safetensors"))) == 8 and len(list(tmp_path.iterdir())) == 10
    assert_holds(Checkpoint(tmp_path), arrays)


@pytest.mark.parametrize("case", ["v1_bf16", "v2_tiny"])
def test_a_golden_checkpoint_survives(case, tmp_path):
    source, config = Checkpoint(GOLDEN / case), Config.read(GOLDEN / case)
    for limit in (5e9, 30000):
        save(tmp_path, source, config, max_shard_bytes=limit, replace=True)
        assert contents(Checkpoint(tmp_path)) == contents(source)
        assert Config.read(tmp_path) == config
        Checkpoint(tmp_path).check(config.shapes(), COMPUTED)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot replace a mapped file")
@pytest.mark.parametrize("limit", [5e9, 2000, 1])
def test_a_folder_can_be_saved_onto_itself(limit, tmp_path):
    for before in (5e9, 2000):
        arrays = generated(SHAPES)
        save(tmp_path, arrays, Settings(), max_shard_bytes=before, replace=True)
        save(tmp_path, Leaves(Checkpoint(tmp_path), float32), Settings(), max_shard_bytes=limit, replace=True)
        assert_holds(Checkpoint(tmp_path), arrays)


@pytest.mark.parametrize("old_limit", [5e9, 1500, 1])
@pytest.mark.parametrize("new_limit", [5e9, 1500, 1])                           # 1, 2 and 3 shards
def test_a_reader_never_finds_parts_of_two_checkpoints(old_limit, new_limit, tmp_path, monkeypatch):
    """The folder is read before and after every change that `save` makes, and `save` is stopped at each of them."""
    shapes = {name: SHAPES[name] for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")}
    old, new = generated(shapes, 1), generated(shapes, 2)
    settings = Settings()
    monkeypatch.setattr(atomic.os, "fsync", lambda descriptor: None)  # slow, and no matter here

    def state(folder):
        try:
            got = {name: tensor.numpy().tobytes() for name, tensor in Checkpoint(folder).items()}
        except UserError:
            return "none"
        return "old" if got == {n: a.tobytes() for n, a in old.items()} else \
            "new" if got == {n: a.tobytes() for n, a in new.items()} else "mixture"

    def run(folder, stop_at):
        """The states seen; `save` is stopped before its change number `stop_at`."""
        save(folder, old, settings, max_shard_bytes=old_limit)
        states = [state(folder)]
        with monkeypatch.context() as patch:
            def watched(function):
                def change(*arguments, **keywords):
                    if len(states) - 1 == stop_at:
                        raise Crash
                    result = function(*arguments, **keywords)
                    states.append(state(folder))
                    return result
                return change
            patch.setattr(atomic.os, "replace", watched(os.replace))
            patch.setattr(Path, "unlink", watched(Path.unlink))
            try:
                save(folder, new, settings, max_shard_bytes=new_limit, replace=True)
            except Crash:
                return states + [state(folder)], False
        return states, True

    for stop_at in range(40):
        folder = tmp_path / str(stop_at)
        states, complete = run(folder, stop_at)
        assert "mixture" not in states and states[0] == "old"
        assert states == sorted(states, key=["old", "none", "new"].index)       # and never back
        assert "none" not in states or new_limit < 5e9                          # one file replaces all at once
        if complete:
            break
    assert complete and states[-1] == "new" and not list(folder.glob("*.part"))
    save(folder, new, settings, max_shard_bytes=new_limit, replace=True)
    clean = tmp_path / "clean"
    save(clean, new, settings, max_shard_bytes=new_limit)
    assert sorted(os.listdir(folder)) == sorted(os.listdir(clean))              # nothing of the old layout remains


@pytest.mark.parametrize("failing, old_limit, new_limit", [
    ("fsync", 5e9, 5e9), ("fsync", 5e9, 2000), ("fsync", 2000, 5e9), ("fsync", 2000, 2000), ("rename", 5e9, 5e9),
                                                           ("rename", 2000, 2000)])
def test_a_failed_save_leaves_the_old_checkpoint(failing, old_limit, new_limit, tmp_path, monkeypatch):
    """A full disk; and Windows, where a file that is mapped cannot be replaced."""
    old = generated(SHAPES, 1)
    save(tmp_path, old, Settings(), max_shard_bytes=old_limit)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, failing, fail)
    settings = Settings()
    settings.fields = {"new": 1}
    with pytest.raises(UserError, match="cannot be (written|replaced)"):
        save(tmp_path, generated(SHAPES, 2), settings, max_shard_bytes=new_limit, replace=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_save_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be written"):
        save(tmp_path / "file", generated(SHAPES), Settings())


# ------------------------------------------------------------------------------------------------------ many at a time

class Yielding(OrderedDict):
    """Lets another thread run after each change."""

    def setdefault(self, *arguments):
        found = super().setdefault(*arguments)
        time.sleep(1e-5)
        return found

    def popitem(self, last):
        time.sleep(1e-5)
        return super().popitem(last)


def test_threads_share_streamed_leaves(tmp_path):
    """Four threads, each through all blocks in its own order: every array is right, and no more blocks stay."""
    shapes = {f"model.layers.{i}.{name}.weight": (20, 30) for i in range(6) for name in ("up", "down")}
    shapes |= {"model.embed_tokens.weight": (50, 6), "model.norm.weight": (6,)}
    write_safetensors(tmp_path / "model.safetensors", generated(shapes), "BF16")
    checkpoint = Checkpoint(tmp_path)
    right = {name: tensor.numpy().astype(np.float32) for name, tensor in checkpoint.items()}
    streamed, problems = Leaves(checkpoint, float32, stream=True, tables=(EMBEDDING,)), []
    streamed._blocks = Yielding()

    def work(seed):
        try:
            for name in np.random.default_rng(seed).choice(list(shapes), 100):
                array = streamed[name][:] if name == "model.embed_tokens.weight" else streamed[name]
                if not np.array_equal(array, right[name]):
                    problems.append(name)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems and len(streamed._blocks) == 2


# ------------------------------------------------------------------------------------------------ what the cause is

@pytest.mark.parametrize("name", ["absmax", "quant_map", "quant_state.bitsandbytes__nf4", "SCB", "qweight"])
def test_quantised_weights_are_named(name, tmp_path):
    arrays = generated(SHAPES) | {f"lm_head.weight.{name}": np.ones(3, np.float32)}
    write_safetensors(tmp_path / "model.safetensors", arrays)
    with pytest.raises(UserError, match=rf"weights are quantised \(tensor 'lm_head.weight.{name}'\).*the unquantised"):
        Checkpoint(tmp_path).check(SHAPES)


@pytest.mark.parametrize("prefix", ["base_model.model.", "_orig_mod.", "module."])
def test_prefixed_names_are_named(prefix, tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {prefix + name: a for name, a in generated(SHAPES).items()})
    with pytest.raises(UserError, match=f"the tensors' names begin with '{prefix}'"):
        Checkpoint(tmp_path).check(SHAPES)


def test_names_of_untrusted_files_are_escaped(tmp_path):
    name = "\x1b]0;owned\x07" + "x" * 1000
    write_safetensors(tmp_path / "model.safetensors", generated(SHAPES) | {name: np.ones(1, np.float32)})
    with pytest.raises(UserError) as error:
        Checkpoint(tmp_path).check(SHAPES)
    assert str(error.value).isprintable() and len(str(error.value)) < 500
    (tmp_path / "model.safetensors").unlink()
    for weight_map in ({name: "x"}, {"a": name}):
        write_index(tmp_path, weight_map)
        with pytest.raises(UserError) as error:
            Checkpoint(tmp_path)
        assert str(error.value).isprintable() and len(str(error.value)) < 800


@pytest.mark.parametrize("file", ["model.safetensors", "model.safetensors.index.json"])
@pytest.mark.skipif(os.name == "nt", reason="Windows has neither")
def test_pipes_devices_and_endless_files(file, tmp_path):
    """Nothing waits for a writer, and nothing is read without end."""
    for make, said in ((lambda path: os.mkfifo(path), "is not a file"),
                       (lambda path: path.symlink_to("/dev/zero"), "is not a file"),
                       (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 60 << 30),
                        "has 64424509440 bytes, but such a file has at most|not a safetensors file|header")):
        make(tmp_path / file)
        with pytest.raises(UserError, match=said):
            Checkpoint(tmp_path)
        (tmp_path / file).unlink()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "model-00003-of-00007.safetensors",
                                  "model.safetensors.index.json", "weights.safetensors", "adapter_model.safetensors",
                                  "pytorch_model-00001-of-00002.bin"])
def test_no_other_model_is_destroyed(file, tmp_path):
    (tmp_path / file).write_bytes(b"precious")
    with pytest.raises(UserError, match=f"already holds a model .{file}.; write to a new folder"):
        save(tmp_path, generated(SHAPES), Settings())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {file: b"precious"}
    (tmp_path / file).rename(tmp_path / "notes.txt")
    save(tmp_path, generated(SHAPES), Settings())
    assert_holds(Checkpoint(tmp_path), generated(SHAPES))


def test_a_number_too_large_for_float16_leaves_the_old_model(tmp_path):
    save(tmp_path, generated(SHAPES), Settings())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="tensor 'lm_head.weight' holds 7e.04, which is too large for F16; BF16 or F32"):
        save(tmp_path, generated(SHAPES) | {"lm_head.weight": np.full((50, 6), 7e4, np.float32)}, Settings(), "F16",
             max_shard_bytes=2000, replace=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
