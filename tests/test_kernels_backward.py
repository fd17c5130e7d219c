"""The backward kernels give the gradients of the ops and of their specifications, in every order of the threads."""
from functools import cache

import numpy as np
import pytest

from small_floats import KINDS, numbers, stored
from tinycogvlm import contracts
from tinycogvlm.errors import UserError
from tinycogvlm.kernels.library import backward, launch
from tinycogvlm.kernels.runner import build
from tinycogvlm.kernels.tools.profile import profile
from tinycogvlm.kernels.runner.source import HERE

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

TOLERANCE = {"float32": 1e-5, "float16": 5e-4, "bfloat16": 4e-3}     # of 16 bits: half a last place


def rms_norm(dy, x, weight, eps, **options):
    return dict(zip(("x", "weight"), backward.rms_norm(dy, x, weight, eps, **options)))


def layer_norm(dy, x, weight, bias, eps, **options):
    return dict(zip(("x", "weight", "bias"), backward.layer_norm(dy, x, weight, eps, **options)))


def swiglu(dy, gate, up, **options):
    return dict(zip(("gate", "up"), backward.swiglu(dy, gate, up, **options)))


def gelu(dy, x, **options):
    return {"x": backward.gelu(dy, x, **options)}


def rotary(dy, x, cos, sin, **options):
    return {"x": backward.rotary(dy, cos, sin, **options)}


def routed_dense(dy, x, types, vision_weight, language_weight, vision_bias=None, **options):
    names = "x", "vision_weight", "language_weight", "vision_bias"
    found = dict(zip(names, backward.expert_matmul(dy, x, types, vision_weight, language_weight, **options)))
    return found if vision_bias is not None else {name: found[name] for name in names[:3]}


LADDERS = {rms_norm: (1, 2), layer_norm: (1, 2), swiglu: (1, 2), gelu: (1, 2), rotary: (1, 2), routed_dense: (1, 2, 3)}
RUNGS = [pytest.param(op, version, id=f"{op.__name__}-{version}") for op, versions in LADDERS.items()
         for version in versions]


@cache
def cases(op, kind):
    """[(label, arguments in float64 as rounded to `kind`, dy the same, the gradients of the package's op)]"""
    found = []
    for label, arguments in contracts.CONTRACTS[op.__name__].cases():
        if kind == "float32" or not label.startswith("large"):
            found.append((label, *package(op, kind, arguments)))
    return found


def package(op, kind, arguments):
    arguments = {name: numbers(stored(value, kind)) if floating(name, value) else value
                 for name, value in arguments.items()}
    y, pull = contracts.package(op.__name__, **arguments)
    dy = numbers(stored(contracts.random(*y.shape, seed=9), kind))
    return arguments, dy, pull(dy)


def floating(name, value):
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and name not in ("cos", "sin")


def run(op, version, kind, arguments, dy, **options):
    """The kernels' gradients {argument: array}; the inputs stay as they were."""
    given = {name: stored(value, kind) if floating(name, value) else value for name, value in arguments.items()}
    before = {name: np.copy(value) for name, value in given.items()}
    found = op(stored(dy, kind), version=version, **given, **options)
    assert all(np.array_equal(given[name], value) for name, value in before.items())
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("op, version", RUNGS)
def test_gradients_are_the_pullback_of_the_op(op, version, kind):
    for label, arguments, dy, expected in cases(op, kind)[::1 if kind == "float32" else 3]:
        found = run(op, version, kind, arguments, dy)
        assert set(found) == set(expected)
        for name, gradient in found.items():
            activation = name in ("x", "gate", "up")
            assert gradient.dtype == (stored(0, kind).dtype if activation else np.float32)
            bound = TOLERANCE[kind if activation else "float32"]
            contracts.close(numbers(gradient), expected[name], bound, f"{label}, {kind}, {name}")


