// Attention for every head dim and storage type, a warp for each query head of a row: right, and far
// from any bound. It serves f32 and head dims without a kernel of their own.
#pragma once
#include "params.cuh"

constexpr int PLAIN_WARPS = 4;
constexpr int PLAIN_MAX_HEAD_DIM = 256;

// The sequence that has a row of q, by bisection; rows stand in order.
__device__ __forceinline__ int sequence_of_row(const PagedAttentionParams& p, uint32_t row) {
    int low = 0, high = p.num_seqs;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (__ldg(p.q_starts + middle) <= row) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// Grid: (tokens, heads / PLAIN_WARPS rounded up). Lanes take a key each for the scores, then elements
// of the head for the values.
template <class T, class Cache>
__device__ __forceinline__ void attend_plain(const PagedAttentionParams& p) {
    SHARED(queries, float[PLAIN_WARPS][PLAIN_MAX_HEAD_DIM]);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int head = blockIdx.y * PLAIN_WARPS + warp;
    if (head >= p.num_heads) return;
    const int head_dim = p.head_dim;
    const size_t start = (static_cast<size_t>(blockIdx.x) * p.num_heads + head) * head_dim;
    const T* q = static_cast<const T*>(p.q) + start;
    for (int i = lane; i < head_dim; i += 32) queries[warp][i] = to_float(q[i]);
    __syncwarp();

    const Sequence sequence = Sequence::of(p, sequence_of_row(p, blockIdx.x));
    const int row = static_cast<int>(blockIdx.x) - sequence.first_row;
    const int end = row < sequence.num_rows ? sequence.visible_end(row) : 0;
    const int first = sequence.first_key(row, p.window);
    const Scores scores(p);
    const KeyGroups groups(p, sequence, head / (p.num_heads / p.num_kv_heads));
    // Head dims are multiples of 8: of e4m3 that is 8 bytes.
    constexpr int LEN = sizeof(Cache) == 1 ? 8 : Pack<Cache>::LEN;
    struct alignas(LEN * sizeof(Cache)) Vector {
        Cache x[LEN];
    };
    float sums[PLAIN_MAX_HEAD_DIM / 32] = {};
    float maximum = NEVER, total = 0.0f;
    for (int tile = first / 32 * 32; tile < end; tile += 32) {
        const int key = tile + lane;
        const bool is_seen = key >= first && key < end;
        const size_t at =
            is_seen ? static_cast<size_t>(groups.row(p, key / 8) + key % 8) * head_dim : 0;
        float score = NEVER;
        if (is_seen) {
            score = 0.0f;
            for (int i = 0; i < head_dim; i += LEN) {
                const Vector pack =
                    *reinterpret_cast<const Vector*>(static_cast<const Cache*>(p.key) + at + i);
#pragma unroll
                for (int j = 0; j < LEN; j++) {
                    score = fmaf(queries[warp][i + j], to_float(pack.x[j]), score);
                }
            }
            score = scores.adapted(score) * scores.factor;
        }
        const float grown = fmaxf(maximum, warp_reduce(score, Max()));
        const float base = base_of(grown);
        const float rescale = exp2f(maximum - base);
        const float weight = exp2f(score - base);
        maximum = grown;
        total = fmaf(total, rescale, warp_reduce(weight, Sum()));
#pragma unroll
        for (int i = 0; i < PLAIN_MAX_HEAD_DIM / 32; i++) sums[i] *= rescale;
        for (int k = max(first - tile, 0); k < min(end - tile, 32); k++) {
            const float weight_of_key = __shfl_sync(ALL_LANES, weight, k);
            const Cache* value =
                static_cast<const Cache*>(p.value) + __shfl_sync(ALL_LANES, at, k);
#pragma unroll
            for (int i = 0; i < PLAIN_MAX_HEAD_DIM / 32; i++) {
                const int column = 32 * i + lane;
                if (column < head_dim) {
                    sums[i] = fmaf(weight_of_key, to_float(value[column]), sums[i]);
                }
            }
        }
    }
    const float factor = out_factor(p, head, base_of(maximum), total);
#pragma unroll
    for (int i = 0; i < PLAIN_MAX_HEAD_DIM / 32; i++) {
        const int column = 32 * i + lane;
        if (column < head_dim) {
            static_cast<T*>(p.out)[start + column] = from_float<T>(sums[i] * factor);
        }
    }
}
