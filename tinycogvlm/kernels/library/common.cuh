// What several kernels share: loads of 16 bytes, sums over a warp or a block, softmax where some keys are hidden.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// 16 bytes, the most that a thread loads or stores with one instruction. The address must be a multiple of 16.
template<typename T> struct alignas(16) Pack { T of[16 / sizeof(T)]; };

// The sum over the 32 lanes of a warp, in every lane: after the k-th step each lane has the sum of 2^k lanes.
__device__ inline float warp_sum(float value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffff, value, distance);
    return value;
}

// The sum over all threads of a block, in every thread. blockDim.x must be a multiple of 32.
__device__ inline float block_sum(float value) {
    __shared__ float partial[32];                           // one for each warp
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    value = warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? partial[threadIdx.x % 32] : 0);
    __syncthreads();                                        // before the next sum overwrites the partial ones
    return value;
}

// The score of a hidden key, and where the search for the highest score begins: exp(HIDDEN - LOWEST) is 0, while two
// infinities would give NaN. So a query that sees no key gets a total of 0, and y = 0.
constexpr float HIDDEN = -3e38f, LOWEST = -1e30f;
__device__ inline float inverse(float total) { return total > 0 ? 1 / total : 0; }
