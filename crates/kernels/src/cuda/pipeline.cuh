// What a launch is made of that stays on the device: copies by the copy engine with barriers that count
// their bytes, and a barrier of all blocks.
#pragma once
#include "device.cuh"

// Hopper and Blackwell for data centres: the other Blackwell has half of their shared memory.
#if defined(SCONCE_HOST) || (__CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200)
#define HAS_BULK_COPIES 1
#else
#define HAS_BULK_COPIES 0
#endif

// A barrier in shared memory (PTX: mbarrier). A phase ends when as many threads have arrived as it was
// made for, and as many bytes as they announced. Phases have the parities 0, 1, 0, ...
#ifdef SCONCE_HOST
using ArrivalBarrier = shim::ArrivalBarrier;
#else
struct alignas(8) ArrivalBarrier {
    uint64_t state;
};
#endif

#if HAS_BULK_COPIES

#ifndef SCONCE_HOST
__device__ __forceinline__ uint32_t shared_address(const void* at) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}
#endif

// By one thread, before the others' next __syncthreads.
__device__ __forceinline__ void init_barrier(ArrivalBarrier& barrier, unsigned count) {
#ifdef SCONCE_HOST
    barrier.init(count);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(&barrier)), "r"(count)
                 : "memory");
    // The copy engine must see it, too.
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
#endif
}

__device__ __forceinline__ void arrive(ArrivalBarrier& barrier) {
#ifdef SCONCE_HOST
    barrier.arrive(1, 0);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(&barrier)) : "memory");
#endif
}

// Arrives, and announces bytes that copies will bring.
__device__ __forceinline__ void arrive_with_bytes(ArrivalBarrier& barrier, unsigned bytes) {
#ifdef SCONCE_HOST
    barrier.arrive(1, int(bytes));
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(&barrier)),
                 "r"(bytes)
                 : "memory");
#endif
}

// Until the phase with this parity has ended.
__device__ __forceinline__ void wait_for(ArrivalBarrier& barrier, unsigned parity) {
#ifdef SCONCE_HOST
    barrier.wait(parity);
#else
    uint32_t has_ended;
    do {
        asm volatile(
            "{\n.reg .pred ended;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
            "selp.u32 %0, 1, 0, ended;\n}\n"
            : "=r"(has_ended)
            : "r"(shared_address(&barrier)), "r"(parity)
            : "memory");
    } while (!has_ended);
#endif
}

// Copies `bytes` from global to shared memory, whole 16 at addresses that are multiples of 16, and tells
// the barrier.
__device__ __forceinline__ void copy_bulk(void* to, const void* from, unsigned bytes,
                                          ArrivalBarrier& barrier) {
#ifdef SCONCE_HOST
    shim::copy_bulk(to, from, bytes, &barrier);
#else
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
            shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(&barrier))
        : "memory");
#endif
}

// Four warps together leave registers to others of the block, or take them: from then on a thread has so many.
// Only code for one kind of device may say it.
template <unsigned num>
__device__ __forceinline__ void leave_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(num));
#endif
}

template <unsigned num>
__device__ __forceinline__ void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(num));
#endif
}

#endif  // HAS_BULK_COPIES

__device__ __forceinline__ void prefetch_to_l2(const void* address) {
#ifndef SCONCE_HOST
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(address));
#else
    (void)address;
#endif
}

// A barrier of so many threads of a block, whole warps. Number 0 is that of __syncthreads.
__device__ __forceinline__ void team_barrier(unsigned id, unsigned threads) {
#ifdef SCONCE_HOST
    shim::barrier(id, threads);
#else
    asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
#endif
}

// Lets the blocks of a cooperative launch wait for each other, by a counter that is zero before and
// after it: for the 1st, 2nd ... time, `number`. What a thread wrote before it arrived can be read behind
// the wait, but not by ld.global.nc. `THREADS` of a block call both, whole warps that share the barrier
// `ID`; the others do not write.
template <unsigned ID, unsigned THREADS>
struct GridWait {
    unsigned* const counter;
    const unsigned number;

    // Between this and wait() a thread may do what does not depend on other blocks.
    __device__ __forceinline__ void arrive() const {
        team_barrier(ID, THREADS);
        if (threadIdx.x != 0) return;
#ifdef SCONCE_HOST
        atomicAdd(counter, 1u);
#else
        // Lighter than __threadfence, whose order is one for the whole device.
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;\n" ::"l"(counter) : "memory");
#endif
    }

    __device__ __forceinline__ void wait() const {
        if (threadIdx.x == 0) {
            const unsigned target = number * gridDim.x;
#ifdef SCONCE_HOST
            while (*counter < target) shim::wait_for_change(counter, "the grid's barrier");
#else
            unsigned arrived;
            do {
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n"
                             : "=r"(arrived)
                             : "l"(counter)
                             : "memory");
            } while (arrived < target);
#endif
        }
        team_barrier(ID, THREADS);
    }
};

// Instead of the last wait: the last block leaves the counter at zero.
__device__ __forceinline__ void leave_grid(unsigned* counter, unsigned number) {
    if (atomicAdd(counter, 1u) + 1 == number * gridDim.x) *counter = 0;
}
