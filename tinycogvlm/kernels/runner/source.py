"""The text of a .cu file: its kernels, what the CPU runner cannot emulate, and the C++ that g++ is given."""
import os
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from ...storage.reading import read_bytes
from .errors import CompileError, KernelError

HERE = Path(__file__).parents[1] / "library"
MACHINE = Path(__file__).with_name("machine")               # the headers and sources that emulate CUDA
OUR_HEADERS = "common.cuh", "ptx.cuh", "weights.cuh"
MOST_SHARED = 227 * 1024                                    # bytes of a block's shared memory, as on an H100
MOST_STATIC = 48 * 1024                                     # of them, in arrays of a size that the source says
MOST_TEXT = 16 << 20                                        # bytes of a source file

INLINE_PTX = "inline PTX (asm)", '#include "ptx.cuh" has ldmatrix, mma.sync and cp.async for both'
NOT_EMULATED = (                                            # looked for in the lines that g++ does not take
    (r"\b(grid_group|this_grid|cluster_group|this_cluster|multi_grid_group|this_multi_grid)\b",
     "groups of several blocks", "blocks run one at a time"),
    (r"<cooperative_groups/|\bmemcpy_async\b|\b(in|ex)clusive_scan\b|\binvoke_one\b",
     "this part of cooperative groups", "thread_block, tiles and coalesced groups have sync, shuffles, votes, reduce"),
    (r"\btex[123]D\w*\s*[<(]|\bsurf[123]D\w*\s*[<(]|\bcudaTextureObject_t\b|\btexture\s*<", "textures and surfaces",
     "read from a pointer"),
    (r"<<<", "a launch from C (<<< >>>)", "leave only the kernels in the file; Python launches them"),
    (r"\bcuda(Malloc|Memcpy|Free|DeviceSynchronize|LaunchKernel)\w*\s*\(", "the CUDA runtime's host functions",
     "leave only the kernels in the file; Python launches them"),
    (r"\bnvcuda\b|<mma\.h>", "nvcuda::wmma", '#include "ptx.cuh" has mma.sync for both'),
    (r"\bcuda::|<cuda/|\bcub::|<cub/|\bthrust::|<thrust/", "the libraries libcu++, CUB and Thrust",
     "write what they do with shared memory, shuffles and atomics"),
    (r"\b__(cluster|block_size|isClusterShared|isCtaShared)\w*", "thread block clusters", "blocks run one at a time"),
    (r"\b__(pm[0-3]|brkpt|uni_sync|u128Atomic\w+|isConstant|isGridConstant|nv_(bswap|aligned|associate|memcpy)\w+)\b|"
     r"\bsyncthreads_(and|or|count)\b", "this function of CUDA", "few kernels use it"),
    (r"\b__nv_fp[864]\w*|<cuda_fp[864]\.h>", "8-bit and smaller floats", "use half or bfloat16"),
    (r"\b__managed__\b", "__managed__ memory", "pass an array as an argument"),
    (r"<(builtin_types|cu[A-Z]\w*|cuda\w*|nvrtc|host_\w+|device_\w+|driver_\w+|library_types|math_functions|sm_\w+|"
     r"surface_\w+|texture_\w+|vector_functions)\.h>", "this header of CUDA",
     "what cuda_runtime.h declares is there without any"),
    (r"\b\w+4_(16|32)a\b", "this type, which is new in CUDA 13", "double4 and the like are there"),
    (r"\b__barrier_sync\w*", "named barriers", "use __syncthreads()"),
)
# What g++ takes and NVRTC, the compiler that CuPy gives kernels to, does not. Beside them the names in std:: and the
# headers that machine/prelude.h has not.
NOT_FOR_GPUS = (
    (r"\bthread_local\b", "thread_local variables"),
    (r"\b(try|catch|throw)\b", "exceptions"),
    (r"\b(typeid|dynamic_cast)\b", "run-time type information"),
    (r"\b__(u?int|float)128(_t)?\b", "numbers of 128 bits"),
    (r"(?<!\])\]\s*__(device|host)__", "__device__ at lambdas (leave it out)"),
    (r"\b(__(builtin|sync|atomic)_(?!assume|expect|unreachable|bit_cast|offsetof|align|nv_)\w+)",
     "this builtin function of g++"),
    (r"(?<![\w.>])(str(len|n?cpy|n?cmp|cat|chr|tol|tof|tod)|ato[if]|s?rand|exit|abort|getenv|sn?printf|puts|qsort|alloca|"
     r"calloc|realloc|memcmp|memmove|f(printf|puts)|putchar|getchar|l?l?div|time|(fabs|sqrt|exp|log|pow|sin|cos)l)\s*\(",
     "this function of the C library"),
    (r"\b(ssize_t|u_int\d+_t|u?int_(fast|least)\d+_t|MAXFLOAT|RAND_MAX|std(in|out|err)|_Complex|_Float16|__typeof__)\b",
     "this name of C"),
    (r"(?:[=(,?:+*/&|<!-]|\breturn)\s*\(\s*\{", "expressions of statements, ({ })"),
    (r"(?:[=(,]|\breturn)\s*\(\w+\)\s*\{", "compound literals, (T){ }"),
    (r"\?\s*:(?!:)", "?: of two operands"),
    (r"\bcase\b[^:?]*\.\.\.", "ranges of cases"),
    (r"\bgoto\s*\*", "goto of an address"),
    (r"[{,]\s*\.\w+\s*=[^=]", "members named in initial values, {.a = 1}"),
    (r"\w\s*\([^()\[\]]*\bauto\b[\s&*]*\w+\s*[,)]", "parameters of the type auto"),
    (r"\]\s*<\s*(typename|class)\b", "templates of lambdas"),
    (r"\b__VA_OPT__\b", "__VA_OPT__"),
)
OF_C = "assert", "float", "limits", "math", "stddef", "stdint", "stdio", "stdlib", "string"
STANDARD = (*(f"{name}.h" for name in OF_C), *(f"c{name}" for name in OF_C),
            "algorithm", "initializer_list", "limits", "new", "type_traits", "utility")
