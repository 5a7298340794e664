// A whole decode step in one launch: embedding, layers, head. Blocks stay for all of it and wait for each
// other five times a layer; what each is to multiply is known from the start, so that its weights are
// under way while it waits.
//
// Bound: reading the weights. A layer in launches of its own leaves the memory idle at every end: until
// the last block is done, and from the first request to full speed, some 30 us of the 137 that a layer of
// Llama-3.1-8B takes at one row on an H200. Here 100 KiB and more a multiprocessor are asked for ahead.
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
    TileProduct<T> product;
    const int thread = threadIdx.x, lane = threadIdx.x % 32;

    __device__ __forceinline__ StepConsumer(const StepParams& p, const BlockMemory& memory)
        : p(p), memory(memory), product(p, memory) {}

    __device__ __forceinline__ void run() {
        SHARED(units, SplitCursor<Shape>);  // of every layer
        const SplitCursor<Shape> found(p.attention);
        if (thread == 0) units = found;
        embed();
        for (int i = 0; i < p.num_layers; i++) {
            const StepLayer& layer = memory.layers()[i];
            const unsigned waits = 5 * i;
            normalise(i == 0 ? nullptr : branch(1), layer.attention_norm);
            multiply(i, QKV, layer.qkv_bias, static_cast<T*>(p.qkv));
            wait_for_all(waits + 1);
            attend(layer, units);
            wait_for_all(waits + 2);
            read_inputs(p.attention.out, shape_of(p, OUT).in);
            multiply(i, OUT, layer.out_bias, branch(0));
            wait_for_all(waits + 3);
            normalise(branch(0), layer.mlp_norm);
            if (p.is_gelu) {
                multiply_gated(i, layer.gate_up_bias, GeluTanh());
            } else {
                multiply_gated(i, layer.gate_up_bias, Silu());
            }
            wait_for_all(waits + 4);
            read_inputs(p.gated, p.intermediate);
            multiply(i, DOWN, layer.down_bias, branch(1));
            wait_for_all(waits + 5);
        }
        normalise(branch(1), p.norm);
        multiply(p.num_layers, HEAD, nullptr, p.logits);
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

    // Adds a branch, if there is one, to the stream, and leaves the normalised sum as inputs. The sum of
    // squares is that of rms_norm, as if its threads were here.
    __device__ __forceinline__ void normalise(const T* branch, const void* weight) {
        constexpr int LEN = Pack<T>::LEN;
        const int num_packs = p.hidden / LEN;
        for (int row = 0; row < p.num_rows; row++) {
            Pack<T>* const stream = stream_row(row);
            for (int as = thread; as < p.norm_threads; as += CONSUMERS) {
                float sum = 0.0f;
                for (int i = as; i < num_packs; i += p.norm_threads) {
                    Pack<T> pack = stream[i];
                    if (branch != nullptr) {
                        const T* from = branch + static_cast<size_t>(row) * p.hidden + i * LEN;
                        pack = rounded_sum(load_pack(from), pack);
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
                const Pack<T> scale = load_constant_pack(static_cast<const T*>(weight) + i * LEN);
                store_pack(input_row(row, p.hidden) + i * LEN,
                           normed_pack(stream_row(row)[i], factor, scale));
            }
        }
        sync();
    }

    // Inputs that other blocks wrote. [rows, len]
    __device__ __forceinline__ void read_inputs(const void* from, int len) {
        constexpr int LEN = Pack<T>::LEN;
        for (int row = 0; row < p.num_rows; row++) {
            const T* of_row = static_cast<const T*>(from) + static_cast<size_t>(row) * len;
            for (int i = thread; i < len / LEN; i += CONSUMERS) {
                store_pack(input_row(row, len) + i * LEN, load_pack(of_row + i * LEN));
            }
        }
        sync();
    }

    // The block's tiles of y = x W^T + b, [rows, out].
    template <class Out>
    __device__ __forceinline__ void multiply(int layer, Product which, const void* bias, Out* y) {
        const ProductShape shape = shape_of(p, which);
        for (int tile = first_tile(p, layer, which); tile < shape.num_tiles(); tile += gridDim.x) {
            product.multiply(shape.in, memory.sums(0));
            sync();
            const int row = thread / OUTS, feature = OUTS * tile + thread % OUTS;
            if (row < p.num_rows && feature < shape.out) {
                const float sum = with_bias(memory.sums(0), bias, feature);
                y[static_cast<size_t>(row) * shape.out + feature] = from_float<Out>(sum);
            }
            sync();
        }
    }

    // The same of the MLP's gate and up, and the activation.
    template <class F>
    __device__ __forceinline__ void multiply_gated(int layer, const void* bias, F activate) {
        const int out = p.intermediate, num_tiles = shape_of(p, GATE_UP).num_tiles();
        for (int tile = first_tile(p, layer, GATE_UP); tile < num_tiles; tile += gridDim.x) {
            product.multiply(p.hidden, memory.sums(0));
            product.multiply(p.hidden, memory.sums(1));
            sync();
            const int row = thread / OUTS, feature = OUTS * tile + thread % OUTS;
            if (row < p.num_rows && feature < out) {
                const float gate = round_to<T>(with_bias(memory.sums(0), bias, feature));
                const float up = round_to<T>(with_bias(memory.sums(1), bias, out + feature));
                static_cast<T*>(p.gated)[static_cast<size_t>(row) * out + feature] =
                    from_float<T>(activate(gate) * up);
            }
            sync();
        }
    }

    // Of the thread's output feature and row.
    __device__ __forceinline__ float with_bias(const TileSums& sums, const void* bias, int feature) const {
        const float sum = TileProduct<T>::sum_of(sums, thread % OUTS, thread / OUTS);
        return bias == nullptr ? sum : sum + to_float(static_cast<const T*>(bias)[feature]);
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
            init_barrier(memory.full(i), 1);
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
    KERNEL(decode_step_##name##_##head_dim, StepParams, CONSUMERS + 32, 1) {       \
        run_step<dtype, cache, head_dim>(p);                                       \
    }
#define STEPS(name, dtype, cache)   \
    STEP(name, dtype, cache, 64)    \
    STEP(name, dtype, cache, 128)

STEPS(bf16, bf16, bf16)
STEPS(f16, f16, f16)
STEPS(bf16_e4m3, bf16, e4m3)
