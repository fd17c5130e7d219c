"""What `tinycogvlm kernel` does: step from barrier to barrier, or print what every line does to memory."""
import argparse
import json
import re
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..kernels.runner import source
from ..kernels.runner.arguments import triple
from ..kernels.runner.loader import load, read
from ..kernels.tools.example import examples
from ..kernels.tools.profile import rows, table
from ..kernels.tools.step import place, step as step_through, text
from ..nn.arrays import from_bfloat16_bits
from . import options
from .say import say, say_error

HELP = """\
Enter         on to the next barrier
thread X,Y,Z  look at another thread
NAME          all numbers of the shared array NAME
quit          end, as Ctrl-D does"""


class Left(Exception):
    """Who was stepping has seen enough."""


def run(arguments):
    return {"step": step, "profile": profile}[arguments.what](arguments)


def step(arguments):
    """Parsed arguments -> exit code. Commands are read at every barrier; where stdin is no terminal, until it ends."""
    path, name = find(arguments.kernel)
    kernel = load(path, name, stepping=True)                # what step() compiles, so that it is compiled once
    args = examples(kernel.parameters, arguments.arguments)
    reader = Reader(arguments.thread, triple("block", arguments.block))
    try:
        barriers = step_through(path, name, arguments.grid, arguments.block, args, arguments.shared, arguments.thread,
                                arguments.of_block, reader.show)
    except Left:
        return 0
    print(f"the kernel has ended; barriers of block {arguments.of_block}: {barriers}")
    for parameter, value in zip(kernel.parameters, args):
        if isinstance(value, np.ndarray) and not parameter.const:       # what it has written
            print(text(parameter.name, from_bfloat16_bits(value) if parameter.kind == "B" else value, most=64))
    return 0


class Reader:
    """Prints where the block stands and does what stdin says, until that is to go on."""

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
                line = input("> " if self.interactive else "").strip()
            except EOFError:
                if self.interactive:
                    say("")
                    raise Left from None
                self.ended = True
                return
            word, _, rest = line.partition(" ")
            if not line:
                return
            if line == "quit":
                raise Left
            if word == "thread":
                self.choose(rest.strip(), stop)
            elif line in stop.shared:
                print(text(line, stop.shared[line], most=sys.maxsize), flush=True)
            else:
                say_error(f"no command and no shared array {line}\n{HELP}")

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
        print(replace(stop, thread=self.thread, rank=place("thread", self.thread, self.block)), flush=True)


def profile(arguments):
    """Parsed arguments -> exit code. The kernel runs with every check: what it does wrong is an error here."""
    path, name = find(arguments.kernel)
    kernel = load(path, name, check="race")
    kernel(arguments.grid, arguments.block, examples(kernel.parameters, arguments.arguments), arguments.shared)
    found = rows(kernel)
    if arguments.json:
        print(json.dumps([{**asdict(row), "conflicts": row.conflicts} for row in found]))
    else:
        print(table(found, {file: read(Path(file)) for file in {row.file for row in found}}))
    return 0


def find(words):
    """FILE:KERNEL -> (path, kernel). FILE is a path or the name of one of ours; a file's only kernel needs no name."""
    parted = re.fullmatch(r"(.*?[^:]):([^:].*)", words)     # at the first colon that is alone: ns::kernel has two
    file, name = parted.groups() if parted and not Path(words).is_file() else (words, None)
    ours = sorted(path.name for path in source.HERE.glob("*.cu"))
    path = source.HERE / file if file in ours and not Path(file).exists() else Path(file)
    if not path.exists():
        raise UserError(f"{file}: no such file, and none of ours, which are {', '.join(ours)}")
    if name is None:
        known = source.kernels(read(path))
        if len(known) != 1:
            raise UserError(f"{file} has {len(known)} kernels, name one as in {file}:KERNEL: {', '.join(known)}")
        [name] = known
    return path, name
