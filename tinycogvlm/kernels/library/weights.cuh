// How weights are stored: as float, half or __nv_bfloat16, or as Int8 or Int4: codes with a scale for each 64
// columns (quantise.py). N of them are in 16 bytes, a `pack`.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

template<int BITS> struct Code {};
using Int8 = Code<8>;
using Int4 = Code<4>;
constexpr int GROUP = 64;                                   // columns that share a scale

template<typename W> struct Weights {
    using Stored = W;
    static constexpr int N = 16 / sizeof(W);
    static __device__ float of(const uint4& pack, int i) { return (float)((const W*)&pack)[i]; }
    static __device__ float at(const W* values, const __nv_bfloat16*, size_t i) { return (float)values[i]; }
    static __device__ float scale(const __nv_bfloat16*, int) { return 1; }
};

// w = (code - 2^(BITS - 1)) scale. Conversions from int to float are slow, and each weight would take one; so the code
// is put into the last byte of 2^23 = 0x4b000000, a float whose last bit is worth 1: 2^23 + code.
template<int BITS_> struct Weights<Code<BITS_>> {
    static constexpr int BITS = BITS_;
    using Stored = unsigned char;
    static constexpr int N = 128 / BITS, PER_BYTE = 8 / BITS, ZERO = 1 << (BITS - 1);
    static constexpr unsigned MASK = (1 << BITS) - 1;
    static __device__ float of(const uint4& pack, int i) {
        unsigned word = ((const unsigned*)&pack)[i * BITS / 32] >> (i % PER_BYTE * BITS) & 0x01010101 * MASK;
        return __uint_as_float(__byte_perm(word, 0x4b000000, 0x7440 + i / PER_BYTE % 4)) - (8388608.0f + ZERO);
    }
    static __device__ float at(const unsigned char* codes, const __nv_bfloat16* scales, size_t i) {
        int code = codes[i * BITS / 8] >> (i * BITS % 8) & MASK;
        return (code - ZERO) * (float)scales[i / GROUP];
    }
    // Two codes as halves: `magic` is 0x64006400, of which each half is 1024, a number whose last bit is worth 1. Of 8
    // bits codes 2 i and 2 i + 1 of a word; of 4 bits i and i + 4, which one mask finds, or sixteen times as much.
    // place(i): where code i of 8 is then.
    static __device__ unsigned halves(unsigned word, int i, unsigned magic) {
        bool high = BITS == 4 && i % 2;
        unsigned bits = BITS == 8 ? __byte_perm(word, magic, 0x5150 + 0x0202 * i)
                                  : (word >> i / 2 * 8 & (high ? 0x00f000f0 : 0x000f000f)) | magic;
        half2 pair = *(half2*)&bits;
        pair = high ? __hfma2(pair, __float2half2_rn(1.0f / 16), __float2half2_rn(-64 - ZERO))
                    : __hsub2(pair, __float2half2_rn(1024 + ZERO));
        return *(unsigned*)&pair;
    }
    static __device__ int place(int i) { return BITS == 4 ? i % 4 * 2 + i / 4 : i; }
    static __device__ float scale(const __nv_bfloat16* scales, int pack) { return (float)scales[pack * N / GROUP]; }
};
