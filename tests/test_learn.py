"""The steps of tinycogvlm learn: the learner's folder, checks in a process of their own, the model on their code."""
import json
import shutil
from types import SimpleNamespace

import pytest

from tinycogvlm import cli, load, ops, options
from tinycogvlm.errors import UserError
from tinycogvlm.kernels import build
from tinycogvlm.learn import child, commands, learner, parts, process
from tinycogvlm.learn.course import Mine, lesson, lessons
from tinycogvlm.learn.exercises import EXERCISES

needs_runner = pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))


@pytest.fixture
def learn(tmp_path, monkeypatch, capsys):
    """learn("check 09") -> exit code and what was printed, in an empty folder"""
    monkeypatch.chdir(tmp_path)
    parser = options.parser(cli.COMMANDS)

    def run(words=""):
        code = commands.learn(parser.parse_args(["learn", *words.split()]))
        return SimpleNamespace(code=code, out=capsys.readouterr().out)
    return run


def write(number, **bodies):
    """The exercise with these bodies, {function: lines}, in the place of what is missing."""
    found = lesson(number)
    text = found.exercise.read_text(encoding="utf-8")
    for name, body in bodies.items():
        before, stub, after = text.partition(f"def {name}(")
        head, _, after = after.partition("    raise NotImplementedError\n")
        text = before + stub + head + "".join(f"    {line}\n" for line in body.splitlines()) + after
    file = Mine().file(found)
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def solve(number):
    """The learner has written it all: each body calls the package."""
    found = lesson(number)
    if found.exercise.suffix == ".cu":
        Mine().folder.mkdir(exist_ok=True)
        return shutil.copy(EXERCISES[next(iter(found.functions))].shown[0], Mine().file(found))
    by_name = 'from tinycogvlm.learn.exercises import EXERCISES\nreturn EXERCISES["{}"].package(**arguments)'
    return write(number, **{name: "arguments = dict(locals())\n" + by_name.format(name) for name in found.functions})


# ------------------------------------------------------------------------------------------------------------ the steps

def test_from_nothing_to_a_pass(learn):
    begun = learn()
    assert begun.code == 0 and "next: read" in begun.out and "tinycogvlm learn start 01" in begun.out
    with pytest.raises(UserError, match="no lesson is under way; begin with: tinycogvlm learn start 01"):
        learn("check")
    with pytest.raises(UserError, match="lesson 09 is not begun: tinycogvlm learn start 09"):
        learn("check 9")
    started = learn("start 09")
    file = Mine().file(lesson("09"))
    assert str(file) in started.out and file.read_bytes() == lesson("09").exercise.read_bytes()
    file.write_text(file.read_text() + "# mine\n")
    assert "stays as it is" in learn("start 9").out and file.read_text().endswith("# mine\n")

    stub = learn("check")
    assert stub.code == 1 and stub.out.count("not written") == 4 and "tinycogvlm learn hint 09" in stub.out

    write("09", rms_norm="return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight")
    half = learn("check 09")
    assert half.code == 1 and f"1 of {len(parts.PARTS)} parts of this answer ran through your code" in half.out
    assert json.loads((Mine().folder / "progress.json").read_text())["passed"] == ["rms_norm"]
    assert "1 of 4   rms_norm" in learn().out and "write rotary in" in learn().out

    solve("09")
    whole = learn("check")
    answers = [line.partition(":")[2].strip() for line in whole.out.splitlines()
               if line.startswith(("  through your code", "  by the package"))]
    assert whole.code == 0 and len(answers) == 2 and answers[0] == answers[1]
    assert f"4 of {len(parts.PARTS)} parts of this answer ran through your code" in whole.out
    assert all(f"  {name} " in whole.out for name in lesson("09").functions)
    assert "+ 09" in learn().out

    write("09")
    assert learn("check 09").code == 1 and Mine().progress["passed"] == []          # progress is what passes now


def test_hints_say_more_each_time(learn):
    learn("start 04")
    hints = [learn("hint").out for _ in range(4)]
    for level, (out, hint) in enumerate(zip(hints, lesson("04").hints["softmax"]), 1):
        assert out == f"softmax, hint {level} of 3: {hint}\n"
    assert hints[3] == hints[2]
    assert learn("hint 04 attention").out.startswith("attention, hint 1 of 3")
    with pytest.raises(UserError, match="lesson 04 has no function softmin; it has softmax, attention"):
        learn("hint 04 softmin")


