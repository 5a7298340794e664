// The arithmetic of RMSNorm, 16 bytes of a row at a time.
#pragma once
#include "../cuda/device.cuh"

// x + y, rounded as it is stored.
template <class T>
__device__ __forceinline__ Pack<T> rounded_sum(Pack<T> x, const Pack<T>& y) {
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) {
        x.x[i] = from_float<T>(to_float(x.x[i]) + to_float(y.x[i]));
    }
    return x;
}

template <class T>
__device__ __forceinline__ float sum_of_squares(const Pack<T>& pack, float sum) {
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) {
        const float x = to_float(pack.x[i]);
        sum = fmaf(x, x, sum);
    }
    return sum;
}

// Of a row of `hidden` elements with this sum of squares.
__device__ __forceinline__ float norm_factor(float sum, int hidden, float eps) {
    return 1.0f / sqrtf(sum / float(hidden) + eps);
}

// A weight stored around zero is one less than what it scales by, and such rows are rounded once.
template <class T>
__device__ __forceinline__ Pack<T> normed_pack(Pack<T> pack, float factor, const Pack<T>& weight,
                                               bool is_zero_centred = false) {
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) {
        const float normed = to_float(pack.x[i]) * factor, scale = to_float(weight.x[i]);
        pack.x[i] = from_float<T>(is_zero_centred ? normed * (1.0f + scale)
                                                  : round_to<T>(normed) * scale);
    }
    return pack;
}
