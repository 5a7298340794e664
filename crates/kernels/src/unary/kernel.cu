// Functions of each element, in place: 16 bytes a thread.
#include "../cuda/device.cuh"

struct UnaryParams {
    void* x;  // [len]
    unsigned long long len;
    float operand;
};

constexpr int THREADS = 256;

// Not approximated, with the complement of erf, which keeps its digits where x is far below zero.
struct Gelu {
    __device__ __forceinline__ float operator()(float x, float) const {
        return 0.5f * x * erfcf(x * -0.70710678118654752f);
    }
};

struct Scale {
    __device__ __forceinline__ float operator()(float x, float factor) const { return factor * x; }
};

struct SoftCap {
    __device__ __forceinline__ float operator()(float x, float cap) const { return cap * tanhf(x / cap); }
};

template <class T, class Function>
__device__ __forceinline__ void apply(const UnaryParams& p, Function function) {
    const size_t start = (size_t(blockIdx.x) * THREADS + threadIdx.x) * Pack<T>::LEN;
    if (start >= p.len) return;
    T* x = static_cast<T*>(p.x) + start;
    const int len = int(p.len - start < Pack<T>::LEN ? p.len - start : Pack<T>::LEN);
    const bool is_aligned = is_aligned_16(x);
    Pack<T> pack = load_row_pack(x, 0, len, is_aligned);
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) {
        pack.x[i] = from_float<T>(function(to_float(pack.x[i]), p.operand));
    }
    store_row_pack(x, 0, len, is_aligned, pack);
}

KERNEL(gelu_f32, UnaryParams, THREADS) { apply<float>(p, Gelu()); }
KERNEL(gelu_f16, UnaryParams, THREADS) { apply<f16>(p, Gelu()); }
KERNEL(gelu_bf16, UnaryParams, THREADS) { apply<bf16>(p, Gelu()); }
KERNEL(scale_f32, UnaryParams, THREADS) { apply<float>(p, Scale()); }
KERNEL(scale_f16, UnaryParams, THREADS) { apply<f16>(p, Scale()); }
KERNEL(scale_bf16, UnaryParams, THREADS) { apply<bf16>(p, Scale()); }
KERNEL(soft_cap_f32, UnaryParams, THREADS) { apply<float>(p, SoftCap()); }
KERNEL(soft_cap_f16, UnaryParams, THREADS) { apply<f16>(p, SoftCap()); }
KERNEL(soft_cap_bf16, UnaryParams, THREADS) { apply<bf16>(p, SoftCap()); }
