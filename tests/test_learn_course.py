"""Every exercise can be solved, every stub and every known mistake is noticed, every hint is there."""
import time

import numpy as np
import pytest

from tinycogvlm.kernels.runner import build
from tinycogvlm.learn import child, diagnose, learner
from tinycogvlm.learn.course import HINTS, Mine, lessons
from tinycogvlm.learn.lessons import EXERCISES

LESSONS = [lesson for lesson in lessons() if lesson.exercise]
NAMES = [name for lesson in LESSONS for name in lesson.functions]
DOCSTRINGS = {name: text for lesson in LESSONS for name, text in lesson.functions.items()}
needs_runner = pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))


def solvable(names):
    return [pytest.param(name, marks=needs_runner if EXERCISES[name].kernel else ()) for name in names]


def check(name, function):
    with np.errstate(all="ignore"):
        return diagnose.check(EXERCISES[name], function, DOCSTRINGS[name])


def test_every_function_of_a_lesson_is_an_exercise_and_the_reverse():
    assert sorted(NAMES) == sorted(EXERCISES)
    assert all(1 <= len(lesson.functions) <= 6 for lesson in LESSONS)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_names_the_axes(name):
    if EXERCISES[name].kernel:
        return
    inputs, results = diagnose.letters(DOCSTRINGS[name])
    label, arguments = next(iter(EXERCISES[name].contract.cases()))
    right = EXERCISES[name].contract.spec(**arguments)
    assert len(results) == (len(right) if isinstance(right, tuple) else 1)
    assert {key for key, value in arguments.items() if isinstance(value, np.ndarray)} <= set(inputs)


@pytest.mark.parametrize("lesson", [lesson for lesson in LESSONS if lesson.exercise.suffix == ".py"],
                         ids=lambda lesson: lesson.number)
def test_a_stub_takes_what_the_contract_gives(lesson):
    names = {}
    exec(compile(lesson.exercise.read_text(encoding="utf-8"), str(lesson.exercise), "exec"), names)
    for name in lesson.functions:
        for _, arguments in EXERCISES[name].contract.cases():
            with pytest.raises(NotImplementedError):
                names[name](**arguments)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.number)
def test_an_exercise_is_all_stubs(lesson):
    assert learner.written(lesson.exercise) == dict.fromkeys(lesson.functions, 0)


@pytest.mark.parametrize("lesson", [lesson for lesson in LESSONS if lesson.exercise.suffix == ".py"],
                         ids=lambda lesson: lesson.number)
def test_the_solution_passes(lesson):
    """In the form of the exercise: the same functions, in their order, with the same parameters."""
    solution, exercise = lesson.folder / "solution.py", lesson.exercise
    assert list(learner.written(solution)) == list(lesson.functions)
    heads = [[line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("def ")]
             for path in (solution, exercise)]
    assert heads[0] == heads[1]
    for name, function in learner.load(solution).items():
        assert check(name, function.own) == [], name


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.number)
def test_every_stub_is_called_one(lesson, tmp_path):
    rows, mine = [], Mine(tmp_path)
    mine.start(lesson)
    child.check_lesson(lesson, mine, list(lesson.functions), lambda **facts: rows.append(facts))
    assert [(row["name"], row["state"]) for row in rows if "name" in row] == [
        (name, "not written") for name in lesson.functions]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.number)
def test_three_hints_for_each_function(lesson):
    assert list(lesson.hints) == list(lesson.functions)
    for hints in lesson.hints.values():
        assert len(hints) == len(set(hints)) == HINTS
        assert all(isinstance(hint, str) and len(hint) > 20 for hint in hints)


@pytest.mark.parametrize("name", solvable(NAMES))
def test_the_package_passes(name):
    start = time.process_time()
    assert check(name, EXERCISES[name].package) == []
    assert diagnose.recognise(EXERCISES[name], EXERCISES[name].package) is None
    assert time.process_time() - start < 5                  # most take far less: a lesson's checks under 10 s


@pytest.mark.parametrize("name, mistake", [pytest.param(name, mistake, id=f"{name}-{mistake.make.__name__}")
                                           for name in NAMES for mistake in EXERCISES[name].mistakes])
def test_a_planted_mistake_is_recognised(name, mistake):
    lines = check(name, rounded(mistake))
    assert lines and lines[0] == mistake.sentence


def rounded(mistake):
    """The mistake as another person would make it: in the type of the inputs, with other last digits."""
    def function(**arguments):
        y = mistake.make(**arguments)
        of = next((value.dtype for value in arguments.values()
                   if isinstance(value, np.ndarray) and value.dtype.kind == "f"), float)

        def touched(part):
            part = np.asarray(part)
            return (part * (1 + 1e-9)).astype(of) if part.dtype.kind == "f" else part
        return tuple(map(touched, y)) if isinstance(y, tuple) else touched(y)
    return function


def test_many_mistakes_are_known():
    assert len({mistake.sentence for exercise in EXERCISES.values() for mistake in exercise.mistakes}) >= 200
    assert all(exercise.mistakes for exercise in EXERCISES.values())


def test_a_wrong_function_that_is_no_known_mistake_gets_no_sentence():
    lines = check("rms_norm", lambda x, weight, eps: np.tanh(x) * 7 + np.cumsum(weight) * eps)
    assert lines[0].startswith("2 of 2 entries of the result are wrong")
