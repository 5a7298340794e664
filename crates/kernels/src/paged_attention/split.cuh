// Attention of the sequences with few rows: decodes and drafts.
//
// Keys are cut into splits at fixed positions. A unit of work is one split of one key head, with the
// query heads and the rows that share it packed as the columns of tensor-core tiles, so that each key
// and value is read once. The warps of a block take the split's tiles of 16 keys in turn, and add their
// sums. A block takes units that follow each other, and merges the splits of rows that are all its own,
// in the order of positions. Of those that it shares with others, who comes last does.
//
// Blocks stay until all sequences' units are done, which they count out for themselves: a grid that was
// chosen for other lengths (a captured graph) costs nothing. Each warp asks for keys and values by
// asynchronous copies of its own, STAGES tiles ahead, and does not stop at the end of a unit: while sums
// are added and merged, the first tiles of the next units are on their way.
//
// Bound: reading keys and values. Of each 2-byte element every query head makes one multiply-add.
// With a group of 8 on the ordinary cores those alone are half of the time that 4.3 TB/s take, and
// the conversions and the sums between lanes the other half and more. On the tensor cores a tile of
// 16 keys with head_dim 128 (8 KiB) is 16 products of 16 x 8 x 16 and, with its part of what units
// begin and end with, some 400 instructions, for which the memory needs about 520 cycles of a
// multiprocessor that issues four a cycle. An e4m3 cache has half the bytes, and 80 instructions more
// for them (an H200 counted 470).
#pragma once
#include "columns.cuh"

constexpr int LOG_KEYS_PER_SPLIT = 8;
constexpr int MAX_SPLITS = 64;
constexpr int MAX_MERGED = MAX_SPLITS + 2;  // a window that begins and ends within splits

// The splits of a sequence: 2^log_len keys each, from number `first`. Longer contexts have longer ones,
// so that no more than MAX_MERGED are to be merged; their length depends on the context alone.
struct Splits {
    int log_len, first, count;

    static __device__ __forceinline__ Splits of(const PagedAttentionParams& p,
                                                const Sequence& sequence) {
        const int context = sequence.context_len;
        const int span = p.window > 0 ? min(context, p.window) : context;
        // The least that no more than MAX_SPLITS splits need: 32 - clz(n - 1) is log2 n, rounded up.
        const int needed = (span + MAX_SPLITS - 1) / MAX_SPLITS;
        const int log_len = max(LOG_KEYS_PER_SPLIT, needed > 1 ? 32 - __clz(needed - 1) : 0);
        const int first = sequence.first_key(0, p.window) >> log_len;
        return {log_len, first, max(((context + (1 << log_len) - 1) >> log_len) - first, 1)};
    }
};

// Storage type of the cache and of what the tensor cores multiply, head dim, tiles of eight packed rows.
// `IN_STEP_`: as a part of a step's kernel, whose sequences have a row each, and which must be short: it does
// not fit the instruction caches as it is.
template <class T, class Cache_, int HEAD_DIM_, int TILES_, bool IN_STEP_ = false>
struct SplitShape {
    static constexpr bool IN_STEP = IN_STEP_;
    using Cache = Cache_;
    // f16 holds every e4m3 number, and devices have an instruction to bring them there.
    using Math = typename std::conditional<sizeof(Cache) == 1, f16, T>::type;
    static constexpr bool IS_NARROW = sizeof(Cache) == 1;
    static constexpr int HEAD_DIM = HEAD_DIM_;
    static constexpr int TILES = TILES_;
    static constexpr int ROWS = 8 * TILES;
    static constexpr int WARPS = HEAD_DIM > 128 ? 2 : 4;
    static constexpr int THREADS = 32 * WARPS;
    // Of a block, each with units of its own: what keeps the memory busy where a multiprocessor has one block.
    static constexpr int TEAMS = IN_STEP ? 2 : 1;
    static constexpr int STAGES = 4 / TEAMS / sizeof(Cache);
    static constexpr int PACKS = HEAD_DIM / Pack<Cache>::LEN;
    // Elements; with a pack more rows start in different banks.
    static constexpr int STRIDE = HEAD_DIM + Pack<Cache>::LEN;
    static constexpr int TILE = 16 * STRIDE;  // of keys or values
    static constexpr int STAGE = 2 * TILE;
    static constexpr int WARP_ELEMENTS = STAGES * STAGE;
    // Sums of a warp take the place of the last tile it has multiplied, so many rows at once.
    static constexpr int SUM_STRIDE = HEAD_DIM + 4;  // floats; columns of a fragment in different banks
    static constexpr int FITTING = STAGE * int(sizeof(Cache)) / (SUM_STRIDE * 4) / 8 * 8;
    static constexpr int ROWS_AT_ONCE = FITTING < ROWS ? FITTING : ROWS;
    static_assert(FITTING > 0 && ROWS % ROWS_AT_ONCE == 0 && 8 % WARPS == 0, "rows are dealt to warps");

