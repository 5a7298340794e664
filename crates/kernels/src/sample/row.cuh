// One row of logits under one block: passes over its tokens, and the two searches that all of the
// sampler is made of. Sums are of whole numbers, so that no order of addition shows in a result.
#pragma once

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / 32;
// Consecutive tokens that one warp reads in a pass.
constexpr int SEGMENT = 1024;
constexpr int MAX_VOCAB = 1 << 19;
constexpr int MAX_SEGMENTS = MAX_VOCAB / SEGMENT;
constexpr int BINS = 2048;

// Weights, at most 1, are summed in units of 2^-44: half a million of them fit 64 bits.
constexpr float WEIGHT_UNIT = 17592186044416.0f;
constexpr double LN_WEIGHT_UNIT = 44 * 0.69314718055994530942;

using u64 = unsigned long long;

// What the block shares.
struct Shared {
    u64 of_warps[WARPS];
    u64 of_segments[MAX_SEGMENTS];
    u64 remaining, before, in_bin;
    unsigned bin, id, count;
};

// 64-bit sums by bin, in two words: 32-bit additions to shared memory are one instruction.
struct Histogram {
    unsigned low[BINS], high[BINS];
};

// The order of floats as the order of whole numbers; both zeros are one.
__device__ __forceinline__ unsigned key_of(float x) {
    const unsigned bits = x == 0.0f ? 0u : __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of(unsigned key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}
constexpr unsigned IMPOSSIBLE = 0x007fffffu;  // the key of minus infinity

// A row, and the tokens that are still in: those up to the border in falling order of logits and
// rising order of ids.
struct Row {
    const float* logits;
    int len;
    float max, temperature, min_p;
    unsigned border_key, border_id;

    __device__ __forceinline__ bool has(unsigned key, int id) const {
        return key > IMPOSSIBLE &&
               (key > border_key || (key == border_key && unsigned(id) <= border_id));
    }
    __device__ __forceinline__ float weight(float x) const {
        const float weight = expf((x - max) / temperature);
        return weight < min_p ? 0.0f : weight;
    }
    __device__ __forceinline__ u64 units(float x) const {
        return __float2ull_rn(weight(x) * WEIGHT_UNIT);
    }
};

// Calls f(x, id) for every token of a segment; all lanes of a warp come here together.
template <class F>
__device__ __forceinline__ void for_each_in_segment(const Row& row, int segment, F f) {
    constexpr int AHEAD = 2;  // loads before the first is used
    const int lane = threadIdx.x % 32;
    const bool is_aligned = is_aligned_16(row.logits);
    for (int i = 0; i < SEGMENT; i += AHEAD * 128) {
        Pack<float> packs[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const int index = (segment * SEGMENT + i + j * 128) / 4 + lane;
            packs[j] = load_row_pack(row.logits, index, row.len, is_aligned);
        }
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const int start = segment * SEGMENT + i + j * 128 + 4 * lane;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (start + k < row.len) f(packs[j].x[k], start + k);
            }
        }
    }
}

// Calls f(x, id) for every token of the row.
template <class F>
__device__ __forceinline__ void for_each_token(const Row& row, F f) {
    const int num_segments = (row.len + SEGMENT - 1) / SEGMENT;
    for (int segment = threadIdx.x / 32; segment < num_segments; segment += WARPS) {
        for_each_in_segment(row, segment, f);
    }
}

// Sum of the values of lower threads; `total` becomes that of all.
__device__ __forceinline__ u64 block_scan(u64 value, Shared& s, u64& total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 sum = value;
#pragma unroll
    for (int delta = 1; delta < 32; delta *= 2) {
        const u64 below = __shfl_up_sync(ALL_LANES, sum, delta);
        if (lane >= delta) sum += below;
    }
    __syncthreads();  // the last scan's readers are done
    if (lane == 31) s.of_warps[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        u64 warps = s.of_warps[lane];
#pragma unroll
        for (int delta = 1; delta < 32; delta *= 2) {
            const u64 below = __shfl_up_sync(ALL_LANES, warps, delta);
            if (lane >= delta) warps += below;
        }
        s.of_warps[lane] = warps;
    }
    __syncthreads();
    total = s.of_warps[WARPS - 1];
    return sum - value + (warp > 0 ? s.of_warps[warp - 1] : 0);
}

