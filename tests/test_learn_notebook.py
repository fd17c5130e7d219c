"""Lessons as notebooks: what is in them is the lesson's, they run, and nothing that a learner has written is lost."""
import ast
import base64
import io
import json
import linecache
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from PIL import Image

from lessons import drift
from tinycogvlm.cli import notebook as cells
from tinycogvlm.errors import UserError
from tinycogvlm.learn import notebook
from tinycogvlm.learn.course import FOLDER, Mine, lesson, lessons
from tinycogvlm.learn.markdown import LINK, Block, read
from tinycogvlm.learn.notebook import unfolded

each = pytest.mark.parametrize("chosen", lessons(), ids=lambda chosen: chosen.number)


def text(cell):
    return "".join(cell["source"])


def of_kind(kind, made):
    return [cell for cell in made["cells"] if cell["cell_type"] == kind]


def run(made, names):
    """Run the cells in a plain namespace, each under a name of its own as IPython does -> [what each printed]"""
    said = []
    for cell in of_kind("code", made):
        name, printed = f"<{cell['id']}>", io.StringIO()
        linecache.cache[name] = len(text(cell)), None, text(cell).splitlines(keepends=True), name
        with redirect_stdout(printed):
            exec(compile(text(cell), name, "exec"), names)
        said.append(printed.getvalue())
    return said


def written(folder, name, code):
    """What notebook.check gets of a cell with this code: the functions in it"""
    linecache.cache[name] = len(code), None, code.splitlines(keepends=True), name
    names = {"__name__": "__main__"}
    exec(compile(code, name, "exec"), names)
    return [names[function] for function in ("softmax", "attention") if function in names]


def solution(number):
    return (lesson(number).folder / "solution.py").read_text(encoding="utf-8")


