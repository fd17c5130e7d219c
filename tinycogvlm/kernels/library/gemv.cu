// Decoding: matrices times the one row of x that a new token is (up to 4 rows of a batch), fused with their neighbours
//     x (ROWS, I), W (O, I) -> y (ROWS, O)
// T, the type of activations, is float, half or __nv_bfloat16; W one of these, or Int8 or Int4 with scales (O, I / 64),
// see weights.cuh. Sums are in float. Every weight is used once (per row), so only memory counts: the weights' bytes
// must be read once, in whole sectors, with many loads in flight.
#include "common.cuh"
#include "ptx.cuh"
#include "weights.cuh"

// Version 1: a thread for each output. The 32 lanes of a warp read 32 rows of W at a time, of each sector one weight.
template<typename T, typename W>
__global__ void gemv_v1(const T* x, const typename Weights<W>::Stored* weight, const __nv_bfloat16* scales, T* y,
                        int I, int O) {
    int o = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (o >= O) return;
    float sum = 0;
    x += (size_t)row * I;
    for (int i = 0; i < I; i++) sum += Weights<W>::at(weight, scales, (size_t)o * I + i) * (float)x[i];
    y[(size_t)row * O + o] = (T)sum;
}

// Version 2: a warp for each output, 16 bytes of W per load: sectors are used whole, and shuffles sum the lanes. Each
// weight now waits for a load of x (from the L1 cache), and each row of x reads all of W again. I must be a multiple of
// the weights in 16 bytes, here and below.
template<typename T, typename W>
__global__ void gemv_v2(const T* x, const typename Weights<W>::Stored* weight, const __nv_bfloat16* scales, T* y,
                        int I, int O) {
    constexpr int N = Weights<W>::N;
    int o = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32, packs = I / N;
    if (o >= O) return;                                     // the whole warp
    x += (size_t)blockIdx.y * I;
    float sum = 0;
    for (int p = lane; p < packs; p += 32) {
        uint4 pack = ((const uint4*)weight)[(size_t)o * packs + p];
        float part = 0;
        for (int i = 0; i < N; i++) part += Weights<W>::of(pack, i) * (float)x[p * N + i];
        sum += part * Weights<W>::scale(scales + (size_t)o * I / GROUP, p);
    }
    sum = warp_sum(sum);
    if (lane == 0) y[(size_t)blockIdx.y * O + o] = (T)sum;
}

// Versions 3 and 4 compute two outputs at once, a pair, and differ in how. The kernels at the end differ only in which
// two these are, and in what is done with them. A block loads x once and then goes on from pairs to pairs, so any grid
// is right; one that fills the GPU is fastest. Before it waits for x it asks for its first weights, which do not depend
// on what the kernel before computes.

// One row of W, and two of them.
template<typename W> struct Row {
    const uint4* packs;
    const __nv_bfloat16* scales;
    __device__ Row(const typename Weights<W>::Stored* weight, const __nv_bfloat16* scales, int o, int I)
        : packs((const uint4*)weight + (size_t)o * (I / Weights<W>::N)), scales(scales + (size_t)o * (I / GROUP)) {}
};
template<typename W> struct Pair { Row<W> of[2]; };

// Version 3: x is in shared memory as floats, and a warp computes a pair for all rows of x: a load of x serves two
// outputs, a load of W all rows, and 8 loads of W (4 of codes) are in flight before the first is used.

template<typename T> struct alignas(4 * sizeof(T)) Four { T of[4]; };
extern __shared__ float4 staged[];                          // of x, see stage

// Loads x, times the RMSNorm's weight if there is one, into shared memory: columns 4 j to 4 j + 3 of each pack
// together, [row][j][pack]. So the lanes of a warp read neighbouring packs; an odd `stride` lets them store without
// bank conflicts, too. Returns the norm's other factor, 1 / sqrt(mean(x^2) + eps), for each row: it is applied to the
// sums.
template<typename T, int N, int ROWS>
__device__ void stage(const T* x, const T* norm, float eps, int I, float (&factor)[ROWS]) {
    __shared__ float partial[ROWS][32];                     // of each warp
    int stride = I / N | 1, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (int r = 0; r < ROWS; r++) {
        float squares = 0;
        for (int q = threadIdx.x; q < I / 4; q += blockDim.x) {
            Four<T> four = ((const Four<T>*)(x + (size_t)r * I))[q];
            float v[4];
            for (int i = 0; i < 4; i++) v[i] = (float)four.of[i], squares += v[i] * v[i];
            if (norm) {
                four = ((const Four<T>*)norm)[q];
                for (int i = 0; i < 4; i++) v[i] *= (float)four.of[i];
            }
            staged[(r * (N / 4) + q % (N / 4)) * stride + q / (N / 4)] = make_float4(v[0], v[1], v[2], v[3]);
        }
        squares = warp_sum(squares);
        if (lane == 0) partial[r][threadIdx.x / 32] = squares;
    }
    __syncthreads();
    for (int r = 0; r < ROWS; r++)
        factor[r] = norm ? rsqrtf(warp_sum(lane < warps ? partial[r][lane] : 0) / I + eps) : 1;
}

