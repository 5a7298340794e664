// Attention of the sequences with few rows: decodes and drafts.
//
// Keys are cut into splits at fixed positions; a block of threads takes one split of one key head,
// with the query heads and the rows that share it packed into the 16 rows of a tensor-core tile, so
// that each key and value is read once. Its warps take the split's tiles of 16 keys in turn, each
// with a pipeline of asynchronous copies of its own: no barrier stands between the start and the
// merge. The block that arrives last of a key head's splits merges them, in the order of positions.
//
// Blocks stay and take unit after unit of the work of all sequences, which they count out for
// themselves: a grid that was chosen for other lengths (a captured graph) costs nothing.
//
// Bound: reading keys and values. Of each 2-byte element every query head makes one multiply-add.
// With a group of 8 on the ordinary cores those alone are half of the time that 4.3 TB/s take, and
// the conversions and the sums between lanes the other half and more. On the tensor cores a tile of
// 16 keys with head_dim 128 (8 KiB) is 32 products of 16 x 8 x 16 and some 250 instructions, for
// which the memory needs about 440 cycles of a multiprocessor that issues four a cycle: the cores
// idle, also where 15 of the 16 rows are padding. Bytes in flight: every warp has STAGES tiles on the
// way, 64 KiB a block, where 20 KiB a multiprocessor hide the latency. An e4m3 cache has half the bytes
// and 5 instructions more for two elements: 320 for a tile, of the 880 that its time allows.
#pragma once
#include "rows.cuh"

constexpr int KEYS_PER_SPLIT = 256;
constexpr int MAX_SPLITS = 64;
constexpr int MAX_MERGED = MAX_SPLITS + 2;  // a window that begins and ends within splits

// The splits of a sequence: `len` keys each, from number `first`. Longer contexts have longer ones, so
// that no more than MAX_MERGED are to be merged; `len` depends on the context alone.
struct Splits {
    int len, first, count;

    static __device__ __forceinline__ Splits of(const PagedAttentionParams& p,
                                                const Sequence& sequence) {
        const int context = sequence.context_len;
        const int span = p.window > 0 ? min(context, p.window) : context;
        int len = KEYS_PER_SPLIT;
        while (span > len * MAX_SPLITS) len *= 2;
        const int first = sequence.first_key(0, p.window) / len;
        return {len, first, max((context + len - 1) / len - first, 1)};
    }
};

// Storage type of the cache, head dim, packed rows a block (16 each), warps and stages of one form of
// the kernel.
template <class Cache_, int HEAD_DIM_, int ROW_TILES_>
struct SplitShape {
    using Cache = Cache_;
    static constexpr int HEAD_DIM = HEAD_DIM_;
    static constexpr int ROW_TILES = ROW_TILES_;
    static constexpr int ROWS = 16 * ROW_TILES;
    static constexpr int WARPS = HEAD_DIM > 128 ? 2 : 4;
    static constexpr int THREADS = 32 * WARPS;
    static constexpr int STAGES = 4 / sizeof(Cache);
    static constexpr int PACKS = HEAD_DIM / Pack<Cache>::LEN;
    // Elements; with a pack more rows start in different banks.
    static constexpr int STRIDE = HEAD_DIM + Pack<Cache>::LEN;
    static constexpr int TILE = 16 * STRIDE;  // of keys or values
    static constexpr int WARP_ELEMENTS = STAGES * 2 * TILE;
    static constexpr int WARP_FLOATS = WARP_ELEMENTS * sizeof(Cache) / 4;
    static constexpr int SUM_STRIDE = HEAD_DIM + 8;  // floats
    // More would spill.
    static constexpr bool IS_LARGEST = HEAD_DIM == 128 && ROW_TILES == 2;
    static constexpr int MERGED_AT_ONCE = IS_LARGEST ? 2 : 4;
    static constexpr int ASKED_AT_ONCE = IS_LARGEST ? 1 : STAGES;
    static_assert(ROWS * SUM_STRIDE <= WARP_FLOATS, "sums take the place of the stages");
};

// One row tile of one sequence and key head against one split, by a block.
template <class T, class Shape>
struct SplitUnit {
    static constexpr int HEAD_DIM = Shape::HEAD_DIM;
    using Cache = typename Shape::Cache;
    static constexpr bool IS_NARROW = sizeof(Cache) == 1;

