// Sixteen rows of a tensor-core tile on their way through the keys: running softmax and sums.
#pragma once
#include "params.cuh"

// With g = lane / 4, a lane holds elements of the rows g ([0]) and g + 8 ([1]).
template <class T, int HEAD_DIM>
struct Rows {
    float sums[HEAD_DIM / 8][4];
    float maximum[2], total[2];  // the total of the lane's own keys

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[n][i] = 0.0f;
        }
        maximum[0] = maximum[1] = NEVER;
        total[0] = total[1] = 0.0f;
    }

    // Turns scores into weights relative to the new maximum of their row.
    template <int TILES>
    __device__ __forceinline__ void weigh(float (&weights)[TILES][4], float factor) {
        float rescale[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float largest = maximum[half];
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                largest = fmaxf(largest, fmaxf(weights[n][2 * half], weights[n][2 * half + 1]));
            }
            largest = warp_reduce<4>(largest, Max());
            const float base = base_of(largest * factor);
            rescale[half] = fast_exp2(fmaf(maximum[half], factor, -base));
            maximum[half] = largest;
            float added = 0.0f;
#pragma unroll
            for (int n = 0; n < TILES; n++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    weights[n][i] = fast_exp2(fmaf(weights[n][i], factor, -base));
                    added += weights[n][i];
                }
            }
            total[half] = fmaf(total[half], rescale[half], added);
        }
        // Maxima seldom grow, and a multiplication by one changes nothing.
        if (__any_sync(ALL_LANES, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
            for (int n = 0; n < HEAD_DIM / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) sums[n][i] *= rescale[i / 2];
            }
        }
    }

    // Of e4m3 values: the sums of row g or g + 8 for the four columns from 8 * tile + 4 t on, where tile
    // is even. It has the even columns, the next tile the odd ones.
    __device__ __forceinline__ float4 four(int tile, int half) const {
        return make_float4(sums[tile][2 * half], sums[tile + 1][2 * half], sums[tile][2 * half + 1],
                           sums[tile + 1][2 * half + 1]);
    }

    // The sum of the weights of row g or g + 8.
    __device__ __forceinline__ float whole_total(int half) const {
        return warp_reduce<4>(total[half], Sum());
    }
};

// Minus infinity for the keys that a row does not see, the first of which is `start`. `ends` are one
// past the last key that rows g and g + 8 see.
template <int TILES>
__device__ __forceinline__ void mask(float (&weights)[TILES][4], const int (&ends)[2], int start,
                                     int window) {
#pragma unroll
    for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int key = start + 8 * n + 2 * (threadIdx.x % 4) + i % 2;
            const int end = ends[i / 2];
            const bool is_seen = key < end && (window <= 0 || key >= end - window);
            weights[n][i] = is_seen ? weights[n][i] : NEVER;
        }
    }
}

// q K^T of row tiles with keys, `[keys, stride]` in shared memory. `query(tile, k)` gives columns
// 16 k to 16 k + 15 of 16 queries.
template <class T, int HEAD_DIM, int ROW_TILES, int KEY_TILES, class F>
__device__ __forceinline__ void multiply_keys(float (&weights)[ROW_TILES][KEY_TILES][4],
                                              const T* keys, int stride, F load_queries) {
    const int lane = threadIdx.x % 32;
    const T* own = keys + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        uint32_t a[ROW_TILES][4];
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++) load_queries(a[t], t, k);
#pragma unroll
        for (int n = 0; n < KEY_TILES; n += 2) {
            uint32_t b[4];
            load_matrices<4, false>(b, own + 8 * n * stride + 16 * k);
#pragma unroll
            for (int t = 0; t < ROW_TILES; t++) {
                multiply_add<T>(weights[t][n], a[t], {b[0], b[1]});
                multiply_add<T>(weights[t][n + 1], a[t], {b[2], b[3]});
            }
        }
    }
}

// The weights of 16 keys as the left factor of a product.
template <class T, int TILES>
__device__ __forceinline__ void weights_to_pairs(uint32_t (&a)[4], const float (&weights)[TILES][4],
                                                 int k) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float(&pairs)[4] = weights[2 * k + i / 2];
        a[i] = pair_of<T>(pairs[i % 2 * 2], pairs[i % 2 * 2 + 1]);
    }
}