// How many packs of each row a lane loads before it uses the first.
template<typename W, int ROWS>
constexpr int AHEAD = Weights<W>::N == 32 && ROWS > 2 ? 1 : Weights<W>::N > 8 ? 2 : 4;

// sum[m][r] = pair.of[m] . x[r] factor[r], in every lane of the warp.
template<typename W, int ROWS>
__device__ void dot(const Pair<W>& pair, int I, const float (&factor)[ROWS], float (&sum)[2][ROWS]) {
    constexpr int N = Weights<W>::N, AHEAD = ::AHEAD<W, ROWS>;
    int packs = I / N, stride = packs | 1;
    for (int m = 0; m < 2; m++)
        for (int r = 0; r < ROWS; r++) sum[m][r] = 0;
    for (int first = threadIdx.x % 32; first < packs; first += 32 * AHEAD) {
        uint4 pack[AHEAD][2];
        float scale[AHEAD][2];
#pragma unroll                                              // indices known to the compiler keep arrays in registers
        for (int a = 0; a < AHEAD; a++)
            for (int m = 0; m < 2; m++) {
                int p = first + 32 * a;
                if (p >= packs) continue;
                pack[a][m] = __ldcs(pair.of[m].packs + p);     // not needed again: the caches may drop it first
                scale[a][m] = Weights<W>::scale(pair.of[m].scales, p);
            }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int p = first + 32 * a;
            if (p >= packs) break;
            float part[2][ROWS] = {};
#pragma unroll
            for (int j = 0; j < N / 4; j++) {
                float w[2][4];
                for (int m = 0; m < 2; m++)
                    for (int i = 0; i < 4; i++) w[m][i] = Weights<W>::of(pack[a][m], 4 * j + i);
                for (int r = 0; r < ROWS; r++) {
                    float4 v = staged[(r * (N / 4) + j) * stride + p];
                    for (int m = 0; m < 2; m++)
                        part[m][r] += w[m][0] * v.x + w[m][1] * v.y + w[m][2] * v.z + w[m][3] * v.w;
                }
            }
            for (int m = 0; m < 2; m++)
                for (int r = 0; r < ROWS; r++) sum[m][r] += part[m][r] * scale[a][m];
        }
    }
    for (int m = 0; m < 2; m++)
        for (int r = 0; r < ROWS; r++) sum[m][r] = warp_sum(sum[m][r]) * factor[r];
}

// rows_of(t) is the t-th pair's rows of W; write(t, r, first, second) gets its sums for row r of x.
struct Version3 {
    template<typename W, int ROWS, typename T, typename Rows, typename Write>
    static __device__ void pairs(int count, const T* x, const T* norm, float eps, int I, Rows rows_of, Write write) {
        float factor[ROWS], sum[2][ROWS];
        int warps = blockDim.x / 32, lane = threadIdx.x % 32, t = blockIdx.x * warps + threadIdx.x / 32;
        if (t < count)
            for (int m = 0; m < 2; m++)
                for (int a = 0; a < AHEAD<W, ROWS>; a++)
                    if (lane + 32 * a < I / Weights<W>::N) prefetch(rows_of(t).of[m].packs + lane + 32 * a);
        stage<T, Weights<W>::N>(x, norm, eps, I, factor);
        for (; t < count; t += gridDim.x * warps) {
            dot<W>(rows_of(t), I, factor, sum);
            if (lane) continue;
            for (int r = 0; r < ROWS; r++) write(t, r, sum[0][r], sum[1][r]);
        }
    }
};

