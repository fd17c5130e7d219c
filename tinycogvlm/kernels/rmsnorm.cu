// RMSNorm: y = x / sqrt(mean(x^2) + eps) * weight          x (rows, D), weight (D) -> y (rows, D)
// Zhang & Sennrich 2019. T is float, half or __nv_bfloat16; sums are in float.
//
// There is one addition and one multiplication for each number read, so that only memory counts: the bytes must be read
// once, in whole 32-byte sectors.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Version 1: a thread for each row. Correct, and slow: the 32 lanes of a warp read 32 rows at a time, of each sector 4
// of 32 bytes, and a batch of a few rows leaves the GPU empty.
template<typename T>
__global__ void rms_norm_v1(const T* x, const T* weight, T* y, int rows, int D, float eps) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    x += (size_t)row * D, y += (size_t)row * D;
    float sum = 0;
    for (int d = 0; d < D; d++) sum += (float)x[d] * (float)x[d];
    float scale = rsqrtf(sum / D + eps);
    for (int d = 0; d < D; d++) y[d] = (T)((float)x[d] * scale * (float)weight[d]);
}

// The sum over the 32 lanes of a warp, in every lane: after the k-th step each lane has the sum of 2^k lanes.
__device__ float warp_sum(float value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffff, value, distance);
    return value;
}

// Version 2: a warp for each row. Neighbouring lanes read neighbouring numbers, so that each sector is used whole (4
// sectors a request instead of 32, as the profile shows), and 32 times as many threads ask for memory.
template<typename T>
__global__ void rms_norm_v2(const T* x, const T* weight, T* y, int rows, int D, float eps) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;                                // the whole warp
    x += (size_t)row * D, y += (size_t)row * D;
    float sum = 0;
    for (int d = lane; d < D; d += 32) sum += (float)x[d] * (float)x[d];
    float scale = rsqrtf(warp_sum(sum) / D + eps);
    for (int d = lane; d < D; d += 32) y[d] = (T)((float)x[d] * scale * (float)weight[d]);
}

template<typename T> struct alignas(16) Pack { T of[16 / sizeof(T)]; };

// Version 3: a block for each row and 16 bytes a load, an eighth of the load instructions of half. One decoded token is
// one row: a whole block for it keeps more loads in flight than a warp can. The row is read a second time from the L1
// cache. D must be a multiple of the numbers in 16 bytes, and blockDim.x of 32.
template<typename T>
__global__ void rms_norm_v3(const T* x, const T* weight, T* y, int rows, int D, float eps) {
    constexpr int N = 16 / sizeof(T);
    const Pack<T>* packs = (const Pack<T>*)(x + (size_t)blockIdx.x * D);
    float sum = 0;
    for (int p = threadIdx.x; p < D / N; p += blockDim.x) {
        Pack<T> pack = packs[p];
        for (int i = 0; i < N; i++) sum += (float)pack.of[i] * (float)pack.of[i];
    }

    __shared__ float partial[32];                           // of each warp
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? partial[threadIdx.x % 32] : 0);
    float scale = rsqrtf(sum / D + eps);

    for (int p = threadIdx.x; p < D / N; p += blockDim.x) {
        Pack<T> pack = packs[p], w = ((const Pack<T>*)weight)[p];
        for (int i = 0; i < N; i++) pack.of[i] = (T)((float)pack.of[i] * scale * (float)w.of[i]);
        ((Pack<T>*)(y + (size_t)blockIdx.x * D))[p] = pack;
    }
}