@pytest.mark.parametrize("op", LADDERS, ids=lambda op: op.__name__)
def test_gradients_are_the_slopes_of_the_specification(op):
    """<gradients, direction> = (f(+h) - f(-h)) / 2h of f = <dy, specification>, in a random direction."""
    spec, h = contracts.CONTRACTS[op.__name__].spec, 1e-4
    for label, arguments, dy, _ in cases(op, "float32"):
        if label.startswith("large") or label.startswith("longer"):
            continue
        found = run(op, LADDERS[op][-1], "float32", arguments, dy)
        direction = {name: contracts.random(*arguments[name].shape, seed=5) for name in found}

        def f(step, dy=dy, arguments=arguments, direction=direction):
            moved = {name: arguments[name] + step * along for name, along in direction.items()}
            return np.vdot(dy, spec(**arguments | moved))
        terms = [np.vdot(gradient, direction[name]) for name, gradient in found.items()]
        scale = max(1, sum(np.linalg.norm(g) * np.linalg.norm(direction[name]) for name, g in found.items()))
        slope = (f(h) - f(-h)) / (2 * h)
        if label == "eps matters":                          # x of the size of h
            continue
        assert abs(sum(terms) - slope) <= 2e-6 * scale, (label, sum(terms), slope)


@pytest.mark.parametrize("op, version", RUNGS)
def test_the_order_of_threads_changes_no_bit(op, version):
    for label, arguments, dy, _ in cases(op, "float32")[::3]:
        right = run(op, version, "float32", arguments, dy)
        for order in ("backward", "shuffled"):
            for name, gradient in run(op, version, "float32", arguments, dy, order=order).items():
                assert np.array_equal(gradient, right[name]), (label, name, order)


@pytest.mark.slow
@pytest.mark.parametrize("op, version", RUNGS)
def test_no_race(op, version):
    kind = "float16" if (op, version) == (routed_dense, 3) else "float32"
    for _, arguments, dy, _ in cases(op, kind)[:4]:
        run(op, version, kind, arguments, dy, check="race")


@pytest.mark.parametrize("version", LADDERS[routed_dense])
def test_matrices_of_several_tiles(version):
    """Two tiles each way, the second not full: every number of dW is written by one block, and is the right one."""
    kind = "float16" if version == 3 else "float32"
    arguments = dict(x=contracts.random(1, 9, 72), types=np.array([[0, 1, 1, 1, 0, 2, 2, 0, 0]]),
                     vision_weight=contracts.random(80, 72, seed=1), language_weight=contracts.random(80, 72, seed=2))
    arguments, dy, expected = package(routed_dense, kind, arguments)
    for name, gradient in run(routed_dense, version, kind, arguments, dy, check="race").items():
        contracts.close(numbers(gradient), expected[name], TOLERANCE[kind if name == "x" else "float32"], name)


@pytest.mark.parametrize("op, version", [(op, version) for op in (rms_norm, layer_norm) for version in (1, 2)])
def test_norms_of_more_rows_than_blocks_and_columns_than_threads(op, version):
    arguments = dict(x=contracts.random(270, 300), weight=contracts.random(300, mean=1), eps=1e-6)
    if op is layer_norm:
        arguments["bias"] = contracts.random(300, seed=1)
    arguments, dy, expected = package(op, "float32", arguments)
    for name, gradient in run(op, version, "float32", arguments, dy).items():
        contracts.close(gradient, expected[name], 1e-5, name)


@pytest.mark.parametrize("kind", KINDS)
def test_column_sum(kind):
    """One chunk, more than one, and rows that a list names, -1 among them."""
    for n, D in ((1, 1), (7, 33), (256, 3), (257, 40), (600, 5)):
        x = stored(contracts.random(n, D), kind)
        contracts.close(backward.column_sum(x), numbers(x).sum(0), 1e-5, f"{n} rows of {D}")
    rows = np.array([3, -1, 0, 599, -1, 3], np.int32)
    contracts.close(backward.column_sum(x, rows), numbers(x)[[3, 0, 599, 3]].sum(0), 1e-5, "listed rows")
    assert not backward.column_sum(x, rows[:0]).any() and backward.column_sum(x, rows[:0]).shape == (5,)


