// Layers of experts: the choice of each token, rows in the order of their experts, their products, and the
// sum over a token's experts.
#include "multiply.cuh"

// --- the choice: a warp a token ---

struct ChooseParams {
    const float* logits;  // [tokens, experts]
    const float* bias;    // [experts] or null
    unsigned* choice;     // [2, tokens, per_token]: experts, then bits of weights
    int num_tokens;
    int num_experts;
    int per_token;
    int is_sigmoid;       // scores are sigmoids, to which the bias is added for the choice alone
    int is_normalised;
    float factor;         // on the weights
};

constexpr int CHOOSE_THREADS = 256;
constexpr int LOGITS_PER_LANE = 16;
constexpr float SMALLEST = 1.17549435e-38f;  // that has all its bits

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

KERNEL(choose_experts, ChooseParams, CHOOSE_THREADS) {
    const int token = (blockIdx.x * CHOOSE_THREADS + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (token >= p.num_tokens) return;
    const float* row = p.logits + size_t(token) * p.num_experts;
    const bool is_sigmoid = p.is_sigmoid != 0, is_normalised = p.is_normalised != 0;
    float scores[LOGITS_PER_LANE];
    unsigned left = 0;  // which of the lane's experts are not chosen yet
#pragma unroll
    for (int i = 0; i < LOGITS_PER_LANE; i++) {
        const int expert = i * 32 + lane;
        scores[i] = -INFINITY;
        if (expert < p.num_experts) {
            left |= 1u << i;
            float score = is_sigmoid ? sigmoid(row[expert]) : row[expert];
            if (p.bias != nullptr) score += p.bias[expert];
            // What is no number is chosen last.
            if (score == score) scores[i] = score;
        }
    }
    float largest = 0.0f, total = is_sigmoid && !is_normalised ? 1.0f : 0.0f;
    for (int k = 0; k < p.per_token; k++) {
        float best = -INFINITY;
        int expert = 32 * LOGITS_PER_LANE;  // none
#pragma unroll
        for (int i = 0; i < LOGITS_PER_LANE; i++) {
            const bool is_free = (left >> i & 1u) != 0;
            if (is_free && (expert == 32 * LOGITS_PER_LANE || scores[i] > best)) {
                best = scores[i];
                expert = i * 32 + lane;
            }
        }
        for (int bits = 16; bits > 0; bits /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, best, bits);
            const int of_other = __shfl_xor_sync(ALL_LANES, expert, bits);
            // Numbers beyond the last stand for lanes that have none left.
            const bool has_none = expert == 32 * LOGITS_PER_LANE;
            const bool other_has_none = of_other == 32 * LOGITS_PER_LANE;
            if (!other_has_none && (has_none || other > best || (other == best && of_other < expert))) {
                best = other;
                expert = of_other;
            }
        }
        if (expert % 32 == lane) left &= ~(1u << (expert / 32));
        if (k == 0) {
            largest = best;
            if (!is_sigmoid && !is_normalised) {
                float sum = 0.0f;
#pragma unroll
                for (int i = 0; i < LOGITS_PER_LANE; i++) {
                    if (i * 32 + lane < p.num_experts) sum += expf(scores[i] - largest);
                }
                total = warp_reduce(sum, Sum());
            }
        }
        // Of no number the larger one is 0.
        const float part = is_sigmoid ? fmaxf(sigmoid(row[expert]), 0.0f) : expf(best - largest);
        if (is_normalised) total += part;
        if (lane == 0) {
            const size_t at = size_t(token) * p.per_token + k;
            p.choice[at] = expert;
            p.choice[size_t(p.num_tokens) * p.per_token + at] = __float_as_uint(part);
        }
    }
    // The total is known only now.
    __syncwarp();
    total = fmaxf(total, SMALLEST);  // all sigmoids of a token may be 0
    for (int k = lane; k < p.per_token; k += 32) {
        unsigned* weight = p.choice + (size_t(p.num_tokens) + token) * p.per_token + k;
        *weight = __float_as_uint(__uint_as_float(*weight) / total * p.factor);
    }
}

// --- the order: a block an expert, which counts the rows before its own by itself ---

struct SortParams {
    const unsigned* experts;  // [rows]
    unsigned* sorted;         // [2 rows + experts + 1]: as MultiplyParams has it
    int num_rows;
};

constexpr int SORT_THREADS = 256;