def test_the_solution_is_shown_when_asked_twice_or_passed(learn):
    write("04", softmax="return x  # mine")
    first = learn("solution 04")
    assert first.code == 1 and "def softmax" not in first.out
    second = learn("solution 04")
    assert second.code == 0 and "return x  # mine" in second.out
    [(place, lines)] = commands.package_lines("softmax")
    assert lines in second.out and lines.startswith("def softmax(x):") and f"# the package's: {place}" in second.out
    name, _, line = place.rpartition(":")
    assert open(name).read().splitlines()[int(line) - 1] == "def softmax(x):"
    Mine().note(passed=["softmax", "attention"])
    passed = learn("solution 04")
    assert passed.code == 0 and "def softmax" in passed.out and "def attention" in passed.out


def test_reset_keeps_what_was_there(learn):
    file = write("04", softmax="return 1")
    Mine().note(passed=["softmax", "rotary"])
    before = file.read_text()
    for i in (1, 2):
        out = learn("reset 04").out
        backup = file.with_name(f"04_attention.backup{i}.py")
        assert str(backup) in out and backup.read_text() == before
        before = file.read_text()
        assert file.read_bytes() == lesson("04").exercise.read_bytes() and Mine().progress["passed"] == ["rotary"]


def test_watch_checks_again_when_the_file_is_saved(learn, capsys):
    file, pauses = write("04"), []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            solve("04")
    assert commands.watch(Mine(), lesson("04"), sleep) == 0
    out = capsys.readouterr().out
    assert pauses == [0.5] * 3 and out.count(f"04 attention: {file}") == 2 and "waiting for the next change" in out


def test_a_spoiled_progress_file_and_no_such_lesson(learn):
    Mine().note(passed=["softmax"])
    (Mine().folder / "progress.json").write_text('{"passed": 3}')
    with pytest.raises(UserError, match="progress.json: not what tinycogvlm learn writes"):
        learn()
    with pytest.raises(UserError, match="no lesson 77; there are"):
        learn("start 77")


def test_without_lessons_it_says_where_they_are(monkeypatch):
    lessons.cache_clear()
    try:
        monkeypatch.setattr("tinycogvlm.learn.course.__file__", "/nowhere/tinycogvlm/learn/course.py")
        with pytest.raises(UserError, match="clone the repository"):
            lessons()
    finally:
        lessons.cache_clear()


# ---------------------------------------------------------------------------------- what a learner's code can do to us

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
    file = write("04", softmax=body)
    if trick == "endless loop":
        monkeypatch.setitem(commands.SECONDS, "check", 4)
    done = learn("check 04")
    assert done.code == 1 and said in done.out
    number = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if text.strip() == line.splitlines()[0])
    assert f"{file}:{number}, in softmax\n" in done.out and f"    {line}\n" in done.out
    assert "tinycogvlm/" not in done.out and "Traceback" not in done.out


def test_what_it_prints_is_shown_and_does_not_fill_the_memory(learn):
    write("04", softmax="print('the sum is', x.sum())\nfor _ in range(20000):\n    print('x' * 100)\nreturn x")
    done = learn("check 04")
    assert "your code printed:\n      the sum is " in done.out and len(done.out) < 6000 and "softmax" in done.out


def test_a_file_that_is_no_python_or_fails_at_once(learn):
    file = write("04", softmax="return (1")
    done = learn("check 04")
    assert f"{file}:" in done.out and "SyntaxError" in done.out and done.code == 1
    file.write_text("import numpy as np\n\n1 / 0\n\n\ndef softmax(x):\n    return x\n")
    done = learn("check 04")
    assert f"{file}:3, in <module>\n" in done.out and "ZeroDivisionError" in done.out
    file.write_text("def softmax(x):\n    return x\n")
    done = learn("check 04")
    assert "has no function attention; tinycogvlm learn reset 04" in done.out
    file.write_text("def softmax(x, axis):\n    return x\n\n\ndef attention(q):\n    return q\n")
    done = learn("check 04")
    assert "softmax(x, axis) cannot be called with x" in done.out
    assert "attention(q) cannot be called with q, k, v" in done.out


# ---------------------------------------------------------------------------------------------------- the first mistake

