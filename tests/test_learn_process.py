"""What a learner's code can do to the process that checks it, and what is said then."""
import pytest

from learners import write
from tinycogvlm.cli import learn as commands
from tinycogvlm.learn import process
from tinycogvlm.learn.course import Mine, lesson


TRICKS = {                              # {trick: (body of softmax, what is said of it, the line that is shown)}
    "exception": ("y = x\nreturn y + undefined", "NameError: name 'undefined' is not defined", "return y + undefined"),
    "endless loop": ("while True: y = 1", "an endless loop?", "while True: y = 1"),
    "os._exit": ("import os\nos._exit(3)", "os._exit(3)", "os._exit(3)"),
    "sys.exit": ("import sys\nsys.exit(4)", "SystemExit: 4", "sys.exit(4)"),
    "segmentation fault": ("import ctypes\nctypes.string_at(8)", "SIGSEGV", "ctypes.string_at(8)"),
    "torch": ("import torch\nreturn torch.softmax(x)", "torch is not needed", "import torch"),
    "recursion": ("return softmax(x)", "RecursionError", "return softmax(x)"),
    "too much memory": ("return np.ones(10 ** 12)", "Unable to allocate", "return np.ones(10 ** 12)"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_survived_and_its_line_shown(learn, monkeypatch, trick):
    body, said, line = TRICKS[trick]
    file = write("02", softmax=body)
    if trick == "endless loop":
        monkeypatch.setitem(commands.SECONDS, "check", 4)
    done = learn("check 02")
    assert done.code == 1 and said in done.out
    number = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if text.strip() == line.splitlines()[0])
    assert f"{file}:{number}, in softmax\n" in done.out and f"    {line}\n" in done.out
    assert "tinycogvlm/" not in done.out and "Traceback" not in done.out


@pytest.mark.slow
def test_what_it_prints_is_shown_and_does_not_fill_the_memory(learn):
    write("02", softmax="print('the sum is', x.sum())\nfor _ in range(20000):\n    print('x' * 100)\nreturn x")
    done = learn("check 02")
    assert "your code printed:\n      the sum is " in done.out and len(done.out) < 6000 and "softmax" in done.out


@pytest.mark.slow
def test_a_file_that_is_no_python_or_fails_at_once(learn):
    file = write("02", softmax="return (1")
    done = learn("check 02")
    assert f"{file}:" in done.out and "SyntaxError" in done.out and done.code == 1
    file.write_text("import numpy as np\n\n1 / 0\n\n\ndef softmax(x):\n    return x\n")
    done = learn("check 02")
    assert f"{file}:3, in <module>\n" in done.out and "ZeroDivisionError" in done.out
    file.write_text("def softmax(x):\n    return x\n")
    done = learn("check 02")
    assert "has no function attention; tinycogvlm learn start 02 adds it at the end." in done.out
    file.write_text("def softmax(x, axis):\n    return x\n\n\ndef attention(q):\n    return q\n")
    done = learn("check 02")
    assert "softmax(x, axis) cannot be called with x" in done.out
    assert "attention(q) cannot be called with q, k, v" in done.out


def test_the_learner_s_processes_are_gone_afterwards(learn):
    write("02", softmax="import subprocess\nsubprocess.Popen(['sleep', '60'])\nreturn np.exp(x)")
    outcome = process.run("check", Mine(), lesson("02"), 20)
    assert [row["state"] for row in outcome.rows] == ["wrong", "not written"] and not outcome.lines


def test_numbers_are_judged_and_not_warnings(learn):
    write("09", swiglu="return gate / (1 + np.exp(-gate)) * up")
    assert "Warning" not in learn("check 09").out


@pytest.mark.slow
@pytest.mark.parametrize("body", ["while True: pass", "import os\nos.abort()", "import os\nos.kill(os.getpid(), 9)"])
def test_a_function_that_never_returns_leaves_the_others_their_results(learn, monkeypatch, body):
    monkeypatch.setitem(commands.SECONDS, "check", 4)
    write("09", rms_norm=body, swiglu="return gate / (1 + np.exp(-gate)) * up", rotary="return x")
    out = learn("check 09").out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("  r") or line.startswith("  s")][:3] == \
        ["wrong", "wrong", "passes"]
    assert Mine().progress["passed"] == ["swiglu"] and "causal_attention       not written" in out


@pytest.mark.slow
def test_a_file_that_never_ends_is_stopped_once(learn, monkeypatch):
    monkeypatch.setitem(commands.SECONDS, "check", 2)
    file = write("02")
    file.write_text(file.read_text() + "\n\ndef helper():\n    return 1\n\n\nwhile True: helper()\n")
    out = learn("check 02").out
    assert out.count("an endless loop?") == 1 and f"{file}:" in out
