// Cross entropy and its gradient in one kernel, for each row of logits:
//     loss = log(sum(exp(logits))) - logits[label],   dlogits = share * (softmax(logits) - one_hot(label))
//     logits (rows, V), labels and share (rows) -> loss (rows), dlogits (rows, V)
// T is float, half or __nv_bfloat16; sums are in float. share: the row's weight in the mean over all rows, times the
// gradient of that mean. A label of -100 is ignored: its loss and its row of dlogits are 0, its logits are not read.
// Any other label outside 0 ... V - 1 makes its loss NaN: a kernel cannot raise an error, and must not read there.
//
// dlogits may be logits: a thread overwrites only what no other thread still has to read. That saves the largest array
// of a training step. Only training needs this kernel, which the package does in NumPy and CuPy: tests run it.
#include "common.cuh"

constexpr int IGNORED = -100;

template<typename T>
__device__ float logit_of(long long label, const T* logits, int V) {
    return label >= 0 && label < V ? (float)logits[label] : nanf("");
}

// The sum of exp(x - max) over the numbers seen so far, and their max. A number, or another such sum, can be added at
// any time by rescaling, so that one pass over a row is enough (Milakov & Gimelshein 2018, arXiv 1805.02867).
struct Exponentials {
    float max = -3.402823466e38f, sum = 0;                  // finite: two infinities would give NaN
    __device__ void take(float other_max, float other_sum) {
        float larger = fmaxf(max, other_max);
        sum = sum * expf(max - larger) + other_sum * expf(other_max - larger), max = larger;
    }
    __device__ float loss(float logit) const { return logf(sum) - (logit - max); }      // max + log(sum) would round
    __device__ float slope(float x, bool is_label) const { return expf(x - max) / sum - (is_label ? 1 : 0); }
};

// Version 1: a thread for each row, which reads it three times; the lanes of a warp read V numbers apart.
template<typename T>
__global__ void cross_entropy_v1(const T* logits, const long long* labels, const float* share, float* loss, T* dlogits,
                                 int rows, int V) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    logits += (size_t)row * V, dlogits += (size_t)row * V;
    long long label = labels[row];
    if (label == IGNORED) {
        for (int v = 0; v < V; v++) dlogits[v] = (T)0.f;
        loss[row] = 0;
        return;
    }
    Exponentials all;
    for (int v = 0; v < V; v++) all.max = fmaxf(all.max, logits[v]);
    for (int v = 0; v < V; v++) all.sum += expf((float)logits[v] - all.max);
    loss[row] = all.loss(logit_of(label, logits, V));
    for (int v = 0; v < V; v++) dlogits[v] = (T)(share[row] * all.slope(logits[v], v == label));
}

// What all threads of a block have seen, in every thread. blockDim.x must be a multiple of 32.
__device__ Exponentials of_block(Exponentials mine) {
    __shared__ float maxima[32], sums[32];                  // of each warp
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    auto of_warp = [](Exponentials mine) {
        for (int distance = 16; distance > 0; distance /= 2)
            mine.take(__shfl_xor_sync(0xffffffff, mine.max, distance), __shfl_xor_sync(0xffffffff, mine.sum, distance));
        return mine;
    };
    mine = of_warp(mine);
    if (lane == 0) maxima[warp] = mine.max, sums[warp] = mine.sum;
    __syncthreads();
    Exponentials all;
    if (lane < blockDim.x / 32) all.max = maxima[lane], all.sum = sums[lane];
    return of_warp(all);
}

// Version 2: a block for each row. Neighbouring threads read neighbours, and max and sum take one pass: the row is read
// twice, the second time from the L2 cache.
template<typename T>
__global__ void cross_entropy_v2(const T* logits, const long long* labels, const float* share, float* loss, T* dlogits,
                                 int rows, int V) {
    int row = blockIdx.x;
    logits += (size_t)row * V, dlogits += (size_t)row * V;
    long long label = labels[row];
    if (label == IGNORED) {                                 // the whole block
        for (int v = threadIdx.x; v < V; v += blockDim.x) dlogits[v] = (T)0.f;
        if (threadIdx.x == 0) loss[row] = 0;
        return;
    }
    Exponentials mine;
    for (int v = threadIdx.x; v < V; v += blockDim.x) mine.take(logits[v], 1);
    float logit = logit_of(label, logits, V);               // before any thread overwrites it
    Exponentials all = of_block(mine);
    if (threadIdx.x == 0) loss[row] = all.loss(logit);
    for (int v = threadIdx.x; v < V; v += blockDim.x)
        dlogits[v] = (T)(share[row] * all.slope(logits[v], v == label));
}

// Version 3: 16 bytes per load; and one rescaling for each pack, where version 2 has one for each number: 2
// exponentials per number become 1 + 2/8 (for half). V must be a multiple of the numbers in 16 bytes.
template<typename T>
__global__ void cross_entropy_v3(const T* logits, const long long* labels, const float* share, float* loss, T* dlogits,
                                 int rows, int V) {
    constexpr int N = 16 / sizeof(T);
    int row = blockIdx.x;
    logits += (size_t)row * V;
    const Pack<T>* in = (const Pack<T>*)logits;
    Pack<T>* out = (Pack<T>*)(dlogits + (size_t)row * V);
    long long label = labels[row];
    if (label == IGNORED) {
        Pack<T> zeros;
        for (int i = 0; i < N; i++) zeros.of[i] = (T)0.f;
        for (int p = threadIdx.x; p < V / N; p += blockDim.x) out[p] = zeros;
        if (threadIdx.x == 0) loss[row] = 0;
        return;
    }
    Exponentials mine;
    for (int p = threadIdx.x; p < V / N; p += blockDim.x) {
        Pack<T> pack = in[p];
        Exponentials eight;
        for (int i = 0; i < N; i++) eight.max = fmaxf(eight.max, pack.of[i]);
        for (int i = 0; i < N; i++) eight.sum += expf((float)pack.of[i] - eight.max);
        mine.take(eight.max, eight.sum);
    }
    float logit = logit_of(label, logits, V);
    Exponentials all = of_block(mine);
    if (threadIdx.x == 0) loss[row] = all.loss(logit);
    for (int p = threadIdx.x; p < V / N; p += blockDim.x) {
        Pack<T> pack = in[p];
        for (int i = 0; i < N; i++) pack.of[i] = (T)(share[row] * all.slope(pack.of[i], p * N + i == label));
        out[p] = pack;
    }
}
