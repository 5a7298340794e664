// The sampler: a block a row, from logits to a record. The steps and their order are those of mod.rs.
#include "../cuda/device.cuh"
#include "row.cuh"

constexpr unsigned NONE = 0xffffffffu;
constexpr unsigned NOT_FINITE = 0xfffffffeu;
constexpr unsigned NOTHING_POSSIBLE = 0xfffffffdu;
constexpr unsigned MAX_TOP = THREADS;

// As upload.rs writes it; lists are ranges of words, counted from the first row.
struct SampleRow {
    float temperature, top_p;
    unsigned top_k;
    float min_p, repetition_penalty, presence_penalty, frequency_penalty;
    unsigned num_top;  // NONE: no log-probabilities
    unsigned mask;     // its first word, or NONE
    unsigned target;   // the token to score, or NONE: one is sampled
    unsigned seed[2], position[2];
    unsigned prompt_tokens[2];  // ids
    unsigned output_counts[2];  // (id, count)
    unsigned bias[2];           // (id, float)
    unsigned banned[2];         // ids
};

struct SampleParams {
    float* logits;          // [rows, vocab]; edited in place
    const unsigned* words;  // the rows, then their lists
    unsigned* records;      // [rows, width]
    int vocab_size;
    int width;
};

// Philox4x32-10 of (position, seed): 53 random bits in the upper bits of a word.
__device__ __forceinline__ u64 random_bits(const unsigned (&seed)[2],
                                           const unsigned (&position)[2]) {
    unsigned c0 = position[0], c1 = position[1], c2 = 0, c3 = 0, k0 = seed[0], k1 = seed[1];
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned high0 = __umulhi(c0, 0xd2511f53u), low0 = c0 * 0xd2511f53u;
        const unsigned high1 = __umulhi(c2, 0xcd9e8d57u), low1 = c2 * 0xcd9e8d57u;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return (u64(c0) << 32 | c1) >> 11 << 11;
}

__device__ __forceinline__ bool is_empty(const unsigned (&range)[2]) { return range[0] == range[1]; }

// Applies mask, penalties, bias and bans. `seen` has a bit a token.
__device__ __forceinline__ void edit_row(const SampleParams& p, const SampleRow& r, float* logits,
                                         unsigned* seen) {
    const int thread = threadIdx.x, vocab_size = p.vocab_size;
    const unsigned* words = p.words;
    if (r.mask != NONE) {
        const unsigned* mask = words + r.mask;
        for (int id = thread; id < vocab_size; id += THREADS) {
            if (!(mask[id / 32] >> (id % 32) & 1)) logits[id] = -INFINITY;
        }
    }
    for (int i = thread; i < (vocab_size + 31) / 32; i += THREADS) seen[i] = 0;
    __syncthreads();
    const auto repeated = [&](float x) {
        return x > 0.0f ? x / r.repetition_penalty : x * r.repetition_penalty;
    };
    for (unsigned i = r.output_counts[0] + 2 * thread; i < r.output_counts[1]; i += 2 * THREADS) {
        const unsigned id = words[i], count = words[i + 1];
        if (id >= unsigned(vocab_size) || count == 0) continue;
        atomicOr(&seen[id / 32], 1u << (id % 32));
        logits[id] = repeated(logits[id]) - (r.frequency_penalty * float(count) + r.presence_penalty);
    }
    __syncthreads();
    for (unsigned i = r.prompt_tokens[0] + thread; i < r.prompt_tokens[1]; i += THREADS) {
        const unsigned id = words[i];
        if (id >= unsigned(vocab_size)) continue;
        // Once, also for a token that occurs twice or in the output, too.
        const unsigned bit = 1u << (id % 32);
        if (!(atomicOr(&seen[id / 32], bit) & bit)) logits[id] = repeated(logits[id]);
    }
    __syncthreads();
    for (unsigned i = r.bias[0] + 2 * thread; i < r.bias[1]; i += 2 * THREADS) {
        const unsigned id = words[i];
        if (id < unsigned(vocab_size)) logits[id] += __uint_as_float(words[i + 1]);
    }
    __syncthreads();
    for (unsigned i = r.banned[0] + thread; i < r.banned[1]; i += THREADS) {
        if (words[i] < unsigned(vocab_size)) logits[words[i]] = -INFINITY;
    }
    __syncthreads();
}

