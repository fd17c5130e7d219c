"""On a GPU, or on its stand-in: tensors and tokens are NumPy's, decoding is one captured graph."""
import gc
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest
from fake_cupy.memory import machine

from conftest import random_inputs
from test_engine import models
from test_plan import V1
from tinycogvlm import contracts, load
from tinycogvlm.cli import main
from tinycogvlm.model import generate
from tinycogvlm.nn import trace
from tinycogvlm.kernels.graph import DecodeGraph
from tinycogvlm.model.decoder import KVCache
from tinycogvlm.kernels.engine import Engine
from tinycogvlm.model.generate import Sampling
from tinycogvlm.kernels.runner import build
from tinycogvlm.storage.quantise import Quantised
from tinycogvlm.nn.arrays import to_numpy


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_tensor_of_a_prompt(family, dtype, cupy):
    model, engine = models(family, dtype)
    on_gpu = Engine(model.config, {name: cupy.asarray(leaf) for name, leaf in model.leaves.items()})
    inputs = random_inputs(model.config, ("image", 4, "image", 2))
    with trace.recording() as expected:
        model.logits(inputs)
    with trace.recording() as actual:
        on_gpu.logits(inputs)
    for name, array in actual.items():
        array, right = to_numpy(array).astype(np.float64), np.asarray(expected[name], np.float64)
        size = max(1, np.abs(right).max())
        contracts.close(array / size, right / size, 100 * np.finfo(dtype).eps, name)


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.3, top_k=7, top_p=0.9, repetition_penalty=1.2, seed=1)],
                         ids=["greedy", "sampled"])
def test_the_captured_graph_says_the_same(family, sampling, cupy):
    model, _ = models(family)
    on_gpu = Engine(model.config, {name: cupy.asarray(leaf) for name, leaf in model.leaves.items()})
    inputs = random_inputs(model.config, ("image", 4), (3,))
    wanted = list(generate.generate(model, inputs, 5, sampling))
    assert np.array_equal(list(generate.generate(on_gpu, inputs, 5, sampling)), wanted)
    on_gpu.steps = lambda *arguments: generate.steps(on_gpu, *arguments)
    assert np.array_equal(list(generate.generate(on_gpu, inputs, 5, sampling)), wanted)


@pytest.mark.gpu
def test_the_next_step_is_launched_before_the_tokens_are_read(family, cupy, monkeypatch):
    """Once the graph is captured, from the second token on; the step too many is taken back from the cache."""
    model, _ = models(family)
    on_gpu = Engine(model.config, {name: cupy.asarray(leaf) for name, leaf in model.leaves.items()})
    done, inputs = [], random_inputs(model.config, (4,))
    next_step, reader = DecodeGraph.next, DecodeGraph.reader

    def read(graph):
        wait = reader(graph)
        return lambda: done.append("read") or wait()
    monkeypatch.setattr(DecodeGraph, "reader", read)
    monkeypatch.setattr(DecodeGraph, "next", lambda graph: done.append("step") or next_step(graph))
    wanted = [int(ids[0]) for ids in generate.generate(model, inputs, 6)]
    cache = on_gpu.new_cache(1, 20)
    monkeypatch.setattr(type(model.config), "eos_token_ids", (wanted[-1],))
    positions = generate.position_ids(inputs.types, inputs.mask)
    said = [int(ids[0]) for ids in on_gpu.steps(inputs, cache, positions, 9, Sampling())]
    stop = wanted.index(wanted[-1])
    assert said == wanted[:stop + 1] and cache.length == inputs.ids.shape[1] + stop       # the last token is not in it
    assert done == ["read", "step"] + ["step", "read"] * stop


