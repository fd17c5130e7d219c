"""What goes where on GPUs of 8 to 24 GB, by arithmetic on both real models; and that loading follows it."""
import json

import fake_cupy
import numpy as np
import pytest
from fake_cupy.memory import machine

from conftest import random_inputs, random_leaves, tiny_config
from tinycogvlm import load
from tinycogvlm.cli import main, info
from tinycogvlm.model import generate
from tinycogvlm.model.look import look
from tinycogvlm.evaluate import quantisation
from tinycogvlm.storage import leaves as storage, quantise
from tinycogvlm.model.config import Config, VisionConfig
from tinycogvlm.kernels.engine import Engine
from tinycogvlm.errors import UserError
from tinycogvlm.kernels.runner import build
from tinycogvlm.storage.checkpoint import Checkpoint, save
from tinycogvlm.kernels import plan as planning
from tinycogvlm.kernels.plan import (DTYPES, Plan, Planned, best, cache_bytes, headroom_bytes, host_bytes, plan, scratch_bytes,
                                     stored_bytes)
from tinycogvlm.storage.quantise import Quantised
from tinycogvlm.nn.arrays import bfloat16_bits, converter, round_to

V1 = Config(32000, 4096, 11008, 32, 32, 32, VisionConfig(1792, 63, 16, 15360, 14, 490))
V2 = Config(128256, 4096, 14336, 32, 32, 8, VisionConfig(1792, 63, 16, 15360, 14, 1344), "cogvlm2",
            8192, 1e-5, 128000, 128001, 128002)
TOWER, EXPERTS = ("vision transformer", "adapter"), ("vision experts",)
needs_runner = pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))


def test_int4_of_the_first_model_is_about_10_gb():
    """17.38 G weights in 4.25 bits, the two ends and 1.7 M other numbers in 16"""
    layer = 2 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    tower = 63 * (4 * 1792 * 1792 + 2 * 1792 * 15360)
    packed = 32 * layer + tower + 4096 * 1792 + 3 * 4096 * 11008
    rest = 17_639_685_376 - packed
    found = plan(V1, "int4", 13e9)
    assert (found.embedding_and_head, found.offloaded) == ("float16", ())
    assert stored_bytes(found) == packed * 17 // 32 + 2 * rest and 9.7e9 < stored_bytes(found) < 9.8e9
    assert host_bytes(found) == 0 and cache_bytes(found) == 2 * 2 * 32 * 4096 * 2048
    intermediates = 1291 * (14 * 4096 + 3 * 11008)          # 1227 image tokens, 64 words: more than the tower's
    assert scratch_bytes(found) == 2 * intermediates + 2 * 2 * 3 * 4096 * 4096          # and QKV of both experts


def test_bytes_of_what_is_offloaded():
    """The examples in plan.py; and what a product copies from the host: the vision experts' QKV in 4.25 bits."""
    found = Plan(V1, "int4", "float16", EXPERTS)
    experts = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert experts == 6_476_005_376 and host_bytes(found) == experts * 17 // 32 == 3_440_377_856
    assert stored_bytes(found) == stored_bytes(Plan(V1, "int4", "float16")) - host_bytes(found) == 6_323_837_440
    assert cache_bytes(found) == 1_073_741_824 and scratch_bytes(Plan(V1, "int4", "float16")) == 434_656_768
    assert scratch_bytes(found) == 434_656_768 + 3 * 4096 * 4096 * 17 // 32
    wide = Plan(V1, "bfloat16", "bfloat16", activations="float32")
    assert (cache_bytes(wide), scratch_bytes(wide)) == (2 * 1_073_741_824, 2 * 434_656_768)
    assert found.on_gpu == sum(of(found) for of in (stored_bytes, cache_bytes, scratch_bytes, headroom_bytes))
    assert Plan(V1, "bfloat16", "bfloat16", activations="bfloat16").on_gpu < wide.on_gpu - 1.4e9


def test_what_the_driver_adds():
    """2 MiB pages: an MLP's matrix of 11008 x 4096 codes takes 22 for 21.5, its scales 1 for 0.67; norms share."""
    page, layer = 2 << 20, V1.shapes()
    whole, without = (Plan(V1, "int8", "float16", parts) for parts in ((), EXPERTS))
    saved = headroom_bytes(whole) - headroom_bytes(without)
    mlp = 22 * page - 11008 * 4096 + page - 11008 * 4096 // 32
    qkv_and_dense = page - 4096 * 4096 * 3 // 32, 0         # whole pages of codes; 0.25 of a page is not a large array
    assert saved == 32 * (3 * mlp + sum(qkv_and_dense)) and len(layer) > 1000 and headroom_bytes(without) > 256 << 20


