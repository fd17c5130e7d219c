// GELU: y = x Phi(x), Phi the normal distribution function (the exact form)    n numbers each
// Hendrycks & Gimpel 2016 (arXiv 1606.08415). T is float, half or __nv_bfloat16.
#include "common.cuh"

// erfc keeps the digits of the lower tail, where 1 + erf would cancel.
__device__ float gelu(float x) { return 0.5f * x * erfcf(-0.70710678118654752f * x); }

// Version 1: a thread for each number.
template<typename T>
__global__ void gelu_v1(const T* x, T* y, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = (T)gelu(x[i]);
}

// Version 2: 16 bytes per load, as in swiglu.cu.
template<typename T>
__global__ void gelu_v2(const T* x, T* y, size_t n) {
    constexpr int N = 16 / sizeof(T);
    size_t p = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (p < n / N) {
        Pack<T> pack = ((const Pack<T>*)x)[p];
        for (int i = 0; i < N; i++) pack.of[i] = (T)gelu(pack.of[i]);
        ((Pack<T>*)y)[p] = pack;
    }
    size_t i = n / N * N + p;
    if (i < n) y[i] = (T)gelu(x[i]);
}

// -------------------------------------------------------------------------------------------------------- backward
// dx = dy (Phi(x) + x phi(x)), phi the normal density
__device__ float gelu_slope(float dy, float x) {
    return dy * (0.5f * erfcf(-0.70710678118654752f * x) + x * 0.39894228040143268f * expf(-0.5f * x * x));
}

// Version 1: a thread for each number.
template<typename T>
__global__ void gelu_backward_v1(const T* dy, const T* x, T* dx, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) dx[i] = (T)gelu_slope(dy[i], x[i]);
}

// Version 2: 16 bytes per load.
template<typename T>
__global__ void gelu_backward_v2(const T* dy, const T* x, T* dx, size_t n) {
    constexpr int N = 16 / sizeof(T);
    size_t p = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (p < n / N) {
        Pack<T> d = ((const Pack<T>*)dy)[p], pack = ((const Pack<T>*)x)[p];
        for (int i = 0; i < N; i++) pack.of[i] = (T)gelu_slope(d.of[i], pack.of[i]);
        ((Pack<T>*)dx)[p] = pack;
    }
    size_t i = n / N * N + p;
    if (i < n) dx[i] = (T)gelu_slope(dy[i], x[i]);
}