NO_CODE = re.compile(r"""//[^\n]*|/\*.*?(?:\*/|\Z)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])'""", re.DOTALL)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
ASM = re.compile(r"\b(?:asm|__asm__|__asm)\b\s*(?:(?:volatile|__volatile__|inline|goto)\b\s*)*\(")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"[^\n]*', re.MULTILINE)


def read(path):
    """The text of a source file, without a byte order mark. UserError for what is not a text in UTF-8."""
    data = read_bytes(path, limit=MOST_TEXT)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise KernelError(f"{path}:{line}: not UTF-8 (byte {data[error.start]:#04x}); save the file in UTF-8",
                          line) from None


# ------------------------------------------------------------------------------------------------- what is declared

def code(text):
    """`text` with comments, strings and characters blanked, every line where it was."""
    return NO_CODE.sub(blank, text)


def blank(match):
    return re.sub(r"[^\n]", " ", match[0])


def statements(text):
    """The pieces of the code between ; { and }, as matches: group 1 is the text, group 2 what ends it."""
    return re.finditer(r"([^;{}]*)([;{}]|\Z)", code(text))


@dataclass(frozen=True)
class Declaration:
    """A kernel as its file declares it.

    template: "template<typename T>", or "" if it is none. parameters: their names, for messages: as far as found.
    bounds: what stands in the brackets of __launch_bounds__, or "".
    """
    template: str
    parameters: tuple
    bounds: str


def kernels(text):
    """{name: Declaration} of the kernels, in their order"""
    found = {}
    for statement in statements(text):
        head, is_kernel, rest = statement[1].partition("__global__")
        bounds = re.search(r"__launch_bounds__\s*\(", statement[1])
        bounds = up_to_bracket(statement[1][bounds.end():])[0] if bounds else ""
        while is_kernel and (called := re.search(r"\b(\w+)\s*\(", rest)):
            inside, rest = up_to_bracket(rest[called.end():])
            if not re.fullmatch(r"__\w+__", called[1]):      # __launch_bounds__ and the like
                found.setdefault(called[1], Declaration(template(head), parameter_names(inside), bounds))
                break
    return found


def up_to_bracket(text):
    """The text inside a round bracket that has just opened, and the text after it."""
    depth = 1
    for bracket in re.finditer(r"[()]", text):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return text[:bracket.start()], text[bracket.end():]
    return text, ""


def template(head):
    """The template<...> with which a declaration begins, in one line, or "" """
    begin, end = re.search(r"\btemplate\s*<", head), head.rfind(">")
    return " ".join(head[begin.start():end + 1].split()) if begin and begin.end() <= end else ""


def parameter_names(inside):
    """("x", "weight", ...) of what stands in the brackets of a kernel"""
    plain = re.sub(r"<[^<>]*>|\[[^\]]*\]", " ", inside)
    names = [re.findall(r"\w+", part.partition("=")[0]) for part in plain.split(",")]
    return tuple(words[-1] for words in names if words)


def unset_constants(text):
    """The names of the __constant__ variables that have no values in the source."""
    declared = [statement[1] for statement in statements(text) if statement[2] == ";"]
    plain = [re.sub(r"\[[^\]]*\]|<[^<>]*>", " ", s.partition("__constant__")[2]) for s in declared
             if "__constant__" in s and "=" not in s and not re.search(r"\bextern\b", s)]
    return tuple(words[-1] for s in plain for part in s.split(",") if (words := re.findall(r"\w+", part)))


