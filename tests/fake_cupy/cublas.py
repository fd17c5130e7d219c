"""cupy_backends.cuda.libs.cublas: one function, by NumPy, over the stand-in's memory."""
import ctypes

import numpy as np

from tinycogvlm.nn.arrays import bfloat16_bits, from_bfloat16_bits

from .cuda import runtime
from .memory import machine

CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT = 0, 1, 68, -1


class CUBLASError(RuntimeError):
    pass


def gemmEx(handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc,
           computeType, algo):
    """C = alpha op(A) op(B) + beta C, all of them by columns: op(A) (m, k), op(B) (k, n), C (m, n)"""
    if machine.capturing:
        raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED")
    if not Atype == Btype == Ctype or computeType != CUBLAS_COMPUTE_32F:
        raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED")
    bits = Atype == runtime.CUDA_R_16BF
    dtype = np.uint16 if bits else np.float16

    def matrix(address, rows, columns, leading):
        if leading < rows:
            raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE")
        memory = (ctypes.c_char * (2 * (leading * (columns - 1) + rows))).from_address(address)
        return np.ndarray((rows, columns), dtype, memory, strides=(2, 2 * leading))

    def number(array):
        return from_bfloat16_bits(array) if bits else array.astype(np.float32)

    def op(address, trans, rows, columns, leading):
        return number(matrix(address, columns, rows, leading).T if trans == CUBLAS_OP_T
                      else matrix(address, rows, columns, leading))
    alpha, beta = (ctypes.c_float.from_address(scalar).value for scalar in (alpha, beta))
    y = matrix(C, m, n, ldc)
    sums = alpha * (op(A, transa, m, k, lda) @ op(B, transb, k, n, ldb))
    if beta:
        sums += beta * number(y)
    y[:] = bfloat16_bits(sums) if bits else sums.astype(np.float16)
    machine.done["gemm"] += 1
