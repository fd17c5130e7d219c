"""What kernels.load keeps: compiled libraries on the disk, the package's kernels in memory, nothing that changed."""
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinycogvlm import kernels
from tinycogvlm.kernels.runner import build, loader, source

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def test_compiled_kernels_are_kept(tmp_path, monkeypatch, capsys):
    """The second time nothing is compiled; a changed include is compiled again. What takes seconds is said, once."""
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
    parts = 1 + len(build.MACHINE_PARTS)                    # beside the header, which is compiled as well
    assert y[0] == 1 and sum(compiled) == parts
    assert capsys.readouterr().err == "compiling the machine that simulates a GPU, once: this takes some seconds\n"
    kernels.load(path, "k")((1,), (1,), (y,))
    assert len(compiled) == parts + 2                       # the header and the library
    (tmp_path / "helper.cuh").write_text("__device__ float helper() { return 2; }\n")
    kernels.load(path, "k")((1,), (1,), (y,))
    assert y[0] == 2 and len(compiled) == parts + 4 and capsys.readouterr().err == ""
    assert {path.suffix for path in (tmp_path / "cache" / "tinycogvlm" / "kernels").iterdir()} == {".o", ".so", ".gch"}


ONE = "__global__ void one(float* y) { y[0] = 1; }"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A cache that holds the kernel `one`."""
    folder, machine = tmp_path_factory.mktemp("compiled"), build.machine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        for path in machine:
            shutil.copy(path, build.cache_folder())
        assert kernels.load(ONE, "one").library             # compiled
    return folder


@pytest.fixture
def cache(compiled, tmp_path, monkeypatch):
    """The folder of compiled kernels, with a copy of these."""
    shutil.copytree(compiled, tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return build.cache_folder()


def is_one():
    """Compile the kernel where the cache has it not, open it anew, and run it."""
    loader.opened.cache_clear()
    y = np.zeros(1, np.float32)
    kernels.load(ONE, "one")((1,), (1,), (y,))
    return y[0] == 1


def foreign(_):
    return Path(np._core._multiarray_umath.__file__).read_bytes()[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("what, damage", [
    ("*.so", lambda data: b""), ("*.so", lambda data: data[:3000]), ("*.so", lambda data: data[:-1]),
    ("*.so", lambda data: bytes(reversed(data))), ("*.so", lambda data: data[:5000] + bytes(1000) + data[6000:]),
    ("*.so", foreign), ("*", lambda data: data[:3000])],
    ids=["empty", "truncated", "a byte less", "scrambled", "a hole", "foreign", "objects too"])
def test_a_damaged_cache_heals(cache, what, damage):
    """As a power loss or a full disk may leave it: what is damaged is compiled again."""
    right = {path.name: path.read_bytes() for path in cache.iterdir()}
    for path in cache.glob(what):
        damaged = damage(right[path.name])
        path.unlink()                                       # the old one is still mapped
        path.write_bytes(damaged)
    assert is_one() and {path.name for path in cache.iterdir()} == set(right)
    assert all(map(build.is_whole, cache.iterdir()))
    written = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert is_one() and written == {path: path.stat().st_mtime_ns for path in cache.iterdir()}


def test_what_killed_compilers_left_is_removed(cache, tmp_path):
    """After an hour: before that, they may be running."""
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\ncase $* in *version*) echo; exit;; esac\nkill -9 $PPID\n")
    compiler.chmod(0o755)
    program = f"from tinycogvlm import kernels; kernels.load({ONE + ' '!r}, 'one').parameters"
    before = set(cache.iterdir())
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}",
                   "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == -9
    (left,) = set(cache.iterdir()) - before
    half_written = cache / "0123.so.0123456789abcdef.part"  # by storage/atomic.py
    half_written.write_bytes(b"half")
    assert kernels.load(ONE + " ", "one").library
    assert left.exists() and half_written.exists()
    for path in (left, half_written):
        os.utime(path, (time.time() - 4000,) * 2)
    assert kernels.load(ONE + "\n", "one").library
    assert {path.suffix for path in cache.iterdir()} == {".o", ".so", ".gch"}


@pytest.mark.parametrize("variables, expected", [
    (dict(XDG_CACHE_HOME="{}/x", HOME="/nowhere"), "{}/x"), (dict(XDG_CACHE_HOME="", HOME="{}/h"), "{}/h/.cache"),
    (dict(XDG_CACHE_HOME="relative", HOME="{}/h"), "{}/h/.cache"), (dict(XDG_CACHE_HOME=".", HOME=""), "{}/u/.cache"),
    (dict(HOME="relative"), "{}/u/.cache"), ({}, "{}/u/.cache")])
def test_where_the_cache_is(tmp_path, monkeypatch, variables, expected):
    """Never below the folder one is in, nor below the root: such variables do not count."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pwd.getpwuid", lambda _: SimpleNamespace(pw_dir=f"{tmp_path}/u"))
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
        if name in variables:
            monkeypatch.setenv(name, variables[name].format(tmp_path))
    assert build.cache_folder() == Path(expected.format(tmp_path)) / "tinycogvlm" / "kernels"


def test_a_user_without_a_home(monkeypatch):
    def unknown(uid):
        raise KeyError(uid)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(kernels.KernelError, match="this user has no home; set XDG_CACHE_HOME"):
        build.cache_folder()


def test_kernels_of_the_package_are_kept(tmp_path, monkeypatch):
    """Each as it is to run, for the rest of the process; a learner's file is read each time."""
    path, y = tmp_path / "k.cu", np.zeros(1, np.float32)
    path.write_text("__global__ void k(float* y) { y[0] = 1; }\n")
    assert kernels.load(path, "k") is not kernels.load(path, "k")
    monkeypatch.setattr(source, "HERE", tmp_path)
    monkeypatch.setattr(loader, "kept", {})
    modes = {}, dict(check="race"), dict(order="backward"), dict(order="shuffled", seed=1), dict(stepping=True)
    kept = [loader.load_ours("k.cu", "k", **mode) for mode in modes]
    assert len(set(map(id, kept))) == len(modes) and kept == [loader.load_ours("k.cu", "k", **mode) for mode in modes]
    path.write_text("__global__ void k(float* y) { y[0] = 2; }\n")
    for kernel, value in ((loader.load_ours("k.cu", "k"), 1), (kernels.load(path, "k"), 2)):
        kernel((1,), (1,), (y,))
        assert y[0] == value


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "g++, addr2line, readelf, not found" in build.cpu_runner()
    with pytest.raises(kernels.KernelError, match=r"apt install g\+\+"):
        kernels.load("__global__ void k(float* y) {}", "k")((1,), (8,), (np.zeros(8, np.float32),))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "docker run --platform linux/amd64" in build.cpu_runner()