// Version 4, for codes and half: tensor cores, since version 3 takes 4 instructions for a weight of 4 bits, more than
// an H200 can issue while it reads one. Codes become pairs of halves (see weights.cuh) without a conversion each, and
// mma.sync multiplies 16 rows of W, 8 pairs, by up to 8 columns: the rows of x. 64 columns of W are a group: four
// mma.sync, times the scales. A block has 8 pairs at a time, and its warps share the columns of W.
//
// In a sum the order of the columns is free. So lane l takes the columns 16 (l % 4) to + 15 of each group, as they lie
// in memory, for its fragments of W and of x both.
//
// x after the norm is no half, but the sum of two, to 22 bits. The second ones are columns 4 to 7, which cost nothing.
struct Version4 {
    // x, normed, into shared memory: [1, or 2 with a norm][row][columns, in the order of Weights::halves]
    template<typename W, int ROWS> static __device__ void stage(const half* x, const half* norm, float eps, int I) {
        __shared__ float partial[ROWS][32];
        int lane = threadIdx.x % 32, warps = blockDim.x / 32, stride = I + 8;
        for (int r = 0; norm && r < ROWS; r++) {
            float squares = 0;
            for (int i = threadIdx.x; i < I; i += blockDim.x) squares += (float)x[r * I + i] * (float)x[r * I + i];
            squares = warp_sum(squares);
            if (lane == 0) partial[r][threadIdx.x / 32] = squares;
        }
        __syncthreads();
        for (int r = 0; r < ROWS; r++) {
            float factor = norm ? rsqrtf(warp_sum(lane < warps ? partial[r][lane] : 0) / I + eps) : 1;
            for (int i = threadIdx.x; i < I; i += blockDim.x) {
                half* to = (half*)staged + r * stride + i / 8 * 8 + Weights<W>::place(i % 8);
                float v = (float)x[r * I + i] * factor * (norm ? (float)norm[i] : 1);
                *to = (half)v;
                if (norm) to[ROWS * stride] = (half)(v - (float)*to);
            }
        }
        __syncthreads();
    }

    template<typename W, int ROWS, typename Rows, typename Write>
    static __device__ void pairs(int count, const half* x, const half* norm, float eps, int I, Rows rows_of,
                                 Write write) {
        constexpr int WORDS = 16 * Weights<W>::BITS / 32, MORE = 8 / WORDS;     // 16 codes; groups on their way
        struct alignas(4 * WORDS) Codes { unsigned of[WORDS]; };
        __shared__ float4 partial[8][32];                   // of each warp
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4, groups = I / GROUP;
        unsigned magic = 0x64006400 + I % GROUP;            // + 0, but not for the compiler: it stays in a register
        auto codes_of = [&](const Row<W>& row, int group) { return (const Codes*)row.packs + group * 4 + q; };
        auto rows_at = [&](int first) { return rows_of(min(first + g, count - 1)); };
        if (warp * MORE < groups)
            for (int m = 0; m < 2; m++) prefetch(codes_of(rows_at(blockIdx.x * 8).of[m], warp * MORE));
        stage<W, ROWS>(x, norm, eps, I);
        bool has_column = g % 4 < ROWS && (g < 4 || norm);  // others take the first: nobody reads their sums
        const half* column = (const half*)staged + (has_column ? g / 4 * ROWS + g % 4 : 0) * (I + 8) + 16 * q;

        for (int first = blockIdx.x * 8; first < count; first += gridDim.x * 8) {
            Pair<W> pair = rows_at(first);
            float sum[4] = {};
            for (int group = warp * MORE; group < groups; group += 8 * MORE) {
                Codes codes[MORE][2];
                float scale[MORE][2];
#pragma unroll
                for (int a = 0; a < MORE; a++)
#pragma unroll
                    for (int m = 0; m < 2; m++)
                        if (group + a < groups) {
                            codes[a][m] = *codes_of(pair.of[m], group + a);
                            scale[a][m] = pair.of[m].scales[group + a];
                        }
#pragma unroll
                for (int a = 0; a < MORE; a++) {
                    if (group + a >= groups) break;         // the whole warp
                    uint4 v[2];                             // 16 numbers of x
                    for (int h = 0; h < 2; h++) v[h] = ((const uint4*)(column + (group + a) * GROUP))[h];
                    float d[4] = {};
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        int word = j * WORDS / 4, pair = j * 2 % (8 / WORDS);
                        unsigned a_pairs[4], *x_pairs = (unsigned*)v + 2 * j, b_pairs[2] = {x_pairs[0], x_pairs[1]};
                        for (int i = 0; i < 4; i++)
                            a_pairs[i] = Weights<W>::halves(codes[a][i % 2].of[word], pair + i / 2, magic);
                        mma_f16(d, a_pairs, b_pairs);
                    }
                    for (int i = 0; i < 4; i++) sum[i] += d[i] * scale[a][i / 2];
                }
            }
            partial[warp][lane] = make_float4(sum[0], sum[1], sum[2], sum[3]);
            __syncthreads();
            if (threadIdx.x < 8 * ROWS) {                   // sum i of lane 4 p + q: output i / 2, column 2 q + i % 2
                int p = threadIdx.x % 8, r = threadIdx.x / 8;
                float first_sum = 0, second_sum = 0;
                for (int w = 0; w < 8; w++)
                    for (int low = 0; low < (norm ? 4 : 2); low += 2) {
                        const float* of_warp = (const float*)&partial[w][4 * p + low + r / 2] + r % 2;
                        first_sum += of_warp[0], second_sum += of_warp[2];
                    }
                if (first + p < count) write(first + p, r, first_sum, second_sum);
            }
            __syncthreads();                                // before the next round overwrites them
        }
    }
};

