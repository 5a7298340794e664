// Attention of the sequences with few rows: decodes and drafts.
//
// Keys are cut into splits at fixed positions; a warp takes one split of one key head, with the query
// heads and the rows that share it packed into the 16 rows of a tensor-core tile, so that each key and
// value is read once. It goes through the split's tiles of keys with a pipeline of asynchronous
// copies; no warp waits for another. The one that arrives last of a key head's splits merges them, in
// the order of positions.
//
// Warps stay and take unit after unit of the work of all sequences, which they count out for
// themselves: a grid that was chosen for other lengths (a captured graph) costs nothing.
//
// Bound: reading keys and values. Of each 2-byte element every query head makes one multiply-add.
// With a group of 8 on the ordinary cores those alone are half of the time that 4.3 TB/s take, and
// the conversions and the sums between lanes the other half and more. On the tensor cores a tile of
// 16 keys with head_dim 128 (8 KiB) is 32 products of 16 x 8 x 16 and some 250 instructions, for
// which the memory needs about 440 cycles of a multiprocessor that issues four a cycle: the cores
// idle, also where 15 of the 16 rows are padding. Bytes in flight: every warp has 32 KiB on the way,
// 192 KiB a multiprocessor, where 32 KiB hide the latency: what begins and ends a unit, some
// microseconds of waiting, is hidden by the other warps. An e4m3 cache has half the bytes and 5
// instructions more for two elements: 320 for a tile, of the 880 that its time allows.
#pragma once
#include "rows.cuh"

constexpr int KEYS_PER_SPLIT = 128;
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

// A block is as many warps as the multiprocessor's shared memory holds, up to these.
constexpr int MAX_SPLIT_WARPS = 6;

// Storage type of the cache and head dim of one form of the kernel.
template <class Cache_, int HEAD_DIM_>
struct SplitShape {
    using Cache = Cache_;
    static constexpr int HEAD_DIM = HEAD_DIM_;
    static constexpr int ROWS = 16;
    // Keys at a time; with 32 two chains of products run side by side.
    static constexpr int KEYS = HEAD_DIM > 128 ? 16 : 32;
    static constexpr int FITTING = 16 * 1024 / HEAD_DIM / KEYS / sizeof(Cache);  // in 32 KiB
    static constexpr int STAGES = FITTING < 8 ? FITTING : 8;
    static constexpr int PACKS = HEAD_DIM / Pack<Cache>::LEN;
    static constexpr int COPIES_AT_ONCE = HEAD_DIM > 128 ? 1 : 16;  // addresses of more would spill
    // Elements; with a pack more rows start in different banks.
    static constexpr int STRIDE = HEAD_DIM + Pack<Cache>::LEN;
    static constexpr int TILE = KEYS * STRIDE;  // of keys or values
    static constexpr int WARP_BYTES = STAGES * 2 * TILE * sizeof(Cache);
    static_assert(KEYS_PER_SPLIT % KEYS == 0, "a tile lies in one split");
    static_assert(ROWS * MAX_MERGED * 4 <= WARP_BYTES, "weights take the place of the stages");
};

