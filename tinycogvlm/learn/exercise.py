"""What an exercise is: a contract, the package's own code for it, its place in the model, and the known mistakes.

    SOFTMAX = Exercise(CONTRACTS["softmax"], forward(ops.softmax), (ops.softmax,), part="softmax")

    @SOFTMAX.mistake("The sum is missing: these are exp(x - max), which do not sum to 1.")
    def not_normalised(x):
        return np.exp(x - x.max(-1, keepdims=True))

A learner's function that returns a mistake's numbers in the contract's cases, and not the right ones, has made that
mistake, and its sentence is said. A mistake takes the exercise's arguments by name; it may raise ValueError where it
does not apply.
"""
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from ..contracts.contract import Contract
from ..kernels.library import launch
from ..kernels.runner.source import HERE
from ..nn.tree import Gradients


@dataclass(frozen=True)
class Mistake:
    sentence: str
    make: Callable


@dataclass(frozen=True)
class Exercise:
    """A function that learners write.

    package: takes the contract's arguments and computes the result with the package's own code, never a swapped one.
    shown:   the package's objects or files to read.
    part:    which part of the model it is; two exercises that are the same part count once. None: not a part of it.
    place:   the op that the learner's function replaces, or None if only other functions call it.
    fit:     (the learner's function, what runs in that place otherwise) -> what runs there instead.
    runs:    "answer", or "gradient" if only a training step calls it.
    kernel:  the package's .cu file whose kernel the learner's replaces.
    toy:     the arguments of the lesson's own small example, which is shown first if the function is wrong there.
    mistakes: [Mistake], the first that fits is said.
    """
    contract: Contract
    package: Callable
    shown: tuple
    part: str | None = None
    place: Callable | None = None
    fit: Callable | None = None
    runs: str = "answer"
    kernel: str | None = None
    toy: dict | None = None
    mistakes: list = field(default_factory=list)

    @property
    def name(self):
        return self.contract.name

    @property
    def dtypes(self):
        """The types that are checked, the most exact first; for a kernel the one that it computes in."""
        order = ("float32", "float16") if self.kernel else ("float64", "float32")
        known = [dtype for dtype in order if dtype in self.contract.tolerance]
        return known[:1] if self.kernel else known

    @property
    def toys(self):
        """The contract for the lesson's example alone"""
        return replace(self.contract, cases=lambda: [("as in the lesson", self.toy)] if self.toy else [])

    def mistake(self, sentence):
        """Decorate a function that makes a mistake. Several exercises may share it."""
        def note(make):
            self.mistakes.append(Mistake(sentence, make))
            return make
        return note


def forward(op, **fixed):
    """The package's op without its pullback."""
    return lambda *arguments, **named: op.own(*arguments, **named, **fixed)[0]


def no_pullback(mine, otherwise):
    """A fit: the function as an op for answers, which need no pullback."""
    return lambda *arguments, **named: (mine(*arguments, **named), None)


def as_it_is(mine, otherwise):
    """A fit: the function itself."""
    return mine


def pullback(op, *wanted):
    """The package's pullback as a function of dy and the op's arguments -> the gradients `wanted` (by default dx)."""
    def package(dy=1.0, **arguments):
        _, pull = op.own(**arguments)
        if "weight" not in arguments:
            return pull(dy)
        g = Gradients(("weight", "bias"))
        found = {"x": pull(dy, g), **g.leaves}
        return tuple(found[name] for name in wanted)
    return package


def of_op(contract, op, **more):
    """An op that learners write as it is."""
    return Exercise(contract, forward(op), (op,), contract.name, op, no_pullback, **more)


def of_kernel(contract, launcher, file, *place, **more):
    """A kernel of a file of kernels/library, launched as the package launches its own. place: part, place and fit."""
    return Exercise(contract, launcher, (HERE / file,), *place, kernel=file, **more)


def of_version(contract, kernel, version, *more, **named):
    """One version of a kernel that the library has in several."""
    return of_kernel(contract, partial(getattr(launch, kernel), version=version), *more, **named)
