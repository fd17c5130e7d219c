// 82 The expert matmul on tensor cores. Fill in the body, then: tinycogvlm learn check 82
//
// y[t] = W x[t] (+ bias), W that of token t's expert            x (tokens, I), W (O, I) -> y (tokens, O)
//
// rows, language_rows, bias: as in lesson 81; the list's parts are whole tiles of 64. I is a multiple of 8, so that 16
// bytes never end in the middle of something; O may be any number. Half is half here: take mma_f16.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "ptx.cuh"  // mma_f16, ldmatrix_x4, cp_async16, cp_async_commit, cp_async_wait

// Version 4: a block has 128 threads, four warps, for 64 rows of the list (blockIdx.x) and 64 outputs (blockIdx.y).
// Each warp computes 32 x 32 of them by products of 16 x 16 by 16 x 8. The tiles come into shared memory 32 columns at
// a time; numbers that are not there (beyond I, beyond O, rows without a token) are 0.
template<typename Half>
__global__ void expert_matmul_v4(const Half* x, const Half* language, const Half* vision, const Half* bias,
                                 const int* rows, int language_rows, Half* y, int I, int O) {
    // your code
}