// How many blocks of 256 threads an SM must have registers for: many, so that many loads are in flight, but in version
// 3 more rows, and codes to unpack, take more registers.
template<typename How, typename W, int ROWS> constexpr int BLOCKS = 4;
template<typename W, int ROWS> constexpr int BLOCKS<Version3, W, ROWS> = ROWS > 1 ? 2 : Weights<W>::N == 32 ? 3 : 4;

// y = W norm(x) + residual. norm and residual (O columns; it may be y itself) may be null: the outputs of attention and
// of the MLP have a residual, the logits a norm.
template<typename T, typename W, int ROWS, typename How, typename Y>
__global__ void __launch_bounds__(256, BLOCKS<How, W, ROWS>)
gemv_fused(const T* x, const T* norm, float eps, const typename Weights<W>::Stored* weight, const __nv_bfloat16* scales,
           const Y* residual, Y* y, int I, int O) {
    auto rows_of = [&](int t) -> Pair<W> {                  // if O is odd, the last pair has the last row twice
        return {{{weight, scales, 2 * t, I}, {weight, scales, min(2 * t + 1, O - 1), I}}};
    };
    How::template pairs<W, ROWS>((O + 1) / 2, x, norm, eps, I, rows_of, [&](int t, int r, float first, float second) {
        size_t i = (size_t)r * O + 2 * t;
        y[i] = (Y)(first + (residual ? (float)residual[i] : 0));
        if (2 * t + 1 < O) y[i + 1] = (Y)(second + (residual ? (float)residual[i + 1] : 0));
    });
}

// y = silu(W_gate h) * W_up h, h = norm(x): a pair is one row of each matrix, and neither product is ever in memory.
template<typename T, typename W, int ROWS, typename How>
__global__ void __launch_bounds__(256, BLOCKS<How, W, ROWS>)
gate_up_swiglu(const T* x, const T* norm, float eps, const typename Weights<W>::Stored* gate,
               const __nv_bfloat16* gate_scales, const typename Weights<W>::Stored* up, const __nv_bfloat16* up_scales,
               T* y, int I, int O) {
    auto rows_of = [&](int t) -> Pair<W> { return {{{gate, gate_scales, t, I}, {up, up_scales, t, I}}}; };
    How::template pairs<W, ROWS>(O, x, norm, eps, I, rows_of, [&](int t, int r, float first, float second) {
        y[(size_t)r * O + t] = (T)(first / (1 + expf(-first)) * second);
    });
}

// Q, K, V = W norm(x); Q and K are rotated by the angle of their position; K and V are appended to the cache.
//     q (ROWS, H, d), keys and values (ROWS, G, capacity, d), cos and sin (positions, d / 2), position (ROWS)
// A pair is what rotary rotates: numbers i and i + d / 2 of a head. Positions and the number of cached tokens are in
// device memory, so that a captured graph can be replayed for the next token.
template<typename T, typename W, int ROWS, typename How>
__global__ void __launch_bounds__(256, BLOCKS<How, W, ROWS>)
qkv_rotary_append(const T* x, const T* norm, float eps, const typename Weights<W>::Stored* weight,
                  const __nv_bfloat16* scales, const float* cos, const float* sin, const int* position,
                  const int* length, T* q, T* keys, T* values, int I, int H, int G, int d, int capacity) {
    int half_d = d / 2;
    auto rows_of = [&](int t) -> Pair<W> {
        int o = t / half_d * d + t % half_d;
        return {{{weight, scales, o, I}, {weight, scales, o + half_d, I}}};
    };
    auto write = [&](int t, int r, float first, float second) {
        int head = t / half_d, i = t % half_d;
        if (head < H + G) {                                 // all but V
            size_t angle = (size_t)position[r] * half_d + i;
            float c = cos[angle], s = sin[angle], turned = first * c - second * s;
            second = second * c + first * s, first = turned;
        }
        T* cache = head < H + G ? keys : values;
        T* to = head < H ? q + ((size_t)r * H + head) * d
                         : cache + (((size_t)r * G + (head - H) % G) * capacity + *length) * d;
        to[i] = (T)first, to[i + half_d] = (T)second;
    };
    How::template pairs<W, ROWS>((H + 2 * G) * half_d, x, norm, eps, I, rows_of, write);
}
