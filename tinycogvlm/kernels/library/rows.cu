// Rows of a matrix as numbers of type T: the embeddings of tokens, or a whole matrix dequantised or rounded; and the
// counters of a decoding step. T is float, half or __nv_bfloat16; W one of these, Int8 or Int4.
#include "weights.cuh"

// y[r] = W[ids[r]], or W[r] where ids is null      W (O, I), scales (O, I / 64) -> y (rows, I)
// A block for each row; neighbours write neighbours. The ids are in device memory: in a captured graph they are the
// tokens that the last step chose. The id -1, no token (see sample.cu), reads row 0.
template<typename T, typename W>
__global__ void rows(const typename Weights<W>::Stored* weight, const __nv_bfloat16* scales, const int* ids, T* y,
                     int I) {
    size_t from = (size_t)(ids ? max(ids[blockIdx.x], 0) : blockIdx.x) * I;
    y += (size_t)blockIdx.x * I;
    for (int i = threadIdx.x; i < I; i += blockDim.x) y[i] = (T)Weights<W>::at(weight, scales, from + i);
}

// counters + 1: what one decoding step reads from device memory becomes what the next one reads.
__global__ void advance(int* counters, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) counters[i]++;
}
