// A linear layer for few rows: every weight is read once, by tensor cores that stand ready for it.
//
// The weight is the left factor of 16 x 8 x 16 products, 16 output features a tile, and up to 8 rows
// of x are the right one. Its order of the 16 inner elements is free as long as both sides have the
// same: a lane loads 16 bytes of a weight row and of an x row, and these are its fragments. Nothing
// passes through shared memory or is converted.
//
// A block has the same output features in all of its 8 warps, which take the inner elements in turn,
// 128 bytes of a row at a time, and adds their sums in order. An output is one sum in an order that
// `in_features` gives: rows do not know of each other.
//
// Bound: reading the weight. With M rows every 2-byte weight makes M multiply-adds; at 4.3 TB/s and 8
// rows those alone would take half of the ordinary cores' time and reading x out of shared memory all
// of it. Here 1 KiB of weights is 2 products and some 10 instructions. Bytes in flight: each warp asks
// for 8 KiB of weights before it waits (4 with 16 rows), 128 KiB a multiprocessor. x comes from the
// caches, M / 16 of the bytes of the weight, M / 32 with 32 output features a warp.
//
// An e4m3 weight is also multiplied with many rows where cuBLAS has no way to: a block takes 8 or 16 of
// them, and those with the same part of the weight follow each other, so that it comes from the caches.
#pragma once
#include "../cuda/device.cuh"

struct SkinnyParams {
    const void* x;        // [rows, in]
    const void* weight;   // [out, in]
    const float* scales;  // [out] of an e4m3 weight
    const void* bias;     // [out] or null
    void* y;              // [rows, out]
    int num_rows;
    int in_features;
    int out_features;
};

// OUT_TILES times 16 output features and ROW_TILES times 8 rows a block.
template <int OUT_TILES_, int ROW_TILES_>
struct SkinnyShape {
    static constexpr int OUT_TILES = OUT_TILES_;
    static constexpr int ROW_TILES = ROW_TILES_;
    static constexpr int OUTS = 16 * OUT_TILES;
    static constexpr int ROWS = 8 * ROW_TILES;
    static constexpr int WARPS = 8;
    static constexpr int STEPS = 4 / (OUT_TILES * ROW_TILES);  // asked for at once
};

// 16 bytes of a weight as left fragments: of bf16 or f16 the words as they lie, of e4m3 widened.
template <class T, class W>
struct WeightPack {
    static constexpr int PRODUCTS = 16 / sizeof(W) / 4;  // 4 inner elements of a lane each
    Pack<W> pack;

    __device__ __forceinline__ void pairs(uint32_t (&out)[2], int product) const {
        const uint32_t* words = reinterpret_cast<const uint32_t*>(&pack);
        if constexpr (sizeof(W) == 1) {
            widen_e4m3<T>(out, words[product]);
        } else {
            out[0] = words[2 * product];
            out[1] = words[2 * product + 1];
        }
    }
};

template <class T, class W, class Shape>
struct SkinnyWarp {
    static constexpr int LEN = Pack<W>::LEN;           // inner elements of a lane and a load
    static constexpr int PACKS = LEN / Pack<T>::LEN;   // that many loads of x
    static constexpr int STEP = 2 * 4 * LEN;           // inner elements of a step: 128 bytes

    const SkinnyParams& p;
    const int first_row, first_out;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sums[Shape::OUT_TILES][Shape::ROW_TILES][4] = {};

    struct Step {
        WeightPack<T, W> weights[2][Shape::OUT_TILES][2];  // halves of the step, tiles, rows g and g + 8
        Pack<T> x[2][Shape::ROW_TILES][PACKS];
    };

    __device__ __forceinline__ SkinnyWarp(const SkinnyParams& p, int first_row, int first_out)
        : p(p), first_row(first_row), first_out(first_out) {}

    __device__ __forceinline__ void load(Step& step, int start) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int k = start + half * 4 * LEN + lane % 4 * LEN;
            const bool is_inside = k < p.in_features;
#pragma unroll
            for (int tile = 0; tile < Shape::OUT_TILES; tile++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    // Beyond the last output feature it is read again, and not written.
                    const int out = min(first_out + 16 * tile + 8 * i + lane / 4, p.out_features - 1);
                    const W* from = static_cast<const W*>(p.weight) +
                                    static_cast<size_t>(out) * p.in_features + k;
                    step.weights[half][tile][i].pack =
                        is_inside ? load_streamed_pack(from) : Pack<W>{};
                }
            }