    static __device__ __forceinline__ int team() { return IN_STEP ? threadIdx.x / THREADS : 0; }
    // Of the team.
    static __device__ __forceinline__ int warp() {
        return IN_STEP ? threadIdx.x / 32 % WARPS : threadIdx.x / 32;
    }
};

// How far a block, or a warp that asks for tiles ahead of it, is with its units: of all sequences their
// key heads, splits and row tiles. All lanes of a warp have the same.
template <class Shape>
struct SplitCursor {
    uint32_t left;  // units, this one included
    Sequence sequence;
    Splits splits;
    int row_tiles;
    int kv_head, split, row_tile;
    uint32_t first_partial;  // of the sequence

    static __device__ __forceinline__ int num_row_tiles(const PagedAttentionParams& p,
                                                        const Sequence& sequence) {
        if (Shape::IN_STEP) return 1;
        if (sequence.num_rows <= 0 || sequence.num_rows > p.split_rows) return 0;
        return (sequence.num_rows * (p.num_heads / p.num_kv_heads) + Shape::ROWS - 1) / Shape::ROWS;
    }

    __device__ __forceinline__ void enter(const PagedAttentionParams& p, int index) {
        sequence = Sequence::of(p, index);
        splits = Splits::of(p, sequence);
        row_tiles = num_row_tiles(p, sequence);
    }

    SplitCursor() = default;
    // The first of part `index` of `count`, found by a whole warp.
    __device__ __forceinline__ SplitCursor(const PagedAttentionParams& p, uint32_t index, uint32_t count) {
        uint32_t unit = 0;
        const auto unit_of = [&](uint64_t units) {
            unit = units * index / count;
            left = static_cast<uint32_t>(units * (index + 1) / count) - unit;
            return left > 0 ? unit : units;
        };
        // Rows without keys are one unit, to become zero.
        const Place place = find_unit(p.num_seqs, unit_of, [&](int index) -> Count {
            const Sequence one = Sequence::of(p, index);
            const uint32_t row_tiles = num_row_tiles(p, one), splits = Splits::of(p, one).count;
            return {p.num_kv_heads * row_tiles * splits, row_tiles == 0 ? 0 : one.num_rows * splits};
        });
        if (left == 0) return;
        enter(p, place.sequence);
        const int within = unit - place.units_before, rest = within / row_tiles;
        row_tile = within - rest * row_tiles;
        split = rest % splits.count;
        kv_head = rest / splits.count;
        first_partial = place.slots_before;
    }

    // Whether the next unit is not of the same key head.
    __device__ __forceinline__ bool is_last_of_head() const {
        return left == 1 || (is_last_row_tile() && split + 1 == splits.count);
    }

    __device__ __forceinline__ bool is_last_row_tile() const {
        return Shape::IN_STEP || row_tile + 1 == row_tiles;
    }

    __device__ __forceinline__ void advance(const PagedAttentionParams& p) {
        if (--left == 0) return;
        row_tile++;
        if (!Shape::IN_STEP && row_tile < row_tiles) return;
        row_tile = 0;
        if (++split < splits.count) return;
        split = 0;
        if (++kv_head < p.num_kv_heads) return;
        kv_head = 0;
        first_partial += sequence.num_rows * splits.count;
        do {
            enter(p, sequence.index + 1);
        } while (!Shape::IN_STEP && row_tiles == 0);
    }
};

// Query heads of a key head. Packed rows are those of the first row, then of the next.
template <class Shape>
struct Group {
    int size;
    Divisor by_size;

