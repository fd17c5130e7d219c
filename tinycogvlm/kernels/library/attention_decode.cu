// Attention of one query in each row to a cache with room for `capacity` keys, *length of which are filled: the length
// is in device memory, so that a captured CUDA graph can be replayed at every length.
//     q (B, H, 1, d), k and v (B, G, capacity, d) -> y (B, H, 1, d)                T is float, half or __nv_bfloat16
// Head h reads key-value head h / (H / G); mask (B, capacity) hides padding, or is null. Sums are in float.
//
// Every number of the cache is read once, and used for two operations per query head: only memory bandwidth counts.
// Heads and rows alone are too few blocks to use all of it, so the keys are split among blocks too, evenly at every
// length: each block finds the y of its own keys, and its weight in the whole (Flash-Decoding, Dao et al. 2023).
#include "common.cuh"

// R query heads that share a key-value head are computed together: each number of the cache serves all of them. A team
// of D / N lanes reads the row of a key, 16 bytes per lane; it loads UNROLL keys before it computes with the first, so
// that many loads are in flight. d must be a multiple of N.
//     -> partial (B, H, splits, d), lse (B, H, splits) = log sum_s exp(score_s) of a split's keys
template<typename T, int D, int R>
__global__ void __launch_bounds__(128, 2)
attention_decode_split(const T* q, const T* k, const T* v, const bool* mask, const int* length, float* partial,
                       float* lse, int H, int G, int capacity, int d, float scale) {
    constexpr int N = 16 / sizeof(T), LANES = D / N, TEAMS = 128 / LANES, UNROLL = 4;
    __shared__ __align__(16) float team_sum[TEAMS][R][D];
    __shared__ float team_top[TEAMS][R], team_total[TEAMS][R];
    int head = blockIdx.y * R, b = blockIdx.z, team = threadIdx.x / LANES, column = threadIdx.x % LANES * N;
    size_t first_key = (size_t)(b * G + head / (H / G)) * capacity, first_row = (size_t)b * H + head;

    float query[R][N], sum[R][N] = {}, top[R], total[R] = {};
#pragma unroll
    for (int r = 0; r < R; r++) {
        top[r] = LOWEST;
#pragma unroll
        for (int i = 0; i < N; i++) query[r][i] = column < d ? (float)q[(first_row + r) * d + column + i] * scale : 0;
    }

    int share = (*length + gridDim.x - 1) / gridDim.x, end = min(*length, (int)(blockIdx.x + 1) * share);
    for (int start = blockIdx.x * share; start < end; start += TEAMS * UNROLL) {
        Pack<T> key[UNROLL] = {}, value[UNROLL] = {};
        bool seen[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            int s = start + u * TEAMS + team;
            seen[u] = s < end && (!mask || mask[(size_t)b * capacity + s]);
            if (seen[u] && column < d) {
                key[u] = *(const Pack<T>*)(k + (first_key + s) * d + column);
                value[u] = *(const Pack<T>*)(v + (first_key + s) * d + column);
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            float score[UNROLL] = {}, highest = top[r];
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
#pragma unroll
                for (int i = 0; i < N; i++) score[u] += query[r][i] * (float)key[u].of[i];
#pragma unroll
                for (int distance = LANES / 2; distance > 0; distance /= 2)
                    score[u] += __shfl_xor_sync(0xffffffff, score[u], distance);
                if (!seen[u]) score[u] = HIDDEN;
                highest = fmaxf(highest, score[u]);
            }
            float shrink = expf(top[r] - highest);
            top[r] = highest, total[r] *= shrink;
#pragma unroll
            for (int i = 0; i < N; i++) sum[r][i] *= shrink;
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                float p = expf(score[u] - highest);
                total[r] += p;
#pragma unroll
                for (int i = 0; i < N; i++) sum[r][i] += p * (float)value[u].of[i];
            }
        }
    }

#pragma unroll
    for (int r = 0; r < R; r++) {
        if (column == 0) team_top[team][r] = top[r], team_total[team][r] = total[r];    // its lanes have the same
#pragma unroll
        for (int i = 0; i < N; i++) team_sum[team][r][column + i] = sum[r][i];
    }
    __syncthreads();
    for (int c = threadIdx.x; c < R * D; c += 128) {
        int r = c / D, i = c % D;
        float highest = LOWEST, whole = 0, value = 0;
        for (int other = 0; other < TEAMS; other++) highest = fmaxf(highest, team_top[other][r]);
        for (int other = 0; other < TEAMS; other++) {
            float weight = expf(team_top[other][r] - highest);
            whole += weight * team_total[other][r];
            value += weight * team_sum[other][r][i];
        }
        size_t place = (first_row + r) * gridDim.x + blockIdx.x;
        if (i < d) partial[place * d + i] = value * inverse(whole);
        if (i == 0) lse[place] = whole > 0 ? highest + logf(whole) : HIDDEN;
    }
}

// y = sum over the splits of their y, weighted by exp(lse). A block for each query, a thread for each of its d numbers.
template<typename T>
__global__ void attention_decode_combine(const float* partial, const float* lse, T* y, int splits, int d) {
    size_t row = blockIdx.x;
    int i = threadIdx.x;
    float top = LOWEST, total = 0, sum = 0;
    for (int split = 0; split < splits; split++) top = fmaxf(top, lse[row * splits + split]);
    for (int split = 0; split < splits; split++) {
        float weight = expf(lse[row * splits + split] - top);
        total += weight;
        if (i < d) sum += weight * partial[(row * splits + split) * d + i];
    }
    if (i < d) y[row * d + i] = (T)(sum * inverse(total));
}
