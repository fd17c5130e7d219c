"""The steps of tinycogvlm learn, and what it says of a learner's first mistake."""
import json
from pathlib import Path

import pytest

from learners import solve, write
from tinycogvlm.errors import UserError
from tinycogvlm.cli import learn as commands
from tinycogvlm.cli import main
from tinycogvlm.learn import child, learner, parts
from tinycogvlm.learn.course import FOLDER, Mine, lesson, lessons, nearest


def test_from_nothing_to_a_pass(learn):
    begun = learn()
    assert begun.code == 0 and "next: read" in begun.out and "tinycogvlm learn start 01" in begun.out
    with pytest.raises(UserError, match="no lesson is under way; start with: tinycogvlm learn start 01"):
        learn("check")
    with pytest.raises(UserError, match="lesson 09 is not started: tinycogvlm learn start 09"):
        learn("check 9")
    started = learn("start 09")
    file = Mine().file(lesson("09"))
    assert str(file) in started.out and file.read_bytes() == lesson("09").exercise.read_bytes()
    file.write_text(file.read_text() + "# mine\n")
    assert "stays as it is" in learn("start 9").out and file.read_text().endswith("# mine\n")

    stub = learn("check")
    assert stub.code == 1 and stub.out.count("not written") == 4
    assert stub.out.endswith("To go on with rms_norm, a hint: tinycogvlm learn hint 09 rms_norm\n")

    write("09", rms_norm="return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight")
    half = learn("check 09")
    assert half.code == 1 and f"1 of {len(parts.PARTS)} parts of this answer ran through your code" in half.out
    assert json.loads((Mine().folder / "progress.json").read_text())["passed"] == ["rms_norm"]
    assert "1 of 4   rms_norm" in learn().out and "write rotary in" in learn().out

    solve("09")
    whole = learn("check")
    assert whole.out.count("; the package ") == 4
    answers = [line.partition(":")[2].strip() for line in whole.out.splitlines()
               if line.startswith(("  through your code", "  by the package"))]
    assert whole.code == 0 and len(answers) == 2 and answers[0] == answers[1]
    assert f"4 of {len(parts.PARTS)} parts of this answer ran through your code" in whole.out
    assert all(f"  {name} " in whole.out for name in lesson("09").functions)
    assert "+ 09" in learn().out

    write("09")
    assert learn("check 09").code == 1 and Mine().progress["passed"] == []          # progress is what passes now


def test_hints_say_more_each_time(learn):
    learn("start 02")
    hints = [learn("hint").out for _ in range(4)]
    for level, (out, hint) in enumerate(zip(hints, lesson("02").hints["softmax"]), 1):
        assert out == f"softmax, hint {level} of 3: {hint}\n"
    assert hints[3] == hints[2]
    assert learn("hint 02 attention").out.startswith("attention, hint 1 of 3")
    with pytest.raises(UserError, match="lesson 02 has no function softmin; it has softmax, attention"):
        learn("hint 02 softmin")


def test_the_solution_is_shown_when_asked_twice_or_passed(learn):
    write("02", softmax="return x  # mine")
    first = learn("solution 02")
    assert first.code == 1 and "def softmax" not in first.out
    second = learn("solution 02")
    assert second.code == 0 and "return x  # mine" in second.out
    path, text = commands.answer(lesson("02"), "softmax")
    assert text.startswith("def softmax(x):\n") and text.endswith("\n    return e / e.sum(-1, keepdims=True)")
    assert f"# a solution: {path}\n\n{text}\n" in second.out and "02_attention/solution.py:" in path
    place = second.out.partition("# in the package: ")[2].splitlines()[0]
    name, _, line = place.rpartition(":")
    assert name.endswith("nn/ops.py")
    assert Path(name).read_text(encoding="utf-8").splitlines()[int(line)].startswith("def softmax(")
    Mine().change(lambda progress: progress.update(passed=["softmax", "attention"]))
    passed = learn("solution 02")
    assert passed.code == 0 and "def softmax" in passed.out and "def attention" in passed.out