    const PagedAttentionParams& p;
    const Sequence sequence;
    const Splits splits;
    const Scores scores;
    const KeyGroups groups;
    const int kv_head, group_size;
    const int split;      // from 0
    const int first_row;  // packed: row of the sequence * group_size + head of the group
    const int num_rows;   // packed, up to Shape::ROWS
    const uint32_t first_partial;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    // Keys, from the first that any row of the tile sees to the last.
    int first_key, end_key;
    uint32_t key_rows;  // of group 32 * key_window + lane
    int key_window = -1;

    uint32_t queries[Shape::ROW_TILES][HEAD_DIM / 16][4];
    Rows<T, HEAD_DIM> rows[Shape::ROW_TILES];
    int visible_end[Shape::ROW_TILES][2];

    __device__ __forceinline__ SplitUnit(const PagedAttentionParams& p, const Sequence& sequence,
                                         const Splits& splits, int kv_head, int split, int row_tile,
                                         uint32_t first_partial)
        : p(p),
          sequence(sequence),
          splits(splits),
          scores(p),
          groups(p, sequence, kv_head),
          kv_head(kv_head),
          group_size(p.num_heads / p.num_kv_heads),
          split(split),
          first_row(row_tile * Shape::ROWS),
          num_rows(min(sequence.num_rows * group_size - first_row, Shape::ROWS)),
          first_partial(first_partial) {
        const int start = (splits.first + split) * splits.len;
        const int last_token = (first_row + num_rows - 1) / group_size;
        first_key = max(start, sequence.first_key(first_row / group_size, p.window));
        end_key = min(start + splits.len, sequence.visible_end(last_token));
    }

    // Where a packed row's head begins in q and out.
    __device__ __forceinline__ size_t head_start(int row) const {
        const int packed = first_row + row;
        const size_t token = sequence.first_row + packed / group_size;
        return (token * p.num_heads + head_of(row)) * HEAD_DIM;
    }

    __device__ __forceinline__ int head_of(int row) const {
        return kv_head * group_size + (first_row + row) % group_size;
    }

