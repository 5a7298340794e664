// GELU, not approximated: 16 bytes a thread.
#include "../cuda/device.cuh"

struct GeluParams {
    const void* x;  // [len]
    void* y;        // [len]
    unsigned long long len;
};

constexpr int THREADS = 256;

// With the complement of erf, which keeps its digits where x is far below zero.
__device__ __forceinline__ float gelu(float x) {
    return 0.5f * x * erfcf(x * -0.70710678118654752f);
}

template <class T>
__device__ __forceinline__ void gelu_packs(const GeluParams& p) {
    const size_t start = (size_t(blockIdx.x) * THREADS + threadIdx.x) * Pack<T>::LEN;
    if (start >= p.len) return;
    const T* x = static_cast<const T*>(p.x) + start;
    T* y = static_cast<T*>(p.y) + start;
    const int len = int(p.len - start < Pack<T>::LEN ? p.len - start : Pack<T>::LEN);
    const bool is_aligned = is_aligned_16(x) && is_aligned_16(y);
    Pack<T> pack = load_row_pack(x, 0, len, is_aligned);
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) pack.x[i] = from_float<T>(gelu(to_float(pack.x[i])));
    store_row_pack(y, 0, len, is_aligned, pack);
}

KERNEL(gelu_f32, GeluParams, THREADS) { gelu_packs<float>(p); }
KERNEL(gelu_f16, GeluParams, THREADS) { gelu_packs<f16>(p); }
KERNEL(gelu_bf16, GeluParams, THREADS) { gelu_packs<bf16>(p); }