    __device__ __forceinline__ explicit Group(const PagedAttentionParams& p)
        : size(p.num_heads / p.num_kv_heads), by_size(size) {}

    __device__ __forceinline__ int row_of(int packed) const {
        return Shape::IN_STEP ? 0 : by_size.quotient(packed);
    }
    __device__ __forceinline__ int head_of(int packed) const {
        return packed - row_of(packed) * size;
    }
};

// The packed rows of a row tile.
template <class Shape>
struct SplitRows {
    int first, count;
    int first_token, last_token;  // rows of the sequence

    SplitRows() = default;
    __device__ __forceinline__ SplitRows(const Group<Shape>& group, const SplitCursor<Shape>& at) {
        first = Shape::IN_STEP ? 0 : at.row_tile * Shape::ROWS;
        count = min(at.sequence.num_rows * group.size - first, Shape::ROWS);
        first_token = group.row_of(first);
        last_token = group.row_of(first + count - 1);
    }

    __device__ __forceinline__ int end() const { return first + count; }
};

// Which keys of a split any of the rows sees, and which tiles of those are a warp's.
template <class Shape>
struct SplitKeys {
    int first, end;
    int tile, end_tile;  // every WARPS-th

    SplitKeys() = default;
    __device__ __forceinline__ SplitKeys(const PagedAttentionParams& p, const SplitCursor<Shape>& at,
                                         const SplitRows<Shape>& rows) {
        const int start = (at.splits.first + at.split) << at.splits.log_len;
        first = max(start, at.sequence.first_key(rows.first_token, p.window));
        end = min(start + (1 << at.splits.log_len), at.sequence.visible_end(rows.last_token));
        // They are dealt from the split's start, whatever a window hides of it.
        const int own = start / 16 + Shape::warp(), step = Shape::WARPS;
        tile = own + max(first / 16 - own + step - 1, 0) / step * step;
        end_tile = (end + 15) / 16;
    }
};

// Asks for a warp's tiles, of unit after unit.
template <class Shape>
struct SplitFeed {
    using Cache = typename Shape::Cache;

    const PagedAttentionParams& p;
    const Group<Shape>& group;
    Cache* const stages;  // of the warp
    SplitCursor<Shape> at;
    SplitKeys<Shape> keys;
    KeyGroups groups;
    uint32_t key_rows;  // of group 32 * key_window + lane
    int key_window;
    int stage = 0;

    __device__ __forceinline__ SplitFeed(const PagedAttentionParams& p, const Group<Shape>& group,
                                         Cache* stages, const SplitCursor<Shape>& first)
        : p(p), group(group), stages(stages), at(first) {
        enter();
        find_rows();
    }

    // The next tile, or none after the last: a group of copies in any case.
    __device__ __forceinline__ void ask() {
        if (at.left > 0) {
            if (!Shape::IN_STEP && 16 * keys.tile >= keys.first && 16 * keys.tile + 16 <= keys.end) {
                load(std::true_type());
            } else {
                load(std::false_type());
            }
            keys.tile += Shape::WARPS;
            find_rows();
        }
        commit_copies();
        stage = (stage + 1) % Shape::STAGES;
    }

    // Whether the next tile is that of the sequence's last key.
    __device__ __forceinline__ bool is_at_last_tile() const {
        return at.left > 0 && 16 * keys.tile + 16 >= at.sequence.context_len;
    }

    // To the L2 cache what ask() would copy, if there is anything.
    __device__ __forceinline__ void ask_l2() const {
        if (at.left == 0) return;
        const int lane = threadIdx.x % 32;
        constexpr int LINES = Shape::HEAD_DIM * int(sizeof(Cache)) / 128;  // of a row
        const size_t row = __shfl_sync(ALL_LANES, key_rows, keys.tile % 16 * 2 + lane % 16 / 8) + lane % 8;
        if (16 * keys.tile + lane % 16 >= keys.end) return;
        const void* from = lane < 16 ? p.key : p.value;
#pragma unroll
        for (int i = 0; i < LINES; i++) {
            prefetch_to_l2(static_cast<const Cache*>(from) + row * Shape::HEAD_DIM + i * 128 / sizeof(Cache));
        }
    }

private:
    __device__ __forceinline__ void enter() {
        keys = SplitKeys<Shape>(p, at, SplitRows<Shape>(group, at));
        groups = KeyGroups(p, at.sequence, at.kv_head);
        key_window = -1;
    }

