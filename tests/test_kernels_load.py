"""What kernels.load keeps: compiled libraries on the disk, the package's own kernels in memory, nothing that changed."""
import os
import sys

import numpy as np
import pytest

from tinycogvlm import kernels
from tinycogvlm.kernels.runner import build, source

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def test_compiled_kernels_are_kept(tmp_path, monkeypatch):
    """The second time nothing is compiled; a changed include is compiled again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "helper.cuh").write_text("__device__ float helper() { return 1; }\n")
    path = tmp_path / "k.cu"
    path.write_text('#include "helper.cuh"\n__global__ void k(float* y) { y[0] = helper(); }\n')
    compiled, really_run, y = [], build.run, np.zeros(1, np.float32)

    def counted(command, *rest):
        compiled.append("-c" in command)
        really_run(command, *rest)
    monkeypatch.setattr(build, "run", counted)
    monkeypatch.setattr(build, "MACHINE", ["-O0"])          # compiles sooner
    kernels.load(path, "k")((1,), (1,), (y,))
    parts = 1 + len(build.MACHINE_PARTS)
    assert y[0] == 1 and sum(compiled) == parts
    kernels.load(path, "k")((1,), (1,), (y,))
    assert len(compiled) == parts + 1                       # the library
    (tmp_path / "helper.cuh").write_text("__device__ float helper() { return 2; }\n")
    kernels.load(path, "k")((1,), (1,), (y,))
    assert y[0] == 2 and len(compiled) == parts + 3
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.name.startswith("tmp")]


def test_kernels_of_ours_are_kept(tmp_path, monkeypatch):
    """Each as it is to run, until its file changes; a learner's file is read each time."""
    path, y = tmp_path / "k.cu", np.zeros(1, np.float32)
    path.write_text("__global__ void k(float* y) { y[0] = 1; }\n")
    assert kernels.load(path, "k") is not kernels.load(path, "k")
    monkeypatch.setattr(source, "HERE", tmp_path)
    modes = {}, dict(check="race"), dict(order="backward"), dict(order="shuffled", seed=1), dict(stepping=True)
    kept = [kernels.load(path, "k", **mode) for mode in modes]
    assert len(set(map(id, kept))) == len(modes) and kept == [kernels.load(path, "k", **mode) for mode in modes]
    kept[0]((1,), (1,), (y,))
    assert y[0] == 1
    path.write_text("__global__ void k(float* y) { y[0] = 2; }\n")
    os.utime(path, ns=(0, 0))
    kernels.load(path, "k")((1,), (1,), (y,))
    assert y[0] == 2


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "g++, addr2line, readelf, not found" in build.cpu_runner()
    with pytest.raises(kernels.KernelError, match=r"apt install g\+\+"):
        kernels.load("__global__ void k(float* y) {}", "k")((1,), (8,), (np.zeros(8, np.float32),))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "docker run --platform linux/amd64" in build.cpu_runner()
