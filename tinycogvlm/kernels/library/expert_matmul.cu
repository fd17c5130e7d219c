// The visual expert's matrix product: y[t] = W_e(t) x[t] (+ bias), where each token's modality e picks the matrix
//     x (tokens, I), W_language and W_vision (O, I), bias (O) of the vision expert or null -> y (tokens, O)
// in ONE launch for any mix of images and text. Wang et al. 2023, section 2.2 (arXiv 2311.03079). T is float, half or
// __nv_bfloat16.
//
// `rows` lists the tokens, first those of the language expert, then those of the vision expert, each part padded with
// -1 to a multiple of 64: so a tile of 64 rows has one expert. `language_rows` is where the vision expert's part
// begins.
#include "common.cuh"
#include "ptx.cuh"
#include "weights.cuh"

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
//
// Neighbouring blocks have the same outputs and other rows: blocks that run at the same time read the same part of W,
// so each part comes from memory once, and x, which is small, stays in the L2 cache.
template<typename Half>
__global__ void __launch_bounds__(128)
expert_matmul_v4(const Half* x, const Half* language, const Half* vision, const Half* bias, const int* rows,
                 int language_rows, Half* y, int I, int O) {
    constexpr int TILE = 64, DEPTH = 32, STRIDE = DEPTH + 8;
    __shared__ __align__(16) Half x_tile[2][TILE][STRIDE], weight_tile[2][TILE][STRIDE];
    int first_row = blockIdx.x * TILE, first_o = blockIdx.y * TILE, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int warp_row = warp / 2 * 32, warp_o = warp % 2 * 32;
    bool is_language = first_row < language_rows;
    const Half* weight = is_language ? language : vision;

    // A thread copies 8 numbers of the same two rows of x and of W in every step.
    int row = threadIdx.x / 4, column = threadIdx.x % 4 * 8;
    const Half *from_x[2], *from_weight[2];
    bool has_x[2], has_weight[2];
#pragma unroll                                              // indices known to the compiler keep arrays in registers
    for (int c = 0; c < 2; c++) {
        int token = rows[first_row + row + 32 * c], o = first_o + row + 32 * c;
        has_x[c] = token >= 0, has_weight[c] = o < O;
        from_x[c] = x + (has_x[c] ? (size_t)token * I + column : 0);
        from_weight[c] = weight + (has_weight[c] ? (size_t)o * I + column : 0);
    }
    auto load = [&](int start) {                            // columns start to start + 31
        int stage = start / DEPTH % 2;
        bool inside = start + column < I;
#pragma unroll
        for (int c = 0; c < 2; c++) {
            cp_async16(&x_tile[stage][row + 32 * c][column], from_x[c] + start, inside && has_x[c]);
            cp_async16(&weight_tile[stage][row + 32 * c][column], from_weight[c] + start, inside && has_weight[c]);
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
#pragma unroll
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

// A warp's 32 x 64 part of y, in fragments: sum += x W^T over the columns of a tile of x and one of W, whose rows have
// PACKS packs. a_place, b_place: where a lane reads its first matrices in them.
template<typename Half, int PACKS>
__device__ void multiply(float (&sum)[2][8][4], const float4* x, const int (&a_place)[2], const float4* weight,
                         const int (&b_place)[2]) {
#pragma unroll
    for (int k = 0; k < PACKS; k += 2) {
        unsigned a[2][4], b[8][2];
#pragma unroll
        for (int m = 0; m < 2; m++) ldmatrix_x4(a[m], x + a_place[k / 2] + 16 * m * PACKS);
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
            unsigned two[4];
            ldmatrix_x4(two, weight + b_place[k / 2] + 8 * n * PACKS);
            b[n][0] = two[0], b[n][1] = two[1], b[n + 1][0] = two[2], b[n + 1][1] = two[3];
        }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < 8; n++) mma(sum[m][n], a[m], b[n], Half());
    }
}

// Version 5: 128 x 128 outputs of 8 warps, so that a number from memory is used twice as often; 32 x 64 of them a warp:
// 6 ldmatrix feed 16 mma.sync, where 4 fed 8. Three steps of columns are on their way while the fourth is multiplied.
// One barrier a step: it shows what has arrived, and after it nobody reads the stage of the step before, which the next
// load overwrites. `rows` must be padded to multiples of 128. Dynamic shared memory: 64 KB.
//
// A row of a tile is 64 bytes, four packs of 16, without padding. Instead pack p of row r lies at p ^ (r / 2 % 4): the
// same pack of 8 rows is in all 32 banks.
extern __shared__ float4 stages[];                          // [4][x, then W][128 rows][4 packs]

template<typename Half>
__global__ void __launch_bounds__(256, 2)
expert_matmul_v5(const Half* x, const Half* language, const Half* vision, const Half* bias, const int* rows,
                 int language_rows, Half* y, int I, int O) {
    constexpr int TILE = 128, DEPTH = 32, STAGES = 4, PACKS = DEPTH / 8;
    int first_row = blockIdx.x * TILE, first_o = blockIdx.y * TILE, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int warp_row = warp / 2 * 32, warp_o = warp % 2 * 64;
    bool is_language = first_row < language_rows;
    const Half* weight = is_language ? language : vision;

    int row = threadIdx.x / PACKS, column = threadIdx.x % PACKS * 8;    // a thread copies a pack of each of 4 rows
    const Half *from_x[2], *from_weight[2];
    bool has_x[2], has_weight[2];
#pragma unroll
    for (int c = 0; c < 2; c++) {
        int token = rows[first_row + row + 64 * c], o = first_o + row + 64 * c;
        has_x[c] = token >= 0, has_weight[c] = o < O;
        from_x[c] = x + (has_x[c] ? (size_t)token * I + column : 0);
        from_weight[c] = weight + (has_weight[c] ? (size_t)o * I + column : 0);
    }
    auto place = [](int r, int pack) { return r * PACKS + (pack ^ r / 2 % 4); };
    int place_x = place(row, column / 8);
    auto load = [&](int step) {
        int start = step * DEPTH;
        float4* stage = stages + step % STAGES * (2 * TILE * PACKS) + place_x;
        bool inside = start + column < I;
#pragma unroll
        for (int c = 0; c < 2; c++) {
            cp_async16(stage + 64 * c * PACKS, from_x[c] + start, inside && has_x[c]);
            cp_async16(stage + (TILE + 64 * c) * PACKS, from_weight[c] + start, inside && has_weight[c]);
        }
        cp_async_commit();
    };

    int a_place[2], b_place[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        a_place[k] = place(warp_row + lane % 16, 2 * k + lane / 16);
        b_place[k] = place(TILE + warp_o + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2);
    }
    float sum[2][8][4] = {};
    for (int step = 0; step < STAGES - 1; step++) load(step);
    for (int step = 0; step * DEPTH < I; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        load(step + STAGES - 1);                            // beyond I it loads zeros, which are not used
        const float4* stage = stages + step % STAGES * (2 * TILE * PACKS);
        multiply<Half, PACKS>(sum, stage, a_place, stage, b_place);
    }
    cp_async_wait<0>();

#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int token = rows[first_row + warp_row + 16 * m + lane / 4 + j / 2 * 8];
#pragma unroll
            for (int n = 0; n < 8; n++) {
                int o = first_o + warp_o + 8 * n + lane % 4 * 2 + j % 2;
                if (token >= 0 && o < O)
                    y[(size_t)token * O + o] = (Half)(sum[m][n][j] + (bias && !is_language ? (float)bias[o] : 0));
            }
        }
}