def siblings(declared, name):
    """The kernels that are compiled along with `name`, so that a file is compiled once: those of the same template."""
    base, bracket, arguments = name.partition("<")
    if base not in declared:                                # ns::kernel
        return [name]
    return [other + bracket + arguments for other, declaration in declared.items()
            if declaration.template == declared[base].template]


# --------------------------------------------------------------------------------------------------------- headers

def header(name, folder):
    """The path of a header that is included by "name" in a file of `folder`, or None: one of the machine's own."""
    return next((path for path in (folder / name, HERE / name) if path.is_file()), None)


def local_includes(text, folder):
    """{path: text} of what the source includes with quotes, and what that includes."""
    found, waiting = {}, [(text, folder)]
    while waiting:
        text, folder = waiting.pop()
        for include in INCLUDE.finditer(text):
            path = header(include[1], folder)
            if path and path not in found:
                found[path] = read(path)
                waiting.append((found[path], path.parent))
    return found


def not_emulated(text, number):
    """(what, what to use instead) of a construct in line `number` of a text; None where there is none."""
    lines = text.split("\n")
    if not 1 <= number <= len(lines):
        return None
    line = lines[number - 1]
    line = line if re.match(r"\s*#\s*include", line) else code(text).split("\n")[number - 1]
    return next(((what, instead) for pattern, what, instead in NOT_EMULATED if re.search(pattern, line)), None)


@lru_cache                                                  # a file is looked through once for all of its kernels
def not_for_gpus(text):
    """((number of a line, what stands there), ...) that g++ would take and a GPU's compiler would not: one file is for both."""
    found, plain = [], code(text)
    for statement in statements(DIRECTIVE.sub(blank, plain)):
        before, is_shared, declared = statement[1].rpartition("__shared__")
        line = plain.count("\n", 0, statement.end(1)) + 1
        bare = re.sub(r"\[[^\]]*\]|\([^()]*\)|<[^<>]*>", " ", declared)
        braces = statement[2] == "{" and not re.search(r"\b(struct|class|union|enum)\b", declared)
        if is_shared and not before.count("(") > before.count(")") and ("=" in bare or braces):
            found.append((line, "initial values for __shared__ variables"))
        if "__host__" in statement[1] and "__device__" not in statement[1]:
            found.append((line, "functions of the host"))
    suspected = [(pattern, what) for pattern, what in NOT_FOR_GPUS if re.search(pattern, plain)]     # most often none
    for number, line in enumerate(plain.split("\n"), 1):
        include = re.match(r"\s*#\s*include\s*<([^>]+)>", line)
        lacks = next((what for pattern, what in suspected if re.search(pattern, line)), None)
        lacks = lacks or next((f"std::{name}" for name in re.findall(r"\bstd\s*::\s*(\w+)", line)
                               if name not in standard_names()), None)
        if include and not (include[1] in STANDARD or (MACHINE / include[1]).is_file() or not_emulated(text, number)):
            lacks = f"header <{include[1]}>"
        if lacks:
            found.append((number, lacks))
    return tuple(sorted(found))


@cache
def standard_names():
    """The names in std:: that kernels may use: those of machine/prelude.h, and what NVRTC has by itself."""
    names = read(MACHINE / "prelude.h").partition("namespace std {")[2]
    found = re.findall(r"using ::(\w+)|(?:struct|using|bool|&|void|class) (\w+)(?=[ (;])", names)
    return frozenset(sum(found, ())) | {"move", "forward", "initializer_list"}


def refusal(shown, number, what, instead):
    return CompileError(f"{shown}:{number}: the CPU runner does not emulate {what}; {instead}. A GPU may run this kernel "
                        "all the same: give CuPy arrays", number)


def without_asm(text):
    """The text with a call of machine::inline_ptx() for each asm: a kernel that comes to use it cannot be linked."""
    plain, pieces, end = code(text), [], 0
    for asm in ASM.finditer(plain):
        inside, _ = up_to_bracket(plain[asm.end():])
        close = asm.end() + len(inside) + 1
        original = text[asm.start():close]
        if asm.start() >= end and not re.match(r'\s*""\s*[:)]', text[asm.end():]):   # asm("") is for the compiler only
            lines = re.findall(r"[ \t]*\\?\n", original)
            pieces += [text[end:asm.start()], "machine::inline_ptx()", *lines]
            end = close
    return "".join(pieces) + text[end:]


@cache
def headers():
    """What every kernel is compiled against, as one text: a change to it makes every cached library stale."""
    return "".join(path.read_text(encoding="utf-8") for path in sorted(MACHINE.rglob("*.h")))


