"""What many mistakes look like: how a wrong result is made from the right one, in words."""
from itertools import combinations, permutations

import numpy as np

from .outcomes import agrees, alike, outcome, pieces, telling

FACTORS = 3                                                 # sizes of axes that a factor may be made of
SHOWN = 6                                                   # indices that are listed


def relation(exercise, function, broken, sizes):
    """A sentence on how the function's results are made from the right ones, or None. sizes(arguments): {letter: size}"""
    if broken.kind not in ("values", "shape"):
        return None
    cases = list(exercise.contract.cases_in(exercise.dtypes[0]))
    return (related(np.asarray(broken.actual), np.asarray(broken.expected)) or factor(function, cases, broken, sizes)
            or altered(exercise, function, cases, broken))


def clue(exercise, function, broken):
    """A sentence on what is striking about the function's results, or None: less than what is wrong with them."""
    if broken.kind not in ("values", "shape"):
        return None
    return (unused(exercise, function, list(exercise.contract.cases_in(exercise.dtypes[0])))
            or part_of(np.asarray(broken.actual), np.asarray(broken.expected)))


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
    if actual.shape != expected.shape and alike(actual.reshape(expected.shape), expected):
        return "The numbers and their order are right; only the shape is not."
    for order in list(permutations(range(expected.ndim)))[1:] if expected.ndim <= 5 else ():
        moved = expected.transpose(order)
        if alike(actual, moved):
            back = tuple(map(int, np.argsort(order)))
            return f"The numbers are right, but the axes come in another order: use .transpose{back}."
        if alike(actual, moved.reshape(actual.shape)):
            return ("The numbers are right, but in another order: reshape keeps their order in memory; axes are "
                    "exchanged with swapaxes or transpose.")
    return None


def part_of(actual, expected):
    """Whether some of the right result is missing along one axis, or something stands before or after it."""
    if actual.ndim != expected.ndim or actual.dtype == object or not actual.size or not expected.size:
        return None
    differ = [axis for axis in range(actual.ndim) if actual.shape[axis] != expected.shape[axis]]
    if len(differ) != 1:
        return None
    [axis] = differ
    n, m = actual.shape[axis], expected.shape[axis]
    less, more = (actual, expected) if n < m else (expected, actual)
    for where, cut in (("end", slice(None, less.shape[axis])), ("beginning", slice(-less.shape[axis], None))):
        if alike(less, more[(slice(None),) * axis + (cut,)]):
            there = {"end": "the last", "beginning": "the first"}[where]
            return f"{'Missing' if n < m else 'Too many'} along axis {axis}: {there} {abs(m - n)}. The others are right."
    return f"Along axis {axis} there are {n}; it should be {m}."


def factor(function, cases, broken, sizes):
    """Whether a result is the right one times or divided by the sizes of some axes, in every case."""
    common = None
    for _, arguments, right in cases:
        got = outcome(function, arguments, right)
        if got is None or len(got) != len(pieces(right)):
            return None
        a, b = got[broken.output], pieces(right)[broken.output]
        if a.shape != b.shape or a.dtype.kind not in "iuf" or not np.isfinite(a).all() or not np.any(b):
            return None
        largest = np.unravel_index(np.nanargmax(np.abs(b)), b.shape)
        by = float(a[largest]) / float(b[largest])
        if not by or not alike(a / by, np.where(np.isnan(b), a / by, b)):
            return None
        known, here = sizes(arguments), {"": by}
        for count in range(1, FACTORS + 1):
            for letters in combinations(known, count):
                size = np.prod([known[letter] for letter in letters])
                here |= {f"{' '.join(letters)} times": by / size, f"divided by {' '.join(letters)},": by * size}
        fits = {words for words, left in here.items() if np.isclose(left, 1 if words else by, 1e-5)}
        common = fits if common is None else common & fits
    common = sorted(common - {""}, key=len) if common else []
    if not common or len(cases) < 2:
        return None
    by_size, words = common[0].startswith("divided"), common[0]
    return (f"The result is what it should be, {words[:-1]}: is there a mean where a sum is asked for?" if by_size
            else f"The result is {words} what it should be: is there a sum where a mean is asked for?")


