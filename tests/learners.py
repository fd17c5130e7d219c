"""A learner for tests: what they type, and files as they might write them."""
from types import SimpleNamespace

from tinycogvlm.cli import options
from tinycogvlm.cli import learn
from tinycogvlm.learn.course import FOLDER, Mine, lesson
from tinycogvlm.learn.lessons import EXERCISES


def begin(folder, monkeypatch):
    """The learner stands here, beside an empty folder of their own: none further up is looked for, nor written to."""
    monkeypatch.chdir(folder)
    (folder / FOLDER).mkdir()


def run(words, capsys):
    """tinycogvlm learn, with these words after it -> its exit code, and what it printed"""
    arguments = options.parser().parse_args(["learn", *words.split()])
    return SimpleNamespace(code=learn.run(arguments), out=capsys.readouterr().out)


def write(number, **bodies):
    """The exercise with these bodies, {function: lines}, in the place of what is missing."""
    found = lesson(number)
    text = found.exercise.read_text(encoding="utf-8")
    for name, body in bodies.items():
        before, stub, after = text.partition(f"def {name}(")
        head, _, after = after.partition("    raise NotImplementedError\n")
        text = before + stub + head + "".join(f"    {line}\n" for line in body.splitlines()) + after
    file = Mine().file(found)
    file.write_text(text, encoding="utf-8")
    return file


def solve(number):
    """The learner has written it all: the lesson's solution."""
    found = lesson(number)
    if found.exercise.suffix == ".cu":
        files = dict.fromkeys(EXERCISES[name].shown[0] for name in found.functions)
        Mine().file(found).write_text("".join(path.read_text(encoding="utf-8") for path in files), encoding="utf-8")
        return Mine().file(found)
    file = Mine().file(found)
    file.write_bytes((found.folder / "solution.py").read_bytes())
    return file
