// In what the weights of experts are held, and how a part of them is widened to what tensor cores multiply.
#pragma once
#include "../cuda/device.cuh"

struct MultiplyParams {
    const void* x;       // [rows / rows_of_token, in], or [rows, in]
    const void* weight;  // [experts, out, in]
    // Of e4m3 [experts, out] f32, of e2m1 [experts, out, in / 32] e8m0
    const void* scales;
    const void* bias;         // [experts, out] or null
    const unsigned* experts;  // [rows], of choices
    // [2 rows + experts + 1]: the choice of each row, in the order of their experts; the row of each choice; where
    // each expert's begin
    const unsigned* sorted;
    void* y;  // [rows, out]
    int num_rows;
    int rows_of_token;  // 0 where x has the rows themselves
    int in_features;
    int out_features;
};

// Inputs that a thread widens at once: those that share a scale in e2m1.
constexpr int BLOCK = 32;

// In the type of x, as they are multiplied.
template <class T>
struct Wide {
    static constexpr int BITS = 8 * sizeof(T);

    static __device__ __forceinline__ float element(const MultiplyParams& p, size_t at) {
        return to_float(static_cast<const T*>(p.weight)[at]);
    }
};

// With a scale for each output feature, by which its sum is multiplied.
struct E4m3 {
    static constexpr int BITS = 8;

    static __device__ __forceinline__ float element(const MultiplyParams& p, size_t at) {
        return to_float(static_cast<const e4m3*>(p.weight)[at]);
    }

    // 16 elements.
    template <class T>
    static __device__ __forceinline__ void widen(uint32_t (&pairs)[8], const uint32_t* words, unsigned) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t two[2];
            widen_e4m3<T>(two, words[i]);
            pairs[2 * i] = two[0];
            pairs[2 * i + 1] = two[1];
        }
    }
};

// 2^(scale - 127)
__device__ __forceinline__ float power_of_e8m0(unsigned scale) {
    return __uint_as_float(scale == 0 ? 1u << 22 : scale << 23);
}

// Two to a byte, the first in its lower half, with a scale that is a power of two for each BLOCK (MXFP4 of the OCP
// Microscaling Formats Specification 1.0).
struct E2m1 {
    static constexpr int BITS = 4;

    static __device__ __forceinline__ float element(const MultiplyParams& p, size_t at) {
        const unsigned both = static_cast<const uint8_t*>(p.weight)[at / 2];
        const unsigned four = at % 2 == 0 ? both & 15u : both >> 4;
        // Exponent and mantissa where f32 has them, less by the difference of the biases.
        const float magnitude = __uint_as_float((four & 7u) << 22) * 0x1p126f;
        const float value = (four & 8u) != 0 ? -magnitude : magnitude;
        return value * power_of_e8m0(static_cast<const uint8_t*>(p.scales)[at / BLOCK]);
    }

    // 16 elements of a scale, exactly. There are eight magnitudes, whose upper and lower bytes in bf16 are
    // looked up in two registers each.
    template <class T>
    static __device__ __forceinline__ void widen(uint32_t (&pairs)[8], const uint32_t* words, unsigned scale) {
        static_assert(std::is_same<T, bf16>::value, "f16 does not have all powers of two that scales are");
        const uint32_t power = scale == 0 ? 0x0040u : scale << 7;
        const uint32_t factor = power << 16 | power;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t four = words[i / 2] >> (i % 2 * 16);
            const uint32_t places = four & 0x7777u;
            const uint32_t upper = __byte_perm(0x3f3f3f00u, 0x40404040u, places);
            const uint32_t lower = __byte_perm(0xc0800000u, 0xc0804000u, places);
            const uint32_t first = (four << 12 & 0x8000u) | (four << 24 & 0x80000000u);
            const uint32_t second = (four << 4 & 0x8000u) | (four << 16 & 0x80000000u);
            pairs[2 * i] = multiply_pair<T>(__byte_perm(lower, upper, 0x5140) | first, factor);
            pairs[2 * i + 1] = multiply_pair<T>(__byte_perm(lower, upper, 0x7362) | second, factor);
        }
    }
};

// What an output is of its sum. `out` counts through all experts.
template <class T, class W>
__device__ __forceinline__ T output_of(const MultiplyParams& p, size_t out, float sum) {
    if (std::is_same<W, E4m3>::value) sum *= __ldg(static_cast<const float*>(p.scales) + out);
    if (p.bias != nullptr) sum += to_float(static_cast<const T*>(p.bias)[out]);
    return from_float<T>(sum);
}
