"""What is wrong with a learner's function, in words: a known mistake, or how the result differs from the right one."""
import inspect
import re
from itertools import permutations

import numpy as np

from ..contracts import Broken
from ..contracts.contract import differences

ALIKE = 1e-5                                                # numbers of a mistake and of one who makes it, relative
SHORT = 8                                                   # numbers of a row that is shown whole
WORST = 3                                                   # wrong entries that are shown


def check(exercise, function, docstring=""):
    """Lines that say what is wrong with `function`, or [] if it keeps the exercise's contract.

    What the function raises is raised. docstring: of the exercise; its letters name the axes.
    """
    for dtype in exercise.dtypes:
        try:
            exercise.contract.check(function, dtype)
        except Broken as broken:
            said = recognise(exercise, function, broken.label)
            lines = explain(broken, dtype, docstring)
            if not said and broken.kind in ("values", "shape"):
                said = related(np.asarray(broken.actual), np.asarray(broken.expected))
            return [*([said] if said else []), *lines]
    return []


# ---------------------------------------------------------------------------------------------- what the contract found

def explain(broken, dtype, docstring):
    """Lines on the first thing that breaks the contract, and the case in which it does."""
    inputs, results = letters(docstring)
    what, wanted = results[broken.output] if broken.output < len(results) else ("", None)
    what = what or "the result"
    floats = [value for value in broken.arguments.values() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]
    case = f'case "{broken.label}"{f", {dtype}" if floats else ""}: {arguments_of(broken.arguments)}'
    if broken.kind == "changed":
        return [f"{broken.argument} was changed; work on a copy, the caller still needs it.", case]
    actual, expected = broken.actual, broken.expected
    if broken.kind == "count":
        return [count(actual, expected, [name for name, _ in results]), case]
    if broken.kind == "dtype" and actual.dtype == object:
        nothing = actual.ndim == 0 and actual[()] is None
        return ["nothing came back: is there a return?" if nothing else f"{what} is not an array of numbers.", case]
    sizes = bind(inputs, broken.arguments)
    if actual.shape != expected.shape:
        named = f"{wanted} = " if wanted and wanted != "scalar" else ""
        lines = [f"{what} has the shape {shape(actual.shape)}{called(actual.shape, sizes, axes_of(wanted or ''))}; "
                 f"it should be {named}{shape(expected.shape)}."]
        if sorted(actual.shape) == sorted(expected.shape):
            lines.append("The sizes are right, their order is not.")
        return [*lines, case]
    if broken.kind == "dtype" and not expected.ndim and expected.dtype.kind == "i" and actual.dtype.kind == "f":
        return [f"{what} is {actual.item()!r}; it should be a whole number: // divides without a fraction.", case]
    if broken.kind == "dtype":
        right = np.dtype(dtype if expected.dtype.kind == "f" else expected.dtype)
        return [f"{what} has the type {actual.dtype}; it should be {right}. {remedy(broken.arguments, actual, right)}",
                case]
    return [*values(what, actual, expected, broken.tolerance), case]


def values(what, actual, expected, tolerance):
    """Lines on the entries that are wrong: their number, and the worst of them."""
    if expected.size == 1:
        mine, right = apart(actual.item(), expected.item())
        return [f"{what} is {mine}; it should be {right}."]
    wrong, _, places = differences(actual, expected, tolerance)
    number, lost = int(wrong.sum()), int(np.sum(~np.isfinite(actual)))
    head = f"{number} of {wrong.size} entries of {what} {'are' if number > 1 else 'is'} wrong"
    head += f", {lost} of them NaN or infinite" if lost else ""
    if expected.shape[-1] <= SHORT and expected.ndim:
        place = places[0][:-1]
        pairs = [apart(a, b) for a, b in zip(actual[place].tolist(), expected[place].tolist())]
        mine, right = ("[" + " ".join(column) + "]" for column in zip(*pairs))
        at = f", in row {index(place)}" if place else ""
        return [f"{head}{at}: {mine}, expected {right}"]
    lines = [f"    {index(place)}: {mine}, expected {right}" for place in places[:WORST]
             for mine, right in [apart(actual[place].item(), expected[place].item())]]
    return [f"{head}; the worst:", *lines]


def apart(a, b):
    """Two numbers with five digits, or with as many as tell them apart."""
    if isinstance(a, float) or isinstance(b, float):
        for digits in range(5, 18):
            texts = f"{a:.{digits}g}", f"{b:.{digits}g}"
            if a == b or texts[0] != texts[1]:
                return texts
    return str(a), str(b)


def index(place):
    return str(place[0] if len(place) == 1 else place)


def count(actual, expected, names):
    """What is said where another number of arrays comes back than is wanted."""
    if isinstance(expected, tuple):
        names = names if len(names) == len(expected) and all(names) else "abc"[:len(expected)]
        return f"{len(expected)} arrays should come back, as in: return {', '.join(names)}"
    if any(map(callable, actual)):
        return ("the result came back together with its pullback, as the package's operations give it; take the first "
                "of the two, as in: y, _ = ops.linear(x, weight)")
    return f"one array should come back, not {len(actual)}."


