"""What the CPU machine takes, a GPU's compiler takes; what that takes, the machine plays, or names in a sentence."""
import re
import subprocess

import pytest

import nvrtc
from cuda_words import statement
from tinycogvlm import kernels
from tinycogvlm.kernels.runner import build, gpu, source

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
needs_nvrtc = pytest.mark.skipif(nvrtc.why_not() is not None, reason=str(nvrtc.why_not()))

WORDS = (nvrtc.HERE / "kernels" / "words.txt").read_text(encoding="utf-8").splitlines()
HEADERS = "cuda_bf16.h", "cuda_fp16.h", "math_constants.h"
# Forms beside the words. Both take these,
TAKEN = """
__shared__ alignas(16) float a[4]; a[0] = 1;
alignas(16) int a[4]; a[0] = 1;
extern __shared__ float a[]; a[0] = 1;
__shfl_sync(~0u, (char)1, 0); __shfl_sync(~0u, (short)1, 0); __shfl_sync(~0u, true, 0); __shfl_sync(~0u, 1l, 0);
__shfl_down_sync(~0u, 1ull, 1); __shfl_xor_sync(~0u, 1.0, 1, 16);
atomicAdd((float2*)p, make_float2(1, 1)); atomicAdd((double*)p, 1.0); atomicAdd((uint64_t*)p, (uint64_t)1);
atomicCAS((unsigned short*)p, 1, 2); atomicMax((long long*)p, 1); atomicExch((float*)p, 1.0f);
max(1, 2); max(1u, 2); min(1l, 2l); max(1.f, 2.0); min(1ull, 2ull); fmaxf(1, 2); abs(-1); abs(-1.f);
isnan(1.f); isinf(1.0); signbit(1.f); isfinite(1.0);
std::sqrt(2.f); std::max(1, 2); std::swap(p, p); std::move(p); std::isnan(1.f); std::numeric_limits<float>::infinity();
std::is_same_v<int, float>; std::enable_if_t<true, int> a; std::conditional_t<true, int, float> b; std::size_t c;
uint a = UINT_MAX; ushort b; ulong c; int8_t d; uint64_t e = UINT64_MAX; intptr_t f; size_t g; ptrdiff_t h; clock_t i;
constexpr float a = -INFINITY; float b = NAN, c = FLT_MAX, d = M_PI; double e = HUGE_VAL + DBL_MAX; int f = INT_MIN;
auto f = [&](int i) { return i; }; f(1);
new (p) float; static int a; a++; assert(1); static_assert(sizeof(int) == 4); printf("%d", warpSize); int* __restrict b = 0;
__builtin_assume(p != 0); if (__builtin_expect(1, 1)) return; __builtin_unreachable();
float4 a = {1, 2, 3, 4}; a.x++; uint3 b = threadIdx; dim3 c(1, 2); c.x++; c = blockDim;
memcpy(p, p + 1, 1); memset(p, 0, 1); __nanosleep(3); __trap();
half a = 1; a++; a += half(2); half2 b = make_half2(a, a); if (a > half(1) || __hbgt2(b, b)) return; __half_raw c = a;
asm volatile("" ::: "memory");
""".strip().split("\n")
# and neither of them these.
REFUSED = """
atomicAdd((short*)p, 1);
atomicAdd((long long*)p, 1);
atomicMin((float*)p, 1.f);
atomicSub((float*)p, 1.f);
atomicExch((double*)p, 1.0);
atomicCAS((float*)p, 1.f, 2.f);
atomicAnd((short*)p, 1);
__shfl_sync(~0u, make_float2(1, 1), 0);
__shfl_sync(~0u, p, 0);
__ldg((float3*)p);
__ldg((bool*)p);
__reduce_add_sync(~0u, 1.f);
min(1.f, 2);
pow(2, 3);
float4 a = make_float4(1, 2, 3, 4) + make_float4(1, 2, 3, 4);
int n = *p; float a[n]; a[0] = 1;
try { p++; } catch (...) {}
typeid(int);
thread_local int a;
__int128 a = 1;
__builtin_popcount(3);
strlen(p);
auto f = [=] __device__ (int i) { return i; }; f(1);
std::vector<int> a;
std::sort(p, p);
std::nullptr_t a;
undefined_word();
""".strip().split("\n")


def unit(statements):
    """A source in which statement i stands on line i, counted from 0 after the headers."""
    return "".join(f"#include <{name}>\n" for name in HEADERS) + "".join(
        f"__device__ void f{i}(char* p) {{ {code} }}\n" for i, code in enumerate(statements))