@pytest.mark.parametrize("number, name, body, said", [
    ("04", "softmax", "x -= x.max(-1, keepdims=True)\nreturn np.exp(x) / np.exp(x).sum(-1, keepdims=True)",
     "x was changed; work on a copy"),
    ("04", "softmax", "e = np.exp(x - x.max(-1, keepdims=True))\ne / e.sum(-1, keepdims=True)", "is there a return?"),
    ("04", "softmax", "e = np.exp(x - x.max(-1, keepdims=True))\nreturn (e / e.sum(-1, keepdims=True)).sum(-1)",
     "the result has the shape (2, 3); it should be (..., N) = (2, 3, 5)."),
    ("04", "softmax", "e = np.exp((x - x.max(-1, keepdims=True)).astype(float))\nreturn e / e.sum(-1, keepdims=True)",
     "the result has the type float64; it should be float32"),
    ("04", "attention",
     "s = np.exp(q @ k.swapaxes(-1, -2) / 2)\nreturn (s / s.sum(-1, keepdims=True) @ v).swapaxes(1, 2)",
     "the result has the shape (2, 5, 3, 4) = (B, T, H, d); it should be (B, H, T, d) = (2, 3, 5, 4).\n"
     "The sizes are right, their order is not."),
    ("01", "linear_gradients", "axes = tuple(range(x.ndim - 1))\n"
     "return dy @ weight, np.tensordot(dy, x, (axes, axes)), dy", "lacks the broadcast sum"),
    ("01", "linear_gradients", "return dy @ weight, 0", "3 arrays are to come back"),
    ("09", "rotary", "c, s = np.repeat(cos, 2, -1)[:, None], np.repeat(sin, 2, -1)[:, None]\n"
     "other = np.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)\nreturn x * c + other * s",
     "Neighbours are paired"),
    ("09", "causal_attention", "T, S = q.shape[2], k.shape[2]\ns = q @ k.transpose(0, 1, 3, 2) * q.shape[-1] ** -0.5\n"
     "s[:, :, ~np.tri(T, S, dtype=bool)] = -1e9\ne = np.exp(s - s.max(-1, keepdims=True))\n"
     "return e / e.sum(-1, keepdims=True) @ v", "the queries are the LAST of them"),
    ("05", "post_norm_block", "h = x + attention(norm1(x))\nreturn h + mlp(norm2(h))", "Your block is pre-norm"),
    ("05", "layer_norm", "m = x.mean(-1, keepdims=True)\ns = ((x - m) ** 2).mean(-1, keepdims=True) ** 0.5\n"
     "return weight * (x - m) / (s + eps) + bias", "The LayerNorm epsilon"),
    ("13", "grouped_attention", "n = q.shape[1] // k.shape[1]\nk, v = (np.concatenate([a] * n, 1) for a in (k, v))\n"
     "T, S = q.shape[2], k.shape[2]\nmask = np.where(np.tri(T, S, S - T), 0, -1e30)\n"
     "s = q @ k.swapaxes(2, 3) / q.shape[3] ** 0.5 + mask\n"
     "e = np.exp(s - s.max(-1, keepdims=True))\nreturn e / e.sum(-1, keepdims=True) @ v",
     "repeat instead of repeat_interleave"),
    ("12", "vision_expert_mask", "return types != 0", "eoi goes to the vision expert"),
    ("12", "position_ids", "return np.arange(types.size).reshape(types.shape) % types.shape[1]",
     "Every patch has its own"),
    ("12", "split_heads",
     "B, T, N = qkv.shape\nd = N // (H + 2 * G)\n"
     "q, k, v = np.split(qkv, [H * d, H * d + G * d], -1)\n"
     "return q.reshape(B, H, T, d), k.reshape(B, G, T, d), v.reshape(B, G, T, d)", "The axes are reshaped"),
], ids=lambda value: value if len(str(value)) < 20 else "")
def test_the_first_thing_that_is_wrong_is_named(learn, number, name, body, said):
    file = write(number, **{name: body})
    lines = child.wrong(name, learner.load(file)[name], file, lesson(number).functions[name])
    assert said in "\n".join(lines), lines


# ------------------------------------------------------------------------------------------------------------ the model

@pytest.fixture(scope="module")
def model():
    return load()


def test_a_function_of_zeros_changes_the_answer_and_is_counted(learn, model):
    right = model.ask(parts.park(), "Where is the dog?").text
    write("09", rms_norm="return 0 * x")
    with parts.installed(parts.mine()) as functions:
        wrong = model.ask(parts.park(), "Where is the dog?", max_new_tokens=30).text
    assert wrong != right
    layers = 2 * model.config.num_hidden_layers + 1
    assert functions["rms_norm"].calls % layers == 0 < functions["rms_norm"].calls
    assert parts.sentence(functions) == f"1 of {len(parts.PARTS)} parts of this answer ran through your code"
    assert model.ask(parts.park(), "Where is the dog?").text == right               # and is taken out again
    assert ops.rms_norm.__module__ == "tinycogvlm.ops"


