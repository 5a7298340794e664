// Norm and rotation of query and key heads, and the write of keys and values into the paged cache, in
// one pass over the packed rows. A group of lanes takes one head of one token: each lane the packs of
// its index from both halves of the head, which rotate with each other.
#include "../cuda/device.cuh"

struct RopeParams {
    const void* qkv;            // [tokens, (heads + 2 * kv_heads) * head_dim]
    void* q;                    // [tokens, heads, head_dim]
    void* key;                  // [num_blocks, kv_heads, block_size, head_dim]
    void* value;                // as key
    const void* q_norm;         // [head_dim], or null
    const void* k_norm;         // [head_dim], or null
    const float* cosine;        // [max_pos, head_dim / 2]
    const float* sine;          // as cosine
    const unsigned* positions;  // [tokens]
    const unsigned* slots;      // [tokens]
    int num_heads;
    int num_kv_heads;
    int head_dim;
    int block_size;
    int group;  // lanes of a head: a power of two, at most 32
    unsigned max_pos;
    unsigned num_slots;
    float norm_eps;
};

constexpr int MAX_THREADS = 256;

// A head's halves: the lane's pack of each.
template <class T>
struct Halves {
    Pack<T> x[2];
};

template <class T>
__device__ __forceinline__ float lane_sum_of_squares(const Halves<T>& head) {
    float sum = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int i = 0; i < Pack<T>::LEN; i++) {
            const float x = to_float(head.x[half].x[i]);
            sum = fmaf(x, x, sum);
        }
    }
    return sum;
}

// Sum over the lanes of a group, whose size is known when the kernel runs.
__device__ __forceinline__ float group_sum(float value, int group) {
    for (int bits = group / 2; bits > 0; bits /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, bits);
    }
    return value;
}

// Angles of the lane's pack: elements `start` to `start + LEN` of `len`, zeros behind.
template <int LEN>
__device__ __forceinline__ void load_angles(float (&out)[LEN], const float* row, int start,
                                            int len) {
    if (is_aligned_16(row) && start + LEN <= len) {
#pragma unroll
        for (int i = 0; i < LEN; i += 4) {
            const float4 x = __ldg(reinterpret_cast<const float4*>(row + start + i));
            out[i] = x.x, out[i + 1] = x.y, out[i + 2] = x.z, out[i + 3] = x.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < LEN; i++) out[i] = start + i < len ? row[start + i] : 0.0f;
    }
}

template <class T>
__device__ __forceinline__ void norm_head(Halves<T>& head, const T* weight, float factor, int lane,
                                          int half_dim) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const T* row = weight + half * half_dim;
        const Pack<T> scale = load_row_pack(row, lane, half_dim, is_aligned_16(row));
#pragma unroll
        for (int i = 0; i < Pack<T>::LEN; i++) {
            const float rounded = round_to<T>(to_float(head.x[half].x[i]) * factor);
            head.x[half].x[i] = from_float<T>(rounded * to_float(scale.x[i]));
        }
    }
}

template <class T>
__device__ __forceinline__ void rotate_head(Halves<T>& head, const RopeParams& p,
                                            unsigned position, int lane, int half_dim) {
    constexpr int LEN = Pack<T>::LEN;
    float cosine[LEN], sine[LEN];
    const size_t row = size_t(position) * half_dim;
    load_angles(cosine, p.cosine + row, lane * LEN, half_dim);
    load_angles(sine, p.sine + row, lane * LEN, half_dim);
#pragma unroll
    for (int i = 0; i < LEN; i++) {
        const float a = to_float(head.x[0].x[i]), b = to_float(head.x[1].x[i]);
        head.x[0].x[i] = from_float<T>(a * cosine[i] - b * sine[i]);
        head.x[1].x[i] = from_float<T>(b * cosine[i] + a * sine[i]);
    }
}

template <class T>
__device__ __forceinline__ void store_head(T* out, const Halves<T>& head, int lane, int half_dim) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        T* row = out + half * half_dim;
        store_row_pack(row, lane, half_dim, is_aligned_16(row), head.x[half]);
    }
}

