"""What a person meets first: the import, the README's commands, the metadata."""
import re
import subprocess
import sys
from pathlib import Path

from commands_page import BEGIN, tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
COMMANDS = re.findall("```sh\n(.*?)```", README, re.DOTALL)


def test_the_import_is_light():
    """tokenizers, safetensors and CuPy load where they are used, and no part of the package that only commands need."""
    heavy = ["tokenizers", "safetensors", "ml_dtypes", "cupy", "argparse", "tinycogvlm.storage.checkpoint", "tinycogvlm.inputs.tokenizer",
             "tinycogvlm.cli.main", "numpy", "PIL", "tinycogvlm.verify.compare", "tinycogvlm.train", "PIL.PngImagePlugin"]
    code = (f"import sys; new = {{*{heavy}}} - {{*sys.modules}}; "
            "import tinycogvlm; print(*new & {*sys.modules})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")


def test_what_the_package_offers():
    import tinycogvlm
    assert {"CogVLM", "UserError", "load"} == set(tinycogvlm.__all__) <= set(dir(tinycogvlm))


def test_ci_runs_what_the_readme_says():
    set_up, test = COMMANDS
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line.strip() for line in ci]
    assert test.strip() in commands
    assert "pip install -q -e '.[test]'" in commands and "pip install -e '.[test]'" in set_up
    question = set_up.partition("tinycogvlm ask lessons/images/park.png ")[2].strip()
    assert f'tinycogvlm ask "$images/park.png" {question}' in commands


def test_a_page_documents_every_command():
    from tinycogvlm.cli.options import parser
    commands = [name for action in parser()._actions for name in action.choices or ()]
    assert commands == re.findall(r"^\| `tinycogvlm (\w+)", PAGE, re.MULTILINE)


def test_a_page_documents_every_option():
    """If not: python tests/commands_page.py --fix"""
    from tinycogvlm.cli.options import parser
    assert PAGE.partition(BEGIN)[2].strip() == tables(parser()).strip()


def test_the_python_of_the_readme_runs(make_model, monkeypatch, tmp_path):
    """The ten lines, with a small random model in place of the trained one."""
    import tinycogvlm
    from PIL import Image

    from tinycogvlm.inputs.tokenizer import ByteTokenizer
    model = make_model(vocab_size=259, max_position_embeddings=512)
    model.tokenizer = ByteTokenizer(model.config)
    monkeypatch.setattr(tinycogvlm, "load", lambda: model)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 20), "red").save("picture.png")
    [lines] = re.findall("```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(compile(lines, "README.md", "exec"), names)
    assert names["logits"].shape == (1, names["inputs"].ids.size, 259) and names["loss"] > 0
    trained = [name for name in model.parameters if not name.startswith("model.vision.")]
    assert list(names["gradients"]) == trained and len(lines.splitlines()) <= 13


def test_the_lines_that_the_readme_counts():
    """To within a twentieth"""
    files = {"forward": "nn/ops.py nn/attention.py nn/normal.py model/vit.py model/adapter.py model/route.py model/expert.py "
                        "model/decoder.py model/cogvlm.py",
             "the training loop": "train/loop/loop.py train/loop/optimizer.py train/loop/state.py train/loop/run.py "
                                  "train/loop/checkpoint.py train/loop/ahead.py train/loop/log.py train/loop/clock.py"}
    counts = dict(re.findall(r"^\| (forward|the training loop).*\| ([\d,]+) \|$", README, re.MULTILINE))
    assert counts.keys() == files.keys()
    for what, names in files.items():
        paths = [ROOT / "tinycogvlm" / name for name in names.split()]
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
        assert abs(int(counts[what].replace(",", "")) - lines) < lines / 20, (what, lines)
