"""The text of a .cu file: its kernels, what of it cannot be played, and the C++ that g++ gets to see."""
import re
from functools import lru_cache
from pathlib import Path

from .errors import CompileError

HERE = Path(__file__).parents[1] / "library"
MACHINE = Path(__file__).with_name("machine")                # the headers and sources that play CUDA
MOST_DYNAMIC = 227 * 1024                                   # bytes of dynamic shared memory, as on an H100

NOT_PLAYED = (
    (r"\bcooperative_groups\b|<cooperative_groups", "cooperative groups", "__syncthreads(), __syncwarp() are played"),
    (r"\basm\b|\b__asm__\b", "inline PTX (asm)", '#include "ptx.cuh" has ldmatrix, mma.sync and cp.async for both'),
    (r"\btex[123]D\w*\s*[<(]|\bsurf[123]D\w*\s*[<(]|\bcudaTextureObject_t\b|\btexture\s*<", "textures and surfaces",
     "read from a pointer"),
    (r"<<<", "a launch from C (<<< >>>)", "leave only the kernels in the file; Python launches them"),
    (r"\bcuda(Malloc|Memcpy|Free|DeviceSynchronize|LaunchKernel)\w*\s*\(", "the CUDA runtime's host functions",
     "leave only the kernels in the file; Python launches them"),
    (r"\bnvcuda\b|<mma\.h>", "nvcuda::wmma", '#include "ptx.cuh" has mma.sync for both'),
    (r"\bcuda::|<cuda/|\bcub::|<cub/|\bthrust::|<thrust/", "the libraries libcu++, CUB and Thrust",
     "write what they do with shared memory, shuffles and atomics"),
    (r"\b__cluster_dims__|\bcluster_group\b", "thread block clusters", "one block at a time is played"),
    (r"\b__nv_fp[864]\w*|<cuda_fp[864]\.h>", "8-bit and smaller floats", "half and bfloat16 are played"),
    (r"\b__managed__\b", "__managed__ memory", "pass an array as an argument"),
    (r"\bbarrier\.(sync|arrive)|\b__barrier_sync\b", "named barriers", "__syncthreads() is played"),
)
KERNEL = (r"(template\s*<[^;{}()]*>\s*)?(?:\bextern\s+|\bstatic\s+)*__global__"
          r"(?:[^;{}(]|__launch_bounds__\s*\([^)]*\)|__attribute__\s*\(\(.*?\)\))*?"
          r"\b(?!__launch_bounds__|__attribute__)(\w+)\s*\(")
SHARED = r"\b__shared__\b([^;{}()=]*?(?:\([^;{}]*?\)[^;{}()=]*?)*);"


