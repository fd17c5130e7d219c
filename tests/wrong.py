"""Wrong functions as learners write them: tests/wrong_functions/*.txt, read and judged.

    # softmax: divided by the largest, not the sum         the function, and what is wrong, for who reads it
    e = np.exp(x - x.max(-1, keepdims=True))               its body; the rest of the file is the lesson's solution
    return e / e.max(-1, keepdims=True)

A kernel is the package's own with some of its text replaced: "- text" by the "+ text" below it.
"""
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tinycogvlm.kernels.runner.source import HERE
from tinycogvlm.learn import child
from tinycogvlm.learn.course import lessons
from tinycogvlm.learn.learner import load
from tinycogvlm.learn.lessons import EXERCISES

FOLDER = Path(__file__).parent / "wrong_functions"
HEAD = re.compile(r"^(?:#|//) (\w+): (.+)\n", re.MULTILINE)
ONLY_NUMBERS = re.compile(r"\d+ of \d+ entries of |.* has the shape \(|.* (is|are) .*; it should be |The sizes are right|Along axis \d+ all")
ERROR = re.compile(r"\w*(Error|Warning|Exception)\b")


@dataclass(frozen=True)
class Wrong:
    name: str
    what: str
    body: str

    @property
    def lesson(self):
        return next(lesson for lesson in lessons() if self.name in lesson.functions)

    def write(self, folder):
        """A learner's file: the lesson's solution with this function in it."""
        if EXERCISES[self.name].kernel:
            text = self.kernel()
        else:
            text = (self.lesson.folder / "solution.py").read_text(encoding="utf-8")
            head, body = re.search(rf"^(def {self.name}\(.*\n)((?:[ \n].*\n|\n)*)", text, re.MULTILINE).groups()
            text = text.replace(head + body, head + textwrap.indent(self.body, "    ") + "\n\n\n")
        path = folder / f"mine{self.lesson.exercise.suffix}"
        path.write_text(text, encoding="utf-8")
        return path

    def kernel(self):
        text = EXERCISES[self.name].shown[0].read_text(encoding="utf-8")
        text = text.replace('#include "common.cuh"', (HERE / "common.cuh").read_text(encoding="utf-8"))
        before, here, after = text.partition(f"{self.name}(")
        kernel, end, after = after.partition("\n}\n")
        for right, wrong in re.findall(r"^- (.*)\n\+ ?(.*)$", self.body, re.MULTILINE):
            assert right in kernel, (self.name, right)
            kernel = kernel.replace(right, wrong)
        return before + here + kernel + end + after

    def said(self, folder):
        """The lines that a learner gets for it."""
        path = self.write(folder)
        function = None if EXERCISES[self.name].kernel else load(path)[self.name]
        return child.wrong(self.name, function, path, self.lesson.functions[self.name])


def wrong_functions():
    """[Wrong], in the order of the files"""
    found = []
    for path in sorted(FOLDER.glob("*.txt")):
        _, *parts = HEAD.split(path.read_text(encoding="utf-8"))
        found += [Wrong(name, what, body.rstrip()) for name, what, body in zip(*(parts[i::3] for i in range(3)))]
    return found


def has_words(lines):
    """Whether these lines say what is wrong, more than which numbers, shapes, or what error came out."""
    kept = []
    for line in lines:
        if line.startswith(('case "', "with ")):
            break
        if not (ONLY_NUMBERS.match(line) or ERROR.match(line) or line.startswith("    ")
                or re.match(r".*:\d+(, in \w+)?$", line)):
            kept.append(line)
    return bool(kept)