def test_ask_mine(learn, capsys):
    ask = ["ask", "--mine", str(parts.park()), "Where is the dog?"]
    assert cli.main(ask) == 1 and "no function is written there yet" in capsys.readouterr().err
    write("09", rms_norm="return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight")
    assert cli.main(ask) == 0
    mine = capsys.readouterr()
    assert f"1 of {len(parts.PARTS)} parts of this answer ran through your code: rms_norm " in mine.err
    assert cli.main(ask[:1] + ask[2:]) == 0 and capsys.readouterr().out == mine.out
    file = write("09", rms_norm="return x / undefined")
    assert cli.main(ask) == 1
    assert capsys.readouterr().err.startswith(f"tinycogvlm: {file}:")


def test_an_error_in_the_model_shows_the_learner_s_line(learn, model):
    file = write("09", swiglu="return gate[:, :1000000] @ up")
    with pytest.raises(UserError) as caught, parts.installed(parts.mine()):
        model.ask(parts.park(), "Where is the dog?")
    assert str(caught.value).startswith(f"{file}:")
    assert "in swiglu\n    return gate[:, :1000000] @ up" in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_every_part_of_the_model_runs_through_the_learner_s_code(learn, model):
    """All lessons solved: each exercise of the answer is called, and the answer is the package's."""
    python = [found for found in lessons() if found.exercise and found.exercise.suffix == ".py"]
    for found in python:
        solve(found.number)
    right = model.ask(parts.park(), "Where is the dog?").text
    functions = {name: counted for name, counted in parts.mine().items() if EXERCISES[name].runs == "answer"}
    with parts.installed(functions):
        assert model.ask(parts.park(), "Where is the dog?").text == right
    assert parts.ran(functions) == {EXERCISES[name].part for name in functions if EXERCISES[name].place} - {None}


@pytest.mark.parametrize("number", ["01", "14"])
def test_a_gradient_runs_through_the_learner_s_code(learn, number):
    solve(number)
    done = learn(f"check {number}")
    assert done.code == 0, done.out
    called = [line.split()[0] for line in done.out.partition("The gradient of")[2].splitlines() if " calls, " in line]
    assert {name for name in lesson(number).functions if EXERCISES[name].runs == "gradient"} <= set(called)
    error = float(done.out.partition("differs from the package's by ")[2].split()[0])
    assert error < 1e-5


def test_softmax_is_counted_where_attention_calls_it(learn, model):
    write("04", softmax="e = np.exp(x - x.max(-1, keepdims=True))\nreturn e / e.sum(-1, keepdims=True)",
          attention="return softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]).astype(q.dtype)) @ v")
    with parts.installed(parts.mine()) as functions:
        model.ask(parts.park(), "Where is the dog?", max_new_tokens=1)
    assert functions["softmax"].calls == functions["attention"].calls == model.config.vision.num_hidden_layers
    assert parts.ran(functions) == {"softmax", "attention"}


@needs_runner
def test_a_kernel_of_the_learner_s(learn):
    solve("18")
    done = learn("check 18")
    assert done.code == 0, done.out
    assert f"1 of {len(parts.PARTS)} parts of this answer ran through your code" in done.out
    [line] = [line for line in done.out.splitlines() if line.startswith("  rms_norm_v2 ") and "calls" in line]
    assert "the package" in line


@needs_runner
def test_what_the_checker_says_of_a_kernel(learn):
    learn("start 18")
    file = Mine().file(lesson("18"))
    text = file.read_text()
    one = ("    int row = blockIdx.x * blockDim.x + threadIdx.x;\n    float sum = 0;\n"
           "    for (int d = 0; d < D; d++) sum += (float)x[row * D + d] * (float)x[row * D + d];\n"
           "    for (int d = 0; d < D; d++)\n"
           "        y[row * D + d] = (T)((float)x[row * D + d] * rsqrtf(sum / D) * (float)weight[d]);\n")
    file.write_text(text.replace("    // your code\n", one, 1))
    done = learn("check 18")
    line = file.read_text().splitlines().index(one.splitlines()[2]) + 1
    assert done.code == 1 and f"{file}:{line}: " in done.out and "rms_norm_v2          not written" in done.out
    inside = one.replace("\n    float", "\n    if (row >= rows) return;\n    float")
    file.write_text(text.replace("    // your code\n", inside, 1))
    assert "eps is missing" in learn("check 18").out


def test_the_learner_s_processes_are_gone_afterwards(learn):
    write("04", softmax="import subprocess\nsubprocess.Popen(['sleep', '60'])\nreturn np.exp(x)")
    outcome = process.run("check", Mine(), lesson("04"), 20)
    assert [row["state"] for row in outcome.rows] == ["wrong", "not written"] and not outcome.lines


def test_numbers_are_judged_and_not_warnings(learn):
    write("09", swiglu="return gate / (1 + np.exp(-gate)) * up")
    assert "Warning" not in learn("check 09").out


