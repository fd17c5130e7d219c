"""What the cells of a lesson's notebook call: a command line, and the check of an exercise."""
import inspect
import linecache
import shlex

from ..errors import UserError
from ..learn.course import Mine, lesson
from .main import main
from .say import echo

KEPT = {}                                                   # {file: the text that this process wrote there last}


def terminal(line):
    """Run a command line, such as "tinycogvlm learn hint 02"; what it prints comes below the cell."""
    main(shlex.split(line)[1:])


def check(number, *written):
    """Keep what a notebook's cells say as the learner's file of a lesson, and check it.

    written: the functions of the exercise, of which the cells are kept whole, or the text of the kernels. If the file
    says something else that this notebook has not written, it is kept under another name.
    """
    chosen, mine = lesson(number), Mine()
    cells = dict.fromkeys(part if isinstance(part, str) else cell(part) for part in written)
    text, file = "\n\n".join(cells).strip("\n") + "\n", mine.file(chosen)
    if backup := mine.keep(chosen, text, KEPT.get(file, ())):
        echo(f"{file} said something else; it is kept as {backup}\n")
    KEPT[file] = [text]
    terminal(f"tinycogvlm learn check {number}")


def cell(function):
    """The text of the cell in which a function was written"""
    code = getattr(inspect.unwrap(function), "__code__", None)
    lines = linecache.getlines(code.co_filename) if code and not function.__module__.startswith("tinycogvlm.") else []
    if not lines:
        raise UserError(f"{getattr(function, '__name__', function)} is not written in a cell of this notebook; run the "
                        "cell of the exercise, then this one")
    return "".join(lines)
