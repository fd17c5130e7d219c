"""What the checker says: of mistakes that look alike, of two at once, of a function that calls a wrong one."""
import re
from types import SimpleNamespace

import numpy as np
import pytest

from learners import solve, write
from tinycogvlm.cli import learn as commands
from tinycogvlm.learn import diagnose, outcomes, relations
from tinycogvlm.learn.course import Mine, lesson
from tinycogvlm.learn.lessons import EXERCISES

SOFTMAX = "e = np.exp(x - x.max(-1, keepdims=True))\nreturn e / e.sum(-1, keepdims=True)"
ATTENTION = "return softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]).astype(q.dtype)) @ v"


def said(name, function):
    number = next(found.number for found in commands.lessons() if name in found.functions)
    with np.errstate(all="ignore"):
        return "\n".join(diagnose.check(EXERCISES[name], function, lesson(number).functions[name]))


# ----------------------------------------------------------------------------------------- what many mistakes look like

@pytest.mark.parametrize("wrong, sentence", [
    (lambda y: -y, "Every entry has the wrong sign."),
    (lambda y: 2.5 * y, "Every entry is 2.5 times what it should be."),
    (lambda y: y + 0.25, "Every entry is off by the same number, 0.25."),
    (lambda y: y[::-1], "along axis 0 they come in reverse order"),
    (lambda y: y[:, ::-1], "along axis 1 they come in reverse order"),
    (lambda y: np.roll(y, 1, 1), "along axis 1 each comes one place too late"),
    (lambda y: np.roll(y, -1, 1), "along axis 1 each comes one place too early"),
    (lambda y: y.transpose(2, 0, 1), "the axes come in another order: use .transpose(1, 2, 0)."),
    (lambda y: y.transpose(1, 0, 2).reshape(y.shape), "reshape keeps their order in memory"),
    (lambda y: y.reshape(-1), "The numbers and their order are right; only the shape is not."),
    (lambda y: np.stack([y, y]), "was a function that returns two arrays used as if it were one?"),
])
def test_a_relation_to_the_right_result_is_named(wrong, sentence):
    right = np.random.default_rng(0).standard_normal((2, 3, 5))
    assert sentence in relations.related(wrong(right), right)


@pytest.mark.parametrize("wrong", [lambda y: y ** 2, lambda y: y * np.arange(5), lambda y: y[:1], lambda y: y * np.nan,
                                   lambda y: np.zeros_like(y)])
def test_of_what_is_not_related_nothing_is_said(wrong):
    right = np.random.default_rng(0).standard_normal((2, 3, 5))
    assert relations.related(wrong(right), right) is None
    assert relations.related(np.array(2.0), np.array(1.0)) is None
    assert relations.related(np.array([True, False, False]), np.array([False, True, True])) is None


@pytest.mark.parametrize("name, function, sentence", [
    ("attention", lambda q, k, v: -EXERCISES["attention"].package(q=q, k=k, v=v), "Every entry has the wrong sign."),
    ("linear_gradients", lambda dy, x, weight, bias: (
        dy @ weight, EXERCISES["linear_gradients"].package(dy=dy, x=x, weight=weight, bias=bias)[1] / 2,
        dy.reshape(-1, dy.shape[-1]).sum(0)), "Every entry is 0.5 times what it should be.\n12 of 12 entries of dw"),
])
def test_the_relation_comes_first(name, function, sentence):
    text = said(name, function)
    assert text.startswith(sentence.partition("\n")[0]) and sentence.partition("of")[2] in text


# ------------------------------------------------------------------------------------------------------------- numbers

def test_a_short_row_is_shown_whole():
    text = said("patches", lambda x, size: x.reshape(x.shape[0], -1, x.shape[1] * size * size))
    assert text == ("The array is reshaped without a transpose: these are pieces of rows, not squares.\n"
                    "8 of 16 entries of the result are wrong, in row (0, 0): [0 1 2 3], expected [0 1 4 5]\n"
                    'case "the numbers 0 to 15", float64: x = [[[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], '
                    "[12, 13, 14, 15]]]], size = 2")


