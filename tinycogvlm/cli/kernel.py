"""tinycogvlm kernel: run a CUDA kernel, step through it from barrier to barrier, or count what each line costs."""
import argparse
import ctypes
import io
import os
import re
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..kernels.runner import source
from ..kernels.runner.arguments import triple
from ..kernels.runner.loader import load
from ..kernels.tools.example import constants, examples, stored
from ..kernels.tools.outcome import difference, outcome, values
from ..kernels.tools.profile import rows, table
from ..kernels.tools.step import place, step as step_through, text
from ..nn.arrays import from_bfloat16_bits
from ..storage import atomic
from . import options
from .say import ask_for_line, echo, echo_json, say, say_error

HELP = """\
Enter         on to the next barrier
thread X,Y,Z  look at another thread
NAME          all numbers of the shared array NAME
quit          end, as Ctrl-D does"""


class Quit(Exception):
    """The user quit the stepper."""


def run(arguments):
    """Parsed arguments -> exit code"""
    return {"run": launch, "step": step, "profile": profile}[arguments.what](arguments)


@contextmanager
def time_limit(seconds):
    """UserError after that many seconds, if not None: the signal of Ctrl-C then stops the kernel."""
    over = threading.Event()

    def stop():
        over.set()
        os.kill(os.getpid(), signal.SIGINT)
    timer = threading.Timer(seconds, stop) if seconds else None
    try:
        if timer:
            timer.start()
        yield
    except KeyboardInterrupt:
        if over.is_set():
            raise UserError(f"not finished after {seconds:g} seconds, the limit of --seconds") from None
        raise
    finally:
        if timer:
            timer.cancel()


def launch(arguments):
    """Every array that the kernel may write is shown; --out keeps them, --expect compares them."""
    path, name = find(arguments.kernel)
    kernel = load(path, name, "race" if arguments.race else None, arguments.order, arguments.seed,
                  **given(arguments))
    args = examples(kernel.parameters, arguments.arguments, arguments.seed)
    arrays = {p.name or f"argument{i}": (p, value) for i, (p, value) in enumerate(zip(kernel.parameters, args), 1)
              if isinstance(value, np.ndarray)}
    written = [called for called, (p, _) in arrays.items() if not p.const]
    expected = expectations(arguments.expect, arrays, written)
    files = {called: arguments.out / f"{called}.npy" for called in written} if arguments.out else {}
    for file in files.values():
        make_folder(arguments.out)
        atomic.check(file)
    before = {called: arrays[called][1].copy() for called in written}
    with time_limit(arguments.seconds):
        kernel(arguments.grid, arguments.block, args, arguments.shared)
    ctypes.CDLL(None).fflush(None)                          # what the kernel's printf has said comes first
    for called, file in files.items():
        atomic.write(file, npy(arrays[called][1]))
    found = [outcome(arrays[called][0], called, before[called], arrays[called][1]) for called in written]
    differences = {called: difference(values(*arrays[called]), wanted, arguments.close)
                   for called, (_, wanted) in expected.items()}
    if arguments.json:
        echo_json({"arrays": [one.to_dict() for one in found],
                   "as_expected": {called: said is None for called, said in differences.items()}})
    else:
        for one in found:
            echo(one)
        if not found:
            echo(f"{name} takes no array that it may write")
        if arguments.race:
            echo("every access was watched: no race, nothing out of bounds, nothing read before it was written")
        for called, said in differences.items():
            if said is None:
                echo(f"{called} is as in {expected[called][0]}")
    wrong = [f"{called} is not as in {expected[called][0]}: {said}" for called, said in differences.items() if said]
    if wrong:
        raise UserError("; ".join(wrong))
    return 0


def given(arguments):
    """What -D and --constant give to the source"""
    return dict(constants=constants(arguments.constant), defines=dict(arguments.defines))


def expectations(words, arrays, written):
    """["y=want.npy", ...] -> {y: (file, array)}. Without a name the file is for the only array that is written."""
    found = {}
    for word in words:
        called, equals, file = word.partition("=")
        if not (equals and called.isidentifier()):
            if len(written) != 1:
                raise UserError(f"--expect {word}: say for which array, as in --expect NAME={word}; "
                                f"the kernel may write {', '.join(written) or 'none'}")
            [called], file = written, word
        if called not in arrays:
            raise UserError(f"--expect {word}: the kernel was given no array {called!r}; "
                            f"it was given {', '.join(arrays) or 'none'}")
        if called in found:
            raise UserError(f"--expect {word}: {called} was given before, as {found[called][0]}")
        parameter, given = arrays[called]
        wanted = stored(file, f"--expect {called}")
        if wanted.dtype.kind not in "biuf" or wanted.shape != given.shape:
            raise UserError(f"--expect {called}: {file} has {wanted.dtype} of the shape {wanted.shape}; real numbers "
                            f"of the shape {given.shape} can be compared")
        found[called] = file, values(parameter, wanted)
    return found


