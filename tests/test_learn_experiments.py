"""Experiments, and the model through functions that may be wrong."""
import numpy as np
import pytest

from learners import write
from tinycogvlm import load
from tinycogvlm.cli import learn as commands
from tinycogvlm.errors import UserError
from tinycogvlm.learn import parts
from tinycogvlm.learn.course import lessons
from tinycogvlm.learn.experiments import EXPERIMENTS, QUESTIONS, answers, low_rank, weights

ALL = [(name, i) for name, experiments in EXPERIMENTS.items() for i in range(len(experiments))]


@pytest.fixture(scope="module")
def before():
    return answers(load(), parts.park())


def number(name):
    return next(lesson.number for lesson in lessons() if lesson.folder.name[3:] == name)


def test_three_experiments_for_each_lesson_from_attention_on():
    """But for the lessons on other models, whose parts the bundled one has not, and one that is five experiments."""
    known = {lesson.folder.name[3:]: lesson.number for lesson in lessons()}
    own = [name for name, number in known.items() if known["attention"] <= number < "40" or number >= "80"]
    own.remove("when_training_does_not_work")
    assert set(EXPERIMENTS) == set(own) and all(len(experiments) == 3 for experiments in EXPERIMENTS.values())
    titles = [experiment.title for experiments in EXPERIMENTS.values() for experiment in experiments]
    assert all(text.endswith(".") and len(text) > 12 for text in titles)


@pytest.mark.slow
@pytest.mark.parametrize("name, i", ALL)
def test_an_experiment_runs_and_leaves_nothing_behind(name, i, before):
    model, picture = load(), parts.park()
    results = EXPERIMENTS[name][i].run(model, picture)
    assert [question for question, _, _ in results] == list(QUESTIONS)
    assert [was for _, was, _ in results] == before
    assert answers(load(), picture) == before


@pytest.mark.slow
def test_what_experiments_say_that_can_be_known_beforehand(before):
    """An update of 0 changes nothing, nor does a bug that has no place; noise as large as the weights does."""
    def stay(name, i):
        return sum(was == then for _, was, then in EXPERIMENTS[name][i].run(load(), parts.park()))
    assert stay("fine_tune", 0) == 3 and stay("tiles", 0) == 3
    assert stay("training", 2) < 3 and stay("one_sequence", 2) < 3


def test_parameters_are_altered_by_name():
    class Model:
        leaves = {"a_mlp.w": np.eye(64, dtype=np.float32), "norm": np.ones(3, np.float32)}
    weights(["_mlp."], lambda array, random: array + low_rank(array, random, 1.0))(Model)
    assert Model.leaves["norm"].all()
    assert np.linalg.matrix_rank(Model.leaves["a_mlp.w"] - np.eye(64), tol=1e-3) == 8
    assert Model.leaves["a_mlp.w"].dtype == np.float32


def test_experiments_are_listed_and_their_number_is_checked(learn):
    listed = learn(f"experiment {number('attention')}")
    assert listed.code == 0 and listed.out.startswith("1  In the vision tower, the scale")
    with pytest.raises(UserError, match="has 3 experiments, not 4"):
        learn(f"experiment {number('attention')} 4")
    with pytest.raises(UserError, match="lesson 00 has no experiments"):
        learn("experiment 00")


def test_an_experiment_asks_for_a_guess_first(learn, monkeypatch):
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "3")
    done = learn(f"experiment {number('vision_block')} 2")
    assert done.code == 0 and len(asked) == 1 and "; you guessed 3\n" in done.out
    assert done.out.count("the model: ") == done.out.count("changed: ") == len(QUESTIONS)


@pytest.mark.slow
def test_a_wrong_function_can_be_tried(learn):
    language = number("language_model")
    write(language, swiglu="return up / (1 + np.exp(-gate))")
    assert f"as it is: tinycogvlm learn try {language}\n" in learn(f"check {language}").out
    done = learn(f"try {language}")
    assert done.code == 0 and f"of {len(QUESTIONS)} answers are the package's" in done.out
    mine, package = ([line.partition(":")[2].strip() for line in done.out.splitlines() if line.startswith(begin)]
                     for begin in ("  through your code", "  by the package"))
    assert len(mine) == len(QUESTIONS) and mine != package
    write(language, swiglu="return up[..., :5]")
    broken = learn(f"try {language}")
    assert broken.code == 1 and "the model cannot go on after swiglu" in " ".join(broken.out.split())


def test_nothing_to_try(learn):
    tokens = number("learning_to_see")
    write(tokens, contrastive_loss="return 0.0")
    assert "No function of lesson" in learn(f"try {tokens}").out


def test_a_right_function_whose_model_answers_otherwise_is_said_to_be_wrong(learn, monkeypatch):
    from tinycogvlm.learn.process import Outcome
    language = number("language_model")
    write(language, rms_norm="return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight")
    real = commands.process.run

    def run(job, *arguments):
        return Outcome([{"answers": [("Where?", "[[", "[[060]]")], "picture": "park.png", "sentence": "1 of 27",
                         "calls": {}}]) if job == "show" else real(job, *arguments)
    monkeypatch.setattr(commands.process, "run", run)
    assert "The answers differ, so something in your code is wrong" in learn(f"check {language}").out