// One row tile of one sequence and key head against one split, by a warp.
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
    const int kv_head;
    const int split;      // from 0
    const int first_row;  // packed: row of the sequence * group_size + head of the group
    const int num_rows;   // packed, up to Shape::ROWS
    const uint32_t first_partial;
    const int lane = threadIdx.x % 32;

    // Keys, from the first that any row of the tile sees to the last.
    int first_key, end_key;
    uint32_t key_rows;  // of 32 groups of 8 keys, from a multiple of 256 keys on

    uint32_t queries[HEAD_DIM / 16][4];
    Rows<T, HEAD_DIM> rows[1];

    __device__ __forceinline__ SplitUnit(const PagedAttentionParams& p, const Sequence& sequence,
                                         const Splits& splits, int kv_head, int split, int row_tile,
                                         uint32_t first_partial)
        : p(p),
          sequence(sequence),
          splits(splits),
          scores(p),
          groups(p, sequence, kv_head),
          kv_head(kv_head),
          split(split),
          first_row(row_tile * Shape::ROWS),
          num_rows(min(sequence.num_rows * p.group_size - first_row, Shape::ROWS)),
          first_partial(first_partial) {
        const int start = (splits.first + split) * splits.len;
        const int last_token = (first_row + num_rows - 1) / p.group_size;
        first_key = max(start, sequence.first_key(first_row / p.group_size, p.window));
        end_key = min(start + splits.len, sequence.visible_end(last_token));
    }

    // Where a packed row's head begins in q and out.
    __device__ __forceinline__ size_t head_start(int row) const {
        const int packed = first_row + row;
        const size_t token = sequence.first_row + packed / p.group_size;
        return (token * p.num_heads + head_of(row)) * HEAD_DIM;
    }

    __device__ __forceinline__ int head_of(int row) const {
        return kv_head * p.group_size + (first_row + row) % p.group_size;
    }

    __device__ __forceinline__ void load_queries() {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = 8 * half + lane / 4;
            const bool is_there = row < num_rows;
            const T* q = static_cast<const T*>(p.q) + (is_there ? head_start(row) : 0);
#pragma unroll
            for (int k = 0; k < HEAD_DIM / 16; k++) {
#pragma unroll
                for (int right = 0; right < 2; right++) {
                    // As multiply_keys wants them.
                    const int column =
                        IS_NARROW ? 4 * (lane % 4) + 2 * right : 2 * (lane % 4) + 8 * right;
                    const T* pair = q + 16 * k + column;
                    queries[k][2 * right + half] =
                        is_there ? __ldg(reinterpret_cast<const uint32_t*>(pair)) : 0;
                }
            }
        }
    }

    // Asks for the keys and values of tile `tile`: KEYS keys from that number of times KEYS on. What no
    // row sees becomes zero: a weight of 0 times whatever lies there may be no number.
    __device__ __forceinline__ void load_tile(int tile, Cache* stage) {
        constexpr int PACKS = Shape::PACKS, LEN = Pack<Cache>::LEN, GROUPS = Shape::KEYS / 8;
        if (tile % (32 / GROUPS) == 0 || tile == first_key / Shape::KEYS) {
            key_rows = groups.row(p, tile * GROUPS / 32 * 32 + lane);
        }
#pragma unroll Shape::COPIES_AT_ONCE
        for (int i = 0; i < Shape::KEYS * PACKS / 32; i++) {
            const int row = (32 * i + lane) / PACKS, pack = (32 * i + lane) % PACKS;
            const int key = Shape::KEYS * tile + row;
            const bool is_seen = key >= first_key && key < end_key;
            const uint32_t first = __shfl_sync(ALL_LANES, key_rows, (tile * GROUPS + row / 8) % 32);
            const size_t from = static_cast<size_t>(first + row % 8) * HEAD_DIM + LEN * pack;
            Cache* to = stage + row * Shape::STRIDE + LEN * pack;
            copy_async_16(to, static_cast<const Cache*>(p.key) + from, is_seen);
            copy_async_16(to + Shape::TILE, static_cast<const Cache*>(p.value) + from, is_seen);
        }
    }

    __device__ __forceinline__ void attend_tile(int tile, const Cache* stage) {
        float weights[1][Shape::KEYS / 8][4] = {};
        multiply_keys<T, HEAD_DIM>(weights, stage, Shape::STRIDE,
                                   [&](uint32_t (&a)[4], int, int k) {
#pragma unroll
                                       for (int i = 0; i < 4; i++) a[i] = queries[k][i];
                                   });
        scores.adapt(weights[0]);
        // Of rows beyond the last, whatever they see.
        const bool is_whole = p.window <= 0 && Shape::KEYS * (tile + 1) <=
                                                   sequence.visible_end(first_row / p.group_size);
        if (!is_whole) {
            const int row = first_row + lane / 4;
            const int ends[2] = {sequence.visible_end(row / p.group_size),
                                 sequence.visible_end((row + 8) / p.group_size)};
            mask(weights[0], ends, Shape::KEYS * tile, p.window);
        }
        rows[0].weigh(weights[0], scores.factor);
        multiply_values<T, HEAD_DIM>(rows, weights, stage + Shape::TILE, Shape::STRIDE);
    }

    // All tiles of the split that any row sees.
    __device__ __forceinline__ void attend(unsigned char* shared) {
        auto* stages = reinterpret_cast<Cache*>(shared);
        const int end_tile = (end_key + Shape::KEYS - 1) / Shape::KEYS;
        const auto stage = [&](int tile) { return stages + tile % Shape::STAGES * 2 * Shape::TILE; };
        int tile = first_key / Shape::KEYS;
#pragma unroll 1
        for (int i = tile; i < tile + Shape::STAGES; i++) {
            if (i < end_tile) load_tile(i, stage(i));
            commit_copies();
        }
        load_queries();
        rows[0].clear();
#pragma unroll 1
        for (; tile < end_tile; tile++) {
            wait_copies<Shape::STAGES - 1>();
            __syncwarp();
            attend_tile(tile, stage(tile));
            __syncwarp();
            const int next = tile + Shape::STAGES;
            if (next < end_tile) load_tile(next, stage(next));
            commit_copies();
        }
        wait_copies<0>();
        __syncwarp();
    }

    __device__ __forceinline__ size_t partial(int row, int split) const {
        const int token = (first_row + row) / p.group_size;
        return (first_partial + static_cast<size_t>(token) * splits.count + split) * p.num_heads +
               head_of(row);
    }

    __device__ __forceinline__ void store(int row, int column, const float4& sum, float factor) {
        T* to = static_cast<T*>(p.out) + head_start(row) + column;
        *reinterpret_cast<uint2*>(to) = make_uint2(pair_of<T>(sum.x * factor, sum.y * factor),
                                                   pair_of<T>(sum.z * factor, sum.w * factor));
    }

    // The result if there is one split, else a partial.
    __device__ __forceinline__ void finish() {
        const std::integral_constant<bool, IS_NARROW> is_narrow;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = 8 * half + lane / 4;
            const float largest = rows[0].maximum[half] * scores.factor;
            const float total = rows[0].whole_total(half);
            if (row >= num_rows) continue;
            if (splits.count == 1) {
                const float factor = out_factor(p, head_of(row), base_of(largest), total);
                rows[0].store(static_cast<T*>(p.out) + head_start(row), half, factor, is_narrow);
                continue;
            }
            const size_t at = partial(row, split);
            if (lane % 4 == 0) p.partial_softmax[at] = make_float2(largest, total);
            rows[0].store(p.partial_out + at * HEAD_DIM, half, 1.0f, is_narrow);
        }
    }

    // Merges the partials of all splits, in the order of positions. weights `[rows, MAX_MERGED]`
    __device__ __forceinline__ void merge(float* weights) {
        constexpr int AT_ONCE = 4;  // so that enough is asked for at once
        float factor_of_row = 0.0f;  // of row `lane`
        // A lane takes the splits whose number from the sequence's start is its own: where a window
        // begins changes no order.
        const int own = (lane - splits.first) & 31;
        const auto part = [&](int row, int s) {
            return load_shared_by_blocks(p.partial_softmax + partial(row, s));
        };
        for (int first_row = 0; first_row < num_rows; first_row += AT_ONCE) {
            float2 firsts[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int row = min(first_row + i, num_rows - 1);
                firsts[i] = own < splits.count ? part(row, own) : make_float2(NEVER, 0.0f);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int row = min(first_row + i, num_rows - 1);
                float largest = firsts[i].x;
                for (int s = own + 32; s < splits.count; s += 32) {
                    largest = fmaxf(largest, part(row, s).x);
                }
                const float base = base_of(warp_reduce(largest, Max()));
                float total = 0.0f;
                for (int s = own; s < splits.count; s += 32) {
                    const float2 one = s == own ? firsts[i] : part(row, s);
                    const float weight = fast_exp2(one.x - base);
                    weights[row * MAX_MERGED + s] = weight;
                    total = fmaf(weight, one.y, total);
                }
                total = warp_reduce(total, Sum());
                if (lane == row) factor_of_row = out_factor(p, head_of(row), base, total);
            }
        }
        __syncwarp();
        // A place is four columns of a row.
        constexpr int COLUMNS = HEAD_DIM / 4;
        const size_t step = static_cast<size_t>(p.num_heads) * HEAD_DIM;
        const int places = num_rows * COLUMNS;
        for (int first = 0; first < places; first += 32 * AT_ONCE) {
            float4 sums[AT_ONCE];
            const float* from[AT_ONCE];
            const float* weight[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                // Beyond the last place it is read again, and not written.
                const int place = min(first + 32 * i + lane, places - 1);
                const int row = place / COLUMNS;
                from[i] = p.partial_out + partial(row, 0) * HEAD_DIM + place % COLUMNS * 4;
                weight[i] = weights + row * MAX_MERGED;
                sums[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            }
#pragma unroll 2
            for (int s = 0; s < splits.count; s++) {
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    add(sums[i], weight[i][s],
                        load_shared_by_blocks(reinterpret_cast<const float4*>(from[i] + s * step)));
                }
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int place = first + 32 * i + lane;
                const float factor =
                    __shfl_sync(ALL_LANES, factor_of_row, min(place, places - 1) / COLUMNS);
                if (place < places) store(place / COLUMNS, place % COLUMNS * 4, sums[i], factor);
            }
        }
    }

    static __device__ __forceinline__ void add(float4& sum, float weight, const float4& x) {
        sum.x = fmaf(weight, x.x, sum.x);
        sum.y = fmaf(weight, x.y, sum.y);
        sum.z = fmaf(weight, x.z, sum.z);
        sum.w = fmaf(weight, x.w, sum.w);
    }
};