    // Goes to the unit that has the next tile, and asks where its keys lie: they are there when it is
    // the tile's turn.
    __device__ __forceinline__ void find_rows() {
        while (keys.tile >= keys.end_tile) {
            at.advance(p);
            if (at.left == 0) return;
            enter();
        }
        if (keys.tile / 16 != key_window) {
            key_window = keys.tile / 16;
            key_rows = groups.row(p, 32 * key_window + threadIdx.x % 32);
        }
    }

    // Keys and values of a tile (keys 16 tile to 16 tile + 15 of the sequence). What no row sees becomes
    // zero: a weight of 0 times whatever lies there may be no number.
    template <class IsWhole>
    __device__ __forceinline__ void load(IsWhole) {
        constexpr int PACKS = Shape::PACKS, LEN = Pack<Cache>::LEN;
        const int lane = threadIdx.x % 32, tile = keys.tile;
        const size_t upper = __shfl_sync(ALL_LANES, key_rows, tile % 16 * 2);
        const size_t lower = __shfl_sync(ALL_LANES, key_rows, tile % 16 * 2 + 1);
        Cache* const to = stages + stage * Shape::STAGE;
#pragma unroll
        for (int i = 0; i < PACKS / 2; i++) {
            const int row = (32 * i + lane) / PACKS, pack = (32 * i + lane) % PACKS;
            const size_t from = ((row < 8 ? upper : lower) + row % 8) * Shape::HEAD_DIM + LEN * pack;
            const int key = 16 * tile + row;
            const bool is_seen = IsWhole::value || (key >= keys.first && key < keys.end);
            Cache* const at = to + row * Shape::STRIDE + LEN * pack;
            copy_async_16(at, static_cast<const Cache*>(p.key) + from, is_seen);
            copy_async_16(at + Shape::TILE, static_cast<const Cache*>(p.value) + from, is_seen);
        }
    }
};

// A warp's part of a key head's units. Rows are packed ones.
template <class T, class Shape, class Team>
struct SplitUnit {
    static constexpr int HEAD_DIM = Shape::HEAD_DIM;
    using Cache = typename Shape::Cache;
    using Math = typename Shape::Math;

    const PagedAttentionParams& p;
    const Group<Shape>& group;
    const Scores& scores;
    const SplitCursor<Shape>& at;
    const Team& team;
    const int lane = threadIdx.x % 32, warp = Shape::warp();

    SplitRows<Shape> rows;
    uint32_t queries[Shape::TILES][HEAD_DIM / 16][2];
    Columns<HEAD_DIM> columns[Shape::TILES];

    __device__ __forceinline__ SplitUnit(const PagedAttentionParams& p, const Group<Shape>& group,
                                         const Scores& scores, const SplitCursor<Shape>& at,
                                         const Team& team)
        : p(p), group(group), scores(scores), at(at), team(team) {
        enter_row_tile();
    }

