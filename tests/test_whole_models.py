"""The whole 17B and 19B, without content, on cards of every size: what plan.plan accepts is loaded, and answers."""
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from types import SimpleNamespace

import fake_cupy
import pytest
from fake_cupy.memory import machine

from conftest import random_inputs
from test_plan import V1, V2
from tinycogvlm.errors import UserError
from tinycogvlm.kernels import plan as planning
from tinycogvlm.kernels.engine import Engine
from tinycogvlm.kernels.plan import DTYPES, Planned, best, plan
from tinycogvlm.model import generate
from tinycogvlm.model.parts import COMPUTED
from tinycogvlm.nn.arrays import converter
from tinycogvlm.nn.tree import matches
from tinycogvlm.storage.safetensors_file import Tensor

CARDS = 8, 12, 16, 24, 80, 141


class Files(Mapping):
    """{name: Tensor} of a checkpoint in bfloat16 of which nothing is read"""

    def __init__(self, config):
        file = SimpleNamespace(read=lambda offset, buffer: None)
        self.tensors = {name: Tensor(name, "BF16", tuple(shape), file, 0) for name, shape in config.shapes().items()
                        if not matches(name, COMPUTED)}

    def __getitem__(self, name):
        return self.tensors[name]

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


def answer(config, card, chosen):
    """Load the Plan on a GPU, read a picture and 50 words, say three words -> the most bytes that the pool took"""
    with fake_cupy.installed(memory=card * 10 ** 9, content=False, multiprocessors=132):
        leaves = Planned(Files(config), chosen, converter("cuda"))
        leaves.load()
        answered = generate.generate(Engine(config, leaves), random_inputs(config, ("image", 50)))
        assert len(list(islice(answered, 3))) == 3
        return machine.gpus[0].peak_taken


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("config", [V1, V2], ids=["17B", "19B"])
def test_what_is_planned_fits(config, card, monkeypatch):
    """The best plan, and the one that leaves least room. 0.1 GB stay for compiled kernels."""
    monkeypatch.setattr(planning, "free_memory", lambda: 64 * 10 ** 9)          # of the host
    plans = {best(config, card * 1e9, "bfloat16")}
    for dtype in DTYPES:
        with suppress(UserError):
            plans.add(plan(config, dtype, card * 1e9, "bfloat16"))
    tightest = max(plans, key=lambda each: each.on_gpu)
    for chosen in {best(config, card * 1e9, "bfloat16"), tightest}:
        assert answer(config, card, chosen) + 10 ** 8 <= chosen.on_gpu <= card * 1e9, chosen
