// Pairs of kernels: bug_X is wrong, and the comment "// <- Error" stands where the checker must say so; fine_X looks
// much like it and is right. All run as 2 blocks of 64 threads with 256 bytes of dynamic shared memory; x and y have
// n = 100 numbers.
#include "ptx.cuh"

// ------------------------------------------------------------------------------------------------- no barrier
__global__ void bug_no_barrier(const float* x, float* y, int n) {
    __shared__ float s[64];
    int i = blockIdx.x * 64 + threadIdx.x;
    s[threadIdx.x] = i < n ? x[i] : 0;                      // <- RaceError
    if (i < n) y[i] = s[63 - threadIdx.x];
}
__global__ void fine_no_barrier(const float* x, float* y, int n) {
    __shared__ float s[64];
    int i = blockIdx.x * 64 + threadIdx.x;
    s[threadIdx.x] = i < n ? x[i] : 0;
    __syncthreads();
    if (i < n) y[i] = s[63 - threadIdx.x];
}

// --------------------------------------------------- the tile of the next round overwrites what others still read
__global__ void bug_tile_overwritten(const float* x, float* y, int n) {
    __shared__ float tile[64];
    float sum = 0;
    for (int start = 0; start < n; start += 64) {
        int i = start + threadIdx.x;
        tile[threadIdx.x] = i < n ? x[i] : 0;
        __syncthreads();
        for (int k = 0; k < 64; k++) sum += tile[k];        // <- RaceError
    }
    if (blockIdx.x == 0) y[threadIdx.x] = sum;
}
__global__ void fine_tile_overwritten(const float* x, float* y, int n) {
    __shared__ float tile[64];
    float sum = 0;
    for (int start = 0; start < n; start += 64) {
        int i = start + threadIdx.x;
        tile[threadIdx.x] = i < n ? x[i] : 0;
        __syncthreads();
        for (int k = 0; k < 64; k++) sum += tile[k];
        __syncthreads();
    }
    if (blockIdx.x == 0) y[threadIdx.x] = sum;
}

// --------------------------------------------------------- the lanes of a warp are not in step since Volta
__global__ void bug_warp_in_step(const float* x, float* y, int n) {
    __shared__ volatile float s[64];
    int t = threadIdx.x;
    s[t] = x[t];
    __syncthreads();
    if (t < 32) {
        for (int half = 32; half > 0; half /= 2)
            if (t < half) s[t] = s[t] + s[t + half];        // <- RaceError
    }
    if (t == 0 && blockIdx.x == 0) y[0] = s[0];
}
__global__ void fine_warp_in_step(const float* x, float* y, int n) {
    __shared__ volatile float s[64];
    int t = threadIdx.x;
    s[t] = x[t];
    __syncthreads();
    if (t < 32) {
        for (int half = 32; half > 0; half /= 2) {
            if (t < half) s[t] = s[t] + s[t + half];
            __syncwarp();
        }
    }
    if (t == 0 && blockIdx.x == 0) y[0] = s[0];
}

// ------------------------------------------------------------------------ a shuffle orders values, not memory
__global__ void bug_shuffle_as_barrier(const float* x, float* y, int n) {
    __shared__ float s[64];
    int t = threadIdx.x;
    s[t] = x[t];
    __shfl_sync(0xffffffff, t, 0);
    if (blockIdx.x == 0) y[t] = s[t ^ 1];                   // <- RaceError
}
__global__ void fine_shuffle_as_barrier(const float* x, float* y, int n) {
    int t = threadIdx.x;
    float neighbour = __shfl_xor_sync(0xffffffff, x[t], 1);
    if (blockIdx.x == 0) y[t] = neighbour;
}

// ------------------------------------------------------------------------------ two blocks write one place
__global__ void bug_blocks_share_output(const float* x, float* y, int n) {
    y[threadIdx.x] = x[threadIdx.x];                        // <- RaceError
}
__global__ void fine_blocks_share_output(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[threadIdx.x];
}

// ---------------------------------------------------------------------------------- += is a read and a write
__global__ void bug_plain_sum(const float* x, float* y, int n) {
    if (blockIdx.x == 0) y[0] += x[threadIdx.x];            // <- RaceError
}
__global__ void fine_plain_sum(const float* x, float* y, int n) {
    atomicAdd(&y[0], x[threadIdx.x]);
}

