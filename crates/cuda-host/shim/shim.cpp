// The scheduler: runs the blocks of a launch one after the other, or those of a cooperative one side by
// side, the threads of a block as fibers that change only where the kernel waits.
#include "shim.h"

#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <memory>
#include <mutex>
#include <vector>

#include "memory.h"

__thread uint3 threadIdx, blockIdx;
__thread dim3 blockDim, gridDim;

namespace {

constexpr size_t STACK_SIZE = 256 << 10;
constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned MAX_BARRIERS = 16;
// What a block may have on Hopper; Ampere has 163 KiB.
constexpr size_t MAX_SHARED = 227 << 10;
constexpr size_t RED_ZONE = 64;

struct Copy {
    void* to;
    const void* from;
    size_t size, valid;
    unsigned group;
};

struct Block;

struct Fiber {
    Block* block;
    ucontext_t start;
    jmp_buf resume;
    bool is_started = false;
    bool is_done = true;
    uint3 index;
    unsigned linear;
    // Waits while the counter has this value.
    const unsigned* counter = nullptr;
    unsigned value;
    const char* waits_for;
    std::vector<Copy> copies;
    unsigned copy_group;
};

// Where lanes of one warp with one mask meet.
struct Meeting {
    unsigned mask, arrived, generation;
    size_t size;
    shim::Slot slots[2][32];
};

struct Warp {
    unsigned lanes;  // that exist
    unsigned num_meetings;
    Meeting meetings[8];
};

struct Barrier {
    unsigned arrived, expected, generation;
};

struct StaticShared {
    const void* key;
    unsigned char* data;
    size_t size;
};

// A block that runs, and its shared memory.
struct Block {
    Block();
    ~Block();
    Block(const Block&) = delete;
    uint3 index;
    unsigned char* shared;   // dynamic: ends at a guard page
    unsigned char* statics;  // variables, with red zones between them
    size_t statics_used = 0;
    std::vector<StaticShared> variables;
    std::vector<Warp> warps;
    Barrier barriers[MAX_BARRIERS];
};

// A copy by the device's copy engine, which tells a barrier in shared memory.
struct BulkCopy {
    void* to;
    const void* from;
    size_t size;
    shim::ArrivalBarrier* barrier;
};

struct Launch {
    const shim::Kernel* kernel;
    const void* params;
    unsigned char poison;
    bool is_backward;
    char* error;
    size_t error_size;
    sigjmp_buf abort;
};

// A system thread's fibers and blocks, kept from launch to launch and freed when it ends.
struct Machine {
    Machine();
    ~Machine();
    Machine(const Machine&) = delete;
    Fiber* fibers = nullptr;
    unsigned char* stacks = nullptr;
    std::vector<std::unique_ptr<Block>> blocks;  // that run side by side
    std::vector<BulkCopy> bulk_copies;           // under way
    size_t dynamic_size = 0;
    unsigned num_threads = 0;  // of a block
    Launch* launch = nullptr;
    Fiber* current = nullptr;
    jmp_buf scheduler;
};

__thread Machine* machine = nullptr;
thread_local std::unique_ptr<Machine> owner;  // of `machine`
shim::Kernel* kernels = nullptr;
struct sigaction old_actions[32];

size_t page() { return size_t(sysconf(_SC_PAGESIZE)); }

size_t whole_pages(size_t size) { return (size + page() - 1) / page() * page(); }

// `size` bytes between guard pages.
unsigned char* map(size_t size) {
    size_t pages = whole_pages(size);
    void* base = mmap(nullptr, pages + 2 * page(), PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) abort();
    unsigned char* start = static_cast<unsigned char*>(base) + page();
    if (mprotect(start, pages, PROT_READ | PROT_WRITE) != 0) abort();
    return start;
}

// What `map` gave for `size` bytes.
void unmap(unsigned char* start, size_t size) {
    munmap(start - page(), whole_pages(size) + 2 * page());
}

void fiber_main() {
    Machine* m = machine;
    for (;;) {
        m->launch->kernel->run(m->launch->params);
        m->current->is_done = true;
        if (_setjmp(m->current->resume) == 0) _longjmp(m->scheduler, 1);
    }
}

void start_fibers(Machine* m) {
    delete[] m->fibers;
    m->fibers = new Fiber[MAX_THREADS];
    for (unsigned i = 0; i < MAX_THREADS; i++) {
        // The lowest page of each stack is a guard.
        unsigned char* stack = m->stacks + i * STACK_SIZE;
        mprotect(stack, page(), PROT_NONE);
        getcontext(&m->fibers[i].start);
        m->fibers[i].start.uc_stack.ss_sp = stack + page();
        m->fibers[i].start.uc_stack.ss_size = STACK_SIZE - page();
        m->fibers[i].start.uc_link = nullptr;
        makecontext(&m->fibers[i].start, fiber_main, 0);
    }
}

Block::Block() : statics(map(2 * MAX_SHARED)) {
    // Dynamic memory ends where the guard page starts.
    shared = map(MAX_SHARED) + whole_pages(MAX_SHARED) - MAX_SHARED;
}

Block::~Block() {
    unmap(statics, 2 * MAX_SHARED);
    unmap(shared + MAX_SHARED - whole_pages(MAX_SHARED), MAX_SHARED);
}

Machine::Machine() : stacks(map(STACK_SIZE * MAX_THREADS)) {}

Machine::~Machine() {
    unmap(stacks, STACK_SIZE * MAX_THREADS);
    delete[] fibers;
}

// Runs a fiber until it waits or is done.
void resume(Machine* m, Fiber* fiber) {
    m->current = fiber;
    threadIdx = fiber->index;
    blockIdx = fiber->block->index;
    if (_setjmp(m->scheduler) == 0) {
        if (fiber->is_started) _longjmp(fiber->resume, 1);
        fiber->is_started = true;
        setcontext(&fiber->start);
    }
    m->current = nullptr;
}

// Leaves the fiber until the counter has another value.
void wait_while(const unsigned* counter, unsigned value, const char* what) {
    Fiber* fiber = machine->current;
    fiber->counter = counter;
    fiber->value = value;
    fiber->waits_for = what;
    if (_setjmp(fiber->resume) == 0) _longjmp(machine->scheduler, 1);
}

[[noreturn]] void abort_launch(const char* message) {
    Machine* m = machine;
    Launch* launch = m->launch;
    int used = snprintf(launch->error, launch->error_size, "%s, block (%u, %u, %u)",
                        launch->kernel->name, blockIdx.x, blockIdx.y, blockIdx.z);
    size_t at = size_t(used) < launch->error_size ? size_t(used) : launch->error_size - 1;
    if (m->current) {
        uint3 t = m->current->index;
        int more = snprintf(launch->error + at, launch->error_size - at, ", thread (%u, %u, %u)",
                            t.x, t.y, t.z);
        at = at + size_t(more) < launch->error_size ? at + size_t(more) : launch->error_size - 1;
    }
    snprintf(launch->error + at, launch->error_size - at, ": %s", message);
    siglongjmp(launch->abort, 1);
}

void on_signal(int signal, siginfo_t* info, void* context) {
    if (!machine || !machine->launch) {
        // Not ours: as it was before.
        sigaction(signal, &old_actions[signal], nullptr);
        raise(signal);
        return;
    }
    (void)context;
    char text[200];
    if (signal == SIGSEGV || signal == SIGBUS) {
        char where[160];
        shim::describe(info->si_addr, where, sizeof where);
        snprintf(text, sizeof text, "it touches %s", where);
    } else {
        snprintf(text, sizeof text, "undefined behaviour: a misaligned access, an index or a shift "
                                    "out of range, or an overflow");
    }
    abort_launch(text);
}

void catch_signals() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        for (int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) {
            sigaction(signal, &action, &old_actions[signal]);
        }
    });
}

