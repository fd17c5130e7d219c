"""The learner's files: read, run, and shown when they fail, with nothing of this package in the traceback."""
import ast
import importlib.abc
import importlib.util
import linecache
import re
import traceback
from pathlib import Path

from ..errors import UserError
from ..kernels import KernelError
from ..kernels.runner import loader, source
from ..nn.swap import op, swapped
from .lessons import EXERCISES

FRAMES = 4
KERNEL = r"__global__\s+void\s+(?:__launch_bounds__\s*\(.*\)\s+)?(\w+)\s*\([^)]*\)\s*\{"
NOT_NEEDED = ("torch", "tensorflow", "jax", "transformers")


class LearnerError(UserError):
    """What the learner's code raised: its own lines, then the error."""


class NotNeeded(importlib.abc.MetaPathFinder):
    """Says no to frameworks that do the exercise by themselves."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NOT_NEEDED:
            raise ImportError(f"{name} is not needed: NumPy alone does all of this course")
        return None


def written(path):
    """{name: its line, or 0 if its body is still missing} of the functions in a learner's file"""
    if path.suffix == ".py":
        text = path.read_text(encoding="utf-8")
        try:
            tree = ast.parse(text, str(path))
        except (SyntaxError, ValueError) as error:
            raise failure(error, path) from None
        return {node.name: 0 if is_stub(node) else node.lineno for node in tree.body
                if isinstance(node, ast.FunctionDef)}
    text, found = source.read(path), {}
    for kernel in re.finditer(KERNEL, text):
        body = re.sub(r"//.*", "", text[kernel.end():])
        found[kernel[1]] = 0 if body.lstrip().startswith("}") else text.count("\n", 0, kernel.start()) + 1
    return found


def is_stub(node):
    """A docstring, and then nothing, `...`, `pass` or raise NotImplementedError"""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return all(isinstance(statement, ast.Pass) or "NotImplementedError" in ast.unparse(statement)
               or ast.unparse(statement) == "..." for statement in body)


def load(path):
    """{exercise: op} of those in the file; a Python file is run, a CUDA file's kernels become functions."""
    if path.suffix == ".cu":
        return {name: kernel(name, path) for name in written(path) if name in EXERCISES}
    names = [name for name in written(path) if name in EXERCISES]
    spec = importlib.util.spec_from_file_location(f"mine_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise failure(error, path) from None
    functions = {name: op(getattr(module, name)) for name in names if callable(getattr(module, name, None))}
    vars(module).update(functions)                          # so that the file's functions call each other as ops
    return functions


def kernel(name, path, **options):
    """The exercise's function, launched as the package launches its own, with the learner's kernel in the place of it.

    options: of kernels.load, as check="race".
    """
    exercise = EXERCISES[name]

    @op
    def run(*arguments, **named):
        def load(file, kernel_name, **more):
            is_mine = file.name == exercise.kernel and kernel_name.partition("<")[0] == name
            return loader.load.own(path if is_mine else file, kernel_name, **more)
        with swapped({loader.load: load}):
            return exercise.package(*arguments, **named, **options)
    return run


def failure(error, path):
    """The LearnerError that says what happened in the file at `path`, and where."""
    if isinstance(error, LearnerError):
        return error
    if isinstance(error, KernelError):
        return LearnerError(str(error))
    kind = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines = [f"{path}:{error.lineno}", f"    {(error.text or '').strip()}", f"{kind}: {error.msg}"]
        return LearnerError("\n".join(lines))
    linecache.checkcache(str(path))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_of(frame.filename, path)]
    lines = []
    for frame in frames[-FRAMES:]:
        lines += [f"{path}:{frame.lineno}, in {frame.name}", f"    {frame.line}"]
    return LearnerError("\n".join([*lines, f"{kind}: {error}" if str(error) else kind]))


def is_of(filename, path):
    return Path(filename).absolute() == Path(path).absolute()
