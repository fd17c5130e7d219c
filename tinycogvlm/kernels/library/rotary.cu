// Rotary positions: (x_i, x_{i + d/2}) is rotated            x (B, H, T, d), cos and sin (B, T, d/2) -> y (B, H, T, d)
// Su et al. 2021 (arXiv 2104.09864), in the half-split form of GPT-NeoX and LLaMA: the first half of a head pairs with
// the second. Its gradient rotates dy back: the same kernel with -sin. T is float, half or __nv_bfloat16.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Version 1: a thread for each number of y. Each pair is read twice, by the threads of its two halves.
template<typename T>
__global__ void rotary_v1(const T* x, const float* cos, const float* sin, T* y, int B, int H, int length, int d) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (size_t)B * H * length * d) return;
    int column = i % d, t = i / d % length, b = i / d / length / H, half = d / 2;
    size_t angle = ((size_t)b * length + t) * half + column % half;
    if (column < half) y[i] = (T)((float)x[i] * cos[angle] - (float)x[i + half] * sin[angle]);
    else y[i] = (T)((float)x[i] * cos[angle] + (float)x[i - half] * sin[angle]);
}

// Version 2: a thread for each pair: x, cos and sin are read once, without a branch, for half the index arithmetic.
template<typename T>
__global__ void rotary_v2(const T* x, const float* cos, const float* sin, T* y, int B, int H, int length, int d) {
    int half = d / 2;
    size_t pair = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (pair >= (size_t)B * H * length * half) return;
    int column = pair % half, t = pair / half % length, b = pair / half / length / H;
    size_t i = pair / half * d + column, angle = ((size_t)b * length + t) * half + column;
    float first = x[i], second = x[i + half], c = cos[angle], s = sin[angle];
    y[i] = (T)(first * c - second * s);
    y[i + half] = (T)(second * c + first * s);
}
