"""Slips of the pen: one or two small changes between a learner's code and code that is right.

Known mistakes are recognised by their numbers. This looks at the code. It makes many small changes, such as another
axis, the other order of a - b, another variable, a line less, in the learner's function and in the lesson's solution,
and runs them all. Where one gives the numbers of another in every case, the changes in between are what is wrong:

    a changed function = the solution                       the change is said, with its line
    a changed function = a changed solution                 two slips: both are said
    a changed function = a known mistake                    the change and the mistake's sentence
    the function       = a changed solution                 what the solution has and the function lacks

So what is said is no guess: it has been run in all cases.
"""
import ast
import itertools
import os
import sys
import time
import warnings
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass

import numpy as np

from .outcomes import agrees, alike, lost, outcome, pieces, telling

TRIED = 3000                                                # changes of a function
SECONDS = 1.5                                               # of the processor, for the changes of a function
PATIENCE = 8                                                # seconds for all
LINES = 3000                                                # that a changed function may run in one case: it may loop
MOMENT = 0.2                                                # seconds of the processor that one case may take
LONGEST = 60                                                # characters of code that are shown
LARGE = 0.5                                                 # the share of a function's code that no slip replaces

HARMLESS = ("numpy", "math", "collections", "itertools", "functools", "operator", "tinycogvlm")
OUTSIDE = ("open", "exec", "eval", "compile", "input", "breakpoint", "exit", "quit", "__import__", "save", "savez",
           "savetxt", "savez_compressed", "tofile", "dump", "memmap", "load", "loadtxt", "fromfile")

REDUCTIONS = ("mean", "sum", "max", "min", "std", "var", "prod", "argmax", "argmin", "any", "all", "cumsum")
KIN = (REDUCTIONS, ("maximum", "minimum"), ("floor", "ceil", "round", "trunc", "rint"), ("tile", "repeat"),
       ("triu", "tril", "tri"), ("zeros", "ones"), ("zeros_like", "ones_like"), ("exp", "exp2", "expm1"),
       ("log", "log2", "log10", "log1p"), ("sin", "cos", "tan"), ("tanh", "sign"), ("min", "max", "sum"),
       ("argsort", "sort"), ("concatenate", "stack"), ("zip", "zip_longest"), ("int", "round"))
OPERATORS = {ast.Add: (ast.Sub, ast.Mult), ast.Sub: (ast.Add, ast.Mult), ast.Mult: (ast.Div, ast.Add, ast.MatMult),
             ast.Div: (ast.Mult, ast.FloorDiv), ast.FloorDiv: (ast.Div, ast.Mod), ast.Mod: (ast.FloorDiv,),
             ast.MatMult: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,), ast.Pow: (ast.Mult,)}
COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
AROUND = (("-{}", "the other sign"), ("np.sqrt({})", "the square root of it"), ("({}) ** 2", "the square of it"),
          ("1 / ({})", "1 divided by it"), ("({}) + 1", "1 more"), ("({}) - 1", "1 less"), ("1 - ({})", "1 minus it"),
          ("({}) / 2", "half of it"), ("2 * ({})", "twice it"), ("~({})", "its opposite"), ("np.exp({})", "exp of it"),
          ("np.log({})", "the logarithm of it"), ("np.abs({})", "its absolute value"), ("np.max(0, {})", "at least 0"),
          ("max(0, {})", "0 where it is negative"), ("({}).swapaxes(-1, -2)", "its last two axes exchanged"),
          ("({}).swapaxes(1, 2)", "axes 1 and 2 exchanged"), ("({})[::-1]", "the reverse order"),
          ("({}).copy()", "a copy of it"), ("({})[0]", "its first part"), ("({})[1:]", "all but the first"),
          ("({})[:-1]", "all but the last"), ("[{}]", "another pair of brackets around it"))

PLAIN = ("the other sign", "the square root of it", "the square of it")


