// The keywords and functions of CUDA C, as C++ for one thread of the machine in machine.cpp.
#pragma once
#include "machine.h"
#include "vector_types.h"
#include "device_functions.h"
#include "packed_integers.h"
#include "rounding.h"

#define __global__ inline                                   // only the kernels that are called become part of a library
#define __device__
#define __host__
#define __constant__                                        // cpu.py finds it in the library's symbols
// Thread-local variables have a section of their own. All of a kernel's count there, those too that g++ could spare.
#define __shared__ thread_local __attribute__((used, retain))
#define __grid_constant__
#define __forceinline__ inline                              // a hint: what is passed as an argument cannot be inlined
#define __inline_hint__ inline
#define __noinline__ __attribute__((noinline))
#define __nv_pure__ __attribute__((pure))
#define __launch_bounds__(...)                              // source.py reads it from the text
#define __maxnreg__(n)
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))
// What #if finds; build.py reads these five lines, too.
#define __CUDA_ARCH__ 800
#define __CUDACC__ 1
#define __CUDACC_RTC__ 1
#define __CUDACC_VER_MAJOR__ 12
#define CUDART_VERSION 12090
#define CUDA_ON_CPU 1

// ------------------------------------------------------------------------------------------ the threads of a block

inline void __syncthreads(MACHINE_HERE) { machine::block_barrier("__syncthreads()", place); }
inline int __syncthreads_count(int predicate, MACHINE_HERE) {
    return machine::block_barrier("__syncthreads_count()", place, predicate).count;
}
inline int __syncthreads_and(int predicate, MACHINE_HERE) {
    return machine::block_barrier("__syncthreads_and()", place, predicate).all;
}
inline int __syncthreads_or(int predicate, MACHINE_HERE) {
    return machine::block_barrier("__syncthreads_or()", place, predicate).any;
}
inline void __threadfence() { machine::fence(); }
inline void __threadfence_block() { machine::fence(); }
inline void __threadfence_system() { machine::fence(); }
inline void __threadfence_cluster() { machine::fence(); }
inline void __nanosleep(unsigned) { machine::pass(); }
#define __trap() machine::fault(machine::KERNEL, "%s:%d: the kernel called __trap()", __FILE__, __LINE__)

// ------------------------------------------------------------------------------------------- the lanes of a warp

inline void __syncwarp(unsigned mask = 0xffffffff, MACHINE_HERE) {
    machine::together("__syncwarp()", place, mask, nullptr, nullptr);
}
inline unsigned __activemask(MACHINE_HERE) { return machine::lanes_here(place); }

namespace machine {

// Every lane brings a value and reads that of lane `source`. A lane that is not there has none to give. That may pass
// only in the upper half of a sum by __shfl_down_sync, whose result nobody uses: it gets all ones (NaN).
template<class T> struct Shuffle {
    T value, result;
    int source;
    bool unused;
    static void resolve(Group& group) {
        for (int i = 0; i < 32; i++)
            if (group.lanes >> i & 1) {
                auto& mine = *(Shuffle*)group.brought[i];
                if (group.lanes >> mine.source & 1)
                    mine.result = ((Shuffle*)group.brought[mine.source])->value;
                else if (mine.unused)
                    memset((void*)&mine.result, 0xff, sizeof(T));
                else
                    takes_from_absent(i, mine.source);
            }
    }
};
template<class T> T shuffle(const char* what, Place place, unsigned mask, T value, int source, bool unused = false) {
    static_assert(std::is_arithmetic_v<T> || Scalar<T>::kind == 'h' || Scalar<T>::kind == 'B',
                  "a shuffle takes a number; exchange the members of a structure one by one");
    Shuffle<T> mine{value, value, source & 31, unused};
    together(what, place, mask, Shuffle<T>::resolve, &mine);
    return mine.result;
}

// Every lane brings a value and gets the result of `Reduce` over those of all lanes.
template<class T, class R, class Reduce> struct Reduction {
    T value;
    R result;
    static void resolve(Group& group) {
        R all = Reduce::start();
        for (int i = 0; i < 32; i++)
            if (group.lanes >> i & 1)
                all = Reduce::add(all, ((Reduction*)group.brought[i])->value, i);
        for (int i = 0; i < 32; i++)
            if (group.lanes >> i & 1)
                ((Reduction*)group.brought[i])->result = all;
    }
};
template<class Reduce, class R, class T> R reduce(const char* what, Place place, unsigned mask, T value) {
    Reduction<T, R, Reduce> mine{value, R{}};
    together(what, place, mask, Reduction<T, R, Reduce>::resolve, &mine);
    return mine.result;
}
struct Ballot {
    static unsigned start() { return 0; }
    static unsigned add(unsigned all, int value, int lane) { return all | unsigned(value != 0) << lane; }
};
template<class T> struct Values {                           // all lanes' values, for __match
    unsigned lanes;
    T of[32];
    static Values start() { return {}; }
    static Values add(Values all, T value, int lane) { all.lanes |= 1u << lane; all.of[lane] = value; return all; }
};
#define MACHINE_REDUCTION(Name, begin, step)                                                                        \
    template<class T> struct Name {                                                                                 \
        static T start() { return begin; }                                                                          \
        static T add(T all, T value, int) { return step; }                                                          \
    };
MACHINE_REDUCTION(Sum, 0, all + value)
MACHINE_REDUCTION(Smallest, std::numeric_limits<T>::max(), value < all ? value : all)
MACHINE_REDUCTION(Largest, std::numeric_limits<T>::lowest(), value > all ? value : all)
MACHINE_REDUCTION(Conjunction, T(~T(0)), all & value)
MACHINE_REDUCTION(Disjunction, 0, all | value)
MACHINE_REDUCTION(ExclusiveDisjunction, 0, all ^ value)

}  // namespace machine