// Finds the first of the most likely tokens; false if a logit is NaN or infinite.
__device__ __forceinline__ bool find_largest(const Row& row, Shared& s, unsigned& key,
                                             unsigned& id) {
    u64 best = 0;
    bool is_valid = true;
    for_each_token(row, [&](float x, int at) {
        is_valid = is_valid && x < INFINITY;
        const u64 candidate = u64(key_of(x)) << 32 | (0xffffffffu - unsigned(at));
        best = candidate > best ? candidate : best;
    });
    best = block_reduce(best, Max(), s.of_warps);
    key = unsigned(best >> 32);
    id = 0xffffffffu - unsigned(best);
    return __syncthreads_and(is_valid) != 0;
}

// The sum at which top-p has enough.
__device__ __forceinline__ u64 share_of(float top_p, u64 total) {
    // The rounding of top_p to f32 must not cost a token: 0.3 of ten equal ones are three.
    const double share = double(top_p) * (1.0 - 1.1920928955078125e-7);
    const u64 target = u64(share * double(total));
    return target > 0 ? target : 1;
}

// The rest of the draw where all that may stay is on the list. `total` is what top-p is a share of; 0:
// what top-k leaves of the list.
__device__ __forceinline__ unsigned draw_from_list(const Row& row, const SampleRow& r, u64 random,
                                                   Shared& s, List& list, unsigned count,
                                                   u64 total) {
    const unsigned thread = threadIdx.x;
    unsigned rank, place;
    places_in_list(list, count, rank, place);
    const bool is_used = thread < count;
    const unsigned id = is_used ? list.ids[thread] : 0;
    const bool is_in = is_used && (r.top_k == 0 || rank < r.top_k);
    const u64 units = is_in ? row.units(value_of(list.keys[thread])) : 0;

    list.units[thread] = 0;
    __syncthreads();
    if (is_used) list.units[rank] = units;
    __syncthreads();
    u64 of_list;
    const u64 before = block_scan(list.units[thread], s, of_list);
    if (r.top_p < 1.0f && before >= share_of(r.top_p, total > 0 ? total : of_list)) {
        list.units[thread] = 0;
    }
    __syncthreads();
    // From the order of tokens to that of ids.
    const u64 kept = is_used ? list.units[rank] : 0;
    __syncthreads();
    if (is_used) {
        list.units[place] = kept;
        list.ids[place] = id;
    }
    __syncthreads();
    const u64 own = thread < count ? list.units[thread] : 0;
    u64 of_kept;
    const u64 lower = block_scan(own, s, of_kept), target = __umul64hi(random, of_kept) + 1;
    if (lower < target && target <= lower + own) s.id = list.ids[thread];
    __syncthreads();
    return s.id;
}

// Temperature, min-p, top-k, top-p, and the draw.
__device__ __forceinline__ unsigned draw(Row row, const SampleRow& r, Shared& s, Histogram& h) {
    List& list = *reinterpret_cast<List*>(&h);
    row.temperature = r.temperature;
    row.min_p = r.min_p;
    const u64 random = random_bits(r.seed, r.position);
    const auto units = [&](float x) { return row.units(x); };
    Search search;
    if (r.top_k > 0 && r.top_k < unsigned(row.len)) {
        const auto count = [&](float x) -> u64 { return row.min_p == 0.0f || row.weight(x) > 0.0f; };
        if (begin_search(row, s, h, search, count, [&](u64) { return u64(r.top_k); })) {
            if (search.through <= THREADS) {
                const unsigned lowest = search.prefix << search.shift;
                const unsigned num = list_tokens(row, s, list, lowest, count);
                return draw_from_list(row, r, random, s, list, num, 0);
            }
            finish_search(row, s, h, search, count);
        }
    }
    if (r.top_p < 1.0f) {
        const auto share = [&](u64 total) { return share_of(r.top_p, total); };
        if (begin_search(row, s, h, search, units, share)) {
            const unsigned lowest = search.prefix << search.shift;
            const unsigned num = list_tokens(row, s, list, lowest, units);
            if (num <= THREADS) return draw_from_list(row, r, random, s, list, num, search.total);
            finish_search(row, s, h, search, units);
        }
    }
    const auto kept = [&](float x, int id) { return row.has(key_of(x), id) ? row.units(x) : 0; };
    return find_in_order(row, s, kept, [&](u64 total) { return __umul64hi(random, total) + 1; });
}

