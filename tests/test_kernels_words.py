"""What the CPU machine takes, a GPU's compiler takes; what that takes, the machine plays, or names in a sentence."""
import re
import subprocess

import numpy as np
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
TOP = "at top: "                                            # is no statement of a function
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
atomicAdd((size_t*)p, 1); atomicCAS((size_t*)p, 1, 2); atomicMin((long*)p, 1); atomicOr((unsigned long*)p, 1);
sqrt(2); exp(1u); std::floor(3); isnan(4); std::log2(5l); pow(1.f, 2); pow(1.0, 2); pow(1.f, 2.0);
size_t* a = (uint64_t*)p; ptrdiff_t* b = (int64_t*)p; *a = *b;
struct S { int a, b; }; *p = offsetof(S, b); union U { struct { float x, y; }; float a[2]; } u; u.x = 1;
switch (*p) { case 1: break; default: p++; } p = *p ? p : ::max(1, 2) ? p : 0; int a[] = {(int)*p}; if ((*p)) { a[0]++; }
switch (*p) { case 1: p++; [[fallthrough]]; case 2: p--; }
at top: [[maybe_unused]] __device__ int f(int x) { return x; } [[nodiscard]] __host__ __device__ int g() { return 1; };
at top: __inline_hint__ __device__ int f(int x) { return x; } __nv_pure__ __device__ int g(int x) { return x; }
at top: __noinline__ __device__ int f(int x) { return x; } __forceinline__ __device__ int g(int x) { return x; }
at top: struct __align__(16) S { int a; }; struct __builtin_align__(8) T { int a; }; struct alignas(16) U { int a; };
at top: struct S { int a; }; __global__ void k(const __grid_constant__ S s, int* __restrict__ y) { *y = s.a; }
at top: __global__ void __launch_bounds__(128, 2) k(int* y) { *y = 1; } __global__ void __maxnreg__(64) l(int* y) { *y = 1; }
at top: __global__ void k(int* y) { __shared__ union { float f[2]; int i[2]; } u; u.i[0] = 1; *y = u.i[0]; }
at top: __device__ int a = 1; static __device__ const int b[2] = {1, 2}; __constant__ int c[2] = {1, 2}; const int d = 3;
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
unsigned long long* a = (uint64_t*)p;
max(half(1), half(2));
__sync_fetch_and_add((int*)p, 1);
__atomic_load_n(p, 0);
int a = ({ int b = 1; b; });
struct S { int a; }; S s = (S){1};
struct S { int a, b; }; S s = {.a = 1, .b = 2};
switch (*p) { case 1 ... 3: p++; }
int a = *p ?: 3;
void* end = p; goto *end;
void* a = p; a = a + 1;
auto f = [](auto x, decltype(sizeof(void)) y) { return x; }; f(1, 2);
auto f = []<typename T>(T x) { return x; }; f(1);
_Float16 a = 1;
_Complex float a;
ssize_t a;
uint_fast8_t a;
fprintf(stderr, "a");
memcmp(p, p, 1);
realloc(p, 1);
__shared__ int a = 3; *p = a;
__shared__ int a[2] = {}; *p = a[0];
__shared__ int a{3}; *p = a;
at top: __host__ int f() { return 1; }
at top: int f(auto x) { return x; }
""".strip().split("\n")


def unit(statements):
    """A source in which statement i stands on line i, counted from 0 after the headers."""
    return "".join(f"#include <{name}>\n" for name in HEADERS) + "".join(
        f"namespace n{i} {{ {code[len(TOP):]} }}\n" if code.startswith(TOP) else
        f"__device__ void f{i}(char* p) {{ {code} }}\n" for i, code in enumerate(statements))


def refused_by_gpp(statements):
    """{number of a statement: g++'s error}"""
    text = '#include "cuda_runtime.h"\n#line 1 "unit.cu"\n' + source.without_asm(unit(statements))
    done = subprocess.run([*build.gxx(), *build.COMMON, "-fsyntax-only", "-fmax-errors=0",
                           f"-I{source.MACHINE}", "-x", "c++", "-"], input=text, capture_output=True, text=True)
    assert not re.search(r"machine/.* error: (?!static assertion)", done.stderr), done.stderr
    errors = re.findall(r"unit\.cu:(\d+):(?:\d+:)?\s+(?:(?:fatal )?error|required from here)(.*)", done.stderr)
    return {int(line) - 1 - len(HEADERS): error for line, error in reversed(errors)}


def named(code):
    """Whether a sentence says that the machine, or a GPU, does not have what stands in the statement."""
    if source.not_emulated(code, 1):
        return True
    return bool(source.not_for_gpus(code))


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
            build.refuse_what_is_not_for_gpus(f"// <vector>\n#include <{name}>\n", "unit.cu")


FOR_BOTH = """#if CUDART_VERSION < 12000 || __CUDACC_VER_MAJOR__ < 12 || __CUDA_ARCH__ < 800
#error
#endif
#ifndef __CUDACC_RTC__
#include <vector>
#define LONG \\
    std::vector<int>
int main() {
    k<<<1, 1>>>(std::vector<int>(3).data());
    __shared__ int a = 3;
}
#elif 0
__int128 a;
#else
__global__ void k(int* y) { y[0] = 7; }
#endif
"""


@needs_nvrtc
def test_nvrtc_takes_a_file_that_is_for_nvcc_as_well():
    assert nvrtc.errors(FOR_BOTH, source.HERE) == ""


def test_what_an_if_leaves_out_is_not_refused():
    y = np.zeros(1, np.int32)
    kernels.load(FOR_BOTH, "k")((1,), (1,), (y,))
    assert y[0] == 7
    for condition, other, sentence in (("#ifndef", "#ifdef", "5: .* header <vector>"),
                                       ("#elif 0", "#elif 1", "13: .* numbers of 128 bits")):
        with pytest.raises(kernels.CompileError, match=f"^source:{sentence}"):
            kernels.load(FOR_BOTH.replace(condition, other), "k")((1,), (1,), (y,))


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
