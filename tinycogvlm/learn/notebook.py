"""A lesson as a Jupyter notebook: `tinycogvlm learn notebook 02`.

Prose and drawings are cells of Markdown with the lesson's pictures inside, blocks of Python are cells with what they
print, and the exercise is a cell in which the learner writes, with one after it that checks. Notebooks stand in the
learner's folder, beside the pictures that lessons share, so that those are found as ../images here, too.
"""
import base64
import json
import os
import re
import shutil
from pathlib import Path

from .learner import source
from .markdown import LINK, REMARK, meant, read

SHARED = ("images", "architecture")                         # folders of pictures that lessons share
EXERCISE = """\
## The exercise

Write in the next cell and run it, then run the one after it, as often as you like. It keeps your
code as `{file}` and checks it. Hints and solutions are there as well, such as
`notebook.terminal("tinycogvlm learn hint {number}")`."""


def write(lesson, mine):
    """Write the lesson's notebook into the learner's folder, unless there is one -> its path, whether it was written"""
    path = mine.folder / "notebooks" / f"{lesson.folder.name}.ipynb"
    if path.exists():
        return path, False
    text = json.dumps(notebook(lesson, mine), indent=1, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    for shared in SHARED:
        (mine.folder / shared).mkdir(exist_ok=True)
        for picture in (lesson.folder.parent / shared).iterdir():
            if not (mine.folder / shared / picture.name).exists():
                shutil.copyfile(picture, mine.folder / shared / picture.name)
    path.write_text(text, encoding="utf-8")
    return path, True


def notebook(lesson, mine):
    """The notebook as JSON has it, in Jupyter's format 4.5"""
    made = cells(lesson, mine)
    for i, cell in enumerate(made):
        cell["id"] = f"cell-{i}"
        cell["source"] = cell["source"].strip("\n").splitlines(keepends=True)
    return {"cells": made, "nbformat": 4, "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                         "language_info": {"name": "python"}}}


def cells(lesson, mine):
    """[cell], each with its source as one text; the exercise comes last, where it gives its names to no other cell"""
    page, folder, made, prose, exercise = lesson.folder / "README.md", mine.folder / "notebooks", [], [], []
    blocks, lines = read(page)
    outputs = [block.output for block in blocks if block.output]

    def told():
        """What was gathered of the prose becomes a cell."""
        if any(line.strip() for line in prose):
            made.append(told_in(folder, "\n".join(prose), page))
        prose.clear()
    parts = [*unfolded(lines, blocks), *((block.line, block) for block in blocks)]
    for _, part in sorted(parts, key=lambda part: part[0]):
        if isinstance(part, str):
            prose.append(part)
        elif part.language == "console" and part.lines[0] == f"$ tinycogvlm learn start {lesson.number}":
            prose.append("You write at the end of this notebook.")
            exercise = exercise_of(lesson, mine)
        elif part.language in ("text", "", "sh"):
            prose += [] if part in outputs else [f"```{part.language}", *part.lines, "```"]
        else:
            told()
            made.extend(code_of(part))
    told()
    made += exercise
    first = next(i for i, cell in enumerate(made) if cell["cell_type"] == "code")
    if any(cell["source"].startswith("notebook.") for cell in made):
        made.insert(first, code("from tinycogvlm.cli import notebook"))
    return made


def unfolded(lines, blocks):
    """Yield the prose, with <details> that hide code which runs as plain text: no cell stands in another."""
    plain = False
    for number, line in lines:
        if line.startswith("<details>"):
            end = next(later for later, text in lines if later > number and text == "</details>")
            plain = any(number < block.line < end and block.language not in ("text", "") for block in blocks)
        if plain:
            line = re.sub("<details><summary>|</summary>", "**", line).replace("</details>", "")
        yield number, line


def code_of(block):
    """Yield the cells of a block that runs."""
    if block.language == "python":
        yield code(block.text, "\n".join(block.output.lines) if block.output else "")
    elif block.language == "cuda":
        file = re.match(r"// (\w+\.cu)\n", block.text)
        keep = f'\nwith open("{file[1]}", "w", encoding="utf-8") as file:\n    file.write(cuda)' if file else ""
        yield code(f"cuda = {quoted(block.text)}{keep}")
    else:                                                   # console
        starts = [i for i, line in enumerate(block.lines) if line.startswith("$ ")]
        for i, end in zip(starts, [*starts[1:], len(block.lines)]):
            yield code(f"notebook.terminal({block.lines[i][2:]!r})", "\n".join(block.lines[i + 1:end]))


def exercise_of(lesson, mine):
    """The cells in which the learner writes, with what they have written already"""
    file = mine.file(lesson)
    text = source(file) if mine.begun(lesson) else lesson.exercise.read_text(encoding="utf-8")
    written = lesson.functions
    if file.suffix == ".cu":
        text, written = f"exercise = {quoted(text)}", ["exercise"]
    return [markdown(EXERCISE.format(file=f"../{file.name}", number=lesson.number)), code(text),
            code(f'notebook.check("{lesson.number}", {", ".join(written)})')]


def quoted(text):
    """A text of CUDA as a literal of Python, line for line"""
    return f"r'''{text}'''" if "'''" not in text else repr(text)


def code(text, printed=""):
    output = {"output_type": "stream", "name": "stdout", "text": f"{printed}\n".splitlines(keepends=True)}
    return {"cell_type": "code", "metadata": {}, "source": text, "execution_count": None,
            "outputs": [output] if printed else []}


def told_in(folder, text, page):
    """A cell of a page's prose: pictures go into the cell, links lead from `folder` to the files as they lie here."""
    attached = {}

    def lead(found):
        picture, label, link = found.groups()
        if re.match(r"\w+:|#", link) or (path := meant(page, link)) is None:
            return found[0]
        if picture and path.parent.name in SHARED:          # it lies beside the notebooks as well
            return found[0]
        if picture:
            attached[path.name] = {"image/png": base64.b64encode(path.read_bytes()).decode()}
            return f"![{label}](attachment:{path.name})"
        return f"[{label}]({Path(os.path.relpath(path, folder)).as_posix()}{''.join(link.partition('#')[1:])})"
    cell = markdown(LINK.sub(lead, REMARK.sub("", text)))
    return {**cell, "attachments": attached} if attached else cell


def markdown(text):
    return {"cell_type": "markdown", "metadata": {}, "source": text}
