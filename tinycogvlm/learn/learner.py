"""The learner's files: read, run, and shown when they fail, with nothing of this package in the traceback."""
import ast
import importlib.abc
import importlib.util
import linecache
import re
import traceback
from pathlib import Path
from types import ModuleType

from ..errors import UserError
from ..kernels import KernelError
from ..kernels.runner import loader
from ..kernels.runner import source as cuda_source
from ..nn.swap import op, swapped
from . import course
from .lessons import EXERCISES

FRAMES = 4
LONGEST = 2000                                              # characters of an error's text that are shown
KERNEL = r"__global__\s+void\s+(?:__launch_bounds__\s*\(.*\)\s+)?(\w+)\s*\([^)]*\)\s*\{"
NOT_NEEDED = ("torch", "tensorflow", "jax", "transformers")
ADVICE = (                                                  # what is said of an error whose text has this
    (r"matmul: .*mismatch in its core dimension",
     "In a @ b the last axis of a is as long as the last but one of b. To exchange the last two axes of an array with "
     "more than two, use .swapaxes(-1, -2): .T reverses them all."),
    (r"could not be broadcast together|non-broadcastable",
     "Shapes are aligned at their right ends, and two sizes must be equal, or one of them 1. After sum, mean or max "
     "over an axis keepdims=True keeps it, with size 1."),
    (r"einstein sum.*'\.\.\.' ellipsis", "einsum does not sum over '...': make the leading axes one first, with "
                                         ".reshape(-1, x.shape[-1])."),
    (r"'tuple' object has no attribute|unsupported operand.*'tuple'",
     "The package's operations return two things, the result and its pullback; take the first: "
     "y, _ = linear(x, weight)."),
    (r"all the input array", "concatenate joins arrays along one axis, axis=0 if none is named. They need equally many "
                              "axes, and the same sizes along all the others: x[None] puts an axis in front."),
    (r"cannot reshape array of size", "reshape keeps the numbers: the product of the new sizes is the product of the old "
                                      "ones. What does not fill a whole row or patch has to be cut off before."),
    (r"index -?\d+ is out of bounds|index out of range", "An index is past the end: how long is it, and does the loop "
                                                         "stop before? A label such as -100 is no index."),
    (r"boolean index did not match", "A mask has the shape of the axes that it picks from: x[mask] with x (B, T, D) and "
                                     "mask (B, T)."),
    (r"shape mismatch: value array", "What is assigned to x[mask] has a row for each True, in order: reshape it so."),
    (r"not callable", "Something that is no function is called: is an operator such as * missing before a bracket, or "
                      "is a variable named like a function?"),
    (r"'NoneType'", "None stands for what is not there: ask `if bias is not None` before it is used."),
    (r"division by zero|ZeroDivision", "Division by 0: is this a case that the text treats by itself?"),
    (r"truth value of an array", "An array is no single truth value: use & and | for `and` and `or`, np.where or a mask "
                                 "for `if`; .any() or .all() if one answer is wanted."),
    (r"einstein sum|einsum", "In einsum each letter is an axis: as many letters as the array has axes, and the same "
                             "letter for the same size."),
    (r"only length-1 arrays|only 0-dimensional arrays|inhomogeneous|setting an array element",
     "An array came where one number is wanted, or rows of different lengths were put into one array."),
    (r"must be integer|only integers|as an integer|slice indices", "A size or an index has to be a whole number: // "
                                                                  "divides without a fraction."),
    (r"name '\w+' is not defined", "Python knows no such name here: is it spelled as above, and set in every branch?"),
    (r"cannot unpack|too many values|not enough values", "The number of names on the left is not the number of values "
                                                         "on the right: print the shape."),
    (r"axis \d+ is out of bounds", "The array has fewer axes than that: print its shape. Axes count from 0; -1 is the "
                                   "last."),
    (r"unhashable type: 'numpy.ndarray'", "A decorator such as lru_cache cannot look up arrays: leave it away."))


class LearnerError(UserError):
    """What the learner's code raised: its own lines, then the error."""


class NotNeeded(importlib.abc.MetaPathFinder):
    """Refuses to import frameworks that do the exercise by themselves."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NOT_NEEDED:
            raise ImportError(f"{name} is not needed: NumPy alone does all of this course")
        return None


def source(path):
    """The text of a learner's file: UTF-8, with or without a byte order mark, or what its coding line names."""
    data = course.read(path)
    if path.suffix == ".cu":
        return cuda_source.read(path)
    try:
        return importlib.util.decode_source(data)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LearnerError(f"{path}:{line}: not UTF-8 (byte {data[error.start]:#04x}); save the file in UTF-8"
                           ) from None
    except SyntaxError as error:                            # a coding line that names no encoding
        raise LearnerError(f"{path}:1: {error.msg}") from None


def parsed(path):
    try:
        return ast.parse(source(path), str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise failure(error, path) from None


def written(path):
    """{name: its line, or 0 if its body is still missing} of the functions in a learner's file"""
    if path.suffix == ".py":
        return {node.name: 0 if is_stub(node) else node.lineno for node in parsed(path).body
                if isinstance(node, ast.FunctionDef)}
    text, found = source(path), {}
    for kernel in re.finditer(KERNEL, text):
        body = re.sub(r"//.*", "", text[kernel.end():])
        found[kernel[1]] = 0 if body.lstrip().startswith("}") else text.count("\n", 0, kernel.start()) + 1
    return found


def called(path):
    """{function: the names that its body uses} of a Python file"""
    return {node.name: {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            for node in parsed(path).body if isinstance(node, ast.FunctionDef)}


def is_stub(node):
    """A docstring, and then nothing, `...`, `pass` or raise NotImplementedError"""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return all(isinstance(statement, ast.Pass) or "NotImplementedError" in ast.unparse(statement)
               or ast.unparse(statement) == "..." for statement in body)


def load(path):
    """{exercise: op} of those in the file. A Python file is run; a CUDA file's kernels become functions."""
    names = [name for name in written(path) if name in EXERCISES]
    if path.suffix == ".cu":
        return {name: kernel(name, path) for name in names}
    module = ModuleType(f"mine_{path.stem}")
    module.__file__ = str(path)
    try:
        exec(compile(parsed(path), str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        raise failure(error, path) from None
    functions = {name: op(getattr(module, name)) for name in names if callable(getattr(module, name, None))}
    vars(module).update(functions)                          # so that the file's functions call each other as ops
    return functions


def kernel(name, path, **options):
    """The exercise's function, launched as the package launches its own, but with the learner's kernel.

    options: of kernels.load, such as check="race".
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
    said = sentence(error)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return LearnerError(f"{path}:{error.lineno}\n    {(error.text or '').strip()}\n{said}")
    linecache.checkcache(str(path))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_of(frame.filename, path)]
    lines = []
    for frame in frames[-FRAMES:]:
        lines += [f"{path}:{frame.lineno}, in {frame.name}", f"    {frame.line}"]
    advice = [text for pattern, text in ADVICE if re.search(pattern, said)]
    return LearnerError("\n".join([*lines, said, *advice[:1]]))


def sentence(error):
    """TypeError: its text, which may be long, or raise an error itself"""
    kind = type(error).__name__
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:
        text = ""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} ... ({len(text):,} characters)"
    return f"{kind}: {text}" if text else kind


def is_of(filename, path):
    return Path(filename).absolute() == Path(path).absolute()
