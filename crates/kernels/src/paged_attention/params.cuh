// What every attention kernel is told, and what they share: where keys lie and which keys a row sees.
#pragma once
#include "../cuda/device.cuh"

struct PagedAttentionParams {
    const void* q;                 // [tokens, heads, head_dim]
    const void* key;               // [num_blocks, kv_heads, block_size, head_dim]
    const void* value;             // as key
    void* out;                     // [tokens, heads, head_dim]
    const uint32_t* q_starts;      // [seqs + 1]
    const uint32_t* context_lens;  // [seqs]
    const uint32_t* block_tables;  // [seqs, table_width]
    const float* sinks;            // [heads] or null
    float* partial_out;            // [partials, heads, head_dim]
    float2* partial_softmax;       // [partials, heads]: maximum in powers of two, sum
    uint32_t* arrivals;            // [seqs, row tiles, kv_heads], zero between launches
    float scale;        // of scores, with that of an e4m3 cache's keys
    float value_scale;  // of an e4m3 cache, else 1
    float soft_cap;     // 0: none
    int num_seqs;
    int num_heads;
    int num_kv_heads;
    int head_dim;
    int block_size;
    int table_width;
    int window;      // keys a row sees at most, itself included; 0: all
    int split_rows;  // sequences with more rows are the tile kernel's, the others the split kernel's;
                     // 0: it is not launched
};

constexpr float LOG2_E = 1.44269504088896340736f;
constexpr float NEVER = -INFINITY;

// One sequence of the call.
struct Sequence {
    int index;
    int first_row;
    int num_rows;
    int context_len;

    static __device__ __forceinline__ Sequence of(const PagedAttentionParams& p, int index) {
        const int start = __ldg(p.q_starts + index);
        const int rows = static_cast<int>(__ldg(p.q_starts + index + 1)) - start;
        return {index, start, rows, static_cast<int>(__ldg(p.context_lens + index))};
    }

    // One past the last key that a row sees; none if it is not positive.
    __device__ __forceinline__ int visible_end(int row) const {
        return context_len - num_rows + row + 1;
    }

    // The first key that any of the rows sees.
    __device__ __forceinline__ int first_key(int row, int window) const {
        return window > 0 ? max(visible_end(row) - window, 0) : 0;
    }
};

// How scores become exponents of two: exp(score) = exp2(factor * adapted(score)).
struct Scores {
    float factor;
    float inner;  // with a soft cap, scores are multiplied by this before the tanh

    Scores() = default;
    __device__ __forceinline__ explicit Scores(const PagedAttentionParams& p)
        : factor(LOG2_E * (p.soft_cap > 0.0f ? p.soft_cap : p.scale)),
          inner(p.soft_cap > 0.0f ? 2.0f * LOG2_E * p.scale / p.soft_cap : 0.0f) {}

    // cap tanh(scale x / cap) without the outer factor: tanh(y) = 1 - 2 / (exp(2 y) + 1).
    __device__ __forceinline__ float adapted(float x) const {
        return inner == 0.0f ? x : 1.0f - __fdividef(2.0f, fast_exp2(inner * x) + 1.0f);
    }

    __device__ __forceinline__ void adapt(float (&scores)[4]) const {
        if (inner == 0.0f) return;
#pragma unroll
        for (int i = 0; i < 4; i++) scores[i] = adapted(scores[i]);
    }

    template <int TILES>
    __device__ __forceinline__ void adapt(float (&scores)[TILES][4]) const {
#pragma unroll
        for (int n = 0; n < TILES; n++) adapt(scores[n]);
    }
};

// What is subtracted from exponents: a row that has seen no key yet has no maximum.
__device__ __forceinline__ float base_of(float maximum) {
    return maximum == NEVER ? 0.0f : maximum;
}

// What a row's sums are multiplied by: 1 / sum of its weights, with the sink of its head, and the scale
// of the values; 0 for a row without keys.
__device__ __forceinline__ float out_factor(const PagedAttentionParams& p, int head, float base,
                                                float sum) {
    if (sum == 0.0f) return 0.0f;
    if (p.sinks != nullptr) sum += exp2f(__ldg(p.sinks + head) * LOG2_E - base);
    return p.value_scale / sum;
}

// Bytes 0, 2, 1, 3: of two neighbours in two rows, to both rows' first, then their second.
__device__ __forceinline__ uint32_t swap_middle(uint32_t bytes) {
    return __byte_perm(bytes, 0, 0x3120);
}

