// SwiGLU: y = silu(gate) * up = gate / (1 + exp(-gate)) * up                   n numbers each
// Shazeer 2020 (arXiv 2002.05202). T is float, half or __nv_bfloat16.
#include "common.cuh"

// exp(-gate) = infinity is right: gate / infinity = 0.
__device__ float silu(float x) { return x / (1 + expf(-x)); }

// Version 1: a thread for each number.
template<typename T>
__global__ void swiglu_v1(const T* gate, const T* up, T* y, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = (T)(silu(gate[i]) * (float)up[i]);
}

// Version 2: 16 bytes per load. The same bytes are moved by an eighth of the instructions (for half): loads of 2 bytes
// per lane have too few bytes in flight to use all of the memory's bandwidth. The last numbers are done one by one.
template<typename T>
__global__ void swiglu_v2(const T* gate, const T* up, T* y, size_t n) {
    constexpr int N = 16 / sizeof(T);
    size_t p = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (p < n / N) {
        Pack<T> g = ((const Pack<T>*)gate)[p], u = ((const Pack<T>*)up)[p];
        for (int i = 0; i < N; i++) g.of[i] = (T)(silu(g.of[i]) * (float)u.of[i]);
        ((Pack<T>*)y)[p] = g;
    }
    size_t i = n / N * N + p;
    if (i < n) y[i] = (T)(silu(gate[i]) * (float)up[i]);
}

// -------------------------------------------------------------------------------------------------------- backward
// With s = 1 / (1 + exp(-gate)):   dgate = dy up s (1 + gate (1 - s)),   dup = dy gate s
__device__ float2 swiglu_slope(float dy, float gate, float up) {
    float s = 1 / (1 + expf(-gate));
    return {dy * up * s * (1 + gate * (1 - s)), dy * gate * s};
}

// Version 1: a thread for each number. One kernel for both gradients, where one for each would read dy and gate twice.
template<typename T>
__global__ void swiglu_backward_v1(const T* dy, const T* gate, const T* up, T* dgate, T* dup, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float2 slope = swiglu_slope(dy[i], gate[i], up[i]);
    dgate[i] = (T)slope.x, dup[i] = (T)slope.y;
}

// Version 2: 16 bytes per load.
template<typename T>
__global__ void swiglu_backward_v2(const T* dy, const T* gate, const T* up, T* dgate, T* dup, size_t n) {
    constexpr int N = 16 / sizeof(T);
    size_t p = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (p < n / N) {
        Pack<T> d = ((const Pack<T>*)dy)[p], g = ((const Pack<T>*)gate)[p], u = ((const Pack<T>*)up)[p];
        for (int i = 0; i < N; i++) {
            float2 slope = swiglu_slope(d.of[i], g.of[i], u.of[i]);
            g.of[i] = (T)slope.x, u.of[i] = (T)slope.y;
        }
        ((Pack<T>*)dgate)[p] = g, ((Pack<T>*)dup)[p] = u;
    }
    size_t i = n / N * N + p;
    if (i >= n) return;
    float2 slope = swiglu_slope(dy[i], gate[i], up[i]);
    dgate[i] = (T)slope.x, dup[i] = (T)slope.y;
}
