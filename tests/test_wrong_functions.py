"""Of the wrong functions that learners write, how many get words."""
from collections import Counter

import pytest

from tinycogvlm.kernels.runner import build
from tinycogvlm.learn.lessons import EXERCISES
from wrong import has_words, wrong_functions

WRONG = [wrong for wrong in wrong_functions() if not (EXERCISES[wrong.name].kernel and build.cpu_runner())]


def share(functions, folder):
    """The share of these that get words; those that get none are printed."""
    silent = []
    for function in functions:
        lines = function.said(folder)
        assert lines, f"{function.name}: {function.what}: passes"
        if not has_words(lines):
            silent.append(function)
            print(f"{function.name}: {function.what}\n    " + "\n    ".join(lines))
    return 1 - len(silent) / len(functions)


def test_every_exercise_has_wrong_functions():
    counts = Counter(wrong.name for wrong in wrong_functions())
    assert counts.keys() == EXERCISES.keys() and min(counts.values()) >= 3


@pytest.mark.slow
def test_most_wrong_functions_get_words(tmp_path):
    assert share(WRONG, tmp_path) >= 0.55
