// RMSNorm, alone or behind a residual addition: a block a row. Which thread sums what depends on
// `hidden` alone, so that a row gives the same bits in any batch.
#include "row.cuh"

struct NormParams {
    const void* x;         // [rows, hidden]
    const void* residual;  // [rows, hidden]
    const void* weight;    // [hidden]
    void* normed;          // [rows, hidden]
    void* sums;            // [rows, hidden]
    int hidden;
    float eps;
    int is_zero_centred;  // whether the weight is stored around zero
};

// Packs of a row that a thread keeps in registers between the two passes; those behind are read twice.
constexpr int KEPT = 2;
constexpr int MAX_THREADS = 512;

// x, or the rounded sum of x and residual, which is written to `sums`.
template <class T, bool adds>
__device__ __forceinline__ Pack<T> read_input(const T* x, const T* residual, T* sums, int index,
                                              int hidden, bool is_aligned) {
    Pack<T> pack = load_row_pack(x, index, hidden, is_aligned);
    if constexpr (adds) {
        pack = rounded_sum(pack, load_row_pack(residual, index, hidden, is_aligned));
        store_row_pack(sums, index, hidden, is_aligned, pack);
    }
    return pack;
}

template <class T>
__device__ __forceinline__ void write_normed(const Pack<T>& pack, float factor, const T* weight,
                                             bool is_zero_centred, T* normed, int index, int hidden,
                                             bool is_aligned) {
    const Pack<T> scale = load_row_pack(weight, index, hidden, is_aligned);
    store_row_pack(normed, index, hidden, is_aligned, normed_pack(pack, factor, scale, is_zero_centred));
}

template <class T, bool adds>
__device__ __forceinline__ void norm_row(const NormParams& p) {
    const int hidden = p.hidden, num_packs = (hidden + Pack<T>::LEN - 1) / Pack<T>::LEN;
    const int thread = threadIdx.x, num_threads = blockDim.x;
    const size_t start = size_t(blockIdx.x) * hidden;
    const T* x = static_cast<const T*>(p.x) + start;
    const T* residual = adds ? static_cast<const T*>(p.residual) + start : nullptr;
    const T* weight = static_cast<const T*>(p.weight);
    const bool is_zero_centred = p.is_zero_centred != 0;
    T* normed = static_cast<T*>(p.normed) + start;
    T* sums = adds ? static_cast<T*>(p.sums) + start : nullptr;
    const bool is_aligned = is_aligned_16(x) && is_aligned_16(residual) && is_aligned_16(weight) &&
                            is_aligned_16(normed) && is_aligned_16(sums);

    Pack<T> kept[KEPT];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        const int index = thread + i * num_threads;
        if (index < num_packs) {
            kept[i] = read_input<T, adds>(x, residual, sums, index, hidden, is_aligned);
            sum = sum_of_squares(kept[i], sum);
        }
    }
    for (int index = thread + KEPT * num_threads; index < num_packs; index += num_threads) {
        sum = sum_of_squares(read_input<T, adds>(x, residual, sums, index, hidden, is_aligned), sum);
    }

    SHARED(scratch, float[MAX_THREADS / 32]);
    sum = block_reduce(sum, Sum(), scratch);
    const float factor = norm_factor(sum, hidden, p.eps);

#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        const int index = thread + i * num_threads;
        if (index < num_packs) {
            write_normed(kept[i], factor, weight, is_zero_centred, normed, index, hidden, is_aligned);
        }
    }
    for (int index = thread + KEPT * num_threads; index < num_packs; index += num_threads) {
        const Pack<T> pack = load_row_pack(adds ? sums : x, index, hidden, is_aligned);
        write_normed(pack, factor, weight, is_zero_centred, normed, index, hidden, is_aligned);
    }
}

KERNEL(rms_norm_f32, NormParams, MAX_THREADS) { norm_row<float, false>(p); }
KERNEL(rms_norm_f16, NormParams, MAX_THREADS) { norm_row<f16, false>(p); }
KERNEL(rms_norm_bf16, NormParams, MAX_THREADS) { norm_row<bf16, false>(p); }
KERNEL(add_rms_norm_f32, NormParams, MAX_THREADS) { norm_row<float, true>(p); }
KERNEL(add_rms_norm_f16, NormParams, MAX_THREADS) { norm_row<f16, true>(p); }
KERNEL(add_rms_norm_bf16, NormParams, MAX_THREADS) { norm_row<bf16, true>(p); }
