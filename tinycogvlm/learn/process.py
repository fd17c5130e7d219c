"""Start the learner's code in a process of its own, and wait no longer than the limit."""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .learner import is_of

PRINTED = 4000                                              # bytes that are kept of what the learner's code prints
TOO_LONG = {"check": "stopped after {:g} seconds: an endless loop?",
            "show": "stopped after {:g} seconds: right, but too slow for a whole answer; arrays in place of loops?"}
CODE = "import sys; sys.path[0] = {root!r}; from tinycogvlm.learn.child import main; main()"


@dataclass(frozen=True)
class Outcome:
    """rows: the report's. printed: by the learner's code. lines: how the process ended, if not by its end."""
    rows: list
    printed: str
    lines: list


def run(job, mine, lesson, seconds):
    """The Outcome of a job ("check" or "show") of child.py."""
    with tempfile.TemporaryDirectory() as folder:
        report, trace = Path(folder, "report"), Path(folder, "trace")
        code = CODE.format(root=str(Path(__file__).parents[2]))
        process = subprocess.Popen(
            [sys.executable, "-c", code, job, str(mine.folder), lesson.number, str(report), str(trace), str(seconds)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        printed = bytearray()
        reader = threading.Thread(target=drain, args=(process.stdout, printed), daemon=True)
        reader.start()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds + 5)                   # it ends itself; this is for one that cannot
        finally:
            end(process)
        reader.join(5)
        rows, lines = [json.loads(line) for line in read(report).splitlines()], []
        if rows[-1:] != [{"done": True}]:
            lines = ending(process.returncode, read(trace), mine.file(lesson), rows, TOO_LONG[job].format(seconds))
        rows = [row for row in rows if row.keys() - {"running", "done"}]
        return Outcome(rows, printed.decode(errors="replace"), lines)


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


def ending(code, trace, path, rows, too_long):
    """How a process ended that did not come to its end, and in which line of the learner's file it was."""
    running = next((row["running"] for row in reversed(rows) if "running" in row), None)
    within = f" in {running}" if running else ""
    if trace.startswith("Timeout"):
        what = too_long.replace(" seconds", f" seconds{within}")
    elif code and code < 0:
        what = f"the process was ended by {signal.Signals(-code).name}{within}" + (
            ": is there memory enough?" if -code == signal.SIGKILL else "")
    else:
        what = f"the process ended itself with code {code}{within}"
    frames = [(int(line), name) for file, line, name in
              re.findall(r'File "(.+)", line (\d+) in (\S+)', trace) if is_of(file, path)]
    if not frames:
        return [what]
    line, name = frames[0]
    source = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [what, f"{path}:{line}, in {name}", f"    {source[line - 1].strip() if line <= len(source) else ''}"]
