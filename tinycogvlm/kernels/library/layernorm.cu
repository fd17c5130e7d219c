// LayerNorm: y = (x - mean) / sqrt(variance + eps) * weight + bias        x (rows, D), weight, bias (D) -> y (rows, D)
// Ba et al. 2016 (arXiv 1607.06450). T is float, half or __nv_bfloat16; sums are in float. residual (rows, D), if it is
// not null, is added: in the vision tower a sublayer's output is normed, then x is added.
//
// The variance is the mean of (x - mean)^2, in a pass of its own: mean(x^2) - mean^2 needs one pass less, and loses all
// digits where the mean is much larger than the deviation.
#include "common.cuh"

// Version 1: a thread for each row; the lanes of a warp read D numbers apart, a sector each.
template<typename T>
__global__ void layer_norm_v1(const T* x, const T* weight, const T* bias, const T* residual, T* y, int rows, int D,
                              float eps) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    size_t first = (size_t)row * D;
    x += first, y += first;
    float sum = 0, squares = 0;
    for (int d = 0; d < D; d++) sum += (float)x[d];
    float mean = sum / D;
    for (int d = 0; d < D; d++) squares += ((float)x[d] - mean) * ((float)x[d] - mean);
    float scale = rsqrtf(squares / D + eps);
    for (int d = 0; d < D; d++) {
        float value = ((float)x[d] - mean) * scale * (float)weight[d] + (float)bias[d];
        y[d] = (T)(value + (residual ? (float)residual[first + d] : 0));
    }
}

// Version 2: a warp for each row: whole sectors, and 32 times as many threads with loads in flight.
template<typename T>
__global__ void layer_norm_v2(const T* x, const T* weight, const T* bias, const T* residual, T* y, int rows, int D,
                              float eps) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;                                // the whole warp
    size_t first = (size_t)row * D;
    x += first, y += first;
    float sum = 0, squares = 0;
    for (int d = lane; d < D; d += 32) sum += (float)x[d];
    float mean = warp_sum(sum) / D;
    for (int d = lane; d < D; d += 32) squares += ((float)x[d] - mean) * ((float)x[d] - mean);
    float scale = rsqrtf(warp_sum(squares) / D + eps);
    for (int d = lane; d < D; d += 32) {
        float value = ((float)x[d] - mean) * scale * (float)weight[d] + (float)bias[d];
        y[d] = (T)(value + (residual ? (float)residual[first + d] : 0));
    }
}

// Version 3: 16 bytes per load, and the row stays in registers between the three passes: x is read once. A lane makes
// PACKS loads: D <= 32 * PACKS * (16 / sizeof(T)), and a multiple of 16 / sizeof(T).
template<typename T, int PACKS>
__global__ void layer_norm_v3(const T* x, const T* weight, const T* bias, const T* residual, T* y, int rows, int D,
                              float eps) {
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
            Pack<T> r = {};
            if (residual) r = ((const Pack<T>*)(residual + (size_t)row * D))[lane + 32 * p];
            for (int i = 0; i < N; i++)
                pack[p].of[i] = (T)(((float)pack[p].of[i] - mean) * scale * (float)w.of[i] + (float)b.of[i] +
                                    (float)r.of[i]);
            out[lane + 32 * p] = pack[p];
        }
}

// -------------------------------------------------------------------------------------------------------- backward
// With s = 1 / sqrt(variance + eps), u = s (x - mean) and du = dy * weight:
//     dx = s (du - mean(du) - u mean(du u)),   dweight = the sum of dy * u over the rows,   dbias = that of dy
// dweight and dbias (D) are always float, summed without atomics, so that two runs agree bit for bit.

// Version 1: a warp for each row of dx, then a thread for each column of dweight and dbias, which reads x and dy again.
template<typename T>
__global__ void layer_norm_backward_v1(const T* dy, const T* x, const T* weight, T* dx, float* means, float* scales,
                                       int rows, int D, float eps) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    dy += (size_t)row * D, x += (size_t)row * D, dx += (size_t)row * D;
    float sum = 0, squares = 0, sum_du = 0, sum_duu = 0;
    for (int d = lane; d < D; d += 32) sum += (float)x[d];
    float mean = warp_sum(sum) / D;
    for (int d = lane; d < D; d += 32) {
        float centred = (float)x[d] - mean, du = (float)dy[d] * (float)weight[d];
        squares += centred * centred, sum_du += du, sum_duu += du * centred;
    }
    float scale = rsqrtf(warp_sum(squares) / D + eps);
    float mean_du = warp_sum(sum_du) / D, mean_duu = warp_sum(sum_duu) * scale / D;
    for (int d = lane; d < D; d += 32) {
        float u = scale * ((float)x[d] - mean);
        dx[d] = (T)(scale * ((float)dy[d] * (float)weight[d] - mean_du - u * mean_duu));
    }
    if (lane == 0) means[row] = mean, scales[row] = scale;
}

template<typename T>
__global__ void layer_norm_dweight_v1(const T* dy, const T* x, const float* means, const float* scales, float* dweight,
                                      float* dbias, int rows, int D) {
    int d = blockIdx.x * blockDim.x + threadIdx.x;
    if (d >= D) return;
    float sum_dweight = 0, sum_dbias = 0;
    for (size_t row = 0; row < rows; row++) {
        float dy_d = dy[row * D + d];
        sum_dweight += dy_d * scales[row] * ((float)x[row * D + d] - means[row]), sum_dbias += dy_d;
    }
    dweight[d] = sum_dweight, dbias[d] = sum_dbias;
}

// Version 2: x and dy are read once from memory (and again from the L1 cache), as in rmsnorm.cu: a block takes every
// gridDim.x-th row and keeps its sums of dweight and dbias in shared memory, 2 D floats; column_sum.cu adds up the
// partial sums (gridDim.x, 2 D).
template<typename T>
__global__ void layer_norm_backward_v2(const T* dy, const T* x, const T* weight, T* dx, float* partial, int rows,
                                       int D, float eps) {
    extern __shared__ float dweight[];
    float* dbias = dweight + D;
    for (int d = threadIdx.x; d < D; d += blockDim.x) dweight[d] = dbias[d] = 0;
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *dy_row = dy + row * D, *x_row = x + row * D;
        float sum = 0, squares = 0, sum_du = 0, sum_duu = 0;
        for (int d = threadIdx.x; d < D; d += blockDim.x) sum += (float)x_row[d];
        float mean = block_sum(sum) / D;
        for (int d = threadIdx.x; d < D; d += blockDim.x) {
            float centred = (float)x_row[d] - mean, du = (float)dy_row[d] * (float)weight[d];
            squares += centred * centred, sum_du += du, sum_duu += du * centred;
        }
        float scale = rsqrtf(block_sum(squares) / D + eps);
        float mean_du = block_sum(sum_du) / D, mean_duu = block_sum(sum_duu) * scale / D;
        for (int d = threadIdx.x; d < D; d += blockDim.x) {
            float dy_d = dy_row[d], u = scale * ((float)x_row[d] - mean);
            dx[row * D + d] = (T)(scale * (dy_d * (float)weight[d] - mean_du - u * mean_duu));
            dweight[d] += dy_d * u, dbias[d] += dy_d;
        }
    }
    partial += (size_t)blockIdx.x * 2 * D;
    for (int d = threadIdx.x; d < D; d += blockDim.x) partial[d] = dweight[d], partial[D + d] = dbias[d];
}
