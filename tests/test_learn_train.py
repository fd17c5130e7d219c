"""tinycogvlm learn train: a small model through the learner's loss, gradients and AdamW, and the curve that comes of it."""
import numpy as np
import pytest

from learners import solve, write
from tinycogvlm.cli import learn as commands
from tinycogvlm.contracts import CONTRACTS
from tinycogvlm.contracts.gradients import numerical_gradient
from tinycogvlm.learn import child, parts, process
from tinycogvlm.learn import train as training
from tinycogvlm.learn.course import FOLDER, Mine, lesson
from tinycogvlm.learn.curve import curve
from tinycogvlm.learn.lessons import EXERCISES
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.train.loop import optimizer


@pytest.fixture
def train(learn, monkeypatch):
    """The command, in this process and for a few steps of a small batch"""
    def run(job, mine, lesson, seconds):
        rows = []
        child.train(lesson, mine, [], lambda **facts: rows.append(facts))
        return process.Outcome([row for row in rows if row.keys() - {"running"}])
    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(training, "EARLY", 8)
    monkeypatch.setattr(training, "STEPS", 9)
    monkeypatch.setattr(training, "FRESH", 5)
    monkeypatch.setattr(training, "batch", lambda step, count=4, batch=training.batch: batch(step, min(count, 5)))
    return lambda: learn("train")


def test_a_step_is_a_step_of_the_model_s_own_loss(monkeypatch):
    found = {}
    monkeypatch.setattr(training.Training, "update", lambda self, gradients, step: found.update(gradients))
    twin = training.Training({})
    twin.step(0)
    inputs = training.read(*training.batch(0))
    loss, pull = CogVLM(training.CONFIG, twin.leaves).loss(inputs, np.where(inputs.types == 0, inputs.ids, -100))
    assert twin.losses == pytest.approx([float(loss)], rel=1e-6)
    right = pull()
    assert found.keys() == right.keys()
    for name, gradient in right.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-5 * np.abs(gradient).max(), err_msg=name)


def test_steps_follow_each_other_as_those_of_the_optimizer(monkeypatch):
    """Moments are kept, the rate is the schedule's, and what does not decay does not."""
    gradients, update = [], training.Training.update
    monkeypatch.setattr(training.Training, "update",
                        lambda self, found, step: (gradients.append(found), update(self, found, step)))
    twin = training.Training({})
    leaves, state = training.initial(), {name: np.zeros((2, *w.shape), w.dtype) for name, w in twin.leaves.items()}
    for step in range(3):
        twin.step(step)
        for name, gradient in gradients[step].items():
            rate = optimizer.cosine(step + 1, training.STEPS, training.RATE, training.WARMUP)
            decay = training.DECAY if optimizer.decays(name, leaves[name]) else 0
            optimizer.adamw(leaves[name], gradient, *state[name], step + 1, rate, (0.9, 0.98), decay=decay)
    for name, array in leaves.items():
        np.testing.assert_array_equal(twin.leaves[name], array, err_msg=name)


def test_lesson_15_leads_to_it(learn):
    solve("15")
    assert "through your own code: tinycogvlm learn train\n" in learn("check 15").out


def test_a_training_through_the_solutions_is_the_package_s(train, monkeypatch):
    for number in ("01", "02", "09", "14", "15"):
        solve(number)
        Mine().note_checked(lesson(number), dict.fromkeys(lesson(number).functions, True), Mine().digest(lesson(number)))
    functions = training.pieces(Mine())
    monkeypatch.setattr(training, "pieces", lambda own: functions)
    done = train()
    assert "\nAfter 9 steps the loss" in done.out
    assert done.code == 0 and ": the two curves are one." in done.out.replace("\n", " ") and "not written" not in done.out
    forward = [name for names in training.GRADIENTS.values() for name in names]
    named = done.out.partition("Yours in each step: ")[2].partition(".\n")[0].replace("\n", " ").split(", ")
    assert sorted(named) == sorted([*training.PIECES, *forward]) == sorted(functions)
    assert all(function.calls for function in functions.values())


def test_every_gradient_that_learners_write_is_a_piece():
    known = {name for name, exercise in EXERCISES.items() if exercise.runs == "gradient" and exercise.place}
    assert training.GRADIENTS.keys() == known
    for gradient, forward in training.GRADIENTS.items():
        assert {EXERCISES[name].place for name in forward} <= {EXERCISES[gradient].place}


def test_the_package_stands_in_for_what_is_missing(train):
    with pytest.raises(training.UserError, match=f"{FOLDER}: none of linear_gradients, .*, adamw is written there yet"):
        training.pieces(Mine())
    assert "The training cannot go on:\n      my-cogvlm: none of linear_gradients," in train().out
    write("09", rms_norm="return 0 * x")                    # which has no gradient, so it does not run
    write("15", adamw="b1, b2 = betas\nm = b1 * m + (1 - b1) * g\nv = b2 * v + (1 - b2) * g * g\n"
                      "w = w * (1 - rate * decay)\n"
                      "return w - rate * m / (1 - b1 ** step) / (np.sqrt(v / (1 - b2 ** step)) + eps), m, v")
    done = train()
    assert done.code == 0
    assert " Yours in each step: adamw. The package's, as yours are not written yet: linear_gradients, rms_norm_gradients, " \
        in done.out.replace("\n", " ")


