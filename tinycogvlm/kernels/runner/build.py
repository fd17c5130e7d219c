"""Compile a kernel with g++ once, and cache the library under the hash of all that went into it."""
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from ...storage import atomic
from . import source
from .errors import CompileError, KernelError

COMMON = ["-std=c++17", "-fPIC", "-g1", "-gdwarf-4", "-fvisibility=hidden", "-fno-exceptions",
          "-Werror=vla", "-Werror=pointer-arith",           # or what a GPU's compiler does not take is taken here
          "-fno-strict-aliasing", "-fwrapv", "-ffp-contract=off", "-fno-extern-tls-init",
          "-fno-plt",                                       # or the place of a fault may be between two functions
          "-fno-gnu-unique",                                # or several libraries share the machine's state
          "-fstack-clash-protection",                       # a large frame touches the page below its stack
          "-fno-stack-protector", "-U_FORTIFY_SOURCE",      # which take a jump from one stack to another for an attack
          "-ffunction-sections", "-fdata-sections",         # so that what a kernel does not use is not linked
          "-fdiagnostics-color=never", "-fmax-errors=3"]
MACHINE = ["-O2"]
MACHINE_PARTS = "machine.cpp", "check.cpp", "requests.cpp", "sanitizer.cpp"
PLAIN = ["-O2", "-fsanitize=alignment,integer-divide-by-zero"]
CHECKED = ["-O1", "-fsanitize=thread,alignment,bounds,integer-divide-by-zero",
           "-fno-tree-sra", "-fno-store-merging"]           # or a float4 is loaded in four pieces
HASH_BYTES = 32                                             # of SHA-256, at the end of each cached file
STRAY = ".part"                                             # what the names of temporary files end with


def cpu_runner():
    """None where kernels can run on the CPU, else the sentence that says why not."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return ("kernels run on the CPU of Linux on x86-64 only; elsewhere use a container, which has g++: docker run "
                '--platform linux/amd64 -it -v "$PWD":/tinycogvlm -w /tinycogvlm python:3.12 bash')
    missing = [tool for tool in ("g++", "addr2line", "readelf") if not shutil.which(tool)]
    if missing:
        return f"kernels run on the CPU with the help of {', '.join(missing)}, not found here (Debian: apt install g++)"
    return None


def library(text, label, shown, names, folder, declared, checked, stepping=False, macros=""):
    """Path of the library with the kernels `names` of the source `text`; what g++ finds wrong is a CompileError."""
    why_not = cpu_runner()
    if why_not:
        raise KernelError(why_not)
    includes = source.local_includes(text, folder)
    refuse_what_is_not_for_gpus(text, shown, macros)
    for path, included in includes.items():
        if path.parent != source.HERE:
            refuse_what_is_not_for_gpus(included, str(path), macros)
    flags = [*(CHECKED if checked else PLAIN), *pattern()]
    quoted = ["-iquote", str(folder), "-iquote", str(source.HERE)]
    try:
        unit = source.unit(text, label, folder, includes, names, declared, stepping, macros)
        ours = unit, [*flags, *quoted], includes.values()
        parts = [*(cached(part, MACHINE) for part in machine_texts()), cached(*ours)]
        path = cache_folder() / (digest(*(part.name for part in parts)) + ".so")
        if not is_whole(path):                              # its parts, which are read for this alone, may be gone
            machine()
            compiled(*ours, lambda: precompiled(flags))
            run([*gxx(), "-shared", "-Wl,-Bsymbolic,-z,defs,--gc-sections", *map(str, parts), "-lm"], path)
    except CompileError as error:
        texts = {shown: text, **{str(path): included for path, included in includes.items()}}
        raise readable(str(error).replace(label, shown), shown, names, texts) from None
    return path


def refuse_what_is_not_for_gpus(text, shown, macros=""):
    """CompileError for the first line that g++ would take and a GPU's compiler would not, unless #if leaves it out."""
    found = source.not_for_gpus(text)
    left = lines_in_use(text, macros) if found else ()
    for number, what in found:
        if number in left:
            raise CompileError(f"{shown}:{number}: NVRTC, which compiles kernels for GPUs, has no {what}", number)


def lines_in_use(text, macros):
    """The numbers of the lines that no #if leaves out, as far as the file itself tells."""
    pieces, number = [macros], 1
    for line in re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n", source.code(text) + "\n"):       # with those that continue it
        pieces += [f"machine_line_{number + i}\n" for i in range(line.count("\n"))]
        if re.match(r"\s*#\s*(if|ifdef|ifndef|elif|else|endif|define|undef)\b", line):
            pieces.append(line)
        number += line.count("\n")
    done = subprocess.run([*gxx(), "-E", "-P", *cuda_macros(), "-x", "c++", "-"], input="".join(pieces), capture_output=True,
                          encoding="utf-8", errors="surrogateescape")
    return set(map(int, re.findall(r"\bmachine_line_(\d+)\b", done.stdout)))


@cache
def cuda_macros():
    """g++'s options for what #if finds in a kernel's file"""
    header = (source.MACHINE / "cuda_runtime.h").read_text(encoding="utf-8")
    return [f"-D{name}={value}" for name, value in re.findall(r"^#define (\w+) (\d+)$", header, re.MULTILINE)]


def expanded(text, folder):
    """The source with its macros expanded and its own headers in it, where kernels may be declared; "" without g++."""
    if cpu_runner():
        return ""
    text = re.sub(r"^[ \t]*#[ \t]*include\b.*", "", source.inlined(text, "", folder), flags=re.MULTILINE)
    done = subprocess.run([*gxx(), "-E", "-P", *cuda_macros(), "-x", "c++", "-"], input=text, capture_output=True,
                          encoding="utf-8", errors="surrogateescape")
    return done.stdout


