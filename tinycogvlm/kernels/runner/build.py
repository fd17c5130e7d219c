"""g++ makes a library of a kernel, once: the user's cache folder keeps it under the hash of all that went into it."""
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from . import source
from .errors import CompileError, KernelError

COMMON = ["-std=c++17", "-fPIC", "-g1", "-gdwarf-4", "-w", "-fvisibility=hidden", "-fno-exceptions",
          "-fno-strict-aliasing", "-fwrapv", "-ffp-contract=off", "-fno-extern-tls-init",
          "-fno-gnu-unique",                                # or several libraries share the machine's state
          "-fstack-clash-protection",                       # a large frame touches the page below its stack
          "-fno-stack-protector", "-U_FORTIFY_SOURCE",      # which take a jump from one stack to another for an attack
          "-fdiagnostics-color=never", "-fmax-errors=3"]
MACHINE = ["-O2"]
MACHINE_PARTS = "machine.cpp", "check.cpp", "requests.cpp", "sanitizer.cpp"
PLAIN = ["-O2", "-fsanitize=alignment,integer-divide-by-zero"]
CHECKED = ["-O1", "-fsanitize=thread,alignment,bounds,integer-divide-by-zero",
           "-fno-tree-sra", "-fno-store-merging"]           # or a float4 is loaded in four pieces


def cpu_runner():
    """None where kernels can run on the CPU, else the sentence that says why not."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return ("kernels run on the CPU of Linux on x86-64 only; elsewhere use a container, which has g++: docker run "
                '--platform linux/amd64 -it -v "$PWD":/tinycogvlm -w /tinycogvlm python:3.12 bash')
    missing = [tool for tool in ("g++", "addr2line", "readelf") if not shutil.which(tool)]
    if missing:
        return f"kernels run on the CPU by way of {', '.join(missing)}, not found here (Debian: apt install g++)"
    return None


def library(text, label, shown, names, folder, checked, stepping=False):
    """Path of the library with the kernels `names` of the source `text`; what g++ finds wrong is a CompileError."""
    why_not = cpu_runner()
    if why_not:
        raise KernelError(why_not)
    includes = source.local_includes(text, folder)
    source.refuse_what_is_not_played(text, shown)
    for path, included in includes.items():
        if path.parent != source.HERE:
            source.refuse_what_is_not_played(included, str(path))
    flags = [*(CHECKED if checked else PLAIN), "-iquote", str(folder), "-iquote", str(source.HERE)]
    try:
        kernel = compiled(source.unit(text, label, names, stepping), flags, "".join(includes.values()))
    except CompileError as error:
        raise readable(str(error), label, shown, names) from None
    parts = [*map(machine, MACHINE_PARTS), kernel]
    path = cache_folder() / (digest(*(part.name for part in parts)) + ".so")
    if not path.exists():
        try:
            run([*gxx(), "-shared", "-Wl,-Bsymbolic,-z,defs", *map(str, parts), "-lm"], path)
        except CompileError as error:
            raise readable(str(error), label, shown, names) from None
    return path


def machine(name):
    return compiled((source.MACHINE / name).read_text(encoding="utf-8"), MACHINE)


def compiled(text, flags, included=""):
    """The object file of a C++ text."""
    path = cache_folder() / (digest(text, included, source.headers(), *COMMON, *flags, compiler_version()) + ".o")
    if not path.exists():
        run([*gxx(), *COMMON, *flags, f"-I{source.MACHINE}", "-c", "-x", "c++", "-"], path, text)
    return path


def run(command, path, text=None):
    """Run g++ so that its output takes its place at `path` only when it is whole."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
    os.close(handle)
    try:
        done = subprocess.run([*command, "-o", temporary], input=text, capture_output=True, encoding="utf-8",
                              errors="replace", cwd=path.parent, env={**os.environ, "LC_ALL": "C"})
        if done.returncode:
            raise CompileError(done.stderr)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def readable(errors, label, shown, names):
    """g++'s errors with the learner's file name; what is about our own lines stays out where his own are named."""
    errors = errors.replace(label, shown)
    first = re.search(rf"^{re.escape(shown)}:(\d+):(?:\d+:)? (?:fatal )?error: ", errors, re.MULTILINE)
    if first:
        return CompileError(errors[first.start():].rstrip(), int(first[1]))
    missing = re.search(r"undefined reference to `(.*?)'", errors)
    ours = re.search(r"^calls of the kernels:.* error: (.*)", errors, re.MULTILINE)
    if missing:
        what = f"{missing[1]} is not defined"
    elif ours:                                              # what stands between < and > is the only thing in our lines
        what = "its template takes others" if "overloaded function" in ours[1] else ours[1]
    else:
        what = errors.strip()
    return CompileError(f"{shown}: {', '.join(names)} cannot be called: {what}")


def gxx():
    return [shutil.which("g++")]


@lru_cache
def compiler_version():
    return subprocess.run([*gxx(), "--version"], capture_output=True, text=True).stdout


def digest(*texts):
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def cache_folder():
    """$XDG_CACHE_HOME/tinycogvlm/kernels, or the same in ~/.cache"""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "tinycogvlm" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError(f"{folder}: compiled kernels cannot be kept there ({error.strerror}); set XDG_CACHE_HOME to "
                          "a folder that can be written") from None
    return folder