@dataclass
class Change:
    """Of a piece of code at a line: in words, and as {(object, field, index or None): value}.

    size: of the code that it replaces. plain: an operator, an order, a number, an axis, a line, and nothing that may
    turn the function into something quite different, as another variable may.
    """
    line: int
    code: str
    words: str
    values: dict
    size: int
    plain: bool

    def __enter__(self):
        self.before = [(place, get(place)) for place in self.values]
        for place, value in self.values.items():
            put(place, value)

    def __exit__(self, *error):
        for place, value in reversed(self.before):
            put(place, value)


def get(place):
    holder, field, i = place
    return getattr(holder, field) if i is None else getattr(holder, field)[i]


def put(place, value):
    holder, field, i = place
    if i is None:
        setattr(holder, field, value)
    else:
        getattr(holder, field)[i] = value


def is_harmless(module):
    """Whether a file's code may be run thousands of times: it imports nothing that reaches outside, and opens no file."""
    for node in ast.walk(module):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
            [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.partition(".")[0] not in HARMLESS for name in names):
            return False
        if getattr(node, "id", getattr(node, "attr", None)) in OUTSIDE:
            return False
    return True


def slips(node, scope, exercise, solution, label):
    """A sentence on what makes the function `node` right, or None.

    node: its syntax tree; scope: the names that it sees; solution: the same two of the lesson's. label: the case that
    it breaks first.
    """
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        search = Search(exercise, label)
        mine = search.variants(node, scope)
        if not mine[0].off:                                 # the numbers are right; their type, or other ones, are not
            return None
        for variant in mine:
            if variant.right:
                return f"Look again at {at_line(variant)} it passes."
        theirs = search.variants(*solution)
        if found := search.meeting(mine[:1], theirs):
            return f"A solution gives your numbers with one change: {at_code(found[1])}."
        plain = [variant for variant in mine[1:] if variant.change.plain and variant.error < mine[0].error]
        if found := search.with_mistake(plain):
            return f"There are two mistakes. First, look again at {at_line(found[0])} it is nearer. Second: {found[1]}"
        if found := search.meeting(plain, [variant for variant in theirs if variant.change and variant.change.plain]):
            return (f"There are two mistakes. First, look again at {at_line(found[0])} your numbers are those of a "
                    f"solution with one change: {at_code(found[1])}.")
        if found := search.of_two(node, scope, mine):
            return f"There are two mistakes. Look again at {', and at '.join(map(at_line, found))} it passes."
    return None


def at_line(variant):
    return f"line {variant.change.line}, {variant.change.code}: {with_words(variant)}"


def at_code(variant):
    return f"at {variant.change.code}, {with_words(variant)}"


def with_words(variant):
    return variant.change.words if variant.change.words.startswith("without") else f"with {variant.change.words}"


@dataclass
class Variant:
    """A function with a change, or as it is.

    got: its result in the first case; off: the share of it that is wrong; error: by how much, in all.
    """
    change: Change
    run: object
    got: list
    right: bool
    off: float
    error: float = np.inf

    def __post_init__(self):
        self.sum = sum(float(np.sum(np.nan_to_num(part.astype(float)) * np.cos(np.arange(part.size)).reshape(part.shape)))
                       for part in self.got if part.dtype.kind in "biuf")


