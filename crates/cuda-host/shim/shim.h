// What a kernel sees in place of CUDA's headers when the host compiler compiles it: the threads of
// a block are fibers of one system thread, so that every launch runs in one known order.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// Set by the scheduler before it resumes a thread.
extern __thread uint3 threadIdx, blockIdx;
extern __thread dim3 blockDim, gridDim;

namespace shim {

// Stops the launch with an error.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

inline void check(bool holds, const char* rule) {
    if (!holds) fail("%s", rule);
}

// A kernel as the launcher finds it. Constructors link all kernels of a file into one list.
struct Kernel {
    const char* name;
    size_t params_size;
    unsigned max_threads;
    void (*run)(const void* params);
    Kernel* next;

    Kernel(const char* name, size_t size, unsigned max_threads, void (*run)(const void*));
};

constexpr unsigned first(unsigned threads, unsigned = 0) { return threads; }

// What one lane gives to an exchange between the lanes of a warp.
struct alignas(16) Slot {
    unsigned char bytes[64];
};

// Waits until every lane of the mask is here and returns what each gave, by lane.
const Slot* exchange(unsigned mask, const void* value, size_t size);

unsigned lane();

// Waits until `count` threads of the block are at barrier `id`; 0 means all.
void barrier(unsigned id, unsigned count);

void* static_shared(const void* key, size_t size, size_t alignment);
unsigned char* dynamic_shared();
bool is_shared(const void* address, size_t size);

// A copy that happens at once, or in a launch that runs backward when it is waited for, not before.
void copy_later(void* to, const void* from, size_t size, size_t valid);
void commit_copies();
void wait_copies(unsigned newest_left);

// Leaves the thread until somebody writes another value.
void wait_for_change(const unsigned* word, const char* what);

// A barrier in shared memory (mbarrier): a phase ends when as many have arrived as it was made for, and
// as many bytes as they announced.
struct alignas(8) ArrivalBarrier {
    unsigned state;  // bit 0: the phase's parity; then how many a phase; then how many are missing
    int bytes;       // announced and not there

    void init(unsigned count);
    void arrive(unsigned count, int more_bytes);
    // Until the phase with this parity has ended.
    void wait(unsigned parity) const;
};

// A copy that tells the barrier when it is there: at once, or in a launch that runs backward later.
void copy_bulk(void* to, const void* from, size_t size, ArrivalBarrier* barrier);

template <class T>
inline T slot_value(const Slot& slot) {
    T value;
    memcpy(&value, slot.bytes, sizeof(T));
    return value;
}

template <class T>
inline T shuffle(unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= sizeof(Slot) && std::is_trivially_copyable<T>::value, "");
    const Slot* slots = exchange(mask, &value, sizeof(T));
    check(mask >> source & 1, "a shuffle reads a lane outside its mask");
    return slot_value<T>(slots[source]);
}

template <class T, class F>
inline T reduce(unsigned mask, T value, F combine) {
    const Slot* slots = exchange(mask, &value, sizeof(T));
    bool is_first = true;
    T result = value;
    for (unsigned i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        T other = slot_value<T>(slots[i]);
        result = is_first ? other : combine(result, other);
        is_first = false;
    }
    return result;
}

template <class T, class F>
inline T update(T* address, F f) {
    check(reinterpret_cast<uintptr_t>(address) % sizeof(T) == 0, "an atomic is not aligned");
    T old = *address;
    *address = f(old);
    return old;
}

}  // namespace shim

// `KERNEL(name, Params, max_threads[, min_blocks]) { ... p.field ... }`
#define KERNEL(name, Params, ...)                                                        \
    static void name(const Params& p);                                                   \
    static shim::Kernel kernel_of_##name(                                                \
        #name, sizeof(Params), shim::first(__VA_ARGS__),                                 \
        [](const void* params) { name(*static_cast<const Params*>(params)); });          \
    static void name(const Params& p)
// `SHARED(name, float[32])`: a variable of the block.
#define SHARED(name, ...)                                                                 \
    using type_of_##name = __VA_ARGS__;                                                  \
    static const char key_of_##name = 0;                                                 \
    type_of_##name& name = *static_cast<type_of_##name*>(shim::static_shared(             \
        &key_of_##name, sizeof(type_of_##name), alignof(type_of_##name)))
// `DYNAMIC_SHARED(name)`: the launch's shared bytes, aligned to 128.
#define DYNAMIC_SHARED(name) unsigned char* name = shim::dynamic_shared()

inline void __syncthreads() { shim::barrier(0, 0); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::exchange(mask, nullptr, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}
int __syncthreads_or(int predicate);
int __syncthreads_and(int predicate);
int __syncthreads_count(int predicate);

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    unsigned base = shim::lane() & ~(width - 1u);
    return shim::shuffle(mask, value, base + (source & (width - 1)));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    unsigned lane = shim::lane(), source = lane ^ bits;
    return shim::shuffle(mask, value, source < (lane & ~(width - 1u)) + width ? source : lane);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned lane = shim::lane(), within = lane & (width - 1);
    return shim::shuffle(mask, value, within >= delta ? lane - delta : lane);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned lane = shim::lane(), within = lane & (width - 1);
    return shim::shuffle(mask, value, within + delta < unsigned(width) ? lane + delta : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const shim::Slot* slots = shim::exchange(mask, &predicate, sizeof predicate);
    unsigned ballot = 0;
    for (unsigned i = 0; i < 32; i++) {
        if (mask >> i & 1 && shim::slot_value<int>(slots[i])) ballot |= 1u << i;
    }
    return ballot;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) == mask;
}
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value) {
    const shim::Slot* slots = shim::exchange(mask, &value, sizeof value);
    unsigned match = 0;
    for (unsigned i = 0; i < 32; i++) {
        if (mask >> i & 1 && shim::slot_value<T>(slots[i]) == value) match |= 1u << i;
    }
    return match;
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
    return shim::reduce(mask, value, [](unsigned a, unsigned b) { return a + b; });
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
    return shim::reduce(mask, value, [](unsigned a, unsigned b) { return a > b ? a : b; });
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
    return shim::reduce(mask, value, [](unsigned a, unsigned b) { return a < b ? a : b; });
}

// Blocks run one after the other and fibers never at once: plain updates are atomic.
template <class T>
inline T atomicAdd(T* address, T value) {
    return shim::update(address, [=](T old) { return T(old + value); });
}
template <class T>
inline T atomicMax(T* address, T value) {
    return shim::update(address, [=](T old) { return old > value ? old : value; });
}
template <class T>
inline T atomicMin(T* address, T value) {
    return shim::update(address, [=](T old) { return old < value ? old : value; });
}
template <class T>
inline T atomicOr(T* address, T value) {
    return shim::update(address, [=](T old) { return old | value; });
}
template <class T>
inline T atomicAnd(T* address, T value) {
    return shim::update(address, [=](T old) { return old & value; });
}
template <class T>
inline T atomicExch(T* address, T value) {
    return shim::update(address, [=](T) { return value; });
}
template <class T>
inline T atomicCAS(T* address, T expected, T value) {
    return shim::update(address, [=](T old) { return old == expected ? value : old; });
}

template <class T>
inline T __ldg(const T* address) {
    return *address;
}
template <class T>
inline T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
inline T max(T a, T b) {
    return a < b ? b : a;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
    return y;
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const uint64_t bytes = uint64_t(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= unsigned(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned long long __float2ull_rn(float x) {
    return static_cast<unsigned long long>(nearbyintf(x));
}
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

#include "floats.h"
