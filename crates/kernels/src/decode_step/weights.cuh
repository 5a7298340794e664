// The way of weights: some warps ask for all that the block multiplies in the whole step, as far ahead as
// there are stages, and the others multiply what is there. While they wait for other blocks, attend or
// normalise, the memory goes on.
#pragma once
#include "params.cuh"

// Asks for the block's weights.
template <class T>
struct WeightFeed {
    const StepParams& p;
    const BlockMemory& memory;
    RingPlace at;

    __device__ __forceinline__ WeightFeed(const StepParams& p, const BlockMemory& memory)
        : p(p), memory(memory) {}

    // The tiles of a product, in stages.
    __device__ __forceinline__ void ask(int index) {
        const Product product = product_of(p, index);
        const ProductShape shape = shape_of(p, product);
        const T* const weight = static_cast<const T*>(weight_of(index / 4, product));
        constexpr int ROWS = OUTS / FEED_WARPS;
        const int lane = threadIdx.x % 32;
        const int own = (threadIdx.x - CONSUMERS) / 32 * ROWS + lane % ROWS;  // row of a stage
#pragma unroll 1
        for (int tile = first_tile(p, index); tile < shape.num_tiles(); tile += gridDim.x) {
            // Beyond the last output feature it is read again, and not written.
            const int row = min(OUTS * tile + own, shape.out - 1);
#pragma unroll 1
            for (int part = 0; part < shape.parts; part++) {
                const T* from = weight + (static_cast<size_t>(part) * shape.out + row) * shape.in;
#pragma unroll 1
                for (int start = 0; start < shape.in; start += CHUNK) {
                    const unsigned bytes = min(shape.in - start, CHUNK) * sizeof(T);
                    ArrivalBarrier& full = memory.full(at.stage());
                    wait_for(memory.empty(at.stage()), at.parity() ^ 1);
                    if (lane == 0) arrive_with_bytes(full, ROWS * bytes);
                    __syncwarp();
                    if (lane < ROWS) {
                        T* to = reinterpret_cast<T*>(memory.stage(at.stage()));
                        copy_bulk(to + own * STAGE_STRIDE, from + start, bytes, full);
                    }
                    at.advance(p.num_stages);
                }
            }
        }
    }

    __device__ __forceinline__ const void* weight_of(int index, Product product) const {
        if (product == HEAD) return p.head;
        const StepLayer& layer = memory.layers()[index];
        return product == QKV ? layer.qkv : product == OUT ? layer.out
                              : product == GATE_UP         ? layer.gate_up
                                                           : layer.down;
    }

    // What the others will read past shared memory, to the L2 cache: all blocks wait for the same few
    // lines, so that a miss would be everybody's. One block asks for all.
    __device__ __forceinline__ void ask_for_vectors(const StepLayer& layer) const {
        const int hidden = p.hidden, head_dim = p.attention.head_dim;
        ask_for_vector(layer.attention_norm, hidden);
        ask_for_vector(layer.qkv_bias, shape_of(p, QKV).out);
        ask_for_vector(layer.q_norm, head_dim);
        ask_for_vector(layer.k_norm, head_dim);
        ask_for_vector(layer.out_bias, hidden);
        ask_for_vector(layer.mlp_norm, hidden);
        ask_for_vector(layer.gate_up_bias, 2 * p.intermediate);
        ask_for_vector(layer.down_bias, hidden);
    }

    __device__ __forceinline__ void ask_for_vector(const void* from, int len) const {
        if (from == nullptr) return;
        const int step = 128 / sizeof(T);
#pragma unroll 1
        for (int i = threadIdx.x % 32 * step; i < len; i += 32 * step) {
            prefetch_to_l2(static_cast<const T*>(from) + i);
        }
    }

    __device__ __forceinline__ void run() {
#pragma unroll 1
        for (int i = 0; i < num_products(p); i++) {
            if (blockIdx.x == 0 && threadIdx.x < CONSUMERS + 32) {
                if (product_of(p, i) == QKV) ask_for_vectors(memory.layers()[i / 4]);
                if (product_of(p, i) == HEAD) ask_for_vector(p.norm, p.hidden);
            }
            ask(i);
        }
    }
};

// A warp's part of products with up to eight rows of inputs, `[rows, input_stride(in)]` in shared memory:
// the sums of multiply_skinny in its order, so that a row's results have its bits.
template <class T>
struct TileProduct {
    const StepParams& p;
    const BlockMemory& memory;
    RingPlace at;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    __device__ __forceinline__ TileProduct(const StepParams& p, const BlockMemory& memory)
        : p(p), memory(memory) {}

    // Multiplies the next 16 output features, and leaves the warp's sums.
    __device__ __forceinline__ void multiply(int in, TileSums& to) {
        const T* x = reinterpret_cast<const T*>(memory.region()) + lane / 4 * input_stride(in);
        const bool has_row = lane / 4 < p.num_rows;
        float sums[4] = {};
#pragma unroll 1
        for (int start = 0; start < in; start += CHUNK) {
            wait_for(memory.full(at.stage()), at.parity());
            const T* stage = reinterpret_cast<const T*>(memory.stage(at.stage()));
            if (start + warp * WARP_CHUNK < in) add_chunk(sums, stage, x + start, has_row, in - start);
            __syncwarp();
            if (lane == 0) arrive(memory.empty(at.stage()));
            at.advance(p.num_stages);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) to[warp][i][lane] = sums[i];
    }

    // A sum that all warps have left, of output feature `out` of the tile and of a row.
    static __device__ __forceinline__ float sum_of(const TileSums& from, int out, int row) {
        const int value = out / 8 * 2 + row % 2, lane = out % 8 * 4 + row / 2;
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < CONSUMER_WARPS; w++) sum += from[w][value][lane];
        return sum;
    }

private:
    // The warp's inputs of a stage, of which `left` are there.
    __device__ __forceinline__ void add_chunk(float (&sums)[4], const T* stage, const T* x, bool has_row,
                                              int left) const {
        constexpr int LEN = Pack<T>::LEN;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int k = warp * WARP_CHUNK + half * 4 * LEN + lane % 4 * LEN;
            Pack<T> upper = {}, lower = {}, inputs = {};
            if (k < left) {
                upper = load_pack(stage + lane / 4 * STAGE_STRIDE + k);
                lower = load_pack(stage + (lane / 4 + 8) * STAGE_STRIDE + k);
                if (has_row) inputs = load_pack(x + k);
            }
            const uint32_t* of_upper = reinterpret_cast<const uint32_t*>(&upper);
            const uint32_t* of_lower = reinterpret_cast<const uint32_t*>(&lower);
            const uint32_t* of_x = reinterpret_cast<const uint32_t*>(&inputs);
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                const uint32_t a[4] = {of_upper[i], of_lower[i], of_upper[i + 1], of_lower[i + 1]};
                multiply_add<T>(sums, a, {of_x[i], of_x[i + 1]});
            }
        }
    }
};
