// The gradient of the expert matrices: dW_e = the sum over e's tokens t of dy[t]^T x[t]
//     dy (tokens, O), x (tokens, I) -> dlanguage and dvision (O, I), float whatever T is
// in ONE launch, blockIdx.z = 0 for language and 1 for vision, for any mix of images and text. T is float, half or
// __nv_bfloat16. `rows` and `language_rows` are as in expert_matmul.cu, `all_rows` is the length of `rows`. One thread
// sums each number in the order of the tokens, without atomics: two runs agree bit for bit.
//
// Only the backward pass needs it, which the package's Engine does not have (see backward.py). The gradient of x needs
// no kernel of its own: dx[t] = W_e(t)^T dy[t] is expert_matmul.cu with transposed matrices.
#include "ptx.cuh"

// Version 1: a thread for each number of dW, two reads for each multiplication.
template<typename T>
__global__ void expert_dweight_v1(const T* dy, const T* x, const int* rows, int language_rows, int all_rows,
                                  float* dlanguage, float* dvision, int I, int O) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, o = blockIdx.y * blockDim.y + threadIdx.y;
    if (i >= I || o >= O) return;
    int begin = blockIdx.z == 0 ? 0 : language_rows, end = blockIdx.z == 0 ? language_rows : all_rows;
    float sum = 0;
    for (int r = begin; r < end; r++) {
        int token = rows[r];
        if (token >= 0) sum += (float)dy[(size_t)token * O + o] * (float)x[(size_t)token * I + i];
    }
    (blockIdx.z == 0 ? dlanguage : dvision)[(size_t)o * I + i] = sum;
}

// Version 2: register tiles. 16 x 16 threads compute 64 x 64 numbers, 4 x 4 each, 16 tokens at a time: a number read
// once from global memory is used 64 times, and 8 reads from shared memory serve 16 multiplications. Both tiles have a
// token in each row, as global memory has, so that loads are coalesced and there are no bank conflicts.
template<typename T>
__global__ void expert_dweight_v2(const T* dy, const T* x, const int* rows, int language_rows, int all_rows,
                                  float* dlanguage, float* dvision, int I, int O) {
    constexpr int TILE = 64, DEPTH = 16;
    __shared__ float dy_tile[DEPTH][TILE], x_tile[DEPTH][TILE];
    int first_i = blockIdx.x * TILE, first_o = blockIdx.y * TILE, thread = threadIdx.y * 16 + threadIdx.x;
    int begin = blockIdx.z == 0 ? 0 : language_rows, end = blockIdx.z == 0 ? language_rows : all_rows;
    float sum[4][4] = {};
    for (int start = begin; start < end; start += DEPTH) {
        int column = thread % TILE, o = first_o + column, i = first_i + column;
        for (int k = thread / TILE; k < DEPTH; k += 4) {
            int token = rows[start + k];
            dy_tile[k][column] = token >= 0 && o < O ? (float)dy[(size_t)token * O + o] : 0;
            x_tile[k][column] = token >= 0 && i < I ? (float)x[(size_t)token * I + i] : 0;
        }
        __syncthreads();
        for (int k = 0; k < DEPTH; k++) {
            float a[4], b[4];
            for (int j = 0; j < 4; j++) {
                a[j] = dy_tile[k][threadIdx.y + 16 * j];
                b[j] = x_tile[k][threadIdx.x + 16 * j];
            }
            for (int m = 0; m < 4; m++)
                for (int n = 0; n < 4; n++) sum[m][n] += a[m] * b[n];
        }
        __syncthreads();                                    // before the next round overwrites the tiles
    }
    float* dweight = blockIdx.z == 0 ? dlanguage : dvision;
    for (int m = 0; m < 4; m++)
        for (int n = 0; n < 4; n++) {
            int o = first_o + threadIdx.y + 16 * m, i = first_i + threadIdx.x + 16 * n;
            if (o < O && i < I) dweight[(size_t)o * I + i] = sum[m][n];
        }
}

// Version 3: tensor cores, for half and bfloat16; I and O must be multiples of 8. As version 4 of expert_matmul.cu, but
// what is summed over, the tokens, are the rows of both tiles and not their columns: ldmatrix transposes on the way.
template<typename Half>
__global__ void __launch_bounds__(128)
expert_dweight_v3(const Half* dy, const Half* x, const int* rows, int language_rows, int all_rows, float* dlanguage,
                  float* dvision, int I, int O) {
    constexpr int TILE = 64, DEPTH = 32, STRIDE = TILE + 8;
    __shared__ __align__(16) Half dy_tile[2][DEPTH][STRIDE], x_tile[2][DEPTH][STRIDE];
    int first_i = blockIdx.x * TILE, first_o = blockIdx.y * TILE, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int warp_o = warp / 2 * 32, warp_i = warp % 2 * 32;
    int begin = blockIdx.z == 0 ? 0 : language_rows, end = blockIdx.z == 0 ? language_rows : all_rows;

    auto load = [&](int start) {                            // 32 tokens, 8 columns in a copy
        int stage = start / DEPTH % 2;
        for (int c = threadIdx.x; c < DEPTH * TILE / 8; c += 128) {
            int k = c / (TILE / 8), column = c % (TILE / 8) * 8, token = start < end ? rows[start + k] : -1;
            bool has_dy = token >= 0 && first_o + column < O, has_x = token >= 0 && first_i + column < I;
            cp_async16(&dy_tile[stage][k][column], has_dy ? dy + (size_t)token * O + first_o + column : dy, has_dy);
            cp_async16(&x_tile[stage][k][column], has_x ? x + (size_t)token * I + first_i + column : x, has_x);
        }
        cp_async_commit();
    };

    float sum[2][4][4] = {};
    load(begin);
    for (int start = begin; start < end; start += DEPTH) {
        load(start + DEPTH);                                // beyond the end it loads zeros, which are not used
        cp_async_wait<1>();                                 // all but the newest
        __syncthreads();
        int stage = start / DEPTH % 2;
#pragma unroll                                              // indices known to the compiler keep arrays in registers
        for (int k = 0; k < DEPTH; k += 16) {
            unsigned a[2][4], b[4][2];
            for (int m = 0; m < 2; m++)
                ldmatrix_x4_trans(a[m], &dy_tile[stage][k + lane / 16 * 8 + lane % 8]
                                                [warp_o + 16 * m + lane / 8 % 2 * 8]);
            for (int n = 0; n < 4; n += 2) {                // two fragments of x at once
                unsigned two[4];
                ldmatrix_x4_trans(two, &x_tile[stage][k + lane / 8 % 2 * 8 + lane % 8]
                                              [warp_i + 8 * n + lane / 16 * 8]);
                b[n][0] = two[0], b[n][1] = two[1], b[n + 1][0] = two[2], b[n + 1][1] = two[3];
            }
            for (int m = 0; m < 2; m++)
                for (int n = 0; n < 4; n++) mma(sum[m][n], a[m], b[n], Half());
        }
        __syncthreads();                                    // before the next load overwrites this stage
    }
    cp_async_wait<0>();

    float* dweight = blockIdx.z == 0 ? dlanguage : dvision;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) {                   // see mma.m16n8k16 in ptx.cuh
                int o = first_o + warp_o + 16 * m + lane / 4 + j / 2 * 8;
                int i = first_i + warp_i + 8 * n + lane % 4 * 2 + j % 2;
                if (o < O && i < I) dweight[(size_t)o * I + i] = sum[m][n][j];
            }
}
