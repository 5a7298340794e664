// The vocabulary of all kernels: element types, 16-byte accesses, reductions, asynchronous copies and
// tensor-core products. With SCONCE_HOST the shim of crates/cuda-host stands in for CUDA's headers.
//
// A kernel is `KERNEL(name, Params, max_threads) { ... p.field ... }`, its shared memory
// `SHARED(name, float[32])` and `DYNAMIC_SHARED(name)`.
#pragma once

#ifdef SCONCE_HOST
#include "shim.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cmath>
#include <cstdint>
#include <type_traits>

template <class T>
struct Identity {
    using Type = T;
};
#define KERNEL(name, Params, ...)                                  \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name( \
        const __grid_constant__ Params p)
#define SHARED(name, ...) __shared__ typename Identity<__VA_ARGS__>::Type name
extern __shared__ __align__(128) unsigned char dynamic_shared[];
#define DYNAMIC_SHARED(name) unsigned char* const name = dynamic_shared
#endif

using bf16 = __nv_bfloat16;
using f16 = __half;
using e4m3 = __nv_fp8_e4m3;

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr unsigned NO_SLOT = 0xffffffffu;  // of a padded row

// --- elements ---

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(f16 x) { return __half2float(x); }
__device__ __forceinline__ float to_float(e4m3 x) { return static_cast<float>(x); }

// To the nearest, ties to even.
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ f16 from_float<f16>(float x) {
    return __float2half_rn(x);
}
template <>
__device__ __forceinline__ e4m3 from_float<e4m3>(float x) {
    return e4m3(x);
}

// The value that storing and loading again would give.
template <class T>
__device__ __forceinline__ float round_to(float x) {
    return to_float(from_float<T>(x));
}

// Two neighbours in one register, the first in the lower half; T is bf16 or f16.
template <class T>
__device__ __forceinline__ uint32_t pair_of(float first, float second);
template <>
__device__ __forceinline__ uint32_t pair_of<bf16>(float first, float second) {
    __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<uint32_t*>(&both);
}
template <>
__device__ __forceinline__ uint32_t pair_of<f16>(float first, float second) {
    __half2 both = __floats2half2_rn(first, second);
    return *reinterpret_cast<uint32_t*>(&both);
}

// --- 16 bytes at a time ---

// 16 bytes of elements.
template <class T>
struct alignas(16) Pack {
    static constexpr int LEN = 16 / sizeof(T);
    T x[LEN];
};

__device__ __forceinline__ bool is_aligned_16(const void* address) {
    return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// One 16-byte load; the address must be aligned.
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* address) {
    Pack<T> pack;
    *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(address);
    return pack;
}

// As load_pack, of memory that no thread writes while the kernel runs.
template <class T>
__device__ __forceinline__ Pack<T> load_constant_pack(const T* address) {
    Pack<T> pack;
    *reinterpret_cast<uint4*>(&pack) = __ldg(reinterpret_cast<const uint4*>(address));
    return pack;
}

// As load_constant_pack, of what this block reads once: it leaves the L1 cache to others.
template <class T>
__device__ __forceinline__ Pack<T> load_streamed_pack(const T* address) {
    Pack<T> pack;
#ifdef SCONCE_HOST
    pack = load_pack(address);
#else
    uint4 bits;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                 : "l"(address));
    *reinterpret_cast<uint4*>(&pack) = bits;
#endif
    return pack;
}

template <class T>
__device__ __forceinline__ void store_pack(T* address, const Pack<T>& pack) {
    *reinterpret_cast<uint4*>(address) = *reinterpret_cast<const uint4*>(&pack);
}

// Pack `index` of a row of `len` elements, zeros behind its end. `is_aligned` speaks of the row's
// start. Which thread takes which elements must not depend on it: then no sum does.
template <class T>
__device__ __forceinline__ Pack<T> load_row_pack(const T* row, int index, int len,
                                                 bool is_aligned) {
    const int start = index * Pack<T>::LEN;
    if (is_aligned && start + Pack<T>::LEN <= len) return load_pack(row + start);
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) {
        pack.x[i] = start + i < len ? row[start + i] : from_float<T>(0.0f);
    }
    return pack;
}

template <class T>
__device__ __forceinline__ void store_row_pack(T* row, int index, int len, bool is_aligned,
                                               const Pack<T>& pack) {
    const int start = index * Pack<T>::LEN;
    if (is_aligned && start + Pack<T>::LEN <= len) {
        store_pack(row + start, pack);
        return;
    }
#pragma unroll
    for (int i = 0; i < Pack<T>::LEN; i++) {
        if (start + i < len) row[start + i] = pack.x[i];
    }
}

// Reads what another block wrote in this launch: from the L2 cache, which all blocks share.
template <class T>
__device__ __forceinline__ T load_shared_by_blocks(const T* address) {
#ifdef SCONCE_HOST
    return *address;
#else
    return __ldcg(address);
#endif
}

// 2^x to 2 units in the last place; results below 2^-126 are 0.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef SCONCE_HOST
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// --- reductions; every thread gets the result, in an order that is always the same ---