#pragma unroll
            for (int tile = 0; tile < Shape::ROW_TILES; tile++) {
                const int row = first_row + 8 * tile + lane / 4;
                const T* from =
                    static_cast<const T*>(p.x) + static_cast<size_t>(row) * p.in_features + k;
#pragma unroll
                for (int i = 0; i < PACKS; i++) {
                    const bool is_there = is_inside && row < p.num_rows;
                    step.x[half][tile][i] =
                        is_there ? load_constant_pack(from + i * Pack<T>::LEN) : Pack<T>{};
                }
            }
        }
    }

    __device__ __forceinline__ void multiply(const Step& step) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int product = 0; product < WeightPack<T, W>::PRODUCTS; product++) {
#pragma unroll
                for (int tile = 0; tile < Shape::OUT_TILES; tile++) {
                    uint32_t upper[2], lower[2];
                    step.weights[half][tile][0].pairs(upper, product);
                    step.weights[half][tile][1].pairs(lower, product);
                    const uint32_t a[4] = {upper[0], lower[0], upper[1], lower[1]};
#pragma unroll
                    for (int row_tile = 0; row_tile < Shape::ROW_TILES; row_tile++) {
                        const Pack<T>& x = step.x[half][row_tile][product / 2];
                        const uint32_t* words = reinterpret_cast<const uint32_t*>(&x);
                        const int word = product % 2 * 2;
                        multiply_add<T>(sums[tile][row_tile], a, {words[word], words[word + 1]});
                    }
                }
            }
        }
    }

    // The warp's share of the inner elements.
    __device__ __forceinline__ void run() {
        constexpr int STRIDE = STEP * Shape::WARPS;
        for (int start = warp * STEP; start < p.in_features; start += Shape::STEPS * STRIDE) {
            Step steps[Shape::STEPS];
#pragma unroll
            for (int i = 0; i < Shape::STEPS; i++) load(steps[i], start + i * STRIDE);
#pragma unroll
            for (int i = 0; i < Shape::STEPS; i++) multiply(steps[i]);
        }
    }
};

// Grid: (rows / Shape::ROWS, out_features / Shape::OUTS), rounded up. x and weight are aligned to 16 bytes and in_features
// is a multiple of 16 bytes of weights.
template <class T, class W, class Out, class Shape>
__device__ __forceinline__ void multiply_skinny(const SkinnyParams& p) {
    constexpr int VALUES = Shape::OUT_TILES * Shape::ROW_TILES * 4;
    SHARED(parts, float[Shape::WARPS][VALUES][32]);
    const int first_row = blockIdx.x * Shape::ROWS, first_out = blockIdx.y * Shape::OUTS;
    SkinnyWarp<T, W, Shape> own(p, first_row, first_out);
    own.run();
#pragma unroll
    for (int i = 0; i < VALUES; i++) {
        parts[own.warp][i][own.lane] = own.sums[i / 4 / Shape::ROW_TILES][i / 4 % Shape::ROW_TILES][i % 4];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < Shape::OUTS * Shape::ROWS; i += 32 * Shape::WARPS) {
        const int out = i % Shape::OUTS, row = i / Shape::OUTS;
        if (first_row + row >= p.num_rows || first_out + out >= p.out_features) continue;
        // Where the fragment c has it.
        const int tile = out / 16 * Shape::ROW_TILES + row / 8;
        const int value = 4 * tile + out % 16 / 8 * 2 + row % 2;
        const int lane = out % 8 * 4 + row % 8 / 2;
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < Shape::WARPS; w++) sum += parts[w][value][lane];
        if (sizeof(W) == 1) sum *= __ldg(p.scales + first_out + out);
        if (p.bias != nullptr) sum += to_float(static_cast<const T*>(p.bias)[first_out + out]);
        static_cast<Out*>(p.y)[static_cast<size_t>(first_row + row) * p.out_features + first_out + out] =
            from_float<Out>(sum);
    }
}
