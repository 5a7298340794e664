// Rows of queries as the columns of tensor-core tiles, eight a tile, on their way through the keys. Keys
// and values are the left factors, 16 at a time: where there are few rows, no more is padding than must
// be.
#pragma once
#include "params.cuh"

// Running softmax and sums of eight rows. With g = lane / 4 and t = lane % 4, a lane holds elements of
// the rows 2 t ([0]) and 2 t + 1.
template <int HEAD_DIM>
struct Columns {
    float sums[HEAD_DIM / 16][4];  // [dims, rows]; where a lane's dims are, say the values' products
    float maximum[2], total[2];    // the total of the lane's own keys

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < HEAD_DIM / 16; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[m][i] = 0.0f;
        }
        maximum[0] = maximum[1] = NEVER;
        total[0] = total[1] = 0.0f;
    }

    // Turns scores of 16 keys into weights relative to the new maximum of their row.
    __device__ __forceinline__ void weigh(float (&weights)[4], float factor) {
        float rescale[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float largest = fmaxf(weights[j], weights[2 + j]);
            largest = fmaxf(maximum[j], warp_reduce<8, 4>(largest, Max()));
            const float base = base_of(largest * factor);
            rescale[j] = fast_exp2(fmaf(maximum[j], factor, -base));
            maximum[j] = largest;
            weights[j] = fast_exp2(fmaf(weights[j], factor, -base));
            weights[2 + j] = fast_exp2(fmaf(weights[2 + j], factor, -base));
            total[j] = fmaf(total[j], rescale[j], weights[j] + weights[2 + j]);
        }
        // Maxima seldom grow, and a multiplication by one changes nothing.
        if (__any_sync(ALL_LANES, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
            for (int m = 0; m < HEAD_DIM / 16; m++) {
#pragma unroll
                for (int i = 0; i < 4; i++) sums[m][i] *= rescale[i % 2];
            }
        }
    }

    // The sum of the weights of row 2 t + j.
    __device__ __forceinline__ float whole_total(int j) const {
        return warp_reduce<8, 4>(total[j], Sum());
    }
};

// Scores of 16 keys, `[16, stride]` in shared memory, and of eight rows a tile. Products of every second
// 16 dims are summed apart, so that two can be under way. Math is what the tensor cores multiply.
template <class Math, int HEAD_DIM, int TILES>
__device__ __forceinline__ void multiply_keys(float (&scores)[TILES][4],
                                              const uint32_t (&queries)[TILES][HEAD_DIM / 16][2],
                                              const Math* keys, int stride) {
    const int lane = threadIdx.x % 32;
    const Math* own = keys + lane % 16 * stride + lane / 16 * 8;
    float sums[2][TILES][4] = {};
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        uint32_t a[4];
        load_matrices<4, false>(a, own + 16 * k);
#pragma unroll
        for (int t = 0; t < TILES; t++) multiply_add<Math>(sums[k % 2][t], a, queries[t][k]);
    }
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int i = 0; i < 4; i++) scores[t][i] = sums[0][t][i] + sums[1][t][i];
    }
}

// Of e4m3 keys. Four neighbours of a key lie in one register, and so must those of a query: columns
// 16 k + 4 t and the next in [0], the two behind in [1].
template <class Math, int HEAD_DIM, int TILES>
__device__ __forceinline__ void multiply_keys(float (&scores)[TILES][4],
                                              const uint32_t (&queries)[TILES][HEAD_DIM / 16][2],
                                              const e4m3* keys, int stride) {
    const int lane = threadIdx.x % 32;
    const e4m3* own = keys + lane % 16 * stride + lane / 16 * 16;
    float sums[2][TILES][4] = {};
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k += 2) {
        uint32_t fours[4];  // keys g and g + 8 of 16 columns, then of the next 16
        load_matrices<4, false>(fours, own + 16 * k);
#pragma unroll
        for (int right = 0; right < 2; right++) {
            uint32_t upper[2], lower[2];
            convert_e4m3(upper, fours[2 * right]);
            convert_e4m3(lower, fours[2 * right + 1]);
            const uint32_t a[4] = {upper[0], lower[0], upper[1], lower[1]};
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                multiply_add<Math>(sums[right][t], a, queries[t][k + right]);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int i = 0; i < 4; i++) scores[t][i] = sums[0][t][i] + sums[1][t][i];
    }
}

// The weights of 16 keys as the right factor of a product.
template <class Math>
__device__ __forceinline__ void weights_to_factor(uint32_t (&b)[2], const float (&weights)[4]) {
    b[0] = transpose_matrix(pair_of<Math>(weights[0], weights[1]));
    b[1] = transpose_matrix(pair_of<Math>(weights[2], weights[3]));
}

// Adds weights times values, `[16, stride]` in shared memory. Then sums[m][0] and [1] are of dim
// 16 m + g, [2] and [3] of 16 m + g + 8.
template <class Math, int HEAD_DIM, int TILES>
__device__ __forceinline__ void multiply_values(Columns<HEAD_DIM> (&columns)[TILES],
                                                const float (&weights)[TILES][4],
                                                const Math* values, int stride) {
    const int lane = threadIdx.x % 32;
    const Math* own = values + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8;
    uint32_t b[TILES][2];
#pragma unroll
    for (int t = 0; t < TILES; t++) weights_to_factor<Math>(b[t], weights[t]);
#pragma unroll
    for (int m = 0; m < HEAD_DIM / 16; m++) {
        uint32_t a[4];
        load_matrices<4, true>(a, own + 16 * m);
#pragma unroll
        for (int t = 0; t < TILES; t++) multiply_add<Math>(columns[t].sums[m], a, b[t]);
    }
}

// Of e4m3 values. Then sums[m] with an even m have the dims 16 m + 2 g and 16 m + 16 + 2 g, those of
// m + 1 the ones behind.
template <class Math, int HEAD_DIM, int TILES>
__device__ __forceinline__ void multiply_values(Columns<HEAD_DIM> (&columns)[TILES],
                                                const float (&weights)[TILES][4],
                                                const e4m3* values, int stride) {
    const int lane = threadIdx.x % 32;
    const e4m3* own = values + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 16;
    uint32_t b[TILES][2];
#pragma unroll
    for (int t = 0; t < TILES; t++) weights_to_factor<Math>(b[t], weights[t]);
#pragma unroll
    for (int m = 0; m < HEAD_DIM / 16; m += 2) {
        uint32_t fours[4];
        load_matrices<4, true>(fours, own + 16 * m);
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            // Two dims of a key, then of the next: to two keys of a dim, then of the next.
            uint32_t pairs[2];
            convert_e4m3(pairs, swap_middle(fours[i]));
            a[0][i] = pairs[0];
            a[1][i] = pairs[1];
        }
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                multiply_add<Math>(columns[t].sums[m + odd], a[odd], b[t]);
            }
        }
    }
}
