// Attention: y[t] = sum_s softmax_s(q[t] . k[s] / sqrt(d)) v[s] over the keys s that query t sees
//     q (B, H, queries, d), k and v (B, G, keys, d) -> y (B, H, queries, d)        T is float, half or __nv_bfloat16
// Head h reads key-value head h / (H / G). Sums are in float. A block computes one head of one row of the batch. D is d
// rounded up to a size that the kernels are compiled for: 32, 64, 112 (the vision tower's) or 128.
#include "common.cuh"
#include "ptx.cuh"

// The arrays of this block's head. mask (B, keys) hides padding, or is null. The numbers of a query, of a key, are side
// by side; the next query of the head is q_next numbers further, the next head q_head, the next row of the batch q_row;
// likewise for keys and values. So these are read where a product left them, or from a cache with room for more. y is
// (B, T, H, d).
template<typename T> struct Head {
    const T *q, *k, *v;
    const bool* mask;
    T* y;
    int queries, keys;
    bool causal;
    size_t q_next, k_next, y_next;

    __device__ Head(const T* q, const T* k, const T* v, const bool* mask, T* y, int H, int G, int queries, int keys,
                    int d, bool causal, int q_row, int q_head, int q_next, int k_row, int k_head, int k_next)
        : queries(queries), keys(keys), causal(causal), q_next(q_next), k_next(k_next), y_next((size_t)H * d) {
        size_t h = blockIdx.y, b = blockIdx.z, g = h / (H / G);
        this->q = q + b * q_row + h * q_head, this->y = y + b * queries * y_next + h * d;
        this->k = k + b * k_row + g * k_head, this->v = v + b * k_row + g * k_head;
        this->mask = mask ? mask + b * keys : nullptr;
    }

    // Query t is key keys - queries + t: earlier keys are the cache. If causal, it sees no later one.
    __device__ bool sees(int t, int s) const {
        return s < keys && (!mask || mask[s]) && (!causal || s <= keys - queries + t);
    }
    // How many keys the queries before `t` can see at most: the rest is skipped.
    __device__ int seen_before(int t) const { return causal ? min(keys, keys - queries + t) : keys; }
};

// Version 1: a thread for each query, two passes over the keys: the highest score, then the sum, for which each score
// is computed again. It reads 4 numbers from global memory for 3 multiplications, though its neighbours in the warp
// have just read the same rows; and it visits the causal half of the keys only to skip them.
template<typename T, int D>
__global__ void attention_v1(const T* q, const T* k, const T* v, const bool* mask, T* y,
                             int H, int G, int queries, int keys, int d, bool causal, float scale,
                             int q_row, int q_head, int q_next, int k_row, int k_head, int k_next) {
    Head<T> head(q, k, v, mask, y, H, G, queries, keys, d, causal, q_row, q_head, q_next, k_row, k_head, k_next);
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= queries) return;
    auto score = [&](int s) {
        float sum = 0;
        for (int i = 0; i < d; i++) sum += (float)head.q[t * head.q_next + i] * (float)head.k[s * head.k_next + i];
        return sum * scale;
    };
    float top = LOWEST, total = 0, sum[D] = {};
    for (int s = 0; s < keys; s++)
        if (head.sees(t, s)) top = fmaxf(top, score(s));
    for (int s = 0; s < keys; s++)
        if (head.sees(t, s)) {
            float p = expf(score(s) - top);
            total += p;
#pragma unroll                                              // indices known to the compiler keep arrays in registers
            for (int i = 0; i < D; i++)
                if (i < d) sum[i] += p * (float)head.v[s * head.k_next + i];
        }
#pragma unroll
    for (int i = 0; i < D; i++)
        if (i < d) head.y[t * head.y_next + i] = (T)(sum[i] * inverse(total));
}

