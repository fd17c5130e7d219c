"""The lessons as tests: every block of code in lessons/**/*.md runs, and what it prints is compared with what is shown.

    pytest lessons/12_visual_expert             names file and line of what has drifted
    python tests/lessons.py --fix [PATH...]     write what runs: outputs, lines in links, pictures; read the diff

How a lesson is written:
- ```python blocks run in order, in one namespace for each file, in an empty folder with ../images beside it. A ```text
  block right behind one is what it prints; any other ```text block is a drawing.
- ```cuda blocks are the text `cuda` of the python blocks after it: kernels.load(cuda, "add"). One that begins with
  `// sum.cu` is also the file of that name.
- ```console blocks are lines `$ tinycogvlm ...` and what each prints, errors too. ```sh blocks are lines of the README.
- In an output a line `...` stands for any lines, and ~12.5 for a number in which rounding differs from machine to
  machine: right within a factor of two. All other text is exact, whole numbers are exact, decimals too; of those with
  four digits or more the last may be one off, as another machine's rounding gives.
- A number in the prose or in a drawing that has a decimal point, or three digits and is no year, stands also in a block
  that runs or in its output, or is bound to an expression: 6,123,456<!--= sum(array.size for array in arrays) -->.
- picture.save("routes.png") draws a picture of the lesson: compared with the one checked in, or written by --fix.
- [`ops.rms_norm`](../../tinycogvlm/nn/ops.py#L71) is a link to the line that defines it; --fix finds the line.
- No line of prose or code is longer than 100 characters, tables and the targets of links excepted.
"""
import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lessons_text import BOUND, NUMBER, check_text, definition
from tinycogvlm.learn.markdown import LINK, read

ROOT = Path(__file__).parents[1]
LESSONS = ROOT / "lessons"


# ------------------------------------------------------------------------------------------------------------- outputs

def drift(shown, got):
    """The index of the first line of `shown` that is not what came (its length for more that came), or None."""
    i = j = 0
    while i < len(shown):
        if shown[i].strip() == "...":
            i += 1
            if i == len(shown):
                return None
            while j < len(got) and not same(shown[i], got[j]):
                j += 1
        elif j < len(got) and same(shown[i], got[j]):
            i, j = i + 1, j + 1
        else:
            return i
    return None if j == len(got) else i


def same(shown, got):
    plain = lambda line: re.sub(r"(?<=[\[(]) | (?=[\])])", "", " ".join(NUMBER.sub("#", line).split()))
    ours, theirs = NUMBER.findall(shown), NUMBER.findall(got)
    return plain(shown) == plain(got) and all(map(near, ours, theirs))


def near(shown, got):
    if shown == got:
        return True
    a, b = (float(number.strip("~").replace(",", "")) for number in (shown, got))
    if shown.startswith("~"):
        return a == b or (a * b > 0 and 0.5 <= b / a <= 2)
    mantissa, _, exponent = shown.lstrip("-").partition("e")
    decimals = len(mantissa.partition(".")[2])
    if "." not in shown or len(mantissa.replace(".", "").lstrip("0")) < 4:
        return False
    return abs(a - b) < 1.5 * 10.0 ** (int(exponent or 0) - decimals)


# ---------------------------------------------------------------------------------------------------------- what runs

