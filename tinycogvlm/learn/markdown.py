"""The pages of lessons/: their blocks, their prose, their headings, and the files that their links mean."""
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .course import lessons

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
REMARK = re.compile(r"<!--.*?-->")                          # in the prose: how a number is computed
PACKAGE = Path(__file__).parents[1]


@dataclass
class Block:
    language: str
    line: int                                               # of its first line of text, from 1
    lines: list
    output: object = None                                   # the Block of what it prints

    @property
    def text(self):
        return "".join(f"{line}\n" for line in self.lines)


def read(path):
    """A Markdown file -> [Block], [(line number, line)] of the prose"""
    blocks, prose, block, before = [], [], None, None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"```(\w*)\s*$", line)
        if fence and block is None:
            block = Block(fence[1], number + 1, [])
        elif fence:
            blocks.append(block)
            if block.language in ("text", "") and before:
                before.output = block
            before, block = block if block.language == "python" else None, None
        elif block is not None:
            block.lines.append(line)
        else:
            prose.append((number, line))
            before = before if not line.strip() else None
    return blocks, prose


def slug(title):
    """What a link may name of a page, as GitHub makes it of a heading"""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def pages():
    """The files of the course, in the order of reading"""
    folder = lessons()[0].folder.parent
    first = [folder / "README.md", folder / "what_you_need.md", *(lesson.folder / "README.md" for lesson in lessons())]
    return first + [path for path in sorted(folder.glob("*.md")) if path not in first]


def meant(page, link):
    """The file that a link on a page means, or None. Installed, the lessons stand inside the package, not beside it."""
    root = lessons()[0].folder.parents[1]
    path = Path(os.path.normpath(page.parent / link.partition("#")[0])) if link[0] != "#" else page
    if path.is_relative_to(root / "tinycogvlm"):
        path = PACKAGE / path.relative_to(root / "tinycogvlm")
    return path if path.is_file() else None