// Version 2: one pass, by the online softmax (Milakov & Gimelshein 2018, arXiv 1805.02867): when a higher score turns
// up, the sums so far shrink by exp(old highest - new highest). And tiles of 32 keys in shared memory (FlashAttention,
// Dao et al. 2022, arXiv 2205.14135): a number read once from global memory serves 32 queries. Four lanes share a
// query, each with a quarter of its q and of its sum in registers; a warp's 8 queries read the same words of a tile,
// without bank conflicts. Tiles that no query of the block sees are skipped. One shared read is left for every 4
// multiplications.
template<typename T, int D>
__global__ void __launch_bounds__(128, 2)
attention_v2(const T* q, const T* k, const T* v, const bool* mask, T* y,
             int H, int G, int queries, int keys, int d, bool causal, float scale,
             int q_row, int q_head, int q_next, int k_row, int k_head, int k_next) {
    constexpr int ROWS = 32, KEYS = 32, MINE = D / 4;
    __shared__ __align__(16) float k_tile[KEYS][D], v_tile[KEYS][D];
    Head<T> head(q, k, v, mask, y, H, G, queries, keys, d, causal, q_row, q_head, q_next, k_row, k_head, k_next);
    int first = blockIdx.x * ROWS, t = first + threadIdx.x / 4;
    auto column = [](int j) { return j / 4 * 16 + threadIdx.x % 4 * 4 + j % 4; };       // of this lane's j-th number

    float query[MINE], sum[MINE] = {}, top = LOWEST, total = 0;
#pragma unroll
    for (int j = 0; j < MINE; j++)
        query[j] = t < queries && column(j) < d ? (float)head.q[t * head.q_next + column(j)] * scale : 0;

    int end = head.seen_before(first + ROWS);
    for (int start = 0; start < end; start += KEYS) {
        for (int c = threadIdx.x; c < KEYS * D; c += 128) {
            int s = start + c / D, i = c % D;
            bool there = s < keys && i < d;
            k_tile[c / D][i] = there ? (float)head.k[s * head.k_next + i] : 0;
            v_tile[c / D][i] = there ? (float)head.v[s * head.k_next + i] : 0;
        }
        __syncthreads();
        float score[KEYS], highest = top;
#pragma unroll
        for (int s = 0; s < KEYS; s++) {
            score[s] = 0;
#pragma unroll
            for (int j = 0; j < MINE; j++) score[s] += query[j] * k_tile[s][column(j)];
            score[s] += __shfl_xor_sync(0xffffffff, score[s], 1);
            score[s] += __shfl_xor_sync(0xffffffff, score[s], 2);
            if (!head.sees(t, start + s)) score[s] = HIDDEN;
            highest = fmaxf(highest, score[s]);
        }
        float shrink = expf(top - highest);
        top = highest, total *= shrink;
#pragma unroll
        for (int j = 0; j < MINE; j++) sum[j] *= shrink;
#pragma unroll
        for (int s = 0; s < KEYS; s++) {
            float p = expf(score[s] - top);
            total += p;
#pragma unroll
            for (int j = 0; j < MINE; j++) sum[j] += p * v_tile[s][column(j)];
        }
        __syncthreads();                                    // before the next round overwrites the tiles
    }
#pragma unroll
    for (int j = 0; j < MINE; j++)
        if (t < queries && column(j) < d) head.y[t * head.y_next + column(j)] = (T)(sum[j] * inverse(total));
}

// Two numbers in a register, the first in its lower half.
__device__ __forceinline__ unsigned packed(float x, float y, half) {
    half2 two = __floats2half2_rn(x, y);
    return *(unsigned*)&two;
}
__device__ __forceinline__ unsigned packed(float x, float y, __nv_bfloat16) {
    __nv_bfloat162 two = __floats2bfloat162_rn(x, y);
    return *(unsigned*)&two;
}

