// Layer normalisation: a block a row. Which thread sums what depends on `hidden` alone, so that a row
// gives the same bits in any batch.
#include "../cuda/device.cuh"

struct LayerNormParams {
    const void* x;       // [rows, hidden]
    const void* weight;  // [hidden]
    const void* bias;    // [hidden]; none
    void* y;             // [rows, hidden]
    int hidden;
    float eps;
};

// Packs of a row that a thread keeps in registers between the passes; those behind are read again.
constexpr int KEPT = 2;
constexpr int MAX_THREADS = 512;

// Of the elements of a pack that the row has, `f(element, place)`.
template <class T, class F>
__device__ __forceinline__ void each_of(const Pack<T>& pack, int index, int hidden, F f) {
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) {
        if (index * Pack<T>::LEN + i < hidden) f(to_float(pack.x[i]), i);
    }
}

template <class T>
__device__ __forceinline__ void norm_row(const LayerNormParams& p) {
    const int hidden = p.hidden, num_packs = (hidden + Pack<T>::LEN - 1) / Pack<T>::LEN;
    const size_t start = size_t(blockIdx.x) * hidden;
    const T* x = static_cast<const T*>(p.x) + start;
    const T* weight = static_cast<const T*>(p.weight);
    const T* bias = static_cast<const T*>(p.bias);
    T* y = static_cast<T*>(p.y) + start;
    const bool is_aligned = is_aligned_16(x) && is_aligned_16(weight) && is_aligned_16(bias) &&
                            is_aligned_16(y);
    Pack<T> kept[KEPT];
    // Calls `f(pack, index)` of the thread's packs of the row.
    auto sweep = [&](bool is_first, auto f) {
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            const int index = threadIdx.x + i * blockDim.x;
            if (index >= num_packs) continue;
            if (is_first) kept[i] = load_row_pack(x, index, hidden, is_aligned);
            f(kept[i], index);
        }
        for (int index = threadIdx.x + KEPT * blockDim.x; index < num_packs; index += blockDim.x) {
            f(load_row_pack(x, index, hidden, is_aligned), index);
        }
    };
    SHARED(scratch, float[2][MAX_THREADS / 32]);
    float sum = 0.0f;
    sweep(true, [&](const Pack<T>& pack, int index) {
        each_of(pack, index, hidden, [&](float x, int) { sum += x; });
    });
    const float mean = block_reduce(sum, Sum(), scratch[0]) / float(hidden);
    float squares = 0.0f;
    sweep(false, [&](const Pack<T>& pack, int index) {
        each_of(pack, index, hidden, [&](float x, int) { squares = fmaf(x - mean, x - mean, squares); });
    });
    const float variance = block_reduce(squares, Sum(), scratch[1]) / float(hidden);
    const float factor = 1.0f / sqrtf(variance + p.eps);
    sweep(false, [&](const Pack<T>& pack, int index) {
        const Pack<T> scale = load_row_pack(weight, index, hidden, is_aligned);
        Pack<T> shift = {};
        if (bias) shift = load_row_pack(bias, index, hidden, is_aligned);
        Pack<T> normed = {};
        each_of(pack, index, hidden, [&](float x, int i) {
            const float added = bias ? to_float(shift.x[i]) : 0.0f;
            normed.x[i] = from_float<T>(fmaf((x - mean) * factor, to_float(scale.x[i]), added));
        });
        store_row_pack(y, index, hidden, is_aligned, normed);
    });
}

KERNEL(layer_norm_f32, LayerNormParams, MAX_THREADS) { norm_row<float>(p); }
KERNEL(layer_norm_f16, LayerNormParams, MAX_THREADS) { norm_row<f16>(p); }
KERNEL(layer_norm_bf16, LayerNormParams, MAX_THREADS) { norm_row<bf16>(p); }
