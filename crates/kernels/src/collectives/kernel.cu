// Sums and concatenations over GPUs that read each other's memory.
//
// All launches have as many blocks. Every rank has a buffer that all can reach, with two halves for
// rounds in turns. In a round each block of a rank writes its share to its own half, tells the same
// block of the other ranks, waits for theirs, and reads what they wrote. A half is written again two
// rounds later: by then all others have begun the round between, whose launch comes behind their last
// read of it.
#include "../cuda/device.cuh"

constexpr int MAX_RANKS = 8;
constexpr int MAX_BLOCKS = 32;
constexpr int MAX_THREADS = 512;

// At the start of a rank's buffer. Zero before the first round.
struct Signals {
    // In which round a block of another rank was there: [with its input, with its sums].
    unsigned arrived[2][MAX_RANKS][MAX_BLOCKS];
    // The last one that this rank's block was in.
    unsigned round[MAX_BLOCKS];
};

struct CollectiveParams {
    unsigned char* buffers[MAX_RANKS];  // of every rank: Signals and two halves
    // Of the ranks that are blocks of this launch, from `first_rank` on: on a GPU one.
    const unsigned char* x[MAX_RANKS];
    unsigned char* out[MAX_RANKS];
    unsigned* is_given_up;          // memory of the host: not zero, and nobody waits
    unsigned long long most_ns;     // that a block waits before it gives the group up
    unsigned long long first_half;  // behind the start of a buffer
    unsigned long long half_bytes;
    int first_rank;
    int num_ranks;
    int rows;      // 1 of a sum
    int columns;   // of a sum's row, or the most that a rank gives of one
    int width;     // of a row that is put together
    int in_parts;  // not 0: a rank sums a part alone, and gives it to the others
};

__device__ __forceinline__ Signals* signals(const CollectiveParams& p, int rank) {
    return reinterpret_cast<Signals*>(p.buffers[rank]);
}

__device__ __forceinline__ int rank_of_block(const CollectiveParams& p) {
    return p.first_rank + int(blockIdx.y);
}

constexpr unsigned SIGNAL_BYTES = 3 << 10;
static_assert(sizeof(Signals) <= SIGNAL_BYTES, "as cuda.rs lays a buffer out");

// The round after the last one of this block: the same in all ranks.
__device__ __forceinline__ unsigned next_round(const CollectiveParams& p) {
    return signals(p, rank_of_block(p))->round[blockIdx.x] + 1;
}

template <class T>
__device__ __forceinline__ T* half_of(const CollectiveParams& p, int rank, unsigned round) {
    return reinterpret_cast<T*>(p.buffers[rank] + p.first_half + round % 2 * p.half_bytes);
}

// The thread's words before it are seen by whoever reads this one.
__device__ __forceinline__ void tell(unsigned* word, unsigned value) {
#ifdef SCONCE_HOST
    *word = value;
#else
    asm volatile("st.release.sys.global.u32 [%0], %1;\n" ::"l"(word), "r"(value) : "memory");
#endif
}

// Whether a block was there in this round. No rank is ever more than one ahead.
__device__ __forceinline__ bool has_come(unsigned value, unsigned round) {
    return value - round <= 1u;
}

// Until it has come.
__device__ __forceinline__ void wait_for(const CollectiveParams& p, const unsigned* word,
                                         unsigned round) {
#ifdef SCONCE_HOST
    while (!has_come(*word, round) && *p.is_given_up == 0) {
        shim::wait_for_change(word, "another rank");
    }
#else
    unsigned long long begun = 0, now;
    for (unsigned polls = 1;; polls++) {
        unsigned value;
        asm volatile("ld.acquire.sys.global.u32 %0, [%1];\n" : "=r"(value) : "l"(word) : "memory");
        if (has_come(value, round)) return;
        if (polls % 256 != 0) continue;
        // A word of the host takes a microsecond or two.
        volatile unsigned* is_given_up = p.is_given_up;
        if (*is_given_up != 0) return;
        asm volatile("mov.u64 %0, %%globaltimer;\n" : "=l"(now));
        if (begun == 0) begun = now;
        if (now - begun > p.most_ns) *is_given_up = 1;
    }
#endif
}

// Waits for this block of all ranks. What they wrote before it can be read behind it.
__device__ __forceinline__ void meet(const CollectiveParams& p, int stage, unsigned round) {
    const int rank = rank_of_block(p), other = threadIdx.x;
    __syncthreads();
    if (other < p.num_ranks) {
        tell(&signals(p, other)->arrived[stage][rank][blockIdx.x], round);
        wait_for(p, &signals(p, rank)->arrived[stage][other][blockIdx.x], round);
    }
    __syncthreads();
}

__device__ __forceinline__ void end_round(const CollectiveParams& p, unsigned round) {
    __syncthreads();
    if (threadIdx.x == 0) signals(p, rank_of_block(p))->round[blockIdx.x] = round;
}

