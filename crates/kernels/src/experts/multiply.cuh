// Rows times the weights of their experts.
//
// Bound: memory, while an expert has few rows; its weight is then read once for up to 64 of them. Output features
// are the 16 rows of a tensor-core product, the expert's rows its 8 columns, so that few rows waste little.
// Both operands come through shared memory, some stages ahead. Weights of fewer bits are widened there by
// the warp that multiplies them: some 5 instructions for two, which for a stage of e2m1 takes about as long as
// memory needs to bring the next.
//
// Bytes in flight: 4.3 TB/s behind some 0.8 us want about 26 KiB a multiprocessor. A step of few tokens has few
// blocks, one or two a multiprocessor, of which each keeps as much (Few); others have 32 to 48 KiB in two blocks.
// What a row becomes does not depend on the shape.
#pragma once
#include "weights.cuh"

constexpr int DEPTH = 64;  // inputs of a stage: 128 bytes of a row
constexpr int CHUNKS = DEPTH / 8;

// Output features and rows of a block's pass, stages, and in what weights are held.
template <int OUTS_, int ROWS_, int STAGES_, class W>
struct Shape {
    using Weight = W;
    static constexpr int OUTS = OUTS_;  // 16 a warp
    static constexpr int ROWS = ROWS_;
    static constexpr int STAGES = STAGES_;
    static constexpr int THREADS = OUTS / 16 * 32;
    static constexpr int WEIGHT_BYTES = OUTS * DEPTH * W::BITS / 8;
    static constexpr int STAGE_BYTES = WEIGHT_BYTES + ROWS * DEPTH * 2;
    static constexpr int TILE_BYTES = OUTS * DEPTH * 2;
    static_assert(THREADS * BLOCK == OUTS * DEPTH, "a thread widens a block of each stage");
};

template <class T>
using ManyWide = Shape<128, 64, 4, Wide<T>>;
using ManyE4m3 = Shape<128, 64, 5, E4m3>;
using ManyE2m1 = Shape<128, 64, 5, E2m1>;

// Of up to 16 tokens, so that no expert has more rows.
template <class T>
using FewWide = Shape<64, 16, 8, Wide<T>>;
using FewE4m3 = Shape<64, 16, 10, E4m3>;
using FewE2m1 = Shape<64, 16, 16, E2m1>;

// Where 16 bytes of a row lie in a stage: turned about, so that eight rows' do not meet in a bank.
__device__ __forceinline__ int place_of(int row, int chunk) {
    return (row * CHUNKS + (chunk ^ row % CHUNKS)) * 16;
}

// The row of x that a row is made of.
__device__ __forceinline__ size_t source_of(const MultiplyParams& p, int row) {
    return p.rows_of_token == 0 ? row : p.sorted[row] / p.rows_of_token;
}

// Weights of a stage to the tile: a thread has the block of one row's inputs that it copied, whose chunks of 16
// bytes lie S::THREADS apart.
template <class T, class S>
__device__ __forceinline__ void widen_block(unsigned char* tile, const unsigned char* weights, unsigned scale) {
    using W = typename S::Weight;
    const int row = threadIdx.x / 2, first_chunk = threadIdx.x % 2 * (CHUNKS / 2);
    uint32_t words[W::BITS];
#pragma unroll
    for (int i = 0; i < W::BITS / 4; i++) {
        const auto* from = reinterpret_cast<const uint4*>(weights) + i * S::THREADS + threadIdx.x;
        *reinterpret_cast<uint4*>(words + 4 * i) = *from;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t pairs[8];
        W::template widen<T>(pairs, words + half * W::BITS / 2, scale);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            auto* to = reinterpret_cast<uint4*>(tile + place_of(row, first_chunk + half * 2 + i));
            *to = *reinterpret_cast<const uint4*>(pairs + 4 * i);
        }
    }
}