class Search:
    """Runs functions in the cases of a contract, the one that was broken first before the others."""

    def __init__(self, exercise, label):
        self.exercise, self.contract, self.dtype = exercise, exercise.contract, exercise.dtypes[0]
        self.cases = sorted(self.contract.cases_in(self.dtype), key=lambda case: case[0] != label)
        self.begin = time.monotonic()

    def variants(self, node, scope):
        """[Variant] of a function, first it itself if it gives a result, without those that give what others give.

        Stops at one that is right.
        """
        known = [*scope.items(), *self.cases[0][1].items()]
        callables = [name for name, thing in known if callable(thing) and not isinstance(thing, type)
                     and not name.startswith("_")]
        size, found, seen, end = count(node), [], set(), time.process_time() + SECONDS
        for change in itertools.islice(itertools.chain([None], changes(node, callables)), TRIED):
            if change and change.size > LARGE * size:
                continue
            if time.process_time() > end or time.monotonic() - self.begin > PATIENCE:
                break
            variant = self.variant(node, scope, *([change] if change else []))
            if variant is None or (key := tuple((part.shape, part.tobytes()) for part in variant.got)) in seen:
                if change is None:
                    found.append(Variant(None, None, [], False, 9.0))
                continue
            seen.add(key) if variant.off else None
            found.append(variant)
            if variant.right and change:
                break
        return found

    def variant(self, node, scope, *changes):
        """The function with these changes, as a Variant, or None if it does not run."""
        run = make(node, scope, changes)
        got = run and self.result(run, self.cases[0])
        if got is None or any(part.dtype == object for part in got):
            return None
        off = distance(got, self.cases[0][2])
        return Variant(changes[0] if changes else None, run, got, off == 0 and self.keeps(run), off,
                       error(got, self.cases[0][2]))

    def result(self, function, case):
        """The function's outcome, or None; also if it runs more than so many lines."""
        left, end = LINES, time.process_time() + MOMENT

        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename != "<slip>" and not frame.f_globals.get("__name__", "").startswith("mine_"):
                return None                                 # neither the changed function nor another of its file
            left -= 1
            if left < 0 or time.process_time() > end:
                raise TimeoutError
            return trace
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            return outcome(function, *case[1:])
        except SystemExit:
            return None
        finally:
            sys.settrace(before)

    def keeps(self, function):
        """Whether a function that is right in the first case keeps the contract."""
        try:
            return (all(distance(self.result(function, case), case[2]) == 0 for case in self.cases[1:])
                    and self.contract.check(function, self.dtype) is None)
        except Exception:
            return False

    def meeting(self, mine, theirs):
        """The first two of these that are wrong in the same way in every case, or None."""
        if not telling(self.cases[0][2]):
            return None
        theirs = sorted((variant for variant in theirs if variant.change and variant.off), key=lambda other: other.sum)
        sums = np.array([variant.sum for variant in theirs])
        for variant in mine:
            if not variant.off or not variant.got or lost(variant.got) or self.is_given(variant.got):
                continue
            near = 1e-6 * (1 + abs(variant.sum))
            for other in theirs[np.searchsorted(sums, variant.sum - near):np.searchsorted(sums, variant.sum + near)]:
                if self.same(variant.run, other.run):
                    return variant, other
        return None

    def is_given(self, got):
        """Whether a result is an argument, or all zero: then it says nothing."""
        given = [value for value in self.cases[0][1].values() if isinstance(value, np.ndarray)]
        return any(not part.any() or any(alike(part, value) for value in given) for part in got)

    def same(self, function, other):
        """Whether two functions agree in every case, and are wrong in one at least."""
        verdicts = [agrees(self.result(function, case), self.result(other, case), case[2]) for case in self.cases]
        return True in verdicts and False not in verdicts

    def with_mistake(self, mine):
        """A variant that gives the numbers of a known mistake, and the mistake's sentence, or None."""
        if not telling(self.cases[0][2]):
            return None
        for mistake in self.exercise.mistakes:
            wrong = outcome(mistake.make, *self.cases[0][1:])
            for variant in mine:
                if wrong is not None and agrees(variant.got, wrong, self.cases[0][2]) and not self.is_given(wrong)                         and self.same(variant.run, mistake.make):
                    return variant, mistake.sentence
        return None

    def of_two(self, node, scope, mine):
        """Two of the variants' changes that together make the function right, or None."""
        mine = sorted((variant for variant in mine if variant.change), key=lambda variant: variant.off)
        end = time.process_time() + SECONDS
        for a, b in pairs(len(mine)):
            if time.process_time() > end or time.monotonic() - self.begin > PATIENCE:
                return None
            both = sorted((mine[a], mine[b]), key=lambda variant: variant.change.line)
            first, second = (variant.change for variant in both)
            if not first.values.keys() & second.values.keys():
                together = self.variant(node, scope, first, second)
                if together and together.right:
                    return both
        return None


