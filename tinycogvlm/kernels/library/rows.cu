// Rows of a matrix as numbers of type T: the embeddings of tokens, or a whole matrix dequantised or rounded; and the
// counters of a decoding step. T is float, half or __nv_bfloat16; W one of these, Int8 or Int4.
#include "common.cuh"
#include "weights.cuh"

// y[r] = W[ids[r]], or W[r] where ids is null      W (O, I), scales (O, I / 64) -> y (rows, I)
// A block for each row. A thread writes 16 bytes at once, M numbers, and reads their weights, 2 to 32 bytes, at once:
// neighbours read and write neighbours. Rows that are not whole 16 bytes go number by number. The ids are in device
// memory: in a captured graph they are the tokens that the last step chose. The id -1, no token (see sample.cu), reads
// row 0.
template<typename T, typename W>
__global__ void rows(const typename Weights<W>::Stored* weight, const __nv_bfloat16* scales, const int* ids, T* y,
                     int I) {
    size_t from = (size_t)(ids ? max(ids[blockIdx.x], 0) : blockIdx.x) * I;
    y += (size_t)blockIdx.x * I;
    constexpr int N = Weights<W>::N, M = 16 / sizeof(T), BYTES = 16 * M / N;
    struct alignas(BYTES < 16 ? BYTES : 16) Part { unsigned char of[BYTES]; };
    bool whole = I % M == 0 && I % N == 0;
    for (int p = threadIdx.x; whole && p < I / M; p += blockDim.x) {
        uint4 packs[(BYTES + 15) / 16];
        *(Part*)packs = ((const Part*)((const uint4*)weight + from / N))[p];
        float scale = Weights<W>::scale(scales + from / GROUP, p * M / N);
        Pack<T> numbers;
#pragma unroll
        for (int i = 0; i < M; i++) numbers.of[i] = (T)(Weights<W>::of(packs[i / N], i % N) * scale);
        ((Pack<T>*)y)[p] = numbers;
    }
    for (int i = threadIdx.x; !whole && i < I; i += blockDim.x) y[i] = (T)Weights<W>::at(weight, scales, from + i);
}

// counters + 1: what one decoding step reads from device memory becomes what the next one reads.
__global__ void advance(int* counters, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) counters[i]++;
}
