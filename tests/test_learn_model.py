"""The model answers, and learns, through a learner's functions and kernels."""
import io

import pytest

from learners import solve, write
from tinycogvlm import load
from tinycogvlm.cli import main
from tinycogvlm.nn import ops
from tinycogvlm.nn.swap import op
from tinycogvlm.errors import UserError
from tinycogvlm.kernels.runner import build
from tinycogvlm.cli import learn as commands
from tinycogvlm.learn import parts
from tinycogvlm.learn.course import Mine, lesson, lessons
from tinycogvlm.learn.lessons import EXERCISES

needs_runner = pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))


@pytest.fixture(scope="module")
def model():
    return load()


def test_a_function_of_zeros_changes_the_answer_and_is_counted(learn, model):
    right = model.ask(parts.park(), "Where is the dog?").text
    write("09", rms_norm="return 0 * x")
    with parts.installed(parts.mine(Mine())) as functions:
        wrong = model.ask(parts.park(), "Where is the dog?", max_new_tokens=30).text
    assert wrong != right
    layers = 2 * model.config.num_hidden_layers + 1
    assert functions["rms_norm"].calls % layers == 0 < functions["rms_norm"].calls
    assert parts.sentence(functions) == f"1 of {len(parts.PARTS)} parts of this answer ran through your code"
    assert model.ask(parts.park(), "Where is the dog?").text == right               # and is taken out again
    assert ops.rms_norm.__module__ == "tinycogvlm.nn.ops"


def test_ask_mine(learn, capsys):
    ask = ["ask", "--mine", str(parts.park()), "Where is the dog?"]
    assert main.main(ask) == 1 and "no function is written there yet" in capsys.readouterr().err
    write("09", rms_norm="return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight")
    assert main.main(ask) == 0
    mine = capsys.readouterr()
    assert f"1 of {len(parts.PARTS)} parts of this answer ran through your code; calls: " in mine.err
    assert mine.err.endswith(" of rms_norm\n")
    assert main.main(ask[:1] + ask[2:]) == 0 and capsys.readouterr().out == mine.out
    file = write("09", rms_norm="return x / undefined")
    assert main.main(ask) == 1
    assert capsys.readouterr().err.splitlines()[1].startswith(f"tinycogvlm: {file}:")


def test_an_error_in_the_model_shows_the_learner_s_line(learn, model):
    file = write("09", swiglu="return gate[:, :1000000] @ up")
    with pytest.raises(UserError) as caught, parts.installed(parts.mine(Mine())):
        model.ask(parts.park(), "Where is the dog?")
    assert str(caught.value).startswith(f"{file}:")
    assert "in swiglu\n    return gate[:, :1000000] @ up" in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_every_part_of_the_model_runs_through_the_learner_s_code(learn, model):
    """All lessons solved: each part is called, softmax by attention, and the answer is the package's."""
    python = [found for found in lessons() if found.exercise and found.exercise.suffix == ".py"]
    for found in python:
        solve(found.number)
    right = model.ask(parts.park(), "Where is the dog?").text
    functions = {name: counted for name, counted in parts.mine(Mine()).items() if EXERCISES[name].runs == "answer"}
    with parts.installed(functions):
        assert model.ask(parts.park(), "Where is the dog?").text == right
    assert parts.ran(functions) == {EXERCISES[name].part for name in functions} - {None}


@pytest.mark.parametrize("number", ["01", "14"])
def test_a_gradient_runs_through_the_learner_s_code(learn, number):
    solve(number)
    done = learn(f"check {number}")
    assert done.code == 0, done.out
    before, _, after = done.out.partition("The gradient of")
    for out, runs in ((before, "answer"), (after, "gradient")):            # each sentence has its own calls below it
        own = {name for name in lesson(number).functions if EXERCISES[name].part and EXERCISES[name].runs == runs}
        assert {line.split()[0] for line in out.splitlines() if " call" in line} == own
    error = float(done.out.partition("differs from the package's by ")[2].split()[0])
    assert error < 1e-5