@pytest.mark.slow
@pytest.mark.parametrize("options", [dict(order="forward"), dict(order="backward"), dict(order="shuffled"),
                                     dict(check="race")], ids=lambda options: "".join(options.values()))
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_tensor_cores_of_expert_dweight(kind, options):
    """Whole numbers, so that every sum is exact; 2 tiles of language, 1 of vision, 2 of outputs and of inputs."""
    random = np.random.default_rng(0)
    x, dy, language, vision = (random.integers(-3, 4, shape)
                               for shape in ((1, 99, 72), (1, 99, 80), (80, 72), (80, 72)))
    types = np.array([[0, 1, 1] * 33])
    is_vision = np.array([contracts.ops.expert_of(types, 0, t) == "vision" for t in range(99)])
    dy_given, x_given, *weights = (stored(array, kind) for array in (dy, x, vision, language))
    _, dvision, dlanguage, dbias = backward.expert_matmul(dy_given, x_given, types, *weights, **options)
    for found, mine in ((dvision, is_vision), (dlanguage, ~is_vision)):
        assert found.dtype == np.float32 and np.array_equal(found, dy[0, mine].T @ x[0, mine])
    assert np.array_equal(dbias, dy[0, is_vision].sum(0))


def test_text_alone_and_image_alone():
    x, dy, weight = (contracts.random(*shape).astype(np.float32) for shape in ((1, 5, 8), (1, 5, 16), (16, 8)))
    for types, untouched in (([[0] * 5], 1), ([[1] * 5], None)):
        for version in (1, 2, 3):
            found = backward.expert_matmul(dy, x, np.array(types), weight, weight, version=version)
            if untouched:
                assert not found[1].any() and not found[3].any()
            assert found[2].any()                           # the last token of an image is the language expert's


def test_tiles_are_read_without_bank_conflicts():
    source = HERE / "expert_matmul_backward.cu"
    for name, dtype, block in (("expert_dweight_v2<float>", "f4", (16, 16)), ("expert_dweight_v3<half>", "f2", (128,))):
        x, dlanguage, dvision = np.ones((64, 64), dtype), np.zeros((64, 64), "f4"), np.zeros((64, 64), "f4")
        sizes = np.int32(64), np.int32(64)
        args = x, x, np.arange(64, dtype="i4"), *sizes, dlanguage, dvision, *sizes
        rows = profile(source, name, (1, 1, 2), block, args)
        shared = [row.conflicts for row in rows if row.memory == "shared" and row.access == "reads"]
        assert shared and not any(shared) and (dlanguage == 64).all() and not dvision.any()


def test_numbers_that_the_kernels_do_not_take():
    wide, half, single = np.zeros((2, 3)), np.zeros((2, 3), np.float16), np.zeros((2, 3), np.float32)
    for call in (lambda: backward.gelu(wide, wide), lambda: backward.gelu(half, single), lambda: launch.gelu(wide),
                 lambda: backward.rms_norm(single, single, half[0], 1e-6), lambda: launch.rms_norm(wide, wide[0], 1e-6),
                 lambda: backward.column_sum(wide), lambda: backward.swiglu(single, half, single)):
        with pytest.raises(UserError, match="float32, float16 or bfloat16.* of one dtype"):
            call()


@pytest.mark.parametrize("op", LADDERS, ids=lambda op: op.__name__)
def test_the_default_version(op):
    label, arguments, dy, expected = cases(op, "float32")[0]
    found = op(stored(dy, "float32"), **{name: stored(value, "float32") if floating(name, value) else value
                                         for name, value in arguments.items()})
    for name, gradient in found.items():
        contracts.close(numbers(gradient), expected[name], TOLERANCE["float32"], f"{label}, {name}")
