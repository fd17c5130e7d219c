"""The table of known mistakes, and how one enters it.

    @mistake("rms_norm", says="The root is missing: this divides by the mean square.")
    def root_missing(x, weight, eps): ...

A learner's function that returns a mistake's numbers on the contract's cases, and not the right ones, has made it, and
the sentence is said. Each takes the exercise's arguments by name. It may raise ValueError where it does not apply.
"""
from dataclasses import dataclass
from typing import Callable

from ..exercises import EXERCISES


@dataclass(frozen=True)
class Mistake:
    exercise: str
    sentence: str
    make: Callable


MISTAKES = []


def mistake(*exercises, says):
    """Note the decorated function as a mistake in these exercises. The first in the table that fits is said."""
    def note(make):
        MISTAKES.extend(Mistake(exercise, says, make) for exercise in exercises)
        return make
    return note


def right(exercise, **arguments):
    """The package's answer, for a mistake to start from."""
    return EXERCISES[exercise].package(**arguments)
