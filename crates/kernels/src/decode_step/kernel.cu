// A whole decode step in one launch: embedding, layers, head. Blocks stay for all of it and wait for each
// other five times a layer; what each is to multiply is known from the start, so that its weights are
// under way while it waits.
//
// Bound: reading the weights. A layer in launches of its own leaves the memory idle at every end: until
// the last block is done, and from the first request to full speed, some 30 us of the 137 that a layer of
// Llama-3.1-8B takes at one row on an H200. Here 68 KiB and more a multiprocessor are asked for ahead.
//
// Every result has the bits of the kernels of single operations, in whose order it is summed.
#include "params.cuh"

#if HAS_BULK_COPIES
#include "../gated_activation/gate.cuh"
#include "attend.cuh"
#include "weights.cuh"

// The warps that compute.
template <class T, class Cache, int HEAD_DIM>
struct StepConsumer {
    using Shape = SplitShape<T, Cache, HEAD_DIM, 1>;
    static constexpr unsigned BARRIER = 1;

    const StepParams& p;
    const BlockMemory& memory;
    TileProduct<T> tiles;
    const int thread = threadIdx.x, lane = threadIdx.x % 32;

    __device__ __forceinline__ StepConsumer(const StepParams& p, const BlockMemory& memory)
        : p(p), memory(memory), tiles(p, memory) {}

    __device__ __forceinline__ void run() {
        SHARED(units, SplitCursor<Shape>);  // of every layer
        const SplitCursor<Shape> found(p.attention);
        if (thread == 0) units = found;
        embed();
#pragma unroll 1
        for (int i = 0; i < num_products(p); i++) {
            const Product product = product_of(p, i);
            prepare(i, product);
            multiply(i, product);
            if (product == HEAD) break;
            // Five waits a layer, of which two are about attention.
            const unsigned number = i + i / 4 + (product == QKV ? 1 : 2);
            wait_for_all(number);
            if (product == QKV) {
                attend(memory.layers()[i / 4], units);
                wait_for_all(number + 1);
            }
        }
        if (thread == 0) leave_grid(p.arrivals, 5 * p.num_layers + 1);
    }

private:
    __device__ __forceinline__ void sync() const { team_barrier(BARRIER, CONSUMERS); }

    // Until all blocks are here, for the time `number`, and what they wrote can be read.
    __device__ __forceinline__ void wait_for_all(unsigned number) const {
        sync();
        if (thread == 0) wait_for_grid(p.arrivals, number);
        sync();
    }

    // Of attention or of the MLP. [rows, hidden]
    __device__ __forceinline__ T* branch(int index) const {
        return static_cast<T*>(p.branches) + static_cast<size_t>(index) * p.num_rows * p.hidden;
    }

    __device__ __forceinline__ Pack<T>* stream_row(int row) const {
        return reinterpret_cast<Pack<T>*>(memory.stream()) +
               static_cast<size_t>(row) * (p.hidden / Pack<T>::LEN);
    }

    __device__ __forceinline__ T* input_row(int row, int len) const {
        return reinterpret_cast<T*>(memory.region()) + row * input_stride(len);
    }

    // The inputs of a product, in shared memory: what other blocks wrote, or the norm of the stream behind
    // its sum with that.
    __device__ __forceinline__ void prepare(int index, Product product) {
        const void* const others = product == OUT    ? p.attention.out
                                   : product == DOWN ? p.gated
                                                     : branch(product == GATE_UP ? 0 : 1);
        const bool is_normed = product != OUT && product != DOWN;
        const int len = shape_of(p, product).in;
        // All in one go: nothing here is as long as the way to the L2 cache.
        for (int row = 0; row < p.num_rows && index > 0; row++) {
            copy_row(row, static_cast<const T*>(others) + static_cast<size_t>(row) * len, len);
        }
        if (is_normed) copy_row(p.num_rows, static_cast<const T*>(norm_of(index, product)), len);
        commit_copies();
        wait_copies<0>();
        sync();
        if (is_normed) normalise(index > 0);
    }

    __device__ __forceinline__ const void* norm_of(int index, Product product) const {
        if (product == HEAD) return p.norm;
        const StepLayer& layer = memory.layers()[index / 4];
        return product == QKV ? layer.attention_norm : layer.mlp_norm;
    }

    __device__ __forceinline__ void copy_row(int row, const T* from, int len) const {
        constexpr int LEN = Pack<T>::LEN;
        for (int i = LEN * thread; i < len; i += LEN * CONSUMERS) {
            copy_async_16(input_row(row, len) + i, from + i);
        }
    }

    // The stream begins with the tokens' embeddings.
    __device__ __forceinline__ void embed() {
        const int num_packs = p.hidden / Pack<T>::LEN;
        for (int row = 0; row < p.num_rows; row++) {
            const unsigned id = p.ids[row];
            const T* from = static_cast<const T*>(p.embedding) + static_cast<size_t>(id) * p.hidden;
            for (int i = thread; i < num_packs; i += CONSUMERS) {
                stream_row(row)[i] =
                    id < p.vocab ? load_constant_pack(from + i * Pack<T>::LEN) : Pack<T>{};
            }
        }
        sync();
    }