    __device__ __forceinline__ void load_queries() {
#pragma unroll
        for (int tile = 0; tile < Shape::ROW_TILES; tile++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = 16 * tile + 8 * half + lane / 4;
                const bool is_there = row < num_rows;
                const T* q = static_cast<const T*>(p.q) + (is_there ? head_start(row) : 0);
                visible_end[tile][half] =
                    is_there ? sequence.visible_end((first_row + row) / group_size) : 0;
#pragma unroll
                for (int k = 0; k < HEAD_DIM / 16; k++) {
#pragma unroll
                    for (int right = 0; right < 2; right++) {
                        // As multiply_keys wants them.
                        const int column = IS_NARROW ? 4 * (lane % 4) + 2 * right
                                                     : 2 * (lane % 4) + 8 * right;
                        const T* pair = q + 16 * k + column;
                        queries[tile][k][2 * right + half] =
                            is_there ? __ldg(reinterpret_cast<const uint32_t*>(pair)) : 0;
                    }
                }
            }
        }
    }

    // Asks for the keys and values of tile `tile` (keys 16 tile to 16 tile + 15 of the sequence). What
    // no row sees becomes zero: a weight of 0 times whatever lies there may be no number.
    __device__ __forceinline__ void load_tile(int tile, Cache* stage) {
        if (tile / 16 != key_window) {
            key_window = tile / 16;
            key_rows = groups.row(p, 32 * key_window + lane);
        }
        const uint32_t rows[2] = {__shfl_sync(ALL_LANES, key_rows, tile % 16 * 2),
                                  __shfl_sync(ALL_LANES, key_rows, tile % 16 * 2 + 1)};
        constexpr int PACKS = Shape::PACKS, LEN = Pack<Cache>::LEN;
#pragma unroll
        for (int i = 0; i < PACKS / 2; i++) {
            const int row = (32 * i + lane) / PACKS, pack = (32 * i + lane) % PACKS;
            const int key = 16 * tile + row;
            const bool is_seen = key >= first_key && key < end_key;
            const size_t from =
                static_cast<size_t>((row < 8 ? rows[0] : rows[1]) + row % 8) * HEAD_DIM + LEN * pack;
            Cache* to = stage + row * Shape::STRIDE + LEN * pack;
            copy_async_16(to, static_cast<const Cache*>(p.key) + from, is_seen);
            copy_async_16(to + Shape::TILE, static_cast<const Cache*>(p.value) + from, is_seen);
        }
    }

    __device__ __forceinline__ void attend_tile(int tile, const Cache* stage) {
        float weights[Shape::ROW_TILES][2][4] = {};
        multiply_keys<T, HEAD_DIM>(weights, stage, Shape::STRIDE,
                                   [&](uint32_t (&a)[4], int t, int k) {
#pragma unroll
                                       for (int i = 0; i < 4; i++) a[i] = queries[t][k][i];
                                   });
#pragma unroll
        for (int t = 0; t < Shape::ROW_TILES; t++) {
            scores.adapt(weights[t]);
            mask(weights[t], visible_end[t], 16 * tile, p.window);
            rows[t].weigh(weights[t], scores.factor);
        }
        multiply_values<T, HEAD_DIM>(rows, weights, stage + Shape::TILE, Shape::STRIDE);
    }

    // The warp's part of the split: every WARPS-th tile.
    __device__ __forceinline__ void attend(Cache* stages) {
        const int end_tile = (end_key + 15) / 16;
        const int step = Shape::WARPS;
        // The split's tiles are dealt from its start, whatever a window hides of it.
        const int start = (splits.first + split) * splits.len / 16 + warp;
        int tile = start + max(first_key / 16 - start + step - 1, 0) / step * step;
        int asked = tile;
#pragma unroll Shape::ASKED_AT_ONCE
        for (int i = 0; i < Shape::STAGES; i++, asked += step) {
            if (asked < end_tile) load_tile(asked, stages + i * 2 * Shape::TILE);
            commit_copies();
        }
        load_queries();
#pragma unroll
        for (int t = 0; t < Shape::ROW_TILES; t++) rows[t].clear();
        int stage = 0;
        for (; tile < end_tile; tile += step, asked += step) {
            wait_copies<Shape::STAGES - 1>();
            __syncwarp();
            attend_tile(tile, stages + stage * 2 * Shape::TILE);
            __syncwarp();
            if (asked < end_tile) load_tile(asked, stages + stage * 2 * Shape::TILE);
            commit_copies();
            stage = (stage + 1) % Shape::STAGES;
        }
        wait_copies<0>();
    }

    // Leaves the warp's sums in its shared memory, `[rows, SUM_STRIDE]`.
    __device__ __forceinline__ void leave(float* to, float2* softmax) {
        __syncwarp();
#pragma unroll
        for (int t = 0; t < Shape::ROW_TILES; t++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = 16 * t + 8 * half + lane / 4;
                float* at = to + row * Shape::SUM_STRIDE;
#pragma unroll
                for (int n = 0; n < HEAD_DIM / 8; n += IS_NARROW ? 2 : 1) {
                    if constexpr (IS_NARROW) {
                        *reinterpret_cast<float4*>(at + 8 * n + 4 * (lane % 4)) =
                            rows[t].four(n, half);
                    } else {
                        *reinterpret_cast<float2*>(at + 8 * n + 2 * (lane % 4)) =
                            make_float2(rows[t].sums[n][2 * half], rows[t].sums[n][2 * half + 1]);
                    }
                }
                const float sum = rows[t].whole_total(half);
                if (lane % 4 == 0) {
                    softmax[row] = make_float2(rows[t].maximum[half] * scores.factor, sum);
                }
            }
        }
    }

    __device__ __forceinline__ size_t partial(int row, int split) const {
        const int token = (first_row + row) / group_size;
        return (first_partial + static_cast<size_t>(token) * splits.count + split) * p.num_heads +
               head_of(row);
    }

    __device__ __forceinline__ void store(int row, int column, const float4& sum, float factor) {
        T* to = static_cast<T*>(p.out) + head_start(row) + column;
        *reinterpret_cast<uint2*>(to) = make_uint2(pair_of<T>(sum.x * factor, sum.y * factor),
                                                   pair_of<T>(sum.z * factor, sum.w * factor));
    }

    // Adds what the warps left, in their order; the result if there is one split, else a partial.
    __device__ __forceinline__ void combine(const float* left,
                                            const float2 (&softmax)[Shape::WARPS][Shape::ROWS]) {
        for (int i = threadIdx.x; i < num_rows * (HEAD_DIM / 4); i += Shape::THREADS) {
            const int row = i / (HEAD_DIM / 4), column = i % (HEAD_DIM / 4) * 4;
            float largest = NEVER;
#pragma unroll
            for (int w = 0; w < Shape::WARPS; w++) largest = fmaxf(largest, softmax[w][row].x);
            const float base = base_of(largest);
            float total = 0.0f;
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (int w = 0; w < Shape::WARPS; w++) {
                const float weight = fast_exp2(softmax[w][row].x - base);
                total = fmaf(weight, softmax[w][row].y, total);
                add(sum, weight,
                    *reinterpret_cast<const float4*>(left + w * Shape::WARP_FLOATS +
                                                     row * Shape::SUM_STRIDE + column));
            }
            if (splits.count == 1) {
                store(row, column, sum, out_factor(p, head_of(row), base, total));
            } else {
                const size_t at = partial(row, split);
                *reinterpret_cast<float4*>(p.partial_out + at * HEAD_DIM + column) = sum;
                if (column == 0) p.partial_softmax[at] = make_float2(largest, total);
            }
        }
    }

    // Merges the partials of all splits, in the order of positions. weights `[rows, MAX_MERGED]`
    __device__ __forceinline__ void merge(float* weights, float (&factors)[Shape::ROWS]) {
        for (int row = warp; row < num_rows; row += Shape::WARPS) {
            const float2* softmax = p.partial_softmax;
            // A lane takes the splits whose number from the sequence's start is its own: where a
            // window begins changes no order.
            const int own = (lane - splits.first) & 31;
            float largest = NEVER;
            for (int s = own; s < splits.count; s += 32) {
                largest = fmaxf(largest, load_shared_by_blocks(softmax + partial(row, s)).x);
            }
            const float base = base_of(warp_reduce(largest, Max()));
            float total = 0.0f;
            for (int s = own; s < splits.count; s += 32) {
                const float2 part = load_shared_by_blocks(softmax + partial(row, s));
                const float weight = fast_exp2(part.x - base);
                weights[row * MAX_MERGED + s] = weight;
                total = fmaf(weight, part.y, total);
            }
            total = warp_reduce(total, Sum());
            if (lane == 0) factors[row] = out_factor(p, head_of(row), base, total);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < num_rows * (HEAD_DIM / 4); i += Shape::THREADS) {
            const int row = i / (HEAD_DIM / 4), column = i % (HEAD_DIM / 4) * 4;
            const float* from = p.partial_out + partial(row, 0) * HEAD_DIM + column;
            const size_t step = static_cast<size_t>(p.num_heads) * HEAD_DIM;
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll Shape::MERGED_AT_ONCE
            for (int s = 0; s < splits.count; s++) {
                add(sum, weights[row * MAX_MERGED + s],
                    load_shared_by_blocks(reinterpret_cast<const float4*>(from + s * step)));
            }
            store(row, column, sum, factors[row]);
        }
    }

    static __device__ __forceinline__ void add(float4& sum, float weight, const float4& x) {
        sum.x = fmaf(weight, x.x, sum.x);
        sum.y = fmaf(weight, x.y, sum.y);
        sum.z = fmaf(weight, x.z, sum.z);
        sum.w = fmaf(weight, x.w, sum.w);
    }
};

