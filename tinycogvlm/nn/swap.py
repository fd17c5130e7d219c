"""Which function an op runs: its own, or the one that `swapped` puts in its place.

A swap is seen by the thread that made it and ends with its `with`. A thread started inside begins without it, unless
it is run in a copy of the context (contextvars.copy_context().run).
"""
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps

_swaps = ContextVar("swaps", default={})                    # {op: the function that runs in its place}  # noqa: B039


def op(function):
    """Decorate a function or method that may be swapped. `op.own` is the function itself, whatever is swapped."""
    @wraps(function)
    def run(*arguments, **named):
        return _swaps.get().get(run, function)(*arguments, **named)
    run.own = function
    return run


def current(op):
    """The function that runs now when `op` is called: op.own unless it is swapped."""
    return _swaps.get().get(op, op.own)


@contextmanager
def swapped(functions):
    """Inside the `with`, each op of {op: function} runs that function, which takes and returns what the op does.

    A function that calls what it replaces calls `op.own`. Do not yield from a generator inside the `with`: the swap
    would hold for the generator's caller, too.
    """
    for op in functions:
        if not hasattr(op, "own"):
            raise TypeError(f"{op!r} is not an op: decorate it with @op")
    token = _swaps.set({**_swaps.get(), **functions})
    try:
        yield
    finally:
        _swaps.reset(token)