// `width` divides the warp into pieces; a lane whose source is outside of its piece reads itself.
template<class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, MACHINE_HERE) {
    int first = machine::lane() & ~(width - 1);
    return machine::shuffle("__shfl_sync()", place, mask, value, first + (source & (width - 1)));
}
template<class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, MACHINE_HERE) {
    int lane = machine::lane(), first = lane & ~(width - 1), source = lane - int(by);
    return machine::shuffle("__shfl_up_sync()", place, mask, value, source < first ? lane : source);
}
template<class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, MACHINE_HERE) {
    int lane = machine::lane(), last = lane | (width - 1), source = lane + int(by);
    return machine::shuffle("__shfl_down_sync()", place, mask, value, source > last ? lane : source,
                            (lane & (width - 1)) >= int(by));
}
template<class T> T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, MACHINE_HERE) {
    int lane = machine::lane(), last = lane | (width - 1), source = lane ^ with;
    return machine::shuffle("__shfl_xor_sync()", place, mask, value, source > last ? lane : source);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, MACHINE_HERE) {
    return machine::reduce<machine::Ballot, unsigned>("__ballot_sync()", place, mask, predicate);
}
inline int __any_sync(unsigned mask, int predicate, MACHINE_HERE) {
    return machine::reduce<machine::Disjunction<int>, int>("__any_sync()", place, mask, int(predicate != 0));
}
inline int __all_sync(unsigned mask, int predicate, MACHINE_HERE) {
    return machine::reduce<machine::Conjunction<int>, int>("__all_sync()", place, mask, -(predicate != 0)) != 0;
}
template<class T> unsigned __match_any_sync(unsigned mask, T value, MACHINE_HERE) {
    auto all = machine::reduce<machine::Values<T>, machine::Values<T>>("__match_any_sync()", place, mask, value);
    unsigned same = 0;
    for (int i = 0; i < 32; i++)
        same |= unsigned((all.lanes >> i & 1) && all.of[i] == value) << i;
    return same;
}
template<class T> unsigned __match_all_sync(unsigned mask, T value, int* all_same, MACHINE_HERE) {
    auto all = machine::reduce<machine::Values<T>, machine::Values<T>>("__match_all_sync()", place, mask, value);
    bool same = true;
    for (int i = 0; i < 32; i++)
        same &= !(all.lanes >> i & 1) || all.of[i] == value;
    *all_same = same;
    return same ? mask : 0;
}
#define MACHINE_REDUCE(name, Reduce)                                                                                \
    template<class T> T name(unsigned mask, T value, MACHINE_HERE) {                                                \
        static_assert(std::is_integral_v<T> && sizeof(T) <= 4, "a GPU has " #name " of 32-bit integers only");      \
        return machine::reduce<machine::Reduce<T>, T>(#name "()", place, mask, value);                              \
    }
MACHINE_REDUCE(__reduce_add_sync, Sum)
MACHINE_REDUCE(__reduce_min_sync, Smallest)
MACHINE_REDUCE(__reduce_max_sync, Largest)
MACHINE_REDUCE(__reduce_and_sync, Conjunction)
MACHINE_REDUCE(__reduce_or_sync, Disjunction)
MACHINE_REDUCE(__reduce_xor_sync, ExclusiveDisjunction)

// ------------------------------------------------------------------------------------------------------- atomics

namespace machine {

template<class T> struct Same { using type = T; };
template<class T> using same = typename Same<T>::type;      // converted to T instead of deduced

template<class T, class... Types> constexpr bool is_one_of = (std::is_same_v<T, Types> || ...);

struct HalfFormat;                                          // see small_floats.h
struct BFloatFormat;
template<class Format> struct Small;
template<class Format> struct Small2;

template<class T> T sum(T a, T b) { return a + b; }
inline float2 sum(float2 a, float2 b) { return {a.x + b.x, a.y + b.y}; }
inline float4 sum(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

template<class T, class F> MACHINE_INLINE T update(T* address, F change) {
    atomic_begins(address, sizeof(T));
    T old = *address, changed = change(old);
    *address = changed;
    atomic_ends(address, memcmp(&old, &changed, sizeof(T)) == 0);
    return old;
}

}  // namespace machine

#define MACHINE_ATOMIC_OF(name, scope, expression, ...)                                                             \
    template<class T> MACHINE_INLINE T name##scope(T* address, machine::same<T> value) {                            \
        static_assert(machine::is_one_of<T, __VA_ARGS__>, "a GPU has no " #name " of this type");                   \
        return machine::update(address, [&](T old) -> T { return expression; });                                    \
    }
#define MACHINE_ATOMIC(name, expression, ...)                                                                       \
    MACHINE_ATOMIC_OF(name, , expression, __VA_ARGS__)                                                              \
    MACHINE_ATOMIC_OF(name, _block, expression, __VA_ARGS__)                                                        \
    MACHINE_ATOMIC_OF(name, _system, expression, __VA_ARGS__)
#define MACHINE_U64 unsigned long long, unsigned long      // the latter is uint64_t here
#define MACHINE_S64 long long, long
MACHINE_ATOMIC(atomicAdd, machine::sum(old, value), int, unsigned, MACHINE_U64, float, double, float2, float4,
               machine::Small<machine::HalfFormat>, machine::Small2<machine::HalfFormat>,
               machine::Small<machine::BFloatFormat>, machine::Small2<machine::BFloatFormat>)
MACHINE_ATOMIC(atomicSub, old - value, int, unsigned)
MACHINE_ATOMIC(atomicExch, value, int, unsigned, MACHINE_U64, float)
MACHINE_ATOMIC(atomicMin, value < old ? value : old, int, unsigned, MACHINE_S64, MACHINE_U64)
MACHINE_ATOMIC(atomicMax, value > old ? value : old, int, unsigned, MACHINE_S64, MACHINE_U64)
MACHINE_ATOMIC(atomicInc, old >= value ? 0 : old + 1, unsigned)
MACHINE_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1, unsigned)
MACHINE_ATOMIC(atomicAnd, old & value, int, unsigned, MACHINE_S64, MACHINE_U64)
MACHINE_ATOMIC(atomicOr, old | value, int, unsigned, MACHINE_S64, MACHINE_U64)
MACHINE_ATOMIC(atomicXor, old ^ value, int, unsigned, MACHINE_S64, MACHINE_U64)

#define MACHINE_ATOMIC_CAS(name)                                                                                    \
    template<class T> MACHINE_INLINE T name(T* address, machine::same<T> compare, machine::same<T> value) {         \
        static_assert(machine::is_one_of<T, int, unsigned, MACHINE_U64, unsigned short>,                            \
                      "a GPU has no " #name " of this type");                                                       \
        return machine::update(address, [&](T old) -> T { return old == compare ? value : old; });                  \
    }
MACHINE_ATOMIC_CAS(atomicCAS)
MACHINE_ATOMIC_CAS(atomicCAS_block)
MACHINE_ATOMIC_CAS(atomicCAS_system)

// ----------------------------------------------------------------------------------- loads and stores with a hint

#define MACHINE_LOAD(name)                                                                                          \
    template<class T> MACHINE_INLINE T name(const T* address) {                                                     \
        static_assert(!(sizeof(T) & (sizeof(T) - 1)) && sizeof(T) <= 16 && !std::is_same_v<T, bool> &&              \
                      machine::Scalar<T>::kind != 'V', "a GPU has no " #name " of this type");                      \
        return *address;                                                                                            \
    }
#define MACHINE_STORE(name)                                                                                         \
    template<class T> MACHINE_INLINE void name(T* address, machine::same<T> value) { *address = value; }
MACHINE_LOAD(__ldg) MACHINE_LOAD(__ldca) MACHINE_LOAD(__ldcg) MACHINE_LOAD(__ldcs) MACHINE_LOAD(__ldlu)
MACHINE_LOAD(__ldcv) MACHINE_STORE(__stwb) MACHINE_STORE(__stcg) MACHINE_STORE(__stcs) MACHINE_STORE(__stwt)

#define MACHINE_SPACE(space)                                                                                        \
    inline size_t __cvta_generic_to_##space(const void* address) { return size_t(address); }                        \
    inline void* __cvta_##space##_to_generic(size_t address) { return (void*)address; }
MACHINE_SPACE(shared) MACHINE_SPACE(global) MACHINE_SPACE(constant) MACHINE_SPACE(local) MACHINE_SPACE(grid_constant)
inline unsigned __isShared(const void* address) { return machine::is_shared(address); }
inline unsigned __isLocal(const void* address) { return machine::is_local(address); }
inline unsigned __isGlobal(const void* address) { return !__isShared(address) && !__isLocal(address); }

long long clock64();                                        // steps of the machine, not of a GPU
inline clock_t clock() { return clock64(); }
#define __builtin_assume(condition) ((void)0)
#define __builtin_nv_unreachable() __builtin_unreachable()