// --------------------------------------------------------- atomics are ordered among each other, not with a read
__global__ void bug_counter_read_early(const float* x, float* y, int n) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (x[threadIdx.x] > 0) atomicAdd(&count, 1);           // <- RaceError
    if (threadIdx.x == 0) y[blockIdx.x] = count;
}
__global__ void fine_counter_read_early(const float* x, float* y, int n) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (x[threadIdx.x] > 0) atomicAdd(&count, 1);
    __syncthreads();
    if (threadIdx.x == 0) y[blockIdx.x] = count;
}

// ---------------------------------------------------- the last block reads what the others wrote before a fence
__device__ unsigned finished_bug, finished_fine;
__global__ void bug_no_fence(const float* x, float* y, int n) {
    if (threadIdx.x == 0) {
        y[blockIdx.x] = x[blockIdx.x];
        if (atomicInc(&finished_bug, gridDim.x - 1) == gridDim.x - 1)
            y[2] = y[0] + y[1];                             // <- RaceError
    }
}
__global__ void fine_no_fence(const float* x, float* y, int n) {
    if (threadIdx.x == 0) {
        y[blockIdx.x] = x[blockIdx.x];
        __threadfence();
        if (atomicInc(&finished_fine, gridDim.x - 1) == gridDim.x - 1)
            y[2] = y[0] + y[1];
    }
}

// ------------------------------------------------------------------------ a copy that nobody has waited for
__global__ void bug_copy_not_waited_for(const float* x, float* y, int n) {
    __shared__ __align__(16) float s[64];
    if (threadIdx.x < 16) cp_async16(s + 4 * threadIdx.x, x + 4 * threadIdx.x);
    cp_async_commit();
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = s[threadIdx.x];   // <- RaceError
}
__global__ void fine_copy_not_waited_for(const float* x, float* y, int n) {
    __shared__ __align__(16) float s[64];
    if (threadIdx.x < 16) cp_async16(s + 4 * threadIdx.x, x + 4 * threadIdx.x);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = s[threadIdx.x];
}

// ------------------------------------------------------------------------------------- the grid is rounded up
__global__ void bug_beyond_the_end(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i];                                            // <- OutOfBoundsError
}
__global__ void fine_beyond_the_end(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];
}

// -------------------------------------------------------------------------------------------- one to the left
__global__ void bug_left_neighbour(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] - x[i - 1];                      // <- OutOfBoundsError
}
__global__ void fine_left_neighbour(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = i ? x[i] - x[i - 1] : 0;
}

// -------------------------------------------------------------------------------- the row's end of a tile
__global__ void bug_tile_too_small(const float* x, float* y, int n) {
    __shared__ float tile[2][32];
    int row = threadIdx.x / 32, column = threadIdx.x % 32;
    tile[row][column + 1] = x[threadIdx.x];                 // <- OutOfBoundsError
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = tile[row][column + 1];
}
__global__ void fine_tile_too_small(const float* x, float* y, int n) {
    __shared__ float tile[2][33];
    int row = threadIdx.x / 32, column = threadIdx.x % 32;
    tile[row][column + 1] = x[threadIdx.x];
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = tile[row][column + 1];
}

// ------------------------------------------------------------------ more dynamic shared memory than was asked for
__global__ void bug_dynamic_too_small(const float* x, float* y, int n) {
    extern __shared__ float dynamic[];
    dynamic[threadIdx.x + 1] = x[threadIdx.x];              // <- OutOfBoundsError
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = dynamic[threadIdx.x + 1];
}
__global__ void fine_dynamic_too_small(const float* x, float* y, int n) {
    extern __shared__ float dynamic[];
    dynamic[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = dynamic[63 - threadIdx.x];
}

// --------------------------------------------------------------------------------- a barrier for some threads only
__global__ void bug_barrier_in_branch(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        y[i] = x[i];
        __syncthreads();                                    // <- BarrierError
    }
    __syncthreads();
}
__global__ void fine_barrier_in_branch(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (n > 0) {
        if (i < n) y[i] = x[i];
        __syncthreads();
    }
    __syncthreads();
}

// ------------------------------------- some threads are gone by then: barriers do not wait for them, shuffles miss them
__global__ void bug_early_return(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    y[i] = __shfl_xor_sync(0xffffffff, x[i], 16);           // <- BarrierError
}
__global__ void fine_early_return(const float* x, float* y, int n) {
    __shared__ float s[64];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    s[threadIdx.x] = x[i];
    __syncthreads();
    y[i] = s[0] + __shfl_sync(0xffffffff, x[i], 0);
}

