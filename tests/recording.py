"""docs/cuda_on_a_cpu.cast, the page of the same name at a terminal:      python tests/recording.py --fix

An asciicast, version 2: a header and a line for each piece of output with its time. What is typed comes from the page's
blocks, and from KEYS while a command waits; what is answered, and when, comes from the commands themselves.
"""
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tinycogvlm.learn.markdown import read

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cuda_on_a_cpu.md"
CAST = PAGE.with_suffix(".cast")
HEADER = {"version": 2, "width": 112, "height": 32, "idle_time_limit": 1.5, "title": "A CUDA machine for your CPU"}
KEYS = {"step": ["thread 5", "", "", ""]}                   # of a kernel command, at its prompts
PROMPT, TYPING = "> ", 0.15                                 # seconds a word


def commands(page=PAGE):
    """[(command, its lines of output in the page)]. Files are shown before they are run."""
    found = []
    for block in read(page)[0]:
        name = block.lines[0].partition(" ")[2]             # // sum.cu, # sums.py
        if block.language in ("cuda", "python"):
            found.append((f"cat {name}", block.lines))
            if block.language == "python":
                found.append((f"python {name}", []))
        elif block.language == "console":
            starts = [i for i, line in enumerate(block.lines) if line.startswith("$ ")]
            found += [(block.lines[i][2:], block.lines[i + 1:end])
                      for i, end in zip(starts, [*starts[1:], len(block.lines)])]
    return found


def keys(command):
    words = shlex.split(command)
    return KEYS.get(words[2], []) if words[0] == "tinycogvlm" else []


def record(page=PAGE):
    """Run the commands at a pseudo-terminal -> [(seconds, text)]"""
    events, now = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for block in read(page)[0]:
            if block.language in ("cuda", "python"):
                Path(folder, block.lines[0].partition(" ")[2]).write_text(block.text, encoding="utf-8")
        for command, _ in commands(page):
            for word in ["$ ", *re.findall(r"\S+ *", command), "\r\n"]:
                events.append((now, word))
                now += TYPING
            begin = time.monotonic()
            for text in answers(command, folder):
                events.append((now + time.monotonic() - begin, text))
            now = events[-1][0] + 1
    return events


def answers(command, folder):
    """The pieces of a command's output, as they come"""
    import pty
    ours, theirs = pty.openpty()
    program, *words = shlex.split(command)
    programs = {"tinycogvlm": [sys.executable, "-m", "tinycogvlm"], "python": [sys.executable]}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": str(HEADER["width"])}
    process = subprocess.Popen([*programs.get(program, [program]), *words], stdin=theirs, stdout=theirs, stderr=theirs,
                               cwd=folder, env=environment)
    os.close(theirs)
    waiting, said = list(keys(command)), ""
    try:
        while piece := os.read(ours, 1 << 16).decode():
            yield piece
            said += piece
            if waiting and said.endswith("\n" + PROMPT):
                time.sleep(1)
                os.write(ours, f"{waiting.pop(0)}\n".encode())
                said = ""
    except OSError:                                         # the other side is closed: Linux's way to say that it ended
        pass
    os.close(ours)
    process.wait()


def text(events):
    """What stands on the terminal in the end"""
    return "".join(piece for _, piece in events).replace("\r\n", "\n")


def read_cast(path=CAST):
    """header, [(seconds, text)]"""
    header, *events = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return header, [(seconds, piece) for seconds, kind, piece in events if kind == "o"]


if __name__ == "__main__":
    if sys.argv[1:] != ["--fix"]:
        sys.exit(__doc__)
    record()                                                # so that everything is compiled
    lines = [HEADER, *([round(seconds, 3), "o", piece] for seconds, piece in record())]
    CAST.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