// Into a cache of fewer bits: half or a quarter of 16 bytes at once.
template <class Cache, class T>
__device__ __forceinline__ void store_narrow_head(Cache* out, const Halves<T>& head, int lane,
                                                  int half_dim) {
    constexpr int LEN = Pack<T>::LEN;
    struct alignas(LEN * sizeof(Cache)) Vector {
        Cache x[LEN];
    };
    const int start = lane * LEN;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        Cache* row = out + half * half_dim + start;
        Vector narrow;
#pragma unroll
        for (int i = 0; i < LEN; i++) narrow.x[i] = from_float<Cache>(to_float(head.x[half].x[i]));
        if (reinterpret_cast<uintptr_t>(row) % sizeof(Vector) == 0 && start + LEN <= half_dim) {
            *reinterpret_cast<Vector*>(row) = narrow;
        } else {
#pragma unroll
            for (int i = 0; i < LEN; i++) {
                if (start + i < half_dim) row[i] = narrow.x[i];
            }
        }
    }
}

// Blocks of x are tokens, those of y groups of heads.
template <class T, class Cache>
__device__ __forceinline__ void write_heads(const RopeParams& p) {
    const int lane = threadIdx.x % p.group;
    const int head = (blockIdx.y * blockDim.x + threadIdx.x) / p.group;
    const int num_heads = p.num_heads + 2 * p.num_kv_heads;
    const size_t token = blockIdx.x;
    const unsigned slot = p.slots[token], position = p.positions[token];
    // A padded row, or one that the host should not have sent: nothing of the cache is its own.
    const bool is_padding = slot >= p.num_slots || position >= p.max_pos;
    const bool is_query = head < p.num_heads, is_key = !is_query && head < p.num_heads + p.num_kv_heads;
    const int head_dim = p.head_dim, half_dim = head_dim / 2;
    // All lanes of the warp stay for the sums.
    const bool has_work = head < num_heads && (is_query || !is_padding);

    Halves<T> x;
    const T* row = static_cast<const T*>(p.qkv) + (token * num_heads + head) * head_dim;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int len = has_work && !is_padding ? half_dim : 0;
        x.x[half] = load_row_pack(row + half * half_dim, lane, len,
                                  is_aligned_16(row + half * half_dim));
    }
    const T* norm = static_cast<const T*>(is_query ? p.q_norm : is_key ? p.k_norm : nullptr);
    if (p.q_norm != nullptr || p.k_norm != nullptr) {
        const float sum = group_sum(lane_sum_of_squares(x), p.group);
        const float factor = 1.0f / sqrtf(sum / float(head_dim) + p.norm_eps);
        if (has_work && !is_padding && norm != nullptr) norm_head(x, norm, factor, lane, half_dim);
    }
    if (!has_work) return;
    if (!is_padding && (is_query || is_key)) rotate_head(x, p, position, lane, half_dim);
    if (is_query) {
        T* q = static_cast<T*>(p.q) + (token * p.num_heads + head) * head_dim;
        store_head(q, x, lane, half_dim);
        return;
    }
    const int kv_head = (head - p.num_heads) % p.num_kv_heads;
    const size_t block = slot / p.block_size, offset = slot % p.block_size;
    const size_t at = (block * p.num_kv_heads + kv_head) * p.block_size + offset;
    Cache* cache = static_cast<Cache*>(is_key ? p.key : p.value) + at * head_dim;
    if constexpr (sizeof(Cache) == sizeof(T)) {
        store_head(cache, x, lane, half_dim);
    } else {
        store_narrow_head(cache, x, lane, half_dim);
    }
}

KERNEL(rope_kv_write_f32, RopeParams, MAX_THREADS) { write_heads<float, float>(p); }
KERNEL(rope_kv_write_f16, RopeParams, MAX_THREADS) { write_heads<f16, f16>(p); }
KERNEL(rope_kv_write_bf16, RopeParams, MAX_THREADS) { write_heads<bf16, bf16>(p); }
KERNEL(rope_kv_write_f32_e4m3, RopeParams, MAX_THREADS) { write_heads<float, e4m3>(p); }
KERNEL(rope_kv_write_f16_e4m3, RopeParams, MAX_THREADS) { write_heads<f16, e4m3>(p); }
KERNEL(rope_kv_write_bf16_e4m3, RopeParams, MAX_THREADS) { write_heads<bf16, e4m3>(p); }
