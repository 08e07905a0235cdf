// Memory of a block of rows: carved in order out of one stretch, so that the same lines say how
// much is needed and where everything lies.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

struct Carver {
  char* base;  // null: only measure
  size_t used = 0;

  explicit Carver(void* memory) : base(static_cast<char*>(memory)) {}

  template <class T>
  T* take(int64_t count) {
    T* here = reinterpret_cast<T*>(base + used);
    used += (count * sizeof(T) + 63) / 64 * 64;
    return base ? here : nullptr;
  }
};

// Memory of this thread for as long as it lives; what it held is gone at the next call.
inline void* scratch(size_t bytes) {
  thread_local std::vector<char> memory;
  if (memory.size() < bytes + 64) memory.resize(bytes + 64);
  const auto start = reinterpret_cast<uintptr_t>(memory.data());
  return reinterpret_cast<void*>((start + 63) / 64 * 64);
}
