// Norm and rotation of a query or key head by a group of lanes: each has the packs of its index from both
// halves of the head, which rotate with each other.
#pragma once
#include "../rms_norm/row.cuh"

// A head's halves: the lane's pack of each.
template <class T>
struct Halves {
    Pack<T> x[2];
};

// The lane's part of a row of `half_dim` elements and one behind it; `is_aligned` speaks of both.
template <class T>
__device__ __forceinline__ Halves<T> load_head(const T* row, int lane, int half_dim, bool is_aligned) {
    Halves<T> head;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        head.x[half] = load_row_pack(row + half * half_dim, lane, half_dim, is_aligned);
    }
    return head;
}

template <class T>
__device__ __forceinline__ float lane_sum_of_squares(const Halves<T>& head) {
    return sum_of_squares(head.x[1], sum_of_squares(head.x[0], 0.0f));
}

// Sum over the lanes of a group, whose size is known when the kernel runs.
__device__ __forceinline__ float group_sum(float value, int group) {
    for (int bits = group / 2; bits > 0; bits /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, bits);
    }
    return value;
}

// Angles of the lane's pack: elements `start` to `start + LEN` of `len`, zeros behind.
template <int LEN>
__device__ __forceinline__ void load_angles(float (&out)[LEN], const float* row, int start,
                                            int len, bool is_aligned) {
    if (is_aligned && start + LEN <= len) {
#pragma unroll
        for (int i = 0; i < LEN; i += 4) {
            const float4 x = __ldg(reinterpret_cast<const float4*>(row + start + i));
            out[i] = x.x, out[i + 1] = x.y, out[i + 2] = x.z, out[i + 3] = x.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < LEN; i++) out[i] = start + i < len ? row[start + i] : 0.0f;
    }
}

template <class T>
__device__ __forceinline__ void norm_head(Halves<T>& head, float factor, const Halves<T>& weight,
                                          bool is_zero_centred = false) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        head.x[half] = normed_pack(head.x[half], factor, weight.x[half], is_zero_centred);
    }
}

// What the lane's elements are rotated by.
template <class T>
struct HeadAngles {
    float cosine[Pack<T>::LEN], sine[Pack<T>::LEN];

    // From rows of `half_dim` angles.
    __device__ __forceinline__ HeadAngles(const float* cosines, const float* sines, int lane, int half_dim,
                                          bool is_aligned) {
        load_angles(cosine, cosines, lane * Pack<T>::LEN, half_dim, is_aligned);
        load_angles(sine, sines, lane * Pack<T>::LEN, half_dim, is_aligned);
    }
};

template <class T>
__device__ __forceinline__ void rotate_head(Halves<T>& head, const HeadAngles<T>& angles,
                                            float scale = 1.0f) {
    const auto &cosine = angles.cosine, &sine = angles.sine;
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) {
        const float a = to_float(head.x[0].x[i]), b = to_float(head.x[1].x[i]);
        // Said to the bit: two kernels do this, and must do the same.
        head.x[0].x[i] = from_float<T>(fmaf(a, cosine[i], -(b * sine[i])) * scale);
        head.x[1].x[i] = from_float<T>(fmaf(b, cosine[i], a * sine[i]) * scale);
    }
}

// The elements as they are.
template <class T>
__device__ __forceinline__ void store_head(T* out, const Halves<T>& head, int lane, int half_dim) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        T* row = out + half * half_dim;
        store_row_pack(row, lane, half_dim, is_aligned_16(row), head.x[half]);
    }
}

// Into a cache of fewer bits: half or a quarter of 16 bytes at once.
template <class Cache, class T>
__device__ __forceinline__ void store_head(Cache* out, const Halves<T>& head, int lane,
                                           int half_dim) {
    constexpr int LEN = Pack<T>::LEN;
    struct alignas(LEN * sizeof(Cache)) Vector {
        Cache x[LEN];
    };
    const int start = lane * LEN;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        Cache* row = out + half * half_dim + start;
        Vector narrow;
#pragma unroll
        for (int i = 0; i < LEN; i++) narrow.x[i] = from_float<Cache>(to_float(head.x[half].x[i]));
        if (reinterpret_cast<uintptr_t>(row) % sizeof(Vector) == 0 && start + LEN <= half_dim) {
            *reinterpret_cast<Vector*>(row) = narrow;
        } else {
#pragma unroll
            for (int i = 0; i < LEN; i++) {
                if (start + i < half_dim) row[i] = narrow.x[i];
            }
        }
    }
}
