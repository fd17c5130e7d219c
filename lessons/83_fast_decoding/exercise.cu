// 83 Fast decoding. Fill in the bodies, then: tinycogvlm learn check 83
#include <cuda_bf16.h>
#include <cuda_fp16.h>

struct Int8 {};                                     // names for the kinds of weights, which the caller gives; your
struct Int4 {};                                     // kernels need not look at them

// y = W x for `x` of a few rows                         x (rows, I), W (O, I) -> y (rows, O)
//
// Version 1, W in 4 bits: W[o][i] = (code - 8) * scale. A byte has two codes, the left column's in its lower half.
// Each 64 columns of a row share a scale: scales (O, I / 64); I is a multiple of 64. A thread for each output: o from
// blockIdx.x and threadIdx.x, the row of x is blockIdx.y. T is float here.
template<typename T, typename W>
__global__ void gemv_v1(const T* x, const unsigned char* codes, const __nv_bfloat16* scales, T* y, int I, int O) {
    // your code
}

// Version 2, W in 8 bits: a byte is a code, W[o][i] = (code - 128) * scale. A warp for each output, and 16 bytes, which
// are 16 codes, at a load: uint4 is the type of 16 bytes. The grid is as in version 1, but for a warp in the place of a
// thread.
template<typename T, typename W>
__global__ void gemv_v2(const T* x, const unsigned char* codes, const __nv_bfloat16* scales, T* y, int I, int O) {
    // your code
}

// Attention's keys were split across blocks. Each of the parts has found its own y and lse = log(sum of exp(score)):
//     partial (queries, splits, d), lse (queries, splits) -> y (queries, d)
// A part weighs exp(lse) in the whole. A block for each query, and a thread for each of its d numbers; there may be
// more threads than d. A part without a key has lse = -3e38.
template<typename T>
__global__ void attention_decode_combine(const float* partial, const float* lse, T* y, int splits, int d) {
    // your code
}