// Whether this block is the last of `count` to arrive. What they all wrote can then be read, past the
// L1 cache. The counter is left at zero.
__device__ __forceinline__ bool is_last_to_arrive(uint32_t* arrivals, int count) {
    SHARED(is_last, bool);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = atomicAdd(arrivals, 1u) == static_cast<uint32_t>(count - 1);
        if (is_last) *arrivals = 0;
    }
    __syncthreads();
    __threadfence();
    return is_last;
}

// The units of a sequence: its row tiles times its splits. Rows without keys are one, to become zero.
template <class Shape>
__device__ __forceinline__ Count split_count(const PagedAttentionParams& p, int index) {
    const Sequence sequence = Sequence::of(p, index);
    if (sequence.num_rows <= 0 || sequence.num_rows > p.split_rows) return {0, 0};
    const int rows = sequence.num_rows * (p.num_heads / p.num_kv_heads);
    const uint32_t splits = Splits::of(p, sequence).count;
    return {(rows + Shape::ROWS - 1) / Shape::ROWS * splits, sequence.num_rows * splits};
}

// How far a block is with its items: units of all sequences, each for every key head. A block takes
// those that follow each other, so that it searches once.
struct SplitCursor {
    uint32_t item, end;
    int sequence, within, kv_head;
    uint32_t slots_before;

