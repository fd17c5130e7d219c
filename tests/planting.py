"""Small bugs to plant: drawn from a list of operators by a seed, one at a time, each a change of a few characters.

    python tests/planting.py [--seed 1] [--room nn] [--most 8] [--jobs 2]      plant them and tell what lives

A bug's place in the draw is a hash of the seed, its file, function and text, so that an edit elsewhere draws the same bugs.
"""
import argparse
import ast
import compileall
import hashlib
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinycogvlm"
ROOMS = ("nn", "model", "inputs", "storage", "train", "world", "kernels")
SECONDS = 60                                                # a test that takes longer is in an endless loop: found


@dataclass(frozen=True)
class Bug:
    """`before` at characters [start, end) of a file of the package becomes `after`."""
    file: str
    function: str
    line: int
    operator: str
    start: int
    end: int
    before: str
    after: str
    text: str                                               # the line it is in

    def __str__(self):
        return f"{self.file}:{self.line} in {self.function}, {self.operator}: {self.before!r} -> {self.after!r}"

    def rank(self, seed):
        what = f"{seed}|{self.file}|{self.function}|{self.operator}|{self.text}|{self.before}|{self.after}"
        return hashlib.sha256(what.encode()).hexdigest()


# --------------------------------------------------------------------------------------------------------- Python

SIGNS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.FloorDiv: ("//", "/")}
BOUNDS = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
          ast.NotEq: ("!=", "==")}
DTYPES = {"float32": "float16", "float64": "float32", "int64": "int32", "int32": "int16", "uint8": "int8"}
QUIET = ("say", "progress", "print", "warn", "debug", "add_argument")   # calls whose words are not what is computed