// Of what all ranks have at this place, in their order.
template <class T>
__device__ __forceinline__ Pack<T> sum_of_ranks(const CollectiveParams& p, unsigned round,
                                                int index) {
    Pack<T> of_rank[MAX_RANKS];
#pragma unroll
    for (int rank = 0; rank < MAX_RANKS; rank++) {
        if (rank < p.num_ranks) {
            of_rank[rank] = load_pack(half_of<T>(p, rank, round) + index * Pack<T>::LEN);
        }
    }
    float sums[Pack<T>::LEN];
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) sums[i] = to_float(of_rank[0].x[i]);
#pragma unroll
    for (int rank = 1; rank < MAX_RANKS; rank++) {
        if (rank < p.num_ranks) {
#pragma unroll
            for (int i = 0; i < Pack<T>::LEN; i++) sums[i] += to_float(of_rank[rank].x[i]);
        }
    }
    Pack<T> sum;
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) sum.x[i] = from_float<T>(sums[i]);
    return sum;
}

// A sweep is what all threads of a rank take at once. If a sum is computed in parts, a block's share of a
// sweep is one rank's to sum, in turns: block after block, and sweep after sweep.
template <class T>
__device__ __forceinline__ void sum(const CollectiveParams& p) {
    const T* x = reinterpret_cast<const T*>(p.x[blockIdx.y]);
    T* out = reinterpret_cast<T*>(p.out[blockIdx.y]);
    const int rank = rank_of_block(p), len = p.columns;
    const int packs = (len + Pack<T>::LEN - 1) / Pack<T>::LEN;
    const int first = blockIdx.x * blockDim.x + threadIdx.x, sweep = gridDim.x * blockDim.x;
    const unsigned round = next_round(p);
    T* mine = half_of<T>(p, rank, round);
    const bool x_is_aligned = is_aligned_16(x), out_is_aligned = is_aligned_16(out);
    for (int index = first; index < packs; index += sweep) {
        store_pack(mine + index * Pack<T>::LEN, load_row_pack(x, index, len, x_is_aligned));
    }
    meet(p, 0, round);
    if (p.in_parts) {
        const int turn = (rank + p.num_ranks - int(blockIdx.x) % p.num_ranks) % p.num_ranks;
        for (int index = first + turn * sweep; index < packs; index += p.num_ranks * sweep) {
            // Nobody else reads this of what the rank has brought.
            store_pack(mine + index * Pack<T>::LEN, sum_of_ranks<T>(p, round, index));
        }
        meet(p, 1, round);
        for (int index = first, owner = blockIdx.x; index < packs; index += sweep, owner++) {
            const T* sums = half_of<T>(p, owner % p.num_ranks, round);
            store_row_pack(out, index, len, out_is_aligned, load_pack(sums + index * Pack<T>::LEN));
        }
    } else {
        for (int index = first; index < packs; index += sweep) {
            store_row_pack(out, index, len, out_is_aligned, sum_of_ranks<T>(p, round, index));
        }
    }
    end_round(p, round);
}

__device__ __forceinline__ int columns_of(const CollectiveParams& p, int rank) {
    const int left = p.width - rank * p.columns;
    return left < 0 ? 0 : left < p.columns ? left : p.columns;
}

__device__ __forceinline__ void gather(const CollectiveParams& p) {
    const float* x = reinterpret_cast<const float*>(p.x[blockIdx.y]);
    float* out = reinterpret_cast<float*>(p.out[blockIdx.y]);
    constexpr int LEN = Pack<float>::LEN;
    const int rank = rank_of_block(p), own = columns_of(p, rank);
    const int packs_of_row = (p.columns + LEN - 1) / LEN, packs = p.rows * packs_of_row;
    const int first = blockIdx.x * blockDim.x + threadIdx.x, sweep = gridDim.x * blockDim.x;
    const unsigned round = next_round(p);
    float* mine = half_of<float>(p, rank, round);
    for (int index = first; index < packs; index += sweep) {
        const float* row = x + size_t(index / packs_of_row) * own;
        store_pack(mine + index * LEN,
                   load_row_pack(row, index % packs_of_row, own, is_aligned_16(row)));
    }
    meet(p, 0, round);
    for (int other = 0; other < p.num_ranks; other++) {
        const float* theirs = half_of<float>(p, other, round);
        for (int index = first; index < packs; index += sweep) {
            float* row = out + size_t(index / packs_of_row) * p.width + other * p.columns;
            store_row_pack(row, index % packs_of_row, columns_of(p, other), is_aligned_16(row),
                           load_pack(theirs + index * LEN));
        }
    }
    end_round(p, round);
}

KERNEL(all_reduce_f32, CollectiveParams, MAX_THREADS) { sum<float>(p); }
KERNEL(all_reduce_f16, CollectiveParams, MAX_THREADS) { sum<f16>(p); }
KERNEL(all_reduce_bf16, CollectiveParams, MAX_THREADS) { sum<bf16>(p); }
KERNEL(all_gather_f32, CollectiveParams, MAX_THREADS) { gather(p); }
