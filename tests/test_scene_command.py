"""`tinycogvlm scene`: the picture is the scene's, the printed truth is true, and what cannot be is said."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinycogvlm.cli import main, options
from tinycogvlm.cli.scene import MANNERS, WRITING
from tinycogvlm.inputs import grounding
from tinycogvlm.world import colours, grounds, shapes, sketches
from tinycogvlm.world.scenes import KINDS, scene
from tinycogvlm.world.writing import text_of

IMAGES = Path(__file__).parents[1] / "lessons" / "images"


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main.main(["scene", *map(str, arguments)])
        return code, *capsys.readouterr()
    return run


@pytest.mark.parametrize("split, size, things", [("test", 112, 4), ("train", 168, 1), ("combinations", 56, 2)])
def test_the_picture_and_its_truth(run, tmp_path, split, size, things):
    out = tmp_path / "scene.png"
    options = ("--seed", 7, "--things", things, "--split", split, "--size", size)
    code, said, err = run(*options, "--out", out, "--json")
    s = scene(split, 7, (things, things), size)
    assert (code, err, len(s.things)) == (0, "", things)
    with Image.open(out) as picture:
        assert np.array_equal(np.asarray(picture), s.picture)
    truth = json.loads(said)
    assert {name: truth[name] for name in ("split", "seed", "size", "background")} == {
        "split": split, "seed": 7, "size": size, "background": s.background}
    assert [(thing["name"], tuple(thing["pixels"])) for thing in truth["things"]] == [(t.name, t.box) for t in s.things]
    for thing in truth["things"]:
        assert max(abs(a * size / 1000 - b) for a, b in zip(thing["thousandths"], thing["pixels"])) <= size / 1000
    lines = run(*options)[1].splitlines()
    assert lines[0] == f"{s.background}, {size} x {size} pixels" and len(lines) == 1 + things
    for line, thing, told in zip(lines[1:], s.things, truth["things"]):
        assert line.startswith(thing.name) and grounding.parse(line) == ([tuple(told["thousandths"])], [])
        assert line.endswith(f"pixels {', '.join(map(str, thing.box))}")


@pytest.mark.parametrize("manner", MANNERS)
def test_every_manner_draws_what_it_says(run, tmp_path, manner):
    assert tuple(MANNERS) == options.MANNERS
    split = "test" if manner in ("plain", "unknown") else "style"
    asked = ("--manner", manner, "--split", split, "--seed", 5, "--size", 224)
    code, said, err = run(*asked, "--out", tmp_path / "scene.png", "--json")
    s, truth = MANNERS[manner](split, 5, (1, 4), side=224), json.loads(said)
    assert (code, err) == (0, "")
    with Image.open(tmp_path / "scene.png") as picture:
        assert np.array_equal(np.asarray(picture), s.picture)
    assert [(thing["name"], tuple(thing["pixels"])) for thing in truth["things"]] == [(t.name, t.box) for t in s.things]
    lines = run(*asked)[1].splitlines()
    if manner in WRITING:
        assert truth["text"] == text_of(s) == "".join(thing.name for thing in s.things)
        assert lines[1] == f"written: {truth['text']}" and (manner != "number" or truth["text"].isdigit())
    assert len(lines) == 1 + (manner in WRITING) + len(s.things)
    names = [thing.name for thing in s.things]
    assert manner not in ("mouse", "outline") or all(" " in name for name in names)
    assert manner != "unknown" or "unknown" in names


@pytest.mark.parametrize("name, arguments", [
    ("sketch", "--manner lines --split style --seed 3 --things 3"), ("number", "--manner captcha --seed 4"),
    ("word", "--manner word --seed 0"), ("octopus", "--manner unknown --seed 6 --things 1")])
def test_the_readme_s_pictures_are_scenes(run, tmp_path, name, arguments):
    """... that training never sees"""
    assert run(*arguments.split(), "--size", 336, "--out", tmp_path / "scene.png")[0] == 0
    with Image.open(IMAGES / f"{name}.png") as shown, Image.open(tmp_path / "scene.png") as drawn:
        assert np.array_equal(np.asarray(shown), np.asarray(drawn))


def test_a_seed_is_a_scene_and_another_is_another(run):
    assert run() == run("--seed", 0, "--split", "test", "--size", 112)
    counts = {len(json.loads(run("--seed", seed, "--json")[1])["things"]) for seed in range(20)}
    assert counts == {1, 2, 3, 4}
    assert len({run("--seed", seed)[1] for seed in range(5)}) == 5


def test_the_names_in_the_world(run):
    code, said, err = run("--list")
    assert (code, err) == (0, "")
    names = {line.split(": ")[0]: tuple(line.split(": ")[1].split(", ")) for line in said.splitlines()}
    assert names == {"kinds": KINDS, "colours": colours.NAMES, "shapes": shapes.NAMES, "backgrounds": grounds.GROUNDS}
    assert {*names["kinds"], *(f"{c} {s}" for c in names["colours"] for s in names["shapes"])} == set(sketches.NAMES)
    assert {name: tuple(listed) for name, listed in json.loads(run("--list", "--json")[1]).items()} == names


def test_a_crowded_scene_says_so(run, tmp_path):
    seed = next(seed for seed in range(100) if len(scene("test", seed, (6, 6)).things) < 6)
    code, said, err = run("--things", 6, "--seed", seed, "--json", "--out", tmp_path / "x.jpg")
    found = len(json.loads(said)["things"])
    assert (code, found < 6, [path.name for path in tmp_path.iterdir()]) == (0, True, ["x.jpg"])
    assert err == f"tinycogvlm: only {found} of 6 things fitted; try another --seed\n"


def test_what_cannot_be_written(run, tmp_path):
    (tmp_path / "folder.png").mkdir()
    for out, part in (("x.xyz", "picture format"), ("none/x.png", "cannot be written"), ("folder.png", "not a file")):
        code, said, err = run("--out", tmp_path / out)
        assert (code, said) == (1, "") and part in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.parametrize("arguments, part", [
    (("--things", "0"), "'0' is not a whole number from 1 to 8"), (("--things", "9"), "from 1 to 8"),
    (("--things", "two"), "from 1 to 8"), (("--size", "27"), "from 28 to 1344"), (("--size", "1345"), "to 1344"),
    (("--seed", "-1"), "of 0 or more"), (("--seed", "1.5"), "of 0 or more"), (("--split", "all"), "invalid choice"),
    (("--split", "sizes", "--things", "3"), "one or two"), (("--manner", "word", "--things", "3"), "are the characters"),
    (("--split", "style"), "plain have the splits train, check"), (("--manner", "pencil"), "invalid choice"),
    (("--split", "sizes", "--manner", "any"), "any have the splits train, check, test, style"), (("--list", "--out", "x.png"), "leave out --out")])
def test_wrong_usage(arguments, part, capsys):
    code = main.main(["scene", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("tinycogvlm: ") and part in err
