"""What can be wrong with a kernel or its call; each sentence begins with file and line where they are known."""
from ...errors import UserError


class KernelError(UserError):
    """A kernel that cannot be run or that failed; `line` is the line of its source, or None."""

    def __init__(self, sentence, line=None):
        super().__init__(sentence)
        self.line = line


class CompileError(KernelError):
    """The source is no CUDA C, or uses what the CPU runner does not play."""


class ArgumentError(KernelError):
    """Not the arguments, the grid or the block that the kernel takes."""


class RaceError(KernelError):
    """Two threads touch one place, one of them writes, and nothing puts the two in an order."""


class OutOfBoundsError(KernelError):
    """An access outside of every array that was given to the kernel."""


class BarrierError(KernelError):
    """Threads that wait for each other will never meet: divergent barriers, deadlocks, lanes missing in a mask."""


class UninitializedError(KernelError):
    """Shared memory is read before any thread of the block has written it."""


class AlignmentError(KernelError):
    """An access at an address that is not a multiple of its size."""