class Sites(ast.NodeVisitor):
    """Collects (operator, start, end, after) of a module, messages left out."""

    def __init__(self, source):
        self.source, self.found, self.names = source, [], []
        starts, position = [0], 0
        for line in source.splitlines(keepends=True):
            position += len(line)
            starts.append(position)
        self.lines, self.starts = source.splitlines(), starts

    def at(self, line, column):
        text = self.lines[line - 1].encode()[:column].decode()
        return self.starts[line - 1] + len(text)

    def span(self, node):
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)

    def add(self, operator, node, start, end, after):
        self.found.append((operator, ".".join(self.names) or "<module>", node.lineno, start, end, after))

    def between(self, operator, left, right, before, after):
        start, end = self.span(left)[1], self.span(right)[0]
        place = self.source.find(before, start, end)
        if place >= 0:
            self.add(operator, right, place, place + len(before), after)

    def inside(self, node):
        self.names.append(node.name)
        self.defaults(node)
        for child in node.body:
            if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
                self.visit(child)
        self.names.pop()

    def visit_ClassDef(self, node):
        self.names.append(node.name)
        for child in node.body:
            self.visit(child)
        self.names.pop()

    def visit_FunctionDef(self, node):
        if node.name not in ("__repr__", "__str__"):
            self.inside(node)

    def defaults(self, node):
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if isinstance(default, ast.Constant) and isinstance(default.value, (bool, int, float)):
                value = default.value
                after = str(not value) if isinstance(value, bool) else repr(value + 1)
                self.add("default", default, *self.span(default), after)

    def visit_Raise(self, node):
        pass

    def visit_Assert(self, node):
        pass

    def visit_JoinedStr(self, node):
        pass

    def visit_AnnAssign(self, node):
        if node.value:
            self.visit(node.value)

    def visit_BinOp(self, node):
        if type(node.op) in SIGNS and not any(isinstance(side, (ast.JoinedStr, ast.Constant)) and isinstance(
                getattr(side, "value", ""), str) for side in (node.left, node.right)):
            self.between("sign", node.left, node.right, *SIGNS[type(node.op)])
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            start, _ = self.span(node)
            self.add("sign", node, start, start + 1, "")
        self.generic_visit(node)

    def visit_Compare(self, node):
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators):
            if type(op) in BOUNDS:
                self.between("bound", left, right, *BOUNDS[type(op)])
        self.generic_visit(node)

    def visit_Subscript(self, node):
        if isinstance(node.slice, ast.Slice):
            for bound in (node.slice.lower, node.slice.upper):
                if isinstance(bound, ast.Constant) and isinstance(bound.value, int):
                    self.add("bound", bound, *self.span(bound), str(bound.value + 1))
        self.generic_visit(node)

    def visit_Attribute(self, node):
        if node.attr in DTYPES:
            start, end = self.span(node)
            self.add("dtype", node, end - len(node.attr), end, DTYPES[node.attr])
        self.generic_visit(node)

    def visit_Call(self, node):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in QUIET:
            return
        for keyword in node.keywords:
            if keyword.arg == "axis" and isinstance(keyword.value, (ast.Constant, ast.UnaryOp)):
                start, end = self.span(keyword.value)
                self.add("axis", keyword.value, start, end, "-1" if self.source[start:end] == "0" else "0")
        if name in ("sum", "max", "min", "mean", "argmax", "cumsum", "concatenate", "swapaxes") and node.args and not \
                node.keywords and isinstance(node.func, ast.Attribute) and \
                isinstance(last := node.args[-1], (ast.UnaryOp, ast.Constant)):
            start, end = self.span(last)
            self.add("axis", last, start, end, "-2" if self.source[start:end] == "-1" else "0")
        if name == "wide" and len(node.args) == 1:
            start, end = self.span(node)
            self.add("dtype", node, start, end, self.source[slice(*self.span(node.args[0]))])
        simple = [argument for argument in node.args if isinstance(argument, (ast.Name, ast.Attribute))]
        if len(simple) >= 2 and name not in ("isinstance", "getattr", "setattr", "zip", "max", "min"):
            one, two = simple[:2]
            (a, b), (c, d) = self.span(one), self.span(two)
            if self.source[a:b] != self.source[c:d]:
                self.add("swapped argument", node, a, d, self.source[c:d] + self.source[b:c] + self.source[a:b])
        self.generic_visit(node)

    def drop(self, node):
        self.add("dropped line", node, *self.span(node), "pass")

    def visit_AugAssign(self, node):
        self.drop(node)
        self.generic_visit(node)

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Call):
            name = getattr(node.value.func, "attr", getattr(node.value.func, "id", ""))
            if name not in QUIET:
                self.drop(node)
        self.generic_visit(node)

    def visit_If(self, node):
        if "__name__" in ast.dump(node.test):
            return
        if isinstance(node.body[0], ast.Raise):             # a check of the input: dropped as a whole
            start, end = self.span(node.test)
            self.add("dropped line", node, start, end, "False")
        self.generic_visit(node)


def in_python(source):
    sites = Sites(source)
    sites.visit(ast.parse(source))
    return sites.found


# ----------------------------------------------------------------------------------------------------------- CUDA

IN_CUDA = (("sign", r"(?<=[\w\])]) \+ (?=[\w(])", " - "), ("sign", r"(?<=[\w\])]) - (?=[\w(])", " + "),
           ("bound", r"(?<=[\w\])]) < (?=[\w(])", " <= "), ("bound", r"(?<=[\w\])]) >= (?=[\w(])", " > "),
           ("axis", r"threadIdx\.x", "threadIdx.y"), ("axis", r"blockIdx\.x", "blockIdx.y"),
           ("dtype", r"\bfloat (?=\w+ = )", "int "), ("dropped line", r"(?<=\n)\s*__syncthreads\(\);", ""),
           ("swapped argument", r"\bfmaxf\(", "fminf("))


