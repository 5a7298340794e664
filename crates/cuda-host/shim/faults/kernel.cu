// Kernels that do one thing wrong each, to show that the shim finds it.
#include "../shim.h"

struct FaultParams {
    const unsigned* input;
    unsigned* output;
    int len;
};

KERNEL(copy_u32, FaultParams, 256) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.len) p.output[i] = p.input[i];
}

KERNEL(reads_behind, FaultParams, 256) { p.output[threadIdx.x] = p.input[threadIdx.x + 1]; }

KERNEL(writes_behind, FaultParams, 256) { p.output[threadIdx.x + 1] = p.input[threadIdx.x]; }

KERNEL(writes_input, FaultParams, 256) { const_cast<unsigned*>(p.input)[threadIdx.x] = 1; }

KERNEL(misaligned, FaultParams, 256) {
    const unsigned char* bytes = reinterpret_cast<const unsigned char*>(p.input);
    p.output[threadIdx.x] = *reinterpret_cast<const unsigned*>(bytes + 1);
}

KERNEL(leaves_barrier, FaultParams, 256) {
    if (threadIdx.x == 5) return;
    __syncthreads();
    p.output[threadIdx.x] = 0;
}

KERNEL(leaves_warp, FaultParams, 256) {
    if (threadIdx.x == 5) return;
    p.output[threadIdx.x] = __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);
}

KERNEL(reads_unwritten_shared, FaultParams, 256) {
    SHARED(values, unsigned[256]);
    if (threadIdx.x > 0) values[threadIdx.x] = p.input[threadIdx.x];
    __syncthreads();
    p.output[threadIdx.x] = values[threadIdx.x];
}

KERNEL(races, FaultParams, 256) {
    SHARED(last, unsigned);
    last = threadIdx.x;
    __syncthreads();
    p.output[threadIdx.x] = last;
}

KERNEL(forgets_barrier, FaultParams, 256) {
    DYNAMIC_SHARED(bytes);
    unsigned* values = reinterpret_cast<unsigned*>(bytes);
    values[threadIdx.x] = p.input[threadIdx.x];
    p.output[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

KERNEL(warp_functions, FaultParams, 256) {
    const unsigned all = 0xffffffffu, lane = threadIdx.x % 32;
    unsigned sum = p.input[threadIdx.x];
    for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(all, sum, bits);
    const unsigned odd = __ballot_sync(all, lane & 1);
    const unsigned above = __shfl_down_sync(all, lane, 1), below = __shfl_up_sync(all, lane, 1);
    const int count = __syncthreads_count(lane == 3);
    p.output[threadIdx.x] = sum + (odd == 0xaaaaaaaau) + above + below + unsigned(count);
}
