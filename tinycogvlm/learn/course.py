"""The course on the disk: the lessons beside the package, the learner's own folder, and its progress."""
import ast
import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from ..errors import UserError
from ..storage import atomic
from ..storage.lock import claimed
from ..storage.reading import read_bytes

FOLDER = "my-cogvlm"
HINTS = 3
LARGEST = 1 << 20                                           # bytes of a file that a learner writes


@dataclass(frozen=True)
class Lesson:
    """A folder lessons/NN_name. functions: {name: docstring} of its exercise, in order."""
    folder: Path

    @property
    def number(self):
        return self.folder.name[:2]

    @property
    def name(self):
        """What it is called whatever its number, such as "vision_block"."""
        return self.folder.name[3:]

    @property
    def title(self):
        return self.name.replace("_", " ")

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
    """{name: docstring} of what learners write in a file: functions, or CUDA kernels with the comment above them."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return {node.name: ast.get_docstring(node) or "" for node in ast.parse(text).body
                if isinstance(node, ast.FunctionDef)}
    kernels = re.findall(r"((?:^//.*\n)*)^template.*\n^__global__ void (\w+)\(", text, re.MULTILINE)
    return {name: re.sub("^// ?", "", comment, flags=re.MULTILINE) for comment, name in kernels}


@lru_cache
def lessons():
    """[Lesson]. Raises UserError if there are none."""
    here = Path(__file__).parents[1]
    for folder in (here / "lessons", here.parent / "lessons"):
        found = sorted(path for path in folder.glob("[0-9][0-9]_*") if path.is_dir())
        if found:
            return [Lesson(path) for path in found]
    raise UserError("the lessons are not installed with the package; clone the repository, and in it: pip install -e .")


def lesson(number):
    """The lesson with this number or name: "7", "07", "adapter" or "07_adapter"."""
    for found in lessons():
        if number in (found.number, found.number.lstrip("0") or "0", found.name, found.folder.name):
            return found
    raise UserError(f"no lesson {number}; there are {', '.join(found.number for found in lessons())}")


def nearest(here):
    """The learner's folder: the one here or in the nearest folder above, up to the home folder; or a new one here."""
    home = Path(os.path.expanduser("~"))
    for above in (here, *here.parents):
        if (above / FOLDER).is_dir():
            return above / FOLDER
        if above == home:
            break
    return here / FOLDER


