"""What is wrong with a learner's function, in words: the first thing, and the known mistake behind it."""
import re

import numpy as np

from ..contracts.contract import Broken, cast

ALIKE = 1e-5                                                # numbers of a mistake and of one who makes it, relative


def check(name, exercise, function, docstring=""):
    """Lines that say what is wrong with `function`, or [] if it keeps the exercise's contract.

    What the function raises is raised. docstring: of the exercise; its letters name the axes.
    """
    for dtype in exercise.dtypes:
        try:
            exercise.contract.check(function, dtype)
        except Broken as broken:
            said = recognise(name, exercise, function)
            return [*([said] if said else []), *explain(broken, dtype, docstring)]
    return []


def explain(broken, dtype, docstring):
    inputs, results = letters(docstring)
    what, wanted = results[broken.output] if broken.output < len(results) else ("", None)
    what = what or "the result"
    case = f"case \"{broken.label}\", {dtype}: {arguments_of(broken.arguments)}"
    if broken.kind == "changed":
        return [f"{broken.argument} was changed; work on a copy, the caller still needs it.", case]
    actual, expected = broken.actual, broken.expected
    if broken.kind == "count":
        return [count(actual, expected), case]
    if broken.kind == "dtype" and actual.dtype == object:
        return ["nothing came back: is there a return?" if actual[()] is None else "what came back is no array.", case]
    sizes = bind(inputs, broken.arguments)
    if actual.shape != expected.shape:
        named = f"{wanted} = " if wanted and wanted != "scalar" else ""
        lines = [f"{what} has the shape {shape(actual.shape)}{called(actual.shape, sizes, axes_of(wanted or ''))}; "
                 f"it should be {named}{shape(expected.shape)}."]
        if sorted(actual.shape) == sorted(expected.shape):
            lines.append("The sizes are right, their order is not.")
        return [*lines, case]
    if broken.kind == "dtype" and not expected.ndim and expected.dtype.kind == "i" and actual.dtype.kind == "f":
        return [f"{what} is {actual.item()!r}; a whole number is wanted: // divides without a fraction.", case]
    if broken.kind == "dtype":
        right = np.dtype(dtype if expected.dtype.kind == "f" else expected.dtype)
        return [f"{what} has the type {actual.dtype}; it should be {right}. {remedy(broken.arguments, actual, right)}",
                case]
    if not expected.ndim:
        return [f"{what} is {actual.item():.10g}; it should be {expected.item():.10g}.", case]
    head, *entries = str(broken).splitlines()
    found, lost = re.search(r"\d+ of \d+ entries", head)[0], np.sum(~np.isfinite(actual))
    nan = f", {lost} of them NaN or infinite" if lost else ""
    return [f"{found} of {what} are wrong{nan}; the worst:", *entries, case]


def count(actual, expected):
    """What is said of another number of arrays than is wanted."""
    if isinstance(expected, tuple):
        return f"{len(expected)} arrays are to come back, as in: return a, b"
    if any(map(callable, actual)):
        return ("the result came back together with its pullback, as the package's operations give it; take the first "
                "of the two, as in: y, _ = ops.linear(x, weight)")
    return f"one array is to come back, not {len(actual)}."


def remedy(arguments, actual, right):
    """How the result gets the type `right`: where there is one, that of an argument."""
    of = next((f"{name}.dtype" for name, value in arguments.items()
               if isinstance(value, np.ndarray) and value.dtype == right), "bool" if right == bool else f"np.{right}")
    if actual.dtype == np.float64 and right == np.float32:
        return ("NumPy's own numbers, as np.sqrt(2), np.eye(n) or bytes / 255, are float64 and make float64 of float32: "
                f"give them a dtype, or .astype({of}).")
    return f".astype({of}) makes it."


def arguments_of(arguments):
    """x (2, 3), eps = 1e-06, types = [[0 1 1 0]]"""
    def one(name, value):
        if not isinstance(value, np.ndarray):
            return name if callable(value) else f"{name} = {value}"
        if value.size <= 10:
            return f"{name} = {np.array2string(value, precision=4, separator=', ').replace(chr(10), '')}"
        return f"{name} {shape(value.shape)}"
    return ", ".join(one(name, value) for name, value in arguments.items())