// The first token in the order of ids at which the running sum of `measure(x, id)` reaches the target,
// which is a function of the whole sum. The sum must not be 0, nor the target 0 or above it.
template <class M, class T>
__device__ __forceinline__ unsigned find_in_order(const Row& row, Shared& s, M measure, T target_of) {
    const int lane = threadIdx.x % 32;
    const int num_segments = (row.len + SEGMENT - 1) / SEGMENT;
    for (int segment = threadIdx.x / 32; segment < num_segments; segment += WARPS) {
        u64 sum = 0;
        for_each_in_segment(row, segment, [&](float x, int id) { sum += measure(x, id); });
        sum = warp_reduce(sum, Sum());
        if (lane == 0) s.of_segments[segment] = sum;
    }
    __syncthreads();
    const int thread = threadIdx.x;
    const u64 own = thread < num_segments ? s.of_segments[thread] : 0;
    u64 total;
    const u64 before = block_scan(own, s, total), target = target_of(total);
    if (before < target && target <= before + own) {
        s.bin = thread;
        s.remaining = target - before;
    }
    __syncthreads();
    if (thread < 32) {
        const int start = s.bin * SEGMENT;
        u64 left = s.remaining;
        unsigned found = start;
        for (int i = 0; i < SEGMENT; i += 32) {
            const int id = start + i + lane;
            const u64 mine = id < row.len ? measure(row.logits[id], id) : 0;
            u64 sum = mine;
#pragma unroll
            for (int delta = 1; delta < 32; delta *= 2) {
                const u64 below = __shfl_up_sync(ALL_LANES, sum, delta);
                if (lane >= delta) sum += below;
            }
            const unsigned reaching = __ballot_sync(ALL_LANES, sum >= left);
            if (reaching != 0) {
                found = start + i + __ffs(int(reaching)) - 1;
                break;
            }
            left -= __shfl_sync(ALL_LANES, sum, 31);
        }
        if (lane == 0) s.id = found;
    }
    __syncthreads();
    return s.id;
}

__device__ __forceinline__ void add_to_bin(Histogram& h, unsigned bin, u64 measure) {
    const unsigned low = unsigned(measure), old = atomicAdd(&h.low[bin], low);
    const unsigned carry = old + low < low;
    const unsigned high = unsigned(measure >> 32) + carry;
    if (high != 0) atomicAdd(&h.high[bin], high);
}

// A search for the border between the tokens that stay and the others: of the tokens that are in, the
// first of the order stay until their measures reach a target. It goes from the upper bits of the
// border's key to the lower ones, by histograms.
struct Search {
    unsigned prefix;  // upper bits of the border's key
    int shift;        // how many lower bits are not known
    u64 target;       // what tokens with this prefix have to add
    u64 in_bin;       // what all of them have
    u64 total;        // of all tokens that are in
    u64 through;      // of those up to the last with this prefix
};