@pytest.mark.slow
def test_a_sentence_with_nothing_below_it_ends_in_a_full_stop(learn):
    write("02", softmax="e = np.exp(x - x.max(-1, keepdims=True))\nreturn e / e.sum(-1, keepdims=True)")
    done = learn("check 02")                                # nothing of the learner's calls it yet
    assert f"\n0 of {len(parts.PARTS)} parts of this answer ran through your code.\n" in done.out
    write("02", softmax="e = np.exp(x - x.max(-1, keepdims=True))\nreturn e / e.sum(-1, keepdims=True)",
          attention="return softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]).astype(q.dtype)) @ v")
    of_softmax, of_attention = (line for line in learn("check 02").out.splitlines() if line.endswith(" ms"))
    assert of_softmax.startswith("  softmax ")
    assert "the package" not in of_softmax and "; the package " in of_attention       # which never calls it by itself


def test_softmax_is_counted_where_attention_calls_it(learn, model):
    write("02", softmax="e = np.exp(x - x.max(-1, keepdims=True))\nreturn e / e.sum(-1, keepdims=True)",
          attention="return softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]).astype(q.dtype)) @ v")
    with parts.installed(parts.mine(Mine())) as functions:
        model.ask(parts.park(), "Where is the dog?", max_new_tokens=1)
    assert functions["softmax"].calls == functions["attention"].calls == model.config.vision.num_hidden_layers
    assert parts.ran(functions) == {"softmax", "attention"}


def test_what_takes_the_place_of_an_earlier_function_says_so(learn):
    """The count of parts stays, and nothing is lost."""
    solve("09")
    Mine().note_checked(lesson("09"), dict.fromkeys(lesson("09").functions, True), Mine().digest(lesson("09")))
    solve("13")
    out = learn("check 13").out
    assert f"\n4 of {len(parts.PARTS)} parts" in out and "in place of causal_attention\n" in out


@pytest.mark.slow
@needs_runner
@pytest.mark.parametrize("number, count, called", [("80", 1, {"rms_norm_v2"}),
                                                   pytest.param("81", 1, {"expert_matmul_v2"}, marks=pytest.mark.slow),
                                                   pytest.param("82", 1, {"expert_matmul_v4"}, marks=pytest.mark.slow),
                                                   pytest.param("83", 2, {"gemv_v2", "attention_decode_combine"},
                                                                marks=pytest.mark.slow)])
def test_a_kernel_of_the_learner_s(learn, number, count, called):
    """Of a ladder's rungs the model gets the last."""
    solve(number)
    done = learn(f"check {number}")
    assert done.code == 0, done.out
    assert f"{count} of {len(parts.PARTS)} parts of this answer ran through your code" in done.out
    shown = done.out.partition("parts of this answer")[2].splitlines()
    assert {line.split()[0] for line in shown if " call" in line and "the package" in line} == called


@needs_runner
@pytest.mark.parametrize("names, calls", [(["expert_matmul_v1"], ["2 * L"]), (["expert_matmul_v2"], ["2 * L"]),
                                          (["expert_matmul_v4"], ["2 * L"]),
                                          (["gemv_v2", "attention_decode_combine"], ["1 + 2 * (5 * L + 1)", "2 * L"])])
def test_where_a_kernel_works_in_the_model(model, names, calls):
    """Two products of each layer for the prompt; logits; of two more tokens five products and attention of each."""
    functions = {name: parts.Counted(op(EXERCISES[name].package)) for name in names}
    right = model.ask(parts.park(), "Where is the dog?", max_new_tokens=3).text
    with parts.installed(functions):
        assert model.ask(parts.park(), "Where is the dog?", max_new_tokens=3).text == right
    assert [functions[name].calls for name in names] == [eval(n, {"L": model.config.num_hidden_layers}) for n in calls]


@needs_runner
def test_the_solution_of_a_kernel_is_all_of_it():
    for number, name, last in (("80", "rms_norm_v2", "y[d] = (T)"), ("82", "expert_matmul_v4", "(float)bias[o] : 0));"),
                               ("83", "gemv_v1", "= (T)sum;")):
        path, text = commands.answer(lesson(number), name)
        assert last in text.splitlines()[-3] + text.splitlines()[-2] and text.endswith("}") and ".cu:" in path


