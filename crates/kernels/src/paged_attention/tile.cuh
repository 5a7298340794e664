// Attention of the sequences with many rows: prompts and their chunks (Dao 2023, arXiv:2307.08691).
//
// A block takes a tile of packed rows (tokens times the query heads of a key head) and walks over the
// keys that its last row sees, from the first: tiles of keys begin at multiples of their length, so
// that a row's result does not depend on its chunk. Queries stay in shared memory, weights in
// registers; while keys are multiplied the values are on the way, and the other way round. Each warp
// has 32 rows: with 16, reading keys and values out of shared memory would take longer (4 KiB, 32
// cycles for 16 products) than multiplying them (some 26 cycles by mma.sync).
//
// The last tiles of a sequence have the most keys and come first; what is left at the end is small.
// Blocks beyond the last tile return at once.
//
// Bound: the tensor cores, by mma.sync (the wgmma of Hopper reaches about half as much again). A
// tile of 128 rows and 64 keys with head_dim 128 is 4.2 MFLOP for 32 KiB, which many blocks read from
// the L2 cache.
#pragma once
#include "rows.cuh"

template <class Cache_, int HEAD_DIM_, int ROWS_, int KEYS_>
struct TileShape {
    using Cache = Cache_;
    static constexpr int HEAD_DIM = HEAD_DIM_;
    static constexpr int ROWS = ROWS_;
    static constexpr int KEYS = KEYS_;
    static constexpr int WARPS = 4;
    static constexpr int THREADS = 32 * WARPS;
    static constexpr int ROW_TILES = ROWS / 16 / WARPS;
    // Elements; with a pack more rows start in different banks.
    static constexpr int STRIDE = HEAD_DIM + 8;
    static constexpr int KEY_STRIDE = HEAD_DIM + Pack<Cache>::LEN;
    static constexpr int PACKS = HEAD_DIM / 8;  // of a query
    static constexpr int KEY_PACKS = HEAD_DIM / Pack<Cache>::LEN;
};

// What a block works on. It lies in shared memory, as do the ends of its rows: registers are needed for
// sums, and this is seldom looked at.
struct TileUnit {
    Sequence sequence;
    KeyGroups groups;
    Scores scores;
    int first_row;  // packed: row of the sequence * group_size + head of the group
    int num_rows;   // packed, up to Shape::ROWS
    int first_key, end_key;  // that any row of the tile sees

    __device__ __forceinline__ TileUnit(const PagedAttentionParams& p, const Sequence& sequence,
                                        int kv_head, int row_tile, int max_rows)
        : sequence(sequence),
          groups(p, sequence, kv_head),
          scores(p),
          first_row(row_tile * max_rows) {
        const int group_size = p.num_heads / p.num_kv_heads;
        num_rows = min(sequence.num_rows * group_size - first_row, max_rows);
        first_key = sequence.first_key(first_row / group_size, p.window);
        end_key = sequence.visible_end((first_row + num_rows - 1) / group_size);
    }
    TileUnit() = default;

    // Where a packed row's head begins in q and out, in heads.
    __device__ __forceinline__ size_t head_of_all(const PagedAttentionParams& p, int row) const {
        const int group_size = p.num_heads / p.num_kv_heads;
        const int packed = first_row + row, token = packed / group_size;
        const int head = groups.kv_head * group_size + packed - token * group_size;
        return static_cast<size_t>(sequence.first_row + token) * p.num_heads + head;
    }
};

template <class T, class Shape>
struct TileKernel {
    static constexpr int HEAD_DIM = Shape::HEAD_DIM;
    using Cache = typename Shape::Cache;
    static constexpr bool IS_NARROW = sizeof(Cache) == 1;
    static constexpr int WARP_ROWS = 16 * Shape::ROW_TILES;

    const PagedAttentionParams& p;
    const TileUnit& unit;
    const int (&visible_end)[Shape::ROWS];  // 0 beyond num_rows

    __device__ __forceinline__ void load_queries(T* to) const {
#pragma unroll 2
        for (int i = threadIdx.x; i < Shape::ROWS * Shape::PACKS; i += Shape::THREADS) {
            const int row = i / Shape::PACKS, pack = i % Shape::PACKS;
            const bool is_there = row < unit.num_rows;
            const size_t head = is_there ? unit.head_of_all(p, row) : 0;
            copy_async_16(to + row * Shape::STRIDE + 8 * pack,
                          static_cast<const T*>(p.q) + head * HEAD_DIM + 8 * pack, is_there);
        }
    }