// Finds the next bits of the border. `is_first` computes the target from the total; false if all stay,
// since their measures do not exceed it.
template <bool is_first, class M, class T>
__device__ __forceinline__ bool narrow(const Row& row, Shared& s, Histogram& h, Search& search,
                                       int bits, M measure, T target_of) {
    const int thread = threadIdx.x, above = search.shift;
    search.shift -= bits;
    __syncthreads();
    for (int bin = thread; bin < BINS; bin += THREADS) h.low[bin] = h.high[bin] = 0;
    __syncthreads();
    const unsigned mask = (1u << bits) - 1;
    for_each_token(row, [&](float x, int id) {
        const unsigned key = key_of(x);
        if (!row.has(key, id) || (!is_first && key >> above != search.prefix)) return;
        const u64 of_token = measure(x);
        if (of_token != 0) add_to_bin(h, key >> search.shift & mask, of_token);
    });
    __syncthreads();
    // Each thread has two neighbours, the higher key first.
    const int upper = BINS - 1 - 2 * thread, lower = upper - 1;
    const u64 of_upper = u64(h.high[upper]) << 32 | h.low[upper];
    const u64 of_lower = u64(h.high[lower]) << 32 | h.low[lower];
    u64 total;
    const u64 before = block_scan(of_upper + of_lower, s, total);
    if (is_first) {
        search.total = total;
        search.target = target_of(total);
        if (search.target >= total) return false;
    }
    const u64 target = search.target;
    const bool in_upper = before < target && target <= before + of_upper;
    const bool in_lower = before + of_upper < target && target <= before + of_upper + of_lower;
    if (in_upper || in_lower) {
        s.bin = in_upper ? upper : lower;
        s.in_bin = in_upper ? of_upper : of_lower;
        s.before = before + (in_upper ? 0 : of_upper);
    }
    __syncthreads();
    search.prefix = search.prefix << bits | s.bin;
    search.target -= s.before;
    search.in_bin = s.in_bin;
    search.through = s.before + s.in_bin;
    return true;
}

// The first part: which tokens may stay. False if all do. The target is a function of the total,
// `measure(x)` one number for one logit.
template <class M, class T>
__device__ __forceinline__ bool begin_search(const Row& row, Shared& s, Histogram& h, Search& search,
                                             M measure, T target_of) {
    search.prefix = 0;
    search.shift = 32;
    return narrow<true>(row, s, h, search, 11, measure, target_of);
}

// The rest: moves the row's border.
template <class M>
__device__ __forceinline__ void finish_search(Row& row, Shared& s, Histogram& h, Search& search,
                                              M measure) {
    const auto no_target = [](u64) -> u64 { return 0; };
    narrow<false>(row, s, h, search, 11, measure, no_target);
    narrow<false>(row, s, h, search, 10, measure, no_target);
    // All tokens of the last bin have one logit: the first of them by id stay.
    const unsigned key = search.prefix;
    const u64 each = measure(value_of(key));
    const u64 num_ties = search.in_bin / each, num_kept = (search.target + each - 1) / each;
    unsigned border_id = 0xffffffffu;
    if (num_kept < num_ties) {
        const auto is_tie = [&](float x, int id) -> u64 {
            return key_of(x) == key && row.has(key, id);
        };
        border_id = find_in_order(row, s, is_tie, [&](u64) { return num_kept; });
    }
    row.border_key = key;
    row.border_id = border_id;
}

// --- few tokens, a thread each ---

// In place of a histogram.
struct List {
    unsigned keys[THREADS], ids[THREADS];
    u64 units[THREADS];
};

// Lists the tokens that are in, may stay by a search that has begun, and have a measure. Returns how
// many there are; if more than the list holds, it is of no use.
template <class M>
__device__ __forceinline__ unsigned list_tokens(const Row& row, Shared& s, List& list,
                                                unsigned lowest_key, M measure) {
    __syncthreads();
    if (threadIdx.x == 0) s.count = 0;
    __syncthreads();
    for_each_token(row, [&](float x, int id) {
        const unsigned key = key_of(x);
        if (key < lowest_key || !row.has(key, id) || measure(x) == 0) return;
        const unsigned at = atomicAdd(&s.count, 1u);
        if (at < THREADS) list.keys[at] = key, list.ids[at] = id;
    });
    __syncthreads();
    return s.count;
}

// How many of the list come before the thread's token: in the order of tokens, and in that of ids.
__device__ __forceinline__ void places_in_list(const List& list, unsigned count, unsigned& rank,
                                               unsigned& place) {
    rank = place = 0;
    if (threadIdx.x >= count) return;
    const unsigned key = list.keys[threadIdx.x], id = list.ids[threadIdx.x];
    for (unsigned j = 0; j < count; j++) {
        const bool is_lower_id = list.ids[j] < id;
        rank += list.keys[j] > key || (list.keys[j] == key && is_lower_id);
        place += is_lower_id;
    }
}