// Rank and log-probability of a token, and the most likely tokens.
__device__ __forceinline__ void write_logprobs(Row row, unsigned token, unsigned num_top, Shared& s,
                                               Histogram& h, unsigned* record, int width) {
    row.temperature = 1.0f;
    const unsigned token_key = key_of(row.logits[token]);
    u64 total = 0, rank = 0;
    for_each_token(row, [&](float x, int id) {
        total += row.units(x);
        const unsigned key = key_of(x);
        rank += key > token_key || (key == token_key && unsigned(id) < token);
    });
    total = block_reduce(total, Sum(), s.of_warps);
    __syncthreads();
    rank = block_reduce(rank, Sum(), s.of_warps);
    const double log_total = log(double(total)) - LN_WEIGHT_UNIT;
    const auto logprob = [&](float x) { return float(double(x) - double(row.max) - log_total); };
    if (threadIdx.x == 0) {
        record[1] = unsigned(rank) + 1;
        record[2] = __float_as_uint(logprob(row.logits[token]));
    }
    const unsigned room = unsigned(width - 3) / 2;
    num_top = min(min(num_top, room), MAX_TOP);
    if (num_top == 0) return;

    const auto one = [](float) -> u64 { return 1; };
    Search search;
    unsigned lowest = 0;
    if (begin_search(row, s, h, search, one, [&](u64) { return u64(num_top); })) {
        if (search.through <= THREADS) {
            lowest = search.prefix << search.shift;
        } else {
            finish_search(row, s, h, search, one);
        }
    }
    List& list = *reinterpret_cast<List*>(&h);
    const unsigned count = list_tokens(row, s, list, lowest, one);
    unsigned place, place_by_id;
    places_in_list(list, count, place, place_by_id);
    if (threadIdx.x < count && place < num_top) {
        record[3 + 2 * place] = list.ids[threadIdx.x];
        record[4 + 2 * place] = __float_as_uint(logprob(value_of(list.keys[threadIdx.x])));
    }
}

KERNEL(sample, SampleParams, THREADS) {
    SHARED(s, Shared);
    DYNAMIC_SHARED(dynamic);
    Histogram& h = *reinterpret_cast<Histogram*>(dynamic);
    const SampleRow& r = reinterpret_cast<const SampleRow*>(p.words)[blockIdx.x];
    unsigned* record = p.records + size_t(blockIdx.x) * p.width;
    for (int i = threadIdx.x; i < p.width; i += THREADS) record[i] = NONE;

    const size_t start = size_t(blockIdx.x) * p.vocab_size;
    float* logits = p.logits + start;
    const bool has_edits = r.mask != NONE || !is_empty(r.prompt_tokens) ||
                           !is_empty(r.output_counts) || !is_empty(r.bias) || !is_empty(r.banned);
    if (has_edits) edit_row(p, r, logits, reinterpret_cast<unsigned*>(dynamic));
    Row row = {logits, p.vocab_size, 0.0f, 1.0f, 0.0f, 0, 0};
    unsigned key, id;
    const bool is_valid = find_largest(row, s, key, id);
    if (!is_valid || key <= IMPOSSIBLE) {
        if (threadIdx.x == 0) record[0] = is_valid ? NOTHING_POSSIBLE : NOT_FINITE;
        return;
    }
    row.max = value_of(key);
    if (r.target != NONE) {
        id = min(r.target, unsigned(p.vocab_size - 1));
    } else if (r.temperature != 0.0f) {
        id = draw(row, r, s, h);
    }
    if (threadIdx.x == 0) {
        record[0] = id;
        if (p.width > 1) record[1] = 0;
    }
    if (p.width < 3 || r.num_top == NONE) return;
    __syncthreads();
    write_logprobs(row, id, r.num_top, s, h, record, p.width);
}