@pytest.mark.parametrize("config, dtype, gb, ends, host", [
    (V1, "int4", 8, "float16", TOWER + EXPERTS), (V1, "int4", 12, "int4", ()), (V1, "int8", 16, "int8", TOWER),
    (V1, "int4", 16, "float16", ()), (V1, "int8", 24, "float16", ()), (V1, "bfloat16", 23, "bfloat16", TOWER + EXPERTS),
    (V1, "bfloat16", 25, "bfloat16", EXPERTS),
    (V1, "bfloat16", 32, "bfloat16", TOWER), (V1, "bfloat16", 48, "bfloat16", ()),
    (V2, "int4", 8, "int4", TOWER + EXPERTS), (V2, "int4", 12, "int4", TOWER), (V2, "int4", 16, "float16", ()),
    (V2, "int8", 24, "int8", ()), (V1, "float32", 80, "float32", ())])
def test_what_cards_hold(config, dtype, gb, ends, host):
    """As much as fits; nothing is left out, and what comes before in the order of choices does not fit."""
    found = plan(config, dtype, gb * 1e9)
    assert (found.embedding_and_head, found.offloaded) == (ends, host) and found.on_gpu <= gb * 1e9
    assert stored_bytes(found) + host_bytes(found) == stored_bytes(Plan(config, dtype, ends))
    assert (host_bytes(found) > 0) == bool(host)
    if host:
        assert Plan(config, dtype, ends).on_gpu > gb * 1e9
    assert plan(config, dtype) == Plan(config, dtype, "float16" if "int" in dtype else dtype)


@pytest.mark.parametrize("config, gb, dtype, host", [
    (V1, 8, "int4", TOWER + EXPERTS), (V1, 12, "int4", ()), (V1, 24, "int8", ()), (V1, 48, "bfloat16", ()),
    (V2, 12, "int4", TOWER), (V2, 24, "int8", ()), (V2, 40, "int8", ()), (V2, 80, "bfloat16", ())])
def test_the_best_plan(config, gb, dtype, host):
    """The most bits that fit whole; what is in 16 bits is in those that hold the range of the activations."""
    found = best(config, gb * 1e9, "bfloat16")
    assert (found.dtype, found.offloaded) == (dtype, host) and found.embedding_and_head in ("bfloat16", dtype)
    assert best(config, gb * 1e9, "float16").dtype == dtype.replace("bfloat16", "float16")
    with pytest.raises(UserError, match="in int4 the model needs"):
        best(config, 5e9, "bfloat16")


def test_what_does_not_fit():
    with pytest.raises(UserError, match=r"in bfloat16 the model needs 15\.\d GB of .* at least, and 12\.0 GB"):
        plan(V1, "bfloat16", 12e9)
    with pytest.raises(UserError, match="'int3' is not one of float32, float16, bfloat16, int8, int4"):
        plan(V1, "int3")


@pytest.mark.parametrize("config", [V1, V2])
def test_info_prints_the_plans(config, tmp_path):
    config.write(tmp_path)
    report = info.report(tmp_path)
    assert list(report["gpu"]) == ["8 GB", "12 GB", "16 GB", "24 GB"] and json.dumps(report)
    for card, plans in report["gpu"].items():
        for dtype, place in plans.items():
            if place is None:
                continue
            found = plan(config, dtype, float(card.split()[0]) * 1e9)
            assert place == {"gpu": found.on_gpu, "offloaded": host_bytes(found),
                             "embedding_and_head": found.embedding_and_head, "offloaded parts": list(found.offloaded)}
    lines = info.table(report).partition("\nGPU")[2].splitlines()[1:13]
    assert [line.split()[:3] for line in lines[:3]] == [["8", "GB", dtype] for dtype in ("bfloat16", "int8", "int4")]
    assert lines[0].endswith("does not fit") and "vision experts" in lines[2]


# ----------------------------------------------------------------------------------------------------------- loading

@pytest.fixture
def folder(tmp_path, family):
    """A model of 16 bits whose matrices hold whole groups."""
    config = toy(family)
    save(tmp_path, random_leaves(config, np.float32), config, "BF16")
    return tmp_path


def toy(family):
    key_value_heads = 4 if family == "cogvlm2" else 8
    return tiny_config(family, hidden_size=64, num_attention_heads=8, num_key_value_heads=key_value_heads,
                       intermediate_size=128, vision=dict(hidden_size=64, num_heads=8, intermediate_size=128))


