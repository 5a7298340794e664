// Attention within a step: a block normalises and rotates the queries of the key heads that it attends
// for, and the block with a sequence's last keys writes the new key and value before it reads them.
#pragma once
#include "../paged_attention/split.cuh"
#include "../rope_kv_write/head.cuh"
#include "params.cuh"

template <class T, class Shape>
struct AttentionTeam {
    static constexpr int HEAD_DIM = Shape::HEAD_DIM;
    static constexpr int HALF = HEAD_DIM / 2;
    static constexpr int LANES = HALF / Pack<T>::LEN;  // of a head
    static constexpr unsigned BARRIER = 2;
    static_assert((LANES & (LANES - 1)) == 0 && Shape::ROWS == MAX_ROWS, "lanes and rows of a group");

    const StepParams& p;
    const BlockMemory& memory;
    const StepLayer& layer;

    // In shared memory, behind the tiles. [ROWS, HEAD_DIM]
    __device__ __forceinline__ T* query(size_t, int row) const {
        constexpr int TILES = Shape::WARPS * Shape::WARP_ELEMENTS * int(sizeof(typename Shape::Cache));
        return reinterpret_cast<T*>(memory.region() + TILES) + row * HEAD_DIM;
    }
    __device__ __forceinline__ void sync() const { team_barrier(BARRIER, Shape::THREADS); }

    // Writes the keys and values that the block's units end with, and the first queries.
    __device__ __forceinline__ void begin(const SplitCursor<Shape>& first) const {
        if (threadIdx.x / 32 == Shape::WARPS - 1) {
            for (SplitCursor<Shape> at = first; at.left > 0; at.advance(p.attention)) {
                if (at.split + 1 == at.splits.count) write_last(at);
            }
        }
        go_on(first);
    }

    // The queries of a key head.
    __device__ __forceinline__ void go_on(const SplitCursor<Shape>& at) const {
        const int group = p.attention.num_heads / p.attention.num_kv_heads;
        const int token = at.sequence.first_row;
        // A warp without a row goes on, to be done with the key and value sooner.
        for (int of_warp = threadIdx.x / 32 * 32 / LANES; of_warp < group; of_warp += Shape::THREADS / LANES) {
            const int row = of_warp + threadIdx.x % 32 / LANES;
            const bool is_there = row < group;
            Halves<T> x = load(token, at.kv_head * group + row, is_there);
            finish(x, token, layer.q_norm, true);
            if (is_there) store_head(query(0, row), x, lane(), HALF);
        }
        sync();
    }

private:
    static __device__ __forceinline__ int lane() { return threadIdx.x % LANES; }

    // The key and value of a sequence's token, by one warp.
    __device__ __forceinline__ void write_last(const SplitCursor<Shape>& at) const {
        using Cache = typename Shape::Cache;
        const int kind = threadIdx.x % 32 / LANES;  // 0: key, 1: value; the other lanes only sum
        const int token = at.sequence.first_row;
        const unsigned slot = memory.slots()[token];
        const int head = p.attention.num_heads + min(kind, 1) * p.attention.num_kv_heads + at.kv_head;
        Halves<T> x = load(token, head, kind < 2);
        finish(x, token, layer.k_norm, kind == 0);
        if (kind > 1 || is_padding(token)) return;
        const size_t block = slot / p.attention.block_size, offset = slot % p.attention.block_size;
        const size_t row = (block * p.attention.num_kv_heads + at.kv_head) * p.attention.block_size;
        Cache* to = static_cast<Cache*>(kind == 0 ? layer.key : layer.value);
        store_head(to + (row + offset) * HEAD_DIM, x, lane(), HALF);
    }

    __device__ __forceinline__ bool is_padding(int token) const {
        return memory.slots()[token] >= p.num_slots || memory.positions()[token] >= p.max_pos;
    }

    // A head of the packed rows; zeros of a row that is padding, or has no place.
    __device__ __forceinline__ Halves<T> load(int token, int head, bool is_there) const {
        const int num_heads = p.attention.num_heads + 2 * p.attention.num_kv_heads;
        const int len = is_there && !is_padding(token) ? HALF : 0;
        const T* row = static_cast<const T*>(p.qkv) +
                       (static_cast<size_t>(token) * num_heads + (is_there ? head : 0)) * HEAD_DIM;
        Halves<T> x;
#pragma unroll
        for (int half = 0; half < 2; half++) x.x[half] = load_row_pack(row + half * HALF, lane(), len, true);
        return x;
    }

    // Norm, if there is one, and rotation. All lanes of the warp come here.
    __device__ __forceinline__ void finish(Halves<T>& x, int token, const void* norm, bool is_rotated) const {
        if (norm != nullptr) {
            const float sum = group_sum(lane_sum_of_squares(x), LANES);
            const float factor = norm_factor(sum, HEAD_DIM, p.norm_eps);
            if (is_rotated) norm_head(x, static_cast<const T*>(norm), factor, lane(), HALF);
        }
        if (!is_rotated) return;
        const size_t angles = static_cast<size_t>(min(memory.positions()[token], p.max_pos - 1)) * HALF;
        rotate_head(x, p.cosine + angles, p.sine + angles, lane(), HALF);
    }
};