def code(text):
    """`text` with comments and strings blanked, every line where it was."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.DOTALL)


def kernels(text):
    """The names of the kernels in their order."""
    return [match[2] for match in re.finditer(KERNEL, code(text), re.DOTALL)]


def template_heads(text):
    """{kernel: "template<typename T>", or "" if it is none}"""
    return {match[2]: " ".join((match[1] or "").split()) for match in re.finditer(KERNEL, code(text), re.DOTALL)}


def siblings(text, name):
    """The kernels that are compiled along with `name`, so that a file is compiled once: with the same template head."""
    base, bracket, arguments = name.partition("<")
    heads = template_heads(text)
    if base not in heads:                                   # ns::kernel
        return [name]
    return [other + bracket + arguments for other, head in heads.items() if head == heads[base]]


def parameter_names(text, name):
    """["x", "weight", ...] of the kernel `name`, as far as they can be read; only messages need them."""
    for match in re.finditer(KERNEL, code(text), re.DOTALL):
        if match[2] == name:
            inside = re.match(r"[^(){}]*", code(text)[match.end():])[0]
            return [re.sub(r"\[.*?\]", "", part).split("=")[0].split()[-1].lstrip("*&")
                    for part in inside.split(",") if part.strip()]
    return []


def local_includes(text, folder):
    """{path: text} of what the source includes with quotes, and what that includes."""
    found, waiting = {}, [(text, folder)]
    while waiting:
        text, folder = waiting.pop()
        for name in re.findall(r'^\s*#\s*include\s*"([^"\n]+)"', text, re.MULTILINE):
            path = next((p for p in (folder / name, HERE / name) if p.is_file()), None)
            if path and path not in found:
                found[path] = path.read_text(encoding="utf-8")
                waiting.append((found[path], path.parent))
    return found


def refuse_what_is_not_played(text, shown):
    """CompileError that names the construct, its line and what to use instead."""
    lines, original = code(text).splitlines(), text.splitlines()
    for number, line in enumerate(lines, 1):
        looked_at = original[number - 1] if re.match(r"\s*#\s*include", line) else line
        for pattern, what, instead in NOT_PLAYED:
            if re.search(pattern, looked_at):
                raise CompileError(f"{shown}:{number}: the CPU runner does not play {what}; {instead}. A GPU may still "
                                   "run this kernel: give CuPy arrays", number)


def unit(text, label, names, stepping=False):
    """The C++ of the kernels `names`: the source as it is, between our header and the functions that call them.

    label: the file name that g++ shall know it by. `extern "C"` becomes "C++", so that a kernel may be called like a
    function of the C library; `stepping` adds, behind each declaration of a __shared__ array, a call that shows it.
    """
    arrays = sorted(set(re.findall(r"(?:\bextern\b[^;{}]*\b__shared__\b|\b__shared__\b[^;{}]*\bextern\b)[^;{}]*?"
                                   r"\b(\w+)\s*\[\s*\]\s*;", code(text))))
    symbols = "".join(f".globl {symbol}\\n.hidden {symbol}\\n.type {symbol}, @tls_object\\n{symbol}:\\n"
                      for symbol in ["machine_dynamic", *arrays])
    dynamic = f'.section .tbss,\\"awT\\",@nobits\\n.balign 1024\\n{symbols}.zero {MOST_DYNAMIC}\\n.previous'
    text = re.sub(r'(\bextern\s*)"C"', r'\1"C++"', text)
    if stepping:
        text = show_shared_arrays(text)
    quoted = label.replace("\\", "\\\\").replace('"', '\\"')
    calls = "".join(f"if (which == {i}) machine::call({name}, arguments); " for i, name in enumerate(names))
    signatures = "".join(f"if (which == {i}) machine::signature({name}, text, room); " for i, name in enumerate(names))
    return f'''#include "cuda_runtime.h"
asm("{dynamic}");
extern "C" const size_t machine_most_dynamic = {MOST_DYNAMIC};
#line 1 "{quoted}"
{text}
#line 1 "calls of the kernels"
extern "C" void machine_kernel(int which, void** arguments) {{ {calls} }}
extern "C" void machine_parameters(int which, char* text, size_t room) {{ {signatures} }}
'''


def show_shared_arrays(text):
    """Behind `__shared__ float a[32], b[32];` on its line: calls that register a and b."""
    def shown(match):
        before = plain[:match.start()]
        if before.count("{") == before.count("}"):          # outside of functions no call can stand
            return match[0]
        declared = re.sub(r"\[[^\]]*\]|\([^()]*\)|<[^<>]*>", " ", match[1])
        names = [re.findall(r"\w+", part)[-1] for part in declared.split(",") if re.findall(r"\w+", part)]
        return match[0] + "".join(f' machine::show_shared("{name}", {name});' for name in names)
    plain = code(text)
    pieces, end = [], 0
    for match in re.finditer(SHARED, plain):
        pieces += [text[end:match.start()], shown(match)]
        end = match.end()
    return "".join(pieces) + text[end:]


@lru_cache
def headers():
    """What every kernel is compiled against, as one text: a change of it makes every cached library stale."""
    return "".join(path.read_text(encoding="utf-8") for path in sorted(MACHINE.glob("*.h")))