def pairs(n):
    """Yield the pairs of range(n), those of small numbers first."""
    for top in range(1, n):
        for low in range(top):
            yield low, top


def make(node, scope, changes):
    """The function with these changes, or None"""
    scope = dict(scope)
    with ExitStack() as stack:
        try:
            for change in changes:
                stack.enter_context(change)                 # IndexError: what it changes went with the one before
            code = compile(ast.Module([node], []), "<slip>", "exec")
        except (SyntaxError, TypeError, ValueError, RecursionError, IndexError):
            return None
    exec(code, scope)
    return scope[node.name]


def distance(got, expected):
    """The share of the numbers that is wrong; more than 1 for a result of another shape, or none"""
    expected = pieces(expected)
    if got is None or len(got) != len(expected):
        return 2.0
    return sum(1.5 if a.shape != b.shape or a.dtype == object else
               float(np.mean(~np.isclose(a, b, 1e-5, 1e-7) & ~np.isnan(b))) for a, b in zip(got, expected)) / len(got)


def error(got, expected):
    """The root of the sum of the squares of all errors; infinite for a result of another shape"""
    expected = pieces(expected)
    if len(got) != len(expected) or any(a.shape != b.shape for a, b in zip(got, expected)):
        return np.inf
    total = sum(float(np.nansum((a.astype(float) - b) ** 2)) for a, b in zip(got, expected))
    return total ** 0.5 if all(np.isfinite(a).all() for a in got if a.dtype.kind == "f") else np.inf


def count(node):
    return sum(1 for _ in ast.walk(node))


# ------------------------------------------------------------------------------------------------------------- changes

def changes(node, callables):
    """Yield every Change of the function, those that learners need most often first."""
    names = [part.arg if isinstance(part, ast.arg) else part.id for part in ast.walk(node)
             if isinstance(part, ast.arg) or (isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))]
    names = list(dict.fromkeys(names))
    for kind in (small, of_lines, around, added):
        for place in places(node):
            expression = get(place)
            for words, values in kind(place, expression, names, callables):
                size = count(expression) if kind is small else 1
                plain = (kind in (small, of_lines) and words != "another variable" and (
                    kind is of_lines or not words.startswith("without"))) or words in PLAIN
                yield Change(line_of(expression, place), shown(expression), words, values, size, plain)


def places(node):
    """Yield (object, field, index or None) of every expression that is read and every statement below `node`."""
    for holder in ast.walk(node):
        if isinstance(holder, (ast.arguments, ast.FormattedValue)):
            continue
        for field, value in ast.iter_fields(holder):
            if field in ("decorator_list", "targets", "target", "returns", "format_spec"):
                continue
            for i, part in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(part, (ast.expr, ast.stmt)) and not isinstance(getattr(part, "ctx", None), ast.Store):
                    yield holder, field, i


def line_of(expression, place):
    return getattr(expression, "lineno", getattr(place[0], "lineno", 0))


def shown(expression):
    text = ast.unparse(expression).splitlines()[0]
    return f"`{text}`" if len(text) <= LONGEST else f"`{text[:LONGEST]} ...`"


def parse(text):
    return ast.parse(text, mode="eval").body


def with_lines(new, old):
    """A new expression in the lines of an old one"""
    for part in ast.walk(new):
        if not hasattr(part, "lineno"):
            ast.copy_location(part, old)
    return ast.fix_missing_locations(new)