@each
def test_every_block_that_runs_is_a_cell_with_what_it_prints(learn, chosen):
    made, (blocks, _) = notebook.notebook(chosen, Mine()), read(chosen.folder / "README.md")
    code = [(text(cell), "".join(line for output in cell["outputs"] for line in output["text"]).rstrip("\n"))
            for cell in of_kind("code", made)]
    python = [(block.text.strip("\n"), "\n".join(block.output.lines) if block.output else "")
              for block in blocks if block.language == "python"]
    assert [pair for pair in code if pair in python] == python
    others = [source for source, _ in code if (source, _) not in python]
    commands = [line for block in blocks if block.language == "console" for line in block.lines
                if line.startswith("$ ") and not line.startswith("$ tinycogvlm learn start")]
    assert sum(source.startswith("notebook.terminal(") for source in others) == len(commands)
    cuda = [ast.literal_eval(ast.parse(source).body[0].value) for source in others if source.startswith("cuda = ")]
    assert cuda == [block.text for block in blocks if block.language == "cuda"]         # messages name its lines
    stored = {node.id for source, _ in code for node in ast.walk(ast.parse(source))
              if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert "notebook" not in stored, "the cells that call it need the name"
    if chosen.exercise:
        exercise, check = code[-2][0], code[-1][0]
        if is_cuda := chosen.exercise.suffix == ".cu":
            exercise = ast.literal_eval(ast.parse(exercise).body[0].value)
        assert exercise.strip("\n") == chosen.exercise.read_text(encoding="utf-8").strip("\n")
        names = "exercise" if is_cuda else ", ".join(chosen.functions)
        assert check == f'notebook.check("{chosen.number}", {names})'


@each
def test_prose_is_whole_and_shows_its_pictures(learn, chosen):
    path, _ = notebook.write(chosen, Mine())
    prose = of_kind("markdown", json.loads(path.read_text(encoding="utf-8")))
    for cell in prose:
        assert text(cell).count("<details>") == text(cell).count("</details>"), "no cell reaches into another"
        assert text(cell).count("```") % 2 == 0 and "<!--" not in text(cell)
        for _, _, link in LINK.findall(text(cell)):
            if link.startswith("attachment:"):
                data = cell["attachments"][link.removeprefix("attachment:")]["image/png"]
                assert Image.open(io.BytesIO(base64.b64decode(data))).size
            elif not re.match("https?:|#", link):
                assert (path.parent / link.partition("#")[0]).is_file(), link
    shown = {line.strip() for cell in prose for line in text(cell).splitlines()}
    assert shown >= {line for _, line in read(chosen.folder / "README.md")[1] if line.startswith("#")}
    assert ("## The exercise" in shown) == (chosen.exercise is not None)


def test_only_what_hides_code_is_unfolded():
    lines = ["<details><summary>The", "code</summary>", "", "</details>",
             "<details><summary>Why</summary>", "</details>"]
    for language, opened in ("python", ["**The", "code**", "", ""]), ("text", lines[:4]):
        found = unfolded(list(enumerate(lines, 1)), [Block(language, 3, ["1"])])
        assert [line for _, line in found] == [*opened, *lines[4:]]


def test_nbformat_finds_nothing_wrong(learn):
    nbformat = pytest.importorskip("nbformat")
    for chosen in lessons():
        nbformat.validate(nbformat.reads(json.dumps(notebook.notebook(chosen, Mine())), 4))


def test_a_notebook_runs_from_its_first_cell_to_its_last(learn, monkeypatch):
    """In a plain namespace, where the command put it; the learner has written the exercise."""
    assert "my-cogvlm/notebooks/41_bridges.ipynb is yours" in learn("notebook 41").out.replace("\\", "/")
    path = Path(FOLDER, "notebooks", "41_bridges.ipynb")
    made = json.loads(path.read_text(encoding="utf-8"))
    monkeypatch.chdir(path.parent)
    of_kind("code", made)[-2]["source"] = solution("41").splitlines(keepends=True)
    printed = run(made, {"__name__": "__main__"})
    for cell, said in zip(of_kind("code", made), printed):
        shown = "".join(line for output in cell["outputs"] for line in output["text"]).splitlines()
        assert not shown or drift(shown, [line.rstrip() for line in said.rstrip().splitlines()]) is None, text(cell)
    names = list(lesson("41").functions)
    assert re.findall(r"^  (\w+) +passes$", printed[-1], re.MULTILINE) == names == Mine().progress["passed"]
    assert Path("../41_bridges.py").read_text(encoding="utf-8") == solution("41")
    assert Path("pooled.png").exists() and Path("../images/park.png").exists()


def test_a_notebook_stays_as_it_is(learn):
    learn("notebook 02")
    path = Path(FOLDER, "notebooks", "02_attention.ipynb")
    path.write_text("mine")
    again = learn("notebook attention")
    assert again.code == 0 and "exists and stays as it is" in again.out and path.read_text() == "mine"


def test_a_picture_of_that_name_stays_as_it_is(learn):
    Path(FOLDER, "images").mkdir()
    Path(FOLDER, "images", "park.png").write_text("mine")
    learn("notebook 16")
    assert Path(FOLDER, "images", "park.png").read_text() == "mine"
    assert Path(FOLDER, "images", "table.png").exists()


def test_what_the_learner_has_written_already_is_in_the_cell(learn):
    learn("start 02")
    file = Path(FOLDER, "02_attention.py")
    file.write_text(solution("02"))
    made = notebook.notebook(lesson("02"), Mine())
    assert text(of_kind("code", made)[-2]) == solution("02").strip("\n")


@pytest.fixture
def checked(learn, monkeypatch):
    """The command lines that notebook.check has run"""
    lines = []
    monkeypatch.setattr(cells, "terminal", lines.append)
    monkeypatch.setattr(cells, "KEPT", {})
    return lines


def test_the_whole_cell_is_kept_once(checked):
    code = "import numpy as np\nscale = 2\ndef softmax(x): return scale * x\ndef attention(q, k, v): return v\n"
    cells.check("02", *written(FOLDER, "<one>", code))
    assert Path(FOLDER, "02_attention.py").read_text() == code
    assert checked == ["tinycogvlm learn check 02"]


def test_functions_of_several_cells_are_kept_in_order(checked):
    one, two = "def softmax(x):\n    return x\n", "def attention(q, k, v):\n    return v"
    cells.check("02", *written(FOLDER, "<one>", one), *written(FOLDER, "<two>", two))
    assert Path(FOLDER, "02_attention.py").read_text() == one + "\n\n" + two + "\n"


def test_work_done_elsewhere_is_kept_under_another_name(checked, capsys):
    """What this notebook has written itself is not: it is in its cells."""
    file = Path(FOLDER, "02_attention.py")
    first, second = "def softmax(x): return x\n", "def softmax(x): return 2 * x\n"
    Mine().start(lesson("02"))
    cells.check("02", *written(FOLDER, "<one>", first))     # over the exercise as it was given
    cells.check("02", *written(FOLDER, "<two>", second))
    assert file.read_text() == second and capsys.readouterr().out == ""
    file.write_text("# from my editor\n")
    cells.check("02", *written(FOLDER, "<one>", first))
    assert file.read_text() == first and Path(FOLDER, "02_attention.backup1.py").read_text() == "# from my editor\n"
    assert "kept as my-cogvlm/02_attention.backup1.py" in capsys.readouterr().out.replace("\\", "/")


def test_kernels_are_kept_as_their_text(checked):
    cells.check("80", "// mine\n__global__ void f() {}\n")
    assert Path(FOLDER, "80_cuda.cu").read_text() == "// mine\n__global__ void f() {}\n"


@pytest.mark.parametrize("function", ["ops", len])
def test_a_function_of_no_cell_is_told(checked, function):
    from tinycogvlm.nn import ops
    with pytest.raises(UserError, match="is not written in a cell of this notebook; run the cell of the exercise"):
        cells.check("02", ops.softmax if function == "ops" else function)
    assert not Path(FOLDER, "02_attention.py").exists() and not checked
