// The gated activation: 16 bytes of gate and of up a thread.
#include "gate.cuh"

struct GateParams {
    const void* gate_up;  // [rows, 2 * intermediate]
    void* out;            // [rows, intermediate]
    int intermediate;
    float limit;  // of what is clamped
};

// What is no number stays none.
struct ClampedSwiglu {
    float limit;

    __device__ __forceinline__ float operator()(float gate, float up) const {
        gate = gate > limit ? limit : gate;
        up = up > limit ? limit : up < -limit ? -limit : up;
        return gate * logistic(1.702f * gate) * (up + 1.0f);
    }
};

template <class F>
struct Gated {
    __device__ __forceinline__ float operator()(float gate, float up) const { return F()(gate) * up; }
};

// Blocks of x are rows, those of y parts of a row.
template <class T, class F>
__device__ __forceinline__ void gate_row(const GateParams& p, F combine) {
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
        result.x[i] = from_float<T>(combine(to_float(of_gate.x[i]), to_float(of_up.x[i])));
    }
    store_row_pack(out, index, len, is_aligned_16(out), result);
}

constexpr int MAX_THREADS = 128;

KERNEL(silu_f32, GateParams, MAX_THREADS) { gate_row<float>(p, Gated<Silu>()); }
KERNEL(silu_f16, GateParams, MAX_THREADS) { gate_row<f16>(p, Gated<Silu>()); }
KERNEL(silu_bf16, GateParams, MAX_THREADS) { gate_row<bf16>(p, Gated<Silu>()); }
KERNEL(gelu_tanh_f32, GateParams, MAX_THREADS) { gate_row<float>(p, Gated<GeluTanh>()); }
KERNEL(gelu_tanh_f16, GateParams, MAX_THREADS) { gate_row<f16>(p, Gated<GeluTanh>()); }
KERNEL(gelu_tanh_bf16, GateParams, MAX_THREADS) { gate_row<bf16>(p, Gated<GeluTanh>()); }
KERNEL(clamped_swiglu_f32, GateParams, MAX_THREADS) { gate_row<float>(p, ClampedSwiglu{p.limit}); }
KERNEL(clamped_swiglu_f16, GateParams, MAX_THREADS) { gate_row<f16>(p, ClampedSwiglu{p.limit}); }
KERNEL(clamped_swiglu_bf16, GateParams, MAX_THREADS) { gate_row<bf16>(p, ClampedSwiglu{p.limit}); }
