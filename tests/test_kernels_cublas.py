"""A prompt's products by cuBLAS: right, chosen where it is faster, and the same way ever after. On the stand-in for CuPy."""
import fake_cupy
import numpy as np
import pytest
from fake_cupy.memory import machine

from tinycogvlm import contracts
from tinycogvlm.kernels.library import cublas, launch
from tinycogvlm.kernels.runner import build
from tinycogvlm.nn.arrays import bfloat16_bits, to_numpy, wide

pytestmark = pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))
N, I, O = 150, 24, 40
VISION = {"picture": np.arange(N) > 8, "tower": np.ones(N, bool), "text": np.zeros(N, bool)}


def product(cupy, name, dtype=np.float16, with_bias=True, n=N):
    """The arguments of launch.matmul, and the result in float64"""
    random, vision = np.random.default_rng(1), VISION[name][:n]
    arrays = [random.standard_normal(shape, np.float32).astype(np.float16) / 4 for shape in ((n, I), (O, I), (O, I), O)]
    if dtype == np.uint16:
        arrays = [bfloat16_bits(array.astype(np.float32)) for array in arrays]
    x, language, own, bias = (wide(array).astype(np.float64) for array in arrays)
    wanted = np.where(vision[:, None], x @ own.T + (bias if with_bias else 0), x @ language.T)
    x, language, own, bias = map(cupy.asarray, arrays)
    rows, language_rows = launch.expert_rows(vision, launch.tile_of(n))
    return (x, cupy.asarray(rows), language_rows, language, own, bias if with_bias else None), wanted


@pytest.fixture(autouse=True)
def choices(tmp_path, monkeypatch):
    file = tmp_path / "products.json"
    monkeypatch.setattr(cublas, "choices_file", lambda number: file)
    return file


@pytest.mark.parametrize("dtype", [np.float16, np.uint16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", VISION)
def test_the_product(name, with_bias, dtype):
    with fake_cupy.installed(gemm_time=0.1) as cupy:
        arguments, wanted = product(cupy, name, dtype, with_bias)
        found = wide(to_numpy(cublas.by_cublas(*arguments)))
        assert machine.done["gemm"] == 1 and machine.done["kernel"] == (name == "picture")
    contracts.close(found, wanted, 4e-3 if dtype == np.uint16 else 5e-4, name)


def taken(gemm_time, name="tower", n=N, **more):
    """Of two equal products: products of cuBLAS, kernels of ours that the second takes"""
    with fake_cupy.installed(gemm_time=gemm_time, **more) as cupy:
        arguments, wanted = product(cupy, name, n=n)
        for _ in range(2):
            machine.done.clear()
            found = cublas.matmul(*arguments)
        contracts.close(to_numpy(found), wanted, 5e-4, name)
        return machine.done["gemm"], machine.done["kernel"]


@pytest.mark.parametrize("gemm_time, name, wanted", [
    (0.5, "tower", (1, 0)), (2, "tower", (0, 1)), (None, "tower", (0, 1)),
    (0.5, "picture", (0, 1)), (-0.5, "picture", (1, 1))])
def test_the_faster_one_is_taken(gemm_time, name, wanted):
    """With a picture cuBLAS takes a kernel of ours besides."""
    assert taken(gemm_time, name) == wanted


def test_a_choice_is_kept(choices):
    """A later process, in which the other is faster, does as the first: the same numbers every time."""
    assert taken(0.5) == (1, 0) and taken(2) == (1, 0)
    choices.write_text("{")
    assert taken(2) == (0, 1) and taken(0.5) == (0, 1)


def test_cublas_may_be_installed_later(choices):
    assert taken(None) == (0, 1) and not choices.exists() and taken(0.5) == (1, 0)


def test_what_is_never_tried(choices):
    """A few rows, and a GPU without tensor cores for them"""
    assert taken(0.1, n=cublas.FEWEST - 1) == (0, 1) and taken(0.1, capability="75") == (0, 1)
    assert not choices.exists()


def test_a_cublas_that_is_wrong_is_not_taken(monkeypatch):
    right = fake_cupy.cublas.gemmEx

    def wrong(handle, *arguments):
        right(handle, *arguments[:12], arguments[5], *arguments[13:])       # alpha for beta: adds what y happens to hold
    monkeypatch.setattr(fake_cupy.cublas, "gemmEx", wrong)
    with fake_cupy.installed(gemm_time=0.1) as cupy:
        arguments, wanted = product(cupy, "text", with_bias=False)
        contracts.close(to_numpy(cublas.matmul(*arguments)), wanted, 5e-4, "text")

    def refuses(*_):
        raise fake_cupy.cublas.CUBLASError("CUBLAS_STATUS_ARCH_MISMATCH")
    monkeypatch.setattr(fake_cupy.cublas, "gemmEx", refuses)
    assert taken(0.1) == (0, 1)
