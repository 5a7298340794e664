// Attention that looks both ways: a block takes 64 rows of a head of a sequence through tiles of 64 keys
// on tensor cores (FlashAttention-2, arXiv:2307.08691), or what those do not take a warp a row.
//
// Tiles begin with the sequence, so that a row's sums have one order in any batch.
#include "../cuda/device.cuh"

struct FullAttentionParams {
    const void* qkv;         // [tokens, 3, heads, head_dim]
    const unsigned* starts;  // [seqs + 1]
    const float* cos;        // [positions, head_dim / 2]; none
    const float* sin;        // the same
    void* out;               // [tokens, heads, head_dim]
    int num_heads;
    int head_dim;
    int window;    // how far away a key may be
    float factor;  // on the scores, times log2(e)
};

// A sequence, of which a row begins at `row(i)`.
template <class T>
struct Rows {
    const T* first;  // of queries, keys or values
    const float *cos, *sin;
    int stride, head_dim;

    // Element i of a row, rotated by the row's position if there are tables.
    __device__ __forceinline__ float element(int row, int i) const {
        const T* x = first + size_t(row) * stride;
        if (!cos) return to_float(x[i]);
        const int half = head_dim / 2, angle = row * half + (i < half ? i : i - half);
        const float other = to_float(i < half ? x[i + half] : x[i - half]);
        return to_float(x[i]) * cos[angle] + (i < half ? -other : other) * sin[angle];
    }
};

template <class T>
struct Sequence {
    Rows<T> queries, keys, values;
    T* out;
    int len, stride;

    __device__ __forceinline__ Sequence(const FullAttentionParams& p, int number, int head) {
        const unsigned start = p.starts[number];
        len = int(p.starts[number + 1] - start);
        stride = p.num_heads * p.head_dim;
        const T* first = static_cast<const T*>(p.qkv) + size_t(start) * 3 * stride + head * p.head_dim;
        queries = {first, p.cos, p.sin, 3 * stride, p.head_dim};
        keys = {first + stride, p.cos, p.sin, 3 * stride, p.head_dim};
        values = {first + 2 * stride, nullptr, nullptr, 3 * stride, p.head_dim};
        out = static_cast<T*>(p.out) + size_t(start) * stride + head * p.head_dim;
    }
};

constexpr int TILE = 64;  // rows, and keys
constexpr int TILE_THREADS = 128;
constexpr int PADDING = 8;  // of a row in shared memory, so that eight rows lie in unlike banks

// Rows of a tile to shared memory, zeros behind the last one and behind an element's last.
template <class T, int DIM>
__device__ __forceinline__ void load_tile(T* tile, const Rows<T>& rows, int first, int len) {
    for (int at = threadIdx.x; at < TILE * DIM; at += TILE_THREADS) {
        const int row = at / DIM, i = at % DIM;
        const bool is_there = first + row < len && i < rows.head_dim;
        tile[row * (DIM + PADDING) + i] =
            from_float<T>(is_there ? rows.element(first + row, i) : 0.0f);
    }
}

// What a warp has of its 16 rows: sums, the largest score so far, and the sum of weights, of row g and of
// row g + 8 of each lane (see device.cuh).
template <int DIM>
struct State {
    float sums[DIM / 8][4];
    float largest[2], weights[2];
};

// Adds a tile of keys and values; `row` is the lane's first one, `key` the tile's.
template <class T, int DIM>
__device__ __forceinline__ void add_tile(State<DIM>& state, const T* queries, const T* keys,
                                         const T* values, int row, int key, int len,
                                         const FullAttentionParams& p) {
    constexpr int WIDTH = DIM + PADDING;
    const int lane = threadIdx.x % 32, t = lane % 4;
    float scores[TILE / 8][4] = {};
#pragma unroll
    for (int part = 0; part < DIM / 16; part++) {
        uint32_t a[4];
        // Matrices: rows 0 to 7 and 8 to 15 of the first eight elements, then of the others.
        load_matrices<4, false>(a, queries + lane % 16 * WIDTH + part * 16 + lane / 16 * 8);
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
            uint32_t b[2];
            load_matrices<2, false>(b, keys + (n * 8 + lane % 8) * WIDTH + part * 16 + lane / 8 % 2 * 8);
            multiply_add<T>(scores[n], a, b);
        }
    }
    float largest[2] = {state.largest[0], state.largest[1]};
#pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int of_row = row + i / 2 * 8, of_key = key + n * 8 + 2 * t + i % 2;
            const int apart = of_row < of_key ? of_key - of_row : of_row - of_key;
            const bool is_seen = of_key < len && apart <= p.window;
            scores[n][i] = is_seen ? scores[n][i] * p.factor : -INFINITY;
            largest[i / 2] = fmaxf(largest[i / 2], scores[n][i]);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        largest[half] = warp_reduce<4>(largest[half], Max());
        // A row may have seen nothing yet.
        const float base = largest[half] == -INFINITY ? 0.0f : largest[half];
        const float shrink = fast_exp2(state.largest[half] - base);
        state.largest[half] = largest[half];
        state.weights[half] *= shrink;
#pragma unroll
        for (int d = 0; d < DIM / 8; d++) {
            state.sums[d][2 * half] *= shrink;
            state.sums[d][2 * half + 1] *= shrink;
        }
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                scores[n][i] = fast_exp2(scores[n][i] - base);
                state.weights[half] += scores[n][i];
            }
        }
    }
