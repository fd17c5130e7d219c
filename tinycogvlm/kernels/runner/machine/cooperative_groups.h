// The groups of threads within a block: cooperative groups, of which this is the part that most kernels use, in plain
// CUDA C: barriers, shuffles, votes and sums. Both the CPU and the GPU are given this file.
#pragma once

#define CG_FUNCTION __device__ __forceinline__

namespace cooperative_groups {

// ------------------------------------------------------------------------------------------------ the whole block

struct thread_block {
    CG_FUNCTION void sync() const { __syncthreads(); }
    CG_FUNCTION unsigned thread_rank() const {
        return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    }
    CG_FUNCTION unsigned num_threads() const { return blockDim.x * blockDim.y * blockDim.z; }
    CG_FUNCTION unsigned size() const { return num_threads(); }
    CG_FUNCTION dim3 group_index() const { return dim3(blockIdx.x, blockIdx.y, blockIdx.z); }
    CG_FUNCTION dim3 thread_index() const { return dim3(threadIdx.x, threadIdx.y, threadIdx.z); }
    CG_FUNCTION dim3 dim_threads() const { return dim3(blockDim.x, blockDim.y, blockDim.z); }
    CG_FUNCTION dim3 group_dim() const { return dim_threads(); }
};

CG_FUNCTION thread_block this_thread_block() { return thread_block(); }

// ------------------------------------------------------------------------------------------- some lanes of a warp

// The lanes in `mask`; the calling one is number `rank` of them. A shuffle counts in ranks, not in lanes.
struct coalesced_group {
    unsigned mask;
    CG_FUNCTION unsigned lane() const { return thread_block().thread_rank() % 32; }
    CG_FUNCTION unsigned lane_of(unsigned rank) const {
        unsigned left = mask;
        for (unsigned i = 0; i < rank; i++) left &= left - 1;
        return __ffs(left) - 1;
    }
    CG_FUNCTION unsigned packed(unsigned lanes) const {     // the bits of the group's lanes, side by side
        unsigned bits = 0, rank = 0;
        for (unsigned left = mask; left; left &= left - 1, rank++) bits |= (lanes >> (__ffs(left) - 1) & 1) << rank;
        return bits;
    }
    CG_FUNCTION unsigned thread_rank() const { return __popc(mask & ((1u << lane()) - 1)); }
    CG_FUNCTION unsigned num_threads() const { return __popc(mask); }
    CG_FUNCTION unsigned size() const { return num_threads(); }
    CG_FUNCTION unsigned meta_group_rank() const { return 0; }
    CG_FUNCTION unsigned meta_group_size() const { return 1; }
    CG_FUNCTION void sync() const { __syncwarp(mask); }
    template<typename T> CG_FUNCTION T shfl(T value, int rank) const {
        return __shfl_sync(mask, value, lane_of(unsigned(rank) % size()));
    }
    template<typename T> CG_FUNCTION T shfl_up(T value, unsigned by) const {
        unsigned rank = thread_rank();
        return __shfl_sync(mask, value, lane_of(rank >= by ? rank - by : rank));
    }
    template<typename T> CG_FUNCTION T shfl_down(T value, unsigned by) const {
        unsigned rank = thread_rank();
        return __shfl_sync(mask, value, lane_of(rank + by < size() ? rank + by : rank));
    }
    CG_FUNCTION int any(int predicate) const { return __any_sync(mask, predicate); }
    CG_FUNCTION int all(int predicate) const { return __all_sync(mask, predicate); }
    CG_FUNCTION unsigned ballot(int predicate) const { return packed(__ballot_sync(mask, predicate)); }
    template<typename T> CG_FUNCTION unsigned match_any(T value) const { return packed(__match_any_sync(mask, value)); }
    template<typename T> CG_FUNCTION unsigned match_all(T value, int& same) const {
        return packed(__match_all_sync(mask, value, &same));
    }
};

CG_FUNCTION coalesced_group coalesced_threads() { return {__activemask()}; }

// ------------------------------------------------------------------------- neighbouring lanes: a tile of 1, 2 ... 32

template<unsigned SIZE, typename Parent = void> struct thread_block_tile {
    static_assert(SIZE && SIZE <= 32 && !(SIZE & (SIZE - 1)), "a tile has 1, 2, 4, 8, 16 or 32 threads");
    CG_FUNCTION unsigned lane() const { return thread_block().thread_rank() % 32; }
    CG_FUNCTION unsigned mask() const {
        unsigned there = thread_block().num_threads() - thread_block().thread_rank() / 32 * 32;    // in the last warp
        unsigned warp = there < 32 ? (1u << there) - 1 : 0xffffffff;
        return (SIZE == 32 ? 0xffffffff : ((1u << SIZE % 32) - 1) << lane() / SIZE * SIZE) & warp;
    }
    static CG_FUNCTION unsigned thread_rank() { return thread_block().thread_rank() % SIZE; }
    static CG_FUNCTION constexpr unsigned num_threads() { return SIZE; }
    static CG_FUNCTION constexpr unsigned size() { return SIZE; }
    static CG_FUNCTION unsigned meta_group_rank() { return thread_block().thread_rank() / SIZE; }
    static CG_FUNCTION unsigned meta_group_size() { return (thread_block().num_threads() + SIZE - 1) / SIZE; }
    CG_FUNCTION void sync() const { __syncwarp(mask()); }
    template<typename T> CG_FUNCTION T shfl(T value, int rank) const { return __shfl_sync(mask(), value, rank, SIZE); }
    template<typename T> CG_FUNCTION T shfl_up(T value, unsigned by) const {
        return __shfl_up_sync(mask(), value, by, SIZE);
    }
    template<typename T> CG_FUNCTION T shfl_down(T value, unsigned by) const {
        return __shfl_down_sync(mask(), value, by, SIZE);
    }
    template<typename T> CG_FUNCTION T shfl_xor(T value, unsigned with) const {
        return __shfl_xor_sync(mask(), value, with, SIZE);
    }
    CG_FUNCTION int any(int predicate) const { return __any_sync(mask(), predicate); }
    CG_FUNCTION int all(int predicate) const { return __all_sync(mask(), predicate); }
    CG_FUNCTION unsigned ballot(int predicate) const { return __ballot_sync(mask(), predicate) >> lane() / SIZE * SIZE; }
    template<typename T> CG_FUNCTION unsigned match_any(T value) const {
        return __match_any_sync(mask(), value) >> lane() / SIZE * SIZE;
    }
    template<typename T> CG_FUNCTION unsigned match_all(T value, int& same) const {
        return __match_all_sync(mask(), value, &same) >> lane() / SIZE * SIZE;
    }
};

template<unsigned SIZE, typename Parent> CG_FUNCTION thread_block_tile<SIZE, Parent> tiled_partition(const Parent&) {
    return thread_block_tile<SIZE, Parent>();
}

// ------------------------------------------------------------------------------------------- functions of any group

template<typename Group> CG_FUNCTION void sync(const Group& group) { group.sync(); }
template<typename Group> CG_FUNCTION unsigned thread_rank(const Group& group) { return group.thread_rank(); }
template<typename Group> CG_FUNCTION unsigned group_size(const Group& group) { return group.size(); }

template<typename T> struct plus { CG_FUNCTION T operator()(T a, T b) const { return a + b; } };
template<typename T> struct less { CG_FUNCTION T operator()(T a, T b) const { return b < a ? b : a; } };
template<typename T> struct greater { CG_FUNCTION T operator()(T a, T b) const { return a < b ? b : a; } };
template<typename T> struct bit_and { CG_FUNCTION T operator()(T a, T b) const { return a & b; } };
template<typename T> struct bit_or { CG_FUNCTION T operator()(T a, T b) const { return a | b; } };
template<typename T> struct bit_xor { CG_FUNCTION T operator()(T a, T b) const { return a ^ b; } };

// op over the values of all threads of the group, in every thread.
template<unsigned SIZE, typename Parent, typename T, typename Op>
CG_FUNCTION T reduce(const thread_block_tile<SIZE, Parent>& tile, T value, Op op) {
    for (unsigned with = SIZE / 2; with > 0; with /= 2) value = op(value, tile.shfl_xor(value, with));
    return value;
}
template<typename T, typename Op> CG_FUNCTION T reduce(const coalesced_group& group, T value, Op op) {
    T result = group.shfl(value, 0);
    for (unsigned rank = 1; rank < group.size(); rank++) result = op(result, group.shfl(value, rank));
    return result;
}

}  // namespace cooperative_groups

#undef CG_FUNCTION
