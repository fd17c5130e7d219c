// Sums of columns: y[d] = sum over r of x[rows[r], d]        x (any, D), rows (count) or null for all -> y (D), float
// The gradient of a bias, and the second half of the norms' weight gradients: only the backward pass needs it, which
// the package's Engine does not have (see backward.py). T is float, half or __nv_bfloat16.
//
// Without atomics each sum has one order, and two runs agree bit for bit. Block (i, j) of the grid sums 32 columns of
// every gridDim.y-th group of 8 rows; if gridDim.y > 1, y is (gridDim.y, D), and the same kernel sums its rows. Entries
// of `rows` below 0 are skipped. Blocks have 32 x 8 threads: the lanes of a warp read neighbours.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

template<typename T>
__global__ void column_sum(const T* x, const int* rows, float* y, int count, int D) {
    __shared__ float partial[8][32];
    int d = blockIdx.x * 32 + threadIdx.x;
    float sum = 0;
    for (int r = blockIdx.y * 8 + threadIdx.y; r < count; r += 8 * gridDim.y) {
        int row = rows ? rows[r] : r;
        if (d < D && row >= 0) sum += (float)x[(size_t)row * D + d];
    }
    partial[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || d >= D) return;
    for (int j = 1; j < 8; j++) sum += partial[j][threadIdx.x];
    y[(size_t)blockIdx.y * D + d] = sum;
}