// The block of the launch with this number, as the machine's block `place`.
void begin_block(Machine* m, size_t number, size_t place) {
    const Launch& launch = *m->launch;
    while (m->blocks.size() <= place) m->blocks.push_back(std::make_unique<Block>());
    Block& block = *m->blocks[place];
    block.index = {unsigned(number % gridDim.x), unsigned(number / gridDim.x % gridDim.y),
                   unsigned(number / gridDim.x / gridDim.y)};
    memset(block.shared + (MAX_SHARED - m->dynamic_size), launch.poison, m->dynamic_size);
    memset(block.statics, launch.poison, block.statics_used);
    block.statics_used = 0;
    block.variables.clear();
    memset(block.barriers, 0, sizeof block.barriers);
    block.warps.resize((m->num_threads + 31) / 32);
    for (unsigned i = 0; i < block.warps.size(); i++) {
        unsigned in_warp = m->num_threads - 32 * i;
        block.warps[i].lanes = in_warp >= 32 ? ~0u : (1u << in_warp) - 1;
        block.warps[i].num_meetings = 0;
    }
    for (unsigned i = 0; i < m->num_threads; i++) {
        Fiber& fiber = m->fibers[place * m->num_threads + i];
        fiber.block = &block;
        fiber.is_done = false;
        fiber.counter = nullptr;
        fiber.linear = i;
        fiber.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        fiber.copies.clear();
        fiber.copy_group = 0;
    }
}

