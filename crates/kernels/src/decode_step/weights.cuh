// The way of weights: some warps ask for all that the block multiplies in the whole step, as far ahead as
// there are stages, and the others multiply what is there. While they wait for other blocks, attend or
// normalise, the memory goes on.
#pragma once
#include "params.cuh"

// Asks for the block's weights.
template <class T>
struct WeightFeed {
    static constexpr int ROWS = OUTS / FEED_WARPS;  // of a stage, that a warp asks for

    const StepParams& p;
    const BlockMemory& memory;
    RingPlace at;
    RingPlace arriving;  // the earliest that is on its way
    int num_asked = 0;

    __device__ __forceinline__ WeightFeed(const StepParams& p, const BlockMemory& memory)
        : p(p), memory(memory) {}

    // The tiles of a product, in stages.
    __device__ __forceinline__ void ask(int index) {
        const Product product = product_of(p, index);
        const ProductShape shape = shape_of(p, product);
        const T* const weight = static_cast<const T*>(weight_of(index / 4, product));
        const int own = (threadIdx.x - CONSUMERS) / 32 * ROWS + threadIdx.x % ROWS;  // row of a stage
#pragma unroll 1
        for (int tile = first_tile(p, index); tile < shape.num_tiles(); tile += gridDim.x) {
            // Beyond the last output feature it is read again, and not written.
            const int row = min(OUTS * tile + own, shape.out - 1);
#pragma unroll 1
            for (int part = 0; part < shape.parts; part++) {
                const T* from = weight + (static_cast<size_t>(part) * shape.out + row) * shape.in;
#pragma unroll 1
                for (int start = 0; start < shape.in; start += STAGE_INPUTS) {
                    ask_stage(from + start, min(shape.in - start, STAGE_INPUTS) * sizeof(T), own);
                }
            }
        }
    }

    // The thread's row of a stage, if it has one.
    __device__ __forceinline__ void ask_stage(const T* from, unsigned bytes, int own) {
        const int lane = threadIdx.x % 32;
        ArrivalBarrier& full = memory.full(at.stage());
        if (num_asked == STAGES_AHEAD) {
            wait_for(memory.full(arriving.stage()), arriving.parity());
            arriving.advance(p.num_stages);
        } else {
            num_asked++;
        }
        wait_for(memory.empty(at.stage()), at.parity() ^ 1);
        if (lane == 0) arrive_with_bytes(full, ROWS * bytes);
        __syncwarp();
        if (lane < ROWS) {
            T* const to = reinterpret_cast<T*>(memory.stage(at.stage())) + own * STAGE_STRIDE;
            copy_bulk(to, from, bytes, full);
        }
        at.advance(p.num_stages);
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

// A warp's part of products with up to eight rows of inputs, `[rows, input_stride(in)]` in shared memory.
// The weights are the right factors of 16 x 8 x 16 products, and half of the left ones are no rows. The
// order of sums is that of multiply_skinny, so that a row's results have its bits.
template <class T>
struct TileProduct {
    static constexpr int LEN = Pack<T>::LEN;

    const StepParams& p;
    const BlockMemory& memory;
    RingPlace at;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    __device__ __forceinline__ TileProduct(const StepParams& p, const BlockMemory& memory)
        : p(p), memory(memory) {}

    // Multiplies the next tile, and leaves the warp's sums.
    __device__ __forceinline__ void multiply(int in, TileSums& to) {
        const int own = warp * WARP_CHUNK + lane % 4 * LEN;
        const T* const x = reinterpret_cast<const T*>(memory.region()) + lane / 4 * input_stride(in) + own;
        const bool has_row = lane / 4 < p.num_rows;
        float sums[4] = {};
#pragma unroll 1
        for (int start = 0; start < in; start += STAGE_INPUTS) {
            wait_for(memory.full(at.stage()), at.parity());
            const T* const weights =
                reinterpret_cast<const T*>(memory.stage(at.stage())) + lane / 4 * STAGE_STRIDE + own;
            if (in - start >= STAGE_INPUTS) {
                add_stage<true>(sums, weights, x + start, has_row, 0);
            } else {
                add_stage<false>(sums, weights, x + start, has_row, in - start - own);
            }
            __syncwarp();
            if (lane == 0) arrive(memory.empty(at.stage()));
            at.advance(p.num_stages);
        }
        // Of row lane / 4; the other two are of rows that are none.
        *reinterpret_cast<float2*>(&to[warp][2 * lane]) = make_float2(sums[0], sums[1]);
    }

    // A sum that all warps have left, of a row and an output feature of the tile: `at` is OUTS row + feature.
    static __device__ __forceinline__ float sum_of(const TileSums& from, int at) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < CONSUMER_WARPS; w++) sum += from[w][at];
        return sum;
    }

private:
    // The warp's inputs of a stage, of which `left` are there behind the lane's first unless all are.
    template <bool IS_WHOLE>
    __device__ __forceinline__ void add_stage(float (&sums)[4], const T* weights, const T* x, bool has_row,
                                              int left) const {
#pragma unroll
        for (int i = 0; i < 2 * STAGE_INPUTS / CHUNK; i++) {
            const int k = i / 2 * CHUNK + i % 2 * 4 * LEN;
            Pack<T> weight = {}, input = {};
            if (IS_WHOLE || k < left) {
                weight = load_pack(weights + k);
                if (has_row) input = load_pack(x + k);
            }
            const uint32_t* of_weight = reinterpret_cast<const uint32_t*>(&weight);
            const uint32_t* of_x = reinterpret_cast<const uint32_t*>(&input);
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                multiply_add<T>(sums, {of_x[j], 0, of_x[j + 1], 0}, {of_weight[j], of_weight[j + 1]});
            }
        }
    }
};
