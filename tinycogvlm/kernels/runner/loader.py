"""kernels.load: a kernel of a .cu file as a function, on NumPy arrays (CPU) and on CuPy arrays (GPU)."""
from functools import cache, cached_property
from pathlib import Path

from ...nn.swap import current, op
from . import build, cpu, gpu, source
from .errors import ArgumentError, CompileError, KernelError

opened = cache(cpu.Library)                                 # a learner's file is read for each launch, opened once
kept = {}                                                   # what load_ours returned


@op
def load(path_or_source, name, check=None, order="forward", seed=0, stepping=False, constants=None, defines=None):
    """kernel(grid, block, args, shared_mem=0), called as CuPy's RawKernel is, for NumPy and for CuPy arrays.

    path_or_source: a .cu file, or its text. name: of the kernel, with template arguments if it has any:
    "gemm<float, 16>". constants: {name: array} for __constant__ variables without values in the source. defines:
    {macro: value}. On the CPU the file is compiled to a program of this machine and runs in this process, with all that
    the user may do: load only files that you would run. The rest concerns NumPy arrays:
    check="race": watch every access, and raise RaceError, OutOfBoundsError or UninitializedError with file and line;
    slow, for small sizes. Afterwards `kernel.lines` says what each line did to memory (see profile.py).
    order: in which the threads of a block and the blocks run: "forward", "backward" or "shuffled" (by `seed`, and
    again after each barrier). A kernel whose result depends on it is wrong.
    stepping: the kernel shows its shared arrays to step.py.
    """
    if check not in (None, "race"):
        raise ArgumentError(f'check={check!r}: None or "race"')
    if order not in cpu.ORDERS:
        raise ArgumentError(f"order={order!r}: one of {', '.join(cpu.ORDERS)}")
    is_text = isinstance(path_or_source, str) and ("\n" in path_or_source or "__global__" in path_or_source)
    if is_text:
        return Kernel(path_or_source, name, "/kernel source", "source", Path.cwd(), check, order, seed, stepping,
                      constants, defines)
    path = Path(path_or_source)
    return Kernel(source.read(path), name, str(path.absolute()), str(path), path.absolute().parent, check, order, seed,
                  stepping, constants, defines)


def load_ours(file, name, **options):
    """load(HERE / file, name, **options) for the package's launchers. A picture takes a thousand launches: the file is
    read once in a process."""
    if current(load) is not load.own:                       # it may be a learner's kernel
        return load(source.HERE / file, name, **options)
    key = (file, name, *options.items())
    if key not in kept:
        kept[key] = load.own(source.HERE / file, name, **options)
    return kept[key]


class Kernel:
    """A kernel, compiled at its first call. lines: [(file, line, cpu.Line)] of the last call that was checked."""

    def __init__(self, text, name, label, shown, folder, check, order, seed, stepping, constants, defines):
        self.constants = constants or {}
        self.macros = "".join(f"#define {macro} {value}\n" for macro, value in (defines or {}).items())
        self.text, self.name, self.label, self.shown, self.folder = text, name, label, shown, folder
        self.check, self.order, self.seed, self.stepping = check, order, seed, stepping
        self.lines, self.declared = [], source.kernels(text)
        self.base = name.partition("<")[0].strip().rpartition("::")[2]
        if self.base not in self.declared:                  # a macro may declare it, or a header
            self.declared |= source.kernels(build.expanded(self.macros + text, folder))
        if self.base not in self.declared:
            has = f"it has {', '.join(self.declared)}" if self.declared else "it has no __global__ function"
            raise KernelError(f"{shown}: no kernel is called {name!r}; {has}")
        template = self.declared[self.base].template
        if template and "<" not in name:
            raise KernelError(f"{shown}: {name} is a {template}: give its arguments, as in {name}<float>")

    def __call__(self, grid, block, args, shared_mem=0):
        kinds = gpu.kinds(*map(type, args))
        if kinds[0]:                                        # arrays of CuPy
            if self.check or self.order != "forward":
                raise ArgumentError("check and order are of kernels that run on the CPU: give NumPy arrays")
            gpu.launch(self, kinds, grid, block, args, shared_mem)
        else:
            room = self.library.static + shared_mem <= source.MOST_SHARED      # with all that its siblings declare
            self.lines = (self.library if room else self.alone).launch(
                grid, block, args, shared_mem, self.order, self.seed, self.check == "race", constants=self.constants)

    @cached_property
    def for_gpu(self):
        """The text, and in a comment a hash of its headers: CuPy keeps compiled kernels under their text alone."""
        text = f"{self.macros}#line 1\n{self.text}" if self.macros else self.text
        return f"{text}\n// {build.digest(*source.local_includes(self.text, self.folder).values())}\n"

    @cached_property
    def library(self):
        """The kernel for the CPU, compiled."""
        served = source.siblings(self.declared, self.name)
        try:
            library = self.compiled(served)
        except CompileError:
            if served == [self.name]:
                raise
            return self.alone                               # a sibling may be wrong
        uses_too_much = library.static > source.MOST_STATIC or library.unset    # which may be a sibling's
        return self.alone if uses_too_much else library

    @cached_property
    def alone(self):
        """The kernel for the CPU, compiled without its siblings."""
        return self.compiled([self.name])

    def compiled(self, names):
        path = build.library(self.text, self.label, self.shown, tuple(names), self.folder, self.declared,
                             self.check == "race", self.stepping, self.macros)
        return opened(path, names.index(self.name), self.name, self.label, self.shown,
                      self.declared[self.base].parameters, self.unset)

    @cached_property
    def unset(self):
        """The names of the __constant__ variables that have no values in the source."""
        return source.unset_constants("\n".join([self.text, *source.local_includes(self.text, self.folder).values()]))

    @property
    def parameters(self):
        """[arguments.Parameter] of the kernel."""
        return self.library.parameters
