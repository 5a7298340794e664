// Attention within a step: a team of warps normalises and rotates the queries of the key heads that it attends
// for, and the one with a sequence's last keys writes the new key and value before it reads them.
#pragma once
#include "../paged_attention/split.cuh"
#include "../rope_kv_write/head.cuh"
#include "params.cuh"

template <class T, class Shape, class Wait>
struct AttentionTeam {
    static constexpr int HEAD_DIM = Shape::HEAD_DIM;
    static constexpr int HALF = HEAD_DIM / 2;
    static constexpr int LEN = Pack<T>::LEN;
    static constexpr int LANES = HALF / LEN;  // of a head
    static constexpr int HEADS = 32 / LANES;  // of a warp at once
    static constexpr unsigned FIRST_BARRIER = 2;
    static constexpr int TILE_BYTES = Shape::WARPS * Shape::WARP_ELEMENTS * int(sizeof(typename Shape::Cache));
    static_assert((LANES & (LANES - 1)) == 0 && Shape::ROWS == MAX_ROWS, "lanes and rows of a group");

    const StepParams& p;
    const BlockMemory& memory;
    const StepLayer& layer;
    const Wait& wait;  // for the products of all blocks

    // The team's tiles of keys and values in shared memory, and its queries behind them, [ROWS, HEAD_DIM].
    __device__ __forceinline__ unsigned char* tiles() const {
        return memory.region() + Shape::team() * (TILE_BYTES + MAX_ROWS * HEAD_DIM * int(sizeof(T)));
    }
    __device__ __forceinline__ T* query(size_t, int row) const {
        return reinterpret_cast<T*>(tiles() + TILE_BYTES) + row * HEAD_DIM;
    }
    __device__ __forceinline__ void sync() const {
        team_barrier(FIRST_BARRIER + Shape::team(), Shape::THREADS);
    }

    // A sequence's last key is written by this step.
    __device__ __forceinline__ bool has_keys(const SplitFeed<Shape>& feed) const {
        return !feed.is_at_last_tile();
    }
    __device__ __forceinline__ void ask_l2(const SplitFeed<Shape>& feed) const { feed.ask_l2(); }

    // The normalised and rotated queries of a key head; and first of all, when all blocks are done with their
    // products, the keys and values of all sequences whose last keys are the team's.
    __device__ __forceinline__ void enter(const SplitCursor<Shape>& first, bool is_first) const {
        if (is_first) wait.wait();
        const int group = p.attention.num_heads / p.attention.num_kv_heads;
        SplitCursor<Shape> at = first;
        int begin = 0;  // of the group's queries, its key and its value
#pragma unroll 1
        do {
            const bool is_last = is_first && at.split + 1 == at.splits.count;
            const int end = is_last ? group + 2 : group;
#pragma unroll 1
            for (int of_warp = begin + Shape::warp() * HEADS; of_warp < end; of_warp += Shape::WARPS * HEADS) {
                const int index = of_warp + threadIdx.x % 32 / LANES;
                take_head(at.sequence.first_row, at.kv_head, index, index < end);
            }
            begin = group;
            at.advance(p.attention);
        } while (is_first && at.left > 0);
        sync();
    }

private:
    static __device__ __forceinline__ int lane() { return threadIdx.x % LANES; }

    // Head `index` of a key head's queries, key and value, from the packed rows to where it is read. Whole
    // warps come here, for the sums.
    __device__ __forceinline__ void take_head(int token, int kv_head, int index, bool is_there) const {
        const int num_heads = p.attention.num_heads, num_kv_heads = p.attention.num_kv_heads;
        const int group = num_heads / num_kv_heads;
        const bool is_query = index < group, is_value = index > group;
        const int head = is_query ? kv_head * group + index
                                  : num_heads + (is_value ? num_kv_heads : 0) + kv_head;
        const unsigned slot = memory.slots()[token], position = memory.positions()[token];
        const bool is_padding = slot >= p.num_slots || position >= p.max_pos;
        const size_t angles_at = static_cast<size_t>(min(position, p.max_pos - 1)) * HALF;
        const HeadAngles<T> angles(p.cosine + angles_at, p.sine + angles_at, lane(), HALF, true);
        const T* row = static_cast<const T*>(p.qkv) +
                       (static_cast<size_t>(token) * (num_heads + 2 * num_kv_heads) + (is_there ? head : 0)) *
                           HEAD_DIM;
        const T* const norm = static_cast<const T*>(is_query ? layer.q_norm : is_value ? nullptr : layer.k_norm);
        Halves<T> x = {}, weight = {};
        if (norm != nullptr) weight = load_head(norm, lane(), HALF, true);
        if (is_there && !is_padding) x = load_head(row, lane(), HALF, true);
        if (layer.q_norm != nullptr || layer.k_norm != nullptr) {
            const float factor = norm_factor(group_sum(lane_sum_of_squares(x), LANES), HEAD_DIM, p.norm_eps);
            if (norm != nullptr) norm_head(x, factor, weight);
        }
        if (!is_value) rotate_head(x, angles);
        if (!is_there) return;
        if (is_query) {
            T* to = query(0, index) + lane() * LEN;
            store_pack(to, x.x[0]);
            store_pack(to + HALF, x.x[1]);
        } else if (!is_padding) {
            using Cache = typename Shape::Cache;
            const size_t block = slot / p.attention.block_size, offset = slot % p.attention.block_size;
            const size_t at = (block * num_kv_heads + kv_head) * p.attention.block_size + offset;
            store_head(static_cast<Cache*>(is_value ? layer.value : layer.key) + at * HEAD_DIM, x, lane(), HALF);
        }
    }
};