def in_cuda(source):
    code = re.sub(r"//[^\n]*|/\*.*?\*/|#[^\n]*", lambda match: re.sub(r"[^\n]", " ", match[0]), source, flags=re.S)
    found = []
    for operator, pattern, after in IN_CUDA:
        for match in re.finditer(pattern, code):
            kernels = re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)", code[:match.start()])
            if kernels:
                found.append((operator, kernels[-1], code.count("\n", 0, match.end()) + 1, *match.span(), after))
    return found


# ----------------------------------------------------------------------------------------------------------- draw

# It makes the sheets of pictograms from other projects' packages; what it made is tested
NOT_RUN = PACKAGE / "world" / "render_hands.py"


def bugs(room):
    """Every bug that could be planted in a folder of the package."""
    found = []
    for path in sorted({*(PACKAGE / room).rglob("*.py"), *(PACKAGE / room).rglob("*.cu")} - {NOT_RUN}):
        source, file = path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
        lines = source.splitlines()
        for operator, function, line, start, end, after in (in_python if path.suffix == ".py" else in_cuda)(source):
            found.append(Bug(file, function, line, operator, start, end, source[start:end], after, lines[line - 1].strip()))
    return found


def drawn(room, seed, most=8, left_out=()):
    """`most` bugs of a folder: the first of every operator, then whatever comes next; those of `left_out` are passed over."""
    ranked = sorted((bug for bug in bugs(room) if key(bug) not in left_out), key=lambda bug: bug.rank(seed))
    first = {bug.operator: bug for bug in reversed(ranked)}
    chosen = [bug for bug in ranked if first[bug.operator] is bug]
    return (chosen + [bug for bug in ranked if bug not in chosen])[:most]


def key(bug):
    """What the list of equivalent bugs knows a bug by."""
    return bug.file, bug.function, bug.text, bug.after


@contextmanager
def checkout():
    """A copy of the checkout, to plant bugs in one at a time: Python's bytecode and compiled kernels last for all of them."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        shutil.copytree(PACKAGE, folder / "tinycogvlm", ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(folder / "tinycogvlm", quiet=2)
        for path in ROOT.iterdir():
            if path.name != "tinycogvlm" and not path.name.startswith("."):
                (folder / path.name).symlink_to(path)
        yield folder


def planted(bug, tests, folder):
    """Run pytest's arguments `tests` in a copy of the checkout with the bug in it -> the last lines of pytest, or None if
    every test passed: the bug lives."""
    file, source = folder / "tinycogvlm" / bug.file, (PACKAGE / bug.file).read_text(encoding="utf-8")
    file.write_text(source[:bug.start] + bug.after + source[bug.end:], encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache"),
                   "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--no-header",
               "--rootdir", str(folder), "-o", f"faulthandler_timeout={SECONDS}", *tests]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=5 * SECONDS)
    except subprocess.TimeoutExpired:                       # outside of a test
        return f"no end within {5 * SECONDS} s"
    finally:
        file.write_text(source, encoding="utf-8")
    lines = done.stdout.strip().splitlines()
    if done.returncode in (0, 5):
        return None
    return "\n".join(line for line in lines if line.startswith(("FAILED", "ERROR", "E  ")))[-300:] or done.stderr[-300:]


def main():
    from test_planted_bugs import EQUIVALENT, related
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--room", action="append", choices=ROOMS)
    parser.add_argument("--most", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool, ExitStack() as stack:
        folders = queue.SimpleQueue()
        for _ in range(options.jobs):
            folders.put(stack.enter_context(checkout()))

        def tried(bug):
            folder = folders.get()
            try:
                return planted(bug, related(bug), folder)
            finally:
                folders.put(folder)

        for room in options.room or ROOMS:
            chosen = drawn(room, options.seed, options.most, EQUIVALENT)
            for bug, said in zip(chosen, pool.map(tried, chosen)):
                last = "LIVES" if said is None else "found by " + said.splitlines()[0][:100]
                print(f"{bug}\n    {bug.text}\n    {last}", flush=True)


if __name__ == "__main__":
    main()
