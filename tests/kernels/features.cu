// What CUDA C offers, a kernel for each; test_kernels_runner.py knows what they must give.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "ptx.cuh"

__constant__ float table[4] = {1, 2, 3, 4};

extern "C" __global__ void index(int* y) {                  // a function of the C library has this name, too
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    int threads = blockDim.x * blockDim.y * blockDim.z;
    y[block * threads + thread] = 1000 * block + 100 * threadIdx.z + 10 * threadIdx.y + threadIdx.x;
}

__global__ void __launch_bounds__(64) barriers(const int* x, int* y) {
    int t = threadIdx.x;
    int count = __syncthreads_count(x[t] > 2), all = __syncthreads_and(x[t] > 2), any = __syncthreads_or(x[t] > 2);
    y[t] = 100 * count + 10 * (all != 0) + (any != 0);
}

__global__ void shuffles(const float* x, float* y) {
    int t = threadIdx.x;
    float v = x[t];
    y[t] = __shfl_sync(0xffffffff, v, 5);
    y[32 + t] = __shfl_sync(0xffffffff, v, t + 1, 8);
    y[64 + t] = __shfl_up_sync(0xffffffff, v, 3);
    y[96 + t] = __shfl_down_sync(0xffffffff, v, 2, 16);
    y[128 + t] = __shfl_xor_sync(0xffffffff, v, 9);
    y[160 + t] = t % 2 ? __shfl_sync(0xaaaaaaaa, v, 31) : __shfl_sync(0x55555555, v, 30);
}

__global__ void votes(const int* x, unsigned* y) {
    int t = threadIdx.x, all_same;
    y[t] = __ballot_sync(0xffffffff, x[t] == 1);
    y[32 + t] = __any_sync(0xffffffff, x[t] == 3) + 10 * (__any_sync(0xffffffff, x[t] == 9) != 0);
    y[64 + t] = __all_sync(0xffffffff, x[t] < 9) + 10 * __all_sync(0xffffffff, x[t] == 1);
    y[96 + t] = __match_any_sync(0xffffffff, x[t]);
    y[128 + t] = __match_all_sync(0xffffffff, x[t], &all_same) + all_same;
    y[160 + t] = __reduce_add_sync(0xffffffff, x[t]) + 1000 * __reduce_max_sync(0xffffffff, x[t]) +
                 10000 * __reduce_min_sync(0xffffffff, x[t]) + 100000 * __reduce_or_sync(0xffffffff, (unsigned)x[t]);
    y[192 + t] = x[t] == 1 ? __activemask() : 0;
}

__global__ void atomics(float* sum, int* y, unsigned long long* big) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(sum, 0.5f);
    atomicAdd(&y[0], 1);
    atomicSub(&y[1], 2);
    atomicMax(&y[2], t);
    atomicMin(&y[3], -t);
    atomicOr(&y[4], 1 << (t % 5));
    atomicAnd(&y[5], ~(1 << (t % 5)));
    atomicXor(&y[6], t);
    atomicInc((unsigned*)&y[7], 9);
    int old = y[8], seen;
    do {                                                    // what an atomicAdd is made of
        seen = old;
        old = atomicCAS(&y[8], seen, seen + t);
    } while (old != seen);
    if (t == 0) atomicExch(&y[9], 7);
    atomicAdd(big, 1ull << 33);
}

__global__ void vectors(const float4* x, float4* y, const int2* a, short4* b) {
    int t = threadIdx.x;
    float4 v = x[t];
    y[t] = make_float4(v.w, v.z, v.y, v.x);
    b[t] = make_short4(a[t].x, a[t].y, sizeof(float3), alignof(double2));
}

__global__ void half_arithmetic(const half* a, const half* b, const half* c, half* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        y[i] = a[i] + b[i], y[n + i] = __hsub(a[i], b[i]);
        y[2 * n + i] = a[i] * b[i], y[3 * n + i] = __hdiv(a[i], b[i]);
        y[4 * n + i] = __hfma(a[i], b[i], c[i]), y[5 * n + i] = hsqrt(__habs(a[i]));
        half2 pair = __hadd2(__halves2half2(a[i], b[i]), __float2half2_rn(1.f));
        y[6 * n + i] = __low2half(pair), y[7 * n + i] = __high2half(pair);
    }
}
__global__ void bfloat_arithmetic(const __nv_bfloat16* a, const __nv_bfloat16* b, const __nv_bfloat16* c,
                                  __nv_bfloat16* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        y[i] = a[i] + b[i], y[n + i] = __hsub(a[i], b[i]);
        y[2 * n + i] = a[i] * b[i], y[3 * n + i] = __hdiv(a[i], b[i]);
        y[4 * n + i] = __hfma(a[i], b[i], c[i]);
        __nv_bfloat162 pair = __hmul2(__halves2bfloat162(a[i], b[i]), __float2bfloat162_rn(3.f));
        y[5 * n + i] = __low2bfloat16(pair), y[6 * n + i] = __high2bfloat16(pair);
    }
}
__global__ void to_half(const double* x, half* from_double, half* from_float, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) from_double[i] = x[i], from_float[i] = __float2half((float)x[i]);
}
__global__ void from_half(const half* x, float* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = __half2float(x[i]);
}

