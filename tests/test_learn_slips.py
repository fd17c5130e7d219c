"""What is found in a learner's code by changing it: where the slip is, two of them, and never a guess."""
import ast

import pytest

from learners import begin
from tinycogvlm.learn import slips
from tinycogvlm.learn.course import FOLDER
from wrong import Wrong, has_words


@pytest.fixture
def said(tmp_path, monkeypatch):
    """said("softmax", lines of its body) -> what a learner gets, however busy the machine is"""
    monkeypatch.setattr(slips, "PATIENCE", float("inf"))
    return lambda name, body: Wrong(name, "", body).said(tmp_path)


@pytest.mark.parametrize("name, body, line, words", [
    ("softmax", "e = np.exp(x - x.max(-1, keepdims=True))\nreturn e / e.sum(-2, keepdims=True)",
     "`e.sum(-2, keepdims=True)`", None),
    ("box_loss", "e = places - boxes\nloss = np.where(e ** 2 < beta, e ** 2 / (2 * beta), np.abs(e) - beta / 2)\n"
                 "return loss.mean(), np.clip(e / beta, -1, 1) / e.size", "`e ** 2`", "with the square root of it it passes"),
    ("sequence", "ids, types = [bos], [0]\nfor k in range(images):\n    ids += [pad] * image_tokens\n"
                 "    types += [k] * image_tokens\nreturn np.array([[*ids, *text]]), np.array([[*types, *[0] * len(text)]])",
     "`k`", "with 1 more it passes"),
    ("patch_targets", "n = len(owner) // size\nout = []\nfor i in range(n):\n    for j in range(n):\n"
                      "        p = owner[i * size:(i + 1) * size, j * size:(j + 1) * size]\n"
                      "        shares = [(p == t).mean() for t in range(max(1, owner.max() + 1))]\n"
                      "        if max(shares) > 0.35:\n            out.append(int(np.argmax(shares)))\n"
                      "        elif sum(shares) > 0.05:\n            out.append(-100)\n        else:\n"
                      "            out.append(-1)\n    return np.array(out)", "its last line outside of it", "it passes"),
])
def test_one_change_that_makes_it_right_is_found(said, name, body, line, words):
    text = "\n".join(said(name, body))
    assert line in text and (words is None or words in text), text


def test_two_slips_are_both_named(said):
    text = said("attention", "s = q @ k.swapaxes(-1, -2)\ns = np.where(np.tri(s.shape[-2], s.shape[-1], dtype=bool), s, "
                             "-np.inf)\nreturn softmax(s) @ v")[0]
    assert text.startswith("There are two mistakes. First, look again at line 14, ") and "without this line" in text
    assert "Second: The scale is missing" in text


def test_one_overflow_is_no_explanation_of_another(said):
    """With sum and with prod of infinite numbers two functions agree, and neither says anything of the other."""
    text = said("sigmoid_loss", "image = image / np.linalg.norm(image, axis=-1, keepdims=True)\n"
                                "text = text / np.linalg.norm(text, axis=-1, keepdims=True)\n"
                                "z = np.exp(logit_scale) * image @ text.T + logit_bias\n"
                                "m = 2 * np.eye(len(image)) - 1\nreturn np.log1p(np.exp(-m * z)).sum() / len(image)")
    assert text[0].startswith("exp overflows for large logits"), text


def test_of_what_is_far_from_right_nothing_is_said(said, monkeypatch):
    monkeypatch.setattr(slips, "SECONDS", 0.2)
    assert not has_words(said("rms_norm", "return np.tanh(x) * 7 + np.cumsum(weight)[::-1] * eps"))


def test_a_function_that_is_wrong_in_other_numbers_only_is_not_searched(said):
    assert "float32" in said("normalise", "return ((colours / 255 - MEAN) / STD).transpose(2, 0, 1)")[0]
    assert "x was changed" in said("softmax", "x -= x.max(-1, keepdims=True)\nreturn np.exp(x) / np.exp(x).sum(-1, "
                                              "keepdims=True)")[0]


def test_changes_leave_the_tree_as_it_was():
    node = ast.parse("def f(x, y):\n    z = x - y[1:]\n    for i in range(3):\n        z += i\n    return z.sum(0)").body[0]
    before = ast.dump(node)
    found = list(slips.changes(node, ["g"]))
    for change in found:
        with change:
            assert ast.dump(node) != before or change.words, change
        assert ast.dump(node) == before
    assert len(found) > 100


def test_a_change_of_what_another_has_removed_makes_no_function():
    node = ast.parse("def f():\n    x = 1\n    return x").body[0]
    before = ast.dump(node)
    shorter = slips.Change(2, "", "", {(node, "body", None): node.body[:1]}, 1, True)
    other = slips.Change(3, "", "", {(node, "body", 1): ast.Pass()}, 1, True)
    assert slips.make(node, {}, (shorter, other)) is None and ast.dump(node) == before


def test_an_endless_change_is_given_up():
    search = slips.Search.__new__(slips.Search)
    scope = {}
    exec(compile("def f(x):\n    while True:\n        x = x + 1", "<slip>", "exec"), scope)
    assert search.result(scope["f"], ("", dict(x=1), 0)) is None


@pytest.mark.parametrize("code, harmless", [
    ("import numpy as np\nfrom collections import Counter", True), ("import os", False), ("from subprocess import run", False),
    ("def f(x):\n    import shutil", False), ("open('a')", False), ("x.tofile('a')", False), ("y = x.sum()", True)])
def test_code_that_reaches_outside_is_not_run_again(code, harmless):
    assert slips.is_harmless(ast.parse(code)) == harmless


def test_a_search_that_ends_the_process_loses_no_result(tmp_path, monkeypatch):
    """The lines found before the search are shown, and the functions after it are checked."""
    from tinycogvlm.learn import process
    from tinycogvlm.learn.course import Mine, lesson
    begin(tmp_path, monkeypatch)
    Mine().start(lesson("02"))
    rows = iter([([{"name": "softmax", "state": "wrong", "lines": ["1 of 2"]}], ["killed"], "softmax"),
                 ([{"name": "attention", "state": "passes", "lines": []}], [], None)])

    def once(job, mine, lesson, names, seconds):
        found, lines, running = next(rows)
        return process.Outcome(found, "", lines), running
    monkeypatch.setattr(process, "run_once", once)
    whole = process.run("check", Mine(), lesson("02"), 1)
    assert [(row["name"], row["lines"]) for row in whole.rows] == [("softmax", ["1 of 2"]), ("attention", [])]
    assert whole.lines == [] and (tmp_path / FOLDER).exists()