# ------------------------------------------------------------------------------------------------- what g++ is given

def unit(text, label, folder, includes, names, declared, stepping=False, macros=""):
    """The C++ of the kernels `names`: the source as it is, between our header and the functions that call them.

    label: the file name under which g++ knows it. includes: the local_includes. declared: what kernels() found.
    `extern "C"` becomes "C++", so that a kernel may have the name of a function of the C library. stepping: after each
    declaration of a __shared__ array, also in headers, a call that shows it. macros: lines of #define for the source.
    """
    whole = "\n".join([text, *includes.values()])
    symbols = "".join(f".globl {symbol}\\n.hidden {symbol}\\n.type {symbol}, @tls_object\\n{symbol}:\\n"
                      for symbol in ["machine_dynamic", *dynamic_arrays(whole)])
    dynamic = f'.section .tbss,\\"awT\\",@nobits\\n.balign 1024\\n{symbols}.zero {MOST_SHARED}\\n.previous'
    if stepping or any(ASM.search(code(included)) for path, included in includes.items() if path.parent != HERE):
        text = inlined(text, label, folder)
    text = without_asm(show_shared_arrays(text) if stepping else text)
    text = re.sub(r"\bstatic(\s+__constant__)", r"\1", text)          # g++ would take those without values for zeros
    text = re.sub(r'(\bextern\s*)"C"', r'\1"C++"', text)
    calls = "".join(f"if (which == {i}) machine::call({name}, arguments); " for i, name in enumerate(names))
    signatures = "".join(f"if (which == {i}) machine::signature({name}, text, room); " for i, name in enumerate(names))
    bounded = {name: declared[name] for name in (name.partition("<")[0] for name in names)
               if name in declared and declared[name].bounds}
    functions = " ".join(f"{kernel.template} constexpr long machine_bounds_{name}() "
                         f"{{ return machine::first({' '.join(kernel.bounds.split())}); }}"
                         for name, kernel in bounded.items())
    bounds = "".join(f"if (which == {i}) return machine_bounds_{name}(); " for i, name in enumerate(names)
                     if name.partition("<")[0] in bounded)
    return f'''#include "cuda_runtime.h"
asm("{dynamic}");
extern "C" const size_t machine_most_dynamic = {MOST_SHARED};
{macros}#line 1 {quoted(label)}
{text}
#line 1 "calls of the kernels"
extern "C" void machine_kernel(int which, void** arguments) {{ {calls} }}
extern "C" void machine_parameters(int which, char* text, size_t room) {{ {signatures} }}
{functions}
extern "C" long machine_most_threads(int which) {{ {bounds} return 0; }}
'''


def quoted(label):
    """A file's name, which may hold any bytes, for #line"""
    plain = set(range(32, 127)) - set(b'"\\')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in os.fsencode(label)) + '"'


def dynamic_arrays(text):
    """The names of the arrays declared extern __shared__: all of them begin where dynamic shared memory begins."""
    names = [re.search(r"\b(\w+)\s*\[\s*\]\s*$", statement[1]) for statement in statements(text)
             if re.search(r"\bextern\b", statement[1]) and "__shared__" in statement[1]]
    return sorted({name[1] for name in names if name})


def inlined(text, label, folder, done=None):
    """The text with each of its headers in the place of the first line that includes it."""
    done = set() if done is None else done

    def instead(include):
        path = header(include[1], folder)
        if path is None or plain[include.start():include.end()].strip() == "":      # the machine's; in a comment
            return include[0]
        if path in done:
            return ""
        done.add(path)
        line = text.count("\n", 0, include.start()) + 2
        return (f"#line 1 {quoted(str(path))}\n{inlined(read(path), str(path), path.parent, done)}\n"
                f"#line {line} {quoted(label)}")
    plain = code(text)
    return INCLUDE.sub(instead, text)


def show_shared_arrays(text):
    """After `__shared__ float a[32], b[32];`, on its line: calls that register a and b."""
    pieces, end, depth = [], 0, 0
    for statement in statements(text):
        depth += {"{": 1, "}": -1}.get(statement[2], 0)
        _, is_shared, declared = statement[1].rpartition("__shared__")
        if not is_shared or statement[2] != ";" or depth == 0 or "=" in declared:   # no call stands outside functions
            continue
        plain = re.sub(r"\[[^\]]*\]|\([^()]*\)|<[^<>]*>", " ", declared)
        names = [words[-1] for part in plain.split(",") if (words := re.findall(r"\w+", part))]
        pieces += [text[end:statement.end()], *(f' machine::show_shared("{name}", {name});' for name in names)]
        end = statement.end()
    return "".join(pieces) + text[end:]