void report_deadlock(Machine* m, unsigned num_fibers) {
    unsigned num_done = 0;
    const Fiber* waiting = nullptr;
    for (unsigned i = 0; i < num_fibers; i++) {
        num_done += m->fibers[i].is_done;
        if (!m->fibers[i].is_done && !waiting) waiting = &m->fibers[i];
    }
    char text[200];
    snprintf(text, sizeof text, "deadlock: %u of %u threads have returned, thread %u waits at %s",
             num_done, num_fibers, waiting->linear, waiting->waits_for);
    blockIdx = waiting->block->index;
    abort_launch(text);
}

void end_block(Machine* m, const Block& block) {
    blockIdx = block.index;
    for (const StaticShared& variable : block.variables) {
        for (size_t i = 0; i < RED_ZONE; i++) {
            if (variable.data[variable.size + i] != m->launch->poison) {
                abort_launch("it writes behind a shared variable");
            }
        }
    }
}

// Lets the copies arrive that were asked for until now, the last one first. Returns whether there were
// any.
bool perform_bulk_copies(Machine* m) {
    std::vector<BulkCopy> copies;
    copies.swap(m->bulk_copies);
    for (size_t i = copies.size(); i-- > 0;) {
        const BulkCopy& copy = copies[i];
        memcpy(copy.to, copy.from, copy.size);
        copy.barrier->arrive(0, -int(copy.size));
    }
    return !copies.empty();
}

// Runs the blocks of the launch from `first` on side by side, `count` of them.
void run_blocks(Machine* m, size_t first, size_t count) {
    for (size_t i = 0; i < count; i++) begin_block(m, first + i, i);
    const unsigned num_fibers = unsigned(count) * m->num_threads;
    unsigned left = num_fibers;
    while (left > 0) {
        bool has_progress = false;
        for (unsigned i = 0; i < num_fibers; i++) {
            Fiber* fiber = &m->fibers[m->launch->is_backward ? num_fibers - 1 - i : i];
            if (fiber->is_done || (fiber->counter && *fiber->counter == fiber->value)) continue;
            fiber->counter = nullptr;
            resume(m, fiber);
            has_progress = true;
            left -= fiber->is_done;
        }
        has_progress |= perform_bulk_copies(m);
        if (!has_progress) report_deadlock(m, num_fibers);
    }
    for (size_t i = 0; i < count; i++) end_block(m, *m->blocks[i]);
}

void perform(const Copy& copy) {
    memset(copy.to, 0, copy.size);
    memcpy(copy.to, copy.from, copy.valid);
}

}  // namespace