// Whether this warp is the last of `count` to arrive. What they all wrote can then be read, past the
// L1 cache. The counter is left at zero.
__device__ __forceinline__ bool is_last_to_arrive(uint32_t* arrivals, int count) {
    __threadfence();
    __syncwarp();
    int is_last = 0;
    if (threadIdx.x % 32 == 0) {
        is_last = atomicAdd(arrivals, 1u) == static_cast<uint32_t>(count - 1);
        if (is_last) *arrivals = 0;
    }
    is_last = __shfl_sync(ALL_LANES, is_last, 0);
    __threadfence();
    return is_last;
}

// The units of a sequence: its row tiles times its splits. Rows without keys are one, to become zero.
template <class Shape>
__device__ __forceinline__ Count split_count(const PagedAttentionParams& p, int index) {
    const Sequence sequence = Sequence::of(p, index);
    if (sequence.num_rows <= 0 || sequence.num_rows > p.split_rows) return {0, 0};
    const int rows = sequence.num_rows * p.group_size;
    const uint32_t splits = Splits::of(p, sequence).count;
    return {(rows + Shape::ROWS - 1) / Shape::ROWS * splits, sequence.num_rows * splits};
}

// Grid: any number of blocks, best as many as the device holds at once; with the shared memory of their
// warps.
template <class T, class Shape>
__device__ __forceinline__ void attend_splits(const PagedAttentionParams& p) {
    DYNAMIC_SHARED(shared);
    const int warp = threadIdx.x / 32;
    unsigned char* const own = shared + warp * Shape::WARP_BYTES;
    const int max_row_tiles = (p.split_rows * p.group_size + Shape::ROWS - 1) / Shape::ROWS;
    // Neighbours are other blocks': a little work is spread over the whole device.
    for (uint32_t item = blockIdx.x + warp * gridDim.x;; item += blockDim.x / 32 * gridDim.x) {
        const uint32_t unit = item / p.num_kv_heads;
        const int kv_head = item % p.num_kv_heads;
        const Place place = find_unit(p.num_seqs, unit,
                                      [&](int index) { return split_count<Shape>(p, index); });
        if (place.sequence < 0) return;
        const Sequence sequence = Sequence::of(p, place.sequence);
        const Splits splits = Splits::of(p, sequence);
        const int row_tiles = (sequence.num_rows * p.group_size + Shape::ROWS - 1) / Shape::ROWS;
        // Row tiles of the same keys run side by side.
        const int within = unit - place.units_before;
        const int row_tile = within % row_tiles;
        SplitUnit<T, Shape> work(p, sequence, splits, kv_head, within / row_tiles, row_tile,
                                 place.slots_before);
        work.attend(own);
        work.finish();
        if (splits.count > 1) {
            uint32_t* arrivals =
                p.arrivals +
                (static_cast<size_t>(sequence.index) * max_row_tiles + row_tile) * p.num_kv_heads +
                kv_head;
            if (is_last_to_arrive(arrivals, splits.count)) {
                work.merge(reinterpret_cast<float*>(own));
                __syncwarp();
            }
        }
    }
}
