// A residual connection: y = x + x2, n numbers each. T is float, half or __nv_bfloat16, which is added in float and rounded
// once.
#include "common.cuh"

// 16 bytes per load, as in swiglu.cu; the last numbers are done one by one.
template<typename T>
__global__ void residual(const T* x, const T* x2, T* y, size_t n) {
    constexpr int N = 16 / sizeof(T);
    size_t p = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (p < n / N) {
        Pack<T> a = ((const Pack<T>*)x)[p], b = ((const Pack<T>*)x2)[p];
        for (int i = 0; i < N; i++) a.of[i] = (T)((float)a.of[i] + (float)b.of[i]);
        ((Pack<T>*)y)[p] = a;
    }
    size_t i = n / N * N + p;
    if (i < n) y[i] = (T)((float)x[i] + (float)x2[i]);
}
