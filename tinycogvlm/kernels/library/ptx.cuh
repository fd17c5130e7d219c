// Instructions for which CUDA C has no function: inline PTX on a GPU, and beside each its twin for the CPU runner,
// which has the same values in the same registers of the same lanes. They need a GPU of compute capability 8.0 or more.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// ---------------------------------------------------------------------------------------------------- cp.async
// Copies 16 bytes from global to shared memory while the thread goes on: issue, commit a group, wait until at most N
// groups are in flight; a __syncthreads() then shows them to the block. With full = false the 16 bytes become 0.

#ifdef CUDA_ON_CPU

#include "small_floats.h"

MACHINE_INLINE void cp_async16(void* shared, const void* global, bool full = true) {
    machine::copy_later(shared, global, 16, full ? 16 : 0);
}
inline void cp_async_commit() { machine::commit_copies(); }
inline void prefetch(const void*) {}
template<int N> inline void cp_async_wait() { machine::wait_for_copies(N); }

#else

__device__ __forceinline__ unsigned shared_address(const void* shared) {
    return (unsigned)__cvta_generic_to_shared(shared);
}
__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool full = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(shared)), "l"(global), "r"(full ? 16 : 0) : "memory");
}
__device__ __forceinline__ void prefetch(const void* global) {      // into the L2 cache
    asm volatile("prefetch.global.L2 [%0];" :: "l"(global));
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template<int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

#endif

// ---------------------------------------------------------------------------------------------------- ldmatrix Loads
// four (two) 8 x 8 matrices of 16-bit numbers from shared memory. Lane 8 i + r gives the address of row r of matrix i,
// 16 bytes. From each matrix, lane l gets (row l / 4, columns 2 (l % 4) and + 1) in one register; with `trans` (rows 2
// (l % 4) and + 1, column l / 4): the matrix transposed.

#ifdef CUDA_ON_CPU

namespace machine {

struct LoadMatrix {
    const uint16_t* row;
    unsigned* registers;
    int count;
    bool trans;
    static void resolve(Group& group) {
        if (group.lanes != 0xffffffff) fault(BARRIER, "ldmatrix needs all 32 lanes of a warp, some have returned");
        for (int lane = 0; lane < 32; lane++) {
            auto& mine = *(LoadMatrix*)group.brought[lane];
            for (int i = 0; i < mine.count; i++) {
                auto at = [&](int r, int c) -> unsigned {
                    return ((LoadMatrix*)group.brought[8 * i + r])->row[c];
                };
                int long_way = lane / 4, pair = 2 * (lane % 4);
                mine.registers[i] = mine.trans ? at(pair, long_way) | at(pair + 1, long_way) << 16
                                               : at(long_way, pair) | at(long_way, pair + 1) << 16;
            }
        }
    }
};

MACHINE_INLINE void load_matrix(unsigned* registers, const void* row, int count, bool trans, Place place) {
    if (size_t(row) % 16)
        fault(ALIGNMENT, "%s:%d: the row of ldmatrix does not begin at a multiple of 16 bytes", place.file, place.line);
    if (lane() < unsigned(8 * count)) reads(row, 16);
    LoadMatrix mine{(const uint16_t*)row, registers, count, trans};
    together("ldmatrix", place, 0xffffffff, LoadMatrix::resolve, &mine);
}

}  // namespace machine

MACHINE_INLINE void ldmatrix_x4(unsigned (&r)[4], const void* row, MACHINE_HERE) {
    machine::load_matrix(r, row, 4, false, place);
}
MACHINE_INLINE void ldmatrix_x4_trans(unsigned (&r)[4], const void* row, MACHINE_HERE) {
    machine::load_matrix(r, row, 4, true, place);
}
MACHINE_INLINE void ldmatrix_x2(unsigned (&r)[2], const void* row, MACHINE_HERE) {
    machine::load_matrix(r, row, 2, false, place);
}
MACHINE_INLINE void ldmatrix_x2_trans(unsigned (&r)[2], const void* row, MACHINE_HERE) {
    machine::load_matrix(r, row, 2, true, place);
}

#else

__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(unsigned (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(unsigned (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}

#endif

// --------------------------------------------------------------------------------------------------- mma.m16n8k16
// d += a b on the tensor cores: a (16, 16) and b (16, 8) in half or bfloat16, d (16, 8) in float. With g = lane / 4 and
// p = 2 (lane % 4) a lane holds
//     a[0] (g, p..p+1)   a[1] (g + 8, p..p+1)   a[2] (g, p + 8..p + 9)   a[3] (g + 8, p + 8..p + 9)
//     b[0] (p..p+1, g)   b[1] (p + 8..p + 9, g)                          which is what ldmatrix gives
//     d[0], d[1] (g, p..p+1)                    d[2], d[3] (g + 8, p..p+1)

#ifdef CUDA_ON_CPU

namespace machine {

template<class Format> struct MultiplyMatrices {
    float* d;
    const unsigned *a, *b;
    static float number(unsigned pair, int i) { return Format::widen(uint16_t(pair >> 16 * i)); }
    static void resolve(Group& group) {
        if (group.lanes != 0xffffffff) fault(BARRIER, "mma.sync needs all 32 lanes of a warp, some have returned");
        float a[16][16], b[16][8];
        for (int lane = 0; lane < 32; lane++) {
            auto& theirs = *(MultiplyMatrices*)group.brought[lane];
            for (int i = 0; i < 8; i++)
                a[lane / 4 + 8 * (i / 2 % 2)][2 * (lane % 4) + 8 * (i / 4) + i % 2] = number(theirs.a[i / 2], i % 2);
            for (int i = 0; i < 4; i++)
                b[2 * (lane % 4) + 8 * (i / 2) + i % 2][lane / 4] = number(theirs.b[i / 2], i % 2);
        }
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++) {
                float& sum = ((MultiplyMatrices*)group.brought[lane])->d[i];
                for (int k = 0; k < 16; k++) sum += a[lane / 4 + 8 * (i / 2)][k] * b[k][2 * (lane % 4) + i % 2];
            }
    }
};

template<class Format> void multiply_matrices(float* d, const unsigned* a, const unsigned* b, Place place) {
    MultiplyMatrices<Format> mine{d, a, b};
    together("mma.sync", place, 0xffffffff, MultiplyMatrices<Format>::resolve, &mine);
}

}  // namespace machine

inline void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], MACHINE_HERE) {
    machine::multiply_matrices<machine::HalfFormat>(d, a, b, place);
}
inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], MACHINE_HERE) {
    machine::multiply_matrices<machine::BFloatFormat>(d, a, b, place);
}

#else

#define MMA_M16N8K16(name, type)                                                                                    \
    __device__ __forceinline__ void name(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {           \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                                 \
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                              \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                               \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                           \
    }
MMA_M16N8K16(mma_f16, "f16")
MMA_M16N8K16(mma_bf16, "bf16")

#endif

// Either of them, by the type of the last argument.
__device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], half) {
    mma_f16(d, a, b);
}
__device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], __nv_bfloat16) {
    mma_bf16(d, a, b);
}
