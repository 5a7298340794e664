// What a step is told, and what its blocks share.
#pragma once
#include "../cuda/pipeline.cuh"
#include "../paged_attention/params.cuh"

// Of one decoder layer; weights are [out, in], biases [out] or null.
struct StepLayer {
    const void* attention_norm;  // [hidden]
    const void* qkv;             // [(heads + 2 * kv_heads) * head_dim, hidden]
    const void* qkv_bias;
    const void* q_norm;  // [head_dim] or null
    const void* k_norm;  // [head_dim] or null
    void* key;           // [num_blocks, kv_heads, block_size, head_dim]
    void* value;         // as key
    const void* out;     // [hidden, heads * head_dim]
    const void* out_bias;
    const void* mlp_norm;  // [hidden]
    const void* gate_up;   // [2 * intermediate, hidden]
    const void* gate_up_bias;
    const void* down;  // [hidden, intermediate]
    const void* down_bias;
};

struct StepParams {
    PagedAttentionParams attention;  // q, key and value are unused
    const StepLayer* layers;
    const void* embedding;  // [vocab, hidden]
    const void* norm;       // [hidden], behind the last layer
    const void* head;       // [vocab, hidden]
    const unsigned* ids;        // [rows]; beyond vocab: zeros
    const unsigned* positions;  // [rows]
    const unsigned* slots;      // [rows]
    const float* cosine;        // [max_pos, head_dim / 2]
    const float* sine;          // as cosine
    void* qkv;       // [rows, (heads + 2 * kv_heads) * head_dim]
    void* branches;  // [2, rows, hidden]: of attention, of the MLP
    void* gated;     // [rows, intermediate]
    float* logits;   // [rows, vocab]
    unsigned* arrivals;  // 0 between launches
    int num_layers;
    int num_rows;
    int hidden;
    int intermediate;
    unsigned vocab;
    unsigned max_pos;
    unsigned num_slots;
    int norm_threads;  // that share the sum of a row in rms_norm, whole warps
    float norm_eps;
    int is_gelu;  // else SiLU
    int num_stages;
    int region_bytes;  // for inputs of a product, or for attention's tiles
};

constexpr int MAX_ROWS = 8;
constexpr int CONSUMER_WARPS = 8;
constexpr int CONSUMERS = 32 * CONSUMER_WARPS;
// That ask for weights, each for its rows of a stage: a warp's lanes ask one after the other. Registers
// are given to four warps at once, so that one would take as many.
constexpr int FEED_WARPS = 4;
constexpr int THREADS = CONSUMERS + 32 * FEED_WARPS;
constexpr int MAX_NORM_WARPS = 16;

// Weights come in stages: 8 output features of up to STAGE_INPUTS inputs, of which each warp takes WARP_CHUNK
// in turn. The copy engine brings more of longer rows (benches/results/2026-11-27-h200/copies.txt).
constexpr int OUTS = 8;
constexpr int WARP_CHUNK = 64;
constexpr int CHUNK = WARP_CHUNK * CONSUMER_WARPS;
constexpr int STAGE_INPUTS = 2 * CHUNK;
// Elements between rows in shared memory: rows that follow each other lie in the other half of the banks.
constexpr int STAGE_STRIDE = STAGE_INPUTS + 32;
constexpr int STAGE_BYTES = OUTS * STAGE_STRIDE * 2;
// Stages of a block that are on their way at once: fewer do not keep the memory busy, with more some blocks
// get less of it than others, for whom all wait (an H200, Llama-3.1-8B's shape: 4.3, 4.0 and 4.7 ms a step
// with 2, 3 and 4).
constexpr int STAGES_AHEAD = 3;

__device__ __forceinline__ int input_stride(int len) { return (len + 63) / 64 * 64 + 32; }

// The warps' shares of the sums of a tile, [MAX_ROWS, OUTS]. Those of some tiles are added at once.
using TileSums = float[CONSUMER_WARPS][MAX_ROWS * OUTS];
constexpr int TILES_AT_ONCE = 32 * CONSUMER_WARPS / (MAX_ROWS * OUTS);

// The dynamic shared memory of a block. Places are computed, not kept: registers are what attention has
// too few of.
struct BlockMemory {
    const StepParams& p;
    unsigned char* const start;

