"""What can be wrong with a kernel or its call. Each sentence begins with file and line where they are known."""
from ...errors import UserError


class KernelError(UserError):
    """A kernel that cannot be run or that failed. line: of its source, or None."""

    def __init__(self, sentence, line=None):
        super().__init__(sentence)
        self.line = line


class CompileError(KernelError):
    """The source is not valid CUDA C, or uses what the CPU runner does not emulate."""


class ArgumentError(KernelError):
    """Arguments, a grid or a block that the kernel does not take."""


class RaceError(KernelError):
    """Two threads access one place, at least one of them writes, and nothing orders the two accesses."""


class OutOfBoundsError(KernelError):
    """An access outside of all arrays that the kernel was given."""


class BarrierError(KernelError):
    """Threads wait for each other and will never meet: divergent barriers, deadlocks, lanes missing from a mask."""


class UninitializedError(KernelError):
    """A read of shared memory that no thread of the block has written."""


class AlignmentError(KernelError):
    """An access at an address that is not a multiple of its size."""
