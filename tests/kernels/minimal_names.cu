// What stands in many files, and what the kernels do not use or NVRTC does not have: see test_kernels_minimal.py.
#include <cmath>
#include <cuda_fp8.h>
#define CP_ASYNC_WAIT_ALL() asm volatile("cp.async.wait_all;\n" ::)
#define FILL(name, T) __global__ void name(T* y) { y[threadIdx.x] = 1; }
FILL(fill_float, float)
FILL(fill_int, int)

__device__ void unused(float* y) {
    asm volatile("{ .reg .b32 r; \n"
                 "mov.b32 %0, r; }" : "=f"(y[0]));
}

__global__ void largest(float* y) {
    uint n = 3;
    float top = -INFINITY;
    for (uint i = 0; i < n; i++) top = fmaxf(top, y[i]);
    y[0] = top;
}

template<typename T> __global__ void uses_ptx(T* y) {
    y[0] = 1;
    CP_ASYNC_WAIT_ALL();
}
