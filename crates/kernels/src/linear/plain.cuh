// A linear layer for every storage type, length and alignment, a warp for each output feature and 8
// rows: right, and for many rows slow.
#pragma once
#include "skinny.cuh"

constexpr int PLAIN_ROWS = 8;
constexpr int PLAIN_WARPS = 8;

// Grid: (out_features / PLAIN_WARPS, rows / PLAIN_ROWS), rounded up.
template <class T, class W, class Out>
__device__ __forceinline__ void multiply_plain(const SkinnyParams& p) {
    const int lane = threadIdx.x % 32;
    const int out = blockIdx.x * PLAIN_WARPS + threadIdx.x / 32;
    const int first_row = blockIdx.y * PLAIN_ROWS;
    if (out >= p.out_features) return;
    const size_t len = p.in_features;
    const W* weight = static_cast<const W*>(p.weight) + out * len;
    const T* x = static_cast<const T*>(p.x) + first_row * len;
    float sums[PLAIN_ROWS] = {};
    for (size_t k = lane; k < len; k += 32) {
        const float w = to_float(weight[k]);
#pragma unroll
        for (int row = 0; row < PLAIN_ROWS; row++) {
            if (first_row + row < p.num_rows) sums[row] = fmaf(w, to_float(x[row * len + k]), sums[row]);
        }
    }
#pragma unroll
    for (int row = 0; row < PLAIN_ROWS; row++) {
        float sum = warp_reduce(sums[row], Sum());
        if (lane != 0 || first_row + row >= p.num_rows) continue;
        if (sizeof(W) == 1) sum *= __ldg(p.scales + out);
        if (p.bias != nullptr) sum += to_float(static_cast<const T*>(p.bias)[out]);
        static_cast<Out*>(p.y)[static_cast<size_t>(first_row + row) * p.out_features + out] =
            from_float<Out>(sum);
    }
}
