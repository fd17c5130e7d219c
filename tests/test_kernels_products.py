"""A prompt's products in several ways: right, the fastest chosen, the same one ever after. On the stand-in for CuPy."""
from dataclasses import replace

import fake_cupy
import numpy as np
import pytest
from fake_cupy.memory import machine

from tinycogvlm import contracts
from tinycogvlm.kernels.library import launch, products
from tinycogvlm.kernels.runner import build
from tinycogvlm.nn.arrays import bfloat16_bits, to_numpy, wide
from tinycogvlm.storage.quantise import quantise

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
    monkeypatch.setattr(products, "choices_file", lambda number: file)
    return file


@pytest.mark.parametrize("dtype", [np.float16, np.uint16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", VISION)
def test_the_product(name, with_bias, dtype):
    with fake_cupy.installed(gemm_time=0.1) as cupy:
        arguments, wanted = product(cupy, name, dtype, with_bias)
        found = wide(to_numpy(products.by_cublas(*arguments)))
        assert machine.done["gemm"] == 1 and machine.done["kernel"] == (name == "picture")
    contracts.close(found, wanted, 4e-3 if dtype == np.uint16 else 5e-4, name)


def taken(gemm_time, name="tower", n=N, **more):
    """Of two equal products: products of cuBLAS, kernels of ours that the second takes"""
    with fake_cupy.installed(gemm_time=gemm_time, tries=True, **more) as cupy:
        arguments, wanted = product(cupy, name, n=n)
        for _ in range(2):
            machine.done.clear()
            found = products.matmul(*arguments)
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
    assert taken(0.1, n=products.FEWEST - 1) == (0, 1) and taken(0.1, capability="75") == (0, 1)
    assert not choices.exists()


def test_a_cublas_that_is_wrong_is_not_taken(monkeypatch):
    right = fake_cupy.cublas.gemmEx

    def wrong(handle, *arguments):
        right(handle, *arguments[:12], arguments[5], *arguments[13:])       # alpha for beta: adds what y holds
    monkeypatch.setattr(fake_cupy.cublas, "gemmEx", wrong)
    with fake_cupy.installed(gemm_time=0.1, tries=True) as cupy:
        arguments, wanted = product(cupy, "text", with_bias=False)
        contracts.close(to_numpy(products.matmul(*arguments)), wanted, 5e-4, "text")

    def refuses(*_):
        raise fake_cupy.cublas.CUBLASError("CUBLAS_STATUS_ARCH_MISMATCH")
    monkeypatch.setattr(fake_cupy.cublas, "gemmEx", refuses)
    assert taken(0.1) == (0, 1)


def of_codes(dtype, kind, name, to=np.asarray, n=N, I=192, O=72):
    """The arguments of launch.matmul_of_codes"""
    random, vision = np.random.default_rng(2), VISION[name][:n]
    x, bias = (random.standard_normal(shape, np.float32) for shape in ((n, I), O))
    x, bias = (to(bfloat16_bits(array) if dtype == np.uint16 else array.astype(dtype)) for array in (x, bias))
    matrices = [quantise(random.standard_normal((O, I), np.float32) * np.float32(.02), kind) for _ in range(2)]
    matrices = [replace(matrix, codes=to(matrix.codes), scales=to(matrix.scales)) for matrix in matrices]
    rows, language_rows = launch.expert_rows(vision, 128)
    return x, to(rows), language_rows, *matrices, bias


@pytest.mark.parametrize("kind, name, dtype", [("int4", "picture", np.float16), ("int8", "tower", np.float16),
                                               ("int8", "picture", np.uint16), ("int4", "text", np.uint16)])
def test_the_product_of_codes(kind, name, dtype):
    """Bit for bit what version 5 makes of the numbers of rows.cu: parts of tiles, six steps of columns, a bias"""
    product = of_codes(dtype, kind, name)
    assert np.array_equal(launch.matmul_of_codes(*product), products.of_numbers(*product))


@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_the_product_of_codes_has_no_race(kind):
    product = of_codes(np.float16, kind, "tower", n=20, I=192, O=24)
    assert np.array_equal(launch.matmul_of_codes(*product, check="race"), products.of_numbers(*product))


@pytest.mark.parametrize("gemm_time, wanted", [(None, (0, 1)), (5, (0, 1)), (-2, (1, 1))])
def test_codes_are_multiplied_or_dequantised(gemm_time, wanted):
    """-> products of cuBLAS, kernels of ours: version 6 alone, or rows.cu and cuBLAS"""
    with fake_cupy.installed(gemm_time=gemm_time, tries=True) as cupy:
        x, rows, language_rows, weight, _, bias = of_codes(np.float16, "int4", "tower", cupy.asarray)
        product = x, rows, language_rows, weight, weight, bias
        right = to_numpy(products.of_numbers(*product))
        products.matmul(*product)
        machine.done.clear()
        contracts.close(to_numpy(products.matmul(*product)), right, 1e-3, "codes")
        assert (machine.done["gemm"], machine.done["kernel"]) == wanted