def shape(sizes):
    return str(tuple(int(size) for size in sizes))


# ------------------------------------------------------------------------------------------------ a docstring's letters

def letters(docstring):
    """"x (..., I), weight (O, I) -> (..., O)" -> {argument: its axes}, [(name or "", axes) of each result]"""
    before, _, after = re.sub(r"\s+", " ", docstring or "").partition(" -> ")
    inputs = {}
    for names, axes in re.findall(r"((?:\w+, )*(?:\w+ and )?\w+) (\([^()]*\))", before):
        for name in re.findall(r"\w+", names):
            inputs[name] = axes
    results = re.match(r"((?:\w+ )?(?:\([^()]*\)|scalar)(?:, )?)*", after)[0]
    return inputs, re.findall(r"(?:(\w+) )?(\([^()]*\)|scalar)", results)


def axes_of(text):
    return [part.strip() for part in text.strip("()").split(",") if part.strip()]


def bind(inputs, arguments):
    """{letter: size}, from the shapes of the arguments"""
    sizes = {}
    for name, text in inputs.items():
        value, axes = arguments.get(name), axes_of(text)
        if not isinstance(value, np.ndarray):
            continue
        if axes[:1] == ["..."]:
            axes = axes[1:]
        elif len(axes) != value.ndim:
            continue
        for letter, size in zip(reversed(axes), reversed(value.shape)):
            if letter.isidentifier():
                sizes.setdefault(letter, size)
    return sizes


def called(sizes, letters, wanted):
    """" = (B, T, H)" where each size is one letter's, those of the right result first"""
    names = []
    for size in sizes:
        fit = [letter for letter in letters if letters[letter] == size]
        names.append([letter for letter in fit if letter in wanted] or fit)
    return f" = ({', '.join(name for [name] in names)})" if names and all(len(name) == 1 for name in names) else ""


# ------------------------------------------------------------------------------------------------------- known mistakes

def recognise(name, exercise, function):
    """The sentence of the mistake in whose numbers `function` agrees on every case, or None."""
    dtype = exercise.dtypes[0]
    cases = [(cast(arguments, dtype), exercise.contract.spec(**cast(arguments, "float64")))
             for _, arguments in exercise.contract.cases()]
    mine = [outcome(function, *case) for case in cases]
    for mistake in exercise.mistakes:
        verdicts = [agrees(got, outcome(mistake.make, *case), case[1]) for got, case in zip(mine, cases)]
        if False not in verdicts and True in verdicts:
            return mistake.sentence
    return None


def outcome(function, arguments, right):
    """What comes back, as a list of arrays; None where the function does not apply. right: what should."""
    try:
        y = function(**{key: np.copy(value) if isinstance(value, np.ndarray) else value
                        for key, value in arguments.items()})
        return [np.asarray(part) for part in (y if isinstance(right, tuple) else [y])]
    except Exception:
        return None


def agrees(mine, wrong, right):
    """Whether the learner's outcome is the mistake's: True, False, or None where that says nothing of the mistake."""
    if wrong is None or mine is None or lost(mine) and not lost(wrong):         # it overflows besides
        return None
    if len(mine) != len(wrong) or not all(map(alike, mine, wrong)):
        return False
    right = [np.asarray(part) for part in (right if isinstance(right, tuple) else [right])]
    settled = [np.where(np.isnan(part), other, part) if part.dtype.kind == "f" and part.shape == other.shape else part
               for part, other in zip(right, wrong)]
    return None if all(map(alike, settled, wrong)) else True


def lost(parts):
    return not all(np.isfinite(part).all() for part in parts if part.dtype.kind == "f")


def alike(a, b):
    if a.shape != b.shape or a.dtype == object:
        return False
    a, b = a.astype(np.float64), b.astype(np.float64)
    scale = max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0))
    return bool(np.allclose(a, b, rtol=ALIKE, atol=ALIKE * scale * 1e-2, equal_nan=True))