def small(place, e, names, callables):
    """Another operator, order, number, axis, variable, function; or a part left out."""
    def instead(words, new):
        return words, {place: with_lines(new, e)}
    if isinstance(e, ast.BinOp):
        if isinstance(e.op, (ast.Sub, ast.Div, ast.MatMult, ast.FloorDiv, ast.Pow)):
            yield "the other order of the two sides", {(e, "left", None): e.right, (e, "right", None): e.left}
        for other in OPERATORS.get(type(e.op), ()):
            yield f"another operator than {sign(e.op)}", {(e, "op", None): other()}
        yield "without its right side", {place: e.left}
        yield "without its left side", {place: e.right}
    elif isinstance(e, ast.BoolOp):
        yield "and and or exchanged", {(e, "op", None): ast.Or() if isinstance(e.op, ast.And) else ast.And()}
        for i in range(len(e.values)):
            yield "without one of its conditions", {place: ast.copy_location(
                ast.BoolOp(e.op, e.values[:i] + e.values[i + 1:]), e) if len(e.values) > 2 else e.values[1 - i]}
    elif isinstance(e, ast.UnaryOp):
        yield f"without the {sign(e.op)}", {place: e.operand}
    elif isinstance(e, ast.Compare) and len(e.ops) == 1:
        for other in COMPARISONS:
            if isinstance(e.ops[0], COMPARISONS) and not isinstance(e.ops[0], other):
                yield "another comparison", {(e, "ops", 0): other()}
    elif isinstance(e, ast.Constant):
        yield from ((words, {place: with_lines(new, e)}) for words, new in other_constants(e.value, place))
    elif isinstance(e, ast.Name):
        for name in names:
            if name != e.id and e.id in names and not of_itself(place, name):
                yield instead("another variable", ast.Name(name, ast.Load()))
    elif isinstance(e, ast.IfExp):
        yield "the two results exchanged", {(e, "body", None): e.orelse, (e, "orelse", None): e.body}
    elif isinstance(e, ast.Attribute):
        if e.attr == "T":
            yield "without .T", {place: e.value}
            yield instead(".swapaxes(-1, -2) instead", parse(f"({ast.unparse(e.value)}).swapaxes(-1, -2)"))
    elif isinstance(e, (ast.Tuple, ast.List)):
        for i, j in itertools.combinations(range(min(len(e.elts), 6)), 2):
            yield "another order", {(e, "elts", i): e.elts[j], (e, "elts", j): e.elts[i]}
    elif isinstance(e, ast.Subscript):
        yield "without the index", {place: e.value}
        yield from indices(e)
    elif isinstance(e, ast.Call):
        yield from calls(place, e, instead, callables)


def of_itself(place, name):
    """Whether this would be name.append(name): NumPy never ends with a list that holds itself"""
    function = getattr(place[0], "func", None)
    return isinstance(function, ast.Attribute) and ast.unparse(function.value) == name


def sign(operator):
    return {ast.USub: "minus", ast.Invert: "~", ast.Not: "not", ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/",
            ast.FloorDiv: "//", ast.Mod: "%", ast.MatMult: "@", ast.BitAnd: "&", ast.BitOr: "|", ast.Pow: "**",
            ast.UAdd: "plus"}.get(type(operator), "operator")