__global__ void intrinsics(float* f, int* i) {
    float nan = __int_as_float(0x7fffffff);
    f[0] = __ldg(&table[2]), f[1] = rsqrtf(4), f[2] = __expf(0), f[3] = fmaxf(1, nan), f[4] = __saturatef(1.5f);
    f[5] = __fdividef(1, 4), f[6] = exp2f(3), f[7] = __int_as_float(0x40400000), f[8] = max(1.5f, 2.f);
    f[9] = __frcp_rn(f[8]) - 0.5f;
    i[0] = __popc(0xf0f0), i[1] = __clz(1), i[2] = __ffs(8), i[3] = __brev(1) >> 31, i[4] = __float2int_rn(2.5f);
    i[5] = __float2int_rz(-2.5f), i[6] = __float2int_rd(-2.5f), i[7] = __float2int_rn(1e20f);
    i[8] = __float2int_rn(nan), i[9] = __mulhi(1 << 30, 8), i[10] = __byte_perm(0x33221100, 0x77665544, 0x7531);
    i[11] = __dp4a(0x01020304, 0x01010101, 5), i[12] = min(3, -2), i[13] = warpSize;
    i[14] = __funnelshift_l(0x80000000, 1, 1), i[15] = __CUDA_ARCH__ >= 800;
}

template<typename T, int N> struct Sum {
    static __device__ __forceinline__ T of(const T* x) { return x[N - 1] + Sum<T, N - 1>::of(x); }
};
template<typename T> struct Sum<T, 0> {
    static __device__ __forceinline__ T of(const T*) { return 0; }
};
template<typename T, int N> __global__ void sum_of(const T* x, T* y) {
    __shared__ T s[N];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) *y = Sum<T, N>::of(s);
}

__global__ void two_dynamic_arrays(const float* x, float* y, int n) {
    extern __shared__ __align__(16) unsigned char memory[];
    float* first = (float*)memory;
    float* second = first + n;
    first[threadIdx.x] = x[threadIdx.x], second[threadIdx.x] = 2 * x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = first[n - 1 - threadIdx.x] + second[threadIdx.x];
}

__global__ void fragments(const half* a, const half* b, float* d, unsigned* registers) {    // a (16, 16), b (8, 16)
    __shared__ __align__(16) half a_tile[16][16], b_tile[8][16];
    int lane = threadIdx.x;
    cp_async16(&a_tile[lane / 2][lane % 2 * 8], a + 8 * lane);
    if (lane < 16) cp_async16(&b_tile[lane / 2][lane % 2 * 8], b + 8 * lane);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    unsigned fa[4], fb[2], turned[2];
    float sum[4] = {100, 0, 0, 0};
    ldmatrix_x4(fa, &a_tile[lane % 16][lane / 16 * 8]);
    ldmatrix_x2(fb, &b_tile[lane % 8][lane / 8 % 2 * 8]);
    ldmatrix_x2_trans(turned, &b_tile[lane % 8][lane / 8 % 2 * 8]);
    mma_f16(sum, fa, fb);
    for (int i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
    registers[lane] = fb[1], registers[32 + lane] = turned[0];
}

__global__ void pipeline(const float* x, float* y, int n) {        // two groups under way, one waited for
    __shared__ __align__(16) float s[2][4];
    cp_async16(s[0], x);
    cp_async_commit();
    cp_async16(s[1], x + 4, n > 4);
    cp_async_commit();
    cp_async_wait<1>();
    y[0] = s[0][3], y[1] = s[1][3];
    cp_async_wait<0>();
    y[2] = s[1][3];
}

__global__ void speaks(int n) {
    if (threadIdx.x == 0) printf("n is %d\n", n);
    assert(n < 5);
}

__global__ void tiles(const float* x, float* y) {           // 32 x 32 transposed, without and with a 33rd column
    __shared__ float tile[32][32], padded[32][33];
    int column = threadIdx.x % 32;
    for (int row = 0; row < 32; row++) tile[row][column] = padded[row][column] = x[32 * row + column];
    __syncthreads();
    for (int row = 0; row < 32; row++)
        y[32 * row + column] =
            tile[column][row] +
            padded[column][row];
    for (int row = 0; row < 32; row++)
        y[1024 + 32 * column + row] = 0;
}