    // The block's first, in the hands of a whole warp.
    template <class Shape>
    static __device__ __forceinline__ SplitCursor first(const PagedAttentionParams& p) {
        uint32_t item = 0, end = 0;
        const auto unit_of = [&](uint32_t units) {
            const uint64_t items = static_cast<uint64_t>(units) * p.num_kv_heads;
            item = items * blockIdx.x / gridDim.x;
            end = items * (blockIdx.x + 1) / gridDim.x;
            return item < end ? item / p.num_kv_heads : units;
        };
        const Place place = find_unit(p.num_seqs, unit_of,
                                      [&](int index) { return split_count<Shape>(p, index); });
        const int within = item / p.num_kv_heads - place.units_before;
        return {item, end, place.sequence, within, static_cast<int>(item % p.num_kv_heads),
                place.slots_before};
    }

    template <class Shape>
    __device__ __forceinline__ void advance(const PagedAttentionParams& p) {
        item++;
        if (++kv_head < p.num_kv_heads) return;
        kv_head = 0;
        const Count count = split_count<Shape>(p, sequence);
        if (++within < static_cast<int>(count.units)) return;
        within = 0;
        slots_before += count.slots;
        do {
            sequence++;
        } while (sequence < p.num_seqs && split_count<Shape>(p, sequence).units == 0);
    }
};

// Grid: any number of blocks, best as many as the device holds at once.
template <class T, class Shape>
__device__ __forceinline__ void attend_splits(const PagedAttentionParams& p) {
    DYNAMIC_SHARED(shared);
    SHARED(softmax, float2[Shape::WARPS][Shape::ROWS]);
    SHARED(factors, float[Shape::ROWS]);
    SHARED(cursor, SplitCursor);
    auto* stages = reinterpret_cast<typename Shape::Cache*>(shared);
    const int warp = threadIdx.x / 32;
    const int group_size = p.num_heads / p.num_kv_heads;
    if (warp == 0) {
        const SplitCursor first = SplitCursor::first<Shape>(p);
        if (threadIdx.x == 0) cursor = first;
    }
    __syncthreads();
    while (cursor.item < cursor.end) {
        const Sequence sequence = Sequence::of(p, cursor.sequence);
        const Splits splits = Splits::of(p, sequence);
        const int row_tiles = (sequence.num_rows * group_size + Shape::ROWS - 1) / Shape::ROWS;
        // Row tiles of the same keys run side by side.
        const int split = cursor.within / row_tiles, row_tile = cursor.within % row_tiles;
        SplitUnit<T, Shape> work(p, sequence, splits, cursor.kv_head, split, row_tile,
                                 cursor.slots_before);
        auto* const own = stages + warp * Shape::WARP_ELEMENTS;
        work.attend(own);
        work.leave(reinterpret_cast<float*>(own), softmax[warp]);
        __syncthreads();
        work.combine(reinterpret_cast<const float*>(stages), softmax);
        if (splits.count > 1) {
            const int max_row_tiles = (p.split_rows * group_size + Shape::ROWS - 1) / Shape::ROWS;
            uint32_t* arrivals =
                p.arrivals +
                (static_cast<size_t>(cursor.sequence) * max_row_tiles + row_tile) * p.num_kv_heads +
                cursor.kv_head;
            if (is_last_to_arrive(arrivals, splits.count)) {
                work.merge(reinterpret_cast<float*>(stages), factors);
            }
        }
        if (threadIdx.x == 0) cursor.advance<Shape>(p);
        __syncthreads();
    }
}
