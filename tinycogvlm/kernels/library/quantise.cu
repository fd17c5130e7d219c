// Weights in 8 or 4 bits, as storage/quantise.py makes them and to the same bit: 64 neighbours in a row share a scale.
#include "common.cuh"

constexpr float LARGEST = 3.402823466e38f;                  // of all floats
constexpr int GROUP = 64, LANES = 8, OWN = GROUP / LANES;   // a group is shared by 8 lanes: lane j has j, 8 + j, 16 + j ...

// Over the 8 lanes of a group, in every lane. The sums are NumPy's, which adds 64 numbers in just this order.
__device__ float group_sum(float value) {
    for (int with = 1; with < LANES; with *= 2) value += __shfl_xor_sync(0xffffffff, value, with);
    return value;
}
__device__ float group_max(float value) {
    for (int with = 1; with < LANES; with *= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, with));
    return value;
}

// w (groups, 64) -> codes (groups, 64 BITS / 8), scales (groups,), the bits of bfloat16; failed[0] = 1 where a weight is
// NaN or infinite. T is float, half or __nv_bfloat16. The _rn functions keep a product and a sum from becoming one
// instruction, whose single rounding is not NumPy's.
template<typename T, int BITS>
__global__ void quantise(const T* w, unsigned char* codes, unsigned short* scales, int* failed, size_t groups) {
    const float CUTS[] = {1, .95f, .9f, .85f, .8f};
    constexpr int ZERO = 1 << (BITS - 1), CUT_COUNT = BITS == 4 ? 5 : 1;
    size_t group = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    int lane = threadIdx.x % LANES;
    bool real = group < groups;                             // the lanes of no group only take part in the shuffles
    float x[OWN], highest = -LARGEST, lowest = LARGEST;
    int code[OWN];
    for (int i = 0; i < OWN; i++) {
        x[i] = real ? (float)w[group * GROUP + i * LANES + lane] : 0;
        if (!(fabsf(x[i]) <= LARGEST)) *failed = 1;
        highest = fmaxf(highest, x[i]), lowest = fminf(lowest, x[i]);
    }
    highest = group_max(highest), lowest = -group_max(-lowest);
    float largest = highest > -lowest ? highest : lowest, least = 0;
    if (largest == 0) largest = 0;                          // and not -0
    unsigned short stored = 0;
    for (int cut = 0; cut < CUT_COUNT; cut++) {
        unsigned short bits = __float_as_uint(__fmul_rn(largest, -CUTS[cut] / ZERO)) + 0xFFFF >> 16;    // away from zero
        float scale = __uint_as_float((unsigned)bits << 16), error = 0;
        int trial[OWN];
        for (int i = 0; i < OWN; i++) {
            float rounded = fminf(fmaxf(rintf(__fdiv_rn(x[i], scale == 0 ? 1 : scale)), -ZERO), ZERO - 1);
            float off = __fsub_rn(__fmul_rn(rounded, scale), x[i]);
            error = __fadd_rn(error, __fmul_rn(off, off)), trial[i] = (int)rounded + ZERO;
        }
        error = group_sum(error);
        if (cut == 0 || error < least) {
            least = error, stored = bits;
            for (int i = 0; i < OWN; i++) code[i] = trial[i];
        }
    }
    if (real && lane == 0) scales[group] = stored;
    for (int i = 0; i < OWN; i++) {
        size_t at = group * GROUP + i * LANES + lane;
        int right = __shfl_down_sync(0xffffffff, code[i], 1);
        if (BITS == 8 && real) codes[at] = code[i];
        if (BITS == 4 && real && lane % 2 == 0) codes[at / 2] = code[i] | right << 4;
    }
}