def test_leaves_are_stored_as_planned(folder, family):
    checkpoint, to_device = Checkpoint(folder), converter()
    config = Config.read(folder)
    for dtype in ("bfloat16", "int8", "int4", "float16"):
        leaves = Planned(checkpoint, plan(config, dtype), to_device)
        for name in leaves:
            exact, leaf = checkpoint[name].numpy(), leaves[name]
            kind = leaves.dtypes.get(name, "float16")
            if kind == "bfloat16":
                assert np.array_equal(leaf, bfloat16_bits(exact)) and np.array_equal(round_to(exact, kind), exact)
            elif kind == "float16":
                assert np.array_equal(leaf, exact.astype(np.float16))
            else:
                wanted = quantise.quantise(exact, kind)
                assert isinstance(leaf, Quantised) and leaf.dtype == dtype and leaf.shape == exact.shape
                assert np.array_equal(leaf.codes, wanted.codes) and np.array_equal(leaf.scales, wanted.scales)
        kinds = [leaves.dtypes[name] for name in ("model.layers.1.mlp.vision_mlp.up_proj.weight", "lm_head.weight",
                                                  "model.norm.weight", "model.vision.patch_embedding.proj.weight")]
        assert kinds == [dtype, dtype if dtype == "bfloat16" else "float16", "float16", "float16"]
    leaves = Planned(checkpoint, Plan(config, "int4", "int4"), to_device)
    assert leaves["lm_head.weight"].dtype == leaves["model.embed_tokens.weight"].dtype == "int4"


def test_a_few_rows_at_a_time(folder, monkeypatch):
    """Neither the host nor the GPU ever holds a large matrix in 32 bits."""
    monkeypatch.setattr(storage, "CHUNK", 4000)
    config, largest = Config.read(folder), []

    def to_device(array):
        largest.append(array.nbytes)
        return array.astype(np.float32, copy=False)
    monkeypatch.setattr(planning, "bfloat16_bits", lambda rows: bfloat16_bits(to_device(rows)))
    for dtype in ("bfloat16", "float16"):                   # of codes: test_quantise.py
        leaves = Planned(Checkpoint(folder), plan(config, dtype), to_device)
        for name in leaves:
            leaves[name]
        assert max(largest) <= 8192 and len(largest) > len(leaves)
        largest.clear()


@needs_runner
@pytest.mark.parametrize("dtype", [pytest.param("int4", marks=pytest.mark.slow), "bfloat16"])
def test_what_is_offloaded_is_copied_when_used_and_changes_nothing(folder, dtype):
    """From pinned memory; or from the file, where it is stored as it is used, and then nothing is kept."""
    config, tokens = Config.read(folder), []
    inputs = random_inputs(config, ("image", 4))
    with fake_cupy.installed():
        for host in ((), TOWER + EXPERTS):
            leaves = Planned(Checkpoint(folder), Plan(config, dtype, dtype, host, "bfloat16"), converter("cuda"))
            leaves.load()
            sent, model = machine.moved["to GPU"], Engine(config, leaves)
            tokens.append(list(generate.generate(model, inputs, 3)))
            assert machine.moved["to GPU"] - sent > host_bytes(leaves.plan)
            assert leaves.offloaded("model.vision.boi") == bool(host) and not leaves.offloaded("lm_head.weight")
            for name in leaves.dtypes:
                assert leaves.in_file(name) == (name not in leaves._resident)
                kept = leaves._resident.get(name)
                kept = kept.codes if isinstance(kept, Quantised) else kept
                assert kept is None or isinstance(kept, np.ndarray) == leaves.offloaded(name)
        assert np.array_equal(*tokens) and leaves.in_file("model.vision.boi")
        assert leaves.in_file("model.vision.transformer.layers.0.mlp.fc1.weight") == (dtype == "bfloat16")
        sent = machine.moved["to GPU"]
        model.logits(random_inputs(config, (4,)))
        assert machine.moved["to GPU"] - sent < 1000        # a text needs nothing that is offloaded


def test_all_is_loaded_before_the_first_question(folder):
    """In small pieces, as the file stores it: neither the numbers in 32 bits nor a whole matrix lie beside the rest; and
    the pool gives back what it took for that."""
    config = Config.read(folder)
    for dtype in DTYPES:
        with fake_cupy.installed() as cupy:
            leaves = Planned(Checkpoint(folder), plan(config, dtype, activations="bfloat16"), converter("cuda"))
            machine.gpus[0].mark()
            before = machine.moved["to GPU"]
            leaves.load()
            assert machine.moved["to GPU"] - before <= sum(tensor.nbytes for tensor in leaves.checkpoint.values()) + 1000
            pool = cupy.get_default_memory_pool()
            assert stored_bytes(leaves.plan) <= pool.used_bytes() <= stored_bytes(leaves.plan) + 512 * 2 * len(leaves)
            assert pool.free_bytes() < 100_000 and set(leaves._resident) == set(leaves.dtypes)
            allocations = machine.done["alloc"]
            for name in leaves.dtypes:
                leaves[name]
            assert machine.done["alloc"] == allocations