namespace shim {

Kernel::Kernel(const char* name, size_t size, unsigned max_threads, void (*run)(const void*))
    : name(name), params_size(size), max_threads(max_threads), run(run), next(kernels) {
    kernels = this;
}

void fail(const char* format, ...) {
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    abort_launch(text);
}

unsigned lane() { return machine->current->linear % 32; }

const Slot* exchange(unsigned mask, const void* value, size_t size) {
    const Fiber* fiber = machine->current;
    Warp& warp = fiber->block->warps[fiber->linear / 32];
    unsigned bit = 1u << lane();
    check(mask & bit, "a lane calls a warp function with a mask that it is not in");
    mask &= warp.lanes;
    unsigned i = 0;
    while (i < warp.num_meetings && warp.meetings[i].mask != mask) i++;
    check(i < 8, "a warp uses more than 8 masks");
    Meeting& meeting = warp.meetings[i];
    if (i == warp.num_meetings) {
        warp.num_meetings++;
        meeting.mask = mask;
        meeting.arrived = meeting.generation = 0;
    }
    if (meeting.arrived == 0) meeting.size = size;
    check(meeting.size == size, "lanes of a warp meet at different functions");
    unsigned generation = meeting.generation;
    Slot* slots = meeting.slots[generation & 1];
    if (size > 0) memcpy(slots[lane()].bytes, value, size);
    meeting.arrived |= bit;
    if (meeting.arrived == mask) {
        meeting.arrived = 0;
        meeting.generation++;
    } else {
        wait_while(&meeting.generation, generation, "a warp function");
    }
    return slots;
}

void barrier(unsigned id, unsigned count) {
    Machine* m = machine;
    check(id < MAX_BARRIERS, "a block has 16 barriers");
    if (count == 0) count = m->num_threads;
    Barrier& barrier = m->current->block->barriers[id];
    if (barrier.arrived == 0) barrier.expected = count;
    check(barrier.expected == count, "threads meet at one barrier with different counts");
    unsigned generation = barrier.generation;
    if (++barrier.arrived == count) {
        barrier.arrived = 0;
        barrier.generation++;
    } else {
        wait_while(&barrier.generation, generation, "a barrier of the block");
    }
}

void* static_shared(const void* key, size_t size, size_t alignment) {
    Machine* m = machine;
    Block& block = *m->current->block;
    for (const StaticShared& variable : block.variables) {
        if (variable.key == key) return variable.data;
    }
    if (alignment < 16) alignment = 16;
    size_t at = (block.statics_used + alignment - 1) / alignment * alignment;
    size_t used = at + size + RED_ZONE;
    check(at + size + m->dynamic_size <= MAX_SHARED, "more shared memory than a block may have");
    memset(block.statics + block.statics_used, m->launch->poison, used - block.statics_used);
    block.statics_used = used;
    block.variables.push_back({key, block.statics + at, size});
    return block.statics + at;
}

unsigned char* dynamic_shared() {
    return machine->current->block->shared + (MAX_SHARED - machine->dynamic_size);
}

bool is_shared(const void* address, size_t size) {
    const unsigned char* at = static_cast<const unsigned char*>(address);
    const Block& block = *machine->current->block;
    const unsigned char* dynamic = dynamic_shared();
    return (at >= dynamic && at + size <= dynamic + machine->dynamic_size) ||
           (at >= block.statics && at + size <= block.statics + block.statics_used);
}

void copy_later(void* to, const void* from, size_t size, size_t valid) {
    check(is_shared(to, size), "an asynchronous copy goes elsewhere than to shared memory");
    bool is_aligned = reinterpret_cast<uintptr_t>(to) % size == 0 &&
                      (valid == 0 || reinterpret_cast<uintptr_t>(from) % size == 0);
    check(is_aligned, "an asynchronous copy is not aligned");
    Fiber* fiber = machine->current;
    const Copy copy = {to, from, size, valid, fiber->copy_group};
    if (machine->launch->is_backward) {
        fiber->copies.push_back(copy);
    } else {
        perform(copy);
    }
}

void commit_copies() { machine->current->copy_group++; }

void wait_copies(unsigned newest_left) {
    Fiber* fiber = machine->current;
    size_t num_kept = 0;
    for (const Copy& copy : fiber->copies) {
        if (copy.group + newest_left < fiber->copy_group) {
            perform(copy);
        } else {
            fiber->copies[num_kept++] = copy;
        }
    }
    fiber->copies.resize(num_kept);
}

void wait_for_change(const unsigned* word, const char* what) { wait_while(word, *word, what); }

void ArrivalBarrier::init(unsigned count) {
    check(is_shared(this, sizeof *this), "an arrival barrier lies elsewhere than in shared memory");
    check(count > 0 && count < 1 << 15, "an arrival barrier's count is out of range");
    state = count << 1 | count << 16;
    bytes = 0;
}

void ArrivalBarrier::arrive(unsigned count, int more_bytes) {
    check(state >> 16 >= count, "more arrive at a barrier than it was made for");
    state -= count << 16;
    bytes += more_bytes;
    // The next phase begins, with as many to arrive again.
    if (state >> 16 == 0 && bytes == 0) state = (state ^ 1) | (state >> 1 & 0x7fff) << 16;
}

void ArrivalBarrier::wait(unsigned parity) const {
    while ((state & 1) == parity) wait_for_change(&state, "an arrival barrier");
}

void copy_bulk(void* to, const void* from, size_t size, ArrivalBarrier* barrier) {
    check(is_shared(to, size), "a bulk copy goes elsewhere than to shared memory");
    bool is_aligned = reinterpret_cast<uintptr_t>(to) % 16 == 0 &&
                      reinterpret_cast<uintptr_t>(from) % 16 == 0 && size % 16 == 0;
    check(is_aligned && size > 0, "a bulk copy is not of whole 16 bytes");
    machine->bulk_copies.push_back({to, from, size, barrier});
    if (!machine->launch->is_backward) perform_bulk_copies(machine);
}

}  // namespace shim

