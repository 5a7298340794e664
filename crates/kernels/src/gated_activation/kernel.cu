// The gated activation: 16 bytes of gate and of up a thread.
#include "gate.cuh"

struct GateParams {
    const void* gate_up;  // [rows, 2 * intermediate]
    void* out;            // [rows, intermediate]
    int intermediate;
};

// Blocks of x are rows, those of y parts of a row.
template <class T, class F>
__device__ __forceinline__ void gate_row(const GateParams& p, F activate) {
    const int index = blockIdx.y * blockDim.x + threadIdx.x, len = p.intermediate;
    if (index * Pack<T>::LEN >= len) return;
    const T* gate = static_cast<const T*>(p.gate_up) + size_t(blockIdx.x) * 2 * len;
    const T* up = gate + len;
    T* out = static_cast<T*>(p.out) + size_t(blockIdx.x) * len;
    const Pack<T> of_gate = load_row_pack(gate, index, len, is_aligned_16(gate));
    const Pack<T> of_up = load_row_pack(up, index, len, is_aligned_16(up));
    Pack<T> result;
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) {
        result.x[i] = from_float<T>(activate(to_float(of_gate.x[i])) * to_float(of_up.x[i]));
    }
    store_row_pack(out, index, len, is_aligned_16(out), result);
}

constexpr int MAX_THREADS = 128;

KERNEL(silu_f32, GateParams, MAX_THREADS) { gate_row<float>(p, Silu()); }
KERNEL(silu_f16, GateParams, MAX_THREADS) { gate_row<f16>(p, Silu()); }
KERNEL(silu_bf16, GateParams, MAX_THREADS) { gate_row<bf16>(p, Silu()); }
KERNEL(gelu_tanh_f32, GateParams, MAX_THREADS) { gate_row<float>(p, GeluTanh()); }
KERNEL(gelu_tanh_f16, GateParams, MAX_THREADS) { gate_row<f16>(p, GeluTanh()); }
KERNEL(gelu_tanh_bf16, GateParams, MAX_THREADS) { gate_row<bf16>(p, GeluTanh()); }
