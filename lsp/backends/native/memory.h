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
    char* here = base ? base + used : nullptr;
    used += (count * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(here);
  }
};

// Let `carve` carve out of memory of this thread, which it keeps for the next call.
template <class Carve>
void carved(Carve carve) {
  thread_local std::vector<char> memory;
  Carver measure(nullptr);
  carve(measure);
  if (memory.size() < measure.used + 64) memory.resize(measure.used + 64);
  const auto start = reinterpret_cast<uintptr_t>(memory.data());
  Carver carver(reinterpret_cast<void*>((start + 63) / 64 * 64));
  carve(carver);
}
