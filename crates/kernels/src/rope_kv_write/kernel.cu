// Norm and rotation of query and key heads, and the write of keys and values into the paged cache, in
// one pass over the packed rows. A group of lanes takes one head of one token.
#include "head.cuh"

struct RopeParams {
    const void* qkv;            // [tokens, (heads + 2 * kv_heads) * head_dim]
    void* q;                    // [tokens, heads, head_dim]
    void* key;                  // [num_blocks, kv_heads, block_size, head_dim]
    void* value;                // as key
    const void* q_norm;         // [head_dim], or null
    const void* k_norm;         // [head_dim], or null
    const float* cosine;        // [max_pos, head_dim / 2]
    const float* sine;          // as cosine
    const float* q_scale;       // [max_pos], or null
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
    int is_zero_centred;  // whether the norms' weights are stored around zero
};

constexpr int MAX_THREADS = 256;

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

    Halves<T> x = {};
    const T* row = static_cast<const T*>(p.qkv) + (token * num_heads + head) * head_dim;
    if (has_work && !is_padding) {
        x = load_head(row, lane, half_dim, is_aligned_16(row) && is_aligned_16(row + half_dim));
    }
    const T* norm = static_cast<const T*>(is_query ? p.q_norm : is_key ? p.k_norm : nullptr);
    if (p.q_norm != nullptr || p.k_norm != nullptr) {
        const float sum = group_sum(lane_sum_of_squares(x), p.group);
        const float factor = norm_factor(sum, head_dim, p.norm_eps);
        if (has_work && !is_padding && norm != nullptr) {
            const bool is_aligned = is_aligned_16(norm) && is_aligned_16(norm + half_dim);
            const Halves<T> weight = load_head(norm, lane, half_dim, is_aligned);
            norm_head(x, factor, weight, p.is_zero_centred != 0);
        }
    }
    if (!has_work) return;
    if (!is_padding && (is_query || is_key)) {
        const size_t angles = size_t(position) * half_dim;
        const bool is_aligned = is_aligned_16(p.cosine + angles) && is_aligned_16(p.sine + angles);
        const float scale = is_query && p.q_scale != nullptr ? p.q_scale[position] : 1.0f;
        rotate_head(x, HeadAngles<T>(p.cosine + angles, p.sine + angles, lane, half_dim, is_aligned), scale);
    }
    if (is_query) {
        T* q = static_cast<T*>(p.q) + (token * p.num_heads + head) * head_dim;
        store_head(q, x, lane, half_dim);
        return;
    }
    const int kv_head = (head - p.num_heads) % p.num_kv_heads;
    const size_t block = slot / p.block_size, offset = slot % p.block_size;
    const size_t at = (block * p.num_kv_heads + kv_head) * p.block_size + offset;
    Cache* cache = static_cast<Cache*>(is_key ? p.key : p.value) + at * head_dim;
    store_head(cache, x, lane, half_dim);
}

KERNEL(rope_kv_write_f32, RopeParams, MAX_THREADS) { write_heads<float, float>(p); }
KERNEL(rope_kv_write_f16, RopeParams, MAX_THREADS) { write_heads<f16, f16>(p); }
KERNEL(rope_kv_write_bf16, RopeParams, MAX_THREADS) { write_heads<bf16, bf16>(p); }
KERNEL(rope_kv_write_f32_e4m3, RopeParams, MAX_THREADS) { write_heads<float, e4m3>(p); }
KERNEL(rope_kv_write_f16_e4m3, RopeParams, MAX_THREADS) { write_heads<f16, e4m3>(p); }
KERNEL(rope_kv_write_bf16_e4m3, RopeParams, MAX_THREADS) { write_heads<bf16, e4m3>(p); }
