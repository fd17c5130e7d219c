// The visual expert's matrix product: y[t] = W_e(t) x[t] (+ bias), where each token's modality e picks the matrix
//     x (tokens, I), W_language and W_vision (O, I), bias (O) of the vision expert or null -> y (tokens, O)
// in ONE launch for any mix of images and text. Wang et al. 2023, section 2.2 (arXiv 2311.03079). T is float, half or
// __nv_bfloat16.
//
// `rows` lists the tokens, first those of the language expert, then those of the vision expert, each part padded with
// -1 to a multiple of 64: so a tile of 64 rows has one expert. `language_rows` is where the vision expert's part
// begins.
#include "ptx.cuh"

// Version 1: a thread for each output. It reads 2 I numbers for I multiplications.
template<typename T>
__global__ void expert_matmul_v1(const T* x, const T* language, const T* vision, const T* bias, const int* rows,
                                 int language_rows, T* y, int I, int O) {
    int row = blockIdx.y * blockDim.y + threadIdx.y, o = blockIdx.x * blockDim.x + threadIdx.x;
    int token = rows[row];
    if (token < 0 || o >= O) return;
    bool is_language = row < language_rows;
    const T* weight = is_language ? language : vision;
    float sum = bias && !is_language ? (float)bias[o] : 0;
    for (int i = 0; i < I; i++) sum += (float)x[(size_t)token * I + i] * (float)weight[(size_t)o * I + i];
    y[(size_t)token * O + o] = (T)sum;
}

// Version 2: 16 x 16 threads share tiles of x and W. A number read once from global memory is used 16 times, and the
// reads are coalesced: neighbouring threads read neighbours. Each multiplication still takes two reads from shared
// memory. The tile of W has a 17th column, so that the 16 rows that half a warp reads are in different banks.
template<typename T>
__global__ void expert_matmul_v2(const T* x, const T* language, const T* vision, const T* bias, const int* rows,
                                 int language_rows, T* y, int I, int O) {
    __shared__ float x_tile[16][16], weight_tile[16][17];
    int row = blockIdx.y * 16 + threadIdx.y, o = blockIdx.x * 16 + threadIdx.x;
    int token = rows[row], weight_row = blockIdx.x * 16 + threadIdx.y;
    bool is_language = row < language_rows;
    const T* weight = is_language ? language : vision;
    float sum = bias && !is_language && o < O ? (float)bias[o] : 0;
    for (int start = 0; start < I; start += 16) {
        int i = start + threadIdx.x;
        x_tile[threadIdx.y][threadIdx.x] = token >= 0 && i < I ? (float)x[(size_t)token * I + i] : 0;
        weight_tile[threadIdx.y][threadIdx.x] = weight_row < O && i < I ? (float)weight[(size_t)weight_row * I + i] : 0;
        __syncthreads();
        for (int k = 0; k < 16; k++) sum += x_tile[threadIdx.y][k] * weight_tile[threadIdx.x][k];
        __syncthreads();                                    // before the next round overwrites the tiles
    }
    if (token >= 0 && o < O) y[(size_t)token * O + o] = (T)sum;
}

// Version 3: register tiles. 16 x 16 threads compute 64 x 64 outputs, 4 x 4 each: 8 reads from shared memory serve 16
// multiplications. A thread's rows and columns are 16 apart, so that the lanes of a warp read neighbouring words; the
// tiles are transposed, with rows of 66 words, so that what a warp stores is spread over 32 banks.
template<typename T>
__global__ void expert_matmul_v3(const T* x, const T* language, const T* vision, const T* bias, const int* rows,
                                 int language_rows, T* y, int I, int O) {
    constexpr int TILE = 64, DEPTH = 16;
    __shared__ float x_tile[DEPTH][TILE + 2], weight_tile[DEPTH][TILE + 2];
    int first_row = blockIdx.y * TILE, first_o = blockIdx.x * TILE;
    bool is_language = first_row < language_rows;
    const T* weight = is_language ? language : vision;
    float sum[4][4] = {};
    for (int start = 0; start < I; start += DEPTH) {
        int i = start + threadIdx.x;
        for (int r = threadIdx.y; r < TILE; r += 16) {
            int token = rows[first_row + r], o = first_o + r;
            x_tile[threadIdx.x][r] = token >= 0 && i < I ? (float)x[(size_t)token * I + i] : 0;
            weight_tile[threadIdx.x][r] = o < O && i < I ? (float)weight[(size_t)o * I + i] : 0;
        }
        __syncthreads();
        for (int k = 0; k < DEPTH; k++) {
            float a[4], b[4];
            for (int j = 0; j < 4; j++) {
                a[j] = x_tile[k][threadIdx.y + 16 * j];
                b[j] = weight_tile[k][threadIdx.x + 16 * j];
            }
            for (int m = 0; m < 4; m++)
                for (int n = 0; n < 4; n++) sum[m][n] += a[m] * b[n];
        }
        __syncthreads();
    }
    for (int m = 0; m < 4; m++) {
        int token = rows[first_row + threadIdx.y + 16 * m];
        for (int n = 0; n < 4; n++) {
            int o = first_o + threadIdx.x + 16 * n;
            if (token >= 0 && o < O)
                y[(size_t)token * O + o] = (T)(sum[m][n] + (bias && !is_language ? (float)bias[o] : 0));
        }
    }
}

