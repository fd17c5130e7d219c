"""The words of CUDA C that a kernel may use, read from CUDA's own headers: functions, types, constants.

    python tests/cuda_words.py FOLDER ...   prints the table for tests/kernels/words.txt from include folders of CUDA

A line is a function with the types that it takes, `__mulhi(int, int)`, a type or a constant. In words.txt are those of
CUDA 13.2's wheels, and of CUDA 13.0 what the wheels leave out (crt/).
"""
import re
import sys
from pathlib import Path

FUNCTIONS = ("crt/math_functions.h", "crt/device_functions.h", "crt/device_double_functions.h",
             "device_atomic_functions.h", "sm_20_intrinsics.h", "sm_30_intrinsics.h", "sm_32_intrinsics.h",
             "sm_35_intrinsics.h", "sm_60_atomic_functions.h", "sm_32_atomic_functions.h", "sm_20_atomic_functions.h",
             "sm_61_intrinsics.h", "crt/sm_70_rt.h", "crt/sm_80_rt.h", "crt/sm_90_rt.h", "vector_functions.h",
             "cuda_fp16.h", "cuda_bf16.h")
DECLARATION = re.compile(r"(?:^|[;}{])\s*(?P<before>[\w\s*]*?[\w*])\s*\b(?P<name>[A-Za-z_]\w*)\s*\((?P<inside>[^(){};]*)\)"
                         r"\s*(?:__\w+\s*(?:\([^()]*\)\s*)*)*(?=[;{])")
MARKS = re.compile(r"\b(?:extern|static|inline|__inline__|__forceinline__|__\w*_DECL\w*__|_CRTIMP\w*|__DEF_IF_HOST|"
                   r"__host__|__device__|_NV_RSQRT_SPECIFIER|__THROW|__device_builtin__|__cudart_builtin__|__attribute__|__MATH_FUNCTIONS\w*|"
                   r"__NV_SILENCE\w*|__NV_TL\w*|__local_warn\w*|__no_sanitize\w*|__NVFP16\w*|__WSB_DEPRECATION_MESSAGE\w*|"
                   r"__DEVICE_\w*|__SM_\w*|__VECTOR_FUNCTIONS_DECL__)\b")
FOR_HOSTS = "__isfinite", "__FLOAT_BITS", "__DOUBLE_BITS"   # declared, and not for kernels
TYPES = set(re.findall(r"\w+", """void bool char short int long float double unsigned signed const volatile size_t half half2 __half __half2
            __nv_bfloat16 __nv_bfloat162 nv_bfloat16 nv_bfloat162 dim3 clock_t __half_raw __half2_raw __nv_bfloat16_raw
            __nv_bfloat162_raw cudaRoundMode"""))


def without_comments(text):
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
    text = re.sub(r"\b__DEF_IF_HOST\b", ";", text)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", ";", text, flags=re.MULTILINE)


def is_type(text):
    words = re.findall(r"\w+", text)
    return bool(words) and all(word in TYPES or re.fullmatch(r"u?(char|short|int|long|longlong)[1-4]|(float|double)[1-4]",
                                                             word) for word in words)


def split_parameter(text):
    """("int", "*") of "int *x": the type without its pointer or reference, and what it is; None if it is none known."""
    text = text.partition("=")[0].strip()
    text = text[:-2].strip() + "*" if text.endswith("[]") else text
    match = re.fullmatch(r"([\w ]+?)\s*([*&]?)\s*(?:const|__restrict__)?\s*([A-Za-z_]\w*)?", text)
    if not match:
        return None
    kind, mark, name = match[1], match[2], match[3]
    if name in TYPES:                                       # "long double": a parameter without a name
        kind = f"{kind} {name}"
    if not is_type(kind):
        kind, _, name = kind.rpartition(" ")
    return (kind, mark) if is_type(kind) else None


def forms(text):
    """["name(types)"] of the functions that a header declares."""
    found = []
    for match in DECLARATION.finditer(without_comments(text)):
        returned = " ".join(MARKS.sub(" ", match["before"]).split())
        inside = match["inside"].strip()
        parameters = [] if inside in ("", "void") else [split_parameter(part) for part in inside.split(",")]
        if not is_type(returned.replace("*", " ")) or None in parameters or "operator" in match["before"]:
            continue
        kinds = [" ".join(word for word in kind.split() if word not in ("const", "volatile")) for kind, _ in parameters]
        if not {"cudaRoundMode", "long double"} & set(kinds) and match["name"] not in FOR_HOSTS:
            takes = (kind + mark.replace("&", "") for kind, (_, mark) in zip(kinds, parameters))
            found.append(f"{match['name']}({', '.join(takes)})")
    return found


def statement(word):
    """The word as a statement of a function that has `char* p`."""
    name, is_function, inside = word.rstrip(")").partition("(")
    if not is_function:
        return f"auto value = {name};" if name.startswith("CUDART_") else f"{name} value;"
    arguments = [f"({kind})p" if "*" in kind else f"*({kind}*)p" for kind in inside.split(", ") if kind]
    return f"{name}({', '.join(arguments)});".replace("(void*)", "(char*)")


def table(folders):
    """The lines of the table, each form once."""
    def read(header):
        path = next((folder / header for folder in folders if (folder / header).is_file()), None)
        return path.read_text(encoding="utf-8", errors="replace") if path else ""
    found = [form for header in FUNCTIONS for form in forms(read(header))]
    found += re.findall(r"^typedef\s+__device_builtin__\s+(?:struct\s+)?\w+\s+(\w+);", read("vector_types.h"), re.MULTILINE)
    found += re.findall(r"^#define (CUDART_\w+)\s+\S", read("math_constants.h"), re.MULTILINE)
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    print("\n".join(table(list(map(Path, sys.argv[1:])))))
