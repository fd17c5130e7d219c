// RMSNorm: y = x / sqrt(mean(x^2) + eps) * weight          x (rows, D), weight (D) -> y (rows, D)
// Zhang & Sennrich 2019 (arXiv 1910.07467). T is float, half or __nv_bfloat16; sums are in float.
//
// There is one addition and one multiplication for each number read, so only memory counts: the bytes must be read
// once, in whole 32-byte sectors.
#include "common.cuh"

// Version 1: a thread for each row. Correct, and slow: the 32 lanes of a warp read 32 rows at a time, and use 4 of the
// 32 bytes of each sector; and a batch of a few rows leaves the GPU empty.
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

// Version 2: a warp for each row. Neighbouring lanes read neighbouring numbers, so that each sector is used whole (4
// sectors per request instead of 32, as the profile shows), and 32 times as many threads have loads in flight.
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

// Version 3: a block for each row and 16 bytes per load: for half, an eighth of the load instructions. One decoded
// token is one row: a whole block for it keeps more loads in flight than a warp can. The second read of the row comes
// from the L1 cache. D must be a multiple of the numbers in 16 bytes, and blockDim.x of 32.
template<typename T>
__global__ void rms_norm_v3(const T* x, const T* weight, T* y, int rows, int D, float eps) {
    constexpr int N = 16 / sizeof(T);
    const Pack<T>* packs = (const Pack<T>*)(x + (size_t)blockIdx.x * D);
    float sum = 0;
    for (int p = threadIdx.x; p < D / N; p += blockDim.x) {
        Pack<T> pack = packs[p];
        for (int i = 0; i < N; i++) sum += (float)pack.of[i] * (float)pack.of[i];
    }
    float scale = rsqrtf(block_sum(sum) / D + eps);
    for (int p = threadIdx.x; p < D / N; p += blockDim.x) {
        Pack<T> pack = packs[p], w = ((const Pack<T>*)weight)[p];
        for (int i = 0; i < N; i++) pack.of[i] = (T)((float)pack.of[i] * scale * (float)w.of[i]);
        ((Pack<T>*)(y + (size_t)blockIdx.x * D))[p] = pack;
    }
}

// -------------------------------------------------------------------------------------------------------- backward
// With s = 1 / sqrt(mean(x^2) + eps), u = s x and du = dy * weight:
//     dx = s (du - u mean(du u)),   dweight = the sum of dy * u over the rows          dy (rows, D) -> dx (rows, D)
// dweight (D) is always float. It is summed without atomics, so that two runs agree bit for bit.

// Version 1: a warp for each row of dx, then a thread for each column of dweight. The second kernel reads x and dy
// again, and D threads are too few: 4096 columns are 16 blocks, where a GPU holds a thousand.
template<typename T>
__global__ void rms_norm_backward_v1(const T* dy, const T* x, const T* weight, T* dx, float* scales, int rows, int D,
                                     float eps) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    dy += (size_t)row * D, x += (size_t)row * D, dx += (size_t)row * D;
    float squares = 0, product = 0;
    for (int d = lane; d < D; d += 32) {
        squares += (float)x[d] * (float)x[d];
        product += (float)dy[d] * (float)weight[d] * (float)x[d];
    }
    float scale = rsqrtf(warp_sum(squares) / D + eps), mean = warp_sum(product) * scale / D;
    for (int d = lane; d < D; d += 32)
        dx[d] = (T)(scale * ((float)dy[d] * (float)weight[d] - scale * (float)x[d] * mean));
    if (lane == 0) scales[row] = scale;
}

template<typename T>
__global__ void rms_norm_dweight_v1(const T* dy, const T* x, const float* scales, float* dweight, int rows, int D) {
    int d = blockIdx.x * blockDim.x + threadIdx.x;
    if (d >= D) return;
    float sum = 0;
    for (size_t row = 0; row < rows; row++) sum += (float)dy[row * D + d] * (float)x[row * D + d] * scales[row];
    dweight[d] = sum;
}

// Version 2: x and dy are read once from memory (and again from the L1 cache). A block takes every gridDim.x-th row and
// keeps its own sum of dweight in shared memory, D floats, where each thread adds to columns that only it touches.
// column_sum.cu adds up the blocks' sums, partial (gridDim.x, D).
template<typename T>
__global__ void rms_norm_backward_v2(const T* dy, const T* x, const T* weight, T* dx, float* partial, int rows, int D,
                                     float eps) {
    extern __shared__ float dweight[];
    for (int d = threadIdx.x; d < D; d += blockDim.x) dweight[d] = 0;
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *dy_row = dy + row * D, *x_row = x + row * D;
        float squares = 0, product = 0;
        for (int d = threadIdx.x; d < D; d += blockDim.x) {
            squares += (float)x_row[d] * (float)x_row[d];
            product += (float)dy_row[d] * (float)weight[d] * (float)x_row[d];
        }
        float scale = rsqrtf(block_sum(squares) / D + eps), mean = block_sum(product) * scale / D;
        for (int d = threadIdx.x; d < D; d += blockDim.x) {
            float u = scale * (float)x_row[d];
            dx[row * D + d] = (T)(scale * ((float)dy_row[d] * (float)weight[d] - u * mean));
            dweight[d] += (float)dy_row[d] * u;
        }
    }
    for (int d = threadIdx.x; d < D; d += blockDim.x) partial[(size_t)blockIdx.x * D + d] = dweight[d];
}
