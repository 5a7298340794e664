// The narrow floats of cuda_bf16.h, cuda_fp16.h and cuda_fp8.h, by their bits.
#pragma once

struct __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
struct __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }

// To the nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
inline float2 __bfloat1622float2(__nv_bfloat162 x) {
    return {__bfloat162float(x.x), __bfloat162float(x.y)};
}

namespace shim {

// A small float of `exponent_bits` and `mantissa_bits` with subnormals, widened; no specials.
inline float widen(unsigned magnitude, int mantissa_bits, int bias) {
    unsigned exponent = magnitude >> mantissa_bits;
    unsigned mantissa = magnitude & ((1u << mantissa_bits) - 1);
    if (exponent == 0) return ldexpf(float(mantissa), 1 - bias - mantissa_bits);
    return ldexpf(float(mantissa | 1u << mantissa_bits), int(exponent) - bias - mantissa_bits);
}

// The other way, for finite values of no sign: nearest, ties to even; may carry beyond the largest.
inline unsigned narrow(float x, int mantissa_bits, int bias) {
    if (x == 0) return 0;
    int exponent = ilogbf(x);
    if (exponent < 1 - bias) exponent = 1 - bias;
    float unit = rintf(ldexpf(x, mantissa_bits - exponent));  // in units of the last place
    unsigned steps = unsigned(unit);
    // Subnormals have steps below 2^mantissa_bits; a carry moves to the next exponent by itself.
    return (unsigned(exponent + bias - 1) << mantissa_bits) + steps;
}

}  // namespace shim

inline float __half2float(__half x) {
    unsigned magnitude = x.bits & 0x7fffu;
    float wide = magnitude > 0x7c00u    ? NAN
                 : magnitude == 0x7c00u ? INFINITY
                                        : shim::widen(magnitude, 10, 15);
    return x.bits & 0x8000u ? -wide : wide;
}
inline __half __float2half_rn(float x) {
    uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) return {0x7fff};
    float magnitude = fabsf(x);
    if (magnitude >= 65520.0f) return {uint16_t(sign | 0x7c00)};
    return {uint16_t(sign | shim::narrow(magnitude, 10, 15))};
}
inline __half2 __floats2half2_rn(float x, float y) {
    return {__float2half_rn(x), __float2half_rn(y)};
}
inline float2 __half22float2(__half2 x) { return {__half2float(x.x), __half2float(x.y)}; }

// Largest 448, no infinity: what is larger becomes 448.
struct __nv_fp8_e4m3 {
    uint8_t bits;

    __nv_fp8_e4m3() = default;
    explicit __nv_fp8_e4m3(float x) {
        uint8_t sign = std::signbit(x) ? 0x80 : 0;
        float magnitude = fabsf(x);
        if (std::isnan(x)) {
            bits = 0x7f;
        } else if (magnitude >= 448.0f) {
            bits = sign | 0x7e;
        } else {
            bits = sign | uint8_t(shim::narrow(magnitude, 3, 7));
        }
    }
    explicit operator float() const {
        float wide = (bits & 0x7f) == 0x7f ? NAN : shim::widen(bits & 0x7f, 3, 7);
        return bits & 0x80 ? -wide : wide;
    }
};
