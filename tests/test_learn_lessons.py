"""What reads the lessons notices every change: each printed number, words, links, lines, pictures."""
import os
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from lessons import ROOT, Run, drift, fix, near, same
from lessons_text import NUMBER, check_text
from tinycogvlm.learn.markdown import read

DOCUMENTS = sorted((ROOT / "lessons").rglob("*.md"))


@pytest.fixture
def document(tmp_path):
    """document(text) -> its path, in a folder as a lesson's, two levels below what it links to"""
    def write(text):
        path = tmp_path / "lessons" / "07_case" / "README.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path
    return write


def block(code, output=None, language="python"):
    return f"```{language}\n{code}\n```\n" + (f"\n```text\n{output}\n```\n" if output is not None else "")


def moved(number):
    """The number, a little off: by two units of its last digit; one that is marked with ~ by a factor of 3."""
    if number.startswith("~"):
        return f"~{3 * float(number[1:].replace(',', '')) + 1e-12}"
    mantissa, e, exponent = number.replace(",", "").partition("e")
    decimals = len(mantissa.partition(".")[2])
    return f"{float(mantissa) + 2 * 10.0 ** -decimals:.{decimals}f}{e}{exponent}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
def test_no_printed_number_can_be_edited(path):
    """Of any lesson: the output as it is passes, and with any one of its numbers changed does not."""
    for shown in [block.output.lines for block in read(path)[0] if block.output]:
        assert drift(shown, [line.replace("~", "") for line in shown]) is None
        for i, line in enumerate(shown):
            for found in NUMBER.finditer(line):
                edited = line[:found.start()] + moved(found[0]) + line[found.end():]
                assert drift([*shown[:i], edited, *shown[i + 1:]], shown) == i, edited


@pytest.mark.parametrize("shown, got, holds", [
    ("0.5", "0.5", True), ("0.5", "0.6", False), ("0.501", "0.502", False), ("0.5012", "0.5013", True),
    ("0.5012", "0.5014", False), ("-0.5012", "0.5012", False), ("17", "18", False), ("12345", "12346", False),
    ("1.234e-05", "1.235e-05", True), ("1.234e-05", "1.234e-06", False), ("~12.5", "24.9", True), ("~12.5", "6.3", True),
    ("~12.5", "25.1", False), ("~12.5", "6.2", False), ("~12.5", "-12.5", False), ("1,234", "1234", False), ("0.0012", "0.0013", False)])
def test_near(shown, got, holds):
    assert near(shown, got) == holds


@pytest.mark.parametrize("shown, got, holds", [
    ("[ 1.  2.]", "[1. 2.]", True), ("x is 1.5", "y is 1.5", False), ("float32", "float64", False),
    ("a 1", "a 1 2", False), ("(2, 3)", "(2, 4)", False), ("(1, 2)", "( 1,  2 )", True)])
def test_same(shown, got, holds):
    assert same(shown, got) == holds


def test_three_dots_stand_for_any_lines():
    assert drift(["a", "...", "d"], ["a", "b", "c", "d"]) is None and drift(["a", "..."], ["a", "b"]) is None
    assert drift(["...", "x"], ["a", "b"]) == 1 and drift(["a"], ["a", "b"]) == 1 and drift(["a", "b"], ["a"]) == 1


def test_blocks_run_in_order_and_drift_is_named_by_its_line(document):
    path = document("# A\n\n" + block("x = 2\nprint(x)\nprint(x * 3)", "2\n7") + "\ntext\n\n"
                    + block("print(x + 1)", "3"))
    run = Run(path)()
    assert [line for line, _ in run.problems] == [11] and "6" in run.problems[0][1].splitlines()[-1]
    path = document("# A\n\n" + block("x = 2") + block("y = 1\nz = x + undefined"))
    assert Run(path)().problems == [(8, "NameError: name 'undefined' is not defined")]
    assert Run(document(block("x = (")))().problems[0][0] == 2
    assert Run(document(block("print(1)") + "\nwords\n\n```text\na drawing 9\n```\n"))().problems == []


