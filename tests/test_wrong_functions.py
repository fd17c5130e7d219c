"""Of the wrong functions that learners write, how many get words."""
from collections import Counter

import pytest

from tinycogvlm.kernels.runner import build
from tinycogvlm.learn import slips
from tinycogvlm.learn.lessons import EXERCISES
from wrong import has_words, wrong_functions

SAMPLE = ("weight is not transposed", "order of the results", "MEAN", "divided by the largest, not the sum", "k.T",
          "no residual at all", "not halved", "gate twice and gelu forgotten", "pairs as sets", "sum for mean",
          "top_k ignored", "all images have type 1", "keys and values exchanged", "only the first head of k and v",
          "exchanged", "ascent", "width for all", "one row only")
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


def test_wrong_functions_of_every_lesson_get_words(tmp_path):
    """A quick sample of those that need no search in the code."""
    assert share([wrong for wrong in WRONG if wrong.what in SAMPLE], tmp_path) == 1


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1, 2])
def test_most_wrong_functions_get_words(tmp_path, monkeypatch, part):
    """Every third was not looked at while the diagnosis was written: it has to do as well by them."""
    monkeypatch.setattr(slips, "PATIENCE", float("inf"))
    assert share(WRONG[part::3], tmp_path) >= 0.85
