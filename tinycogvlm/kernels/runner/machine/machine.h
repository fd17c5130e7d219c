// What the CUDA headers beside this one call in the machine that emulates a GPU (machine.cpp, check.cpp).
#pragma once
#include <cassert>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <limits>
#include <type_traits>
#include <utility>

// As an attribute of GNU's it may follow __shared__, where nvcc takes it; g++ does not take a standard one there.
#define alignas(...) __attribute__((aligned(machine::alignment<__VA_ARGS__>())))
using std::ptrdiff_t;
using std::size_t;

#define MACHINE_INLINE inline __attribute__((always_inline))
#define MACHINE_HERE machine::Place place = machine::Place::here()

struct uint3 { unsigned x, y, z; };

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace machine {

template<class T> constexpr size_t alignment() { return alignof(T); }
template<size_t N> constexpr size_t alignment() { return N; }

struct Place {                                              // the line of the kernel that makes a call
    const char* file;
    int line;
    static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};

enum Kind { FINE, KERNEL, RACE, BOUNDS, BARRIER, UNINITIALIZED, ALIGNMENT, INTERRUPTED };
[[noreturn]] void fault(Kind kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

// The whole block waits. Returns the votes of its threads: how many, all, any.
struct Votes { int count, all, any; };
Votes block_barrier(const char* what, Place place, int predicate = 1);

// The lanes of a warp that are in `mask` and have not returned wait for each other. The last to arrive calls `resolve`
// once, with what every lane brought; null orders memory among the lanes, as __syncwarp does.
struct Group { unsigned lanes; void* brought[32]; };
void together(const char* what, Place place, unsigned mask, void (*resolve)(Group&), void* brought);
[[noreturn]] void takes_from_absent(int lane, int source);  // within `resolve`: a shuffle without a value
unsigned lanes_here(Place place);                           // __activemask
unsigned lane();
void pass();                                                // let the other threads run
void inline_ptx();                                          // stands for asm in a kernel; defined nowhere

// Before and after what an atomic operation does to memory; `same`: it has not changed the value.
void atomic_begins(const void* address, size_t bytes);
void atomic_ends(const void* address, bool same);
void fence();
bool is_shared(const void* address);
bool is_local(const void* address);                         // on the stack of a thread

// cp.async: nothing is copied before the wait. Bytes after the first `kept` become 0.
void copy_later(void* to, const void* from, int bytes, int kept);
void commit_copies();
void wait_for_copies(int groups_left);

// What ldmatrix reads for the calling lane.
void reads(const void* address, size_t bytes);

void shared_array(const char* name, const void* address, char kind, size_t size, size_t bytes, size_t axes,
                  const size_t* shape);

// The numbers that a parameter or an array consists of: NumPy's letter for their kind, and their bytes.
template<class T> struct Scalar {
    static constexpr char kind = std::is_same_v<T, bool> ? 'b' : std::is_floating_point_v<T> ? 'f' :
                                 !std::is_integral_v<T> ? 'V' : std::is_signed_v<T> ? 'i' : 'u';
    static constexpr size_t size = sizeof(T);
};
template<> struct Scalar<void> { static constexpr char kind = 'V'; static constexpr size_t size = 1; };

template<class T> size_t size_of() { return sizeof(T); }
template<> inline size_t size_of<void>() { return 1; }

template<class A> int describe(char* text, size_t room) {
    using T = std::remove_pointer_t<A>;
    using Plain = std::remove_cv_t<T>;
    using S = Scalar<Plain>;
    return snprintf(text, room, "%d %d %c %zu %zu\n", std::is_pointer_v<A>, std::is_const_v<T>, S::kind, S::size,
                    size_of<Plain>());
}

template<class... A> void signature(void (*)(A...), char* text, size_t room) {
    *text = 0;
    int used = 0;
    ((used += describe<std::decay_t<A>>(text + used, room - used)), ...);
}

template<class... A, size_t... I>
__attribute__((no_sanitize("thread"))) void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(std::decay_t<A>*)arguments[I]...);
}
template<class... A> void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>{});
}

template<class... Rest> constexpr long first(long most, Rest...) { return most; }       // of __launch_bounds__(...)

// Registers a __shared__ array under its name, for stepping through the kernel.
template<class T, size_t... I> void show_shared(const char* name, const T& array, std::index_sequence<I...>) {
    using S = std::remove_cv_t<std::remove_all_extents_t<T>>;
    size_t shape[] = {std::extent_v<T, I>..., sizeof(S) / Scalar<S>::size};
    size_t bytes = sizeof(S);
    for (size_t i = 0; i < sizeof...(I); i++)
        bytes *= shape[i];
    shared_array(name, (const void*)&array, Scalar<S>::kind, Scalar<S>::size, bytes, sizeof...(I) + 1, shape);
}
template<class T> void show_shared(const char* name, const T& array) {
    show_shared(name, array, std::make_index_sequence<std::rank_v<T>>{});
}

}  // namespace machine
