"""What runs in a process of its own: the learner's code under its checks, and in the model.

    main()      sys.argv: "check", "show", "try" or "train", the learner's folder, the lesson, which of its functions, the file
                for the report, the file for tracebacks, the limit in seconds

The report is one JSON object a line, written as it comes, so that a crash loses nothing of what was found before it.
"""
import ast
import faulthandler
import inspect
import json
import os
import sys
from contextlib import suppress

import numpy as np

from ..errors import UserError
from ..kernels.runner.errors import CompileError
from ..loading import load as load_model
from ..nn.swap import op, swapped
from ..world.scenes import scene
from . import parts
from . import train as training
from .course import Mine, lesson, lessons
from .diagnose import arguments_of, check
from .experiments import QUESTIONS, answers
from .learner import NotNeeded, called, failure, kernel, load, parsed, written
from .lessons import EXERCISES
from .slips import is_harmless, slips

MEMORY = 8 << 30


def main():
    job, folder, number, names, report, trace, seconds = sys.argv[1:]
    with open(trace, "w") as trace, open(report, "w", encoding="utf-8") as report:
        faulthandler.enable(trace)
        leave, os._exit = os._exit, lambda code=0: sys.exit(f"os._exit({code})")        # so that its line can be shown
        limit_memory()
        sys.meta_path.insert(0, NotNeeded())

        def say(**facts):
            """Report the facts; {"running": what} comes before anything that may not return within the limit."""
            print(json.dumps(facts), file=report, flush=True)
            if "running" in facts:
                faulthandler.dump_traceback_later(float(seconds), exit=True, file=trace)
        job = {"check": check_lesson, "show": show_lesson, "try": try_lesson, "train": train}[job]
        job(lesson(number), Mine(folder), names.split(), say)
        say(done=True)
        sys.stdout.flush()
        leave(0)                                            # threads that the learner's code has left running end here


def limit_memory():
    with suppress(ImportError, ValueError, OSError):        # Windows has no such limit
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def check_lesson(lesson, mine, names, say):
    """{"name", "state", "lines"} of each of the functions; state: "passes", "wrong", "missing" or "not written"."""
    path = mine.file(lesson)
    try:
        bodies, functions = written(path), {}
        if any(bodies.values()):
            say(running="the file")
            functions = load(path)
        judge = Judge(lesson, path, bodies, functions)
    except UserError as error:
        return say(name=None, state="wrong", lines=str(error).splitlines())
    for name in names:
        say(running=name)
        if name not in bodies:
            say(name=name, state="missing", lines=[missing(name, bodies, lesson, path)])
        elif not bodies[name]:
            say(name=name, state="not written", lines=[])
        else:
            lines = judge.lines(name)
            say(name=name, state="wrong" if lines else "passes", lines=lines)
            if lines and not lines[0].startswith("It calls"):
                say(running=name)                           # a search that may end the process: the lines are out
                say(name=name, state="wrong", lines=judge.wrong(name, search=True))


def missing(name, bodies, lesson, path):
    """What is said of a function that is not in the file."""
    from difflib import get_close_matches
    strange = [found for found in bodies if found not in lesson.functions]
    if near := get_close_matches(name, strange, 1):
        return f"{path} has no function {name}, but one called {near[0]}: rename it."
    if path.suffix == ".py":
        return f"{path} has no function {name}; tinycogvlm learn start {lesson.number} adds it at the end."
    return (f"{path} has no function {name}; tinycogvlm learn reset {lesson.number} gives you a fresh file and keeps "
            "yours under another name.")


class Judge:
    """What is wrong with the functions of one file, each checked once."""

    def __init__(self, lesson, path, bodies, functions):
        self.lesson, self.path, self.bodies, self.functions, self.known = lesson, path, bodies, functions, {}
        self.called = called(path) if path.suffix == ".py" else {}

    def wrong(self, name, search=False):
        return wrong(name, self.functions.get(name), self.path, self.lesson.functions[name], search)

    def lines(self, name):
        """Lines that say what is wrong, or []. A function that only calls a wrong one is told so."""
        if name not in self.known:
            self.known[name] = found = self.wrong(name)
            if found and (faulty := self.at_fault(name)):
                why = "is wrong" if self.bodies[faulty[0]] else "is not written yet"
                self.known[name] = [f"It calls {faulty[0]}, which {why}. With the package's {' and '.join(faulty)} it "
                                    "passes."]
        return self.known[name]

    def at_fault(self, name):
        """The wrong and unwritten functions of the file that `name` calls, if it passes with the package's instead."""
        others = [other for other in self.functions if other != name and other in self.called.get(name, ())]
        if not others:
            return []
        with swapped({self.functions[other]: EXERCISES[other].package for other in others}):
            if self.wrong(name):
                return []
        self.known[name] = []                               # should one of them call this one
        return [other for other in others if not self.bodies[other] or self.lines(other)]