def test_what_the_host_cannot_hold_is_refused(folder, monkeypatch):
    monkeypatch.setattr(planning, "free_memory", lambda: 1000)
    leaves = Planned(Checkpoint(folder), Plan(Config.read(folder), "int4", "int4", EXPERTS), converter())
    with pytest.raises(UserError, match="0.0 GB of parameters are to be offloaded to the host's memory, of which 0.0"):
        leaves.load()
    Planned(Checkpoint(folder), Plan(Config.read(folder), "int4", "int4"), converter()).load()


@needs_runner
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("activations", [None, pytest.param("float16", marks=pytest.mark.slow)])
def test_load(folder, dtype, activations, family):
    """load makes an Engine whose logits are near those of the readable model with the rounded weights.

    The checkpoint is in bfloat16, so that activations are, too, unless something else is asked for.
    """
    model = load(folder, dtype=dtype, kernels=True, activations=activations)
    kind = "float32" if dtype == "float32" else activations or "bfloat16"
    assert isinstance(model, Engine) and model.dtype == {"bfloat16": "uint16"}.get(kind, kind)
    inputs = random_inputs(model.config, ("image", 4))
    readable = load(folder)
    if dtype.startswith("int"):
        readable.leaves = quantisation.Rounded(readable.leaves, dtype)
    expected, actual = readable.logits(inputs), model.logits(inputs)
    most = 0.05 if dtype == "float16" else {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.1}[kind]
    assert quantisation.relative_error(actual, expected) < most
    streamed = load(folder, dtype=dtype, kernels=True, stream=True, activations=activations)
    assert np.array_equal(streamed.logits(inputs), actual)
    inside = look(streamed, inputs, [5, 6], 0)
    assert quantisation.relative_error(inside.lens[-1], actual[0, -1]) < most
    assert quantisation.relative_error(inside.choices[0], actual[0, -1]) < most
    if dtype == "int4":
        assert np.array_equal(list(generate.generate(streamed, inputs, 3)), list(generate.generate(model, inputs, 3)))


def test_load_follows_the_memory(folder):
    config = Config.read(folder)
    least = min(Plan(config, "int4", "int4", TOWER + EXPERTS).on_gpu, Plan(config, "int4", "int4", EXPERTS).on_gpu)
    found = load(folder, dtype="int4", kernels=True, memory=least, activations="float16").leaves.plan
    assert found.offloaded and found.embedding_and_head == "int4" and found.on_gpu <= least
    assert load(folder, dtype="int4", kernels=True).leaves.plan.offloaded == ()
    with pytest.raises(UserError, match="in int4 the model needs 0.3 GB"):
        load(folder, dtype="int4", kernels=True, memory=1000)
    with pytest.raises(UserError, match="not one of float32, float64 on the device 'cpu'; others need kernels"):
        load(folder, dtype="int4")


@needs_runner
@pytest.mark.parametrize("stored", ["BF16", "F16"])
def test_activations_hold_the_range_of_the_checkpoint(stored, tmp_path):
    """A hidden state of 10^5 is a number of bfloat16's, not of float16's."""
    config = toy("cogvlm1")
    leaves = random_leaves(config, np.float32)
    leaves["model.embed_tokens.weight"][7, :2] = 6e4
    leaves["model.layers.0.mlp.language_mlp.down_proj.weight"] *= 3e4
    save(tmp_path, leaves, config, stored)
    inputs = random_inputs(config, (4,))
    right = load(tmp_path).logits(inputs)
    model = load(tmp_path, dtype="bfloat16", kernels=True)
    assert model.dtype == (np.uint16 if stored == "BF16" else np.float16)
    if stored == "BF16":
        assert quantisation.relative_error(model.logits(inputs), right) < 0.03
    assert not np.isfinite(load(tmp_path, dtype="bfloat16", kernels=True, activations="float16").logits(inputs)).all()


def test_kernels_and_functions_of_the_learner_exclude_each_other(capsys):
    assert main.main(["ask", "-", "?", "--mine", "--kernels"]) == 2
    assert "leave out --kernels" in capsys.readouterr().err
