// LayerNorm: y = (x - mean) / sqrt(variance + eps) * weight + bias        x (rows, D), weight, bias (D) -> y (rows, D)
// Ba et al. 2016. T is float, half or __nv_bfloat16; sums are in float.
//
// The variance is the mean of (x - mean)^2, in a pass of its own: mean(x^2) - mean^2 needs one pass less and loses all
// digits where the mean is large beside the deviation.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Version 1: a thread for each row; its lanes' reads lie D numbers apart, a sector for each.
template<typename T>
__global__ void layer_norm_v1(const T* x, const T* weight, const T* bias, T* y, int rows, int D, float eps) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    x += (size_t)row * D, y += (size_t)row * D;
    float sum = 0, squares = 0;
    for (int d = 0; d < D; d++) sum += (float)x[d];
    float mean = sum / D;
    for (int d = 0; d < D; d++) squares += ((float)x[d] - mean) * ((float)x[d] - mean);
    float scale = rsqrtf(squares / D + eps);
    for (int d = 0; d < D; d++) y[d] = (T)(((float)x[d] - mean) * scale * (float)weight[d] + (float)bias[d]);
}

__device__ float warp_sum(float value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffff, value, distance);
    return value;
}

// Version 2: a warp for each row: whole sectors, 32 times as many threads that wait for memory.
template<typename T>
__global__ void layer_norm_v2(const T* x, const T* weight, const T* bias, T* y, int rows, int D, float eps) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;                                // the whole warp
    x += (size_t)row * D, y += (size_t)row * D;
    float sum = 0, squares = 0;
    for (int d = lane; d < D; d += 32) sum += (float)x[d];
    float mean = warp_sum(sum) / D;
    for (int d = lane; d < D; d += 32) squares += ((float)x[d] - mean) * ((float)x[d] - mean);
    float scale = rsqrtf(warp_sum(squares) / D + eps);
    for (int d = lane; d < D; d += 32) y[d] = (T)(((float)x[d] - mean) * scale * (float)weight[d] + (float)bias[d]);
}

template<typename T> struct alignas(16) Pack { T of[16 / sizeof(T)]; };

// Version 3: 16 bytes a load, and the row stays in registers between the three passes: x is read once. A lane has PACKS
// loads: D <= 32 * PACKS * (16 / sizeof(T)), and a multiple of 16 / sizeof(T).
template<typename T, int PACKS>
__global__ void layer_norm_v3(const T* x, const T* weight, const T* bias, T* y, int rows, int D, float eps) {
    constexpr int N = 16 / sizeof(T);
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const Pack<T>* in = (const Pack<T>*)(x + (size_t)row * D);
    Pack<T>* out = (Pack<T>*)(y + (size_t)row * D);
    Pack<T> pack[PACKS];
    float sum = 0, squares = 0;
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if (lane + 32 * p < D / N) {
            pack[p] = in[lane + 32 * p];
            for (int i = 0; i < N; i++) sum += (float)pack[p].of[i];
        }
    float mean = warp_sum(sum) / D;
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if (lane + 32 * p < D / N)
            for (int i = 0; i < N; i++) squares += ((float)pack[p].of[i] - mean) * ((float)pack[p].of[i] - mean);
    float scale = rsqrtf(warp_sum(squares) / D + eps);
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if (lane + 32 * p < D / N) {
            Pack<T> w = ((const Pack<T>*)weight)[lane + 32 * p], b = ((const Pack<T>*)bias)[lane + 32 * p];
            for (int i = 0; i < N; i++)
                pack[p].of[i] = (T)(((float)pack[p].of[i] - mean) * scale * (float)w.of[i] + (float)b.of[i]);
            out[lane + 32 * p] = pack[p];
        }
}