KERNEL(sort_rows, SortParams, SORT_THREADS) {
    const unsigned expert = blockIdx.x;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    SHARED(scratch, int[SORT_THREADS / 32]);
    int before = 0;
    for (int row = thread; row < p.num_rows; row += SORT_THREADS) before += p.experts[row] < expert;
    int place = block_reduce(before, Sum(), scratch);
    if (thread == 0) {
        unsigned* starts = p.sorted + 2 * p.num_rows;
        starts[expert] = place;
        if (expert + 1 == gridDim.x) starts[gridDim.x] = p.num_rows;
    }
    for (int first = 0; first < p.num_rows; first += SORT_THREADS) {
        const int row = first + thread;
        const bool is_own = row < p.num_rows && p.experts[row] == expert;
        const unsigned owned = __ballot_sync(ALL_LANES, is_own);
        __syncthreads();
        if (lane == 0) scratch[warp] = __popc(owned);
        __syncthreads();
        int at = place + __popc(owned & ((1u << lane) - 1));
        for (int i = 0; i < SORT_THREADS / 32; i++) {
            if (i < warp) at += scratch[i];
            place += scratch[i];
        }
        if (is_own) {
            p.sorted[at] = row;
            p.sorted[p.num_rows + row] = at;
        }
    }
}

// --- the sum: a pack a thread ---

struct CombineParams {
    const void* y;            // [rows, width]
    const unsigned* places;   // [tokens, per_token]
    const unsigned* weights;  // [tokens, per_token], bits of f32
    const void* shared;       // [tokens, width] or null
    void* out;                // [tokens, width]
    int per_token;
    int width;
};

constexpr int COMBINE_THREADS = 256;

// Blocks of x are tokens, those of y parts of a row.
template <class T>
__device__ __forceinline__ void combine(const CombineParams& p) {
    const int index = blockIdx.y * blockDim.x + threadIdx.x;
    if (index * Pack<T>::LEN >= p.width) return;
    const size_t token = blockIdx.x;
    T* out = static_cast<T*>(p.out) + token * p.width;
    float sums[Pack<T>::LEN] = {};
    if (p.shared != nullptr) {
        const T* row = static_cast<const T*>(p.shared) + token * p.width;
        const Pack<T> pack = load_row_pack(row, index, p.width, is_aligned_16(row));
#pragma unroll
        for (int i = 0; i < Pack<T>::LEN; i++) sums[i] = to_float(pack.x[i]);
    }
    for (int k = 0; k < p.per_token; k++) {
        const size_t choice = token * p.per_token + k;
        const T* row = static_cast<const T*>(p.y) + size_t(p.places[choice]) * p.width;
        const float weight = __uint_as_float(p.weights[choice]);
        const Pack<T> pack = load_row_pack(row, index, p.width, is_aligned_16(row));
#pragma unroll
        for (int i = 0; i < Pack<T>::LEN; i++) sums[i] = fmaf(to_float(pack.x[i]), weight, sums[i]);
    }
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) pack.x[i] = from_float<T>(sums[i]);
    store_row_pack(out, index, p.width, is_aligned_16(out), pack);
}

#define MULTIPLY(name, T, ...) \
    KERNEL(name, MultiplyParams, __VA_ARGS__::THREADS) { multiply_rows<T, __VA_ARGS__>(p); }

MULTIPLY(multiply_many_f16, f16, ManyWide<f16>)
MULTIPLY(multiply_many_bf16, bf16, ManyWide<bf16>)
MULTIPLY(multiply_many_e4m3_bf16, bf16, ManyE4m3)
MULTIPLY(multiply_many_e2m1_bf16, bf16, ManyE2m1)
MULTIPLY(multiply_few_f16, f16, FewWide<f16>)
MULTIPLY(multiply_few_bf16, bf16, FewWide<bf16>)
MULTIPLY(multiply_few_e4m3_bf16, bf16, FewE4m3)
MULTIPLY(multiply_few_e2m1_bf16, bf16, FewE2m1)
KERNEL(multiply_plain_f32, MultiplyParams, PLAIN_THREADS) { multiply_plain<float, Wide<float>>(p); }
KERNEL(multiply_plain_f16, MultiplyParams, PLAIN_THREADS) { multiply_plain<f16, Wide<f16>>(p); }
KERNEL(multiply_plain_bf16, MultiplyParams, PLAIN_THREADS) { multiply_plain<bf16, Wide<bf16>>(p); }
KERNEL(multiply_plain_e4m3_f32, MultiplyParams, PLAIN_THREADS) { multiply_plain<float, E4m3>(p); }
KERNEL(multiply_plain_e4m3_bf16, MultiplyParams, PLAIN_THREADS) { multiply_plain<bf16, E4m3>(p); }
KERNEL(multiply_plain_e2m1_f32, MultiplyParams, PLAIN_THREADS) { multiply_plain<float, E2m1>(p); }
KERNEL(multiply_plain_e2m1_bf16, MultiplyParams, PLAIN_THREADS) { multiply_plain<bf16, E2m1>(p); }
KERNEL(combine_f32, CombineParams, COMBINE_THREADS) { combine<float>(p); }
KERNEL(combine_f16, CombineParams, COMBINE_THREADS) { combine<f16>(p); }
KERNEL(combine_bf16, CombineParams, COMBINE_THREADS) { combine<bf16>(p); }
