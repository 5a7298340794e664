// The tensor-core and copy functions of device.cuh on matrices of known products, a warp a block, and the
// barriers of pipeline.cuh.
#include "../../../kernels/src/cuda/pipeline.cuh"

struct ProductParams {
    const void* a;         // [16, 16]
    const void* b;         // [16, 8]
    const void* b_turned;  // [8, 16]
    float* c;              // [2, 16, 8]: by b, then by b_turned
};

template <class T>
__device__ void product(const ProductParams& p) {
    DYNAMIC_SHARED(shared);
    T* a = reinterpret_cast<T*>(shared);
    T* b = a + 16 * 16;
    T* b_turned = b + 16 * 8;
    T* zeros = b_turned + 16 * 8;
    const int lane = threadIdx.x;
    copy_async_16(a + 8 * lane, static_cast<const T*>(p.a) + 8 * lane);
    commit_copies();
    // The upper lanes have no row of b: they write zeros, and read nothing.
    T* to = lane < 16 ? b + 8 * lane : zeros + 8 * (lane - 16);
    copy_async_16(to, static_cast<const T*>(p.b) + 8 * lane, lane < 16);
    if (lane < 16) copy_async_16(b_turned + 8 * lane, static_cast<const T*>(p.b_turned) + 8 * lane);
    commit_copies();
    wait_copies<0>();
    __syncwarp();

    uint32_t of_a[4], of_b[2];
    // Matrices of a: rows 0 to 7 and 8 to 15 of the left half, then of the right.
    load_matrices<4, false>(of_a, a + 16 * (lane % 16) + 8 * (lane / 16));
    const int g = lane / 4, t = lane % 4;
    for (int turned = 0; turned < 2; turned++) {
        if (turned) {
            load_matrices<2, false>(of_b, b_turned + 16 * (lane % 8) + 8 * (lane / 8 % 2));
        } else {
            load_matrices<2, true>(of_b, b + 8 * (lane % 16));
        }
        const float one = 1.0f + to_float(zeros[4 * lane]);
        float c[4] = {one, one, one, one};
        multiply_add<T>(c, of_a, of_b);
        float* out = p.c + turned * 16 * 8;
        for (int i = 0; i < 4; i++) out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];
    }
}

KERNEL(product_bf16, ProductParams, 32) { product<bf16>(p); }
KERNEL(product_f16, ProductParams, 32) { product<f16>(p); }

KERNEL(copy_not_awaited, ProductParams, 32) {
    DYNAMIC_SHARED(shared);
    float* values = reinterpret_cast<float*>(shared);
    copy_async_16(values + 4 * threadIdx.x, static_cast<const float*>(p.a) + 4 * threadIdx.x);
    commit_copies();
    wait_copies<1>();
    p.c[threadIdx.x] = values[4 * threadIdx.x];
    wait_copies<0>();
}

struct ConvertParams {
    const float* in;
    float* out;  // [3, len]: through bf16, f16, e4m3
    int len;
};

KERNEL(convert, ConvertParams, 256) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.len) return;
    p.out[i] = round_to<bf16>(p.in[i]);
    p.out[p.len + i] = round_to<f16>(p.in[i]);
    p.out[2 * p.len + i] = round_to<e4m3>(p.in[i]);
}

struct RingParams {
    const unsigned* in;  // [blocks, 8, 32]
    unsigned* sums;      // [blocks, 32]
    unsigned* out;       // [blocks, 32]: the sums of the next block
    unsigned* arrivals;
};

// A warp brings eight rows through a ring of two, another adds them; then blocks read each other's.
template <bool awaits_full, bool awaits_empty>
__device__ void add_rows(const RingParams& p) {
    SHARED(stages, uint4[2][8]);
    SHARED(full, ArrivalBarrier[2]);
    SHARED(empty, ArrivalBarrier[2]);
    const int lane = threadIdx.x % 32;
    if (threadIdx.x < 2) {
        init_barrier(full[threadIdx.x], 1);
        init_barrier(empty[threadIdx.x], 32);
    }
    __syncthreads();
    if (threadIdx.x >= 32) {
        for (int i = 0; i < 8 && lane == 0; i++) {
            if (awaits_empty) wait_for(empty[i % 2], i / 2 % 2 ^ 1);
            arrive_with_bytes(full[i % 2], 128);
            copy_bulk(stages[i % 2], p.in + (8 * blockIdx.x + i) * 32, 128, full[i % 2]);
        }
    } else {
        unsigned sum = 0;
        for (int i = 0; i < 8; i++) {
            if (awaits_full) wait_for(full[i % 2], i / 2 % 2);
            sum = 3 * sum + reinterpret_cast<const unsigned*>(stages[i % 2])[lane];
            arrive(empty[i % 2]);
        }
        p.sums[32 * blockIdx.x + lane] = sum;
    }
    const GridWait<0, 64> wait{p.arrivals, 1};
    wait.arrive();
    wait.wait();
    if (threadIdx.x < 32) {
        const unsigned next = (blockIdx.x + 1) % gridDim.x;
        p.out[32 * blockIdx.x + lane] = p.sums[32 * next + lane];
    }
    if (threadIdx.x == 0) leave_grid(p.arrivals, 2);
}

KERNEL(ring, RingParams, 64) { add_rows<true, true>(p); }
KERNEL(ring_read_early, RingParams, 64) { add_rows<false, true>(p); }
KERNEL(ring_overwritten, RingParams, 64) { add_rows<true, false>(p); }

// The copy is asked for before another thread has written what it brings.
KERNEL(copy_asked_early, RingParams, 64) {
    SHARED(copied, uint4[1]);
    if (threadIdx.x == 0) {
        copy_async_16(copied, p.sums);
        commit_copies();
    } else if (threadIdx.x == 32) {
        for (int i = 0; i < 4; i++) p.sums[i] = p.in[i];
    }
    __syncthreads();
    wait_copies<0>();
    if (threadIdx.x == 0) p.out[0] = copied[0].x;
}
