"""What is said of a learner's kernel: the package's own, with one mistake made in it."""
import pytest

from learners import begin, solve
from tinycogvlm.errors import UserError
from tinycogvlm.kernels.runner import build
from tinycogvlm.kernels.runner.source import HERE
from tinycogvlm.learn import child, learner
from tinycogvlm.learn.course import lesson

pytestmark = pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))
STEPS = "for (int distance = 16; distance > 0; distance /= 2)"


@pytest.mark.parametrize("number, name, right, wrong, said", [
    ("80", "rms_norm_v2", "warp_sum(sum)", "sum", "Only the lane's own part"),
    ("80", "rms_norm_v2", STEPS, "for (int distance = 16; distance > 1; distance /= 2)", "Steps of the shuffle"),
    ("80", "rms_norm_v2", STEPS, "for (int distance = 8; distance > 0; distance /= 2)", "Steps of the shuffle"),
    ("80", "rms_norm_v2", "__shfl_xor_sync", "__shfl_down_sync", "lane 0 alone has the whole sum"),
    ("81", "expert_matmul_v2", "blockIdx.x * 16 + threadIdx.y", "blockIdx.x * 16 + threadIdx.x", "the wrong row of W"),
    ("83", "attention_decode_combine", " - top);", ");", "exp overflows for a large lse"),
], ids=lambda value: value if len(value) < 10 else "")
def test_the_mistake_in_a_kernel_is_named(tmp_path, monkeypatch, number, name, right, wrong, said):
    begin(tmp_path, monkeypatch)
    file = solve(number)
    head, *rest = file.read_text(encoding="utf-8").split('#include "common.cuh"')
    text = "".join([head, (HERE / "common.cuh").read_text(encoding="utf-8"), *rest])
    assert text.count(right) == 1
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    lines = child.wrong(name, None, file, lesson(number).functions[name])
    assert lines and said in lines[0], lines


def test_exchanged_matrices_are_named_with_the_bias_where_it_belongs(tmp_path, monkeypatch):
    begin(tmp_path, monkeypatch)
    file = solve("81")
    file.write_text(file.read_text(encoding="utf-8").replace("is_language ? language : vision",
                                                             "is_language ? vision : language"), encoding="utf-8")
    lines = child.wrong("expert_matmul_v1", None, file, lesson("81").functions["expert_matmul_v1"])
    assert lines[0].startswith("The experts' matrices are exchanged"), lines


@pytest.mark.parametrize("name, right, wrong", [
    ("rms_norm_v1", "int row = blockIdx.x * blockDim.x + threadIdx.x;", "int row = threadIdx.x;"),
    ("rms_norm_v2", "blockIdx.x * (blockDim.x / 32)", "blockIdx.x * blockDim.x")])
def test_a_row_of_a_second_block_is_not_forgotten(tmp_path, monkeypatch, name, right, wrong):
    begin(tmp_path, monkeypatch)
    file = solve("80")
    text = file.read_text(encoding="utf-8")
    begin_of_kernel = text.index(f"{name}(")
    assert right in text[begin_of_kernel:]
    file.write_text(text[:begin_of_kernel] + text[begin_of_kernel:].replace(right, wrong, 1), encoding="utf-8")
    lines = child.wrong(name, learner.load(file)[name], file, lesson("80").functions[name])
    assert "300" in " ".join(lines)
    assert len(" ".join(lines)) < 1000 and lines[-1].startswith(("with x (300, 3), weight = [", "case ")), lines


def test_a_file_that_does_not_compile(tmp_path, monkeypatch):
    """Said of the file, once for each of its kernels, with the compiler's line and without numbers of a case."""
    begin(tmp_path, monkeypatch)
    file = solve("80")
    file.write_text(file.read_text(encoding="utf-8").replace("float sum", "flaot sum", 1), encoding="utf-8")
    for name, function in learner.load(file).items():
        lines = child.wrong(name, function, file, lesson("80").functions[name])
        assert lines[0] == "The file does not compile, so none of its kernels runs:" and "'flaot'" in lines[1]
        assert not any(line.startswith("with ") for line in lines)


def test_a_kernel_file_of_a_windows_editor(tmp_path, monkeypatch):
    """A byte order mark and other ends of lines are read; another encoding is named with its line."""
    begin(tmp_path, monkeypatch)
    file, name = solve("80"), "rms_norm_v1"
    text = file.read_text(encoding="utf-8")
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert child.wrong(name, None, file, lesson("80").functions[name]) == []
    file.write_bytes(b"// caf\xe9\n" + text.encode())
    with pytest.raises(UserError, match=r"80_cuda.cu:1: not UTF-8 \(byte 0xe9\); save the file in UTF-8"):
        learner.written(file)