def test_cuda_console_and_what_nothing_runs(document):
    path = document(block("__global__ void f() {}", language="cuda") + block("print(len(cuda))", "23"))
    assert Run(path)().problems == []
    lines = ("$ tinycogvlm learn start 02", "my-cogvlm/02_attention.py is yours",
             "write softmax, attention, then: tinycogvlm learn check 02",
             "$ tinycogvlm learn start 99", "tinycogvlm: no lesson 98; there are 01, 04, ...")
    path = document(block("\n".join(lines), language="console"))
    [(line, said)] = Run(path)().problems
    assert line == 6 and "no lesson 99" in said
    assert "ls is not run here" in Run(document(block("$ ls", language="console")))().problems[0][1]
    assert "not a line of the README" in Run(document(block("rm -r x", language="sh")))().problems[0][1]
    assert Run(document(block("pytest", language="sh")))().problems == []
    assert "which nothing runs" in Run(document(block("{}", language="json")))().problems[0][1]


KERNEL = ("import numpy as np\nfrom tinycogvlm import kernels\nx = np.zeros(1, np.int32)\n"
          "kernels.load('__global__ void one(int *x) { *x = 1; }', 'one')((1,), (1,), (x,))\nprint(x)")


def test_a_machine_without_a_compiler(document, monkeypatch):
    """Blocks run up to the first kernel; what is wrong above it is still said."""
    monkeypatch.setattr("tinycogvlm.kernels.runner.build.cpu_runner", lambda: "no g++ is found")
    run = Run(document(block(KERNEL, "[2]")))()
    assert run.problems == [] and run.why_not == "no g++ is found"
    run = Run(document(block("print(1)", "2") + block(KERNEL)))()
    assert [line for line, _ in run.problems] == [6] and run.why_not
    run = Run(document(block("raise ValueError('no compiler')")))()
    assert run.problems == [(2, "ValueError: no compiler")] and run.why_not is None


DRAW = "from PIL import Image\nImage.new('RGB', (40, 30), {!r}).save('a.png')"


def test_pictures_are_drawn_again(document):
    path = document(block(DRAW.format("red")))
    assert Run(path)().problems == [(2, "a.png is not the picture that is checked in")]
    Image.new("RGB", (40, 30), "#fe0101").save(path.parent / "a.png")              # as another Pillow may draw it
    assert Run(path)().problems == []
    Image.new("RGB", (40, 30), "#e00000").save(path.parent / "a.png")
    assert len(Run(path)().problems) == 1
    Image.new("RGB", (40, 31), "red").save(path.parent / "a.png")
    assert len(Run(path)().problems) == 1
    path = document("no code\n")
    assert Run(path)().problems == [(1, "a.png: no code of the lesson draws it")]


def test_numbers_in_prose(document):
    assert check_text(document("It has 3 parts, in 2024, of 4096 numbers.\n"))[0][0] == 1
    assert check_text(document("It has 4096 numbers.\n\n" + block("n = 4096"))) == []
    assert check_text(document("A share of 0.25 of it, 1,234 in all.\n\n" + block("print(0.25, 1234)"))) == []
    assert check_text(document("words\n\n```text\n(4096, 12)\n```\n"))[0][0] == 4          # a drawing
    bound = document("It has 4,096<!--= n * 2 --> numbers and 0.33<!--= 1 / 3 --> more.\n\n" + block("n = 2048"))
    assert check_text(bound) == [] and Run(bound)().problems == []
    bound = document("It has 4,097<!--= n * 2 --> numbers and 0.34 %<!--= 1 / 3 --> more.\n\n" + block("n = 2048"))
    assert Run(bound)().problems == [(1, "n * 2 is 4096, not 4097"), (1, "1 / 3 is 0.33, not 0.34")]