class Mine:
    """The learner's folder: a file for each lesson that was started, and progress.json."""

    def __init__(self, folder=None):
        self.folder = Path(folder or os.path.relpath(nearest(Path.cwd())))
        if self.folder.exists():
            above = self.folder.absolute().parent
            if above != Path.cwd():
                refuse_open(above, self.folder)
            refuse_foreign(self.folder)

    def file(self, lesson):
        """The learner's file. It keeps its name if it was begun when the lesson had another number."""
        file = self.folder / f"{lesson.folder.name}{lesson.exercise.suffix}"
        older = [] if file.exists() else sorted(self.folder.glob(f"[0-9][0-9]_{lesson.name}{lesson.exercise.suffix}"))
        return older[0] if older else file

    def begun(self, lesson):
        return lesson.exercise is not None and self.file(lesson).exists()

    @property
    def progress(self):
        """passed: functions; hints: {function: how many were given}; asked: for whose solution; lesson: the last one's name;
        checked: {file: digest of what was checked last}."""
        path = self.folder / "progress.json"
        nothing = {"passed": [], "hints": {}, "asked": [], "lesson": "", "checked": {}}
        try:
            text = read(path)
        except FileNotFoundError:
            return nothing
        try:
            found = json.loads(text)
            if not isinstance(found, dict) or not all(
                    plain(found.get(key, value), type(value)) for key, value in nothing.items()):
                raise ValueError
            return nothing | found
        except (ValueError, RecursionError):
            raise UserError(f"{path}: damaged. Delete it: your code is not touched, and tinycogvlm learn check LESSON "
                            "notes again what passes") from None

    def change(self, alter):
        """alter(progress) changes it; no other process does meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with claimed(self.folder / ".lock", wait=True):
            progress = self.progress
            alter(progress)
            atomic.write(self.folder / "progress.json", json.dumps(progress, indent=1) + "\n")

    def note_lesson(self, lesson):
        """The lesson is the one under way."""
        if self.progress["lesson"] != lesson.name:
            self.change(lambda progress: progress.update(lesson=lesson.name))

    def note_checked(self, lesson, results, digest=""):
        """results: {function: whether it passes}; digest: of the file that was checked"""
        def alter(progress):
            progress["passed"] = [name for name in progress["passed"] if name not in results]
            progress["passed"] += [name for name, passes in results.items() if passes]
            progress["checked"][self.file(lesson).name] = digest
        self.change(alter)

    def note_hint(self, name):
        """-> how many hints were given before"""
        def alter(progress):
            given.append(progress["hints"].get(name, 0))
            progress["hints"][name] = given[0] + 1
        given = []
        self.change(alter)
        return given[0]

    def note_asked(self, name):
        self.change(lambda progress: progress["asked"].append(name))

    def digest(self, lesson):
        """Of the file as it is now; "" if it cannot be read."""
        try:
            return hashlib.sha256(read(self.file(lesson))).hexdigest()
        except (OSError, UserError):
            return ""

    def start(self, lesson):
        """Copy the exercise; False if the file exists."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.file(lesson), "x", encoding="utf-8") as file:
                file.write(lesson.exercise.read_text(encoding="utf-8"))
        except FileExistsError:
            return False
        return True

    def reset(self, lesson):
        """Start over -> the name under which the old file is kept."""
        backup = self.lay_aside(lesson)
        self.start(lesson)
        self.note_checked(lesson, dict.fromkeys(lesson.functions, False))
        return backup

    def lay_aside(self, lesson):
        """Give the file another name -> that name."""
        file, i = self.file(lesson), 1
        while (backup := file.with_name(f"{file.stem}.backup{i}{file.suffix}")).exists():
            i += 1
        file.rename(backup)
        return backup

    def keep(self, lesson, text, known=()):
        """Write the file -> the name under which the old one is kept; None if it was as given, or one of `known`."""
        file, backup = self.file(lesson), None
        known = [text, lesson.exercise.read_text(encoding="utf-8"), *known]
        if file.exists() and read(file) not in [each.encode() for each in known]:
            backup = self.lay_aside(lesson)
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.write(file, text)
        return backup

    def current(self):
        """Of the lessons that were started and have not all passed the last one named, or else the first; or None."""
        progress = self.progress
        open_ones = [lesson for lesson in lessons()
                     if self.begun(lesson) and set(lesson.functions) - set(progress["passed"])]
        named = [lesson for lesson in open_ones if lesson.name == progress["lesson"]]
        return next(iter(named + open_ones), None)

    def next(self):
        """The first lesson whose exercise has not all passed, or None."""
        passed = self.progress["passed"]
        return next((lesson for lesson in lessons() if set(lesson.functions) - set(passed)), None)


def plain(value, kind):
    """Whether a part of progress.json is a text, a list of texts, or texts by name or counts by name."""
    if kind is str:
        return isinstance(value, str)
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, dict) and all(
        isinstance(item, str) or (type(item) is int and item >= 0) for item in value.values())


def read(path):
    """The bytes of a learner's file. UserError if it is another user's, or not a file; FileNotFoundError."""
    refuse_foreign(path)
    return read_bytes(path, limit=LARGEST)


def refuse_foreign(path):
    """UserError if another user owns the file or folder, or the link to it: its code is not the learner's."""
    if not hasattr(os, "geteuid"):                          # Windows
        return
    trusted = {0, os.geteuid()}
    if os.geteuid() == 0:
        trusted.add(int(os.environ.get("SUDO_UID", 0)))
    if not {os.lstat(path).st_uid, os.stat(path).st_uid} <= trusted:
        raise UserError(f"{path}: belongs to another user, so its code is not run. If you trust it, make a copy; for "
                        f"your own work: mkdir {FOLDER}")


def refuse_open(above, folder):
    """UserError if every user can write to `above`, where `folder` was found: another one may have put it there."""
    mode = os.stat(above).st_mode
    # Where all files are open, as on a disk of Windows, modes say nothing; and each file's owner is looked at anyway.
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and not os.stat(folder).st_mode & stat.S_IWOTH:
        raise UserError(f"{folder}: every user can write to the folder above it, so its code may be another's and is "
                        f"not run. For your own work: mkdir {FOLDER}")