SUM_MISSING = "dp = dy @ v.swapaxes(2, 3)\nds = p * dp / q.shape[-1] ** 0.5\n" \
              "return ds @ k, ds.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ dy"
TURNED_FORWARD = "first, second = np.split(dy, 2, -1)\ncos, sin = cos[:, None], sin[:, None]\n" \
                 "return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)"
SCALE_CONSTANT = "r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)\n" \
                 "return dy * weight * r, (dy * x * r).reshape(-1, x.shape[-1]).sum(0)"
UPHILL = "m = betas[0] * m + (1 - betas[0]) * g\nv = betas[1] * v + (1 - betas[1]) * g * g\n" \
         "return w + rate * m / (1 - betas[0] ** step) / (np.sqrt(v / (1 - betas[1] ** step)) + eps), m, v"
NOT_SHIFTED = "z = logits[types == 0]\nz = z - z.max(-1, keepdims=True)\nlabels = ids[types == 0]\n" \
              "return (np.log(np.exp(z).sum(-1)) - z[np.arange(len(labels)), labels]).mean()"
SUM_FOR_MEAN = "p = np.exp(logits - logits.max(-1, keepdims=True))\np /= p.sum(-1, keepdims=True)\n" \
               "rows = np.flatnonzero(labels != -100)\np[rows, labels[rows]] -= 1\np[labels == -100] = 0\nreturn p"
WRONG = {"attention_gradients": ("14", SUM_MISSING, "The softmax's gradient lacks its sum"),
         "rotary_gradient": ("14", TURNED_FORWARD, "The gradient is turned forward once more"),
         "rms_norm_gradients": ("14", SCALE_CONSTANT, "The path through the scale is missing"),
         "next_token_loss": ("15", NOT_SHIFTED, "The labels are not shifted"),
         "adamw": ("15", UPHILL, "")}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_piece_is_named_and_its_curve_parts(train, name):
    number, body, said = WRONG[name]
    write(number, **{name: body})
    done = train()
    assert done.code == 1 and f"\n{name} is wrong, and runs as it is:\n      {said}" in done.out
    assert f": the curves part because of {name}." in done.out.replace("\n", " ") and "(below the o)" not in done.out


def test_what_the_curve_does_not_show_is_said(train):
    """AdamW divides a gradient's size away."""
    write("14", cross_entropy_gradient=SUM_FOR_MEAN)
    done = train()
    assert done.code == 1 and "The mean is missing: divide by" in done.out
    assert "; the curve does not show what is wrong with cross_entropy_gradient" in done.out.replace("\n", " ")


def test_what_no_case_shows_is_seen_in_the_curve(train):
    write("14", rotary_gradient=TURNED_FORWARD.replace("first * cos - second * sin, second * cos + first * sin",
                                                       "first * cos + second * sin, second * cos - first * sin")
          + " * (0.5 if dy.shape[2] > 12 else 1)")
    done = train()
    assert done.code == 1 and "is wrong, and" not in done.out
    assert "something in your code is wrong that no case of the check shows" in done.out.replace("\n", " ")


@pytest.mark.parametrize("number, bodies, said", [
    ("14", dict(swiglu_gradients="return dy * undefined, dy"), ["in swiglu_gradients\n", "name 'undefined' is not defined"]),
    ("01", dict(linear_gradients="return dy @ weight, dy.reshape(-1, dy.shape[-1]).T @ x.reshape(-1, x.shape[-1]), dy"),
     ["linear_gradients is wrong, and runs as it is:\n      dbias lacks the sum over rows",
      "the gradient of model.", "has the shape"]),
    ("14", dict(rotary_gradient="return None"), ["rotary_gradient returned nothing: is there a return?"]),
    ("15", dict(adamw="return w, m"), ["the model cannot go on after adamw (ValueError: "]),
    ("15", dict(adamw="return w.sum(), m, v"), ["after adamw has the shape (); it should be "]),
    ("15", dict(next_token_loss="return 'small'"), ["the model cannot go on after next_token_loss (ValueError: "])])
def test_what_cannot_go_on_stops_with_a_sentence(train, number, bodies, said):
    write(number, **bodies)
    done = train()
    assert done.code == 1 and "\nThe training cannot go on:\n" in done.out and "Traceback" not in done.out
    for words in said:
        assert words in done.out


def test_a_loss_that_is_no_number_ends_the_curve(train):
    write("15", next_token_loss="return np.float64('nan' if logits.shape[1] > 12 else 2)")
    done = train()
    assert done.code == 1 and "\nIn step 1 the loss through your code is no longer a number; " in done.out
    assert "your model says: -\n" in done.out and "\n      o" not in done.out


