// Device memory of the tests: a mapping a buffer, between pages that nothing may touch.
#pragma once

#include <cstddef>

namespace shim {

// What describes an address that a kernel may not touch.
void describe(const void* address, char* text, size_t size);

}  // namespace shim
