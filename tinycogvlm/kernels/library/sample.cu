// The next token of each row, chosen as generate.Sampling chooses it:
//     logits (rows, V) -> chosen (rows)
// The ids stay in device memory, where the embedding of the next step reads them: a captured graph needs no host
// between two tokens. T is float, half or __nv_bfloat16.
//
// seen (rows, V) or null: the tokens in the text of each row. Their logits are divided by `penalty` if above 0,
// otherwise multiplied (Keskar et al. 2019, arXiv 1909.05858), and stay finite; the chosen token becomes one of them.
//
// A row that has a NaN, or whose largest logit is infinite, gets -1: no token would mean anything.
//
// KEYS. A token's key is made of the bits of its logit, changed so that they compare as whole numbers, and below them
// of its id, counted downwards: larger keys are better, among equal logits the lowest id has the largest key, and no
// two keys are equal. In the order of their keys, tokens are as NumPy's stable argsort has them.
//
// WEIGHTS. exp((logit - best) / temperature) as a whole number of 2^-40: sums of whole numbers are exact in any order,
// so that every version and any number of threads choose the same token. The best token's weight is 2^40.
//
// The draw inverts the distribution function. Of the tokens from the best down it takes the first at which the sum of
// the weights exceeds `uniform` (in [0, 1)) times the sum of all that are left: after top_k, the k best; after top_p,
// those before which less than that share of the k's sum has accumulated. uniforms (steps, rows) and step are in device
// memory: with the numbers of each row's NumPy generator the tokens are those of Sampling.choose.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef unsigned long long Key;
constexpr Key ONE = 1ull << 40;
constexpr int ID_BITS = 28, DIGIT = 5;                      // a key has 60 bits, 12 digits

constexpr float LARGEST = 3.402823466e38f;
__device__ bool is_finite(float x) { return fabsf(x) <= LARGEST; }

template<typename T>
struct Row {
    const T* logits;
    const bool* seen;
    float penalty;
    int V;
    const int* few = nullptr;                               // if not null, these V tokens are the row: see version 3
    __device__ Row(const T* logits, const bool* seen, float penalty, int V)
        : logits(logits + (size_t)blockIdx.x * V), seen(seen ? seen + (size_t)blockIdx.x * V : seen), penalty(penalty),
          V(V) {}
    __device__ Key key(int i) const {
        int id = few ? few[i] : i;
        float x = logits[id];
        if (seen && seen[id] && is_finite(x)) x = fminf(fmaxf(x > 0 ? x / penalty : x * penalty, -LARGEST), LARGEST);
        unsigned bits = __float_as_uint(x == 0 ? 0 : x);    // -0 is 0
        bits = bits & 0x80000000 ? ~bits : bits | 0x80000000;
        if (x != x) bits = ~0u;                             // a NaN of either sign is the largest: choose_none
        return (Key)bits << ID_BITS | ((1u << ID_BITS) - 1 - id);
    }
};

__device__ int id_of(Key key) { return (1u << ID_BITS) - 1 - (unsigned)key % (1u << ID_BITS); }
__device__ float logit_of(Key key) {
    unsigned bits = key >> ID_BITS;
    return __uint_as_float(bits & 0x80000000 ? bits ^ 0x80000000 : ~bits);
}

struct Weights {
    Key best;
    float temperature;
    __device__ Key of(Key key) const {
        if (key >> ID_BITS == best >> ID_BITS) return ONE;
        return (Key)(expf((logit_of(key) - logit_of(best)) / temperature) * ONE);
    }
};

