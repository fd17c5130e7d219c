"""Every CUDA kernel (.cu) beside the Python that launches it.

The model's ops:
    launch.py                   rmsnorm.cu layernorm.cu rotary.cu swiglu.cu gelu.cu residual.cu expert_matmul.cu
    attention.py                attention.cu, and for decoded tokens attention_decode.cu
    patch_embed.py              patch_embed.cu
    products.py                 none: a prompt's products, by the fastest of several ways
A decoded token:
    gemv.py                     gemv.cu
    rows.py                     rows.cu
    sample.py                   sample.cu
While a model is loaded:
    quantise.py                 quantise.cu
Gradients and the loss. An Engine has none, so nothing in the package calls these, only tests:
    backward.py                 expert_matmul_backward.cu column_sum.cu, and the *_backward kernels of the files above
    softmax_cross_entropy.py    softmax_cross_entropy.cu
Headers: common.cuh (16 bytes at a time, sums), ptx.cuh (tensor cores, cp.async), weights.cuh (8 and 4 bits).

A launcher takes what its op takes, returns its output, and has `version`, a rung of the kernel's ladder; other options
(check, order, seed) go to kernels.load. Arrays are float32, float16, or bfloat16 as its bits in uint16: CuPy has no
bfloat16. NumPy arrays run on the CPU, CuPy arrays on their GPU, which must be the current one.
"""
