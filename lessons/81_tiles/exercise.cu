// 81 Tiles. Fill in the bodies, then: tinycogvlm learn check 81
//
// y = W x (+ bias)                      x (tokens, I), W (O, I) -> y (tokens, O); all arrays lie row by row
//
// It is the product of the visual expert's layers, so there are two matrices. The list `rows` says which token a row of
// the grid works on: token = rows[row], or -1 for none. Rows of the list before language_rows take the matrix
// `language`, those from there on take `vision`, and its bias if that is not null. A row of x, and of y, is rows[row].
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Version 1: a thread for each output, 16 x 16 threads a block. threadIdx.x and blockIdx.x count the outputs o,
// threadIdx.y and blockIdx.y the rows of the list, of which there are always whole blocks. O and I may be any numbers.
// T is float here: sum in float, and convert what you write, (T)sum.
template<typename T>
__global__ void expert_matmul_v1(const T* x, const T* language, const T* vision, const T* bias, const int* rows,
                                 int language_rows, T* y, int I, int O) {
    // your code
}

// Version 2: the same grid and the same block. The 256 threads of a block bring a tile of x and a tile of W, 16 x 16
// each, into shared memory, then every thread multiplies from there; then the next 16 columns. No thread may leave
// early: the others wait for it at the barriers.
template<typename T>
__global__ void expert_matmul_v2(const T* x, const T* language, const T* vision, const T* bias, const int* rows,
                                 int language_rows, T* y, int I, int O) {
    // your code
}