def other_constants(value, place):
    is_axis = getattr(place[0], "arg", None) == "axis"
    if isinstance(value, bool):
        yield "the other truth value", ast.Constant(not value)
    elif isinstance(value, int):
        axis = "another axis" if is_axis else "another number"
        for other in dict.fromkeys((value + 1, value - 1, -value, 0, 1, 2, 3, -1, -2, 2 * value, value // 2)):
            if other != value:
                yield axis, ast.Constant(other) if other >= 0 else parse(str(other))
        yield "None", ast.Constant(None)
        if value > 2:
            for other in (value - 24, value * 10, value // 10):
                yield "another number", parse(str(other))
    elif isinstance(value, float):
        for other in (-value, 2 * value, value / 2, 1 - value, 0.0, 1.0, value + 0.5, value - 0.5, 1.5 * value,
                      value / 1.5, value ** 2, value * 10, value / 10, value + 0.25, value - 0.25, -value - 1):
            yield "another number", parse(repr(other))
    elif value is None:
        for other in (0, 1, -1):
            yield "another number", parse(str(other))


def indices(e):
    """Of x[...]: its axes exchanged, None at another place, or open ends cut."""
    parts = e.slice.elts if isinstance(e.slice, ast.Tuple) else [e.slice]
    for part in parts:
        if isinstance(part, ast.Slice):
            for field, numbers in (("lower", (1, 2)), ("upper", (-1, -2))):
                if getattr(part, field) is None:
                    for number in numbers:
                        yield "another beginning or end", {(part, field, None): with_lines(parse(str(number)), e)}
                else:
                    yield "an open beginning or end", {(part, field, None): None}
            if part.lower is not None and part.upper is None:
                yield "the beginning for the end", {(part, "lower", None): None, (part, "upper", None): part.lower}
            elif part.upper is not None and part.lower is None:
                yield "the end for the beginning", {(part, "upper", None): None, (part, "lower", None): part.upper}
    if len(parts) > 1:
        for i, j in itertools.combinations(range(len(parts)), 2):
            yield "another order of the axes", {(e.slice, "elts", i): parts[j], (e.slice, "elts", j): parts[i]}
    for more in ((ast.Slice,), (ast.Slice, ast.Slice)):
        new = ast.Tuple([*(kind() for kind in more), *parts], ast.Load())
        yield "another axis", {(e, "slice", None): with_lines(new, e)}
    if len(parts) > 1 and isinstance(parts[0], ast.Slice):
        yield "another axis", {(e, "slice", None): with_lines(ast.Tuple(parts[1:], ast.Load()), e)}


def calls(place, e, instead, callables):
    """Of f(...) or x.f(...): another function, axis, order of the arguments; or without it."""
    field = "attr" if isinstance(e.func, ast.Attribute) else "id" if isinstance(e.func, ast.Name) else None
    name = getattr(e.func, field) if field else ""
    is_module = isinstance(e.func, ast.Attribute) and ast.unparse(e.func.value) in ("np", "numpy", "math")
    is_method = field == "attr" and not is_module
    for family in KIN:
        if name in family:
            for other in family:
                if other != name:
                    yield f"another function than {name}", {(e.func, field, None): other}
    if name in callables:
        for other in callables:
            if other != name:
                yield f"another function than {name}", {(e.func, field, None): other}
    if is_method:
        yield f"without .{name}(...)", {place: e.func.value}
    elif len(e.args) == 1 and not isinstance(e.args[0], ast.Starred):
        yield f"without {ast.unparse(e.func)}", {place: e.args[0]}
    elif len(e.args) == 2 and not e.keywords:
        yield f"without {ast.unparse(e.func)}", {place: e.args[0]}
        yield f"without {ast.unparse(e.func)}", {place: e.args[1]}
    for i, j in itertools.combinations(range(min(len(e.args), 6)), 2):
        if not any(isinstance(e.args[k], ast.Starred) for k in (i, j)):
            yield "another order of the arguments", {(e, "args", i): e.args[j], (e, "args", j): e.args[i]}
    if name in REDUCTIONS + ("argsort", "sort"):
        given = {keyword.arg: keyword for keyword in e.keywords}
        first = 0 if is_method else 1
        for axis in ("-1", "0", "1", "2", "-2", "None"):
            new = ast.Call(e.func, e.args[:first] + [parse(axis)], [word for name, word in given.items()
                                                                 if name != "axis"])
            yield instead("another axis", new)
            if "keepdims" not in given:
                yield instead("another axis and keepdims=True", ast.Call(e.func, new.args, [
                    *new.keywords, ast.keyword("keepdims", ast.Constant(True))]))
        if "keepdims" not in given:
            yield instead("keepdims=True", ast.Call(e.func, e.args, [*e.keywords,
                                                                     ast.keyword("keepdims", ast.Constant(True))]))
    if name == "concatenate" or name == "stack":
        for axis in ("-1", "0", "1", "2"):
            yield instead("another axis", ast.Call(e.func, [*e.args[:1], parse(axis)], []))


def of_lines(place, statement, names, callables):
    """A line less, at another place, further in or out; another kind of assignment; the opposite condition."""
    if not isinstance(statement, ast.stmt):
        return
    holder, field, i = place
    if i is None or isinstance(statement, ast.FunctionDef):
        return
    block = getattr(holder, field)
    if not isinstance(statement, ast.Return):
        yield "without this line", {place: ast.copy_location(ast.Pass(), statement)}
    if i + 1 < len(block):
        yield "this line one later", {place: block[i + 1], (holder, field, i + 1): statement}
    if isinstance(statement, ast.AugAssign):
        for other in (ast.Add, ast.Sub, ast.Mult, ast.Div):
            if not isinstance(statement.op, other):
                yield f"another operator than {sign(statement.op)}=", {(statement, "op", None): other()}
        yield "= instead", {place: with_lines(ast.Assign([statement.target], statement.value), statement)}
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 \
            and isinstance(statement.targets[0], (ast.Name, ast.Subscript)):
        yield "+= instead", {place: with_lines(ast.AugAssign(statement.targets[0], ast.Add(), statement.value),
                                               statement)}
    if isinstance(statement, (ast.If, ast.While)):
        negated = with_lines(ast.UnaryOp(ast.Not(), statement.test), statement.test)
        yield "the opposite condition", {(statement, "test", None): negated}
    if isinstance(statement, (ast.For, ast.While, ast.If)) and statement.body:
        body = statement.body
        if len(body) > 1:                                   # its last line moves out of the block
            yield "its last line outside of it", {(statement, "body", None): body[:-1], (holder, field, None): [
                *block[:i + 1], body[-1], *block[i + 1:]]}
        if i + 1 < len(block):                              # the next line moves into the block
            yield "the next line inside of it", {(statement, "body", None): [*body, block[i + 1]], (
                holder, field, None): [*block[:i + 1], *block[i + 2:]]}
            inner = body[-1]
            if isinstance(inner, (ast.For, ast.While, ast.If)):
                yield "the line after it inside of its inner block", {
                    (inner, "body", None): [*inner.body, block[i + 1]],
                    (holder, field, None): [*block[:i + 1], *block[i + 2:]]}


def around(place, e, names, callables):
    """Something around an expression: a sign, a root, a constant, exchanged axes, one of the functions."""
    if not isinstance(e, (ast.BinOp, ast.Name, ast.Call, ast.Attribute, ast.Subscript, ast.IfExp, ast.Compare)):
        return
    if isinstance(place[0], ast.Attribute) or (isinstance(place[0], ast.Call) and place[1] == "func"):
        return
    text = ast.unparse(e)
    for form, words in AROUND:
        yield words, {place: with_lines(parse(form.format(text)), e)}
    for name in callables:
        yield f"{name} of it", {place: with_lines(parse(f"{name}({text})"), e)}


def added(place, e, names, callables):
    """A term or a factor more: x + ..., ... * weight."""
    holder, field, _ = place
    if not isinstance(e, ast.expr) or isinstance(e, (ast.Slice, ast.Constant)) or isinstance(holder, ast.Attribute):
        return
    whole = isinstance(holder, (ast.Assign, ast.AugAssign, ast.Return, ast.Call, ast.BinOp)) \
        or (isinstance(holder, ast.Tuple) and field == "elts")
    if not whole or (isinstance(holder, ast.Call) and field == "func"):
        return
    for name in names:
        for operator, words in ((ast.Add, f"{name} added"), (ast.Mult, f"{name} as one more factor"),
                                (ast.Sub, f"{name} subtracted"), (ast.Div, f"a division by {name}")):
            yield words, {place: with_lines(ast.BinOp(e, operator(), ast.Name(name, ast.Load())), e)}
