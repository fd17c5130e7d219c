"""`tinycogvlm train`: its options, what it hands from stage to stage, how it is stopped, resumed and drawn."""
import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinycogvlm.cli import main, options, train
from tinycogvlm.train.ablation.ablate import COMPARISONS
from tinycogvlm.train.loop import log, loop, plot, process
from tinycogvlm.train.loop.checkpoint import handed_over
from tinycogvlm.train.loop.run import Run
from tinycogvlm.train.recipe import stages

ROOT = Path(__file__).parents[1]
STOP = {}                                                   # {stage: step in which Ctrl-C is pressed}


@dataclass(frozen=True)
class Adder(stages.Stage):
    """Moves its own parameter, and one that all stages share, towards the step's number divided by the samples."""
    samples: int = 40
    batch: int = 4
    peak: float = 0.1
    ema: float = 0.5
    name: str = ""
    tokenizer_path: str = ""

    def data(self, parts, step):
        return [(step, part, self.samples) for part in range(parts)]

    def loss(self, leaves, part):
        step, number, samples = part
        if number == 0 and STOP.get(self.name) == step:
            del STOP[self.name]
            signal.raise_signal(signal.SIGINT)
        d = {name: leaves[name] - step / samples for name in (f"{self.name}.weight", "shared.weight")}
        return sum(float((x * x).sum()) for x in d.values()), 1, lambda: {name: 2 * x for name, x in d.items()}, {}

    def watch(self, leaves):
        return {"shared": float(leaves["shared.weight"][0, 0]), "answer": "A dog."}


def start(name, out, seed):
    leaves = {f"{stage}.weight": np.full((1, 2), seed, np.float32) for stage in (*stages.STAGES, "shared")}
    for before in list(stages.STAGES)[:list(stages.STAGES).index(name)]:
        leaves |= handed_over(Run(out, before))
    return stages.STAGES[name], leaves


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """run("vision", ...) -> exit code, what stderr says without progress bars; in the folder tmp_path/run"""
    monkeypatch.setattr(stages, "STAGES", {name: Adder(name=name) for name in ("vision", "language", "sft")})
    monkeypatch.setattr(stages, "start", start)
    monkeypatch.setattr(stages, "finish", lambda name, stage, out, before, after: out)
    STOP.clear()

    def run(stage, *options, out=tmp_path / "run"):
        code = main.main(["train", stage, "--out", str(out), *map(str, options)])
        said, err = capsys.readouterr()
        assert said == ""
        return code, "\n".join(line for line in err.replace("\r", "\n").splitlines() if "samples/s" not in line).strip()
    return run