def test_four_digits_or_as_many_as_differ():
    assert diagnose.apart(-0.10787906622152532, 1.5) == ("-0.1079", "1.5")
    assert diagnose.apart(0.123456789012, 0.123456789999) == ("0.123456789", "0.12345679")
    assert diagnose.apart(float("nan"), 1.0) == ("nan", "1") and diagnose.apart(3, 4) == ("3", "4")
    assert diagnose.apart(True, False) == ("True", "False") and diagnose.apart(2.0, 2.0) == ("2", "2")
    text = said("softmax", lambda x: EXERCISES["softmax"].package(x=x) ** 1.01)
    assert "allowed" not in text and max(map(len, re.findall(r"0\.0*(\d+)", text))) == 4


def test_the_lesson_s_own_example_is_shown_first():
    text = said("softmax", lambda x: EXERCISES["softmax"].package(x=x.swapaxes(-1, -2)).swapaxes(-1, -2))
    assert text.endswith("4 of 9 entries of the result are wrong, in row 0: [0.1 0.3333 0.3333], expected [0.3333 0.3333 "
                         '0.3333]\ncase "as in the lesson", float64: x = [[0, 0, 0], [2.079, 0, 0], [0, 0, 0]]')


def test_what_the_lesson_s_example_does_not_show_is_shown_elsewhere():
    def right_for_matrices(x):
        return EXERCISES["softmax"].package(x=x) * (1 if x.ndim == 2 else 2)
    assert 'case "batch", float64: x (2, 3, 5)' in said("softmax", right_for_matrices)


def test_where_only_the_lesson_s_example_is_wrong_it_is_shown_alone():
    def wrong_for_three(x):
        return EXERCISES["softmax"].package(x=x) * (2 if x.shape == (3, 3) else 1)
    assert said("softmax", wrong_for_three).startswith("9 of 9 entries of the result are wrong, in row 1: [1.6 0.2 0.2], ")


@pytest.mark.parametrize("name", [name for name, exercise in EXERCISES.items() if exercise.toy])
def test_the_package_is_right_in_the_lesson_s_example(name):
    exercise = EXERCISES[name]
    for dtype in exercise.dtypes:
        exercise.toys.check(exercise.package, dtype)


def test_the_first_case_of_a_core_lesson_is_one_to_compute_by_hand():
    for found in commands.lessons():
        for name in found.functions if int(found.number) < 18 else ():
            exercise = EXERCISES[name]
            _, arguments = next(iter((exercise.toys if exercise.toy else exercise.contract).cases()))
            sizes = [value.size for value in arguments.values() if isinstance(value, np.ndarray)]
            assert max(sizes, default=0) <= 20, name


def test_one_wrong_entry_is_singular_and_one_number_is_told_alone():
    def once(x):
        y = EXERCISES["softmax"].package(x=x).copy()
        y[..., 0] += np.arange(y[..., 0].size).reshape(y[..., 0].shape) == 0
        return y
    assert "1 of 9 entries of the result is wrong, in row 0" in said("softmax", once)
    assert "\nthe result is 0.25; it should be 1.\n" in said("iou", lambda a, b: 0.25)


def test_a_type_is_named_only_where_there_are_such_numbers():
    text = said("most_frequent_pair", lambda ids: ids[:2] * 0)
    assert 'case "one pair": ids = [4, 2]' in text and "float64" not in text


def test_a_default_that_was_used_is_shown(learn):
    write("01", linear="return x @ weight.T + bias")
    assert "with x (2, 3, 5), weight (4, 5), bias = None" in learn("check 01").out


