// A whole decode step in one launch: embedding, layers, head. Blocks stay for all of it and wait for each
// other five times a layer; what each is to multiply is known from the start, so that its weights are
// under way while it waits.
//
// Bound: reading the weights. A layer in launches of its own leaves the memory idle at every end: until
// the last block is done, and from the first request to full speed, some 30 us of the 137 that a layer of
// Llama-3.1-8B takes at one row on an H200. Here 50 KiB and more a multiprocessor are asked for ahead, and
// a layer takes 114 us. What runs once a layer comes from beyond the instruction caches: it is slow by its
// length, so that loops are not unrolled and every part is there once.
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
    using Shape = SplitShape<T, Cache, HEAD_DIM, 1, true>;
    static constexpr int TEAMS = Shape::TEAMS;
    static_assert(TEAMS * Shape::THREADS == CONSUMERS, "all warps attend");
    static constexpr unsigned BARRIER = 1;
    using Wait = GridWait<BARRIER, CONSUMERS>;

    const StepParams& p;
    const BlockMemory& memory;
    TileProduct<T> tiles;
    const int thread = threadIdx.x, lane = threadIdx.x % 32;

    __device__ __forceinline__ StepConsumer(const StepParams& p, const BlockMemory& memory)
        : p(p), memory(memory), tiles(p, memory) {}

    __device__ __forceinline__ void run() {
        SHARED(units, SplitCursor<Shape>[TEAMS]);  // of every layer
        const int team = thread / Shape::THREADS;
        const SplitCursor<Shape> found(p.attention, TEAMS * blockIdx.x + team, TEAMS * gridDim.x);
        if (thread % Shape::THREADS == 0) units[team] = found;
        embed();
#pragma unroll 1
        for (int i = 0; i < num_products(p); i++) {
            const Product product = product_of(p, i);
            prepare(i, product);
            multiply(i, product);
            if (product == HEAD) break;
            // Five waits a layer, of which two are about attention.
            const Wait wait{p.arrivals, unsigned(i + i / 4 + (product == QKV ? 1 : 2))};
            wait.arrive();
            if (product == QKV || product == DOWN) ask_for_norm(product == QKV ? i + 2 : i + 1);
            if (product == QKV) {
                attend(i / 4, units[thread / Shape::THREADS], wait);
                const Wait next{p.arrivals, wait.number + 1};
                next.arrive();
                next.wait();
            } else {
                wait.wait();
            }
        }
        if (thread == 0) leave_grid(p.arrivals, 5 * p.num_layers + 1);
    }