// Adds weights times values, `[keys, stride]` in shared memory, to the sums of row tiles.
template <class T, int HEAD_DIM, int ROW_TILES, int KEY_TILES>
__device__ __forceinline__ void multiply_values(Rows<T, HEAD_DIM> (&rows)[ROW_TILES],
                                                const float (&weights)[ROW_TILES][KEY_TILES][4],
                                                const T* values, int stride) {
    const int lane = threadIdx.x % 32;
    const T* own = values + lane % 16 * stride + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < KEY_TILES / 2; k++) {
        uint32_t a[ROW_TILES][4];
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++) weights_to_pairs<T>(a[t], weights[t], k);
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n += 2) {
            uint32_t b[4];
            load_matrices<4, true>(b, own + 16 * k * stride + 8 * n);
#pragma unroll
            for (int t = 0; t < ROW_TILES; t++) {
                multiply_add<T>(rows[t].sums[n], a[t], {b[0], b[1]});
                multiply_add<T>(rows[t].sums[n + 1], a[t], {b[2], b[3]});
            }
        }
    }
}

// As multiply_keys, of e4m3 keys, `[keys, stride]`. Four neighbours of a key lie in one register, and so
// must those of a query: columns 16 k + 4 t and the next of row g in a[0], the two behind in a[2].
template <class T, int HEAD_DIM, int ROW_TILES, int KEY_TILES, class F>
__device__ __forceinline__ void multiply_keys(float (&weights)[ROW_TILES][KEY_TILES][4],
                                              const e4m3* keys, int stride, F load_queries) {
    const int lane = threadIdx.x % 32;
    // 8 x 8 matrices of pairs: keys 0 to 7 and 8 to 15 with 16 columns, then with the next 16.
    const e4m3* own = keys + lane % 16 * stride + lane / 16 * 16;
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k += 2) {
        uint32_t a[2][ROW_TILES][4];
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++) {
            load_queries(a[0][t], t, k);
            load_queries(a[1][t], t, k + 1);
        }
#pragma unroll
        for (int n = 0; n < KEY_TILES; n += 2) {
            uint32_t fours[4];
            load_matrices<4, false>(fours, own + 8 * n * stride + 16 * k);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t b[2];
                widen_e4m3<T>(b, fours[i]);
#pragma unroll
                for (int t = 0; t < ROW_TILES; t++) {
                    multiply_add<T>(weights[t][n + i % 2], a[i / 2][t], b);
                }
            }
        }
    }
}

// As multiply_values, of e4m3 values; the sums are then as Rows::four gives them.
template <class T, int HEAD_DIM, int ROW_TILES, int KEY_TILES>
__device__ __forceinline__ void multiply_values(Rows<T, HEAD_DIM> (&rows)[ROW_TILES],
                                                const float (&weights)[ROW_TILES][KEY_TILES][4],
                                                const e4m3* values, int stride) {
    const int lane = threadIdx.x % 32;
    const e4m3* own = values + lane % 16 * stride + lane / 16 * 16;
#pragma unroll
    for (int k = 0; k < KEY_TILES / 2; k++) {
        uint32_t a[ROW_TILES][4];
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++) weights_to_pairs<T>(a[t], weights[t], k);
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n += 4) {
            uint32_t fours[4];
            load_matrices<4, true>(fours, own + 16 * k * stride + 8 * n);
#pragma unroll
            for (int right = 0; right < 4; right += 2) {
                // Columns c and c + 1 of a key, then of the next: to two keys' c, then their c + 1.
                uint32_t upper[2], lower[2];
                widen_e4m3<T>(upper, swap_middle(fours[right]));
                widen_e4m3<T>(lower, swap_middle(fours[right + 1]));
#pragma unroll
                for (int t = 0; t < ROW_TILES; t++) {
                    multiply_add<T>(rows[t].sums[n + right], a[t], {upper[0], lower[0]});
                    multiply_add<T>(rows[t].sums[n + right + 1], a[t], {upper[1], lower[1]});
                }
            }
        }
    }
}