// Version 6: version 5 for weights that are stored as codes (weights.cuh), so that rows.cu need not write each matrix
// out before it is read. Codes come by cp.async, a quarter or half of the bytes; when they are there, each thread turns
// 16 of them into numbers of x's type, the very ones that rows.cu would write, for the step after this one. Of these
// there are two tiles: one is multiplied while the other is written, so one barrier a step is enough. I must be a
// multiple of 64. Dynamic shared memory: 48 KB, and 2 KB for each bit of a code.
template<typename Half, typename W>
__global__ void __launch_bounds__(256, 2)
expert_matmul_v6(const Half* x, const unsigned char* language, const __nv_bfloat16* language_scales,
                 const unsigned char* vision, const __nv_bfloat16* vision_scales, const Half* bias, const int* rows,
                 int language_rows, Half* y, int I, int O) {
    constexpr int TILE = 128, DEPTH = 32, STAGES = 4, PACKS = DEPTH / 8, BITS = Weights<W>::BITS;
    constexpr int PIECES = BITS / 4, CODES = TILE * PIECES; // of 16 bytes: in a row, in a tile
    float4 *numbers = stages + STAGES * TILE * PACKS, *codes = numbers + 2 * TILE * PACKS;     // after the tiles of x
    int first_row = blockIdx.x * TILE, first_o = blockIdx.y * TILE, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int warp_row = warp / 2 * 32, warp_o = warp % 2 * 64;
    bool is_language = first_row < language_rows;

    int row = threadIdx.x / PACKS, column = threadIdx.x % PACKS * 8;    // a thread copies a pack of 2 rows of x
    const Half* from_x[2];
    bool has_x[2];
#pragma unroll
    for (int c = 0; c < 2; c++) {
        int token = rows[first_row + row + 64 * c];
        has_x[c] = token >= 0;
        from_x[c] = x + (has_x[c] ? (size_t)token * I + column : 0);
    }
    int code_row = threadIdx.x / PIECES, code_o = first_o + code_row;   // and a piece of a row of codes
    const unsigned char* from_codes = (is_language ? language : vision) + (size_t)min(code_o, O - 1) * I * BITS / 8
                                      + threadIdx.x % PIECES * 16;
    auto place = [](int r, int pack) { return r * PACKS + (pack ^ r / 2 % 4); };
    int place_x = place(row, column / 8);
    auto load = [&](int step) {
        int start = step * DEPTH;
#pragma unroll
        for (int c = 0; c < 2; c++)
            cp_async16(stages + step % STAGES * (TILE * PACKS) + place_x + 64 * c * PACKS, from_x[c] + start,
                       start + column < I && has_x[c]);
        if (threadIdx.x < CODES)
            cp_async16(codes + step % STAGES * CODES + threadIdx.x, from_codes + start * BITS / 8,
                       start < I && code_o < O);
        cp_async_commit();
    };

    struct alignas(2 * BITS) Part { unsigned char of[2 * BITS]; };      // 16 codes
    int r = threadIdx.x / 2, h = threadIdx.x % 2;           // a thread converts columns 16 h to 16 h + 15 of row r
    const __nv_bfloat16* scales = (is_language ? language_scales : vision_scales)
                                  + (size_t)min(first_o + r, O - 1) * (I / GROUP);
    auto scale_of = [&](int step) { return (float)scales[min(step * DEPTH, I - 1) / GROUP]; };
    auto convert = [&](int step, float scale) {
        uint4 pack;
        *(Part*)&pack = ((const Part*)(codes + step % STAGES * CODES))[threadIdx.x];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            Pack<Half> to;
#pragma unroll
            for (int i = 0; i < 8; i++) to.of[i] = (Half)(Weights<W>::of(pack, 8 * j + i) * scale);
            ((Pack<Half>*)numbers)[step % 2 * TILE * PACKS + place(r, 2 * h + j)] = to;
        }
    };

    int a_place[2], b_place[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        a_place[k] = place(warp_row + lane % 16, 2 * k + lane / 16);
        b_place[k] = place(warp_o + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2);
    }
    float sum[2][8][4] = {};
    for (int step = 0; step < STAGES - 1; step++) load(step);
    cp_async_wait<STAGES - 2>();                            // the codes of the first step
    __syncthreads();
    convert(0, scale_of(0));
    for (int step = 0; step * DEPTH < I; step++) {
        cp_async_wait<STAGES - 3>();                        // x of this step, the codes of the next one
        __syncthreads();
        load(step + STAGES - 1);
        float scale = scale_of(step + 1);                   // on its way while tensor cores work
        const float4 *x_stage = stages + step % STAGES * (TILE * PACKS), *stage = numbers + step % 2 * (TILE * PACKS);
        multiply<Half, PACKS>(sum, x_stage, a_place, stage, b_place);
        convert(step + 1, scale);                           // beyond I: of zeros, and not used
    }
    cp_async_wait<0>();

#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int token = rows[first_row + warp_row + 16 * m + lane / 4 + j / 2 * 8];
#pragma unroll
            for (int n = 0; n < 8; n++) {
                int o = first_o + warp_o + 8 * n + lane % 4 * 2 + j % 2;
                if (token >= 0 && o < O)
                    y[(size_t)token * O + o] = (Half)(sum[m][n][j] + (bias && !is_language ? (float)bias[o] : 0));
            }
        }
}
