"""Small bugs drawn by a fixed seed are planted one at a time, and some test must fail for each: tests/planting.py.

A bug that lives shows what no test looks at: write that test, or list the bug in EQUIVALENT with the reason why nothing
changes. Each is tried on the tests of its file alone, RELATED, so that all of them take four minutes on two cores.
"""
import re
from functools import lru_cache

import pytest

from planting import ROOMS, drawn, planted

SEED, MOST = 1, 8

# The first pattern that a file matches: the tests it is tried on, the quickest to find something first.
RELATED = (
    ("nn/", "test_ops.py test_swap.py test_gradients.py test_trace.py test_model.py"),
)

# (file, function, the line, what would be written): why no test can tell
EQUIVALENT = {
}


def related(bug):
    files = next(tests for pattern, tests in RELATED if re.match(pattern, bug.file))
    return [f"tests/{name}" for name in files.split()]


@lru_cache
def bugs_of(room):
    return drawn(room, SEED, MOST, EQUIVALENT)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(MOST))
@pytest.mark.parametrize("room", ROOMS)
def test_some_test_fails(room, number):
    bug = bugs_of(room)[number]
    assert planted(bug, related(bug)) is not None, f"no test of {related(bug)} finds {bug}\n{bug.text}"