@pytest.mark.parametrize("number, name, body, advice", [
    ("02", "attention", "return q @ k.T @ v", ".swapaxes(-1, -2): .T reverses them all"),
    ("02", "softmax", "return x - x.max(-1)", "keepdims=True keeps it"),
    ("01", "linear_gradients", 'return dy @ weight, np.einsum("...o,...i->oi", dy, x), dy.sum(0)',
     "einsum does not sum over '...'"),
    ("07", "glu", "x = linear(x, w_in)\nx = layer_norm(x, norm_weight, norm_bias, EPS)\nreturn x",
     "take the first: y, _ = linear(x, weight)")])
def test_an_error_of_numpy_is_explained(learn, number, name, body, advice):
    write(number, **{name: body})
    assert advice in " ".join(learn(f"check {number}").out.split())


# ------------------------------------------------------------------------------------------------------ two at once

def test_where_all_is_nan_its_cause_is_said():
    """A temperature of 0 that is divided by shows in the first case; the mistake that is named is another one."""
    def divided(logits, temperature, top_k, top_p):
        p = np.exp(logits / temperature)
        return p / p.sum()
    assert "all is NaN, which comes from 0 / 0" in said("next_probabilities", divided)


def test_of_two_mistakes_the_one_in_the_first_case_is_named():
    """boi and eoi at the patches' position, and images that touch run together: no mistake fits every case."""
    def positions(types):
        image = types > 0
        step = 1 - (image & np.roll(image, 1, 1))
        step[:, 0] = 0
        return step.cumsum(1) + (types.shape[1] == 1)
    text = said("position_ids", positions)
    assert text.startswith("In the case below the numbers are those of a known mistake: boi and eoi share the patches'")


def test_a_result_of_two_numbers_is_no_proof_of_a_mistake():
    assert not outcomes.telling(np.array([2, 4])) and not outcomes.telling(np.int64(3))
    assert outcomes.telling(np.arange(3)) and outcomes.telling(np.float64(0.3)) and outcomes.telling((1, np.ones(2)))


def test_what_a_loop_gave_the_model_to_read_is_shown():
    def whole_row_again(step, choose, ids, limit, eos):
        new, cache = [], None
        while len(new) < limit and eos not in new:
            logits, cache = step(np.concatenate([ids, new]).astype(int), cache)
            new.append(choose(logits))
        return np.array(new[:-1])
    assert "step, which read 3, 4, 5, 6, 7 ids (right: 3, 1, 1, 1, 1)" in said("decode", whole_row_again)


# ------------------------------------------------------------------------------------- functions that call each other

def test_a_function_that_calls_a_wrong_one_is_told_so(learn):
    write("02", softmax="return x", attention=ATTENTION)
    out = learn("check 02").out
    assert "It calls softmax, which is wrong. With the package's softmax it passes." in out
    assert out.count("wrong\n") == 2 and "120 of 120" not in out
    assert Mine().progress["passed"] == []


def test_a_function_that_calls_an_unwritten_one_is_told_so(learn):
    write("02", attention=ATTENTION)
    assert "It calls softmax, which is not written yet. With the package's softmax it passes." in learn("check 02").out


@pytest.mark.slow
def test_a_function_that_is_wrong_itself_is_not_excused(learn):
    write("02", softmax="return x", attention=ATTENTION.replace("np.sqrt(q.shape[-1])", "np.float64(q.shape[-1])"))
    assert "It calls" not in learn("check 02").out


def test_two_functions_that_call_each_other(learn):
    write("02", softmax="return attention(x, x, x)", attention="return softmax(q)")
    out = learn("check 02").out
    assert out.count("wrong") >= 2 and "Traceback" not in out


@pytest.mark.slow
def test_a_solved_lesson_says_what_comes_next_and_a_broken_file_gets_no_hint(learn):
    write("02", softmax=SOFTMAX, attention=ATTENTION)
    out = learn("check 02").out
    assert "\nLesson 02 passes. Next: " in out and out.endswith("01_arrays/README.md\n")
    assert "2 of 28 parts of this answer ran through your code; lesson 02:\n  softmax " in out
    write("02", softmax="return (1")
    assert "SyntaxError" in (out := learn("check 02").out) and "a hint" not in out


