"""The course as it lies on the disk: the lessons beside the package, the learner's own folder, and its progress."""
import ast
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from ..errors import UserError

FOLDER = "my-cogvlm"
HINTS = 3


@dataclass(frozen=True)
class Lesson:
    """A folder lessons/NN_name. `functions` {name: docstring} are those of its exercise, in their order."""
    folder: Path

    @property
    def number(self):
        return self.folder.name[:2]

    @property
    def title(self):
        return self.folder.name[3:].replace("_", " ")

    @property
    def exercise(self):
        """exercise.py or exercise.cu, or None"""
        return next((path for path in map(self.folder.joinpath, ("exercise.py", "exercise.cu")) if path.exists()), None)

    @cached_property
    def functions(self):
        return functions(self.exercise) if self.exercise else {}

    @cached_property
    def hints(self):
        """{function: [three hints, each saying more]}"""
        return json.loads((self.folder / "hints.json").read_text(encoding="utf-8"))


def functions(path):
    """{name: docstring} of what a learner is to write in a file: functions, or CUDA's kernels and the words above."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return {node.name: ast.get_docstring(node) or "" for node in ast.parse(text).body
                if isinstance(node, ast.FunctionDef)}
    kernels = re.findall(r"((?:^//.*\n)*)^template.*\n^__global__ void (\w+)\(", text, re.MULTILINE)
    return {name: re.sub("^// ?", "", comment, flags=re.MULTILINE) for comment, name in kernels}


@lru_cache
def lessons():
    """[Lesson]. UserError if they are not there."""
    here = Path(__file__).parents[1]
    for folder in (here / "lessons", here.parent / "lessons"):
        found = sorted(path for path in folder.glob("[0-9][0-9]_*") if path.is_dir())
        if found:
            return [Lesson(path) for path in found]
    raise UserError("the lessons are not beside the package: clone the repository, and in it: pip install -e .")


def lesson(number):
    """The lesson with this number: "7", "07" or the name of its folder."""
    for found in lessons():
        if number in (found.number, found.number.lstrip("0") or "0", found.folder.name):
            return found
    raise UserError(f"no lesson {number}; there are {', '.join(found.number for found in lessons())}")


def nearest(here):
    """The learner's folder: that in `here`, or the nearest above it; if there is none, the one to be made in `here`."""
    return next((folder for folder in (above / FOLDER for above in (here, *here.parents)) if folder.is_dir()),
                here / FOLDER)


class Mine:
    """The learner's folder: a file for each lesson begun, and progress.json."""

    def __init__(self, folder=None):
        self.folder = Path(folder or os.path.relpath(nearest(Path.cwd())))

    def file(self, lesson):
        return self.folder / f"{lesson.folder.name}{lesson.exercise.suffix}"

    def begun(self, lesson):
        return lesson.exercise is not None and self.file(lesson).exists()

    @property
    def progress(self):
        """{"passed": [functions], "hints": {function: how many were given}, "asked": [for whose solution]}"""
        path, nothing = self.folder / "progress.json", {"passed": [], "hints": {}, "asked": []}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or any(type(found.get(key, value)) is not type(value)
                                                  for key, value in nothing.items()):
                raise ValueError
            return nothing | found
        except FileNotFoundError:
            return nothing
        except ValueError:
            raise UserError(f"{path}: not what tinycogvlm learn writes; delete it, and check what you have") from None

    def note(self, **changes):
        from ..storage import atomic
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.write(self.folder / "progress.json", json.dumps(self.progress | changes, indent=1) + "\n")

    def note_checked(self, results):
        """results {function: whether it passes}"""
        passed = [name for name in self.progress["passed"] if name not in results]
        self.note(passed=passed + [name for name, passes in results.items() if passes])

    def start(self, lesson):
        """Copy the exercise; False if the file is there already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.file(lesson), "x", encoding="utf-8") as file:
                file.write(lesson.exercise.read_text(encoding="utf-8"))
        except FileExistsError:
            return False
        return True

    def reset(self, lesson):
        """Begin anew; what was there is kept under the name that comes back."""
        file, i = self.file(lesson), 1
        while (backup := file.with_name(f"{file.stem}.backup{i}{file.suffix}")).exists():
            i += 1
        file.rename(backup)
        self.start(lesson)
        self.note_checked(dict.fromkeys(lesson.functions, False))
        return backup

    def current(self):
        """The first lesson begun whose functions have not all passed, or None."""
        passed = self.progress["passed"]
        return next((lesson for lesson in lessons()
                     if self.begun(lesson) and set(lesson.functions) - set(passed)), None)

    def next(self):
        """The first lesson with an exercise that has not all passed, or None."""
        passed = self.progress["passed"]
        return next((lesson for lesson in lessons() if set(lesson.functions) - set(passed)), None)
