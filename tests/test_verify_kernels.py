"""`verify --kernels`: every tensor of the original as the CUDA kernels compute it, here by the CPU runner."""
import json
import shutil
from pathlib import Path

import pytest

from test_verify import rewrite, set_meta
from tinycogvlm.cli import main
from tinycogvlm.verify.case import ACTIVATIONS, GRADS
from tinycogvlm.kernels.engine import Engine
from tinycogvlm.errors import UserError
from tinycogvlm.kernels.runner import build, loader, source
from tinycogvlm.verify.compare import verify

GOLDEN = Path(__file__).parent / "golden"
needs_runner = pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))


def left_out(report):
    return [(row.file, row.name) for row in report.rows if row.verdict == "left out"]


@needs_runner
@pytest.mark.parametrize("case", ["v1_eps", *(pytest.param(case, marks=pytest.mark.slow)
                                              for case in ("v1_tiny", "v2_tiny", "v1_grads", "v2_grads", "v1_bf16"))])
def test_the_original_s_tensors(case, capsys):
    """Every recorded tensor of the PyTorch code, greedy ids, batches, but what kernels do not compute."""
    assert main.main(["verify", str(GOLDEN / case), "--kernels", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    others = {(row["file"], row["name"]) for row in rows if row["verdict"] != "ok"}
    gradients = {(row["file"], row["name"]) for row in rows if row["file"] == GRADS}
    assert others == {(ACTIVATIONS, "vit/patch_conv")} | gradients
    assert len(rows) - len(others) >= 150 and bool(gradients) == case.endswith("grads")


@pytest.fixture(scope="module")
def one_answer(tmp_path_factory):
    """v1_eps without text and batches: a picture, a question, 24 words."""
    folder = tmp_path_factory.mktemp("case") / "v1_eps"
    shutil.copytree(GOLDEN / "v1_eps", folder)
    set_meta(folder, lambda meta: [meta.pop(key) for key in ("text_gen", "batch_gen", "prompts")])

    def change(tensors):
        for name in [name for name in tensors if name.startswith(("text/", "batch/"))]:
            del tensors[name]
    rewrite(folder / ACTIVATIONS, change)
    return folder


@pytest.fixture
def plant(monkeypatch):
    """plant(file, right, wrong): that line of our kernel is wrong from here to the end of the test."""
    def of(file, right, wrong):
        read = source.read

        def planted(path):
            text = read(path)
            if path != source.HERE / file:
                return text
            assert right in text
            return text.replace(right, wrong)
        monkeypatch.setattr(source, "read", planted)
        loader.kept.clear()
    yield of
    loader.kept.clear()


WRONG = {
    "attention sees a key too few": ("attention.cu", "s <= keys - queries + t", "s < keys - queries + t",
                                     "lm/layer0/attn_ctx"),
    "the wrong way round": ("rotary.cu", "first * c - second * s", "first * c + second * s", "lm/layer0/q_rope"),
    "no epsilon": ("layernorm.cu", "/ D + eps", "/ D", "vit/layer0/attn_out_normed"),
    "a decoded token's keys alone": ("gemv.cu", "second * c + first * s", "second * c - first * s", "gen/ids"),
}


@pytest.mark.slow
@needs_runner
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_kernel_is_reported(one_answer, plant, what, capsys):
    file, right, wrong, first = WRONG[what]
    plant(file, right, wrong)
    assert main.main(["verify", str(one_answer), "--kernels"]) == 1
    table = capsys.readouterr().out
    assert f"FAIL; the first that differs is {first} of" in table, table
    assert verify(one_answer).ok                            # NumPy has nothing to do with it


@needs_runner
def test_the_table_says_what_is_left_out(one_answer, capsys):
    assert main.main(["verify", str(one_answer), "--kernels"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "left out  the kernel adds the positions at once: see vit/patch_embed" in lines[-2]
    assert lines[-1].endswith("hold, 1 left out") and sum(line.endswith("  ok") for line in lines) > 100


@needs_runner
def test_what_fails_is_not_left_out(one_answer, monkeypatch):
    """Where a pass breaks off, all its other tensors fail."""
    def logits(*_, **__):
        raise UserError("broken")
    monkeypatch.setattr(Engine, "logits", logits)
    report = verify(one_answer, kernels=True)
    assert left_out(report) == [(ACTIVATIONS, "vit/patch_conv")] and not report.ok
    assert all("broken" in row.detail for row in report.failed)


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"apt install g\+\+|container"):
        verify(GOLDEN / "v1_eps", kernels=True)


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["v1_eps", pytest.param("v2_tiny", marks=pytest.mark.slow)])
def test_the_original_s_tensors_on_a_gpu(case, cupy):
    report = verify(GOLDEN / case, "cuda", kernels=True)
    assert report.ok, report.table()
    assert left_out(report) == [(ACTIVATIONS, "vit/patch_conv")]
