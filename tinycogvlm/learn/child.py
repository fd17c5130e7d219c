"""What runs in a process of its own: the learner's code under its checks, and in the model.

    main()      sys.argv: "check" or "show", the learner's folder, the lesson, the file for the report, the file for
                tracebacks, the limit in seconds

The report is one JSON object a line, written as it comes, so that a crash loses nothing of what was found before it.
"""
import faulthandler
import inspect
import json
import os
import sys
from contextlib import suppress

import numpy as np

from ..errors import UserError
from ..nn.swap import op
from . import parts
from .course import Mine, lesson
from .diagnose import arguments_of, check
from .lessons import EXERCISES
from .learner import NotNeeded, failure, kernel, load, written

MEMORY = 8 << 30
QUESTION = "Where is the dog?"


def main():
    job, folder, number, report, trace, seconds = sys.argv[1:]
    with open(trace, "w") as trace, open(report, "w", encoding="utf-8") as report:
        faulthandler.enable(trace)
        faulthandler.dump_traceback_later(float(seconds), exit=True, file=trace)
        leave, os._exit = os._exit, lambda code=0: sys.exit(f"os._exit({code})")        # so that its line can be shown
        limit_memory()
        sys.meta_path.insert(0, NotNeeded())

        def say(**facts):
            print(json.dumps(facts), file=report, flush=True)
        {"check": check_lesson, "show": show_lesson}[job](lesson(number), Mine(folder), say)
        say(done=True)
        sys.stdout.flush()
        leave(0)                                            # threads that the learner's code has left running end here


def limit_memory():
    with suppress(ImportError, ValueError, OSError):        # Windows has no such limit
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def check_lesson(lesson, mine, say):
    """{"name", "state", "lines"} of every function; state: "passes", "wrong", "missing", "not written"."""
    path = mine.file(lesson)
    try:
        bodies, functions = written(path), {}
        if any(bodies.values()):
            say(running="the file")
            functions = load(path)
    except UserError as error:
        return say(name=None, state="wrong", lines=str(error).splitlines())
    for name, docstring in lesson.functions.items():
        say(running=name)
        if name not in bodies:
            say(name=name, state="missing", lines=[f"{path} has no function {name}; tinycogvlm learn reset "
                                                   f"{lesson.number} brings it back and keeps what you have."])
        elif not bodies[name]:
            say(name=name, state="not written", lines=[])
        else:
            lines = wrong(name, functions[name], path, docstring)
            say(name=name, state="wrong" if lines else "passes", lines=lines)


def wrong(name, function, path, docstring):
    """Lines that say what is wrong, or []"""
    exercise, last = EXERCISES[name], {}
    if exercise.kernel:
        ways = [kernel(name, path, check="race"), kernel(name, path, order="shuffled")]
    else:
        ways = [function]
        if said := other_parameters(function, exercise):
            return [said]
    for way in ways:
        def noted(**arguments):
            last.clear()
            last.update(arguments)
            return way(**arguments)
        try:
            with np.errstate(all="ignore"):                 # numbers are judged, not warnings
                if lines := check(name, exercise, noted, docstring):
                    return lines
        except (Exception, SystemExit) as error:
            return [*str(failure(error, path)).splitlines(), f"with {arguments_of(last)}"]
    return []


def other_parameters(function, exercise):
    try:
        for _, arguments in exercise.contract.cases():
            inspect.signature(function).bind(**arguments)
    except TypeError:
        return (f"{function.__name__}{inspect.signature(function)} cannot be called with {', '.join(arguments)}: "
                "keep the parameters of the exercise.")


def show_lesson(lesson, mine, say):
    """The model answers through the learner's functions, those of this lesson and all others."""
    from ..loading import load as load_model
    model, picture = load_model(), parts.park()
    functions, report = parts.mine(mine.folder, lesson, mine.progress["passed"]), {}
    own = [name for name in lesson.functions if EXERCISES[name].part and name in functions]
    theirs = {name: parts.Counted(op(EXERCISES[name].package)) for name in own}
    try:
        if any(EXERCISES[name].runs == "answer" for name in own):
            with parts.installed(of(theirs, "answer")):
                right = model.ask(picture, QUESTION)
            with parts.installed(of(functions, "answer")):
                answer = model.ask(picture, QUESTION)
            report = {"question": QUESTION, "answer": answer.text, "package": right.text, "picture": str(picture),
                      "sentence": parts.sentence(functions)}
        if any(EXERCISES[name].runs == "gradient" for name in own):
            report["gradient"] = gradients(model, picture, of(functions, "gradient"))
            with parts.installed(of(theirs, "gradient")):
                step(model, picture)
    except UserError as error:
        return say(lines=str(error).splitlines())
    def took(mine, package):
        """[calls, seconds, the package's for as many or None]"""
        return [mine.calls, mine.seconds, package.seconds * mine.calls / package.calls if package.calls else None]
    say(**report, calls={name: took(functions[name], theirs[name]) for name in own if functions[name].calls})


def of(functions, runs):
    return {name: function for name, function in functions.items() if EXERCISES[name].runs == runs}


def step(model, picture):
    """The gradient of every parameter for one answer about the picture."""
    inputs = model.inputs(QUESTION, picture)
    _, pull = model.loss(inputs, np.where(inputs.types == 0, inputs.ids, -100))
    return pull()


def gradients(model, picture, functions):
    """How far the gradients through the learner's functions are from the package's, relative to the largest."""
    right = step(model, picture)
    with parts.installed(functions):
        found = step(model, picture)
    count = sum(array.size for array in right.values())
    return [count, max(float(np.abs(found[name] - right[name]).max() / max(np.abs(right[name]).max(), 1e-30))
                       for name in right)]
