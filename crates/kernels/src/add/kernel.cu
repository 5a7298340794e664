// Sums of two tensors: 16 bytes of each a thread.
#include "../rms_norm/row.cuh"

struct AddParams {
    const void* x;  // [len]
    const void* y;  // [len]
    void* sums;     // [len]
    unsigned long long len;
};

constexpr int THREADS = 256;

template <class T>
__device__ __forceinline__ void add_packs(const AddParams& p) {
    const size_t start = (size_t(blockIdx.x) * THREADS + threadIdx.x) * Pack<T>::LEN;
    if (start >= p.len) return;
    const T* x = static_cast<const T*>(p.x) + start;
    const T* y = static_cast<const T*>(p.y) + start;
    T* sums = static_cast<T*>(p.sums) + start;
    const int len = int(p.len - start < Pack<T>::LEN ? p.len - start : Pack<T>::LEN);
    const bool is_aligned = is_aligned_16(x) && is_aligned_16(y) && is_aligned_16(sums);
    const Pack<T> sum = rounded_sum(load_row_pack(x, 0, len, is_aligned),
                                    load_row_pack(y, 0, len, is_aligned));
    store_row_pack(sums, 0, len, is_aligned, sum);
}

KERNEL(add_f32, AddParams, THREADS) { add_packs<float>(p); }
KERNEL(add_f16, AddParams, THREADS) { add_packs<f16>(p); }
KERNEL(add_bf16, AddParams, THREADS) { add_packs<bf16>(p); }