    __device__ __forceinline__ unsigned char* stage(int index) const {
        return start + index * STAGE_BYTES;
    }
    // For inputs of a product, [rows, input_stride], or for attention's tiles and queries, a part for each team.
    __device__ __forceinline__ unsigned char* region() const { return stage(p.num_stages); }
    // [rows, hidden]: the residual stream, which every block has.
    __device__ __forceinline__ unsigned char* stream() const { return region() + p.region_bytes; }
    // Of the next norm. [hidden]
    __device__ __forceinline__ unsigned char* norm_weight() const {
        return stream() + p.num_rows * p.hidden * 2;
    }
    // [2 * TILES_AT_ONCE]: while some are added, the warps leave the next.
    __device__ __forceinline__ TileSums& sums(int tile) const {
        return reinterpret_cast<TileSums*>(norm_weight() + p.hidden * 2)[tile];
    }
    // Sums of squares of each warp of a norm. [MAX_ROWS]
    __device__ __forceinline__ float* norm_sums(int row) const {
        return reinterpret_cast<float*>(&sums(2 * TILES_AT_ONCE)) + row * MAX_NORM_WARPS;
    }
    // The rows' slots and positions. [MAX_ROWS] each
    __device__ __forceinline__ unsigned* slots() const {
        return reinterpret_cast<unsigned*>(norm_sums(MAX_ROWS));
    }
    __device__ __forceinline__ unsigned* positions() const { return slots() + MAX_ROWS; }
    // Ends when a stage's weights are there.
    __device__ __forceinline__ ArrivalBarrier& full(int index) const {
        return reinterpret_cast<ArrivalBarrier*>(positions() + MAX_ROWS)[index];
    }
    // Ends when all warps have multiplied them.
    __device__ __forceinline__ ArrivalBarrier& empty(int index) const {
        return full(p.num_stages + index);
    }
    // [num_layers]
    __device__ __forceinline__ StepLayer* layers() const {
        return reinterpret_cast<StepLayer*>(&full(2 * p.num_stages));
    }
};

// The products of a layer in their order, and of the head.
enum Product { QKV, OUT, GATE_UP, DOWN, HEAD };

// A step is one loop over its products: code that is there once stays in the instruction caches.
__device__ __forceinline__ int num_products(const StepParams& p) { return 4 * p.num_layers + 1; }
__device__ __forceinline__ Product product_of(const StepParams& p, int index) {
    return index == 4 * p.num_layers ? HEAD : Product(index % 4);
}

struct ProductShape {
    int in, out;
    int parts;  // weights of this shape, one behind the other, whose tiles go together

    __device__ __forceinline__ int num_tiles() const { return (out + OUTS - 1) / OUTS; }
};

__device__ __forceinline__ ProductShape shape_of(const StepParams& p, Product product) {
    const int query_width = p.attention.num_heads * p.attention.head_dim;
    const int key_width = p.attention.num_kv_heads * p.attention.head_dim;
    switch (product) {
        case QKV: return {p.hidden, query_width + 2 * key_width, 1};
        case OUT: return {query_width, p.hidden, 1};
        case GATE_UP: return {p.hidden, p.intermediate, 2};
        case DOWN: return {p.intermediate, p.hidden, 1};
        default: return {p.hidden, int(p.vocab), 1};
    }
}

// The block's first tile of a product; the others lie a grid apart. They are dealt in turn, and the next
// product's deal goes on where this one ends: over a layer, blocks have as much to do, and to read.
__device__ __forceinline__ int first_tile(const StepParams& p, int index) {
    const int within = index % 4;  // the head is as the first of a layer behind the last
    int before = 0, of_layer = 0;
#pragma unroll
    for (int other = QKV; other <= DOWN; other++) {
        const int tiles = shape_of(p, Product(other)).num_tiles();
        of_layer += tiles;
        if (other < within) before += tiles;
    }
    const unsigned next = (unsigned(index / 4) * of_layer + before) % gridDim.x;
    return blockIdx.x >= next ? blockIdx.x - next : blockIdx.x - next + gridDim.x;
}

// The place in the ring of stages, which copies and products go through in the same order.
struct RingPlace {
    int both = 0;  // twice the stage, and the parity of the rounds

    __device__ __forceinline__ int stage() const { return both >> 1; }
    __device__ __forceinline__ unsigned parity() const { return both & 1; }
    __device__ __forceinline__ void advance(int num_stages) {
        both += 2;
        if (stage() == num_stages) both = (both & 1) ^ 1;
    }
};
