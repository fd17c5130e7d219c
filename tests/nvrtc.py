"""CUDA C to a GPU's machine code by NVRTC, which needs neither GPU nor driver, and what became of each kernel.

NVRTC holds NVIDIA's own compiler and assembler: what it says of registers and spills is what a GPU would run.
"""
import ctypes
import importlib.util
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache, cache
from pathlib import Path

from tinycogvlm.kernels.runner import gpu


HERE = Path(__file__).parent


@dataclass
class Resources:
    """Of a thread: registers, bytes of local memory (its stack) and of registers spilled there. shared: of a block."""
    registers: int
    stack: int
    spilled: int
    shared: int


@dataclass
class Compiled:
    resources: dict                                         # {kernel: Resources}
    symbols: dict                                           # {kernel: its name in the cubin}
    cubin: bytes


class CompileError(Exception):
    """What NVRTC says about a source that it does not take."""


def folder():
    """Where the wheels of the extra compile-test lie, or None."""
    spec = importlib.util.find_spec("nvidia")
    found = [path / "cu13" for path in map(Path, spec.submodule_search_locations or ())] if spec else []
    return next((path for path in found if list(path.glob("lib/libnvrtc.so.*"))), None)


def why_not():
    """None where NVRTC is, else the sentence that says what is missing."""
    found = folder()
    if found is None:
        return "needs NVRTC on Linux: pip install -e '.[compile-test]'"
    if not (found / "include" / "cuda_fp16.h").exists():
        return f"needs CUDA's headers, which are not in {found}/include: pip install -e '.[compile-test]'"
    return None


@lru_cache
def library():
    lib = folder() / "lib"
    ctypes.CDLL(str(next(lib.glob("libnvrtc-builtins.so.*"))), ctypes.RTLD_GLOBAL)  # which NVRTC else does not find
    nvrtc = ctypes.CDLL(str(next(lib.glob("libnvrtc.so.*"))))
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    return nvrtc


@cache
def compiled(path, names, arch):
    """The kernels `names` of a .cu file, compiled with the options that kernels/gpu.py and CuPy give."""
    nvrtc, program = library(), ctypes.c_void_p()

    def call(function, *arguments):
        code = function(*arguments)
        if code:
            said = fetch("ProgramLog") if program else ""
            raise CompileError(f"{path.name} for {arch}: {nvrtc.nvrtcGetErrorString(code).decode()}\n{said}")

    def fetch(what):
        size = ctypes.c_size_t()
        call(getattr(nvrtc, f"nvrtcGet{what}Size"), program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        call(getattr(nvrtc, f"nvrtcGet{what}"), program, data)
        return data.raw if what == "CUBIN" else data.value.decode()

    options = [*gpu.options(path.parent), "-ftz=true", f"-arch={arch}", f"-I{folder() / 'include'}", "--ptxas-options=-v"]
    call(nvrtc.nvrtcCreateProgram, ctypes.byref(program), path.read_bytes(), path.name.encode(), 0, None, None)
    try:
        for name in names:
            call(nvrtc.nvrtcAddNameExpression, program, name.encode())
        call(nvrtc.nvrtcCompileProgram, program, len(options),
             (ctypes.c_char_p * len(options))(*(option.encode() for option in options)))
        symbols = {}
        for name in names:
            symbol = ctypes.c_char_p()
            call(nvrtc.nvrtcGetLoweredName, program, name.encode(), ctypes.byref(symbol))
            symbols[name] = symbol.value.decode()
        log = resources(fetch("ProgramLog"))
        return Compiled({name: log[symbol] for name, symbol in symbols.items()}, symbols, fetch("CUBIN"))
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def errors(text, beside, arch="sm_90"):
    """What NVRTC says against a source whose headers are in the folder `beside`, "" if nothing."""
    nvrtc, program, size = library(), ctypes.c_void_p(), ctypes.c_size_t()
    options = [*gpu.options(beside), "-w", f"-arch={arch}", f"-I{folder() / 'include'}"]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"unit.cu", 0, None, None)
    code = nvrtc.nvrtcCompileProgram(program, len(options),
                                     (ctypes.c_char_p * len(options))(*(option.encode() for option in options)))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode() if code else ""


def resources(log):
    """{symbol: Resources} of what ptxas says with -v"""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        def count(pattern):
            return sum(map(int, re.findall(pattern, part)))
        found[part.partition("'")[0]] = Resources(int(re.search(r"Used (\d+) registers", part)[1]),
                                                  count(r"(\d+) bytes stack frame"), count(r"(\d+) bytes spill"),
                                                  count(r"(\d+) bytes smem"))
    return found


def disassembler():
    """Path of nvdisasm, or None."""
    found = folder()
    path = found and found / "bin" / "nvdisasm"
    return path if path and os.access(path, os.X_OK) else None


@cache
def listings(path, names, arch):
    """{name: what nvdisasm prints of it}"""
    program = compiled(path, names, arch)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program.cubin)
        file.flush()
        text = subprocess.run([disassembler(), "-c", file.name], capture_output=True, text=True, check=True).stdout
    sections = dict(re.findall(r"^//-+ \.text\.(\S+) +-+\n(.*?)(?=^//-|\Z)", text, re.MULTILINE | re.DOTALL))
    return {name: sections[symbol] for name, symbol in program.symbols.items()}


INSTRUCTION = r"/\*[0-9a-f]{4,}\*/ +(.*?) *;"


def instructions(path, names, arch):
    """{name: the machine's instructions, a line each}"""
    return {name: re.findall(INSTRUCTION, text) for name, text in listings(path, names, arch).items()}


def loops(path, names, arch):
    """{name: its loops, each the list of its instructions}: from each label to each jump back to it"""
    found = {}
    for name, text in listings(path, names, arch).items():
        labels, code, found[name] = {}, [], []
        for label, instruction in re.findall(rf"^(\.L\w+):|{INSTRUCTION}", text, re.MULTILINE):
            if label:
                labels[label] = len(code)
                continue
            code.append(instruction)
            back = re.search(r"\bBRA\b.*`\((\.L\w+)\)", instruction)
            if back and back[1] in labels:
                found[name].append(code[labels[back[1]]:])
    return found