class Run:
    """A lesson's blocks, run in their order. problems: [(line, sentence)]; wanted: {line of an output: its lines}.

    why_not: None, or the sentence that says why this machine runs no kernels, where a block has asked for one.
    """

    def __init__(self, path):
        self.path, self.names, self.problems, self.wanted = path, {"__name__": "lesson"}, [], {}
        self.why_not = None
        self.blocks, self.prose = read(path)
        self.pictures = {}                                  # {name: (line, bytes)}

    def __call__(self):
        before = os.getcwd()
        with tempfile.TemporaryDirectory() as folder, np.printoptions():
            shutil.copytree(LESSONS / "images", Path(folder, "lessons", "images"))
            here = Path(folder, "lessons", self.path.parent.name if self.path.parent != LESSONS else "")
            (here / "my-cogvlm").mkdir(parents=True)        # so that tinycogvlm learn looks for none further up
            os.chdir(here)
            try:
                for block in self.blocks:
                    if not self.block(block):               # what comes behind it would fail for its sake
                        break
                    for picture in Path.cwd().glob("*.png"):
                        self.pictures.setdefault(picture.name, (block.line, picture.read_bytes()))
                else:
                    self.check_pictures()
                    self.check_bound()
            finally:
                os.chdir(before)
        return self

    def block(self, block):
        """Run one block; False if it fails."""
        if block.language == "python":
            return self.python(block)
        if block.language == "console":
            return self.console(block)
        if block.language == "cuda":
            self.names["cuda"] = block.text
            if file := re.match(r"// (\w+\.cu)\n", block.text):
                Path(file[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            missing = set(block.lines) - set((ROOT / "README.md").read_text(encoding="utf-8").splitlines())
            self.problems += [(block.line, f"not a line of the README, so nothing runs it: {line}") for line in missing]
        elif block.language not in ("text", ""):
            self.problems.append((block.line, f"a block of {block.language}, which nothing runs"))
        return True

    def python(self, block):
        code, printed = "\n" * (block.line - 1) + block.text, io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(code, str(self.path), "exec"), self.names)
        except Exception as error:
            from tinycogvlm.kernels.runner import build
            if str(error) == build.cpu_runner():
                self.why_not = str(error)
                return False
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                     if frame.filename == str(self.path)] or [getattr(error, "lineno", None) or block.line]
            self.problems.append((lines[-1], f"{type(error).__name__}: {error}"))
            return False
        if block.output:
            self.compare(block.output.line, block.output.lines, printed.getvalue())
        return True

    def console(self, block):
        starts = [i for i, line in enumerate(block.lines) if line.startswith("$ ")]
        for i, end in zip(starts, [*starts[1:], len(block.lines)]):
            words, printed = shlex.split(block.lines[i][2:]), io.StringIO()
            if words[0] != "tinycogvlm":
                self.problems.append((block.line + i, f"{words[0]} is not run here; only tinycogvlm is"))
                return False
            from tinycogvlm.cli import main
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), nothing_typed(), \
                    contextlib.suppress(SystemExit):
                main.main(words[1:])
            self.compare(block.line + i + 1, block.lines[i + 1:end], printed.getvalue())
        return True

    def compare(self, line, shown, printed):
        got, count = [part.rstrip() for part in printed.rstrip().splitlines()], len(shown)
        shown = [part.rstrip() for part in "\n".join(shown).rstrip().splitlines()]
        at = drift(shown, got)
        if at is not None:
            self.wanted[line] = count, got
            self.problems.append((line + at, "the output shown has drifted; what runs prints:\n    " +
                                  "\n    ".join(got)))

    def check_pictures(self):
        kept = {path.name: path for path in self.path.parent.glob("*.png")} if self.path.name == "README.md" else {}
        for name, (line, drawn) in self.pictures.items():
            if name not in kept or not alike(kept[name].read_bytes(), drawn):
                self.problems.append((line, f"{name} is not the picture that is checked in"))
        if self.path.parent != LESSONS:
            self.problems += [(1, f"{name}: no code of the lesson draws it") for name in kept.keys() - self.pictures]

    def check_bound(self):
        """Numbers bound to an expression."""
        for number, line in self.prose:
            for found in BOUND.finditer(line):
                shown = NUMBER.match(found[0])[0].replace(",", "")
                value = eval(found[1], self.names)
                printed = format(value, f".{len(shown.partition('.')[2])}f") if "." in shown else str(value)
                if shown != printed:
                    self.problems.append((number, f"{found[1]} is {printed}, not {shown}"))


@contextlib.contextmanager
def nothing_typed():
    """An empty stdin"""
    before, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = before


def alike(a, b):
    """Pictures that differ by what another version of Pillow may draw: few pixels, or all of them by little."""
    a, b = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int) for data in (a, b))
    return a.shape == b.shape and (np.abs(a - b).max(-1) > 8).mean() < 0.01


# -------------------------------------------------------------------------------------------------------------- pytest

class Drifted(Exception):
    pass


class Check(pytest.Item):
    def runtest(self):
        run = Run(self.path)() if self.name == "code" else None
        problems = run.problems if run else check_text(self.path)
        if problems:
            raise Drifted("\n".join(f"{os.path.relpath(self.path)}:{line}: {said}" for line, said in problems))
        if run and run.why_not:
            pytest.skip(run.why_not)

    def repr_failure(self, excinfo):
        return str(excinfo.value) if excinfo.errisinstance(Drifted) else super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, 0, f"{self.path.parent.name}: {self.name}"


class Document(pytest.File):
    def collect(self):
        return [Check.from_parent(self, name=name) for name in ("code", "text")]


def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".md" and LESSONS in file_path.parents:
        return Document.from_parent(parent, path=file_path)


# --------------------------------------------------------------------------------------------------------------- --fix

def fix(path):
    """Write what runs into the file, as far as a line of it is not left open by ... or ~."""
    run = Run(path)()
    lines = path.read_text(encoding="utf-8").splitlines()
    for line, (count, got) in sorted(run.wanted.items(), reverse=True):
        shown = lines[line - 1:line - 1 + count]
        if not any(part.strip() == "..." or "~" in part for part in shown):
            lines[line - 1:line - 1 + count] = got
    for i, line in enumerate(lines):
        def right(link):
            name, _, fragment = link[3].partition("#")
            file = (path.parent / name).resolve()
            if re.fullmatch(r"L\d+", fragment) and file.exists() and (found := definition(file, link[2])):
                return f"{link[1]}[{link[2]}]({name}#L{found})"
            return link[0]
        lines[i] = LINK.sub(right, line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, (_, drawn) in run.pictures.items():
        kept = path.parent / name
        if not kept.exists() or kept.read_bytes() != drawn:             # a change that alike() is too coarse to see, too
            kept.write_bytes(drawn)


def main(words):
    paths = [path for word in (words or [LESSONS]) for path in sorted(Path(word).resolve().rglob("*.md")) or
             [Path(word).resolve()]]
    for path in paths:
        fix(path)
        for line, said in [*Run(path)().problems, *check_text(path)]:
            print(f"{os.path.relpath(path)}:{line}: {said}")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--fix"]:
        sys.exit(__doc__)
    main(sys.argv[2:])
