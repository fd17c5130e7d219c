"""What several test files use: the --slow option, tiny random models, and what they read."""
import gc
from dataclasses import replace

import fake_cupy
import learners
import numpy as np
import pytest
from PIL import Image
from toy_model import write_toy

from tinycogvlm.model.config import Config, VisionConfig
from tinycogvlm.model.decoder import Rotary
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.inputs.prompt import Inputs, images, pad
from tinycogvlm.kernels.runner import build


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; runs only with --slow")
    config.addinivalue_line("markers", "gpu: runs on a GPU that CuPy can use, else on its stand-in, tests/fake_cupy")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: give pytest --slow to run it"))


def pytest_collection_finish():
    gc.freeze()                                             # thousands of tests, which live to the end


FAMILIES = ("cogvlm1", "cogvlm2")


def tiny_config(family, **changes):
    """A geometry of some thousand parameters with nothing of one size twice; changes: fields, `vision=dict(...)` too.

    CogVLM2's grid is 5 x 5, so that its 2x2 convolution cuts an odd edge; it has 3 key-value heads of 6.
    """
    vision = VisionConfig(hidden_size=12, num_hidden_layers=2, num_heads=3, intermediate_size=14, patch_size=4,
                          image_size=20 if family == "cogvlm2" else 8)
    config = Config(vocab_size=30, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=6,
                    num_key_value_heads=3 if family == "cogvlm2" else 6, vision=vision, family=family,
                    max_position_embeddings=64, eos_token_id=2, pad_token_id=0)
    return replace(config, **changes | {"vision": replace(vision, **changes.get("vision", {}))})


def random_leaves(config, dtype=np.float64, seed=0):
    """Random tensors of all names, none left at 0 or 1; activations and logits stay of size 1 to 10."""
    random, leaves = np.random.default_rng(seed), {}
    for name, shape in config.shapes().items():
        if name.endswith("inv_freq"):
            leaves[name] = Rotary.from_base(config.rope_base, config.head_size).inv_freq
        elif "norm" in name and name.endswith("weight"):
            leaves[name] = (1 + 0.3 * random.standard_normal(shape)).astype(dtype)
        else:
            fan_in = np.prod(shape[1:]) if len(shape) > 1 and "embed" not in name and "oi" not in name else 1
            leaves[name] = (1.3 * random.standard_normal(shape) / np.sqrt(fan_in)).astype(dtype)
    return leaves


def random_inputs(config, *rows, seed=0, side="left"):
    """Inputs of one row each: numbers of text tokens and "image"s in their order, after bos; padded to one batch."""
    random, result = np.random.default_rng([seed, 1]), []
    for row in rows:
        ids, types, pictures = [config.bos_token_id], [0], 0
        for part in row:
            if part == "image":
                pictures += 1
                ids += [config.pad_token_id] * config.num_image_tokens
                types += [pictures] * config.num_image_tokens
            else:
                ids += random.integers(3, config.vocab_size, part).tolist()
                types += [0] * part
        size = config.vision.image_size
        pixels = random.standard_normal((pictures, 3, size, size))
        ids, types = np.array([ids]), np.array([types])
        result.append(Inputs(ids, types, np.ones_like(ids), images(pixels)))
    return pad(result, config.pad_token_id, side)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The folder of a model that says what tests/toy_model.py tells it to"""
    folder = tmp_path_factory.mktemp("toy")
    write_toy(folder)
    return folder


@pytest.fixture
def cupy():
    """CuPy where it finds a GPU, else its strict stand-in"""
    try:
        import cupy
        found = cupy.cuda.runtime.getDeviceCount()
    except Exception:                                       # not installed, no driver, no GPU
        found = 0
    if found:
        yield cupy
    elif build.cpu_runner():
        pytest.skip(build.cpu_runner())
    else:
        with fake_cupy.installed() as module:
            yield module


@pytest.fixture
def learn(tmp_path, monkeypatch, capsys):
    """learn("check 09") -> exit code and what was printed, in an empty folder"""
    learners.begin(tmp_path, monkeypatch)
    return lambda words="": learners.run(words, capsys)


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (200, 100), "grey").save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


@pytest.fixture
def make_config():
    return tiny_config


@pytest.fixture
def make_inputs():
    return random_inputs


@pytest.fixture
def make_leaves():
    return random_leaves


@pytest.fixture
def make_model():
    """make_model(family, dtype, **changes of the configuration) -> CogVLM with random parameters."""
    def make(family="cogvlm1", dtype=np.float64, seed=0, rotary=None, tokenizer=None, **changes):
        config = tiny_config(family, **changes)
        return CogVLM(config, random_leaves(config, dtype, seed), tokenizer, rotary)
    return make
