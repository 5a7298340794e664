// Rows times the weights of their experts.
//
// Bound: memory, while an expert has few rows; its weight is then read once for up to 64 of them. Output features
// are the 16 rows of a tensor-core product, the expert's rows its 8 columns, so that few rows waste little.
// Both operands come through shared memory, some stages ahead.
#pragma once
#include "../cuda/device.cuh"

struct MultiplyParams {
    const void* x;            // [rows / rows_of_token, in], or [rows, in]
    const void* weight;       // [experts, out, in]
    const unsigned* experts;  // [rows], of choices
    // [2 rows + experts + 1]: the choice of each row, in the order of their experts; the row of each choice; where
    // each expert's begin
    const unsigned* sorted;
    void* y;  // [rows, out]
    int num_rows;
    int rows_of_token;  // 0 where x has the rows themselves
    int in_features;
    int out_features;
};

constexpr int MULTIPLY_THREADS = 256;
constexpr int OUTS = 128;  // of a block: 16 a warp
constexpr int ROWS = 64;   // of a pass
constexpr int DEPTH = 64;  // inputs of a stage: 128 bytes of a row
constexpr int CHUNKS = DEPTH / 8;
constexpr int STAGES = 4;
constexpr int STAGE_BYTES = (OUTS + ROWS) * DEPTH * 2;

// Where 16 bytes of a row lie in a stage: turned about, so that eight rows' do not meet in a bank.
__device__ __forceinline__ int place_of(int row, int chunk) {
    return (row * CHUNKS + (chunk ^ row % CHUNKS)) * 16;
}

// The row of x that a row is made of.
__device__ __forceinline__ size_t source_of(const MultiplyParams& p, int row) {
    return p.rows_of_token == 0 ? row : p.sorted[row] / p.rows_of_token;
}

// Blocks of x are output features, those of y experts.
template <class T>
__device__ __forceinline__ void multiply_rows(const MultiplyParams& p) {
    DYNAMIC_SHARED(stages);
    const unsigned expert = blockIdx.y;
    const unsigned* starts = p.sorted + 2 * p.num_rows;
    const int start = starts[expert], count = int(starts[expert + 1]) - start;
    const int first_out = blockIdx.x * OUTS;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int num_stages = (p.in_features + DEPTH - 1) / DEPTH;
    const T* x = static_cast<const T*>(p.x);
    const T* weight = static_cast<const T*>(p.weight) + size_t(expert) * p.out_features * p.in_features;
    T* y = static_cast<T*>(p.y);

    for (int pass = 0; pass < count; pass += ROWS) {
        const int rows = count - pass < ROWS ? count - pass : ROWS;
        const int groups = (rows + 7) / 8;
        const int first_row = start + pass;

        // Each thread copies the same chunk of every 32nd row.
        const int chunk = thread % CHUNKS, copier = thread / CHUNKS;
        const T* sources[ROWS / 32];
#pragma unroll
        for (int i = 0; i < ROWS / 32; i++) {
            const int row = copier + i * 32;
            sources[i] = row < rows ? x + source_of(p, first_row + row) * p.in_features : nullptr;
        }
        auto copy_stage = [&](int stage) {
            if (stage < num_stages) {
                unsigned char* to = stages + stage % STAGES * STAGE_BYTES;
                const int input = stage * DEPTH + chunk * 8;
                const bool is_input = input < p.in_features;
#pragma unroll
                for (int i = 0; i < OUTS / 32; i++) {
                    const int row = copier + i * 32, out = first_out + row;
                    const bool is_valid = is_input && out < p.out_features;
                    const T* from = weight + (is_valid ? size_t(out) * p.in_features + input : 0);
                    copy_async_16(to + place_of(row, chunk), from, is_valid);
                }
                to += OUTS * DEPTH * 2;
#pragma unroll
                for (int i = 0; i < ROWS / 32; i++) {
                    const int row = copier + i * 32;
                    if (row >= groups * 8) continue;  // nobody looks at it
                    const bool is_valid = is_input && sources[i] != nullptr;
                    copy_async_16(to + place_of(row, chunk), is_valid ? sources[i] + input : x, is_valid);
                }
            }
            commit_copies();
        };

        float sums[ROWS / 8][4] = {};
        for (int stage = 0; stage < STAGES - 1; stage++) copy_stage(stage);
        for (int stage = 0; stage < num_stages; stage++) {
            wait_copies<STAGES - 2>();
            // The stage is there for all, and the one before is free.
            __syncthreads();
            copy_stage(stage + STAGES - 1);
            const unsigned char* weights = stages + stage % STAGES * STAGE_BYTES;
            const unsigned char* inputs = weights + OUTS * DEPTH * 2;
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
                const int out = first_out + warp * 16 + lane / 4 + i / 2 * 8;
                if (row < rows && out < p.out_features) {
                    y[size_t(first_row + row) * p.out_features + out] = from_float<T>(sums[group][i]);
                }
            }
        }
    }
}

constexpr int PLAIN_THREADS = 256;

// A warp an output of a row, for f32 and for rows of no whole 16 bytes. Blocks of x are rows, those of y
// output features.
template <class T>
__device__ __forceinline__ void multiply_plain(const MultiplyParams& p) {
    const int out = blockIdx.y * (PLAIN_THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (out >= p.out_features) return;
    const size_t row = blockIdx.x;
    const T* x = static_cast<const T*>(p.x) + source_of(p, row) * p.in_features;
    const T* weight = static_cast<const T*>(p.weight) +
                      (size_t(p.experts[p.sorted[row]]) * p.out_features + out) * p.in_features;
    float sum = 0.0f;
    for (int i = lane; i < p.in_features; i += 32) sum = fmaf(to_float(x[i]), to_float(weight[i]), sum);
    sum = warp_reduce(sum, Sum());
    if (lane == 0) static_cast<T*>(p.y)[row * p.out_features + out] = from_float<T>(sum);
}
