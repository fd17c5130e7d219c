"""What is wrong with a learner's function, in words: a known mistake, or how the result differs from the right one."""
import inspect
import re
from functools import partial
from itertools import combinations

import numpy as np

from ..contracts import Broken
from ..contracts.contract import differences
from ..nn.arrays import from_bfloat16_bits
from .outcomes import agrees, alike, outcome, pieces, telling
from .relations import clue, places, relation

SHORT = 8                                                   # numbers of a row that is shown whole
FEW = 16                                                    # numbers of an argument that is shown whole


def check(exercise, function, docstring="", search=lambda label: None):
    """Lines that say what is wrong with `function`, or [] if it keeps the exercise's contract.

    What the function raises is raised. docstring: of the exercise; its letters name the axes. search(label): what one
    finds by looking at the code, if the numbers of the case do not say it.
    """
    sizes = partial(bind, letters(docstring)[0])
    for dtype in exercise.dtypes:
        broken = breaks(exercise.contract, function, dtype)
        toy = breaks(exercise.toys, function, dtype, Exception if broken else ())
        if not broken:
            if toy:
                return explain(toy, dtype, docstring)
            continue
        said = [recognise(exercise, function) or recognise_two(exercise, function)
                or relation(exercise, function, broken, sizes)]
        if said == [None]:
            said = [clue(exercise, function, broken), search(broken.label)]
        if said == [None, None] and (in_this_case := recognise(exercise, function, broken.label)):
            said, toy = [in_this_case], None
        shown = toy if toy and toy.kind == broken.kind == "values" else broken      # sizes are told apart by the others
        return [*filter(None, said), *explain(shown, dtype, docstring)]
    return []


def breaks(contract, function, dtype, forgiven=()):
    """How the function breaks the contract, or None. forgiven: what it may raise."""
    try:
        contract.check(function, dtype)
    except Broken as broken:
        return broken
    except forgiven:
        return None
    return None


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
    wrong, _, worst = differences(actual, expected, tolerance)
    number, lost = int(wrong.sum()), int(np.sum(~np.isfinite(actual)))
    head = f"{number} of {wrong.size} entries of {what} {'are' if number > 1 else 'is'} wrong"
    head += f", {lost} of them NaN or infinite" if lost else ""
    where = [said] if (said := places(wrong)) else []
    if np.isnan(actual).all():
        where.append("In this case all is NaN, which comes from 0 / 0 or infinite - infinite: look for a 0 to divide by.")
    if expected.shape[-1] <= SHORT and expected.ndim:
        place = worst[0][:-1]
        pairs = [apart(a, b) for a, b in zip(actual[place].tolist(), expected[place].tolist())]
        mine, right = ("[" + " ".join(column) + "]" for column in zip(*pairs))
        at = f", in row {index(place)}" if place else ""
        return [f"{head}{at}: {mine}, expected {right}", *where]
    mine, right = apart(actual[worst[0]].item(), expected[worst[0]].item())
    return [f"{head}, the worst at {index(worst[0])}: {mine}, expected {right}", *where]


def apart(a, b):
    """Two numbers with four digits, or with as many as tell them apart."""
    if isinstance(a, float) or isinstance(b, float):
        for digits in range(4, 18):
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
        if name == "scales" and value.dtype == np.uint16:   # bfloat16, which NumPy has not
            value = from_bfloat16_bits(value)
        if value.size <= FEW:
            numbers = np.array2string(value, separator=", ", formatter={"float_kind": "{:.4g}".format})
            return f"{name} = {re.sub(' +', ' ', numbers.replace(chr(10), '')).replace('[ ', '[')}"
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


def recognise_two(exercise, function):
    """Two known mistakes at once, in words, or None: each in results of its own, or one added to the other."""
    cases = [case[1:] for case in exercise.contract.cases_in(exercise.dtypes[0])]
    mine, right = [outcome(function, *case) for case in cases], [pieces(case[1]) for case in cases]
    known = {mistake.sentence: [outcome(mistake.make, *case) for case in cases] for mistake in exercise.mistakes}
    if None in mine or len(cases) < 2:
        return None
    usable = {sentence: results for sentence, results in known.items() if None not in results}
    found = by_result(mine, right, usable) or sum_of_two(mine, right, usable)
    return f"There are two mistakes. First: {found[0]} Second: {found[1]}" if found else None


def by_result(mine, right, known):
    """The sentences of two mistakes of which each explains one of several results, or None"""
    if len(right[0]) < 2 or any(len(parts) != len(right[0]) for parts in mine):
        return None
    sentences = []
    for i in range(len(right[0])):
        if all(alike(parts[i], wanted[i]) for parts, wanted in zip(mine, right)):
            continue
        fits = [sentence for sentence, results in known.items() if all(
            len(wrong) > i and alike(parts[i], wrong[i]) for parts, wrong in zip(mine, results))]
        if not fits:
            return None
        sentences.append(fits[0])
    return sentences if len(sentences) == 2 and sentences[0] != sentences[1] else None


def sum_of_two(mine, right, known):
    """The sentences of two mistakes whose errors add up to those that were made, or None"""
    def errors(results):
        if any(len(a) != len(b) or any(x.shape != y.shape or x.dtype.kind not in "iuf" for x, y in zip(a, b))
               for a, b in zip(results, right)):
            return None
        flat = np.concatenate([np.ravel(x.astype(float) - y) for a, b in zip(results, right) for x, y in zip(a, b)])
        return flat if np.isfinite(flat).all() and flat.any() else None
    total = errors(mine)
    known = {sentence: flat for sentence, results in known.items() if (flat := errors(results)) is not None}
    if total is None or len(total) < 3:
        return None
    return next((pair for pair in combinations(known, 2) if alike(known[pair[0]] + known[pair[1]], total)), None)