#pragma unroll
    for (int part = 0; part < TILE / 16; part++) {
        const float(&left)[4] = scores[2 * part], (&right)[4] = scores[2 * part + 1];
        const uint32_t a[4] = {pair_of<T>(left[0], left[1]), pair_of<T>(left[2], left[3]),
                               pair_of<T>(right[0], right[1]), pair_of<T>(right[2], right[3])};
#pragma unroll
        for (int d = 0; d < DIM / 8; d++) {
            uint32_t b[2];
            load_matrices<2, true>(b, values + (part * 16 + lane % 16) * WIDTH + d * 8);
            multiply_add<T>(state.sums[d], a, b);
        }
    }
}

// Blocks of x are tiles of rows, those of y heads, those of z sequences.
template <class T, int DIM>
__device__ __forceinline__ void attend_tiles(const FullAttentionParams& p) {
    constexpr int WIDTH = DIM + PADDING;
    DYNAMIC_SHARED(memory);
    T* queries = reinterpret_cast<T*>(memory);
    T* keys = queries + TILE * WIDTH;
    T* values = keys + TILE * WIDTH;
    const Sequence<T> sequence(p, blockIdx.z, blockIdx.y);
    const int first = blockIdx.x * TILE, len = sequence.len;
    if (first >= len) return;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int row = first + warp * 16 + g;
    State<DIM> state;
#pragma unroll
    for (int d = 0; d < DIM / 8; d++) {
#pragma unroll
        for (int i = 0; i < 4; i++) state.sums[d][i] = 0.0f;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        state.largest[half] = -INFINITY;
        state.weights[half] = 0.0f;
    }
    load_tile<T, DIM>(queries, sequence.queries, first, len);
    const int last = first + TILE - 1;
    const int begin = p.window < first ? (first - p.window) / TILE * TILE : 0;
    const int end = p.window < len - last ? last + p.window + 1 : len;
    for (int key = begin; key < end; key += TILE) {
        __syncthreads();
        load_tile<T, DIM>(keys, sequence.keys, key, len);
        load_tile<T, DIM>(values, sequence.values, key, len);
        __syncthreads();
        add_tile<T, DIM>(state, queries + warp * 16 * WIDTH, keys, values, row, key, len, p);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float weights = warp_reduce<4>(state.weights[half], Sum());
        const int at = row + half * 8;
        if (at >= len) continue;
        T* out = sequence.out + size_t(at) * sequence.stride;
#pragma unroll
        for (int d = 0; d < DIM / 8; d++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int element = d * 8 + 2 * t + i;
                if (element < p.head_dim) {
                    out[element] = from_float<T>(state.sums[d][2 * half + i] / weights);
                }
            }
        }
    }
}

constexpr int PLAIN_THREADS = 128;
constexpr int MOST_OF_LANE = 8;  // elements of a head

// Any numbers, and heads of up to 256 elements: blocks of x are rows, one a warp.
template <class T>
__device__ __forceinline__ void attend_rows(const FullAttentionParams& p) {
    const Sequence<T> sequence(p, blockIdx.z, blockIdx.y);
    const int lane = threadIdx.x % 32, len = sequence.len, dim = p.head_dim;
    const int row = blockIdx.x * (PLAIN_THREADS / 32) + threadIdx.x / 32;
    if (row >= len) return;
    float query[MOST_OF_LANE], sums[MOST_OF_LANE];
#pragma unroll
    for (int i = 0; i < MOST_OF_LANE; i++) {
        const int element = lane + 32 * i;
        query[i] = element < dim ? sequence.queries.element(row, element) * p.factor : 0.0f;
        sums[i] = 0.0f;
    }
    float largest = -INFINITY, weights = 0.0f;
    const int begin = p.window < row ? row - p.window : 0;
    const int end = p.window < len - row ? row + p.window + 1 : len;
    for (int key = begin; key < end; key++) {
        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < MOST_OF_LANE; i++) {
            const int element = lane + 32 * i;
            if (element < dim) score = fmaf(query[i], sequence.keys.element(key, element), score);
        }
        score = warp_reduce(score, Sum());
        const float before = largest;
        largest = fmaxf(largest, score);
        const float shrink = exp2f(before - largest), weight = exp2f(score - largest);
        weights = weights * shrink + weight;
#pragma unroll
        for (int i = 0; i < MOST_OF_LANE; i++) {
            const int element = lane + 32 * i;
            if (element < dim) {
                sums[i] = sums[i] * shrink + weight * sequence.values.element(key, element);
            }
        }
    }
    T* out = sequence.out + size_t(row) * sequence.stride;
#pragma unroll
    for (int i = 0; i < MOST_OF_LANE; i++) {
        const int element = lane + 32 * i;
        if (element < dim) out[element] = from_float<T>(sums[i] / weights);
    }
}

KERNEL(full_attention_bf16_32, FullAttentionParams, TILE_THREADS) { attend_tiles<bf16, 32>(p); }
KERNEL(full_attention_bf16_64, FullAttentionParams, TILE_THREADS) { attend_tiles<bf16, 64>(p); }
KERNEL(full_attention_bf16_128, FullAttentionParams, TILE_THREADS) { attend_tiles<bf16, 128>(p); }
KERNEL(full_attention_f16_32, FullAttentionParams, TILE_THREADS) { attend_tiles<f16, 32>(p); }
KERNEL(full_attention_f16_64, FullAttentionParams, TILE_THREADS) { attend_tiles<f16, 64>(p); }
KERNEL(full_attention_f16_128, FullAttentionParams, TILE_THREADS) { attend_tiles<f16, 128>(p); }
KERNEL(full_attention_rows_f32, FullAttentionParams, PLAIN_THREADS) { attend_rows<float>(p); }
KERNEL(full_attention_rows_f16, FullAttentionParams, PLAIN_THREADS) { attend_rows<f16>(p); }
KERNEL(full_attention_rows_bf16, FullAttentionParams, PLAIN_THREADS) { attend_rows<bf16>(p); }