// One predicate a thread; all get the number of true ones.
int __syncthreads_count(int predicate) {
    SHARED(counts, int[2]);
    if (machine->current->linear == 0) counts[0] = 0;
    __syncthreads();
    counts[0] += predicate != 0;
    __syncthreads();
    int count = counts[0];
    __syncthreads();
    return count;
}
int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) > 0; }
int __syncthreads_and(int predicate) {
    return __syncthreads_count(predicate) == int(machine->num_threads);
}

extern "C" {

// Runs a kernel to its end. Returns 0, or 1 with a message in `error`.
int sconce_launch(const char* name, const unsigned* grid, const unsigned* block,
                  size_t shared_bytes, const void* params, size_t params_size,
                  unsigned char poison, bool is_backward, bool is_cooperative, char* error,
                  size_t error_size) {
    const shim::Kernel* kernel = kernels;
    while (kernel && strcmp(kernel->name, name) != 0) kernel = kernel->next;
    auto refuse = [&](const char* why) {
        snprintf(error, error_size, "%s: %s", name, why);
        return 1;
    };
    if (!kernel) return refuse("there is no such kernel");
    if (kernel->params_size != params_size) return refuse("its parameters have another size");
    size_t num_threads = size_t(block[0]) * block[1] * block[2];
    if (num_threads == 0 || num_threads > kernel->max_threads || num_threads > MAX_THREADS) {
        return refuse("a block has no threads, or more than the kernel's launch bounds");
    }
    for (int i = 0; i < 3; i++) {
        if (grid[i] == 0 || (i > 0 && grid[i] > 65535)) return refuse("the grid is out of range");
    }
    if (shared_bytes > MAX_SHARED) return refuse("more shared memory than a block may have");
    const size_t num_blocks = size_t(grid[0]) * grid[1] * grid[2];
    if (is_cooperative && num_blocks * num_threads > MAX_THREADS) {
        return refuse("blocks that are not there at once cannot wait for each other");
    }

    catch_signals();
    if (!machine) {
        owner = std::make_unique<Machine>();
        machine = owner.get();
        start_fibers(machine);
    }
    Machine* m = machine;
    Launch launch = {kernel, params, poison, is_backward, error, error_size, {}};
    m->launch = &launch;
    m->dynamic_size = (shared_bytes + 127) / 128 * 128;
    m->num_threads = unsigned(num_threads);
    m->bulk_copies.clear();
    blockDim = {block[0], block[1], block[2]};
    gridDim = {grid[0], grid[1], grid[2]};
    if (sigsetjmp(launch.abort, 1) != 0) {
        // The fibers are somewhere in the kernel.
        machine->launch = nullptr;
        machine->current = nullptr;
        start_fibers(machine);
        return 1;
    }
    const size_t at_once = is_cooperative ? num_blocks : 1;
    for (size_t i = 0; i < num_blocks; i += at_once) {
        run_blocks(m, is_backward ? num_blocks - at_once - i : i, at_once);
    }
    m->launch = nullptr;
    return 0;
}
}