    // Adds the inputs, if there are any, to the stream, and puts the normalised sum in their place. The
    // norm's weight lies behind them. The sum of squares is that of rms_norm, as if its threads were here.
    __device__ __forceinline__ void normalise(bool adds) const {
        constexpr int LEN = Pack<T>::LEN;
        const int num_packs = p.hidden / LEN;
        for (int row = 0; row < p.num_rows; row++) {
            Pack<T>* const stream = stream_row(row);
            for (int as = thread; as < p.norm_threads; as += CONSUMERS) {
                float sum = 0.0f;
                for (int i = as; i < num_packs; i += p.norm_threads) {
                    Pack<T> pack = stream[i];
                    if (adds) {
                        pack = rounded_sum(load_pack(input_row(row, p.hidden) + i * LEN), pack);
                        stream[i] = pack;
                    }
                    sum = sum_of_squares(pack, sum);
                }
                sum = warp_reduce(sum, Sum());
                if (lane == 0) memory.norm_sums(row)[as / 32] = sum;
            }
        }
        sync();
        for (int row = 0; row < p.num_rows; row++) {
            float sum = memory.norm_sums(row)[0];
            for (int i = 1; i < p.norm_threads / 32; i++) sum += memory.norm_sums(row)[i];
            const float factor = norm_factor(sum, p.hidden, p.norm_eps);
            for (int i = thread; i < num_packs; i += CONSUMERS) {
                const Pack<T> scale = load_pack(input_row(p.num_rows, p.hidden) + i * LEN);
                store_pack(input_row(row, p.hidden) + i * LEN,
                           normed_pack(stream_row(row)[i], factor, scale));
            }
        }
        sync();
    }

    // The block's tiles of a product: y = x W^T + b, [rows, out].
    __device__ __forceinline__ void multiply(int index, Product product) {
        const ProductShape shape = shape_of(p, product);
        const T* const bias = product == HEAD ? nullptr : bias_of(memory.layers()[index / 4], product);
        T* const y = static_cast<T*>(product == QKV ? p.qkv : branch(product == OUT ? 0 : 1));
#pragma unroll 1
        for (int tile = first_tile(p, index); tile < shape.num_tiles(); tile += gridDim.x) {
#pragma unroll 1
            for (int part = 0; part < shape.parts; part++) tiles.multiply(shape.in, memory.sums(part));
            sync();
            const int row = thread / OUTS, feature = OUTS * tile + thread % OUTS;
            if (row < p.num_rows && feature < shape.out) {
                const size_t at = static_cast<size_t>(row) * shape.out + feature;
                const float sum = sum_of(0, bias, feature);
                if (product == HEAD) {
                    p.logits[at] = sum;
                } else if (product == GATE_UP) {
                    const float up = round_to<T>(sum_of(1, bias, shape.out + feature));
                    static_cast<T*>(p.gated)[at] = from_float<T>(activated(round_to<T>(sum)) * up);
                } else {
                    y[at] = from_float<T>(sum);
                }
            }
            sync();
        }
    }

    static __device__ __forceinline__ const T* bias_of(const StepLayer& layer, Product product) {
        return static_cast<const T*>(product == QKV       ? layer.qkv_bias
                                     : product == OUT     ? layer.out_bias
                                     : product == GATE_UP ? layer.gate_up_bias
                                                          : layer.down_bias);
    }

    // Of the thread's output feature and row of a tile, with the bias.
    __device__ __forceinline__ float sum_of(int part, const T* bias, int feature) const {
        const float sum = TileProduct<T>::sum_of(memory.sums(part), thread % OUTS, thread / OUTS);
        return bias == nullptr ? sum : sum + to_float(bias[feature]);
    }

    __device__ __forceinline__ float activated(float x) const {
        return p.is_gelu ? GeluTanh()(x) : Silu()(x);
    }

    // Of the block's units of keys: by the first warps, into p.attention.out.
    __device__ __forceinline__ void attend(const StepLayer& layer, const SplitCursor<Shape>& units) {
        if (thread >= Shape::THREADS || units.left == 0) return;
        PagedAttentionParams attention = p.attention;
        attention.key = layer.key;
        attention.value = layer.value;
        attend_splits<T, Shape>(attention, AttentionTeam<T, Shape>{p, memory, layer}, units,
                                memory.region());
    }
};

template <class T, class Cache, int HEAD_DIM>
__device__ __forceinline__ void run_step(const StepParams& p) {
    DYNAMIC_SHARED(shared);
    const BlockMemory memory{p, shared};
    if (threadIdx.x == 0) {
        for (int i = 0; i < p.num_stages; i++) {
            init_barrier(memory.full(i), FEED_WARPS);
            init_barrier(memory.empty(i), CONSUMER_WARPS);
        }
    }
    if (int(threadIdx.x) < p.num_rows) {
        memory.slots()[threadIdx.x] = p.slots[threadIdx.x];
        memory.positions()[threadIdx.x] = p.positions[threadIdx.x];
    }
    const int num_words = p.num_layers * int(sizeof(StepLayer) / sizeof(uint64_t));
    for (int i = threadIdx.x; i < num_words; i += blockDim.x) {
        reinterpret_cast<uint64_t*>(memory.layers())[i] =
            __ldg(reinterpret_cast<const unsigned long long*>(p.layers) + i);
    }
    __syncthreads();
    if (threadIdx.x < CONSUMERS) {
        StepConsumer<T, Cache, HEAD_DIM>(p, memory).run();
    } else {
        WeightFeed<T>(p, memory).run();
    }
}

#else

// The host sees for which devices a kernel was compiled, and does not launch this.
template <class T, class Cache, int HEAD_DIM>
__device__ __forceinline__ void run_step(const StepParams&) {
    __trap();
}

#endif

// Grid: up to a block a multiprocessor, all there at once (a cooperative launch).
#define STEP(name, dtype, cache, head_dim)                                         \
    KERNEL(decode_step_##name##_##head_dim, StepParams, THREADS, 1) {              \
        run_step<dtype, cache, head_dim>(p);                                       \
    }
#define STEPS(name, dtype, cache)   \
    STEP(name, dtype, cache, 64)    \
    STEP(name, dtype, cache, 128)

STEPS(bf16, bf16, bf16)
STEPS(f16, f16, f16)
STEPS(bf16_e4m3, bf16, e4m3)