// Blocks of x are output features, those of y experts.
template <class T, class S>
__device__ __forceinline__ void multiply_rows(const MultiplyParams& p) {
    using W = typename S::Weight;
    constexpr bool IS_NARROW = W::BITS < 16, HAS_BLOCK_SCALES = std::is_same<W, E2m1>::value;
    constexpr int OUTS = S::OUTS, ROWS = S::ROWS, STAGES = S::STAGES;
    constexpr int COPIERS = S::THREADS / CHUNKS;  // rows that are copied at once
    DYNAMIC_SHARED(stages);
    unsigned char* const tile = stages + STAGES * S::STAGE_BYTES;
    unsigned char* const scales = tile + S::TILE_BYTES;  // [OUTS, in / BLOCK]
    const unsigned expert = blockIdx.y;
    const unsigned* starts = p.sorted + 2 * p.num_rows;
    const int start = starts[expert], count = int(starts[expert + 1]) - start;
    const int first_out = blockIdx.x * OUTS;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int num_stages = (p.in_features + DEPTH - 1) / DEPTH, num_blocks = p.in_features / BLOCK;
    const int outs = min(OUTS, p.out_features - first_out);
    const size_t outs_before = size_t(expert) * p.out_features;
    const T* x = static_cast<const T*>(p.x);
    const auto* weight =
        static_cast<const unsigned char*>(p.weight) + (outs_before + first_out) * p.in_features * W::BITS / 8;
    T* y = static_cast<T*>(p.y);

    for (int pass = 0; pass < count; pass += ROWS) {
        const int rows = count - pass < ROWS ? count - pass : ROWS;
        const int groups = (rows + 7) / 8;
        const int first_row = start + pass;

        // Each thread copies the same chunk of some rows, or of narrow weights the block that it widens.
        const int chunk = thread % CHUNKS, copier = thread / CHUNKS;
        const T* sources[ROWS / COPIERS];
#pragma unroll
        for (int i = 0; i < ROWS / COPIERS; i++) {
            const int row = copier + i * COPIERS;
            sources[i] = row < rows ? x + source_of(p, first_row + row) * p.in_features : nullptr;
        }
        auto copy_weights = [&](unsigned char* to, int stage) {
            if constexpr (IS_NARROW) {
                const int row = thread / 2, input = stage * DEPTH + thread % 2 * BLOCK;
                const bool is_valid = input < p.in_features && row < outs;
                const auto* from =
                    weight + (is_valid ? (size_t(row) * p.in_features + input) * W::BITS / 8 : 0);
#pragma unroll
                for (int i = 0; i < W::BITS / 4; i++) {
                    copy_async_16(to + (i * S::THREADS + thread) * 16, from + i * 16, is_valid);
                }
            } else {
                const int input = stage * DEPTH + chunk * 8;
#pragma unroll
                for (int i = 0; i < OUTS / COPIERS; i++) {
                    const int row = copier + i * COPIERS;
                    const bool is_valid = input < p.in_features && row < outs;
                    const size_t at = is_valid ? size_t(row) * p.in_features + input : 0;
                    copy_async_16(to + place_of(row, chunk), weight + at * sizeof(T), is_valid);
                }
            }
        };
        auto copy_stage = [&](int stage) {
            if (stage < num_stages) {
                unsigned char* to = stages + stage % STAGES * S::STAGE_BYTES;
                copy_weights(to, stage);
                to += S::WEIGHT_BYTES;
                const int input = stage * DEPTH + chunk * 8;
#pragma unroll
                for (int i = 0; i < ROWS / COPIERS; i++) {
                    const int row = copier + i * COPIERS;
                    if (row >= groups * 8) continue;  // nobody looks at it
                    const bool is_valid = input < p.in_features && sources[i] != nullptr;
                    copy_async_16(to + place_of(row, chunk), is_valid ? sources[i] + input : x, is_valid);
                }
            }
            commit_copies();
        };

        if (HAS_BLOCK_SCALES && pass == 0) {
            const auto* from =
                static_cast<const unsigned char*>(p.scales) + (outs_before + first_out) * num_blocks;
            for (int i = thread * 16; i < outs * num_blocks; i += S::THREADS * 16) {
                copy_async_16(scales + i, from + i);
            }
        }
        float sums[ROWS / 8][4] = {};
        for (int stage = 0; stage < STAGES - 1; stage++) copy_stage(stage);
        for (int stage = 0; stage < num_stages; stage++) {
            wait_copies<STAGES - 2>();
            // The stage is there for all, and the one before is free.
            __syncthreads();
            copy_stage(stage + STAGES - 1);
            const unsigned char* weights = stages + stage % STAGES * S::STAGE_BYTES;
            const unsigned char* inputs = weights + S::WEIGHT_BYTES;
            if constexpr (IS_NARROW) {
                const int row = thread / 2, block = stage * 2 + thread % 2;
                unsigned scale = 0;
                if (HAS_BLOCK_SCALES && row < outs && block < num_blocks) scale = scales[row * num_blocks + block];
                // A warp reads the rows of the tile that it writes.
                widen_block<T, S>(tile, weights, scale);
                __syncwarp();
                weights = tile;
            }
#pragma unroll
            for (int step = 0; step < DEPTH / 16; step++) {
                uint32_t a[4];
                const int out = warp * 16 + lane % 16;
                load_matrices<4, false>(a, weights + place_of(out, step * 2 + lane / 16));
#pragma unroll
                for (int group = 0; group < ROWS / 8; group += 2) {
                    if (group >= groups) break;
                    const bool has_two = group + 1 < groups;
                    // Of the second group there may be nothing: then the first is read twice.
                    const int row = (group + (has_two ? lane / 16 : 0)) * 8 + lane % 8;
                    uint32_t b[4];
                    load_matrices<4, false>(b, inputs + place_of(row, step * 2 + lane / 8 % 2));
                    const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
                    multiply_add<T>(sums[group], a, first);
                    if (has_two) multiply_add<T>(sums[group + 1], a, second);
                }
            }
        }
        wait_copies<0>();
        __syncthreads();

#pragma unroll
        for (int group = 0; group < ROWS / 8; group++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = group * 8 + lane % 4 * 2 + i % 2;
                const int out = warp * 16 + lane / 4 + i / 2 * 8;
                if (row < rows && out < outs) {
                    y[size_t(first_row + row) * p.out_features + first_out + out] =
                        output_of<T, W>(p, outs_before + first_out + out, sums[group][i]);
                }
            }
        }
    }
}

constexpr int PLAIN_THREADS = 256;

// A warp an output of a row, for f32 and for rows of no whole 16 bytes. Blocks of x are rows, those of y
// output features.
template <class T, class W>
__device__ __forceinline__ void multiply_plain(const MultiplyParams& p) {
    const int out = blockIdx.y * (PLAIN_THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (out >= p.out_features) return;
    const size_t row = blockIdx.x;
    const T* x = static_cast<const T*>(p.x) + source_of(p, row) * p.in_features;
    const size_t of_all = size_t(p.experts[p.sorted[row]]) * p.out_features + out;
    float sum = 0.0f;
    for (int i = lane; i < p.in_features; i += 32) {
        sum = fmaf(to_float(x[i]), W::element(p, of_all * p.in_features + i), sum);
    }
    sum = warp_reduce(sum, Sum());
    if (lane == 0) static_cast<T*>(p.y)[row * p.out_features + out] = output_of<T, W>(p, of_all, sum);
}
