"""The learner's functions in the model: put in, counted, taken out again."""
import time
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..nn.swap import current, swapped
from .course import Mine, lessons
from .lessons import EXERCISES
from .learner import failure, load, written

PARTS = {exercise.part for exercise in EXERCISES.values() if exercise.part and exercise.runs == "answer"}


class Counted:
    """An op whose calls are counted and timed. What it raises is a LearnerError if `path` names its file."""

    def __init__(self, op, path=None):
        self.op, self.path, self.calls, self.seconds = op, path, 0, 0.0

    def __call__(self, *arguments, **named):
        start = time.perf_counter()
        try:
            return self.op.own(*arguments, **named)
        except Exception as error:
            if self.path is None:
                raise
            raise failure(error, self.path) from None
        finally:
            self.calls += 1
            self.seconds += time.perf_counter() - start


def mine(folder=None, last=None, names=EXERCISES, runs=None):
    """{exercise: Counted} of every function in the learner's folder that has a body and is one of `names`.

    runs: only those that run in an "answer", or in a "gradient". UserError if there are none.

    Calls of one of them from another are counted, too. Where two are the same part, as RMSNorm and its kernels, the
    model gets the one that comes later; so those of the lesson `last` come at the end.
    """
    own, found = Mine(folder), {}
    for lesson in sorted(lessons(), key=lambda lesson: lesson == last):
        meant = [name for name in lesson.functions if name in names and runs in (None, EXERCISES[name].runs)]
        if not meant or not own.begun(lesson):
            continue
        path = own.file(lesson)
        bodies = written(path)
        meant = [name for name in meant if bodies.get(name)]
        functions = load(path) if meant else {}
        for name in meant:
            found[name] = Counted(functions[name], path)
    if not found:
        raise UserError(f"{own.folder}: no function is written there yet; tinycogvlm learn says how to begin")
    return found


@contextmanager
def installed(functions):
    """Inside the `with`, the model computes with these functions: {exercise: function}."""
    calls_of_each_other = {function.op: function for function in functions.values() if isinstance(function, Counted)}
    with swapped(calls_of_each_other | fitted(functions)):
        yield functions


def fitted(functions):
    """{op: what runs in its place}. Where two functions have the same place, the later is fitted over the earlier."""
    found = {}
    for name, function in functions.items():
        exercise = EXERCISES[name]
        if exercise.place:
            before = found.get(exercise.place) or current(exercise.place)
            found[exercise.place] = exercise.fit(function, before)
    return found


def ran(functions):
    """The parts of the model that ran through these Counted functions."""
    return {EXERCISES[name].part for name, function in functions.items()
            if function.calls and EXERCISES[name].runs == "answer"} - {None}


def sentence(functions):
    """11 of 38 parts of this answer ran through your code"""
    return f"{len(ran(functions))} of {len(PARTS)} parts of this answer ran through your code"


def calls(functions):
    """calls: 162 of rms_norm, 72 of swiglu"""
    counts = [f"{function.calls} of {name}" for name, function in functions.items() if function.calls]
    return "calls: " + (", ".join(counts) or "none")


def park():
    """The picture that every function of a learner is tried on."""
    return Path(lessons()[0].folder).parent / "images" / "park.png"
