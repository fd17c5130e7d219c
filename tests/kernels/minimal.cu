// Kernels of a few lines, each with one thing that a machine for CUDA must get right: see test_kernels_minimal.py.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_fp16.h>
#include <new>

namespace cg = cooperative_groups;

template<int ROWS, int COLUMNS>
__global__ void __launch_bounds__((ROWS * COLUMNS) / (1), 1) tile(float* y) { y[threadIdx.x] = threadIdx.x; }

__global__ void __launch_bounds__(128) bounded(float* y) { y[threadIdx.x] = 1; }

__device__ __forceinline__ float square(float x) { return x * x; }
template<class F> __device__ float twice(F f, float x) {
    float y = x;
    for (int i = 0; i < 1; i++) y = f(y);
    return y;
}
__global__ void function_as_argument(float* y) { y[threadIdx.x] = twice(square, threadIdx.x); }

__global__ void classifies(const float* x, int* y) {
    y[0] = isnan(x[0]), y[1] = isinf(x[1]), y[2] = !isfinite(x[2]);
}

__global__ void aligned(float* y) {
    __shared__ alignas(16) float tile[4];
    __shared__ alignas(float4) float other[4];
    tile[0] = other[1] = 1;
    y[0] = tile[0], y[1] = other[1], y[2] = (size_t)other % 16 + (size_t)tile % 16;
}

__global__ void returns_early(const float* x, float* y, int n) {
    __shared__ float s[32];
    int i = threadIdx.x;
    if (i >= n) return;
    s[i] = x[i];
    __syncthreads();
    y[i] = s[n - 1 - i] + __syncthreads_count(1);
}

__global__ void same_value(const float* x, float* y, float by_lane) {
    __shared__ float of_warp[2];
    float sum = x[threadIdx.x];
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
    of_warp[threadIdx.x / 32] = sum + by_lane * threadIdx.x;        // all 32 lanes
    __syncthreads();
    y[threadIdx.x] = of_warp[0] + of_warp[1];
}

__global__ void from_outside_of_the_mask(const int* x, int* y) {
    int v = x[threadIdx.x];
    if (threadIdx.x < 8)
        for (int d = 16; d > 0; d /= 2)
            v += __shfl_down_sync(0xff, v, d);
    y[threadIdx.x] = v;
}
__global__ void sum_of_eight(const int* x, int* y) {        // the upper lanes take what is not there, and nobody uses it
    int v = x[threadIdx.x];
    if (threadIdx.x < 8)
        for (int d = 4; d > 0; d /= 2) v += __shfl_down_sync(0xff, v, d);
    y[threadIdx.x] = v;
}
__global__ void from_beyond_the_block(const int* x, int* y) {
    int v = x[threadIdx.x];
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_down_sync(0xffffffff, v, d);
    y[threadIdx.x] = v;
}
__global__ void from_those_that_returned(const int* x, int* y) {
    if (threadIdx.x >= 16) return;
    y[threadIdx.x] = __shfl_xor_sync(0xffffffff, x[threadIdx.x], 16);
}

__global__ void third_reader(const float* x, float* y) {
    __shared__ float s[1];
    if (threadIdx.x == 0) s[0] = x[0];
    __syncthreads();
    y[threadIdx.x] = s[0];
    __syncwarp();
    if (threadIdx.x == 63) s[0] = 5;
}
__global__ void all_have_read(const float* x, float* y) {
    __shared__ float s[1];
    if (threadIdx.x == 0) s[0] = x[0];
    __syncthreads();
    if (threadIdx.x < 32) y[threadIdx.x] = s[0];
    __syncwarp();
    if (threadIdx.x == 31) s[0] = 5;
}

__global__ void volatile_spin(int* y) {
    __shared__ volatile int flag;
    if (threadIdx.x == 0) flag = 0;
    __syncthreads();
    if (threadIdx.x < 32) {
        while (flag == 0);
        y[threadIdx.x] = 1;
    }
    else if (threadIdx.x == 32) flag = 1;
}
__global__ void long_loop(float* y) {                       // works as long as a spin may take to be noticed
    float v = y[0];
    for (long i = 0; i < 100000000; i++) v = v * 0.999f + 1;
    y[0] = v;
}

struct Base { __device__ virtual int get() = 0; };
struct Seven : Base { int v; __device__ Seven() : v(7) {} __device__ int get() override { return v; } };
__global__ void virtual_in_shared(int* y) {
    __shared__ __align__(8) unsigned char room[sizeof(Seven)];
    __shared__ Base* base;
    if (threadIdx.x == 0) base = new (room) Seven;
    __syncthreads();
    y[threadIdx.x] = base->get();
}

__global__ void words(unsigned* a, float* f) {
    ptrdiff_t i = threadIdx.x;
    __builtin_assume(i >= 0);
    a[i] = umin(a[i], 3u) + umax(a[i], 2u);
    f[i] = __fadd_rz(f[i], 1.f);
    half h = __float2half(f[i]);
    h++;
    f[i] = h;
}

__global__ void local_as_vector(half* x, half* y) {
    half other[3], mine[4];
    other[threadIdx.x % 3] = x[threadIdx.x];
    *(float2*)&mine[0] = *(float2*)&x[4 * threadIdx.x];
    for (int i = 0; i < 4; i++)
        y[4 * threadIdx.x + i] = __hadd(mine[i], __hsub(other[threadIdx.x % 3], other[threadIdx.x % 3]));
}

__global__ void groups(float* y) {
    cg::thread_block block = cg::this_thread_block();
    __shared__ float s[64];
    s[block.thread_rank()] = block.thread_rank();
    cg::sync(block);
    y[threadIdx.x] = s[63 - threadIdx.x];
}
__global__ void sums_of_groups(int* y) {
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    y[threadIdx.x] = cg::reduce(tile, (int)threadIdx.x, cg::plus<int>()) + 1000 * tile.shfl(tile.thread_rank(), 3);
    if (threadIdx.x % 3 == 0) {
        auto some = cg::coalesced_threads();
        y[threadIdx.x] += 100000 * cg::reduce(some, (int)some.thread_rank(), cg::greater<int>());
    }
}

__global__ void local_never_set(const float* x, float* y) {
    float sum;
    for (int i = 0; i < 4; i++) sum += x[i];
    y[0] = sum;
}

__global__ void mask_names_lanes_that_leave(const float* x, float* y) {
    float v = x[threadIdx.x];
    if (threadIdx.x < 16) v += __shfl_xor_sync(0xffffffff, v, 8);
    y[threadIdx.x] = v;
}
__global__ void mask_names_lanes_that_returned(const float* x, float* y) {
    if (threadIdx.x >= 16) return;
    y[threadIdx.x] = x[threadIdx.x] + __shfl_xor_sync(0xffffffff, x[threadIdx.x], 8);
}
