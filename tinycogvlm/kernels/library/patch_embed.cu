// The ViT's patch embedding: y[b, 0] = cls + position[0],   y[b, 1 + p] = W patch_p + bias + position[1 + p]
//     x (B, C, N, N) pixels, W (O, C, n, n), bias and cls (O), position (1 + P, O) -> y (B, 1 + P, O),  P = (N / n)^2
// A convolution whose stride is its kernel's size n is one matrix product: patches (B P, C n n) times W^T. The patches
// are never written to memory: number k of patch p is the pixel x[base(p) + offset(k)], one addition away.
// Pixels beyond a whole patch are dropped. T is float, half or __nv_bfloat16; sums are in float.
//
// There is no version with tensor cores: in the 17B model this is 2.6 of the tower's 10500 GFLOP.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Where pixels are in x. Row r of the result is token r % (1 + P) of picture r / (1 + P); token 0 is CLS.
struct Patches {
    int C, N, n;
    __device__ int across() const { return N / n; }
    __device__ int tokens() const { return 1 + across() * across(); }
    __device__ int size() const { return C * n * n; }
    __device__ size_t base(int row) const {                 // of the patch's first pixel
        int b = row / tokens(), p = row % tokens() - 1;
        return (size_t)b * C * N * N + p / across() * n * N + p % across() * n;
    }
    __device__ int offset(int k) const {                    // k = (channel, i, j) as in W
        int channel = k / (n * n), i = k / n % n, j = k % n;
        return (channel * N + i) * N + j;
    }
};

template<typename T>
__device__ void finish(float sum, const T* bias, const T* cls, const T* position, T* y, int row, int o, int tokens,
                       int O) {
    int token = row % tokens;
    sum = token == 0 ? (float)cls[o] : sum + (float)bias[o];
    y[(size_t)row * O + o] = (T)(sum + (float)position[(size_t)token * O + o]);
}

// Version 1: a thread for each output: two reads and the index arithmetic for each multiplication.
template<typename T>
__global__ void patch_embed_v1(const T* x, const T* weight, const T* bias, const T* cls, const T* position, T* y,
                               int rows, int C, int N, int n, int O) {
    Patches at{C, N, n};
    int row = blockIdx.y * blockDim.y + threadIdx.y, o = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows || o >= O) return;
    float sum = 0;
    if (row % at.tokens() > 0)
        for (int k = 0; k < at.size(); k++)
            sum += (float)x[at.base(row) + at.offset(k)] * (float)weight[(size_t)o * at.size() + k];
    finish(sum, bias, cls, position, y, row, o, at.tokens(), O);
}

// Version 2: 16 x 16 threads share tiles of the patches and of W: a number read once from global memory is used 16
// times. A thread gathers one number of each tile, so the index arithmetic, too, serves 16 multiplications.
template<typename T>
__global__ void patch_embed_v2(const T* x, const T* weight, const T* bias, const T* cls, const T* position, T* y,
                               int rows, int C, int N, int n, int O) {
    __shared__ float x_tile[16][16], weight_tile[16][17];   // 17: the 16 rows that half a warp reads are in other banks
    Patches at{C, N, n};
    int row = blockIdx.y * 16 + threadIdx.y, o = blockIdx.x * 16 + threadIdx.x;
    int weight_row = blockIdx.x * 16 + threadIdx.y, K = at.size();
    bool is_patch = row < rows && row % at.tokens() > 0;
    size_t base = is_patch ? at.base(row) : 0;
    float sum = 0;
    for (int start = 0; start < K; start += 16) {
        int k = start + threadIdx.x;
        x_tile[threadIdx.y][threadIdx.x] = is_patch && k < K ? (float)x[base + at.offset(k)] : 0;
        weight_tile[threadIdx.y][threadIdx.x] = weight_row < O && k < K ? (float)weight[(size_t)weight_row * K + k] : 0;
        __syncthreads();
        for (int i = 0; i < 16; i++) sum += x_tile[threadIdx.y][i] * weight_tile[threadIdx.x][i];
        __syncthreads();                                    // before the next round overwrites the tiles
    }
    if (row < rows && o < O) finish(sum, bias, cls, position, y, row, o, at.tokens(), O);
}

// Version 3: register tiles. 16 x 16 threads compute 64 x 64 outputs, 4 x 4 each: 8 reads from shared memory serve 16
// multiplications instead of 8, and a number from global memory 64. A thread gathers column k of four rows: one
// offset(k) for four pixels. The tiles have a row for each k, of 66 words, so that a warp stores to 32 banks.
template<typename T>
__global__ void patch_embed_v3(const T* x, const T* weight, const T* bias, const T* cls, const T* position, T* y,
                               int rows, int C, int N, int n, int O) {
    constexpr int TILE = 64, DEPTH = 16;
    __shared__ float x_tile[DEPTH][TILE + 2], weight_tile[DEPTH][TILE + 2];
    Patches at{C, N, n};
    int first_row = blockIdx.y * TILE, first_o = blockIdx.x * TILE, K = at.size();
    bool is_patch[4];
    size_t base[4];
    for (int j = 0; j < 4; j++) {
        int row = first_row + threadIdx.y + 16 * j;
        is_patch[j] = row < rows && row % at.tokens() > 0;
        base[j] = is_patch[j] ? at.base(row) : 0;
    }
    float sum[4][4] = {};
    for (int start = 0; start < K; start += DEPTH) {
        int k = start + threadIdx.x, offset = at.offset(k);
        for (int j = 0; j < 4; j++) {
            int r = threadIdx.y + 16 * j, o = first_o + r;
            x_tile[threadIdx.x][r] = is_patch[j] && k < K ? (float)x[base[j] + offset] : 0;
            weight_tile[threadIdx.x][r] = o < O && k < K ? (float)weight[(size_t)o * K + k] : 0;
        }
        __syncthreads();
        for (int i = 0; i < DEPTH; i++) {
            float a[4], b[4];
            for (int j = 0; j < 4; j++) {
                a[j] = x_tile[i][threadIdx.y + 16 * j];
                b[j] = weight_tile[i][threadIdx.x + 16 * j];
            }
            for (int m = 0; m < 4; m++)
                for (int j = 0; j < 4; j++) sum[m][j] += a[m] * b[j];
        }
        __syncthreads();
    }
    for (int m = 0; m < 4; m++)
        for (int j = 0; j < 4; j++) {
            int row = first_row + threadIdx.y + 16 * m, o = first_o + threadIdx.x + 16 * j;
            if (row < rows && o < O) finish(sum[m][j], bias, cls, position, y, row, o, at.tokens(), O);
        }
}