@pytest.mark.gpu
def test_a_graph_is_captured_once_for_many_answers(cupy, monkeypatch):
    """Later answers, to other prompts and by other seeds, are replays alone, and right; what the launches depend on,
    the sampling, the rows and whether there is padding, takes a new graph."""
    model, _ = models("cogvlm1")
    on_gpu = Engine(model.config, {name: cupy.asarray(leaf) for name, leaf in model.leaves.items()})
    launched, step = [], DecodeGraph.step
    monkeypatch.setattr(DecodeGraph, "step", lambda graph: launched.append(graph) or step(graph))

    def answer(sampling, *layout, tokens=4):
        inputs, before = random_inputs(model.config, *layout), len(launched)
        wanted = [ids.tolist() for ids in generate.generate(model, inputs, tokens, sampling)]
        said = generate.generate(on_gpu, inputs, 4, sampling)
        assert [ids.tolist() for _, ids in zip(range(tokens), said)] == wanted
        said.close()
        return len(launched) - before
    drawn = Sampling(1.3, top_p=0.9, repetition_penalty=1.2, seed=1)
    assert answer(drawn, (4,)) == 2                         # the first step, and the one that is recorded
    assert answer(replace(drawn, seed=5), ("image", 3), tokens=2) == 0 and answer(drawn, (6,)) == 0
    assert answer(Sampling(), (4,), tokens=2) == 2
    assert answer(Sampling(), (5,), (3,)) == 2 and answer(Sampling(), (2,), (4,)) == 0
    assert answer(Sampling(), (4,), (4,)) == 2
    on_gpu.leaves = dict(on_gpu.leaves)
    assert answer(Sampling(), (4,), (4,)) == 2


@pytest.mark.gpu
def test_two_answers_at_once(cupy):
    """have a cache each, and one is kept"""
    model, _ = models("cogvlm1")
    on_gpu = Engine(model.config, {name: cupy.asarray(leaf) for name, leaf in model.leaves.items()})
    asked = [random_inputs(model.config, (n,)) for n in (4, 7)]
    wanted = [[int(ids[0]) for ids in generate.generate(model, inputs, 4)] for inputs in asked]
    for _ in range(2):
        together = zip(*(generate.generate(on_gpu, inputs, 4) for inputs in asked))
        assert [[int(ids[0]) for ids in said] for said in zip(*together)] == wanted
        assert len(on_gpu.kept) == 1


@pytest.mark.gpu
def test_what_is_kept_is_freed(cupy):
    """before another cache is made; a single row's is as large as the context."""
    model, _ = models("cogvlm1")
    engine = Engine(model.config, {name: cupy.asarray(leaf) for name, leaf in model.leaves.items()})
    context = engine.config.max_position_embeddings

    def answered(*layout):
        list(generate.generate(engine, random_inputs(engine.config, *layout), 2))
        return weakref.ref(engine.kept[0])
    first = answered((4,))
    assert first().mask.shape == (1, context)
    second = answered((4,), (2,))
    assert first() is None and second().mask.shape == (2, 7)
    assert answered((3,), (2,))() is second() and second().length == 4 + 1
    cache = engine.answer_cache(2, 7)
    assert cache is second() and cache.mask.all() and not cache.padded and not cache.length
    engine.kept.append(cache)
    del cache
    engine.answer_cache(2, 9)
    assert second() is None
    kept = answered((4,))
    engine.new_cache(1, 3)
    assert kept() is None


@pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))
def test_a_deleted_model_is_freed_at_once():
    """with all that it has kept, not when Python next looks for cycles: it may be most of a GPU's memory."""
    _, engine = models("cogvlm1")
    list(generate.generate(engine, random_inputs(engine.config, (4,)), 2))
    gone = [weakref.ref(each) for each in (engine, engine.kept[0], engine.kept[0].graph)]
    gc.disable()
    try:
        del engine
        assert [each() for each in gone] == [None] * 3
    finally:
        gc.enable()


