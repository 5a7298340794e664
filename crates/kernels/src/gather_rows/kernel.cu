// Copies rows by their ids, whatever the rows hold.
#include "../cuda/device.cuh"

struct GatherParams {
    const unsigned char* table;  // [num_rows, row_bytes]
    const unsigned* ids;         // [ids]; before first_row, or num_rows or more behind it: a row of zeros
    unsigned char* out;          // [ids, row_bytes]
    unsigned num_rows;
    unsigned first_row;  // the id of the table's first row
    int row_bytes;
};

// Blocks of x are ids, those of y parts of a row.
template <class Unit>
__device__ __forceinline__ void gather_units(const GatherParams& p) {
    const int index = blockIdx.y * blockDim.x + threadIdx.x, len = p.row_bytes / int(sizeof(Unit));
    if (index >= len) return;
    const unsigned id = p.ids[blockIdx.x] - p.first_row;
    Unit unit = {};
    if (id < p.num_rows) {
        unit = __ldg(reinterpret_cast<const Unit*>(p.table + size_t(id) * p.row_bytes) + index);
    }
    reinterpret_cast<Unit*>(p.out + size_t(blockIdx.x) * p.row_bytes)[index] = unit;
}

constexpr int MAX_THREADS = 256;

KERNEL(gather_16, GatherParams, MAX_THREADS) { gather_units<uint4>(p); }
KERNEL(gather_2, GatherParams, MAX_THREADS) { gather_units<unsigned short>(p); }