@needs_runner
def test_what_the_checker_says_of_a_kernel(learn):
    learn("start 80")
    file = Mine().file(lesson("80"))
    text = file.read_text()
    one = ("    int row = blockIdx.x * blockDim.x + threadIdx.x;\n    float sum = 0;\n"
           "    for (int d = 0; d < D; d++) sum += (float)x[row * D + d] * (float)x[row * D + d];\n"
           "    for (int d = 0; d < D; d++)\n"
           "        y[row * D + d] = (T)((float)x[row * D + d] * rsqrtf(sum / D) * (float)weight[d]);\n")
    file.write_text(text.replace("    // your code\n", one, 1))
    done = learn("check 80")
    line = file.read_text().splitlines().index(one.splitlines()[2]) + 1
    assert done.code == 1 and f"{file}:{line}: " in done.out and "rms_norm_v2            not written" in done.out
    inside = one.replace("\n    float", "\n    if (row >= rows) return;\n    float")
    file.write_text(text.replace("    // your code\n", inside, 1))
    assert "eps is missing" in learn("check 80").out


# ---------------------------------------------------------------------------------------------------------- ask --mine

NORM = "return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight"
ASK = ["ask", "--mine", "-", "Where is the dog?", "--max-new-tokens", "2"]


@pytest.mark.parametrize("body, said", [
    ("return x[..., :5]", "the model cannot go on after rms_norm (ValueError: "),
    ("return None", "rms_norm returned nothing: is there a return?"),
    ("return 'text'", "the model cannot go on after rms_norm ("),
    ("return x, x", "the model cannot go on after rms_norm ("),
    ("import sys\nsys.exit(0)", "in rms_norm\n    sys.exit(0)\nSystemExit: 0"),
])
def test_what_does_not_fit_into_the_model_is_one_sentence(learn, capsys, body, said):
    file = write("09", rms_norm=body)
    assert main.main(ASK) == 1
    mine = capsys.readouterr()
    assert said in mine.err and f"{file}:" in mine.err and "Traceback" not in mine.err and mine.out.strip() == ""


def test_a_call_that_never_ends_is_stopped(learn, capsys, monkeypatch):
    monkeypatch.setattr(parts, "LONGEST", 0.5)
    file = write("09", rms_norm="while True:\n    try:\n        x = x + 1\n    except Exception:\n        pass")
    assert main.main(ASK) == 1
    mine = capsys.readouterr()
    assert f"{file}:" in mine.err and "in rms_norm" in mine.err and "an endless loop?" in mine.err


def test_functions_that_have_not_passed_or_were_changed_since_are_named(learn, capsys):
    file = write("09", rms_norm=NORM)
    assert main.main(ASK) == 0
    assert capsys.readouterr().err.startswith("tinycogvlm: rms_norm: not passed yet\n")
    learn("check 09")
    assert main.main(ASK) == 0
    assert "tinycogvlm: " not in capsys.readouterr().err
    file.write_text(file.read_text() + "\n# changed\n")
    assert main.main(ASK) == 0
    assert f"tinycogvlm: {file}: changed since the last check; tinycogvlm learn check 09\n" in capsys.readouterr().err


@pytest.mark.parametrize("words, typed", [(["caption", str(parts.park())], ""), (["chat"], "Where is the dog?\n"),
                                          (["ground", str(parts.park()), "the dog"], "")])
def test_every_command_that_asks_takes_mine(learn, capsys, monkeypatch, words, typed):
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    write("09", rms_norm=NORM)
    arguments = [*words, "--max-new-tokens", "30"]
    assert main.main(arguments) == 0
    package = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert main.main([*arguments, "--mine"]) == 0
    mine = capsys.readouterr()
    assert mine.out == package and mine.err.endswith(" of rms_norm\n")
    assert main.main([*arguments, "--mine", "--kernels"]) == 2 and "--mine runs your functions" in capsys.readouterr().err
