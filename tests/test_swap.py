"""A swap belongs to one thread and one `with`: what runs beside it, and after it, is as if it had never been."""
import contextvars
import sys
from collections import Counter
from contextlib import contextmanager
from threading import Barrier, Thread

import numpy as np
import pytest

from conftest import random_inputs, random_leaves, tiny_config
from tinycogvlm.kernels.engine import Engine, kernels
from tinycogvlm.kernels.runner import build
from tinycogvlm.model import expert
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.model.decoder import KVCache
from tinycogvlm.model.generate import Sampling
from tinycogvlm.model.route import position_ids
from tinycogvlm.nn import ops
from tinycogvlm.nn.swap import current, op, swapped
from tinycogvlm.train.loop.loop import threads


@op
def greet(name):
    """hello"""
    return f"hello {name}"


def shout(name):
    return f"HELLO {name}"


class Person:
    @op
    def says(self, words):
        return f"{self.name} says {words}"
    name = "Ann"


def test_a_swap_ends_with_its_block():
    assert greet("Ann") == "hello Ann" and greet.__doc__ == "hello" and greet.__name__ == "greet"
    with swapped({greet: shout}):
        assert greet(name="Ann") == "HELLO Ann" and current(greet) is shout and greet.own("Ann") == "hello Ann"
    assert greet("Ann") == "hello Ann" and current(greet) is greet.own


def test_a_method_is_swapped_like_a_function():
    with swapped({Person.says: lambda self, words: f"{self.name} sings {words}"}):
        assert Person().says("la") == "Ann sings la"
    assert Person().says("la") == "Ann says la"


def test_an_exception_ends_the_swap():
    with pytest.raises(ZeroDivisionError), swapped({greet: shout}):
        raise ZeroDivisionError
    assert greet("Ann") == "hello Ann"


def test_swaps_nest():
    whisper = lambda name: f"psst {name}"
    with swapped({greet: shout}):
        with swapped({greet: whisper, ops.gelu: shout}):
            assert greet("Ann") == "psst Ann" and ops.gelu("Ann") == "HELLO Ann"
        assert greet("Ann") == "HELLO Ann" and current(ops.gelu) is ops.gelu.own
    assert greet("Ann") == "hello Ann"


def test_what_is_no_op_cannot_be_swapped():
    with pytest.raises(TypeError, match="is not an op"), swapped({shout: greet}):
        pass


def test_a_thread_begins_without_the_swap_unless_it_is_given_the_context():
    said = []
    with swapped({greet: shout}):
        context = contextvars.copy_context()
        for target in (lambda: said.append(greet("Ann")), lambda: said.append(context.run(greet, "Ann"))):
            thread = Thread(target=target)
            thread.start()
            thread.join()
    assert said == ["hello Ann", "HELLO Ann"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_swap_holds_in_the_workers_of_training(workers):
    with threads(workers) as mapped, swapped({greet: shout}):
        assert list(mapped(greet, ["Ann", "Bob", "Cat"])) == ["HELLO Ann", "HELLO Bob", "HELLO Cat"]
    with threads(workers) as mapped:
        assert list(mapped(lambda a, b: greet(a + b), "ab", "cd")) == ["hello ac", "hello bd"]


# ------------------------------------------------------------------------------------------------ kernels and gradients

needs_runner = pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))


def engine_and_model():
    config = tiny_config("cogvlm1", hidden_size=48, num_attention_heads=6, intermediate_size=40)
    leaves = random_leaves(config, np.float32, 0)
    return Engine(config, leaves), CogVLM(config, leaves), random_inputs(config, ("image", 4))


@contextmanager
def switching_often():
    """Threads take turns every 10 microseconds instead of every 5 milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.slow
@needs_runner
def test_an_engine_answers_while_a_model_answers_and_learns():
    """200 calls in four threads, each compared with what it gives alone, bit for bit."""
    engine, model, inputs = engine_and_model()
    jobs = {"engine": lambda: engine.logits(inputs), "model": lambda: model.logits(inputs),
            "gradients": lambda: np.concatenate([g.ravel() for g in model.loss(inputs, inputs.ids)[1]().values()])}
    alone, verdicts = {name: job() for name, job in jobs.items()}, Counter()
    assert not np.array_equal(alone["engine"], alone["model"])          # or a swapped op would not show
    together = Barrier(4)

    def work(name, times):
        together.wait()
        for _ in range(times):
            try:
                verdicts[name, bool(np.array_equal(jobs[name](), alone[name]))] += 1
            except Exception as error:
                verdicts[name, repr(error)] += 1
    with switching_often():
        threads = [Thread(target=work, args=job) for job in (("engine", 15), ("engine", 15), ("model", 85),
                                                             ("gradients", 85))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert verdicts == {("engine", True): 30, ("model", True): 85, ("gradients", True): 85}


@needs_runner
def test_an_answer_abandoned_in_the_middle_leaves_no_kernel():
    engine, model, inputs = engine_and_model()
    right = model.logits(inputs)
    steps = engine.steps(inputs, *cache_and_positions(engine, inputs), 3, Sampling())
    next(steps)
    assert np.array_equal(model.logits(inputs), right)                  # nor while the answer waits
    steps.close()
    assert np.array_equal(model.logits(inputs), right) and current(expert.routed) is expert.routed.own


def cache_and_positions(model, inputs):
    return KVCache(model.config, 1, inputs.ids.shape[1] + 3), position_ids(inputs.types, inputs.mask)


@needs_runner
def test_an_engine_s_failure_leaves_no_kernel(monkeypatch):
    engine, model, inputs = engine_and_model()
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(engine, "embed", lambda *_, **__: 1 / 0)
        engine.logits(inputs)
    assert all(current(each) is each.own for each in kernels(np.dtype(np.float32)))


def test_every_op_with_a_kernel_is_swapped():
    for each in kernels(np.dtype(np.float32)):
        with swapped({each: lambda: "swapped"}):
            assert each() == "swapped"