def refused_by_gpp(statements):
    """{number of a statement: g++'s error}"""
    text = '#include "cuda_runtime.h"\n#line 1 "unit.cu"\n' + source.without_asm(unit(statements))
    done = subprocess.run([*build.gxx(), *build.COMMON[:1], "-Werror=vla", "-fno-exceptions", "-fsyntax-only", "-fmax-errors=0",
                           f"-I{source.MACHINE}", "-x", "c++", "-"], input=text, capture_output=True, text=True)
    assert not re.search(r"machine/.* error: (?!static assertion)", done.stderr), done.stderr
    errors = re.findall(r"unit\.cu:(\d+):(?:\d+:)?\s+(?:(?:fatal )?error|required from here)(.*)", done.stderr)
    return {int(line) - 1 - len(HEADERS): error for line, error in reversed(errors)}


def named(code):
    """Whether a sentence says that the machine, or a GPU, does not have what stands in the statement."""
    if source.not_emulated(code, 1):
        return True
    try:
        source.refuse_what_is_not_for_gpus(code, "unit.cu")
    except kernels.CompileError:
        return True
    return False


def refused_by_nvrtc(statements):
    """{number of a statement: NVRTC's error}"""
    left, refused = list(range(len(statements))), {}
    while True:                                             # it stops after some errors, or after one of another kind
        log = nvrtc.errors(unit([statements[i] for i in left]), source.HERE)
        wrong = {left[int(line) - 1 - len(HEADERS)]: error for line, error in re.findall(r"\((\d+)\): error: (.*)", log)}
        refused |= wrong
        left = [i for i in left if i not in wrong]
        if not wrong:
            assert not log, log
            return refused


def test_every_word_is_played_or_named():
    statements = [statement(word) for word in WORDS]
    refused = refused_by_gpp(statements)
    silent = [f"{WORDS[i]}: {error}" for i, error in refused.items() if not named(statements[i])]
    assert len(WORDS) > 1600 and len(refused) < 60 and not silent, "\n".join(silent)


def test_forms_that_both_take_or_refuse():
    assert refused_by_gpp(TAKEN) == {} and [code for code in TAKEN if named(code)] == []
    refused = refused_by_gpp(REFUSED)
    assert [code for i, code in enumerate(REFUSED) if i not in refused and not named(code)] == []


@needs_nvrtc
def test_nvrtc_takes_the_words_and_what_is_taken_here():
    """By the options, the prelude and the headers that gpu.py gives."""
    assert refused_by_nvrtc([statement(word) for word in WORDS] + TAKEN) == {}


@needs_nvrtc
def test_nvrtc_refuses_what_is_refused_here():
    refused = refused_by_nvrtc(REFUSED)
    assert [code for i, code in enumerate(REFUSED) if i not in refused] == []


@needs_nvrtc
@pytest.mark.slow
def test_every_header_of_cuda_is_there_or_named():
    for path in sorted((nvrtc.folder() / "include").glob("*.h")):
        include = f"#include <{path.name}>"
        if not nvrtc.errors(include + "\n", source.HERE):
            assert (source.MACHINE / path.name).is_file() or source.not_emulated(include, 1), path.name


@needs_nvrtc
def test_headers_that_nvrtc_lacks_are_given_to_it():
    names = [*source.STANDARD, "cooperative_groups.h", "cooperative_groups/reduce.h"]
    assert nvrtc.errors("".join(f"#include <{name}>\n" for name in names), source.HERE) == ""
    assert "cannot open" in nvrtc.errors("#include <vector>\n", source.HERE)
    for name in ("vector", "iostream", "nowhere.h"):
        with pytest.raises(kernels.CompileError, match=f"^unit.cu:2: NVRTC, .* has no header <{name}>"):
            source.refuse_what_is_not_for_gpus(f"// <vector>\n#include <{name}>\n", "unit.cu")


@needs_nvrtc
@pytest.mark.parametrize("file", ["minimal.cu", "features.cu", "planted_bugs.cu", "minimal_names.cu"])
def test_nvrtc_takes_the_kernels_of_the_tests(file):
    text = (nvrtc.HERE / "kernels" / file).read_text(encoding="utf-8")
    assert nvrtc.errors(text, source.HERE) == ""


def test_the_folder_of_headers_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gpu.headers.cache_clear()
    folder = gpu.headers()
    (folder / "cmath").unlink()
    gpu.headers.cache_clear()
    assert gpu.headers() == folder and (folder / "cmath").is_file()
    gpu.headers.cache_clear()