    // Keys or values from `key` on; lanes know the rows of their groups. What no row of the tile sees
    // becomes zero: a weight of 0 times whatever lies there may be no number.
    __device__ __forceinline__ void load_keys(Cache* to, const void* cache, int key,
                                              uint32_t rows) const {
        static_assert(Shape::KEYS * Shape::KEY_PACKS % Shape::THREADS == 0, "whole sweeps");
        const int first = unit.first_key - key, end = unit.end_key - key;
#pragma unroll 1  // its addresses would spill
        for (int i = threadIdx.x; i < Shape::KEYS * Shape::KEY_PACKS; i += Shape::THREADS) {
            const int row = i / Shape::KEY_PACKS, pack = i % Shape::KEY_PACKS;
            const size_t from = __shfl_sync(ALL_LANES, rows, row / 8) + row % 8;
            copy_async_16(to + row * Shape::KEY_STRIDE + Pack<Cache>::LEN * pack,
                          static_cast<const Cache*>(cache) + from * HEAD_DIM + Pack<Cache>::LEN * pack,
                          row >= first && row < end);
        }
    }

    // 16 rows and columns as multiply_keys wants them.
    static __device__ __forceinline__ void load_query(uint32_t (&a)[4], const T* own) {
        if constexpr (IS_NARROW) {
            const uint2 upper = *reinterpret_cast<const uint2*>(own);
            const uint2 lower = *reinterpret_cast<const uint2*>(own + 8 * Shape::STRIDE);
            a[0] = upper.x;
            a[1] = lower.x;
            a[2] = upper.y;
            a[3] = lower.y;
        } else {
            load_matrices<4, false>(a, own);
        }
    }

    // Whether any row of the warp sees a key from `key` on.
    __device__ __forceinline__ bool is_any_seen(int key) const {
        const int row = threadIdx.x / 32 * WARP_ROWS;
        return row < unit.num_rows &&
               key < visible_end[min(row + WARP_ROWS, unit.num_rows) - 1];
    }

    // Whether all of them see all KEYS.
    __device__ __forceinline__ bool are_all_seen(int key) const {
        const int row = threadIdx.x / 32 * WARP_ROWS;
        const int last = visible_end[min(row + WARP_ROWS, unit.num_rows) - 1];
        return key + Shape::KEYS <= visible_end[row] && (p.window <= 0 || key >= last - p.window);
    }

    __device__ __forceinline__ void attend(T* queries, Cache* keys, Cache* values) const {
        const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * WARP_ROWS;
        Rows<T, HEAD_DIM> rows[Shape::ROW_TILES];
#pragma unroll
        for (int t = 0; t < Shape::ROW_TILES; t++) rows[t].clear();
        const T* own_queries =
            queries + (IS_NARROW ? (warp_row + lane / 4) * Shape::STRIDE + lane % 4 * 4
                                 : (warp_row + lane % 16) * Shape::STRIDE + lane / 16 * 8);

        int key = unit.first_key / Shape::KEYS * Shape::KEYS;
        uint32_t key_rows = unit.groups.row(p, key / 8 + lane);
        load_queries(queries);
        load_keys(keys, p.key, key, key_rows);
        commit_copies();
        for (; key < unit.end_key; key += Shape::KEYS) {
            wait_copies<0>();
            __syncthreads();
            load_keys(values, p.value, key, key_rows);
            commit_copies();
            key_rows = unit.groups.row(p, (key + Shape::KEYS) / 8 + lane);
            float weights[Shape::ROW_TILES][Shape::KEYS / 8][4] = {};
            const bool is_seen = is_any_seen(key);
            if (is_seen) {
                multiply_keys<T, HEAD_DIM>(
                    weights, keys, Shape::KEY_STRIDE, [&](uint32_t (&a)[4], int t, int k) {
                        load_query(a, own_queries + 16 * t * Shape::STRIDE + 16 * k);
                    });
                const bool is_whole = are_all_seen(key);
#pragma unroll
                for (int t = 0; t < Shape::ROW_TILES; t++) {
                    unit.scores.adapt(weights[t]);
                    if (!is_whole) {
                        const int row = warp_row + 16 * t + lane / 4;
                        const int ends[2] = {visible_end[row], visible_end[row + 8]};
                        mask(weights[t], ends, key, p.window);
                    }
                    rows[t].weigh(weights[t], unit.scores.factor);
                }
            }
            wait_copies<0>();
            __syncthreads();
            if (key + Shape::KEYS < unit.end_key) {
                load_keys(keys, p.key, key + Shape::KEYS, key_rows);
                commit_copies();
            }
            if (is_seen) multiply_values<T, HEAD_DIM>(rows, weights, values, Shape::KEY_STRIDE);
        }
        wait_copies<0>();
        store(rows);
    }