def test_a_training_too_slow_ends_where_it_is(train, monkeypatch):
    monkeypatch.setattr(training, "SECONDS", -1)
    solve("15")
    assert "After 1 of 9 steps, for which the time was enough, the loss" in train().out.replace("\n", " ")


def test_a_curve_of_letters():
    lines = curve({".": [4, 3, 2, 1], "o": [4, 9, 2]})
    assert lines[0] == "  9.00 | o" and lines[6][:8] == "  4.50 |" and lines[-2] == "     0 +----"
    field = [line.partition("|")[2] for line in lines[:-2]]
    assert [next(i for i, row in enumerate(field) if row[column:column + 1].strip()) for column in range(4)] == [6, 0, 9, 10]
    assert "".join(sorted("".join(field).replace(" ", ""))) == "..ooo"
    assert max(map(len, curve({"o": np.linspace(3, 0, 500).tolist()}))) <= 70


# ------------------------------------------------------------------------------------------ what lesson 14 has beside it

def test_the_contracts_of_attention_s_gradients_are_those_of_attention():
    attention, softmax, rotary = (CONTRACTS[name].spec for name in ("attention", "softmax", "rotary"))
    for label, case in EXERCISES["attention_gradients"].contract.cases():
        if case["q"].size > 60:
            continue
        dy, q, k, v = (case[name] for name in ("dy", "q", "k", "v"))
        causal = bool((case["p"] == 0).any())
        found = EXERCISES["attention_gradients"].contract.spec(**case)
        for i, one in enumerate((q, k, v)):
            def loss(array, i=i):
                return (dy * attention(*(array if j == i else each for j, each in enumerate((q, k, v))),
                                       causal=causal)).sum()
            np.testing.assert_allclose(found[i], numerical_gradient(loss, one), atol=1e-8, err_msg=label)
    for label, case in EXERCISES["softmax_gradient"].contract.cases():
        with np.errstate(divide="ignore"):
            scores = np.maximum(np.log(case["p"]), -50)
        expected = numerical_gradient(lambda s, dp=case["dp"]: (dp * softmax(s)).sum(), scores)
        np.testing.assert_allclose(EXERCISES["softmax_gradient"].contract.spec(**case), expected, atol=1e-8, err_msg=label)
    for label, case in EXERCISES["rotary_gradient"].contract.cases():
        dy, tables = case["dy"], (case["cos"], case["sin"])
        if dy.size < 60:
            expected = numerical_gradient(lambda x, dy=dy, tables=tables: (dy * rotary(x, *tables)).sum(), 0 * dy)
            np.testing.assert_allclose(EXERCISES["rotary_gradient"].contract.spec(**case), expected, atol=1e-8,
                                       err_msg=label)


def test_a_file_from_before_gets_the_new_functions_and_keeps_the_rest(learn):
    """Lesson 14 had three functions when this learner solved it."""
    found, file = lesson("14"), solve("14")
    text = file.read_text(encoding="utf-8")
    old = text[:text.index("\n\n\ndef softmax_gradient")] + "\n"
    file.write_text(old, encoding="utf-8")
    names = list(found.functions)
    Mine().note_checked(found, dict.fromkeys(names[:3], True), Mine().digest(found))
    assert "14 gradients                    3 of 6 " in learn().out
    assert child.missing("rotary_gradient", names[:3], found, file).endswith("tinycogvlm learn start 14 adds it at the end.")
    assert "has new functions at its end, softmax_gradient, attention_gradients, rotary_gradient; the rest stays" in \
        learn("start 14").out
    now = file.read_text(encoding="utf-8")
    assert now.startswith(old) and Mine().progress["passed"] == names[:3]
    assert parts.written(file) == {name: parts.written(file)[name] for name in names}
    assert [bool(line) for line in parts.written(file).values()] == [True] * 3 + [False] * 3
    assert "exists and stays as it is" in learn("start 14").out and file.read_text(encoding="utf-8") == now


@pytest.mark.slow
def test_a_piece_that_never_returns_is_stopped_and_its_line_shown(learn, monkeypatch):
    monkeypatch.setitem(commands.SECONDS, "train", 20)
    file = write("14", rms_norm_gradients=SCALE_CONSTANT, rotary_gradient="while True: dy = dy + 0")
    done = learn("train")
    assert done.code == 1 and "rms_norm_gradients is wrong, and runs as it is:\n" in done.out
    assert "The training cannot go on:\n      stopped after 20 seconds in rotary_gradient: an endless loop" in done.out
    assert f"\n      {file}:" in done.out and ", in rotary_gradient\n          while True: dy = dy + 0\n" in done.out


@pytest.mark.slow
def test_the_whole_training_in_a_process_of_its_own(learn):
    for number in ("01", "02", "09", "14", "15"):
        solve(number)
    done = learn("train")
    assert done.code == 0, done.out
    assert "the two curves are one." in done.out.replace("\n", " ")