def test_a_box_of_the_model_is_seen_through_the_learner_s_functions(learn):
    """When both pass; by a function that has become wrong since, not at all."""
    solve("17")
    out = learn("check 17").out
    found = re.search(r"Where is the .+\? \[\[.*\]\]\n  by your to_pixels, in a picture of 112 x 112: (.+)\n  by your iou, "
                      r"its overlap with the true box: ([.\d]+)\n", out)
    left, top, right, bottom = map(int, found[1].split(", "))
    assert 0 <= left < right <= 112 and 0 <= top < bottom <= 112 and float(found[2]) > 0.5
    assert out.index("by your iou") < out.index("Lesson 17 passes")
    write("17", iou="return 0.5")
    assert "by your iou" not in learn("check 17").out


# ------------------------------------------------------------------------------------------- arguments, factors, parts

@pytest.mark.parametrize("name, function, sentence", [
    ("rms_norm", lambda x, weight, eps: x / np.sqrt((x * x).mean() + eps), "The result is the same whatever weight is."),
    ("swiglu_gradients", lambda dy, gate, up: EXERCISES["swiglu_gradients"].package(dy=dy, gate=gate, up=0 * up + 1),
     "The numbers are right for another input: as if up were 1."),
    ("attention", lambda q, k, v: EXERCISES["attention"].package(q=q, k=q, v=v), "another input: q in the place of k."),
    ("attention", lambda q, k, v: EXERCISES["attention"].package(q=q, k=k, v=v)[:, :, 1:],
     "Missing along axis 2: the first 1. The others are right."),
    ("softmax", lambda x: np.concatenate([EXERCISES["softmax"].package(x=x), x[..., :2]], -1),
     "Too many along axis 2: the last 2. The others are right."),
])
def test_what_an_argument_or_an_axis_says_is_said(name, function, sentence):
    assert sentence in said(name, function)


def test_a_factor_that_is_the_size_of_an_axis_is_named():
    def case(n):
        return "", dict(x=np.ones((n, 2))), np.float64(n + 0.5)
    broken = SimpleNamespace(output=0)
    found = relations.factor(lambda x: (len(x) + 0.5) * len(x), [case(3), case(5)], broken,
                             lambda arguments: {"N": len(arguments["x"])})
    assert found == "The result is N times what it should be: is there a sum where a mean is asked for?"
    found = relations.factor(lambda x: (len(x) + 0.5) / len(x), [case(3), case(5)], broken,
                             lambda arguments: {"N": len(arguments["x"])})
    assert found == "The result is what it should be, divided by N: is there a mean where a sum is asked for?"


def test_two_mistakes_in_two_results_or_in_one_sum():
    def gradients(dy, x, weight, bias):
        dx, dweight, dbias = EXERCISES["linear_gradients"].package(dy=dy, x=x, weight=weight, bias=bias)
        return dx, dweight.T, dbias / (dy.size / dy.shape[-1])
    text = said("linear_gradients", gradients)
    assert text.startswith("There are two mistakes. First: dweight is transposed") and "Second: dbias is a mean" in text

    def multiplications(types, D, F, H, G):
        B, T = types.shape
        return B * (T * (2 * D * D + 2 * D * G * (D // H) + 2 * D * F) + 2 * T * T * D)
    text = said("multiplications", multiplications)
    assert text.startswith("There are two mistakes. First: ") and text.count("Second: ") == 1


def test_where_the_right_places_are_is_said():
    wrong = np.zeros((2, 5), bool)
    wrong[:, 2:4] = True
    assert relations.places(wrong) == "Along axis 1 all is right at 0, 1, 4; what is wrong is at 2, 3."
    assert relations.places(np.ones((2, 5), bool)) is None
