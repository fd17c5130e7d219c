"""The exercises of the course. Each lesson NN_name that has one has its file name.py here, with its exercises.

To add one: a stub in lessons/NN_name/exercise.py, whose docstring's letters name the axes; three hints in hints.json; a
solution in solution.py; and an Exercise here, with its contract (an op's own, or a specification in this file) and the
known mistakes.
"""
from importlib import import_module
from pkgutil import iter_modules

from ..exercise import Exercise

EXERCISES = {value.name: value for module in iter_modules(__path__)
             for value in vars(import_module(f"{__name__}.{module.name}")).values() if isinstance(value, Exercise)}
