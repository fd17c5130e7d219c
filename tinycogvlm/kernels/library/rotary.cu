// Rotary positions: (x_i, x_{i + d/2}) is rotated            x (B, H, T, d), cos and sin (B, T, d/2) -> y (B, H, T, d)
// Su et al. 2021 (arXiv 2104.09864), in the half-split form of GPT-NeoX and LLaMA: the first half of a head pairs with
// the second. Its gradient rotates dy back: the same kernel with -sin. T is float, half or __nv_bfloat16; so is C, the
// type of cos and sin. x may lie where a product left it: the next token of a head is x_next numbers further, the next
// head x_head, the next row of the batch x_row.
#include "common.cuh"

// Version 1: a thread for each number of y. Each pair is read twice, by the threads of its two halves.
template<typename T, typename C>
__global__ void rotary_v1(const T* x, const C* cos, const C* sin, T* y, int B, int H, int length, int d, int x_row,
                          int x_head, int x_next) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (size_t)B * H * length * d) return;
    int column = i % d, t = i / d % length, h = i / d / length % H, b = i / d / length / H, half = d / 2;
    size_t angle = ((size_t)b * length + t) * half + column % half;
    float c = cos[angle], s = sin[angle];
    x += (size_t)b * x_row + (size_t)h * x_head + (size_t)t * x_next + column;
    if (column < half) y[i] = (T)((float)x[0] * c - (float)x[half] * s);
    else y[i] = (T)((float)x[0] * c + (float)x[-half] * s);
}

// Version 2: a thread for each pair: x, cos and sin are read once, without a branch, for half the index arithmetic.
template<typename T, typename C>
__global__ void rotary_v2(const T* x, const C* cos, const C* sin, T* y, int B, int H, int length, int d, int x_row,
                          int x_head, int x_next) {
    int half = d / 2;
    size_t pair = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (pair >= (size_t)B * H * length * half) return;
    int column = pair % half, t = pair / half % length, h = pair / half / length % H, b = pair / half / length / H;
    size_t i = pair / half * d + column, angle = ((size_t)b * length + t) * half + column;
    x += (size_t)b * x_row + (size_t)h * x_head + (size_t)t * x_next + column;
    float first = x[0], second = x[half], c = cos[angle], s = sin[angle];
    y[i] = (T)(first * c - second * s);
    y[i + half] = (T)(second * c + first * s);
}

// k and v (B, G, length, d), in strides as x above, to the places from `start` on of a cache, keys and values
// (B, G, capacity, d). N is what a thread copies: a number, or a Pack where rows are whole ones; all sizes count N's.
template<typename N>
__global__ void append(const N* k, int k_row, int k_head, int k_next, const N* v, int v_row, int v_head, int v_next,
                       N* keys, N* values, int B, int G, int length, int d, int start, int capacity) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (size_t)B * G * length * d) return;
    int column = i % d, t = i / d % length, g = i / d / length % G, b = i / d / length / G;
    size_t to = (((size_t)b * G + g) * capacity + start + t) * d + column;
    keys[to] = k[(size_t)b * k_row + (size_t)g * k_head + (size_t)t * k_next + column];
    values[to] = v[(size_t)b * v_row + (size_t)g * v_head + (size_t)t * v_next + column];
}
