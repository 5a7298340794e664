// Activations of gates.
#pragma once
#include "../cuda/device.cuh"

__device__ __forceinline__ float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

struct Silu {
    __device__ __forceinline__ float operator()(float x) const { return x * logistic(x); }
};

// With (1 + tanh(z)) / 2 = logistic(2 z).
struct GeluTanh {
    __device__ __forceinline__ float operator()(float x) const {
        const float sqrt_2_over_pi = 0.7978846f;
        const float cubic = fmaf(x * x, 0.044715f, 1.0f) * x;
        return x * logistic(cubic * (2.0f * sqrt_2_over_pi));
    }
};