private:
    __device__ __forceinline__ void sync() const { team_barrier(BARRIER, CONSUMERS); }

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
            copy_row(input_row(row, len), static_cast<const T*>(others) + static_cast<size_t>(row) * len, len);
        }
        commit_copies();
        wait_copies<0>();
        sync();
        if (is_normed) normalise(index > 0);
    }

    // The weight of a product's norm, before its inputs are there.
    __device__ __forceinline__ void ask_for_norm(int index) const {
        const Product product = product_of(p, index);
        const void* norm = p.norm;
        if (product != HEAD) {
            const StepLayer& layer = memory.layers()[index / 4];
            norm = product == QKV ? layer.attention_norm : layer.mlp_norm;
        }
        copy_row(reinterpret_cast<T*>(memory.norm_weight()), static_cast<const T*>(norm), p.hidden);
    }

    __device__ __forceinline__ void copy_row(T* to, const T* from, int len) const {
        constexpr int LEN = Pack<T>::LEN;
#pragma unroll 1
        for (int i = LEN * thread; i < len; i += LEN * CONSUMERS) copy_async_16(to + i, from + i);
    }

    // The stream begins with the tokens' embeddings.
    __device__ __forceinline__ void embed() {
        const int num_packs = p.hidden / Pack<T>::LEN;
        for (int row = 0; row < p.num_rows; row++) {
            const unsigned id = p.ids[row];
            const T* from = static_cast<const T*>(p.embedding) + static_cast<size_t>(id) * p.hidden;
#pragma unroll 1
            for (int i = thread; i < num_packs; i += CONSUMERS) {
                stream_row(row)[i] =
                    id < p.vocab ? load_constant_pack(from + i * Pack<T>::LEN) : Pack<T>{};
            }
        }
        ask_for_norm(0);
        sync();
    }

    // Adds the inputs, if there are any, to the stream, and puts the normalised sum in their place. The sum
    // of squares is that of rms_norm, whose warps are dealt to those that are here. Two packs at once, because
    // nothing else hides what a load takes.
    __device__ __forceinline__ void normalise(bool adds) const {
        constexpr int LEN = Pack<T>::LEN;
        const int warp = thread / 32, num_packs = p.hidden / LEN, norm_warps = p.norm_threads / 32;
        const Divisor by_norm_warps(norm_warps);
#pragma unroll 1
        for (int i = warp; i < p.num_rows * norm_warps; i += CONSUMER_WARPS) {
            const int row = by_norm_warps.quotient(i), as = i - row * norm_warps;
            float sum = 0.0f;
#pragma unroll 1
            for (int at = 32 * as + lane; at < num_packs; at += 2 * p.norm_threads) {
                const bool has_second = at + p.norm_threads < num_packs;
                Pack<T>* const stream = stream_row(row) + at;
                Pack<T> packs[2] = {stream[0], has_second ? stream[p.norm_threads] : Pack<T>{}};
                if (adds) {
                    const T* const input = input_row(row, p.hidden) + at * LEN;
                    const Pack<T> second = has_second ? load_pack(input + p.norm_threads * LEN) : Pack<T>{};
                    packs[0] = rounded_sum(load_pack(input), packs[0]);
                    packs[1] = rounded_sum(second, packs[1]);
                    stream[0] = packs[0];
                    if (has_second) stream[p.norm_threads] = packs[1];
                }
                sum = sum_of_squares(packs[1], sum_of_squares(packs[0], sum));
            }
            sum = warp_reduce(sum, Sum());
            if (lane == 0) memory.norm_sums(row)[as] = sum;
        }
        sync();
        if (warp < p.num_rows && lane == 0) {
            const float* const sums = memory.norm_sums(warp);
            float sum = sums[0];
#pragma unroll 4
            for (int i = 1; i < norm_warps; i++) sum += sums[i];
            memory.norm_sums(warp)[0] = norm_factor(sum, p.hidden, p.norm_eps);
        }
        sync();
        const T* const weight = reinterpret_cast<const T*>(memory.norm_weight());
        const int row_warps = (num_packs + 31) / 32, end = p.num_rows * row_warps;
        const Divisor by_row_warps(row_warps);
#pragma unroll 1
        for (int i = warp; i < end; i += 2 * CONSUMER_WARPS) {
            Pack<T> packs[2];
            int rows[2], places[2];
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int of = min(i + j * CONSUMER_WARPS, end - 1);  // some are done twice
                rows[j] = by_row_warps.quotient(of);
                places[j] = 32 * (of - rows[j] * row_warps) + lane;
                const int at = min(places[j], num_packs - 1);
                packs[j] = normed_pack(stream_row(rows[j])[at], memory.norm_sums(rows[j])[0],
                                       load_pack(weight + at * LEN));
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                if (places[j] < num_packs) store_pack(input_row(rows[j], p.hidden) + places[j] * LEN, packs[j]);
            }
        }
        sync();
    }

    // The block's tiles of a product: y = x W^T + b, [rows, out].
    __device__ __forceinline__ void multiply(int index, Product product) {
        const ProductShape shape = shape_of(p, product);
        const int num_tiles = shape.num_tiles();
        int first = first_tile(p, index), buffer = 0;
        while (first < num_tiles) {
            // While these are added, the warps leave those of the other buffer: they cannot be two ahead.
            TileSums* const sums = &memory.sums(buffer);
            int left = 0, tile = first;
#pragma unroll 1
            for (; left < TILES_AT_ONCE && tile < num_tiles; tile += gridDim.x) {
#pragma unroll 1
                for (int part = 0; part < shape.parts; part++) tiles.multiply(shape.in, sums[left++]);
            }
            sync();
            add_tiles(index, product, first, left, sums);
            first = tile;
            buffer ^= TILES_AT_ONCE;
        }
    }

    // Adds the warps' sums of tiles, of which the first is `first` and the others lie a grid apart: an output
    // a thread.
    __device__ __forceinline__ void add_tiles(int index, Product product, int first, int num_left,
                                              const TileSums* sums) const {
        const ProductShape shape = shape_of(p, product);
        const int which = thread / (MAX_ROWS * OUTS), at = thread % (MAX_ROWS * OUTS);
        const int row = at / OUTS, feature = OUTS * (first + which * int(gridDim.x)) + at % OUTS;
        const int of_tile = which * shape.parts;
        if (of_tile >= num_left || row >= p.num_rows || feature >= shape.out) return;
        const T* const bias = product == HEAD ? nullptr : bias_of(memory.layers()[index / 4], product);
        const size_t to = static_cast<size_t>(row) * shape.out + feature;
        const float sum = sum_of(sums[of_tile], at, bias, feature);
        if (product == HEAD) {
            p.logits[to] = sum;
        } else if (product == GATE_UP) {
            const float up = round_to<T>(sum_of(sums[of_tile + 1], at, bias, shape.out + feature));
            static_cast<T*>(p.gated)[to] = from_float<T>(activated(round_to<T>(sum)) * up);
        } else {
            T* const y = product == QKV ? static_cast<T*>(p.qkv) : branch(product == OUT ? 0 : 1);
            y[to] = from_float<T>(sum);
        }
    }

    static __device__ __forceinline__ const T* bias_of(const StepLayer& layer, Product product) {
        return static_cast<const T*>(product == QKV       ? layer.qkv_bias
                                     : product == OUT     ? layer.out_bias
                                     : product == GATE_UP ? layer.gate_up_bias
                                                          : layer.down_bias);
    }

    // Of an output of a tile, with the bias.
    static __device__ __forceinline__ float sum_of(const TileSums& sums, int at, const T* bias, int feature) {
        const float sum = TileProduct<T>::sum_of(sums, at);
        return bias == nullptr ? sum : sum + to_float(bias[feature]);
    }

    __device__ __forceinline__ float activated(float x) const {
        return p.is_gelu ? GeluTanh()(x) : Silu()(x);
    }

    // Of the team's units of keys, into p.attention.out. `wait` is for the queries, keys and values of all
    // blocks, and keys of earlier steps are asked for before.
    __device__ __forceinline__ void attend(int index, const SplitCursor<Shape>& units, const Wait& wait) const {
        if (units.left == 0) {
            wait.wait();
            return;
        }
        const StepLayer& layer = memory.layers()[index];
        PagedAttentionParams attention = p.attention;
        attention.key = layer.key;
        attention.value = layer.value;
        const AttentionTeam<T, Shape, Wait> team{p, memory, layer, wait};
        attend_splits<T, Shape>(attention, team, units, team.tiles());
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
        take_registers<232>();
        StepConsumer<T, Cache, HEAD_DIM>(p, memory).run();
    } else {
        leave_registers<40>();
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