def wrong(name, function, path, docstring, search=True):
    """Lines that say what is wrong, or []. search: look for slips in the code, too, which takes seconds."""
    exercise, last = EXERCISES[name], {}

    def look(label=None):
        if exercise.kernel or not search or not is_harmless(parsed(path)):
            return None
        solution = lesson_of(name).folder / "solution.py"
        return slips(tree(path, name), inspect.unwrap(function.own).__globals__, exercise,
                     (tree(solution, name), load(solution)[name].own.__globals__), label)
    if exercise.kernel:
        function = None                                     # takes what it is given; its parameters are the kernel's
        ways = [kernel(name, path, check="race"), kernel(name, path, order="shuffled")]
    elif function is None:
        return [f"{name} is not a function once the file has run."]
    else:
        ways = [function]
        if said := other_parameters(name, function, exercise):
            return [said]
    for way in ways:
        def noted(way=way, **arguments):
            last.clear()
            last.update(arguments)
            return way(**arguments)
        try:
            with np.errstate(all="ignore"):                 # numbers are judged, not warnings
                if lines := check(exercise, noted, docstring, look):
                    return lines
        except (Exception, SystemExit) as error:
            lines = str(failure(error, path)).splitlines()
            if isinstance(error, CompileError):
                return ["The file does not compile, so none of its kernels runs:", *lines]
            with np.errstate(all="ignore"):
                said = look() if isinstance(error, Exception) else None
            return [*lines, *([said] if said else []), f"with {arguments_of(last, function)}"]
    return []


def tree(path, name):
    """The syntax tree of a function in a file"""
    return next(node for node in parsed(path).body if isinstance(node, ast.FunctionDef) and node.name == name)


def lesson_of(name):
    return next(lesson for lesson in lessons() if name in lesson.functions)


def other_parameters(name, function, exercise):
    """What is said of a function that cannot be called as the exercise's is, or None."""
    try:
        signature = inspect.signature(function)
        for _, arguments in exercise.contract.cases():
            signature.bind(**arguments)
    except TypeError:
        return f"{name}{signature} cannot be called with {', '.join(arguments)}: keep the parameters of the exercise."
    except ValueError:                                      # a built-in function has none
        return None


def show_lesson(lesson, mine, names, say):
    """The model answers through the learner's functions, these and those of other lessons that have passed."""
    functions = parts.mine(mine, lesson, mine.progress["passed"])
    if lesson.name == "boxes_in_words":
        return show_box(functions, say)
    ask_through(functions, names, QUESTIONS[1:2], say)


def show_box(functions, say):
    """Report where the model says that a thing is, in pixels and beside the true box, through the learner's functions."""
    say(running="")
    drawn = scene("test", 1, (1, 1))
    [thing], (height, width, _) = drawn.things, drawn.picture.shape
    question, true = f"Where is the {thing.name}?", drawn.thousandths(thing)
    answer = load_model().ask(drawn.picture, question)
    try:
        say(question=question, answer=answer.text, width=width, height=height,
            boxes=[([float(edge) for edge in functions["to_pixels"](box=box, width=width, height=height)],
                    float(functions["iou"](a=box, b=true))) for box in answer.boxes])
    except UserError as error:
        say(lines=str(error).splitlines())


def try_lesson(lesson, mine, names, say):
    """The model answers through the lesson's functions, right or wrong."""
    try:
        functions = parts.mine(mine, lesson, names)
    except UserError as error:
        return say(lines=str(error).splitlines())
    ask_through(functions, names, QUESTIONS, say)


def train(lesson, mine, names, say):
    """{"name", "lines"} of each function that is wrong; then what came out of a training through all of them."""
    try:
        functions = training.pieces(mine)
        for name in parts.unchecked(mine, functions):
            say(running=name)
            path = functions[name].path
            judge = Judge(lesson_of(name), path, written(path), load(path))
            if lines := judge.lines(name):
                say(name=name, lines=lines)
        say(running="")
        report = training.compare(functions, beat=lambda: say(running=""))
    except UserError as error:
        return say(lines=str(error).splitlines())
    say(**report, alike=training.alike(report["mine"], report["package"]), pieces=list(functions),
        missing=[name for name in training.PIECES if name not in functions])


def ask_through(functions, names, questions, say):
    """Report the answers, and gradients, through these functions and the package's; the calls of those with `names`."""
    say(running="")
    model, picture = load_model(), parts.park()
    own, report = [name for name in names if EXERCISES[name].part and name in functions], {}
    theirs = {name: parts.Counted(op(EXERCISES[name].package)) for name in own}
    try:
        if any(EXERCISES[name].runs == "answer" for name in own):
            with parts.installed(of(theirs, "answer")):
                right = answers(model, picture, questions)
            with np.errstate(all="ignore"), parts.explained(functions), parts.installed(of(functions, "answer")):
                mine = answers(model, picture, questions)
            report = {"answers": list(zip(questions, mine, right)), "picture": str(picture),
                      "sentence": parts.sentence(functions)}
        if any(EXERCISES[name].runs == "gradient" for name in own):
            with np.errstate(all="ignore"), parts.explained(functions):
                report["gradient"] = gradients(model, picture, of(functions, "gradient"))
            with parts.installed(of(theirs, "gradient")):
                step(model, picture)
    except UserError as error:
        return say(lines=str(error).splitlines())

    def took(name):
        """[calls, seconds, the package's for as many or None, the learner's functions of the same part that did not run]"""
        mine, package = functions[name], theirs[name]
        return [mine.calls, mine.seconds, package.seconds * mine.calls / package.calls if package.calls else None,
                [other for other, function in functions.items()
                 if EXERCISES[other].part == EXERCISES[name].part and not function.calls]]
    say(**report, calls={name: took(name) for name in own if functions[name].calls})


def of(functions, runs):
    return {name: function for name, function in functions.items() if EXERCISES[name].runs == runs}


def step(model, picture):
    """The gradient of every parameter for one answer about the picture."""
    inputs = model.inputs(QUESTIONS[1], picture)
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