def test_reset_keeps_what_was_there(learn):
    file = write("02", softmax="return 1")
    Mine().change(lambda progress: progress.update(passed=["softmax", "rotary"]))
    before = file.read_text()
    for i in (1, 2):
        out = learn("reset 02").out
        backup = file.with_name(f"02_attention.backup{i}.py")
        assert str(backup) in out and backup.read_text() == before
        before = file.read_text()
        assert file.read_bytes() == lesson("02").exercise.read_bytes() and Mine().progress["passed"] == ["rotary"]


@pytest.mark.slow
def test_watch_checks_again_when_the_file_is_saved(learn, capsys):
    file, pauses = write("02"), []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            solve("02")
    assert commands.watch(Mine(), lesson("02"), sleep) == 0
    out = capsys.readouterr().out
    assert pauses == [0.5] * 3 and out.count(f"02 attention: {file}") == 2 and "waiting for the next change" in out


def test_the_learner_s_folder_is_found_from_below(learn, monkeypatch, tmp_path):
    learn("start 02")
    for below, shown in ((Path("lessons", "02_attention"), Path("..", "..", FOLDER)), (Path(FOLDER), Path())):
        Path(tmp_path, below).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / below)
        assert "next: write softmax in" in learn().out
        file = write("02", softmax="return x / undefined")
        assert file == shown / "02_attention.py" and f"{file}:" in learn("check 02").out
        assert "stays as it is" in learn("start 02").out
    assert sorted(tmp_path.rglob(FOLDER)) == [tmp_path / FOLDER]


def test_the_learner_s_folder_is_made_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("tinycogvlm.learn.course.FOLDER", "nobody-has-such-a-folder")
    monkeypatch.chdir(tmp_path)
    assert Mine().folder == Path("nobody-has-such-a-folder")
    assert Mine().start(lesson("02")) and Mine().begun(lesson("02"))
    assert nearest(tmp_path / "a" / "b").parent == tmp_path


def test_kernels_that_cannot_run_here(learn, monkeypatch):
    monkeypatch.setattr("tinycogvlm.kernels.runner.build.cpu_runner", lambda: "no g++ is found")
    assert learn("start 80").code == 0 and learn("hint 80").code == 0
    for step in ("check", "watch"):
        with pytest.raises(UserError, match=r"^what you write in lesson 80 cannot be checked here: no g\+\+ is found$"):
            learn(f"{step} 80")
    learn("start 02")
    assert "not written" in learn("check 02").out


@pytest.mark.slow
def test_the_lesson_under_way_is_the_last_one_that_was_named(learn):
    learn("start 04")
    assert "04 patches" in learn("check").out
    learn("start 02")
    assert "02 attention" in learn("check").out and "write softmax in" in learn().out
    learn("hint 04")
    assert "04 patches" in learn("check").out
    solve("04")
    assert learn("check").code == 0
    assert "02 attention" in learn("check").out             # what is left


def test_the_overview_explains_its_marks_and_begins_with_lesson_00(learn):
    out = learn().out
    total = sum(len(found.functions) for found in lessons())
    assert f"\n+ all pass, . started; 0 of {total} functions pass\n" in out
    assert "next: read " in out and "00_ask_a_picture/README.md, " in out.splitlines()[-1]
    solve("02")
    learn("check 02")
    out = learn().out
    assert f"; 2 of {total} functions pass" in out and "00_ask_a_picture" not in out.splitlines()[-1]


def test_too_many_words_name_the_step(learn, capsys):
    assert main.main(["learn", "hint", "01", "linear", "x"]) == 2
    assert capsys.readouterr().err == "tinycogvlm: unrecognized arguments: x; see tinycogvlm learn hint --help\n"


def test_no_such_lesson(learn):
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


# ---------------------------------------------------------------------------------------------------- the first mistake