// Version 3: tensor cores, for half and bfloat16 (FlashAttention-2, Dao 2023, arXiv 2307.08691); d must be a multiple
// of 8. Each of four warps has 16 queries and all 64 keys of a tile: no warp waits for another's scores, and the
// highest score of a query is two shuffles away. The scores' registers become those of the second product without a
// move, since mma.sync lays out its d as its a. While the first product and the softmax work on K, cp.async loads V;
// while the second product works on V, the next K. Rows of D + 8 numbers put the 8 rows that ldmatrix reads at once
// into different banks. Only tiles in which something is hidden are tested key by key. The last queries, which see the
// most keys, begin first.
template<typename Half, int D>
__global__ void __launch_bounds__(128, 2)
attention_v3(const Half* q, const Half* k, const Half* v, const bool* mask, Half* y,
             int H, int G, int queries, int keys, int d, bool causal, float scale,
             int q_row, int q_head, int q_next, int k_row, int k_head, int k_next) {
    constexpr int ROWS = 64, KEYS = 64, STRIDE = D + 8;
    __shared__ __align__(16) Half k_tile[KEYS][STRIDE], v_tile[KEYS][STRIDE];
    Head<Half> head(q, k, v, mask, y, H, G, queries, keys, d, causal, q_row, q_head, q_next, k_row, k_head, k_next);
    int lane = threadIdx.x % 32, first = (gridDim.x - 1 - blockIdx.x) * ROWS + threadIdx.x / 32 * 16;
    int t = first + lane / 4, pair = lane % 4 * 2;          // its queries: t and t + 8; see mma.m16n8k16 in ptx.cuh
    scale *= 1.44269504f;                                   // log2(e): exp(x) = exp2(x log2(e)), one instruction

    auto load = [&](Half (*tile)[STRIDE], const Half* from, int start) {
        for (int c = threadIdx.x; c < KEYS * D / 8; c += 128) {
            int s = c / (D / 8), i = c % (D / 8) * 8;
            bool there = start + s < keys && i < d;
            cp_async16(&tile[s][i], there ? from + (start + s) * head.k_next + i : from, there);
        }
        cp_async_commit();
    };

    unsigned query[D / 16][4];
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int row = t + j % 2 * 8, column = 16 * i + pair + j / 2 * 8;
            query[i][j] = row < queries && column < d ? *(const unsigned*)(head.q + row * head.q_next + column) : 0;
        }

    float sum[D / 8][4] = {}, top[2] = {LOWEST, LOWEST}, total[2] = {};     // of t and of t + 8
    int end = head.seen_before((gridDim.x - blockIdx.x) * ROWS);
    load(k_tile, head.k, 0);
    for (int start = 0; start < end; start += KEYS) {
        cp_async_wait<0>();
        __syncthreads();                                    // K is here, and all warps are done with the last V
        load(v_tile, head.v, start);

        float score[KEYS / 8][4] = {};
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2)
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
                unsigned two[4];                            // fragments of 8 keys each
                ldmatrix_x4(two, &k_tile[8 * n + lane / 16 * 8 + lane % 8][16 * i + lane / 8 % 2 * 8]);
                mma(score[n], query[i], {two[0], two[1]}, Half());
                mma(score[n + 1], query[i], {two[2], two[3]}, Half());
            }

        bool all_seen = !mask && start + KEYS <= keys && (!causal || start + KEYS - 1 <= keys - queries + first);
        float highest[2] = {top[0], top[1]};
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                bool seen = all_seen || head.sees(t + j / 2 * 8, start + 8 * n + pair + j % 2);
                score[n][j] = seen ? score[n][j] * scale : HIDDEN;
                highest[j / 2] = fmaxf(highest[j / 2], score[n][j]);
            }
        float shrink[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            highest[r] = fmaxf(highest[r], __shfl_xor_sync(0xffffffff, highest[r], 1));
            highest[r] = fmaxf(highest[r], __shfl_xor_sync(0xffffffff, highest[r], 2));
            shrink[r] = exp2f(top[r] - highest[r]);
            top[r] = highest[r], total[r] *= shrink[r];
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) sum[n][j] *= shrink[j / 2];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                score[n][j] = exp2f(score[n][j] - top[j / 2]);
                total[j / 2] += score[n][j];
            }

        cp_async_wait<0>();
        __syncthreads();                                    // V is here, and all warps are done with K
        if (start + KEYS < end) load(k_tile, head.k, start + KEYS);
#pragma unroll
        for (int s = 0; s < KEYS / 16; s++) {
            unsigned p[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                p[j] = packed(score[2 * s + j / 2][j % 2 * 2], score[2 * s + j / 2][j % 2 * 2 + 1], Half());
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                unsigned two[4];                            // transposed: V is stored by keys, mma.sync wants columns
                ldmatrix_x4_trans(two, &v_tile[16 * s + lane % 16][8 * n + lane / 16 * 8]);
                mma(sum[n], p, {two[0], two[1]}, Half());
                mma(sum[n + 1], p, {two[2], two[3]}, Half());
            }
        }
    }

#pragma unroll
    for (int r = 0; r < 2; r++) {
        total[r] += __shfl_xor_sync(0xffffffff, total[r], 1);
        total[r] += __shfl_xor_sync(0xffffffff, total[r], 2);
        float share = inverse(total[r]);
        int row = t + 8 * r;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            if (row < queries && 8 * n + pair < d)
                *(unsigned*)(head.y + row * head.y_next + 8 * n + pair) =
                    packed(sum[n][2 * r] * share, sum[n][2 * r + 1] * share, Half());
    }
}