// The largest (the sum) of the values of a block's threads, in every thread. blockDim.x must be a multiple of 32.
struct Largest { static __device__ Key of(Key a, Key b) { return a > b ? a : b; } };
struct Sum { static __device__ Key of(Key a, Key b) { return a + b; } };
template<typename Reduce>
__device__ Key of_block(Key value) {
    __shared__ Key partial[32];                             // of each warp
    auto of_warp = [](Key value) {
        for (int distance = 16; distance > 0; distance /= 2)
            value = Reduce::of(value, __shfl_xor_sync(0xffffffff, value, distance));
        return value;
    };
    value = of_warp(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    value = of_warp(threadIdx.x % 32 < blockDim.x / 32 ? partial[threadIdx.x % 32] : 0);
    __syncthreads();                                        // before the next one overwrites the partial ones
    return value;
}

// The best token below the key `bound`, 0 if there is none.
template<typename T>
__device__ Key best_below(const Row<T>& row, Key bound) {
    Key best = 0;
    for (int id = threadIdx.x; id < row.V; id += blockDim.x) {
        Key key = row.key(id);
        if (key < bound && key > best) best = key;
    }
    return of_block<Largest>(best);
}

__device__ void choose(Key key, int* chosen, bool* seen, int V) {
    if (threadIdx.x > 0) return;
    chosen[blockIdx.x] = id_of(key);
    if (seen) seen[(size_t)blockIdx.x * V + id_of(key)] = true;
}

// Choose -1 where the row's largest logit is not finite. Whether it was so.
__device__ bool choose_none(Key best, int* chosen) {
    if (is_finite(logit_of(best))) return false;
    if (threadIdx.x == 0) chosen[blockIdx.x] = -1;
    return true;
}

// ---------------------------------------------------------------------------------------------------------- greedy

// Version 1: a thread (a block of one) for each row.
template<typename T>
__global__ void argmax_v1(const T* logits, bool* seen, float penalty, int* chosen, int V) {
    Row<T> row(logits, seen, penalty, V);
    Key best = 0;
    for (int id = 0; id < V; id++)
        best = max(best, row.key(id));
    if (!choose_none(best, chosen)) choose(best, chosen, seen, V);
}

// Version 2: a block for each row. Neighbours read neighbours, and a row of 32000 logits, for which one thread waits
// 32000 times, is 32 loads for each of 1024 threads, all in flight at once.
template<typename T>
__global__ void __launch_bounds__(1024)
argmax_v2(const T* logits, bool* seen, float penalty, int* chosen, int V) {
    Key best = best_below(Row<T>(logits, seen, penalty, V), ~0ull);
    if (!choose_none(best, chosen)) choose(best, chosen, seen, V);
}

// --------------------------------------------------------------------------------------------------------- sampling

// The whole number that a sum of weights must exceed to be more than `share` of the sum (or: that share, or more).
__device__ Key share_of(Key sum, double share, bool or_equal) {
    double product = share * sum;
    Key whole = (Key)(or_equal ? ceil(product) - 1 : floor(product));
    return share < 1 && whole < sum ? whole : sum - 1;
}

// Version 1: walk down the tokens, one scan of the row for each step. Three walks: the sum of the k best, the end of
// top_p's part and its sum, the draw. With top_k = 50 it may be 150 scans; without, three for each token.
template<typename T>
__global__ void __launch_bounds__(1024)
sample_v1(const T* logits, bool* seen, float penalty, float temperature, int top_k, double top_p,
          const double* uniforms, const int* step, int* chosen, int V) {
    Row<T> row(logits, seen, penalty, V);
    Weights weights{best_below(row, ~0ull), temperature};
    if (choose_none(weights.best, chosen)) return;
    Key sum = 0, through = 0, key = weights.best;
    for (int k = 0; k < top_k; k++, key = best_below(row, key)) sum += weights.of(key);

    Key end = share_of(sum, top_p, true);
    for (key = weights.best, sum = 0; sum <= end; key = best_below(row, key)) sum += weights.of(key);

    double uniform = uniforms[(size_t)(step ? *step : 0) * gridDim.x + blockIdx.x];
    Key target = share_of(sum, uniform, false);
    for (key = weights.best, through = ONE; through <= target; through += weights.of(key)) key = best_below(row, key);
    choose(key, chosen, seen, V);
}

// The weight of all tokens with one digit, 64 bits as two numbers of 32, to which shared memory can add in one step
// (for 64 bits it retries until no other thread came in between); how many tokens they are; and one of them. Each lane
// of a warp has its own bins: most logits share their first digits, and lanes that add to one number wait for each
// other.
struct Bins {
    unsigned low[32][33], high[32][33], count[32][33];      // [digit][lane]
    int id[32];
    __device__ void clear() {
        for (int i = threadIdx.x; i < 32 * 32; i += blockDim.x) {
            int digit = i / 32, lane = i % 32;
            low[digit][lane] = high[digit][lane] = count[digit][lane] = 0;
            if (lane == 0) id[digit] = 0;
        }
    }
    __device__ void add(int digit, Key mass, int token) {
        int lane = threadIdx.x % 32;
        unsigned old = atomicAdd(&low[digit][lane], (unsigned)mass);
        unsigned carry = (unsigned)(mass >> 32) + (old + (unsigned)mass < old);
        if (carry) atomicAdd(&high[digit][lane], carry);
        atomicAdd(&count[digit][lane], 1);
        atomicExch(&id[digit], token);
    }
};

// The first token from the best down at which the sum of the weights exceeds `target`; only keys of at least `floor`
// count. sum: the weights up to it, its own included. If `weights` is null, each token weighs 1.
//
// A radix select: each of the 32 values of the keys' first digit is a bin; the bin in which the sum passes the target
// holds the token, and its tokens are distinguished by their next digit, until one is left.
template<typename T>
__device__ Key select(const Row<T>& row, Key floor, Key target, const Weights* weights, Key& sum) {
    __shared__ Bins bins;
    __shared__ int digit, tokens;
    __shared__ Key above;                                   // the sum of what is better than the bin
    Key prefix = 0;                                         // the digits that are known
    sum = 0;
    for (int shift = 32 + ID_BITS - DIGIT; ; shift -= DIGIT) {
        bins.clear();
        __syncthreads();
        for (int id = threadIdx.x; id < row.V; id += blockDim.x) {
            Key key = row.key(id);
            if (key >= floor && key >> shift >> DIGIT == prefix)
                bins.add(key >> shift & 31, weights ? weights->of(key) : 1, id);
        }
        __syncthreads();
        if (threadIdx.x < 32) {                             // lane l has the l-th bin from the best down
            int mine = 31 - threadIdx.x, count = 0;
            Key own = 0;
            #pragma unroll 8                                // all 32 at once: more registers than 1024 threads have
            for (int i = 0; i < 32; i++) {
                own += ((Key)bins.high[mine][i] << 32) + bins.low[mine][i];
                count += bins.count[mine][i];
            }
            Key through = own;                              // after the k-th step: of 2^k bins, this one the last
            for (int distance = 1; distance < 32; distance *= 2) {
                Key other = __shfl_up_sync(0xffffffff, through, distance);
                if (threadIdx.x >= distance) through += other;
            }
            unsigned passing = __ballot_sync(0xffffffff, sum + through > target);
            if (threadIdx.x == __ffs(passing) - 1) digit = mine, tokens = count, above = sum + through - own;
        }
        __syncthreads();
        prefix = prefix << DIGIT | digit, sum = above;
        if (tokens == 1) break;
        __syncthreads();                                    // before the next round changes them
    }
    Key key = row.key(bins.id[digit]);
    sum += weights ? weights->of(key) : 1;
    __syncthreads();                                        // before the next select does
    return key;
}

// Version 2: two or three radix selects, each a few scans of the row, whatever top_k and top_p leave over.
template<typename T>
__global__ void __launch_bounds__(1024)
sample_v2(const T* logits, bool* seen, float penalty, float temperature, int top_k, double top_p,
          const double* uniforms, const int* step, int* chosen, int V) {
    Row<T> row(logits, seen, penalty, V);
    Weights weights{best_below(row, ~0ull), temperature};
    if (choose_none(weights.best, chosen)) return;
    Key floor = 0, sum = 0, through;
    if (top_k < V) floor = select(row, 0, top_k - 1, nullptr, through);
    for (int id = threadIdx.x; id < V; id += blockDim.x) {
        Key key = row.key(id);
        if (key >= floor) sum += weights.of(key);
    }
    sum = of_block<Sum>(sum);
    if (top_p < 1) floor = select(row, floor, share_of(sum, top_p, true), &weights, sum);
    double uniform = uniforms[(size_t)(step ? *step : 0) * gridDim.x + blockIdx.x];
    choose(select(row, floor, share_of(sum, uniform, false), &weights, through), chosen, seen, V);
}

// Version 3: when a select has found the worst token that counts, and those from it up are few, as after top_k, they
// are listed in shared memory, and nothing after that scans the row.
template<typename T>
__device__ void keep(Row<T>& row, Key floor) {
    constexpr int MOST = 2048;
    __shared__ int few[MOST], count;
    if (row.few) return;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    for (int id = threadIdx.x; id < row.V; id += blockDim.x)
        if (row.key(id) >= floor) {
            int place = atomicAdd(&count, 1);
            if (place < MOST) few[place] = id;              // in any order: sums of whole numbers are the same
        }
    __syncthreads();
    if (count <= MOST) row.few = few, row.V = count;
}

template<typename T>
__global__ void __launch_bounds__(1024, 1)
sample_v3(const T* logits, bool* seen, float penalty, float temperature, int top_k, double top_p,
          const double* uniforms, const int* step, int* chosen, int V) {
    Row<T> row(logits, seen, penalty, V);
    Weights weights{best_below(row, ~0ull), temperature};
    if (choose_none(weights.best, chosen)) return;
    Key floor = 0, sum = 0, through;
    if (top_k < V) {
        floor = select(row, 0, top_k - 1, nullptr, through);
        keep(row, floor);
    }
    for (int i = threadIdx.x; i < row.V; i += blockDim.x) {
        Key key = row.key(i);
        if (key >= floor) sum += weights.of(key);
    }
    sum = of_block<Sum>(sum);
    if (top_p < 1) {
        floor = select(row, floor, share_of(sum, top_p, true), &weights, sum);
        keep(row, floor);
    }
    double uniform = uniforms[(size_t)(step ? *step : 0) * gridDim.x + blockIdx.x];
    choose(select(row, floor, share_of(sum, uniform, false), &weights, through), chosen, seen, V);
}