struct Sum {
    template <class T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        return a + b;
    }
};
struct Max {
    template <class T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        return a > b ? a : b;
    }
};
struct Min {
    template <class T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        return a < b ? a : b;
    }
};

// Over groups of `width` lanes, of which each is `step` behind the one before (powers of two).
template <int width = 32, int step = 1, class T, class F>
__device__ __forceinline__ T warp_reduce(T value, F combine) {
#pragma unroll
    for (int bits = width * step / 2; bits >= step; bits /= 2) {
        value = combine(value, __shfl_xor_sync(ALL_LANES, value, bits));
    }
    return value;
}

// Over a block of one dimension, whole warps. `scratch` (one element a warp) is free again behind the
// next barrier.
template <class T, class F>
__device__ __forceinline__ T block_reduce(T value, F combine, T* scratch) {
    value = warp_reduce(value, combine);
    if (blockDim.x <= 32) return value;
    const int lane = threadIdx.x % 32, num_warps = blockDim.x / 32;
    if (lane == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    // Lanes beyond the warps repeat the first, which a sum may not count.
    T result = scratch[0];
    for (int i = 1; i < num_warps; i++) result = combine(result, scratch[i]);
    return result;
}

// --- asynchronous copies, global to shared memory ---

// 16 bytes, past the L1 cache; if not `is_valid` zeros are written and nothing is read.
__device__ __forceinline__ void copy_async_16(void* to, const void* from, bool is_valid = true) {
#ifdef SCONCE_HOST
    shim::copy_later(to, from, 16, is_valid ? 16 : 0);
#else
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(from),
                 "r"(is_valid ? 16 : 0)
                 : "memory");
#endif
}

// The copies of this thread since the last call are a group.
__device__ __forceinline__ void commit_copies() {
#ifdef SCONCE_HOST
    shim::commit_copies();
#else
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits for all of this thread's groups but the newest `newest_left`. Other threads see the data after
// a barrier.
template <int newest_left>
__device__ __forceinline__ void wait_copies() {
#ifdef SCONCE_HOST
    shim::wait_copies(newest_left);
#else
    asm volatile("cp.async.wait_group %0;\n" ::"n"(newest_left) : "memory");
#endif
}

// --- tensor cores ---
//
// Fragments of a warp, with g = lane / 4 and t = lane % 4; pairs of neighbours in one register:
//   a (16 x 16): a[0] = (g, 2t), a[1] = (g + 8, 2t), a[2] = (g, 2t + 8), a[3] = (g + 8, 2t + 8)
//   b (16 x 8):  b[0] = (2t, g), b[1] = (2t + 8, g), where a pair is two rows of one column
//   c (16 x 8):  c[0], c[1] = (g, 2t), (g, 2t + 1); c[2], c[3] = (g + 8, 2t), (g + 8, 2t + 1)

// Loads 8 x 8 matrices of 16-bit elements from shared memory: lanes 8 i to 8 i + 7 give the rows (16
// bytes, aligned) of matrix i; the lane gets (g, 2t) and (g, 2t + 1) of each, or with `transposed`
// (2t, g) and (2t + 1, g).
template <int num, bool transposed>
__device__ __forceinline__ void load_matrices(uint32_t (&out)[num], const void* row) {
    static_assert(num == 1 || num == 2 || num == 4, "ldmatrix loads 1, 2 or 4");
#ifdef SCONCE_HOST
    const unsigned lane = shim::lane(), g = lane / 4, t = lane % 4;
    const shim::Slot* slots = shim::exchange(ALL_LANES, &row, sizeof row);
    if (lane < 8 * num) {
        shim::check(shim::is_shared(row, 16), "ldmatrix reads elsewhere than in shared memory");
        shim::check(is_aligned_16(row), "a row of ldmatrix is not aligned to 16 bytes");
    }
    for (int i = 0; i < num; i++) {
        auto element = [&](unsigned r, unsigned c) {
            return uint32_t(shim::slot_value<const uint16_t*>(slots[8 * i + r])[c]);
        };
        out[i] = transposed ? element(2 * t, g) | element(2 * t + 1, g) << 16
                            : element(g, 2 * t) | element(g, 2 * t + 1) << 16;
    }
#else
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if constexpr (num == 1 && !transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];\n"
                     : "=r"(out[0])
                     : "r"(shared)
                     : "memory");
    } else if constexpr (num == 1) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];\n"
                     : "=r"(out[0])
                     : "r"(shared)
                     : "memory");
    } else if constexpr (num == 2 && !transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
                     : "=r"(out[0]), "=r"(out[1])
                     : "r"(shared)
                     : "memory");
    } else if constexpr (num == 2) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
                     : "=r"(out[0]), "=r"(out[1])
                     : "r"(shared)
                     : "memory");
    } else if constexpr (!transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(shared)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(shared)
                     : "memory");
    }
#endif
}

#ifdef SCONCE_HOST
template <class T>
inline float element_of_pair(uint32_t pair, int index) {
    uint16_t bits = uint16_t(pair >> (16 * index));
    T element;
    memcpy(&element, &bits, sizeof bits);
    return to_float(element);
}
#endif

