// Rows to e4m3 with one scale each, as quantize.rs does with those of weights: rows of x at every step.
//
// Bound: reading the row, twice (the second time from the caches), and writing half as much.
#pragma once
#include "../cuda/device.cuh"

struct QuantizeParams {
    const void* x;  // [rows, len]
    void* y;        // [rows, len] e4m3
    float* scales;  // [rows]: x = scale * y
    int len;
};

constexpr float E4M3_MAX = 448.0f;
constexpr int QUANTIZE_THREADS = 256;

// Grid: rows. A row of zeros has the scale 1, and one whose scale would be no number above 0.
template <class T>
__device__ __forceinline__ void quantize_row(const QuantizeParams& p) {
    SHARED(scratch, float[QUANTIZE_THREADS / 32]);
    const size_t start = static_cast<size_t>(blockIdx.x) * p.len;
    const T* x = static_cast<const T*>(p.x) + start;
    e4m3* y = static_cast<e4m3*>(p.y) + start;
    const bool is_aligned = is_aligned_16(x);
    // One Pack<e4m3> becomes one store, or two or four loads.
    constexpr int LOADS = Pack<e4m3>::LEN / Pack<T>::LEN;
    const int num_packs = (p.len + Pack<e4m3>::LEN - 1) / Pack<e4m3>::LEN;
    float largest = 0.0f;
    for (int i = threadIdx.x; i < num_packs * LOADS; i += QUANTIZE_THREADS) {
        const Pack<T> pack = load_row_pack(x, i, p.len, is_aligned);
#pragma unroll
        for (int j = 0; j < Pack<T>::LEN; j++) largest = fmaxf(largest, fabsf(to_float(pack.x[j])));
    }
    largest = block_reduce(largest, Max(), scratch);
    float scale = largest / E4M3_MAX;
    if (!(scale > 0.0f)) scale = 1.0f;
    if (threadIdx.x == 0) p.scales[blockIdx.x] = scale;
    for (int i = threadIdx.x; i < num_packs; i += QUANTIZE_THREADS) {
        Pack<e4m3> narrow;
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            const Pack<T> pack = load_row_pack(x, i * LOADS + l, p.len, is_aligned);
#pragma unroll
            for (int j = 0; j < Pack<T>::LEN; j++) {
                narrow.x[l * Pack<T>::LEN + j] = from_float<e4m3>(to_float(pack.x[j]) / scale);
            }
        }
        store_row_pack(y, i, p.len, is_aligned_16(y), narrow);
    }
}