def machine_texts():
    return [(source.MACHINE / name).read_text(encoding="utf-8") for name in MACHINE_PARTS]


def machine():
    """The object files of the machine."""
    texts = machine_texts()
    if not all(is_whole(cached(text, MACHINE)) for text in texts):
        print("compiling the machine that simulates a GPU, once: this takes some seconds", file=sys.stderr, flush=True)
    return [compiled(text, MACHINE) for text in texts]


def precompiled(flags):
    """The options that give g++ cuda_runtime.h as it is after parsing, which is most of a small kernel's compilation."""
    path = cached("", flags, suffix=".h.gch")
    if not is_whole(path):
        run([*gxx(), *COMMON, *flags, "-x", "c++-header", str(source.MACHINE / "cuda_runtime.h")], path)
    return ["-include", str(path.with_suffix(""))]


def cached(text, flags, included=(), suffix=".o"):
    """Where what g++ makes of a text is kept. It names the machine's files, so another checkout has files of its own."""
    place = str(source.MACHINE)
    return cache_folder() / (digest(text, *included, source.headers(), place, *COMMON, *flags, compiler_version()) + suffix)


def compiled(text, flags, included=(), more=lambda: []):
    """The object file of a C++ text. more: makes options that change nothing in it."""
    path = cached(text, flags, included)
    if not is_whole(path):
        run([*gxx(), *COMMON, *flags, *more(), f"-I{source.MACHINE}", "-c", "-x", "c++", "-"], path, text)
    return path


# ------------------------------------------------------------------------------------------- the cache on the disk

def run(command, path, text=None):
    """Run g++ and keep its output at `path`, with a hash at its end by which is_whole knows it."""
    remove_strays(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, suffix=STRAY) as folder:
        output = Path(folder) / path.name
        done = subprocess.run([*command, "-o", str(output)], input=text, capture_output=True, encoding="utf-8",
                              errors="surrogateescape", cwd=folder, env={**os.environ, "LC_ALL": "C"})
        if done.returncode:
            raise CompileError(done.stderr)
        data = output.read_bytes()
    atomic.write(path, data + hashlib.sha256(data).digest())


def is_whole(path):
    """Whether a cached file is there and is what was once written: a crash or a full disk may have left another."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return data[-HASH_BYTES:] == hashlib.sha256(data[:-HASH_BYTES]).digest()


def remove_strays(folder):
    """Remove what a killed process has left: a temporary file or folder that is older than an hour."""
    for path in folder.glob("*" + STRAY):
        with suppress(OSError):                             # another process may be faster
            if time.time() - path.stat().st_mtime > 3600:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def cache_folder():
    """$XDG_CACHE_HOME/tinycogvlm/kernels, or the same in ~/.cache: a path that is not absolute does not count."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (base if base.is_absolute() else home() / ".cache") / "tinycogvlm" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError(f"{folder}: compiled kernels cannot be kept there ({error.strerror}); set XDG_CACHE_HOME to "
                          "a folder that can be written") from None
    return folder


def home():
    """The user's own folder, also where HOME is empty or not absolute."""
    named = Path(os.environ.get("HOME", ""))
    if named.is_absolute():
        return named
    import pwd                                              # which Windows does not have
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise KernelError("no folder to keep compiled kernels in: this user has no home; set XDG_CACHE_HOME") from None


def digest(*texts):
    return hashlib.sha256("\0".join(texts).encode(errors="surrogateescape")).hexdigest()[:32]


# ---------------------------------------------------------------------------------------------------------- g++

def readable(errors, shown, names, texts):
    """g++'s errors; what is about our own lines stays out where the learner's are named. texts: {file: its text}"""
    files = "|".join(map(re.escape, texts))
    first = re.search(rf"^({files}):(\d+):(?:\d+:)? (?:fatal )?error: ", errors, re.MULTILINE)
    if first:
        file, line = first[1], int(first[2])
        known = source.not_emulated(texts[file], line)
        return source.refusal(file, line, *known) if known else CompileError(errors[first.start():].rstrip(), line)
    asserted = re.search(rf"^({files}):(\d+):(?:\d+:)?\s+required from here\n.* static assertion failed: (.*)", errors,
                         re.MULTILINE)
    if asserted:                                            # in our headers
        return CompileError(f"{asserted[1]}:{asserted[2]}: {asserted[3]}", int(asserted[2]))
    ptx = re.search(rf"({files}):(\d+): undefined reference to `machine::inline_ptx\(\)'", errors)
    if ptx:
        return source.refusal(ptx[1], int(ptx[2]), *source.INLINE_PTX)
    missing = re.search(r"undefined reference to `(.*?)'", errors)
    ours = re.search(r"^calls of the kernels:.* error: (.*)", errors, re.MULTILINE)
    if missing:
        what = f"{missing[1]} is not defined"
    elif ours:                                              # what stands between < and > is the only thing in our lines
        what = ("its template takes others" if "overloaded function" in ours[1] else
                "a kernel returns void" if "no matching function" in ours[1] else ours[1])
    else:
        what = errors.strip()
    return CompileError(f"{shown}: {', '.join(names)} cannot be called: {what}")


def gxx():
    return [shutil.which("g++")]


@cache
def compiler_version():
    return subprocess.run([*gxx(), "--version"], capture_output=True, text=True).stdout


def pattern():
    """The option that fills local variables which a kernel never sets, as -1.7e38: else they are often 0, as if set."""
    number = re.search(r"\) (\d+)\.", compiler_version())
    return ["-ftrivial-auto-var-init=pattern"] if number and int(number[1]) >= 12 else []