def steps(folder, stage):
    lines = [json.loads(line) for line in (folder / f"{stage}.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def test_a_stage(run, tmp_path):
    code, err = run("vision", "--samples", 22, "--seed", 1)
    assert code == 0 and err.splitlines()[-1] == f"vision: 20 samples learned; the result is in {tmp_path / 'run'}"
    assert "vision, step 5, answer: A dog." in err and steps(tmp_path / "run", "vision") == [5]
    assert handed_over(Run(tmp_path / "run", "vision")).keys() == {"vision.weight", "shared.weight"}
    code, err = run("vision", "--samples", 22)
    assert code == 1 and err.endswith("--resume goes on with it, or --out names another folder")
    assert run("vision", "--seed", 1, "--resume")[0] == 0           # the samples are those it was begun with
    code, err = run("vision", "--resume", "--samples", 40, "--seed", 2, "--workers", 1)
    assert code == 1 and err.endswith("other settings: steps is 10, but was 5; samples is 40, but was 20; "
                                      "seed is 2, but was 1; workers is 1, but was 2")
    assert steps(tmp_path / "run", "vision") == [5]


def test_minutes_are_turned_into_samples_once(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(loop, "steps_within", lambda minutes, *_: asked.append(minutes) or 7)
    STOP["vision"] = 3
    code, err = run("vision", "--minutes", 1.5)
    assert code == 130
    assert err.endswith(f"stopped after step 4 of 7, which is saved in {tmp_path / 'run'}; --resume goes on from there")
    assert run("vision", "--minutes", 1.5, "--resume")[0] == 0
    assert asked == [1.5] and steps(tmp_path / "run", "vision") == [7]


@pytest.mark.slow
def test_all_stages_stopped_twice_are_all_stages(run, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run("all", out=whole)[0] == 0
    STOP.update(vision=4, sft=0)
    assert run("all", out=stopped)[0] == 130
    assert run("all", out=stopped)[0] == 1                  # without --resume
    code, err = run("all", "--resume", out=stopped)
    assert code == 130 and "sft: stopped after step 1 of 10" in err
    assert not (stopped / "sft.done.safetensors").exists()
    assert run("all", "--resume", out=stopped)[0] == 0 and not STOP
    for stage in stages.STAGES:
        one, other = (load_file(folder / f"{stage}.done.safetensors") for folder in (whole, stopped))
        assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    assert one["shared.weight"][0, 0] != 0


def test_all_looks_at_every_folder_before_it_begins(run, tmp_path):
    assert run("all", "--resume")[0] == 0
    for name in ("vision", "language"):
        for path in (tmp_path / "run").glob(f"{name}.*"):
            path.unlink()
    code, err = run("all")
    assert code == 1 and "already holds a run of the stage sft" in err and not list(tmp_path.glob("run/vision*"))


def test_two_trainings_in_one_folder(run, tmp_path):
    """Whether begun or resumed; nothing of the first one's is touched."""
    with Run(tmp_path / "run", "vision") as first:
        being_written = tmp_path / "run" / "vision.safetensors.0123.part"
        being_written.touch()
        for more in (["--samples", 16], ["--resume"]):
            code, err = run("vision", *more)
            assert code == 1 and err == (f"tinycogvlm: {first.folder}: another process is training the stage vision in "
                                         "this folder; wait for it, or use another folder")
        assert run("all", "--resume")[0] == 1 and being_written.exists()
    assert run("all", "--resume")[0] == 0 and not being_written.exists()


@pytest.mark.slow
def test_more_workers_than_pictures_in_a_batch(tmp_path, capsys):
    """In earnest: parts of one picture each, as many workers as a batch has pictures, and one more."""
    batch = stages.STAGES["vision"].batch
    for workers in (batch, batch + 1):
        out = str(tmp_path / str(workers))
        assert main.main(["train", "vision", "--samples", str(batch), "--workers", str(workers), "--out", out]) == 0
        assert capsys.readouterr().err.splitlines()[-1] == f"vision: {batch} samples learned; the result is in {out}"
    one, other = (load_file(tmp_path / str(workers) / "vision.done.safetensors") for workers in (batch, batch + 1))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_every_training_has_a_default_folder_of_its_own(monkeypatch, tmp_path):
    parse = options.parser().parse_args
    assert {str(parse(["train", stage]).out) for stage in (*stages.STAGES, "all")} == {os.path.join("runs", "tiny")}
    assert str(parse(["train", "lora", "--data", "x"]).out) == os.path.join("runs", "lora")


def test_a_stage_needs_those_before(run, tmp_path):
    code, err = run("sft")
    assert (code, err.count("\n")) == (1, 0) and err.endswith("the stage vision is not finished in this folder")


def test_an_unwritable_folder_is_known_at_once(run, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        code, err = run("vision", out=out)
        assert code == 1 and err.startswith(f"tinycogvlm: {out}: cannot be written (") and err.count("\n") == 0


def test_too_little_memory(run, monkeypatch):
    def large(*_, **__):
        raise MemoryError
    monkeypatch.setattr(train, "fit", large)
    assert run("vision") == (1, "tinycogvlm: not enough memory; fewer --workers need less")


@pytest.mark.parametrize("arguments, part", [
    ([], "required: STAGE"), (["everything"], "invalid choice: 'everything'"), (["plot"], "required: RUN"),
    (["vision", "--minutes", "1", "--samples", "64"], "not allowed with"), (["all", "--samples", "64"], "unrecognized"),
    (["all", "--minutes", "1"], "unrecognized"), (["vision", "--minutes", "0"], "'0' is not a number of minutes"),
    (["vision", "--minutes", "nan"], "not a number of minutes"),
    (["vision", "--minutes", "soon"], "not a number of minutes"),
    (["vision", "--samples", "0"], "'0' is not a whole number"), (["vision", "--samples", "3"], "less than one batch"),
    (["vision", "--workers", "0"], "'0' is not a whole number"), (["vision", "--seed", "-1"], "--seed"),
    (["plot", "run", "--resume"], "unrecognized"), (["vision", "run"], "unrecognized")])
def test_wrong_usage(arguments, part, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)                             # where a run that begins all the same does no harm
    code = main.main(["train", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("tinycogvlm: ") and part in err


def test_help_names_every_stage(capsys):
    assert list(options.STAGES) == list(stages.STAGES) and list(options.COMPARISONS) == ["tower", *COMPARISONS, "eyes"]
    for arguments in (["train"], ["train", "sft"], ["train", "plot"]):
        assert main.main([*arguments, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"usage: tinycogvlm {' '.join(arguments)}")


# One thread for each matrix product

def test_one_blas_thread_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setattr(os, "environ", {"PATH": "x"})
    process.one_blas_thread()
    assert os.environ == {"PATH": "x", **dict.fromkeys(process.BLAS_THREADS, "1")}
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "4"})        # somebody knows better
    process.one_blas_thread()
    assert os.environ == {"OMP_NUM_THREADS": "4"}


@pytest.mark.parametrize("arguments", [["train", "plot"], ["ablate", "bridges", "--weights"]])
def test_the_number_of_blas_threads_is_set_before_numpy_is_imported(tmp_path, arguments):
    """Of the commands that train"""
    (tmp_path / "sitecustomize.py").write_text("""\
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "numpy":
            print("numpy", os.environ.get("OPENBLAS_NUM_THREADS"), file=sys.stderr)
sys.meta_path.insert(0, Finder())
""")
    environment = {name: value for name, value in os.environ.items() if name not in process.BLAS_THREADS}
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run([sys.executable, "-m", "tinycogvlm", *arguments, tmp_path / "none"], text=True, capture_output=True,
                          env={**environment, "PYTHONPATH": paths}, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("numpy 1\n") and "Traceback" not in done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
@pytest.mark.parametrize("call, kept", [("keep_freed_memory()", True), ("", False)])
def test_freed_memory_is_kept_for_the_next_step(call, kept):
    """4096 pages are taken and freed twice: whether the second time brings page faults"""
    code = f"""\
import resource
from tinycogvlm.train.loop.process import keep_freed_memory
{call}
faults = []
for _ in range(2):
    [b"x" * (1 << 20) for _ in range(16)]
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[1] - faults[0])"""
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                          capture_output=True, check=True, timeout=60)
    assert (int(done.stdout) < 100) is kept


def test_as_typed(tmp_path):
    """The whole way to the first thing that goes wrong"""
    (tmp_path / "file").touch()
    done = subprocess.run([sys.executable, "-m", "tinycogvlm", "train", "vision", "--out", tmp_path / "file"],
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith(f"tinycogvlm: {tmp_path / 'file'}: cannot be written")


# Curves

LINES = [{"step": 2, "samples": 8, "loss": 2.0, "norm": 1.0, "right": 0.5, "rate": 0.1, "seconds": 1, "samples/s": 8},
         {"step": 3, "watch": {"texts": {"box": 0.25}, "answer": "A dog."}},
         {"step": 4, "samples": 16, "loss": 1.0, "norm": 1.0, "right": 0.75, "rate": 0.1, "seconds": 2, "samples/s": 8}]


def write(folder):
    for stage in ("vision", "sft"):
        lines = "".join(json.dumps(line) + "\n" for line in LINES)
        (folder / f"{stage}.jsonl").write_text(lines + '{"step": ')     # one is being written
    (folder / "begun.jsonl").touch()


def test_curves(tmp_path):
    assert plot.curves(LINES) == {"loss": [(8, 2.0), (16, 1.0)], "right": [(8, 0.5), (16, 0.75)],
                                  "texts: box": [(12, 0.25)]}
    write(tmp_path)
    assert log.read(tmp_path / "sft.jsonl") == (LINES, {})


def test_plot(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    write(tmp_path)
    assert main.main(["train", "plot", str(tmp_path)]) == 0
    assert capsys.readouterr() == ("", f"{tmp_path / 'curves.png'}: drawn\n")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    for out, part in (("x.no", "cannot be written (format 'no'"), ("none/x.png", "cannot be written (No such")):
        assert main.main(["train", "plot", str(tmp_path), "--out", str(tmp_path / out)]) == 1
        assert part in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert main.main(["train", "plot", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == (f"tinycogvlm: {tmp_path / 'none'}: holds no log of a training run "
                                       "(<stage>.jsonl)\n")


@pytest.mark.parametrize("line", [
    b"[1]", b"7", b'{"step": 0, "loss": 1, "samples": 3}', b"\xff", b'{"loss": 1, "samples": 3}',
    b'{"step": 3, "loss": null, "samples": 3}', b'{"step": 3, "watch": {"a": NaN}}',
    b'{"step": 3, "loss": 1, "samples": 1e999}', b"[" * 100_000])
def test_plot_leaves_damaged_lines_out_and_says_so(tmp_path, capsys, line):
    pytest.importorskip("matplotlib")
    write(tmp_path)
    path = tmp_path / "sft.jsonl"
    path.write_bytes(b"\n".join((line, b"", line, path.read_bytes())))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jsonl")                  # is not waited for
    assert main.main(["train", "plot", str(tmp_path)]) == 0
    said, drawn = capsys.readouterr().err.splitlines()
    assert said.startswith(f"tinycogvlm: {path}: line 1 cannot be read: ")
    assert said.endswith(" (and 1 more); drawn without")
    assert drawn == f"{tmp_path / 'curves.png'}: drawn"


def test_plot_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main.main(["train", "plot", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "tinycogvlm: drawing curves needs matplotlib: pip install 'tinycogvlm[plot]'\n"
