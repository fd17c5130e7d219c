// 80 A CUDA machine on your laptop. Fill in the bodies, then: tinycogvlm learn check 80
//
// y = x / sqrt(mean(x^2) + eps) * weight                  x (rows, D), weight (D) -> y (rows, D)
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Version 1: a thread for each row, 256 threads a block, as many blocks as the rows need. T is float here: compute
// in float, (float)x[d], and convert what you write, (T)value. The last block has threads without a row.
template<typename T>
__global__ void rms_norm_v1(const T* x, const T* weight, T* y, int rows, int D, float eps) {
    // your code
}

// Version 2: a warp of 32 lanes for each row, 8 warps a block. Lane l takes numbers l, l + 32, l + 64 ...; the lanes
// add their sums by __shfl_xor_sync, after which each of them has the whole sum.
template<typename T>
__global__ void rms_norm_v2(const T* x, const T* weight, T* y, int rows, int D, float eps) {
    // your code
}