    __device__ __forceinline__ void enter_row_tile() {
        rows = SplitRows<Shape>(group, at);
#pragma unroll
        for (int t = 0; t < Shape::TILES; t++) {
            load_queries(queries[t], rows.first + 8 * t + lane / 4);
        }
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int t = 0; t < Shape::TILES; t++) columns[t].clear();
    }

    // Where a row's head begins in q and out.
    __device__ __forceinline__ size_t head_start(int row) const {
        const size_t token = at.sequence.first_row + group.row_of(row);
        return (token * p.num_heads + head_of(row)) * HEAD_DIM;
    }

    __device__ __forceinline__ int head_of(int row) const {
        return at.kv_head * group.size + group.head_of(row);
    }

    // The right factors that multiply_keys wants; zeros for a row that is not there.
    __device__ __forceinline__ void load_queries(uint32_t (&out)[HEAD_DIM / 16][2], int row) const {
        const bool is_there = row < rows.end();
        const T* q = is_there ? team.query(head_start(row), row) : nullptr;
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; k++) {
#pragma unroll
            for (int right = 0; right < 2; right++) {
                const int column = Shape::IS_NARROW ? 4 * (lane % 4) + 2 * right
                                                    : 2 * (lane % 4) + 8 * right;
                const uint32_t* pair = reinterpret_cast<const uint32_t*>(q + 16 * k + column);
                out[k][right] = is_there ? convert_pair<T, Math>(*pair) : 0;
            }
        }
    }

    __device__ __forceinline__ void attend(int tile, const Cache* stage) {
        float weights[Shape::TILES][4];
        multiply_keys<Math, HEAD_DIM>(weights, queries, stage, Shape::STRIDE);
        const bool is_seen_by_all =
            16 * tile >= at.sequence.first_key(rows.last_token, p.window) &&
            16 * tile + 16 <= at.sequence.visible_end(rows.first_token);
#pragma unroll
        for (int t = 0; t < Shape::TILES; t++) {
            scores.adapt(weights[t]);
            if (!is_seen_by_all) mask(weights[t], t, 16 * tile);
            columns[t].weigh(weights[t], scores.factor);
        }
        multiply_values<Math, HEAD_DIM>(columns, weights, stage + Shape::TILE, Shape::STRIDE);
    }

    // Minus infinity for the keys that a row does not see, the first of which is `start`.
    __device__ __forceinline__ void mask(float (&weights)[4], int t, int start) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = rows.first + 8 * t + 2 * (lane % 4) + i % 2;
            const int key = start + lane / 4 + i / 2 * 8, token = group.row_of(row);
            const bool is_seen = key >= at.sequence.first_key(token, p.window) &&
                                 key < at.sequence.visible_end(token);
            weights[i] = is_seen ? weights[i] : NEVER;
        }
    }

    // Leaves sums of the rows from `first` on, in `[rows, SUM_STRIDE]`, and their softmax.
    __device__ __forceinline__ void leave(int first, float* to, float2* softmax) const {
        const int g = lane / 4;
#pragma unroll
        for (int t = 0; t < Shape::TILES; t++) {
            if (8 * t < first || 8 * t >= first + Shape::ROWS_AT_ONCE) continue;
            const Columns<HEAD_DIM>& own = columns[t];
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int row = 8 * t + 2 * (lane % 4) + j;
                const float sum = own.whole_total(j);
                if (g == 0) softmax[row - first] = make_float2(own.maximum[j] * scores.factor, sum);
                // Without a key there may be no place for sums.
                if (row >= rows.count || own.maximum[j] == NEVER) continue;
                float* at = to + (row - first) * Shape::SUM_STRIDE;
#pragma unroll
                for (int m = 0; m < HEAD_DIM / 16; m++) {
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const int dim = Shape::IS_NARROW ? m / 2 * 32 + m % 2 + 16 * i + 2 * g
                                                         : 16 * m + 8 * i + g;
                        at[dim] = own.sums[m][2 * i + j];
                    }
                }
            }
        }
    }

    __device__ __forceinline__ size_t partial(int row, int split) const {
        const size_t token = group.row_of(row);
        return (at.first_partial + token * at.splits.count + split) * p.num_heads + head_of(row);
    }

    __device__ __forceinline__ void store(int row, int column, const float4& sum, float factor) const {
        T* to = static_cast<T*>(p.out) + head_start(row) + column;
        *reinterpret_cast<uint2*>(to) = make_uint2(pair_of<T>(sum.x * factor, sum.y * factor),
                                                   pair_of<T>(sum.z * factor, sum.w * factor));
    }

    // Adds what the warps left of `row`, in their order; the result if there is one split, else a
    // partial.
    template <class Left>
    __device__ __forceinline__ void combine(int row, const float2* softmax, int softmax_stride,
                                            Left left) const {
        float largest = NEVER;
#pragma unroll
        for (int w = 0; w < Shape::WARPS; w++) {
            largest = fmaxf(largest, softmax[w * softmax_stride].x);
        }
        const float base = base_of(largest);
        float total = 0.0f, weights[Shape::WARPS];
#pragma unroll
        for (int w = 0; w < Shape::WARPS; w++) {
            weights[w] = fast_exp2(softmax[w * softmax_stride].x - base);
            total = fmaf(weights[w], softmax[w * softmax_stride].y, total);
        }
        const float factor = out_factor(p, head_of(row), base, total);
        const size_t to = partial(row, at.split);
        for (int column = 4 * lane; column < HEAD_DIM; column += 128) {
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (int w = 0; w < Shape::WARPS; w++) {
                if (softmax[w * softmax_stride].x != NEVER) {
                    add(sum, weights[w], *reinterpret_cast<const float4*>(left(w) + column));
                }
            }
            if (at.splits.count == 1) {
                store(row, column, sum, factor);
            } else {
                *reinterpret_cast<float4*>(p.partial_out + to * HEAD_DIM + column) = sum;
            }
        }
        if (at.splits.count > 1 && lane == 0) p.partial_softmax[to] = make_float2(largest, total);
    }

    // Whether all units of the key head are there, of which `num_own` are the block's. What others
    // wrote can then be read, past the L1 cache. The counter of a warp's rows is left at zero. A block
    // seldom has to ask: a fence waits for the tiles that are on their way.
    __device__ __forceinline__ bool are_all_there(uint32_t num_own) const {
        const uint32_t all = at.row_tiles * at.splits.count;
        __syncwarp();
        if (num_own == all) return true;
        const size_t head = static_cast<size_t>(at.sequence.index) * p.num_kv_heads + at.kv_head;
        uint32_t* counter = p.arrivals + head * Shape::WARPS + warp;
        int is_last = 0;
        if (lane == 0) {
            __threadfence();
            is_last = atomicAdd(counter, num_own) + num_own == all;
            if (is_last) *counter = 0;
            __threadfence();
        }
        return __shfl_sync(ALL_LANES, is_last, 0);
    }

    // Merges the partials of all splits, in the order of positions.
    __device__ __forceinline__ void merge(int row) const {
        constexpr int ROUNDS = (MAX_MERGED + 31) / 32, COLUMNS = (HEAD_DIM + 127) / 128;
        // A lane takes the splits whose number from the sequence's start is its own: where a
        // window begins changes no order.
        const int own = (lane - at.splits.first) & 31;
        float2 parts[ROUNDS];
        float largest = NEVER;
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const int split = own + 32 * i;
            parts[i] = make_float2(NEVER, 0.0f);
            if (split < at.splits.count) {
                parts[i] = load_shared_by_blocks(p.partial_softmax + partial(row, split));
            }
            largest = fmaxf(largest, parts[i].x);
        }
        const float base = base_of(warp_reduce(largest, Max()));
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            parts[i].x = fast_exp2(parts[i].x - base);
            total = fmaf(parts[i].x, parts[i].y, total);
        }
        total = warp_reduce(total, Sum());
        const float factor = out_factor(p, head_of(row), base, total);
        const float* from = p.partial_out + partial(row, 0) * HEAD_DIM;
        const size_t step = static_cast<size_t>(p.num_heads) * HEAD_DIM;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const int column = 4 * lane + 128 * c;
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
            for (int i = 0; 32 * i < at.splits.count; i++) {
                const int end = min(at.splits.count - 32 * i, 32);
                float weights = parts[0].x;
#pragma unroll
                for (int j = 1; j < ROUNDS; j++) weights = i == j ? parts[j].x : weights;
#pragma unroll 8
                for (int s = 0; s < end; s++) {
                    const float weight = __shfl_sync(ALL_LANES, weights, (at.splits.first + s) & 31);
                    const float* part = from + (32 * i + s) * step + column;
                    if (column < HEAD_DIM) {
                        add(sum, weight, load_shared_by_blocks(reinterpret_cast<const float4*>(part)));
                    }
                }
            }
            if (column < HEAD_DIM) store(row, column, sum, factor);
        }
    }

    static __device__ __forceinline__ void add(float4& sum, float weight, const float4& x) {
        sum.x = fmaf(weight, x.x, sum.x);
        sum.y = fmaf(weight, x.y, sum.y);
        sum.z = fmaf(weight, x.z, sum.z);
        sum.w = fmaf(weight, x.w, sum.w);
    }
};