def test_launches_of_a_picture():
    """The first token of the whole 17B, in float16: at most 1,000, CuPy's own among them"""
    with fake_cupy.installed(content=False) as cupy:
        model = Engine(V1, {name: cupy.empty(shape, np.float16) for name, shape in V1.shapes().items()})
        model.logits(random_inputs(V1, ("image", 50)), model.new_cache(1, 1400), last=True)
        assert 950 < machine.done["kernel"] + machine.done["op"] <= 1000


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "int4"])
def test_the_trained_model(dtype, cupy):
    """Stored in fewer bits and asked about nothing: the GPU's logits are the CPU runner's."""
    on_gpu, here = load(device="cuda", dtype=dtype), load(dtype=dtype, kernels=True)
    leaf = on_gpu.leaves["model.layers.0.mlp.language_mlp.up_proj.weight"]
    assert isinstance(leaf.codes if isinstance(leaf, Quantised) else leaf, cupy.ndarray)
    inputs = here.inputs("Where is the dog?")
    logits = here.logits(inputs, last=True)
    contracts.close(to_numpy(on_gpu.logits(inputs, last=True)), logits, 2e-2, dtype)


PARK = Path(__file__).parents[1] / "lessons" / "images" / "park.png"


@pytest.mark.gpu
def test_ask_without_a_picture(cupy, capsys):
    """The command, in the dtype that fits best: what NumPy says"""
    ask = ["ask", "-", "Is there a dog?", "--max-new-tokens", "3"]
    assert main.main(ask) == 0 and (wanted := capsys.readouterr().out)
    assert main.main([*ask, "--device", "cuda"]) == 0 and capsys.readouterr().out == wanted


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "int4", "float64"])
def test_ask(dtype, cupy, capsys):
    """The command, in every dtype, about a picture: what the same kernels say on the CPU (in float64: what NumPy says)"""
    ask, chosen = ["ask", str(PARK), "Where is the dog?", "--max-new-tokens", "6"], ["--dtype", dtype]
    assert main.main([*ask, *chosen, *([] if dtype == "float64" else ["--kernels"])]) == 0
    wanted = capsys.readouterr().out
    for options in (chosen, []) if dtype == "float16" else (chosen,):       # float16 if nothing is said
        assert main.main([*ask, *options, "--device", "cuda"]) == 0
        assert capsys.readouterr().out == wanted != ""


@pytest.mark.gpu
@pytest.mark.slow
def test_what_else_ask_does(cupy, capsys):
    """Weights read from the file again and again, sampled words, another size of picture."""
    for more in (["--stream"], ["--temperature", "1", "--top-k", "5", "--top-p", "0.9", "--repetition-penalty", "1.2"],
                 ["--image-size", "84", "--check-finite"], ["--activations", "bfloat16"]):
        ask = ["ask", str(PARK), "Is there a dog?", "--dtype", "int8", "--max-new-tokens", "4", *more]
        assert main.main([*ask, "--kernels"]) == 0
        wanted = capsys.readouterr().out
        assert main.main([*ask, "--device", "cuda"]) == 0
        assert capsys.readouterr().out == wanted, more


@pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))
@pytest.mark.parametrize("streamed", [False, True])
def test_when_a_graph_is_captured(streamed):
    """On arrays that are not NumPy's: the first step launch by launch, then captured, once, and replayed from there on.
    With streamed weights, which lie elsewhere each time, never."""
    _, engine = models("cogvlm1")
    graph, done = DecodeGraph(engine, KVCache(engine.config, 1, 12), Sampling()), []

    class Stream:
        capturing = False

        def __enter__(self):
            done.append("on a stream")

        def __exit__(self, *_):
            done.append("off it")

        def begin_capture(self):
            Stream.capturing = True

        def end_capture(self):
            Stream.capturing = False
            return SimpleNamespace(launch=lambda: done.append("replayed"))
    graph.step = lambda: done.append("recorded" if Stream.capturing else "launched")
    graph.xp = SimpleNamespace(cuda=SimpleNamespace(Stream=lambda non_blocking: Stream()))
    graph.leaves = SimpleNamespace(stream=streamed)
    for _ in range(3):
        graph.next()
    assert done == (["launched"] * 3 if streamed else
                    ["launched", "on a stream", "recorded", "off it", "replayed", "replayed"])
