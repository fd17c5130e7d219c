"""Start the learner's code in a process of its own, and wait no longer than the limit."""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from .course import lessons
from .learner import is_of, source

PRINTED = 4000                                              # bytes that are kept of what the learner's code prints
TOO_LONG = {"check": "stopped after {:g} seconds: an endless loop?",
            "show": "stopped after {:g} seconds: correct, but too slow for a whole answer; use arrays instead of loops",
            "try": "stopped after {:g} seconds: too slow for whole answers",
            "train": "stopped after {:g} seconds: an endless loop, or too slow for a training; use arrays"}
CODE = "import sys; sys.path[0] = {root!r}; from tinycogvlm.learn.child import main; main()"


@dataclass
class Outcome:
    """rows: the report's. printed: by the learner's code. lines: how the process ended, if not by its end."""
    rows: list = field(default_factory=list)
    printed: str = ""
    lines: list = field(default_factory=list)


def run(job, mine, lesson, seconds):
    """The Outcome of a job ("check", "show", "try" or "train") of child.py. seconds: the limit, of checks for each function.

    A function that ends the process is wrong; the functions after it get a process of their own. Of several rows of one
    function the last counts.
    """
    whole, names, rows = Outcome(), list(lesson.functions), {}
    while names:
        found, running = run_once(job, mine, lesson, names, seconds)
        rows |= {row.get("name"): row for row in found.rows}
        whole.printed = (whole.printed + found.printed)[:PRINTED]
        if job != "check" or running not in names:
            whole.lines = found.lines
            break
        rows.setdefault(running, {"name": running, "state": "wrong", "lines": found.lines})
        names = names[names.index(running) + 1:]
    whole.rows = list(rows.values())
    return whole


def run_once(job, mine, lesson, names, seconds):
    """The Outcome of one process, and in which function it ended, if it did not come to its end."""
    with tempfile.TemporaryDirectory() as folder:
        report, trace = Path(folder, "report"), Path(folder, "trace")
        code = CODE.format(root=str(Path(__file__).parents[2]))
        process = subprocess.Popen(
            [sys.executable, "-c", code, job, str(mine.folder), lesson.number, " ".join(names), str(report), str(trace),
             str(seconds)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        printed = bytearray()
        reader = threading.Thread(target=drain, args=(process.stdout, printed), daemon=True)
        reader.start()
        try:
            wait(process, report, seconds + 5)              # it ends itself; this is for one that cannot
        finally:
            end(process)
        reader.join(5)
        rows, lines, running = [json.loads(line) for line in read(report).splitlines()], [], None
        if rows[-1:] != [{"done": True}]:
            running = next((row["running"] for row in reversed(rows) if "running" in row), None)
            files = [mine.file(found) for found in lessons() if mine.begun(found)]
            lines = ending(process.returncode, read(trace), files, running, TOO_LONG[job].format(seconds))
        rows = [row for row in rows if row.keys() - {"running", "done"}]
        return Outcome(rows, printed.decode(errors="replace"), lines), running


def wait(process, report, seconds):
    """Until the process has ended, or has reported nothing for so long."""
    size, since = 0, time.monotonic()
    while process.poll() is None and time.monotonic() - since < seconds:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        with suppress(OSError):
            if size != report.stat().st_size:
                size, since = report.stat().st_size, time.monotonic()


def drain(stream, kept):
    """Read to the end, so that nothing that prints has to wait, but keep the beginning only."""
    while chunk := stream.read1(1 << 16):
        kept.extend(chunk[:max(0, PRINTED - len(kept))])


def end(process):
    """The process and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def read(path):
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def ending(code, trace, files, running, too_long):
    """How a process ended that did not come to its end, and in which line of the learner's files it was."""
    within = f" in {running}" if running else ""
    if "Timeout" in trace:
        what = too_long.replace(" seconds", f" seconds{within}")
    elif code and code < 0:
        what = f"the process was ended by {signal.Signals(-code).name}{within}" + (
            ": is there enough memory?" if -code == signal.SIGKILL else "")
    else:
        what = f"the process exited with code {code}{within}"
    frames = [(path, int(line), name) for file, line, name in
              re.findall(r'File "(.+)", line (\d+) in (\S+)', trace) for path in files if is_of(file, path)]
    if not frames:
        return [what]
    path, line, name = frames[0]
    with suppress(UserError, OSError):
        lines = source(path).splitlines()
        return [what, f"{path}:{line}, in {name}", f"    {lines[line - 1].strip() if line <= len(lines) else ''}"]
    return [what, f"{path}:{line}, in {name}"]
