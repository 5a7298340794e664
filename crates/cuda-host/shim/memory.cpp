#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>

namespace {

struct Mapping {
    unsigned char* start;  // of the pages between the guards
    size_t pages_size;
    unsigned char* data;
    size_t size;
    unsigned char poison;
    Mapping* next;
};

std::mutex lock;
Mapping* mappings = nullptr;

size_t page() { return size_t(sysconf(_SC_PAGESIZE)); }

// Bytes of the pages beside the data, which must keep their poison.
bool is_clean(const Mapping& mapping) {
    const unsigned char* end = mapping.start + mapping.pages_size;
    for (const unsigned char* at = mapping.start; at < end; at++) {
        bool is_data = at >= mapping.data && at < mapping.data + mapping.size;
        if (!is_data && *at != mapping.poison) return false;
    }
    return true;
}

}  // namespace

namespace shim {

void describe(const void* address, char* text, size_t size) {
    const unsigned char* at = static_cast<const unsigned char*>(address);
    for (Mapping* m = mappings; m; m = m->next) {
        if (at + page() < m->start || at >= m->start + m->pages_size + page()) continue;
        if (at < m->data) {
            snprintf(text, size, "%td bytes before a buffer of %zu", m->data - at, m->size);
        } else if (at >= m->data + m->size) {
            snprintf(text, size, "%td bytes behind a buffer of %zu", at - m->data - m->size, m->size);
        } else {
            snprintf(text, size, "byte %td of an input of %zu, which may not be written",
                     at - m->data, m->size);
        }
        return;
    }
    snprintf(text, size, "address %p, which is no buffer", address);
}

}  // namespace shim

extern "C" {

// A buffer filled with poison that ends (or, if not `at_end`, starts) at a guard page, aligned to 16
// bytes. Returns a handle; null if the system has no memory.
void* sconce_allocate(size_t size, bool at_end, unsigned char poison, void** data) {
    size_t pages_size = (size + page() - 1) / page() * page();
    if (pages_size == 0) pages_size = page();
    void* base = mmap(nullptr, pages_size + 2 * page(), PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return nullptr;
    unsigned char* start = static_cast<unsigned char*>(base) + page();
    if (mprotect(start, pages_size, PROT_READ | PROT_WRITE) != 0) return nullptr;
    memset(start, poison, pages_size);
    size_t offset = at_end ? (pages_size - size) / 16 * 16 : 0;
    Mapping* mapping = new Mapping{start, pages_size, start + offset, size, poison, nullptr};
    std::lock_guard<std::mutex> guard(lock);
    mapping->next = mappings;
    mappings = mapping;
    *data = mapping->data;
    return mapping;
}

void sconce_protect(void* handle) {
    Mapping* mapping = static_cast<Mapping*>(handle);
    mprotect(mapping->start, mapping->pages_size, PROT_READ);
}

// Whether nothing was written beside the buffer.
bool sconce_is_clean(void* handle) { return is_clean(*static_cast<Mapping*>(handle)); }

void sconce_free(void* handle) {
    Mapping* mapping = static_cast<Mapping*>(handle);
    std::lock_guard<std::mutex> guard(lock);
    for (Mapping** at = &mappings; *at; at = &(*at)->next) {
        if (*at == mapping) {
            *at = mapping->next;
            break;
        }
    }
    munmap(mapping->start - page(), mapping->pages_size + 2 * page());
    delete mapping;
}
}