// Divides by a number that many are divided by.
struct Divisor {
    uint32_t by, reciprocal;  // ceil(2^32 / it)

    Divisor() = default;
    __device__ __forceinline__ explicit Divisor(int by)
        : by(by), reciprocal(0xffffffffu / static_cast<uint32_t>(by) + 1) {}

    // Exact while x times the divisor < 2^32.
    __device__ __forceinline__ uint32_t quotient(uint32_t x) const {
        return by == 1 ? x : __umulhi(x, reciprocal);  // the reciprocal of 1 does not fit
    }
};

// Finds the rows of the cache `[num_blocks * kv_heads * block_size, head_dim]` where the keys of a
// sequence lie. Blocks hold multiples of 8 keys, so that 8 keys that begin at a multiple of 8 lie
// together: a group.
struct KeyGroups {
    const uint32_t* table;
    int num_groups;
    int kv_head;
    Divisor by_groups_of_block;

    __device__ __forceinline__ KeyGroups(const PagedAttentionParams& p, const Sequence& sequence,
                                         int kv_head)
        : table(p.block_tables + static_cast<size_t>(sequence.index) * p.table_width),
          num_groups((sequence.context_len + 7) / 8),
          kv_head(kv_head),
          by_groups_of_block(p.block_size / 8) {}
    KeyGroups() = default;

    // The row of a group's first key; 0 beyond the last.
    __device__ __forceinline__ uint32_t row(const PagedAttentionParams& p, int group) const {
        if (group < 0 || group >= num_groups) return 0;
        const uint32_t block = by_groups_of_block.quotient(group);
        const uint32_t within = 8 * group - block * p.block_size;
        return (__ldg(table + block) * p.num_kv_heads + kv_head) * p.block_size + within;
    }
};

// Where a unit of work lies among those of all sequences.
struct Place {
    int sequence;           // negative: beyond the last
    uint32_t units_before;  // of the sequences before it
    uint32_t slots_before;
};

struct Count {
    uint32_t units, slots;
};

__device__ __forceinline__ Count inclusive_scan(Count count) {
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (unsigned delta = 1; delta < 32; delta *= 2) {
        const uint32_t units = __shfl_up_sync(ALL_LANES, count.units, delta);
        const uint32_t slots = __shfl_up_sync(ALL_LANES, count.slots, delta);
        if (lane >= delta) count = {count.units + units, count.slots + slots};
    }
    return count;
}

// The sequence that a unit belongs to, where `count(sequence)` says how many units and slots each
// has, and `unit_of(total)` which one it is, of all. All lanes of a warp call it together: each counts a
// segment of the sequences, then the lanes share the segment that has the unit.
template <class U, class F>
__device__ __forceinline__ Place find_unit(int num_seqs, U unit_of, F count) {
    const int lane = threadIdx.x % 32;
    const int segment_len = (num_seqs + 31) / 32;
    Count mine = {0, 0};
#pragma unroll 4
    for (int i = lane * segment_len; i < min((lane + 1) * segment_len, num_seqs); i++) {
        const Count one = count(i);
        mine = {mine.units + one.units, mine.slots + one.slots};
    }
    Count upto = inclusive_scan(mine);
    const uint32_t unit = unit_of(__shfl_sync(ALL_LANES, upto.units, 31));
    unsigned found = __ballot_sync(ALL_LANES, upto.units > unit);
    if (found == 0) return {-1, 0, 0};
    int owner = __ffs(found) - 1;
    Count before = {__shfl_sync(ALL_LANES, upto.units - mine.units, owner),
                    __shfl_sync(ALL_LANES, upto.slots - mine.slots, owner)};
    const int segment_end = min((owner + 1) * segment_len, num_seqs);
    for (int start = owner * segment_len; start < segment_end; start += 32) {
        mine = start + lane < segment_end ? count(start + lane) : Count{0, 0};
        upto = inclusive_scan(mine);
        found = __ballot_sync(ALL_LANES, before.units + upto.units > unit);
        if (found != 0) {
            owner = __ffs(found) - 1;
            return {start + owner,
                    before.units + __shfl_sync(ALL_LANES, upto.units - mine.units, owner),
                    before.slots + __shfl_sync(ALL_LANES, upto.slots - mine.slots, owner)};
        }
        before = {before.units + __shfl_sync(ALL_LANES, upto.units, 31),
                  before.slots + __shfl_sync(ALL_LANES, upto.slots, 31)};
    }
    return {-1, 0, 0};
}