// Element by element; T is bf16 or f16.
template <class T>
__device__ __forceinline__ uint32_t multiply_pair(uint32_t a, uint32_t b) {
#ifdef SCONCE_HOST
    return pair_of<T>(element_of_pair<T>(a, 0) * element_of_pair<T>(b, 0),
                      element_of_pair<T>(a, 1) * element_of_pair<T>(b, 1));
#else
    constexpr bool is_bf16 = std::is_same<T, bf16>::value;
    using Both = typename std::conditional<is_bf16, __nv_bfloat162, __half2>::type;
    const Both product = __hmul2(*reinterpret_cast<const Both*>(&a), *reinterpret_cast<const Both*>(&b));
    return *reinterpret_cast<const uint32_t*>(&product);
#endif
}

// Four e4m3 (the first in the lowest byte) to two pairs of bf16 or f16, exactly, on every device: the
// bits are moved to where the wider type has them, which leaves an exponent that is too small by the
// difference of the biases, and a product corrects it. NaN becomes 480.
template <class T>
__device__ __forceinline__ void widen_e4m3(uint32_t (&pairs)[2], uint32_t four) {
    constexpr bool is_bf16 = std::is_same<T, bf16>::value;
    constexpr int shift = is_bf16 ? 4 : 1;  // down from the top of 16 bits
    constexpr uint32_t magnitude = 0x7f007f00u >> shift;
    constexpr uint32_t factor = is_bf16 ? 0x7b807b80u : 0x5c005c00u;  // 2^120, 2^8
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t top = __byte_perm(four, 0, i == 0 ? 0x1404 : 0x3424);
        pairs[i] = multiply_pair<T>((top & 0x80008000u) | (top >> shift & magnitude), factor);
    }
}

// As widen_e4m3<f16>, with the instruction that devices from sm_89 on have for it: a quarter of the
// work. NaN stays NaN there.
__device__ __forceinline__ void convert_e4m3(uint32_t (&pairs)[2], uint32_t four) {
#if !defined(SCONCE_HOST) && __CUDA_ARCH__ >= 890
#pragma unroll
    for (int i = 0; i < 2; i++) {
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;"
            : "=r"(pairs[i])
            : "h"(static_cast<uint16_t>(four >> (16 * i))));
    }
#else
    widen_e4m3<f16>(pairs, four);
#endif
}

// A pair of T as a pair of U, each to the nearest; what is too large for it becomes its largest.
template <class T, class U>
__device__ __forceinline__ uint32_t convert_pair(uint32_t pair) {
    if constexpr (std::is_same<T, U>::value) {
        return pair;
    } else {
        static_assert(std::is_same<U, f16>::value, "to f16");
        T both[2];
        memcpy(both, &pair, sizeof pair);
        const float largest = 65504.0f;
        return pair_of<U>(fminf(fmaxf(to_float(both[0]), -largest), largest),
                          fminf(fmaxf(to_float(both[1]), -largest), largest));
    }
}

// Transposes an 8 x 8 matrix of 16-bit elements, of which a lane has (g, 2t) and (g, 2t + 1).
__device__ __forceinline__ uint32_t transpose_matrix(uint32_t pair) {
#ifdef SCONCE_HOST
    const unsigned lane = shim::lane(), g = lane / 4, t = lane % 4;
    const shim::Slot* slots = shim::exchange(ALL_LANES, &pair, sizeof pair);
    auto element = [&](unsigned r, unsigned c) {
        const uint32_t of_row = shim::slot_value<uint32_t>(slots[4 * r + c / 2]);
        return of_row >> (16 * (c % 2)) & 0xffffu;
    };
    return element(2 * t, g) | element(2 * t + 1, g) << 16;
#else
    uint32_t transposed;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
    return transposed;
#endif
}

// c += a b, 16 x 8 x 16, of bf16 or f16 with sums in f32.
template <class T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
#ifdef SCONCE_HOST
    struct Fragments {
        uint32_t a[4], b[2];
    } mine;
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    const unsigned lane = shim::lane(), g = lane / 4, t = lane % 4;
    const shim::Slot* slots = shim::exchange(ALL_LANES, &mine, sizeof mine);
    // The rows and columns of the lane's elements.
    float of_a[2][16], of_b[2][16];
    for (unsigned k = 0; k < 16; k++) {
        const unsigned is_right = k / 8, holder = k % 8 / 2;
        for (unsigned i = 0; i < 2; i++) {
            Fragments other;
            memcpy(&other, slots[4 * g + holder].bytes, sizeof other);
            of_a[i][k] = element_of_pair<T>(other.a[2 * is_right + i], k % 2);
            memcpy(&other, slots[4 * (2 * t + i) + holder].bytes, sizeof other);
            of_b[i][k] = element_of_pair<T>(other.b[is_right], k % 2);
        }
    }
    for (int i = 0; i < 4; i++) {
        float sum = 0.0f;
        for (unsigned k = 0; k < 16; k++) sum += of_a[i / 2][k] * of_b[i % 2][k];
        c[i] += sum;
    }
#else
    if constexpr (std::is_same<T, bf16>::value) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        static_assert(std::is_same<T, f16>::value, "bf16 or f16");
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
#endif
}
