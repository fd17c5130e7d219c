"""patch_embed.cu: what plain loops over the pixels give, in every order of the threads and in every kind of number."""
import numpy as np
import pytest

from small_floats import KINDS, numbers, stored
from tinycogvlm import contracts
from tinycogvlm.model import vit
from tinycogvlm.errors import UserError
from tinycogvlm.kernels.runner import build
from tinycogvlm.kernels.library.patch_embed import patch_embed
from tinycogvlm.kernels.tools.profile import profile
from tinycogvlm.kernels.runner.source import HERE
from tinycogvlm.nn.tree import Params

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

RUNGS = (1, 2, 3)
TOLERANCE = {"float32": 1e-5, "float16": 5e-4, "bfloat16": 4e-3}   # of 16 bits: half a last place
# B, C, N, n, O
SHAPES = {"two pictures": (2, 3, 8, 4, 12), "pixels left over": (1, 3, 11, 3, 5), "one patch": (1, 1, 4, 4, 3),
          "patches of one pixel": (1, 2, 3, 1, 4), "more than one tile of rows and of outputs": (2, 3, 28, 4, 70),
          "14 x 14": (1, 3, 28, 14, 17)}


def case(shape, kind="float32"):
    """The arguments of patch_embed in float64, as rounded to `kind`."""
    B, C, N, n, O = shape
    shapes = dict(pixels=(B, C, N, N), weight=(O, C, n, n), bias=(O,), cls=(1, O), positions=(1 + (N // n) ** 2, O))
    return {name: numbers(stored(contracts.random(*size, seed=i, scale=0.3), kind))
            for i, (name, size) in enumerate(shapes.items())}


def specification(pixels, weight, bias, cls, positions):
    """y[b, 0] = cls + position[0], y[b, 1 + p] = the linear map of patch p + position[1 + p]"""
    embedded = contracts.ops.linear(contracts.ops.patches(pixels, weight.shape[-1]), weight, bias)
    y = np.zeros((len(pixels), *positions.shape))
    for b, t, o in contracts.over(*y.shape):
        y[b, t, o] = (cls[0, o] if t == 0 else embedded[b, t - 1, o]) + positions[t, o]
    return y


EXPECTED = {}


def check(label, version, kind="float32", **options):
    arguments = case(SHAPES[label], kind)
    if (label, kind) not in EXPECTED:
        EXPECTED[label, kind] = specification(**arguments)
    y = patch_embed(*(stored(value, kind) for value in arguments.values()), version=version, **options)
    assert y.dtype == stored(0, kind).dtype
    contracts.close(numbers(y), EXPECTED[label, kind], TOLERANCE[kind], f"{label}, {kind}")


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
@pytest.mark.parametrize("version", RUNGS)
def test_patch_embedding(version, order):
    for label in SHAPES:
        check(label, version, order=order)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("version", RUNGS)
def test_patch_embedding_in_16_bits(version, kind):
    for label in SHAPES:
        check(label, version, kind)


@pytest.mark.parametrize("version", RUNGS)
def test_no_race(version):
    for label in ("two pictures", "pixels left over", "one patch"):
        check(label, version, check="race")


def test_the_package_gives_the_same(make_config):
    """vit.patch_embedding, which has the leaves by the checkpoint's names."""
    config = make_config("cogvlm2").vision
    n, N, W = config.patch_size, config.image_size, config.hidden_size
    arguments = {name: value.astype(np.float32) for name, value in case((2, 3, N, n, W)).items()}
    names = "proj.weight", "proj.bias", "cls_embedding", "position_embedding.weight"
    leaves = {name: value for name, value in zip(names, list(arguments.values())[1:])}
    expected, _ = vit.patch_embedding(arguments["pixels"], Params(leaves), config)
    contracts.close(patch_embed(**arguments), expected, 1e-5, "package")


def test_tiles_are_read_without_bank_conflicts():
    arguments = [value.astype(np.float32) for value in case((1, 3, 32, 4, 64)).values()]
    for version, grid in ((2, (4, 5)), (3, (1, 2))):
        args = *arguments, np.zeros((1, 65, 64), np.float32), *map(np.int32, (65, 3, 32, 4, 64))
        rows = profile(HERE / "patch_embed.cu", f"patch_embed_v{version}<float>", grid, (16, 16), args)
        conflicts = [row.conflicts for row in rows if row.memory == "shared" and row.access == "reads"]
        assert conflicts and not any(conflicts)


def test_sizes_that_do_not_fit():
    arguments = {name: value.astype(np.float32) for name, value in case(SHAPES["two pictures"]).items()}
    for name in ("positions", "bias", "cls"):
        with pytest.raises(UserError, match="do not fit"):
            patch_embed(**arguments | {name: arguments[name][..., :-1]})
    with pytest.raises(UserError, match="do not fit"):
        patch_embed(**arguments | {"pixels": arguments["pixels"][..., :-4]})
