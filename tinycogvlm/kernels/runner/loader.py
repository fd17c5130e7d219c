"""kernels.load: a kernel of a .cu file as a function, on NumPy arrays (CPU) and on CuPy arrays (GPU)."""
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path

from ...nn.swap import op
from . import build, cpu, gpu, source
from .errors import ArgumentError, CompileError, KernelError

opened = lru_cache(maxsize=None)(cpu.Library)               # a learner's file is read again for each launch, not opened


@op
def load(path_or_source, name, check=None, order="forward", seed=0, stepping=False):
    """kernel(grid, block, args, shared_mem=0), called as CuPy's RawKernel is, for NumPy and for CuPy arrays.

    path_or_source: a .cu file, or its text. name: of the kernel, with template arguments if it has any:
    "gemm<float, 16>". The rest concerns NumPy arrays, whose kernels run on the CPU:
    check="race": watch every access, and raise RaceError, OutOfBoundsError or UninitializedError with file and line;
    slow, for small sizes. Afterwards `kernel.lines` says what each line did to memory (see profile.py).
    order: in which the threads of a block and the blocks run: "forward", "backward", "shuffled" (by `seed`, anew after
    each barrier). A kernel whose result depends on it is wrong.
    stepping: the kernel shows its shared arrays to step.py.
    """
    if check not in (None, "race"):
        raise ArgumentError(f'check={check!r}: None or "race"')
    if order not in cpu.ORDERS:
        raise ArgumentError(f"order={order!r}: one of {', '.join(cpu.ORDERS)}")
    is_text = isinstance(path_or_source, str) and ("\n" in path_or_source or "__global__" in path_or_source)
    if is_text:
        return Kernel(path_or_source, name, "/kernel source", "source", Path.cwd(), check, order, seed, stepping)
    path = Path(path_or_source)
    if path.parent == source.HERE:
        return ours(path, changed(path), name, check, order, seed, stepping)
    return of_file(path, name, check, order, seed, stepping)


def of_file(path, name, *modes):
    return Kernel(read(path), name, str(path.absolute()), str(path), path.absolute().parent, *modes)


@lru_cache(maxsize=None)
def ours(path, changed, name, *modes):
    """A model calls a thousand of ours for one token; the file is read again when it has changed."""
    return of_file(path, name, *modes)


def changed(path):
    with suppress(OSError):                                 # `read` has the sentence for that
        return path.stat().st_mtime_ns


def read(path):
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise KernelError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise KernelError(f"{path}: no text in UTF-8") from None


class Kernel:
    """A kernel, compiled at its first call. lines: [(file, line, cpu.Line)] of the last call that was checked."""

    def __init__(self, text, name, label, shown, folder, check=None, order="forward", seed=0, stepping=False):
        self.text, self.name, self.label, self.shown, self.folder = text, name, label, shown, folder
        self.check, self.order, self.seed, self.stepping = check, order, seed, stepping
        self.lines = []
        known = source.kernels(text)
        base = name.partition("<")[0].strip().rpartition("::")[2]
        if base not in known:
            has = f"it has {', '.join(known)}" if known else "it has no __global__ function"
            raise KernelError(f"{shown}: no kernel is called {name!r}; {has}")
        head = source.template_heads(text)[base]
        if head and "<" not in name:
            raise KernelError(f"{shown}: {name} is a {head}: give its arguments, as in {name}<float>")

    def __call__(self, grid, block, args, shared_mem=0):
        if any(map(gpu.is_gpu_array, args)):
            if self.check or self.order != "forward":
                raise ArgumentError("check and order are of kernels that run on the CPU: give NumPy arrays")
            gpu.launch(self.text, self.folder, self.name, grid, block, args, shared_mem)
        else:
            self.lines = self.library.launch(grid, block, args, shared_mem, self.order, self.seed, self.check == "race")

    @cached_property
    def library(self):
        """The kernel for the CPU, compiled."""
        names = source.parameter_names(self.text, self.name.partition("<")[0].strip().rpartition("::")[2])
        served = source.siblings(self.text, self.name)
        try:
            path = self.compiled(served)
        except CompileError:
            if served == [self.name]:
                raise
            served = [self.name]                            # what is wrong may be a sibling
            path = self.compiled(served)
        return opened(path, served.index(self.name), self.name, self.label, self.shown, tuple(names))

    def compiled(self, names):
        return build.library(self.text, self.label, self.shown, names, self.folder, self.check == "race", self.stepping)

    @property
    def parameters(self):
        """[arguments.Parameter] of the kernel."""
        return self.library.parameters