// Version 4: tensor cores, for half and bfloat16; I must be a multiple of 8. Four warps compute 64 x 64 outputs, each
// 32 x 32, as 2 x 4 products of 16 x 16 by 16 x 8: an mma.sync does 2048 multiplications, an instruction of a warp in
// version 3 does 32. To feed it, cp.async loads the next 32 columns from global memory while the tensor cores work on
// these, and ldmatrix loads a fragment for the whole warp. Rows of 40 numbers (80 bytes) put the 8 rows that it reads
// at once into different banks. Rows and columns beyond the ends are 0.
template<typename Half>
__global__ void __launch_bounds__(128)
expert_matmul_v4(const Half* x, const Half* language, const Half* vision, const Half* bias, const int* rows,
                 int language_rows, Half* y, int I, int O) {
    constexpr int TILE = 64, DEPTH = 32, STRIDE = DEPTH + 8;
    __shared__ __align__(16) Half x_tile[2][TILE][STRIDE], weight_tile[2][TILE][STRIDE];
    int first_row = blockIdx.y * TILE, first_o = blockIdx.x * TILE, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int warp_row = warp / 2 * 32, warp_o = warp % 2 * 32;
    bool is_language = first_row < language_rows;
    const Half* weight = is_language ? language : vision;

    auto load = [&](int start) {                            // columns start to start + 31, 8 in a copy
        int stage = start / DEPTH % 2;
        for (int c = threadIdx.x; c < TILE * DEPTH / 8; c += 128) {
            int r = c / (DEPTH / 8), i = c % (DEPTH / 8) * 8, token = rows[first_row + r], o = first_o + r;
            bool has_x = token >= 0 && start + i < I, has_weight = o < O && start + i < I;
            cp_async16(&x_tile[stage][r][i], has_x ? x + (size_t)token * I + start + i : x, has_x);
            cp_async16(&weight_tile[stage][r][i], has_weight ? weight + (size_t)o * I + start + i : weight, has_weight);
        }
        cp_async_commit();
    };

    float sum[2][4][4] = {};
    load(0);
    for (int start = 0; start < I; start += DEPTH) {
        load(start + DEPTH);                                // beyond I it loads zeros, which are not used
        cp_async_wait<1>();                                 // all but the newest
        __syncthreads();
        int stage = start / DEPTH % 2;
#pragma unroll                                              // indices known to the compiler keep arrays in registers
        for (int k = 0; k < DEPTH; k += 16) {
            unsigned a[2][4], b[4][2];
            for (int m = 0; m < 2; m++)
                ldmatrix_x4(a[m], &x_tile[stage][warp_row + 16 * m + lane % 16][k + lane / 16 * 8]);
            for (int n = 0; n < 4; n += 2) {                // two fragments of W at once
                unsigned two[4];
                ldmatrix_x4(two, &weight_tile[stage][warp_o + 8 * n + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
                b[n][0] = two[0], b[n][1] = two[1], b[n + 1][0] = two[2], b[n + 1][1] = two[3];
            }
            for (int m = 0; m < 2; m++)
                for (int n = 0; n < 4; n++) mma(sum[m][n], a[m], b[n], Half());
        }
        __syncthreads();                                    // before the next load overwrites this stage
    }
    cp_async_wait<0>();

#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) {                   // see mma.m16n8k16 in ptx.cuh
                int token = rows[first_row + warp_row + 16 * m + lane / 4 + j / 2 * 8];
                int o = first_o + warp_o + 8 * n + lane % 4 * 2 + j % 2;
                if (token >= 0 && o < O)
                    y[(size_t)token * O + o] = (Half)(sum[m][n][j] + (bias && !is_language ? (float)bias[o] : 0));
            }
}