def make_folder(path):
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: no such folder, and it cannot be made ({error.strerror})") from None


def npy(array):
    """The bytes of an array's .npy file"""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def step(arguments):
    """Commands are read from stdin at every barrier; where it is not a terminal, until it ends."""
    path, name = find(arguments.kernel)
    modes = given(arguments)
    kernel = load(path, name, stepping=True, **modes)       # what step_through compiles, so that it is compiled once
    args = examples(kernel.parameters, arguments.arguments)
    reader = Reader(arguments.thread, triple("block", arguments.block))
    try:
        with time_limit(arguments.seconds):
            barriers = step_through(path, name, arguments.grid, arguments.block, args, arguments.shared,
                                    arguments.thread, arguments.of_block, reader.show, **modes)
    except Quit:
        return 0
    echo(f"the kernel has ended; barriers of block {arguments.of_block}: {barriers}")
    for parameter, value in zip(kernel.parameters, args):
        if isinstance(value, np.ndarray) and not parameter.const:       # what it has written
            echo(text(parameter.name, from_bfloat16_bits(value) if parameter.kind == "B" else value, most=64))
    return 0


class Reader:
    """Shows each stop and does what stdin says, until that is to go on."""

    def __init__(self, thread, block):
        self.thread, self.block = thread, block
        self.interactive, self.ended = sys.stdin.isatty(), False
        if self.interactive:
            with suppress(ImportError):
                import readline  # noqa: F401               editing and history for input(), where there is one
            say(HELP)

    def show(self, stop):
        self.print(stop)
        while not self.ended:
            try:
                line = ask_for_line("> " if self.interactive else "").strip()
            except EOFError:
                if self.interactive:
                    say("")
                    raise Quit from None
                self.ended = True
                return
            word, _, rest = line.partition(" ")
            if not line:
                return
            if line == "quit":
                raise Quit
            if word == "thread":
                self.choose(rest.strip(), stop)
            elif line in stop.shared:
                echo(text(line, stop.shared[line], most=sys.maxsize), flush=True)
            else:
                say_error(f"{line!r} is neither a command nor a shared array\n{HELP}")

    def choose(self, word, stop):
        try:
            index = options.place(word)
            place("thread", index, self.block)
        except (argparse.ArgumentTypeError, UserError) as error:
            say_error(error)
        else:
            self.thread = index
            self.print(stop)

    def print(self, stop):
        echo(replace(stop, thread=self.thread, rank=place("thread", self.thread, self.block)), flush=True)


def profile(arguments):
    """The kernel runs with every check: what it does wrong is an error here."""
    path, name = find(arguments.kernel)
    kernel = load(path, name, check="race", **given(arguments))
    args = examples(kernel.parameters, arguments.arguments)
    with time_limit(arguments.seconds):
        kernel(arguments.grid, arguments.block, args, arguments.shared)
    found = rows(kernel)
    if arguments.json:
        echo_json([{**asdict(row), "conflicts": row.conflicts} for row in found])
    else:
        echo(table(found, {file: source.read(file) for file in {row.file for row in found}}))
    return 0


def find(words):
    """FILE:KERNEL -> (path, kernel). FILE is a path, or the name of a .cu file of the package; a file's only kernel
    need not be named."""
    parted = re.fullmatch(r"(.*?[^:]):([^:].*)", words, re.DOTALL)      # at the first single colon: ns::kernel has two
    file, name = parted.groups() if parted and not Path(words).is_file() else (words.removesuffix(":"), None)
    packaged = sorted(path.name for path in source.HERE.glob("*.cu"))
    path = source.HERE / file if file in packaged and not Path(file).exists() else Path(file)
    if not path.exists():
        raise UserError(f"{file}: no such file, nor one of the package, which has {', '.join(packaged)}")
    if name is None:
        known = source.kernels(source.read(path))
        if len(known) != 1:
            raise UserError(f"{file} has {len(known)} kernels, name one as in {file}:KERNEL: {', '.join(known)}")
        [name] = known
    return path, name
