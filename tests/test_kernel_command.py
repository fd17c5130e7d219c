"""`tinycogvlm kernel`: a run, stepping at a terminal and through a pipe, the profile, a sentence for every mistake."""
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tinycogvlm.cli import main
from tinycogvlm.kernels.runner import build, source
from tinycogvlm.kernels.runner.loader import load
from tinycogvlm.cli.kernel import find

WHY_NOT = build.cpu_runner()
needs_runner = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

STEPS = """\
__global__ void steps(const float* x, float* y, int n) {
    __shared__ float row[4];
    int t = threadIdx.x;
    row[t] = x[4 * blockIdx.x + t] + n;
    __syncthreads();
    if (t < 2) row[t] += row[t + 2];
    __syncthreads();
    if (t == 0) y[blockIdx.x] = row[0] + row[1];
}
"""
CALL = ("1:8", "2", "3", "--grid", "2", "--block", "4")
SIZES = "--grid", "2", "--block", "4"
FIRST, SECOND = "row float32 4\n    [4 4 4 4]\n", "row float32 4\n    [8 8 4 4]\n"
END = "the kernel has ended; barriers of block (0, 0, 0): 2\n  y float32 2\n    [16 16]\n"


@pytest.fixture
def steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("steps.cu").write_text(STEPS)
    return "steps.cu"


