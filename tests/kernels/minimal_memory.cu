// Kernels of which each uses a memory in its own way: see test_kernels_minimal.py.
__constant__ float c[4];
__constant__ float given[4] = {1, 2, 3, 4};
extern __shared__ float dynamic[];

__global__ void constant(float* y) { y[threadIdx.x] = c[threadIdx.x]; }
__global__ void constant_given(float* y) { y[threadIdx.x] = given[threadIdx.x]; }

__global__ void static_64k(float* y) {
    __shared__ float s[16384];
    s[threadIdx.x] = 1;
    y[threadIdx.x] = s[threadIdx.x];
}

__global__ void static_and_dynamic(float* y) {
    __shared__ float s[10000];
    s[threadIdx.x] = 1, dynamic[threadIdx.x] = 2;
    y[threadIdx.x] = s[threadIdx.x] + dynamic[threadIdx.x];
}
