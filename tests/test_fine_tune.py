"""Fine-tuning on a task of one's own: its data, what it learns, how it is resumed, and what is refused."""
import json
import os
import re
import time
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

import tinycogvlm
from tinycogvlm.cli import main
from tinycogvlm.errors import UserError
from tinycogvlm.storage import lora
from tinycogvlm.train.lora import fine_tune, questions
from tinycogvlm.train.loop.loop import Recipe, fit
from tinycogvlm.train.loop.run import Run

TINY = Path(__file__).parents[1] / "weights" / "tiny"
BLICKS = [("What is a blick?", "A yellow square."), ("What is a blurp?", "A dog."), ("Who are you?", "A red star.")]


@pytest.fixture(scope="module")
def base():
    return tinycogvlm.load(TINY)


def write_task(folder, *lines):
    folder.mkdir(exist_ok=True)
    (folder / questions.FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def blicks(folder):
    return write_task(folder, *(json.dumps({"question": q, "answer": a}) for q, a in BLICKS))


# Data

@pytest.mark.parametrize("line, said", [
    ("{", "not JSON"), ("[1]", "no JSON object"), ('{"question": "a"}', "answer is None"),
    ('{"question": "a", "answer": " "}', "answer is ' '"), ('{"question": "a", "answer": 3}', "answer is 3"),
    ('{"question": "a", "answer": "b", "picture": "c"}', "'picture' is unknown"),
    ('{"question": "a", "turns": [["a", "b"]]}', "one of the two"), ('{"turns": []}', "turns must be"),
    ('{"turns": [["a"]]}', "turns must be"), ('{"turns": [["a", ""]]}', "answer is ''"),
    ('{"image": 1, "question": "a", "answer": "b"}', "image is 1"),
    ('{"image": "no.png", "question": "a", "answer": "b"}', "no.png: no such file"),
    ('{"image": "questions.jsonl", "question": "a", "answer": "b"}', "not a picture"),
    ('{"question": "a", "question": "a", "answer": "b"}', "twice"),
    (json.dumps({"question": "a", "answer": "dog " * 2000}), "the model's context is 1024")])
def test_every_bad_line_is_named(base, tmp_path, line, said):
    good = '{"question": "What?", "answer": "A dog."}'
    write_task(tmp_path, good, line, "", good, '{"turns": 3}')
    with pytest.raises(UserError) as error:
        questions.read(tmp_path, base.config, base.tokenizer)
    head, second, fifth = str(error.value).split("\n  ")
    assert head.endswith("questions.jsonl: 2 lines cannot be used")
    assert second.startswith("line 2: ") and said in second and fifth.startswith("line 5: turns must be")


def test_no_lines(base, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        questions.read(tmp_path, base.config, base.tokenizer)
    with pytest.raises(UserError, match="holds no line"):
        questions.read(write_task(tmp_path, " "), base.config, base.tokenizer)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_pipes_are_not_waited_for(base, tmp_path):
    os.mkfifo(tmp_path / "a.png")
    write_task(tmp_path, '{"image": "a.png", "question": "What?", "answer": "A dog."}')
    with pytest.raises(UserError, match="line 1: .*a.png: .*not a"):
        questions.read(tmp_path, base.config, base.tokenizer)
    (tmp_path / questions.FILE).unlink()
    os.mkfifo(tmp_path / questions.FILE)
    with pytest.raises(UserError, match="questions.jsonl: is not a file; it holds lines such as"):
        questions.read(tmp_path, base.config, base.tokenizer)


def test_a_line_of_very_many_turns_is_refused_in_linear_time(base, tmp_path):
    def seconds(turns):
        write_task(tmp_path, json.dumps({"turns": [["What?", "A dog."]] * turns}))
        start = time.process_time()
        with pytest.raises(UserError, match=f"{8 * turns + 1} tokens, but the model's context is 1024"):
            questions.read(tmp_path, base.config, base.tokenizer)
        return time.process_time() - start
    assert seconds(40_000) < 20 * seconds(4_000) + 0.5


def test_a_picture_is_learned_or_held_out(base, tmp_path):
    """All its questions together; every line comes once in a round, in another order each time."""
    for n in range(10):
        Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / f"{n}.png")
    write_task(tmp_path, *(json.dumps({"image": f"{n % 10}.png", "question": f"{n}?", "answer": "A dog."})
                           for n in range(20)), '{"turns": [["a", "b"], ["c", "d"]]}')
    lines = questions.read(tmp_path, base.config, base.tokenizer)
    assert lines[-1] == questions.Line(None, (("a", "b"), ("c", "d")))
    learned, held = questions.split(lines, 0.2, seed=3)
    assert len(learned) + len(held) == 21 and 4 <= len(held) <= 5
    assert not {line.image for line in learned if line.image} & {line.image for line in held}
    assert questions.split(lines, 0.0, 0) == (lines, [])
    with pytest.raises(UserError, match="leaves nothing"):
        questions.split(lines[:1], 0.9, 0)
    batches = questions.Batches(tuple(lines), base.config, str(TINY), 7, 0)
    rounds = [[ids.tobytes() for step in steps for inputs, _ in batches(2, step) for ids in
               (row[row > 2] for row in inputs.ids)] for steps in ((0, 1, 2), (3, 4, 5))]
    assert len(set(rounds[0])) == 21 and sorted(rounds[0]) == sorted(rounds[1]) and rounds[0] != rounds[1]


# Training

def test_it_learns_and_the_base_stays(base, tmp_path, capsys):
    """Three answers that the base does not give, in some seconds; the command says so, and so does --lora."""
    before = (TINY / "model.safetensors").read_bytes()
    lines = [questions.Line(None, (turn,)) for turn in BLICKS]
    assert questions.right(base, lines) == (0, 3)
    out = tmp_path / "run"
    assert main.main(["train", "lora", "--data", str(blicks(tmp_path / "task")), "--held-out", "0", "--samples", "90",
                     "--targets", "*.language_*", "--rate", "0.01", "--workers", "1", "--out", str(out)]) == 0
    err = capsys.readouterr().err
    assert "3 lines to learn from, 0 held out" in err and f"90 samples learned; the adapter is in {out}" in err
    assert questions.right(tinycogvlm.load(TINY, lora=out), lines) == (3, 3)
    assert main.main(["ask", "-", BLICKS[0][0], "--template", "chat", "--lora", str(out)]) == 0
    assert capsys.readouterr().out == BLICKS[0][1] + "\n"
    assert (TINY / "model.safetensors").read_bytes() == before
    assert main.main(["train", "lora", "--data", str(tmp_path / "task"), "--out", str(out)]) == 1
    assert "already holds a run" in capsys.readouterr().err


def test_a_run_resumed_is_the_same_bit_for_bit(base, tmp_path, monkeypatch):
    """Killed in its fourth step, resumed, against one that was not; other questions or settings are refused."""
    learned = questions.read(blicks(tmp_path / "task"), base.config, base.tokenizer)
    adapter = lora.start(base.leaves, ("*.language_expert_*",), rank=2)
    task, leaves = fine_tune.Task(base, adapter), dict(base.leaves) | adapter.leaves
    data = partial(questions.Batches(tuple(learned), base.config, str(TINY), 3, 0), 1)

    def run(folder, resume=False, stop=None, **settings):
        def loss(leaves, part):
            stop and stop.pop()
            return task.loss(leaves, part)
        return fit(Run(tmp_path / folder, "lora"), leaves, data, loss, Recipe(6, 3, settings=settings), ahead=0,
                   save_every=0, resume=resume)
    whole = run("whole")
    with pytest.raises(IndexError):
        run("killed", stop=Calls(3))
    again = run("killed", resume=True)
    assert all(again[name].tobytes() == whole[name].tobytes() for name in leaves)
    assert all(abs(again[name]).max() > 0 for name in adapter.leaves)
    assert all(again[name] is leaves[name] for name in base.leaves)
    with pytest.raises(UserError, match="rank is 4"):
        run("killed", resume=True, rank=4)


def test_a_run_is_resumed_with_the_questions_and_pictures_that_it_was_begun_with(base, tmp_path, capsys):
    task, out = tmp_path / "task", tmp_path / "run"
    write_task(task, '{"image": "a.png", "question": "What?", "answer": "A dog."}')

    def resumed(colour):
        Image.new("RGB", (9, 9), colour).save(task / "a.png")
        code = main.main(["train", "lora", "--data", str(task), "--held-out", "0", "--samples", "2", "--rank", "1",
                          "--targets", "*.layers.0.*language_*", "--workers", "1", "--out", str(out), "--resume"])
        return code, capsys.readouterr().err.splitlines()[-1]
    assert resumed("red")[0] == resumed("red")[0] == 0
    code, said = resumed("blue")
    assert code == 1 and re.search("other settings: pictures is '[0-9a-f]{16}', but was '[0-9a-f]{16}'$", said)
    write_task(task, '{"image": "a.png", "question": "What?", "answer": "A cow."}')
    code, said = resumed("red")
    assert code == 1 and re.search("other settings: questions is '[0-9a-f]{16}', but was '[0-9a-f]{16}'$", said)


def test_two_trainings_in_one_folder(tmp_path, capsys):
    with Run(tmp_path, "lora"):
        for more in ([], ["--resume"]):
            assert main.main(["train", "lora", "--data", str(tmp_path), "--out", str(tmp_path), *more]) == 1
            assert f"{tmp_path}: another process is training the stage lora" in capsys.readouterr().err


class Calls:
    """Raises IndexError after `count` calls of `pop`"""

    def __init__(self, count):
        self.left = [None] * count

    def pop(self):
        self.left.pop()


def test_usage(capsys, tmp_path):
    for wrong in (["--rank", "0"], ["--held-out", "1"], ["--alpha", "-1"], ["--minutes", "1", "--samples", "2"]):
        assert main.main(["train", "lora", "--data", str(tmp_path), *wrong]) == 2
        assert "see tinycogvlm train lora --help" in capsys.readouterr().err
    assert main.main(["train", "unmerge", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "--weights" in capsys.readouterr().err
    assert main.main(["ask", "-", "What?", "--lora", str(tmp_path)]) == 1
    assert "adapter_config.json: cannot be read" in capsys.readouterr().err