def altered(exercise, function, cases, broken):
    """Whether the results are the right ones for other arguments: two exchanged, or one of them 0, 1 or negative."""
    arrays = [name for name, value in broken.arguments.items() if isinstance(value, np.ndarray)]
    mine = [outcome(function, *case[1:]) for case in cases]
    for words, change in alterations(arrays, broken.arguments):
        verdicts = []
        for got, (_, arguments, right) in zip(mine, cases):
            try:
                wrong = pieces(exercise.contract.spec(**change(dict(arguments))))
            except Exception:
                wrong = None
            verdicts.append(agrees(got, wrong, right) if telling(right) else None)
            if verdicts[-1] is False:
                break
        if True in verdicts and False not in verdicts:
            return f"The numbers are right for another input: {words}."
    return None


def alterations(arrays, arguments):
    """Yield (in words, change(arguments) -> arguments)"""
    def put(name, value):
        return lambda given: given | {name: value(given[name])}
    for a, b in combinations(arrays, 2):
        if arguments[a].shape == arguments[b].shape:
            yield f"{a} and {b} exchanged", lambda given, a=a, b=b: given | {a: given[b], b: given[a]}
            yield f"{b} in the place of {a}", lambda given, a=a, b=b: given | {a: given[b]}
            yield f"{a} in the place of {b}", lambda given, a=a, b=b: given | {b: given[a]}
    for name, value in arguments.items():
        if isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
            yield f"{name} with the other sign", put(name, lambda value: -value)
            yield f"as if {name} were 0", put(name, lambda value: 0 * value)
            yield f"as if {name} were 1", put(name, lambda value: 0 * value + 1)
        if isinstance(value, np.ndarray) and value.ndim:
            for axis in range(value.ndim):
                yield (f"{name} in reverse order along axis {axis}",
                       put(name, lambda value, axis=axis: np.flip(value, axis)))
                if value.shape[axis] > 1:
                    yield (f"the first of {name} along axis {axis} is taken for all of them", put(
                        name, lambda value, axis=axis: np.repeat(value.take([0], axis), value.shape[axis], axis)))
            if value.ndim > 1 and value.shape[-1] == value.shape[-2]:
                yield f"the last two axes of {name} exchanged", put(name, lambda value: value.swapaxes(-1, -2))


def unused(exercise, function, cases):
    """Whether an argument makes no difference to the function that it should make."""
    for name in dict.fromkeys(name for _, arguments, _ in cases for name in arguments):
        if ignores(exercise, function, cases, name):
            return f"The result is the same whatever {name} is."
    return None


def ignores(exercise, function, cases, name):
    """Whether the function returns the same for all other values of an argument, and should not"""
    told = False
    for _, arguments, right in cases:
        for value in other_values(name, arguments[name], cases) if name in arguments else ():
            changed = dict(arguments) | {name: value}
            try:
                other = pieces(exercise.contract.spec(**changed))
            except Exception:
                continue
            if [part.shape for part in other] != [part.shape for part in pieces(right)] \
                    or all(map(same, other, pieces(right))):
                continue
            mine, then = outcome(function, arguments, right), outcome(function, changed, right)
            if mine is None or then is None or len(mine) != len(then) or not all(map(same, mine, then)):
                return False
            told = True
    return told


def other_values(name, value, cases):
    if isinstance(value, np.ndarray):
        return [1.5 * value + 0.25 if value.dtype.kind == "f" else np.roll(value, 1)] if value.size else []
    if isinstance(value, float):
        return [2 * value + 0.5]
    found = [other[name] for _, other, _ in cases if not callable(other.get(name)) and not isinstance(
        other.get(name), (np.ndarray, list))]
    return [other for other in found if other != value][:2]


def same(a, b):
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def places(wrong):
    """Along which axis some places are right and others are not, or None. wrong: a truth value for each entry"""
    for axis in range(wrong.ndim if wrong.ndim > 1 else 0):
        bad = wrong.any(tuple(i for i in range(wrong.ndim) if i != axis))
        if not bad.all():
            return (f"Along axis {axis} all is right at {listed(np.flatnonzero(~bad))}; what is wrong is at "
                    f"{listed(np.flatnonzero(bad))}.")
    return None


def listed(numbers):
    """[0 1 2 3] -> "0 to 3"; [0 2] -> "0, 2" """
    numbers = numbers.tolist()
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers[:SHOWN])) + (" ..." if len(numbers) > SHOWN else "")