def remedy(arguments, actual, right):
    """How the result gets the type `right`: that of an argument, if there is one."""
    of = next((f"{name}.dtype" for name, value in arguments.items()
               if isinstance(value, np.ndarray) and value.dtype == right), "bool" if right == np.dtype(bool) else f"np.{right}")
    if actual.dtype == np.float64 and right == np.float32:
        return ("NumPy's own numbers, such as np.sqrt(2), np.eye(n) or bytes / 255, are float64 and turn float32 into "
                f"float64: give them a dtype, or use .astype({of}).")
    return f"Use .astype({of})."


def arguments_of(arguments, function=None):
    """x (2, 3), eps = 1e-06, types = [[0 1 1 0]]; of the function's parameters those with a default, too."""
    def one(name, value):
        if callable(value):
            return str(value) if type(value).__str__ is not object.__str__ else name
        if not isinstance(value, np.ndarray):
            return f"{name} = {value}"
        if value.size <= 10:
            return f"{name} = {np.array2string(value, precision=4, separator=', ').replace(chr(10), '')}"
        return f"{name} {shape(value.shape)}"
    if function is not None:
        bound = inspect.signature(function).bind(**arguments)
        bound.apply_defaults()
        arguments = {name: bound.arguments.get(name, value) for name, value in {**bound.arguments, **arguments}.items()}
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

def recognise(exercise, function, label=None):
    """The sentence of the mistake in whose numbers `function` agrees, or None.

    In every case; or else, if it makes two mistakes, in the case `label`, the first that breaks the contract.
    """
    cases = [(name, arguments, right) for name, arguments, right in exercise.contract.cases_in(exercise.dtypes[0])]
    mine = [outcome(function, *case[1:]) for case in cases]
    first = next((i for i, (name, *_) in enumerate(cases) if name == label), None)
    in_this_case = None
    for mistake in exercise.mistakes:
        verdicts = [agrees(got, outcome(mistake.make, *case[1:]), case[2]) for got, case in zip(mine, cases)]
        if False not in verdicts and True in verdicts:
            return mistake.sentence
        if first is not None and verdicts[first] and telling(cases[first][2]):
            in_this_case = in_this_case or mistake.sentence
    return f"In the case below the numbers are those of a known mistake: {in_this_case}" if in_this_case else None


def telling(right):
    """Whether a result has so many numbers that another one is not equal to it by chance."""
    parts = right if isinstance(right, tuple) else [right]
    return any(np.asarray(part).dtype.kind == "f" or np.size(part) > 2 for part in parts)


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
    if wrong is None or mine is None or (lost(mine) and not lost(wrong)):         # it overflows as well
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


# ---------------------------------------------------------------------------------------- what many mistakes look like

def related(actual, expected):
    """How a wrong result is made from the right one, in a sentence, or None: a sign, a factor, axes, an order."""
    if actual.dtype == object or expected.size < 3 or np.all(expected == expected.flat[0]):
        return None
    if not np.isfinite(actual).all():
        return None
    if actual.shape == (2, *expected.shape):
        return ("The result has an axis too many, of size 2: was a function that returns two arrays used as if it were "
                "one? Take the first: tail, _ = normal_tail(a).")
    if actual.size != expected.size:
        return None
    if actual.shape == expected.shape and expected.dtype.kind == "f":
        if alike(actual, -expected):
            return "Every entry has the wrong sign."
        largest = np.unravel_index(np.abs(expected).argmax(), expected.shape)
        factor = float(actual[largest] / expected[largest])
        if factor and alike(actual / factor, expected):
            return f"Every entry is {factor:.5g} times what it should be."
        if alike(actual - (actual - expected).mean(), expected):
            return f"Every entry is off by the same number, {float((actual - expected).mean()):.5g}."
    for axis in range(expected.ndim) if actual.shape == expected.shape else ():
        if alike(actual, np.flip(expected, axis)):
            return f"The numbers are right, but along axis {axis} they come in reverse order."
        for step, where in ((1, "late"), (-1, "early")):
            if alike(actual, np.roll(expected, step, axis)):
                return f"The numbers are right, but along axis {axis} each comes one place too {where}."
    for order in list(permutations(range(expected.ndim)))[1:] if expected.ndim <= 5 else ():
        moved = expected.transpose(order)
        if alike(actual, moved):
            back = tuple(map(int, np.argsort(order)))
            return f"The numbers are right, but the axes come in another order: use .transpose{back}."
        if alike(actual, moved.reshape(actual.shape)):
            return ("The numbers are right, but in another order: reshape keeps their order in memory; axes are "
                    "exchanged with swapaxes or transpose.")
    if alike(actual.reshape(expected.shape), expected):
        return "The numbers and their order are right; only the shape is not."
    return None