    __device__ __forceinline__ void store(const Rows<T, HEAD_DIM> (&rows)[Shape::ROW_TILES]) const {
#pragma unroll
        for (int t = 0; t < Shape::ROW_TILES; t++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int lane = threadIdx.x % 32;
                const int row = threadIdx.x / 32 * WARP_ROWS + 16 * t + 8 * half + lane / 4;
                const float total = rows[t].whole_total(half);
                if (row >= unit.num_rows) continue;
                const size_t head = unit.head_of_all(p, row);
                const float base = base_of(rows[t].maximum[half] * unit.scores.factor);
                const float factor = out_factor(p, head % p.num_heads, base, total);
                T* to = static_cast<T*>(p.out) + head * HEAD_DIM;
#pragma unroll
                for (int n = 0; n < HEAD_DIM / 8; n += IS_NARROW ? 2 : 1) {
                    if constexpr (IS_NARROW) {
                        const float4 sums = rows[t].four(n, half);
                        *reinterpret_cast<uint2*>(to + 8 * n + 4 * (lane % 4)) =
                            make_uint2(pair_of<T>(sums.x * factor, sums.y * factor),
                                       pair_of<T>(sums.z * factor, sums.w * factor));
                    } else {
                        const float(&sums)[4] = rows[t].sums[n];
                        *reinterpret_cast<uint32_t*>(to + 8 * n + 2 * (lane % 4)) =
                            pair_of<T>(sums[2 * half] * factor, sums[2 * half + 1] * factor);
                    }
                }
            }
        }
    }
};

// Grid: row tiles of all sequences, at least, times kv_heads.
template <class T, class Shape>
__device__ __forceinline__ void attend_tiles(const PagedAttentionParams& p) {
    DYNAMIC_SHARED(shared);
    SHARED(unit, TileUnit);
    SHARED(visible_end, int[Shape::ROWS]);
    const int group_size = p.num_heads / p.num_kv_heads;
    const auto tiles = [&](int index) -> Count {
        const int rows = Sequence::of(p, index).num_rows;
        if (rows <= p.split_rows) return {0, 0};
        return {static_cast<uint32_t>((rows * group_size + Shape::ROWS - 1) / Shape::ROWS), 0};
    };
    const uint32_t index = blockIdx.x / p.num_kv_heads;
    const Place place = find_unit(p.num_seqs, [&](uint32_t) { return index; }, tiles);
    if (place.sequence < 0) return;
    const Sequence sequence = Sequence::of(p, place.sequence);
    const int row_tile = tiles(place.sequence).units - 1 - (index - place.units_before);
    const TileUnit own(p, sequence, blockIdx.x % p.num_kv_heads, row_tile, Shape::ROWS);
    if (threadIdx.x == 0) unit = own;
    for (int row = threadIdx.x; row < Shape::ROWS; row += Shape::THREADS) {
        visible_end[row] =
            row < own.num_rows ? sequence.visible_end((own.first_row + row) / group_size) : 0;
    }
    __syncthreads();
    T* queries = reinterpret_cast<T*>(shared);
    auto* keys = reinterpret_cast<typename Shape::Cache*>(queries + Shape::ROWS * Shape::STRIDE);
    auto* values = keys + Shape::KEYS * Shape::KEY_STRIDE;
    TileKernel<T, Shape>{p, unit, visible_end}.attend(queries, keys, values);
}
