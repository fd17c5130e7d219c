"""The learner's functions in the model: put in, counted, taken out again."""
import ctypes
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..nn.swap import current, swapped
from .course import Mine, lessons
from .learner import LearnerError, failure, load, sentence as error_sentence, written
from .lessons import EXERCISES

PARTS = {exercise.part for exercise in EXERCISES.values() if exercise.part and exercise.runs == "answer"}
LONGEST = 60                                                # seconds that a call may take in a command


class TooLong(BaseException):
    """What limited() raises in a call that takes too long; no `except Exception` of the learner's stops it."""

    def __str__(self):
        return f"stopped after {LONGEST} seconds: an endless loop?"


class Counted:
    """An op whose calls are counted and timed. What it raises is a LearnerError if `path` names its file."""

    def __init__(self, op, path=None, name=None):
        self.op, self.path, self.name, self.calls, self.seconds = op, path, name, 0, 0.0
        self.since = None                                   # when the call that is running began
        self.ended = 0.0                                    # when the last one ended

    def __call__(self, *arguments, **named):
        start = self.since = time.perf_counter()
        try:
            y = self.op.own(*arguments, **named)
        except (Exception, SystemExit, TooLong) as error:
            if self.path is None:
                raise
            raise failure(error, self.path) from None
        finally:
            self.since, self.ended = None, time.perf_counter()
            self.calls += 1
            self.seconds += self.ended - start
        if y is None and self.path:
            raise LearnerError(f"{self.path}: {self.name} returned nothing: is there a return?")
        return y


def mine(own, last=None, names=EXERCISES, runs=None):
    """{exercise: Counted} of every function in the learner's folder that has a body and is one of `names`.

    own: course.Mine. runs: only those that run in an "answer", or in a "gradient". Raises UserError if there are none.

    Calls of one of them from another are counted, too. Where two are the same part, such as RMSNorm and its kernels,
    the model gets the one that comes later; so those of the lesson `last` come at the end.
    """
    found = {}
    for lesson in sorted(lessons(), key=lambda lesson: lesson == last):
        meant = [name for name in lesson.functions if name in names and runs in (None, EXERCISES[name].runs)]
        if not meant or not own.begun(lesson):
            continue
        path = own.file(lesson)
        bodies = written(path)
        meant = [name for name in meant if bodies.get(name)]
        functions = load(path) if meant else {}
        found |= {name: Counted(functions[name], path, name) for name in meant if name in functions}
    if not found:
        what = "no function" if names is EXERCISES else f"none of {', '.join(names)}"
        raise UserError(f"{own.folder}: {what} is written there yet; tinycogvlm learn says how to begin")
    return found


def doubts(own, functions):
    """Sentences on the functions that may be wrong: they have not passed, or their file has changed since."""
    progress, sentences = own.progress, []
    if left := [name for name in functions if name not in progress["passed"]]:
        sentences.append(f"{', '.join(left)}: not passed yet")
    for lesson in lessons():
        if own.begun(lesson) and set(lesson.functions) & set(functions) & set(progress["passed"]) \
                and own.digest(lesson) != progress["checked"].get(own.file(lesson).name):
            sentences.append(f"{own.file(lesson)}: changed since the last check; "
                             f"tinycogvlm learn check {lesson.number}")
    return sentences


def unchecked(own, functions):
    """The names of those that have not passed as they are now"""
    progress = own.progress
    return [name for lesson in lessons() for name in lesson.functions if name in functions and not (
        name in progress["passed"] and own.digest(lesson) == progress["checked"].get(own.file(lesson).name))]


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


@contextmanager
def in_the_model(say):
    """Inside the `with`, a command's model computes with all the learner's functions; say(text) comments on them."""
    own = Mine()
    functions = mine(own, runs="answer")
    for doubt in doubts(own, functions):
        say(f"tinycogvlm: {doubt}")
    with explained(functions), limited(functions), installed(functions):
        yield
    say(f"{sentence(functions)}; {calls(functions)}")


@contextmanager
def explained(functions):
    """Inside the `with`, an error in the model names the function whose result does not fit."""
    try:
        yield
    except (KeyboardInterrupt, UserError, MemoryError, OSError):
        raise
    except (Exception, TooLong) as error:
        last = max(functions.values(), key=lambda function: function.ended)
        raise LearnerError(f"{last.path}: the model cannot go on after {last.name} ({error_sentence(error)}); "
                           "tinycogvlm learn check says what is wrong") from None


@contextmanager
def limited(functions):
    """A call of one of these functions that takes more than LONGEST seconds ends in TooLong."""
    over, caller = threading.Event(), ctypes.c_ulong(threading.get_ident())

    def watch():
        while not over.wait(min(1, LONGEST)):
            now = time.perf_counter()
            if any(now - (function.since or now) > LONGEST for function in functions.values()):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(caller, ctypes.py_object(TooLong))
                return
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def ran(functions):
    """The parts of the model that ran through these Counted functions."""
    return {EXERCISES[name].part for name, function in functions.items()
            if function.calls and EXERCISES[name].runs == "answer"} - {None}


def sentence(functions):
    """11 of 28 parts of this answer ran through your code"""
    return f"{len(ran(functions))} of {len(PARTS)} parts of this answer ran through your code"


def calls(functions):
    """calls: 162 of rms_norm, 72 of swiglu"""
    counts = [f"{function.calls} of {name}" for name, function in functions.items() if function.calls]
    return "calls: " + (", ".join(counts) or "none")


def park():
    """The picture that every function of a learner is tried on."""
    return Path(lessons()[0].folder).parent / "images" / "park.png"