@pytest.mark.parametrize("number, name, body, said", [
    ("02", "softmax", "x -= x.max(-1, keepdims=True)\nreturn np.exp(x) / np.exp(x).sum(-1, keepdims=True)",
     "x was changed; work on a copy"),
    ("02", "softmax", "e = np.exp(x - x.max(-1, keepdims=True))\ne / e.sum(-1, keepdims=True)", "is there a return?"),
    ("02", "softmax", "e = np.exp(x - x.max(-1, keepdims=True))\nreturn (e / e.sum(-1, keepdims=True)).sum(-1)",
     "the result has the shape (2, 3); it should be (..., N) = (2, 3, 5)."),
    ("02", "softmax", "e = np.exp((x - x.max(-1, keepdims=True)).astype(float))\nreturn e / e.sum(-1, keepdims=True)",
     "the result has the type float64; it should be float32. NumPy's own numbers, such as np.sqrt(2), np.eye(n) or "
     "bytes / 255, are float64 and turn float32 into float64: give them a dtype, or use .astype(x.dtype)."),
    ("03", "normalise", "return (colours / 255).transpose(2, 0, 1)", "or use .astype(np.float32)."),
    ("02", "softmax", "return x.astype(np.float32)", "it should be float64. Use .astype(x.dtype)."),
    ("11", "position_ids", "return np.ones(types.shape)", "it should be int64. Use .astype(types.dtype)."),
    ("12", "vision_expert_mask", "return 1.0 * (types != 0)", "it should be bool. Use .astype(bool)."),
    ("01", "linear", "from tinycogvlm.nn import ops\nreturn ops.linear(x, weight, bias)",
     "the result came back together with its pullback, as the package's operations give it; take the first of the two"),
    ("02", "attention", "s = q @ k.swapaxes(-1, -2)\nreturn s @ v, s", "one array should come back, not 2."),
    ("18", "multiplications", "B, T = types.shape\nreturn B * T * (2 * D * D + 2 * G * D * D / H + 3 * D * F) "
     "+ B * T * (T + 1) * D", "the result is 1800.0; it should be a whole number: // divides without a fraction."),
    ("12", "vision_expert_mask", "mask = np.zeros(types.shape, bool)\n"
     "mask[:, :-1] = (types[:, :-1] == types[:, 1:]) & (types[:, :-1] > 0)\nmask[0, 0] = True\nreturn mask",
     "1 of 8 entries of the result is wrong, in row 0: [True True True True False False False False], expected [False "
     "True True True False False False False]\nAlong axis 1 all is right at 1 to 7; what is wrong is at 0.\n"
     "case \"image in front of text\": types = [[0, 1, 1, 1, 1, 0, 0, 0]]"),
    ("02", "softmax", "return x / 0", "9 of 9 entries of the result are wrong, 9 of them NaN"),
    ("02", "attention",
     "s = np.exp(q @ k.swapaxes(-1, -2) / 2)\nreturn (s / s.sum(-1, keepdims=True) @ v).swapaxes(1, 2)",
     "the result has the shape (2, 5, 3, 4) = (B, T, H, d); it should be (B, H, T, d) = (2, 3, 5, 4).\n"
     "The sizes are right, their order is not."),
    ("01", "linear_gradients", "axes = tuple(range(x.ndim - 1))\n"
     "return dy @ weight, np.tensordot(dy, x, (axes, axes)), dy", "lacks the sum over rows"),
    ("01", "linear_gradients", "return dy @ weight, 0", "3 arrays should come back, as in: return dx, dweight, dbias"),
    ("06", "box_loss", "e = places - boxes\nnear = np.abs(e) < beta\n"
     "loss = np.where(near, e ** 2 / (2 * beta), np.abs(e) - beta / 2).mean()\n"
     "return loss, np.where(near, e / beta, np.sign(e))", "the slopes are divided by 4 N, too"),
    ("06", "box_loss", "return places - boxes, places - boxes", "loss has the shape (2, 4); it should be ()."),
    ("09", "rotary", "c, s = np.repeat(cos, 2, -1)[:, None], np.repeat(sin, 2, -1)[:, None]\n"
     "other = np.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)\nreturn x * c + other * s",
     "Neighbours are paired"),
    ("09", "causal_attention", "T, S = q.shape[2], k.shape[2]\ns = q @ k.transpose(0, 1, 3, 2) * q.shape[-1] ** -0.5\n"
     "s[:, :, ~np.tri(T, S, dtype=bool)] = -1e9\ne = np.exp(s - s.max(-1, keepdims=True))\n"
     "return e / e.sum(-1, keepdims=True) @ v", "the queries are the LAST of them"),
    ("05", "post_norm_block", "h = x + attention(norm1(x))\nreturn h + mlp(norm2(h))", "Your block is pre-norm"),
    ("05", "layer_norm", "m = x.mean(-1, keepdims=True)\ns = ((x - m) ** 2).mean(-1, keepdims=True) ** 0.5\n"
     "return weight * (x - m) / (s + eps) + bias", "The LayerNorm epsilon"),
    ("09", "causal_attention", "s = q @ k.transpose(0, 1, 3, 2) / q.shape[-1]\n"
     "s[:, :, np.tri(q.shape[2]) == 0] = -1e9                # raises where k has more tokens than q\n"
     "e = np.exp(s - s.max(-1, keepdims=True))\nreturn e / e.sum(-1, keepdims=True) @ v", "The scale is 1/d"),
    ("13", "grouped_attention", "n = q.shape[1] // k.shape[1]\nk, v = (np.concatenate([a] * n, 1) for a in (k, v))\n"
     "T, S = q.shape[2], k.shape[2]\nmask = np.where(np.tri(T, S, S - T), 0, -1e30)\n"
     "s = q @ k.swapaxes(2, 3) / q.shape[3] ** 0.5 + mask\n"
     "e = np.exp(s - s.max(-1, keepdims=True))\nreturn e / e.sum(-1, keepdims=True) @ v",
     "0 0 1 1 as np.repeat does"),
    ("13", "grouped_attention", "n, T, S = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]\n"
     "s = q @ np.repeat(k, n, 1).swapaxes(2, 3) / q.shape[3] ** 0.5\ns = np.where(np.tri(T, S), s, -np.inf)\n"
     "e = np.exp(s - s.max(-1, keepdims=True))\nreturn e / e.sum(-1, keepdims=True) @ np.repeat(v, n, 1)",
     "the queries are the LAST of them"),
    ("17", "iou", "return 0.5",
     "the result is 0.5; it should be 1.\ncase \"alike\": a = (1, 2, 4, 6), b = (1, 2, 4, 6)"),
    ("12", "vision_expert_mask", "return types != 0", "eoi goes to the vision expert"),
    ("11", "position_ids", "return np.arange(types.size).reshape(types.shape) % types.shape[1]",
     "Every patch has its own"),
    ("12", "split_heads",
     "B, T, N = qkv.shape\nd = N // (H + 2 * G)\n"
     "q, k, v = np.split(qkv, [H * d, H * d + G * d], -1)\n"
     "return q.reshape(B, H, T, d), k.reshape(B, G, T, d), v.reshape(B, G, T, d)", "The axes are reshaped"),
    ("12", "split_heads", "return np.split(qkv.reshape(len(qkv), H + 2 * G, qkv.shape[1], -1), [H, H + G], 1)",
     "The axes are reshaped"),
    ("15", "next_token_loss", "rows = types == 0\nz, labels = logits[rows], ids[rows]\n"
     "z = z - z.max(-1, keepdims=True)\n"
     "return np.mean(np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), labels])", "The labels are not shifted"),
    ("15", "next_token_loss", "rows = types[:, :-1] == 0\np = np.exp(logits[:, :-1][rows])     # overflows as well\n"
     "p /= p.sum(-1, keepdims=True)\n"
     "return -np.log(p[np.arange(len(p)), ids[:, 1:][rows]]).mean()", "The mask is that of the token that predicts"),
], ids=lambda value: value if len(str(value)) < 20 else "")
def test_the_first_thing_that_is_wrong_is_named(learn, number, name, body, said):
    file = write(number, **{name: body})
    lines = child.wrong(name, learner.load(file)[name], file, lesson(number).functions[name])
    assert said in "\n".join(lines), lines