def test_links(document, tmp_path):
    package = tmp_path / "tinycogvlm"
    package.mkdir()
    (package / "ops.py").write_text("X = 1\n\n\ndef rms_norm(x):\n    pass\n\n\nclass A:\n"
                                    "    def f(self):\n        pass\n")
    (package / "k.cu").write_text("// rms_norm_v1\n\n__global__ void rms_norm_v1(int x) {}\n\ntemplate <int N>\n"
                                  "__global__ void __launch_bounds__(128, 2 * (N + 1))\ngemv_v1(int x) {\n"
                                  "    gelu(x);\n}\n\n__device__ int twice(int x) {\n    return silu(x);\n}\n")
    good = ("[`ops.rms_norm`](../../tinycogvlm/ops.py#L4) [`A.f`](../../tinycogvlm/ops.py#L9)\n"
            "[X](../../tinycogvlm/ops.py#L1) [`rms_norm_v1`](../../tinycogvlm/k.cu#L3)\n"
            "[`gemv_v1`](../../tinycogvlm/k.cu#L7) [`twice`](../../tinycogvlm/k.cu#L11)\n"
            "[it](#a-good-heading) [paper](https://arxiv.org/abs/2311.03079)\n\n# A good heading\n")
    assert check_text(document(good)) == []
    for link, said in [("[`rms_norm`](../../tinycogvlm/ops.py#L5)",
                        "rms_norm` is defined at ../../tinycogvlm/ops.py#L4, not L5"),
                       ("[`gelu`](../../tinycogvlm/ops.py#L4)", "`gelu` is not defined in"),
                       ("[`gemv_v1`](../../tinycogvlm/k.cu#L6)", "is defined at ../../tinycogvlm/k.cu#L7, not L6"),
                       ("[`gelu`](../../tinycogvlm/k.cu#L8)", "`gelu` is not defined in"),
                       ("[`silu`](../../tinycogvlm/k.cu#L12)", "`silu` is not defined in"),
                       ("[a](b.md)", "b.md: no such file"), ("[a](#nothing)", "no such heading"),
                       ("![](../../tinycogvlm/ops.py)", "a picture without words")]:
        assert said in check_text(document(f"one\n\n{link}\n"))[0][1]
        assert check_text(document(f"one\n\n{link}\n"))[0][0] == 3


def test_long_lines(document):
    assert check_text(document("x" * 100 + "\n")) == [] != check_text(document("x" * 101 + "\n"))
    assert check_text(document("| " + "x" * 101 + "\n")) == []
    assert check_text(document("\n" + block("#" * 101))) == [(3, "101 characters; 100 is the most")]


def test_fix_writes_what_runs(document, tmp_path):
    (tmp_path / "tinycogvlm").mkdir()
    (tmp_path / "tinycogvlm" / "ops.py").write_text("\n\ndef f():\n    pass\n")
    text = ("[`f`](../../tinycogvlm/ops.py#L{})\n\n" + block(DRAW.format("red") + "\nprint(1)\nprint(2)", "{}")
            + block("print(3)", "{}"))
    path = document(text.format(9, "0", ""))
    fix(path)
    assert path.read_text() == text.format(3, "1\n2", "3") and not Run(path)().problems and not check_text(path)
    open_lines = document(block("print(1.5)\nprint(2)", "~0.01\n2"))
    before = open_lines.read_text()
    fix(open_lines)
    assert open_lines.read_text() == before and Run(open_lines)().problems


def test_pytest_names_file_and_line(document, tmp_path):
    document("# A\n\n" + block("print(1)", "2"))
    kernel = tmp_path / "lessons" / "18_kernel" / "README.md"
    kernel.parent.mkdir()
    kernel.write_text(block(KERNEL, "[1]"))
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "conftest.py", tmp_path)
    for name in ("lessons.py", "lessons_text.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests")
    (tmp_path / "lessons" / "images").mkdir()
    (tmp_path / "README.md").write_text("")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "lessons"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"PATH": "", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1 and "1 failed, 2 passed, 1 skipped" in done.stdout, done.stdout
    assert re.search(r"^SKIPPED .*kernels run on the CPU", done.stdout, re.MULTILINE)
    assert re.search(r"^lessons/07_case/README.md:8: the output shown has drifted", done.stdout, re.MULTILINE)