// The threads of a block as a launch has them: queries are there, and all threads attend.
template <class T>
struct WholeBlock {
    const void* q;

    // Where a packed row's query begins: `start` elements into all of them.
    __device__ __forceinline__ const T* query(size_t start, int) const {
        return static_cast<const T*>(q) + start;
    }
    // Whether the next keys that a warp asks for are there before `enter`, and what it does about those
    // that it cannot ask for yet.
    template <class Feed>
    __device__ __forceinline__ bool has_keys(const Feed&) const {
        return true;
    }
    template <class Feed>
    __device__ __forceinline__ void ask_l2(const Feed&) const {}
    // Before the units of a key head are attended.
    template <class Cursor>
    __device__ __forceinline__ void enter(const Cursor&, bool) const {}
    __device__ __forceinline__ void sync() const { __syncthreads(); }
};

// The team's units, of which `at` is the first. Grid: any number of blocks, best as many as the device
// holds at once.
template <class T, class Shape, class Team>
__device__ __forceinline__ void attend_splits(const PagedAttentionParams& p, const Team& team,
                                              SplitCursor<Shape> at, unsigned char* shared) {
    using Cache = typename Shape::Cache;
    constexpr int WARPS = Shape::WARPS;
    SHARED(all_softmax, float2[Shape::TEAMS][Shape::WARPS][Shape::ROWS_AT_ONCE]);
    SHARED(all_left_at, int[Shape::TEAMS][Shape::WARPS]);  // stages
    auto& softmax = all_softmax[Shape::team()];
    auto& left_at = all_left_at[Shape::team()];
    Cache* const stages = reinterpret_cast<Cache*>(shared);
    const int lane = threadIdx.x % 32, warp = Shape::warp();
    if (at.left == 0) return;
    const Group<Shape> group(p);
    const Scores scores(p);
    Cache* const own = stages + warp * Shape::WARP_ELEMENTS;
    SplitFeed<Shape> feed(p, group, own, at);
    int num_asked = 0, stage = 0;
    bool is_first = true;
    while (at.left > 0) {
        // What is there is asked for before others are waited for. The first time; then all stages are under way.
#pragma unroll 1
        for (int round = 0; round < 2; round++) {
            for (; num_asked < Shape::STAGES && (round == 1 || team.has_keys(feed)); num_asked++) feed.ask();
            if (round == 0 && is_first) team.ask_l2(feed);
            if (round == 0) team.enter(at, is_first);
        }
        is_first = false;
        SplitUnit<T, Shape, Team> unit(p, group, scores, at, team);
        uint32_t num_own = 1;
#pragma unroll 1
        while (true) {
            SplitKeys<Shape> keys(p, at, unit.rows);
            bool has_tile = keys.tile < keys.end_tile, is_last;
            unit.clear();
#pragma unroll 1
            do {
                if (has_tile) {
                    wait_copies<Shape::STAGES - 1>();
                    __syncwarp();
                    unit.attend(keys.tile, own + stage * Shape::STAGE);
                    __syncwarp();
                    keys.tile += WARPS;
                }
                is_last = keys.tile >= keys.end_tile;
                if (is_last) {
                    if (lane == 0) left_at[warp] = warp * Shape::STAGES + stage;
#pragma unroll
                    for (int first = 0; first < Shape::ROWS; first += Shape::ROWS_AT_ONCE) {
                        unit.leave(first, reinterpret_cast<float*>(own + stage * Shape::STAGE), softmax[warp]);
                        team.sync();
                        const int end = min(first + Shape::ROWS_AT_ONCE, unit.rows.count);
                        for (int row = first + warp; row < end; row += WARPS) {
                            const float2* of_row = &softmax[0][row - first];
                            unit.combine(unit.rows.first + row, of_row, Shape::ROWS_AT_ONCE, [&](int w) {
                                return reinterpret_cast<const float*>(stages + left_at[w] * Shape::STAGE) +
                                       (row - first) * Shape::SUM_STRIDE;
                            });
                        }
                        team.sync();
                    }
                }
                // The place of a unit's last tile was that of its sums.
                if (has_tile) {
                    feed.ask();
                    stage = (stage + 1) % Shape::STAGES;
                }
            } while (!is_last);
            if (at.is_last_of_head()) break;
            at.advance(p);
            num_own++;
            if (!Shape::IN_STEP && at.row_tiles > 1) unit.enter_row_tile();
        }
        if (at.splits.count > 1 && unit.are_all_there(num_own)) {
            const int num_rows = at.sequence.num_rows * group.size;
#pragma unroll 1
            for (int row = warp; row < num_rows; row += WARPS) unit.merge(row);
        }
        at.advance(p);
    }
    wait_copies<0>();
}