// ------------------------------------------------------------------------------------ two different barriers
__global__ void bug_two_barriers(const float* x, float* y, int n) {
    if (threadIdx.x < 32)
        __syncthreads();                                    // <- BarrierError
    else
        __syncthreads();
}
__global__ void fine_two_barriers(const float* x, float* y, int n) {
    if (blockIdx.x == 0)
        __syncthreads();
    else
        __syncthreads();
}

// ------------------------------------------------------------------------- the full mask within a branch: deadlock
__global__ void bug_full_mask_in_branch(const float* x, float* y, int n) {
    float v = x[threadIdx.x];
    if (threadIdx.x % 32 < 16)
        v += __shfl_xor_sync(0xffffffff, v, 1);             // <- BarrierError
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = v;
}
__global__ void fine_full_mask_in_branch(const float* x, float* y, int n) {
    float v = x[threadIdx.x];
    if (threadIdx.x % 32 < 16)
        v += __shfl_xor_sync(0x0000ffff, v, 1);
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = v;
}

// ------------------------------------------------------------------------------- a lane that its mask leaves out
__global__ void bug_lane_not_in_mask(const float* x, float* y, int n) {
    float v = __shfl_sync(0x0000ffff, x[threadIdx.x], 0);   // <- BarrierError
    if (blockIdx.x == 0) y[threadIdx.x] = v;
}
__global__ void fine_lane_not_in_mask(const float* x, float* y, int n) {
    unsigned mask = threadIdx.x % 32 < 16 ? 0x0000ffff : 0xffff0000;
    float v = __shfl_sync(mask, x[threadIdx.x], 0, 16);
    if (blockIdx.x == 0) y[threadIdx.x] = v;
}

// ------------------------------------------------------------------------------ waiting for another block: for ever
__device__ unsigned arrived_bug, arrived_fine;
__global__ void bug_wait_for_grid(const float* x, float* y, int n) {
    if (threadIdx.x == 0) {
        atomicAdd(&arrived_bug, 1);
        while (atomicAdd(&arrived_bug, 0) < gridDim.x) {}   // <- BarrierError
    }
}
__global__ void fine_wait_for_grid(const float* x, float* y, int n) {      // but for its block a thread may wait
    __shared__ unsigned arrived;
    if (threadIdx.x == 0) arrived = 0;
    __syncthreads();
    atomicAdd(&arrived, 1);
    while (atomicAdd(&arrived, 0) < blockDim.x) {}
}

// ---------------------------------------------------------------------------------- shared memory nobody has written
__global__ void bug_never_written(const float* x, float* y, int n) {
    __shared__ float s[64];
    if (threadIdx.x < 63) s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = s[threadIdx.x];   // <- UninitializedError
}
__global__ void fine_never_written(const float* x, float* y, int n) {
    __shared__ float s[64];
    s[threadIdx.x] = threadIdx.x < 63 ? x[threadIdx.x] : 0;
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = s[threadIdx.x];
}

// --------------------------------------------------------------- 16 bytes from an address that is no multiple of 16
__global__ void bug_misaligned(const float* x, float* y, int n) {
    int i = 4 * threadIdx.x + 1;
    if (i + 3 < n && blockIdx.x == 0) {
        float4 v = *(const float4*)(x + i);                 // <- AlignmentError
        y[threadIdx.x] = v.x + v.w;
    }
}
__global__ void fine_misaligned(const float* x, float* y, int n) {
    int i = 4 * threadIdx.x;
    if (i + 3 < n && blockIdx.x == 0) {
        float4 v = *(const float4*)(x + i);
        y[threadIdx.x] = v.x + v.w;
    }
}

// ----------------------------------------------------------------------------- a mistake that a GPU does not notice
__global__ void bug_divided_by_zero(const float* x, float* y, int n) {
    if (blockIdx.x == 0) y[threadIdx.x] = n / int(threadIdx.x);     // <- KernelError
}
__global__ void fine_divided_by_zero(const float* x, float* y, int n) {
    if (blockIdx.x == 0) y[threadIdx.x] = n / int(threadIdx.x + 1);
}