@pytest.fixture
def run(capsys, monkeypatch):
    """run("step", ...) -> exit code, stdout, stderr; `typed` is what stdin holds."""
    if build.cpu_runner() is None:
        build.machine()                                     # says so where it is compiled for the first time
        capsys.readouterr()

    def run(*arguments, typed=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = main.main(["kernel", *map(str, arguments)])
        return code, *capsys.readouterr()
    return run


def where(line, barrier, thread=0, block=0):
    return (f"steps.cu:{line}: barrier {barrier} of block ({block}, 0, 0); thread ({thread}, 0, 0) is "
            f"lane {thread % 32} of warp {thread // 32}\n  ")


@needs_runner
def test_step_without_input_shows_every_barrier_and_what_was_written(run, steps):
    assert run("step", "steps.cu:steps", *CALL) == (0, where(5, 1) + FIRST + where(7, 2) + SECOND + END, "")
    said = run("step", "steps.cu", *CALL, "--thread", "3", "--of-block", "1")[1]
    assert said == where(5, 1, 3, 1) + FIRST + where(7, 2, 3, 1) + SECOND + END.replace("(0,", "(1,")


@needs_runner
def test_step_does_what_is_typed(run, steps):
    """Another thread, which stays chosen; all of an array; an empty line goes on; unknown words are named."""
    code, out, err = run("step", steps, *CALL, typed="thread 2\nrow\nthread 4\nthread one\nrows\n\n")
    assert code == 0 and out == (where(5, 1) + FIRST + where(5, 1, 2) + FIRST + "  " + FIRST + where(7, 2, 2) + SECOND
                                 + END)
    assert err.startswith("tinycogvlm: there is no thread (4, 0, 0): they go up to (3, 0, 0)\n"
                          "tinycogvlm: 'one' is not one, two or three indices, such as 33 or 1,2\n"
                          "tinycogvlm: 'rows' is neither a command nor a shared array\nEnter ")
    assert run("step", steps, *CALL, typed="quit\n") == (0, where(5, 1) + FIRST, "")


@needs_runner
@pytest.mark.parametrize("keys, stops", [(b"\n\n", 2), (b"\nquit\n", 2), (b"\x04", 1)], ids=["on", "quit", "Ctrl-D"])
def test_step_at_a_terminal(steps, keys, stops):
    """It prompts, and Ctrl-D ends it there: nobody wants thousands of barriers on the screen."""
    ours, theirs = pytest.importorskip("pty").openpty()
    done = subprocess.Popen([sys.executable, "-m", "tinycogvlm", "kernel", "step", steps, *CALL], stdin=theirs,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TERM": "dumb"})
    os.write(ours, keys)
    out, err = (text.decode() for text in done.communicate(timeout=60))
    os.close(ours), os.close(theirs)
    assert done.returncode == 0 and "quit" in err and "Traceback" not in err
    assert out.count(": barrier ") == stops and ("has ended" in out) == (keys == b"\n\n")


SUMS = "  y float32 2: 2 of 2 changed, 18 to 34\n    [18 34]\n"


@needs_runner
def test_run(run, steps):
    """What was written is shown; arguments may be named, in any order."""
    assert run("run", steps, "range:8", "2", "3", *SIZES) == (0, SUMS, "")
    assert run("run", steps, "n=3", "range:8", "y=2", *SIZES) == (0, SUMS, "")
    words = "range:8:float32", "y=0:2", "3", "--order", "shuffled", "--seed", 7
    assert run("run", steps, *words, *SIZES) == (0, SUMS, "")
    watched = "every access was watched: no race, nothing out of bounds, nothing read before it was written\n"
    assert run("run", steps, "range:8", "2", "3", *SIZES, "--race") == (0, SUMS + watched, "")
    code, out, err = run("run", steps, "7", "2", "3", *SIZES, "--race")
    assert (code, out) == (1, "") and "steps.cu:4: " in err and "beyond the end of x (argument 1)" in err
    assert json.loads(run("run", steps, "range:8", "2", "3", *SIZES, "--json")[1]) == {
        "arrays": [dict(name="y", dtype="float32", shape=[2], changed=2, min=18, max=34, nan=0, infinite=0)],
        "as_expected": {}}


@needs_runner
def test_a_run_is_compared_with_what_is_expected(run, steps):
    call = "run", steps, "range:8", "2", "3", *SIZES
    np.save("right.npy", np.array([18, 34], np.float32))
    np.save("near.npy", np.array([18, 34.02], np.float64))
    np.save("wrong.npy", np.array([18, 30], np.float16))
    assert run(*call, "--expect", "right.npy") == (0, SUMS + "y is as in right.npy\n", "")
    assert run(*call, "--expect", "x=x.npy", "--expect", "y=near.npy", "--close", "1e-3")[0] == 1       # no x.npy
    assert run(*call, "--expect", "y=near.npy", "--close", "1e-3") == (0, SUMS + "y is as in near.npy\n", "")
    assert run(*call, "--expect", "y=near.npy", "--close", "1e-4") == (1, SUMS, (
        "tinycogvlm: y is not as in near.npy: 1 of 2 entries differs; the worst is [1]: 34, 34.02 is expected\n"))
    code, out, err = run(*call, "--expect", "wrong.npy", "--json")
    assert code == 1 and json.loads(out)["as_expected"] == {"y": False} and "the worst is [1]: 34, 30 is exp" in err
    np.save("long.npy", np.zeros(3))
    np.save("complex.npy", np.zeros(2, complex))
    for word, part in (
            ("none.npy", "--expect y: 'none.npy' cannot be read (No such file or directory)"),
            ("long.npy", "long.npy has float64 of the shape (3,); real numbers of the shape (2,) can be compared"),
            ("complex.npy", "complex.npy has complex128 of the shape (2,); real numbers of"),
            ("n=right.npy", "--expect n=right.npy: the kernel was given no array 'n'; it was given x, y"),
            (steps, "'steps.cu' is not an array as numpy.save writes it")):
        code, out, err = run(*call, "--expect", word)
        assert (code, out, err.count("\n")) == (1, "", 1) and part in err
    code, _, err = run(*call, "--expect", "right.npy", "--expect", "y=right.npy")
    assert code == 1 and "--expect y=right.npy: y was given before, as right.npy" in err


@needs_runner
def test_a_run_keeps_what_it_has_written(run, steps):
    """As files that another run takes."""
    assert run("run", steps, "range:8", "2", "3", *SIZES, "--out", "results/first")[:2] == (0, SUMS)
    assert os.listdir("results/first") == ["y.npy"]
    kept = np.load("results/first/y.npy")
    assert kept.dtype == np.float32 and kept.tolist() == [18, 34]
    assert run("run", steps, "range:8", "results/first/y.npy", "3", *SIZES)[1] == (
        "  y float32 2: unchanged, 18 to 34\n    [18 34]\n")
    for folder, part in (("steps.cu", "steps.cu: no such folder, and it cannot be made (File exists)"),
                         ("steps.cu/in", "steps.cu/in: no such folder, and it cannot be made (Not a directory)")):
        code, out, err = run("run", steps, "range:8", "2", "3", *SIZES, "--out", folder)
        assert (code, out, err.count("\n")) == (1, "", 1) and part in err


KINDS = """\
#include <cuda_bf16.h>
#include <cuda_fp16.h>
struct Pair { float a; int b; };
__global__ void kinds(Pair* p, const void* q, int* i, __nv_bfloat16* b, float* f, bool* t, const float*) {
    int x = threadIdx.x;
    p[x].b = ((const half*)q)[x] == (half)2;
    i[x] += 100000 * x;
    b[x] = (float)x + 0.5f;
    f[x] = x == 0 ? NAN : x == 1 ? INFINITY : x;
    t[x] = x;
}
__global__ void silent(const float* x) { if (threadIdx.x == 0) printf("%d", (int)x[0]); }
template <int N> __global__ void twice(float* x) { x[N] *= 2; }
"""


@needs_runner
def test_every_kind_of_array(run, tmp_path):
    """Structures as bytes, void* with a type in words, bfloat16 as its bits in files, NaN and infinities counted."""
    file, call = tmp_path / "kinds.cu", ("--grid", 1, "--block", 3, "--out", tmp_path)
    file.write_text(KINDS)
    np.save(tmp_path / "p.npy", np.zeros(3, [("a", "f4"), ("b", "i4")]))
    np.save(tmp_path / "bits.npy", np.array([0x3f00, 0x3fc0, 0x4020], np.uint16))
    words = f"{file}:kinds", tmp_path / "p.npy", "2:3:float16", "range:3", "3", "3", "3", "null"
    code, out, err = run("run", *words, *call, "--expect", f"b={tmp_path}/bits.npy")
    assert (code, err) == (0, "") and out == (
        "  p bytes 24: 3 of 24 changed, 0 to 1\n    [0 0 0 0 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0 1 0 0 0]\n"
        "  i int32 3: 2 of 3 changed, 0 to 200002\n    [     0 100001 200002]\n"
        "  b bfloat16 3: 3 of 3 changed, 0.5 to 2.5\n    [0.5 1.5 2.5]\n"
        "  f float32 3: 3 of 3 changed, 2 to 2, 1 NaN, 1 infinite\n    [nan inf   2]\n"
        f"  t bool 3: 2 of 3 changed, 0 to 1\n    [0 1 1]\nb is as in {tmp_path}/bits.npy\n")
    assert np.load(tmp_path / "b.npy").dtype == np.uint16
    code, out, _ = run("run", f"{file}:twice<1>", "random:2", "--grid", 1, "--block", 1)
    assert code == 0 and out.startswith("  x float32 2: 1 of 2 changed, ")


@needs_runner
def test_constants_come_from_words_and_files(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.cu").write_text("__constant__ float k[3];\n"
                            "__global__ void c(float* y) { __syncthreads(); y[threadIdx.x] = k[threadIdx.x]; }\n")
    np.save("k.npy", np.array([0, 1, 2], np.float32))
    call = "c.cu", "3", "--grid", 1, "--block", 3
    for word in "k=k.npy", "k=range:3:float32":
        assert run("run", *call, "--constant", word)[:2] == (0, "  y float32 3: 2 of 3 changed, 0 to 2\n    [0 1 2]\n")
    assert run("step", *call, "--constant", "k=k.npy")[1].endswith("y float32 3\n    [0 1 2]\n")
    assert run("profile", *call, "--constant", "k=k.npy")[0] == 0
    for words, part in (((), "uses the __constant__ k, which has no values in the source: load(..., constants={'k': "
                             "array}), or --constant k=FILE.npy, gives them"),
                        (("k=3",), "k: '3' is not a .npy file, nor a shape with a type, such as 0.25:9:float32"),
                        (("k=4:float32",), "the __constant__ k has 12 bytes, float32 (4,) has 16"),
                        (("k=none.npy",), "k: 'none.npy' cannot be read")):
        code, out, err = run("run", *call, *(("--constant", *words) if words else ()))
        assert (code, out, err.count("\n")) == (1, "", 1) and part in err


@needs_runner
def test_macros_are_defined(run, tmp_path, monkeypatch):
    """In every mode, before the source and after the machine's headers, whose words they do not change."""
    monkeypatch.chdir(tmp_path)
    Path("d.cu").write_text("#ifndef N\n#error N is not defined\n#endif\n__global__ void d(T* y) {\n"
                            "    __shared__ T s[N];\n    s[threadIdx.x] = N;\n    __syncthreads();\n"
                            "    y[threadIdx.x] = s[threadIdx.x];\n}\n")
    call = "d.cu", "3", "--grid", 1, "--block", 3
    macros = "-D", "T=unsigned char", "-DN=3", "-D", "other"
    assert run("run", *call, *macros) == (0, "  y uint8 3: 3 of 3 changed, 3 to 3\n    [3 3 3]\n", "")
    assert run("step", *call, *macros)[1].startswith("d.cu:7: barrier 1 of")
    assert "d.cu:6: " in run("run", *call, "-D", "T=float", "-DN=2", "--race")[2]
    code, out, err = run("run", *call, "-D", "T=float")
    assert (code, out) == (1, "") and err.startswith("tinycogvlm: d.cu:2:2: error: #error N is not defined")
    assert load("d.cu", "d", defines={"N": 3}).for_gpu.startswith("#define N 3\n#line 1\n#ifndef N\n")


@needs_runner
def test_what_a_kernel_prints_comes_first(tmp_path):
    (tmp_path / "kinds.cu").write_text(KINDS)
    done = subprocess.run([sys.executable, "-m", "tinycogvlm", "kernel", "run", "kinds.cu:silent", "7:1", "--grid", "1",
                           "--block", "2"], capture_output=True, text=True, cwd=tmp_path, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    assert (done.returncode, done.stdout, done.stderr) == (0, "7silent takes no array that it may write\n", "")


@needs_runner
def test_profile(run, steps):
    code, out, err = run("profile", steps, *CALL)
    lines = out.splitlines()
    assert (code, err) == (0, "") and lines[0].split()[:4] == ["line", "memory", "access", "requests"]
    assert lines[1].split() == ["4", "global", "reads", "4", "B", "2", "4.0", "1.0", "sectors", "1.0",
                                "row[t]", "=", "x[4", "*", "blockIdx.x", "+", "t]", "+", "n;"]
    assert lines[-1] == "shared memory: 0 turns lost to bank conflicts"
    rows = json.loads(run("profile", steps, *CALL, "--json")[1])
    assert rows[0] == dict(file="steps.cu", line=4, memory="global", access="reads", bytes=4, requests=2, accesses=8,
                           passes=2, least=2, conflicts=0)
    assert len(rows) == len(lines) - 3


@needs_runner
def test_the_profile_runs_with_every_check(run, steps):
    code, out, err = run("profile", steps, "7", *CALL[1:])
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("tinycogvlm: steps.cu:4: ") and "beyond the end of x (argument 1)" in err


@needs_runner
def test_bfloat16_is_shown_as_its_numbers(run, tmp_path):
    (tmp_path / "b.cu").write_text("#include <cuda_bf16.h>\n"
                                   "__global__ void b(__nv_bfloat16* y, __nv_bfloat16 by) { y[threadIdx.x] = by; }\n")
    file = tmp_path / "b.cu"
    for words in ((file, "2", "-1.5", "--grid", 1, "--block", 2), ("--grid", 1, "--block", 2, file, "--", 2, "-15e-1")):
        assert run("step", *words)[1] == ("the kernel has ended; barriers of block (0, 0, 0): 0\n"
                                          "  y float32 2\n    [-1.5 -1.5]\n")


@needs_runner
def test_a_range_counts(run, tmp_path):
    """In any type, and through an array of any shape: a list of indices, in which each stands once."""
    file = tmp_path / "counted.cu"
    file.write_text("#include <cuda_bf16.h>\n__global__ void counted(const int* a, const __nv_bfloat16* b, float* y) "
                    "{\n    int i = threadIdx.x;\n    y[i] += 10 * a[i] + (float)b[i];\n}\n")
    call = "--grid", 1, "--block", 4
    assert run("step", file, "range:4", "range:2x2", "range:4", *call)[1].endswith("y float32 4\n    [ 0 12 24 36]\n")
    assert run("profile", file, "range:5", "range:4x1", "4", *call)[0] == 0


def examples_in_help(capsys):
    assert main.main(["kernel", "--help"]) == 0
    return [shlex.split(line)[1:] for line in re.findall(r"^  (tinycogvlm kernel .*)", capsys.readouterr().out, re.M)]


@needs_runner
def test_the_examples_of_the_help_work_as_typed(capsys, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)                             # ours are found by their names from anywhere
    once, step, profile = examples_in_help(capsys)
    code, out, err = run(*once[1:])
    assert (code, err) == (0, "") and out.startswith("  y float32 2 x 64: 128 of 128 changed, ")
    code, out, err = run(*step[1:])
    assert (code, err) == (0, "") and "thread (33, 0, 0) is lane 1 of warp 1" in out and "partial float32 32" in out
    assert out.splitlines()[0].startswith(str(source.HERE / "common.cuh"))      # block_sum, where rms_norm_v3 waits
    code, out, err = run(*profile[1:])
    assert (code, err) == (0, "") and "32.0 sectors" in out


@pytest.mark.parametrize("command", [(), ("run",), ("step",), ("profile",)])
def test_help_says_what_arguments_are(command, capsys):
    code = main.main(["kernel", *command, "--help"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "") and "tinycogvlm kernel step 'rmsnorm.cu:" in out
    assert "1.5:4x64 " in out and "range:16 " in out


@needs_runner                                               # not for the runner's sake: a file may be called a:b there
def test_a_file_and_its_kernel(steps, tmp_path):
    ours = source.HERE / "rmsnorm.cu"
    assert find("rmsnorm.cu:rms_norm_v2<float>") == (ours, "rms_norm_v2<float>")
    assert find(f"{ours}:rms_norm_v2<ns::Real>") == (ours, "rms_norm_v2<ns::Real>")
    assert find("steps.cu:ns::steps") == (Path("steps.cu"), "ns::steps")
    assert find(f"{tmp_path}/steps.cu") == (tmp_path / "steps.cu", "steps")
    (tmp_path / "a:b.cu").write_text(STEPS)
    assert find("a:b.cu") == (Path("a:b.cu"), "steps")
    (tmp_path / "rmsnorm.cu").write_text(STEPS)             # a learner's own goes before ours
    assert find("rmsnorm.cu") == (Path("rmsnorm.cu"), "steps")


@needs_runner
@pytest.mark.parametrize("arguments, part", [
    (("none.cu:k", *SIZES), "none.cu: no such file, nor one of the package, which has attention.cu, "),
    ((".:k", *SIZES), ".: is not a file"),
    (("binary.cu:k", *SIZES), "binary.cu:1: not UTF-8 (byte 0xff); save the file in UTF-8"),
    (("latin.cu:k", *SIZES), "latin.cu:2: not UTF-8 (byte 0xe9); save the file in UTF-8"),
    (("header.cu:k", "8", *SIZES), "latin.cu:2: not UTF-8 (byte 0xe9)"),
    (("fifo.cu:k", *SIZES), "fifo.cu: is not a file"), (("/dev/zero:k", *SIZES), "/dev/zero: is not a file"),
    (("large.cu:k", *SIZES), "large.cu: has 17825792 bytes, but such a file has at most 16777216"),
    (("rmsnorm.cu", *SIZES), "kernels, name one as in rmsnorm.cu:KERNEL: rms_norm_v1, rms_norm_v2"),
    (("empty.cu", *SIZES), "empty.cu has 0 kernels"),
    (("steps.cu:other", *SIZES), "steps.cu: no kernel is called 'other'; it has steps"),
    (("swiglu.cu:swiglu_v1", *SIZES), "swiglu_v1 is a template<typename T>: give its arguments, as in swi"),
    (("swiglu.cu:swiglu_v1<flot>", *SIZES), "swiglu_v1<flot> cannot be called: 'flot' was not declared"),
    (("swiglu.cu:swiglu_v1<3>", *SIZES), "swiglu_v1<3> cannot be called: its template takes others"),
    (("steps.cu", "8", *SIZES), "takes 3 arguments: x (array), y (array), n (number); 1 were given"),
    (("steps.cu", "8", "2", "1.5", *SIZES), "n: '1.5' is not a number of int32"),
    (("steps.cu", "8", "2", "9999999999", *SIZES), "n: '9999999999' is not a number of int32"),
    (("steps.cu", "1e39:8", "2", "1", *SIZES), "x: '1e39:8' is not a shape such as 4x64, a number of float32 with "),
    (("steps.cu", "8", "2y", "1", *SIZES), "y: '2y' is not a shape such as 4x64"),
    (("steps.cu", "range", "2", "1", *SIZES),
     "x: 'range' is not a shape such as 4x64, a number of float32 with a shape such as 1:4x64, range:4x64, random:4x6"),
    (("steps.cu", "random:8:float", "2", "1", *SIZES), "x: 'float' is not a type of numbers; there are bool, float16"),
    (("steps.cu", "8:float64", "2", "1", *SIZES), "x is an array of float64, it must be an array of float32"),
    *((("steps.cu", word, "2", "1", *SIZES), f"x: '{word}' is not a shape such as 4x64")
      for word in ("", "4x", "4,4", "(4, 4)", "zeros:4", "random:", "random:4:", ":4", "-4", "4x4x", "1:2:3:4", "x.n")),
    (("steps.cu", "m=8", "2", "1", *SIZES), "'m=8': the kernel has no parameter 'm'; it has x, y, n"),
    (("steps.cu", "x=8", "x=9", "1", *SIZES), "'x=9': x was given before, as '8'"),
    (("steps.cu", "n=", "8", "2", *SIZES), "n: '' is not a number of int32"),
    (("steps.cu", "range:8", "2", "range:1", *SIZES), "n: 'range:1' is not a number of int32"),
    (("bytes.cu", "range:257", *SIZES), "y: 'range:257' is not a shape such as 4x64, a number of uint8"),
    (("steps.cu", "99999999999x9999", "2", "1", *SIZES), "x: an array 99999999999x9999 takes 11998800.0 GB of memory"),
    (("steps.cu", "none.npy", "2", "1", *SIZES), "x: 'none.npy' cannot be read (No such file or directory)"),
    *((("steps.cu", f"{name}.npy", "2", "1", *SIZES), f"x: '{name}.npy' is not an array as numpy.save writes it")
      for name in ("empty", "zip", "brackets", "short", "pickle", "fifo", "folder")),
    (("steps.cu", "double.npy", "2", "1", *SIZES), "(x) is an array of float64, it must be an array of float32"),
    (("steps.cu", "8", "2", "1", "--grid", "0", "--block", "4"), "the grid (0,) has 0 in x; 1 to 2147483647"),
    (("steps.cu", "8", "2", "1", "--grid", "1", "--block", "2000"), "the block (2000,) has 2000 in x; 1 to 1024"),
    (("steps.cu", "8", "2", "1", "--grid", "1", "--block", "64x64"), "has 4096 threads; 1024 are the most"),
    (("steps.cu", "8", "2", "1", *SIZES, "--shared", "999999"), "999999 bytes of dynamic shared memory"),
    (("wrong.cu", "8", *SIZES), "wrong.cu:2:")])
@pytest.mark.parametrize("command", ["run", *(pytest.param(name, marks=pytest.mark.slow) for name in ("step", "profile"))])
def test_what_is_wrong_is_said(run, steps, command, arguments, part):
    Path("binary.cu").write_bytes(b"\xff\xfe\0")
    Path("latin.cu").write_bytes("// x\n// caf\xe9\n".encode("latin-1"))
    Path("header.cu").write_text('#include "latin.cu"\n__global__ void k(int* y) {}\n')
    Path("large.cu").write_bytes(b" " * (17 << 20))
    for name in ("fifo.cu", "fifo.npy"):
        os.mkfifo(name)
    Path("folder.npy").mkdir()
    Path("brackets.npy").write_bytes(b"\x93NUMPY\1\0\x76\0" + b"(" * 57 + b" " * 60 + b"\n")
    np.save("pickle.npy", np.array([{}], object), allow_pickle=True)
    np.save("short.npy", np.zeros(8, np.float32))
    Path("short.npy").write_bytes(Path("short.npy").read_bytes()[:-4])
    Path("empty.cu").write_text("// nothing here\n")
    Path("wrong.cu").write_text("__global__ void k(int* y) {\n    y[0] = z;\n}\n")
    Path("bytes.cu").write_text("__global__ void k(unsigned char* y) {}\n")
    Path("empty.npy").write_bytes(b"")
    np.savez("zip.npz", x=np.zeros(8))
    os.rename("zip.npz", "zip.npy")
    np.save("double.npy", np.zeros(8))
    code, out, err = run(command, *arguments)
    assert code == 1 and out == "" and err.startswith("tinycogvlm: ") and part in err
    assert err.count("\n") == 1 or "wrong.cu" in part       # g++ shows the line


@needs_runner
def test_files_of_other_systems(run, steps):
    """A byte order mark, as Windows editors write it; line ends of two characters; a name and a folder not in UTF-8; an
    array in the other byte order."""
    right = run("step", steps, *CALL)[1]
    Path("steps.cu").write_bytes(b"\xef\xbb\xbf" + STEPS.replace("\n", "\r\n").encode())
    assert run("step", steps, *CALL)[1] == right
    folder = Path(os.fsdecode(b"caf\xe9"))
    folder.mkdir()
    file = folder / os.fsdecode(b"\xe9\"\n.cu")
    file.write_text(STEPS)
    code, out, err = run("step", f"{file}:steps", *CALL)
    shown = os.fsencode(file).replace(b"\xe9", b"?").decode()
    assert (code, err) == (0, "") and out.replace(shown, "steps.cu") == right
    assert run("profile", f"{file}:steps", *CALL, "--json")[0] == 0
    code, out, err = run("profile", f"{file}:steps", "7", *CALL[1:])
    assert (code, out) == (1, "") and "beyond the end of x (argument 1)" in err and ".cu:4: thread" in err
    np.save("swapped.npy", np.ones(8, ">f4"))
    assert run("step", steps, "swapped.npy", *CALL[1:])[1] == right


LOOP = "__global__ void loop(int* y) {\n    for (;;) __syncthreads();\n}\n"


@needs_runner
@pytest.mark.parametrize("command", ["step", "profile"])
def test_a_time_limit(run, steps, command):
    Path("loop.cu").write_text(LOOP)
    code, _, err = run(command, "loop.cu", "1", "--grid", 1, "--block", 1, "--seconds", 0.3)
    assert (code, err) == (1, "tinycogvlm: not finished after 0.3 seconds, the limit of --seconds\n")
    assert run(command, steps, *CALL, "--seconds", 100)[0] == 0


@needs_runner
def test_ctrl_c_ends_a_huge_grid(steps):
    """At once, and in little memory: 2^31 blocks, one after another."""
    Path("grid.cu").write_text("__global__ void k(int* y) { y[0] = 1; }\n")
    words = "grid.cu", "1", "--grid", "2147483647", "--block", "1"
    process = subprocess.Popen([sys.executable, "-m", "tinycogvlm", "kernel", "step", *words], stderr=subprocess.PIPE,
                               env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    status = Path(f"/proc/{process.pid}/status")
    while not int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) >> signal.SIGSEGV - 1 & 1:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)                                    # until the machine runs, which catches SIGSEGV
    time.sleep(0.5)
    peak = int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in err
    assert time.monotonic() - begin < 10 and peak < 1 << 20             # kB


@needs_runner
@pytest.mark.parametrize("options, part", [(("--thread", "4"), "there is no thread (4, 0, 0): they go up to (3, 0, 0)"),
                                           (("--of-block", "0,1"), "there is no block (0, 1, 0)")])
def test_threads_that_are_not_there(run, steps, options, part):
    code, out, err = run("step", steps, *CALL, *options)
    assert (code, out) == (1, "") and part in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["step", "profile"])
def test_without_a_compiler(run, steps, monkeypatch, command):
    monkeypatch.setenv("PATH", "")
    code, out, err = run(command, steps, *CALL)
    assert (code, out) == (1, "") and err.count("\n") == 1 and ("g++" in err)


@pytest.mark.parametrize("arguments, part", [
    ((), "required: COMMAND"), (("runs",), "invalid choice"), (("step",), "required: FILE:KERNEL, --grid, --block"),
    (("step", "a.cu:k", "--grid", "1"), "required: --block"), (("step", "a.cu:k", "--block", "1"), "required: --grid"),
    (("step", "a.cu:k", "--grid", "1,2", "--block", "1"), "'1,2' is not one, two or three sizes, such as 8 or 8x4"),
    (("step", "a.cu:k", "--grid", "1x1x1x1", "--block", "1"), "is not one, two or three sizes"),
    (("step", "a.cu:k", *SIZES, "--thread", "1x2"), "'1x2' is not one, two or three indices"),
    (("step", "a.cu:k", *SIZES, "--shared", "-1"), "of 0 or more"),
    (("run", "a.cu:k", *SIZES, "--close", "near"), "'near' is not a tolerance, such as 1e-5"),
    (("run", "a.cu:k", *SIZES, "--close", "-1"), "'-1' is not a tolerance"),
    (("run", "a.cu:k", *SIZES, "--order", "random"), "invalid choice: 'random'"),
    (("step", "a.cu:k", *SIZES, "--constant", "k"), "'k' is not NAME=VALUES, such as k=k.npy"),
    (("profile", "a.cu:k", *SIZES, "-D", "3=N"), "'3=N' is not NAME or NAME=VALUE"),
    (("profile", "a.cu:k", *SIZES, "-DN=1\n2"), "is not NAME or NAME=VALUE"),
    (("run", "a.cu:k", *SIZES, "--out", ""), "the name is empty"),
    (("profile", "a.cu:k", *SIZES, "--thread", "1"), "unrecognized arguments: --thread")])
def test_wrong_usage(arguments, part, capsys):
    code = main.main(["kernel", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("tinycogvlm: ") and part in err
