// Decoding: matrices times the one row of x that a new token is (up to 4 rows of a batch), fused with their neighbours
//     x (ROWS, I), W (O, I) -> y (ROWS, O)
// T, the type of activations, is float, half or __nv_bfloat16; W one of these, or Int8 or Int4 with scales (O, I / 64),
// see weights.cuh. Sums are in float. Every weight is used once (per row), so only memory counts: the weights' bytes
// must be read once, in whole sectors, with many loads in flight.
#include "common.cuh"
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

// Version 3: x is in shared memory as floats, and a warp computes two outputs at once for all rows of x: a load of x
// serves two outputs, a load of W all rows, and 8 loads of W (4 of codes) are in flight before the first is used. The
// kernels below differ only in which two outputs these are, and in what is done with them. A block loads x once and
// then goes on from pair to pair, so any grid is right; one that fills the GPU is fastest.

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

// One row of W.
template<typename W> struct Row {
    const uint4* packs;
    const __nv_bfloat16* scales;
    __device__ Row(const typename Weights<W>::Stored* weight, const __nv_bfloat16* scales, int o, int I)
        : packs((const uint4*)weight + (size_t)o * (I / Weights<W>::N)), scales(scales + (size_t)o * (I / GROUP)) {}
};

// sum[m][r] = pair[m] . x[r] factor[r], in every lane of the warp.
template<typename W, int ROWS>
__device__ void dot(const Row<W> (&pair)[2], int I, const float (&factor)[ROWS], float (&sum)[2][ROWS]) {
    constexpr int N = Weights<W>::N, AHEAD = N == 32 && ROWS > 2 ? 1 : N > 8 ? 2 : 4;
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
                pack[a][m] = __ldcs(pair[m].packs + p);     // not needed again: the caches may drop it first
                scale[a][m] = Weights<W>::scale(pair[m].scales, p);
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

// How many blocks of 256 threads an SM must have registers for: many, so that many loads are in flight, but more rows,
// and codes to unpack, take more registers.
template<typename W, int ROWS> constexpr int BLOCKS = ROWS > 1 ? 2 : Weights<W>::N == 32 ? 3 : 4;

// y = W norm(x) + residual. norm and residual (O columns; it may be y itself) may be null: the outputs of attention and
// of the MLP have a residual, the logits a norm.
template<typename T, typename W, int ROWS, typename Y>
__global__ void __launch_bounds__(256, BLOCKS<W, ROWS>)
gemv_v3(const T* x, const T* norm, float eps, const typename Weights<W>::Stored* weight, const __nv_bfloat16* scales,
        const Y* residual, Y* y, int I, int O) {
    float factor[ROWS], sum[2][ROWS];
    stage<T, Weights<W>::N>(x, norm, eps, I, factor);
    int warps = blockDim.x / 32;
    for (int o = 2 * (blockIdx.x * warps + threadIdx.x / 32); o < O; o += 2 * gridDim.x * warps) {
        int next = min(o + 1, O - 1);                       // if O is odd, the last pair has the last row twice
        dot<W>({{weight, scales, o, I}, {weight, scales, next, I}}, I, factor, sum);
        if (threadIdx.x % 32) continue;
        for (int r = 0; r < ROWS; r++)
            for (int m = 0; m < 2; m++) {
                size_t i = (size_t)r * O + (m ? next : o);
                if (o + m < O) y[i] = (Y)(sum[m][r] + (residual ? (float)residual[i] : 0));
            }
    }
}

// y = silu(W_gate h) * W_up h, h = norm(x): a pair is one row of each matrix, and neither product is ever in memory.
template<typename T, typename W, int ROWS>
__global__ void __launch_bounds__(256, BLOCKS<W, ROWS>)
gate_up_swiglu(const T* x, const T* norm, float eps, const typename Weights<W>::Stored* gate,
               const __nv_bfloat16* gate_scales, const typename Weights<W>::Stored* up, const __nv_bfloat16* up_scales,
               T* y, int I, int O) {
    float factor[ROWS], sum[2][ROWS];
    stage<T, Weights<W>::N>(x, norm, eps, I, factor);
    int warps = blockDim.x / 32;
    for (int o = blockIdx.x * warps + threadIdx.x / 32; o < O; o += gridDim.x * warps) {
        dot<W>({{gate, gate_scales, o, I}, {up, up_scales, o, I}}, I, factor, sum);
        if (threadIdx.x % 32) continue;
        for (int r = 0; r < ROWS; r++) y[(size_t)r * O + o] = (T)(sum[0][r] / (1 + expf(-sum[0][r])) * sum[1][r]);
    }
}

// Q, K, V = W norm(x); Q and K are rotated by the angle of their position; K and V are appended to the cache.
//     q (ROWS, H, d), keys and values (ROWS, G, capacity, d), cos and sin (positions, d / 2), position (ROWS)
// A pair is what rotary rotates: numbers i and i + d / 2 of a head. Positions and the number of cached tokens are in
// device memory, so that a captured graph can be replayed for the next token.
template<typename T, typename W, int ROWS>
__global__ void __launch_bounds__(256, BLOCKS<W, ROWS>)
qkv_rotary_append(const T* x, const T* norm, float eps, const typename Weights<W>::Stored* weight,
                  const __nv_bfloat16* scales, const float* cos, const float* sin, const int* position,
                  const int* length, T* q, T* keys, T* values, int I, int H, int G, int d, int capacity) {
    float factor[ROWS], sum[2][ROWS];
    stage<T, Weights<W>::N>(x, norm, eps, I, factor);
    int warps = blockDim.x / 32, half_d = d / 2;
    for (int t = blockIdx.x * warps + threadIdx.x / 32; t < (H + 2 * G) * half_d; t += gridDim.x * warps) {
        int head = t / half_d, i = t % half_d, o = head * d + i;
        dot<W>({{weight, scales, o, I}, {weight, scales, o + half_d, I}}, I, factor, sum);
        if (threadIdx.x % 32) continue;
        for (int r = 0; r < ROWS; r++) {
            float first = sum[0][r], second = sum[1][r];
            if (head < H + G) {                             // all but V
                size_t angle = (size_t)position[r] * half_d + i;
                float c = cos[angle], s = sin[angle], turned = first * c - second * s;
                second = second * c + first * s, first = turned;
            }
            T* cache = head < H + G ? keys : values;
            T* to = head < H ? q + ((size_t)r * H + head) * d
                             : cache + (((size_t)r * G + (head - H) % G) * capacity + *length) * d;
            to[i] = (T)first, to[i + half_d] = (T)second;
        }
    }
}
