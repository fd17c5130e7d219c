"""docs/cuda_on_a_cpu.md: every command does what the page shows, and the recording is of these commands."""
import io
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from lessons import Run
from lessons_text import check_text
from recording import HEADER, PAGE, PROMPT, commands, keys, read_cast, record, text
from tinycogvlm.cli import main
from tinycogvlm.kernels.runner import build
from tinycogvlm.learn.markdown import read

WHY_NOT = build.cpu_runner()
needs_runner = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@needs_runner
def test_the_page_shows_what_runs():
    """If not: python tests/lessons.py --fix docs/cuda_on_a_cpu.md"""
    build.machine()                                         # says so where it is compiled for the first time
    assert Run(PAGE)().problems == []


def test_the_page_reads_as_a_lesson_does():
    assert check_text(PAGE) == []


class Typed(io.StringIO):
    """A stdin that looks like a terminal: what is typed appears on it."""

    def isatty(self):
        return True

    def readline(self, *_):
        line = super().readline()
        print(line, end="")
        return line


def answer(command):
    """What a tinycogvlm command prints when KEYS are typed at its prompts"""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
        patch.setattr("sys.stdin", Typed("".join(f"{key}\n" for key in keys(command))))
        main.main(shlex.split(command)[1:])
    return printed.getvalue()


@needs_runner
def test_the_recording_is_of_the_page(tmp_path, monkeypatch):
    """Its commands in their order, and what each answers: as the page shows it, or as it is when keys are typed.

    If not: python tests/recording.py --fix
    """
    build.machine()
    monkeypatch.chdir(tmp_path)
    for block in read(PAGE)[0]:
        if block.language == "cuda":
            Path(block.lines[0].partition(" ")[2]).write_text(block.text)
    header, events = read_cast()
    expected = [f"$ {command}\n" + (answer(command) if keys(command) else "".join(f"{line}\n" for line in shown))
                for command, shown in commands()]
    assert text(events) == "".join(expected) and header == HEADER
    assert PROMPT + "thread 5\n" in text(events)
    assert [seconds for seconds, _ in events] == sorted(seconds for seconds, _ in events)


@needs_runner
@pytest.mark.slow
def test_the_recording_can_be_made_again():
    assert text(record()) == text(read_cast()[1])
