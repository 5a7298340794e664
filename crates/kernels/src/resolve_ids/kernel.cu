// Puts sampled ids for their stand-ins.
#include "../cuda/device.cuh"

struct ResolveParams {
    unsigned* ids;            // [len]
    const unsigned* records;  // [rows, width]
    int len;
    unsigned num_rows;
    int width;
};

constexpr unsigned PENDING = 1u << 31;
constexpr unsigned FIRST_FAULT = 0xfffffffdu;  // no vocabulary reaches it

KERNEL(resolve_ids, ResolveParams, 256) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.len) return;
    const unsigned id = p.ids[i];
    if (!(id & PENDING)) return;
    const unsigned row = id & ~PENDING;
    const unsigned sampled = row < p.num_rows ? p.records[size_t(row) * p.width] : 0;
    p.ids[i] = sampled >= FIRST_FAULT ? 0 : sampled;
}
